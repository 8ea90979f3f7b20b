//! What goes wrong with a session: the n-th read, or the n-th write, for every n.

use std::{
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use postino::Outcome;

use super::{
    block_on, session,
    sweep::{CHUNKED, JOINED, KINDS, Kind, Notes, Op, What, Wire},
};

/// So much goes at a time, in octets.
const PIECE: usize = 1024;
/// The content of one message takes a few of them.
const OCTETS: usize = 3 * PIECE;

/// A session over this wire.
fn run(kind: Kind, octets: usize, wire: &Wire, limit: Duration) -> Notes {
    let mut notes = Notes::default();
    let builder = session::builder(kind).timeout(limit).final_reply_timeout(limit);
    let connected = block_on(session::run(&builder, wire, octets, &mut None, &mut notes));
    assert!(connected || notes.is_broken());
    notes.assert_all_told();
    notes.assert_true_to(wire, kind);
    notes
}

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// For what has to be waited for.
const SOON: Duration = Duration::from_millis(20);

/// A session without a fault: what it is to be with those that do no harm.
fn whole(kind: Kind) -> (Notes, Vec<u8>) {
    let wire = Wire::new(kind, |_| What::Go(PIECE));
    let notes = run(kind, OCTETS, &wire, PATIENCE);
    assert!(!notes.is_broken(), "{:?}", notes.steps);
    let ends = [Outcome::Accepted, Outcome::Refused].map(|outcome| notes.count(outcome));
    assert_eq!(ends, if kind.lmtp { [9, 7] } else { [10, 6] }, "{:?}", notes.steps);
    (notes, wire.with(|server| server.heard.clone()))
}

/// Which operations are counted.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Reads,
    Writes,
}

impl Way {
    fn is(self, op: Op) -> bool {
        (self == Way::Writes) == (op == Op::Write)
    }
}

