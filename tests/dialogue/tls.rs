//! STARTTLS, TLS from the first octet, and their failures.

use std::{
    io::{Read, Write},
    net::TcpListener,
    time::{Duration, Instant},
};

use postino::{Error, Outcome, Phase, Security, TlsVersion};

use super::*;
use crate::support::{
    BlackHole, journal,
    tls::{CA, acceptor, is_resumed},
};

fn starttls(server: &Server) -> Builder {
    builder(server).security(Security::StartTls).ca_certificate(CA)
}

fn implicit(server: &Server) -> Builder {
    builder(server).security(Security::Implicit).ca_certificate(CA)
}

const UP_TO_STARTTLS: &str = "-- hello STARTTLS, AUTH PLAIN, SIZE 10\nC: STARTTLS\n";

const SECURED: &str = "-- hello STARTTLS
     C: STARTTLS
     S: 220 go ahead
     -- tls good
     C: EHLO client.example.org
     S: 250 mail.example.org\n";

/// TLS versions of a double: 1.3, or at most 1.2.
const VERSIONS: [&str; 2] = ["-- tls good\n", "-- tls good 1.2\n"];

const TRANSACTION: &str = "-- envelope
     C: DATA
     S: 354 go on
     C: Hello
     C: .\n";

// Behaviour 56.
#[test]
fn starttls_secures_the_connection_and_sends_ehlo_again() {
    let server = Server::playing(format!("{SECURED}{TRANSACTION}S: 250 ok\nC: QUIT\nS: 221 bye\n-- close"));
    let mut client = block_on(starttls(&server).connect()).unwrap();
    assert!(client.is_encrypted());
    assert_eq!(client.greeting().unwrap().code(), 220);
    accept(&mut client, &mail());
    block_on(client.quit()).unwrap();
}

#[test]
fn implicit_tls_comes_before_the_greeting() {
    let server = Server::playing(format!("-- tls good\n-- hello\n{TRANSACTION}S: 250 ok"));
    let mut client = block_on(implicit(&server).connect()).unwrap();
    assert!(client.is_encrypted());
    accept(&mut client, &mail());
}

#[test]
fn a_large_message_goes_through_tls() {
    let text = b"0123456789abcdef0123456789abcde\n".repeat(1 << 16);
    for version in VERSIONS {
        let server = Server::running(move |peer| {
            peer.play(&SECURED.replace(VERSIONS[0], version));
            peer.play("-- envelope\nC: DATA\nS: 354 go on");
            let body = peer.body();
            assert!(body == b"0123456789abcdef0123456789abcde\r\n".repeat(1 << 16));
            peer.say("250 ok\r\n");
        });
        accept(&mut block_on(starttls(&server).connect()).unwrap(), &super::text(&text));
    }
}

// Threat 76.
#[test]
fn a_pipelined_flight_over_tls_does_not_deadlock_with_a_talkative_server() {
    let recipients: Vec<_> = (0..1000).map(|i| format!("recipient-{i}@example.org")).collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    for version in VERSIONS {
        let server = Server::cramped(move |peer| {
            peer.may_run_ahead = true;
            peer.play(&format!("{version}-- hello PIPELINING"));
            for _ in 0..1001 {
                peer.line().unwrap();
                peer.say(format!("250 {:.<300}\r\n", "a long answer "));
            }
            peer.play("C: DATA\nS: 354 go on\n-- body\nS: 250 ok");
        });
        accept(&mut block_on(implicit(&server).connect()).unwrap(), &mail_to(&recipients));
    }
}

// Behaviour 57, threat 1.
#[test]
fn octets_after_the_220_are_treated_as_an_injection() {
    for injected in [
        r"S: 220 go ahead\r\n250-evil\r\n250 AUTH PLAIN",
        r"S... 220 go ahead\r\n250-evil\r\n250 AUTH",
        r"S... 220 go ahead\r\n2",
        r"S... 220 go ahead\r\n\n",
        r"S... 220 go ahead\r\n\0",
    ] {
        let server = Server::playing(format!("{UP_TO_STARTTLS}{injected}"));
        let error = connect_error(&starttls(&server).credentials("user", "secret"));
        assert!(
            matches!(error, Error::Protocol { phase: Phase::StartTls | Phase::Tls, .. }),
            "{injected}: {error:?}"
        );
    }
}

