//! Many messages over one connection: each leaves with the end of the one before.

use std::{collections::VecDeque, fmt, ops::DerefMut, time::Instant};

use super::{
    body::Source,
    maybe_async,
    run::Clock,
    send::{Freshness, goes_elsewhere, still_not_sent, timed},
    session::Client,
};
use crate::{
    Delivery, Envelope, Error, Mail, Outcome, Phase,
    config::later,
    message::Body,
    parts::Parts,
    proto::{End, Joining, Transactions, Want},
};

/// So many messages are under way, or have results that were not taken: then no other is begun.
const MOST_ENTRIES: usize = 1024;

/// Messages on their way over one connection: returned by [`Client::send_all`] and [`Client::batch`]. `C` is what it sends
/// over: `&mut Client`, or a [`Pooled`](super::Pooled) connection.
///
/// [`next`](Batch::next) returns what became of each message, in their order. While the server processes one message, the
/// next one is already being sent. A message that is refused, or cannot be sent to this server, does not affect the others;
/// its error is that of [`Client::send`].
///
/// A batch that sends nothing changes nothing: its client can even go on with a transaction that was begun by
/// [single commands](Client::mail).
///
/// # The iterator
///
/// An iterator that is sure to have another message (the lower bound of its [`size_hint`](Iterator::size_hint) is above 0, as
/// for a `Vec`) is asked for it early, so that its envelope can leave together with the end of the message before.
///
/// Any other iterator may have to wait for a message, as the `iter` of a channel does. It is asked only when everything at
/// hand is written. The next message then takes one more write, and no more round trips. While the iterator blocks, no
/// result is returned. The time it takes counts neither for the [`deadline`](super::Builder::deadline) nor for
/// [`Delivery::timings`]. Where results must not wait for the next message, use [`push`](Batch::push).
///
/// An iterator is not asked again after it has returned `None`.
///
/// # When the server ends the session
///
/// If the server takes no more messages over the connection, another one takes over, under the conditions that
/// [`send`](Client::send) names, and the messages that were not taken are sent over that. Recipients that were too many get
/// their message in further transactions. The results keep their order.
///
/// # When the connection is lost
///
/// The messages that were under way are then *not sent* or *in doubt*, and those that were [pushed](Batch::push) are *not
/// sent*: each has its result. After these results `next` returns `None`, and [`is_lost`](Batch::is_lost) is true.
///
/// Nothing more is taken from the iterator. To keep what is left in it, pass it by reference: `send_all(mails.by_ref())`. At
/// least one result always tells of the loss: if no message was under way, one is taken from the iterator and is *not sent*.
///
/// Some servers throw away an envelope that left with the end of the message before. If that is all that was lost, the batch
/// connects again automatically, where [`send`](Client::send) would, and sends each message alone from then on.
///
/// # Dropping
///
/// Dropping a batch with messages under way leaves a client that refuses further use, and nobody knows what became of them;
/// [`finish`](Batch::finish) tells.
///
/// A future of `next` that is dropped loses nothing: call it again. The connection is closed only if the future was dropped
/// while it sent content that is long or has to be read, while it sent a message in parts, or while it connected again. The
/// results tell what became of each message. Content that can be read only once, and was not read, can be sent again.
#[must_use = "a batch sends while `next` is called"]
pub struct Batch<C: DerefMut<Target = Client>, M, I> {
    client: C,
    /// Made anew with the first message that is handed to it.
    talk: Transactions,
    /// `None` when it is to be asked no more.
    mails: Option<I>,
    /// Taken by [`Batch::push`], or from the iterator, and not yet under way.
    waiting: VecDeque<M>,
    /// Under way, or with a result that was not given yet; in order.
    entries: VecDeque<Entry<M>>,
    /// So many entries at the front have their result.
    settled: usize,
    /// How many results were given.
    given: usize,
    /// How many messages this machine was given, and how many results it has given.
    posted: usize,
    answered: usize,
    /// In front of this entry there is none to be handed to the machine again.
    resume: usize,
    /// A message that has to go alone, once the others are through.
    alone: Option<(M, Envelope)>,
    /// In the middle of what only the future that began it can go on with.
    midway: Option<Midway>,
    /// Nothing more is taken from the iterator until some results were taken: they are many.
    paused: bool,
    line: Line,
    /// Why there is no other connection, if no result has told so.
    cause: Option<Error>,
}

