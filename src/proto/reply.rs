//! Turns bytes into replies, incrementally and within limits (RFC 5321 §4.2).

use std::{fmt, sync::Arc};

use crate::Phase;
pub(crate) use crate::search::find;

/// Maximum length of a reply line, in octets with its line ending. RFC 5321 §4.5.3.1.5 says 512; some servers exceed
/// it.
const MAX_LINE: usize = 8_192;
/// Maximum number of lines of a reply.
const MAX_LINES: usize = 512;
/// Maximum length of a reply, in octets with all its lines.
const MAX_REPLY: usize = 65_536;

/// Maximum number of octets shown of a line that is not a valid reply.
const MAX_SHOWN: usize = 128;

/// Minimum length to which a reply is cut, in octets.
const SHORT: usize = 128;

/// Initial size of the buffer, in octets. It grows up to [`MAX_REPLY`].
const ROOM: usize = 4_096;

/// A reply from the server: a code, and one or more lines of text (RFC 5321 §4.2).
///
/// The text is kept as it arrived, but secrets in replies to AUTH are masked, and once the replies for the recipients
/// of a message exceed 1 MiB, later ones are cut off. Clones share the text, so a reply for many recipients is stored
/// only once. `Display` shows the reply on one line, with control characters escaped to protect terminals and logs.
///
/// These codes are defined in RFC 5321 §4.2.3, RFC 3207, RFC 4954 and RFC 7504. Treat any other code according to its
/// first digit.
///
/// | | | | |
/// |---|---|---|---|
/// | 211 | system status, help | 500 | command unknown, or too long |
/// | 214 | help | 501 | bad argument |
/// | 220 | ready | 502 | command not implemented |
/// | 221 | closing | 503 | bad sequence of commands |
/// | 235 | login succeeded | 504 | parameter not implemented |
/// | 250 | done | 521, 556 | mail not accepted |
/// | 251 | user not local, will forward | 530 | login or TLS required |
/// | 252 | cannot verify, will try | 534 | mechanism too weak |
/// | 334 | login continues | 535 | login failed |
/// | 354 | send the content | 538 | mechanism needs TLS |
/// | 421 | not available, closing | 550 | no such mailbox, or access denied |
/// | 432 | password transition needed | 551 | user not local |
/// | 450 | mailbox temporarily unavailable | 552 | storage or size limit exceeded |
/// | 451 | local error | 553 | mailbox name not allowed |
/// | 452 | not enough storage, or too many recipients | 554 | transaction failed |
/// | 454 | TLS or login temporarily unavailable | 555 | unknown parameter of MAIL or RCPT |
/// | 455 | parameters temporarily not supported | | |
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    /// All lines as they arrived, with codes and line endings.
    raw: Arc<[u8]>,
}

impl Reply {
    /// Returns the code, 200 to 599.
    #[must_use]
    pub fn code(&self) -> u16 {
        self.code
    }

    /// Returns whether the code is 2yz, which means that the command was carried out.
    #[must_use]
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// Returns whether the code is 4yz, a transient failure: the command may succeed later.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// Returns whether the code is 5yz, a permanent failure.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// Returns the trimmed text of each line as octets, without the code or line ending.
    pub fn text_lines(&self) -> impl Iterator<Item = &[u8]> {
        self.borrow().text_lines()
    }

    /// Returns the text with its lines joined by `\n`. Octets that are not UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        let lines: Vec<_> = self.text_lines().map(String::from_utf8_lossy).collect();
        lines.join("\n")
    }

    /// Returns all octets of the reply, with codes and line endings.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Returns the enhanced status code (RFC 2034, RFC 3463) at the start of the first line, if there is one and its
    /// class matches the code of the reply.
    #[must_use]
    pub fn enhanced(&self) -> Option<EnhancedCode> {
        let first = self.text_lines().next()?;
        let word = first.split(|b| *b == b' ').next()?;
        let code = EnhancedCode::parse(word)?;
        (u16::from(code.class) == self.code / 100).then_some(code)
    }

    /// Returns the reply with every occurrence of these secrets in its text replaced by `***`.
    pub(crate) fn redacted(self, secrets: &[Vec<u8>]) -> Reply {
        let lines = self.raw.split_inclusive(|b| *b == b'\n');
        let masked = lines.flat_map(|line| {
            let (code, text) = line.split_at(line.len().min(4));
            let (text, end) = text.split_at(text.trim_ascii_end().len());
            [code, &mask(text.to_vec(), secrets), end].concat()
        });
        Reply { code: self.code, raw: masked.collect() }
    }

    pub(crate) fn borrow(&self) -> ReplyRef<'_> {
        ReplyRef { code: self.code, raw: &self.raw }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.borrow().fmt(f)
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reply({self})")
    }
}

