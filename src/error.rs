//! The crate's error type, and methods to decide how to handle an error.
//!
//! `Display` includes the cause and the server's reply, so that an error is helpful wherever it is printed. `{:?}`
//! prints the same text, because `fn main() -> Result<(), postino::Error>` uses it. `{:#?}` shows the structure.

use std::{borrow::Cow, error, fmt, io};

use crate::{Delivery, Outcome, Reply};

/// A boxed cause from another library.
type Cause = Box<dyn error::Error + Send + Sync>;

/// Maximum number of characters shown of an invalid address.
const MAX_SHOWN: usize = 60;

/// The step of a session in which something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Waiting for a connection from a pool.
    Pool,
    /// Looking up the host's addresses.
    Resolve,
    /// Connecting over TCP or to a Unix socket.
    Connect,
    /// The TLS handshake.
    Tls,
    /// Waiting for the server's greeting.
    Greeting,
    /// EHLO, HELO or LHLO.
    Hello,
    /// STARTTLS.
    StartTls,
    /// AUTH, at any of its steps.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Recipient,
    /// DATA.
    Data,
    /// Sending the content of the message.
    Body,
    /// Waiting for the reply to the end of the message.
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
    /// A custom command.
    Command,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Pool => "the wait for a pooled connection",
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

impl Phase {
    /// Returns when something happened: `during EHLO`, `while waiting for the greeting`.
    fn when(self) -> Cow<'static, str> {
        match self {
            Phase::Pool => "while waiting for a pooled connection".into(),
            Phase::Connect => "while connecting".into(),
            Phase::Greeting => "while waiting for the greeting".into(),
            Phase::Body => "while sending the message".into(),
            Phase::End => "while waiting for the reply to the message".into(),
            other => format!("during {other}").into(),
        }
    }
}

