//! What an observer is told, and in what order.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use postino::{Event, EventKind};

use super::*;
use crate::{
    Pool,
    support::{closed, journal},
};

const ACCEPTED: &str = "-- envelope\nC: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 250 ok\n";
const QUIT: &str = "C: QUIT\nS: 221 bye";

/// The name of an event, and its connection.
type Note = (&'static str, Option<u64>);

/// The events so far.
#[derive(Default, Clone)]
struct Seen(Arc<Mutex<Vec<Note>>>);

impl Seen {
    fn by(&self, builder: Builder) -> Builder {
        let seen = self.clone();
        builder.observer(move |event| {
            assert!(event.took < PATIENCE, "{event:?}");
            seen.0.lock().unwrap().push((event.kind.name(), event.connection));
        })
    }

    fn names(&self) -> String {
        self.0.lock().unwrap().iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
    }

    /// Returns the number of connections.
    fn connections(&self) -> usize {
        let mut numbers: Vec<_> = self.0.lock().unwrap().iter().map(|(_, number)| number.unwrap()).collect();
        numbers.dedup();
        numbers.len()
    }
}

/// Connects, sends the usual message, and quits.
fn send(server: &Server) -> (Seen, Result<Delivery, Error>) {
    let seen = Seen::default();
    let mut client = block_on(seen.by(builder(server)).connect()).unwrap();
    let result = deliver(&mut client, &mail());
    block_on(client.quit()).unwrap();
    drop(client); // closed only once
    (seen, result)
}

#[test]
fn a_message_is_reported_between_the_beginning_and_the_end_of_its_connection() {
    let server = Server::playing(["-- hello\n", ACCEPTED, QUIT].concat());
    let (seen, result) = send(&server);
    assert_eq!((seen.names().as_str(), result.is_ok()), ("connected accepted closed", true));
    assert_eq!(seen.connections(), 1);
    server.finish();
}

#[test]
fn a_refused_message_and_one_in_doubt_are_reported() {
    let refused = "C: MAIL FROM:<alice@example.org>\nS: 550 no\nC: RSET\nS: 250 ok\n";
    let doubt = "-- envelope\nC: DATA\nS: 354 go on\nC: Hello\nC: .\n-- close";
    let lost = "-- envelope\nC: DATA\n-- close";
    for (script, names) in [
        (format!("{refused}{QUIT}"), "connected refused closed"),
        (doubt.to_owned(), "connected closed in_doubt"),
        (lost.to_owned(), "connected closed not_sent"),
    ] {
        let server = Server::playing(format!("-- hello\n{script}"));
        let (seen, result) = send(&server);
        assert_eq!((seen.names().as_str(), result.is_err()), (names, true));
        server.finish();
    }
    // Refused here, before MAIL.
    let server = Server::playing(format!("-- hello SIZE 3\n{QUIT}"));
    let (seen, result) = send(&server);
    assert!(matches!(result, Err(Error::TooLarge { .. })));
    assert_eq!(seen.names(), "connected not_sent closed");
    server.finish();
}

#[test]
fn the_login_is_reported_with_its_mechanism() {
    let server = Server::playing(
        ["-- hello AUTH PLAIN\nC: AUTH PLAIN AHUAcA==\nS: 235 in\n", ACCEPTED, QUIT].concat(),
    );
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    let observe = move |event: &Event<'_>| {
        let text = match event.kind {
            EventKind::Connected { peer, .. } => format!("{peer:?}"),
            EventKind::LoggedIn { mechanism, .. } => mechanism.to_owned(),
            EventKind::Accepted { delivery, .. } => {
                assert_eq!(delivery.timings().total, event.took);
                delivery.to_string()
            }
            EventKind::Closed { error, .. } => format!("{error:?}"),
            other => panic!("{other:?}"),
        };
        tell.lock().unwrap().push(text);
    };
    block_on(builder(&server).credentials("u", "p").observer(observe).send(&mail())).unwrap();
    let peer = format!("{:?}", Some(server.address()));
    let expected = [&peer, "PLAIN", "accepted for bob@example.org: 250 ok", "None"];
    assert_eq!(*told.lock().unwrap(), expected);
    server.finish();
}

#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn tls_is_reported_at_once_or_after_starttls() {
    let starttls =
        "-- hello STARTTLS\nC: STARTTLS\nS: 220 go\n-- tls good\nC: EHLO client.example.org\nS: 250 mail\n";
    for (script, security) in
        [("-- tls good\n-- hello\n", postino::Security::Implicit), (starttls, postino::Security::StartTls)]
    {
        let server = Server::playing(format!("{script}{QUIT}"));
        let seen = Seen::default();
        let builder = builder(&server).ca_certificate(crate::support::tls::CA).security(security);
        block_on(block_on(seen.by(builder).connect()).unwrap().quit()).unwrap();
        assert_eq!(seen.names(), "connected secured closed");
        server.finish();
    }
}

