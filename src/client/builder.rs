//! The builder: settings, and methods that use them to connect or to send a single message.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    call::{Call, Kind},
    maybe_async,
    origin::{Maker, Origin},
    secret::Secrets,
    session::Client,
    stop::StopHandle,
    stream::Stream,
};
use crate::{
    Delivery, Error, Event, JoinPolicy, Mail, Provider, Security,
    config::{Config, Learnt, Login, Proxy, Timeouts},
    event::Observer,
    proto::{Credentials, Mechanism},
    time::later,
};

impl Client {
    /// Returns a builder for the server on the given host: a name (non-ASCII names need the `idna` feature), an IPv4
    /// address, or an IPv6 address with or without brackets.
    pub fn builder(host: impl AsRef<str>) -> Builder {
        Builder::new(Config::new(host.as_ref()))
    }

    /// Returns a builder for a server that listens on this Unix socket. Nobody else can eavesdrop on such a connection,
    /// so credentials need no TLS. TLS over a Unix socket requires [`Builder::tls_name`].
    ///
    /// On Windows, connecting fails with [`Error::Config`].
    pub fn unix(path: impl AsRef<Path>) -> Builder {
        Builder::new(Config::unix(path.as_ref()))
    }

    /// Returns a builder for the server at this URL: `smtp://host`, `smtps://user:password@host:port`, `lmtp://host`
    /// ([`Builder::lmtp`]), `smtp+unix:/path` or `lmtp+unix:/path` ([`Client::unix`]).
    ///
    /// The query `?tls=required`, `?tls=opportunistic` or `?tls=none` sets the [security](Builder::security), and
    /// `proxy=` sets a [proxy](Builder::proxy). User, password and path must be percent-encoded, and an IPv6 address
    /// must be in brackets. The URL of a Unix socket cannot contain credentials; use a setter instead.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the URL is invalid. The error text never contains a password.
    pub fn from_url(url: &str) -> Result<Builder, Error> {
        Ok(Builder::new(Config::from_url(url)?))
    }

    /// Returns a builder with the host, port and security of a well-known mail service, such as `gmail` or `sendgrid`.
    /// Case, spaces and punctuation in the name are ignored. The page [`providers`](crate::guide::providers) lists the
    /// names, and what each service expects as a login.
    #[doc = example!(provider)]
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for an unknown name. The error text lists similar names, if there are any.
    pub fn provider(name: &str) -> Result<Builder, Error> {
        Ok(Builder::new(Provider::find(name)?.config()))
    }
}

/// Settings for connections to a server. Clones share one TLS connector.
///
/// Start with [`Client::builder`], [`Client::from_url`] or [`Client::unix`], and use the builder for any number of
/// connections. Settings are checked by [`connect`](Builder::connect) and [`send`](Builder::send), before a
/// connection is made; those of a URL are checked by [`Client::from_url`].
#[doc = example!(Builder)]
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    pub(super) config: Config,
    /// The callback for the password or OAuth token, if there is one.
    secrets: Option<Secrets>,
    /// Stops the clients of this builder from another thread.
    pub(in super::super) stop_handle: Option<StopHandle>,
}

impl Builder {
    fn login(mut self, login: Login) -> Builder {
        (self.config.login, self.secrets) = (Some(login), None);
        self
    }

    /// Begins a call, whose deadline is counted from now.
    pub(super) fn begin(&self) -> Call {
        Call::new(Kind::Single, self.config.deadline.map(|limit| later(Instant::now(), limit)))
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        self.config.check()?.config.tls.read()
    }

    /// Sets a login and its callback (`credentials_with`, `oauth_token_with`), whose type differs between the clients.
    pub(in super::super) fn secret_from(self, login: Login, secrets: Secrets) -> Builder {
        Builder { secrets: Some(secrets), ..self.login(login) }
    }

    pub(crate) fn new(config: Config) -> Builder {
        Builder { config, secrets: None, stop_handle: None }
    }

    /// Creates a client that is not connected yet.
    pub(super) fn client(&self, maker: Maker) -> Result<Client, Error> {
        let (settings, secrets) = (self.config.check()?, self.secrets.clone());
        let stop_handle = self.stop_handle.clone().unwrap_or_default();
        Ok(Client::new(Origin { settings, secrets, stop_handle, maker }))
    }

