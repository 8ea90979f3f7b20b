//! Single commands: what each sends, what accepts it, and what prevents sending it.

use std::time::{Duration, Instant};

use postino::{
    Error, Outcome, Phase, Reply,
    auth::{Answer, Credentials, Mechanism},
};

use super::*;
use crate::support::Peer;

type Outcomes = Result<Reply, Error>;

/// A server that expects this command, and sends this reply.
fn one(command: &str, reply: &str) -> Server {
    Server::playing(format!("-- hello SMTPUTF8, 8BITMIME\nC: {command}\nS: {reply}"))
}

/// Every command that has a reply, as it is sent.
type Say = fn(&mut Client) -> Outcomes;
const COMMANDS: [(&str, Say, Phase); 10] = [
    ("EHLO client.example.org", |client| block_on(client.ehlo(None)), Phase::Hello),
    ("HELO client.example.org", |client| block_on(client.helo(None)), Phase::Hello),
    ("MAIL FROM:<a@b>", |client| block_on(client.mail("a@b", &[])), Phase::Mail),
    ("RCPT TO:<a@b>", |client| block_on(client.rcpt("a@b", &[])), Phase::Recipient),
    ("RSET", |client| block_on(client.rset()), Phase::Reset),
    ("NOOP", |client| block_on(client.noop()), Phase::Noop),
    ("VRFY bob", |client| block_on(client.vrfy("bob", &[])), Phase::Vrfy),
    ("EXPN list", |client| block_on(client.expn("list", &[])), Phase::Expn),
    ("HELP", |client| block_on(client.help("")), Phase::Help),
    ("HELP MAIL", |client| block_on(client.help("MAIL")), Phase::Help),
];

// Behaviours 29 and 34.
#[test]
fn any_2yz_reply_accepts_a_command_except_220_to_ehlo() {
    for (line, say, phase) in COMMANDS {
        for code in [200, 211, 214, 220, 235, 250, 251, 252, 299, 300, 334, 354] {
            let granted = code < 300 && (code, phase) != (220, Phase::Hello);
            let server = one(line, &format!("{code} well"));
            let mut client = connect(&server);
            match say(&mut client) {
                Ok(reply) => assert!(reply.code() == code && granted, "{line}: {code}"),
                Err(Error::Protocol { phase: at, .. }) => {
                    assert!(at == phase && !granted, "{line}: {code}");
                    assert_closed(&mut client);
                }
                Err(other) => panic!("{line}: {code}: {other:?}"),
            }
        }
    }
}

#[test]
fn the_connection_remains_usable_after_a_refusal_of_any_command() {
    for (line, say, phase) in COMMANDS {
        for code in [450, 500, 550] {
            let server = Server::playing(format!(
                "-- hello\nC: {line}\nS: {code}-no\nS: {code} way\nC: NOOP\nS: 250 ok"
            ));
            let mut client = connect(&server);
            let error = say(&mut client).unwrap_err();
            assert_eq!(refusal(&error), (phase, code));
            assert_eq!(error.reply().unwrap().text(), "no\nway");
            assert_open(&mut client);
        }
    }
}

// Behaviour 44.
#[test]
fn a_421_to_any_command_is_kept_and_closes_the_connection() {
    for (line, say, phase) in COMMANDS {
        let server = Server::playing(format!("-- hello\nC: {line}\nS: 421 going down"));
        let mut client = connect(&server);
        assert_eq!(refusal(&say(&mut client).unwrap_err()), (phase, 421));
        assert!(!client.is_connected());
        assert_closed(&mut client);
    }
}

// Behaviour 41.
#[test]
fn a_closed_client_sends_nothing() {
    for (line, say, _) in COMMANDS {
        let server = Server::playing("-- hello");
        let mut client = connect(&server);
        client.close();
        assert!(matches!(say(&mut client), Err(Error::NotConnected)), "{line}");
        assert!(matches!(block_on(client.data("Hello")), Err(Error::NotConnected)));
        assert!(matches!(block_on(client.command("XYZZY")), Err(Error::NotConnected)));
        assert!(matches!(block_on(client.starttls()), Err(Error::NotConnected)));
        assert!(matches!(block_on(client.auth("PLAIN", &password())), Err(Error::NotConnected)));
    }
}

// Behaviour 22.
#[test]
fn quit_can_be_the_first_command_after_connecting() {
    let server = Server::playing("-- hello\nC: QUIT\nS: 221 bye");
    block_on(connect(&server).quit()).unwrap();
}

// Behaviour 23.
#[test]
fn quit_succeeds_if_the_connection_is_lost_instead_of_a_reply() {
    for end in ["-- fin", "-- reset", "-- close"] {
        let server = Server::playing(format!("-- hello\nC: QUIT\n{end}"));
        let mut client = connect(&server);
        let start = Instant::now();
        block_on(client.quit()).unwrap();
        assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    }
}

// Behaviour 24.
#[test]
fn a_connection_lost_in_any_command_but_quit_is_an_error() {
    for end in ["-- fin", "-- reset", "-- close"] {
        let server = Server::playing(format!("-- hello\nC: NOOP\n{end}"));
        let mut client = connect(&server);
        let error = block_on(client.noop()).unwrap_err();
        assert!(
            matches!(error, Error::Closed(Phase::Noop) | Error::Io { phase: Phase::Noop, .. }),
            "{error:?}"
        );
        assert_closed(&mut client);
    }
}

// Behaviour 25.
#[test]
fn quit_closes_the_connection_whatever_the_reply() {
    for answer in ["250 ok", "500 what?", "421 bye", "354 go on"] {
        let server = Server::playing(format!("-- hello\nC: QUIT\nS: {answer}"));
        let mut client = connect(&server);
        block_on(client.quit()).unwrap();
        assert!(!client.is_connected());
    }
}

// Behaviour 26.
#[test]
fn closing_is_safe_at_any_time() {
    let server = Server::playing("-- hello\nC: NOOP\n-- fin");
    let mut client = connect(&server);
    block_on(client.noop()).unwrap_err();
    client.close();
    client.close();
    block_on(client.quit()).unwrap();
    client.close();
}

// Behaviour 27.
#[test]
fn if_both_ehlo_and_helo_are_refused_the_error_is_that_of_ehlo() {
    let server = Server::playing(
        "S: 220 hi
         C: EHLO client.example.org
         S: 502 what?
         C: HELO client.example.org
         S: 554 no",
    );
    assert_eq!(refusal(&connect_error(&builder(&server))), (Phase::Hello, 502));
}

// Behaviour 28.
#[test]
fn helo_is_not_sent_after_a_421_or_a_lost_connection() {
    let ehlo = "S: 220 hi\nC: EHLO client.example.org\n";
    let server = Server::playing(format!("{ehlo}S: 421 going down"));
    assert_eq!(refusal(&connect_error(&builder(&server))), (Phase::Hello, 421));
    let server = Server::playing(format!("{ehlo}-- fin"));
    assert!(matches!(connect_error(&builder(&server)), Error::Closed(Phase::Hello)));
}

