//! The commands of logins, and their results. Compiled for both clients.

use std::{
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use postino::{
    Envelope, Error, Raw,
    auth::{Answer, Mechanism},
};

use super::{Builder, Client, Pool, block_on, maybe_async, password_from, token_from};
use crate::{
    b64, hello,
    support::{Server, journal},
};

/// Logs in and disconnects, against a server that offers these mechanisms and then plays the transcript.
fn log_in(mechanisms: &str, transcript: &str, set: impl FnOnce(Builder) -> Builder) -> Result<(), Error> {
    against(Server::playing(hello(mechanisms) + transcript), set)
}

fn against(server: Server, set: impl FnOnce(Builder) -> Builder) -> Result<(), Error> {
    let builder = crate::builder!(Client, server).deadline(Duration::from_secs(20));
    let result = block_on(set(builder).connect()).map(|mut client| client.close());
    server.finish();
    result
}

fn xoauth2(token: &str) -> String {
    format!("C: AUTH XOAUTH2 {}\n", b64(format!("user=u\x01auth=Bearer {token}\x01\x01")))
}

#[test]
fn a_token_is_sent_with_xoauth2() {
    let transcript = xoauth2("t0ken") + "S: 235 in";
    log_in("PLAIN XOAUTH2", &transcript, |b| b.oauth_token("u", "t0ken")).unwrap();
}

#[test]
fn a_token_is_preferably_sent_with_oauthbearer_which_names_the_server() {
    let server = Server::playing_with_port(|port| {
        let initial = b64(format!("n,a=u,\x01host=127.0.0.1\x01port={port}\x01auth=Bearer t0ken\x01\x01"));
        format!("{}C: AUTH OAUTHBEARER {initial}\nS: 235 in", hello("XOAUTH2 OAUTHBEARER"))
    });
    against(server, |b| b.oauth_token("u", "t0ken")).unwrap();
}

// Behaviour 70.
#[test]
fn a_refused_token_is_explained() {
    let json = r#"{"status":"400","schemes":"Bearer"}"#;
    let transcript = format!("{}S: 334 {}\nC: \nS: 535 5.7.8 no", xoauth2("t0ken"), b64(json));
    let error = log_in("XOAUTH2", &transcript, |b| b.oauth_token("u", "t0ken")).unwrap_err();
    assert!(error.is_permanent());
    let Error::Auth { details, reply, .. } = error else { panic!("{error:?}") };
    assert_eq!((details.as_deref(), reply.unwrap().code()), (Some(json), 535));
}

#[test]
fn a_token_that_makes_the_line_too_long_waits_for_the_challenge() {
    let token = "x".repeat(1000);
    let answer = b64(format!("user=u\x01auth=Bearer {token}\x01\x01"));
    let transcript = format!("C: AUTH XOAUTH2\nS: 334 \nC: {answer}\nS: 235 in");
    log_in("XOAUTH2", &transcript, |b| b.oauth_token("u", token.as_str())).unwrap();
}

/// Returns `token-0`, `token-1` …, and counts the calls.
fn counted(builder: Builder, asked: &Arc<AtomicUsize>) -> Builder {
    let asked = Arc::clone(asked);
    token_from(builder, move || Ok(format!("token-{}", asked.fetch_add(1, Ordering::SeqCst))))
}

// Behaviour 71.
#[test]
fn a_token_is_requested_once_more_if_it_is_refused() {
    let refused = "S: 334 e30=\nC: \nS: 535 5.7.8 expired\n";
    for (transcript, asked, good) in [
        (xoauth2("token-0") + "S: 235 in", 1, true),
        (xoauth2("token-0") + refused + &xoauth2("token-1") + "S: 235 in", 2, true),
        (xoauth2("token-0") + refused + &xoauth2("token-1") + refused, 2, false),
        (xoauth2("token-0") + "S: 454 not now\n", 1, false),
    ] {
        let count = Arc::new(AtomicUsize::new(0));
        let result = log_in("PLAIN XOAUTH2", &transcript, |b| counted(b, &count));
        assert_eq!((result.is_ok(), count.load(Ordering::SeqCst)), (good, asked), "{transcript}");
    }
    let count = Arc::new(AtomicUsize::new(0));
    let error = log_in("PLAIN", "", |b| counted(b, &count)).unwrap_err();
    assert!(matches!(error, Error::Auth { reply: None, .. }), "{error:?}");
    assert_eq!(count.load(Ordering::SeqCst), 0, "there is nothing to use it for");
}

#[test]
fn a_token_that_oauthbearer_refuses_is_asked_for_once_more() {
    let server = Server::playing_with_port(|port| {
        let initial = |token: &str| {
            b64(format!("n,a=u,\x01host=127.0.0.1\x01port={port}\x01auth=Bearer {token}\x01\x01"))
        };
        let (old, new) = (initial("token-0"), initial("token-1"));
        let expired = b64(r#"{"status":"invalid_token"}"#);
        let refused = format!("S: 334 {expired}\nC: {}\nS: 535 5.7.8 expired\n", b64("\x01"));
        let login = format!("C: AUTH OAUTHBEARER {old}\n{refused}C: AUTH OAUTHBEARER {new}\nS: 235 in");
        hello("PLAIN OAUTHBEARER") + &login
    });
    let count = Arc::new(AtomicUsize::new(0));
    against(server, |b| counted(b, &count)).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[test]
fn the_error_of_a_failed_token_callback_is_reported() {
    let error = log_in("XOAUTH2", "", |b| token_from(b, || Err("no network"))).unwrap_err();
    assert!(matches!(error, Error::Token { .. }), "{error:?}");
    assert_eq!(error.source().unwrap().to_string(), "no network");
    let error = log_in("XOAUTH2", "", |b| token_from(b, || Ok("with a line ending\n".into()))).unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error:?}");
}

fn plain(password: &str) -> String {
    format!("C: AUTH PLAIN {}\n", b64(format!("\0u\0{password}")))
}

/// Returns `password-0`, `password-1` …, and counts the calls.
fn counted_passwords(builder: Builder, asked: &Arc<AtomicUsize>) -> Builder {
    let asked = Arc::clone(asked);
    password_from(builder, move || Ok(format!("password-{}", asked.fetch_add(1, Ordering::SeqCst))))
}

#[test]
fn a_password_is_requested_once_more_if_it_is_refused() {
    for (transcript, asked, good) in [
        (plain("password-0") + "S: 235 in", 1, true),
        (plain("password-0") + "S: 535 5.7.8 no\n" + &plain("password-1") + "S: 235 in", 2, true),
        (plain("password-0") + "S: 550 no\n" + &plain("password-1") + "S: 535 5.7.8 no", 2, false),
        (plain("password-0") + "S: 454 not now\n", 1, false),
        (plain("password-0") + "S: 534 too weak\n", 1, false),
    ] {
        let count = Arc::new(AtomicUsize::new(0));
        let result = log_in("PLAIN XOAUTH2", &transcript, |b| counted_passwords(b, &count));
        assert_eq!((result.is_ok(), count.load(Ordering::SeqCst)), (good, asked), "{transcript}");
    }
    let count = Arc::new(AtomicUsize::new(0));
    let error = log_in("XOAUTH2", "", |b| counted_passwords(b, &count)).unwrap_err();
    assert!(matches!(error, Error::Auth { reply: None, .. }), "{error:?}");
    assert_eq!(count.load(Ordering::SeqCst), 0, "there is nothing to use it for");
}

#[test]
fn a_second_password_is_used_only_if_it_differs() {
    // The same password is only tried with another mechanism, as without a callback.
    let login =
        format!("C: AUTH LOGIN\nS: 334 VXNlcg==\nC: {}\nS: 334 UGFzcw==\nC: {}\n", b64("u"), b64("p"));
    let transcript = plain("p") + "S: 535 no\n" + &login + "S: 235 in";
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    let ask = move || {
        asked.fetch_add(1, Ordering::SeqCst);
        Ok("p".to_owned())
    };
    log_in("PLAIN LOGIN", &transcript, |b| password_from(b, ask)).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 2);
    let error = log_in("PLAIN", &(plain("p") + "S: 535 no"), |b| password_from(b, || Ok("p".into())));
    assert_eq!(error.unwrap_err().reply().unwrap().code(), 535);
}

#[test]
fn the_error_of_a_failed_password_callback_is_reported() {
    let error = log_in("PLAIN", "", |b| password_from(b, || Err("the keyring is locked"))).unwrap_err();
    assert!(matches!(error, Error::Password { .. }), "{error:?}");
    assert_eq!(error.to_string(), "could not obtain the password: the keyring is locked");
    assert_eq!(error.source().unwrap().to_string(), "the keyring is locked");
    assert!(!error.is_transient() && !error.is_permanent());
    let error = log_in("PLAIN", "", |b| password_from(b, || Ok("nul\0".into()))).unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error:?}");
    let error = log_in("PLAIN", &(plain("") + "S: 535 no"), |b| password_from(b, || Ok(String::new())));
    assert_eq!(error.unwrap_err().reply().unwrap().code(), 535, "an empty password is a password");
}

