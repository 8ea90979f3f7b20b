//! Dialogue: messages. MAIL, RCPT, DATA or BDAT, the content; RSET where something is left open (RFC 5321 §3.3).
//!
//! Any number of messages, one after the other, over one connection. Each is a flight of commands; with PIPELINING
//! (RFC 2920) a flight may leave before the replies to the one before are in. Replies come in order, so the first flight
//! and the number of replies it has heard say what a reply answers: 0 is RSET, 1 is MAIL, then come the recipients,
//! then DATA and the end of the message, or one BDAT after the other.
//!
//! ```text
//! Envelope ─all said─▶ Hold ─3yz─▶ Body ─last piece─▶ Over ─all heard─▶ a result
//!     │                 │           │ (for nobody: a lone dot)
//!     └─ refused ───────┴───────────┴───────────────▶ Over; what comes next begins with RSET
//! ```
//!
//! What keeps this right:
//!
//! - Content goes out by DATA only behind an accepted recipient, and never with its own envelope. By BDAT it may, if it
//!   is small, and kept here or can be had again; if the envelope is refused, so is each BDAT.
//! - A message is in doubt from when the last line of its end, or the last chunk, is first offered to the wire, until
//!   its reply; also when the server refused a part of it and takes the rest.
//! - A flight begins with RSET unless the transaction before it is surely over. With BDAT only its 2yz tells: servers
//!   keep a transaction open behind a chunk they refuse.
//! - A flight that joins the end of a message before it was seen to work ([`Joining::Untried`]) carries no content. So
//!   a server that throws it away, or hangs up, costs a connection and never a message.

use std::{cmp::Ordering, collections::VecDeque, fmt};

use super::{
    Command, Dialogue, Encoder, Forbidden, MailParameters, Outbox, ReplyRef, Survey, Want,
    command::check_line, verdict::Verdict,
};
use crate::{Delivery, Envelope, Error, Outcome, Phase, Reply, delivery::Again};

/// At most so many replies are outstanding: a server that answers slowly is not buried in commands.
const WINDOW: usize = 512;
/// So much content makes a chunk, in octets; what came with its message makes one.
const CHUNK: usize = 64 * 1024;
/// So many buffers of content are kept: where content waits for the reply to DATA, the next is at hand before it leaves.
const MAX_SPARE: usize = 2;
/// So much of the refusals of recipients is kept whole, in octets; of each one behind that, only the beginning.
const MAX_REFUSALS: usize = 1024 * 1024;

/// How transactions are carried out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Commands go out without waiting for the replies before: only if the server offers PIPELINING.
    pub pipelining: bool,
    /// Content goes by BDAT: only if the server offers CHUNKING (RFC 3030).
    pub chunking: bool,
    /// Whether the end of a message and the next envelope may leave together: only with `pipelining`.
    pub joining: Joining,
    /// One refused recipient, and nobody gets the message.
    pub all_or_nothing: bool,
    /// QUIT leaves with the end of the last message, and its reply is not waited for. Only where the next envelope might
    /// leave with it as well: see [`Joining`].
    pub farewell: bool,
    /// The server speaks LMTP: it answers the end of a message once for each recipient (RFC 2033 §4.2).
    pub lmtp: bool,
}

impl Options {
    fn joins(self) -> bool {
        self.pipelining && self.joining != Joining::Off
    }
}

/// What is known of a server about an envelope that leaves with the end of the message before.
///
/// RFC 2920 §3.1 allows it, and most servers take it. Some discard what they have read after a final dot, some refuse it,
/// and at least one takes it for a part of the message, which no reply reveals. A server that offers CHUNKING (RFC 3030)
/// has to frame its input exactly: with others, [`Off`](Joining::Off) is the safe choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Joining {
    /// Nothing is sent together with the end of a message.
    #[default]
    Off,
    /// The next envelope is sent together with the end of a message once, without content, to see what happens.
    Untried,
    /// An envelope sent together with the end of a message was answered as it should be.
    Works,
}

/// One message for its recipients. Its content is asked for by [`Want::Body`], unless it
/// [came with it](Transactions::message_with).
#[derive(Debug, Clone)]
pub struct Transaction {
    envelope: Envelope,
    parameters: MailParameters,
    /// The content is at hand, and small.
    ahead: bool,
    /// It goes one command at a time, because this command was refused when it left together with others.
    one_by_one: Option<usize>,
}

/// Checks that each RCPT of an envelope, with its options, is a line of at most [`MAX_COMMAND_LINE`](super::MAX_COMMAND_LINE) octets.
///
/// # Errors
///
/// [`Error::Config`] if one is longer.
pub(crate) fn check_recipients(envelope: &Envelope) -> Result<(), Error> {
    let mut recipients = envelope.recipients().iter().enumerate();
    recipients
        .try_for_each(|(number, recipient)| check_line(Command::Rcpt(recipient, envelope.options_of(number))))
}

impl Transaction {
    /// The server must offer what `parameters` and the envelope's options use. Whether the lines are short enough,
    /// [`check`](Transaction::check) tells.
    #[must_use]
    pub fn new(envelope: Envelope, parameters: MailParameters) -> Transaction {
        Transaction { envelope, parameters, ahead: false, one_by_one: None }
    }

    /// Checks that MAIL and each RCPT, with their options, are lines of at most [`MAX_COMMAND_LINE`](super::MAX_COMMAND_LINE) octets.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if one is longer.
    pub fn check(&self) -> Result<(), Error> {
        let options = self.envelope.mail_options();
        check_line(Command::Mail(self.envelope.sender(), self.parameters, options))?;
        check_recipients(&self.envelope)
    }

    /// Whether its content may leave by BDAT before its envelope is answered: it should be small, and there again when
    /// it is asked for twice.
    #[must_use]
    pub fn ahead(mut self, ahead: bool) -> Transaction {
        self.ahead = ahead;
        self
    }

    /// Sends it one command at a time. If the command with this number is accepted then, the server does not pipeline.
    pub(crate) fn one_by_one(mut self, command: Option<usize>) -> Transaction {
        self.ahead &= command.is_none();
        self.one_by_one = command;
        self
    }
}

/// Messages on their way; see the module's page. `Debug` shows none of their content.
pub struct Transactions {
    options: Options,
    /// In order. Replies are for the first; `writing` is the one being written, or the place of the next.
    flights: VecDeque<Flight>,
    writing: usize,
    /// How many have had their result.
    over: usize,
    /// Replies outstanding, of all flights.
    due: usize,
    encoder: Encoder,
    /// Content that waits for its BDAT.
    chunk: Vec<u8>,
    /// Room of content that has left.
    spare: Vec<Vec<u8>>,
    supply: Supply,
    /// The server may have a transaction open.
    open: bool,
    /// A last RSET is out.
    resetting: bool,
    said_farewell: bool,
    /// The server closes: what it said then.
    closing: Option<Reply>,
    results: VecDeque<Result<Delivery, Error>>,
}

/// What is known of the message after those that were handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Supply {
    /// There may be one: it is wanted early, so that its envelope can leave with the end of the message before.
    Open,
    /// Asking for one may take time: it is wanted when all that is at hand is written.
    Later,
    /// There is none, as far as is known.
    Dry,
}

struct Flight {
    letter: Transaction,
    /// All that goes by DATA or BDAT, if it is at hand.
    content: Option<Vec<u8>>,
    stage: Stage,
    /// Replies asked for and heard.
    asked: usize,
    heard: usize,
    /// Its envelope left before the replies to the message before were in.
    joined: bool,
    /// The server did not take it in that company: once more, alone.
    again: bool,
    /// Some of its content was asked for, or has left.
    begun: bool,
    /// How many recipients the server took, and how many it refused.
    taken: usize,
    refused: usize,
    /// The recipients that were refused at RCPT, in order, and those that LMTP has answered at the end, in order.
    own: Vec<(usize, Outcome, Option<Reply>)>,
    finals: Vec<(usize, Outcome, Option<Reply>)>,
    refusals_left: usize,
    /// The server took a recipient though it had refused the sender: whose transaction is that?
    stray: bool,
    /// The number of its first command: 0 if it begins with RSET.
    first: usize,
    /// The recipients from this one on were all answered 452, and the first of them because they are too many.
    too_many: Option<usize>,
    /// The first command that was refused as out of place, while all before it in its flight was accepted.
    misread: Option<usize>,
    /// The refusal of the message as a whole.
    refusal: Option<(Phase, Reply)>,
    accepted: Option<Reply>,
    /// The number of the reply to the end of the message.
    last: Option<usize>,
    /// LMTP: the recipient that the next final reply is for, or one before it; and how many of those before it were refused
    /// at RCPT.
    next_final: usize,
    passed_over: usize,
    /// Where in the stream the last line, or the last chunk, begins; none for the lone dot that sends nothing.
    dot: Option<u64>,
    /// Where in the stream the end of the message ends.
    end: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The number of the next command.
    Envelope(usize),
    /// The envelope is out, and DATA if that is the way; the content waits for the replies.
    Hold,
    /// The content is to be sent.
    Body,
    /// Nothing is left to say.
    Over,
}

