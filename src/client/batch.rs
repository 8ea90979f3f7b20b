//! Many messages over one connection: each leaves with the end of the one before.

use std::{collections::VecDeque, fmt, ops::DerefMut};

use super::{
    body::Source,
    maybe_async,
    run::Clock,
    send::{Freshness, timed},
    session::Client,
};
use crate::{
    Delivery, Envelope, Error, Mail,
    message::Content,
    proto::{Joining, Transactions, Want},
};

/// Messages on their way, one behind the other: what [`Client::send_all`] and [`Client::batch`] give.
///
/// [`next`](Batch::next) gives what became of each message, in their order. About as long as the server takes to answer,
/// the next message is under way already: it is taken from the iterator before the one before it has left.
///
/// Dropping it with messages under way leaves a client that refuses further use, and nobody knows what became of
/// them; [`finish`](Batch::finish) tells.
///
/// When the connection is lost, the messages that were under way are *not sent* or *in doubt*, and those that follow are
/// *not sent*: each has its result. Only where all that was lost is an envelope that had left with the end of the message
/// before (some servers throw it away) the batch connects again by itself, and sends it alone from then on.
#[must_use = "a batch sends while `next` is called"]
pub struct Batch<C: DerefMut<Target = Client>, M, I> {
    client: C,
    talk: Transactions,
    mails: I,
    /// Taken by [`Batch::push`], and not yet under way.
    pushed: VecDeque<M>,
    /// Under way, or with a result that was not given yet; in order.
    entries: VecDeque<Entry<M>>,
    /// So many entries at the front have their result.
    settled: usize,
    /// How many results were given, and how many messages were handed to the machine.
    given: usize,
    posted: usize,
    /// A message that has to go alone, once the others are through.
    alone: Option<(M, Envelope)>,
    /// Nothing more is taken from the iterator.
    closed: bool,
    lost: bool,
}

enum Entry<M> {
    /// The number in the machine; what was opened, if it can be read once only.
    Under {
        number: usize,
        mail: M,
        opened: Option<Content<'static>>,
    },
    Done(Result<Delivery, Error>),
}

impl Client {
    /// Sends all messages of an iterator over this connection, with about one round trip each where the server offers
    /// PIPELINING; next to none with [`Builder::chunking`](super::Builder::chunking).
    ///
    /// Nothing happens until [`Batch::next`] is called. A message that cannot be sent to this server at all (see
    /// [`send`](Client::send)) has that error as its result; the others are sent.
    pub fn send_all<M: Mail, I: IntoIterator<Item = M>>(
        &mut self,
        mails: I,
    ) -> Batch<&mut Client, M, I::IntoIter> {
        Batch::new(self, mails.into_iter())
    }

    /// The same for messages that come one by one: [`Batch::push`] takes them.
    pub fn batch<M: Mail>(&mut self) -> Batch<&mut Client, M, std::iter::Empty<M>> {
        self.send_all(std::iter::empty())
    }
}

impl<C: DerefMut<Target = Client>, M, I> Batch<C, M, I> {
    pub(super) fn new(mut client: C, mails: I) -> Batch<C, M, I> {
        let open = client.take_open();
        let talk = Transactions::new(client.options(), open);
        let lost = client.broken;
        client.clock = Clock::start();
        Batch {
            client,
            talk,
            mails,
            pushed: VecDeque::new(),
            entries: VecDeque::new(),
            settled: 0,
            given: 0,
            posted: 0,
            alone: None,
            closed: false,
            lost,
        }
    }
}

impl<C: DerefMut<Target = Client>, M: Mail, I: Iterator<Item = M>> Batch<C, M, I> {
    /// Takes a message: it leaves when [`next`](Batch::next) is called. It comes behind those pushed before, and before
    /// what the iterator still has.
    pub fn push(&mut self, mail: M) {
        self.pushed.push_back(mail);
        self.talk.more();
    }

    /// How many messages are waiting or under way, without those that the iterator still has.
    #[must_use]
    pub fn pending(&self) -> usize {
        let under = self.entries.iter().filter(|entry| matches!(entry, Entry::Under { .. })).count();
        self.pushed.len() + under + usize::from(self.alone.is_some())
    }

    fn pull(&mut self) -> Option<M> {
        let pushed = self.pushed.pop_front();
        pushed.or_else(|| if self.closed { None } else { self.mails.next() })
    }

    /// The result of the first message under way.
    fn settle(&mut self, result: Result<Delivery, Error>) {
        let result = timed(result, self.client.clock.lap());
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
        let (joining, learnt) = (self.talk.joining(), &self.client.settings.config.joining);
        let news = joining != Joining::Untried && joining != learnt.get();
        if news && self.client.options().pipelining {
            learnt.learn(joining);
        }
    }

    fn fail(&mut self, broke: Error) {
        self.talk.lose(self.client.out.offered(), broke);
        self.lost = true;
        self.take_results();
    }

    fn not_sent(&mut self, mail: &M) -> Error {
        match mail.envelope() {
            Ok(envelope) => Error::Transaction {
                delivery: Box::new(Delivery::not_sent(envelope)),
                source: Box::new(Error::NotConnected),
            },
            Err(e) => e,
        }
    }
}

