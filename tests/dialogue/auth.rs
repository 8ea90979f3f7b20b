//! Logins: mechanisms, refusals, and places where secrets must not be seen.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use postino::{Error, Phase, auth::Credentials};

use super::*;
use crate::support::{PATIENCE, journal};

fn login(server: &Server) -> Builder {
    builder(server).credentials("user", "secret")
}

#[test]
fn plain_is_sent_as_an_initial_response() {
    let server = Server::playing(
        "-- hello AUTH LOGIN PLAIN
         C: AUTH PLAIN AHVzZXIAc2VjcmV0
         S: 235 2.7.0 welcome
         C: NOOP
         S: 250 ok",
    );
    assert_open(&mut block_on(login(&server).connect()).unwrap());
}

#[test]
fn login_by_hand_can_follow_a_refusal_but_not_a_success() {
    let server = Server::playing(
        "-- hello AUTH PLAIN
         C: AUTH PLAIN AHVzZXIAc2VjcmV0
         S: 535 no
         C: AUTH PLAIN AHVzZXIAc2VjcmV0
         S: 235 welcome
         C: NOOP
         S: 250 ok",
    );
    let mut client = connect(&server);
    let error = block_on(client.login("user", "secret")).unwrap_err();
    assert_eq!(error.reply().unwrap().code(), 535);
    block_on(client.login("user", "secret")).unwrap();
    let again = block_on(client.login("user", "secret")).unwrap_err();
    assert!(matches!(again, Error::Auth { reply: None, .. }), "{again:?}");
    assert_open(&mut client);
}

#[test]
fn text_credentials_are_sent_as_utf_8_and_octets_unchanged() {
    let server = Server::playing(
        "-- hello AUTH PLAIN
         C: AUTH PLAIN AGrDtnJnAHDDpHNz
         S: 235 welcome",
    );
    block_on(builder(&server).credentials("jörg", "päss").connect()).unwrap();
    drop(server);

    let server = Server::playing(
        "-- hello AUTH PLAIN
         C: AUTH PLAIN AHUA4OE=
         S: 235 welcome",
    );
    block_on(builder(&server).credentials("u", b"\xe0\xe1").connect()).unwrap();
}

// Behaviour 67, threat 66.
#[test]
fn login_prompts_are_answered_in_order_whatever_they_say() {
    for (first, second) in [
        ("VXNlcm5hbWU6", "UGFzc3dvcmQ6"),
        ("", ""),
        ("VXNlciBOYW1lAA==", "UGFzc3dvcmQA"),
        ("VXNlcm5hbWU6 text - host", "UGFzc3dvcmQ6 text - host"),
        ("UGFzc3dvcmQ6", "VXNlcm5hbWU6"),
        ("Benutzer?", "Kennwort?"),
    ] {
        let server = Server::playing(format!(
            "-- hello AUTH LOGIN
             C: AUTH LOGIN
             S: 334 {first}
             C: dXNlcg==
             S: 334 {second}
             C: c2VjcmV0
             S: 235 welcome"
        ));
        block_on(login(&server).connect()).unwrap();
    }
}

// Threat 50.
#[test]
fn a_challenge_needs_no_text() {
    let server = Server::playing(
        "-- hello AUTH LOGIN
         C: AUTH LOGIN
         S: 334
         C: dXNlcg==
         S: 334
         C: c2VjcmV0
         S: 235",
    );
    block_on(login(&server).connect()).unwrap();
}

#[test]
fn an_empty_password_is_sent_as_an_empty_line() {
    let server = Server::playing(
        "-- hello AUTH LOGIN
         C: AUTH LOGIN
         S: 334 VXNlcm5hbWU6
         C: dXNlcg==
         S: 334 UGFzc3dvcmQ6
         C:
         S: 235 welcome",
    );
    block_on(builder(&server).credentials("user", "").connect()).unwrap();
}

// Behaviour 66.
#[test]
fn a_refused_mechanism_is_followed_by_the_next() {
    let server = Server::playing(
        "-- hello AUTH LOGIN PLAIN
         C: AUTH PLAIN AHVzZXIAc2VjcmV0
         S: 504 not that one
         C: AUTH LOGIN
         S: 334 VXNlcm5hbWU6
         C: dXNlcg==
         S: 334 UGFzc3dvcmQ6
         C: c2VjcmV0
         S: 235 welcome
         C: NOOP
         S: 250 ok",
    );
    assert_open(&mut block_on(login(&server).connect()).unwrap());
}

