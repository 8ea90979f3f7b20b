//! The connection: the stream, what was read from it, and what is to be written to it. Independent of SMTP.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{stop::StopHandle, stream::Stream};
use crate::{
    Error, EventKind, Phase,
    event::Observer,
    proto::{Inbox, Outbox, Pace},
    race::next_number,
};

pub(super) struct Link {
    pub stream: Stream,
    /// Identifies the connection in the log.
    pub number: u64,
    pub condition: Condition,
    pub inbox: Inbox,
    pub out: Outbox,
    pub pace: Pace,
    /// The longest time that a reply to EHLO, or to an envelope, has taken.
    pub slowest: Duration,
    /// Until when hardly anything can have arrived, if the last read took everything that had.
    pub drained_until: Option<Instant>,
    /// Number of messages that were begun on this connection.
    pub begun: u64,
    /// The observer to notify when the connection is closed, and the time at which the connection was made.
    pub observed: Option<(Observer, Instant)>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tell_closed(None);
    }
}

/// Whether the connection can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// All replies were read: the next dialogue can begin.
    Usable,
    /// A dialogue has begun but not ended. Only its owner can continue it; nothing else may use the connection.
    MidDialogue,
    Closed,
}

impl Link {
    /// Creates a link that is not connected.
    pub fn closed() -> Link {
        Link {
            stream: Stream::closed(),
            number: next_number(),
            condition: Condition::Closed,
            inbox: Inbox::default(),
            out: Outbox::default(),
            pace: Pace::default(),
            slowest: Duration::ZERO,
            drained_until: None,
            begun: 0,
            observed: None,
        }
    }

    pub fn is_usable(&self) -> bool {
        self.condition == Condition::Usable
    }

    /// Fails unless a dialogue may begin. A connection that was left in the middle of one is closed for good.
    pub fn usable(&mut self, stop_handle: &StopHandle, phase: Phase) -> Result<(), Error> {
        if stop_handle.is_stopped() {
            self.close();
            return Err(Error::Stopped(phase));
        }
        if self.is_usable() {
            return Ok(());
        }
        self.close();
        Err(Error::NotConnected)
    }

    /// Closes the connection without sending anything.
    pub fn close(&mut self) {
        self.close_after(None);
    }

    /// Closes the connection without sending anything, because of this error if there is one.
    pub fn close_after(&mut self, error: Option<&Error>) {
        self.condition = Condition::Closed;
        self.out.forget();
        self.stream.close();
        self.tell_closed(error);
    }

    fn tell_closed(&mut self, error: Option<&Error>) {
        if let Some((observer, since)) = self.observed.take() {
            observer.tell(Some(self.number), EventKind::Closed { error }, since.elapsed());
        }
    }

    /// Sends QUIT, if that is possible without waiting, and closes the connection. Does not wait for the reply.
    pub fn quit_without_waiting(&mut self) {
        if self.is_usable() && self.out.is_quiet() {
            self.out.put_farewell();
            self.log_commands();
            while let Ok(written @ 1..) = self.stream.try_write(self.out.offer()) {
                self.out.written(written);
                if self.out.unsent().is_empty() {
                    break;
                }
            }
        }
        self.close();
    }

    /// Returns whether the connection is open, as far as can be told without asking the server.
    pub fn is_connected(&mut self) -> bool {
        self.drained_until = None; // what is found here must be found again before the next write
        self.is_usable() && self.inbox.is_empty() && matches!(self.listen(Phase::Noop), Ok(0))
    }

    /// Reads what has arrived, without waiting. Returns the number of octets.
    pub fn listen(&mut self, phase: Phase) -> Result<usize, Error> {
        match self.stream.try_read(self.inbox.room()) {
            Ok(0) => Err(Error::Closed(phase)),
            Ok(n) => {
                self.arrived(n, Duration::ZERO);
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(e) => Err(Error::io(phase, e)),
        }
    }

    pub fn arrived(&mut self, octets: usize, waited: Duration) {
        self.inbox.arrived(octets);
        self.pace.arrived(waited);
    }

    /// Logs the commands that were put into the outbox.
    pub fn log_commands(&mut self) {
        let number = self.number;
        if log::log_enabled!(target: "postino", log::Level::Debug) {
            self.out.drain_log(|line| log::debug!(target: "postino", "#{number} C: {line}"));
        } else {
            self.out.discard_log();
        }
    }
}
