//! Dialogue for a login (RFC 4954). It chooses mechanisms, sends their answers, and tries the next one after a refusal.
//!
//! ```text
//! Secret ─▶ Begin ─AUTH─▶ Due ─2yz, and the mechanism trusts the server─▶ In
//!    ▲        ▲           │ ▲└─4yz, 5yz─▶ a new secret; or the next: Begin; or Refused
//!    │        │        334│ │answer
//!    └────────┴──┐        ▼ │
//!                └ Ending ◀ Say        Ending: the mechanism has failed, and the refusal is due
//! ```

#[cfg(feature = "sasl")]
mod cram;
mod credentials;
mod mechanism;
mod oauth;
mod plain;
#[cfg(feature = "sasl")]
mod scram;
mod table;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, fmt};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

pub(crate) use self::credentials::check_pinned;
pub use self::{
    credentials::Credentials,
    mechanism::{Answer, Mechanism},
};
use super::{
    Capabilities, Command, Dialogue, Outbox, ReplyErrors, ReplyRef, Want,
    reply::{find, mask},
    verdict::Verdict,
};
use crate::{Error, Phase, Reply};

/// Maximum length of an AUTH line, in octets including its line ending. A longer initial response is sent as the answer
/// to an empty challenge (RFC 4954 §4).
const MAX_LINE: usize = 512;
/// Minimum number of iterations of SCRAM's hash. Fewer make a stolen hash cheap to break (RFC 7677 §4).
pub(crate) const MIN_SCRAM_ITERATIONS: u32 = 4_096;
/// Default maximum number of iterations of SCRAM's hash. Each iteration costs time.
pub(crate) const MAX_SCRAM_ITERATIONS: u32 = 100_000;
/// Maximum number of exchanges that a server may refuse permanently on one connection. More could lock the account.
const MAX_REFUSALS: u8 = 2;
/// Maximum number of challenges that are answered for one mechanism.
const MAX_ANSWERS: usize = 16;

/// Options of a login, and what it needs to know about the connection.
///
/// By default, the connection counts as one that others can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthOptions {
    pub(crate) encrypted: bool,
    pub(crate) local: bool,
    pub(crate) channel_binding: Option<Vec<u8>>,
    pub(crate) tls_exporter: Option<Vec<u8>>,
    pub(crate) server: Option<(String, u16)>,
    pub(crate) mechanisms: Option<Vec<String>>,
    pub(crate) max_scram_iterations: u32,
    /// Number of exchanges that the server has already refused permanently on this connection ([`Auth::refusals`]).
    pub(crate) refusals: u8,
}

impl AuthOptions {
    /// Sets whether the connection is secured by TLS. Defaults to false.
    #[must_use]
    pub fn encrypted(self, encrypted: bool) -> AuthOptions {
        AuthOptions { encrypted, ..self }
    }

    /// Sets whether the server is on this machine, so that nobody else can read the connection. Defaults to false.
    #[must_use]
    pub fn local(self, local: bool) -> AuthOptions {
        AuthOptions { local, ..self }
    }

    /// Sets the hash of the server's certificate (tls-server-end-point, RFC 5929 §4). SCRAM-SHA-256-PLUS needs this or
    /// [`tls_exporter`](AuthOptions::tls_exporter). Defaults to none.
    #[must_use]
    pub fn channel_binding(self, hash: Option<Vec<u8>>) -> AuthOptions {
        AuthOptions { channel_binding: hash, ..self }
    }

    /// Sets keying material of the TLS connection (tls-exporter, RFC 9266 §2), to which SCRAM-SHA-256-PLUS binds the
    /// login first, if there is any. Defaults to none.
    #[must_use]
    pub fn tls_exporter(self, data: Option<Vec<u8>>) -> AuthOptions {
        AuthOptions { tls_exporter: data, ..self }
    }

    /// Sets the host and port of the connection, which OAUTHBEARER sends. Defaults to none.
    #[must_use]
    pub fn server(self, host: impl Into<String>, port: u16) -> AuthOptions {
        AuthOptions { server: Some((host.into(), port)), ..self }
    }

    /// Sets the mechanisms to try, in this order. Defaults to all that fit the credentials, the strongest first.
    #[must_use]
    pub fn mechanisms<T: Into<String>>(self, names: impl IntoIterator<Item = T>) -> AuthOptions {
        AuthOptions { mechanisms: Some(names.into_iter().map(Into::into).collect()), ..self }
    }

