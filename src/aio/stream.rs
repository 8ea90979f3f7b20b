//! The stream of a connection: a transport, with or without TLS, and with a deadline for every wait.
//!
//! TLS uses `Read` and `Write`. So an adapter polls the transport (any `AsyncRead` and `AsyncWrite` type)
//! with the waker of the current task, and turns "pending" into "would block".

use std::{
    any::Any,
    fmt,
    future::{Future, poll_fn},
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Instant,
};

use smol::{
    Async, Timer,
    future::{FutureExt, yield_now},
    io::{AsyncRead, AsyncWrite},
    unblock,
};

use super::{
    body::Source,
    client::{Builder, Client, Fetched, Moved},
    stop::StopHandle,
};
use crate::{
    Error, Phase,
    race::{QUEUE_DELAY, Race},
    sys::{CAN_ACKNOWLEDGE, acknowledge, is_unix_socket, start, start_unix},
    tls::{Connector, Handshake, MAX_STEPS, Paused, TlsSettings, TlsStream},
};

/// Any asynchronous stream.
trait Transport: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Transport for T {}

/// Maximum number of consecutive writes without waiting, of about 64 KiB each, before other tasks can run. Content is
/// encoded between them, so a server that reads fast would otherwise keep the executor's thread busy.
const MAX_WRITES: u32 = 16;

pub(super) struct Stream {
    inner: Inner,
    alarm: Alarm,
    /// Number of consecutive writes that did not have to wait.
    writes: u32,
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    is_local: bool,
    /// Whether no delayed acknowledgement can hold up the server.
    acknowledges_at_once: bool,
}

enum Inner {
    Plain(Polled),
    Tls(Box<TlsStream<Polled>>),
    Closed,
}

/// Adapts a transport to `Read` and `Write`, which TLS needs. The waker is set from outside.
///
/// One read by the TLS library can cause any number of reads here, because records without content (KeyUpdate, session
/// tickets, renegotiation) are processed without returning. So a poll makes a limited number of them before the
/// executor and the timer can run.
struct Polled {
    carrier: Carrier,
    waker: Waker,
    /// Number of reads and writes left in this poll.
    steps: u32,
    /// Whether written octets may still be buffered, as in a stream made by the caller.
    unflushed: bool,
}

enum Carrier {
    /// A TCP socket that the client has opened.
    Own(Async<TcpStream>),
    Other(Pin<Box<dyn Transport>>),
}

/// A socket that is being connected.
type Attempt = Pin<Box<dyn Future<Output = io::Result<Async<TcpStream>>> + Send>>;

impl Builder {
    /// Does everything that [`connect`](Builder::connect) does after connecting, but over an existing stream, such as
    /// one through a tunnel or a proxy. A buffered stream is fine: it is flushed before each wait for a reply.
    ///
    /// The host is used only as the name for TLS and, together with the port, in OAUTHBEARER. The time limit for
    /// connecting is ignored. By default, credentials are sent without TLS only if nobody can eavesdrop, that is, over
    /// a Unix socket from [`smol::Async`] or `smol::net`. A TCP socket never counts as [local](crate::Security),
    /// because even a connection to this machine may lead to a proxy. The client cannot [reconnect](Client::reconnect).
    ///
    /// # Errors
    ///
    /// The same as for [`connect`](Builder::connect). The connection is closed after any of them.
    pub async fn connect_over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send + 'static,
    ) -> Result<Client, Error> {
        self.over(Stream::over(stream)).await
    }
}

