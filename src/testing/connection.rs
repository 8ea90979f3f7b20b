//! One connection: reads commands, answers them, and stores accepted messages.

use std::{
    borrow::Cow,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use memchr::memchr;

use super::{
    Mode, Parts, Shared,
    content::Content,
    fault::{Effect, Step},
    tls::{Stream, Tls},
};
use crate::{proto::options::mail_extension, sys, time::later};

/// Maximum length of a command line, with its CRLF, in octets.
const MAX_LINE: usize = 4096;
/// Maximum length of a line in an AUTH exchange, with its CRLF, in octets (RFC 4954 §4).
const MAX_AUTH_LINE: usize = 12288;

/// A reply without its final CRLF.
type Reply = Cow<'static, str>;

/// The reason a command was not carried out.
enum Stop {
    Refused(Reply),
    /// The connection is over: the client has disconnected, or a fault or the end of the server closes it.
    Gone,
}

impl From<&'static str> for Stop {
    fn from(reply: &'static str) -> Stop {
        Stop::Refused(reply.into())
    }
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Stop {
        Stop::Gone
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Hello {
    None,
    Helo,
    Ehlo,
}

pub(super) struct Connection {
    shared: Arc<Shared>,
    number: usize,
    input: BufReader<Stream>,
    /// Replies that are held back until all buffered input has been read.
    output: Vec<u8>,
    hello: Hello,
    user: Option<String>,
    transaction: Option<Parts>,
    /// Set by a fault: the next reply is not sent, and the connection is closed instead.
    loses_reply: bool,
}

/// The socket of a connection. Another thread can end its waits by shutting the socket down. The reads and writes of
/// `TcpStream` itself are not used, because on Windows, shutting the socket down does not end them.
pub(super) struct Socket(pub TcpStream);

impl Read for Socket {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        sys::receive(&self.0, room, Some(never()))
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        sys::send(&self.0, bytes, Some(never()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn never() -> Instant {
    later(Instant::now(), Duration::MAX)
}

impl Connection {
    pub(super) fn new(stream: TcpStream, number: usize, shared: Arc<Shared>) -> Connection {
        Connection {
            shared,
            number,
            input: BufReader::new(Stream::Plain(Socket(stream))),
            output: Vec::new(),
            hello: Hello::None,
            user: None,
            transaction: None,
            loses_reply: false,
        }
    }

    /// Serves the client until QUIT or until it disconnects.
    pub(super) fn serve(mut self) {
        if self.tls_mode() == Some(Mode::Implicit) && !self.secure() {
            return;
        }
        let mut reply = match self.meet(Step::Greeting) {
            Ok(()) => GREETING.into(),
            Err(Stop::Refused(reply)) => reply,
            Err(Stop::Gone) => return,
        };
        let mut is_refused = reply != GREETING;
        loop {
            self.say(&reply);
            if is_refused || self.loses_reply || reply.starts_with("221") || reply.starts_with("421") {
                // Whether the client still receives it does not matter.
                let _ = self.flush();
                self.input.get_mut().close();
                return;
            }
            if reply == GO_AHEAD && !self.secure() {
                return;
            }
            is_refused = false;
            reply = match self.line(MAX_LINE).and_then(|line| self.command(&line)) {
                Ok(reply) | Err(Stop::Refused(reply)) => reply,
                Err(Stop::Gone) => return,
            };
        }
    }

    /// Applies the fault of a step, if there is one.
    fn meet(&mut self, step: Step) -> Result<(), Stop> {
        let Some(act) = self.shared.next_fault(step) else { return Ok(()) };
        if !act.delay.is_zero() || act.effect == Effect::Disconnect {
            // The replies to earlier commands are not part of the fault.
            self.flush()?;
        }
        self.shared.pause(act.delay)?;
        match act.effect {
            Effect::None => {}
            Effect::Reply(reply) => return Err(Stop::Refused(reply.into())),
            Effect::Disconnect => return Err(Stop::Gone),
            Effect::LoseReply => self.loses_reply = true,
        }
        Ok(())
    }

    fn command(&mut self, line: &str) -> Result<Reply, Stop> {
        let line = line.trim_end_matches(' ');
        let (verb, argument) = line.split_once(' ').unwrap_or((line, ""));
        match (verb.to_ascii_uppercase().as_str(), argument) {
            ("EHLO" | "HELO" | "VRFY", "") => Err("501 5.5.4 An argument is missing".into()),
            ("RSET" | "DATA" | "QUIT", argument) if !argument.is_empty() => {
                Err("501 5.5.4 No argument is allowed".into())
            }
            ("STARTTLS", argument) if !argument.is_empty() && self.tls_mode().is_some() => {
                Err("501 5.5.4 No argument is allowed".into())
            }
            ("STARTTLS", _) if self.tls_mode().is_some() => self.starttls(),
            ("EHLO", _) => self.ehlo(),
            ("HELO", _) => self.helo(),
            ("AUTH", _) => self.auth(argument),
            ("MAIL", _) => self.mail(argument),
            ("RCPT", _) => self.rcpt(argument),
            ("DATA", _) => self.data(),
            ("RSET", _) => self.rset(),
            ("NOOP", _) => self.meet(Step::Noop).map(|()| "250 2.0.0 Ok".into()),
            ("VRFY", _) => Ok("252 2.5.0 Send it and see".into()),
            ("QUIT", _) => self.meet(Step::Quit).map(|()| "221 2.0.0 Bye".into()),
            _ => Err("500 5.5.1 Unknown command".into()),
        }
    }
}

const GREETING: &str = "220 localhost ESMTP postino::testing";
/// The reply to STARTTLS after which the handshake begins.
const GO_AHEAD: &str = "220 2.0.0 Ready to start TLS";

/// TLS (RFC 3207).
impl Connection {
    fn tls_mode(&self) -> Option<Mode> {
        self.shared.tls.as_ref().map(Tls::mode)
    }

    fn is_encrypted(&self) -> bool {
        self.input.get_ref().is_encrypted()
    }

    fn starttls(&mut self) -> Result<Reply, Stop> {
        if self.hello != Hello::Ehlo || self.is_encrypted() || self.transaction.is_some() {
            return Err("503 5.5.1 STARTTLS not allowed now".into());
        }
        self.meet(Step::StartTls)?;
        Ok(GO_AHEAD.into())
    }

    /// Completes a handshake, after which the session begins again. Data that the client sent before it is discarded.
    /// Returns whether the handshake succeeded.
    fn secure(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let Some(tls) = &shared.tls else { return false };
        let clone = self.input.get_ref().socket().try_clone();
        let secured = self.flush().and(clone).and_then(|socket| tls.accept(Socket(socket)));
        let (line, stream) = match secured {
            Ok(stream) => ("S: (TLS established)".to_owned(), Some(stream)),
            Err(error) => (format!("S: (TLS failed: {error})"), None),
        };
        self.record(&line);
        let Some(stream) = stream else { return false };
        self.input = BufReader::new(stream);
        (self.hello, self.user, self.transaction) = (Hello::None, None, None);
        true
    }
}

/// EHLO and HELO, and the offered extensions.
impl Connection {
    fn ehlo(&mut self) -> Result<Reply, Stop> {
        self.meet(Step::Hello)?;
        self.transaction = None;
        self.hello = Hello::Ehlo;
        let mut lines = vec!["localhost".to_owned()];
        let offered = self.shared.settings.offered.iter().copied().filter(|keyword| self.offers(keyword));
        lines.extend(offered.map(|keyword| match keyword {
            "SIZE" => format!("SIZE {}", self.shared.settings.size_limit),
            "AUTH" => format!("AUTH {}", self.shared.settings.mechanisms().collect::<Vec<_>>().join(" ")),
            _ => keyword.to_owned(),
        }));
        if self.tls_mode() == Some(Mode::StartTls) && !self.is_encrypted() {
            lines.push("STARTTLS".to_owned());
        }
        let last = lines.pop().unwrap_or_default();
        let before: String = lines.iter().map(|line| format!("250-{line}\r\n")).collect();
        Ok(format!("{before}250 {last}").into())
    }

    fn helo(&mut self) -> Result<Reply, Stop> {
        self.meet(Step::Hello)?;
        self.transaction = None;
        self.hello = Hello::Helo;
        Ok("250 localhost".into())
    }

    fn offers(&self, keyword: &str) -> bool {
        self.hello == Hello::Ehlo && self.shared.settings.offers(keyword)
    }
}

/// Transactions.
impl Connection {
    fn mail(&mut self, argument: &str) -> Result<Reply, Stop> {
        if self.hello == Hello::None {
            return Err("503 5.5.1 EHLO comes first".into());
        }
        if self.shared.settings.tls_required && !self.is_encrypted() {
            return Err(TLS_REQUIRED.into());
        }
        if self.shared.settings.login_required && self.user.is_none() {
            return Err("530 5.7.0 Authentication required".into());
        }
        if self.transaction.is_some() {
            return Err("503 5.5.1 Transaction already in progress".into());
        }
        let (sender, parameters) =
            path(argument, "FROM:<").ok_or("501 5.5.4 Syntax: MAIL FROM:<address> parameters")?;
        for parameter in &parameters {
            self.check_mail_parameter(parameter)?;
        }
        check_letters(sender, &parameters)?;
        self.meet(Step::Mail)?;
        if let Some(reply) = self.shared.settings.refused_senders.get(&sender.to_lowercase()) {
            return Err(Stop::Refused(reply.clone().into()));
        }
        self.transaction =
            Some(Parts { sender: sender.to_owned(), mail_parameters: parameters, ..Parts::default() });
        Ok("250 2.1.0 Ok".into())
    }

    fn check_mail_parameter(&self, parameter: &str) -> Result<(), Stop> {
        let (keyword, value) = split_parameter(parameter);
        let is = |words: &[&str]| words.iter().any(|word| word.eq_ignore_ascii_case(value));
        let well_formed = match keyword.as_str() {
            "SIZE" => is_size(value),
            "BODY" => is(&["7BIT", "8BITMIME"]),
            "SMTPUTF8" | "REQUIRETLS" => parameter.len() == keyword.len(),
            "XVERP" => parameter.len() == keyword.len() || value.len() == 2,
            "RET" => is(&["FULL", "HDRS"]),
            _ => !value.is_empty(),
        };
        self.check_parameter(mail_extension(parameter).unwrap_or_default(), well_formed)?;
        // A value that does not fit in a u64 is too large as well.
        if keyword == "SIZE" && self.shared.settings.is_too_great(value.parse().unwrap_or(u64::MAX)) {
            return Err(TOO_GREAT.into());
        }
        Ok(())
    }

    fn rcpt(&mut self, argument: &str) -> Result<Reply, Stop> {
        let Some(transaction) = &self.transaction else {
            return Err("503 5.5.1 MAIL comes first".into());
        };
        let (recipient, parameters) = path(argument, "TO:<")
            .filter(|(recipient, _)| !recipient.is_empty())
            .ok_or("501 5.5.4 Syntax: RCPT TO:<address> parameters")?;
        for parameter in &parameters {
            let (keyword, value) = split_parameter(parameter);
            let extension = if matches!(keyword.as_str(), "NOTIFY" | "ORCPT") { "DSN" } else { "" };
            self.check_parameter(extension, !value.is_empty())?;
        }
        check_letters(recipient, &transaction.mail_parameters)?;
        self.meet(Step::rcpt_to(recipient))?;
        if let Some(reply) = self.shared.settings.refused_recipients.get(&recipient.to_lowercase()) {
            return Err(Stop::Refused(reply.clone().into()));
        }
        if let Some(transaction) = &mut self.transaction {
            transaction.recipients.push(recipient.to_owned());
            transaction.recipient_parameters.push(parameters);
        }
        Ok("250 2.1.5 Ok".into())
    }

    fn check_parameter(&self, extension: &str, well_formed: bool) -> Result<(), Stop> {
        if !self.offers(extension) {
            return Err("555 5.5.4 Parameter not offered".into());
        }
        if !well_formed {
            return Err("501 5.5.4 Parameter not well-formed".into());
        }
        Ok(())
    }

    fn data(&mut self) -> Result<Reply, Stop> {
        match &self.transaction {
            None => return Err("503 5.5.1 MAIL comes first".into()),
            Some(parts) if parts.recipients.is_empty() => return Err("554 5.5.1 No valid recipients".into()),
            Some(_) => {}
        }
        self.meet(Step::Data)?;
        let content = self.content()?;
        let is_encrypted = self.is_encrypted();
        let parts = self.transaction.take().unwrap_or_default();
        self.meet(Step::EndOfData)?;
        let settings = &self.shared.settings;
        if settings.is_too_great(content.octets()) {
            return Err(TOO_GREAT.into());
        }
        if let Some(reply) = &settings.refused_message {
            return Err(Stop::Refused(reply.clone().into()));
        }
        let message = Parts { content: content.into_bytes(), user: self.user.clone(), is_encrypted, ..parts };
        Ok(format!("250 2.0.0 Ok: queued as T{}", self.shared.deliver(message)).into())
    }

    fn content(&mut self) -> Result<Content, Stop> {
        self.say("354 End data with <CRLF>.<CRLF>");
        let limit = self.shared.settings.size_limit;
        let mut content = Content::new(if limit == 0 { u64::MAX } else { limit });
        while !content.has_ended() {
            let used = content.read(self.more()?);
            self.input.consume(used);
        }
        self.record(&format!("C: ({} octets)", content.octets()));
        Ok(content)
    }

    fn rset(&mut self) -> Result<Reply, Stop> {
        self.meet(Step::Rset)?;
        self.transaction = None;
        Ok("250 2.0.0 Ok".into())
    }
}

const TLS_REQUIRED: &str = "530 5.7.0 Must issue a STARTTLS command first";
const TOO_GREAT: &str = "552 5.3.4 Message too large";

/// Parses `FROM:<address>` or `TO:<address>`, and the parameters after it.
fn path<'a>(argument: &'a str, start: &str) -> Option<(&'a str, Vec<String>)> {
    let (head, inside) = argument.split_at_checked(start.len())?;
    let end = end_of_path(inside)?;
    let (address, rest) = (&inside[..end], &inside[end + 1..]);
    if !head.eq_ignore_ascii_case(start) || !(rest.is_empty() || rest.starts_with(' ')) {
        return None;
    }
    let parameters = rest.split(' ').filter(|parameter| !parameter.is_empty());
    Some((address, parameters.map(str::to_owned).collect()))
}

/// Finds the `>` outside quotes: `<"a> b"@example.org>` is one path.
fn end_of_path(inside: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in inside.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '>' if !quoted => return Some(at),
            '<' | ' ' if !quoted => return None,
            _ => {}
        }
    }
    None
}

/// Checks that a non-ASCII address comes with the parameter SMTPUTF8 (RFC 6531 §3.4).
fn check_letters(address: &str, mail_parameters: &[String]) -> Result<(), Stop> {
    let allowed = mail_parameters.iter().any(|parameter| parameter.eq_ignore_ascii_case("SMTPUTF8"));
    if address.is_ascii() || allowed {
        return Ok(());
    }
    Err("553 5.6.7 Address not in ASCII".into())
}

fn split_parameter(parameter: &str) -> (String, &str) {
    let (keyword, value) = parameter.split_once('=').unwrap_or((parameter, ""));
    (keyword.to_ascii_uppercase(), value)
}

/// Returns whether the value has 1 to 20 digits and nothing else (RFC 1870 §3).
fn is_size(value: &str) -> bool {
    (1..=20).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_digit())
}

/// Authentication (RFC 4954).
impl Connection {
    fn auth(&mut self, argument: &str) -> Result<Reply, Stop> {
        if !self.offers("AUTH") {
            return Err("502 5.5.1 AUTH not offered".into());
        }
        if self.user.is_some() || self.transaction.is_some() {
            return Err("503 5.5.1 AUTH not allowed now".into());
        }
        if self.shared.settings.tls_required && !self.is_encrypted() {
            return Err(TLS_REQUIRED.into());
        }
        let (mechanism, initial) = match argument.split_once(' ') {
            Some((mechanism, initial)) => (mechanism, Some(initial)),
            None => (argument, None),
        };
        let mechanism = mechanism.to_ascii_uppercase();
        let known = self.shared.settings.mechanisms().find(|known| *known == mechanism);
        if known.is_some() {
            self.meet(Step::Auth)?;
        }
        match known {
            Some("PLAIN") => self.auth_plain(initial),
            Some("LOGIN") => self.auth_login(initial),
            Some(bearer) => self.auth_bearer(bearer, initial),
            None if mechanism.is_empty() => Err("501 5.5.4 Syntax: AUTH mechanism".into()),
            None => Err("504 5.5.4 Unknown mechanism".into()),
        }
    }

    fn auth_plain(&mut self, initial: Option<&str>) -> Result<Reply, Stop> {
        let response = self.response(initial, "334 ")?;
        match response.split(|byte| *byte == 0).collect::<Vec<_>>()[..] {
            // The first is the authorization identity (RFC 4616 §2), which must be the user.
            [other, user, password] if other.is_empty() || other == user => self.log_in(user, password),
            [_, _, _] => Err(BAD_LOGIN.into()),
            _ => Err("501 5.5.2 Not a PLAIN response".into()),
        }
    }

    fn auth_login(&mut self, initial: Option<&str>) -> Result<Reply, Stop> {
        let user = self.response(initial, "334 VXNlcm5hbWU6")?;
        let password = self.response(None, "334 UGFzc3dvcmQ6")?;
        self.log_in(&user, &password)
    }

    /// OAUTHBEARER (RFC 7628) and XOAUTH2. A wrong token is refused in two steps: a challenge explains why, and 535
    /// follows the client's response to it.
    fn auth_bearer(&mut self, mechanism: &str, initial: Option<&str>) -> Result<Reply, Stop> {
        let response = self.response(initial, "334 ")?;
        let text = std::str::from_utf8(&response).unwrap_or_default();
        let parsed = if mechanism == "XOAUTH2" { xoauth2(text) } else { oauthbearer(text) };
        let (user, token) = parsed.ok_or("501 5.5.2 Invalid response for this mechanism")?;
        if let Some(user) = self.shared.settings.accepts_token(&user, token) {
            self.user = Some(user.to_owned());
            return Ok("235 2.7.0 Welcome".into());
        }
        let details = r#"{"status":"invalid_token","schemes":"bearer"}"#;
        // The response is %x01 (RFC 7628 §3.2.3), or empty in XOAUTH2.
        self.response(None, &format!("334 {}", STANDARD.encode(details)))?;
        Err("535 5.7.8 Wrong user or token".into())
    }

    fn response(&mut self, initial: Option<&str>, challenge: &str) -> Result<Vec<u8>, Stop> {
        let line = match initial {
            Some("=") => return Ok(Vec::new()),
            Some(initial) => initial.to_owned(),
            None => {
                self.say(challenge);
                self.line(MAX_AUTH_LINE)?
            }
        };
        match line.as_str() {
            "*" => Err("501 5.7.0 Authentication cancelled".into()),
            line => STANDARD.decode(line).map_err(|_| "501 5.5.2 Not base64".into()),
        }
    }

    fn log_in(&mut self, user: &[u8], password: &[u8]) -> Result<Reply, Stop> {
        match &self.shared.settings.credentials {
            Some((u, p)) if (u.as_bytes(), p.as_bytes()) == (user, password) => {
                self.user = Some(u.clone());
                Ok("235 2.7.0 Welcome".into())
            }
            _ => Err(BAD_LOGIN.into()),
        }
    }
}

/// Parses `user=USER^Aauth=Bearer TOKEN^A^A`.
fn xoauth2(text: &str) -> Option<(String, &str)> {
    let (user, token) = text.strip_prefix("user=")?.strip_suffix("\x01\x01")?.split_once("\x01auth=")?;
    Some((user.to_owned(), bearer(token)?))
}

/// Parses a GS2 header with the user, and the fields after it (RFC 7628 §3.1): `n,a=USER,^Akey=value^A…^A^A`.
fn oauthbearer(text: &str) -> Option<(String, &str)> {
    let (header, fields) = text.strip_suffix("\x01\x01")?.split_once('\x01')?;
    let user = header.strip_prefix("n,a=")?.strip_suffix(',')?;
    if user.contains(',') {
        return None;
    }
    let token = fields.split('\x01').find_map(|field| field.strip_prefix("auth="))?;
    Some((user.replace("=2C", ",").replace("=3D", "="), bearer(token)?))
}

/// Parses `Bearer TOKEN`. The case of the scheme is ignored (RFC 9110 §11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then_some(token)
}

