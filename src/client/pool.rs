//! A pool of clients, whose connections are kept for the next message.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use super::{
    batch::Batch,
    bell::Bell,
    builder::Builder,
    call::Call,
    known::OpenTransaction,
    maybe_async,
    origin::Maker,
    send::Freshness,
    session::Client,
    stop::{StopHandle, Watch},
};
use crate::{
    Delivery, Error, EventKind, Mail, Phase,
    config::Config,
    pool_queue::{Idle, Place, Queue, Rules, WaitFor},
    time::later,
};

/// A pool of connections to one server, shared by many threads or tasks. Each message uses a free connection, or a
/// new one if the maximum has not been reached.
///
/// When all connections are in use, callers are served in the order in which they arrived: a connection that becomes
/// free is given to the caller that has waited longest.
///
/// Clones share the connections. A pool has no background thread: a connection that has been idle for too long is
/// closed when the pool is next used, or when the last clone of the pool is dropped.
///
/// Before a connection is used again, the pool checks, without sending anything, whether it was closed and whether
/// the server has sent something unexpected. If the connection later turns out to be dead, the message is sent over a
/// new connection, as long as none of its content has been sent.
///
/// Changes that one user makes to a connection never affect the next user. Time limits are reset when the connection is
/// returned. The pool closes a connection on which its user has called [`helo`](Client::helo), [`ehlo`](Client::ehlo)
/// with another name, [`command`](Client::command), [`starttls`](Client::starttls) or a [login method](Client#logins),
/// or has begun a transaction with [`mail`](Client::mail) and not ended it.
///
/// Before the pool closes a connection, it sends QUIT (RFC 5321 §4.1.1.10). It does not wait for the reply, and omits
/// QUIT if the command cannot be written without waiting.
#[doc = example!(Pool)]
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    builder: Builder,
    limits: Limits,
    state: Mutex<State>,
    /// Lets the stop handle wake the waiting callers.
    _watch: Option<Watch>,
}

struct State {
    queue: Queue<Kept, Bell>,
    /// The error of the last refused login, which is returned to all callers that would otherwise have to log in
    /// meanwhile.
    refused: Option<Box<Error>>,
}

/// The settings of a [`Pool`]; created by [`Pool::builder`].
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
    /// Time between the beginnings of two messages.
    pace: Option<Duration>,
    login_pause: Duration,
}

/// A connection that is kept for reuse.
struct Kept {
    client: Box<Client>,
    born: Instant,
}

/// A place in the queue. Dropping it returns whatever was granted.
struct Ticket<'p> {
    pool: &'p Arc<Shared>,
    number: u64,
    bell: Arc<Bell>,
    until: Instant,
    /// The latest time of its turn according to the rate.
    turn: Instant,
}

/// A client from a [`Pool`]. Dropping the client returns its connection to the pool, which closes the connection if an
/// error or a dropped future has left it unusable, or if the user has changed it in one of the ways listed at [`Pool`].
pub struct Pooled {
    pool: Arc<Shared>,
    /// `None` while the client is being connected, and after it has been returned.
    client: Option<Box<Client>>,
    born: Instant,
    /// Whether the connection had been used before.
    reused: bool,
    /// Whether the connection is the first to try the login.
    trial: bool,
}

impl PoolBuilder {
    /// Sets the maximum number of simultaneous connections; 0 means 1. Defaults to 10.
    pub fn max_connections(mut self, most: usize) -> PoolBuilder {
        self.limits.connections = most.max(1);
        self
    }

    /// Sets how long to wait for a connection when all are in use. With a [rate](PoolBuilder::max_rate), this wait
    /// begins when it is the message's turn. Defaults to 60 seconds.
    pub fn wait_limit(mut self, limit: Duration) -> PoolBuilder {
        self.limits.wait = limit;
        self
    }

    /// Sets the maximum number of messages per connection. The server's limit (LIMITS MAILMAX, RFC 9422) also
    /// applies. Defaults to no further limit.
    pub fn max_messages(mut self, most: u64) -> PoolBuilder {
        self.limits.messages = Some(most);
        self
    }

