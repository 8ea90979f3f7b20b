//! Sends many messages over one connection: each envelope is sent with the end of the previous message, if the server
//! allows it.

use std::{
    collections::VecDeque,
    fmt,
    ops::DerefMut,
    time::{Duration, Instant},
};

use super::{
    body::Source,
    call::{Call, Clock, Kind},
    known::OpenTransaction,
    link::Condition,
    maybe_async,
    send::{Freshness, MAX_AHEAD, goes_elsewhere, set_timings, still_not_sent},
    session::Client,
};
use crate::{
    Delivery, Envelope, Error, EventKind, Mail, Outcome, Phase,
    message::Body,
    proto::{End, Joining, Transactions, Want},
    split::Parts,
    time::later,
};

/// Maximum number of messages that are under way or whose results have not been taken. No further message is started
/// until results are taken.
const MAX_ENTRIES: usize = 1024;

/// A batch of messages sent over one connection; returned by [`Client::send_all`] and [`Client::batch`]. `C` is the
/// client: `&mut Client` or [`Pooled`](super::Pooled).
///
/// [`next`](Batch::next) returns the result of each message, in order. While the server processes one message, the next
/// one is already being sent. A message that is refused, or cannot be sent to this server, does not affect the others;
/// its result is the error that [`Client::send`] would return.
///
/// A batch that sends nothing changes nothing: the client can even continue a transaction that was begun with [single
/// commands](Client::mail).
///
/// # The iterator
///
/// An iterator that is certain to have another message (the lower bound of its [`size_hint`](Iterator::size_hint) is
/// above 0, as for a `Vec`) is asked for it early, so that its envelope can be sent together with the end of the
/// previous message.
///
/// Any other iterator may block, as a channel's `iter` does. Such an iterator is asked only after all available data
/// has been written. The next message then needs an extra write, but no extra round trip. While the iterator blocks, no
/// results are returned. The time that such an iterator takes counts towards neither the
/// [`deadline`](super::Builder::deadline) nor [`Delivery::timings`]. If results must not wait for the next message, use
/// [`push`](Batch::push).
///
/// An iterator is not asked again after it has returned `None`.
///
/// # When the server ends the session
///
/// If the server accepts no more messages over the connection, the batch continues over a new one, under the conditions
/// described in [`send`](Client::send). Messages that the server refused for this reason are sent over the new
/// connection. Recipients beyond the server's limit get the message in later transactions. The results stay in order.
///
/// # When the connection is lost
///
/// When the connection is lost, the messages that were under way are *not sent* or *in doubt*, and those that were
/// [pushed](Batch::push) are *not sent*. Each of them gets a result. After these results, `next` returns `None`, and
/// [`is_lost`](Batch::is_lost) returns true.
///
/// Nothing more is taken from the iterator, with one exception: if no message was under way or waiting, the next
/// message is taken and reported as *not sent*, so that a result reports the loss. To keep the remaining messages, pass
/// the iterator by reference: `send_all(mails.by_ref())`.
///
/// Some servers discard an envelope that was sent together with the end of the previous message. If nothing else was
/// lost, the batch reconnects automatically, under the conditions described in [`send`](Client::send). From then on, it
/// sends each envelope only after the reply to the previous message.
///
/// # Dropping
///
/// If a batch is dropped with messages under way, their results are lost, and the connection can no longer be used. To
/// get the results, call [`finish`](Batch::finish) first.
///
/// In the async client, dropping a `next` future loses no results: call `next` again. The connection is closed only
/// if the dropped future was reconnecting, sending a message in several transactions, or sending content that is long
/// or comes from a file or a reader. The results report what happened to each message. Content that can be
/// read only once can be sent again if it has not been read.
#[doc = example!(Batch)]
#[must_use = "a batch sends nothing unless `next` is called"]
pub struct Batch<C: DerefMut<Target = Client>, M, I> {
    client: C,
    call: Call,
    machine: Machine,
    supply: Supply<M, I>,
    ledger: Ledger<M>,
    /// A message that has to be sent alone, once the others have their results.
    alone: Option<(M, Envelope)>,
    /// The step under way, if only the future that began it can continue it.
    midway: Option<Midway>,
    line: Line,
    /// Why no other connection could be made, if no result has reported the reason yet.
    cause: Option<Error>,
}

