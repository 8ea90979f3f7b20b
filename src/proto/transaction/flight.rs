//! One message on its way: what has been sent of it, which replies have arrived, and what they mean for it.

use super::{Joining, MAX_REFUSALS, Options, Transaction};
use crate::{
    Delivery, Error, Outcome, Phase, Reply,
    delivery::Again,
    proto::{Command, Outbox, ReplyRef, verdict::Verdict},
};

/// Number of the first RCPT of a flight; see [`Flight::step`].
const FIRST_RECIPIENT: usize = 2;

/// A message on its way, with its envelope.
pub(super) struct Flight {
    pub transaction: Transaction,
    pub content: Content,
    pub stage: Stage,
    pub envelope_sent: EnvelopeSent,
    pub replies: Replies,
    pub recipients: Recipients,
    pub answer: Answer,
    pub hints: Hints,
    pub span: Span,
}

/// What is still to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The command with this number is next.
    Envelope(usize),
    /// The envelope has been sent, with DATA if content goes that way. The content waits for the replies.
    Hold,
    /// The content is next.
    Body,
    /// Nothing is left to send.
    Over,
}

/// The content of a message.
pub(super) enum Content {
    /// All of it is available, encoded for DATA or BDAT.
    AtHand(Vec<u8>),
    /// It has yet to be requested from the caller.
    ToCome,
    /// Some of it has arrived, or has been sent.
    Begun,
}

/// Whether an envelope was sent together with the end of the previous message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EnvelopeSent {
    /// The envelope was sent after all replies to the previous message had arrived.
    Alone,
    /// The envelope was sent before the replies to the previous message had arrived.
    Joined,
    /// The envelope was sent early, and the server refused it for that reason. It is sent once more, alone.
    TurnedAway,
}

/// Counts commands and their replies.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Replies {
    pub asked: usize,
    pub heard: usize,
    /// Number of the first command: 0 if the flight begins with RSET, or else 1.
    first: usize,
}

/// The server's decision on the message as a whole.
#[derive(Debug)]
pub(super) enum Answer {
    Open,
    /// The reply to the end of the message; with LMTP, the first one that accepts it.
    Accepted(Reply),
    Refused(Phase, Reply),
    /// The message was refused, and then the server accepted a later command of the same transaction. It is unknown
    /// which transaction that command belongs to.
    Contradicted(Phase, Reply),
}

/// The index of a recipient, and what became of the recipient.
type Recipient = (usize, Outcome, Option<Reply>);

/// The server's decisions on individual recipients.
pub(super) struct Recipients {
    pub accepted: usize,
    pub refused: usize,
    /// Recipients refused at RCPT, in order.
    at_rcpt: Vec<Recipient>,
    /// LMTP: recipients answered at the end of the message, in order.
    at_end: Vec<Recipient>,
    /// LMTP: index of the recipient that the next final reply is for, or of one refused at RCPT before it.
    next_final: usize,
    /// LMTP: number of recipients before `next_final` that were refused at RCPT.
    passed_over: usize,
    /// What is left of [`MAX_REFUSALS`].
    pub budget: usize,
}

/// Refusals that may disappear if the message is sent again in another way.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// The recipients from this one on were all answered with 452, and this one because there were too many.
    too_many: Option<usize>,
    /// The first command that was refused as out of place although all before it in the flight were accepted.
    misread: Option<usize>,
}

/// Position of the end of the message: its last line (the dot), or its last chunk.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Span {
    /// Number of the first reply to it, once it was put into the outbox.
    pub reply: Option<usize>,
    /// Offset in the stream where it begins, or `None` for a lone dot without content.
    pub from: Option<u64>,
    /// Offset in the stream where it ends.
    pub to: u64,
}

/// The command that a reply answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Reset,
    Mail,
    /// RCPT for the recipient with this number, counted from 0.
    Recipient(usize),
    Data,
    /// A chunk (BDAT) that is not the last.
    Chunk,
    /// The dot, or the last chunk. LMTP servers answer it once for each recipient.
    End,
}

