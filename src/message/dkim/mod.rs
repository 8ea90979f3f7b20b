//! DKIM signatures (RFC 6376): the signer, and signed messages.

mod canonical;
mod key;
mod reading;

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};

use self::key::Key;
#[cfg(feature = "async")]
pub(crate) use self::reading::Reading;
pub(crate) use self::reading::sign;
use super::{Body, Content, Mail};
use crate::{Envelope, Error};

/// Headers that are signed by default: those of RFC 6376 §5.4.1, those that say how to interpret the body, and those
/// for one-click unsubscribing (RFC 8058 §4).
const HEADERS: [&str; 21] = [
    "From",
    "Sender",
    "Reply-To",
    "Subject",
    "Date",
    "Message-ID",
    "To",
    "Cc",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "In-Reply-To",
    "References",
    "List-Id",
    "List-Help",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
];

/// Maximum length of a domain or selector in DNS, in octets.
const MAX_NAME: usize = 253;

/// Signs messages for a domain with DKIM (RFC 6376), using RSA or Ed25519 (RFC 8463) with SHA-256 and
/// `relaxed/relaxed`.
///
/// The private key is in PEM format. Create one with `openssl genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:2048`
/// or `openssl genpkey -algorithm ed25519`. Publish the public key in DNS, as a TXT record at
/// `SELECTOR._domainkey.DOMAIN`: `v=DKIM1; k=rsa; p=`, followed by the output of `openssl pkey -in dkim.pem -pubout
/// -outform DER | base64 -w0`. For Ed25519, use `k=ed25519`, and insert `tail -c 32 |` before `base64`, because only
/// the last 32 octets are the key.
///
/// ```no_run
/// use postino::{Message, message::Dkim};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dkim = Dkim::new("example.org", "2026", &std::fs::read_to_string("dkim.pem")?)?;
/// let message = Message::builder().from("alice@example.org").to("bob@example.net").text("Hello!\n").build()?;
/// postino::send("smtp://mail.example.org", &dkim.sign(&message))?;
/// # Ok(())
/// # }
/// ```
///
/// The whole body is signed (without `l=`) in the form that the receiver gets, with CRLF line endings. Many domains
/// sign twice, because not all receivers support Ed25519: `rsa.sign(&ed25519.sign(&message))`. Neither signature covers
/// the other.
///
/// Relays re-encode 8-bit content for servers without 8BITMIME, which breaks the signature. A composed
/// [`Message`](super::Message) is therefore signed in its ASCII form. A [`Raw`](super::Raw) message is signed as is.
#[derive(Clone)]
pub struct Dkim {
    domain: Arc<str>,
    selector: Arc<str>,
    key: Arc<Key>,
    headers: Arc<[Header]>,
    timestamp: bool,
    expires_after: Option<Duration>,
}

/// A header name that is signed.
#[derive(Debug, Clone)]
struct Header {
    name: String,
    /// Signed once more than it occurs, so that nobody can add another one (RFC 6376 §8.15).
    oversigned: bool,
}

impl Dkim {
    /// Creates a signer for a domain, with the private key for this selector. The key is in PEM format: PKCS#8
    /// (`PRIVATE KEY`) or, for RSA, also PKCS#1 (`RSA PRIVATE KEY`). RSA keys must have 2048 to 4096 bits.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the domain or the selector is not an ASCII name (write international domains as `xn--…`),
    /// or if the key cannot be used. The error text never shows the key.
    pub fn new(domain: &str, selector: &str, key: &str) -> Result<Dkim, Error> {
        for (what, name) in [("domain", domain), ("selector", selector)] {
            if !is_dns_name(name) {
                return Err(Error::Config(format!("invalid DKIM {what} {name:?}").into()));
            }
        }
        let headers = HEADERS.map(|name| Header { name: name.to_owned(), oversigned: name == "From" });
        Ok(Dkim {
            domain: domain.into(),
            selector: selector.into(),
            key: Arc::new(Key::from_pem(key)?),
            headers: headers.into(),
            timestamp: true,
            expires_after: None,
        })
    }

    /// Sets the headers to sign. All occurrences of each header are signed. `From` and the headers that were passed to
    /// [`oversign`](Dkim::oversign) are always signed. Defaults to `From`, `Sender`, `Reply-To`, `Subject`, `Date`,
    /// `Message-ID`, `To`, `Cc`, `MIME-Version`, `Content-Type`, `Content-Transfer-Encoding`, `In-Reply-To`,
    /// `References`, and the `List-` headers of RFCs 2369, 2919 and 8058.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if a name is not a valid header name, or is `DKIM-Signature`.
    pub fn headers<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Result<Dkim, Error> {
        let mut headers: Vec<_> = self.headers.iter().filter(|header| header.oversigned).cloned().collect();
        for name in names {
            add(&mut headers, name.as_ref(), false)?;
        }
        self.headers = headers.into();
        Ok(self)
    }

    /// Adds headers to oversign, so that adding another header with the same name breaks the signature (RFC 6376
    /// §8.15). `From` is always oversigned. By default, no other header is.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if a name is not a valid header name, or is `DKIM-Signature`.
    pub fn oversign<N: AsRef<str>>(mut self, names: impl IntoIterator<Item = N>) -> Result<Dkim, Error> {
        let mut headers = self.headers.to_vec();
        for name in names {
            add(&mut headers, name.as_ref(), true)?;
        }
        self.headers = headers.into();
        Ok(self)
    }

