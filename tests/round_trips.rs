//! Round trips, counted in virtual time: a network with a delay, without sleeping.

#[path = "support/options.rs"]
mod options;
#[path = "support/rules/mod.rs"]
mod rules;

use std::collections::VecDeque;

use options::Options;
use postino::{
    Envelope,
    proto::{Dialogue, Inbox, Joining, MailParameters, Outbox, Transaction, Transactions, Want},
};
use rules::{Act, Rules, Session};

/// Maximum number of outstanding replies (`proto::transaction`).
const WINDOW: usize = 512;

/// A server in memory that accepts everything, after EHLO.
fn server(options: Options) -> Session {
    let keywords = if options.pipelining { vec!["PIPELINING"] } else { Vec::new() };
    let mut server = Session::new(Rules { keywords, lmtp: options.lmtp, ..Rules::default() }, 0);
    answers(&mut server, if options.lmtp { b"LHLO x\r\n" } else { b"EHLO x\r\n" });
    server
}

fn answers(server: &mut Session, bytes: &[u8]) -> Vec<u8> {
    server.hear(bytes);
    assert_eq!(server.report.violations, [""; 0]);
    let octets = server.acts().into_iter().flat_map(|act| match act {
        Act::Write(octets) => octets,
        act => panic!("{act:?}"),
    });
    octets.collect()
}

/// The messages to be sent, and how.
#[derive(Clone, Copy)]
struct Load {
    options: Options,
    messages: usize,
    recipients: usize,
    /// Size of the content of each message, in octets.
    octets: usize,
    /// Whether an earlier transaction may still be open.
    open: bool,
    /// Whether messages come from a source that may make the client wait.
    unsure: bool,
}

/// The client's end: hands over messages, and reports what has to happen next.
struct Sender {
    talk: Transactions,
    inbox: Inbox,
    out: Outbox,
    load: Load,
    posted: usize,
    /// Number of octets that are left of the content being sent.
    left: Option<usize>,
    accepted: usize,
}

impl Sender {
    fn new(load: Load) -> Sender {
        Sender {
            talk: Transactions::new(load.options.into(), load.open),
            inbox: Inbox::default(),
            out: Outbox::default(),
            load,
            posted: 0,
            left: None,
            accepted: 0,
        }
    }