/// The dialogue of all messages on one connection.
struct Machine {
    /// Created again when the first message is passed to the machine.
    talk: Transactions,
    /// Number of messages passed to the machine.
    posted: usize,
    /// Number of results taken from the machine.
    answered: usize,
}

/// Where messages come from.
struct Supply<M, I> {
    /// The caller's iterator; `None` once it must not be asked again.
    mails: Option<I>,
    /// Messages that were pushed, or taken from the iterator, and are not yet under way.
    waiting: VecDeque<M>,
    intake: Intake,
}

/// Whether messages are taken from the supply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intake {
    Open,
    /// No message is taken until the caller takes a result: there are [`MAX_ENTRIES`] entries.
    Paused,
}

/// The messages under way and the results not yet returned, in the order of the messages.
struct Ledger<M> {
    /// Messages that are under way, or whose result has not been returned yet.
    entries: VecDeque<Entry<M>>,
    /// Number of entries at the front that have their result.
    settled: usize,
    /// Number of results returned so far.
    given: usize,
    /// No entry before this index has to be passed to the machine again.
    resume: usize,
}

/// The state of the connection, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Works,
    /// The server accepts no more messages over this connection. Another connection takes over if a message is left.
    Spent,
    /// The server has ended the session. Another connection takes over if a message is left.
    Ended,
    /// The connection is lost, and no result has reported the loss yet.
    Lost,
    LossTold,
}

impl Line {
    /// Returns the state after this result was recorded, which may report the loss of the connection.
    fn after(self, result: &Result<Delivery, Error>) -> Line {
        let tells = |error: &Error| error.delivery().is_some_and(|d| d.outcome() != Outcome::Refused);
        if self == Line::Lost && result.as_ref().is_err_and(tells) { Line::LossTold } else { self }
    }
}

enum Entry<M> {
    /// Under way. `number` is the message's number in the machine. `letter` is `None` while the content is being sent.
    Under {
        number: usize,
        letter: Option<Letter<M>>,
        /// The results so far, if the message takes several transactions and its letter was lost with a dropped future.
        parts: Option<Box<Parts>>,
    },
    /// A message to be passed to the machine again, and the result to return if that fails.
    Again(Letter<M>, Result<Delivery, Error>),
    Done(Result<Delivery, Error>),
}

/// A message, and what is known about it.
struct Letter<M> {
    mail: M,
    /// The opened body, if it must not be opened again. Boxed, because few messages have one.
    opened: Option<Box<Opened>>,
    /// The results so far, if the message takes several transactions.
    parts: Option<Box<Parts>>,
}

/// A step that only the future that began it can continue.
enum Midway {
    /// Sending the content of the message with this number in the machine.
    Content {
        number: usize,
        /// The message's position in the ledger.
        at: usize,
        /// The results so far, if the message takes several transactions.
        parts: Option<Box<Parts>>,
    },
    /// Connecting.
    Connection,
    /// Sending a message alone.
    Alone,
}

/// A body that was opened, and must not be opened again.
struct Opened {
    body: Body<'static>,
    /// Whether it has a progress callback.
    watched: bool,
}

impl Client {
    /// Sends all messages from an iterator over this connection. With PIPELINING, each message takes two round trips,
    /// or about one if the [`JoinPolicy`](crate::JoinPolicy) allows joining envelopes, or almost none if
    /// [`Builder::chunking`](super::Builder::chunking) is also set.
    ///
    /// Nothing happens until [`Batch::next`] is called. If a message cannot be sent to this server (see
    /// [`send`](Client::send)), its result is an error; the others are sent.
    ///
    /// An iterator whose `size_hint` does not promise another message may block, so it is asked for one only after all
    /// available data has been written; see [`Batch`]. If the connection is lost, the remaining messages stay in the
    /// iterator. To keep them, pass the iterator by reference.
    pub fn send_all<M: Mail, I: IntoIterator<Item = M>>(
        &mut self,
        mails: I,
    ) -> Batch<&mut Client, M, I::IntoIter> {
        Batch::new(self, mails.into_iter())
    }

    /// Sends messages over this connection as they become available, in the same way as [`send_all`](Client::send_all).
    /// Add them with [`Batch::push`].
    pub fn batch<M: Mail>(&mut self) -> Batch<&mut Client, M, std::iter::Empty<M>> {
        self.send_all(std::iter::empty())
    }
}

