//! The result of sending a message, for each of its recipients.

use std::{fmt, time::Duration, vec};

use crate::{Address, Envelope, Error, Reply, Retry, proto::queue_id};

/// Maximum number of recipients that a text lists by name; the others are only counted.
const MAX_NAMED: usize = 3;

/// The result of sending a message, either as a whole or to one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The server accepted the message and took responsibility for it.
    Accepted,
    /// The server refused the message. Its reply says why, and whether the refusal is transient or permanent.
    Refused,
    /// The message was certainly not delivered, so sending it again cannot duplicate it.
    NotSent,
    /// The message may have been delivered: its end was sent, but no reply arrived (RFC 1047).
    InDoubt,
}

impl Outcome {
    /// Orders outcomes: the best of its recipients is the outcome of a message.
    fn rank(self) -> u8 {
        match self {
            Outcome::Accepted => 0,
            Outcome::InDoubt => 1,
            Outcome::Refused => 2,
            Outcome::NotSent => 3,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Accepted => "accepted",
            Outcome::Refused => "refused",
            Outcome::NotSent => "not sent",
            Outcome::InDoubt => "in doubt",
        })
    }
}

/// The result of sending a message, with the outcome for each recipient.
///
/// If [`Client::send`](crate::Client::send) returns `Ok`, the message was accepted for at least one recipient. The
/// server may have refused others: [`require_all`](Delivery::require_all) turns that into an error, and
/// [`refused`](Delivery::refused) lists them. An [`Error::Transaction`], which means that no recipient was accepted,
/// also contains a delivery.
///
/// Over LMTP, or if the message was sent in parts, a lost connection can leave some recipients with the outcome
/// [`InDoubt`](Outcome::InDoubt) or [`NotSent`](Outcome::NotSent); see [`recipients`](Delivery::recipients).
///
/// ```no_run
/// # let mail = postino::Raw::bytes(postino::Envelope::new("", ["b@c"])?, "");
/// let delivery = postino::send("smtp://mail.example.org", &mail)?;
/// println!("{delivery}"); // accepted for bob@example.net: 250 2.0.0 Ok: queued as 4F2A
/// for recipient in &delivery {
///     println!("{}: {}", recipient.address(), recipient.outcome());
/// }
/// if let Some(envelope) = delivery.retry_envelope() {
///     // Some were refused with 4yz: send the message to this envelope again, later.
/// #   let _ = envelope;
/// }
/// # Ok::<(), postino::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Delivery {
    envelope: Envelope,
    outcome: Outcome,
    /// The outcome of the recipients without an individual reply.
    others: Outcome,
    reply: Option<Reply>,
    /// The recipients with an individual reply, in order.
    own: Box<[(usize, Outcome, Option<Reply>)]>,
    /// The part of the message that may be resent at once. Callers never see it. Boxed because it is rare, and
    /// results are moved often.
    again: Option<Box<Again>>,
    /// Whether it was to be sent to all recipients or to none.
    is_indivisible: bool,
    took: Timings,
}

/// The part of a message that may be resent at once, because the server has refused neither it nor its recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Again {
    /// The whole message, over another connection: this one ended before MAIL was answered, or MAIL was answered with
    /// 452.
    Elsewhere,
    /// For these recipients, in a further transaction: they were too many for one.
    Rest(Vec<usize>),
    /// For these recipients, one command at a time: among pipelined commands, the one with this number in the new
    /// transaction was refused as out of sequence.
    OneByOne { recipients: Vec<usize>, command: usize },
}

/// The duration of each phase of sending a message. Messages in a batch overlap, so only [`total`](Timings::total) is
/// set for them: the time since the previous result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// Time from MAIL to the server's 354 reply or, with BDAT, to the reply to the last RCPT.
    pub envelope: Duration,
    /// Time to send the content.
    pub content: Duration,
    /// Time from the end of the content to the final reply.
    pub end: Duration,
    /// Time for the whole message, including RSET after a failure.
    pub total: Duration,
}

