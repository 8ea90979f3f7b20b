//! QUIT, alone and with the end of a message; sending in one call.

use std::time::{Duration, Instant};

use postino::{Error, JoinPolicy, Outcome, Phase};

use super::*;
use crate::{send, support::journal};

const FLIGHT: &str = "-- hello PIPELINING, CHUNKING
     C: MAIL FROM:<alice@example.org>
     C: RCPT TO:<bob@example.org>
     C: DATA
     S: 250 ok
     S: 250 ok
     S: 354 go on\n";

/// A builder that joins QUIT to the end of the message.
fn joining(server: &Server) -> Builder {
    builder(server).join_envelopes(JoinPolicy::Always)
}

#[test]
fn quit_leaves_with_the_end_of_the_last_message_on_request() {
    let server = Server::playing(format!(
        "{FLIGHT}C: Hello
         C: .
         C: QUIT
         S: 250 ok
         S: 221 bye"
    ));
    let delivery = block_on(joining(&server).send(&mail())).unwrap();
    assert_eq!(delivery.outcome(), Outcome::Accepted);
}

#[test]
fn the_reply_to_a_quit_that_left_with_the_message_is_not_awaited() {
    let server = Server::playing(format!("{FLIGHT}-- body\nC: QUIT\nS: 250 ok\n-- silence"));
    let start = Instant::now();
    block_on(joining(&server).send(&mail())).map(drop).unwrap();
    assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
}

// Threat 42.
#[test]
fn the_reply_to_quit_changes_nothing() {
    for end in ["S: 500 what?", "S: garbage", "-- fin", "-- reset", "S: 421 bye"] {
        let server = Server::playing(format!("{FLIGHT}-- body\nC: QUIT\nS: 250 ok\n{end}"));
        block_on(joining(&server).send(&mail())).map(drop).unwrap();
    }
}

// Threat 77.
#[test]
fn without_pipelining_quit_waits_for_the_end_of_the_message() {
    let server = Server::playing(
        "-- hello
         -- envelope
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok
         C: QUIT
         S: 221 bye",
    );
    block_on(builder(&server).send(&mail())).map(drop).unwrap();
}

#[test]
fn a_message_refused_at_its_end_is_refused_even_if_quit_left_with_it() {
    let server = Server::playing(format!("{FLIGHT}-- body\nC: QUIT\nS: 550 spam\nS: 221 bye"));
    let error = block_on(joining(&server).send(&mail())).unwrap_err();
    assert_eq!((outcome(&error), refusal(cause(&error))), (Outcome::Refused, (Phase::End, 550)));
}

// Threat 40.
#[test]
fn a_message_whose_reply_is_lost_is_in_doubt_even_if_quit_left_with_it() {
    for end in ["-- fin", "-- reset", "S... 250 o\n-- fin"] {
        let server = Server::playing(format!("{FLIGHT}-- body\nC: QUIT\n{end}"));
        assert!(block_on(joining(&server).send(&mail())).unwrap_err().in_doubt(), "{end}");
    }
}

#[test]
fn the_reply_to_quit_is_not_taken_for_the_reply_to_the_message() {
    let server = Server::playing(format!("{FLIGHT}-- body\nC: QUIT\nS: 221 bye"));
    let error = block_on(joining(&server).send(&mail())).unwrap_err();
    assert!(error.in_doubt(), "{error:?}");
}

#[test]
fn a_refused_envelope_is_followed_by_rset_and_quit() {
    let server = Server::playing(
        "-- hello PIPELINING, CHUNKING
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<bob@example.org>
         C: DATA
         S: 250 ok
         S: 550 no
         S: 503 no recipients
         C: RSET
         S: 250 ok
         C: QUIT
         S: 221 bye",
    );
    let error = block_on(joining(&server).send(&mail())).unwrap_err();
    assert_eq!(refusal(cause(&error)), (Phase::Recipient, 550));
}

// Threat 73.
#[test]
fn a_lone_dot_without_recipients_leaves_together_with_quit() {
    let server = Server::playing(
        "-- hello PIPELINING, CHUNKING
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<bob@example.org>
         C: DATA
         S: 250 ok
         S: 550 no
         S: 354 go on
         C: .
         C: QUIT
         S: 554 no recipients
         S: 221 bye",
    );
    let error = block_on(joining(&server).send(&mail())).unwrap_err();
    assert_eq!(refusal(cause(&error)), (Phase::Recipient, 550));
}

#[test]
fn if_a_message_cannot_be_sent_only_quit_is_sent() {
    let server = Server::playing(
        "-- hello
         C: QUIT
         S: 221 bye",
    );
    let error = block_on(builder(&server).send(&text(b"a\0b"))).unwrap_err();
    assert!(matches!(error, Error::Message(_)), "{error:?}");
}

