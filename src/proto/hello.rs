//! Dialogue for the start of a session: greeting, EHLO or HELO, STARTTLS, EHLO again (RFC 5321 §3.1, RFC 3207).
//!
//! ```text
//! Greeting ─220─▶ Ehlo ─2yz─▶ Done
//!                  │ │└─2yz, and TLS is wanted─▶ StartTls ─220─▶ Handshake ─▶ Ehlo
//!                  │ └─5yz, and neither LMTP, TLS nor a login is needed─▶ Helo ─2yz─▶ Done
//!                  └─4yz, or TLS or a login is needed: an error
//! ```
//!
//! If HELO fails too, the error is the refusal of EHLO, because that explains why the server refuses service. A server
//! that refuses EHLO temporarily (4yz) would refuse HELO as well.
//!
//! A [later](Hello::starttls) STARTTLS begins at `StartTls`. If it is refused, the dialogue is `Done` and nothing has
//! changed.

use super::{
    Capabilities, Command, Dialogue, HelloName, Outbox, ReplyErrors, ReplyRef, Want, verdict::Verdict,
};
use crate::{Error, Phase, Reply};

/// Whether to upgrade to TLS by STARTTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Upgrade {
    /// Never: the connection uses TLS already, or TLS is not wanted.
    Never,
    /// If the server offers it.
    IfOffered,
    /// Always. It is an error if the server does not offer it.
    Required,
}

/// Dialogue for the greeting, EHLO (in LMTP: LHLO, RFC 2033 §4.1), and STARTTLS if it is wanted.
///
/// Everything learnt before TLS is forgotten (RFC 3207 §4.2).
#[derive(Debug)]
pub struct Hello {
    name: HelloName,
    wanted: Wanted,
    state: State,
    /// Whether the command of this state has been sent.
    said: bool,
    server: Server,
    refusals: Refusals,
}

/// What the caller wants.
#[derive(Debug)]
struct Wanted {
    upgrade: Upgrade,
    fallback: Fallback,
    lmtp: bool,
    /// Keywords to be ignored, whatever the server offers.
    ignored: Vec<String>,
}

/// What to do if the server refuses EHLO or STARTTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fallback {
    /// Fail with an error.
    None,
    /// Try HELO, after a refused EHLO.
    Helo,
    /// Keep the connection unchanged, after a refused STARTTLS.
    AsItWas,
}

/// What is known about the server.
#[derive(Debug, Default)]
struct Server {
    greeting: Option<Reply>,
    /// The reply to EHLO, or to HELO.
    reply: Option<Reply>,
    knows_ehlo: bool,
    capabilities: Capabilities,
}

#[derive(Debug, Default)]
struct Refusals {
    /// The refusal of EHLO after which HELO was tried.
    ehlo: Option<Reply>,
    /// The refusal of a later STARTTLS, which is not an error.
    starttls: Option<Reply>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Ehlo,
    Helo,
    StartTls,
    Handshake,
    Done,
}

impl Hello {
    /// Creates the dialogue for a new connection.
    ///
    /// `name` is what the client calls itself in EHLO: a domain of letters, digits, hyphens and dots, or an address
    /// literal such as `[192.0.2.1]` or `[IPv6:::1]` (RFC 5321 §4.1.3). A bare IP address becomes an address literal.
    /// Set `needs_auth` if a login will follow: HELO is not tried then.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for any other name, including one whose last label has only digits: no domain has such a label
    /// (RFC 3696 §2), and servers refuse it.
    pub fn new(name: &str, upgrade: Upgrade, needs_auth: bool) -> Result<Hello, Error> {
        Ok(Hello::named(HelloName::new(name)?, upgrade, needs_auth))
    }

    /// Creates the dialogue with a name that has been checked.
    pub(crate) fn named(name: HelloName, upgrade: Upgrade, needs_auth: bool) -> Hello {
        let helo_will_do = upgrade != Upgrade::Required && !needs_auth;
        let fallback = if helo_will_do { Fallback::Helo } else { Fallback::None };
        Hello {
            name,
            wanted: Wanted { upgrade, fallback, lmtp: false, ignored: Vec::new() },
            state: State::Greeting,
            said: false,
            server: Server::default(),
            refusals: Refusals::default(),
        }
    }

    /// Sets whether to speak LMTP, where HELO is not tried. Defaults to false.
    #[must_use]
    pub fn lmtp(mut self, wanted: bool) -> Hello {
        self.wanted.lmtp = wanted;
        if wanted && self.wanted.fallback == Fallback::Helo {
            self.wanted.fallback = Fallback::None;
        }
        self
    }

    /// Creates a dialogue that sends STARTTLS, and then EHLO, on a connection that is already in use. The server must
    /// offer STARTTLS. After a [refusal](Hello::refusal) the connection is unchanged.
    pub(crate) fn starttls(name: HelloName) -> Hello {
        let mut hello = Hello::named(name, Upgrade::Required, false);
        (hello.state, hello.wanted.fallback) = (State::StartTls, Fallback::AsItWas);
        hello
    }

