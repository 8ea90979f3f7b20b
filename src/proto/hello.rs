//! Dialogue: greeting, EHLO or HELO, STARTTLS, EHLO again (RFC 5321 §3.1, RFC 3207).
//!
//! ```text
//! Greeting ─220─▶ Ehlo ─2yz─▶ Done
//!                  │ │└─2yz, and TLS is wanted─▶ StartTls ─220─▶ Handshake ─▶ Ehlo
//!                  │ └─5yz, and neither LMTP, TLS nor a login is needed─▶ Helo ─2yz─▶ Done
//!                  └─4yz, or TLS or a login is needed: an error
//! ```
//!
//! If HELO fails too, the error is the refusal of EHLO: it says why the server does not serve us. A server that refuses
//! EHLO for now (4yz) would not know HELO any better.
//!
//! A [later](Hello::starttls) STARTTLS begins at `StartTls`; refused, it is `Done`, and nothing has changed.

use super::{
    Capabilities, Command, Dialogue, HelloName, Outbox, ReplyErrors, ReplyRef, Want, verdict::Verdict,
};
use crate::{Error, Phase, Reply};

/// Whether to upgrade to TLS by STARTTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Upgrade {
    /// Not at all: there is TLS already, or it is not wanted.
    Never,
    /// If the server offers it.
    IfOffered,
    /// Or else it is an error.
    Required,
}

/// Greeting, EHLO (in LMTP: LHLO, RFC 2033 §4.1), and STARTTLS if wanted. Everything learnt before TLS is forgotten (RFC 3207 §4.2).
#[derive(Debug)]
pub struct Hello {
    name: HelloName,
    upgrade: Upgrade,
    helo_will_do: bool,
    lmtp: bool,
    state: State,
    /// The command of this state is out.
    said: bool,
    greeting: Option<Reply>,
    /// What was said to EHLO, or to HELO.
    reply: Option<Reply>,
    /// The refusal of EHLO that HELO came after.
    no_ehlo: Option<Reply>,
    esmtp: bool,
    capabilities: Capabilities,
    /// Keywords that are taken for not said.
    ignored: Vec<String>,
    /// STARTTLS may be refused, and was.
    optional: bool,
    refusal: Option<Reply>,
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
    /// `needs_auth` says that a login will follow: HELO is no way out then.
    #[must_use]
    pub fn new(name: HelloName, upgrade: Upgrade, needs_auth: bool) -> Hello {
        Hello {
            name,
            upgrade,
            helo_will_do: upgrade != Upgrade::Required && !needs_auth,
            lmtp: false,
            state: State::Greeting,
            said: false,
            greeting: None,
            reply: None,
            no_ehlo: None,
            esmtp: false,
            capabilities: Capabilities::default(),
            ignored: Vec::new(),
            optional: false,
            refusal: None,
        }
    }

    /// Whether to speak LMTP: it has nothing to fall back to. Defaults to false.
    #[must_use]
    pub fn lmtp(self, wanted: bool) -> Hello {
        Hello { lmtp: wanted, helo_will_do: self.helo_will_do && !wanted, ..self }
    }

    /// STARTTLS on a connection that is in use, and EHLO again. The server must offer it. Behind a
    /// [refusal](Hello::refusal) the connection goes on as it was.
    #[must_use]
    pub fn starttls(name: HelloName) -> Hello {
        Hello { state: State::StartTls, optional: true, ..Hello::new(name, Upgrade::Required, false) }
    }

    /// Takes these keywords for not offered, whatever the server says.
    #[must_use]
    pub(crate) fn ignoring(self, keywords: Vec<String>) -> Hello {
        Hello { ignored: keywords, ..self }
    }

    /// What the server said to a STARTTLS that it did not want.
    #[must_use]
    pub fn refusal(&self) -> Option<&Reply> {
        self.refusal.as_ref()
    }

    /// Whether the server knows EHLO.
    #[must_use]
    pub(crate) fn is_esmtp(&self) -> bool {
        self.esmtp
    }

    /// The error that `broke`, which ended the dialogue, stands for: where HELO has failed too, however it did, that is
    /// the refusal of EHLO. A timeout and a stop remain what they are.
    #[must_use]
    pub(crate) fn failure(self, broke: Error) -> Error {
        match (self.state, self.no_ehlo, broke) {
            (_, _, broke @ (Error::Timeout(_) | Error::Stopped(_))) => broke,
            (State::Helo, Some(reply), _) => Error::Refused { phase: Phase::Hello, reply },
            (_, _, broke) => broke,
        }
    }

    /// The greeting, the reply to EHLO or HELO, and what the server offers.
    #[must_use]
    pub fn into_parts(self) -> (Option<Reply>, Option<Reply>, Capabilities) {
        (self.greeting, self.reply, self.capabilities)
    }

    fn go(&mut self, state: State) {
        (self.state, self.said) = (state, false);
    }

    fn on_ehlo(&mut self, reply: ReplyRef<'_>) -> Result<(), Error> {
        self.capabilities = Capabilities::parse(reply).without(&self.ignored);
        (self.reply, self.esmtp) = (Some(reply.keep()), true);
        let offered = self.capabilities.offers("STARTTLS");
        match self.upgrade {
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
            State::Ehlo if self.lmtp => out.put(Command::Lhlo(&self.name)),
            State::Ehlo => out.put(Command::Ehlo(&self.name)),
            State::Helo => out.put(Command::Helo(&self.name)),
            State::StartTls => out.put(Command::StartTls),
        }
        Want::Reply
    }

