//! What is known about the server, and what was done on the connection so far.

use std::time::Instant;

use crate::{
    Capabilities, Reply,
    proto::{Parameters, Session},
};

/// What the server has reported about itself.
#[derive(Default)]
pub(super) struct Known {
    pub greeting: Option<Reply>,
    /// The reply to the last EHLO or HELO.
    pub hello: Option<Reply>,
    /// Whether that reply was to EHLO.
    pub esmtp: bool,
    pub capabilities: Capabilities,
}

/// What was done on the connection so far.
#[derive(Default)]
pub(super) struct History {
    /// The results of the session's messages, and what they reveal about the server's limit on messages.
    pub session: Session,
    /// When the last of these messages received its final reply.
    pub settled_at: Option<Instant>,
    pub login: Login,
    pub setup: Setup,
    pub open: OpenTransaction,
}

/// The login on the connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Login {
    /// The mechanism that has succeeded.
    pub mechanism: Option<Box<str>>,
    /// Number of exchanges that the server has refused for good.
    pub refused: u8,
}

/// How the connection was set up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Setup {
    /// By the settings of the builder. Reconnecting makes an equivalent connection.
    #[default]
    Builder,
    /// Also by method calls (STARTTLS, a login, EHLO, HELO, a custom command), which reconnecting would not repeat.
    Changed,
}

/// The transaction that the server may have open.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum OpenTransaction {
    #[default]
    None,
    /// The transaction of a refused message: RSET is sent before anything else.
    Refused,
    /// A transaction that was begun by single commands.
    ByHand(ByHand),
}

/// A transaction that was begun by single commands, and what its MAIL command announced.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByHand {
    /// Whether SMTPUTF8 was announced, so that addresses and headers need not be ASCII.
    pub utf8: bool,
    /// Whether the content may be non-ASCII.
    pub eight_bit: bool,
    /// Number of recipients that the server has accepted.
    pub recipients: usize,
}

impl History {
    /// Returns the history of a connection that takes over from this one.
    pub fn renewed(&self) -> History {
        History { session: self.session.renewed(), ..History::default() }
    }
}

impl OpenTransaction {
    /// Returns the state after a message, whose transaction may still be open.
    pub fn left(is_open: bool) -> OpenTransaction {
        if is_open { OpenTransaction::Refused } else { OpenTransaction::None }
    }

    pub fn by_hand(&self) -> Option<ByHand> {
        match self {
            OpenTransaction::ByHand(transaction) => Some(*transaction),
            _ => None,
        }
    }

    /// Returns whether the next message has to begin with RSET.
    pub fn needs_reset(&self) -> bool {
        !matches!(self, OpenTransaction::None)
    }
}

impl ByHand {
    pub fn announced(parameters: &Parameters) -> ByHand {
        let utf8 = parameters.contains("SMTPUTF8");
        ByHand { utf8, eight_bit: utf8 || parameters.contains("BODY=8BITMIME"), recipients: 0 }
    }

    /// Returns a transaction begun in an unknown way, such as by a custom command: anything that the server offers may
    /// have been announced.
    pub fn unknown(capabilities: &Capabilities) -> ByHand {
        ByHand {
            utf8: capabilities.offers("SMTPUTF8"),
            eight_bit: capabilities.offers("8BITMIME"),
            recipients: 0,
        }
    }
}
