//! Mailers made of other mailers: sending again, and failover.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use postino::{Error, Outcome, RetryPolicy, RetryWait};

use super::{builder, connect, mail, mail_to, named, send_error, wait_for_close};
use crate::{
    Builder, Client, Failover, Mailer, Retrying, block_on,
    support::{Server, closed},
};

const ACCEPTED: &str =
    "-- hello\n-- envelope\nC: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 250 ok\nC: QUIT\nS: 221 bye";
const LATER: &str =
    "-- hello\nC: MAIL FROM:<alice@example.org>\nS: 450 later\nC: RSET\nS: 250 ok\nC: QUIT\nS: 221 bye";
const NEVER: &str =
    "-- hello\nC: MAIL FROM:<alice@example.org>\nS: 550 never\nC: RSET\nS: 250 ok\nC: QUIT\nS: 221 bye";
const DOUBT: &str = "-- hello\n-- envelope\nC: DATA\nS: 354 go on\nC: Hello\nC: .\n-- close";

fn quick(attempts: u32) -> RetryPolicy {
    RetryPolicy::default().attempts(attempts).first_wait(Duration::from_millis(2))
}

fn boxed(builder: &Builder) -> Box<dyn Mailer> {
    Box::new(builder.clone())
}

#[test]
fn a_message_is_sent_again_until_it_is_accepted() {
    let server = Server::playing_each([LATER, LATER, ACCEPTED]);
    let waits = Arc::new(Mutex::new(Vec::<RetryWait>::new()));
    let seen = Arc::clone(&waits);
    let mut mailer = Retrying::new(builder(&server), quick(5))
        .before_wait(move |wait| seen.lock().unwrap().push(wait.clone()));
    let delivery = block_on(mailer.send(&mail())).unwrap();
    assert_eq!(delivery.outcome(), Outcome::Accepted);
    let waits = waits.lock().unwrap();
    assert_eq!(waits.iter().map(|wait| wait.attempts).collect::<Vec<_>>(), [1, 2]);
    assert!(waits.iter().all(|wait| wait.reason.contains("450 later") && wait.recipients == 1));
    server.finish();
}

#[test]
fn a_message_is_not_sent_again_if_that_is_pointless_or_could_duplicate_it() {
    for (script, outcome) in [(NEVER, Outcome::Refused), (DOUBT, Outcome::InDoubt)] {
        let server = Server::playing(script);
        let mut mailer = Retrying::new(builder(&server), quick(5)).before_wait(|wait| panic!("{wait:?}"));
        let error = block_on(mailer.send(&mail())).unwrap_err();
        assert_eq!(error.delivery().unwrap().outcome(), outcome);
        server.finish();
    }
}

#[test]
fn the_last_attempt_is_the_last() {
    let server = Server::playing_each([LATER; 3]);
    let waits = Arc::new(Mutex::new(0));
    let count = Arc::clone(&waits);
    let mailer = Retrying::new(builder(&server), quick(3)).before_wait(move |_| *count.lock().unwrap() += 1);
    let error = block_on({ mailer }.send(&mail())).unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("450 later"), "{error}");
    assert_eq!(*waits.lock().unwrap(), 2);
    server.finish();
}

#[test]
fn a_client_connects_again_before_the_next_attempt() {
    let server = Server::playing_each(["-- hello\n-- envelope\nC: DATA\n-- close", ACCEPTED]);
    let mut mailer = Retrying::new(connect(&server), quick(2));
    block_on(mailer.send(&mail())).unwrap();
    block_on(mailer.into_inner().quit()).unwrap();
    server.finish();
}

/// What ends a connection.
type End = fn(&mut Client);

/// A first connection, what ends it, and whether the client has noticed that.
const ENDS: [(&str, End, bool); 4] = [
    ("-- hello\n-- close", wait_for_close, false),
    ("-- hello\nC: NOOP\n-- close", |client| assert!(block_on(client.noop()).is_err()), true),
    ("-- hello\nC: QUIT\nS: 221 bye", |client| block_on(client.quit()).unwrap(), true),
    ("-- hello", Client::close, true),
];

#[test]
fn a_client_as_a_mailer_connects_again_whatever_has_closed_the_connection() {
    for (script, end, _) in ENDS {
        let server = Server::playing_each([script, ACCEPTED]);
        let mut client = connect(&server);
        end(&mut client);
        block_on(Mailer::send(&mut client, &mail())).unwrap();
        block_on(client.quit()).unwrap();
        server.finish();
    }
}

#[test]
fn the_send_of_a_client_does_not_connect_again_before_a_message_was_accepted() {
    for (script, end, is_noticed) in ENDS {
        let server = Server::playing(script);
        let mut client = connect(&server);
        end(&mut client);
        let error = send_error(&mut client, &mail());
        match error.delivery() {
            None => assert!(is_noticed && matches!(error, Error::NotConnected), "{error}"),
            Some(delivery) => assert!(!is_noticed && delivery.outcome() == Outcome::NotSent, "{error}"),
        }
        assert!(matches!(send_error(&mut client, &mail()), Error::NotConnected));
        server.finish();
    }
}

#[test]
fn a_client_that_was_changed_does_not_connect_again() {
    let server = Server::playing("-- hello\nC: HELO me.example.org\nS: 250 ok\nC: NOOP\n-- close");
    let mut client = connect(&server);
    block_on(client.helo(Some("me.example.org"))).unwrap();
    assert!(block_on(client.noop()).is_err());
    let error = block_on(Retrying::new(&mut client, quick(5)).send(&mail())).unwrap_err();
    assert!(matches!(error, Error::NotConnected), "{error}");
    server.finish();
}