    /// Sets the maximum number of iterations of SCRAM's hash that a server may demand; each takes time. Defaults to
    /// 100,000.
    #[must_use]
    pub fn max_scram_iterations(self, iterations: u32) -> AuthOptions {
        AuthOptions { max_scram_iterations: iterations, ..self }
    }
}

impl Default for AuthOptions {
    fn default() -> AuthOptions {
        AuthOptions {
            encrypted: false,
            local: false,
            channel_binding: None,
            tls_exporter: None,
            server: None,
            mechanisms: None,
            max_scram_iterations: MAX_SCRAM_ITERATIONS,
            refusals: 0,
        }
    }
}

/// Dialogue for a login. After a refused mechanism the next one is tried. If none is left, the last refusal is the
/// result.
///
/// After two exchanges that the server refused with a 5yz reply, no further exchange is started on the connection.
/// After a mechanism that hides the password, the second is PLAIN or else LOGIN, because the server may lack what the
/// other mechanisms need. An order that was set with [`mechanisms`](AuthOptions::mechanisms) is kept. Replies that say
/// nothing about the password do not count: 504 (no such mechanism), 534 (mechanism too weak), 4yz, and the end of an
/// exchange that was cancelled here.
///
/// After a mechanism that hides the password, PLAIN and LOGIN are tried only on a private connection (TLS or local).
///
/// SCRAM-SHA-256-PLUS is up to two exchanges: first with tls-exporter, then with tls-server-end-point, as far as the
/// options have them. Both count.
///
/// If the password or the token comes from a callback, a new one is requested once after a refusal, and tried if it
/// differs.
pub struct Auth {
    credentials: Credentials,
    options: AuthOptions,
    /// The mechanisms that both sides support, in order of preference.
    names: Vec<String>,
    /// Whether the server offers a mechanism with channel binding.
    plus_offered: bool,
    /// The current mechanism, and those that may follow.
    queue: VecDeque<Box<dyn Mechanism>>,
    state: State,
    /// The initial response, if it was too long to be sent with AUTH.
    initial: Option<Vec<u8>>,
    answers: usize,
    /// Whether the password or token may be requested again.
    may_ask_again: bool,
    /// Why the current mechanism has failed, if known: the client's reason, and the server's.
    failure: Option<String>,
    details: Option<String>,
    refusal: Option<Error>,
    refusals: u8,
    /// Everything that was sent, in base64.
    said: Vec<Vec<u8>>,
    /// Passwords and tokens that were refused. They are still masked.
    old: Vec<Vec<u8>>,
}

#[derive(PartialEq, Eq)] // and no Debug: an answer is secret
enum State {
    /// A password or token is needed.
    Secret,
    /// AUTH is to be sent.
    Begin,
    /// A challenge is to be answered.
    Say(Vec<u8>),
    /// A challenge is to be answered, and a refusal must follow.
    Concede(Vec<u8>),
    /// An open challenge cannot be answered.
    Cancel,
    /// A reply of any kind is due.
    Due,
    /// The refusal that ends a failed mechanism is due.
    Ending,
    In,
    Refused,
}

impl Auth {
    /// Creates the dialogue for one login. `capabilities` are those of the server's last EHLO reply.
    ///
    /// # Errors
    ///
    /// [`Error::Auth`] if the server offers no login, or no mechanism that both sides support.
    pub fn new(
        credentials: Credentials,
        options: AuthOptions,
        capabilities: &Capabilities,
    ) -> Result<Auth, Error> {
        let offered: Vec<String> = capabilities.auth_mechanisms().collect();
        let mut names: Vec<String> = credentials.names().into_iter().map(str::to_owned).collect();
        if let Some(pinned) = &options.mechanisms {
            names = pinned.iter().filter(|name| names.contains(name)).cloned().collect();
        }
        names.retain(|name| offered.contains(name));
        if options.refusals >= MAX_REFUSALS {
            let what = "the server has refused two logins on this connection; connect again to try another";
            return Err(Error::Auth { what: what.into(), details: None, reply: None });
        }
        let mut auth = Auth {
            credentials,
            refusals: options.refusals,
            options,
            names,
            plus_offered: offered.iter().any(|name| name.starts_with("SCRAM-") && name.ends_with("-PLUS")),
            queue: VecDeque::new(),
            state: State::Begin,
            initial: None,
            answers: 0,
            may_ask_again: false,
            failure: None,
            details: None,
            refusal: None,
            said: Vec::new(),
            old: Vec::new(),
        };
        if auth.credentials.lack_secret() && !auth.names.is_empty() {
            (auth.state, auth.may_ask_again) = (State::Secret, true);
            return Ok(auth);
        }
        auth.create_mechanisms()?;
        if auth.queue.is_empty() { Err(auth.no_common_mechanism(&offered)) } else { Ok(auth) }
    }