// Behaviour 29.
#[test]
fn a_220_in_reply_to_ehlo_is_a_protocol_error() {
    let server = Server::playing("S: 220 hi\nC: EHLO client.example.org\nS: 220 hi");
    assert!(matches!(connect_error(&builder(&server)), Error::Protocol { phase: Phase::Hello, .. }));
    for script in ["S: 251 hi", "S: 502 what?\nC: HELO client.example.org\nS: 200 hi"] {
        let server =
            Server::playing(format!("S: 220 hi\nC: EHLO client.example.org\n{script}\nC: NOOP\nS: 250 ok"));
        assert_open(&mut connect(&server));
    }
}

// Behaviour 30.
#[test]
fn a_server_without_ehlo_has_no_capabilities() {
    let server = Server::playing(
        "S: 220 hi
         C: EHLO client.example.org
         S: 502-SIZE 5
         S: 502 what?
         C: HELO client.example.org
         S: 250-hi
         S: 250 PIPELINING",
    );
    let client = connect(&server);
    assert!(!client.is_esmtp() && !client.supports("SIZE") && !client.supports("PIPELINING"));
    assert_eq!(client.capabilities().iter().count(), 0);
    assert_eq!(client.hello_reply().unwrap().text(), "hi\nPIPELINING");
}

// Behaviour 31.
#[test]
fn ehlo_keywords_are_read_from_the_second_line_on() {
    let server = Server::playing(
        "S: 220 hi
         C: EHLO client.example.org
         S: 250-SIZE is my name
         S: 250-  chunking
         S: 250-
         S: 250 8BitMIME",
    );
    let client = connect(&server);
    assert_eq!(client.capabilities().iter().collect::<Vec<_>>(), [("CHUNKING", ""), ("8BITMIME", "")]);
}

// Behaviour 32.
#[test]
fn both_forms_of_the_auth_keyword_are_read() {
    let server = Server::playing("-- hello AUTH=PLAIN LOGIN, AUTH cram-md5 PLAIN, X-AUTH=JUNK, xAUTH=MORE");
    let client = connect(&server);
    assert!(client.supports("auth"));
    assert_eq!(client.capabilities().auth_mechanisms().collect::<Vec<_>>(), ["PLAIN", "LOGIN", "CRAM-MD5"]);
}

// Behaviour 33.
#[test]
fn capability_names_are_case_insensitive() {
    let server = Server::playing("-- hello Pipelining");
    let client = connect(&server);
    assert!(client.supports("PIPELINING") && client.supports("pipelining") && !client.supports("PIPE"));
    assert!(client.is_esmtp());
}

// Behaviour 30.
#[test]
fn ehlo_by_hand_replaces_the_capabilities_and_helo_clears_them() {
    let server = Server::playing(
        "-- hello SIZE 5, CHUNKING
         C: EHLO other.example.org
         S: 250-mail.example.org
         S: 250 PIPELINING
         C: EHLO client.example.org
         S: 550 not now
         C: HELO client.example.org
         S: 550 nor so
         C: HELO [192.0.2.1]
         S: 250 hello",
    );
    let mut client = connect(&server);
    assert_eq!(client.hello_reply().unwrap().text(), "mail.example.org\nSIZE 5\nCHUNKING");
    block_on(client.ehlo(Some("other.example.org"))).unwrap();
    assert!(client.supports("PIPELINING") && !client.supports("CHUNKING"));
    // RFC 5321 §4.1.4: the server stays in the state it was in.
    assert_eq!(refusal(&block_on(client.ehlo(None)).unwrap_err()), (Phase::Hello, 550));
    assert_eq!(refusal(&block_on(client.helo(None)).unwrap_err()), (Phase::Hello, 550));
    assert!(client.supports("PIPELINING") && client.is_esmtp());
    assert_eq!(client.hello_reply().unwrap().text(), "mail.example.org\nPIPELINING");
    block_on(client.helo(Some("[192.0.2.1]"))).unwrap();
    assert!(!client.supports("PIPELINING") && !client.is_esmtp());
    assert_eq!(client.hello_reply().unwrap().text(), "hello");
}

// Behaviour 14.
#[test]
fn an_invalid_ehlo_name_is_not_sent() {
    let server = Server::playing("-- hello\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    for name in ["", "a b", "a\r\nMAIL FROM:<e@x>", "a\tb", "my_host"] {
        assert!(matches!(block_on(client.ehlo(Some(name))), Err(Error::Config(_))), "{name:?}");
        assert!(matches!(block_on(client.helo(Some(name))), Err(Error::Config(_))), "{name:?}");
    }
    assert_open(&mut client);
}

#[test]
fn ignored_extensions_do_not_count_as_offered() {
    let server = Server::playing(
        "-- hello PIPELINING, chunking, SIZE 5
         C: EHLO client.example.org
         S: 250-mail.example.org
         S: 250-CHUNKING
         S: 250 8BITMIME",
    );
    let builder = builder(&server).ignore_capability("CHUNKING").ignore_capability("pipelining");
    let mut client = block_on(builder.connect()).unwrap();
    assert_eq!(client.capabilities().iter().collect::<Vec<_>>(), [("SIZE", "5")]);
    assert!(client.hello_reply().unwrap().text().contains("chunking"));
    block_on(client.ehlo(None)).unwrap();
    assert_eq!(client.capabilities().iter().collect::<Vec<_>>(), [("8BITMIME", "")]);
}

// Behaviour 34.
#[test]
fn the_lines_of_a_help_reply_are_joined() {
    let server = Server::playing("-- hello\nC: HELP DATA\nS: 214-Ends with\nS: 214 a dot.");
    assert_eq!(block_on(connect(&server).help("DATA")).unwrap().text(), "Ends with\na dot.");
}

// Behaviour 35.
#[test]
fn a_vrfy_without_an_argument_is_sent() {
    let server = one("VRFY", "501 whom?");
    assert_eq!(refusal(&block_on(connect(&server).vrfy("", &[])).unwrap_err()), (Phase::Vrfy, 501));
}

// Behaviour 36.
#[test]
fn smtputf8_is_not_added_if_it_is_not_offered() {
    let server = Server::playing("-- hello\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    for (text, parameters) in [("bob", &["SMTPUTF8"][..]), ("bob", &["smtputf8"]), ("jörg", &[])] {
        for error in [
            block_on(client.vrfy(text, parameters)).unwrap_err(),
            block_on(client.expn(text, parameters)).unwrap_err(),
        ] {
            assert!(
                matches!(error, Error::Unsupported(_)) && error.to_string().contains("SMTPUTF8"),
                "{error}"
            );
        }
    }
    assert_open(&mut client);
}

