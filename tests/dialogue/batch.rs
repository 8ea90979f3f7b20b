//! Many messages over one connection: what is sent together, and the result of each message when something fails.

use std::{
    cell::Cell,
    io::{self, Read},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use postino::{Error, JoinPolicy, Phase, Raw, Retry, message::Body};

use super::*;

const ENVELOPE: &str = "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\n";
const TAKEN: &str = "S: 250 sender\nS: 250 recipient\nS: 354 go on\n";
const REFUSED: &str = "S: 503 no\nS: 503 no\nS: 503 no\n";

fn mails(count: usize) -> Vec<Raw<'static>> {
    (1..=count).map(numbered).collect()
}

/// A message that is not joined, in as few flights as possible.
fn alone(number: usize) -> String {
    format!("{ENVELOPE}{TAKEN}C: {number}\nC: .\nS: 250 taken\n")
}

/// The first two of three messages, joined, and the server's replies.
fn two_joined(what: &str) -> String {
    format!("-- hello PIPELINING, CHUNKING\n{ENVELOPE}{TAKEN}C: 1\nC: .\n{ENVELOPE}{what}")
}

#[test]
fn the_end_of_a_message_and_the_next_envelope_leave_together() {
    let server = Server::playing(format!(
        "{}{TAKEN}C: 2\nC: .\n{ENVELOPE}S: 250 taken\n{TAKEN}C: 3\nC: .\nS: 250 taken\nC: NOOP\nS: 250 ok",
        two_joined("S: 250 taken\n")
    ));
    let mut client = connect(&server);
    assert_eq!(outcomes(&send_all(&mut client, mails(3))), "AAA");
    assert_open(&mut client);
}

#[test]
fn without_pipelining_a_batch_is_sent_step_by_step() {
    let one = |n| format!("-- envelope\nC: DATA\nS: 354 go on\nC: {n}\nC: .\nS: 250 taken\n");
    let server = Server::playing(format!("-- hello\n{}{}{}", one(1), one(2), one(3)));
    assert_eq!(outcomes(&send_all(&mut connect(&server), mails(3))), "AAA");
}

#[test]
fn joining_can_be_turned_off() {
    let server =
        Server::playing(format!("-- hello PIPELINING, CHUNKING\n{}{}{}", alone(1), alone(2), alone(3)));
    let mut client = block_on(builder(&server).join_envelopes(JoinPolicy::Never).connect()).unwrap();
    assert_eq!(outcomes(&send_all(&mut client, mails(3))), "AAA");
}

#[test]
fn nothing_is_joined_where_dovecots_submission_would_crash() {
    let hello = "-- hello PIPELINING, CHUNKING, BURL imap";
    let server = Server::playing(format!("{hello}\n{}{}{}", alone(1), alone(2), alone(3)));
    assert_eq!(outcomes(&send_all(&mut connect(&server), mails(3))), "AAA");
}

/// Sends three messages to a server that accepts no joined envelope, and then two more with a clone of the builder,
/// which remembers that.
fn learns_not_to_join(sessions: &[String]) -> Duration {
    let next = format!("-- hello PIPELINING, CHUNKING\n{}{}", alone(1), alone(2));
    let server = Server::playing_each(sessions.iter().chain([&next]));
    let builder = builder(&server);
    let mut client = block_on(builder.connect()).unwrap();
    let start = Instant::now();
    assert_eq!(outcomes(&send_all(&mut client, mails(3))), "AAA");
    let took = start.elapsed();
    drop(client);
    let mut client = block_on(builder.clone().connect()).unwrap();
    assert_eq!(outcomes(&send_all(&mut client, mails(2))), "AA");
    took
}

#[test]
fn a_joined_envelope_that_is_swallowed_is_sent_over_a_new_connection() {
    let took = learns_not_to_join(&[
        two_joined("S: 250 taken"),
        format!("-- hello PIPELINING, CHUNKING\n{}{}", alone(2), alone(3)),
    ]);
    assert!(took >= Duration::from_millis(50), "it took the silence for an answer after {took:?}");
}

#[test]
fn a_server_that_hangs_up_on_a_joined_envelope_is_not_joined_again() {
    learns_not_to_join(&[
        two_joined("S: 250 taken\n-- close"),
        format!("-- hello PIPELINING, CHUNKING\n{}{}", alone(2), alone(3)),
    ]);
}

#[test]
fn a_joined_envelope_that_is_refused_is_sent_again_alone() {
    let refused = two_joined(&format!("S: 250 taken\n{REFUSED}"));
    let again = format!("C: RSET\n{ENVELOPE}S: 250 ok\n{TAKEN}C: 2\nC: .\nS: 250 taken\n");
    learns_not_to_join(&[format!("{refused}{again}{}", alone(3))]);
}

