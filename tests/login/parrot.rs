//! What a server says to a login, if it repeats the secret in every form, wherever a reply has room for it.

use crate::{
    b64,
    support::{Peer, Server},
};

pub const USER: &str = "carol";
/// The reply to everything outside of AUTH.
const YES: &str = "250 ok\r\n";

/// The result of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Accepted,
    Refused,
    RefusedForNow,
    /// 421.
    Closing,
    /// A challenge full of secrets, where another may be due, and then a refusal.
    Challenged,
    /// The connection ends in the middle of a reply.
    BrokenOff,
    /// Octets that are not a reply.
    Junk,
}

pub const FATES: [Fate; 7] = [
    Fate::Accepted,
    Fate::Refused,
    Fate::RefusedForNow,
    Fate::Closing,
    Fate::Challenged,
    Fate::BrokenOff,
    Fate::Junk,
];

/// The forms in which a secret must never be seen: as it is, in hexadecimal, in base64 at each of the three offsets
/// within more base64, and in what the mechanisms make of it.
pub fn forms(secret: &str) -> Vec<String> {
    let hex: String = secret.bytes().map(|octet| format!("{octet:02x}")).collect();
    let mut forms = vec![secret.to_owned(), hex.to_uppercase(), hex];
    for before in 0..3 {
        let base64 = b64([&b"xx"[..before], secret.as_bytes()].concat());
        // Its first and its last octets share letters with their neighbours.
        let first = (before * 8).div_ceil(6);
        let last = (before + secret.len()) * 8 / 6;
        forms.push(base64[first..last].to_owned());
    }
    forms.extend([format!("\0{USER}\0{secret}"), xoauth2(secret)].map(b64));
    forms
}

fn xoauth2(token: &str) -> String {
    format!("user={USER}\x01auth=Bearer {token}\x01\x01")
}

/// Returns all of them in one reply.
fn echo(code: u16, secret: &str) -> String {
    let mut lines: Vec<String> = forms(secret);
    for around in ["", "x", "xx"] {
        let longer = b64(format!("{around}{secret}{around}"));
        lines.extend([format!("<{longer}>"), longer.trim_end_matches('=').to_owned(), longer]);
    }
    lines.push(b64(format!("[{}]", b64(secret))));
    lines.push(format!("{{\"password\":\"{secret}\",\"said\":\"{}\"}}", b64(format!("\0{USER}\0{secret}"))));
    let lines: String = lines.iter().map(|line| format!("{code}-you said {line}\r\n")).collect();
    format!("{lines}{code} and that was {secret}\r\n")
}

/// Returns a server for one connection, with this outcome of a login.
pub fn parrot(mechanism: &str, secret: &str, fate: Fate) -> Server {
    let (mechanism, secret) = (mechanism.to_owned(), secret.to_owned());
    Server::running(move |peer| {
        peer.may_leave = true;
        if mechanism.ends_with("-PLUS") {
            peer.play("-- tls good");
        }
        let mut parrot = Parrot { peer, mechanism: &mechanism, secret: &secret, fate };
        if parrot.serve().is_err() {
            parrot.peer.play("-- close");
        }
    })
}

/// The server has ended the connection.
struct Closed;

struct Parrot<'a> {
    peer: &'a mut Peer,
    mechanism: &'a str,
    secret: &'a str,
    fate: Fate,
}

