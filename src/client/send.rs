//! Sends a single message within the server's limits.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use super::{
    body::{Source, open},
    breathe,
    call::{Call, Clock},
    known::OpenTransaction,
    maybe_async,
    run::source_error,
    session::Client,
};
use crate::{
    Delivery, Envelope, Error, EventKind, JoinPolicy, Mail, Phase, Timings,
    delivery::Again,
    message::{Body, Content, ServerSupport},
    proto::{
        End, Forbidden, Joining, Loss, MailParameters, Options, Survey, Transaction, Transactions, Want,
        check_recipients,
    },
    split::{Parts, Splitter},
};

/// Maximum size, in octets, of content that may be sent with BDAT before the reply to its envelope, and that is kept
/// until then.
pub(super) const MAX_AHEAD: u64 = 64 * 1024;

/// Time without a message after which a connection counts as idle. Most firewalls and servers keep idle connections
/// longer.
const IDLE: Duration = Duration::from_secs(10);

/// The error for a message whose partial results were lost, which cannot happen.
const NO_PARTS: Error = Error::Internal("a message lost the results of its parts");

/// Number of recipients that are processed between two checks of the deadline.
const BATCH_OF_RECIPIENTS: usize = 4096;

/// Whether the connection for a message may be dead, and whether it is used again afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// The connection was made, or used, a moment ago.
    New,
    /// The connection was idle, and may be dead: no content is sent before the server has replied.
    Kept,
    /// The connection is not used after this message.
    Last,
}

impl Client {
    /// Returns the options of transactions on this connection.
    pub(super) fn options(&self) -> Options {
        let config = &self.origin.settings.config;
        let chunking = self.known.capabilities.offers("CHUNKING");
        let pipelining = config.pipelining
            && config.learnt.pipelines()
            && self.known.capabilities.offers("PIPELINING")
            && !self.link.pace.is_stalled();
        let joins = match config.joining {
            // Some servers store what follows the end of a message as part of it; one with RFC 3030 must frame its
            // input exactly. Dovecot 2.3's submission service crashes on an envelope after a final dot that it has not
            // answered yet (an assertion in its smtp-server-transaction.c), leaving the message in doubt. Hardly any
            // other server offers BURL (RFC 4468). In LMTP, if a server refuses a message with one reply instead of one
            // for each recipient, the replies to the next envelope would be taken for the missing ones.
            JoinPolicy::Automatic => chunking && !config.lmtp && !self.known.capabilities.offers("BURL"),
            JoinPolicy::Always => true,
            JoinPolicy::Never => false,
        };
        Options {
            pipelining,
            chunking: config.chunking && chunking,
            joining: if pipelining && joins { config.learnt.joining() } else { Joining::Off },
            all_or_nothing: config.all_or_nothing,
            farewell: false,
            lmtp: config.lmtp,
        }
    }

    /// Returns the server's extensions that matter to a message.
    pub(super) fn offer(&self) -> ServerSupport {
        let mut offer = ServerSupport::default();
        offer.eight_bit = self.known.capabilities.offers("8BITMIME");
        // RFC 6531 §3.1: a server with SMTPUTF8 offers 8BITMIME too.
        offer.utf8_headers = offer.eight_bit && self.known.capabilities.offers("SMTPUTF8");
        offer
    }

    /// Returns whether the next transaction has to begin with RSET: one was left open, perhaps by single commands.
    pub(super) fn is_open(&self) -> bool {
        self.history.open.needs_reset()
    }

    /// Returns the envelope in the form that this server accepts.
    pub(super) fn offered(&self, envelope: Envelope) -> Result<Envelope, Error> {
        envelope.check_offered(&self.known.capabilities, self.is_encrypted())?;
        let utf8 = self.known.capabilities.offers("SMTPUTF8");
        let envelope = if utf8 { envelope } else { envelope.without_utf8()? };
        check_recipients(&envelope)?; // of all parts, before the first is sent
        Ok(envelope)
    }

