//! One transaction against a server of any mood, without sockets: what it reports is what the server took.

use postino::{
    Delivery, Envelope, Error, Outcome, Phase,
    proto::{Dialogue, Inbox, MailParameters, Options, Outbox, Transaction, Transactions, Want},
};
use proptest::prelude::*;

/// An endless supply of decisions.
struct Tape {
    bytes: Vec<u8>,
    at: usize,
}

impl Tape {
    fn next(&mut self) -> usize {
        self.at += 1;
        usize::from(self.bytes[self.at % self.bytes.len()]) ^ (self.at / self.bytes.len()) & 15
    }
}

/// What a server was made to take.
#[derive(Debug, PartialEq)]
struct Taken {
    sender_refused: bool,
    recipients: Vec<String>,
    content: Vec<u8>,
}

/// A server that answers as its mood has it.
#[derive(Default)]
struct Server {
    /// 0 takes all; higher ones refuse more, and in odder ways.
    mood: usize,
    input: Vec<u8>,
    open: bool,
    sender_refused: bool,
    recipients: Vec<String>,
    in_data: bool,
    closed: bool,
    /// It was told what is no command: it had said one reply too many, and that was taken for its leave to go on.
    confused: bool,
    ledger: Vec<Taken>,
    verbs: Vec<String>,
}

impl Server {
    fn feed(&mut self, bytes: &[u8], tape: &mut Tape) -> Vec<u8> {
        let mut replies = Vec::new();
        self.input.extend_from_slice(bytes);
        while !self.closed {
            let reply = if self.in_data { self.data(tape) } else { self.command(tape) };
            let Some(code) = reply else { break };
            replies.extend_from_slice(format!("{code}-it\r\n{code} says\r\n").as_bytes());
            self.closed |= code == 421;
            if self.mood > 3 && tape.next() < 4 {
                let code = [250, 451, 354][tape.next() % 3];
                replies.extend_from_slice(format!("{code} and one more\r\n").as_bytes());
            }
        }
        replies
    }

    fn command(&mut self, tape: &mut Tape) -> Option<usize> {
        let end = self.input.windows(2).position(|w| w == b"\r\n")?;
        let line: Vec<u8> = self.input.drain(..end + 2).collect();
        let line = String::from_utf8(line).unwrap().trim_end().to_owned();
        self.verbs.push(line.get(..4).unwrap_or_default().to_owned());
        let whim = match tape.next() {
            0..16 if self.mood > 1 => Some([421, 451, 550, 503, 554][tape.next() % 5]),
            16..80 if self.mood > 2 => Some(550),
            80..88 if self.mood > 3 => Some([250, 354, 251, 220, 200][tape.next() % 5]),
            _ => None,
        };
        Some(match line.get(..4).unwrap_or_default() {
            "MAIL" => {
                assert!(!self.open, "MAIL in a transaction");
                self.sender_refused = whim.is_some_and(|code| code >= 400);
                // A server that refuses the sender and goes on as if it had not is broken, and exists.
                self.open = !self.sender_refused || self.mood > 2 && tape.next() < 64;
                whim.unwrap_or(250)
            }
            "RCPT" if !self.open => 503,
            "RCPT" => {
                if whim.is_none_or(|code| code < 300) {
                    self.recipients.push(line["RCPT TO:<".len()..line.len() - 1].to_owned());
                }
                whim.unwrap_or(if tape.next() < 20 { 251 } else { 250 })
            }
            "DATA" if !self.open => 503,
            "DATA" => {
                let for_nobody = self.recipients.is_empty() && tape.next() < 128;
                let code = whim.unwrap_or(if for_nobody { 554 } else { 354 });
                self.in_data = code == 354;
                code
            }
            "RSET" => {
                (self.open, self.recipients) = (false, Vec::new());
                whim.unwrap_or(250)
            }
            _ => {
                assert!(self.mood > 3, "not a command: {line:?}");
                self.confused = true;
                500
            }
        })
    }

