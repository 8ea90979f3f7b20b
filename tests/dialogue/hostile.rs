//! Replies that are late, early, too long, out of place, or missing; and connections that end.

use std::{
    io::{self, Read},
    sync::mpsc,
    time::Duration,
};

use postino::{Error, Outcome, Phase};

use super::*;
use crate::support::journal;

/// A server up to the body of the usual message.
const UP_TO_THE_BODY: &str = "-- hello
     -- envelope
     C: DATA
     S: 354 go on\n";

fn protocol_error(error: &Error) -> Phase {
    match error {
        Error::Protocol { phase, .. } => *phase,
        other => panic!("not a protocol error: {other:?}"),
    }
}

// Threat 46.
#[test]
fn an_endless_line_is_given_up_early() {
    let server = Server::running(|peer| {
        peer.play("-- hello\nC: NOOP");
        let said = peer.flood(&[b'2'; 65_536], 64 << 20);
        assert!(said < 16 << 20, "the client listened to {said} octets");
    });
    let mut client = connect(&server);
    assert_eq!(protocol_error(&block_on(client.noop()).unwrap_err()), Phase::Noop);
    assert_closed(&mut client);
}

// Threat 47.
#[test]
fn an_endless_reply_is_given_up_early() {
    let server = Server::running(|peer| {
        peer.play("-- hello\nC: NOOP");
        let said = peer.flood("250-and more\r\n".repeat(1000).as_bytes(), 64 << 20);
        assert!(said < 16 << 20, "the client listened to {said} octets");
    });
    let mut client = connect(&server);
    assert_eq!(protocol_error(&block_on(client.noop()).unwrap_err()), Phase::Noop);
    assert_closed(&mut client);
}

// Threat 46.
#[test]
fn an_endless_greeting_is_given_up_early() {
    let server = Server::running(|peer| {
        let said = peer.flood(&[b'2'; 65_536], 64 << 20);
        assert!(said < 16 << 20, "the client listened to {said} octets");
    });
    assert_eq!(protocol_error(&connect_error(&builder(&server))), Phase::Greeting);
}

#[test]
fn a_long_reply_within_the_limits_is_heard() {
    let server = Server::running(|peer| {
        peer.play("-- hello\nC: NOOP");
        peer.say(format!("{}250 end\r\n", format!("250-{:.<150}\r\n", "").repeat(400)));
    });
    let mut client = connect(&server);
    assert_eq!(block_on(client.noop()).unwrap().text_lines().count(), 401);
}

/// Returns the error of NOOP for an invalid reply.
#[track_caller]
fn answered(answer: &str) {
    let answer = answer.to_owned();
    let server = Server::playing(format!("-- hello\nC: NOOP\n{answer}"));
    let mut client = connect(&server);
    let error = block_on(client.noop()).unwrap_err();
    assert!(matches!(error, Error::Protocol { phase: Phase::Noop, .. }), "{answer:?}: {error:?}");
    assert_closed(&mut client);
}

// Threat 48.
#[test]
fn several_codes_in_one_reply_are_an_error() {
    answered("S: 250-fine\nS: 550 no");
    answered("S: 250-fine\nS: 251-fine\nS: 250 fine");
}

// Threat 49.
#[test]
fn an_invalid_code_is_an_error() {
    for code in
        ["25", "2500", "abc", "099", "150", "600", "+25", "-25", " 250", "25O", "٢٥٠", r"250\0", "250x"]
    {
        answered(&format!("S: {code} text"));
    }
    answered(r"S... \n");
    answered(r"S... \r\n");
}

// Threat 49.
#[test]
fn a_tab_after_the_code_is_an_error() {
    answered("S: 250\ttext");
}

// Threat 50.
#[test]
fn a_reply_needs_no_text() {
    let server = Server::playing(
        "-- hello
         C: NOOP
         S: 250
         C: NOOP
         S: 250-
         S: 250",
    );
    let mut client = connect(&server);
    assert_eq!(block_on(client.noop()).unwrap().text(), "");
    assert_eq!(block_on(client.noop()).unwrap().text_lines().count(), 2);
}

