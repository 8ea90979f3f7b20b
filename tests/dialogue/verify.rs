//! Checking a server without sending a message.

use postino::Phase;

use super::*;

const NOOP_AND_QUIT: &str = "C: NOOP\nS: 250 ok\nC: QUIT\nS: 221 bye";

#[test]
fn a_server_is_verified_without_sending_a_message() {
    let server = Server::playing(
        ["-- hello SIZE 100, AUTH PLAIN LOGIN\nC: AUTH PLAIN AHUAcA==\nS: 235 in\n", NOOP_AND_QUIT].concat(),
    );
    let report = block_on(builder(&server).credentials("u", "p").verify()).unwrap();
    assert_eq!(report.peer, Some(server.address()));
    assert_eq!(report.server, format!("127.0.0.1:{}", server.port()));
    assert_eq!(report.greeting.as_ref().unwrap().text(), "mail.example.org ESMTP");
    assert_eq!(report.capabilities.size_limit(), Some(100));
    assert_eq!((&report.tls, report.login_mechanism.as_deref()), (&None, Some("PLAIN")));
    let text = report.to_string();
    assert!(
        text.ends_with("\nlogin: accepted with PLAIN") && text.contains("SIZE 100, AUTH PLAIN"),
        "{text}"
    );
    server.finish();
}

#[test]
fn the_errors_of_connecting_and_of_noop_are_reported() {
    let server = Server::playing("-- hello AUTH PLAIN\nC: AUTH PLAIN AHUAcA==\nS: 535 no");
    let error = block_on(builder(&server).credentials("u", "p").verify()).unwrap_err();
    assert!(matches!(error, Error::Auth { .. }), "{error:?}");
    server.finish();
    let server = Server::playing("-- hello\nC: NOOP\nS: 421 closing");
    let error = block_on(builder(&server).verify()).unwrap_err();
    assert_eq!(refusal(&error), (Phase::Noop, 421));
    server.finish();
}

#[test]
fn a_connected_client_gives_the_same_report() {
    let script = "-- hello AUTH LOGIN\nC: AUTH LOGIN\nS: 334 VXNlcg==\nC: dQ==\nS: 334 UGFzcw==\nC: cA==\nS: 235 in\nC: QUIT\nS: 221 bye";
    let server = Server::playing(script);
    let mut client = connect(&server);
    assert_eq!((client.login_mechanism(), client.report().login_mechanism), (None, None));
    block_on(client.login("u", "p")).unwrap();
    assert_eq!(client.login_mechanism(), Some("LOGIN"));
    assert!(client.report().to_string().contains("TLS: no\ncapabilities: AUTH LOGIN\n"));
    block_on(client.quit()).unwrap();
    server.finish();
}

#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn the_report_has_facts_about_the_tls_session_and_the_certificate() {
    let server = Server::playing(["-- tls good\n-- hello\n", NOOP_AND_QUIT].concat());
    let trusting = builder(&server).ca_certificate(crate::support::tls::CA);
    let report = block_on(trusting.security(postino::Security::Implicit).verify()).unwrap();
    let text = report.to_string();
    let tls = report.tls.unwrap();
    let certificate = tls.certificate.unwrap();
    assert_eq!(certificate.names, ["localhost", "127.0.0.1", "::1"]);
    assert_eq!(certificate.issuer, "postino test ca");
    let is_known = backend() == TlsBackend::Rustls;
    assert_eq!((tls.version.is_some(), tls.cipher_suite.is_some()), (is_known, is_known));
    assert!(
        text.contains("issued by postino test ca, valid until Sun, 1 Jan 2045 00:00:00 +0000\n"),
        "{text}"
    );
    server.finish();
    // The hash is a pin.
    let Some(pin) = certificate.sha256 else { return };
    let server = Server::playing(["-- tls good\n-- hello\n", NOOP_AND_QUIT].concat());
    let pinned = builder(&server).pinned_certificate(&pin).security(postino::Security::Implicit);
    block_on(pinned.verify()).unwrap();
    server.finish();
    let server = Server::playing(["-- tls good\n-- hello\n", NOOP_AND_QUIT].concat());
    let pinned = builder(&server).pinned_public_key(certificate.public_key_sha256.unwrap());
    block_on(pinned.security(postino::Security::Implicit).verify()).unwrap();
    server.finish();
}

#[test]
fn a_provider_is_a_builder_with_its_settings() {
    let debug = format!("{:?}", Client::provider("FastMail").unwrap());
    assert!(debug.contains("smtp.fastmail.com") && debug.contains("Implicit"), "{debug}");
    let error = Client::provider("fastmial").unwrap_err();
    assert!(matches!(&error, Error::Config(text) if text.contains("did you mean fastmail?")), "{error}");
}
