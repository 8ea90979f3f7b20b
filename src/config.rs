//! How to reach a server: host, port, security, credentials, limits; and the URL form of it.

use std::{
    ffi::OsString,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::net::SocketAddrUnix;

use crate::{
    Error, Phase,
    a_label::a_label,
    proto::{
        Credentials, HelloName, Joining, MAX_SCRAM_ITERATIONS, MIN_SCRAM_ITERATIONS, Upgrade, check_pinned,
    },
    tls::TlsSettings,
};

/// The time limit of every wait, unless set otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The time limit of the reply to the end of the message (RFC 5321 §4.5.3.2.6).
const FINAL_REPLY: Duration = Duration::from_secs(600);
/// So long QUIT may take: its answer changes nothing.
const FAREWELL: Duration = Duration::from_secs(1);

/// The port of LMTP, which is never that of SMTP (RFC 2033 §5).
const LMTP: u16 = 24;
const SMTP: u16 = 25;

/// When the connection is secured by TLS, and how.
///
/// Credentials require TLS, except over a local connection. A handshake that fails is always an error: nothing falls
/// back to plain text.
///
/// A connection is local if nobody else can listen to it: a Unix socket; a host that the caller has named as local
/// (`localhost`, a name that ends in `.localhost`, or a loopback address such as `127.0.0.1`) and whose peer address is a
/// loopback address; or a connection of the caller's that says so (`connect_over`). Another name is not local, even if it
/// [resolves](crate::Builder::addresses) to a loopback address: a tunnel or a proxy may listen there.
///
/// A Unix socket has no name that could be verified: TLS over it needs [`Builder::tls_name`](crate::Builder::tls_name).
/// Without one, asking for it is an error, and STARTTLS on offer is not taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Security {
    /// STARTTLS when the server offers it (and this build has TLS); required when there are credentials. Over a local
    /// connection: no TLS without credentials, STARTTLS when offered with them.
    #[default]
    Auto,
    /// No TLS. With credentials that is an error, except over a local connection.
    Plaintext,
    /// STARTTLS when the server offers it (RFC 3207), also over a local connection; required when there are credentials,
    /// except over a local connection.
    Opportunistic,
    /// STARTTLS, or an error.
    StartTls,
    /// TLS from the first octet (RFC 8314 §3.3).
    Implicit,
}

/// What was set, as it was set. Whether it can be is found out by [`check`](Config::check).
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub place: Place,
    pub port: Option<u16>,
    /// Where to connect to, instead of a lookup.
    pub addresses: Option<Vec<SocketAddr>>,
    /// The local end.
    pub bind: Option<SocketAddr>,
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
}

/// Whether anything is sent together with the end of a message: the next envelope of a batch, or QUIT (RFC 2920 §3.1).
///
/// Joining saves one round trip per message. Servers must cope with it, yet several do not. Those that discard or refuse
/// what follows the end of a message are found out by a trial: the first joined envelope carries no content, and if it
/// gets no proper answer, the message goes again and nothing is joined from then on. **No trial can notice a server that
/// stores what follows as part of the message before**, because its replies are right. Such servers exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JoinPolicy {
    /// Joins, after a trial, only where the server offers PIPELINING and CHUNKING and not BURL. A server with CHUNKING
    /// (RFC 3030) has to frame its input exactly. BURL identifies Dovecot's submission service, which crashes on a joined
    /// envelope. Not over LMTP: a server that refuses a message with one reply, and owes one for each recipient, would have
    /// the replies to the next envelope taken for the others. Where nothing is joined, QUIT follows the reply to the message,
    /// and no round trip is lost by that.
    #[default]
    Automatic,
    /// Joins, after a trial, wherever the server offers PIPELINING. Only for servers that are known to handle it.
    Always,
    /// Sends nothing together with the end of a message.
    Never,
}

/// What was learnt about the server. Clones of a config share it; a config for another port begins anew, since host and port
/// identify a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Learnt(Arc<Knowledge>);

