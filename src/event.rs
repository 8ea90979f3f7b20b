//! Events of connections and messages, for metrics and tracing.

use std::{
    fmt,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use crate::{Delivery, Error, Outcome, TlsVersion};

/// Something that happened on a connection or to a message. Events are passed to the function that was set with
/// [`Builder::observer`](crate::Builder::observer). That method's documentation describes the order of events.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Event<'e> {
    /// The [number of the connection](crate::Client::connection_number), which its log lines show. `None` if a
    /// message got no connection from a [pool](crate::Pool).
    pub connection: Option<u64>,
    /// The kind of event.
    pub kind: EventKind<'e>,
    /// The duration of what the event reports; see each [kind](EventKind).
    pub took: Duration,
}

/// The kinds of [events](Event).
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum EventKind<'e> {
    /// A connection was made, possibly through a proxy. Nothing has been exchanged with the server yet. `took` includes
    /// the name lookup, and is practically zero for a connection made by the caller.
    #[non_exhaustive]
    Connected {
        /// The address of the server, or of the proxy. `None` for a Unix socket.
        peer: Option<SocketAddr>,
    },
    /// A TLS handshake succeeded, after which everything is encrypted. `took` is the duration of the handshake.
    #[non_exhaustive]
    Secured {
        /// The version of TLS; `None` with native-tls, which does not report it.
        version: Option<TlsVersion>,
    },
    /// A login succeeded. `took` is its duration, including any callback that provides the password or token.
    #[non_exhaustive]
    LoggedIn {
        /// The name of the login mechanism, such as `PLAIN`.
        mechanism: &'e str,
    },
    /// An attempt to connect failed in one of its steps, from the name lookup to the login. `took` is the duration of
    /// the attempt.
    #[non_exhaustive]
    ConnectFailed {
        /// The error from the step that failed.
        error: &'e Error,
    },
    /// A message was accepted for at least one recipient. `took` is [`Timings::total`](crate::Timings::total).
    #[non_exhaustive]
    Accepted {
        /// The outcome for each recipient. Some recipients may have been refused.
        delivery: &'e Delivery,
    },
    /// A message was refused for all recipients. `took` is [`Timings::total`](crate::Timings::total).
    #[non_exhaustive]
    Refused {
        /// The error, which contains the outcome for each recipient.
        error: &'e Error,
    },
    /// A message was not sent to anybody. `took` is [`Timings::total`](crate::Timings::total), or zero if the message
    /// failed before MAIL.
    #[non_exhaustive]
    NotSent {
        /// The error that prevented sending.
        error: &'e Error,
    },
    /// A message may have been delivered, but the server has not confirmed it. `took` is
    /// [`Timings::total`](crate::Timings::total).
    #[non_exhaustive]
    InDoubt {
        /// The error, which contains the outcome for each recipient.
        error: &'e Error,
    },
    /// A message is going to be sent again over another connection, because the old one ended before the server
    /// accepted the message for any recipient. `took` is zero.
    #[non_exhaustive]
    Retried {
        /// The error that ended the failed attempt.
        error: &'e Error,
    },
    /// A connection was closed by either side. `took` is the time for which the connection was open.
    #[non_exhaustive]
    Closed {
        /// The error that ended the connection; `None` if the client closed the connection without an error.
        error: Option<&'e Error>,
    },
}

impl EventKind<'_> {
    /// Returns the name of the kind, for use as a metrics label: `connected`, `secured`, `logged_in`, `connect_failed`,
    /// `accepted`, `refused`, `not_sent`, `in_doubt`, `retried` or `closed`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            EventKind::Connected { .. } => "connected",
            EventKind::Secured { .. } => "secured",
            EventKind::LoggedIn { .. } => "logged_in",
            EventKind::ConnectFailed { .. } => "connect_failed",
            EventKind::Accepted { .. } => "accepted",
            EventKind::Refused { .. } => "refused",
            EventKind::NotSent { .. } => "not_sent",
            EventKind::InDoubt { .. } => "in_doubt",
            EventKind::Retried { .. } => "retried",
            EventKind::Closed { .. } => "closed",
        }
    }
}

/// The caller's function. Clones share it.
#[derive(Clone)]
pub(crate) struct Observer(Arc<dyn Fn(&Event<'_>) + Send + Sync>);

impl Observer {
    pub fn new(observe: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Observer {
        Observer(Arc::new(observe))
    }

    /// Calls the function and catches its panics, which must not leave the client in an inconsistent state, or abort a
    /// program that is already unwinding.
    pub fn tell(&self, connection: Option<u64>, kind: EventKind<'_>, took: Duration) {
        let event = Event { connection, kind, took };
        if catch_unwind(AssertUnwindSafe(|| (self.0)(&event))).is_err() {
            log::warn!(target: "postino", "the observer panicked on event {}", event.kind.name());
        }
    }

    /// Reports the result of a message.
    pub fn tell_result(&self, connection: Option<u64>, result: &Result<Delivery, Error>) {
        let took = |delivery: &Delivery| delivery.timings().total;
        match result {
            Ok(delivery) => self.tell(connection, EventKind::Accepted { delivery }, took(delivery)),
            Err(error) => {
                let kind = match error.delivery().map(Delivery::outcome) {
                    _ if error.in_doubt() => EventKind::InDoubt { error },
                    Some(Outcome::Refused) => EventKind::Refused { error },
                    _ => EventKind::NotSent { error },
                };
                self.tell(connection, kind, error.delivery().map_or(Duration::ZERO, took));
            }
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}
