//! Faults that a test injects into sessions: refusals, delays and lost connections.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use super::refusal;

/// A step of a session at which a [`Fault`] can be injected.
///
/// A command that is out of sequence, or that has a syntax error, gets its usual reply, and does not count as a use of
/// the fault. A command that is refused because of its address or credentials does count, and so does a message that
/// is refused after its content: the fault comes before these checks (see [`ServerBuilder`](super::ServerBuilder)).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// The greeting. With implicit TLS, this step follows the handshake. A refused greeting closes the connection.
    Greeting,
    /// EHLO and HELO.
    Hello,
    /// STARTTLS, before the handshake (feature `testing-tls`).
    StartTls,
    /// AUTH, before the exchange.
    Auth,
    /// MAIL.
    Mail,
    /// RCPT with any address.
    Rcpt,
    /// RCPT with this address (case-insensitive). Its fault takes precedence over that of [`Step::Rcpt`].
    RcptTo(String),
    /// DATA, before the content is sent.
    Data,
    /// The end of a message, after its content has arrived.
    EndOfData,
    /// RSET.
    Rset,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
}

impl Step {
    /// Returns the step for RCPT with this address (case-insensitive): [`Step::RcptTo`].
    #[must_use]
    pub fn rcpt_to(address: &str) -> Step {
        Step::RcptTo(address.to_owned())
    }

    /// Returns the form of the step under which its fault is stored.
    fn key(self) -> Step {
        match self {
            Step::RcptTo(address) => Step::RcptTo(address.to_lowercase()),
            other => other,
        }
    }
}

/// What goes wrong at a [`Step`]: a refusal, a delay, or a lost connection.
///
/// A fault applies every time until it is replaced or removed. [`times`](Fault::times) limits how often it applies, and
/// [`then`](Fault::then) adds another fault that applies afterwards.
///
/// ```
/// use std::time::Duration;
///
/// use postino::testing::{Fault, Server, Step};
///
/// let server = Server::start()?;
/// // The first message is refused, the second one is accepted after half a second, and the others are accepted at once.
/// server.inject(
///     Step::Mail,
///     Fault::reply("451 4.3.0 Try again later").once().then(Fault::delay(Duration::from_millis(500)).once()),
/// );
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Fault(VecDeque<Act>);

#[derive(Debug, Clone)]
pub(super) struct Act {
    pub delay: Duration,
    pub effect: Effect,
    /// How many more times it applies; `None` means always.
    times: Option<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Effect {
    None,
    Reply(String),
    Disconnect,
    LoseReply,
}

impl Fault {
    fn new(delay: Duration, effect: Effect) -> Fault {
        Fault([Act { delay, effect, times: None }].into())
    }

    /// Creates a fault that sends this reply, such as `450 4.2.0 Try again later`, instead of carrying out the command.
    /// The code 421 also closes the connection (RFC 5321 §3.8).
    ///
    /// # Panics
    ///
    /// If the reply is not a single line consisting of a code from 400 to 599, a space, and text.
    #[track_caller]
    pub fn reply(reply: &str) -> Fault {
        Fault::new(Duration::ZERO, Effect::Reply(refusal(reply)))
    }

    /// Creates a fault that waits before the command is carried out as usual. With `Duration::MAX`, the server never
    /// answers. Dropping the server ends the wait.
    pub fn delay(delay: Duration) -> Fault {
        Fault::new(delay, Effect::None)
    }

    /// Creates a fault that closes the connection without carrying out the command.
    pub fn disconnect() -> Fault {
        Fault::new(Duration::ZERO, Effect::Disconnect)
    }

    /// Creates a fault that carries out the command, but closes the connection instead of sending the reply.
    ///
    /// At [`Step::EndOfData`], the message is recorded, but the client cannot know that: its delivery is [in
    /// doubt](crate::Error::in_doubt).
    pub fn lose_reply() -> Fault {
        Fault::new(Duration::ZERO, Effect::LoseReply)
    }

    /// Sets how long the server waits before the most recently added fault takes effect. Defaults to no delay.
    pub fn after(mut self, delay: Duration) -> Fault {
        self.last().delay = delay;
        self
    }

