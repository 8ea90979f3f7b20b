//! Watches how the replies to each flight arrive, and decides whether pipelining pays off on this connection.
//!
//! A server that writes each reply separately, with Nagle's algorithm on, holds back the second reply until the first
//! is acknowledged (RFC 1122 §4.2.3.4). A client that has nothing to send delays that acknowledgement (§4.2.3.2). So
//! each flight costs a delayed ACK, which on most networks takes far longer than the round trips it saves.
//!
//! Where the system can acknowledge at once, the client does so before each read if [`Pace::is_reading_on`] is true.
//! Elsewhere it measures each read, and [`Pace::is_stalled`] tells when to continue with one command at a time.

use std::time::Duration;

/// Minimum wait that counts as a delayed ACK. Systems delay ACKs by 40 ms or more, but some timers fire early.
const DELAYED_ACK: Duration = Duration::from_millis(25);

/// Number of stalled flights in a row after which a connection no longer pipelines.
const MAX_STALLS: u8 = 3;

/// How replies arrive on a connection.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    flight: Flight,
    /// Whether nothing has arrived since a TLS handshake.
    is_fresh_tls: bool,
    /// Number of stalled flights in a row. It stays at [`MAX_STALLS`] once that is reached.
    stalls: u8,
}

/// What has arrived since the last write.
#[derive(Debug, Default)]
struct Flight {
    reads: u32,
    replies: u32,
    /// Time spent waiting for the first reply.
    first: Duration,
    /// Time spent waiting for the others.
    others: Duration,
}

impl Flight {
    /// Returns whether pipelining has lost more time than it saved. Without pipelining, each of the other replies would
    /// have taken about as long as the first one.
    fn is_stalled(&self) -> bool {
        self.others >= DELAYED_ACK && self.others > self.first.saturating_mul(self.replies - 1)
    }
}

impl Pace {
    /// Records that octets were written. If replies to the previous flight have begun to arrive, that flight is over.
    pub fn wrote(&mut self) {
        if self.flight.reads == 0 {
            return;
        }
        let flight = std::mem::take(&mut self.flight);
        // A single reply reveals nothing about pipelining.
        if flight.replies > 1 && !self.is_stalled() {
            self.stalls = if flight.is_stalled() { self.stalls + 1 } else { 0 };
        }
    }

    /// Records that a TLS handshake is done. In TLS 1.3 the server may send session tickets before its next reply (RFC
    /// 8446 §4.6.1), so the next read is treated as following another read.
    pub fn secured(&mut self) {
        self.is_fresh_tls = true;
    }

    /// Records that octets arrived after a wait of `waited`, which is zero if waits are not measured.
    pub fn arrived(&mut self, waited: Duration) {
        self.is_fresh_tls = false;
        self.flight.reads = self.flight.reads.saturating_add(1);
        let total = if self.flight.replies == 0 { &mut self.flight.first } else { &mut self.flight.others };
        *total = total.saturating_add(waited);
    }

    /// Records that a reply is complete.
    pub fn replied(&mut self) {
        self.flight.replies = self.flight.replies.saturating_add(1);
    }

    /// Returns whether the next read follows another read, with nothing written in between. The server may then be
    /// waiting for an acknowledgement.
    pub fn is_reading_on(&self) -> bool {
        self.flight.reads > 0 || self.is_fresh_tls
    }

    /// Returns whether the connection should continue with one command at a time, because the replies to several
    /// flights in a row arrived in pieces, and later than without pipelining. Once true, it stays true.
    pub fn is_stalled(&self) -> bool {
        self.stalls >= MAX_STALLS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Envelope, Outcome,
        proto::{
            Dialogue, Inbox, Joining, MailParameters, Options, Outbox, Survey, Transaction, Transactions,
            Want,
        },
    };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Plays a flight whose replies arrive one at a time after these waits, in milliseconds.
    fn flight(pace: &mut Pace, waits: &[u64]) {
        for wait in waits {
            pace.arrived(ms(*wait));
            pace.replied();
        }
        pace.wrote();
    }

    #[test]
    fn only_a_read_directly_after_a_read_counts_as_reading_on() {
        let mut pace = Pace::default();
        assert!(!pace.is_reading_on());
        pace.wrote();
        assert!(!pace.is_reading_on());
        pace.arrived(ms(0));
        assert!(pace.is_reading_on()); // even within a reply
        pace.replied();
        assert!(pace.is_reading_on());
        pace.wrote();
        assert!(!pace.is_reading_on());
    }

    #[test]
    fn the_first_read_in_tls_counts_as_reading_on_even_after_a_write() {
        let mut pace = Pace::default();
        pace.secured();
        assert!(pace.is_reading_on());
        pace.wrote();
        assert!(pace.is_reading_on());
        pace.arrived(ms(0));
        pace.wrote();
        assert!(!pace.is_reading_on());
    }

