//! Dialing: from the settings to a stream. All connections that the client makes take this path, for
//! [`Builder::connect`], [`Builder::send`], [`Pool`] and [`Client::reconnect`] alike.
//!
//! ```text
//! name ─▶ addresses ─▶ race ─▶ (proxy) ─▶ TLS, at once or by STARTTLS
//! ```
//!
//! Sockets and the race are in `blocking/stream.rs` and `aio/stream.rs`. A new transport is another [`Server`] and
//! another constructor of [`Stream`].
//!
//! A proxy would be a step of [`Origin::dial`], between the race and TLS:
//!
//! - Its requests and replies belong to `proto`, in a file of their own, as a state machine without I/O. `dial` runs it
//!   over the new [`Stream`], under the limit for connecting, and reads no octet beyond the proxy's reply: the greeting
//!   may follow at once.
//! - Its address and login are settings (`config/`, with a setter in `builder.rs` and a parameter of the URL).
//! - [`Origin::addresses`] returns the addresses of the proxy. The name of the mail server goes to the proxy unresolved,
//!   and stays the name that TLS verifies.
//! - `Link::go_on` reads SMTP replies only, so the exchange has a loop of its own. [`Stream::watched_by`] comes before it:
//!   otherwise a stop handle cannot end it.
//! - A refusal by the proxy is an error of its own, because `Error::Connect` always counts as transient. Addresses set by
//!   [`Builder::addresses`](super::Builder::addresses) contradict a proxy.
//! - [`Origin::is_local`] must not hold because the proxy listens on a loopback address, and `Client::peer_addr` returns
//!   the address of the proxy.
//!
//! [`Builder::connect`]: super::Builder::connect
//! [`Builder::send`]: super::Builder::send
//! [`Client::reconnect`]: super::Client::reconnect
//! [`Pool`]: super::Pool

use std::{io, net::SocketAddr, time::Instant};

use super::{
    call::Call,
    link::{Condition, Link},
    maybe_async,
    origin::Origin,
    resolve::resolve,
    stream::Stream,
};
use crate::{
    Error, Phase, Security,
    config::{Host, Server},
    race::interleave,
};

#[maybe_async]
impl Origin {
    /// Connects to the server, without TLS yet. `number` identifies the connection in the log.
    pub async fn dial(&self, call: &Call, number: u64) -> Result<Stream, Error> {
        self.check_identity(call).await?;
        let server = self.settings.server.to_string();
        let failed = |source| Error::Connect { server, source };
        let until = match self.limit(call, Phase::Connect) {
            Err(Error::Timeout(_)) => return Err(failed(io::ErrorKind::TimedOut.into())),
            until => until?,
        };
        log::debug!(target: "postino", "#{number} connecting to {}", self.settings.server);
        let stream = match &self.settings.server {
            Server::Unix(path) => Stream::connect_unix(path, until, &self.stop_handle).await,
            Server::Host(host, port) => {
                let addresses = self.addresses(host, *port, until).await?;
                let config = &self.settings.config;
                let needs_tls = matches!(config.security, Security::Implicit | Security::StartTls);
                let tls = needs_tls.then_some(&config.tls);
                Stream::connect(addresses, config.bind, until, &self.stop_handle, tls).await
            }
        };
        stream.map_err(|e| self.stopped_or(failed(e), Phase::Connect))
    }

    /// Builds the TLS connector before connecting if there is a client certificate: only that shows whether the key
    /// belongs to it.
    async fn check_identity(&self, call: &Call) -> Result<(), Error> {
        let config = &self.settings.config;
        if config.tls.has_identity() && config.security != Security::Plaintext {
            let until = self.limit(call, Phase::Tls)?;
            Stream::prepare_tls(&config.tls, until).await?;
        }
        Ok(())
    }

    /// Returns the addresses to try, in their order: those that were set, the loopback addresses, or those that the
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
        let secured = self.stream.start_tls(&config.tls, until).await;
        secured.map_err(|e| origin.stopped_or(e, Phase::Tls))?;
        self.pace.secured();
        Ok(())
    }
}
