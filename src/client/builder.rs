//! Settings, and what begins with them: a connection, or a message with a connection of its own.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{maybe_async, send::Freshness, session::Client, stop::StopHandle, token::Tokens};
use crate::{
    Delivery, Error, JoinPolicy, Mail, Security,
    config::{Config, Learnt, Login, Timeouts, later},
    proto::{Credentials, Mechanism},
};

/// How to reach a server, and how to speak with it. Clones share one TLS connector.
///
/// It begins with [`Client::builder`], [`Client::from_url`] or [`Client::unix`], and may be used for any number of
/// connections. Nothing is checked until it is used (but for what stands in a URL): [`connect`](Builder::connect) and
/// [`send`](Builder::send) refuse what cannot be, before a connection is made.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    pub(super) config: Config,
    /// Where tokens come from, if the login of the config wants that.
    tokens: Option<Tokens>,
    /// What ends its clients from outside, if they share it.
    pub(in super::super) stop_handle: Option<StopHandle>,
}

impl Builder {
    fn login(mut self, login: Login) -> Builder {
        (self.config.login, self.tokens) = (Some(login), None);
        self
    }

    /// When a call that begins now has to end.
    pub(super) fn ends(&self) -> Option<Instant> {
        self.config.deadline.map(|limit| later(Instant::now(), limit))
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        self.config.check()?.config.tls.read()
    }

    /// For `oauth_token_with`, whose callback is of another kind in each world.
    pub(in super::super) fn token_from(self, user: String, tokens: Tokens) -> Builder {
        Builder { tokens: Some(tokens), ..self.login(Login::TokenLater(user)) }
    }

    pub(super) fn new(config: Config) -> Builder {
        Builder { config, tokens: None, stop_handle: None }
    }

    /// Not connected yet, and its deadline runs.
    pub(super) fn client(&self) -> Result<Client, Error> {
        let stop_handle = self.stop_handle.clone().unwrap_or_default();
        let mut client = Client::new(self.config.check()?, self.tokens.clone(), stop_handle);
        client.begin();
        Ok(client)
    }

    /// The port. Defaults to 465 with [`Security::Implicit`], to 587 with [`Security::StartTls`], or with credentials but
    /// for [`Security::Plaintext`], to 25 otherwise; with [`lmtp`](Builder::lmtp) to 24. A Unix socket has none.
    pub fn port(mut self, port: u16) -> Builder {
        self.config.port = Some(port);
        self.config.learnt = Learnt::default();
        self
    }

    /// Where to connect to, in this order, instead of a name lookup. They have ports of their own
    /// ([`port`](Builder::port) besides is an error); the host stays the name to verify. Defaults to what the lookup
    /// gives, IPv6 and IPv4 in turns (RFC 8305 §4).
    pub fn addresses(mut self, addresses: impl IntoIterator<Item = SocketAddr>) -> Builder {
        self.config.addresses = Some(addresses.into_iter().collect());
        self
    }

    /// The local address to connect from, such as `(Ipv4Addr::new(192, 0, 2, 1), 0)`; port 0 is any. Only servers of
    /// its family can be reached then. Defaults to what the system chooses.
    pub fn bind(mut self, address: impl Into<SocketAddr>) -> Builder {
        self.config.bind = Some(address.into());
        self
    }

    /// Whether to speak LMTP (RFC 2033), which says LHLO and answers for each recipient behind the message. Never on
    /// port 25. Defaults to false, but with the URLs `lmtp:` and `lmtp+unix:`.
    pub fn lmtp(mut self, wanted: bool) -> Builder {
        self.config.lmtp = wanted;
        self
    }

    /// When the connection is secured by TLS, and how. Defaults to [`Security::Auto`].
    pub fn security(mut self, security: Security) -> Builder {
        self.config.security = security;
        self
    }

    /// Logs in after connecting, by the strongest mechanism that both sides have: SCRAM-SHA-256-PLUS, SCRAM-SHA-256,
    /// SCRAM-SHA-1, CRAM-MD5 (these with the feature `sasl`), PLAIN, LOGIN. Text is sent as UTF-8, octets as they are;
    /// nothing is normalised (no SASLprep). Defaults to no login.
    ///
    /// After a refusal another mechanism is tried. At most two exchanges are refused per connection, so that a wrong password
    /// does not lock the account: after a mechanism that hides the password the second is PLAIN, or else LOGIN. These are
    /// tried only over TLS or a local connection, unless nothing else is offered. Replies that say nothing about the
    /// password do not count: 504, 534 and 4yz. A [`Pool`](super::Pool) also waits
    /// [for a while](super::PoolBuilder::login_pause) before it logs in again.
    ///
    /// There is one kind of login at a time: this setter, [`oauth_token`](Builder::oauth_token),
    /// [`oauth_token_with`](Builder::oauth_token_with), [`external`](Builder::external),
    /// [`anonymous`](Builder::anonymous) and [`auth_mechanism`](Builder::auth_mechanism) replace each other.
    pub fn credentials(self, user: impl AsRef<[u8]>, password: impl AsRef<[u8]>) -> Builder {
        self.login(Login::Password(user.as_ref().into(), password.as_ref().into()))
    }

