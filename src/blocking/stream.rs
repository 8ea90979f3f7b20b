//! The connection: a transport, bare or in TLS, with a deadline on every wait.
//!
//! The socket stays a blocking one. A read that waits is one system call, with the socket's own timeout as the clock;
//! a read or write that must not wait says so (`MSG_DONTWAIT`), and `poll` waits for either direction.

use std::{
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Weak,
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    body::Source,
    client::{Builder, Client, Fetched, Moved},
    stop::{StopHandle, Watch},
    transport::{Socket, Transport, left},
};
use crate::{
    Error, Phase,
    attempts::{QUEUE_DELAY, Race},
    sys::{CAN_ACKNOWLEDGE, OwnedSocket, acknowledge, start, start_unix, wait_for_any},
    tls::{Connector, Handshake, MAX_STEPS, TlsSettings, TlsStream, end_point, peer_certificate, translate},
};

/// What nothing can interrupt looks so often whether it was stopped.
pub(super) const GLANCE: Duration = Duration::from_millis(50);

/// A limit that building a TLS connector does not use up.
const LONG: Duration = Duration::from_secs(1);

pub(super) struct Stream {
    inner: Inner,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    is_local: bool,
    acks: Acks,
    /// Lets a stop handle know of it.
    watch: Option<Watch>,
}

enum Inner {
    Plain(Timed),
    Tls(Box<TlsStream<Timed>>),
    Closed,
}

/// Who acknowledges what has arrived, and when.
enum Acks {
    /// The system, perhaps late: the transport is not ours, or the system knows no other way.
    Delayed,
    /// Nobody: a Unix socket needs none.
    None,
    /// We can, at once.
    Own(Weak<OwnedSocket>),
}

/// A transport as TLS wants it, `Read` and `Write`; how long it waits is set from outside.
///
/// One read of the TLS library is any number of reads here: records that carry no content (KeyUpdate, session tickets,
/// renegotiation) are taken without coming back. So the clock, or the number of steps, is checked before each of them.
struct Timed {
    transport: Box<dyn Transport>,
    until: Option<Instant>,
    /// Reads and writes that are left without a limit: what must not wait must not work for long either.
    steps: u32,
    blocked: Blocked,
}

/// What would have had to wait: TLS may have to read in order to write.
#[derive(Debug, Clone, Copy, Default)]
struct Blocked {
    read: bool,
    write: bool,
}

impl Builder {
    /// As [`connect`](Builder::connect), over a connection that is there already: a tunnel, a proxy, a pair of pipes
    /// (by [`NoTimeouts`](crate::NoTimeouts)). Whom to reach is not asked then (of the host only its name counts, for TLS;
    /// the port and the limit of connecting count for nothing). Credentials go without TLS only where the transport
    /// says that it is [local](Transport::is_local). Such a client cannot [reconnect](Client::reconnect).
    ///
    /// A `TcpStream` is never local, also to a loopback address: that may be a proxy or a tunnel.
    ///
    /// # Errors
    ///
    /// As of [`connect`](Builder::connect). The connection is closed then.
    pub fn connect_over(&self, transport: impl Transport + 'static) -> Result<Client, Error> {
        self.over(Stream::over(Box::new(transport)))
    }
}

