//! Composed messages: header fields and content, ready to be sent.

use std::{fmt, io::Read, iter, sync::Arc};

use super::{
    Body, Mail, MessageBuilder, READ_ALREADY, Resent, ServerSupport,
    encoded_stream::{Piece, Stream, claim_readers},
    header_writer::Field,
    mime_part::{self, EightBit},
};
use crate::{Envelope, Error};

/// Maximum size of an in-memory message that is encoded up front rather than while it is sent, in octets.
const MAX_AT_ONCE: u64 = 64 * 1024;

/// A composed message: header fields, text and attachments. Created by [`Message::builder`], or from an
/// [`Email`](email_format::Email).
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
/// A message is sent as a stream: attachments from a path or reader are read and encoded while the message is sent,
/// using constant memory. The message is sent as ASCII in lines of at most 78 octets (998 if a line cannot be split),
/// so that any server accepts it. If the server offers 8BITMIME, however, non-ASCII text is sent unencoded, unless it
/// could be altered on the way (if a line has over 998 octets, or begins with `From `). A non-ASCII `message/rfc822`
/// [attachment](super::Attachment::content_type) needs 8BITMIME, because it must not be encoded.
///
/// Non-ASCII addresses are sent unchanged (RFC 6532) to a server that offers SMTPUTF8. For other servers, the feature
/// `idna` converts domains to A-labels, including those in the header fields. If an address is still not ASCII,
/// sending fails with [`Error::Unsupported`] before MAIL. Names and subjects in any language work with every server.
///
/// The envelope is taken from the fields: the sender is the first address in `Sender`, or else in `From`, and the
/// recipients are all addresses in `To`, `Cc` and `Bcc`. An address that occurs twice is a recipient twice, so most
/// servers deliver two copies to it. [`MessageBuilder::envelope`] and [`Message::with_envelope`] override the envelope.
/// `Bcc` is not sent. Clones of a message share its content, including readers.
#[derive(Clone)]
pub struct Message {
    fields: Arc<[Field]>,
    /// Number of fields at the start that form the newest block of `Resent-` fields.
    resent: usize,
    content: Arc<[Arc<Piece>]>,
    eight_bit: EightBit,
    /// Number of levels of nested messages in the content.
    levels: usize,
    envelope: Option<Envelope>,
}

impl Message {
    /// Creates a builder for a message.
    pub fn builder() -> MessageBuilder {
        MessageBuilder::default()
    }

    /// Returns the value of the first field with this name, unfolded but not decoded (RFC 2047). The name is
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

