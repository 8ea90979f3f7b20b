//! The main loop: runs any dialogue over a [`Link`], independent of SMTP.
//!
//! All reads and writes of a dialogue (except TLS handshakes) pass through this loop, so this is where time limits are
//! applied, where the pace of replies is measured, and where a limit on the data rate would go. The limits themselves
//! are settings (`config/`).

use std::{
    io,
    time::{Duration, Instant},
};

use super::{
    Fetched, Moved,
    body::Source,
    call::{Call, Kind},
    link::{Condition, Link},
    maybe_async,
    origin::Origin,
};
use crate::{
    Error, Phase, Reply,
    proto::{Dialogue, Want},
    time::later,
};

/// How long after a drained read the extra non-blocking read before a write is skipped, since hardly anything can
/// have arrived.
const DRAIN_GRACE: Duration = Duration::from_millis(1);

/// Shortest silence after a joined envelope that counts as its failure. On a busy machine, a server's process may wait
/// this long to be scheduled, however fast its earlier replies were.
const LEAST_PATIENCE: Duration = Duration::from_millis(50);

/// Returns how long silence after a joined envelope may just mean a slow server, if no reply on this connection has
/// taken longer than `slowest`.
fn patience(slowest: Duration) -> Duration {
    LEAST_PATIENCE.max(slowest.saturating_mul(10))
}

impl Link {
    /// Returns whether the time that a reply takes is measured, for the trial of a joined envelope. Only replies to
    /// EHLO and to the first envelope are measured. For others, reading the clock would be a waste.
    fn is_measured(&self, phase: Phase) -> bool {
        self.begun <= 1 && matches!(phase, Phase::Hello | Phase::Mail | Phase::Recipient | Phase::Data)
    }

    /// Rejects octets after the reply to STARTTLS as an injection (RFC 3207 §6; the "NO STARTTLS" attacks of 2021).
    fn refuse_clear_text(&mut self) -> Result<(), Error> {
        if !self.inbox.is_empty() || self.listen(Phase::StartTls)? > 0 {
            return Err(Error::protocol(Phase::StartTls, "plaintext after the server's reply to STARTTLS"));
        }
        Ok(())
    }

    /// Reports to the source how much was written. `all` means that nothing is held back any longer.
    fn tell_progress(&self, source: &mut Option<(usize, &mut Source<'_>)>, all: bool) {
        if let Some((_, source)) = source {
            source.meter.sent(self.out.octets_written());
            if all {
                source.left();
            }
        }
    }
}

/// Returns the phase whose limit applies to a write. The content's limit applies until everything is written, even if
/// the end of the message is already in the outbox. The limit of the final reply starts after that.
fn while_writing(phase: Phase) -> Phase {
    match phase {
        Phase::End => Phase::Body,
        phase => phase,
    }
}

/// Returns the error for a source that has failed or taken too long.
pub(super) fn source_error(e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::TimedOut => Error::Timeout(Phase::Body),
        // An `Error` of this crate describes what is wrong with the message itself.
        _ => e.downcast().unwrap_or_else(Error::Source),
    }
}

