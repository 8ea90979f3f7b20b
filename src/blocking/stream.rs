//! The stream of a connection: a transport, with or without TLS, and with a deadline for every wait.
//!
//! How a socket is read without waiting, or until a limit, differs between systems: see `sys`.

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
    race::{QUEUE_DELAY, Race},
    sys::{CAN_ACKNOWLEDGE, OwnedSocket, acknowledge, start, start_unix, wait_for_any},
    tls::{Connector, Handshake, MAX_STEPS, TlsSettings, TlsStream},
};

/// How often work that cannot be interrupted checks whether it was stopped.
pub(super) const GLANCE: Duration = Duration::from_millis(50);

/// Minimum time that must remain for a TLS connector to be built while connecting.
const LONG: Duration = Duration::from_secs(1);

pub(super) struct Stream {
    inner: Inner,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    is_local: bool,
    acks: Acks,
    /// Whether the other end of the connection is a proxy.
    is_forwarded: bool,
    /// Registers the connection with a stop handle.
    watch: Option<Watch>,
}

enum Inner {
    Plain(Timed),
    Tls(Box<TlsStream<Timed>>),
    Closed,
}

/// Who acknowledges TCP segments, and when.
enum Acks {
    /// The system, perhaps late: the caller made the transport, or the system cannot acknowledge at once.
    Delayed,
    /// Nobody: a Unix socket needs no acknowledgements.
    None,
    /// The client, at once.
    Own(Weak<OwnedSocket>),
}

/// Adapts a transport to `Read` and `Write`, which TLS needs. The time limit is set from outside.
///
/// One read by the TLS library can cause any number of reads here, because records without content (KeyUpdate, session
/// tickets, renegotiation) are processed without returning. So the clock, or the number of steps, is checked before
/// each of them.
struct Timed {
    transport: Box<dyn Transport>,
    until: Option<Instant>,
    /// Number of reads and writes left in a call without a limit, which must neither wait nor work for long.
    steps: u32,
    blocked: Blocked,
}

/// The directions that would have to wait: TLS may have to read in order to write.
#[derive(Debug, Clone, Copy, Default)]
struct Blocked {
    read: bool,
    write: bool,
}

impl Builder {
    /// Does everything that [`connect`](Builder::connect) does after connecting, but over an existing connection, such
    /// as one through a tunnel or a proxy, or a pair of pipes (with [`NoTimeouts`](crate::NoTimeouts)).
    ///
    /// The host is used only as the name for TLS and, together with the port, in OAUTHBEARER. The time limit for
    /// connecting is ignored. By default, credentials are sent without TLS only if the transport is
    /// [local](Transport::is_local). A `TcpStream` never counts as local, not even if it is connected to a loopback
    /// address, because the peer may be a proxy or a tunnel. The client cannot [reconnect](Client::reconnect).
    ///
    /// # Errors
    ///
    /// The same as for [`connect`](Builder::connect). The connection is closed after any of them.
    pub fn connect_over(&self, transport: impl Transport + 'static) -> Result<Client, Error> {
        self.over(Stream::over(Box::new(transport)))
    }
}

