//! Messages to servers of every behaviour, without sockets: the reports match what the server accepted.

#[path = "support/consistent.rs"]
mod consistent;
#[path = "support/options.rs"]
mod options;

use consistent::is_consistent;
use options::Options;
use postino::{
    Delivery, Envelope, Error, Outcome, Phase,
    proto::{Dialogue, Inbox, Joining, MailParameters, Outbox, Survey, Transaction, Transactions, Want},
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

/// What a server does with input that it has read after the end of a message.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum Character {
    #[default]
    Answers,
    /// Discards it with its buffer.
    Swallows,
    /// Answers each command with 503.
    Refuses,
    HangsUp,
}

/// A message that a server has accepted.
#[derive(Debug, PartialEq)]
struct Taken {
    sender: String,
    sender_refused: bool,
    recipients: Vec<String>,
    content: Vec<u8>,
}

/// A server that replies according to its mood. It keeps its state when its client connects again.
#[derive(Debug, Default)]
struct RandomServer {
    /// Mood 0 accepts everything; higher moods refuse more, and in stranger ways.
    mood: usize,
    character: Character,
    lmtp: bool,
    ledger: Vec<Taken>,
    /// Whether it sent one reply too many, or may have mixed messages.
    odd: bool,
    /// Whether it received something that is not a command: the client took a wrong reply for permission to continue.
    confused: bool,
    /// Whether input that was joined to the end of a message was lost.
    swallowed: bool,
    now: Connection,
}

#[derive(Debug, Default)]
struct Connection {
    input: Vec<u8>,
    open: bool,
    /// Whether RSET was refused: what follows belongs to the previous transaction.
    kept: bool,
    sender: String,
    sender_refused: bool,
    recipients: Vec<String>,
    in_data: bool,
    /// The expected chunk: its length, whether it is the last, and the reply to it, if that is already decided.
    chunk: Option<(usize, bool, Option<usize>)>,
    chunks: Vec<u8>,
    /// Number of octets of input whose commands are answered 503.
    refusing: usize,
    silent: bool,
    closed: bool,
    verbs: Vec<String>,
}

impl RandomServer {
    fn feed(&mut self, bytes: &[u8], tape: &mut Tape) -> Vec<u8> {
        let mut replies = Vec::new();
        self.now.input.extend_from_slice(bytes);
        while !self.now.closed {
            let codes = match self.now {
                Connection { in_data: true, .. } => self.data(tape),
                Connection { chunk: Some((octets, last, refused)), .. } => {
                    self.chunk(octets, last, refused, tape)
                }
                _ => self.command(tape),
            };
            let Some(codes) = codes else { break };
            for code in codes {
                replies.extend_from_slice(format!("{code}-it\r\n{code} says\r\n").as_bytes());
                self.now.closed |= code == 421 || code == 221;
                if self.mood > 3 && tape.next() < 4 {
                    let code = [250, 451, 354][tape.next() % 3];
                    replies.extend_from_slice(format!("{code} and one more\r\n").as_bytes());
                    self.odd = true;
                }
            }
        }
        replies
    }

    fn command(&mut self, tape: &mut Tape) -> Option<Vec<usize>> {
        let end = self.now.input.windows(2).position(|w| w == b"\r\n")?;
        let line: Vec<u8> = self.now.input.drain(..end + 2).collect();
        let refusing = self.now.refusing > 0;
        self.now.refusing = self.now.refusing.saturating_sub(line.len());
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let verb = line.get(..4).unwrap_or_default();
        self.now.verbs.push(verb.to_owned());
        let whim = match tape.next() {
            _ if refusing => Some(503),
            0..16 if self.mood > 1 => Some([421, 451, 550, 503, 554][tape.next() % 5]),
            16..80 if self.mood > 2 => Some(550),
            80..88 if self.mood > 3 => Some([250, 354, 251, 220, 200][tape.next() % 5]),
            _ => None,
        };
        let now = &mut self.now;
        Some(vec![match verb {
            "MAIL" if refusing || now.kept || self.swallowed && now.open => 503,
            "MAIL" => {
                // After a reply too many, 354 to a recipient can be read as the reply to DATA.
                assert!(!now.open || self.odd, "MAIL in a transaction");
                now.chunks.clear(); // RFC 5321 §4.1.1.2: MAIL clears all buffers
                now.sender = line["MAIL FROM:<".len()..].split('>').next().unwrap().to_owned();
                now.sender_refused = whim.is_some_and(|code| code >= 400);
                // Servers that refuse the sender but continue as if they had accepted it are broken, but exist.
                now.open = !now.sender_refused || self.mood > 2 && tape.next() < 64;
                whim.unwrap_or(250)
            }
            "RCPT" if !now.open => 503,
            "RCPT" => {
                if whim.is_none_or(|code| code < 300) {
                    now.recipients.push(line["RCPT TO:<".len()..line.len() - 1].to_owned());
                }
                whim.unwrap_or(if tape.next() < 20 { 251 } else { 250 })
            }
            "DATA" if !now.open => 503,
            "DATA" => {
                let for_nobody =
                    now.recipients.is_empty() && (tape.next() < 128 || self.lmtp && self.mood < 3);
                let code = whim.unwrap_or(if for_nobody { 554 } else { 354 });
                now.in_data = code == 354;
                code
            }
            "BDAT" => {
                let mut words = line.split(' ').skip(1);
                let octets = words.next().unwrap().parse().unwrap();
                let nobody = !now.open || now.recipients.is_empty();
                let refused = if nobody { Some(503) } else { whim };
                now.chunk = Some((octets, words.next().is_some(), refused));
                return Some(vec![]);
            }
            "RSET" if refusing => {
                now.kept = now.open;
                self.odd |= now.kept; // the next message may be mixed with this one
                503
            }
            "RSET" => {
                (now.open, now.kept, now.recipients) = (false, false, Vec::new());
                now.chunks.clear();
                whim.unwrap_or(250)
            }
            "QUIT" => 221,
            _ => {
                assert!(self.mood > 3 || self.swallowed, "not a command: {line:?}");
                self.confused |= !self.swallowed;
                500
            }
        }])
    }

