//! Messages: composed messages, raw messages, and the trait for your own types.
//!
//! [`Message`] is composed of text, HTML, images, attachments and calendars, with names and subjects in any language.
//! Text may have LF or CRLF line endings. Attachments arrive unchanged.
//!
//! ```no_run
//! use postino::{Client, Message, message::Attachment};
//!
//! # let logo: Vec<u8> = vec![];
//! let message = Message::builder()
//!     .from("Jörg Müller <joerg@example.org>")
//!     .to("Bob <bob@example.net>, carol@example.com")
//!     .bcc(("Doe, Dave", "dave@example.com"))
//!     .subject("Grüße aus Köln")
//!     .text("Hello, Bob!\n")
//!     .html("<p>Hello, <b>Bob</b>! <img src=\"cid:logo\"></p>")
//!     .attach(Attachment::bytes("logo.png", logo).content_id("logo"))
//!     .attach(Attachment::path("report.pdf"))
//!     .build()?;
//! Client::builder("mail.example.org").credentials("joerg", "secret").send(&message)?;
//! # Ok::<(), postino::Error>(())
//! ```
//!
//! Files and readers are read and encoded while the message is sent, using constant memory. If one of them
//! fails, the connection is closed, so that the server does not receive a complete message. Text is sent unencoded to a
//! server that offers 8BITMIME. The `examples` folder of the repository shows how to send plain text, text with
//! HTML, a raw message, and a message with images and files (with a progress bar).
//!
//! [`MessageBuilder::report`] builds a delivery report or another machine-readable report, and
//! [`MessageBuilder::build_to_sign`] builds content to be signed with OpenPGP or S/MIME. [`Message::preview`] shows a
//! message as text.
//!
//! [`Mail::on_progress`] reports the progress of any message to a callback.
//!
//! [`Raw`] is a finished message, [`HeaderCompletion`] adds missing headers to one, and [`Mail`] is the trait for
//! your own message types. With the `lettre-0_11` and `mail-builder-2` features, the trait is also implemented for
//! `lettre::Message` and `mail_builder::MessageBuilder`. With the `dkim` feature, `Dkim` signs any message.

// A map for contributors:
//
// | subject | files |
// |---|---|
// | setters of the builder, and the order of the parts in a message | `builder.rs`, `resent.rs`, `field_set.rs` |
// | the finished message: envelope, forms for different servers | `composed.rs` |
// | one part of a message: its MIME header, calendars, attached messages, multiparts | `mime_part.rs` |
// | attachments as users give them: names, media types, content ids | `attachment.rs`, `bytes.rs` |
// | writing a header field: syntax, encoded words, folding | `header_writer.rs` |
// | reading the headers of any message: envelope, `Bcc` | `header_reader.rs` |
// | addresses with names, and lists of them | `mailbox.rs` |
// | `Date`; `Message-ID` and boundaries | `date.rs`, `unique_id.rs` |
// | choosing an encoding, base64, quoted-printable | `encoding.rs` |
// | encoding the parts while they are sent | `encoded_stream.rs` |
// | reading files, pipes and slow readers: the only I/O here | `source.rs` |
// | readers that can be read only once | `single_use.rs` |
// | content that is to be signed with OpenPGP or S/MIME | `to_sign.rs` |
// | a message as text for logs and terminals | `preview.rs` |
// | finished messages: bytes, files, readers | `raw.rs` |
// | adding missing headers to finished messages | `completion.rs` |
// | the body passed to the client, and what the client may assume about it | `body.rs` |
// | progress callbacks | `progress.rs` |
// | DKIM signatures | `dkim/` |
// | messages of email-format, lettre and mail-builder | `adapters/` |
//
// A new kind of part starts with a setter in `builder.rs` (`MessageBuilder::into_part` decides where the part belongs)
// and a constructor of `Part` in `mime_part.rs`; a new header field starts with a setter, and with `Kind` in
// `header_writer.rs` if it is not free text. None of this code depends on the network or on a client.