    /// Returns the transaction of this message, with the parameters of MAIL. The survey of the content is returned as
    /// well if it was made: the content is in memory and not binary. Fails if the server cannot accept the message;
    /// nothing has been sent yet.
    pub(super) fn transaction<'b>(
        &self,
        envelope: Envelope,
        body: &'b Body<'_>,
    ) -> Result<(Transaction, Option<Survey<'b>>), Error> {
        let offers = |keyword| self.known.capabilities.offers(keyword);
        let binary = body.binary && self.options().chunking && offers("BINARYMIME");
        let (survey, octets) = match &body.content {
            Content::Bytes(bytes) if binary => (None, Some(bytes.len() as u64)),
            Content::Bytes(bytes) => {
                let survey = Survey::of(bytes);
                (Some(survey), Some(survey.octets))
            }
            Content::Unopened(_) | Content::Reader(_) => (None, body.size),
        };
        if body.utf8 && !(offers("SMTPUTF8") && offers("8BITMIME")) {
            return Err(Error::Unsupported(
                "SMTPUTF8 with 8BITMIME, which is needed for a non-ASCII address in the headers",
            ));
        }
        if body.eight_bit && !offers("8BITMIME") {
            return Err(Forbidden::EightBit.into());
        }
        match survey {
            Some(Survey { nul: true, .. }) => return Err(Forbidden::Nul.into()),
            Some(Survey { eight_bit: true, .. }) if !offers("8BITMIME") => {
                return Err(Forbidden::EightBit.into());
            }
            Some(Survey { long_line: Some(line), .. }) => {
                log::warn!(target: "postino", "#{} the message has a line of more than 998 octets ({line} octets)", self.link.number);
            }
            _ => {}
        }
        match (octets, self.known.capabilities.size_limit()) {
            (Some(size), Some(limit)) if size > limit => return Err(Error::TooLarge { size, limit }),
            _ => {}
        }
        let parameters = MailParameters {
            size: octets.filter(|_| offers("SIZE")),
            utf8: !envelope.is_ascii() || body.utf8,
            // The content of a reader is not known yet.
            eight_bit: offers("8BITMIME") && survey.map_or(!body.seven_bit, |survey| survey.eight_bit),
            binary,
        };
        let at_hand = matches!(body.content, Content::Bytes(_));
        let ahead = at_hand && octets.is_some_and(|octets| octets <= MAX_AHEAD);
        let transaction = Transaction::new(envelope, parameters).ahead(ahead);
        transaction.check()?;
        Ok((transaction, survey))
    }

    /// Returns the maximum number of recipients of a message, and of their domains, that the server accepts (RFC 9422
    /// §4).
    fn recipient_limits(&self) -> (usize, usize) {
        let limit = |name| self.known.capabilities.limit(name).unwrap_or(usize::MAX);
        (limit("RCPTMAX"), limit("RCPTDOMAINMAX"))
    }

    /// Returns whether the server accepts all recipients in one transaction.
    pub(super) fn is_one_part(&self, envelope: &Envelope) -> bool {
        let (most, domains) = self.recipient_limits();
        let recipients = envelope.recipients();
        // Even if each has a different domain, they fit.
        if recipients.len() <= most.min(domains) {
            return true;
        }
        recipients.len() <= most && {
            let mut names = HashSet::new();
            recipients.iter().all(|recipient| {
                names.insert(recipient.domain().unwrap_or_default().to_ascii_lowercase());
                names.len() <= domains
            })
        }
    }

    /// Fails if the content can be read only once, because then only the recipients of the first part could get it.
    /// Nothing is opened or read.
    fn check_readable_again(&self, mail: &dyn Mail) -> Result<(), Error> {
        let body = mail.body_for(self.offer())?;
        if body.is_read_once() {
            return Err(Error::Message(
                "the message needs several transactions (LIMITS), but its content can be read only once"
                    .into(),
            ));
        }
        if !matches!(body.content, Content::Bytes(_)) {
            // A custom type may refuse a second body while the first one exists.
            drop(mail.body_for(self.offer())?);
        }
        Ok(())
    }

    /// Returns whether the server accepts no further message on this connection (LIMITS MAILMAX, RFC 9422 §4.1).
    pub(super) fn is_used_up(&self) -> bool {
        self.history.session.is_used_up(self.link.begun, self.known.capabilities.limit("MAILMAX"))
    }

    /// Keeps what a dialogue has learnt about the server.
    pub(super) fn learn_from(&self, talk: &Transactions) {
        let learnt = &self.origin.settings.config.learnt;
        let joining = Some(talk.joining()).filter(|now| *now != Joining::Untried && *now != learnt.joining());
        if joining.is_none() && talk.pipelines() {
            return; // the usual case
        }
        let began = self.options();
        if began.pipelining && !talk.pipelines() {
            log::debug!(target: "postino", "#{} the server misreads pipelined commands: no longer pipelining", self.link.number);
            learnt.learn_that_it_misreads();
        } else if let Some(joining) = joining.filter(|_| began.joining != Joining::Off) {
            learnt.learn_joining(joining);
        }
    }

    /// Returns which recipients the message can be sent to again over the same connection, and how. Both the server's
    /// replies and the content have to allow it.
    pub(super) fn take_again(&self, result: &mut Result<Delivery, Error>, mail: &dyn Mail) -> Option<Again> {
        let again = match result {
            Ok(delivery) => delivery.take_again(),
            Err(Error::Transaction { delivery, .. }) => delivery.take_again(),
            Err(_) => None,
        };
        // As long as no recipient was accepted, nothing was read that cannot be read again.
        let unread = result.is_err();
        let repeatable = || mail.body_for(self.offer()).is_ok_and(|body| unread || !body.is_read_once());
        again.filter(|again| *again != Again::Elsewhere && repeatable())
    }

    /// Tells the observer that a message is sent again over another connection.
    pub(super) fn tell_retried(&self, result: &Result<Delivery, Error>) {
        if let Err(error) = result {
            self.tell(EventKind::Retried { error }, Duration::ZERO);
        }
    }

    /// Returns the result of a message whose sending was interrupted: a [`send`](Client::send) future was dropped
    /// before it completed, or (in the blocking client) the code that provides the content panicked. Returns `None` if
    /// no message was interrupted, or if its result was already returned. Sends and reads nothing.
    ///
    /// The result is what is known without asking the server. It is `Ok` if the server had already accepted the
    /// message, and otherwise an [`Error::Transaction`]. Its outcome is [`NotSent`](crate::Outcome::NotSent) if the end
    /// of the message was not sent, so that resending the message cannot duplicate it, and
    /// [`InDoubt`](crate::Outcome::InDoubt) if the end was sent. If several messages were interrupted, only the last
    /// result is kept.
    ///
    /// The connection itself can no longer be used: call [`reconnect`](Client::reconnect). A [`Batch`](super::Batch)
    /// itself returns the result of each message. For a [`Pool`](super::Pool) and for
    /// [`Builder::send`](super::Builder::send), the [`observer`](super::Builder::observer) gets the result.
    #[doc = example!(interrupted)]
    pub fn interrupted(&mut self) -> Option<Result<Delivery, Error>> {
        self.settle_interrupted();
        self.interrupted.take()
    }

    /// Records that a message has received its final reply, at `now`.
    pub(super) fn settle(&mut self, accepted: bool, now: Instant) {
        self.history.session.settle(accepted);
        self.history.settled_at = Some(now);
    }

    /// Returns whether another connection may take over after the server has ended the session before it accepted a
    /// message. `in_doubt` means that other messages are in doubt.
    pub(super) fn may_take_over(&mut self, end: Option<End>, in_doubt: bool) -> bool {
        // If no reply was due, the loss was noticed before anything was sent.
        let in_use = self.link.out.due() > 0 && self.history.settled_at.is_some_and(|at| at.elapsed() < IDLE);
        end.is_some_and(|end| self.history.session.hands_over(Loss::Session { end, in_use, in_doubt }))
            && self.is_replaceable()
    }

    /// Returns whether another connection may take over a message after this error, if the pool's connection with this
    /// number had been idle before the message. Returns false if that connection was already replaced.
    pub(super) fn may_replace_idle(&mut self, number: u64, broke: &Error) -> bool {
        !self.link.is_usable()
            && self.link.number == number
            && self.history.session.hands_over(Loss::Idle(broke))
    }
}

