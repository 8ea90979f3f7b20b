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
//! There is one for each kind of conversation:
//!
//! | | |
//! |---|---|
//! | [`Hello`] | the greeting, EHLO or HELO or LHLO, STARTTLS, EHLO again; gives the [`Capabilities`] |
//! | [`Auth`] | a login with [`Credentials`], by one [`Mechanism`] after the other |
//! | [`Transactions`] | messages, one after the other; each a [`Transaction`] in, a [`Delivery`](crate::Delivery) out |
//! | [`Simple`] | a command and its reply: NOOP, RSET, VRFY, QUIT, one of your own … |
//! | [`Data`] | DATA by itself, behind a MAIL and RCPT that were [`Simple`] |
//! | [`Farewell`] | QUIT, and no wait |
//!
//! # Over a transport of your own
//!
//! One loop carries all of them. Keep an [`Inbox`] and an [`Outbox`] for the connection, the same for all its dialogues,
//! and repeat:
//!
//! 1. **Hear.** Take every [reply](Inbox::next_reply) that is at hand. If none is [due](Outbox::due) give it to
//!    [`on_early`](Dialogue::on_early), whose error is the end; behind a QUIT that nobody waits for
//!    ([`said_farewell`](Outbox::said_farewell)) it means nothing. Else count it ([`heard`](Outbox::heard)) and give it to
//!    [`on_reply`](Dialogue::on_reply). Behind a 421 nothing more is said.
//! 2. **Speak.** Call [`fill`](Dialogue::fill). What it has put into the outbox, [`tell`](Outbox::tell) gives to a log,
//!    secrets masked.
//! 3. **Do** the [`Want`].
//!
//! A write is: take [`offer`](Outbox::offer), write as much of it as goes, say how much was
//! [`written`](Outbox::written). While a write cannot go on, read: a server may wait for its replies to be read. A read
//! goes into the inbox's [`room`](Inbox::room), and [`arrived`](Inbox::arrived) tells how much it was.
//!
//! ```no_run
//! use postino::{Error, proto::{Dialogue, Inbox, Outbox, Want}};
//! use std::io::{Read, Write};
//!
//! /// Carries a dialogue as far as it goes by itself.
//! fn carry(
//!     stream: &mut (impl Read + Write),
//!     (inbox, out): (&mut Inbox, &mut Outbox),
//!     talk: &mut dyn Dialogue,
//! ) -> Result<Want, Error> {
//!     loop {
//!         let phase = talk.phase();
//!         let wrong = |what: &'static str| Error::Protocol { phase, what: what.into() };
//!         while let Some(reply) = inbox.next_reply().map_err(wrong)? {
//!             match out.due() {
//!                 0 if out.said_farewell() => continue,
//!                 0 => return Err(talk.on_early(reply)),
//!                 _ => {}
//!             }
//!             out.heard();
//!             talk.on_reply(reply, out)?;
//!             if reply.code() == 421 {
//!                 return Err(Error::Refused { phase, reply: talk.keep(reply) });
//!             }
//!         }
//!         let want = talk.fill(out);
//!         out.tell(|line| println!("C: {line}"));
//!         let broken = |source| Error::Io { phase: talk.phase(), source };
//!         match want {
//!             Want::Write | Want::Reply | Want::Probe => {
//!                 let bytes = out.offer();
//!                 stream.write_all(bytes).map_err(broken)?;
//!                 let n = bytes.len();
//!                 out.written(n);
//!             }
//!             want => return Ok(want),
//!         }
//!         if want != Want::Write {
//!             match stream.read(inbox.room()).map_err(broken)? {
//!                 0 => return Err(Error::Closed(talk.phase())),
//!                 n => inbox.arrived(n),
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! `cargo run --example transcript` does it without a socket, for two messages, and shows what both sides say;
//! [its source](https://docs.rs/crate/postino/latest/source/examples/transcript.rs) is the place to begin.
//!
//! What the carrier has to see to, since nothing here waits or looks at a clock:
//!
//! - After any error the connection is out of step, and must be closed. So it is for who stops in the middle of a
//!   dialogue. Tell [`Transactions::lose`] (or [`Data::into_result`]) why, and it tells what became of the messages.
//! - Every wait needs a limit. [`phase`](Dialogue::phase) says what is waited for; the reply to the end of a message may
//!   take minutes (RFC 5321 §4.5.3.2).
//! - Before something is written with no reply due, look whether the server has said something unasked: it could be taken
//!   for the answer.
//! - [`Transactions`] believes its [`Options`]: only say what the server offers. Whether a message fits the server (SIZE,
//!   8BITMIME, SMTPUTF8, and what its envelope asks for) is to be looked at before it is handed over; [`Survey`] tells
//!   what is in it, and can be handed over [with it](Transactions::message_with).
//!
//! A dialogue that wants [`Nothing`](Want::Nothing) more has read every reply it asked for; the next may begin.

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
    #[cold]
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

    /// Puts into `out` what was kept back of the content for a larger chunk. To be called when the next piece is long in
    /// coming, before it is waited for. Does nothing by default.
    fn flush(&mut self, _out: &mut Outbox) {}

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

/// What a dialogue needs before it can go on. Until it has that, [`fill`](Dialogue::fill) says the same again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Write what is in the outbox, all of it, then read until there is a reply.
    ///
    /// If the server says something before all is written, hear that first: it may be the reason to write no more.
    Reply,
    /// The same, but silence is an answer, too: an envelope has left with the end of the message before
    /// ([`Joining::Untried`]), and some servers throw it away.
    ///
    /// If nothing comes for a second, or for ten round trips where these are longer, or the server hangs up, close the
    /// connection and ask [`Transactions::on_silence`]. True: go on with the same `Transactions` over a new one, with an
    /// inbox, an outbox and a [`Hello`] of its own. False: that is all, [`lose`](Transactions::lose) it.
    Probe,
    /// Write some of what is in the outbox; it is full. What the server says meanwhile is to be heard as ever.
    Write,
    /// The next piece of the content of the message with this number, counted from 0 in the order in which the messages
    /// were handed over: give it to [`Dialogue::body`], an empty one at the end. Messages have CRLF or LF as line ends,
    /// and no doubled dots: that is done behind it. Only of [`Transactions`], where it did not come
    /// [with the message](Transactions::message_with), and, with the number 0, of [`Data`].
    Body(usize),
    /// The next message ([`Transactions::message`]), or that there is none now ([`Transactions::no_more`]).
    ///
    /// The one before it may still be under way. To wait here for a message means to let that one wait; say that there is
    /// none, and later that there are [more](Transactions::more).
    Message,
    /// Nothing: there is a result to be taken ([`Transactions::next_result`]).
    Result,
    /// A TLS handshake, at once; [`Dialogue::on_tls`] says that it is done. Only of [`Hello`].
    ///
    /// Only if the server has sent nothing more in clear: the [inbox](Inbox::is_empty) must be empty, and nothing may wait
    /// to be read. Anything there is an injection (RFC 3207 §6), and the end of the connection.
    StartTls,
    /// An OAuth token to log in with, a new one each time: give it to [`Dialogue::on_token`]. Only of [`Auth`].
    Token,
    /// Nothing: it is over, and every reply that was due has come. Take what it has found out, and go on with the next
    /// dialogue.
    ///
    /// [`Transactions`] go on when there is another message.
    Nothing,
}