/// A wire whose n-th operation of this way has the fault, and those behind it too if it lasts. Also tells how many
/// there were.
fn faulty(kind: Kind, way: Way, n: usize, fault: What, lasts: bool) -> (Wire, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let wire = Wire::new(kind, move |op| {
        if !way.is(op) {
            // What has ended, has ended in both directions.
            let ends = matches!(fault, What::Fail(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
            let over = ends && counter.load(Ordering::Relaxed) > n;
            return if over { fault } else { What::Go(PIECE) };
        }
        let number = counter.fetch_add(1, Ordering::Relaxed);
        if number == n || lasts && number > n { fault } else { What::Go(PIECE) }
    });
    (wire, count)
}

/// For every n: a session whose n-th operation has the fault.
fn at_each(way: Way, fault: What, lasts: bool, limit: Duration, judge: impl Fn(Kind, usize, &Wire, &Notes)) {
    for kind in KINDS {
        for n in 0.. {
            let (wire, count) = faulty(kind, way, n, fault, lasts);
            let notes = run(kind, OCTETS, &wire, limit);
            let count = count.load(Ordering::Relaxed);
            // On a busy machine a short limit may have ended it elsewhere.
            if count <= n && !notes.is_broken() {
                assert!(n > 8, "{kind:?}: a session is more than {n} {way:?}");
                break;
            }
            if count > n {
                judge(kind, n, &wire, &notes);
            }
        }
    }
}

/// A fault that ends the connection: one message at most is lost in it, or those that went with it.
fn breaks(way: Way, fault: What) {
    at_each(way, fault, true, PATIENCE, |kind, n, _, notes| {
        assert!(notes.is_broken() || n > 10, "{kind:?}, {n} {way:?}: nobody noticed: {:?}", notes.steps);
    });
}

/// One that is an end of the time.
fn times_out(way: Way, fault: What) {
    at_each(way, fault, true, SOON, |kind, n, _, notes| {
        let Some((before, step)) = notes.broken_step() else {
            assert!(n > 10, "{kind:?}, {n} {way:?}: nobody noticed: {:?}", notes.steps);
            return;
        };
        // A refusal stays what it is, though the RSET behind it fails; so does what one recipient of LMTP has got.
        let first = before.contains("refused") || kind.lmtp && before.contains("done");
        let later = first && step.contains("the connection is closed");
        // The silence of a server behind a joined envelope asks for another connection, which cannot be had here.
        let told = later || step.contains("timed out") || step.contains("can make another");
        assert!(told, "{kind:?}, {n} {way:?}: {step}");
    });
}

/// A fault that does no harm, once in a session: nothing is different for it.
fn harmless(way: Way, fault: What) {
    let wholes = KINDS.map(whole);
    at_each(way, fault, false, PATIENCE, |kind, n, wire, notes| {
        let (ends, heard) = &wholes[KINDS.iter().position(|other| *other == kind).unwrap()];
        assert_eq!(notes.steps, ends.steps, "{kind:?}, {n} {way:?}");
        assert!(wire.with(|server| server.heard == *heard), "{kind:?}, {n} {way:?}: another wire");
    });
}

#[test]
fn a_reset_at_any_read_loses_nothing_in_silence() {
    breaks(Way::Reads, What::Fail(ErrorKind::ConnectionReset));
}

#[test]
fn a_reset_at_any_write_loses_nothing_in_silence() {
    breaks(Way::Writes, What::Fail(ErrorKind::ConnectionReset));
}

#[test]
fn a_broken_pipe_at_any_write_loses_nothing_in_silence() {
    breaks(Way::Writes, What::Fail(ErrorKind::BrokenPipe));
}

#[test]
fn an_end_at_any_read_loses_nothing_in_silence() {
    breaks(Way::Reads, What::Nothing);
}

#[test]
fn a_transport_that_takes_nothing_at_any_write_loses_nothing_in_silence() {
    breaks(Way::Writes, What::Nothing);
}

// Threat 84.
#[test]
fn timed_out_at_any_read_is_a_timeout() {
    times_out(Way::Reads, What::Fail(ErrorKind::TimedOut));
}

// Threat 84.
#[test]
fn timed_out_at_any_write_is_a_timeout() {
    times_out(Way::Writes, What::Fail(ErrorKind::TimedOut));
}

// Threat 84.
#[test]
fn would_block_at_any_read_is_a_timeout() {
    times_out(Way::Reads, What::Fail(ErrorKind::WouldBlock));
}

// Threat 84.
#[test]
fn would_block_at_any_write_is_a_timeout() {
    times_out(Way::Writes, What::Fail(ErrorKind::WouldBlock));
}

// Threat 58.
#[test]
fn silence_at_any_read_loses_nothing() {
    times_out(Way::Reads, What::Hang);
}

// Threat 84.
#[test]
fn a_write_in_part_and_then_none_loses_nothing() {
    times_out(Way::Writes, What::Hang);
}

// Threat 84.
#[test]
fn an_interrupted_read_is_tried_again() {
    harmless(Way::Reads, What::Fail(ErrorKind::Interrupted));
}

// Threat 84.
#[test]
fn an_interrupted_write_is_tried_again() {
    harmless(Way::Writes, What::Fail(ErrorKind::Interrupted));
}

// Threat 31.
#[test]
fn a_read_of_one_octet_changes_nothing() {
    harmless(Way::Reads, What::Go(1));
}

// Threat 31.
#[test]
fn a_write_of_one_octet_changes_nothing() {
    harmless(Way::Writes, What::Go(1));
}

// Threat 31.
#[test]
fn octet_by_octet_in_both_directions_changes_nothing() {
    for kind in KINDS {
        let (ends, heard) = whole(kind);
        let wire = Wire::new(kind, |_| What::Go(1));
        assert_eq!(run(kind, OCTETS, &wire, PATIENCE).steps, ends.steps, "{kind:?}");
        assert!(wire.with(|server| server.heard == heard), "{kind:?}: another wire");
    }
}

#[test]
fn a_read_that_is_not_ready_changes_nothing() {
    harmless(Way::Reads, What::Wait);
}

#[test]
fn a_write_that_is_not_ready_changes_nothing() {
    harmless(Way::Writes, What::Wait);
}

#[test]
fn a_reset_within_a_large_message_loses_nothing_in_silence() {
    const LARGE: usize = 100 * PIECE; // two chunks
    for kind in [JOINED, CHUNKED] {
        for n in (0..).step_by(7) {
            let (wire, count) = faulty(kind, Way::Writes, n, What::Fail(ErrorKind::ConnectionReset), true);
            let notes = run(kind, LARGE, &wire, PATIENCE);
            if count.load(Ordering::Relaxed) <= n {
                assert!(n > LARGE / PIECE && !notes.is_broken(), "{n} writes: {:?}", notes.steps);
                break;
            }
        }
    }
}