#[derive(Debug)]
struct Knowledge {
    joining: AtomicU8,
    /// It offers PIPELINING, and misreads pipelined commands.
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

    /// Off stays off.
    pub fn learn_joining(&self, joining: Joining) {
        if self.joining() != Joining::Off {
            self.0.joining.store(joining as u8, Ordering::Relaxed);
        }
    }

    /// Whether the server reads pipelined commands as it should, as far as is known.
    pub fn pipelines(&self) -> bool {
        !self.0.misreads.load(Ordering::Relaxed)
    }

    pub fn learn_that_it_misreads(&self) {
        self.0.misreads.store(true, Ordering::Relaxed);
    }
}

/// Where the server is.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Host(String),
    Unix(PathBuf),
}

/// What to log in with, before it is checked; never shown.
#[derive(Clone)]
pub(crate) enum Login {
    Password(Box<[u8]>, Box<[u8]>),
    Token(String, String),
    /// The token comes from a callback.
    TokenLater(String),
    External(String),
    Anonymous(String),
    /// A mechanism of the caller's own, or why it is none.
    Own(Result<Credentials, String>),
}

impl Login {
    fn check(&self) -> Result<Credentials, Error> {
        match self {
            Login::Password(user, password) => Credentials::new(user, password),
            Login::Token(user, token) => Credentials::token(user, token),
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

/// `limit` behind `now`; what is too far away to be named is in thirty years.
pub(crate) fn later(now: Instant, limit: Duration) -> Instant {
    const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    now.checked_add(limit.min(FAR)).unwrap_or(now)
}

/// What was set, found to be possible: what had to be looked at stands here, the rest is the config's.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub config: Config,
    pub server: Server,
    pub credentials: Option<Credentials>,
    pub hello_name: Option<HelloName>,
}

/// Where the server is, as it is connected to and named.
#[derive(Debug, Clone)]
pub(crate) enum Server {
    /// With its port. It is looked up, unless the config has addresses.
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
        }
    }

    /// # Errors
    ///
    /// [`Error::Config`] for what cannot be.
    pub fn check(&self) -> Result<Settings, Error> {
        let settings = self.settings()?;
        match self.security {
            Security::StartTls | Security::Implicit => settings.config.tls_name()?,
            Security::Auto | Security::Plaintext | Security::Opportunistic => "",
        };
        Ok(settings)
    }

    /// The name that TLS verifies.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if there is none.
    pub fn tls_name(&self) -> Result<&str, Error> {
        let none =
            "TLS over a Unix socket needs the name that the server's certificate has (Builder::tls_name)";
        self.tls.name().ok_or(Error::Config(none.into()))
    }