impl Stream {
    /// Connects to the first address that answers. The next address is tried when the previous one has failed or not
    /// answered for [`ATTEMPT_DELAY`](crate::race::ATTEMPT_DELAY). `tls` is passed if TLS is certain to be used.
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
                        // The answer takes a round trip. Meanwhile, the connector is built, which takes some 50 ms. The
                        // handshake reports any errors.
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
                socket.set_nodelay(true)?;
                let socket = Socket::new(socket)?;
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
                    let socket = Socket::new(socket?)?;
                    return Ok(Stream { acks: Acks::None, ..Stream::over(Box::new(socket)) });
                }
            }
        }
    }

    fn over(transport: Box<dyn Transport>) -> Stream {
        let (peer, local, is_local) =
            (transport.peer_address(), transport.local_address(), transport.is_local());
        let timed = Timed { transport, until: None, steps: MAX_STEPS, blocked: Blocked::default() };
        Stream {
            inner: Inner::Plain(timed),
            peer,
            local,
            is_local,
            acks: Acks::Delayed,
            is_forwarded: false,
            watch: None,
        }
    }

    /// Registers the connection with the stop handle.
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

    /// Creates a closed stream.
    pub fn closed() -> Stream {
        Stream {
            inner: Inner::Closed,
            peer: None,
            local: None,
            is_local: false,
            acks: Acks::None,
            is_forwarded: false,
            watch: None,
        }
    }

    /// Returns whether nobody else can eavesdrop on the connection.
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// Returns whether no delayed acknowledgement can hold up the server.
    pub fn acknowledges_at_once(&self) -> bool {
        !self.is_forwarded && !matches!(self.acks, Acks::Delayed)
    }

    /// Records that the connection leads through a proxy. What the server sends is acknowledged by the proxy.
    pub fn forwarded(&mut self) {
        self.is_forwarded = true;
    }

    /// Acknowledges what has arrived, unless that is left to the system.
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

    /// Returns the TLS stream, if the connection uses TLS.
    pub fn tls(&self) -> Option<&TlsStream<impl Read + Write>> {
        match &self.inner {
            Inner::Tls(stream) => Some(stream),
            _ => None,
        }
    }

    /// Reads what has arrived, without waiting.
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

    /// Writes some of `bytes`. If the write has to wait and octets arrive first, reads those instead.
    pub fn write_or_read(&mut self, bytes: &[u8], room: &mut [u8], until: Instant) -> io::Result<Moved> {
        loop {
            self.timed()?.begin(None);
            match self.io()?.write_some(bytes) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                done => return done.map(Moved::Written),
            }
            // TLS may have read octets already, which `poll` does not see.
            match self.io()?.read_some(room) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let timed = self.timed()?;
                    match timed.transport.wait(timed.blocked.read, timed.blocked.write, until) {
                        Err(e) if e.kind() == ErrorKind::Interrupted => {}
                        done => done?,
                    }
                    left(until)?; // records without content could arrive indefinitely
                }
                done => return done.map(Moved::Read),
            }
        }
    }

    /// Reads the next piece of a source. Replies are not read meanwhile.
    pub fn fetch(
        &mut self,
        source: &mut Source<'_>,
        _: &mut [u8],
        _: Instant,
        until: Instant,
    ) -> io::Result<Fetched> {
        source.fill(until).map(|filled| if filled { Fetched::Piece } else { Fetched::Nothing })
    }

    /// Returns the connector, and builds it if needed. Building cannot be interrupted, but counts towards the limit.
    pub fn prepare_tls(tls: &TlsSettings, until: Instant) -> Result<Connector, Error> {
        let connector = tls.connector()?;
        left(until).map_err(|_| Error::Timeout(Phase::Tls))?;
        Ok(connector)
    }

    pub fn start_tls(&mut self, tls: &TlsSettings, until: Instant) -> Result<(), Error> {
        let connector = Stream::prepare_tls(tls, until)?;
        let name = tls.name().unwrap_or_default();
        let Inner::Plain(mut timed) = std::mem::replace(&mut self.inner, Inner::Closed) else {
            return Err(Error::Internal("TLS handshake on a closed or already encrypted connection"));
        };
        timed.begin(Some(until));
        match connector.connect(name, timed) {
            Handshake::Done(stream) => {
                self.inner = Inner::Tls(Box::new(stream));
                Ok(())
            }
            // The transport has waited until the limit.
            Handshake::Paused(_) => Err(Error::Timeout(Phase::Tls)),
            Handshake::Failed(e) => Err(e),
        }
    }

    /// Sends close_notify over TLS if that is possible without waiting, and closes the connection.
    pub fn close(&mut self) {
        if let Inner::Tls(stream) = &mut self.inner {
            stream.get_mut().begin(None);
            drop(stream.shutdown()); // a failure changes nothing
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

/// Waits until one of the sockets is connected or has failed. Failures are recorded in the race.
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

/// The part of `Read` and `Write` that is used here. A trait object with all their methods would add 9 kB to a small
/// program.
trait ReadWrite {
    fn read_some(&mut self, room: &mut [u8]) -> io::Result<usize>;
    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

impl<T: Read + Write> ReadWrite for T {
    fn read_some(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.read(room)
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write(bytes)
    }
}

impl Timed {
    /// Begins a call that may wait up to a limit, or not at all.
    fn begin(&mut self, until: Option<Instant>) {
        (self.until, self.steps, self.blocked) = (until, MAX_STEPS, Blocked::default());
    }

    /// Fails if no further read or write may be made.
    fn step(&mut self) -> io::Result<()> {
        match (self.until, self.steps.checked_sub(1)) {
            (Some(until), _) if Instant::now() < until => Ok(()),
            (None, Some(left)) => {
                self.steps = left;
                Ok(())
            }
            (Some(_), _) | (None, None) => Err(ErrorKind::WouldBlock.into()),
        }
    }

    /// Reads or writes, and retries after an interruption by a signal.
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

/// Turns a timeout into "would block", the only error that TLS does not take for a broken transport.
fn try_again(e: io::Error) -> io::Error {
    match e.kind() {
        ErrorKind::TimedOut => ErrorKind::WouldBlock.into(),
        _ => e,
    }
}

fn would_block<T>(result: &io::Result<T>) -> bool {
    result.as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
}