/// The error type for all operations in this crate.
///
/// `Display` says what happened, in which phase, to whom, and why: it includes the server's reply, the recipients of a
/// message that was not accepted, and the text of the cause. `{:?}` prints the same text, and `{:#?}` prints the
/// structure. [`source`](error::Error::source) returns the cause as a value. No variant contains a secret.
///
/// [`retry`](Error::retry) returns whether sending again can help, and whether it can duplicate the message. An error
/// that occurs before MAIL is returned directly. From MAIL on, a message that was not accepted results in an
/// [`Error::Transaction`], which has one of the other variants as its cause. Single commands, such as
/// [`Client::mail`](crate::Client::mail), return the other variants directly.
///
/// ```
/// use postino::{Envelope, Error};
///
/// let error = Envelope::new("alice@example.org", ["bob@"]).unwrap_err();
/// assert!(matches!(error, Error::Address { .. }) && error.is_permanent());
/// assert_eq!(error.to_string(), "invalid address \"bob@\": no domain");
/// ```
///
/// To decide what to do with a message:
///
/// ```no_run
/// use postino::Retry;
///
/// # let mail = postino::Raw::bytes(postino::Envelope::new("", ["b@c"])?, "");
/// if let Err(error) = postino::send("smtp://mail.example.org", &mail) {
///     eprintln!("{error}"); // nouser@example.net refused: 550 5.1.1 no such user here (retrying will not help)
///     match error.retry() {
///         Retry::Now | Retry::Later => { /* send it to error.delivery()'s retry_envelope() again */ }
///         Retry::MayDuplicate => { /* ask somebody first */ }
///         _ => { /* give up, and tell the sender */ }
///     }
/// }
/// # Ok::<(), postino::Error>(())
/// ```
///
/// A [table](crate::guide::coming_from_aiosmtplib#exceptions) lists the counterpart of each aiosmtplib exception.
#[non_exhaustive]
pub enum Error {
    /// An invalid setting or argument, such as an invalid URL, contradictory settings, an envelope option beyond the
    /// server's limit, or the use of TLS in a build without it. No part of a message was sent.
    Config(Cow<'static, str>),
    /// An invalid mail address in an envelope, in a message being built, or in a header. Nothing was sent.
    Address {
        /// The text that should have been an address or a list of addresses.
        input: String,
        /// What is wrong with the text, such as `no @`, `no domain` or `space in the local part`.
        why: &'static str,
        /// The header field that contains the text, if it is from a header.
        header: Option<String>,
    },
    /// The envelope has no recipients. Nothing was sent.
    NoRecipients,
    /// The message cannot be built, read or sent: for example, it contains a NUL or has no `From`.
    Message(Cow<'static, str>),
    /// The server does not offer what the message, an option of its envelope, or the command requires, such as 8BITMIME
    /// for non-ASCII content, SMTPUTF8 for non-ASCII addresses, DSN or STARTTLS. No part of the message was accepted.
    Unsupported(&'static str),
    /// The message is larger than the server accepts (RFC 1870). It was not sent.
    TooLarge {
        /// The message's size in octets.
        size: u64,
        /// The server's limit in octets.
        limit: u64,
    },
    /// The message could not be read from its file or reader. If part of the message had been sent, the connection was
    /// closed so that the server would not take that part for a complete message.
    Source(io::Error),
    /// The host name could not be resolved.
    Resolve {
        /// The name that was looked up.
        host: String,
        /// The resolver's error.
        source: io::Error,
    },
    /// The client could not connect to the server, or to the proxy, at any of its addresses.
    Connect {
        /// What the client tried to connect to: the server (`host:port`), its Unix socket, or the proxy.
        server: String,
        /// The reason for the failure. If there was more than one address, the text lists the reason for each; the kind
        /// is that of the last one, or `TimedOut` if some addresses were not tried.
        source: io::Error,
    },
    /// The [proxy](crate::Builder::proxy) did not connect to the server, or does not speak the expected protocol.
    /// Nothing was sent to the server. A proxy that cannot be reached, or hangs up, is reported as
    /// [`Connect`](Error::Connect).
    Proxy {
        /// The proxy, such as `socks5://proxy.example.org:1080`, without the user name and the password.
        proxy: String,
        /// What failed, such as `host unreachable`, or the status line of an HTTP proxy.
        what: Cow<'static, str>,
        /// Whether the proxy may be able to connect to the server later.
        is_transient: bool,
    },
    /// The server's certificate is not trusted: for example, its name does not match, its issuer is unknown, it has
    /// expired, or it is not pinned. To fix this, add its issuer ([`ca_certificate`](crate::Builder::ca_certificate)),
    /// trust this certificate ([`pinned_certificate`](crate::Builder::pinned_certificate)), set the expected name
    /// ([`tls_name`](crate::Builder::tls_name)), or (insecurely) disable TLS.
    Certificate {
        /// The name that the certificate was checked against.
        name: String,
        /// What is wrong with the certificate, usually in OpenSSL's words, such as `certificate has expired`,
        /// `self-signed certificate`, `hostname mismatch`, or `unable to get local issuer certificate` for an unknown
        /// CA. If pins are set and the certificate matches none of them, the text contains its hashes.
        reason: String,
        /// The TLS library's error.
        source: Cause,
    },
    /// The TLS handshake failed, or the server refused the client certificate (in TLS 1.3, only after the
    /// handshake). There is no fallback to plain text.
    Tls {
        /// The TLS library's error.
        source: Cause,
    },
    /// TLS is required, by a setting or because there are credentials, but the server does not offer STARTTLS. No
    /// secret was sent.
    TlsRequired,
    /// The login failed: the server refused it, or there is no mechanism that both sides support. Connecting never
    /// succeeds without the login that the builder asks for.
    Auth {
        /// A description of the failure.
        what: Cow<'static, str>,
        /// The explanation, usually JSON, that OAUTHBEARER and XOAUTH2 servers send before refusing a token. It is not
        /// part of `Display`.
        details: Option<String>,
        /// The server's last refusal, if there was one.
        reply: Option<Reply>,
    },
    /// The callback that provides OAuth tokens failed. The connection is closed. Only the callback knows whether trying
    /// again can help, so this is neither transient nor permanent. [`retry`](Error::retry) returns [`Retry::Later`],
    /// so [`Retrying`](crate::Retrying) calls the callback again.
    Token {
        /// The callback's error.
        source: Cause,
    },
    /// The callback that provides the password ([`credentials_with`](crate::Builder::credentials_with)) failed. The
    /// connection is closed. Only the callback knows whether trying again can help, so this is neither transient nor
    /// permanent. [`retry`](Error::retry) returns [`Retry::Later`], so [`Retrying`](crate::Retrying) calls the callback
    /// again.
    Password {
        /// The callback's error.
        source: Cause,
    },
    /// The server refused a command (4yz: transient, 5yz: permanent), or is closing the connection (421, or 221
    /// although no QUIT was sent).
    Refused {
        /// The step that was refused, usually a command.
        phase: Phase,
        /// The server's whole reply.
        reply: Reply,
    },
    /// A timeout or the deadline has expired. The connection is closed. A timeout while resolving or connecting is
    /// reported as [`Resolve`](Error::Resolve) or [`Connect`](Error::Connect), which include the server's name.
    /// [`is_timeout`](Error::is_timeout) returns `true` for all of these.
    Timeout(Phase),
    /// Another thread has stopped the client with its [`StopHandle`](crate::StopHandle), in this phase or earlier. The
    /// connection is closed, and clients with this stop handle do not connect again. This is neither transient nor
    /// permanent.
    Stopped(Phase),
    /// The client is already connected, so it cannot connect again. The connection is unchanged.
    AlreadyConnected,
    /// The connection failed.
    Io {
        /// The step during which the connection failed.
        phase: Phase,
        /// The operating system's error.
        source: io::Error,
    },
    /// The server closed the connection without a reply.
    Closed(Phase),
    /// The server violated the protocol: it sent something that is not SMTP, or an unsolicited reply. The connection is
    /// closed, because later replies could be misattributed.
    Protocol {
        /// The step during which the violation happened.
        phase: Phase,
        /// The violation, with the start of the offending line if there is one.
        what: Cow<'static, str>,
    },
    /// The connection is closed, or was abandoned in the middle of a command (after an earlier error or a dropped
    /// future). It cannot be used again: call [`reconnect`](crate::Client::reconnect).
    NotConnected,
    /// The pool is closed.
    PoolClosed,
    /// A bug in postino. Please report it with this text.
    Internal(&'static str),
    /// The program of a [`ProgramMailer`](crate::ProgramMailer) did not accept the message. This is the cause of an
    /// [`Error::Transaction`], whose delivery shows whether the message may have been delivered nevertheless.
    Program {
        /// The path of the program.
        program: String,
        /// What happened: the exit status and the last line of standard error, or why the program was not started or
        /// was killed.
        what: String,
    },
    /// The folder of a [`FolderMailer`](crate::FolderMailer) could not be read or written. If
    /// [`send`](crate::Mailer::send) returns this error directly, the message is not in the folder.
    Folder {
        /// The path of the folder.
        folder: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// The message was not accepted for any recipient. The delivery contains the outcome for each recipient: refused,
    /// not sent, or in doubt.
    Transaction {
        /// The outcome for each recipient.
        delivery: Box<Delivery>,
        /// The cause of the failure.
        source: Box<Error>,
    },
    /// The message was accepted for some recipients but not for all, and [`Delivery::require_all`] was called. Sending
    /// the message again with the same envelope would duplicate it for the recipients that already have it;
    /// [`Delivery::retry_envelope`] returns an envelope for the recipients to retry.
    PartialDelivery {
        /// The outcome for each recipient.
        delivery: Box<Delivery>,
    },
}

/// Whether sending the same message again with the same envelope can help. Returned by [`Error::retry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Retry {
    /// Retrying cannot help: the message, the envelope, the settings or the server has to change first.
    Never,
    /// Retrying may help after a while, over a new connection if the old one was closed.
    Later,
    /// Retrying immediately over a new connection may help, because the only problem was a lost connection.
    Now,
    /// Retrying may duplicate the message: it was, or may have been, delivered to somebody.
    MayDuplicate,
}

impl Retry {
    fn hint(self) -> &'static str {
        match self {
            Retry::Never => "retrying will not help",
            Retry::Later => "retrying later may help",
            Retry::Now => "retrying now may help",
            Retry::MayDuplicate => "retrying may duplicate it",
        }
    }
}

impl Error {
    /// Returns whether retrying may help and cannot duplicate the mail, for instance after 4yz replies, timeouts, lost
    /// connections, and failed name lookups. After such an error, the connection is closed and the client has to
    /// reconnect, unless the server refused a command with a reply other than 421 or 221.
    ///
    /// An [`Error::Transaction`] is transient if no recipient is [in doubt](Error::in_doubt) and
    /// [`Delivery::retry_envelope`] returns an envelope. An [`Error::PartialDelivery`] is never transient.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            _ if self.in_doubt() => false,
            Error::Transaction { .. } => self.retry() != Retry::Never,
            Error::PartialDelivery { .. } => false,
            Error::Auth { reply: Some(reply), .. } => reply.is_transient(),
            Error::Refused { reply, .. } => !reply.is_permanent(),
            Error::Proxy { is_transient, .. } => *is_transient,
            Error::Resolve { .. }
            | Error::Connect { .. }
            | Error::Timeout(_)
            | Error::Io { .. }
            | Error::Closed(_)
            | Error::NotConnected => true,
            _ => false,
        }
    }

    /// Returns whether retrying without changes is pointless, for instance because of a 5yz reply, an invalid address,
    /// message or setting, or an untrusted certificate. Returns `false` when the delivery is [in
    /// doubt](Error::in_doubt), and when the server violated the protocol.
    ///
    /// An [`Error::Transaction`] is permanent if every recipient was refused permanently.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Error::Transaction { .. } | Error::PartialDelivery { .. } => self.retry() == Retry::Never,
            Error::Auth { reply: Some(reply), .. } | Error::Refused { reply, .. } => reply.is_permanent(),
            Error::Proxy { is_transient, .. } => !is_transient,
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

    /// Returns whether a timeout or the deadline expired, in any phase.
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

    /// Returns whether the message may have been delivered: its last octet was sent, but no valid final reply arrived
    /// (RFC 1047). Sending the message again may duplicate it.
    ///
    /// An [`Error::Transaction`] is in doubt if the outcome for any recipient is [`Outcome::InDoubt`].
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        match self {
            Error::Transaction { delivery, .. } | Error::PartialDelivery { delivery } => delivery.in_doubt(),
            // Outside a transaction, from `Client::data`: see `Data::into_result`.
            Error::Timeout(phase) | Error::Closed(phase) | Error::Stopped(phase) => *phase == Phase::End,
            Error::Io { phase, .. } | Error::Protocol { phase, .. } => *phase == Phase::End,
            // 221: the server is closing the connection, without reporting whether it accepted the message.
            Error::Refused { phase, reply } => *phase == Phase::End && reply.is_positive(),
            _ => false,
        }
    }