// Threat 70.
#[test]
fn neither_the_first_nor_the_second_password_of_a_callback_is_shown() {
    journal::begin();
    let said = format!("S: 535 password-0 {} password-1 {}\n", b64("password-0"), b64("xpassword-1x"));
    let transcript = plain("password-0") + "S: 535 no\n" + &plain("password-1") + &said;
    let count = Arc::new(AtomicUsize::new(0));
    let set = |b: Builder| counted_passwords(b, &count);
    let error = log_in("PLAIN", &transcript, set).unwrap_err();
    let mut seen = format!("{error} {error:?} {error:#?} {:?}", set(Client::builder("h")));
    seen += &journal::lines_with("").join("\n");
    for password in ["password-0", "password-1"] {
        let secrets = [password.to_owned(), b64(password), b64(format!("\0u\0{password}"))];
        assert!(secrets.iter().all(|secret| !seen.contains(secret)), "{password}: {seen}");
    }
}

#[maybe_async]
async fn two_messages(pool: &Pool) -> Result<(), Error> {
    let mail = Raw::bytes(Envelope::new("alice@example.org", ["bob@example.org"])?, "Hello\r\n");
    pool.send(&mail).await?;
    pool.send(&mail).await?;
    pool.close().await;
    Ok(())
}

#[test]
fn a_pool_asks_for_the_password_of_each_connection() {
    let transaction = "-- envelope\nC: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 250 ok\nC: QUIT\nS: 221 bye";
    let session = |login: &str| format!("{}{login}S: 235 in\n{transaction}", hello("PLAIN"));
    let server = Server::playing_each([session(&plain("password-0")), session(&plain("password-1"))]);
    let count = Arc::new(AtomicUsize::new(0));
    let builder =
        counted_passwords(crate::builder!(Client, server).deadline(Duration::from_secs(20)), &count);
    block_on(two_messages(&Pool::builder(builder).max_messages(1).build().unwrap())).unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 2);
    server.finish();
}