// Behaviour 66.
#[test]
fn the_last_refusal_is_the_error() {
    let server = Server::playing(
        "-- hello AUTH LOGIN PLAIN
         C: AUTH PLAIN AHVzZXIAc2VjcmV0
         S: 504 not that one
         C: AUTH LOGIN
         S: 334 VXNlcm5hbWU6
         C: dXNlcg==
         S: 535 nor you",
    );
    let error = connect_error(&login(&server));
    assert_eq!(error.reply().unwrap().to_string(), "535 nor you");
}

// Threat 64.
#[test]
fn a_refused_login_is_not_cancelled() {
    for refusal in ["502 what?", "535 no", "454 not now", "530 TLS first"] {
        let server = Server::playing(format!(
            "-- hello AUTH PLAIN
             C: AUTH PLAIN AHVzZXIAc2VjcmV0
             S: {refusal}"
        ));
        let error = connect_error(&login(&server));
        assert!(matches!(error, Error::Auth { reply: Some(_), .. }), "{error:?}");
    }
}

// Behaviour 68, threat 64.
#[test]
fn an_unexpected_extra_challenge_is_cancelled_once() {
    let server = Server::playing(
        "-- hello AUTH PLAIN
         C: AUTH PLAIN AHVzZXIAc2VjcmV0
         S: 334 and your shoe size?
         C: *
         S: 501 cancelled
         C: NOOP
         S: 250 ok",
    );
    let mut client = connect(&server);
    let error = block_on(client.login("user", "secret")).unwrap_err();
    assert_eq!(error.reply().unwrap().code(), 501);
    assert_open(&mut client);
}

// Threat 65.
#[test]
fn a_server_that_never_stops_challenging_is_given_up() {
    let server = Server::playing(
        "-- hello AUTH LOGIN
         C: AUTH LOGIN
         S: 334 more
         C: dXNlcg==
         S: 334 more
         C: c2VjcmV0
         S: 334 more
         C: *
         S: 334 more",
    );
    let mut client = connect(&server);
    let error = block_on(client.login("user", "secret")).unwrap_err();
    assert!(matches!(error, Error::Protocol { phase: Phase::Auth, .. }), "{error:?}");
    assert_closed(&mut client);
}

// Threat 52.
#[test]
fn only_334_continues_a_login() {
    for answer in ["354 go on", "335 go on", "300 well"] {
        let server = Server::playing(format!(
            "-- hello AUTH PLAIN
             C: AUTH PLAIN AHVzZXIAc2VjcmV0
             S: {answer}"
        ));
        let error = connect_error(&login(&server));
        assert!(matches!(error, Error::Protocol { phase: Phase::Auth, .. }), "{answer}: {error:?}");
    }
}

// Behaviour 68.
#[test]
fn any_2yz_reply_completes_a_login() {
    for code in [200, 220, 235, 250, 299] {
        let server = Server::playing(format!(
            "-- hello AUTH PLAIN
             C: AUTH PLAIN AHVzZXIAc2VjcmV0
             S: {code} in
             C: NOOP
             S: 250 ok"
        ));
        assert_open(&mut block_on(login(&server).connect()).unwrap());
    }
}

// Threat 52.
#[test]
fn a_235_before_the_last_step_of_auth_login_is_a_protocol_error() {
    let server = Server::playing(
        "-- hello AUTH LOGIN
         C: AUTH LOGIN
         S: 334 VXNlcm5hbWU6
         S: 235 welcome",
    );
    let error = connect_error(&login(&server));
    assert!(matches!(error, Error::Protocol { phase: Phase::Auth, .. }), "{error:?}");
}

// Threat 90.
#[test]
fn without_a_way_to_log_in_nothing_more_is_sent() {
    for keywords in ["", "AUTH", "AUTH GSSAPI NTLM", "XAUTH PLAIN", "AUTH=GSSAPI"] {
        let server = Server::playing(format!("-- hello {keywords}"));
        let error = connect_error(&login(&server));
        assert!(matches!(error, Error::Auth { reply: None, .. }), "{keywords}: {error:?}");
        assert!(error.is_permanent());
    }
}