// Threat 43.
#[test]
fn a_reply_need_not_be_utf_8() {
    let server = Server::playing(format!("{UP_TO_THE_BODY}-- body\n{}", r"S: 250 accept\xe9 et gard\xe9"));
    let delivery = deliver(&mut connect(&server), &mail()).unwrap();
    assert_eq!(delivery.reply().unwrap().raw(), b"250 accept\xe9 et gard\xe9\r\n");
    assert!(delivery.reply().unwrap().text().starts_with("accept"));
}

// Threat 27.
#[test]
fn control_characters_in_displayed_replies_are_escaped() {
    let server = Server::playing(format!("-- hello\nC: NOOP\n{}", r"S: 550 \x1b[2J\x07gone\x1b[0m\rC: fake"));
    let error = block_on(connect(&server).noop()).unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("gone") && !shown.contains(char::is_control), "{shown:?}");
    let lines = journal::lines_with("gone");
    assert!(!lines.is_empty() && lines.iter().all(|line| !line.contains(char::is_control)), "{lines:?}");
}

// Threat 52.
#[test]
fn a_reply_of_the_wrong_class_is_an_error() {
    let (hello, envelope) = ("-- hello\n", "-- hello\n-- envelope\nC: DATA\n");
    let mail = "C: MAIL FROM:<alice@example.org>\n";
    let rcpt = "S: 250 ok\nC: RCPT TO:<bob@example.org>\n";
    for (script, phase) in [
        (format!("{hello}{mail}S: 354 go on"), Phase::Mail),
        (format!("{hello}{mail}S: 300 ok"), Phase::Mail),
        (format!("{hello}{mail}{rcpt}S: 354 go on"), Phase::Recipient),
        (format!("{hello}{mail}{rcpt}S: 334 ok"), Phase::Recipient),
        (format!("{envelope}S: 250 ok"), Phase::Data),
        (format!("{envelope}S: 220 ok"), Phase::Data),
    ] {
        let server = Server::playing(&*script);
        let mut client = connect(&server);
        let error = send_error(&mut client, &super::mail());
        assert_eq!(protocol_error(cause(&error)), phase, "{script}");
        assert_eq!(outcome(&error), Outcome::NotSent, "{script}");
        assert_closed(&mut client);
    }
}

// Threat 52.
#[test]
fn a_message_whose_final_reply_is_unexpected_is_in_doubt() {
    for answer in ["354 go on", "300 ok", "garbage"] {
        let server = Server::playing(format!("{UP_TO_THE_BODY}-- body\nS: {answer}"));
        let mut client = connect(&server);
        let error = send_error(&mut client, &mail());
        assert_eq!(protocol_error(cause(&error)), Phase::End, "{answer}");
        assert!(error.in_doubt() && !error.is_transient() && !error.is_permanent(), "{answer}");
        assert_closed(&mut client);
    }
}

// Threat 53.
#[test]
fn an_extra_reply_is_not_the_answer_to_the_next_command() {
    let server = Server::playing(
        "-- hello
         C: MAIL FROM:<alice@example.org>
         S: 250 ok
         S: 250 extra",
    );
    let mut client = connect(&server);
    let error = send_error(&mut client, &mail());
    assert_eq!(outcome(&error), Outcome::NotSent);
    protocol_error(cause(&error));
    assert_closed(&mut client);
}

// Threat 53.
#[test]
fn an_extra_reply_with_that_to_noop_ends_the_connection() {
    let server = Server::playing(
        "-- hello
         C: NOOP
         S: 250 ok
         S: 250 extra",
    );
    let mut client = connect(&server);
    assert_eq!(protocol_error(&block_on(client.noop()).unwrap_err()), Phase::Noop);
    assert_closed(&mut client);
}

/// Returns a connected client, and a server that has then continued with `script`, unsolicited.
pub fn idle(script: &'static str, how: impl FnOnce(Builder) -> Builder) -> (Server, Client) {
    let (go, gone) = (mpsc::channel(), mpsc::channel());
    let server = Server::running(move |peer| {
        peer.play("-- hello");
        go.1.recv_timeout(PATIENCE).unwrap();
        peer.play(script);
        gone.0.send(()).unwrap();
    });
    let client = block_on(how(builder(&server)).connect()).unwrap();
    go.0.send(()).unwrap();
    gone.1.recv_timeout(PATIENCE).unwrap();
    (server, client)
}

