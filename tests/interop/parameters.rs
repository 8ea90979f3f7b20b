//! LMTP's replies for each recipient, and parameters of MAIL and RCPT. Compiled for both clients.

use std::time::Duration;

use postino::{Address, Envelope, Error, MailOption, OnLate, Outcome, Raw, RcptOption, Ret, Security};

use super::{
    Builder, block_on,
    cases::{builder, each, envelope, way, wire},
    maybe_async,
};
use crate::servers::{self, AIOSMTPD, DOVECOT, SMTPSERVER, Server};

fn text(token: &str) -> String {
    format!("Subject: {token}\n\nx\n")
}

/// One recipient is accepted, one refused at RCPT, and one at the end, where no other is.
#[maybe_async]
async fn each_recipient(server: &Server, way: &Builder) -> Result<(), Error> {
    let mut client = way.connect().await?;
    for to in [
        ["alice@lab.test", "nobody@lab.test", "reject@lab.test", "greylist@lab.test"],
        ["greylist@lab.test", "reject@lab.test", "nobody@lab.test", "alice@lab.test"],
    ] {
        let token = servers::token();
        let text = text(&token);
        let delivery = client.send(&Raw::bytes(Envelope::new("bob@lab.test", to)?, &text)).await?;
        assert_eq!(delivery.outcome(), Outcome::Accepted);
        for recipient in delivery.recipients() {
            let (outcome, code) = match recipient.address().as_str() {
                "alice@lab.test" => (Outcome::Accepted, 250),
                "nobody@lab.test" => (Outcome::Refused, 550),
                "reject@lab.test" => (Outcome::Refused, 452),
                _ => (Outcome::Refused, 451),
            };
            let code_seen = recipient.reply().unwrap().code();
            assert_eq!((recipient.outcome(), code_seen), (outcome, code), "{} {delivery:?}", server.name);
        }
        let unsent = delivery.retry_envelope().unwrap();
        let mut unsent: Vec<_> = unsent.recipients().iter().map(Address::as_str).collect();
        unsent.sort_unstable();
        assert_eq!(unsent, ["greylist@lab.test", "reject@lab.test"]);
        server.stored(&token);
        assert_eq!(server.count(&token), 1, "{}", server.name);
    }

    // No recipient is left at the end.
    let error = client.send(&Raw::bytes(envelope("reject@lab.test"), "Subject: x\n\nx\n")).await.unwrap_err();
    assert!(error.is_transient() && !error.in_doubt(), "{}: {error:?}", server.name);
    assert_eq!(error.reply().unwrap().code(), 452, "{}: {error:?}", server.name);
    client.noop().await?;
    client.quit().await
}

#[test]
fn lmtp_answers_for_each_recipient() {
    each(|server| {
        let Some(port) = server.lmtp else { return };
        for security in [Security::Plaintext, Security::StartTls] {
            let way = builder(port, security, false).lmtp(true);
            block_on(each_recipient(server, &way)).unwrap();
            block_on(each_recipient(server, &way.clone().chunking(true))).unwrap();
            block_on(each_recipient(server, &way.pipelining(false))).unwrap();
        }
    });
}

#[maybe_async]
async fn batch_by_lmtp(server: &Server, way: &Builder) -> Result<(), Error> {
    let tokens = [(); 3].map(|()| servers::token());
    let mut client = way.connect().await?;
    let to = ["reject@lab.test", "alice@lab.test", "nobody@lab.test"];
    let mails =
        tokens.iter().map(|token| Raw::bytes(Envelope::new("bob@lab.test", to).unwrap(), text(token)));
    let mut batch = client.send_all(mails);
    while let Some((_, result)) = batch.next().await {
        let delivery = result?;
        let codes: Vec<_> = delivery.recipients().map(|r| r.reply().unwrap().code()).collect();
        assert_eq!(codes, [452, 250, 550], "{}", server.name);
    }
    drop(batch);
    client.noop().await?;
    for token in &tokens {
        server.stored(token);
        assert_eq!(server.count(token), 1, "{}", server.name);
    }
    client.quit().await
}