impl Parrot<'_> {
    fn line(&mut self) -> Option<String> {
        let line = String::from_utf8(self.peer.line()?).unwrap();
        line.strip_suffix("\r\n").map(str::to_owned)
    }

    /// Sends a challenge, and reads the answer.
    fn ask(&mut self, challenge: impl AsRef<[u8]>) -> Result<String, Closed> {
        self.peer.say(format!("334 {}\r\n", b64(challenge)));
        self.line().ok_or(Closed)
    }

    /// Answers until the client leaves.
    fn serve(&mut self) -> Result<(), Closed> {
        self.peer.say("220 here\r\n");
        while let Some(line) = self.line() {
            match line.split(' ').next().unwrap_or_default() {
                "EHLO" => self.peer.say(format!("250-here\r\n250 AUTH {}\r\n", self.mechanism)),
                "AUTH" => self.log_in(line.split(' ').nth(2))?,
                "DATA" => {
                    self.peer.say("354 go on\r\n");
                    self.peer.body();
                    self.peer.say(YES);
                }
                _ => self.peer.say(YES),
            }
        }
        Ok(())
    }

    fn log_in(&mut self, initial: Option<&str>) -> Result<(), Closed> {
        let (mechanism, secret, fate) = (self.mechanism, self.secret, self.fate);
        if fate == Fate::Challenged {
            let challenge = format!("{secret} {}", b64(secret));
            if self.ask(challenge)? != "*" {
                self.ask(secret)?;
            }
            self.peer.say(echo(535, secret));
            return Ok(());
        }
        // Half of a login is enough: its reports are the same as those of a whole one.
        match (mechanism, initial) {
            ("LOGIN", _) => {
                self.ask("Username:")?;
                self.ask("Password:")?;
            }
            ("CRAM-MD5", _) => drop(self.ask("<1.2@here>")?),
            (_, None) => drop(self.ask("")?),
            #[cfg(feature = "sasl")]
            (scram, Some(initial)) if scram.starts_with("SCRAM") => {
                let fail = fate != Fate::Accepted;
                scram::serve(scram, initial, secret, |challenge| self.ask(challenge), fail)?;
            }
            _ => {}
        }
        match fate {
            Fate::Accepted => self.peer.say(echo(235, secret)),
            Fate::Refused if mechanism.contains("OAUTH") => {
                self.ask(format!(
                    "{{\"status\":\"401\",\"token\":\"{secret}\",\"again\":\"{}\"}}",
                    b64(secret)
                ))?;
                self.peer.say(echo(535, secret));
            }
            Fate::Refused | Fate::Challenged => self.peer.say(echo(535, secret)),
            Fate::RefusedForNow => self.peer.say(echo(454, secret)),
            Fate::Closing => {
                self.peer.say(echo(421, secret));
                return Err(Closed);
            }
            Fate::BrokenOff => {
                let echo = echo(535, secret);
                self.peer.say(&echo[..echo.len() / 2]);
                return Err(Closed);
            }
            Fate::Junk => {
                self.peer.say(format!("{secret} {}\r\n", echo(535, secret)));
                return Err(Closed);
            }
        }
        Ok(())
    }
}

/// The server's side of SCRAM (RFC 5802 §3), which accepts any proof.
#[cfg(feature = "sasl")]
mod scram {
    use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
    use openssl::{hash::MessageDigest, pkcs5::pbkdf2_hmac, pkey::PKey, sign::Signer};

    use super::Closed;

    fn mac(digest: MessageDigest, key: &[u8], text: &[u8]) -> Vec<u8> {
        let key = PKey::hmac(key).unwrap();
        let mut signer = Signer::new(digest, &key).unwrap();
        signer.sign_oneshot_to_vec(text).unwrap()
    }

    fn decoded(base64: &str) -> Result<String, Closed> {
        let octets = BASE64.decode(base64).map_err(|_| Closed)?;
        String::from_utf8(octets).map_err(|_| Closed)
    }

    pub fn serve(
        name: &str,
        initial: &str,
        password: &str,
        mut ask: impl FnMut(String) -> Result<String, Closed>,
        fail: bool,
    ) -> Result<(), Closed> {
        let digest = match name {
            "SCRAM-SHA-1" => MessageDigest::sha1(),
            _ => MessageDigest::sha256(),
        };
        let first = decoded(initial)?;
        let bare = &first[first.find("n=").ok_or(Closed)?..];
        let nonce = &bare[bare.find("r=").ok_or(Closed)?..];
        let server_first = format!("{nonce}more,s=c2FsdA==,i=4096");
        let last = decoded(&ask(server_first.clone())?)?;
        let (unproved, _) = last.rsplit_once(",p=").ok_or(Closed)?;
        let mut salted = vec![0; digest.size()];
        pbkdf2_hmac(password.as_bytes(), b"salt", 4096, digest, &mut salted).unwrap();
        let message = format!("{bare},{server_first},{unproved}");
        let signature = mac(digest, &mac(digest, &salted, b"Server Key"), message.as_bytes());
        if !fail {
            ask(format!("v={}", BASE64.encode(signature)))?;
        }
        Ok(())
    }
}
