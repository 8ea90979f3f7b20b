//! SMTP without I/O: replies in, bytes out. No sockets, no `async`, no clock, no log.
//!
//! **This module is not part of the public API.** It is exempt from semantic versioning: any release may change or
//! remove anything in it. It is public only for this project's own tests, fuzz targets and benchmarks. For a
//! custom connection, use [`Builder::connect_over`](crate::Builder::connect_over) with a
//! [`Transport`](crate::Transport).
//!
//! A [`Dialogue`] is a state machine for one part of a session. It takes the server's replies and decides what to do
//! next. It never waits: its carrier writes, reads and waits. The carrier of both clients is in `client/run.rs`.
//!
//! ```text
//!            ┌─────────── on_reply ◀── Inbox ◀── bytes read
//!            ▼
//!        Dialogue ── fill ──▶ Outbox ──▶ bytes to write
//!            │
//!            └─▶ Want: Reply | Probe | Write | Body | Message | Result | StartTls | Token | Nothing
//! ```
//!
//! | dialogue | covers |
//! |---|---|
//! | [`Hello`] | the greeting, EHLO (or HELO, LHLO), STARTTLS, EHLO again; returns the [`Capabilities`] |
//! | [`Auth`] | a login with [`Credentials`], trying one [`Mechanism`] after another |
//! | [`Transactions`] | messages, one after the other: a [`Transaction`] in, a [`Delivery`](crate::Delivery) out |
//! | [`Simple`] | one command and its reply: NOOP, RSET, QUIT or a custom command |
//!
//! ```
//! use postino::proto::{Dialogue, Inbox, Outbox, Simple, Want};
//!
//! let (mut inbox, mut out) = (Inbox::default(), Outbox::default());
//! let mut noop = Simple::noop();
//!
//! // Write the command.
//! assert_eq!(noop.fill(&mut out), Want::Reply);
//! assert_eq!(out.offer(), b"NOOP\r\n");
//! out.written(b"NOOP\r\n".len());
//!
//! // Read the reply.
//! inbox.room()[..8].copy_from_slice(b"250 Ok\r\n");
//! inbox.arrived(8);
//! let reply = inbox.next_reply().unwrap().expect("a whole reply has arrived");
//! out.reply_arrived();
//! noop.on_reply(reply, &out)?;
//!
//! assert_eq!(noop.fill(&mut out), Want::Nothing);
//! assert_eq!(noop.into_result()?.code(), 250);
//! # Ok::<(), postino::Error>(())
//! ```
//!
//! # Carriers
//!
//! One loop drives all dialogues. Keep one [`Inbox`] and one [`Outbox`] for the connection, across its dialogues, and
//! repeat:
//!
//! 1. **Receive.** Take every [reply](Inbox::next_reply) that is available. If none is [due](Outbox::due), pass it to
//!    [`on_early`](Dialogue::on_early) and fail with the error that it returns. After QUIT was sent without waiting for
//!    its reply ([`said_farewell`](Outbox::said_farewell)), ignore the reply. If a reply is due, count it with
//!    [`reply_arrived`](Outbox::reply_arrived) and pass it to [`on_reply`](Dialogue::on_reply). Send nothing after a
//!    reply that closes the connection (421, or 221 except in answer to QUIT).
//! 2. **Fill.** Call [`fill`](Dialogue::fill). Log what it has put into the outbox with
//!    [`drain_log`](Outbox::drain_log), which masks secrets.
//! 3. **Act** on the [`Want`].
//!
//! To write, take [`offer`](Outbox::offer), write as much of it as possible, and report the number of octets to
//! [`written`](Outbox::written). While a write is blocked, read: a server may wait for its replies to be read. To read,
//! use the inbox's [`room`](Inbox::room), and report the number of octets to [`arrived`](Inbox::arrived).
//!
//! Since nothing here waits or reads a clock, the carrier is responsible for the following:
//!
//! - After any error the connection is out of step and must be closed. The same applies if you stop in the middle of a
//!   dialogue. Report the reason to [`Transactions::lose`]: it returns what became of the messages.
//! - Every wait needs a time limit. [`phase`](Dialogue::phase) tells what the wait is for. The reply to the end of a
//!   message may take minutes (RFC 5321 §4.5.3.2).
//! - Before you write while no reply is due, check whether the server has sent something unexpected. It could be
//!   mistaken for the reply.
//! - [`Transactions`] trusts its [`Options`]: enable only what the server offers. Check before you hand over a message
//!   that the server supports it (SIZE, 8BITMIME, SMTPUTF8, and what its envelope asks for). [`Survey`] describes what
//!   a message contains, and can be handed over [with it](Transactions::message_with).
//!
//! A dialogue that wants [`Nothing`](Want::Nothing) has read every reply that it was waiting for; the next dialogue may
//! begin.

