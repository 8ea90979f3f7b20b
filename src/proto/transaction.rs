//! Dialogue: one message. MAIL, RCPT, DATA, the content, and RSET behind a failure (RFC 5321 §3.3).
//!
//! Replies come in the order of the commands, so the number of replies heard says what a reply answers, pipelined
//! (RFC 2920) or not: 0 is MAIL, 1 to n are the recipients, then come DATA, the end of the message, and RSET.
//!
//! ```text
//! Envelope ─all said─▶ Hold ─354─▶ Body ─last piece─▶ Ended ─250─▶ Over
//!     │                 │           (for nobody: a lone dot)  │
//!     └─ refused ───────┴───────────── refused ──▶ Reset ──▶ Resetting ─250─▶ Over
//! ```

use super::{Command, Dialogue, Encoder, MailParameters, Outbox, ReplyRef, Want};
use crate::{Delivery, Envelope, Error, Outcome, Phase, Reply};

/// At most so many replies are outstanding: a server that answers slowly is not buried in commands.
const WINDOW: usize = 512;

/// So much of the refusals of recipients is kept whole, in octets; of each one behind that, only the beginning.
const MAX_REFUSALS: usize = 1024 * 1024;

/// How a transaction is carried out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Commands go out without waiting for the replies before: only if the server offers PIPELINING.
    pub pipelining: bool,
    /// One refused recipient, and nobody gets the message.
    pub all_or_nothing: bool,
    /// It is the last one: QUIT goes out with the end of the message, and nobody waits for its reply. Only if the
    /// server offers PIPELINING.
    pub farewell: bool,
}

/// One message for its recipients.
#[derive(Debug)]
pub struct Transaction {
    envelope: Envelope,
    parameters: MailParameters,
    options: Options,
    stage: Stage,
    /// Replies asked for and heard.
    asked: usize,
    heard: usize,
    encoder: Encoder,
    /// How many recipients the server took, and which it refused.
    taken: usize,
    refused: Vec<(usize, Reply)>,
    refusals_left: usize,
    /// The server took a recipient though it had refused the sender: whose transaction is that?
    stray: bool,
    /// The refusal of the message as a whole.
    refusal: Option<(Phase, Reply)>,
    /// The server closes: what it said then.
    closing: Option<Reply>,
    accepted: Option<Reply>,
    /// Where in the stream the line of the final dot begins; none for the lone dot that sends nothing.
    dot: Option<u64>,
    /// Where in the stream the end of the message ends.
    end: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The number of the next command.
    Envelope(usize),
    /// DATA is out.
    Hold,
    /// The content is to be sent.
    Body,
    /// The end is out.
    Ended,
    /// It failed, and RSET is to be sent once all replies are in.
    Reset,
    /// RSET is out.
    Resetting,
    Over,
}

impl Transaction {
    /// A message with its envelope; its content is asked for by [`Want::Body`]. The server must offer what
    /// `parameters` and `options` use.
    #[must_use]
    pub fn new(envelope: Envelope, parameters: MailParameters, options: Options) -> Transaction {
        Transaction {
            envelope,
            parameters,
            options,
            stage: Stage::Envelope(0),
            asked: 0,
            heard: 0,
            encoder: Encoder::new(parameters.eight_bit),
            taken: 0,
            refused: Vec::new(),
            refusals_left: MAX_REFUSALS,
            stray: false,
            refusal: None,
            closing: None,
            accepted: None,
            dot: None,
            end: 0,
        }
    }

    /// The number of DATA; those below are MAIL and the recipients.
    fn data(&self) -> usize {
        1 + self.envelope.recipients().len()
    }

    fn ask(&mut self, out: &mut Outbox, command: Command<'_>) {
        out.put(command);
        self.asked += 1;
    }

    /// Nobody will get it, as far as is known.
    fn is_pointless(&self) -> bool {
        let refused = self.refused.len();
        self.refusal.is_some()
            || refused == self.envelope.recipients().len()
            || self.options.all_or_nothing && refused > 0
    }