const BAD_LOGIN: &str = "535 5.7.8 Wrong user or password";

/// Input and output of lines.
impl Connection {
    /// Reads one line. If it is too long, only its first [`MAX_AUTH_LINE`] octets are kept.
    fn line(&mut self, limit: usize) -> Result<String, Stop> {
        let (mut line, mut octets, mut ended) = (Vec::new(), 0, false);
        while !ended {
            let chunk = self.more()?;
            let end = memchr(b'\n', chunk);
            let used = end.map_or(chunk.len(), |at| at + 1);
            line.extend_from_slice(&chunk[..used.min(MAX_AUTH_LINE - line.len())]);
            self.input.consume(used);
            octets += used as u64;
            ended = end.is_some();
        }
        let is_auth = line.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "));
        let limit = if is_auth { MAX_AUTH_LINE } else { limit };
        if octets > limit as u64 {
            self.record(&format!("C: ({octets} octets)"));
            return Err("500 5.5.2 Line too long".into());
        }
        self.record(&format!("C: {}", String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n'])));
        match line.strip_suffix(b"\r\n").map(std::str::from_utf8) {
            Some(Ok(text)) if !text.contains(char::is_control) => Ok(text.to_owned()),
            _ => Err("500 5.5.2 A line must be UTF-8, without control characters, and end in CRLF".into()),
        }
    }

    /// Returns buffered input. Before waiting for more, sends all replies so far in one write (RFC 2920 §3.2).
    fn more(&mut self) -> io::Result<&[u8]> {
        if self.loses_reply {
            self.flush()?;
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if self.input.buffer().is_empty() {
            self.flush()?;
        }
        while let Err(error) = self.input.fill_buf() {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        match self.input.buffer() {
            [] => Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => Ok(bytes),
        }
    }

    fn say(&mut self, reply: &str) {
        if self.loses_reply {
            return;
        }
        for line in reply.split("\r\n") {
            self.record(&format!("S: {line}"));
        }
        self.output.extend_from_slice(reply.as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    fn flush(&mut self) -> io::Result<()> {
        let stream = self.input.get_mut();
        let written = stream.write_all(&self.output).and_then(|()| stream.flush());
        self.output.clear();
        written
    }

    fn record(&self, line: &str) {
        self.shared.record(self.number, line);
    }
}

/// Runs even if `on_line` panics: the client must not wait for a thread that has ended.
impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.leave(self.number);
        // This fails if the client has already disconnected.
        let _ = self.input.get_ref().socket().shutdown(Shutdown::Both);
    }
}
