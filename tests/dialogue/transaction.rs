//! One message: MAIL, RCPT, DATA, its end, and what follows a refusal.

use postino::{Error, Outcome, Phase};

use super::*;

#[test]
fn without_pipelining_every_command_waits_for_its_reply() {
    let server = Server::playing(
        "-- hello
         C: MAIL FROM:<alice@example.org>
         S: 250 ok
         C: RCPT TO:<bob@example.org>
         S: 250 ok
         C: RCPT TO:<carol@example.org>
         S: 251 will forward
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 2.0.0 ok: queued as 4711
         C: QUIT
         S: 221 bye",
    );
    let mut client = connect(&server);
    let delivery = deliver(&mut client, &mail_to(&["bob@example.org", "carol@example.org"])).unwrap();
    assert_eq!(delivery.outcome(), Outcome::Accepted);
    assert_eq!(delivery.refused().count(), 0);
    assert_eq!(delivery.queue_id(), Some("4711"));
    assert_eq!(delivery.reply().unwrap().enhanced().unwrap().to_string(), "2.0.0");
    block_on(client.quit()).unwrap();
}

#[test]
fn with_pipelining_the_envelope_leaves_in_one_flight() {
    let server = Server::playing(
        "-- hello PIPELINING
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<bob@example.org>
         C: RCPT TO:<carol@example.org>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 250 ok
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok",
    );
    let mut client = connect(&server);
    accept(&mut client, &mail_to(&["bob@example.org", "carol@example.org"]));
}

#[test]
fn pipelining_can_be_turned_off() {
    let server = Server::playing(
        "-- hello PIPELINING
         -- envelope
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok",
    );
    let mut client = block_on(builder(&server).pipelining(false).connect()).unwrap();
    accept(&mut client, &mail());
}

// Behaviour 91.
#[test]
fn many_messages_go_over_one_connection() {
    let one = "-- envelope
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok\n";
    let server = Server::playing(format!("-- hello\n{}", one.repeat(5)));
    let mut client = connect(&server);
    for _ in 0..5 {
        accept(&mut client, &mail());
    }
}

// Behaviour 76, threat 74.
#[test]
fn a_refused_recipient_does_not_stop_the_others() {
    let server = Server::playing(
        "-- hello PIPELINING
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<a@example.org>
         C: RCPT TO:<b@example.org>
         C: RCPT TO:<c@example.org>
         C: DATA
         S: 250 ok
         S: 550-5.1.1 nobody
         S: 550 5.1.1 here
         S: 250 ok
         S: 451 later
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok",
    );
    let mut client = connect(&server);
    let delivery =
        deliver(&mut client, &mail_to(&["a@example.org", "b@example.org", "c@example.org"])).unwrap();
    assert_eq!(delivery.outcome(), Outcome::Accepted);
    let each: Vec<_> = delivery.recipients().map(|r| (r.outcome(), r.reply().unwrap().code())).collect();
    assert_eq!(each, [(Outcome::Refused, 550), (Outcome::Accepted, 250), (Outcome::Refused, 451)]);
    let refused: Vec<_> = delivery.refused().map(|r| r.address().as_str()).collect();
    assert_eq!(refused, ["a@example.org", "c@example.org"]);
}

// Behaviour 76.
#[test]
fn all_recipients_refused_is_an_error_with_every_reply() {
    let server = Server::playing(
        "-- hello
         C: MAIL FROM:<alice@example.org>
         S: 250 ok
         C: RCPT TO:<a@example.org>
         S: 550 no
         C: RCPT TO:<b@example.org>
         S: 450 not now
         C: RSET
         S: 250 ok
         C: NOOP
         S: 250 ok",
    );
    let mut client = connect(&server);
    let error = send_error(&mut client, &mail_to(&["a@example.org", "b@example.org"]));
    assert_eq!(outcome(&error), Outcome::Refused);
    assert_eq!(refusal(cause(&error)), (Phase::Recipient, 550));
    let codes: Vec<_> = error.delivery().unwrap().refused().map(|r| r.reply().unwrap().code()).collect();
    assert_eq!(codes, [550, 450]);
    assert!(error.is_transient(), "one of them may be taken later");
    assert_open(&mut client);
}

