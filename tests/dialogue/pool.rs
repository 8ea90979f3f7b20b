//! Connections that are kept for the next message.

use std::time::{Duration, Instant};

use postino::{Error, Phase};

use super::*;
use crate::Pool;

const MESSAGE: &str = "C: MAIL FROM:<alice@example.org>
     C: RCPT TO:<bob@example.org>
     C: DATA
     S: 250 ok
     S: 250 ok
     S: 354 go on
     C: Hello
     C: .
     S: 250 ok\n";

/// An accepted message, followed by the envelope of the next.
const JOINED: &str = "C: MAIL FROM:<alice@example.org>
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
     S: 250 ok\n";

const HELLO: &str = "-- hello PIPELINING, CHUNKING\n";
const QUIT: &str = "C: QUIT\n";

fn pool(server: &Server) -> Pool {
    Pool::builder(builder(server)).build().unwrap()
}

#[allow(clippy::unit_arg)] // it is a future in the async client
fn close(pool: &Pool) {
    block_on(pool.close());
}

fn send(pool: &Pool) -> Result<Delivery, Error> {
    block_on(pool.send(&mail()))
}

#[track_caller]
fn accepted(pool: &Pool) {
    assert_eq!(send(pool).unwrap().outcome(), Outcome::Accepted);
}

#[test]
fn a_pool_reuses_its_connection() {
    let server = Server::playing([HELLO, MESSAGE, MESSAGE, QUIT].concat());
    let pool = pool(&server);
    accepted(&pool);
    accepted(&pool.clone());
    assert_eq!(pool.connections(), 1);
    close(&pool);
    assert_eq!(pool.connections(), 0);
}

#[test]
fn a_closed_pool_refuses_messages_and_clients() {
    let server = Server::playing([HELLO, MESSAGE, QUIT].concat());
    let pool = pool(&server);
    accepted(&pool);
    close(&pool);
    assert!(matches!(send(&pool), Err(Error::PoolClosed)));
    assert!(matches!(block_on(pool.client()), Err(Error::PoolClosed)));
}

#[test]
fn a_client_returned_to_a_closed_pool_is_closed() {
    let server = Server::playing([HELLO, QUIT].concat());
    let pool = Pool::builder(builder(&server)).wait_limit(Duration::ZERO).build().unwrap();
    let client = block_on(pool.client()).unwrap();
    close(&pool);
    assert_eq!(pool.connections(), 1);
    drop(client);
    assert_eq!(pool.connections(), 0);
}

#[test]
fn an_idle_connection_that_the_server_closed_is_not_used() {
    let server =
        Server::playing_each([[HELLO, MESSAGE, "-- close"].concat(), [HELLO, MESSAGE, QUIT].concat()]);
    let pool = pool(&server);
    accepted(&pool);
    accepted(&pool);
}

#[test]
fn a_pooled_connection_that_dies_within_the_envelope_is_replaced() {
    let envelope = "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\n";
    for end in ["-- close", "-- reset", "S: 421 idle for too long\n-- close"] {
        let dying = [HELLO, MESSAGE, envelope, end].concat();
        let server = Server::playing_each([dying, [HELLO, MESSAGE, QUIT].concat()]);
        let pool = pool(&server);
        accepted(&pool);
        accepted(&pool);
        assert_eq!(pool.connections(), 1, "{end}");
    }
}

#[test]
fn a_message_whose_content_was_sent_is_not_sent_again() {
    let half = "C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<bob@example.org>
         C: DATA
         S: 250 ok
         S: 250 ok
         S: 354 go on
         C: Hello
         C: .
         -- close";
    let server = Server::playing([HELLO, MESSAGE, half].concat());
    let pool = pool(&server);
    accepted(&pool);
    assert!(send(&pool).unwrap_err().in_doubt());
    assert_eq!(pool.connections(), 0);
}

#[test]
fn a_new_connection_that_dies_is_not_replaced() {
    let server = Server::playing(
        [HELLO, "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\n-- close"].concat(),
    );
    let pool = pool(&server);
    let error = send(&pool).unwrap_err();
    assert_eq!(outcome(&error), Outcome::NotSent);
    assert_eq!(pool.connections(), 0);
}

#[test]
fn a_pool_opens_no_more_connections_than_allowed() {
    let server = Server::playing_each([[HELLO, QUIT].concat(), [HELLO, QUIT].concat()]);
    let pool = Pool::builder(builder(&server)).max_connections(2).wait_limit(Duration::from_millis(50));
    let pool = pool.build().unwrap();
    let first = block_on(pool.client()).unwrap();
    let second = block_on(pool.client()).unwrap();
    let error = send(&pool).unwrap_err();
    assert!(matches!(error, Error::Timeout(Phase::Pool)), "{error:?}");
    drop(first);
    drop(block_on(pool.client()).unwrap());
    drop(second);
    assert_eq!(pool.connections(), 2);
}