    fn data(&mut self, tape: &mut Tape) -> Option<Vec<usize>> {
        let input = &self.now.input;
        if self.now.recipients.is_empty() {
            // If the server sent one reply too many, the client may have taken it for an accepted recipient.
            let lone_dot = b".\r\n".starts_with(&input[..input.len().min(3)]);
            assert!(lone_dot || self.odd, "content is sent although no recipient was accepted");
        }
        let at_start = input.starts_with(b".\r\n").then_some(0);
        let end = at_start.or_else(|| input.windows(5).position(|w| w == b"\r\n.\r\n").map(|at| at + 2));
        let Some(end) = end else {
            if self.mood > 1 && input.len() > 50 && tape.next() < 8 {
                self.now.closed = true; // it will not read the rest
                return Some(vec![552]);
            }
            return (self.mood > 3 && input.len() > 20 && tape.next() < 4).then(|| {
                self.odd = true;
                vec![250] // too early
            });
        };
        let text: Vec<u8> = self.now.input.drain(..end + 3).take(end).collect();
        let lines = text.split_inclusive(|b| *b == b'\n');
        let content = lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect();
        self.now.in_data = false;
        self.now.open = false;
        if self.now.recipients.is_empty() {
            let code = if tape.next() < 128 { 250 } else { 554 };
            return Some(self.joined(vec![code]));
        }
        Some(self.take(content, tape))
    }

    fn chunk(
        &mut self,
        octets: usize,
        last: bool,
        refused: Option<usize>,
        tape: &mut Tape,
    ) -> Option<Vec<usize>> {
        if self.now.input.len() < octets {
            return None;
        }
        self.now.chunk = None;
        self.now.refusing = self.now.refusing.saturating_sub(octets);
        self.now.chunks.extend(self.now.input.drain(..octets));
        if let Some(code) = refused.filter(|code| code / 100 != 2) {
            let each = if last && self.lmtp { self.now.recipients.len().max(1) } else { 1 };
            let codes = vec![code; each];
            // Servers keep the transaction open. A broken one accepts the rest of the content.
            if self.mood < 3 || tape.next() < 200 {
                self.now.recipients.clear();
            }
            return Some(if last { self.joined(codes) } else { codes });
        }
        if !last {
            Some(vec![250])
        } else {
            self.now.open = self.mood > 0 && tape.next() < 20;
            let content = std::mem::take(&mut self.now.chunks);
            Some(self.take(content, tape))
        }
    }

    /// Returns the replies to the end of a message.
    fn take(&mut self, content: Vec<u8>, tape: &mut Tape) -> Vec<usize> {
        let now = &mut self.now;
        let mut recipients = std::mem::take(&mut now.recipients);
        let mut verdict = || match tape.next() {
            0..30 if self.mood > 1 => [451, 550, 421][tape.next() % 3],
            30..40 if self.mood > 3 => 354,
            _ => 250,
        };
        let codes: Vec<usize> =
            if self.lmtp { recipients.iter().map(|_| verdict()).collect() } else { vec![verdict()] };
        if self.lmtp {
            let mut each = codes.iter();
            recipients.retain(|_| each.next() == Some(&250));
        } else if codes != [250] {
            recipients.clear();
        }
        now.open &= recipients.is_empty(); // only after a refusal
        if !recipients.is_empty() {
            let (sender, sender_refused) = (now.sender.clone(), now.sender_refused);
            self.ledger.push(Taken { sender, sender_refused, recipients, content });
        }
        self.joined(codes)
    }

    /// Handles input that was read after the end of a message, according to the character of the server.
    fn joined(&mut self, codes: Vec<usize>) -> Vec<usize> {
        let now = &mut self.now;
        match self.character {
            _ if now.input.is_empty() || now.input.starts_with(b"QUIT") => {}
            Character::Answers => {}
            Character::Swallows => {
                now.input.clear();
                (self.swallowed, now.silent) = (true, true);
            }
            Character::Refuses => now.refusing = now.input.len(),
            Character::HangsUp => now.closed = true,
        }
        codes
    }
}

struct Letter {
    recipients: Vec<String>,
    content: Vec<u8>,
    ahead: bool,
    /// Whether the content is handed over together with the envelope.
    at_hand: bool,
}

/// Hands over each message once, usually when it is requested.
struct Sender<'a> {
    letters: &'a [Letter],
    next: usize,
    /// Maximum number of times that it has no message when it is asked, but has one later.
    late: usize,
    farewell: bool,
    /// Number of octets handed over from the content of each message.
    at: Vec<usize>,
    /// Where in the stream the end of each message began.
    ended: Vec<Option<u64>>,
}