#[test]
fn a_server_that_answers_joined_envelopes_is_joined_by_the_next_client_too() {
    let two = format!("{}{TAKEN}C: 2\nC: .\nS: 250 taken", two_joined("S: 250 taken\n"));
    let server = Server::playing_each([two.clone(), two]);
    let builder = builder(&server);
    for _ in 0..2 {
        let mut client = block_on(builder.connect()).unwrap();
        assert_eq!(outcomes(&send_all(&mut client, mails(2))), "AA");
    }
}

#[test]
fn a_message_meant_for_other_extensions_is_not_sent_over_a_renewed_connection() {
    let server = Server::playing_each([
        two_joined("S: 250 taken\n-- close"),
        "-- hello\n-- envelope\nC: DATA\nS: 354 go on\nC: 3\nC: .\nS: 250 taken".to_owned(),
    ]);
    assert_eq!(outcomes(&send_all(&mut connect(&server), mails(3))), "ANA");
}

#[test]
fn a_refused_sender_in_a_batch_affects_only_its_own_message() {
    let server = Server::playing(format!(
        "{}C: RSET
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<bob@example.org>
         C: DATA
         S: 250 ok
         {TAKEN}C: 3
         C: .
         S: 250 taken",
        two_joined("S: 250 taken\nS: 550 no\nS: 503 no\nS: 503 no\n")
    ));
    let results = send_all(&mut connect(&server), mails(3));
    assert_eq!(outcomes(&results), "ARA");
    assert_eq!(refusal(cause(results[1].as_ref().unwrap_err())), (Phase::Mail, 550));
}

// Threat 73.
#[test]
fn a_354_without_recipients_in_a_batch_gets_a_lone_dot_and_the_next_envelope() {
    let server = Server::playing(format!(
        "{}C: .\n{ENVELOPE}S: 554 no recipients\n{TAKEN}C: 3\nC: .\nS: 250 taken",
        two_joined("S: 250 taken\nS: 250 ok\nS: 550 nobody\nS: 354 go on\n")
    ));
    let results = send_all(&mut connect(&server), mails(3));
    assert_eq!(outcomes(&results), "ARA");
    assert_eq!(refusal(cause(results[1].as_ref().unwrap_err())), (Phase::Recipient, 550));
}

#[test]
fn a_message_refused_at_its_end_does_not_affect_the_next_under_way() {
    let server = Server::playing(format!(
        "{}{TAKEN}C: 2\nC: .\n{ENVELOPE}S: 554 spam\n{TAKEN}C: 3\nC: .\nS: 451 later\nC: RSET\nS: 250 ok",
        two_joined("S: 451 later\n")
    ));
    let results = send_all(&mut connect(&server), mails(3));
    assert_eq!(outcomes(&results), "RRR");
    assert_eq!(refusal(cause(results[1].as_ref().unwrap_err())), (Phase::End, 554));
    let retries: Vec<_> = results.iter().map(|r| r.as_ref().unwrap_err().retry()).collect();
    assert_eq!(retries, [Retry::Later, Retry::Never, Retry::Later]);
}

/// Sends three messages; the second is joined, and gets this answer.
fn three_with(answer: &str) -> Vec<Result<Delivery, Error>> {
    let server = Server::playing(two_joined(answer));
    let mut client = connect(&server);
    let results = send_all(&mut client, mails(3));
    assert_closed(&mut client);
    results
}

#[test]
fn a_421_in_the_middle_of_a_batch_ends_it() {
    let results = three_with("S: 250 taken\nS: 421 closing");
    assert_eq!(outcomes(&results), "AN");
    assert_eq!(results[1].as_ref().unwrap_err().reply().unwrap().code(), 421);
    assert!(results.iter().skip(1).all(|r| r.as_ref().unwrap_err().is_transient()));
}

#[test]
fn a_421_to_the_end_of_a_message_refuses_it_and_the_others_are_not_sent() {
    let results = three_with("S: 421 closing");
    assert_eq!(outcomes(&results), "RN");
    assert_eq!(refusal(cause(results[0].as_ref().unwrap_err())), (Phase::End, 421));
    assert_eq!(results[1].as_ref().unwrap_err().retry(), Retry::Later);
}

#[test]
fn an_invalid_reply_in_a_batch_leaves_the_message_it_answers_in_doubt() {
    let results = three_with("S: what?");
    assert_eq!(outcomes(&results), "DN");
    assert_eq!(results[0].as_ref().unwrap_err().retry(), Retry::MayDuplicate);
}

#[test]
fn a_connection_lost_in_a_batch_leaves_what_was_sent_in_doubt() {
    let results = three_with("-- reset");
    assert_eq!(outcomes(&results), "DN");
    assert!(results[0].as_ref().unwrap_err().in_doubt());
}

