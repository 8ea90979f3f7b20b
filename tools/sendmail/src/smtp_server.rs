//! `-bs`: a small SMTP server on standard input and output, for programs that hand over their mail in this way.
//!
//! Each message is sent to the relay before its final dot is answered, so the reply says what happened to it. Since one
//! reply is for all recipients, a message is sent to all of them or to none.

use std::{
    io::{self, Read, Write},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use postino::Address;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Maximum length of a command, in octets, including its line ending (RFC 5321 §4.5.3.1.4 requires 512).
const MAX_COMMAND: usize = 2048;
/// Maximum number of recipients of a message.
const MAX_RECIPIENTS: usize = 1000;
/// Maximum size of a message, in octets. It is kept in memory.
const MAX_MESSAGE: usize = 32 * 1024 * 1024;
/// Maximum number of commands in a session that fail.
const MAX_ERRORS: u32 = 20;
/// How long a command may take to arrive (RFC 5321 §4.5.3.2.7).
const COMMAND_LIMIT: Duration = Duration::from_secs(5 * 60);
/// How long a message may take to arrive.
const MESSAGE_LIMIT: Duration = Duration::from_secs(30 * 60);

/// The limits of a session.
#[derive(Clone, Copy)]
pub struct Limits {
    pub command: usize,
    pub recipients: usize,
    pub message: usize,
    pub errors: u32,
    pub command_time: Duration,
    pub message_time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            command: MAX_COMMAND,
            recipients: MAX_RECIPIENTS,
            message: MAX_MESSAGE,
            errors: MAX_ERRORS,
            command_time: COMMAND_LIMIT,
            message_time: MESSAGE_LIMIT,
        }
    }
}

/// A message that was handed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Submission {
    /// Empty for the null sender.
    pub sender: String,
    pub recipients: Vec<String>,
    pub content: Vec<u8>,
}

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// QUIT, or the end of the input between messages.
    Done,
    /// The input ended, or nothing arrived in time, before a message was complete.
    Aborted,
}

/// Serves one session. `submit` sends a message and returns the reply to its final dot.
pub fn serve(
    input: impl Input,
    output: impl Write,
    name: &str,
    limits: Limits,
    submit: impl FnMut(Submission) -> String,
) -> io::Result<End> {
    let lines = Lines { input, buffer: Vec::new(), start: 0 };
    Session { lines, output, name, limits, submit, greeted: false, transaction: None, errors: 0 }.run()
}

/// Input with a limit for waiting.
pub trait Input {
    /// Reads octets. The error is [`TimedOut`](io::ErrorKind::TimedOut) if none arrive in time.
    fn read(&mut self, room: &mut [u8], until: Instant) -> io::Result<usize>;
}

/// Standard input.
pub struct Stdin;