// Threat 73.
#[test]
fn a_354_without_recipients_is_answered_with_a_lone_dot() {
    for end in ["554 no valid recipients", "250 ok"] {
        let server = Server::playing(format!(
            "-- hello PIPELINING
             C: MAIL FROM:<alice@example.org>
             C: RCPT TO:<a@example.org>
             C: RCPT TO:<b@example.org>
             C: DATA
             S: 250 ok
             S: 550 no
             S: 550 no
             S: 354 go on
             C: .
             S: {end}
             C: RSET
             S: 250 ok
             C: NOOP
             S: 250 ok"
        ));
        let mut client = connect(&server);
        let error = send_error(&mut client, &mail_to(&["a@example.org", "b@example.org"]));
        assert_eq!(outcome(&error), Outcome::Refused);
        assert!(error.is_permanent() && !error.is_transient());
        assert_eq!(error.delivery().unwrap().refused().count(), 2);
        assert_open(&mut client);
    }
}

// Threat 73.
#[test]
fn if_data_is_refused_without_recipients_the_error_is_their_refusal() {
    let server = Server::playing(
        "-- hello PIPELINING
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<bob@example.org>
         C: DATA
         S: 250 ok
         S: 550 no
         S: 503 no recipients
         C: RSET
         S: 250 ok",
    );
    let mut client = connect(&server);
    let error = send_error(&mut client, &mail());
    assert_eq!(refusal(cause(&error)), (Phase::Recipient, 550));
}

// Behaviour 77.
#[test]
fn a_refused_sender_is_followed_by_rset() {
    let server = Server::playing(
        "-- hello
         C: MAIL FROM:<alice@example.org>
         S: 553 not you
         C: RSET
         S: 250 ok
         C: NOOP
         S: 250 ok",
    );
    let mut client = connect(&server);
    let error = send_error(&mut client, &mail());
    assert_eq!(outcome(&error), Outcome::Refused);
    assert_eq!(refusal(cause(&error)), (Phase::Mail, 553));
    assert_open(&mut client);
}

#[test]
fn after_a_refused_sender_the_other_refusals_are_ignored() {
    let server = Server::playing(
        "-- hello PIPELINING
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<bob@example.org>
         C: DATA
         S: 451 4.7.1 greylisted
         S: 503 MAIL first
         S: 503 MAIL first
         C: RSET
         S: 250 ok",
    );
    let mut client = connect(&server);
    let error = send_error(&mut client, &mail());
    assert_eq!(refusal(cause(&error)), (Phase::Mail, 451));
    assert!(error.is_transient() && !error.is_permanent());
    assert_eq!(error.delivery().unwrap().refused().count(), 0);
    let recipient = error.delivery().unwrap().recipients().next().unwrap();
    assert_eq!((recipient.outcome(), recipient.reply().unwrap().code()), (Outcome::Refused, 451));
}

// Behaviour 77.
#[test]
fn refused_data_is_followed_by_rset() {
    let server = Server::playing(
        "-- hello
         -- envelope
         C: DATA
         S: 451 disk full
         C: RSET
         S: 250 ok
         C: NOOP
         S: 250 ok",
    );
    let mut client = connect(&server);
    let error = send_error(&mut client, &mail());
    assert_eq!((outcome(&error), refusal(cause(&error))), (Outcome::Refused, (Phase::Data, 451)));
    assert_open(&mut client);
}

// Behaviour 77.
#[test]
fn a_message_that_is_refused_at_its_end_is_followed_by_rset_and_the_next() {
    for (end, transient) in [("550 5.7.1 spam", false), ("451 4.3.0 later", true)] {
        let server = Server::playing(format!(
            "-- hello PIPELINING
             C: MAIL FROM:<alice@example.org>
             C: RCPT TO:<bob@example.org>
             C: DATA
             S: 250 ok
             S: 250 ok
             S: 354 go on
             -- body
             S: {end}
             C: RSET
             S: 250 ok
             C: MAIL FROM:<alice@example.org>
             C: RCPT TO:<bob@example.org>
             C: DATA
             S: 250 ok
             S: 250 ok
             S: 354 go on
             -- body
             S: 250 ok"
        ));
        let mut client = connect(&server);
        let error = send_error(&mut client, &mail());
        assert_eq!(outcome(&error), Outcome::Refused);
        assert_eq!(cause(&error).reply().unwrap().to_string(), end);
        assert_eq!((error.is_transient(), error.is_permanent()), (transient, !transient));
        accept(&mut client, &mail());
    }
}

