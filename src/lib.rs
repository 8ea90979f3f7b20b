//! An SMTP client: blocking at the crate root, with an async client behind a feature.
//!
//! The blocking client uses `std::net`, without a runtime or long-lived threads. The `async` feature adds
//! [`aio`](#async), the same client with `async fn`.
//!
//! **The [`guide`] has a page for each task**: a first message, TLS and logins, OAuth, errors and retrying, many
//! messages, deadlines and more. It also has migration tables for lettre, nodemailer, smtplib and aiosmtplib.
//!
//! # One call
//!
//! ```no_run
//! use postino::Message;
//!
//! let message = Message::builder()
//!     .from("Alice <alice@example.org>")
//!     .to("Bob <bob@example.net>, carol@example.com")
//!     .subject("Grüße")
//!     .text("Hello!\n")
//!     .build()?;
//! postino::send("smtps://user:secret@mail.example.org", &message)?.require_all()?;
//! # Ok::<(), postino::Error>(())
//! ```
//!
//! [`send`] returns `Ok` if the server accepted the message for **at least one** recipient, as is usual in SMTP.
//! [`require_all`](Delivery::require_all) turns a refused recipient into an error that names the recipients who were
//! refused and those who will get the message. If you do not call it, check [`Delivery::refused`]. With
//! [`Builder::all_or_nothing`], a message is sent to nobody if any recipient is refused.
//!
//! # A session
//!
//! ```no_run
//! use email_format::Email;
//! use postino::{Client, Security};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut email = Email::new("Alice <alice@example.org>", "Wed, 5 Jan 2022 15:13:05 +0100")?;
//! email.set_to("Bob <bob@example.net>")?;
//! email.set_subject("Hi")?;
//! email.set_body("Hello, Bob!\r\n")?;
//!
//! let mut client = Client::builder("mail.example.org")
//!     .security(Security::StartTls)
//!     .credentials("user", "secret")
//!     .connect()?;
//! let delivery = client.send(&email)?;
//! for recipient in delivery.refused() {
//!     eprintln!("{} was refused: {}", recipient.address(), recipient.reply().unwrap());
//! }
//! client.quit()?;
//! # Ok(())
//! # }
//! ```
//!
//! A message can be an [`email_format::Email`], whose envelope is taken from its headers. The [`message`] module
//! describes everything that can be sent.
//!
//! # Many messages
//!
//! [`Client::send_all`] sends messages over one connection, and returns a result for each. With PIPELINING, a message
//! takes two round trips. If the server also offers CHUNKING, the end of each message is sent together with the next
//! envelope, so that a message takes about one round trip ([`JoinPolicy`]), and almost none with [`Builder::chunking`].
//!
//! If the server ends the session after some messages, the client reconnects ([`Client::send`]). If the connection is
//! lost for another reason, the remaining messages stay in the iterator ([`Batch::is_lost`]). [`Client::batch`] is for
//! messages that arrive one by one ([`Batch::push`]).
//!
//! ```no_run
//! # use postino::{Client, Raw};
//! # fn send(mails: Vec<Raw<'static>>) -> Result<(), postino::Error> {
//! let mut client = Client::builder("mail.example.org").connect()?;
//! for (number, result) in client.send_all(mails) {
//!     match result {
//!         Ok(delivery) => println!("{number}: {delivery}"),
//!         Err(e) => eprintln!("{number}: {e}"),
//!     }
//! }
//! # client.quit()
//! # }
//! ```
//!
//! A [`Pool`] keeps a limited number of connections for many threads, and can limit the rate of messages:
//!
//! ```no_run
//! # use postino::{Client, Mail, Pool};
//! # fn send(first: &dyn Mail, second: &dyn Mail) -> Result<(), postino::Error> {
//! let pool = Pool::builder(Client::builder("mail.example.org")).max_connections(4).max_rate(10.0).build()?;
//! std::thread::scope(|scope| {
//!     let other = scope.spawn(|| pool.send(first));
//!     let results = [pool.send(second), other.join().expect("sending does not panic")];
//!     println!("{} were accepted", results.iter().filter(|result| result.is_ok()).count());
//! });
//! pool.close();
//! # Ok(())
//! # }
//! ```
//!
//! # Other ways to send
//!
//! An application that takes a [`Mailer`] can be given a client, a pool, or a mailer without a connection; its unit
//! tests can pass a [`MemoryMailer`]. [`Retrying`] retries with increasing delays, and [`Failover`] tries several
//! mailers. In this example, messages that the server cannot accept now are kept in a folder and can be sent later:
//!
//! ```no_run
//! use postino::{Client, Failover, FolderMailer, Mailer, RetryPolicy, Retrying};
//!
//! # fn send(mail: &dyn postino::Mail) -> Result<(), postino::Error> {
//! let server = Client::builder("mail.example.org").credentials("user", "secret");
//! let outbox = FolderMailer::new("/var/lib/shop/outbox");
//! let retrying = Retrying::new(server, RetryPolicy::default().attempts(3));
//! let mut mailer = Failover::new([Box::new(retrying) as Box<dyn Mailer>, Box::new(outbox)]);
//! mailer.send(mail)?.require_all()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Per-message options
//!
//! MAIL and RCPT options are set on the [`Envelope`]: delivery reports (DSN), REQUIRETLS, a priority, a delivery
//! time, and any other option as text. See [`MailOption`] and [`RcptOption`]. If the server does not offer an option,
//! sending fails with [`Error::Unsupported`] before MAIL; options given as text are not checked. SIZE, 8BITMIME,
//! SMTPUTF8, PIPELINING and LIMITS are used automatically.
//!
//! # Command by command
//!
//! A [`Client`] can send each command individually: EHLO, MAIL, RCPT, DATA, RSET, NOOP, VRFY, EXPN, HELP, STARTTLS,
//! each login mechanism, and [any other](Client::command).
//!
//! ```no_run
//! use std::time::Duration;
//!
//! # let mut client = postino::Client::builder("mail.example.org").connect()?;
//! client.mail("alice@example.org", &["BODY=8BITMIME"])?;
//! client.rcpt("bob@example.net", &[])?;
//! client.next_call_deadline(Duration::from_secs(300)).data("Subject: Grüße\r\n\r\nHello, Bob!\r\n")?;
//! println!("{}", client.help("")?.text());
//! # Ok::<(), postino::Error>(())
//! ```
//!
//! # When something goes wrong
//!
//! ```no_run
//! use postino::Retry;
//!
//! # let mail = postino::Raw::bytes(postino::Envelope::new("", ["b@c"])?, "");
//! match postino::send("smtp://mail.example.org", &mail) {
//!     Ok(delivery) => println!("{delivery}"),
//!     Err(e) => match e.retry() {
//!         Retry::MayDuplicate => println!("it may have arrived: ask before you send it again ({e})"),
//!         Retry::Now | Retry::Later => println!("try again: {e}"),
//!         _ => println!("give up: {e}"),
//!     },
//! }
//! # Ok::<(), postino::Error>(())
//! ```
//!
//! The text of an [`Error`] names the step, the recipients, the server's [`Reply`] and the cause, for instance
//! `nouser@example.net refused: 550 5.1.1 no such user here (retrying will not help)`. `{:?}` prints the same text.
//!
//! An [`Error::Transaction`] contains the outcome for each recipient: refused, not sent, or in doubt.
//! [`Delivery::retry_envelope`] returns an envelope for the recipients that can safely be retried, and
//! [`Delivery::timings`] shows how long each phase took.
//!
//! # Other connections
//!
//! - A Unix socket: [`Client::unix`], `smtp+unix:/path`. On Windows, connecting to one fails with [`Error::Config`].
//! - LMTP: [`Builder::lmtp`], `lmtp://host`, `lmtp+unix:/path`.
//! - Fixed addresses instead of a name lookup: [`Builder::addresses`]. A fixed local address: [`Builder::bind`].
//! - A custom connection, optionally with TLS over it: [`Builder::connect_over`] takes a socket, a custom
//!   [`Transport`], or any `Read + Write` type wrapped in [`NoTimeouts`].
//! - A proxy, SOCKS5 or HTTP CONNECT: [`Builder::proxy`], `smtp://host?proxy=socks5://proxy:1080`.
//!
//! If a host has several addresses, they are tried as RFC 8305 describes: IPv6 and IPv4 alternate, and the next address
//! is tried when the previous one has failed or has not answered within 250 ms. [`Client::reconnect`] makes a new
//! connection with the same settings. A [`StopHandle`] lets another thread stop a client, whatever the client is
//! waiting for.
//!
//! # Security
//!
//! - STARTTLS is used if the server offers it ([`Security::Auto`]). With credentials, TLS is required, except over a
//!   [local](Security) connection. There, STARTTLS is used only if there are credentials and the server offers it.
//! - TLS 1.2 or newer is required ([`Builder::min_tls_version`]). Certificates must match the host's name, and are
//!   verified against your own CAs and those that the system trusts ([`Builder::ca_certificate`],
//!   [`Builder::system_roots`]), or only compared with a pin ([`Builder::pinned_certificate`]). [`Error::Certificate`]
//!   says what is wrong with a certificate. A failed handshake is an error: there is no fallback to plain text.
//! - Methods that allow invalid certificates or credentials in plain text have `danger` in their names. No URL can
//!   enable these settings.
//! - Text in an address, a name or a message can never become a command.
//! - All data from the server is limited in size, and every wait has a time limit: by default 60 seconds, or 10 minutes
//!   for the reply to the end of a message. See [`Builder::timeout`] and [`Builder::deadline`].
//! - Passwords and tokens never appear in log lines, `Debug` output or errors, even if the server repeats them in its
//!   replies during the login.
//! - A login uses the strongest mechanism that both sides support. If the password is refused, one other mechanism is
//!   tried. Falling back to PLAIN or LOGIN from a mechanism that hides the password needs TLS or a local connection
//!   ([`Builder::credentials`]).
//!
//! A client certificate identifies the client to the server:
//!
//! ```no_run
//! use postino::{Client, Security};
//! use std::fs::read;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder("mail.example.org")
//!     .security(Security::StartTls)
//!     .ca_certificate(read("our-ca.pem")?)
//!     .system_roots(false)
//!     .client_certificate(read("me.pem")?, read("me.key")?)
//!     .external("")
//!     .connect()?;
//! # Ok(())
//! # }
//! ```
//!
//! Preparing TLS takes about 50 ms with OpenSSL, because native-tls reads all CAs twice. This is done once for all
//! clones of a [`Builder`], when one of them first needs TLS. With the environment variables `SSL_CERT_FILE=/dev/null`
//! and `SSL_CERT_DIR=/etc/ssl/certs`, OpenSSL reads only the CAs that it needs, which takes a few milliseconds. With
//! rustls ([`TlsBackend`]), preparing TLS takes a few milliseconds too, and the clones of a builder share the sessions
//! that can be resumed.
//!
//! # Logging
//!
//! Log lines go through the [`log`](https://docs.rs/log) crate, with the target `postino`. The `warn` level is used for
//! possible problems, such as lines of more than 998 octets, a build without TLS, and logins without TLS that
//! [`Builder::danger_plaintext_credentials`] allows. The `debug` level shows connecting, preparing TLS, closing, and
//! the dialogue line by line (`C:`, `S:`). Secrets are masked, and only the size of a message's content is shown. Each
//! line about a connection begins with the number of that connection in this process ([`Client::connection_number`]):
//!
//! ```text
//! DEBUG postino: #7 connecting to mail.example.org:25
//! DEBUG postino: #7 connected to [2001:db8::1]:25
//! DEBUG postino: #7 S: 220 mail.example.org ESMTP
//! DEBUG postino: #7 C: EHLO client.example.org
//! ```
//!
//! # Metrics and tracing
//!
//! [`Builder::observer`] sets a function that is called for each event of a connection or message: connected, secured,
//! logged in, failed to connect, accepted, refused, not sent, in doubt, retried or closed. Each event has a duration.
//! [`Builder::verify`] checks a server without sending a message, and returns a report.
//!
//! # Features
//!
//! All features are additive.
//!
//! | feature | adds |
//! |---|---|
//! | `native-tls` (default) | TLS with the system's library; with neither this feature nor `rustls`, only plain text works, and requesting TLS is an error |
//! | `rustls` | TLS with rustls, which needs no OpenSSL if `native-tls` is off; with both features, [`Builder::tls_backend`] selects one |
//! | `vendored` | an OpenSSL that is built from source and linked statically |
//! | `async` | [`aio`](#async) |
//! | `sasl` | logins with SCRAM and CRAM-MD5, which do not send the password; without this feature, requesting one of them is an error |
//! | `idna` | non-ASCII host names; if the server does not offer SMTPUTF8, non-ASCII domains in envelopes and in the headers of composed messages become A-labels (`xn--…`). Without this feature, both cases are errors |
//! | `dkim` | DKIM signatures (`message::Dkim`) |
//! | `lettre-0_11`, `mail-builder-2` | sending messages built with these crates |
//! | `serde` | serialized forms of addresses, envelopes, results and settings (`Settings`) |
//! | `testing` | `testing`, an in-process server for tests |
//! | `testing-tls` | TLS (rustls) for the server of `testing`, which generates its own certificate; enables `testing` |
//!
//! <a id="async"></a>`aio` has the same names as the root: `postino::aio::Client` is `postino::Client` with `async fn`.
//! Its documentation is included if the feature is enabled. Before you wrap a send in a timeout of your runtime, read
//! [Deadlines and cancelling](guide::deadlines).
//!
//! # Overview
//!
//! | items | purpose |
//! |---|---|
//! | [`send`] | sends one message in one call |
//! | [`Builder`], [`Security`], [`TlsBackend`], [`TlsVersion`], [`JoinPolicy`] | how to reach a server and how to talk to it |
//! | [`Client`] | a connection: sends messages and single commands |
//! | [`Batch`], [`Pool`], [`PoolBuilder`], [`Pooled`] | many messages over one connection, or over several |
//! | [`Mailer`], [`Retrying`], [`RetryPolicy`], [`RetryWait`], [`Failover`] | a trait for everything that can send; retrying, and failover between servers |
//! | [`MemoryMailer`], [`FolderMailer`], [`ProgramMailer`], [`StoredMail`], [`StoredFile`] | mailers without a connection: for unit tests, for an outbox in a folder, and for a `sendmail` program |
//! | [`Transport`], [`NoTimeouts`], [`StopHandle`] | custom connections, and stopping a client |
//! | [`Address`], [`Envelope`], [`MailOption`], [`RcptOption`], [`Ret`], [`OnLate`] | the sender, the recipients, and per-message options |
//! | [`message`] | what can be sent: a composed [`Message`], a [`Raw`] message, or any type that implements [`Mail`]; envelopes from headers |
//! | [`Delivery`], [`Recipient`], [`Outcome`], [`Timings`] | the outcome for each recipient |
//! | [`Error`], [`Phase`], [`Retry`] | why sending failed, and whether to try again |
//! | [`Event`], [`EventKind`] | what happens to connections and messages, for metrics and tracing |
//! | [`ServerReport`], [`TlsFacts`], [`CertificateFacts`], [`Provider`] | what a server offers, and the settings of well-known services |
//! | [`Reply`], [`EnhancedCode`], [`Capabilities`] | the server's replies |
//! | [`auth`] | credentials for [`Client::auth`], and custom login mechanisms |
//! | [`guide`] | a page for each task, and migration tables for other libraries |
//! | `aio`, `testing` | the async client; a server for tests (with the `async` and `testing` features) |
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod blocking;

