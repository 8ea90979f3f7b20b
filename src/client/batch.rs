//! Many messages over one connection: each leaves with the end of the one before.

use std::{collections::VecDeque, fmt, ops::DerefMut, time::Instant};

use super::{
    body::Source,
    maybe_async,
    run::Clock,
    send::{Freshness, timed},
    session::Client,
};
use crate::{
    Delivery, Envelope, Error, Mail, Outcome, Phase,
    config::later,
    message::Body,
    proto::{Joining, Transactions, Want},
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
/// [`Delivery::took`]. Where results must not wait for the next message, use [`push`](Batch::push).
///
/// An iterator is not asked again after it has returned `None`.
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
    /// How many results were given, and how many messages were handed to this machine.
    given: usize,
    posted: usize,
    /// A message that has to go alone, once the others are through.
    alone: Option<(M, Envelope)>,
    /// In the middle of what only the future that began it can go on with.
    midway: Option<Midway>,
    /// Nothing more is taken from the iterator until some results were taken: they are many.
    paused: bool,
    line: Line,
}

/// The connection, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Works,
    /// It is lost, and no result has told so.
    Lost,
    LossTold,
}

enum Entry<M> {
    /// The number in the machine; the message, until the machine has its content, or that is on its way; what was
    /// opened, if it must not be opened again.
    Under {
        number: usize,
        mail: Option<M>,
        opened: Option<Opened>,
    },
    Done(Result<Delivery, Error>),
}

