//! What is known about a server after connecting.

use std::{fmt, net::SocketAddr};

use crate::{Capabilities, Reply, TlsVersion, message::date_time, tls::CertificateFacts};

/// What a client knows about its server after connecting. Returned by [`Builder::verify`](crate::Builder::verify) and
/// [`Client::report`](crate::Client::report).
///
/// `Display` formats the report as several lines, without control characters and without a line ending after the last
/// line. A report contains no secrets.
///
/// ```text
/// server: mail.example.org:465
/// connected to: 192.0.2.7:465
/// greeting: 220 mail.example.org ESMTP
/// TLS: 1.3, TLS_AES_256_GCM_SHA384
/// certificate: for mail.example.org, issued by R11, valid until Tue, 1 Dec 2026 09:30:00 +0000
/// capabilities: PIPELINING, SIZE 52428800, AUTH PLAIN LOGIN
/// login: accepted with PLAIN
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerReport {
    /// The host and port of the server, or its Unix socket.
    pub server: String,
    /// The address that the client is connected to, which can be that of a [proxy](crate::Builder::proxy). `None` for a
    /// Unix socket, or if the address is unknown.
    pub peer: Option<SocketAddr>,
    /// The server's greeting, or `None` if the last attempt to reconnect failed before the login.
    pub greeting: Option<Reply>,
    /// What the server offers. Empty if it supports only HELO.
    pub capabilities: Capabilities,
    /// The TLS session, or `None` if the connection is not encrypted.
    pub tls: Option<TlsFacts>,
    /// The name of the mechanism that the login used, such as `PLAIN`; `None` without a login.
    pub login_mechanism: Option<String>,
}

/// Facts about a TLS session, part of a [`ServerReport`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsFacts {
    /// The version of TLS; `None` with native-tls, which does not report it.
    pub version: Option<TlsVersion>,
    /// The IANA name of the cipher suite; `None` with native-tls, which does not report it.
    pub cipher_suite: Option<String>,
    /// The server's certificate; `None` if the TLS library does not return it.
    pub certificate: Option<CertificateFacts>,
}

impl fmt::Display for ServerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line_ending = "";
        let mut line = |name: &str, value: &str| {
            let value: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            write!(f, "{}{name}: {}", std::mem::replace(&mut line_ending, "\n"), value.trim_end())
        };
        line("server", &self.server)?;
        if let Some(peer) = self.peer {
            line("connected to", &peer.to_string())?;
        }
        if let Some(greeting) = &self.greeting {
            line("greeting", &greeting.to_string())?;
        }
        match &self.tls {
            None => line("TLS", "no")?,
            Some(tls) => {
                line("TLS", &tls.to_string())?;
                if let Some(certificate) = &tls.certificate {
                    line("certificate", &certificate.to_string())?;
                }
            }
        }
        line("capabilities", &self.capabilities.to_string())?;
        match &self.login_mechanism {
            None => line("login", "none"),
            Some(name) => line("login", &format!("accepted with {name}")),
        }
    }
}

/// Formats the version and the cipher suite as one line, or `yes` if neither is known.
impl fmt::Display for TlsFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.map(|version| match version {
            TlsVersion::Tls1_2 => "1.2",
            TlsVersion::Tls1_3 => "1.3",
        });
        match (version, self.cipher_suite.as_deref()) {
            (None, None) => f.write_str("yes"),
            (Some(version), None) => f.write_str(version),
            (None, Some(suite)) => f.write_str(suite),
            (Some(version), Some(suite)) => write!(f, "{version}, {suite}"),
        }
    }
}

/// Formats the names, the issuer and the end of the validity period as one line.
impl fmt::Display for CertificateFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names =
            if self.names.is_empty() { "an unnamed subject".to_owned() } else { self.names.join(" ") };
        write!(f, "for {names}, issued by ")?;
        f.write_str(if self.issuer.is_empty() { "an unnamed issuer" } else { &self.issuer })?;
        match self.not_after.and_then(date_time) {
            Some(end) => write!(f, ", valid until {end}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_printed_without_control_characters() {
        let reply = Reply::parse(b"250-hi\r\n250-SIZE 100\r\n250 X-\x1b[2J\r\n").unwrap();
        let report = ServerReport {
            server: "mail.example.org:465".to_owned(),
            peer: Some("192.0.2.7:465".parse().unwrap()),
            greeting: Some(Reply::parse(b"220 hi\x07\r\n").unwrap()),
            capabilities: Capabilities::parse(reply.borrow()),
            tls: Some(TlsFacts {
                version: Some(TlsVersion::Tls1_3),
                cipher_suite: Some("TLS_AES_256_GCM_SHA384".to_owned()),
                certificate: Some(CertificateFacts::read(b"not a certificate", |_| None)),
            }),
            login_mechanism: Some("PLAIN".to_owned()),
        };
        assert_eq!(
            report.to_string(),
            "server: mail.example.org:465\n\
             connected to: 192.0.2.7:465\n\
             greeting: 220 hi\\u{7}\n\
             TLS: 1.3, TLS_AES_256_GCM_SHA384\n\
             certificate: for an unnamed subject, issued by an unnamed issuer\n\
             capabilities: SIZE 100, X- [2J\n\
             login: accepted with PLAIN"
        );
        let plain = ServerReport { peer: None, greeting: None, tls: None, login_mechanism: None, ..report };
        let expected = "server: mail.example.org:465\nTLS: no\ncapabilities: SIZE 100, X- [2J\nlogin: none";
        assert_eq!(plain.to_string(), expected);
    }
}
