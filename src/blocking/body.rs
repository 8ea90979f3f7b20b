//! Where content comes from: bytes at hand, or something to read.

use std::{io, time::Instant};

use crate::message::{Body, Content};

/// So much is read at a time, in octets.
const BLOCK: usize = 64 * 1024;

/// Opens a path.
pub(super) fn open(body: Body<'_>, until: Instant) -> io::Result<Body<'_>> {
    let body = body.open()?;
    in_time(until)?;
    Ok(body)
}

pub(super) struct Source<'m> {
    content: Content<'m>,
    /// How much of the bytes was handed out.
    at: usize,
    /// What was read; no room until something is.
    block: Vec<u8>,
}

impl<'m> Source<'m> {
    /// The content is [open].
    pub fn new(content: Content<'m>) -> Source<'m> {
        Source { content, at: 0, block: Vec::new() }
    }

    /// The next piece, if that is not to be waited for; empty at the end.
    pub fn at_hand(&mut self) -> Option<&[u8]> {
        let Content::Bytes(bytes) = &self.content else { return None };
        let piece = &bytes[self.at..bytes.len().min(self.at + BLOCK)];
        self.at += piece.len();
        Some(piece)
    }

    /// The next piece; empty at the end.
    pub fn next(&mut self, until: Instant) -> io::Result<&[u8]> {
        // What is at hand was taken, and a path was opened.
        let Content::Reader(reader) = &mut self.content else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        self.block.resize(BLOCK, 0);
        let n = loop {
            match reader.read(&mut self.block) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        in_time(until)?;
        Ok(&self.block[..n])
    }
}

/// Nothing can interrupt a file or a reader here; what took too long is noticed behind it.
fn in_time(until: Instant) -> io::Result<()> {
    match Instant::now() < until {
        true => Ok(()),
        false => Err(io::ErrorKind::TimedOut.into()),
    }
}
