//! Dialogue for messages: MAIL, RCPT, DATA or BDAT, the content, and RSET where something is left open (RFC 5321 §3.3).
//!
//! Carries any number of messages, one after another, over one connection. Each message is a flight of commands. With
//! PIPELINING (RFC 2920) a flight may be sent before the replies to the previous one have arrived. Replies come in
//! order, so the first flight and its number of replies so far determine what the next reply answers: [`Flight::step`]
//! is that table.
//!
//! ```text
//! Envelope ─all sent─▶ Hold ─3yz─▶ Body ─last piece─▶ Over ─all answered─▶ a result
//!     │                  │           │ (without recipients: a lone dot)
//!     └─ refused ────────┴───────────┴───────────────▶ Over; the next flight begins with RSET
//! ```
//!
//! The rules that keep this safe:
//!
//! - With DATA, content is sent only after a recipient was accepted, and never together with its own envelope. With
//!   BDAT it may be, if it is small and can be provided again. If the envelope is refused, so is each BDAT.
//! - A message is in doubt from the moment when the last line of its end, or the last chunk, is first offered to a
//!   write, until its reply arrives. That is also true if the server refused a part of it and accepts the rest.
//! - A flight begins with RSET unless the transaction before it is certainly over. With BDAT only a 2yz reply to the
//!   last chunk proves that: servers keep a transaction open after a chunk that they refuse.
//! - A flight that joins the end of a message before that was seen to work ([`Joining::Untried`]) carries no content. A
//!   server that discards it, or hangs up, costs a connection and never a message.
//!
//! This file decides what to send next. [`flight`] keeps what is known about one message.

mod flight;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, fmt};

pub(crate) use self::flight::is_too_many;
use self::flight::{Answer, Content, EnvelopeSent, Flight, Replies, Stage, Step};
use super::{
    Command, Dialogue, Encoder, MailParameters, Outbox, ReplyErrors, ReplyRef, Survey, Want,
    command::check_line, verdict::Verdict,
};
use crate::{Delivery, Envelope, Error, Phase, Reply, delivery::Again};

/// Maximum number of outstanding replies: a server that answers slowly is not flooded with commands.
const WINDOW: usize = 512;
/// Size of a BDAT chunk, in octets. Content that came with its message is one chunk.
const CHUNK: usize = 64 * 1024;
/// Maximum number of content buffers that are kept for reuse. While one message waits for the reply to DATA, the
/// content of the next is already available.
const MAX_SPARE: usize = 2;
/// Budget for storing replies to individual recipients in full, in octets. After it is used up, only the beginning of
/// each reply is kept.
const MAX_REFUSALS: usize = 1024 * 1024;

/// How [`Transactions`] are carried out. By default: one command at a time, and content with DATA, as any server
/// allows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub(crate) pipelining: bool,
    pub(crate) chunking: bool,
    pub(crate) joining: Joining,
    pub(crate) all_or_nothing: bool,
    pub(crate) farewell: bool,
    pub(crate) lmtp: bool,
}

impl Options {
    /// Sets whether commands are sent without waiting for earlier replies. Requires PIPELINING (RFC 2920).
    #[must_use]
    pub fn pipelining(self, pipelining: bool) -> Options {
        Options { pipelining, ..self }
    }

    /// Sets whether content is sent with BDAT instead of DATA. Requires CHUNKING (RFC 3030).
    #[must_use]
    pub fn chunking(self, chunking: bool) -> Options {
        Options { chunking, ..self }
    }

    /// Sets whether the end of a message and the next envelope may be sent together. Requires
    /// [`pipelining`](Options::pipelining).
    #[must_use]
    pub fn joining(self, joining: Joining) -> Options {
        Options { joining, ..self }
    }

    /// Sets whether a message is sent to nobody if one of its recipients is refused.
    #[must_use]
    pub fn all_or_nothing(self, all_or_nothing: bool) -> Options {
        Options { all_or_nothing, ..self }
    }

