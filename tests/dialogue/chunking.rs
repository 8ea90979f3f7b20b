//! Content by BDAT (RFC 3030): framing, refusals, batches, and avoiding a deadlock with a flood of replies.

use postino::{Envelope, Error, Mail, Phase, Raw, message::Body};

use super::*;

fn chunking(server: &Server) -> Client {
    block_on(builder(server).chunking(true).connect()).unwrap()
}

const ENVELOPE: &str = "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\n";

#[test]
fn a_small_message_leaves_in_one_flight_with_its_envelope() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING\n{ENVELOPE}C: BDAT 7 LAST\nC: Hello\nS: 250 ok\nS: 250 ok\nS: 250 taken"
    ));
    accept(&mut chunking(&server), &mail());
}

#[test]
fn chunking_is_off_by_default() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING\n{ENVELOPE}C: DATA\nS: 250 ok\nS: 250 ok\nS: 354 go on\nC: Hello\nC: .\nS: 250 ok"
    ));
    accept(&mut connect(&server), &mail());
}

#[test]
fn chunking_needs_a_server_that_offers_it() {
    let server = Server::playing("-- hello\n-- envelope\nC: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 250 ok");
    accept(&mut chunking(&server), &mail());
}

/// This many lines of 1,024 octets.
fn lines(count: usize) -> Vec<u8> {
    [&[b'x'; 1022][..], b"\r\n"].concat().repeat(count)
}

#[test]
fn without_pipelining_each_chunk_waits_for_the_previous_reply() {
    let server = Server::playing(
        "-- hello CHUNKING
         -- envelope
         C: BDAT 65536
         -- read 65536
         S: 250 ok
         C: BDAT 36864 LAST
         -- read 36864
         S: 250 taken",
    );
    accept(&mut chunking(&server), &text(&lines(100)));
}

#[test]
fn a_large_message_waits_for_its_recipients_but_not_between_chunks() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING
         {ENVELOPE}S: 250 ok
         S: 250 ok
         C: BDAT 65536
         -- read 65536
         C: BDAT 65536
         -- read 65536
         C: BDAT 2048 LAST
         -- read 2048
         S: 250 ok
         S: 250 ok
         S: 250 taken"
    ));
    accept(&mut chunking(&server), &text(&lines(130)));
}

// Threat 36.
#[test]
fn chunks_do_not_double_dots_but_end_the_last_line() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING\n{ENVELOPE}C: BDAT 12 LAST\nC: .a\nC: .\nC: ..b\nS: 250 ok\nS: 250 ok\nS: 250 ok"
    ));
    accept(&mut chunking(&server), &text(b".a\n.\n..b"));
}

#[test]
fn an_empty_message_is_sent_in_one_chunk_as_an_empty_line() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING\n{ENVELOPE}C: BDAT 2 LAST\n-- read 2\nS: 250 ok\nS: 250 ok\nS: 250 ok"
    ));
    accept(&mut chunking(&server), &text(b""));
}

// Threat 36.
#[test]
fn a_refused_chunk_ends_the_message_and_the_next_begins_with_rset() {
    let server = Server::running(|peer| {
        peer.may_run_ahead = true;
        peer.play(&format!(
            "-- hello PIPELINING, CHUNKING\n{ENVELOPE}S: 250 ok\nS: 250 ok\nC: BDAT 65536\n-- read 65536\nS: 552 full"
        ));
        // Chunks already on their way are refused, too.
        loop {
            let line = String::from_utf8(peer.line().unwrap()).unwrap();
            let Some(octets) = line.strip_prefix("BDAT ") else {
                assert_eq!(line, "RSET\r\n");
                break;
            };
            peer.read(octets.trim_end().trim_end_matches(" LAST").parse().unwrap());
            peer.say("503 no transaction\r\n");
        }
        peer.play(&format!(
            "S: 250 ok\n{ENVELOPE}C: BDAT 7 LAST\nC: Hello\nS: 250 ok\nS: 250 ok\nS: 250 taken"
        ));
    });
    let mut client = chunking(&server);
    let error = send_error(&mut client, &text(&lines(5_000)));
    assert_eq!(outcome(&error), Outcome::Refused);
    assert_eq!(refusal(cause(&error)), (Phase::Body, 552));
    accept(&mut client, &mail());
}

// Threat 36.
#[test]
fn a_refused_last_chunk_refuses_the_message_and_is_followed_by_rset() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING\n{ENVELOPE}C: BDAT 7 LAST\nC: Hello\nS: 250 ok\nS: 250 ok\nS: 451 later
         C: RSET\nS: 250 ok\nC: NOOP\nS: 250 ok"
    ));
    let mut client = chunking(&server);
    let error = send_error(&mut client, &mail());
    assert_eq!(refusal(cause(&error)), (Phase::End, 451));
    assert_open(&mut client);
}

