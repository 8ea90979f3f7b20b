//! Servers that end a session after some messages, or that misread what is joined or pipelined: no message is lost,
//! sent twice, or mixed with another.

use std::time::{Duration, Instant};

use postino::{Envelope, Error, JoinPolicy, Phase, Raw};

use super::*;
use crate::{
    Pool,
    support::{
        journal,
        rules::{Enough, Joined, Ruled, Rules},
    },
};

const ENOUGH: [Enough; 3] = [Enough::Refuses, Enough::Announces, Enough::Closes];

fn ruled_builder(server: &Ruled) -> Builder {
    journal::begin();
    let builder = Client::builder("127.0.0.1").port(server.port()).hello_name("client.example.org");
    builder.timeout(PATIENCE).final_reply_timeout(PATIENCE)
}

fn ruled_client(server: &Ruled) -> Client {
    block_on(ruled_builder(server).connect()).unwrap()
}

fn rules(keywords: &[&'static str]) -> Rules {
    Rules { keywords: keywords.to_vec(), ..Rules::default() }
}

/// Rules for sessions of two messages each.
fn of_two(enough: Enough, keywords: &[&'static str]) -> Rules {
    Rules { session: Some((2, enough)), ..rules(keywords) }
}

fn mails(count: usize) -> Vec<Raw<'static>> {
    (1..=count).map(numbered).collect()
}

/// Asserts that this many messages were stored, each once, in order, and as they were sent.
#[track_caller]
fn assert_stored(server: &Ruled, count: usize) {
    let stored: Vec<String> = server.stored().into_iter().map(|stored| stored.content).collect();
    let sent: Vec<String> = (1..=count).map(|number| format!("{number}\r\n")).collect();
    assert_eq!(stored, sent);
}

#[test]
fn a_batch_continues_over_another_connection_when_the_server_ends_the_session() {
    for keywords in [&[][..], &["PIPELINING"], &["PIPELINING", "CHUNKING"]] {
        for enough in ENOUGH {
            let server = Ruled::start(of_two(enough, keywords));
            assert_eq!(outcomes(&send_all(&mut ruled_client(&server), mails(7))), "AAAAAAA");
            assert_stored(&server, 7);
            assert_eq!(server.stored_per_connection(), [2, 2, 2, 1], "{enough:?} {keywords:?}");
        }
    }
}

#[test]
fn a_batch_with_joined_envelopes_continues_over_another_connection() {
    for enough in ENOUGH {
        let server = Ruled::start(of_two(enough, &["PIPELINING"]));
        let builder = ruled_builder(&server).join_envelopes(JoinPolicy::Always);
        let mut client = block_on(builder.connect()).unwrap();
        assert_eq!(outcomes(&send_all(&mut client, mails(7))), "AAAAAAA", "{enough:?}");
        assert_stored(&server, 7);
        assert_eq!(server.stored_per_connection().iter().sum::<usize>(), 7);
    }
}

#[test]
fn single_messages_continue_over_another_connection_when_the_server_ends_the_session() {
    for enough in ENOUGH {
        let server = Ruled::start(of_two(enough, &["PIPELINING"]));
        let mut client = ruled_client(&server);
        (1..=5).for_each(|number| accept(&mut client, &numbered(number)));
        assert_stored(&server, 5);
        assert_eq!(server.stored_per_connection(), [2, 2, 1], "{enough:?}");
    }
}

#[test]
fn a_pool_continues_over_another_connection_when_the_server_ends_the_session() {
    for enough in ENOUGH {
        let server = Ruled::start(of_two(enough, &["PIPELINING"]));
        let pool = Pool::builder(ruled_builder(&server)).max_connections(1).build().unwrap();
        for number in 1..=3 {
            assert!(block_on(pool.send(&numbered(number))).is_ok(), "{enough:?}");
        }
        let mut batch = block_on(pool.send_all((4..=9).map(numbered))).unwrap();
        while let Some((_, result)) = block_on(batch.next()) {
            assert!(result.is_ok(), "{enough:?}: {result:?}");
        }
        drop(batch);
        assert_stored(&server, 9);
        assert!(server.connections() <= 6, "{enough:?}: {}", server.connections());
    }
}

#[test]
fn lmtp_continues_over_another_connection_when_the_server_ends_the_session() {
    for enough in ENOUGH {
        let server = Ruled::start(Rules { lmtp: true, ..of_two(enough, &["PIPELINING"]) });
        let mut client = block_on(ruled_builder(&server).lmtp(true).connect()).unwrap();
        assert_eq!(outcomes(&send_all(&mut client, mails(5))), "AAAAA");
        assert_stored(&server, 5);
    }
}

#[test]
fn a_server_that_closes_after_each_message_gets_each_over_a_separate_connection() {
    let server = Ruled::start(Rules { session: Some((1, Enough::Closes)), ..rules(&["PIPELINING"]) });
    assert_eq!(outcomes(&send_all(&mut ruled_client(&server), mails(4))), "AAAA");
    assert_eq!(server.stored_per_connection(), [1, 1, 1, 1]);
}

/// Sends messages one by one, or in one batch.
#[track_caller]
fn send_each(client: &mut Client, numbers: std::ops::RangeInclusive<usize>, batch: bool) {
    if batch {
        let all = "A".repeat(numbers.clone().count());
        assert_eq!(outcomes(&send_all(client, numbers.map(numbered).collect())), all);
    } else {
        numbers.for_each(|number| accept(client, &numbered(number)));
    }
}

/// Two connections, which accept one message each and are closed when the next one arrives.
fn closing_twice() -> [String; 2] {
    [1, 2].map(|number| format!("-- hello PIPELINING\n{}{}", taken(number), TURNED_AWAY[2]))
}

#[test]
fn after_two_closes_no_later_connection_is_given_more_messages() {
    for batch in [false, true] {
        let [first, second] = closing_twice();
        let third = format!("-- hello PIPELINING\n{}C: QUIT\nS: 221 bye", taken(3));
        let fourth = format!("-- hello PIPELINING\n{}", taken(4));
        let server = Server::playing_each([first, second, third, fourth]);
        send_each(&mut connect(&server), 1..=4, batch);
    }
}

/// A fault that happens once does not slow down all later messages.
#[test]
fn a_single_close_sets_no_limit() {
    for batch in [false, true] {
        let [first, _] = closing_twice();
        let second = format!("-- hello PIPELINING\n{}{}{}", taken(2), taken(3), taken(4));
        let server = Server::playing_each([first, second]);
        send_each(&mut connect(&server), 1..=4, batch);
    }
}

#[test]
fn a_close_between_two_messages_sets_no_limit() {
    for batch in [false, true] {
        let idle = |number| format!("-- hello PIPELINING\n{}-- close", taken(number));
        let third = format!("-- hello PIPELINING\n{}{}{}", taken(3), taken(4), taken(5));
        let server = Server::playing_each([idle(1), idle(2), third]);
        let mut client = connect(&server);
        for number in [1, 2] {
            send_each(&mut client, number..=number, batch);
            wait_for_close(&mut client);
        }
        send_each(&mut client, 3..=5, batch);
    }
}

/// An unsolicited 421 used to be reported as a refusal of RSET, although no RSET was to be sent.
#[test]
fn a_421_before_the_first_message_is_a_refusal_of_mail() {
    let (connected, is_connected) = std::sync::mpsc::channel();
    let server = Server::running(move |peer| {
        peer.play("-- hello PIPELINING");
        is_connected.recv().unwrap();
        peer.play("S: 421 idle\n-- close");
    });
    let mut client = connect(&server);
    connected.send(()).unwrap();
    wait_for_close(&mut client);
    assert_eq!(refusal(cause(&send_error(&mut client, &numbered(1)))), (Phase::Mail, 421));
}

#[test]
fn a_close_between_chunks_leaves_one_window_in_doubt_and_sends_nothing_twice() {
    let server =
        Ruled::start(Rules { session: Some((5, Enough::Closes)), ..rules(&["PIPELINING", "CHUNKING"]) });
    let builder = ruled_builder(&server).chunking(true);
    let mut client = block_on(builder.connect()).unwrap();
    let results = send_all(&mut client, mails(40));
    let outcomes = outcomes(&results);
    let stored = server.stored();
    for (number, outcome) in (1..).zip(outcomes.chars()) {
        let times = stored.iter().filter(|stored| stored.content == format!("{number}\r\n")).count();
        assert!(
            outcome == 'A' && times == 1 || outcome == 'D' && times <= 1,
            "{number}: {outcome} {times} times"
        );
    }
    let doubt = outcomes.find('D').expect("the server closes in the middle of a window");
    let after = outcomes.rfind('D').unwrap() + 1;
    assert!(outcomes[doubt..after].chars().all(|outcome| outcome == 'D'), "{outcomes}");
}

#[test]
fn a_452_between_many_chunks_loses_no_message() {
    let server =
        Ruled::start(Rules { session: Some((5, Enough::Refuses)), ..rules(&["PIPELINING", "CHUNKING"]) });
    let builder = ruled_builder(&server).chunking(true);
    let mut client = block_on(builder.connect()).unwrap();
    assert_eq!(outcomes(&send_all(&mut client, mails(23))), "A".repeat(23));
    assert_stored(&server, 23);
    assert_eq!(server.stored_per_connection(), [5, 5, 5, 5, 3]);
}

#[test]
fn single_use_content_is_sent_over_another_connection() {
    for enough in ENOUGH {
        let server = Ruled::start(of_two(enough, &["PIPELINING"]));
        let reader = |number| {
            Raw::reader(envelope(&["bob@example.org"]), std::io::Cursor::new(format!("{number}\r\n")))
        };
        let results = send_all(&mut ruled_client(&server), (1..=3).map(reader).collect());
        assert_eq!(outcomes(&results), "AAA", "{enough:?}");
        let mut client = ruled_client(&server);
        (4..=6).for_each(|number| accept(&mut client, &reader(number)));
        assert_stored(&server, 6);
    }
}

#[test]
fn a_connection_that_has_carried_no_message_is_not_replaced() {
    for enough in ENOUGH {
        let server = Ruled::start(Rules { session: Some((0, enough)), ..rules(&["PIPELINING"]) });
        let error = send_error(&mut ruled_client(&server), &numbered(1));
        assert!(error.is_transient(), "{error:?}");
        assert_eq!(server.connections(), 1, "{enough:?}");
        let results = send_all(&mut ruled_client(&server), mails(2));
        assert!(results.iter().all(|result| result.as_ref().unwrap_err().is_transient()), "{results:?}");
        assert_eq!(server.connections(), 2, "{enough:?}");
    }
}

#[test]
fn a_connection_that_takes_no_message_is_not_replaced() {
    for enough in ENOUGH {
        let server = Ruled::start(Rules { connections: Some(1), ..of_two(enough, &["PIPELINING"]) });
        let results = send_all(&mut ruled_client(&server), mails(5));
        assert_eq!(outcomes(&results)[..2], *"AA");
        for result in &results[2..] {
            assert_eq!(
                result.as_ref().unwrap_err().delivery().unwrap().retry_envelope().unwrap().recipients().len(),
                1
            );
        }
        assert_eq!(server.connections(), 2, "{enough:?}");
    }
}

/// Sends two messages, and a third after the server has ended the session.
#[track_caller]
fn assert_not_replaced(server: &Ruled, client: &mut Client) {
    (1..=2).for_each(|number| accept(client, &numbered(number)));
    let error = send_error(client, &numbered(3));
    assert!(error.is_transient(), "{error:?}");
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_connection_that_was_changed_by_hand_is_not_replaced() {
    for enough in ENOUGH {
        let server = Ruled::start(of_two(enough, &["PIPELINING"]));
        let mut client = ruled_client(&server);
        block_on(client.helo(None)).unwrap();
        assert_not_replaced(&server, &mut client);
        drop((client, server));

        let server = Ruled::start(of_two(enough, &["PIPELINING", "XCLIENT ADDR"]));
        let mut client = ruled_client(&server);
        block_on(client.command("XCLIENT ADDR=192.0.2.1")).unwrap();
        assert_not_replaced(&server, &mut client);
    }
}

#[test]
fn a_connection_that_the_caller_made_is_not_replaced() {
    for enough in ENOUGH {
        let server = Ruled::start(of_two(enough, &["PIPELINING"]));
        let socket = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        let mut client = block_on(ruled_builder(&server).connect_over(crate::tcp(socket))).unwrap();
        assert_not_replaced(&server, &mut client);
    }
}

#[test]
fn a_closed_client_still_needs_reconnect() {
    let server = Ruled::start(of_two(Enough::Closes, &["PIPELINING"]));
    let mut client = ruled_client(&server);
    accept(&mut client, &numbered(1));
    client.close();
    assert!(matches!(send_error(&mut client, &numbered(2)), Error::NotConnected));
    block_on(client.reconnect()).unwrap();
    accept(&mut client, &numbered(2));
    assert_eq!(server.connections(), 2);
}

#[test]
fn the_deadline_covers_the_other_connection() {
    let message = "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\n";
    let server = Server::playing_each([
        format!(
            "-- hello PIPELINING\n{message}S: 250 ok\nS: 250 ok\nS: 354 go on\nC: 1\nC: .\nS: 250 ok
             {message}S: 421 enough\n-- close"
        ),
        "-- silence".to_owned(), // not even a greeting
    ]);
    let mut client = connect(&server);
    accept(&mut client, &numbered(1));
    client.next_call_deadline(Duration::from_secs(1));
    let start = Instant::now();
    let error = send_error(&mut client, &numbered(2));
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    assert_eq!(error.delivery().unwrap().outcome(), Outcome::NotSent, "{error:?}");
    assert_closed(&mut client);
}

#[test]
fn a_message_in_doubt_is_not_sent_again() {
    let message = "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 354 go on\n";
    let server = Server::playing_each([
        format!("-- hello PIPELINING\n{message}C: 1\nC: .\nS: 250 ok\n{message}C: 2\nC: .\n-- close"),
        format!("-- hello PIPELINING\n{message}C: 3\nC: .\nS: 250 ok\nC: QUIT\nS: 221 bye"),
        format!("-- hello PIPELINING\n{message}C: 4\nC: .\nS: 250 ok"),
    ]);
    assert_eq!(outcomes(&send_all(&mut connect(&server), mails(4))), "ADAA");
}

#[test]
fn a_message_in_parts_continues_over_another_connection() {
    for enough in ENOUGH {
        let server = Ruled::start(of_two(enough, &["PIPELINING", "LIMITS RCPTMAX=1"]));
        let to: Vec<String> = (0..5).map(|n| format!("{n}@example.org")).collect();
        let mail = Raw::bytes(Envelope::new("alice@example.org", &to).unwrap(), "Hello\r\n");
        accept(&mut ruled_client(&server), &mail);
        let stored: Vec<_> = server.stored().into_iter().flat_map(|stored| stored.recipients).collect();
        assert_eq!(stored, to, "{enough:?}");
    }
}

/// Sends three messages in each way to a careless server: they must be stored as they were sent.
fn all_ways(rules: &Rules, lmtp: bool) {
    let start = || {
        let server = Ruled::start(Rules { lmtp, joined: Joined::Stored, ..rules.clone() });
        let builder = ruled_builder(&server).lmtp(lmtp);
        (server, builder)
    };
    let (server, builder) = start();
    (1..=3).for_each(|number| assert!(block_on(builder.send(&numbered(number))).is_ok()));
    assert_stored(&server, 3);
    server.wait_for("QUIT", 3);

    let (server, builder) = start();
    assert_eq!(outcomes(&send_all(&mut block_on(builder.connect()).unwrap(), mails(3))), "AAA");
    assert_stored(&server, 3);

    let (server, builder) = start();
    let mut client = block_on(builder.connect()).unwrap();
    (1..=3).for_each(|number| accept(&mut client, &numbered(number)));
    assert_stored(&server, 3);

    let (server, builder) = start();
    let pool = Pool::builder(builder).build().unwrap();
    assert!(block_on(pool.send(&numbered(1))).is_ok());
    let mut batch = block_on(pool.send_all((2..=3).map(numbered))).unwrap();
    while let Some((_, result)) = block_on(batch.next()) {
        assert!(result.is_ok());
    }
    drop(batch);
    #[allow(clippy::unit_arg)] // it is a future in the async client
    block_on(pool.close());
    assert_stored(&server, 3);
}

#[test]
fn a_server_that_finds_the_dot_only_at_the_end_of_a_read_stores_whole_messages() {
    all_ways(&rules(&["PIPELINING"]), false);
    all_ways(&rules(&["PIPELINING", "8BITMIME", "SIZE"]), true);
    all_ways(&rules(&[]), false);
    // One server that is known to crash, and one whose offer is not trusted.
    all_ways(&rules(&["PIPELINING", "CHUNKING", "BURL imap"]), false);
    let server = Ruled::start(Rules { joined: Joined::Stored, ..rules(&["PIPELINING", "CHUNKING"]) });
    let builder = ruled_builder(&server).ignore_capability("CHUNKING");
    assert_eq!(outcomes(&send_all(&mut block_on(builder.connect()).unwrap(), mails(3))), "AAA");
    assert_stored(&server, 3);
}

#[test]
fn quit_follows_the_reply_to_the_message_even_if_envelopes_may_be_joined() {
    let server = Ruled::start(Rules { joined: Joined::Stored, ..rules(&["PIPELINING", "CHUNKING"]) });
    assert!(block_on(ruled_builder(&server).send(&numbered(1))).is_ok());
    assert_stored(&server, 1);
    server.wait_for("QUIT", 1);
    // On request, it leaves with the message, and such a server stores it.
    let server = Ruled::start(Rules { joined: Joined::Stored, ..rules(&["PIPELINING", "CHUNKING"]) });
    assert!(block_on(ruled_builder(&server).join_envelopes(JoinPolicy::Always).send(&numbered(1))).is_ok());
    let stored = server.stored();
    assert!(stored[0].content.contains("QUIT"), "{stored:?}");
}

#[test]
fn always_joining_lets_a_faulty_server_store_commands_in_a_message() {
    let server = Ruled::start(Rules { joined: Joined::Stored, ..rules(&["PIPELINING"]) });
    let builder = ruled_builder(&server).join_envelopes(JoinPolicy::Always);
    assert_eq!(outcomes(&send_all(&mut block_on(builder.connect()).unwrap(), mails(2))), "AA");
    let stored = server.stored();
    assert!(stored[0].content.contains("MAIL FROM"), "{stored:?}");
}

#[test]
fn misread_pipelined_commands_are_sent_again_one_at_a_time() {
    let misreads = || Ruled::start(Rules { joined: Joined::Refused, ..rules(&["PIPELINING"]) });
    let server = misreads();
    let builder = ruled_builder(&server);
    accept(&mut block_on(builder.connect()).unwrap(), &mail_to(&["a@example.org", "b@example.org"]));
    assert_eq!(server.stored()[0].recipients, ["a@example.org", "b@example.org"]);
    assert_eq!(server.count("MAIL"), 2);
    // The builder and its clones remember it now.
    accept(&mut block_on(builder.clone().connect()).unwrap(), &mail());
    assert_eq!(server.count("MAIL"), 3);
    drop(server);

    let server = misreads();
    let builder = ruled_builder(&server);
    assert_eq!(outcomes(&send_all(&mut block_on(builder.connect()).unwrap(), mails(4))), "AAAA");
    assert_stored(&server, 4);
    assert_eq!(server.count("MAIL"), 5);
    drop(server);

    let server = misreads();
    let pool = Pool::builder(ruled_builder(&server)).build().unwrap();
    (1..=3).for_each(|number| assert!(block_on(pool.send(&numbered(number))).is_ok()));
    assert_stored(&server, 3);
    assert_eq!(server.count("MAIL"), 4);
    drop((pool, server)); // in this order: on Windows, a server's wait for an open connection does not end early

    let server = misreads();
    let once =
        |number| Raw::reader(envelope(&["bob@example.org"]), std::io::Cursor::new(format!("{number}\r\n")));
    accept(&mut ruled_client(&server), &once(1));
    assert_eq!(outcomes(&send_all(&mut ruled_client(&server), vec![once(2), once(3)])), "AA");
    assert_stored(&server, 3);
}

#[test]
fn content_sent_with_a_misread_envelope_is_sent_again() {
    let server = Ruled::start(Rules { joined: Joined::Refused, ..rules(&["PIPELINING", "CHUNKING"]) });
    let builder = ruled_builder(&server).chunking(true);
    let results = send_all(&mut block_on(builder.connect()).unwrap(), mails(2));
    assert!(results.iter().all(|result| result.is_ok()), "{results:?}");
    assert_stored(&server, 2);
}

/// Returns how often MAIL was sent, and the refusal, for a recipient that gets this reply.
fn refused_with(reply: &'static str) -> (usize, (Phase, u16)) {
    let refuses = Some(("bob@example.org", reply));
    let server = Ruled::start(Rules { refuses, ..rules(&["PIPELINING"]) });
    let builder = ruled_builder(&server);
    let error = send_error(&mut block_on(builder.connect()).unwrap(), &mail());
    let asked = server.count("MAIL");
    // The reply is not remembered.
    accept(&mut block_on(builder.connect()).unwrap(), &mail_to(&["a@example.org", "b@example.org"]));
    assert_eq!(server.count("MAIL"), asked + 1);
    (asked, refusal(cause(&error)))
}

#[test]
fn only_replies_that_mean_a_misread_command_cause_a_second_attempt() {
    for (reply, code) in
        [("500 what", 500), ("501 5.5.4 no", 501), ("501 no", 501), ("502 no", 502), ("503 5.5.1 no", 503)]
    {
        assert_eq!(refused_with(reply), (2, (Phase::Recipient, code)), "{reply}");
    }
    for (reply, code) in [("501 5.1.3 bad address", 501), ("550 no", 550), ("450 no", 450)] {
        assert_eq!(refused_with(reply), (1, (Phase::Recipient, code)), "{reply}");
    }
}

#[test]
fn a_503_after_a_refusal_causes_no_second_attempt() {
    for refused in
        ["S: 550 no\nS: 503 MAIL first\nS: 503 MAIL first", "S: 250 ok\nS: 550 no\nS: 503 RCPT first"]
    {
        let server = Server::playing(format!(
            "-- hello PIPELINING\nC: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\n{refused}\nC: RSET\nS: 250 ok"
        ));
        assert_eq!(refusal(cause(&send_error(&mut connect(&server), &mail()))).1, 550);
    }
}

#[test]
fn misread_recipients_get_the_message_after_the_others() {
    let flight = |recipients: &[&str], replies: &str| {
        let rcpt: String = recipients.iter().map(|to| format!("C: RCPT TO:<{to}@example.org>\n")).collect();
        format!("C: MAIL FROM:<alice@example.org>\n{rcpt}C: DATA\n{replies}")
    };
    let script = format!(
        "-- hello PIPELINING\n{}C: Hello\nC: .\nS: 250 ok
         C: MAIL FROM:<alice@example.org>\nS: 250 ok\nC: RCPT TO:<b@example.org>\nS: 250 ok
         C: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 250 ok",
        flight(&["a", "b"], "S: 250 ok\nS: 250 ok\nS: 503 one at a time\nS: 354 go on\n")
    );
    let server = Server::playing(script.clone());
    accept(&mut connect(&server), &mail_to(&["a@example.org", "b@example.org"]));
    let server = Server::playing(script);
    let results = send_all(&mut connect(&server), vec![mail_to(&["a@example.org", "b@example.org"])]);
    let delivery = results[0].as_ref().unwrap();
    assert!(delivery.recipients().all(|recipient| recipient.outcome() == Outcome::Accepted));
}

#[test]
fn excess_recipients_are_not_repeated_in_every_transaction() {
    const COUNT: usize = 300;
    let to: Vec<String> = (0..COUNT).map(|number| format!("u{number}@example.org")).collect();
    let mail = || Raw::bytes(Envelope::new("alice@example.org", &to).unwrap(), b"Hello\r\n");
    let rules = Rules { room: Some(7), ..rules(&["PIPELINING"]) };
    let (one, batch) = (Ruled::start(rules.clone()), Ruled::start(rules));
    let mut deliveries = vec![deliver(&mut ruled_client(&one), &mail()).unwrap()];
    deliveries.extend(send_all(&mut ruled_client(&batch), vec![mail()]).into_iter().map(Result::unwrap));
    for (server, delivery) in [one, batch].iter().zip(deliveries) {
        assert!(delivery.recipients().all(|recipient| recipient.outcome() == Outcome::Accepted));
        let stored: Vec<String> = server.stored().into_iter().flat_map(|stored| stored.recipients).collect();
        assert_eq!(stored, to, "in order, and each once");
        assert!(server.count("RCPT") <= 2 * COUNT, "{}", server.count("RCPT"));
    }
}

/// An accepted message, by pipelining.
fn taken(number: usize) -> String {
    format!(
        "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 354 go on
         C: {number}\nC: .\nS: 250 ok\n"
    )
}

/// Possible replies to a flight that arrives after the last message of a session.
const TURNED_AWAY: [&str; 3] = [
    "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\nS: 421 enough\n-- close",
    "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA
     S: 452 4.5.3 enough\nS: 503 no\nS: 503 no\nC: RSET\nS: 250 ok\nC: QUIT\nS: 221 bye",
    "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\n-- close",
];

/// Sends one message, and a second one that is turned away: there is no other connection.
#[track_caller]
fn assert_kept(client: &mut Client) {
    let number = client.connection_number();
    accept(client, &numbered(1));
    let error = send_error(client, &numbered(2));
    assert!(error.is_transient(), "{error:?}");
    assert_eq!(client.connection_number(), number);
}

#[test]
fn a_connection_that_a_call_has_logged_in_is_not_replaced() {
    for end in TURNED_AWAY {
        let end = end.replace("\nC: QUIT\nS: 221 bye", "");
        let server = Server::playing(format!(
            "-- hello PIPELINING, AUTH PLAIN\nC: AUTH PLAIN AHVzZXIAc2VjcmV0\nS: 235 welcome\n{}{end}",
            taken(1)
        ));
        let mut client = connect(&server);
        block_on(client.login("user", "secret")).unwrap();
        assert_kept(&mut client);
    }
}

#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn a_connection_that_a_call_has_secured_is_not_replaced() {
    for end in TURNED_AWAY {
        let end = end.replace("\nC: QUIT\nS: 221 bye", "");
        let server = Server::playing(format!(
            "-- hello STARTTLS\nC: STARTTLS\nS: 220 go ahead\n-- tls good
             C: EHLO client.example.org\nS: 250-hi\nS: 250 PIPELINING\n{}{end}",
            taken(1)
        ));
        let builder = builder(&server).security(postino::Security::Plaintext);
        let builder = builder.ca_certificate(crate::support::tls::CA);
        let mut client = block_on(builder.connect()).unwrap();
        block_on(client.starttls()).unwrap();
        assert_kept(&mut client);
    }
}

#[test]
fn the_other_connection_logs_in_with_the_builders_credentials() {
    let hello = "-- hello PIPELINING, AUTH PLAIN\nC: AUTH PLAIN AHVzZXIAc2VjcmV0\nS: 235 welcome\n";
    for end in TURNED_AWAY {
        for batch in [false, true] {
            let scripts = [format!("{hello}{}{end}", taken(1)), format!("{hello}{}", taken(2))];
            let server = Server::playing_each(scripts);
            let builder = builder(&server).credentials("user", "secret");
            let mut client = block_on(builder.connect()).unwrap();
            if batch {
                assert_eq!(outcomes(&send_all(&mut client, mails(2))), "AA");
            } else {
                (1..=2).for_each(|number| accept(&mut client, &numbered(number)));
            }
        }
    }
}

#[test]
fn nothing_is_sent_over_another_connection_that_offers_no_login() {
    for end in TURNED_AWAY {
        for batch in [false, true] {
            let hello = "-- hello PIPELINING, AUTH PLAIN\nC: AUTH PLAIN AHVzZXIAc2VjcmV0\nS: 235 welcome\n";
            let server =
                Server::playing_each([format!("{hello}{}{end}", taken(1)), "-- hello PIPELINING".to_owned()]);
            let builder = builder(&server).credentials("user", "secret");
            let mut client = block_on(builder.connect()).unwrap();
            if batch {
                let results = send_all(&mut client, mails(3));
                assert!(matches!(&outcomes(&results)[..], "AN" | "ARN"), "{results:?}");
            } else {
                accept(&mut client, &numbered(1));
                send_error(&mut client, &numbered(2));
            }
            assert_closed(&mut client);
        }
    }
}

#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn the_other_connection_uses_the_tls_settings_of_the_builder() {
    for end in TURNED_AWAY {
        let hello = "-- hello STARTTLS\nC: STARTTLS\nS: 220 go ahead\n-- tls good
             C: EHLO client.example.org\nS: 250-hi\nS: 250 PIPELINING\n";
        let server = Server::playing_each([
            format!("{hello}{}{end}", taken(1)),
            format!("{hello}{}", taken(2)),
            "-- hello PIPELINING".to_owned(), // offers no TLS
        ]);
        let builder = builder(&server).security(postino::Security::StartTls);
        let mut client = block_on(builder.ca_certificate(crate::support::tls::CA).connect()).unwrap();
        (1..=2).for_each(|number| accept(&mut client, &numbered(number)));
        assert!(client.is_encrypted());
        client.close();
        assert!(matches!(block_on(client.reconnect()), Err(Error::TlsRequired)));
    }
}

