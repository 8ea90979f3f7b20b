//! The greeting, EHLO, HELO.

use postino::{Error, Phase, Security};

use super::*;

#[test]
fn the_capabilities_are_the_lines_of_ehlo() {
    let server = Server::playing(
        "S: 220 mail.example.org ESMTP
         C: EHLO client.example.org
         S: 250-mail.example.org at your service
         S: 250-SIZE 1000
         S: 250-PIPELINING
         S: 250 8bitmime",
    );
    let client = connect(&server);
    let names: Vec<_> = client.capabilities().iter().collect();
    assert_eq!(names, [("SIZE", "1000"), ("PIPELINING", ""), ("8BITMIME", "")]);
}

#[test]
fn a_server_without_ehlo_gets_helo() {
    let server = Server::playing(
        "S: 220 mail.example.org
         C: EHLO client.example.org
         S: 502 what?
         C: HELO client.example.org
         S: 250 mail.example.org
         -- envelope
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok",
    );
    let mut client = connect(&server);
    assert_eq!(client.capabilities().iter().count(), 0);
    accept(&mut client, &mail());
}

#[test]
fn a_refusal_of_both_ehlo_and_helo_is_an_error() {
    let server = Server::playing(
        "S: 220 mail.example.org
         C: EHLO client.example.org
         S: 550-not
         S: 550 you
         C: HELO client.example.org
         S: 503 I said so",
    );
    let error = connect_error(&builder(&server));
    assert_eq!(refusal(&error), (Phase::Hello, 550));
    assert_eq!(error.reply().unwrap().text(), "not\nyou");
    assert!(error.is_permanent());
}

#[test]
fn the_error_is_the_refusal_of_ehlo_however_helo_fails() {
    for end in [
        "-- fin",
        "-- close",
        "-- reset",
        "S: 421 bye",
        "S: 450 later",
        "S: 221 bye",
        "S: 220 hi",
        "S: 354 go",
        "S: what?",
    ] {
        for code in [500, 501, 550, 554] {
            let server = Server::playing(format!(
                "S: 220 hi\nC: EHLO client.example.org\nS: {code} no\nC: HELO client.example.org\n{end}"
            ));
            let error = connect_error(&builder(&server));
            assert_eq!(refusal(&error), (Phase::Hello, code), "{end}");
            assert!(error.is_permanent() && error.retry() == postino::Retry::Never);
        }
    }
}

#[test]
fn a_server_that_refuses_ehlo_and_hangs_up_counts_as_refusing() {
    for code in [450, 501, 550, 554] {
        let server = Server::running(move |peer| {
            peer.may_run_ahead = true; // HELO, perhaps
            peer.play(&format!("S: 220 hi\nC: EHLO client.example.org\nS: {code} go away\n-- close"));
        });
        let error = connect_error(&builder(&server));
        assert_eq!(refusal(&error), (Phase::Hello, code));
        assert_eq!((error.is_transient(), error.is_permanent()), (code < 500, code >= 500));
    }
}

#[test]
fn a_helo_that_is_never_answered_times_out() {
    let server = Server::playing(
        "S: 220 hi\nC: EHLO client.example.org\nS: 502 no\nC: HELO client.example.org\n-- silence",
    );
    let error = connect_error(&builder(&server).command_timeout(std::time::Duration::from_millis(200)));
    assert!(matches!(error, Error::Timeout(Phase::Hello)), "{error:?}");
}

#[test]
fn a_temporarily_refused_ehlo_is_not_followed_by_helo() {
    for code in [450, 451, 499] {
        let server = Server::playing(format!("S: 220 hi\nC: EHLO client.example.org\nS: {code} later"));
        let error = connect_error(&builder(&server));
        assert_eq!(refusal(&error), (Phase::Hello, code));
        assert!(error.is_transient());
    }
}

#[test]
fn lhlo_that_is_refused_is_never_followed_by_helo() {
    for end in ["", "-- fin"] {
        let server = Server::playing(format!("S: 220 hi\nC: LHLO client.example.org\nS: 502 no\n{end}"));
        assert_eq!(refusal(&connect_error(&builder(&server).lmtp(true))), (Phase::Hello, 502));
    }
}

// Threat 55.
#[test]
fn a_421_to_ehlo_is_no_reason_for_helo() {
    let server = Server::playing(
        "S: 220 mail.example.org
         C: EHLO client.example.org
         S: 421 going down",
    );
    let error = connect_error(&builder(&server));
    assert_eq!(refusal(&error), (Phase::Hello, 421));
    assert!(error.is_transient());
}

