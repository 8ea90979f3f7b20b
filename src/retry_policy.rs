//! Sending a message again: to whom, how often and after which waits, and the result of all attempts. The code that
//! waits and sends is in `mailers/`.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::{Duration, Instant},
};

use crate::{
    Delivery, Envelope, Error, Mail, Outcome, Reply, Retry, Timings,
    message::{Body, ServerSupport},
};

/// How many times to try to send a message, and how long to wait before each new attempt.
///
/// A message is sent again only if that cannot duplicate it, and only to the recipients that can still get it: those
/// refused with 4yz, and those that the message was not sent to ([`Delivery::retry_envelope`]). Recipients whose
/// outcome is in doubt are never tried again. With [`all_or_nothing`](crate::Builder::all_or_nothing), no recipient is
/// tried again after one was refused with 5yz.
///
/// If the message did not reach a transaction, another attempt is made after each error for which [`Error::retry`]
/// returns [`Retry::Now`] or [`Retry::Later`], except [`Error::NotConnected`]. [`Error::retry`] lists these errors.
///
/// The wait doubles with each attempt. Each wait is shortened by a random amount, at most half of it, so that clients
/// do not all retry at the same time.
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
    /// Whether each attempt is made with a different server.
    is_elsewhere: bool,
}

impl Default for RetryPolicy {
    /// Makes up to five attempts, with waits of 1, 2, 4 and 8 seconds, each shortened by a random amount of up to half.
    fn default() -> RetryPolicy {
        RetryPolicy {
            attempts: 5,
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(60),
            give_up_after: None,
            is_elsewhere: false,
        }
    }
}

impl RetryPolicy {
    /// Sets the maximum number of attempts, including the first. Zero counts as one. Defaults to five.
    #[must_use]
    pub fn attempts(self, attempts: u32) -> RetryPolicy {
        RetryPolicy { attempts, ..self }
    }

    /// Sets the wait after the first attempt. Up to half of it is subtracted at random. Defaults to one second.
    #[must_use]
    pub fn first_wait(self, wait: Duration) -> RetryPolicy {
        RetryPolicy { first_wait: wait, ..self }
    }

    /// Sets the longest wait between two attempts. Up to half of it is subtracted at random. Defaults to one
    /// minute.
    #[must_use]
    pub fn longest_wait(self, wait: Duration) -> RetryPolicy {
        RetryPolicy { longest_wait: wait, ..self }
    }

    /// Sets the time after which no further attempt is started, counted from the start of the first one. A wait that
    /// would reach this limit is skipped, and the result is returned at once. Defaults to no limit.
    ///
    /// The limit does not interrupt an attempt. To limit each attempt, set a [deadline](crate::Builder::deadline). All
    /// attempts together then take at most this limit plus the deadline. Without a limit, they take at most one
    /// deadline for each of the [attempts](RetryPolicy::attempts), plus the waits.
    #[must_use]
    pub fn give_up_after(self, limit: Duration) -> RetryPolicy {
        RetryPolicy { give_up_after: Some(limit), ..self }
    }

    /// Creates a policy that makes one attempt with each of several servers, without waits.
    pub(crate) fn one_each(servers: usize) -> RetryPolicy {
        let attempts = u32::try_from(servers).unwrap_or(u32::MAX);
        RetryPolicy { attempts, first_wait: Duration::ZERO, is_elsewhere: true, ..RetryPolicy::default() }
    }

    /// Returns whether another attempt may succeed after an error before a transaction.
    fn can_help_after(&self, error: &Error) -> bool {
        if self.is_elsewhere { is_of_server(error) } else { is_temporary(error) }
    }

    /// Returns the wait after this number of attempts. `random` shortens it.
    fn wait(&self, attempts: u32, random: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
        let whole = self.first_wait.saturating_mul(doubled).min(self.longest_wait);
        whole - (whole / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

/// Information about a wait that is about to begin, for the callback of a `Retrying` mailer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RetryWait {
    /// Number of attempts that have been made so far.
    pub attempts: u32,
    /// How long the mailer is going to wait before the next attempt.
    pub duration: Duration,
    /// Number of recipients that the next attempt is for.
    pub recipients: usize,
    /// Why the message will be sent again: the error or the delivery of the last attempt, as text.
    pub reason: String,
}

/// The attempts to send a message.
pub(crate) struct Attempts<'p> {
    policy: &'p RetryPolicy,
    begun: Instant,
    count: u32,
    envelope: Envelope,
    /// The recipients of the next attempt, as indexes into the envelope.
    left: Vec<usize>,
    /// The last result for each recipient.
    last: Vec<(Outcome, Option<Reply>)>,
    timings: Timings,
    /// The cause of the last transaction in which no recipient was accepted.
    source: Option<Error>,
    /// Whether there was a transaction.
    is_begun: bool,
}

/// What to do after an attempt.
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

