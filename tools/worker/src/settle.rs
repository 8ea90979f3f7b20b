//! What a result of postino means for a queued mail. Pure: a ticket and a result in, a row out.

use std::time::Duration;

use postino::{Delivery, Error, Outcome, Reply};

use crate::{backoff::Backoff, job::Ticket};

/// Maximum length of a stored reply, in characters.
const MAX_REPLY: usize = 1000;
/// Number of lost connections in a row after which a loss counts as an attempt: the message itself may be the reason.
const MAX_LOSSES: u32 = 5;

/// The state of a mail after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    Accepted,
    Refused,
    Doubt,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::Accepted => "accepted",
            State::Refused => "refused",
            State::Doubt => "doubt",
        }
    }
}

/// The outcome of one recipient, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecipientOutcome {
    pub number: i32,
    pub outcome: &'static str,
    pub reply: Option<String>,
}

/// The result of an attempt, as it is written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settlement {
    pub id: i64,
    pub claim: i32,
    pub state: State,
    /// Wait before the next attempt, if it is ready.
    pub wait: Duration,
    /// Whether this counts as an attempt.
    pub counted: bool,
    pub reply: Option<String>,
    pub recipients: Vec<RecipientOutcome>,
}

/// What happened to a recipient in this attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Accepted,
    Refused,
    Deferred,
    Doubt,
    /// Not sent, and neither the message nor the recipient is the reason.
    Lost,
}

/// Decides what becomes of a mail. `random` is from 0 to 1.
pub(crate) fn settle(
    ticket: &Ticket,
    result: &Result<Delivery, Error>,
    backoff: &Backoff,
    random: f64,
) -> Settlement {
    let fates = fates(ticket, result);
    let counted = fates.iter().any(|(_, fate, _)| *fate != Fate::Lost) || ticket.losses >= MAX_LOSSES;
    let wait = if counted { backoff.wait(ticket.attempts, random) } else { Duration::ZERO };
    let is_late = ticket.age.saturating_add(wait) > backoff.give_up_after;
    let (mut is_left, mut is_refused, mut is_doubt) = (false, ticket.had_refused, ticket.had_doubt);
    let mut recipients = Vec::with_capacity(fates.len());
    for (number, fate, reply) in fates {
        let outcome = match fate {
            Fate::Accepted => "accepted",
            Fate::Doubt => "doubt",
            Fate::Refused => "refused",
            Fate::Deferred | Fate::Lost if is_late => "refused",
            Fate::Deferred => "deferred",
            Fate::Lost => {
                is_left = true;
                continue;
            }
        };
        is_left |= outcome == "deferred";
        is_refused |= outcome == "refused";
        is_doubt |= outcome == "doubt";
        let reply = match fate {
            Fate::Deferred | Fate::Lost if is_late => {
                Some(clean(&format!("given up: {}", reply.unwrap_or_else(|| text_of(result)))))
            }
            _ => reply,
        };
        recipients.push(RecipientOutcome { number, outcome, reply });
    }
    let state = match (is_left, is_doubt, is_refused) {
        (true, ..) => State::Ready,
        (false, true, _) => State::Doubt,
        (false, false, true) => State::Refused,
        (false, false, false) => State::Accepted,
    };
    let reply = Some(clean(&text_of(result)));
    Settlement { id: ticket.id, claim: ticket.claim, state, wait, counted, reply, recipients }
}

/// Returns the fate of each recipient, by its number.
fn fates(ticket: &Ticket, result: &Result<Delivery, Error>) -> Vec<(i32, Fate, Option<String>)> {
    let mut fates: Vec<_> =
        ticket.invalid.iter().map(|(number, why)| (*number, Fate::Refused, Some(clean(why)))).collect();
    let delivery = match result {
        Ok(delivery) => Some(delivery),
        Err(error) => error.delivery(),
    };
    match delivery {
        Some(delivery) => fates.extend(ticket.numbers.iter().zip(delivery.recipients()).map(|(number, one)| {
            let fate = match one.outcome() {
                Outcome::Accepted => Fate::Accepted,
                Outcome::Refused if one.reply().is_some_and(Reply::is_transient) => Fate::Deferred,
                Outcome::Refused => Fate::Refused,
                Outcome::NotSent => result.as_ref().map_or_else(not_sent, |_| Fate::Deferred),
                // An outcome that is added later is one for a person.
                _ => Fate::Doubt,
            };
            (*number, fate, one.reply().map(|reply| clean(&reply.to_string())))
        })),
        None => {
            let fate = result.as_ref().map_or_else(not_sent, |_| Fate::Doubt);
            let why = clean(&text_of(result));
            fates.extend(ticket.numbers.iter().map(|number| (*number, fate, Some(why.clone()))));
        }
    }
    fates
}

/// Decides who is to blame that a message was not sent.
fn not_sent(error: &Error) -> Fate {
    match error {
        Error::Transaction { source, .. } => not_sent(source),
        Error::PartialDelivery { .. } => Fate::Deferred,
        // The message, its options, or its addresses. The server does not change that.
        Error::Config(_)
        | Error::Address { .. }
        | Error::NoRecipients
        | Error::Message(_)
        | Error::Unsupported(_)
        | Error::TooLarge { .. } => Fate::Refused,
        Error::Source(_) => Fate::Deferred,
        Error::Refused { reply, .. } if reply.code() != 421 && !reply.is_positive() => Fate::Deferred,
        error if error.in_doubt() => Fate::Doubt,
        // The connection, the server, or the login.
        _ => Fate::Lost,
    }
}

fn text_of(result: &Result<Delivery, Error>) -> String {
    match result {
        Ok(delivery) => delivery.reply().map(ToString::to_string).unwrap_or_else(|| delivery.to_string()),
        Err(error) => error.to_string(),
    }
}

/// Shortens a text, and removes what PostgreSQL's `text` cannot contain.
fn clean(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(MAX_REPLY).collect()
}

#[cfg(test)]
mod tests {
    use postino::{
        Client, Envelope, Raw, Security,
        testing::Server,
    };

    use super::*;

    fn ticket(recipients: i32) -> Ticket {
        Ticket {
            id: 7,
            claim: 2,
            attempts: 0,
            losses: 0,
            age: Duration::ZERO,
            had_refused: false,
            had_doubt: false,
            numbers: (1..=recipients).collect(),
            invalid: Vec::new(),
        }
    }
}
