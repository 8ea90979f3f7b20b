//! Where content comes from: bytes at hand, or something to read.

use std::{io, mem, time::Instant};

#[cfg(feature = "dkim")]
use crate::message::dkim::Reading;
use crate::{
    Error,
    config::Limit,
    message::{Body, Content},
};

/// So much is read at a time, in octets.
const BLOCK: usize = 32 * 1024;

/// Opens a path. What is to be signed is read through first.
pub(super) fn open(body: Body<'_>, limit: Limit) -> Result<Body<'_>, Error> {
    #[cfg(feature = "dkim")]
    let body = sign(body, limit)?;
    open_path(body, limit).map_err(Error::unread)
}

fn open_path(body: Body<'_>, limit: Limit) -> io::Result<Body<'_>> {
    let until = limit.until()?;
    let body = body.open()?;
    in_time(until)?;
    Ok(body)
}

/// Each block may take as long as the limit says.
#[cfg(feature = "dkim")]
pub(crate) fn sign(mut body: Body<'_>, limit: Limit) -> Result<Body<'_>, Error> {
    let Some(unsigned) = body.unsigned.take() else { return Ok(body) };
    let body = open_path(body, limit).map_err(Error::unread)?;
    let mut source = Source::new(body.content, Vec::new());
    let mut reading = Reading::new(unsigned.signers);
    loop {
        let piece = limit.until().and_then(|until| source.next(until)).map_err(Error::unread)?;
        if piece.is_empty() {
            break;
        }
        reading.push(piece)?;
    }
    let (head, octets) = reading.end()?;
    Ok(Body { content: unsigned.again.unwrap_or(source.content), size: Some(octets), head, ..body })
}

pub(super) struct Source<'m> {
    /// What is handed out before the content, and whether it was.
    head: Vec<u8>,
    begun: bool,
    content: Content<'m>,
    /// How much of the bytes was handed out.
    at: usize,
    /// What was read; no room until something is.
    block: Vec<u8>,
}

impl<'m> Source<'m> {
    /// The content is [open].
    pub fn new(content: Content<'m>, head: Vec<u8>) -> Source<'m> {
        Source { head, begun: false, content, at: 0, block: Vec::new() }
    }

    /// The next piece; empty at the end.
    pub fn next(&mut self, until: Instant) -> io::Result<&[u8]> {
        if !mem::replace(&mut self.begun, true) && !self.head.is_empty() {
            return Ok(&self.head);
        }
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
