//! A mailer that keeps messages in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Copied, StoredMail, failed};
use crate::{Address, Delivery, Error, Outcome, Phase, Reply};

/// A mailer that keeps messages in memory instead of sending them, for the unit tests of an application. It uses no
/// socket. Clones share the messages, refusals and failures.
///
/// A test can make it refuse messages ([`refuse_with`](MemoryMailer::refuse_with)), refuse individual recipients
/// ([`refuse_recipient`](MemoryMailer::refuse_recipient)), or fail ([`fail_with`](MemoryMailer::fail_with)). To test an
/// application against a server that speaks SMTP, see the `testing` feature.
///
/// ```
/// use postino::{Error, Mailer, MemoryMailer, Message};
///
/// fn welcome(mailer: &mut dyn Mailer, user: &str) -> Result<(), Error> {
///     let message = Message::builder().from("shop@example.org").to_one(user).subject("Welcome").build()?;
///     mailer.send(&message)?.require_all()?;
///     Ok(())
/// }
///
/// let mut mailer = MemoryMailer::new();
/// welcome(&mut mailer, "bob@example.net")?;
/// let sent = mailer.sent();
/// assert_eq!(sent[0].envelope().recipients(), ["bob@example.net"]);
/// assert!(sent[0].text().contains("Subject: Welcome\r\n"));
///
/// mailer.refuse_with("450 4.2.1 mailbox is busy")?;
/// assert!(welcome(&mut mailer, "bob@example.net").unwrap_err().is_transient());
/// mailer.fail_with(|| Error::Timeout(postino::Phase::End));
/// assert!(welcome(&mut mailer, "bob@example.net").unwrap_err().in_doubt());
/// # Ok::<(), Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct MemoryMailer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    sent: Vec<StoredMail>,
    recipients: Vec<(Address, Reply)>,
    mood: Mood,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("sent", &self.sent).finish_non_exhaustive()
    }
}

/// What the mailer does with messages.
#[derive(Default)]
enum Mood {
    #[default]
    Accepts,
    Refuses(Reply),
    Fails(Box<dyn FnMut() -> Error + Send>),
}

impl MemoryMailer {
    /// Creates a mailer that accepts every message.
    #[must_use]
    pub fn new() -> MemoryMailer {
        MemoryMailer::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the messages that were accepted, in the order in which they were sent. The envelope of each message has
    /// only the recipients that were accepted.
    #[must_use]
    pub fn sent(&self) -> Vec<StoredMail> {
        self.state().sent.clone()
    }

    /// Forgets the accepted messages. Refusals and failures that were set stay in effect.
    pub fn clear(&self) {
        self.state().sent.clear();
    }

    /// Refuses all messages from now on with a reply such as `550 5.7.1 looks like spam`. Refused messages are not
    /// kept.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the text is not a reply with a 4yz or 5yz code.
    pub fn refuse_with(&self, reply: &str) -> Result<(), Error> {
        self.state().mood = Mood::Refuses(refusal(reply)?);
        Ok(())
    }

    /// Refuses a recipient from now on with a reply such as `550 5.1.1 no such user`. The whole address must match.
    /// Case is ignored only in the domain.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if the address is invalid, and [`Error::Config`] if the text is not a reply with a 4yz or 5yz
    /// code.
    pub fn refuse_recipient(&self, address: &str, reply: &str) -> Result<(), Error> {
        let refused = (Address::new(address)?, refusal(reply)?);
        self.state().recipients.push(refused);
        Ok(())
    }

    /// From now on, fails each message with the error that the function returns. If that error leaves the message
    /// [in doubt](Error::in_doubt), as `Error::Timeout(Phase::End)` does, the message fails with an
    /// [`Error::Transaction`] in which all recipients are in doubt. Failed messages are not kept.
    /// The function must not use this mailer: that would deadlock.
    pub fn fail_with(&self, error: impl FnMut() -> Error + Send + 'static) {
        self.state().mood = Mood::Fails(Box::new(error));
    }

    /// Accepts all messages and recipients again.
    pub fn accept(&self) {
        let mut state = self.state();
        (state.mood, state.recipients) = (Mood::Accepts, Vec::new());
    }

    pub(crate) fn keep(&self, mail: Copied) -> Result<Delivery, Error> {
        let state = &mut *self.state();
        match &mut state.mood {
            Mood::Accepts => {}
            Mood::Refuses(reply) => {
                let source = Error::Refused { phase: Phase::End, reply: reply.clone() };
                return Err(failed(mail.envelope, Outcome::Refused, Some(reply.clone()), source));
            }
            Mood::Fails(error) => {
                let error = error();
                let is_plain = error.in_doubt() && error.delivery().is_none();
                return Err(if is_plain {
                    failed(mail.envelope, Outcome::InDoubt, None, error)
                } else {
                    error
                });
            }
        }
        let Copied { envelope, octets, has_utf8_headers } = mail;
        let (mut own, mut left) = (Vec::new(), Vec::new());
        for (number, recipient) in envelope.recipients().iter().enumerate() {
            match state.recipients.iter().find(|(address, _)| is_same(address, recipient)) {
                Some((_, reply)) => own.push((number, Outcome::Refused, Some(reply.clone()))),
                None => left.push(number),
            }
        }
        if left.is_empty() {
            let last = own.last().and_then(|(_, _, reply)| reply.clone());
            let source = match last {
                Some(reply) => Error::Refused { phase: Phase::Recipient, reply },
                None => Error::NoRecipients,
            };
            let delivery = Delivery::new(envelope, Outcome::Refused, Outcome::Refused, None, own);
            return Err(Error::Transaction { delivery: Box::new(delivery), source: Box::new(source) });
        }
        let kept = if own.is_empty() { envelope.clone() } else { envelope.part(&left) };
        state.sent.push(StoredMail::new(Copied { envelope: kept, octets, has_utf8_headers }));
        let reply = Reply::parse(format!("250 2.0.0 kept as message {}\r\n", state.sent.len()).as_bytes());
        Ok(Delivery::new(envelope, Outcome::Accepted, Outcome::Accepted, reply.ok(), own))
    }
}

/// Compares two addresses, ignoring case in their domains.
fn is_same(one: &Address, other: &Address) -> bool {
    let parts = |address: &Address| {
        let domain = address.domain().unwrap_or_default().to_ascii_lowercase();
        let local = address.as_str().len() - domain.len();
        (address.as_str()[..local].to_owned(), domain)
    };
    parts(one) == parts(other)
}

/// Reads a reply that refuses something.
fn refusal(text: &str) -> Result<Reply, Error> {
    let reply = Reply::parse(format!("{text}\r\n").as_bytes()).ok();
    let refusal = reply.filter(|reply| reply.is_transient() || reply.is_permanent());
    refusal.ok_or_else(|| Error::Config(format!("{text:?} is not a reply with a 4yz or 5yz code").into()))
}