impl Flight {
    fn new(letter: Transaction, content: Option<Vec<u8>>) -> Flight {
        Flight {
            letter,
            content,
            stage: Stage::Envelope(0),
            asked: 0,
            heard: 0,
            joined: false,
            again: false,
            begun: false,
            taken: 0,
            refused: 0,
            own: Vec::new(),
            finals: Vec::new(),
            refusals_left: MAX_REFUSALS,
            stray: false,
            first: 0,
            too_many: None,
            misread: None,
            refusal: None,
            accepted: None,
            last: None,
            next_final: 0,
            passed_over: 0,
            dot: None,
            end: 0,
        }
    }

    fn recipients(&self) -> usize {
        self.letter.envelope.recipients().len()
    }

    /// The number of DATA, or of the first BDAT; below are RSET, MAIL, and the recipients.
    fn data(&self) -> usize {
        2 + self.recipients()
    }

    fn is_answered(&self) -> bool {
        self.asked == self.heard
    }

    /// Nobody will get it, as far as is known.
    fn is_pointless(&self, options: Options) -> bool {
        self.refusal.is_some()
            || self.refused == self.recipients()
            || options.all_or_nothing && self.last.is_none() && self.refused > 0
    }

    /// What its next reply answers, or what is being written.
    fn phase(&self, options: Options) -> Phase {
        match self.heard {
            n if self.last.is_some_and(|last| n >= last) => Phase::End,
            0 => Phase::Reset,
            1 => Phase::Mail,
            n if n < self.data() => Phase::Recipient,
            n if n == self.data() && !options.chunking => Phase::Data,
            _ => Phase::Body,
        }
    }

    /// Whether this command left together with others, behind one of its own flight.
    fn is_in_company(&self, number: usize, options: Options) -> bool {
        let left_at_once = match number.cmp(&self.data()) {
            Ordering::Less => true,
            Ordering::Equal if options.chunking => {
                self.letter.ahead && !options.lmtp && self.last == Some(number)
            }
            Ordering::Equal => !options.all_or_nothing,
            Ordering::Greater => false,
        };
        options.pipelining && self.letter.one_by_one.is_none() && number > self.first && left_at_once
    }

    /// Takes note of a refusal, before it counts: the server may have read pipelined commands out of their order, or
    /// have had enough of recipients (RFC 5321 §4.5.3.1.10).
    fn note(&mut self, number: usize, reply: ReplyRef<'_>, options: Options) {
        let reply = reply.keep_within(0); // the beginning of its first line will do
        let in_order = self.refused == 0 && self.refusal.is_none() && !self.stray;
        if in_order && is_out_of_place(&reply) && self.is_in_company(number, options) {
            self.misread.get_or_insert(number);
        }
        if (2..self.data()).contains(&number) {
            self.too_many = match self.too_many {
                _ if reply.code() != 452 => None,
                None if is_too_many(&reply) => Some(number - 2),
                too_many => too_many,
            };
        }
    }

    /// MAIL was answered 452: the server takes no more messages in this session.
    fn is_turned_away(&self) -> bool {
        matches!(&self.refusal, Some((Phase::Mail, reply)) if reply.code() == 452)
    }

    /// What of it may be sent again, now that all its replies are in.
    fn again(&self, options: Options) -> Option<Again> {
        if self.is_turned_away() {
            return Some(Again::Elsewhere);
        }
        if self.stray || options.all_or_nothing && self.accepted.is_some() {
            return None;
        }
        if let Some(misread) = self.misread {
            return self.one_by_one(misread, options);
        }
        let from = self.too_many.filter(|_| self.accepted.is_some())?;
        let full = self
            .own
            .iter()
            .filter(|(index, _, reply)| *index >= from && reply.as_ref().is_some_and(is_too_many));
        Some(Again::Rest(full.map(|(index, ..)| *index).collect()))
    }

    /// The recipients to whom it should be sent again one command at a time, if any.
    fn one_by_one(&self, misread: usize, options: Options) -> Option<Again> {
        let as_a_whole = match &self.refusal {
            // Its content has left.
            Some((Phase::End, _)) if !options.chunking => false,
            Some((_, reply)) => is_out_of_place(reply),
            None => true,
        };
        let behind_mail = misread > 1;
        let mut own = self.own.iter().peekable();
        let recipients: Vec<usize> = (0..self.recipients())
            .filter(|number| {
                let answer = own.next_if(|(index, ..)| index == number);
                match answer {
                    Some((_, Outcome::Refused, Some(reply))) if behind_mail => is_out_of_place(reply),
                    _ => self.accepted.is_none(),
                }
            })
            .collect();
        if recipients.is_empty() || !as_a_whole {
            return None;
        }
        let command = match misread.checked_sub(2) {
            Some(recipient) if misread < self.data() => 2 + recipients.partition_point(|n| *n < recipient),
            Some(_) => 2 + recipients.len(),
            None => misread,
        };
        Some(Again::OneByOne { recipients, command })
    }

    /// A part of it was refused, and the server went on with the rest: who knows what it takes.
    fn is_contradicted(&self) -> bool {
        self.stray || matches!(self.refusal, Some((Phase::Body, _)))
    }

    /// What became of it. `in_doubt`: its end may have left. `broke` is why the connection is out of step, if it is.
    fn into_result(
        mut self,
        options: Options,
        in_doubt: bool,
        closing: Option<Reply>,
        broke: Option<Error>,
    ) -> Result<Delivery, Error> {
        if in_doubt && self.is_contradicted() {
            self.refusal = None;
        }
        self.own = merged(self.own, std::mem::take(&mut self.finals));
        let pointless = self.is_pointless(options);
        let refused = |phase, reply| Error::Refused { phase, reply };
        let unanswered = if in_doubt { Outcome::InDoubt } else { Outcome::NotSent };
        let phase = if self.last.is_some() && self.taken > 0 { Phase::End } else { Phase::Recipient };
        let first = self.own.iter().find(|(_, outcome, _)| *outcome == Outcome::Refused);
        let first = first.and_then(|(_, _, reply)| reply.clone());

        let (outcome, others, reply, source) = match (self.accepted, self.refusal, broke) {
            (Some(reply), _, broke) => {
                // LMTP: a connection that broke between two answers leaves the others in doubt.
                let others = if broke.is_some() { unanswered } else { Outcome::Accepted };
                let accepted = Outcome::Accepted;
                return Ok(Delivery::new(self.letter.envelope, accepted, others, Some(reply), self.own));
            }
            (_, Some((phase, reply)), _) => {
                (Outcome::Refused, Outcome::Refused, Some(reply.clone()), refused(phase, reply))
            }
            (_, _, Some(why)) if !pointless => (unanswered, unanswered, closing, why),
            (_, _, broke) => {
                let source = first.map(|reply| refused(phase, reply)).or(broke);
                let source =
                    source.unwrap_or(Error::Internal("a message for nobody, whom nobody has refused"));
                (Outcome::Refused, Outcome::NotSent, None, source)
            }
        };
        // Behind a refused sender, what was said of the recipients means nothing.
        if matches!(source, Error::Refused { phase: Phase::Mail, .. }) {
            self.own.clear();
        }
        let delivery = Delivery::new(self.letter.envelope, outcome, others, reply, self.own);
        Err(Error::Transaction { delivery: Box::new(delivery), source: Box::new(source) })
    }
}