impl Input for Stdin {
    fn read(&mut self, room: &mut [u8], until: Instant) -> io::Result<usize> {
        let stdin = io::stdin();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let limit = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
            match poll(&mut [PollFd::new(&stdin.as_fd(), PollFlags::IN)], Some(&limit)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return stdin.lock().read(room),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// A line, or the reason why no line could be read.
enum Line {
    /// Its octets with the line ending.
    Text(Vec<u8>),
    /// It was skipped. The value says whether it ended with CRLF.
    TooLong(bool),
    End,
    TimedOut,
}

/// Reads lines.
struct Lines<I> {
    input: I,
    buffer: Vec<u8>,
    /// The first octet in the buffer that was not taken.
    start: usize,
}

impl<I: Input> Lines<I> {
    /// Reads the next line. A line that is longer than the limit is skipped.
    fn next(&mut self, limit: usize, until: Instant) -> io::Result<Line> {
        let (mut is_too_long, mut searched) = (false, 0);
        loop {
            let rest = &self.buffer[self.start..];
            if let Some(at) = rest[searched..].iter().position(|octet| *octet == b'\n') {
                let end = searched + at + 1;
                let line = &rest[..end];
                let line = if is_too_long || end > limit {
                    Line::TooLong(line.ends_with(b"\r\n"))
                } else {
                    Line::Text(line.to_vec())
                };
                self.start += end;
                return Ok(line);
            }
            searched = rest.len();
            if searched > limit {
                is_too_long = true;
                self.start = self.buffer.len() - 1; // the last octet can be the CR of the line ending
                searched = 1;
            }
            match self.fill(until) {
                Ok(0) => return Ok(Line::End),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::TimedOut => return Ok(Line::TimedOut),
                Err(e) => return Err(e),
            }
        }
    }

    fn fill(&mut self, until: Instant) -> io::Result<usize> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let mut room = [0; 16 * 1024];
        let length = self.input.read(&mut room, until)?;
        self.buffer.extend_from_slice(&room[..length]);
        Ok(length)
    }
}

struct Session<'n, I, O, S> {
    lines: Lines<I>,
    output: O,
    name: &'n str,
    limits: Limits,
    submit: S,
    /// Whether HELO or EHLO was accepted.
    greeted: bool,
    transaction: Option<Submission>,
    errors: u32,
}

impl<I: Input, O: Write, S: FnMut(Submission) -> String> Session<'_, I, O, S> {
    fn run(&mut self) -> io::Result<End> {
        self.reply(&format!("220 {} ESMTP postino-sendmail", self.name))?;
        loop {
            let until = Instant::now() + self.limits.command_time;
            let line = match self.lines.next(self.limits.command, until)? {
                Line::Text(line) => line,
                Line::TooLong(_) => {
                    self.reply("500 5.5.2 the line is too long")?;
                    continue;
                }
                Line::End if self.transaction.is_none() => return Ok(End::Done),
                Line::End => return Ok(End::Aborted),
                Line::TimedOut => {
                    self.reply("421 4.4.2 timed out waiting for a command")?;
                    return Ok(End::Aborted);
                }
            };
            let crlf = line.ends_with(b"\r\n");
            let text = String::from_utf8_lossy(line.trim_ascii_end()).into_owned();
            let (verb, argument) = text.split_once(' ').unwrap_or((&text, ""));
            match verb.to_ascii_uppercase().as_str() {
                "QUIT" => {
                    self.reply("221 2.0.0 Bye")?;
                    return Ok(End::Done);
                }
                "DATA" => {
                    if let Some(end) = self.data(crlf)? {
                        return Ok(end);
                    }
                }
                verb => {
                    let reply = self.command(verb, argument.trim());
                    self.reply(&reply)?;
                }
            }
            if self.errors > self.limits.errors {
                self.reply("421 4.7.0 too many errors")?;
                return Ok(End::Aborted);
            }
        }
    }

    fn reply(&mut self, text: &str) -> io::Result<()> {
        if text.starts_with('5') {
            self.errors += 1;
        }
        self.output.write_all(format!("{text}\r\n").as_bytes())?;
        self.output.flush()
    }

    fn command(&mut self, verb: &str, argument: &str) -> String {
        match verb {
            "EHLO" | "LHLO" | "HELO" if argument.is_empty() => "501 5.5.4 a name is missing".into(),
            "EHLO" => {
                (self.greeted, self.transaction) = (true, None);
                let Limits { message, .. } = self.limits;
                format!(
                    "250-{}\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE {message}",
                    self.name
                )
            }
            "HELO" => {
                (self.greeted, self.transaction) = (true, None);
                format!("250 {}", self.name)
            }
            "MAIL" => self.mail(argument).unwrap_or_else(|refusal| refusal),
            "RCPT" => self.rcpt(argument).unwrap_or_else(|refusal| refusal),
            "RSET" => {
                self.transaction = None;
                "250 2.0.0 OK".into()
            }
            "NOOP" => "250 2.0.0 OK".into(),
            "VRFY" => "252 2.1.5 send the message to find out".into(),
            "HELP" => "214 2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP VRFY QUIT".into(),
            "EXPN" | "ETRN" | "TURN" | "AUTH" | "STARTTLS" | "BDAT" => "502 5.5.1 not supported".into(),
            _ => "500 5.5.2 unknown command".into(),
        }
    }

