//! How to reach a server: host, port, security, credentials, limits.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use crate::{
    Error, Phase,
    event::Observer,
    proto::{
        Credentials, HelloName, Joining, MAX_SCRAM_ITERATIONS, MIN_SCRAM_ITERATIONS, Upgrade, check_pinned,
    },
    sys,
    tls::TlsSettings,
};

mod host;
mod provider;
mod proxy;
mod url;

pub use self::provider::Provider;
pub(crate) use self::{host::Host, proxy::Proxy};

/// Default time limit of every wait except that for the final reply.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Default time limit of the wait for the reply to the end of a message (RFC 5321 §4.5.3.2.6).
const FINAL_REPLY: Duration = Duration::from_secs(600);
/// Maximum time limit of QUIT, whose reply changes nothing.
const FAREWELL: Duration = Duration::from_secs(1);

/// Default port of LMTP, which must not be that of SMTP (RFC 2033 §5).
const LMTP: u16 = 24;
const SMTP: u16 = 25;

/// When and how a connection is secured by TLS.
///
/// Credentials require TLS, except over a local connection or with `danger_plaintext_credentials`. A failed handshake
/// is always an error, never a reason to continue in plain text.
///
/// A connection is local if nobody else can eavesdrop on it. This applies to a Unix socket; to a host given as local
/// (`localhost`, a name that ends in `.localhost`, or a loopback address such as `127.0.0.1`) if the peer address is a
/// loopback address; and to a connection made with `connect_over` and declared local. Any other name is not local, even
/// if it [resolves](crate::Builder::addresses) to a loopback address, because a tunnel or a proxy may listen there. A
/// connection through a [proxy](crate::Builder::proxy) is never local.
///
/// A Unix socket has no name to verify, so TLS over it needs [`Builder::tls_name`](crate::Builder::tls_name). If no
/// name is set, requiring TLS is an error, and STARTTLS is not used even if it is offered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Security {
    /// Uses STARTTLS if the server offers it and this build has TLS. Requires STARTTLS if there are credentials, except
    /// over a local connection or with [`danger_plaintext_credentials`](crate::Builder::danger_plaintext_credentials).
    /// Over a local connection, TLS is used only if there are credentials and STARTTLS is offered.
    #[default]
    Auto,
    /// Uses no TLS. Credentials are then an error, except over a local connection or with
    /// [`danger_plaintext_credentials`](crate::Builder::danger_plaintext_credentials).
    Plaintext,
    /// Uses STARTTLS if the server offers it (RFC 3207) and this build has TLS, even over a local connection. Requires
    /// STARTTLS if there are credentials, except over a local connection or with `danger_plaintext_credentials`.
    Opportunistic,
    /// Requires STARTTLS. Connecting fails if the server does not offer it.
    StartTls,
    /// Uses TLS from the first octet (RFC 8314 §3.3).
    Implicit,
}

/// The settings as the caller has set them. [`check`](Config::check) checks whether they are valid.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub place: Place,
    pub port: Option<u16>,
    /// The addresses to connect to, instead of a lookup.
    pub addresses: Option<Vec<SocketAddr>>,
    /// The local address to connect from.
    pub bind: Option<SocketAddr>,
    /// The proxy, or why its URL is invalid.
    pub proxy: Option<Result<Proxy, String>>,
    pub lmtp: bool,
    pub security: Security,
    pub tls: TlsSettings,
    pub login: Option<Login>,
    pub auth_mechanisms: Option<Vec<String>>,
    pub max_scram_iterations: u32,
    pub danger_plaintext_credentials: bool,
    pub hello_name: Option<String>,
    pub timeouts: Timeouts,
    pub deadline: Option<Duration>,
    pub pipelining: bool,
    pub joining: JoinPolicy,
    pub learnt: Learnt,
    pub chunking: bool,
    pub all_or_nothing: bool,
    pub ignored_capabilities: Vec<String>,
    /// The function that is told about events.
    pub observer: Option<Observer>,
}

