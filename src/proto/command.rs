//! Commands to bytes: the only place that ends a command line, and each ends once.
//!
//! Nothing is checked here, because nothing needs to be: the types that stand in a [`Command`] cannot hold a control
//! character.

use std::{fmt, io::Write, net::IpAddr, ops::Range};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use crate::{Address, Error};

/// So much is gathered before it is written, in octets.
const FULL: usize = 64 * 1024;

/// What this client calls itself in EHLO: a domain or an address literal (RFC 5321 §4.1.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloName(Box<str>);

impl HelloName {
    /// A domain of letters, digits, hyphens and dots, or an address literal such as `[192.0.2.1]` or `[IPv6:::1]`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for anything else.
    pub fn new(text: &str) -> Result<HelloName, Error> {
        let text = text.trim_matches(' ');
        let label = |l: &str| {
            let inner = l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            !l.is_empty() && l.len() <= 63 && inner && !l.starts_with('-') && !l.ends_with('-')
        };
        let literal =
            text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).is_some_and(|inside| match inside
                .strip_prefix("IPv6:")
            {
                Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
                None => inside.parse::<std::net::Ipv4Addr>().is_ok(),
            });
        match literal || text.len() <= 255 && text.split('.').all(label) {
            true => Ok(HelloName(text.into())),
            false => Err(Error::Config(
                format!("{text:?} cannot be the name in EHLO: it is no domain and no address literal").into(),
            )),
        }
    }

    /// The address literal of an address (RFC 5321 §4.1.3).
    #[must_use]
    pub fn literal(address: IpAddr) -> HelloName {
        HelloName(match address.to_canonical() {
            IpAddr::V4(v4) => format!("[{v4}]").into(),
            IpAddr::V6(v6) => format!("[IPv6:{v6}]").into(),
        })
    }

    /// As it stands in EHLO.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The parameters of MAIL that this client uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MailParameters {
    /// SIZE: about how many octets the message has (RFC 1870).
    pub size: Option<u64>,
    /// SMTPUTF8: an address is not ASCII (RFC 6531).
    pub utf8: bool,
    /// BODY=8BITMIME: the message may have octets beyond ASCII (RFC 6152).
    pub eight_bit: bool,
}

