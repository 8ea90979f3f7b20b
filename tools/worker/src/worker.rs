//! The workers: threads that claim mail, send it, and record what became of it.
//!
//! Each thread has one database session and one SMTP connection. The mails of a claim are handed to postino by an
//! iterator that, when it has none left, writes the results so far and claims again, in one commit. So the connection
//! waits for nothing except that commit, and at most [`Lane::window`] mails are marked as being sent at any time.
//!
//! Results stay in memory until they are written. If the database is lost, the thread finishes what is under way,
//! connects again as the same worker, writes its results, and gives back what it had claimed but not sent.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use postino::{Builder, Client, Delivery, StopHandle};

use crate::{
    Backoff, Error,
    backoff::random,
    job::{Job, Ticket},
    queue::{self, Queue},
    settle::{Settlement, State, settle},
};

/// Maximum age of an unwritten result. Older results are written without waiting for the next claim.
const MAX_UNWRITTEN: Duration = Duration::from_secs(1);
/// Longest wait before connecting to the database again.
const MAX_DATABASE_WAIT: Duration = Duration::from_secs(5);
/// Number of times at the start that the database may refuse a statement.
const MAX_REFUSALS: usize = 5;
/// Longest wait before reconnecting after connections that were lost before anything was accepted.
const MAX_LOSS_WAIT: Duration = Duration::from_secs(30);
/// Waits of a lane that cannot be reached, in seconds: the first and the longest. The wait doubles with each failure.
const UNREACHABLE: (f64, f64) = (1.0, 300.0);
/// Waits of a lane whose login was refused, in seconds. They are longer, because servers lock accounts.
const LOGIN_REFUSED: (f64, f64) = (60.0, 3600.0);

/// A relay, and how mail is sent to it.
#[derive(Debug, Clone)]
pub struct Lane {
    /// The name that producers use.
    pub name: String,
    /// The server, with its login and timeouts.
    pub server: Builder,
    /// Number of connections of this process. Defaults to 1.
    pub connections: usize,
    /// Maximum number of mails that a connection has claimed at a time. If the worker is killed, these are in doubt.
    /// Defaults to 20. With 1, each mail takes a separate commit.
    pub window: usize,
    /// Messages per second over all workers. `None` keeps what is in the database, which is unlimited at first.
    pub rate: Option<f64>,
    /// Messages that can be sent at once after a quiet time. `None` keeps what is in the database, which is 1 at first.
    pub burst: Option<f64>,
}

impl Lane {
    /// Creates a lane with the defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, server: Builder) -> Lane {
        Lane { name: name.into(), server, connections: 1, window: 20, rate: None, burst: None }
    }
}

/// The settings of a worker process.
#[derive(Clone)]
pub struct Settings {
    /// The database: a libpq connection string or URL.
    pub database: String,
    /// The lanes that this process serves.
    pub lanes: Vec<Lane>,
    /// The folder of messages that were queued as files. Without it, such mail is refused.
    pub files: Option<PathBuf>,
    /// When mail that was refused with 4yz is sent again.
    pub backoff: Backoff,
    /// How often an idle connection looks for mail. Defaults to half a second.
    pub poll: Duration,
    /// How long an idle SMTP connection is kept. Defaults to 30 seconds.
    pub idle: Duration,
    /// How often dead workers are looked for. Defaults to 5 seconds.
    pub reap: Duration,
    /// Size of content, in octets, after which a claim takes no further mail. The last mail may exceed it. Defaults to
    /// 16 MiB.
    pub max_octets: usize,
    /// Whether to stop as soon as no mail can be sent now: none is due, or the lane is paused or waits because its
    /// server could not be reached. Defaults to false.
    pub until_empty: bool,
}

impl Settings {
    /// Creates settings with the defaults.
    #[must_use]
    pub fn new(database: impl Into<String>, lanes: Vec<Lane>) -> Settings {
        Settings {
            database: database.into(),
            lanes,
            files: None,
            backoff: Backoff::default(),
            poll: Duration::from_millis(500),
            idle: Duration::from_secs(30),
            reap: Duration::from_secs(5),
            max_octets: 16 << 20,
            until_empty: false,
        }
    }
}