/// Replaces every occurrence of these secrets with `***`, one secret after another.
pub(crate) fn mask(mut text: Vec<u8>, secrets: &[Vec<u8>]) -> Vec<u8> {
    // A secret that is all stars would be found again in its own mask. This also skips an empty secret.
    for secret in secrets.iter().filter(|secret| !secret.iter().all(|b| *b == b'*')) {
        if find(&text, secret).is_some() {
            text = mask_one(&text, secret);
        }
    }
    text
}

/// Masks one secret in one pass. If a mask and its neighbours form the secret again, it is masked again when its last
/// octet is written. Each mask consumes at least one octet that is not a star, so the text limits their number.
fn mask_one(text: &[u8], secret: &[u8]) -> Vec<u8> {
    let mut masked = Vec::with_capacity(text.len());
    for octet in text {
        let mut stars = 0;
        masked.push(*octet);
        loop {
            if masked.ends_with(secret) {
                masked.truncate(masked.len() - secret.len());
                stars += b"***".len();
            }
            if stars == 0 {
                break;
            }
            masked.push(b'*');
            stars -= 1;
        }
    }
    masked
}

/// A reply that is borrowed from the [`Inbox`]. Reading it copies nothing; [`keep`](ReplyRef::keep) copies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyRef<'r> {
    code: u16,
    raw: &'r [u8],
}

impl<'r> ReplyRef<'r> {
    /// Returns the code, 200 to 599.
    #[must_use]
    pub fn code(self) -> u16 {
        self.code
    }

    /// Returns whether the code is 4xx or 5xx.
    #[must_use]
    pub(crate) fn is_negative(self) -> bool {
        self.code >= 400
    }

    /// Returns whether the server closes the connection with this reply: 421, and 221 except in answer to QUIT
    /// (RFC 5321 §4.2.3). `phase` is the phase of the command that it answers.
    #[must_use]
    pub(crate) fn closes(self, phase: Phase) -> bool {
        self.code == 421 || self.code == 221 && phase != Phase::Quit
    }

    /// Returns the phase if the server [closes](ReplyRef::closes) the connection with this reply. `phase` is called only
    /// for the codes that can mean this, because most replies have others.
    pub(crate) fn closed_in(self, phase: impl FnOnce() -> Phase) -> Option<Phase> {
        if !matches!(self.code, 221 | 421) {
            return None;
        }
        Some(phase()).filter(|phase| self.closes(*phase))
    }

    /// Returns the trimmed text of each line as octets, without the code or line ending.
    pub fn text_lines(self) -> impl Iterator<Item = &'r [u8]> {
        let lines = self.raw.split_inclusive(|b| *b == b'\n');
        lines.map(|line| line.get(4..).unwrap_or_default().trim_ascii())
    }

    /// Copies the reply into an owned one.
    #[must_use]
    pub fn keep(self) -> Reply {
        Reply { code: self.code, raw: self.raw.into() }
    }

    /// Copies the reply if it has at most this number of octets, or else the beginning of its first line.
    #[must_use]
    pub(crate) fn keep_within(self, octets: usize) -> Reply {
        if self.raw.len() <= octets {
            return self.keep();
        }
        let text = self.text_lines().next().unwrap_or_default();
        let text = &text[..text.len().min(octets.max(SHORT) - b"250 \r\n".len())];
        Reply {
            code: self.code,
            raw: [self.code.to_string().as_bytes(), b" ", text, b"\r\n"].concat().into(),
        }
    }
}

impl fmt::Display for ReplyRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        for line in self.text_lines().filter(|line| !line.is_empty()) {
            f.write_str(" ")?;
            show(line, f)?;
        }
        Ok(())
    }
}

/// Writes octets so that a terminal can show them safely: control characters are escaped.
fn show(octets: &[u8], f: &mut dyn fmt::Write) -> fmt::Result {
    for c in String::from_utf8_lossy(octets).chars() {
        if c.is_control() {
            write!(f, "{}", c.escape_default())?;
        } else {
            write!(f, "{c}")?;
        }
    }
    Ok(())
}

