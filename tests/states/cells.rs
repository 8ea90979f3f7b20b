//! Runs the cells with the client that the parent module supplies.

use std::{
    io::{self, Read},
    net::TcpListener,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

use postino::{Delivery, Envelope, Outcome, Phase, Raw, Retry, Security};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;
use crate::{
    apart::{self, alone},
    footprint::Footprint,
    rules::{Expected, Fault, PERHAPS, check_tls, check_wire, code, expected, wrong},
    support::{BlackHole, PATIENCE, Peer, Server, closed, journal},
    table::{EVENTS, Event, STATES, Scene, State},
};

/// The limit that is expected to expire.
const SHORT: Duration = Duration::from_millis(300);
/// All other limits, which no session may come close to.
const LONG: Duration = Duration::from_secs(60);
/// Maximum duration of a call that is not expected to time out.
const CEILING: Duration = Duration::from_secs(15);
/// Number of concurrent sessions.
const WORKERS: usize = 16;
/// Number of attempts, each with twice the limit of the one before, for a session whose limit expires before its state
/// is reached.
const ATTEMPTS: u32 = 4;

/// Maximum growth of memory, in KiB. The growth depends on how many sessions ran at once. In the long run, this
/// detects a leak of a kilobyte per session, but not of an octet.
const GROWTH: usize = 8 * 1024;

/// Maximum number of additional threads. smol's pool keeps as many as were ever needed at once, which depends on
/// timing. Each session needs at most one.
const MORE_THREADS: usize = match CLIENT {
    ClientKind::Blocking => 0,
    ClientKind::Aio => WORKERS,
};

/// Size of message content that is not part of the script, in octets.
const CONTENT: usize = 200_000;

fn content() -> &'static [u8] {
    static CONTENT_ONCE: OnceLock<Vec<u8>> = OnceLock::new();
    CONTENT_ONCE.get_or_init(|| {
        let lines = (0..CONTENT / 1000).map(|number| format!("{number:.<998}\r\n"));
        lines.collect::<String>().into_bytes()
    })
}

