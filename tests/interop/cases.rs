//! What is sent to each server, and what must have arrived. Compiled for both worlds.

use std::time::Duration;

use email_format::Email;
use postino::{Envelope, Error, Outcome, Raw, Security};

use super::{Builder, Client, block_on, maybe_async};
use crate::servers::{self, AIOSMTPD, EXIM, PASSWORD, POSTFIX, Server, USER};

/// All that makes a message hard to carry, with line ends as a Unix file has them.
fn message(token: &str, eight_bit: bool) -> Vec<u8> {
    let mut text = format!(
        "From: Bob <bob@lab.test>\nTo: alice@lab.test\nSubject: {token}\nDate: Thu, 1 Jan 2026 00:00:00 +0000\n\
         Message-ID: <{token}@lab.test>\nX-Folded: one\n\ttwo  \nMIME-Version: 1.0\n\
         Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n\
         .\n..\n.x\n...\nend.\n\ntrailing blank \n\ttab\t\nFrom the start\n>From\n"
    )
    .into_bytes();
    if eight_bit {
        text.extend_from_slice("é € ü\n".as_bytes());
        text.extend_from_slice(b"\xff\xfe\n");
    }
    text.extend_from_slice(&[b'x'; 998]);
    text.extend_from_slice(b"\n.\nlast, without an end");
    text
}

fn wire(text: &[u8]) -> Vec<u8> {
    let mut wire =
        text.iter().flat_map(|b| if *b == b'\n' { b"\r\n".to_vec() } else { vec![*b] }).collect::<Vec<_>>();
    wire.extend_from_slice(b"\r\n");
    wire
}

fn builder(port: u16, security: Security, login: bool) -> Builder {
    let builder = Client::builder("127.0.0.1").port(port).security(security).ca_certificate(servers::ca());
    let builder = builder.deadline(Duration::from_secs(60)).hello_name("client.lab.test");
    if login { builder.credentials(USER, PASSWORD) } else { builder }
}

/// Sends two messages over one connection, and compares what was stored.
#[maybe_async]
async fn arrives(server: &Server, builder: &Builder, eight_bit: bool) -> Result<(), Error> {
    let mut client = builder.connect().await?;
    for _ in 0..2 {
        let token = servers::token();
        let text = message(&token, eight_bit);
        let envelope = Envelope::new("bob@lab.test", ["alice@lab.test"]).unwrap();
        let delivery = client.send(&Raw::bytes(envelope, &text)).await?;
        assert_eq!(delivery.refused().count(), 0);
        let (stored, sent) = (server.stored(&token), server.as_stored(&wire(&text)));
        assert!(stored.ends_with(&sent), "{} stored {}", server.name, stored.escape_ascii());
    }
    client.quit().await
}

fn message_arrives_by_every_way(server: &Server) {
    if !server.is_up() {
        return;
    }
    for (port, security, login) in [
        (server.open, Security::Plaintext, false),
        (server.open, Security::StartTls, false),
        (server.submission, Security::StartTls, true),
        (server.implicit, Security::Implicit, true),
    ] {
        block_on(arrives(server, &builder(port, security, login), true)).unwrap();
    }
    if let Some(port) = server.clear {
        block_on(arrives(server, &builder(port, Security::Plaintext, true), true)).unwrap();
    }
    if let Some(port) = server.old {
        block_on(arrives(server, &builder(port, Security::Auto, false), false)).unwrap();
    }
}

#[test]
fn postfix_gets_what_was_sent() {
    message_arrives_by_every_way(&POSTFIX);
}

#[test]
fn exim_gets_what_was_sent() {
    message_arrives_by_every_way(&EXIM);
}

#[test]
fn aiosmtpd_gets_what_was_sent() {
    message_arrives_by_every_way(&AIOSMTPD);
}

/// Every server, and every test below.
fn each(test: impl Fn(&Server)) {
    [POSTFIX, EXIM, AIOSMTPD].iter().filter(|server| server.is_up()).for_each(test);
}

#[maybe_async]
async fn one_call(server: &Server) -> Result<(), Error> {
    let token = servers::token();
    let mut email = Email::new("Bob <bob@lab.test>", "Thu, 1 Jan 2026 00:00:00 +0000").unwrap();
    email.set_to("alice@lab.test").unwrap();
    email.set_bcc("bob@lab.test").unwrap();
    email.set_subject(token.as_str()).unwrap();
    email.set_body(".dots\r\n.\r\n").unwrap();
    let delivery = builder(server.open, Security::StartTls, false).send(&email).await?;
    assert_eq!(delivery.recipients().filter(|r| r.outcome() == Outcome::Accepted).count(), 2);
    let stored = String::from_utf8(server.stored(&token)).unwrap().replace("\r\n", "\n");
    assert!(stored.ends_with(&format!("To:alice@lab.test\nSubject:{token}\n\n.dots\n.\n")), "{stored}");
    Ok(())
}

