//! Sending what is in the spool.

use std::{
    collections::HashMap,
    fs::{self, Metadata},
    io,
    time::Duration,
};

use postino::{Delivery, Error, Outcome, Phase, Reply};

use super::{Entry, Fate, Place, Spool, age, bounce, now, record::State};

/// When a message is tried again, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// The waits after the first attempts; the last one repeats.
    pub waits: Vec<Duration>,
    /// Age at which a message is returned to its sender, once all waits have passed.
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
    pub fn next(&self, tries: usize) -> u64 {
        let wait = self.waits.get(tries).or(self.waits.last());
        now().saturating_add(wait.map_or(0, Duration::as_secs))
    }

    /// Whether an attempt is due. A time farther away than the longest wait was set before the clock was put back.
    fn is_due(&self, next: u64) -> bool {
        let longest = self.waits.iter().max().map_or(0, Duration::as_secs);
        next <= now() || next - now() > longest
    }

    /// Whether this attempt is the last one. The number of attempts must fit, too: small machines often get the right
    /// time only after messages are submitted.
    fn have_ended(&self, entry: &Entry) -> bool {
        self.is_over_age(entry) && entry.record().tries >= self.waits.len()
    }

    fn is_over_age(&self, entry: &Entry) -> bool {
        now() >= entry.request().time.saturating_add(self.give_up_after.as_secs())
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
        self.spool.clean()?;
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
        self.tell(&mut entry)?; // the program may have been killed before it could
        if entry.record().fate() == Fate::Due {
            if !self.everything && !self.waits.is_due(entry.record().next) {
                return Ok(());
            }
            let has_expired = self.waits.have_ended(&entry);
            let (states, reason) = match unreachable.get(&entry.request().account) {
                // It is sent as soon as the server can be reached, so no wait begins.
                Some(_) if !self.waits.is_over_age(&entry) => return Ok(()),
                Some(reason) => (vec![left(reason, has_expired); entry.due().count()], reason.clone()),
                None => {
                    let result = (self.send)(&entry);
                    (self.report)(&entry, &result);
                    if let Some(e) =
                        result.as_ref().err().filter(|e| e.delivery().is_none() && !is_hopeless(e))
                    {
                        unreachable.insert(entry.request().account.clone(), e.to_string());
                    }
                    outcomes(&entry, &result, has_expired)
                }
            };
            let next = self.waits.next(entry.record().tries);
            entry.settle(&states, next, &reason)?;
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
            bounce(self.spool, entry, self.domain)?;
            entry.told()?;
        }
        Ok(())
    }

    /// Removes what could not be returned, after the time that messages have to be delivered. Otherwise it would fill
    /// the spool.
    fn forget_failed(&mut self) -> io::Result<()> {
        for (id, path) in self.spool.files(Place::Failed)? {
            let is_old = |file: &Metadata| file.modified().is_ok_and(|at| age(at) > self.waits.give_up_after);
            if !fs::symlink_metadata(path).is_ok_and(|file| is_old(&file)) {
                continue;
            }
            let forgotten = match self.spool.lock(Place::Failed, &id) {
                Ok(Some(entry)) => {
                    (self.note)(&entry, "undeliverable, and removed");
                    entry.remove()
                }
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
/// A recipient is due again only if the delivery says so, or if there is none and the content was not read to its end.
/// In all other cases it is in doubt.
pub fn outcomes(entry: &Entry, result: &Result<Delivery, Error>, has_expired: bool) -> (Vec<State>, String) {
    let (delivery, error) = match result {
        Ok(delivery) => (Some(delivery), None),
        Err(e) => (e.delivery(), Some(e)),
    };
    let reason = error.map(Error::to_string).unwrap_or_default();
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

/// Returns what becomes of a recipient that can be tried again.
fn left(reason: &str, has_expired: bool) -> State {
    if has_expired { State::Refused(format!("gave up; the last attempt: {reason}")) } else { State::Due }
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
