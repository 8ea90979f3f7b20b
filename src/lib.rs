//! An SMTP client, blocking first.
//!
//! The crate root works over `std::net`: no runtime, no lasting thread. The feature `async` adds [`aio`](#async), the
//! same client with `async fn`. Who knows aiosmtplib may begin with [what its names are here](coming_from_aiosmtplib).
//!
//! # One call
//!
//! ```no_run
//! use postino::Message;
//!
//! let message = Message::builder()
//!     .from("Alice <alice@example.org>")
//!     .to("Bob <bob@example.net>")
//!     .subject("Grüße")
//!     .text("Hello, Bob!\n")
//!     .build()?;
//! postino::send("smtps://user:secret@mail.example.org", &message)?;
//! # Ok::<(), postino::Error>(())
//! ```
//!
//! # A session
//!
//! A message may also be an [`email_format::Email`]; its envelope comes from its headers then. [`message`] says more.
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
//! # Many messages
//!
//! [`Client::send_all`] sends them over one connection. With PIPELINING each message takes two round trips. Where the server
//! offers CHUNKING as well, the end of each message leaves together with the next envelope, so that it takes about one
//! ([`JoinPolicy`]); with [`Builder::chunking`], next to none. Each message has its own result. If the server ends the
//! session after some messages, another connection takes over ([`Client::send`]). If the connection is lost otherwise, the
//! rest stays in the iterator ([`Batch::is_lost`]). [`Client::batch`] is for messages that come one by one ([`Batch::push`]).
//!
//! ```no_run
//! # use postino::{Client, Raw};
//! # fn send(mails: Vec<Raw<'static>>) -> Result<(), postino::Error> {
//! let mut client = Client::builder("mail.example.org").connect()?;
//! for (number, result) in client.send_all(mails) {
//!     match result {
//!         Ok(delivery) => println!("{number}: {:?}", delivery.queue_id()),
//!         Err(e) => eprintln!("{number}: {e}"),
//!     }
//! }
//! # client.quit()
//! # }
//! ```
//!
//! A [`Pool`] keeps connections for many threads, up to a number and for a time, and can hold back to a rate:
//!
//! ```no_run
//! # use postino::{Client, Mail, Pool};
//! # fn send(first: &dyn Mail, second: &dyn Mail) -> Result<(), postino::Error> {
//! let pool = Pool::builder(Client::builder("mail.example.org")).max_connections(4).max_rate(10.0).build()?;
//! std::thread::scope(|scope| {
//!     let other = scope.spawn(|| pool.send(first));
//!     let results = [pool.send(second), other.join().expect("it does not panic")];
//!     println!("{} were accepted", results.iter().filter(|result| result.is_ok()).count());
//! });
//! pool.close();
//! # Ok(())
//! # }
//! ```
//!
//! # What the server should do besides
//!
//! Options of MAIL and RCPT stand on the [`Envelope`]: reports of delivery (DSN), REQUIRETLS, a priority, a time, any other
//! as text. See [`MailOption`] and [`RcptOption`]. What the server does not offer is [`Error::Unsupported`] before MAIL. SIZE,
//! 8BITMIME, SMTPUTF8, PIPELINING and LIMITS are used by themselves.
//!
//! # Command by command
//!
//! A [`Client`] also says each command by itself: EHLO, MAIL, RCPT, DATA, RSET, NOOP, VRFY, EXPN, HELP, STARTTLS, each
//! login mechanism, and [any other](Client::command).
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
//!     Ok(delivery) => println!("accepted, but for {} recipients", delivery.refused().count()),
//!     Err(e) => match e.retry() {
//!         Retry::MayDuplicate => println!("it may have arrived: ask before you send it again ({e})"),
//!         Retry::Now | Retry::Later => println!("try again: {e}"),
//!         _ => println!("it is no use: {e} ({})", e.reply().map(ToString::to_string).unwrap_or_default()),
//!     },
//! }
//! # Ok::<(), postino::Error>(())
//! ```
//!
//! [`Error`] says at which step it happened and keeps the server's whole [`Reply`]; an [`Error::Transaction`] tells
//! for every recipient whether the message was accepted, refused, not sent, or is in doubt. [`Delivery::retry_envelope`] is the
//! envelope of those for whom it can be sent again without doubling it, and [`Delivery::timings`] tells where the time went.
//!
//! # Other ways to a server
//!
//! A Unix socket ([`Client::unix`], `smtp+unix:/path`), LMTP ([`Builder::lmtp`], `lmtp://host`, `lmtp+unix:/path`), addresses
//! instead of a lookup ([`Builder::addresses`]), a local address ([`Builder::bind`]), or a connection of your own with TLS
//! on top ([`Builder::connect_over`]): a socket, a [`Transport`] that you write, any `Read` and `Write` by [`NoTimeouts`].
//! `examples/socks5.rs` goes through a proxy.
//!
//! A host with several addresses is connected to as RFC 8305 says: IPv6 and IPv4 in turns, the next one when one has
//! failed or has not answered for 250 ms. [`Client::reconnect`] connects again with the same settings, and a [`StopHandle`]
//! ends a client from another thread, whatever it waits for.
//!
//! # Security
//!
//! - STARTTLS is used when the server offers it ([`Security::Auto`]); with credentials TLS is required. Over a
//!   [local](Security) connection: no TLS without credentials, STARTTLS when offered with them.
//! - TLS is 1.2 or newer ([`Builder::min_tls_version`]). Certificates are verified, for the host's name, against the
//!   CAs that the system trusts and those of your own ([`Builder::ca_certificate`], [`Builder::system_roots`]); what is
//!   wrong with one stands in [`Error::Certificate`]. A handshake that fails is an error, never a way to plain text.
//! - What accepts other certificates, or sends credentials in clear, has `danger` in its name, and no URL can do it.
//! - Nothing an address, a name or a message holds can become a command.
//! - Everything a server can make grow has a limit, and so has every wait (60 seconds; 10 minutes for the reply to the
//!   end of a message; see [`Builder::timeout`] and [`Builder::deadline`]).
//! - Passwords and tokens are in no log line, no `Debug` and no error, also if the server repeats them in its
//!   answers to the login.
//! - A login uses the strongest mechanism that both sides have. After a refusal one other is tried, but none that shows
//!   the password where others can listen ([`Builder::credentials`]).
//!
//! A server may know us by a certificate of ours:
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
//! Building what a TLS handshake needs takes some 50 ms, for the CAs are read: it is done once for all clones of a
//! [`Builder`], when the first of them needs it.
//!
//! # Logging
//!
//! By [`log`](https://docs.rs/log), with the target `postino`. `warn`: what a server may take amiss, such as lines of
//! more than 998 octets, and logins without TLS that [`Builder::danger_plaintext_credentials`] allows. `debug`: the dialogue, line by line, as `C:` and `S:`, with secrets masked and content only
//! counted; what is connected to, and why it is closed; that a TLS connector is built, and from what. Each line of a
//! connection begins with its number in this process, which [`Client::connection_number`] tells:
//!
//! ```text
//! DEBUG postino: #7 connecting to mail.example.org:25
//! DEBUG postino: #7 connected to [2001:db8::1]:25
//! DEBUG postino: #7 S: 220 mail.example.org ESMTP
//! DEBUG postino: #7 C: EHLO client.example.org
//! ```
//!
//! # Features
//!
//! All of them only add.
//!
//! | | |
//! |---|---|
//! | `native-tls` (default) | TLS by the system's library; without it, plain text works, and asking for TLS is an error |
//! | `vendored` | builds OpenSSL and links it statically |
//! | `async` | [`aio`](#async) |
//! | `sasl` | logins by SCRAM and CRAM-MD5, which keep the password from the wire; without it, asking for one is an error |
//! | `idna` | host names beyond ASCII, and such domains of addresses (in envelopes and in the headers of composed messages) where the server has no SMTPUTF8, become A-labels (`xn--…`); without it, they are an error |
//! | `dkim` | signatures, `message::Dkim` |
//! | `lettre-0_11`, `mail-builder-2` | the messages of these builders can be sent |
//! | `testing` | `testing`, a server in the process, for tests |
//!
//! <a id="async"></a>`aio` has the same names as the root: `postino::aio::Client` is `postino::Client`, awaited. Its
//! page says more where the feature is on.
//!
//! # The rooms
//!
//! | | |
//! |---|---|
//! | [`send`] | one message, one call |
//! | [`Builder`], [`Security`], [`TlsVersion`], [`JoinPolicy`] | how to reach a server, and how to speak with it |
//! | [`Client`] | a connection: sends, and says single commands |
//! | [`Batch`], [`Pool`], [`PoolBuilder`], [`Pooled`] | many messages over one connection, and over many |
//! | [`Transport`], [`NoTimeouts`], [`StopHandle`] | connections of your own, and their end |
//! | [`Address`], [`Envelope`], [`MailOption`], [`RcptOption`], [`Ret`], [`OnLate`] | who it is from and for, and what the server should do with it |
//! | [`message`] | what can be sent: a composed [`Message`], [`Raw`] ones, the trait [`Mail`], envelopes from headers |
//! | [`Delivery`], [`Recipient`], [`Outcome`], [`Timings`] | what became of it |
//! | [`Error`], [`Phase`], [`Retry`] | why not, and whether to try again |
//! | [`Reply`], [`EnhancedCode`], [`Capabilities`] | what the server says |
//! | [`proto`] | SMTP without I/O, for who brings the connection |
//! | [`coming_from_aiosmtplib`] | what the names of aiosmtplib are here |
//! | `aio`, `testing` | the same client awaited; a server for tests: with their features |
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(unix))]
compile_error!("postino works on Unix systems so far");