#[test]
fn the_deadline_of_a_call_covers_the_other_connection_of_a_batch() {
    for end in TURNED_AWAY {
        let server = Server::playing_each([
            format!("-- hello PIPELINING\n{}{end}", taken(1)),
            "-- silence".to_owned(), // not even a greeting
        ]);
        let builder = builder(&server).deadline(Duration::from_secs(1));
        let mut client = block_on(builder.connect()).unwrap();
        let start = Instant::now();
        let results = send_all(&mut client, mails(3));
        assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
        assert!(matches!(&outcomes(&results)[..], "AN" | "ARN"), "{results:?}");
        assert!(results[1].as_ref().unwrap_err().is_transient(), "{results:?}");
    }
}

#[test]
fn the_first_message_without_a_connection_reports_why_connecting_failed() {
    let server = Server::playing_each([
        format!("-- hello PIPELINING, LIMITS MAILMAX=1\n{}C: QUIT\nS: 221 bye", taken(1)),
        "S: 554 go away".to_owned(),
    ]);
    let results = send_all(&mut connect(&server), mails(3));
    assert_eq!(outcomes(&results), "AN");
    assert_eq!(refusal(cause(results[1].as_ref().unwrap_err())), (Phase::Greeting, 554));
}

#[test]
fn excess_recipients_get_the_message_even_if_quit_has_left() {
    let all = ["a@example.org", "b@example.org"];
    let flight = |recipients: &[&str]| {
        let rcpt: String = recipients.iter().map(|to| format!("C: RCPT TO:<{to}>\n")).collect();
        format!(
            "-- hello PIPELINING, CHUNKING\nC: MAIL FROM:<alice@example.org>\n{rcpt}C: BDAT 7 LAST\nC: Hello\nC: QUIT\n"
        )
    };
    let server = Server::playing_each([
        format!("{}S: 250 ok\nS: 250 ok\nS: 452 4.5.3 too many\nS: 250 taken\nS: 221 bye", flight(&all)),
        format!("{}S: 250 ok\nS: 250 ok\nS: 250 taken\nS: 221 bye", flight(&all[1..])),
    ]);
    let builder = builder(&server).chunking(true).join_envelopes(JoinPolicy::Always);
    let delivery = block_on(builder.send(&mail_to(&all))).unwrap();
    assert!(delivery.recipients().all(|recipient| recipient.outcome() == Outcome::Accepted), "{delivery:?}");
}

/// However a server ends its sessions, it is asked no more often than it makes progress.
#[test]
fn a_server_that_takes_one_message_per_session_is_not_asked_too_often() {
    for enough in ENOUGH {
        let server = Ruled::start(Rules { session: Some((1, enough)), ..rules(&["PIPELINING"]) });
        assert_eq!(outcomes(&send_all(&mut ruled_client(&server), mails(20))), "A".repeat(20));
        assert_eq!((server.connections(), server.stored().len()), (20, 20), "{enough:?}");
        let asked = if enough == Enough::Closes { 22 } else { 39 }; // only closes are remembered, after the second
        assert!(server.count("MAIL") <= asked, "{enough:?}: {}", server.count("MAIL"));
    }
}
