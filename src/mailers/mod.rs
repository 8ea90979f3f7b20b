//! Mailers that wrap other mailers. Like `client/`, they are written once and compiled twice: by `blocking/` with
//! `async` stripped, and by `aio/` unchanged. The parent provides `maybe_async`, `mailer::Mailer` (the trait), and
//! `bell::Bell`.

use super::{bell, mailer, maybe_async};

mod failover;
mod retrying;

pub use self::{failover::Failover, retrying::Retrying};
