//! The client: a connection with its settings, what is known about the server, and methods that run a dialogue over it.
//! Single commands are in `commands.rs`.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    body::Source,
    call::{Call, Kind},
    known::{History, Known, Setup},
    link::Link,
    maybe_async,
    origin::Origin,
    sending::Sending,
    stop::StopHandle,
};
use crate::{
    Capabilities, Delivery, Error, EventKind, Phase, Reply,
    config::{Server, Settings},
    event::Observer,
    proto::{Auth, AuthOptions, Credentials, Dialogue, Simple, Want},
    time::later,
};

/// A connection to an SMTP or LMTP server.
///
/// Create one with a [`Builder`](super::Builder), from a [host](Client::builder), a [URL](Client::from_url) or a
/// [Unix socket](Client::unix). Then [send one message](Client::send) or [many](Client::send_all), or use
/// [single commands](#single-commands).
///
/// After a lost connection, a timeout, an invalid reply, a 421 or unexpected 221 reply, or a dropped future, every call
/// that needs the connection fails with [`Error::NotConnected`] until [`reconnect`](Client::reconnect) is called. After
/// any other refusal, the client can still be used. Dropping the client closes the connection at once;
/// [`quit`](Client::quit) sends QUIT first.
///
/// # Reconnecting
///
/// A client has two methods named `send`, which differ if the connection is closed. `client.send(…)` is the [method of
/// the client](Client::send), even if the trait [`Mailer`](super::super::Mailer) is in scope.
/// `Mailer::send(&mut client, …)`, [`Retrying`](super::super::Retrying), and code that takes a `dyn Mailer` use the
/// method of the trait, which reconnects first.
///
/// | the connection | `client.send(…)` | `Mailer::send(&mut client, …)` |
/// |---|---|---|
/// | The server closed it while it was idle, after it had accepted a message. | reconnects | reconnects |
/// | The server closed it while it was idle, before it had accepted a message. | fails with [`Error::Transaction`] (not sent) | reconnects |
/// | An earlier call closed it: an error, [`quit`](Client::quit), [`close`](Client::close). | fails with [`Error::NotConnected`] | reconnects |
/// | A future that used it was dropped. | fails with [`Error::NotConnected`] | reconnects |
///
/// Neither method reconnects if the caller made the connection ([`connect_over`](super::Builder::connect_over)), or has
/// changed it with a call such as [`starttls`](Client::starttls) or [`login`](Client::login).
/// [`send_all`](Client::send_all) reconnects in the same case as `client.send(…)`. [Single commands](#single-commands)
/// never reconnect.
#[doc = example!(Client)]
pub struct Client {
    pub(super) origin: Origin,
    pub(super) link: Link,
    pub(super) known: Known,
    pub(super) history: History,
    /// The limit for the whole next call, if one was set for that call only.
    pub(super) next_limit: Option<Duration>,
    /// The message that is being sent, or whose future was dropped.
    pub(super) sending: Sending,
    /// The result of the last message whose future was dropped.
    pub(super) interrupted: Option<Result<Delivery, Error>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.settle_interrupted();
    }
}

impl Client {
    /// Creates a client that is not connected yet.
    pub(super) fn new(origin: Origin) -> Client {
        Client {
            origin,
            link: Link::closed(),
            known: Known::default(),
            history: History::default(),
            next_limit: None,
            sending: Sending::default(),
            interrupted: None,
        }
    }

    /// Returns the server's greeting, or `None` if the last attempt to reconnect failed before the login.
    #[must_use]
    pub fn greeting(&self) -> Option<&Reply> {
        self.known.greeting.as_ref()
    }

