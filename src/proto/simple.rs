//! Dialogue: one command, one reply.

use super::{Command, Dialogue, HelloName, Line, Outbox, Parameters, ReplyRef, Want};
use crate::{Address, Error, Phase, Reply};

/// These lead on to something that is not one reply, or change what is known of the server; each with what does it.
const NOT_SIMPLE: [(&str, &str); 8] = [
    ("AUTH", "Client::login, or Client::auth_plain and its like"),
    ("BDAT", "Client::data"),
    ("DATA", "Client::data"),
    ("EHLO", "Client::ehlo"),
    ("HELO", "Client::helo"),
    ("LHLO", "Client::ehlo"),
    ("QUIT", "Client::quit"),
    ("STARTTLS", "Client::starttls"),
];

/// One command and its reply.
///
/// | | granted by | RFC 5321 |
/// |---|---|---|
/// | EHLO, HELO | 250 | §4.1.1.1 |
/// | MAIL | 250 | §4.1.1.2 |
/// | RCPT | 250, 251 | §4.1.1.3 |
/// | RSET, NOOP | 250 | §4.1.1.5, §4.1.1.9 |
/// | VRFY | 250, 251, 252 | §4.1.1.6 |
/// | EXPN | 250 | §4.1.1.7 |
/// | HELP | 211, 214, 250 | §4.1.1.8 |
/// | QUIT | 221 | §4.1.1.10 |
/// | one of the caller's own | anything but 3xx | |
///
/// 4xx and 5xx are refusals. Any other answer cannot be one to this command: the connection is out of step.
#[derive(Debug)]
pub struct Simple {
    phase: Phase,
    what: What,
    granted: Granted,
    said: bool,
    reply: Option<Reply>,
}

#[derive(Debug)]
enum What {
    Fixed(Command<'static>),
    Line(Line),
}

#[derive(Debug, Clone, Copy)]
enum Granted {
    By(&'static [u16]),
    /// It is not ours to say: the caller reads the reply.
    Unjudged,
}

impl Simple {
    /// RSET: no transaction is under way.
    #[must_use]
    pub fn reset() -> Simple {
        Simple::new(Phase::Reset, What::Fixed(Command::Reset), &[250])
    }

    /// NOOP: nothing at all.
    #[must_use]
    pub fn noop() -> Simple {
        Simple::new(Phase::Noop, What::Fixed(Command::Noop), &[250])
    }

    /// QUIT: goodbye.
    #[must_use]
    pub fn quit() -> Simple {
        Simple::new(Phase::Quit, What::Fixed(Command::Quit), &[221])
    }

    /// EHLO.
    #[must_use]
    pub fn ehlo(name: &HelloName) -> Simple {
        Simple::line(Phase::Hello, &["EHLO ", name.as_str()], &[250])
    }

    /// LHLO, the EHLO of LMTP (RFC 2033 §4.1).
    #[must_use]
    pub fn lhlo(name: &HelloName) -> Simple {
        Simple::line(Phase::Hello, &["LHLO ", name.as_str()], &[250])
    }

    /// HELO.
    #[must_use]
    pub fn helo(name: &HelloName) -> Simple {
        Simple::line(Phase::Hello, &["HELO ", name.as_str()], &[250])
    }

    /// MAIL; no address is the null sender.
    #[must_use]
    pub fn mail(sender: Option<&Address>, parameters: &Parameters) -> Simple {
        let sender = sender.map_or("", Address::as_str);
        Simple::line(Phase::Mail, &["MAIL FROM:<", sender, ">", &parameters.text()], &[250])
    }

    /// RCPT.
    #[must_use]
    pub fn rcpt(recipient: &Address, parameters: &Parameters) -> Simple {
        Simple::line(
            Phase::Recipient,
            &["RCPT TO:<", recipient.as_str(), ">", &parameters.text()],
            &[250, 251],
        )
    }

    /// VRFY: whether there is such a user.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for what cannot be a [`Line`].
    pub fn vrfy(user: &str, parameters: &Parameters) -> Result<Simple, Error> {
        let line = argument("VRFY", user, parameters)?;
        Ok(Simple::new(Phase::Vrfy, What::Line(line), &[250, 251, 252]))
    }

    /// EXPN: who is on a list.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for what cannot be a [`Line`].
    pub fn expn(list: &str, parameters: &Parameters) -> Result<Simple, Error> {
        let line = argument("EXPN", list, parameters)?;
        Ok(Simple::new(Phase::Expn, What::Line(line), &[250]))
    }

    /// HELP, perhaps on something.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for what cannot be a [`Line`].
    pub fn help(topic: &str) -> Result<Simple, Error> {
        let line = argument("HELP", topic, &Parameters::default())?;
        Ok(Simple::new(Phase::Help, What::Line(line), &[211, 214, 250]))
    }

    /// A command of the caller's own. Its reply is not judged: [`into_result`](Simple::into_result) gives any.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for commands that lead on to something else (AUTH, BDAT, DATA, STARTTLS), or change what is
    /// known of the server (EHLO, HELO, LHLO, QUIT).
    pub fn own(line: Line) -> Result<Simple, Error> {
        let verb = line.verb();
        if let Some((_, method)) = NOT_SIMPLE.iter().find(|(name, _)| *name == verb) {
            return Err(Error::Config(
                format!("{verb} is more than a command and its reply: {method} does it").into(),
            ));
        }
        let mut own = Simple::new(Phase::Command, What::Line(line), &[]);
        own.granted = Granted::Unjudged;
        Ok(own)
    }

    fn line(phase: Phase, parts: &[&str], codes: &'static [u16]) -> Simple {
        Simple::new(phase, What::Line(Line::of(parts)), codes)
    }

    fn new(phase: Phase, what: What, codes: &'static [u16]) -> Simple {
        Simple { phase, what, granted: Granted::By(codes), said: false, reply: None }
    }

    /// The reply, if it grants the command.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if it does not.
    pub fn into_result(self) -> Result<Reply, Error> {
        match (self.reply, self.granted) {
            (Some(reply), Granted::By(codes)) if !codes.contains(&reply.code()) => {
                Err(Error::Refused { phase: self.phase, reply })
            }
            (Some(reply), _) => Ok(reply),
            (None, _) => Err(Error::NotConnected),
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
        let fits = match self.granted {
            Granted::By(codes) => codes.contains(&reply.code()) || reply.is_negative(),
            // The server waits for more, and there is no more.
            Granted::Unjudged => reply.code() / 100 != 3,
        };
        if !fits {
            return Err(self.misplaced(reply));
        }
        self.reply = Some(reply.keep());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_421_that_nobody_asked_for_is_a_refusal_and_all_else_is_out_of_step() {
        let early = |text: &[u8]| Simple::noop().on_early(Reply::parse(text).unwrap().borrow());
        assert!(matches!(early(b"421 bye\r\n"), Error::Refused { phase: Phase::Noop, .. }));
        assert!(matches!(early(b"450 what\r\n"), Error::Protocol { phase: Phase::Noop, .. }));
    }

    #[test]
    fn only_the_codes_of_a_command_grant_it() {
        let result = |text: &[u8]| {
            let (mut noop, reply) = (Simple::noop(), Reply::parse(text).unwrap());
            noop.on_reply(reply.borrow(), &Outbox::default()).and_then(|()| noop.into_result())
        };
        assert!(result(b"250 ok\r\n").is_ok());
        assert!(matches!(result(b"550 no\r\n"), Err(Error::Refused { .. })));
        assert!(matches!(result(b"251 ok\r\n"), Err(Error::Protocol { .. })));
    }
}
