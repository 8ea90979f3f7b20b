//! Limits: of each wait, and of each call as a whole. Lower bounds are strict, upper bounds are generous.

use std::{
    io,
    time::{Duration, Instant},
};

use postino::{Error, Outcome, Phase};

use super::*;
use crate::support::Peer;

const SHORT: Duration = Duration::from_millis(300);

/// Asserts that the work takes `SHORT`, or somewhat more.
#[track_caller]
fn in_time<T>(work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    let took = start.elapsed();
    assert!(took >= SHORT * 9 / 10 && took < SHORT * 10, "{took:?}");
    done
}

/// Asserts that the work takes hardly any time.
#[track_caller]
fn at_once<T>(work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = work();
    assert!(start.elapsed() < SHORT * 3, "{:?}", start.elapsed());
    done
}

#[track_caller]
fn timeout(error: &Error) -> Phase {
    assert!(error.is_timeout() && !error.is_permanent(), "{error:?}");
    match error {
        Error::Timeout(phase) => *phase,
        Error::Resolve { .. } => Phase::Resolve,
        Error::Connect { .. } => Phase::Connect,
        Error::Transaction { .. } => timeout(cause(error)),
        other => panic!("no timeout: {other:?}"),
    }
}

/// After the script, begins a reply whose first line takes seconds.
fn dripping_at(script: &str, code: &str) -> Server {
    Server::playing(format!("{script}-- drip {code}-{:.<200}", ""))
}

// Behaviour 3.
#[test]
fn a_silent_greeting_ends_at_its_limit() {
    let server = Server::playing("-- silence");
    let error = in_time(|| connect_error(&builder(&server).greeting_timeout(SHORT)));
    assert_eq!(timeout(&error), Phase::Greeting);
}

// Threat 57.
#[test]
fn a_dripping_greeting_ends_at_its_limit() {
    let server = dripping_at("", "220");
    assert_eq!(
        timeout(&in_time(|| connect_error(&builder(&server).greeting_timeout(SHORT)))),
        Phase::Greeting
    );
}

// Threat 57.
#[test]
fn a_dripping_greeting_ends_at_the_deadline() {
    let server = dripping_at("", "220");
    assert_eq!(timeout(&in_time(|| connect_error(&builder(&server).deadline(SHORT)))), Phase::Greeting);
}

// Threat 82.
#[test]
fn silence_in_ehlo_ends_at_its_limit() {
    let server = Server::playing("S: 220 hi\nC: EHLO client.example.org\n-- silence");
    let error = in_time(|| connect_error(&builder(&server).command_timeout(SHORT)));
    assert_eq!(timeout(&error), Phase::Hello);
}

// Threat 57.
#[test]
fn a_dripping_ehlo_ends_at_its_limit() {
    let server = dripping_at("S: 220 hi\nC: EHLO client.example.org\n", "250");
    assert_eq!(timeout(&in_time(|| connect_error(&builder(&server).command_timeout(SHORT)))), Phase::Hello);
}

// Threat 57.
#[test]
fn a_dripping_ehlo_ends_at_the_deadline() {
    let server = dripping_at("S: 220 hi\nC: EHLO client.example.org\n", "250");
    assert_eq!(timeout(&in_time(|| connect_error(&builder(&server).deadline(SHORT)))), Phase::Hello);
}

// Behaviour 19, threat 85.
#[test]
fn silence_costs_one_time_limit_and_nothing_more_is_sent() {
    let server = Server::playing("-- hello\nC: MAIL FROM:<alice@example.org>\n-- silence");
    let mut client = block_on(builder(&server).timeout(SHORT).connect()).unwrap();
    let error = in_time(|| {
        let error = send_error(&mut client, &mail());
        drop(client);
        error
    });
    assert_eq!((timeout(&error), outcome(&error)), (Phase::Mail, Outcome::NotSent));
}

// Behaviour 43.
#[test]
fn a_timeout_closes_the_connection() {
    let server = Server::playing("-- hello\nC: NOOP\n-- silence");
    let mut client = block_on(builder(&server).timeout(SHORT).connect()).unwrap();
    assert_eq!(timeout(&in_time(|| block_on(client.noop()).unwrap_err())), Phase::Noop);
    at_once(|| assert_closed(&mut client));
    at_once(|| block_on(client.quit()).unwrap());
}

// Threat 57.
#[test]
fn a_dripping_reply_ends_at_its_limit() {
    let server = dripping_at("-- hello\nC: NOOP\n", "250");
    let mut client = block_on(builder(&server).command_timeout(SHORT).connect()).unwrap();
    assert_eq!(timeout(&in_time(|| block_on(client.noop()).unwrap_err())), Phase::Noop);
}

const UP_TO_THE_END: &str = "-- hello\n-- envelope\nC: DATA\nS: 354 go on\n-- body\n";

