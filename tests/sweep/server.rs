//! A server without sockets: it answers everything at once and correctly, and records what it accepts.
//!
//! It panics at anything that a client in step would not send. Each reply names the command that it answers.

use memchr::memmem;

/// The extensions it offers, and how its client uses them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub pipelining: bool,
    pub joining: bool,
    pub chunking: bool,
    pub lmtp: bool,
}

pub const LOCK_STEP: Kind = Kind { pipelining: false, joining: false, chunking: false, lmtp: false };
pub const PIPELINED: Kind = Kind { pipelining: true, ..LOCK_STEP };
pub const JOINED: Kind = Kind { joining: true, ..PIPELINED };
pub const CHUNKED: Kind = Kind { chunking: true, ..JOINED };
pub const CHUNKED_LOCK_STEP: Kind = Kind { chunking: true, ..LOCK_STEP };
pub const LMTP: Kind = Kind { lmtp: true, ..JOINED };
pub const LMTP_CHUNKED: Kind = Kind { lmtp: true, ..CHUNKED };

/// All kinds.
pub const KINDS: [Kind; 7] = [LOCK_STEP, PIPELINED, JOINED, CHUNKED, CHUNKED_LOCK_STEP, LMTP, LMTP_CHUNKED];

/// A message that it accepted for one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub recipient: String,
    pub content: Vec<u8>,
}

#[derive(Debug, PartialEq)]
enum Stage {
    Commands,
    Data,
    /// This many octets of a chunk are to come; true for the last chunk.
    Chunk(usize, bool),
    Gone,
}

#[derive(Debug)]
pub struct Server {
    kind: Kind,
    stage: Stage,
    /// Everything received.
    pub heard: Vec<u8>,
    /// The part of it that was not looked at yet.
    input: Vec<u8>,
    /// Output that was not read yet.
    pub output: Vec<u8>,
    pub accepted: Vec<Accepted>,
    hello: bool,
    /// The recipients of the open transaction.
    transaction: Option<Vec<String>>,
    chunks: Vec<u8>,
}

impl Server {
    pub fn new(kind: Kind) -> Server {
        Server {
            kind,
            stage: Stage::Commands,
            heard: Vec::new(),
            input: Vec::new(),
            output: b"220 mail.example.org\r\n".to_vec(),
            accepted: Vec::new(),
            hello: false,
            transaction: None,
            chunks: Vec::new(),
        }
    }

    /// Whether it has ended the connection.
    pub fn is_gone(&self) -> bool {
        self.stage == Stage::Gone
    }

    pub fn hear(&mut self, bytes: &[u8]) {
        let may_run_ahead = self.hello && self.kind.pipelining;
        assert!(may_run_ahead || self.output.is_empty(), "it was told {} before it was heard", shown(bytes));
        self.heard.extend_from_slice(bytes);
        self.input.extend_from_slice(bytes);
        while self.answer() {}
    }

    /// Answers what comes next, if it is there.
    fn answer(&mut self) -> bool {
        match self.stage {
            Stage::Commands => self.command(),
            Stage::Data => self.data(),
            Stage::Chunk(octets, last) => self.chunk(octets, last),
            Stage::Gone => {
                assert!(self.input.is_empty(), "behind its end it was told {}", shown(&self.input));
                false
            }
        }
    }

