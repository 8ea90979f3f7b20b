//! The faults of a session: the n-th read or the n-th write fails, for every n.

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

/// Maximum size of a read or write, in octets.
const PIECE: usize = 1024;
/// Size of the content of one message, in octets: a few pieces.
const OCTETS: usize = 3 * PIECE;

/// Runs a session over this wire.
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

/// The limit in tests that have to wait for it.
const SOON: Duration = Duration::from_millis(20);

/// Runs a session without a fault, to compare with those whose fault does no harm.
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

/// Returns a wire whose n-th operation of this kind has the fault, as do all later ones if it lasts, and the counter of
/// these operations.
fn faulty(kind: Kind, way: Way, n: usize, fault: What, lasts: bool) -> (Wire, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let wire = Wire::new(kind, move |op| {
        if !way.is(op) {
            // A connection that has ended has ended in both directions.
            let ends = matches!(fault, What::Fail(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
            let over = ends && counter.load(Ordering::Relaxed) > n;
            return if over { fault } else { What::Go(PIECE) };
        }
        let number = counter.fetch_add(1, Ordering::Relaxed);
        if number == n || lasts && number > n { fault } else { What::Go(PIECE) }
    });
    (wire, count)
}

/// Runs a session for every n, whose n-th operation has the fault.
fn at_each(way: Way, fault: What, lasts: bool, limit: Duration, judge: impl Fn(Kind, usize, &Wire, &Notes)) {
    for kind in KINDS {
        for n in 0.. {
            let (wire, count) = faulty(kind, way, n, fault, lasts);
            let notes = run(kind, OCTETS, &wire, limit);
            let count = count.load(Ordering::Relaxed);
            // On a busy machine, a short limit may have ended it elsewhere.
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

/// A fault that ends the connection loses at most one message, or those sent together with it.
fn breaks(way: Way, fault: What) {
    at_each(way, fault, true, PATIENCE, |kind, n, _, notes| {
        assert!(notes.is_broken() || n > 10, "{kind:?}, {n} {way:?}: nobody noticed: {:?}", notes.steps);
    });
}

/// A fault that is a timeout.
fn times_out(way: Way, fault: What) {
    at_each(way, fault, true, SOON, |kind, n, _, notes| {
        let Some((before, step)) = notes.broken_step() else {
            assert!(n > 10, "{kind:?}, {n} {way:?}: nobody noticed: {:?}", notes.steps);
            return;
        };
        // A refusal stays a refusal, though the RSET after it fails; so does what a recipient with LMTP got.
        let first = before.contains("refused") || kind.lmtp && before.contains("done");
        let later = first && step.contains("the connection is closed");
        // If the server is silent after a joined envelope, another connection is needed, which cannot be made here.
        let told = later || step.contains("timed out") || step.contains("can make another");
        assert!(told, "{kind:?}, {n} {way:?}: {step}");
    });
}

/// A fault that does no harm, once in a session: the results are the same.
fn harmless(way: Way, fault: What) {
    let wholes = KINDS.map(whole);
    at_each(way, fault, false, PATIENCE, |kind, n, wire, notes| {
        let (ends, heard) = &wholes[KINDS.iter().position(|other| *other == kind).unwrap()];
        assert_eq!(notes.steps, ends.steps, "{kind:?}, {n} {way:?}");
        assert!(wire.with(|server| server.heard == *heard), "{kind:?}, {n} {way:?}: another wire");
    });
}

#[test]
fn a_reset_at_any_read_loses_nothing_silently() {
    breaks(Way::Reads, What::Fail(ErrorKind::ConnectionReset));
}

#[test]
fn a_reset_at_any_write_loses_nothing_silently() {
    breaks(Way::Writes, What::Fail(ErrorKind::ConnectionReset));
}

#[test]
fn a_broken_pipe_at_any_write_loses_nothing_silently() {
    breaks(Way::Writes, What::Fail(ErrorKind::BrokenPipe));
}

#[test]
fn an_end_at_any_read_loses_nothing_silently() {
    breaks(Way::Reads, What::Nothing);
}

#[test]
fn a_transport_that_accepts_nothing_at_any_write_loses_nothing_silently() {
    breaks(Way::Writes, What::Nothing);
}

// Threat 84.
#[test]
fn a_timed_out_error_at_any_read_is_a_timeout() {
    times_out(Way::Reads, What::Fail(ErrorKind::TimedOut));
}

// Threat 84.
#[test]
fn a_timed_out_error_at_any_write_is_a_timeout() {
    times_out(Way::Writes, What::Fail(ErrorKind::TimedOut));
}

// Threat 84.
#[test]
fn a_would_block_error_at_any_read_is_a_timeout() {
    times_out(Way::Reads, What::Fail(ErrorKind::WouldBlock));
}

// Threat 84.
#[test]
fn a_would_block_error_at_any_write_is_a_timeout() {
    times_out(Way::Writes, What::Fail(ErrorKind::WouldBlock));
}

// Threat 58.
#[test]
fn silence_at_any_read_loses_nothing() {
    times_out(Way::Reads, What::Hang);
}

// Threat 84.
#[test]
fn a_write_that_stalls_partway_loses_nothing() {
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
fn a_reset_within_a_large_message_loses_nothing_silently() {
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