/// The connection, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Works,
    /// It takes no more messages. Another connection takes over when there is one.
    Spent,
    /// The server has ended it. Another connection takes over when there is a message.
    Ended,
    /// It is lost, and no result has told so.
    Lost,
    LossTold,
}

impl Line {
    /// The same once this result was given: perhaps it tells of the loss.
    fn after(self, result: &Result<Delivery, Error>) -> Line {
        let tells = |error: &Error| error.delivery().is_some_and(|d| d.outcome() != Outcome::Refused);
        if self == Line::Lost && result.as_ref().is_err_and(tells) { Line::LossTold } else { self }
    }
}

enum Entry<M> {
    /// Under way, with its number in the machine. The message is missing while its content is on its way.
    Under {
        number: usize,
        letter: Option<Letter<M>>,
        /// What became of it so far, if it takes more transactions than one, and the message was lost with a future.
        parts: Option<Box<Parts>>,
    },
    /// To be handed to the machine again, and what became of it if that cannot be.
    Again(Letter<M>, Result<Delivery, Error>),
    Done(Result<Delivery, Error>),
}

/// A message, and what is known of it besides.
struct Letter<M> {
    mail: M,
    /// What was opened, if it must not be opened again.
    opened: Option<Opened>,
    /// What became of it so far, if it takes more transactions than one.
    parts: Option<Box<Parts>>,
}

/// What only its own future can go on with.
enum Midway {
    /// The content of the message with this number in the machine.
    Content {
        number: usize,
        /// Its place, and what became of it so far, if it takes more transactions than one.
        at: usize,
        parts: Option<Box<Parts>>,
    },
    /// Connecting.
    Connection,
    /// A message that goes alone.
    Alone,
}

/// A body that was opened, and must not be opened again.
struct Opened {
    body: Body<'static>,
    /// Somebody wants to be told of its progress.
    watched: bool,
}

impl Client {
    /// Sends all messages of an iterator over this connection, with about one round trip each where the server offers
    /// PIPELINING; next to none with [`Builder::chunking`](super::Builder::chunking).
    ///
    /// Nothing happens until [`Batch::next`] is called. A message that cannot be sent to this server at all (see
    /// [`send`](Client::send)) has that error as its result; the others are sent.
    ///
    /// An iterator that may block, or whose `size_hint` does not promise another message, is asked later than others; see
    /// [`Batch`]. If the connection is lost, the rest stays in the iterator. Pass that by reference to keep it.
    pub fn send_all<M: Mail, I: IntoIterator<Item = M>>(
        &mut self,
        mails: I,
    ) -> Batch<&mut Client, M, I::IntoIter> {
        Batch::new(self, mails.into_iter())
    }

    /// Sends messages that come one by one over this connection, as [`send_all`](Client::send_all) does: [`Batch::push`]
    /// takes them.
    pub fn batch<M: Mail>(&mut self) -> Batch<&mut Client, M, std::iter::Empty<M>> {
        self.send_all(std::iter::empty())
    }
}

impl<C: DerefMut<Target = Client>, M, I> Batch<C, M, I> {
    pub(super) fn new(mut client: C, mails: I) -> Batch<C, M, I> {
        let talk = Transactions::new(client.options(), false);
        let line = if client.usable(Phase::Mail).is_ok() { Line::Works } else { Line::Lost };
        client.clock = Clock::start();
        Batch {
            client,
            talk,
            mails: Some(mails),
            waiting: VecDeque::new(),
            entries: VecDeque::new(),
            settled: 0,
            given: 0,
            posted: 0,
            answered: 0,
            resume: 0,
            alone: None,
            midway: None,
            paused: false,
            line,
            cause: None,
        }
    }