#[test]
fn the_next_mailer_gets_only_the_recipients_that_no_other_may_have_delivered_to() {
    let first = Server::playing(
        "-- hello
         C: MAIL FROM:<alice@example.org>
         S: 250 ok
         C: RCPT TO:<bob@example.org>
         S: 250 ok
         C: RCPT TO:<carol@example.org>
         S: 451 not now
         C: RCPT TO:<dave@example.org>
         S: 550 no such user
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         -- close",
    );
    let second = Server::playing(
        "-- hello
         C: MAIL FROM:<alice@example.org>
         S: 250 ok
         C: RCPT TO:<carol@example.org>
         S: 250 ok
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok
         C: QUIT
         S: 221 bye",
    );
    let mut mailer = Failover::new([boxed(&builder(&first)), boxed(&builder(&second))]);
    let recipients = ["bob@example.org", "carol@example.org", "dave@example.org"];
    let delivery = block_on(mailer.send(&mail_to(&recipients))).unwrap();
    let outcomes: Vec<_> = delivery.recipients().map(|recipient| recipient.outcome()).collect();
    assert_eq!(outcomes, [Outcome::InDoubt, Outcome::Accepted, Outcome::Refused]);
    first.finish();
    second.finish();
}

#[test]
fn an_unreachable_server_is_passed_over() {
    let server = Server::playing(ACCEPTED);
    let unreachable = named(&server, "127.0.0.1").port(closed().port());
    let mut mailer = Failover::new([boxed(&unreachable), boxed(&builder(&server))]);
    assert!(block_on(mailer.send(&mail())).is_ok());
    let error =
        block_on(Failover::new([boxed(&unreachable), boxed(&unreachable)]).send(&mail())).unwrap_err();
    assert!(matches!(error, Error::Connect { .. }), "{error}");
    let error = block_on(Failover::new([]).send(&mail())).unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error}");
    server.finish();
}

#[test]
fn a_server_that_fails_before_a_message_is_passed_over() {
    for script in [
        "S: 554 no service",
        "S: 220 hi\nC: EHLO client.example.org\nS: 250-hi\nS: 250 AUTH PLAIN\nC: AUTH PLAIN AHUAcA==\nS: 535 no",
        "S: 220 hi\nC: EHLO client.example.org\nS: 250-hi\nS: 250 SIZE 2\nC: QUIT\nS: 221 bye",
        "S: junk",
    ] {
        let failing = Server::playing(script);
        let server = Server::playing(ACCEPTED);
        let first = builder(&failing).danger_plaintext_credentials(true);
        let first = if script.contains("AUTH") { first.credentials("u", "p") } else { first };
        let mut mailer = Failover::new([boxed(&first), boxed(&builder(&server))]);
        let delivery = block_on(mailer.send(&mail())).unwrap();
        assert_eq!(delivery.outcome(), Outcome::Accepted);
        server.finish();
    }
}

#[test]
fn a_client_that_cannot_connect_again_is_passed_over() {
    let lost = Server::playing("-- hello\nC: HELO me.example.org\nS: 250 ok\nC: NOOP\n-- close");
    let mut client = connect(&lost);
    block_on(client.helo(Some("me.example.org"))).unwrap();
    assert!(block_on(client.noop()).is_err());
    let server = Server::playing(ACCEPTED);
    let mut mailer = Failover::new([Box::new(client) as Box<dyn Mailer>, boxed(&builder(&server))]);
    block_on(mailer.send(&mail())).unwrap();
    lost.finish();
    server.finish();
}

#[test]
fn an_invalid_message_is_not_offered_to_the_next_server() {
    let server = Server::playing("-- hello\nC: QUIT\nS: 221 bye");
    let unused = boxed(&named(&server, "127.0.0.1").port(closed().port()));
    let mut mailer = Failover::new([boxed(&builder(&server)), unused]);
    let missing = postino::Raw::path(super::envelope(&["bob@example.org"]), "/missing/message.eml");
    let error = block_on(mailer.send(&missing)).unwrap_err();
    assert!(matches!(error, Error::Source(_)), "{error}");
}

#[test]
fn a_message_for_all_or_none_is_not_sent_again_to_some() {
    let server = Server::playing(
        "-- hello
         C: MAIL FROM:<alice@example.org>
         S: 250 ok
         C: RCPT TO:<bob@example.org>
         S: 250 ok
         C: RCPT TO:<carol@example.org>
         S: 550 no such user
         C: RSET
         S: 250 ok
         C: QUIT
         S: 221 bye",
    );
    let unused = boxed(&named(&server, "127.0.0.1").port(closed().port()));
    let first = builder(&server).all_or_nothing(true);
    let retrying = Retrying::new(first, quick(5)).before_wait(|wait| panic!("{wait:?}"));
    let mut mailer = Failover::new([Box::new(retrying) as Box<dyn Mailer>, unused]);
    let error = block_on(mailer.send(&mail_to(&["bob@example.org", "carol@example.org"]))).unwrap_err();
    let outcomes: Vec<_> = error.delivery().unwrap().recipients().map(|one| one.outcome()).collect();
    assert_eq!(outcomes, [Outcome::NotSent, Outcome::Refused]);
    server.finish();
}

#[test]
fn round_robin_begins_with_each_in_turn() {
    let servers = [Server::playing_each([ACCEPTED; 2]), Server::playing_each([ACCEPTED])];
    let mut mailer = Failover::round_robin(servers.iter().map(|server| boxed(&builder(server))));
    for _ in 0..3 {
        block_on(mailer.send(&mail())).unwrap();
    }
    for server in servers {
        server.finish();
    }
}
