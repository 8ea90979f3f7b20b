//! Connecting: the lookup, the first address that answers, TLS, EHLO, the login; and all of it again.

use std::{io, net::SocketAddr, time::Duration};

use super::{
    builder::Builder, maybe_async, resolve::resolve, run::Clock, session::Client, stop::StopHandle,
    stream::Stream, token::Tokens,
};
use crate::{
    Capabilities, Error, Phase, Security,
    attempts::{interleave, next_number},
    config::{Server, Settings},
    proto::{Hello, HelloName, Inbox, Outbox, Pace, Session, Upgrade},
    tls::TlsSettings,
};

impl Client {
    /// Not connected yet.
    pub(super) fn new(settings: Settings, tokens: Option<Tokens>, stop_handle: StopHandle) -> Client {
        Client {
            settings,
            stream: Stream::closed(),
            number: next_number(),
            is_ours: true,
            inbox: Inbox::default(),
            out: Outbox::default(),
            broken: true,
            deadline: None,
            tokens,
            stop_handle,
            open: false,
            drained: None,
            hurry: false,
            clock: Clock::start(),
            pace: Pace::default(),
            slowest: Duration::ZERO,
            begun: 0,
            session: Session::default(),
            settled_at: None,
            capabilities: Capabilities::default(),
            greeting: None,
            hello: None,
            esmtp: false,
            logged_in: false,
            raised: false,
            logins_refused: 0,
            by_hand: None,
            next_limit: None,
        }
    }

    /// Whether a connection that the builder makes would be like this one.
    pub(super) fn is_replaceable(&self) -> bool {
        self.is_ours && !self.raised
    }

    /// What to say in EHLO.
    pub(super) fn hello_name(&self) -> HelloName {
        let own = self.settings.hello_name.clone();
        let end = || self.stream.local().map_or([127, 0, 0, 1].into(), |local| local.ip());
        own.or_else(machine_name).unwrap_or_else(|| HelloName::literal(end()))
    }
}

#[maybe_async]
impl Builder {
    /// Over a connection that is there.
    pub(in super::super) async fn over(&self, stream: Stream) -> Result<Client, Error> {
        let mut client = self.client()?;
        client.is_ours = false;
        client.usable_over(stream)?;
        client.introduce().await?;
        Ok(client)
    }
}

#[maybe_async]
impl Client {
    /// Connects again with the settings of the builder: after [`quit`](Client::quit), [`close`](Client::close), an
    /// error, a dropped future, or when the server has closed. It is a new connection with a number of its own: TLS,
    /// EHLO and the builder's login come again, what [`login`](Client::login) was given does not.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyConnected`] if [`is_connected`](Client::is_connected): the connection is left as it is.
    /// [`Error::Config`] over a connection of the caller's (`connect_over`): only the caller can make another. Else those of
    /// [`Builder::connect`]; the client can be connected again then.
    pub async fn reconnect(&mut self) -> Result<(), Error> {
        if self.is_connected() {
            return Err(Error::AlreadyConnected);
        }
        self.begin();
        self.session = Session::default(); // what was learnt of the server may be over
        self.again().await
    }

    /// The same within a call that is under way.
    pub(super) async fn again(&mut self) -> Result<(), Error> {
        if !self.is_ours {
            return Err(Error::Config("only who made its connection can make another (connect_over)".into()));
        }
        self.close();
        let fresh = Client::new(self.settings.clone(), self.tokens.clone(), self.stop_handle.clone());
        *self = Client { deadline: self.deadline, session: self.session.renewed(), ..fresh };
        self.open().await
    }

    /// The same where nobody has asked for it. What a call has added to the old connection would be missing, and mail
    /// would go in clear, or without a login. Nor can it replace one that the caller has made.
    pub(super) async fn again_unasked(&mut self) -> Result<(), Error> {
        if !self.is_replaceable() {
            log::debug!(
                target: "postino",
                "#{} not connecting again: it was secured, logged in or changed by a call of its own, or made by the caller",
                self.number
            );
            self.close();
            return Err(Error::NotConnected);
        }
        self.again().await
    }

    /// Connects, and all that follows. The deadline has begun.
    pub(super) async fn open(&mut self) -> Result<(), Error> {
        if self.settings.config.tls.has_identity() && self.settings.config.security != Security::Plaintext {
            // Only then it is known whether the key is the certificate's.
            let until = self.limit(Phase::Tls)?;
            Stream::prepare_tls(&self.settings.config.tls, until).await?;
        }
        let stream = self.dial().await?;
        self.usable_over(stream)?;
        self.introduce().await
    }