    /// Whether the connection is lost. Nothing more is sent then, and nothing more is taken from the iterator;
    /// [`next`](Batch::next) returns the results that are left.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        matches!(self.line, Line::Lost | Line::LossTold) || self.is_stuck()
    }

    /// The client learns whether the server may have a transaction open, if anything was said.
    fn give_back(&mut self) {
        if self.posted > 0 {
            self.client.open = self.talk.is_open();
        }
    }

    /// Whether a future of `next` was dropped where no other can go on.
    fn is_stuck(&self) -> bool {
        match &self.midway {
            Some(Midway::Content { number, .. }) => !self.talk.is_said(*number), // else only its reply is waited for
            Some(Midway::Connection | Midway::Alone) => true,
            None => false,
        }
    }
}

impl<C: DerefMut<Target = Client>, M: Mail, I: Iterator<Item = M>> Batch<C, M, I> {
    /// Takes a message, which leaves when [`next`](Batch::next) is called: after those that were pushed before, and before
    /// what the iterator still has.
    pub fn push(&mut self, mail: M) {
        self.waiting.push_back(mail);
        self.talk.more();
    }

    /// How many messages are waiting or under way, without those that the iterator still has.
    #[must_use]
    pub fn pending(&self) -> usize {
        let under = self.entries.iter().filter(|entry| !matches!(entry, Entry::Done(_))).count();
        self.waiting.len() + under + usize::from(self.alone.is_some())
    }

    /// Whether the next message, or that there is none, can be had without waiting.
    fn is_at_hand(&self) -> bool {
        let hint = self.mails.as_ref().map(I::size_hint);
        !self.waiting.is_empty() || matches!(hint, None | Some((1.., _) | (_, Some(0))))
    }

    /// Sees to it that the next message is in front of those that wait. False if there is none.
    fn fetch(&mut self) -> bool {
        let asked = if self.is_at_hand() { None } else { Some(Instant::now()) };
        if self.waiting.is_empty() {
            let next = self.mails.as_mut().and_then(I::next);
            if next.is_none() {
                self.mails = None;
            }
            self.waiting.extend(next);
        }
        // What the caller's iterator has waited for is not the server's fault.
        if let Some(waited) = asked.map(|asked| asked.elapsed()) {
            self.client.deadline = self.client.deadline.map(|deadline| later(deadline, waited));
            self.client.clock.skip(waited);
        }
        !self.waiting.is_empty()
    }

    /// The next message that will not be sent, as the connection is lost. None is taken from the iterator for that, unless
    /// no result tells of the loss otherwise.
    fn next_unsent(&mut self) -> Option<M> {
        if let Some((mail, _)) = self.alone.take() {
            return Some(mail);
        }
        if self.line == Line::Lost {
            self.fetch();
        }
        self.waiting.pop_front()
    }

    /// The place of the message with this number in the machine.
    fn place_of(&self, wanted: usize) -> Option<usize> {
        // Mostly the first that has no result yet.
        let mut entries = self.entries.range(self.settled..);
        let at =
            entries.position(|entry| matches!(entry, Entry::Under { number, .. } if *number == wanted))?;
        Some(self.settled + at)
    }

    /// The result of the next message under way. `ended`: another connection takes over, so that it may be sent again there.
    fn settle(&mut self, result: Result<Delivery, Error>, ended: bool) {
        let result = timed(result, self.client.clock.lap());
        let place = self.place_of(self.answered);
        self.answered += 1;
        let Some(at) = place else { return };
        let Entry::Under { letter, parts, .. } = &mut self.entries[at] else { return }; // it is one
        let (letter, parts) = (letter.take(), parts.take());
        self.entries[at] = Entry::Done(match parts {
            Some(parts) => end_of(*parts, result),
            None => result,
        });
        if let Some(letter) = letter {
            self.reconsider(at, letter, ended);
        }
        if let Entry::Done(result) = &self.entries[at] {
            self.line = self.line.after(result);
        }
        while matches!(self.entries.get(self.settled), Some(Entry::Done(_))) {
            self.settled += 1;
        }
    }