/// An enhanced status code: class, subject, detail (RFC 3463), as in `5.1.1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EnhancedCode {
    /// Class: 2, 4 or 5, which is also the first digit of the reply code.
    pub class: u8,
    /// Subject: 0 other, 1 addresses, 2 mailboxes, 3 systems, 4 networks, 5 protocol, 6 content, or 7 policy.
    pub subject: u16,
    /// Detail, whose meaning depends on the subject (RFC 3463 §3).
    pub detail: u16,
}

impl EnhancedCode {
    fn parse(word: &[u8]) -> Option<EnhancedCode> {
        let mut parts = word.split(|b| *b == b'.');
        let mut number = |most: usize| {
            let digits = parts.next()?;
            let fits = (1..=most).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
            fits.then(|| digits.iter().fold(0, |n: u16, d| n * 10 + u16::from(d - b'0')))
        };
        let class = number(1).filter(|class| matches!(class, 2 | 4 | 5))?;
        let code = EnhancedCode { class: class as u8, subject: number(3)?, detail: number(3)? };
        parts.next().is_none().then_some(code)
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// A buffer that turns bytes from the server into replies.
///
/// Read into [`room`](Inbox::room), report how much [arrived](Inbox::arrived), and take [replies](Inbox::next_reply)
/// until there are none.
#[derive(Default)]
pub struct Inbox {
    buf: Vec<u8>,
    /// Range of the buffer that has not been taken yet.
    from: usize,
    to: usize,
    partial: Partial,
}

/// How much of the reply at the front has been parsed. Positions count from the start of the reply.
#[derive(Debug, Default)]
struct Partial {
    /// Start of the current line, and the position up to which no line ending was found in it.
    line: usize,
    seen: usize,
    lines: usize,
    code: Option<u16>,
}

impl Inbox {
    /// Returns the space for the next bytes. It is never empty once every available reply has been taken.
    pub fn room(&mut self) -> &mut [u8] {
        if !self.is_empty() {
            self.buf.copy_within(self.from..self.to, 0);
        }
        (self.from, self.to) = (0, self.to - self.from);
        if self.to == self.buf.len() {
            self.buf.resize((2 * self.to).clamp(ROOM, MAX_REPLY), 0);
        }
        &mut self.buf[self.to..]
    }

    /// Reports that this many bytes were read into [`room`](Inbox::room).
    pub fn arrived(&mut self, n: usize) {
        self.to = self.buf.len().min(self.to.saturating_add(n));
    }

    /// Returns whether the inbox holds neither a reply nor a part of one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// Takes the next complete reply from the inbox. Returns `None` until a complete reply has arrived.
    ///
    /// # Errors
    ///
    /// The reason for the failure: an invalid code or separator, different codes in one reply, or an exceeded limit
    /// (8,192 octets in a line, 512 lines, 65,536 octets in all). After an error, whatever follows cannot be trusted.
    pub fn next_reply(&mut self) -> Result<Option<ReplyRef<'_>>, &'static str> {
        let bytes = &self.buf[self.from..self.to];
        let partial = &mut self.partial;
        if bytes.len() == partial.seen {
            return Ok(None); // nothing has arrived since
        }
        while let Some(len) = memchr::memchr(b'\n', &bytes[partial.seen..]) {
            let end = partial.seen + len + 1;
            let line = &bytes[partial.line..end];
            let (code, last) = parse_line(line)?;
            if *partial.code.get_or_insert(code) != code {
                return Err("a reply whose lines have different codes");
            }
            partial.lines += 1;
            if line.len() > MAX_LINE || end > MAX_REPLY || partial.lines > MAX_LINES {
                return Err("a reply that is too long");
            }
            (partial.line, partial.seen) = (end, end);
            if last {
                let raw = self.from..self.from + end;
                self.from += end;
                self.partial = Partial::default();
                return Ok(Some(ReplyRef { code, raw: &self.buf[raw] }));
            }
        }
        partial.seen = bytes.len();
        if bytes.len() - partial.line >= MAX_LINE || bytes.len() >= MAX_REPLY {
            return Err("a reply that is too long");
        }
        Ok(None)
    }

    /// Returns the start of the line that [was rejected](Inbox::next_reply), escaped for a terminal, for use in an
    /// error message. Do not show the line if it is a reply to a login: it may contain a password.
    #[must_use]
    pub fn rejected_line(&self) -> String {
        let line = &self.buf[self.from + self.partial.line..self.to];
        let line = line.split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii_end();
        let mut shown = String::new();
        show(&line[..line.len().min(MAX_SHOWN)], &mut shown).expect("a String accepts all writes");
        shown
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("octets", &(self.to - self.from)).finish_non_exhaustive()
    }
}

/// Parses one line with its LF: returns the code, and whether it is the last of its reply.
///
/// ```text
/// Reply-line = *( Reply-code "-" [ textstring ] CRLF ) Reply-code [ SP textstring ] CRLF    (RFC 5321 §4.2)
/// ```
fn parse_line(line: &[u8]) -> Result<(u16, bool), &'static str> {
    let [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] = line else {
        return Err("a line that is not a reply");
    };
    let code = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
    match rest {
        [b'-', ..] => Ok((code, false)),
        [b' ' | b'\n', ..] | [b'\r', b'\n'] => Ok((code, true)), // missing text and a bare LF are common
        _ => Err("a reply without a space after its code"),
    }
}

impl Reply {
    /// Parses exactly one reply, for tests and transcripts.
    ///
    /// # Errors
    ///
    /// Any error of [`Inbox::next_reply`], or an error if there is not exactly one reply.
    pub fn parse(bytes: &[u8]) -> Result<Reply, &'static str> {
        let mut inbox = Inbox { buf: bytes.to_vec(), to: bytes.len(), ..Inbox::default() };
        let reply = inbox.next_reply()?.ok_or("an incomplete reply")?.keep();
        if inbox.is_empty() { Ok(reply) } else { Err("more than one reply") }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed(inbox: &mut Inbox, mut bytes: &[u8]) -> Result<Vec<Reply>, &'static str> {
        let mut replies = Vec::new();
        while !bytes.is_empty() {
            let room = inbox.room();
            let n = room.len().min(bytes.len());
            assert!(n > 0, "no room and no error");
            room[..n].copy_from_slice(&bytes[..n]);
            inbox.arrived(n);
            bytes = &bytes[n..];
            while let Some(reply) = inbox.next_reply()? {
                replies.push(reply.keep());
            }
        }
        Ok(replies)
    }