    /// Sets the maximum age of a connection. A connection that has reached this age is not used for any further
    /// message. Defaults to no limit.
    pub fn max_age(mut self, limit: Duration) -> PoolBuilder {
        self.limits.age = Some(limit);
        self
    }

    /// Sets how long an unused connection is kept. Servers may close idle connections after five minutes (RFC 5321
    /// §4.5.3.2.7), and in practice many do so sooner. Defaults to 60 seconds.
    pub fn idle_limit(mut self, limit: Duration) -> PoolBuilder {
        self.limits.idle = limit;
        self
    }

    /// Sets the maximum number of messages per second, over all connections: each message starts at least
    /// `1 / per_second` seconds after the previous one. The rate must be positive. Only [`Pool::send`] is limited. A
    /// call whose future is dropped while it waits does not count. Defaults to no limit.
    pub fn max_rate(mut self, per_second: f64) -> PoolBuilder {
        let pace = Duration::try_from_secs_f64(1.0 / per_second);
        self.limits.pace = Some(pace.unwrap_or(Duration::MAX));
        self
    }

    /// Sets how long to wait before the next login after the server has refused one with a 5yz reply (other than 504
    /// and 534), so that a wrong password does not lock the account. Meanwhile, calls that need a new connection fail
    /// at once with the error of the refused login, and connections that are already logged in are still used. Until a
    /// login has succeeded, connections are made one at a time. [`Duration::ZERO`] disables the pause. Defaults to one
    /// minute.
    pub fn login_pause(mut self, pause: Duration) -> PoolBuilder {
        self.limits.login_pause = pause;
        self
    }

    /// Creates the pool. It connects when it is first used.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the rate is invalid, or if the builder passed to [`Pool::builder`] has an invalid setting.
    pub fn build(self) -> Result<Pool, Error> {
        self.builder.check()?;
        if self.limits.pace == Some(Duration::MAX) {
            return Err(Error::Config("the pool's rate must be greater than 0".into()));
        }
        let PoolBuilder { builder, limits } = self;
        let rules = Rules {
            connections: limits.connections,
            idle: limits.idle,
            pace: limits.pace,
            login_pause: builder.config.login.is_some().then_some(limits.login_pause),
        };
        let state = Mutex::new(State { queue: Queue::new(rules), refused: None });
        Ok(Pool(Arc::new_cyclic(|shared: &Weak<Shared>| {
            let shared = shared.clone();
            let wake = move || {
                if let Some(shared) = shared.upgrade() {
                    shared.with(|state| state.queue.call_all());
                }
            };
            let watch = builder.stop_handle.as_ref().map(|stop_handle| stop_handle.watch(Box::new(wake)));
            Shared { builder, limits, state, _watch: watch }
        })))
    }
}

impl Shared {
    /// Reads or changes the state, and wakes the waiters that are affected. `look` must not block.
    fn with<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = look(&mut state);
        let called = state.queue.called();
        drop(state);
        called.iter().for_each(|bell| bell.ring());
        result
    }

    /// Returns the error that all callers get once the pool hands out no more connections.
    fn over(&self, state: &State) -> Option<Error> {
        if self.builder.stop_handle.as_ref().is_some_and(StopHandle::is_stopped) {
            return Some(Error::Stopped(Phase::Pool));
        }
        state.queue.is_closed().then_some(Error::PoolClosed)
    }

    /// Joins the queue. `end` is the deadline of the call.
    fn draw(self: &Arc<Shared>, what: WaitFor, end: Option<Instant>) -> Result<Ticket<'_>, Error> {
        let (bell, now) = (Arc::<Bell>::default(), Instant::now());
        self.with(|state| {
            if let Some(why) = self.over(state) {
                return Err(why);
            }
            let turn = if what == WaitFor::Turn { state.queue.turn(now) } else { now };
            if end.is_some_and(|end| turn >= end) && !state.queue.is_barred(now) {
                return Err(Error::Timeout(Phase::Pool)); // it leaves the turn to others
            }
            let limit = later(turn, self.limits.wait);
            let until = end.map_or(limit, |end| end.min(limit));
            let number = state.queue.draw(what, Arc::clone(&bell), now);
            Ok(Ticket { pool: self, number, bell, until, turn })
        })
    }

    /// Returns the error of a login that was refused a short while ago.
    fn refusal(&self) -> Error {
        let refusal = self.with(|state| state.refused.as_deref().and_then(Error::refused_login));
        refusal.unwrap_or_else(|| Error::Auth {
            what: "the server recently refused a login on another connection".into(),
            details: None,
            reply: None,
        })
    }

    /// Returns whether a connection must not be used for another message.
    fn is_spent(&self, client: &Client, born: Instant) -> bool {
        self.limits.messages.is_some_and(|most| client.link.begun >= most)
            || self.limits.age.is_some_and(|limit| born.elapsed() >= limit)
            || client.is_used_up()
    }

    fn release(&self, trial: bool) {
        self.with(|state| state.queue.release(trial, Instant::now()));
    }
}