/// Returns whether the whole message may be sent over another connection.
pub(super) fn goes_elsewhere(result: &Result<Delivery, Error>) -> bool {
    matches!(result, Err(Error::Transaction { delivery, .. }) if delivery.goes_elsewhere())
}

/// Returns the result of a message that was turned away if no other connection can be made. A refusal remains the
/// cause.
pub(super) fn still_not_sent(mut result: Result<Delivery, Error>, why: Error) -> Result<Delivery, Error> {
    if let Err(Error::Transaction { source, .. }) = &mut result {
        if !matches!(**source, Error::Refused { .. }) {
            **source = why;
        }
    }
    result
}

#[maybe_async]
impl Client {
    /// Sends a message to all of its recipients. Returns `Ok` if it was accepted for at least one of them.
    ///
    /// Content from a reader ([`Raw::reader`](crate::Raw::reader),
    /// [`Attachment::reader`](crate::message::Attachment::reader)) is read only when the server is ready for it. If the
    /// call ends before that (because of a refusal, a lost connection, or a dropped future), the content remains unread
    /// and the message can be sent again.
    ///
    /// # Limits of the server
    ///
    /// If a message has more recipients or domains than the server allows (LIMITS, RFC 9422), it is sent in parts. If
    /// its content can be read only once, `send` fails with [`Error::Message`] instead.
    ///
    /// If the server answers 452 to a recipient and to all later ones, because there are too many recipients (RFC 5321
    /// §4.5.3.1.10), the message is sent to these recipients in further transactions. No such transaction has more
    /// recipients than the server handled in the previous one before it answered 452. The splitting ends once the
    /// server accepts no recipient of a transaction. If the content can be read only once, the remaining recipients
    /// count as temporarily refused. With [`all_or_nothing`](super::Builder::all_or_nothing), a message is never split.
    ///
    /// If the connection has reached the server's limit on the number of messages, a new connection is made. The server
    /// may announce such a limit (LIMITS), or enforce it without notice: after it has accepted at least one message, it
    /// answers MAIL with 421 or 452, or closes the connection before it answers MAIL. The deadline covers the whole
    /// call. A message that is in doubt is never sent again automatically.
    ///
    /// If the server closes two connections after the same number of messages, instead of answering the next command,
    /// that number becomes the limit for later connections, until [`reconnect`](Client::reconnect) is called. If the
    /// first close leaves messages of a batch in doubt, it sets the limit at once. A connection that is closed between
    /// two messages does not count.
    ///
    /// No new connection is made if the caller made the old one ([`connect_over`](super::Builder::connect_over)), or
    /// has changed it with [`starttls`](Client::starttls), [`login`](Client::login), [`helo`](Client::helo),
    /// [`ehlo`](Client::ehlo) with another name, or a [`command`](Client::command) such as XCLIENT.
    ///
    /// # Errors
    ///
    /// Before anything is sent: [`Error::Message`], [`Error::Unsupported`], [`Error::TooLarge`], [`Error::Config`] (for
    /// an envelope option beyond a limit of the server), [`Error::Source`], [`Error::Timeout`] (while the content is
    /// opened), [`Error::NotConnected`], [`Error::Stopped`], the errors of the message itself, and those
    /// of [`reconnect`](Client::reconnect) if a new connection is needed. Afterwards: [`Error::Transaction`], which
    /// reports the outcome for each recipient and whether the delivery is [in doubt](Error::in_doubt). After a refusal
    /// other than 421, the client can still be used.
    pub async fn send(&mut self, mail: &dyn Mail) -> Result<Delivery, Error> {
        let mut call = self.begin();
        let result = match mail.envelope() {
            Ok(envelope) => self.deliver(&mut call, mail, envelope, Freshness::New).await,
            Err(e) => Err(e),
        };
        self.tell_result(&result);
        result
    }