    /// Sets the port. Defaults to 24 with [`lmtp`](Builder::lmtp). Otherwise, defaults to 465 with
    /// [`Security::Implicit`], 587 with [`Security::StartTls`], 587 with credentials unless [`Security::Plaintext`] is
    /// set, and 25 in all other cases. A Unix socket has no port.
    pub fn port(mut self, port: u16) -> Builder {
        self.config.port = Some(port);
        self.config.learnt = Learnt::default();
        self
    }

    /// Sets the addresses to connect to, in the given order, instead of looking up the host. Each has its own port, so
    /// it is an error to set [`port`](Builder::port) as well. The host is still the name that TLS verifies. Defaults to
    /// the addresses that the lookup returns, with IPv6 and IPv4 alternating (RFC 8305 §4).
    pub fn addresses(mut self, addresses: impl IntoIterator<Item = SocketAddr>) -> Builder {
        self.config.addresses = Some(addresses.into_iter().collect());
        self
    }

    /// Sets the local address to connect from, such as `(Ipv4Addr::new(192, 0, 2, 1), 0)`; port 0 means any port.
    /// Only servers with an address of the same family can then be reached. Defaults to the system's choice.
    pub fn bind(mut self, address: impl Into<SocketAddr>) -> Builder {
        self.config.bind = Some(address.into());
        self
    }

    /// Sets a proxy to connect through: `socks5://host:1080` (RFC 1928), or `http://host:port` (with a CONNECT request,
    /// RFC 9110 §9.3.6). A user name and password may precede the host, both percent-encoded
    /// (`socks5://user:password@host`). The SOCKS5 port defaults to 1080. The scheme `socks5h` means the same as
    /// `socks5`. Environment variables are not consulted. Defaults to no proxy.
    ///
    /// The proxy looks up the host. TLS is established with the server, through the proxy, and verifies the name of the
    /// server. The connection to the proxy itself is not encrypted, so the proxy's password can be read on that path,
    /// and the connection never counts as [local](Security). [`Client::peer_addr`] returns the address of the proxy.
    /// The time limit for connecting includes the exchange with the proxy.
    ///
    /// A proxy cannot be combined with [`addresses`](Builder::addresses), a Unix socket, or an IPv6 address with a
    /// zone. `connect_over` ignores the proxy. In a URL, the proxy is a parameter:
    /// `smtp://mail.example.org?proxy=socks5://127.0.0.1:1080`. In that parameter, `%` and `&` must be written as `%25`
    /// and `%26`.
    pub fn proxy(mut self, url: impl AsRef<str>) -> Builder {
        self.config.proxy = Some(Proxy::from_url(url.as_ref()).map_err(|e| e.to_string()));
        self
    }

    /// Sets whether to use LMTP (RFC 2033): the client sends LHLO, and the server replies to a message once per
    /// recipient. LMTP on port 25 is an error. Defaults to true for `lmtp:` and `lmtp+unix:` URLs, and to false
    /// otherwise.
    pub fn lmtp(mut self, wanted: bool) -> Builder {
        self.config.lmtp = wanted;
        self
    }

    /// Sets when and how TLS secures the connection. Defaults to [`Security::Auto`].
    pub fn security(mut self, security: Security) -> Builder {
        self.config.security = security;
        self
    }

    /// Logs in after connecting, with the strongest mechanism that both sides support, in this order:
    /// SCRAM-SHA-256-PLUS, SCRAM-SHA-256, SCRAM-SHA-1, CRAM-MD5 (these four need the `sasl` feature), PLAIN, LOGIN.
    /// Text is sent as UTF-8, and octets are sent unchanged, without normalisation (no SASLprep). Defaults to no login.
    ///
    /// If a mechanism is refused, another is tried. The client stops after two refused exchanges per connection, so
    /// that a wrong password does not lock the account. If the first mechanism hid the password, the second is PLAIN,
    /// or LOGIN if PLAIN is not offered, unless [`auth_mechanisms`](Builder::auth_mechanisms) is set. This fallback
    /// needs TLS or a local connection, even with
    /// [`danger_plaintext_credentials`](Builder::danger_plaintext_credentials). The replies 504, 534 and 4yz do not
    /// count towards the limit of two, because they do not concern the password. After a refused login, a
    /// [`Pool`](super::Pool) also waits [for a while](super::PoolBuilder::login_pause) before it logs in again.
    ///
    /// Only the login that was set last is used. This setter, [`credentials_with`](Builder::credentials_with),
    /// [`oauth_token`](Builder::oauth_token), [`oauth_token_with`](Builder::oauth_token_with),
    /// [`external`](Builder::external), [`anonymous`](Builder::anonymous) and
    /// [`auth_mechanism`](Builder::auth_mechanism) replace one another.
    pub fn credentials(self, user: impl AsRef<[u8]>, password: impl AsRef<[u8]>) -> Builder {
        self.login(Login::Password(user.as_ref().into(), password.as_ref().into()))
    }

