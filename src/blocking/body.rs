//! Where content comes from: bytes at hand, or something to read.

use std::{io, time::Instant};

use crate::message::Content;

/// So much is read at a time, in octets.
const BLOCK: usize = 32 * 1024;

pub(super) struct Source<'m> {
    content: Content<'m>,
    /// How much of the bytes was handed out.
    at: usize,
    /// What was read; no room until something is.
    block: Vec<u8>,
}

impl<'m> Source<'m> {
    pub fn new(content: Content<'m>) -> Source<'m> {
        Source { content, at: 0, block: Vec::new() }
    }

    /// The next piece; empty at the end. How long a read takes is the reader's affair: nothing can interrupt it here.
    pub fn next(&mut self, _deadline: Option<Instant>) -> io::Result<&[u8]> {
        match &mut self.content {
            Content::Bytes(bytes) => {
                let piece = &bytes[self.at..bytes.len().min(self.at + BLOCK)];
                self.at += piece.len();
                Ok(piece)
            }
            Content::Reader(reader) => {
                self.block.resize(BLOCK, 0);
                loop {
                    match reader.read(&mut self.block) {
                        Ok(n) => return Ok(&self.block[..n]),
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(e),
                    }
                }
            }
        }
    }
}
