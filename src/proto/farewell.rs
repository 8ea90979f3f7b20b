//! Dialogue: goodbye, without waiting for an answer.

use super::{Dialogue, Outbox, ReplyRef, Want};
use crate::{Error, Phase};

/// QUIT (RFC 5321 §4.1.1.10), and nobody waits for the reply.
#[derive(Debug, Default)]
pub struct Farewell {
    said: bool,
}

impl Dialogue for Farewell {
    fn phase(&self) -> Phase {
        Phase::Quit
    }

    fn fill(&mut self, out: &mut Outbox) -> Want {
        if !std::mem::replace(&mut self.said, true) {
            out.put_farewell();
        }
        if out.unsent().is_empty() { Want::Nothing } else { Want::Write }
    }

    fn on_reply(&mut self, reply: ReplyRef<'_>, _: &Outbox) -> Result<(), Error> {
        Err(self.misplaced(reply))
    }
}