#[test]
fn a_message_of_which_only_the_envelope_had_left_can_be_retried_at_once() {
    for end in ["-- fin", "-- reset"] {
        let results = three_with(end);
        let retries: Vec<_> = results.iter().map(|r| r.as_ref().unwrap_err().retry()).collect();
        assert_eq!(retries, [Retry::MayDuplicate, Retry::Now], "the third stays in the iterator");
        let cause = cause(results[1].as_ref().unwrap_err());
        assert!(
            matches!(cause, Error::Closed(Phase::Mail) | Error::Io { phase: Phase::Mail, .. }),
            "{cause:?}"
        );
        for result in &results[1..] {
            let error = result.as_ref().unwrap_err();
            assert!(error.is_transient() && error.delivery().unwrap().retry_envelope().is_some());
        }
    }
}

#[test]
fn a_connection_lost_within_a_partly_answered_joined_envelope_is_renewed() {
    let server = Server::playing_each([
        two_joined("S: 250 taken\nS: 250 sender\n-- reset"),
        format!("-- hello PIPELINING, CHUNKING\n{}", alone(2)),
    ]);
    assert_eq!(outcomes(&send_all(&mut connect(&server), mails(2))), "AA");
}

#[test]
fn a_connection_lost_before_anything_was_joined_is_not_renewed() {
    let server = Server::playing(format!("-- hello PIPELINING, CHUNKING\n{ENVELOPE}-- close"));
    assert_eq!(outcomes(&send_all(&mut connect(&server), mails(2))), "N");
}

#[test]
fn a_batch_renews_a_lost_connection_only_once() {
    let server = Server::playing_each([
        two_joined("S: 250 taken\n-- close"),
        format!("-- hello PIPELINING, CHUNKING\n{ENVELOPE}-- close"),
    ]);
    let mut client = connect(&server);
    assert_eq!(outcomes(&send_all(&mut client, mails(3))), "AN");
    assert_closed(&mut client);
}

#[test]
fn a_timeout_in_a_batch_leaves_what_was_sent_in_doubt() {
    let server = Server::playing(two_joined(""));
    let builder = builder(&server).final_reply_timeout(Duration::from_millis(200));
    let mut client = block_on(builder.connect()).unwrap();
    let results = send_all(&mut client, mails(3));
    assert_eq!(outcomes(&results), "DN");
    assert!(results[0].as_ref().unwrap_err().is_timeout());
    assert_closed(&mut client);
}

#[test]
fn a_deadline_ends_a_silent_batch_with_its_message_in_doubt() {
    let server = Server::playing(two_joined(""));
    let builder = builder(&server).deadline(Duration::from_secs(1));
    let mut client = block_on(builder.connect()).unwrap();
    let results = send_all(&mut client, mails(2));
    assert_eq!(outcomes(&results), "DN");
    assert!(results[0].as_ref().unwrap_err().is_timeout());
}

#[test]
fn a_message_that_cannot_be_sent_here_fails_alone_and_the_others_are_sent() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING, SIZE 10
         C: MAIL FROM:<alice@example.org> SIZE=3
         C: RCPT TO:<bob@example.org>
         C: DATA
         {TAKEN}C: 1
         C: .
         C: MAIL FROM:<alice@example.org> SIZE=3
         C: RCPT TO:<bob@example.org>
         C: DATA
         S: 250 taken
         {TAKEN}C: 6
         C: .
         S: 250 taken",
    ));
    let bob = || envelope(&["bob@example.org"]);
    let results = send_all(
        &mut connect(&server),
        vec![
            numbered(1),
            Raw::bytes(bob(), vec![b'x'; 11]),
            Raw::bytes(envelope(&["b\u{f6}b@example.org"]), "3\r\n"),
            Raw::bytes(bob(), "\0\r\n"),
            Raw::path(bob(), "/nonexistent/mail"),
            numbered(6),
            Raw::bytes(bob(), "\u{e9}\r\n"),
        ],
    );
    assert_eq!(outcomes(&results), "AEEEEAE");
    let error = |n: usize| results[n].as_ref().unwrap_err();
    assert!(matches!(error(1), Error::TooLarge { size: 13, limit: 10 }));
    assert!(matches!(error(2), Error::Unsupported(what) if what.contains("SMTPUTF8")));
    assert!(matches!(error(3), Error::Message(_)));
    assert!(matches!(error(4), Error::Source(_)));
    assert!(matches!(error(6), Error::Unsupported(what) if what.contains("8BITMIME")));
}

#[test]
fn single_use_readers_can_be_sent_in_a_batch() {
    let reader = |text: &'static str| Raw::reader(envelope(&["bob@example.org"]), text.as_bytes());
    let server = Server::playing_each([
        two_joined("S: 250 taken\n-- close"),
        format!("-- hello PIPELINING, CHUNKING\n{}{}", alone(2), alone(3)),
    ]);
    let mails = vec![reader("1\r\n"), reader("2\r\n"), reader("3\r\n")];
    assert_eq!(outcomes(&send_all(&mut connect(&server), mails)), "AAA");
}

/// Content of some octets, and then an error.
struct Fails(&'static [u8]);

impl Read for Fails {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self.0.read(room)? {
            0 => Err(io::Error::other("bad sector")),
            n => Ok(n),
        }
    }
}