impl<C: DerefMut<Target = Client>, M, I> Batch<C, M, I> {
    pub(super) fn new(mut client: C, mails: I) -> Batch<C, M, I> {
        client.settle_interrupted();
        let talk = Transactions::new(client.options(), false);
        let line = if client.usable(Phase::Mail).is_ok() { Line::Works } else { Line::Lost };
        Batch {
            client,
            call: Call::new(Kind::Batch, None),
            machine: Machine { talk, posted: 0, answered: 0 },
            supply: Supply { mails: Some(mails), waiting: VecDeque::new(), intake: Intake::Open },
            ledger: Ledger { entries: VecDeque::new(), settled: 0, given: 0, resume: 0 },
            alone: None,
            midway: None,
            line,
            cause: None,
        }
    }

    /// Returns whether the connection is lost. If so, nothing more is sent. [`next`](Batch::next) returns the remaining
    /// results. To report the loss, it may take one more message from the iterator.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self.line, Line::Lost | Line::LossTold) || self.is_stuck()
    }

    /// Records in the client whether the server may have a transaction open, if anything was sent.
    fn give_back(&mut self) {
        if self.machine.posted > 0 {
            self.client.history.open = OpenTransaction::left(self.machine.talk.is_open());
        }
    }

    /// Returns whether a `next` future was dropped at a point from which no other future can continue.
    fn is_stuck(&self) -> bool {
        match &self.midway {
            Some(Midway::Content { number, .. }) => !self.machine.talk.is_said(*number), // else it awaits its reply
            Some(Midway::Connection | Midway::Alone) => true,
            None => false,
        }
    }
}

impl<C: DerefMut<Target = Client>, M: Mail, I: Iterator<Item = M>> Batch<C, M, I> {
    /// Adds a message, which is sent when [`next`](Batch::next) is called, after those that were pushed earlier and
    /// before the remaining messages of the iterator.
    pub fn push(&mut self, mail: M) {
        self.supply.waiting.push_back(mail);
        self.machine.talk.more();
    }

    /// Returns the number of messages that are waiting or under way, not counting those still in the iterator.
    #[must_use]
    pub fn pending(&self) -> usize {
        let under = self.ledger.entries.iter().filter(|entry| !matches!(entry, Entry::Done(_))).count();
        self.supply.waiting.len() + under + usize::from(self.alone.is_some())
    }

    /// Returns whether asking for the next message cannot block, even if no message is left.
    fn is_at_hand(&self) -> bool {
        let hint = self.supply.mails.as_ref().map(I::size_hint);
        !self.supply.waiting.is_empty() || matches!(hint, None | Some((1.., _) | (_, Some(0))))
    }

    /// Makes the next message available at the front of the queue. Returns false if no message is left.
    fn fetch(&mut self) -> bool {
        let asked = if self.is_at_hand() { None } else { Some(Instant::now()) };
        if self.supply.waiting.is_empty() {
            let next = self.supply.mails.as_mut().and_then(I::next);
            if next.is_none() {
                self.supply.mails = None;
            }
            self.supply.waiting.extend(next);
        }
        // The time taken by the caller's iterator must not count as the server's.
        if let Some(waited) = asked.map(|asked| asked.elapsed()) {
            self.call.deadline = self.call.deadline.map(|deadline| later(deadline, waited));
            self.call.clock.skip(waited);
        }
        !self.supply.waiting.is_empty()
    }

    /// Returns the next message that will not be sent because the connection is lost. A message is taken from the
    /// iterator only if no other result reports the loss.
    fn next_unsent(&mut self) -> Option<M> {
        if let Some((mail, _)) = self.alone.take() {
            return Some(mail);
        }
        if self.line == Line::Lost {
            self.fetch();
        }
        self.supply.waiting.pop_front()
    }

    /// Returns the position in the ledger of the message that has this number in the machine.
    fn place_of(&self, wanted: usize) -> Option<usize> {
        // It is usually the first entry without a result.
        let entries = &self.ledger.entries;
        (self.ledger.settled..entries.len())
            .find(|at| matches!(entries[*at], Entry::Under { number, .. } if number == wanted))
    }

