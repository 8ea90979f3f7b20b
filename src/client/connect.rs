//! Connecting and reconnecting: dialing, TLS, EHLO and the login.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    call::Call,
    known::{Known, Setup},
    link::{Condition, Link},
    maybe_async,
    origin::Maker,
    session::Client,
    stream::Stream,
};
use crate::{
    Error, EventKind, Phase, Security,
    proto::{Hello, Session, Upgrade},
    tls::TlsSettings,
};

impl Client {
    /// Returns whether a new connection made by the builder would be equivalent to this one.
    pub(super) fn is_replaceable(&self) -> bool {
        self.origin.maker == Maker::Client && self.history.setup == Setup::Builder
    }

    /// Uses a stream that is already connected. Making the connection took this long.
    pub(super) fn usable_over(&mut self, stream: Stream, took: Duration) -> Result<(), Error> {
        (self.link.stream, self.link.condition) = (stream, Condition::Usable);
        self.link.stream.watched_by(&self.origin.stop_handle);
        let peer = self.link.stream.peer().map_or_else(String::new, |peer: SocketAddr| format!(" to {peer}"));
        log::debug!(target: "postino", "#{} connected{peer}", self.link.number);
        if let Some(observer) = self.observer().cloned() {
            self.tell(EventKind::Connected { peer: self.link.stream.peer() }, took);
            self.link.observed = Some((observer, Instant::now()));
        }
        self.usable(Phase::Connect)
    }
}

#[maybe_async]
impl Client {
    /// Connects again with the builder's settings. Use this after [`quit`](Client::quit), [`close`](Client::close), an
    /// error or a dropped future, or when the server has closed the connection. The new connection has its own
    /// [number](Client::connection_number). TLS, EHLO and the builder's login are repeated, but not a
    /// [`login`](Client::login) made by a method call.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyConnected`] if the client [is connected](Client::is_connected); the connection is not changed.
    /// [`Error::Config`] if the caller made the connection (`connect_over`). Otherwise, the errors of
    /// [`Builder::connect`](super::Builder::connect), after which `reconnect` may be called again.
    pub async fn reconnect(&mut self) -> Result<(), Error> {
        if self.is_connected() {
            return Err(Error::AlreadyConnected);
        }
        let mut call = self.begin();
        self.history.session = Session::default(); // what was learnt about the server may have changed
        self.again(&mut call).await
    }

    /// Connects again within a call that is under way.
    async fn again(&mut self, call: &mut Call) -> Result<(), Error> {
        if self.origin.maker == Maker::Caller {
            return Err(Error::Config("cannot reconnect a connection made with connect_over".into()));
        }
        self.close();
        self.link = Link::closed();
        self.known = Known::default();
        self.history = self.history.renewed();
        self.open(call).await
    }

    /// Connects again although the caller has not asked for it. Refuses if the caller made the old connection, or
    /// changed it by a method call: mail might then be sent in plain text or without a login.
    pub(super) async fn again_unasked(&mut self, call: &mut Call) -> Result<(), Error> {
        if !self.is_replaceable() {
            log::debug!(
                target: "postino",
                "#{} not reconnecting: the connection was made by the caller, or changed by a method call",
                self.link.number
            );
            self.close();
            return Err(Error::NotConnected);
        }
        self.again(call).await
    }

    /// Connects, and starts the session.
    pub(super) async fn open(&mut self, call: &mut Call) -> Result<(), Error> {
        let began = Instant::now();
        match self.origin.dial(call, self.link.number).await {
            Ok(stream) => self.open_over(call, stream, began).await,
            Err(error) => {
                self.tell(EventKind::ConnectFailed { error: &error }, began.elapsed());
                Err(error)
            }
        }
    }

    /// Performs the steps that the settings require on a connected stream: TLS, greeting, EHLO, STARTTLS, login. The
    /// connection is closed if any of them fails. Connecting began at `began`.
    pub(super) async fn open_over(
        &mut self,
        call: &mut Call,
        stream: Stream,
        began: Instant,
    ) -> Result<(), Error> {
        let mut opened = self.usable_over(stream, began.elapsed());
        if opened.is_ok() {
            opened = self.secure_and_log_in(call).await;
        }
        if let Err(error) = &opened {
            self.link.close_after(Some(error));
            self.tell(EventKind::ConnectFailed { error }, began.elapsed());
        }
        opened
    }

    async fn secure_and_log_in(&mut self, call: &mut Call) -> Result<(), Error> {
        // If TLS is certain to be used, this was done while the connection was being made.
        self.origin.settings.config.tls.read()?;
        let upgrade = self.origin.settings.upgrade(self.is_local())?;
        if self.origin.settings.config.security == Security::Implicit {
            self.link.secure(&self.origin, call).await?;
        }
        self.hello(call, upgrade).await?;
        if !self.is_encrypted()
            && self.known.capabilities.offers("STARTTLS")
            && TlsSettings::available().is_err()
        {
            log::warn!(
                target: "postino",
                "#{} the server offers STARTTLS, but this build has no TLS: everything is sent in plain text",
                self.link.number
            );
        }
        if let Some(credentials) = self.origin.settings.credentials.clone() {
            let mechanisms = self.origin.settings.config.auth_mechanisms.clone();
            self.exchange_credentials(call, credentials, mechanisms).await?;
        }
        Ok(())
    }

    async fn hello(&mut self, call: &mut Call, upgrade: Upgrade) -> Result<(), Error> {
        let settings = &self.origin.settings;
        let name = self.origin.hello_name(&self.link);
        let hello = Hello::named(name, upgrade, settings.credentials.is_some());
        let hello = hello.lmtp(settings.config.lmtp);
        let mut hello = hello.ignoring(settings.config.ignored_capabilities.clone());
        if let Err(e) = self.run(call, &mut hello).await {
            return Err(hello.failure(e));
        }
        self.known.esmtp = hello.is_esmtp();
        (self.known.greeting, self.known.hello, self.known.capabilities) = hello.into_parts();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::block_on;
    use super::*;

    #[test]
    fn the_error_for_a_closed_port_names_the_address() {
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let error = block_on(Client::builder("127.0.0.1").port(port).connect()).unwrap_err();
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
        assert!(error.is_transient() && !error.is_timeout());
    }

    #[test]
    fn invalid_settings_fail_before_connecting() {
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