    /// Ignores these keywords even if the server offers them.
    pub(crate) fn ignoring(mut self, keywords: Vec<String>) -> Hello {
        self.wanted.ignored = keywords;
        self
    }

    /// Returns the refusal of a later STARTTLS.
    pub(crate) fn refusal(&self) -> Option<&Reply> {
        self.refusals.starttls.as_ref()
    }

    /// Returns whether the server knows EHLO.
    pub(crate) fn is_esmtp(&self) -> bool {
        self.server.knows_ehlo
    }

    /// Returns the error to report for `broke`, which ended the dialogue. If HELO has also failed, in whatever way, the
    /// error is the refusal of EHLO. A timeout and a stop are always reported as such.
    pub(crate) fn failure(self, broke: Error) -> Error {
        match (self.state, self.refusals.ehlo, broke) {
            (_, _, broke @ (Error::Timeout(_) | Error::Stopped(_))) => broke,
            (State::Helo, Some(reply), _) => Error::Refused { phase: Phase::Hello, reply },
            (_, _, broke) => broke,
        }
    }

    /// Returns the greeting, the reply to EHLO or HELO, and what the server offers.
    #[must_use]
    pub fn into_parts(self) -> (Option<Reply>, Option<Reply>, Capabilities) {
        (self.server.greeting, self.server.reply, self.server.capabilities)
    }

    fn go(&mut self, state: State) {
        (self.state, self.said) = (state, false);
    }

    fn on_ehlo(&mut self, reply: ReplyRef<'_>) -> Result<(), Error> {
        let capabilities = Capabilities::parse(reply).without(&self.wanted.ignored);
        let offered = capabilities.offers("STARTTLS");
        let greeting = self.server.greeting.take();
        self.server = Server { greeting, reply: Some(reply.keep()), knows_ehlo: true, capabilities };
        match self.wanted.upgrade {
            Upgrade::Required if !offered => return Err(Error::TlsRequired),
            Upgrade::Required | Upgrade::IfOffered if offered => self.go(State::StartTls),
            _ => self.go(State::Done),
        }
        Ok(())
    }
}

impl Dialogue for Hello {
    fn phase(&self) -> Phase {
        match self.state {
            State::Greeting => Phase::Greeting,
            State::Ehlo | State::Helo | State::Done => Phase::Hello,
            State::StartTls => Phase::StartTls,
            State::Handshake => Phase::Tls,
        }
    }

    fn fill(&mut self, out: &mut Outbox) -> Want {
        let said = std::mem::replace(&mut self.said, true);
        match self.state {
            State::Done => return Want::Nothing,
            State::Handshake => return Want::StartTls,
            _ if said => {}
            State::Greeting => out.expect(),
            State::Ehlo if self.wanted.lmtp => out.put(Command::Lhlo(&self.name)),
            State::Ehlo => out.put(Command::Ehlo(&self.name)),
            State::Helo => out.put(Command::Helo(&self.name)),
            State::StartTls => out.put(Command::StartTls),
        }
        Want::Reply
    }

    fn on_reply(&mut self, reply: ReplyRef<'_>, _: &Outbox) -> Result<(), Error> {
        let (verdict, fallback) = (Verdict::of(reply, self.phase()), self.wanted.fallback);
        match (self.state, verdict) {
            (State::Greeting, Verdict::Done) => {
                self.server.greeting = Some(reply.keep());
                self.go(State::Ehlo);
            }
            (State::Ehlo, Verdict::Done) => self.on_ehlo(reply)?,
            (State::Helo, Verdict::Done) => {
                self.server.reply = Some(reply.keep());
                self.go(State::Done);
            }
            (State::Ehlo, Verdict::Refused) if reply.code() >= 500 && fallback == Fallback::Helo => {
                self.refusals.ehlo = Some(reply.keep());
                self.go(State::Helo);
            }
            (State::StartTls, Verdict::Done) => self.go(State::Handshake),
            (State::StartTls, Verdict::Refused)
                if fallback == Fallback::AsItWas && !reply.closes(Phase::StartTls) =>
            {
                self.refusals.starttls = Some(reply.keep());
                self.go(State::Done);
            }
            (_, Verdict::Refused | Verdict::Closing) => return Err(ReplyErrors::refusal(self, reply)),
            _ => return Err(self.misplaced(reply)),
        }
        Ok(())
    }