impl Delivery {
    /// Creates a delivery. `own` must be in the order of the recipients.
    pub(crate) fn new(
        envelope: Envelope,
        outcome: Outcome,
        others: Outcome,
        reply: Option<Reply>,
        own: Vec<(usize, Outcome, Option<Reply>)>,
    ) -> Delivery {
        Delivery {
            envelope,
            outcome,
            others,
            reply,
            own: own.into(),
            again: None,
            is_indivisible: false,
            took: Timings::default(),
        }
    }

    pub(crate) fn not_sent(envelope: Envelope) -> Delivery {
        Delivery::new(envelope, Outcome::NotSent, Outcome::NotSent, None, Vec::new())
    }

    pub(crate) fn set_again(&mut self, again: Again) {
        self.again = Some(Box::new(again));
    }

    pub(crate) fn set_indivisible(&mut self) {
        self.is_indivisible = true;
    }

    /// Returns the numbers of the recipients that the message may be sent to again. If it was to be sent to all or none
    /// of them, and one was refused permanently, these are none.
    pub(crate) fn worth_retrying(&self) -> Vec<usize> {
        let is_lost = |one: Recipient<'_>| one.outcome == Outcome::Refused && !one.can_be_retried();
        if self.is_indivisible && self.recipients().any(is_lost) {
            return Vec::new();
        }
        let retried = self.recipients().enumerate().filter(|(_, one)| one.can_be_retried());
        retried.map(|(number, _)| number).collect()
    }

    /// Whether the whole message may be resent over another connection.
    pub(crate) fn goes_elsewhere(&self) -> bool {
        self.again.as_deref() == Some(&Again::Elsewhere)
    }

    /// Whether any part of the message may be resent at once.
    pub(crate) fn goes_again(&self) -> bool {
        self.again.is_some()
    }

    pub(crate) fn take_again(&mut self) -> Option<Again> {
        self.again.take().map(|again| *again)
    }

    pub(crate) fn set_took(&mut self, took: Timings) {
        self.took = took;
    }

    /// Returns the outcome of the message as a whole, which counts as accepted if it was accepted for any recipient.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Returns the reply that decided the outcome, which is the reply to the end of the message if sending got that
    /// far. Returns `None` if no single reply did, for example because each recipient was refused individually.
    #[must_use]
    pub fn reply(&self) -> Option<&Reply> {
        self.reply.as_ref()
    }

    /// Returns the envelope that the message was sent with.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Returns the server's queue ID for the message, which identifies it in the server's logs; `None` if the message
    /// was not accepted, or if the reply has no queue ID in a known form.
    ///
    /// If the message took several transactions, because it was sent in parts or retried, this is the ID of only one of
    /// them. The [`reply`](Recipient::reply) of each recipient contains the ID of the recipient's own transaction.
    ///
    /// The known forms are those of Postfix, Exim, Sendmail, OpenSMTPD, qmail, Courier, Haraka, Exchange, Microsoft
    /// 365, Gmail, Amazon SES, Yandex, NetEase and others. Text that might be something else is never returned.
    #[must_use]
    pub fn queue_id(&self) -> Option<&str> {
        let reply = self.reply.as_ref().filter(|_| self.outcome == Outcome::Accepted)?;
        reply.text_lines().find_map(queue_id)
    }

    /// Returns the delivery if the message was accepted for every recipient, and an error otherwise.
    ///
    /// Without this check, the result is `Ok` even if a message was accepted for only one of two recipients. The option
    /// [`all_or_nothing`](crate::Builder::all_or_nothing) goes further: if one recipient is refused, the message is
    /// sent to nobody.
    ///
    /// ```no_run
    /// # let mail = postino::Raw::bytes(postino::Envelope::new("", ["b@c", "d@e"])?, "");
    /// postino::send("smtp://mail.example.org", &mail)?.require_all()?;
    /// # Ok::<(), postino::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::PartialDelivery`] if a recipient was refused, was not sent the message, or is in doubt. The
    /// error text names the first few of these recipients.
    pub fn require_all(self) -> Result<Delivery, Error> {
        if self.recipients().all(|recipient| recipient.outcome == Outcome::Accepted) {
            return Ok(self);
        }
        Err(Error::PartialDelivery { delivery: Box::new(self) })
    }