/// One way for an event to happen.
#[derive(Debug, Clone)]
enum Take {
    /// The only way.
    Only,
    Says(String),
    SplitAt(usize),
    Floods(&'static str),
    /// TLS ends with close_notify.
    Notifies,
}

fn takes(scene: &Scene, event: Event) -> Vec<Take> {
    let says = |texts: &[&str]| texts.iter().map(|text| Take::Says(text.to_string())).collect();
    match event {
        Event::WrongClass => wrong(scene).iter().map(|code| Take::Says(format!("{code} what"))).collect(),
        // With fewer than five octets, the client would wait for the rest of the record header.
        Event::Garbage if scene.phase == Phase::Tls => says(&["garbage", "\\xff\\xfe\\0what"]),
        Event::Garbage => {
            says(&["garbage", "25", "250garbage", "\\xff\\xfe\\0", "199 no", "600 no", "+25 no"])
        }
        Event::Oversize => vec![Take::Floods("2"), Take::Floods("250-and more\r\n")],
        Event::Split if scene.phase != Phase::Tls => {
            let octets: usize = answer(scene).iter().map(|line| line.len() + "\r\n".len()).sum();
            (1..octets).map(Take::SplitAt).collect()
        }
        Event::Fin if scene.before.iter().any(|line| line == "-- tls good") => {
            vec![Take::Only, Take::Notifies]
        }
        _ => vec![Take::Only],
    }
}

/// The lines of the expected reply or, if no reply is due, of a refusal.
fn answer(scene: &Scene) -> Vec<String> {
    if scene.is_unasked() {
        vec![format!("{} no", code(Event::Never))]
    } else {
        scene.good.iter().map(|line| line.trim_start_matches("S: ").to_owned()).collect()
    }
}

/// One session.
#[derive(Clone)]
struct Session {
    scene: Arc<Scene>,
    event: Event,
    take: Take,
}

/// Why a session did not succeed.
enum Trouble {
    /// A limit passed before the state was reached.
    NotThere,
    Wrong(String),
}

/// What a call did.
#[derive(Debug)]
enum Done {
    Connected(Box<Client>),
    Sent(Delivery),
    Said,
}

impl Done {
    fn connected(client: Client) -> Done {
        Done::Connected(Box::new(client))
    }
}

/// The result of a call; `None` if its future was dropped.
type Made = Option<Result<Done, Error>>;

/// The caller's connection for the client, if it does not connect itself.
enum Link {
    None,
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The channels of the client's side of a session.
struct Ends {
    go: Sender<()>,
    told: Receiver<()>,
    /// Does what `told` does for the code that cancels the call.
    bell: Bell,
    give: Sender<UnixStream>,
    is_ready: Receiver<()>,
}

/// What the server's side of a session needs.
struct Part {
    session: Session,
    more: Vec<String>,
    /// Receives the client's end of a Unix socket, whose send buffer is to be filled.
    end: Option<Receiver<UnixStream>>,
    /// Signals that the client may begin.
    ready: Sender<()>,
    /// Signals that the client is idle, or in the middle of its content.
    go: Receiver<()>,
    /// Reports that the state has been reached.
    told: Box<dyn Fn() + Send>,
    /// Signals that the client has given up.
    done: Receiver<()>,
    /// What was still unread when the client gave up, without the octets that filled the buffer.
    unread: Arc<Mutex<Vec<u8>>>,
}

impl Part {
    fn play(self, peer: &mut Peer) {
        let Session { scene, event, .. } = &self.session;
        let blocked = *event == Event::WriteBlocked;
        let blocked_end = self.end.as_ref().map(|end| end.recv_timeout(PATIENCE).unwrap());
        let mut before = scene.before.clone();
        let words = before.iter().rev().take_while(|line| line.starts_with("S:")).count();
        // The replies that make the client send something.
        let trigger = before.split_off(before.len() - if blocked && !scene.is_unasked() { words } else { 0 });
        if let (true, Some(end)) = (before.is_empty() && trigger.is_empty(), &blocked_end) {
            Peer::clog(end);
        }
        self.ready.send(()).unwrap();
        peer.may_run_ahead = scene.says("-- read"); // the client does not pause within its content
        peer.play(&before.join("\n"));
        if scene.is_unasked() {
            self.go.recv_timeout(PATIENCE).expect("the client should reach the state");
        }
        if let (true, Some(end)) = (!trigger.is_empty() || scene.is_unasked(), &blocked_end) {
            Peer::clog(end);
        }
        drop(blocked_end);
        if blocked {
            (self.told)();
            peer.play(&trigger.join("\n"));
            self.done.recv_timeout(PATIENCE).expect("the client should give up");
            let rest = peer.rest_in_clear();
            let clogged = rest.iter().rev().take_while(|b| Peer::CLOG.contains(b)).count();
            assert!(clogged > 0, "the send buffer was not full");
            self.unread.lock().unwrap().extend(&rest[..rest.len() - clogged]);
            return;
        }
        peer.play(&scene.asks.join("\n"));
        // In a flight, the client leaves as soon as it notices the extra line.
        peer.may_leave = scene.due() > 0 && *event == Event::ExtraLine;
        if scene.phase == Phase::Tls {
            self.happens_in_handshake(peer);
        } else {
            self.happens(peer);
        }
        if !matches!(event, Event::Fin | Event::Reset) {
            peer.play(&self.more.join("\n").replace(PERHAPS, "-- ignore\n-- silence"));
        }
    }

    fn happens(&self, peer: &mut Peer) {
        let Session { scene, event, take } = &self.session;
        (self.told)();
        match (event, take) {
            (Event::Good, _) => peer.play(&scene.good.join("\n")),
            (Event::Later | Event::Never | Event::Closing, _) => {
                peer.play(&format!("S: {} no", code(*event)));
            }
            (_, Take::Says(text)) => peer.play(&format!("S: {text}")),
            (_, Take::Floods(text)) => flood(peer, text),
            (Event::ExtraLine, _) => peer.play(&format!("{}\nS: 250 and more", scene.good.join("\n"))),
            (_, Take::SplitAt(at)) => {
                peer.may_leave |= scene.is_unasked();
                peer.play(&format!("-- split {at} {}", answer(scene).join("\\r\\n")));
            }
            // This takes longer than `CEILING`: a client that restarts its timeout with each octet is too late.
            (Event::Slow, _) => peer.play(&format!("-- drip {}-{:.<1000}", &answer(scene)[0][..3], "")),
            (Event::Fin, Take::Notifies) => peer.play("-- notify"),
            (Event::Fin, _) => peer.play("-- close"),
            (Event::Reset, _) => peer.play("-- reset"),
            (Event::HalfClose, _) => peer.play("-- fin"),
            _ => {} // not caused by the server
        }
    }

