//! The table: sessions, the states that occur in them, and the events that can happen there.

use postino::Phase;

/// An event caused by the server, the caller, or the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The expected reply.
    Good,
    /// 4xx.
    Later,
    /// 5xx.
    Never,
    /// 421.
    Closing,
    /// A reply that is not valid here: its code is for something else.
    WrongClass,
    /// Octets that are not a reply.
    Garbage,
    /// A line, or a reply, without an end.
    Oversize,
    /// The expected reply, and one more in the same segment.
    ExtraLine,
    /// The expected reply in two segments, split at every octet.
    Split,
    /// A reply that arrives octet by octet, too slowly to be complete in time.
    Slow,
    /// No reply.
    Silence,
    /// The server closes the connection.
    Fin,
    /// The server resets the connection.
    Reset,
    /// The server ends its side of the connection, and continues to read.
    HalfClose,
    /// The server stops reading, and the buffers are full.
    WriteBlocked,
    /// The caller stops the client, or drops its future.
    Cancel,
    /// The deadline of the whole call expires.
    Deadline,
}

pub const EVENTS: [Event; 17] = {
    use Event::*;
    [
        Good,
        Later,
        Never,
        Closing,
        WrongClass,
        Garbage,
        Oversize,
        ExtraLine,
        Split,
        Slow,
        Silence,
        Fin,
        Reset,
        HalfClose,
        WriteBlocked,
        Cancel,
        Deadline,
    ]
};

/// A state, and its places in sessions. A place is after the named lines, before the server sends its next reply.
pub struct State {
    pub name: &'static str,
    pub places: &'static [(&'static Session, &'static str)],
    /// The cells that make no sense, and why.
    pub without: &'static [(Reason, &'static [Event])],
}