/// What only its own future can go on with.
enum Midway {
    /// The content of the message with this number in the machine.
    Content(usize),
    /// Connecting, or a message that goes alone.
    Connection,
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
            alone: None,
            midway: None,
            paused: false,
            line,
        }
    }

    /// Whether the connection is lost. Nothing more is sent then, and nothing more is taken from the iterator;
    /// [`next`](Batch::next) returns the results that are left.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.line != Line::Works || self.is_stuck()
    }

    /// The client learns whether the server may have a transaction open, if anything was said.
    fn give_back(&mut self) {
        if self.posted > 0 {
            self.client.open = self.talk.is_open();
        }
    }

    /// Whether a future of `next` was dropped where no other can go on.
    fn is_stuck(&self) -> bool {
        match self.midway {
            Some(Midway::Content(number)) => !self.talk.is_said(number), // else only its reply is waited for
            Some(Midway::Connection) => true,
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
        let under = self.entries.iter().filter(|entry| matches!(entry, Entry::Under { .. })).count();
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

    /// The connection is lost, if it is; and perhaps this tells of it.
    fn note_loss(&mut self, result: &Result<Delivery, Error>) {
        let tells = |error: &Error| error.delivery().is_some_and(|d| d.outcome() != Outcome::Refused);
        if self.line == Line::Lost && result.as_ref().is_err_and(tells) {
            self.line = Line::LossTold;
        }
    }

    /// The result of the first message under way.
    fn settle(&mut self, result: Result<Delivery, Error>) {
        let result = timed(result, self.client.clock.lap());
        self.note_loss(&result);
        let mut entries = self.entries.range_mut(self.settled..);
        if let Some(at) = entries.position(|entry| matches!(entry, Entry::Under { .. })) {
            self.settled += at + 1;
            self.entries[self.settled - 1] = Entry::Done(result);
        }
    }

    fn take_results(&mut self) {
        while let Some(result) = self.talk.next_result() {
            self.settle(result);
        }
        if self.client.pace.is_stalled() {
            self.talk.one_at_a_time();
        }
        let (joining, learnt) = (self.talk.joining(), &self.client.settings.config.joining);
        let news = joining != Joining::Untried && joining != learnt.get();
        if news && self.client.options().pipelining {
            learnt.learn(joining);
        }
    }

    fn fail(&mut self, broke: Error) {
        self.talk.lose(self.client.out.offered(), broke);
        self.line = Line::Lost;
        self.take_results();
    }

    /// Goes on, with none under way, over what may be another connection: its server may offer something else.
    fn begin_anew(&mut self) {
        self.line = if self.client.broken { Line::Lost } else { Line::Works };
        self.talk = Transactions::new(self.client.options(), false);
        self.posted = 0;
        self.client.clock = Clock::start();
    }

    /// A future of `next` was dropped where nobody can take it up again.
    fn abandon(&mut self) {
        let was_alone = self.talk.under_way() == 0;
        self.client.close();
        self.fail(Error::NotConnected);
        if let Some((_, envelope)) = self.alone.take_if(|_| was_alone) {
            let doubt = Outcome::InDoubt;
            let delivery = Delivery::new(envelope, doubt, doubt, None, Vec::new());
            self.entries.push_back(Entry::Done(Err(lost(delivery))));
        }
    }
}

fn not_sent<M: Mail>(mail: &M) -> Error {
    mail.envelope().map_or_else(|e| e, |envelope| lost(Delivery::not_sent(envelope)))
}

fn lost(delivery: Delivery) -> Error {
    Error::Transaction { delivery: Box::new(delivery), source: Box::new(Error::NotConnected) }
}

#[maybe_async]
impl<C: DerefMut<Target = Client>, M: Mail, I: Iterator<Item = M>> Batch<C, M, I> {
    /// Returns what became of the next message, with its index, counted from 0; `None` when no message is left (until one is
    /// [pushed](Batch::push)), or the connection [is lost](Batch::is_lost) and all results were returned.
    ///
    /// The builder's [`deadline`](super::Builder::deadline) is that of each call of `next`, not of the batch.
    #[allow(clippy::should_implement_trait)] // in the blocking client it is an Iterator, too
    pub async fn next(&mut self) -> Option<(usize, Result<Delivery, Error>)> {
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
                if std::mem::take(&mut self.paused) {
                    self.talk.more();
                }
                return Some((self.given - 1, result));
            }
            if self.line != Line::Works {
                let unsent = Err(not_sent(&self.next_unsent()?));
                self.note_loss(&unsent);
                self.entries.push_back(Entry::Done(unsent));
                continue;
            }
            let step = self.client.go_on(&mut self.talk, None).await;
            match step {
                Ok(Want::Result) => self.take_results(),
                Ok(Want::Message) => self.post().await,
                Ok(Want::Body(number)) => self.write(number).await,
                Ok(_) if self.alone.is_some() => self.send_alone().await,
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
        self.paused = self.entries.len() >= MOST_ENTRIES;
        let may_ask = !self.paused && self.alone.is_none();
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
        if self.client.is_used_up() || !self.client.is_one_part(&envelope) {
            self.alone = self.waiting.pop_front().map(|mail| (mail, envelope));
            self.talk.no_more();
            return;
        }
        let opened = self.client.open_body(mail).await;
        let posted = opened.and_then(|body| {
            let (transaction, content) = self.client.transaction(envelope, &body)?;
            if self.posted == 0 {
                // Only now, so that a batch that sends nothing leaves all as it was.
                self.talk = Transactions::new(self.client.options(), self.client.is_open());
            }
            match content {
                Some(content) => {
                    self.talk.message_with(transaction, content)?;
                    Ok((false, None))
                }
                None => {
                    self.talk.message(transaction);
                    let watched = body.is_watched();
                    Ok((true, body.into_once().map(|body| Opened { body, watched })))
                }
            }
        });
        let mail = self.waiting.pop_front();
        match posted {
            Ok((is_needed, opened)) => {
                self.client.begun += 1;
                self.client.by_hand = None; // the first message begins with RSET
                let mail = mail.filter(|_| is_needed);
                self.entries.push_back(Entry::Under { number: self.posted, mail, opened });
                self.posted += 1;
            }
            Err(e) => self.entries.push_back(Entry::Done(Err(e))),
        }
    }

    /// The message with this number, and what was opened of it. Its content is asked for once.
    fn take_content(&mut self, wanted: usize) -> Option<(M, Option<Opened>)> {
        // It is one of the last, of perhaps hundreds.
        self.entries.iter_mut().rev().find_map(|entry| match entry {
            Entry::Under { number, mail, opened } if *number == wanted => {
                mail.take().map(|mail| (mail, opened.take()))
            }
            _ => None,
        })
    }

    /// Sends the content of the message with this number.
    async fn write(&mut self, wanted: usize) {
        self.midway = Some(Midway::Content(wanted));
        let sent = match self.take_content(wanted) {
            Some((mail, opened)) => self.write_content(wanted, &mail, opened).await,
            None => Err(Error::Internal("the content of a message that was never given")),
        };
        self.midway = None;
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
        let silent = match broke {
            Error::Timeout(_) => self.talk.is_unheard(),
            Error::Closed(_) | Error::Io { .. } => true,
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
        self.client.settings.config.joining.learn(Joining::Off);
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
            Ok(()) => self.client.begun = self.talk.under_way() as u64,
            Err(e) => self.fail(e),
        }
    }

    async fn send_alone(&mut self) {
        self.give_back();
        let Some((mail, envelope)) = &self.alone else { return };
        self.midway = Some(Midway::Connection);
        self.client.hurry = false; // it has phases of its own
        let result = self.client.deliver(mail, envelope.clone(), Freshness::New).await;
        self.client.hurry = true;
        self.midway = None;
        self.alone = None;
        self.begin_anew();
        self.note_loss(&result);
        self.entries.push_back(Entry::Done(result));
    }
}

impl<C: DerefMut<Target = Client>, M, I> Drop for Batch<C, M, I> {
    /// A connection left in the middle is not used again.
    fn drop(&mut self) {
        let over = self.line == Line::Works && self.midway.is_none();
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