    /// Continues as far as possible without the network. Returns false at the end.
    fn go_on(&mut self) -> bool {
        loop {
            while let Some(reply) = self.inbox.next_reply().unwrap() {
                self.out.reply_arrived();
                self.talk.on_reply(reply, &self.out).unwrap();
            }
            let want = self.talk.fill(&mut self.out);
            assert!(self.out.unsent().len() < 256 * 1024, "too many octets are waiting to be sent");
            match want {
                Want::Nothing => return false,
                Want::Message if self.load.unsure && !self.talk.has_said_all(&self.out) => self.talk.later(),
                Want::Message if self.posted < self.load.messages => {
                    let names = (0..self.load.recipients).map(|n| format!("r{n}@x"));
                    let envelope = Envelope::new("s@x", names).unwrap();
                    let ahead = self.load.octets < 64 * 1024;
                    self.talk.message(Transaction::new(envelope, MailParameters::default()).ahead(ahead));
                    self.posted += 1;
                }
                Want::Message => self.talk.no_more(),
                Want::Result => {
                    self.talk.next_result().unwrap().map(drop).unwrap();
                    self.accepted += 1;
                }
                Want::Body(_) => {
                    let left = self.left.take().unwrap_or(self.load.octets);
                    let piece = vec![b'x'; left.min(32 * 1024)];
                    self.left = (left > 0).then(|| left - piece.len());
                    self.talk.body(&piece, &mut self.out).unwrap();
                }
                Want::Write | Want::Reply | Want::Probe => return true,
                _ => panic!("{want:?}"),
            }
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(1000) {
            self.inbox.room()[..piece.len()].copy_from_slice(piece);
            self.inbox.arrived(piece.len());
            while let Some(reply) = self.inbox.next_reply().unwrap() {
                self.out.reply_arrived();
                self.talk.on_reply(reply, &self.out).unwrap();
            }
        }
    }
}

/// Sends everything over a network whose only cost is the round trip; returns the number of round trips.
fn round_trips(load: Load) -> usize {
    trips_and_writes(load).0
}

/// Returns the number of round trips, and of writes.
fn trips_and_writes(load: Load) -> (usize, usize) {
    let mut sender = Sender::new(load);
    let mut server = server(load.options);
    // The replies on their way back, and when they arrive. A round trip takes one unit of time.
    let mut way: VecDeque<(usize, Vec<u8>)> = VecDeque::new();
    let (mut now, mut writes) = (0, 0);
    while sender.go_on() {
        let last = if load.options.lmtp { load.recipients } else { 1 };
        let out = &mut sender.out;
        if !out.unsent().is_empty() {
            let replies = answers(&mut server, out.offer());
            out.written(out.unsent().len());
            writes += 1;
            assert!(out.due() < WINDOW + last, "{} replies are outstanding", out.due());
            way.push_back((now + 1, replies));
            continue;
        }
        let (then, replies) = way.pop_front().expect("the client should wait only for replies that are due");
        now = then;
        sender.hear(&replies);
    }
    assert_eq!((sender.accepted, server.report.stored.len()), (load.messages, load.messages));
    (now, writes)
}

fn options(pipelining: bool, joining: Joining) -> Options {
    Options { pipelining, joining, ..Options::default() }
}

fn small(options: Options, messages: usize) -> Load {
    Load { options, messages, recipients: 1, octets: 1000, open: false, unsure: false }
}

#[test]
fn joined_messages_take_one_round_trip_each_plus_one() {
    for joining in [Joining::Untried, Joining::Works] {
        for messages in [1, 2, 10, 1000] {
            assert_eq!(round_trips(small(options(true, joining), messages)), messages + 1);
        }
    }
}

#[test]
fn messages_of_a_blocking_source_cost_an_extra_write_but_no_round_trip() {
    let joined = options(true, Joining::Works);
    for load in [small(joined, 10), Load { octets: 1024 * 1024, ..small(joined, 10) }] {
        let (trips, writes) = trips_and_writes(load);
        let unsure = trips_and_writes(Load { unsure: true, ..load });
        // There is one extra write for each message except the last.
        assert_eq!(unsure, (trips, writes + 9));
    }
    let one_by_one = small(options(true, Joining::Off), 10);
    assert_eq!(trips_and_writes(Load { unsure: true, ..one_by_one }), trips_and_writes(one_by_one));
    // With chunks, all messages are sent in one write; from an unsure source, one by one.
    let chunks = small(Options { chunking: true, ..joined }, 10);
    assert_eq!(trips_and_writes(chunks), (1, 1));
    assert_eq!(trips_and_writes(Load { unsure: true, ..chunks }), (1, 10));
    let lmtp = Options { lmtp: true, ..joined };
    assert_eq!(round_trips(Load { unsure: true, recipients: 5, ..small(lmtp, 10) }), 11);
}

#[test]
fn pipelined_messages_that_are_not_joined_take_two_round_trips_each() {
    // This applies if the server does not offer CHUNKING, unless the caller asks for joining.
    assert_eq!(round_trips(small(options(true, Joining::Off), 10)), 20);
    assert_eq!(round_trips(small(options(true, Joining::Off), 1000)), 2000);
}

#[test]
fn without_pipelining_each_command_takes_a_round_trip() {
    assert_eq!(round_trips(small(options(false, Joining::Off), 10)), 40);
    let crowd = Load { recipients: 5, ..small(options(false, Joining::Off), 10) };
    assert_eq!(round_trips(crowd), 80);
}

#[test]
fn small_messages_in_chunks_take_a_round_trip_for_each_window_of_replies() {
    // RSET, MAIL, RCPT and BDAT have four replies; the first message has no RSET.
    let chunking = Options { chunking: true, ..options(true, Joining::Works) };
    for (messages, trips) in [(1, 1), (100, 1), (128, 1), (129, 2), (1000, 8)] {
        assert_eq!(round_trips(small(chunking, messages)), trips, "{messages} messages");
    }
    // With one more RSET, a window ends exactly with a message.
    assert_eq!(round_trips(Load { open: true, ..small(chunking, 128) }), 1);
    assert_eq!(round_trips(Load { open: true, ..small(chunking, 129) }), 2);
}

#[test]
fn chunked_messages_wait_only_once_to_see_if_joining_works() {
    let chunking = Options { chunking: true, ..options(true, Joining::Untried) };
    // The first message is sent with the envelope of the second; the second content is sent with all other messages.
    assert_eq!(round_trips(small(chunking, 100)), 2);
    assert_eq!(round_trips(small(Options { joining: Joining::Off, ..chunking }, 10)), 10);
}

#[test]
fn large_messages_in_chunks_wait_for_their_envelope_and_not_for_their_chunks() {
    let chunking = Options { chunking: true, ..options(true, Joining::Works) };
    let load = Load { octets: 10 * 1024 * 1024, ..small(chunking, 3) };
    assert_eq!(round_trips(load), 4);
}

#[test]
fn chunks_without_pipelining_take_a_round_trip_for_each_command() {
    let chunking = Options { chunking: true, ..options(false, Joining::Off) };
    assert_eq!(round_trips(small(chunking, 10)), 30);
}

#[test]
fn all_or_nothing_costs_a_round_trip_for_each_message() {
    let all = Options { all_or_nothing: true, ..options(true, Joining::Works) };
    assert_eq!(round_trips(small(all, 10)), 21);
    assert_eq!(round_trips(small(Options { chunking: true, ..all }, 10)), 11);
}

#[test]
fn lmtp_takes_as_many_round_trips_as_smtp() {
    let lmtp = Options { lmtp: true, ..options(true, Joining::Works) };
    assert_eq!(round_trips(Load { recipients: 5, ..small(lmtp, 10) }), 11);
    let large = Load { octets: 1024 * 1024, ..small(Options { chunking: true, ..lmtp }, 1) };
    assert_eq!(round_trips(large), 17, "the client should wait for each of the 16 chunks");
}

#[test]
fn many_recipients_take_a_round_trip_for_each_window() {
    let crowd = Load { recipients: 2000, ..small(options(true, Joining::Works), 1) };
    assert_eq!(round_trips(crowd), 4 + 1);
    let crowds = Load { recipients: 2000, ..small(options(true, Joining::Works), 10) };
    assert_eq!(round_trips(crowds), 10 * 4 + 1);
}

/// Sends everything to a server that holds its replies back until `held` of them are due, or it has read all input (RFC
/// 2920 §3.2), with little room for input and output. It reads nothing while it has no room for replies.
fn carry_to_a_cramped_server(load: Load, held: usize, room: usize) {
    let mut sender = Sender::new(load);
    let mut server = server(load.options);
    let (mut arrived, mut waiting, mut outgoing) = (Vec::new(), Vec::new(), Vec::new());
    while sender.go_on() {
        let offered = sender.out.offer();
        let n = offered.len().min(room - arrived.len());
        arrived.extend_from_slice(&offered[..n]);
        sender.out.written(n);
        if n == 0 {
            assert!(!outgoing.is_empty(), "deadlock: there is nothing to read, and no room to write");
            let heard = std::mem::take(&mut outgoing);
            sender.hear(&heard);
        }
        while outgoing.len() < room && !(arrived.is_empty() && waiting.is_empty()) {
            // A line gets at most one reply.
            let line = arrived.iter().position(|octet| *octet == b'\n').map_or(arrived.len(), |at| at + 1);
            let line: Vec<u8> = arrived.drain(..line).collect();
            waiting.extend(Some(answers(&mut server, &line)).filter(|reply| !reply.is_empty()));
            if arrived.is_empty() || waiting.len() >= held {
                outgoing.extend(waiting.drain(..).flatten());
            }
        }
    }
    assert_eq!(sender.accepted, load.messages);
}

#[test]
fn a_server_with_late_replies_and_small_buffers_causes_no_deadlock() {
    for chunking in [false, true] {
        let options = Options { chunking, ..options(true, Joining::Works) };
        for (held, room) in [(1, 100), (1000, 100), (1000, 1_000_000), (1, 1)] {
            carry_to_a_cramped_server(Load { recipients: 40, ..small(options, 50) }, held, room);
            carry_to_a_cramped_server(Load { recipients: 2000, ..small(options, 1) }, held, room);
        }
    }
}