#[test]
fn a_connection_lost_in_ehlo_is_no_reason_for_helo() {
    let server = Server::playing(
        "S: 220 mail.example.org
         C: EHLO client.example.org
         -- fin",
    );
    assert!(matches!(connect_error(&builder(&server)), Error::Closed(Phase::Hello)));
}

const NO_EHLO: &str = "S: 220 mail.example.org
     C: EHLO client.example.org
     S: 500 what?";

// Threat 4.
#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn helo_is_not_sent_when_tls_is_required() {
    let server = Server::playing(NO_EHLO);
    let error = connect_error(&builder(&server).security(Security::StartTls));
    assert_eq!(refusal(&error), (Phase::Hello, 500));
}

// Threat 4.
#[test]
fn helo_is_not_sent_when_there_are_credentials() {
    let server = Server::playing(NO_EHLO);
    let error = connect_error(&builder(&server).security(Security::Plaintext).credentials("user", "secret"));
    assert_eq!(refusal(&error), (Phase::Hello, 500));
}

// Threat 56.
#[test]
fn a_greeting_of_several_lines_is_one_greeting() {
    let server = Server::playing(
        "S: 220-mail.example.org
         -- pause
         S: 220-no spam
         S: 220 please
         C: EHLO client.example.org
         S: 250 mail.example.org",
    );
    let client = connect(&server);
    assert_eq!(client.greeting().unwrap().text(), "mail.example.org\nno spam\nplease");
}

// Threat 56.
#[test]
fn a_late_greeting_is_waited_for() {
    let server = Server::playing(
        "-- pause
         -- hello",
    );
    connect(&server);
}

// Threat 56.
#[test]
fn a_greeting_that_refuses_is_an_error() {
    for (greeting, code) in [("554 no", 554), ("421 too many", 421), ("450-not\r\n450 now", 450)] {
        let server = Server::running(move |peer| peer.say(format!("{greeting}\r\n")));
        let error = connect_error(&builder(&server));
        assert_eq!(refusal(&error), (Phase::Greeting, code));
        assert_eq!(error.is_transient(), code < 500);
    }
}

// Threat 56.
#[test]
fn an_invalid_greeting_is_an_error() {
    for greeting in
        ["250 mail.example.org", "354 go", "hello", "SSH-2.0-OpenSSH_9.9", "+OK", "120 soon", "22"]
    {
        let server = Server::running(move |peer| peer.say(format!("{greeting}\r\n")));
        let error = connect_error(&builder(&server));
        assert!(matches!(error, Error::Protocol { phase: Phase::Greeting, .. }), "{greeting}: {error:?}");
    }
}

// Threat 54.
#[test]
fn a_reply_in_the_same_segment_as_the_greeting_is_an_error() {
    let server = Server::playing(
        "S: 220 mail.example.org
         S: 250 you need not ask",
    );
    assert!(matches!(connect_error(&builder(&server)), Error::Protocol { phase: Phase::Hello, .. }));
}

// Threat 54.
#[test]
fn part_of_a_reply_in_the_same_segment_as_the_greeting_is_an_error() {
    let server = Server::playing(
        "S: 220 mail.example.org
         S... 250 you
         -- pause
         S:  need not ask",
    );
    assert!(matches!(connect_error(&builder(&server)), Error::Protocol { phase: Phase::Hello, .. }));
}

// Threat 54.
#[test]
fn a_second_reply_to_ehlo_is_an_error() {
    let server = Server::playing(
        "S: 220 mail.example.org
         C: EHLO client.example.org
         S: 250 mail.example.org
         S: 250 and more",
    );
    assert!(matches!(connect_error(&builder(&server)), Error::Protocol { .. }));
}

// Behaviour 2.
#[test]
fn an_end_before_the_greeting_is_an_error() {
    let server = Server::playing("-- fin");
    let error = connect_error(&builder(&server));
    assert!(matches!(error, Error::Closed(Phase::Greeting)), "{error:?}");
    assert!(error.is_transient());
}

// Behaviour 2.
#[test]
fn an_end_inside_the_greeting_is_an_error() {
    let server = Server::playing(
        "S: 220-mail.example.org
         S... 220 he
         -- fin",
    );
    assert!(matches!(connect_error(&builder(&server)), Error::Closed(Phase::Greeting)));
}

// Behaviour 2.
#[test]
fn a_reset_before_the_greeting_is_an_error() {
    let server = Server::playing("-- reset");
    // A connection that is reset at once may never have been established.
    let error = connect_error(&builder(&server));
    assert!(
        matches!(error, Error::Io { phase: Phase::Greeting, .. } | Error::Connect { .. } | Error::Io { .. }),
        "{error:?}"
    );
    assert!(error.is_transient());
}