    /// Creates the mechanisms, in order of preference.
    fn create_mechanisms(&mut self) -> Result<(), Error> {
        let context = table::Context { options: &self.options, plus_offered: self.plus_offered };
        for name in &self.names {
            self.queue.extend(self.credentials.mechanisms(name, &context)?);
        }
        Ok(())
    }

    fn no_common_mechanism(&self, offered: &[String]) -> Error {
        let mut what = match offered {
            [] => "the server offers no login".to_owned(),
            _ => {
                let offered = offered.join(" ").escape_debug().to_string();
                format!("no login mechanism is supported by both sides (the server offers {offered})")
            }
        };
        if !self.options.encrypted {
            what.push_str("; it may offer more over TLS");
        }
        if cfg!(not(feature = "sasl")) && offered.iter().any(|name| table::needs_sasl(name)) {
            what.push_str("; postino was built without the `sasl` feature");
        }
        Error::Auth { what: what.into(), details: None, reply: None }
    }

    /// Returns the result. `broke` is the error that ended the dialogue early, if one did. If the server hung up after
    /// it had refused a mechanism, the login counts as refused.
    ///
    /// # Errors
    ///
    /// [`Error::Auth`] with the server's last refusal; `broke`; or [`Error::Internal`] if the login is not over.
    pub fn into_result(self, broke: Option<Error>) -> Result<(), Error> {
        // A refusal here is not about the login: it is the 421 of a server that closes the connection.
        let hung_up =
            matches!(broke, None | Some(Error::Closed(_) | Error::Io { .. } | Error::Refused { .. }));
        match (broke, self.refusal) {
            (None, _) if self.state == State::In => Ok(()),
            (_, Some(refusal)) if hung_up => Err(refusal),
            (broke, _) => Err(broke.unwrap_or(Error::Internal("the login is not over"))),
        }
    }

    /// Returns the number of exchanges that the server has refused permanently on this connection, including those
    /// [before](AuthOptions::refusals) this login.
    pub(crate) fn refusals(&self) -> u8 {
        self.refusals
    }

    /// Returns the name of the current mechanism, or of the one that has succeeded.
    pub(crate) fn mechanism(&self) -> Box<str> {
        self.name().into()
    }

    fn begin(&mut self, out: &mut Outbox) {
        let Some(mechanism) = self.queue.front_mut() else { return }; // never empty in the state `Begin`
        let name = mechanism.name().to_owned();
        let initial = mechanism.initial();
        (self.answers, self.failure, self.details) = (0, None, None);
        // Base64 turns 3 octets into 4. An empty response is sent as `=`.
        let fits = |initial: &Vec<u8>| {
            "AUTH  \r\n".len() + name.len() + initial.len().div_ceil(3).max(1) * 4 <= MAX_LINE
        };
        let (now, later) = match initial {
            Some(initial) if fits(&initial) => (Some(initial), None),
            later => (None, later),
        };
        self.initial = later;
        self.remember(now.as_deref().unwrap_or_default());
        out.put(Command::Auth(&name, now.as_deref()));
    }

    fn answer(&mut self, answer: &[u8], out: &mut Outbox) {
        self.remember(answer);
        out.put(Command::Answer(answer));
    }

    /// Remembers what was sent, so that it is masked if the server repeats it.
    fn remember(&mut self, answer: &[u8]) {
        let base64 = BASE64.encode(answer);
        self.said.push(base64.trim_end_matches('=').as_bytes().to_vec()); // a server may omit the padding
        self.said.push(base64.into_bytes());
    }

    /// Handles a 334 reply: a challenge is open until it is answered or cancelled.
    fn on_challenge(&mut self, reply: ReplyRef<'_>) -> Result<(), Error> {
        if let Some(initial) = self.initial.take() {
            self.state = State::Say(initial); // regardless of the challenge
            return Ok(());
        }
        self.answers += 1;
        let mut lines = reply.text_lines();
        let text = lines.next().unwrap_or_default();
        let challenge = BASE64.decode(text).ok().filter(|_| lines.next().is_none());
        let Some(mechanism) = self.queue.front_mut() else { return Err(self.misplaced(reply)) };
        let answer = match challenge {
            _ if self.answers > MAX_ANSWERS => {
                Answer::Cancel("the server sends too many challenges".to_owned())
            }
            None if mechanism.reads_challenges() => {
                Answer::Cancel("a challenge is not valid base64".to_owned())
            }
            challenge => mechanism.answer(&challenge.unwrap_or_default()),
        };
        self.state = match answer {
            Answer::Respond(answer) => State::Say(answer),
            Answer::AcceptFailure { response, details } => {
                self.details = Some(self.masked(details));
                State::Concede(response)
            }
            Answer::Cancel(why) => {
                self.failure = Some(self.masked(why));
                State::Cancel
            }
            Answer::RejectServer(why) => return Err(self.distrust(why)),
        };
        Ok(())
    }

