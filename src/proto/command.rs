//! Turns commands into bytes. No other module adds the line ending of a command, and each command gets exactly one.
//!
//! Control characters need no check while encoding: the types in a [`Command`] exclude them, or they are filtered out.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr}; // plain values: `core` has no sockets
use std::{fmt, io::Write, ops::Range};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use crate::{Address, Error, MailOption, RcptOption};

const CRLF: &[u8] = b"\r\n";

/// Size at which the outbox should be written before more is added, in octets.
const FULL: usize = 64 * 1024;

/// Maximum length of a command line, in octets including its CRLF, except in a login. The options of MAIL and RCPT are
/// included. RFC 5321 §4.5.3.1.4 guarantees 512, and extensions guarantee more. This is the limit of Postfix; some
/// servers hang up on shorter lines.
const MAX_COMMAND_LINE: usize = 2_048;

/// The client's name in EHLO: a domain or an address literal (RFC 5321 §4.1.1.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelloName(Box<str>);

impl HelloName {
    /// Takes a domain of letters, digits, hyphens and dots, or an address literal such as `[192.0.2.1]` or
    /// `[IPv6:::1]`. A bare IP address becomes an address literal (RFC 5321 §4.1.3).
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for anything else, including a name whose last label has only digits: no domain has one
    /// (RFC 3696 §2), and servers refuse it.
    pub fn new(text: &str) -> Result<HelloName, Error> {
        let text = text.trim_matches(' ');
        if let Ok(address) = text.parse() {
            return Ok(HelloName::literal(address));
        }
        let is_number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
        let is_numeric = text.rsplit('.').next().is_some_and(is_number);
        let label = |l: &str| {
            let inner = l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
            !l.is_empty() && l.len() <= 63 && inner && !l.starts_with('-') && !l.ends_with('-')
        };
        let literal =
            text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).is_some_and(|inside| match inside
                .strip_prefix("IPv6:")
            {
                Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
                None => inside.parse::<Ipv4Addr>().is_ok(),
            });
        if literal || text.len() <= 255 && !is_numeric && text.split('.').all(label) {
            return Ok(HelloName(text.into()));
        }
        let why = "neither a domain nor an address literal";
        Err(Error::Config(format!("invalid name for EHLO: {text:?} is {why}").into()))
    }

    /// Creates the name from that of this machine, if it is a fully qualified domain name. `localhost.localdomain` and
    /// similar names are rejected, because they are the same on many machines.
    pub(crate) fn of_machine(name: &str) -> Option<HelloName> {
        let lower = name.to_ascii_lowercase();
        let (first, _) = lower.split_once('.')?;
        let (_, last) = lower.rsplit_once('.')?;
        let is_anybody = ["localhost", "localhost4", "localhost6"].contains(&first)
            || ["localhost", "localdomain", "localdomain4", "localdomain6"].contains(&last);
        HelloName::new(name).ok().filter(|name| !is_anybody && !name.0.starts_with('['))
    }

    /// Creates the address literal of an IP address (RFC 5321 §4.1.3).
    #[must_use]
    pub fn literal(address: IpAddr) -> HelloName {
        HelloName(match address.to_canonical() {
            IpAddr::V4(v4) => format!("[{v4}]").into(),
            IpAddr::V6(v6) => format!("[IPv6:{v6}]").into(),
        })
    }

    /// Returns the name as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A custom command line without its line ending. It is not empty, and contains no control characters. The log shows
/// it, so it must not contain a secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Line(Box<[u8]>);