    /// Records the result of the next message under way, which arrived at `now`. `ended` means that another connection
    /// takes over, so that the message may be sent again over it.
    fn settle(&mut self, mut result: Result<Delivery, Error>, ended: bool, now: Instant) {
        set_timings(&mut result, self.call.clock.lap(now));
        let place = self.place_of(self.machine.answered);
        self.machine.answered += 1;
        let Some(at) = place else { return };
        let entry = &mut self.ledger.entries[at];
        let Entry::Under { letter, parts, .. } = entry else { return }; // never: `place_of` has found one
        let is_whole = parts.is_none() && letter.as_ref().is_none_or(|letter| letter.parts.is_none());
        if is_whole && result.as_ref().is_ok_and(|delivery| !delivery.goes_again()) {
            *entry = Entry::Done(result); // the usual case
        } else {
            let (letter, parts) = (letter.take(), parts.take());
            self.settle_otherwise(at, letter, parts, result, ended);
        }
        while matches!(self.ledger.entries.get(self.ledger.settled), Some(Entry::Done(_))) {
            self.ledger.settled += 1;
        }
    }

    /// Records the result of a message that may be sent again, or that takes several transactions.
    fn settle_otherwise(
        &mut self,
        at: usize,
        letter: Option<Letter<M>>,
        parts: Option<Box<Parts>>,
        mut result: Result<Delivery, Error>,
        ended: bool,
    ) {
        if let Some(parts) = parts {
            result = end_of(*parts, result);
        }
        match letter {
            Some(letter) => self.reconsider(at, letter, result, ended),
            None => self.ledger.entries[at] = Entry::Done(result),
        }
        if let Entry::Done(result) = &self.ledger.entries[at] {
            self.line = self.line.after(result);
        }
    }

    /// Decides whether a message that has a result is sent again, as a whole or in part. If not, stores the result.
    fn reconsider(
        &mut self,
        at: usize,
        mut letter: Letter<M>,
        mut result: Result<Delivery, Error>,
        ended: bool,
    ) {
        letter.opened = None; // what was not read is returned to the message
        if ended && goes_elsewhere(&result) {
            self.client.tell_retried(&result);
            self.send_again(at, letter, result);
            return;
        }
        let again = self.client.take_again(&mut result, &letter.mail);
        let parts = match (letter.parts.take(), again) {
            (Some(mut parts), again) => {
                parts.settle(result, again);
                parts
            }
            (None, Some(again)) => match envelope_of(&result) {
                Some(envelope) => Box::new(Parts::after(envelope, result, again)),
                None => return, // never: a message that may be sent again has an envelope
            },
            (None, None) => {
                self.ledger.entries[at] = Entry::Done(result);
                return;
            }
        };
        if parts.next().is_some() {
            letter.parts = Some(parts);
            self.send_again(at, letter, Err(NO_RESULT));
        } else {
            self.ledger.entries[at] = Entry::Done(parts.finish());
        }
    }

    fn send_again(&mut self, at: usize, letter: Letter<M>, result: Result<Delivery, Error>) {
        self.ledger.entries[at] = Entry::Again(letter, result);
        (self.ledger.resume, self.ledger.settled) = (self.ledger.resume.min(at), self.ledger.settled.min(at));
        self.machine.talk.more();
    }

    /// Returns the first message that has to be passed to the machine again.
    fn first_again(&mut self) -> Option<usize> {
        let entries = &self.ledger.entries;
        let found = (self.ledger.resume..entries.len()).find(|at| matches!(entries[*at], Entry::Again(..)));
        self.ledger.resume = found.unwrap_or(entries.len());
        found
    }

    /// Records why no other connection could be made. The first message that waits for one reports this as its cause.
    fn record_no_connection(&mut self, why: Error) {
        let Some(at) = self.first_again() else {
            self.cause = Some(why);
            return;
        };
        if let Entry::Again(letter, result) = &mut self.ledger.entries[at] {
            match &mut letter.parts {
                Some(parts) => parts.fail(why),
                None => {
                    let turned_away = std::mem::replace(result, Err(NO_RESULT));
                    *result = still_not_sent(turned_away, why);
                }
            }
        }
    }

    /// Records the result of a message that was to be sent again but cannot be.
    fn give_up(&mut self, at: usize) {
        let result = match &mut self.ledger.entries[at] {
            Entry::Again(letter, result) => match letter.parts.take() {
                Some(parts) => parts.finish(),
                None => std::mem::replace(result, Err(NO_RESULT)),
            },
            _ => return,
        };
        self.line = self.line.after(&result);
        self.ledger.entries[at] = Entry::Done(result);
    }

