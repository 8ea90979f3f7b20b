//! What a reply means for the command that it answers. This is the only place that interprets reply codes.
//!
//! The first digit decides (RFC 5321 §4.2.1, §4.3.2). A code that the RFC does not list for a command is treated like
//! the listed ones of its class, with these exceptions:
//!
//! | in answer to | granted by | continued by | why |
//! |---|---|---|---|
//! | the connection (the greeting), STARTTLS | 220 | | what follows is another protocol, or none |
//! | EHLO, LHLO, HELO | 2yz except 220 | | a repeated greeting would shift every later reply |
//! | AUTH | 2yz | 334 | only 334 carries a challenge (RFC 4954 §4) |
//! | DATA | | 3yz | |
//! | all others | 2yz | | |
//!
//! 4yz and 5yz refuse. 421 also closes the connection, and so does 221 in answer to anything except QUIT.

use super::ReplyRef;
use crate::Phase;

/// What a reply means for the command that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The command was carried out.
    Done,
    /// The server waits for more: the content after DATA, or the answer to a challenge.
    Continue,
    /// The command was refused, temporarily (4yz) or permanently (5yz). After 421 the connection closes.
    Refused,
    /// 221 to a command other than QUIT: the server closes the connection without answering the command.
    Closing,
    /// Not an answer to this command: the connection is out of step.
    Misplaced,
}

impl Verdict {
    /// Judges a reply to the command of this phase.
    pub fn of(reply: ReplyRef<'_>, phase: Phase) -> Verdict {
        match (phase, reply.code()) {
            (_, 400..) => Verdict::Refused,
            _ if reply.closes(phase) => Verdict::Closing,
            (Phase::Greeting | Phase::StartTls, 220) => Verdict::Done,
            (Phase::Greeting | Phase::StartTls, _) | (Phase::Hello, 220) => Verdict::Misplaced,
            (Phase::Auth, 334) | (Phase::Data, 300..) => Verdict::Continue,
            (Phase::Data, _) | (_, 300..) => Verdict::Misplaced,
            _ => Verdict::Done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reply;

    const PHASES: [Phase; 15] = [
        Phase::Greeting,
        Phase::Hello,
        Phase::StartTls,
        Phase::Auth,
        Phase::Mail,
        Phase::Recipient,
        Phase::Data,
        Phase::Body,
        Phase::End,
        Phase::Reset,
        Phase::Noop,
        Phase::Vrfy,
        Phase::Expn,
        Phase::Help,
        Phase::Command,
    ];

    fn verdict(phase: Phase, code: u16) -> Verdict {
        Verdict::of(Reply::parse(format!("{code} what\r\n").as_bytes()).unwrap().borrow(), phase)
    }

    #[test]
    fn the_first_digit_decides_except_for_a_few_codes() {
        for phase in PHASES {
            let strict = matches!(phase, Phase::Greeting | Phase::StartTls);
            for code in 200..600 {
                let expected = match code {
                    221 => Verdict::Closing,
                    220 if strict => Verdict::Done,
                    220 if phase == Phase::Hello => Verdict::Misplaced,
                    334 if phase == Phase::Auth => Verdict::Continue,
                    300..400 if phase == Phase::Data => Verdict::Continue,
                    200..300 if !strict && phase != Phase::Data => Verdict::Done,
                    200..400 => Verdict::Misplaced,
                    _ => Verdict::Refused,
                };
                assert_eq!(verdict(phase, code), expected, "{code} in {phase}");
            }
        }
    }

    #[test]
    fn quit_accepts_any_2yz_reply_including_221() {
        assert_eq!(verdict(Phase::Quit, 221), Verdict::Done);
        assert_eq!(verdict(Phase::Quit, 250), Verdict::Done);
        assert_eq!(verdict(Phase::Quit, 354), Verdict::Misplaced);
    }
}