    /// Returns the capabilities that the server offered in its reply to the last EHLO, except those that are
    /// [ignored](super::Builder::ignore_capability). There are none if the server supports only HELO.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.known.capabilities
    }

    /// Returns the server's address, or that of the [proxy](super::Builder::proxy). Returns `None` for a Unix socket,
    /// for a connection made by the caller if its peer is unknown, and if the last `reconnect` could not connect.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.link.stream.peer()
    }

    /// Returns the number that is shown at the start of the connection's log lines (`#7`). It is unique in this
    /// process, and changes whenever the client [reconnects](Client::reconnect).
    #[must_use]
    pub fn connection_number(&self) -> u64 {
        self.link.number
    }

    /// Closes the connection without sending QUIT. This method may be called at any time, and more than once.
    pub fn close(&mut self) {
        self.link.close();
    }

    /// Returns whether the connection is open, as far as can be told without asking the server: neither side has closed
    /// it, no call has left it unusable, and the server has not sent anything unexpected.
    pub fn is_connected(&mut self) -> bool {
        self.link.is_connected()
    }

    /// Begins a call, whose deadline is counted from now.
    pub(super) fn begin(&mut self) -> Call {
        self.settle_interrupted();
        Call::new(Kind::Single, self.take_deadline())
    }

    /// Returns when a call that begins now has to end. This consumes the limit that was set for a single call.
    pub(super) fn take_deadline(&mut self) -> Option<Instant> {
        let limit = self.next_limit.take().or(self.origin.settings.config.deadline);
        limit.map(|limit| later(Instant::now(), limit))
    }

    pub(super) fn observer(&self) -> Option<&Observer> {
        self.origin.settings.config.observer.as_ref()
    }

    /// Tells the observer, if there is one, about an event.
    pub(super) fn tell(&self, kind: EventKind<'_>, took: Duration) {
        if let Some(observer) = self.observer() {
            observer.tell(Some(self.link.number), kind, took);
        }
    }

    /// Tells the observer, if there is one, about the result of a message.
    pub(super) fn tell_result(&self, result: &Result<Delivery, Error>) {
        if let Some(observer) = self.observer() {
            observer.tell_result(Some(self.link.number), result);
        }
    }

    /// Records the result of a message whose future was dropped, if there is one.
    pub(super) fn settle_interrupted(&mut self) {
        if let Some(result) = self.sending.abandon(self.link.out.octets_offered()) {
            self.tell_result(&result);
            self.interrupted = Some(result);
        }
    }

    pub(super) fn usable(&mut self, phase: Phase) -> Result<(), Error> {
        self.link.usable(&self.origin.stop_handle, phase)
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.origin.settings
    }

    pub(super) fn is_local(&self) -> bool {
        self.origin.is_local(&self.link)
    }

    /// Returns the stop handle, for `stop_handle`, which only the blocking client has.
    #[allow(dead_code)]
    pub(in super::super) fn stopped_by(&self) -> &StopHandle {
        &self.origin.stop_handle
    }

    /// Returns whether the user has changed the connection in a way that the next user does not expect.
    pub(super) fn is_changed(&self) -> bool {
        self.history.setup == Setup::Changed || self.history.open.by_hand().is_some()
    }

    /// Sends QUIT, if that is possible without waiting, and closes the connection. Does not wait for the reply.
    pub(super) fn quit_without_waiting(&mut self) {
        self.link.quit_without_waiting();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("settings", &self.origin.settings)
            .field("stream", &self.link.stream)
            .field("capabilities", &self.known.capabilities)
            .field("condition", &self.link.condition)
            .finish_non_exhaustive()
    }
}

#[maybe_async]
impl Client {
    /// Runs a dialogue to its end; see [`Link::go_on`].
    pub(super) async fn run(
        &mut self,
        call: &mut Call,
        talk: &mut (dyn Dialogue + Send),
    ) -> Result<(), Error> {
        self.usable(talk.phase())?;
        match self.go_on(call, talk, None).await? {
            Want::Nothing => Ok(()),
            _ => Err(Error::Internal("a dialogue asked for something that its owner cannot provide")),
        }
    }

    /// Runs a dialogue as far as possible; see [`Link::go_on`].
    pub(super) async fn go_on(
        &mut self,
        call: &mut Call,
        talk: &mut (dyn Dialogue + Send),
        source: Option<(usize, &mut Source<'_>)>,
    ) -> Result<Want, Error> {
        self.link.go_on(&self.origin, call, talk, source).await
    }

    /// Logs in. If `mechanisms` is given, only these mechanisms are tried.
    pub(super) async fn exchange_credentials(
        &mut self,
        call: &mut Call,
        credentials: Credentials,
        mechanisms: Option<Vec<String>>,
    ) -> Result<(), Error> {
        let config = &self.settings().config;
        let options = AuthOptions {
            encrypted: self.is_encrypted(),
            local: self.is_local(),
            channel_binding: self.channel_binding(),
            tls_exporter: self.tls_exporter(),
            server: match &self.settings().server {
                Server::Host(host, port) => Some((host.tls_name.clone(), *port)),
                Server::Unix(_) => None,
            },
            mechanisms,
            max_scram_iterations: config.max_scram_iterations,
            refusals: self.history.login.refused,
        };
        let in_clear = !options.encrypted && !options.local;
        let mut auth = Auth::new(credentials, options, &self.known.capabilities)?;
        if in_clear {
            // This is possible only if the caller has allowed it.
            log::warn!(target: "postino", "#{} logging in without TLS (danger_plaintext_credentials)", self.link.number);
        }
        let began = Instant::now();
        let broke = self.run(call, &mut auth).await.err();
        self.history.login.refused = auth.refusals();
        let mechanism = auth.mechanism();
        auth.into_result(broke)?;
        self.tell(EventKind::LoggedIn { mechanism: &mechanism }, began.elapsed());
        self.history.login.mechanism = Some(mechanism);
        Ok(())
    }

    /// Sends QUIT, waits at most one second for the reply, and closes the connection.
    ///
    /// # Errors
    ///
    /// None: a failure of QUIT is only logged, because the outcome of every message is already known.
    pub async fn quit(&mut self) -> Result<(), Error> {
        let mut call = self.begin();
        if self.link.is_usable() {
            let mut quit = Simple::quit();
            let end = match self.run(&mut call, &mut quit).await {
                Ok(()) => quit.into_result().err(),
                Err(e) => Some(e),
            };
            if let Some(e) = end {
                log::debug!(target: "postino", "#{} QUIT failed: {e}", self.link.number);
            }
        }
        self.close();
        Ok(())
    }
}
