//! Every server, every way to transmit a message, every awkward message: each is stored once, as it was sent. Compiled
//! for both clients.

use std::{thread, time::Duration};

use postino::{Delivery, Envelope, Error, Outcome, Raw, Security};

use super::{
    Builder, CLIENT, Client, block_on,
    cases::{builder, way},
    maybe_async,
};
use crate::{
    awkward::{Awkward, LARGE, MESSAGES},
    conversation::{dialogue_of, joined, keep_a_journal},
    deviations::{Fate, Path, fate},
    results::{Cell, Matrix, Verdict, settle},
    servers::{self, AIOSMTPD, DOVECOT, EXIM, POSTFIX, SENDMAIL, SMTPSERVER, Server},
};

/// A way to transmit messages.
struct Way {
    name: &'static str,
    lmtp: bool,
    pipelining: bool,
    chunking: bool,
    /// Whether all are in one batch, each joined to the one before if the server accepts it.
    batch: bool,
    /// Whether they are sent to the port with few extensions.
    old: bool,
}

const ONE_BY_ONE: Way =
    Way { name: "one by one", lmtp: false, pipelining: false, chunking: false, batch: false, old: false };
const PIPELINED: Way = Way { name: "pipelined", pipelining: true, ..ONE_BY_ONE };

const WAYS: [Way; 11] = [
    ONE_BY_ONE,
    PIPELINED,
    Way { name: "batch", batch: true, ..PIPELINED },
    Way { name: "chunks", chunking: true, ..PIPELINED },
    Way { name: "batch of chunks", chunking: true, batch: true, ..PIPELINED },
    Way { name: "few extensions", old: true, ..ONE_BY_ONE },
    Way { name: "LMTP one by one", lmtp: true, ..ONE_BY_ONE },
    Way { name: "LMTP pipelined", lmtp: true, ..PIPELINED },
    Way { name: "LMTP batch", lmtp: true, batch: true, ..PIPELINED },
    Way { name: "LMTP chunks", lmtp: true, chunking: true, ..PIPELINED },
    Way { name: "LMTP batch of chunks", lmtp: true, chunking: true, batch: true, ..PIPELINED },
];

/// Extensions that none of the server's mail ports offers.
fn lacks(server: &Server) -> &'static [&'static str] {
    match server.name {
        "sendmail" | "smtpserver" => &["CHUNKING"],
        "aiosmtpd" => &["CHUNKING", "PIPELINING"],
        _ => &[],
    }
}

impl Way {
    /// The builder for this way, or why the server does not have it.
    fn builder(&self, server: &Server) -> Result<Builder, String> {
        let lacking = lacks(server).iter().find(|keyword| self.needs().contains(keyword));
        let plain = |port| builder(port, Security::Plaintext, false);
        let there = match (self.lmtp, self.old) {
            (true, _) => server.lmtp.map(plain).ok_or("it has no LMTP")?,
            (_, true) => server.old.map(plain).ok_or("it has no port with few extensions")?,
            _ => way(server),
        };
        match lacking {
            Some(keyword) => Err(format!("it does not offer {keyword}")),
            None => Ok(there.lmtp(self.lmtp).pipelining(self.pipelining).chunking(self.chunking)),
        }
    }

    fn needs(&self) -> &'static [&'static str] {
        match (self.chunking, self.pipelining, self.batch) {
            (true, ..) => &["CHUNKING"],
            (_, true, false) => &["PIPELINING"],
            _ => &[], // a batch is sent one by one where it must be
        }
    }

    /// Checks that the messages of this conversation were sent in this way.
    fn check(&self, server: &Server, dialogue: &[String]) -> Result<(), String> {
        let said = |verb: &str| dialogue.iter().filter(|line| line.starts_with(verb)).count();
        let pipelined =
            dialogue.windows(2).filter(|two| two[0].starts_with("C: MAIL") && two[1].starts_with("C: RCPT"));
        let pipelined = pipelined.count() > 0;
        let joins = if self.lmtp { 0 } else { server.joins };
        let is_as_it_was_to_be = if self.chunking {
            said("C: BDAT") > 0 && said("C: DATA") == 0 && pipelined
        } else {
            let pipelines = self.pipelining && !lacks(server).contains(&"PIPELINING");
            let joined = joined(dialogue) > 0;
            said("C: DATA") > 0
                && said("C: BDAT") == 0
                && pipelined == pipelines
                && joined == (self.batch && joins > 0)
        };
        if is_as_it_was_to_be { Ok(()) } else { Err(format!("it was not {}: {dialogue:#?}", self.name)) }
    }
}

