//! What carries octets: sockets of our own, and what the caller brings.

use std::{
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Weak},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::sys::{self, OwnedSocket, UnixStream};

/// What carries a connection that the caller brings ([`Builder::connect_over`](crate::Builder::connect_over)).
///
/// `TcpStream` and `UnixStream` are transports; [`NoTimeouts`] makes one of any `Read` and `Write`. Write your own for a
/// tunnel or a serial line that can keep to a limit: the first four methods are enough.
///
/// None of them may wait longer than it is told: all that the client promises about time stands on that.
pub trait Transport: Send {
    /// Reads some; `Ok(0)` at the end. Without a limit it does not wait, and says [`ErrorKind::WouldBlock`]; with one
    /// it waits up to it, and then says [`ErrorKind::TimedOut`].
    ///
    /// # Errors
    ///
    /// These two, and whatever ends the connection. What fails with [`ErrorKind::Interrupted`] is tried again.
    fn receive(&mut self, room: &mut [u8], until: Option<Instant>) -> io::Result<usize>;

    /// Writes some, and gives how much, 1 octet at least; it waits as [`receive`](Transport::receive) does. What is
    /// written is on its way: nobody calls a `flush`.
    ///
    /// # Errors
    ///
    /// As of [`receive`](Transport::receive).
    fn send(&mut self, bytes: &[u8], until: Option<Instant>) -> io::Result<usize>;

    /// Waits until octets have come (`read`), or can go (`write`), or either if both are asked for. It may end too
    /// early, but then not again and again: the client tries, and comes back.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] at the limit.
    fn wait(&mut self, read: bool, write: bool, until: Instant) -> io::Result<()>;

    /// Ends both directions. May be called twice.
    fn shutdown(&mut self);

    /// What ends both directions from another thread, so that a `receive`, `send` or `wait` that is under way returns;
    /// a [`StopHandle`](crate::StopHandle) calls it, perhaps twice. Defaults to none: a stop is noticed behind the wait then.
    fn stop_handle(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        None
    }

    /// The other end, if it is an address that says whom one is connected to. Defaults to none.
    fn peer_address(&self) -> Option<SocketAddr> {
        None
    }

    /// This end: the name in EHLO where the machine has none. Defaults to none.
    fn local_address(&self) -> Option<SocketAddr> {
        None
    }

    /// Whether nobody else can listen, so that credentials may go without TLS. Defaults to false: a connection to this
    /// machine may be one to a proxy, and lead anywhere. It is true of Unix sockets.
    fn is_local(&self) -> bool {
        false
    }
}

/// What is left of the time, if anything.
pub(super) fn left(until: Instant) -> io::Result<Duration> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

impl Transport for TcpStream {
    fn receive(&mut self, room: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
        sys::receive(self, room, until)
    }

    fn send(&mut self, bytes: &[u8], until: Option<Instant>) -> io::Result<usize> {
        sys::send(self, bytes, until)
    }

    fn wait(&mut self, read: bool, write: bool, until: Instant) -> io::Result<()> {
        sys::wait(self, read, write, until)
    }

    fn shutdown(&mut self) {
        sys::end(self);
    }

    /// Costs a file descriptor.
    fn stop_handle(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        let socket = self.try_clone().ok()?;
        Some(Box::new(move || sys::end(&socket)))
    }

    fn peer_address(&self) -> Option<SocketAddr> {
        self.peer_addr().ok()
    }

    fn local_address(&self) -> Option<SocketAddr> {
        self.local_addr().ok()
    }
}

impl Transport for UnixStream {
    fn receive(&mut self, room: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
        sys::receive(self, room, until)
    }

    fn send(&mut self, bytes: &[u8], until: Option<Instant>) -> io::Result<usize> {
        sys::send(self, bytes, until)
    }

    fn wait(&mut self, read: bool, write: bool, until: Instant) -> io::Result<()> {
        sys::wait(self, read, write, until)
    }

    fn shutdown(&mut self) {
        sys::end(self);
    }

    /// Costs a file descriptor.
    fn stop_handle(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        let socket = self.try_clone().ok()?;
        Some(Box::new(move || sys::end(&socket)))
    }

    fn is_local(&self) -> bool {
        true
    }
}