impl fmt::Debug for Settings {
    /// Without the database, whose connection string can contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { database: _, lanes, files, backoff, poll, idle, reap, max_octets, until_empty } = self;
        f.debug_struct("Settings")
            .field("database", &"***")
            .field("lanes", lanes)
            .field("files", files)
            .field("backoff", backoff)
            .field("poll", poll)
            .field("idle", idle)
            .field("reap", reap)
            .field("max_octets", max_octets)
            .field("until_empty", until_empty)
            .finish()
    }
}

/// Stops the workers of [`run`], from any thread. Clones stop the same workers.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Stopping>);

#[derive(Debug, Default)]
struct Stopping {
    is_stopping: AtomicBool,
    lock: Mutex<()>,
    bell: Condvar,
    smtp: StopHandle,
}

impl Stop {
    /// Creates a handle.
    #[must_use]
    pub fn new() -> Stop {
        Stop::default()
    }

    /// Stops gracefully: nothing more is claimed, what is under way is finished, results are written, and the other
    /// claims are given back.
    pub fn stop(&self) {
        let _guard = self.guard();
        self.0.is_stopping.store(true, Ordering::SeqCst);
        self.0.bell.notify_all();
    }

    /// Stops at once: SMTP connections are closed. Mail whose reply is outstanding is then in doubt.
    pub fn abort(&self) {
        self.stop();
        self.0.smtp.stop();
    }

    /// Returns whether the workers are to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.0.is_stopping.load(Ordering::SeqCst)
    }

    fn guard(&self) -> MutexGuard<'_, ()> {
        self.0.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for this time, or until the workers are to stop.
    fn sleep(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut guard = self.guard();
        while !self.is_stopping() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            guard = self.0.bell.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Sends mail until [`Stop::stop`] is called, or with [`until_empty`](Settings::until_empty) until none can be sent.
/// Returns once all results are written.
///
/// Lanes that are not in the database are added. Errors after the start are logged, and what failed is tried again:
/// connecting to the database, connecting to a server, or logging in. If the database cannot be reached at the
/// start, this function waits for it, except with `until_empty`.
///
/// # Errors
///
/// [`Error::Schema`] if the queue in the database is missing or of another version, and [`Error::Database`] if the role
/// may not use it. With `until_empty`, also [`Error::Connection`].
pub fn run(settings: &Settings, stop: &Stop) -> Result<(), Error> {
    let mut wait = Duration::from_millis(50);
    let mut refusals = 0;
    while let Err(e) = prepare(settings) {
        // Losing the connection during a statement is also an `Error::Database`, so one such error is not final.
        refusals += usize::from(matches!(e, Error::Database(_)));
        if settings.until_empty || refusals > MAX_REFUSALS || matches!(e, Error::Schema(_)) {
            return Err(e);
        }
        log::warn!("{e}");
        stop.sleep(wait);
        if stop.is_stopping() {
            return Ok(());
        }
        wait = (wait * 2).min(MAX_DATABASE_WAIT);
    }
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for lane in &settings.lanes {
            for _ in 0..lane.connections {
                workers.push(scope.spawn(|| Worker::new(settings, lane, stop).run()));
            }
        }
        let over = Stop::new();
        let reaper = scope.spawn({
            let over = over.clone();
            move || reap(settings, &over)
        });
        for worker in workers {
            if worker.join().is_err() {
                // Its session is closed, so that other workers put in doubt what it had.
                log::error!("a worker panicked");
            }
        }
        over.stop();
        if reaper.join().is_err() {
            log::error!("the reaper panicked");
        }
    });
    Ok(())
}

/// Checks the schema, and adds the lanes.
fn prepare(settings: &Settings) -> Result<(), Error> {
    let mut connection = queue::session(&settings.database)?;
    for lane in &settings.lanes {
        queue::prepare_lane(&mut connection, &lane.name, lane.rate, lane.burst)?;
    }
    Ok(())
}

/// Looks for dead workers from time to time.
fn reap(settings: &Settings, over: &Stop) {
    let mut session = None;
    while !over.is_stopping() {
        let reaped = match &mut session {
            Some(connection) => queue::reap(connection),
            None => match queue::session(&settings.database) {
                Ok(connection) => queue::reap(session.insert(connection)),
                Err(e) => Err(e),
            },
        };
        match reaped {
            Ok(mails) => {
                for mail in mails {
                    log::warn!("mail {mail} in doubt: its worker was lost");
                }
            }
            Err(e) => {
                log::warn!("reaper: {e}");
                session = None;
            }
        }
        over.sleep(settings.reap);
    }
}

