//! A server's side of a login: any challenges to any mechanism.
//!
//! The first two octets choose the credentials and the connection. The rest is what the server says, cut by `~`: a
//! challenge, sent in base64; or behind a `^` a whole reply. `$` in a challenge stands for the last nonce of ours, so that
//! SCRAM comes to its second step.
#![no_main]

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use libfuzzer_sys::fuzz_target;
use postino::{
    Capabilities, Error,
    proto::{Auth, AuthOptions, Credentials, Dialogue, Inbox, Outbox, Want},
};
use postino_fuzz::{feed, has, is_safe_to_show};

const USER: &str = "u=s,e r";
const SECRET: &str = "pa55-w0rd";
const FRESH: &str = "fresh-t0ken";
/// All that there are for a password, and for a token.
const OFFER: &[u8] =
    b"250-me\r\n250 AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5 PLAIN LOGIN OAUTHBEARER \
    XOAUTH2 EXTERNAL ANONYMOUS\r\n";
const PASSWORD: [&str; 6] =
    ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"];
/// The longest line of a login (RFC 4954 §4.1): SCRAM has to say the server's nonce again.
const MAX_LINE: usize = 12_288;
/// More steps than this no login has: each mechanism answers 16 challenges at most.
const MAX_STEPS: usize = 20 * PASSWORD.len();

fuzz_target!(|input: &[u8]| {
    let [kind, connection, script @ ..] = input else { return };
    let credentials = match kind % 5 {
        0 | 1 => Credentials::new(USER, SECRET),
        2 => Credentials::token(USER, SECRET),
        3 => Credentials::token_later(USER),
        _ if kind & 0x80 == 0 => Credentials::external("someone"),
        _ => Credentials::anonymous("someone"),
    };
    // One of them alone, or all.
    let secret = match kind % 5 {
        0..3 => SECRET,
        3 => FRESH,
        _ => "", // no secret
    };
    let pinned = (kind % 5 == 1).then(|| PASSWORD[usize::from(kind / 5) % PASSWORD.len()]);
    let (encrypted, local) = (connection & 1 != 0, connection & 2 != 0);
    let mut options = AuthOptions::default()
        .encrypted(encrypted)
        .local(local)
        .channel_binding((connection & 4 != 0).then(|| vec![7; 32]))
        .tls_exporter((connection & 16 != 0).then(|| vec![8; 32]))
        .max_scram_iterations(4_100); // the fuzzer has no time
    if connection & 8 != 0 {
        options = options.server("mail.example.org", 587);
    }
    let scram_only = pinned.is_some_and(|name| name.starts_with("SCRAM"));
    if let Some(name) = pinned {
        options = options.mechanisms([name]);
    }
    let open = !encrypted && !local;
    let auth = Auth::new(credentials.expect("they are good"), options, &capabilities());
    let auth = match auth {
        Err(_) if scram_only => return, // there may be no channel to bind to
        auth => auth.expect("the server offers them all"),
    };
    Login { auth, secret, open, scram_only }.play(script);
});

fn capabilities() -> Capabilities {
    let mut inbox = Inbox::default();
    feed(&mut inbox, OFFER, usize::MAX);
    Capabilities::parse(inbox.next_reply().expect("it is one").expect("it is whole"))
}

/// A login, and what must hold of it.
struct Login {
    auth: Auth,
    /// What nobody may be shown.
    secret: &'static str,
    /// Others can listen.
    open: bool,
    scram_only: bool,
}

impl Login {
    fn play(mut self, script: &[u8]) {
        let mut says = script.split(|b| *b == b'~');
        let (mut inbox, mut out, mut wire) = (Inbox::default(), Outbox::default(), Vec::new());
        let (mut nonce, mut tokens) = (Vec::new(), 0);
        for step in 0.. {
            assert!(step < MAX_STEPS, "a login without end");
            let broke = match self.auth.fill(&mut out) {
                Want::Nothing => return self.end(None, &wire),
                Want::Secret => {
                    tokens += 1;
                    assert!(tokens <= 2, "a token is asked for twice at most");
                    self.auth.on_secret(FRESH).err()
                }
                Want::Reply => {
                    out.drain_log(|line| self.assert_hidden(line.to_string().as_bytes()));
                    let line = out.offer().to_vec();
                    out.written(line.len());
                    check_line(&line);
                    nonce = nonce_of(&line).unwrap_or(nonce);
                    wire.extend_from_slice(&line);
                    match says.next() {
                        Some(said) => self.hear(&mut inbox, &mut out, &reply(said, &nonce)),
                        None => Some(Error::Closed(self.auth.phase())),
                    }
                }
                want => panic!("nobody can give it {want:?}"),
            };
            self.assert_hidden(format!("{:?}", self.auth).as_bytes());
            if broke.is_some() {
                return self.end(broke, &wire);
            }
        }
    }