    fn on_success(&mut self, reply: ReplyRef<'_>) -> Result<(), Error> {
        let text = reply.keep().text();
        if let Some(Err(why)) = self.queue.front_mut().map(|mechanism| mechanism.finish(&text)) {
            return Err(self.distrust(why));
        }
        self.state = State::In;
        Ok(())
    }

    fn distrust(&self, why: String) -> Error {
        let what = format!("the login with {} failed: {}", self.name(), self.masked(why));
        Error::Auth { what: what.into(), details: None, reply: None }
    }

    fn on_refusal(&mut self, reply: ReplyRef<'_>) {
        let what = match &self.failure {
            Some(why) => format!("the login with {} failed: {why}", self.name()),
            None => format!("the login with {} was refused", self.name()),
        };
        // A token that the server has examined would fare no better with the other mechanism.
        let judged = self.details.is_some();
        let cancelled = self.failure.is_some();
        let details = self.details.take();
        self.refusal = Some(Error::Auth { what: what.into(), details, reply: Some(self.keep(reply)) });

        let clear = |mechanism: &dyn Mechanism| table::shows_password(mechanism.name());
        let name = self.name().to_owned();
        let hid_the_password = self.queue.pop_front().is_some_and(|last| !clear(&*last));
        if !self.options.encrypted && !self.options.local && hid_the_password {
            self.queue.retain(|mechanism| !clear(&**mechanism));
        }
        if judged {
            self.queue.clear();
        }
        // Other replies say nothing about the password or the token.
        let is_final = reply.code() >= 500 && !matches!(reply.code(), 504 | 534) && !cancelled;
        if is_final {
            self.refusals += 1;
            // With another channel binding, the same mechanism would use up the last exchange, which another may need.
            if self.queue.iter().any(|next| next.name() != name) {
                self.queue.retain(|next| next.name() != name);
            }
        }
        if is_final && hid_the_password && self.options.mechanisms.is_none() {
            let (first, rest) = self.queue.drain(..).partition(|mechanism| clear(&**mechanism));
            self.queue = first;
            let mut rest: VecDeque<_> = rest;
            self.queue.append(&mut rest);
        }
        self.state = if self.refusals >= MAX_REFUSALS {
            State::Refused
        } else if self.may_ask_again
            && is_final
            && (reply.code() == 535 || judged || self.credentials.are_password())
        {
            self.may_ask_again = false;
            State::Secret
        } else {
            self.next()
        };
    }

    /// Returns the state for the next mechanism, if there is one.
    fn next(&self) -> State {
        if self.queue.is_empty() { State::Refused } else { State::Begin }
    }

    /// Returns the name of the current mechanism.
    fn name(&self) -> &str {
        self.queue.front().map_or("", |mechanism| mechanism.name())
    }

    /// Returns everything that must not be shown, longest first: masking a short secret must not break up a longer one.
    fn secrets(&self) -> Vec<Vec<u8>> {
        let own = self.queue.front().map(|mechanism| mechanism.secrets()).unwrap_or_default();
        let mut secrets: Vec<Vec<u8>> = own.into_iter().map(<[u8]>::to_vec).collect();
        secrets.push(self.credentials.secret().to_vec());
        secrets.extend_from_slice(&self.old);
        // Replies are trimmed, so a password that was read from a file is repeated without its line ending.
        let bare: Vec<_> = secrets.iter().map(|secret| secret.trim_ascii().to_vec()).collect();
        secrets.extend(bare.into_iter().filter(|bare| !secrets.contains(bare)).collect::<Vec<_>>());
        let hex = |secret: &Vec<u8>| secret.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let encoded = |secret: &Vec<u8>| {
            let (base64, hex) = (BASE64.encode(secret), hex(secret));
            let unpadded = base64.trim_end_matches('=').to_owned();
            [base64, unpadded, hex.to_ascii_uppercase(), hex].map(String::into_bytes)
        };
        let encoded: Vec<_> = secrets.iter().flat_map(encoded).collect();
        let within: Vec<_> = secrets.iter().flat_map(|secret| within_base64(secret)).collect();
        secrets.extend(encoded);
        secrets.extend(within);
        secrets.extend_from_slice(&self.said);
        secrets.retain(|secret| !secret.is_empty());
        // An insertion sort: std's sort adds 5 kB to a small program, and there are few secrets.
        let mut sorted: Vec<Vec<u8>> = Vec::with_capacity(secrets.len());
        for secret in secrets {
            sorted.insert(sorted.partition_point(|longer| longer.len() >= secret.len()), secret);
        }
        sorted
    }

