//! A future may be dropped at any of its awaits: a whole session is dropped at each of them, and then the client is
//! used.
//!
//! Nothing here needs a reactor: the wire is in memory, each read and each write waits once first, and the futures are
//! polled by hand.
#![cfg(all(unix, feature = "async"))] // a pool connects to a Unix socket

mod sweep;

use std::{
    cell::{Cell, RefCell},
    fs,
    future::Future,
    io::{ErrorKind, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use ::maybe_async::must_be_async as maybe_async;
use memchr::memmem;
use postino::{
    Delivery, Envelope, Error, JoinPolicy, Mail, Message, Outcome, Raw,
    aio::{Builder, Client, Pool, PoolBuilder},
    message::Attachment,
};

use self::sweep::{JOINED, KINDS, Kind, Letter, Notes, Op, Server, What, Wire};

#[path = "sweep/session.rs"]
mod session;

fn dress(wire: Wire) -> Wire {
    wire
}

/// Polls a future this many times, and then drops it. Returns `None` if it did not complete.
fn dropped_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..polls {
        if let Poll::Ready(done) = future.as_mut().poll(&mut cx) {
            return Some(done);
        }
    }
    None
}

/// Polls a future to its end, and panics if it hangs.
fn done<T>(future: impl Future<Output = T>) -> T {
    dropped_after(1_000_000, future).expect("the future should complete")
}

/// Returns a wire on which each read of data and each write first waits once, and then moves this many octets.
fn waiting(kind: Kind, octets: usize) -> Wire {
    let (mut read, mut write) = (false, false);
    Wire::new(kind, move |op| {
        let waited = match op {
            Op::Read { empty: true } => return What::Go(octets),
            Op::Read { empty: false } => &mut read,
            Op::Write => &mut write,
        };
        *waited = !*waited;
        if *waited { What::Wait } else { What::Go(octets) }
    })
}

/// Uses a client whose future was dropped. Returns whether it could be used.
fn use_it(client: &mut Client, wire: &Wire, kind: Kind, notes: &mut Notes) -> bool {
    wire.be(|_| What::Go(usize::MAX));
    let (before, not_sent) = (wire.heard(), notes.count(Outcome::NotSent));
    let noop = done(client.noop());
    let letters = [
        Letter::new("behind", &["bob@example.org"], "Hello"),
        Letter::new("more", &["bob@example.org"], "Hello"),
    ];
    letters.iter().for_each(|letter| notes.begin(letter));
    let works = match noop {
        Ok(reply) => {
            assert_eq!(reply.text(), "NOOP done");
            true
        }
        Err(Error::NotConnected) => {
            assert!(!client.is_connected());
            false
        }
        Err(other) => panic!("{kind:?}: the client neither works nor refuses: {other}"),
    };
    let sent = done(client.send(&letters[0].mail()));
    notes.delivery(&letters[0], &sent, wire);
    let mut batch = client.send_all([letters[1].mail()]);
    assert_eq!(batch.is_lost(), !works);
    let (_, result) = done(batch.next()).expect("one message should report the loss");
    notes.delivery(&letters[1], &result, wire);
    drop(batch);
    done(client.quit()).unwrap();
    assert_eq!(notes.count(Outcome::NotSent) - not_sent, if works { 0 } else { 2 }, "{kind:?}");
    assert_eq!(wire.heard() > before, works, "{kind:?}: the client sends something if and only if it works");
    works
}

/// Drops the session after each of its polls, and then uses the client.
fn drop_everywhere(kind: Kind, octets: usize) {
    let builder = session::builder(kind);
    for polls in 0.. {
        let wire = waiting(kind, octets);
        let (mut client, mut notes) = (None, Notes::default());
        // Each client has to find out again whether joining works.
        let builder =
            builder.clone().join_envelopes(if kind.joining { JoinPolicy::Always } else { JoinPolicy::Never });
        let ended = dropped_after(polls, session::run(&builder, &wire, 0, &mut client, &mut notes));
        assert!(!notes.is_broken(), "{kind:?}: {:?}", notes.steps);
        notes.assert_true_to(&wire, kind);
        if ended.is_some() {
            notes.assert_all_told();
            // Each write waits separately, and so does each read that is not made alongside a write.
            let (reads, writes) = wire.moves();
            let least = if kind.pipelining { reads.max(writes) } else { reads + writes };
            assert!(polls > least, "{kind:?}: {polls} polls for {reads} reads and {writes} writes");
            assert!(
                kind.pipelining || least > notes.steps.len() * 2,
                "{kind:?}: {least} in {:?}",
                notes.steps
            );
            return;
        }
        if let Some(client) = &mut client {
            // The future was dropped during a call.
            assert!(
                !use_it(client, &wire, kind, &mut notes),
                "{kind:?}, {polls} polls: the client continues"
            );
            notes.assert_true_to(&wire, kind);
        }
    }
}

// Threat 81.
#[test]
fn a_session_dropped_at_any_poll_leaves_a_client_that_refuses_to_send() {
    for kind in KINDS {
        drop_everywhere(kind, usize::MAX);
    }
}

// Threat 81.
#[test]
fn a_session_over_a_trickling_connection_can_be_dropped_at_any_poll() {
    for kind in KINDS {
        drop_everywhere(kind, 24);
    }
}

/// Sends this letter, and drops the future after each of its polls. Returns the outcomes of the letter.
fn drop_each_send(kind: Kind, octets: usize, letter: &Letter) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for polls in 0.. {
        let (mut client, wire) = connected(kind, octets);
        let mut notes = Notes::default();
        notes.begin(letter);
        let mail = letter.mail();
        if let Some(sent) = dropped_after(polls, client.send(&mail)) {
            assert!(client.interrupted().is_none());
            notes.delivery(letter, &sent, &wire);
            notes.assert_true_to(&wire, kind);
            return outcomes;
        }
        let result = client.interrupted();
        assert_eq!(result.is_some(), polls > 0, "a future that was never polled has begun nothing");
        assert!(client.interrupted().is_none(), "each result is returned once");
        let Some(result) = result else { continue };
        assert!(result.as_ref().err().is_none_or(|e| e.delivery().is_some()), "{result:?}");
        notes.delivery(letter, &result, &wire);
        notes.assert_true_to(&wire, kind);
        outcomes.extend(result.as_ref().map_or_else(Error::delivery, Some).map(Delivery::outcome));
    }
    outcomes
}