#[test]
fn a_waiter_gets_the_connection_that_is_returned() {
    let server = Server::playing([HELLO, MESSAGE, QUIT].concat());
    let pool = Pool::builder(builder(&server)).max_connections(1).build().unwrap();
    let held = block_on(pool.client()).unwrap();
    let waiting = std::thread::spawn({
        let pool = pool.clone();
        move || send(&pool).map(drop)
    });
    // The result is the same whether the other thread waits already or comes later.
    std::thread::yield_now();
    drop(held);
    waiting.join().unwrap().unwrap();
}

#[test]
fn a_deadline_covers_the_wait_for_a_connection() {
    let server = Server::playing([HELLO, QUIT].concat());
    let limited = builder(&server).deadline(Duration::from_millis(300));
    let pool = Pool::builder(limited).max_connections(1).build().unwrap();
    let held = block_on(pool.client()).unwrap();
    let start = Instant::now();
    assert!(matches!(send(&pool), Err(Error::Timeout(Phase::Pool))));
    assert!(start.elapsed() < Duration::from_secs(3));
    drop(held);
}

#[test]
fn a_connection_takes_no_more_messages_than_allowed() {
    let once = [HELLO, MESSAGE, QUIT].concat();
    let server = Server::playing_each([once.clone(), once]);
    let pool = Pool::builder(builder(&server)).max_messages(1).build().unwrap();
    accepted(&pool);
    assert_eq!(pool.connections(), 0);
    accepted(&pool);
}

#[test]
fn a_connection_past_its_maximum_age_is_not_kept() {
    let server = Server::playing([HELLO, MESSAGE, QUIT].concat());
    let pool = Pool::builder(builder(&server)).max_age(Duration::ZERO).build().unwrap();
    accepted(&pool);
    assert_eq!(pool.connections(), 0);
}

#[test]
fn a_connection_that_was_idle_for_too_long_is_closed_with_quit() {
    let server = Server::playing_each([[HELLO, MESSAGE, QUIT].concat(), [HELLO, MESSAGE, QUIT].concat()]);
    let pool = Pool::builder(builder(&server)).idle_limit(Duration::ZERO).build().unwrap();
    accepted(&pool);
    accepted(&pool);
}

#[test]
fn a_client_that_lost_its_connection_is_not_kept_in_the_pool() {
    let server = Server::playing([HELLO, "C: NOOP\nS: 250-what\n-- close"].concat());
    let pool = pool(&server);
    let mut client = block_on(pool.client()).unwrap();
    block_on(client.noop()).unwrap_err();
    drop(client);
    assert_eq!(pool.connections(), 0);
}

#[test]
fn a_failed_connection_takes_no_place_in_the_pool() {
    let server = Server::playing("S: 554 no");
    let pool = Pool::builder(builder(&server)).max_connections(1).build().unwrap();
    send(&pool).unwrap_err();
    assert_eq!(pool.connections(), 0);
}

#[test]
fn a_pool_keeps_to_its_rate_and_refuses_invalid_rates() {
    let server = Server::playing([HELLO, MESSAGE, MESSAGE, MESSAGE, QUIT].concat());
    let pool = Pool::builder(builder(&server)).max_rate(20.0).build().unwrap();
    let start = Instant::now();
    (0..3).for_each(|_| accepted(&pool));
    assert!(start.elapsed() >= Duration::from_millis(100), "{:?}", start.elapsed());
    for rate in [0.0, -1.0, f64::NAN] {
        assert!(matches!(Pool::builder(builder(&server)).max_rate(rate).build(), Err(Error::Config(_))));
    }
}

#[test]
fn invalid_pool_settings_fail_at_once() {
    assert!(matches!(Pool::builder(Client::builder("a\0b")).build(), Err(Error::Config(_))));
}

#[test]
fn a_batch_goes_over_one_connection_of_the_pool() {
    let rest = "S: 250 ok\nS: 250 ok\nS: 354 go on\nC: Hello\nC: .\nS: 250 ok\n";
    let server = Server::playing([HELLO, JOINED, rest, QUIT].concat());
    let pool = pool(&server);
    let mut batch = block_on(pool.send_all([mail(), mail()])).unwrap();
    for index in 0..2 {
        let (number, result) = block_on(batch.next()).unwrap();
        assert_eq!((number, result.unwrap().outcome()), (index, Outcome::Accepted));
    }
    assert!(block_on(batch.next()).is_none());
    drop(batch);
    assert_eq!(pool.connections(), 1);
    close(&pool);
}