    /// Logs in after connecting, with an OAuth access token. Uses OAUTHBEARER, or XOAUTH2 if the server does not offer
    /// OAUTHBEARER. Defaults to no login.
    pub fn oauth_token(self, user: impl Into<String>, token: impl Into<String>) -> Builder {
        self.login(Login::Token(user.into(), token.into()))
    }

    /// Logs in with EXTERNAL (RFC 4422 appendix A) after connecting: the server identifies the client by other means,
    /// usually by the client's TLS certificate. `authorization` names the user to act for; if it is empty, the client
    /// acts for the user of the certificate. Defaults to no login.
    pub fn external(self, authorization: impl Into<String>) -> Builder {
        self.login(Login::External(authorization.into()))
    }

    /// Logs in with ANONYMOUS (RFC 4505) after connecting. `trace`, such as an email address, identifies the user in
    /// the server's log; it may be empty. Defaults to no login.
    pub fn anonymous(self, trace: impl Into<String>) -> Builder {
        self.login(Login::Anonymous(trace.into()))
    }

    /// Logs in with a custom mechanism after connecting. Each login uses a fresh clone of the mechanism. Defaults to no
    /// login.
    pub fn auth_mechanism(self, mechanism: impl Mechanism + Clone + 'static) -> Builder {
        self.login(Login::Own(Credentials::custom(mechanism).map_err(|e| e.to_string())))
    }

    /// Sets the mechanisms to log in with, in order of preference; no others are tried. The client stops after [two
    /// refusals](Builder::credentials) per connection. Defaults to all mechanisms that suit the login, the strongest
    /// first.
    pub fn auth_mechanisms(mut self, names: impl IntoIterator<Item = impl AsRef<str>>) -> Builder {
        let names = names.into_iter().map(|name| name.as_ref().to_ascii_uppercase());
        self.config.auth_mechanisms = Some(names.collect());
        self
    }

    /// Sets the maximum number of SCRAM hash iterations that a server may demand. Each iteration takes time. A demand
    /// for fewer than 4,096 is never accepted, so a lower maximum is an error. Defaults to 100,000.
    pub fn max_scram_iterations(mut self, iterations: u32) -> Builder {
        self.config.max_scram_iterations = iterations;
        self
    }

    /// Sets whether credentials may be sent without TLS, where anybody on the network path can read them. Each such
    /// login is logged at `warn`. Defaults to false: without TLS, credentials are sent over [local](Security)
    /// connections only.
    pub fn danger_plaintext_credentials(mut self, allowed: bool) -> Builder {
        self.config.danger_plaintext_credentials = allowed;
        self
    }

    /// Sets the name that this client sends in EHLO: a domain, or an address literal such as `[192.0.2.1]`, which may
    /// be given without brackets.
    ///
    /// Defaults to the machine's name if that is a fully qualified domain name, and not `localhost.localdomain` or
    /// similar. Otherwise, defaults to the connection's local address as an address literal (RFC 5321 §4.1.4), or to
    /// `[127.0.0.1]` if the connection has no local address. The machine's name is read for each connection.
    pub fn hello_name(mut self, name: impl Into<String>) -> Builder {
        self.config.hello_name = Some(name.into());
        self
    }

    /// Sets the time limit for every wait except the one for the final reply. The limit applies separately to the name
    /// lookup and connecting (combined), the TLS handshake, the greeting, each reply, and writing each block of content
    /// (64 KiB). Octets that trickle in do not extend the limit. If any of these limits was set individually before, it
    /// is overridden. `Duration::MAX` means no limit. Defaults to 60 seconds.
    pub fn timeout(mut self, limit: Duration) -> Builder {
        self.config.timeouts = Timeouts::all_but_the_final(limit, self.config.timeouts.final_reply);
        self
    }

