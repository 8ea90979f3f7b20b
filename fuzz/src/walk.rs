//! Reads a session from its wire, as a plain server would: which command each reply answers, and what it accepted.

use postino::Reply;

use crate::replies;

/// What was said in a session.
#[derive(Debug, Default)]
pub struct Walk {
    pub attempts: Vec<Attempt>,
    /// AUTH was said.
    pub auth: bool,
    /// There is TLS from some place on: nothing behind it is read here.
    pub tls: bool,
}

/// One transaction.
#[derive(Debug, Default)]
pub struct Attempt {
    pub sender: String,
    recipients: Vec<String>,
    /// The recipients that the server took, and those that have got the message.
    taken: Vec<bool>,
    accepted: Vec<bool>,
    /// The recipients that may have got the message: all of it was said, and was not refused.
    may_have: Vec<bool>,
    /// All of the message was said.
    pub ended: bool,
    /// MAIL was granted.
    open: bool,
}

impl Attempt {
    /// Whether this recipient has got the message.
    pub fn was_accepted(&self, recipient: &str) -> bool {
        self.holds(&self.accepted, recipient)
    }

    /// Whether this recipient may have got the message.
    pub fn may_have(&self, recipient: &str) -> bool {
        self.holds(&self.may_have, recipient)
    }

    fn holds(&self, what: &[bool], recipient: &str) -> bool {
        self.recipients.iter().zip(what).any(|(name, holds)| *holds && name == recipient)
    }

    fn take(&mut self, recipient: String, reply: Option<&Reply>) {
        self.recipients.push(recipient);
        self.taken.push(self.open && is(reply, grants));
        self.accepted.push(false);
        self.may_have.push(false);
    }
}

/// A reply that grants what was asked for (RFC 5321 §4.2.1). 221 closes the connection.
fn grants(code: u16) -> bool {
    code / 100 == 2 && code != 221
}

/// The replies of the server, until it has closed the session: it does nothing more after that.
struct Replies<I> {
    left: I,
    closed: bool,
}

impl<'r, I: Iterator<Item = &'r Reply>> Iterator for Replies<I> {
    type Item = &'r Reply;

    fn next(&mut self) -> Option<&'r Reply> {
        let reply = self.left.next().filter(|_| !self.closed)?;
        self.closed = matches!(reply.code(), 221 | 421);
        Some(reply)
    }
}

fn is(reply: Option<&Reply>, what: impl Fn(u16) -> bool) -> bool {
    reply.is_some_and(|reply| what(reply.code()))
}

impl Walk {
    /// Panics if what the client has said are not whole commands, one a line.
    pub fn new(mut said: &[u8], heard: &[u8], lmtp: bool) -> Walk {
        let (replies, ..) = replies(heard, usize::MAX);
        let mut replies = Replies { left: replies.iter().skip(1), closed: false }; // without the greeting
        let mut walk = Walk::default();
        let mut login = false;
        while let Some(end) = said.windows(2).position(|pair| pair == b"\r\n") {
            let line = std::str::from_utf8(&said[..end]).expect("a command is text");
            assert!(!line.contains(char::is_control), "more than one line: {line:?}");
            assert!(line.len() <= 12_286, "a long line"); // RFC 4954 §4.1
            said = &said[end + 2..];
            let verb = line.split([' ', ':']).next().unwrap_or_default();
            if std::mem::take(&mut login) {
                login = is(replies.next(), |code| code == 334);
                continue;
            }
            match verb {
                "EHLO" | "HELO" | "LHLO" | "NOOP" | "VRFY" | "HELP" | "RSET" | "QUIT" => _ = replies.next(),
                "AUTH" => {
                    walk.auth = true;
                    login = is(replies.next(), |code| code == 334);
                }
                "STARTTLS" => {
                    if is(replies.next(), |code| code == 220) {
                        walk.tls = true;
                        assert!(said.is_empty() || said[0] == 0x16, "in clear behind STARTTLS");
                        return walk;
                    }
                }
                "MAIL" => {
                    let sender = between(line);
                    let open = is(replies.next(), grants);
                    walk.attempts.push(Attempt { sender, open, ..Attempt::default() });
                }
                "RCPT" => {
                    let recipient = between(line);
                    assert!(recipient.starts_with('r'), "nobody has named {line:?}");
                    walk.last().take(recipient, replies.next());
                }
                "DATA" => {
                    if is(replies.next(), |code| code / 100 == 3) {
                        let Some(length) = content_length(said) else { return walk };
                        said = &said[length..];
                        walk.last().end(&mut replies, lmtp);
                    }
                }
                "BDAT" => {
                    let mut words = line.split(' ').skip(1);
                    let size: usize = words.next().and_then(|size| size.parse().ok()).expect("a size");
                    let Some(behind) = said.get(size..) else { return walk };
                    said = behind;
                    match words.next() {
                        Some("LAST") => walk.last().end(&mut replies, lmtp),
                        _ => _ = replies.next(),
                    }
                }
                _ => panic!("nobody has said to say {line:?}"),
            }
        }
        assert!(!said.contains(&b'\n'), "a bare LF");
        walk
    }

    fn last(&mut self) -> &mut Attempt {
        self.attempts.last_mut().expect("MAIL comes first")
    }
}

impl Attempt {
    /// The whole message is there, and is answered: once, or in LMTP once for each recipient that was taken.
    fn end<'r>(&mut self, replies: &mut Replies<impl Iterator<Item = &'r Reply>>, lmtp: bool) {
        self.ended = true;
        if replies.closed {
            return;
        }
        if !lmtp || !self.taken.contains(&true) {
            let reply = replies.next();
            let (accepted, refused) = (is(reply, grants), is(reply, |code| code >= 400));
            self.accepted = self.taken.iter().map(|taken| *taken && accepted).collect();
            self.may_have = self.taken.iter().map(|taken| *taken && !refused).collect();
            return;
        }
        for (number, taken) in self.taken.iter().enumerate().filter(|(_, taken)| **taken) {
            let reply = replies.next();
            self.accepted[number] = *taken && is(reply, grants);
            self.may_have[number] = *taken && !is(reply, |code| code >= 400);
        }
    }
}

fn between(line: &str) -> String {
    let inside = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inside.expect("a path stands in brackets").0.to_owned()
}

/// How long what follows a 354 is, with the dot at its end.
fn content_length(said: &[u8]) -> Option<usize> {
    if said.starts_with(b".\r\n") {
        return Some(3);
    }
    said.windows(5).position(|window| window == b"\r\n.\r\n").map(|at| at + 5)
}