    /// All but a name for TLS: a setter may still give it.
    fn settings(&self) -> Result<Settings, Error> {
        let tls_name = self.tls.name().map(Host::new).transpose()?;
        let credentials = self.login.as_ref().map(Login::check).transpose()?;
        if let Some(pinned) = &self.auth_mechanisms {
            check_pinned(pinned)?;
            credentials.iter().try_for_each(|credentials| credentials.check(pinned))?;
        }
        if self.max_scram_iterations < MIN_SCRAM_ITERATIONS {
            return Err(Error::Config(
                "fewer than 4096 iterations of SCRAM's hash are never accepted".into(),
            ));
        }
        let server = self.server(credentials.is_some())?;
        self.tls.check()?;
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

    /// Where the server is.
    fn server(&self, login: bool) -> Result<Server, Error> {
        let bad = |why: &'static str| Err(Error::Config(why.into()));
        let addresses = self.addresses.as_deref();
        let (host, port) = match &self.place {
            Place::Unix(_) if self.port.is_some() || addresses.is_some() || self.bind.is_some() => {
                return bad("a Unix socket has no port and no addresses");
            }
            Place::Unix(path) => return check_path(path).map(|()| Server::Unix(path.clone())),
            Place::Host(host) => (Host::new(host)?, self.port),
        };
        let port = match (addresses, port) {
            (Some([]), _) => return bad("there is none among the addresses that were given"),
            (Some(_), Some(_)) => return bad("the addresses that were given have ports of their own"),
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
            Some(0) => bad("port 0 cannot be connected to"),
            Some(_) => bad("LMTP is never spoken on port 25 (RFC 2033 §5)"),
        }
    }

    /// `smtp://`, `smtps://` or `lmtp://`, user and password percent-encoded, IPv6 in brackets, `?tls=`; or
    /// `smtp+unix:/path` or `lmtp+unix:/path`. The password is in no error.
    pub fn from_url(url: &str) -> Result<Config, Error> {
        let bad = |why: &'static str| Error::Config(format!("the URL cannot be used: {why}").into());
        if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(bad("it has white space or a control character"));
        }
        let known = "its scheme is none of smtp://, smtps://, lmtp://, smtp+unix:/, lmtp+unix:/";
        let (scheme, rest) = url.split_once(':').ok_or_else(|| bad(known))?;
        let (implicit, lmtp, unix) = match scheme.to_ascii_lowercase().as_str() {
            "smtp" => (false, false, false),
            "smtps" => (true, false, false),
            "lmtp" => (false, true, false),
            "smtp+unix" => (false, false, true),
            "lmtp+unix" => (false, true, true),
            _ => return Err(bad(known)),
        };
        if rest.contains('#') {
            return Err(bad("it has a # (in a password: %23)"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let security = security(implicit, query).map_err(bad)?;
        if unix {
            let path = decode(unix_path(rest).map_err(bad)?).map_err(bad)?;
            let place = Place::Unix(OsString::from_vec(path.into()).into());
            let config = Config { security, lmtp, ..Config::at(place) };
            config.settings()?;
            return Ok(config);
        }
        let rest = rest.strip_prefix("//").ok_or_else(|| bad("// is missing behind its scheme"))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user_info, server) = match rest.rsplit_once('@') {
            Some((user_info, server)) => (Some(user_info), server),
            None => (None, rest),
        };
        if rest.contains('/') {
            return Err(bad("it has a path (a / in a password is %2F)"));
        }
        let (host, port) = split_port(server).map_err(bad)?;
        let mut config = Config { port, security, lmtp, ..Config::new(host) };
        if let Some(user_info) = user_info {
            let (user, password) =
                user_info.split_once(':').ok_or_else(|| bad("it has a user without a password"))?;
            config.login = Some(Login::Password(decode(user).map_err(bad)?, decode(password).map_err(bad)?));
        }
        config.check()?;
        Ok(config)
    }
}

/// The path behind the scheme, with no authority or an empty one.
fn unix_path(rest: &str) -> Result<&str, &'static str> {
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => return Err("a Unix socket is on no host: smtp+unix:/path"),
        None => rest,
    };
    match path.starts_with('/') {
        true => Ok(path),
        false => Err("the path of a Unix socket begins with a /"),
    }
}

/// The kernel has little room for it, and none for a NUL.
fn check_path(path: &Path) -> Result<(), Error> {
    let why = match SocketAddrUnix::new(path) {
        _ if path.as_os_str().is_empty() => "it is empty",
        _ if path.as_os_str().as_bytes().contains(&0) => "it has a NUL",
        Ok(_) => return Ok(()),
        Err(_) => "it is too long",
    };
    Err(Error::Config(format!("{path:?} cannot be the path of a Unix socket: {why}").into()))
}

fn split_port(server: &str) -> Result<(&str, Option<u16>), &'static str> {
    let (host, port) = match server.rfind(']') {
        Some(end) => server.split_at(end + 1),
        None => server.split_at(server.find(':').unwrap_or(server.len())),
    };
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok((host, None)),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => match digits.parse() {
            Ok(port @ 1..) => Ok((host, Some(port))),
            _ => Err("its port is not between 1 and 65535"),
        },
        _ => Err("its port is no number (an IPv6 address stands in brackets)"),
    }
}