#[test]
fn a_source_that_fails_midway_ends_the_batch_with_its_message_unfinished() {
    let server = Server::running(|peer| {
        peer.may_leave = true;
        peer.play(&two_joined(&format!("S: 250 taken\n{TAKEN}C: 2\nC: .")));
    });
    let failing = Raw::reader(envelope(&["bob@example.org"]), Fails(b"2\r\n"));
    let mut client = connect(&server);
    let results = send_all(&mut client, vec![numbered(1), failing, numbered(3)]);
    assert_eq!(outcomes(&results), "ANN");
    assert!(matches!(cause(results[1].as_ref().unwrap_err()), Error::Source(_)));
    assert_closed(&mut client);
    drop(client);
    let heard = server.finish();
    assert_eq!(count(&heard, b"\r\n.\r\n"), 1);
}

fn count(heard: &[u8], what: &[u8]) -> usize {
    heard.windows(what.len()).filter(|window| *window == what).count()
}

// Threat 38.
#[test]
fn an_early_refusal_in_a_batch_is_heard_and_ends_it() {
    let server = Server::running(|peer| {
        peer.may_run_ahead = true;
        peer.play(&two_joined(&format!("S: 250 taken\n{TAKEN}-- read 10000\nS: 552 too large")));
        peer.ignore();
    });
    let large = Raw::bytes(envelope(&["bob@example.org"]), b"0123456789\r\n".repeat(1_000_000));
    let mut client = connect(&server);
    let results = send_all(&mut client, vec![numbered(1), large, numbered(3)]);
    assert_eq!(outcomes(&results), "ARN");
    assert_eq!(refusal(cause(results[1].as_ref().unwrap_err())), (Phase::Body, 552));
    assert_closed(&mut client);
}

#[test]
fn messages_are_pushed_one_by_one() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING\n{}{}C: 3\nC: .\nS: 250 taken\n{}C: NOOP\nS: 250 ok",
        alone(1),
        format_args!("{ENVELOPE}{TAKEN}C: 2\nC: .\n{ENVELOPE}S: 250 taken\n{TAKEN}"),
        alone(4),
    ));
    let mut client = connect(&server);
    let mut batch = client.batch();
    assert!(block_on(batch.next()).is_none());
    batch.push(numbered(1));
    assert_eq!(batch.pending(), 1);
    assert!(matches!(block_on(batch.next()), Some((0, Ok(_)))));
    batch.push(numbered(2));
    batch.push(numbered(3));
    assert_eq!(batch.pending(), 2);
    assert!(matches!(block_on(batch.next()), Some((1, Ok(_)))));
    assert_eq!(batch.pending(), 1);
    assert!(matches!(block_on(batch.next()), Some((2, Ok(_)))));
    assert!(block_on(batch.next()).is_none());
    batch.push(numbered(4));
    let rest = block_on(batch.finish());
    assert!(matches!(rest.as_slice(), [(3, Ok(_))]));
    assert_open(&mut client);
}

#[test]
fn finish_reports_the_messages_taken_and_takes_no_more() {
    let server = Server::playing(format!(
        "{}{TAKEN}C: 2\nC: .\nS: 250 taken\nC: NOOP\nS: 250 ok",
        two_joined("S: 250 taken\n")
    ));
    let mut client = connect(&server);
    let mut taken = 0;
    let mut batch = client.send_all((1..).map(numbered).inspect(|_| taken += 1));
    assert!(matches!(block_on(batch.next()), Some((0, Ok(_)))));
    let rest = block_on(batch.finish());
    assert!(matches!(rest.as_slice(), [(1, Ok(_))]));
    assert_eq!(taken, 2);
    assert_open(&mut client);
}

// Threat 81.
#[test]
fn a_batch_dropped_with_messages_under_way_leaves_the_client_closed() {
    let server = Server::running(|peer| {
        peer.may_leave = true;
        peer.play(&two_joined("S: 250 taken"));
    });
    let mut client = connect(&server);
    let mut batch = client.send_all(mails(3));
    assert!(matches!(block_on(batch.next()), Some((0, Ok(_)))));
    drop(batch);
    assert_closed(&mut client);
}

#[test]
fn a_batch_dropped_between_messages_leaves_a_usable_client() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING\n{}C: NOOP\nS: 250 ok\n{}",
        alone(1),
        alone(2)
    ));
    let mut client = connect(&server);
    drop(client.send_all(mails(1)));
    let mut batch = client.send_all(mails(1));
    assert!(matches!(block_on(batch.next()), Some((0, Ok(_)))));
    drop(batch);
    assert_open(&mut client);
    accept(&mut client, &numbered(2));
}

