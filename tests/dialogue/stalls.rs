//! Pipelining where the replies to several commands arrive in pieces, long after the round trip.

use std::{net::TcpStream, time::Duration};

use super::{proxy::Proxy, *};
use crate::{
    support::rules::{Ruled, Rules},
    tcp,
};

/// Enough messages for a client to change its mind, and to stay with that.
const MESSAGES: usize = 7;

/// Far longer than a round trip here, also on a busy machine.
const PAUSE: Duration = Duration::from_millis(150);

fn settings(server: &Ruled) -> Builder {
    let builder = Client::builder("127.0.0.1").port(server.port()).hello_name("client.example.org");
    builder.timeout(PATIENCE).final_reply_timeout(PATIENCE)
}

/// Connects over a socket of the caller, for which no client can acknowledge at once.
fn connect_over(server: &Ruled) -> Client {
    let socket = TcpStream::connect(server.address()).unwrap();
    block_on(settings(server).connect_over(tcp(socket))).unwrap()
}

/// Returns the number of commands that the server read at a time.
fn flights(mut client: Client, server: &Ruled, batch: bool) -> Vec<usize> {
    server.take();
    let mails: Vec<_> = (0..MESSAGES).map(numbered).collect();
    if batch {
        assert_eq!(outcomes(&send_all(&mut client, mails)), "A".repeat(MESSAGES));
    } else {
        mails.iter().for_each(|mail| accept(&mut client, mail));
    }
    let received = server.take();
    assert_eq!(received.stored.len(), MESSAGES);
    received.flights
}

fn start(pause_between_replies: Duration) -> Ruled {
    Ruled::start(Rules { keywords: vec!["PIPELINING"], pause_between_replies, ..Rules::default() })
}

#[track_caller]
fn assert_slows_down(flights: &[usize]) {
    let last = flights.iter().rposition(|commands| *commands > 1).unwrap();
    let pipelined = flights.iter().filter(|commands| **commands > 1).count();
    // The next envelope of a batch may be on its way when the replies to the third one show that it does not pay.
    assert!((3..=4).contains(&pipelined), "{flights:?}");
    assert_eq!(flights[last + 1..].len(), 3 * (MESSAGES - pipelined), "{flights:?}");
}

#[test]
fn replies_that_trickle_in_end_pipelining_on_a_connection_of_the_callers() {
    let server = start(PAUSE);
    for batch in [false, true] {
        assert_slows_down(&flights(connect_over(&server), &server, batch));
    }
}

#[test]
fn replies_that_trickle_in_end_pipelining_where_a_client_cannot_acknowledge_at_once() {
    let server = start(PAUSE);
    for batch in [false, true] {
        let flights = flights(block_on(settings(&server).connect()).unwrap(), &server, batch);
        if cfg!(any(target_os = "linux", target_os = "android")) {
            assert_eq!(flights, [3; MESSAGES]); // the pauses are not the client's fault
        } else {
            assert_slows_down(&flights);
        }
    }
}

#[test]
fn replies_that_trickle_in_through_a_proxy_end_pipelining() {
    let server = start(PAUSE);
    let proxy = Proxy::socks5("mail.example.org", server.address(), false);
    let builder = Client::builder("mail.example.org").port(server.port()).hello_name("client.example.org");
    let builder = builder.timeout(PATIENCE).final_reply_timeout(PATIENCE).proxy(proxy.url("socks5", ""));
    assert_slows_down(&flights(block_on(builder.connect()).unwrap(), &server, false));
}

#[test]
fn replies_that_arrive_together_do_not_end_pipelining() {
    let server = start(Duration::ZERO);
    for batch in [false, true] {
        assert_eq!(flights(connect_over(&server), &server, batch), [3; MESSAGES]);
    }
}
