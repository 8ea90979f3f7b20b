//! How to reach a server: host, port, security, credentials, limits; and the URL form of it.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use crate::{
    Error, Phase,
    proto::{Credentials, HelloName, MAX_SCRAM_ITERATIONS, MIN_SCRAM_ITERATIONS, Upgrade, check_pinned},
    tls::TlsSettings,
};

/// The time limit of every wait, unless set otherwise.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The time limit of the reply to the end of the message (RFC 5321 §4.5.3.2.6).
const FINAL_REPLY: Duration = Duration::from_secs(600);
/// So long QUIT may take: its answer changes nothing.
const FAREWELL: Duration = Duration::from_secs(1);

/// When the connection is secured by TLS, and how.
///
/// Credentials never travel in clear: with them TLS is required, except to a loopback address. A handshake that
/// fails is an error always; nothing falls back to plain text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Security {
    /// STARTTLS when the server offers it (and this build has TLS); required when there are credentials. To a loopback address: no TLS without
    /// credentials, STARTTLS when offered with them.
    #[default]
    Auto,
    /// No TLS. With credentials that is an error, except to a loopback address.
    Plaintext,
    /// STARTTLS when the server offers it (RFC 3207), also to a loopback address; required when there are credentials,
    /// except to a loopback address.
    Opportunistic,
    /// STARTTLS, or an error.
    StartTls,
    /// TLS from the first octet (RFC 8314 §3.3).
    Implicit,
}

/// What was set, as it was set. Whether it can be is found out by [`check`](Config::check).
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub host: String,
    pub port: Option<u16>,
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
    pub all_or_nothing: bool,
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
    pub host: Host,
    pub port: u16,
    pub credentials: Option<Credentials>,
    pub hello_name: Option<HelloName>,
}

impl Config {
    pub fn new(host: &str) -> Config {
        Config {
            host: host.to_owned(),
            port: None,
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
            all_or_nothing: false,
        }
    }

    /// # Errors
    ///
    /// [`Error::Config`] for what cannot be.
    pub fn check(&self) -> Result<Settings, Error> {
        let host = Host::new(&self.host)?;
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
        let port = match (self.port, self.security) {
            (Some(0), _) => return Err(Error::Config("port 0 cannot be connected to".into())),
            (Some(port), _) => port,
            (None, Security::Implicit) => 465,
            (None, Security::StartTls) => 587,
            (None, Security::Auto | Security::Opportunistic) if credentials.is_some() => 587,
            (None, _) => 25,
        };
        self.tls.check()?;
        if matches!(self.security, Security::StartTls | Security::Implicit) {
            TlsSettings::available()?;
        }
        let hello_name = self.hello_name.as_deref().map(HelloName::new).transpose()?;
        let mut config = self.clone();
        config.tls.set_name(tls_name.as_ref().unwrap_or(&host).tls_name.clone());
        Ok(Settings { config, host, port, credentials, hello_name })
    }

    /// `smtp://` or `smtps://`, user and password percent-encoded, IPv6 in brackets, `?tls=`. The password is in no
    /// error.
    pub fn from_url(url: &str) -> Result<Config, Error> {
        let bad = |why: &'static str| Error::Config(format!("the URL cannot be used: {why}").into());
        if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(bad("it has white space or a control character"));
        }
        let (scheme, rest) =
            url.split_once("://").ok_or_else(|| bad("it does not begin with smtp:// or smtps://"))?;
        let implicit = match scheme.to_ascii_lowercase().as_str() {
            "smtp" => false,
            "smtps" => true,
            _ => return Err(bad("its scheme is neither smtp nor smtps")),
        };
        if rest.contains('#') {
            return Err(bad("it has a # (in a password: %23)"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user_info, server) = match rest.rsplit_once('@') {
            Some((user_info, server)) => (Some(user_info), server),
            None => (None, rest),
        };
        if rest.contains('/') {
            return Err(bad("it has a path (a / in a password is %2F)"));
        }
        let (host, port) = split_port(server).map_err(bad)?;
        let mut config = Config::new(host);
        config.port = port;
        config.security = security(implicit, query).map_err(bad)?;
        if let Some(user_info) = user_info {
            let (user, password) =
                user_info.split_once(':').ok_or_else(|| bad("it has a user without a password"))?;
            config.login = Some(Login::Password(decode(user).map_err(bad)?, decode(password).map_err(bad)?));
        }
        config.check()?;
        Ok(config)
    }
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
            _ if !name.is_ascii() => Err(bad("it is not ASCII (write its A-label, xn--…)")),
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
}

impl Settings {
    /// What STARTTLS is worth, now that it is known whom we are connected to. Nothing has been sent yet.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if credentials would have to travel in clear.
    pub fn upgrade(&self, loopback: bool) -> Result<Upgrade, Error> {
        let secret = self.credentials.is_some() && !self.config.danger_plaintext_credentials && !loopback;
        match self.config.security {
            Security::Implicit => Ok(Upgrade::Never),
            Security::Plaintext if secret => Err(credentials_in_clear()),
            Security::Plaintext => Ok(Upgrade::Never),
            Security::Auto if loopback && self.credentials.is_none() => Ok(Upgrade::Never),
            Security::Auto | Security::Opportunistic if !secret => Ok(match TlsSettings::available() {
                Ok(()) => Upgrade::IfOffered,
                Err(_) => Upgrade::Never, // what cannot be done is not wanted
            }),
            Security::Auto | Security::Opportunistic | Security::StartTls => {
                TlsSettings::available().map(|()| Upgrade::Required)
            }
        }
    }
}

/// Nothing secret has been sent.
pub(crate) fn credentials_in_clear() -> Error {
    Error::Config("credentials are not sent without TLS, except to a loopback address".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        let url = |text: &str| Config::from_url(text).and_then(|config| config.check());
        let plain = url("smtp://localhost").unwrap();
        assert_eq!(
            (plain.host.lookup.as_str(), plain.port, plain.config.security),
            ("localhost", 25, Security::Auto)
        );
        let v6 = url("SMTP://[::1]:2525/?tls=none").unwrap();
        assert_eq!(
            (v6.host.lookup.as_str(), v6.port, v6.config.security),
            ("::1", 2525, Security::Plaintext)
        );
        assert_eq!(url("smtp://h?tls=opportunistic").unwrap().port, 25);
        let login = url("smtp://us%40er:p%3a%2Fs%25@h.example.").unwrap();
        assert_eq!((login.port, login.host.tls_name.as_str()), (587, "h.example"));
        assert!(login.credentials.is_some());
        let Some(Login::Password(user, password)) = login.config.login else { panic!("no password") };
        assert_eq!((&*user, &*password), (&b"us@er"[..], &b"p:/s%"[..]));
    }

    #[cfg(feature = "native-tls")]
    #[test]
    fn behaviour_12_default_ports() {
        let port = |text: &str| Config::from_url(text).unwrap().check().unwrap().port;
        assert_eq!(port("smtps://h"), 465);
        assert_eq!(port("smtps://u:p@h"), 465);
        assert_eq!(port("smtp://h?tls=required"), 587);
        assert_eq!(port("smtp://u:p@h?tls=none"), 25);
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
    fn bad_urls_are_refused_and_not_shown() {
        for text in [
            "",
            "localhost",
            "http://h",
            "lmtp://h",
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
            "smtp://b\u{fc}cher.example",
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
            "bücher.test",
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
