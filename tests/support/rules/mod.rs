//! A server that follows rules: what it accepts, how it reads, when it ends a session, and what goes wrong at random.
//!
//! [`Session`] is one connection without sockets or time: octets in, [`Act`]s out. [`Ruled`] runs any number of them
//! over TCP. Each reply names its command, and each 250 for a message quotes the first line of the message.
//!
//! Recipients that start with `nobody` are refused at RCPT and, with LMTP, those that start with `full` after the
//! message. A message that contains `refuse it` is also refused.

#![allow(dead_code, unused_imports)] // each user needs only part of it

pub mod dice;
mod ruled;

use std::time::Duration;

use memchr::{memchr, memmem};

use self::dice::Dice;
pub use self::ruled::{Received, Ruled};

/// How a session ends after its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enough {
    /// The next MAIL, and every one after it, is answered 452.
    Refuses,
    /// The next MAIL is answered 421.
    Announces,
    /// The connection is closed right after the reply to the last message.
    Closes,
}

/// What happens to input that is read together with the input before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Joined {
    #[default]
    Heard,
    /// Commands after another command, or after a message, are answered 503.
    Refused,
    /// Commands after the end of a message are answered 503.
    RefusedAfterMessage,
    /// Whatever follows the end of a message is discarded.
    Swallowed,
    /// The final dot is removed only if it is the last thing in a read; otherwise, it is stored with the message,
    /// together with what follows it. The replies are correct nevertheless.
    Stored,
}

/// What goes wrong at random, as determined by the seed and the number of the connection.
#[derive(Debug, Clone, Copy)]
pub struct Odds {
    pub seed: u64,
    /// How many of 10,000 replies go wrong.
    pub trouble: u64,
    /// How many of 10,000 requests are refused.
    pub refusals: u64,
    /// Delay after which no client is still waiting for a reply.
    pub late: Duration,
}

/// The server's behaviour.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The extensions it offers, such as `PIPELINING`.
    pub keywords: Vec<&'static str>,
    pub lmtp: bool,
    /// Number of messages in a session, accepted or not, and what happens after them.
    pub session: Option<(usize, Enough)>,
    /// Number of connections on which it accepts messages; later connections have reached their limit from the start.
    pub connections: Option<usize>,
    pub joined: Joined,
    /// Writes each reply separately, with Nagle's algorithm on.
    pub writes_reply_by_reply: bool,
    /// Waits this long between two replies to commands that were read together.
    pub pause_between_replies: Duration,
    /// A recipient, and the reply that its RCPT gets.
    pub refuses: Option<(&'static str, &'static str)>,
    /// Maximum number of recipients per transaction: RCPT for any more is answered 452.
    pub room: Option<usize>,
    pub odds: Option<Odds>,
}

/// A message that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Number of the connection on which it arrived, from 0.
    pub connection: usize,
    pub sender: String,
    pub recipients: Vec<String>,
    pub content: String,
}

/// How a reply is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Said,
    Delayed,
    /// So late that no client waits for it any more.
    Late,
    /// Never sent; the connection stays open.
    Silence,
    Dropped,
    Reset,
    /// The connection ends in the middle of the reply.
    Cut,
    /// Sent, and the connection ends.
    Last,
    /// Sent, and a moment later the connection ends, with or without a 421.
    Idle,
    IdleClosing,
    /// 421 instead.
    Closing,
    /// Octets that are not a reply, instead.
    Junk,
}

/// What the server has to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Write these octets at once.
    Write(Vec<u8>),
    Wait(Duration),
    /// Write nothing more, and read until the client leaves.
    Hang,
    Close,
    Reset,
}

/// What a session has to report.
#[derive(Debug, Default)]
pub struct Report {
    /// The accepted messages. A message is added before the reply to it is sent.
    pub stored: Vec<Stored>,
    /// The commands, as `C: MAIL …`, and the replies, as `S: 250 …`.
    pub log: Vec<String>,
    /// Number of commands in each read; reads without commands are left out.
    pub flights: Vec<usize>,
    /// Descriptions of input that a client in step with the replies would not have sent.
    pub violations: Vec<String>,
}

enum Stage {
    Commands,
    Data {
        content: Vec<u8>,
    },
    /// The octets of a chunk are still to come.
    Chunk {
        octets: usize,
        last: bool,
        refused: bool,
    },
}