    #[test]
    fn copies_of_a_reply_share_its_text() {
        let reply = Reply::parse(b"250 ok\r\n").unwrap();
        assert!(std::ptr::eq(reply.raw(), reply.clone().raw()));
    }

    #[test]
    fn replies_are_parsed() {
        for (bytes, code, text) in [
            (&b"250 ok\r\n"[..], 250, "ok"),
            (b"250\r\n", 250, ""),
            (b"250 \r\n", 250, ""),
            (b"250 ok\n", 250, "ok"),
            (b"250\n", 250, ""),
            (b"250-a\r\n250-b\n250 c\r\n", 250, "a\nb\nc"),
            (b"250-\r\n250\r\n", 250, "\n"),
            (b"554 \xe9t\xe9\r\n", 554, "\u{fffd}t\u{fffd}"),
            (b"220 a\rb\r\n", 220, "a\rb"),
        ] {
            let reply = Reply::parse(bytes).unwrap();
            assert_eq!((reply.code(), reply.text().as_str()), (code, text));
        }
    }

    #[test]
    fn the_first_digit_determines_the_class_of_a_reply() {
        for (code, positive, transient, permanent) in [
            (211, true, false, false),
            (299, true, false, false),
            (334, false, false, false),
            (400, false, true, false),
            (499, false, true, false),
            (500, false, false, true),
        ] {
            let reply = Reply::parse(format!("{code}\r\n").as_bytes()).unwrap();
            let classes = (reply.is_positive(), reply.is_transient(), reply.is_permanent());
            assert_eq!(classes, (positive, transient, permanent), "{code}");
            let mut inbox = Inbox::default();
            inbox.room()[..5].copy_from_slice(format!("{code}\r\n").as_bytes());
            inbox.arrived(5);
            assert_eq!(inbox.next_reply().unwrap().unwrap().is_negative(), transient || permanent, "{code}");
        }
    }