    fn data(&mut self, tape: &mut Tape) -> Option<usize> {
        let at_start = self.input.starts_with(b".\r\n").then_some(0);
        let end = at_start.or_else(|| self.input.windows(5).position(|w| w == b"\r\n.\r\n").map(|at| at + 2));
        let Some(end) = end else {
            if self.mood > 1 && self.input.len() > 50 && tape.next() < 8 {
                self.closed = true; // it will not have the rest
                return Some(552);
            }
            return (self.mood > 3 && self.input.len() > 20 && tape.next() < 4).then_some(250); // too early
        };
        let text: Vec<u8> = self.input.drain(..end + 3).take(end).collect();
        let lines = text.split_inclusive(|b| *b == b'\n');
        let content = lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect();
        self.in_data = false;
        self.open = false;
        let recipients = std::mem::take(&mut self.recipients);
        if recipients.is_empty() {
            assert_eq!(content, b"", "content for nobody");
            return Some(if tape.next() < 128 { 250 } else { 554 });
        }
        Some(match tape.next() {
            0..30 if self.mood > 1 => [451, 550, 421][tape.next() % 3],
            30..40 if self.mood > 3 => 354,
            _ => {
                self.ledger.push(Taken { sender_refused: self.sender_refused, recipients, content });
                250
            }
        })
    }
}