#[test]
fn the_name_in_ehlo_is_a_domain_or_the_local_address() {
    let server = Server::running(|peer| {
        peer.say("220 mail.example.org\r\n");
        let line = String::from_utf8(peer.line().unwrap()).unwrap();
        let name = line.strip_prefix("EHLO ").unwrap().strip_suffix("\r\n").unwrap();
        let is_domain = name.contains('.') && !name.contains(['[', '_', ' ']);
        assert!(name == "[127.0.0.1]" || is_domain, "{line}");
        peer.say("250 mail.example.org\r\n");
    });
    block_on(Client::builder("127.0.0.1").port(server.port()).connect()).unwrap();
}

#[test]
fn the_name_in_ehlo_can_be_set() {
    for name in ["me", "me.example.org", "[192.0.2.1]", "[IPv6:2001:db8::1]"] {
        let server = Server::playing(format!("S: 220 hi\nC: EHLO {name}\nS: 250 hi"));
        block_on(builder(&server).hello_name(name).connect()).unwrap();
    }
}

// Threat 51.
#[test]
fn a_server_may_end_its_lines_with_lf_alone() {
    let server = Server::playing(
        r"S... 220-hi\n220 hi\n
         C: EHLO client.example.org
         S... 250-hi\n250 SIZE 5\n
         C: NOOP
         S... 250\n",
    );
    let mut client = connect(&server);
    assert_eq!(client.capabilities().size_limit(), Some(5));
    assert_open(&mut client);
}

#[test]
fn a_closed_first_address_does_not_stop_the_second() {
    // On many machines localhost is ::1 and 127.0.0.1, and the server has only the latter.
    let server = Server::playing("-- hello");
    let client = block_on(named(&server, "localhost").connect()).unwrap();
    assert!(client.peer_addr().unwrap().is_ipv4() && !client.is_encrypted());
}

#[test]
fn localhost_is_both_loopback_addresses_without_a_lookup() {
    // The hosts file of many machines has only one of the addresses, and none for a name below `localhost`.
    for host in ["localhost", "mail.localhost"] {
        for server in [Server::playing("-- hello"), Server::playing_v6("-- hello")] {
            block_on(named(&server, host).connect()).unwrap();
        }
    }
}

// Threat 9.
#[test]
fn an_ipv6_address_is_accepted_with_and_without_brackets() {
    for host in ["[::1]", "::1"] {
        let server = Server::playing_v6("-- hello");
        let client = block_on(named(&server, host).connect()).unwrap();
        assert!(client.peer_addr().unwrap().is_ipv6());
    }
}

#[test]
fn invalid_settings_are_refused_before_connecting() {
    let server = Server::playing("-- hello"); // only the good one at the end connects
    for bad in [
        builder(&server).hello_name("x\r\nMAIL FROM:<eve@example.org>"),
        builder(&server).hello_name(""),
        builder(&server).credentials("us\0er", "secret"),
        builder(&server).port(0),
    ] {
        assert!(matches!(connect_error(&bad), Error::Config(_)));
    }
    connect(&server);
}

#[test]
fn a_bare_address_is_sent_as_an_address_literal() {
    for (name, literal) in [("10.0.0.1", "[10.0.0.1]"), ("2001:db8::1", "[IPv6:2001:db8::1]")] {
        let server = Server::playing(format!(
            "S: 220 hi
             C: EHLO {literal}
             S: 250 hi
             C: EHLO {literal}
             S: 250 hi
             C: HELO {literal}
             S: 250 hi"
        ));
        let mut client = block_on(builder(&server).hello_name(name).connect()).unwrap();
        block_on(client.ehlo(Some(name))).unwrap();
        block_on(client.helo(Some(name))).unwrap();
        drop((client, server));
        let server = Server::playing(format!("S: 220 hi\nC: LHLO {literal}\nS: 250 hi"));
        block_on(builder(&server).lmtp(true).hello_name(name).connect()).unwrap();
    }
}

#[test]
fn an_ehlo_name_that_ends_in_digits_is_refused_before_connecting() {
    for name in ["12345", "10.0.0", "1.2.3.4.5", "mail.example.25"] {
        let error = block_on(Client::builder("127.0.0.1").port(9).hello_name(name).connect()).unwrap_err();
        assert!(matches!(&error, Error::Config(what) if what.contains(name)), "{error:?}");
    }
    let server = Server::playing("-- hello\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    assert!(matches!(block_on(client.ehlo(Some("12345"))), Err(Error::Config(_))));
    assert!(matches!(block_on(client.helo(Some("10.0.0"))), Err(Error::Config(_))));
    assert_open(&mut client);
}