    fn happens_in_handshake(&self, peer: &mut Peer) {
        let Session { event, take, .. } = &self.session;
        if !matches!(event, Event::Good | Event::ExtraLine | Event::Split | Event::Slow) {
            peer.play("-- client hello");
        }
        (self.told)();
        match (event, take) {
            (Event::Good, _) => peer.play("-- tls good"),
            (Event::Later | Event::Never | Event::Closing, _) => {
                peer.play(&format!("S: {} no", code(*event)));
            }
            (_, Take::Says(text)) => peer.play(&format!("S: {text}")),
            (_, Take::Floods(text)) => flood(peer, text),
            (Event::Split, _) => peer.play("-- crumbs good"),
            (Event::ExtraLine, _) => {
                peer.play("-- tls good");
                peer.say_in_clear(b"250 and more\r\n");
            }
            #[cfg(any(feature = "native-tls", feature = "rustls"))]
            (Event::Slow, _) => peer.drip_tls(),
            (Event::Fin, _) => peer.play("-- close"),
            (Event::Reset, _) => peer.play("-- reset"),
            (Event::HalfClose, _) => peer.play("-- fin"),
            _ => {}
        }
    }
}

fn flood(peer: &mut Peer, text: &str) {
    let said = peer.flood(text.repeat(65_536 / text.len()).as_bytes(), 64 << 20);
    assert!(said < 16 << 20, "the client accepted {said} octets");
}

/// Message content that pauses at the point where the server should act.
struct Stopping {
    at: usize,
    /// Number of octets before the pause.
    stop: usize,
    wait: Option<Box<dyn FnOnce() + Send>>,
}

impl Read for Stopping {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.at == self.stop {
            if let Some(wait) = self.wait.take() {
                wait();
            }
            self.stop = content().len();
        }
        let octets = room.len().min(self.stop - self.at);
        room[..octets].copy_from_slice(&content()[self.at..self.at + octets]);
        self.at += octets;
        Ok(octets)
    }
}

/// Waits until something has arrived at this socket.
fn arrived(socket: &TcpStream) {
    let limit = Timespec::try_from(PATIENCE).unwrap();
    assert!(poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&limit)).unwrap() > 0, "nothing arrived");
}

impl Session {
    fn builder(&self, limit: Duration) -> Builder {
        static TLS: OnceLock<Builder> = OnceLock::new();
        let tls = TLS.get_or_init(|| {
            #[cfg(any(feature = "native-tls", feature = "rustls"))]
            return plain().ca_certificate(crate::support::tls::CA).system_roots(false);
            #[cfg(not(any(feature = "native-tls", feature = "rustls")))]
            plain()
        });
        let scene = &self.scene;
        let first = scene.lines().next().unwrap();
        let mut builder = match () {
            () if first == "-- tls good" => tls.clone().security(Security::Implicit),
            () if scene.says("STARTTLS") => tls.clone().security(Security::StartTls),
            () => plain(),
        };
        if scene.says("C: AUTH") {
            builder = builder.credentials("user", "secret");
        }
        builder = builder.chunking(scene.says("CHUNKING"));
        match (self.event, scene.phase) {
            (Event::Deadline, _) if self.connects() || self.is_idle() => builder.deadline(limit),
            // Content that is still being sent is subject to the block timeout.
            (Event::WriteBlocked, Phase::End) => builder.block_timeout(limit),
            (Event::Slow | Event::Silence | Event::WriteBlocked, phase) => match phase {
                Phase::Tls => builder.tls_timeout(limit),
                Phase::Greeting => builder.greeting_timeout(limit),
                Phase::Body => builder.block_timeout(limit),
                Phase::End => builder.final_reply_timeout(limit),
                _ => builder.command_timeout(limit),
            },
            _ => builder,
        }
    }

