//! The client: connect, log in, send. What is one command stands in `commands.rs`.

use std::{
    fmt,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    builder::Builder, commands::ByHand, maybe_async, run::Clock, stop::StopHandle, stream::Stream,
    token::Tokens,
};
use crate::{
    Capabilities, Error, Phase, Reply,
    config::{Config, Server, Settings, later},
    proto::{Auth, AuthOptions, Credentials, Inbox, Outbox, Pace, Session, Simple},
};

/// A connection to an SMTP server, or an LMTP server.
///
/// It begins with a [`Builder`]: by [host](Client::builder), [URL](Client::from_url) or [Unix socket](Client::unix). Once
/// connected it [sends messages](Client::send), [many of them](Client::send_all), or says
/// [single commands](#single-commands).
///
/// After an error that leaves it out of step (a lost connection, a timeout, an answer that is no SMTP, a 421), and
/// after a future of its own that was dropped, it refuses further use with [`Error::NotConnected`]. After a refusal
/// it goes on. Dropping it closes the connection at once and says nothing; [`quit`](Client::quit) says goodbye.
pub struct Client {
    pub(super) settings: Settings,
    pub(super) stream: Stream,
    /// In the log; each connection has one of its own.
    pub(super) number: u64,
    /// We have made the connection, and can make another.
    pub(super) is_ours: bool,
    pub(super) inbox: Inbox,
    pub(super) out: Outbox,
    /// Out of step, or in the middle of something.
    pub(super) broken: bool,
    /// When the call that is under way has to end.
    pub(super) deadline: Option<Instant>,
    /// Where tokens come from, if not from the settings.
    pub(super) tokens: Option<Tokens>,
    /// What ends it from outside.
    pub(in super::super) stop_handle: StopHandle,
    /// The server may have a transaction open: the next one begins with RSET.
    pub(super) open: bool,
    /// When all that had arrived was read: if that was a moment ago, it saves a look in a batch.
    pub(super) drained: Option<Instant>,
    pub(super) hurry: bool,
    pub(super) clock: Clock,
    pub(super) pace: Pace,
    /// The longest that a reply to EHLO, or to an envelope, has taken.
    pub(super) slowest: Duration,
    /// How many messages were begun on this connection.
    pub(super) begun: u64,
    /// What became of them, and what is known of the server's limit.
    pub(super) session: Session,
    /// When the last of them was answered.
    pub(super) settled_at: Option<Instant>,
    pub(super) capabilities: Capabilities,
    pub(super) greeting: Option<Reply>,
    /// What was said to the last EHLO or HELO, and whether it was EHLO.
    pub(super) hello: Option<Reply>,
    pub(super) esmtp: bool,
    pub(super) logged_in: bool,
    /// Changed by a call of its own (STARTTLS, a login, EHLO, HELO, a custom command): connecting again would not bring that.
    pub(super) raised: bool,
    /// Logins that the server has refused for good on this connection.
    pub(super) logins_refused: u8,
    /// A transaction that single commands have begun, as far as is known.
    pub(super) by_hand: Option<ByHand>,
    /// The total limit of the next call, if it has one of its own.
    pub(super) next_limit: Option<Duration>,
}

impl Client {
    /// Begins with the host: a name (beyond ASCII with the feature `idna`), an IPv4 or IPv6 address (in brackets or not).
    pub fn builder(host: &str) -> Builder {
        Builder::new(Config::new(host))
    }

    /// Begins with the path of a Unix socket. Nobody else can listen to it, so that credentials need no TLS; for TLS it
    /// needs [`Builder::tls_name`].
    pub fn unix(path: impl AsRef<Path>) -> Builder {
        Builder::new(Config::unix(path.as_ref()))
    }

    /// Begins with a URL: `smtp://host`, `smtps://user:password@host:port`, `smtp://host?tls=required` (or
    /// `opportunistic`, or `none`), `lmtp://host` ([`Builder::lmtp`]), `smtp+unix:/path`, `lmtp+unix:/path`
    /// ([`Client::unix`]; its credentials come by a setter). User, password and path are percent-encoded, an IPv6 address
    /// stands in brackets.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if it is no such URL. The text never shows the password.
    pub fn from_url(url: &str) -> Result<Builder, Error> {
        Ok(Builder::new(Config::from_url(url)?))
    }

    /// The first words of the server.
    #[must_use]
    pub fn greeting(&self) -> Option<&Reply> {
        self.greeting.as_ref()
    }

