//! Where content comes from: bytes at hand, or something to read, on a thread that may block.

use std::{
    io::{self, Read},
    mem,
    time::Instant,
};

use smol::unblock;

use super::stream::Alarm;
#[cfg(feature = "dkim")]
use crate::message::dkim::Reading;
use crate::message::{Body, Claim, Content, Meter};

/// So much is handed out at a time, in octets.
const BLOCK: usize = 32 * 1024;
/// So much is read at a time: each reading is a trip to another thread.
const READ: usize = 8 * BLOCK;

/// Opens a path, or whatever else takes its time. What is to be signed is read through first.
pub(super) async fn open(body: Body<'_>, until: Instant) -> io::Result<Body<'_>> {
    #[cfg(feature = "dkim")]
    let body = sign(body, until).await?;
    open_only(body, until).await
}

async fn open_only(mut body: Body<'_>, until: Instant) -> io::Result<Body<'_>> {
    let Some(opener) = body.take_opener() else { return Ok(body) };
    let opened = Alarm::default().within(until, unblock(move || opener.open())).await?;
    Ok(body.opened(opened))
}

/// The body with its signatures, if it is to have some. It is read and hashed on other threads, block by block.
#[cfg(feature = "dkim")]
async fn sign(mut body: Body<'_>, until: Instant) -> io::Result<Body<'_>> {
    let Some(unsigned) = body.unsigned.take() else { return Ok(body) };
    let mut body = open_only(body, until).await?;
    let mut alarm = Alarm::default();
    // What can be opened once only fails here, and not behind a long reading.
    let again = match unsigned.again {
        Some(again) => Some(open_only(Body::new(again), until).await?.take_content()),
        None => None,
    };
    let mut source = Source::new(Body::new(body.take_content()));
    let mut reading = Reading::new(unsigned.signers);
    loop {
        let block = source.block(until).await?;
        if block.is_empty() {
            break;
        }
        let hashed = unblock(move || reading.push(&block).map(|()| reading));
        reading = alarm.within(until, hashed).await?;
    }
    let signatures = unblock(move || reading.end()).await?;
    body.content = again.unwrap_or(source.content);
    Ok(signatures.before(body))
}

pub(super) struct Source<'m> {
    content: Content<'m>,
    /// Keep what can be read once for this source.
    _claims: Vec<Claim>,
    /// How much of the bytes, or of the block, was handed out.
    at: usize,
    /// What was read.
    block: Vec<u8>,
    alarm: Alarm,
    /// Who is told how far it is.
    pub meter: Meter<'m>,
}

impl<'m> Source<'m> {
    /// The body is [open].
    pub fn new(body: Body<'m>) -> Source<'m> {
        let (content, meter, claims) = body.into_parts();
        Source { content, _claims: claims, at: 0, block: Vec::new(), alarm: Alarm::default(), meter }
    }

    /// The next piece, if that is not to be waited for; empty at the end.
    pub fn at_hand(&mut self) -> Option<&[u8]> {
        let all = match &self.content {
            Content::Bytes(bytes) => bytes,
            Content::Unopened(_) | Content::Reader(_) if self.at < self.block.len() => self.block.as_slice(),
            Content::Unopened(_) | Content::Reader(_) => return None,
        };
        let piece = &all[self.at..all.len().min(self.at + BLOCK)];
        self.at += piece.len();
        self.meter.hand_out(piece.len());
        Some(piece)
    }

    /// The next piece; empty at the end.
    pub async fn next(&mut self, until: Instant) -> io::Result<&[u8]> {
        self.fill(until).await?;
        Ok(self.at_hand().unwrap_or_default()) // nothing more was read
    }

    /// The next block of it, to keep; empty at the end. More than a piece, as it goes to another thread.
    #[cfg(feature = "dkim")]
    async fn block(&mut self, until: Instant) -> io::Result<Vec<u8>> {
        if let Content::Bytes(bytes) = &self.content {
            let block = bytes[self.at..bytes.len().min(self.at + READ)].to_vec();
            self.at += block.len();
            return Ok(block);
        }
        self.fill(until).await?;
        Ok(mem::take(&mut self.block))
    }

    /// Reads the next block. The reader goes to the other thread and comes back; if the time is up it does not.
    async fn fill(&mut self, until: Instant) -> io::Result<()> {
        let gone = Content::Bytes(Vec::new().into());
        let Content::Reader(mut reader) = mem::replace(&mut self.content, gone) else { return Ok(()) };
        let mut block = mem::take(&mut self.block);
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