// Behaviour 84.
#[test]
fn smtputf8_is_added_once_where_it_is_needed() {
    let server = Server::playing(
        "-- hello SMTPUTF8
         C: VRFY jörg SMTPUTF8
         S: 252 perhaps
         C: VRFY bob SMTPUTF8
         S: 252 perhaps
         C: EXPN jörg SMTPUTF8
         S: 250 ok
         C: MAIL FROM:<jörg@example.org> SIZE=5 SMTPUTF8
         S: 250 ok
         C: RCPT TO:<jürgen@example.org>
         S: 250 ok",
    );
    let mut client = connect(&server);
    block_on(client.vrfy("jörg", &[])).unwrap();
    block_on(client.vrfy("bob", &["SMTPUTF8"])).unwrap();
    block_on(client.expn("jörg", &["SMTPUTF8"])).unwrap();
    block_on(client.mail("jörg@example.org", &["SIZE=5"])).unwrap();
    block_on(client.rcpt("jürgen@example.org", &[])).unwrap();
}

// Behaviour 37.
#[test]
fn a_command_with_a_non_ascii_address_needs_smtputf8() {
    let server = Server::playing("-- hello\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    assert!(matches!(block_on(client.mail("jörg@example.org", &[])), Err(Error::Unsupported(_))));
    assert!(matches!(block_on(client.mail("a@b", &["SMTPUTF8"])), Err(Error::Unsupported(_))));
    assert!(matches!(block_on(client.rcpt("jörg@example.org", &[])), Err(Error::Unsupported(_))));
    assert_open(&mut client);

    let server = Server::playing("-- hello SMTPUTF8\nC: MAIL FROM:<a@b>\nS: 250 ok\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    block_on(client.mail("a@b", &[])).unwrap();
    assert!(matches!(block_on(client.rcpt("jörg@example.org", &[])), Err(Error::Config(_))));
    assert_open(&mut client);
}

// Behaviour 38.
#[test]
fn a_display_name_is_dropped_and_no_sender_is_the_null_sender() {
    let server = Server::playing(
        "-- hello
         C: MAIL FROM:<alice@example.org>
         S: 250 ok
         C: RCPT TO:<bob@example.org> NOTIFY=NEVER
         S: 250 ok
         C: RSET
         S: 250 ok
         C: MAIL FROM:<>
         S: 250 ok
         C: MAIL FROM:<> SIZE=1
         S: 503 again?",
    );
    let mut client = connect(&server);
    block_on(client.mail("Älice <alice@example.org>", &[])).unwrap();
    block_on(client.rcpt("\"Bob, B.\" <bob@example.org>", &["NOTIFY=NEVER"])).unwrap();
    block_on(client.rset()).unwrap();
    block_on(client.mail("", &[])).unwrap();
    assert_eq!(refusal(&block_on(client.mail("<>", &["SIZE=1"])).unwrap_err()), (Phase::Mail, 503));
}

// Behaviour 39.
#[test]
fn no_part_of_a_command_has_a_control_character() {
    let server = Server::playing("-- hello SMTPUTF8, AUTH PLAIN\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    for bad in ["\r", "\n", "\r\n", "\0", "\t", "\x7f", "\u{85}", "\r\nRCPT TO:<eve@example.org>"] {
        let address = format!("a{bad}@example.org");
        let parameter = format!("X=1{bad}");
        let text = format!("x{bad}y");
        for error in [
            block_on(client.mail(&address, &[])).unwrap_err(),
            block_on(client.mail("a@b", &[&parameter])).unwrap_err(),
            block_on(client.rcpt(&address, &[])).unwrap_err(),
            block_on(client.rcpt("a@b", &[&parameter])).unwrap_err(),
            block_on(client.vrfy(&text, &[])).unwrap_err(),
            block_on(client.vrfy("bob", &[&parameter])).unwrap_err(),
            block_on(client.expn(&text, &[])).unwrap_err(),
            block_on(client.help(&text)).unwrap_err(),
            block_on(client.command(&text)).unwrap_err(),
            block_on(client.ehlo(Some(&text))).unwrap_err(),
        ] {
            assert!(matches!(error, Error::Config(_) | Error::Address { .. }), "{bad:?}: {error:?}");
            assert!(error.is_permanent());
        }
    }
    assert_open(&mut client);
}

// Behaviour 40.
#[test]
fn special_characters_in_an_address_are_quoted() {
    let server = Server::playing(
        r#"-- hello
           C: MAIL FROM:<"a b"@x>
           S: 250 ok
           C: RCPT TO:<"a>b"@x>
           S: 250 ok
           C: RCPT TO:<"a\"b"@x>
           S: 250 ok"#,
    );
    let mut client = connect(&server);
    block_on(client.mail("\"a b\"@x", &[])).unwrap();
    for bad in ["a b@x", "a<b@x", "a>b@x", "a\"b@x", "a@x> NOTIFY=NEVER", "a@x SIZE=1", ""] {
        assert!(matches!(block_on(client.rcpt(bad, &[])), Err(Error::Address { .. })), "{bad}");
    }
    block_on(client.rcpt("\"a>b\"@x", &[])).unwrap();
    block_on(client.rcpt("\"a\\\"b\"@x", &[])).unwrap();
}

// Threat 22.
#[test]
fn an_invalid_parameter_is_not_sent() {
    let server = Server::playing("-- hello\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let long = format!("ENVID={}", "x".repeat(2048));
    for bad in ["", "A B", "A=", "=B", "A=b=c", "A=b SIZE=1", "A_B=1", &long] {
        assert!(matches!(block_on(client.mail("a@b", &[bad])), Err(Error::Config(_))), "{bad}");
        assert!(matches!(block_on(client.rcpt("a@b", &[bad])), Err(Error::Config(_))), "{bad}");
    }
    assert_open(&mut client);
}

const SHORT: Duration = Duration::from_millis(300);

/// Asserts that the work takes `SHORT`, or somewhat more, and then closes the client.
#[track_caller]
fn ends_in_time<T>(client: &mut Client, work: impl FnOnce(&mut Client) -> Result<T, Error>) -> Error {
    let start = Instant::now();
    let Err(error) = work(client) else { panic!("it did not end") };
    let took = start.elapsed();
    assert!(took >= SHORT * 9 / 10 && took < SHORT * 10, "{took:?}");
    assert!(error.is_timeout(), "{error:?}");
    block_on(client.quit()).unwrap();
    assert!(start.elapsed() < took + SHORT, "and nothing more is waited for");
    error
}

// Behaviour 42.
#[test]
fn a_call_deadline_applies_only_to_that_call() {
    let server = Server::playing(
        "-- hello
         C: NOOP
         -- pause
         -- pause
         -- pause
         -- pause
         -- pause
         -- pause
         -- pause
         S: 250 ok
         C: NOOP
         -- silence",
    );
    let mut client = block_on(builder(&server).deadline(SHORT).connect()).unwrap();
    block_on(client.next_call_deadline(PATIENCE).noop()).unwrap(); // longer than the builder's
    let error = ends_in_time(&mut client, |client| block_on(client.noop())); // the builder's again
    assert!(matches!(error, Error::Timeout(Phase::Noop)));
}

// Behaviour 42.
#[test]
fn a_single_call_can_have_a_shorter_deadline() {
    let server = Server::playing("-- hello\nC: MAIL FROM:<alice@example.org>\n-- silence");
    let mut client = connect(&server);
    ends_in_time(&mut client, |client| block_on(client.next_call_deadline(SHORT).send(&mail())));
}

#[test]
fn a_call_deadline_is_used_up_by_a_call_that_sends_nothing() {
    let server = Server::playing("-- hello\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    assert!(matches!(
        block_on(client.next_call_deadline(Duration::ZERO).vrfy("\n", &[])),
        Err(Error::Config(_))
    ));
    assert!(matches!(
        block_on(client.next_call_deadline(Duration::ZERO).login("", "")),
        Err(Error::Config(_))
    ));
    assert_open(&mut client);
}

// Behaviour 42.
#[test]
fn a_call_with_a_deadline_of_zero_ends_at_once() {
    for (line, say, phase) in COMMANDS {
        let server = Server::playing("-- hello");
        let mut client = connect(&server);
        let start = Instant::now();
        let error = say(client.next_call_deadline(Duration::ZERO)).unwrap_err();
        assert!(matches!(error, Error::Timeout(at) if at == phase), "{line}: {error:?}");
        assert!(start.elapsed() < PATIENCE / 10);
        assert_closed(&mut client);
    }
}

#[test]
fn limits_can_be_set_on_a_client_that_is_connected() {
    let silent = || Server::playing("-- hello\nC: NOOP\n-- silence");
    let server = silent();
    let mut client = connect(&server);
    client.set_timeout(SHORT);
    ends_in_time(&mut client, |client| block_on(client.noop()));

    let server = silent();
    let mut client = connect(&server);
    client.set_deadline(Some(SHORT));
    ends_in_time(&mut client, |client| block_on(client.noop()));

    let server = Server::playing(format!("-- hello\nC: NOOP\n{}S: 250 ok", "-- pause\n".repeat(7)));
    let mut client = block_on(builder(&server).deadline(SHORT).connect()).unwrap();
    client.set_deadline(None);
    assert_open(&mut client);
}

// Behaviour 45.
#[test]
fn a_reply_that_is_too_long_is_an_error() {
    let server = Server::running(|peer| {
        peer.play("-- hello\nC: VRFY bob");
        peer.may_leave = true;
        peer.say([b"250 ".as_slice(), &[b'x'; 9000]].concat());
    });
    let mut client = connect(&server);
    let error = block_on(client.vrfy("bob", &[])).unwrap_err();
    assert!(matches!(error, Error::Protocol { phase: Phase::Vrfy, .. }), "{error:?}");
    assert_closed(&mut client);
}

// Behaviour 46.
#[test]
fn a_line_without_a_code_is_a_protocol_error() {
    for line in ["hello", "+25 ok", "25 ok", "2500 ok", "\\n"] {
        let server = one("NOOP", line);
        let mut client = connect(&server);
        let error = block_on(client.noop()).unwrap_err();
        assert!(matches!(error, Error::Protocol { phase: Phase::Noop, .. }), "{line}: {error:?}");
        assert!(line == "\\n" || error.to_string().contains(line), "{error} does not show {line}");
        assert_closed(&mut client);
    }
}

// Behaviour 47.
#[test]
fn a_connection_that_ends_within_a_line_is_closed() {
    let server = Server::playing("-- hello\nC: NOOP\nS... 250 o\n-- fin");
    assert!(matches!(block_on(connect(&server).noop()), Err(Error::Closed(Phase::Noop))));
}

// Behaviour 48.
#[test]
fn a_reply_need_not_be_utf_8() {
    let server = one("VRFY bob", "250 \\xe9t\\xe9");
    let reply = block_on(connect(&server).vrfy("bob", &[])).unwrap();
    assert_eq!(reply.text(), "\u{fffd}t\u{fffd}");
    assert_eq!(reply.text_lines().next(), Some(&b"\xe9t\xe9"[..]));
}

// Behaviour 49.
#[test]
fn reply_lines_are_joined_and_may_end_in_lf_or_be_empty() {
    let server = Server::playing(
        r"-- hello
          C: EXPN list
          S... 250- a@b \n250-\n250 c@d\n
          C: NOOP
          S: 250",
    );
    let mut client = connect(&server);
    assert_eq!(block_on(client.expn("list", &[])).unwrap().text(), "a@b\n\nc@d");
    assert_eq!(block_on(client.noop()).unwrap().text(), "");
}

// Behaviour 50.
#[test]
fn an_unsolicited_reply_is_not_taken_as_an_answer() {
    for unasked in ["S: 250 ok", "S: 250-ok\nS: 250 ok", "S... 250 o\n-- pause\nS: k"] {
        let server = Server::playing(format!("-- hello\nC: VRFY bob\nS: 252 perhaps\n-- pause\n{unasked}"));
        let mut client = connect(&server);
        block_on(client.vrfy("bob", &[])).unwrap();
        while client.is_connected() {
            std::thread::yield_now(); // until the first octet is there
        }
        let error = block_on(client.rset()).unwrap_err();
        assert!(matches!(error, Error::Protocol { phase: Phase::Reset, .. }), "{error:?}");
        assert_closed(&mut client);
    }
}

// Behaviour 51.
#[test]
fn a_second_reply_in_the_same_segment_is_a_protocol_error() {
    let server = Server::playing("-- hello\nC: MAIL FROM:<a@b>\nS: 250 ok\nS: 250 and more");
    let mut client = connect(&server);
    let first = block_on(client.mail("a@b", &[]));
    assert!(matches!(first, Err(Error::Protocol { .. })), "{first:?}");
    assert_closed(&mut client);
}

// Custom commands.

#[test]
fn a_custom_command_returns_any_reply() {
    let server = Server::playing(
        r"-- hello
         C: ETRN example.org
         S: 253 5 messages
         C:  xclient NAME=x
         S: 550 no
         C: X é
         S: 450-later
         S: 450 perhaps
         C: NOOP
         S: 250 ok",
    );
    let mut client = connect(&server);
    assert_eq!(block_on(client.command("ETRN example.org")).unwrap().code(), 253);
    let reply = block_on(client.command(" xclient NAME=x")).unwrap();
    assert!(reply.is_permanent() && !reply.is_positive());
    assert_eq!(block_on(client.command("X é".as_bytes())).unwrap().text(), "later\nperhaps");
    assert_open(&mut client);
}

#[test]
fn a_custom_command_need_not_be_utf_8() {
    let server = Server::running(|peer| {
        peer.play("-- hello");
        assert_eq!(peer.line().unwrap(), b"X \xe9\r\n");
        peer.say("250 ok\r\n");
    });
    block_on(connect(&server).command(b"X \xe9")).unwrap();
}

#[test]
fn a_421_to_a_custom_command_closes_the_connection() {
    let server = one("XYZZY", "421 bye");
    let mut client = connect(&server);
    assert_eq!(refusal(&block_on(client.command("XYZZY")).unwrap_err()), (Phase::Command, 421));
    assert_closed(&mut client);
}

#[test]
fn a_3yz_reply_to_a_custom_command_is_a_protocol_error() {
    for code in [334, 354] {
        let server = one("XDATA", &format!("{code} go on"));
        let mut client = connect(&server);
        let error = block_on(client.command("XDATA")).unwrap_err();
        assert!(matches!(error, Error::Protocol { phase: Phase::Command, .. }), "{error:?}");
        assert_closed(&mut client);
    }
}

#[test]
fn a_custom_command_that_has_its_own_method_is_refused() {
    let server = Server::playing("-- hello STARTTLS, CHUNKING, AUTH PLAIN\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    for (command, method) in [
        ("DATA", "Client::data"),
        ("data", "Client::data"),
        ("  Data", "Client::data"),
        ("BDAT 5 LAST", "Client::data"),
        ("AUTH PLAIN AHVzZXIAc2VjcmV0", "Client::login"),
        ("AUTH PLAIN AHVzZXIAc2VjcmV0\r\n", "line ending is added"),
        ("STARTTLS", "Client::starttls"),
        ("EHLO me", "Client::ehlo"),
        ("HELO me", "Client::helo"),
        ("LHLO me", "Client::ehlo"),
        ("QUIT", "Client::quit"),
    ] {
        let error = block_on(client.command(command)).unwrap_err();
        assert!(matches!(error, Error::Config(_)) && error.to_string().contains(method), "{error}");
        assert!(!error.to_string().contains("AHVz"), "{error}");
    }
    for nothing in ["", "   ", &"x".repeat(2047)] {
        assert!(matches!(block_on(client.command(nothing)), Err(Error::Config(_))));
    }
    assert_open(&mut client);
}

// Transactions by single commands.

const BY_HAND: &str = "C: MAIL FROM:<alice@example.org> SIZE=12
     S: 250 ok
     C: RCPT TO:<bob@example.org>
     S: 250 ok
     C: RCPT TO:<carol@example.org>
     S: 251 will forward
     C: DATA\n";

fn begin_by_hand(client: &mut Client) {
    block_on(client.mail("alice@example.org", &["SIZE=12"])).unwrap();
    block_on(client.rcpt("bob@example.org", &[])).unwrap();
    assert_eq!(block_on(client.rcpt("carol@example.org", &[])).unwrap().code(), 251);
}

// Behaviour 34.
#[test]
fn a_message_can_be_sent_command_by_command() {
    let server = Server::playing(format!(
        "-- hello
         {BY_HAND}S: 354 go on
         C: ..Hello
         C: you
         C: .
         S: 250 queued
         -- envelope
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok"
    ));
    let mut client = connect(&server);
    begin_by_hand(&mut client);
    assert_eq!(block_on(client.data(".Hello\nyou")).unwrap().text(), "queued");
    accept(&mut client, &mail()); // no RSET before it
}

#[test]
fn content_may_be_octets_text_or_a_reader() {
    use postino::message::Body;
    let bodies: [fn() -> Body<'static>; 5] = [
        || "Hello".into(),
        || b"Hello\r\n".into(),
        || b"Hello".as_slice().into(),
        || String::from("Hello\n").into(),
        || Body::reader(std::io::Cursor::new(b"Hello\r")),
    ];
    for body in bodies {
        let server = Server::playing("-- hello\nC: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 250 ok");
        block_on(connect(&server).data(body())).unwrap();
    }
}

// Behaviour 34.
#[test]
fn data_is_accepted_by_any_3yz_and_then_by_any_2yz() {
    for (leave, end) in [(354, 250), (300, 200), (334, 251), (399, 299)] {
        let server = Server::playing(format!(
            "-- hello\nC: DATA\nS: {leave} go\n-- body\nS: {end} well\nC: NOOP\nS: 250 ok"
        ));
        let mut client = connect(&server);
        assert_eq!(block_on(client.data("Hello")).unwrap().code(), end);
        assert_open(&mut client);
    }
    for code in [250, 251, 220] {
        let server = Server::playing(format!("-- hello\nC: DATA\nS: {code} well"));
        let mut client = connect(&server);
        let error = block_on(client.data("Hello")).unwrap_err();
        assert!(
            matches!(error, Error::Protocol { phase: Phase::Data, .. }) && !error.in_doubt(),
            "{error:?}"
        );
        assert_closed(&mut client);
    }
    for code in [354, 300] {
        let server = Server::playing(format!("-- hello\nC: DATA\nS: 354 go\n-- body\nS: {code} well"));
        let mut client = connect(&server);
        let error = block_on(client.data("Hello")).unwrap_err();
        assert!(matches!(error, Error::Protocol { phase: Phase::End, .. }) && error.in_doubt(), "{error:?}");
        assert!(!error.is_transient() && !error.is_permanent());
        assert_closed(&mut client);
    }
}

#[test]
fn refused_content_leaves_the_connection_in_step() {
    for (script, phase) in
        [("S: 554 no recipients", Phase::Data), ("S: 354 go on\n-- body\nS: 554 spam", Phase::End)]
    {
        let server = Server::playing(format!("-- hello\nC: DATA\n{script}\nC: NOOP\nS: 250 ok"));
        let mut client = connect(&server);
        let error = block_on(client.data("Hello")).unwrap_err();
        assert_eq!(refusal(&error), (phase, 554));
        assert!(!error.in_doubt());
        assert_open(&mut client);
    }
}

#[test]
fn a_421_to_content_refuses_it_and_closes_the_connection() {
    let server = Server::playing("-- hello\nC: DATA\nS: 354 go on\n-- body\nS: 421 bye");
    let mut client = connect(&server);
    let error = block_on(client.data("Hello")).unwrap_err();
    assert_eq!(refusal(&error), (Phase::End, 421));
    assert!(!error.in_doubt() && error.is_transient());
    assert_closed(&mut client);
}

#[test]
fn content_whose_reply_is_lost_or_invalid_is_in_doubt() {
    for end in ["-- fin", "-- reset", "S... 250 o\n-- fin", "S: nonsense"] {
        let server = Server::playing(format!("-- hello\nC: DATA\nS: 354 go on\n-- body\n{end}"));
        let mut client = connect(&server);
        let error = block_on(client.data("Hello")).unwrap_err();
        assert!(error.in_doubt() && !error.is_transient(), "{end}: {error:?}");
        assert_closed(&mut client);
    }
    let server = Server::playing("-- hello\nC: DATA\nS: 354 go on\n-- body\n-- silence");
    let mut client = connect(&server);
    let error = ends_in_time(&mut client, |client| block_on(client.next_call_deadline(SHORT).data("Hello")));
    assert!(error.in_doubt());
}

#[test]
fn a_message_cut_off_before_the_end_of_its_content_is_not_in_doubt() {
    let server = Server::playing("-- hello\nC: DATA\n-- fin");
    let error = block_on(connect(&server).data("Hello")).unwrap_err();
    assert!(matches!(error, Error::Closed(Phase::Data)) && !error.in_doubt() && error.is_transient());

    // Garbage after the 354 is noticed before the dot can be sent.
    let server = Server::playing("-- hello\nC: DATA\nS: 354 go on\nS: 250 ok");
    let error = block_on(connect(&server).data("Hello")).unwrap_err();
    assert!(matches!(error, Error::Protocol { phase: Phase::Body, .. }) && !error.in_doubt(), "{error:?}");

    let server = Server::playing("-- hello\nC: DATA\nS: 354 go on\nS: 552 too much");
    let error = block_on(connect(&server).data("Hello")).unwrap_err();
    assert_eq!(refusal(&error), (Phase::Body, 552));
}

#[test]
fn acceptance_of_content_is_final() {
    let server = Server::playing("-- hello\nC: DATA\nS: 354 go on\n-- body\nS: 250 queued\nS: garbage");
    let mut client = connect(&server);
    assert_eq!(block_on(client.data("Hello")).unwrap().text(), "queued");
    assert_closed(&mut client);
}

#[test]
fn non_ascii_content_has_to_be_announced() {
    let server = Server::playing(
        "-- hello 8BITMIME
         C: MAIL FROM:<a@b>
         S: 250 ok
         C: RSET
         S: 250 ok
         C: MAIL FROM:<a@b> body=8bitmime
         S: 250 ok
         C: DATA
         S: 354 go on
         C: Grüße
         C: .
         S: 250 ok",
    );
    let mut client = connect(&server);
    block_on(client.mail("a@b", &[])).unwrap();
    let error = block_on(client.data("Grüße")).unwrap_err();
    assert!(matches!(error, Error::Message(_)) && error.to_string().contains("BODY=8BITMIME"), "{error}");
    assert!(matches!(block_on(client.data(b"a\0b")), Err(Error::Message(_))));
    block_on(client.rset()).unwrap();
    block_on(client.mail("a@b", &["body=8bitmime"])).unwrap();
    block_on(client.data("Grüße")).unwrap();
}

#[test]
fn an_unannounced_non_ascii_reader_leaves_the_server_without_a_message() {
    let server = Server::running(|peer: &mut Peer| {
        peer.may_leave = true;
        peer.play("-- hello 8BITMIME\nC: MAIL FROM:<a@b>\nS: 250 ok\nC: DATA\nS: 354 go on");
        assert!(peer.line().is_none(), "it must not go out");
    });
    let mut client = connect(&server);
    block_on(client.mail("a@b", &[])).unwrap();
    let body = postino::message::Body::reader(std::io::Cursor::new("Grüße"));
    let error = block_on(client.data(body)).unwrap_err();
    assert!(matches!(error, Error::Message(_)) && !error.in_doubt(), "{error:?}");
    assert_closed(&mut client);
}

#[test]
fn a_send_resets_a_transaction_begun_by_hand() {
    type Begin = fn(&mut Client);
    let begin: [(&str, Begin); 4] = [
        ("C: MAIL FROM:<a@b>\nS: 250 ok", |client| drop(block_on(client.mail("a@b", &[])).unwrap())),
        ("C: MAIL FROM:<a@b>\nS: 450 later", |client| drop(block_on(client.mail("a@b", &[])).unwrap_err())),
        ("C: MAIL FROM:<a@b>\nS: 250 ok", |client| {
            drop(block_on(client.command("MAIL FROM:<a@b>")).unwrap());
        }),
        ("C: DATA\nS: 503 no", |client| drop(block_on(client.data("Hello")).unwrap_err())),
    ];
    for (script, begin) in begin {
        let server = Server::playing(format!(
            "-- hello
             {script}
             C: RSET
             S: 250 ok
             -- envelope
             C: DATA
             S: 354 go on
             C: Hello
             C: .
             S: 250 ok
             C: MAIL FROM:<alice@example.org>
             S: 550 not again
             C: RSET
             S: 250 ok"
        ));
        let mut client = connect(&server);
        begin(&mut client);
        assert!(matches!(send_error(&mut client, &text(b"\0")), Error::Message(_))); // no RSET is sent for it
        accept(&mut client, &mail());
        assert_eq!(outcome(&send_error(&mut client, &mail())), Outcome::Refused); // once is enough
    }
}

#[test]
fn after_a_refused_rset_the_message_is_not_sent() {
    let server = Server::playing("-- hello\nC: MAIL FROM:<a@b>\nS: 250 ok\nC: RSET\nS: 550 no");
    let mut client = connect(&server);
    block_on(client.mail("a@b", &[])).unwrap();
    let error = send_error(&mut client, &mail());
    assert_eq!((outcome(&error), refusal(cause(&error))), (Outcome::NotSent, (Phase::Reset, 550)));
}

#[test]
fn rset_and_ehlo_end_a_transaction_begun_by_hand() {
    for end in ["RSET", "EHLO client.example.org"] {
        let server = Server::playing(format!(
            "-- hello\nC: MAIL FROM:<a@b>\nS: 250 ok\nC: {end}\nS: 250 ok\nC: MAIL FROM:<alice@example.org>\nS: 550 no\nC: RSET\nS: 250 ok"
        ));
        let mut client = connect(&server);
        block_on(client.mail("a@b", &[])).unwrap();
        match end {
            "RSET" => block_on(client.rset()).unwrap(),
            _ => block_on(client.ehlo(None)).unwrap(),
        };
        assert_eq!(outcome(&send_error(&mut client, &mail())), Outcome::Refused);
    }
}

// Logins.

fn password() -> Credentials {
    Credentials::new("user", "secret").unwrap()
}

#[test]
fn each_mechanism_can_be_requested_explicitly() {
    let all = "-- hello AUTH PLAIN LOGIN XOAUTH2 OAUTHBEARER EXTERNAL ANONYMOUS SCRAM-SHA-256 CRAM-MD5\n";
    let (password, token) = (password(), Credentials::token("user", "token").unwrap());
    let (external, anonymous) = (Credentials::external("").unwrap(), Credentials::anonymous("me").unwrap());
    let mechanisms = [
        ("PLAIN", &password, "C: AUTH PLAIN AHVzZXIAc2VjcmV0"),
        ("plain", &password, "C: AUTH PLAIN AHVzZXIAc2VjcmV0"),
        ("LOGIN", &password, "C: AUTH LOGIN\nS: 334 eA==\nC: dXNlcg==\nS: 334 eQ==\nC: c2VjcmV0"),
        ("XOAuth2", &token, "C: AUTH XOAUTH2 dXNlcj11c2VyAWF1dGg9QmVhcmVyIHRva2VuAQE="),
        ("EXTERNAL", &external, "C: AUTH EXTERNAL ="),
        ("ANONYMOUS", &anonymous, "C: AUTH ANONYMOUS bWU="),
    ];
    for (mechanism, credentials, script) in mechanisms {
        let log_in = |client: &mut Client| block_on(client.auth(mechanism, credentials));
        let server = Server::playing(format!("{all}{script}\nS: 235 welcome\nC: NOOP\nS: 250 ok"));
        let mut client = connect(&server);
        log_in(&mut client).unwrap();
        assert!(matches!(log_in(&mut client), Err(Error::Auth { reply: None, .. })), "once is enough");
        assert_open(&mut client);

        let server = Server::playing(format!("{all}{script}\nS: 535 no\nC: NOOP\nS: 250 ok"));
        let mut client = connect(&server);
        assert_eq!(log_in(&mut client).unwrap_err().reply().unwrap().code(), 535);
        assert_open(&mut client); // no other mechanism was tried

        let server = Server::playing("-- hello AUTH X-OTHER\nC: NOOP\nS: 250 ok");
        let mut client = connect(&server);
        let error = log_in(&mut client).unwrap_err();
        assert!(error.to_string().contains("X-OTHER"), "{error}");
        assert_open(&mut client);
    }
}

#[test]
fn oauthbearer_can_be_requested_and_names_the_server() {
    let server = Server::running(|peer| {
        peer.play("-- hello AUTH PLAIN OAUTHBEARER");
        assert!(peer.line().unwrap().starts_with(b"AUTH OAUTHBEARER bixhPXVzZXIs"));
        peer.say("235 welcome\r\n");
    });
    block_on(connect(&server).auth("OAUTHBEARER", &Credentials::token("user", "token").unwrap())).unwrap();
}

// Behaviour 69.
#[cfg(feature = "sasl")]
#[test]
fn cram_md5_can_be_requested_and_answers_the_challenge() {
    // RFC 2195 §2
    let server = Server::playing(
        "-- hello AUTH PLAIN CRAM-MD5
         C: AUTH CRAM-MD5
         S: 334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+
         C: dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw
         S: 235 welcome",
    );
    let credentials = Credentials::new("tim", "tanstaaftanstaaf").unwrap();
    block_on(connect(&server).auth("CRAM-MD5", &credentials)).unwrap();
}

#[cfg(feature = "sasl")]
#[test]
fn a_requested_scram_mechanism_is_the_one_used() {
    for name in ["SCRAM-SHA-1", "SCRAM-SHA-256"] {
        let server = Server::running(move |peer| {
            peer.play("-- hello AUTH PLAIN SCRAM-SHA-1 SCRAM-SHA-256 SCRAM-SHA-256-PLUS");
            assert!(peer.line().unwrap().starts_with(format!("AUTH {name} biws").as_bytes()));
            peer.play("S: 535 no\nC: NOOP\nS: 250 ok");
        });
        let mut client = connect(&server);
        let error = block_on(client.auth(name, &password())).unwrap_err();
        assert_eq!(error.reply().unwrap().code(), 535);
        assert_open(&mut client);
    }
    // There is no TLS to bind to.
    let server = Server::playing("-- hello AUTH SCRAM-SHA-256 SCRAM-SHA-256-PLUS\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    assert!(matches!(
        block_on(client.auth("SCRAM-SHA-256-PLUS", &password())),
        Err(Error::Auth { reply: None, .. })
    ));
    assert_open(&mut client);
}

#[cfg(not(feature = "sasl"))]
#[test]
fn a_mechanism_missing_from_this_build_is_a_clear_error() {
    let server = Server::playing("-- hello AUTH CRAM-MD5 SCRAM-SHA-256\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    for name in ["CRAM-MD5", "scram-sha-256"] {
        let error = block_on(client.auth(name, &password())).unwrap_err();
        assert!(matches!(error, Error::Config(_)) && error.to_string().contains("`sasl`"), "{error}");
    }
    assert_open(&mut client);
}

#[test]
fn a_custom_mechanism_can_be_used_on_a_connected_client() {
    #[derive(Clone)]
    struct Ticket;
    impl Mechanism for Ticket {
        fn name(&self) -> &str {
            "CRAM-MD5" // it may replace a built-in one
        }
        fn answer(&mut self, _: &[u8]) -> Answer {
            Answer::Respond(b"ticket".to_vec())
        }
    }
    let server =
        Server::playing("-- hello AUTH CRAM-MD5\nC: AUTH CRAM-MD5\nS: 334 eA==\nC: dGlja2V0\nS: 235 welcome");
    block_on(connect(&server).auth_mechanism(Ticket)).unwrap();
}

#[test]
fn credentials_that_no_mechanism_can_carry_are_not_sent() {
    for credentials in [
        Credentials::new("us\0er", "secret"),
        Credentials::token("user", "to\nken"),
        Credentials::anonymous("a\nb"),
    ] {
        assert!(matches!(credentials, Err(Error::Config(_))), "{credentials:?}");
    }
    let server = Server::playing("-- hello AUTH PLAIN XOAUTH2 ANONYMOUS\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let error = block_on(client.login("us\0er", "secret")).unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error:?}");
    assert_open(&mut client);
}

#[test]
fn an_unknown_or_unsuitable_mechanism_is_not_sent() {
    let server = Server::playing("-- hello AUTH PLAIN XOAUTH2 X-OTHER DIGEST-MD5\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let token = Credentials::token("user", "token").unwrap();
    for (mechanism, credentials, why) in [
        ("x-other", &password(), "the AUTH mechanism X-OTHER is unknown"),
        ("DIGEST-MD5", &token, "the AUTH mechanism DIGEST-MD5 is unknown"),
        ("plain", &token, "the AUTH mechanism PLAIN does not fit the credentials"),
        ("XOAUTH2", &password(), "the AUTH mechanism XOAUTH2 does not fit the credentials"),
        ("PLAIN\r\nRSET", &token, "invalid AUTH mechanism name: \"PLAIN\\r\\nRSET\""),
        ("", &token, "invalid AUTH mechanism name: \"\""),
    ] {
        let error = block_on(client.auth(mechanism, credentials)).unwrap_err();
        assert!(matches!(&error, Error::Config(text) if text == why), "{mechanism:?}: {error}");
    }
    assert_open(&mut client);
}

// STARTTLS.

// Behaviour 54.
#[test]
fn starttls_that_is_not_offered_is_not_sent() {
    for ignored in ["X", "STARTTLS"] {
        let keyword = if ignored == "X" { "SIZE" } else { "STARTTLS" };
        let server = Server::playing(format!("-- hello {keyword}\nC: NOOP\nS: 250 ok"));
        let mut client = block_on(builder(&server).ignore_capability(ignored).connect()).unwrap();
        let error = block_on(client.starttls()).unwrap_err();
        let named =
            if cfg!(any(feature = "native-tls", feature = "rustls")) { "STARTTLS" } else { "native-tls" };
        assert!(error.to_string().contains(named), "{error}");
        assert_open(&mut client);
    }
}

#[cfg(any(feature = "native-tls", feature = "rustls"))]
mod starttls {
    use postino::Security;

    use super::*;
    use crate::support::tls::CA;

    fn plain(server: &Server) -> Client {
        let builder = builder(server).security(Security::Plaintext).ca_certificate(CA);
        block_on(builder.connect()).unwrap()
    }

    // Behaviour 55.
    #[test]
    fn a_refused_starttls_leaves_the_connection_as_it_was() {
        for code in [454, 500, 501, 550] {
            let server = Server::playing(format!(
                "-- hello STARTTLS, SIZE 5\nC: STARTTLS\nS: {code} no\nC: NOOP\nS: 250 ok"
            ));
            let mut client = plain(&server);
            assert_eq!(refusal(&block_on(client.starttls()).unwrap_err()), (Phase::StartTls, code));
            assert!(!client.is_encrypted() && client.supports("SIZE") && client.is_esmtp());
            assert!(client.hello_reply().is_some());
            assert_open(&mut client);
        }
    }

    // Threat 3.
    #[test]
    fn starttls_by_hand_accepts_only_220() {
        for code in [250, 235, 334, 354, 421] {
            let server = Server::playing(format!("-- hello STARTTLS\nC: STARTTLS\nS: {code} well"));
            let mut client = plain(&server);
            match block_on(client.starttls()).unwrap_err() {
                Error::Protocol { phase: Phase::StartTls, .. } => assert_ne!(code, 421),
                error => assert_eq!(refusal(&error), (Phase::StartTls, 421)),
            }
            assert_closed(&mut client);
        }
    }

    // Behaviour 56.
    #[test]
    fn everything_is_learnt_anew_after_starttls() {
        let server = Server::playing(
            "-- hello STARTTLS, SIZE 5, AUTH PLAIN
             C: AUTH PLAIN AHVzZXIAc2VjcmV0
             S: 235 welcome
             C: MAIL FROM:<a@b>
             S: 250 ok
             C: STARTTLS
             S: 220 go ahead
             -- tls good
             C: EHLO client.example.org
             S: 250-secure.example.org
             S: 250-CHUNKING
             S: 250 AUTH LOGIN
             C: AUTH LOGIN
             S: 334 eA==
             C: dXNlcg==
             S: 334 eQ==
             C: c2VjcmV0
             S: 235 welcome
             C: MAIL FROM:<alice@example.org>
             S: 550 no
             C: RSET
             S: 250 ok",
        );
        let mut client = plain(&server);
        block_on(client.login("user", "secret")).unwrap();
        block_on(client.mail("a@b", &[])).unwrap();
        block_on(client.starttls()).unwrap();
        assert!(client.is_encrypted() && client.supports("CHUNKING") && !client.supports("SIZE"));
        assert_eq!(client.capabilities().auth_mechanisms().collect::<Vec<_>>(), ["LOGIN"]);
        assert_eq!(client.hello_reply().unwrap().text_lines().next(), Some(&b"secure.example.org"[..]));
        assert_eq!(client.greeting().unwrap().code(), 220);
        block_on(client.login("user", "secret")).unwrap();
        assert_eq!(outcome(&send_error(&mut client, &mail())), Outcome::Refused); // no RSET before it
    }

    // Behaviour 57.
    #[test]
    fn octets_after_the_reply_to_starttls_are_treated_as_an_injection() {
        let server =
            Server::playing("-- hello STARTTLS\nC: STARTTLS\nS: 220 go\nS: 250-evil\nS: 250 AUTH PLAIN");
        let mut client = plain(&server);
        let error = block_on(client.starttls()).unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error:?}");
        assert_closed(&mut client);
    }

    // Behaviour 58.
    #[test]
    fn starttls_by_hand_within_tls_is_an_error() {
        let server = Server::playing("-- tls good\n-- hello STARTTLS\nC: NOOP\nS: 250 ok");
        let builder = builder(&server).security(Security::Implicit).ca_certificate(CA);
        let mut client = block_on(builder.connect()).unwrap();
        let error = block_on(client.starttls()).unwrap_err();
        assert!(matches!(error, Error::Config(_)) && error.to_string().contains("already"), "{error}");
        assert_open(&mut client);
    }

    // Behaviour 59.
    #[test]
    fn an_end_before_the_handshake_of_starttls_is_an_error() {
        for end in ["-- close", "-- reset"] {
            let server = Server::playing(format!("-- hello STARTTLS\nC: STARTTLS\nS: 220 go\n{end}"));
            let mut client = plain(&server);
            let error = block_on(client.starttls()).unwrap_err();
            assert!(error.is_transient() && !error.is_timeout(), "{error:?}");
            assert_closed(&mut client);
        }
        let server = Server::running(|peer| {
            peer.play("-- hello STARTTLS\nC: STARTTLS\nS: 220 go");
            peer.ignore();
        });
        let mut client = plain(&server);
        let error = ends_in_time(&mut client, |client| block_on(client.next_call_deadline(SHORT).starttls()));
        assert!(matches!(error, Error::Timeout(Phase::Tls)));
    }

    // Behaviour 60.
    #[test]
    fn a_bad_certificate_after_starttls_is_an_error() {
        let server = Server::playing("-- hello STARTTLS\nC: STARTTLS\nS: 220 go\n-- no tls unknown-issuer");
        let mut client = plain(&server);
        let error = block_on(client.starttls()).unwrap_err();
        assert!(matches!(error, Error::Certificate { .. }), "{error:?}");
        assert_closed(&mut client);
    }

    #[test]
    fn an_ehlo_refused_after_starttls_closes_the_connection() {
        let server = Server::playing(
            "-- hello STARTTLS
             C: STARTTLS
             S: 220 go ahead
             -- tls good
             C: EHLO client.example.org
             S: 502 what?",
        );
        let mut client = plain(&server);
        assert_eq!(refusal(&block_on(client.starttls()).unwrap_err()), (Phase::Hello, 502));
        assert_closed(&mut client);
    }

    #[cfg(feature = "sasl")]
    #[test]
    fn a_requested_scram_plus_mechanism_binds_to_the_connection() {
        let server = Server::running(|peer| {
            peer.play("-- tls good 1.2\n-- hello AUTH PLAIN SCRAM-SHA-256-PLUS");
            // p=tls-server-end-point, the only one in TLS 1.2
            let start = b"AUTH SCRAM-SHA-256-PLUS cD10bHMtc2VydmVyLWVuZC1wb2ludCws";
            assert!(peer.line().unwrap().starts_with(start));
            peer.play("S: 535 no\nC: NOOP\nS: 250 ok");
        });
        let builder = builder(&server).security(Security::Implicit).ca_certificate(CA);
        let mut client = block_on(builder.connect()).unwrap();
        assert!(block_on(client.auth("SCRAM-SHA-256-PLUS", &password())).is_err());
        assert_open(&mut client);
    }
}