impl Sender<'_> {
    fn message(&mut self, talk: &mut Transactions, tape: &mut Tape) {
        let late = self.late > 0 && tape.next() < 100;
        self.late -= usize::from(late);
        match self.letters.get(self.next).filter(|_| !late) {
            Some(letter) => {
                let another = self.next + 1 < self.letters.len() && tape.next() < 10;
                let envelope = Envelope::new(&format!("s{}@x", self.next), &letter.recipients).unwrap();
                let transaction = Transaction::new(envelope, MailParameters::default()).ahead(letter.ahead);
                if letter.at_hand {
                    talk.message_with(transaction, Survey::of(&letter.content)).unwrap();
                } else {
                    talk.message(transaction);
                }
                self.next += 1;
                if self.farewell && self.next == self.letters.len() {
                    talk.no_more();
                }
                if another {
                    self.message(talk, tape);
                }
            }
            None => talk.no_more(),
        }
    }

    /// Looks for the ends of messages whose content was at hand in what was just added to the outbox, that is, after
    /// the first `unsent` octets. `written` is the number of octets that were already sent.
    fn find_ends(&mut self, written: usize, unsent: usize, out: &Outbox) {
        let (put, start) = (&out.unsent()[unsent..], (written + unsent) as u64);
        for number in (0..self.next).filter(|number| self.letters[*number].at_hand) {
            let Some(at) = memchr::memmem::find(put, mark(number).as_bytes()) else { continue };
            let chunk = memchr::memmem::rfind(&put[..at], b"BDAT ");
            let dot = || at + memchr::memmem::find(&put[at..], b"\r\n.\r\n").unwrap() + 2;
            self.ended[number] = Some(start + chunk.unwrap_or_else(dot) as u64);
        }
    }

    fn body(
        &mut self,
        number: usize,
        talk: &mut Transactions,
        out: &mut Outbox,
        written: usize,
        tape: &mut Tape,
    ) {
        assert!(!self.letters[number].at_hand, "the content was already handed over");
        let rest = &self.letters[number].content[self.at[number]..];
        let most = if rest.len() > 1000 { 30_000 } else { 1 + tape.next() % 50 };
        let piece = &rest[..rest.len().min(most)];
        if piece.is_empty() {
            self.ended[number] = Some((written + out.unsent().len()) as u64);
        }
        self.at[number] += piece.len();
        talk.body(piece, out).unwrap();
    }
}

/// The course of a run.
struct Story {
    results: Vec<Result<Delivery, Error>>,
    in_step: bool,
    said_farewell: bool,
    joining: Joining,
    /// Whether the end of each message was offered when the connection broke.
    offered: Vec<bool>,
}

/// Moves octets between the client and the server, in reads and writes whose sizes the tape determines.
fn carry(
    mut talk: Transactions,
    server: &mut RandomServer,
    sender: &mut Sender<'_>,
    tape: &mut Tape,
    cut_at: usize,
) -> Story {
    let (mut inbox, mut out, mut wire, mut moved) = (Inbox::default(), Outbox::default(), Vec::new(), 0);
    let mut results = Vec::new();
    let mut written = 0; // to this connection
    let broke = loop {
        let broke = 'broke: loop {
            loop {
                match inbox.next_reply() {
                    Ok(None) => break,
                    Err(what) => panic!("the server's replies should be well formed: {what}"),
                    Ok(Some(_)) if out.due() == 0 && out.said_farewell() => {}
                    Ok(Some(reply)) if out.due() == 0 => break 'broke Some(talk.on_early(reply)),
                    Ok(Some(reply)) => {
                        out.reply_arrived();
                        if let Err(e) = talk.on_reply(reply, &out) {
                            break 'broke Some(e);
                        }
                        if reply.code() == 421 {
                            break 'broke Some(Error::NotConnected);
                        }
                    }
                }
            }
            let unsent = out.unsent().len();
            let want = talk.fill(&mut out);
            sender.find_ends(written, unsent, &out);
            match want {
                Want::Nothing if sender.next < sender.letters.len() && !talk.said_farewell() => {
                    talk.more();
                    continue;
                }
                Want::Nothing => break None,
                Want::Message => {
                    sender.message(&mut talk, tape);
                    continue;
                }
                Want::Result => {
                    results.push(talk.next_result().unwrap());
                    continue;
                }
                Want::Body(number) => {
                    sender.body(number, &mut talk, &mut out, written, tape);
                    continue;
                }
                Want::Reply | Want::Probe | Want::Write => {}
                _ => panic!("{want:?}"),
            }
            let quiet = out.due() == 0 && !out.unsent().is_empty();
            let arrived =
                if quiet || out.unsent().is_empty() { wire.len() } else { wire.len().min(tape.next()) };
            if arrived > 0 {
                let n = arrived.min(1 + tape.next() % 40);
                inbox.room()[..n].copy_from_slice(&wire[..n]);
                inbox.arrived(n);
                wire.drain(..n);
                continue;
            }
            if out.unsent().is_empty() {
                assert!(
                    server.now.closed || server.now.silent,
                    "the client waits for a reply that is not due"
                );
                break Some(if server.now.closed {
                    Error::Closed(talk.phase())
                } else {
                    Error::Timeout(talk.phase())
                });
            }
            let offered = out.offer();
            let short = offered.len() < 1000 && tape.next() % 3 == 0;
            let n = if short { offered.len().min(tape.next()) } else { offered.len() };
            moved += n;
            if moved > cut_at {
                // The connection is cut: the server receives part of the octets, and its replies are lost.
                let part = offered[..tape.next() % (offered.len() + 1)].to_vec();
                server.feed(&part, tape);
                server.now.closed = true;
                break Some(Error::NotConnected);
            }
            if !server.now.closed {
                let replies = server.feed(&offered[..n], tape);
                wire.extend(replies);
            }
            out.written(n);
            written += n;
        };
        let silent = matches!(broke, Some(Error::Closed(_) | Error::Timeout(_)));
        if !silent || !talk.on_silence() {
            break broke;
        }
        (inbox, out, written) = (Inbox::default(), Outbox::default(), 0);
        wire.clear();
        server.now = Connection::default();
    };
    let quiet = wire.is_empty() && inbox.is_empty() || out.said_farewell();
    let in_step = broke.is_none() && quiet && out.due() == 0;
    let ends = sender.ended.iter();
    let offered = ends.map(|end| end.is_some_and(|end| out.octets_offered() > end)).collect();
    if let Some(broke) = broke {
        talk.lose(out.octets_offered(), broke);
    }
    results.extend(std::iter::from_fn(|| talk.next_result()));
    assert_eq!(results.len(), sender.next, "each message has one result");
    let (said_farewell, joining) = (talk.said_farewell(), talk.joining());
    Story { results, in_step, said_farewell, joining, offered }
}