// Threat 53.
#[test]
fn a_reply_between_commands_ends_the_connection() {
    for says in ["S: 250 extra", "S: 550 extra", "S: junk"] {
        let (_server, mut client) = idle(says, |builder| builder);
        let error = send_error(&mut client, &mail());
        assert_eq!(outcome(&error), Outcome::NotSent, "{says}");
        assert_closed(&mut client);
    }
}

// Threat 53.
#[test]
fn after_part_of_a_reply_between_commands_nothing_is_sent() {
    let (_server, mut client) =
        idle("S... 25", |builder| builder.command_timeout(Duration::from_millis(200)));
    let error = send_error(&mut client, &mail());
    assert!(error.is_timeout(), "{error:?}");
    assert_eq!(outcome(&error), Outcome::NotSent);
    assert_closed(&mut client);
}

// Threat 55.
#[test]
fn a_421_while_idle_means_that_the_server_closes_the_session() {
    let (_server, mut client) = idle("S: 421 idle for too long\n-- fin", |builder| builder);
    let error = send_error(&mut client, &mail());
    assert_eq!(error.reply().unwrap().code(), 421);
    assert_eq!(outcome(&error), Outcome::NotSent);
    assert!(error.is_transient());
    assert_closed(&mut client);
}

// Threat 83.
#[test]
fn an_idle_connection_that_was_closed_is_noticed_before_anything_is_sent() {
    let (_server, mut client) = idle("-- fin", |builder| builder);
    let error = send_error(&mut client, &mail());
    assert!(matches!(cause(&error), Error::Closed(_)), "{error:?}");
    assert_eq!(outcome(&error), Outcome::NotSent);
    assert!(error.is_transient());
}

// Threat 55.
#[test]
fn a_421_ends_the_connection_and_is_kept() {
    let mail = "-- hello\nC: MAIL FROM:<alice@example.org>\n";
    let rcpt = "S: 250 ok\nC: RCPT TO:<a@example.org>\n";
    let data = "S: 250 ok\nC: RCPT TO:<b@example.org>\nS: 250 ok\nC: DATA\n";
    for (script, phase) in [
        (mail.to_owned(), Phase::Mail),
        (format!("{mail}{rcpt}"), Phase::Recipient),
        (format!("{mail}{rcpt}{data}"), Phase::Data),
    ] {
        let server = Server::playing(format!("{script}S: 421 4.3.2 shutting down"));
        let mut client = connect(&server);
        let error = send_error(&mut client, &mail_to(&["a@example.org", "b@example.org"]));
        assert_eq!(refusal(cause(&error)), (phase, 421));
        assert_eq!(error.reply().unwrap().to_string(), "421 4.3.2 shutting down");
        assert_eq!(outcome(&error), Outcome::NotSent, "{phase:?}");
        assert!(error.delivery().unwrap().recipients().all(|r| r.outcome() == Outcome::NotSent));
        assert!(error.is_transient() && !error.in_doubt());
        assert_closed(&mut client);
    }
}

// Threat 55.
#[test]
fn a_421_to_the_end_of_the_message_is_a_refusal() {
    let server = Server::playing(format!("{UP_TO_THE_BODY}-- body\nS: 421 shutting down"));
    let mut client = connect(&server);
    let error = send_error(&mut client, &mail());
    assert_eq!(refusal(cause(&error)), (Phase::End, 421));
    assert_eq!(outcome(&error), Outcome::Refused);
    assert!(error.is_transient() && !error.in_doubt());
    assert_closed(&mut client);
}

// Threat 55.
#[test]
fn a_pipelined_421_is_not_taken_as_the_recipients_refusal() {
    let server = Server::playing(
        "-- hello PIPELINING
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<a@example.org>
         C: RCPT TO:<b@example.org>
         C: DATA
         S: 250 ok
         S: 550 no
         S: 421 too many errors",
    );
    let mut client = connect(&server);
    let error = send_error(&mut client, &mail_to(&["a@example.org", "b@example.org"]));
    assert_eq!(refusal(cause(&error)), (Phase::Recipient, 421));
    let each: Vec<_> =
        error.delivery().unwrap().recipients().map(|r| (r.outcome(), r.reply().unwrap().code())).collect();
    assert_eq!(each, [(Outcome::Refused, 550), (Outcome::NotSent, 421)]);
    assert_closed(&mut client);
}

