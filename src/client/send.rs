//! Sending one message: what is said of it, within the server's limits, and what became of it.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use super::{
    body::{Source, open},
    breathe, maybe_async,
    run::{Clock, source_error},
    session::Client,
};
use crate::{
    Delivery, Envelope, Error, JoinPolicy, Mail, Phase, Timings,
    delivery::Again,
    message::{Body, Content, ServerSupport},
    parts::{Parts, Splitter},
    proto::{
        End, Forbidden, Joining, MailParameters, Options, Survey, Transaction, Transactions, Want,
        check_recipients,
    },
};

/// Content up to this size may leave by BDAT before its envelope is answered, and is kept until it leaves; in octets.
const AHEAD: u64 = 64 * 1024;

/// How many recipients are looked at between two looks at the deadline.
const TURN: usize = 4096;

/// A connection that has had no message for so long is idle. Firewalls and servers keep idle connections for longer, mostly.
const IDLE: Duration = Duration::from_secs(10);

/// What is to be thought of the connection that a message goes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// It was used a moment ago.
    New,
    /// It was idle, and may be dead: no content leaves before the server has answered.
    Kept,
    /// It is of no use behind this message.
    Last,
}

impl Client {
    /// How transactions are carried out here.
    pub(super) fn options(&self) -> Options {
        let config = &self.settings.config;
        let chunking = self.capabilities.offers("CHUNKING");
        let pipelining = config.pipelining
            && config.learnt.pipelines()
            && self.capabilities.offers("PIPELINING")
            && !self.pace.is_stalled();
        let joins = match config.joining {
            // Some servers take what follows the end of a message for a part of it: RFC 3030 does not let them be so
            // careless. Dovecot 2.3's submission crashes on an envelope behind a final dot that it has not answered (an
            // assertion in its smtp-server-transaction.c), and leaves the message in doubt: hardly any other offers BURL
            // (RFC 4468). In LMTP a server that refuses a message once, and not for each recipient, would have the replies to
            // the envelope taken for those that it owes.
            JoinPolicy::Automatic => chunking && !config.lmtp && !self.capabilities.offers("BURL"),
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

    /// What a message may know of the server.
    pub(super) fn offer(&self) -> ServerSupport {
        let mut offer = ServerSupport::new();
        offer.eight_bit = self.capabilities.offers("8BITMIME");
        // RFC 6531 §3.1: who offers the first offers the second too.
        offer.utf8_headers = offer.eight_bit && self.capabilities.offers("SMTPUTF8");
        offer
    }

    /// Whether the next transaction has to begin with RSET: something was left open, perhaps by single commands.
    pub(super) fn is_open(&self) -> bool {
        self.by_hand.is_some() || self.open
    }

    /// The envelope as this server can have it, if it can.
    pub(super) fn offered(&self, envelope: Envelope) -> Result<Envelope, Error> {
        envelope.check_offered(&self.capabilities, self.is_encrypted())?;
        let envelope = match self.capabilities.offers("SMTPUTF8") {
            true => envelope,
            false => envelope.without_utf8()?,
        };
        check_recipients(&envelope)?; // of all parts, before the first is sent
        Ok(envelope)
    }

    /// What to say of this message in MAIL; and its content, if that is at hand, small ([`AHEAD`]), and watched by nobody,
    /// so that it may be handed over with it. Or why the server cannot take it; nothing has been sent yet.
    pub(super) fn transaction<'b>(
        &self,
        envelope: Envelope,
        body: &'b Body<'_>,
    ) -> Result<(Transaction, Option<Survey<'b>>), Error> {
        let offers = |keyword| self.capabilities.offers(keyword);
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
                "SMTPUTF8 with 8BITMIME, and an address in the headers is not ASCII",
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
                log::warn!(target: "postino", "#{} the message has a line of more than 998 octets: {line}", self.number);
            }
            _ => {}
        }
        match (octets, self.capabilities.size_limit()) {
            (Some(size), Some(limit)) if size > limit => return Err(Error::TooLarge { size, limit }),
            _ => {}
        }
        let parameters = MailParameters {
            size: octets.filter(|_| offers("SIZE")),
            utf8: !envelope.is_ascii() || body.utf8,
            // What a reader holds is not known yet.
            eight_bit: offers("8BITMIME") && survey.map_or(!body.seven_bit, |survey| survey.eight_bit),
            binary,
        };
        let at_hand = matches!(body.content, Content::Bytes(_));
        let ahead = at_hand && octets.is_some_and(|octets| octets <= AHEAD);
        let survey = survey.filter(|_| ahead && !body.is_watched());
        let transaction = Transaction::new(envelope, parameters).ahead(ahead);
        transaction.check()?;
        Ok((transaction, survey))
    }

    /// The most recipients of a message, and the most domains of theirs, that the server takes (RFC 9422 §4).
    fn recipient_limits(&self) -> (usize, usize) {
        let limit = |name| self.capabilities.limit(name).unwrap_or(usize::MAX);
        (limit("RCPTMAX"), limit("RCPTDOMAINMAX"))
    }

    /// Whether the server takes all recipients at once.
    pub(super) fn is_one_part(&self, envelope: &Envelope) -> bool {
        let (most, domains) = self.recipient_limits();
        let recipients = envelope.recipients();
        // Each may have a domain of its own.
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

    /// Content that can be read only once must not go to the recipients of the first part alone. Nothing is opened or read.
    fn check_readable_again(&self, mail: &dyn Mail) -> Result<(), Error> {
        let body = mail.body_for(self.offer())?;
        if body.is_read_once() {
            return Err(Error::Message(
                "it has more recipients than the server takes at once (LIMITS), and content that can be read only once"
                    .into(),
            ));
        }
        if !matches!(body.content, Content::Bytes(_)) {
            // A type that is not ours may refuse a second body, while there is the first one.
            drop(mail.body_for(self.offer())?);
        }
        Ok(())
    }

    /// Whether the server takes no further message on this connection (LIMITS MAILMAX, RFC 9422 §4.1).
    pub(super) fn is_used_up(&self) -> bool {
        self.session.is_used_up(self.begun, self.capabilities.limit("MAILMAX"))
    }

    /// Keeps what a dialogue has learnt of the server.
    pub(super) fn learn_from(&self, talk: &Transactions) {
        let learnt = &self.settings.config.learnt;
        let joining = Some(talk.joining()).filter(|now| *now != Joining::Untried && *now != learnt.joining());
        if joining.is_none() && talk.pipelines() {
            return; // mostly
        }
        let began = self.options();
        if began.pipelining && !talk.pipelines() {
            log::debug!(target: "postino", "#{} the server misreads pipelined commands", self.number);
            learnt.learn_that_it_misreads();
        } else if let Some(joining) = joining.filter(|_| began.joining != Joining::Off) {
            learnt.learn_joining(joining);
        }
    }

    /// Who of the recipients of a message may have it again over the same connection, and how: as the server has it, and as
    /// far as the content goes.
    pub(super) fn take_again(&self, result: &mut Result<Delivery, Error>, mail: &dyn Mail) -> Option<Again> {
        let again = match result {
            Ok(delivery) => delivery.take_again(),
            Err(Error::Transaction { delivery, .. }) => delivery.take_again(),
            Err(_) => None,
        };
        // As long as nobody was accepted, nothing was read that cannot be read again.
        let unread = result.is_err();
        let repeatable = || mail.body_for(self.offer()).is_ok_and(|body| unread || !body.is_read_once());
        again.filter(|again| *again != Again::Elsewhere && repeatable())
    }

    /// A message has its last reply.
    pub(super) fn settle(&mut self, accepted: bool) {
        self.session.settle(accepted);
        self.settled_at = Some(Instant::now());
    }

    /// The server has ended the session before it took a message: whether another connection may take over.
    pub(super) fn may_take_over(&mut self, end: Option<End>) -> bool {
        let in_use = self.settled_at.is_some_and(|at| at.elapsed() < IDLE);
        end.is_some_and(|end| self.session.ends(end, in_use)) && self.is_replaceable()
    }
}