#[maybe_async]
impl<C: DerefMut<Target = Client>, M: Mail, I: Iterator<Item = M>> Batch<C, M, I> {
    /// What became of the next message, with its index, counted from 0; `None` when none is left (until there is one
    /// that was [pushed](Batch::push)).
    ///
    /// The builder's deadline is that of each call.
    #[allow(clippy::should_implement_trait)] // in the blocking world it is an Iterator, too
    pub async fn next(&mut self) -> Option<(usize, Result<Delivery, Error>)> {
        let drained = self.client.drained;
        self.client.begin();
        (self.client.drained, self.client.hurry) = (drained, true);
        loop {
            if let Some(Entry::Done(_)) = self.entries.front() {
                let Some(Entry::Done(result)) = self.entries.pop_front() else { return None }; // it is one
                self.given += 1;
                self.settled = self.settled.saturating_sub(1);
                return Some((self.given - 1, result));
            }
            if self.lost {
                let mail = match self.alone.take() {
                    Some((mail, _)) => mail,
                    None => self.pull()?,
                };
                let error = self.not_sent(&mail);
                self.entries.push_back(Entry::Done(Err(error)));
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

    /// Takes no more messages, and gives the results of those that were taken, each with its index.
    pub async fn finish(mut self) -> Vec<(usize, Result<Delivery, Error>)> {
        self.closed = true;
        let mut results = Vec::new();
        while let Some(result) = self.next().await {
            results.push(result);
        }
        results
    }

    /// Takes the next message, and hands its envelope to the machine.
    async fn post(&mut self) {
        let used_up = self.client.is_used_up();
        let mail = if self.alone.is_some() { None } else { self.pull() };
        let Some(mail) = mail else {
            self.talk.no_more();
            return;
        };
        let envelope = match mail.envelope().and_then(|e| self.client.check_envelope(&e).map(|()| e)) {
            Ok(envelope) => envelope,
            Err(e) => {
                self.entries.push_back(Entry::Done(Err(e)));
                return;
            }
        };
        if used_up || !self.client.is_one_part(&envelope) {
            self.alone = Some((mail, envelope));
            self.talk.no_more();
            return;
        }
        let opened = self.client.open_body(&mail).await;
        let posted = opened.and_then(|body| {
            let transaction = self.client.transaction(envelope, &body)?;
            Ok((transaction, body.into_once()))
        });
        match posted {
            Ok((transaction, opened)) => {
                self.talk.message(transaction);
                self.client.begun += 1;
                self.entries.push_back(Entry::Under { number: self.posted, mail, opened });
                self.posted += 1;
            }
            Err(e) => self.entries.push_back(Entry::Done(Err(e))),
        }
    }

    /// Sends the content of the message with this number.
    async fn write(&mut self, wanted: usize) {
        let this = |entry: &&mut Entry<M>| matches!(entry, Entry::Under { number, .. } if *number == wanted);
        // It is one of the last, of perhaps hundreds.
        let Some(Entry::Under { mail, opened, .. }) = self.entries.iter_mut().rfind(this) else {
            return; // the machine asks for those that it was given only
        };
        let content = match opened.take() {
            Some(content) => Ok(content),
            None => self.client.open_body(&*mail).await.map(|body| body.content),
        };
        let broke = match content {
            Ok(content) => {
                let mut source = Source::new(content);
                let mut results = Vec::new(); // of messages before it
                let broke = loop {
                    match self.client.go_on(&mut self.talk, Some((wanted, &mut source))).await {
                        Ok(Want::Result) => results.extend(self.talk.next_result()),
                        Ok(_) => break None,
                        Err(e) => break Some(e),
                    }
                };
                results.into_iter().for_each(|result| self.settle(result));
                broke
            }
            Err(e) => {
                self.client.close(); // the server waits for content that will not come
                Some(e)
            }
        };
        if let Some(e) = broke {
            self.recover(e).await;
        }
    }

    /// The connection is lost. If that is all, another one will do.
    async fn recover(&mut self, broke: Error) {
        let silent = match broke {
            Error::Timeout(_) => self.talk.is_probing(),
            Error::Closed(_) | Error::Io { .. } => true,
            _ => false,
        };
        if !silent || !self.talk.on_silence() {
            self.fail(broke);
            return;
        }
        log::debug!(target: "postino", "what left with the end of a message was lost: connecting again, without that");
        self.client.settings.config.joining.learn(Joining::Off);
        match self.client.again().await {
            Ok(()) => {}
            Err(e) => self.fail(e),
        }
    }

    async fn send_alone(&mut self) {
        let Some((mail, envelope)) = self.alone.take() else { return };
        self.client.hurry = false; // it has phases of its own
        let result = self.client.deliver(&mail, envelope, Freshness::New).await;
        self.client.hurry = true;
        self.entries.push_back(Entry::Done(result));
        self.lost = self.client.broken;
        self.talk.more();
    }
}

impl<C: DerefMut<Target = Client>, M, I> Drop for Batch<C, M, I> {
    /// A connection left in the middle is not used again.
    fn drop(&mut self) {
        if self.client.broken && !self.lost && self.talk.under_way() == 0 && self.client.out.is_quiet() {
            self.client.broken = false;
            self.client.open = self.talk.is_open();
        }
    }
}

impl<C: DerefMut<Target = Client>, M, I> fmt::Debug for Batch<C, M, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("given", &self.given)
            .field("under_way", &self.talk.under_way())
            .field("lost", &self.lost)
            .finish_non_exhaustive()
    }
}
