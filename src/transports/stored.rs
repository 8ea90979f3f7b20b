//! A message that was stored instead of being sent.

use std::{fmt, sync::Arc};

use super::Copied;
use crate::{
    Envelope, Error, Mail,
    message::{Body, header_length},
};

/// A message that a [`MemoryMailer`](super::MemoryMailer) has kept. Another mailer can send it. Clones share the
/// content.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredMail {
    envelope: Envelope,
    octets: Arc<[u8]>,
    has_utf8_headers: bool,
}

impl StoredMail {
    pub(super) fn new(mail: Copied) -> StoredMail {
        let Copied { envelope, octets, has_utf8_headers } = mail;
        StoredMail { envelope, octets: octets.into(), has_utf8_headers }
    }

    /// Returns the envelope, with only the recipients that were accepted.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Returns the message in the form that a server with 8BITMIME and SMTPUTF8 gets. Line endings are not converted.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.octets
    }

    /// Returns the message as text. Header fields and parts are not decoded. Octets that are not UTF-8
    /// become `U+FFFD`.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.octets).into_owned()
    }
}

impl Mail for StoredMail {
    fn envelope(&self) -> Result<Envelope, Error> {
        Ok(self.envelope.clone())
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        let body = Body::from(&self.octets[..]);
        Ok(if self.has_utf8_headers { body.utf8_headers() } else { body })
    }
}

/// Shows the envelope and the header, so that a failed assertion is readable.
impl fmt::Debug for StoredMail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = &self.octets[..header_length(&self.octets).unwrap_or(self.octets.len())];
        f.debug_struct("StoredMail")
            .field("envelope", &self.envelope)
            .field("header", &String::from_utf8_lossy(header))
            .field("octets", &self.octets.len())
            .finish_non_exhaustive()
    }
}