    /// Sets whether QUIT is sent together with the end of the last message, without waiting for its reply. Use it only
    /// where the next envelope could be sent with it as well: see [`Joining`].
    #[must_use]
    pub fn farewell(self, farewell: bool) -> Options {
        Options { farewell, ..self }
    }

    /// Sets whether the server speaks LMTP: it answers the end of a message once for each recipient (RFC 2033 §4.2).
    #[must_use]
    pub fn lmtp(self, lmtp: bool) -> Options {
        Options { lmtp, ..self }
    }

    fn joins(self) -> bool {
        self.pipelining && self.joining != Joining::Off
    }
}

/// What is known about how a server treats an envelope that is sent together with the end of the previous message.
///
/// RFC 2920 §3.1 allows it, and most servers accept it. Some discard what they have read after a final dot, some refuse
/// it, and at least one takes it for a part of the message, which no reply reveals. A server that offers CHUNKING
/// (RFC 3030) has to frame its input exactly. With other servers, [`Off`](Joining::Off) is the safe choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Joining {
    /// Nothing is sent together with the end of a message.
    #[default]
    Off,
    /// The next envelope is sent together with the end of a message once, without content, to see what happens.
    Untried,
    /// An envelope that was sent together with the end of a message was answered correctly.
    Works,
}

/// One message and its recipients, to be handed to [`Transactions`].
///
/// Its content is requested with [`Want::Body`], unless it came [with the message](Transactions::message_with).
#[derive(Debug, Clone)]
pub struct Transaction {
    envelope: Envelope,
    parameters: MailParameters,
    /// Whether the content may be sent before the envelope is answered.
    ahead: bool,
    /// Whether the content was already checked.
    is_checked: bool,
    /// Number of a command that was refused when it was sent with others. If set, one command is sent at a time.
    one_by_one: Option<usize>,
}

/// Checks that each RCPT of an envelope, with its options, is a line of at most 2,048 octets.
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
    /// Creates a transaction. The server must offer whatever `parameters` and the options of the envelope use.
    ///
    /// The length of the lines is not checked here: see [`check`](Transaction::check).
    #[must_use]
    pub fn new(envelope: Envelope, parameters: MailParameters) -> Transaction {
        Transaction { envelope, parameters, ahead: false, is_checked: false, one_by_one: None }
    }

    /// Checks that MAIL and each RCPT, with their options, are lines of at most 2,048 octets.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if one is longer.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let options = self.envelope.mail_options();
        check_line(Command::Mail(self.envelope.sender(), self.parameters, options))?;
        check_recipients(&self.envelope)
    }

    /// Sets whether the content may be sent with BDAT before the envelope is answered. The content should be small, and
    /// still available if it is requested twice. Defaults to false.
    #[must_use]
    pub fn ahead(mut self, ahead: bool) -> Transaction {
        self.ahead = ahead;
        self
    }

    /// Takes the survey of the content that will be passed, piece by piece, so that the pieces need not be checked again.
    pub(crate) fn surveyed(mut self, content: Survey<'_>) -> Transaction {
        self.is_checked = content.is_clean() && (!content.eight_bit || self.parameters.eight_bit);
        self
    }

    /// Sends one command at a time. If the command with this number is then accepted, the server cannot pipeline.
    pub(crate) fn one_by_one(mut self, command: Option<usize>) -> Transaction {
        self.ahead &= command.is_none();
        self.one_by_one = command;
        self
    }
}

/// Dialogue that sends messages, one after the other, over one connection.
///
/// Hand over a [`Transaction`] whenever [`Want::Message`] is returned, and take its result from
/// [`next_result`](Transactions::next_result). `Debug` shows no content.
pub struct Transactions {
    options: Options,
    /// In order. Replies are for the first flight; `writing` is the index of the one being written, or of the next one.
    flights: VecDeque<Flight>,
    writing: usize,
    /// Number of messages whose result has been stored.
    over: usize,
    /// Number of outstanding replies, for all flights.
    due: usize,
    encoder: Encoder,
    /// Content that is waiting for its BDAT command.
    chunk: Vec<u8>,
    /// Buffers whose content was sent, to be reused.
    spare: Vec<Vec<u8>>,
    supply: Supply,
    leftover: Leftover,
    said_farewell: bool,
    /// The reply with which the server closed the connection.
    closing: Option<Reply>,
    results: VecDeque<Result<Delivery, Error>>,
}