/// The beginning of the content of a message, which no other message has.
fn mark(number: usize) -> String {
    format!("m{number} ")
}

/// Checks what must be true of a message, whatever the server did.
fn judge(
    number: usize,
    result: &Result<Delivery, Error>,
    letter: &Letter,
    story: &Story,
    server: &RandomServer,
    options: Options,
) -> Result<(), TestCaseError> {
    let delivery = match result {
        Ok(delivery) => delivery,
        Err(error) => error.delivery().expect("an error of a transaction should have a delivery"),
    };
    prop_assert!(result.as_ref().err().is_none_or(is_consistent), "{:?}", result);
    let sender = format!("s{number}@x");
    prop_assert_eq!(delivery.envelope().sender().unwrap().as_str(), &sender);
    prop_assert_eq!(result.is_ok(), delivery.outcome() == Outcome::Accepted);
    prop_assert_eq!(delivery.recipients().count(), letter.recipients.len());
    if delivery.outcome() == Outcome::InDoubt {
        prop_assert!(story.offered[number], "message {} is in doubt, but its end was never offered", number);
    }
    if delivery.refused().count() == letter.recipients.len() {
        prop_assert_eq!(delivery.outcome(), Outcome::Refused);
    }
    let accepted: Vec<&str> = delivery
        .recipients()
        .filter(|recipient| recipient.outcome() == Outcome::Accepted)
        .map(|recipient| recipient.address().as_str())
        .collect();
    prop_assert_eq!(accepted.is_empty(), result.is_err());

    // If an unsolicited reply can be mistaken for another one, or RSET has no effect, nothing more is certain.
    if server.odd && (options.chunking || options.lmtp || number > 0) {
        return Ok(());
    }
    let mark = mark(number);
    let mine: Vec<&Taken> =
        server.ledger.iter().filter(|taken| taken.content.starts_with(mark.as_bytes())).collect();
    match delivery.outcome() {
        Outcome::Accepted => {
            prop_assert_eq!(mine.len(), 1);
            prop_assert_eq!(&mine[0].sender, &sender);
            prop_assert!(!mine[0].sender_refused);
            prop_assert!(
                !options.all_or_nothing || options.lmtp || accepted.len() == letter.recipients.len()
            );
            prop_assert_eq!(&mine[0].content, &plain(&letter.content));
            let in_doubt = |address: &&String| {
                let mut each = delivery.recipients();
                each.any(|r| r.outcome() == Outcome::InDoubt && r.address().as_str() == **address)
            };
            let taken: Vec<&String> = mine[0].recipients.iter().filter(|r| !in_doubt(r)).collect();
            prop_assert_eq!(taken, accepted);
        }
        Outcome::InDoubt => {
            prop_assert!(mine.len() <= 1);
            prop_assert!(!story.in_step);
        }
        // If the server refuses the sender but still accepts chunks, and the connection breaks, the client does not
        // notice it.
        Outcome::Refused if options.chunking && !story.in_step => {
            prop_assert!(mine.iter().all(|taken| taken.sender_refused), "{:?}: {:?}", delivery, mine);
        }
        _ => prop_assert!(mine.is_empty(), "{:?}: {:?}", delivery, mine),
    }
    if delivery.outcome() == Outcome::Refused {
        let Some(Error::Transaction { source, .. }) = result.as_ref().err() else { unreachable!() };
        let Error::Refused { phase, reply } = &**source else { panic!("not a refusal: {source:?}") };
        prop_assert!(reply.code() != 421 || *phase == Phase::End);
    }
    Ok(())
}

fn joining() -> impl Strategy<Value = Joining> {
    prop_oneof![Just(Joining::Off), Just(Joining::Untried), Just(Joining::Works)]
}