// Threat 1.
#[test]
fn octets_in_a_later_segment_than_the_220_break_the_handshake() {
    let server = Server::playing(format!(
        "{UP_TO_STARTTLS}S: 220 go ahead
         -- pause
         S: 250-evil
         S: 250 AUTH PLAIN
         -- ignore"
    ));
    let error = connect_error(&starttls(&server).credentials("user", "secret"));
    assert!(matches!(error, Error::Tls { .. } | Error::Protocol { .. }), "{error:?}");
}

// Behaviour 53, threat 2.
#[test]
fn a_missing_required_starttls_is_an_error_after_ehlo() {
    let server = Server::playing("-- hello AUTH PLAIN, XSECURITY=NONE, XSTARTTLS");
    let error = connect_error(&starttls(&server).credentials("user", "secret"));
    assert!(matches!(error, Error::TlsRequired), "{error:?}");
    assert!(error.is_permanent());
}

// Threat 3.
#[test]
fn starttls_accepts_only_220() {
    for (answer, is_refusal) in [
        ("454 TLS not available", true),
        ("500 what?", true),
        ("501 no", true),
        ("421 shutting down", true),
        ("250 ok", false),
        ("334 ", false),
        ("220-go\r\n250 ahead", false),
    ] {
        for security in [Security::StartTls, Security::Opportunistic] {
            let script = UP_TO_STARTTLS.to_owned();
            let server = Server::running(move |peer| {
                peer.play(&script);
                peer.say(format!("{answer}\r\n"));
            });
            let error = connect_error(&starttls(&server).security(security).credentials("user", "secret"));
            if is_refusal {
                assert_eq!(refusal(&error).0, Phase::StartTls, "{answer}");
            } else {
                assert!(
                    matches!(error, Error::Protocol { phase: Phase::StartTls, .. }),
                    "{answer}: {error:?}"
                );
            }
        }
    }
}

// Threat 3.
#[test]
fn a_220_of_several_lines_starts_tls() {
    let server = Server::playing(
        "-- hello STARTTLS
         C: STARTTLS
         S: 220-go
         S: 220 ahead
         -- tls good
         C: EHLO client.example.org
         S: 250 mail.example.org",
    );
    assert!(block_on(starttls(&server).connect()).unwrap().is_encrypted());
}

// Behaviour 56, threat 5.
#[test]
fn capabilities_from_before_tls_are_forgotten() {
    let server = Server::playing(format!(
        "{UP_TO_STARTTLS}S: 220 go ahead
         -- tls good
         C: EHLO client.example.org
         S: 250-mail.example.org
         S: 250 8BITMIME"
    ));
    let client = block_on(starttls(&server).connect()).unwrap();
    assert_eq!(client.capabilities().iter().collect::<Vec<_>>(), [("8BITMIME", "")]);
}

// Threat 5.
#[test]
fn a_login_offered_only_before_tls_is_not_used() {
    let server = Server::playing(format!(
        "{UP_TO_STARTTLS}S: 220 go ahead
         -- tls good
         C: EHLO client.example.org
         S: 250 mail.example.org"
    ));
    let error = connect_error(&starttls(&server).credentials("user", "secret"));
    assert!(matches!(error, Error::Auth { reply: None, .. }), "{error:?}");
}

#[test]
fn starttls_offered_within_tls_is_not_used() {
    let server = Server::playing(
        "-- tls good
         -- hello STARTTLS",
    );
    assert!(block_on(implicit(&server).connect()).unwrap().is_encrypted());
}

// Threat 4.
#[test]
fn an_ehlo_refused_within_tls_is_not_followed_by_helo() {
    let server = Server::playing(
        "-- hello STARTTLS
         C: STARTTLS
         S: 220 go ahead
         -- tls good
         C: EHLO client.example.org
         S: 500 not any more",
    );
    assert_eq!(refusal(&connect_error(&starttls(&server))), (Phase::Hello, 500));
}

