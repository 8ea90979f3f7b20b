//! A message that the server has accepted: its envelope, its decoded content, and assertions about it.

use std::{
    fmt::{self, Debug},
    sync::{Arc, OnceLock},
};

use super::decode::{Attachment, Decoded};

/// Maximum number of lines of text that [`Message`]'s `Display` shows.
const MAX_LINES: usize = 40;

/// A message that a [`Server`](super::Server) has accepted. Clones share their content.
///
/// [`content`](Message::content) returns the octets as they arrived. Other methods decode them: header fields (RFC
/// 2047), parameters such as file names (RFC 2231), base64 and quoted-printable (RFC 2045), and the charsets UTF-8,
/// US-ASCII and ISO-8859-1. Text in another charset is read as UTF-8. Octets that are invalid in a charset become
/// U+FFFD. Decoding never fails: whatever is malformed is returned as it arrived.
///
/// The methods whose names begin with `assert_` check the message. If a check fails, they panic at the calling line,
/// with a summary of the message, which is what `Display` shows.
///
/// ```
/// use postino::{message::Attachment, testing::Server};
///
/// let server = Server::start()?;
/// let message = postino::Message::builder()
///     .from("Jörg <joerg@example.org>")
///     .to("bob@example.net")
///     .subject("Grüße")
///     .text("Hello, Bob!\n")
///     .attach(Attachment::bytes("menü.txt", "Pizza\n"))
///     .build()?;
/// server.client_builder().send(&message)?;
///
/// let message = server.expect_message();
/// message.assert_subject("Grüße").assert_from("Jörg <joerg@example.org>").assert_to(["bob@example.net"]);
/// message.assert_text_contains("Bob");
/// assert_eq!(message.assert_attachment("menü.txt").content(), b"Pizza\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Message(Arc<Received>);

struct Received {
    parts: Parts,
    decoded: OnceLock<Decoded>,
}

#[derive(Default, PartialEq, Eq)]
pub(super) struct Parts {
    pub sender: String,
    pub mail_parameters: Vec<String>,
    pub recipients: Vec<String>,
    pub recipient_parameters: Vec<Vec<String>>,
    pub content: Vec<u8>,
    pub user: Option<String>,
    pub is_encrypted: bool,
}

/// The envelope, and the content as it arrived.
impl Message {
    pub(super) fn new(parts: Parts) -> Message {
        Message(Arc::new(Received { parts, decoded: OnceLock::new() }))
    }

    /// Returns the address given in MAIL, as it was sent; `""` is the null sender.
    #[must_use]
    pub fn sender(&self) -> &str {
        &self.0.parts.sender
    }

    /// Returns the accepted addresses from the RCPT commands, as they were sent.
    #[must_use]
    pub fn recipients(&self) -> &[String] {
        &self.0.parts.recipients
    }

    /// Returns the parameters of MAIL, as they were sent, such as `SIZE=10` and `BODY=8BITMIME`.
    #[must_use]
    pub fn mail_parameters(&self) -> &[String] {
        &self.0.parts.mail_parameters
    }

    /// Returns the parameters of RCPT, as they were sent, for each of [`recipients`](Message::recipients) in turn. They
    /// are empty unless DSN is offered (see [`ServerBuilder::extension`](super::ServerBuilder::extension)).
    #[must_use]
    pub fn recipient_parameters(&self) -> &[Vec<String>] {
        &self.0.parts.recipient_parameters
    }

    /// Returns the content sent after DATA, without dot-stuffing or the final dot. Line endings are kept as they
    /// arrived.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.0.parts.content
    }

    /// Returns the name of the user who was logged in, if any.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.0.parts.user.as_deref()
    }

    /// Returns whether the message was sent over TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.0.parts.is_encrypted
    }
}

/// The decoded content.
impl Message {
    fn decoded(&self) -> &Decoded {
        self.0.decoded.get_or_init(|| Decoded::read(&self.0.parts.content))
    }