    /// Connects, and sends the only message of the connection.
    pub(super) async fn open_and_send(
        &mut self,
        call: &mut Call,
        mail: &dyn Mail,
    ) -> Result<Delivery, Error> {
        let envelope = mail.envelope()?; // refused before a connection is made
        self.sending.begin(envelope.clone());
        let opened = self.open(call).await;
        self.sending.forget();
        opened?;
        self.deliver(call, mail, envelope, Freshness::Last).await
    }

    /// Sends a message, and connects again first if the connection is closed. See [`Client::again_unasked`] for when
    /// that is refused.
    pub(in super::super) async fn send_reconnected(&mut self, mail: &dyn Mail) -> Result<Delivery, Error> {
        let mut call = self.begin();
        let result = self.connect_and_send(&mut call, mail).await;
        self.tell_result(&result);
        result
    }

    async fn connect_and_send(&mut self, call: &mut Call, mail: &dyn Mail) -> Result<Delivery, Error> {
        let envelope = mail.envelope()?;
        if !self.is_connected() {
            self.sending.begin(envelope.clone());
            let connected = self.again_unasked(call).await;
            self.sending.forget();
            connected?;
        }
        self.deliver(call, mail, envelope, Freshness::New).await
    }

    /// Sends a message. The caller has to tell the observer.
    pub(super) async fn deliver(
        &mut self,
        call: &mut Call,
        mail: &dyn Mail,
        envelope: Envelope,
        freshness: Freshness,
    ) -> Result<Delivery, Error> {
        self.usable(Phase::Mail)?;
        let envelope = self.offered(envelope)?;
        self.sending.begin(envelope.clone());
        let result = self.deliver_whole(call, mail, envelope, freshness).await;
        self.sending.forget();
        result
    }