/// One line to the server. `Debug` shows no secret.
#[derive(Clone, Copy)]
pub enum Command<'a> {
    /// EHLO, and whoever says it.
    Ehlo(&'a HelloName),
    /// LHLO: EHLO in LMTP (RFC 2033 §4.1).
    Lhlo(&'a HelloName),
    /// HELO, for servers that know no EHLO.
    Helo(&'a HelloName),
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH and its mechanism, perhaps with an initial response (RFC 4954).
    Auth(&'a str, Option<&'a [u8]>),
    /// The answer to a challenge of AUTH.
    Answer(&'a [u8]),
    /// `*`: no more of this AUTH.
    Cancel,
    /// MAIL FROM; no address is the null sender.
    Mail(Option<&'a Address>, MailParameters),
    /// RCPT TO.
    Rcpt(&'a Address),
    /// DATA.
    Data,
    /// The dot at the end of the data.
    Dot,
    /// RSET.
    Reset,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
}

/// Bytes on their way to the server, and how many replies they will bring. `Debug` shows none of the bytes.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// So much of `bytes` is written.
    at: usize,
    /// Where in the whole stream `bytes` begins, and up to where of it has been handed to a write.
    base: u64,
    offered: u64,
    /// Replies due: to what was offered, and to what has only been put here.
    due: usize,
    coming: usize,
    /// QUIT is among what was put here, and nobody waits for its reply.
    farewell: bool,
    /// What was put here since the log was told.
    said: Vec<Said>,
    content: u64,
}

#[derive(Debug)]
enum Said {
    /// Where a line stands in `bytes`, and whether that is only its beginning: the rest is secret.
    Line(Range<usize>, bool),
    Content(u64),
}

impl Outbox {
    /// Puts a command here; a reply to it will be due.
    pub fn put(&mut self, command: Command<'_>) {
        let start = self.bytes.len();
        if matches!(command, Command::Dot) {
            self.said.push(Said::Content(std::mem::take(&mut self.content)));
        }
        let secret = self.encode(command);
        let end = secret.unwrap_or(self.bytes.len());
        self.bytes.extend_from_slice(b"\r\n");
        self.said.push(Said::Line(start..end, secret.is_some()));
        self.coming += 1;
    }

    /// Puts QUIT here, and nobody waits for its reply.
    pub fn put_farewell(&mut self) {
        self.put(Command::Quit);
        self.coming -= 1;
        self.farewell = true;
    }

    /// Writes a command without its line end. Gives where its secret begins, if it has one.
    fn encode(&mut self, command: Command<'_>) -> Option<usize> {
        let out = &mut self.bytes;
        match command {
            Command::Ehlo(name) => line(out, &["EHLO ", &name.0]),
            Command::Lhlo(name) => line(out, &["LHLO ", &name.0]),
            Command::Helo(name) => line(out, &["HELO ", &name.0]),
            Command::StartTls => line(out, &["STARTTLS"]),
            Command::Auth(mechanism, None) => line(out, &["AUTH ", mechanism]),
            Command::Auth(mechanism, Some(initial)) => {
                line(out, &["AUTH ", mechanism, " "]);
                return Some(secret(out, initial, "=")); // an empty initial response (RFC 4954 §4)
            }
            Command::Answer(answer) => return Some(secret(out, answer, "")),
            Command::Cancel => line(out, &["*"]),
            Command::Mail(sender, parameters) => {
                line(out, &["MAIL FROM:<", sender.map_or("", Address::as_str), ">"]);
                if let Some(size) = parameters.size {
                    write!(out, " SIZE={size}").expect("a Vec takes all");
                }
                if parameters.utf8 {
                    line(out, &[" SMTPUTF8"]);
                }
                if parameters.eight_bit {
                    line(out, &[" BODY=8BITMIME"]);
                }
            }
            Command::Rcpt(recipient) => line(out, &["RCPT TO:<", recipient.as_str(), ">"]),
            Command::Data => line(out, &["DATA"]),
            Command::Dot => line(out, &["."]),
            Command::Reset => line(out, &["RSET"]),
            Command::Noop => line(out, &["NOOP"]),
            Command::Quit => line(out, &["QUIT"]),
        }
        None
    }

    /// The next reply is due without a command: the greeting.
    pub fn expect(&mut self) {
        self.due += 1;
    }

    /// Puts content here: `write` appends it.
    pub fn put_content<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let before = self.bytes.len();
        let done = write(&mut self.bytes);
        self.content += (self.bytes.len() - before) as u64;
        done
    }

    /// Whether there is enough to write, and no more should be put here before it is.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= FULL
    }

    /// What has to be written.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// The same, to be written now: from here on it may have left, whatever the write says.
    pub fn offer(&mut self) -> &[u8] {
        self.offered = self.end();
        self.due += std::mem::take(&mut self.coming);
        &self.bytes[self.at..]
    }

    /// So many octets of what was offered have left.
    pub fn written(&mut self, n: usize) {
        self.at += n;
        if self.at == self.bytes.len() {
            self.base = self.end();
            self.at = 0;
            self.bytes.clear();
        }
    }

    /// How many octets have left, ever.
    #[must_use]
    pub fn gone(&self) -> u64 {
        self.base + self.at as u64
    }

    /// How many octets were put here, ever.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// How many octets were ever offered: the rest has surely not left.
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Whether goodbye has been said: what comes behind the last reply that is due means nothing.
    #[must_use]
    pub fn said_farewell(&self) -> bool {
        self.farewell && self.unsent().is_empty()
    }

    /// How many replies are due to what was offered.
    #[must_use]
    pub fn due(&self) -> usize {
        self.due
    }

    /// A reply that was due has come.
    pub fn heard(&mut self) {
        self.due = self.due.saturating_sub(1);
    }

    /// Drops what is unsent: it never will be. How much was offered stays known.
    pub fn forget(&mut self) {
        self.base = self.gone();
        (self.bytes, self.said, self.at) = (Vec::new(), Vec::new(), 0);
    }

    /// Tells `log` every line put here since the last time, secrets masked, and content by its size. To be called
    /// before anything is written.
    pub fn tell(&mut self, mut log: impl FnMut(fmt::Arguments<'_>)) {
        for said in self.said.drain(..) {
            match said {
                Said::Content(octets) => log(format_args!("({octets} octets)")),
                Said::Line(line, secret) => {
                    let mask = if secret { "***" } else { "" };
                    log(format_args!("{}{mask}", String::from_utf8_lossy(&self.bytes[line])));
                }
            }
        }
    }
}

impl fmt::Debug for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Outbox::default();
        out.put(*self);
        let mut shown = Ok(());
        out.tell(|line| shown = f.write_fmt(line));
        shown
    }
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox")
            .field("unsent", &self.unsent().len())
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}

fn line(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        debug_assert!(!part.contains(char::is_control), "the types let it pass");
        out.extend_from_slice(part.as_bytes());
    }
}