// Threat 90.
#[test]
fn a_login_by_hand_where_auth_is_not_offered_leaves_the_connection_open() {
    let server = Server::playing(
        "-- hello
         C: NOOP
         S: 250 ok",
    );
    let mut client = connect(&server);
    assert!(matches!(block_on(client.login("user", "secret")), Err(Error::Auth { reply: None, .. })));
    assert_open(&mut client);
}

// Threat 59.
#[test]
fn the_old_auth_keyword_with_an_equals_sign_is_recognised() {
    let server = Server::playing(
        "-- hello AUTH=LOGIN plain
         C: AUTH PLAIN AHVzZXIAc2VjcmV0
         S: 235 welcome",
    );
    block_on(login(&server).connect()).unwrap();
}

// Threat 72.
#[test]
fn temporary_and_permanent_refusals_of_a_login_are_distinguished() {
    for (answer, transient) in [
        ("454 4.7.0 temporary failure", true),
        ("432 4.7.12 change your password", true),
        ("535 5.7.8 no", false),
        ("534 5.7.9 too weak", false),
        ("538 5.7.11 encryption required", false),
    ] {
        let server = Server::playing(format!(
            "-- hello AUTH PLAIN
             C: AUTH PLAIN AHVzZXIAc2VjcmV0
             S: {answer}"
        ));
        let error = connect_error(&login(&server));
        assert_eq!((error.is_transient(), error.is_permanent()), (transient, !transient), "{answer}");
        assert_eq!(error.reply().unwrap().to_string(), answer);
    }
}

// Threat 55.
#[test]
fn a_421_to_auth_ends_the_connection_without_a_second_try() {
    let server = Server::playing(
        "-- hello AUTH PLAIN LOGIN
         C: AUTH PLAIN AHVzZXIAc2VjcmV0
         S: 421 4.7.0 too many tries",
    );
    let mut client = connect(&server);
    let error = block_on(client.login("user", "secret")).unwrap_err();
    assert_eq!(error.reply().unwrap().code(), 421);
    assert!(error.is_transient());
    assert_closed(&mut client);
}

#[test]
fn long_credentials_wait_for_a_challenge() {
    let password = "p".repeat(400);
    let answer = "AHVzZXIA".to_owned() + &"cHBw".repeat(133) + "cA==";
    let server = Server::playing(format!(
        "-- hello AUTH PLAIN
         C: AUTH PLAIN
         S: 334
         C: {answer}
         S: 235 welcome"
    ));
    block_on(builder(&server).credentials("user", password).connect()).unwrap();
}

#[test]
fn an_auth_line_has_at_most_512_octets() {
    for length in 360..380 {
        let server = Server::running(|peer| {
            peer.play("-- hello AUTH PLAIN");
            let line = peer.line().unwrap();
            assert!(line.len() <= 512);
            if line == b"AUTH PLAIN\r\n" {
                peer.play("S: 334");
                peer.line().unwrap();
            }
            peer.play("S: 235 welcome");
        });
        block_on(builder(&server).credentials("user", "p".repeat(length)).connect()).unwrap();
    }
}

const PASSWORD: &str = "hunter2-is-a-password";
/// The password in base64, alone and in PLAIN's response for the user `carol`; and in hexadecimal.
const FORMS: [&str; 5] = [
    PASSWORD,
    "aHVudGVyMi1pcy1hLXBhc3N3b3Jk",
    "AGNhcm9sAGh1bnRlcjItaXMtYS1wYXNzd29yZA",
    "68756e746572322d69732d612d70617373776f7264",
    "68756E746572322D69732D612D70617373776F7264",
];

#[track_caller]
fn assert_secret(shown: &str) {
    for form in FORMS {
        assert!(!shown.contains(form), "{shown}");
    }
}

#[track_caller]
fn assert_nothing_logged() {
    for form in FORMS {
        assert_eq!(journal::lines_with(form), Vec::<String>::new());
    }
}

fn secret_login(server: &Server) -> Builder {
    builder(server).credentials("carol", PASSWORD)
}