    /// Returns the whole message without `Bcc`. If possible, it is in a form that any server accepts. Use this, for
    /// example, to store a copy in the "Sent" folder.
    ///
    /// # Errors
    ///
    /// [`Error::Source`] if a file or reader fails; [`Error::Message`] if a reader has already been read, for example
    /// by an earlier call (`to_bytes` consumes the readers).
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let mut reader = self.body()?.into_reader().map_err(Error::Source)?;
        reader.read_to_end(&mut bytes).map_err(Error::Source)?;
        Ok(bytes)
    }

    /// Replaces the envelope, and keeps the header fields, including `Date` and `Message-ID`, and the content. Use
    /// this, for example, to send the message again to the recipients in
    /// [`Delivery::retry_envelope`](crate::Delivery::retry_envelope).
    ///
    /// ```
    /// # use postino::{Envelope, Mail, Message};
    /// let message = Message::builder().from("alice@example.org").to("bob@example.net, carol@example.com").build()?;
    /// let to_carol = message.clone().with_envelope(Envelope::new("alice@example.org", ["carol@example.com"])?);
    /// assert_eq!(to_carol.envelope()?.recipients(), ["carol@example.com"]);
    /// assert_eq!(to_carol.header("To"), message.header("To"));
    /// # Ok::<(), postino::Error>(())
    /// ```
    #[must_use]
    pub fn with_envelope(self, envelope: Envelope) -> Message {
        Message { envelope: Some(envelope), ..self }
    }

    /// Returns the message, ready to be resent, with a block of `Resent-` fields at the top (RFC 5322 §3.6.6). The
    /// envelope is taken from these fields. `Resent-Date` and `Resent-Message-ID` are added if they are missing.
    ///
    /// ```
    /// # use postino::{Mail, Message, message::Resent};
    /// let message = Message::builder().from("alice@example.org").to("bob@example.net").build()?;
    /// let again = message.resend(Resent::by("Bob <bob@example.net>").to("carol@example.com"))?;
    /// assert_eq!(again.envelope()?.recipients(), ["carol@example.com"]);
    /// # Ok::<(), postino::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if an address is invalid; [`Error::Message`] if there is no `Resent-From`, or if a value is
    /// not allowed in its field. The error text names the field.
    pub fn resend(&self, resent: Resent) -> Result<Message, Error> {
        let mut fields = resent.build()?;
        let resent = fields.len();
        fields.extend(self.fields.iter().cloned());
        Ok(Message { fields: fields.into(), resent, envelope: None, ..self.clone() })
    }

    /// Creates a message from its fields and its content, to which a line ending is added if it has none.
    pub(super) fn new(fields: Vec<Field>, mut content: Vec<Arc<Piece>>, eight_bit: EightBit) -> Message {
        content.extend(mime_part::line_end(&content));
        let (fields, content) = (fields.into(), content.into());
        Message { fields, resent: 0, content, eight_bit, levels: 0, envelope: None }
    }

    pub(super) fn with_levels(self, levels: usize) -> Message {
        Message { levels, ..self }
    }

    pub(super) fn with_given_envelope(self, envelope: Option<Envelope>) -> Message {
        Message { envelope, ..self }
    }

    /// Returns all header fields, including `Bcc`.
    pub(super) fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Returns the pieces for an attached message; `None` if an address in its header cannot be written in ASCII.
    pub(super) fn pieces_in_ascii(&self) -> Option<Vec<Arc<Piece>>> {
        self.fields_in_ascii().map(|fields| self.pieces(&fields))
    }

    /// Returns the pieces of the content, without the header.
    pub(super) fn pieces_of_content(&self) -> impl Iterator<Item = &Piece> {
        self.content.iter().map(|piece| &**piece)
    }

    fn pieces(&self, fields: &[Field]) -> Vec<Arc<Piece>> {
        let header = mime_part::header("", fields, self.eight_bit);
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
            // A small in-memory message need not be read piece by piece, possibly on another thread.
            Some(..=MAX_AT_ONCE) => {
                let mut bytes = Vec::new();
                Stream::open(&pieces, readers, eight_bit)
                    .and_then(|(mut stream, _)| stream.read_to_end(&mut bytes))
                    .map_err(Error::Source)?;
                Body::from(bytes)
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
    pub(super) fn header_text(fields: &[Field]) -> String {
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
        self.open(ServerSupport::default())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Address,
        message::{Attachment, Content, unique_id::unique_id},
        proto::Survey,
    };

    fn image(id: &str, bytes: Vec<u8>) -> Attachment {
        Attachment::bytes("", bytes).content_type("image/png").content_id(id)
    }

    const EIGHT_BIT: ServerSupport = ServerSupport { eight_bit: true, utf8_headers: false };

    /// Returns the size announced to the server.
    fn size(body: &Body<'_>) -> Option<u64> {
        match &body.content {
            Content::Bytes(bytes) => Some(Survey::of(bytes).octets),
            Content::Unopened(_) | Content::Reader(_) => body.size,
        }
    }

    #[test]
    fn the_announced_size_is_exact() {
        let path = std::env::temp_dir().join(format!("postino-{}", unique_id()));
        let builder = || Message::builder().from("a@example.org");
        for length in [0, 1, 56, 57, 58, 1000, 100_000] {
            // The size of a file that claims to be empty is unknown.
            std::fs::write(&path, vec![7; length.max(1)]).unwrap();
            for builder in [
                builder().text("x".repeat(length)),
                builder().text("ü".repeat(length)),
                builder().html("a \n".repeat(length)).attach(image("a", vec![0; length])),
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
    fn a_part_of_unknown_size_makes_the_total_size_unknown() {
        let reader = Attachment::reader("a", std::io::empty());
        let message = Message::builder().from("a@example.org").attach(reader).build().unwrap();
        assert_eq!(size(&message.body().unwrap().open().unwrap()), None);
    }

    #[test]
    fn only_small_in_memory_messages_are_encoded_up_front() {
        for (length, at_once) in [(1000, true), (100_000, false)] {
            let attachment = Attachment::bytes("a", vec![0; length]);
            let message = Message::builder().from("a@example.org").attach(attachment).build().unwrap();
            let content = message.body().unwrap().content;
            assert_eq!(matches!(content, Content::Bytes(_)), at_once, "{length}");
        }
    }

    #[test]
    fn an_attached_message_is_labelled_8bit_only_if_it_is() {
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
    fn a_message_keeps_its_octets_when_its_envelope_is_replaced() {
        let message = Message::builder().from("a@example.org").to("b@example.net").bcc("c@example.com");
        let message = message.text("Hello\n").build().unwrap();
        let envelope = Envelope::new("d@example.org", ["c@example.com"]).unwrap();
        let again = message.clone().with_envelope(envelope.clone());
        assert_eq!(again.envelope().unwrap(), envelope);
        assert_eq!(again.to_bytes().unwrap(), message.to_bytes().unwrap());
        // An envelope that is given later also overrides that of a resent message, and vice versa.
        let resent = || Resent::by("b@example.net").to("c@example.com");
        assert_eq!(
            again.resend(resent()).unwrap().envelope().unwrap().sender().unwrap(),
            &Address::new("b@example.net").unwrap()
        );
        let again = message.resend(resent()).unwrap().with_envelope(envelope.clone());
        assert_eq!(again.envelope().unwrap(), envelope);
    }

    #[test]
    fn an_address_in_two_fields_is_a_recipient_twice() {
        let message =
            Message::builder().from("a@example.org").to("b@example.net").cc("b@example.net").build();
        assert_eq!(message.unwrap().envelope().unwrap().recipients(), ["b@example.net", "b@example.net"]);
    }

    #[test]
    fn a_resent_message_has_only_the_new_recipients() {
        let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
        let message = Message::builder().from("a@example.org").envelope(envelope).build().unwrap();
        let resent = Resent::by("b@example.net").to("c@example.com").message_id("1@example.net");
        let message = message.resend(resent).unwrap();
        let expected = Envelope::new("b@example.net", ["c@example.com"]).unwrap();
        assert_eq!(message.envelope().unwrap(), expected);
        assert_eq!(message.header("Resent-Message-ID").as_deref(), Some("<1@example.net>"));
    }
}
