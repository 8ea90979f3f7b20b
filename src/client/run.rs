//! The main loop: carries any dialogue, and knows no SMTP.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{Moved, body::Source, maybe_async, session::Client};
use crate::{
    Error, Phase, Took,
    config::later,
    proto::{Dialogue, Want},
};

/// So long nothing is likely to have arrived.
const A_MOMENT: Duration = Duration::from_millis(1);

impl Client {
    /// When a wait that begins now has to end.
    pub(super) fn limit(&self, phase: Phase) -> Result<Instant, Error> {
        if self.stopper.is_stopped() {
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

    /// Takes what has arrived, without waiting. Gives how much that is.
    pub(super) fn listen(&mut self, phase: Phase) -> Result<usize, Error> {
        match self.stream.try_read(self.inbox.room()) {
            Ok(0) => Err(Error::Closed(phase)),
            Ok(n) => {
                self.inbox.arrived(n);
                Ok(n)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(e) => Err(Error::io(phase, e)),
        }
    }

    /// How long silence behind a joined envelope means that it was only slow: a second, or ten round trips.
    fn patience(&self) -> Duration {
        Duration::from_secs(1).max(self.round_trip * 10)
    }

    /// Whether it may be used. If it was left in the middle of something, it is closed for good now.
    pub(super) fn usable(&mut self, phase: Phase) -> Result<(), Error> {
        if self.stopper.is_stopped() {
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
                if self.stopper.is_stopped() =>
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

    /// Tells the source how much has left.
    fn tell_progress(&self, source: &mut Option<(usize, &mut Source<'_>)>) {
        if let Some((_, source)) = source {
            source.meter.gone(self.out.gone());
        }
    }

    /// Tells the log what was put into the outbox.
    fn log_commands(&mut self) {
        let number = self.number;
        self.out.tell(|line| log::debug!(target: "postino", "#{number} C: {line}"));
    }
}

/// Where the time goes.
pub(super) struct Clock {
    phase: Phase,
    since: Instant,
    took: Took,
}

impl Clock {
    pub fn start() -> Clock {
        Clock { phase: Phase::Mail, since: Instant::now(), took: Took::default() }
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

    /// What has been counted since the start.
    pub fn took(&mut self) -> Took {
        self.count();
        self.took
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
            _ => Err(Error::NotConnected), // no such dialogue wants more than `carry` can give
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
        // The clock runs for a whole reply, or a whole buffer on its way, however they drip.
        let mut until = self.limit(talk.phase())?;
        loop {
            if self.hear(talk)? {
                until = self.limit(talk.phase())?;
            }
            let want = talk.fill(&mut self.out);
            self.log_commands();
            self.clock.at(talk.phase());
            match want {
                Want::Nothing | Want::Message | Want::Result => return Ok(want),
                Want::Body(number) => {
                    let Some((_, source)) = source.as_mut().filter(|(n, _)| *n == number) else {
                        return Ok(want);
                    };
                    source.meter.begin(self.out.end());
                    let begun = Instant::now();
                    let piece = source.next(self.limit(Phase::Body)?).await.map_err(source_error)?;
                    talk.body(piece, &mut self.out)?;
                    until = self.limit(Phase::Body)?; // the source may have taken its time
                    self.drained &= begun.elapsed() < A_MOMENT;
                }
                Want::Write => {
                    let all = self.write(talk.phase(), until).await?;
                    self.tell_progress(&mut source);
                    if all {
                        until = self.limit(talk.phase())?;
                    }
                }
                Want::Reply | Want::Probe => {
                    let anew = !self.out.unsent().is_empty();
                    let phase = match talk.phase() {
                        Phase::End if anew => Phase::Body, // it is still on its way
                        phase => phase,
                    };
                    let all = self.write(phase, until).await?;
                    self.tell_progress(&mut source);
                    if all {
                        if anew {
                            until = self.limit(talk.phase())?; // writing may have taken its time
                        }
                        if want == Want::Probe {
                            until = until.min(later(Instant::now(), self.patience()));
                        }
                        self.read(talk.phase(), until).await?;
                    }
                }
                Want::StartTls => {
                    self.refuse_clear_text()?;
                    self.handshake().await?;
                    talk.on_tls();
                    until = self.limit(talk.phase())?;
                }
                Want::Token => {
                    let Some(tokens) = &self.tokens else { return Err(Error::NotConnected) };
                    let token = tokens.ask(self.deadline).await?;
                    talk.on_token(&token)?;
                    until = self.limit(talk.phase())?; // the callback may have taken its time
                }
            }
        }
    }

    /// Writes all of the outbox. False if the server had something to say first.
    async fn write(&mut self, phase: Phase, until: Instant) -> Result<bool, Error> {
        if self.out.unsent().is_empty() {
            return Ok(true);
        }
        // With no reply outstanding the server has nothing to say. What it says all the same must not be taken for
        // the answer to what is written now.
        let drained = std::mem::take(&mut self.drained);
        if self.out.due() == 0 && !(drained && self.inbox.is_empty()) {
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
                Ok(Moved::Written(n)) => self.out.written(n),
                Ok(Moved::Read(0)) => return Err(Error::Closed(phase)),
                Ok(Moved::Read(n)) => {
                    self.inbox.arrived(n);
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
        let room = self.inbox.room();
        let most = room.len();
        match self.stream.read(room, until).await {
            Ok(0) => Err(Error::Closed(phase)),
            Ok(n) => {
                self.inbox.arrived(n);
                // A read that leaves room has taken all there was; TLS gives a record at a time.
                self.drained = self.hurry && n < most && !self.stream.is_encrypted();
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
        secured.map_err(|e| self.stopped_or(e, Phase::Tls))
    }
}

impl Client {
    /// Hands all replies at hand to the dialogue. True if there was one.
    fn hear(&mut self, talk: &mut (dyn Dialogue + Send)) -> Result<bool, Error> {
        let mut heard = false;
        loop {
            let phase = talk.phase();
            let reply = match self.inbox.next_reply() {
                Ok(Some(reply)) => reply,
                Ok(None) => return Ok(heard),
                // The line may repeat a password.
                Err(what) if phase == Phase::Auth => return Err(Error::protocol(phase, what)),
                Err(what) => {
                    let line = self.inbox.rejected_line();
                    return Err(Error::protocol(phase, format!("{what}: \"{line}\"")));
                }
            };
            log::debug!(target: "postino", "#{} S: {}", self.number, talk.keep(reply));
            heard = true;
            match self.out.due() {
                0 if self.out.said_farewell() => continue,
                0 => return Err(talk.on_early(reply)),
                _ => {}
            }
            self.out.heard();
            talk.on_reply(reply, &self.out)?;
            if reply.code() == 421 {
                return Err(Error::Refused { phase, reply: talk.keep(reply) });
            }
        }
    }
}