    fn take_results(&mut self) {
        let now = Instant::now();
        while let Some(result) = self.machine.talk.next_result() {
            self.client.settle(result.is_ok(), now);
            // MAIL was answered with 452. Messages passed to the machine earlier still get their replies here.
            let ended = goes_elsewhere(&result) && self.client.may_take_over(Some(End::Announced), false);
            if ended && self.line == Line::Works {
                self.line = Line::Spent;
            }
            self.settle(result, ended, now);
        }
        if self.client.link.pace.is_stalled() {
            self.machine.talk.one_at_a_time();
        }
        self.client.learn_from(&self.machine.talk);
    }

    /// Handles the loss of the connection. Messages that may be sent over another connection wait for it.
    fn fail(&mut self, broke: Error) {
        let end = End::of(&broke);
        self.machine.talk.lose(self.client.link.out.octets_offered(), broke);
        let results: Vec<_> = std::iter::from_fn(|| self.machine.talk.next_result()).collect();
        let in_doubt = results.iter().any(|result| result.as_ref().is_err_and(Error::in_doubt));
        let ended = self.client.may_take_over(end, in_doubt);
        self.line = if ended { Line::Ended } else { Line::Lost };
        let now = Instant::now();
        results.into_iter().for_each(|result| self.settle(result, ended, now));
    }

    /// Starts a new dialogue with no message under way, because the connection may be new and its server may differ.
    fn begin_anew(&mut self) {
        self.line = if self.client.link.is_usable() { Line::Works } else { Line::Lost };
        self.machine.talk = Transactions::new(self.client.options(), false);
        (self.machine.posted, self.machine.answered) = (0, 0);
        (self.call.kind, self.call.clock) = (Kind::Batch, Clock::start());
    }

    /// Returns whether there is a message to send.
    fn has_more(&mut self) -> bool {
        self.first_again().is_some() || self.alone.is_some() || self.fetch()
    }

    /// Keeps the results so far of a message in several transactions whose content a dropped future was sending.
    fn keep_parts(&mut self) {
        let Some(Midway::Content { at, parts, .. }) = &mut self.midway else { return };
        let (at, Some(parts)) = (*at, parts.take()) else { return };
        match self.ledger.entries.get_mut(at) {
            Some(Entry::Under { parts: place, .. }) => *place = Some(parts),
            Some(Entry::Done(result)) => *result = end_of(*parts, std::mem::replace(result, Err(NO_RESULT))),
            Some(Entry::Again(..)) | None => {}
        }
    }

    /// Ends the step that a dropped future of `next` left unfinished and that no other future can continue.
    fn abandon(&mut self) {
        let was_alone = matches!(self.midway, Some(Midway::Alone));
        self.client.close();
        self.client.sending.forget(); // reported below
        self.fail(Error::NotConnected);
        if let Some((_, envelope)) = self.alone.take_if(|_| was_alone) {
            let doubt = Outcome::InDoubt;
            let delivery = Delivery::new(envelope, doubt, doubt, None, Vec::new());
            self.ledger.entries.push_back(Entry::Done(Err(lost(delivery, Error::NotConnected))));
        }
    }
}

/// Returns the result of a message that ends with this transaction, although others were to follow.
fn end_of(mut parts: Parts, result: Result<Delivery, Error>) -> Result<Delivery, Error> {
    parts.settle(result, None);
    parts.finish()
}

/// Returns the envelope of a message that has its result.
fn envelope_of(result: &Result<Delivery, Error>) -> Option<Envelope> {
    match result {
        Ok(delivery) => Some(delivery.envelope().clone()),
        Err(e) => e.delivery().map(|delivery| delivery.envelope().clone()),
    }
}

/// Passes a message to the machine, which is created again for the first one. Returns the opened body, if it must not
/// be opened again.
fn hand_over(
    client: &mut Client,
    (talk, is_first): (&mut Transactions, bool),
    envelope: Envelope,
    one_by_one: Option<usize>,
    body: Body<'_>,
) -> Result<Option<Box<Opened>>, Error> {
    let (transaction, content) = client.transaction(envelope, &body)?;
    if is_first {
        // Not earlier: a batch that sends nothing must change nothing.
        *talk = Transactions::new(client.options(), client.is_open());
    }
    let transaction = transaction.one_by_one(one_by_one);
    // Small content is passed on with its envelope. Other content may be opened again, and checked again, later.
    let opened = match content.filter(|content| content.octets <= MAX_AHEAD && !body.is_watched()) {
        Some(content) => {
            talk.message_with(transaction, content)?;
            None
        }
        None => {
            talk.message(transaction);
            let watched = body.is_watched();
            body.into_once().map(|body| Box::new(Opened { body, watched }))
        }
    };
    client.link.begun += 1;
    client.history.open = OpenTransaction::None; // the machine knows about it, and begins with RSET
    Ok(opened)
}