#[test]
fn the_result_of_a_dropped_send_is_available_afterwards() {
    for kind in KINDS {
        for octets in [usize::MAX, 24] {
            let letter = Letter::new("dropped", &["bob@example.org", "carol@example.org"], "Hello");
            let outcomes = drop_each_send(kind, octets, &letter);
            // It is in doubt only from a certain point on.
            let doubts = outcomes.iter().position(|outcome| *outcome != Outcome::NotSent);
            let doubts = doubts.unwrap_or_else(|| panic!("{kind:?}: {outcomes:?}"));
            // With both extensions, everything is in the first write.
            assert!(doubts > 0 || kind.pipelining && kind.chunking, "{kind:?}: {outcomes:?}");
            assert!(
                outcomes[doubts..].iter().all(|outcome| *outcome != Outcome::NotSent),
                "{kind:?}: {outcomes:?}"
            );
        }
    }
}

#[test]
fn the_result_of_a_dropped_send_reaches_the_observer_and_survives_the_next_call() {
    let kind = KINDS[0];
    let letter = Letter::new("dropped", &["bob@example.org"], "Hello");
    for use_it in [
        |client: Client| drop(client),
        |mut client: Client| {
            assert!(matches!(done(client.noop()), Err(Error::NotConnected)));
            let error = client.interrupted().expect("a message was interrupted").unwrap_err();
            assert_eq!(error.delivery().unwrap().outcome(), Outcome::NotSent);
        },
    ] {
        let wire = waiting(kind, usize::MAX);
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let builder =
            session::builder(kind).observer(move |event| tell.lock().unwrap().push(event.kind.name()));
        let mut client = done(builder.connect_over(wire.clone())).unwrap();
        let before = told.lock().unwrap().len();
        let mail = letter.mail();
        assert!(dropped_after(1, client.send(&mail)).is_none());
        assert_eq!(told.lock().unwrap().len(), before, "nothing runs after a future was dropped");
        use_it(client);
        let mut after = told.lock().unwrap()[before..].to_vec();
        after.sort_unstable();
        assert_eq!(after, ["closed", "not_sent"]);
    }
}

