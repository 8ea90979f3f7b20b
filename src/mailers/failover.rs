//! A mailer that tries several other mailers in turn.

use std::{fmt, time::Instant};

use super::{mailer::Mailer, maybe_async};
use crate::{
    Delivery, Error, Mail,
    retry_policy::{Attempts, Next, RetryPolicy},
};

/// A mailer that sends each message through the first of several mailers that accepts it.
///
/// The next mailer is tried immediately, and only for the recipients that can get the message without risk of a
/// duplicate: those that it was not sent to, and those that were refused with 4yz. A recipient that was accepted, is in
/// doubt, or was refused with 5yz is never offered to another mailer.
///
/// If a mailer fails before its server gets the message, the next mailer gets the message for the same recipients. This
/// applies to failed connections, invalid certificates, failed logins, any refusal before MAIL, and servers that do not
/// offer what the message needs ([`Error::Unsupported`], [`Error::TooLarge`]). Errors in the message, in its envelope
/// or in the settings of a mailer are returned at once, and so are [`Error::Source`] and [`Error::Stopped`].
///
/// The result contains the last outcome for each recipient. If no recipient was accepted, the result is an error.
///
/// Each mailer has its own time limits, and these add up: if three builders have a
/// [`deadline`](super::super::Builder::deadline) of 30 seconds, a call takes at most 90 seconds.
#[doc = example!(Failover)]
pub struct Failover {
    mailers: Vec<Box<dyn Mailer>>,
    /// The index of the mailer that is tried first for the next message.
    first: usize,
    rotates: bool,
}

impl Failover {
    /// Creates a mailer that always begins with the first of the given mailers. If there are none, sending
    /// fails with [`Error::Config`].
    pub fn new(mailers: impl IntoIterator<Item = Box<dyn Mailer>>) -> Failover {
        Failover { mailers: mailers.into_iter().collect(), first: 0, rotates: false }
    }

    /// Creates a mailer that starts with a different one of the given mailers for each message, in round-robin order.
    pub fn round_robin(mailers: impl IntoIterator<Item = Box<dyn Mailer>>) -> Failover {
        Failover { rotates: true, ..Failover::new(mailers) }
    }
}

#[maybe_async]
impl Failover {
    pub(in super::super) async fn attempt(&mut self, mail: &dyn Mail) -> Result<Delivery, Error> {
        let count = self.mailers.len();
        if count == 0 {
            return Err(Error::Config("a failover needs at least one mailer".into()));
        }
        let first = self.first;
        if self.rotates {
            self.first = (first + 1) % count;
        }
        let policy = RetryPolicy::one_each(count);
        let mut attempts = Attempts::new(&policy, mail.envelope()?, Instant::now());
        let mut number = first;
        loop {
            let addressed = attempts.mail(mail);
            let result = self.mailers[number].send(&addressed).await;
            match attempts.settle(result, Instant::now()) {
                Next::Done(result) => return result,
                Next::Wait(wait) => {
                    log::debug!(target: "postino", "mailer {number} failed, trying the next: {}", wait.reason);
                }
            }
            number = (number + 1) % count;
        }
    }
}

impl fmt::Debug for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failover { mailers, first, rotates } = self;
        let mut shown = f.debug_struct("Failover");
        shown.field("mailers", &mailers.len()).field("first", first).field("rotates", rotates).finish()
    }
}