/// What a worker knows about its mails. The iterator and the loop over the results share it.
struct Desk<'s> {
    settings: &'s Settings,
    lane: &'s Lane,
    stop: &'s Stop,
    queue: Option<Queue>,
    /// The number of this worker, once it has one.
    number: Option<i32>,
    /// Claimed, and not handed to postino.
    jobs: VecDeque<Job>,
    /// Handed to postino, and without a result.
    under_way: VecDeque<Arc<Ticket>>,
    /// Results to be written.
    results: Vec<Settlement>,
    /// When the oldest of them arrived.
    oldest: Option<Instant>,
    /// Number of mails handed to postino in this batch.
    handed: usize,
}

impl Desk<'_> {
    /// Writes the results, and claims as much as the window allows.
    fn turn(&mut self, want: usize) -> bool {
        let Some(queue) = &mut self.queue else { return false };
        match queue.turn(want, self.settings.max_octets, &self.results) {
            Ok(claims) => {
                self.results.clear();
                self.oldest = None;
                let files = self.settings.files.as_deref();
                self.jobs.extend(claims.into_iter().map(|claim| Job::new(claim, files)));
                true
            }
            Err(e) => {
                self.lose_database(&e);
                false
            }
        }
    }

    fn lose_database(&mut self, why: &Error) {
        log::warn!("worker {}: {why}", self.number.unwrap_or(0));
        self.queue = None;
    }

    fn settle(&mut self, result: &Result<Delivery, postino::Error>) {
        let Some(ticket) = self.under_way.pop_front() else { return }; // never: each result has a ticket
        let settlement = settle(&ticket, result, &self.settings.backoff, random());
        let reply = settlement.reply.as_deref().unwrap_or_default();
        let (id, attempt) = (ticket.id, ticket.attempts + 1);
        match settlement.state {
            State::Accepted => log::info!("mail {id} accepted (attempt {attempt}): {reply}"),
            State::Refused => log::warn!("mail {id} refused (attempt {attempt}): {reply}"),
            State::Doubt => log::warn!("mail {id} in doubt (attempt {attempt}): {reply}"),
            State::Ready if settlement.counted => {
                let wait = settlement.wait.as_secs();
                log::info!("mail {id} deferred for {wait} s (attempt {attempt}): {reply}");
            }
            State::Ready => log::info!("mail {id} not sent: {reply}"),
        }
        self.results.push(settlement);
        self.oldest.get_or_insert_with(Instant::now);
    }
}

/// Hands out claimed mails. Waits for a commit if it has to claim, but never for mail to become due.
struct Claims<'d, 's>(&'d RefCell<Desk<'s>>);

impl Iterator for Claims<'_, '_> {
    type Item = Job;

    fn next(&mut self) -> Option<Job> {
        let mut desk = self.0.borrow_mut();
        // Without the database, others may have put the claims in doubt, and a person may already have decided.
        if desk.stop.is_stopping() || desk.queue.is_none() {
            return None;
        }
        if desk.jobs.is_empty() {
            let free = desk.lane.window.saturating_sub(desk.under_way.len());
            if free == 0 || !desk.turn(free) {
                return None;
            }
        }
        let job = desk.jobs.pop_front()?;
        desk.under_way.push_back(job.ticket.clone());
        desk.handed += 1;
        Some(job)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let desk = self.0.borrow();
        if desk.stop.is_stopping() || desk.queue.is_none() { (0, Some(0)) } else { (desk.jobs.len(), None) }
    }
}

struct Worker<'s> {
    desk: RefCell<Desk<'s>>,
    client: Option<Client>,
    /// When the connection last sent something.
    used: Instant,
    /// Number of times in a row that the connection was lost before anything was accepted.
    losses: u32,
}

impl<'s> Worker<'s> {
    fn new(settings: &'s Settings, lane: &'s Lane, stop: &'s Stop) -> Worker<'s> {
        let desk = Desk {
            settings,
            lane,
            stop,
            queue: None,
            number: None,
            jobs: VecDeque::new(),
            under_way: VecDeque::new(),
            results: Vec::new(),
            oldest: None,
            handed: 0,
        };
        Worker { desk: RefCell::new(desk), client: None, used: Instant::now(), losses: 0 }
    }

    fn run(mut self) {
        while !self.stop().is_stopping() {
            self.open_database();
            if self.stop().is_stopping() || self.step() {
                break;
            }
        }
        self.leave();
    }

    fn stop(&self) -> &'s Stop {
        self.desk.borrow().stop
    }

