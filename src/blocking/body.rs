//! Where content comes from: bytes at hand, or something to read.

use std::{io, time::Instant};

#[cfg(feature = "dkim")]
use crate::message::dkim::Reading;
use crate::message::{Body, Content};

/// So much is read at a time, in octets.
const BLOCK: usize = 32 * 1024;

/// Opens a path. What is to be signed is read through first.
pub(super) fn open(body: Body<'_>, until: Instant) -> io::Result<Body<'_>> {
    #[cfg(feature = "dkim")]
    let body = sign(body, until)?;
    open_path(body, until)
}

fn open_path(body: Body<'_>, until: Instant) -> io::Result<Body<'_>> {
    let body = body.open()?;
    in_time(until)?;
    Ok(body)
}

/// The body with its signatures, if it is to have some.
#[cfg(feature = "dkim")]
pub(crate) fn sign(mut body: Body<'_>, until: Instant) -> io::Result<Body<'_>> {
    let Some(unsigned) = body.unsigned.take() else { return Ok(body) };
    let body = open_path(body, until)?;
    let mut source = Source::new(body.content);
    let mut reading = Reading::new(unsigned.signers);
    loop {
        in_time(until)?;
        let piece = source.next(until)?;
        if piece.is_empty() {
            break;
        }
        reading.push(piece)?;
    }
    let again = Body { content: unsigned.again.unwrap_or(source.content), ..body };
    Ok(reading.end()?.before(open_path(again, until)?))
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