/// Placeholder for a result that was moved out, until another one replaces it.
const NO_RESULT: Error = Error::Internal("a message has no result");

/// Returns the error of a message that was not sent. `why` is the reason for the lack of a connection, if known.
fn not_sent<M: Mail>(mail: &M, why: Option<Error>) -> Error {
    let envelope = match mail.envelope() {
        Ok(envelope) => envelope,
        Err(e) => return e,
    };
    lost(Delivery::not_sent(envelope), why.unwrap_or(Error::NotConnected))
}

fn lost(delivery: Delivery, why: Error) -> Error {
    Error::Transaction { delivery: Box::new(delivery), source: Box::new(why) }
}

#[maybe_async]
impl<C: DerefMut<Target = Client>, M: Mail, I: Iterator<Item = M>> Batch<C, M, I> {
    /// Returns the result of the next message, with its index, counted from 0. Returns `None` when no message is left
    /// (until another is [pushed](Batch::push)), or when the connection [is lost](Batch::is_lost) and all results have
    /// been returned.
    ///
    /// The builder's [`deadline`](super::Builder::deadline) applies to each call to `next`, not to the batch as a
    /// whole.
    #[allow(clippy::should_implement_trait)] // the blocking batch is also an `Iterator`
    pub async fn next(&mut self) -> Option<(usize, Result<Delivery, Error>)> {
        self.keep_parts();
        if self.is_stuck() {
            self.abandon();
        }
        self.midway = None;
        (self.call.deadline, self.call.kind) = (self.client.take_deadline(), Kind::Batch);
        loop {
            if let Some(Entry::Done(result)) = self.ledger.entries.front() {
                self.client.tell_result(result);
                self.ledger.given += 1;
                self.ledger.settled = self.ledger.settled.saturating_sub(1);
                self.ledger.resume = self.ledger.resume.saturating_sub(1);
                if std::mem::replace(&mut self.supply.intake, Intake::Open) == Intake::Paused {
                    self.machine.talk.more();
                }
                return match self.ledger.entries.pop_front() {
                    Some(Entry::Done(result)) => Some((self.ledger.given - 1, result)),
                    _ => None, // never: it is the one above
                };
            }
            if self.line == Line::Ended {
                if !self.has_more() {
                    return None;
                }
                self.take_over().await;
                continue;
            }
            if matches!(self.line, Line::Lost | Line::LossTold) {
                if let Some(at) = self.first_again() {
                    self.give_up(at);
                    continue;
                }
                let mail = self.next_unsent()?;
                let unsent = Err(not_sent(&mail, self.cause.take()));
                self.line = self.line.after(&unsent);
                self.ledger.entries.push_back(Entry::Done(unsent));
                continue;
            }
            let step = self.client.go_on(&mut self.call, &mut self.machine.talk, None).await;
            match step {
                Ok(Want::Result) => self.take_results(),
                Ok(Want::Message) => self.post().await,
                Ok(Want::Body(number)) => self.write(number).await,
                Ok(_) if self.line == Line::Spent && self.has_more() => self.take_over().await,
                Ok(_) if self.alone.is_some() && self.line == Line::Works => self.send_alone().await,
                Ok(_) => return None,
                Err(e) => self.recover(e).await,
            }
        }
    }

    /// Stops taking messages from the iterator, and returns the remaining results, each with its index. Messages that
    /// were already taken from the iterator, and those that were pushed, are still sent.
    pub async fn finish(mut self) -> Vec<(usize, Result<Delivery, Error>)> {
        self.supply.mails = None;
        let mut results = Vec::new();
        while let Some(result) = self.next().await {
            results.push(result);
        }
        results
    }