// Threat 70.
#[test]
fn no_log_shows_a_password() {
    let server = Server::playing(
        "-- hello AUTH LOGIN PLAIN
         C: AUTH PLAIN AGNhcm9sAGh1bnRlcjItaXMtYS1wYXNzd29yZA==
         S: 504 not that one
         C: AUTH LOGIN
         S: 334 VXNlcm5hbWU6
         C: Y2Fyb2w=
         S: 334 UGFzc3dvcmQ6
         C: aHVudGVyMi1pcy1hLXBhc3N3b3Jk
         S: 235 welcome, threat 70",
    );
    let builder = secret_login(&server);
    let client = block_on(builder.connect()).unwrap();
    assert_secret(&format!("{builder:?} {client:?}"));
    assert!(!journal::lines_with("C: AUTH PLAIN ***").is_empty(), "the log is kept");
    assert!(!journal::lines_with("235 welcome, threat 70").is_empty(), "the log is kept");
    assert_nothing_logged();
}

// Threat 71.
#[test]
fn a_password_repeated_in_a_refusal_is_in_no_error_and_no_log() {
    for form in FORMS {
        for code in [535, 454, 421, 354, 221] {
            let server = Server::running(move |peer| {
                peer.play("-- hello AUTH PLAIN");
                peer.line().unwrap();
                peer.say(format!("{code} 5.7.8 carol is not {form}\r\n"));
            });
            let error = connect_error(&secret_login(&server));
            let source = error.source().map(ToString::to_string);
            assert_secret(&format!("{error} {error:?} {source:?}"));
        }
    }
    assert_nothing_logged();
}

// Threat 71.
#[test]
fn a_password_repeated_in_the_reply_to_a_login_is_not_logged() {
    let server = Server::running(|peer| {
        peer.play("-- hello AUTH PLAIN");
        peer.line().unwrap();
        peer.say(format!("235 welcome carol, {PASSWORD}\r\n"));
    });
    block_on(secret_login(&server).connect()).unwrap();
    assert_nothing_logged();
}

// Threat 71.
#[test]
fn a_password_repeated_in_a_challenge_is_not_logged() {
    let server = Server::playing(
        "-- hello AUTH LOGIN
         C: AUTH LOGIN
         S: 334 VXNlcm5hbWU6
         C: Y2Fyb2w=
         S: 334 aHVudGVyMi1pcy1hLXBhc3N3b3Jk
         C: aHVudGVyMi1pcy1hLXBhc3N3b3Jk
         S: 235 welcome",
    );
    block_on(secret_login(&server).connect()).unwrap();
    assert_nothing_logged();
}

// Threat 61.
#[test]
fn credentials_are_sent_in_clear_to_a_host_with_a_local_name() {
    for host in ["127.0.0.1", "localhost", "LOCALHOST.", "mail.localhost", "::ffff:127.0.0.1"] {
        for security in [postino::Security::Plaintext, postino::Security::Auto] {
            let server = Server::playing(
                "-- hello AUTH PLAIN
                 C: AUTH PLAIN AHVzZXIAc2VjcmV0
                 S: 235 welcome",
            );
            let login = named(&server, host).credentials("user", "secret").security(security);
            let client = block_on(login.connect()).unwrap();
            assert!(client.peer_addr().unwrap().ip().to_canonical().is_loopback(), "{host}");
        }
    }
}

// Threat 61.
#[test]
fn a_name_that_merely_resolves_to_loopback_does_not_count_as_local() {
    for host in ["mail.example.org", "localhost.example.org", "localhost.localdomain"] {
        let server = Server::playing("");
        let plain =
            Client::builder(host).addresses([server.address()]).security(postino::Security::Plaintext);
        let error = connect_error(&plain.credentials("user", "secret"));
        assert!(matches!(error, Error::Config(_)) && error.to_string().contains("without TLS"), "{error:?}");
        drop(server);

        let server = Server::playing(offer_seen_by(postino::Security::Auto));
        let auto = Client::builder(host).addresses([server.address()]).hello_name("client.example.org");
        let error = connect_error(&auto.credentials("user", "secret"));
        assert!(matches!(error, Error::TlsRequired | Error::Config(_)), "{error:?}");
    }
}

/// Plays the server for a client that must not log in without TLS. If it is certain in advance that there will be no
/// TLS, the connection is closed before anything is sent.
fn offer_seen_by(security: postino::Security) -> &'static str {
    let may_have_tls =
        cfg!(any(feature = "native-tls", feature = "rustls")) && security == postino::Security::Auto;
    if may_have_tls { "-- hello AUTH PLAIN" } else { "" }
}

