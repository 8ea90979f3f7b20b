//! The counted conversations. Compiled for both clients.

use postino::{Envelope, Error, Raw, Security};

use super::{CLIENT, Client, block_on, connect_over, maybe_async};
use crate::{
    network::{delayed_acks, is_own},
    rules::{Ruled, Rules},
};

/// Enough messages for a cost of each to exceed what a busy machine adds.
const MESSAGES: usize = 40;

/// Rules of a server that writes each reply separately, with Nagle's algorithm on.
fn rules() -> Rules {
    Rules { keywords: vec!["PIPELINING", "8BITMIME"], writes_reply_by_reply: true, ..Rules::default() }
}

fn mails() -> Vec<Raw<'static>> {
    let mail = || Raw::bytes(Envelope::new("a@example.org", ["b@example.net"]).unwrap(), "Subject: x\n\nx\n");
    (0..MESSAGES).map(|_| mail()).collect()
}

#[maybe_async]
async fn connect(server: &Ruled, pipelining: bool) -> Result<Client, Error> {
    let builder = Client::builder("127.0.0.1").port(server.port()).security(Security::Plaintext);
    builder.hello_name("client.example.org").pipelining(pipelining).connect().await
}

#[maybe_async]
async fn send_each(client: &mut Client) -> Result<(), Error> {
    for mail in mails() {
        let _accepted = client.send(&mail).await?;
    }
    Ok(())
}

#[maybe_async]
async fn send_all(client: &mut Client) -> Result<(), Error> {
    let mut batch = client.send_all(mails());
    while let Some((_, result)) = batch.next().await {
        let _accepted = result?;
    }
    Ok(())
}

fn name_of(test: &str) -> String {
    format!("{CLIENT}::cases::{test}")
}

/// Number of delayed ACKs caused by these messages.
fn cost_of(what: &str, server: &Ruled, send: impl FnOnce() -> Result<(), Error>) -> u64 {
    let before = delayed_acks();
    send().unwrap();
    let cost = delayed_acks() - before;
    assert_eq!(server.take().stored.len(), MESSAGES);
    println!("{CLIENT}, {what}: {cost} delayed ACKs in {MESSAGES} messages");
    cost
}

#[test]
fn a_flight_answered_reply_by_reply_costs_no_delayed_acks() {
    if !is_own(&name_of("a_flight_answered_reply_by_reply_costs_no_delayed_acks")) {
        return;
    }
    let server = Ruled::start(rules());
    for pipelining in [true, false] {
        let mut client = block_on(connect(&server, pipelining)).unwrap();
        let each = cost_of("one by one", &server, || block_on(send_each(&mut client)));
        let all = cost_of("in a batch", &server, || block_on(send_all(&mut client)));
        assert!(each.max(all) < MESSAGES as u64 / 4, "pipelining: {pipelining}");
    }
}

/// A server sends its session tickets at the end of the handshake, and Nagle's algorithm holds back the next reply
/// until they are acknowledged.
#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn a_tls_connection_costs_no_delayed_acks() {
    if !is_own(&name_of("a_tls_connection_costs_no_delayed_acks")) {
        return;
    }
    let server = Ruled::start_over(rules(), |socket| crate::tls::acceptor("good").accept(socket).ok());
    let builder = Client::builder("127.0.0.1").port(server.port()).security(Security::Implicit);
    let builder = builder.hello_name("client.example.org").ca_certificate(crate::tls::CA);
    let before = delayed_acks();
    for _ in 0..MESSAGES {
        block_on(block_on(builder.connect()).unwrap().quit()).unwrap();
    }
    let cost = delayed_acks() - before;
    println!("{CLIENT}, TLS: {cost} delayed ACKs in {MESSAGES} connections");
    assert!(cost < MESSAGES as u64 / 4);

    let mut client = block_on(builder.connect()).unwrap();
    let cost = cost_of("in TLS", &server, || block_on(send_each(&mut client)));
    assert!(cost < MESSAGES as u64 / 4);
}

/// Uses a user-supplied connection, as on systems that cannot acknowledge at once.
#[test]
fn with_delayed_acks_a_connection_soon_sends_one_command_at_a_time() {
    if !is_own(&name_of("with_delayed_acks_a_connection_soon_sends_one_command_at_a_time")) {
        return;
    }
    let server = Ruled::start(rules());
    for batch in [false, true] {
        let mut client = block_on(connect_over(server.address())).unwrap();
        let cost = cost_of("acknowledged late", &server, || {
            if batch { block_on(send_all(&mut client)) } else { block_on(send_each(&mut client)) }
        });
        assert!((3..MESSAGES as u64 / 2).contains(&cost), "{cost} delayed ACKs");
    }
}

/// The same, seen by what arrives.
#[test]
fn only_a_connection_that_stalls_stops_pipelining() {
    let server = Ruled::start(rules());
    for batch in [false, true] {
        let flights = |mut client: Client| {
            server.take();
            if batch {
                block_on(send_all(&mut client)).unwrap();
            } else {
                block_on(send_each(&mut client)).unwrap();
            }
            server.take().flights
        };
        let late = flights(block_on(connect_over(server.address())).unwrap());
        let (pipelined, last) = (late.iter().filter(|commands| **commands > 1).count(), late.last());
        assert!((3..=MESSAGES / 2).contains(&pipelined), "{late:?}");
        assert_eq!(last, Some(&1), "{late:?}");

        let at_once = flights(block_on(connect(&server, true)).unwrap());
        let pipelined = at_once.iter().filter(|commands| **commands > 1).count();
        assert!(pipelined >= MESSAGES - 1, "{at_once:?}");
    }
}
