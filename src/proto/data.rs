//! Dialogue for DATA alone, in a transaction that is sent command by command (RFC 5321 §4.1.1.4).
//!
//! ```text
//! Begin ─DATA─▶ Hold ─3yz─▶ Body ─last piece─▶ Ended ─any reply──▶ Over
//!                └─4yz, 5yz────────────────────────────────────────▲
//! ```

use super::{Command, Dialogue, Encoder, Forbidden, Outbox, ReplyErrors, ReplyRef, Want, verdict::Verdict};
use crate::{Error, Phase, Reply};

/// Dialogue for DATA, the content, and the reply to its end. If the recipients are known in advance, use a
/// [`Transaction`](super::Transaction), which does more.
#[derive(Debug)]
pub(crate) struct Data {
    encoder: Encoder,
    state: State,
    /// Offsets in the stream where the line of the final dot begins and ends.
    dot: Option<u64>,
    end: u64,
    /// The reply that decides the outcome, and its phase.
    answer: Option<(Phase, Reply)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Begin,
    Hold,
    Body,
    Ended,
    Over,
}

impl Data {
    /// Creates the dialogue. `eight_bit` allows non-ASCII octets, which MAIL must have announced.
    #[must_use]
    pub fn new(eight_bit: bool) -> Data {
        Data { encoder: Encoder::new(eight_bit), state: State::Begin, dot: None, end: 0, answer: None }
    }

    /// Returns the reply to the end of the content. `offered` is [how much](Outbox::octets_offered) of the stream may
    /// have left; `broke` is why the connection is out of step, if it is.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`]; [`Error::Internal`] if the dialogue is not over; or `broke`, whose phase is [`Phase::End`]
    /// if and only if the message is [in doubt](Error::in_doubt).
    pub fn into_result(self, offered: u64, broke: Option<Error>) -> Result<Reply, Error> {
        let in_doubt = self.dot.is_some_and(|dot| offered > dot);
        match (self.answer, broke) {
            (Some((Phase::End, reply)), _) if reply.is_positive() => Ok(reply),
            (Some((phase, reply)), _) => Err(Error::Refused { phase, reply }),
            (None, Some(broke)) if in_doubt => Err(broke.at(Phase::End)),
            (None, Some(broke)) if self.dot.is_some() => Err(broke.at(Phase::Body)),
            (None, broke) => Err(broke.unwrap_or(Error::Internal("the end of the content has no reply yet"))),
        }
    }
}

/// Returns the error for an octet that must not be sent with DATA alone. MAIL decided whether non-ASCII octets are
/// allowed.
pub(crate) fn refused_here(forbidden: Forbidden) -> Error {
    match forbidden {
        Forbidden::Nul => forbidden.into(),
        Forbidden::EightBit => Error::Message(
            "the message contains non-ASCII bytes, but MAIL was sent without BODY=8BITMIME".into(),
        ),
    }
}

impl Dialogue for Data {
    fn phase(&self) -> Phase {
        match self.state {
            State::Begin | State::Hold => Phase::Data,
            State::Body => Phase::Body,
            State::Ended | State::Over => Phase::End,
        }
    }

    fn fill(&mut self, out: &mut Outbox) -> Want {
        match self.state {
            _ if out.is_full() => return Want::Write,
            State::Begin => {
                out.put(Command::Data);
                self.state = State::Hold;
            }
            State::Hold | State::Ended => {}
            State::Body => return Want::Body(0),
            State::Over => return Want::Nothing,
        }
        Want::Reply
    }

    fn on_reply(&mut self, reply: ReplyRef<'_>, out: &Outbox) -> Result<(), Error> {
        let all_left = out.octets_written() >= self.end;
        match (self.state, Verdict::of(reply, self.phase())) {
            (State::Hold, Verdict::Continue) => {
                self.state = State::Body;
                return Ok(());
            }
            (State::Hold, Verdict::Refused) => self.answer = Some((Phase::Data, reply.keep())),
            (State::Ended, Verdict::Done | Verdict::Refused) if all_left => {
                self.answer = Some((Phase::End, reply.keep()));
            }
            (State::Ended, Verdict::Refused) => {
                // The rest must not be sent.
                self.answer = Some((Phase::Body, reply.keep()));
                return Err(Error::Refused { phase: Phase::Body, reply: reply.keep() });
            }
            (_, Verdict::Closing) => return Err(self.refusal(reply)),
            _ => return Err(self.misplaced(reply)),
        }
        self.state = State::Over;
        Ok(())
    }