impl Stream {
    /// Connects to the first address that answers. The next address is tried when the previous one has failed or not
    /// answered for [`ATTEMPT_DELAY`](crate::race::ATTEMPT_DELAY). `tls` is passed if TLS is certain to be used.
    pub async fn connect(
        addresses: Vec<SocketAddr>,
        local: Option<SocketAddr>,
        until: Instant,
        _: &StopHandle,
        tls: Option<&TlsSettings>,
    ) -> io::Result<Stream> {
        let mut tls = tls.filter(|tls| tls.built().is_none());
        let mut race = Race::new(addresses, Instant::now());
        let mut running: Vec<(SocketAddr, Attempt)> = Vec::new();
        let (mut alarm, mut turn) = (Alarm::default(), Alarm::default());
        let run = poll_fn(|cx| {
            loop {
                while let Some(address) = race.turn(Instant::now()) {
                    running.push((address, Box::pin(arrive(address, local))));
                }
                if let Some(socket) = first_to_arrive(&mut running, &mut race, cx) {
                    return Poll::Ready(Ok(Some(socket)));
                }
                if let Some(tls) = tls.take().cloned() {
                    // The first attempt is under way. The handshake reports errors of the connector.
                    unblock(move || drop(tls.connector())).detach();
                }
                match race.next_turn() {
                    None if running.is_empty() => return Poll::Ready(Ok(None)),
                    None => return Poll::Pending,
                    Some(at) if turn.poll(at, cx).is_pending() => return Poll::Pending,
                    Some(_) => {}
                }
            }
        });
        match alarm.within(until, run).await {
            Ok(Some(socket)) => {
                socket.get_ref().set_nodelay(true)?;
                let ends = Ends::of(&socket);
                let is_local = ends.peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback());
                let stream = Stream::new(Carrier::Own(socket), Ends { is_local, ..ends });
                Ok(Stream { acknowledges_at_once: CAN_ACKNOWLEDGE, ..stream })
            }
            _ => Err(race.lost(running.into_iter().map(|(address, _)| address))),
        }
    }

    pub async fn connect_unix(path: &Path, until: Instant, _: &StopHandle) -> io::Result<Stream> {
        let connect = async {
            loop {
                match start_unix(path) {
                    Err(e) if e.kind() == ErrorKind::WouldBlock => drop(Timer::after(QUEUE_DELAY).await),
                    socket => {
                        let stream = Stream::over(Async::new_nonblocking(socket?)?);
                        return Ok(Stream { acknowledges_at_once: true, ..stream });
                    }
                }
            }
        };
        Alarm::default().within(until, connect).await
    }

    fn over(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Stream {
        let ends = Ends::of(&stream);
        Stream::new(Carrier::Other(Box::pin(stream)), ends)
    }

    fn new(carrier: Carrier, ends: Ends) -> Stream {
        let polled = Polled { carrier, waker: Waker::noop().clone(), steps: MAX_STEPS, unflushed: false };
        Stream {
            inner: Inner::Plain(polled),
            alarm: Alarm::default(),
            writes: 0,
            peer: ends.peer,
            local: ends.local,
            is_local: ends.is_local,
            acknowledges_at_once: false,
        }
    }

    /// Does nothing: drop the future to stop.
    pub fn watched_by(&mut self, _: &StopHandle) {}

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
            alarm: Alarm::default(),
            writes: 0,
            peer: None,
            local: None,
            is_local: false,
            acknowledges_at_once: true,
        }
    }

    /// Returns whether nobody else can eavesdrop on the connection.
    pub fn is_local(&self) -> bool {
        self.is_local
    }

    /// Returns whether no delayed acknowledgement can hold up the server.
    pub fn acknowledges_at_once(&self) -> bool {
        self.acknowledges_at_once
    }

    /// Records that the connection leads through a proxy. What the server sends is acknowledged by the proxy.
    pub fn forwarded(&mut self) {
        self.acknowledges_at_once = false;
    }

    /// Acknowledges what has arrived, unless that is left to the system.
    pub fn acknowledge(&mut self) {
        if let Ok(Polled { carrier: Carrier::Own(socket), .. }) = self.inner.polled() {
            acknowledge(socket);
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
        self.inner.wake(Waker::noop())?;
        self.inner.io()?.read(room)
    }

    /// Writes what can be written without waiting.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.wake(Waker::noop())?;
        let io = self.inner.io()?;
        let written = io.write(bytes)?;
        io.flush()?; // does not wait
        Ok(written)
    }

    pub async fn read(&mut self, room: &mut [u8], until: Instant) -> io::Result<usize> {
        let (inner, writes) = (&mut self.inner, &mut self.writes);
        let read = poll_fn(|cx| {
            inner.wake(cx.waker())?;
            let read = ready(inner.io()?.read(room));
            if read.is_pending() {
                *writes = 0;
            }
            read
        });
        self.alarm.within(until, read).await
    }

    /// Writes some of `bytes`. If the write has to wait and octets arrive first, reads those instead.
    pub async fn write_or_read(
        &mut self,
        bytes: &[u8],
        room: &mut [u8],
        until: Instant,
    ) -> io::Result<Moved> {
        if self.writes >= MAX_WRITES {
            self.writes = 0;
            yield_now().await;
        }
        let (inner, writes) = (&mut self.inner, &mut self.writes);
        let moved = poll_fn(|cx| {
            inner.wake(cx.waker())?;
            match ready(inner.io()?.write(bytes)) {
                Poll::Pending => {
                    *writes = 0;
                    ready(inner.io()?.read(room).map(Moved::Read))
                }
                written => {
                    *writes += 1;
                    written.map_ok(Moved::Written)
                }
            }
        });
        self.alarm.within(until, moved).await
    }

    /// Waits for the next piece of a source, until `soon`, and reads replies meanwhile.
    pub async fn fetch(
        &mut self,
        source: &mut Source<'_>,
        room: &mut [u8],
        soon: Instant,
        until: Instant,
    ) -> io::Result<Fetched> {
        let inner = &mut self.inner;
        // Errors of the source are nested, so that they can be distinguished from a timeout of the wait.
        let fetched = poll_fn(|cx| {
            if let Poll::Ready(filled) = source.poll_fill(cx) {
                return Poll::Ready(Ok(
                    filled.map(|filled| if filled { Fetched::Piece } else { Fetched::Nothing })
                ));
            }
            let read = inner.wake(cx.waker()).and_then(|()| inner.io()?.read(room));
            ready(read).map(|read| Ok(Ok(Fetched::Read(read))))
        });
        match self.alarm.within(soon.min(until), fetched).await {
            Ok(fetched) => fetched,
            Err(_) if soon < until => {
                source.gave_up();
                Ok(Fetched::Nothing)
            }
            Err(e) => Err(e),
        }
    }

    /// Returns the connector, and builds it if needed. Building it reads many certificates.
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
            return Err(Error::Internal("TLS handshake on a closed or already encrypted connection"));
        };
        let mut step = Some(Step::First(polled));
        let handshake = poll_fn(|cx| {
            let next = match step.take() {
                Some(Step::First(mut polled)) => {
                    polled.begin(cx.waker());
                    connector.connect(name, polled)
                }
                Some(Step::Paused(mut paused)) => {
                    paused.get_mut().begin(cx.waker());
                    paused.resume(name)
                }
                None => return Poll::Ready(Err(ErrorKind::NotConnected.into())), // polled again after its end
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

    /// Sends close_notify over TLS if that is possible without waiting, and closes the connection.
    pub fn close(&mut self) {
        if self.inner.wake(Waker::noop()).is_err() {
            return;
        }
        if let Inner::Tls(stream) = &mut self.inner {
            drop(stream.shutdown()); // a failure changes nothing
        }
        self.inner = Inner::Closed;
    }
}

/// What is known about a stream that may be a socket.
#[derive(Default)]
struct Ends {
    peer: Option<SocketAddr>,
    local: Option<SocketAddr>,
    is_local: bool,
}

impl Ends {
    fn of(stream: &dyn Any) -> Ends {
        let tcp = |peer: io::Result<SocketAddr>, local: io::Result<SocketAddr>| Ends {
            peer: peer.ok(),
            local: local.ok(),
            is_local: false,
        };
        if let Some(socket) = stream.downcast_ref::<Async<TcpStream>>() {
            return tcp(socket.get_ref().peer_addr(), socket.get_ref().local_addr());
        }
        if let Some(socket) = stream.downcast_ref::<smol::net::TcpStream>() {
            return tcp(socket.peer_addr(), socket.local_addr());
        }
        Ends { is_local: is_unix_socket(stream), ..Ends::default() }
    }
}

async fn arrive(address: SocketAddr, local: Option<SocketAddr>) -> io::Result<Async<TcpStream>> {
    let socket = Async::new_nonblocking(start(address, local)?)?;
    socket.writable().await?;
    match socket.get_ref().take_error()? {
        None => Ok(socket),
        Some(e) => Err(e),
    }
}

/// Returns the first socket that is connected. Failures are recorded in the race.
fn first_to_arrive(
    running: &mut Vec<(SocketAddr, Attempt)>,
    race: &mut Race,
    cx: &mut Context<'_>,
) -> Option<Async<TcpStream>> {
    let mut arrived = None;
    running.retain_mut(|(address, attempt)| {
        let done = if arrived.is_none() { attempt.as_mut().poll(cx) } else { Poll::Pending };
        match done {
            Poll::Pending => return true,
            Poll::Ready(Ok(socket)) => arrived = Some(socket),
            Poll::Ready(Err(e)) => race.failed(*address, e, Instant::now()),
        }
        false
    });
    arrived
}

/// The state of a handshake between two polls.
enum Step {
    First(Polled),
    Paused(Paused<Polled>),
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

impl Inner {
    fn polled(&mut self) -> io::Result<&mut Polled> {
        match self {
            Inner::Plain(polled) => Ok(polled),
            Inner::Tls(stream) => Ok(stream.get_mut()),
            Inner::Closed => Err(ErrorKind::NotConnected.into()),
        }
    }

    /// Begins a poll: sets the waker.
    fn wake(&mut self, waker: &Waker) -> io::Result<()> {
        self.polled()?.begin(waker);
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

impl Carrier {
    fn io(&mut self) -> Pin<&mut dyn Transport> {
        match self {
            Carrier::Own(socket) => Pin::<&mut Async<TcpStream>>::new(socket),
            Carrier::Other(transport) => transport.as_mut(),
        }
    }
}

impl Polled {
    /// Begins a poll.
    fn begin(&mut self, waker: &Waker) {
        self.waker.clone_from(waker);
        self.steps = MAX_STEPS;
    }

    /// Fails if this poll may make no further read or write.
    fn step(&mut self) -> io::Result<()> {
        match self.steps.checked_sub(1) {
            Some(left) => {
                self.steps = left;
                Ok(())
            }
            None => self.later(),
        }
    }

    /// Ends this poll. The next one follows at once, and the limit is checked in between.
    fn later<T>(&self) -> io::Result<T> {
        self.waker.wake_by_ref();
        Err(ErrorKind::WouldBlock.into())
    }

    /// Polls again after an interruption by a signal.
    fn soon_again(&self, result: io::Result<usize>) -> io::Result<usize> {
        match result {
            Err(e) if e.kind() == ErrorKind::Interrupted => self.later(),
            done => done,
        }
    }
}

impl Read for Polled {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.step()?;
        let flushed = self.flush();
        let mut cx = Context::from_waker(&self.waker);
        match self.carrier.io().poll_read(&mut cx, room) {
            Poll::Pending => flushed.and(Err(ErrorKind::WouldBlock.into())),
            Poll::Ready(read) => self.soon_again(read),
        }
    }
}

impl Write for Polled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.step()?;
        let mut cx = Context::from_waker(&self.waker);
        match self.carrier.io().poll_write(&mut cx, bytes) {
            Poll::Pending => Err(ErrorKind::WouldBlock.into()),
            Poll::Ready(written) => {
                self.unflushed = true;
                self.soon_again(written)
            }
        }
    }

    /// Flushes without waiting: the next read continues the flush.
    fn flush(&mut self) -> io::Result<()> {
        if !self.unflushed {
            return Ok(());
        }
        let mut cx = Context::from_waker(&self.waker);
        match self.carrier.io().poll_flush(&mut cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(flushed) => {
                self.unflushed = false;
                flushed
            }
        }
    }
}

/// Turns "would block" into "pending".
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

/// A timer that is reset only after it has fired, or if it must fire sooner, so that most waits need no system call.
#[derive(Default)]
pub(super) struct Alarm {
    timer: Option<Timer>,
    rings: Option<Instant>,
}

impl Alarm {
    /// Does the work, or fails with [`ErrorKind::TimedOut`] at the limit.
    pub async fn within<T>(
        &mut self,
        until: Instant,
        work: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        let late = poll_fn(|cx| self.poll(until, cx).map(|()| Err(ErrorKind::TimedOut.into())));
        work.or(late).await
    }

    /// Returns ready once the limit has passed.
    fn poll(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.rings.is_none_or(|rings| rings > until) {
                (self.timer, self.rings) = (Some(Timer::at(until)), Some(until));
            }
            let Some(timer) = &mut self.timer else { return Poll::Pending }; // never: it was set above
            if Pin::new(timer).poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.rings = None; // a timer fires once
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            // The timer was set for an earlier wait.
        }
    }
}