// Behaviour 77.
#[test]
fn a_failing_rset_keeps_the_first_error() {
    for end in ["S: 500 what?", "-- fin", "-- reset", "S: garbage"] {
        let server = Server::playing(format!(
            "-- hello
             C: MAIL FROM:<alice@example.org>
             S: 553 not you
             C: RSET
             {end}"
        ));
        let mut client = connect(&server);
        let error = send_error(&mut client, &mail());
        assert_eq!(refusal(cause(&error)), (Phase::Mail, 553), "{end}");
        assert_closed(&mut client);
    }
}

#[test]
fn all_or_nothing_sends_data_only_if_all_recipients_are_accepted() {
    let server = Server::playing(
        "-- hello PIPELINING
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<a@example.org>
         C: RCPT TO:<b@example.org>
         S: 250 ok
         S: 250 ok
         S: 250 ok
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok",
    );
    let mut client = block_on(builder(&server).all_or_nothing(true).connect()).unwrap();
    accept(&mut client, &mail_to(&["a@example.org", "b@example.org"]));
}

#[test]
fn all_or_nothing_sends_nothing_when_one_was_refused() {
    let server = Server::playing(
        "-- hello PIPELINING
         C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<a@example.org>
         C: RCPT TO:<b@example.org>
         S: 250 ok
         S: 250 ok
         S: 550 no
         C: RSET
         S: 250 ok",
    );
    let mut client = block_on(builder(&server).all_or_nothing(true).connect()).unwrap();
    let error = send_error(&mut client, &mail_to(&["a@example.org", "b@example.org"]));
    assert_eq!(refusal(cause(&error)), (Phase::Recipient, 550));
    let each: Vec<_> = error.delivery().unwrap().recipients().map(|r| r.outcome()).collect();
    assert_eq!(each, [Outcome::NotSent, Outcome::Refused]);
}

// Behaviour 38.
#[test]
fn the_null_sender_is_an_empty_path() {
    let server = Server::playing(
        "-- hello
         C: MAIL FROM:<>
         S: 250 ok
         C: RCPT TO:<bob@example.org>
         S: 250 ok
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok",
    );
    let mut client = connect(&server);
    let envelope =
        Envelope::from_addresses(None, envelope(&["bob@example.org"]).recipients().to_vec()).unwrap();
    accept(&mut client, &Raw::bytes(envelope, b"Hello\r\n"));
}

#[test]
fn the_size_counts_line_ends_as_crlf_and_no_doubled_dots() {
    let server = Server::playing(
        "-- hello SIZE 1000
         C: MAIL FROM:<alice@example.org> SIZE=10
         S: 250 ok
         C: RCPT TO:<bob@example.org>
         S: 250 ok
         C: DATA
         S: 354 go on
         C: Hello
         C: ..
         C: .
         S: 250 ok",
    );
    accept(&mut connect(&server), &text(b"Hello\n.\n"));
}

// Threat 44.
#[test]
fn a_message_that_is_too_large_is_not_sent() {
    let server = Server::playing(
        "-- hello SIZE 6
         C: NOOP
         S: 250 ok",
    );
    let mut client = connect(&server);
    let error = send_error(&mut client, &mail());
    assert!(matches!(error, Error::TooLarge { size: 7, limit: 6 }), "{error:?}");
    assert!(error.is_permanent());
    assert_open(&mut client);
}

// Threat 44.
#[test]
fn a_missing_or_zero_size_means_no_size_limit() {
    for size in ["SIZE", "SIZE 0"] {
        let server = Server::playing(format!(
            "-- hello {size}
             C: MAIL FROM:<alice@example.org> SIZE=7
             S: 250 ok
             C: RCPT TO:<bob@example.org>
             S: 250 ok
             C: DATA
             S: 354 go on
             -- body
             S: 250 ok"
        ));
        accept(&mut connect(&server), &mail());
    }
}