    fn on_reply(&mut self, reply: ReplyRef<'_>, _: &Outbox) -> Result<(), Error> {
        let verdict = Verdict::of(reply, self.phase());
        match (self.state, verdict) {
            (State::Greeting, Verdict::Done) => {
                self.greeting = Some(reply.keep());
                self.go(State::Ehlo);
            }
            (State::Ehlo, Verdict::Done) => self.on_ehlo(reply)?,
            (State::Helo, Verdict::Done) => {
                self.reply = Some(reply.keep());
                self.go(State::Done);
            }
            (State::Ehlo, Verdict::Refused) if reply.code() >= 500 && self.helo_will_do => {
                self.no_ehlo = Some(reply.keep());
                self.go(State::Helo);
            }
            (State::StartTls, Verdict::Done) => self.go(State::Handshake),
            (State::StartTls, Verdict::Refused) if self.optional && !reply.closes(Phase::StartTls) => {
                self.refusal = Some(reply.keep());
                self.go(State::Done);
            }
            (_, Verdict::Refused | Verdict::Closing) => return Err(ReplyErrors::refusal(self, reply)),
            _ => return Err(self.misplaced(reply)),
        }
        Ok(())
    }

    fn on_tls(&mut self) {
        if self.state != State::Handshake {
            return; // nobody wanted it
        }
        self.upgrade = Upgrade::Never;
        (self.capabilities, self.reply, self.esmtp) = (Capabilities::default(), None, false);
        self.go(State::Ehlo);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Inbox;

    /// What it says, reply by reply, and how it ends.
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
        Hello::new(HelloName::new("me").unwrap(), upgrade, false).lmtp(true)
    }

    fn new(upgrade: Upgrade) -> Hello {
        Hello::new(HelloName::new("me").unwrap(), upgrade, false)
    }

    #[test]
    fn tls_that_is_required_is_begun_or_nothing_is() {
        let (said, done) =
            talk(new(Upgrade::Required), &["220 hi", "250-hi\r\n250 STARTTLS", "220 go", "250 hi"]);
        assert_eq!(said, ["", "EHLO me\r\n", "STARTTLS\r\n", "EHLO me\r\n"]);
        assert!(done.unwrap().is_esmtp());
        let (said, done) = talk(new(Upgrade::Required), &["220 hi", "250 hi"]);
        assert_eq!(said, ["", "EHLO me\r\n"]);
        assert!(matches!(done, Err(Error::TlsRequired)));
    }

    #[test]
    fn tls_that_is_not_offered_is_not_begun() {
        let (said, done) = talk(new(Upgrade::IfOffered), &["220 hi", "250 hi"]);
        assert_eq!(said, ["", "EHLO me\r\n"]);
        assert!(done.is_ok());
    }

    #[test]
    fn who_knows_no_ehlo_is_no_esmtp() {
        let (said, done) = talk(new(Upgrade::IfOffered), &["220 hi", "500 what", "250 hi"]);
        assert_eq!(said, ["", "EHLO me\r\n", "HELO me\r\n"]);
        assert!(!done.unwrap().is_esmtp());
    }

    #[test]
    fn a_starttls_of_its_own_may_be_refused_but_not_by_421() {
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
    fn lmtp_says_lhlo() {
        let (said, done) = talk(lmtp(Upgrade::Never), &["220 hi", "250-hi\r\n250 PIPELINING"]);
        assert_eq!(said, ["", "LHLO me\r\n"]);
        let (greeting, _, capabilities) = done.unwrap().into_parts();
        assert_eq!(greeting.unwrap().text(), "hi");
        assert!(capabilities.offers("PIPELINING"));
    }

    #[test]
    fn lmtp_says_lhlo_again_behind_starttls_and_forgets_what_was_before() {
        let replies = ["220 hi", "250-hi\r\n250-SIZE 1\r\n250 STARTTLS", "220 go", "250 hi"];
        let (said, done) = talk(lmtp(Upgrade::IfOffered), &replies);
        assert_eq!(said, ["", "LHLO me\r\n", "STARTTLS\r\n", "LHLO me\r\n"]);
        assert_eq!(done.unwrap().into_parts().2.iter().count(), 0);
    }

    #[test]
    fn lhlo_refused_is_an_error_and_never_followed_by_helo() {
        for code in ["421", "450", "500", "502", "550"] {
            let (said, done) = talk(lmtp(Upgrade::Never), &["220 hi", &format!("{code} no")]);
            assert_eq!(said, ["", "LHLO me\r\n"]);
            assert!(matches!(done, Err(Error::Refused { phase: Phase::Hello, .. })), "{code}");
        }
    }

    #[test]
    fn smtp_falls_back_to_helo() {
        let hello = Hello::new(HelloName::new("me").unwrap(), Upgrade::IfOffered, false).lmtp(false);
        let (said, done) = talk(hello, &["220 hi", "502 what?", "250 hi"]);
        assert_eq!(said, ["", "EHLO me\r\n", "HELO me\r\n"]);
        done.unwrap();
    }
}