impl Ticket<'_> {
    /// Returns what was granted, or an error if waiting longer is of no use.
    fn look(&self) -> Option<Result<Place<Kept>, Error>> {
        self.pool.with(|state| {
            if let Some(why) = self.pool.over(state) {
                return Some(Err(why));
            }
            let now = Instant::now();
            let place = state.queue.take(self.number, now);
            place.map(Ok).or_else(|| (now >= self.until).then_some(Err(Error::Timeout(Phase::Pool))))
        })
    }

    /// Returns when to look again if the bell is not rung before then.
    fn alarm(&self) -> Instant {
        let alarm = self.pool.with(|state| state.queue.alarm(self.number));
        // Callers with earlier turns may never run again, so each caller looks at the clock when its own turn has come.
        let times = alarm.into_iter().chain([self.turn]);
        let now = Instant::now(); // if its turn is past, it waits for a connection
        times.filter(|time| *time > now).fold(self.until, Instant::min)
    }

    /// Joins the queue again at its old place, because what was granted could not be used.
    fn again(&self) {
        self.pool.with(|state| state.queue.again(self.number, Arc::clone(&self.bell), Instant::now()));
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.pool.with(|state| state.queue.leave(self.number, Instant::now()));
    }
}

impl Pool {
    /// Returns a builder for a pool of connections with the settings of `server`.
    pub fn builder(server: Builder) -> PoolBuilder {
        let limits = Limits {
            connections: 10,
            wait: Duration::from_secs(60),
            messages: None,
            age: None,
            idle: Duration::from_secs(60),
            pace: None,
            login_pause: Duration::from_secs(60),
        };
        PoolBuilder { builder: server, limits }
    }

    /// Returns the number of connections, whether in use, idle, or being made.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.with(|state| state.queue.open())
    }

    /// Passes an idle connection to its next user, or closes it if it cannot be used any more.
    fn reuse(&self, idle: Idle<Kept>) -> Option<Pooled> {
        let Idle { connection: Kept { mut client, born }, stale, .. } = idle;
        if !client.is_connected() {
            client.close();
            return None;
        }
        if stale || self.0.is_spent(&client, born) {
            client.quit_without_waiting();
            return None;
        }
        client.start_over(&self.0.builder.config);
        Some(Pooled { pool: self.0.clone(), client: Some(client), born, reused: true, trial: false })
    }
}

impl Client {
    /// Resets the time limits that its last user has set.
    fn start_over(&mut self, config: &Config) {
        let own = &mut self.origin.settings.config;
        (own.timeouts, own.deadline) = (config.timeouts, config.deadline);
        self.next_limit = None;
    }
}

