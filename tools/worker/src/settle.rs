//! What a result of postino means for a queued mail. Pure functions turn a ticket and a result into a row.

use std::time::Duration;

use postino::{Delivery, Error, Outcome, Reply};

use crate::{backoff::Backoff, job::Ticket};

/// Maximum length of a stored reply, in characters.
const MAX_REPLY: usize = 1000;
/// Number of lost connections in a row after which a loss counts as an attempt, because the message may be the reason.
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
        Some(delivery) => {
            fates.extend(ticket.numbers.iter().zip(delivery.recipients()).map(|(number, one)| {
                let fate = match one.outcome() {
                    Outcome::Accepted => Fate::Accepted,
                    Outcome::Refused if one.reply().is_some_and(Reply::is_transient) => Fate::Deferred,
                    Outcome::Refused => Fate::Refused,
                    Outcome::NotSent => result.as_ref().map_or_else(not_sent, |_| Fate::Deferred),
                    // In doubt, or an outcome that postino adds later: a person decides.
                    _ => Fate::Doubt,
                };
                (*number, fate, one.reply().map(|reply| clean(&reply.to_string())))
            }));
        }
        None => {
            let fate = result.as_ref().map_or_else(not_sent, |_| Fate::Doubt);
            let why = clean(&text_of(result));
            fates.extend(ticket.numbers.iter().map(|number| (*number, fate, Some(why.clone()))));
        }
    }
    fates
}

/// Decides what to do with recipients that a message was not sent to, by the cause.
fn not_sent(error: &Error) -> Fate {
    match error {
        Error::Transaction { source, .. } => not_sent(source),
        Error::PartialDelivery { .. } => Fate::Deferred,
        // The cause is the message, its options or its addresses, so retrying does not help.
        Error::Config(_)
        | Error::Address { .. }
        | Error::NoRecipients
        | Error::Message(_)
        | Error::Unsupported(_)
        | Error::TooLarge { .. } => Fate::Refused,
        Error::Source(_) => Fate::Deferred,
        Error::Refused { reply, .. } if reply.code() != 421 && !reply.is_positive() => Fate::Deferred,
        error if error.in_doubt() => Fate::Doubt,
        // The cause is the connection, the server or the login.
        _ => Fate::Lost,
    }
}

fn text_of(result: &Result<Delivery, Error>) -> String {
    match result {
        Ok(delivery) => delivery.reply().map_or_else(|| delivery.to_string(), ToString::to_string),
        Err(error) => error.to_string(),
    }
}

/// Shortens a text, and removes what PostgreSQL's `text` cannot contain.
fn clean(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(MAX_REPLY).collect()
}

#[cfg(test)]
mod tests {
    use postino::{Client, Envelope, Raw, testing::Server};

    use super::*;

    /// Returns what a server's replies mean for recipients 1 to 3.
    fn outcome(server: postino::testing::ServerBuilder, ticket: &Ticket) -> Settlement {
        let server = server.start().unwrap();
        let recipients = ["a@x.example", "b@x.example", "c@x.example"];
        let envelope = Envelope::new("s@x.example", recipients).unwrap();
        let mut client = Client::from_url(&server.url()).unwrap().connect().unwrap();
        let result = client.send(&Raw::bytes(envelope, "Subject: x\r\n\r\n"));
        settle(ticket, &result, &Backoff::default(), 0.5)
    }

    fn shown(settlement: &Settlement) -> Vec<(i32, &str)> {
        settlement.recipients.iter().map(|one| (one.number, one.outcome)).collect()
    }

    fn failed(error: Error, ticket: &Ticket) -> Settlement {
        settle(ticket, &Err(error), &Backoff::default(), 0.5)
    }

    #[test]
    fn each_recipient_has_its_outcome() {
        let server = || Server::builder();
        let all = outcome(server(), &ticket(3));
        assert_eq!((all.state, all.counted), (State::Accepted, true));
        assert_eq!(shown(&all), [(1, "accepted"), (2, "accepted"), (3, "accepted")]);

        let mixed =
            server().refuse_recipient("b@x.example", "450 later").refuse_recipient("c@x.example", "550 no");
        let mixed = outcome(mixed, &ticket(3));
        assert_eq!((mixed.state, mixed.wait.as_secs()), (State::Ready, 60));
        assert_eq!(shown(&mixed), [(1, "accepted"), (2, "deferred"), (3, "refused")]);

        let refused = outcome(server().refuse_recipient("c@x.example", "550 no"), &ticket(3));
        assert_eq!(refused.state, State::Refused);
        let spam = outcome(server().refuse_message("554 spam"), &ticket(3));
        assert_eq!(
            (spam.state, spam.reply.as_deref().is_some_and(|r| r.contains("554 spam"))),
            (State::Refused, true)
        );
    }

    #[test]
    fn earlier_outcomes_count() {
        let had = |had_refused, had_doubt| {
            outcome(Server::builder(), &Ticket { had_refused, had_doubt, ..ticket(3) })
        };
        assert_eq!(had(true, false).state, State::Refused);
        assert_eq!(had(true, true).state, State::Doubt);
    }

    #[test]
    fn mail_is_given_up_in_time() {
        let old = Ticket { age: Duration::from_secs(5 * 86_400), ..ticket(3) };
        let given_up = outcome(Server::builder().refuse_message("451 later"), &old);
        assert_eq!(given_up.state, State::Refused);
        assert!(
            given_up.recipients.iter().all(|one| one.reply.as_deref().unwrap().starts_with("given up: 451"))
        );
    }

    #[test]
    fn a_lost_connection_is_not_an_attempt_unless_it_happens_again_and_again() {
        let lost = failed(Error::NotConnected, &ticket(2));
        assert_eq!((lost.state, lost.counted, lost.wait), (State::Ready, false, Duration::ZERO));
        assert!(lost.recipients.is_empty());
        let often = failed(Error::NotConnected, &Ticket { losses: MAX_LOSSES, ..ticket(2) });
        assert_eq!((often.state, often.counted, often.wait.as_secs()), (State::Ready, true, 60));
    }

    #[test]
    fn errors_of_the_message_are_final_and_unreadable_content_is_retried() {
        let refused = failed(Error::Unsupported("SMTPUTF8"), &ticket(2));
        assert_eq!((refused.state, shown(&refused)), (State::Refused, vec![(1, "refused"), (2, "refused")]));
        let unreadable = failed(Error::Source(std::io::Error::other("gone")), &ticket(1));
        assert_eq!((unreadable.state, unreadable.counted), (State::Ready, true));
        let invalid = Ticket { invalid: vec![(2, "no @".to_owned())], ..ticket(1) };
        let mut invalid = failed(Error::NotConnected, &invalid);
        assert_eq!((invalid.state, invalid.counted), (State::Ready, true));
        assert_eq!(invalid.recipients.pop().unwrap().outcome, "refused");
    }

    #[test]
    fn no_reply_to_the_end_is_doubt() {
        for error in [Error::Timeout(postino::Phase::End), Error::Closed(postino::Phase::End)] {
            let doubt = failed(error, &ticket(1));
            assert_eq!((doubt.state, shown(&doubt)), (State::Doubt, vec![(1, "doubt")]));
        }
        assert_eq!(failed(Error::Stopped(postino::Phase::Data), &ticket(1)).state, State::Ready);
    }

    #[test]
    fn texts_suit_the_database() {
        assert_eq!(clean("a\0b"), "ab");
        assert_eq!(clean(&"é".repeat(5000)).chars().count(), MAX_REPLY);
    }

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
