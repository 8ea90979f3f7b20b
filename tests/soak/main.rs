//! Sends many messages through a pool to a misbehaving server, with both clients. At the end, every message is
//! accounted for and nothing has grown.
//!
//! ```sh
//! cargo test --features async --test soak                                       # 20,000 messages with each client
//! MESSAGES=1000000 cargo test --features async --test soak -- --nocapture       # the long one
//! SEED=… ROUND=… cargo test --features async --test soak                        # the round that failed
//! ```
//!
//! A run consists of rounds of 2,000 messages, each with its own server and pool. The seed and the number of the round
//! determine their configuration; the number of the connection determines what the server does on it. Threads are
//! scheduled freely, so no two runs of a round are quite the same; the invariants must hold for all of them.
//!
//! For every copy of every message: *accepted* is stored once, *refused* and *not sent* never, *in doubt* at most once.

use std::{
    env,
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant, SystemTime},
};

mod book;
#[path = "../support/footprint.rs"]
mod footprint;
mod jobs;
mod mail;
#[path = "../support/rules/mod.rs"]
mod rules;

use self::{
    book::{Book, Sums},
    footprint::Footprint,
    jobs::Jobs,
    rules::{Joined, Odds, Ruled, Rules, dice::Dice},
};

const ROUND: usize = 2000;
/// Number of rounds after which everything has happened.
const MANY: usize = 10;
/// Number of concurrent senders, and of connections they share.
const SENDERS: usize = 8;
const CONNECTIONS: usize = 6;
/// The limit of the clients' waits.
const LIMIT: Duration = Duration::from_millis(400);
/// Maximum time for a round, however busy the machine is.
const CEILING: Duration = Duration::from_secs(180);
/// Maximum difference between the memory of the process at the end and after a tenth of the run, in KiB.
const MEMORY: usize = 16 * 1024;

#[path = "."]
mod blocking {
    use ::maybe_async::must_be_sync as maybe_async;
    use postino::{Builder, Client, Pool};

    use super::*;

    fn run(pool: &Pool, jobs: &Jobs, book: &Book) {
        thread::scope(|scope| {
            for _ in 0..SENDERS {
                scope.spawn(|| cases::work(pool, jobs, book));
            }
        });
        pool.close();
    }

    #[test]
    fn every_message_is_accounted_for_and_nothing_grows() {
        soak("blocking", send);
    }

    #[path = "cases.rs"]
    mod cases;

    #[path = "round.rs"]
    mod round;
    use round::send;
}

#[cfg(feature = "async")]
#[path = "."]
mod aio {
    use ::maybe_async::must_be_async as maybe_async;
    use postino::aio::{Builder, Client, Pool};
    use smol::{Executor, block_on};

    use super::*;

    /// Runs the tasks on two threads.
    fn run(pool: &Pool, jobs: &Jobs, book: &Book) {
        let executor = Executor::new();
        let tasks: Vec<_> = (0..SENDERS).map(|_| executor.spawn(cases::work(pool, jobs, book))).collect();
        let (done, over) = smol::channel::bounded::<()>(1);
        thread::scope(|scope| {
            scope.spawn(|| block_on(executor.run(over.recv())));
            block_on(executor.run(async {
                for task in tasks {
                    task.await;
                }
            }));
            drop(done);
        });
        block_on(pool.close());
    }

    #[test]
    fn every_message_is_accounted_for_and_nothing_grows() {
        soak("aio", send);
    }

    #[path = "cases.rs"]
    #[allow(clippy::duplicate_mod)] // the same source, compiled for both clients
    mod cases;

    #[path = "round.rs"]
    #[allow(clippy::duplicate_mod)]
    mod round;
    use round::send;
}

/// Configuration of a round.
struct Plan {
    rules: Rules,
    /// Which of the server's offers the clients use.
    chunking: bool,
    pipelining: bool,
    joining: bool,
    all_or_nothing: bool,
    /// Whether each call as a whole has a limit.
    deadline: bool,
    max_messages: Option<u64>,
}