#[test]
fn a_batch_dropped_after_a_refusal_leaves_a_client_that_begins_with_rset() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING\n{ENVELOPE}S: 550 no\nS: 503 no\nS: 503 no
         C: RSET
         {ENVELOPE}S: 250 ok\n{TAKEN}C: 2\nC: .\nS: 250 taken",
    ));
    let mut client = connect(&server);
    let mut batch = client.send_all(mails(1));
    assert!(matches!(block_on(batch.next()), Some((0, Err(_)))));
    drop(batch);
    accept(&mut client, &numbered(2));
}

#[test]
fn two_batches_over_two_connections_do_not_mix() {
    let script = format!("{}{TAKEN}C: 2\nC: .\nS: 250 taken", two_joined("S: 250 taken\n"));
    let (one, other) = (Server::playing(script.clone()), Server::playing(script));
    let (mut first, mut second) = (connect(&one), connect(&other));
    let (mut first, mut second) = (first.send_all(mails(2)), second.send_all(mails(2)));
    for number in 0..2 {
        assert!(matches!(block_on(first.next()), Some((n, Ok(_))) if n == number));
        assert!(matches!(block_on(second.next()), Some((n, Ok(_))) if n == number));
    }
}

#[test]
fn the_next_message_is_taken_before_the_previous_one_leaves() {
    let (tell, told) = std::sync::mpsc::channel();
    let server = Server::running(move |peer| {
        peer.play(&format!("-- hello PIPELINING, CHUNKING\n{ENVELOPE}{TAKEN}"));
        peer.play("C: 1");
        told.try_recv().expect("the second message was taken before the first one left");
        peer.play(&format!("C: .\n{ENVELOPE}S: 250 taken\n{TAKEN}C: 2\nC: .\nS: 250 taken"));
    });
    let mut client = connect(&server);
    let mut batch = client.send_all((1..=2).map(|n| {
        if n == 2 {
            tell.send(()).unwrap();
        }
        numbered(n)
    }));
    while let Some((_, result)) = block_on(batch.next()) {
        result.map(drop).unwrap();
    }
}

#[test]
fn messages_of_a_batch_report_only_their_total_time() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING\n{ENVELOPE}-- pause\n{TAKEN}C: 1\nC: .\n-- pause\nS: 250 taken"
    ));
    let results = send_all(&mut connect(&server), mails(1));
    let took = results[0].as_ref().unwrap().timings();
    assert!(took.total >= Duration::from_millis(90) && took.total < PATIENCE, "{took:?}");
    assert_eq!((took.envelope, took.content, took.end), Default::default());
}

#[test]
fn a_single_message_reports_how_long_each_phase_took() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING\n{ENVELOPE}-- pause\n{TAKEN}C: 1\nC: .\n-- pause\nS: 250 taken"
    ));
    let took = deliver(&mut connect(&server), &numbered(1)).unwrap().timings();
    let pause = Duration::from_millis(45);
    assert!(took.envelope >= pause && took.end >= pause && took.total >= took.envelope + took.end);
    assert!(took.total < PATIENCE);
}

#[test]
fn a_retry_envelope_omits_accepted_and_permanently_refused_recipients() {
    let server = Server::playing(
        "-- hello PIPELINING, CHUNKING
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<a@example.org>
         C: RCPT TO:<b@example.org>
         C: RCPT TO:<c@example.org>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 550 never
         S: 450 later
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok",
    );
    let mail = mail_to(&["a@example.org", "b@example.org", "c@example.org"]);
    let delivery = deliver(&mut connect(&server), &mail).unwrap();
    let unsent = delivery.retry_envelope().unwrap();
    let left: Vec<_> = unsent.recipients().iter().map(|r| r.as_str()).collect();
    assert_eq!(left, ["c@example.org"]);
}

#[test]
fn retry_says_whether_and_when_to_retry_a_message() {
    let retry_of = |script: &str| {
        let server = Server::playing(format!("-- hello\n{script}"));
        let error = send_error(&mut connect(&server), &mail());
        (error.retry(), error.delivery().unwrap().retry_envelope().is_some())
    };
    let sent = "-- envelope\nC: DATA\nS: 354 go on\nC: Hello\nC: .\n";
    let mail = "C: MAIL FROM:<alice@example.org>\n";
    assert_eq!(retry_of(&format!("{sent}-- close")), (Retry::MayDuplicate, false));
    assert_eq!(retry_of(&format!("{sent}S: 451 later\nC: RSET\nS: 250 ok")), (Retry::Later, true));
    assert_eq!(retry_of(&format!("{sent}S: 554 no\nC: RSET\nS: 250 ok")), (Retry::Never, false));
    assert_eq!(retry_of(&format!("{mail}-- close")), (Retry::Now, true));
    assert_eq!(retry_of(&format!("{mail}S: 421 closing")), (Retry::Later, true));
    assert_eq!(retry_of(&format!("{mail}S: what")), (Retry::Later, true));
}