#[test]
fn a_message_can_be_sent_with_nothing_but_a_url() {
    let server = Server::running(|peer| {
        peer.say("220 hi\r\n");
        assert!(peer.line().unwrap().starts_with(b"EHLO "));
        peer.play(
            "S: 250-hi
             S: 250 AUTH PLAIN
             C: AUTH PLAIN AHVzZXIAc2VjcmV0
             S: 235 welcome
             -- envelope
             C: DATA
             S: 354 go on
             C: Hello
             C: .
             S: 250 ok
             C: QUIT
             S: 221 bye",
        );
    });
    let url = format!("smtp://user:secret@127.0.0.1:{}?tls=none", server.port());
    let delivery = block_on(send(&url, &mail())).unwrap();
    assert_eq!(delivery.outcome(), Outcome::Accepted);
}

// Behaviour 18.
#[test]
fn quit_sends_quit_and_closes() {
    let server = Server::playing("-- hello\nC: QUIT\nS: 221 bye");
    let mut client = connect(&server);
    block_on(client.quit()).unwrap();
    assert_closed(&mut client);
    block_on(client.quit()).unwrap(); // it can safely be sent again
}

// Threat 16.
#[test]
fn quit_succeeds_whatever_the_server_does() {
    for end in
        ["-- fin", "-- reset", "-- close", "S: 500 what?", "S: 421 bye", "S: garbage", "S... 22\n-- fin"]
    {
        let server = Server::playing(format!("-- hello\nC: QUIT\n{end}"));
        let mut client = connect(&server);
        block_on(client.quit()).unwrap();
        assert_closed(&mut client);
    }
}

// Threat 16.
#[test]
fn quit_waits_for_a_second_at_most() {
    for end in [
        "-- silence",
        "-- drip 221-.........................................................................",
    ] {
        let server = Server::playing(format!("-- hello\nC: QUIT\n{end}"));
        let mut client = connect(&server);
        let start = Instant::now();
        block_on(client.quit()).unwrap();
        assert!(
            start.elapsed() > Duration::from_millis(900) && start.elapsed() < PATIENCE,
            "{:?}",
            start.elapsed()
        );
    }
}

// Threat 16.
#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn quit_succeeds_without_a_tls_close_notify() {
    for end in ["-- fin", "-- reset", "-- close", "S: 221 bye\n-- fin", "S: 221 bye\n-- close"] {
        let server = Server::playing(format!("-- tls good\n-- hello\nC: QUIT\n{end}"));
        let builder = builder(&server).security(postino::Security::Implicit);
        let mut client = block_on(builder.ca_certificate(crate::support::tls::CA).connect()).unwrap();
        block_on(client.quit()).unwrap();
        assert_closed(&mut client);
    }
}

#[test]
fn close_sends_nothing() {
    let server = Server::playing("-- hello");
    let mut client = connect(&server);
    client.close();
    client.close();
    assert_closed(&mut client);
    assert!(matches!(send_error(&mut client, &mail()), Error::NotConnected));
}

// Behaviour 18.
#[test]
fn dropping_sends_nothing() {
    let server = Server::playing("-- hello");
    drop(connect(&server));
}

#[test]
fn a_reply_to_quit_together_with_that_to_the_message_is_no_error() {
    let server = Server::playing(
        "-- hello PIPELINING, CHUNKING
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<bob@example.org>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 354 go on
         -- body
         C: QUIT
         S: 250 goodbye, queued as Q1
         S: 221 bye, said with it
         -- close",
    );
    let delivery = block_on(joining(&server).send(&mail())).unwrap();
    assert_eq!(delivery.queue_id(), Some("Q1"));
    assert!(!journal::lines_with("S: 250 goodbye, queued as Q1").is_empty(), "the log is kept");
    assert!(journal::lines_with("said with it").iter().all(|line| !line.contains("closing")));
}

// Behaviour 20.
#[test]
fn quit_after_a_quit_or_a_loss_sends_nothing_and_is_not_an_error() {
    let server = Server::playing("-- hello\nC: QUIT\nS: 221 bye");
    let mut client = connect(&server);
    block_on(client.quit()).unwrap();
    block_on(client.quit()).unwrap();
    drop(server);

    let server = Server::playing("-- hello\nC: NOOP\n-- fin");
    let mut client = connect(&server);
    block_on(client.noop()).unwrap_err();
    block_on(client.quit()).unwrap();
}

// Behaviour 93.
#[test]
fn each_call_connects_sends_and_quits() {
    let session =
        "-- hello\n-- envelope\nC: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 250 ok\nC: QUIT\nS: 221 bye";
    let server = Server::playing_in_turn([session, session]);
    let builder = builder(&server);
    for _ in 0..2 {
        assert_eq!(block_on(builder.send(&mail())).unwrap().outcome(), Outcome::Accepted);
    }
}
