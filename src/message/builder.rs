//! The builder of a [`Message`]: its setters, and the tree of parts that it makes of text and attachments.

use std::time::SystemTime;

use super::{
    Attachment, ContentToSign, Mailboxes, Message,
    field_set::{FieldSet, OriginNames},
    header_writer::{Field, Kind, Value, uris},
    mime_part::Part,
};
use crate::{Envelope, Error};

/// Maximum nesting of messages attached to messages. Each level is searched for the boundaries of the levels around it.
const MAX_LEVELS: usize = 50;
/// Value of `List-Unsubscribe-Post` (RFC 8058 §3.1).
const ONE_CLICK: &str = "List-Unsubscribe=One-Click";

const ORIGIN: OriginNames = OriginNames { from: "From", sender: "Sender", date: "Date", id: "Message-ID" };

/// The importance of a message, which some mail programs show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Importance {
    /// Less important than most messages.
    Low,
    /// As important as most messages. No header field is written.
    Normal,
    /// More important than most messages.
    High,
}

/// The parts of a message, before the header fields of the content are added to those of the message.
pub(super) struct Prepared {
    pub fields: Vec<Field>,
    pub part: Part,
    pub levels: usize,
    pub envelope: Option<Envelope>,
}

/// Builds a [`Message`].
///
/// Setters never fail: an invalid value is reported by [`build`](MessageBuilder::build). No value can inject header
/// fields: line endings and other control characters are refused everywhere except in the content of the parts (text,
/// HTML, calendar, report). An [identifier of another message](MessageBuilder::in_reply_to) is left out if it contains
/// a control character.
#[derive(Debug, Default)]
#[must_use]
pub struct MessageBuilder {
    fields: FieldSet,
    importance: Option<Importance>,
    text: Option<String>,
    amp_html: Option<String>,
    html: Option<String>,
    calendar: Option<(String, String)>,
    report: Option<(String, String)>,
    attachments: Vec<Attachment>,
    envelope: Option<Envelope>,
}