    /// What the server offers, as of the last EHLO; empty for a server that knows HELO only.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The server's end of the connection: none of a Unix socket, nor of a connection of the caller's that does not
    /// know, nor where connecting again has failed.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.stream.peer()
    }

    /// The number of the connection, with which its lines in the log begin: `#7`. No other in this process has it, and
    /// [`reconnect`](Client::reconnect) makes another.
    #[must_use]
    pub fn connection_number(&self) -> u64 {
        self.number
    }

    /// Closes the connection without a word. Safe at any time, also twice.
    pub fn close(&mut self) {
        self.broken = true;
        self.out.forget();
        self.stream.close();
    }

    /// Whether the connection stands, as far as can be told without asking the server: it was not closed, by either
    /// side, nor left in the middle of something, and the server has not said anything unasked.
    pub fn is_connected(&mut self) -> bool {
        !self.broken && self.inbox.is_empty() && matches!(self.listen(Phase::Noop), Ok(0))
    }

    /// The next call begins: its deadline runs from here.
    pub(super) fn begin(&mut self) {
        (self.drained, self.hurry) = (None, false);
        let limit = self.next_limit.take().or(self.settings.config.deadline);
        self.deadline = limit.map(|limit| later(Instant::now(), limit));
    }

    /// Whether the connection ends on this machine, so that nobody else can listen: a Unix socket, a connection of the
    /// caller's that says so, or a peer with a loopback address, if the caller has named the host as local. An address
    /// that somebody else has chosen, such as the DNS, proves nothing: a tunnel or a proxy may listen there.
    pub(super) fn is_local(&self) -> bool {
        let named_local = match &self.settings.server {
            Server::Host(host, _) => host.is_local(),
            Server::Unix(_) => true,
        };
        self.stream.is_local() && (named_local || !self.is_ours)
    }

    /// Whether its user has brought it into a state that nobody else expects.
    pub(super) fn is_changed(&self) -> bool {
        self.raised || self.by_hand.is_some()
    }

    /// Sends QUIT, if that needs no waiting, and closes the connection. The reply is not waited for.
    pub(super) fn part(&mut self) {
        if !self.broken && self.out.is_quiet() {
            self.out.put_farewell();
            self.log_commands();
            while let Ok(written @ 1..) = self.stream.try_write(self.out.offer()) {
                self.out.written(written);
                if self.out.unsent().is_empty() {
                    break;
                }
            }
        }
        self.close();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("settings", &self.settings)
            .field("stream", &self.stream)
            .field("capabilities", &self.capabilities)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

#[maybe_async]
impl Client {
    pub(super) async fn auth(&mut self, credentials: Credentials) -> Result<(), Error> {
        self.auth_by(credentials, self.settings.config.auth_mechanisms.clone()).await
    }

    /// By these mechanisms only, if they are given.
    pub(super) async fn auth_by(
        &mut self,
        credentials: Credentials,
        mechanisms: Option<Vec<String>>,
    ) -> Result<(), Error> {
        let config = &self.settings.config;
        let options = AuthOptions {
            encrypted: self.is_encrypted(),
            local: self.is_local(),
            channel_binding: self.stream.channel_binding(),
            server: match &self.settings.server {
                Server::Host(host, port) => Some((host.tls_name.clone(), *port)),
                Server::Unix(_) => None,
            },
            mechanisms,
            max_scram_iterations: config.max_scram_iterations,
            refusals: self.logins_refused,
        };
        let in_clear = !options.encrypted && !options.local;
        let mut auth = Auth::new(credentials, options, &self.capabilities)?;
        if in_clear {
            // Only the caller can have allowed it.
            log::warn!(target: "postino", "#{} logging in without TLS (danger_plaintext_credentials)", self.number);
        }
        let broke = self.run(&mut auth).await.err();
        self.logins_refused = auth.refusals();
        auth.into_result(broke)?;
        self.logged_in = true;
        Ok(())
    }

    /// QUIT: says goodbye, waits for the answer for a second at most, and closes the connection.
    ///
    /// # Errors
    ///
    /// None: whatever was sent before has its result already, and a failure here changes nothing. It goes to the log.
    pub async fn quit(&mut self) -> Result<(), Error> {
        self.begin();
        self.goodbye().await;
        Ok(())
    }

    pub(super) async fn goodbye(&mut self) {
        if !self.broken {
            let mut quit = Simple::quit();
            let end = match self.run(&mut quit).await {
                Ok(()) => quit.into_result().err(),
                Err(e) => Some(e),
            };
            if let Some(e) = end {
                log::debug!(target: "postino", "#{} QUIT: {e}", self.number);
            }
        }
        self.close();
    }
}