    fn on_tls(&mut self) {
        if self.state != State::Handshake {
            return; // no handshake was requested
        }
        self.wanted.upgrade = Upgrade::Never;
        self.server = Server { greeting: self.server.greeting.take(), ..Server::default() };
        self.go(State::Ehlo);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Inbox;

    /// Returns what the dialogue sends, reply by reply, and its result.
    fn talk(mut hello: Hello, replies: &[&str]) -> (Vec<String>, Result<Hello, Error>) {
        let (mut out, mut inbox, mut said) = (Outbox::default(), Inbox::default(), Vec::new());
        for reply in replies {
            assert_eq!(hello.fill(&mut out), Want::Reply);
            said.push(String::from_utf8(out.offer().to_vec()).unwrap());
            out.written(out.unsent().len());
            let line = format!("{reply}\r\n");
            inbox.room()[..line.len()].copy_from_slice(line.as_bytes());
            inbox.arrived(line.len());
            let reply = inbox.next_reply().unwrap().unwrap();
            out.reply_arrived();
            if let Err(e) = hello.on_reply(reply, &out) {
                return (said, Err(e));
            }
            if hello.state == State::Handshake {
                assert_eq!(hello.fill(&mut out), Want::StartTls);
                hello.on_tls();
            }
        }
        assert_eq!(hello.fill(&mut out), Want::Nothing);
        (said, Ok(hello))
    }

    fn lmtp(upgrade: Upgrade) -> Hello {
        Hello::new("me", upgrade, false).unwrap().lmtp(true)
    }

    fn new(upgrade: Upgrade) -> Hello {
        Hello::new("me", upgrade, false).unwrap()
    }

    #[test]
    fn required_tls_is_started_or_the_connection_fails() {
        let (said, done) =
            talk(new(Upgrade::Required), &["220 hi", "250-hi\r\n250 STARTTLS", "220 go", "250 hi"]);
        assert_eq!(said, ["", "EHLO me\r\n", "STARTTLS\r\n", "EHLO me\r\n"]);
        assert!(done.unwrap().is_esmtp());
        let (said, done) = talk(new(Upgrade::Required), &["220 hi", "250 hi"]);
        assert_eq!(said, ["", "EHLO me\r\n"]);
        assert!(matches!(done, Err(Error::TlsRequired)));
    }

    #[test]
    fn optional_tls_is_skipped_if_it_is_not_offered() {
        let (said, done) = talk(new(Upgrade::IfOffered), &["220 hi", "250 hi"]);
        assert_eq!(said, ["", "EHLO me\r\n"]);
        assert!(done.is_ok());
    }

    #[test]
    fn a_server_that_refuses_ehlo_is_not_esmtp() {
        let (said, done) = talk(new(Upgrade::IfOffered), &["220 hi", "500 what", "250 hi"]);
        assert_eq!(said, ["", "EHLO me\r\n", "HELO me\r\n"]);
        assert!(!done.unwrap().is_esmtp());
    }

    #[test]
    fn a_separate_starttls_may_be_refused_but_not_with_421() {
        let starttls = || Hello::starttls(HelloName::new("me").unwrap());
        let (said, done) = talk(starttls(), &["454 not now"]);
        assert_eq!(said, ["STARTTLS\r\n"]);
        assert_eq!(done.unwrap().refusal().map(Reply::code), Some(454));
        let (_, done) = talk(starttls(), &["421 closing"]);
        assert!(matches!(done, Err(Error::Refused { phase: Phase::StartTls, .. })));
        let (_, done) = talk(new(Upgrade::IfOffered), &["220 hi", "250-hi\r\n250 STARTTLS", "454 not now"]);
        assert!(matches!(done, Err(Error::Refused { phase: Phase::StartTls, .. })));
    }

    #[test]
    fn lmtp_greets_with_lhlo() {
        let (said, done) = talk(lmtp(Upgrade::Never), &["220 hi", "250-hi\r\n250 PIPELINING"]);
        assert_eq!(said, ["", "LHLO me\r\n"]);
        let (greeting, _, capabilities) = done.unwrap().into_parts();
        assert_eq!(greeting.unwrap().text(), "hi");
        assert!(capabilities.offers("PIPELINING"));
    }

    #[test]
    fn lmtp_repeats_lhlo_after_starttls_and_drops_old_capabilities() {
        let replies = ["220 hi", "250-hi\r\n250-SIZE 1\r\n250 STARTTLS", "220 go", "250 hi"];
        let (said, done) = talk(lmtp(Upgrade::IfOffered), &replies);
        assert_eq!(said, ["", "LHLO me\r\n", "STARTTLS\r\n", "LHLO me\r\n"]);
        assert_eq!(done.unwrap().into_parts().2.iter().count(), 0);
    }

    #[test]
    fn a_refused_lhlo_is_an_error_and_never_followed_by_helo() {
        for code in ["421", "450", "500", "502", "550"] {
            let (said, done) = talk(lmtp(Upgrade::Never), &["220 hi", &format!("{code} no")]);
            assert_eq!(said, ["", "LHLO me\r\n"]);
            assert!(matches!(done, Err(Error::Refused { phase: Phase::Hello, .. })), "{code}");
        }
    }

    #[test]
    fn smtp_falls_back_to_helo() {
        let hello = Hello::new("me", Upgrade::IfOffered, false).unwrap().lmtp(false);
        let (said, done) = talk(hello, &["220 hi", "502 what?", "250 hi"]);
        assert_eq!(said, ["", "EHLO me\r\n", "HELO me\r\n"]);
        done.unwrap();
    }
}