/// Any `Read` and `Write` as a [`Transport`], for what knows no limits: a child's pipes, somebody else's tunnel.
///
/// **Its waits end when the stream says so, and not before.** No timeout, no deadline and no [`StopHandle`](crate::StopHandle)
/// can interrupt a `read` or `write` that hangs; a limit is noticed behind it. Give the stream limits of its own if it
/// can have them: an error of the kind `TimedOut` or `WouldBlock` counts as the end of the wait.
///
/// It cannot be looked at without waiting, either. So the client writes without hearing the server on the side: one
/// that answers before the end of a message and reads no more stands still against us. It does not see that the
/// server has closed, or has spoken unasked, before it reads the next reply: an unasked reply is taken for the answer to
/// the next command then, where any other transport would have noticed it. `flush` follows each `write`.
pub struct NoTimeouts<S> {
    stream: S,
    /// The next read without a limit may wait: TLS has to read before it can write.
    asked: bool,
}

impl<S: Read + Write + Send> NoTimeouts<S> {
    /// Wraps a stream.
    pub fn new(stream: S) -> NoTimeouts<S> {
        NoTimeouts { stream, asked: false }
    }
}

impl<S: Read + Write + Send> Transport for NoTimeouts<S> {
    fn receive(&mut self, room: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
        if until.is_none() && !std::mem::take(&mut self.asked) {
            return Err(ErrorKind::WouldBlock.into());
        }
        until.map_or(Ok(Duration::ZERO), left)?;
        loop {
            match self.stream.read(room) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn send(&mut self, bytes: &[u8], until: Option<Instant>) -> io::Result<usize> {
        until.map_or(Ok(Duration::ZERO), left)?;
        let n = loop {
            match self.stream.write(bytes) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
                done => break done?,
            }
        };
        self.stream.flush()?;
        Ok(n)
    }

    fn wait(&mut self, read: bool, write: bool, until: Instant) -> io::Result<()> {
        // What could not be written can be tried again; a read would wait for what may not come.
        self.asked = read && !write;
        let left = left(until)?;
        if write {
            sleep(left.min(Duration::from_millis(1))); // in case that it came back at once
        }
        Ok(())
    }

    /// Only dropping it ends it.
    fn shutdown(&mut self) {}
}

impl<S> fmt::Debug for NoTimeouts<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoTimeouts").finish_non_exhaustive()
    }
}

/// A socket of our own. It blocks: a read that waits is one system call, with the socket's own timeout as the clock.
pub(super) struct Socket {
    /// Shared with whoever may stop it.
    socket: Arc<OwnedSocket>,
    /// The socket's own read timeout, as it is set now.
    armed: Option<Duration>,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    is_local: bool,
}

impl Socket {
    /// Of a socket that blocks.
    pub fn new(socket: impl Transport + Into<OwnedSocket>) -> Socket {
        let (peer, local, is_local) = (socket.peer_address(), socket.local_address(), socket.is_local());
        Socket { socket: Arc::new(socket.into()), armed: None, peer, local, is_local }
    }

    /// The socket, for as long as this lives.
    pub fn handle(&self) -> Weak<OwnedSocket> {
        Arc::downgrade(&self.socket)
    }

    /// Sets the socket's timeout so that it ends before the limit: a system call only when the one that is set will
    /// not do. The caller looks at the clock again, so a shorter one does no harm unless it is very short.
    fn arm(&mut self, left: Duration) -> io::Result<()> {
        let often = |armed: Duration| armed < Duration::from_millis(500) && armed * 4 < left;
        if self.armed.is_some_and(|armed| armed <= left && !often(armed)) {
            return Ok(());
        }
        let wait = if left > Duration::from_secs(1) { left / 2 } else { left };
        let wait = wait.max(Duration::from_micros(1)); // none at all would be for ever
        sys::set_receive_timeout(&self.socket, wait)?;
        self.armed = Some(wait);
        Ok(())
    }
}

impl Transport for Socket {
    fn receive(&mut self, room: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
        let Some(until) = until else { return sys::receive(&self.socket, room, None) };
        loop {
            self.arm(left(until)?)?;
            if let Some(read) = sys::receive_blocking(&self.socket, room)? {
                return Ok(read);
            }
        }
    }

    fn send(&mut self, bytes: &[u8], until: Option<Instant>) -> io::Result<usize> {
        sys::send(&self.socket, bytes, until)
    }

    fn wait(&mut self, read: bool, write: bool, until: Instant) -> io::Result<()> {
        sys::wait(&self.socket, read, write, until)
    }

    fn shutdown(&mut self) {
        sys::end(&self.socket);
    }

    fn stop_handle(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        let socket = self.handle();
        Some(Box::new(move || {
            if let Some(socket) = socket.upgrade() {
                sys::end(socket);
            }
        }))
    }

    fn peer_address(&self) -> Option<SocketAddr> {
        self.peer
    }

    fn local_address(&self) -> Option<SocketAddr> {
        self.local
    }

    fn is_local(&self) -> bool {
        self.is_local
    }
}