#[derive(Debug, Default)]
struct Transaction {
    sender: String,
    recipients: Vec<String>,
    chunks: Vec<u8>,
}

/// One connection.
pub struct Session {
    rules: Rules,
    number: usize,
    dice: Dice,
    input: Vec<u8>,
    acts: Vec<Act>,
    stage: Stage,
    /// Whether EHLO or LHLO was answered, so that the client knows the extensions.
    hello: bool,
    /// The transaction that the last MAIL began.
    transaction: Option<Transaction>,
    /// Whether the client may send RCPT, DATA or BDAT without a transaction, as it may not have read a refusal yet.
    excused: bool,
    /// Whether nothing from the last read has been handled yet.
    first: bool,
    /// Number of octets of input that arrived with the end of a message; commands in them are answered 503.
    refusing: usize,
    /// Number of messages whose end was answered.
    answered: usize,
    gone: bool,
    hung: bool,
    pub report: Report,
}

impl Session {
    /// Creates a session that begins with the greeting.
    pub fn new(rules: Rules, number: usize) -> Session {
        let mut session = Session {
            dice: Dice::new(rules.odds.map_or(0, |odds| odds.seed), number as u64),
            rules,
            number,
            input: Vec::new(),
            acts: Vec::new(),
            stage: Stage::Commands,
            hello: false,
            transaction: None,
            excused: false,
            first: true,
            refusing: 0,
            answered: 0,
            gone: false,
            hung: false,
            report: Report::default(),
        };
        session.reply("220 mail.example.org");
        session
    }

    /// Whether the server has ended the connection.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether the client may send commands before it has the replies to earlier ones.
    pub fn may_run_ahead(&self) -> bool {
        self.hello && self.rules.keywords.contains(&"PIPELINING")
    }

    /// Returns what is to be done before the next read.
    pub fn acts(&mut self) -> Vec<Act> {
        std::mem::take(&mut self.acts)
    }

    /// Handles the octets that one read returned.
    pub fn hear(&mut self, bytes: &[u8]) {
        if self.gone {
            self.object(format!("after the end: {}", shown(bytes)));
        }
        if self.gone || self.hung {
            return;
        }
        self.input.extend_from_slice(bytes);
        self.first = true;
        let before = self.report.log.len();
        while !self.gone && !self.hung && self.step() {}
        let commands = self.report.log[before..].iter().filter(|line| line.starts_with("C: ")).count();
        self.report.flights.extend(Some(commands).filter(|commands| *commands > 0));
    }

    /// Handles the next command or content, if enough of it has arrived. Returns whether to continue.
    fn step(&mut self) -> bool {
        match &mut self.stage {
            Stage::Commands => self.command(),
            Stage::Data { content } => {
                let mut content = std::mem::take(content);
                let ended = self.data(&mut content);
                if ended {
                    self.stage = Stage::Commands;
                    self.end_of_data(content);
                } else {
                    self.stage = Stage::Data { content };
                }
                ended
            }
            Stage::Chunk { octets, last, refused } => {
                let (octets, last, refused) = (*octets, *last, *refused);
                if self.input.len() < octets {
                    return false;
                }
                let chunk = self.take(octets);
                self.first = false;
                self.stage = Stage::Commands;
                self.chunk(&chunk, last, refused);
                true
            }
        }
    }

    fn take(&mut self, octets: usize) -> Vec<u8> {
        self.refusing = self.refusing.saturating_sub(octets);
        self.input.drain(..octets).collect()
    }

    fn command(&mut self) -> bool {
        let Some(end) = memmem::find(&self.input, b"\r\n") else { return false };
        let refused = match self.rules.joined {
            Joined::Refused => !self.first,
            Joined::RefusedAfterMessage => self.refusing > 0,
            _ => false,
        };
        let line = self.take(end + 2);
        let line = String::from_utf8_lossy(&line[..end]).into_owned();
        self.report.log.push(format!("C: {line}"));
        if !self.first && !self.may_run_ahead() {
            self.object(format!("{line:?}, together with what precedes it"));
        }
        self.first = false;
        match line.split(' ').next().unwrap_or_default() {
            "BDAT" => self.bdat(&line, refused), // its octets follow even if it is refused
            "QUIT" if self.refusing == 0 => {
                self.reply("221 QUIT bye");
                self.close();
            }
            verb if refused => {
                self.excused |= verb == "MAIL";
                self.reply("503 5.5.1 one at a time");
            }
            verb @ ("EHLO" | "LHLO") => self.hello(verb),
            "HELO" => self.reply("250 HELO done"),
            "AUTH" => self.reply("235 AUTH done"),
            "NOOP" => self.reply("250 NOOP done"),
            "XCLIENT" => self.reply("250 XCLIENT done"),
            "XYZZY" => self.reply("500 XYZZY is nothing"),
            "RSET" => {
                self.transaction = None;
                self.reply("250 RSET done");
            }
            "MAIL" => self.mail(&line),
            "RCPT" => self.rcpt(&line),
            "DATA" => self.start_of_data(),
            _ => {
                self.object(format!("{line:?}"));
                self.reply("500 5.5.2 what?");
            }
        }
        true
    }