#[cfg(feature = "async")]
#[cfg_attr(docsrs, doc(cfg(feature = "async")))]
pub mod aio;

mod a_label;
mod address;
pub mod auth;
mod config;
mod delivery;
mod envelope;
mod error;
mod event;
pub mod message;
mod pool_queue;
#[doc(hidden)] // not public: see the top of that file
pub mod proto;
mod race;
mod report;
mod retry_policy;
mod search;
#[cfg(feature = "serde")]
mod serialized;
mod split;
mod sys;
mod time;
mod tls;
mod transports;

#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;

#[cfg(feature = "serde")]
#[cfg_attr(docsrs, doc(cfg(feature = "serde")))]
pub use self::serialized::Settings;
pub use self::{
    address::Address,
    blocking::{
        Batch, Builder, Client, Failover, Mailer, NoTimeouts, Pool, PoolBuilder, Pooled, Retrying,
        StopHandle, Transport,
    },
    config::{JoinPolicy, Provider, Security},
    delivery::{Delivery, Outcome, Recipient, Timings},
    envelope::Envelope,
    error::{Error, Phase, Retry},
    event::{Event, EventKind},
    message::{Mail, Message, Raw},
    proto::{
        capabilities::Capabilities,
        options::{MailOption, OnLate, RcptOption, Ret},
        reply::{EnhancedCode, Reply},
    },
    report::{ServerReport, TlsFacts},
    retry_policy::{RetryPolicy, RetryWait},
    tls::{CertificateFacts, TlsBackend, TlsVersion},
    transports::{FolderMailer, MemoryMailer, ProgramMailer, StoredFile, StoredMail},
};

/// Sends one message over a new connection: connects to the server that the [URL](Client::from_url) names, logs in if
/// the URL has credentials, sends the message, and sends QUIT.
///
/// `Ok` means that the message was accepted for at least one recipient. Call [`Delivery::require_all`] to turn a
/// refused recipient into an error:
///
/// ```no_run
/// use postino::{Envelope, Raw};
///
/// let envelope = Envelope::new("alice@example.org", ["bob@example.net", "carol@example.com"])?;
/// let mail = Raw::bytes(envelope, "Subject: Hi\r\n\r\nHello!\r\n");
/// postino::send("smtp://mail.example.org", &mail)?.require_all()?;
/// # Ok::<(), postino::Error>(())
/// ```
///
/// # Errors
///
/// The same as for [`Client::from_url`] and [`Builder::send`].
pub fn send(url: &str, mail: &dyn Mail) -> Result<Delivery, Error> {
    Client::from_url(url)?.send(mail)
}

// Pages without items, which exist only in the documentation.
#[cfg(any(doc, doctest))]
pub mod guide;

/// Checks that the examples in the README compile.
#[cfg(all(doctest, feature = "async", feature = "testing"))]
#[doc = include_str!("../README.md")]
struct Readme;