mod auth;
pub(crate) mod capabilities;
mod command;
mod data;
mod delayed_acks;
mod encoder;
mod hello;
pub(crate) mod options;
mod proxy;
mod queue_id;
pub(crate) mod reply;
mod simple;
mod takeover;
mod transaction;
mod verdict;

pub use self::{
    auth::{Answer, Auth, AuthOptions, Credentials, Mechanism},
    command::{MailParameters, Outbox},
    encoder::Survey,
    hello::{Hello, Upgrade},
    reply::{Inbox, ReplyRef},
    simple::Simple,
    transaction::{Joining, Options, Transaction, Transactions},
};
pub(crate) use self::{
    auth::{MAX_SCRAM_ITERATIONS, MIN_SCRAM_ITERATIONS, check_pinned},
    capabilities::Capabilities,
    command::{Command, HelloName, Line, Parameters},
    data::{Data, refused_here},
    delayed_acks::Pace,
    encoder::{Encoder, Forbidden},
    proxy::{MAX_SOCKS_FIELD, ProxyExchange, ProxyFailure, ProxyLogin, ProxyProtocol, Step, Target},
    queue_id::queue_id,
    takeover::{End, Loss, Session},
    transaction::{check_recipients, is_too_many},
};
use crate::{Error, Phase, Reply};

/// One part of an SMTP session, as a state machine without I/O; see the [module](self).
///
/// The dialogues of this module implement this trait. It is sealed so that methods can be added.
pub trait Dialogue: sealed::Sealed {
    /// Returns the step that the next reply belongs to, or that is being written.
    fn phase(&self) -> Phase;

    /// Puts into `out` everything that can be sent now, and returns what is needed next.
    fn fill(&mut self, out: &mut Outbox) -> Want;

    /// Takes a reply that was due. `out` is needed to know whether everything in it was written.
    ///
    /// # Errors
    ///
    /// The reply does not answer what was sent, or ends the session. The connection is out of step.
    fn on_reply(&mut self, reply: ReplyRef<'_>, out: &Outbox) -> Result<(), Error>;

    /// Takes an unexpected reply, when none is due. Always returns an error: the connection is out of step.
    fn on_early(&mut self, reply: ReplyRef<'_>) -> Error {
        if reply.closes(self.phase()) {
            self.refusal(reply)
        } else {
            Error::protocol(self.phase(), format!("unsolicited reply: {}", self.keep(reply)))
        }
    }

    /// Copies a reply for a log or an error, without any secrets that the server may have repeated in it.
    fn keep(&self, reply: ReplyRef<'_>) -> Reply {
        reply.keep()
    }

    /// Takes the next piece of the content, or an empty piece at its end. Call it on [`Want::Body`].
    ///
    /// # Errors
    ///
    /// [`Error::Message`] or [`Error::Unsupported`] if the piece has an octet that must not be sent. Close the
    /// connection then, without sending what is left in the outbox.
    fn body(&mut self, _piece: &[u8], _out: &mut Outbox) -> Result<(), Error> {
        Ok(())
    }

    /// Puts into `out` any content that was held back for a larger chunk. Call it before waiting for the next piece if
    /// that may take long. Does nothing by default.
    fn flush(&mut self, _out: &mut Outbox) {}

    /// Reports that the TLS handshake is done. Call it on [`Want::StartTls`].
    fn on_tls(&mut self) {}

    /// Passes a new password or token to the dialogue. Call it on [`Want::Secret`].
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if a password contains a NUL, or if a token is empty or contains anything other than visible
    /// ASCII characters.
    fn on_secret(&mut self, _secret: &str) -> Result<(), Error> {
        Ok(())
    }
}

/// Errors that a dialogue returns for a reply, with its phase and without its secrets.
pub(crate) trait ReplyErrors: Dialogue {
    /// Returns the error for a reply that refuses a command, or closes the connection.
    #[cold]
    fn refusal(&self, reply: ReplyRef<'_>) -> Error {
        Error::Refused { phase: self.phase(), reply: self.keep(reply) }
    }