    fn mail(&mut self, argument: &str) -> Result<String, String> {
        if !self.greeted {
            return Err("503 5.5.1 send EHLO or HELO first".into());
        }
        if self.transaction.is_some() {
            return Err("503 5.5.1 the transaction has begun already".into());
        }
        let (sender, parameters) = path(argument, "FROM:").ok_or("501 5.5.4 expected MAIL FROM:<address>")?;
        for parameter in parameters.split_ascii_whitespace() {
            self.check_parameter(parameter)?;
        }
        if !sender.is_empty() {
            check(sender)?;
        }
        self.transaction = Some(Submission { sender: sender.to_owned(), ..Submission::default() });
        Ok("250 2.1.0 OK".into())
    }

    fn check_parameter(&self, parameter: &str) -> Result<(), String> {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match (name.to_ascii_uppercase().as_str(), value.to_ascii_uppercase().as_str()) {
            ("BODY", "7BIT" | "8BITMIME") => Ok(()),
            ("SIZE", size) => match size.parse::<u64>() {
                Ok(size) if size <= self.limits.message as u64 => Ok(()),
                Ok(_) => Err(format!("552 5.3.4 the message is larger than {} octets", self.limits.message)),
                Err(_) => Err("501 5.5.4 invalid SIZE".into()),
            },
            _ => Err("555 5.5.4 unknown parameter".into()),
        }
    }

    fn rcpt(&mut self, argument: &str) -> Result<String, String> {
        let transaction = self.transaction.as_mut().ok_or("503 5.5.1 send MAIL first")?;
        let (recipient, parameters) = path(argument, "TO:").ok_or("501 5.5.4 expected RCPT TO:<address>")?;
        if !parameters.is_empty() {
            return Err("555 5.5.4 unknown parameter".into());
        }
        check(recipient)?;
        if transaction.recipients.len() >= self.limits.recipients {
            return Err("452 4.5.3 too many recipients".into());
        }
        transaction.recipients.push(recipient.to_owned());
        Ok("250 2.1.5 OK".into())
    }

    /// Receives a message and submits it. Returns the end of the session if the message is not complete.
    ///
    /// A client that ends its commands with a bare LF may end its message in the same way. Otherwise only CRLF counts,
    /// so that text with a bare LF cannot end the message early.
    fn data(&mut self, crlf: bool) -> io::Result<Option<End>> {
        match &self.transaction {
            None => return self.reply("503 5.5.1 send MAIL first").map(|()| None),
            Some(transaction) if transaction.recipients.is_empty() => {
                return self.reply("503 5.5.1 no valid recipient").map(|()| None);
            }
            Some(_) => {}
        }
        self.reply("354 end with a line that contains only a dot")?;
        let content = match self.content(crlf)? {
            Ok(content) => content,
            Err(end) => return Ok(Some(end)),
        };
        let Some(transaction) = self.transaction.take() else { return Ok(None) };
        let reply = match content {
            Some(content) => (self.submit)(Submission { content, ..transaction }),
            None => format!("552 5.3.4 the message is larger than {} octets", self.limits.message),
        };
        self.reply(&one_line(&reply))?;
        Ok(None)
    }

    /// Reads the content up to the final dot. `Ok(None)` if it is too large.
    fn content(&mut self, crlf: bool) -> io::Result<Result<Option<Vec<u8>>, End>> {
        let until = Instant::now() + self.limits.message_time;
        let (mut content, mut is_too_large, mut is_line_start) = (Vec::new(), false, true);
        loop {
            let line = match self.lines.next(self.limits.message, until)? {
                Line::Text(line) => line,
                Line::TooLong(ends_with_crlf) => {
                    (is_too_large, is_line_start) = (true, ends_with_crlf || !crlf);
                    content = Vec::new();
                    continue;
                }
                Line::End => return Ok(Err(End::Aborted)),
                Line::TimedOut => {
                    self.reply("421 4.4.2 timed out waiting for the message")?;
                    return Ok(Err(End::Aborted));
                }
            };
            if is_line_start && (line == b".\r\n" || !crlf && line == b".\n") {
                return Ok(Ok((!is_too_large).then_some(content)));
            }
            let text = if is_line_start && line[0] == b'.' { &line[1..] } else { &line };
            is_line_start = line.ends_with(b"\r\n") || !crlf;
            if content.len() + text.len() > self.limits.message {
                is_too_large = true;
                content = Vec::new();
            }
            if !is_too_large {
                content.extend_from_slice(text);
            }
        }
    }
}

