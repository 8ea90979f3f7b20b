//! Connections kept for the next message: a pool of clients.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use super::{
    batch::Batch,
    builder::Builder,
    gate::Gate,
    maybe_async,
    send::Freshness,
    session::Client,
    stop::{Stopper, Watch},
};
use crate::{
    Delivery, Error, Mail, Phase,
    config::{Config, later},
};

/// Connections to one server, for many threads or tasks: a message takes one that is free, or a new one, up to a limit.
///
/// Clones share the connections. There is no thread behind it: a connection that has been idle for too long is closed
/// when the pool is used the next time, or with the last clone.
///
/// Before a connection is used again it is looked at, without a word to the server: whether it was closed, or has said
/// something unasked. If it proves to be dead all the same, the message goes out over a new one, as long as nothing of
/// its content has left.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    builder: Builder,
    limits: Limits,
    gate: Gate<State>,
    /// Lets the stopper wake those who wait.
    _watch: Option<Watch>,
}

/// How a [`Pool`] is to be: made by [`Pool::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct PoolBuilder {
    builder: Builder,
    limits: Limits,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    connections: usize,
    wait: Duration,
    messages: Option<u64>,
    age: Option<Duration>,
    idle: Duration,
    /// The time from one message to the next.
    pace: Option<Duration>,
}

struct State {
    /// The last one given back is the first to be taken.
    idle: Vec<Idle>,
    /// Connections in use, being made, or idle.
    open: usize,
    closed: bool,
    /// When the next message may leave.
    next: Option<Instant>,
}

struct Idle {
    client: Box<Client>,
    born: Instant,
    since: Instant,
}

/// What one may do who wants a connection.
enum Place {
    Reuse(Idle),
    Connect,
}

/// A client from a [`Pool`], for as long as one likes; dropping it gives it back. One that was left in the middle of
/// something is closed then.
pub struct Pooled {
    pool: Arc<Shared>,
    /// None once it is given back.
    client: Option<Box<Client>>,
    born: Instant,
    /// It had been used before.
    reused: bool,
}

impl PoolBuilder {
    /// The most connections there are at a time; one at least. Defaults to 10.
    pub fn max_connections(mut self, most: usize) -> PoolBuilder {
        self.limits.connections = most.max(1);
        self
    }

    /// How long to wait for a connection when all are in use. Defaults to 60 seconds.
    pub fn wait_limit(mut self, limit: Duration) -> PoolBuilder {
        self.limits.wait = limit;
        self
    }

    /// The most messages for one connection. Defaults to no limit but the server's (LIMITS MAILMAX).
    pub fn max_messages(mut self, most: u64) -> PoolBuilder {
        self.limits.messages = Some(most);
        self
    }

    /// How long a connection is used at most. Defaults to no limit.
    pub fn max_age(mut self, limit: Duration) -> PoolBuilder {
        self.limits.age = Some(limit);
        self
    }

    /// How long a connection is kept without being used. Servers close idle ones, after five minutes by RFC 5321
    /// §4.5.3.2.7 and sooner in practice. Defaults to 60 seconds.
    pub fn idle_limit(mut self, limit: Duration) -> PoolBuilder {
        self.limits.idle = limit;
        self
    }

    /// The most messages per second, over all connections: each begins at least `1 / per_second` seconds behind the one
    /// before. Has to be above 0. Counts for [`Pool::send`] only. Defaults to no limit.
    pub fn max_rate(mut self, per_second: f64) -> PoolBuilder {
        let pace = Duration::try_from_secs_f64(1.0 / per_second);
        self.limits.pace = Some(pace.unwrap_or(Duration::MAX));
        self
    }

    /// The pool. Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the builder's settings, or the rate, cannot be.
    pub fn build(self) -> Result<Pool, Error> {
        self.builder.check()?;
        if self.limits.pace == Some(Duration::MAX) {
            return Err(Error::Config("a pool cannot send so few messages per second".into()));
        }
        let state = State { idle: Vec::new(), open: 0, closed: false, next: None };
        let PoolBuilder { builder, limits } = self;
        Ok(Pool(Arc::new_cyclic(|shared: &Weak<Shared>| {
            let shared = shared.clone();
            let wake = move || {
                if let Some(shared) = shared.upgrade() {
                    shared.gate.with(|_| ()); // who has looked and not seen the stop waits by now
                    shared.gate.notify();
                }
            };
            let watch = builder.stopper.as_ref().map(|stopper| stopper.watch(Box::new(wake)));
            Shared { builder, limits, gate: Gate::new(state), _watch: watch }
        })))
    }
}

impl Shared {
    /// Why nobody gets a connection any more.
    fn is_over(&self, state: &State) -> Option<Error> {
        match self.builder.stopper.as_ref().is_some_and(Stopper::is_stopped) {
            true => Some(Error::Stopped(Phase::Pool)),
            false => state.closed.then_some(Error::PoolClosed),
        }
    }