#[test]
fn a_message_with_all_recipients_refused_is_refused_despite_its_sent_content() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING\n{ENVELOPE}C: BDAT 7 LAST\nC: Hello\nS: 250 ok\nS: 550 no\nS: 503 nobody
         C: RSET\nS: 250 ok"
    ));
    let error = send_error(&mut chunking(&server), &mail());
    assert_eq!(outcome(&error), Outcome::Refused);
    assert_eq!(refusal(cause(&error)), (Phase::Recipient, 550));
}

#[test]
fn content_that_is_accepted_after_a_refused_sender_is_in_doubt() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING\n{ENVELOPE}C: BDAT 7 LAST\nC: Hello\nS: 550 no\nS: 250 ok\nS: 250 taken"
    ));
    let mut client = chunking(&server);
    assert!(send_error(&mut client, &mail()).in_doubt());
    assert_closed(&mut client);
}

#[test]
fn all_or_nothing_sends_no_chunk_before_all_recipients_are_accepted() {
    let server = Server::playing(
        "-- hello PIPELINING, CHUNKING
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<a@example.org>
         C: RCPT TO:<b@example.org>
         S: 250 ok
         S: 250 ok
         S: 550 no
         C: RSET
         S: 250 ok",
    );
    let builder = builder(&server).chunking(true).all_or_nothing(true);
    let mut client = block_on(builder.connect()).unwrap();
    let error = send_error(&mut client, &mail_to(&["a@example.org", "b@example.org"]));
    assert_eq!(outcome(&error), Outcome::Refused);
    let each: Vec<_> = error.delivery().unwrap().recipients().map(|r| r.outcome()).collect();
    assert_eq!(each, [Outcome::NotSent, Outcome::Refused]);
}

/// Content of any octets.
struct Binary(&'static [u8]);

impl Mail for Binary {
    fn envelope(&self) -> Result<Envelope, Error> {
        Ok(envelope(&["bob@example.org"]))
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        Ok(Body::from(self.0).binary())
    }
}

#[test]
fn a_binary_body_is_sent_octet_for_octet() {
    let octets = b"\n.\r\0\xff.\r\n.\r\nMAIL";
    let server = Server::running(move |peer| {
        peer.play(
            "-- hello PIPELINING, SIZE, CHUNKING, 8BITMIME, BINARYMIME
             C: MAIL FROM:<alice@example.org> SIZE=15 BODY=BINARYMIME
             C: RCPT TO:<bob@example.org>
             C: BDAT 15 LAST
             -- read 15
             S: 250 ok
             S: 250 ok
             S: 250 ok",
        );
    });
    let mut client = chunking(&server);
    accept(&mut client, &Binary(octets));
    drop(client);
    let heard = server.finish();
    assert!(heard.ends_with(octets));
}

#[test]
fn without_binarymime_a_binary_body_is_treated_like_any_other() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING\n{ENVELOPE}C: BDAT 5 LAST\nC: .\n-- read 2\nS: 250 ok\nS: 250 ok\nS: 250 ok"
    ));
    let mut client = chunking(&server);
    accept(&mut client, &Binary(b".\n\r"));
    assert!(matches!(send_error(&mut client, &Binary(b"\0")), Error::Message(_)));
}

#[test]
fn once_joining_works_many_messages_leave_without_waiting() {
    let one = |n| format!("{ENVELOPE}C: BDAT 3 LAST\nC: {n}\n");
    let rset = |n| format!("C: RSET\n{}", one(n));
    let replies = "S: 250 reset\nS: 250 sender\nS: 250 recipient\nS: 250 taken\n";
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING
         {}C: RSET
         {ENVELOPE}S: 250 sender\nS: 250 recipient\nS: 250 taken
         S: 250 reset\nS: 250 sender\nS: 250 recipient
         C: BDAT 3 LAST\nC: 2
         {}{}S: 250 taken
         {replies}{replies}",
        one(1),
        rset(3),
        rset(4),
    ));
    let results = send_all(&mut chunking(&server), (1..=4).map(numbered).collect());
    assert_eq!(outcomes(&results), "AAAA");
}