#[test]
fn dropping_a_batch_of_a_pool_midway_closes_its_connection() {
    let server = Server::playing([HELLO, JOINED].concat());
    let pool = pool(&server);
    let mut batch = block_on(pool.send_all([mail(), mail()])).unwrap();
    assert_eq!(block_on(batch.next()).unwrap().0, 0);
    drop(batch);
    assert_eq!(pool.connections(), 0);
}

#[test]
fn the_deadline_of_the_last_call_does_not_apply_to_the_next_message() {
    let server = Server::playing([HELLO, "C: NOOP\nS: 250 ok\n", MESSAGE, QUIT].concat());
    let pool = pool(&server);
    let limit = Duration::from_millis(500);
    let mut client = block_on(pool.client()).unwrap();
    block_on(client.next_call_deadline(limit).noop()).unwrap();
    drop(client);
    std::thread::sleep(limit); // it has passed then
    accepted(&pool);
}

#[test]
fn a_deadline_restarts_with_each_message_over_the_same_connection() {
    let server = Server::playing([HELLO, MESSAGE, MESSAGE, QUIT].concat());
    let limit = Duration::from_secs(1);
    let pool = Pool::builder(builder(&server).deadline(limit)).build().unwrap();
    accepted(&pool);
    std::thread::sleep(limit); // that of the first message has passed then
    accepted(&pool);
}

#[test]
fn time_limits_set_on_a_client_end_when_it_is_returned() {
    let server = Server::playing([HELLO, MESSAGE, "C: NOOP\nS: 250 ok\n", QUIT].concat());
    let pool = pool(&server);
    let mut client = block_on(pool.client()).unwrap();
    client.set_timeout(Duration::ZERO);
    client.set_deadline(Some(Duration::ZERO));
    client.next_call_deadline(Duration::ZERO);
    drop(client);
    accepted(&pool);
    block_on(block_on(pool.client()).unwrap().noop()).unwrap();
}

#[test]
fn a_client_that_was_logged_in_by_its_user_is_not_given_to_another() {
    let login = "-- hello AUTH PLAIN\nC: AUTH PLAIN AHVzZXIAc2VjcmV0\nS: 235 welcome\nC: QUIT\n".to_owned();
    let server = Server::playing_each([login, [HELLO, MESSAGE, QUIT].concat()]);
    let pool = pool(&server);
    let mut client = block_on(pool.client()).unwrap();
    block_on(client.login("user", "secret")).unwrap();
    drop(client);
    assert_eq!(pool.connections(), 0);
    accepted(&pool);
}

#[test]
fn a_connection_idle_for_too_long_is_closed_even_if_another_is_used() {
    let server = Server::playing_each([[HELLO, QUIT].concat(), [HELLO, MESSAGE, QUIT].concat()]);
    let limit = Duration::from_secs(1);
    let pool = Pool::builder(builder(&server)).idle_limit(limit).build().unwrap();
    let first = block_on(pool.client()).unwrap();
    let second = block_on(pool.client()).unwrap();
    drop(first);
    std::thread::sleep(limit);
    drop(second);
    accepted(&pool);
    assert_eq!(pool.connections(), 1);
}

#[test]
fn closing_a_pool_ends_the_wait_for_a_turn() {
    let server = Server::playing([HELLO, MESSAGE, QUIT].concat());
    let pool = Pool::builder(builder(&server)).max_rate(0.1).build().unwrap();
    accepted(&pool);
    let start = Instant::now();
    let waiting = std::thread::spawn({
        let pool = pool.clone();
        move || send(&pool).map(drop)
    });
    // The result is the same whether the other thread waits already or comes later.
    std::thread::yield_now();
    close(&pool);
    assert!(matches!(waiting.join().unwrap(), Err(Error::PoolClosed)));
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}

#[test]
fn an_unread_reader_is_sent_over_a_new_connection() {
    let envelope_only = "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\n-- close";
    let server =
        Server::playing_each([[HELLO, MESSAGE, envelope_only].concat(), [HELLO, MESSAGE, QUIT].concat()]);
    let pool = pool(&server);
    accepted(&pool);
    let once = postino::Raw::reader(envelope(&["bob@example.org"]), &b"Hello\r\n"[..]);
    assert_eq!(block_on(pool.send(&once)).unwrap().outcome(), Outcome::Accepted);
    assert!(matches!(block_on(pool.send(&once)), Err(Error::Message(_))));
}