    /// Everything in these bytes that is a reply; what ended it.
    fn hear(&mut self, inbox: &mut Inbox, out: &mut Outbox, mut bytes: &[u8]) -> Option<Error> {
        loop {
            match inbox.next_reply() {
                Err(_) => return Some(Error::Closed(self.auth.phase())),
                Ok(None) if bytes.is_empty() => return None,
                Ok(None) => bytes = &bytes[feed(inbox, bytes, usize::MAX)..],
                Ok(Some(reply)) => {
                    self.assert_hidden(self.auth.keep(reply).raw());
                    if out.due() == 0 {
                        return Some(self.auth.on_early(reply));
                    }
                    out.reply_arrived();
                    if let Err(error) = self.auth.on_reply(reply, out) {
                        return Some(error);
                    }
                }
            }
        }
    }

    fn end(self, broke: Option<Error>, wire: &[u8]) {
        let Login { auth, secret, open, scram_only } = self;
        let result = auth.into_result(broke);
        assert!(result.is_err() || !scram_only, "a server that cannot know the password was believed");
        if let Err(error) = &result {
            assert!(is_safe_to_show(&error.to_string()), "{error:?}");
            for text in [error.to_string(), format!("{error:?}")] {
                assert!(!has(text.as_bytes(), secret.as_bytes()), "a secret in an error: {text}");
            }
            if let Error::Auth { reply: Some(reply), .. } = error {
                assert!(reply.code() >= 400);
            }
        }
        // Where others can listen, what shows the password follows nothing that does not.
        let mut lines = wire.split(|b| *b == b'\n').filter(|line| line.starts_with(b"AUTH "));
        let clear = |line: &[u8]| line.starts_with(b"AUTH PLAIN") || line.starts_with(b"AUTH LOGIN");
        if open && lines.next().is_some_and(|line| !clear(line)) {
            assert!(!lines.any(clear), "a downgrade");
        }
    }

    /// Also not where the server has repeated it.
    fn assert_hidden(&self, shown: &[u8]) {
        for secret in [self.secret, &BASE64.encode(self.secret)] {
            assert!(!has(shown, secret.as_bytes()), "a secret is shown: {}", shown.escape_ascii());
        }
    }
}

/// What the server says.
fn reply(said: &[u8], nonce: &[u8]) -> Vec<u8> {
    if let Some(raw) = said.strip_prefix(b"^") {
        return [raw, b"\r\n"].concat();
    }
    let challenge: Vec<u8> = said.split(|b| *b == b'$').collect::<Vec<_>>().join(nonce);
    format!("334 {}\r\n", BASE64.encode(challenge)).into_bytes()
}

fn check_line(line: &[u8]) {
    if line.is_empty() {
        return; // it waits for the rest of a reply
    }
    let text = line.strip_suffix(b"\r\n").expect("a line has an end");
    assert!(text.iter().all(|b| b.is_ascii_graphic() || *b == b' '), "more than one line");
    assert!(line.len() <= MAX_LINE, "a line of {} octets", line.len());
    if text.starts_with(b"AUTH ") {
        assert!(line.len() <= 512);
    }
}

/// Our nonce in the first message of SCRAM.
fn nonce_of(line: &[u8]) -> Option<Vec<u8>> {
    let word = line.trim_ascii_end().rsplit(|b| *b == b' ').next()?;
    let message = BASE64.decode(word).ok()?;
    let at = message.windows(3).position(|window| window == b",r=")?;
    let nonce = &message[at + 3..];
    Some(nonce.split(|b| *b == b',').next().unwrap_or_default().to_vec())
}
