//! The options of `postino::proto::Transactions`, with fields that a test can read and vary.

use postino::proto::{Joining, Options as Wanted};

#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub pipelining: bool,
    pub chunking: bool,
    pub joining: Joining,
    pub all_or_nothing: bool,
    pub farewell: bool,
    pub lmtp: bool,
}

impl From<Options> for Wanted {
    fn from(options: Options) -> Wanted {
        Wanted::default()
            .pipelining(options.pipelining)
            .chunking(options.chunking)
            .joining(options.joining)
            .all_or_nothing(options.all_or_nothing)
            .farewell(options.farewell)
            .lmtp(options.lmtp)
    }
}