/// Returns an address of this machine that is not loopback, if it has one. Nothing is sent.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback())
}

// Threat 61.
#[test]
fn a_local_host_name_with_another_address_does_not_count_as_local() {
    let Some(own) = own_address() else { return println!("this machine has loopback addresses only") };
    for security in [postino::Security::Plaintext, postino::Security::Auto] {
        for host in ["localhost", "127.0.0.1"] {
            let server = Server::playing_at(own, offer_seen_by(security));
            let builder = Client::builder(host).addresses([server.address()]).security(security);
            let error =
                connect_error(&builder.hello_name("client.example.org").credentials("user", "secret"));
            assert!(matches!(error, Error::TlsRequired | Error::Config(_)), "{error:?}");
        }
    }
}

// Threat 61.
#[test]
fn a_login_by_hand_without_tls_needs_a_local_name_too() {
    let server = Server::playing("-- hello AUTH PLAIN\nC: NOOP\nS: 250 ok");
    let builder = Client::builder("mail.example.org").addresses([server.address()]);
    let builder = builder.security(postino::Security::Plaintext).hello_name("client.example.org");
    let mut client = block_on(builder.connect()).unwrap();
    let error = block_on(client.login("user", "secret")).unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error:?}");
    assert_open(&mut client);
}

#[test]
fn a_login_in_clear_that_the_caller_allowed_is_logged_as_a_warning() {
    let server = Server::playing(
        "-- hello AUTH PLAIN
         C: AUTH PLAIN AHVzZXIAc2VjcmV0
         S: 235 welcome",
    );
    let builder = Client::builder("mail.example.org").addresses([server.address()]);
    let builder = builder.hello_name("client.example.org").security(postino::Security::Plaintext);
    let login = builder.credentials("user", "secret").danger_plaintext_credentials(true);
    let client = block_on(login.connect()).unwrap();
    let warning =
        format!("#{} logging in without TLS (danger_plaintext_credentials)", client.connection_number());
    let lines = journal::lines_with(&warning);
    assert_eq!(lines.len(), 1, "{lines:?}");
    drop(client);
    drop(server);

    let server = Server::playing(
        "-- hello AUTH PLAIN
         C: AUTH PLAIN AHVzZXIAc2VjcmV0
         S: 235 welcome",
    );
    let client = block_on(login_allowed(&server).connect()).unwrap();
    let number = format!("#{} logging in without TLS", client.connection_number());
    assert_eq!(journal::lines_with(&number), Vec::<String>::new(), "it is local");
}

fn login_allowed(server: &Server) -> Builder {
    login(server).danger_plaintext_credentials(true)
}

#[test]
fn after_two_refused_logins_by_hand_no_third_is_sent() {
    let server = Server::playing(
        "-- hello AUTH PLAIN LOGIN
         C: AUTH PLAIN AHVzZXIAc2VjcmV0
         S: 535 no
         C: AUTH LOGIN
         S: 334
         C: dXNlcg==
         S: 334
         C: c2VjcmV0
         S: 535 no
         C: NOOP
         S: 250 ok",
    );
    let mut client = connect(&server);
    block_on(client.login("user", "secret")).unwrap_err();
    for _ in 0..2 {
        let error = block_on(client.auth("PLAIN", &Credentials::new("user", "other").unwrap())).unwrap_err();
        assert!(error.to_string().contains("refused two logins"), "{error}");
        assert!(matches!(error, Error::Auth { reply: None, .. }) && error.is_permanent());
    }
    assert_open(&mut client);
}

// Threat 70.
#[test]
fn debug_of_a_client_after_a_broken_login_shows_no_secret() {
    let (ready, go) = mpsc::channel();
    let (said, heard) = mpsc::channel();
    let server = Server::running(move |peer| {
        peer.play("-- hello AUTH PLAIN");
        go.recv_timeout(PATIENCE).unwrap();
        peer.say("250 nobody asked\r\n");
        said.send(()).unwrap();
    });
    let mut client = connect(&server);
    ready.send(()).unwrap();
    heard.recv_timeout(PATIENCE).unwrap();
    block_on(client.login("user", "secret")).unwrap_err();
    let shown = format!("{client:?}");
    assert!(!shown.contains("secret") && !shown.contains("AHVzZXIAc2VjcmV0"), "{shown}");
    assert!(!shown.contains("65, 85, 84, 72"), "AUTH as octets: {shown}");
}