/// Whether all of the message may be sent over another connection.
pub(super) fn goes_elsewhere(result: &Result<Delivery, Error>) -> bool {
    matches!(result, Err(Error::Transaction { delivery, .. }) if delivery.goes_elsewhere())
}

/// A message that was turned away, for which there is no other connection either. A refusal stays what it is.
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
    /// Sends a message to all of its recipients; `Ok` if one of them at least was accepted.
    ///
    /// Content that comes from a reader ([`Raw::reader`](crate::Raw::reader),
    /// [`Attachment::reader`](crate::message::Attachment::reader)) is read when the server is ready for it, and not before.
    /// Whatever ends the call earlier (a refusal, a lost connection, a dropped future) leaves it unread, and the message can be
    /// sent again.
    ///
    /// Where the server limits the recipients of a message (LIMITS, RFC 9422), the message is sent in parts. If its content
    /// can be read only once, it is refused with [`Error::Message`] instead. If the server answers 452 to a recipient and all
    /// that follow, because they are too many (RFC 5321 §4.5.3.1.10), these get the message in further transactions, each with
    /// no more recipients than the one before had room for, until the server has room for none. If the content can be read only once, they are refused for now. Neither goes together with
    /// [`all_or_nothing`](super::Builder::all_or_nothing).
    ///
    /// Where the server limits the messages of a connection, the message is sent over a new one. That is the case if it
    /// announces a limit (LIMITS), and if it ends a session in which a message was accepted: it answers MAIL with 421 or
    /// 452, or closes the connection before it answers MAIL. After a connection that was closed without a reply while it was
    /// in use, no later one carries more messages, until [`reconnect`](Client::reconnect). The deadline covers all of it, and a message that is
    /// in doubt is never sent again. No new connection is made if the old one was changed by a call of its own
    /// ([`starttls`](Client::starttls), [`login`](Client::login), [`helo`](Client::helo), [`ehlo`](Client::ehlo) with another
    /// name, [`command`](Client::command) with XCLIENT or the like), or made by the caller
    /// ([`connect_over`](super::Builder::connect_over)).
    ///
    /// # Errors
    ///
    /// Before anything is sent: [`Error::Message`], [`Error::Unsupported`], [`Error::TooLarge`], [`Error::Source`], and
    /// those of the message itself. Then [`Error::Transaction`], which tells what became of each recipient and
    /// whether the delivery is [in doubt](Error::in_doubt). After a refusal the connection goes on.
    pub async fn send(&mut self, mail: &dyn Mail) -> Result<Delivery, Error> {
        self.begin();
        let envelope = mail.envelope()?;
        self.deliver(mail, envelope, Freshness::New).await
    }

    pub(super) async fn deliver(
        &mut self,
        mail: &dyn Mail,
        envelope: Envelope,
        freshness: Freshness,
    ) -> Result<Delivery, Error> {
        self.usable(Phase::Mail)?;
        let envelope = self.offered(envelope)?;
        let mut parts = if self.is_one_part(&envelope) {
            let mut result = self.deliver_part(mail, envelope.clone(), None, freshness).await;
            let Some(again) = self.take_again(&mut result, mail) else { return result };
            Parts::after(envelope, result, again)
        } else if self.settings.config.all_or_nothing {
            return Err(Error::Unsupported("so many recipients at once, and all or nothing was asked for"));
        } else {
            self.check_readable_again(mail)?;
            match self.split(&envelope).await {
                Ok(parts) => Parts::new(envelope, parts),
                Err(e) => {
                    self.close(); // the time is up
                    return Err(e);
                }
            }
        };
        while let Some((part, one_by_one)) = parts.next() {
            if self.broken {
                // QUIT has left with the part before, or the server has closed behind it.
                if let Err(e) = self.again_unasked().await {
                    parts.fail(e);
                    continue;
                }
            }
            let freshness = match freshness {
                Freshness::Last if !parts.is_last() => Freshness::New,
                Freshness::Kept if !parts.is_first() => Freshness::New,
                freshness => freshness,
            };
            let mut result = self.deliver_part(mail, part, one_by_one, freshness).await;
            if parts.is_first() && !matches!(result, Ok(_) | Err(Error::Transaction { .. })) {
                return result; // nothing has been sent
            }
            let again = self.take_again(&mut result, mail);
            let stops = self.broken && again.is_none();
            parts.settle(result, again);
            if stops {
                parts.stop();
            }
        }
        parts.finish()
    }

    /// The recipients by their numbers, in as many parts as the server asks for. They may be very many: the deadline is
    /// looked at now and then, and others get their turn.
    async fn split(&mut self, envelope: &Envelope) -> Result<Vec<Vec<usize>>, Error> {
        let (most, domains) = self.recipient_limits();
        let mut splitter = Splitter::new(most, domains);
        for (number, recipient) in envelope.recipients().iter().enumerate() {
            if number % TURN == TURN - 1 {
                self.limit(Phase::Mail)?;
                breathe().await;
            }
            splitter.push(number, recipient);
        }
        Ok(splitter.finish())
    }

    /// The same within the server's limits. Where the server ends the session before it takes the message, another
    /// connection takes over.
    async fn deliver_part(
        &mut self,
        mail: &dyn Mail,
        envelope: Envelope,
        one_by_one: Option<usize>,
        freshness: Freshness,
    ) -> Result<Delivery, Error> {
        self.renew().await?;
        self.clock = Clock::start();
        let mut turned_away = None;
        loop {
            let envelope = self.offered(envelope.clone())?; // another connection's server may offer less
            let body = match (self.open_body(mail).await, turned_away.take()) {
                (Ok(body), _) => body,
                (Err(_), Some(result)) => return result, // it could be read once, and was
                (Err(e), None) => return Err(e),
            };
            let (transaction, _) = self.transaction(envelope, &body)?;
            let transaction = transaction.one_by_one(one_by_one);
            let (result, end) = self.attempt(transaction, Source::new(body), freshness).await;
            // One that has died while it was idle tells nothing of how many messages a session may have.
            let end = end.map(|end| if freshness == Freshness::Kept { End::Announced } else { end });
            if !goes_elsewhere(&result) || !self.may_take_over(end) {
                return timed(result, self.clock.timings());
            }
            log::debug!(target: "postino", "#{} the server ends the session: going on over another connection", self.number);
            let clock = self.clock;
            self.part();
            let connected = self.again_unasked().await;
            self.clock = clock;
            let result = timed(result, self.clock.timings());
            if let Err(e) = connected {
                return still_not_sent(result, e);
            }
            turned_away = Some(result);
        }
    }

    /// Sends a message over this connection; tells how the server ended the session, if it did.
    async fn attempt(
        &mut self,
        transaction: Transaction,
        mut source: Source<'_>,
        freshness: Freshness,
    ) -> (Result<Delivery, Error>, Option<End>) {
        let options = self.options();
        let farewell = freshness == Freshness::Last && options.joining != Joining::Off;
        let mut talk = Transactions::new(Options { farewell, ..options }, self.is_open());
        self.by_hand = None;
        let kept = freshness == Freshness::Kept;
        talk.message(if kept { transaction.ahead(false) } else { transaction });
        talk.no_more();
        self.begun += 1;
        let mut result = None;
        let broke = loop {
            match self.go_on(&mut talk, Some((0, &mut source))).await {
                Ok(Want::Result) => result = talk.next_result(),
                Ok(_) => break None,
                Err(e) => break Some(e),
            }
        };
        // Without an error it can only be a 452 to MAIL.
        let end = broke.as_ref().map_or(Some(End::Announced), End::of);
        if result.is_some() || broke.is_none() {
            self.settle(matches!(result, Some(Ok(_))));
        }
        if let Some(e) = broke {
            talk.lose(self.out.octets_offered(), e);
        }
        self.open = talk.is_open();
        self.learn_from(&talk);
        if talk.said_farewell() {
            self.close();
        }
        let result = result
            .or_else(|| talk.next_result())
            .unwrap_or(Err(Error::Internal("a message without a result")));
        (result, end)
    }

    /// The body of a message, ready to be read.
    pub(super) async fn open_body<'m>(&mut self, mail: &'m dyn Mail) -> Result<Body<'m>, Error> {
        let body = mail.body_for(self.offer())?;
        match body.is_open() {
            true => Ok(body),
            false => open(body, self.limit(Phase::Body)?).await.map_err(source_error),
        }
    }

    /// Where this connection may carry no more messages: a new one.
    pub(super) async fn renew(&mut self) -> Result<(), Error> {
        if !self.is_used_up() {
            return Ok(());
        }
        log::debug!(target: "postino", "#{} the server takes no more messages on this connection", self.number);
        self.part();
        self.again_unasked().await
    }
}

/// The result, with how long it took.
pub(super) fn timed(mut result: Result<Delivery, Error>, took: Timings) -> Result<Delivery, Error> {
    match &mut result {
        Ok(delivery) => delivery.set_took(took),
        Err(Error::Transaction { delivery, .. }) => delivery.set_took(took),
        Err(_) => {}
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_was_lost_while_it_was_idle_does_not_limit_the_next_one() {
        for (answered, limits) in [(Some(Instant::now()), true), (Instant::now().checked_sub(IDLE), false)] {
            let mut client = Client::builder("127.0.0.1").client().unwrap();
            client.settle(true);
            client.settled_at = answered;
            assert!(client.may_take_over(Some(End::Unannounced)));
            assert_eq!(client.session.renewed().is_used_up(1, None), limits);
        }
    }
}