/// Whether the next envelope of a batch is sent together with the end of a message (RFC 2920 §3.1).
///
/// Joining saves one round trip per message. Servers are required to support joined commands, but some do not. A trial
/// detects those that discard or refuse what follows the end of a message: after the first joined envelope, the client
/// awaits the replies before it sends any content. If that envelope is not answered properly, it is sent again, and
/// nothing is joined from then on. **No trial can detect a server that stores what follows as part of the previous
/// message**, because its replies are correct. Such servers exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JoinPolicy {
    /// Sends the next envelope together with the end of a message if the server offers PIPELINING and CHUNKING but not
    /// BURL, and has not failed a [trial](JoinPolicy).
    ///
    /// CHUNKING (RFC 3030) is required because it makes the server determine exactly where a message ends. BURL is
    /// excluded because it identifies Dovecot's submission service, which crashes on a joined envelope. Nothing is
    /// joined over LMTP: if a server refuses a message with one reply instead of one for each recipient, the replies to
    /// the next envelope would be mistaken for the missing ones. QUIT is not joined either, because some servers then
    /// delay the reply to the message. [`Builder::send`](crate::Builder::send) sends QUIT after that reply, without
    /// waiting for the reply to QUIT.
    #[default]
    Automatic,
    /// Sends the next envelope, or the QUIT of [`Builder::send`](crate::Builder::send), together with the end of a
    /// message whenever the server offers PIPELINING and has not failed a [trial](JoinPolicy). Use this only with
    /// servers that are known to handle joined commands.
    Always,
    /// Sends nothing together with the end of a message.
    Never,
}

/// What was learnt about the server. Clones of a config share it. A config for another port starts without it, since
/// host and port identify a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Learnt(Arc<Knowledge>);

#[derive(Debug)]
struct Knowledge {
    joining: AtomicU8,
    /// Whether the server offers PIPELINING but misreads pipelined commands.
    misreads: AtomicBool,
}

impl Default for Knowledge {
    fn default() -> Knowledge {
        Knowledge { joining: AtomicU8::new(Joining::Untried as u8), misreads: AtomicBool::new(false) }
    }
}

impl Learnt {
    pub fn joining(&self) -> Joining {
        match self.0.joining.load(Ordering::Relaxed) {
            n if n == Joining::Untried as u8 => Joining::Untried,
            n if n == Joining::Works as u8 => Joining::Works,
            _ => Joining::Off,
        }
    }

    /// Records what a trial has shown. `Off` is final.
    pub fn learn_joining(&self, joining: Joining) {
        if self.joining() != Joining::Off {
            self.0.joining.store(joining as u8, Ordering::Relaxed);
        }
    }

    /// Returns whether the server reads pipelined commands correctly, as far as is known.
    pub fn pipelines(&self) -> bool {
        !self.0.misreads.load(Ordering::Relaxed)
    }

    pub fn learn_that_it_misreads(&self) {
        self.0.misreads.store(true, Ordering::Relaxed);
    }
}

/// The server as the caller has set it.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Host(String),
    Unix(PathBuf),
}

/// The credentials before they are checked. `Debug` does not show them.
#[derive(Clone)]
pub(crate) enum Login {
    Password(Box<[u8]>, Box<[u8]>),
    Token(String, String),
    /// The password comes from a callback.
    PasswordLater(Box<[u8]>),
    /// The token comes from a callback.
    TokenLater(String),
    External(String),
    Anonymous(String),
    /// A custom mechanism, or why it is invalid.
    Own(Result<Credentials, String>),
}

impl Login {
    fn check(&self) -> Result<Credentials, Error> {
        match self {
            Login::Password(user, password) => Credentials::new(user, password),
            Login::Token(user, token) => Credentials::token(user, token),
            Login::PasswordLater(user) => Credentials::password_later(user),
            Login::TokenLater(user) => Credentials::token_later(user),
            Login::External(authorization) => Credentials::external(authorization),
            Login::Anonymous(trace) => Credentials::anonymous(trace),
            Login::Own(credentials) => credentials.clone().map_err(|e| Error::Config(e.into())),
        }
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// The limit of each kind of wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    pub connect: Duration,
    pub tls: Duration,
    pub greeting: Duration,
    pub command: Duration,
    pub block: Duration,
    pub final_reply: Duration,
}

impl Timeouts {
    pub fn all_but_the_final(limit: Duration, final_reply: Duration) -> Timeouts {
        Timeouts { connect: limit, tls: limit, greeting: limit, command: limit, block: limit, final_reply }
    }

    pub fn of(&self, phase: Phase) -> Duration {
        match phase {
            Phase::Resolve | Phase::Connect => self.connect,
            Phase::Tls => self.tls,
            Phase::Greeting => self.greeting,
            Phase::Body => self.block,
            Phase::End => self.final_reply,
            Phase::Quit => self.command.min(FAREWELL),
            _ => self.command,
        }
    }
}

/// Settings that were checked: the results of the check, and the config for everything else.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub config: Config,
    pub server: Server,
    pub credentials: Option<Credentials>,
    pub hello_name: Option<HelloName>,
}