/// A message that was sent, and its reported result.
struct Sent {
    message: &'static Awkward,
    token: String,
    text: Vec<u8>,
    result: Result<Delivery, Error>,
}

fn to(token: &str) -> Envelope {
    // Not all messages have room for a token; every server records the recipient of a message.
    Envelope::new("bob@lab.test", [format!("alice+{token}@lab.test")]).unwrap()
}

/// Sends the messages one after the other, over as many connections as needed. Also returns their numbers.
#[maybe_async]
async fn singly(
    builder: &Builder,
    texts: &[Vec<u8>],
    tokens: &[String],
) -> (Vec<Result<Delivery, Error>>, Vec<u64>) {
    let mut client: Client = builder.connect().await.unwrap();
    let mut numbers = vec![client.connection_number()];
    let mut results = Vec::new();
    for (text, token) in texts.iter().zip(tokens) {
        if !client.is_connected() {
            client = builder.connect().await.unwrap();
            numbers.push(client.connection_number());
        }
        results.push(client.send(&Raw::bytes(to(token), text)).await);
    }
    client.quit().await.unwrap();
    (results, numbers)
}

/// Sends all messages in one batch.
#[maybe_async]
async fn at_once(
    builder: &Builder,
    texts: &[Vec<u8>],
    tokens: &[String],
) -> (Vec<Result<Delivery, Error>>, Vec<u64>) {
    let mut client: Client = builder.connect().await.unwrap();
    let mut numbers = vec![client.connection_number()];
    let mails: Vec<_> = texts.iter().zip(tokens).map(|(text, token)| Raw::bytes(to(token), text)).collect();
    let mut batch = client.send_all(mails);
    let mut results = Vec::new();
    while let Some((number, result)) = batch.next().await {
        assert_eq!(number, results.len());
        results.push(result);
    }
    drop(batch);
    numbers.push(client.connection_number());
    numbers.dedup();
    client.quit().await.unwrap();
    (results, numbers)
}

fn send_all(
    server: &Server,
    way: &Way,
    builder: &Builder,
    messages: &'static [Awkward],
) -> Result<Vec<Sent>, String> {
    let tokens: Vec<_> = messages.iter().map(|_| servers::token()).collect();
    let texts: Vec<_> = messages.iter().zip(&tokens).map(|(message, token)| (message.text)(token)).collect();
    let limit = if messages.len() == 1 { 300 } else { 60 }; // a large one, and the machine may be busy
    let builder = &builder.clone().deadline(Duration::from_secs(limit));
    let (results, numbers) = if way.batch {
        block_on(at_once(builder, &texts, &tokens))
    } else {
        block_on(singly(builder, &texts, &tokens))
    };
    if results.len() < messages.len() {
        return Err(format!("the connection was lost: {results:?}"));
    }
    if messages.len() > 1 {
        way.check(server, &numbers.into_iter().flat_map(dialogue_of).collect::<Vec<_>>())?;
    }
    let sent = messages.iter().zip(tokens).zip(texts).zip(results);
    Ok(sent.map(|(((message, token), text), result)| Sent { message, token, text, result }).collect())
}

/// Compares the result of a message with the expected one.
fn verdict(server: &Server, way: &Way, sent: &Sent) -> Verdict {
    let path = Path { lmtp: way.lmtp, old: way.old };
    match (fate(server, &path, sent.message.name, &sent.text), &sent.result) {
        (Fate::Stored(expected, note), Ok(delivery)) if delivery.outcome() == Outcome::Accepted => {
            let stored = server.stored(&sent.token);
            let stored = server.without_its_own(&stored);
            if stored == expected {
                Verdict::Passed(note.to_owned())
            } else {
                Verdict::Failed(difference(stored, &expected))
            }
        }
        // Before MAIL: nothing is known of its recipients.
        (Fate::RefusedHere(word, why), Err(error))
            if error.delivery().is_none() && error.reply().is_none() && error.to_string().contains(word) =>
        {
            Verdict::Refused(format!("by us, before MAIL: {why}"))
        }
        (Fate::RefusedThere(code, why), Err(error))
            if error.reply().is_some_and(|reply| reply.code() == code) && !error.in_doubt() =>
        {
            Verdict::Refused(format!("by the server, {code}: {why}"))
        }
        (_, result) => Verdict::Failed(format!("{result:?}")),
    }
}