    /// Returns all recipients in the order of the envelope, each with its outcome.
    pub fn recipients(&self) -> impl Iterator<Item = Recipient<'_>> {
        let mut own = self.own.iter().peekable();
        self.envelope.recipients().iter().enumerate().map(move |(number, address)| {
            let (outcome, reply) = match own.next_if(|(index, ..)| *index == number) {
                Some((_, outcome, reply)) => (*outcome, reply.as_ref()),
                // The reply applies to them only if it is for the same outcome.
                None => (self.others, self.reply.as_ref().filter(|_| self.others == self.outcome)),
            };
            Recipient { address, outcome, reply }
        })
    }

    /// Returns the recipients that the server refused individually; others may have been accepted. If the message was
    /// refused as a whole, its recipients are included only if it was sent in parts or retried; otherwise,
    /// [`reply`](Delivery::reply) returns that refusal.
    pub fn refused(&self) -> impl Iterator<Item = Recipient<'_>> {
        let refused = self.own.iter().filter(|(_, outcome, _)| *outcome == Outcome::Refused);
        refused.map(|(number, outcome, reply)| Recipient {
            address: &self.envelope.recipients()[*number],
            outcome: *outcome,
            reply: reply.as_ref(),
        })
    }

    /// Returns an envelope for the recipients that can safely be retried: those to whom the message was not sent, and
    /// those refused with 4yz. Retrying them cannot cause duplicates. Returns `None` if there are no such recipients.
    ///
    /// To resend a composed message, pass the envelope to [`Message::with_envelope`](crate::Message::with_envelope). To
    /// resend a [`Raw`](crate::Raw), create it again with this envelope. [`Retrying`](crate::Retrying) resends any
    /// message to these recipients automatically.
    ///
    /// ```no_run
    /// # use postino::{Client, Delivery, Error, Message};
    /// fn send_to_the_rest(client: &mut Client, message: &Message, delivery: &Delivery) -> Result<(), Error> {
    ///     if let Some(envelope) = delivery.retry_envelope() {
    ///         client.send(&message.clone().with_envelope(envelope))?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn retry_envelope(&self) -> Option<Envelope> {
        let unsent = self.recipients().enumerate().filter(|(_, recipient)| recipient.can_be_retried());
        let numbers: Vec<usize> = unsent.map(|(number, _)| number).collect();
        (!numbers.is_empty()).then(|| self.envelope.part(&numbers))
    }

    /// Whether the message may have been delivered to someone without confirmation from the server.
    pub(crate) fn in_doubt(&self) -> bool {
        self.recipients().any(|recipient| recipient.outcome == Outcome::InDoubt)
    }

    /// Computes [`Error::retry`](crate::Error::retry). `connection_lost` means that a lost connection is the only
    /// reason why the message was not sent to some recipients.
    pub(crate) fn retry(&self, connection_lost: bool) -> Retry {
        let mut retry = Retry::Never;
        for recipient in self.recipients() {
            let own = match recipient.outcome {
                Outcome::InDoubt => return Retry::MayDuplicate,
                Outcome::NotSent if connection_lost => Retry::Now,
                _ if recipient.can_be_retried() => Retry::Later,
                _ => continue,
            };
            // One recipient that has to wait delays all.
            if retry != Retry::Later {
                retry = own;
            }
        }
        retry
    }

    /// Returns how long sending took.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.took
    }

    /// Joins the parts of a message that were sent to different recipients. The numbers are the indices of a part's
    /// recipients in `envelope`. The outcome is the best one of all parts.
    pub(crate) fn whole(envelope: Envelope, parts: Vec<(Vec<usize>, Delivery)>) -> Delivery {
        let best = parts.iter().min_by_key(|(_, part)| part.outcome.rank());
        let (outcome, reply) =
            best.map_or((Outcome::NotSent, None), |(_, part)| (part.outcome, part.reply.clone()));
        let mut took = Timings::default();
        let mut own = vec![None; envelope.recipients().len()];
        for (numbers, part) in &parts {
            for (number, r) in numbers.iter().zip(part.recipients()) {
                own[*number] = Some((*number, r.outcome, r.reply.cloned()));
            }
            took.envelope += part.took.envelope;
            took.content += part.took.content;
            took.end += part.took.end;
            took.total += part.took.total;
        }
        let own = own.into_iter().flatten().collect();
        Delivery { took, ..Delivery::new(envelope, outcome, Outcome::NotSent, reply, own) }
    }

    /// Creates the delivery of a message that was sent in several attempts, with the last result of each recipient. The
    /// outcome is the best of them.
    pub(crate) fn gathered(
        envelope: Envelope,
        last: Vec<(Outcome, Option<Reply>)>,
        took: Timings,
    ) -> Delivery {
        let best = last.iter().min_by_key(|(outcome, _)| outcome.rank());
        let (outcome, reply) = best.cloned().unwrap_or((Outcome::NotSent, None));
        let own = last.into_iter().enumerate();
        let own = own.map(|(number, (outcome, reply))| (number, outcome, reply)).collect();
        Delivery { took, ..Delivery::new(envelope, outcome, Outcome::NotSent, reply, own) }
    }
}

