//! Dialogue: one command, one reply.

use super::{Command, Dialogue, Outbox, ReplyRef, Want};
use crate::{Error, Phase, Reply};

/// One command and its reply: RSET, NOOP, QUIT.
#[derive(Debug)]
pub struct Simple {
    phase: Phase,
    command: Command<'static>,
    /// What grants it.
    code: u16,
    said: bool,
    reply: Option<Reply>,
}

impl Simple {
    /// RSET: no transaction is under way (RFC 5321 §4.1.1.5).
    #[must_use]
    pub fn reset() -> Simple {
        Simple::new(Phase::Reset, Command::Reset, 250)
    }

    /// NOOP: nothing at all (RFC 5321 §4.1.1.9).
    #[must_use]
    pub fn noop() -> Simple {
        Simple::new(Phase::Noop, Command::Noop, 250)
    }

    /// QUIT: goodbye (RFC 5321 §4.1.1.10).
    #[must_use]
    pub fn quit() -> Simple {
        Simple::new(Phase::Quit, Command::Quit, 221)
    }

    fn new(phase: Phase, command: Command<'static>, code: u16) -> Simple {
        Simple { phase, command, code, said: false, reply: None }
    }

    /// The reply, if it grants the command.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if it does not.
    pub fn into_result(self) -> Result<Reply, Error> {
        match self.reply {
            Some(reply) if reply.code() == self.code => Ok(reply),
            Some(reply) => Err(Error::Refused { phase: self.phase, reply }),
            None => Err(Error::NotConnected),
        }
    }
}

impl Dialogue for Simple {
    fn phase(&self) -> Phase {
        self.phase
    }

    fn fill(&mut self, out: &mut Outbox) -> Want {
        if self.reply.is_some() {
            return Want::Nothing;
        }
        if !self.said {
            self.said = true;
            out.put(self.command);
        }
        Want::Reply
    }

    fn on_reply(&mut self, reply: ReplyRef<'_>, _: &Outbox) -> Result<(), Error> {
        if reply.code() != self.code && !reply.is_negative() {
            return Err(self.misplaced(reply));
        }
        self.reply = Some(reply.keep());
        Ok(())
    }
}
