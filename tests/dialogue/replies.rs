//! Reply codes: the first digit decides (RFC 5321 §4.2.1, §4.3.2), with a few exceptions.

use postino::{Error, Phase, Retry};

use super::*;

const CODES: [u16; 5] = [200, 220, 251, 253, 299];

#[test]
fn any_2yz_accepts_a_transaction_command_and_any_3yz_asks_for_content() {
    for code in CODES {
        let server = Server::playing(format!(
            "-- hello PIPELINING
             C: MAIL FROM:<alice@example.org>
             C: RCPT TO:<bob@example.org>
             C: DATA
             S: {code} ok
             S: {code} ok
             S: {} go on
             C: Hello
             C: .
             S: {code} taken
             C: RSET
             S: {code} ok
             C: NOOP
             S: 250 ok",
            code + 100
        ));
        let mut client = connect(&server);
        accept(&mut client, &mail());
        block_on(client.rset()).unwrap();
        assert_open(&mut client);
    }
}

#[test]
fn any_2yz_accepts_a_chunk() {
    for code in CODES {
        let server = Server::playing(format!(
            "-- hello CHUNKING
             -- envelope
             C: BDAT 7 LAST
             C: Hello
             S: {code} taken
             C: NOOP
             S: 250 ok"
        ));
        let mut client = block_on(builder(&server).chunking(true).connect()).unwrap();
        accept(&mut client, &mail());
        assert_open(&mut client);
    }
}

#[test]
fn any_2yz_accepts_a_message_for_an_lmtp_recipient() {
    for code in CODES {
        let server = Server::playing(format!(
            "S: 220 hi
             C: LHLO client.example.org
             S: {} hi
             C: MAIL FROM:<alice@example.org>
             S: {code} ok
             C: RCPT TO:<a@example.org>
             S: {code} ok
             C: RCPT TO:<b@example.org>
             S: {code} ok
             C: DATA
             S: 354 go on
             C: Hello
             C: .
             S: {code} taken
             S: {code} taken",
            if code == 220 { 250 } else { code }
        ));
        let mut client = block_on(builder(&server).lmtp(true).connect()).unwrap();
        accept(&mut client, &mail_to(&["a@example.org", "b@example.org"]));
    }
}

/// Asserts that the error is a 221 in this phase.
#[track_caller]
fn assert_goodbye(error: &Error, phase: Phase) {
    assert_eq!(refusal(error), (phase, 221));
    assert!(error.to_string().contains("closed the connection"), "{error}");
}

#[test]
fn a_221_before_the_end_of_a_message_closes_and_leaves_it_unsent() {
    for (script, phase) in [
        ("S: 221 bye", Phase::Mail),
        ("S: 250 ok\nC: RCPT TO:<bob@example.org>\nS: 221 bye", Phase::Recipient),
        ("S: 250 ok\nC: RCPT TO:<bob@example.org>\nS: 250 ok\nC: DATA\nS: 221 bye", Phase::Data),
    ] {
        let server = Server::playing(format!("-- hello\nC: MAIL FROM:<alice@example.org>\n{script}"));
        let mut client = connect(&server);
        let error = send_error(&mut client, &mail());
        assert_goodbye(cause(&error), phase);
        assert_eq!((outcome(&error), error.retry()), (Outcome::NotSent, Retry::Later));
        assert_closed(&mut client);
    }
}

#[test]
fn a_221_to_the_end_of_a_message_leaves_it_in_doubt() {
    let server = Server::playing("-- hello\n-- envelope\nC: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 221 bye");
    let mut client = connect(&server);
    let error = send_error(&mut client, &mail());
    assert_goodbye(cause(&error), Phase::End);
    assert_eq!((outcome(&error), error.retry()), (Outcome::InDoubt, Retry::MayDuplicate));
    assert!(!error.is_transient() && !error.is_permanent());
    assert_closed(&mut client);
}

#[test]
fn a_221_closes_a_connection_that_is_used_by_hand() {
    type Call = fn(&mut Client) -> Error;
    let calls: [(&str, Call, Phase); 4] = [
        ("C: NOOP\nS: 221 bye", |client| block_on(client.noop()).unwrap_err(), Phase::Noop),
        (
            "C: EHLO client.example.org\nS: 221 bye",
            |client| block_on(client.ehlo(None)).unwrap_err(),
            Phase::Hello,
        ),
        ("C: XYZZY\nS: 221 bye", |client| block_on(client.command("XYZZY")).unwrap_err(), Phase::Command),
        ("C: DATA\nS: 221 bye", |client| block_on(client.data("Hello")).unwrap_err(), Phase::Data),
    ];
    for (script, call, phase) in calls {
        let server = Server::playing(format!("-- hello\n{script}"));
        let mut client = connect(&server);
        let error = call(&mut client);
        assert_goodbye(&error, phase);
        assert!(error.is_transient() && !error.in_doubt());
        assert_closed(&mut client);
    }
    let server = Server::playing("-- hello\nC: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 221 bye");
    let error = block_on(connect(&server).data("Hello")).unwrap_err();
    assert_goodbye(&error, Phase::End);
    assert!(error.in_doubt() && error.retry() == Retry::MayDuplicate && !error.is_transient());
}

#[test]
fn an_unsolicited_221_means_that_the_server_closes_the_session() {
    let (_server, mut client) = hostile::idle("S: 221 idle for too long\n-- fin", |builder| builder);
    let error = send_error(&mut client, &mail());
    assert_goodbye(cause(&error), Phase::Mail);
    assert_eq!((outcome(&error), error.retry()), (Outcome::NotSent, Retry::Later));
    assert_closed(&mut client);
}

#[test]
fn a_server_that_answers_ehlo_with_221_gets_no_helo() {
    let server = Server::playing("S: 220 hi\nC: EHLO client.example.org\nS: 221 bye");
    let error = connect_error(&builder(&server));
    assert_goodbye(&error, Phase::Hello);
    assert!(error.is_transient());
}