/// Returns a client that has sent EHLO and logged in.
fn connected(kind: Kind, octets: usize) -> (Client, Wire) {
    let wire = waiting(kind, octets);
    let client = done(session::builder(kind).connect_over(wire.clone())).unwrap();
    (client, wire)
}

/// The result of a batch.
struct Batched {
    /// Number of futures that were dropped.
    dropped: usize,
    /// Number of messages lost with the connection.
    lost: usize,
    /// Number of writes.
    writes: usize,
}

/// Sends the letters as a batch, and drops every future of `next` that is not done after its number of polls, taken
/// from `polls`. Every message has a result, and the server agrees.
fn drop_next<M: Mail>(
    kind: Kind,
    octets: usize,
    letters: &[Letter],
    mail: fn(&Letter) -> M,
    mut polls: impl FnMut() -> usize,
) -> Batched {
    let (mut client, wire) = connected(kind, octets);
    let (_, before) = wire.moves();
    let mut notes = Notes::default();
    letters.iter().for_each(|letter| notes.begin(letter));
    let mut mails = letters.iter().map(mail);
    let mut batch = client.send_all(mails.by_ref());
    let (mut dropped, mut told) = (0, 0);
    loop {
        let Some(result) = dropped_after(polls(), batch.next()) else {
            dropped += 1;
            assert!(dropped < 100_000, "{kind:?}: the batch makes no progress");
            continue;
        };
        let Some((number, result)) = result else { break };
        assert_eq!(number, told);
        notes.delivery(&letters[number], &result, &wire);
        told += 1;
    }
    assert!(done(batch.next()).is_none());
    let is_lost = batch.is_lost();
    drop(batch);
    assert_eq!(told + mails.len(), letters.len(), "{kind:?}: a letter that was taken has no result");
    assert!(is_lost || mails.len() == 0, "{kind:?}");
    letters[told..].iter().for_each(|letter| notes.not_sent(letter));
    let writes = wire.moves().1 - before;
    notes.assert_all_told();
    notes.assert_true_to(&wire, kind);
    let lost = notes.count(Outcome::NotSent) + notes.count(Outcome::InDoubt);
    assert_eq!(use_it(&mut client, &wire, kind, &mut notes), lost == 0, "{kind:?}: {:?}", notes.steps);
    notes.assert_true_to(&wire, kind);
    Batched { dropped, lost, writes }
}

// Threat 81.
#[test]
fn a_batch_whose_next_is_dropped_at_any_poll_reports_each_message() {
    for kind in KINDS {
        let short = session::crowd();
        for (places, whole) in [
            drop_next_everywhere(kind, 64, &short, Letter::mail),
            drop_next_everywhere(kind, 64, &short, Letter::watched),
        ] {
            assert_eq!(places, whole, "{kind:?}: with such short content, every wait should be resumable");
        }
        let long = ["one", "two"]
            .map(|name| Letter::new(name, &["bob@example.org"], &"0123456789\r\n".repeat(20_000)));
        let (places, whole) = drop_next_everywhere(kind, 10_000, &long, Letter::mail);
        assert!(1 < whole && whole < places, "{kind:?}: {whole} of {places}, but content cannot be resumed");
    }
}

/// Drops the first `next` at each of its polls. Returns the number of polls, and at how many of them nothing was lost.
fn drop_next_everywhere<M: Mail>(
    kind: Kind,
    octets: usize,
    letters: &[Letter],
    mail: fn(&Letter) -> M,
) -> (usize, usize) {
    let (mut places, mut whole) = (0, 0);
    let writes = loop {
        let left = Cell::new(Some(places));
        let batch = drop_next(kind, octets, letters, mail, || left.take().unwrap_or(usize::MAX));
        if batch.dropped == 0 {
            break batch.writes;
        }
        places += 1;
        whole += usize::from(batch.lost == 0);
    };
    // The first `next` ends with the first result, while other messages are already being sent.
    assert!(places > 2 && writes > 2, "{kind:?}: {places} places, {writes} writes");
    (places, whole)
}

// Threat 81.
#[test]
fn a_batch_makes_progress_even_if_every_next_is_dropped() {
    for kind in KINDS {
        for patience in 1..5 {
            for batch in [
                drop_next(kind, 24, &session::crowd(), Letter::mail, || patience),
                drop_next(kind, 24, &session::crowd(), Letter::watched, || patience),
            ] {
                assert!(batch.dropped > 0, "{kind:?}, {patience} polls");
            }
        }
    }
}