    /// Logs in after connecting with an OAuth access token, by OAUTHBEARER or else XOAUTH2. Defaults to no login.
    pub fn oauth_token(self, user: impl Into<String>, token: impl Into<String>) -> Builder {
        self.login(Login::Token(user.into(), token.into()))
    }

    /// Logs in after connecting by EXTERNAL: the server knows us from elsewhere, mostly from a TLS client certificate.
    /// The authorization is whom to act for; empty for oneself. Defaults to no login.
    pub fn external(self, authorization: impl Into<String>) -> Builder {
        self.login(Login::External(authorization.into()))
    }

    /// Logs in after connecting by ANONYMOUS, with a trace of who it is, such as a mail address; it may be empty.
    /// Defaults to no login.
    pub fn anonymous(self, trace: impl Into<String>) -> Builder {
        self.login(Login::Anonymous(trace.into()))
    }

    /// Logs in after connecting by a mechanism of your own; each login begins with a clone of it. Defaults to no
    /// login.
    pub fn auth_mechanism(self, mechanism: impl Mechanism + Clone + 'static) -> Builder {
        self.login(Login::Own(Credentials::custom(mechanism).map_err(|e| e.to_string())))
    }

    /// The mechanisms to log in by, in this order; no other is tried. At most two of them are
    /// [refused](Builder::credentials) per connection. Defaults to all that go with the login, the strongest first.
    pub fn auth_mechanisms(mut self, names: impl IntoIterator<Item = impl AsRef<str>>) -> Builder {
        let names = names.into_iter().map(|name| name.as_ref().to_ascii_uppercase());
        self.config.auth_mechanisms = Some(names.collect());
        self
    }

    /// The most iterations of its hash that a server may demand in SCRAM: each costs time. Fewer than 4,096 are never
    /// accepted. Defaults to 100,000.
    pub fn max_scram_iterations(mut self, iterations: u32) -> Builder {
        self.config.max_scram_iterations = iterations;
        self
    }

    /// Whether to send the credentials without TLS, readable for everybody on the way. Each such login is logged at `warn`.
    /// Defaults to false: without TLS they are sent over [local](Security) connections only.
    pub fn danger_plaintext_credentials(mut self, allowed: bool) -> Builder {
        self.config.danger_plaintext_credentials = allowed;
        self
    }

    /// The name of this client in EHLO: a domain, or an address literal such as `[192.0.2.1]`, which may be given without
    /// its brackets. Defaults to the machine's name if that is a full domain name, and not `localhost.localdomain` or the
    /// like. Otherwise it is the address literal of the connection's local address (RFC 5321 §4.1.4), or `[127.0.0.1]` if
    /// there is none. The machine's name is looked up for each connection.
    pub fn hello_name(mut self, name: impl Into<String>) -> Builder {
        self.config.hello_name = Some(name.into());
        self
    }

    /// The limit of every wait but the one for the final reply: lookup and connecting together, the TLS handshake, the
    /// greeting, each reply, each block of content (64 KiB) on its way. Each is measured by a clock, whatever drips
    /// in. It replaces what was set for one of them before; `Duration::MAX` is no limit. Defaults to 60 seconds.
    pub fn timeout(mut self, limit: Duration) -> Builder {
        self.config.timeouts = Timeouts::all_but_the_final(limit, self.config.timeouts.final_reply);
        self
    }

    /// The limit of the name lookup and connecting together. Defaults to 60 seconds.
    pub fn connect_timeout(mut self, limit: Duration) -> Builder {
        self.config.timeouts.connect = limit;
        self
    }

    /// The limit of a TLS handshake. Defaults to 60 seconds.
    pub fn tls_timeout(mut self, limit: Duration) -> Builder {
        self.config.timeouts.tls = limit;
        self
    }

    /// The limit of the wait for the greeting. Defaults to 60 seconds.
    pub fn greeting_timeout(mut self, limit: Duration) -> Builder {
        self.config.timeouts.greeting = limit;
        self
    }

    /// The limit of the wait for each reply to a command. Under pipelining it begins anew with each reply. Defaults to
    /// 60 seconds.
    pub fn command_timeout(mut self, limit: Duration) -> Builder {
        self.config.timeouts.command = limit;
        self
    }

