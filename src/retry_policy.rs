//! Sending a message again: to whom, how often and after which waits, and the result of all attempts. What waits and sends
//! is in `mailers/`.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::{Duration, Instant},
};

use crate::{
    Delivery, Envelope, Error, Mail, Outcome, Reply, Retry, Timings,
    message::{Body, ServerSupport},
};

/// How often, and after which waits, a message is sent again.
///
/// Only what cannot duplicate the message is sent again, and only to the recipients that can still get it: those that were
/// refused with 4yz, and those that the message was not sent to ([`Delivery::retry_envelope`]). Recipients in doubt are
/// never tried again.
///
/// The wait doubles with each attempt. Each is shortened by a random amount of up to one half, so that many clients do not
/// come back at the same time.
///
/// ```
/// use std::time::Duration;
///
/// use postino::RetryPolicy;
///
/// let policy = RetryPolicy::default().attempts(8).first_wait(Duration::from_secs(5)).give_up_after(Duration::from_secs(900));
/// # let _ = policy;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    attempts: u32,
    first_wait: Duration,
    longest_wait: Duration,
    give_up_after: Option<Duration>,
}

impl Default for RetryPolicy {
    /// Makes up to five attempts, with waits of 1, 2, 4 and 8 seconds.
    fn default() -> RetryPolicy {
        RetryPolicy {
            attempts: 5,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(60),
            give_up_after: None,
        }
    }
}

impl RetryPolicy {
    /// Sets the maximum number of attempts, including the first. Zero counts as one. Defaults to five.
    #[must_use]
    pub fn attempts(self, attempts: u32) -> RetryPolicy {
        RetryPolicy { attempts, ..self }
    }

    /// Sets the wait after the first attempt, before it is shortened. Defaults to one second.
    #[must_use]
    pub fn first_wait(self, wait: Duration) -> RetryPolicy {
        RetryPolicy { first_wait: wait, ..self }
    }

    /// Sets the longest wait between two attempts. Defaults to one minute.
    #[must_use]
    pub fn longest_wait(self, wait: Duration) -> RetryPolicy {
        RetryPolicy { longest_wait: wait, ..self }
    }

    /// Sets the time after which no further attempt is begun, counted from the beginning of the first one. It does not end
    /// an attempt: for that, set a [deadline](crate::Builder::deadline), which holds for each attempt. Defaults to no
    /// limit.
    #[must_use]
    pub fn give_up_after(self, limit: Duration) -> RetryPolicy {
        RetryPolicy { give_up_after: Some(limit), ..self }
    }

    /// Makes this number of attempts without waits.
    pub(crate) fn at_once(attempts: usize) -> RetryPolicy {
        let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
        RetryPolicy { attempts, first_wait: Duration::ZERO, ..RetryPolicy::default() }
    }

    /// Returns the wait after this number of attempts. `random` shortens it.
    fn wait(&self, attempts: u32, random: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
        let whole = self.first_wait.saturating_mul(doubled).min(self.longest_wait);
        whole - (whole / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

/// What is known before a wait, for the callback of a `Retrying` mailer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RetryWait {
    /// Number of attempts that were made.
    pub attempts: u32,
    /// How long is waited before the next one.
    pub duration: Duration,
    /// Number of recipients that the next attempt is for.
    pub recipients: usize,
    /// Why the message is sent again: the text of the error, or of the delivery.
    pub reason: String,
}

/// The attempts to send a message.
pub(crate) struct Attempts<'p> {
    policy: &'p RetryPolicy,
    begun: Instant,
    count: u32,
    envelope: Envelope,
    /// The recipients of the next attempt, by their numbers.
    left: Vec<usize>,
    /// The last result for each recipient.
    last: Vec<(Outcome, Option<Reply>)>,
    timings: Timings,
    /// The cause of the last transaction in which no recipient was accepted.
    source: Option<Error>,
    /// Whether there was a transaction.
    is_begun: bool,
}

/// What comes after an attempt.
pub(crate) enum Next {
    Done(Result<Delivery, Error>),
    Wait(RetryWait),
}

impl<'p> Attempts<'p> {
    pub fn new(policy: &'p RetryPolicy, envelope: Envelope, now: Instant) -> Attempts<'p> {
        let count = envelope.recipients().len();
        Attempts {
            policy,
            begun: now,
            count: 0,
            envelope,
            left: (0..count).collect(),
            last: vec![(Outcome::NotSent, None); count],
            timings: Timings::default(),
            source: None,
            is_begun: false,
        }
    }

    /// Returns the mail for the next attempt.
    pub fn mail<'m>(&self, mail: &'m dyn Mail) -> impl Mail + use<'m> {
        let is_whole = self.left.len() == self.last.len();
        let envelope = if is_whole { self.envelope.clone() } else { self.envelope.part(&self.left) };
        Addressed { mail, envelope }
    }

