//! Dialogue for one command and its reply.

use super::{
    Command, Dialogue, HelloName, Line, Outbox, Parameters, ReplyErrors, ReplyRef, Want, verdict::Verdict,
};
use crate::{Address, Error, Phase, Reply};

/// Commands that lead to more than one reply, or change what is known about the server, each with the method to use
/// instead.
const NOT_SIMPLE: [(&str, &str); 8] = [
    ("AUTH", "Client::login or Client::auth"),
    ("BDAT", "Client::data"),
    ("DATA", "Client::data"),
    ("EHLO", "Client::ehlo"),
    ("HELO", "Client::helo"),
    ("LHLO", "Client::ehlo"),
    ("QUIT", "Client::quit"),
    ("STARTTLS", "Client::starttls"),
];

/// Dialogue for one command and its reply.
///
/// Any 2yz reply accepts the command (RFC 5321 §4.3.2). 4yz and 5yz are refusals, and so is 221 in answer to anything
/// except QUIT: the server closes the connection. After any other reply the connection is out of step.
#[derive(Debug)]
pub struct Simple {
    phase: Phase,
    what: What,
    said: bool,
    reply: Option<Reply>,
}

#[derive(Debug)]
enum What {
    Fixed(Command<'static>),
    Line(Line),
}

impl Simple {
    /// Creates RSET, which ends a transaction that is under way.
    #[must_use]
    pub(crate) fn reset() -> Simple {
        Simple::new(Phase::Reset, What::Fixed(Command::Reset))
    }

    /// Creates NOOP, which does nothing.
    #[must_use]
    pub fn noop() -> Simple {
        Simple::new(Phase::Noop, What::Fixed(Command::Noop))
    }

    /// Creates QUIT, which ends the session.
    #[must_use]
    pub fn quit() -> Simple {
        Simple::new(Phase::Quit, What::Fixed(Command::Quit))
    }

    /// Creates EHLO.
    #[must_use]
    pub(crate) fn ehlo(name: &HelloName) -> Simple {
        Simple::line(Phase::Hello, &["EHLO ", name.as_str()])
    }

    /// Creates LHLO, the EHLO of LMTP (RFC 2033 §4.1).
    #[must_use]
    pub(crate) fn lhlo(name: &HelloName) -> Simple {
        Simple::line(Phase::Hello, &["LHLO ", name.as_str()])
    }

    /// Creates HELO.
    #[must_use]
    pub(crate) fn helo(name: &HelloName) -> Simple {
        Simple::line(Phase::Hello, &["HELO ", name.as_str()])
    }

    /// Creates MAIL. No address means the null sender.
    #[must_use]
    pub(crate) fn mail(sender: Option<&Address>, parameters: &Parameters) -> Simple {
        let sender = sender.map_or("", Address::as_str);
        Simple::line(Phase::Mail, &["MAIL FROM:<", sender, ">", &parameters.text()])
    }

    /// Creates RCPT.
    #[must_use]
    pub(crate) fn rcpt(recipient: &Address, parameters: &Parameters) -> Simple {
        Simple::line(Phase::Recipient, &["RCPT TO:<", recipient.as_str(), ">", &parameters.text()])
    }

    /// Creates VRFY, which asks whether there is such a user.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if it makes an invalid [`Line`].
    pub(crate) fn vrfy(user: &str, parameters: &Parameters) -> Result<Simple, Error> {
        let line = argument("VRFY", user, parameters)?;
        Ok(Simple::new(Phase::Vrfy, What::Line(line)))
    }

    /// Creates EXPN, which asks for the members of a list.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if it makes an invalid [`Line`].
    pub(crate) fn expn(list: &str, parameters: &Parameters) -> Result<Simple, Error> {
        let line = argument("EXPN", list, parameters)?;
        Ok(Simple::new(Phase::Expn, What::Line(line)))
    }