    /// Sets the combined time limit for the name lookup and connecting. Defaults to 60 seconds.
    pub fn connect_timeout(mut self, limit: Duration) -> Builder {
        self.config.timeouts.connect = limit;
        self
    }

    /// Sets the time limit for a TLS handshake. Defaults to 60 seconds.
    pub fn tls_timeout(mut self, limit: Duration) -> Builder {
        self.config.timeouts.tls = limit;
        self
    }

    /// Sets the time limit for the greeting. Defaults to 60 seconds.
    pub fn greeting_timeout(mut self, limit: Duration) -> Builder {
        self.config.timeouts.greeting = limit;
        self
    }

    /// Sets the time limit for each reply to a command. With pipelining, the limit restarts after each reply.
    /// Defaults to 60 seconds.
    pub fn command_timeout(mut self, limit: Duration) -> Builder {
        self.config.timeouts.command = limit;
        self
    }

    /// Sets the time limit for writing each block of content (64 KiB). Defaults to 60 seconds.
    pub fn block_timeout(mut self, limit: Duration) -> Builder {
        self.config.timeouts.block = limit;
        self
    }

    /// Sets the time limit for the reply to the end of a message. Servers filter and store the message
    /// before they reply, and giving up too early leads to duplicates. Defaults to 10 minutes (RFC 5321 §4.5.3.2.6).
    pub fn final_reply_timeout(mut self, limit: Duration) -> Builder {
        self.config.timeouts.final_reply = limit;
        self
    }

    /// Sets the time limit for each call as a whole, whatever it waits for. For `connect`, the limit covers the name
    /// lookup, TLS and the login; for [`Builder::send`], it also covers sending the message. Defaults to no limit.
    pub fn deadline(mut self, limit: Duration) -> Builder {
        self.config.deadline = Some(limit);
        self
    }

    /// Sets whether commands are sent without waiting for the replies to earlier ones, if the server offers
    /// PIPELINING (RFC 2920). Defaults to true.
    ///
    /// If a server refuses pipelined commands as unknown or out of sequence (replies 500 to 503), they are sent again,
    /// one at a time. If the server then accepts a command that it had refused, this builder and its clones no longer
    /// pipeline.
    ///
    /// On some connections, the client cannot speed up TCP acknowledgements: those made with `connect_over` or through
    /// a proxy, and all TCP connections on systems other than Linux and Android. On such a connection, pipelining stops
    /// after three consecutive groups of commands whose replies arrived so slowly that sending one command at a time
    /// would have been faster.
    pub fn pipelining(mut self, allowed: bool) -> Builder {
        self.config.pipelining = allowed;
        self
    }

    /// Sets whether the next envelope of a [`Batch`](super::Batch) is sent together with the end of a
    /// message (RFC 2920 §3.1). Defaults to [`JoinPolicy::Automatic`], which joins only if the server offers
    /// PIPELINING and CHUNKING but not BURL, and has not failed a trial; it never joins over LMTP. Clones of this
    /// builder share the trial's result.
    ///
    /// The trial detects servers that discard or refuse what follows the end of a message. It cannot detect a server
    /// that stores what follows as part of the message: see [`JoinPolicy`] before you choose [`JoinPolicy::Always`].
    pub fn join_envelopes(mut self, policy: JoinPolicy) -> Builder {
        self.config.joining = policy;
        self.config.learnt = Learnt::default();
        self
    }

    /// Sets whether content is sent with BDAT if the server offers CHUNKING (RFC 3030). BDAT saves a round trip per
    /// message. Some servers offer CHUNKING but lose or stall mail that is sent with it. Defaults to false.
    pub fn chunking(mut self, wanted: bool) -> Builder {
        self.config.chunking = wanted;
        self
    }

    /// Sets whether one refused recipient prevents a message from being sent at all. This costs a round trip.
    /// Defaults to false: the other recipients get the message.
    ///
    /// If it is set, a refusal means that the other recipients are [not sent](crate::Outcome::NotSent) the message.
    /// [`Error::retry`] therefore returns [`Retry::Later`](crate::Retry::Later) even if the refusal is permanent, and
    /// [`Delivery::retry_envelope`] contains the others. Before you resend to everybody, remove any recipient
    /// with a 5yz reply ([`Delivery::refused`]); otherwise, the message is refused again. After such a reply,
    /// [`Retrying`](super::super::Retrying) and [`Failover`](super::super::Failover) do not try again.
    pub fn all_or_nothing(mut self, wanted: bool) -> Builder {
        self.config.all_or_nothing = wanted;
        self
    }