fn character() -> impl Strategy<Value = Character> {
    prop_oneof![
        3 => Just(Character::Answers),
        1 => Just(Character::Swallows),
        1 => Just(Character::Refuses),
        1 => Just(Character::HangsUp),
    ]
}

fn options() -> impl Strategy<Value = Options> {
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2), any::<bool>());
    (prop::bool::weighted(0.7), joining(), flags).prop_map(
        |(pipelining, joining, (chunking, all_or_nothing, lmtp, farewell))| Options {
            pipelining,
            chunking,
            joining: if pipelining { joining } else { Joining::Off },
            all_or_nothing,
            farewell: farewell && pipelining,
            lmtp,
        },
    )
}

/// Number of recipients, text, octets of filler before it, and whether the content may be sent ahead and is at hand.
type Sketch = (usize, String, usize, (bool, bool));

fn letters() -> impl Strategy<Value = Vec<Sketch>> {
    let filler = prop_oneof![40 => Just(0), 1 => Just(70_000usize), 1 => Just(200_000)];
    prop::collection::vec((1usize..5, "[a.\n\r]{0,60}", filler, any::<(bool, bool)>()), 0..6)
}

/// Number of cases: a few seconds in a debug build. Set `CASES` for more.
fn cases() -> ProptestConfig {
    ProptestConfig::with_cases(std::env::var("CASES").map_or(3_000, |n| n.parse().unwrap()))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn the_reported_outcomes_match_what_the_server_accepted(
        tape in prop::collection::vec(any::<u8>(), 30..200),
        options in options(),
        mood in 0usize..5,
        character in character(),
        late in prop::bool::weighted(0.3),
        letters in letters(),
        cut_at in prop_oneof![2 => Just(usize::MAX), 1 => 0usize..1000],
    ) {
        let mut tape = Tape { bytes: tape, at: 0 };
        let options = Options { farewell: options.farewell && !late, ..options };
        let mut server = RandomServer { mood, character, lmtp: options.lmtp, ..RandomServer::default() };
        let letter = |(number, (count, text, filler, (ahead, at_hand))): (usize, Sketch)| Letter {
            recipients: (0..count).map(|i| format!("r{number}.{i}@x")).collect(),
            content: [mark(number).into_bytes(), vec![b'x'; filler], text.into_bytes()].concat(),
            ahead: ahead && filler == 0,
            at_hand,
        };
        let letters: Vec<Letter> = letters.into_iter().enumerate().map(letter).collect();
        let count = letters.len();
        let mut sender = Sender {
            letters: &letters,
            next: 0,
            late: if late { 5 } else { 0 },
            farewell: options.farewell,
            at: vec![0; count],
            ended: vec![None; count],
        };
        let talk = Transactions::new(options.into(), false);
        let story = carry(talk, &mut server, &mut sender, &mut tape, cut_at);

        prop_assert_eq!(story.results.len(), sender.next, "one result for each message");
        prop_assert!(!story.in_step || sender.next == count);
        if server.confused || server.swallowed && options.chunking {
            return Ok(()); // nothing is certain with such a server
        }
        for (number, (result, letter)) in story.results.iter().zip(&letters).enumerate() {
            judge(number, result, letter, &story, &server, options)?;
        }
        if story.in_step {
            let last = server.now.verbs.last().map_or("", String::as_str);
            prop_assert!(!server.now.open || story.said_farewell, "{:?}", server.now.verbs);
            let failed = story.results.last().is_some_and(Result::is_err);
            // With a farewell, QUIT is sent before the client knows of the failure.
            prop_assert!(!failed || last == "RSET" || story.said_farewell, "{:?}", server.now.verbs);
        }
        let own = |taken: &Taken| taken.content.starts_with(b"m") && !taken.sender_refused;
        prop_assert!(options.chunking || server.odd || server.ledger.iter().all(own), "{:?}", server.ledger);
        let learnt_by_chance = options.chunking && character != Character::Answers;
        if mood == 0 && cut_at == usize::MAX && !learnt_by_chance {
            // Losing input that was joined to the end of a message costs at most a connection, never a message.
            prop_assert!(story.in_step && story.results.iter().all(Result::is_ok), "{:?}", story.results);
            prop_assert!(options.joining != Joining::Off || story.joining == Joining::Off);
        }
    }
}

/// A dialogue that a test drives step by step.
struct Line {
    talk: Transactions,
    inbox: Inbox,
    out: Outbox,
}

impl Line {
    /// Creates messages from s0@x, s1@x … to this many recipients each.
    fn new(options: Options, recipients: &[usize]) -> Line {
        let mut talk = Transactions::new(options.into(), false);
        for (number, count) in recipients.iter().enumerate() {
            let names = (0..*count).map(|i| format!("r{number}.{i}@x"));
            let envelope = Envelope::new(&format!("s{number}@x"), names).unwrap();
            talk.message(Transaction::new(envelope, MailParameters::default()).ahead(true));
        }
        talk.no_more();
        Line { talk, inbox: Inbox::default(), out: Outbox::default() }
    }

    /// Returns what is wanted next, using `text` as the content of each message. Results are not taken.
    fn want(&mut self, text: &str) -> Want {
        let mut left = text;
        loop {
            match self.talk.fill(&mut self.out) {
                Want::Body(_) => {
                    self.talk.body(left.as_bytes(), &mut self.out).unwrap();
                    left = if left.is_empty() { text } else { "" };
                }
                want => return want,
            }
        }
    }