/// Reads `FROM:<address> PARAMETERS`. The angle brackets may be missing.
fn path<'a>(argument: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let rest = argument
        .get(keyword.len()..)
        .filter(|_| argument.as_bytes()[..keyword.len()].eq_ignore_ascii_case(keyword.as_bytes()))?;
    let rest = rest.trim_start();
    let Some(inside) = rest.strip_prefix('<') else {
        let (address, parameters) = rest.split_once(' ').unwrap_or((rest, ""));
        return (!address.is_empty()).then_some((address, parameters.trim()));
    };
    let (mut quoted, mut escaped) = (false, false);
    let end = inside.char_indices().find_map(|(at, c)| {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => return Some(at),
            _ => {}
        }
        None
    })?;
    Some((&inside[..end], inside[end + 1..].trim()))
}

fn check(address: &str) -> Result<(), String> {
    match Address::new(address) {
        Ok(_) => Ok(()),
        Err(e) => Err(one_line(&format!("553 5.1.3 {e}"))),
    }
}

/// Makes text fit into one line of a reply.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Input that arrives in pieces of one size, and then ends or is late.
    struct Pieces {
        octets: Vec<u8>,
        size: usize,
        is_late: bool,
    }

    impl Input for Pieces {
        fn read(&mut self, room: &mut [u8], _: Instant) -> io::Result<usize> {
            if self.octets.is_empty() && self.is_late {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let length = self.octets.len().min(self.size);
            room[..length].copy_from_slice(&self.octets[..length]);
            self.octets.drain(..length);
            Ok(length)
        }
    }

    struct Ended {
        replies: Vec<String>,
        got: Vec<Submission>,
        end: End,
    }

    fn session(text: &[u8], limits: Limits) -> Ended {
        let mut results = Vec::new();
        for size in [1, 7, 16 * 1024] {
            let (mut output, mut got) = (Vec::new(), Vec::new());
            let input = Pieces { octets: text.to_vec(), size, is_late: false };
            let end = serve(input, &mut output, "host", limits, |submission| {
                got.push(submission);
                "250 2.0.0 sent\r\n250 evil".to_owned()
            });
            let replies =
                String::from_utf8(output).unwrap().split_terminator("\r\n").map(str::to_owned).collect();
            results.push(Ended { replies, got, end: end.unwrap() });
        }
        for other in &results[1..] {
            assert_eq!((&other.replies, &other.got), (&results[0].replies, &results[0].got));
        }
        results.swap_remove(0)
    }

    fn codes(ended: &Ended) -> Vec<&str> {
        ended.replies.iter().map(|reply| &reply[..3]).collect()
    }

    #[test]
    fn a_message_is_handed_over() {
        let ended = session(
            b"EHLO me\r\nMAIL FROM:<a@x> BODY=8BITMIME SIZE=9\r\nrcpt to: <b@y>\r\nRCPT TO:c@z\r\nDATA\r\n\
                A: 1\r\n\r\n..x\r\n\xff\r\n.y\n.\nz\r\n.\r\nQUIT\r\n",
            Limits::default(),
        );
        assert_eq!(
            codes(&ended),
            ["220", "250", "250", "250", "250", "250", "250", "250", "250", "354", "250", "221"]
        );
        assert_eq!(ended.replies[10], "250 2.0.0 sent  250 evil", "a reply is one line");
        let expected = Submission {
            sender: "a@x".into(),
            recipients: vec!["b@y".into(), "c@z".into()],
            content: b"A: 1\r\n\r\n.x\r\n\xff\r\ny\n.\nz\r\n".to_vec(),
        };
        assert_eq!((ended.got, ended.end), (vec![expected], End::Done));
    }

    #[test]
    fn a_client_may_use_bare_line_feeds_throughout() {
        let ended = session(b"HELO me\nMAIL FROM:<>\nRCPT TO:<b>\nDATA\n..x\n.\nQUIT\n", Limits::default());
        assert_eq!(codes(&ended), ["220", "250", "250", "250", "354", "250", "221"]);
        assert_eq!((&*ended.got[0].sender, &*ended.got[0].content), ("", &b".x\n"[..]));
    }

    #[test]
    fn a_bare_line_feed_does_not_end_the_message_of_a_client_with_crlf() {
        let ended = session(
            b"HELO me\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\nx\n.\nMAIL FROM:<evil@x>\n\r.\r\n.\r\n",
            Limits::default(),
        );
        assert_eq!(ended.got.len(), 1);
        assert_eq!(ended.got[0].content, b"x\n.\nMAIL FROM:<evil@x>\n\r.\r\n");
    }

    #[test]
    fn commands_out_of_order_and_invalid_ones_are_refused() {
        for (commands, code) in [
            ("MAIL FROM:<a@x>\r\n", "503"),
            ("HELO\r\n", "501"),
            ("HELO x\r\nRCPT TO:<b@y>\r\n", "503"),
            ("HELO x\r\nDATA\r\n", "503"),
            ("HELO x\r\nMAIL FROM:<a@x>\r\nDATA\r\n", "503"),
            ("HELO x\r\nMAIL FROM:<a@x>\r\nMAIL FROM:<a@x>\r\n", "503"),
            ("HELO x\r\nMAIL FROM:<a@x\r\n", "501"),
            ("HELO x\r\nMAIL TO:<a@x>\r\n", "501"),
            ("HELO x\r\nMAIL FROM:<a b@x>\r\n", "553"),
            ("HELO x\r\nMAIL FROM:<a@x> AUTH=<>\r\n", "555"),
            ("HELO x\r\nMAIL FROM:<a@x> SIZE=33554433\r\n", "552"),
            ("HELO x\r\nMAIL FROM:<a@x> SIZE=x\r\n", "501"),
            ("HELO x\r\nMAIL FROM:<a@x>\r\nRCPT TO:<>\r\n", "553"),
            ("HELO x\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y> NOTIFY=NEVER\r\n", "555"),
            ("STARTTLS\r\n", "502"),
            ("\u{e9}\r\n", "500"),
            ("\r\n", "500"),
        ] {
            let ended = session(commands.as_bytes(), Limits::default());
            assert_eq!(codes(&ended).last(), Some(&code), "{commands:?}");
            assert!(ended.got.is_empty());
        }
    }

    const START: &str = "HELO x\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\n";

    #[test]
    fn every_limit_of_the_smtp_server_is_enforced() {
        let limits = Limits { command: 100, recipients: 2, message: 1000, errors: 3, ..Limits::default() };
        let long = session(format!("NOOP {}\r\nNOOP\r\n", "x".repeat(10_000)).as_bytes(), limits);
        assert_eq!(codes(&long), ["220", "500", "250"]);

        let many = session(format!("{START}RCPT TO:<c@y>\r\nRCPT TO:<d@y>\r\n").as_bytes(), limits);
        assert_eq!(codes(&many)[4..], ["250", "452"]);

        for content in ["x".repeat(1001), "x\r\n".repeat(334), format!("{}\r\ny", "x".repeat(5000))] {
            let large = session(format!("{START}DATA\r\n{content}\r\n.\r\nQUIT\r\n").as_bytes(), limits);
            assert_eq!(codes(&large)[4..], ["354", "552", "221"], "{}", content.len());
            assert!(large.got.is_empty());
        }
        let fits = session(format!("{START}DATA\r\n{}\r\n.\r\n", "x".repeat(998)).as_bytes(), limits);
        assert_eq!(fits.got[0].content.len(), 1000);

        let errors = session(&b"X\r\n".repeat(100), limits);
        assert_eq!(
            (codes(&errors).len(), codes(&errors).last(), &errors.end),
            (6, Some(&"421"), &End::Aborted)
        );
    }

    #[test]
    fn a_message_that_is_cut_off_is_not_submitted() {
        for text in [START.to_owned(), format!("{START}DATA\r\nx\r\n"), format!("{START}DATA\r\nx\r\n.")] {
            for is_late in [false, true] {
                let input = Pieces { octets: text.clone().into_bytes(), size: 16, is_late };
                let mut output = Vec::new();
                let end = serve(input, &mut output, "h", Limits::default(), |_| panic!("submitted"));
                assert_eq!(end.unwrap(), End::Aborted);
                assert_eq!(String::from_utf8(output).unwrap().contains("\r\n421 "), is_late);
            }
        }
    }
}
