//! Composed messages: their fields, their content, and the builder.

use std::{fmt, io::Read, iter, sync::Arc, time::SystemTime};

use email_format::{Email, rfc5322::Parsable};

use super::{
    Attachment, Body, Mail, Mailboxes, READ_ALREADY, ServerSupport,
    attachment::Bytes,
    entity::{self, EightBit, Entity},
    field::{Field, Kind, Value, is_nested_too_deep, uris},
    header_length,
    mailbox::Item,
    stream::{Piece, Stream, claim_readers},
};
use crate::{Address, Envelope, Error};

/// Maximum nesting of messages attached to messages. Each level is searched for the boundaries of those around it.
const MAX_LEVELS: usize = 50;
/// Value of `List-Unsubscribe-Post` (RFC 8058 §3.1).
const ONE_CLICK: &str = "List-Unsubscribe=One-Click";

/// Maximum size of a message in memory that is encoded at once, in octets.
const MAX_AT_ONCE: u64 = 64 * 1024;

/// A composed message: header fields, text, attachments. Made by [`Message::builder`], or from an [`Email`].
///
/// ```
/// use postino::{Mail, Message};
///
/// let message = Message::builder()
///     .from("Alice <alice@example.org>")
///     .to("Bob <bob@example.net>")
///     .subject("Grüße")
///     .text("Hello, Bob!\n")
///     .build()?;
/// assert_eq!(message.envelope()?.recipients(), ["bob@example.net"]);
/// # Ok::<(), postino::Error>(())
/// ```
///
/// A message is sent as a stream: attachments from a path or reader are read and encoded while it is sent, in constant
/// memory. It is sent as ASCII in lines of at most 998 octets (78 where they can be folded), so that any server accepts
/// it. Text beyond ASCII is sent unencoded if the server offers 8BITMIME, unless that could change it (a line of more
/// than 998 octets, or one that begins with `From `). An [attached](Attachment::content_type) `message/rfc822` part
/// beyond ASCII needs 8BITMIME, because it may not be encoded.
///
/// Addresses beyond ASCII are sent unchanged (RFC 6532) to a server that offers SMTPUTF8. For other servers, domains
/// become A-labels, also in the header fields, with the feature `idna`. If that does not make every address ASCII,
/// sending fails with [`Error::Unsupported`] before MAIL. Names and subjects in any language work with every server.
///
/// The envelope is taken from the fields: the sender is the first address in `Sender`, or else in `From`, and the
/// recipients are all addresses in `To`, `Cc` and `Bcc`. [`MessageBuilder::envelope`] overrides it. `Bcc` is not sent.
/// Clones share their content, including readers.
#[derive(Clone)]
pub struct Message {
    fields: Arc<[Field]>,
    /// Number of fields at the start that form the newest block of `Resent-` fields.
    resent: usize,
    content: Arc<[Arc<Piece>]>,
    eight_bit: EightBit,
    /// Number of levels of messages in it.
    levels: usize,
    envelope: Option<Envelope>,
}

impl Message {
    /// Creates a builder for a message.
    pub fn builder() -> MessageBuilder {
        MessageBuilder::default()
    }