    fn hello(&mut self, verb: &str) {
        if (verb == "LHLO") != self.rules.lmtp {
            self.object(verb.to_owned());
        }
        self.hello = true;
        self.transaction = None;
        let keywords = self.rules.keywords.iter();
        let lines: String = keywords.map(|keyword| format!("250-{keyword}\r\n")).collect();
        self.reply(&format!("250-mail.example.org\r\n{lines}250 HELP"));
    }

    fn mail(&mut self, line: &str) {
        let closed_to_all = self.rules.connections.is_some_and(|most| self.number >= most);
        let session = self.rules.session;
        match session.filter(|(most, _)| self.answered >= *most || closed_to_all) {
            Some((_, Enough::Refuses)) => {
                self.excused = true;
                return self.reply("452 4.5.3 too many messages in this session");
            }
            Some((_, Enough::Announces)) => {
                self.reply("421 4.7.0 too many messages in this session");
                return self.close();
            }
            Some((_, Enough::Closes)) => return self.close(),
            None => {}
        }
        if self.transaction.is_some() {
            self.object(format!("{line:?} within a transaction"));
            return self.reply("503 5.5.1 MAIL within a transaction");
        }
        let refusal = self.refusal();
        self.excused = refusal.is_some();
        if refusal.is_none() {
            self.transaction = Some(Transaction { sender: address(line), ..Transaction::default() });
        }
        self.reply(refusal.unwrap_or("250 MAIL done"));
    }

    fn rcpt(&mut self, line: &str) {
        if self.transaction.is_none() {
            return self.no_transaction("RCPT");
        }
        let address = address(line);
        let given = match self.rules.refuses {
            Some((refused, reply)) if refused == address => Some(reply),
            _ if address.starts_with("nobody") => Some("550 RCPT nobody"),
            _ => self.refusal(),
        };
        let Some(transaction) = &mut self.transaction else { return };
        if given.is_some() {
        } else if self.rules.room.is_some_and(|most| transaction.recipients.len() >= most) {
            return self.reply("452 4.5.3 too many recipients");
        } else {
            transaction.recipients.push(address);
        }
        self.reply(given.unwrap_or("250 RCPT somebody"));
    }

    fn no_transaction(&mut self, verb: &str) {
        if !self.excused {
            self.object(format!("{verb} outside a transaction"));
        }
        self.reply(&format!("503 5.5.1 {verb} without MAIL"));
    }

    fn is_for_nobody(&self) -> bool {
        self.transaction.as_ref().is_none_or(|transaction| transaction.recipients.is_empty())
    }

    fn start_of_data(&mut self) {
        if self.transaction.is_none() {
            return self.no_transaction("DATA");
        }
        // Some servers send 354 even without a valid recipient (RFC 2920 §3.1).
        if self.is_for_nobody() && (self.rules.odds.is_none() || self.dice.one_in(2)) {
            return self.reply("503 5.5.1 DATA for nobody");
        }
        let refusal = self.refusal();
        if refusal.is_none() {
            self.stage = Stage::Data { content: Vec::new() };
        }
        self.reply(refusal.unwrap_or("354 DATA go on"));
    }

    /// Reads lines of content, and returns whether it has ended. The dots are unstuffed.
    fn data(&mut self, content: &mut Vec<u8>) -> bool {
        let (mut at, mut ended) = (0, false);
        while let Some(length) = memchr(b'\n', &self.input[at..]).filter(|_| !ended) {
            let line = &self.input[at..=at + length];
            at += line.len();
            match line.strip_prefix(b".") {
                Some(b"\r\n") => ended = true,
                Some(stuffed) => content.extend_from_slice(stuffed),
                None => content.extend_from_slice(line),
            }
            if !ended && self.rules.odds.is_some_and(|odds| self.dice.below(10_000 * 20) < odds.trouble) {
                self.break_off();
                return false;
            }
        }
        self.take(at);
        ended
    }

