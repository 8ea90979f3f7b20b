//! A mail queue in PostgreSQL, for programs that outgrow one machine: any number of workers on any number of machines take
//! mail from it, send it with [`postino`], and write what became of each recipient.
//!
//! - [`enqueue`] queues a mail in the caller's transaction. Programs in other languages call the SQL function
//!   `postino_enqueue`.
//! - [`run`] is the worker, which the program `postino-worker run` starts.
//! - [`admin`] is what a person does: look at the numbers, decide what is in doubt, retry, purge.
//!
//! Nothing that may have been delivered is sent again automatically. A mail whose connection was lost between its last octet
//! and the server's reply, or whose worker was killed while it was being sent, is *in doubt*, and waits for a person.

#![forbid(unsafe_code)]

pub mod admin;
mod backoff;
mod error;
mod job;
mod options;
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

/// Maximum size of content in the database, in octets. Larger messages are files.
pub const MAX_CONTENT: usize = 64 << 20;
/// Maximum number of recipients of a mail.
pub const MAX_RECIPIENTS: usize = 10_000;