#[test]
fn a_421_between_many_chunks_leaves_the_later_messages_unsent() {
    let one = |n| format!("{ENVELOPE}C: BDAT 3 LAST\nC: {n}\n");
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING
         {}C: RSET
         {ENVELOPE}S: 250 sender\nS: 250 recipient\nS: 250 taken
         S: 250 reset\nS: 250 sender\nS: 250 recipient
         C: BDAT 3 LAST\nC: 2
         C: RSET
         {}S: 421 closing",
        one(1),
        one(3),
    ));
    let results = send_all(&mut chunking(&server), (1..=3).map(numbered).collect());
    assert_eq!(outcomes(&results), "ARN");
}

#[test]
fn a_connection_lost_between_many_chunks_leaves_all_that_was_sent_in_doubt() {
    let one = |n| format!("{ENVELOPE}C: BDAT 3 LAST\nC: {n}\n");
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING
         {}C: RSET
         {ENVELOPE}S: 250 sender\nS: 250 recipient\nS: 250 taken
         S: 250 reset\nS: 250 sender\nS: 250 recipient
         C: BDAT 3 LAST\nC: 2
         C: RSET
         {}-- close",
        one(1),
        one(3),
    ));
    let results = send_all(&mut chunking(&server), (1..=3).map(numbered).collect());
    assert_eq!(outcomes(&results), "ADD");
}

#[test]
fn a_server_that_refuses_a_joined_rset_gets_the_message_again() {
    let server = Server::playing(format!(
        "-- hello PIPELINING, CHUNKING
         {ENVELOPE}C: BDAT 3 LAST\nC: 1
         C: RSET
         {ENVELOPE}S: 250 sender\nS: 250 recipient\nS: 250 taken
         S: 503 no\nS: 503 no\nS: 503 no
         C: RSET
         {ENVELOPE}C: BDAT 3 LAST\nC: 2
         S: 250 reset\nS: 250 sender\nS: 250 recipient\nS: 250 taken"
    ));
    let results = send_all(&mut chunking(&server), (1..=2).map(numbered).collect());
    assert_eq!(outcomes(&results), "AA");
}

/// A server with the smallest buffers that reads and replies line by line, with long replies: a client that only
/// writes, or only reads, never finishes.
fn talkative(peer: &mut crate::support::Peer, messages: usize) {
    peer.may_run_ahead = true;
    let long = "x".repeat(400);
    for _ in 0..messages {
        loop {
            let line = peer.line().unwrap();
            match &line[..4] {
                b"DATA" => break,
                b"RSET" | b"MAIL" | b"RCPT" => peer.say(format!("250 a long answer {long}\r\n")),
                _ => panic!("{}", line.escape_ascii()),
            }
        }
        peer.say("354 go on\r\n");
        drop(peer.body());
        peer.say("250 taken\r\n");
    }
}

fn crowd(first: usize) -> Raw<'static> {
    let names: Vec<String> = (first..first + 3_000).map(|n| format!("recipient-{n}@example.org")).collect();
    Raw::bytes(Envelope::new("alice@example.org", names).unwrap(), b"Hello\r\n")
}

#[test]
fn a_server_with_tiny_buffers_and_long_answers_does_not_wedge_a_batch() {
    let server = Server::cramped(|peer| {
        peer.play("-- hello PIPELINING");
        talkative(peer, 2);
    });
    assert_eq!(outcomes(&send_all(&mut connect(&server), vec![crowd(0), crowd(5_000)])), "AA");
}

#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn a_server_with_tiny_buffers_and_long_answers_does_not_wedge_a_batch_in_tls() {
    let server = Server::cramped(|peer| {
        peer.play("-- tls good\n-- hello PIPELINING");
        talkative(peer, 2);
    });
    let builder =
        builder(&server).security(postino::Security::Implicit).ca_certificate(crate::support::tls::CA);
    let mut client = block_on(builder.connect()).unwrap();
    assert_eq!(outcomes(&send_all(&mut client, vec![crowd(0), crowd(5_000)])), "AA");
}

#[test]
fn long_replies_and_small_buffers_do_not_wedge_many_chunks() {
    let server = Server::cramped(|peer| {
        peer.may_run_ahead = true;
        peer.play("-- hello PIPELINING, CHUNKING");
        let long = "x".repeat(400);
        for _ in 0..1_500 {
            loop {
                let line = String::from_utf8(peer.line().unwrap()).unwrap();
                if let Some(octets) = line.strip_prefix("BDAT ") {
                    peer.read(octets.strip_suffix(" LAST\r\n").unwrap().parse().unwrap());
                    break peer.say(format!("250 a long answer {long}\r\n"));
                }
                peer.say(format!("250 a long answer {long}\r\n"));
            }
        }
    });
    let results = send_all(&mut chunking(&server), (0..1_500).map(numbered).collect());
    assert!(results.iter().all(Result::is_ok));
}
