//! The first reading of a message, at the end of which the signatures are made.

use std::{
    io::{self, Cursor, Read},
    time::{SystemTime, UNIX_EPOCH},
};

use memchr::memchr;
use ring::digest::Digest;

use super::{
    Dkim, base64,
    canonical::{BodyHash, Lines, Token, relax_field},
};
use crate::{
    Error,
    message::{Body, Content, header_reader, source::read_once},
};

/// Maximum size of the headers of a message, in octets. They are held in memory.
const MAX_HEADERS: usize = 1024 * 1024;
/// Length at which lines of the signature are folded, in octets (RFC 5322 §2.1.1).
const FOLD: usize = 78;
const TOO_LONG: &str = "cannot sign the message: more than 1 MiB of headers";
const NO_FROM: &str = "cannot sign the message: no From";
/// Maximum time in `x=`, in seconds since 1970.
const MAX_TIME: u64 = 999_999_999_999;
/// Maximum length of the part of an invalid header line that is shown in an error, in octets.
const MAX_SHOWN: usize = 60;

/// Size of a read, in octets.
const BLOCK: usize = 64 * 1024;

/// Adds the signatures to a body that has to be signed, after reading all of it. `in_time` is called before and after
/// each step that may take time, and fails once the caller's limit has passed.
///
/// The async client does the same, with each step on another thread.
pub(crate) fn sign(mut body: Body<'_>, mut in_time: impl FnMut() -> io::Result<()>) -> io::Result<Body<'_>> {
    let Some(unsigned) = body.unsigned.take() else { return Ok(body) };
    let mut body = body.open()?;
    in_time()?;
    // Content that can be opened only once fails here, rather than after everything has been read.
    let again = match unsigned.again {
        Some(again) => Some(Body::new(again).open()?.take_content()),
        None => None,
    };
    let mut content = body.take_content();
    let mut reading = Reading::new(unsigned.signers);
    match &mut content {
        Content::Bytes(bytes) => {
            for piece in bytes.chunks(BLOCK) {
                in_time()?;
                reading.push(piece)?;
            }
        }
        Content::Reader(reader) => {
            let mut block = vec![0; BLOCK];
            loop {
                in_time()?;
                let read = read_once(reader, &mut block)?;
                in_time()?;
                match read {
                    Some(0) => break,
                    Some(n) => reading.push(&block[..n])?,
                    None => {}
                }
            }
        }
        Content::Unopened(_) => {
            return Err(io::Error::other(Error::Internal("content was not opened before it was signed")));
        }
    }
    body.content = again.unwrap_or(content);
    Ok(reading.end()?.before(body))
}

/// The first reading of a message. Its headers are collected, and its body is hashed.
pub(crate) struct Reading {
    signers: Vec<Dkim>,
    lines: Lines,
    parts: Parts,
}

struct Parts {
    /// Header fields, with CRLF at their line endings.
    headers: Vec<u8>,
    /// Position at which the last line of the headers begins.
    line: usize,
    in_body: bool,
    body: BodyHash,
    octets: u64,
}

impl Reading {
    pub fn new(signers: Vec<Dkim>) -> Reading {
        let parts = Parts { headers: Vec::new(), line: 0, in_body: false, body: BodyHash::new(), octets: 0 };
        Reading { signers, lines: Lines::default(), parts }
    }

    /// Adds a piece of the message. This takes time, because the piece is hashed.
    ///
    /// # Errors
    ///
    /// The headers are too long.
    pub fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        self.lines.push(piece, |token| self.parts.take(token));
        if self.parts.headers.len() > MAX_HEADERS {
            Err(io::Error::other(Error::Message(TOO_LONG.into())))
        } else {
            Ok(())
        }
    }

    /// Creates the signatures.
    ///
    /// # Errors
    ///
    /// There is no `From`, or a header line is invalid.
    pub fn end(mut self) -> io::Result<Signatures> {
        self.lines.end(|token| self.parts.take(token));
        self.sign().map_err(io::Error::other)
    }

    fn sign(self) -> Result<Signatures, Error> {
        let Parts { headers, body, octets, .. } = self.parts;
        let fields = header_reader::fields(&headers).map(Field::read).collect::<Result<Vec<_>, Error>>()?;
        if !fields.iter().any(|field| field.is("From")) {
            return Err(Error::Message(NO_FROM.into()));
        }
        let body_hash = body.end();
        let mut signatures = Vec::new();
        // The signature that was made last is placed first.
        for signer in self.signers.iter().rev() {
            signatures.append(&mut signer.signature(&fields, &body_hash, now())?);
        }
        Ok(Signatures { fields: signatures, octets })
    }
}

/// Signature fields, and the length of the signed message on the wire.
pub(crate) struct Signatures {
    fields: Vec<u8>,
    octets: u64,
}

