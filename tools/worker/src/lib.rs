//! A mail queue in PostgreSQL, for programs that outgrow one machine: any number of workers on any number of machines
//! take mail from it, send it with [`postino`], and record what became of each recipient.
//!
//! - [`enqueue`] queues a mail in the caller's transaction. Programs in other languages call the SQL function
//!   `postino_enqueue`.
//! - [`run`] runs the workers. The program `postino-worker run` calls it.
//! - [`admin`] has the functions for a person: status, decisions about mail in doubt, retrying, pausing and purging.
//!
//! Nothing that may have been delivered is sent again automatically. A mail whose connection was lost between its last
//! octet and the server's reply, or whose worker was killed while it was being sent, is *in doubt*: a person has to
//! decide.

#![forbid(unsafe_code)]

pub mod admin;
mod backoff;
mod error;
mod job;
mod producer;
mod queue;
mod schema;
mod settle;
mod worker;

pub use self::{
    backoff::Backoff,
    error::Error,
    producer::{Enqueued, NewMail, enqueue},
    schema::{check, migrate},
    worker::{Lane, Settings, Stop, run},
};

/// Maximum size of content in the database, in octets. Larger messages must be queued as files.
pub const MAX_CONTENT: usize = 64 << 20;
/// Maximum number of recipients of a mail.
pub const MAX_RECIPIENTS: usize = 10_000;