    /// The limit within which each block of content (64 KiB) has to leave. Defaults to 60 seconds.
    pub fn block_timeout(mut self, limit: Duration) -> Builder {
        self.config.timeouts.block = limit;
        self
    }

    /// The limit of the wait for the reply to the end of a message: servers filter and store before they answer, and
    /// who gives up too early doubles mail. Defaults to 10 minutes (RFC 5321 §4.5.3.2.6).
    pub fn final_reply_timeout(mut self, limit: Duration) -> Builder {
        self.config.timeouts.final_reply = limit;
        self
    }

    /// The limit of each call as a whole, whatever it waits for: `connect` with the name lookup, TLS and login, each
    /// `send`. For [`send`](Builder::send) of the builder it covers all of it. Defaults to none.
    pub fn deadline(mut self, limit: Duration) -> Builder {
        self.config.deadline = Some(limit);
        self
    }

    /// Whether to send commands without waiting for the replies to earlier ones, where the server offers PIPELINING
    /// (RFC 2920). Defaults to true.
    ///
    /// If a server refuses pipelined commands as unknown or out of place (500 to 503), they are sent once more, one at a
    /// time. If the refused command is accepted then, this builder and its clones no longer pipeline.
    ///
    /// Over a connection whose acknowledgements the client cannot speed up (`connect_over`, or a system other than Linux
    /// and Android), it stops pipelining when the replies to three flights in a row have arrived so late, one by one, that
    /// single commands would have been faster.
    pub fn pipelining(mut self, allowed: bool) -> Builder {
        self.config.pipelining = allowed;
        self
    }

    /// Whether the next envelope of a [`Batch`](super::Batch), or QUIT, is sent together with the end of a message
    /// (RFC 2920 §3.1). Clones of this builder share what a trial has shown. Defaults to [`JoinPolicy::Automatic`]: only
    /// where the server offers PIPELINING and CHUNKING, and not BURL, and not over LMTP.
    ///
    /// A trial finds servers that discard or refuse what follows the end of a message. It cannot notice a server that
    /// stores what follows in the message: see [`JoinPolicy`] before you choose [`JoinPolicy::Always`].
    pub fn join_envelopes(mut self, policy: JoinPolicy) -> Builder {
        self.config.joining = policy;
        self.config.learnt = Learnt::default();
        self
    }

    /// Whether to send content by BDAT when the server offers CHUNKING (RFC 3030): a message needs no round trip of
    /// its own then. Some servers offer it and lose or stall mail. Defaults to false.
    pub fn chunking(mut self, wanted: bool) -> Builder {
        self.config.chunking = wanted;
        self
    }

    /// Whether one refused recipient keeps the message from all of them. Costs a round trip. Defaults to false: the
    /// others get it.
    pub fn all_or_nothing(mut self, wanted: bool) -> Builder {
        self.config.all_or_nothing = wanted;
        self
    }

    /// Takes this capability (`PIPELINING`, `SIZE`, `8BITMIME` …) for not offered, whatever the server says: for those
    /// that offer what they cannot do. Without regard to case; may be called more than once.
    /// [`hello_reply`](Client::hello_reply) still shows what the server has said. Defaults to none.
    pub fn ignore_capability(mut self, keyword: impl Into<String>) -> Builder {
        self.config.ignored_capabilities.push(keyword.into());
        self
    }
}

#[maybe_async]
impl Builder {
    /// Connects, says EHLO, secures the connection, and logs in if there are credentials. If the host has more addresses
    /// than one, the next is tried when one has failed or has not answered for 250 ms (RFC 8305 §5), and the first to
    /// answer is taken.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] before anything is done (but see [`ca_certificate`](Builder::ca_certificate)); then whatever
    /// the name lookup, the connection, TLS, the server and the login can fail of. The connection is closed then.
    pub async fn connect(&self) -> Result<Client, Error> {
        self.connect_until(self.ends()).await
    }

    pub(super) async fn connect_until(&self, deadline: Option<Instant>) -> Result<Client, Error> {
        let mut client = self.client()?;
        client.deadline = deadline;
        client.open().await?;
        Ok(client)
    }

    /// Sends one message over a connection of its own. QUIT costs no time: its reply is not waited for, and where
    /// [`joining`](Builder::join_envelopes) allows it QUIT leaves with the end of the message.
    ///
    /// # Errors
    ///
    /// Those of [`connect`](Builder::connect) and of [`Client::send`].
    pub async fn send(&self, mail: &dyn Mail) -> Result<Delivery, Error> {
        let mut client = self.client()?;
        let envelope = mail.envelope()?; // refused before a connection is made
        client.open().await?;
        let result = client.deliver(mail, envelope, Freshness::Last).await;
        client.part();
        result
    }
}