// Threat 6.
#[test]
fn a_reply_injected_after_that_to_the_second_ehlo_is_an_error() {
    let server = Server::playing(format!("{SECURED}S: 250 ok"));
    match block_on(starttls(&server).connect()) {
        Err(error) => assert!(matches!(error, Error::Protocol { .. }), "{error:?}"),
        Ok(mut client) => {
            // It may arrive after connecting; in this record layer, it is then seen before MAIL is sent.
            let error = send_error(&mut client, &mail());
            assert_eq!(outcome(&error), Outcome::NotSent);
        }
    }
}

// Threat 7.
#[test]
fn a_server_with_an_untrusted_certificate_gets_nothing_but_the_handshake() {
    for certificate in ["other-host", "expired", "unknown-issuer", "self-signed"] {
        let server = Server::playing(format!("{UP_TO_STARTTLS}S: 220 go ahead\n-- no tls {certificate}"));
        let error = connect_error(&starttls(&server).credentials("user", "secret"));
        assert!(matches!(error, Error::Certificate { .. }), "{certificate}: {error:?}");
        assert!(error.is_permanent());
        drop(server);

        let server = Server::playing(format!("-- no tls {certificate}"));
        let error = connect_error(&implicit(&server).credentials("user", "secret"));
        assert!(matches!(error, Error::Certificate { .. }), "{certificate}: {error:?}");
        assert!(error.source().is_some());
    }
}

// Threat 7.
#[test]
fn opportunistic_tls_does_not_fall_back_to_plain_text() {
    let server = Server::playing(format!("{UP_TO_STARTTLS}S: 220 go ahead\n-- no tls self-signed"));
    let error = connect_error(&starttls(&server).security(Security::Opportunistic));
    assert!(matches!(error, Error::Certificate { .. }), "{error:?}");
}

#[test]
fn a_certificate_of_an_unknown_ca_is_not_trusted() {
    let server = Server::playing("-- no tls good");
    let error = connect_error(&builder(&server).security(Security::Implicit));
    assert!(matches!(error, Error::Certificate { .. }), "{error:?}");
}

// Behaviour 62.
#[test]
fn the_name_to_verify_can_be_set() {
    let server = Server::playing("-- tls other-host\n-- hello");
    block_on(implicit(&server).tls_name("mail.example.org").connect()).unwrap();
    drop(server);

    let server = Server::playing("-- no tls good");
    match connect_error(&implicit(&server).tls_name("mail.example.org")) {
        Error::Certificate { name, .. } => assert_eq!(name, "mail.example.org"),
        other => panic!("{other:?}"),
    }
}

// Threat 9.
#[test]
fn addresses_are_verified_as_addresses() {
    for host in ["::1", "[::1]"] {
        let server = Server::playing_v6("-- tls good\n-- hello");
        block_on(named(&server, host).security(Security::Implicit).ca_certificate(CA).connect()).unwrap();
        drop(server);
        let server = Server::playing_v6("-- no tls other-host");
        let error = connect_error(&named(&server, host).security(Security::Implicit).ca_certificate(CA));
        assert!(matches!(error, Error::Certificate { .. }), "{error:?}");
    }
    let server = Server::playing("-- tls good\n-- hello");
    block_on(implicit(&server).tls_name("[::1]").connect()).unwrap();
}

#[test]
fn a_name_is_verified_as_a_name() {
    let server = Server::playing("-- tls good\n-- hello");
    block_on(named(&server, "localhost").security(Security::Implicit).ca_certificate(CA).connect()).unwrap();
}

// Threat 10.
#[test]
fn a_trailing_dot_is_ignored_when_verifying_a_name() {
    let server = Server::playing("-- tls good\n-- hello");
    block_on(implicit(&server).tls_name("localhost.").connect()).unwrap();
}