    /// Limits how many times the most recently added fault applies. After that, the server answers as usual, unless
    /// [`then`](Fault::then) adds another fault. By default, there is no limit.
    pub fn times(mut self, times: usize) -> Fault {
        self.last().times = Some(times);
        self
    }

    /// Makes the most recently added fault apply only once.
    pub fn once(self) -> Fault {
        self.times(1)
    }

    /// Adds a fault that applies once this one is used up.
    ///
    /// # Panics
    ///
    /// If this fault has no limit: see [`times`](Fault::times).
    #[track_caller]
    pub fn then(mut self, mut next: Fault) -> Fault {
        assert!(self.last().times.is_some(), "a fault without a limit (Fault::times) never ends");
        self.0.append(&mut next.0);
        self
    }

    /// Returns the fault that was added last. There is always one.
    fn last(&mut self) -> &mut Act {
        self.0.back_mut().expect("a fault has at least one act")
    }
}

/// The faults of all steps.
#[derive(Debug, Default, Clone)]
pub(super) struct Faults(HashMap<Step, VecDeque<Act>>);

impl Faults {
    /// Sets the fault of a step, and replaces any earlier one.
    pub fn set(&mut self, step: Step, fault: Fault) {
        self.0.insert(step.key(), fault.0);
    }

    pub fn remove(&mut self, step: Step) {
        self.0.remove(&step.key());
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns the fault that applies at a step now, and counts this use of it.
    pub fn next(&mut self, step: Step) -> Option<Act> {
        let is_recipient = matches!(step, Step::RcptTo(_));
        let own = self.next_of(&step.key());
        if own.is_none() && is_recipient { self.next_of(&Step::Rcpt) } else { own }
    }

    fn next_of(&mut self, step: &Step) -> Option<Act> {
        let acts = self.0.get_mut(step)?;
        while acts.front().is_some_and(|act| act.times == Some(0)) {
            acts.pop_front();
        }
        let act = acts.front_mut()?;
        act.times = act.times.map(|times| times - 1);
        Some(act.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the effects of the next faults of a step.
    fn effects(faults: &mut Faults, step: &Step, times: usize) -> Vec<Option<Effect>> {
        (0..times).map(|_| faults.next(step.clone()).map(|act| act.effect)).collect()
    }

    #[test]
    fn a_fault_applies_as_often_as_it_says_and_is_followed_by_the_next() {
        let mut faults = Faults::default();
        assert!(faults.next(Step::Mail).is_none());
        faults.set(Step::Mail, Fault::disconnect());
        assert_eq!(effects(&mut faults, &Step::Mail, 3), vec![Some(Effect::Disconnect); 3]);
        faults.set(Step::Mail, Fault::lose_reply().times(2).then(Fault::disconnect().once()));
        let lose = Some(Effect::LoseReply);
        assert_eq!(
            effects(&mut faults, &Step::Mail, 4),
            [lose.clone(), lose, Some(Effect::Disconnect), None]
        );
        faults.set(Step::Mail, Fault::disconnect().times(0));
        assert!(faults.next(Step::Mail).is_none());
    }

    #[test]
    fn the_fault_of_one_recipient_takes_precedence() {
        let mut faults = Faults::default();
        faults.set(Step::Rcpt, Fault::disconnect());
        faults.set(Step::rcpt_to("Bob@Example.net"), Fault::lose_reply().once());
        let bob = Step::rcpt_to("bob@example.NET");
        assert_eq!(effects(&mut faults, &bob, 2), [Some(Effect::LoseReply), Some(Effect::Disconnect)]);
        assert_eq!(effects(&mut faults, &Step::rcpt_to("x@y"), 1), [Some(Effect::Disconnect)]);
        faults.remove(Step::Rcpt);
        assert!(faults.next(bob).is_none());
    }

    #[test]
    fn nothing_can_follow_a_fault_without_a_limit() {
        let panics = |fault: Fault| std::panic::catch_unwind(|| fault.then(Fault::disconnect())).is_err();
        assert!(panics(Fault::disconnect()));
        assert!(!panics(Fault::disconnect().once()));
    }
}