/// Formats the delivery for errors and logs: the outcome, the recipients, and the server's reply.
impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.describe(f, None)
    }
}

/// Iterates over the recipients in the order of the envelope.
impl<'d> IntoIterator for &'d Delivery {
    type Item = Recipient<'d>;
    type IntoIter = vec::IntoIter<Recipient<'d>>;

    fn into_iter(self) -> Self::IntoIter {
        self.recipients().collect::<Vec<_>>().into_iter()
    }
}

impl Delivery {
    /// Writes which recipients were refused and why, which were not sent the message because of `cause`, and which were
    /// accepted.
    pub(crate) fn describe(&self, f: &mut fmt::Formatter<'_>, cause: Option<&Error>) -> fmt::Result {
        let all: Vec<_> = self.recipients().collect();
        let with = |outcome| {
            let those = all.iter().enumerate();
            let those =
                those.filter(move |(number, one)| one.outcome == outcome && !self.is_own_refusal(*number));
            Names(those.map(|(_, one)| one.address).collect())
        };
        let mut clauses = self.refusals();
        // The reason for an individual refusal is not repeated as the overall cause.
        let is_told =
            |cause: &Error| cause.reply().is_some_and(|reply| self.refused().any(|r| r.reply == Some(reply)));
        let mut cause = cause.filter(|cause| !is_told(cause));
        let refused = with(Outcome::Refused);
        if !refused.0.is_empty() {
            clauses.push(match (cause.take(), &self.reply) {
                (Some(Error::Refused { phase, reply }), _) => {
                    format!("message refused for {refused} in reply to {phase}: {reply}")
                }
                (Some(other), _) => format!("message refused for {refused}: {other}"),
                (None, Some(reply)) => format!("message refused for {refused}: {reply}"),
                (None, None) => format!("message refused for {refused}"),
            });
        }
        for (outcome, what) in [
            (Outcome::InDoubt, "message may have been delivered to"),
            (Outcome::NotSent, "message not sent to"),
        ] {
            let those = with(outcome);
            if !those.0.is_empty() {
                let why = cause.take().map(|cause| format!(": {cause}")).unwrap_or_default();
                clauses.push(format!("{what} {those}{why}"));
            }
        }
        // All recipients were refused one by one, and a later attempt failed.
        clauses.extend(cause.map(ToString::to_string));
        let accepted = with(Outcome::Accepted);
        if !accepted.0.is_empty() {
            let reply = self.reply.as_ref().filter(|_| clauses.is_empty());
            let reply = reply.map(|reply| format!(": {reply}")).unwrap_or_default();
            clauses.push(format!("accepted for {accepted}{reply}"));
        }
        f.write_str(&clauses.join("; "))
    }