    /// Returns the value of the first field with this name, unfolded, and encoded if it is not ASCII. The name is
    /// case-insensitive.
    ///
    /// ```
    /// # use postino::Message;
    /// let message = Message::builder().from("alice@example.org").to("bob@example.net").build()?;
    /// assert_eq!(message.header("to").as_deref(), Some("bob@example.net"));
    /// assert!(message.header("Message-ID").is_some_and(|id| id.ends_with("@example.org>")));
    /// # Ok::<(), postino::Error>(())
    /// ```
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        self.fields.iter().find(|field| field.name().eq_ignore_ascii_case(name)).map(Field::value)
    }

    /// Returns the whole message, without `Bcc`, as it is sent to any server: for a copy in the "Sent" folder, for
    /// instance.
    ///
    /// # Errors
    ///
    /// [`Error::Source`] if a file or reader fails; [`Error::Message`] if a reader was already read. Readers are
    /// consumed by this call.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let mut reader = self.body()?.into_reader().map_err(Error::Source)?;
        reader.read_to_end(&mut bytes).map_err(Error::Source)?;
        Ok(bytes)
    }

    /// Returns the message with a block of `Resent-` fields before all others, to resend it (RFC 5322 §3.6.6). The
    /// envelope is taken from them. `Resent-Date` and `Resent-Message-ID` are added if they are missing.
    ///
    /// ```
    /// # use postino::{Mail, Message, message::Resent};
    /// let message = Message::builder().from("alice@example.org").to("bob@example.net").build()?;
    /// let again = message.resend(Resent::new().from("Bob <bob@example.net>").to("carol@example.com"))?;
    /// assert_eq!(again.envelope()?.recipients(), ["carol@example.com"]);
    /// # Ok::<(), postino::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if an address is invalid; [`Error::Message`] if there is no `Resent-From`, or if a value is not
    /// allowed in its field. The text names the field.
    pub fn resend(&self, resent: Resent) -> Result<Message, Error> {
        let mut block = resent.0.build()?;
        stamp(&mut block, ["Resent-From", "Resent-Sender", "Resent-Date", "Resent-Message-ID"], &resent.0)?;
        let resent = block.len();
        block.extend(self.fields.iter().cloned());
        Ok(Message { fields: block.into(), resent, envelope: None, ..self.clone() })
    }

    /// Returns the pieces for an attached message; `None` if an address in its header cannot be written in ASCII.
    pub(super) fn pieces_in_ascii(&self) -> Option<Vec<Arc<Piece>>> {
        self.fields_in_ascii().map(|fields| self.pieces(&fields))
    }

    fn pieces(&self, fields: &[Field]) -> Vec<Arc<Piece>> {
        let header = entity::header("", fields, self.eight_bit);
        iter::once(header).chain(self.content.iter().cloned()).collect()
    }

    fn sent_fields(&self) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(|field| !field.is_bcc())
    }

    fn fields_in_ascii(&self) -> Option<Vec<Field>> {
        self.sent_fields().map(Field::to_ascii).collect()
    }

    pub(super) fn eight_bit(&self) -> EightBit {
        self.eight_bit
    }

    pub(super) fn levels(&self) -> usize {
        self.levels
    }

    fn open(&self, offer: ServerSupport) -> Result<Body<'_>, Error> {
        let eight_bit = offer.eight_bit;
        let in_ascii = if offer.utf8_headers { None } else { self.fields_in_ascii() };
        let fields = in_ascii.unwrap_or_else(|| self.sent_fields().cloned().collect());
        let needs_utf8 = fields.iter().any(|field| !field.as_str().is_ascii());
        let pieces = self.pieces(&fields);
        let claimed = claim_readers(&pieces).ok_or_else(|| Error::Message(READ_ALREADY.into()))?;
        let (claims, readers) = claimed;
        let is_ascii = !needs_utf8 && !self.eight_bit.is_sent(eight_bit);
        let length = pieces.iter().try_fold(0_u64, |sum, piece| sum.checked_add(piece.length(eight_bit)?));
        let body = match length {
            // A small message in memory need not be read piece by piece, perhaps on another thread.
            Some(..=MAX_AT_ONCE) => {
                let mut bytes = Vec::new();
                Stream::open(&pieces, readers, eight_bit)
                    .and_then(|(mut stream, _)| stream.read_to_end(&mut bytes))
                    .map_err(Error::Source)?;
                Body::bytes(bytes)
            }
            _ => Body::deferred(move || {
                let (stream, size) = Stream::open(&pieces, readers, eight_bit)?;
                let body = Body::reader(stream);
                Ok(match size {
                    Some(size) => body.with_size(size),
                    None => body,
                })
            }),
        };
        let body = if is_ascii { body.seven_bit() } else { body };
        let body = body.claiming(claims);
        let body = if self.eight_bit == EightBit::Always { body.eight_bit() } else { body };
        Ok(if needs_utf8 { body.utf8_headers() } else { body })
    }

    /// Returns the complete text of fields, including `Bcc`.
    fn header_text(fields: &[Field]) -> String {
        fields.iter().map(Field::as_str).collect()
    }
}

