//! Decides whether another connection takes over a message, for single messages, batches and pools.
//!
//! | loss | another connection takes over |
//! |---|---|
//! | the server ended the session before it accepted MAIL ([`Loss::Session`]: single messages, batches) | if a message was accepted over this one |
//! | a connection that a pool had kept was lost before any content was sent ([`Loss::Idle`]) | once for each message |
//!
//! The rules differ for a reason. A server that ends a session has seen the message, and may end the next session as
//! well, so progress is required. A connection that was idle may have been dead for a long time. That says nothing
//! about the server, and only the envelope was sent over the connection. Anything else that is sent again needs no
//! other connection ([`Again`](crate::delivery::Again)), or is the caller's decision (`retry_policy.rs`).
//!
//! Servers limit the number of messages in a session, and few announce it (LIMITS MAILMAX, RFC 9422). Instead, they end
//! the session:
//!
//! | the server, before it has accepted MAIL | end | another connection takes over |
//! |---|---|---|
//! | answers 421, at any time, or 452 to MAIL | [`End::Announced`] | if this one had a message accepted |
//! | closes or resets the connection | [`End::Unannounced`] | the same; if two connections in use were closed after the same number of messages, no later connection carries more |
//! | is silent, or breaks the protocol | none | never |
//!
//! A connection counts as in use if a reply was due, and its last message was answered a moment ago. An idle connection
//! may have been lost for another reason: a timeout of the server, or of a firewall on the way. That says nothing about
//! the number of messages in a session. A single loss may be an accident, which must not slow down all later messages,
//! so a second one after the same number of messages has to confirm it, unless messages are in doubt because of the
//! first: then the risk of more such messages matters more.
//!
//! So a server that accepts nothing costs one connection, and each further one follows a connection that made progress.
//! The client decides whether a connection can be replaced at all (not if its login was done by hand, for example) and
//! which messages may be sent again (never one that is in doubt).

use crate::Error;

/// How a server ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The server announced the end with a reply, and accepted nothing that was sent after that reply.
    Announced,
    /// The connection was lost without a reply.
    Unannounced,
}

impl End {
    /// Returns how the server has ended the session, if that is what the error shows.
    pub fn of(broke: &Error) -> Option<End> {
        match broke {
            Error::Refused { reply, .. } if reply.code() == 421 => Some(End::Announced),
            Error::Closed(_) | Error::Io { .. } => Some(End::Unannounced),
            _ => None,
        }
    }
}

/// How a message lost its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Loss<'e> {
    /// The server has ended the session. `in_use` means that a reply was due, and that the connection carried its last
    /// message only a moment ago. `in_doubt` means that messages are in doubt because of the loss.
    Session { end: End, in_use: bool, in_doubt: bool },
    /// A connection that had been idle in a pool has failed with this error.
    Idle(&'e Error),
}

/// The messages that a connection has carried.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Session {
    /// Number of messages whose last reply has arrived.
    answered: u64,
    /// Number of those that were accepted.
    accepted: u64,
    /// Number of messages on the last connection in use that the server has closed without a reply, as far as no later
    /// connection has carried more.
    suspected: Option<u64>,
    /// Maximum number of messages on one connection to this server, if it has been learnt.
    most: Option<u64>,
}

impl Session {
    /// Records that the last reply to a message has arrived.
    pub fn settle(&mut self, accepted: bool) {
        self.answered += 1;
        self.accepted += u64::from(accepted);
    }

    /// Returns whether another connection may take over after this loss, and records what the loss reveals.
    pub fn hands_over(&mut self, loss: Loss<'_>) -> bool {
        match loss {
            Loss::Session { end, in_use, in_doubt } => self.ends(end, in_use, in_doubt),
            Loss::Idle(error) => error.is_before_content(),
        }
    }

    /// Records that the server has ended the session. Returns whether another connection may take over. See
    /// [`Loss::Session`] for the parameters.
    fn ends(&mut self, end: End, in_use: bool, in_doubt: bool) -> bool {
        if end == End::Unannounced && in_use && self.accepted > 0 {
            if in_doubt || self.suspected == Some(self.answered) {
                self.most = Some(self.most.map_or(self.answered, |most| most.min(self.answered)));
            }
            self.suspected = Some(self.answered);
        }
        self.accepted > 0
    }

    /// Returns whether a message was accepted.
    pub fn has_progress(&self) -> bool {
        self.accepted > 0
    }

    /// Returns whether this connection may carry no more messages after `begun` of them. `announced` is the server's
    /// limit (MAILMAX).
    pub fn is_used_up(&self, begun: u64, announced: Option<usize>) -> bool {
        announced.is_some_and(|most| begun >= most as u64) || self.most.is_some_and(|most| begun >= most)
    }