#[test]
fn auto_does_not_use_starttls_to_loopback_without_credentials() {
    let server = Server::playing("-- hello STARTTLS");
    let client = block_on(builder(&server).security(Security::Auto).connect()).unwrap();
    assert!(!client.is_encrypted());
}

#[test]
fn auto_uses_starttls_with_credentials_where_it_is_offered() {
    let server = Server::playing(
        "-- hello STARTTLS, AUTH PLAIN
         C: STARTTLS
         S: 220 go ahead
         -- tls good
         C: EHLO client.example.org
         S: 250-mail.example.org
         S: 250 AUTH PLAIN
         C: AUTH PLAIN AHVzZXIAc2VjcmV0
         S: 235 welcome",
    );
    let builder = builder(&server).ca_certificate(CA).credentials("user", "secret");
    assert!(block_on(builder.connect()).unwrap().is_encrypted());
}

// Behaviour 53.
#[test]
fn opportunistic_tls_is_used_where_it_is_offered() {
    let server = Server::playing(SECURED);
    let client = block_on(starttls(&server).security(Security::Opportunistic).connect()).unwrap();
    assert!(client.is_encrypted());
    drop((client, server));

    let server = Server::playing("-- hello");
    let client = block_on(starttls(&server).security(Security::Opportunistic).connect()).unwrap();
    assert!(!client.is_encrypted());
}

// Behaviour 53.
#[test]
fn plaintext_does_not_use_starttls() {
    let server = Server::playing("-- hello STARTTLS");
    let client = block_on(builder(&server).security(Security::Plaintext).connect()).unwrap();
    assert!(!client.is_encrypted());
}

const SHORT: Duration = Duration::from_millis(300);

/// Asserts that the handshake fails when it times out, and not much later.
#[track_caller]
fn ends_in_time(builder: &Builder) {
    let start = Instant::now();
    let error = connect_error(builder);
    assert!(matches!(error, Error::Timeout(Phase::Tls)), "{error:?}");
    assert!(start.elapsed() >= SHORT * 9 / 10 && start.elapsed() < SHORT * 10, "{:?}", start.elapsed());
}

// Behaviour 59, threat 14.
#[test]
fn a_silent_handshake_ends_at_its_limit() {
    for (limited, start) in [(true, UP_TO_STARTTLS), (true, ""), (false, UP_TO_STARTTLS), (false, "")] {
        let consent = if start.is_empty() { "" } else { "S: 220 go ahead\n" };
        let server = Server::playing(format!("{start}{consent}-- ignore"));
        let builder = if start.is_empty() { implicit(&server) } else { starttls(&server) };
        if limited {
            ends_in_time(&builder.tls_timeout(SHORT));
        } else {
            ends_in_time(&builder.deadline(SHORT));
        }
    }
}

// Threat 14.
#[test]
fn a_dripping_handshake_ends_at_its_limit() {
    let server = Server::running(|peer| peer.drip_tls());
    ends_in_time(&implicit(&server).tls_timeout(SHORT));
    drop(server);

    let server = Server::running(|peer| peer.drip_tls());
    ends_in_time(&implicit(&server).deadline(SHORT));
    drop(server);

    let server = Server::running(|peer| {
        peer.play(&format!("{UP_TO_STARTTLS}S: 220 go ahead"));
        peer.drip_tls();
    });
    ends_in_time(&starttls(&server).tls_timeout(SHORT));
}

// Behaviour 59.
#[test]
fn an_end_before_the_handshake_is_an_error() {
    for end in ["-- close", "-- reset"] {
        let server = Server::playing(format!("{UP_TO_STARTTLS}S: 220 go ahead\n{end}"));
        let error = connect_error(&starttls(&server));
        let known = matches!(
            error,
            Error::Closed(Phase::StartTls | Phase::Tls)
                | Error::Io { phase: Phase::StartTls | Phase::Tls, .. }
        );
        assert!(known && error.is_transient(), "{end}: {error:?}");
    }
}