/// A mail whose content can be taken only once, whatever becomes of it.
struct GivenAway(std::sync::Mutex<Option<&'static [u8]>>);

impl postino::Mail for GivenAway {
    fn envelope(&self) -> Result<postino::Envelope, Error> {
        Ok(envelope(&["bob@example.org"]))
    }

    fn body(&self) -> Result<postino::message::Body<'_>, Error> {
        let content = self.0.lock().unwrap().take();
        content.map(postino::message::Body::reader).ok_or(Error::Message("it was given away".into()))
    }
}

#[test]
fn a_message_without_its_content_keeps_the_error_of_the_dead_connection() {
    let envelope_only = "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\n-- close";
    let server = Server::playing_each([[HELLO, MESSAGE, envelope_only].concat(), [HELLO, QUIT].concat()]);
    let pool = pool(&server);
    accepted(&pool);
    let error = block_on(pool.send(&GivenAway(Some(&b"Hello\r\n"[..]).into()))).unwrap_err();
    assert_eq!(outcome(&error), Outcome::NotSent);
    drop(block_on(pool.client()).unwrap());
}

#[test]
fn the_rest_of_a_batch_whose_pooled_connection_is_lost_stays_in_the_iterator() {
    let server = Server::playing_each([
        [HELLO, "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\n-- close"].concat(),
        [HELLO, MESSAGE, QUIT].concat(),
    ]);
    let pool = pool(&server);
    let mut mails = vec![mail(), mail(), mail()].into_iter();
    let mut batch = block_on(pool.send_all(mails.by_ref())).unwrap();
    let (_, result) = block_on(batch.next()).unwrap();
    assert_eq!(outcome(&result.unwrap_err()), Outcome::NotSent);
    assert!(block_on(batch.next()).is_none() && batch.is_lost());
    drop(batch);
    assert_eq!(mails.len(), 2);
    accepted(&pool);
}

#[test]
fn a_connection_that_its_user_has_changed_is_not_given_to_another() {
    for said in [
        "C: HELO client.example.org\nS: 250 hi\n",
        "C: EHLO other.example.org\nS: 250 hi\n",
        "C: XCLIENT NAME=other.example.org\nS: 220 hi\n",
        "C: XCLIENT NAME=other.example.org\nS: 220 hi\nC: RSET\nS: 250 ok\n",
        "C: AUTH PLAIN AHVzZXIAc2VjcmV0\nS: 535 no\n",
        "C: MAIL FROM:<alice@example.org>\nS: 250 ok\n",
        "C: MAIL FROM:<alice@example.org>\nS: 250 ok\nC: RCPT TO:<bob@example.org>\nS: 550 no\n",
        "C: NOOP\nS: 250 ok\n", // sent as a custom command
    ] {
        let changed = ["-- hello PIPELINING, AUTH PLAIN\n", said, QUIT].concat();
        let server = Server::playing_each([changed, [HELLO, MESSAGE, QUIT].concat()]);
        let pool = pool(&server);
        let mut client = block_on(pool.client()).unwrap();
        for line in said.lines().filter_map(|line| line.strip_prefix("C: ")) {
            match line.split(' ').next().unwrap() {
                "HELO" => drop(block_on(client.helo(None)).unwrap()),
                "EHLO" => drop(block_on(client.ehlo(Some("other.example.org"))).unwrap()),
                "AUTH" => drop(block_on(client.login("user", "secret")).unwrap_err()),
                "MAIL" => drop(block_on(client.mail("alice@example.org", &[])).unwrap()),
                "RCPT" => drop(block_on(client.rcpt("bob@example.org", &[])).unwrap_err()),
                "RSET" => drop(block_on(client.rset()).unwrap()),
                _ => drop(block_on(client.command(line)).unwrap()),
            }
        }
        drop(client);
        assert_eq!(pool.connections(), 0, "{said}");
        accepted(&pool);
    }
}

#[test]
fn a_connection_that_its_user_has_left_as_it_was_is_kept() {
    let said = "C: EHLO client.example.org
         S: 250-hi
         S: 250 PIPELINING
         C: MAIL FROM:<alice@example.org>
         S: 250 ok
         C: RSET
         S: 250 ok
         C: HELP
         S: 214 none
         C: RSET
         S: 250 ok\n";
    let server = Server::playing([HELLO, said, MESSAGE, QUIT].concat());
    let pool = pool(&server);
    let mut client = block_on(pool.client()).unwrap();
    block_on(client.ehlo(None)).unwrap();
    block_on(client.mail("alice@example.org", &[])).unwrap();
    block_on(client.rset()).unwrap();
    block_on(client.command("HELP")).unwrap();
    block_on(client.rset()).unwrap();
    drop(client);
    accepted(&pool);
}