// Threat 44.
#[test]
fn a_552_to_mail_is_a_refusal() {
    let server = Server::playing(
        "-- hello SIZE
         C: MAIL FROM:<alice@example.org> SIZE=7
         S: 552 too large
         C: RSET
         S: 250 ok",
    );
    let error = send_error(&mut connect(&server), &mail());
    assert_eq!(refusal(cause(&error)), (Phase::Mail, 552));
}

#[test]
fn body_8bitmime_is_sent_only_when_it_is_needed() {
    let script = "-- hello 8BITMIME
         C: MAIL FROM:<alice@example.org>
         S: 250 ok
         C: RCPT TO:<bob@example.org>
         S: 250 ok
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok
         C: MAIL FROM:<alice@example.org> BODY=8BITMIME
         S: 250 ok
         C: RCPT TO:<bob@example.org>
         S: 250 ok
         C: DATA
         S: 354 go on
         C: Grüße
         C: .
         S: 250 ok";
    let server = Server::playing(script);
    let mut client = connect(&server);
    accept(&mut client, &mail());
    accept(&mut client, &text("Grüße\n".as_bytes()));
}

// Threat 35.
#[test]
fn eight_bit_content_without_8bitmime_is_refused_before_mail() {
    let server = Server::playing(
        "-- hello
         C: NOOP
         S: 250 ok",
    );
    let mut client = connect(&server);
    let error = send_error(&mut client, &text("Grüße\n".as_bytes()));
    assert!(matches!(error, Error::Unsupported(_)) && error.is_permanent(), "{error:?}");
    assert_open(&mut client);
}

// Threat 34.
#[test]
fn a_nul_is_refused_before_mail() {
    let server = Server::playing(
        "-- hello 8BITMIME
         C: NOOP
         S: 250 ok",
    );
    let mut client = connect(&server);
    let error = send_error(&mut client, &text(b"Hel\0lo\n"));
    assert!(matches!(error, Error::Message(_)) && error.is_permanent(), "{error:?}");
    assert_open(&mut client);
}

// Behaviour 84.
#[test]
fn smtputf8_is_sent_only_if_an_address_needs_it() {
    let server = Server::playing(
        "-- hello SMTPUTF8
         -- envelope
         C: DATA
         S: 354 go on
         -- body
         S: 250 ok
         C: MAIL FROM:<alice@example.org> SMTPUTF8
         S: 250 ok
         C: RCPT TO:<jörg@example.org>
         S: 250 ok
         C: DATA
         S: 354 go on
         -- body
         S: 250 ok",
    );
    let mut client = connect(&server);
    accept(&mut client, &mail());
    accept(&mut client, &mail_to(&["jörg@example.org"]));
}

// Behaviour 75, threat 80.
#[test]
fn a_non_ascii_address_without_smtputf8_is_refused_before_mail() {
    let server = Server::playing(
        "-- hello 8BITMIME
         C: NOOP
         S: 250 ok",
    );
    let mut client = connect(&server);
    let error = send_error(&mut client, &mail_to(&["jörg@example.org"]));
    assert!(matches!(error, Error::Unsupported(_)) && error.is_permanent(), "{error:?}");
    assert_open(&mut client);
}

const MANY: usize = 10_000;

fn many() -> Vec<String> {
    (0..MANY).map(|i| format!("recipient-with-a-name-that-takes-room-{i}@example.org")).collect()
}

// Threat 76.
#[test]
fn ten_thousand_recipients_do_not_deadlock_with_a_talkative_server() {
    let server = Server::cramped(|peer| {
        peer.may_run_ahead = true;
        peer.play("-- hello PIPELINING");
        for number in 0..MANY + 2 {
            let line = String::from_utf8(peer.line().unwrap()).unwrap();
            let (start, code) = match number {
                0 => ("MAIL FROM:<alice@example.org>\r\n".to_owned(), 250),
                n if n <= MANY => (
                    format!("RCPT TO:<recipient-with-a-name-that-takes-room-{}@example.org>\r\n", n - 1),
                    250,
                ),
                _ => ("DATA\r\n".to_owned(), 354),
            };
            assert_eq!(line, start);
            peer.say(format!("{code} {:.<400}\r\n", "a long answer "));
        }
        assert_eq!(peer.body(), b"Hello\r\n");
        peer.say("250 ok\r\n");
    });
    let recipients = many();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    let delivery = deliver(&mut connect(&server), &mail_to(&recipients)).unwrap();
    assert_eq!(delivery.recipients().filter(|r| r.outcome() == Outcome::Accepted).count(), MANY);
}