    /// The content of the message, if it is not in the script.
    fn content(&self) -> &'static [u8] {
        match () {
            () if self.scene.says("-- read") => content(), // after the pause, more than one write is left
            () if self.scene.says("-- chunk") => &content()[..100_000], // two chunks
            () => b"",
        }
    }

    /// Whether no command is in progress.
    fn is_idle(&self) -> bool {
        self.scene.is_unasked() && self.scene.phase == Phase::Noop
    }

    /// Whether the state occurs while connecting.
    fn connects(&self) -> bool {
        let phase = self.scene.phase;
        matches!(phase, Phase::Tls | Phase::Greeting | Phase::Hello | Phase::StartTls | Phase::Auth)
    }

    /// Whether the client can see the event before it sends anything.
    fn is_seen(&self) -> bool {
        let silent = [Event::Good, Event::Silence, Event::WriteBlocked, Event::Cancel, Event::Deadline];
        !silent.contains(&self.event)
    }

    fn run(&self, limit: Duration) -> Result<(), Trouble> {
        let (part, ends, watch) = self.line_up(limit);
        let (builder, stop_handle) = stoppable(self.builder(limit));
        let start = Instant::now();
        let (server, link) = self.serve(part, &ends);
        if self.connects() && self.event == Event::Cancel {
            let (connected, took) = match link {
                Link::None => {
                    let builder = builder.port(server.port());
                    cancelled(ends.bell, &stop_handle, || {}, || builder.connect())
                }
                Link::Tcp(socket) => {
                    cancelled(ends.bell, &stop_handle, || {}, || builder.connect_over(tcp(socket)))
                }
                Link::Unix(_) => panic!("only WriteBlocked uses a Unix socket"),
            };
            return self.judge(watch, server, connected.map(|it| it.map(Done::connected)), None, took);
        }
        let lent = match &link {
            Link::Tcp(socket) if self.scene.is_unasked() => Some(socket.try_clone().unwrap()),
            _ => None,
        };
        let connected = match link {
            Link::None => block_on(builder.port(server.port()).connect()),
            Link::Tcp(socket) => block_on(builder.connect_over(tcp(socket))),
            Link::Unix(socket) => block_on(builder.connect_over(unix(socket))),
        };
        if self.connects() {
            return self.judge(watch, server, Some(connected.map(Done::connected)), None, start.elapsed());
        }
        match connected {
            Ok(mut client) => {
                let (result, took) = self.call(&mut client, ends, lent, &stop_handle, limit);
                self.judge(watch, server, result, Some(client), took)
            }
            Err(e) => {
                drop((lent, ends));
                Err(watch.not_there(server, &e))
            }
        }
    }

    /// Creates the channels between the two sides.
    fn line_up(&self, limit: Duration) -> (Part, Ends, Watch) {
        let (ready, is_ready) = mpsc::channel();
        let (go, may_go) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let (done, is_done) = mpsc::channel();
        let (give, end) = mpsc::channel();
        let (ring, bell) = bell();
        let expected = expected(&self.scene, self.event, CLIENT);
        let watch = Watch { expected, limit, done, reached: Arc::default(), unread: Arc::default() };
        let reached = Arc::clone(&watch.reached);
        let part = Part {
            session: self.clone(),
            more: watch.expected.more.clone(),
            end: (self.event == Event::WriteBlocked).then_some(end),
            ready,
            go: may_go,
            told: Box::new(move || {
                reached.store(true, Ordering::SeqCst);
                _ = tell.send(());
                ring();
            }),
            done: is_done,
            unread: Arc::clone(&watch.unread),
        };
        (part, Ends { go, told, bell, give, is_ready }, watch)
    }

    /// Starts the server's side.
    fn serve(&self, part: Part, ends: &Ends) -> (Server, Link) {
        let play = move |peer: &mut Peer| part.play(peer);
        if self.event == Event::WriteBlocked {
            let (server, here) = Server::running_pair(play);
            ends.give.send(here.try_clone().unwrap()).unwrap();
            ends.is_ready.recv_timeout(PATIENCE).expect("the server should become ready");
            return (server, Link::Unix(here));
        }
        let server = Server::running(play);
        // This ensures that the client is connected before the server acts, and that its socket can be inspected.
        if self.scene.is_unasked() || self.scene.phase == Phase::Greeting {
            let socket = TcpStream::connect(server.address()).unwrap();
            socket.set_nodelay(true).unwrap();
            return (server, Link::Tcp(socket));
        }
        (server, Link::None)
    }

    /// Makes the call that belongs to the state. Returns its result and its duration.
    fn call(
        &self,
        client: &mut Client,
        ends: Ends,
        lent: Option<TcpStream>,
        stop_handle: &StopHandle,
        limit: Duration,
    ) -> (Made, Duration) {
        let Ends { go, told, bell, .. } = ends;
        macro_rules! made {
            ($after:expr, $call:expr, $done:expr) => {{
                let start = Instant::now();
                let (result, took) = match self.event {
                    Event::Cancel => cancelled(bell, stop_handle, $after, || $call),
                    _ => (Some(block_on($call)), start.elapsed()),
                };
                (result.map(|result| result.map($done)), took)
            }};
        }
        let client = match self.event {
            Event::Deadline if !self.is_idle() => client.next_call_deadline(limit),
            _ => client,
        };
        match self.scene.phase {
            Phase::Noop if self.is_idle() => {
                self.idle(client, stop_handle, &go, &told, lent, limit);
                let start = Instant::now();
                let result = block_on(client.noop());
                (Some(result.map(|_| Done::Said)), start.elapsed())
            }
            Phase::Noop => made!(|| {}, client.noop(), |_| Done::Said),
            Phase::Reset => made!(|| {}, client.rset(), |_| Done::Said),
            Phase::Quit => made!(|| {}, client.quit(), |()| Done::Said),
            _ => {
                let (release, released) = mpsc::channel();
                let mail = self.mail(go, told, released, lent, limit);
                made!(move || drop::<Sender<()>>(release), client.send(&mail), Done::Sent)
            }
        }
    }

    /// Lets the event happen to an idle client.
    fn idle(
        &self,
        client: &mut Client,
        stop_handle: &StopHandle,
        go: &Sender<()>,
        told: &Receiver<()>,
        lent: Option<TcpStream>,
        limit: Duration,
    ) {
        if self.event == Event::Deadline {
            thread::sleep(limit * 6 / 5); // the deadline for connecting expires
            client.set_deadline(Some(LONG));
        }
        go.send(()).unwrap();
        told.recv_timeout(PATIENCE).unwrap();
        if self.event == Event::Cancel {
            drop(lent);
            cancel_idle(client, stop_handle);
        } else if self.is_seen() {
            arrived(&lent.unwrap());
        }
    }

    fn mail(
        &self,
        go: Sender<()>,
        told: Receiver<()>,
        released: Receiver<()>,
        lent: Option<TcpStream>,
        limit: Duration,
    ) -> Raw<'static> {
        let envelope = Envelope::new("alice@example.org", self.scene.recipients()).unwrap();
        let read = self.scene.lines().find_map(|line| line.strip_prefix("-- read "));
        let Some(read) = read else {
            return if self.scene.says("-- chunk") {
                Raw::reader(envelope, self.content())
            } else {
                Raw::bytes(envelope, b"Hello\r\n")
            };
        };
        let (event, seen) = (self.event, self.is_seen());
        let wait = move || {
            go.send(()).ok();
            let lent = lent.filter(|_| seen);
            match event {
                Event::Cancel => drop(released.recv_timeout(PATIENCE)),
                Event::Deadline => thread::sleep(limit * 6 / 5),
                _ => drop(told.recv_timeout(PATIENCE)),
            }
            // The async client may read it while it waits for content, in which case this wait times out.
            if let Some(lent) = lent {
                let limit = Timespec { tv_sec: 1, tv_nsec: 0 };
                let _heard_already = poll(&mut [PollFd::new(&lent, PollFlags::IN)], Some(&limit)).unwrap();
            }
        };
        // This is enough for a write before the pause, but fits into the buffers while the server is not reading.
        let stop = if read == "0" { 0 } else { 70_000 };
        Raw::reader(envelope, Stopping { at: 0, stop, wait: Some(Box::new(wait)) })
    }

    /// Checks the time, the result, the next call and the wire.
    fn judge(
        &self,
        watch: Watch,
        server: Server,
        result: Made,
        mut client: Option<Client>,
        took: Duration,
    ) -> Result<(), Trouble> {
        if let Some(Err(e)) = result.as_ref().filter(|_| !watch.reached.load(Ordering::SeqCst)) {
            drop(client);
            return Err(watch.not_there(server, e));
        }
        let timed = watch.check_time(took);
        let told = watch.check_result(&result);
        if let Some(Ok(Done::Connected(connected))) = result {
            client = Some(*connected);
        }
        let usable = client.as_mut().map_or(Ok(()), |client| watch.check_next(client));
        // A client that can no longer be used is kept: it must already have closed the connection.
        if watch.expected.next.is_ok() {
            client = None;
        }
        _ = watch.done.send(());
        let heard = server.outcome();
        drop(client);
        let wire = heard.and_then(|heard| self.check_wire(&watch, heard));
        let wrong: Vec<_> = [timed, told, usable, wire].into_iter().filter_map(Result::err).collect();
        if wrong.is_empty() { Ok(()) } else { Err(Trouble::Wrong(wrong.join("; "))) }
    }

    fn check_wire(&self, watch: &Watch, mut heard: Vec<u8>) -> Result<(), String> {
        let scene = &self.scene;
        let mut script = scene.before.clone();
        if self.event == Event::WriteBlocked {
            let unread = watch.unread.lock().unwrap();
            match scene.before.first() {
                Some(line) if line == "-- tls good" => drop(check_tls(&unread)?),
                _ => heard.extend(&*unread),
            }
        } else {
            script.extend_from_slice(&scene.asks);
        }
        script.extend_from_slice(&watch.expected.more);
        check_wire(&script, &heard, self.content())
    }
}