#[test]
fn lmtp_answers_for_each_recipient_of_a_batch() {
    each(|server| {
        let Some(port) = server.lmtp else { return };
        let way = builder(port, Security::Plaintext, false).lmtp(true);
        block_on(batch_by_lmtp(server, &way)).unwrap();
        block_on(batch_by_lmtp(server, &way.chunking(true))).unwrap();
    });
}

/// Returns the parameters of MAIL and RCPT for this envelope, without the SIZE that comes first.
#[maybe_async]
async fn said(server: &Server, way: &Builder, envelope: Envelope) -> Result<Vec<String>, Error> {
    let token = servers::token();
    let text = text(&token);
    let delivery = way.send(&Raw::bytes(envelope, &text)).await?;
    assert_eq!(delivery.outcome(), Outcome::Accepted, "{}", server.name);
    let size = format!(" SIZE={}", wire(text.as_bytes()).len() - 2);
    let said = server.envelope(&token).into_iter().filter(|line| line.contains(":<"));
    Ok(said.map(|line| line.replacen(&size, "", 1)).collect())
}

#[test]
fn delivery_reports_are_requested_as_they_were_set() {
    let notify = |success, failure, delay| RcptOption::Notify { success, failure, delay };
    let envelope = Envelope::new("bob@lab.test", ["alice@lab.test", "bob@lab.test", "alice+b@lab.test"])
        .and_then(|envelope| envelope.option(MailOption::Ret(Ret::Headers)))
        .and_then(|envelope| envelope.option(MailOption::EnvelopeId("QQ 3+1=4".into())))
        .and_then(|envelope| envelope.recipient_option(0, notify(true, false, true)))
        .and_then(|envelope| {
            let first = Address::new("Alice+x=y@lab.test")?;
            envelope.recipient_option(0, RcptOption::OriginalRecipient(first))
        })
        .and_then(|envelope| envelope.recipient_option(1, RcptOption::NotifyNever))
        .and_then(|envelope| envelope.recipient_option(2, notify(true, true, true)))
        .unwrap();
    let expected = [
        "MAIL FROM:<bob@lab.test> RET=HDRS ENVID=QQ+203+2B1+3D4",
        "RCPT TO:<alice@lab.test> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Alice+2Bx+3Dy@lab.test",
        "RCPT TO:<bob@lab.test> NOTIFY=NEVER",
        "RCPT TO:<alice+b@lab.test> NOTIFY=SUCCESS,FAILURE,DELAY",
    ];
    for server in [SMTPSERVER, AIOSMTPD].iter().filter(|server| server.is_up()) {
        assert_eq!(
            block_on(said(server, &way(server), envelope.clone())).unwrap(),
            expected,
            "{}",
            server.name
        );
    }
    // The other servers only have to accept it.
    each(|server| {
        let mut client = block_on(way(server).connect()).unwrap();
        let offered = client.supports("DSN");
        let result = block_on(client.send(&Raw::bytes(envelope.clone(), "Subject: x\n\nx\n")));
        if offered {
            assert_eq!(result.unwrap().outcome(), Outcome::Accepted, "{}", server.name);
        } else {
            assert!(matches!(result, Err(Error::Unsupported("DSN"))), "{}", server.name);
        }
    });
}