#[test]
fn a_transaction_with_a_refusal_does_not_affect_the_next_user_of_a_connection() {
    let refused = "C: MAIL FROM:<alice@example.org>
         C: RCPT TO:<bob@example.org>
         C: DATA
         S: 250 ok
         S: 550 no
         S: 503 no recipients
         C: RSET
         S: 250 ok
         C: RCPT TO:<carol@example.org>
         S: 503 no MAIL
         C: QUIT\n";
    let server = Server::playing([HELLO, refused].concat());
    let pool = pool(&server);
    send(&pool).unwrap_err();
    let mut client = block_on(pool.client()).unwrap();
    block_on(client.rcpt("carol@example.org", &[])).unwrap_err();
    drop(client);
}

/// Refuses any login, with and without a mechanism that hides the password.
const NO_LOGIN: &str = "-- hello AUTH PLAIN
     C: AUTH PLAIN AHVzZXIAc2VjcmV0
     S: 535 5.7.8 wrong password\n";

const LOGIN: &str = "-- hello PIPELINING, AUTH PLAIN
     C: AUTH PLAIN AHVzZXIAc2VjcmV0
     S: 235 welcome\n";

#[test]
fn a_pool_with_a_wrong_password_tries_it_once() {
    let server = Server::playing(NO_LOGIN);
    let pool = Pool::builder(builder(&server).credentials("user", "secret")).build().unwrap();
    for _ in 0..10 {
        let error = send(&pool).unwrap_err();
        assert_eq!(error.reply().unwrap().to_string(), "535 5.7.8 wrong password");
        assert!(matches!(error, Error::Auth { .. }) && error.is_permanent(), "{error:?}");
        assert!(matches!(block_on(pool.client()), Err(Error::Auth { .. })));
    }
    assert_eq!(pool.connections(), 0);
}

#[test]
fn a_pool_logs_in_again_after_the_pause() {
    let server = Server::playing_in_turn([NO_LOGIN, NO_LOGIN]);
    let pool = Pool::builder(builder(&server).credentials("user", "secret"));
    let pool = pool.login_pause(Duration::from_millis(300)).build().unwrap();
    send(&pool).unwrap_err();
    send(&pool).unwrap_err();
    std::thread::sleep(Duration::from_millis(300));
    send(&pool).unwrap_err();
}

#[test]
fn a_logged_in_connection_serves_while_new_logins_are_refused() {
    let server = Server::playing_each([[LOGIN, MESSAGE, MESSAGE, QUIT].concat(), NO_LOGIN.to_owned()]);
    let pool = Pool::builder(builder(&server).credentials("user", "secret")).build().unwrap();
    let first = block_on(pool.client()).unwrap();
    for _ in 0..2 {
        assert!(matches!(send(&pool), Err(Error::Auth { .. })));
    }
    drop(first);
    accepted(&pool);
    accepted(&pool);
}

#[test]
fn many_users_of_a_pool_do_not_try_a_wrong_password_at_once() {
    let server = Server::playing(NO_LOGIN);
    let pool = Pool::builder(builder(&server).credentials("user", "secret")).build().unwrap();
    let users: Vec<_> = (0..10)
        .map(|_| {
            let pool = pool.clone();
            std::thread::spawn(move || send(&pool).map(drop))
        })
        .collect();
    for user in users {
        assert!(matches!(user.join().unwrap(), Err(Error::Auth { reply: Some(_), .. })));
    }
}

#[test]
fn a_temporarily_refused_login_does_not_delay_the_next() {
    let later = "-- hello AUTH PLAIN\nC: AUTH PLAIN AHVzZXIAc2VjcmV0\nS: 454 not now\n";
    let login = [LOGIN, MESSAGE, QUIT].concat();
    let server = Server::playing_each([later.to_owned(), login]);
    let pool = Pool::builder(builder(&server).credentials("user", "secret")).build().unwrap();
    assert!(send(&pool).unwrap_err().is_transient());
    accepted(&pool);
}

#[test]
fn a_dead_connection_is_replaced_even_if_others_are_waiting() {
    let dying = "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\n-- close";
    let server =
        Server::playing_each([[HELLO, MESSAGE, dying].concat(), [HELLO, MESSAGE, MESSAGE, QUIT].concat()]);
    let pool = Pool::builder(builder(&server)).max_connections(1).build().unwrap();
    accepted(&pool);
    let other = std::thread::spawn({
        let pool = pool.clone();
        move || send(&pool).map(drop)
    });
    accepted(&pool);
    other.join().unwrap().unwrap();
}