impl Plan {
    fn new(seed: u64, number: usize) -> Plan {
        let mut dice = Dice::new(seed, number as u64);
        let joined = match dice.below(8) {
            0 => Joined::Swallowed,
            1 => Joined::RefusedAfterMessage,
            _ => Joined::Heard,
        };
        let mut keywords = vec!["8BITMIME"];
        let mut offer =
            |of: &[&'static str]| keywords.extend(Some(*dice.of(of)).filter(|word| !word.is_empty()));
        offer(&["PIPELINING", "PIPELINING", "PIPELINING", ""]);
        // Whether commands arrived with the end of a message or after it depends on timing. With content in the same
        // flight, nobody could tell what was swallowed from what was received.
        if joined != Joined::Swallowed {
            offer(&["CHUNKING", "CHUNKING", ""]);
        }
        offer(&["SIZE 10000000", "SIZE", ""]);
        offer(&["LIMITS RCPTMAX=2", "LIMITS MAILMAX=20", "", "", "", "", "", ""]);
        let odds = Odds {
            seed: dice.next(),
            trouble: *dice.of(&[0, 20, 100, 200, 500]),
            refusals: *dice.of(&[0, 100, 500, 1500]),
            late: LIMIT,
        };
        let rules = Rules { lmtp: dice.one_in(6), keywords, joined, odds: Some(odds), ..Rules::default() };
        Plan {
            rules,
            chunking: !dice.one_in(3),
            pipelining: !dice.one_in(8),
            joining: !dice.one_in(8),
            all_or_nothing: dice.one_in(8),
            deadline: dice.one_in(8),
            max_messages: dice.one_in(4).then_some(25),
        }
    }
}

/// Runs the tests one after the other: the measurements are of the whole process.
static TURN: Mutex<()> = Mutex::new(());

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

type Send = fn(&Plan, u16, &Jobs, &Book);

fn soak(client: &str, send: Send) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as u64;
    let seed = number("SEED").unwrap_or_else(now);
    if let Some(round) = number("ROUND") {
        play(seed, round as usize, send);
        return;
    }
    let rounds = (number("MESSAGES").unwrap_or(20_000) as usize).div_ceil(ROUND).max(2);
    let (start, mut sums, mut connections) = (Instant::now(), Sums::default(), 0);
    let mut early = None;
    for round in 0..rounds {
        let (sum, made) = play(seed, round, send);
        sums += sum;
        connections += made;
        if early.is_none() && round >= rounds / 10 {
            early = Footprint::settled(|_| true);
        }
    }
    let took = start.elapsed();
    let is_back = |now: Footprint| early.is_none_or(|early| now.is_back(early, 0, MEMORY));
    let end = Footprint::settled(is_back);
    println!(
        "{client}: SEED={seed}: {sums:?} over {connections} connections in {took:?}; {early:?}, then {end:?}"
    );
    let told = sums.accepted + sums.refused + sums.not_sent + sums.in_doubt;
    assert_eq!(told, sums.copies, "SEED={seed}");
    // Two or three servers may happen to be harmless, or all alike.
    let mixed = sums.accepted > sums.copies / 4 && sums.refused > 0 && sums.not_sent > 0;
    assert!(mixed || rounds < MANY, "SEED={seed}: {sums:?}");
    assert!(end.is_none_or(is_back), "SEED={seed}: {early:?}, then {end:?}");
}

/// Plays one round. Returns the outcomes of its messages, and the number of connections that the server saw.
fn play(seed: u64, number: usize, send: Send) -> (Sums, usize) {
    let first = number * ROUND;
    let (tell, told) = mpsc::channel();
    let round = thread::spawn(move || {
        let plan = Plan::new(seed, number);
        let book = Book::new(first, ROUND);
        let jobs = Jobs::new(Dice::new(seed, u64::MAX - number as u64), first..first + ROUND);
        let mut server = Ruled::start(plan.rules.clone());
        send(&plan, server.port(), &jobs, &book);
        server.wait_for_clients();
        let _ = tell.send(book.check(&server).map(|sums| (sums, server.connections())));
    });
    let which = format!("SEED={seed} ROUND={number}");
    match told.recv_timeout(CEILING) {
        Ok(Ok(done)) => {
            round.join().unwrap();
            done
        }
        Ok(Err(wrong)) => panic!("{which}: {wrong}"),
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{which}: it does not end"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("{which}: {:?}", round.join().unwrap_err()),
    }
}