#[test]
fn a_login_over_a_closed_connection_is_a_transient_error() {
    let server = Server::playing("-- hello");
    let mut client = connect(&server);
    client.close();
    let error = block_on(client.login("user", "secret")).unwrap_err();
    assert!(matches!(error, Error::NotConnected) && error.is_transient(), "{error:?}");
}

// Behaviour 64.
#[test]
fn without_auth_the_error_says_so_and_without_tls_suggests_tls() {
    let server = Server::playing("-- hello\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let error = block_on(client.login("user", "secret")).unwrap_err();
    assert_eq!(error.to_string(), "the server offers no login; it may offer more over TLS");
    assert_open(&mut client);
}

// Behaviour 64.
#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn without_auth_over_tls_the_error_does_not_suggest_tls() {
    let server = Server::playing("-- tls good\n-- hello\nC: NOOP\nS: 250 ok");
    let builder = builder(&server).security(postino::Security::Implicit);
    let mut client = block_on(builder.ca_certificate(crate::support::tls::CA).connect()).unwrap();
    let error = block_on(client.login("user", "secret")).unwrap_err();
    assert_eq!(error.to_string(), "the server offers no login");
    assert_open(&mut client);
}

// Behaviour 65.
#[test]
fn without_a_common_mechanism_the_error_lists_those_of_the_server() {
    let server = Server::playing("-- hello AUTH GSSAPI NTLM\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let error = block_on(client.login("user", "secret")).unwrap_err().to_string();
    assert!(
        error.contains("no login mechanism is supported by both sides") && error.contains("GSSAPI NTLM"),
        "{error}"
    );
    assert_open(&mut client);
}

// Behaviour 69.
#[test]
fn each_step_of_a_login_has_a_time_limit() {
    let limit = Duration::from_millis(300);
    for steps in [
        "C: AUTH LOGIN",
        "C: AUTH LOGIN\nS: 334\nC: dXNlcg==",
        "C: AUTH LOGIN\nS: 334\nC: dXNlcg==\nS: 334\nC: c2VjcmV0",
    ] {
        let server = Server::playing(format!("-- hello AUTH LOGIN\n{steps}\n-- silence"));
        let mut client = block_on(builder(&server).timeout(limit).connect()).unwrap();
        let start = Instant::now();
        let error = block_on(client.login("user", "secret")).unwrap_err();
        assert!(matches!(error, Error::Timeout(Phase::Auth)), "{steps}: {error:?}");
        assert!(start.elapsed() >= limit * 9 / 10 && start.elapsed() < limit * 10, "{:?}", start.elapsed());
        assert_closed(&mut client);
    }
}

// Threat 71.
#[test]
fn a_password_repeated_in_an_invalid_reply_is_in_no_error_and_no_log() {
    for form in FORMS {
        for start in ["no reply: ", "235-welcome\r\n", "235 welcome\r\n"] {
            let server = Server::running(move |peer| {
                peer.play("-- hello AUTH PLAIN");
                peer.line().unwrap();
                peer.say(format!("{start}{form}\r\n"));
            });
            let error = connect_error(&secret_login(&server));
            assert!(matches!(error, Error::Protocol { phase: Phase::Auth, .. }), "{error:?}");
            let source = error.source().map(ToString::to_string);
            assert_secret(&format!("{error} {error:?} {source:?}"));
        }
    }
    assert_nothing_logged();
}

// Threat 24.
#[test]
fn credentials_that_no_mechanism_can_carry_are_refused_before_connecting() {
    let nobody = || Client::builder("127.0.0.1").port(9);
    for builder in [
        nobody().credentials("user\0", "secret"),
        nobody().credentials("user", "sec\0ret"),
        nobody().oauth_token("user\x01", "token"),
        nobody().oauth_token("user", "to\r\nken"),
        nobody().oauth_token("user", "to\x01ken"),
        nobody().external("a\0b"),
        nobody().anonymous("a\r\nb"),
    ] {
        let error = block_on(builder.connect()).unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        assert!(!error.to_string().contains("sec"), "{error}");
    }
}