    /// Returns the server's reply, if there is one.
    #[must_use]
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Error::Transaction { delivery, source } => source.reply().or(delivery.reply()),
            Error::PartialDelivery { delivery } => delivery.reply(),
            Error::Refused { reply, .. } => Some(reply),
            Error::Auth { reply, .. } => reply.as_ref(),
            _ => None,
        }
    }

    /// Returns whether sending the same message again can help, and whether it can duplicate the mail.
    ///
    /// - [`MayDuplicate`](Retry::MayDuplicate): the delivery is [in doubt](Error::in_doubt), or this is an
    ///   [`Error::PartialDelivery`] with recipients that could be retried.
    /// - [`Now`](Retry::Now): the connection was lost, and nothing was accepted: [`Error::Io`], [`Error::Closed`],
    ///   [`Error::NotConnected`].
    /// - [`Later`](Retry::Later): a 4yz reply ([`Error::Refused`], [`Error::Auth`]); [`Error::Timeout`]; a server that
    ///   could not be reached ([`Error::Resolve`], [`Error::Connect`], a transient [`Error::Proxy`]); a failed TLS
    ///   handshake ([`Error::Tls`]); [`Error::Protocol`]; and a failure outside of SMTP that may pass:
    ///   [`Error::Source`], [`Error::Folder`], [`Error::Token`], [`Error::Password`].
    /// - [`Never`](Retry::Never): everything else, including an untrusted certificate and [`Error::Stopped`].
    ///
    /// For an [`Error::Transaction`], the outcomes of its recipients determine the result; the cause only decides
    /// between `Now` and `Later`. The result is `Never` if every recipient was refused permanently. If the result is
    /// `Now` or `Later`, [`Delivery::retry_envelope`] returns an envelope with which to resend the message.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            _ if self.in_doubt() => Retry::MayDuplicate,
            Error::Transaction { delivery, source } => delivery.retry(source.is_lost_connection()),
            // Some recipients already have it.
            Error::PartialDelivery { delivery } if delivery.retry(false) != Retry::Never => {
                Retry::MayDuplicate
            }
            _ if self.is_lost_connection() => Retry::Now,
            _ if self.is_transient() => Retry::Later,
            Error::Protocol { .. }
            | Error::Token { .. }
            | Error::Password { .. }
            | Error::Source(_)
            | Error::Folder { .. }
            | Error::Tls { .. } => Retry::Later,
            _ => Retry::Never,
        }
    }

    /// Whether, as far as is known, only the connection was lost, so that another one may work at once.
    fn is_lost_connection(&self) -> bool {
        matches!(self, Error::Closed(_) | Error::NotConnected | Error::Io { .. })
    }

    /// Returns the outcome for each recipient, if this is an [`Error::Transaction`] or an [`Error::PartialDelivery`].
    #[must_use]
    pub fn delivery(&self) -> Option<&Delivery> {
        match self {
            Error::Transaction { delivery, .. } | Error::PartialDelivery { delivery } => Some(delivery),
            _ => None,
        }
    }

    /// Copies the error for another message that failed for the same reason.
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

    /// Copies the error of a refused login for another connection that would have to log in the same way.
    pub(crate) fn refused_login(&self) -> Option<Error> {
        let Error::Auth { what, details, reply } = self else { return None };
        Some(Error::Auth { what: what.clone(), details: details.clone(), reply: reply.clone() })
    }

    /// Whether the connection was lost, or closed by the server, before any content was sent.
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

    /// Changes the phase of a connection failure.
    pub(crate) fn at(self, phase: Phase) -> Error {
        match self {
            Error::Timeout(_) => Error::Timeout(phase),
            Error::Closed(_) => Error::Closed(phase),
            Error::Stopped(_) => Error::Stopped(phase),
            Error::Io { source, .. } => Error::Io { phase, source },
            Error::Protocol { what, .. } => Error::Protocol { phase, what },
            // 221: the server is closing the connection, and has not answered the command.
            Error::Refused { reply, .. } if reply.is_positive() => Error::Refused { phase, reply },
            other => other,
        }
    }

    #[cold]
    pub(crate) fn protocol(phase: Phase, what: impl Into<Cow<'static, str>>) -> Error {
        Error::Protocol { phase, what: what.into() }
    }

    /// Converts the error of a read or write.
    #[cold]
    pub(crate) fn io(phase: Phase, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::TimedOut => Error::Timeout(phase),
            io::ErrorKind::UnexpectedEof => Error::Closed(phase),
            // An error of this crate is more specific than the failed operation.
            _ => source.downcast().unwrap_or_else(|source| Error::Io { phase, source }),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config(what) | Error::Message(what) => f.write_str(what),
            Error::Address { input, why, header } => {
                if let Some(header) = header {
                    write!(f, "{header}: ")?;
                }
                let shown: String = input.chars().take(MAX_SHOWN).collect();
                let dots = if shown.len() < input.len() { "…" } else { "" };
                write!(f, "invalid address {shown:?}{dots}: {why}")
            }
            Error::NoRecipients => f.write_str("there are no recipients"),
            Error::Unsupported(what) => write!(f, "the server does not offer {what}"),
            Error::TooLarge { size, limit } => {
                write!(f, "the message has {size} octets, but the server accepts at most {limit}")
            }
            Error::Source(source) => write!(f, "could not read the message: {source}"),
            Error::Resolve { host, source } if source.kind() == io::ErrorKind::TimedOut => {
                write!(f, "timed out resolving {host}")
            }
            Error::Resolve { host, source } => write!(f, "could not resolve {host}: {source}"),
            Error::Connect { server, source } if source.kind() == io::ErrorKind::TimedOut => {
                write!(f, "timed out connecting to {server}")?;
                // Each of several addresses has its own reason.
                source.get_ref().map_or(Ok(()), |each| write!(f, ": {each}"))
            }
            Error::Connect { server, source } => write!(f, "could not connect to {server}: {source}"),
            Error::Proxy { proxy, what, .. } => write!(f, "the proxy {proxy} did not connect: {what}"),
            Error::Certificate { name, reason, .. } => write!(
                f,
                "the certificate for {name} is not trusted: {reason} (Builder::ca_certificate adds an issuer, Builder::pinned_certificate trusts one certificate, Builder::tls_name sets another name)"
            ),
            Error::Tls { source } => write!(f, "TLS handshake failed: {source}"),
            Error::TlsRequired => f.write_str("TLS is required, but the server does not offer STARTTLS"),
            Error::Auth { what, reply: None, .. } => f.write_str(what),
            Error::Auth { what, reply: Some(reply), .. } => write!(f, "{what}: {reply}"),
            Error::Token { source } => write!(f, "could not obtain a token: {source}"),
            Error::Password { source } => write!(f, "could not obtain the password: {source}"),
            Error::Refused { phase, reply } if reply.is_positive() => {
                write!(f, "the server closed the connection {}: {reply}", phase.when())
            }
            Error::Refused { phase: Phase::Body | Phase::End, reply } => {
                write!(f, "the server refused the message: {reply}")
            }
            Error::Refused { phase: Phase::Greeting, reply } => {
                write!(f, "the server refused the connection: {reply}")
            }
            Error::Refused { phase, reply } => write!(f, "the server refused {phase}: {reply}"),
            Error::Timeout(phase) => {
                let when = phase.when();
                write!(f, "timed out {}", when.strip_prefix("while ").unwrap_or(&when))?;
                let hint = *phase == Phase::Greeting;
                f.write_str(if hint { " (does the port expect TLS from the start?)" } else { "" })
            }
            Error::Stopped(phase) => write!(f, "stopped {}", phase.when()),
            Error::AlreadyConnected => f.write_str("the client is already connected"),
            Error::Io { phase, source } => write!(f, "the connection failed {}: {source}", phase.when()),
            Error::Closed(Phase::Greeting) => {
                f.write_str("the server closed the connection before its greeting")
            }
            Error::Closed(Phase::Body) => f.write_str("the server closed the connection during the message"),
            Error::Closed(Phase::End) => {
                f.write_str("the server closed the connection before it replied to the message")
            }
            Error::Closed(phase) => write!(f, "the server closed the connection {}", phase.when()),
            Error::Protocol { phase, what } => write!(f, "protocol error {}: {what}", phase.when()),
            Error::NotConnected => f.write_str(
                "the connection is closed (after QUIT, an earlier error, or a dropped future): reconnect",
            ),
            Error::PoolClosed => f.write_str("the pool is closed"),
            Error::Internal(what) => {
                write!(f, "internal error, please report it as a bug in postino: {what}")
            }
            Error::Program { program, what } => write!(f, "{program} failed: {what}"),
            Error::Folder { folder, source } => write!(f, "could not use the folder {folder}: {source}"),
            Error::Transaction { delivery, source } => {
                delivery.describe(f, Some(source))?;
                write!(f, " ({})", self.retry().hint())
            }
            Error::PartialDelivery { delivery } => {
                delivery.describe(f, None)?;
                match self.retry() {
                    Retry::MayDuplicate => f.write_str(" (retry only with Delivery::retry_envelope)"),
                    retry => write!(f, " ({})", retry.hint()),
                }
            }
        }
    }
}

