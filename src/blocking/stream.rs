//! The connection: a transport, bare or in TLS, with a deadline on every wait.
//!
//! The socket stays a blocking one. A read that waits is one system call, with the socket's own timeout as the clock;
//! a read or write that must not wait says so (`MSG_DONTWAIT`), and `poll` waits for either direction.

use std::{
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, SendFlags, recv, send},
};

use super::client::Moved;
use crate::{
    Error, Phase,
    tls::{Connector, Handshake, TlsSettings, TlsStream, end_point, peer_certificate},
};

/// What carries octets, whatever it is: this is all that the client needs of it.
trait Transport: fmt::Debug + Send {
    /// Reads some; `Ok(0)` at the end. Without a limit it does not wait, and says [`ErrorKind::WouldBlock`]; with one
    /// it waits up to it, and then says [`ErrorKind::TimedOut`].
    fn read(&mut self, room: &mut [u8], until: Option<Instant>) -> io::Result<usize>;
    /// Writes some; waits as `read` does.
    fn write(&mut self, bytes: &[u8], until: Option<Instant>) -> io::Result<usize>;
    /// Waits until octets have come, or can go, or whichever of both is asked for.
    fn wait(&mut self, for_what: Blocked, until: Instant) -> io::Result<()>;
    /// Ends both directions.
    fn shutdown(&mut self);
}

#[derive(Debug)]
pub(super) struct Stream {
    inner: Inner,
    peer: SocketAddr,
    local: SocketAddr,
}

#[derive(Debug)]
enum Inner {
    Plain(Timed),
    Tls(Box<TlsStream<Timed>>),
    Closed,
}

/// A transport as TLS wants it, `Read` and `Write`; how long it waits is set from outside.
#[derive(Debug)]
struct Timed {
    transport: Box<dyn Transport>,
    until: Option<Instant>,
    blocked: Blocked,
}

/// What would have had to wait: TLS may have to read in order to write.
#[derive(Debug, Clone, Copy, Default)]
struct Blocked {
    read: bool,
    write: bool,
}

