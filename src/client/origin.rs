//! How a connection is made, and with which settings: what stays the same when the client reconnects.

use std::time::Instant;

use super::{call::Call, link::Link, secret::Secrets, stop::StopHandle};
use crate::{
    Error, Phase,
    config::{Server, Settings},
    proto::HelloName,
    sys,
    time::later,
};

pub(super) struct Origin {
    pub settings: Settings,
    /// The source of passwords or OAuth tokens, if they are not part of the settings.
    pub secrets: Option<Secrets>,
    /// Stops the client from another thread.
    pub stop_handle: StopHandle,
    pub maker: Maker,
}

/// Who made the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Maker {
    /// The client, which can make another.
    Client,
    /// The caller (`connect_over`).
    Caller,
}

impl Origin {
    /// Returns when a wait that begins now has to end. Not inlined: the main loop would then prepare the limits of all
    /// phases each time it is entered.
    #[inline(never)]
    pub fn limit(&self, call: &Call, phase: Phase) -> Result<Instant, Error> {
        if self.stop_handle.is_stopped() {
            return Err(Error::Stopped(phase));
        }
        let now = Instant::now();
        let until = later(now, self.settings.config.timeouts.of(phase));
        let until = call.deadline.map_or(until, |deadline| until.min(deadline));
        if until > now {
            Ok(until)
        } else {
            Err(Error::Timeout(phase)) // also for a limit of zero, even if something can be read
        }
    }

    /// Returns the limit in `until`, or sets it now.
    pub fn limit_once(
        &self,
        call: &Call,
        until: &mut Option<Instant>,
        phase: Phase,
    ) -> Result<Instant, Error> {
        let limit = until.map_or_else(|| self.limit(call, phase), Ok)?;
        *until = Some(limit);
        Ok(limit)
    }

    /// Turns a connection failure into [`Error::Stopped`] if a stop handle has ended the connection. Errors that report
    /// a reply of the server are not changed.
    pub fn stopped_or(&self, error: Error, phase: Phase) -> Error {
        match error {
            Error::Connect { .. }
            | Error::Io { .. }
            | Error::Closed(_)
            | Error::Timeout(_)
            | Error::Tls { .. }
                if self.stop_handle.is_stopped() =>
            {
                Error::Stopped(phase)
            }
            error => error,
        }
    }

    /// Returns whether the connection ends on this machine, so that nobody else can listen: a Unix socket, a connection
    /// that the caller made and declared local, or a peer with a loopback address if the caller named a local host.
    /// An address that comes from elsewhere, such as the DNS, proves nothing: a tunnel or a proxy may listen there.
    /// A connection through a proxy is never local, wherever the proxy runs.
    pub fn is_local(&self, link: &Link) -> bool {
        let named_local = match &self.settings.server {
            Server::Host(host, _) => host.is_local(),
            Server::Unix(_) => true,
        };
        self.settings.proxy().is_none()
            && link.stream.is_local()
            && (named_local || self.maker == Maker::Caller)
    }

    /// Returns the name for EHLO.
    pub fn hello_name(&self, link: &Link) -> HelloName {
        let set = self.settings.hello_name.clone();
        let machine = || sys::machine_name().and_then(|name| HelloName::of_machine(&name));
        let address = || link.stream.local().map_or([127, 0, 0, 1].into(), |local| local.ip());
        set.or_else(machine).unwrap_or_else(|| HelloName::literal(address()))
    }
}