/// A server at a Unix socket, on the same thread: it runs between polls. A pool makes its connections itself, and
/// cannot use a wire in memory.
struct Neighbour {
    path: PathBuf,
    listener: UnixListener,
    connections: RefCell<Vec<(Option<UnixStream>, Server)>>,
    /// Number of turns in which it has sent something.
    drips: Cell<usize>,
}

/// Number of octets that it sends in each turn.
const DRIP: usize = 24;

impl Neighbour {
    fn new(name: &str) -> Neighbour {
        let path = std::env::temp_dir().join(format!("postino-{name}-{}", std::process::id()));
        drop(fs::remove_file(&path));
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Neighbour { path, listener, connections: RefCell::default(), drips: Cell::new(0) }
    }

    fn pool(&self) -> Pool {
        self.pool_with(|pool| pool)
    }

    fn pool_with(&self, set: impl FnOnce(PoolBuilder) -> PoolBuilder) -> Pool {
        let builder = Client::unix(&self.path).hello_name("client.example.org").credentials("user", "secret");
        set(Pool::builder(builder).max_connections(1)).build().unwrap()
    }

    fn turn(&self) {
        let mut connections = self.connections.borrow_mut();
        while let Ok((socket, _)) = self.listener.accept() {
            socket.set_nonblocking(true).unwrap();
            connections.push((Some(socket), Server::new(JOINED)));
        }
        for (socket, server) in connections.iter_mut() {
            let said = socket.as_mut().map(|socket| serve(socket, server));
            match said {
                Some(None) => *socket = None,
                Some(Some(1..)) => self.drips.set(self.drips.get() + 1),
                _ => {}
            }
        }
    }

    /// Polls a future this many times, with a turn of the server after each poll.
    fn dropped_after<T>(&self, polls: usize, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        (0..polls).find_map(|_| {
            let polled = dropped_after(1, future.as_mut());
            self.turn();
            polled
        })
    }

    fn done<T>(&self, future: impl Future<Output = T>) -> T {
        self.dropped_after(100_000, future).expect("the future should complete")
    }

    /// How often the server has accepted the letter, over all connections.
    fn accepted(&self, letter: &Letter) -> usize {
        let connections = self.connections.borrow();
        let all = connections.iter().flat_map(|(_, server)| server.accepted());
        all.filter(|taken| taken.content.as_bytes() == letter.content).count()
    }

