//! The connection: a transport, bare or in TLS, with a deadline on every wait.
//!
//! native-tls knows `Read` and `Write`. So the transport, whatever `AsyncRead` and `AsyncWrite` it is, stands behind an
//! adapter that polls it with the waker of the task that is polling us, and turns "pending" into "would block".

use std::{
    fmt,
    future::{Future, poll_fn},
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Instant,
};

use smol::{
    Async, Timer,
    future::FutureExt,
    io::{AsyncRead, AsyncWrite},
    unblock,
};

use super::client::Moved;
use crate::{
    Error, Phase,
    tls::{Connector, Handshake, Paused, TlsSettings, TlsStream, end_point, peer_certificate},
};

/// What carries octets, whatever it is.
trait Transport: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Transport for T {}

pub(super) struct Stream {
    inner: Inner,
    alarm: Alarm,
    peer: SocketAddr,
    local: SocketAddr,
}

enum Inner {
    Plain(Polled),
    Tls(Box<TlsStream<Polled>>),
    Closed,
}

/// A transport as TLS wants it, `Read` and `Write`; whom to wake is set from outside.
struct Polled {
    transport: Pin<Box<dyn Transport>>,
    waker: Waker,
}

impl Stream {
    pub async fn connect(peer: SocketAddr, until: Instant) -> io::Result<Stream> {
        let mut alarm = Alarm::default();
        let socket = alarm.within(until, Async::<TcpStream>::connect(peer)).await?;
        socket.get_ref().set_nodelay(true)?;
        let local = socket.get_ref().local_addr()?;
        let polled = Polled { transport: Box::pin(socket), waker: Waker::noop().clone() };
        Ok(Stream { inner: Inner::Plain(polled), alarm, peer, local })
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    pub fn local(&self) -> SocketAddr {
        self.local
    }

    pub fn is_encrypted(&self) -> bool {
        matches!(self.inner, Inner::Tls(_))
    }

    /// What binds a login to this TLS connection (tls-server-end-point, RFC 5929 §4).
    pub fn channel_binding(&self) -> Option<Vec<u8>> {
        match &self.inner {
            Inner::Tls(stream) => end_point(stream),
            _ => None,
        }
    }

    /// The server's certificate, in DER.
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        match &self.inner {
            Inner::Tls(stream) => peer_certificate(stream),
            _ => None,
        }
    }

    /// Takes what is there, without waiting.
    pub fn try_read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.inner.wake(Waker::noop())?;
        self.inner.io()?.read(room)
    }

    pub async fn read(&mut self, room: &mut [u8], until: Instant) -> io::Result<usize> {
        let inner = &mut self.inner;
        let read = poll_fn(|cx| {
            inner.wake(cx.waker())?;
            ready(inner.io()?.read(room))
        });
        self.alarm.within(until, read).await
    }

    /// Writes some of `bytes`. If that would have to wait, whatever comes first: room to write, or octets to read.
    pub async fn write_or_read(
        &mut self,
        bytes: &[u8],
        room: &mut [u8],
        until: Instant,
    ) -> io::Result<Moved> {
        let inner = &mut self.inner;
        let moved = poll_fn(|cx| {
            inner.wake(cx.waker())?;
            match ready(inner.io()?.write(bytes)) {
                Poll::Pending => ready(inner.io()?.read(room).map(Moved::Read)),
                written => written.map_ok(Moved::Written),
            }
        });
        self.alarm.within(until, moved).await
    }

    /// Builds the connector, if it was not needed before: the first one reads many certificates.
    pub async fn prepare_tls(tls: &TlsSettings, until: Instant) -> Result<Connector, Error> {
        if let Some(connector) = tls.built() {
            return Ok(connector);
        }
        let settings = tls.clone();
        let built = async { Ok(unblock(move || settings.connector()).await) };
        match Alarm::default().within(until, built).await {
            Ok(built) if Instant::now() < until => built,
            _ => Err(Error::Timeout(Phase::Tls)),
        }
    }

    pub async fn start_tls(&mut self, tls: &TlsSettings, until: Instant) -> Result<(), Error> {
        let connector = Stream::prepare_tls(tls, until).await?;
        let name = tls.name().unwrap_or_default();
        let Inner::Plain(polled) = std::mem::replace(&mut self.inner, Inner::Closed) else {
            return Err(Error::NotConnected);
        };
        let mut step = Some(Step::First(polled));
        let handshake = poll_fn(|cx| {
            let next = match step.take() {
                Some(Step::First(mut polled)) => {
                    polled.waker.clone_from(cx.waker());
                    connector.connect(name, polled)
                }
                Some(Step::Paused(mut paused)) => {
                    paused.get_mut().waker.clone_from(cx.waker());
                    paused.resume(name)
                }
                None => return Poll::Ready(Err(ErrorKind::NotConnected.into())), // polled again behind its end
            };
            match next {
                Handshake::Paused(paused) => {
                    step = Some(Step::Paused(paused));
                    Poll::Pending
                }
                done => Poll::Ready(Ok(done)),
            }
        });
        match self.alarm.within(until, handshake).await {
            Ok(Handshake::Done(stream)) => {
                self.inner = Inner::Tls(Box::new(stream));
                Ok(())
            }
            Ok(Handshake::Failed(e)) => Err(e),
            Ok(Handshake::Paused(_)) | Err(_) => Err(Error::Timeout(Phase::Tls)),
        }
    }

    /// Says goodbye in TLS if that needs no waiting, and ends the connection.
    pub fn close(&mut self) {
        if self.inner.wake(Waker::noop()).is_err() {
            return;
        }
        if let Inner::Tls(stream) = &mut self.inner {
            drop(stream.shutdown()); // whether the server hears it changes nothing
        }
        self.inner = Inner::Closed;
    }
}