impl MessageBuilder {
    /// Adds authors (`From`). If there are several, [`sender`](MessageBuilder::sender) is required.
    pub fn from(mut self, mailboxes: impl Into<Mailboxes>) -> MessageBuilder {
        self.fields.add("From", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Sets the mailbox of the sender (`Sender`), if the sender is not the author.
    pub fn sender(mut self, mailbox: impl Into<Mailboxes>) -> MessageBuilder {
        self.fields.set("Sender", Value::Mailboxes(mailbox.into()));
        self
    }

    /// Adds mailboxes for replies, if replies should not be sent to the author (`Reply-To`).
    pub fn reply_to(mut self, mailboxes: impl Into<Mailboxes>) -> MessageBuilder {
        self.fields.add("Reply-To", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Adds recipients (`To`). A string can name several; for untrusted input, use [`to_one`](MessageBuilder::to_one).
    pub fn to(mut self, mailboxes: impl Into<Mailboxes>) -> MessageBuilder {
        self.fields.add("To", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Adds exactly one recipient, for untrusted input such as a web form. Several recipients, a group, an empty
    /// string or an address without a domain make [`build`](MessageBuilder::build) fail with [`Error::Address`].
    ///
    /// This method may be called several times. For untrusted recipients in [`cc`](MessageBuilder::cc) or
    /// [`bcc`](MessageBuilder::bcc), parse each of them as a [`Mailbox`](super::Mailbox), which is always exactly one
    /// address (possibly without a domain), and pass a `Vec` of them:
    ///
    /// ```
    /// use postino::{Error, Message, message::Mailbox};
    ///
    /// fn invitation(guests: &[String]) -> Result<Message, Error> {
    ///     let guests = guests.iter().map(|guest| guest.parse()).collect::<Result<Vec<Mailbox>, Error>>()?;
    ///     Message::builder().from("host@example.org").bcc(guests).text("You are invited.\n").build()
    /// }
    /// assert!(invitation(&["bob@example.net".to_owned(), "Carol <carol@example.com>".to_owned()]).is_ok());
    /// assert!(invitation(&["bob@example.net, everybody@example.net".to_owned()]).is_err());
    /// ```
    ///
    /// ```
    /// # use postino::{Error, Message};
    /// let input = "bob@example.net, everybody@example.net";
    /// let built = Message::builder().from("shop@example.org").to_one(input).build();
    /// assert!(matches!(built, Err(Error::Address { .. })));
    /// ```
    pub fn to_one(mut self, mailbox: impl Into<Mailboxes>) -> MessageBuilder {
        self.fields.add("To", Value::Mailboxes(mailbox.into().only_one()));
        self
    }

    /// Adds carbon-copy recipients (`Cc`).
    pub fn cc(mut self, mailboxes: impl Into<Mailboxes>) -> MessageBuilder {
        self.fields.add("Cc", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Adds blind-carbon-copy recipients, who are not named in the message that is sent (`Bcc`).
    pub fn bcc(mut self, mailboxes: impl Into<Mailboxes>) -> MessageBuilder {
        self.fields.add("Bcc", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Sets the subject. An empty subject is omitted.
    pub fn subject(mut self, subject: impl Into<String>) -> MessageBuilder {
        self.fields.set("Subject", Value::Text(subject.into()));
        self
    }

    /// Sets the date; the year must be from 1900 to 9999. Defaults to the time of [`build`](MessageBuilder::build).
    pub fn date(mut self, time: SystemTime) -> MessageBuilder {
        self.fields.set("Date", Value::Date(time, 0));
        self
    }

    /// Sets the `Date`, in the time zone that is `minutes_east` minutes east of UTC (negative for zones west of UTC). A
    /// local time shows the recipients what time it was for the author. The offset must be less than a day. If it is
    /// not, or if the year is not between 1900 and 9999, [`build`](MessageBuilder::build) fails.
    ///
    /// ```
    /// use std::time::{Duration, UNIX_EPOCH};
    ///
    /// use postino::Message;
    ///
    /// let time = UNIX_EPOCH + Duration::from_secs(1_767_268_800);
    /// let message = Message::builder().from("alice@example.org").date_with_offset(time, 60).build()?;
    /// assert_eq!(message.header("Date").as_deref(), Some("Thu, 1 Jan 2026 13:00:00 +0100"));
    /// # Ok::<(), postino::Error>(())
    /// ```
    pub fn date_with_offset(mut self, time: SystemTime, minutes_east: i32) -> MessageBuilder {
        self.fields.set("Date", Value::Date(time, minutes_east));
        self
    }

    /// Sets the `Message-ID`, with or without angle brackets. Defaults to a new identifier in the domain of `From`.
    pub fn message_id(mut self, id: impl Into<String>) -> MessageBuilder {
        self.fields.set("Message-ID", Value::Text(id.into()));
        self
    }

    /// Adds the identifiers of the messages that this one replies to, exactly as they appear in those messages
    /// (`In-Reply-To`).
    ///
    /// Real-world identifiers often violate the grammar, and a reply must not fail because of that. Printable ASCII is
    /// sent unchanged. An identifier that has other characters, or is too long for a line (998 octets), is left out,
    /// and a warning is logged. Missing angle brackets are added. Folds and tabs between identifiers count as spaces;
    /// any other line ending is refused.
    pub fn in_reply_to(mut self, ids: impl Into<String>) -> MessageBuilder {
        self.fields.add("In-Reply-To", Value::Text(ids.into()));
        self
    }

    /// Adds the identifiers of the messages in the conversation, oldest first, in the same form as for
    /// [`in_reply_to`](MessageBuilder::in_reply_to) (`References`).
    pub fn references(mut self, ids: impl Into<String>) -> MessageBuilder {
        self.fields.add("References", Value::Text(ids.into()));
        self
    }

    /// Adds a `mailto:` or `https:` URI for unsubscribing (`List-Unsubscribe`, RFC 2369). A comma in the URI is sent as
    /// `%2C`.
    pub fn list_unsubscribe(mut self, uri: impl Into<String>) -> MessageBuilder {
        self.fields.add("List-Unsubscribe", Value::Uris(vec![uri.into()]));
        self
    }

    /// Adds an `https:` URI at which a POST request unsubscribes the recipient without confirmation
    /// (`List-Unsubscribe-Post`, RFC 8058). There can be only one such URI, and all others must be `mailto:`. Mail
    /// programs honour it only in messages with a DKIM signature.
    pub fn one_click_unsubscribe(mut self, uri: impl Into<String>) -> MessageBuilder {
        self.fields.set("List-Unsubscribe-Post", Value::Text(ONE_CLICK.to_owned()));
        self.list_unsubscribe(uri)
    }

    /// Sets the importance (`Importance`, RFC 2156 §5.3.4, and `X-Priority`, which some programs read instead). This
    /// setting replaces fields with these names that were set with [`header`](MessageBuilder::header), except that
    /// [`Importance::Normal`] leaves them as they are. The importance does not affect delivery; for that, see
    /// [`MailOption::Priority`](crate::MailOption::Priority).
    pub fn importance(mut self, importance: Importance) -> MessageBuilder {
        self.importance = Some(importance);
        self
    }

    /// Asks the recipients' mail programs for a read receipt, to be sent to these mailboxes
    /// (`Disposition-Notification-To`, RFC 8098 §2.1). Most programs ask their user first, or ignore the request. To
    /// learn whether a message has arrived, request a delivery report instead (see [`RcptOption`](crate::RcptOption)).
    /// Groups and addresses without a domain are refused by [`build`](MessageBuilder::build).
    pub fn read_receipt_to(mut self, mailboxes: impl Into<Mailboxes>) -> MessageBuilder {
        self.fields.add("Disposition-Notification-To", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Sets or adds a header field. If the field can occur only once in a message, the value replaces the earlier one
    /// or is added to it, as with the field's own setter. Other fields can be added several times.
    ///
    /// The value of an unknown field is free text. It is encoded where it is not ASCII, where it has repeated, leading
    /// or trailing spaces (folding would lose them), or where it contains `=?` or over 900 octets without a space.
    /// `MIME-Version`, `Content-Length`, `Content-MD5` and the `Content-…` fields that the builder writes are refused;
    /// others, such as `Content-Language`, are allowed. `Resent-…` fields are also refused: [`Message::resend`] puts
    /// them in a block before all other fields. `Keywords` takes comma-separated phrases, which must be quoted if they
    /// contain a comma; `List-Unsubscribe` takes `<uri>, <uri>`.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> MessageBuilder {
        let value = value.into();
        match (Kind::of(name), &name.to_ascii_lowercase()[..]) {
            (_, "sender") => self.fields.set(name, Value::Mailboxes(value.into())),
            (Kind::Mailboxes, _) => self.fields.add(name, Value::Mailboxes(value.into())),
            (Kind::Date, _)
            | (_, "subject" | "message-id" | "list-unsubscribe-post" | "importance" | "x-priority") => {
                self.fields.set(name, Value::Text(value));
            }
            (Kind::Uris, _) => match uris(&value) {
                Some(uris) => self.fields.add(name, Value::Uris(uris)),
                None => self.fields.add(name, Value::Text(value)), // refused by `build`
            },
            (Kind::Id | Kind::References | Kind::Phrases, _) => self.fields.add(name, Value::Text(value)),
            _ => self.fields.push(name, Value::Text(value)),
        }
        self
    }

    /// Sets the plain text. Line endings may be LF or CRLF.
    pub fn text(mut self, text: impl Into<String>) -> MessageBuilder {
        self.text = Some(text.into());
        self
    }

    /// Sets the HTML text. If there is also plain text, mail programs show one of the two (`multipart/alternative`).
    pub fn html(mut self, html: impl Into<String>) -> MessageBuilder {
        self.html = Some(html.into());
        self
    }

    /// Sets AMP for Email (`text/x-amp-html`) as an alternative to the text and the HTML. There must be HTML too, for
    /// programs that do not support AMP.
    pub fn amp_html(mut self, html: impl Into<String>) -> MessageBuilder {
        self.amp_html = Some(html.into());
        self
    }

    /// Adds a calendar part (RFC 6047) as an alternative to the text. The method, such as `REQUEST`, `REPLY` or
    /// `CANCEL`, must be the same as in the iCalendar text.
    pub fn calendar(mut self, method: impl Into<String>, text: impl Into<String>) -> MessageBuilder {
        self.calendar = Some((method.into(), text.into()));
        self
    }

    /// Makes the message a machine-readable report (`multipart/report`, RFC 6522). The
    /// [text](MessageBuilder::text) is followed by a part of type `message/KIND` with these fields. Last comes the
    /// [attachment](MessageBuilder::attach), if there is one: the message that the report is about. Examples of kinds
    /// are `delivery-status` (RFC 3464), `disposition-notification` (RFC 8098) and `feedback-report` (RFC 5965).
    /// The fields are lines of text, in groups that are separated by empty lines. Their syntax is not checked.
    ///
    /// The text is required, the fields must be ASCII and not empty, and there can be at most one attachment.
    ///
    /// ```
    /// use postino::{Envelope, Message, message::Attachment};
    ///
    /// let bounced = "From: alice@example.org\nSubject: Hi\n\n";
    /// let message = Message::builder()
    ///     .from("MAILER-DAEMON@mx.example.net")
    ///     .to("alice@example.org")
    ///     .subject("Your message was not delivered")
    ///     .text("Your message to bob@example.net was not delivered: there is no such user.\n")
    ///     .report(
    ///         "delivery-status",
    ///         "Reporting-MTA: dns; mx.example.net\n\n\
    ///          Final-Recipient: rfc822; bob@example.net\nAction: failed\nStatus: 5.1.1\n",
    ///     )
    ///     .attach(Attachment::bytes("", bounced).content_type("text/rfc822-headers"))
    ///     .envelope(Envelope::new("", ["alice@example.org"])?) // a report must not be bounced
    ///     .build()?;
    /// assert!(message.header("Content-Type").unwrap().contains("report-type=delivery-status"));
    /// # Ok::<(), postino::Error>(())
    /// ```
    pub fn report(mut self, kind: impl Into<String>, fields: impl Into<String>) -> MessageBuilder {
        self.report = Some((kind.into(), fields.into()));
        self
    }

    /// Adds an attachment, or an image (or other content) embedded in the HTML text: see [`Attachment::content_id`].
    pub fn attach(mut self, attachment: Attachment) -> MessageBuilder {
        self.attachments.push(attachment);
        self
    }

    /// Sets the envelope explicitly. By default, the envelope is taken from the header fields: an address that occurs
    /// in both `To` and `Cc` is then a recipient twice. To replace the envelope of a finished message, use
    /// [`Message::with_envelope`].
    pub fn envelope(mut self, envelope: Envelope) -> MessageBuilder {
        self.envelope = Some(envelope);
        self
    }

    /// Builds the message. Bytes are inspected to choose an encoding; files and readers are not opened.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if an address is invalid. [`Error::Message`] for anything else, such as a missing `From`, a
    /// value that its field does not allow (the error text names the field), or messages nested over 50 levels deep.
    pub fn build(self) -> Result<Message, Error> {
        let Prepared { mut fields, part, levels, envelope } = self.prepared(false)?;
        fields.extend(part.fields);
        let message = Message::new(fields, part.content, part.eight_bit).with_levels(levels);
        Ok(message.with_given_envelope(envelope))
    }

    /// Builds the content of a message that is to be signed with OpenPGP or S/MIME (`multipart/signed`, RFC 1847), in
    /// a form that all servers accept. The whole content is held in memory. Files and readers are read by this call,
    /// so it can block.
    ///
    /// # Errors
    ///
    /// The same as for [`build`](MessageBuilder::build). [`Error::Source`] if a file or reader fails.
    /// [`Error::Message`] if an attached message is not ASCII.
    pub fn build_to_sign(self) -> Result<ContentToSign, Error> {
        ContentToSign::new(self.prepared(true)?)
    }

    /// Checks everything, and builds the fields and the content.
    fn prepared(mut self, is_to_sign: bool) -> Result<Prepared, Error> {
        if let Some((name, _)) = self.fields.all.iter().find(|(name, _)| is_resent(name)) {
            return Err(Error::Message(
                format!("the header {name} can be set only by Message::resend").into(),
            ));
        }
        let levels = self.attachments.iter().map(Attachment::levels).max().unwrap_or(0);
        if levels > MAX_LEVELS {
            return Err(Error::Message("attached messages are nested more than 50 levels deep".into()));
        }
        let importance = match self.importance {
            Some(Importance::High) => Some(("high", "1")),
            Some(Importance::Low) => Some(("low", "5")),
            Some(Importance::Normal) | None => None,
        };
        if let Some((importance, priority)) = importance {
            self.fields.set("Importance", Value::Text(importance.to_owned()));
            self.fields.set("X-Priority", Value::Text(priority.to_owned()));
        }
        let mut fields = self.fields.build(&ORIGIN)?;
        check_unsubscribe(&fields)?;
        let envelope = self.envelope.clone();
        let part = self.into_part(is_to_sign)?;
        fields.push(Field::of_words("MIME-Version", &["1.0".to_owned()])?);
        Ok(Prepared { fields, part, levels, envelope })
    }

    /// mixed(alternative(text, AMP, related(html, inline parts), calendar), attachments)
    fn into_part(self, is_to_sign: bool) -> Result<Part, Error> {
        let own = |part: Part| if is_to_sign { part.without_outer_spaces() } else { Ok(part) };
        let (inline, attached): (Vec<_>, Vec<_>) =
            self.attachments.into_iter().partition(|attachment| attachment.content_id.is_some());
        if self.report.is_some() && (self.text.is_none() || attached.len() > 1) {
            let why = "a report requires plain text, and can have at most one attachment (RFC 6522)";
            return Err(Error::Message(why.into()));
        }
        let mut alternatives = Vec::new();
        let has_other = self.html.is_some() || self.calendar.is_some() || !attached.is_empty();
        if self.text.is_some() || !has_other {
            let text = self.text.unwrap_or_default();
            alternatives.push(own(Part::text("text/plain; charset=utf-8", &text)?)?);
        }
        match &self.amp_html {
            Some(_) if self.html.is_none() => {
                return Err(Error::Message(
                    "AMP requires an HTML version for programs that do not support AMP".into(),
                ));
            }
            Some(amp_html) => {
                alternatives.push(own(Part::text("text/x-amp-html; charset=utf-8", amp_html)?)?);
            }
            None => {}
        }
        match self.html {
            Some(html) => {
                let mut related = vec![own(Part::text("text/html; charset=utf-8", &html)?)?];
                for attachment in inline {
                    related.push(own(Part::attachment(attachment)?)?);
                }
                alternatives.push(Part::multipart("related", related)?);
            }
            None if inline.is_empty() => {}
            None => {
                return Err(Error::Message("an attachment with a Content-ID requires HTML text".into()));
            }
        }
        if let Some((method, text)) = &self.calendar {
            alternatives.push(own(Part::calendar(method, text)?)?);
        }
        if attached.is_empty() && self.report.is_none() {
            return Part::multipart("alternative", alternatives);
        }
        let mut parts = Vec::new();
        if !alternatives.is_empty() {
            parts.push(Part::multipart("alternative", alternatives)?);
        }
        if let Some((kind, fields)) = &self.report {
            parts.push(Part::report(kind, fields)?);
        }
        for attachment in attached {
            parts.push(own(Part::attachment(attachment)?)?);
        }
        match &self.report {
            Some((kind, _)) => Part::combined("report", &[format!("report-type={kind};")], parts),
            None => Part::multipart("mixed", parts),
        }
    }
}

fn is_resent(name: &str) -> bool {
    name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("Resent-"))
}

/// Checks that a message with one-click unsubscribing has exactly one `https:` URI and no `http:` URI (RFC 8058 §3.1).
fn check_unsubscribe(fields: &[Field]) -> Result<(), Error> {
    let find = |name: &str| fields.iter().find(|field| field.name().eq_ignore_ascii_case(name));
    let Some(post) = find("List-Unsubscribe-Post") else { return Ok(()) };
    if post.value() != ONE_CLICK {
        return Err(Error::Message(format!("List-Unsubscribe-Post must be {ONE_CLICK:?}").into()));
    }
    let uris = find("List-Unsubscribe").map(Field::value).unwrap_or_default().to_ascii_lowercase();
    match uris.matches("<https://").count() {
        1 if !uris.contains("<http://") => Ok(()),
        _ => Err(Error::Message(
            "List-Unsubscribe-Post requires one https: URI and no http: URI in List-Unsubscribe".into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Resent, *};

    #[test]
    fn adding_to_a_field_after_many_others_is_fast() {
        // This would take minutes if every call searched all fields.
        const MANY: usize = 200_000;
        let others = (0..MANY).fold(Message::builder(), |message, _| message.header("X-Other", "x"));
        let message = (0..MANY).fold(others, |message, _| message.to("a@example.org").subject("x"));
        assert_eq!(message.fields.all.len(), MANY + 2);
    }

    #[test]
    fn messages_are_nested_up_to_a_limit() {
        let around = |inner: Option<Message>| {
            let outer = Message::builder().from("a@example.org");
            inner.into_iter().fold(outer, |outer, inner| outer.attach(Attachment::message(inner))).build()
        };
        let mut message = around(None).unwrap();
        for _ in 0..MAX_LEVELS {
            message = around(Some(message)).unwrap();
        }
        assert!(message.resend(Resent::by("a@b")).is_ok_and(|resent| resent.levels() == MAX_LEVELS));
        let error = around(Some(message)).unwrap_err();
        assert_eq!(error.to_string(), "attached messages are nested more than 50 levels deep");
    }

    #[test]
    fn a_second_sender_replaces_the_first() {
        let message = Message::builder().from("a@example.org").sender("b@example.org");
        let message = message.header("sender", "c@example.org").build().unwrap();
        assert_eq!(message.header("Sender").as_deref(), Some("c@example.org"));
    }

    #[test]
    fn importance_is_written_for_all_programs_or_not_at_all() {
        let values = |importance: Option<Importance>| {
            let message = Message::builder().from("a@example.org").importance(Importance::High);
            let message = importance.into_iter().fold(message, MessageBuilder::importance).build().unwrap();
            ["Importance", "X-Priority"].map(|name| message.header(name).unwrap_or_default())
        };
        assert_eq!(values(None), ["high", "1"]);
        assert_eq!(values(Some(Importance::Low)), ["low", "5"]);
        assert_eq!(values(Some(Importance::Normal)), ["", ""]);
    }

    #[test]
    fn importance_and_a_header_of_the_same_name_are_written_once() {
        let message =
            || Message::builder().from("a@example.org").header("x-priority", "3").header("X-PRIORITY", "4");
        for (message, values) in [
            (message().importance(Importance::High), ["high", "1"]),
            (
                message().header("importance", "x").importance(Importance::Low).header("X-Priority", "2"),
                ["low", "5"],
            ),
            (message().header("Importance", "low").importance(Importance::Normal), ["low", "4"]),
            (message(), ["", "4"]),
        ] {
            let text =
                String::from_utf8(message.build().unwrap().to_bytes().unwrap()).unwrap().to_lowercase();
            for (name, value) in ["importance: ", "x-priority: "].into_iter().zip(values) {
                let found: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(name)).collect();
                assert_eq!(found, if value.is_empty() { vec![] } else { vec![value] }, "{text}");
            }
        }
    }

    #[test]
    fn a_read_receipt_goes_to_mailboxes_that_are_checked() {
        let message = Message::builder().from("a@example.org").read_receipt_to("Alice <a@example.org>");
        let message = message.build().unwrap();
        assert_eq!(message.header("Disposition-Notification-To").as_deref(), Some("Alice <a@example.org>"));
        let invalid = Message::builder().from("a@example.org").read_receipt_to("a@").build();
        assert!(
            matches!(invalid, Err(Error::Address { header: Some(name), .. }) if name.starts_with("Disposition"))
        );
        let built = |to: &str| Message::builder().from("a@example.org").read_receipt_to(to).build();
        for (to, why) in [("a@x, root", "no @"), ("Team: a@x;", "a group"), ("none:;, a@x", "a group")] {
            let error = built(to).unwrap_err().to_string();
            assert!(error.starts_with("Disposition-Notification-To: ") && error.contains(why), "{error}");
        }
        assert!(built("a@x, b@[192.0.2.1]").is_ok());
    }

    #[test]
    fn a_report_has_its_parts_in_order_and_names_its_kind() {
        let builder = || {
            Message::builder()
                .from("a@example.org")
                .text("Grüße\n")
                .report("delivery-status", "A: b\n\nC: d\n")
        };
        let original = || Attachment::bytes("", "Subject: x\n\n").content_type("message/rfc822");
        for (message, count) in
            [(builder(), 2), (builder().attach(original()), 3), (builder().html("<p>"), 2)]
        {
            let message = message.build().unwrap();
            let kind = message.header("Content-Type").unwrap();
            assert!(kind.starts_with("multipart/report; report-type=delivery-status; boundary="), "{kind}");
            let boundary = kind.split('"').nth(1).unwrap();
            let sent = String::from_utf8(message.to_bytes().unwrap()).unwrap();
            let parts: Vec<_> = sent.split(&format!("--{boundary}")).skip(1).collect();
            assert_eq!(parts.len(), count + 1, "{sent}");
            let fields = "Content-Type: message/delivery-status\r\nContent-Transfer-Encoding: 7bit\r\n\r\nA: b\r\n\r\nC: d\r\n";
            assert!(parts[1].contains(fields), "{sent}");
        }
        let built = |builder: MessageBuilder| builder.build().map(drop);
        for bad in [
            built(builder().attach(original()).attach(original())),
            built(Message::builder().from("a@example.org").report("delivery-status", "A: b\n")),
            built(builder().report("a; b", "A: b\n")),
            built(builder().report("", "A: b\n")),
            built(builder().report("x", "A: ü\n")),
            built(builder().report("x", "A: b\0\n")),
            built(builder().report("x", "")),
        ] {
            assert!(matches!(bad, Err(Error::Message(_))), "{bad:?}");
        }
    }

    #[test]
    fn amp_stands_between_text_and_html_and_needs_html() {
        let message = || Message::builder().from("a@example.org").text("t").amp_html("<html \u{26a1}4email>");
        let error = message().build().unwrap_err();
        assert!(error.to_string().contains("AMP requires an HTML version"), "{error}");
        let sent = String::from_utf8(message().html("<p>").build().unwrap().to_bytes().unwrap()).unwrap();
        let kinds = ["multipart/alternative", "text/plain", "text/x-amp-html", "text/html"];
        let places = kinds.map(|kind| sent.find(&format!("Content-Type: {kind}")).unwrap());
        assert!(places.is_sorted(), "{sent}");
    }

    #[test]
    fn repeated_reply_to_mailboxes_add_up() {
        let message = Message::builder().from("a@example.org").reply_to("b@example.org");
        let message = message.reply_to("c@example.org").build().unwrap();
        assert_eq!(message.header("Reply-To").as_deref(), Some("b@example.org, c@example.org"));
    }
}