/// What is known about the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Supply {
    /// There may be one. It is wanted early, so that its envelope can be sent with the end of the previous message.
    Open,
    /// Asking for one may take time. It is wanted once everything available is written.
    Later,
    /// No further message is known.
    Dry,
}

/// What an earlier transaction may have left open on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leftover {
    Nothing,
    /// The server may have a transaction open.
    Maybe,
    /// The server may have a transaction open, and a final RSET has been sent.
    Resetting,
}

impl Leftover {
    fn maybe(open: bool) -> Leftover {
        if open { Leftover::Maybe } else { Leftover::Nothing }
    }
}

/// Stores what may be sent again in a result.
fn mark(result: &mut Result<Delivery, Error>, again: Again) {
    match result {
        Ok(delivery) => delivery.set_again(again),
        Err(Error::Transaction { delivery, .. }) => delivery.set_again(again),
        Err(_) => {}
    }
}

impl Transactions {
    /// Creates a dialogue without messages. Set `open` if the server may still have an earlier transaction open.
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
            leftover: Leftover::maybe(open),
            said_farewell: false,
            closing: None,
            results: VecDeque::new(),
        }
    }

    /// Adds a message. Call it on [`Want::Message`].
    pub fn message(&mut self, transaction: Transaction) {
        self.add(transaction, None);
    }

    /// Adds a message together with its content. Call it on [`Want::Message`].
    ///
    /// The content is kept here, encoded, until it is sent. With BDAT it is one chunk. It should be small: 64 KiB at
    /// most.
    ///
    /// # Errors
    ///
    /// [`Error::Message`] if the content has a NUL. [`Error::Unsupported`] if it has a non-ASCII octet, and the
    /// transaction was created without 8BITMIME. The message is not added then.
    pub fn message_with(&mut self, transaction: Transaction, content: Survey<'_>) -> Result<(), Error> {
        let mut room = self.spare.pop().unwrap_or_default();
        room.clear();
        Encoder::of(transaction.parameters, self.options.chunking).push_all(content, &mut room)?;
        self.add(transaction, Some(room));
        Ok(())
    }

    fn add(&mut self, transaction: Transaction, content: Option<Vec<u8>>) {
        self.flights.push_back(Flight::new(transaction, content));
        self.supply = Supply::Open;
    }

    /// Reports that there is no further message now. Call it on [`Want::Message`].
    ///
    /// An open transaction is closed, until there are [more](Self::more) messages.
    pub fn no_more(&mut self) {
        self.supply = Supply::Dry;
    }

    /// Reports that it may take time to find out whether there is a further message. Call it on [`Want::Message`].
    ///
    /// The next message is wanted again once [everything available is written](Self::has_said_all), and before any
    /// reply is waited for. Its envelope takes a write of its own, and no round trip.
    pub fn later(&mut self) {
        self.supply = Supply::Later;
    }

    /// Returns whether everything that can be sent of the available messages was written. Then waiting for the next
    /// message delays nothing except the replies.
    #[must_use]
    pub fn has_said_all(&self, out: &Outbox) -> bool {
        self.writing == self.flights.len() && out.unsent().is_empty()
    }

    /// Makes each command from here on wait for the reply to the one before it. What was written already is not
    /// affected.
    pub(crate) fn one_at_a_time(&mut self) {
        self.options.pipelining = false;
    }

    /// Reports that there are messages again after [`no_more`](Self::no_more).
    pub fn more(&mut self) {
        self.supply = Supply::Open;
    }

    /// Takes the result of the next message, in order, once it is known.
    ///
    /// # Errors
    ///
    /// [`Error::Transaction`] if no recipient was accepted.
    pub fn next_result(&mut self) -> Option<Result<Delivery, Error>> {
        self.results.pop_front()
    }

    /// Returns the number of messages that have no result yet.
    #[must_use]
    pub(crate) fn under_way(&self) -> usize {
        self.flights.len()
    }

    /// Returns whether all of a message was put into the outbox. The number is that of [`Want::Body`].
    #[must_use]
    pub(crate) fn is_said(&self, number: usize) -> bool {
        number < self.over + self.writing
    }

    /// Returns whether the server may have a transaction open. If it has, the next transaction must begin with RSET.
    #[must_use]
    pub(crate) fn is_open(&self) -> bool {
        self.leftover != Leftover::Nothing
    }

    /// Returns what was learnt about joining. Keep it for the next connection to this server.
    #[must_use]
    pub fn joining(&self) -> Joining {
        self.options.joining
    }

    /// Returns whether QUIT was sent. If so, the connection must not be used again.
    #[must_use]
    pub fn said_farewell(&self) -> bool {
        self.said_farewell
    }

    /// Reports that the server is silent in [`Want::Probe`], or hung up.
    ///
    /// Returns true if all that is lost is an envelope that had joined the end of a message. It will be sent again,
    /// alone, over a new connection.
    pub fn on_silence(&mut self) -> bool {
        let Some(flight) = self.flights.front().filter(|_| self.is_next_unsaid()) else { return false };
        let lost = match flight.envelope_sent {
            EnvelopeSent::Alone => false,
            EnvelopeSent::Joined => flight.answer.refusal().is_none(),
            EnvelopeSent::TurnedAway => true,
        };
        let lost = lost && !flight.is_begun() && self.closing.is_none();
        if lost {
            self.options.joining = Joining::Off;
            self.rearm(Leftover::Nothing);
        }
        lost
    }

    /// Ends all messages that are under way, because the connection is out of step.
    ///
    /// `offered` is [how many octets](Outbox::octets_offered) of the stream may have left. It decides which messages
    /// are in doubt. Each gets its result from [`next_result`](Transactions::next_result).
    pub fn lose(&mut self, offered: u64, broke: Error) {
        let mut why = broke;
        while let Some(flight) = self.flights.pop_front() {
            // After a 421 the server accepts nothing.
            let in_doubt = self.closing.is_none() && flight.span.from.is_some_and(|from| offered > from);
            let phase = flight.phase(self.options);
            if why.in_doubt() && !in_doubt {
                // The message was lost with an earlier one that is in doubt, or its last line had not been sent.
                why = why.at(if phase == Phase::End { Phase::Body } else { phase });
            }
            let next = why.repeated();
            // No reply has accepted any of it, not even MAIL.
            let untouched = !in_doubt && (flight.replies.heard <= 1 || flight.is_session_full());
            let mut result = flight.into_result(self.options, in_doubt, self.closing.clone(), Some(why));
            if untouched {
                mark(&mut result, Again::Elsewhere);
            }
            self.results.push_back(result);
            self.over += 1;
            why = next;
        }
        (self.writing, self.due) = (0, 0);
        self.leftover = Leftover::maybe(self.is_open());
        self.chunk.clear();
    }

    /// Returns whether the first reply to an envelope that joined the end of a message is due. If silence follows, the
    /// envelope was lost: see [`on_silence`](Self::on_silence).
    #[must_use]
    pub(crate) fn is_unheard(&self) -> bool {
        self.flights.front().is_some_and(|first| match first.envelope_sent {
            EnvelopeSent::Alone => false,
            EnvelopeSent::Joined => first.replies.heard <= 1,
            EnvelopeSent::TurnedAway => true,
        })
    }

    /// Returns how to wait for a reply.
    fn wait(&self) -> Want {
        match self.options.joining {
            Joining::Untried if self.is_unheard() => Want::Probe,
            _ => Want::Reply,
        }
    }

    /// Returns whether another flight may be written after those that wait for replies.
    fn may_join(&self) -> bool {
        let alone = self.flights.back().is_some_and(|flight| flight.transaction.one_by_one.is_some());
        self.options.joins() && self.due < WINDOW && self.supply != Supply::Dry && !alone
    }

    /// Decides what comes next when all flights have been put into the outbox.
    fn fill_between(&mut self, out: &mut Outbox) -> Want {
        let is_first = self.flights.is_empty();
        let may_follow = if is_first { self.supply != Supply::Dry } else { self.may_join() };
        if may_follow && self.supply == Supply::Later && !self.has_said_all(out) {
            Want::Write
        } else if may_follow {
            Want::Message
        } else if !is_first {
            self.wait()
        } else if self.is_open() && !self.said_farewell {
            out.put(Command::Reset);
            self.leftover = Leftover::Resetting;
            Want::Reply
        } else {
            Want::Nothing
        }
    }

    /// Puts the next part of the current flight into `out`, or returns what has to happen first.
    fn fill_flight(&mut self, out: &mut Outbox) -> Option<Want> {
        let options = self.options;
        let flight = &self.flights[self.writing];
        // LMTP: after a refused chunk, it is unknown how many replies the last chunk would get.
        let one_by_one = !options.pipelining || flight.transaction.one_by_one.is_some();
        let alone = one_by_one || options.lmtp && flight.stage == Stage::Body;
        if self.due > 0 && (alone || self.due >= WINDOW) {
            return Some(self.wait());
        }
        match flight.stage {
            Stage::Envelope(0) if self.writing > 0 && !options.joins() => return Some(self.wait()),
            Stage::Envelope(number) => {
                if number == flight.content_number() && options.all_or_nothing && !flight.is_answered() {
                    return Some(self.wait());
                }
                self.fill_envelope(number, out);
            }
            Stage::Hold if !(options.chunking && flight.is_answered()) => return Some(self.wait()),
            Stage::Hold if flight.recipients.accepted == 0 => self.over(),
            Stage::Hold => self.flights[self.writing].stage = Stage::Body,
            // RFC 2920 §3.1: a 354 without a recipient is answered with a lone dot.
            Stage::Body if !options.chunking && flight.recipients.accepted == 0 => {
                self.end(out, Command::Dot);
                self.ended(out);
            }
            // The message was refused while the dialogue waited for the next one.
            Stage::Body if options.chunking && !flight.is_begun() && flight.is_pointless(options) => {
                self.over();
            }
            // The next message should be available when this one ends.
            Stage::Body
                if !flight.is_begun() && self.is_last() && self.may_join() && self.supply == Supply::Open =>
            {
                return Some(Want::Message);
            }
            Stage::Body => match self.flights[self.writing].take_content() {
                Some(content) => self.fill_content(content, out),
                None => return Some(Want::Body(self.over + self.writing)),
            },
            Stage::Over => self.over(), // not reached: `over` goes on to the next flight
        }
        None
    }

    /// Returns whether no other flight follows the one being written.
    fn is_last(&self) -> bool {
        self.writing + 1 == self.flights.len()
    }

    fn fill_envelope(&mut self, mut number: usize, out: &mut Outbox) {
        let options = self.options;
        let flight = &mut self.flights[self.writing];
        if flight.is_pointless(options) {
            self.over();
            return;
        }
        if number == 0 {
            flight.envelope_sent = if self.writing > 0 { EnvelopeSent::Joined } else { EnvelopeSent::Alone };
            if self.leftover == Leftover::Nothing {
                flight.replies = Replies::without_reset();
                number = 1;
            }
        }
        let is_last = number >= flight.content_number();
        flight.stage = if is_last { Stage::Hold } else { Stage::Envelope(number + 1) };
        match flight.step(number, options) {
            Step::Reset => {
                self.leftover = Leftover::Nothing;
                flight.ask(out, |_| Command::Reset);
            }
            Step::Mail => {
                let Transaction { parameters, is_checked, .. } = flight.transaction;
                self.encoder = Encoder::of(parameters, options.chunking).checked(is_checked);
                flight.ask(out, |Transaction { envelope, parameters, .. }| {
                    Command::Mail(envelope.sender(), *parameters, envelope.mail_options())
                });
            }
            Step::Recipient(index) => flight.ask(out, |Transaction { envelope, .. }| {
                Command::Rcpt(&envelope.recipients()[index], envelope.options_of(index))
            }),
            Step::Data => flight.ask(out, |_| Command::Data),
            // LMTP: the number of replies to a BDAT is known only once the recipients are.
            Step::Chunk | Step::End => {
                let safe = options.joining == Joining::Works || flight.envelope_sent == EnvelopeSent::Alone;
                if flight.transaction.ahead && safe && !options.lmtp {
                    flight.stage = Stage::Body;
                }
                return;
            }
        }
        self.due += 1;
    }

    /// Sends all of the content at once.
    fn fill_content(&mut self, mut content: Vec<u8>, out: &mut Outbox) {
        if self.options.chunking {
            self.end(out, Command::Bdat(content.len(), true));
            out.put_chunk(&mut content);
        } else {
            out.put_whole(&mut content);
            self.end(out, Command::Dot);
        }
        self.ended(out);
        if self.spare.len() < MAX_SPARE {
            self.spare.push(content);
        }
    }

    /// Puts the command that ends the content into `out`.
    fn end(&mut self, out: &mut Outbox, command: Command<'_>) {
        let flight = &mut self.flights[self.writing];
        flight.span.reply = Some(flight.replies.asked);
        flight.span.from = flight.is_begun().then(|| out.end());
        out.put(command);
        let replies = if self.options.lmtp { flight.recipients.accepted } else { 1 };
        out.expect_more(replies.saturating_sub(1));
        flight.replies.asked += replies;
        self.due += replies;
    }

    /// Ends the flight, which is completely in the outbox. QUIT may follow.
    fn ended(&mut self, out: &mut Outbox) {
        let flight = &mut self.flights[self.writing];
        flight.span.to = out.end();
        // The connection is still needed if some recipients may have to wait for another transaction.
        let more = flight.may_go_again();
        if self.options.farewell && self.supply == Supply::Dry && self.is_last() && !more {
            out.put_farewell();
            self.said_farewell = true;
        }
        self.over();
    }

    /// Goes on to the next flight, because nothing more of this one is to be written.
    fn over(&mut self) {
        let flight = &mut self.flights[self.writing];
        // Some servers keep a transaction open after a chunk that they refuse.
        self.leftover = Leftover::maybe(flight.span.reply.is_none() || self.options.chunking);
        flight.stage = Stage::Over;
        self.writing += 1;
        self.chunk.clear();
        self.settle();
    }

    /// Returns whether nothing has been sent of the second flight.
    fn is_next_unsaid(&self) -> bool {
        self.flights.get(1).is_none_or(|next| next.stage == Stage::Envelope(0))
    }

    /// Restarts the first flight from its envelope, alone.
    fn rearm(&mut self, leftover: Leftover) {
        if let Some(flight) = self.flights.pop_front() {
            self.flights.push_front(flight.restarted());
        }
        (self.writing, self.due, self.leftover) = (0, 0, leftover);
    }

    /// Stores the result of the first flight, if it is over and all its replies have arrived.
    fn settle(&mut self) {
        let Some(first) = self.flights.front() else { return };
        if !first.is_answered() {
            return;
        }
        match first.envelope_sent {
            EnvelopeSent::Alone => {}
            EnvelopeSent::Joined => self.options.joining = Joining::Works,
            EnvelopeSent::TurnedAway => self.options.joining = Joining::Off,
        }
        if first.stage != Stage::Over {
            return;
        }
        let turned_away = first.envelope_sent == EnvelopeSent::TurnedAway && first.recipients.accepted == 0;
        if turned_away && self.is_next_unsaid() {
            self.rearm(Leftover::Maybe);
            return;
        }
        if self.is_next_unsaid() {
            self.leftover = Leftover::maybe(!first.answer.is_accepted());
        }
        self.writing -= 1;
        self.over += 1;
        let (options, again) = (self.options, first.again(self.options));
        let result = self.flights.pop_front().map(|flight| flight.into_result(options, false, None, None));
        if let Some(mut result) = result {
            if let Some(again) = again {
                mark(&mut result, again);
            }
            self.results.push_back(result);
        }
    }

    /// Returns whether the server handles pipelined commands, as far as is known.
    pub(crate) fn pipelines(&self) -> bool {
        self.options.pipelining
    }

    /// Handles the reply to the RSET that an envelope begins with.
    fn on_reset(&mut self, reply: ReplyRef<'_>, verdict: Verdict) -> Result<(), Error> {
        if verdict == Verdict::Done {
            return Ok(());
        }
        let options = self.options;
        let flight = &mut self.flights[0];
        if !flight.is_turned_away(reply.code(), options) {
            return Err(self.not_reset(reply));
        }
        flight.envelope_sent = EnvelopeSent::TurnedAway;
        flight.answer.refuse(Phase::Reset, reply.keep());
        Ok(())
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

    fn on_data(&mut self, reply: ReplyRef<'_>, verdict: Verdict) -> Result<(), Error> {
        let options = self.options;
        let flight = &mut self.flights[0];
        let contradicted = matches!(flight.answer, Answer::Contradicted(..));
        match verdict {
            Verdict::Continue if contradicted || options.lmtp && flight.recipients.accepted == 0 => {
                Err(self.misplaced(reply))
            }
            Verdict::Continue => {
                flight.stage = Stage::Body;
                Ok(())
            }
            Verdict::Refused => {
                if !flight.is_pointless(options) {
                    flight.answer.refuse(Phase::Data, reply.keep());
                }
                self.over();
                Ok(())
            }
            _ => Err(self.misplaced(reply)),
        }
    }

    /// Handles the reply to a chunk that was not the last.
    fn on_chunk(&mut self, reply: ReplyRef<'_>, verdict: Verdict) -> Result<(), Error> {
        let options = self.options;
        let flight = &mut self.flights[0];
        match verdict {
            Verdict::Done => Ok(()),
            Verdict::Refused => {
                if !flight.is_pointless(options) {
                    flight.answer.refuse(Phase::Body, reply.keep());
                }
                if flight.stage != Stage::Over {
                    self.over();
                }
                Ok(())
            }
            _ => Err(self.misplaced(reply)),
        }
    }

    /// Handles the reply to the end of the message, or with LMTP, one of the replies.
    fn on_end(&mut self, reply: ReplyRef<'_>, verdict: Verdict, out: &Outbox) -> Result<(), Error> {
        let lmtp = self.options.lmtp;
        let flight = &mut self.flights[0];
        let all_left = out.octets_written() >= flight.span.to;
        let has_recipients = flight.recipients.accepted > 0;
        match verdict {
            Verdict::Done if !all_left || flight.is_contradicted() => return Err(self.misplaced(reply)),
            Verdict::Done if !has_recipients => {} // an empty message that nobody receives
            Verdict::Done if lmtp => flight.accept_final(reply),
            Verdict::Done => flight.answer = Answer::Accepted(reply.keep()),
            Verdict::Refused if lmtp && all_left => flight.recipients.refuse_final(reply),
            Verdict::Refused => {
                if has_recipients && flight.answer.refusal().is_none() {
                    flight.answer.refuse(Phase::End, reply.keep());
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
            _ if self.leftover == Leftover::Resetting => Phase::Reset,
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
            if self.leftover == Leftover::Resetting {
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
        if self.leftover == Leftover::Resetting {
            if Verdict::of(reply, Phase::Reset) != Verdict::Done {
                return Err(self.not_reset(reply));
            }
            self.leftover = Leftover::Nothing;
            return Ok(());
        }
        let Some(first) = self.flights.front_mut().filter(|first| !first.is_answered()) else {
            return Err(self.on_early(reply));
        };
        let number = first.replies.heard;
        let step = first.step(number, options);
        let phase = step.phase();
        let verdict = Verdict::of(reply, phase);
        if reply.closes(phase) {
            // 221 says nothing about a message that was sent. With LMTP, 421 says nothing about the other recipients.
            let decides = step == Step::End && first.recipients.accepted > 0;
            if !(decides && (options.lmtp || verdict == Verdict::Closing)) {
                self.closing = Some(reply.keep());
            }
            if !decides || verdict == Verdict::Closing {
                return Err(Error::Refused { phase, reply: reply.keep() });
            }
        }
        let of_envelope = number <= first.content_number() && (step != Step::End || options.chunking);
        self.due = self.due.saturating_sub(1);
        if of_envelope {
            // What the reply reveals about pipelining, and about the number of recipients.
            if verdict == Verdict::Refused {
                first.note_refusal(number, reply, options);
            } else if first.transaction.one_by_one == Some(number) {
                // The command was refused when it was sent with others, and is accepted alone.
                (self.options.pipelining, self.options.joining) = (false, Joining::Off);
            } else {
                first.note_acceptance(step);
            }
        }
        let is_answer = match step {
            Step::Mail => first.on_mail(reply, verdict, options),
            Step::Recipient(index) => first.on_recipient(index, reply, verdict),
            Step::Reset => self.on_reset(reply, verdict).map(|()| true)?,
            Step::Data => self.on_data(reply, verdict).map(|()| true)?,
            Step::Chunk => self.on_chunk(reply, verdict).map(|()| true)?,
            Step::End => self.on_end(reply, verdict, out).map(|()| true)?,
        };
        if !is_answer {
            return Err(self.misplaced(reply));
        }
        // The first flight is still there: it is not settled before this reply is counted.
        let first = &mut self.flights[0];
        first.replies.heard += 1;
        if first.is_answered() {
            self.settle();
        }
        Ok(())
    }

    fn on_early(&mut self, reply: ReplyRef<'_>) -> Error {
        let phase = match self.flights.front() {
            // Nothing was sent, not even the RSET that its numbers would begin with.
            Some(first) if first.stage == Stage::Envelope(0) && self.leftover == Leftover::Nothing => {
                Phase::Mail
            }
            _ => self.phase(),
        };
        let flight = self.flights.front_mut().filter(|flight| flight.recipients.accepted > 0);
        // No reply is due, so an end that was reached has not been offered yet.
        let flight = flight.filter(|flight| flight.stage == Stage::Body || flight.span.reply.is_some());
        let phase = if flight.is_some() { Phase::Body } else { phase };
        let refused = Error::Refused { phase, reply: reply.keep() };
        match flight {
            _ if reply.closes(phase) => self.closing = Some(reply.keep()),
            // The server will not accept the rest of the message.
            Some(flight) if reply.is_negative() => flight.answer.refuse(Phase::Body, reply.keep()),
            _ => return Error::protocol(phase, format!("unsolicited reply: {reply}")),
        }
        refused
    }

    fn body(&mut self, piece: &[u8], out: &mut Outbox) -> Result<(), Error> {
        let chunking = self.options.chunking;
        let wanted = |flight: &&mut Flight| {
            let at_hand = matches!(flight.content, Content::AtHand(_));
            flight.stage == Stage::Body && !at_hand && (chunking || flight.recipients.accepted > 0)
        };
        let Some(flight) = self.flights.get_mut(self.writing).filter(wanted) else {
            return Err(Error::Internal("content was passed when none was wanted"));
        };
        flight.content = Content::Begun;
        match (chunking, piece.is_empty()) {
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
            self.flights[self.writing].ask(out, |_| Command::Bdat(octets, false));
            self.due += 1;
            out.put_chunk(&mut self.chunk);
        }
    }
}
