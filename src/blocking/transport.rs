//! Transports: the sockets that the client opens, and whatever the caller provides.

use std::{
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{Arc, Weak},
    thread::sleep,
    time::{Duration, Instant},
};

use crate::sys::{self, OwnedSocket};

/// A connection provided by the caller, for [`Builder::connect_over`](crate::Builder::connect_over).
///
/// `TcpStream` and `UnixStream` are transports, and [`NoTimeouts`] turns any `Read + Write` type into one. Implement
/// this trait for a tunnel or a serial line that supports time limits; only the first four methods are required.
///
/// No method may wait beyond its `until`: all time limits of the client depend on this.
pub trait Transport: Send {
    /// Reads some octets; `Ok(0)` means the end of the stream. If `until` is `None`, fails with
    /// [`ErrorKind::WouldBlock`] instead of waiting. Otherwise, waits for octets, and fails with
    /// [`ErrorKind::TimedOut`] once `until` has passed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WouldBlock`] or [`ErrorKind::TimedOut`], as described above. After [`ErrorKind::Interrupted`], the
    /// client calls the method again. Any other error ends the connection.
    fn receive(&mut self, room: &mut [u8], until: Option<Instant>) -> io::Result<usize>;

    /// Writes some octets, and returns how many (at least 1). `until` has the same meaning as in
    /// [`receive`](Transport::receive). Written octets must be sent without delay, because the client never flushes.
    ///
    /// # Errors
    ///
    /// The same as for [`receive`](Transport::receive).
    fn send(&mut self, bytes: &[u8], until: Option<Instant>) -> io::Result<usize>;

    /// Waits until octets can be read (if `read` is set) or written (if `write` is set). If both are set, waits for
    /// either. May occasionally return early: the client then tries to read or write, and waits again if necessary.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] once `until` has passed.
    fn wait(&mut self, read: bool, write: bool, until: Instant) -> io::Result<()>;

    /// Shuts down both directions. May be called twice.
    fn shutdown(&mut self);

    /// Returns a function that shuts down both directions from another thread, so that a `receive`, `send` or `wait`
    /// that is under way returns. A [`StopHandle`](crate::StopHandle) calls that function, possibly more than once.
    /// Defaults to `None`: a stop then takes effect only once the method that is under way has returned.
    fn stop_handle(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        None
    }

    /// Returns the address of the peer, if that address identifies the server. Defaults to `None`.
    fn peer_address(&self) -> Option<SocketAddr> {
        None
    }

    /// Returns the local address, which is sent in EHLO if there is no suitable host name. Defaults to `None`.
    fn local_address(&self) -> Option<SocketAddr> {
        None
    }

    /// Returns whether the connection is safe from eavesdropping, so that credentials may be sent without TLS.
    /// Defaults to false, because even a connection to this machine may lead to a proxy, and from there to anywhere.
    /// The implementation for `UnixStream` returns true.
    fn is_local(&self) -> bool {
        false
    }
}

/// Returns the time left until the limit, or fails if it has passed.
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

    /// Returns a function that shuts down a duplicate of the socket, which costs a file descriptor.
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

/// Turns any `Read + Write` type into a [`Transport`], for streams without time limits, such as the pipes of a child
/// process.
///
/// **A wait ends only when the call to the stream returns.** No timeout, deadline or [`StopHandle`](crate::StopHandle)
/// can interrupt a `read` or `write` that hangs; a limit takes effect only after that call returns. If the stream
/// supports time limits, set them: an error of the kind `TimedOut` or `WouldBlock` ends the wait.
///
/// The client cannot check for replies without waiting. While it writes, it does not read, so the connection hangs if
/// the server replies before the end of a message and then stops reading. Until it reads the next reply, the client
/// does not notice that the server has closed the connection or sent something unexpected. An unexpected reply is then
/// taken for the reply to the next command, whereas it would be detected with any other transport. The client calls
/// `flush` after each `write`.
pub struct NoTimeouts<S> {
    stream: S,
    /// Whether the next read without a limit may wait, because TLS has to read before it can write.
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
        // A failed write can simply be retried, but a read would wait for octets that may never arrive.
        self.asked = read && !write;
        let left = left(until)?;
        if write {
            sleep(left.min(Duration::from_millis(1))); // in case the write returned at once
        }
        Ok(())
    }

    /// Does nothing: the stream is closed only when it is dropped.
    fn shutdown(&mut self) {}
}

impl<S> fmt::Debug for NoTimeouts<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoTimeouts").finish_non_exhaustive()
    }
}

/// A socket that the client has opened.
pub(super) struct Socket {
    /// Shared with the stop handle.
    socket: Arc<OwnedSocket>,
    receiver: sys::Receiver,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    is_local: bool,
}

impl Socket {
    /// Wraps a socket that `sys` has opened, and that is now connected.
    pub fn new(socket: impl Transport + Into<OwnedSocket>) -> io::Result<Socket> {
        let (peer, local, is_local) = (socket.peer_address(), socket.local_address(), socket.is_local());
        let socket = socket.into();
        let receiver = sys::Receiver::new(&socket)?;
        Ok(Socket { socket: Arc::new(socket), receiver, peer, local, is_local })
    }

    /// Returns a reference to the socket, which is valid for as long as `self` exists.
    pub fn handle(&self) -> Weak<OwnedSocket> {
        Arc::downgrade(&self.socket)
    }
}

impl Transport for Socket {
    fn receive(&mut self, room: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
        match until {
            Some(until) => self.receiver.receive(&self.socket, room, until),
            None => sys::receive(&self.socket, room, None),
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