/// What is known about a running session.
struct Watch {
    expected: Expected,
    limit: Duration,
    /// Tells the server that the client has given up.
    done: Sender<()>,
    /// Whether the state was reached.
    reached: Arc<AtomicBool>,
    unread: Arc<Mutex<Vec<u8>>>,
}

impl Watch {
    /// Converts an error from before the state was reached. A timeout becomes `NotThere`, which is not a failure.
    fn not_there(self, server: Server, error: &Error) -> Trouble {
        drop(self.done);
        let why = server.outcome().err();
        if error.is_timeout() {
            Trouble::NotThere
        } else {
            Trouble::Wrong(format!("{error:?} before the state ({why:?})"))
        }
    }

    fn check_time(&self, took: Duration) -> Result<(), String> {
        let waits = matches!(self.expected.result, Some(Err(Fault::Timeout(_))));
        let in_time =
            if waits { took >= self.limit * 9 / 10 && took < CEILING + self.limit } else { took < CEILING };
        if in_time { Ok(()) } else { Err(format!("it took {took:?}")) }
    }

    fn check_result(&self, result: &Made) -> Result<(), String> {
        let wanted = &self.expected.result;
        let (as_wanted, delivery) = match (result, wanted) {
            (None, None) => return Ok(()),
            (Some(Ok(Done::Sent(delivery))), Some(Ok(()))) => (true, Some(delivery)),
            (Some(Ok(_)), Some(Ok(()))) => (true, None),
            (Some(Err(e)), Some(Err(fault))) => match e {
                Error::Transaction { delivery, source } => (fault.is(source), Some(&**delivery)),
                e => (fault.is(e), None),
            },
            _ => (false, None),
        };
        let outcomes: Vec<Outcome> =
            delivery.into_iter().flat_map(Delivery::recipients).map(|it| it.outcome()).collect();
        if !as_wanted || outcomes != self.expected.outcomes {
            let wanted = (wanted, &self.expected.outcomes);
            return Err(format!("the result is {result:?}, not {wanted:?}"));
        }
        let in_doubt = outcomes.contains(&Outcome::InDoubt);
        match result {
            Some(Err(e)) if e.in_doubt() != in_doubt || (e.retry() == Retry::MayDuplicate) != in_doubt => {
                Err(format!("in doubt or not? {e:?}"))
            }
            _ => Ok(()),
        }
    }