    /// Sets whether the signature includes the time of signing (`t=`). Defaults to true.
    #[must_use]
    pub fn timestamp(mut self, enabled: bool) -> Dkim {
        self.timestamp = enabled;
        self
    }

    /// Sets how long the signature is valid (`x=`), rounded down to whole seconds (at least one). Defaults to no limit.
    #[must_use]
    pub fn expires_after(mut self, time: Duration) -> Dkim {
        self.expires_after = Some(time);
        self
    }

    /// Wraps a message, owned or borrowed, so that it is signed each time it is sent.
    ///
    /// For example, sign each message of a newsletter as it is sent:
    ///
    /// ```no_run
    /// # use postino::{Client, Error, Message, message::Dkim};
    /// # fn message(subscriber: &str) -> Message {
    /// #     Message::builder().from("a@example.org").to_one(subscriber).build().unwrap()
    /// # }
    /// # fn send(mut client: Client, dkim: &Dkim, subscribers: &[String]) {
    /// for (number, result) in client.send_all(subscribers.iter().map(|s| dkim.sign(message(s)))) {
    ///     println!("{number}: {}", result.map_or_else(|e| e.to_string(), |delivery| delivery.to_string()));
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn sign<M: Mail>(&self, mail: M) -> Signed<M> {
        Signed { mail, dkim: self.clone() }
    }
}

impl fmt::Debug for Dkim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dkim")
            .field("domain", &self.domain)
            .field("selector", &self.selector)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// A message that is [signed](Dkim::sign) when it is sent. Implements [`Mail`] with the original envelope.
///
/// The message is read twice, because the signature precedes the content. The first reading takes place before any
/// part of the message is sent. It fails if the message has no `From`, has an invalid header line, or has more than
/// 1 MiB of headers. A body that does not consist of bytes is [opened](Mail::body) twice, and must have the same
/// content both times; otherwise, the signature is invalid. A message whose content can be read only once, such as one
/// with an attachment from a reader, cannot be signed. Sending it signed fails, but it can still be sent unsigned. The
/// content of files and readers is never held in memory as a whole; a body that consists of bytes is copied.
///
/// The first reading as a whole is limited by [`block_timeout`](crate::Builder::block_timeout) (60 seconds by default).
/// Reading is about as fast as SHA-256: a gigabyte takes a few seconds of CPU time. The blocking client reads on the
/// caller's thread, and the async client on the threads that read files. Meanwhile, the connection is idle.
pub struct Signed<M> {
    mail: M,
    dkim: Dkim,
}

impl<M: Mail> Mail for Signed<M> {
    fn envelope(&self) -> Result<Envelope, Error> {
        self.mail.envelope()
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        let mut body = self.mail.body()?;
        if let Some(unsigned) = &mut body.unsigned {
            unsigned.signers.push(self.dkim.clone());
            return Ok(body);
        }
        if body.is_read_once() {
            return Err(Error::Message(READ_ONCE.into()));
        }
        let again = match &body.content {
            Content::Bytes(_) => None,
            Content::Unopened(_) | Content::Reader(_) => Some(self.mail.body().map_err(read_once)?.content),
        };
        body.binary = false; // it is signed line by line
        body.unsigned = Some(Box::new(Unsigned { signers: vec![self.dkim.clone()], again }));
        Ok(body)
    }
}

impl<M> fmt::Debug for Signed<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").field("dkim", &self.dkim).finish_non_exhaustive()
    }
}

/// The signing to be done before a body can be sent.
pub(crate) struct Unsigned<'m> {
    pub signers: Vec<Dkim>,
    /// The content to send, if the first reading consumes the body's own content, that is, unless it consists of bytes.
    pub again: Option<Content<'m>>,
}

const READ_ONCE: &str = "cannot sign the message: it must be read twice, but its content comes from a reader";

/// Converts the error for a body that can be opened only once.
fn read_once(error: Error) -> Error {
    match error {
        Error::Message(why) => {
            Error::Message(format!("cannot sign the message, which must be read twice: {why}").into())
        }
        error => error,
    }
}

/// Adds a name, or marks it as oversigned.
fn add(headers: &mut Vec<Header>, name: &str, oversigned: bool) -> Result<(), Error> {
    let is_name =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && !b":;".contains(&byte));
    // RFC 6376 §3.5: a signature cannot sign itself.
    if !is_name || name.eq_ignore_ascii_case("DKIM-Signature") {
        return Err(Error::Config(format!("DKIM cannot sign a header named {name:?}").into()));
    }
    match headers.iter_mut().find(|header| header.name.eq_ignore_ascii_case(name)) {
        Some(header) => header.oversigned |= oversigned,
        None => headers.push(Header { name: name.to_owned(), oversigned }),
    }
    Ok(())
}

fn is_dns_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    name.len() <= MAX_NAME && name.split('.').all(|label| !label.is_empty() && label.bytes().all(is_letter))
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests;