    /// Treats this capability (`PIPELINING`, `SIZE`, `8BITMIME`, …) as not offered, for servers that offer a capability
    /// but do not implement it correctly. Case is ignored. May be called more than once.
    /// [`hello_reply`](Client::hello_reply) still returns the whole reply. Defaults to none.
    pub fn ignore_capability(mut self, keyword: impl Into<String>) -> Builder {
        self.config.ignored_capabilities.push(keyword.into());
        self
    }
}

impl Builder {
    /// Sets a function that is called for connection and message events, for metrics and tracing. Clones of this
    /// builder, and pools made from it, share the function. Defaults to none, which costs nothing.
    ///
    /// Each connection has these [events](crate::EventKind), in this order:
    ///
    /// | event | when |
    /// |---|---|
    /// | `Connected` | the connection was made |
    /// | `Secured` | TLS was established, at once or after STARTTLS |
    /// | `LoggedIn` | a login succeeded |
    /// | `Accepted`, `Refused`, `NotSent` or `InDoubt` | the result of a message is known |
    /// | `Closed` | the connection was closed |
    ///
    /// - If an attempt to connect fails, `ConnectFailed` is its last event, after `Closed` if there was a connection.
    /// - Each call that sends a message causes exactly one of `Accepted`, `Refused`, `NotSent` and `InDoubt`, unless a
    ///   setting is invalid. For a message of a [batch](super::Batch), this event occurs when its result is returned.
    ///   If the future of a call was dropped, the event occurs when the client is next used or is dropped; there is no
    ///   event if the call was still waiting for a connection of a pool.
    /// - `Retried` comes before the result of a message that is sent again over another connection. It can come before
    ///   or after the `Closed` event of the old connection.
    /// - If the connection is lost, or QUIT is sent together with a message, `Closed` can come before the result of that
    ///   message.
    /// - [Single commands](Client#single-commands) cause no message events.
    ///
    /// The function is called on the thread that sends, between two steps of the dialogue. While it runs, nothing is
    /// sent or read, so it should only count events or pass them on. The time that the function takes counts towards
    /// the [`deadline`](Builder::deadline). A panic in the function is caught and logged at `warn`, and does not affect
    /// the client.
    #[doc = example!(observer)]
    pub fn observer(mut self, observe: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Builder {
        self.config.observer = Some(Observer::new(observe));
        self
    }
}

#[maybe_async]
impl Builder {
    /// Connects, sends EHLO, secures the connection, and logs in if there are credentials. If the host has several
    /// addresses, the next one is tried when the previous one has failed or has not answered within 250 ms (RFC 8305
    /// §5), and the first that answers is used.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] before connecting if a setting is invalid (but see
    /// [`ca_certificate`](Builder::ca_certificate)). Otherwise, the error from the step that failed: the name
    /// lookup, connecting, TLS, the greeting, EHLO or the login; the connection is closed in that case.
    pub async fn connect(&self) -> Result<Client, Error> {
        let mut call = self.begin();
        let mut client = self.client(Maker::Client)?;
        client.open(&mut call).await?;
        Ok(client)
    }

    /// Starts a session over a connection that the caller has made.
    pub(in super::super) async fn over(&self, stream: Stream) -> Result<Client, Error> {
        let mut call = self.begin();
        let mut client = self.client(Maker::Caller)?;
        client.open_over(&mut call, stream, Instant::now()).await?;
        Ok(client)
    }

    /// Sends one message over its own connection. QUIT takes no extra time: the client does not wait for its reply.
    ///
    /// # Errors
    ///
    /// The same as for [`connect`](Builder::connect) and [`Client::send`].
    pub async fn send(&self, mail: &dyn Mail) -> Result<Delivery, Error> {
        let mut call = self.begin();
        let mut client = self.client(Maker::Client)?;
        let result = client.open_and_send(&mut call, mail).await;
        client.tell_result(&result);
        client.quit_without_waiting();
        result
    }
}