/// How far a handshake got, between two polls.
enum Step {
    First(Polled),
    Paused(Paused<Polled>),
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

impl Inner {
    /// Sets whom to wake.
    fn wake(&mut self, waker: &Waker) -> io::Result<()> {
        let polled = match self {
            Inner::Plain(polled) => polled,
            Inner::Tls(stream) => stream.get_mut(),
            Inner::Closed => return Err(ErrorKind::NotConnected.into()),
        };
        polled.waker.clone_from(waker);
        Ok(())
    }

    fn io(&mut self) -> io::Result<&mut dyn ReadWrite> {
        match self {
            Inner::Plain(polled) => Ok(polled),
            Inner::Tls(stream) => Ok(&mut **stream),
            Inner::Closed => Err(ErrorKind::NotConnected.into()),
        }
    }
}

impl Read for Polled {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let mut cx = Context::from_waker(&self.waker);
        would_block(self.transport.as_mut().poll_read(&mut cx, room))
    }
}

impl Write for Polled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut cx = Context::from_waker(&self.waker);
        would_block(self.transport.as_mut().poll_write(&mut cx, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut cx = Context::from_waker(&self.waker);
        would_block(self.transport.as_mut().poll_flush(&mut cx))
    }
}

fn would_block<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(done) => done,
        Poll::Pending => Err(ErrorKind::WouldBlock.into()),
    }
}

/// The way back.
fn ready<T>(result: io::Result<T>) -> Poll<io::Result<T>> {
    match result {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("peer", &self.peer).field("encrypted", &self.is_encrypted()).finish()
    }
}

/// One timer, set anew only when it rings or must ring sooner: a wait costs no system call.
#[derive(Default)]
pub(super) struct Alarm {
    timer: Option<Timer>,
    rings: Option<Instant>,
}

impl Alarm {
    /// Does the work, or says [`ErrorKind::TimedOut`] when the time is up.
    pub async fn within<T>(
        &mut self,
        until: Instant,
        work: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        let late = poll_fn(|cx| {
            loop {
                if self.rings.is_none_or(|rings| rings > until) {
                    (self.timer, self.rings) = (Some(Timer::at(until)), Some(until));
                }
                let Some(timer) = &mut self.timer else { return Poll::Pending }; // it was set above
                match Pin::new(timer).poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(_) if Instant::now() >= until => {
                        return Poll::Ready(Err(ErrorKind::TimedOut.into()));
                    }
                    Poll::Ready(_) => self.rings = None, // it was set for an earlier wait
                }
            }
        });
        work.or(late).await
    }
}