#[test]
fn one_call_sends_an_email_without_its_bcc() {
    each(|server| block_on(one_call(server)).unwrap());
}

#[maybe_async]
async fn refusals(server: &Server) -> Result<(), Error> {
    let mut client = builder(server.open, Security::StartTls, false).connect().await?;
    let send = |to: &'static [&'static str]| Raw::bytes(Envelope::new("", to).unwrap(), "Subject: x\n\nx\n");

    let error = client.send(&send(&["nobody@lab.test"])).await.unwrap_err();
    assert!(error.is_permanent() && error.reply().unwrap().code() == 550, "{error:?}");
    let error = client.send(&send(&["greylist@lab.test"])).await.unwrap_err();
    assert!(error.is_transient() && error.reply().unwrap().code() == 451, "{error:?}");

    let delivery = client.send(&send(&["nobody@lab.test", "alice@lab.test", "greylist@lab.test"])).await?;
    let codes: Vec<_> = delivery.recipients().map(|r| r.reply().unwrap().code()).collect();
    assert_eq!(codes, [550, 250, 451]);
    client.noop().await?;
    client.rset().await?;
    client.quit().await
}

#[test]
fn refused_recipients_are_told_apart_and_the_session_goes_on() {
    each(|server| block_on(refusals(server)).unwrap());
}

#[test]
fn a_wrong_password_is_refused_for_good() {
    each(|server| {
        for (port, security) in
            [(server.submission, Security::StartTls), (server.implicit, Security::Implicit)]
        {
            let wrong = builder(port, security, false).credentials(USER, "wrong");
            let error = block_on(wrong.connect()).unwrap_err();
            assert!(
                matches!(error, Error::Auth { .. }) && error.is_permanent(),
                "{}: {error:?}",
                server.name
            );
            assert_eq!(error.reply().unwrap().code(), 535);
        }
    });
}

#[maybe_async]
async fn by_each_mechanism(server: &Server, port: u16, security: Security) -> Result<(), Error> {
    let way = builder(port, security, false);
    for name in server.mechanisms() {
        let mut client = way.clone().credentials(USER, PASSWORD).auth_mechanisms([name]).connect().await?;
        let offered: Vec<_> = client.capabilities().auth_mechanisms().collect();
        assert!(offered.iter().any(|offered| offered == name), "{}: {offered:?}", server.name);
        client.noop().await?;
        client.quit().await?;

        for (user, password) in [(USER, "wrong"), ("nobody@lab.test", PASSWORD)] {
            let wrong = way.clone().credentials(user, password).auth_mechanisms([name]);
            let error = wrong.connect().await.unwrap_err();
            let seen = format!("{} {name} {port}: {error:?}", server.name);
            assert!(matches!(error, Error::Auth { .. }) && error.is_permanent(), "{seen}");
            assert_eq!(error.reply().unwrap().code(), 535, "{seen}");
            assert!(!seen.contains("wrong") && !seen.contains(PASSWORD), "{seen}");
        }
    }
    Ok(())
}

#[test]
fn every_mechanism_lets_the_right_user_in_and_the_wrong_one_not() {
    each(|server| {
        block_on(by_each_mechanism(server, server.submission, Security::StartTls)).unwrap();
        block_on(by_each_mechanism(server, server.implicit, Security::Implicit)).unwrap();
        if let Some(port) = server.clear {
            block_on(by_each_mechanism(server, port, Security::Plaintext)).unwrap();
        }
    });
}

#[maybe_async]
async fn after_refusals(server: &Server) -> Result<(), Error> {
    let mut client = builder(server.implicit, Security::Implicit, false).connect().await?;
    let error = client.login(USER, "wrong").await.unwrap_err();
    assert_eq!(error.reply().unwrap().code(), 535, "{}: {error:?}", server.name);
    client.login(USER, PASSWORD).await?;
    client.quit().await
}

#[test]
fn a_login_may_follow_one_that_every_mechanism_refused() {
    each(|server| block_on(after_refusals(server)).unwrap());
}

#[test]
fn a_certificate_that_is_not_for_us_is_refused() {
    each(|server| {
        for (port, security) in [(server.open, Security::StartTls), (server.implicit, Security::Implicit)] {
            let other_name = builder(port, security, false).tls_name("other.example");
            let no_ca = Client::builder("127.0.0.1").port(port).security(security);
            for builder in [other_name, no_ca] {
                let error = block_on(builder.connect()).unwrap_err();
                assert!(matches!(error, Error::Certificate { .. }), "{}: {error:?}", server.name);
            }
            let by_name =
                Client::builder("localhost.").port(port).security(security).ca_certificate(servers::ca());
            block_on(by_name.connect()).unwrap();
        }
    });
}
