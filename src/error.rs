//! What can go wrong: one enum, and the questions a program asks of it.

use std::{borrow::Cow, error, fmt, io};

use crate::{Delivery, Outcome, Reply};

/// A boxed cause from another library.
type Cause = Box<dyn error::Error + Send + Sync>;

/// Where in a session something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Waiting for a connection of a pool.
    Pool,
    /// Looking up the host's addresses.
    Resolve,
    /// The TCP connection.
    Connect,
    /// The TLS handshake.
    Tls,
    /// Waiting for the server's first words.
    Greeting,
    /// EHLO, HELO or LHLO.
    Hello,
    /// STARTTLS.
    StartTls,
    /// AUTH, any step of it.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Recipient,
    /// DATA.
    Data,
    /// The message itself, on its way.
    Body,
    /// The reply to the end of the message.
    End,
    /// RSET.
    Reset,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
    /// VRFY.
    Vrfy,
    /// EXPN.
    Expn,
    /// HELP.
    Help,
    /// A command of the caller's own.
    Command,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Pool => "the wait for a connection of the pool",
            Phase::Resolve => "the name lookup",
            Phase::Connect => "connecting",
            Phase::Tls => "the TLS handshake",
            Phase::Greeting => "the greeting",
            Phase::Hello => "EHLO",
            Phase::StartTls => "STARTTLS",
            Phase::Auth => "AUTH",
            Phase::Mail => "MAIL FROM",
            Phase::Recipient => "RCPT TO",
            Phase::Data => "DATA",
            Phase::Body => "the message",
            Phase::End => "the end of the message",
            Phase::Reset => "RSET",
            Phase::Noop => "NOOP",
            Phase::Quit => "QUIT",
            Phase::Vrfy => "VRFY",
            Phase::Expn => "EXPN",
            Phase::Help => "HELP",
            Phase::Command => "the command",
        })
    }
}