    #[test]
    fn replies_are_limited_in_line_length_lines_and_total_size() {
        let line = |octets: usize| [b"250-".as_slice(), &vec![b'x'; octets - 6], b"\r\n"].concat();
        let replies = |text: &[u8]| Reply::parse(&[text, b"250 ok\r\n"].concat()).map(|reply| reply.code());
        assert_eq!(replies(&line(MAX_LINE)), Ok(250));
        assert!(replies(&line(MAX_LINE + 1)).is_err(), "the line is too long, although it is complete");
        assert_eq!(replies(&line(6).repeat(MAX_LINES - 1)), Ok(250));
        assert!(replies(&line(6).repeat(MAX_LINES)).is_err(), "too many lines");
        assert_eq!(replies(&line(MAX_REPLY / 8 - 1).repeat(8)), Ok(250));
        assert!(replies(&line(MAX_REPLY / 8).repeat(8)).is_err(), "the reply is too long");
        // Complete lines do not count towards the length of the next one.
        let mut inbox = Inbox::default();
        let begun = [line(1000).repeat(7), b"250-and".to_vec()].concat();
        assert_eq!(feed(&mut inbox, &begun).map(|replies| replies.len()), Ok(0));
        assert_eq!(feed(&mut inbox, b" so on\r\n250 ok\r\n").map(|replies| replies.len()), Ok(1));
    }

