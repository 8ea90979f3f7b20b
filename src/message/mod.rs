//! What can be sent: an envelope, and a body that can be opened.
//!
//! [`Message`] composes one: names and subjects in any language, text, HTML, images, attachments, calendars. What is
//! given as text may have LF or CRLF at its line ends; what is attached arrives octet by octet.
//!
//! ```no_run
//! use postino::{Client, Message, message::Attachment};
//!
//! # let logo = vec![];
//! let message = Message::builder()
//!     .from("Jörg Müller <joerg@example.org>")
//!     .to("Bob <bob@example.net>, carol@example.com")
//!     .bcc(("Doe, Dave", "dave@example.com"))
//!     .subject("Grüße aus Köln")
//!     .text("Hello, Bob!\n")
//!     .html("<p>Hello, <b>Bob</b>! <img src=\"cid:logo\"></p>")
//!     .inline("logo", "image/png", logo)
//!     .attach(Attachment::path("report.pdf"))
//!     .build()?;
//! Client::builder("mail.example.org").credentials("joerg", "secret").send(&message)?;
//! # Ok::<(), postino::Error>(())
//! ```
//!
//! Files and readers are opened, read and encoded while they are sent, in constant memory. If one fails on its way, the
//! connection is closed and the server has no whole message. Text goes out as it is to a server that offers 8BITMIME, and
//! encoded to others; all else is encoded. The repository's `examples` have a plain message, one in text and HTML, a raw one,
//! and one with images, files and a progress bar.
//!
//! Any of them tells how far its sending is to a callback: [`Mail::on_progress`].
//!
//! [`Raw`] sends what is there already; [`Mail`] is for message types of one's own. With the features `lettre-0_11`
//! and `mail-builder-2` it is implemented for `lettre::Message` and `mail_builder::MessageBuilder`; with `dkim`, `Dkim`
//! signs any of them.

mod attachment;
mod body;
mod compose;
#[cfg(feature = "dkim")]
pub(crate) mod dkim;
mod email;
mod encoding;
mod entity;
mod field;
pub(crate) mod file;
mod headers;
#[cfg(feature = "lettre-0_11")]
mod lettre;
#[cfg(feature = "mail-builder-2")]
mod mail_builder;
mod mailbox;
mod once;
mod progress;
mod raw;
mod stamp;
mod stream;

use std::sync::Arc;

#[cfg(feature = "dkim")]
#[cfg_attr(docsrs, doc(cfg(feature = "dkim")))]
pub use self::dkim::{Dkim, Signed};
pub use self::{
    attachment::{Attachment, Bytes},
    body::Body,
    compose::{Message, MessageBuilder, Resent},
    headers::{header_length, recipients_from_headers, sender_from_headers, without_bcc},
    mailbox::{Mailbox, Mailboxes},
    progress::Progress,
    raw::Raw,
};
pub(crate) use self::{body::Content, once::Claim, progress::Meter};
use crate::{Envelope, Error};

/// Why a source that can be read once cannot be read now.
const READ_ALREADY: &str =
    "it has content from a reader, which can be read only once: it was read already, or is being sent";

/// What can be sent: an envelope, and a body that can be opened (RFC 5322 text, headers first).
///
/// Implemented for a composed [`Message`], for [`email_format::Email`] (the envelope comes from its headers), for
/// [`Raw`] bytes, files and readers, for what is borrowed, boxed or shared (`Arc`), and, each with its feature, for what
/// other libraries build. Implement it for a message type of your own:
///
/// ```
/// use postino::{Envelope, Error, message::{Body, Mail}};
///
/// struct Alarm(String);
///
/// impl Mail for Alarm {
///     fn envelope(&self) -> Result<Envelope, Error> {
///         Envelope::new("alarm@example.org", ["ops@example.org"])
///     }
///     fn body(&self) -> Result<Body<'_>, Error> {
///         Ok(Body::bytes(format!("Subject: Alarm\r\n\r\n{}\r\n", self.0).into_bytes()))
///     }
/// }
/// ```
pub trait Mail: Send + Sync {
    /// Who it is from and for.
    ///
    /// # Errors
    ///
    /// Whatever keeps the envelope from being known; nothing is sent then.
    fn envelope(&self) -> Result<Envelope, Error>;

    /// Opens the body, from its start, in a form that any server takes, if it has one. It may be called again, and is
    /// called twice in a row to be signed, or where the server wants the message in parts. It must not wait for anything: a
    /// file is best given as a [path](Body::path), and what else takes its time is [deferred](Body::deferred).
    ///
    /// A body may be dropped without being sent. A type whose content can be read only once should keep it in a
    /// [`Raw::reader`] and return the body of that: the reader is taken when its first octet is needed, and not before.
    ///
    /// # Errors
    ///
    /// Whatever keeps the body from being read; nothing is sent then.
    fn body(&self) -> Result<Body<'_>, Error>;

    /// The same for a server that takes more, in the form that suits it. Defaults to [`body`](Mail::body).
    ///
    /// # Errors
    ///
    /// As those of [`body`](Mail::body).
    fn body_for(&self, offer: ServerSupport) -> Result<Body<'_>, Error> {
        let _ = offer;
        self.body()
    }

    /// Wraps the mail so that `callback` is called while it is sent, with the octets sent and the total. See [`Progress`].
    ///
    /// It takes the mail by value. To keep it, borrow it: `(&message).on_progress(…)`.
    fn on_progress<F>(self, callback: F) -> Progress<Self, F>
    where
        F: FnMut(u64, Option<u64>) + Send,
        Self: Sized,
    {
        Progress::new(self, callback)
    }
}

/// What a server takes that not all take. More may come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerSupport {
    /// Octets beyond ASCII in lines of at most 998 octets: 8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// Addresses beyond ASCII in header fields: SMTPUTF8 (RFC 6531) with 8BITMIME.
    pub utf8_headers: bool,
}

impl ServerSupport {
    /// What any server takes.
    #[must_use]
    pub fn new() -> ServerSupport {
        ServerSupport::default()
    }
}

/// Borrowed and shared messages are messages, too: one can go out many times without being copied.
macro_rules! mail_behind {
    ($($pointer:ty),*) => {$(
        impl<M: Mail + ?Sized> Mail for $pointer {
            fn envelope(&self) -> Result<Envelope, Error> {
                (**self).envelope()
            }

            fn body(&self) -> Result<Body<'_>, Error> {
                (**self).body()
            }

            fn body_for(&self, offer: ServerSupport) -> Result<Body<'_>, Error> {
                (**self).body_for(offer)
            }
        }
    )*};
}
mail_behind!(&M, Box<M>, Arc<M>);