impl Stream {
    /// To the first of the addresses that answers: the next one is tried when one has failed, or has not answered for a
    /// moment. `tls` will be needed then.
    pub fn connect(
        addresses: Vec<SocketAddr>,
        local: Option<SocketAddr>,
        until: Instant,
        stop_handle: &StopHandle,
        mut tls: Option<&TlsSettings>,
    ) -> io::Result<Stream> {
        let mut race = Race::new(addresses, Instant::now());
        let mut running: Vec<(SocketAddr, TcpStream)> = Vec::new();
        loop {
            let now = Instant::now();
            if now >= until || stop_handle.is_stopped() {
                return Err(race.lost(running.into_iter().map(|(address, _)| address)));
            }
            if let Some(address) = race.turn(now) {
                match start(address, local) {
                    Ok(socket) => {
                        running.push((address, socket));
                        // The answer is a round trip away: time for what takes some 50 ms. What is wrong with it, the
                        // handshake tells.
                        let tls = tls.take().filter(|_| until - now > LONG);
                        let _built_or_told_later = tls.map(TlsSettings::connector);
                    }
                    Err(e) => race.failed(address, e, now),
                }
            } else if running.is_empty() && race.next_turn().is_none() {
                return Err(race.lost([]));
            }
            let turn = race.next_turn().unwrap_or(until);
            let glance = until.min(turn).min(now + GLANCE);
            if let Some(socket) = first_to_arrive(&mut running, &mut race, glance)? {
                socket.set_nonblocking(false)?;
                socket.set_nodelay(true)?;
                let socket = Socket::new(socket);
                let acks = if CAN_ACKNOWLEDGE { Acks::Own(socket.handle()) } else { Acks::Delayed };
                let stream = Stream::over(Box::new(socket));
                let is_local = stream.peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback());
                return Ok(Stream { is_local, acks, ..stream });
            }
        }
    }

    pub fn connect_unix(path: &Path, until: Instant, stop_handle: &StopHandle) -> io::Result<Stream> {
        loop {
            let now = Instant::now();
            if now >= until || stop_handle.is_stopped() {
                return Err(ErrorKind::TimedOut.into());
            }
            match start_unix(path) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => sleep(QUEUE_DELAY.min(until - now)),
                socket => {
                    let socket = socket?;
                    socket.set_nonblocking(false)?;
                    return Ok(Stream { acks: Acks::None, ..Stream::over(Box::new(Socket::new(socket))) });
                }
            }
        }
    }

    fn over(transport: Box<dyn Transport>) -> Stream {
        let (peer, local, is_local) =
            (transport.peer_address(), transport.local_address(), transport.is_local());
        let timed = Timed { transport, until: None, steps: MAX_STEPS, blocked: Blocked::default() };
        Stream { inner: Inner::Plain(timed), peer, local, is_local, acks: Acks::Delayed, watch: None }
    }

    /// From here on the stop handle ends it.
    pub fn watched_by(&mut self, stop_handle: &StopHandle) {
        let end = self.timed().ok().and_then(|timed| timed.transport.stop_handle());
        self.watch = end.map(|end| stop_handle.watch(end));
    }

    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    pub fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// None at all.
    pub fn closed() -> Stream {
        Stream {
            inner: Inner::Closed,
            peer: None,
            local: None,
            is_local: false,
            acks: Acks::None,
            watch: None,
        }
    }

    /// Whether nobody else can listen.
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// Whether no delayed acknowledgement of ours can hold up the server.
    pub fn acknowledges_at_once(&self) -> bool {
        !matches!(self.acks, Acks::Delayed)
    }

    /// Acknowledges what has arrived, if that is for us to do.
    pub fn acknowledge(&mut self) {
        if let Acks::Own(socket) = &self.acks {
            if let Some(socket) = socket.upgrade() {
                acknowledge(&socket);
            }
        }
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
        self.timed()?.begin(None);
        self.io()?.read_some(room)
    }

    /// Writes what can be written without waiting.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.timed()?.until = None;
        self.io()?.write_some(bytes)
    }

    pub fn read(&mut self, room: &mut [u8], until: Instant) -> io::Result<usize> {
        self.timed()?.begin(Some(until));
        match self.io()?.read_some(room) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
            done => done,
        }
    }

    /// Writes some of `bytes`. If that would have to wait, whatever comes first: room to write, or octets to read.
    pub fn write_or_read(&mut self, bytes: &[u8], room: &mut [u8], until: Instant) -> io::Result<Moved> {
        loop {
            self.timed()?.begin(None);
            match self.io()?.write_some(bytes) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                done => return done.map(Moved::Written),
            }
            // Octets may be at hand that no `poll` sees: TLS has read them already.
            match self.io()?.read_some(room) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let timed = self.timed()?;
                    match timed.transport.wait(timed.blocked.read, timed.blocked.write, until) {
                        Err(e) if e.kind() == ErrorKind::Interrupted => {}
                        done => done?,
                    }
                    left(until)?; // octets that bring nothing can come for ever
                }
                done => return done.map(Moved::Read),
            }
        }
    }

    /// Reads the next piece of a source. Nothing can be done meanwhile.
    pub fn fetch(
        &mut self,
        source: &mut Source<'_>,
        _: &mut [u8],
        _: Instant,
        until: Instant,
    ) -> io::Result<Fetched> {
        source.fill(until).map(|filled| if filled { Fetched::Piece } else { Fetched::Nothing })
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
            return Err(Error::Internal("TLS on a connection that is closed, or has it already"));
        };
        timed.begin(Some(until));
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
            stream.get_mut().begin(None);
            drop(stream.shutdown()); // whether the server hears it changes nothing
        }
        if let Ok(timed) = self.timed() {
            timed.transport.shutdown();
        }
        (self.inner, self.watch) = (Inner::Closed, None);
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

/// Waits until one of them has arrived, or has failed; the race learns of those.
fn first_to_arrive(
    running: &mut Vec<(SocketAddr, TcpStream)>,
    race: &mut Race,
    until: Instant,
) -> io::Result<Option<TcpStream>> {
    let mut is_done = wait_for_any(running.iter().map(|(_, socket)| socket), until)?.into_iter();
    let (done, rest) = std::mem::take(running).into_iter().partition(|_| is_done.next() == Some(true));
    *running = rest;
    let done: Vec<(SocketAddr, TcpStream)> = done;
    for (address, socket) in done {
        match socket.take_error()? {
            None => return Ok(Some(socket)),
            Some(e) => race.failed(address, e, Instant::now()),
        }
    }
    Ok(None)
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("peer", &self.peer).field("encrypted", &self.is_encrypted()).finish()
    }
}

/// What is used of `Read` and `Write`: an object of theirs would bring all their methods, 9 kB in a small program.
trait ReadWrite {
    fn read_some(&mut self, room: &mut [u8]) -> io::Result<usize>;
    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

impl<T: Read + Write> ReadWrite for T {
    fn read_some(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.read(room).map_err(translate)
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write(bytes).map_err(translate)
    }
}

impl Timed {
    /// A call begins that may wait up to a limit, or not at all.
    fn begin(&mut self, until: Option<Instant>) {
        (self.until, self.steps, self.blocked) = (until, MAX_STEPS, Blocked::default());
    }

    /// Whether another read or write may be made.
    fn step(&mut self) -> io::Result<()> {
        match (self.until, self.steps.checked_sub(1)) {
            (Some(until), _) => left(until).map(drop).map_err(try_again),
            (None, Some(left)) => {
                self.steps = left;
                Ok(())
            }
            (None, None) => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// Reads or writes; what a signal has interrupted is tried again.
    fn carry(
        &mut self,
        mut work: impl FnMut(&mut dyn Transport, Option<Instant>) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            self.step()?;
            match work(&mut *self.transport, self.until) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                done => return done.map_err(try_again),
            }
        }
    }
}

impl Read for Timed {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = self.carry(|transport, until| transport.receive(room, until));
        self.blocked.read |= would_block(&read);
        read
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.carry(|transport, until| transport.send(bytes, until));
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