    /// Returns the decoded value of the first header field with this name (case-insensitive), unfolded and trimmed.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).next()
    }

    /// Returns the decoded values of all header fields with this name (case-insensitive), from top to bottom.
    pub fn headers<'m, 'n>(&'m self, name: &'n str) -> impl Iterator<Item = &'m str> + use<'m, 'n> {
        let fields = self.decoded().fields.iter().filter(move |(own, _)| own.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| &value[..])
    }

    /// Returns the decoded subject.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.header("Subject")
    }

    /// Returns the mailboxes in `From`, such as `Jörg Müller <joerg@example.org>` or `bob@example.net`, in the form
    /// that [`Mailbox`](crate::message::Mailbox) displays: names are decoded, and quoted only where necessary.
    #[must_use]
    pub fn from(&self) -> &[String] {
        &self.decoded().from
    }

    /// Returns the mailboxes in `To`, in the form described at [`from`](Message::from), without the names of groups.
    ///
    /// These need not be the [recipients](Message::recipients) of the envelope.
    #[must_use]
    pub fn to(&self) -> &[String] {
        &self.decoded().to
    }

    /// Returns the mailboxes in `Cc`, in the form described at [`from`](Message::from).
    #[must_use]
    pub fn cc(&self) -> &[String] {
        &self.decoded().cc
    }

    /// Returns the mailboxes in `Reply-To`, in the form described at [`from`](Message::from).
    #[must_use]
    pub fn reply_to(&self) -> &[String] {
        &self.decoded().reply_to
    }

    /// Returns the first plain text that is not an attachment, decoded, with LF as the line ending.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.decoded().text.as_deref()
    }

    /// Returns the first HTML text that is not an attachment, decoded, with LF as the line ending.
    #[must_use]
    pub fn html(&self) -> Option<&str> {
        self.decoded().html.as_deref()
    }

    /// Returns all parts except the [text](Message::text) and the [HTML text](Message::html), in order: attachments,
    /// inline images, calendars, attached messages, and additional text parts.
    #[must_use]
    pub fn attachments(&self) -> &[Attachment] {
        &self.decoded().attachments
    }
}

/// Assertions. All except [`assert_attachment`](Message::assert_attachment) return the message and can be chained.
impl Message {
    /// Checks the decoded subject.
    ///
    /// # Panics
    ///
    /// If the message has a different subject, or none.
    #[track_caller]
    pub fn assert_subject(&self, expected: &str) -> &Message {
        self.check(
            "subject",
            &expected,
            &self.subject().unwrap_or("(none)"),
            self.subject() == Some(expected),
        )
    }

    /// Checks that `From` contains only this mailbox, in the form described at [`from`](Message::from).
    ///
    /// # Panics
    ///
    /// If `From` contains a different mailbox, or not exactly one.
    #[track_caller]
    pub fn assert_from(&self, expected: &str) -> &Message {
        self.check("From", &[expected], &self.from(), self.from() == [expected])
    }

    /// Checks all mailboxes in `To`, in order, in the form described at [`from`](Message::from).
    ///
    /// # Panics
    ///
    /// If `To` contains different mailboxes, or the same ones in a different order.
    #[track_caller]
    pub fn assert_to<S: AsRef<str>>(&self, expected: impl IntoIterator<Item = S>) -> &Message {
        self.check_list("To", expected, self.to())
    }

    /// Checks all mailboxes in `Cc`, in order, in the form described at [`from`](Message::from).
    ///
    /// # Panics
    ///
    /// If `Cc` contains different mailboxes, or the same ones in a different order.
    #[track_caller]
    pub fn assert_cc<S: AsRef<str>>(&self, expected: impl IntoIterator<Item = S>) -> &Message {
        self.check_list("Cc", expected, self.cc())
    }

    /// Checks the recipients of the envelope, in order. These include the recipients in `Bcc`.
    ///
    /// # Panics
    ///
    /// If the message was sent to different recipients, or to the same ones in a different order.
    #[track_caller]
    pub fn assert_recipients<S: AsRef<str>>(&self, expected: impl IntoIterator<Item = S>) -> &Message {
        self.check_list("recipients", expected, self.recipients())
    }

    /// Checks the decoded value of the first header field with this name.
    ///
    /// # Panics
    ///
    /// If the field has a different value, or does not exist.
    #[track_caller]
    pub fn assert_header(&self, name: &str, expected: &str) -> &Message {
        let found = self.header(name);
        self.check(
            &format!("header field {name}"),
            &expected,
            &found.unwrap_or("(none)"),
            found == Some(expected),
        )
    }