// Threat 55.
#[test]
fn a_421_to_noop_and_rset_is_kept() {
    for command in ["NOOP", "RSET"] {
        let server = Server::playing(format!("-- hello\nC: {command}\nS: 421 shutting down"));
        let mut client = connect(&server);
        let error = match command {
            "NOOP" => block_on(client.noop()),
            _ => block_on(client.rset()),
        };
        assert_eq!(error.unwrap_err().reply().unwrap().code(), 421);
        assert_closed(&mut client);
    }
}

// Threat 55.
#[test]
fn a_421_to_the_rset_after_a_refusal_keeps_the_refusal() {
    let server = Server::playing(
        "-- hello
         C: MAIL FROM:<alice@example.org>
         S: 553 not you
         C: RSET
         S: 421 and goodbye",
    );
    let mut client = connect(&server);
    let error = send_error(&mut client, &mail());
    assert_eq!(refusal(cause(&error)), (Phase::Mail, 553));
    assert_closed(&mut client);
}

// Threat 75.
#[test]
fn garbage_between_pipelined_replies_does_not_shift_the_others() {
    let server = Server::playing(
        "-- hello PIPELINING
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<a@example.org>
         C: RCPT TO:<b@example.org>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: debug: here I am
         S: 550 no
         S: 354 go on",
    );
    let mut client = connect(&server);
    let error = send_error(&mut client, &mail_to(&["a@example.org", "b@example.org"]));
    protocol_error(cause(&error));
    assert_eq!(outcome(&error), Outcome::NotSent);
    assert_closed(&mut client);
}

// Threat 53.
#[test]
fn after_an_extra_pipelined_reply_no_body_is_sent() {
    let server = Server::playing(
        "-- hello PIPELINING
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<bob@example.org>
         C: DATA
         S: 250 ok
         S: 250 extra
         S: 550 no
         S: 354 go on",
    );
    let mut client = connect(&server);
    let error = send_error(&mut client, &mail());
    assert!(matches!(outcome(&error), Outcome::NotSent | Outcome::Refused), "{error:?}");
    assert_closed(&mut client);
}

/// A message too large for any buffer.
fn large() -> Vec<u8> {
    b"0123456789abcdef0123456789abcde\n".repeat(1 << 18)
}

// Threat 38.
#[test]
fn a_refusal_within_the_body_is_heard_even_if_the_server_stops_reading() {
    let server = Server::cramped(|peer| {
        peer.play(UP_TO_THE_BODY);
        peer.play("-- read 10000");
        peer.say("552 5.3.4 too large\r\n");
        std::thread::sleep(Duration::from_millis(50)); // reads nothing for a while
        peer.ignore();
    });
    let mut client = connect(&server);
    let error = send_error(&mut client, &text(&large()));
    assert_eq!(refusal(cause(&error)), (Phase::Body, 552));
    assert_eq!(outcome(&error), Outcome::Refused);
    assert!(error.is_permanent() && !error.in_doubt());
    assert_closed(&mut client);
}

// Threat 38.
#[test]
fn a_refusal_before_the_connection_breaks_is_heard() {
    let server = Server::running(|peer| {
        peer.may_run_ahead = true;
        peer.play(UP_TO_THE_BODY);
        peer.play("-- read 10000");
        peer.play("S: 451 4.3.0 no room\n-- pause\n-- reset");
    });
    let error = send_error(&mut connect(&server), &text(&large()));
    assert_eq!(refusal(cause(&error)), (Phase::Body, 451));
    assert_eq!(outcome(&error), Outcome::Refused);
    assert!(error.is_transient());
}

// Threat 55.
#[test]
fn after_a_421_within_the_body_the_message_is_not_sent() {
    let server = Server::running(|peer| {
        peer.may_run_ahead = true;
        peer.play(UP_TO_THE_BODY);
        peer.play("-- read 10000\nS: 421 shutting down");
        peer.ignore();
    });
    let mut client = connect(&server);
    let error = send_error(&mut client, &text(&large()));
    assert_eq!(error.reply().unwrap().code(), 421);
    assert_eq!(outcome(&error), Outcome::NotSent);
    assert!(error.is_transient());
    assert_closed(&mut client);
}