    /// Says the next command of the envelope, or tells what has to be waited for.
    fn fill_envelope(&mut self, number: usize, out: &mut Outbox) -> Option<Want> {
        let (answered, data) = (self.asked == self.heard, self.data());
        let alone = !self.options.pipelining || number == data && self.options.all_or_nothing;
        if !answered && (alone || self.asked - self.heard >= WINDOW) {
            return Some(Want::Reply);
        }
        if self.is_pointless() {
            self.stage = Stage::Reset;
            return None;
        }
        self.stage = if number < data { Stage::Envelope(number + 1) } else { Stage::Hold };
        let envelope = self.envelope.clone(); // shared, not copied
        let command = match number {
            0 => Command::Mail(envelope.sender(), self.parameters),
            _ if number < data => Command::Rcpt(&envelope.recipients()[number - 1]),
            _ => Command::Data,
        };
        self.ask(out, command);
        None
    }

    /// The end of the content: the dot, and perhaps goodbye.
    fn end(&mut self, out: &mut Outbox) {
        self.ask(out, Command::Dot);
        self.end = out.end();
        if self.options.farewell {
            out.put_farewell();
        }
        self.stage = Stage::Ended;
    }

    fn on_mail(&mut self, reply: ReplyRef<'_>) -> Result<(), Error> {
        match reply.code() {
            250 => Ok(()),
            400.. => {
                self.refusal = Some((Phase::Mail, reply.keep()));
                Ok(())
            }
            _ => Err(self.misplaced(reply)),
        }
    }

    fn on_recipient(&mut self, index: usize, reply: ReplyRef<'_>) -> Result<(), Error> {
        match reply.code() {
            250 | 251 if self.refusal.is_some() => self.stray = true,
            250 | 251 => self.taken += 1,
            400.. => {
                let reply = reply.keep_within(self.refusals_left);
                self.refusals_left = self.refusals_left.saturating_sub(reply.raw().len());
                self.refused.push((index, reply));
            }
            _ => return Err(self.misplaced(reply)),
        }
        Ok(())
    }

    fn on_data(&mut self, reply: ReplyRef<'_>) -> Result<(), Error> {
        match reply.code() {
            354 if self.stray => Err(self.misplaced(reply)),
            354 => {
                self.stage = Stage::Body;
                Ok(())
            }
            400.. => {
                if !self.is_pointless() {
                    self.refusal = Some((Phase::Data, reply.keep()));
                }
                self.stage = Stage::Reset;
                Ok(())
            }
            _ => Err(self.misplaced(reply)),
        }
    }

    fn on_end(&mut self, reply: ReplyRef<'_>, out: &Outbox) -> Result<(), Error> {
        let all_left = out.gone() >= self.end;
        match reply.code() {
            250 if all_left && self.taken > 0 => {
                self.accepted = Some(reply.keep());
                self.stage = Stage::Over;
                return Ok(());
            }
            250 if all_left => {} // an empty message that nobody gets
            400.. => {
                if self.taken > 0 {
                    self.refusal = Some((Phase::End, reply.keep()));
                }
                if !all_left {
                    return Err(Error::Refused { phase: Phase::Body, reply: reply.keep() });
                }
            }
            _ => return Err(self.misplaced(reply)),
        }
        self.stage = if self.options.farewell { Stage::Over } else { Stage::Reset };
        Ok(())
    }

    /// Whether QUIT is said: the connection is not to be used again.
    #[must_use]
    pub fn said_farewell(&self) -> bool {
        self.options.farewell && self.end > 0
    }

