//! Many messages over one connection, by DATA and by BDAT, and messages from readers. Compiled for both clients.

use postino::{Error, JoinPolicy, Outcome, Raw, Security};

use super::{
    Builder, block_on,
    cases::{builder, each, envelope, message, way, wire},
    maybe_async,
};
use crate::{
    conversation::{dialogue_of, joined, keep_a_journal},
    servers::{self, DOVECOT, EXIM, POSTFIX, Server},
};

fn lmtp(port: u16) -> Builder {
    builder(port, Security::Plaintext, false).lmtp(true)
}

/// Sends five messages in one batch; each must be accepted, once, and stored as it was sent. Returns the commands and
/// replies of the connection, which must be the only one.
#[maybe_async]
async fn five(server: &Server, builder: &Builder) -> Result<Vec<String>, Error> {
    keep_a_journal();
    let mut client = builder.connect().await?;
    let number = client.connection_number();
    let sent: Vec<_> = (0..5).map(|_| servers::token()).map(|token| (message(&token, true), token)).collect();
    let mails = sent.iter().map(|(text, _)| Raw::bytes(envelope("alice@lab.test"), text));
    let mut batch = client.send_all(mails);
    let mut accepted = 0;
    while let Some((index, result)) = batch.next().await {
        let delivery =
            result.unwrap_or_else(|e| panic!("{} {index}: {e:?} {:#?}", server.name, dialogue_of(number)));
        assert_eq!((index, delivery.outcome()), (accepted, Outcome::Accepted), "{}", server.name);
        accepted += 1;
    }
    assert_eq!(accepted, 5, "{}", server.name);
    drop(batch);
    assert_eq!(client.connection_number(), number, "{} was connected to again", server.name);
    client.noop().await?;
    let dialogue = dialogue_of(number);
    client.quit().await?;
    for (text, token) in &sent {
        let (stored, sent) = (server.stored(token), server.as_stored(&wire(text)));
        assert!(stored.ends_with(&sent), "{} stored {}", server.name, stored.escape_ascii());
        assert_eq!(server.count(token), 1, "{}", server.name);
    }
    Ok(dialogue)
}

/// Of five messages, four envelopes are sent with the ends before them, over one connection, if the server offers
/// CHUNKING or the caller asks for it: the result of the first remains valid.
#[test]
fn a_batch_arrives_as_sent_and_joined_where_that_is_safe() {
    each(|server| {
        let joined = joined(&block_on(five(server, &way(server))).unwrap());
        assert_eq!(joined, server.joins, "{}", server.name);
        if ["postfix", "exim", "sendmail", "smtpserver"].contains(&server.name) {
            let asked = way(server).join_envelopes(JoinPolicy::Always);
            assert_eq!(self::joined(&block_on(five(server, &asked)).unwrap()), 4, "{}", server.name);
        }
        let joining = way(server).join_envelopes(JoinPolicy::Never);
        assert_eq!(self::joined(&block_on(five(server, &joining)).unwrap()), 0, "{}", server.name);
        assert_eq!(self::joined(&block_on(five(server, &way(server).pipelining(false))).unwrap()), 0);
    });
}

#[test]
fn a_batch_arrives_by_lmtp() {
    each(|server| {
        let Some(port) = server.lmtp else { return };
        assert_eq!(joined(&block_on(five(server, &lmtp(port))).unwrap()), 0, "{}", server.name);
        if server.name == "dovecot" {
            let asked = lmtp(port).join_envelopes(JoinPolicy::Always);
            assert_eq!(joined(&block_on(five(server, &asked)).unwrap()), 4);
        }
    });
}

#[test]
fn a_batch_arrives_by_bdat() {
    let by_lmtp: fn(&Server) -> Builder = |server| lmtp(server.lmtp.unwrap());
    for (server, way) in
        [(POSTFIX, way as fn(&Server) -> Builder), (EXIM, way), (DOVECOT, way), (DOVECOT, by_lmtp)]
    {
        if !server.is_up() {
            continue;
        }
        let way = way(&server);
        for way in [way.clone(), way.clone().join_envelopes(JoinPolicy::Never), way.pipelining(false)] {
            let dialogue = block_on(five(&server, &way.chunking(true))).unwrap();
            let count = |verb: &str| dialogue.iter().filter(|line| line.starts_with(verb)).count();
            assert_eq!((count("C: BDAT"), count("C: DATA")), (5, 0), "{} {dialogue:#?}", server.name);
        }
    }
}

#[test]
fn chunking_that_is_not_offered_is_not_used() {
    each(|server| {
        let old = server.old.map(|port| builder(port, Security::Plaintext, false).chunking(true));
        if let Some(old) = old {
            let mut client = block_on(old.connect()).unwrap();
            let token = servers::token();
            let text = message(&token, false);
            let sent = block_on(client.send(&Raw::bytes(envelope("alice@lab.test"), &text))).unwrap();
            assert_eq!(sent.outcome(), Outcome::Accepted);
            assert!(server.stored(&token).ends_with(&server.as_stored(&wire(&text))), "{}", server.name);
        }
    });
}

/// Sends short lines from a reader whose size is not known.
#[maybe_async]
async fn by_a_reader(server: &Server, way: &Builder) -> Result<(), Error> {
    let token = servers::token();
    let text = format!("Subject: {token}\n\n{}", ".y\n".repeat(1 << 17));
    let mut client = way.connect().await?;
    let _ = client.send(&Raw::reader(envelope("alice@lab.test"), std::io::Cursor::new(text))).await?;
    let sent = [b"\r\n\r\n", &b".y\r\n".repeat(1 << 17)[..]].concat();
    assert!(
        server.stored(&token).ends_with(&server.as_stored(&sent)),
        "{} stored something else",
        server.name
    );
    client.quit().await
}

#[test]
fn content_from_a_reader_arrives_unchanged() {
    each(|server| {
        block_on(by_a_reader(server, &way(server))).unwrap();
        block_on(by_a_reader(server, &way(server).chunking(true))).unwrap();
        if let Some(port) = server.lmtp {
            block_on(by_a_reader(server, &lmtp(port).chunking(true))).unwrap();
        }
    });
}