    /// Takes the next message, and passes its envelope to the machine.
    async fn post(&mut self) {
        if self.client.is_used_up() {
            self.line = Line::Spent;
        }
        let again = self.first_again();
        let is_full = self.ledger.entries.len() >= MAX_ENTRIES && again.is_none();
        self.supply.intake = if is_full { Intake::Paused } else { Intake::Open };
        let may_ask = self.line == Line::Works && !is_full && self.alone.is_none();
        if let Some(at) = again.filter(|_| may_ask) {
            self.post_again(at).await;
            return;
        }
        if may_ask && !self.is_at_hand() && !self.machine.talk.has_said_all(&self.client.link.out) {
            self.machine.talk.later();
            return;
        }
        if !may_ask || !self.fetch() {
            self.machine.talk.no_more();
            return;
        }
        // The message stays in the queue while its file is opened, so that it is not lost if the future is dropped.
        let mail = &self.supply.waiting[0];
        let envelope = match mail.envelope().and_then(|envelope| self.client.offered(envelope)) {
            Ok(envelope) => envelope,
            Err(e) => {
                self.supply.waiting.pop_front();
                self.ledger.entries.push_back(Entry::Done(Err(e)));
                return;
            }
        };
        if !self.client.is_one_part(&envelope) {
            self.alone = self.supply.waiting.pop_front().map(|mail| (mail, envelope));
            self.machine.talk.no_more();
            return;
        }
        let opened = self.client.open_body(&self.call, mail).await;
        let machine = (&mut self.machine.talk, self.machine.posted == 0);
        let posted = opened.and_then(|body| hand_over(&mut self.client, machine, envelope, None, body));
        let mail = self.supply.waiting.pop_front();
        match posted {
            Ok(opened) => {
                let letter = mail.map(|mail| Letter { mail, opened, parts: None });
                self.ledger.entries.push_back(Entry::Under {
                    number: self.machine.posted,
                    letter,
                    parts: None,
                });
                self.machine.posted += 1;
            }
            Err(e) => self.ledger.entries.push_back(Entry::Done(Err(e))),
        }
    }

    /// Passes the message at this position to the machine again. If the message cannot be sent now, its earlier result
    /// is kept.
    async fn post_again(&mut self, at: usize) {
        let Entry::Again(letter, _) = &mut self.ledger.entries[at] else { return };
        let part = letter.parts.as_ref().and_then(|parts| parts.next());
        let (envelope, one_by_one) = match part {
            Some((part, one_by_one)) => (Ok(part), one_by_one),
            None => (letter.mail.envelope(), None),
        };
        let envelope = envelope.and_then(|envelope| self.client.offered(envelope));
        let Some(envelope) = envelope.ok().filter(|envelope| self.client.is_one_part(envelope)) else {
            self.give_up(at);
            return;
        };
        let body = self.client.open_body(&self.call, &letter.mail).await;
        let machine = (&mut self.machine.talk, self.machine.posted == 0);
        let posted = body.and_then(|body| hand_over(&mut self.client, machine, envelope, one_by_one, body));
        let Ok(opened) = posted else {
            self.give_up(at);
            return;
        };
        let under = Entry::Under { number: self.machine.posted, letter: None, parts: None };
        if let Entry::Again(letter, _) = std::mem::replace(&mut self.ledger.entries[at], under) {
            let letter = Some(Letter { opened, ..letter });
            self.ledger.entries[at] = Entry::Under { number: self.machine.posted, letter, parts: None };
        }
        self.machine.posted += 1;
    }

    /// Sends the content of the message with this number. The machine asks for it only once.
    async fn write(&mut self, wanted: usize) {
        // The message is near the end of the ledger, which may have hundreds of entries.
        let is_wanted = |entry: &Entry<M>| matches!(entry, Entry::Under { number, .. } if *number == wanted);
        let at = self.ledger.entries.iter().rposition(is_wanted).unwrap_or_default();
        let letter = match self.ledger.entries.get_mut(at) {
            Some(Entry::Under { letter, .. }) => letter.take(),
            _ => None,
        };
        let sent = match letter {
            Some(mut letter) => {
                // A future that is dropped here loses the message, but not its results so far.
                self.midway = Some(Midway::Content { number: wanted, at, parts: letter.parts.take() });
                let opened = letter.opened.take();
                let sent = self.write_content(wanted, &letter.mail, opened.map(|opened| *opened)).await;
                if let Some(Midway::Content { parts, .. }) = self.midway.take() {
                    letter.parts = parts;
                }
                match self.ledger.entries.get_mut(at) {
                    Some(Entry::Under { letter: place, .. }) => *place = Some(letter),
                    Some(Entry::Done(result)) => {
                        let result = std::mem::replace(result, Err(NO_RESULT));
                        self.reconsider(at, letter, result, self.line == Line::Spent);
                    }
                    Some(Entry::Again(..)) | None => {}
                }
                sent
            }
            None => Err(Error::Internal("content was requested for an unknown message")),
        };
        if let Err(e) = sent {
            self.client.close(); // the server may be waiting for content that will not come
            self.recover(e).await;
        }
    }