    /// Checks the result of the next call.
    fn check_next(&self, client: &mut Client) -> Result<(), String> {
        let wanted = self.expected.next;
        if client.is_connected() != wanted.is_ok() {
            return Err(format!("is it connected? {wanted:?}"));
        }
        let mut call = |wanted: Result<(), Fault>| match (block_on(client.noop()), wanted) {
            (Ok(_), Ok(())) => Ok(()),
            (Err(e), Err(fault)) if fault.is(&e) => Ok(()),
            (other, wanted) => Err(format!("the next call gives {other:?}, not {wanted:?}")),
        };
        call(wanted)?;
        match wanted {
            Err(Fault::Protocol(_)) => call(Err(Fault::NotConnected)),
            _ => Ok(()),
        }
    }
}

fn plain() -> Builder {
    let builder = Client::builder("127.0.0.1").hello_name("client.example.org");
    builder.timeout(LONG).final_reply_timeout(LONG)
}

/// Resolves `localhost`, for which the system needs no DNS server.
fn resolving(event: Event) -> Result<(), String> {
    let hello = "S: 220 hi\nC: EHLO client.example.org\nS: 250 hi\nC: NOOP\nS: 250 ok";
    let named = |port: u16| {
        let builder = Client::builder("localhost").port(port).hello_name("client.example.org");
        builder.timeout(LONG).final_reply_timeout(LONG)
    };
    let silent = || TcpListener::bind("127.0.0.1:0").unwrap();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    match event {
        Event::Good => {
            let server = Server::playing(hello);
            let done =
                block_on(named(server.port()).connect()).and_then(|mut client| block_on(client.noop()));
            server.outcome()?;
            done.map(drop).map_err(|e| format!("{e:?}"))
        }
        // The deadline may expire at any point before the greeting, which never arrives.
        Event::Deadline => [0, 1, 20, 50, 100, 200, 400, 1000].into_iter().try_for_each(|limit| {
            let listener = silent();
            let start = Instant::now();
            let error = block_on(named(port(&listener)).deadline(Duration::from_micros(limit)).connect())
                .unwrap_err();
            let names = matches!(
                error,
                Error::Resolve { .. } | Error::Connect { .. } | Error::Timeout(Phase::Greeting)
            );
            if error.is_timeout() && names && start.elapsed() < CEILING && nothing_came(&listener) {
                Ok(())
            } else {
                Err(format!("with {limit} µs: {error:?} after {:?}", start.elapsed()))
            }
        }),
        Event::Cancel => (0..20).try_for_each(|number| {
            let listener = silent();
            let start = Instant::now();
            let error = cancel_lookup(named(port(&listener)), number);
            let phases = [Phase::Resolve, Phase::Connect, Phase::Greeting];
            let stopped =
                error.as_ref().is_none_or(|e| matches!(e, Error::Stopped(at) if phases.contains(at)));
            if stopped
                && error.is_some() == (CLIENT == ClientKind::Blocking)
                && start.elapsed() < CEILING
                && nothing_came(&listener)
            {
                Ok(())
            } else {
                Err(format!("{error:?} after {:?}", start.elapsed()))
            }
        }),
        event => panic!("{event:?} has a reason"),
    }
}