mod blocking;

#[cfg(feature = "async")]
#[cfg_attr(docsrs, doc(cfg(feature = "async")))]
pub mod aio;

mod a_label;
mod address;
mod attempts;
mod config;
mod deadline;
mod delivery;
mod envelope;
mod error;
pub mod message;
mod parts;
pub mod proto;
mod queue;
mod search;
mod sys;
mod tls;

#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;

pub use self::{
    address::Address,
    blocking::{Batch, Builder, Client, NoTimeouts, Pool, PoolBuilder, Pooled, StopHandle, Transport},
    config::{JoinPolicy, Security},
    delivery::{Delivery, Outcome, Recipient, Timings},
    envelope::Envelope,
    error::{Error, Phase, Retry},
    message::{Mail, Message, Raw},
    proto::{
        capabilities::Capabilities,
        options::{MailOption, OnLate, RcptOption, Ret},
        reply::{EnhancedCode, Reply},
    },
    tls::TlsVersion,
};

/// Sends one message over a connection of its own: connects to the server of the [URL](Client::from_url), logs in if it has
/// credentials, sends, and says QUIT.
///
/// # Errors
///
/// Those of [`Client::from_url`] and [`Builder::send`].
pub fn send(url: &str, mail: &dyn Mail) -> Result<Delivery, Error> {
    Client::from_url(url)?.send(mail)
}

// A page, without items, and only there where there are pages.
#[cfg(any(doc, doctest))]
#[doc = include_str!("coming_from_aiosmtplib.md")]
pub mod coming_from_aiosmtplib {}

/// The examples in README compile.
#[cfg(all(doctest, feature = "async"))]
#[doc = include_str!("../README.md")]
struct Readme;