impl Step {
    pub fn phase(self) -> Phase {
        match self {
            Step::Reset => Phase::Reset,
            Step::Mail => Phase::Mail,
            Step::Recipient(_) => Phase::Recipient,
            Step::Data => Phase::Data,
            Step::Chunk => Phase::Body,
            Step::End => Phase::End,
        }
    }
}

impl Replies {
    /// Creates the counters of a flight that does not begin with RSET: number 0 is skipped.
    pub fn without_reset() -> Replies {
        Replies { asked: 1, heard: 1, first: 1 }
    }
}

impl Answer {
    /// Keeps a refusal of the message, unless the message was already accepted.
    pub fn refuse(&mut self, phase: Phase, reply: Reply) {
        if !self.is_accepted() {
            *self = Answer::Refused(phase, reply);
        }
    }

    /// Records that a later command of the same transaction was accepted.
    pub fn contradict(&mut self) {
        *self = match std::mem::replace(self, Answer::Open) {
            Answer::Refused(phase, reply) => Answer::Contradicted(phase, reply),
            other => other,
        };
    }

    pub fn is_accepted(&self) -> bool {
        matches!(self, Answer::Accepted(_))
    }

    pub fn refusal(&self) -> Option<(Phase, &Reply)> {
        match self {
            Answer::Refused(phase, reply) | Answer::Contradicted(phase, reply) => Some((*phase, reply)),
            Answer::Open | Answer::Accepted(_) => None,
        }
    }
}

impl Flight {
    pub fn new(transaction: Transaction, content: Option<Vec<u8>>) -> Flight {
        Flight {
            transaction,
            content: content.map_or(Content::ToCome, Content::AtHand),
            stage: Stage::Envelope(0),
            envelope_sent: EnvelopeSent::Alone,
            replies: Replies::default(),
            recipients: Recipients::new(),
            answer: Answer::Open,
            hints: Hints::default(),
            span: Span::default(),
        }
    }

    /// Returns a flight that sends the message again, from its envelope.
    pub fn restarted(self) -> Flight {
        let content = match self.content {
            Content::AtHand(content) => Some(content),
            Content::ToCome | Content::Begun => None,
        };
        Flight::new(self.transaction, content)
    }

    /// Returns the command with this number, or the one that the reply with this number answers.
    ///
    /// | number | with DATA | with BDAT |
    /// |---|---|---|
    /// | 0 | RSET | RSET |
    /// | 1 | MAIL | MAIL |
    /// | 2 … | RCPT, one for each recipient | the same |
    /// | next | DATA | one chunk after the other |
    /// | next | the end of the message | the last chunk |
    pub fn step(&self, number: usize, options: Options) -> Step {
        match number {
            n if self.span.reply.is_some_and(|end| n >= end) => Step::End,
            0 => Step::Reset,
            1 => Step::Mail,
            n if n < self.content_number() => Step::Recipient(n - FIRST_RECIPIENT),
            n if n == self.content_number() && !options.chunking => Step::Data,
            _ => Step::Chunk,
        }
    }

    /// Returns the number of DATA, or of the first BDAT.
    pub fn content_number(&self) -> usize {
        FIRST_RECIPIENT + self.recipients()
    }

    fn recipients(&self) -> usize {
        self.transaction.envelope.recipients().len()
    }

    /// Takes the content, if it is available.
    pub fn take_content(&mut self) -> Option<Vec<u8>> {
        if !matches!(self.content, Content::AtHand(_)) {
            return None;
        }
        match std::mem::replace(&mut self.content, Content::Begun) {
            Content::AtHand(content) => Some(content),
            Content::ToCome | Content::Begun => None,
        }
    }

    pub fn is_begun(&self) -> bool {
        matches!(self.content, Content::Begun)
    }

    pub fn is_answered(&self) -> bool {
        self.replies.asked == self.replies.heard
    }

    /// Returns whether nobody will receive the message, as far as is known.
    pub fn is_pointless(&self, options: Options) -> bool {
        self.answer.refusal().is_some()
            || self.recipients.refused == self.recipients()
            || options.all_or_nothing && self.span.reply.is_none() && self.recipients.refused > 0
    }