// Threat 15.
#[test]
fn an_end_without_close_notify_leaves_a_message_in_doubt() {
    for version in VERSIONS {
        for end in ["-- fin", "-- close", "-- reset", "S... 250 o\n-- fin"] {
            let secured = SECURED.replace(VERSIONS[0], version);
            let server = Server::playing(format!("{secured}{TRANSACTION}{end}"));
            let mut client = block_on(starttls(&server).connect()).unwrap();
            let error = send_error(&mut client, &mail());
            assert!(error.in_doubt(), "{end}: {error:?}");
            assert!(
                matches!(cause(&error), Error::Closed(Phase::End) | Error::Io { phase: Phase::End, .. }),
                "{error:?}"
            );
            assert_closed(&mut client);
        }
    }
}

// Threat 15.
#[test]
fn an_end_without_close_notify_before_the_message_leaves_it_unsent() {
    let server = Server::playing(format!("{SECURED}C: MAIL FROM:<alice@example.org>\n-- fin"));
    let mut client = block_on(starttls(&server).connect()).unwrap();
    let error = send_error(&mut client, &mail());
    assert_eq!(outcome(&error), Outcome::NotSent);
    assert!(error.is_transient());
}

// Threat 15.
#[test]
fn an_end_without_close_notify_before_the_greeting_is_an_error() {
    let server = Server::playing("-- tls good\n-- fin");
    let error = connect_error(&implicit(&server));
    assert!(
        matches!(error, Error::Closed(Phase::Greeting) | Error::Io { phase: Phase::Greeting, .. }),
        "{error:?}"
    );
}

// Threat 17.
#[test]
fn the_error_says_if_a_port_does_not_use_tls() {
    let server = Server::playing("S: 220 mail.example.org ESMTP\n-- ignore");
    let error = connect_error(&implicit(&server));
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert!(error.source().unwrap().to_string().contains("does not use TLS"), "{:?}", error.source());
}

// Behaviour 63.
#[test]
fn tls_to_a_plain_server_is_an_error_and_does_not_hang() {
    for then in ["-- ignore", "-- fin\n-- ignore"] {
        let server = Server::playing(format!("S: 220 mail.example.org ESMTP\n{then}"));
        assert!(matches!(connect_error(&implicit(&server)), Error::Tls { .. }), "{then}");
    }
    for end in ["-- fin\n-- ignore", "-- read 100\n-- close"] {
        let server = Server::playing(end);
        let error = connect_error(&implicit(&server));
        assert!(
            matches!(error, Error::Closed(Phase::Tls) | Error::Io { phase: Phase::Tls, .. }),
            "{error:?}"
        );
    }
}

// Threat 17.
#[test]
fn the_timeout_of_a_silent_greeting_suggests_tls() {
    let server = Server::playing("-- silence");
    let error = connect_error(&builder(&server).greeting_timeout(Duration::from_millis(100)));
    assert!(matches!(error, Error::Timeout(Phase::Greeting)) && error.to_string().contains("TLS"), "{error}");
}

#[test]
fn clones_of_a_builder_connect_independently() {
    let first = Server::playing(SECURED);
    let builder = starttls(&first);
    let one = block_on(builder.connect()).unwrap();
    let second = Server::playing(SECURED);
    let two = block_on(builder.clone().port(second.port()).connect()).unwrap();
    assert!(one.is_encrypted() && two.is_encrypted());
}

#[test]
fn the_handshake_timeout_includes_building_the_connector() {
    // The server receives nothing, so it is not the handshake that takes too long.
    let server = Server::playing(format!("{UP_TO_STARTTLS}S: 220 go ahead\n"));
    // Where TLS is certain, the connector is built while connecting.
    let builder = starttls(&server).security(Security::Opportunistic);
    let builder = builder.ca_certificate(CA.repeat(100)).tls_timeout(Duration::from_millis(1));
    let error = connect_error(&builder);
    assert!(matches!(error, Error::Timeout(Phase::Tls)), "{error:?}");
}

