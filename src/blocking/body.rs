//! Where content comes from: bytes at hand, or something to read.

use std::{io, time::Instant};

#[cfg(feature = "dkim")]
use crate::message::dkim::Reading;
use crate::message::{Body, Claim, Content, Meter};

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
        let piece = source.next(until)?;
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
    /// How much of the bytes was handed out.
    at: usize,
    /// What was read; no room until something is.
    block: Vec<u8>,
    /// Who is told how far it is.
    pub meter: Meter<'m>,
}

impl<'m> Source<'m> {
    /// The body is [open].
    pub fn new(body: Body<'m>) -> Source<'m> {
        let (content, meter, claims) = body.into_parts();
        Source { content, _claims: claims, at: 0, block: Vec::new(), meter }
    }

    /// The next piece, if that is not to be waited for; empty at the end.
    pub fn at_hand(&mut self) -> Option<&[u8]> {
        let Content::Bytes(bytes) = &self.content else { return None };
        let piece = &bytes[self.at..bytes.len().min(self.at + BLOCK)];
        self.at += piece.len();
        self.meter.hand_out(piece.len());
        Some(piece)
    }

    /// The next piece; empty at the end.
    pub fn next(&mut self, until: Instant) -> io::Result<&[u8]> {
        if let Content::Bytes(_) = self.content {
            return Ok(self.at_hand().unwrap_or_default()); // there is always a piece
        }
        let Content::Reader(reader) = &mut self.content else {
            return Err(io::Error::other(crate::Error::Internal("a source that was not opened")));
        };
        self.block.resize(BLOCK, 0);
        let n = loop {
            match reader.read(&mut self.block) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        in_time(until)?;
        self.meter.hand_out(n);
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
