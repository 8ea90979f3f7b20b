//! The rule-driven server without sockets: it answers everything at once and correctly, records what it accepts, and
//! panics at anything that a client in step would not send.

use super::rules::{Act, Rules, Session, Stored, shown};

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

/// A session by rules with a client in step, over a wire in memory.
pub struct Server {
    session: Session,
    /// Everything received.
    pub heard: Vec<u8>,
    /// Output that was not read yet.
    pub output: Vec<u8>,
}

impl Server {
    pub fn new(kind: Kind) -> Server {
        let extras = [("PIPELINING", kind.pipelining), ("CHUNKING", kind.chunking)];
        let mut keywords = vec!["AUTH PLAIN", "8BITMIME", "SIZE 10000000"];
        keywords.extend(extras.iter().filter(|(_, offered)| *offered).map(|(name, _)| *name));
        let rules = Rules { keywords, lmtp: kind.lmtp, ..Rules::default() };
        let mut server = Server { session: Session::new(rules, 0), heard: Vec::new(), output: Vec::new() };
        server.act();
        server
    }

    /// Whether it has ended the connection.
    pub fn is_gone(&self) -> bool {
        self.session.is_gone()
    }

    /// The accepted messages.
    pub fn accepted(&self) -> &[Stored] {
        &self.session.report.stored
    }

    pub fn hear(&mut self, bytes: &[u8]) {
        assert!(
            self.session.may_run_ahead() || self.output.is_empty(),
            "the client sent {} before it had read the last reply",
            shown(bytes)
        );
        self.heard.extend_from_slice(bytes);
        self.session.hear(bytes);
        let violations = &self.session.report.violations;
        assert!(violations.is_empty(), "{violations:?}, after {}", shown(&self.heard));
        self.act();
    }

    fn act(&mut self) {
        for act in self.session.acts() {
            match act {
                Act::Write(octets) => self.output.extend(octets),
                Act::Close => {}
                act => panic!("nothing goes wrong at random here: {act:?}"),
            }
        }
    }
}
