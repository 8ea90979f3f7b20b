//! The proxy through which a server is reached.

use std::fmt;

use super::{
    host::Host,
    url::{decode, split_port},
};
use crate::{
    Error,
    proto::{MAX_SOCKS_FIELD, ProxyExchange, ProxyLogin, ProxyProtocol, Target},
};

/// Default port of SOCKS (RFC 1928 §3). HTTP proxies have no standard port.
const SOCKS: u16 = 1080;

#[derive(Clone)]
pub(crate) struct Proxy {
    protocol: ProxyProtocol,
    pub host: Host,
    pub port: u16,
    login: Option<Login>,
}

/// A user name and a password.
type Login = (Box<[u8]>, Box<[u8]>);

impl Proxy {
    /// Reads a `socks5://`, `socks5h://` or `http://` URL, with the user name and the password percent-encoded.
    /// No error contains the password.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the URL is invalid.
    pub fn from_url(url: &str) -> Result<Proxy, Error> {
        if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(bad("it contains white space or a control character"));
        }
        let known = "its scheme is not one of socks5://, socks5h://, http://";
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad(known))?;
        let (protocol, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "socks5" | "socks5h" => (ProxyProtocol::Socks5, Some(SOCKS)),
            "http" => (ProxyProtocol::HttpConnect, None),
            _ => return Err(bad(known)),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#']) {
            return Err(bad("it contains a path, a query or a fragment"));
        }
        let (user_info, server) = match rest.rsplit_once('@') {
            Some((user_info, server)) => (Some(user_info), server),
            None => (None, rest),
        };
        let (host, port) = split_port(server).map_err(bad)?;
        let port = port.or(default_port).ok_or_else(|| bad("an HTTP proxy needs a port"))?;
        let login = match user_info.map(|user_info| user_info.split_once(':')) {
            None => None,
            Some(None) => return Err(bad("it contains a user name without a password")),
            Some(Some((user, password))) => {
                Some((decode(user).map_err(bad)?, decode(password).map_err(bad)?))
            }
        };
        if let Some((user, password)) = &login {
            check_login(protocol, user, password).map_err(bad)?;
        }
        Ok(Proxy { protocol, host: Host::new(host)?, port, login })
    }

    /// Checks whether the proxy can be asked to connect to this host.
    pub fn check(&self, host: &Host) -> Result<(), Error> {
        if host.lookup.contains('%') {
            let why = "an IPv6 address with a zone cannot be reached through a proxy";
            return Err(Error::Config(why.into()));
        }
        Ok(())
    }

    /// Creates the exchange that asks the proxy to connect to a host.
    pub fn exchange(&self, host: &Host, port: u16) -> ProxyExchange {
        let login: Option<ProxyLogin<'_>> =
            self.login.as_ref().map(|(user, password)| (&**user, &**password));
        ProxyExchange::new(self.protocol, Target { host: &host.tls_name, port }, login)
    }
}

fn bad(why: &'static str) -> Error {
    Error::Config(format!("invalid proxy URL: {why}").into())
}

fn check_login(protocol: ProxyProtocol, user: &[u8], password: &[u8]) -> Result<(), &'static str> {
    let is_too_long = |field: &[u8]| field.is_empty() || field.len() > MAX_SOCKS_FIELD;
    match protocol {
        ProxyProtocol::Socks5 if is_too_long(user) || is_too_long(password) => {
            Err("SOCKS5 needs a user name and a password of 1 to 255 octets each")
        }
        ProxyProtocol::HttpConnect if user.contains(&b':') => {
            Err("a user name for HTTP must not contain a colon")
        }
        _ => Ok(()),
    }
}

/// Shows the proxy without the user name and the password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            ProxyProtocol::Socks5 => "socks5",
            ProxyProtocol::HttpConnect => "http",
        };
        if self.host.lookup.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host.lookup, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host.lookup, self.port)
        }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown_without_the_login() {
        for (url, shown, has_login) in [
            ("socks5://proxy.example", "socks5://proxy.example:1080", false),
            ("SOCKS5h://proxy.example:9/", "socks5://proxy.example:9", false),
            ("socks5://u%40:p%3A%2F@[::1]", "socks5://[::1]:1080", true),
            ("http://:@127.0.0.1:3128", "http://127.0.0.1:3128", true),
        ] {
            let proxy = Proxy::from_url(url).unwrap();
            assert_eq!((proxy.to_string(), proxy.login.is_some()), (shown.to_owned(), has_login));
            assert_eq!(format!("{proxy:?}"), shown);
        }
        let (user, password) = Proxy::from_url("socks5://u%40:p%3A%2F@h").unwrap().login.unwrap();
        assert_eq!((&*user, &*password), (&b"u@"[..], &b"p:/"[..]));
    }

    #[test]
    fn bad_urls_are_refused_and_the_password_is_not_shown() {
        let long = format!("socks5://u:{}@h", "secret".repeat(50));
        for url in [
            "",
            "proxy.example:1080",
            "https://u:secret@h:1",
            "socks4://h",
            "socks5:h",
            "socks5://",
            "socks5://h:0",
            "socks5://h:x",
            "socks5://a b",
            "socks5://h/path",
            "socks5://h?x",
            "socks5://secret@h",
            "socks5://u:@h",
            "socks5://u:secret%@h",
            "http://h",
            "http://u%3A:secret@h:1",
            &long,
        ] {
            let error = Proxy::from_url(url).unwrap_err();
            assert!(matches!(error, Error::Config(_)), "{url}: {error:?}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