    /// Number of clients that have connected.
    fn clients(&self) -> usize {
        self.connections.borrow().len()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

/// Lets the server read and reply. Returns the number of octets it sent; `None` if the client has left.
fn serve(socket: &mut UnixStream, server: &mut Server) -> Option<usize> {
    let mut room = [0; 4096];
    match socket.read(&mut room) {
        Ok(0) => return None,
        Ok(n) => server.hear(&room[..n]),
        Err(e) if e.kind() == ErrorKind::WouldBlock => {}
        Err(_) => return None,
    }
    let octets = server.output.len().min(DRIP);
    let said: Vec<u8> = server.output.drain(..octets).collect();
    socket.write_all(&said).ok().map(|()| octets)
}

fn letter(name: &str) -> Letter {
    Letter::new(name, &["bob@example.org"], "Hello")
}

/// Drops a call of a pool with a single connection at each of its polls, and then sends a message.
fn drop_call_of_a_pool<T>(name: &str, warm: bool, call: impl AsyncFn(&Pool) -> T) {
    let (first, behind) = (letter("first"), letter("behind"));
    for polls in 0.. {
        let server = Neighbour::new(name);
        let pool = server.pool();
        if warm {
            server.done(pool.send(&first.mail())).map(drop).unwrap();
        }
        let before = server.drips.get();
        let done = server.dropped_after(polls, call(&pool)).is_some();
        let drips = server.drips.get() - before;
        assert!(pool.connections() <= 1);
        let delivery = server.done(pool.send(&behind.mail())).unwrap();
        assert_eq!(delivery.outcome(), Outcome::Accepted);
        assert_eq!((server.accepted(&behind), pool.connections()), (1, 1), "after {polls} polls");
        assert_eq!(server.accepted(&first), usize::from(warm));
        assert!(server.accepted(&letter("dropped")) <= 1);
        server.done(pool.close());
        assert_eq!(pool.connections(), 0, "a place was not given back");
        if done {
            assert!(polls > drips && drips > 3, "{name}: {polls} polls for {drips} pieces of replies");
            return;
        }
    }
}

// Threat 81.
#[test]
fn a_pool_whose_send_is_dropped_at_any_poll_stays_usable() {
    let send = async |pool: &Pool| pool.send(&letter("dropped").mail()).await;
    drop_call_of_a_pool("send", false, send);
    drop_call_of_a_pool("send-again", true, send);
}

// Threat 81.
#[test]
fn a_pool_whose_client_is_dropped_at_any_poll_stays_usable() {
    drop_call_of_a_pool("client", false, async |pool| {
        let mut client = pool.client().await.unwrap();
        client.noop().await.unwrap();
    });
}

// Threat 81.
#[test]
fn a_pool_whose_batch_is_dropped_at_any_poll_stays_usable() {
    drop_call_of_a_pool("batch", true, async |pool| {
        let mut batch =
            pool.send_all([letter("dropped").mail(), letter("dropped too").mail()]).await.unwrap();
        while batch.next().await.is_some() {}
    });
}

// Threat 81.
#[test]
fn a_dropped_waiter_for_a_pool_gives_up_its_place() {
    let server = Neighbour::new("wait");
    let pool = server.pool();
    for polls in 1..4 {
        let held = server.done(pool.client()).unwrap();
        assert!(server.dropped_after(polls, pool.send(&letter("dropped").mail())).is_none());
        drop(held);
        server.done(pool.send(&letter("behind").mail())).map(drop).unwrap();
    }
    assert_eq!((server.accepted(&letter("behind")), server.accepted(&letter("dropped"))), (3, 0));
    assert_eq!((pool.connections(), server.clients()), (1, 1));
}

/// Polls two users of a pool in turns. The first is polled a number of times before and after a connection is returned,
/// and is then dropped; the second has to be served.
// Threat 81.
#[test]
fn a_first_waiter_dropped_at_any_poll_does_not_hold_up_the_next() {
    let server = Neighbour::new("queue");
    let pool = server.pool();
    for (before, behind) in (0..4).flat_map(|before| (0..4).map(move |behind| (before, behind))) {
        let held = server.done(pool.client()).unwrap();
        let (dropped, next) = (letter("dropped"), letter("next"));
        let (dropped, next) = (dropped.mail(), next.mail());
        let (mut first, mut second) = (Box::pin(pool.send(&dropped)), Box::pin(pool.send(&next)));
        assert!(server.dropped_after(before, first.as_mut()).is_none());
        assert!(server.dropped_after(1, second.as_mut()).is_none());
        drop(held);
        assert!(server.dropped_after(behind, first.as_mut()).is_none());
        drop(first);
        assert_eq!(server.done(second).unwrap().outcome(), Outcome::Accepted, "{before}, {behind}");
        assert_eq!(pool.connections(), 1);
    }
    assert_eq!((server.accepted(&letter("dropped")), server.accepted(&letter("next"))), (0, 16));
}

// Threat 81.
#[test]
fn a_dropped_waiter_for_the_rate_limit_uses_no_turn() {
    const PACE: Duration = Duration::from_millis(200);
    let server = Neighbour::new("rate");
    let pool = server.pool_with(|pool| pool.max_rate(1.0 / PACE.as_secs_f64()));
    let (first, gone, next) = (letter("first"), letter("dropped"), letter("next"));
    let (first, gone, next) = (first.mail(), gone.mail(), next.mail());
    server.done(pool.send(&first)).map(drop).unwrap();
    let start = Instant::now();
    for polls in 0..100 {
        assert!(server.dropped_after(polls % 4, pool.send(&gone)).is_none());
    }
    // The waiters in front leave while the last one waits.
    let mut waiting: Vec<_> = (0..100).map(|_| Box::pin(pool.send(&gone))).collect();
    waiting.iter_mut().for_each(|send| assert!(server.dropped_after(1, send.as_mut()).is_none()));
    let mut last = Box::pin(pool.send(&next));
    assert!(server.dropped_after(1, last.as_mut()).is_none());
    drop(waiting);
    while server.dropped_after(1, last.as_mut()).is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(start.elapsed() < PACE * 50, "the dropped sends used turns: {:?}", start.elapsed());
    assert_eq!((server.accepted(&letter("dropped")), server.accepted(&letter("next"))), (0, 1));
}

// Threat 81.
#[test]
fn a_pool_is_closed_even_if_the_call_to_close_is_dropped() {
    for polls in 1..4 {
        let server = Neighbour::new("close");
        let pool = server.pool();
        let held = server.done(pool.client()).unwrap();
        assert!(
            server.dropped_after(polls, pool.close()).is_none(),
            "close should wait for the client in use"
        );
        let late = server.done(pool.send(&letter("late").mail()));
        assert!(matches!(late, Err(Error::PoolClosed)), "{late:?}");
        assert_eq!(pool.connections(), 1);
        drop(held);
        assert_eq!(pool.connections(), 0);
    }
}

/// Pushes the letters to a batch, two at a time, and drops every future of `next` that is not done after `patience`
/// polls. [`postino::aio::Batch::finish`] returns the last results. Each letter has one result, and the server
/// agrees.
fn drop_next_of_pushed(kind: Kind, octets: usize, patience: usize) -> usize {
    let (mut client, wire) = connected(kind, octets);
    let (letters, mut notes) = (session::crowd(), Notes::default());
    let mut batch = client.batch();
    let (mut dropped, mut told) = (0, 0);
    for pair in letters.chunks(2) {
        for letter in pair {
            notes.begin(letter);
            batch.push(Box::new(letter.watched()) as Box<dyn Mail>);
        }
        for _ in 0..20 {
            match dropped_after(patience, batch.next()) {
                None => dropped += 1,
                Some(None) => break,
                Some(Some((number, result))) => {
                    assert_eq!(number, told);
                    notes.delivery(&letters[number], &result, &wire);
                    told += 1;
                }
            }
        }
    }
    let lost = batch.is_lost();
    for (number, result) in done(batch.finish()) {
        assert_eq!(number, told);
        notes.delivery(&letters[number], &result, &wire);
        told += 1;
    }
    assert_eq!(told, letters.len(), "{kind:?}: a pushed letter has no result");
    notes.assert_all_told();
    notes.assert_true_to(&wire, kind);
    assert!(use_it(&mut client, &wire, kind, &mut notes) || lost, "{kind:?}: {:?}", notes.steps);
    dropped
}

#[test]
fn a_batch_reports_each_pushed_message_despite_dropped_next_calls() {
    for kind in KINDS {
        for patience in 1..5 {
            assert!(drop_next_of_pushed(kind, 24, patience) > 0, "{kind:?}, {patience} polls");
        }
    }
}

#[test]
fn a_batch_whose_finish_is_dropped_at_any_poll_leaves_the_client_in_step() {
    for kind in KINDS {
        let mut worked = 0;
        for polls in 0.. {
            let (mut client, wire) = connected(kind, 64);
            let (letters, mut notes) = (session::crowd(), Notes::default());
            letters.iter().for_each(|letter| notes.begin(letter));
            let mut batch = client.batch();
            letters.iter().for_each(|letter| batch.push(letter.mail()));
            let results = dropped_after(polls, batch.finish());
            notes.assert_true_to(&wire, kind);
            let is_done = results.is_some();
            for (number, result) in results.unwrap_or_default() {
                notes.delivery(&letters[number], &result, &wire);
            }
            let works = use_it(&mut client, &wire, kind, &mut notes);
            notes.assert_true_to(&wire, kind);
            assert!(works || !is_done, "{kind:?}, {polls} polls");
            worked += usize::from(works);
            if is_done {
                notes.assert_all_told();
                assert!(1 < worked && worked < polls, "{kind:?}: {worked} of {polls}");
                break;
            }
        }
    }
}

/// Polls a future this many times, each time after it was woken, and then drops it. Content is read on other threads.
fn dropped_after_wakes<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut left) = (pin!(future), polls);
    smol::block_on(std::future::poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(cx).map(Some)
    }))
}