    /// Writes and returns all pending output.
    fn said(&mut self, text: &str) -> String {
        self.want(text);
        let said = String::from_utf8(self.out.offer().to_vec()).unwrap();
        self.out.written(said.len());
        said
    }

    fn hear(&mut self, replies: &str) -> Result<(), Error> {
        self.inbox.room()[..replies.len()].copy_from_slice(replies.as_bytes());
        self.inbox.arrived(replies.len());
        while let Some(reply) = self.inbox.next_reply().unwrap() {
            if self.out.due() == 0 {
                return Err(self.talk.on_early(reply));
            }
            self.out.reply_arrived();
            self.talk.on_reply(reply, &self.out)?;
        }
        Ok(())
    }

    /// Returns the results of all messages if the connection ends here.
    fn lost(mut self) -> Vec<Result<Delivery, Error>> {
        self.talk.lose(self.out.octets_offered(), Error::Closed(Phase::End));
        std::iter::from_fn(|| self.talk.next_result()).collect()
    }
}

const JOINED: Options = Options {
    pipelining: true,
    joining: Joining::Untried,
    chunking: false,
    all_or_nothing: false,
    farewell: false,
    lmtp: false,
};
const CHUNKED: Options = Options { chunking: true, joining: Joining::Works, ..JOINED };

fn outcomes(results: &[Result<Delivery, Error>]) -> Vec<Outcome> {
    let delivery = |r: &Result<Delivery, Error>| match r {
        Ok(delivery) => delivery.outcome(),
        Err(error) => error.delivery().unwrap().outcome(),
    };
    results.iter().map(delivery).collect()
}

// Threat 38.
#[test]
fn a_reply_before_the_end_is_fully_sent_accepts_nothing() {
    for (reply, outcome) in [("250 ok\r\n", Outcome::InDoubt), ("552 full\r\n", Outcome::Refused)] {
        let mut line = Line::new(JOINED, &[1]);
        line.said("");
        line.hear("250 ok\r\n250 ok\r\n354 go on\r\n").unwrap();
        assert_eq!(line.want("Hello\r\n"), Want::Reply);
        assert_eq!(line.out.offer(), b"Hello\r\n.\r\n");
        line.out.written(9);
        line.hear(reply).unwrap_err();
        assert_eq!(outcomes(&line.lost()), [outcome]);
    }
}

#[test]
fn after_a_421_nothing_is_in_doubt_and_nothing_is_sent_again() {
    let mut line = Line::new(JOINED, &[1, 1]);
    line.said("");
    line.hear("250 ok\r\n250 ok\r\n354 go on\r\n").unwrap();
    line.said("Hello\r\n");
    line.hear("250 taken\r\n421 closing\r\n").unwrap_err();
    assert!(!line.talk.on_silence());
    assert_eq!(outcomes(&line.lost()), [Outcome::Accepted, Outcome::NotSent]);

    let mut line = Line::new(CHUNKED, &[1, 1, 1]);
    assert_eq!(line.said("Hello\r\n").matches("LAST").count(), 3);
    line.hear("250 ok\r\n250 ok\r\n421 closing\r\n").unwrap();
    assert_eq!(outcomes(&line.lost()), [Outcome::Refused, Outcome::NotSent, Outcome::NotSent]);

    let mut line = Line::new(JOINED, &[1]);
    line.said("");
    line.hear("250 ok\r\n250 ok\r\n354 go on\r\n421 unasked\r\n").unwrap_err();
    let results = line.lost();
    assert_eq!(results[0].as_ref().unwrap_err().delivery().unwrap().reply().unwrap().code(), 421);

    let mut line = Line::new(CHUNKED, &[1, 1]);
    line.said("Hello\r\n");
    line.hear("421 closing\r\n").unwrap_err();
    assert_eq!(outcomes(&line.lost()), [Outcome::NotSent, Outcome::NotSent]);
}

#[test]
fn a_message_that_a_server_may_have_stored_despite_its_refusal_is_in_doubt() {
    // The sender is refused, a recipient is accepted, and the content was sent; then the connection is lost.
    let mut line = Line::new(CHUNKED, &[1]);
    line.said("Hello\r\n");
    line.hear("550 no\r\n250 ok\r\n").unwrap();
    assert_eq!(outcomes(&line.lost()), [Outcome::InDoubt]);

    // A chunk is refused, and the last one may have been sent.
    for (last, outcome) in [(false, Outcome::Refused), (true, Outcome::InDoubt)] {
        let mut line = Line::new(CHUNKED, &[1]);
        assert_eq!(line.talk.fill(&mut line.out), Want::Body(0));
        line.talk.body(&[b'x'; 40_000], &mut line.out).unwrap();
        line.talk.body(&[b'x'; 40_000], &mut line.out).unwrap();
        if last {
            line.talk.body(b"", &mut line.out).unwrap();
        }
        let left = line.out.offer().len();
        line.out.written(left);
        line.hear("250 ok\r\n250 ok\r\n552 full\r\n").unwrap();
        let result = line.talk.next_result();
        let results = if last { line.lost() } else { vec![result.unwrap()] };
        assert_eq!(outcomes(&results), [outcome]);
    }
}