impl Mail for Message {
    fn envelope(&self) -> Result<Envelope, Error> {
        if let Some(envelope) = &self.envelope {
            return Ok(envelope.clone());
        }
        let fields = match self.resent {
            0 => &self.fields[..],
            newest => &self.fields[..newest],
        };
        Envelope::from_headers(Message::header_text(fields).as_bytes())
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        self.open(ServerSupport::new())
    }

    fn body_for(&self, offer: ServerSupport) -> Result<Body<'_>, Error> {
        self.open(offer)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<String> =
            self.fields.iter().map(|field| format!("{}: {}", field.name(), field.value())).collect();
        f.debug_struct("Message").field("fields", &fields).field("envelope", &self.envelope).finish()
    }
}

/// Converts an [`Email`]: its fields are refolded to this crate's line length, and its body is kept. Nothing is added.
impl From<Email> for Message {
    fn from(email: Email) -> Message {
        let mut whole = email.as_bytes();
        let content = whole.split_off(header_length(&whole).unwrap_or(whole.len()));
        let header = String::from_utf8_lossy(&whole);
        let fields = header.split("\r\n").filter(|line| !line.is_empty()).map(Field::refolded).collect();
        let content = vec![Piece::text(String::from_utf8_lossy(&content))];
        let content = with_line_end(content).into();
        Message { fields, resent: 0, content, eight_bit: EightBit::Never, levels: 0, envelope: None }
    }
}

/// Converts a [`Message`], including `Bcc`, with the whole body in memory.
///
/// # Errors
///
/// Those of [`Message::to_bytes`]; [`Error::Message`] if email-format cannot read it.
impl TryFrom<Message> for Email {
    type Error = Error;

    fn try_from(message: Message) -> Result<Email, Error> {
        let unreadable = || Error::Message("email-format cannot read the message".into());
        if message.fields.iter().any(|field| is_nested_too_deep(field.as_str())) {
            return Err(unreadable());
        }
        let sent = message.to_bytes()?;
        let content = &sent[header_length(&sent).unwrap_or(sent.len())..];
        let fields: Vec<Field> =
            message.fields.iter().map(|field| field.to_ascii().unwrap_or_else(|| field.clone())).collect();
        let mut whole = Message::header_text(&fields).into_bytes();
        whole.extend_from_slice(b"\r\n");
        whole.extend_from_slice(content);
        let (email, _) = Email::parse(&whole).map_err(|_| unreadable())?;
        // After a field that it cannot read, email-format finds no body.
        let is_whole = email.get_body().is_some_and(|body| body.0 == content);
        if is_whole { Ok(email) } else { Err(unreadable()) }
    }
}

/// Fields that are being set.
#[derive(Debug, Clone, Default)]
struct Fields {
    all: Vec<(String, Value)>,
    /// Positions of the fields that occur once: only a few, however many others there are.
    once: Vec<usize>,
}