#[test]
fn the_tls_connector_is_built_while_connecting() {
    journal::begin();
    let hole = BlackHole::new();
    let builder = Client::builder("127.0.0.1").port(hole.address().port()).tls_backend(backend());
    let cas = 43 + MORE_CAS;
    let builder = builder.ca_certificate(CA.repeat(cas)).connect_timeout(Duration::from_millis(1500));
    let built = || journal::lines_with(&format!("building a TLS connector: {cas} CAs")).len();
    // Where TLS is not certain, the connector is built only when the server offers it.
    for (security, expected) in
        [(Security::Opportunistic, 0), (Security::StartTls, 1), (Security::Implicit, 1)]
    {
        let error = connect_error(&builder.clone().security(security));
        assert!(matches!(error, Error::Connect { .. }), "{error:?}");
        assert_eq!(built(), expected, "{security:?}");
    }
}

/// The CPU time of this thread.
#[cfg(target_os = "linux")]
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

/// rustls refuses such a handshake.
#[cfg(target_os = "linux")]
#[test]
fn a_renegotiation_does_not_keep_the_cpu_busy() {
    const STALL: Duration = Duration::from_millis(1000);
    if backend() == TlsBackend::Rustls {
        return;
    }
    let server = Server::running(|peer| {
        peer.play("-- tls good 1.2\n-- hello\n-- envelope\nC: DATA\nS: 354 go on\n-- renegotiate");
        // Writing has to wait for the server now, and the server is slow.
        std::thread::sleep(STALL);
        peer.play("C: Hello\nC: .\nS: 250 ok\nC: QUIT\nS: 221 bye\n-- close");
    });
    let mut client = block_on(implicit(&server).connect()).unwrap();
    let (start, before) = (Instant::now(), processor_time());
    accept(&mut client, &mail());
    assert!(start.elapsed() >= STALL / 2, "the handshake was not waited for");
    let busy = processor_time() - before;
    assert!(busy < STALL / 10, "{busy:?}");
    block_on(client.quit()).unwrap();
}

#[test]
fn version_and_cipher_suite_are_known_with_rustls() {
    for (version, expected, suite) in [
        (VERSIONS[0], TlsVersion::Tls1_3, "TLS_AES_"),
        (VERSIONS[1], TlsVersion::Tls1_2, "TLS_ECDHE_ECDSA_WITH_"),
    ] {
        let server = Server::playing(format!("{version}-- hello"));
        let mut client = block_on(implicit(&server).connect()).unwrap();
        if backend() == TlsBackend::Rustls {
            assert_eq!(client.tls_version(), Some(expected));
            let name = client.tls_cipher_suite().unwrap();
            assert!(name.starts_with(suite), "{name}");
        }
        let exports = backend() == TlsBackend::Rustls && expected == TlsVersion::Tls1_3;
        assert_eq!(client.tls_exporter().is_some(), exports);
        client.close();
        assert_eq!((client.tls_version(), client.tls_cipher_suite()), (None, None));
        assert_eq!(client.tls_exporter(), None);
    }
}

#[test]
fn clones_of_a_builder_with_rustls_resume_sessions() {
    if backend() != TlsBackend::Rustls {
        return;
    }
    for version in ["good", "good 1.2"] {
        let acceptor = acceptor(version);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            [(); 3].map(|()| {
                let mut stream = acceptor.accept(listener.accept().unwrap().0).unwrap();
                stream.write_all(b"220 mail.example.org\r\n").unwrap();
                let mut heard = [0; 100];
                assert!(stream.read(&mut heard).unwrap() > 0);
                stream.write_all(b"250 mail.example.org\r\n").unwrap();
                while stream.read(&mut heard).is_ok_and(|n| n > 0) {}
                is_resumed(&stream)
            })
        });
        let builder = Client::builder("127.0.0.1").port(port).security(Security::Implicit).ca_certificate(CA);
        let builder = builder.timeout(crate::support::PATIENCE).tls_backend(backend());
        drop(block_on(builder.connect()).unwrap());
        let again = block_on(builder.clone().connect()).unwrap();
        assert!(again.peer_certificate().is_some() && again.channel_binding().is_some());
        drop(again);
        // Other settings, other sessions.
        drop(block_on(builder.danger_accept_invalid_hostnames(true).connect()).unwrap());
        assert_eq!(server.join().unwrap(), [false, true, false], "{version}");
    }
}

