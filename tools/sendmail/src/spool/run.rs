//! Sending what is in the spool.

use std::{collections::HashMap, fs, io, time::Duration};

use postino::{Delivery, Error, Outcome, Phase, Reply};

use super::{Entry, Fate, ID_LENGTH, Place, Spool, bounce, now, record::State};
use crate::report::text;

/// Minimum time between two records of how long a message has waited, in seconds: flash memory wears out by writing.
const RECORDED: u64 = 3600;

/// When a message is tried again, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// The waits after the first attempts; the last one repeats.
    pub waits: Vec<Duration>,
    /// How long a message waits before it is returned to its sender, once all waits have passed. Only time that the
    /// machine runs counts.
    pub give_up_after: Duration,
}

impl Default for Waits {
    fn default() -> Waits {
        let minutes = [5, 10, 20, 30, 60, 120, 240];
        Waits {
            waits: minutes.iter().map(|minutes| Duration::from_secs(minutes * 60)).collect(),
            give_up_after: Duration::from_secs(5 * 24 * 3600),
        }
    }
}

impl Waits {
    /// When the next attempt after this number of them is due, in seconds since 1970.
    pub fn next(&self, attempts: usize) -> u64 {
        let wait = self.waits.get(attempts).or(self.waits.last());
        now().saturating_add(wait.map_or(0, Duration::as_secs))
    }

    /// Whether an attempt is due. A time farther away than the longest wait was set before the clock was put back.
    fn is_due(&self, next: u64) -> bool {
        let longest = self.waits.iter().max().map_or(0, Duration::as_secs);
        next <= now() || next - now() > longest
    }

    /// Whether this attempt is the last one. The number of attempts must fit, too: `-q` may not have run for a long
    /// time.
    fn have_ended(&self, entry: &Entry) -> bool {
        self.is_over_age(entry) && entry.record().attempts() >= self.waits.len()
    }

    fn is_over_age(&self, entry: &Entry) -> bool {
        entry.waited() >= self.give_up_after.as_secs()
    }
}

/// Sends what is in the spool.
pub struct Runner<'r> {
    pub spool: &'r Spool,
    pub waits: &'r Waits,
    /// Whether messages are tried that are not due yet.
    pub everything: bool,
    /// The domain of this machine, for bounces.
    pub domain: &'r str,
    pub send: &'r mut dyn FnMut(&Entry) -> Result<Delivery, Error>,
    /// Is told of each attempt.
    pub report: &'r mut dyn FnMut(&Entry, &Result<Delivery, Error>),
    /// Is told of messages that nobody else is told of: those that cannot be returned, and those that are removed.
    pub note: &'r mut dyn FnMut(&Entry, &str),
    /// Is told of a message, by its identifier, whose file cannot be read or written. It is skipped.
    pub complain: &'r mut dyn FnMut(&str, &io::Error),
}

impl Runner<'_> {
    /// Tries each message once. Several processes may do so at the same time.
    ///
    /// If the server of an account cannot be reached, or refuses the login, the other messages for it are left for the
    /// next run.
    ///
    /// # Errors
    ///
    /// Errors of the folders of the spool.
    pub fn run(mut self) -> io::Result<()> {
        self.spool.clean(self.complain)?;
        self.forget_failed()?;
        let mut unreachable = HashMap::new();
        for (id, _) in self.spool.files(Place::Queue)? {
            let tried = match self.spool.lock(Place::Queue, &id) {
                Ok(Some(entry)) => self.attempt(entry, &mut unreachable),
                Ok(None) => Ok(()),
                Err(e) => Err(e),
            };
            if let Err(e) = tried {
                (self.complain)(&id, &e);
            }
        }
        Ok(())
    }

    /// Tries one message. `unreachable` has the accounts whose server cannot be reached, and the reasons.
    fn attempt(&mut self, mut entry: Entry, unreachable: &mut HashMap<String, String>) -> io::Result<()> {
        if !self.record_bounce(&entry)? {
            return Ok(());
        }
        self.tell(&mut entry)?; // the program may have been killed before it could
        if entry.record().fate() == Fate::Due {
            if !self.everything && !self.waits.is_due(entry.record().next) {
                return entry.record_wait(RECORDED);
            }
            let has_expired = self.waits.have_ended(&entry);
            let (states, reason) = match unreachable.get(&entry.request().account) {
                // It is sent as soon as the server can be reached, so no wait begins.
                Some(_) if !self.waits.is_over_age(&entry) => return entry.record_wait(RECORDED),
                Some(reason) => (vec![left(reason, has_expired); entry.due().count()], reason.clone()),
                None => {
                    let result = (self.send)(&entry);
                    (self.report)(&entry, &result);
                    if let Some(e) = result.as_ref().err().filter(|e| is_about_server(e)) {
                        unreachable.insert(entry.request().account.clone(), text(e));
                    }
                    outcomes(&entry, &result, has_expired)
                }
            };
            let states = if entry.request().all_or_nothing { all_or_none(&entry, states) } else { states };
            let next = self.waits.next(entry.record().attempts());
            entry.settle(&states, next, &reason)?;
            if has_expired && entry.record().has_refusals() && entry.request().wants_bounce() {
                (self.note)(&entry, "gave up: returned to the sender");
            }
        }
        self.tell(&mut entry)?;
        if entry.record().fate() == Fate::Failed {
            (self.note)(&entry, "undeliverable, and not returned: kept for --resend or --remove");
        }
        entry.finish().map(drop)
    }

    /// Tells the sender of refusals. Bounces have no sender, so they do not bounce.
    fn tell(&mut self, entry: &mut Entry) -> io::Result<()> {
        if entry.record().has_refusals() && entry.request().wants_bounce() {
            let _locked = bounce(self.spool, entry, self.domain)?; // it is not sent before the next line is written
            entry.told()?;
        }
        Ok(())
    }

    /// Before a bounce is sent, makes sure that the message it is about is not returned once more: a process may have
    /// been killed after it stored the bounce, and before it recorded that. Returns false if another process is working
    /// on the message.
    fn record_bounce(&self, bounce: &Entry) -> io::Result<bool> {
        let Some((id, tries)) = bounce.id().split_at_checked(ID_LENGTH) else { return Ok(true) };
        let Some(tries) = tries.strip_prefix('B') else { return Ok(true) };
        match self.spool.lock(Place::Queue, id) {
            Ok(Some(mut entry)) => {
                if entry.record().has_refusals() && entry.record().tries.to_string() == tries {
                    entry.told()?;
                }
                Ok(true)
            }
            Ok(None) => Ok(fs::symlink_metadata(self.spool.path(Place::Queue, id)).is_err()),
            Err(_) => Ok(true), // reported for the message itself
        }
    }

    /// Removes what could not be returned, after the time that messages have to be delivered. Otherwise it would fill
    /// the spool.
    fn forget_failed(&mut self) -> io::Result<()> {
        for (id, _) in self.spool.files(Place::Failed)? {
            let forgotten = match self.spool.lock(Place::Failed, &id) {
                Ok(Some(entry)) if self.waits.is_over_age(&entry) => {
                    (self.note)(&entry, "undeliverable, and removed");
                    entry.remove()
                }
                Ok(Some(mut entry)) => entry.record_wait(RECORDED),
                Ok(None) => Ok(()),
                Err(e) => Err(e),
            };
            if let Err(e) = forgotten {
                (self.complain)(&id, &e);
            }
        }
        Ok(())
    }
}