// Threat 40.
#[test]
fn silence_after_the_message_ends_at_its_limit_with_the_message_in_doubt() {
    let server = Server::playing(format!("{UP_TO_THE_END}-- silence"));
    let mut client = block_on(builder(&server).final_reply_timeout(SHORT).connect()).unwrap();
    let error = in_time(|| send_error(&mut client, &mail()));
    assert_eq!(timeout(&error), Phase::End);
    assert!(error.in_doubt() && !error.is_transient());
}

// Threat 57.
#[test]
fn a_dripping_final_reply_ends_at_the_deadline_with_the_message_in_doubt() {
    let server = dripping_at(UP_TO_THE_END, "250");
    let mut client = block_on(builder(&server).deadline(SHORT).connect()).unwrap();
    let error = in_time(|| send_error(&mut client, &mail()));
    assert_eq!(timeout(&error), Phase::End);
    assert!(error.in_doubt());
}

// Threat 57.
#[test]
fn a_dripping_final_reply_ends_at_its_limit() {
    let server = dripping_at(UP_TO_THE_END, "250");
    let mut client = block_on(builder(&server).final_reply_timeout(SHORT).connect()).unwrap();
    assert_eq!(timeout(&in_time(|| send_error(&mut client, &mail()))), Phase::End);
}

// Threat 41.
#[test]
fn the_final_reply_has_a_separate_limit() {
    let server = Server::playing(format!("{UP_TO_THE_END}-- pause\n-- pause\n-- pause\n-- pause\nS: 250 ok"));
    let mut client =
        block_on(builder(&server).timeout(SHORT / 3).final_reply_timeout(PATIENCE).connect()).unwrap();
    accept(&mut client, &mail());
}

#[test]
fn the_time_limit_restarts_with_each_pipelined_reply() {
    let mut script = "-- hello PIPELINING\nC: MAIL FROM:<alice@example.org>\n".to_owned();
    (0..9).for_each(|i| script += &format!("C: RCPT TO:<r{i}@example.org>\n"));
    script += "C: DATA\nS: 250 ok\n";
    (0..9).for_each(|_| script += "-- pause\nS: 250 ok\n");
    script += "S: 354 go on\n-- body\nS: 250 ok";
    let server = Server::playing(script);
    let mut client = block_on(builder(&server).timeout(SHORT).connect()).unwrap();
    let recipients: Vec<_> = (0..9).map(|i| format!("r{i}@example.org")).collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    accept(&mut client, &mail_to(&recipients)); // takes longer than one limit
}

#[test]
fn the_deadline_covers_all_replies_together() {
    let server = Server::running(|peer| {
        peer.may_leave = true;
        peer.may_run_ahead = true;
        peer.play("-- hello PIPELINING\nC: MAIL FROM:<alice@example.org>");
        for _ in 0..100 {
            peer.play("-- pause\nS: 250 ok");
        }
    });
    let recipients: Vec<_> = (0..200).map(|i| format!("r{i}@example.org")).collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    let mut client = block_on(builder(&server).deadline(SHORT).connect()).unwrap();
    let error = in_time(|| send_error(&mut client, &mail_to(&recipients)));
    assert_eq!(timeout(&error), Phase::Recipient);
    drop(client);
}

#[test]
fn the_deadline_restarts_with_each_call() {
    let server = Server::playing(format!("-- hello\n{}", "C: NOOP\n-- pause\nS: 250 ok\n".repeat(8)));
    let mut client = block_on(builder(&server).deadline(SHORT).connect()).unwrap();
    for _ in 0..8 {
        assert_open(&mut client);
    }
}

#[test]
fn the_deadline_covers_the_whole_of_a_send_by_the_builder() {
    let server = Server::running(|peer| {
        peer.may_leave = true;
        peer.play(
            "-- pause
             S: 220 hi
             C: EHLO client.example.org
             -- pause
             S: 250 hi
             C: MAIL FROM:<alice@example.org>
             -- pause
             S: 250 hi
             C: RCPT TO:<bob@example.org>
             -- silence",
        );
    });
    let error = in_time(|| block_on(builder(&server).deadline(SHORT).send(&mail())).unwrap_err());
    assert_eq!(timeout(&error), Phase::Recipient);
}

// Behaviour 42.
#[test]
fn a_limit_of_zero_ends_at_once() {
    for builder in [
        Client::builder("127.0.0.1").port(9).timeout(Duration::ZERO),
        Client::builder("127.0.0.1").port(9).deadline(Duration::ZERO),
        Client::builder("localhost").port(9).timeout(Duration::ZERO),
        Client::builder("localhost").port(9).deadline(Duration::ZERO),
    ] {
        let phase = timeout(&at_once(|| connect_error(&builder)));
        assert!(matches!(phase, Phase::Resolve | Phase::Connect), "{phase:?}");
    }
    for phase in [Phase::Greeting, Phase::Hello] {
        let server = Server::running(|peer| {
            peer.may_leave = true;
            peer.play("-- pause\n-- hello\n-- ignore");
        });
        let builder = match phase {
            Phase::Greeting => builder(&server).greeting_timeout(Duration::ZERO),
            _ => builder(&server).command_timeout(Duration::ZERO),
        };
        assert_eq!(timeout(&at_once(|| connect_error(&builder))), phase);
    }
}

