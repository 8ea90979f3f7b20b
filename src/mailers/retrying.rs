//! A mailer that retries messages that were not accepted.

use std::{fmt, time::Instant};

use super::{bell::Bell, mailer::Mailer, maybe_async};
use crate::{
    Delivery, Error, Mail,
    retry_policy::{Attempts, Next, RetryPolicy, RetryWait},
    time::later,
};

/// A mailer that sends through another mailer, and retries failed messages according to a [`RetryPolicy`].
///
/// After a transaction, a new attempt is made for the recipients in [`Delivery::retry_envelope`], unless a recipient
/// was refused with 5yz and [`all_or_nothing`](super::super::Builder::all_or_nothing) is set. After an error
/// before a transaction, a new attempt is made for all recipients if [`Error::retry`] returns [`Retry::Now`] or
/// [`Retry::Later`], and the error is not [`Error::NotConnected`], which means that the mailer cannot reconnect
/// automatically. A failed callback for a token or a password ([`Error::Token`], [`Error::Password`]) is therefore
/// called again at each attempt, even if it can never succeed.
///
/// [`Retry::Now`]: crate::Retry::Now
/// [`Retry::Later`]: crate::Retry::Later
///
/// The result contains the last outcome for each recipient. If no recipient was accepted, the result is an error.
///
/// The total time is limited by [`RetryPolicy::give_up_after`] plus the
/// [`deadline`](super::super::Builder::deadline) of one attempt. Without `give_up_after`, the deadlines of all attempts
/// and the waits add up.
///
/// A wait cannot be ended early, except by dropping the future in the async client.
#[doc = example!(Retrying)]
pub struct Retrying<M> {
    mailer: M,
    policy: RetryPolicy,
    before_wait: Option<BeforeWait>,
}

type BeforeWait = Box<dyn FnMut(&RetryWait) + Send>;

impl<M> Retrying<M> {
    /// Creates a mailer that sends through another one: a client, a builder, a pool or any other mailer. A client
    /// reconnects if its connection is lost.
    pub fn new(mailer: M, policy: RetryPolicy) -> Retrying<M> {
        Retrying { mailer, policy, before_wait: None }
    }

    /// Sets a callback that is called before each wait. It must not block. Defaults to none.
    #[must_use]
    pub fn before_wait(mut self, callback: impl FnMut(&RetryWait) + Send + 'static) -> Retrying<M> {
        self.before_wait = Some(Box::new(callback));
        self
    }

    /// Returns the wrapped mailer.
    pub fn into_inner(self) -> M {
        self.mailer
    }
}

#[maybe_async]
impl<M: Mailer> Retrying<M> {
    pub(in super::super) async fn attempt(&mut self, mail: &dyn Mail) -> Result<Delivery, Error> {
        let mut attempts = Attempts::new(&self.policy, mail.envelope()?, Instant::now());
        loop {
            let addressed = attempts.mail(mail);
            let result = self.mailer.send(&addressed).await;
            let now = Instant::now();
            match attempts.settle(result, now) {
                Next::Done(result) => return result,
                Next::Wait(wait) => {
                    log::debug!(
                        target: "postino",
                        "attempt {} failed, waiting for {:?}: {}",
                        wait.attempts, wait.duration, wait.reason
                    );
                    if let Some(callback) = &mut self.before_wait {
                        callback(&wait);
                    }
                    let until = later(now, wait.duration);
                    let bell = Bell::default(); // nobody rings it
                    while Instant::now() < until {
                        bell.wait(until).await;
                    }
                }
            }
        }
    }
}

impl<M: fmt::Debug> fmt::Debug for Retrying<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retrying")
            .field("mailer", &self.mailer)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