    /// Takes the result of an attempt.
    pub fn settle(&mut self, result: Result<Delivery, Error>, now: Instant) -> Next {
        self.count = self.count.saturating_add(1);
        let delivery = match &result {
            Ok(delivery) => Some(delivery),
            Err(error) => error.delivery(),
        };
        let left: Vec<usize> = match delivery {
            Some(delivery) => {
                let results = self.left.iter().zip(delivery.recipients());
                results.filter(|(_, result)| result.can_be_retried()).map(|(number, _)| *number).collect()
            }
            None if result.as_ref().is_err_and(is_worth_retrying) => self.left.clone(),
            None => Vec::new(),
        };
        let wait = self.policy.wait(self.count, random());
        let is_late = self
            .policy
            .give_up_after
            .is_some_and(|limit| now.saturating_duration_since(self.begun).saturating_add(wait) >= limit);
        if left.is_empty() || self.count >= self.policy.attempts || is_late {
            return Next::Done(if self.count == 1 { result } else { self.finish(result) });
        }
        let reason = match &result {
            Ok(delivery) => delivery.to_string(),
            Err(error) => error.to_string(),
        };
        let recipients = left.len();
        drop(self.record(result));
        self.left = left;
        Next::Wait(RetryWait { attempts: self.count, duration: wait, recipients, reason })
    }

    /// Keeps the result of an attempt. Returns the error if there was no transaction.
    fn record(&mut self, result: Result<Delivery, Error>) -> Option<Error> {
        let delivery = match result {
            Ok(delivery) => delivery,
            Err(Error::Transaction { delivery, source }) => {
                self.source = Some(*source);
                *delivery
            }
            Err(Error::PartialDelivery { delivery }) => *delivery,
            Err(error) => return Some(error),
        };
        self.is_begun = true;
        for (number, result) in self.left.iter().zip(delivery.recipients()) {
            self.last[*number] = (result.outcome(), result.reply().cloned());
        }
        let timings = delivery.timings();
        self.timings.envelope += timings.envelope;
        self.timings.content += timings.content;
        self.timings.end += timings.end;
        self.timings.total += timings.total;
        None
    }

    /// Returns the result of all attempts. This is the last one.
    fn finish(&mut self, result: Result<Delivery, Error>) -> Result<Delivery, Error> {
        let error = self.record(result);
        if let (Some(error), false) = (error, self.is_begun) {
            return Err(error);
        }
        let last = std::mem::take(&mut self.last);
        let delivery = Delivery::gathered(self.envelope.clone(), last, self.timings);
        if delivery.outcome() == Outcome::Accepted {
            return Ok(delivery);
        }
        let source =
            self.source.take().unwrap_or(Error::Internal("a message was not accepted for no reason"));
        Err(Error::Transaction { delivery: Box::new(delivery), source: Box::new(source) })
    }
}

/// Returns whether an error before a transaction may be gone at the next attempt. A client that is not connected could not
/// connect again by itself.
fn is_worth_retrying(error: &Error) -> bool {
    matches!(error.retry(), Retry::Now | Retry::Later) && !matches!(error, Error::NotConnected)
}

fn random() -> u32 {
    // The hasher's keys are random.
    RandomState::new().build_hasher().finish() as u32
}

/// A mail with another envelope.
struct Addressed<'m> {
    mail: &'m dyn Mail,
    envelope: Envelope,
}

impl Mail for Addressed<'_> {
    fn envelope(&self) -> Result<Envelope, Error> {
        Ok(self.envelope.clone())
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        self.mail.body()
    }

    fn body_for(&self, offer: ServerSupport) -> Result<Body<'_>, Error> {
        self.mail.body_for(offer)
    }
}