    /// Creates HELP, optionally on a topic.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if it makes an invalid [`Line`].
    pub(crate) fn help(topic: &str) -> Result<Simple, Error> {
        let line = argument("HELP", topic, &Parameters::default())?;
        Ok(Simple::new(Phase::Help, What::Line(line)))
    }

    /// Creates a custom command. The log shows it, so it must not contain a secret.
    ///
    /// Its reply is not judged: [`into_result`](Simple::into_result) returns any reply.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for commands that begin a longer exchange (AUTH, BDAT, DATA, STARTTLS), or change what is
    /// known about the server (EHLO, HELO, LHLO, QUIT).
    pub(crate) fn custom(line: Line) -> Result<Simple, Error> {
        let verb = line.verb();
        if let Some((_, method)) = NOT_SIMPLE.iter().find(|(name, _)| *name == verb) {
            return Err(Error::Config(
                format!("{verb} cannot be sent as a single command: use {method}").into(),
            ));
        }
        Ok(Simple::new(Phase::Command, What::Line(line)))
    }

    /// Checks that the command line, including options, has at most 2,048 octets.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if it is longer.
    pub(crate) fn check(self) -> Result<Simple, Error> {
        if let What::Line(line) = &self.what {
            line.check()?;
        }
        Ok(self)
    }

    fn line(phase: Phase, parts: &[&str]) -> Simple {
        Simple::new(phase, What::Line(Line::of(parts)))
    }

    fn new(phase: Phase, what: What) -> Simple {
        Simple { phase, what, said: false, reply: None }
    }

    /// Returns the reply, if it accepts the command.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if it does not. [`Error::Internal`] if there is no reply yet.
    pub fn into_result(self) -> Result<Reply, Error> {
        let Some(reply) = self.reply else { return Err(Error::Internal("a command has no reply yet")) };
        match Verdict::of(reply.borrow(), self.phase) {
            // The reply to a custom command is not judged.
            _ if self.phase == Phase::Command => Ok(reply),
            Verdict::Done => Ok(reply),
            _ => Err(Error::Refused { phase: self.phase, reply }),
        }
    }
}

fn argument(verb: &str, text: &str, parameters: &Parameters) -> Result<Line, Error> {
    let space = if text.is_empty() { "" } else { " " };
    Line::new([verb, space, text, &parameters.text()].concat())
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
            out.put(match &self.what {
                What::Fixed(command) => *command,
                What::Line(line) => Command::Line(line),
            });
        }
        Want::Reply
    }

    fn on_reply(&mut self, reply: ReplyRef<'_>, _: &Outbox) -> Result<(), Error> {
        match Verdict::of(reply, self.phase) {
            Verdict::Done | Verdict::Refused => self.reply = Some(reply.keep()),
            Verdict::Closing => return Err(self.refusal(reply)),
            Verdict::Continue | Verdict::Misplaced => return Err(self.misplaced(reply)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsolicited_421_is_a_refusal_and_other_replies_are_protocol_errors() {
        let early = |text: &[u8]| Simple::noop().on_early(Reply::parse(text).unwrap().borrow());
        assert!(matches!(early(b"421 bye\r\n"), Error::Refused { phase: Phase::Noop, .. }));
        assert!(matches!(early(b"450 what\r\n"), Error::Protocol { phase: Phase::Noop, .. }));
    }

    #[test]
    fn any_2yz_reply_except_221_accepts_a_command() {
        let result = |text: &[u8]| {
            let (mut noop, reply) = (Simple::noop(), Reply::parse(text).unwrap());
            noop.on_reply(reply.borrow(), &Outbox::default()).and_then(|()| noop.into_result())
        };
        assert!(result(b"250 ok\r\n").is_ok());
        assert!(matches!(result(b"550 no\r\n"), Err(Error::Refused { .. })));
        assert!(result(b"200 ok\r\n").is_ok());
        assert!(matches!(result(b"354 go on\r\n"), Err(Error::Protocol { .. })));
        assert!(matches!(result(b"221 bye\r\n"), Err(Error::Refused { .. })));
    }
}