#[test]
fn gathered_content_of_a_refused_message_does_not_begin_the_next() {
    let mut line = Line::new(CHUNKED, &[1, 1]);
    assert_eq!(line.talk.fill(&mut line.out), Want::Body(0));
    line.talk.body(&[b'x'; 40_000], &mut line.out).unwrap();
    line.talk.body(&[b'x'; 40_000], &mut line.out).unwrap(); // the first chunk is sent, this one waits
    let left = line.out.offer().len();
    line.out.written(left);
    line.hear("250 ok\r\n250 ok\r\n552 full\r\n").unwrap();
    assert_eq!(outcomes(&[line.talk.next_result().unwrap()]), [Outcome::Refused]);
    let said = line.said("Hello\r\n");
    assert!(said.starts_with("RSET\r\nMAIL FROM:<s1@x>\r\n"), "{said:.100}");
    assert!(said.ends_with("\r\nBDAT 7 LAST\r\nHello\r\n"), "{said:.100}");
}

#[test]
fn an_envelope_that_was_given_up_halfway_is_followed_by_rset() {
    let mut line = Line::new(Options { joining: Joining::Works, ..JOINED }, &[600, 1]);
    assert_eq!(line.said("").lines().count(), 512);
    line.hear("550 no\r\n").unwrap();
    assert!(line.said("").starts_with("RSET\r\n"));
}

#[test]
fn an_envelope_that_was_not_joined_is_not_sent_again() {
    let mut line = Line::new(JOINED, &[1]);
    line.said("");
    assert!(line.want("") == Want::Reply && !line.talk.on_silence());
    assert_eq!(outcomes(&line.lost()), [Outcome::NotSent]);
}

#[test]
fn an_envelope_that_was_refused_is_not_sent_again_when_the_connection_is_lost() {
    let mut line = Line::new(JOINED, &[1, 1]);
    line.said("");
    line.hear("250 ok\r\n250 ok\r\n354 go on\r\n").unwrap();
    line.said("Hello\r\n");
    line.hear("250 taken\r\n550 no\r\n").unwrap();
    assert!(!line.talk.on_silence());
    assert_eq!(outcomes(&line.lost()), [Outcome::Accepted, Outcome::Refused]);
}

#[test]
fn messages_passed_in_before_they_are_wanted_wait_for_their_turn() {
    let lock_step = Options { pipelining: false, joining: Joining::Off, ..JOINED };
    let mut line = Line::new(lock_step, &[1, 1]);
    for (said, reply) in [
        ("MAIL FROM:<s0@x>\r\n", "250 ok\r\n"),
        ("RCPT TO:<r0.0@x>\r\n", "250 ok\r\n"),
        ("DATA\r\n", "354 go on\r\n"),
        ("Hello\r\n.\r\n", "250 taken\r\n"),
    ] {
        assert_eq!(line.said("Hello\r\n"), said);
        line.hear(reply).unwrap();
    }
    line.talk.next_result().unwrap().map(drop).unwrap();
    assert_eq!(line.said(""), "MAIL FROM:<s1@x>\r\n");

    let mut line = Line::new(Options { joining: Joining::Off, ..JOINED }, &[1, 1]);
    line.said("");
    line.hear("250 ok\r\n250 ok\r\n354 go on\r\n").unwrap();
    assert_eq!(line.said("Hello\r\n"), "Hello\r\n.\r\n");
}

#[test]
fn a_message_that_comes_during_the_last_rset_waits_for_its_reply() {
    let mut line = Line::new(JOINED, &[1]);
    line.said("");
    line.hear("550 no\r\n503 no\r\n503 no\r\n").unwrap();
    assert!(line.talk.next_result().unwrap().is_err());
    assert_eq!(line.said(""), "RSET\r\n");
    let envelope = Envelope::new("late@x", ["r@x"]).unwrap();
    line.talk.message(Transaction::new(envelope, MailParameters::default()));
    assert_eq!(line.said(""), "");
    line.hear("250 ok\r\n").unwrap();
    assert!(line.said("").starts_with("MAIL FROM:<late@x>\r\n"));
}

#[test]
fn no_message_is_asked_for_while_the_window_is_full() {
    // MAIL and 510 recipients get 511 replies; BDAT gets the last one of the window.
    let mut line = Line::new(CHUNKED, &[510]);
    line.said("Hello\r\n");
    line.talk.more();
    assert_eq!(line.want(""), Want::Reply);
    line.hear("250 ok\r\n").unwrap();
    assert_eq!(line.want(""), Want::Message);
}

#[test]
fn content_passed_in_before_it_is_wanted_is_an_error() {
    let mut line = Line::new(JOINED, &[1]);
    assert!(line.talk.body(b"Hello\r\n", &mut line.out).is_err());
    line.said("");
    assert!(line.talk.body(b"Hello\r\n", &mut line.out).is_err());
}

#[test]
fn lmtp_answers_for_each_accepted_recipient() {
    for chunking in [false, true] {
        let mut line = Line::new(Options { lmtp: true, chunking, ..JOINED }, &[4]);
        line.said("");
        let leave = if chunking { "" } else { "354 go on\r\n" };
        line.hear(&format!("250 ok\r\n250 ok\r\n550 nobody\r\n250 ok\r\n250 ok\r\n{leave}")).unwrap();
        line.said("Hello\r\n");
        line.hear("452 full\r\n250 taken by the third\r\n").unwrap();
        assert!(line.talk.next_result().is_none(), "a reply is still due");
        line.hear("250 taken by the fourth\r\n").unwrap();
        let delivery = line.talk.next_result().unwrap().unwrap();
        let each: Vec<_> = delivery.recipients().map(|r| (r.outcome(), r.reply().unwrap().text())).collect();
        assert_eq!(
            each,
            [
                (Outcome::Refused, "full".to_owned()),
                (Outcome::Refused, "nobody".to_owned()),
                (Outcome::Accepted, "taken by the third".to_owned()),
                (Outcome::Accepted, "taken by the fourth".to_owned()),
            ]
        );
    }
}

