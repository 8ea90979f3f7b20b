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
//!    ([`said_farewell`](Outbox::said_farewell)) it means nothing. Else count it ([`heard`](Outbox::reply_arrived)) and give it to
//!    [`on_reply`](Dialogue::on_reply). After a reply that [closes](ReplyRef::closes) the connection nothing more is sent.
//! 2. **Speak.** Call [`fill`](Dialogue::fill). What it has put into the outbox, [`tell`](Outbox::drain_log) gives to a log,
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
//!             out.reply_arrived();
//!             talk.on_reply(reply, out)?;
//!             if reply.closes(phase) {
//!                 return Err(Error::Refused { phase, reply: talk.keep(reply) });
//!             }
//!         }
//!         let want = talk.fill(out);
//!         out.drain_log(|line| println!("C: {line}"));
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
pub(crate) mod options;
mod pace;
mod queue_id;
pub mod reply;
mod session;
mod simple;
mod transaction;
mod verdict;

pub use self::{
    auth::{Answer, Auth, AuthOptions, Credentials, Mechanism},
    body::{Encoder, Forbidden, MAX_TEXT_LINE, Survey},
    capabilities::Capabilities,
    command::{Command, HelloName, Line, MAX_COMMAND_LINE, MailParameters, Outbox, Parameters},
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
    pace::Pace,
    queue_id::queue_id,
    session::{End, Session},
    transaction::{check_recipients, is_too_many},
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
        match reply.closes(self.phase()) {
            true => self.refusal(reply),
            false => {
                Error::protocol(self.phase(), format!("a reply that nobody asked for: {}", self.keep(reply)))
            }
        }
    }

    /// The error for a reply that refuses, or closes the connection.
    #[cold]
    fn refusal(&self, reply: ReplyRef<'_>) -> Error {
        Error::Refused { phase: self.phase(), reply: self.keep(reply) }
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
    /// If nothing comes for ten times as long as the slowest reply so far took, or the server hangs up, close the
    /// connection and ask [`Transactions::on_silence`]. True: go on with the same `Transactions` over a new one, with an
    /// inbox, an outbox and a [`Hello`] of its own. False: that is all, [`lose`](Transactions::lose) it.
    Probe,
    /// Write some of what is in the outbox: it is full, or should leave before the next message is asked for. What the
    /// server says meanwhile is to be heard as ever.
    Write,
    /// The next piece of the content of the message with this number, counted from 0 in the order in which the messages
    /// were handed over: give it to [`Dialogue::body`], an empty one at the end. Messages have CRLF or LF as line ends,
    /// and no doubled dots: that is done behind it. Only of [`Transactions`], where it did not come
    /// [with the message](Transactions::message_with), and, with the number 0, of [`Data`].
    Body(usize),
    /// The next message ([`Transactions::message`]), or that there is none now ([`Transactions::no_more`]).
    ///
    /// The message before it may still be under way, and is held up while you wait here. If there may be a wait, answer with
    /// [`Transactions::later`] until [all is said](Transactions::has_said_all). Or answer that there is none, and tell when
    /// there are [more](Transactions::more).
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Envelope;

    const REPLIES: [&str; 12] = [
        "250 ok\r\n",
        "250-hi\r\n250-AUTH PLAIN SCRAM-SHA-256\r\n250 STARTTLS\r\n",
        "354 go on\r\n",
        "334 AAAA\r\n",
        "220 hi\r\n",
        "221 bye\r\n",
        "235 in\r\n",
        "421 bye\r\n",
        "450 later\r\n",
        "503 no\r\n",
        "550 no\r\n",
        "299\r\n",
    ];

    fn transaction() -> Transaction {
        let envelope = Envelope::new("a@x.example", ["b@x.example", "c@x.example"]).unwrap();
        Transaction::new(envelope, MailParameters::default()).ahead(true)
    }

    /// Any call, in whatever state the dialogue is.
    fn call(talk: &mut dyn Dialogue, out: &mut Outbox, what: u8, with: u8) {
        let reply = Reply::parse(REPLIES[usize::from(with) % REPLIES.len()].as_bytes()).unwrap();
        let with = usize::from(with);
        match what % 16 {
            0 | 1 => drop(talk.fill(out)),
            2..=5 => drop(talk.on_reply(reply.borrow(), out)),
            6 => drop(talk.on_early(reply.borrow())),
            7 => drop(talk.body(&b"Hello\0\r\n"[..with % 9], out)),
            8 => talk.on_tls(),
            9 => drop(talk.on_token("token")),
            10 => out.written(with),
            11 => out.expect_more(usize::MAX - with),
            12 => out.reply_arrived(),
            13 => out.forget(),
            14 => out.drain_log(|_| {}),
            _ => drop(out.offer()),
        }
        let _ = (talk.phase(), format!("{:?}", talk.misplaced(reply.borrow())));
    }

    proptest! {
        #[test]
        fn no_order_of_calls_makes_a_dialogue_panic(
            calls in prop::collection::vec((any::<u8>(), any::<u8>()), 0..60),
            kind in 0..7,
            flags in any::<[bool; 5]>(),
        ) {
            let name = HelloName::new("me.example").unwrap();
            let mut out = Outbox::default();
            match kind {
                0 => {
                    let mut hello = Hello::new(name, Upgrade::IfOffered, flags[0]).lmtp(flags[1]);
                    calls.iter().for_each(|(what, with)| call(&mut hello, &mut out, *what, *with));
                    drop(hello.failure(Error::NotConnected));
                }
                1 => {
                    let mut hello = Hello::starttls(name);
                    calls.iter().for_each(|(what, with)| call(&mut hello, &mut out, *what, *with));
                }
                2 => {
                    let mut simple = if flags[0] { Simple::noop() } else { Simple::quit() };
                    calls.iter().for_each(|(what, with)| call(&mut simple, &mut out, *what, *with));
                    drop(simple.into_result());
                }
                3 => {
                    let mut data = Data::new(flags[0]);
                    calls.iter().for_each(|(what, with)| call(&mut data, &mut out, *what, *with));
                    drop(data.into_result(out.octets_offered(), flags[1].then_some(Error::NotConnected)));
                }
                4 => {
                    let hello = Reply::parse(b"250-hi\r\n250 AUTH LOGIN PLAIN SCRAM-SHA-256 XOAUTH2\r\n").unwrap();
                    let credentials =
                        if flags[0] { Credentials::token_later("u") } else { Credentials::new("u", "p") };
                    let capabilities = Capabilities::parse(hello.borrow());
                    let options = AuthOptions { encrypted: true, ..AuthOptions::default() };
                    let mut auth = Auth::new(credentials.unwrap(), options, &capabilities).unwrap();
                    calls.iter().for_each(|(what, with)| call(&mut auth, &mut out, *what, *with));
                    drop(auth.into_result(None));
                }
                _ => {
                    let [pipelining, chunking, all_or_nothing, farewell, lmtp] = flags;
                    let joining = if kind == 5 { Joining::Works } else { Joining::Untried };
                    let options = Options { pipelining, chunking, joining, all_or_nothing, farewell, lmtp };
                    let mut talk = Transactions::new(options, kind == 6);
                    for (what, with) in calls {
                        match (what, with % 6) {
                            (200.., 0) => talk.message(transaction()),
                            (200.., 1) => talk.message_with(transaction(), Survey::of(b"Hello")).unwrap(),
                            (200.., 2) => talk.no_more(),
                            (200.., 3) => drop(talk.next_result()),
                            (200.., 4) => _ = talk.on_silence(),
                            (200.., _) => talk.lose(out.octets_offered(), Error::Closed(Phase::End)),
                            _ => call(&mut talk, &mut out, what, with),
                        }
                        let _ = (talk.is_unheard(), talk.is_said(0), talk.under_way());
                    }
                }
            }
        }
    }
}
