//! What became of a message, for each of its recipients.

use crate::{Address, Envelope, Reply};

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
/// [`refused`](Delivery::refused) for the others.
#[derive(Debug, Clone)]
#[must_use]
pub struct Delivery {
    envelope: Envelope,
    outcome: Outcome,
    /// What is known of the recipients that were not refused by themselves.
    others: Outcome,
    reply: Option<Reply>,
    /// The recipients refused by themselves, in order, each with its reply.
    refused: Vec<(usize, Reply)>,
}

impl Delivery {
    /// `refused` is in the order of the recipients.
    pub(crate) fn new(
        envelope: Envelope,
        outcome: Outcome,
        others: Outcome,
        reply: Option<Reply>,
        refused: Vec<(usize, Reply)>,
    ) -> Delivery {
        Delivery { envelope, outcome, others, reply, refused }
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

    /// The name the server gave the message in its queue, if its reply has one in a form that is known: behind
    /// `queued as` (Postfix and others) or `id=` (Exim).
    #[must_use]
    pub fn queue_id(&self) -> Option<&str> {
        let reply = self.reply.as_ref().filter(|_| self.outcome == Outcome::Accepted)?;
        reply.text_lines().find_map(|line| {
            let line = std::str::from_utf8(line).ok()?;
            ["queued as ", "id="].iter().find_map(|mark| {
                let lower = line.to_ascii_lowercase();
                let mut places = lower.match_indices(mark).map(|(at, _)| at);
                let at = places.find(|at| *at == 0 || lower[..*at].ends_with([' ', '(']))?;
                line[at + mark.len()..].split([' ', ',', ';', '>']).next().filter(|id| !id.is_empty())
            })
        })
    }

    /// All recipients in the order of the envelope, each with what became of it.
    pub fn recipients(&self) -> impl Iterator<Item = Recipient<'_>> {
        let mut refused = self.refused.iter().peekable();
        self.envelope.recipients().iter().enumerate().map(move |(i, address)| {
            let own = refused.next_if(|(index, _)| *index == i);
            let (outcome, reply) = match own {
                Some((_, reply)) => (Outcome::Refused, Some(reply)),
                None => (self.others, self.reply.as_ref()),
            };
            Recipient { address, outcome, reply }
        })
    }

    /// The recipients that the server refused by themselves, while others may have been accepted.
    pub fn refused(&self) -> impl Iterator<Item = Recipient<'_>> {
        self.refused.iter().map(|(i, reply)| Recipient {
            address: &self.envelope.recipients()[*i],
            outcome: Outcome::Refused,
            reply: Some(reply),
        })
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

    /// The reply that decided it: the recipient's own, or the one to the message.
    #[must_use]
    pub fn reply(&self) -> Option<&'d Reply> {
        self.reply
    }
}
