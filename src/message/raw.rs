//! Finished messages: bytes, files or readers, each with its envelope.

use std::{fmt, io::Read, path::PathBuf};

use super::{Body, Mail, READ_ALREADY, bytes::Bytes, single_use::SingleUse};
use crate::{Envelope, Error};

/// A finished message with an explicit envelope. Its headers are neither read nor changed: even `Bcc` is sent.
///
/// ```
/// use postino::{Envelope, Raw};
///
/// let envelope = Envelope::new("alice@example.org", ["bob@example.org"])?;
/// let mail = Raw::bytes(envelope, b"Subject: Hi\n\nHello, Bob!\n");
/// # let _ = mail;
/// # Ok::<(), postino::Error>(())
/// ```
pub struct Raw<'m> {
    envelope: Envelope,
    content: Content<'m>,
}

enum Content<'m> {
    Bytes(Bytes<'m>),
    Path(PathBuf),
    Reader(SingleUse),
}

impl<'m> Raw<'m> {
    /// Creates a message from bytes or text, borrowed or owned.
    pub fn bytes(envelope: Envelope, bytes: impl AsRef<[u8]> + Send + Sync + 'm) -> Raw<'m> {
        Raw { envelope, content: Content::Bytes(Bytes::new(bytes)) }
    }

    /// Creates a message from a file, which is opened each time the message is sent, and read using constant memory.
    pub fn path(envelope: Envelope, path: impl Into<PathBuf>) -> Raw<'m> {
        Raw { envelope, content: Content::Path(path.into()) }
    }

    /// Creates a message from a reader, which is read while the message is sent, and only once. See [`Body::reader`].
    ///
    /// The reader is consumed once the server has accepted the sender and a recipient and is ready for the content.
    /// Until then, the same message can be sent again after a refusal, a lost connection or a dropped future. Sending
    /// it after that, or twice at the same time, fails with [`Error::Message`]. So does [signing](super::Mail::body) it
    /// or sending it to more recipients or domains than the server accepts for one message (LIMITS, RFC 9422): both
    /// would require reading the content twice.
    pub fn reader(envelope: Envelope, reader: impl Read + Send + 'static) -> Raw<'m> {
        Raw { envelope, content: Content::Reader(SingleUse::new(reader)) }
    }
}

impl Mail for Raw<'_> {
    fn envelope(&self) -> Result<Envelope, Error> {
        Ok(self.envelope.clone())
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        match &self.content {
            Content::Bytes(bytes) => Ok(Body::from(&**bytes)),
            Content::Path(path) => Ok(Body::path(path)),
            Content::Reader(source) => match source.claim() {
                Some((claim, reader)) => Ok(Body::reader(reader).claiming(vec![claim])),
                None => Err(Error::Message(READ_ALREADY.into())),
            },
        }
    }
}

impl fmt::Debug for Raw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.content {
            Content::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Content::Path(path) => path.display().to_string(),
            Content::Reader(_) => "a reader".to_owned(),
        };
        f.debug_struct("Raw").field("envelope", &self.envelope).field("content", &kind).finish()
    }
}