/// Reads forever.
fn swallow(peer: &mut Peer) {
    peer.may_run_ahead = true;
    peer.play("-- hello\n-- envelope\nC: DATA\nS: 354 go on\n-- ignore");
}

// Behaviour 42.
#[test]
fn the_maximum_duration_means_no_time_limit() {
    let server = Server::playing("-- hello\nC: NOOP\n-- pause\nS: 250 ok\nC: NOOP\n-- pause\nS: 250 ok");
    let builder = builder(&server).timeout(Duration::MAX).final_reply_timeout(Duration::MAX);
    let mut client = block_on(builder.deadline(Duration::MAX).connect()).unwrap();
    assert_open(&mut client);
    block_on(client.next_call_deadline(Duration::MAX).noop()).unwrap();
}

#[test]
fn a_body_without_end_that_never_blocks_ends_at_the_deadline() {
    let server = Server::running(swallow);
    let mut client = block_on(builder(&server).deadline(SHORT).connect()).unwrap();
    let endless = Raw::reader(envelope(&["bob@example.org"]), io::repeat(b'a'));
    let error = in_time(|| send_error(&mut client, &endless));
    assert_eq!((timeout(&error), outcome(&error)), (Phase::Body, Outcome::NotSent));
}

#[test]
fn a_trickling_body_ends_at_the_deadline() {
    struct Drips;
    impl io::Read for Drips {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(5));
            room[0] = b'a';
            Ok(1)
        }
    }
    let server = Server::running(swallow);
    let mut client = block_on(builder(&server).deadline(SHORT).connect()).unwrap();
    let error = in_time(|| send_error(&mut client, &Raw::reader(envelope(&["bob@example.org"]), Drips)));
    assert_eq!((timeout(&error), outcome(&error)), (Phase::Body, Outcome::NotSent));
}

/// Accepts the connection and the envelope, and then reads no more.
fn black_hole(peer: &mut Peer, told: &std::sync::mpsc::Receiver<()>) {
    peer.play("-- hello\n-- envelope\nC: DATA\nS: 354 go on");
    told.recv_timeout(PATIENCE).unwrap();
    peer.ignore();
}

#[test]
fn a_stalled_write_ends_at_its_limit() {
    for deadline in [false, true] {
        let (tell, told) = std::sync::mpsc::channel();
        let server = Server::cramped(move |peer| black_hole(peer, &told));
        let limited =
            if deadline { builder(&server).deadline(SHORT) } else { builder(&server).block_timeout(SHORT) };
        let mut client = block_on(limited.connect()).unwrap();
        let endless = Raw::reader(envelope(&["bob@example.org"]), io::repeat(b'a'));
        let error = in_time(|| send_error(&mut client, &endless));
        assert_eq!((timeout(&error), outcome(&error)), (Phase::Body, Outcome::NotSent));
        tell.send(()).unwrap();
        drop(client);
    }
}

// Threat 88.
#[test]
fn dropping_a_client_waits_for_nothing() {
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let server = Server::running(move |peer| {
        peer.play("-- hello");
        told.recv_timeout(PATIENCE).unwrap();
    });
    let client = connect(&server);
    at_once(|| drop(client));
    tell.send(()).unwrap();
}

// Threat 88.
#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn dropping_a_client_in_tls_waits_for_nothing() {
    let (tell, told) = std::sync::mpsc::channel::<()>();
    let server = Server::running(move |peer| {
        peer.play("-- tls good\n-- hello");
        told.recv_timeout(PATIENCE).unwrap();
    });
    let builder = builder(&server).security(postino::Security::Implicit);
    let client = block_on(builder.ca_certificate(crate::support::tls::CA).connect()).unwrap();
    at_once(|| drop(client));
    tell.send(()).unwrap();
}

// Behaviour 5.
#[test]
fn a_closed_port_is_an_error_at_once() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = at_once(|| connect_error(&Client::builder("127.0.0.1").port(port)));
    assert!(
        matches!(&error, Error::Connect { server, .. } if server == &format!("127.0.0.1:{port}")),
        "{error:?}"
    );
}

// Threat 89.
#[test]
fn local_messages_are_not_slowed_by_delayed_acks() {
    let one = "-- envelope\nC: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 250 ok\n";
    let server = Server::playing(format!("-- hello\n{}", one.repeat(20)));
    let mut client = connect(&server);
    let start = Instant::now();
    (0..20).for_each(|_| accept(&mut client, &mail()));
    // With Nagle's algorithm and delayed acknowledgements, each would take 40 ms or more.
    assert!(start.elapsed() < Duration::from_millis(20 * 40), "{:?}", start.elapsed());
}