    /// Returns the phase of the next reply.
    pub fn phase(&self, options: Options) -> Phase {
        self.step(self.replies.heard, options).phase()
    }

    /// Returns whether another command of this flight was sent together with this one, and before it.
    fn is_in_company(&self, number: usize, options: Options) -> bool {
        let sent_at_once = match self.step(number, options) {
            Step::Reset | Step::Mail | Step::Recipient(_) => true,
            Step::Data => !options.all_or_nothing,
            Step::End => self.transaction.ahead && !options.lmtp && number == self.content_number(),
            Step::Chunk => false,
        };
        options.pipelining
            && self.transaction.one_by_one.is_none()
            && number > self.replies.first
            && sent_at_once
    }

    /// Puts a command into `out`.
    pub fn ask(&mut self, out: &mut Outbox, command: impl FnOnce(&Transaction) -> Command<'_>) {
        out.put(command(&self.transaction));
        self.replies.asked += 1;
    }

    /// Returns whether the code means that the server accepts no envelope together with the end of the previous
    /// message. A 501 may also be about the sender.
    pub fn is_turned_away(&self, code: u16, options: Options) -> bool {
        let untried = options.joining == Joining::Untried;
        self.envelope_sent != EnvelopeSent::Alone
            && !self.is_begun()
            && (matches!(code, 500 | 502 | 503) || untried && code == 501)
    }

    /// Takes the reply to MAIL. Returns false if it cannot answer that command.
    pub fn on_mail(&mut self, reply: ReplyRef<'_>, verdict: Verdict, options: Options) -> bool {
        match verdict {
            Verdict::Done => self.answer.contradict(), // has an effect only if RSET was refused
            Verdict::Refused => {
                if self.is_turned_away(reply.code(), options) {
                    self.envelope_sent = EnvelopeSent::TurnedAway;
                }
                self.answer.refuse(Phase::Mail, reply.keep());
            }
            _ => return false,
        }
        true
    }