    /// Returns the error for a reply that cannot answer what was sent.
    #[cold]
    fn misplaced(&self, reply: ReplyRef<'_>) -> Error {
        Error::protocol(self.phase(), format!("unexpected reply: {}", self.keep(reply)))
    }
}

impl<T: Dialogue + ?Sized> ReplyErrors for T {}

/// Limits [`Dialogue`] to the dialogues of this crate, so that methods can be added.
mod sealed {
    pub trait Sealed {}

    impl Sealed for super::Auth {}
    impl Sealed for super::Data {}
    impl Sealed for super::Hello {}
    impl Sealed for super::Simple {}
    impl Sealed for super::Transactions {}
}

/// What a dialogue needs before it can go on. [`fill`](Dialogue::fill) returns the same value until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Want {
    /// Write all of the outbox, then read until there is a reply.
    ///
    /// If the server sends something before everything is written, process that first: it may be a reason to stop.
    Reply,
    /// Like [`Reply`](Want::Reply), but silence is an answer, too: an envelope was sent with the end of the message
    /// before it ([`Joining::Untried`]), and some servers discard it.
    ///
    /// If nothing arrives for ten times as long as the slowest reply has taken so far, or if the server hangs up, close
    /// the connection and call [`Transactions::on_silence`]. If it returns true, continue the same `Transactions` over
    /// a new connection with a new inbox, outbox and [`Hello`]. If it returns false, call [`lose`](Transactions::lose).
    Probe,
    /// Write some of the outbox: it is full, or should be sent before the next message is requested. Keep reading the
    /// server's replies meanwhile.
    Write,
    /// Pass the next piece of the content to [`Dialogue::body`], or an empty piece at the end. Only for
    /// [`Transactions`].
    ///
    /// The number is that of the message, counted from 0 in the order in which messages were handed over. Lines may end
    /// in CRLF or LF. Do not double dots: that is done later. It is not wanted for content that came [with its
    /// message](Transactions::message_with).
    Body(usize),
    /// Pass the next message ([`Transactions::message`]), or report that no message is ready now
    /// ([`Transactions::no_more`]).
    ///
    /// The message before it may still be under way, and waiting here holds it up. If you may have to wait, answer with
    /// [`Transactions::later`] until [everything is written](Transactions::has_said_all). Or answer that no message is
    /// ready, and report later that there are [more](Transactions::more).
    Message,
    /// Take a result from [`Transactions::next_result`].
    Result,
    /// Do a TLS handshake at once, then call [`Dialogue::on_tls`]. Only for [`Hello`].
    ///
    /// The server must not have sent anything more in clear text: the [inbox](Inbox::is_empty) must be empty, and there
    /// must be nothing left to read. Anything else is an injection (RFC 3207 §6): close the connection.
    StartTls,
    /// Pass a new password or OAuth token to [`Dialogue::on_secret`]. Only for [`Auth`].
    Secret,
    /// Nothing is needed: the dialogue is over, and every reply that was due has arrived. Take its result, and start
    /// the next.
    ///
    /// [`Transactions`] can continue if there is another message.
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

    /// Makes one of the calls, whatever state the dialogue is in.
    fn call(talk: &mut dyn Dialogue, out: &mut Outbox, what: u8, with: u8) {
        let reply = Reply::parse(REPLIES[usize::from(with) % REPLIES.len()].as_bytes()).unwrap();
        let with = usize::from(with);
        match what % 16 {
            0 | 1 => drop(talk.fill(out)),
            2..=5 => drop(talk.on_reply(reply.borrow(), out)),
            6 => drop(talk.on_early(reply.borrow())),
            7 => drop(talk.body(&b"Hello\0\r\n"[..with % 9], out)),
            8 => talk.on_tls(),
            9 => drop(talk.on_secret("token")),
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
                    let mut hello = Hello::named(name, Upgrade::IfOffered, flags[0]).lmtp(flags[1]);
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