#[derive(Clone)]
struct Ticket(Vec<u8>);

impl Mechanism for Ticket {
    fn name(&self) -> &str {
        "X-TICKET"
    }

    fn answer(&mut self, challenge: &[u8]) -> Answer {
        self.0.extend_from_slice(challenge);
        Answer::Respond(self.0.clone())
    }
}

#[test]
fn external_anonymous_and_custom_mechanisms_log_in() {
    log_in("PLAIN EXTERNAL", "C: AUTH EXTERNAL =\nS: 235 in", |b| b.external("")).unwrap();
    let transcript = format!("C: AUTH ANONYMOUS {}\nS: 235 in", b64("a@b"));
    log_in("PLAIN ANONYMOUS", &transcript, |b| b.anonymous("a@b")).unwrap();
    let (challenge, answer) = (b64("!"), b64("no. 7!"));
    let transcript = format!("C: AUTH X-TICKET\nS: 334 {challenge}\nC: {answer}\nS: 235 in");
    log_in("PLAIN X-TICKET", &transcript, |b| b.auth_mechanism(Ticket(b"no. 7".into()))).unwrap();
}

#[test]
fn the_last_login_that_was_set_counts() {
    let transcript = format!("C: AUTH PLAIN {}\nS: 235 in", b64("\0u\0p"));
    log_in("XOAUTH2 EXTERNAL PLAIN", &transcript, |b| {
        token_from(b.oauth_token("u", "t").external("x"), || Err("must not be asked")).credentials("u", "p")
    })
    .unwrap();
    log_in("PLAIN XOAUTH2", &(xoauth2("t") + "S: 235 in"), |b| {
        token_from(b.credentials("u", "p"), || Err("must not be asked")).oauth_token("u", "t")
    })
    .unwrap();
    log_in("PLAIN XOAUTH2", &(xoauth2("t") + "S: 235 in"), |b| {
        token_from(password_from(b, || Err("must not be asked")), || Ok("t".to_owned()))
    })
    .unwrap();
}