#[test]
fn a_batch_does_not_take_endless_unsendable_messages_before_a_result() {
    let server = Server::playing(
        "-- hello PIPELINING, CHUNKING, SIZE 10
         C: MAIL FROM:<alice@example.org> SIZE=3
         C: RCPT TO:<bob@example.org>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 354 go on
         C: 1
         C: .
         S: 250 ok",
    );
    let mut client = connect(&server);
    let taken = std::cell::Cell::new(0);
    let large = (0..20_000).map(|_| {
        taken.set(taken.get() + 1);
        Raw::bytes(envelope(&["bob@example.org"]), "far too large\r\n")
    });
    let mut batch = client.send_all(std::iter::once(numbered(1)).chain(large));
    assert!(block_on(batch.next()).unwrap().1.is_ok());
    assert!(taken.get() < 5_000, "{}", taken.get());
    let mut results = 1;
    while let Some((number, result)) = block_on(batch.next()) {
        assert_eq!(number, results);
        assert!(matches!(result, Err(Error::TooLarge { .. })));
        results += 1;
    }
    assert_eq!(results, 20_001);
}

#[test]
fn a_result_does_not_wait_for_replies_about_the_next_message() {
    let (tell, told) = std::sync::mpsc::channel();
    let server = Server::running(move |peer| {
        // A slow reply to EHLO, so that the pause below does not look as if the server had lost the envelope.
        let hello = "S: 220 mail\nC: EHLO client.example.org\n-- pause\nS: 250-mail\nS: 250-PIPELINING\nS: 250 CHUNKING\n";
        let joined = two_joined("").replacen("-- hello PIPELINING, CHUNKING\n", hello, 1);
        peer.play(&format!("{joined}S: 250 taken\n-- pause"));
        // The client needs the first result to continue.
        let early = told.recv_timeout(Duration::from_secs(5)).is_ok();
        assert!(early, "the result was kept back");
        peer.play(&format!("{TAKEN}C: 2\nC: .\nS: 250 taken"));
    });
    let mut client = connect(&server);
    let mut batch = client.send_all(mails(2));
    assert!(block_on(batch.next()).unwrap().1.is_ok());
    tell.send(()).unwrap();
    assert!(block_on(batch.next()).unwrap().1.is_ok());
    assert!(block_on(batch.next()).is_none());
}

/// An iterator without a size hint, as that of a channel. It panics if `next` is called after its end.
struct Unsure<I>(I, bool);

impl<I: Iterator> Iterator for Unsure<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        assert!(!self.1, "it was asked after its end");
        let next = self.0.next();
        self.1 = next.is_none();
        next
    }
}

fn unsure<M>(mails: impl IntoIterator<Item = M>) -> impl Iterator<Item = M> {
    Unsure(mails.into_iter(), false)
}

#[test]
fn a_blocking_iterator_is_advanced_once_the_previous_message_has_left() {
    let (give, given) = mpsc::channel();
    give.send(numbered(1)).unwrap();
    let server = Server::running(move |peer| {
        peer.play(&format!("-- hello PIPELINING, CHUNKING\n{ENVELOPE}{TAKEN}C: 1\nC: ."));
        give.send(numbered(2)).unwrap(); // only now, and before the first one is answered
        peer.play(&format!("{ENVELOPE}S: 250 taken\n{TAKEN}C: 2\nC: ."));
        drop(give);
        peer.play("S: 250 taken\nC: NOOP\nS: 250 ok");
    });
    let mut client = connect(&server);
    let mut batch = client.send_all(given.iter());
    for index in 0..2 {
        let (number, result) = block_on(batch.next()).unwrap();
        assert_eq!((number, result.unwrap().outcome()), (index, Outcome::Accepted));
    }
    assert!(block_on(batch.next()).is_none());
    drop(batch);
    assert_open(&mut client);
}

#[test]
fn a_blocking_iterator_is_advanced_once_the_previous_chunk_has_left() {
    let (give, given) = mpsc::channel();
    give.send(numbered(1)).unwrap();
    let envelope = "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\n";
    let server = Server::running(move |peer| {
        peer.play(&format!("-- hello PIPELINING, CHUNKING\n{envelope}C: BDAT 3 LAST\nC: 1"));
        give.send(numbered(2)).unwrap();
        drop(give);
        // Joining is tried with care: no content is sent with the first envelope that joins.
        let taken = "S: 250 sender\nS: 250 recipient\n";
        peer.play(&format!("C: RSET\n{envelope}{taken}S: 250 taken\nS: 250 reset\n{taken}"));
        peer.play("C: BDAT 3 LAST\nC: 2\nS: 250 taken\nC: NOOP\nS: 250 ok");
    });
    let mut client = block_on(builder(&server).chunking(true).connect()).unwrap();
    let mut batch = client.send_all(given.iter());
    let mut accepted = 0;
    while let Some((_, result)) = block_on(batch.next()) {
        assert_eq!(result.unwrap().outcome(), Outcome::Accepted);
        accepted += 1;
    }
    assert_eq!(accepted, 2);
    drop(batch);
    assert_open(&mut client);
}