fn security(implicit: bool, query: &str) -> Result<Security, &'static str> {
    let mut security = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let one = match (pair, implicit) {
            ("tls=required", false) => Security::StartTls,
            ("tls=required", true) => Security::Implicit,
            ("tls=opportunistic", false) => Security::Opportunistic,
            ("tls=none", false) => Security::Plaintext,
            ("tls=opportunistic" | "tls=none", true) => {
                return Err("smtps:// is TLS from the start, tls= says otherwise");
            }
            _ if pair.starts_with("tls=") => return Err("tls= is none of required, opportunistic, none"),
            _ => return Err("it has a parameter other than tls="),
        };
        if security.replace(one).is_some() {
            return Err("it has tls= more than once");
        }
    }
    Ok(security.unwrap_or(if implicit { Security::Implicit } else { Security::Auto }))
}

/// Undoes percent-encoding (RFC 3986 §2.1); a `%` without two hexadecimal digits is an error.
fn decode(text: &str) -> Result<Box<[u8]>, &'static str> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        octets.push(match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit =
                    |b: &u8| char::from(*b).to_digit(16).ok_or("a % in it is not followed by two digits");
                rest = tail;
                (digit(high)? * 16 + digit(low)?) as u8
            }
            (b'%', _) => return Err("a % in it is not followed by two digits"),
            _ => *first,
        });
    }
    Ok(octets.into())
}

/// A host as it is looked up, and as it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// Without brackets. A trailing dot stays: it means something to the resolver.
    pub lookup: String,
    /// Without brackets, trailing dot and zone.
    pub tls_name: String,
}

impl Host {
    fn new(text: &str) -> Result<Host, Error> {
        let bad = |why| Error::Config(format!("{text:?} cannot be a host: {why}").into());
        let host =
            |lookup: &str, name: &str| Ok(Host { lookup: lookup.to_owned(), tls_name: name.to_owned() });
        if let Some(inside) = text.strip_prefix('[') {
            let inside = inside.strip_suffix(']').ok_or_else(|| bad("its bracket does not close"))?;
            let (address, zone) = inside.split_once('%').unwrap_or((inside, "none"));
            let is_zone =
                !zone.is_empty() && zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            return match address.parse::<Ipv6Addr>() {
                Ok(_) if is_zone => host(inside, address),
                _ => Err(bad("what stands in brackets is no IPv6 address")),
            };
        }
        if text.parse::<IpAddr>().is_ok() {
            return host(text, text);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        match name {
            "" => Err(bad("it is empty")),
            _ if !name.is_ascii() => {
                let ascii = a_label(name).map_err(bad)?;
                Host::new(&(ascii + &text[name.len()..]))
            }
            _ if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) => {
                Err(bad("it has a character that no host name has"))
            }
            _ if name.len() > 253 || name.split('.').any(|l| l.is_empty() || l.len() > 63) => {
                Err(bad("it has an empty label, or is too long"))
            }
            // Always the loopback (RFC 6761 §6.3), but the hosts file does not know it with a dot.
            _ if name.eq_ignore_ascii_case("localhost") => host(name, name),
            _ => host(text, name),
        }
    }

    /// Whether the name says that the host is this machine: `localhost`, a name below it, or a loopback address.
    pub fn is_local(&self) -> bool {
        match self.tls_name.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => self.is_localhost(),
        }
    }

    fn is_localhost(&self) -> bool {
        self.tls_name.rsplit('.').next().is_some_and(|label| label.eq_ignore_ascii_case("localhost"))
    }

    /// The addresses of `localhost` and the names below it, which need no lookup (RFC 6761 §6.3): where there is no
    /// resolver and no hosts file, that would wait for a server that does not answer.
    pub fn loopback(&self, port: u16) -> Option<Vec<SocketAddr>> {
        let addresses = [(Ipv6Addr::LOCALHOST, port).into(), (Ipv4Addr::LOCALHOST, port).into()];
        self.is_localhost().then(|| addresses.into())
    }
}

