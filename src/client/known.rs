//! What is known about the server, and what was done on the connection so far.

use std::time::Instant;

use crate::{
    Capabilities, Reply,
    proto::{Parameters, Session},
};

/// What the server has said about itself.
#[derive(Default)]
pub(super) struct Known {
    pub greeting: Option<Reply>,
    /// The reply to the last EHLO or HELO.
    pub hello: Option<Reply>,
    /// Whether the last of them was EHLO.
    pub esmtp: bool,
    pub capabilities: Capabilities,
}

/// What was done on the connection so far.
#[derive(Default)]
pub(super) struct History {
    /// The results of its messages, and what they tell about the server's limit.
    pub session: Session,
    /// When the last of these messages was answered.
    pub settled_at: Option<Instant>,
    pub login: Login,
    pub setup: Setup,
    pub open: OpenTransaction,
}

/// The login on the connection.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Login {
    pub done: bool,
    /// Number of exchanges that the server has refused for good.
    pub refused: u8,
}

/// How the connection came to be as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Setup {
    /// By the settings of the builder. Connecting again makes another like it.
    #[default]
    Builder,
    /// Also by method calls (STARTTLS, a login, EHLO, HELO, a custom command), which connecting again would not repeat.
    Changed,
}

/// The transaction that the server may have open.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum OpenTransaction {
    #[default]
    None,
    /// What was left by a message that was refused: RSET comes before anything else.
    Refused,
    /// A transaction that was begun by single commands.
    ByHand(ByHand),
}

/// A transaction that was begun by single commands: what its MAIL has announced.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByHand {
    /// SMTPUTF8: its addresses and headers need not be ASCII.
    pub utf8: bool,
    /// Whether its content may be other than ASCII.
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
    /// Returns what a message leaves open.
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