impl Fields {
    fn get(&self, name: &str) -> Option<&Value> {
        self.all.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Finds a field that was [set](Fields::set) or [added](Fields::add).
    fn find(&mut self, name: &str) -> Option<&mut Value> {
        let at = self.once.iter().find(|at| self.all[**at].0.eq_ignore_ascii_case(name))?;
        Some(&mut self.all[*at].1)
    }

    /// Appends a field after all others.
    fn push(&mut self, name: &str, value: Value) {
        self.all.push((name.to_owned(), value));
    }

    /// Sets a field, replacing an existing one.
    fn set(&mut self, name: &str, value: Value) {
        match self.find(name) {
            Some(there) => *there = value,
            None => {
                self.once.push(self.all.len());
                self.push(name, value);
            }
        }
    }

    /// Adds to an existing field, or sets it.
    fn add(&mut self, name: &str, mut value: Value) {
        match (self.find(name), &mut value) {
            (None, _) => self.set(name, value),
            (Some(Value::Mailboxes(there)), Value::Mailboxes(more)) => there.append(more),
            (Some(Value::Uris(there)), Value::Uris(more)) => there.append(more),
            (Some(Value::Text(there)), Value::Text(more)) => {
                there.push_str(if Kind::of(name) == Kind::Phrases { ", " } else { " " });
                there.push_str(more);
            }
            (Some(_), _) => self.push(name, value),
        }
    }

    fn build(&self) -> Result<Vec<Field>, Error> {
        self.all.iter().filter_map(|(name, value)| Field::new(name, value).transpose()).collect()
    }
}

/// Adds the date and the identifier to a block of fields if they are missing. The block must have a From.
fn stamp(block: &mut Vec<Field>, names: [&str; 4], fields: &Fields) -> Result<(), Error> {
    let [from, sender, date, id] = names;
    let has = |block: &[Field], name: &str| block.iter().any(|field| field.name().eq_ignore_ascii_case(name));
    let authors = match fields.get(from) {
        Some(Value::Mailboxes(mailboxes)) => mailboxes.read()?,
        _ => Vec::new(),
    };
    let Some(Item::Mailbox(author)) = authors.first() else {
        return Err(Error::Message(format!("the message has no {from}").into()));
    };
    if authors.len() > 1 && !has(block, sender) {
        // RFC 5322 §3.6.2
        return Err(Error::Message(format!("several in {from} need a {sender}").into()));
    }
    if !has(block, date) {
        block.push(Field::now(date)?);
    }
    if !has(block, id) {
        let author = author.address().without_utf8().ok();
        let domain = author.as_ref().and_then(Address::domain);
        block.push(Field::unique_id(id, domain.unwrap_or("localhost"))?);
    }
    Ok(())
}

/// Builds a [`Message`].
///
/// Setters never fail: an invalid value is reported by [`build`](MessageBuilder::build). No value can inject header
/// fields: line ends and other control characters are refused everywhere except in texts, or left out of [identifiers
/// of other messages](MessageBuilder::in_reply_to).
#[derive(Debug, Default)]
#[must_use]
pub struct MessageBuilder {
    fields: Fields,
    text: Option<String>,
    html: Option<String>,
    calendar: Option<(String, String)>,
    attachments: Vec<Attachment>,
    envelope: Option<Envelope>,
}

impl MessageBuilder {
    /// Adds authors (`From`). If there are several, [`sender`](MessageBuilder::sender) is required.
    pub fn from(mut self, mailboxes: impl Into<Mailboxes>) -> MessageBuilder {
        self.fields.add("From", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Sets the one mailbox that sends the message, if it is not the author (`Sender`).
    pub fn sender(mut self, mailbox: impl Into<Mailboxes>) -> MessageBuilder {
        self.fields.set("Sender", Value::Mailboxes(mailbox.into()));
        self
    }

    /// Adds mailboxes for replies, if replies should not be sent to the author (`Reply-To`).
    pub fn reply_to(mut self, mailboxes: impl Into<Mailboxes>) -> MessageBuilder {
        self.fields.add("Reply-To", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Adds recipients (`To`). Text may name several: for untrusted input, use [`to_one`](MessageBuilder::to_one).
    pub fn to(mut self, mailboxes: impl Into<Mailboxes>) -> MessageBuilder {
        self.fields.add("To", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Adds exactly one recipient, for untrusted input, such as from a web form. Several recipients, a group, an empty
    /// text or an address without a domain make [`build`](MessageBuilder::build) fail with [`Error::Address`].
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

    /// Adds recipients of a copy (`Cc`).
    pub fn cc(mut self, mailboxes: impl Into<Mailboxes>) -> MessageBuilder {
        self.fields.add("Cc", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Adds recipients of a blind copy, who are not named in the message that is sent (`Bcc`).
    pub fn bcc(mut self, mailboxes: impl Into<Mailboxes>) -> MessageBuilder {
        self.fields.add("Bcc", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Sets the subject. An empty subject is omitted.
    pub fn subject(mut self, subject: impl Into<String>) -> MessageBuilder {
        self.fields.set("Subject", Value::Text(subject.into()));
        self
    }

    /// Sets the date, in the years 1900 to 9999. Defaults to the time of [`build`](MessageBuilder::build).
    pub fn date(mut self, time: SystemTime) -> MessageBuilder {
        self.fields.set("Date", Value::Date(time));
        self
    }

    /// Sets the `Message-ID`, with or without angle brackets. Defaults to a new one in the domain of `From`.
    pub fn message_id(mut self, id: impl Into<String>) -> MessageBuilder {
        self.fields.set("Message-ID", Value::Text(id.into()));
        self
    }

    /// Adds the identifiers of the messages that this one replies to, exactly as those messages have them
    /// (`In-Reply-To`).
    ///
    /// Real identifiers often break the grammar, and a reply must not fail because of that. Printable ASCII is sent
    /// unchanged. An identifier with other characters, or too long for a line (998 octets), is left out, and a `warn`
    /// is logged. Identifiers without angle brackets get them. Folds and tabs between identifiers count as white space;
    /// any other line end is refused.
    pub fn in_reply_to(mut self, ids: impl Into<String>) -> MessageBuilder {
        self.fields.add("In-Reply-To", Value::Text(ids.into()));
        self
    }

    /// Adds the identifiers of the conversation, oldest first, in the same form as for
    /// [`in_reply_to`](MessageBuilder::in_reply_to) (`References`).
    pub fn references(mut self, ids: impl Into<String>) -> MessageBuilder {
        self.fields.add("References", Value::Text(ids.into()));
        self
    }

    /// Adds a URI for unsubscribing (`List-Unsubscribe`, RFC 2369), `mailto:` or `https:`. A comma in it is sent as
    /// `%2C`.
    pub fn list_unsubscribe(mut self, uri: impl Into<String>) -> MessageBuilder {
        self.fields.add("List-Unsubscribe", Value::Uris(vec![uri.into()]));
        self
    }

    /// Adds an `https:` URI that unsubscribes on a POST, without confirmation (`List-Unsubscribe-Post`, RFC 8058).
    /// There can be only one, and any other URI must be `mailto:`. Mail programs honour it in messages with a DKIM
    /// signature.
    pub fn one_click_unsubscribe(mut self, uri: impl Into<String>) -> MessageBuilder {
        self.fields.set("List-Unsubscribe-Post", Value::Text(ONE_CLICK.to_owned()));
        self.list_unsubscribe(uri)
    }

    /// Sets or adds any field. For a field that occurs once in a message, the value replaces the earlier one or is
    /// added to it, as with the field's own setter. Other fields can be added several times.
    ///
    /// The value of an unknown field is free text. It is encoded where it is not ASCII, where it has repeated, leading
    /// or trailing spaces (folding would lose them), and where it has `=?` or more than 900 octets without a space.
    /// `MIME-Version` and the `Content-…` fields that the builder writes are refused; `Content-Language` and others are
    /// allowed. `Resent-…` fields are refused, too: [`Message::resend`] puts them in a block before all others.
    /// `Keywords` takes phrases separated by commas, quoted if they contain a comma; `List-Unsubscribe` takes
    /// `<uri>, <uri>`.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> MessageBuilder {
        let value = value.into();
        match (Kind::of(name), &name.to_ascii_lowercase()[..]) {
            (_, "sender") => self.fields.set(name, Value::Mailboxes(value.into())),
            (Kind::Mailboxes, _) => self.fields.add(name, Value::Mailboxes(value.into())),
            (Kind::Date, _) | (_, "subject" | "message-id" | "list-unsubscribe-post") => {
                self.fields.set(name, Value::Text(value));
            }
            (Kind::Uris, _) => match uris(&value) {
                Some(uris) => self.fields.add(name, Value::Uris(uris)),
                None => self.fields.add(name, Value::Text(value)), // refused when it is built
            },
            (Kind::Id | Kind::References | Kind::Phrases, _) => self.fields.add(name, Value::Text(value)),
            _ => self.fields.push(name, Value::Text(value)),
        }
        self
    }

    /// Sets the plain text. Line ends may be LF or CRLF.
    pub fn text(mut self, text: impl Into<String>) -> MessageBuilder {
        self.text = Some(text.into());
        self
    }

    /// Sets the HTML text. If there is also a plain text, mail programs choose one (`multipart/alternative`).
    pub fn html(mut self, html: impl Into<String>) -> MessageBuilder {
        self.html = Some(html.into());
        self
    }

    /// Adds a calendar part (RFC 6047) as an alternative to the text. The method is `REQUEST`, `REPLY` or `CANCEL`, for
    /// instance, and must also be in the iCalendar text.
    pub fn calendar(mut self, method: impl Into<String>, text: impl Into<String>) -> MessageBuilder {
        self.calendar = Some((method.into(), text.into()));
        self
    }

    /// Adds an image (or other content) that the HTML text shows as `cid:` with this id. For files and readers, use
    /// [`Attachment::content_id`].
    pub fn inline(
        self,
        id: impl Into<String>,
        content_type: impl Into<String>,
        bytes: impl Into<Bytes>,
    ) -> MessageBuilder {
        self.attach(Attachment::bytes("", bytes).content_type(content_type).content_id(id))
    }

    /// Adds an attachment.
    pub fn attach(mut self, attachment: Attachment) -> MessageBuilder {
        self.attachments.push(attachment);
        self
    }

    /// Sets the envelope, regardless of the header fields. Defaults to the envelope taken from them.
    pub fn envelope(mut self, envelope: Envelope) -> MessageBuilder {
        self.envelope = Some(envelope);
        self
    }

    /// Builds the message. Bytes are inspected to choose an encoding; files and readers are not opened.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if an address is invalid. [`Error::Message`] if there is no `From`, if a value is not allowed
    /// in its field (the text names the field), or if attached messages are nested more than 50 levels deep.
    pub fn build(self) -> Result<Message, Error> {
        if let Some((name, _)) = self.fields.all.iter().find(|(name, _)| is_resent(name)) {
            return Err(Error::Message(format!("the header {name} is made by Message::resend").into()));
        }
        let levels = self.attachments.iter().map(Attachment::levels).max().unwrap_or(0);
        if levels > MAX_LEVELS {
            return Err(Error::Message("messages are attached to messages more than 50 levels deep".into()));
        }
        let mut fields = self.fields.build()?;
        stamp(&mut fields, ["From", "Sender", "Date", "Message-ID"], &self.fields)?;
        check_unsubscribe(&fields)?;
        let envelope = self.envelope.clone();
        let entity = self.entity()?;
        let eight_bit = entity.eight_bit;
        fields.push(Field::of_words("MIME-Version", &["1.0".to_owned()])?);
        fields.extend(entity.fields);
        Ok(Message {
            fields: fields.into(),
            resent: 0,
            content: with_line_end(entity.content).into(),
            eight_bit,
            levels,
            envelope,
        })
    }

    /// mixed(alternative(text, related(html, inline parts), calendar), attachments)
    fn entity(self) -> Result<Entity, Error> {
        let (shown, sent_along): (Vec<_>, Vec<_>) =
            self.attachments.into_iter().partition(|attachment| attachment.content_id.is_some());
        let mut texts = Vec::new();
        let has_other = self.html.is_some() || self.calendar.is_some() || !sent_along.is_empty();
        if self.text.is_some() || !has_other {
            texts.push(Entity::text("text/plain; charset=utf-8", &self.text.unwrap_or_default())?);
        }
        match self.html {
            Some(html) => {
                let mut related = vec![Entity::text("text/html; charset=utf-8", &html)?];
                for attachment in shown {
                    related.push(Entity::attachment(attachment)?);
                }
                texts.push(Entity::multipart("related", related)?);
            }
            None if shown.is_empty() => {}
            None => {
                return Err(Error::Message("a part with a Content-ID needs an HTML text to show it".into()));
            }
        }
        if let Some((method, text)) = &self.calendar {
            texts.push(Entity::calendar(method, text)?);
        }
        if sent_along.is_empty() {
            return Entity::multipart("alternative", texts);
        }
        let mut parts = Vec::new();
        if !texts.is_empty() {
            parts.push(Entity::multipart("alternative", texts)?);
        }
        for attachment in sent_along {
            parts.push(Entity::attachment(attachment)?);
        }
        Entity::multipart("mixed", parts)
    }
}

fn is_resent(name: &str) -> bool {
    name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("Resent-"))
}

/// Checks that one-click unsubscribing has exactly one `https:` URI, and no `http:` URI beside it (RFC 8058 §3.1).
fn check_unsubscribe(fields: &[Field]) -> Result<(), Error> {
    let find = |name: &str| fields.iter().find(|field| field.name().eq_ignore_ascii_case(name));
    let Some(post) = find("List-Unsubscribe-Post") else { return Ok(()) };
    if post.value() != ONE_CLICK {
        return Err(Error::Message(format!("List-Unsubscribe-Post can only be {ONE_CLICK:?}").into()));
    }
    let uris = find("List-Unsubscribe").map(Field::value).unwrap_or_default().to_ascii_lowercase();
    match uris.matches("<https://").count() {
        1 if !uris.contains("<http://") => Ok(()),
        _ => Err(Error::Message("List-Unsubscribe-Post needs one https: URI in List-Unsubscribe".into())),
    }
}

fn with_line_end(mut content: Vec<Arc<Piece>>) -> Vec<Arc<Piece>> {
    content.extend(entity::line_end(&content));
    content
}

/// The fields that are added to a message when it is resent: see [`Message::resend`].
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Resent(Fields);

impl Resent {
    /// Creates an empty block.
    pub fn new() -> Resent {
        Resent::default()
    }

    /// Adds the mailboxes that resend the message (`Resent-From`). If there are several, [`sender`](Resent::sender) is
    /// required.
    pub fn from(mut self, mailboxes: impl Into<Mailboxes>) -> Resent {
        self.0.add("Resent-From", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Sets the one mailbox that does the sending, if it is not that of `Resent-From` (`Resent-Sender`).
    pub fn sender(mut self, mailbox: impl Into<Mailboxes>) -> Resent {
        self.0.set("Resent-Sender", Value::Mailboxes(mailbox.into()));
        self
    }

    /// Adds recipients (`Resent-To`).
    pub fn to(mut self, mailboxes: impl Into<Mailboxes>) -> Resent {
        self.0.add("Resent-To", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Adds recipients of a copy (`Resent-Cc`).
    pub fn cc(mut self, mailboxes: impl Into<Mailboxes>) -> Resent {
        self.0.add("Resent-Cc", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Adds recipients of a blind copy, who are not named in the message that is sent (`Resent-Bcc`).
    pub fn bcc(mut self, mailboxes: impl Into<Mailboxes>) -> Resent {
        self.0.add("Resent-Bcc", Value::Mailboxes(mailboxes.into()));
        self
    }

    /// Sets the date of resending (`Resent-Date`). Defaults to now.
    pub fn date(mut self, time: SystemTime) -> Resent {
        self.0.set("Resent-Date", Value::Date(time));
        self
    }

    /// Sets the identifier of this resending (`Resent-Message-ID`). Defaults to a new one in the domain of
    /// `Resent-From`.
    pub fn message_id(mut self, id: impl Into<String>) -> Resent {
        self.0.set("Resent-Message-ID", Value::Text(id.into()));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{message::Content, proto::Survey};

    const EIGHT_BIT: ServerSupport = ServerSupport { eight_bit: true, utf8_headers: false };

    /// Returns the size announced to the server.
    fn size(body: &Body<'_>) -> Option<u64> {
        match &body.content {
            Content::Bytes(bytes) => Some(Survey::of(bytes).octets),
            Content::Unopened(_) | Content::Reader(_) => body.size,
        }
    }

    #[test]
    fn adding_to_a_field_behind_very_many_others_is_no_work() {
        // If all fields were searched each time, this would take minutes.
        const MANY: usize = 200_000;
        let others = (0..MANY).fold(Message::builder(), |message, _| message.header("X-Other", "x"));
        let message = (0..MANY).fold(others, |message, _| message.to("a@example.org").subject("x"));
        assert_eq!(message.fields.all.len(), MANY + 2);
    }

    #[test]
    fn the_size_is_what_goes_out_to_the_octet() {
        let path = std::env::temp_dir().join(format!("postino-{}", super::super::stamp::unique()));
        let builder = || Message::builder().from("a@example.org");
        for length in [0, 1, 56, 57, 58, 1000, 100_000] {
            // The size of a file that claims to be empty is unknown.
            std::fs::write(&path, vec![7; length.max(1)]).unwrap();
            for builder in [
                builder().text("x".repeat(length)),
                builder().text("ü".repeat(length)),
                builder().html("a \n".repeat(length)).inline("a", "image/png", vec![0; length]),
                builder().text("x").attach(Attachment::path(&path)),
            ] {
                let message = builder.build().unwrap();
                let bytes = message.to_bytes().unwrap();
                let body = message.body().unwrap().open().unwrap();
                let survey = Survey::of(&bytes);
                assert_eq!(size(&body), Some(survey.octets));
                assert!(body.seven_bit && !survey.eight_bit && !survey.nul);

                let body = message.body_for(EIGHT_BIT).unwrap().open().unwrap();
                let (size, seven_bit, mut bytes) = (size(&body), body.seven_bit, Vec::new());
                body.into_reader().unwrap().read_to_end(&mut bytes).unwrap();
                let survey = Survey::of(&bytes);
                assert_eq!(size, Some(survey.octets));
                assert!(seven_bit != survey.eight_bit && !survey.nul);
            }
        }
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_size_is_unknown_if_a_part_of_it_is() {
        let reader = Attachment::reader("a", std::io::empty());
        let message = Message::builder().from("a@example.org").attach(reader).build().unwrap();
        assert_eq!(size(&message.body().unwrap().open().unwrap()), None);
    }

    #[test]
    fn only_what_is_small_and_at_hand_is_encoded_at_once() {
        for (length, at_once) in [(1000, true), (100_000, false)] {
            let attachment = Attachment::bytes("a", vec![0; length]);
            let message = Message::builder().from("a@example.org").attach(attachment).build().unwrap();
            let content = message.body().unwrap().content;
            assert_eq!(matches!(content, Content::Bytes(_)), at_once, "{length}");
        }
    }

    #[test]
    fn a_message_in_a_message_is_said_to_have_8_bits_only_if_it_has() {
        for (text, has) in [("Hello\n", false), ("Grüße\n", true)] {
            let inner = Message::builder().from("a@example.org").text(text).build().unwrap();
            let outer = Message::builder().from("a@example.org").attach(Attachment::message(inner));
            let (outer, mut sent) = (outer.build().unwrap(), String::new());
            let mut reader = outer.body_for(EIGHT_BIT).unwrap().into_reader().unwrap();
            reader.read_to_string(&mut sent).unwrap();
            assert_eq!(sent.contains("8bit"), has, "{sent}");
        }
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
        assert!(message.resend(Resent::new().from("a@b")).is_ok_and(|resent| resent.levels == MAX_LEVELS));
        let error = around(Some(message)).unwrap_err();
        assert_eq!(error.to_string(), "messages are attached to messages more than 50 levels deep");
    }

    #[test]
    fn a_sender_takes_the_place_of_the_one_before() {
        let message = Message::builder().from("a@example.org").sender("b@example.org");
        let message = message.header("sender", "c@example.org").build().unwrap();
        assert_eq!(message.header("Sender").as_deref(), Some("c@example.org"));
    }

    #[test]
    fn a_message_that_is_sent_on_goes_to_whom_it_is_sent_on() {
        let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
        let message = Message::builder().from("a@example.org").envelope(envelope).build().unwrap();
        let resent = Resent::new().from("b@example.net").to("c@example.com").message_id("1@example.net");
        let message = message.resend(resent).unwrap();
        let expected = Envelope::new("b@example.net", ["c@example.com"]).unwrap();
        assert_eq!(message.envelope().unwrap(), expected);
        assert_eq!(message.header("Resent-Message-ID").as_deref(), Some("<1@example.net>"));
    }

    #[test]
    fn answers_go_to_all_that_were_named_for_them() {
        let message = Message::builder().from("a@example.org").reply_to("b@example.org");
        let message = message.reply_to("c@example.org").build().unwrap();
        assert_eq!(message.header("Reply-To").as_deref(), Some("b@example.org, c@example.org"));
    }
}