    /// Connects to the database, if necessary, and writes the results since it was lost. Returns when it is connected,
    /// or when the worker is to stop.
    fn open_database(&mut self) {
        let stop = self.stop();
        let mut wait = Duration::from_millis(50);
        while !self.try_database() {
            if stop.is_stopping() {
                return;
            }
            stop.sleep(wait.mul_f64(0.5 + random()));
            wait = (wait * 2).min(MAX_DATABASE_WAIT);
        }
    }

    /// Tries once to connect. The batch is over at this point, so everything that was handed to postino has a result.
    fn try_database(&mut self) -> bool {
        let desk = self.desk.get_mut();
        if desk.queue.is_some() {
            return true;
        }
        let mut queue = match Queue::connect(&desk.settings.database, &desk.lane.name, desk.number) {
            Ok(queue) => queue,
            Err(e) => {
                desk.lose_database(&e);
                return false;
            }
        };
        let is_new = desk.number.is_none();
        desk.number = Some(queue.worker());
        if !is_new {
            // The last commit may have succeeded although its reply was lost. Then some results are there already, and
            // some claims are unknown here.
            let reconciled = queue.settle(&desk.results).and_then(|written| {
                let keep: Vec<(i64, i32)> =
                    desk.results.iter().map(|result| (result.id, result.claim)).collect();
                Ok((written, queue.release(&keep)?))
            });
            match reconciled {
                Ok((written, released)) => {
                    log::info!(
                        "worker {} is back: {} of {} results written, {} claims given back",
                        queue.worker(),
                        written.len(),
                        desk.results.len(),
                        released.len()
                    );
                    desk.results.clear();
                    desk.oldest = None;
                    desk.jobs.clear();
                }
                Err(e) => {
                    desk.lose_database(&e);
                    return false;
                }
            }
        }
        desk.queue = Some(queue);
        true
    }

    /// Sends what is due, or waits for it. Returns whether the work is done.
    fn step(&mut self) -> bool {
        if !self.has_connection() && !self.connect() {
            return self.is_done();
        }
        let Some(client) = &mut self.client else { return false };
        self.desk.get_mut().handed = 0;
        let mut batch = client.send_all(Claims(&self.desk));
        let mut accepted = false;
        for (_, result) in batch.by_ref() {
            accepted |= result.is_ok();
            let mut desk = self.desk.borrow_mut();
            desk.settle(&result);
            if desk.oldest.is_some_and(|oldest| oldest.elapsed() > MAX_UNWRITTEN) {
                desk.turn(0);
            }
        }
        let is_lost = batch.is_lost();
        drop(batch);
        if is_lost {
            self.client = None;
            // Claims that were not handed out are kept for the next connection, unless nothing was accepted.
            self.desk.get_mut().turn(0);
            self.losses = if accepted { 0 } else { self.losses.saturating_add(1) };
            let wait = Duration::from_millis(50).saturating_mul(2_u32.saturating_pow(self.losses.min(12)));
            if self.losses > 0 {
                self.give_back();
                self.stop().sleep(wait.min(MAX_LOSS_WAIT));
            }
            return false;
        }
        let desk = self.desk.get_mut();
        if desk.handed > 0 {
            (self.used, self.losses) = (Instant::now(), 0);
            return false;
        }
        self.idle()
    }

    fn has_connection(&mut self) -> bool {
        // Servers close idle connections.
        let works = self.client.as_mut().is_some_and(Client::is_connected);
        if !works {
            self.client = None;
        }
        works
    }

