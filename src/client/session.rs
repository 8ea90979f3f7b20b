//! The client: connect, log in, send. What is one command stands in `commands.rs`.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    builder::Builder, commands::ByHand, maybe_async, resolve::resolve, run::Clock, stream::Stream,
    token::Tokens,
};
use crate::{
    Capabilities, Error, Phase, Reply, Security,
    config::{Config, Settings, later},
    proto::{Auth, AuthOptions, Credentials, Farewell, Hello, HelloName, Inbox, Outbox, Simple, Upgrade},
    tls::TlsSettings,
};

/// A connection to an SMTP server.
///
/// After an error that leaves it out of step (a lost connection, a timeout, an answer that is no SMTP, a 421), and
/// after a future of its own that was dropped, it refuses further use with [`Error::NotConnected`]. After a refusal
/// it goes on. Dropping it closes the connection at once and says nothing; [`quit`](Client::quit) says goodbye.
pub struct Client {
    pub(super) settings: Settings,
    pub(super) stream: Stream,
    pub(super) inbox: Inbox,
    pub(super) out: Outbox,
    /// Out of step, or in the middle of something.
    pub(super) broken: bool,
    /// When the call that is under way has to end.
    pub(super) deadline: Option<Instant>,
    /// Where tokens come from, if not from the settings.
    pub(super) tokens: Option<Tokens>,
    /// The server may have a transaction open: the next one begins with RSET.
    pub(super) open: bool,
    /// When all that had arrived was read: if that was a moment ago, it saves a look in a batch.
    pub(super) drained: Option<Instant>,
    pub(super) hurry: bool,
    pub(super) clock: Clock,
    /// How long a reply takes, at most.
    pub(super) round_trip: Duration,
    /// How many messages were begun on this connection.
    pub(super) begun: u64,
    pub(super) capabilities: Capabilities,
    greeting: Option<Reply>,
    /// What was said to the last EHLO or HELO, and whether it was EHLO.
    pub(super) hello: Option<Reply>,
    pub(super) esmtp: bool,
    pub(super) logged_in: bool,
    /// A transaction that single commands have begun, as far as is known.
    pub(super) by_hand: Option<ByHand>,
    /// The total limit of the next call, if it has one of its own.
    pub(super) next_limit: Option<Duration>,
}

impl Client {
    /// Begins with the host: a name, an IPv4 or IPv6 address (in brackets or not).
    pub fn builder(host: &str) -> Builder {
        Builder::new(Config::new(host))
    }

    /// Begins with a URL: `smtp://host`, `smtps://user:password@host:port`, `smtp://host?tls=required` (or
    /// `opportunistic`, or `none`). User and password are percent-encoded, an IPv6 address stands in brackets.
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

    /// The server's end of the connection.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.stream.peer()
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

    /// What to say in EHLO.
    pub(super) fn hello_name(&self) -> HelloName {
        let own = self.settings.hello_name.clone();
        own.or_else(machine_name).unwrap_or_else(|| HelloName::literal(self.stream.local().ip()))
    }

