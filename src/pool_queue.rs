//! Decides which caller gets which connection of a pool, and when: first come, first served. No I/O, no clock, no log.
//!
//! ```text
//! draw ─▶ waiting ─settle─▶ granted ─take─▶ a place: an idle connection, room for a new one, or neither
//!            ▲     leave │      │ leave                                     │
//!            └─again─────┼──────┼───────────────────────────────────────────┤
//!                        ▼      ▼                                           ▼
//!                       gone, and what was granted goes to the next   put, release
//! ```
//!
//! Whatever becomes free is granted at once, under the same lock, to the caller that has waited longest. Nobody who
//! comes later can take it, however the threads or tasks are scheduled, and a waiter that is never polled again delays
//! only itself.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::time::later;

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitFor {
    /// A connection.
    Connection,
    /// A connection, and the turn of a message according to the rate.
    Turn,
    /// The closing of the last connection.
    End,
}

/// Limits of the pool that the queue enforces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// Maximum number of connections.
    pub connections: usize,
    /// Connections that have been idle for this long are handed out first, to be closed.
    pub idle: Duration,
    /// Time between the beginnings of two messages.
    pub pace: Option<Duration>,
    /// Pause after a refused login before the next one is tried; `None` if new connections do not log in.
    pub login_pause: Option<Duration>,
}

/// The connections of a pool, and its waiters. `C` is a connection, and `B` wakes a waiter.
pub(crate) struct Queue<C, B> {
    rules: Rules,
    /// Idle connections, each with the time since when it has been idle, the oldest first. The last one returned is the
    /// first to be used again.
    idle: VecDeque<(Instant, C)>,
    /// Connections in use, being made, or idle.
    open: usize,
    closed: bool,
    login: Login,
    /// When the next message may begin.
    next: Option<Instant>,
    /// The number of the last ticket.
    last: u64,
    /// The waiters by ticket number: `plain` for a connection, `paced` for a connection and a turn, and `closing` for
    /// the closing of the last connection.
    plain: BTreeMap<u64, Arc<B>>,
    paced: BTreeMap<u64, Arc<B>>,
    closing: BTreeMap<u64, Arc<B>>,
    /// The ticket of the waiter that has to look at the clock for the next turn.
    timekeeper: Option<u64>,
    granted: BTreeMap<u64, Granted<C>>,
    /// Waiters to wake once the lock is released: a waker may run code that takes the lock.
    called: Vec<Arc<B>>,
}

/// What is known about the pool's credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Login {
    /// The last login worked, or there are no credentials.
    Works,
    /// Unknown: only one connection at a time tries to log in, so that not all of them send a wrong password at once.
    Untried,
    UnderWay,
    /// Refused: no login is tried until this time.
    Barred(Instant),
}

struct Granted<C> {
    place: Place<C>,
    turn: Option<Instant>,
}

/// What is granted to a waiter.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place<C> {
    Reuse(Idle<C>),
    /// Room for a new connection. `trial` means that this connection tests whether the login works.
    Connect {
        trial: bool,
    },
    /// A new connection would have to log in, but a login was refused a short while ago.
    Barred,
}

/// A connection that was idle.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Idle<C> {
    pub connection: C,
    since: Instant,
    /// Whether it was idle for too long.
    pub stale: bool,
}

impl<C, B> Queue<C, B> {
    pub fn new(rules: Rules) -> Queue<C, B> {
        Queue {
            rules,
            idle: VecDeque::new(),
            open: 0,
            closed: false,
            login: if rules.login_pause.is_some() { Login::Untried } else { Login::Works },
            next: None,
            last: 0,
            plain: BTreeMap::new(),
            paced: BTreeMap::new(),
            closing: BTreeMap::new(),
            timekeeper: None,
            granted: BTreeMap::new(),
            called: Vec::new(),
        }
    }

    /// Returns the bells to ring now, without the lock.
    pub fn called(&mut self) -> Vec<Arc<B>> {
        std::mem::take(&mut self.called)
    }