    /// A message has its result, at this place: perhaps all of it, or a part, may be sent again.
    fn reconsider(&mut self, at: usize, mut letter: Letter<M>, ended: bool) {
        let Entry::Done(result) = &mut self.entries[at] else { return };
        letter.opened = None; // what was not read goes back to the message
        let turned_away = goes_elsewhere(result);
        let mut result = std::mem::replace(result, Err(NO_RESULT));
        if turned_away && ended {
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
                None => return, // whatever may be sent again has an envelope
            },
            (None, None) => {
                self.entries[at] = Entry::Done(result);
                return;
            }
        };
        if parts.next().is_some() {
            letter.parts = Some(parts);
            self.send_again(at, letter, Err(NO_RESULT));
        } else {
            self.entries[at] = Entry::Done(parts.finish());
        }
    }

    fn send_again(&mut self, at: usize, letter: Letter<M>, result: Result<Delivery, Error>) {
        self.entries[at] = Entry::Again(letter, result);
        (self.resume, self.settled) = (self.resume.min(at), self.settled.min(at));
        self.talk.more();
    }

    /// The first message that is to be handed to the machine again.
    fn first_again(&mut self) -> Option<usize> {
        let mut entries = self.entries.range(self.resume..);
        let found = entries.position(|entry| matches!(entry, Entry::Again(..)));
        self.resume = found.map_or(self.entries.len(), |at| self.resume + at);
        found.map(|_| self.resume)
    }

    /// There is no other connection, for this reason: the first message that waits for one has it as its cause.
    fn despair(&mut self, why: Error) {
        let Some(at) = self.first_again() else {
            self.cause = Some(why);
            return;
        };
        if let Entry::Again(letter, result) = &mut self.entries[at] {
            match &mut letter.parts {
                Some(parts) => parts.fail(why),
                None => {
                    let turned_away = std::mem::replace(result, Err(NO_RESULT));
                    *result = still_not_sent(turned_away, why);
                }
            }
        }
    }

    /// A message that was to be sent again, and cannot be.
    fn give_up(&mut self, at: usize) {
        let result = match &mut self.entries[at] {
            Entry::Again(letter, result) => match letter.parts.take() {
                Some(parts) => parts.finish(),
                None => std::mem::replace(result, Err(NO_RESULT)),
            },
            _ => return,
        };
        self.line = self.line.after(&result);
        self.entries[at] = Entry::Done(result);
    }

    fn take_results(&mut self) {
        while let Some(result) = self.talk.next_result() {
            self.client.settle(result.is_ok());
            // MAIL was answered 452: what else was handed to the machine gets its replies here.
            let ended = goes_elsewhere(&result) && self.client.may_take_over(Some(End::Announced));
            if ended && self.line == Line::Works {
                self.line = Line::Spent;
            }
            self.settle(result, ended);
        }
        if self.client.pace.is_stalled() {
            self.talk.one_at_a_time();
        }
        self.client.learn_from(&self.talk);
    }

    /// The connection is lost. What may be sent again over another one waits for that.
    fn fail(&mut self, broke: Error) {
        let ended = self.client.may_take_over(End::of(&broke));
        self.talk.lose(self.client.out.octets_offered(), broke);
        self.line = if ended { Line::Ended } else { Line::Lost };
        while let Some(result) = self.talk.next_result() {
            self.settle(result, ended);
        }
    }

    /// Goes on, with none under way, over what may be another connection: its server may offer something else.
    fn begin_anew(&mut self) {
        self.line = if self.client.broken { Line::Lost } else { Line::Works };
        self.talk = Transactions::new(self.client.options(), false);
        (self.posted, self.answered) = (0, 0);
        self.client.hurry = true;
        self.client.clock = Clock::start();
    }

    /// Whether there is a message to send.
    fn has_more(&mut self) -> bool {
        self.first_again().is_some() || self.alone.is_some() || self.fetch()
    }

    /// A future of `next` was dropped, perhaps with a message that takes more transactions than one: what became of those
    /// that are over stays.
    fn keep_parts(&mut self) {
        let Some(Midway::Content { at, parts, .. }) = &mut self.midway else { return };
        let (at, Some(parts)) = (*at, parts.take()) else { return };
        match self.entries.get_mut(at) {
            Some(Entry::Under { parts: place, .. }) => *place = Some(parts),
            Some(Entry::Done(result)) => *result = end_of(*parts, std::mem::replace(result, Err(NO_RESULT))),
            Some(Entry::Again(..)) | None => {}
        }
    }

    /// A future of `next` was dropped where nobody can take it up again.
    fn abandon(&mut self) {
        let was_alone = matches!(self.midway, Some(Midway::Alone));
        self.client.close();
        self.fail(Error::NotConnected);
        if let Some((_, envelope)) = self.alone.take_if(|_| was_alone) {
            let doubt = Outcome::InDoubt;
            let delivery = Delivery::new(envelope, doubt, doubt, None, Vec::new());
            self.entries.push_back(Entry::Done(Err(lost(delivery, Error::NotConnected))));
        }
    }
}