    /// Where one more may go; `None` while all are in use. One that was idle for too long comes first: it has to go.
    fn place(&self, state: &mut State) -> Option<Result<Place, Error>> {
        if let Some(why) = self.is_over(state) {
            return Some(Err(why));
        }
        if state.idle.first().is_some_and(|idle| self.limits.is_stale(idle)) {
            return Some(Ok(Place::Reuse(state.idle.remove(0))));
        }
        if let Some(idle) = state.idle.pop() {
            return Some(Ok(Place::Reuse(idle)));
        }
        (state.open < self.limits.connections).then(|| {
            state.open += 1;
            Ok(Place::Connect)
        })
    }

    /// A connection is no more: another may be made.
    fn release(&self) {
        self.gate.with(|state| state.open -= 1);
        self.gate.notify();
    }
}

impl Limits {
    fn is_stale(&self, idle: &Idle) -> bool {
        idle.since.elapsed() >= self.idle
    }

    fn is_spent(&self, client: &Client, born: Instant) -> bool {
        self.messages.is_some_and(|most| client.begun >= most)
            || self.age.is_some_and(|limit| born.elapsed() >= limit)
            || client.is_used_up()
    }
}

impl Pool {
    /// Begins with how to reach the server.
    pub fn builder(server: Builder) -> PoolBuilder {
        let limits = Limits {
            connections: 10,
            wait: Duration::from_secs(60),
            messages: None,
            age: None,
            idle: Duration::from_secs(60),
            pace: None,
        };
        PoolBuilder { builder: server, limits }
    }

    /// How many connections there are: in use, idle, or being made.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.gate.with(|state| state.open)
    }

    /// One that was idle, in the hands of the next who wants it.
    fn reuse(&self, idle: Idle, end: Option<Instant>) -> Pooled {
        let Idle { mut client, born, .. } = idle;
        client.start_over(&self.0.builder.config, end);
        Pooled { pool: self.0.clone(), client: Some(client), born, reused: true }
    }
}

impl Client {
    /// Forgets the limits that its last user has set.
    fn start_over(&mut self, config: &Config, deadline: Option<Instant>) {
        let own = &mut self.settings.config;
        (own.timeouts, own.deadline) = (config.timeouts, config.deadline);
        self.next_limit = None;
        self.begin();
        self.deadline = deadline;
    }
}

#[maybe_async]
impl Pool {
    /// Sends a message over a connection that is free, or a new one, when it is its turn by the rate. The builder's
    /// [`deadline`](Builder::deadline) covers all of it, the wait too.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] with [`Phase::Pool`] if no connection became free in time, or its turn comes behind the deadline;
    /// nothing was sent then. [`Error::PoolClosed`]; those of
    /// [`Builder::connect`] and of [`Client::send`].
    pub async fn send(&self, mail: &dyn Mail) -> Result<Delivery, Error> {
        let envelope = mail.envelope()?;
        let end = self.0.builder.ends();
        self.wait_for_turn(end).await?;
        let mut client = self.take(end).await?;
        let reused = client.reused;
        let freshness = if reused { Freshness::Kept } else { Freshness::New };
        let first = client.deliver(mail, envelope.clone(), freshness).await;
        match first {
            // The connection had died while it was idle, and all that was said is the envelope.
            // Content that can be read only once is still there, unless it was read.
            Err(e)
                if reused
                    && client.broken
                    && e.is_before_content()
                    && mail.body_for(client.offer()).is_ok() =>
            {
                log::debug!(target: "postino", "#{} was kept, and dead: {e}; trying a new one", client.number);
                drop(client);
                let mut client = self.connect(end).await?;
                client.deliver(mail, envelope, Freshness::New).await
            }
            result => result,
        }
    }

    /// Sends all messages of an iterator over one connection of the pool; see [`Client::send_all`], also for what happens
    /// if that connection is lost. The pool's rate, and its limits for one connection, are not looked at meanwhile.
    ///
    /// # Errors
    ///
    /// Those of [`client`](Pool::client).
    pub async fn send_all<M: Mail, J: IntoIterator<Item = M>>(
        &self,
        mails: J,
    ) -> Result<Batch<Pooled, M, J::IntoIter>, Error> {
        let client = self.client().await?;
        Ok(Batch::new(client, mails.into_iter()))
    }

    /// A client of the pool, to be used like any other. What is set of its limits lasts until it is given back; after a
    /// [`login`](Client::login) or [`starttls`](Client::starttls) of one's own the connection is not kept.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] with [`Phase::Pool`] if none became free in time; [`Error::PoolClosed`]; those of
    /// [`Builder::connect`].
    pub async fn client(&self) -> Result<Pooled, Error> {
        let end = self.0.builder.ends();
        self.take(end).await
    }