/// Prints the same text as `Display`, because `fn main() -> Result<(), postino::Error>` and `unwrap` use `Debug`.
/// `{:#?}` prints the structure.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !f.alternate() {
            return fmt::Display::fmt(self, f);
        }
        let mut shown = f.debug_struct(self.name());
        shown.field("text", &self.to_string()).field("retry", &self.retry());
        if let Some(delivery) = self.delivery() {
            shown.field("delivery", delivery);
        }
        if let Some(reply) = self.reply() {
            shown.field("reply", reply);
        }
        if let Some(source) = error::Error::source(self) {
            shown.field("source", &source);
        }
        shown.finish()
    }
}

impl Error {
    /// Returns the variant's name.
    fn name(&self) -> &'static str {
        match self {
            Error::Config(_) => "Config",
            Error::Address { .. } => "Address",
            Error::NoRecipients => "NoRecipients",
            Error::Message(_) => "Message",
            Error::Unsupported(_) => "Unsupported",
            Error::TooLarge { .. } => "TooLarge",
            Error::Source(_) => "Source",
            Error::Resolve { .. } => "Resolve",
            Error::Connect { .. } => "Connect",
            Error::Proxy { .. } => "Proxy",
            Error::Certificate { .. } => "Certificate",
            Error::Tls { .. } => "Tls",
            Error::TlsRequired => "TlsRequired",
            Error::Auth { .. } => "Auth",
            Error::Token { .. } => "Token",
            Error::Password { .. } => "Password",
            Error::Refused { .. } => "Refused",
            Error::Timeout(_) => "Timeout",
            Error::Stopped(_) => "Stopped",
            Error::AlreadyConnected => "AlreadyConnected",
            Error::Io { .. } => "Io",
            Error::Closed(_) => "Closed",
            Error::Protocol { .. } => "Protocol",
            Error::NotConnected => "NotConnected",
            Error::PoolClosed => "PoolClosed",
            Error::Internal(_) => "Internal",
            Error::Program { .. } => "Program",
            Error::Folder { .. } => "Folder",
            Error::Transaction { .. } => "Transaction",
            Error::PartialDelivery { .. } => "PartialDelivery",
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Error::Source(source)
            | Error::Resolve { source, .. }
            | Error::Connect { source, .. }
            | Error::Folder { source, .. }
            | Error::Io { source, .. } => Some(source),
            Error::Certificate { source, .. }
            | Error::Tls { source }
            | Error::Token { source }
            | Error::Password { source } => Some(&**source),
            Error::Transaction { source, .. } => Some(&**source),
            _ => None,
        }
    }
}
