//! Dialogue: a login (RFC 4954). Chooses a mechanism, answers challenges, tries the next after a refusal.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use super::{Capabilities, Command, Dialogue, Outbox, ReplyRef, Want};
use crate::{Error, Phase, Reply};

/// Longer initial responses are sent as the answer to an empty challenge: a command line has 512 octets at most
/// (RFC 4954 §4). Base64 makes 4 of 3, and `AUTH PLAIN ` and CRLF have 13.
const MAX_INITIAL: usize = (512 - 13) / 4 * 3;

/// User and password. Neither is ever shown: not by `Debug`, not in a log, not in an error.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: Box<[u8]>,
    password: Box<[u8]>,
}

impl Credentials {
    /// Text goes out as UTF-8; octets as they are.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if one of them has a NUL, which PLAIN cannot carry (RFC 4616), or the user is empty.
    pub fn new(user: impl AsRef<[u8]>, password: impl AsRef<[u8]>) -> Result<Credentials, Error> {
        let (user, password) = (user.as_ref(), password.as_ref());
        if user.is_empty() {
            return Err(Error::Config("the user name of the credentials is empty".into()));
        }
        if user.contains(&0) || password.contains(&0) {
            return Err(Error::Config("the credentials have a NUL".into()));
        }
        Ok(Credentials { user: user.into(), password: password.into() })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(***)")
    }
}

/// The ways to log in that this client has, the preferred first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mechanism {
    /// RFC 4616.
    Plain,
    /// Never a standard, and everywhere: user and password, one after the other.
    Login,
}

impl Mechanism {
    const ALL: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];

    fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
        }
    }
}

/// A login. A mechanism that is refused is followed by the next; when all are, the last refusal is the result.
#[derive(Debug)]
pub struct Auth {
    credentials: Credentials,
    /// Those to try, the next last.
    mechanisms: Vec<Mechanism>,
    current: Mechanism,
    state: State,
    refusal: Option<Reply>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// AUTH is to be said.
    Begin,
    /// So many challenges were answered; an initial response counts as one.
    Sent {
        answers: usize,
    },
    /// A challenge is to be answered, after so many.
    Challenged {
        answers: usize,
    },
    /// A challenge came that the mechanism does not have: it is to be cancelled.
    Cancel,
    /// The refusal that a cancelled mechanism ends in is due.
    Cancelled,
    Done,
}

impl Auth {
    /// # Errors
    ///
    /// [`Error::Auth`] if the server offers no login, or no mechanism that both sides have.
    pub fn new(credentials: Credentials, capabilities: &Capabilities) -> Result<Auth, Error> {
        let no_way = |what: String| Error::Auth { what: what.into(), reply: None };
        let offered: Vec<String> = capabilities.auth_mechanisms().collect();
        if offered.is_empty() {
            return Err(no_way("the server offers no login".to_owned()));
        }
        let mut mechanisms: Vec<_> = Mechanism::ALL.into_iter().rev().collect();
        mechanisms.retain(|mechanism| offered.iter().any(|name| name == mechanism.name()));
        let Some(current) = mechanisms.pop() else {
            let offered = offered.join(" ").escape_debug().to_string();
            return Err(no_way(format!(
                "there is no way to log in that both sides have (the server's: {offered})"
            )));
        };
        Ok(Auth { credentials, mechanisms, current, state: State::Begin, refusal: None })
    }

    /// # Errors
    ///
    /// [`Error::Auth`] with the server's last refusal.
    pub fn into_result(self) -> Result<(), Error> {
        match self.refusal {
            None => Ok(()),
            reply => Err(Error::Auth { what: "the login was refused".into(), reply }),
        }
    }

    /// What answers the challenge after so many answers. Whatever a challenge says, its place tells what it asks:
    /// prompts are translated, decorated and empty in the wild.
    fn answer(&self, answers: usize) -> Option<Vec<u8>> {
        let Credentials { user, password } = &self.credentials;
        match (self.current, answers) {
            (Mechanism::Plain, 0) => Some([b"\0", &**user, b"\0", &**password].concat()),
            (Mechanism::Login, 0) => Some(user.to_vec()),
            (Mechanism::Login, 1) => Some(password.to_vec()),
            _ => None,
        }
    }

    /// PLAIN speaks first, unless that makes the line too long; LOGIN never does (many servers refuse that).
    fn initial(&self) -> Option<Vec<u8>> {
        let initial = self.answer(0)?;
        (self.current == Mechanism::Plain && initial.len() <= MAX_INITIAL).then_some(initial)
    }

    fn refused(&mut self, reply: ReplyRef<'_>) {
        self.refusal = Some(self.keep(reply));
        self.state = match self.mechanisms.pop() {
            Some(next) => {
                self.current = next;
                State::Begin
            }
            None => State::Done,
        };
    }
}

impl Dialogue for Auth {
    fn phase(&self) -> Phase {
        Phase::Auth
    }

    fn fill(&mut self, out: &mut Outbox) -> Want {
        match self.state {
            State::Begin => {
                let initial = self.initial();
                out.put(Command::Auth(self.current.name(), initial.as_deref()));
                self.state = State::Sent { answers: usize::from(initial.is_some()) };
            }
            State::Challenged { answers } => {
                let answer = self.answer(answers).unwrap_or_default(); // there is one: looked at when it was asked
                out.put(Command::Answer(&answer));
                self.state = State::Sent { answers: answers + 1 };
            }
            State::Cancel => {
                out.put(Command::Cancel);
                self.state = State::Cancelled;
            }
            State::Sent { .. } | State::Cancelled => {}
            State::Done => return Want::Nothing,
        }
        Want::Reply
    }

    fn on_reply(&mut self, reply: ReplyRef<'_>, _: &Outbox) -> Result<(), Error> {
        match (self.state, reply.code()) {
            (State::Sent { .. }, 235) => {
                self.refusal = None;
                self.state = State::Done;
            }
            (State::Sent { answers }, 334) if self.answer(answers).is_some() => {
                self.state = State::Challenged { answers };
            }
            (State::Sent { .. }, 334) => self.state = State::Cancel,
            (State::Sent { .. } | State::Cancelled, 400..) => self.refused(reply),
            _ => return Err(self.misplaced(reply)),
        }
        Ok(())
    }

    /// A server that repeats what it was told must not put it into an error or a log.
    fn keep(&self, reply: ReplyRef<'_>) -> Reply {
        let password = &*self.credentials.password;
        let plain = [b"\0", &*self.credentials.user, b"\0", password].concat();
        // Also without the padding; what is left of it tells nothing.
        let encoded = [plain.as_slice(), password].map(|secret| BASE64.encode(secret).replace('=', ""));
        let hex: String = password.iter().map(|b| format!("{b:02x}")).collect();
        // The longest first: one may be a part of another.
        let [plain, alone] = encoded.each_ref().map(String::as_bytes);
        reply.keep().redacted(&[plain, alone, hex.as_bytes(), hex.to_uppercase().as_bytes(), password])
    }
}