    fn is_own_refusal(&self, number: usize) -> bool {
        let own = self.own.binary_search_by_key(&number, |(own, ..)| *own);
        own.is_ok_and(|at| self.own[at].1 == Outcome::Refused)
    }

    /// Lists the recipients that were refused individually, grouped by reply.
    fn refusals(&self) -> Vec<String> {
        let mut groups: Vec<(String, Names<'_>)> = Vec::new();
        let mut others = 0;
        for one in self.refused() {
            let why = one.reply.map(|reply| format!(": {reply}")).unwrap_or_default();
            match groups.iter().position(|(other, _)| *other == why) {
                Some(at) => groups[at].1.0.push(one.address),
                None if groups.len() == MAX_NAMED => others += 1,
                None => groups.push((why, Names(vec![one.address]))),
            }
        }
        let mut clauses: Vec<_> = groups.iter().map(|(why, names)| format!("{names} refused{why}")).collect();
        if others > 0 {
            clauses.push(format!("{others} more refused"));
        }
        clauses
    }
}

/// Formats the first few addresses, and the number of the others.
struct Names<'d>(Vec<&'d Address>);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, address) in self.0.iter().take(MAX_NAMED).enumerate() {
            write!(f, "{}{address}", if number == 0 { "" } else { ", " })?;
        }
        match self.0.len().checked_sub(MAX_NAMED) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, " and {more} more"),
        }
    }
}

/// One recipient of a [`Delivery`], with its outcome.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'d> {
    address: &'d Address,
    outcome: Outcome,
    reply: Option<&'d Reply>,
}