#[maybe_async]
impl Pool {
    /// Sends a message over a free connection, or a new one, as soon as the [rate](PoolBuilder::max_rate)
    /// allows. The builder's [`deadline`](Builder::deadline) covers the whole call, including the time
    /// spent waiting.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] with [`Phase::Pool`] if no connection becomes free in time, or if the rate would delay the
    /// message beyond the deadline; nothing is sent then. [`Error::PoolClosed`] after [`close`](Pool::close). The error
    /// of the refused login while [logins are paused](PoolBuilder::login_pause). Any error from [`Builder::connect`] or
    /// [`Client::send`].
    pub async fn send(&self, mail: &dyn Mail) -> Result<Delivery, Error> {
        let mut call = self.0.builder.begin();
        let mut taken = None;
        let result = self.take_and_send(&mut call, mail, &mut taken).await;
        if let Some(observer) = &self.0.builder.config.observer {
            let client = taken.as_ref().and_then(|pooled: &Pooled| pooled.client.as_ref());
            observer.tell_result(client.map(|client| client.link.number), &result);
        }
        result
    }

    /// Sends a message over the client that it puts into `taken`.
    async fn take_and_send(
        &self,
        call: &mut Call,
        mail: &dyn Mail,
        taken: &mut Option<Pooled>,
    ) -> Result<Delivery, Error> {
        let envelope = mail.envelope()?;
        let client = taken.insert(self.take(WaitFor::Turn, call).await?);
        let reused = client.reused;
        let freshness = if reused { Freshness::Kept } else { Freshness::New };
        let number = client.link.number;
        let first = client.deliver(call, mail, envelope.clone(), freshness).await;
        match first {
            // The connection had died while it was idle, and only the envelope was sent.
            // Content that can be read only once is still available, unless it was read.
            Err(e)
                if reused && client.may_replace_idle(number, &e) && mail.body_for(client.offer()).is_ok() =>
            {
                log::debug!(target: "postino", "#{} the idle connection is dead: {e}; trying a new one", client.link.number);
                client.tell(EventKind::Retried { error: &e }, Duration::ZERO);
                client.replace(call).await?;
                client.deliver(call, mail, envelope, Freshness::New).await
            }
            result => result,
        }
    }

    /// Sends all messages from an iterator over one connection of the pool. [`Client::send_all`] describes the details,
    /// and what happens if that connection is lost. The batch keeps the connection until the batch is dropped; the
    /// pool's rate limit and per-connection limits (such as [`max_messages`](PoolBuilder::max_messages)) do not apply
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// The same as for [`client`](Pool::client).
    pub async fn send_all<M: Mail, J: IntoIterator<Item = M>>(
        &self,
        mails: J,
    ) -> Result<Batch<Pooled, M, J::IntoIter>, Error> {
        let mut call = self.0.builder.begin();
        let client = self.take(WaitFor::Connection, &mut call).await?;
        Ok(Batch::new(client, mails.into_iter()))
    }

    /// Takes a client out of the pool. It can be used like any other client; [`Pool`] describes what happens to the
    /// connection when the client is returned.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`] with [`Phase::Pool`] if no connection becomes free in time; [`Error::PoolClosed`]; the error
    /// of a [refused login](PoolBuilder::login_pause); the errors of [`Builder::connect`].
    pub async fn client(&self) -> Result<Pooled, Error> {
        let mut call = self.0.builder.begin();
        let mut client = self.take(WaitFor::Connection, &mut call).await?;
        if matches!(client.history.open, OpenTransaction::Refused) {
            // The last message was refused in the middle of its transaction, which single commands would continue.
            if let Err(e) = client.reset(&mut call).await {
                log::debug!(target: "postino", "#{} the idle connection cannot be used: {e}; trying a new one", client.link.number);
                client.quit_without_waiting();
                client.replace(&mut call).await?;
            }
        }
        Ok(client)
    }

    /// Closes the pool. Callers that are waiting, and all later ones, get [`Error::PoolClosed`]. Idle connections are
    /// closed with QUIT. Connections in use are closed when they are returned; this call waits for them, but no longer
    /// than the [`wait_limit`](PoolBuilder::wait_limit).
    pub async fn close(&self) {
        let shared = &self.0;
        for Kept { mut client, .. } in shared.with(|state| state.queue.close()) {
            client.quit_without_waiting();
            shared.release(false);
        }
        let (bell, now) = (Arc::<Bell>::default(), Instant::now());
        let number = shared.with(|state| state.queue.draw(WaitFor::End, Arc::clone(&bell), now));
        let until = later(now, shared.limits.wait);
        let ticket = Ticket { pool: shared, number, bell, until, turn: now };
        while self.connections() > 0 {
            if Instant::now() >= until {
                log::debug!(target: "postino", "the pool is closed, but some of its connections are still in use");
                break;
            }
            ticket.bell.wait(until).await;
        }
    }