// Threat 76.
#[test]
fn a_server_that_reads_ahead_before_answering_does_not_deadlock() {
    let server = Server::cramped(|peer| {
        peer.may_run_ahead = true;
        peer.play("-- hello PIPELINING");
        let mut left = MANY + 2;
        while left > 0 {
            let batch = left.min(100);
            (0..batch).for_each(|_| drop(peer.line().unwrap()));
            left -= batch;
            let last = if left == 0 { "354 go on\r\n" } else { "250 ok\r\n" };
            peer.say("250 a long answer\r\n".repeat(batch - 1) + last);
        }
        peer.body();
        peer.say("250 ok\r\n");
    });
    let recipients = many();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    accept(&mut connect(&server), &mail_to(&recipients));
}

#[test]
fn noop_and_rset_report_success_and_refusal() {
    let server = Server::playing(
        "-- hello
         C: NOOP
         S: 250 2.0.0 ok
         C: RSET
         S: 250 ok
         C: NOOP
         S: 502 no
         C: RSET
         S: 451 no",
    );
    let mut client = connect(&server);
    assert_eq!(block_on(client.noop()).unwrap().text(), "2.0.0 ok");
    assert_eq!(block_on(client.rset()).unwrap().code(), 250);
    assert_eq!(refusal(&block_on(client.noop()).unwrap_err()), (Phase::Noop, 502));
    assert_eq!(refusal(&block_on(client.rset()).unwrap_err()), (Phase::Reset, 451));
}

#[test]
fn a_refused_message_can_be_retried_for_a_temporarily_refused_recipient() {
    let server = Server::playing(
        "-- hello
         C: MAIL FROM:<alice@example.org>
         S: 250 ok
         C: RCPT TO:<later@example.org>
         S: 450 later
         C: RCPT TO:<bob@example.org>
         S: 250 ok
         C: DATA
         S: 354 go on
         -- body
         S: 554 a virus
         C: RSET
         S: 250 ok",
    );
    let error = send_error(&mut connect(&server), &mail_to(&["later@example.org", "bob@example.org"]));
    let unsent = error.delivery().unwrap().retry_envelope().unwrap();
    assert_eq!(unsent.recipients()[0].as_str(), "later@example.org");
    assert_eq!((unsent.recipients().len(), error.retry()), (1, postino::Retry::Later));
    assert!(error.is_transient() && !error.is_permanent(), "{error:?}");
}

const DATA: &str = "C: DATA\nS: 354 go on\nC: Hello\nC: .\n";

// Behaviour 90.
#[test]
fn clients_are_independent_of_each_other() {
    let servers = [
        Server::playing(format!(
            "-- hello\n-- envelope\nC: NOOP\nS: 250 ok\n-- envelope\n{DATA}S: 250 first"
        )),
        Server::playing(format!("-- hello\n-- envelope\n{DATA}S: 550 second\nC: RSET\nS: 250 ok")),
        Server::playing("-- hello\nC: MAIL FROM:<alice@example.org>\n-- fin"),
    ];
    let mut clients = servers.each_ref().map(connect);
    block_on(clients[0].mail("alice@example.org", &[])).unwrap();
    assert_eq!(outcome(&send_error(&mut clients[2], &mail())), Outcome::NotSent);
    block_on(clients[0].rcpt("bob@example.org", &[])).unwrap();
    assert_eq!(outcome(&send_error(&mut clients[1], &mail())), Outcome::Refused);
    assert_open(&mut clients[0]);
    block_on(clients[0].mail("alice@example.org", &[])).unwrap();
    block_on(clients[0].rcpt("bob@example.org", &[])).unwrap();
    assert_eq!(block_on(clients[0].data("Hello\n")).unwrap().text(), "first");
}

// Behaviour 92.
#[test]
fn the_final_reply_is_given_with_its_queue_id() {
    let server = Server::playing(format!(
        "-- hello\n-- envelope\n{DATA}S: 250-2.6.0 thanks\nS: 250 2.6.0 queued as 4711"
    ));
    let delivery = deliver(&mut connect(&server), &mail()).unwrap();
    assert_eq!(delivery.reply().unwrap().text(), "2.6.0 thanks\n2.6.0 queued as 4711");
    assert_eq!(delivery.queue_id(), Some("4711"));
}