    /// Connects to the server, if there is something to send and nothing forbids it. Waits otherwise.
    fn connect(&mut self) -> bool {
        let desk = self.desk.get_mut();
        let Some(queue) = &mut desk.queue else { return false };
        let outlook = match queue.outlook() {
            Ok(outlook) => outlook,
            Err(e) => {
                desk.lose_database(&e);
                return false;
            }
        };
        let is_wanted = !desk.jobs.is_empty() || outlook.due && !outlook.paused;
        if !is_wanted || outlook.barred > 0.0 {
            self.give_back();
            let desk = self.desk.get_mut();
            if desk.settings.until_empty {
                if is_wanted {
                    let (lane, wait) = (&desk.lane.name, outlook.barred.ceil());
                    log::warn!(
                        "lane {lane}: mail is due, but its server failed; connecting is allowed in {wait} s, or after `resume`"
                    );
                }
            } else {
                let barred = Duration::try_from_secs_f64(outlook.barred).unwrap_or_default();
                // Another worker may connect earlier, and end the lane's wait.
                let wait = if is_wanted { barred.min(4 * desk.settings.poll) } else { desk.settings.poll };
                desk.stop.sleep(wait);
            }
            return false;
        }
        match desk.lane.server.clone().stop_handle(&desk.stop.0.smtp).connect() {
            Ok(client) => {
                if let Err(e) = queue.open_lane() {
                    desk.lose_database(&e);
                }
                self.client = Some(client);
                self.used = Instant::now();
                true
            }
            // This worker is to stop at once: that says nothing about the server.
            Err(postino::Error::Stopped(_)) => false,
            Err(e) => {
                let (first, max) =
                    if matches!(e, postino::Error::Auth { .. }) { LOGIN_REFUSED } else { UNREACHABLE };
                match queue.bar_lane(&e.to_string().replace('\0', ""), first, max) {
                    Ok(true) => log::warn!("lane {}: {e}", desk.lane.name),
                    Ok(false) => {}
                    Err(e) => desk.lose_database(&e),
                }
                false
            }
        }
    }

    /// Waits for mail with an open connection, which is closed after a while. Returns whether the work is done.
    fn idle(&mut self) -> bool {
        if self.is_done() {
            return true;
        }
        let desk = self.desk.get_mut();
        let mut wait = desk.settings.poll;
        if let Some(queue) = &mut desk.queue {
            match queue.outlook() {
                // Due, and not claimed: the lane's rate is used up, or other workers have it.
                Ok(outlook) if outlook.due && !outlook.paused => {
                    let one =
                        outlook.rate.map(|rate| Duration::from_secs_f64((1.0 / rate).clamp(0.001, 60.0)));
                    wait = wait.min(one.unwrap_or(Duration::from_millis(20)));
                }
                Ok(_) => {}
                Err(e) => desk.lose_database(&e),
            }
        }
        desk.stop.sleep(wait);
        if self.used.elapsed() > desk.settings.idle {
            self.hang_up();
        }
        false
    }

    /// Returns whether the work is done: with `until_empty`, if no mail can be sent now.
    fn is_done(&mut self) -> bool {
        let desk = self.desk.get_mut();
        if !desk.settings.until_empty {
            return false;
        }
        let Some(queue) = &mut desk.queue else { return false };
        match queue.outlook() {
            Ok(outlook) => !outlook.due || outlook.paused || outlook.barred > 0.0,
            Err(e) => {
                desk.lose_database(&e);
                false
            }
        }
    }

    /// Gives back claims that were not handed out, so that other workers can have them.
    fn give_back(&mut self) {
        let desk = self.desk.get_mut();
        if desk.jobs.is_empty() && desk.results.is_empty() {
            return;
        }
        let Some(queue) = &mut desk.queue else { return };
        let given = queue.settle(&desk.results).and_then(|_| queue.release(&[]));
        match given {
            Ok(_) => {
                desk.jobs.clear();
                desk.results.clear();
                desk.oldest = None;
            }
            Err(e) => desk.lose_database(&e),
        }
    }

    fn hang_up(&mut self) {
        if let Some(mut client) = self.client.take() {
            drop(client.quit());
        }
    }

    /// Writes all results and gives back all claims. If the database is unavailable, this is tried for about a minute.
    fn leave(mut self) {
        self.hang_up();
        for attempt in 0..60_u32 {
            if self.try_database() {
                self.give_back();
            }
            let desk = self.desk.get_mut();
            if desk.results.is_empty() && desk.jobs.is_empty() && desk.queue.is_some() {
                break;
            }
            if desk.number.is_none() {
                return;
            }
            thread::sleep(Duration::from_millis(50 * u64::from(attempt.min(20))));
        }
        let desk = self.desk.get_mut();
        match desk.queue.take() {
            Some(queue) => drop(queue.leave()),
            None => log::error!(
                "worker {}: {} results could not be written; their mails will be in doubt",
                desk.number.unwrap_or(0),
                desk.results.len()
            ),
        }
    }
}
