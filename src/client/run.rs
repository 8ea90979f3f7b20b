//! The main loop: carries any dialogue, and knows no SMTP.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{Fetched, Moved, body::Source, maybe_async, session::Client};
use crate::{
    Error, Phase, Reply, Timings,
    config::later,
    proto::{Dialogue, Want},
};

/// So long nothing is likely to have arrived.
const A_MOMENT: Duration = Duration::from_millis(1);

/// Shortest silence after a joined envelope that is taken for an answer: on a busy machine a server's process may wait
/// this long for its turn, however fast its replies were before.
const LEAST_PATIENCE: Duration = Duration::from_millis(50);

/// How long silence after a joined envelope means that the server is only slow, if no reply on this connection has taken
/// longer than `slowest`.
fn patience(slowest: Duration) -> Duration {
    LEAST_PATIENCE.max(slowest.saturating_mul(10))
}

impl Client {
    /// When a wait that begins now has to end.
    pub(super) fn limit(&self, phase: Phase) -> Result<Instant, Error> {
        if self.stop_handle.is_stopped() {
            return Err(Error::Stopped(phase));
        }
        let now = Instant::now();
        let until = later(now, self.settings.config.timeouts.of(phase));
        let until = self.deadline.map_or(until, |deadline| until.min(deadline));
        match until > now {
            true => Ok(until),
            false => Err(Error::Timeout(phase)), // also for a limit of zero, whatever may be at hand
        }
    }

    /// The limit that is set, or one that is set now.
    fn limit_once(&self, until: &mut Option<Instant>, phase: Phase) -> Result<Instant, Error> {
        let limit = until.map_or_else(|| self.limit(phase), Ok)?;
        *until = Some(limit);
        Ok(limit)
    }

    /// Takes what has arrived, without waiting. Gives how much that is.
    pub(super) fn listen(&mut self, phase: Phase) -> Result<usize, Error> {
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

    fn arrived(&mut self, octets: usize, waited: Duration) {
        self.inbox.arrived(octets);
        self.pace.arrived(waited);
    }

    /// Whether the time that a reply takes is measured, for the trial of a joined envelope: those to EHLO and to the
    /// first envelope are. Others would only cost a look at the clock.
    fn is_measured(&self, phase: Phase) -> bool {
        self.begun <= 1 && matches!(phase, Phase::Hello | Phase::Mail | Phase::Recipient | Phase::Data)
    }

    /// Whether it may be used. If it was left in the middle of something, it is closed for good now.
    pub(super) fn usable(&mut self, phase: Phase) -> Result<(), Error> {
        if self.stop_handle.is_stopped() {
            self.close();
            return Err(Error::Stopped(phase));
        }
        match self.broken {
            true => {
                self.close();
                Err(Error::NotConnected)
            }
            false => Ok(()),
        }
    }

    /// A lost connection is nobody's fault if it was stopped. What the server has said is told all the same.
    pub(super) fn stopped_or(&self, error: Error, phase: Phase) -> Error {
        match error {
            Error::Connect { .. }
            | Error::Io { .. }
            | Error::Closed(_)
            | Error::Timeout(_)
            | Error::Tls { .. }
                if self.stop_handle.is_stopped() =>
            {
                Error::Stopped(phase)
            }
            error => error,
        }
    }

    /// One octet behind the consent to STARTTLS is an injection (RFC 3207 §6; the "NO STARTTLS" attacks of 2021).
    fn refuse_clear_text(&mut self) -> Result<(), Error> {
        if !self.inbox.is_empty() || self.listen(Phase::StartTls)? > 0 {
            return Err(Error::protocol(Phase::StartTls, "octets in clear behind the consent to STARTTLS"));
        }
        Ok(())
    }

    /// Tells the source how much has left, perhaps all that was held back.
    fn tell_progress(&self, source: &mut Option<(usize, &mut Source<'_>)>, all: bool) {
        if let Some((_, source)) = source {
            source.meter.gone(self.out.octets_written());
            if all {
                source.left();
            }
        }
    }

    /// Tells the log what was put into the outbox.
    pub(super) fn log_commands(&mut self) {
        let number = self.number;
        match log::log_enabled!(target: "postino", log::Level::Debug) {
            true => self.out.drain_log(|line| log::debug!(target: "postino", "#{number} C: {line}")),
            false => self.out.discard_log(),
        }
    }
}

/// Where the time goes.
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

    /// From here on it goes to this phase.
    fn at(&mut self, phase: Phase) {
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

    /// Leaves out the last `spent` of it: that was nobody's here.
    pub fn skip(&mut self, spent: Duration) {
        self.since += spent;
    }

    /// What has been counted since the start.
    pub fn timings(&mut self) -> Timings {
        self.count();
        self.took
    }

    /// How long it is since the start, and starts anew.
    pub fn lap(&mut self) -> Timings {
        let now = Instant::now();
        let total = now.saturating_duration_since(self.since);
        *self = Clock { phase: Phase::Mail, since: now, took: Timings::default() };
        Timings { total, ..Timings::default() }
    }
}

/// What is still being written is content, though its end is in the outbox: the limit of the reply to the end begins when
/// all has left.
fn on_its_way(phase: Phase) -> Phase {
    match phase {
        Phase::End => Phase::Body,
        phase => phase,
    }
}

/// What a source says when it fails, or takes too long.
pub(super) fn source_error(e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::TimedOut => Error::Timeout(Phase::Body),
        // What is wrong with the message itself is an error of ours.
        _ => e.downcast().unwrap_or_else(Error::Source),
    }
}

#[maybe_async]
impl Client {
    /// Carries a dialogue through to its end. From its first step to its last the connection counts as broken: who
    /// drops the future, or gets an error, leaves one that is never used again.
    pub(super) async fn run(&mut self, talk: &mut (dyn Dialogue + Send)) -> Result<(), Error> {
        self.usable(talk.phase())?;
        match self.go_on(talk, None).await? {
            Want::Nothing => Ok(()),
            _ => Err(Error::Internal("a dialogue that wants more than it can be given")),
        }
    }