/// Where the two texts begin to differ.
fn difference(stored: &[u8], expected: &[u8]) -> String {
    let same = stored.iter().zip(expected).take_while(|(a, b)| a == b).count();
    let around = |text: &[u8]| {
        let part = &text[same.saturating_sub(40)..text.len().min(same + 120)];
        format!("{} octets, there {}", text.len(), part.escape_ascii())
    };
    format!("from {same} on: stored {}; expected {}", around(stored), around(expected))
}

/// A cell, and the token of its message.
type Told = (Cell, Option<String>);

fn cells(server: &Server, way: &'static Way, messages: &'static [Awkward]) -> Vec<Told> {
    let cell = |what, verdict| Cell { way: way.name, what, verdict };
    let builder = match way.builder(server) {
        Ok(builder) => builder,
        Err(why) if messages.len() > 1 => return vec![(cell("", Verdict::Absent(why)), None)],
        Err(_) => return Vec::new(), // already reported
    };
    match send_all(server, way, &builder, messages) {
        Ok(sent) => {
            let told = |sent: Sent| (cell(sent.message.name, verdict(server, way, &sent)), Some(sent.token));
            sent.into_iter().map(told).collect()
        }
        Err(error) => messages.iter().map(|m| (cell(m.name, Verdict::Failed(error.clone())), None)).collect(),
    }
}

/// Checks that one message arrived for each that was accepted, and none for the others, when all is done.
fn counted(server: &Server, (mut cell, token): Told) -> Cell {
    let wanted = usize::from(matches!(cell.verdict, Verdict::Passed(_)));
    let count = token.map_or(wanted, |token| server.count(&token));
    if count != wanted && !matches!(cell.verdict, Verdict::Failed(_)) {
        cell.verdict = Verdict::Failed(format!("{count} messages arrived, not {wanted}"));
    }
    cell
}

/// Checks that the server lacks the extensions listed by `lacks`: otherwise, there is another way to test.
#[maybe_async]
async fn offers_no_more(server: &Server) -> Result<(), Error> {
    let lmtp = server.lmtp.map(|port| builder(port, Security::Plaintext, false).lmtp(true));
    for way in [Some(way(server)), lmtp].into_iter().flatten() {
        let mut client = way.connect().await?;
        for keyword in ["CHUNKING", "PIPELINING"] {
            assert_eq!(
                client.supports(keyword),
                !lacks(server).contains(&keyword),
                "{}: {keyword}",
                server.name
            );
        }
        client.quit().await?;
    }
    Ok(())
}

fn all_messages(server: &Server) {
    if !server.is_up() {
        return;
    }
    keep_a_journal();
    block_on(offers_no_more(server)).unwrap();
    let mut told: Vec<Told> = thread::scope(|scope| {
        let ways: Vec<_> = WAYS.iter().map(|way| scope.spawn(|| cells(server, way, MESSAGES))).collect();
        ways.into_iter().flat_map(|way| way.join().unwrap()).collect()
    });
    // One after the other, and half of the ways with each client.
    let is_for_this_client = |number: usize| (number % 2 == 0) == (CLIENT == "blocking");
    for (_, way) in WAYS.iter().enumerate().filter(|(number, _)| is_for_this_client(*number)) {
        told.extend(cells(server, way, &[LARGE]));
    }
    settle(
        Matrix::Messages,
        server.name,
        CLIENT,
        told.into_iter().map(|told| counted(server, told)).collect(),
    );
}

#[test]
fn postfix_stores_awkward_messages_as_they_are() {
    all_messages(&POSTFIX);
}

#[test]
fn dovecot_stores_awkward_messages_as_they_are() {
    all_messages(&DOVECOT);
}

#[test]
fn exim_stores_awkward_messages_as_they_are() {
    all_messages(&EXIM);
}

#[test]
fn sendmail_stores_awkward_messages_as_they_are() {
    all_messages(&SENDMAIL);
}

#[test]
fn smtpserver_stores_awkward_messages_as_they_are() {
    all_messages(&SMTPSERVER);
}

#[test]
fn aiosmtpd_stores_awkward_messages_as_they_are() {
    all_messages(&AIOSMTPD);
}