/// Whether every client that connected has left without sending anything.
fn nothing_came(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    listener.incoming().map_while(Result::ok).all(|mut socket| {
        let mut heard = Vec::new();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.read_to_end(&mut heard).is_ok() && heard.is_empty()
    })
}

fn connecting(event: Event) -> Result<(), String> {
    /// A single socket that is never closed: its port stays taken.
    static CLOSED: OnceLock<std::net::SocketAddr> = OnceLock::new();
    let to = |address| plain().addresses([address]);
    let refused = |error: Error, is_timeout: bool, took: Duration, least: Duration| {
        let fits = matches!(error, Error::Connect { .. }) && error.is_timeout() == is_timeout;
        if fits && took >= least * 9 / 10 && took < CEILING {
            Ok(())
        } else {
            Err(format!("{error:?} after {took:?}"))
        }
    };
    let hole = || BlackHole::new();
    let start = Instant::now();
    match event {
        Event::Good => {
            let server =
                Server::playing("S: 220 hi\nC: EHLO client.example.org\nS: 250 hi\nC: NOOP\nS: 250 ok");
            let connected = block_on(to(server.address()).connect());
            let done = connected.and_then(|mut client| block_on(client.noop()));
            server.outcome()?;
            done.map(drop).map_err(|e| format!("{e:?}"))
        }
        // Connecting to a port where nobody listens is answered with a reset.
        Event::Reset => {
            let error = block_on(to(*CLOSED.get_or_init(closed)).connect()).unwrap_err();
            refused(error, false, start.elapsed(), Duration::ZERO)
        }
        Event::Silence | Event::Deadline => {
            let hole = hole();
            let builder = to(hole.address());
            let builder = match event {
                Event::Silence => builder.connect_timeout(SHORT),
                _ => builder.deadline(SHORT),
            };
            let start = Instant::now();
            let error = block_on(builder.connect()).unwrap_err();
            refused(error, true, start.elapsed(), SHORT)
        }
        Event::Cancel => {
            let hole = hole();
            let (ring, bell) = bell();
            let (builder, stop_handle) = stoppable(to(hole.address()));
            let ringing = thread::spawn(move || {
                thread::sleep(Duration::from_millis(50)); // by then, connecting has usually begun
                ring();
            });
            let (done, took) = cancelled(bell, &stop_handle, || {}, || builder.connect());
            ringing.join().unwrap();
            match (done, CLIENT) {
                (None, ClientKind::Aio) if took < CEILING => Ok(()),
                (Some(Err(Error::Stopped(Phase::Connect))), ClientKind::Blocking) if took < CEILING => Ok(()),
                (done, _) => Err(format!("{:?} after {took:?}", done.map(std::result::Result::err))),
            }
        }
        event => panic!("{event:?} has a reason"),
    }
}

/// A unit of work for a worker.
enum Work {
    Session(Session),
    Alone(fn(Event) -> Result<(), String>, Event),
}

impl Work {
    fn run(&self) -> Result<(), String> {
        match self {
            Work::Alone(cell, event) => cell(*event),
            Work::Session(session) => {
                for attempt in 0..ATTEMPTS {
                    match session.run(SHORT * 2u32.pow(attempt)) {
                        Ok(()) => return Ok(()),
                        Err(Trouble::Wrong(what)) => return Err(what),
                        Err(Trouble::NotThere) => {}
                    }
                }
                Err("the state was never reached in time".to_owned())
            }
        }
    }

    fn waits(&self) -> bool {
        let event = match self {
            Work::Session(Session { event, .. }) | Work::Alone(_, event) => *event,
        };
        [Event::Slow, Event::Silence, Event::WriteBlocked, Event::Deadline].contains(&event)
    }

    fn name(&self) -> String {
        match self {
            Work::Alone(..) => String::new(),
            Work::Session(Session { scene, take, .. }) => format!("{} {take:?}: ", scene.name),
        }
    }
}

