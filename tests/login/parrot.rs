//! A server that repeats the secret it knows, in every form, wherever a reply has room for it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::double::b64;

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

pub struct Parrot {
    port: u16,
    thread: JoinHandle<String>,
}

impl Parrot {
    /// Starts the server, for one connection.
    pub fn start(mechanism: &str, secret: &str, fate: Fate) -> Parrot {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mechanism, secret) = (mechanism.to_owned(), secret.to_owned());
        let thread = thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut session = match mechanism.ends_with("-PLUS") {
                #[cfg(any(feature = "native-tls", feature = "rustls"))]
                true => Session::new(crate::tls::acceptor("good").accept(socket).unwrap()),
                _ => Session::new(socket),
            };
            // The client may leave at any time.
            let _ = session.serve(&mechanism, &secret, fate);
            session.heard
        });
        Parrot { port, thread }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns what the client has sent.
    pub fn finish(self) -> String {
        self.thread.join().unwrap()
    }
}

trait Both: Read + Write + Send {}
impl<S: Read + Write + Send> Both for S {}

struct Session {
    stream: BufReader<Box<dyn Both>>,
    heard: String,
}

/// An error is the end of the connection, or of the session.
type Said = Result<(), Over>;
struct Over;

impl Session {
    fn new(stream: impl Both + 'static) -> Session {
        Session { stream: BufReader::new(Box::new(stream)), heard: String::new() }
    }

    fn say(&mut self, text: &str) -> Said {
        self.stream.get_mut().write_all(text.as_bytes()).map_err(|_| Over)
    }

    fn hear(&mut self) -> Result<String, Over> {
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(|_| Over)?;
        self.heard.push_str(&line);
        line.strip_suffix("\r\n").map(str::to_owned).ok_or(Over)
    }

    /// Sends a challenge, and reads the answer.
    fn ask(&mut self, challenge: impl AsRef<[u8]>) -> Result<String, Over> {
        self.say(&format!("334 {}\r\n", b64(challenge)))?;
        self.hear()
    }

    fn serve(&mut self, mechanism: &str, secret: &str, fate: Fate) -> Said {
        self.say("220 here\r\n")?;
        loop {
            let line = self.hear()?;
            match line.split(' ').next().unwrap_or_default() {
                "EHLO" => self.say(&format!("250-here\r\n250 AUTH {mechanism}\r\n"))?,
                "AUTH" => self.log_in(line.split(' ').nth(2), mechanism, secret, fate)?,
                "DATA" => {
                    self.say("354 go on\r\n")?;
                    while self.hear()? != "." {}
                    self.say(YES)?;
                }
                _ => self.say(YES)?,
            }
        }
    }

    fn log_in(&mut self, initial: Option<&str>, mechanism: &str, secret: &str, fate: Fate) -> Said {
        if fate == Fate::Challenged {
            let challenge = format!("{secret} {}", b64(secret));
            if self.ask(challenge)? != "*" {
                self.ask(secret)?;
            }
            return self.say(&echo(535, secret));
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
            Fate::Accepted => self.say(&echo(235, secret)),
            Fate::Refused if mechanism.contains("OAUTH") => {
                self.ask(format!(
                    "{{\"status\":\"401\",\"token\":\"{secret}\",\"again\":\"{}\"}}",
                    b64(secret)
                ))?;
                self.say(&echo(535, secret))
            }
            Fate::Refused | Fate::Challenged => self.say(&echo(535, secret)),
            Fate::RefusedForNow => self.say(&echo(454, secret)),
            Fate::Closing => {
                self.say(&echo(421, secret))?;
                Err(Over)
            }
            Fate::BrokenOff => {
                let echo = echo(535, secret);
                self.say(&echo[..echo.len() / 2])?;
                Err(Over)
            }
            Fate::Junk => {
                self.say(&format!("{secret} {}\r\n", echo(535, secret)))?;
                Err(Over)
            }
        }
    }
}

/// The server's side of SCRAM (RFC 5802 §3), which accepts any proof.
#[cfg(feature = "sasl")]
mod scram {
    use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
    use openssl::{hash::MessageDigest, pkcs5::pbkdf2_hmac, pkey::PKey, sign::Signer};

    use super::Over;

    fn mac(digest: MessageDigest, key: &[u8], text: &[u8]) -> Vec<u8> {
        let key = PKey::hmac(key).unwrap();
        let mut signer = Signer::new(digest, &key).unwrap();
        signer.sign_oneshot_to_vec(text).unwrap()
    }

    fn decoded(base64: &str) -> Result<String, Over> {
        let octets = BASE64.decode(base64).map_err(|_| Over)?;
        String::from_utf8(octets).map_err(|_| Over)
    }

    pub fn serve(
        name: &str,
        initial: &str,
        password: &str,
        mut ask: impl FnMut(String) -> Result<String, Over>,
        fail: bool,
    ) -> Result<(), Over> {
        let digest = match name {
            "SCRAM-SHA-1" => MessageDigest::sha1(),
            _ => MessageDigest::sha256(),
        };
        let first = decoded(initial)?;
        let bare = &first[first.find("n=").ok_or(Over)?..];
        let nonce = &bare[bare.find("r=").ok_or(Over)?..];
        let server_first = format!("{nonce}more,s=c2FsdA==,i=4096");
        let last = decoded(&ask(server_first.clone())?)?;
        let (unproved, _) = last.rsplit_once(",p=").ok_or(Over)?;
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
