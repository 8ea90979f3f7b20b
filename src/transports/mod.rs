//! Mailers without a connection: they keep messages in memory, write them to a folder, or pass them to a program.
//!
//! They are not behind features: they need no additional crates, and are not linked into programs that do not use them.
//!
//! This code may block: `blocking/mailer.rs` calls it directly, and `aio/mailer.rs` on threads that may block.

mod folder;
mod memory;
mod program;
mod stored;

pub use self::{
    folder::{FolderMailer, StoredFile},
    memory::MemoryMailer,
    program::ProgramMailer,
    stored::StoredMail,
};

use std::io;

use crate::{
    Delivery, Envelope, Error, Mail, Outcome, Reply,
    message::{Body, ServerSupport},
};

/// A message that is to be stored or passed on, with the properties of its content.
pub(crate) struct Copied {
    pub envelope: Envelope,
    pub octets: Vec<u8>,
    /// The headers need SMTPUTF8.
    pub has_utf8_headers: bool,
}

/// Returns the body of a mail in a form that any server accepts, or else in its natural form.
pub(crate) fn portable_body(mail: &dyn Mail) -> Result<Body<'_>, Error> {
    mail.body_for(ServerSupport::default()).or_else(|_| natural_body(mail))
}

/// Returns the body of a mail in the form for a server with all extensions.
pub(crate) fn natural_body(mail: &dyn Mail) -> Result<Body<'_>, Error> {
    mail.body_for(ServerSupport { eight_bit: true, utf8_headers: true })
}

/// Reads the content of a mail to its end.
pub(crate) fn copied(envelope: Envelope, body: Body<'_>) -> Result<Copied, Error> {
    let mut octets = Vec::new();
    let body = body.open().map_err(source_error)?;
    let has_utf8_headers = body.utf8;
    let read = body.into_reader().and_then(|mut reader| reader.read_to_end(&mut octets));
    read.map_err(source_error)?;
    Ok(Copied { envelope, octets, has_utf8_headers })
}

/// Converts an error from reading content. If it wraps an [`Error`] of this crate, that error is returned.
pub(crate) fn source_error(e: io::Error) -> Error {
    e.downcast().unwrap_or_else(Error::Source)
}

/// Returns the result of a message that was accepted for all of its recipients.
fn accepted(envelope: Envelope) -> Delivery {
    Delivery::new(envelope, Outcome::Accepted, Outcome::Accepted, None, Vec::new())
}

/// Returns the error for a message whose recipients all have this outcome, with its cause.
fn failed(envelope: Envelope, outcome: Outcome, reply: Option<Reply>, source: Error) -> Error {
    let delivery = Delivery::new(envelope, outcome, outcome, reply, Vec::new());
    Error::Transaction { delivery: Box::new(delivery), source: Box::new(source) }
}