/// What became of a message with this last transaction, though others were left.
fn end_of(mut parts: Parts, result: Result<Delivery, Error>) -> Result<Delivery, Error> {
    parts.settle(result, None);
    parts.finish()
}

/// The envelope of a message that has its result.
fn envelope_of(result: &Result<Delivery, Error>) -> Option<Envelope> {
    match result {
        Ok(delivery) => Some(delivery.envelope().clone()),
        Err(e) => e.delivery().map(|delivery| delivery.envelope().clone()),
    }
}

/// Hands a message to the machine, which is made anew for the first. Gives what was opened, if that must not be opened again.
fn hand_over(
    client: &mut Client,
    (talk, is_first): (&mut Transactions, bool),
    envelope: Envelope,
    one_by_one: Option<usize>,
    body: Body<'_>,
) -> Result<Option<Opened>, Error> {
    let (transaction, content) = client.transaction(envelope, &body)?;
    if is_first {
        // Only now, so that a batch that sends nothing leaves all as it was.
        *talk = Transactions::new(client.options(), client.is_open());
    }
    let transaction = transaction.one_by_one(one_by_one);
    let opened = match content {
        Some(content) => {
            talk.message_with(transaction, content)?;
            None
        }
        None => {
            talk.message(transaction);
            let watched = body.is_watched();
            body.into_once().map(|body| Opened { body, watched })
        }
    };
    client.begun += 1;
    client.by_hand = None; // the first message begins with RSET
    Ok(opened)
}

/// Stands where a result was taken from, until another is put there.
const NO_RESULT: Error = Error::Internal("a message without a result");