impl<'d> Recipient<'d> {
    /// Returns the recipient's address.
    #[must_use]
    pub fn address(&self) -> &'d Address {
        self.address
    }

    /// Returns the outcome for this recipient.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Whether the message was certainly not delivered to this recipient, and was not refused permanently.
    fn can_be_retried(&self) -> bool {
        match self.outcome {
            Outcome::NotSent => true,
            Outcome::Refused => self.reply.is_some_and(Reply::is_transient),
            Outcome::Accepted | Outcome::InDoubt => false,
        }
    }

    /// Returns the reply that decided the outcome: the reply for this recipient, or the reply to the message.
    #[must_use]
    pub fn reply(&self) -> Option<&'d Reply> {
        self.reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Phase;

    /// The possible results for a recipient.
    #[derive(Clone, Copy, PartialEq)]
    enum Fate {
        Accepted,
        RefusedForNow,
        RefusedForGood,
        NotSent,
        InDoubt,
    }

    const FATES: [Fate; 5] =
        [Fate::Accepted, Fate::RefusedForNow, Fate::RefusedForGood, Fate::NotSent, Fate::InDoubt];

    impl Fate {
        fn outcome(self) -> Outcome {
            match self {
                Fate::Accepted => Outcome::Accepted,
                Fate::RefusedForNow | Fate::RefusedForGood => Outcome::Refused,
                Fate::NotSent => Outcome::NotSent,
                Fate::InDoubt => Outcome::InDoubt,
            }
        }

        fn reply(self) -> Option<Reply> {
            let reply = match self {
                Fate::Accepted => "250 ok\r\n",
                Fate::RefusedForNow => "450 later\r\n",
                Fate::RefusedForGood => "550 no\r\n",
                Fate::NotSent | Fate::InDoubt => return None,
            };
            Some(Reply::parse(reply.as_bytes()).unwrap())
        }
    }

    const PHASES: [Phase; 9] = [
        Phase::Hello,
        Phase::Auth,
        Phase::Reset,
        Phase::Mail,
        Phase::Recipient,
        Phase::Data,
        Phase::Body,
        Phase::End,
        Phase::Noop,
    ];

    /// Returns every kind of error without a delivery, in every phase.
    fn causes() -> Vec<Error> {
        let io = || std::io::Error::other("no");
        let mut causes = vec![
            Error::Config("no".into()),
            Error::Address { input: "no".to_owned(), why: "no", header: None },
            Error::NoRecipients,
            Error::Message("no".into()),
            Error::Unsupported("no"),
            Error::TooLarge { size: 2, limit: 1 },
            Error::Source(io()),
            Error::Resolve { host: "no".to_owned(), source: io() },
            Error::Connect { server: "no".to_owned(), source: io() },
            Error::Certificate { name: "no".to_owned(), reason: "no".to_owned(), source: "no".into() },
            Error::Tls { source: "no".into() },
            Error::TlsRequired,
            Error::Auth { what: "no".into(), details: None, reply: None },
            Error::Token { source: "no".into() },
            Error::Password { source: "no".into() },
            Error::AlreadyConnected,
            Error::NotConnected,
            Error::PoolClosed,
            Error::Internal("no"),
            Error::Program { program: "/no".to_owned(), what: "no".to_owned() },
        ];
        for phase in PHASES {
            causes.extend([
                Error::Timeout(phase),
                Error::Closed(phase),
                Error::Stopped(phase),
                Error::Io { phase, source: io() },
                Error::protocol(phase, "no"),
            ]);
            for reply in ["421 no\r\n", "450 no\r\n", "550 no\r\n", "221 bye\r\n"] {
                let reply = Reply::parse(reply.as_bytes()).unwrap();
                causes.push(Error::Auth { what: "no".into(), details: None, reply: Some(reply.clone()) });
                causes.push(Error::Refused { phase, reply });
            }
        }
        causes
    }

    /// Checks that the error's methods are consistent with each other and with these fates.
    fn check(error: &Error, fates: &[Fate]) {
        let retry = error.retry();
        let again = matches!(retry, Retry::Now | Retry::Later);
        let in_doubt = fates.contains(&Fate::InDoubt);
        let left = fates.iter().filter(|fate| matches!(fate, Fate::RefusedForNow | Fate::NotSent)).count();
        let unsent =
            error.delivery().unwrap().retry_envelope().map_or(0, |envelope| envelope.recipients().len());
        assert_eq!(unsent, left, "{error:?}");
        assert_eq!((error.in_doubt(), retry == Retry::MayDuplicate), (in_doubt, in_doubt), "{error:?}");
        assert_eq!(again, !in_doubt && left > 0, "{error:?}");
        assert_eq!((error.is_transient(), error.is_permanent()), (again, retry == Retry::Never), "{error:?}");
        // `Now` requires that only the connection was lost, and that no recipient has to wait.
        let Error::Transaction { source, .. } = error else { panic!("{error:?}") };
        let lost = matches!(**source, Error::Closed(_) | Error::Io { .. } | Error::NotConnected);
        let waits = fates.contains(&Fate::RefusedForNow);
        assert_eq!(retry == Retry::Now, again && lost && !waits, "{error:?}");
    }

    fn transaction(delivery: Delivery, source: Error) -> Error {
        Error::Transaction { delivery: Box::new(delivery), source: Box::new(source) }
    }

    /// Returns the delivery of a message with these fates, as one part and as parts of one recipient each.
    fn deliveries(fates: &[Fate]) -> [Delivery; 2] {
        let addresses = (0..fates.len()).map(|number| format!("{number}@x.example"));
        let envelope = Envelope::new("s@a.example", addresses.collect::<Vec<_>>()).unwrap();
        let own = |fates: &[Fate]| {
            let own = fates.iter().enumerate().map(|(number, fate)| (number, fate.outcome(), fate.reply()));
            own.collect::<Vec<_>>()
        };
        let best = [Outcome::Accepted, Outcome::InDoubt, Outcome::Refused, Outcome::NotSent];
        let best = best.into_iter().find(|best| fates.iter().any(|fate| fate.outcome() == *best)).unwrap();
        let one = Delivery::new(envelope.clone(), best, Outcome::NotSent, None, own(fates));
        let part = |number: usize| {
            let fate = fates[number];
            let part = Delivery::new(
                envelope.part(&[number]),
                fate.outcome(),
                fate.outcome(),
                fate.reply(),
                Vec::new(),
            );
            (vec![number], part)
        };
        [one, Delivery::whole(envelope.clone(), (0..fates.len()).map(part).collect())]
    }

    #[test]
    fn a_transaction_error_agrees_with_the_recipient_outcomes() {
        for count in 1..=3_u32 {
            for number in 0..FATES.len().pow(count) {
                let digit = |place: u32| FATES[number / FATES.len().pow(place) % FATES.len()];
                let fates: Vec<Fate> = (0..count).map(digit).collect();
                for delivery in deliveries(&fates) {
                    for cause in causes() {
                        check(&transaction(delivery.clone(), cause), &fates);
                    }
                }
            }
        }
    }

    #[test]
    fn a_single_reply_gives_all_recipients_the_same_outcome() {
        let envelope = Envelope::new("s@a.example", ["0@x.example", "1@x.example"]).unwrap();
        for fate in FATES {
            for cause in causes() {
                let (outcome, reply) = (fate.outcome(), fate.reply());
                let delivery = Delivery::new(envelope.clone(), outcome, outcome, reply, Vec::new());
                check(&transaction(delivery, cause), &[fate, fate]);
            }
        }
    }

    /// Returns the text of an error for these recipients, each refused with its reply or not sent the message.
    fn text(own: &[Option<&str>], cause: Error) -> String {
        let addresses = (0..own.len()).map(|number| format!("{number}@x"));
        let envelope = Envelope::new("s@x", addresses.collect::<Vec<_>>()).unwrap();
        let refused = own.iter().enumerate().filter_map(|(number, reply)| {
            let reply = Reply::parse(format!("{}\r\n", (*reply)?).as_bytes()).unwrap();
            Some((number, Outcome::Refused, Some(reply)))
        });
        let delivery = Delivery::new(envelope, Outcome::NotSent, Outcome::NotSent, None, refused.collect());
        let error = transaction(delivery, cause);
        assert_eq!(format!("{error:?}"), error.to_string());
        error.to_string()
    }

    fn refusal(phase: Phase, reply: &str) -> Error {
        Error::Refused { phase, reply: Reply::parse(format!("{reply}\r\n").as_bytes()).unwrap() }
    }

    #[test]
    fn a_failed_delivery_lists_recipients_replies_and_retry_advice() {
        let no = "550 5.1.1 no such user here";
        let full = "452 4.2.2 full";
        assert_eq!(
            text(&[Some(no)], refusal(Phase::Recipient, no)),
            "0@x refused: 550 5.1.1 no such user here (retrying will not help)"
        );
        assert_eq!(
            text(&[Some(no), None, Some(full), Some(no)], refusal(Phase::Recipient, no)),
            "0@x, 3@x refused: 550 5.1.1 no such user here; 2@x refused: 452 4.2.2 full; \
             message not sent to 1@x (retrying later may help)"
        );
        assert_eq!(
            text(&[Some(no); 9], refusal(Phase::Recipient, no)),
            "0@x, 1@x, 2@x and 6 more refused: 550 5.1.1 no such user here (retrying will not help)"
        );
        let replies: Vec<_> = (0..5).map(|number| format!("550 5.1.1 no {number}")).collect();
        let replies: Vec<_> = replies.iter().map(|reply| Some(&reply[..])).collect();
        assert_eq!(
            text(&replies, refusal(Phase::Recipient, "550 5.1.1 no 0")),
            "0@x refused: 550 5.1.1 no 0; 1@x refused: 550 5.1.1 no 1; 2@x refused: 550 5.1.1 no 2; \
             2 more refused (retrying will not help)"
        );
        assert_eq!(
            text(&[None, None], Error::Closed(Phase::Data)),
            "message not sent to 0@x, 1@x: the server closed the connection during DATA (retrying now may help)"
        );
        assert_eq!(
            text(&[None], Error::Timeout(Phase::Mail)),
            "message not sent to 0@x: timed out during MAIL FROM (retrying later may help)"
        );
    }

    #[test]
    fn the_error_text_says_at_which_step_a_message_failed() {
        let envelope = Envelope::new("s@x", ["0@x", "1@x"]).unwrap();
        let whole = |outcome, reply| Delivery::new(envelope.clone(), outcome, outcome, reply, Vec::new());
        let spam = refusal(Phase::End, "554 5.7.1 spam");
        assert_eq!(
            transaction(whole(Outcome::Refused, spam.reply().cloned()), spam).to_string(),
            "message refused for 0@x, 1@x in reply to the end of the message: 554 5.7.1 spam \
             (retrying will not help)"
        );
        assert_eq!(
            transaction(whole(Outcome::InDoubt, None), Error::Timeout(Phase::End)).to_string(),
            "message may have been delivered to 0@x, 1@x: timed out waiting for the reply to the message \
             (retrying may duplicate it)"
        );
    }

    #[test]
    fn a_partial_delivery_is_an_error_only_with_require_all() {
        let envelope = Envelope::new("s@x", ["0@x", "1@x"]).unwrap();
        let reply = |text: &str| Some(Reply::parse(text.as_bytes()).unwrap());
        let taken = reply("250 2.0.0 queued as A\r\n");
        let accepted =
            |own| Delivery::new(envelope.clone(), Outcome::Accepted, Outcome::Accepted, taken.clone(), own);
        let all = accepted(Vec::new()).require_all().unwrap();
        assert_eq!(all.to_string(), "accepted for 0@x, 1@x: 250 2.0.0 queued as A");
        for (refusal, hint, retry) in [
            ("550 no\r\n", "retrying will not help", Retry::Never),
            ("450 no\r\n", "retry only with Delivery::retry_envelope", Retry::MayDuplicate),
        ] {
            let error = accepted(vec![(1, Outcome::Refused, reply(refusal))]).require_all().unwrap_err();
            let refusal = refusal.trim_end();
            assert_eq!(error.to_string(), format!("1@x refused: {refusal}; accepted for 0@x ({hint})"));
            assert_eq!((error.retry(), error.is_transient(), error.in_doubt()), (retry, false, false));
            assert_eq!(error.is_permanent(), retry == Retry::Never);
        }
    }

    #[test]
    fn retry_is_consistent_with_the_other_properties_of_an_error() {
        for error in causes() {
            let retry = error.retry();
            assert_eq!(error.in_doubt(), retry == Retry::MayDuplicate, "{error:?}");
            assert!(!error.is_transient() || matches!(retry, Retry::Now | Retry::Later), "{error:?}");
            assert!(!error.is_permanent() || retry == Retry::Never, "{error:?}");
        }
        assert_eq!(Error::Internal("no").retry(), Retry::Never);
    }

    #[test]
    fn outcomes_of_parts_are_merged_in_envelope_order() {
        let envelope = Envelope::new("s@a.example", ["0@x.example", "1@y.example", "2@x.example"]).unwrap();
        let refused = |number| vec![(number, Outcome::Refused, Some(Reply::parse(b"550 no\r\n").unwrap()))];
        let part = |numbers: &[usize], own| {
            let part = envelope.part(numbers);
            (numbers.to_vec(), Delivery::new(part, Outcome::Accepted, Outcome::Accepted, None, own))
        };
        let parts = vec![part(&[2, 0], refused(0)), part(&[1], Vec::new())];
        let whole = Delivery::whole(envelope.clone(), parts);
        let outcomes: Vec<_> = whole.recipients().map(|r| (r.address().as_str(), r.outcome())).collect();
        assert_eq!(
            outcomes,
            [
                ("0@x.example", Outcome::Accepted),
                ("1@y.example", Outcome::Accepted),
                ("2@x.example", Outcome::Refused)
            ]
        );
        let whole = Delivery::whole(envelope.clone(), vec![part(&[2], refused(0)), part(&[0], refused(0))]);
        let refused: Vec<_> = whole.refused().map(|r| r.address().as_str()).collect();
        assert_eq!((refused, whole.recipients().count()), (vec!["0@x.example", "2@x.example"], 3));
    }
}