#[test]
fn recipients_come_from_any_iterator_and_are_checked_before_mail() {
    let names = ["a", "b"].iter().map(|name| format!("{name}@example.org"));
    assert!(matches!(Envelope::new("alice@example.org", names.clone().take(0)), Err(Error::NoRecipients)));
    let spoilt = names.clone().chain(["no address".to_owned()]);
    assert!(matches!(Envelope::new("alice@example.org", spoilt), Err(Error::Address { .. })));
    let server = Server::playing(format!(
        "-- hello
         C: MAIL FROM:<alice@example.org>
         S: 250 ok
         C: RCPT TO:<a@example.org>
         S: 250 ok
         C: RCPT TO:<b@example.org>
         S: 250 ok
         {DATA}S: 250 ok"
    ));
    let envelope = Envelope::new("alice@example.org", names).unwrap();
    accept(&mut connect(&server), &Raw::bytes(envelope, b"Hello\r\n"));
}

#[test]
fn refused_recipients_are_named_in_the_text_of_the_error() {
    let server = Server::playing(
        "-- hello
         C: MAIL FROM:<alice@example.org>
         S: 250 ok
         C: RCPT TO:<a@example.org>
         S: 550 5.1.1 nobody here
         C: RCPT TO:<b@example.org>
         S: 550 5.1.1 nobody there
         C: RSET
         S: 250 ok",
    );
    let error = send_error(&mut connect(&server), &mail_to(&["a@example.org", "b@example.org"]));
    assert_eq!(
        error.to_string(),
        "a@example.org refused: 550 5.1.1 nobody here; b@example.org refused: 550 5.1.1 nobody there (retrying will not help)"
    );
    assert!(cause(&error).to_string().ends_with("550 5.1.1 nobody here"), "{}", cause(&error));
    let each: Vec<_> = error.delivery().unwrap().refused().map(|r| r.reply().unwrap().to_string()).collect();
    assert_eq!(each, ["550 5.1.1 nobody here", "550 5.1.1 nobody there"]);
}

// Threat 21.
#[test]
fn a_quoted_local_part_is_sent_as_written() {
    for address in ["\"a b\"@example.org", "\"a> ORCPT=x\"@example.org", "\"a\\\"b\"@example.org"] {
        // `\` begins an escape of the script.
        let server = Server::running(move |peer| {
            peer.play("-- hello\nC: MAIL FROM:<alice@example.org>\nS: 250 ok");
            assert_eq!(peer.line().unwrap(), format!("RCPT TO:<{address}>\r\n").into_bytes());
            peer.play("S: 250 ok\nC: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 250 ok");
        });
        accept(&mut connect(&server), &mail_to(&[address]));
    }
    for bad in ["\"a\r\nRCPT TO:<x>\"@e", "\"a\"b@e", "\"<x@evil> \"@e\n", "a> ORCPT=x@e", "\"a@e"] {
        assert!(Envelope::new("alice@example.org", [bad]).is_err(), "{bad:?}");
    }
}

// Threat 60.
#[test]
fn an_enhanced_code_of_another_class_is_ignored() {
    let server = Server::playing(format!(
        "-- hello PIPELINING\n{}{}{}",
        FLIGHT.replace("250 taken", "250 2.0.0abc taken"),
        FLIGHT.replace("250 taken", "250 5.1.1 taken"),
        FLIGHT.replace("250 taken", "250 2.6.0 taken")
    ));
    let mut client = connect(&server);
    let mut code = || {
        let delivery = deliver(&mut client, &mail()).unwrap();
        delivery.reply().unwrap().enhanced().map(|code| code.to_string())
    };
    assert_eq!([code(), code(), code()], [None, None, Some("2.6.0".to_owned())]);
}

/// The usual message in a single flight.
const FLIGHT: &str = "C: MAIL FROM:<alice@example.org>
     C: RCPT TO:<bob@example.org>
     C: DATA
     S: 250 ok
     S: 250 ok
     S: 354 go on
     C: Hello
     C: .
     S: 250 taken\n";