    /// Ends the connection in the middle of the content, with a refusal or without a reply.
    fn break_off(&mut self) {
        match self.dice.below(3) {
            0 => self.give("552 enough", Fate::Last),
            1 => self.give("", Fate::Reset),
            _ => self.give("", Fate::Dropped),
        }
    }

    fn end_of_data(&mut self, content: Vec<u8>) {
        self.first = false;
        if self.is_for_nobody() {
            self.transaction = None;
            if !content.is_empty() {
                self.object(format!("content for nobody: {}", shown(&content)));
            }
            return self.reply("554 content for nobody");
        }
        let transaction = self.transaction.take().unwrap_or_default();
        self.end(transaction, content);
    }

    fn bdat(&mut self, line: &str, refused: bool) {
        let mut words = line.split(' ').skip(1);
        match words.next().and_then(|octets| octets.parse().ok()) {
            Some(octets) => self.stage = Stage::Chunk { octets, last: words.next() == Some("LAST"), refused },
            None => self.object(format!("{line:?}")),
        }
    }

    fn chunk(&mut self, chunk: &[u8], last: bool, refused: bool) {
        if refused {
            return self.reply("503 5.5.1 one at a time");
        }
        if self.transaction.is_none() {
            return self.no_transaction("BDAT");
        }
        if self.is_for_nobody() {
            return self.reply("503 5.5.1 BDAT for nobody");
        }
        let mut transaction = self.transaction.take().unwrap_or_default();
        transaction.chunks.extend_from_slice(chunk);
        if last {
            let content = std::mem::take(&mut transaction.chunks);
            if is_refused(&content) {
                // The transaction stays open, as on real servers.
                let Transaction { sender, recipients, .. } = &transaction;
                let (sender, recipients) = (sender.clone(), recipients.clone());
                self.transaction = Some(Transaction { sender, recipients, chunks: Vec::new() });
            }
            return self.end(transaction, content);
        }
        let refusal = self.refusal();
        if refusal.is_none() {
            self.transaction = Some(transaction);
        }
        self.excused = refusal.is_some();
        self.reply(refusal.unwrap_or("250 BDAT go on"));
    }

    /// Handles a complete message. It is accepted and stored, or refused, before the reply is sent.
    fn end(&mut self, transaction: Transaction, mut content: Vec<u8>) {
        let Transaction { sender, recipients, .. } = transaction;
        let name: String =
            String::from_utf8_lossy(&content).chars().take_while(|c| *c != '\r').take(60).collect();
        let (refused, mut stored, mut answers) = (is_refused(&content), Vec::new(), Vec::new());
        for group in recipients.chunks(if self.rules.lmtp { 1 } else { recipients.len() }) {
            let is_full = self.rules.lmtp && group[0].starts_with("full");
            let refusal = if refused || is_full {
                Some(format!("554 {name} refused"))
            } else {
                self.refusal().map(str::to_owned)
            };
            let fate = self.fate();
            if refusal.is_none() && fate != Fate::Closing {
                stored.extend_from_slice(group);
            }
            answers.push((refusal.unwrap_or_else(|| format!("250 {name} taken")), fate));
        }
        match self.rules.joined {
            Joined::Heard | Joined::Refused => {}
            Joined::RefusedAfterMessage => self.refusing = self.input.len(),
            Joined::Swallowed => {
                self.excused |= !self.input.is_empty();
                self.input.clear();
            }
            Joined::Stored if self.input.is_empty() => {}
            Joined::Stored => content.extend([b".\r\n", &self.input[..]].concat()),
        }
        if !stored.is_empty() {
            let content = String::from_utf8(content).expect("tests should send only UTF-8");
            self.report.stored.push(Stored { connection: self.number, sender, recipients: stored, content });
        }
        let last = answers.len() - 1;
        for (n, (answer, fate)) in answers.into_iter().enumerate() {
            // With LMTP, a 421 would be the reply for the next recipient.
            self.give(&answer, if fate == Fate::IdleClosing && n < last { Fate::Idle } else { fate });
            if self.gone || self.hung {
                return;
            }
        }
        self.answered += 1;
        if matches!(self.rules.session, Some((most, Enough::Closes)) if self.answered >= most) {
            self.close();
        }
    }

