//! The source of content: bytes in memory, or a reader.

use std::{
    io,
    time::{Duration, Instant},
};

#[cfg(feature = "dkim")]
use crate::message::dkim;
use crate::message::{
    Body, Claim, Content, Meter,
    source::{MAX_FILL_TIME, read_once},
};

/// Size of a read, in octets.
const BLOCK: usize = 64 * 1024;

/// Opens the content, such as a file. Content that has to be signed is first read to the end.
pub(super) fn open(body: Body<'_>, until: Instant) -> io::Result<Body<'_>> {
    #[cfg(feature = "dkim")]
    let body = dkim::sign(body, || in_time(until))?;
    let body = body.open()?;
    in_time(until)?;
    Ok(body)
}

pub(super) struct Source<'m> {
    content: Content<'m>,
    /// Claims that reserve read-once content for this source.
    _claims: Vec<Claim>,
    /// Number of octets, of the bytes in memory or of the block, that were handed out.
    at: usize,
    /// The octets that were read; empty before the first read.
    block: Vec<u8>,
    filled: usize,
    /// Total time for which content that was handed out has waited for further reads.
    waited: Duration,
    /// Reports progress to the callback.
    pub meter: Meter<'m>,
}

impl<'m> Source<'m> {
    /// Creates a source from an [open] body.
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

    /// Returns whether the next [piece](Source::piece) is available without reading.
    pub fn is_at_hand(&self) -> bool {
        matches!(self.content, Content::Bytes(_)) || self.at < self.filled
    }

    /// Returns the next piece; empty at the end. It [is available](Source::is_at_hand), or was just
    /// [read](Source::fill).
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

    /// Returns whether content that was handed out should be written before the next read: the last reads were slow.
    pub fn is_late(&self, _: Instant) -> bool {
        self.waited >= MAX_FILL_TIME
    }

    /// Returns the limit: a read cannot be interrupted.
    pub fn soon(&self, _: Instant, until: Instant) -> Instant {
        until
    }

    /// Records that everything handed out was written, except perhaps the beginning of a chunk.
    pub fn left(&mut self) {
        self.waited = Duration::ZERO;
    }

    /// Records that everything handed out was written.
    pub fn flushed(&mut self) {
        self.waited = Duration::ZERO;
    }

    /// Reads the next piece. Returns false if there is nothing yet.
    pub fn fill(&mut self, until: Instant) -> io::Result<bool> {
        let Content::Reader(reader) = &mut self.content else {
            return Err(io::Error::other(crate::Error::Internal(
                "content was not opened before it was read",
            )));
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

/// Fails if the limit has passed. Reads cannot be interrupted, so this is checked after each of them.
fn in_time(until: Instant) -> io::Result<()> {
    if Instant::now() < until { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
}
