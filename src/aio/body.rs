//! The source of content: bytes in memory, or a reader, which runs on a thread that may block.

#[cfg(feature = "dkim")]
use std::future::poll_fn;
use std::{
    io::{self, Read},
    mem,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use smol::{Unblock, io::AsyncRead, unblock};

use super::stream::Alarm;
#[cfg(feature = "dkim")]
use crate::message::dkim::Reading;
use crate::message::{Body, Claim, Content, Meter, source::read_once};

/// Maximum size of a piece, in octets.
const BLOCK: usize = 32 * 1024;
/// Number of octets that are read ahead. It is larger than a piece, because waking another thread for each piece would cost
/// more than reading.
const AHEAD: usize = 8 * BLOCK;
/// Maximum time to wait for more content while some of it could be written.
const MAX_WAIT: Duration = Duration::from_millis(40);
/// Maximum time for which content is held back, however slowly more of it arrives.
const MAX_HELD: Duration = Duration::from_millis(80);

/// Opens the content, such as a file. Content that has to be signed is first read to the end.
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

/// Adds the signatures to a body that has to be signed. The body is read and hashed on other threads, block by block.
#[cfg(feature = "dkim")]
async fn sign(mut body: Body<'_>, until: Instant) -> io::Result<Body<'_>> {
    let Some(unsigned) = body.unsigned.take() else { return Ok(body) };
    let mut body = open_only(body, until).await?;
    let mut alarm = Alarm::default();
    // Content that can be opened only once fails here, before everything is read.
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
    /// Claims that reserve read-once content for this source.
    _claims: Vec<Claim>,
    /// Number of octets, of the bytes in memory or of the block, that were handed out.
    at: usize,
    /// The reader, which reads ahead on another thread. The content is empty once it is set.
    ahead: Option<Unblock<Polled>>,
    /// The octets that were read; empty before the first read. Its length does not change after that, because zeroing
    /// it again would cost as much as reading.
    block: Vec<u8>,
    filled: usize,
    #[cfg(feature = "dkim")]
    alarm: Alarm,
    /// Since when content that was handed out may have been waiting for the next piece, unwritten.
    held: Option<Instant>,
    /// Whether that content has waited long enough.
    is_late: bool,
    /// Reports progress to the callback.
    pub meter: Meter<'m>,
}

/// A reader whose end is final, although [`Unblock`] reads on after it. `WouldBlock` means that there is nothing yet.
struct Polled {
    reader: Box<dyn Read + Send>,
    ended: bool,
}

impl Read for Polled {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.ended || buf.is_empty() {
            return Ok(0);
        }
        let n = read_once(&mut self.reader, buf)?.ok_or(io::ErrorKind::WouldBlock)?;
        self.ended = n == 0;
        Ok(n.min(buf.len())) // a reader can lie
    }
}

impl<'m> Source<'m> {
    /// Creates a source from an [open] body.
    pub fn new(body: Body<'m>) -> Source<'m> {
        let (content, meter, claims) = body.into_parts();
        Source {
            content,
            _claims: claims,
            at: 0,
            ahead: None,
            block: Vec::new(),
            filled: 0,
            #[cfg(feature = "dkim")]
            alarm: Alarm::default(),
            held: None,
            is_late: false,
            meter,
        }
    }

    /// Returns whether the next [piece](Source::piece) is available without reading.
    pub fn is_at_hand(&self) -> bool {
        (self.ahead.is_none() && matches!(self.content, Content::Bytes(_))) || self.at < self.filled
    }

    /// Returns the next piece; empty at the end. It [is available](Source::is_at_hand), or was just
    /// [read](Source::poll_fill).
    pub fn piece(&mut self) -> &[u8] {
        let all = match &self.content {
            Content::Bytes(bytes) if self.ahead.is_none() => bytes,
            _ => &self.block[..self.filled],
        };
        let piece = &all[self.at..all.len().min(self.at + BLOCK)];
        self.at += piece.len();
        self.meter.hand_out(piece.len());
        piece
    }

    /// Returns whether content that was handed out should be written before the wait for the next piece.
    pub fn is_late(&self, now: Instant) -> bool {
        self.is_late || self.held.is_some_and(|since| now.saturating_duration_since(since) >= MAX_HELD)
    }

    /// Returns the time until which to wait for the next piece while content is held back.
    pub fn soon(&self, now: Instant, until: Instant) -> Instant {
        self.held.map_or(until, |since| until.min(now + MAX_WAIT).min(since + MAX_HELD))
    }

    /// Records that the next piece did not arrive soon enough.
    pub fn gave_up(&mut self) {
        self.is_late = true;
    }

    /// Records that everything handed out was written, except perhaps the beginning of a chunk.
    pub fn left(&mut self) {
        self.held = self.held.map(|_| Instant::now());
    }

    /// Records that everything handed out was written.
    pub fn flushed(&mut self) {
        (self.held, self.is_late) = (None, false);
    }

    /// Returns the next block, which is empty at the end. It is owned, because another thread processes it.
    #[cfg(feature = "dkim")]
    async fn block(&mut self, until: Instant) -> io::Result<Vec<u8>> {
        if let (Content::Bytes(bytes), None) = (&self.content, &self.ahead) {
            let block = bytes[self.at..bytes.len().min(self.at + AHEAD)].to_vec();
            self.at += block.len();
            return Ok(block);
        }
        loop {
            let mut alarm = mem::take(&mut self.alarm);
            let filled = alarm.within(until, poll_fn(|cx| self.poll_fill(cx))).await?;
            self.alarm = alarm;
            if filled {
                let mut block = mem::take(&mut self.block);
                block.truncate(mem::take(&mut self.filled));
                return Ok(block);
            }
            if Instant::now() >= until {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Takes the next block from what another thread has read. Returns ready with false if there is nothing yet.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let ahead = match &mut self.ahead {
            Some(ahead) => ahead,
            None => match mem::replace(&mut self.content, Content::Bytes(Vec::new().into())) {
                Content::Reader(reader) => {
                    self.ahead.insert(Unblock::with_capacity(AHEAD, Polled { reader, ended: false }))
                }
                _ => return Poll::Ready(Err(io::ErrorKind::NotConnected.into())), // never: it was opened
            },
        };
        (self.at, self.filled) = (0, 0);
        self.block.resize(AHEAD, 0);
        let Poll::Ready(read) = Pin::new(ahead).poll_read(cx, &mut self.block) else { return Poll::Pending };
        match read {
            Ok(filled) => self.filled = filled,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Poll::Ready(Ok(false)),
            Err(e) => return Poll::Ready(Err(e)),
        }
        if self.filled > 0 {
            self.held.get_or_insert_with(Instant::now);
        }
        Poll::Ready(Ok(true))
    }
}
