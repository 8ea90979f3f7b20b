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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reply;

    #[test]
    fn no_reply_is_due_behind_goodbye() {
        let (mut farewell, mut out) = (Farewell::default(), Outbox::default());
        farewell.fill(&mut out);
        let reply = Reply::parse(b"221 bye\r\n").unwrap();
        let result = farewell.on_reply(reply.borrow(), &out);
        assert!(matches!(result, Err(Error::Protocol { phase: Phase::Quit, .. })), "{result:?}");
    }
}