mod adapters;
mod attachment;
mod body;
mod builder;
mod bytes;
mod completion;
mod composed;
mod date;
#[cfg(feature = "dkim")]
pub(crate) mod dkim;
mod encoded_stream;
mod encoding;
mod field_set;
mod header_reader;
mod header_writer;
mod mailbox;
mod mime_part;
mod preview;
mod progress;
mod raw;
mod resent;
mod single_use;
pub(crate) mod source;
mod to_sign;
mod unique_id;

use std::sync::Arc;

#[cfg(feature = "dkim")]
#[cfg_attr(docsrs, doc(cfg(feature = "dkim")))]
pub use self::dkim::{Dkim, Signed};
pub use self::{
    attachment::Attachment,
    body::Body,
    builder::{Importance, MessageBuilder},
    completion::HeaderCompletion,
    composed::Message,
    date::date_time,
    header_reader::{header_length, without_bcc},
    mailbox::{Mailbox, Mailboxes},
    progress::Progress,
    raw::Raw,
    resent::Resent,
    to_sign::ContentToSign,
};
pub(crate) use self::{body::Content, progress::Meter, single_use::Claim, unique_id::unique_id};
use crate::{Envelope, Error};

/// Error text for content that can be read only once and was already read.
const READ_ALREADY: &str = "the message has content from a reader that was already read or is being read";

/// A message that can be sent: an envelope, and a body that can be opened (RFC 5322 text, headers first).
///
/// The trait is implemented for a composed [`Message`], for [`email_format::Email`] (with the envelope from its
/// headers), for [`Raw`] messages, for borrowed, boxed and shared (`Arc`) messages, and for the
/// message types of other libraries (each with its own feature). Implement it for your own message type:
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
///         Ok(format!("Subject: Alarm\r\n\r\n{}\r\n", self.0).into())
///     }
/// }
/// ```
pub trait Mail: Send + Sync {
    /// Returns the sender and the recipients.
    ///
    /// # Errors
    ///
    /// Any error; the message is then not sent.
    fn envelope(&self) -> Result<Envelope, Error>;

    /// Opens the body at its start, if possible in a form that any server accepts. This method may be called several
    /// times: signing may call it twice in a row, and sending calls it once per transaction. It must not block:
    /// return a [path](Body::path) for a file, and [defer](Body::deferred) other work that takes time.
    ///
    /// A body may be dropped without being sent. A type whose content can be read only once should keep the content
    /// in a [`Raw::reader`] and return that message's body: the reader is consumed only when its first octet is needed.
    ///
    /// # Errors
    ///
    /// Any error; the message is then not sent.
    fn body(&self) -> Result<Body<'_>, Error>;

    /// Opens the body in the form that suits the server. Defaults to [`body`](Mail::body).
    ///
    /// # Errors
    ///
    /// Any error; the message is then not sent.
    fn body_for(&self, offer: ServerSupport) -> Result<Body<'_>, Error> {
        let _ = offer;
        self.body()
    }

    /// Wraps the message so that, while it is sent, `callback` gets the number of octets sent so far and the total. See
    /// [`Progress`].
    ///
    /// The message is taken by value. To keep it, call this method on a reference: `(&message).on_progress(…)`.
    fn on_progress<F>(self, callback: F) -> Progress<Self, F>
    where
        F: FnMut(u64, Option<u64>) + Send,
        Self: Sized,
    {
        Progress::new(self, callback)
    }
}

/// The server's extensions that affect the form of a message. The default value has none. Fields may be added later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerSupport {
    /// Whether the server accepts non-ASCII octets in lines of at most 998 octets: 8BITMIME (RFC 6152).
    pub eight_bit: bool,
    /// Whether the server accepts non-ASCII addresses in header fields: SMTPUTF8 (RFC 6531) with 8BITMIME.
    pub utf8_headers: bool,
}

/// Implements `Mail` for pointers, so that a message can be sent many times without a copy.
macro_rules! mail_for_pointers {
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
mail_for_pointers!(&M, Box<M>, Arc<M>);