/// Anything that can go wrong.
///
/// `Display` is one clause without the cause; [`source`](error::Error::source) is the cause. No variant holds a
/// secret. [`retry`](Error::retry) says what to do about it.
///
/// Before a transaction an error stands by itself. From MAIL on a message that was not accepted is an
/// [`Error::Transaction`], with one of the others as its cause; single commands ([`Client::mail`](crate::Client::mail) and its
/// like) have no transaction, and give that other one.
///
/// What each exception of aiosmtplib is here [stands in a table](crate::coming_from_aiosmtplib#exceptions).
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// What was asked for cannot be: a bad URL or host name, settings that contradict each other, TLS in a build
    /// without it. Nothing was sent.
    Config(Cow<'static, str>),
    /// A mailbox that no envelope can hold. Nothing was sent.
    Address {
        /// What was given.
        input: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An envelope without recipients. Nothing was sent.
    NoRecipients,
    /// A message that cannot be sent: a NUL, a header that should name an address and does not.
    Message(Cow<'static, str>),
    /// The message, an option of its envelope, or the command needs what this server does not offer: 8BITMIME for octets
    /// beyond ASCII, SMTPUTF8 for such an address, DSN, STARTTLS. Nothing of the message was accepted.
    Unsupported(&'static str),
    /// The message is larger than the server takes (RFC 1870). It was not offered.
    TooLarge {
        /// The message's size in octets.
        size: u64,
        /// The server's limit in octets.
        limit: u64,
    },
    /// The message's own file or reader failed. The connection was closed, so that the server has no whole message.
    Source(io::Error),
    /// The host has no address that could be found.
    Resolve {
        /// The name that was looked up.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No address of the host could be connected to.
    Connect {
        /// The server: `host:port`, or its Unix socket.
        server: String,
        /// Why. If there were more addresses than one, its text tells of each of them; its kind is that of the last one,
        /// or `TimedOut`.
        source: io::Error,
    },
    /// The server's certificate is not to be trusted: wrong name, unknown issuer, expired. The way out: the issuer's
    /// certificate as a root of one's own, the name to verify, or (at a price) no TLS.
    Certificate {
        /// The name that was verified.
        name: String,
        /// What is wrong, in the words of the TLS library, such as `certificate has expired`, `self-signed
        /// certificate`, `hostname mismatch`, or `unable to get local issuer certificate` for an unknown CA.
        reason: String,
        /// What the TLS library said.
        source: Cause,
    },
    /// The TLS handshake failed, or the server refused our certificate, which TLS 1.3 tells only behind it. There is
    /// no falling back to plain text.
    Tls {
        /// What the TLS library said.
        source: Cause,
    },
    /// TLS is required (by a setting, or because there are credentials), and the server does not offer STARTTLS.
    /// Nothing secret was sent.
    TlsRequired,
    /// The login failed: refused by the server, or no mechanism that both sides have. Never goes on without a login.
    Auth {
        /// What failed.
        what: Cow<'static, str>,
        /// What OAUTHBEARER and XOAUTH2 servers explain before they refuse a token: JSON mostly. Not a part of
        /// `Display`.
        details: Option<String>,
        /// The server's last refusal, if it came to that.
        reply: Option<Reply>,
    },
    /// The callback that should give a token has failed. The connection is closed. Whether trying again can help only
    /// the callback knows: it counts as neither transient nor permanent.
    Token {
        /// What it said.
        source: Cause,
    },
    /// The server refused a command (4yz: for now, 5yz: for good), or closes the connection (421, or 221 where nobody
    /// said QUIT).
    Refused {
        /// To what.
        phase: Phase,
        /// All it said.
        reply: Reply,
    },
    /// The time was up: one wait's, or the deadline of all. The connection is closed. (Of the lookup and of connecting
    /// [`Resolve`](Error::Resolve) and [`Connect`](Error::Connect) tell, with the server's name, and
    /// [`is_timeout`](Error::is_timeout) is true of these too.)
    Timeout(Phase),
    /// Another thread has used the client's [`StopHandle`](crate::StopHandle), in this phase or before. The connection is
    /// closed; nothing over this stop handle goes on. Neither transient nor permanent: somebody wanted it so.
    Stopped(Phase),
    /// There is nothing to reconnect: the connection stands. It was left as it is.
    AlreadyConnected,
    /// The connection failed.
    Io {
        /// Where.
        phase: Phase,
        /// How.
        source: io::Error,
    },
    /// The server closed the connection without a word.
    Closed(Phase),
    /// What the server sent is not SMTP, or not in its place. The connection is closed: later answers could be
    /// taken for something else.
    Protocol {
        /// Where.
        phase: Phase,
        /// What is wrong, with the start of the line that is no reply, if that is it.
        what: Cow<'static, str>,
    },
    /// The connection is closed, or was left in the middle of something (an earlier error, a dropped future). It is
    /// never used again; connect anew.
    NotConnected,
    /// The pool is closed.
    PoolClosed,
    /// A bug in postino, or a [`proto`](crate::proto) type used out of order: something happened that cannot. Please
    /// report it. The text says what it was.
    Internal(&'static str),
    /// A message was not accepted. The delivery tells for each recipient what is known: refused, not sent, or in
    /// doubt; `source` is the cause.
    Transaction {
        /// What became of each recipient.
        delivery: Box<Delivery>,
        /// Why.
        source: Box<Error>,
    },
}

/// Whether to send the same again: what [`Error::retry`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Retry {
    /// It is no use: the message, the envelope, the settings or the server's mind would have to change.
    Never,
    /// It may help after a while, over a new connection.
    Later,
    /// It may help at once, over a new connection: only the old one was lost.
    Now,
    /// It may have been delivered: sending it again may double it.
    MayDuplicate,
}

impl Error {
    /// Returns whether trying again may help and cannot duplicate the mail: after 4yz replies, timeouts, lost connections,
    /// names that could not be looked up. After anything except a 4yz reply, and after 421, the client is closed and has to
    /// be connected again.
    ///
    /// For an [`Error::Transaction`] this is so exactly if no recipient is [in doubt](Error::in_doubt), and
    /// [`Delivery::retry_envelope`] has one.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            _ if self.in_doubt() => false,
            Error::Transaction { .. } => self.retry() != Retry::Never,
            Error::Auth { reply: Some(reply), .. } => reply.is_transient(),
            Error::Refused { reply, .. } => !reply.is_permanent(),
            Error::Resolve { .. }
            | Error::Connect { .. }
            | Error::Timeout(_)
            | Error::Io { .. }
            | Error::Closed(_)
            | Error::NotConnected => true,
            _ => false,
        }
    }

    /// Returns whether trying the same again cannot help: after 5yz replies, with bad addresses, messages and settings, and
    /// untrusted certificates. It is false when the delivery is [in doubt](Error::in_doubt), and for what the server did
    /// against the protocol.
    ///
    /// For an [`Error::Transaction`] this is so exactly if every recipient was refused for good.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Error::Transaction { .. } => self.retry() == Retry::Never,
            Error::Auth { reply: Some(reply), .. } | Error::Refused { reply, .. } => reply.is_permanent(),
            Error::Config(_)
            | Error::Address { .. }
            | Error::NoRecipients
            | Error::Message(_)
            | Error::Unsupported(_)
            | Error::TooLarge { .. }
            | Error::Certificate { .. }
            | Error::TlsRequired
            | Error::PoolClosed
            | Error::AlreadyConnected
            | Error::Internal(_)
            | Error::Auth { reply: None, .. } => true,
            _ => false,
        }
    }

    /// The time was up, wherever.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        match self {
            Error::Transaction { source, .. } => source.is_timeout(),
            Error::Resolve { source, .. } | Error::Connect { source, .. } => {
                source.kind() == io::ErrorKind::TimedOut
            }
            Error::Timeout(_) => true,
            _ => false,
        }
    }

    /// Returns whether the message may have been delivered: the connection was lost between its last octet and the reply
    /// (RFC 1047). Sending it again may duplicate it.
    ///
    /// For an [`Error::Transaction`] this is so exactly if some recipient is [`Outcome::InDoubt`].
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        match self {
            Error::Transaction { delivery, .. } => delivery.in_doubt(),
            // Outside a transaction, of `Client::data`: see `Data::into_result`.
            Error::Timeout(phase) | Error::Closed(phase) | Error::Stopped(phase) => *phase == Phase::End,
            Error::Io { phase, .. } | Error::Protocol { phase, .. } => *phase == Phase::End,
            // 221: it closes, and has not said whether it took the message.
            Error::Refused { phase, reply } => *phase == Phase::End && reply.is_positive(),
            _ => false,
        }
    }

    /// The server's words, if it said any.
    #[must_use]
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Error::Transaction { delivery, source } => source.reply().or(delivery.reply()),
            Error::Refused { reply, .. } => Some(reply),
            Error::Auth { reply, .. } => reply.as_ref(),
            _ => None,
        }
    }

    /// Returns whether sending the same again can help, and whether it can duplicate the mail.
    ///
    /// - [`MayDuplicate`](Retry::MayDuplicate): the delivery is [in doubt](Error::in_doubt).
    /// - [`Now`](Retry::Now): the connection was lost, and nothing was taken.
    /// - [`Later`](Retry::Later): a 4yz reply, a timeout, a server that could not be reached or does not keep to the
    ///   protocol, a source or token that could not be obtained.
    /// - [`Never`](Retry::Never): everything else.
    ///
    /// For an [`Error::Transaction`] the outcomes of its recipients decide, and the cause only whether it is `Now` or
    /// `Later`. It is `Never` exactly if every recipient was refused for good; otherwise, and if none is in doubt,
    /// [`Delivery::retry_envelope`] returns the envelope to send the message to again.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            _ if self.in_doubt() => Retry::MayDuplicate,
            Error::Transaction { delivery, source } => delivery.retry(source.is_lost_connection()),
            _ if self.is_lost_connection() => Retry::Now,
            _ if self.is_transient() => Retry::Later,
            Error::Protocol { .. } | Error::Token { .. } | Error::Source(_) | Error::Tls { .. } => {
                Retry::Later
            }
            _ => Retry::Never,
        }
    }

    /// Only the connection was lost, as far as is known: another one may do at once.
    fn is_lost_connection(&self) -> bool {
        matches!(self, Error::Closed(_) | Error::NotConnected | Error::Io { .. })
    }

    /// What became of each recipient, if a transaction had begun.
    #[must_use]
    pub fn delivery(&self) -> Option<&Delivery> {
        match self {
            Error::Transaction { delivery, .. } => Some(delivery),
            _ => None,
        }
    }

    /// The same once more, for another message that ended by it.
    pub(crate) fn repeated(&self) -> Error {
        match self {
            Error::Timeout(phase) => Error::Timeout(*phase),
            Error::Closed(phase) => Error::Closed(*phase),
            Error::Stopped(phase) => Error::Stopped(*phase),
            Error::Io { phase, source } => {
                Error::Io { phase: *phase, source: io::Error::new(source.kind(), source.to_string()) }
            }
            Error::Refused { phase, reply } => Error::Refused { phase: *phase, reply: reply.clone() },
            Error::Protocol { phase, what } => Error::Protocol { phase: *phase, what: what.clone() },
            _ => Error::NotConnected,
        }
    }

    /// The error of a refused login once more, for another who would have to log in the same way.
    pub(crate) fn refused_login(&self) -> Option<Error> {
        let Error::Auth { what, details, reply } = self else { return None };
        Some(Error::Auth { what: what.clone(), details: details.clone(), reply: reply.clone() })
    }

    /// The connection was lost, or closed by the server, before any content was sent.
    pub(crate) fn is_before_content(&self) -> bool {
        let Error::Transaction { delivery, source } = self else { return false };
        let phase = match &**source {
            Error::Closed(phase) | Error::Io { phase, .. } => *phase,
            Error::Refused { phase, reply } if reply.borrow().closes(*phase) => *phase,
            _ => return false,
        };
        delivery.outcome() == Outcome::NotSent
            && matches!(phase, Phase::Reset | Phase::Mail | Phase::Recipient | Phase::Data)
    }

    /// The same failure of the connection in another phase.
    pub(crate) fn at(self, phase: Phase) -> Error {
        match self {
            Error::Timeout(_) => Error::Timeout(phase),
            Error::Closed(_) => Error::Closed(phase),
            Error::Stopped(_) => Error::Stopped(phase),
            Error::Io { source, .. } => Error::Io { phase, source },
            Error::Protocol { what, .. } => Error::Protocol { phase, what },
            // 221: the server closes, and has not answered the command.
            Error::Refused { reply, .. } if reply.is_positive() => Error::Refused { phase, reply },
            other => other,
        }
    }

    #[cold]
    pub(crate) fn protocol(phase: Phase, what: impl Into<Cow<'static, str>>) -> Error {
        Error::Protocol { phase, what: what.into() }
    }

    /// From a read or write that failed.
    #[cold]
    pub(crate) fn io(phase: Phase, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::TimedOut => Error::Timeout(phase),
            io::ErrorKind::UnexpectedEof => Error::Closed(phase),
            // An error of ours says more than the operation that failed.
            _ => source.downcast().unwrap_or_else(|source| Error::Io { phase, source }),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config(what) | Error::Message(what) => f.write_str(what),
            Error::Address { input, why } => write!(f, "{input:?} cannot be an address: {why}"),
            Error::NoRecipients => write!(f, "there are no recipients"),
            Error::Unsupported(what) => write!(f, "the server does not offer {what}"),
            Error::TooLarge { size, limit } => {
                write!(f, "the message has {size} octets, and the server takes {limit} at most")
            }
            Error::Source(_) => write!(f, "the message could not be read"),
            Error::Resolve { host, source } if source.kind() == io::ErrorKind::TimedOut => {
                write!(f, "the time was up in the name lookup of {host}")
            }
            Error::Resolve { host, .. } => write!(f, "no address was found for {host}"),
            Error::Connect { server, source } if source.kind() == io::ErrorKind::TimedOut => {
                write!(f, "the time was up in connecting to {server}")
            }
            Error::Connect { server, .. } => write!(f, "could not connect to {server}"),
            Error::Certificate { name, reason, .. } => write!(
                f,
                "the certificate for {name} is not to be trusted: {reason} (Builder::ca_certificate adds an issuer, Builder::tls_name sets another name)"
            ),
            Error::Tls { .. } => write!(f, "the TLS handshake failed"),
            Error::TlsRequired => write!(f, "TLS is required, and the server does not offer STARTTLS"),
            Error::Auth { what, reply: None, .. } => f.write_str(what),
            Error::Auth { what, reply: Some(reply), .. } => write!(f, "{what}: {reply}"),
            Error::Token { .. } => write!(f, "no token could be had"),
            Error::Refused { phase, reply } if reply.is_positive() => {
                write!(f, "the server closed the connection in {phase}: {reply}")
            }
            Error::Refused { phase, reply } => write!(f, "the server refused {phase}: {reply}"),
            Error::Timeout(Phase::Greeting) => {
                write!(f, "the time was up in the greeting (does the port want TLS from the first octet?)")
            }
            Error::Timeout(phase) => write!(f, "the time was up in {phase}"),
            Error::Stopped(phase) => write!(f, "it was stopped in {phase}"),
            Error::AlreadyConnected => write!(f, "it is already connected"),
            Error::Io { phase, .. } => write!(f, "the connection failed in {phase}"),
            Error::Closed(phase) => write!(f, "the server closed the connection in {phase}"),
            Error::Protocol { phase, what } => write!(f, "not SMTP in {phase}: {what}"),
            Error::NotConnected => {
                write!(
                    f,
                    "the connection is closed (QUIT, an earlier error, or a dropped future): connect anew"
                )
            }
            Error::PoolClosed => write!(f, "the pool is closed"),
            Error::Internal(what) => {
                write!(f, "internal error, please report it as a bug of postino: {what}")
            }
            Error::Transaction { delivery, .. } => {
                f.write_str(match delivery.outcome() {
                    Outcome::InDoubt => {
                        "the message may have been delivered: its end was sent and no answer came"
                    }
                    Outcome::Refused => "the message was refused",
                    Outcome::NotSent | Outcome::Accepted => "the message was not sent",
                })?;
                let mut refused = delivery.refused();
                match (refused.next(), refused.count()) {
                    (None, _) => Ok(()),
                    (Some(first), 0) => write!(f, ", for {}", first.address()),
                    (Some(first), more) => write!(f, ", for {} and {more} more", first.address()),
                }
            }
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Error::Source(source)
            | Error::Resolve { source, .. }
            | Error::Connect { source, .. }
            | Error::Io { source, .. } => Some(source),
            Error::Certificate { source, .. } | Error::Tls { source } | Error::Token { source } => {
                Some(&**source)
            }
            Error::Transaction { source, .. } => Some(&**source),
            _ => None,
        }
    }
}