    async fn write_content(&mut self, wanted: usize, mail: &M, opened: Option<Opened>) -> Result<(), Error> {
        let offer = self.client.offer();
        let body = match opened {
            // The callback belongs to the mail. If the mail cannot be opened again, no progress is reported.
            Some(Opened { body, watched: true }) => match mail.body_for(offer) {
                Ok(again) => again.opened(body),
                Err(_) => body,
            },
            Some(Opened { body, .. }) => body,
            None => self.client.open_body(&self.call, mail).await?,
        };
        let mut source = Source::new(body);
        while let Want::Result =
            self.client.go_on(&mut self.call, &mut self.machine.talk, Some((wanted, &mut source))).await?
        {
            self.take_results();
            // The results up to this message need not wait for the envelope of the next one.
            if self.machine.talk.is_said(wanted) && self.client.link.out.unsent().is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Handles the loss of the connection. If only a joined envelope was lost, another connection takes over.
    async fn recover(&mut self, broke: Error) {
        // If joining is known to work, the loss means that the server has ended the session.
        let is_trial = self.machine.talk.joining() != Joining::Works;
        let silent = match broke {
            Error::Timeout(_) => self.machine.talk.is_unheard(),
            Error::Closed(_) | Error::Io { .. } => {
                is_trial || !self.client.history.session.has_progress() || !self.machine.talk.is_unheard()
            }
            _ => false,
        };
        if !silent || !self.machine.talk.on_silence() {
            self.fail(broke);
            return;
        }
        if self.client.is_replaceable() {
            self.client.tell(EventKind::Retried { error: &broke }, Duration::ZERO);
        }
        log::debug!(
            target: "postino",
            "#{} a joined envelope was lost: reconnecting, and no longer joining envelopes",
            self.client.link.number
        );
        self.client.origin.settings.config.learnt.learn_joining(Joining::Off);
        let offered = self.client.known.capabilities.clone();
        self.midway = Some(Midway::Connection); // if dropped here, EHLO, TLS and the login are incomplete
        let connected = self.client.again_unasked(&mut self.call).await;
        self.midway = None;
        match connected {
            Ok(()) if self.client.known.capabilities != offered => {
                // The commands of the message were chosen for what the server offered before.
                self.fail(Error::NotConnected);
                self.begin_anew();
            }
            Ok(()) => self.client.link.begun = self.machine.talk.under_way() as u64,
            Err(e) => self.fail(e),
        }
    }

    /// Connects again, with no message under way.
    async fn take_over(&mut self) {
        log::debug!(
            target: "postino",
            "#{} the server accepts no more messages in this session: continuing over another connection",
            self.client.link.number
        );
        self.midway = Some(Midway::Connection);
        self.client.quit_without_waiting();
        let connected = self.client.again_unasked(&mut self.call).await;
        self.midway = None;
        self.begin_anew();
        if let Err(e) = connected {
            self.line = Line::Lost;
            self.record_no_connection(e);
        }
    }

    async fn send_alone(&mut self) {
        self.give_back();
        let Some((mail, envelope)) = &self.alone else { return };
        self.midway = Some(Midway::Alone);
        self.call.kind = Kind::Single; // its phases are measured
        let result = self.client.deliver(&mut self.call, mail, envelope.clone(), Freshness::New).await;
        self.midway = None;
        self.alone = None;
        self.begin_anew();
        self.line = self.line.after(&result);
        self.ledger.entries.push_back(Entry::Done(result));
    }
}

impl<C: DerefMut<Target = Client>, M, I> Drop for Batch<C, M, I> {
    /// Makes the connection usable again, unless a message is still under way.
    fn drop(&mut self) {
        let over = matches!(self.line, Line::Works | Line::Spent) && self.midway.is_none();
        if over && self.machine.talk.under_way() == 0 && self.client.link.out.is_quiet() {
            if self.client.link.condition == Condition::MidDialogue {
                self.client.link.condition = Condition::Usable;
            }
            self.give_back();
        }
    }
}

impl<C: DerefMut<Target = Client>, M, I> fmt::Debug for Batch<C, M, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("given", &self.ledger.given)
            .field("under_way", &self.machine.talk.under_way())
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}