    /// What became of it. `offered` is [how much](Outbox::offered) of the stream may have left; `broke` is why the
    /// connection is out of step, if it is.
    ///
    /// # Errors
    ///
    /// [`Error::Transaction`] if no recipient was accepted.
    pub fn into_result(self, offered: u64, broke: Option<Error>) -> Result<Delivery, Error> {
        let recipients_refused = self.is_pointless();
        let in_doubt = self.dot.is_some_and(|dot| offered > dot);
        let first_refused = self.refused.first().map(|(_, reply)| reply.clone());
        let refused = |phase, reply| Error::Refused { phase, reply };

        let (outcome, others, reply, source) = match (self.accepted, self.refusal, broke) {
            (Some(reply), _, _) => {
                return Ok(Delivery::new(
                    self.envelope,
                    Outcome::Accepted,
                    Outcome::Accepted,
                    Some(reply),
                    self.refused,
                ));
            }
            (_, Some((phase, reply)), _) => {
                (Outcome::Refused, Outcome::Refused, Some(reply.clone()), refused(phase, reply))
            }
            (_, _, Some(why)) if !recipients_refused => {
                let outcome = if in_doubt { Outcome::InDoubt } else { Outcome::NotSent };
                (outcome, outcome, self.closing, why)
            }
            (_, _, broke) => {
                let source = first_refused.map(|reply| refused(Phase::Recipient, reply)).or(broke);
                (Outcome::Refused, Outcome::NotSent, None, source.unwrap_or(Error::NotConnected))
            }
        };
        // Behind a refused sender, what was said of the recipients means nothing.
        let sender_refused = matches!(source, Error::Refused { phase: Phase::Mail, .. });
        let refused = if sender_refused { Vec::new() } else { self.refused };
        let delivery = Delivery::new(self.envelope, outcome, others, reply, refused);
        Err(Error::Transaction { delivery: Box::new(delivery), source: Box::new(source) })
    }
}

impl Dialogue for Transaction {
    fn phase(&self) -> Phase {
        let data = self.data();
        match self.heard {
            _ if self.stage == Stage::Body => Phase::Body,
            _ if matches!(self.stage, Stage::Resetting | Stage::Over) => Phase::Reset,
            0 => Phase::Mail,
            n if n < data => Phase::Recipient,
            n if n == data => Phase::Data,
            _ => Phase::End,
        }
    }

    fn fill(&mut self, out: &mut Outbox) -> Want {
        loop {
            if out.is_full() {
                return Want::Write;
            }
            match self.stage {
                Stage::Envelope(number) => {
                    if let Some(want) = self.fill_envelope(number, out) {
                        return want;
                    }
                }
                // RFC 2920 §3.1: a 354 for nobody is answered by a lone dot.
                Stage::Body if self.taken == 0 => self.end(out),
                Stage::Body => return Want::Body,
                Stage::Reset if self.asked == self.heard => {
                    self.ask(out, Command::Reset);
                    self.stage = Stage::Resetting;
                }
                Stage::Hold | Stage::Ended | Stage::Reset | Stage::Resetting => return Want::Reply,
                Stage::Over => return Want::Nothing,
            }
        }
    }

    fn on_reply(&mut self, reply: ReplyRef<'_>, out: &Outbox) -> Result<(), Error> {
        let (number, data) = (self.heard, self.data());
        let ended = number == data + 1 && self.stage == Stage::Ended;
        if reply.code() == 421 && !(ended && self.taken > 0) {
            self.closing = Some(reply.keep());
            return Err(Error::Refused { phase: self.phase(), reply: reply.keep() });
        }
        let result = match number {
            _ if self.stage == Stage::Resetting => match reply.code() {
                250 => {
                    self.stage = Stage::Over;
                    Ok(())
                }
                _ => Err(self.misplaced(reply)),
            },
            0 => self.on_mail(reply),
            n if n < data => self.on_recipient(n - 1, reply),
            n if n == data => self.on_data(reply),
            _ => self.on_end(reply, out),
        };
        self.heard += 1;
        result
    }

    fn on_early(&mut self, reply: ReplyRef<'_>) -> Error {
        // Nothing is due, so an end that was reached has not been offered yet.
        let on_its_way = matches!(self.stage, Stage::Body | Stage::Ended) && self.taken > 0;
        let phase = if on_its_way { Phase::Body } else { self.phase() };
        let refused = Error::Refused { phase, reply: reply.keep() };
        match reply.code() {
            421 => self.closing = Some(reply.keep()),
            // The server will not have the rest of it.
            400.. if on_its_way => self.refusal = Some((Phase::Body, reply.keep())),
            _ => return Error::protocol(self.phase(), format!("a reply that nobody asked for: {reply}")),
        }
        refused
    }

    fn body(&mut self, piece: &[u8], out: &mut Outbox) -> Result<(), Error> {
        if piece.is_empty() {
            out.put_content(|out| self.encoder.end(out));
            self.dot = Some(out.end());
            self.end(out);
            return Ok(());
        }
        out.put_content(|out| self.encoder.push(piece, out)).map_err(Error::from)
    }
}
