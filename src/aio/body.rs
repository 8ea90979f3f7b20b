//! Where content comes from: bytes at hand, or something to read, on a thread that may block.

#[cfg(feature = "dkim")]
use std::future::poll_fn;
use std::{
    io::{self, Read},
    mem,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use smol::{Task, unblock};

use super::stream::Alarm;
#[cfg(feature = "dkim")]
use crate::message::dkim::Reading;
use crate::message::{Body, Claim, Content, Meter, file::read_once};

/// So much is handed out at a time, in octets.
const BLOCK: usize = 32 * 1024;
/// So much is read at a time: each reading is a trip to another thread.
const READ: usize = 8 * BLOCK;
/// Longest wait for more content while some of it could leave,
const MAX_WAIT: Duration = Duration::from_millis(40);
/// and longest time that some of it is held back, however it comes.
const MAX_HELD: Duration = Duration::from_millis(80);

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
    /// The reader is on another thread, and comes back. The content is nothing meanwhile.
    reading: Option<Task<Filled>>,
    #[cfg(feature = "dkim")]
    alarm: Alarm,
    /// Since when content that was handed out may wait for more of it before it leaves.
    held: Option<Instant>,
    /// It has waited long enough.
    is_late: bool,
    /// Who is told how far it is.
    pub meter: Meter<'m>,
}

/// A reader, its block, and whether anything was there.
type Filled = (Box<dyn Read + Send>, Vec<u8>, io::Result<bool>);

impl<'m> Source<'m> {
    /// The body is [open].
    pub fn new(body: Body<'m>) -> Source<'m> {
        let (content, meter, claims) = body.into_parts();
        Source {
            content,
            _claims: claims,
            at: 0,
            block: Vec::new(),
            reading: None,
            #[cfg(feature = "dkim")]
            alarm: Alarm::default(),
            held: None,
            is_late: false,
            meter,
        }
    }

    /// Whether there is a [piece](Source::piece) without reading.
    pub fn is_at_hand(&self) -> bool {
        let in_memory = matches!(self.content, Content::Bytes(_));
        self.reading.is_none() && (in_memory || self.at < self.block.len())
    }

    /// The next piece; empty at the end. It [is at hand](Source::is_at_hand), or was just [read](Source::poll_fill).
    pub fn piece(&mut self) -> &[u8] {
        let all = match &self.content {
            Content::Bytes(bytes) => bytes,
            Content::Unopened(_) | Content::Reader(_) => self.block.as_slice(),
        };
        let piece = &all[self.at..all.len().min(self.at + BLOCK)];
        self.at += piece.len();
        self.meter.hand_out(piece.len());
        piece
    }

    /// Whether what was handed out should leave before the next piece is waited for.
    pub fn is_late(&self, now: Instant) -> bool {
        self.is_late || self.held.is_some_and(|since| now.saturating_duration_since(since) >= MAX_HELD)
    }

    /// How long to wait for the next piece while something is held back.
    pub fn soon(&self, now: Instant, until: Instant) -> Instant {
        self.held.map_or(until, |since| until.min(now + MAX_WAIT).min(since + MAX_HELD))
    }

    /// The next piece did not come soon.
    pub fn gave_up(&mut self) {
        self.is_late = true;
    }

    /// All that was handed out has left, but perhaps the beginning of a chunk.
    pub fn left(&mut self) {
        self.held = self.held.map(|_| Instant::now());
    }

    /// All that was handed out has left.
    pub fn flushed(&mut self) {
        (self.held, self.is_late) = (None, false);
    }

    /// The next block of it, to keep; empty at the end. More than a piece, as it goes to another thread.
    #[cfg(feature = "dkim")]
    async fn block(&mut self, until: Instant) -> io::Result<Vec<u8>> {
        if let (Content::Bytes(bytes), None) = (&self.content, &self.reading) {
            let block = bytes[self.at..bytes.len().min(self.at + READ)].to_vec();
            self.at += block.len();
            return Ok(block);
        }
        loop {
            let mut alarm = mem::take(&mut self.alarm);
            let filled = alarm.within(until, poll_fn(|cx| self.poll_fill(cx))).await?;
            self.alarm = alarm;
            if filled {
                return Ok(mem::take(&mut self.block));
            }
            if Instant::now() >= until {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Reads the next block. False if there is nothing yet. The reader goes to another thread and comes back.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => {
                let nothing = Content::Bytes(Vec::new().into());
                match mem::replace(&mut self.content, nothing) {
                    Content::Reader(reader) => read(reader, mem::take(&mut self.block)),
                    _ => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())), // it was opened
                }
            }
        };
        let Poll::Ready((reader, block, read)) = Pin::new(&mut reading).poll(cx) else {
            self.reading = Some(reading);
            return Poll::Pending;
        };
        (self.content, self.block, self.at) = (Content::Reader(reader), block, 0);
        if !self.block.is_empty() {
            self.held.get_or_insert_with(Instant::now);
        }
        Poll::Ready(read)
    }
}

fn read(mut reader: Box<dyn Read + Send>, mut block: Vec<u8>) -> Task<Filled> {
    unblock(move || {
        block.resize(READ, 0);
        let read = read_once(&mut reader, &mut block);
        block.truncate(read.as_ref().ok().copied().flatten().unwrap_or_default());
        (reader, block, read.map(|n| n.is_some()))
    })
}