// Threat 39.
#[test]
fn a_message_whose_connection_ends_within_the_body_is_not_sent() {
    for end in ["-- close", "-- reset", "-- read 10000\n-- close", "-- read 10000\n-- reset"] {
        let server = Server::running(move |peer| {
            peer.may_run_ahead = true;
            peer.play(&format!("{UP_TO_THE_BODY}{end}"));
        });
        let mut client = connect(&server);
        let error = send_error(&mut client, &text(&large()));
        assert_eq!(outcome(&error), Outcome::NotSent, "{end}: {error:?}");
        assert!(error.is_transient() && !error.in_doubt(), "{end}: {error:?}");
        assert_closed(&mut client);
    }
}

// Threat 58.
#[test]
fn a_message_whose_connection_ends_before_the_body_is_not_sent() {
    let (mail, rcpt) = ("-- hello\nC: MAIL FROM:<alice@example.org>\n", "C: RCPT TO:<bob@example.org>\n");
    for end in ["-- fin", "-- reset", "S... 25\n-- fin"] {
        for script in [
            format!("{mail}{end}"),
            format!("{mail}S: 250 ok\n{rcpt}{end}"),
            format!("{mail}S: 250 ok\n{rcpt}S: 250 ok\nC: DATA\n{end}"),
        ] {
            let server = Server::playing(&*script);
            let mut client = connect(&server);
            let error = send_error(&mut client, &super::mail());
            assert_eq!(outcome(&error), Outcome::NotSent, "{script}");
            assert!(matches!(cause(&error), Error::Closed(_) | Error::Io { .. }), "{script}: {error:?}");
            assert!(error.is_transient(), "{script}");
            assert_closed(&mut client);
        }
    }
}

// Threat 40.
#[test]
fn a_message_whose_final_reply_is_lost_is_in_doubt() {
    for end in ["-- fin", "-- close", "-- reset", "S... 250 o\n-- fin", "S: 250-ok\n-- fin"] {
        let server = Server::playing(format!("{UP_TO_THE_BODY}-- body\n{end}"));
        let mut client = connect(&server);
        let error = send_error(&mut client, &mail());
        assert_eq!(outcome(&error), Outcome::InDoubt, "{end}");
        assert!(error.in_doubt() && !error.is_transient() && !error.is_permanent(), "{end}");
        assert!(error.to_string().contains("may have been delivered"));
        assert_closed(&mut client);
    }
}

// Threat 40.
#[test]
fn refused_recipients_are_not_in_doubt() {
    let server = Server::playing(
        "-- hello PIPELINING
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<a@example.org>
         C: RCPT TO:<b@example.org>
         C: DATA
         S: 250 ok
         S: 550 no
         S: 250 ok
         S: 354 go on
         -- body
         -- fin",
    );
    let error = send_error(&mut connect(&server), &mail_to(&["a@example.org", "b@example.org"]));
    let each: Vec<_> = error.delivery().unwrap().recipients().map(|r| r.outcome()).collect();
    assert_eq!(each, [Outcome::Refused, Outcome::InDoubt]);
}

// Threat 42.
#[test]
fn success_is_final_whatever_happens_to_the_connection_afterwards() {
    for end in ["-- reset", "-- fin", "S: garbage", "S: 550 no after all"] {
        let server = Server::running(move |peer| {
            peer.play(&format!("{UP_TO_THE_BODY}-- body\nS: 250 ok"));
            peer.may_leave = true;
            peer.play(end);
            if end.starts_with("S:") {
                peer.ignore();
            }
        });
        let mut client = connect(&server);
        accept(&mut client, &mail());
    }
}

// Threat 42.
#[test]
fn success_is_final_even_if_more_follows_in_the_same_segment() {
    for extra in ["550 no after all", "421 bye", "250 ok", "garbage"] {
        let server = Server::playing(format!("{UP_TO_THE_BODY}-- body\nS: 250 ok\nS: {extra}"));
        let mut client = connect(&server);
        accept(&mut client, &mail());
        assert_closed(&mut client);
    }
}

