//! Stands in for `queue` in a program without the `spool` feature. Whatever needs the spool is an error.

use std::convert::Infallible;

use crate::{
    accounts::{Account, Trouble},
    config::Config,
    failure::{CONFIG, Failure},
    message::{Local, Message},
    options::Options,
    report::Report,
    submit::{Sender, Submitter},
};

/// The spool, which does not exist.
pub struct Queue(Infallible);

impl Queue {
    /// Fails if the configuration or the option `--queue` asks for a spool.
    pub fn open(config: &Config) -> Result<Option<Queue>, Failure> {
        if config.spool.folder.is_some() { Err(missing()) } else { Ok(None) }
    }

    pub fn summary(&self) -> Result<String, Failure> {
        match self.0 {}
    }

    pub fn submit(
        self,
        _options: &Options,
        _account: &Account,
        _message: &Message<'_>,
        _sender: Sender<'_>,
    ) -> Result<Report, Trouble> {
        match self.0 {}
    }
}

pub fn run(_submitter: &mut Submitter, _options: &Options, _local: &Local) -> Result<u8, Failure> {
    Err(missing())
}

pub fn list(_submitter: &mut Submitter) -> Result<u8, Failure> {
    Err(missing())
}

pub fn change(_submitter: &mut Submitter, _options: &Options) -> Result<u8, Failure> {
    Err(missing())
}

fn missing() -> Failure {
    Failure::new(CONFIG, "this program was built without a spool (feature spool)")
}