/// What a carrier does, with every write and read as short as the tape has it. Gives the result, whether the connection
/// is in step behind it, and all that was offered to the wire.
fn carry(
    mut talk: Transactions,
    server: &mut Server,
    mut body: &[u8],
    tape: &mut Tape,
    cut_at: usize,
) -> (Result<Delivery, Error>, bool, Vec<u8>) {
    let (mut inbox, mut out, mut wire, mut moved) = (Inbox::default(), Outbox::default(), Vec::new(), 0);
    let mut said = Vec::new();
    let mut result = None;
    let broke = 'broke: loop {
        loop {
            match inbox.next_reply() {
                Ok(None) => break,
                Err(what) => panic!("the server's replies are well formed: {what}"),
                Ok(Some(reply)) if out.due() == 0 => break 'broke Some(talk.on_early(reply)),
                Ok(Some(reply)) => {
                    out.heard();
                    if let Err(e) = talk.on_reply(reply, &out) {
                        break 'broke Some(e);
                    }
                    if reply.code() == 421 {
                        break 'broke Some(Error::NotConnected);
                    }
                }
            }
        }
        let want = talk.fill(&mut out);
        match want {
            Want::Nothing => break None,
            Want::StartTls | Want::Token | Want::Message | Want::Probe => panic!("{want:?}"),
            Want::Result => {
                result = talk.next_result();
                continue;
            }
            Want::Body(_) => {
                let (piece, rest) = body.split_at(body.len().min(1 + tape.next() % 50));
                body = rest;
                talk.body(piece, &mut out).unwrap();
                continue;
            }
            Want::Reply | Want::Write => {}
        }
        let quiet = out.due() == 0 && !out.unsent().is_empty();
        let arrived = if quiet || out.unsent().is_empty() { wire.len() } else { wire.len().min(tape.next()) };
        if arrived > 0 {
            let n = arrived.min(1 + tape.next() % 40);
            inbox.room()[..n].copy_from_slice(&wire[..n]);
            inbox.arrived(n);
            wire.drain(..n);
            continue;
        }
        if out.unsent().is_empty() {
            assert!(server.closed, "waits for a reply that nobody owes");
            break Some(Error::NotConnected);
        }
        let (written, offered) = (out.gone() as usize, out.offer());
        said.truncate(written);
        said.extend_from_slice(offered);
        let n = if tape.next() % 3 == 0 { offered.len().min(tape.next()) } else { offered.len() };
        moved += n;
        if moved > cut_at {
            // The wire is cut: the server gets a part of it, and its answers are lost.
            let part = offered[..tape.next() % (offered.len() + 1)].to_vec();
            server.feed(&part, tape);
            server.closed = true;
            break Some(Error::NotConnected);
        }
        if !server.closed {
            let replies = server.feed(&offered[..n], tape);
            wire.extend(replies);
        }
        out.written(n);
    };
    let in_step = broke.is_none() && wire.is_empty() && inbox.is_empty() && out.due() == 0;
    if let Some(broke) = broke {
        talk.lose(out.offered(), broke);
    }
    (result.or_else(|| talk.next_result()).expect("there is a result"), in_step, said)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(std::env::var("CASES").map_or(5_000, |n| n.parse().unwrap())))]

    #[test]
    fn what_is_reported_is_what_the_server_took(
        tape in prop::collection::vec(any::<u8>(), 30..200),
        (pipelining, all_or_nothing) in any::<(bool, bool)>(),
        mood in 0usize..5,
        count in 1usize..6,
        body in "[a.\n\r]{0,200}",
        cut_at in prop_oneof![2 => Just(usize::MAX), 1 => 0usize..400],
    ) {
        let mut tape = Tape { bytes: tape, at: 0 };
        let mut server = Server { mood, ..Server::default() };
        let names: Vec<String> = (0..count).map(|i| format!("r{i}@x")).collect();
        let envelope = Envelope::new("s@x", &names).unwrap();
        let options = Options { pipelining, all_or_nothing, ..Options::default() };
        let mut talk = Transactions::new(options, false);
        talk.message(Transaction::new(envelope, MailParameters::default()));
        talk.no_more();
        let (result, in_step, said) = carry(talk, &mut server, body.as_bytes(), &mut tape, cut_at);

        if server.confused {
            return Ok(()); // nobody can make sense of such a server
        }
        let delivery = match &result {
            Ok(delivery) => delivery,
            Err(error) => error.delivery().expect("an error of a transaction has a delivery"),
        };
        prop_assert_eq!(result.is_ok(), delivery.outcome() == Outcome::Accepted);
        prop_assert_eq!(delivery.recipients().count(), count);
        prop_assert!(server.ledger.iter().all(|taken| !taken.sender_refused), "{:?}", server.ledger);
        let accepted: Vec<String> = delivery.recipients()
            .filter(|recipient| recipient.outcome() == Outcome::Accepted)
            .map(|recipient| recipient.address().to_string())
            .collect();
        match delivery.outcome() {
            Outcome::Accepted => {
                prop_assert_eq!(server.ledger.len(), 1);
                prop_assert_eq!(&server.ledger[0].recipients, &accepted);
                prop_assert_eq!(&server.ledger[0].content, &plain(body.as_bytes()));
                prop_assert!(!all_or_nothing || accepted.len() == count);
            }
            Outcome::InDoubt => {
                prop_assert!(accepted.is_empty() && server.ledger.len() <= 1);
                prop_assert!(!in_step && (cut_at < usize::MAX || server.closed || mood > 3));
            }
            _ => prop_assert!(accepted.is_empty() && server.ledger.is_empty(), "{:?}: {:?}", delivery, server.ledger),
        }
        if delivery.outcome() == Outcome::InDoubt {
            let end = said.windows(5).any(|w| w == b"\r\n.\r\n");
            prop_assert!(end, "in doubt, and its end was never offered: {}", said.escape_ascii());
        }
        if delivery.refused().count() == count {
            prop_assert_eq!(delivery.outcome(), Outcome::Refused);
        }
        if delivery.outcome() == Outcome::Refused {
            let Some(Error::Transaction { source, .. }) = result.as_ref().err() else { unreachable!() };
            let Error::Refused { phase, reply } = &**source else { panic!("refused by nobody: {source:?}") };
            prop_assert!(reply.code() != 421 || *phase == Phase::End);
            prop_assert!(*phase != Phase::Body || server.verbs.last().is_some_and(|verb| verb == "DATA"));
        }
        if in_step && result.is_err() {
            prop_assert_eq!(server.verbs.last().map(String::as_str), Some("RSET"));
        }
        if mood == 0 && cut_at == usize::MAX {
            prop_assert!(in_step && result.is_ok(), "{:?}", result);
        }
    }
}

/// Every line end a CRLF, the last line ended.
fn plain(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(text.to_vec()).unwrap().replace("\r\n", "\n").replace('\r', "\n");
    let ended = if text.ends_with('\n') { text } else { text + "\n" };
    ended.replace('\n', "\r\n").into_bytes()
}
