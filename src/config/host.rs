//! Host names and addresses, as they are looked up and as certificates are verified for them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{Error, a_label::a_label};

/// A host as it is looked up, and as it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// Without brackets. A trailing dot is kept, because the resolver needs it.
    pub lookup: String,
    /// Without brackets, trailing dot and zone.
    pub tls_name: String,
}

impl Host {
    pub fn new(text: &str) -> Result<Host, Error> {
        let bad = |why| Error::Config(format!("invalid host {text:?}: {why}").into());
        let host =
            |lookup: &str, name: &str| Ok(Host { lookup: lookup.to_owned(), tls_name: name.to_owned() });
        if let Some(inside) = text.strip_prefix('[') {
            let inside = inside.strip_suffix(']').ok_or_else(|| bad("its closing bracket is missing"))?;
            let (address, zone) = inside.split_once('%').unwrap_or((inside, "none"));
            let is_zone =
                !zone.is_empty() && zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
            return match address.parse::<Ipv6Addr>() {
                Ok(_) if is_zone => host(inside, address),
                _ => Err(bad("its brackets do not contain a valid IPv6 address")),
            };
        }
        if text.parse::<IpAddr>().is_ok() {
            return host(text, text);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        match name {
            "" => Err(bad("it is empty")),
            // The text is not shown, because a URL can contain a password.
            _ if name.contains("://") => {
                Err(Error::Config("the host is a URL: give only the name in it, or use from_url".into()))
            }
            _ if has_port(name) => Err(bad("set the port separately, with `port`")),
            _ if !name.is_ascii() => {
                let ascii = a_label(name).map_err(bad)?;
                Host::new(&(ascii + &text[name.len()..]))
            }
            _ if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) => {
                Err(bad("it contains an invalid character"))
            }
            _ if name.len() > 253 || name.split('.').any(|l| l.is_empty() || l.len() > 63) => {
                Err(bad("it is too long, or one of its labels is empty or too long"))
            }
            // This is always the loopback address (RFC 6761 §6.3), but hosts files do not list it with a trailing dot.
            _ if name.eq_ignore_ascii_case("localhost") => host(name, name),
            _ => host(text, name),
        }
    }

    /// Returns whether the name stands for this machine: `localhost`, a name below it, or a loopback address.
    pub fn is_local(&self) -> bool {
        match self.tls_name.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => self.is_localhost(),
        }
    }

    fn is_localhost(&self) -> bool {
        self.tls_name.rsplit('.').next().is_some_and(|label| label.eq_ignore_ascii_case("localhost"))
    }

    /// Returns the loopback addresses if the name is `localhost` or below it. These need no lookup (RFC 6761 §6.3):
    /// with neither a resolver nor a hosts file, a lookup would wait for a server that does not answer.
    pub fn loopback(&self, port: u16) -> Option<Vec<SocketAddr>> {
        let addresses = [(Ipv6Addr::LOCALHOST, port).into(), (Ipv4Addr::LOCALHOST, port).into()];
        self.is_localhost().then(|| addresses.into())
    }
}

/// Returns whether the text looks like `host:port`.
fn has_port(text: &str) -> bool {
    text.split_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_or_a_url_in_place_of_a_host_is_named_in_the_error() {
        let error = |text| Host::new(text).unwrap_err().to_string();
        for text in ["mail.example.org:587", "b\u{fc}cher.test:25", "127.0.0.1:25"] {
            assert_eq!(error(text), format!("invalid host {text:?}: set the port separately, with `port`"));
        }
        for text in ["smtp://mail.example.org", "smtps://user:secret@mail.example.org:465/"] {
            assert_eq!(error(text), "the host is a URL: give only the name in it, or use from_url");
        }
        for text in ["fe80::zz", ":25", "h:", "h:x", "h:65536"] {
            assert!(!error(text).contains("port"), "{text}");
        }
    }

    // Threats 9 to 12.
    #[test]
    fn hosts_are_normalised_or_refused() {
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
    fn only_localhost_names_and_loopback_addresses_are_local() {
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
            ("127.1", false, true), // the resolver decides
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

    // Threat 11.
    #[cfg(feature = "idna")]
    #[test]
    fn a_non_ascii_host_is_converted_to_a_labels() {
        for (text, lookup, name) in [
            ("Bücher.test", "xn--bcher-kva.test", "xn--bcher-kva.test"),
            ("bücher.test.", "xn--bcher-kva.test.", "xn--bcher-kva.test"),
            ("１２７.0.0.1", "127.0.0.1", "127.0.0.1"), // the result is treated like any other host
        ] {
            assert_eq!(Host::new(text).unwrap(), Host { lookup: lookup.into(), tls_name: name.into() });
        }
    }
}