#[test]
fn a_failure_to_connect_is_reported_after_the_end_of_its_connection() {
    let seen = Seen::default();
    let refused = Client::builder("127.0.0.1").port(closed().port());
    connect_error(&seen.by(refused));
    assert_eq!(seen.names(), "connect_failed");
    for script in ["S: 554 not you", "-- hello AUTH PLAIN\nC: AUTH PLAIN AHUAcA==\nS: 535 no"] {
        let server = Server::playing(script);
        let seen = Seen::default();
        connect_error(&seen.by(builder(&server).credentials("u", "p")));
        assert_eq!(seen.names(), "connected closed connect_failed");
        assert_eq!(seen.connections(), 1);
        server.finish();
    }
    // Each message has a result.
    let server = Server::playing("S: 554 not you");
    let seen = Seen::default();
    block_on(seen.by(builder(&server)).send(&mail())).unwrap_err();
    assert_eq!(seen.names(), "connected closed connect_failed not_sent");
    server.finish();
}

#[test]
fn a_message_that_another_connection_takes_over_is_reported_as_retried() {
    let turned_away = [
        ("C: MAIL FROM:<alice@example.org>\nS: 421 enough\n-- close".to_owned(), "closed retried"),
        (
            format!("C: MAIL FROM:<alice@example.org>\nS: 452 4.5.3 enough\nC: RSET\nS: 250 ok\n{QUIT}"),
            "retried closed",
        ),
    ];
    for (end, order) in turned_away {
        let first = format!("-- hello\n{ACCEPTED}{end}");
        let server = Server::playing_each([first, format!("-- hello\n{ACCEPTED}{QUIT}")]);
        let seen = Seen::default();
        let mut client = block_on(seen.by(builder(&server)).connect()).unwrap();
        accept(&mut client, &mail());
        accept(&mut client, &mail());
        block_on(client.quit()).unwrap();
        assert_eq!(seen.names(), format!("connected accepted {order} connected accepted closed"));
        assert_eq!(seen.connections(), 2);
        server.finish();
    }
}

#[test]
fn each_message_of_a_batch_is_reported_when_its_result_is_returned() {
    let refused = "C: MAIL FROM:<alice@example.org>\nS: 550 no\nC: RSET\nS: 250 ok\n";
    let server = Server::playing(["-- hello\n", ACCEPTED, refused, ACCEPTED, QUIT].concat());
    let seen = Seen::default();
    let mut client = block_on(seen.by(builder(&server)).connect()).unwrap();
    assert_eq!(outcomes(&send_all(&mut client, vec![mail(), mail(), mail()])), "ARA");
    block_on(client.quit()).unwrap();
    assert_eq!(seen.names(), "connected accepted refused accepted closed");
    server.finish();
}

#[test]
fn a_pool_reports_all_of_its_connections() {
    let two = ["-- hello\n", ACCEPTED, ACCEPTED, QUIT].concat();
    let one = ["-- hello\n", ACCEPTED, QUIT].concat();
    let server = Server::playing_each([two, one]);
    let seen = Seen::default();
    let pool = Pool::builder(seen.by(builder(&server))).max_messages(2).build().unwrap();
    for _ in 0..3 {
        block_on(pool.send(&mail())).unwrap();
    }
    let first = "connected accepted accepted closed";
    assert_eq!(seen.names(), format!("{first} connected accepted"));
    #[allow(clippy::unit_arg)] // it is a future in the async client
    block_on(pool.close());
    assert_eq!(seen.names(), format!("{first} {}", "connected accepted closed"));
    assert_eq!(seen.connections(), 2);
    server.finish();
    // A message without a connection has a result too.
    let error = block_on(pool.send(&mail())).unwrap_err();
    assert!(matches!(error, Error::PoolClosed));
    let last = seen.0.lock().unwrap().last().copied();
    assert_eq!(last, Some(("not_sent", None)));
}

#[test]
fn single_commands_cause_no_events_of_messages() {
    let server = Server::playing(["-- hello\n", ACCEPTED, QUIT].concat());
    let seen = Seen::default();
    let mut client = block_on(seen.by(builder(&server)).connect()).unwrap();
    block_on(client.mail("alice@example.org", &[])).unwrap();
    block_on(client.rcpt("bob@example.org", &[])).unwrap();
    block_on(client.data("Hello\r\n")).unwrap();
    block_on(client.quit()).unwrap();
    assert_eq!(seen.names(), "connected closed");
    server.finish();
}

#[test]
fn a_slow_observer_or_one_that_panics_does_not_disturb_the_dialogue() {
    journal::begin();
    let server = Server::playing(["-- hello\n", ACCEPTED, ACCEPTED, QUIT].concat());
    let count = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&count);
    let observe = move |event: &Event<'_>| {
        *counter.lock().unwrap() += 1;
        std::thread::sleep(Duration::from_millis(5));
        panic!("no {}", event.kind.name());
    };
    let mut client = block_on(builder(&server).observer(observe).connect()).unwrap();
    let number = client.connection_number();
    accept(&mut client, &mail());
    accept(&mut client, &mail());
    block_on(client.quit()).unwrap();
    assert_eq!(*count.lock().unwrap(), 4);
    assert!(!journal::lines_with("the observer panicked on event accepted").is_empty(), "#{number}");
    server.finish();
}