    /// Processes the result of an attempt, and returns what to do next.
    pub fn settle(&mut self, result: Result<Delivery, Error>, now: Instant) -> Next {
        self.count = self.count.saturating_add(1);
        let delivery = match &result {
            Ok(delivery) => Some(delivery),
            Err(error) => error.delivery(),
        };
        let left: Vec<usize> = match delivery {
            Some(delivery) if self.is_for_this(delivery) => {
                delivery.worth_retrying().into_iter().map(|at| self.left[at]).collect()
            }
            Some(_) => Vec::new(),
            None if result.as_ref().is_err_and(|error| self.policy.can_help_after(error)) => {
                self.left.clone()
            }
            None => Vec::new(),
        };
        let wait = self.policy.wait(self.count, random());
        let is_late = self
            .policy
            .give_up_after
            .is_some_and(|limit| now.saturating_duration_since(self.begun).saturating_add(wait) >= limit);
        if delivery.is_some_and(|delivery| !self.is_for_this(delivery)) && self.count > 1 {
            // It is unknown which recipients the delivery is about, so all that are left count as in doubt.
            self.left.iter().for_each(|number| self.last[*number] = (Outcome::InDoubt, None));
            self.is_begun = true;
            self.left.clear();
        }
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

    /// Returns whether a delivery has the recipients of this attempt, as it should.
    fn is_for_this(&self, delivery: &Delivery) -> bool {
        delivery.envelope().recipients().len() == self.left.len()
    }

    /// Records the result of an attempt. Returns the error if there was no transaction.
    fn record(&mut self, result: Result<Delivery, Error>) -> Option<Error> {
        let delivery = match result {
            Ok(delivery) => delivery,
            Err(Error::Transaction { delivery, source }) => {
                self.source = Some(*source);
                *delivery
            }
            Err(Error::PartialDelivery { delivery }) => *delivery,
            // The error says nothing about individual recipients.
            Err(error) if error.in_doubt() && self.is_begun => {
                self.left.iter().for_each(|number| self.last[*number] = (Outcome::InDoubt, None));
                self.source = Some(error);
                return None;
            }
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

    /// Returns the result of all attempts. The argument is the result of the last one.
    fn finish(&mut self, result: Result<Delivery, Error>) -> Result<Delivery, Error> {
        match self.record(result) {
            Some(error) if !self.is_begun => return Err(error),
            Some(error) => {
                log::debug!(target: "postino", "the last attempt failed: {error}");
                self.source = Some(error);
            }
            None => {}
        }
        let last = std::mem::take(&mut self.last);
        let delivery = Delivery::gathered(self.envelope.clone(), last, self.timings);
        if delivery.outcome() == Outcome::Accepted {
            return Ok(delivery);
        }
        let source =
            self.source.take().unwrap_or(Error::Internal("a message was not accepted, but has no error"));
        Err(Error::Transaction { delivery: Box::new(delivery), source: Box::new(source) })
    }
}

/// Returns whether an error before a transaction may be temporary. `NotConnected` is not: it means that the client
/// cannot reconnect automatically.
fn is_temporary(error: &Error) -> bool {
    matches!(error.retry(), Retry::Now | Retry::Later) && !matches!(error, Error::NotConnected)
}

/// Returns whether an error before a transaction concerns the server or the path to it, so that another server may
/// accept the message. All other errors concern the message, its envelope or the settings, or mean that the caller has
/// stopped the client or that the message may have been delivered.
fn is_of_server(error: &Error) -> bool {
    match error {
        _ if error.in_doubt() => false,
        Error::Unsupported(_)
        | Error::TooLarge { .. }
        | Error::Resolve { .. }
        | Error::Connect { .. }
        | Error::Proxy { .. }
        | Error::Certificate { .. }
        | Error::Tls { .. }
        | Error::TlsRequired
        | Error::Auth { .. }
        | Error::Token { .. }
        | Error::Password { .. }
        | Error::Refused { .. }
        | Error::Timeout(_)
        | Error::Io { .. }
        | Error::Closed(_)
        | Error::Protocol { .. }
        | Error::NotConnected
        | Error::PoolClosed
        | Error::Program { .. }
        | Error::Folder { .. } => true,
        Error::Config(_)
        | Error::Address { .. }
        | Error::NoRecipients
        | Error::Message(_)
        | Error::Source(_)
        | Error::Stopped(_)
        | Error::AlreadyConnected
        | Error::Internal(_)
        | Error::Transaction { .. }
        | Error::PartialDelivery { .. } => false,
    }
}

fn random() -> u32 {
    // The hasher's keys are random.
    RandomState::new().build_hasher().finish() as u32
}

/// A mail with a different envelope.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Phase, Raw};

    const POLICY: [u64; 2] = [2, 10]; // first and longest wait, in seconds

    fn policy(attempts: u32) -> RetryPolicy {
        let [first, longest] = POLICY.map(Duration::from_secs);
        RetryPolicy::default().attempts(attempts).first_wait(first).longest_wait(longest)
    }

    fn envelope() -> Envelope {
        Envelope::new("a@example.org", ["b@example.net", "c@example.net", "d@example.net"]).unwrap()
    }

    fn reply(code: u16) -> Reply {
        Reply::parse(format!("{code} text {code}\r\n").as_bytes()).unwrap()
    }

    /// Returns the result of an attempt, with a code for each recipient; 0 is not sent, 1 is in doubt.
    fn result(envelope: &Envelope, codes: &[u16]) -> Result<Delivery, Error> {
        assert_eq!(codes.len(), envelope.recipients().len());
        let outcomes = codes.iter().map(|code| match code {
            0 => (Outcome::NotSent, None),
            1 => (Outcome::InDoubt, None),
            200..300 => (Outcome::Accepted, Some(reply(*code))),
            _ => (Outcome::Refused, Some(reply(*code))),
        });
        let delivery = Delivery::gathered(envelope.clone(), outcomes.collect(), Timings::default());
        match delivery.outcome() {
            Outcome::Accepted => Ok(delivery),
            Outcome::InDoubt => failed(delivery, Error::Closed(Phase::End)),
            Outcome::NotSent => failed(delivery, Error::Closed(Phase::Mail)),
            Outcome::Refused => {
                let reply = delivery.reply().unwrap().clone();
                failed(delivery, Error::Refused { phase: Phase::Recipient, reply })
            }
        }
    }

    fn failed(delivery: Delivery, source: Error) -> Result<Delivery, Error> {
        Err(Error::Transaction { delivery: Box::new(delivery), source: Box::new(source) })
    }

    /// Makes attempts with these results. Returns the recipients of each attempt by their first letters, and the result
    /// of all.
    fn attempts(policy: &RetryPolicy, results: &[&[u16]]) -> (Vec<String>, Result<Delivery, Error>) {
        let mail = Raw::bytes(envelope(), "");
        let mut attempts = Attempts::new(policy, envelope(), Instant::now());
        let mut tried = Vec::new();
        for codes in results {
            let envelope = attempts.mail(&mail).envelope().unwrap();
            tried.push(envelope.recipients().iter().map(|recipient| &recipient.as_str()[..1]).collect());
            if let Next::Done(result) = attempts.settle(result(&envelope, codes), Instant::now()) {
                return (tried, result);
            }
        }
        panic!("another attempt is made");
    }

    fn outcomes(result: &Result<Delivery, Error>) -> Vec<Outcome> {
        let delivery = result.as_ref().unwrap_or_else(|error| error.delivery().unwrap());
        delivery.recipients().map(|recipient| recipient.outcome()).collect()
    }

    #[test]
    fn only_recipients_that_cannot_get_a_duplicate_are_tried_again() {
        use Outcome::{Accepted, InDoubt, NotSent, Refused};
        for (results, tried, all) in [
            (&[&[250, 450, 550][..], &[250]][..], &["bcd", "c"][..], [Accepted, Accepted, Refused]),
            (
                &[&[1, 0, 450], &[450, 250], &[0], &[550]],
                &["bcd", "cd", "c", "c"],
                [InDoubt, Refused, Accepted],
            ),
            (
                &[&[450, 450, 450], &[0, 0, 0], &[250, 1, 550]],
                &["bcd", "bcd", "bcd"],
                [Accepted, InDoubt, Refused],
            ),
            (&[&[1, 1, 1]], &["bcd"], [InDoubt; 3]),
            (&[&[550, 550, 550]], &["bcd"], [Refused; 3]),
            (&[&[450, 1, 1], &[0], &[0], &[0]], &["bcd", "b", "b", "b"], [NotSent, InDoubt, InDoubt]),
        ] {
            let (made, result) = attempts(&policy(4), results);
            assert_eq!(
                (made, outcomes(&result)),
                (tried.iter().map(ToString::to_string).collect(), all.to_vec())
            );
            assert_eq!(result.is_ok(), all.contains(&Accepted));
        }
    }

    #[test]
    fn an_attempt_in_doubt_without_a_delivery_leaves_its_recipients_in_doubt() {
        let policy = policy(4);
        let mut attempts = Attempts::new(&policy, envelope(), Instant::now());
        let partly = result(&envelope(), &[250, 450, 550]);
        assert!(matches!(attempts.settle(partly, Instant::now()), Next::Wait(_)));
        let lost = Err(Error::Closed(Phase::End));
        let Next::Done(result) = attempts.settle(lost, Instant::now()) else {
            panic!("another attempt is made")
        };
        assert_eq!(outcomes(&result), [Outcome::Accepted, Outcome::InDoubt, Outcome::Refused]);
    }

    #[test]
    fn a_delivery_to_other_recipients_ends_the_attempts() {
        let policy = policy(4);
        let other = Envelope::to_one("a@example.org", "c@example.net").unwrap();
        let mut attempts = Attempts::new(&policy, envelope(), Instant::now());
        let first = attempts.settle(result(&other, &[450]), Instant::now());
        assert!(matches!(first, Next::Done(Err(Error::Transaction { .. }))));

        let mut attempts = Attempts::new(&policy, envelope(), Instant::now());
        assert!(matches!(
            attempts.settle(result(&envelope(), &[250, 450, 450]), Instant::now()),
            Next::Wait(_)
        ));
        let second = attempts.settle(result(&other, &[450]), Instant::now());
        let Next::Done(result) = second else { panic!("another attempt is made") };
        assert_eq!(outcomes(&result), [Outcome::Accepted, Outcome::InDoubt, Outcome::InDoubt]);
    }

    #[test]
    fn the_error_of_all_attempts_has_the_cause_of_the_last_transaction() {
        let (_, result) = attempts(&policy(2), &[&[450, 0, 0], &[451, 0, 0]]);
        let error = result.unwrap_err();
        assert_eq!(error.reply().unwrap().code(), 451);
        assert_eq!((error.retry(), error.is_transient()), (Retry::Later, true));
    }

    #[test]
    fn errors_before_a_transaction_are_tried_again_only_if_that_can_help() {
        let connect =
            || Error::Connect { server: "h:25".into(), source: std::io::ErrorKind::ConnectionRefused.into() };
        let (cause, io) = (|| "no".into(), || std::io::Error::other("no"));
        let auth = |code| Error::Auth { what: "no".into(), details: None, reply: Some(reply(code)) };
        let proxy = |is_transient| Error::Proxy { proxy: "p".into(), what: "no".into(), is_transient };
        for (error, is_tried_again) in [
            (connect(), true),
            (Error::Resolve { host: "h".into(), source: io() }, true),
            (Error::Closed(Phase::Greeting), true),
            (Error::Io { phase: Phase::Hello, source: io() }, true),
            (proxy(true), true),
            (proxy(false), false),
            (Error::Tls { source: cause() }, true),
            (Error::protocol(Phase::Greeting, "junk"), true),
            (Error::Token { source: cause() }, true),
            (Error::Password { source: cause() }, true),
            (Error::Source(io()), true),
            (Error::Folder { folder: "/f".into(), source: io() }, true),
            (auth(454), true),
            (auth(535), false),
            (Error::Certificate { name: "h".into(), reason: "no".into(), source: cause() }, false),
            (Error::Message("no".into()), false),
            (Error::Timeout(Phase::Greeting), true),
            (Error::Refused { phase: Phase::Greeting, reply: reply(421) }, true),
            (Error::Refused { phase: Phase::Greeting, reply: reply(554) }, false),
            (Error::Config("no".into()), false),
            (Error::NotConnected, false),
            (Error::Stopped(Phase::Connect), false),
        ] {
            let (policy, text) = (policy(3), error.to_string());
            let mut attempts = Attempts::new(&policy, envelope(), Instant::now());
            match attempts.settle(Err(error), Instant::now()) {
                Next::Wait(wait) => {
                    assert!(is_tried_again);
                    assert_eq!((wait.attempts, wait.recipients, wait.reason), (1, 3, text));
                    // The results of earlier attempts are not lost.
                    let partly = result(&envelope(), &[250, 450, 550]);
                    assert!(matches!(attempts.settle(partly, Instant::now()), Next::Wait(_)));
                    let Next::Done(result) = attempts.settle(Err(connect()), Instant::now()) else {
                        panic!()
                    };
                    assert_eq!(outcomes(&result), [Outcome::Accepted, Outcome::Refused, Outcome::Refused]);
                }
                Next::Done(result) => {
                    assert!(!is_tried_again);
                    assert_eq!(result.unwrap_err().to_string(), text);
                }
            }
        }
        let policy = policy(1);
        let mut attempts = Attempts::new(&policy, envelope(), Instant::now());
        assert!(matches!(
            attempts.settle(Err(connect()), Instant::now()),
            Next::Done(Err(Error::Connect { .. }))
        ));
    }

    #[test]
    fn another_server_is_tried_after_any_error_of_a_server() {
        let cause = || "no".into();
        let io = || std::io::Error::other("no");
        for (error, is_of_server) in [
            (Error::Resolve { host: "h".into(), source: io() }, true),
            (Error::Connect { server: "h:25".into(), source: io() }, true),
            (Error::Proxy { proxy: "p".into(), what: "no".into(), is_transient: false }, true),
            (Error::Certificate { name: "h".into(), reason: "no".into(), source: cause() }, true),
            (Error::Tls { source: cause() }, true),
            (Error::TlsRequired, true),
            (Error::Auth { what: "no".into(), details: None, reply: Some(reply(535)) }, true),
            (Error::Token { source: cause() }, true),
            (Error::Refused { phase: Phase::Greeting, reply: reply(554) }, true),
            (Error::Timeout(Phase::Hello), true),
            (Error::Closed(Phase::Greeting), true),
            (Error::protocol(Phase::Greeting, "junk"), true),
            (Error::Unsupported("DSN"), true),
            (Error::TooLarge { size: 2, limit: 1 }, true),
            (Error::NotConnected, true),
            (Error::PoolClosed, true),
            (Error::Folder { folder: "/f".into(), source: io() }, true),
            (Error::Timeout(Phase::End), false),
            (Error::Closed(Phase::End), false),
            (Error::Stopped(Phase::Connect), false),
            (Error::Config("no".into()), false),
            (Error::Message("no".into()), false),
            (Error::Source(io()), false),
            (Error::NoRecipients, false),
        ] {
            let (policy, text) = (RetryPolicy::one_each(2), error.to_string());
            let mut attempts = Attempts::new(&policy, envelope(), Instant::now());
            let next = attempts.settle(Err(error), Instant::now());
            assert_eq!(matches!(next, Next::Wait(wait) if wait.duration.is_zero()), is_of_server, "{text}");
        }
    }

    #[test]
    fn the_error_of_the_last_attempt_is_the_cause_even_if_it_had_no_transaction() {
        let policy = policy(2);
        let mut attempts = Attempts::new(&policy, envelope(), Instant::now());
        assert!(matches!(
            attempts.settle(result(&envelope(), &[450, 0, 550]), Instant::now()),
            Next::Wait(_)
        ));
        let last = Error::Timeout(Phase::Connect);
        let Next::Done(Err(error)) = attempts.settle(Err(last), Instant::now()) else { panic!() };
        let Error::Transaction { source, .. } = &error else { panic!("{error}") };
        assert!(matches!(**source, Error::Timeout(Phase::Connect)), "{error}");
        assert!(error.is_timeout() && error.to_string().contains("c@example.net: timed out"), "{error}");
        assert_eq!(error.retry(), Retry::Later);
        use Outcome::{NotSent, Refused};
        assert_eq!(outcomes(&Err(error)), [Refused, NotSent, Refused]);
    }

    #[test]
    fn waits_double_up_to_a_limit_and_are_shortened_by_up_to_a_half() {
        let seconds = |attempts, random| policy(9).wait(attempts, random).as_secs_f64().round() as u64;
        assert_eq!([1, 2, 3, 4, 100].map(|attempts| seconds(attempts, 0)), [2, 4, 8, 10, 10]);
        assert_eq!([1, 2, 3, 4, 100].map(|attempts| seconds(attempts, u32::MAX)), [1, 2, 4, 5, 5]);
        let endless = RetryPolicy::default().first_wait(Duration::MAX).longest_wait(Duration::MAX);
        assert_eq!(endless.wait(7, 0), Duration::MAX);
    }

    #[test]
    fn no_attempt_is_begun_after_the_limit() {
        let policy = policy(9).give_up_after(Duration::from_secs(60));
        for (passed, is_begun) in [(0, true), (50, true), (59, false), (61, false)] {
            let begun = Instant::now();
            let mut attempts = Attempts::new(&policy, envelope(), begun);
            let now = begun + Duration::from_secs(passed);
            let next = attempts.settle(result(&envelope(), &[450, 450, 450]), now);
            assert_eq!(matches!(next, Next::Wait(_)), is_begun);
        }
    }
}
