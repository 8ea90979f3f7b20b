//! The call under way: when it has to end, and where its time goes.
//!
//! Every public method begins with [`Client::begin`](super::Client::begin), which returns a `Call`. Whatever waits
//! takes it as an argument, so that no method can run with the deadline of an earlier one.

use std::time::{Duration, Instant};

use crate::{Phase, Timings};

/// What a single call of a public method needs to know about itself.
pub(super) struct Call {
    /// When the call has to end, whatever it waits for.
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

    /// Excludes the last `spent`, which was not spent on the server.
    pub fn skip(&mut self, spent: Duration) {
        self.since += spent;
    }

    /// Returns what has been measured since the start.
    pub fn timings(&mut self) -> Timings {
        self.count();
        self.took
    }

    /// Returns the time since the start, and starts again.
    pub fn lap(&mut self) -> Timings {
        let now = Instant::now();
        let total = now.saturating_duration_since(self.since);
        *self = Clock { phase: Phase::Mail, since: now, took: Timings::default() };
        Timings { total, ..Timings::default() }
    }
}
