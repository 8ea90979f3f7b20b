//! Dialing: turns the settings into a stream. All connections that the client makes take this path, for
//! [`Builder::connect`], [`Builder::send`], [`Pool`] and [`Client::reconnect`] alike.
//!
//! ```text
//! name ─▶ addresses ─▶ race ─▶ (proxy) ─▶ TLS, at once or by STARTTLS
//! ```
//!
//! Sockets and the race are in `blocking/stream.rs` and `aio/stream.rs`. A new transport needs a variant of [`Server`]
//! and a constructor of [`Stream`].
//!
//! A proxy is a step between the race and TLS. Its protocol is in `proto/proxy.rs`, and its address and login are
//! settings (`config/proxy.rs`). The client connects to an address of the proxy, and passes it the name of the mail
//! server unresolved. TLS still verifies that name.
//!
//! [`Builder::connect`]: super::Builder::connect
//! [`Builder::send`]: super::Builder::send
//! [`Client::reconnect`]: super::Client::reconnect
//! [`Pool`]: super::Pool

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Instant,
};

use super::{
    Moved,
    call::Call,
    link::{Condition, Link},
    maybe_async,
    origin::Origin,
    resolve::resolve,
    stream::Stream,
};
use crate::{
    Error, EventKind, Phase, Security,
    config::{Host, Proxy, Server},
    proto::{ProxyFailure, Step},
    race::interleave,
    tls::TlsStream,
};

impl Origin {
    /// Returns the error for a failed attempt to connect to the server or its proxy.
    fn unreachable(&self, source: io::Error) -> Error {
        let server = match self.settings.proxy() {
            Some(proxy) => format!("the proxy {proxy}"),
            None => self.settings.server.to_string(),
        };
        Error::Connect { server, source }
    }
}

#[maybe_async]
impl Origin {
    /// Connects to the server, without TLS yet. `number` identifies the connection in the log.
    pub async fn dial(&self, call: &Call, number: u64) -> Result<Stream, Error> {
        self.check_identity(call).await?;
        let until = match self.limit(call, Phase::Connect) {
            Err(Error::Timeout(_)) => return Err(self.unreachable(ErrorKind::TimedOut.into())),
            until => until?,
        };
        let proxy = self.settings.proxy();
        let through = proxy.map_or_else(String::new, |proxy| format!(" through {proxy}"));
        log::debug!(target: "postino", "#{number} connecting to {}{through}", self.settings.server);
        let stream = match &self.settings.server {
            Server::Unix(path) => Stream::connect_unix(path, until, &self.stop_handle).await,
            Server::Host(host, port) => {
                let (next, port) = proxy.map_or((host, *port), |proxy| (&proxy.host, proxy.port));
                let addresses = self.addresses(next, port, until).await?;
                let config = &self.settings.config;
                let needs_tls = matches!(config.security, Security::Implicit | Security::StartTls);
                let tls = needs_tls.then_some(&config.tls);
                Stream::connect(addresses, config.bind, until, &self.stop_handle, tls).await
            }
        };
        let mut stream = stream.map_err(|e| self.stopped_or(self.unreachable(e), Phase::Connect))?;
        if let (Some(proxy), Server::Host(host, port)) = (proxy, &self.settings.server) {
            stream.watched_by(&self.stop_handle);
            self.tunnel(&mut stream, proxy, (host, *port), until).await?;
            stream.forwarded();
        }
        Ok(stream)
    }

    /// Asks the proxy to connect to the server. Does not read any octets that come from the server.
    async fn tunnel(
        &self,
        stream: &mut Stream,
        proxy: &Proxy,
        (host, port): (&Host, u16),
        until: Instant,
    ) -> Result<(), Error> {
        let failed = |e| self.stopped_or(self.unreachable(e), Phase::Connect);
        let refused = |ProxyFailure { what, is_transient }| Error::Proxy {
            proxy: proxy.to_string(),
            what,
            is_transient,
        };
        let mut exchange = proxy.exchange(host, port);
        let mut room = [0; 512];
        loop {
            match exchange.step() {
                Step::Done => return Ok(()),
                Step::Write(octets) => {
                    let mut unsent = &octets[..];
                    while !unsent.is_empty() {
                        let moved = stream.write_or_read(unsent, &mut room[..1], until).await;
                        match moved.map_err(failed)? {
                            Moved::Written(0) => return Err(failed(ErrorKind::WriteZero.into())),
                            Moved::Written(n) => unsent = &unsent[n..],
                            Moved::Read(0) => return Err(failed(ErrorKind::UnexpectedEof.into())),
                            Moved::Read(_) => return Err(refused(ProxyFailure::spoke_first())),
                        }
                    }
                }
                Step::Read(most) => {
                    let most = most.min(room.len());
                    let read = stream.read(&mut room[..most], until).await.map_err(failed)?;
                    if read == 0 {
                        return Err(failed(ErrorKind::UnexpectedEof.into()));
                    }
                    exchange.on_octets(&room[..read]).map_err(refused)?;
                }
            }
        }
    }

    /// Builds the TLS connector before connecting if there is a client certificate: only this can show that
    /// the key does not belong to the certificate.
    async fn check_identity(&self, call: &Call) -> Result<(), Error> {
        let config = &self.settings.config;
        if config.tls.has_identity() && config.security != Security::Plaintext {
            let until = self.limit(call, Phase::Tls)?;
            Stream::prepare_tls(&config.tls, until).await?;
        }
        Ok(())
    }

    /// Returns the addresses to try, in order: those that were set, the loopback addresses, or those that the
    /// lookup finds.
    async fn addresses(&self, host: &Host, port: u16, until: Instant) -> Result<Vec<SocketAddr>, Error> {
        if let Some(set) = &self.settings.config.addresses {
            return Ok(set.clone());
        }
        if let Some(loopback) = host.loopback(port) {
            return Ok(loopback);
        }
        Ok(interleave(resolve(&host.lookup, port, until, &self.stop_handle).await?))
    }
}

#[maybe_async]
impl Link {
    /// Starts TLS before anything else is sent.
    pub async fn secure(&mut self, origin: &Origin, call: &Call) -> Result<(), Error> {
        self.condition = Condition::MidDialogue;
        self.handshake(origin, call).await?;
        self.condition = Condition::Usable;
        Ok(())
    }

    /// Starts TLS on the connection.
    pub async fn handshake(&mut self, origin: &Origin, call: &Call) -> Result<(), Error> {
        let config = &origin.settings.config;
        config.tls_name()?; // an empty name would not be verified
        let until = origin.limit(call, Phase::Tls)?;
        let began = Instant::now();
        let secured = self.stream.start_tls(&config.tls, until).await;
        secured.map_err(|e| origin.stopped_or(e, Phase::Tls))?;
        self.pace.secured();
        if let Some(observer) = &config.observer {
            let version = self.stream.tls().and_then(TlsStream::version);
            observer.tell(Some(self.number), EventKind::Secured { version }, began.elapsed());
        }
        Ok(())
    }
}
