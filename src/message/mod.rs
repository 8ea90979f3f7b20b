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
//! Files and readers are read and encoded while they are sent, in constant memory. If one fails, the connection is
//! closed and the server has no whole message.
//!
//! [`Raw`] sends what is there already; [`Mail`] is for message types of one's own.

mod attachment;
mod compose;
mod email;
mod encoding;
mod entity;
mod field;
mod headers;
mod mailbox;
mod raw;
mod stamp;
mod stream;

use std::{
    borrow::Cow,
    fmt,
    fs::{self, File},
    io::{self, Cursor, Read, Seek},
    path::{Path, PathBuf},
    sync::Arc,
};

pub use self::{
    attachment::{Attachment, Bytes},
    compose::{Message, MessageBuilder, Resent},
    headers::{header_length, recipients_from_headers, sender_from_headers, without_bcc},
    mailbox::{Mailbox, Mailboxes},
    raw::Raw,
};
use crate::{Envelope, Error};

/// What can be sent: an envelope, and a body that can be opened (RFC 5322 text, headers first).
///
/// Implemented for a composed [`Message`], for [`email_format::Email`] (the envelope comes from its headers) and for
/// [`Raw`] bytes, files and readers; also for what is borrowed, boxed or shared (`Arc`). Implement it for a message type of your own:
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

    /// Opens the body, from its start. It may be called again. It must not wait for anything: a file is best given as
    /// a [path](Body::path).
    ///
    /// # Errors
    ///
    /// Whatever keeps the body from being read; nothing is sent then.
    fn body(&self) -> Result<Body<'_>, Error>;
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
        }
    )*};
}
mail_behind!(&M, Box<M>, Arc<M>);

/// A body that was opened: bytes at hand, or something to read them from.
///
/// Line ends may be CRLF, LF or CR: they go out as CRLF. Dots need no care.
pub struct Body<'m> {
    pub(crate) content: Content<'m>,
    pub(crate) size: Option<u64>,
    /// All of it is ASCII, without NUL, in lines that any server takes.
    pub(crate) seven_bit: bool,
    /// It may go as it is, if the server takes that.
    pub(crate) binary: bool,
}

pub(crate) enum Content<'m> {
    Bytes(Cow<'m, [u8]>),
    /// To be opened by who may wait for it.
    Path(PathBuf),
    Reader(Box<dyn Read + Send>),
}

impl<'m> From<&'m [u8]> for Body<'m> {
    fn from(bytes: &'m [u8]) -> Body<'m> {
        Body::bytes(bytes)
    }
}

impl<'m, const N: usize> From<&'m [u8; N]> for Body<'m> {
    fn from(bytes: &'m [u8; N]) -> Body<'m> {
        Body::bytes(bytes.as_slice())
    }
}

impl<'m> From<&'m str> for Body<'m> {
    fn from(text: &'m str) -> Body<'m> {
        Body::bytes(text.as_bytes())
    }
}

impl From<Vec<u8>> for Body<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Body::bytes(bytes)
    }
}

impl From<String> for Body<'_> {
    fn from(text: String) -> Self {
        Body::bytes(text.into_bytes())
    }
}

impl<'m> Body<'m> {
    /// Bytes, borrowed or owned. They are looked through before anything is sent: what the server cannot take is
    /// refused then.
    pub fn bytes(bytes: impl Into<Cow<'m, [u8]>>) -> Body<'m> {
        Body { content: Content::Bytes(bytes.into()), size: None, seven_bit: false, binary: false }
    }

    /// A file, opened when it is sent. Its length is what the server is told as the size.
    pub fn path(path: impl Into<PathBuf>) -> Body<'m> {
        Body { content: Content::Path(path.into()), size: None, seven_bit: false, binary: false }
    }

    /// A file, from where it stands. What is left of it is what the server is told as the size.
    pub fn file(mut file: File) -> Body<'m> {
        let size = size_of_rest(&mut file);
        Body { content: Content::Reader(Box::new(file)), size, seven_bit: false, binary: false }
    }

    /// Anything that can be read, up to its end. It is read while it is sent, a block at a time: an octet that may
    /// not go out is found only then, and ends the connection.
    ///
    /// A read that takes longer than a block may take to leave is a timeout. In the blocking world nothing can
    /// interrupt a read: there it is noticed when the read returns.
    pub fn reader(reader: impl Read + Send + 'static) -> Body<'m> {
        Body { content: Content::Reader(Box::new(reader)), size: None, seven_bit: false, binary: false }
    }

    /// The server need not be told of 8-bit content.
    pub(crate) fn seven_bit(mut self) -> Body<'m> {
        self.seven_bit = true;
        self
    }

    /// It goes as it is to a server that offers BINARYMIME (RFC 3030 §3), if chunking is switched on: line ends and NULs
    /// included. Its parts say so then (`Content-Transfer-Encoding: binary`). To others it goes as any other does: what
    /// they cannot take is refused.
    #[must_use]
    pub fn binary(mut self) -> Body<'m> {
        self.binary = true;
        self
    }

    /// What must not be opened again to be read.
    pub(crate) fn into_once(self) -> Option<Content<'static>> {
        match self.content {
            Content::Bytes(_) => None,
            Content::Path(path) => Some(Content::Path(path)),
            Content::Reader(reader) => Some(Content::Reader(reader)),
        }
    }

    /// What it holds, to be read from here on: for a [`Mail`] around another one.
    ///
    /// # Errors
    ///
    /// What the system says if it is a path, and cannot be opened.
    pub fn into_reader(self) -> io::Result<Box<dyn Read + Send + 'm>> {
        Ok(match self.content {
            Content::Bytes(bytes) => Box::new(Cursor::new(bytes)),
            Content::Path(path) => Box::new(open_file(&path)?),
            Content::Reader(reader) => reader,
        })
    }

    /// How many octets there are, or are at least: line ends that become CRLF may add to them. The server is told, and
    /// a message that is larger than it takes is not offered (RFC 1870). Bytes need no telling.
    #[must_use]
    pub fn with_size(mut self, octets: u64) -> Body<'m> {
        self.size = Some(octets);
        self
    }

    /// The same with a path opened, which may take its time.
    pub(crate) fn open(self) -> io::Result<Body<'m>> {
        match self.content {
            Content::Path(path) => {
                let body = Body::file(open_file(&path)?);
                Ok(Body { size: self.size.or(body.size), ..body })
            }
            _ => Ok(self),
        }
    }
}

/// Opens a file; an error names it.
fn open_file(path: &Path) -> io::Result<File> {
    File::open(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// What is left of a regular file; nothing is known of others, and of those that claim to be empty (`/proc`).
fn size_of_rest(file: &mut File) -> Option<u64> {
    let meta = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let at = file.stream_position().ok()?;
    Some(meta.len().saturating_sub(at)).filter(|size| *size > 0)
}

impl fmt::Debug for Body<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.content {
            Content::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Content::Path(path) => path.display().to_string(),
            Content::Reader(_) => "a reader".to_owned(),
        };
        f.debug_struct("Body").field("content", &kind).field("size", &self.size).finish()
    }
}