/// Writes octets in base64, or what stands for none at all.
fn secret(out: &mut Vec<u8>, octets: &[u8], none: &str) -> usize {
    let start = out.len();
    match octets {
        [] => out.extend_from_slice(none.as_bytes()),
        _ => out.extend_from_slice(BASE64.encode(octets).as_bytes()),
    }
    start
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wire(command: Command<'_>) -> String {
        let mut out = Outbox::default();
        out.put(command);
        String::from_utf8(out.unsent().to_vec()).unwrap()
    }

    #[test]
    fn commands_are_written() {
        let (a, name) = (Address::new("a@b").unwrap(), HelloName::new("me.example").unwrap());
        let all = MailParameters { size: Some(7), utf8: true, eight_bit: true };
        for (command, expected) in [
            (Command::Ehlo(&name), "EHLO me.example\r\n"),
            (Command::Lhlo(&name), "LHLO me.example\r\n"),
            (Command::Mail(None, MailParameters::default()), "MAIL FROM:<>\r\n"),
            (Command::Mail(Some(&a), all), "MAIL FROM:<a@b> SIZE=7 SMTPUTF8 BODY=8BITMIME\r\n"),
            (Command::Rcpt(&a), "RCPT TO:<a@b>\r\n"),
            (Command::Auth("PLAIN", Some(b"\0u\0p")), "AUTH PLAIN AHUAcA==\r\n"),
            (Command::Auth("EXTERNAL", Some(b"")), "AUTH EXTERNAL =\r\n"),
            (Command::Auth("LOGIN", None), "AUTH LOGIN\r\n"),
            (Command::Answer(b""), "\r\n"),
            (Command::Dot, ".\r\n"),
        ] {
            assert_eq!(wire(command), expected);
        }
    }

    #[test]
    fn the_log_gets_no_secret() {
        let mut out = Outbox::default();
        out.put(Command::Auth("PLAIN", Some(b"\0u\0p")));
        out.put(Command::Answer(b"secret"));
        out.put_content(|out| out.extend_from_slice(b"hello\r\n"));
        out.put(Command::Dot);
        let mut told = Vec::new();
        out.tell(|line| told.push(line.to_string()));
        assert_eq!(told, ["AUTH PLAIN ***", "***", "(7 octets)", "."]);
        assert_eq!(format!("{:?}", Command::Auth("PLAIN", Some(b"\0u\0p"))), "AUTH PLAIN ***");
        assert_eq!(format!("{out:?}"), "Outbox { unsent: 41, due: 0, .. }");
    }

    #[test]
    fn replies_are_due_once_their_commands_are_offered() {
        let mut out = Outbox::default();
        out.put(Command::Noop);
        assert_eq!((out.due(), out.offered()), (0, 0));
        assert_eq!(out.offer(), b"NOOP\r\n");
        assert_eq!((out.due(), out.offered(), out.end()), (1, 6, 6));
        out.written(6);
        out.put_farewell();
        out.offer();
        assert_eq!((out.due(), out.offered()), (1, 12));
    }

    #[test]
    fn threat_23_a_name_for_ehlo_is_a_domain_or_a_literal() {
        for good in [
            "localhost",
            "mail.example.org",
            "[127.0.0.1]",
            "[IPv6:::1]",
            " me.example ",
            "xn--bcher-kva.test",
        ] {
            assert!(HelloName::new(good).is_ok(), "{good}");
        }
        for bad in
            ["", " ", "a b", "a\r\nMAIL FROM:<e@x>", "my_host", "bücher", "-a", "a..b", "[::1]", "[x]", "a."]
        {
            assert!(HelloName::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(HelloName::literal("::ffff:192.0.2.1".parse().unwrap()).as_str(), "[192.0.2.1]");
        assert_eq!(HelloName::literal("::1".parse().unwrap()).as_str(), "[IPv6:::1]");
    }

    proptest! {
        #[test]
        fn threat_20_any_string_makes_one_line_or_none(text in any::<String>(), octets in any::<Vec<u8>>()) {
            let mut lines = vec![wire(Command::Answer(&octets)), wire(Command::Auth("PLAIN", Some(&octets)))];
            if let Ok(address) = Address::new(&text) {
                lines.push(wire(Command::Rcpt(&address)));
                lines.push(wire(Command::Mail(Some(&address), MailParameters::default())));
            }
            if let Ok(name) = HelloName::new(&text) {
                lines.push(wire(Command::Ehlo(&name)));
            }
            for line in lines {
                prop_assert!(line.ends_with("\r\n"));
                prop_assert_eq!(line.matches(char::is_control).count(), 2);
            }
        }
    }
}