    /// Takes the reply to RCPT for the recipient with this number. Returns false if it cannot answer that command.
    pub fn on_recipient(&mut self, index: usize, reply: ReplyRef<'_>, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Done if self.answer.refusal().is_some() => self.answer.contradict(),
            Verdict::Done => self.recipients.accepted += 1,
            Verdict::Refused => self.recipients.refuse(index, reply),
            _ => return false,
        }
        true
    }

    /// Notes a refusal before it is counted: the server may have read pipelined commands out of order, or may accept no
    /// more recipients (RFC 5321 §4.5.3.1.10).
    pub fn note_refusal(&mut self, number: usize, reply: ReplyRef<'_>, options: Options) {
        let reply = reply.keep_within(0); // the beginning of its first line is enough
        let in_order = self.recipients.refused == 0 && self.answer.refusal().is_none();
        if in_order && is_out_of_place(&reply) && self.is_in_company(number, options) {
            self.hints.misread.get_or_insert(number);
        }
        if let Step::Recipient(index) = self.step(number, options) {
            self.hints.too_many = match self.hints.too_many {
                _ if reply.code() != 452 => None,
                None if is_too_many(&reply) => Some(index),
                too_many => too_many,
            };
        }
    }

    /// Notes that a recipient was accepted, so those before it were not refused for being too many.
    pub fn note_acceptance(&mut self, step: Step) {
        if let Step::Recipient(_) = step {
            self.hints.too_many = None;
        }
    }

    /// Returns whether some recipients may need another transaction.
    pub fn may_go_again(&self) -> bool {
        self.hints.too_many.is_some() || self.hints.misread.is_some()
    }

    /// Returns whether MAIL was answered with 452: the server accepts no more messages in this session.
    pub fn is_session_full(&self) -> bool {
        matches!(self.answer.refusal(), Some((Phase::Mail, reply)) if reply.code() == 452)
    }

    /// Returns what may be sent again, now that all replies have arrived.
    pub fn again(&self, options: Options) -> Option<Again> {
        if self.is_session_full() {
            return Some(Again::Elsewhere);
        }
        let contradicted = matches!(self.answer, Answer::Contradicted(..));
        if contradicted || options.all_or_nothing && self.answer.is_accepted() {
            return None;
        }
        if let Some(misread) = self.hints.misread {
            return self.one_by_one(misread, options);
        }
        let from = self.hints.too_many.filter(|_| self.answer.is_accepted())?;
        let full = self
            .recipients
            .at_rcpt
            .iter()
            .filter(|(index, _, reply)| *index >= from && reply.as_ref().is_some_and(is_too_many));
        Some(Again::Rest(full.map(|(index, ..)| *index).collect()))
    }

    /// Returns the recipients to resend the message to, one command at a time, if any.
    fn one_by_one(&self, misread: usize, options: Options) -> Option<Again> {
        let as_a_whole = match self.answer.refusal() {
            // The content was sent.
            Some((Phase::End, _)) if !options.chunking => false,
            Some((_, reply)) => is_out_of_place(reply),
            None => true,
        };
        let step = self.step(misread, options);
        let mail_accepted = !matches!(step, Step::Reset | Step::Mail);
        let mut refused = self.recipients.at_rcpt.iter().peekable();
        let recipients: Vec<usize> = (0..self.recipients())
            .filter(|number| {
                let answer = refused.next_if(|(index, ..)| index == number);
                match answer {
                    Some((_, Outcome::Refused, Some(reply))) if mail_accepted => is_out_of_place(reply),
                    _ => !self.answer.is_accepted(),
                }
            })
            .collect();
        if recipients.is_empty() || !as_a_whole {
            return None;
        }
        let command = match step {
            Step::Reset | Step::Mail => misread,
            Step::Recipient(index) => FIRST_RECIPIENT + recipients.partition_point(|n| *n < index),
            Step::Data | Step::Chunk | Step::End => FIRST_RECIPIENT + recipients.len(),
        };
        Some(Again::OneByOne { recipients, command })
    }

    /// Returns whether a part was refused but the server continued: what a later reply accepts is unknown.
    pub fn is_contradicted(&self) -> bool {
        matches!(self.answer, Answer::Contradicted(..) | Answer::Refused(Phase::Body, _))
    }

    /// Returns the result. `in_doubt` means that the end of the message may have been sent. `broke` is why the
    /// connection is out of step, if it is.
    pub fn into_result(
        mut self,
        options: Options,
        in_doubt: bool,
        closing: Option<Reply>,
        broke: Option<Error>,
    ) -> Result<Delivery, Error> {
        if in_doubt && self.is_contradicted() {
            self.answer = Answer::Open;
        }
        let pointless = self.is_pointless(options);
        let refused = |phase, reply| Error::Refused { phase, reply };
        let unanswered = if in_doubt { Outcome::InDoubt } else { Outcome::NotSent };
        let at_end = self.span.reply.is_some() && self.recipients.accepted > 0;
        let phase = if at_end { Phase::End } else { Phase::Recipient };
        let mut recipients = self.recipients.into_answers();

        let (outcome, others, reply, source) = match (self.answer, broke) {
            (Answer::Accepted(reply), broke) => {
                // LMTP: a connection that broke between two final replies leaves the other recipients in doubt.
                let others = if broke.is_some() { unanswered } else { Outcome::Accepted };
                let envelope = self.transaction.envelope;
                return Ok(Delivery::new(envelope, Outcome::Accepted, others, Some(reply), recipients));
            }
            (Answer::Refused(phase, reply) | Answer::Contradicted(phase, reply), _) => {
                (Outcome::Refused, Outcome::Refused, Some(reply.clone()), refused(phase, reply))
            }
            (Answer::Open, Some(why)) if !pointless => (unanswered, unanswered, closing, why),
            (Answer::Open, broke) => {
                let first = recipients.iter().find(|(_, outcome, _)| *outcome == Outcome::Refused);
                let first = first.and_then(|(_, _, reply)| reply.clone());
                let source = first.map(|reply| refused(phase, reply)).or(broke);
                let source = source.unwrap_or(Error::Internal("no recipient is left, and none was refused"));
                (Outcome::Refused, Outcome::NotSent, None, source)
            }
        };
        // After a refused sender, the replies to the recipients mean nothing.
        if matches!(source, Error::Refused { phase: Phase::Mail, .. }) {
            recipients.clear();
        }
        let mut delivery = Delivery::new(self.transaction.envelope, outcome, others, reply, recipients);
        if options.all_or_nothing {
            delivery.set_indivisible();
        }
        Err(Error::Transaction { delivery: Box::new(delivery), source: Box::new(source) })
    }

    /// Records that the next recipient in turn gets the message (LMTP).
    pub fn accept_final(&mut self, reply: ReplyRef<'_>) {
        let reply = self.recipients.answer_final(Outcome::Accepted, reply);
        if !self.answer.is_accepted() {
            self.answer = Answer::Accepted(reply);
        }
    }
}