    /// Closes the pool: who waits, or comes later, gets [`Error::PoolClosed`]. Idle connections say QUIT and are closed;
    /// those in use are closed when they are given back, which is waited for up to the [limit](PoolBuilder::wait_limit) of
    /// the wait for a connection.
    pub async fn close(&self) {
        let shared = &self.0;
        let idle = shared.gate.with(|state| {
            state.closed = true;
            std::mem::take(&mut state.idle)
        });
        shared.gate.notify();
        // Whoever drops the future here drops these, too, and each gives its place back.
        let idle: Vec<_> = idle.into_iter().map(|idle| self.reuse(idle, None)).collect();
        for mut client in idle {
            client.leave().await;
        }
        let until = later(Instant::now(), shared.limits.wait);
        let done = shared.gate.wait(until, |state| (state.open == 0).then_some(())).await;
        if done.is_none() {
            log::debug!(target: "postino", "the pool is closed, and some of its connections are still in use");
        }
    }

    /// Waits for the turn of a message, which is taken then.
    async fn wait_for_turn(&self, end: Option<Instant>) -> Result<(), Error> {
        let shared = &self.0;
        let Some(pace) = shared.limits.pace else { return Ok(()) };
        let turn = shared.gate.with(|state| {
            let now = Instant::now();
            let turn = state.next.map_or(now, |next| next.max(now));
            let in_time = end.is_none_or(|end| turn < end);
            if in_time {
                state.next = Some(later(turn, pace)); // one that comes too late is left to others
            }
            in_time.then_some(turn)
        });
        let turn = turn.ok_or(Error::Timeout(Phase::Pool))?;
        match shared.gate.wait(turn, |state| shared.is_over(state)).await {
            Some(why) => Err(why),
            None => Ok(()),
        }
    }

    /// Until when to wait for a connection.
    fn wait_ends(&self, end: Option<Instant>) -> Instant {
        let limit = later(Instant::now(), self.0.limits.wait);
        end.map_or(limit, |end| end.min(limit))
    }

    async fn take(&self, end: Option<Instant>) -> Result<Pooled, Error> {
        let shared = &self.0;
        let until = self.wait_ends(end);
        loop {
            let place = shared.gate.wait(until, |state| shared.place(state)).await;
            match place.ok_or(Error::Timeout(Phase::Pool))?? {
                Place::Connect => return self.fill_place(end).await,
                Place::Reuse(idle) => {
                    let stale = shared.limits.is_stale(&idle);
                    let mut pooled = self.reuse(idle, end);
                    if !pooled.is_connected() {
                        pooled.close();
                    } else if stale || shared.limits.is_spent(&pooled, pooled.born) {
                        pooled.leave().await;
                    } else {
                        return Ok(pooled);
                    }
                    // It is closed: dropping it makes room for a new one.
                }
            }
        }
    }

    /// A new one, when there is room for it.
    async fn connect(&self, end: Option<Instant>) -> Result<Pooled, Error> {
        let shared = &self.0;
        let room = shared.gate.wait(self.wait_ends(end), |state| match shared.is_over(state) {
            Some(why) => Some(Err(why)),
            None if state.open < shared.limits.connections => {
                state.open += 1;
                Some(Ok(()))
            }
            None => state.idle.pop().map(|idle| {
                drop(idle.client); // its place is taken over
                Ok(())
            }),
        });
        room.await.ok_or(Error::Timeout(Phase::Pool))??;
        self.fill_place(end).await
    }

    /// Makes the connection that a place was taken for.
    async fn fill_place(&self, end: Option<Instant>) -> Result<Pooled, Error> {
        // From here on dropping it gives the place back, whatever happens.
        let mut pooled = Pooled { pool: self.0.clone(), client: None, born: Instant::now(), reused: false };
        pooled.client = Some(Box::new(self.0.builder.connect_until(end).await?));
        Ok(pooled)
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let shared = self.pool.clone();
        // One that somebody has secured or logged in by himself is nobody else's.
        let fit =
            |client: &Client| !client.broken && !client.raised && !shared.limits.is_spent(client, self.born);
        let kept = self.client.take().filter(|client| fit(client));
        let Some(client) = kept else { return shared.release() };
        let idle = Idle { client, born: self.born, since: Instant::now() };
        let refused = shared.gate.with(|state| {
            if state.closed {
                state.open -= 1;
                return Some(idle);
            }
            state.idle.push(idle);
            None
        });
        drop(refused); // outside of the lock
        shared.gate.notify();
    }
}

impl Deref for Pooled {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client.as_ref().expect("it is there until it is dropped")
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Client {
        self.client.as_mut().expect("it is there until it is dropped")
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("builder", &self.0.builder)
            .field("limits", &self.0.limits)
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pooled").field("client", &self.client).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::block_on;
    use super::*;

    #[test]
    fn who_cannot_wait_for_his_turn_takes_none() {
        let pool = Pool::builder(Client::builder("127.0.0.1")).max_rate(0.001).build().unwrap();
        block_on(pool.wait_for_turn(None)).unwrap();
        let next = || pool.0.gate.with(|state| state.next);
        let turn = next();
        let soon = Instant::now() + Duration::from_secs(1);
        let late = block_on(pool.wait_for_turn(Some(soon)));
        assert!(matches!(late, Err(Error::Timeout(Phase::Pool))));
        assert_eq!(next(), turn);
    }
}