/// Where the server is, for connecting and for display.
#[derive(Debug, Clone)]
pub(crate) enum Server {
    /// A host and its port. The host is looked up, unless the config has addresses.
    Host(Host, u16),
    Unix(PathBuf),
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Server::Host(host, port) if host.lookup.contains(':') => write!(f, "[{}]:{port}", host.lookup),
            Server::Host(host, port) => write!(f, "{}:{port}", host.lookup),
            Server::Unix(path) => write!(f, "the Unix socket {path:?}"), // without control characters
        }
    }
}

impl Config {
    pub fn new(host: &str) -> Config {
        Config::at(Place::Host(host.to_owned()))
    }

    pub fn unix(path: &Path) -> Config {
        Config::at(Place::Unix(path.to_owned()))
    }

    fn at(place: Place) -> Config {
        Config {
            place,
            port: None,
            addresses: None,
            bind: None,
            proxy: None,
            lmtp: false,
            security: Security::default(),
            tls: TlsSettings::default(),
            login: None,
            auth_mechanisms: None,
            max_scram_iterations: MAX_SCRAM_ITERATIONS,
            danger_plaintext_credentials: false,
            hello_name: None,
            timeouts: Timeouts::all_but_the_final(TIMEOUT, FINAL_REPLY),
            deadline: None,
            pipelining: true,
            joining: JoinPolicy::default(),
            learnt: Learnt::default(),
            chunking: false,
            all_or_nothing: false,
            ignored_capabilities: Vec::new(),
            observer: None,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for invalid settings.
    pub fn check(&self) -> Result<Settings, Error> {
        let settings = self.settings()?;
        match self.security {
            Security::StartTls | Security::Implicit => settings.config.tls_name()?,
            Security::Auto | Security::Plaintext | Security::Opportunistic => "",
        };
        Ok(settings)
    }

    /// Returns the name that TLS verifies.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] over a Unix socket, if no name was set.
    pub fn tls_name(&self) -> Result<&str, Error> {
        let none = "TLS over a Unix socket needs the name of the server's certificate (Builder::tls_name)";
        self.tls.name().ok_or(Error::Config(none.into()))
    }

    /// Checks everything except whether there is a name for TLS: a setter may still provide it.
    fn settings(&self) -> Result<Settings, Error> {
        let tls_name = self.tls.name().map(Host::new).transpose()?;
        let credentials = self.login.as_ref().map(Login::check).transpose()?;
        if let Some(pinned) = &self.auth_mechanisms {
            check_pinned(pinned)?;
            credentials.iter().try_for_each(|credentials| credentials.check(pinned))?;
        }
        if self.max_scram_iterations < MIN_SCRAM_ITERATIONS {
            return Err(Error::Config("max_scram_iterations is below the minimum of 4096".into()));
        }
        let server = self.server(credentials.is_some())?;
        self.tls.check()?;
        if self.tls.has_pins() && self.security == Security::Plaintext {
            return Err(Error::Config("a pin needs TLS, but Security::Plaintext is set".into()));
        }
        if matches!(self.security, Security::StartTls | Security::Implicit) {
            TlsSettings::available()?;
        }
        let hello_name = self.hello_name.as_deref().map(HelloName::new).transpose()?;
        let mut config = self.clone();
        let name = match (&tls_name, &server) {
            (Some(name), _) | (None, Server::Host(name, _)) => Some(name.tls_name.clone()),
            (None, Server::Unix(_)) => None,
        };
        name.into_iter().for_each(|name| config.tls.set_name(name));
        Ok(Settings { config, server, credentials, hello_name })
    }

    /// Returns the server to connect to.
    fn server(&self, login: bool) -> Result<Server, Error> {
        let bad = |why: &'static str| Err(Error::Config(why.into()));
        let addresses = self.addresses.as_deref();
        let (host, port) = match &self.place {
            Place::Unix(_) if self.port.is_some() || addresses.is_some() || self.bind.is_some() => {
                return bad("port, addresses and bind cannot be used with a Unix socket");
            }
            Place::Unix(_) if self.proxy.is_some() => {
                return bad("a Unix socket cannot be reached through a proxy");
            }
            Place::Unix(path) => return check_path(path).map(|()| Server::Unix(path.clone())),
            Place::Host(host) => (Host::new(host)?, self.port),
        };
        if let Some(proxy) = &self.proxy {
            let proxy = proxy.as_ref().map_err(|why| Error::Config(why.clone().into()))?;
            if addresses.is_some() {
                return bad("addresses and a proxy are both set, but the proxy looks up the host");
            }
            proxy.check(&host)?;
        }
        let port = match (addresses, port) {
            (Some([]), _) => return bad("the list of addresses is empty"),
            (Some(_), Some(_)) => {
                return bad("addresses and a port are both set, but addresses have their own ports");
            }
            (Some([first, ..]), None) => first.port(),
            (None, Some(port)) => port,
            (None, None) if self.lmtp => LMTP,
            (None, None) => match self.security {
                Security::Implicit => 465,
                Security::StartTls => 587,
                Security::Auto | Security::Opportunistic if login => 587,
                _ => SMTP,
            },
        };
        let mut ports = addresses.unwrap_or_default().iter().map(SocketAddr::port).chain([port]);
        match ports.find(|port| *port == 0 || self.lmtp && *port == SMTP) {
            None => Ok(Server::Host(host, port)),
            Some(0) => bad("port 0 is invalid"),
            Some(_) => bad("LMTP must not use port 25 (RFC 2033 §5)"),
        }
    }
}

fn check_path(path: &Path) -> Result<(), Error> {
    let refused = |why| Error::Config(format!("invalid Unix socket path {path:?}: {why}").into());
    sys::check_socket_path(path).map_err(refused)
}

impl Settings {
    pub fn proxy(&self) -> Option<&Proxy> {
        self.config.proxy.as_ref()?.as_ref().ok()
    }

    /// Returns whether to use STARTTLS. `local` means that nobody else can listen to the connection. Nothing has been
    /// sent yet.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if credentials would be sent in plain text, or if TLS is required but not possible.
    pub fn upgrade(&self, local: bool) -> Result<Upgrade, Error> {
        let secret = self.credentials.is_some() && !self.config.danger_plaintext_credentials && !local;
        let pinned = self.config.tls.has_pins();
        let possible = || TlsSettings::available().and_then(|()| self.config.tls_name());
        match self.config.security {
            Security::Implicit => Ok(Upgrade::Never),
            Security::Plaintext if secret => Err(credentials_in_clear()),
            Security::Plaintext => Ok(Upgrade::Never),
            Security::Auto if local && self.credentials.is_none() && !pinned => Ok(Upgrade::Never),
            Security::Auto | Security::Opportunistic if !secret && !pinned => Ok(match possible() {
                Ok(_) => Upgrade::IfOffered,
                Err(_) => Upgrade::Never, // TLS is not required
            }),
            Security::Auto | Security::Opportunistic | Security::StartTls => {
                possible().map(|_| Upgrade::Required)
            }
        }
    }
}

/// Returns the error for credentials without TLS. They have not been sent.
pub(crate) fn credentials_in_clear() -> Error {
    let text = "credentials are not sent without TLS, except to localhost, to a loopback address given as the host, and \
                over a Unix socket";
    Error::Config(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the name that is looked up, the port, and the security.
    pub(super) fn told(settings: &Settings) -> (&str, u16, Security) {
        match &settings.server {
            Server::Host(host, port) => (&host.lookup, *port, settings.config.security),
            Server::Unix(path) => (path.to_str().unwrap(), 0, settings.config.security),
        }
    }

    // Behaviour 12.
    #[cfg(any(feature = "native-tls", feature = "rustls"))]
    #[test]
    fn default_ports_follow_the_scheme_and_security() {
        let port = |text: &str| told(&Config::from_url(text).unwrap().check().unwrap()).1;
        assert_eq!(port("smtps://h"), 465);
        assert_eq!(port("smtps://u:p@h"), 465);
        assert_eq!(port("smtp://h?tls=required"), 587);
        assert_eq!(port("smtp://u:p@h?tls=none"), 25);
        for url in ["lmtp://h", "lmtp://u:p@h", "lmtp://h?tls=required", "lmtp://h?tls=none"] {
            assert_eq!(port(url), 24);
        }
    }

    #[test]
    fn lmtp_on_port_25_is_refused() {
        assert_eq!(told(&Config::from_url("lmtp://h:2424").unwrap().check().unwrap()).1, 2424);
        assert!(Config::from_url("lmtp://h").unwrap().lmtp);
        for config in [
            Config { port: Some(25), lmtp: true, ..Config::new("h") },
            Config {
                addresses: Some(vec!["[::1]:24".parse().unwrap(), "127.0.0.1:25".parse().unwrap()]),
                lmtp: true,
                ..Config::new("h")
            },
        ] {
            let error = config.check().unwrap_err();
            assert!(error.to_string().contains("port 25"), "{error}");
        }
    }

    #[cfg(all(unix, any(feature = "native-tls", feature = "rustls")))]
    #[test]
    fn tls_over_a_unix_socket_needs_a_name() {
        for url in ["smtp+unix:/run/smtp?tls=required", "lmtp+unix:/run/lmtp?tls=required"] {
            let mut config = Config::from_url(url).unwrap(); // a setter may still provide the name
            let error = config.check().unwrap_err();
            assert!(error.to_string().contains("tls_name"), "{error}");
            config.tls.set_name("mail.example".to_owned());
            assert_eq!(config.check().unwrap().upgrade(true).unwrap(), Upgrade::Required);
        }
        let mut config = Config::from_url("smtp+unix:/run/smtp?tls=opportunistic").unwrap();
        assert_eq!(config.check().unwrap().upgrade(true).unwrap(), Upgrade::Never);
        config.tls.set_name("mail.example".to_owned());
        assert_eq!(config.check().unwrap().upgrade(true).unwrap(), Upgrade::IfOffered);
    }

    #[test]
    fn contradictory_server_settings_are_refused() {
        let one = || Some(vec!["127.0.0.1:2525".parse().unwrap()]);
        let unix = || Config::unix(Path::new("/run/smtp"));
        let proxy = || Some(Ok(Proxy::from_url("socks5://h").unwrap()));
        for config in [
            Config { addresses: Some(vec![]), ..Config::new("h") },
            Config { addresses: one(), port: Some(25), ..Config::new("h") },
            Config { addresses: Some(vec!["127.0.0.1:0".parse().unwrap()]), ..Config::new("h") },
            Config { port: Some(25), ..unix() },
            Config { addresses: one(), ..unix() },
            Config { bind: Some("127.0.0.1:0".parse().unwrap()), ..unix() },
            Config { proxy: proxy(), ..unix() },
            Config { proxy: proxy(), addresses: one(), ..Config::new("h") },
            Config { proxy: proxy(), ..Config::new("fe80::1%eth0") },
            Config { proxy: Some(Err("invalid".into())), ..Config::new("h") },
            Config::unix(Path::new("")),
        ] {
            assert!(matches!(config.check(), Err(Error::Config(_))), "{config:?}");
        }
        let given = Config { addresses: one(), ..Config::new("h") }.check().unwrap();
        assert_eq!(told(&given), ("h", 2525, Security::Auto));
    }

    #[cfg(not(any(feature = "native-tls", feature = "rustls")))]
    #[test]
    fn requiring_tls_without_a_tls_feature_names_the_missing_feature() {
        for url in ["smtps://h", "smtp://h?tls=required"] {
            let error = Config::from_url(url).and_then(|config| config.check()).unwrap_err();
            assert!(error.to_string().contains("native-tls"), "{error}");
        }
    }

    // Threat 11.
    #[cfg(not(feature = "idna"))]
    #[test]
    fn the_error_for_a_non_ascii_host_suggests_punycode_or_idna() {
        let error = Config::from_url("smtp://bücher.test").unwrap_err();
        assert!(
            matches!(&error, Error::Config(text) if text.contains("xn--") && text.contains("idna")),
            "{error}"
        );
    }

    #[test]
    fn credentials_need_tls_except_over_a_local_connection() {
        let mut config = Config::new("h");
        let upgrade = |config: &Config, loopback| config.check().unwrap().upgrade(loopback).ok();
        let if_offered = if TlsSettings::available().is_ok() { Upgrade::IfOffered } else { Upgrade::Never };
        assert_eq!(upgrade(&config, false), Some(if_offered));
        assert_eq!(upgrade(&config, true), Some(Upgrade::Never));
        config.login = Some(Login::Password(b"u".as_slice().into(), b"p".as_slice().into()));
        let required = TlsSettings::available().is_ok().then_some(Upgrade::Required);
        assert_eq!(upgrade(&config, false), required);
        assert_eq!(upgrade(&config, true), Some(if_offered));
        config.security = Security::Plaintext;
        assert_eq!(upgrade(&config, false), None);
        assert_eq!(upgrade(&config, true), Some(Upgrade::Never));
        config.danger_plaintext_credentials = true;
        assert_eq!(upgrade(&config, false), Some(Upgrade::Never));
    }

    #[test]
    fn debug_output_of_the_config_hides_credentials() {
        let config = Config::from_url("smtp://user:hunter2@h").unwrap();
        assert!(!format!("{config:?} {:?}", config.check().unwrap()).contains("hunter2"));
    }
}