#[test]
fn the_time_an_iterator_takes_does_not_count_against_the_deadline() {
    let (give, given) = mpsc::channel();
    give.send(numbered(1)).unwrap();
    let server = Server::running(move |peer| {
        peer.play(&format!("-- hello PIPELINING, CHUNKING\n{ENVELOPE}{TAKEN}C: 1\nC: ."));
        std::thread::sleep(Duration::from_millis(600));
        drop(give);
        peer.play("S: 250 taken");
    });
    let builder = builder(&server).deadline(Duration::from_millis(500));
    let mut client = block_on(builder.connect()).unwrap();
    let mut batch = client.send_all(given.iter());
    let (_, result) = block_on(batch.next()).unwrap();
    assert!(result.unwrap().timings().total < Duration::from_millis(400));
    assert!(block_on(batch.next()).is_none());
}

#[test]
fn an_iterator_is_not_advanced_after_its_end() {
    let server = Server::playing(format!("-- hello PIPELINING\n{}{}", alone(1), alone(2)));
    let mut client = connect(&server);
    let mut batch = client.send_all(unsure([numbered(1)]));
    assert!(matches!(block_on(batch.next()), Some((0, Ok(_)))));
    assert!(block_on(batch.next()).is_none());
    batch.push(numbered(2));
    assert!(matches!(block_on(batch.next()), Some((1, Ok(_)))));
    assert!(block_on(batch.next()).is_none());
}

/// MAIL and RCPT, sent as single commands.
const BEGUN: &str = "C: MAIL FROM:<carol@example.org>\nS: 250 ok\nC: RCPT TO:<dave@example.org>\nS: 250 ok\n";

fn begin_by_hand(client: &mut Client) {
    block_on(client.mail("carol@example.org", &[])).unwrap();
    block_on(client.rcpt("dave@example.org", &[])).unwrap();
}