#[test]
fn invalid_logins_fail_before_connecting() {
    let builder = || Client::builder("127.0.0.1").port(1); // nobody listens there
    for (builder, why) in [
        (builder().credentials("u", "p").auth_mechanisms(["XOAUTH2"]), "fits the credentials"),
        (builder().credentials("u", "p").auth_mechanisms([""; 0]), "fits the credentials"),
        (builder().credentials("u", "p").auth_mechanisms(["a b"]), "AUTH mechanism name"),
        (builder().credentials("u", "p").max_scram_iterations(4095), "4096"),
        (builder().oauth_token("u", "t\n"), "token"),
        (builder().oauth_token("", "t"), "user"),
        (token_from(builder(), || Err("not asked")).oauth_token("u\0", "t"), "user"),
        (builder().external("\0"), "NUL"),
        (password_from(builder(), || Err("not asked")).auth_mechanisms(["XOAUTH2"]), "fits the credentials"),
        (builder().anonymous("\n"), "ANONYMOUS"),
    ] {
        let error = block_on(builder.connect()).unwrap_err();
        assert!(matches!(&error, Error::Config(what) if what.contains(why)), "{why}: {error:?}");
    }
    #[cfg(not(feature = "sasl"))]
    for name in ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "scram-sha-1", "CRAM-MD5"] {
        let error = block_on(builder().credentials("u", "p").auth_mechanisms(["PLAIN", name]).connect());
        assert!(matches!(&error, Err(Error::Config(what)) if what.contains("`sasl`")), "{error:?}");
    }
}

// Threat 70.
#[test]
fn neither_log_nor_debug_nor_error_shows_a_secret() {
    journal::begin();
    let (password, token) = ("hunter2-password", "hunter2-token");
    let plain = b64(format!("\0u\0{password}"));
    let transcript = format!(
        "C: AUTH PLAIN {plain}\nS: 535-you said {plain}\nS: 535 {password}\nC: AUTH LOGIN\nS: 334 {0}\nC: {1}\n\
         S: 334 {0}\nC: {0}\nS: 535 {0}",
        b64(password),
        b64("u"),
    );
    let set = |b: Builder| b.credentials("u", password);
    let error = log_in("PLAIN LOGIN", &transcript, set).unwrap_err();
    let mut seen = format!("{error} {error:?} {:?}", set(Client::builder("h")));
    let transcript = xoauth2(token) + "S: 334 " + &b64(format!("[{token}]")) + "\nC: \nS: 535 " + token;
    let set = |b: Builder| b.oauth_token("u", token);
    let error = log_in("XOAUTH2", &transcript, set).unwrap_err();
    seen += &format!("{error} {error:?} {:?}", set(Client::builder("h")));
    let log = journal::lines_with("").join("\n");
    assert!(log.contains("C: AUTH PLAIN ***") && log.contains("C: AUTH XOAUTH2 ***"), "{log}");
    seen += &log;
    for secret in [password, token, &plain, &b64(password), &b64(token), &b64(format!("[{token}]"))] {
        assert!(!seen.contains(secret), "{secret}: {seen}");
    }
}

#[maybe_async]
async fn goes_on(transcript: &str) -> Result<(), Error> {
    let server = Server::playing(hello("X-TICKET PLAIN") + transcript);
    let mut client = crate::builder!(Client, server).connect().await?;
    let error = client.login("u", "p").await.unwrap_err();
    assert!(matches!(error, Error::Auth { .. }), "{error:?}");
    client.noop().await?;
    client.close();
    server.finish();
    Ok(())
}

#[test]
fn after_a_refused_login_the_connection_can_be_used() {
    let plain = b64("\0u\0p");
    block_on(goes_on(&format!("C: AUTH PLAIN {plain}\nS: 535 no\nC: NOOP\nS: 250 ok"))).unwrap();
}

/// A mechanism that asks for proof, and gets none.
#[derive(Clone)]
struct Sceptic;

impl Mechanism for Sceptic {
    fn name(&self) -> &str {
        "X-SCEPTIC"
    }

    fn initial(&mut self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }

    fn answer(&mut self, _: &[u8]) -> Answer {
        Answer::Cancel("all was said".to_owned())
    }

    fn finish(&mut self, text: &str) -> Result<(), String> {
        if text.contains("proof") { Ok(()) } else { Err("no proof".to_owned()) }
    }
}

#[test]
fn a_custom_mechanism_can_reject_a_server_that_proves_nothing() {
    let play = |text: &str| {
        let transcript = format!("C: AUTH X-SCEPTIC =\nS: 235 {text}");
        log_in("X-SCEPTIC PLAIN", &transcript, |b| b.auth_mechanism(Sceptic))
    };
    play("with proof").unwrap();
    let error = play("welcome").unwrap_err();
    assert!(error.to_string().contains("no proof"), "{error}");
}
