//! What became of a message, for each of its recipients.

use std::time::Duration;

use crate::{Address, Envelope, Reply, Retry, proto::queue_id};

/// What is known of a message, or of a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The server took it, and the responsibility for it.
    Accepted,
    /// The server refused it; its reply says why, and whether for now or for good.
    Refused,
    /// It was surely not delivered: sending it again cannot double it.
    NotSent,
    /// It may have been delivered: its end was sent, and no reply came (RFC 1047).
    InDoubt,
}

/// What became of a message, for each of its recipients.
///
/// A [`Client::send`](crate::Client::send) that returns `Ok` was accepted for one recipient at least; look at
/// [`refused`](Delivery::refused) for the others. One that returns [`Error::Transaction`](crate::Error::Transaction) has a
/// delivery, too. Over LMTP, and where the message went in parts, a connection that was lost leaves some recipients in
/// doubt or not sent: [`recipients`](Delivery::recipients) tells of all.
#[derive(Debug, Clone)]
#[must_use]
pub struct Delivery {
    envelope: Envelope,
    outcome: Outcome,
    /// What is known of the recipients that have no answer of their own.
    others: Outcome,
    reply: Option<Reply>,
    /// The recipients that have an answer of their own, in order.
    own: Vec<(usize, Outcome, Option<Reply>)>,
    /// What of it may be sent again at once; none in what callers get.
    again: Option<Again>,
    took: Timings,
}

/// What of a message may be sent again at once, because the server has refused neither it nor its recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Again {
    /// All of it, over another connection: this one ended before MAIL was answered, or MAIL was answered 452.
    Elsewhere,
    /// To these recipients in a further transaction: they were too many for one.
    Rest(Vec<usize>),
    /// To these recipients, one command at a time: among pipelined commands, the one that has this number in the new
    /// transaction was refused as out of place.
    OneByOne { recipients: Vec<usize>, command: usize },
}

/// How long a message took, phase by phase. Messages of a batch overlap, and have no phases of their own: of them only
/// [`total`](Timings::total) is told, from one result to the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timings {
    /// From MAIL to the leave to send the content.
    pub envelope: Duration,
    /// The content, until it has left.
    pub content: Duration,
    /// The wait for the reply to its end.
    pub end: Duration,
    /// All of it, RSET behind a failure included.
    pub total: Duration,
}

impl Delivery {
    /// `own` is in the order of the recipients.
    pub(crate) fn new(
        envelope: Envelope,
        outcome: Outcome,
        others: Outcome,
        reply: Option<Reply>,
        own: Vec<(usize, Outcome, Option<Reply>)>,
    ) -> Delivery {
        Delivery { envelope, outcome, others, reply, own, again: None, took: Timings::default() }
    }

    pub(crate) fn not_sent(envelope: Envelope) -> Delivery {
        Delivery::new(envelope, Outcome::NotSent, Outcome::NotSent, None, Vec::new())
    }

    pub(crate) fn set_again(&mut self, again: Option<Again>) {
        self.again = again;
    }

    /// Whether all of it may be sent over another connection.
    pub(crate) fn goes_elsewhere(&self) -> bool {
        self.again == Some(Again::Elsewhere)
    }

    pub(crate) fn take_again(&mut self) -> Option<Again> {
        self.again.take()
    }

    pub(crate) fn set_took(&mut self, took: Timings) {
        self.took = took;
    }

    /// The message as a whole: accepted if it was for any recipient.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// The reply that decided it: the one to the end of the message when it came that far.
    #[must_use]
    pub fn reply(&self) -> Option<&Reply> {
        self.reply.as_ref()
    }

    /// The envelope it went out with.
    #[must_use]
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Returns the server's name for the message in its queue, under which its logs have it, if the message was accepted and
    /// the reply has the name in a known form.
    ///
    /// The forms are those of Postfix, Exim, Sendmail, OpenSMTPD, qmail, Courier, Haraka, Exchange and Microsoft 365, Gmail,
    /// Amazon SES, Yandex, NetEase and others. It is `None` rather than something that may not be the name.
    #[must_use]
    pub fn queue_id(&self) -> Option<&str> {
        let reply = self.reply.as_ref().filter(|_| self.outcome == Outcome::Accepted)?;
        reply.text_lines().find_map(queue_id)
    }