/// A whole session without a fault, as a script for `support/peer.rs`. The test makes the client send what the script
/// expects.
pub struct Session(pub &'static str);

/// Why a cell makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason(pub &'static str);

const NOBODY: Reason =
    Reason("nobody is asked but the system's resolver, which no server of ours can stand in for");
const NO_WORDS: Reason = Reason("TCP has no words: a connection comes, is refused, or does not come");
const NOTHING_TO_WRITE: Reason = Reason("the client writes nothing here");
const NOTHING_DUE: Reason = Reason("within the content no reply is due, so that silence is what should be");
const NOT_APART: Reason =
    Reason("this EHLO leaves right behind the handshake's last words, and nothing comes in between");
/// For builds without TLS only.
pub const NO_TLS: Reason = Reason("this build has no TLS");

const HELLO: Session = Session(
    "S: 220 hi
     C: EHLO client.example.org
     S: 250 hi",
);
const UPGRADE: Session = Session(
    "S: 220 hi
     C: EHLO client.example.org
     S: 250-hi
     S: 250 STARTTLS
     C: STARTTLS
     S: 220 go ahead
     -- tls good
     C: EHLO client.example.org
     S: 250 hi",
);
const IMPLICIT: Session = Session(
    "-- tls good
     S: 220 hi
     C: EHLO client.example.org
     S: 250 hi",
);
const LOGIN: Session = Session(
    "S: 220 hi
     C: EHLO client.example.org
     S: 250-hi
     S: 250 AUTH LOGIN
     C: AUTH LOGIN
     S: 334 VXNlcm5hbWU6
     C: dXNlcg==
     S: 334 UGFzc3dvcmQ6
     C: c2VjcmV0
     S: 235 come in",
);
const PLAIN: Session = Session(
    "S: 220 hi
     C: EHLO client.example.org
     S: 250-hi
     S: 250 AUTH PLAIN
     C: AUTH PLAIN AHVzZXIAc2VjcmV0
     S: 235 come in",
);
/// A message to two recipients, so that one can be refused.
const LETTER: Session = Session(
    "S: 220 hi
     C: EHLO client.example.org
     S: 250 hi
     C: MAIL FROM:<alice@example.org>
     S: 250 ok
     C: RCPT TO:<bob@example.org>
     S: 250 ok
     C: RCPT TO:<carol@example.org>
     S: 250 ok
     C: DATA
     S: 354 go on
     C: Hello
     C: .
     S: 250 ok",
);
const TO_ONE: Session = Session(
    "S: 220 hi
     C: EHLO client.example.org
     S: 250 hi
     C: MAIL FROM:<alice@example.org>
     S: 250 ok
     C: RCPT TO:<bob@example.org>
     S: 250 ok
     C: DATA
     S: 354 go on
     C: Hello
     C: .
     S: 250 ok",
);
/// The same message to a server that supports pipelining (RFC 2920).
const FLIGHT: Session = Session(
    "S: 220 hi
     C: EHLO client.example.org
     S: 250-hi
     S: 250 PIPELINING
     C: MAIL FROM:<alice@example.org>
     C: RCPT TO:<bob@example.org>
     C: RCPT TO:<carol@example.org>
     C: DATA
     S: 250 ok
     S: 250 ok
     S: 250 ok
     S: 354 go on
     C: Hello
     C: .
     S: 250 ok",
);
/// A message of which the server has read the number of octets given by `read` when the event happens.
const FROM_ITS_START: Session = Session(
    "S: 220 hi
     C: EHLO client.example.org
     S: 250 hi
     C: MAIL FROM:<alice@example.org>
     S: 250 ok
     C: RCPT TO:<bob@example.org>
     S: 250 ok
     C: DATA
     S: 354 go on
     -- read 0
     -- body
     S: 250 ok",
);
const FROM_THE_MIDDLE: Session = Session(
    "S: 220 hi
     C: EHLO client.example.org
     S: 250 hi
     C: MAIL FROM:<alice@example.org>
     S: 250 ok
     C: RCPT TO:<bob@example.org>
     S: 250 ok
     C: DATA
     S: 354 go on
     -- read 30000
     -- body
     S: 250 ok",
);
const CHUNKS: Session = Session(
    "S: 220 hi
     C: EHLO client.example.org
     S: 250-hi
     S: 250 CHUNKING
     C: MAIL FROM:<alice@example.org>
     S: 250 ok
     C: RCPT TO:<bob@example.org>
     S: 250 ok
     -- chunk
     S: 250 ok
     -- last
     S: 250 ok",
);
const RSET: Session = Session(
    "S: 220 hi
     C: EHLO client.example.org
     S: 250 hi
     C: RSET
     S: 250 ok",
);
const NOOP: Session = Session(
    "S: 220 hi
     C: EHLO client.example.org
     S: 250 hi
     C: NOOP
     S: 250 ok",
);
const QUIT: Session = Session(
    "S: 220 hi
     C: EHLO client.example.org
     S: 250 hi
     C: QUIT
     S: 221 bye",
);

pub const STATES: [State; 19] = {
    use Event::*;
    [
        State {
            name: "Resolving",
            places: &[],
            without: &[
                (
                    NOBODY,
                    &[Later, Never, Closing, WrongClass, Garbage, Oversize, ExtraLine, Split, Slow, Silence],
                ),
                (NOBODY, &[Fin, Reset, HalfClose]),
                (NOTHING_TO_WRITE, &[WriteBlocked]),
            ],
        },
        State {
            name: "Connecting",
            places: &[],
            without: &[
                (NO_WORDS, &[Later, Never, Closing, WrongClass, Garbage, Oversize, ExtraLine, Split, Slow]),
                (NO_WORDS, &[Fin, HalfClose]),
                (NOTHING_TO_WRITE, &[WriteBlocked]),
            ],
        },
        State { name: "TlsHandshake", places: &[(&IMPLICIT, "")], without: &[] },
        State { name: "Greeting", places: &[(&HELLO, "")], without: &[(NOTHING_TO_WRITE, &[WriteBlocked])] },
        State { name: "Ehlo1", places: &[(&HELLO, "C: EHLO client.example.org")], without: &[] },
        State { name: "StartTls", places: &[(&UPGRADE, "C: STARTTLS")], without: &[] },
        State { name: "TlsHandshake2", places: &[(&UPGRADE, "S: 220 go ahead")], without: &[] },
        State {
            name: "Ehlo2",
            places: &[(&UPGRADE, "-- tls good\nC: EHLO client.example.org")],
            without: &[(NOT_APART, &[WriteBlocked])],
        },
        State {
            name: "Auth",
            places: &[
                (&LOGIN, "C: AUTH LOGIN"),
                (&LOGIN, "C: dXNlcg=="),
                (&LOGIN, "C: c2VjcmV0"),
                (&PLAIN, "C: AUTH PLAIN AHVzZXIAc2VjcmV0"),
            ],
            without: &[],
        },
        State {
            name: "Mail",
            places: &[(&LETTER, "C: MAIL FROM:<alice@example.org>"), (&FLIGHT, "C: DATA")],
            without: &[],
        },
        State {
            name: "Rcpt",
            places: &[
                (&LETTER, "C: RCPT TO:<bob@example.org>"),
                (&LETTER, "C: RCPT TO:<carol@example.org>"),
                (&TO_ONE, "C: RCPT TO:<bob@example.org>"),
                (&FLIGHT, "C: DATA\nS: 250 ok"),
                (&FLIGHT, "C: DATA\nS: 250 ok\nS: 250 ok"),
            ],
            without: &[],
        },
        State {
            name: "DataCmd",
            places: &[(&LETTER, "C: DATA"), (&FLIGHT, "C: DATA\nS: 250 ok\nS: 250 ok\nS: 250 ok")],
            without: &[],
        },
        State {
            name: "DataBody",
            places: &[(&FROM_ITS_START, "-- read 0"), (&FROM_THE_MIDDLE, "-- read 30000")],
            without: &[(NOTHING_DUE, &[Silence])],
        },
        State { name: "DataEnd", places: &[(&LETTER, "C: .")], without: &[] },
        State { name: "BdatChunk", places: &[(&CHUNKS, "-- chunk"), (&CHUNKS, "-- last")], without: &[] },
        State { name: "Rset", places: &[(&RSET, "C: RSET")], without: &[] },
        State { name: "Noop", places: &[(&NOOP, "C: NOOP")], without: &[] },
        State { name: "Quit", places: &[(&QUIT, "C: QUIT")], without: &[] },
        State {
            name: "Idle",
            places: &[(&NOOP, "S: 250 hi")],
            without: &[(NOTHING_TO_WRITE, &[WriteBlocked])],
        },
    ]
};

impl State {
    /// Why this cell makes no sense, or `None` if it does.
    pub fn reason(&self, event: Event) -> Option<Reason> {
        let mut given = self.without.iter().filter(|(_, events)| events.contains(&event));
        let reason = given.next().map(|(reason, _)| *reason);
        assert!(given.next().is_none(), "{} x {event:?} has two reasons", self.name);
        let tls =
            self.places.iter().all(|(session, _)| session.0.contains("-- tls")) && !self.places.is_empty();
        reason.or((tls && !cfg!(any(feature = "native-tls", feature = "rustls"))).then_some(NO_TLS))
    }

    /// Returns each place in clear text and, unless it is about TLS itself, also in TLS.
    pub fn scenes(&self) -> Vec<Scene> {
        let in_clear = self.places.iter().map(|(session, behind)| Scene::new(self.name, session.0, behind));
        let mut scenes: Vec<_> = in_clear.collect();
        for (session, behind) in self.places {
            if cfg!(any(feature = "native-tls", feature = "rustls")) && !session.0.contains("-- tls") {
                let session = format!("{}\n{}", IMPLICIT.0.lines().next().unwrap(), session.0);
                let behind = if behind.is_empty() { "-- tls good" } else { behind };
                scenes.push(Scene::new(self.name, &session, behind));
            }
        }
        scenes
    }
}

/// A session, cut at the state.
#[derive(Debug, Clone)]
pub struct Scene {
    pub name: String,
    /// Everything before the state, except what the client sends last.
    pub before: Vec<String>,
    /// What the client sends last; empty if the server has replied since.
    pub asks: Vec<String>,
    /// The expected reply; empty if none is due.
    pub good: Vec<String>,
    /// The rest of the session.
    pub rest: Vec<String>,
    /// The line that the reply answers, if there is one.
    pub to: Option<String>,
    /// The phase of that line.
    pub phase: Phase,
}

impl Scene {
    fn new(state: &str, session: &str, behind: &str) -> Scene {
        let mut lines: Vec<String> = session.lines().map(|line| line.trim().to_owned()).collect();
        let behind: Vec<&str> = behind.lines().collect();
        let at = lines.windows(behind.len().max(1)).position(|window| behind.iter().eq(window.iter()));
        let at = at.map_or(0, |at| at + behind.len());
        assert!(at > 0 || behind.is_empty(), "{state}: no {behind:?} in {session}");
        let mut rest = lines.split_off(at);
        let mut before = lines;
        let handshake = rest[0].starts_with("-- tls");
        let good: Vec<_> = rest.drain(..if handshake { 1 } else { reply(&rest) }).collect();
        let to = unanswered(&before);
        let phase = match to.as_ref().or(before.last()) {
            _ if handshake => Phase::Tls,
            Some(line) if line != "-- tls good" => answered(line),
            _ => Phase::Greeting,
        };
        let own = before.iter().rev().take_while(|line| is_clients(line)).count();
        let asks = before.split_off(before.len() - own);
        let tls = if before.first().is_some_and(|line| line == "-- tls good") { " in TLS" } else { "" };
        let place = if behind.is_empty() { String::new() } else { format!(" behind {:?}", behind.join(" ")) };
        Scene { name: format!("{state}{place}{tls}"), before, asks, good, rest, to, phase }
    }

    /// Whether no reply is due.
    pub fn is_unasked(&self) -> bool {
        self.good.is_empty()
    }

    /// Number of further replies that are due for what the client has already sent.
    pub fn due(&self) -> usize {
        self.rest.iter().take_while(|line| line.starts_with("S:")).filter(|line| is_last(line)).count()
    }

    /// Whether the state is between two replies to one flight: the client has nothing to write, and tests cannot see
    /// how far it has read.
    pub fn is_mid_flight(&self) -> bool {
        self.asks.is_empty() && !self.is_unasked() && !matches!(self.phase, Phase::Tls | Phase::Greeting)
    }

    /// All lines of the session.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        [&self.before, &self.asks, &self.good, &self.rest].into_iter().flatten().map(String::as_str)
    }

    pub fn says(&self, what: &str) -> bool {
        self.lines().any(|line| line.contains(what))
    }

    /// The recipients of the message.
    pub fn recipients(&self) -> Vec<&str> {
        let of = |line: &'_ str| -> Option<(usize, usize)> {
            let rest = line.strip_prefix("C: RCPT TO:<")?;
            Some((line.len() - rest.len(), line.len() - 1))
        };
        self.lines().filter_map(|line| of(line).map(|(from, to)| &line[from..to])).collect()
    }
}