impl Signatures {
    /// Puts the signatures before the message, which has been opened.
    pub fn before(self, body: Body<'_>) -> Body<'_> {
        let size = self.octets.saturating_add(self.fields.len() as u64);
        let (content, size) = match body.content {
            Content::Bytes(bytes) => (Content::Bytes([&self.fields[..], &bytes].concat().into()), None),
            Content::Reader(reader) => {
                (Content::Reader(Box::new(Cursor::new(self.fields).chain(reader))), Some(size))
            }
            unopened @ Content::Unopened(_) => (unopened, body.size), // cannot happen: the body is open
        };
        Body { content, size, ..body }
    }
}

impl Parts {
    fn take(&mut self, token: Token<'_>) {
        self.octets += match &token {
            Token::Text(text) => text.len() as u64,
            Token::End => 2,
        };
        match token {
            _ if self.in_body => self.body.take(token),
            Token::Text(text) => self.headers.extend_from_slice(text),
            Token::End if self.line == self.headers.len() => self.in_body = true,
            Token::End => {
                self.headers.extend_from_slice(b"\r\n");
                self.line = self.headers.len();
            }
        }
    }
}

/// A header field, unchanged from the message.
pub(super) struct Field<'h> {
    name: &'h [u8],
    whole: &'h [u8],
}

impl<'h> Field<'h> {
    /// # Errors
    ///
    /// The line is invalid. Receivers disagree on whether such a line ends the headers, so it would be unclear what is
    /// signed.
    pub fn read(whole: &'h [u8]) -> Result<Field<'h>, Error> {
        let before_colon = &whole[..memchr(b':', whole).unwrap_or(0)];
        // White space before the colon is obsolete syntax (RFC 5322 §4.5).
        let length = before_colon.iter().rposition(|byte| !b" \t".contains(byte)).map_or(0, |last| last + 1);
        let name = &whole[..length];
        if !name.is_empty() && name.iter().all(u8::is_ascii_graphic) {
            Ok(Field { name, whole })
        } else {
            let text = String::from_utf8_lossy(&whole[..whole.len().min(MAX_SHOWN)]);
            let why = format!("cannot sign the message: invalid header line {text:?}");
            Err(Error::Message(why.into()))
        }
    }

    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

impl Dkim {
    /// Returns the whole signature field for this time, in seconds since 1970.
    pub(super) fn signature(
        &self,
        fields: &[Field<'_>],
        body_hash: &Digest,
        time: u64,
    ) -> Result<Vec<u8>, Error> {
        let mut names = Vec::new();
        for header in self.headers.iter() {
            let count = fields.iter().filter(|field| field.is(&header.name)).count();
            names.extend(vec![header.name.as_str(); count + usize::from(header.oversigned)]);
        }
        let mut text = self.tags(&names, &base64(body_hash.as_ref()), time);
        let names = self.headers.iter().map(|header| header.name.as_str());
        let signature = self.key.sign(&signed_text(fields, names, text.as_bytes()))?;
        fold_base64(&mut text, &base64(&signature));
        text.push_str("\r\n");
        Ok(text.into_bytes())
    }

    /// Returns the field without the value of its `b=`.
    fn tags(&self, names: &[&str], body_hash: &str, time: u64) -> String {
        let (algorithm, domain, selector) = (self.key.algorithm(), &self.domain, &self.selector);
        let mut text = format!(
            "DKIM-Signature: v=1; a={algorithm}; c=relaxed/relaxed;\r\n d={domain};\r\n s={selector};"
        );
        if self.timestamp {
            text.push_str(&format!(" t={time};"));
        }
        if let Some(after) = self.expires_after {
            // Later than `t=`, with at most 12 digits (RFC 6376 §3.5).
            text.push_str(&format!(" x={};", time.saturating_add(after.as_secs().max(1)).min(MAX_TIME)));
        }
        text.push_str("\r\n h=");
        let mut column = " h=".len();
        for (i, name) in names.iter().enumerate() {
            if i > 0 {
                text.push(':');
            }
            // A colon or semicolon follows.
            if i > 0 && column + name.len() + 2 > FOLD {
                text.push_str("\r\n  ");
                column = 2;
            }
            text.push_str(name);
            column += name.len() + 1;
        }
        text.push_str(&format!(";\r\n bh={body_hash};\r\n b="));
        text
    }
}

/// Returns the text to sign (RFC 6376 §3.7): the fields of each name, the last one first, then the signature field
/// without the value of `b=` and without a line ending. A missing field is signed as empty text (RFC 6376 §5.4).
pub(super) fn signed_text<'n>(
    fields: &[Field<'_>],
    names: impl IntoIterator<Item = &'n str>,
    signature: &[u8],
) -> Vec<u8> {
    let mut text = Vec::new();
    for name in names {
        for field in fields.iter().rev().filter(|field| field.is(name)) {
            relax_field(field.whole, &mut text);
        }
    }
    relax_field(signature, &mut text);
    text.truncate(text.len() - "\r\n".len());
    text
}

/// Appends base64 to `b=`. There is no fold before the first letter, because some receivers stop there.
pub(super) fn fold_base64(text: &mut String, mut base64: &str) {
    let mut room = FOLD - " b=".len();
    while base64.len() > room {
        let (line, rest) = base64.split_at(room);
        text.push_str(line);
        text.push_str("\r\n ");
        (base64, room) = (rest, FOLD - 1);
    }
    text.push_str(base64);
}

/// Returns the current time in seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