/// Whether a refusal says that the command is unknown or out of place, rather than why it is refused.
fn is_out_of_place(reply: &Reply) -> bool {
    match reply.code() {
        500 | 502 | 503 => true,
        501 => reply.enhanced().is_none_or(|code| code.subject == 5),
        _ => false,
    }
}

/// Whether a refusal of RCPT means too many recipients (452 with 4.5.3 or no enhanced code), and not, say, a full mailbox
/// (452 4.2.2).
pub(crate) fn is_too_many(reply: &Reply) -> bool {
    reply.code() == 452 && reply.enhanced().is_none_or(|code| (code.subject, code.detail) == (5, 3))
}

/// Says in a result what may be sent again.
fn mark(result: &mut Result<Delivery, Error>, again: Option<Again>) {
    match result {
        Ok(delivery) => delivery.set_again(again),
        Err(Error::Transaction { delivery, .. }) => delivery.set_again(again),
        Err(_) => {}
    }
}

impl Transactions {
    /// None yet. `open`: the server may have a transaction open from before.
    #[must_use]
    pub fn new(options: Options, open: bool) -> Transactions {
        Transactions {
            options,
            flights: VecDeque::new(),
            writing: 0,
            over: 0,
            due: 0,
            encoder: Encoder::new(true),
            chunk: Vec::new(),
            spare: Vec::new(),
            supply: Supply::Open,
            open,
            resetting: false,
            said_farewell: false,
            closing: None,
            results: VecDeque::new(),
        }
    }

    /// Answers [`Want::Message`]: the next one.
    pub fn message(&mut self, letter: Transaction) {
        self.add(letter, None);
    }

    /// The same with its content, as [`Survey::of`] has found it. It is kept here until it leaves, encoded, and goes by one
    /// BDAT where it goes in chunks: it should be small, some 64 KiB at most.
    ///
    /// # Errors
    ///
    /// It holds what may not go out. There is no such message then.
    pub fn message_with(&mut self, letter: Transaction, content: Survey<'_>) -> Result<(), Forbidden> {
        let mut room = self.spare.pop().unwrap_or_default();
        room.clear();
        Encoder::of(letter.parameters, self.options.chunking).push_all(content, &mut room)?;
        self.add(letter, Some(room));
        Ok(())
    }

    fn add(&mut self, letter: Transaction, content: Option<Vec<u8>>) {
        self.flights.push_back(Flight::new(letter, content));
        self.supply = Supply::Open;
    }

    /// Answers [`Want::Message`]: there is none now. Whatever is open is closed, until there is [more](Self::more).
    pub fn no_more(&mut self) {
        self.supply = Supply::Dry;
    }

    /// Answers [`Want::Message`]: finding out whether there is one may take time, and what is at hand should leave first.
    /// The next message is wanted again once [all of that is written](Self::has_said_all), and before any reply is waited
    /// for: its envelope takes a write of its own, and no round trip.
    pub fn later(&mut self) {
        self.supply = Supply::Later;
    }

    /// Whether everything that can be said of the messages at hand was written. Then nothing is held up by waiting for the
    /// next message, except the replies.
    #[must_use]
    pub fn has_said_all(&self, out: &Outbox) -> bool {
        self.writing == self.flights.len() && out.unsent().is_empty()
    }

    /// From here on each command waits for the reply to the one before it; what has been written already is not affected.
    pub(crate) fn one_at_a_time(&mut self) {
        self.options.pipelining = false;
    }

    /// There are messages again.
    pub fn more(&mut self) {
        self.supply = Supply::Open;
    }

    /// What became of the next message, in order, once that is known.
    ///
    /// # Errors
    ///
    /// [`Error::Transaction`] if no recipient was accepted.
    pub fn next_result(&mut self) -> Option<Result<Delivery, Error>> {
        self.results.pop_front()
    }