    /// Carries a dialogue as far as it goes by itself: to its end, or to what its owner has to give. The content of the
    /// message with this number comes from `source`.
    pub(super) async fn go_on(
        &mut self,
        talk: &mut (dyn Dialogue + Send),
        source: Option<(usize, &mut Source<'_>)>,
    ) -> Result<Want, Error> {
        self.broken = true;
        match self.carry(talk, source).await {
            Ok(want) => {
                self.broken = want != Want::Nothing;
                Ok(want)
            }
            Err(e) => {
                let e = self.stopped_or(e, talk.phase());
                log::debug!(target: "postino", "#{} closing: {e}", self.number);
                self.close();
                Err(e)
            }
        }
    }

    async fn carry(
        &mut self,
        talk: &mut (dyn Dialogue + Send),
        mut source: Option<(usize, &mut Source<'_>)>,
    ) -> Result<Want, Error> {
        // The clock runs for a whole reply, or a whole buffer on its way, however they drip. It starts when there is
        // something to wait for: looking at it is not free.
        let mut until = None;
        // The same for a piece of content on its way to us.
        let mut fetching = None;
        loop {
            if self.hear(talk)? {
                until = None;
            }
            let want = talk.fill(&mut self.out);
            self.log_commands();
            if !self.hurry {
                self.clock.at(talk.phase());
            }
            match want {
                Want::Nothing | Want::Message | Want::Result => return Ok(want),
                Want::Body(number) => {
                    let Some((_, source)) = source.as_mut().filter(|(n, _)| *n == number) else {
                        return Ok(want);
                    };
                    source.meter.begin(self.out.end());
                    if !source.is_at_hand() {
                        let limit = self.limit_once(&mut fetching, Phase::Body)?;
                        if !self.fetch(talk, source, limit).await? {
                            continue;
                        }
                        fetching = None;
                    }
                    talk.body(source.piece(), &mut self.out)?;
                    until = None; // the source may have taken its time
                }
                Want::Write => {
                    let phase = on_its_way(talk.phase());
                    let limit = self.limit_once(&mut until, phase)?;
                    let all = self.write(phase, limit).await?;
                    self.tell_progress(&mut source, all);
                    if all {
                        until = None;
                    }
                }
                Want::Reply | Want::Probe => {
                    if !self.out.unsent().is_empty() {
                        let phase = on_its_way(talk.phase());
                        let limit = self.limit_once(&mut until, phase)?;
                        let all = self.write(phase, limit).await?;
                        self.tell_progress(&mut source, all);
                        if !all {
                            continue;
                        }
                        until = None; // writing may have taken its time
                    }
                    let mut limit = self.limit_once(&mut until, talk.phase())?;
                    if want == Want::Probe {
                        limit = limit.min(later(Instant::now(), patience(self.slowest)));
                        until = Some(limit);
                    }
                    self.read(talk.phase(), limit).await?;
                }
                Want::StartTls => {
                    self.refuse_clear_text()?;
                    self.handshake().await?;
                    talk.on_tls();
                    until = None;
                }
                Want::Token => {
                    let Some(tokens) = &self.tokens else {
                        return Err(Error::Internal("a token is wanted, and nobody gives one"));
                    };
                    let token = tokens.ask(self.limit(Phase::Auth)?, &self.stop_handle).await?;
                    talk.on_token(&token)?;
                    until = None; // the callback may have taken its time
                }
            }
        }
    }

    /// Waits for the next piece of the content. False if there is none yet.
    ///
    /// Where the source takes its time, what it has given so far does not wait for more of it, and the server is heard.
    async fn fetch(
        &mut self,
        talk: &mut (dyn Dialogue + Send),
        source: &mut Source<'_>,
        until: Instant,
    ) -> Result<bool, Error> {
        let began = Instant::now();
        if self.stop_handle.is_stopped() {
            return Err(Error::Stopped(Phase::Body));
        }
        if began >= until {
            return Err(Error::Timeout(Phase::Body));
        }
        if source.is_late(began) {
            talk.flush(&mut self.out);
            self.log_commands();
            if !self.out.unsent().is_empty() {
                let limit = self.limit(Phase::Body)?;
                let all = self.write(Phase::Body, limit).await?;
                source.meter.gone(self.out.octets_written());
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

    /// Writes all of the outbox. False if the server had something to say first.
    async fn write(&mut self, phase: Phase, until: Instant) -> Result<bool, Error> {
        // With no reply outstanding the server has nothing to say. What it says all the same must not be taken for
        // the answer to what is written now.
        let drained = self.drained.take();
        let drained = || self.inbox.is_empty() && drained.is_some_and(|at| at.elapsed() < A_MOMENT);
        if self.out.due() == 0 && !drained() {
            let partial = !self.inbox.is_empty();
            if self.listen(phase)? > 0 {
                return Ok(false);
            }
            if partial {
                self.read(phase, until).await?;
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
                    // It may have said why before it closed.
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
    async fn read(&mut self, phase: Phase, until: Instant) -> Result<(), Error> {
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
                // A read that leaves room has taken all there was; TLS gives a record at a time.
                let drained = self.hurry && n < most && !self.stream.is_encrypted();
                self.drained = drained.then(Instant::now);
                Ok(())
            }
            Err(e) => Err(Error::io(phase, e)),
        }
    }

    /// TLS on the connection as it is.
    pub(super) async fn handshake(&mut self) -> Result<(), Error> {
        self.settings.config.tls_name()?; // nothing is verified for an empty name
        let until = self.limit(Phase::Tls)?;
        let secured = self.stream.start_tls(&self.settings.config.tls, until).await;
        secured.map_err(|e| self.stopped_or(e, Phase::Tls))?;
        self.pace.secured();
        Ok(())
    }
}

/// By itself, so that what is for a log that hardly anybody reads is not in the way of each reply.
#[cold]
fn log_reply(number: u64, reply: &Reply) {
    log::debug!(target: "postino", "#{number} S: {reply}");
}

impl Client {
    /// What the server said is no reply. The line in question is shown, but in a login: it may repeat a password.
    #[cold]
    fn no_reply(&self, phase: Phase, what: &'static str) -> Error {
        match phase {
            Phase::Auth => Error::protocol(phase, what),
            _ => Error::protocol(phase, format!("{what}: \"{}\"", self.inbox.rejected_line())),
        }
    }

    /// Hands all replies at hand to the dialogue. True if there was one.
    fn hear(&mut self, talk: &mut (dyn Dialogue + Send)) -> Result<bool, Error> {
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
            let phase = talk.phase(); // as of now, before it is taken
            talk.on_reply(reply, &self.out)?;
            if reply.closes(phase) {
                return Err(Error::Refused { phase, reply: talk.keep(reply) });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_in_proportion_to_the_slowest_reply_and_never_absurdly_short() {
        let ms = Duration::from_millis;
        for (slowest, expected) in [(ms(0), ms(50)), (ms(1), ms(50)), (ms(50), ms(500)), (ms(300), ms(3_000))]
        {
            assert_eq!(patience(slowest), expected);
        }
        assert_eq!(patience(Duration::MAX), Duration::MAX);
    }
}