    async fn deliver_whole(
        &mut self,
        call: &mut Call,
        mail: &dyn Mail,
        envelope: Envelope,
        freshness: Freshness,
    ) -> Result<Delivery, Error> {
        let mut parts = if self.is_one_part(&envelope) {
            let mut result = self.deliver_part(call, mail, envelope.clone(), None, freshness).await;
            let Some(again) = self.take_again(&mut result, mail) else { return result };
            Parts::after(envelope, result, again)
        } else if self.origin.settings.config.all_or_nothing {
            return Err(Error::Unsupported(
                "a recipient limit that is high enough for this message (all_or_nothing prevents splitting it)",
            ));
        } else {
            self.check_readable_again(mail)?;
            match self.split(call, &envelope).await {
                Ok(parts) => Parts::new(envelope, parts),
                Err(e) => {
                    self.close(); // timed out
                    return Err(e);
                }
            }
        };
        while let Some((part, one_by_one)) = parts.next() {
            if !self.link.is_usable() {
                // QUIT was sent with the previous part, or the server has closed the connection after it.
                self.sending.parts = Some(parts);
                let connected = self.again_unasked(call).await;
                parts = self.sending.parts.take().ok_or(NO_PARTS)?;
                if let Err(e) = connected {
                    parts.fail(e);
                    continue;
                }
            }
            let freshness = match freshness {
                Freshness::Last if !parts.is_last() => Freshness::New,
                Freshness::Kept if !parts.is_first() => Freshness::New,
                freshness => freshness,
            };
            let is_first = parts.is_first();
            self.sending.parts = Some(parts);
            let mut result = self.deliver_part(call, mail, part, one_by_one, freshness).await;
            parts = self.sending.parts.take().ok_or(NO_PARTS)?;
            if is_first && !matches!(result, Ok(_) | Err(Error::Transaction { .. })) {
                return result; // nothing has been sent
            }
            let again = self.take_again(&mut result, mail);
            let stops = !self.link.is_usable() && again.is_none();
            parts.settle(result, again);
            if stops {
                parts.stop();
            }
        }
        parts.finish()
    }

    /// Splits the recipients, by their numbers, into as many parts as the server requires. There may be very many, so
    /// the deadline is checked from time to time, and other tasks can run.
    async fn split(&mut self, call: &Call, envelope: &Envelope) -> Result<Vec<Vec<usize>>, Error> {
        let (most, domains) = self.recipient_limits();
        let mut splitter = Splitter::new(most, domains);
        for (number, recipient) in envelope.recipients().iter().enumerate() {
            if number % BATCH_OF_RECIPIENTS == BATCH_OF_RECIPIENTS - 1 {
                self.origin.limit(call, Phase::Mail)?;
                breathe().await;
            }
            splitter.push(number, recipient);
        }
        Ok(splitter.finish())
    }

    /// Delivers to recipients that are within the server's limits. If the server ends the session before it accepts the
    /// message, another connection takes over.
    async fn deliver_part(
        &mut self,
        call: &mut Call,
        mail: &dyn Mail,
        envelope: Envelope,
        one_by_one: Option<usize>,
        freshness: Freshness,
    ) -> Result<Delivery, Error> {
        self.renew(call).await?;
        call.clock = Clock::start();
        let mut turned_away = None;
        loop {
            let envelope = self.offered(envelope.clone())?; // the server of another connection may offer less
            let body = match (self.open_body(call, mail).await, turned_away.take()) {
                (Ok(body), _) => body,
                (Err(_), Some(result)) => return result, // the content can be read only once, and was
                (Err(e), None) => return Err(e),
            };
            let (transaction, survey) = self.transaction(envelope, &body)?;
            let transaction = match survey {
                Some(survey) => transaction.surveyed(survey),
                None => transaction,
            };
            let transaction = transaction.one_by_one(one_by_one);
            let (mut result, end) = self.attempt(call, transaction, Source::new(body), freshness).await;
            // The loss of an idle connection reveals nothing about the server's limit on messages per session.
            let end = end.map(|end| if freshness == Freshness::Kept { End::Announced } else { end });
            if !goes_elsewhere(&result) || !self.may_take_over(end, false) {
                set_timings(&mut result, call.clock.timings());
                return result;
            }
            log::debug!(target: "postino", "#{} the server ended the session: continuing over another connection", self.link.number);
            self.tell_retried(&result);
            let clock = call.clock;
            self.quit_without_waiting();
            let connected = self.again_unasked(call).await;
            call.clock = clock; // connecting is part of the phase in which the session ended
            set_timings(&mut result, call.clock.timings());
            if let Err(e) = connected {
                return still_not_sent(result, e);
            }
            turned_away = Some(result);
        }
    }

