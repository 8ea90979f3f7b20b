//! Where content comes from: bytes at hand, or something to read.

use std::{
    io,
    time::{Duration, Instant},
};

#[cfg(feature = "dkim")]
use crate::message::dkim::Reading;
use crate::message::{
    Body, Claim, Content, Meter,
    file::{HELD, read_once},
};

/// So much is read at a time, in octets.
const BLOCK: usize = 64 * 1024;

/// Opens a path, or whatever else takes its time. What is to be signed is read through first.
pub(super) fn open(body: Body<'_>, until: Instant) -> io::Result<Body<'_>> {
    #[cfg(feature = "dkim")]
    let body = sign(body, until)?;
    open_only(body, until)
}

fn open_only(body: Body<'_>, until: Instant) -> io::Result<Body<'_>> {
    let body = body.open()?;
    in_time(until)?;
    Ok(body)
}

/// The body with its signatures, if it is to have some.
#[cfg(feature = "dkim")]
pub(crate) fn sign(mut body: Body<'_>, until: Instant) -> io::Result<Body<'_>> {
    let Some(unsigned) = body.unsigned.take() else { return Ok(body) };
    let mut body = open_only(body, until)?;
    // What can be opened once only fails here, and not behind a long reading.
    let again = match unsigned.again {
        Some(again) => Some(open_only(Body::new(again), until)?.take_content()),
        None => None,
    };
    let mut source = Source::new(Body::new(body.take_content()));
    let mut reading = Reading::new(unsigned.signers);
    loop {
        in_time(until)?;
        if !source.is_at_hand() && !source.fill(until)? {
            continue;
        }
        let piece = source.piece();
        if piece.is_empty() {
            break;
        }
        reading.push(piece)?;
    }
    body.content = again.unwrap_or(source.content);
    Ok(reading.end()?.before(body))
}

pub(super) struct Source<'m> {
    content: Content<'m>,
    /// Keep what can be read once for this source.
    _claims: Vec<Claim>,
    /// How much of the bytes, or of what was read, was handed out.
    at: usize,
    /// What was read; no room until something is.
    block: Vec<u8>,
    filled: usize,
    /// How long content that was handed out has waited for more of it, all reads together.
    waited: Duration,
    /// Who is told how far it is.
    pub meter: Meter<'m>,
}

impl<'m> Source<'m> {
    /// The body is [open].
    pub fn new(body: Body<'m>) -> Source<'m> {
        let (content, meter, claims) = body.into_parts();
        Source {
            content,
            _claims: claims,
            at: 0,
            block: Vec::new(),
            filled: 0,
            waited: Duration::ZERO,
            meter,
        }
    }

    /// Whether there is a [piece](Source::piece) without reading.
    pub fn is_at_hand(&self) -> bool {
        matches!(self.content, Content::Bytes(_)) || self.at < self.filled
    }

    /// The next piece; empty at the end. It [is at hand](Source::is_at_hand), or was just [read](Source::fill).
    pub fn piece(&mut self) -> &[u8] {
        let all = match &self.content {
            Content::Bytes(bytes) => bytes,
            Content::Unopened(_) | Content::Reader(_) => &self.block[..self.filled],
        };
        let piece = &all[self.at..all.len().min(self.at + BLOCK)];
        self.at += piece.len();
        self.meter.hand_out(piece.len());
        piece
    }

    /// Whether what was handed out should leave before the next read: the last ones have taken their time.
    pub fn is_late(&self, _: Instant) -> bool {
        self.waited >= HELD
    }

    /// A read cannot be interrupted.
    pub fn soon(&self, _: Instant, until: Instant) -> Instant {
        until
    }

    /// All that was handed out has left, but perhaps the beginning of a chunk.
    pub fn left(&mut self) {
        self.waited = Duration::ZERO;
    }

    /// All that was handed out has left.
    pub fn flushed(&mut self) {
        self.waited = Duration::ZERO;
    }

    /// Reads the next piece. False if there is nothing yet.
    pub fn fill(&mut self, until: Instant) -> io::Result<bool> {
        let Content::Reader(reader) = &mut self.content else {
            return Err(io::Error::other(crate::Error::Internal("a source that was not opened")));
        };
        self.block.resize(BLOCK, 0);
        let began = Instant::now();
        let read = read_once(reader, &mut self.block)?;
        self.waited = self.waited.saturating_add(began.elapsed());
        in_time(until)?;
        (self.at, self.filled) = (0, read.unwrap_or_default());
        Ok(read.is_some())
    }
}

/// Nothing can interrupt a file or a reader here; what took too long is noticed behind it.
fn in_time(until: Instant) -> io::Result<()> {
    match Instant::now() < until {
        true => Ok(()),
        false => Err(io::ErrorKind::TimedOut.into()),
    }
}
