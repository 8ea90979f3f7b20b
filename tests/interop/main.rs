//! Tests against real servers: what is sent arrives, byte for byte. See `README.md` in this folder.
//!
//! `tests/interop/servers up` starts the servers. Servers that are not running are skipped with a note on stderr; if
//! `POSTINO_INTEROP_REQUIRED` names them, the test fails instead. `POSTINO_INTEROP_RESULTS` names a file for the
//! results.
#![cfg(all(any(feature = "native-tls", feature = "rustls"), feature = "async"))]

#[path = "../support/journal.rs"]
mod journal;

mod awkward;
mod conversation;
mod deviations;
mod results;
mod servers;

#[path = "."]
mod blocking {
    use ::maybe_async::must_be_sync as maybe_async;
    use postino::{Builder, Client};

    const CLIENT: &str = "blocking";

    fn block_on<T>(value: T) -> T {
        value
    }

    #[path = "batches.rs"]
    mod batches;

    #[path = "cases.rs"]
    mod cases;

    #[path = "corpus.rs"]
    mod corpus;

    #[path = "logins.rs"]
    mod logins;

    #[path = "messages.rs"]
    mod messages;

    #[path = "parameters.rs"]
    mod parameters;

    #[path = "trust.rs"]
    mod trust;
}

#[path = "."]
mod aio {
    use ::maybe_async::must_be_async as maybe_async;
    use postino::aio::{Builder, Client};
    use smol::block_on;

    const CLIENT: &str = "async";

    #[path = "batches.rs"]
    #[allow(clippy::duplicate_mod)] // the same source, compiled for both clients
    mod batches;

    #[path = "cases.rs"]
    #[allow(clippy::duplicate_mod)]
    mod cases;

    #[path = "corpus.rs"]
    #[allow(clippy::duplicate_mod)]
    mod corpus;

    #[path = "logins.rs"]
    #[allow(clippy::duplicate_mod)]
    mod logins;

    #[path = "messages.rs"]
    #[allow(clippy::duplicate_mod)]
    mod messages;

    #[path = "parameters.rs"]
    #[allow(clippy::duplicate_mod)]
    mod parameters;

    #[path = "trust.rs"]
    #[allow(clippy::duplicate_mod)]
    mod trust;
}