    pub(super) fn is_loopback(&self) -> bool {
        self.stream.peer().ip().to_canonical().is_loopback()
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
    pub(super) async fn open(
        settings: Settings,
        tokens: Option<Tokens>,
        deadline: Option<Instant>,
    ) -> Result<Client, Error> {
        if settings.config.tls.has_identity() && settings.config.security != Security::Plaintext {
            // Only then it is known whether the key is the certificate's.
            let limit = later(Instant::now(), settings.config.timeouts.of(Phase::Tls));
            let limit = deadline.map_or(limit, |deadline| limit.min(deadline));
            Stream::prepare_tls(&settings.config.tls, limit).await?;
        }
        let stream = connect(&settings, deadline).await?;
        let mut client = Client {
            settings,
            stream,
            inbox: Inbox::default(),
            out: Outbox::default(),
            broken: false,
            deadline,
            tokens,
            open: false,
            drained: None,
            hurry: false,
            clock: Clock::start(),
            round_trip: Duration::ZERO,
            begun: 0,
            hello: None,
            esmtp: false,
            capabilities: Capabilities::default(),
            greeting: None,
            logged_in: false,
            by_hand: None,
            next_limit: None,
        };
        let upgrade = client.settings.upgrade(client.is_loopback())?;
        if client.settings.config.security == Security::Implicit {
            client.handshake().await?;
        }
        client.hello(upgrade).await?;
        if !client.is_encrypted()
            && client.capabilities.offers("STARTTLS")
            && TlsSettings::available().is_err()
        {
            log::warn!(target: "postino", "the server offers STARTTLS, and this build has no TLS: all goes in clear");
        }
        if let Some(credentials) = client.settings.credentials.clone() {
            client.auth(credentials).await?;
        }
        Ok(client)
    }

    async fn hello(&mut self, upgrade: Upgrade) -> Result<(), Error> {
        let hello = Hello::new(self.hello_name(), upgrade, self.settings.credentials.is_some());
        let mut hello = hello.ignoring(self.settings.config.ignored_capabilities.clone());
        let start = Instant::now();
        self.run(&mut hello).await?;
        self.round_trip = start.elapsed(); // it was two of them at least
        self.esmtp = hello.is_esmtp();
        (self.greeting, self.hello, self.capabilities) = hello.into_parts();
        Ok(())
    }

    async fn auth(&mut self, credentials: Credentials) -> Result<(), Error> {
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
            local: self.is_loopback(),
            channel_binding: self.stream.channel_binding(),
            server: Some((self.settings.host.tls_name.clone(), self.settings.port)),
            mechanisms,
            max_scram_iterations: config.max_scram_iterations,
        };
        let mut auth = Auth::new(credentials, options, &self.capabilities)?;
        let broke = self.run(&mut auth).await.err();
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

    /// QUIT without waiting for its answer, and the end.
    pub(super) async fn leave(&mut self) {
        self.begin();
        if let Err(e) = self.run(&mut Farewell::default()).await {
            log::debug!(target: "postino", "QUIT: {e}");
        }
        self.close();
    }

    pub(super) async fn goodbye(&mut self) {
        if !self.broken {
            let mut quit = Simple::quit();
            let end = match self.run(&mut quit).await {
                Ok(()) => quit.into_result().err(),
                Err(e) => Some(e),
            };
            if let Some(e) = end {
                log::debug!(target: "postino", "QUIT: {e}");
            }
        }
        self.close();
    }
}

/// Connects to the first address that answers; each gets its share of the time.
#[maybe_async]
async fn connect(settings: &Settings, deadline: Option<Instant>) -> Result<Stream, Error> {
    let start = Instant::now();
    let limit = later(start, settings.config.timeouts.of(Phase::Connect));
    let limit = deadline.map_or(limit, |deadline| limit.min(deadline));
    let host = &settings.host.lookup;
    let addresses = resolve(host, settings.port, limit).await?;
    let server = match host.contains(':') {
        true => format!("[{host}]:{}", settings.port),
        false => format!("{host}:{}", settings.port),
    };
    let mut last = Error::Resolve { host: host.clone(), source: std::io::ErrorKind::NotFound.into() };
    for (i, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let share = limit.saturating_duration_since(now) / (addresses.len() - i) as u32;
        log::debug!(target: "postino", "connecting to {address}");
        match Stream::connect(*address, later(now, share)).await {
            Ok(stream) => return Ok(stream),
            Err(e) if e.kind() == std::io::ErrorKind::TimedOut => last = Error::Timeout(Phase::Connect),
            Err(source) => last = Error::Connect { server: server.clone(), source },
        }
    }
    Err(last)
}

/// The machine's own name, if it is a full domain name.
fn machine_name() -> Option<HelloName> {
    let name = rustix::system::uname();
    let name = name.nodename().to_str().ok()?;
    HelloName::new(name).ok().filter(|_| name.contains('.') && !name.starts_with('['))
}

#[cfg(test)]
mod tests {
    use super::super::super::block_on;
    use super::*;

    #[test]
    fn connecting_to_a_closed_port_names_it() {
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let error = block_on(Client::builder("127.0.0.1").port(port).connect()).unwrap_err();
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
        assert!(error.is_transient() && !error.is_timeout());
    }

    #[test]
    fn what_cannot_be_fails_before_connecting() {
        for builder in [
            Client::builder("a\0b"),
            Client::builder("b\u{fc}cher.example"),
            Client::builder("h").hello_name("a b"),
            Client::builder("h").credentials("u\0", "p"),
            Client::builder("h").ca_certificate("nonsense"),
            Client::builder("h").tls_name("x y"),
        ] {
            assert!(matches!(block_on(builder.connect()), Err(Error::Config(_))), "{builder:?}");
        }
    }
}