#[maybe_async]
impl Link {
    /// Runs a dialogue until it ends, or until its owner has to provide something. The
    /// content of the message with this number comes from `source`.
    ///
    /// Until the dialogue has ended, the connection is [`Condition::MidDialogue`]: if the future is dropped, the
    /// connection is never used again. It is closed on an error.
    pub async fn go_on(
        &mut self,
        origin: &Origin,
        call: &mut Call,
        talk: &mut (dyn Dialogue + Send),
        source: Option<(usize, &mut Source<'_>)>,
    ) -> Result<Want, Error> {
        self.condition = Condition::MidDialogue;
        match self.carry(origin, call, talk, source).await {
            Ok(want) => {
                if want == Want::Nothing {
                    self.condition = Condition::Usable;
                }
                Ok(want)
            }
            Err(e) => {
                let e = origin.stopped_or(e, talk.phase());
                log::debug!(target: "postino", "#{} closing: {e}", self.number);
                self.close_after(Some(&e));
                Err(e)
            }
        }
    }

    async fn carry(
        &mut self,
        origin: &Origin,
        call: &mut Call,
        talk: &mut (dyn Dialogue + Send),
        mut source: Option<(usize, &mut Source<'_>)>,
    ) -> Result<Want, Error> {
        // The limit applies to a whole reply, or to writing a whole buffer, however slowly the octets arrive. It is set
        // only when there is something to wait for, because reading the clock is not free.
        let mut until = None;
        // The limit for reading a piece of content.
        let mut fetching = None;
        loop {
            if self.pass_replies(talk)? {
                until = None;
            }
            let want = talk.fill(&mut self.out);
            self.log_commands();
            if call.kind == Kind::Single {
                call.clock.enter(talk.phase());
            }
            match want {
                Want::Nothing | Want::Message | Want::Result => return Ok(want),
                Want::Body(number) => {
                    let Some((_, source)) = source.as_mut().filter(|(n, _)| *n == number) else {
                        return Ok(want);
                    };
                    source.meter.begin(self.out.end());
                    if !source.is_at_hand() {
                        let limit = origin.limit_once(call, &mut fetching, Phase::Body)?;
                        if !self.fetch(origin, call, talk, source, limit).await? {
                            continue;
                        }
                        fetching = None;
                    }
                    talk.body(source.piece(), &mut self.out)?;
                    until = None; // the source may have taken a while
                }
                Want::Write => {
                    let phase = while_writing(talk.phase());
                    let limit = origin.limit_once(call, &mut until, phase)?;
                    let all = self.write(call, phase, limit).await?;
                    self.tell_progress(&mut source, all);
                    if all {
                        until = None;
                    }
                }
                Want::Reply | Want::Probe => {
                    if !self.out.unsent().is_empty() {
                        let phase = while_writing(talk.phase());
                        let limit = origin.limit_once(call, &mut until, phase)?;
                        let all = self.write(call, phase, limit).await?;
                        self.tell_progress(&mut source, all);
                        if !all {
                            continue;
                        }
                        until = None; // writing may have taken a while
                    }
                    let mut limit = origin.limit_once(call, &mut until, talk.phase())?;
                    if want == Want::Probe {
                        limit = limit.min(later(Instant::now(), patience(self.slowest)));
                        until = Some(limit);
                    }
                    self.read(call, talk.phase(), limit).await?;
                }
                Want::StartTls => {
                    self.refuse_clear_text()?;
                    self.handshake(origin, call).await?;
                    talk.on_tls();
                    until = None;
                }
                Want::Secret => {
                    let Some(secrets) = &origin.secrets else {
                        return Err(Error::Internal("a dialogue asked for a secret, but no callback is set"));
                    };
                    let secret = secrets.ask(origin.limit(call, Phase::Auth)?, &origin.stop_handle).await?;
                    talk.on_secret(&secret)?;
                    until = None; // the callback may have taken a while
                }
            }
        }
    }

    /// Waits for the next piece of the content. Returns false if it has not arrived yet.
    ///
    /// While waiting for a slow source, writes what the source has returned so far, and reads replies.
    async fn fetch(
        &mut self,
        origin: &Origin,
        call: &Call,
        talk: &mut (dyn Dialogue + Send),
        source: &mut Source<'_>,
        until: Instant,
    ) -> Result<bool, Error> {
        let began = Instant::now();
        if origin.stop_handle.is_stopped() {
            return Err(Error::Stopped(Phase::Body));
        }
        if began >= until {
            return Err(Error::Timeout(Phase::Body));
        }
        if source.is_late(began) {
            talk.flush(&mut self.out);
            self.log_commands();
            if !self.out.unsent().is_empty() {
                let limit = origin.limit(call, Phase::Body)?;
                let all = self.write(call, Phase::Body, limit).await?;
                source.meter.sent(self.out.octets_written());
                if !all {
                    return Ok(false);
                }
            }
            if self.listen(Phase::Body)? > 0 {
                return Ok(false);
            }
            source.flushed();
        }
        let soon = source.soon(began, until);
        match self.stream.fetch(source, self.inbox.room(), soon, until).await.map_err(source_error)? {
            Fetched::Piece => Ok(true),
            Fetched::Nothing => Ok(false),
            Fetched::Read(Ok(0)) => Err(Error::Closed(Phase::Body)),
            Fetched::Read(Ok(n)) => {
                self.inbox.arrived(n);
                Ok(false)
            }
            Fetched::Read(Err(e)) => Err(Error::io(Phase::Body, e)),
        }
    }

    /// Writes everything in the outbox. Returns false if octets from the server came first.
    async fn write(&mut self, call: &Call, phase: Phase, until: Instant) -> Result<bool, Error> {
        // While no reply is outstanding, the server has no reason to send anything. If it does, that must not be taken
        // for the reply to what is written now.
        let drained = self.drained_until.take().filter(|_| call.kind == Kind::Batch);
        let drained = || self.inbox.is_empty() && drained.is_some_and(|until| Instant::now() < until);
        if self.out.due() == 0 && !drained() {
            let partial = !self.inbox.is_empty();
            if self.listen(phase)? > 0 {
                return Ok(false);
            }
            if partial {
                self.read(call, phase, until).await?;
                return Ok(false);
            }
        }
        while !self.out.unsent().is_empty() {
            match self.stream.write_or_read(self.out.offer(), self.inbox.room(), until).await {
                Ok(Moved::Written(0)) => return Err(Error::io(phase, io::ErrorKind::WriteZero.into())),
                Ok(Moved::Written(n)) => {
                    self.out.written(n);
                    self.pace.wrote();
                }
                Ok(Moved::Read(0)) => return Err(Error::Closed(phase)),
                Ok(Moved::Read(n)) => {
                    self.arrived(n, Duration::ZERO);
                    return Ok(false);
                }
                Err(e) => {
                    // The server may have sent the reason before it closed the connection.
                    return match self.listen(phase) {
                        Ok(1..) => Ok(false),
                        _ => Err(Error::io(phase, e)),
                    };
                }
            }
        }
        Ok(true)
    }

    /// Waits for some octets of a reply.
    async fn read(&mut self, call: &Call, phase: Phase, until: Instant) -> Result<(), Error> {
        if self.pace.is_reading_on() {
            self.stream.acknowledge(); // the server's next reply may wait for it
        }
        let is_measured = self.is_measured(phase);
        let start = (is_measured || !self.stream.acknowledges_at_once()).then(Instant::now);
        let room = self.inbox.room();
        let most = room.len();
        match self.stream.read(room, until).await {
            Ok(0) => Err(Error::Closed(phase)),
            Ok(n) => {
                let waited = start.map_or(Duration::ZERO, |start| start.elapsed());
                self.arrived(n, waited);
                if is_measured {
                    self.slowest = self.slowest.max(waited);
                }
                // A read that leaves room has taken everything that had arrived. TLS returns one record at a time.
                let drained = call.kind == Kind::Batch && n < most && !self.stream.is_encrypted();
                self.drained_until = drained.then(|| later(Instant::now(), DRAIN_GRACE));
                Ok(())
            }
            Err(e) => Err(Error::io(phase, e)),
        }
    }
}

/// Logs a reply. Kept out of line, because logging is rarely enabled and the caller handles every reply.
#[cold]
fn log_reply(number: u64, reply: &Reply) {
    log::debug!(target: "postino", "#{number} S: {reply}");
}

impl Link {
    /// Returns the error for a line that is not a reply. The error shows the line, except during a login: the line may
    /// repeat a password.
    #[cold]
    fn no_reply(&self, phase: Phase, what: &'static str) -> Error {
        match phase {
            Phase::Auth => Error::protocol(phase, what),
            _ => Error::protocol(phase, format!("{what}: \"{}\"", self.inbox.rejected_line())),
        }
    }

    /// Passes all complete replies to the dialogue. Returns whether there was one.
    fn pass_replies(&mut self, talk: &mut (dyn Dialogue + Send)) -> Result<bool, Error> {
        let mut heard = false;
        loop {
            let reply = match self.inbox.next_reply() {
                Ok(Some(reply)) => reply,
                Ok(None) => return Ok(heard),
                Err(what) => return Err(self.no_reply(talk.phase(), what)),
            };
            if log::log_enabled!(target: "postino", log::Level::Debug) {
                log_reply(self.number, &talk.keep(reply));
            }
            heard = true;
            match self.out.due() {
                0 if self.out.said_farewell() => continue,
                0 => return Err(talk.on_early(reply)),
                _ => {}
            }
            self.out.reply_arrived();
            self.pace.replied();
            let closed = reply.closed_in(|| talk.phase()); // before the reply changes the phase
            talk.on_reply(reply, &self.out)?;
            if let Some(phase) = closed {
                return Err(Error::Refused { phase, reply: talk.keep(reply) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_scales_with_the_slowest_reply_and_has_a_minimum() {
        let ms = Duration::from_millis;
        for (slowest, expected) in [(ms(0), ms(50)), (ms(1), ms(50)), (ms(50), ms(500)), (ms(300), ms(3_000))]
        {
            assert_eq!(patience(slowest), expected);
        }
        assert_eq!(patience(Duration::MAX), Duration::MAX);
    }
}