    /// Returns the initial session of the connection that takes over.
    pub fn renewed(&self) -> Session {
        let suspected = self.suspected.filter(|suspected| *suspected >= self.answered);
        Session { suspected, most: self.most, ..Session::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Phase, Reply};

    fn after(results: &[bool]) -> Session {
        let mut session = Session::default();
        results.iter().for_each(|accepted| session.settle(*accepted));
        session
    }

    #[test]
    fn a_session_is_replaced_only_if_it_had_a_message_accepted() {
        for end in [End::Announced, End::Unannounced] {
            assert!(!after(&[]).ends(end, true, false));
            assert!(!after(&[false, false]).ends(end, true, false));
            assert!(after(&[false, true]).ends(end, true, false));
            let mut replaced = after(&[true]);
            assert!(replaced.ends(end, true, false));
            assert!(!replaced.renewed().ends(end, true, false), "the next one has made no progress");
        }
    }

    #[test]
    fn a_connection_from_a_pool_is_replaced_only_before_any_content() {
        use crate::{Delivery, Envelope, Outcome};
        let failed = |outcome, source| {
            let envelope = Envelope::new("a@x", ["b@x"]).unwrap();
            let delivery = Box::new(Delivery::new(envelope, outcome, outcome, None, Vec::new()));
            Error::Transaction { delivery, source: Box::new(source) }
        };
        for (error, takes_over) in [
            (failed(Outcome::NotSent, Error::Closed(Phase::Mail)), true),
            (failed(Outcome::NotSent, Error::Closed(Phase::Recipient)), true),
            (failed(Outcome::NotSent, Error::Closed(Phase::Body)), false),
            (failed(Outcome::NotSent, Error::Timeout(Phase::Mail)), false),
            (failed(Outcome::InDoubt, Error::Closed(Phase::End)), false),
            (Error::Closed(Phase::Mail), false),
        ] {
            for mut session in [after(&[]), after(&[true])] {
                assert_eq!(session.hands_over(Loss::Idle(&error)), takes_over, "{error}");
            }
        }
    }

    #[test]
    fn only_a_session_that_ended_without_a_reply_limits_the_next_ones() {
        let mut announced = after(&[true, true]);
        announced.ends(End::Announced, true, false);
        assert!(!announced.renewed().is_used_up(1_000, None));
        let mut lost = after(&[true, false, true]);
        lost.ends(End::Unannounced, true, false);
        let mut next = lost.renewed();
        assert!(!next.is_used_up(1_000, None), "a single loss may be an accident");
        [true, true, false].into_iter().for_each(|accepted| next.settle(accepted));
        next.ends(End::Unannounced, true, false);
        let mut next = next.renewed();
        assert!(!next.is_used_up(2, None) && next.is_used_up(3, None));
        assert!(next.is_used_up(2, Some(2)), "what the server announces counts as well");
        (0..5).for_each(|_| next.settle(true));
        next.ends(End::Unannounced, true, false);
        assert!(next.renewed().is_used_up(3, None), "the limit does not grow");
        assert!(!after(&[]).is_used_up(u64::MAX, None));
        let mut in_doubt = after(&[true, true]);
        in_doubt.ends(End::Unannounced, true, true);
        assert!(in_doubt.renewed().is_used_up(2, None), "more messages would be in doubt");
        let mut idle = after(&[true]);
        for _ in 0..2 {
            assert!(idle.ends(End::Unannounced, false, false));
        }
        assert!(!idle.renewed().is_used_up(1_000, None), "it may have been idle for too long");
    }

    #[test]
    fn closes_after_different_numbers_of_messages_reveal_no_limit() {
        let mut session = Session::default();
        for count in [3, 1, 2, 3, 1, 5, 1] {
            (0..count).for_each(|_| session.settle(true));
            session.ends(End::Unannounced, true, false);
            session = session.renewed();
            assert!(!session.is_used_up(1_000, None), "{count}");
        }
        // A connection that carried more messages, and was not lost, refutes the suspicion.
        (0..2).for_each(|_| session.settle(true));
        session = session.renewed();
        session.settle(true);
        session.ends(End::Unannounced, true, false);
        assert!(!session.renewed().is_used_up(1_000, None));
    }

    #[test]
    fn a_421_announces_the_end_and_a_timeout_is_not_an_end() {
        let refused = |text: &[u8]| Error::Refused { phase: Phase::End, reply: Reply::parse(text).unwrap() };
        assert_eq!(End::of(&refused(b"421 closing\r\n")), Some(End::Announced));
        assert_eq!(End::of(&Error::Closed(Phase::Mail)), Some(End::Unannounced));
        for error in
            [refused(b"552 no\r\n"), Error::Timeout(Phase::Mail), Error::protocol(Phase::Mail, "junk")]
        {
            assert_eq!(End::of(&error), None, "{error:?}");
        }
    }
}