impl Stream {
    pub fn connect(peer: SocketAddr, until: Instant) -> io::Result<Stream> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        let socket = TcpStream::connect_timeout(&peer, left)?;
        socket.set_nodelay(true)?;
        let local = socket.local_addr()?;
        let transport = Box::new(Tcp { socket, armed: None });
        Ok(Stream {
            inner: Inner::Plain(Timed { transport, until: None, blocked: Blocked::default() }),
            peer,
            local,
        })
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
        self.timed()?.until = None;
        self.io()?.read(room)
    }

    pub fn read(&mut self, room: &mut [u8], until: Instant) -> io::Result<usize> {
        self.timed()?.until = Some(until);
        match self.io()?.read(room) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
            done => done,
        }
    }

    /// Writes some of `bytes`. If that would have to wait, whatever comes first: room to write, or octets to read.
    pub fn write_or_read(&mut self, bytes: &[u8], room: &mut [u8], until: Instant) -> io::Result<Moved> {
        self.timed()?.until = None;
        loop {
            self.timed()?.blocked = Blocked::default();
            match self.io()?.write(bytes) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                done => return done.map(Moved::Written),
            }
            // Octets may be at hand that no `poll` sees: TLS has read them already.
            match self.io()?.read(room) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let timed = self.timed()?;
                    timed.transport.wait(timed.blocked, until)?;
                }
                done => return done.map(Moved::Read),
            }
        }
    }

    /// Builds the connector, if it was not needed before. Nothing can interrupt that, but it counts.
    pub fn prepare_tls(tls: &TlsSettings, until: Instant) -> Result<Connector, Error> {
        let connector = tls.connector()?;
        left(until).map_err(|_| Error::Timeout(Phase::Tls))?;
        Ok(connector)
    }

    pub fn start_tls(&mut self, tls: &TlsSettings, until: Instant) -> Result<(), Error> {
        let connector = Stream::prepare_tls(tls, until)?;
        let name = tls.name().unwrap_or_default();
        let Inner::Plain(mut timed) = std::mem::replace(&mut self.inner, Inner::Closed) else {
            return Err(Error::NotConnected);
        };
        timed.until = Some(until);
        match connector.connect(name, timed) {
            Handshake::Done(stream) => {
                self.inner = Inner::Tls(Box::new(stream));
                Ok(())
            }
            // The transport has waited up to the limit.
            Handshake::Paused(_) => Err(Error::Timeout(Phase::Tls)),
            Handshake::Failed(e) => Err(e),
        }
    }

    /// Says goodbye in TLS if that needs no waiting, and ends the connection.
    pub fn close(&mut self) {
        if let Inner::Tls(stream) = &mut self.inner {
            stream.get_mut().until = None;
            drop(stream.shutdown()); // whether the server hears it changes nothing
        }
        if let Ok(timed) = self.timed() {
            timed.transport.shutdown();
        }
        self.inner = Inner::Closed;
    }

    fn timed(&mut self) -> io::Result<&mut Timed> {
        match &mut self.inner {
            Inner::Plain(timed) => Ok(timed),
            Inner::Tls(stream) => Ok(stream.get_mut()),
            Inner::Closed => Err(ErrorKind::NotConnected.into()),
        }
    }

    fn io(&mut self) -> io::Result<&mut dyn ReadWrite> {
        match &mut self.inner {
            Inner::Plain(timed) => Ok(timed),
            Inner::Tls(stream) => Ok(&mut **stream),
            Inner::Closed => Err(ErrorKind::NotConnected.into()),
        }
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

impl Read for Timed {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = self.transport.read(room, self.until).map_err(try_again);
        self.blocked.read |= would_block(&read);
        read
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.transport.write(bytes, self.until).map_err(try_again);
        self.blocked.write |= would_block(&written);
        written
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// TLS takes only this for a transport that is well, but not ready.
fn try_again(e: io::Error) -> io::Error {
    match e.kind() {
        ErrorKind::TimedOut => ErrorKind::WouldBlock.into(),
        _ => e,
    }
}

fn would_block<T>(result: &io::Result<T>) -> bool {
    result.as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
}

#[derive(Debug)]
struct Tcp {
    socket: TcpStream,
    /// The socket's own read timeout, as it is set now.
    armed: Option<Duration>,
}

impl Tcp {
    /// Sets the socket's timeout so that it ends before the limit: a system call only when the one that is set will
    /// not do. The caller looks at the clock again, so a shorter one does no harm unless it is very short.
    fn arm(&mut self, left: Duration) -> io::Result<()> {
        let often = |armed: Duration| armed < Duration::from_millis(500) && armed * 4 < left;
        if self.armed.is_some_and(|armed| armed <= left && !often(armed)) {
            return Ok(());
        }
        let wait = if left > Duration::from_secs(1) { left / 2 } else { left };
        self.socket.set_read_timeout(Some(wait))?;
        self.armed = Some(wait);
        Ok(())
    }

    fn poll(&self, flags: PollFlags, until: Instant) -> io::Result<()> {
        loop {
            let left = left(until)?;
            let limit = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.socket, flags)], Some(&limit)) {
                Ok(0) => return Err(ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Does not wait, and no signal when the other side is gone: std sees to that on Apple's systems.
#[cfg(not(target_vendor = "apple"))]
const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
#[cfg(target_vendor = "apple")]
const SEND: SendFlags = SendFlags::DONTWAIT;

/// What is left of the time, if anything.
fn left(until: Instant) -> io::Result<Duration> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

impl Transport for Tcp {
    fn read(&mut self, room: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
        let Some(until) = until else { return Ok(recv(&self.socket, room, RecvFlags::DONTWAIT)?.0) };
        loop {
            self.arm(left(until)?)?;
            match self.socket.read(room) {
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                done => return done,
            }
        }
    }

    fn write(&mut self, bytes: &[u8], until: Option<Instant>) -> io::Result<usize> {
        loop {
            match send(&self.socket, bytes, SEND) {
                Err(rustix::io::Errno::AGAIN) => match until {
                    Some(until) => self.poll(PollFlags::OUT, until)?,
                    None => return Err(ErrorKind::WouldBlock.into()),
                },
                Err(rustix::io::Errno::INTR) => {}
                done => return Ok(done?),
            }
        }
    }

    fn wait(&mut self, for_what: Blocked, until: Instant) -> io::Result<()> {
        let flag = |set, flag| if set { flag } else { PollFlags::empty() };
        self.poll(flag(for_what.read, PollFlags::IN) | flag(for_what.write, PollFlags::OUT), until)
    }

    fn shutdown(&mut self) {
        drop(self.socket.shutdown(Shutdown::Both)); // it may be gone already
    }
}