    fn masked(&self, text: String) -> String {
        String::from_utf8_lossy(&mask(text.into_bytes(), &self.secrets())).into_owned()
    }
}

/// Returns what a secret looks like inside longer base64: the letters that depend only on the secret, for each of its
/// three possible alignments. Short results are left out: they reveal little, and would match almost everywhere.
fn within_base64(secret: &[u8]) -> Vec<Vec<u8>> {
    let letters = |before: usize| {
        let base64 = BASE64.encode([&[0; 2][..before], secret].concat());
        let (first, end) = ((before * 8).div_ceil(6), (before + secret.len()) * 8 / 6);
        base64.get(first..end).unwrap_or_default().as_bytes().to_vec()
    };
    (0..3).map(letters).filter(|letters| letters.len() >= 4).collect()
}

impl Dialogue for Auth {
    fn phase(&self) -> Phase {
        Phase::Auth
    }

    fn fill(&mut self, out: &mut Outbox) -> Want {
        match std::mem::replace(&mut self.state, State::Due) {
            State::Begin => self.begin(out),
            State::Say(answer) => self.answer(&answer, out),
            State::Concede(answer) => {
                self.answer(&answer, out);
                self.state = State::Ending;
            }
            State::Cancel => {
                out.put(Command::Cancel);
                self.state = State::Ending;
            }
            state => {
                self.state = state;
                match self.state {
                    State::Secret => return Want::Secret,
                    State::In | State::Refused => return Want::Nothing,
                    _ => {}
                }
            }
        }
        Want::Reply
    }

    fn on_reply(&mut self, reply: ReplyRef<'_>, _: &Outbox) -> Result<(), Error> {
        match (&self.state, Verdict::of(reply, Phase::Auth)) {
            _ if reply.closes(Phase::Auth) => return Err(self.refusal(reply)),
            (State::Due, Verdict::Done) => self.on_success(reply)?,
            (State::Due, Verdict::Continue) => self.on_challenge(reply)?,
            (State::Due | State::Ending, Verdict::Refused) => self.on_refusal(reply),
            _ => return Err(self.misplaced(reply)),
        }
        Ok(())
    }

    fn on_secret(&mut self, secret: &str) -> Result<(), Error> {
        if self.state != State::Secret {
            return Err(Error::Internal("a password or token was passed when none was wanted"));
        }
        if self.credentials.have_secret(secret) {
            self.state = self.next(); // this one was already refused
            return Ok(());
        }
        self.old.push(self.credentials.secret().to_vec());
        self.queue.clear();
        self.credentials = self.credentials.clone().with_secret(secret)?;
        self.create_mechanisms()?;
        self.state = State::Begin;
        Ok(())
    }

    /// Masks secrets that the server repeats, so that they do not appear in an error or a log, even if the server has
    /// encoded them in base64.
    fn keep(&self, reply: ReplyRef<'_>) -> Reply {
        let mut secrets = self.secrets();
        let words = reply.text_lines().flat_map(|line| line.split(|b| *b == b' '));
        let tells = |word: &&[u8]| {
            let decoded = BASE64.decode(word).unwrap_or_default();
            secrets.iter().any(|secret| find(&decoded, secret).is_some())
        };
        let words: Vec<Vec<u8>> = words.filter(tells).map(<[u8]>::to_vec).collect();
        secrets.splice(0..0, words);
        reply.keep().redacted(&secrets)
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth")
            .field("names", &self.names)
            .field("mechanism", &self.name())
            .finish_non_exhaustive()
    }
}

/// Escapes a name for a GS2 header or a SCRAM message (RFC 5801 §4, RFC 5802 §5.1).
fn escape(name: &[u8]) -> Vec<u8> {
    let escaped = name.iter().map(|b| match b {
        b'=' => &b"=3D"[..],
        b',' => b"=2C",
        other => std::slice::from_ref(other),
    });
    escaped.flatten().copied().collect()
}
