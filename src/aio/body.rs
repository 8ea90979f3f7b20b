//! Where content comes from: bytes at hand, or something to read, on a thread that may block.

use std::{
    io::{self, Read},
    time::Instant,
};

use smol::unblock;

use super::stream::Alarm;
use crate::message::{Body, Content};

/// So much is handed out at a time, in octets.
const BLOCK: usize = 32 * 1024;
/// So much is read at a time: each reading is a trip to another thread.
const READ: usize = 4 * BLOCK;

/// Opens a path.
pub(super) async fn open(body: Body<'_>, until: Instant) -> io::Result<Body<'_>> {
    let Content::Path(path) = body.content else { return Ok(body) };
    let body = Body { content: Content::Path(path), ..body };
    Alarm::default().within(until, unblock(move || body.open())).await
}

pub(super) struct Source<'m> {
    content: Content<'m>,
    /// How much of the bytes, or of the block, was handed out.
    at: usize,
    /// What was read.
    block: Vec<u8>,
    alarm: Alarm,
}

impl<'m> Source<'m> {
    /// The content is [open].
    pub fn new(content: Content<'m>) -> Source<'m> {
        Source { content, at: 0, block: Vec::new(), alarm: Alarm::default() }
    }

    /// The next piece, if that is not to be waited for; empty at the end.
    pub fn at_hand(&mut self) -> Option<&[u8]> {
        let all = match &self.content {
            Content::Bytes(bytes) => bytes,
            Content::Path(_) | Content::Reader(_) if self.at < self.block.len() => self.block.as_slice(),
            Content::Path(_) | Content::Reader(_) => return None,
        };
        let piece = &all[self.at..all.len().min(self.at + BLOCK)];
        self.at += piece.len();
        Some(piece)
    }

    /// The next piece; empty at the end.
    pub async fn next(&mut self, until: Instant) -> io::Result<&[u8]> {
        self.fill(until).await?;
        Ok(self.at_hand().unwrap_or_default()) // nothing more was read
    }

    /// Reads the next block. The reader goes to the other thread and comes back; if the time is up it does not.
    async fn fill(&mut self, until: Instant) -> io::Result<()> {
        let gone = Content::Bytes(Vec::new().into());
        let Content::Reader(mut reader) = std::mem::replace(&mut self.content, gone) else { return Ok(()) };
        let mut block = std::mem::take(&mut self.block);
        let read = unblock(move || {
            block.resize(READ, 0);
            let result = loop {
                match reader.read(&mut block) {
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    result => break result,
                }
            };
            block.truncate(*result.as_ref().unwrap_or(&0));
            (reader, block, result)
        });
        let (reader, block, result) = self.alarm.within(until, async { Ok(read.await) }).await?;
        (self.content, self.block, self.at) = (Content::Reader(reader), block, 0);
        result.map(drop)
    }
}