impl Settings {
    /// Whether to use STARTTLS, now that it is known whom we are connected to: `local` says that nobody else can listen.
    /// Nothing has been sent yet.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if credentials would have to travel in clear.
    pub fn upgrade(&self, local: bool) -> Result<Upgrade, Error> {
        let secret = self.credentials.is_some() && !self.config.danger_plaintext_credentials && !local;
        let possible = || TlsSettings::available().and_then(|()| self.config.tls_name());
        match self.config.security {
            Security::Implicit => Ok(Upgrade::Never),
            Security::Plaintext if secret => Err(credentials_in_clear()),
            Security::Plaintext => Ok(Upgrade::Never),
            Security::Auto if local && self.credentials.is_none() => Ok(Upgrade::Never),
            Security::Auto | Security::Opportunistic if !secret => Ok(match possible() {
                Ok(_) => Upgrade::IfOffered,
                Err(_) => Upgrade::Never, // what cannot be done is not wanted
            }),
            Security::Auto | Security::Opportunistic | Security::StartTls => {
                possible().map(|_| Upgrade::Required)
            }
        }
    }
}

/// Nothing secret has been sent.
pub(crate) fn credentials_in_clear() -> Error {
    let text = "credentials are not sent without TLS, except to localhost, to a loopback address that is given as the \
                host, and over a Unix socket";
    Error::Config(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name that is looked up, the port, and how it is secured.
    fn told(settings: &Settings) -> (&str, u16, Security) {
        match &settings.server {
            Server::Host(host, port) => (&host.lookup, *port, settings.config.security),
            Server::Unix(path) => (path.to_str().unwrap(), 0, settings.config.security),
        }
    }

    #[test]
    fn urls_are_read() {
        let url = |text: &str| Config::from_url(text).and_then(|config| config.check());
        let plain = url("smtp://localhost").unwrap();
        assert_eq!(told(&plain), ("localhost", 25, Security::Auto));
        let v6 = url("SMTP://[::1]:2525/?tls=none").unwrap();
        assert_eq!(told(&v6), ("::1", 2525, Security::Plaintext));
        assert_eq!(told(&url("smtp://h?tls=opportunistic").unwrap()).1, 25);
        let login = url("smtp://us%40er:p%3a%2Fs%25@h.example.").unwrap();
        assert_eq!((told(&login).1, login.config.tls.name()), (587, Some("h.example")));
        assert!(login.credentials.is_some());
        let Some(Login::Password(user, password)) = login.config.login else { panic!("no password") };
        assert_eq!((&*user, &*password), (&b"us@er"[..], &b"p:/s%"[..]));
    }

    #[cfg(feature = "native-tls")]
    #[test]
    fn behaviour_12_default_ports() {
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
    fn lmtp_is_never_on_port_25() {
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

    #[test]
    fn urls_name_unix_sockets() {
        for (url, path, lmtp) in [
            ("smtp+unix:/run/smtp", "/run/smtp", false),
            ("LMTP+UNIX:/run/l%20m%2Ftp%3F", "/run/l m/tp?", true),
            ("lmtp+unix:///run/lmtp?tls=none", "/run/lmtp", true),
        ] {
            let config = Config::from_url(url).unwrap();
            assert_eq!(config.lmtp, lmtp);
            assert_eq!(told(&config.check().unwrap()).0, path);
        }
        for (url, why) in [
            ("smtp+unix:run/smtp", "begins with a /"),
            ("smtp+unix:", "begins with a /"),
            ("smtp+unix://host/run", "on no host"),
            ("smtp+unix:/run/%00", "NUL"),
            ("smtp+unix:/run/%zz", "two digits"),
            ("lmtp+unix:/run#x", "#"),
            ("smtps+unix:/run", "scheme"),
        ] {
            let error = Config::from_url(url).unwrap_err();
            assert!(error.to_string().contains(why), "{url}: {error}");
        }
        let long = Config::from_url(&format!("smtp+unix:/{}", "x".repeat(200))).unwrap_err();
        assert!(long.to_string().contains("too long"), "{long}");
    }

    #[cfg(feature = "native-tls")]
    #[test]
    fn tls_over_a_unix_socket_needs_a_name() {
        for url in ["smtp+unix:/run/smtp?tls=required", "lmtp+unix:/run/lmtp?tls=required"] {
            let mut config = Config::from_url(url).unwrap(); // a setter may still give the name
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
    fn settings_of_where_the_server_is_do_not_contradict_each_other() {
        let one = || Some(vec!["127.0.0.1:2525".parse().unwrap()]);
        let unix = || Config::unix(Path::new("/run/smtp"));
        for config in [
            Config { addresses: Some(vec![]), ..Config::new("h") },
            Config { addresses: one(), port: Some(25), ..Config::new("h") },
            Config { addresses: Some(vec!["127.0.0.1:0".parse().unwrap()]), ..Config::new("h") },
            Config { port: Some(25), ..unix() },
            Config { addresses: one(), ..unix() },
            Config { bind: Some("127.0.0.1:0".parse().unwrap()), ..unix() },
            Config::unix(Path::new("")),
        ] {
            assert!(matches!(config.check(), Err(Error::Config(_))), "{config:?}");
        }
        let given = Config { addresses: one(), ..Config::new("h") }.check().unwrap();
        assert_eq!(told(&given), ("h", 2525, Security::Auto));
    }

    #[cfg(not(feature = "native-tls"))]
    #[test]
    fn tls_without_the_feature_is_a_clear_error() {
        for url in ["smtps://h", "smtp://h?tls=required"] {
            let error = Config::from_url(url).and_then(|config| config.check()).unwrap_err();
            assert!(error.to_string().contains("native-tls"), "{error}");
        }
    }

    #[test]
    fn threat_13_no_url_turns_a_danger_switch() {
        for switch in ["accept_invalid_certs", "accept_invalid_hostnames", "plaintext_credentials"] {
            for query in
                [format!("danger_{switch}=true"), format!("tls=required&danger_{switch}"), switch.into()]
            {
                assert!(
                    matches!(Config::from_url(&format!("smtp://h?{query}")), Err(Error::Config(_))),
                    "{query}"
                );
            }
        }
    }

    #[test]
    fn bad_urls_are_refused_and_not_shown() {
        for text in [
            "",
            "localhost",
            "http://h",
            "lmtp://h:25",
            "lmtp:h",
            "smtp:h",
            "smtp:/h",
            "smtp://",
            "smtp://h:0",
            "smtp://h:65536",
            "smtp://h:x",
            "smtp://h:",
            "smtp://::1",
            "smtp://[::1",
            "smtp://[x]",
            "smtp://h/path",
            "smtp://h?tls=yes",
            "smtp://h?timeout=5",
            "smtp://h?tls=required&tls=none",
            "smtp://[fe80::1%a!b]",
            "smtp://[fe80::1%]",
            "smtps://h?tls=none",
            "smtp://secret@h",
            "smtp://u:secret%@h",
            "smtp://u:secret%zz@h",
            "smtp://u:sec ret@h",
            "smtp://u:secret#@h",
            "smtp://u:secret/x@h",
            "smtp://u:secret%00@h",
            "smtp://:secret@h",
            "smtp://h\r\n",
            "smtp://b\u{fc}cher..example",
            "smtp://a..b",
        ] {
            let error = Config::from_url(text).unwrap_err();
            assert!(matches!(error, Error::Config(_)), "{text}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("sec"), "{error}");
        }
    }

    #[test]
    fn threats_9_to_12_hosts_are_normalised_or_refused() {
        for (text, lookup, name) in [
            ("mx.example.", "mx.example.", "mx.example"),
            ("localhost.", "localhost", "localhost"),
            ("[::1]", "::1", "::1"),
            ("::1", "::1", "::1"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
            ("[fe80::1%eth0]", "fe80::1%eth0", "fe80::1"),
        ] {
            assert_eq!(Host::new(text).unwrap(), Host { lookup: lookup.into(), tls_name: name.into() });
        }
        for text in [
            "[fe80::1%a\0b]",
            "[fe80::1%x\r\n]",
            "",
            ".",
            "a b",
            "a\0b",
            "a\r\nb",
            "bü cher.test",
            "bü..cher.test",
            "bü/cher.test",
            "a..b",
            "[::1",
            "[a]",
            "a/b",
            "a@b",
            &"a".repeat(64),
        ] {
            assert!(matches!(Host::new(text), Err(Error::Config(_))), "{text:?}");
        }
    }

    #[test]
    fn a_host_is_local_if_its_name_says_so() {
        for (text, local, looked_up) in [
            ("localhost", true, false),
            ("LocalHost.", true, false),
            ("mail.LOCALHOST", true, false),
            ("mail.localhost.", true, false),
            ("127.0.0.1", true, true),
            ("127.255.255.254", true, true),
            ("::1", true, true),
            ("[::1]", true, true),
            ("::ffff:127.0.0.1", true, true),
            ("mail.example.org", false, true),
            ("localhost.example.org", false, true),
            ("localhost.localdomain", false, true),
            ("notlocalhost", false, true),
            ("127.1", false, true), // what the resolver makes of it is its affair
            ("2130706433", false, true),
            ("0.0.0.0", false, true),
            ("::", false, true),
            ("10.0.0.1", false, true),
            ("::ffff:10.0.0.1", false, true),
        ] {
            let host = Host::new(text).unwrap();
            assert_eq!((host.is_local(), host.loopback(25).is_none()), (local, looked_up), "{text}");
        }
        let found = Host::new("localhost").unwrap().loopback(25).unwrap();
        assert_eq!(found, ["[::1]:25".parse().unwrap(), "127.0.0.1:25".parse().unwrap()]);
    }

    #[cfg(feature = "idna")]
    #[test]
    fn threat_11_a_host_beyond_ascii_becomes_its_a_label() {
        for (text, lookup, name) in [
            ("Bücher.test", "xn--bcher-kva.test", "xn--bcher-kva.test"),
            ("bücher.test.", "xn--bcher-kva.test.", "xn--bcher-kva.test"),
            ("１２７.0.0.1", "127.0.0.1", "127.0.0.1"), // what it becomes is looked at like any other
        ] {
            assert_eq!(Host::new(text).unwrap(), Host { lookup: lookup.into(), tls_name: name.into() });
        }
    }

    #[cfg(not(feature = "idna"))]
    #[test]
    fn threat_11_a_host_beyond_ascii_is_refused_and_told_the_way_out() {
        let error = Config::from_url("smtp://bücher.test").unwrap_err();
        assert!(
            matches!(&error, Error::Config(text) if text.contains("xn--") && text.contains("idna")),
            "{error}"
        );
    }

    #[test]
    fn credentials_need_tls_but_on_loopback() {
        let mut config = Config::new("h");
        let upgrade = |config: &Config, loopback| config.check().unwrap().upgrade(loopback).ok();
        let if_offered = if cfg!(feature = "native-tls") { Upgrade::IfOffered } else { Upgrade::Never };
        assert_eq!(upgrade(&config, false), Some(if_offered));
        assert_eq!(upgrade(&config, true), Some(Upgrade::Never));
        config.login = Some(Login::Password(b"u".as_slice().into(), b"p".as_slice().into()));
        let required = cfg!(feature = "native-tls").then_some(Upgrade::Required);
        assert_eq!(upgrade(&config, false), required);
        assert_eq!(upgrade(&config, true), Some(if_offered));
        config.security = Security::Plaintext;
        assert_eq!(upgrade(&config, false), None);
        assert_eq!(upgrade(&config, true), Some(Upgrade::Never));
        config.danger_plaintext_credentials = true;
        assert_eq!(upgrade(&config, false), Some(Upgrade::Never));
    }

    #[test]
    fn credentials_are_not_shown() {
        let config = Config::from_url("smtp://user:hunter2@h").unwrap();
        assert!(!format!("{config:?} {:?}", config.check().unwrap()).contains("hunter2"));
    }
}