    fn refusal(&mut self) -> Option<&'static str> {
        let refused = self.rules.odds.is_some_and(|odds| self.dice.below(10_000) < odds.refusals);
        refused.then(|| {
            *self.dice.of(&[
                "450 later",
                "452-4.5.3 later\r\n452 4.5.3 too many",
                "550 no",
                "554 5.7.1 never",
            ])
        })
    }

    fn fate(&mut self) -> Fate {
        if self.rules.odds.is_none_or(|odds| self.dice.below(10_000) >= odds.trouble) {
            return Fate::Said;
        }
        match self.dice.below(60) {
            0 => Fate::Silence,
            1 => Fate::Late,
            n => *self.dice.of(if n < 30 {
                &[Fate::Delayed]
            } else {
                &[
                    Fate::Dropped,
                    Fate::Reset,
                    Fate::Cut,
                    Fate::Last,
                    Fate::Idle,
                    Fate::IdleClosing,
                    Fate::Closing,
                    Fate::Junk,
                ]
            }),
        }
    }

    fn reply(&mut self, answer: &str) {
        let fate = self.fate();
        self.give(answer, fate);
    }

    fn give(&mut self, answer: &str, fate: Fate) {
        self.report.log.push(format!("S: {answer} ({fate:?})"));
        let whole = format!("{answer}\r\n");
        match fate {
            Fate::Said => self.write(whole.as_bytes()),
            Fate::Delayed => {
                self.dawdle();
                self.write(whole.as_bytes());
            }
            Fate::Late => {
                let late = self.rules.odds.map_or(Duration::ZERO, |odds| 2 * odds.late);
                self.acts.push(Act::Wait(late));
                self.write(whole.as_bytes());
            }
            Fate::Silence => {
                self.acts.push(Act::Hang);
                self.hung = true;
            }
            Fate::Dropped => self.close(),
            Fate::Reset => {
                self.acts.push(Act::Reset);
                self.gone = true;
            }
            Fate::Cut => {
                let part = self.dice.below(whole.len() as u64 - 1) as usize;
                self.write(&whole.as_bytes()[..part]);
                self.close();
            }
            Fate::Last => {
                self.write(whole.as_bytes());
                self.close();
            }
            Fate::Idle | Fate::IdleClosing => {
                self.write(whole.as_bytes());
                self.dawdle();
                if fate == Fate::IdleClosing {
                    self.write(b"421 idle for too long\r\n");
                }
                self.close();
            }
            Fate::Closing => {
                self.write(b"421 closing\r\n");
                self.close();
            }
            Fate::Junk => {
                let junk: [&[u8]; 4] = [b"what?\r\n", b"\0\xff\r\n", b"25O ok\r\n", b"250-a\r\n550 b\r\n"];
                let junk = *self.dice.of(&junk);
                self.write(junk);
            }
        }
    }

    fn write(&mut self, octets: &[u8]) {
        let pause = self.rules.pause_between_replies;
        if !pause.is_zero() && self.acts.iter().any(|act| matches!(act, Act::Write(_))) {
            self.acts.push(Act::Wait(pause));
        }
        match self.acts.last_mut() {
            Some(Act::Write(all)) if !self.rules.writes_reply_by_reply => all.extend_from_slice(octets),
            _ => self.acts.push(Act::Write(octets.to_vec())),
        }
    }

    fn dawdle(&mut self) {
        let time = Duration::from_millis(self.dice.below(4));
        self.acts.push(Act::Wait(time));
    }

    fn close(&mut self) {
        self.acts.push(Act::Close);
        self.gone = true;
    }

    /// Records input that a client in step with the replies would not have sent.
    fn object(&mut self, what: String) {
        self.report.violations.push(format!("connection {}: {what}", self.number));
    }
}

fn is_refused(content: &[u8]) -> bool {
    memmem::find(content, b"refuse it").is_some()
}

fn address(line: &str) -> String {
    let (_, path) = line.split_once('<').unwrap_or_default();
    path.split('>').next().unwrap_or_default().to_owned()
}

pub fn shown(bytes: &[u8]) -> String {
    bytes[bytes.len().saturating_sub(300)..].escape_ascii().to_string()
}