    /// Returns the number of connections that are in use, being made, or idle.
    pub fn open(&self) -> usize {
        self.open
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Returns the latest time at which a message that joins the queue now has its turn according to the rate.
    pub fn turn(&self, now: Instant) -> Instant {
        let Some(pace) = self.rules.pace else { return now };
        let before = u32::try_from(self.paced.len()).unwrap_or(u32::MAX);
        later(self.next.map_or(now, |next| next.max(now)), pace.saturating_mul(before))
    }

    /// Joins the queue. [`take`](Queue::take) returns what was granted, if anything.
    pub fn draw(&mut self, what: WaitFor, bell: Arc<B>, now: Instant) -> u64 {
        self.last += 1;
        let ticket = self.last;
        self.line(what).insert(ticket, bell);
        self.settle(now);
        ticket
    }

    /// Joins the queue again with an old ticket, ahead of all later ones. The connection granted with it is gone.
    pub fn again(&mut self, ticket: u64, bell: Arc<B>, now: Instant) {
        self.count_closed(false);
        self.plain.insert(ticket, bell); // it keeps the turn that it had
        self.settle(now);
    }

    fn line(&mut self, what: WaitFor) -> &mut BTreeMap<u64, Arc<B>> {
        match what {
            WaitFor::Turn if self.rules.pace.is_some() => &mut self.paced,
            WaitFor::Turn | WaitFor::Connection => &mut self.plain,
            WaitFor::End => &mut self.closing,
        }
    }

    /// Takes what was granted to this ticket, if anything.
    pub fn take(&mut self, ticket: u64, now: Instant) -> Option<Place<C>> {
        self.settle(now);
        self.granted.remove(&ticket).map(|granted| granted.place)
    }

    /// Returns when this waiter has to look at the clock for all others, if it is the timekeeper.
    pub fn alarm(&self, ticket: u64) -> Option<Instant> {
        self.next.filter(|_| self.timekeeper == Some(ticket) && self.paced.contains_key(&ticket))
    }

    /// Leaves the queue. What was granted but not taken is granted to the next waiter.
    pub fn leave(&mut self, ticket: u64, now: Instant) {
        self.plain.remove(&ticket);
        self.paced.remove(&ticket);
        self.closing.remove(&ticket);
        if let Some(Granted { place, turn }) = self.granted.remove(&ticket) {
            let pace = self.rules.pace.unwrap_or_default();
            if turn.is_some_and(|turn| self.next == Some(later(turn, pace))) {
                self.next = turn; // no other message has had a turn since
            }
            match place {
                Place::Reuse(Idle { connection, since, .. }) => {
                    // The connection returns to the end of the queue from which it was taken.
                    if self.idle.front().is_some_and(|(first, _)| since <= *first) {
                        self.idle.push_front((since, connection));
                    } else {
                        self.idle.push_back((since, connection));
                    }
                }
                Place::Connect { trial } => self.count_closed(trial),
                Place::Barred => {}
            }
        }
        self.settle(now);
    }

    /// Returns a connection to the pool. If the pool is closed, the connection is passed back to the caller.
    #[must_use]
    pub fn put(&mut self, connection: C, now: Instant) -> Option<C> {
        if self.closed {
            self.release(false, now);
            return Some(connection);
        }
        self.idle.push_back((now, connection));
        self.settle(now);
        None
    }

    /// Records that a connection was closed, or could not be made.
    pub fn release(&mut self, trial: bool, now: Instant) {
        self.count_closed(trial);
        self.settle(now);
    }

    fn count_closed(&mut self, trial: bool) {
        self.open -= 1;
        if trial && self.login == Login::UnderWay {
            self.login = Login::Untried;
        }
        if self.open == 0 {
            self.called.extend(self.closing.values().cloned());
        }
    }

    /// Records that a connection was made, and its login worked.
    pub fn logged_in(&mut self, now: Instant) {
        self.login = Login::Works;
        self.settle(now);
    }

    /// Records that a login was refused. The connection still has to be [released](Queue::release).
    pub fn login_refused(&mut self, now: Instant) {
        if let Some(pause) = self.rules.login_pause {
            self.login = Login::Barred(later(now, pause));
        }
    }

    /// Returns whether no login may be tried now.
    pub fn is_barred(&self, now: Instant) -> bool {
        matches!(self.login, Login::Barred(until) if now < until)
    }

    /// Closes the pool: wakes all waiters, and returns the idle connections, each of which still has to be released.
    pub fn close(&mut self) -> Vec<C> {
        self.closed = true;
        self.call_all();
        self.idle.drain(..).map(|(_, connection)| connection).collect()
    }

    /// Wakes all waiters, so that they check whether the pool is closed.
    pub fn call_all(&mut self) {
        let all = self.plain.values().chain(self.paced.values()).chain(self.closing.values());
        self.called.extend(all.cloned());
    }

    /// Grants whatever is free to the callers that have waited longest.
    fn settle(&mut self, now: Instant) {
        if self.closed {
            return;
        }
        if matches!(self.login, Login::Barred(until) if now >= until) {
            self.login = Login::Untried;
        }
        if self.is_barred(now) && self.idle.is_empty() && self.open < self.rules.connections {
            // Reporting an error uses no turn.
            for line in [&mut self.plain, &mut self.paced] {
                for (ticket, bell) in std::mem::take(line) {
                    self.granted.insert(ticket, Granted { place: Place::Barred, turn: None });
                    self.called.push(bell);
                }
            }
        }
        while let Some(paced) = self.longest_waiter(now) {
            let Some(place) = self.place(now) else { break };
            let line = if paced { &mut self.paced } else { &mut self.plain };
            let Some((ticket, bell)) = line.pop_first() else { break };
            let turn = paced.then(|| self.next.map_or(now, |next| next.max(now)));
            if let (Some(turn), Some(pace)) = (turn, self.rules.pace) {
                self.next = Some(later(turn, pace));
            }
            self.granted.insert(ticket, Granted { place, turn });
            self.called.push(bell);
        }
        // The first waiter for a turn looks at the clock for the others.
        if let Some((ticket, bell)) = self.paced.first_key_value() {
            if self.timekeeper != Some(*ticket) {
                self.timekeeper = Some(*ticket);
                self.called.push(Arc::clone(bell));
            }
        }
    }

    /// Returns whether the next waiter to be served is in `paced`, and its turn has come. Returns `None` if nobody is
    /// waiting.
    fn longest_waiter(&self, now: Instant) -> Option<bool> {
        let plain = self.plain.first_key_value().map(|(ticket, _)| (*ticket, false));
        let paced = self.paced.first_key_value().map(|(ticket, _)| (*ticket, true));
        let paced = paced.filter(|_| self.next.is_none_or(|next| next <= now));
        plain.into_iter().chain(paced).min().map(|(_, paced)| paced)
    }

    /// Takes a free place. Connections that were idle for too long come first: they have to be closed.
    fn place(&mut self, now: Instant) -> Option<Place<C>> {
        let is_stale = |since: &Instant| now.saturating_duration_since(*since) >= self.rules.idle;
        if self.idle.front().is_some_and(|(since, _)| is_stale(since)) {
            let (since, connection) = self.idle.pop_front()?;
            return Some(Place::Reuse(Idle { connection, since, stale: true }));
        }
        if let Some((since, connection)) = self.idle.pop_back() {
            return Some(Place::Reuse(Idle { connection, since, stale: false }));
        }
        if self.open >= self.rules.connections {
            return None;
        }
        let trial = match self.login {
            Login::Works => false,
            Login::Untried => true,
            Login::UnderWay | Login::Barred(_) => return None,
        };
        if trial {
            self.login = Login::UnderWay;
        }
        self.open += 1;
        Some(Place::Connect { trial })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct Pool {
        queue: Queue<&'static str, &'static str>,
        now: Instant,
    }

    impl Pool {
        fn new(connections: usize) -> Pool {
            Pool::with(Rules { connections, idle: SECOND * 60, pace: None, login_pause: None })
        }

        fn paced() -> Pool {
            Pool::with(Rules { connections: 9, idle: SECOND * 60, pace: Some(SECOND), login_pause: None })
        }

        fn with(rules: Rules) -> Pool {
            Pool { queue: Queue::new(rules), now: Instant::now() }
        }

        fn draw(&mut self, what: WaitFor) -> u64 {
            self.queue.draw(what, Arc::new(""), self.now)
        }

        fn take(&mut self, ticket: u64) -> Option<Place<&'static str>> {
            self.queue.take(ticket, self.now)
        }

        /// Takes what was granted to this ticket, and returns whether there was anything.
        fn has(&mut self, ticket: u64) -> bool {
            self.take(ticket).is_some()
        }
    }

    #[test]
    fn a_freed_place_goes_to_the_longest_waiter() {
        let mut pool = Pool::new(1);
        let holder = pool.draw(WaitFor::Connection);
        assert_eq!(pool.take(holder), Some(Place::Connect { trial: false }));
        let (first, second) = (pool.draw(WaitFor::Connection), pool.draw(WaitFor::Turn));
        assert!(pool.queue.put("a", pool.now).is_none());
        let newcomer = pool.draw(WaitFor::Connection);
        assert!(!pool.has(newcomer) && !pool.has(second), "nobody overtakes the first waiter");
        assert!(matches!(pool.take(first), Some(Place::Reuse(Idle { connection: "a", stale: false, .. }))));
        pool.queue.release(false, pool.now);
        assert_eq!(pool.take(second), Some(Place::Connect { trial: false }));
    }

    #[test]
    fn a_waiter_that_leaves_passes_on_what_it_was_granted() {
        let mut pool = Pool::new(1);
        let holder = pool.draw(WaitFor::Connection);
        assert!(pool.has(holder));
        let waiters: Vec<u64> = (0..4).map(|_| pool.draw(WaitFor::Connection)).collect();
        pool.queue.leave(waiters[1], pool.now); // from the middle
        assert!(pool.queue.put("a", pool.now).is_none());
        pool.queue.leave(waiters[0], pool.now); // with a grant
        assert!(matches!(pool.take(waiters[2]), Some(Place::Reuse(_))));
        pool.queue.release(false, pool.now);
        pool.queue.leave(waiters[3], pool.now); // with room for a new connection
        assert_eq!(pool.queue.open(), 0);
    }

    #[test]
    fn a_waiter_given_a_dead_connection_is_served_before_later_waiters() {
        let mut pool = Pool::new(1);
        let first = pool.draw(WaitFor::Connection);
        assert!(pool.has(first));
        let second = pool.draw(WaitFor::Connection);
        pool.queue.again(first, Arc::new(""), pool.now);
        assert_eq!(pool.take(first), Some(Place::Connect { trial: false }));
        assert!(!pool.has(second));
    }

    #[test]
    fn turns_are_granted_in_order_at_the_set_pace() {
        let mut pool = Pool::paced();
        let tickets: Vec<u64> = (0..4).map(|_| pool.draw(WaitFor::Turn)).collect();
        for (n, ticket) in tickets.iter().enumerate() {
            assert!(pool.has(*ticket), "{n}");
            assert!(tickets[n + 1..].iter().all(|later| !pool.has(*later)));
            let next = tickets.get(n + 1).map(|next| pool.queue.alarm(*next));
            assert_eq!(next.unwrap_or_default().is_some(), n < 3, "somebody keeps the time");
            pool.now += SECOND;
        }
    }

    #[test]
    fn a_caller_that_needs_no_turn_does_not_wait_for_one() {
        let mut pool = Pool::paced();
        let (first, second) = (pool.draw(WaitFor::Turn), pool.draw(WaitFor::Turn));
        let plain = pool.draw(WaitFor::Connection);
        assert!(pool.has(first) && pool.has(plain) && !pool.has(second));
    }

    #[test]
    fn a_waiter_that_leaves_gives_up_its_turn() {
        let mut pool = Pool::paced();
        let tickets: Vec<u64> = (0..30).map(|_| pool.draw(WaitFor::Turn)).collect();
        let due = pool.queue.turn(pool.now);
        assert_eq!(due, pool.now + SECOND * 30);
        for gone in &tickets[..28] {
            pool.queue.leave(*gone, pool.now);
        }
        assert!(pool.has(tickets[28]), "a turn that was already granted is given up too");
        assert!(pool.queue.alarm(tickets[29]).is_some());
        pool.now += SECOND;
        assert!(pool.has(tickets[29]));
    }

    #[test]
    fn a_turn_is_not_returned_if_a_later_one_was_taken() {
        let mut pool = Pool::paced();
        let (first, second) = (pool.draw(WaitFor::Turn), pool.draw(WaitFor::Turn));
        pool.now += SECOND;
        assert!(pool.has(second));
        pool.queue.leave(first, pool.now);
        let third = pool.draw(WaitFor::Turn);
        assert!(!pool.has(third), "it would begin together with the second");
    }

    #[test]
    fn a_waiter_that_is_never_polled_again_delays_only_itself() {
        let mut pool = Pool::new(2);
        let held = [pool.draw(WaitFor::Connection), pool.draw(WaitFor::Connection)];
        assert!(held.iter().all(|ticket| pool.has(*ticket)));
        let (asleep, awake) = (pool.draw(WaitFor::Connection), pool.draw(WaitFor::Connection));
        assert!(pool.queue.put("a", pool.now).is_none() && pool.queue.put("b", pool.now).is_none());
        assert!(pool.has(awake));
        let next = pool.draw(WaitFor::Connection);
        assert!(!pool.has(next));
        pool.queue.leave(asleep, pool.now);
        assert!(pool.has(next));
    }

    #[test]
    fn logins_are_tried_one_at_a_time_until_one_succeeds() {
        let rules = Rules { connections: 3, idle: SECOND, pace: None, login_pause: Some(SECOND * 60) };
        let mut pool = Pool::with(rules);
        let tickets = [(); 3].map(|()| pool.draw(WaitFor::Connection));
        assert_eq!(pool.take(tickets[0]), Some(Place::Connect { trial: true }));
        assert!(!pool.has(tickets[1]));
        pool.queue.release(true, pool.now); // the server could not be reached
        assert_eq!(pool.take(tickets[1]), Some(Place::Connect { trial: true }));
        pool.queue.logged_in(pool.now);
        assert_eq!(pool.take(tickets[2]), Some(Place::Connect { trial: false }));
    }

    #[test]
    fn a_refused_login_suspends_further_logins_for_a_while() {
        let rules = Rules { connections: 3, idle: SECOND * 600, pace: None, login_pause: Some(SECOND * 60) };
        let mut pool = Pool::with(rules);
        let first = pool.draw(WaitFor::Connection);
        assert!(pool.has(first));
        pool.queue.logged_in(pool.now);
        let (second, third) = (pool.draw(WaitFor::Connection), pool.draw(WaitFor::Turn));
        assert!(pool.has(second) && pool.has(third));
        let waiting = pool.draw(WaitFor::Turn);
        pool.queue.login_refused(pool.now);
        pool.queue.release(false, pool.now);
        assert_eq!(pool.take(waiting), Some(Place::Barred), "waiting callers get the error");
        assert!(pool.queue.put("a", pool.now).is_none());
        let lucky = pool.draw(WaitFor::Connection);
        assert!(
            matches!(pool.take(lucky), Some(Place::Reuse(_))),
            "a connection that is logged in can be used"
        );
        let late = pool.draw(WaitFor::Connection);
        assert_eq!(pool.take(late), Some(Place::Barred));
        pool.now += SECOND * 60;
        let trial = pool.draw(WaitFor::Connection);
        assert_eq!(pool.take(trial), Some(Place::Connect { trial: true }));
    }

    #[test]
    fn stale_connections_are_handed_out_first() {
        let mut pool = Pool::new(2);
        let held = [(); 2].map(|()| pool.draw(WaitFor::Connection));
        assert!(held.iter().all(|ticket| pool.has(*ticket)));
        for name in ["old", "new"] {
            assert!(pool.queue.put(name, pool.now).is_none());
            let [first, second] = [(); 2].map(|()| pool.draw(WaitFor::Connection));
            pool.queue.leave(first, pool.now); // the connection that it gives back keeps its age
            pool.queue.leave(second, pool.now);
            pool.now += SECOND * 40;
        }
        let ticket = pool.draw(WaitFor::Connection);
        let place = pool.take(ticket);
        assert!(
            matches!(place, Some(Place::Reuse(Idle { connection: "old", stale: true, .. }))),
            "{place:?}"
        );
    }

    #[test]
    fn close_wakes_all_waiters_and_the_last_connection_wakes_its_caller() {
        let mut pool = Pool::new(1);
        let holder = pool.draw(WaitFor::Connection);
        assert!(pool.has(holder));
        pool.queue.draw(WaitFor::Turn, Arc::new("waiter"), pool.now);
        drop(pool.queue.called());
        assert!(pool.queue.close().is_empty());
        assert_eq!(pool.queue.called(), [Arc::new("waiter")]);
        pool.queue.draw(WaitFor::End, Arc::new("closer"), pool.now);
        assert_eq!(pool.queue.put("a", pool.now), Some("a"));
        assert_eq!((pool.queue.called(), pool.queue.open()), (vec![Arc::new("closer")], 0));
    }
}