impl Recipients {
    fn new() -> Recipients {
        Recipients {
            accepted: 0,
            refused: 0,
            at_rcpt: Vec::new(),
            at_end: Vec::new(),
            next_final: 0,
            passed_over: 0,
            budget: MAX_REFUSALS,
        }
    }

    /// Records that RCPT was refused. Recipients are answered in order.
    pub fn refuse(&mut self, index: usize, reply: ReplyRef<'_>) {
        let reply = self.kept(reply);
        self.refused += 1;
        self.at_rcpt.push((index, Outcome::Refused, Some(reply)));
    }

    /// Records that the next recipient in turn does not get the message (LMTP).
    pub fn refuse_final(&mut self, reply: ReplyRef<'_>) {
        self.refused += 1;
        self.answer_final(Outcome::Refused, reply);
    }

    fn answer_final(&mut self, outcome: Outcome, reply: ReplyRef<'_>) -> Reply {
        let index = self.next_final();
        let reply = self.kept(reply);
        self.at_end.push((index, outcome, Some(reply.clone())));
        reply
    }

    /// Returns the recipient that a final reply is for (LMTP). Accepted recipients are answered in order.
    fn next_final(&mut self) -> usize {
        while self.at_rcpt.get(self.passed_over).is_some_and(|(index, ..)| *index == self.next_final) {
            self.next_final += 1;
            self.passed_over += 1;
        }
        self.next_final += 1;
        self.next_final - 1
    }

    /// Keeps a reply, or only its beginning if it does not fit in the rest of [`MAX_REFUSALS`].
    fn kept(&mut self, reply: ReplyRef<'_>) -> Reply {
        let kept = reply.keep_within(self.budget);
        self.budget = self.budget.saturating_sub(kept.raw().len());
        kept
    }

    /// Returns both lists as one, in order.
    fn into_answers(self) -> Vec<Recipient> {
        if self.at_end.is_empty() {
            return self.at_rcpt;
        }
        let mut all = Vec::with_capacity(self.at_rcpt.len() + self.at_end.len());
        let (mut at_rcpt, mut at_end) =
            (self.at_rcpt.into_iter().peekable(), self.at_end.into_iter().peekable());
        while let Some((index, ..)) = at_rcpt.peek() {
            while let Some(before) = at_end.next_if(|(number, ..)| number < index) {
                all.push(before);
            }
            all.extend(at_rcpt.next());
        }
        all.extend(at_end);
        all
    }
}

/// Returns whether a refusal means that the command is unknown or out of place, and gives no other reason.
fn is_out_of_place(reply: &Reply) -> bool {
    match reply.code() {
        500 | 502 | 503 => true,
        501 => reply.enhanced().is_none_or(|code| code.subject == 5),
        _ => false,
    }
}

/// Returns whether a refusal of RCPT means too many recipients (452 with 4.5.3 or no enhanced code), and not, say, a
/// full mailbox (452 4.2.2).
pub(crate) fn is_too_many(reply: &Reply) -> bool {
    reply.code() == 452 && reply.enhanced().is_none_or(|code| (code.subject, code.detail) == (5, 3))
}
