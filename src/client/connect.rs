//! Connecting: the lookup, the first address that answers, TLS, EHLO, the login; and all of it again.

use std::{io, net::SocketAddr};

use super::{
    call::Call,
    known::{Known, Setup},
    link::{Condition, Link},
    maybe_async,
    origin::Maker,
    resolve::resolve,
    session::Client,
    stream::Stream,
};
use crate::{
    Error, Phase, Security,
    attempts::interleave,
    config::Server,
    proto::{Hello, Session, Upgrade},
    tls::TlsSettings,
};

impl Client {
    /// Whether a connection that the builder makes would be like this one.
    pub(super) fn is_replaceable(&self) -> bool {
        self.origin.maker == Maker::Client && self.history.setup == Setup::Builder
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
        let mut call = self.begin();
        self.history.session = Session::default(); // what was learnt of the server may be over
        self.again(&mut call).await
    }

    /// The same within a call that is under way.
    pub(super) async fn again(&mut self, call: &mut Call) -> Result<(), Error> {
        if self.origin.maker == Maker::Caller {
            return Err(Error::Config("only who made its connection can make another (connect_over)".into()));
        }
        self.close();
        self.link = Link::closed();
        self.known = Known::default();
        self.history = self.history.renewed();
        self.open(call).await
    }

    /// The same where nobody has asked for it. What a call has added to the old connection would be missing, and mail
    /// would go in clear, or without a login. Nor can it replace one that the caller has made.
    pub(super) async fn again_unasked(&mut self, call: &mut Call) -> Result<(), Error> {
        if !self.is_replaceable() {
            log::debug!(
                target: "postino",
                "#{} not connecting again: it was secured, logged in or changed by a call of its own, or made by the caller",
                self.link.number
            );
            self.close();
            return Err(Error::NotConnected);
        }
        self.again(call).await
    }

    /// Connects, and all that follows. The deadline has begun.
    pub(super) async fn open(&mut self, call: &mut Call) -> Result<(), Error> {
        if self.origin.settings.config.tls.has_identity()
            && self.origin.settings.config.security != Security::Plaintext
        {
            // Only then it is known whether the key is the certificate's.
            let until = self.origin.limit(call, Phase::Tls)?;
            Stream::prepare_tls(&self.origin.settings.config.tls, until).await?;
        }
        let stream = self.dial(call).await?;
        self.usable_over(stream)?;
        self.introduce(call).await
    }

    async fn dial(&mut self, call: &mut Call) -> Result<Stream, Error> {
        let server = self.origin.settings.server.to_string();
        let failed = |source| Error::Connect { server, source };
        let until = match self.origin.limit(call, Phase::Connect) {
            Err(Error::Timeout(_)) => return Err(failed(io::ErrorKind::TimedOut.into())),
            until => until?,
        };
        log::debug!(target: "postino", "#{} connecting to {}", self.link.number, self.origin.settings.server);
        let config = &self.origin.settings.config;
        let needs_tls = matches!(config.security, Security::Implicit | Security::StartTls);
        let tls = needs_tls.then_some(&config.tls);
        let stream = match (&self.origin.settings.server, &config.addresses) {
            (Server::Unix(path), _) => Stream::connect_unix(path, until, &self.origin.stop_handle).await,
            (Server::Host(..), Some(given)) => {
                Stream::connect(given.clone(), config.bind, until, &self.origin.stop_handle, tls).await
            }
            (Server::Host(host, port), None) => {
                let found = match host.loopback(*port) {
                    Some(addresses) => addresses,
                    None => interleave(resolve(&host.lookup, *port, until, &self.origin.stop_handle).await?),
                };
                Stream::connect(found, config.bind, until, &self.origin.stop_handle, tls).await
            }
        };
        stream.map_err(|e| self.origin.stopped_or(failed(e), Phase::Connect))
    }

    /// TLS from the first octet, the greeting, EHLO, STARTTLS, the login: whatever is wanted of it. Closed if it fails.
    pub(super) async fn introduce(&mut self, call: &mut Call) -> Result<(), Error> {
        let introduced = self.secure_and_log_in(call).await;
        if introduced.is_err() {
            self.close();
        }
        introduced
    }

    async fn secure_and_log_in(&mut self, call: &mut Call) -> Result<(), Error> {
        // Where TLS is sure to come, that was done while the connection was on its way.
        self.origin.settings.config.tls.read()?;
        let upgrade = self.origin.settings.upgrade(self.is_local())?;
        if self.origin.settings.config.security == Security::Implicit {
            self.link.condition = Condition::MidDialogue;
            self.link.handshake(&self.origin, call).await?;
            self.link.condition = Condition::Usable;
        }
        self.hello(call, upgrade).await?;
        if !self.is_encrypted()
            && self.known.capabilities.offers("STARTTLS")
            && TlsSettings::available().is_err()
        {
            log::warn!(target: "postino", "#{} the server offers STARTTLS, and this build has no TLS: all goes in clear", self.link.number);
        }
        if let Some(credentials) = self.origin.settings.credentials.clone() {
            self.auth(call, credentials, self.origin.settings.config.auth_mechanisms.clone()).await?;
        }
        Ok(())
    }

    async fn hello(&mut self, call: &mut Call, upgrade: Upgrade) -> Result<(), Error> {
        let hello = Hello::new(
            self.origin.hello_name(&self.link),
            upgrade,
            self.origin.settings.credentials.is_some(),
        );
        let hello = hello.lmtp(self.origin.settings.config.lmtp);
        let mut hello = hello.ignoring(self.origin.settings.config.ignored_capabilities.clone());
        if let Err(e) = self.run(call, &mut hello).await {
            return Err(hello.failure(e));
        }
        self.known.esmtp = hello.is_esmtp();
        (self.known.greeting, self.known.hello, self.known.capabilities) = hello.into_parts();
        Ok(())
    }
}

impl Client {
    /// The connection is there.
    pub(super) fn usable_over(&mut self, stream: Stream) -> Result<(), Error> {
        (self.link.stream, self.link.condition) = (stream, Condition::Usable);
        self.link.stream.watched_by(&self.origin.stop_handle);
        let peer = self.link.stream.peer().map_or_else(String::new, |peer: SocketAddr| format!(" to {peer}"));
        log::debug!(target: "postino", "#{} connected{peer}", self.link.number);
        self.usable(Phase::Connect)
    }
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