    fn on_early(&mut self, reply: ReplyRef<'_>) -> Error {
        // No reply is due, so an end that was reached has not been offered yet.
        match (self.state, reply.is_negative()) {
            (State::Body | State::Ended, true) => Error::Refused { phase: Phase::Body, reply: reply.keep() },
            _ if reply.closes(self.phase()) => self.refusal(reply),
            _ => Error::protocol(self.phase(), format!("unsolicited reply: {reply}")),
        }
    }

    fn body(&mut self, piece: &[u8], out: &mut Outbox) -> Result<(), Error> {
        if self.state != State::Body {
            return Err(Error::Internal("content was passed when none was wanted"));
        }
        if !piece.is_empty() {
            return out.put_content(|out| self.encoder.push(piece, out)).map_err(refused_here);
        }
        out.put_content(|out| self.encoder.end(out));
        self.dot = Some(out.end());
        out.put(Command::Dot);
        self.end = out.end();
        self.state = State::Ended;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a dialogue after its last piece. `written` returns how many of the offered octets were written.
    fn ended(written: impl Fn(&[u8]) -> usize) -> (Data, Outbox) {
        let (mut data, mut out) = (Data::new(false), Outbox::default());
        data.fill(&mut out);
        let n = out.offer().len();
        out.written(n);
        out.reply_arrived();
        let go_on = Reply::parse(b"354 go on\r\n").unwrap();
        data.on_reply(go_on.borrow(), &out).unwrap();
        data.body(b"Hello", &mut out).unwrap();
        data.body(b"", &mut out).unwrap();
        assert_eq!(data.fill(&mut out), Want::Reply);
        let n = written(out.offer());
        out.written(n);
        (data, out)
    }

    fn answer(written: impl Fn(&[u8]) -> usize, reply: &[u8]) -> Result<Reply, Error> {
        let (mut data, out) = ended(written);
        let broke = data.on_reply(Reply::parse(reply).unwrap().borrow(), &out).err();
        data.into_result(out.octets_offered(), broke)
    }

    #[test]
    fn a_refusal_before_all_content_is_written_belongs_to_the_body_phase() {
        for (written, at) in [(0, Phase::Body), (9, Phase::Body), (10, Phase::End)] {
            let error = answer(|offered| written.min(offered.len()), b"552 too much\r\n").unwrap_err();
            assert!(matches!(error, Error::Refused { phase, .. } if phase == at), "{written}: {error:?}");
            assert!(!error.in_doubt());
        }
    }

    #[test]
    fn acceptance_before_all_content_is_written_is_in_doubt() {
        assert!(answer(<[u8]>::len, b"250 ok\r\n").is_ok());
        let error = answer(|offered| offered.len() - 1, b"250 ok\r\n").unwrap_err();
        assert!(matches!(error, Error::Protocol { phase: Phase::End, .. }) && error.in_doubt(), "{error:?}");
    }

    #[test]
    fn a_lost_message_is_in_doubt_only_if_the_dot_was_offered() {
        let broke = || Some(Error::Closed(Phase::End));
        let (data, out) = ended(|_| 0);
        assert!(data.into_result(out.octets_offered(), broke()).unwrap_err().in_doubt());
        let (data, out) = ended(|_| 0);
        let before_the_dot = out.end() - b".\r\n".len() as u64;
        assert!(!data.into_result(before_the_dot, broke()).unwrap_err().in_doubt());
        let (data, _) = ended(|_| 0);
        assert!(data.into_result(before_the_dot + 1, broke()).unwrap_err().in_doubt());
    }

    #[test]
    fn a_message_stopped_after_the_dot_was_offered_is_in_doubt() {
        for phase in [Phase::Body, Phase::End] {
            let broke = || Some(Error::Stopped(phase));
            let (data, out) = ended(|_| 0);
            let error = data.into_result(out.octets_offered(), broke()).unwrap_err();
            assert!(error.in_doubt() && error.retry() == crate::Retry::MayDuplicate, "{error:?}");
            let (data, out) = ended(|_| 0);
            let before_the_dot = out.end() - b".\r\n".len() as u64;
            assert!(!data.into_result(before_the_dot, broke()).unwrap_err().in_doubt());
        }
    }

    #[test]
    fn an_unsolicited_421_during_data_is_a_refusal() {
        let reply = Reply::parse(b"421 bye\r\n").unwrap();
        let error = Data::new(false).on_early(reply.borrow());
        assert!(matches!(error, Error::Refused { phase: Phase::Data, .. }), "{error:?}");
    }

    #[test]
    fn a_full_outbox_is_written_before_more_content_is_wanted() {
        let mut out = Outbox::default();
        out.put_content(|out| out.resize(64 * 1024, b'x'));
        let mut data = Data { state: State::Body, ..Data::new(false) };
        assert_eq!(data.fill(&mut out), Want::Write);
    }
}