/// Content that reports when it is read.
struct Told(Arc<AtomicBool>, &'static [u8]);

impl Read for Told {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        self.0.store(true, Relaxed);
        self.1.read(room)
    }
}

/// A message that can be read once, and whether it was. If composed, it also has a file, which has to be opened.
fn once(composed: bool) -> (Box<dyn Mail>, Arc<AtomicBool>) {
    let read = Arc::new(AtomicBool::new(false));
    let reader = Told(read.clone(), b"Hello\r\n");
    if !composed {
        let envelope = Envelope::new("alice@example.org", ["bob@example.org"]).unwrap();
        return (Box::new(Raw::reader(envelope, reader)), read);
    }
    let message = Message::builder()
        .from("alice@example.org")
        .to("bob@example.org")
        .attach(Attachment::path(concat!(env!("CARGO_MANIFEST_DIR"), "/rustfmt.toml")))
        .attach(Attachment::reader("a", reader))
        .build();
    (Box::new(message.unwrap()), read)
}

/// After its future was dropped, a message that was not read can be sent at once, and one that was read cannot.
fn send_what_is_left(kind: Kind, mail: &dyn Mail, read: &AtomicBool) -> bool {
    let unread = mail.body().is_ok();
    // Another thread may be about to read it.
    let told = (0..500).any(|turn| {
        std::thread::sleep(Duration::from_millis(10 * u64::from(turn > 0)));
        read.load(Relaxed) != unread
    });
    assert!(told, "{kind:?}: it was read: {}, it can be read: {unread}", !unread);
    let (mut client, wire) = connected(kind, usize::MAX);
    let sent = smol::block_on(client.send(mail));
    assert_eq!(wire.with(|server| server.accepted().len()), usize::from(unread), "{kind:?}: {sent:?}");
    assert_eq!(sent.is_ok(), unread, "{kind:?}: {sent:?}");
    assert!(unread || matches!(sent, Err(Error::Message(_))), "{kind:?}: {sent:?}");
    unread
}