#[test]
fn a_refusal_that_arrives_before_the_final_dot_is_sent_is_a_refusal() {
    let (asked, ask) = mpsc::channel();
    let (refused, refusal_sent) = mpsc::channel();
    let server = Server::running(move |peer| {
        peer.play(UP_TO_THE_BODY);
        ask.recv_timeout(PATIENCE).unwrap();
        peer.say("552 too much\r\n");
        refused.send(()).unwrap();
    });
    let mut client = connect(&server);
    // The content ends after the refusal was sent: the whole message is ready then, and none of it was sent.
    let body = "Hello\r\n".as_bytes().chain(EndsWhenTold { asked, told: refusal_sent });
    let error = send_error(&mut client, &Raw::reader(envelope(&["bob@example.org"]), body));
    assert_eq!((outcome(&error), refusal(cause(&error))), (Outcome::Refused, (Phase::Body, 552)));
    assert_closed(&mut client);
}

/// A reader that reports when its end is asked for, and returns it when told to.
struct EndsWhenTold {
    asked: mpsc::Sender<()>,
    told: mpsc::Receiver<()>,
}

impl Read for EndsWhenTold {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.asked.send(()).map_err(io::Error::other)?;
        self.told.recv_timeout(PATIENCE).map_err(io::Error::other)?;
        Ok(0)
    }
}

#[test]
fn a_client_knows_whether_it_is_connected() {
    let server = Server::playing("-- hello\nC: NOOP\nS: 250 ok\nC: RSET\nS: 250 ok\n-- close");
    let mut client = connect(&server);
    assert_open(&mut client);
    assert!(client.is_connected());
    block_on(client.rset()).unwrap();
    server.finish(); // it has closed
    assert!(!client.is_connected());
    assert!(block_on(client.noop()).is_err());
    assert!(!client.is_connected());
}

/// Such a reply was once taken for the answer to the content sent after it.
#[test]
fn an_unsolicited_reply_while_awaiting_a_message_is_not_taken_as_an_answer() {
    let (tell, told) = mpsc::channel();
    let server = Server::running(move |peer| {
        peer.play(
            "-- hello PIPELINING, CHUNKING
             C: MAIL FROM:<alice@example.org>
             C: RCPT TO:<bob@example.org>
             C: DATA
             S: 250 ok
             S: 250 ok
             S: 354 go on
             -- pause
             S: 250 unasked",
        );
        tell.send(()).unwrap();
        peer.ignore();
    });
    let mut client = connect(&server);
    let slow = (0..2).map(|number| {
        if number == 1 {
            told.recv_timeout(PATIENCE).unwrap(); // after a pause of more than a moment
        }
        mail()
    });
    let mut batch = client.send_all(slow);
    let (_, result) = block_on(batch.next()).unwrap();
    let error = result.unwrap_err();
    assert_eq!(protocol_error(cause(&error)), Phase::Body);
    assert_eq!(outcome(&error), Outcome::NotSent);
    drop(batch);
    assert_closed(&mut client);
}

/// An unsolicited reply arrives while the caller handles a result.
#[test]
fn an_unsolicited_reply_between_two_results_is_not_taken_as_an_answer() {
    let (tell, told) = mpsc::channel();
    let server = Server::running(move |peer| {
        peer.play(
            "-- hello PIPELINING, CHUNKING
             C: MAIL FROM:<alice@example.org>
             C: RCPT TO:<bob@example.org>
             C: DATA
             S: 250 ok
             S: 250 ok
             S: 354 go on
             C: Hello
             C: .
             C: MAIL FROM:<alice@example.org>
             C: RCPT TO:<bob@example.org>
             C: DATA
             S: 250 ok
             S: 250 ok
             S: 250 ok
             S: 354 go on
             -- pause
             S: 250 unasked",
        );
        tell.send(()).unwrap();
        peer.ignore();
    });
    let mut client = connect(&server);
    let mut batch = client.send_all([mail(), mail()]);
    let (_, first) = block_on(batch.next()).unwrap();
    assert_eq!(first.unwrap().outcome(), Outcome::Accepted);
    told.recv_timeout(PATIENCE).unwrap(); // after a pause of more than a moment
    let (_, second) = block_on(batch.next()).unwrap();
    let error = second.unwrap_err();
    assert_eq!(protocol_error(cause(&error)), Phase::Body);
    assert_eq!(outcome(&error), Outcome::NotSent);
    drop(batch);
    assert_closed(&mut client);
}