#[test]
fn further_parameters_arrive_as_they_were_set() {
    let late = |seconds, late, trace| MailOption::DeliverBy { seconds, late, trace };
    let options = [
        (MailOption::Priority(-9), "MT-PRIORITY=-9"),
        (MailOption::Priority(3), "MT-PRIORITY=3"),
        (late(120, OnLate::Return, true), "BY=120;RT"),
        (late(-5, OnLate::Notify, false), "BY=-5;N"),
        (MailOption::HoldFor(Duration::from_secs(604_800)), "HOLDFOR=604800"),
        (MailOption::HoldUntil("2027-01-31T08:00:00Z".into()), "HOLDUNTIL=2027-01-31T08:00:00Z"),
        (MailOption::RequireTls, "REQUIRETLS"),
        (MailOption::Auth(None), "AUTH=<>"),
        (MailOption::Auth(Some(Address::new("a+b@lab.test").unwrap())), "AUTH=a+2Bb@lab.test"),
    ];
    for server in [SMTPSERVER, AIOSMTPD].iter().filter(|server| server.is_up()) {
        let way = builder(server.submission, Security::StartTls, true);
        let client = block_on(way.connect()).unwrap();
        for (option, expected) in &options {
            let keyword = match option {
                MailOption::Priority(_) => "MT-PRIORITY",
                MailOption::DeliverBy { .. } => "DELIVERBY",
                MailOption::HoldFor(_) | MailOption::HoldUntil(_) => "FUTURERELEASE",
                MailOption::RequireTls => "REQUIRETLS",
                _ => "AUTH",
            };
            let envelope = envelope("alice@lab.test").option(option.clone()).unwrap();
            if client.supports(keyword) {
                let seen = block_on(said(server, &way, envelope)).unwrap();
                assert_eq!(seen[0], format!("MAIL FROM:<bob@lab.test> {expected}"), "{}", server.name);
            } else {
                assert_eq!(server.name, "smtpserver", "{keyword}");
                let error = block_on(said(server, &way, envelope)).unwrap_err();
                assert!(matches!(&error, Error::Unsupported(what) if *what == keyword), "{error:?}");
            }
        }
    }
}

#[test]
fn requiretls_is_not_requested_without_tls() {
    for server in [SMTPSERVER, AIOSMTPD].iter().filter(|server| server.is_up()) {
        let way = builder(server.open.unwrap(), Security::Plaintext, false);
        let envelope = envelope("alice@lab.test").option(MailOption::RequireTls).unwrap();
        let error = block_on(way.send(&Raw::bytes(envelope, "Subject: x\n\nx\n"))).unwrap_err();
        assert!(
            matches!(&error, Error::Unsupported(what) if what.contains("REQUIRETLS")),
            "{}: {error:?}",
            server.name
        );
    }
}

#[maybe_async]
async fn beyond_ascii(server: &Server, way: &Builder) -> Result<(), Error> {
    let mut client = way.connect().await?;
    let token = servers::token();
    let envelope = Envelope::new("j\u{f6}rg@lab.test", ["j\u{f6}rg@lab.test", "alice@lab.test"])?;
    let text = text(&token);
    let sent = client.send(&Raw::bytes(envelope, &text)).await;
    if !client.supports("SMTPUTF8") {
        assert!(matches!(sent, Err(Error::Unsupported(_))), "{}: {sent:?}", server.name);
        client.noop().await?;
        return client.quit().await;
    }
    assert_eq!(sent?.refused().count(), 0, "{}", server.name);
    match server.name {
        // A file for each recipient, whose name is that of the folder; the sender is in Return-Path, if anywhere.
        "postfix" | "exim" => {
            let at = server.stored_at(&token, "/j\u{f6}rg/");
            assert!(at.ends_with(b"\nx\n") || at.ends_with(b"\nx\r\n"), "{}", at.escape_ascii());
        }
        _ => {
            let said = server.envelope(&token);
            assert!(
                said.iter()
                    .any(|line| line.starts_with("MAIL FROM:<j\u{f6}rg@lab.test> ")
                        && line.contains(" SMTPUTF8")),
                "{said:?}"
            );
            assert!(said.contains(&"RCPT TO:<j\u{f6}rg@lab.test>".to_owned()), "{said:?}");
        }
    }
    client.quit().await
}

#[test]
fn non_ascii_addresses_arrive_unchanged_where_smtputf8_is_offered() {
    each(|server| {
        block_on(beyond_ascii(server, &way(server))).unwrap();
        if let Some(port) = server.lmtp {
            block_on(beyond_ascii(server, &builder(port, Security::Plaintext, false).lmtp(true))).unwrap();
        }
    });
}

#[test]
fn dovecot_passes_on_the_requested_options() {
    if DOVECOT.is_up() {
        let client = block_on(way(&DOVECOT).connect()).unwrap();
        if client.supports("DSN") {
            let envelope = envelope("alice@lab.test").recipient_options(RcptOption::NotifyNever).unwrap();
            let said = block_on(said(&DOVECOT, &way(&DOVECOT), envelope)).unwrap();
            assert!(said[1].contains("NOTIFY=NEVER"), "{said:?}");
        }
    }
}