/// Number of lines in the reply at the start; 0 if it is not the server's turn.
fn reply(lines: &[String]) -> usize {
    match lines.first() {
        Some(line) if line.starts_with("S:") => lines.iter().position(|line| is_last(line)).unwrap() + 1,
        _ => 0,
    }
}

/// Whether a line of the server is the last of its reply.
fn is_last(line: &str) -> bool {
    line.as_bytes().get("S: 250".len()) != Some(&b'-')
}

/// The first of the client's lines that has no reply yet.
fn unanswered(lines: &[String]) -> Option<String> {
    let mut said = std::collections::VecDeque::new();
    for line in lines {
        if is_clients(line) && line != "C: Hello" {
            said.push_back(line);
        } else if line.starts_with("S:") && is_last(line) {
            said.pop_front(); // the greeting is not a reply to anything
        }
    }
    said.pop_front().cloned()
}

/// Whether the client sends this line.
pub fn is_clients(line: &str) -> bool {
    line.starts_with("C:") || matches!(line, "-- body" | "-- chunk" | "-- last")
}

/// Phase of the reply to this line of the client. If the line is the server's, the client is idle, and sends
/// NOOP next.
fn answered(line: &str) -> Phase {
    let words = line.strip_prefix("C: ").unwrap_or(line);
    match words.split(' ').next().unwrap_or_default() {
        "EHLO" => Phase::Hello,
        "STARTTLS" => Phase::StartTls,
        "AUTH" | "dXNlcg==" | "c2VjcmV0" => Phase::Auth,
        "MAIL" => Phase::Mail,
        "RCPT" => Phase::Recipient,
        "DATA" => Phase::Data,
        "." => Phase::End,
        "RSET" => Phase::Reset,
        "NOOP" | "S:" => Phase::Noop,
        "QUIT" => Phase::Quit,
        "--" if words == "-- last" => Phase::End,
        "--" if words == "-- chunk" || words.starts_with("-- read") => Phase::Body,
        _ => panic!("no phase is known after {line:?}"),
    }
}

/// Phase of the client when it sends this line.
pub fn said(line: &str) -> Phase {
    match line {
        "C: Hello" | "-- body" | "-- last" => Phase::Body,
        line => answered(line),
    }
}