/// `why` there is no connection, if that is known.
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
    /// Returns what became of the next message, with its index, counted from 0; `None` when no message is left (until one is
    /// [pushed](Batch::push)), or the connection [is lost](Batch::is_lost) and all results were returned.
    ///
    /// The builder's [`deadline`](super::Builder::deadline) is that of each call of `next`, not of the batch.
    #[allow(clippy::should_implement_trait)] // in the blocking client it is an Iterator, too
    pub async fn next(&mut self) -> Option<(usize, Result<Delivery, Error>)> {
        self.keep_parts();
        if self.is_stuck() {
            self.abandon();
        }
        self.midway = None;
        let drained = self.client.drained;
        self.client.begin();
        (self.client.drained, self.client.hurry) = (drained, true);
        loop {
            if let Some(Entry::Done(_)) = self.entries.front() {
                let Some(Entry::Done(result)) = self.entries.pop_front() else { return None }; // it is one
                self.given += 1;
                self.settled = self.settled.saturating_sub(1);
                self.resume = self.resume.saturating_sub(1);
                if std::mem::take(&mut self.paused) {
                    self.talk.more();
                }
                return Some((self.given - 1, result));
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
                self.entries.push_back(Entry::Done(unsent));
                continue;
            }
            let step = self.client.go_on(&mut self.talk, None).await;
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

    /// Takes nothing more from the iterator, and returns the results that are left: of the messages that were taken from it
    /// already, and of those that were pushed, which are sent. Each comes with its index.
    pub async fn finish(mut self) -> Vec<(usize, Result<Delivery, Error>)> {
        self.mails = None;
        let mut results = Vec::new();
        while let Some(result) = self.next().await {
            results.push(result);
        }
        results
    }

    /// Takes the next message, and hands its envelope to the machine.
    async fn post(&mut self) {
        if self.client.is_used_up() {
            self.line = Line::Spent;
        }
        let again = self.first_again();
        self.paused = self.entries.len() >= MOST_ENTRIES && again.is_none();
        let may_ask = self.line == Line::Works && !self.paused && self.alone.is_none();
        if let Some(at) = again.filter(|_| may_ask) {
            self.post_again(at).await;
            return;
        }
        if may_ask && !self.is_at_hand() && !self.talk.has_said_all(&self.client.out) {
            self.talk.later();
            return;
        }
        if !may_ask || !self.fetch() {
            self.talk.no_more();
            return;
        }
        // It stays where it is while its file is opened: whoever drops the future then does not lose it.
        let mail = &self.waiting[0];
        let envelope = match mail.envelope().and_then(|envelope| self.client.offered(envelope)) {
            Ok(envelope) => envelope,
            Err(e) => {
                self.waiting.pop_front();
                self.entries.push_back(Entry::Done(Err(e)));
                return;
            }
        };
        if !self.client.is_one_part(&envelope) {
            self.alone = self.waiting.pop_front().map(|mail| (mail, envelope));
            self.talk.no_more();
            return;
        }
        let opened = self.client.open_body(mail).await;
        let machine = (&mut self.talk, self.posted == 0);
        let posted = opened.and_then(|body| hand_over(&mut self.client, machine, envelope, None, body));
        let mail = self.waiting.pop_front();
        match posted {
            Ok(opened) => {
                let letter = mail.map(|mail| Letter { mail, opened, parts: None });
                self.entries.push_back(Entry::Under { number: self.posted, letter, parts: None });
                self.posted += 1;
            }
            Err(e) => self.entries.push_back(Entry::Done(Err(e))),
        }
    }

    /// The same for a message, at this place, that the machine had already. If it cannot be sent now, what became of it then
    /// is what became of it.
    async fn post_again(&mut self, at: usize) {
        let Entry::Again(letter, _) = &mut self.entries[at] else { return };
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
        let body = self.client.open_body(&letter.mail).await;
        let machine = (&mut self.talk, self.posted == 0);
        let posted = body.and_then(|body| hand_over(&mut self.client, machine, envelope, one_by_one, body));
        let Ok(opened) = posted else {
            self.give_up(at);
            return;
        };
        let under = Entry::Under { number: self.posted, letter: None, parts: None };
        if let Entry::Again(letter, _) = std::mem::replace(&mut self.entries[at], under) {
            let letter = Some(Letter { opened, ..letter });
            self.entries[at] = Entry::Under { number: self.posted, letter, parts: None };
        }
        self.posted += 1;
    }

    /// Sends the content of the message with this number, which is asked for once.
    async fn write(&mut self, wanted: usize) {
        // It is one of the last, of perhaps hundreds.
        let is_wanted = |entry: &Entry<M>| matches!(entry, Entry::Under { number, .. } if *number == wanted);
        let at = self.entries.iter().rposition(is_wanted).unwrap_or_default();
        let letter = match self.entries.get_mut(at) {
            Some(Entry::Under { letter, .. }) => letter.take(),
            _ => None,
        };
        let sent = match letter {
            Some(mut letter) => {
                // Who drops the future here loses the message, and not what is known of it.
                self.midway = Some(Midway::Content { number: wanted, at, parts: letter.parts.take() });
                let opened = letter.opened.take();
                let sent = self.write_content(wanted, &letter.mail, opened).await;
                if let Some(Midway::Content { parts, .. }) = self.midway.take() {
                    letter.parts = parts;
                }
                match self.entries.get_mut(at) {
                    Some(Entry::Under { letter: place, .. }) => *place = Some(letter),
                    Some(_) => self.reconsider(at, letter, self.line == Line::Spent),
                    None => {}
                }
                sent
            }
            None => Err(Error::Internal("the content of a message that was never given")),
        };
        if let Err(e) = sent {
            self.client.close(); // the server may wait for content that will not come
            self.recover(e).await;
        }
    }

    async fn write_content(&mut self, wanted: usize, mail: &M, opened: Option<Opened>) -> Result<(), Error> {
        let offer = self.client.offer();
        let body = match opened {
            // Who is told is with the mail; one that cannot be opened again tells nobody.
            Some(Opened { body, watched: true }) => match mail.body_for(offer) {
                Ok(again) => again.opened(body),
                Err(_) => body,
            },
            Some(Opened { body, .. }) => body,
            None => self.client.open_body(mail).await?,
        };
        let mut source = Source::new(body);
        while let Want::Result = self.client.go_on(&mut self.talk, Some((wanted, &mut source))).await? {
            self.take_results();
            // Its own result, or one before it, need not wait for what is said of the next.
            if self.talk.is_said(wanted) && self.client.out.unsent().is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// The connection is lost. If that is all, another one will do.
    async fn recover(&mut self, broke: Error) {
        // Where joining is known to work, it is the server that ends the session.
        let is_trial = self.talk.joining() != Joining::Works;
        let silent = match broke {
            Error::Timeout(_) => self.talk.is_unheard(),
            Error::Closed(_) | Error::Io { .. } => {
                is_trial || !self.client.session.has_progress() || !self.talk.is_unheard()
            }
            _ => false,
        };
        if !silent || !self.talk.on_silence() {
            self.fail(broke);
            return;
        }
        log::debug!(
            target: "postino",
            "#{} what left with the end of a message was lost: connecting again, without that",
            self.client.number
        );
        self.client.settings.config.learnt.learn_joining(Joining::Off);
        let offered = self.client.capabilities.clone();
        self.midway = Some(Midway::Connection); // who is dropped here has said half of EHLO, TLS and the login
        let connected = self.client.again_unasked().await;
        self.midway = None;
        match connected {
            Ok(()) if self.client.capabilities != offered => {
                // What is to be said of the message was chosen for what the server offered then.
                self.fail(Error::NotConnected);
                self.begin_anew();
            }
            Ok(()) => (self.client.begun, self.client.hurry) = (self.talk.under_way() as u64, true),
            Err(e) => self.fail(e),
        }
    }

    /// Another connection takes over. None is under way.
    async fn take_over(&mut self) {
        log::debug!(
            target: "postino",
            "#{} the server takes no more messages in this session: going on over another connection",
            self.client.number
        );
        self.midway = Some(Midway::Connection);
        self.client.part();
        let connected = self.client.again_unasked().await;
        self.midway = None;
        self.begin_anew();
        if let Err(e) = connected {
            self.line = Line::Lost;
            self.despair(e);
        }
    }

    async fn send_alone(&mut self) {
        self.give_back();
        let Some((mail, envelope)) = &self.alone else { return };
        self.midway = Some(Midway::Alone);
        self.client.hurry = false; // it has phases of its own
        let result = self.client.deliver(mail, envelope.clone(), Freshness::New).await;
        self.midway = None;
        self.alone = None;
        self.begin_anew();
        self.line = self.line.after(&result);
        self.entries.push_back(Entry::Done(result));
    }
}

impl<C: DerefMut<Target = Client>, M, I> Drop for Batch<C, M, I> {
    /// A connection left in the middle is not used again.
    fn drop(&mut self) {
        let over = matches!(self.line, Line::Works | Line::Spent) && self.midway.is_none();
        if over && self.talk.under_way() == 0 && self.client.out.is_quiet() {
            self.client.broken = false;
            self.give_back();
        }
    }
}

impl<C: DerefMut<Target = Client>, M, I> fmt::Debug for Batch<C, M, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("given", &self.given)
            .field("under_way", &self.talk.under_way())
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}
