//! `Mail` for the messages of email-format, and conversions between them and a [`Message`].

use email_format::{Email, rfc5322::Parsable};

use crate::{
    Envelope, Error,
    message::{
        Body, Mail, Message,
        encoded_stream::Piece,
        header_length,
        header_reader::remove_bcc,
        header_writer::{Field, is_nested_too_deep},
        mime_part::EightBit,
    },
};

/// The envelope is taken from the headers ([`Envelope::from_headers`]). `Bcc` is not sent, but stays in the `Email`.
impl Mail for Email {
    fn envelope(&self) -> Result<Envelope, Error> {
        Envelope::from_headers(&self.as_bytes())
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        let mut text = remove_bcc(self.as_bytes());
        // Without a body, email-format writes no empty line, so a line added by a server would join the headers.
        if header_length(&text).is_none() {
            text.extend_from_slice(b"\r\n");
        }
        Ok(Body::from(text))
    }
}

/// Converts an [`Email`]. Its fields are refolded to this crate's line length. Nothing is added, except a final
/// line ending if it is missing.
impl From<Email> for Message {
    fn from(email: Email) -> Message {
        let mut whole = email.as_bytes();
        let content = whole.split_off(header_length(&whole).unwrap_or(whole.len()));
        let header = String::from_utf8_lossy(&whole);
        let fields = header.split("\r\n").filter(|line| !line.is_empty()).map(Field::refolded).collect();
        Message::new(fields, vec![Piece::text(String::from_utf8_lossy(&content))], EightBit::Never)
    }
}

/// Converts a [`Message`], including `Bcc`. The whole body is held in memory.
///
/// # Errors
///
/// The same as for [`Message::to_bytes`], and [`Error::Message`] if email-format cannot parse the message.
impl TryFrom<Message> for Email {
    type Error = Error;

    fn try_from(message: Message) -> Result<Email, Error> {
        let unreadable = || Error::Message("email-format cannot parse the message".into());
        if message.fields().iter().any(|field| is_nested_too_deep(field.as_str())) {
            return Err(unreadable());
        }
        let sent = message.to_bytes()?;
        let content = &sent[header_length(&sent).unwrap_or(sent.len())..];
        let fields: Vec<Field> =
            message.fields().iter().map(|field| field.to_ascii().unwrap_or_else(|| field.clone())).collect();
        let mut whole = Message::header_text(&fields).into_bytes();
        whole.extend_from_slice(b"\r\n");
        whole.extend_from_slice(content);
        let (email, _) = Email::parse(&whole).map_err(|_| unreadable())?;
        // email-format finds no body after a field that it cannot parse.
        let is_whole = email.get_body().is_some_and(|body| body.0 == content);
        if is_whole { Ok(email) } else { Err(unreadable()) }
    }
}

#[cfg(test)]
mod tests {
    use email_format::rfc5322::Parsable;

    use super::*;
    use crate::message::Content;

    fn email() -> Email {
        let mut email = Email::new("Me <me@x.example>", "Wed, 5 Jan 2015 15:13:05 +1300").unwrap();
        email.set_to("You <you@x.example>").unwrap();
        email.set_body("Hello!\r\n").unwrap();
        email
    }

    fn sent(email: &Email) -> String {
        match email.body().unwrap().content {
            Content::Bytes(bytes) => String::from_utf8(bytes.into_owned()).unwrap(),
            Content::Unopened(_) | Content::Reader(_) => unreachable!("the message is in memory"),
        }
    }

    #[test]
    fn an_email_without_bcc_is_sent_unchanged() {
        assert_eq!(sent(&email()), email().as_string());
    }

    #[test]
    fn bcc_is_not_sent_but_stays_in_the_email() {
        let mut email = email();
        email.set_bcc("hidden@x.example,\r\n other@x.example").unwrap();
        let before = email.as_string();
        assert!(!sent(&email).contains("hidden") && !sent(&email).contains("other"));
        assert!(sent(&email).ends_with("To:You <you@x.example>\r\n\r\nHello!\r\n"));
        assert_eq!(email.as_string(), before);
        assert!(email.get_bcc().is_some());
    }

    #[test]
    fn an_optional_field_named_bcc_is_treated_as_bcc() {
        let mut email = email();
        email.add_optional_field(("bCC", "hidden@x.example")).unwrap();
        assert!(!sent(&email).contains("hidden"));
        assert_eq!(email.envelope().unwrap().recipients().len(), 2);
    }

    #[test]
    fn an_email_without_a_body_ends_with_an_empty_line() {
        let mut email = email();
        email.clear_body();
        assert!(sent(&email).ends_with("<you@x.example>\r\n\r\n"));
        email.set_body("").unwrap();
        assert!(sent(&email).ends_with("<you@x.example>\r\n\r\n"));
        assert!(!sent(&email).ends_with("\r\n\r\n\r\n"));
    }

    #[test]
    fn the_envelope_is_taken_from_the_headers() {
        let mut email = email();
        email.set_sender("sender@x.example").unwrap();
        email.set_cc("Group: cc@x.example;").unwrap();
        email.set_bcc("\"b cc\"@x.example").unwrap();
        let expected = ["you@x.example", "cc@x.example", "\"b cc\"@x.example"];
        assert_eq!(email.envelope().unwrap(), Envelope::new("sender@x.example", expected).unwrap());
    }

    #[test]
    fn an_email_without_recipients_has_no_envelope() {
        let mut email = email();
        email.clear_to();
        assert!(matches!(email.envelope(), Err(Error::NoRecipients)));
    }

    #[test]
    fn a_resent_email_has_only_the_new_recipients() {
        let text = b"Resent-Date: Wed, 5 Jan 2015 15:13:05 +1300\r\nResent-From: re@x.example\r\n\
            Resent-To: new@x.example\r\nResent-Bcc: hidden@x.example\r\n\
            Date: Wed, 5 Jan 2015 15:13:05 +1300\r\nFrom: me@x.example\r\nTo: you@x.example\r\n\r\nHello!\r\n";
        let email = Email::parse(text).unwrap().0;
        let expected = Envelope::new("re@x.example", ["new@x.example", "hidden@x.example"]).unwrap();
        assert_eq!(email.envelope().unwrap(), expected);
        assert!(!sent(&email).contains("hidden") && sent(&email).contains("To: you@x.example\r\n"));
    }
}