impl Line {
    /// Creates a line from text, or from octets that need not be UTF-8.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the line is empty, contains a control character (CR, LF, NUL, TAB, DEL …), or has more than
    /// 2,046 octets.
    pub fn new(text: impl AsRef<[u8]>) -> Result<Line, Error> {
        // The error does not show the text, because it may contain a secret.
        let (text, bad) = (text.as_ref(), |why: &'static str| Err(Error::Config(why.into())));
        match text {
            _ if String::from_utf8_lossy(text).contains(char::is_control) => {
                bad("the command contains a control character (the line ending is added automatically)")
            }
            _ if text.iter().all(|b| *b == b' ') => bad("the command is empty"),
            _ if text.len() + CRLF.len() > MAX_COMMAND_LINE => bad("the command is longer than 2,046 octets"),
            _ => Ok(Line(text.into())),
        }
    }

    /// Checks the length of a line that was built from parts.
    pub(super) fn check(&self) -> Result<(), Error> {
        check_length(self.0.len() + CRLF.len())
    }

    /// Builds a line from parts that cannot hold a control character.
    pub(super) fn of(parts: &[&str]) -> Line {
        let mut text = Vec::new();
        line(&mut text, parts);
        Line(text.into())
    }

    /// Returns the first word, in upper case.
    #[must_use]
    pub(crate) fn verb(&self) -> String {
        let mut words = self.0.split(|b| *b == b' ').filter(|word| !word.is_empty());
        String::from_utf8_lossy(words.next().unwrap_or_default()).to_ascii_uppercase()
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// Parameters of MAIL, RCPT, VRFY or EXPN, as text: `KEYWORD` or `KEYWORD=VALUE` (RFC 5321 §4.1.2).
///
/// ```text
/// esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
/// esmtp-value   = 1*(%d33-60 / %d62-126 / UTF8-non-ascii)        (RFC 6531 §3.3)
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parameters(Vec<Box<str>>);

impl Parameters {
    /// Creates parameters, which are sent in this order.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if a parameter does not have this form, or if all of them exceed the limit for a command line.
    pub fn new<T: AsRef<str>>(parameters: impl IntoIterator<Item = T>) -> Result<Parameters, Error> {
        let (mut all, mut octets) = (Parameters::default(), CRLF.len());
        for parameter in parameters {
            let parameter = parameter.as_ref();
            if !is_parameter(parameter) {
                return Err(Error::Config(format!("invalid command parameter: {parameter:?}").into()));
            }
            octets = parameter.len().saturating_add(1 + octets);
            check_length(octets)?;
            all.0.push(parameter.into());
        }
        Ok(all)
    }

    /// Returns whether this parameter is present, ignoring case. If it has a value, the value is compared as well.
    #[must_use]
    pub(crate) fn contains(&self, parameter: &str) -> bool {
        self.0.iter().any(|own| own.eq_ignore_ascii_case(parameter))
    }

    /// Adds SMTPUTF8 (RFC 6531 §3.4) at the end, unless it is already present.
    #[must_use]
    pub(crate) fn with_utf8(mut self) -> Parameters {
        if !self.contains("SMTPUTF8") {
            self.0.push("SMTPUTF8".into());
        }
        self
    }

    /// Returns the parameters as they are sent, with a space before each.
    pub(super) fn text(&self) -> String {
        self.0.iter().flat_map(|parameter| [" ", parameter]).collect()
    }
}

fn is_parameter(text: &str) -> bool {
    let (keyword, value) = text.split_once('=').unwrap_or((text, "none"));
    let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let octet = |c: char| c.is_ascii_graphic() && c != '=' || !c.is_ascii() && !c.is_control();
    !keyword.is_empty()
        && !keyword.starts_with('-')
        && keyword.bytes().all(letter)
        && !value.is_empty()
        && value.chars().all(octet)
}

/// Parameters of MAIL.
///
/// The server must offer the extension of each. All are off by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MailParameters {
    pub(crate) size: Option<u64>,
    pub(crate) utf8: bool,
    pub(crate) eight_bit: bool,
    pub(crate) binary: bool,
}

impl MailParameters {
    /// Sets BODY=8BITMIME: the message may have non-ASCII octets (RFC 6152).
    #[must_use]
    pub fn eight_bit(self, eight_bit: bool) -> MailParameters {
        MailParameters { eight_bit, ..self }
    }

    /// Sets BODY=BINARYMIME: the message is sent as it is, with any octets and without a line ending added (RFC 3030
    /// §3). Requires [`Options::chunking`](super::Options::chunking).
    #[must_use]
    pub fn binary(self, binary: bool) -> MailParameters {
        MailParameters { binary, ..self }
    }
}

/// A line to be sent to the server. `Debug` shows no secret.
#[derive(Clone, Copy)]
pub(crate) enum Command<'a> {
    /// EHLO and the client's name.
    Ehlo(&'a HelloName),
    /// LHLO: EHLO in LMTP (RFC 2033 §4.1).
    Lhlo(&'a HelloName),
    /// HELO, for servers that do not know EHLO.
    Helo(&'a HelloName),
    /// STARTTLS (RFC 3207).
    StartTls,
    /// AUTH and its mechanism, optionally with an initial response (RFC 4954).
    Auth(&'a str, Option<&'a [u8]>),
    /// The answer to a challenge of AUTH.
    Answer(&'a [u8]),
    /// `*`, which cancels AUTH.
    Cancel,
    /// MAIL FROM. No address means the null sender.
    Mail(Option<&'a Address>, MailParameters, &'a [MailOption]),
    /// RCPT TO.
    Rcpt(&'a Address, &'a [RcptOption]),
    /// DATA.
    Data,
    /// BDAT: the number of octets that follow, and whether they are the last (RFC 3030 §2).
    Bdat(usize, bool),
    /// The dot at the end of the data.
    Dot,
    /// RSET.
    Reset,
    /// NOOP.
    Noop,
    /// QUIT.
    Quit,
    /// Any other command.
    Line(&'a Line),
}

/// Bytes to be sent to the server, and the number of replies expected to them. `Debug` does not show the bytes.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// Number of octets of `bytes` that have been written.
    at: usize,
    /// Offset of `bytes` in the whole stream, and the offset up to which the stream has been handed to a write.
    base: u64,
    offered: u64,
    /// Number of replies due to offered commands, and number due to commands that have not been offered yet.
    due: usize,
    coming: usize,
    /// Whether QUIT was added without waiting for its reply.
    farewell: bool,
    /// What was added since the log was last drained.
    said: Vec<Said>,
    content: u64,
}

#[derive(Debug)]
enum Said {
    /// The range of a line in `bytes`, and whether the rest of that line is secret.
    Line(Range<usize>, bool),
    Content(u64),
}

impl Outbox {
    /// Adds a command. A reply to it will be due.
    pub(crate) fn put(&mut self, command: Command<'_>) {
        let start = self.bytes.len();
        if matches!(command, Command::Dot) {
            self.said.push(Said::Content(std::mem::take(&mut self.content)));
        }
        let secret = encode(command, &mut self.bytes);
        let end = secret.unwrap_or(self.bytes.len());
        self.bytes.extend_from_slice(CRLF);
        self.said.push(Said::Line(start..end, secret.is_some()));
        self.coming = self.coming.saturating_add(1);
    }

    /// Adds QUIT. Nobody waits for its reply.
    pub(crate) fn put_farewell(&mut self) {
        self.put(Command::Quit);
        self.coming = self.coming.saturating_sub(1);
        self.farewell = true;
    }

    /// Expects a reply without a command, which is the greeting.
    pub(crate) fn expect(&mut self) {
        self.due = self.due.saturating_add(1);
    }

    /// Expects this number of further replies to the last command: LMTP answers the end of a message once for each
    /// recipient (RFC 2033 §4.2).
    pub(crate) fn expect_more(&mut self, replies: usize) {
        self.coming = self.coming.saturating_add(replies);
    }

    /// Adds content: `write` appends it, and must not change earlier octets.
    pub(crate) fn put_content<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let before = self.bytes.len();
        let done = write(&mut self.bytes);
        self.content = self.content.saturating_add(self.bytes.len().saturating_sub(before) as u64);
        done
    }

    /// Adds all of the content for DATA, and leaves `content` empty. Nothing is copied if the outbox is empty.
    pub(crate) fn put_whole(&mut self, content: &mut Vec<u8>) {
        self.content = self.content.saturating_add(content.len() as u64);
        if self.bytes.is_empty() {
            std::mem::swap(&mut self.bytes, content);
        } else {
            self.bytes.append(content);
        }
    }

    /// Adds a chunk after its BDAT command, and leaves `chunk` empty.
    pub(crate) fn put_chunk(&mut self, chunk: &mut Vec<u8>) {
        self.bytes.append(chunk);
    }

    /// Returns whether the outbox is full: it should be written before more is added.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() >= FULL
    }

    /// Returns the bytes that have not been written yet.
    #[must_use]
    pub fn unsent(&self) -> &[u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Returns the bytes to write now. From here on they count as possibly sent, whatever the write returns.
    pub fn offer(&mut self) -> &[u8] {
        self.offered = self.end();
        self.due = self.due.saturating_add(std::mem::take(&mut self.coming));
        self.unsent()
    }

    /// Reports that this number of offered octets was written. A number that is too large counts as all of them.
    pub fn written(&mut self, n: usize) {
        self.at = self.at.saturating_add(n).min(self.bytes.len());
        if self.at == self.bytes.len() {
            self.base = self.end();
            self.at = 0;
            self.bytes.clear();
            self.said.clear(); // a log that was not drained by now misses these lines
        }
    }

    /// Returns the total number of octets that were written.
    #[must_use]
    pub(crate) fn octets_written(&self) -> u64 {
        self.base + self.at as u64
    }

    /// Returns the total number of octets that were ever put into the outbox.
    #[must_use]
    pub(crate) fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// Returns the total number of octets that were ever [offered](Outbox::offer). The rest has certainly not been
    /// sent.
    #[must_use]
    pub fn octets_offered(&self) -> u64 {
        self.offered
    }

    /// Returns whether QUIT was written without waiting for its reply. Anything that arrives after the last due reply
    /// can then be ignored.
    #[must_use]
    pub fn said_farewell(&self) -> bool {
        self.farewell && self.unsent().is_empty()
    }

    /// Returns whether nothing waits to be written and no reply is due.
    #[must_use]
    pub(crate) fn is_quiet(&self) -> bool {
        self.unsent().is_empty() && self.due == 0
    }

    /// Returns the number of replies that are due to what was offered.
    #[must_use]
    pub fn due(&self) -> usize {
        self.due
    }

    /// Reports that a reply that was due has arrived.
    pub fn reply_arrived(&mut self) {
        self.due = self.due.saturating_sub(1);
    }

    /// Discards what has not been written. The number of offered octets remains known.
    pub(crate) fn forget(&mut self) {
        self.base = self.octets_written();
        (self.bytes, self.said, self.at) = (Vec::new(), Vec::new(), 0);
    }

    /// Passes every line that was added since the last call to `log`, with secrets masked. Content is reported by its
    /// size. Call it before writing.
    pub fn drain_log(&mut self, mut log: impl FnMut(fmt::Arguments<'_>)) {
        for said in self.said.drain(..) {
            match said {
                Said::Content(octets) => log(format_args!("({octets} octets)")),
                Said::Line(line, secret) => {
                    let mask = if secret { "***" } else { "" };
                    let line = self.bytes.get(line).unwrap_or_default();
                    log(format_args!("{}{mask}", String::from_utf8_lossy(line)));
                }
            }
        }
    }

    /// Drops the log without formatting it.
    pub(crate) fn discard_log(&mut self) {
        self.said.clear();
    }
}

impl fmt::Debug for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Outbox::default();
        out.put(*self);
        let mut shown = Ok(());
        out.drain_log(|line| shown = f.write_fmt(line));
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

/// Writes a command without its line ending. Returns where its secret begins, if it has one.
fn encode(command: Command<'_>, out: &mut Vec<u8>) -> Option<usize> {
    match command {
        Command::Ehlo(name) => line(out, &["EHLO ", &name.0]),
        Command::Lhlo(name) => line(out, &["LHLO ", &name.0]),
        Command::Helo(name) => line(out, &["HELO ", &name.0]),
        Command::StartTls => line(out, &["STARTTLS"]),
        Command::Auth(mechanism, initial) => {
            line(out, &["AUTH "]);
            out.extend(mechanism.bytes().filter(u8::is_ascii_graphic)); // its type allows control characters
            if let Some(initial) = initial {
                line(out, &[" "]);
                return Some(secret(out, initial, "=")); // an empty initial response (RFC 4954 §4)
            }
        }
        Command::Answer(answer) => return Some(secret(out, answer, "")),
        Command::Cancel => line(out, &["*"]),
        Command::Mail(sender, parameters, options) => {
            line(out, &["MAIL FROM:<", sender.map_or("", Address::as_str), ">"]);
            if let Some(size) = parameters.size {
                line(out, &[" SIZE="]);
                number(out, size);
            }
            options.iter().for_each(|option| write!(out, " {option}").expect("a Vec accepts all writes"));
            if parameters.utf8 {
                line(out, &[" SMTPUTF8"]);
            }
            if parameters.binary {
                line(out, &[" BODY=BINARYMIME"]);
            } else if parameters.eight_bit {
                line(out, &[" BODY=8BITMIME"]);
            }
        }
        Command::Rcpt(recipient, options) => {
            line(out, &["RCPT TO:<", recipient.as_str(), ">"]);
            options.iter().for_each(|option| write!(out, " {option}").expect("a Vec accepts all writes"));
        }
        Command::Data => line(out, &["DATA"]),
        Command::Bdat(octets, last) => {
            line(out, &["BDAT "]);
            number(out, octets as u64);
            line(out, &[if last { " LAST" } else { "" }]);
        }
        Command::Dot => line(out, &["."]),
        Command::Reset => line(out, &["RSET"]),
        Command::Noop => line(out, &["NOOP"]),
        Command::Quit => line(out, &["QUIT"]),
        Command::Line(line) => out.extend_from_slice(&line.0),
    }
    None
}

/// Checks the length of MAIL or RCPT.
///
/// # Errors
///
/// [`Error::Config`] if it is too long.
pub(super) fn check_line(command: Command<'_>) -> Result<(), Error> {
    match command {
        // Without options, these lines are never too long.
        Command::Mail(_, _, []) | Command::Rcpt(_, []) => Ok(()),
        _ => check_length(length(command)),
    }
}

/// Returns the length of a command in octets, with its line ending. Kept out of line, because few envelopes have
/// options.
#[cold]
fn length(command: Command<'_>) -> usize {
    let mut out = Outbox::default();
    out.put(command);
    out.unsent().len()
}

fn check_length(octets: usize) -> Result<(), Error> {
    if octets > MAX_COMMAND_LINE {
        return Err(Error::Config("the command with its options is longer than 2,048 octets".into()));
    }
    Ok(())
}

fn line(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        debug_assert!(!part.contains(char::is_control), "control character in a command");
        out.extend_from_slice(part.as_bytes());
    }
}

/// Writes a number in decimal. Every message needs one, and `format!` is slow.
fn number(out: &mut Vec<u8>, mut n: u64) {
    let mut digits = [b'0'; 20]; // as many digits as u64::MAX has
    let mut at = digits.len() - 1;
    while n >= 10 {
        digits[at] += (n % 10) as u8;
        n /= 10;
        at -= 1;
    }
    digits[at] += n as u8;
    out.extend_from_slice(&digits[at..]);
}

/// Writes octets in base64, or `none` if there are none. Returns where they begin.
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
    fn commands_are_formatted_as_smtp_lines() {
        let (a, name) = (Address::new("a@b").unwrap(), HelloName::new("me.example").unwrap());
        let all = MailParameters { size: Some(7), utf8: true, eight_bit: true, binary: false };
        for (command, expected) in [
            (Command::Ehlo(&name), "EHLO me.example\r\n"),
            (Command::Lhlo(&name), "LHLO me.example\r\n"),
            (Command::Mail(None, MailParameters::default(), &[]), "MAIL FROM:<>\r\n"),
            (Command::Mail(Some(&a), all, &[]), "MAIL FROM:<a@b> SIZE=7 SMTPUTF8 BODY=8BITMIME\r\n"),
            (Command::Rcpt(&a, &[]), "RCPT TO:<a@b>\r\n"),
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
    fn the_command_log_contains_no_secret() {
        let mut out = Outbox::default();
        out.put(Command::Auth("PLAIN", Some(b"\0u\0p")));
        out.put(Command::Answer(b"secret"));
        out.put_content(|out| out.extend_from_slice(b"hello\r\n"));
        out.put(Command::Dot);
        let mut told = Vec::new();
        out.drain_log(|line| told.push(line.to_string()));
        assert_eq!(told, ["AUTH PLAIN ***", "***", "(7 octets)", "."]);
        assert_eq!(format!("{:?}", Command::Auth("PLAIN", Some(b"\0u\0p"))), "AUTH PLAIN ***");
        assert_eq!(format!("{out:?}"), "Outbox { unsent: 41, due: 0, .. }");
    }

    #[test]
    fn replies_are_due_once_their_commands_are_offered() {
        let mut out = Outbox::default();
        out.put(Command::Noop);
        assert_eq!((out.due(), out.octets_offered()), (0, 0));
        assert_eq!(out.offer(), b"NOOP\r\n");
        assert_eq!((out.due(), out.octets_offered(), out.end()), (1, 6, 6));
        out.written(6);
        out.put_farewell();
        out.offer();
        assert_eq!((out.due(), out.octets_offered()), (1, 12));
    }

    #[test]
    fn the_outbox_is_quiet_once_everything_is_written_and_answered() {
        let mut out = Outbox::default();
        assert!(out.is_quiet());
        out.put(Command::Noop);
        assert!(!out.is_quiet(), "NOOP has to be written");
        let n = out.offer().len();
        out.written(n);
        assert!(!out.is_quiet(), "a reply is due");
        out.reply_arrived();
        assert!(out.is_quiet());
    }

    #[test]
    fn impossible_counts_do_not_overflow() {
        let mut out = Outbox::default();
        out.put(Command::Noop);
        out.expect_more(usize::MAX);
        out.expect_more(usize::MAX);
        out.put(Command::Noop);
        out.put_farewell();
        out.offer();
        out.expect();
        assert_eq!(out.due(), usize::MAX);
        out.written(usize::MAX);
        assert_eq!((out.unsent().len(), out.octets_written()), (0, out.end()));
        out.put(Command::Noop);
        out.put_content(Vec::clear);
        out.drain_log(|_| {});
        out.written(1);
        assert!(out.unsent().is_empty());
    }

    #[test]
    fn a_log_drained_too_late_omits_written_commands() {
        let mut out = Outbox::default();
        out.put(Command::Auth("PLAIN", Some(b"secret")));
        out.written(100);
        out.put(Command::Noop);
        let mut told = Vec::new();
        out.drain_log(|line| told.push(line.to_string()));
        assert_eq!(told, ["NOOP"]);
    }

    #[test]
    fn a_mechanism_name_cannot_end_the_command_line() {
        assert_eq!(wire(Command::Auth("PLAIN\r\nQUIT", None)), "AUTH PLAINQUIT\r\n");
    }

    #[test]
    fn the_farewell_counts_as_said_once_it_is_written() {
        let mut out = Outbox::default();
        assert!(!out.said_farewell());
        out.put_farewell();
        assert!(!out.said_farewell());
        let n = out.offer().len();
        out.written(n);
        assert!(out.said_farewell());
    }

    #[test]
    fn forgotten_commands_are_never_written() {
        let mut out = Outbox::default();
        out.put(Command::Noop);
        out.offer();
        out.written(2);
        out.forget();
        assert_eq!(
            (out.unsent(), out.octets_written(), out.end(), out.octets_offered()),
            (&b""[..], 2, 2, 6)
        );
    }

    // Threat 23.
    #[test]
    fn an_ehlo_name_is_a_domain_or_an_address_literal() {
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
        for numeric in ["12345", "10.0.0", "10.0.0.256", "1.2.3.4.5", "mail.example.25"] {
            assert!(HelloName::new(numeric).is_err(), "{numeric:?}");
        }
        for (address, literal) in
            [("10.0.0.1", "[10.0.0.1]"), ("::1", "[IPv6:::1]"), ("::ffff:192.0.2.1", "[192.0.2.1]")]
        {
            assert_eq!(HelloName::new(address).unwrap().as_str(), literal);
        }
        assert_eq!(HelloName::literal("::ffff:192.0.2.1".parse().unwrap()).as_str(), "[192.0.2.1]");
        assert_eq!(HelloName::literal("::1".parse().unwrap()).as_str(), "[IPv6:::1]");
    }

    #[test]
    fn only_a_fully_qualified_machine_name_is_used_for_ehlo() {
        for good in ["mail.example.org", "Mail-1.Example", "localhosts.example"] {
            assert_eq!(HelloName::of_machine(good).unwrap().as_str(), good);
        }
        for bad in [
            "localhost",
            "localhost.localdomain",
            "LOCALHOST.localdomain",
            "localhost6.localdomain6",
            "box.localdomain",
            "box.localhost",
            "localhost.example.org",
            "127.0.0.1",
            "10.0.0.1",
            "12345",
            "box",
            "web_1.proj",
            "mail.example.org.",
            "[127.0.0.1]",
            "host.7",
            "(none)",
            "",
        ] {
            assert_eq!(HelloName::of_machine(bad), None, "{bad:?}");
        }
    }

    // Behaviour 39.
    #[test]
    fn a_command_line_with_a_control_character_is_refused() {
        for bad in ["", "  ", "NOOP\r\n", "NOOP\r", "NOOP\n", "NO\0OP", "NOOP\tx", "NOOP\x7f", "NOOP \u{85}"]
        {
            assert!(matches!(Line::new(bad), Err(Error::Config(_))), "{bad:?}");
        }
        assert!(
            Line::new("x".repeat(MAX_COMMAND_LINE - 2)).is_ok()
                && Line::new("x".repeat(MAX_COMMAND_LINE - 1)).is_err()
        );
        assert_eq!(Line::new(b" xclient NAME=\xff").unwrap().verb(), "XCLIENT");
    }

    // Threat 22.
    #[test]
    fn only_well_formed_parameters_are_accepted() {
        for good in ["SMTPUTF8", "SIZE=10", "BODY=8BITMIME", "8X-y", "ORCPT=rfc822;a+3Db@c", "AUTH=<>", "X=ü"]
        {
            assert_eq!(Parameters::new([good]).unwrap().text(), format!(" {good}"));
        }
        for bad in [
            "",
            " ",
            "A B",
            "A=",
            "=B",
            "A=b=c",
            "A=b c",
            "-A",
            "A_B",
            "Ä",
            "A=\r",
            "A\r\nRCPT",
            "A=b\x7f",
            "A=\u{85}",
        ] {
            assert!(matches!(Parameters::new([bad]), Err(Error::Config(_))), "{bad:?}");
        }
        let parameter = |octets| format!("X={}", "y".repeat(octets - " X=\r\n".len()));
        assert!(
            Parameters::new([parameter(MAX_COMMAND_LINE)]).is_ok()
                && Parameters::new([parameter(MAX_COMMAND_LINE + 1)]).is_err()
        );
        let utf8 = Parameters::new(["smtputf8", "SIZE=1"]).unwrap().with_utf8();
        assert_eq!(utf8.text(), " smtputf8 SIZE=1", "SMTPUTF8 is not repeated");
    }

    proptest! {
        // Threat 20.
        #[test]
        fn any_string_makes_at_most_one_command_line(text in any::<String>(), octets in any::<Vec<u8>>()) {
            let mut lines = vec![wire(Command::Answer(&octets)), wire(Command::Auth("PLAIN", Some(&octets)))];
            if let Ok(address) = Address::new(&text) {
                lines.push(wire(Command::Rcpt(&address, &[])));
                lines.push(wire(Command::Mail(Some(&address), MailParameters::default(), &[])));
            }
            if let Ok(name) = HelloName::new(&text) {
                lines.push(wire(Command::Ehlo(&name)));
            }
            if let Ok(line) = Line::new(&text) {
                lines.push(wire(Command::Line(&line)));
            }
            if let Ok(parameters) = Parameters::new([&text]) {
                lines.push(wire(Command::Line(&Line::of(&["RCPT TO:<a@b>", &parameters.text()]))));
            }
            for line in lines {
                prop_assert!(line.ends_with("\r\n"));
                prop_assert_eq!(line.matches(char::is_control).count(), 2);
            }
        }
    }
}
