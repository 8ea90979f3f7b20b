//! Stands in for `privilege` in a program without the `config` feature: there is no password of the system to protect,
//! so set-group-ID mode is refused.

use rustix::process::{getegid, geteuid, getgid, getuid};

use crate::failure::Failure;

#[derive(Clone, Copy)]
pub enum Lent {}

impl Lent {
    pub fn give_up(self) -> Result<(), Failure> {
        match self {}
    }
}

pub fn enter() -> Result<Option<Lent>, Failure> {
    if geteuid() != getuid() || getegid() != getgid() {
        let why = "the program must not be set-user-ID, and without configuration files (feature config) not set-group-ID";
        return Err(Failure::config(why));
    }
    Ok(None)
}

pub fn with<T>(_lent: Option<Lent>, work: impl FnOnce() -> T) -> Result<T, Failure> {
    Ok(work())
}

pub fn without<T>(_lent: Option<Lent>, work: impl FnOnce() -> T) -> Result<T, Failure> {
    Ok(work())
}
