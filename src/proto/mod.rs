//! SMTP without I/O: replies in, bytes out. No sockets, no `async`, no clock, no log.
//!
//! A **dialogue** is told what the server said and answers with what to do next. It never waits; whoever carries it
//! does the writing, reading and waiting:
//!
//! ```text
//!            ┌─────────── on_reply ◀── Inbox ◀── bytes read
//!            ▼
//!        Dialogue ── fill ──▶ Outbox ──▶ bytes to write
//!            │
//!            └─▶ Want: Reply | Probe | Write | Body | Message | Result | StartTls | Token | Nothing
//! ```
//!
//! There is one for each kind of conversation: [`Hello`] (greeting, EHLO, STARTTLS, EHLO again), [`Auth`] (a login, by
//! a [`Mechanism`]),
//! [`Transactions`] (messages), [`Simple`] (a command and its reply), [`Data`] (DATA by itself) and [`Farewell`] (QUIT,
//! and no wait). A carrier repeats three steps: take every
//! [reply](reply::Inbox::next_reply) at hand and tell the dialogue, let it [`fill`](Dialogue::fill) the
//! [`Outbox`], do the [`Want`].
//!
//! A dialogue that wants nothing more has read every reply it asked for. A dialogue that returns an error leaves the
//! connection out of step: it is good for nothing more.

mod auth;
mod body;
mod capabilities;
mod command;
mod data;
mod farewell;
mod hello;
pub mod reply;
mod simple;
mod transaction;

pub use self::{
    auth::{Answer, Auth, AuthOptions, Credentials, Mechanism},
    body::{Encoder, Forbidden, MAX_TEXT_LINE, Survey},
    capabilities::Capabilities,
    command::{Command, HelloName, Line, MailParameters, Outbox, Parameters},
    data::Data,
    farewell::Farewell,
    hello::{Hello, Upgrade},
    reply::{Inbox, ReplyRef},
    simple::Simple,
    transaction::{Joining, Options, Transaction, Transactions},
};
pub(crate) use self::{
    auth::{MAX_SCRAM_ITERATIONS, MIN_SCRAM_ITERATIONS, check_pinned},
    data::refused_here,
};
use crate::{Error, Phase, Reply};

/// A conversation with the server; see the [module](self).
pub trait Dialogue {
    /// What the next reply answers, or what is being written.
    fn phase(&self) -> Phase;

    /// Puts into `out` what may be said now, and tells what is wanted next.
    fn fill(&mut self, out: &mut Outbox) -> Want;

    /// Takes a reply that was due. `out` tells whether all that was put there has left.
    ///
    /// # Errors
    ///
    /// The reply cannot stand here; the connection is out of step.
    fn on_reply(&mut self, reply: ReplyRef<'_>, out: &Outbox) -> Result<(), Error>;

    /// Takes a reply that nobody asked for.
    ///
    /// # Errors
    ///
    /// Always: the connection is out of step.
    fn on_early(&mut self, reply: ReplyRef<'_>) -> Error {
        match reply.code() {
            421 => Error::Refused { phase: self.phase(), reply: self.keep(reply) },
            _ => {
                Error::protocol(self.phase(), format!("a reply that nobody asked for: {}", self.keep(reply)))
            }
        }
    }

    /// A copy of a reply for a log or an error, without the secrets that the server may have repeated in it.
    fn keep(&self, reply: ReplyRef<'_>) -> Reply {
        reply.keep()
    }

    /// The error for a reply that cannot stand where it does.
    fn misplaced(&self, reply: ReplyRef<'_>) -> Error {
        Error::protocol(self.phase(), format!("an answer that cannot stand here: {}", self.keep(reply)))
    }

    /// Answers [`Want::Body`]: the next piece, or an empty one at the end.
    ///
    /// # Errors
    ///
    /// The piece holds what may not go out. What is unsent must not be sent then: the connection has to be closed.
    fn body(&mut self, _piece: &[u8], _out: &mut Outbox) -> Result<(), Error> {
        Ok(())
    }

    /// Answers [`Want::StartTls`]: the handshake is done.
    fn on_tls(&mut self) {}

    /// Answers [`Want::Token`].
    ///
    /// # Errors
    ///
    /// It can be no token.
    fn on_token(&mut self, _token: &str) -> Result<(), Error> {
        Ok(())
    }
}

/// What a dialogue needs before it can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Write what is in the outbox, then read until there is a reply.
    Reply,
    /// The same, but silence is an answer, too: see [`Transactions::on_silence`].
    Probe,
    /// Write what is in the outbox; it is full.
    Write,
    /// The next piece of the body of the message with this number, counted from 0.
    Body(usize),
    /// The next message, or that there is none now.
    Message,
    /// Nothing: there is a result to be taken.
    Result,
    /// A TLS handshake, at once, and only if the server has sent nothing more in clear.
    StartTls,
    /// A token to log in with, a new one each time.
    Token,
    /// Nothing: it is over.
    Nothing,
}
