//! Where content comes from: bytes at hand, or something to read.

use std::{io, time::Instant};

use crate::message::{Body, Content};

/// So much is read at a time, in octets.
const BLOCK: usize = 32 * 1024;

pub(super) struct Source<'m> {
    content: Content<'m>,
    size: Option<u64>,
    /// How much of the bytes was handed out.
    at: usize,
    /// What was read; no room until something is.
    block: Vec<u8>,
}

impl<'m> Source<'m> {
    pub fn open(body: Body<'m>, until: Instant) -> io::Result<Source<'m>> {
        let body = body.open()?;
        in_time(until)?;
        Ok(Source { content: body.content, size: body.size, at: 0, block: Vec::new() })
    }

    /// All of it, if it is at hand.
    pub fn bytes(&self) -> Option<&[u8]> {
        match &self.content {
            Content::Bytes(bytes) => Some(bytes),
            Content::Path(_) | Content::Reader(_) => None,
        }
    }

    /// How many octets there are at least, if that is known.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The next piece; empty at the end.
    pub fn next(&mut self, until: Instant) -> io::Result<&[u8]> {
        match &mut self.content {
            Content::Bytes(bytes) => {
                let piece = &bytes[self.at..bytes.len().min(self.at + BLOCK)];
                self.at += piece.len();
                Ok(piece)
            }
            Content::Path(_) => Err(io::ErrorKind::NotConnected.into()), // it was opened
            Content::Reader(reader) => {
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
    }
}

/// Nothing can interrupt a file or a reader here; what took too long is noticed behind it.
fn in_time(until: Instant) -> io::Result<()> {
    match Instant::now() < until {
        true => Ok(()),
        false => Err(io::ErrorKind::TimedOut.into()),
    }
}
