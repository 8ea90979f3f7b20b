//! The first reading of a message: at its end the signatures are made.

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
    message::{Body, Content, headers},
};

/// How long the headers of a message may be, in octets: they are held in memory.
const MAX_HEADERS: usize = 1024 * 1024;
/// Where lines of the signature are folded (RFC 5322 §2.1.1).
const FOLD: usize = 78;
const TOO_LONG: &str = "the message has more than 1 MiB of headers, and cannot be signed";
const NO_FROM: &str = "the message has no From, and cannot be signed";
/// The last time that `x=` can say.
const MAX_TIME: u64 = 999_999_999_999;
/// How much of a line that is no header is shown, in octets.
const MAX_SHOWN: usize = 60;

/// A message that is read for the first time. Its headers are collected, its body is hashed.
pub(crate) struct Reading {
    signers: Vec<Dkim>,
    lines: Lines,
    parts: Parts,
}

struct Parts {
    /// Header fields, with CRLF at their line ends.
    headers: Vec<u8>,
    /// Where the last line of the headers begins.
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

    /// The next piece. It takes its time: it is hashed.
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

    /// Makes the signatures.
    ///
    /// # Errors
    ///
    /// There is no `From`, or a line among the headers is none.
    pub fn end(mut self) -> io::Result<Signatures> {
        self.lines.end(|token| self.parts.take(token));
        self.sign().map_err(io::Error::other)
    }

    fn sign(self) -> Result<Signatures, Error> {
        let Parts { headers, body, octets, .. } = self.parts;
        let fields = headers::fields(&headers).map(Field::read).collect::<Result<Vec<_>, Error>>()?;
        if !fields.iter().any(|field| field.is("From")) {
            return Err(Error::Message(NO_FROM.into()));
        }
        let body_hash = body.end();
        let mut signatures = Vec::new();
        // Who signed last stands first.
        for signer in self.signers.iter().rev() {
            signatures.append(&mut signer.signature(&fields, &body_hash, now())?);
        }
        Ok(Signatures { fields: signatures, octets })
    }
}

/// Header fields, and how long what they are for will be on the wire.
pub(crate) struct Signatures {
    fields: Vec<u8>,
    octets: u64,
}

impl Signatures {
    /// The message with its signatures in front. It is open.
    pub fn before(self, body: Body<'_>) -> Body<'_> {
        let size = self.octets.saturating_add(self.fields.len() as u64);
        let (content, size) = match body.content {
            Content::Bytes(bytes) => (Content::Bytes([&self.fields[..], &bytes].concat().into()), None),
            Content::Reader(reader) => {
                (Content::Reader(Box::new(Cursor::new(self.fields).chain(reader))), Some(size))
            }
            unopened @ Content::Unopened(_) => (unopened, body.size), // it was opened
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

/// A header field as it stands in the message.
pub(super) struct Field<'h> {
    name: &'h [u8],
    whole: &'h [u8],
}

impl<'h> Field<'h> {
    /// # Errors
    ///
    /// Receivers do not agree where the headers end if a line is none: what is signed has to be beyond doubt.
    pub fn read(whole: &'h [u8]) -> Result<Field<'h>, Error> {
        let before_colon = &whole[..memchr(b':', whole).unwrap_or(0)];
        // White space before the colon is obsolete syntax (RFC 5322 §4.5).
        let length = before_colon.iter().rposition(|byte| !b" \t".contains(byte)).map_or(0, |last| last + 1);
        let name = &whole[..length];
        if !name.is_empty() && name.iter().all(u8::is_ascii_graphic) {
            Ok(Field { name, whole })
        } else {
            let text = String::from_utf8_lossy(&whole[..whole.len().min(MAX_SHOWN)]);
            let why = format!("the message cannot be signed: among its headers, this is none: {text:?}");
            Err(Error::Message(why.into()))
        }
    }

    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

impl Dkim {
    /// The whole header field, as of this time in seconds since 1970.
    pub(super) fn signature(
        &self,
        fields: &[Field<'_>],
        body_hash: &Digest,
        time: u64,
    ) -> Result<Vec<u8>, Error> {
        let mut names = Vec::new();
        for header in self.headers.iter() {
            let count = fields.iter().filter(|field| field.is(&header.name)).count();
            names.extend(vec![header.name.as_str(); count + usize::from(header.over)]);
        }
        let mut text = self.tags(&names, &base64(body_hash.as_ref()), time);
        let names = self.headers.iter().map(|header| header.name.as_str());
        let signature = self.key.sign(&signed_text(fields, names, text.as_bytes()))?;
        fold_base64(&mut text, &base64(&signature));
        text.push_str("\r\n");
        Ok(text.into_bytes())
    }

    /// All of the field but what comes behind its `b=`.
    fn tags(&self, names: &[&str], body_hash: &str, time: u64) -> String {
        let (algorithm, domain, selector) = (self.key.algorithm(), &self.domain, &self.selector);
        let mut text = format!(
            "DKIM-Signature: v=1; a={algorithm}; c=relaxed/relaxed;\r\n d={domain};\r\n s={selector};"
        );
        if self.timestamp {
            text.push_str(&format!(" t={time};"));
        }
        if let Some(after) = self.expires_after {
            // Later than `t=`, and 12 digits at most (RFC 6376 §3.5).
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

/// What is signed (RFC 6376 §3.7): the fields of each name, the last first, and the signature itself, without what it
/// will say and without its line end. A field that is not there is signed as nothing (RFC 6376 §5.4).
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

/// Appends base64 behind `b=`. Nothing goes before its first letter: some do not look behind a fold there.
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

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
