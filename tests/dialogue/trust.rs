//! Each kind of certificate, with TLS from the first octet and with STARTTLS, in TLS 1.2 and 1.3: whether it is
//! trusted, if not why, and that the server then receives nothing more. (`tests/interop/trust.rs` does this with real
//! servers.)

use postino::{Error, Security};

use super::*;
use crate::support::tls::CA;

const TRUSTED: Option<&str> = None;
const OTHER_NAME: Option<&str> = Some("hostname mismatch");
const OTHER_ADDRESS: Option<&str> = Some("ip address mismatch");

/// The certificate (in `tests/support/certs`), the name to verify, and why it is not trusted.
const CERTIFICATES: &[(&str, &str, Option<&str>)] = &[
    ("good", "127.0.0.1", TRUSTED),
    ("good", "::1", TRUSTED),
    ("good", "[::1]", TRUSTED),
    ("good", "localhost", TRUSTED),
    ("good", "localhost.", TRUSTED),
    ("good", "mail.example.org", OTHER_NAME),
    ("good", "127.0.0.2", OTHER_ADDRESS),
    ("other-host", "localhost", OTHER_NAME),
    ("other-host", "127.0.0.1", OTHER_ADDRESS),
    ("expired", "127.0.0.1", Some("certificate has expired")),
    ("not-yet-valid", "127.0.0.1", Some("certificate is not yet valid")),
    ("self-signed", "127.0.0.1", Some("self signed certificate")),
    ("unknown-issuer", "127.0.0.1", Some("unable to get local issuer certificate")),
    ("for-clients", "127.0.0.1", Some("certificate purpose")), // unsupported or unsuitable, by the version
    ("common-name-only", "localhost", TRUSTED),                // not by rustls: see Builder::tls_name
    ("common-name-only", "mail.example.org", OTHER_NAME),
    ("name-only", "localhost", TRUSTED),
    ("name-only", "127.0.0.1", OTHER_ADDRESS),
    ("address-only", "127.0.0.1", TRUSTED),
    ("address-only", "localhost", OTHER_NAME),
    ("address-as-name", "127.0.0.1", OTHER_ADDRESS),
    ("wildcard", "mail.example.org", TRUSTED),
    ("wildcard", "a.mail.example.org", OTHER_NAME),
    ("wildcard", "example.org", OTHER_NAME),
    ("wildcard-of-all", "localhost", OTHER_NAME),
    ("wildcard-of-all", "example.org", OTHER_NAME),
    ("a-label", "xn--bcher-kva.test", TRUSTED),
    #[cfg(feature = "idna")]
    ("a-label", "b\u{fc}cher.test", TRUSTED),
    ("a-label", "bucher.test", OTHER_NAME),
];

/// The script before the handshake, and what the server receives of it.
const WAYS: [(Security, &str, &str); 2] = [
    (Security::Implicit, "", ""),
    (
        Security::StartTls,
        "-- hello STARTTLS\nC: STARTTLS\nS: 220 go ahead\n",
        "EHLO client.example.org\r\nSTARTTLS\r\n",
    ),
];

/// Connects to a server with this certificate; returns the error, and all that the server received.
fn connect_to(
    base: &Builder,
    certificate: &str,
    (security, before, _): (Security, &str, &str),
    trusted: bool,
) -> (Option<Error>, String) {
    let script = match (trusted, security) {
        (false, _) => format!("{before}-- no tls {certificate}"),
        (_, Security::Implicit) => format!("-- tls {certificate}\n-- hello"),
        _ => format!("{before}-- tls {certificate}\nC: EHLO client.example.org\nS: 250 mail.example.org"),
    };
    let server = Server::playing(script);
    let result = block_on(base.clone().port(server.port()).security(security).connect());
    let error = result.err(); // the client is gone
    (error, String::from_utf8(server.finish()).unwrap())
}

// Threats 7 and 8.
#[test]
fn each_certificate_gets_its_verdict_and_untrusted_servers_hear_nothing() {
    let trusting = Client::builder("127.0.0.1").hello_name("client.example.org").ca_certificate(CA);
    let trusting = trusting.timeout(PATIENCE).final_reply_timeout(PATIENCE).tls_backend(backend());
    for (certificate, name, why) in CERTIFICATES {
        let (without_names, version_1) =
            (*certificate == "common-name-only", &Some("unsupportedcertversion"));
        let why = if without_names && backend() == TlsBackend::Rustls { version_1 } else { why };
        let base = trusting.clone().tls_name(*name);
        for (way, version) in WAYS.iter().flat_map(|way| [(*way, ""), (*way, " 1.2")]) {
            let cell = format!("{certificate}{version} for {name} by {:?}", way.0);
            let (error, heard) = connect_to(&base, &format!("{certificate}{version}"), way, why.is_none());
            match (why, error) {
                (None, None) => assert!(heard.ends_with("EHLO client.example.org\r\n"), "{cell}: {heard:?}"),
                (Some(why), Some(Error::Certificate { name: verified, reason, .. })) => {
                    // OpenSSL's versions differ in these.
                    let plain = reason.to_ascii_lowercase().replace('-', " ");
                    assert!(plain.contains(why), "{cell}: {reason}");
                    assert_eq!((verified.as_str(), heard.as_str()), (*name, way.2), "{cell}");
                }
                (_, error) => panic!("{cell}: {error:?}"),
            }
        }
    }
}