    /// Waits for a connection, and for the turn of a message if `what` asks for that.
    async fn take(&self, what: WaitFor, call: &mut Call) -> Result<Pooled, Error> {
        let ticket = self.0.draw(what, call.deadline)?;
        loop {
            let place = match ticket.look() {
                Some(place) => place?,
                None => {
                    ticket.bell.wait(ticket.alarm()).await;
                    continue;
                }
            };
            match place {
                Place::Barred => return Err(self.0.refusal()),
                Place::Connect { trial } => {
                    // From here on, dropping `pooled` returns the place, whatever happens.
                    let (pool, born) = (self.0.clone(), Instant::now());
                    let mut pooled = Pooled { pool, client: None, born, reused: false, trial };
                    pooled.connect(call).await?;
                    return Ok(pooled);
                }
                Place::Reuse(idle) => match self.reuse(idle) {
                    Some(pooled) => return Ok(pooled),
                    None => ticket.again(),
                },
            }
        }
    }
}

#[maybe_async]
impl Pooled {
    /// Makes the connection for which this client was granted a place.
    async fn connect(&mut self, call: &mut Call) -> Result<(), Error> {
        let mut client = self.pool.builder.client(Maker::Client)?;
        let opened = client.open(call).await;
        let refused = client.history.login.refused > 0;
        self.pool.with(|state| match &opened {
            Ok(()) => state.queue.logged_in(Instant::now()),
            Err(error) if refused => {
                state.refused = error.refused_login().map(Box::new);
                state.queue.login_refused(Instant::now());
            }
            Err(_) => {}
        });
        opened?;
        (self.client, self.born) = (Some(Box::new(client)), Instant::now());
        Ok(())
    }

    /// Replaces a dead connection with a new one.
    async fn replace(&mut self, call: &mut Call) -> Result<(), Error> {
        let over = self.pool.with(|state| {
            let barred = state.queue.is_barred(Instant::now());
            self.pool.over(state).map(Err).or_else(|| barred.then_some(Ok(())))
        });
        match over {
            Some(Err(why)) => return Err(why),
            Some(Ok(())) => return Err(self.pool.refusal()),
            None => {}
        }
        self.client = None;
        self.reused = false;
        self.connect(call).await
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let Some(mut client) = self.client.take() else { return self.pool.release(self.trial) };
        client.settle_interrupted();
        client.interrupted = None; // the next user must not get it
        if !client.link.is_usable() {
            drop(client);
            return self.pool.release(false);
        }
        if client.is_changed() || self.pool.is_spent(&client, self.born) {
            client.quit_without_waiting();
            return self.pool.release(false);
        }
        let kept = Kept { client, born: self.born };
        let refused = self.pool.with(|state| state.queue.put(kept, Instant::now()));
        if let Some(Kept { mut client, .. }) = refused {
            client.quit_without_waiting(); // the pool is closed
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.queue.close().iter_mut().for_each(|kept| kept.client.quit_without_waiting());
    }
}

impl Deref for Pooled {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client.as_ref().expect("`Pooled` has a client until it is dropped")
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Client {
        self.client.as_mut().expect("`Pooled` has a client until it is dropped")
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
    fn a_message_takes_no_turn_beyond_its_deadline() {
        let server = Client::builder("127.0.0.1").deadline(Duration::from_secs(1));
        let pool = Pool::builder(server).max_rate(0.001).build().unwrap();
        let turn = || pool.0.with(|state| state.queue.turn(Instant::now()));
        drop(pool.0.draw(WaitFor::Turn, None).unwrap().look().unwrap().unwrap());
        let next = turn();
        let late = block_on(pool.take(WaitFor::Turn, &mut pool.0.builder.begin()));
        assert!(matches!(late, Err(Error::Timeout(Phase::Pool))));
        assert_eq!(turn(), next);
    }
}