    fn say(&mut self, line: &str) {
        self.output.extend_from_slice(line.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    fn command(&mut self) -> bool {
        let Some(end) = memmem::find(&self.input, b"\r\n") else { return false };
        let line: Vec<u8> = self.input.drain(..end + 2).take(end).collect();
        let line = String::from_utf8(line).expect("a command is ASCII");
        let verb = line.split(' ').next().unwrap_or_default();
        match verb {
            "EHLO" | "LHLO" => {
                assert_eq!(verb == "LHLO", self.kind.lmtp);
                self.hello = true;
                let extras = [("PIPELINING", self.kind.pipelining), ("CHUNKING", self.kind.chunking)];
                self.say("250-mail.example.org");
                extras.iter().filter(|(_, offered)| *offered).for_each(|(name, _)| {
                    self.say(&format!("250-{name}"));
                });
                self.say("250-AUTH PLAIN");
                self.say("250-8BITMIME");
                self.say("250 SIZE 10000000");
            }
            "AUTH" => self.say("235 AUTH done"),
            "NOOP" => self.say("250 NOOP done"),
            "XYZZY" => self.say("500 XYZZY is nothing"),
            "RSET" => {
                self.transaction = None;
                self.chunks.clear();
                self.say("250 RSET done");
            }
            "MAIL" => {
                assert!(self.transaction.is_none(), "MAIL within a transaction");
                self.transaction = Some(Vec::new());
                self.say("250 MAIL done");
            }
            "RCPT" => {
                let recipients = self.transaction.as_mut().expect("RCPT outside a transaction");
                let recipient = line["RCPT TO:<".len()..].split('>').next().unwrap_or_default().to_owned();
                let (code, word) =
                    if recipient.starts_with("nobody") { (550, "nobody") } else { (250, "somebody") };
                if code == 250 {
                    recipients.push(recipient);
                }
                self.say(&format!("{code} RCPT {word}"));
            }
            "DATA" => {
                if self.transaction.as_ref().expect("DATA outside a transaction").is_empty() {
                    self.say("554 DATA for nobody");
                } else {
                    self.stage = Stage::Data;
                    self.say("354 DATA go on");
                }
            }
            "BDAT" => {
                assert!(self.transaction.is_some(), "BDAT outside a transaction");
                let mut words = line.split(' ').skip(1);
                let octets = words.next().and_then(|octets| octets.parse().ok()).expect("BDAT has octets");
                self.stage = Stage::Chunk(octets, words.next() == Some("LAST"));
            }
            "QUIT" => {
                self.say("221 QUIT bye");
                self.stage = Stage::Gone;
            }
            _ => panic!("no command: {line:?}, behind {}", shown(&self.heard)),
        }
        true
    }

    fn data(&mut self) -> bool {
        let at_start = self.input.starts_with(b".\r\n").then_some(0);
        let end = at_start.or_else(|| memmem::find(&self.input, b"\r\n.\r\n").map(|at| at + 2));
        let Some(end) = end else { return false };
        let text: Vec<u8> = self.input.drain(..end + 3).take(end).collect();
        let lines = text.split_inclusive(|octet| *octet == b'\n');
        let content = lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect();
        self.stage = Stage::Commands;
        let recipients = self.transaction.take().unwrap_or_default();
        self.judge(recipients, content);
        true
    }

    fn chunk(&mut self, octets: usize, last: bool) -> bool {
        if self.input.len() < octets {
            return false;
        }
        self.chunks.extend(self.input.drain(..octets));
        self.stage = Stage::Commands;
        let recipients = self.transaction.clone().unwrap_or_default();
        if recipients.is_empty() {
            self.chunks.clear();
            self.say("503 BDAT for nobody");
        } else if last {
            let content = std::mem::take(&mut self.chunks);
            if self.judge(recipients, content) {
                self.transaction = None; // else it stays open, as with real servers
            }
        } else {
            self.say("250 BDAT go on");
        }
        true
    }

    /// Answers the end of a message. True if any recipient gets it.
    fn judge(&mut self, recipients: Vec<String>, content: Vec<u8>) -> bool {
        let refused = memmem::find(&content, b"refuse").is_some();
        let name = String::from_utf8_lossy(content.split(|b| *b == b'\r').next().unwrap_or_default());
        let (yes, no) = (format!("250 {name} taken"), format!("554 {name} refused"));
        match (self.kind.lmtp, refused) {
            (false, true) => self.say(&no),
            (false, false) => self.say(&yes),
            (true, _) => recipients.iter().for_each(|recipient| {
                self.say(if refused || recipient.starts_with("full") { &no } else { &yes });
            }),
        }
        let gets_it = |recipient: &String| !(refused || self.kind.lmtp && recipient.starts_with("full"));
        let taken = recipients.into_iter().filter(gets_it);
        let before = self.accepted.len();
        self.accepted.extend(taken.map(|recipient| Accepted { recipient, content: content.clone() }));
        self.accepted.len() > before
    }
}

pub fn shown(bytes: &[u8]) -> String {
    bytes[bytes.len().saturating_sub(300)..].escape_ascii().to_string()
}
