//! The call under way: when it has to end, and how its time is spent.
//!
//! Every public method begins with [`Client::begin`](super::Client::begin), which returns a `Call`. Every method
//! that waits takes it as an argument, so that none can run with the deadline of an earlier call.

use std::time::{Duration, Instant};

use crate::{Phase, Timings};

/// The state of a single call of a public method.
pub(super) struct Call {
    /// When the call has to end, whatever it is waiting for.
    pub deadline: Option<Instant>,
    pub clock: Clock,
    pub kind: Kind,
}

/// What kind of call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One command, or one message. The time of each phase is measured.
    Single,
    /// One step of a batch. Only the time between results is measured, and the check for unexpected replies before a
    /// write is skipped if everything was read a moment ago.
    Batch,
}

impl Call {
    pub fn new(kind: Kind, deadline: Option<Instant>) -> Call {
        Call { deadline, clock: Clock::start(), kind }
    }
}

/// Measures how long each phase of a message takes.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    phase: Phase,
    since: Instant,
    took: Timings,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { phase: Phase::Mail, since: Instant::now(), took: Timings::default() }
    }

    /// Assigns the time from now on to this phase.
    pub fn enter(&mut self, phase: Phase) {
        if phase != self.phase {
            self.count();
            self.phase = phase;
        }
    }

    fn count(&mut self) {
        let now = Instant::now();
        let spent = now.saturating_duration_since(self.since);
        self.since = now;
        self.took.total += spent;
        match self.phase {
            Phase::Mail | Phase::Recipient | Phase::Data => self.took.envelope += spent,
            Phase::Body => self.took.content += spent,
            Phase::End => self.took.end += spent,
            _ => {}
        }
    }

    /// Excludes the most recent `spent`, which must not count as the server's time.
    pub fn skip(&mut self, spent: Duration) {
        self.since += spent;
    }

    /// Returns what has been measured since the start.
    pub fn timings(&mut self) -> Timings {
        self.count();
        self.took
    }

    /// Returns the time from the start to `now`, and starts again.
    pub fn lap(&mut self, now: Instant) -> Timings {
        let total = now.saturating_duration_since(self.since);
        *self = Clock { phase: Phase::Mail, since: now, took: Timings::default() };
        Timings { total, ..Timings::default() }
    }
}
