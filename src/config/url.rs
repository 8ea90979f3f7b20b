//! The URL form of the settings.
//!
//! Percent-encoding is decoded by hand: the crate `percent-encoding` passes on a `%` that is not followed by two
//! hexadecimal digits. Here, that has to be an error, so the same loop would still be needed to detect it.

use super::{Config, Login, Place, Proxy, Security};
use crate::{Error, sys};

impl Config {
    /// Reads `smtp://`, `smtps://` or `lmtp://`, with user and password percent-encoded, IPv6 in brackets, `?tls=` and
    /// `?proxy=`; or `smtp+unix:/path` or `lmtp+unix:/path`. No error contains a password.
    pub fn from_url(url: &str) -> Result<Config, Error> {
        if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(bad("it contains white space or a control character"));
        }
        let known = "its scheme is not one of smtp://, smtps://, lmtp://, smtp+unix:/, lmtp+unix:/";
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
            return Err(bad("it contains a # (write %23 in a password)"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (security, proxy) = parameters(implicit, query)?;
        if unix {
            let path = decode(unix_path(rest).map_err(bad)?).map_err(bad)?;
            let place = Place::Unix(sys::path_from_octets(path));
            let config = Config { security, lmtp, proxy: proxy.map(Ok), ..Config::at(place) };
            config.settings()?;
            return Ok(config);
        }
        let rest = rest.strip_prefix("//").ok_or_else(|| bad("// is missing after its scheme"))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user_info, server) = match rest.rsplit_once('@') {
            Some((user_info, server)) => (Some(user_info), server),
            None => (None, rest),
        };
        if rest.contains('/') {
            return Err(bad("it contains a path (write %2F for a / in a password)"));
        }
        let (host, port) = split_port(server).map_err(bad)?;
        let mut config = Config { port, security, lmtp, proxy: proxy.map(Ok), ..Config::new(host) };
        if let Some(user_info) = user_info {
            let (user, password) =
                user_info.split_once(':').ok_or_else(|| bad("it contains a user without a password"))?;
            config.login = Some(Login::Password(decode(user).map_err(bad)?, decode(password).map_err(bad)?));
        }
        config.check()?;
        Ok(config)
    }
}

fn bad(why: &'static str) -> Error {
    Error::Config(format!("invalid URL: {why}").into())
}

/// Returns the path after the scheme. There may be an empty authority before it.
fn unix_path(rest: &str) -> Result<&str, &'static str> {
    let path = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => return Err("a Unix socket has no host: write smtp+unix:/path"),
        None => rest,
    };
    if path.starts_with('/') { Ok(path) } else { Err("the path of a Unix socket must begin with a /") }
}

/// Splits a port off a host.
pub(super) fn split_port(server: &str) -> Result<(&str, Option<u16>), &'static str> {
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
        _ => Err("its port is not a number (an IPv6 address must be in brackets)"),
    }
}

/// Reads the parameters after the `?`.
fn parameters(implicit: bool, query: &str) -> Result<(Security, Option<Proxy>), Error> {
    let (mut security, mut proxy) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let is_repeated = match pair.split_once('=').unwrap_or((pair, "")) {
            ("tls", value) => security.replace(tls(implicit, value).map_err(bad)?).is_some(),
            ("proxy", value) => {
                let url = String::from_utf8(decode(value).map_err(bad)?.into());
                proxy.replace(Proxy::from_url(&url.map_err(|_| bad("its proxy= is not UTF-8"))?)?).is_some()
            }
            _ => return Err(bad("it contains a parameter other than tls= and proxy=")),
        };
        if is_repeated {
            return Err(bad("it contains a parameter more than once"));
        }
    }
    Ok((security.unwrap_or(if implicit { Security::Implicit } else { Security::Auto }), proxy))
}

fn tls(implicit: bool, value: &str) -> Result<Security, &'static str> {
    match (value, implicit) {
        ("required", false) => Ok(Security::StartTls),
        ("required", true) => Ok(Security::Implicit),
        ("opportunistic", false) => Ok(Security::Opportunistic),
        ("none", false) => Ok(Security::Plaintext),
        ("opportunistic" | "none", true) => Err("smtps:// always uses TLS, but tls= says otherwise"),
        _ => Err("tls= must be required, opportunistic or none"),
    }
}

/// Decodes percent-encoding (RFC 3986 §2.1). A `%` without two hexadecimal digits is an error.
pub(super) fn decode(text: &str) -> Result<Box<[u8]>, &'static str> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        octets.push(match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |b: &u8| {
                    char::from(*b).to_digit(16).ok_or("a % is not followed by two hexadecimal digits")
                };
                rest = tail;
                (digit(high)? * 16 + digit(low)?) as u8
            }
            (b'%', _) => return Err("a % is not followed by two hexadecimal digits"),
            _ => *first,
        });
    }
    Ok(octets.into())
}

#[cfg(test)]
mod tests {
    use super::{super::tests::told, *};

    #[test]
    fn urls_are_parsed() {
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

    #[test]
    fn urls_name_a_proxy() {
        for (url, proxy) in [
            ("smtp://h?proxy=socks5://127.0.0.1", "socks5://127.0.0.1:1080"),
            ("smtp://h?tls=none&proxy=http%3A%2F%2Fu%2525%3Ap%40[::1]%3A3128", "http://[::1]:3128"),
        ] {
            let settings = Config::from_url(url).unwrap().check().unwrap();
            assert_eq!(settings.proxy().unwrap().to_string(), proxy);
        }
        for (url, why) in [
            ("smtp://h?proxy=", "scheme"),
            ("smtp://h?proxy=socks5://h&proxy=socks5://h", "more than once"),
            ("smtp://h?proxy=socks5://u:secret%25@h", "two hexadecimal digits"),
            ("smtp://h?proxy=%FF", "UTF-8"),
            ("smtp://[fe80::1%eth0]?proxy=socks5://h", "zone"),
            ("smtp+unix:/run/smtp?proxy=socks5://h", "Unix socket"),
        ] {
            let error = Config::from_url(url).unwrap_err();
            assert!(matches!(&error, Error::Config(text) if text.contains(why)), "{url}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn urls_can_name_unix_sockets() {
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
            ("smtp+unix:run/smtp", "must begin with a /"),
            ("smtp+unix:", "must begin with a /"),
            ("smtp+unix://host/run", "has no host"),
            ("smtp+unix:/run/%00", "NUL"),
            ("smtp+unix:/run/%zz", "two hexadecimal digits"),
            ("lmtp+unix:/run#x", "#"),
            ("smtps+unix:/run", "scheme"),
        ] {
            let error = Config::from_url(url).unwrap_err();
            assert!(error.to_string().contains(why), "{url}: {error}");
        }
        let long = Config::from_url(&format!("smtp+unix:/{}", "x".repeat(200))).unwrap_err();
        assert!(long.to_string().contains("too long"), "{long}");
    }

    // Threat 13.
    #[test]
    fn urls_cannot_set_danger_options() {
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
    fn invalid_urls_are_refused_without_revealing_the_password() {
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
}
