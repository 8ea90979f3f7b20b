//! Sending one message: what is said of it, within the server's limits, and what became of it.

use super::{
    body::{Source, open},
    maybe_async,
    run::{Clock, source_error},
    session::Client,
};
use crate::{
    Delivery, Envelope, Error, Mail, Outcome, Phase, Took,
    message::{Body, Content, Offer},
    proto::{
        Forbidden, Joining, MailParameters, Options, Survey, Transaction, Transactions, Want,
        check_recipients,
    },
};

/// Content up to this size may leave by BDAT before its envelope is answered, and is kept until it leaves; in octets.
const AHEAD: u64 = 64 * 1024;

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
        let pipelining =
            config.pipelining && self.capabilities.offers("PIPELINING") && !self.pace.is_stalled();
        // Dovecot 2.3's submission crashes on an envelope behind a final dot that it has not answered (an assertion in its
        // smtp-server-transaction.c), and leaves the message in doubt. BURL (RFC 4468) is what hardly any other offers.
        let joining = pipelining && !self.capabilities.offers("BURL");
        Options {
            pipelining,
            chunking: config.chunking && self.capabilities.offers("CHUNKING"),
            joining: if joining { config.joining.get() } else { Joining::Off },
            all_or_nothing: config.all_or_nothing,
            farewell: false,
            lmtp: config.lmtp,
        }
    }

    /// What a message may know of the server.
    pub(super) fn offer(&self) -> Offer {
        let mut offer = Offer::new();
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
        // Each may have a domain of its own.
        envelope.recipients().len() <= most.min(domains) || self.parts(envelope).len() == 1
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

    /// The recipients by their numbers, in as many parts as the server asks for.
    fn parts(&self, envelope: &Envelope) -> Vec<Vec<usize>> {
        let recipients = envelope.recipients();
        let (most, domains) = self.recipient_limits();
        let domain = |number: usize| recipients[number].domain().unwrap_or_default().to_ascii_lowercase();
        let mut parts: Vec<(Vec<usize>, Vec<String>)> = Vec::new();
        for number in 0..recipients.len() {
            let name = domain(number);
            let fits = |(numbers, names): &&mut (Vec<usize>, Vec<String>)| {
                numbers.len() < most && (names.contains(&name) || names.len() < domains)
            };
            match parts.iter_mut().find(fits) {
                Some((numbers, names)) => {
                    numbers.push(number);
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
                None => parts.push((vec![number], vec![name])),
            }
        }
        parts.into_iter().map(|(numbers, _)| numbers).collect()
    }

    /// Whether the server takes no further message on this connection (LIMITS MAILMAX, RFC 9422 §4.1).
    pub(super) fn is_used_up(&self) -> bool {
        self.capabilities.limit("MAILMAX").is_some_and(|most| self.begun >= most as u64)
    }
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
    /// Where the server limits the recipients of a message, it goes out in parts, unless its content can be read only once,
    /// which is [`Error::Message`]; where it limits the messages of a
    /// connection, over a new one (LIMITS, RFC 9422), unless the old one was secured or logged in by a call of its own
    /// ([`starttls`](Client::starttls), [`login`](Client::login)), or made by the caller
    /// ([`connect_over`](super::Builder::connect_over)): then it is closed, and [`Error::NotConnected`].
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
        if self.is_one_part(&envelope) {
            return self.deliver_part(mail, envelope, freshness).await;
        }
        if self.settings.config.all_or_nothing {
            return Err(Error::Unsupported("so many recipients at once, and all or nothing was asked for"));
        }
        self.check_readable_again(mail)?;
        let parts = self.parts(&envelope);
        let last = parts.len() - 1;
        let (mut done, mut failed) = (Vec::new(), None);
        for (i, numbers) in parts.into_iter().enumerate() {
            let part = envelope.part(&numbers);
            let freshness = match freshness {
                Freshness::Last if i < last => Freshness::New,
                Freshness::Kept if i > 0 => Freshness::New,
                freshness => freshness,
            };
            let delivery = match failed {
                None => match self.deliver_part(mail, part.clone(), freshness).await {
                    Ok(delivery) => delivery,
                    Err(Error::Transaction { delivery, source }) => {
                        failed = self.broken.then_some(*source);
                        *delivery
                    }
                    Err(e) if i == 0 => return Err(e), // nothing has been sent
                    Err(e) => {
                        failed = Some(e);
                        Delivery::not_sent(part)
                    }
                },
                Some(_) => Delivery::not_sent(part),
            };
            done.push((numbers, delivery));
        }
        let delivery = Delivery::whole(envelope, done);
        let refused = || {
            let reply = delivery.refused().find_map(|recipient| recipient.reply().cloned());
            reply.map(|reply| Error::Refused { phase: Phase::Recipient, reply })
        };
        match delivery.outcome() {
            Outcome::Accepted => Ok(delivery),
            _ => {
                let source =
                    failed.or_else(refused).unwrap_or(Error::Internal("a part that failed for no reason"));
                Err(Error::Transaction { delivery: Box::new(delivery), source: Box::new(source) })
            }
        }
    }

    /// The same within the server's limits.
    async fn deliver_part(
        &mut self,
        mail: &dyn Mail,
        envelope: Envelope,
        freshness: Freshness,
    ) -> Result<Delivery, Error> {
        self.renew().await?;
        let envelope = self.offered(envelope)?; // the new connection's server may offer less
        let body = self.open_body(mail).await?;
        let (mut transaction, _) = self.transaction(envelope, &body)?;
        if freshness == Freshness::Kept {
            transaction = transaction.ahead(false);
        }
        let options = self.options();
        let farewell = freshness == Freshness::Last && options.pipelining;
        let mut talk = Transactions::new(Options { farewell, ..options }, self.is_open());
        self.by_hand = None;
        talk.message(transaction);
        talk.no_more();
        let mut source = Source::new(body);
        self.clock = Clock::start();
        self.begun += 1;
        let mut result = None;
        let broke = loop {
            match self.go_on(&mut talk, Some((0, &mut source))).await {
                Ok(Want::Result) => result = talk.next_result(),
                Ok(_) => break None,
                Err(e) => break Some(e),
            }
        };
        if let Some(e) = broke {
            talk.lose(self.out.offered(), e);
        }
        self.open = talk.is_open();
        if talk.said_farewell() {
            self.close();
        }
        let result = result
            .or_else(|| talk.next_result())
            .unwrap_or(Err(Error::Internal("a message without a result")));
        timed(result, self.clock.took())
    }

    /// The body of a message, ready to be read.
    pub(super) async fn open_body<'m>(&mut self, mail: &'m dyn Mail) -> Result<Body<'m>, Error> {
        let body = mail.body_for(self.offer())?;
        match body.is_open() {
            true => Ok(body),
            false => open(body, self.limit(Phase::Body)?).await.map_err(source_error),
        }
    }

    /// Where the server takes no more messages on this connection: a new one.
    pub(super) async fn renew(&mut self) -> Result<(), Error> {
        if !self.is_used_up() {
            return Ok(());
        }
        log::debug!(target: "postino", "#{} the server takes no more messages on this connection (LIMITS MAILMAX)", self.number);
        self.goodbye().await;
        self.again_unasked().await
    }
}

/// The result, with how long it took.
pub(super) fn timed(mut result: Result<Delivery, Error>, took: Took) -> Result<Delivery, Error> {
    match &mut result {
        Ok(delivery) => delivery.set_took(took),
        Err(Error::Transaction { delivery, .. }) => delivery.set_took(took),
        Err(_) => {}
    }
    result
}