    #[test]
    fn three_stalled_flights_in_a_row_end_pipelining_for_good() {
        let mut pace = Pace::default();
        for _ in 0..2 {
            flight(&mut pace, &[1, 40, 0]);
        }
        flight(&mut pace, &[1, 0, 0]);
        for _ in 0..3 {
            assert!(!pace.is_stalled());
            flight(&mut pace, &[1, 40, 0]);
            flight(&mut pace, &[200]); // the reply to the content, alone
        }
        assert!(pace.is_stalled());
        for _ in 0..10 {
            flight(&mut pace, &[1, 0, 0]);
        }
        assert!(pace.is_stalled());
    }

    #[test]
    fn pipelining_continues_while_it_saves_more_than_it_waits() {
        for waits in [
            &[100, 40, 0][..], // a delayed ACK, and a far server
            &[30, 30, 30],     // a server that is slow for each command
            &[1, 10, 10],      // too short for a delayed ACK
            &[1],              // nothing was pipelined
        ] {
            let mut pace = Pace::default();
            for _ in 0..100 {
                flight(&mut pace, waits);
            }
            assert!(!pace.is_stalled(), "{waits:?}");
        }
    }

    #[test]
    fn a_reply_in_many_pieces_counts_once() {
        let mut pace = Pace::default();
        for _ in 0..100 {
            for _ in 0..50 {
                pace.arrived(ms(40));
            }
            pace.replied();
            pace.wrote();
        }
        assert!(!pace.is_stalled());
    }

    #[test]
    fn huge_waiting_times_do_not_overflow() {
        let mut pace = Pace::default();
        for _ in 0..2 {
            pace.arrived(Duration::MAX);
            pace.replied();
        }
        pace.arrived(Duration::MAX);
        pace.replied();
        pace.wrote();
        assert!(!pace.is_stalled());
    }

    /// A server that accepts everything and answers one command at a time.
    #[derive(Default)]
    struct Server {
        input: Vec<u8>,
        in_message: bool,
        taken: usize,
    }

    impl Server {
        fn answer(&mut self) -> Option<&'static [u8]> {
            if self.in_message {
                let end = memchr::memmem::find(&self.input, b"\r\n.\r\n")? + 5;
                self.input.drain(..end);
                self.in_message = false;
                self.taken += 1;
                return Some(b"250 taken\r\n");
            }
            let end = self.input.iter().position(|b| *b == b'\n')?;
            let line = String::from_utf8(self.input.drain(..=end).collect()).unwrap();
            match line.trim_end().split(' ').collect::<Vec<_>>()[..] {
                ["DATA"] => {
                    self.in_message = true;
                    return Some(b"354 go on\r\n");
                }
                ["BDAT", octets, "LAST"] => {
                    self.input.drain(..octets.parse::<usize>().unwrap()); // the chunk was sent with its command
                    self.taken += 1;
                }
                ["MAIL" | "RCPT" | "RSET", ..] => {}
                _ => panic!("{line:?}"),
            }
            Some(b"250 ok\r\n")
        }
    }

    /// Sends messages, and continues with one command at a time after this number of replies.
    fn slow_down_after(replies: usize, options: Options) {
        const MESSAGES: usize = 5;
        let (mut talk, mut out, mut inbox) =
            (Transactions::new(options, false), Outbox::default(), Inbox::default());
        let (mut server, mut posted, mut accepted, mut heard) = (Server::default(), 0, 0, 0);
        let mut is_slow = false;
        loop {
            match talk.fill(&mut out) {
                Want::Nothing => break,
                Want::Message if posted == MESSAGES => talk.no_more(),
                Want::Message => {
                    let envelope = Envelope::new("s@x", ["a@x", "b@x"]).unwrap();
                    let letter = Transaction::new(envelope, MailParameters::default()).ahead(true);
                    talk.message_with(letter, Survey::of(b"Subject: x\n\nx\n")).unwrap();
                    posted += 1;
                }
                Want::Result => {
                    assert_eq!(talk.next_result().unwrap().unwrap().outcome(), Outcome::Accepted);
                    accepted += 1;
                }
                Want::Write | Want::Reply | Want::Probe => {
                    server.input.extend_from_slice(out.offer());
                    out.written(out.unsent().len());
                    // Replies to commands that were already under way come first.
                    is_slow |= heard >= replies && out.due() <= 1;
                    assert!(!is_slow || out.due() <= 1, "{} replies are due: {options:?}", out.due());
                    let reply = server.answer().unwrap();
                    inbox.room()[..reply.len()].copy_from_slice(reply);
                    inbox.arrived(reply.len());
                    out.reply_arrived();
                    talk.on_reply(inbox.next_reply().unwrap().unwrap(), &out).unwrap();
                    heard += 1;
                    if heard == replies {
                        talk.one_at_a_time();
                    }
                }
                want => panic!("{want:?}"),
            }
        }
        assert_eq!((accepted, server.taken), (MESSAGES, MESSAGES));
        assert!(!out.said_farewell() && out.due() == 0);
    }

    #[test]
    fn messages_in_progress_survive_the_end_of_pipelining() {
        for chunking in [false, true] {
            for joining in [Joining::Off, Joining::Untried, Joining::Works] {
                let options = Options { pipelining: true, chunking, joining, ..Options::default() };
                (1..30).for_each(|replies| slow_down_after(replies, options));
            }
        }
    }
}
