//! The messages sent to each server, and what must have arrived. Compiled for both clients.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::LazyLock,
    time::{Duration, Instant},
};

use email_format::Email;
use postino::{Envelope, Error, Outcome, Raw, Security};

use super::{Builder, Client, LIBRARY, block_on, maybe_async};
use crate::{
    awkward::MESSAGES,
    servers::{self, AIOSMTPD, ALL, DOVECOT, EXIM, PASSWORD, POSTFIX, SENDMAIL, SMTPSERVER, Server, USER},
};

/// A message with everything that is hard to transmit, with line endings as in a Unix file.
pub fn message(token: &str, eight_bit: bool) -> Vec<u8> {
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

pub fn wire(text: &[u8]) -> Vec<u8> {
    let mut wire =
        text.iter().flat_map(|b| if *b == b'\n' { b"\r\n".to_vec() } else { vec![*b] }).collect::<Vec<_>>();
    wire.extend_from_slice(b"\r\n");
    wire
}

pub fn envelope(to: &str) -> Envelope {
    Envelope::new("bob@lab.test", [to]).unwrap()
}

fn client(host: &str) -> Builder {
    let builder = Client::builder(host);
    if let Some(library) = LIBRARY { builder.tls_backend(library) } else { builder }
}

pub fn builder(port: u16, security: Security, login: bool) -> Builder {
    // Clones share a TLS connector, which takes some time to build.
    static BASE: LazyLock<Builder> = LazyLock::new(|| {
        let builder = client("127.0.0.1").ca_certificate(servers::ca());
        builder.deadline(Duration::from_secs(60)).hello_name("client.lab.test")
    });
    let builder = BASE.clone().port(port).security(security);
    if login { builder.credentials(USER, PASSWORD) } else { builder }
}

/// Sends two messages over one connection, and compares what was stored.
#[maybe_async]
async fn arrives(server: &Server, builder: &Builder, eight_bit: bool) -> Result<(), Error> {
    let mut client = builder.connect().await?;
    for _ in 0..2 {
        let token = servers::token();
        let text = message(&token, eight_bit);
        let delivery = client.send(&Raw::bytes(envelope("alice@lab.test"), &text)).await?;
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
        (Some(server.submission), Security::StartTls, true),
        (Some(server.implicit), Security::Implicit, true),
    ] {
        let Some(port) = port else { continue };
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
fn dovecot_gets_what_was_sent() {
    message_arrives_by_every_way(&DOVECOT);
}

#[test]
fn sendmail_gets_what_was_sent() {
    message_arrives_by_every_way(&SENDMAIL);
}

#[test]
fn smtpserver_gets_what_was_sent() {
    message_arrives_by_every_way(&SMTPSERVER);
}

#[test]
fn aiosmtpd_gets_what_was_sent() {
    message_arrives_by_every_way(&AIOSMTPD);
}

/// Runs the test with every server that is up, concurrently.
pub fn each(test: impl Fn(&Server) + Sync) {
    std::thread::scope(|scope| {
        for server in ALL.iter().filter(|server| server.is_up()) {
            let test = &test;
            scope.spawn(move || test(server));
        }
    });
}

/// The way to connect where it does not matter: STARTTLS, and a login if required.
pub fn way(server: &Server) -> Builder {
    match server.open {
        Some(port) => builder(port, Security::StartTls, false),
        None => builder(server.submission, Security::StartTls, true),
    }
}

#[maybe_async]
async fn one_call(server: &Server) -> Result<(), Error> {
    let token = servers::token();
    let mut email = Email::new("Bob <bob@lab.test>", "Thu, 1 Jan 2026 00:00:00 +0000").unwrap();
    email.set_to("alice@lab.test").unwrap();
    email.set_bcc("bob@lab.test").unwrap();
    email.set_subject(token.as_str()).unwrap();
    email.set_body(".dots\r\n.\r\n").unwrap();
    let delivery = way(server).send(&email).await?;
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
    let mut client = way(server).connect().await?;
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
fn refused_recipients_are_reported_separately_and_the_session_continues() {
    each(|server| block_on(refusals(server)).unwrap());
}

#[maybe_async]
async fn after_refusals(server: &Server) -> Result<(), Error> {
    let mut client = builder(server.implicit, Security::Implicit, false).connect().await?;
    let error = client.login(USER, "wrong").await.unwrap_err();
    assert_eq!(error.reply().unwrap().code(), 535, "{}: {error:?}", server.name);
    client.quit().await?; // a connection has two refused logins, and no more
    client.reconnect().await?;
    client.login(USER, PASSWORD).await?;
    client.quit().await
}

#[test]
fn a_login_refused_by_every_mechanism_can_be_repeated_on_a_new_connection() {
    each(|server| block_on(after_refusals(server)).unwrap());
}

#[test]
fn a_certificate_for_another_name_or_of_an_unknown_ca_is_refused() {
    let no_ca = client("127.0.0.1");
    let by_name = LazyLock::new(|| client("localhost.").ca_certificate(servers::ca()));
    each(|server| {
        for (port, security) in
            [(server.submission, Security::StartTls), (server.implicit, Security::Implicit)]
        {
            let other_name = builder(port, security, false).tls_name("other.example");
            for builder in [other_name, no_ca.clone().port(port).security(security)] {
                let error = block_on(builder.connect()).unwrap_err();
                assert!(matches!(error, Error::Certificate { .. }), "{}: {error:?}", server.name);
            }
            block_on(by_name.clone().port(port).security(security).connect()).unwrap();
        }
    });
}

/// The server's reply to the end of this message, sent unstuffed and unchanged.
fn said_to(port: u16, to: &str, message: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut replies = BufReader::new(stream.try_clone().unwrap());
    let mut reply = || {
        let mut line = String::new();
        while line.as_bytes().get(3) != Some(&b' ') {
            line.clear();
            assert_ne!(replies.read_line(&mut line).unwrap(), 0, "closed");
        }
        line
    };
    reply();
    let rcpt = format!("RCPT TO:<{to}>");
    for command in ["EHLO client.lab.test", "MAIL FROM:<bob@lab.test>", &rcpt, "DATA"] {
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let reply = reply();
        assert!(reply.starts_with(['2', '3']), "{command}: {reply}");
    }
    stream.write_all(&[message, b"\r\n.\r\n"].concat()).unwrap();
    let said = reply();
    drop(stream.write_all(b"QUIT\r\n"));
    drop(replies.read_to_end(&mut Vec::new())); // what is left unread might not be obeyed
    said
}

/// Checks that the hazard is real that the client avoids in `messages.rs` and `a_nul_is_never_sent`.
#[test]
fn sendmail_refuses_what_a_careless_client_sends() {
    let port = SENDMAIL.open.unwrap();
    if SENDMAIL.is_up() {
        for bare in ["\n", "\r"] {
            assert!(
                said_to(port, "alice@lab.test", format!("Subject: x\r\n\r\na{bare}b").as_bytes())
                    .starts_with("421 ")
            );
        }
        assert!(said_to(port, "alice@lab.test", b"Subject: x\r\n\r\na\0b").starts_with("554 "));
    }
}

/// Checks another hazard, and that a second message would be found: `messages.rs` finds only one.
#[test]
fn a_careless_client_makes_postfix_store_two_messages() {
    let port = POSTFIX.open.unwrap();
    if POSTFIX.is_up() {
        for end in ["LF.LF", "CRLF.LF", "LF.CRLF"] {
            let name = format!("smuggling: {end}");
            let two = MESSAGES.iter().find(|message| message.name == name).unwrap();
            let token = servers::token();
            let said = said_to(port, &format!("alice+{token}@lab.test"), &(two.text)(&token));
            assert!(said.starts_with("250 "), "{end}: {said}");
            let end_of_waiting = Instant::now() + Duration::from_secs(30);
            while POSTFIX.count(&token) < 2 {
                assert!(Instant::now() < end_of_waiting, "{end}: nothing was smuggled");
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

#[maybe_async]
async fn nul(server: &Server) -> Result<(), Error> {
    let [token, streamed, last] = [(); 3].map(|()| servers::token());
    let with_nul = |token: &str| format!("Subject: {token}\n\n{}\0{}\n", "x\n".repeat(9), "y\n".repeat(9));
    let mut client = way(server).connect().await?;

    let error = client.send(&Raw::bytes(envelope("alice@lab.test"), with_nul(&token))).await.unwrap_err();
    assert!(matches!(error, Error::Message(_)), "{}: {error:?}", server.name);
    client.noop().await?; // nothing was sent

    // Detected while sending: without its end, the server has no message.
    let reader = std::io::Cursor::new(with_nul(&streamed));
    let error = client.send(&Raw::reader(envelope("alice@lab.test"), reader)).await.unwrap_err();
    assert!(!error.in_doubt() && error.delivery().is_some(), "{}: {error:?}", server.name);
    let error = client.noop().await.unwrap_err();
    assert!(matches!(error, Error::NotConnected), "{}: {error:?}", server.name);

    let _ =
        way(server).send(&Raw::bytes(envelope("alice@lab.test"), format!("Subject: {last}\n\nx\n"))).await?;
    server.stored(&last);
    assert!(server.find(&token).is_none() && server.find(&streamed).is_none(), "{}", server.name);
    Ok(())
}

#[test]
fn a_nul_is_never_sent() {
    each(|server| block_on(nul(server)).unwrap());
}

#[maybe_async]
async fn greylisted(server: &Server) -> Result<(), Error> {
    let error =
        way(server).send(&Raw::bytes(envelope("greylist@lab.test"), "Subject: x\n\nx\n")).await.unwrap_err();
    assert!(error.is_transient() && !error.in_doubt(), "{}: {error:?}", server.name);
    assert_eq!(error.reply().unwrap().code(), 451, "{}: {error:?}", server.name);
    let Error::Transaction { delivery, .. } = error else { panic!("{}: {error:?}", server.name) };
    assert_eq!(delivery.outcome(), Outcome::Refused);
    Ok(())
}

#[test]
fn a_greylisted_recipient_can_be_retried() {
    each(|server| block_on(greylisted(server)).unwrap());
}

/// Maximum size of a message on the ports with few extensions, in octets.
const LIMIT: u64 = 20_000;

#[maybe_async]
async fn too_large(server: &Server, port: u16) -> Result<(), Error> {
    let [large, last] = [(); 2].map(|()| servers::token());
    let text = format!("Subject: {large}\n\n{}", "0123456789\n".repeat(3_000));
    let mut client = builder(port, Security::Plaintext, false).connect().await?;

    let error = client.send(&Raw::bytes(envelope("alice@lab.test"), &text)).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { limit: LIMIT, .. }), "{}: {error:?}", server.name);

    // The size of a reader is not known, so the server has to check it.
    let error =
        client.send(&Raw::reader(envelope("alice@lab.test"), std::io::Cursor::new(text))).await.unwrap_err();
    assert!(error.is_permanent() && !error.in_doubt(), "{}: {error:?}", server.name);
    assert_eq!(error.reply().unwrap().code(), 552, "{}: {error:?}", server.name);

    let _ = client.send(&Raw::bytes(envelope("alice@lab.test"), format!("Subject: {last}\n\nx\n"))).await?;
    server.stored(&last);
    assert!(server.find(&large).is_none(), "{}", server.name);
    client.quit().await
}

#[test]
fn a_message_over_the_limit_is_refused_by_client_or_server_and_the_session_continues() {
    each(|server| {
        if let Some(port) = server.old {
            block_on(too_large(server, port)).unwrap();
        }
    });
}

#[maybe_async]
async fn recorded(server: &Server, to: &str, parameters: &str) -> Result<(), Error> {
    let token = servers::token();
    let text = format!("Subject: {token}\n\n\u{fc}\n");
    let envelope = Envelope::new("bob@lab.test", [to, "nobody@lab.test"]).unwrap();
    let way = builder(server.submission, Security::StartTls, true);
    let _ = way.send(&Raw::bytes(envelope, &text)).await?;
    let size = wire(text.as_bytes()).len() - 2;
    let said = server.envelope(&token);
    let mail = format!("MAIL FROM:<bob@lab.test> SIZE={size}{parameters}");
    let rcpt = [format!("RCPT TO:<{to}>"), "RCPT TO:<nobody@lab.test>".to_owned()];
    assert_eq!(said[1..4], ["tls yes", "hello client.lab.test", &format!("login {USER}")], "{}", server.name);
    assert_eq!(said[4..], [&[mail][..], &rcpt].concat(), "{}", server.name);
    Ok(())
}

#[test]
fn the_parameters_of_mail_arrive_as_sent() {
    for server in [SMTPSERVER, AIOSMTPD].iter().filter(|server| server.is_up()) {
        block_on(recorded(server, "alice@lab.test", " BODY=8BITMIME")).unwrap();
        block_on(recorded(server, "j\u{f6}rg@lab.test", " SMTPUTF8 BODY=8BITMIME")).unwrap();
    }
}