    /// All recipients in the order of the envelope, each with what became of it.
    pub fn recipients(&self) -> impl Iterator<Item = Recipient<'_>> {
        let mut own = self.own.iter().peekable();
        self.envelope.recipients().iter().enumerate().map(move |(number, address)| {
            let (outcome, reply) = match own.next_if(|(index, ..)| *index == number) {
                Some((_, outcome, reply)) => (*outcome, reply.as_ref()),
                // A reply that decided for others alone is not theirs.
                None => (self.others, self.reply.as_ref().filter(|_| self.others == self.outcome)),
            };
            Recipient { address, outcome, reply }
        })
    }

    /// The recipients that the server refused by themselves, while others may have been accepted. A message that was
    /// refused as a whole has its answer in [`reply`](Delivery::reply), and [`recipients`](Delivery::recipients) has all.
    pub fn refused(&self) -> impl Iterator<Item = Recipient<'_>> {
        let refused = self.own.iter().filter(|(_, outcome, _)| *outcome == Outcome::Refused);
        refused.map(|(number, outcome, reply)| Recipient {
            address: &self.envelope.recipients()[*number],
            outcome: *outcome,
            reply: reply.as_ref(),
        })
    }

    /// Returns an envelope for the recipients that can safely be retried: those that the message was not sent to, and those
    /// that were refused for now (4yz). Sending it again to them duplicates nothing. `None` if there are none.
    #[must_use]
    pub fn retry_envelope(&self) -> Option<Envelope> {
        let unsent = self.recipients().enumerate().filter(|(_, recipient)| recipient.can_be_retried());
        let numbers: Vec<usize> = unsent.map(|(number, _)| number).collect();
        (!numbers.is_empty()).then(|| self.envelope.part(&numbers))
    }

    /// Whether the message may have been delivered to someone without the server having said so.
    pub(crate) fn in_doubt(&self) -> bool {
        self.recipients().any(|recipient| recipient.outcome == Outcome::InDoubt)
    }

    /// What [`Error::retry`](crate::Error::retry) says of it. `connection_lost`: what kept it from those that it was not sent
    /// to is a lost connection, and no more.
    pub(crate) fn retry(&self, connection_lost: bool) -> Retry {
        let mut retry = Retry::Never;
        for recipient in self.recipients() {
            let own = match recipient.outcome {
                Outcome::InDoubt => return Retry::MayDuplicate,
                Outcome::NotSent if connection_lost => Retry::Now,
                _ if recipient.can_be_retried() => Retry::Later,
                _ => continue,
            };
            // Who has to wait for one waits for all.
            if retry != Retry::Later {
                retry = own;
            }
        }
        retry
    }

    /// How long it took.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.took
    }

    /// One message that was sent in parts, each to some of its recipients: `numbers` are theirs in `envelope`. The
    /// outcome is the best of them.
    pub(crate) fn whole(envelope: Envelope, parts: Vec<(Vec<usize>, Delivery)>) -> Delivery {
        let rank = |outcome: Outcome| match outcome {
            Outcome::Accepted => 0,
            Outcome::InDoubt => 1,
            Outcome::Refused => 2,
            Outcome::NotSent => 3,
        };
        let best = parts.iter().min_by_key(|(_, part)| rank(part.outcome));
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
        Delivery { envelope, outcome, others: Outcome::NotSent, reply, own, again: None, took }
    }
}

/// One recipient of a [`Delivery`], and what became of it.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'d> {
    address: &'d Address,
    outcome: Outcome,
    reply: Option<&'d Reply>,
}

impl<'d> Recipient<'d> {
    /// Who.
    #[must_use]
    pub fn address(&self) -> &'d Address {
        self.address
    }

    /// What became of the message for this recipient.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Whether the message has surely not been delivered to it, and was not refused for good.
    fn can_be_retried(&self) -> bool {
        match self.outcome {
            Outcome::NotSent => true,
            Outcome::Refused => self.reply.is_some_and(Reply::is_transient),
            Outcome::Accepted | Outcome::InDoubt => false,
        }
    }

    /// The reply that decided it: the recipient's own, or the one to the message.
    #[must_use]
    pub fn reply(&self) -> Option<&'d Reply> {
        self.reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, Phase};

    /// What can become of a recipient.
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

    /// Every kind of error that has no delivery, in every phase.
    fn causes() -> Vec<Error> {
        let io = || std::io::Error::other("no");
        let mut causes = vec![
            Error::Config("no".into()),
            Error::Address { input: "no".to_owned(), why: "no" },
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
            Error::AlreadyConnected,
            Error::NotConnected,
            Error::PoolClosed,
            Error::Internal("no"),
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

    /// Whether the answers agree with each other and with these fates.
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
        // Only the connection was lost: of all that are left, and not of one that has to wait.
        let Error::Transaction { source, .. } = error else { panic!("{error:?}") };
        let lost = matches!(**source, Error::Closed(_) | Error::Io { .. } | Error::NotConnected);
        let waits = fates.contains(&Fate::RefusedForNow);
        assert_eq!(retry == Retry::Now, again && lost && !waits, "{error:?}");
    }

    fn transaction(delivery: Delivery, source: Error) -> Error {
        Error::Transaction { delivery: Box::new(delivery), source: Box::new(source) }
    }

    /// One message to so many, as one part and as parts of one recipient each.
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
    fn what_an_error_says_of_a_message_follows_from_the_outcomes() {
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
    fn a_message_that_one_reply_decides_says_the_same_of_all_its_recipients() {
        let envelope = Envelope::new("s@a.example", ["0@x.example", "1@x.example"]).unwrap();
        for fate in FATES {
            for cause in causes() {
                let (outcome, reply) = (fate.outcome(), fate.reply());
                let delivery = Delivery::new(envelope.clone(), outcome, outcome, reply, Vec::new());
                check(&transaction(delivery, cause), &[fate, fate]);
            }
        }
    }

    #[test]
    fn an_error_without_a_message_does_not_contradict_itself() {
        for error in causes() {
            let retry = error.retry();
            assert_eq!(error.in_doubt(), retry == Retry::MayDuplicate, "{error:?}");
            assert!(!error.is_transient() || matches!(retry, Retry::Now | Retry::Later), "{error:?}");
            assert!(!error.is_permanent() || retry == Retry::Never, "{error:?}");
        }
        assert_eq!(Error::Internal("no").retry(), Retry::Never);
    }

    #[test]
    fn behind_parts_each_recipient_has_its_own_answer_in_the_order_of_the_envelope() {
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