    /// How many messages are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.flights.len()
    }

    /// Whether all of the message with this number was put into the outbox; the number is that of [`Want::Body`].
    #[must_use]
    pub fn is_said(&self, number: usize) -> bool {
        number < self.over + self.writing
    }

    /// Whether the server may have a transaction open: whoever goes on begins with RSET.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// What was learnt about joining: keep it for the next connection to this server.
    #[must_use]
    pub fn joining(&self) -> Joining {
        self.options.joining
    }

    /// Whether QUIT is said: the connection is not to be used again.
    #[must_use]
    pub fn said_farewell(&self) -> bool {
        self.said_farewell
    }

    /// The server is silent in [`Want::Probe`], or hung up. True if a fresh connection will do: all that is lost is an
    /// envelope that had joined the end of a message. It will be said again there, alone.
    pub fn on_silence(&mut self) -> bool {
        let Some(flight) = self.flights.front().filter(|_| self.is_next_unsaid()) else { return false };
        let refused = flight.refusal.is_some() && !flight.again;
        let lost = flight.joined && !flight.begun && !refused && self.closing.is_none();
        if lost {
            self.options.joining = Joining::Off;
            self.rearm(false);
        }
        lost
    }

    /// The connection is out of step: what is under way ends here. `offered` is [how much](Outbox::octets_offered) of the
    /// stream may have left.
    pub fn lose(&mut self, offered: u64, broke: Error) {
        let mut why = broke;
        while let Some(flight) = self.flights.pop_front() {
            // Behind a 421 nothing is taken.
            let in_doubt = self.closing.is_none() && flight.dot.is_some_and(|dot| offered > dot);
            let phase = flight.phase(self.options);
            if why.in_doubt() && !in_doubt {
                // It was lost with one before it that is in doubt, or the last line had not left.
                why = why.at(if phase == Phase::End { Phase::Body } else { phase });
            }
            let next = why.repeated();
            // Nothing of it was answered, not even MAIL.
            let untouched = !in_doubt && (flight.heard <= 1 || flight.is_turned_away());
            let mut result = flight.into_result(self.options, in_doubt, self.closing.clone(), Some(why));
            mark(&mut result, untouched.then_some(Again::Elsewhere));
            self.results.push_back(result);
            self.over += 1;
            why = next;
        }
        (self.writing, self.due, self.resetting) = (0, 0, false);
        self.chunk.clear();
    }

    fn ask(&mut self, out: &mut Outbox, command: impl FnOnce(&Transaction) -> Command<'_>) {
        let flight = &mut self.flights[self.writing];
        out.put(command(&flight.letter));
        flight.asked += 1;
        self.due += 1;
    }

    /// The first word to an envelope that has joined the end of a message is due. If silence follows, the envelope was
    /// lost: see [`on_silence`](Self::on_silence).
    #[must_use]
    pub fn is_unheard(&self) -> bool {
        self.flights.front().is_some_and(|first| first.joined && (first.heard <= 1 || first.again))
    }

    /// Some reply has to be waited for.
    fn wait(&self) -> Want {
        match self.options.joining {
            Joining::Untried if self.is_unheard() => Want::Probe,
            _ => Want::Reply,
        }
    }

    /// Another flight may be written behind those that wait for replies.
    fn may_join(&self) -> bool {
        let alone = self.flights.back().is_some_and(|flight| flight.letter.one_by_one.is_some());
        self.options.joins() && self.due < WINDOW && self.supply != Supply::Dry && !alone
    }

    /// All that is there is written.
    fn fill_between(&mut self, out: &mut Outbox) -> Want {
        let is_first = self.flights.is_empty();
        let may_follow = if is_first { self.supply != Supply::Dry } else { self.may_join() };
        match is_first {
            _ if may_follow && self.supply == Supply::Later && !self.has_said_all(out) => Want::Write,
            _ if may_follow => Want::Message,
            false => self.wait(),
            true if self.open && !self.said_farewell => {
                out.put(Command::Reset);
                self.resetting = true;
                Want::Reply
            }
            true => Want::Nothing,
        }
    }

    /// Says the next thing of the flight being written, or tells what has to come first.
    fn fill_flight(&mut self, out: &mut Outbox) -> Option<Want> {
        let options = self.options;
        let flight = &self.flights[self.writing];
        // LMTP: behind a refused chunk nobody can tell how many replies the last one would bring.
        let one_by_one = !options.pipelining || flight.letter.one_by_one.is_some();
        let alone = one_by_one || options.lmtp && flight.stage == Stage::Body;
        if self.due > 0 && (alone || self.due >= WINDOW) {
            return Some(self.wait());
        }
        match flight.stage {
            Stage::Envelope(0) if self.writing > 0 && !options.joins() => return Some(self.wait()),
            Stage::Envelope(number) => {
                if number == flight.data() && options.all_or_nothing && !flight.is_answered() {
                    return Some(self.wait());
                }
                self.fill_envelope(number, out);
            }
            Stage::Hold if !(options.chunking && flight.is_answered()) => return Some(self.wait()),
            Stage::Hold if flight.taken == 0 => self.over(),
            Stage::Hold => self.flights[self.writing].stage = Stage::Body,
            // RFC 2920 §3.1: a 354 for nobody is answered by a lone dot.
            Stage::Body if !options.chunking && flight.taken == 0 => {
                self.end(out, Command::Dot);
                self.ended(out);
            }
            // It was refused while the next one was waited for.
            Stage::Body if options.chunking && !flight.begun && flight.is_pointless(options) => self.over(),
            // The next one should be at hand when this one ends.
            Stage::Body
                if !flight.begun && self.is_last() && self.may_join() && self.supply == Supply::Open =>
            {
                return Some(Want::Message);
            }
            Stage::Body => match self.flights[self.writing].content.take() {
                Some(content) => self.fill_content(content, out),
                None => return Some(Want::Body(self.over + self.writing)),
            },
            Stage::Over => self.over(), // not reached: it was over when it became so
        }
        None
    }

    /// Behind the flight being written there is no other.
    fn is_last(&self) -> bool {
        self.writing + 1 == self.flights.len()
    }

    fn fill_envelope(&mut self, mut number: usize, out: &mut Outbox) {
        let options = self.options;
        let flight = &mut self.flights[self.writing];
        let data = flight.data();
        if flight.is_pointless(options) {
            self.over();
            return;
        }
        if number == 0 {
            flight.joined = self.writing > 0;
            if !self.open {
                (flight.asked, flight.heard, flight.first) = (1, 1, 1);
                number = 1;
            }
        }
        flight.stage = if number < data { Stage::Envelope(number + 1) } else { Stage::Hold };
        match number {
            0 => {
                self.open = false;
                self.ask(out, |_| Command::Reset);
            }
            1 => {
                self.encoder = Encoder::of(flight.letter.parameters, options.chunking);
                self.ask(out, |letter| {
                    let envelope = &letter.envelope;
                    Command::Mail(envelope.sender(), letter.parameters, envelope.mail_options())
                });
            }
            _ if number < data => self.ask(out, |Transaction { envelope, .. }| {
                Command::Rcpt(&envelope.recipients()[number - 2], envelope.options_of(number - 2))
            }),
            _ if !options.chunking => self.ask(out, |_| Command::Data),
            // LMTP: how many replies a BDAT brings is known only when the recipients are.
            _ => {
                let safe = options.joining == Joining::Works || !flight.joined;
                if flight.letter.ahead && safe && !options.lmtp {
                    flight.stage = Stage::Body;
                }
            }
        }
    }

    /// All of a content that was at hand.
    fn fill_content(&mut self, mut content: Vec<u8>, out: &mut Outbox) {
        self.flights[self.writing].begun = true;
        match self.options.chunking {
            false => {
                out.put_content(|out| out.extend_from_slice(&content));
                self.end(out, Command::Dot);
            }
            true => {
                self.end(out, Command::Bdat(content.len(), true));
                out.put_chunk(&mut content);
            }
        }
        self.ended(out);
        if self.spare.len() < MAX_SPARE {
            self.spare.push(content);
        }
    }

    /// The end of the content, and perhaps goodbye.
    fn end(&mut self, out: &mut Outbox, command: Command<'_>) {
        let flight = &mut self.flights[self.writing];
        flight.last = Some(flight.asked);
        flight.dot = flight.begun.then(|| out.end()); // none for nobody's
        out.put(command);
        let replies = if self.options.lmtp { flight.taken } else { 1 };
        out.expect_more(replies.saturating_sub(1));
        flight.asked += replies;
        self.due += replies;
    }

    /// The end has been put in the outbox, all of it.
    fn ended(&mut self, out: &mut Outbox) {
        let flight = &mut self.flights[self.writing];
        flight.end = out.end();
        // The connection is still needed where some recipients have to wait for another transaction.
        let more = flight.too_many.is_some() || flight.misread.is_some();
        if self.options.farewell && self.supply == Supply::Dry && self.is_last() && !more {
            out.put_farewell();
            self.said_farewell = true;
        }
        self.over();
    }

    /// The flight being written is written.
    fn over(&mut self) {
        let flight = &mut self.flights[self.writing];
        // Some servers keep a transaction open behind a chunk they refuse.
        self.open = flight.last.is_none() || self.options.chunking;
        flight.stage = Stage::Over;
        self.writing += 1;
        self.chunk.clear();
        self.settle();
    }

    /// Nothing of the flight behind the first is said yet.
    fn is_next_unsaid(&self) -> bool {
        self.flights.get(1).is_none_or(|next| next.stage == Stage::Envelope(0))
    }

    /// The first flight starts again from its envelope, by itself.
    fn rearm(&mut self, open: bool) {
        if let Some(flight) = self.flights.pop_front() {
            self.flights.push_front(Flight::new(flight.letter, flight.content));
        }
        (self.writing, self.due, self.open) = (0, 0, open);
    }

    /// Gives the first flight's result, if it is over and all its replies are in.
    fn settle(&mut self) {
        let Some(first) = self.flights.front() else { return };
        if !first.is_answered() {
            return;
        }
        if first.joined {
            self.options.joining = if first.again { Joining::Off } else { Joining::Works };
        }
        if first.stage != Stage::Over {
            return;
        }
        if first.again && first.taken == 0 && self.is_next_unsaid() {
            self.rearm(true);
            return;
        }
        if self.is_next_unsaid() {
            self.open = first.accepted.is_none();
        }
        self.writing -= 1;
        if let Some(flight) = self.flights.pop_front() {
            self.over += 1;
            let again = flight.again(self.options);
            let mut result = flight.into_result(self.options, false, None, None);
            mark(&mut result, again);
            self.results.push_back(result);
        }
    }

    /// Whether the server takes pipelined commands, as far as is known.
    pub(crate) fn pipelines(&self) -> bool {
        self.options.pipelining
    }

    /// Takes note of what a reply to an envelope says of pipelining, and of the number of recipients.
    fn note(&mut self, number: usize, reply: ReplyRef<'_>, verdict: Verdict) {
        let flight = &mut self.flights[0];
        if verdict == Verdict::Refused {
            flight.note(number, reply, self.options);
        } else if flight.letter.one_by_one == Some(number) {
            // By itself it is accepted.
            (self.options.pipelining, self.options.joining) = (false, Joining::Off);
        } else if (2..flight.data()).contains(&number) {
            flight.too_many = None;
        }
    }

    fn on_mail(&mut self, reply: ReplyRef<'_>, verdict: Verdict) -> Result<(), Error> {
        let again = self.is_refused_company(reply.code());
        let flight = &mut self.flights[0];
        match verdict {
            Verdict::Done if flight.refusal.is_some() => flight.stray = true, // RSET was refused
            Verdict::Done => {}
            Verdict::Refused => {
                flight.again |= again;
                flight.refusal = Some((Phase::Mail, reply.keep()));
            }
            _ => return Err(self.misplaced(reply)),
        }
        Ok(())
    }

    /// The reply to the RSET that an envelope begins with.
    fn on_reset(&mut self, reply: ReplyRef<'_>, verdict: Verdict) -> Result<(), Error> {
        let again = self.is_refused_company(reply.code());
        let flight = &mut self.flights[0];
        match verdict {
            Verdict::Done => Ok(()),
            _ if again => {
                flight.again = true;
                flight.refusal = Some((Phase::Reset, reply.keep()));
                Ok(())
            }
            _ => Err(self.not_reset(reply)),
        }
    }

    #[cold]
    fn not_reset(&self, reply: ReplyRef<'_>) -> Error {
        match Verdict::of(reply, Phase::Reset) {
            Verdict::Refused | Verdict::Closing => {
                Error::Refused { phase: Phase::Reset, reply: reply.keep() }
            }
            _ => self.misplaced(reply),
        }
    }

    /// Whether the code says that the server takes no envelope with the end of the message before. A 501 may also mean
    /// the sender.
    fn is_refused_company(&self, code: u16) -> bool {
        let flight = &self.flights[0];
        let untried = self.options.joining == Joining::Untried;
        flight.joined && !flight.begun && (matches!(code, 500 | 502 | 503) || untried && code == 501)
    }

    fn on_recipient(&mut self, index: usize, reply: ReplyRef<'_>, verdict: Verdict) -> Result<(), Error> {
        let flight = &mut self.flights[0];
        match verdict {
            Verdict::Done if flight.refusal.is_some() => flight.stray = true,
            Verdict::Done => flight.taken += 1,
            Verdict::Refused => flight.refuse(index, reply),
            _ => return Err(self.misplaced(reply)),
        }
        Ok(())
    }

    fn on_data(&mut self, reply: ReplyRef<'_>, verdict: Verdict) -> Result<(), Error> {
        let options = self.options;
        let flight = &mut self.flights[0];
        match verdict {
            Verdict::Continue if flight.stray || options.lmtp && flight.taken == 0 => {
                Err(self.misplaced(reply))
            }
            Verdict::Continue => {
                flight.stage = Stage::Body;
                Ok(())
            }
            Verdict::Refused => {
                if !flight.is_pointless(options) {
                    flight.refusal = Some((Phase::Data, reply.keep()));
                }
                self.over();
                Ok(())
            }
            _ => Err(self.misplaced(reply)),
        }
    }

    /// The reply to a chunk that was not the last.
    fn on_chunk(&mut self, reply: ReplyRef<'_>, verdict: Verdict) -> Result<(), Error> {
        let options = self.options;
        let flight = &mut self.flights[0];
        match verdict {
            Verdict::Done => Ok(()),
            Verdict::Refused => {
                if !flight.is_pointless(options) {
                    flight.refusal = Some((Phase::Body, reply.keep()));
                }
                if flight.stage != Stage::Over {
                    self.over();
                }
                Ok(())
            }
            _ => Err(self.misplaced(reply)),
        }
    }

    /// The reply to the end, or with LMTP one of them.
    fn on_end(&mut self, reply: ReplyRef<'_>, verdict: Verdict, out: &Outbox) -> Result<(), Error> {
        let options = self.options;
        let flight = &mut self.flights[0];
        let all_left = out.octets_written() >= flight.end;
        match verdict {
            Verdict::Done if !all_left || flight.is_contradicted() => return Err(self.misplaced(reply)),
            Verdict::Done if flight.taken == 0 => {} // an empty message that nobody gets
            Verdict::Done if options.lmtp => flight.accept_one(reply),
            Verdict::Done => flight.accepted = Some(reply.keep()),
            Verdict::Refused if options.lmtp && all_left => flight.refuse_one(reply),
            Verdict::Refused => {
                if flight.taken > 0 && flight.refusal.is_none() {
                    flight.refusal = Some((Phase::End, reply.keep()));
                }
                if !all_left {
                    return Err(Error::Refused { phase: Phase::Body, reply: reply.keep() });
                }
            }
            _ => return Err(self.misplaced(reply)),
        }
        Ok(())
    }
}

