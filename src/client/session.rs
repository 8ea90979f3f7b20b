//! The client: connect, log in, send, and the small commands.

use std::{fmt, net::SocketAddr, time::Instant};

use super::{
    body::{Source, open},
    builder::Builder,
    maybe_async,
    resolve::resolve,
    run::source_error,
    stream::Stream,
    token::Tokens,
};
use crate::{
    Capabilities, Delivery, Envelope, Error, Mail, Phase, Reply, Security,
    config::{Config, Settings, credentials_in_clear, later},
    message::{Body, Content},
    proto::{
        Auth, AuthOptions, Credentials, Forbidden, Hello, HelloName, Inbox, MailParameters, Options, Outbox,
        Simple, Survey, Transaction, Upgrade,
    },
    tls::TlsSettings,
};

/// The longest line of a message (RFC 5321 §4.5.3.1.6), in octets without its end.
const MAX_TEXT_LINE: usize = 998;

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
    greeting: Option<Reply>,
    capabilities: Capabilities,
    logged_in: bool,
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

    /// Whether the connection is secured by TLS. A closed one is not.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.stream.is_encrypted()
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
    fn begin(&mut self) {
        self.deadline = self.settings.config.deadline.map(|limit| later(Instant::now(), limit));
    }

    /// What to say in EHLO.
    fn hello_name(&self) -> HelloName {
        let own = self.settings.hello_name.clone();
        own.or_else(machine_name).unwrap_or_else(|| HelloName::literal(self.stream.local().ip()))
    }

    fn is_loopback(&self) -> bool {
        self.stream.peer().ip().to_canonical().is_loopback()
    }

    /// What to say of this message in MAIL, or why the server cannot take it. Nothing has been sent yet.
    fn parameters(&self, utf8: bool, body: &Body<'_>) -> Result<MailParameters, Error> {
        let offers = |keyword| self.capabilities.offers(keyword);
        let survey = match &body.content {
            Content::Bytes(bytes) => Some(Survey::of(bytes)),
            Content::Path(_) | Content::Reader(_) => None,
        };
        if let Some(survey) = survey {
            match survey {
                Survey { nul: true, .. } => return Err(Forbidden::Nul.into()),
                Survey { eight_bit: true, .. } if !offers("8BITMIME") => {
                    return Err(Forbidden::EightBit.into());
                }
                Survey { longest_line, .. } if longest_line > MAX_TEXT_LINE => {
                    log::warn!(target: "postino", "the message has a line of more than 998 octets: {longest_line}");
                }
                _ => {}
            }
        }
        let size = survey.map(|survey| survey.octets).or(body.size);
        match (size, self.capabilities.size_limit()) {
            (Some(size), Some(limit)) if size > limit => return Err(Error::TooLarge { size, limit }),
            _ => {}
        }
        Ok(MailParameters {
            size: size.filter(|_| offers("SIZE")),
            utf8,
            // What a reader holds is not known yet.
            eight_bit: offers("8BITMIME") && survey.map_or(!body.seven_bit, |survey| survey.eight_bit),
        })
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
        let stream = connect(&settings, deadline).await?;
        let mut client = Client {
            settings,
            stream,
            inbox: Inbox::default(),
            out: Outbox::default(),
            broken: false,
            deadline,
            tokens,
            greeting: None,
            capabilities: Capabilities::default(),
            logged_in: false,
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
        let mut hello = Hello::new(self.hello_name(), upgrade, self.settings.credentials.is_some());
        self.run(&mut hello, None).await?;
        (self.greeting, self.capabilities) = hello.into_parts();
        Ok(())
    }

    async fn auth(&mut self, credentials: Credentials) -> Result<(), Error> {
        let config = &self.settings.config;
        let options = AuthOptions {
            encrypted: self.is_encrypted(),
            local: self.is_loopback(),
            channel_binding: self.stream.channel_binding(),
            server: Some((self.settings.host.tls_name.clone(), self.settings.port)),
            mechanisms: config.auth_mechanisms.clone(),
            max_scram_iterations: config.max_scram_iterations,
        };
        let mut auth = Auth::new(credentials, options, &self.capabilities)?;
        let broke = self.run(&mut auth, None).await.err();
        auth.into_result(broke)?;
        self.logged_in = true;
        Ok(())
    }

    /// Logs in, for who did not give the credentials to the builder.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] without TLS, but to a loopback address (see [`Builder::danger_plaintext_credentials`]);
    /// [`Error::Auth`] if the server refuses, offers no login, or there was one already. The connection goes on.
    pub async fn login(&mut self, user: impl AsRef<[u8]>, password: impl AsRef<[u8]>) -> Result<(), Error> {
        let credentials = Credentials::new(user, password)?;
        self.usable()?;
        self.begin();
        if !self.is_encrypted() && !self.is_loopback() && !self.settings.config.danger_plaintext_credentials {
            return Err(credentials_in_clear());
        }
        if self.logged_in {
            return Err(Error::Auth { what: "there was a login already".into(), details: None, reply: None });
        }
        self.auth(credentials).await
    }

    /// Sends a message to all of its recipients; `Ok` if one of them at least was accepted.
    ///
    /// # Errors
    ///
    /// Before anything is sent: [`Error::Message`], [`Error::Unsupported`], [`Error::TooLarge`], [`Error::Source`], and
    /// those of the message itself. Then [`Error::Transaction`], which tells what became of each recipient and
    /// whether the delivery is [in doubt](Error::in_doubt). After a refusal the connection goes on.
    pub async fn send(&mut self, mail: &dyn Mail) -> Result<Delivery, Error> {
        self.begin();
        let envelope = mail.envelope()?;
        self.deliver(mail, envelope, false).await
    }

    /// With `farewell` it is the last message of the connection.
    pub(super) async fn deliver(
        &mut self,
        mail: &dyn Mail,
        envelope: Envelope,
        farewell: bool,
    ) -> Result<Delivery, Error> {
        self.usable()?;
        if !envelope.is_ascii() && !self.capabilities.offers("SMTPUTF8") {
            return Err(Error::Unsupported("SMTPUTF8, and an address is not ASCII"));
        }
        let opened = open(mail.body()?, self.limit(Phase::Body)?).await;
        let body = opened.map_err(source_error)?;
        let parameters = self.parameters(!envelope.is_ascii(), &body)?;
        let pipelining = self.settings.config.pipelining && self.capabilities.offers("PIPELINING");
        let options = Options {
            pipelining,
            all_or_nothing: self.settings.config.all_or_nothing,
            farewell: farewell && pipelining,
        };
        let mut transaction = Transaction::new(envelope, parameters, options);
        let mut source = Source::new(body.content);
        let broke = self.run(&mut transaction, Some(&mut source)).await.err();
        if transaction.said_farewell() {
            self.close();
        }
        transaction.into_result(self.out.offered(), broke)
    }

    /// NOOP: asks whether the server is still there (RFC 5321 §4.1.1.9).
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] for any answer but 250, or whatever became of the connection.
    pub async fn noop(&mut self) -> Result<Reply, Error> {
        self.simple(Simple::noop()).await
    }

    /// RSET: forgets any transaction that is under way (RFC 5321 §4.1.1.5). Sending does this by itself where it is
    /// needed.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] for any answer but 250, or whatever became of the connection.
    pub async fn rset(&mut self) -> Result<Reply, Error> {
        self.simple(Simple::reset()).await
    }

    async fn simple(&mut self, mut command: Simple) -> Result<Reply, Error> {
        self.begin();
        self.run(&mut command, None).await?;
        command.into_result()
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
            let end = match self.run(&mut quit, None).await {
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