    // Threat 49.
    #[test]
    fn malformed_replies_are_refused() {
        for bytes in [
            &b"25\r\n"[..],
            b"2500 ok\r\n",
            b"abc\r\n",
            b"099 x\r\n",
            b"600 x\r\n",
            b"150 x\r\n",
            b"+25 x\r\n",
            "٢٥٠ x\r\n".as_bytes(),
            b"250\0\r\n",
            b"250\tx\r\n",
            b"\r\n",
            b" 250 x\r\n",
            b"250\rx\r\n",
        ] {
            assert!(Reply::parse(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    // Threat 48.
    #[test]
    fn a_reply_with_differing_codes_is_refused() {
        assert_eq!(Reply::parse(b"250-a\r\n550 b\r\n"), Err("a reply whose lines have different codes"));
    }

    // Threats 46 and 47.
    #[test]
    fn an_endless_reply_is_refused() {
        let line = [b"250 ".as_slice(), &[b'x'; MAX_LINE]].concat();
        assert_eq!(feed(&mut Inbox::default(), &line), Err("a reply that is too long"));
        let lines = b"250-x\r\n".repeat(MAX_LINES + 1);
        assert_eq!(feed(&mut Inbox::default(), &lines), Err("a reply that is too long"));
        let total = [b"250-".as_slice(), &[b'x'; 4000], b"\r\n"].concat().repeat(17);
        let mut inbox = Inbox::default();
        assert_eq!(feed(&mut inbox, &total), Err("a reply that is too long"));
        assert!(inbox.buf.len() <= MAX_REPLY);
    }

    #[test]
    fn a_reply_exactly_at_a_limit_is_accepted() {
        let line = [b"250 ".as_slice(), &vec![b'x'; MAX_LINE - 6], b"\r\n"].concat();
        assert_eq!(line.len(), MAX_LINE);
        assert_eq!(feed(&mut Inbox::default(), &line).unwrap().len(), 1);
        let lines = [b"250-x\r\n".repeat(MAX_LINES - 1), b"250 x\r\n".to_vec()].concat();
        assert_eq!(feed(&mut Inbox::default(), &lines).unwrap().len(), 1);
    }

    // Threat 60.
    #[test]
    fn an_enhanced_code_must_match_the_class_of_its_reply() {
        let enhanced = |bytes: &[u8]| Reply::parse(bytes).unwrap().enhanced().map(|code| code.to_string());
        assert_eq!(enhanced(b"550 5.1.1 who?\r\n").as_deref(), Some("5.1.1"));
        assert_eq!(enhanced(b"250 2.0.0\r\n").as_deref(), Some("2.0.0"));
        assert_eq!(enhanced(b"550 5.7.509 no\r\n").as_deref(), Some("5.7.509"));
        for odd in
            ["550 2.1.1 x", "550 5.1 x", "250 2.0.0abc", "250 2.0.0.0 x", "250 2.1234.0 x", "354 3.0.0 x"]
        {
            assert_eq!(enhanced(format!("{odd}\r\n").as_bytes()), None, "{odd}");
        }
    }

    // Threat 27.
    #[test]
    fn control_characters_in_displayed_replies_are_escaped() {
        let reply = Reply::parse(b"550-\x1b[2J\r\n550 a\rb \xc2\x9b c\r\n").unwrap();
        assert_eq!(reply.to_string(), "550 \\u{1b}[2J a\\rb \\u{9b} c");
    }

    // Behaviour 46.
    #[test]
    fn the_start_of_an_invalid_reply_line_can_be_shown() {
        let rejected = |bytes: &[u8]| {
            let mut inbox = Inbox { buf: bytes.to_vec(), to: bytes.len(), ..Inbox::default() };
            while let Ok(Some(_)) = inbox.next_reply() {}
            inbox.rejected_line()
        };
        assert_eq!(
            rejected(b"250 ok\r\n250-a\r\nhello\x1b[2J \xff\r\n250 b\r\n"),
            "hello\\u{1b}[2J \u{fffd}"
        );
        assert_eq!(rejected(b"250-a\r\n550 b\n"), "550 b");
        assert_eq!(rejected(b"\r\n250 ok\r\n"), "");
        assert_eq!(rejected(&[b'2'; 2 * MAX_REPLY]).len(), MAX_SHOWN);
        assert_eq!(rejected(&b"250-x\r\n".repeat(MAX_LINES + 1)), "250-x");
    }

    // Threat 71.
    #[test]
    fn secrets_are_redacted_from_replies() {
        let redacted = |text: &[u8], secret: &[u8]| {
            Reply::parse(text).unwrap().redacted(&[secret.to_vec(), Vec::new()]).to_string()
        };
        assert_eq!(
            redacted(b"535 bad password s3cret, s3cret!\r\n", b"s3cret"),
            "535 bad password ***, ***!"
        );
        assert_eq!(redacted(b"535-5.7.8 a\r\n535 5.7.8 5\r\n", b"535"), "535 5.7.8 a 5.7.8 5");
        assert_eq!(redacted(b"535 ****\r\n", b"**"), "535 ****");
        assert_eq!(redacted(b"535-a\r\n535 b\r\n", b"\n"), "535 a b");
        let long = [b"535 ".as_slice(), &[b'a'; 8000], b"\r\n"].concat();
        assert_eq!(redacted(&long, b"a").len(), "535 ".len() + 3 * 8000);
    }

    #[test]
    fn a_secret_formed_by_a_mask_and_its_neighbours_is_masked_too() {
        let masked =
            |text: &[u8], secret: &[u8]| String::from_utf8(mask(text.to_vec(), &[secret.to_vec()])).unwrap();
        assert_eq!(masked(b"say *ab", b"*a"), "say ***b");
        assert_eq!(masked(b"xaab*", b"a***b"), "xaab*");
        assert_eq!(masked(b"secsecretret", b"secret"), "sec***ret");
        for (text, secret) in [("*aaaa", "*a"), ("baaaa", "ba"), ("aaaa*", "a*"), ("a***bb***a", "***b")] {
            assert!(!masked(text.as_bytes(), secret.as_bytes()).contains(secret), "{text} {secret}");
        }
    }

    #[test]
    fn masking_a_secret_that_begins_with_a_star_takes_one_pass() {
        // This would take minutes if each octet took a pass.
        let text = [b"*".as_slice(), &vec![b'a'; 1_000_000]].concat();
        assert!(mask(text, &[b"*a".to_vec()]).iter().all(|octet| *octet == b'*'));
    }

    #[test]
    fn a_kept_reply_is_truncated_to_the_limit() {
        let reply = [b"550-".as_slice(), &[b'x'; 5000], b"\r\n550 y\r\n"].concat();
        let mut inbox = Inbox { buf: reply.clone(), to: reply.len(), ..Inbox::default() };
        let lent = inbox.next_reply().unwrap().unwrap();
        assert_eq!(lent.keep_within(reply.len()).raw(), reply);
        for (limit, kept) in [(1000, 1000), (10, SHORT), (0, SHORT)] {
            let short = lent.keep_within(limit);
            assert_eq!((short.code(), short.raw().len()), (550, kept));
            assert_eq!(Reply::parse(short.raw()).unwrap(), short);
        }
    }

    proptest! {
        #[test]
        fn splitting_the_input_does_not_change_the_replies(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..300),
                "([2-6]5[0-9][- ][a-z\r]{0,9}\r?\n){0,20}".prop_map(String::into_bytes),
            ],
            cut in any::<prop::sample::Index>(),
        ) {
            let whole = feed(&mut Inbox::default(), &bytes);
            let (a, b) = bytes.split_at(cut.index(bytes.len() + 1));
            let mut inbox = Inbox::default();
            let pieces = feed(&mut inbox, a).and_then(|mut first| {
                first.extend(feed(&mut inbox, b)?);
                Ok(first)
            });
            prop_assert_eq!(whole, pieces);
        }
    }
}