impl Flight {
    /// Keeps a reply, and only the beginning of it once [`MAX_REFUSALS`] are kept.
    fn kept(&mut self, reply: ReplyRef<'_>) -> Reply {
        let kept = reply.keep_within(self.refusals_left);
        self.refusals_left = self.refusals_left.saturating_sub(kept.raw().len());
        kept
    }

    /// The recipients are answered in order.
    fn refuse(&mut self, index: usize, reply: ReplyRef<'_>) {
        let reply = self.kept(reply);
        self.refused += 1;
        self.own.push((index, Outcome::Refused, Some(reply)));
    }

    /// LMTP: the recipient that a final reply is for. They come in the order of those that were taken.
    fn next_final(&mut self) -> usize {
        while self.own.get(self.passed_over).is_some_and(|(index, ..)| *index == self.next_final) {
            self.next_final += 1;
            self.passed_over += 1;
        }
        self.next_final += 1;
        self.next_final - 1
    }

    fn accept_one(&mut self, reply: ReplyRef<'_>) {
        let index = self.next_final();
        let reply = self.kept(reply);
        self.accepted.get_or_insert_with(|| reply.clone());
        self.finals.push((index, Outcome::Accepted, Some(reply)));
    }

    fn refuse_one(&mut self, reply: ReplyRef<'_>) {
        let index = self.next_final();
        let reply = self.kept(reply);
        self.refused += 1;
        self.finals.push((index, Outcome::Refused, Some(reply)));
    }
}

/// Two lists of recipients, each in order, as one.
fn merged<T>(one: Vec<(usize, Outcome, T)>, other: Vec<(usize, Outcome, T)>) -> Vec<(usize, Outcome, T)> {
    if other.is_empty() {
        return one;
    }
    let mut merged = Vec::with_capacity(one.len() + other.len());
    let (mut one, mut other) = (one.into_iter().peekable(), other.into_iter().peekable());
    while let Some((index, ..)) = one.peek() {
        while let Some(before) = other.next_if(|(number, ..)| number < index) {
            merged.push(before);
        }
        merged.extend(one.next());
    }
    merged.extend(other);
    merged
}

impl fmt::Debug for Transactions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transactions")
            .field("options", &self.options)
            .field("over", &self.over)
            .field("under_way", &self.under_way())
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}

impl Dialogue for Transactions {
    fn phase(&self) -> Phase {
        match self.flights.front() {
            _ if self.resetting => Phase::Reset,
            Some(first) => first.phase(self.options),
            None => Phase::Mail,
        }
    }

    fn fill(&mut self, out: &mut Outbox) -> Want {
        loop {
            if !self.results.is_empty() {
                return Want::Result;
            }
            if out.is_full() {
                return Want::Write;
            }
            if self.resetting {
                return Want::Reply;
            }
            if self.writing == self.flights.len() {
                return self.fill_between(out);
            }
            if let Some(want) = self.fill_flight(out) {
                return want;
            }
        }
    }

    fn on_reply(&mut self, reply: ReplyRef<'_>, out: &Outbox) -> Result<(), Error> {
        let options = self.options;
        let phase = self.phase();
        let verdict = Verdict::of(reply, phase);
        if self.resetting {
            if verdict != Verdict::Done {
                return Err(self.not_reset(reply));
            }
            (self.resetting, self.open) = (false, false);
            return Ok(());
        }
        let Some(first) = self.flights.front().filter(|first| !first.is_answered()) else {
            return Err(self.on_early(reply));
        };
        let (number, data) = (first.heard, first.data());
        let at_end = phase == Phase::End;
        if reply.closes(phase) {
            // 221 says nothing of a message that has left. To LMTP, 421 says nothing of the other recipients.
            let decides = at_end && first.taken > 0;
            if !(decides && (options.lmtp || verdict == Verdict::Closing)) {
                self.closing = Some(reply.keep());
            }
            if !decides || verdict == Verdict::Closing {
                return Err(Error::Refused { phase, reply: reply.keep() });
            }
        }
        self.due = self.due.saturating_sub(1);
        if number <= data && (!at_end || options.chunking) {
            self.note(number, reply, verdict);
        }
        match number {
            _ if at_end => self.on_end(reply, verdict, out)?,
            0 => self.on_reset(reply, verdict)?,
            1 => self.on_mail(reply, verdict)?,
            n if n < data => self.on_recipient(n - 2, reply, verdict)?,
            n if n == data && !options.chunking => self.on_data(reply, verdict)?,
            _ => self.on_chunk(reply, verdict)?,
        }
        // Before this reply is counted, no flight has its result.
        let first = &mut self.flights[0];
        first.heard += 1;
        if first.is_answered() {
            self.settle();
        }
        Ok(())
    }

    fn on_early(&mut self, reply: ReplyRef<'_>) -> Error {
        let phase = self.phase();
        let flight = self.flights.front_mut().filter(|flight| flight.taken > 0);
        // Nothing is due, so an end that was reached has not been offered yet.
        let flight = flight.filter(|flight| flight.stage == Stage::Body || flight.last.is_some());
        let phase = if flight.is_some() { Phase::Body } else { phase };
        let refused = Error::Refused { phase, reply: reply.keep() };
        match flight {
            _ if reply.closes(phase) => self.closing = Some(reply.keep()),
            // The server will not have the rest of it.
            Some(flight) if reply.is_negative() => flight.refusal = Some((Phase::Body, reply.keep())),
            _ => return Error::protocol(phase, format!("a reply that nobody asked for: {reply}")),
        }
        refused
    }