    async fn dial(&mut self) -> Result<Stream, Error> {
        let server = self.settings.server.to_string();
        let failed = |source| Error::Connect { server, source };
        let until = match self.limit(Phase::Connect) {
            Err(Error::Timeout(_)) => return Err(failed(io::ErrorKind::TimedOut.into())),
            until => until?,
        };
        log::debug!(target: "postino", "#{} connecting to {}", self.number, self.settings.server);
        let config = &self.settings.config;
        let needs_tls = matches!(config.security, Security::Implicit | Security::StartTls);
        let tls = needs_tls.then_some(&config.tls);
        let stream = match (&self.settings.server, &config.addresses) {
            (Server::Unix(path), _) => Stream::connect_unix(path, until, &self.stop_handle).await,
            (Server::Host(..), Some(given)) => {
                Stream::connect(given.clone(), config.bind, until, &self.stop_handle, tls).await
            }
            (Server::Host(host, port), None) => {
                let found = match host.loopback(*port) {
                    Some(addresses) => addresses,
                    None => interleave(resolve(&host.lookup, *port, until, &self.stop_handle).await?),
                };
                Stream::connect(found, config.bind, until, &self.stop_handle, tls).await
            }
        };
        stream.map_err(|e| self.stopped_or(failed(e), Phase::Connect))
    }

    /// TLS from the first octet, the greeting, EHLO, STARTTLS, the login: whatever is wanted of it. Closed if it fails.
    async fn introduce(&mut self) -> Result<(), Error> {
        let introduced = self.secure_and_log_in().await;
        if introduced.is_err() {
            self.close();
        }
        introduced
    }

    async fn secure_and_log_in(&mut self) -> Result<(), Error> {
        // Where TLS is sure to come, that was done while the connection was on its way.
        self.settings.config.tls.read()?;
        let upgrade = self.settings.upgrade(self.is_local())?;
        if self.settings.config.security == Security::Implicit {
            self.broken = true; // until it is done
            self.handshake().await?;
            self.broken = false;
        }
        self.hello(upgrade).await?;
        if !self.is_encrypted() && self.capabilities.offers("STARTTLS") && TlsSettings::available().is_err() {
            log::warn!(target: "postino", "#{} the server offers STARTTLS, and this build has no TLS: all goes in clear", self.number);
        }
        if let Some(credentials) = self.settings.credentials.clone() {
            self.auth(credentials).await?;
        }
        Ok(())
    }

    async fn hello(&mut self, upgrade: Upgrade) -> Result<(), Error> {
        let hello = Hello::new(self.hello_name(), upgrade, self.settings.credentials.is_some());
        let hello = hello.lmtp(self.settings.config.lmtp);
        let mut hello = hello.ignoring(self.settings.config.ignored_capabilities.clone());
        if let Err(e) = self.run(&mut hello).await {
            return Err(hello.failure(e));
        }
        self.esmtp = hello.is_esmtp();
        (self.greeting, self.hello, self.capabilities) = hello.into_parts();
        Ok(())
    }
}

impl Client {
    /// The connection is there.
    fn usable_over(&mut self, stream: Stream) -> Result<(), Error> {
        (self.stream, self.broken) = (stream, false);
        self.stream.watched_by(&self.stop_handle);
        let peer = self.stream.peer().map_or_else(String::new, |peer: SocketAddr| format!(" to {peer}"));
        log::debug!(target: "postino", "#{} connected{peer}", self.number);
        self.usable(Phase::Connect)
    }
}

/// The machine's own name, if it is a full domain name.
fn machine_name() -> Option<HelloName> {
    let name = rustix::system::uname();
    HelloName::of_machine(name.nodename().to_str().ok()?)
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
            Client::builder("b\u{fc}cher..example"),
            Client::builder("h").hello_name("a b"),
            Client::builder("h").credentials("u\0", "p"),
            Client::builder("h").ca_certificate("nonsense"),
            Client::builder("h").tls_name("x y"),
            Client::unix(""),
            Client::unix("/a\0b"),
        ] {
            assert!(matches!(block_on(builder.connect()), Err(Error::Config(_))), "{builder:?}");
        }
    }
}