/// Returns what became of each recipient that was left, and why it is not all delivered.
///
/// A recipient is due again only if the delivery says so, or if the error has no delivery and the content was not read
/// to its end. In all other cases it is in doubt.
pub fn outcomes(entry: &Entry, result: &Result<Delivery, Error>, has_expired: bool) -> (Vec<State>, String) {
    let (delivery, error) = match result {
        Ok(delivery) => (Some(delivery), None),
        Err(e) => (e.delivery(), Some(e)),
    };
    let reason = error.map(text).unwrap_or_default();
    let may_be_sent = delivery.is_none() && (entry.was_read() || error.is_some_and(Error::in_doubt));
    let not_sent = || {
        if may_be_sent {
            State::Doubt(reason.clone())
        } else if error.is_some_and(is_hopeless) {
            State::Refused(reason.clone())
        } else {
            left(&reason, has_expired)
        }
    };
    let due = entry.record().recipients.iter().filter(|state| **state == State::Due).count();
    let Some(delivery) = delivery else { return (vec![not_sent(); due], reason) };
    let one = |recipient: postino::Recipient<'_>| match (recipient.outcome(), recipient.reply()) {
        (Outcome::Accepted, _) => State::Accepted,
        (Outcome::InDoubt, _) => State::Doubt(reason.clone()),
        (Outcome::Refused, Some(reply)) if reply.is_permanent() => State::Refused(reply.to_string()),
        (_, Some(reply)) => left(&reply.to_string(), has_expired),
        (_, None) => not_sent(),
    };
    let mut states: Vec<_> = delivery.recipients().map(one).collect();
    states.resize(due, State::Doubt("the result is unknown".to_owned()));
    let refusal =
        || delivery.recipients().find_map(|r| r.reply().filter(|r| !r.is_positive()).map(Reply::to_string));
    let reason = if reason.is_empty() { refusal().unwrap_or_default() } else { reason };
    (states, reason)
}

/// If a recipient was refused, and nobody has got the message, the others are not tried again.
fn all_or_none(entry: &Entry, mut states: Vec<State>) -> Vec<State> {
    let is_sent = |state: &State| matches!(state, State::Accepted | State::Doubt(_));
    let may_be_sent = states.iter().chain(&entry.record().recipients).any(is_sent); // now or before
    if states.iter().any(|state| matches!(state, State::Refused(_))) && !may_be_sent {
        for state in states.iter_mut().filter(|state| **state == State::Due) {
            *state = State::Refused("not sent, because another recipient was refused".to_owned());
        }
    }
    states
}

/// Returns what becomes of a recipient that can be tried again.
fn left(reason: &str, has_expired: bool) -> State {
    if has_expired { State::Refused(format!("gave up; the last attempt: {reason}")) } else { State::Due }
}

/// Whether an error is about the server, the login or the settings, so that no other message can be sent, either.
pub fn is_about_server(error: &Error) -> bool {
    error.delivery().is_none() && !is_hopeless(error) && !matches!(error, Error::Source(_))
}

/// Whether no later attempt can send the message: it is the message or its sender that is refused. Settings, logins
/// and certificates can be put right. Recipients have their own replies.
fn is_hopeless(error: &Error) -> bool {
    match error {
        Error::Transaction { source, .. } => is_hopeless(source),
        Error::Refused { phase, reply } => {
            let is_about_message = matches!(phase, Phase::Mail | Phase::Data | Phase::Body | Phase::End);
            reply.is_permanent() && is_about_message
        }
        Error::Message(_) | Error::Unsupported(_) | Error::TooLarge { .. } | Error::Address { .. } => true,
        _ => false,
    }
}