/// A server that lets a user in by SCRAM-SHA-256-PLUS, bound as it wants.
#[cfg(all(unix, feature = "sasl"))]
mod bound {
    use std::net::TcpStream;

    use openssl::{
        base64::{decode_block, encode_block},
        hash::MessageDigest,
        pkcs5::pbkdf2_hmac,
        pkey::PKey,
        sha::sha256,
        sign::Signer,
        ssl::SslStream,
    };

    use super::*;
    use crate::support::tls::{der, end_point, identity};

    const END_POINT: &str = "tls-server-end-point";
    const EXPORTER: &str = "tls-exporter";

    /// When a binding is refused.
    #[derive(Debug, Clone, Copy)]
    enum Refusal {
        /// As soon as it is named.
        Early,
        /// When the proof is checked.
        Late,
        /// As RFC 5802 §7 wants it: `e=unsupported-channel-binding-type`.
        Explained,
    }

    struct Bound {
        stream: SslStream<TcpStream>,
        takes: &'static [&'static str],
        refusal: Refusal,
        /// The bindings that were named, and other mechanisms.
        seen: Vec<String>,
    }

    impl Bound {
        fn say(&mut self, line: &str) {
            self.stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
        }

        fn line(&mut self) -> String {
            let mut line = Vec::new();
            let mut octet = [0];
            while !line.ends_with(b"\r\n") && self.stream.read(&mut octet).is_ok_and(|n| n > 0) {
                line.push(octet[0]);
            }
            String::from_utf8(line).unwrap().trim_end().to_owned()
        }

        /// What OpenSSL takes for the channel at this end.
        fn data(&self, binding: &str) -> Vec<u8> {
            if binding == END_POINT {
                return end_point(&der(identity("good").0));
            }
            let mut exported = vec![0; 32];
            self.stream
                .ssl()
                .export_keying_material(&mut exported, "EXPORTER-Channel-Binding", Some(b""))
                .unwrap();
            exported
        }

        fn scram(&mut self, initial: &str) -> bool {
            let first = String::from_utf8(decode_block(initial).unwrap()).unwrap();
            let (header, bare) = first.split_once(",,").unwrap();
            let binding = header.strip_prefix("p=").unwrap().to_owned();
            self.seen.push(binding.clone());
            let taken = self.takes.contains(&&*binding);
            match self.refusal {
                Refusal::Early if !taken => return false,
                Refusal::Explained if !taken => {
                    self.say(&format!("334 {}", encode_block(b"e=unsupported-channel-binding-type")));
                    assert_eq!(self.line(), "*");
                    return false;
                }
                _ => {}
            }
            let (_, nonce) = bare.split_once(",r=").unwrap();
            let nonce = format!("{nonce}more");
            let server_first = format!("r={nonce},s={},i=4096", encode_block(b"salt"));
            self.say(&format!("334 {}", encode_block(server_first.as_bytes())));
            let last = String::from_utf8(decode_block(&self.line()).unwrap()).unwrap();
            let (last, proof) = last.split_once(",p=").unwrap();

            let mac = |key: &[u8], text: &[u8]| {
                let key = PKey::hmac(key).unwrap();
                Signer::new(MessageDigest::sha256(), &key).unwrap().sign_oneshot_to_vec(text).unwrap()
            };
            let mut salted = [0; 32];
            pbkdf2_hmac(b"secret", b"salt", 4096, MessageDigest::sha256(), &mut salted).unwrap();
            let message = format!("{bare},{server_first},{last}");
            let client_key = mac(&salted, b"Client Key");
            let signature = mac(&sha256(&client_key), message.as_bytes());
            let right: Vec<u8> = client_key.iter().zip(signature).map(|(key, sign)| key ^ sign).collect();
            let channel = [header.as_bytes(), b",,", &self.data(&binding)].concat();
            let bound = last == format!("c={},r={nonce}", encode_block(&channel));
            if !bound || !taken || decode_block(proof).unwrap() != right {
                assert!(bound && !taken, "{last}: not {}", channel.escape_ascii());
                return false;
            }
            let signature = mac(&mac(&salted, b"Server Key"), message.as_bytes());
            self.say(&format!("334 {}", encode_block(format!("v={}", encode_block(&signature)).as_bytes())));
            self.line().is_empty()
        }

        fn run(mut self, offers: &str) -> Vec<String> {
            self.say("220 mail.example.org");
            loop {
                let line = self.line();
                let accepted = match line.split(' ').collect::<Vec<_>>()[..] {
                    ["EHLO", _] => {
                        self.say(&format!("250-mail.example.org\r\n250 AUTH {offers}"));
                        continue;
                    }
                    ["AUTH", "SCRAM-SHA-256-PLUS", initial] => self.scram(initial),
                    ["AUTH", other, ..] => {
                        self.seen.push(other.to_owned());
                        true
                    }
                    _ => return self.seen,
                };
                self.say(if accepted { "235 in" } else { "535 no" });
            }
        }
    }

    /// Logs in with TLS 1.3 (`good`) or 1.2; returns whether the server let the client in, and what it saw.
    fn log_in(
        version: &str,
        offers: &'static str,
        takes: &'static [&'static str],
        refusal: Refusal,
    ) -> (bool, Vec<String>) {
        let acceptor = acceptor(version);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let stream = acceptor.accept(listener.accept().unwrap().0).unwrap();
            Bound { stream, takes, refusal, seen: Vec::new() }.run(offers)
        });
        let builder = Client::builder("127.0.0.1").port(port).security(Security::Implicit).ca_certificate(CA);
        let builder = builder.timeout(crate::support::PATIENCE).tls_backend(backend());
        let connected = block_on(builder.credentials("user", "secret").connect());
        let is_in = connected.is_ok();
        drop(connected);
        (is_in, server.join().unwrap())
    }

    #[test]
    fn scram_plus_is_bound_to_the_connection_if_possible_and_else_to_the_certificate() {
        const PLUS: &str = "SCRAM-SHA-256-PLUS";
        const ALL: &str = "PLAIN SCRAM-SHA-256-PLUS";
        const BOTH: &[&str] = &[EXPORTER, END_POINT];
        let exports = backend() == TlsBackend::Rustls;
        for refusal in [Refusal::Early, Refusal::Late, Refusal::Explained] {
            let explained = matches!(refusal, Refusal::Explained);
            for (version, offers, takes, seen) in [
                ("good", ALL, BOTH, &[if exports { EXPORTER } else { END_POINT }][..]),
                ("good 1.2", ALL, BOTH, &[END_POINT]),
                // Takes the other binding only.
                ("good", PLUS, &[END_POINT], if exports { BOTH } else { &[END_POINT] }),
                // A refusal without a reason may be about the password, and only two are risked.
                (
                    "good",
                    ALL,
                    &[END_POINT],
                    match (exports, explained) {
                        (true, true) => BOTH,
                        (true, false) => &[EXPORTER, "PLAIN"],
                        (false, _) => &[END_POINT],
                    },
                ),
                (
                    "good",
                    ALL,
                    &[],
                    match (exports, explained) {
                        (true, true) => &[EXPORTER, END_POINT, "PLAIN"],
                        (true, false) => &[EXPORTER, "PLAIN"],
                        (false, _) => &[END_POINT, "PLAIN"],
                    },
                ),
            ] {
                let what = format!("{version}, {offers}, {takes:?}, {refusal:?}");
                assert_eq!(
                    log_in(version, offers, takes, refusal),
                    (true, seen.iter().map(|s| (*s).to_owned()).collect()),
                    "{what}"
                );
            }
            let (is_in, seen) = log_in("good", PLUS, &[], refusal);
            assert_eq!((is_in, seen.len()), (false, if exports { 2 } else { 1 }));
        }
    }
}