#[test]
fn a_send_that_is_dropped_does_not_consume_content_that_was_not_read() {
    for (kind, composed) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let mut unread = 0;
        for polls in 0.. {
            let (mail, read) = once(composed);
            let (mut client, wire) = connected(kind, DRIP);
            if dropped_after_wakes(polls, client.send(&*mail)).is_some() {
                break;
            }
            let left = send_what_is_left(kind, &*mail, &read);
            assert!(left || memmem::find(&wire.with(|server| server.heard.clone()), b"RCPT").is_some());
            unread += usize::from(left);
        }
        assert!(unread > 3, "{kind:?}: {unread}");
    }
}

#[test]
fn a_batch_that_is_dropped_does_not_consume_content_that_was_not_read() {
    for (kind, composed) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let mut unread = [0; 3];
        for polls in 0.. {
            let mails = [composed; 3].map(once);
            let (mut client, _wire) = connected(kind, DRIP);
            let mut batch = client.send_all(mails.iter().map(|(mail, _)| mail));
            let is_done = dropped_after_wakes(polls, batch.next()).is_some();
            drop(batch);
            for (count, (mail, read)) in unread.iter_mut().zip(&mails) {
                *count += usize::from(send_what_is_left(kind, mail, read));
            }
            if is_done {
                break;
            }
        }
        // The first `next` ends with the first result, so the last message may be unread at any poll.
        assert!(3 < unread[0] && unread[0] < unread[2], "{kind:?}: {unread:?}");
    }
}

#[test]
fn a_batch_reads_each_content_once_even_if_every_next_is_dropped() {
    for (kind, composed) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        for patience in 2..5 {
            let mails = [composed; 3].map(once);
            let (mut client, wire) = connected(kind, usize::MAX);
            let mut batch = client.send_all(mails.iter().map(|(mail, _)| mail));
            let mut accepted = 0;
            for _ in 0..1_000 {
                match dropped_after_wakes(patience, batch.next()) {
                    None => {}
                    Some(None) => break,
                    Some(Some((_, result))) => accepted += usize::from(result.is_ok()),
                }
            }
            assert!(
                dropped_after_wakes(1_000, batch.next()).unwrap().is_none(),
                "{kind:?}: the batch makes no progress"
            );
            drop(batch);
            let taken = wire.with(|server| server.accepted().len());
            assert!(accepted <= taken && taken <= 3, "{kind:?}: {accepted} of {taken}");
            for (mail, read) in &mails {
                send_what_is_left(kind, mail, read);
            }
        }
    }
}