#[test]
fn lmtp_refused_for_all_is_refused_and_can_be_retried_where_temporary() {
    let mut line = Line::new(Options { lmtp: true, ..JOINED }, &[2]);
    line.said("");
    line.hear("250 ok\r\n250 ok\r\n250 ok\r\n354 go on\r\n").unwrap();
    line.said("Hello\r\n");
    line.hear("550 no\r\n452 full\r\n").unwrap();
    let error = line.talk.next_result().unwrap().unwrap_err();
    assert_eq!(error.delivery().unwrap().outcome(), Outcome::Refused);
    assert!(error.is_transient());
    assert_eq!(error.delivery().unwrap().retry_envelope().unwrap().recipients()[0].as_str(), "r0.1@x");
    assert_eq!(line.said(""), "RSET\r\n");
}

#[test]
fn an_lmtp_354_without_recipients_is_a_protocol_error() {
    let mut line = Line::new(Options { lmtp: true, ..JOINED }, &[1]);
    line.said("");
    assert!(matches!(
        line.hear("250 ok\r\n550 no\r\n354 go on\r\n"),
        Err(Error::Protocol { phase: Phase::Data, .. })
    ));
    assert_eq!(outcomes(&line.lost()), [Outcome::Refused]);
}

#[test]
fn lmtp_sends_no_chunk_without_an_accepted_recipient() {
    let mut line = Line::new(Options { lmtp: true, ..CHUNKED }, &[1]);
    assert!(!line.said("Hello\r\n").contains("BDAT"));
    line.hear("250 ok\r\n550 nobody\r\n").unwrap();
    assert_eq!(line.said("Hello\r\n"), "");
    assert_eq!(outcomes(&[line.talk.next_result().unwrap()]), [Outcome::Refused]);
    assert_eq!(line.said(""), "RSET\r\n");
}

#[test]
fn once_joining_works_a_501_refuses_the_sender() {
    for (joining, again) in [(Joining::Untried, true), (Joining::Works, false)] {
        let mut line = Line::new(Options { joining, ..JOINED }, &[1, 1]);
        line.said("");
        line.hear("250 ok\r\n250 ok\r\n354 go on\r\n").unwrap();
        line.said("Hello\r\n");
        line.hear("250 taken\r\n501 no\r\n503 no\r\n503 no\r\n").unwrap();
        line.talk.next_result().unwrap().map(drop).unwrap();
        assert_eq!(line.talk.next_result().is_none(), again);
        assert_eq!(line.talk.joining(), if again { Joining::Off } else { Joining::Works });
    }
}

#[test]
fn an_envelope_sent_alone_that_gets_503_is_refused() {
    let mut line = Line::new(JOINED, &[1]);
    line.said("");
    line.hear("503 no\r\n503 no\r\n503 no\r\n").unwrap();
    assert_eq!(outcomes(&[line.talk.next_result().unwrap()]), [Outcome::Refused]);
}

#[test]
fn only_the_first_reply_to_a_joined_envelope_is_probed_for() {
    for joining in [Joining::Untried, Joining::Works] {
        let mut line = Line::new(Options { joining, ..JOINED }, &[1, 1]);
        assert_eq!(line.want(""), Want::Reply);
        line.said("");
        line.hear("250 ok\r\n250 ok\r\n354 go on\r\n").unwrap();
        assert_eq!(line.want("Hello\r\n"), Want::Reply);
        line.said("");
        line.hear("250 taken\r\n").unwrap();
        line.talk.next_result().unwrap().map(drop).unwrap();
        let probe = if joining == Joining::Untried { Want::Probe } else { Want::Reply };
        assert_eq!(line.want(""), probe);
        line.hear("250 ok\r\n").unwrap();
        assert_eq!(line.want(""), Want::Reply);
    }
}

#[test]
fn many_long_refusals_are_kept_only_up_to_a_limit() {
    let mut line = Line::new(Options { pipelining: false, joining: Joining::Off, ..JOINED }, &[3_000]);
    line.said("");
    line.hear("250 ok\r\n").unwrap();
    let long = "x".repeat(3_000);
    for _ in 0..3_000 {
        line.said("");
        line.hear(&format!("550 {long}\r\n")).unwrap();
    }
    assert_eq!(line.want(""), Want::Result);
    let error = line.talk.next_result().unwrap().unwrap_err();
    let kept: usize = error.delivery().unwrap().refused().map(|r| r.reply().unwrap().raw().len()).sum();
    assert!(kept < 2 * 1024 * 1024, "{kept} octets");
}

/// Returns the text with CRLF line endings, including one at its end.
fn plain(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8(text.to_vec()).unwrap().replace("\r\n", "\n").replace('\r', "\n");
    let ended = if text.ends_with('\n') { text } else { text + "\n" };
    ended.replace('\n', "\r\n").into_bytes()
}