    fn body(&mut self, piece: &[u8], out: &mut Outbox) -> Result<(), Error> {
        let chunking = self.options.chunking;
        let wanted = |flight: &&mut Flight| {
            flight.stage == Stage::Body && flight.content.is_none() && (chunking || flight.taken > 0)
        };
        let Some(flight) = self.flights.get_mut(self.writing).filter(wanted) else {
            return Err(Error::Internal("content that nobody wanted"));
        };
        flight.begun = true;
        match (self.options.chunking, piece.is_empty()) {
            (false, false) => out.put_content(|out| self.encoder.push(piece, out))?,
            (false, true) => {
                out.put_content(|out| self.encoder.end(out));
                self.end(out, Command::Dot);
                self.ended(out);
            }
            (true, false) => {
                if self.chunk.len() + piece.len() > CHUNK {
                    self.flush(out);
                }
                self.encoder.push(piece, &mut self.chunk)?;
            }
            (true, true) => {
                self.encoder.end(&mut self.chunk);
                let octets = self.chunk.len();
                self.end(out, Command::Bdat(octets, true));
                out.put_chunk(&mut self.chunk);
                self.ended(out);
            }
        }
        Ok(())
    }

    fn flush(&mut self, out: &mut Outbox) {
        if !self.chunk.is_empty() {
            let octets = self.chunk.len();
            self.ask(out, |_| Command::Bdat(octets, false));
            out.put_chunk(&mut self.chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(recipients: usize) -> Transaction {
        let to = (0..recipients).map(|i| format!("{i}@example.net"));
        let envelope = Envelope::new("a@example.org", to.collect::<Vec<_>>()).unwrap();
        Transaction::new(envelope, MailParameters::default())
    }

    /// Some transactions, and what they have put on the wire.
    struct Talk {
        all: Transactions,
        out: Outbox,
    }

    impl Talk {
        fn new(options: Options) -> Talk {
            Talk { all: Transactions::new(options, false), out: Outbox::default() }
        }

        /// Hands over a message for so many.
        fn message(&mut self, recipients: usize) {
            self.all.message(letter(recipients));
        }

        /// The first words of what is said now, and what is wanted next.
        fn says(&mut self) -> (String, Want) {
            let want = self.all.fill(&mut self.out);
            let said = String::from_utf8(self.out.offer().to_vec()).unwrap();
            self.out.written(said.len());
            let words = said.lines().filter_map(|line| line.split(' ').next());
            let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
            (words.join(" "), want)
        }

        fn hears(&mut self, reply: &str) -> Result<(), Error> {
            let reply = Reply::parse(format!("{reply}\r\n").as_bytes()).unwrap();
            self.out.reply_arrived();
            self.all.on_reply(reply.borrow(), &self.out)
        }

        /// Speaks, and hears this, and so on.
        fn play(&mut self, replies: &[&str]) {
            for reply in replies {
                self.says();
                self.hears(reply).unwrap();
            }
        }

        /// Gives it a piece of the content, or its end.
        fn content(&mut self, piece: &str) {
            self.all.body(piece.as_bytes(), &mut self.out).unwrap();
        }

        fn outcome(&mut self) -> Outcome {
            match self.all.next_result().unwrap() {
                Ok(delivery) => delivery.outcome(),
                Err(Error::Transaction { delivery, .. }) => delivery.outcome(),
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    const PIPELINING: Options = Options {
        pipelining: true,
        chunking: false,
        joining: Joining::Works,
        all_or_nothing: false,
        farewell: false,
        lmtp: false,
    };

    /// What may be sent again of a message for three, sent alone, that is answered so.
    fn again(options: Options, open: bool, replies: &[&str]) -> Option<Again> {
        let mut talk = Talk { all: Transactions::new(options, open), out: Outbox::default() };
        talk.message(3);
        talk.all.no_more();
        for reply in replies {
            if let Want::Body(_) = talk.says().1 {
                talk.content("Hello");
                talk.content("");
                talk.says();
            }
            talk.hears(reply).unwrap();
        }
        talk.says();
        match talk.all.next_result().unwrap() {
            Ok(mut delivery) => delivery.take_again(),
            Err(Error::Transaction { mut delivery, .. }) => delivery.take_again(),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn one_by_one(recipients: &[usize], command: usize) -> Option<Again> {
        Some(Again::OneByOne { recipients: recipients.to_vec(), command })
    }

    #[test]
    fn a_run_of_452_at_the_end_of_the_recipients_may_have_the_message_in_a_further_transaction() {
        let rest = |rcpt: [&str; 3], end: &str| {
            let replies = [&["250"][..], &rcpt, &["354", end]].concat();
            again(PIPELINING, false, &replies)
        };
        let full = "452 4.5.3 too many";
        assert_eq!(rest(["250", full, full], "250"), Some(Again::Rest(vec![1, 2])));
        assert_eq!(rest(["550 no", "250", "452 too many"], "250"), Some(Again::Rest(vec![2])));
        assert_eq!(rest(["250", full, "452 4.2.2 full"], "250"), Some(Again::Rest(vec![1])));
        assert_eq!(rest(["250", "452 4.2.2 full", full], "250"), Some(Again::Rest(vec![2])));
        assert_eq!(rest(["250", full, "250"], "250"), None, "one behind it was accepted");
        assert_eq!(rest(["250", full, "550 no"], "250"), None, "one behind it was refused for itself");
        assert_eq!(rest(["250", "452 4.2.2 full", "452 4.3.1 disk"], "250"), None);
        assert_eq!(rest(["250", full, full], "451 no"), None, "nobody got it");
        let all = Options { all_or_nothing: true, ..PIPELINING };
        assert_eq!(again(all, false, &["250", "250", full, full]), None);
    }

    #[test]
    fn lmtp_has_too_many_recipients_at_rcpt_only() {
        let lmtp = Options { lmtp: true, ..PIPELINING };
        let full = "452 4.5.3 too many";
        let replies = ["250", "250", "250", "250", "354", "250", full, full];
        assert_eq!(again(lmtp, false, &replies), None);
        let replies = ["250", "250", "250", full, "354", "250", full];
        assert_eq!(again(lmtp, false, &replies), Some(Again::Rest(vec![2])));
    }

    #[test]
    fn commands_that_are_misread_in_company_may_be_sent_one_by_one() {
        let odd = "503 5.5.1 what?";
        let alone = |open, replies: &[&str]| again(PIPELINING, open, replies);
        assert_eq!(alone(false, &["250", odd, odd, odd, odd]), one_by_one(&[0, 1, 2], 2));
        assert_eq!(alone(false, &["250", "250", odd, odd, "500 what"]), one_by_one(&[0, 1, 2], 3));
        assert_eq!(alone(false, &["250", "250", "250", "250", "503 no"]), one_by_one(&[0, 1, 2], 5), "DATA");
        assert_eq!(
            alone(true, &["250", odd, odd, odd, odd, odd]),
            one_by_one(&[0, 1, 2], 1),
            "MAIL behind RSET"
        );
        assert_eq!(alone(false, &["250", "250", odd, "550 no", "354", "250"]), one_by_one(&[1], 2));
        assert_eq!(alone(false, &["250", odd, "550 no", odd, odd]), one_by_one(&[0, 2], 2));
        // About the sender, a recipient, or the message.
        assert_eq!(alone(false, &[odd, odd, odd, odd, odd]), None, "nothing came before it");
        assert_eq!(alone(false, &["550 no", odd, odd, odd, odd]), None);
        assert_eq!(alone(false, &["250", "550 no", odd, odd, odd]), None);
        assert_eq!(alone(false, &["250", "250", odd, odd, "451 later"]), None);
        for (reply, expected) in [
            ("501 what?", true),
            ("501 5.5.2 what?", true),
            ("501 5.1.3 bad address", false),
            ("502 5.5.1 what?", true),
            ("504 no", false),
        ] {
            let found = alone(false, &["250", reply, reply, reply, "503 no"]);
            assert_eq!(found, one_by_one(&[0, 1, 2], 2).filter(|_| expected), "{reply}");
        }
        // One command at a time there is no company.
        let lock_step = Options { pipelining: false, joining: Joining::Off, ..PIPELINING };
        assert_eq!(again(lock_step, false, &["250", odd, odd, odd]), None);
    }

    #[test]
    fn a_command_that_is_accepted_alone_shows_that_the_server_does_not_pipeline() {
        for (reply, pipelines) in [("250", false), ("503 no", true)] {
            let mut talk = Talk::new(PIPELINING);
            talk.all.message(letter(1).one_by_one(Some(2)));
            talk.message(1);
            talk.all.no_more();
            assert_eq!(talk.says().0, "MAIL");
            talk.hears("250").unwrap();
            assert_eq!(talk.says().0, "RCPT");
            talk.hears(reply).unwrap();
            assert_eq!((talk.all.pipelines(), talk.all.joining() != Joining::Off), (pipelines, pipelines));
        }
    }

    #[test]
    fn what_was_not_answered_may_go_elsewhere_unless_it_is_in_doubt() {
        let chunking = Options { chunking: true, ..PIPELINING };
        let mut talk = Talk::new(chunking);
        for content in ["one", "two"] {
            at_hand(&mut talk, content);
        }
        talk.message(1); // its content is still to come
        talk.all.no_more();
        talk.says();
        talk.play(&["250", "250", "250"]);
        assert_eq!(talk.outcome(), Outcome::Accepted);
        talk.all.lose(talk.out.octets_offered(), Error::Closed(Phase::Reset));
        let mut next = || match talk.all.next_result().unwrap() {
            Err(Error::Transaction { mut delivery, .. }) => (delivery.outcome(), delivery.take_again()),
            other => panic!("{other:?}"),
        };
        assert_eq!(next(), (Outcome::InDoubt, None));
        assert_eq!(next(), (Outcome::NotSent, Some(Again::Elsewhere)));
        assert_eq!(again(PIPELINING, false, &["452 no", "503", "503", "503", "503"]), Some(Again::Elsewhere));
        assert_eq!(again(PIPELINING, false, &["451 no", "503", "503", "503", "503"]), None);
    }

    #[test]
    fn half_of_a_great_many_recipients_of_lmtp_may_be_refused() {
        // With a place to be made for each answer this would take minutes.
        const MANY: usize = 200_000;
        let mut talk = Talk::new(Options { lmtp: true, ..PIPELINING });
        talk.message(MANY);
        talk.all.no_more();
        let mut given = 0;
        loop {
            match talk.says().1 {
                Want::Body(_) => {
                    talk.content("Hello");
                    talk.content("");
                }
                Want::Reply => {
                    while talk.out.due() > 0 {
                        let refused = given > MANY + 1 && given % 3 == 0
                            || (1..=MANY).contains(&given) && given % 2 == 1;
                        talk.hears(if refused {
                            "550"
                        } else if given == MANY + 1 {
                            "354"
                        } else {
                            "250"
                        })
                        .unwrap();
                        given += 1;
                    }
                }
                _ => break,
            }
        }
        let delivery = talk.all.next_result().unwrap().unwrap();
        let outcomes: Vec<_> = delivery.recipients().map(|recipient| recipient.outcome()).collect();
        let expected = (0..MANY).map(|number| {
            let at_end = MANY + 2 + number / 2;
            let taken = number % 2 == 1 && at_end % 3 != 0;
            if taken { Outcome::Accepted } else { Outcome::Refused }
        });
        assert!(outcomes.into_iter().eq(expected));
    }

    #[test]
    fn a_reply_that_is_not_due_is_out_of_step() {
        let mut talk = Talk::new(PIPELINING);
        assert!(talk.hears("250").is_err());
        talk.message(1);
        assert!(talk.hears("250").is_err(), "nothing was said yet");
    }

    #[test]
    fn each_reply_has_its_phase() {
        let phases = |options, replies: &[&str]| {
            let mut talk = Talk { all: Transactions::new(options, true), out: Outbox::default() };
            let mut phases = Vec::new();
            talk.message(1);
            for reply in replies {
                talk.says();
                phases.push(talk.all.phase());
                talk.hears(reply).unwrap();
            }
            talk.says();
            phases.push(talk.all.phase());
            talk.content("Hello");
            talk.content("");
            phases.push(talk.all.phase());
            phases
        };
        let envelope = [Phase::Reset, Phase::Mail, Phase::Recipient];
        assert_eq!(
            phases(Options::default(), &["250", "250", "250", "354"]),
            [&envelope[..], &[Phase::Data, Phase::Body, Phase::End]].concat()
        );
        assert_eq!(
            phases(Options { chunking: true, ..Options::default() }, &["250", "250", "250"]),
            [&envelope[..], &[Phase::Body, Phase::End]].concat()
        );
    }

    #[test]
    fn content_goes_in_chunks_if_a_recipient_was_taken() {
        for (reply, want) in [("250", Want::Body(0)), ("550", Want::Result)] {
            let mut talk = Talk::new(Options { chunking: true, ..Options::default() });
            talk.message(1);
            talk.play(&["250", reply]);
            assert_eq!(talk.says(), (String::new(), want));
        }
    }

    #[test]
    fn the_reply_to_a_chunk_is_of_the_content() {
        let mut talk = Talk::new(Options { chunking: true, ..Options::default() });
        talk.message(1);
        talk.play(&["250", "250"]);
        talk.says();
        talk.content(&"x".repeat(CHUNK));
        talk.content("more");
        assert_eq!(talk.says().1, Want::Write);
        assert_eq!((talk.says().1, talk.all.phase()), (Want::Reply, Phase::Body));
        talk.hears("250").unwrap();
        assert_eq!((talk.says().1, talk.all.phase()), (Want::Body(0), Phase::Body));
    }

    #[test]
    fn what_all_recipients_refuse_at_the_end_is_refused_there() {
        let mut talk = Talk::new(Options { lmtp: true, ..Options::default() });
        talk.message(1);
        talk.play(&["250", "250", "354"]);
        talk.content("");
        talk.play(&["550 no"]);
        let result = talk.all.next_result().unwrap();
        let Err(Error::Transaction { source, .. }) = result else { panic!("{result:?}") };
        assert!(matches!(*source, Error::Refused { phase: Phase::End, .. }), "{source:?}");
    }

    #[test]
    fn a_message_is_said_when_its_end_is() {
        let mut talk = Talk::new(Options::default());
        talk.message(1);
        talk.play(&["250", "250", "354"]);
        talk.content("Hello");
        assert!(!talk.all.is_said(0));
        talk.content("");
        assert!(talk.all.is_said(0) && !talk.all.is_said(1));
    }

    #[test]
    fn a_message_is_in_doubt_from_the_first_octet_of_its_last_line() {
        for (octets, outcome) in [(0, Outcome::NotSent), (1, Outcome::InDoubt)] {
            let mut talk = Talk::new(Options::default());
            talk.message(1);
            talk.play(&["250", "250", "354"]);
            talk.content("Hello");
            talk.content("");
            let dot = talk.out.end() - b".\r\n".len() as u64;
            talk.all.lose(dot + octets, Error::Closed(Phase::End));
            assert_eq!(talk.outcome(), outcome);
        }
    }

    #[test]
    fn messages_that_were_lost_are_counted() {
        let mut talk = Talk::new(Options::default());
        talk.message(1);
        talk.says();
        talk.all.lose(0, Error::Closed(Phase::Mail));
        assert_eq!(talk.outcome(), Outcome::NotSent);
        talk.out = Outbox::default();
        talk.message(1);
        talk.play(&["250", "250", "354"]);
        assert_eq!(talk.says().1, Want::Body(1));
    }

    #[test]
    fn the_next_message_is_wanted_before_the_content_of_this_one() {
        let mut talk = Talk::new(PIPELINING);
        talk.message(1);
        talk.play(&["250", "250", "354"]);
        assert_eq!(talk.says().1, Want::Message);
        talk.all.no_more();
        assert_eq!(talk.says().1, Want::Body(0));
    }

    #[test]
    fn a_message_that_may_be_waited_for_is_wanted_when_all_is_written() {
        let mut talk = Talk::new(PIPELINING);
        assert!(talk.all.has_said_all(&talk.out));
        talk.message(1);
        assert!(!talk.all.has_said_all(&talk.out));
        talk.play(&["250", "250", "354"]);
        assert_eq!(talk.says().1, Want::Message);
        talk.all.later();
        assert_eq!(talk.says().1, Want::Body(0));
        talk.content("Hello");
        talk.content("");
        assert!(!talk.all.has_said_all(&talk.out));
        assert_eq!(talk.says(), ("Hello .".to_owned(), Want::Write));
        assert!(talk.all.has_said_all(&talk.out));
        assert_eq!(talk.says().1, Want::Message);
        talk.message(1);
        assert_eq!(talk.says(), ("MAIL RCPT DATA".to_owned(), Want::Reply));
        // The next one is wanted early again.
        talk.play(&["250"]);
        assert_eq!(talk.outcome(), Outcome::Accepted);
        talk.play(&["250", "250", "354"]);
        assert_eq!(talk.says().1, Want::Message);
        talk.all.later();
        talk.says();
        talk.content("");
        talk.says();
        talk.all.no_more();
        assert_eq!(talk.says().1, Want::Reply);
    }

    #[test]
    fn behind_a_last_chunk_that_was_taken_nothing_is_open() {
        let mut talk = Talk::new(Options { chunking: true, ..Options::default() });
        talk.message(1);
        talk.message(1);
        talk.play(&["250", "250"]);
        talk.says();
        talk.content("");
        talk.play(&["250"]);
        assert_eq!(talk.outcome(), Outcome::Accepted);
        assert_eq!(talk.says().0, "MAIL");
    }

    #[test]
    fn an_envelope_has_joined_however_long_it_is() {
        let mut talk = Talk::new(PIPELINING);
        talk.message(1);
        talk.play(&["250", "250", "354"]);
        assert_eq!(talk.says().1, Want::Message);
        talk.message(2 * WINDOW);
        talk.all.no_more();
        talk.content("");
        talk.play(&["250"]);
        assert_eq!(talk.outcome(), Outcome::Accepted);
        talk.says();
        assert!(talk.all.is_unheard());
    }

    #[test]
    fn a_sender_that_is_taken_behind_a_refused_reset_is_another_transaction() {
        let mut talk = Talk::new(Options { chunking: true, ..PIPELINING });
        talk.all.message(letter(1).ahead(true));
        assert_eq!(talk.says(), ("MAIL RCPT".to_owned(), Want::Message));
        talk.all.message(letter(1).ahead(true));
        talk.says();
        talk.content("");
        assert_eq!(talk.says(), ("BDAT RSET MAIL RCPT".to_owned(), Want::Message));
        talk.all.no_more();
        talk.play(&["250", "250", "250"]);
        assert_eq!(talk.outcome(), Outcome::Accepted);
        talk.play(&["503 not now"]);
        talk.content("");
        talk.play(&["250", "550"]);
        assert!(matches!(talk.hears("250"), Err(Error::Protocol { .. })));
    }

    #[test]
    fn the_reply_to_the_end_is_kept_whole() {
        let mut talk = Talk::new(Options::default());
        talk.message(1);
        talk.play(&["250", "250", "354"]);
        talk.content("");
        talk.all.flights[0].refusals_left = 0;
        let reply = format!("250 {}", "x".repeat(1000));
        talk.play(&[&reply]);
        let delivery = talk.all.next_result().unwrap().unwrap();
        assert_eq!(delivery.reply().map(Reply::to_string), Some(reply));
    }

    #[test]
    fn a_421_to_the_dot_of_a_message_for_nobody_decides_nothing() {
        let mut talk = Talk::new(PIPELINING);
        talk.message(1);
        talk.all.no_more();
        talk.play(&["250", "550", "354"]);
        assert_eq!(talk.says().0, ".");
        assert!(matches!(talk.hears("421 bye"), Err(Error::Refused { phase: Phase::End, .. })));
    }

    #[test]
    fn a_refusal_of_content_for_nobody_that_nobody_asked_for_is_out_of_step() {
        let mut talk = Talk::new(PIPELINING);
        talk.message(1);
        talk.all.no_more();
        talk.play(&["250", "550", "354"]);
        let reply = Reply::parse(b"451 no\r\n").unwrap();
        assert!(matches!(talk.all.on_early(reply.borrow()), Error::Protocol { phase: Phase::Body, .. }));
    }

    #[test]
    fn the_last_reset_has_its_phase() {
        let mut talk = Talk { all: Transactions::new(PIPELINING, true), out: Outbox::default() };
        talk.all.no_more();
        assert_eq!((talk.says().0, talk.all.phase()), ("RSET".to_owned(), Phase::Reset));
    }

    #[test]
    fn what_a_server_says_into_the_content_is_its_refusal() {
        for (code, outcome) in [(451, Outcome::Refused), (421, Outcome::NotSent)] {
            let mut talk = Talk::new(Options::default());
            talk.message(1);
            talk.play(&["250", "250", "354"]);
            talk.content("Hello");
            talk.says();
            let reply = Reply::parse(format!("{code} no\r\n").as_bytes()).unwrap();
            let error = talk.all.on_early(reply.borrow());
            assert!(matches!(error, Error::Refused { phase: Phase::Body, .. }), "{error:?}");
            talk.all.lose(talk.out.octets_offered(), error);
            assert_eq!(talk.outcome(), outcome);
        }
    }

    #[test]
    fn silence_costs_no_more_than_an_envelope() {
        let mut talk = Talk::new(PIPELINING);
        talk.message(1);
        talk.play(&["250", "250", "354"]);
        assert_eq!(talk.says().1, Want::Message);
        talk.message(1);
        talk.content("");
        talk.play(&["250"]);
        assert_eq!(talk.outcome(), Outcome::Accepted);
        talk.play(&["250", "550", "354"]);
        assert_eq!(talk.says(), (".".to_owned(), Want::Message));
        talk.message(1);
        assert_eq!(talk.says().0, "MAIL RCPT DATA");
        assert!(!talk.all.on_silence(), "the next envelope is out, too");
    }

    fn at_hand(talk: &mut Talk, content: &str) {
        talk.all.message_with(letter(1).ahead(true), Survey::of(content.as_bytes())).unwrap();
    }

    #[test]
    fn content_that_came_with_a_message_is_not_asked_for_when_it_goes_again() {
        let mut talk = Talk::new(Options { chunking: true, ..PIPELINING });
        at_hand(&mut talk, "one");
        assert_eq!(talk.says(), ("MAIL RCPT".to_owned(), Want::Message));
        at_hand(&mut talk, "two");
        assert_eq!(talk.says(), ("BDAT one RSET MAIL RCPT".to_owned(), Want::Message));
        talk.play(&["250", "250", "250"]);
        assert_eq!(talk.outcome(), Outcome::Accepted);
        // Its envelope is answered while the next message is waited for.
        (0..3).for_each(|_| talk.hears("503 not now").unwrap());
        talk.all.no_more();
        assert_eq!(talk.says(), ("RSET MAIL RCPT BDAT two".to_owned(), Want::Reply));
    }

    #[test]
    fn debug_shows_no_content() {
        let mut talk = Talk::new(PIPELINING);
        at_hand(&mut talk, "Hello");
        assert!(!format!("{:?}", talk.all).contains("72, 101"));
    }

    #[test]
    fn what_was_gathered_of_a_lost_message_does_not_begin_the_next() {
        let mut talk = Talk::new(Options { chunking: true, ..Options::default() });
        talk.message(1);
        talk.play(&["250", "250"]);
        talk.says();
        talk.content("lost");
        talk.all.lose(talk.out.octets_offered(), Error::Closed(Phase::Body));
        assert_eq!(talk.outcome(), Outcome::NotSent);
        talk.out = Outbox::default();
        talk.message(1);
        talk.play(&["250", "250"]);
        talk.says();
        talk.content("Hello");
        talk.content("");
        assert_eq!(talk.says().0, "BDAT Hello");
    }

    #[test]
    fn room_of_content_that_has_left_is_not_hoarded() {
        let mut talk = Talk::new(Options { chunking: true, ..PIPELINING });
        (0..100).for_each(|_| at_hand(&mut talk, "Hello"));
        talk.all.no_more();
        talk.says();
        assert_eq!(talk.all.spare.len(), MAX_SPARE);
    }
}