    /// Sends a message over this connection. Also returns how the server ended the session, if it did.
    async fn attempt(
        &mut self,
        call: &mut Call,
        transaction: Transaction,
        mut source: Source<'_>,
        freshness: Freshness,
    ) -> (Result<Delivery, Error>, Option<End>) {
        let options = self.options();
        // Not by default: Exim 4.96 sends its reply to the message together with the one to QUIT, up to 200 ms later, and
        // nothing is gained, because nobody waits for the reply to a QUIT that follows.
        let joins =
            self.origin.settings.config.joining == JoinPolicy::Always && options.joining != Joining::Off;
        let farewell = freshness == Freshness::Last && joins;
        let mut talk = Transactions::new(Options { farewell, ..options }, self.is_open());
        let kept = freshness == Freshness::Kept;
        talk.message(if kept { transaction.ahead(false) } else { transaction });
        talk.no_more();
        self.link.begun += 1;
        // If this future is dropped, the client still has what it needs to report the result.
        let Client { link, origin, sending, .. } = self;
        let talk = sending.talk.insert(talk);
        let broke = loop {
            match link.go_on(origin, call, talk, Some((0, &mut source))).await {
                Ok(Want::Result) => sending.result = talk.next_result(),
                Ok(_) => break None,
                Err(e) => break Some(e),
            }
        };
        let result = sending.result.take();
        let Some(mut talk) = sending.talk.take() else {
            return (Err(Error::Internal("a message has no transaction")), None); // never: it was inserted above
        };
        // Without an error, it can only be a 452 reply to MAIL.
        let end = broke.as_ref().map_or(Some(End::Announced), End::of);
        if result.is_some() || broke.is_none() {
            self.settle(matches!(result, Some(Ok(_))), Instant::now());
        }
        if let Some(e) = broke {
            talk.lose(self.link.out.octets_offered(), e);
        }
        self.history.open = OpenTransaction::left(talk.is_open());
        self.learn_from(&talk);
        if talk.said_farewell() {
            self.close();
        }
        let result =
            result.or_else(|| talk.next_result()).unwrap_or(Err(Error::Internal("a message has no result")));
        (result, end)
    }

    /// Returns the body of a message, ready to be read.
    pub(super) async fn open_body<'m>(&mut self, call: &Call, mail: &'m dyn Mail) -> Result<Body<'m>, Error> {
        let body = mail.body_for(self.offer())?;
        if body.is_open() {
            return Ok(body);
        }
        open(body, self.origin.limit(call, Phase::Body)?).await.map_err(source_error)
    }

    /// Connects again if no more messages may be sent over this connection.
    pub(super) async fn renew(&mut self, call: &mut Call) -> Result<(), Error> {
        if !self.is_used_up() {
            return Ok(());
        }
        log::debug!(target: "postino", "#{} the server accepts no more messages on this connection", self.link.number);
        self.quit_without_waiting();
        self.again_unasked(call).await
    }
}

/// Stores the timings in a result.
pub(super) fn set_timings(result: &mut Result<Delivery, Error>, took: Timings) {
    match result {
        Ok(delivery) => delivery.set_took(took),
        Err(Error::Transaction { delivery, .. }) => delivery.set_took(took),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::origin::Maker;
    use super::*;

    #[test]
    fn a_connection_lost_while_idle_does_not_limit_the_next_one() {
        let (now, earlier) = (Some(Instant::now()), Instant::now().checked_sub(IDLE));
        for (answered, is_asked, limits) in [(now, true, true), (earlier, true, false), (now, false, false)] {
            let mut client = Client::builder("127.0.0.1").client(Maker::Client).unwrap();
            if is_asked {
                client.link.out.expect(); // a reply
            }
            client.settle(true, Instant::now());
            client.history.settled_at = answered;
            for _ in 0..2 {
                assert!(client.may_take_over(Some(End::Unannounced), false));
            }
            assert_eq!(client.history.session.renewed().is_used_up(1, None), limits);
        }
    }
}