/// Returns all work of a cell. In a round, it is only one take of each place, a different one in each round.
fn work(state: &State, event: Event, round: Option<usize>) -> Vec<Work> {
    match state.name {
        "Resolving" => return vec![Work::Alone(resolving, event)],
        "Connecting" => return vec![Work::Alone(connecting, event)],
        _ => {}
    }
    let apart = matches!(event, Event::WriteBlocked | Event::Cancel);
    let scenes = state.scenes().into_iter().filter(|scene| !(apart && scene.is_mid_flight()));
    let sessions = scenes.flat_map(|scene| {
        let scene = Arc::new(scene);
        let mut takes = takes(&scene, event);
        if let Some(round) = round {
            takes = vec![takes.swap_remove(round % takes.len())];
        }
        takes.into_iter().map(move |take| Session { scene: Arc::clone(&scene), event, take })
    });
    sessions.map(Work::Session).collect()
}

/// The results of all cells.
#[derive(Debug, Default)]
struct Tally {
    run: usize,
    passed: usize,
    reasons: usize,
    sessions: usize,
    failures: Vec<String>,
}

fn all_cells(round: Option<usize>) -> Tally {
    let mut tally = Tally::default();
    let mut names = Vec::new();
    let mut all: Vec<(usize, Work)> = Vec::new();
    for state in &STATES {
        for event in EVENTS {
            match state.reason(event) {
                Some(_) => tally.reasons += 1,
                None => {
                    let work = work(state, event, round);
                    assert!(!work.is_empty(), "there is nothing to run for {} x {event:?}", state.name);
                    all.extend(work.into_iter().map(|work| (names.len(), work)));
                    names.push(format!("{} x {event:?}", state.name));
                }
            }
        }
    }
    (tally.run, tally.sessions) = (names.len(), all.len());
    all.sort_by_key(|(_, work)| !work.waits()); // the slowest come first
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((cell, work)) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let done = catch_unwind(AssertUnwindSafe(|| work.run()));
                    let done =
                        done.unwrap_or_else(|_| Err("it panicked; the message is printed above".to_owned()));
                    if let Err(what) = done {
                        failures.lock().unwrap().push((*cell, format!("{}{what}", work.name())));
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    let mut failed: Vec<usize> = failures.iter().map(|(cell, _)| *cell).collect();
    failed.dedup();
    tally.passed = tally.run - failed.len();
    tally.failures = failures.into_iter().map(|(cell, what)| format!("{}: {what}", names[cell])).collect();
    tally
}

#[track_caller]
fn assert_all_pass(tally: &Tally) {
    let Tally { run, passed, reasons, sessions, failures } = tally;
    println!("{CLIENT:?}: {run} cells run, {passed} passed, {reasons} have a reason; {sessions} sessions");
    assert!(failures.is_empty(), "{passed} of {run} cells passed:\n{}", failures.join("\n"));
    assert_eq!(run + reasons, STATES.len() * EVENTS.len());
}

// Threat 15, threat 58.
#[test]
fn every_cell_of_the_state_table_holds() {
    let _alone = alone();
    let tally = all_cells(None);
    assert_all_pass(&tally);
    assert_eq!((STATES.len(), EVENTS.len()), (19, 17));
    assert_eq!(tally.run, if cfg!(any(feature = "native-tls", feature = "rustls")) { 293 } else { 293 - 67 });
}

/// Runs all cells in a separate process, once to warm up and then `CELLS` times.
// Threat 91.
#[test]
fn hostile_sessions_leave_nothing_behind() {
    let _alone = alone();
    if apart::is_own_process() {
        all_cells_again_and_again();
    } else {
        apart::in_own_process(module_path!(), "hostile_sessions_leave_nothing_behind");
    }
}

fn all_cells_again_and_again() {
    let loops = std::env::var("CELLS").map_or(1, |loops| loops.parse().expect("CELLS should be a number"));
    assert_all_pass(&all_cells(Some(0)));
    journal::forget(); // the journal keeps all lines
    let Some(before) = Footprint::settled(|_| true) else { return println!("skipped: there is no /proc") };
    let mut sessions = 0;
    for round in 1..=loops {
        let tally = all_cells(Some(round));
        assert!(tally.failures.is_empty(), "{}", tally.failures.join("\n"));
        sessions += tally.sessions;
        journal::forget();
    }
    let is_back = |now: Footprint| now.is_back(before, MORE_THREADS, GROWTH);
    let after = Footprint::settled(is_back).unwrap();
    println!("{CLIENT:?}: all cells {loops} times, {sessions} sessions: {before:?} before, {after:?} behind");
    assert!(is_back(after), "{before:?} {after:?}");
}