    /// Checks that the plain text contains this text.
    ///
    /// # Panics
    ///
    /// If it does not, or if there is no plain text.
    #[track_caller]
    pub fn assert_text_contains(&self, expected: &str) -> &Message {
        self.check_contains("plain text", expected, self.text())
    }

    /// Checks that the HTML text contains this text.
    ///
    /// # Panics
    ///
    /// If it does not, or if there is no HTML text.
    #[track_caller]
    pub fn assert_html_contains(&self, expected: &str) -> &Message {
        self.check_contains("HTML text", expected, self.html())
    }

    /// Returns the first attachment with this name.
    ///
    /// # Panics
    ///
    /// If there is no such attachment.
    #[track_caller]
    pub fn assert_attachment(&self, name: &str) -> &Attachment {
        let found = self.attachments().iter().find(|attachment| attachment.name() == Some(name));
        found.unwrap_or_else(|| panic!("there is no attachment {name:?}\n{}", self.summary()))
    }

    #[track_caller]
    fn check(&self, what: &str, expected: &dyn Debug, found: &dyn Debug, is_equal: bool) -> &Message {
        assert!(
            is_equal,
            "unexpected {what}\n  expected: {expected:?}\n     found: {found:?}\n{}",
            self.summary()
        );
        self
    }

    #[track_caller]
    fn check_list<S: AsRef<str>>(
        &self,
        what: &str,
        expected: impl IntoIterator<Item = S>,
        found: &[String],
    ) -> &Message {
        let expected: Vec<S> = expected.into_iter().collect();
        let expected: Vec<&str> = expected.iter().map(AsRef::as_ref).collect();
        self.check(what, &expected, &found, found == expected)
    }

    #[track_caller]
    fn check_contains(&self, what: &str, expected: &str, found: Option<&str>) -> &Message {
        let contains = found.is_some_and(|found| found.contains(expected));
        self.check(
            &format!("{what}: it does not contain the expected text"),
            &expected,
            &found.unwrap_or("(none)"),
            contains,
        )
    }

    /// Returns the message in the form that failures show.
    fn summary(&self) -> String {
        let lines = self.to_string();
        let lines: Vec<String> = lines.lines().map(|line| format!("  | {line}")).collect();
        format!("The message:\n{}", lines.join("\n"))
    }
}

impl PartialEq for Message {
    fn eq(&self, other: &Message) -> bool {
        self.0.parts == other.0.parts
    }
}

impl Eq for Message {}

/// Shows the decoded message, for test failures: the envelope, the most important header fields, the attachments,
/// and the first 40 lines of the text.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "(envelope: from <{}> to {})", self.sender(), self.recipients().join(", "))?;
        for (name, mailboxes) in [("From", self.from()), ("To", self.to()), ("Cc", self.cc())] {
            if !mailboxes.is_empty() {
                writeln!(f, "{name}: {}", mailboxes.join(", "))?;
            }
        }
        if let Some(subject) = self.subject() {
            writeln!(f, "Subject: {subject}")?;
        }
        for attachment in self.attachments() {
            writeln!(f, "({attachment})")?;
        }
        let (text, kind) = match (self.text(), self.html()) {
            (Some(text), _) => (text, ""),
            (None, Some(html)) => (html, "(HTML)\n"),
            (None, None) => ("", "(no text)"),
        };
        write!(f, "\n{kind}")?;
        let mut lines = text.lines();
        for line in lines.by_ref().take(MAX_LINES) {
            writeln!(f, "{line}")?;
        }
        match lines.count() {
            0 => Ok(()),
            more => write!(f, "({more} more {})", if more == 1 { "line" } else { "lines" }),
        }
    }
}

impl Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = &self.0.parts;
        f.debug_struct("Message")
            .field("sender", &parts.sender)
            .field("mail_parameters", &parts.mail_parameters)
            .field("recipients", &parts.recipients)
            .field("recipient_parameters", &parts.recipient_parameters)
            .field("content", &String::from_utf8_lossy(&parts.content))
            .field("user", &parts.user)
            .field("is_encrypted", &parts.is_encrypted)
            .finish()
    }
}