#[test]
fn a_batch_that_sends_nothing_changes_nothing() {
    // The transaction continues with single commands.
    let by_hand = format!("{BEGUN}C: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 250 ok\n");
    // A message begins with RSET.
    let reset = format!("{BEGUN}C: RSET\n{ENVELOPE}S: 250 ok\n{TAKEN}C: 1\nC: .\nS: 250 taken\n");
    let unused: [fn(&mut Client); 5] = [
        |client| drop(client.batch::<Raw<'static>>()),
        |client| drop(client.send_all(mails(2))),
        |client| {
            let mut batch = client.batch();
            batch.push(numbered(1));
        },
        |client| assert!(block_on(client.batch::<Raw<'static>>().next()).is_none()),
        |client| {
            let nul = Raw::bytes(envelope(&["bob@example.org"]), "\0");
            let results = send_all(client, vec![nul, Raw::path(envelope(&["bob@example.org"]), "/no/such")]);
            assert_eq!(outcomes(&results), "EE");
        },
    ];
    for unused in unused {
        let server = Server::playing(format!("-- hello PIPELINING\n{by_hand}{reset}{}", alone(2)));
        let mut client = connect(&server);
        begin_by_hand(&mut client);
        unused(&mut client);
        block_on(client.data("Hello")).unwrap();
        begin_by_hand(&mut client);
        unused(&mut client);
        accept(&mut client, &numbered(1));
        unused(&mut client);
        accept(&mut client, &numbered(2));
    }
}

#[test]
fn a_batch_resets_a_transaction_begun_by_hand_exactly_once() {
    let again = format!("C: RSET\n{ENVELOPE}S: 250 ok\n{TAKEN}C: 1\nC: .\nS: 250 taken\n");
    let server = Server::playing(format!("-- hello PIPELINING\n{BEGUN}{again}{}{}", alone(2), alone(3)));
    let mut client = connect(&server);
    begin_by_hand(&mut client);
    assert_eq!(outcomes(&send_all(&mut client, vec![numbered(1)])), "A");
    accept(&mut client, &numbered(2));
    accept(&mut client, &numbered(3));
}

#[test]
fn a_batch_in_parts_resets_a_transaction_begun_by_hand_exactly_once() {
    let part = |to: &str, reset: &str, done: &str| {
        format!(
            "{reset}C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<{to}>\nC: DATA\n{done}{TAKEN}C: Hello\nC: .\nS: 250 ok\n"
        )
    };
    let server = Server::playing(format!(
        "-- hello PIPELINING, LIMITS RCPTMAX=1\n{BEGUN}{}{}",
        part("a@x.example", "C: RSET\n", "S: 250 ok\n"),
        part("b@x.example", "", "")
    ));
    let mut client = connect(&server);
    begin_by_hand(&mut client);
    let results = send_all(&mut client, vec![mail_to(&["a@x.example", "b@x.example"])]);
    assert_eq!(outcomes(&results), "A");
}

#[test]
fn when_the_connection_is_lost_the_rest_stays_in_the_iterator() {
    for answer in ["S: 250 taken\nS: 421 closing", "S: what?", "-- reset"] {
        let server = Server::playing(two_joined(answer));
        let mut client = connect(&server);
        let (mut rest, taken) = ((1..101).map(numbered), Cell::new(0));
        let mut batch = client.send_all(rest.by_ref().inspect(|_| taken.set(taken.get() + 1)));
        let mut results = 0;
        while let Some((number, _)) = block_on(batch.next()) {
            assert_eq!(number, results);
            results += 1;
        }
        assert!(batch.is_lost() && block_on(batch.next()).is_none());
        drop(batch);
        assert_eq!((results, taken.get(), rest.len()), (2, 2, 98), "{answer}");
    }
}

#[test]
fn pushed_messages_are_reported_when_the_connection_is_lost() {
    let server = Server::playing(two_joined("-- reset"));
    let mut client = connect(&server);
    let mut batch = client.batch();
    assert!(!batch.is_lost());
    mails(4).into_iter().for_each(|mail| batch.push(mail));
    let results: Vec<_> = std::iter::from_fn(|| block_on(batch.next())).map(|(_, result)| result).collect();
    assert_eq!(outcomes(&results), "DNNN");
    assert!(batch.is_lost());
    batch.push(numbered(5));
    assert_eq!(outcomes(&[block_on(batch.next()).unwrap().1]), "N");
    assert!(block_on(batch.next()).is_none());
}

#[test]
fn at_least_one_result_reports_that_the_connection_is_lost() {
    // The first message has its result, and none is under way when the server closes.
    let one = "-- hello\n-- envelope\nC: DATA\nS: 354 go on\nC: 1\nC: .\nS: 421 closing";
    let server = Server::playing(one);
    let mut client = connect(&server);
    let mut mails = mails(4).into_iter();
    let mut batch = client.send_all(mails.by_ref());
    let results: Vec<_> = std::iter::from_fn(|| block_on(batch.next())).map(|(_, result)| result).collect();
    assert_eq!(outcomes(&results), "RN");
    drop(batch);
    assert_eq!(mails.len(), 2);
}

#[test]
fn a_batch_of_a_lost_client_takes_one_message_to_report_it() {
    let server = Server::playing("-- hello\nC: NOOP\nS: 421 closing");
    let mut client = connect(&server);
    block_on(client.noop()).unwrap_err();
    let mut mails = mails(3).into_iter();
    let mut batch = client.send_all(mails.by_ref());
    assert!(batch.is_lost());
    let (number, result) = block_on(batch.next()).unwrap();
    assert_eq!((number, outcomes(&[result]).as_str()), (0, "N"));
    assert!(block_on(batch.next()).is_none());
    drop(batch);
    assert_eq!(mails.len(), 2);
}

fn reader(text: &'static str) -> Raw<'static> {
    Raw::reader(envelope(&["bob@example.org"]), text.as_bytes())
}

#[test]
fn a_reader_whose_message_was_refused_or_lost_in_a_batch_can_be_sent_again() {
    let server = Server::playing_each([
        format!(
            "{}C: RSET\n{ENVELOPE}S: 250 ok\nS: 250 ok\nS: 250 ok\n-- close",
            two_joined("S: 250 taken\nS: 550 no\nS: 503 no\nS: 503 no\n")
        ),
        format!("-- hello PIPELINING\n{}{}", alone(2), alone(3)),
    ]);
    let mails = ["1\r\n", "2\r\n", "3\r\n"].map(reader);
    let results = send_all(&mut connect(&server), mails.iter().collect::<Vec<_>>());
    assert_eq!(outcomes(&results), "ARN");
    let mut client = connect(&server);
    assert!(matches!(send_error(&mut client, &mails[0]), Error::Message(_)));
    accept(&mut client, &mails[1]);
    accept(&mut client, &mails[2]);
}

#[test]
fn a_reader_cannot_be_under_way_twice_at_once() {
    let server = Server::playing(format!("-- hello PIPELINING\n{}", alone(1)));
    let once = Arc::new(reader("1\r\n"));
    let results = send_all(&mut connect(&server), vec![once.clone(), once.clone(), once]);
    assert_eq!(outcomes(&results), "AEE");
}

/// A mail that wraps another one, as user code may do.
struct Around<M>(M);

impl<M: Mail> Mail for Around<M> {
    fn envelope(&self) -> Result<Envelope, Error> {
        self.0.envelope()
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        self.0.body()
    }
}

#[test]
fn a_blocking_iterator_costs_no_extra_round_trips() {
    let server = Server::playing(format!(
        "{}{TAKEN}C: 2\nC: .\n{ENVELOPE}S: 250 taken\n{TAKEN}C: 3\nC: .\nS: 250 taken",
        two_joined("S: 250 taken\n")
    ));
    let mut client = connect(&server);
    let mut batch = client.send_all(unsure(mails(3).into_iter().map(Around)));
    let results: Vec<_> = std::iter::from_fn(|| block_on(batch.next())).map(|(_, result)| result).collect();
    assert_eq!(outcomes(&results), "AAA");
}
