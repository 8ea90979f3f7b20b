//! `Mail` for the messages of email-format.

use email_format::Email;

use super::{Body, Mail, header_length, headers::lose_bcc};
use crate::{Envelope, Error};

/// The envelope is taken from the headers ([`Envelope::from_headers`]). `Bcc` is not sent, but stays in the `Email`.
impl Mail for Email {
    fn envelope(&self) -> Result<Envelope, Error> {
        Envelope::from_headers(&self.as_bytes())
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        let mut text = lose_bcc(self.as_bytes());
        // Without a body, email-format writes no empty line: a line added by a server would be in the headers.
        if header_length(&text).is_none() {
            text.extend_from_slice(b"\r\n");
        }
        Ok(Body::bytes(text))
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
            Content::Unopened(_) | Content::Reader(_) => unreachable!("it is in memory"),
        }
    }

    #[test]
    fn an_email_without_bcc_is_sent_as_it_is() {
        assert_eq!(sent(&email()), email().as_string());
    }

    #[test]
    fn a_bcc_is_not_sent_and_stays_in_the_email() {
        let mut email = email();
        email.set_bcc("hidden@x.example,\r\n other@x.example").unwrap();
        let before = email.as_string();
        assert!(!sent(&email).contains("hidden") && !sent(&email).contains("other"));
        assert!(sent(&email).ends_with("To:You <you@x.example>\r\n\r\nHello!\r\n"));
        assert_eq!(email.as_string(), before);
        assert!(email.get_bcc().is_some());
    }

    #[test]
    fn an_optional_field_named_bcc_is_a_bcc() {
        let mut email = email();
        email.add_optional_field(("bCC", "hidden@x.example")).unwrap();
        assert!(!sent(&email).contains("hidden"));
        assert_eq!(email.envelope().unwrap().recipients().len(), 2);
    }

    #[test]
    fn an_email_without_a_body_has_an_end_of_its_headers() {
        let mut email = email();
        email.clear_body();
        assert!(sent(&email).ends_with("<you@x.example>\r\n\r\n"));
        email.set_body("").unwrap();
        assert!(sent(&email).ends_with("<you@x.example>\r\n\r\n"));
        assert!(!sent(&email).ends_with("\r\n\r\n\r\n"));
    }

    #[test]
    fn the_envelope_is_what_the_headers_name() {
        let mut email = email();
        email.set_sender("sender@x.example").unwrap();
        email.set_cc("Group: cc@x.example;").unwrap();
        email.set_bcc("\"b cc\"@x.example").unwrap();
        let expected = ["you@x.example", "cc@x.example", "\"b cc\"@x.example"];
        assert_eq!(email.envelope().unwrap(), Envelope::new("sender@x.example", expected).unwrap());
    }

    #[test]
    fn an_email_for_nobody_has_no_envelope() {
        let mut email = email();
        email.clear_to();
        assert!(matches!(email.envelope(), Err(Error::NoRecipients)));
    }

    #[test]
    fn a_resent_email_goes_to_whom_it_was_resent() {
        let text = b"Resent-Date: Wed, 5 Jan 2015 15:13:05 +1300\r\nResent-From: re@x.example\r\n\
            Resent-To: new@x.example\r\nResent-Bcc: hidden@x.example\r\n\
            Date: Wed, 5 Jan 2015 15:13:05 +1300\r\nFrom: me@x.example\r\nTo: you@x.example\r\n\r\nHello!\r\n";
        let email = Email::parse(text).unwrap().0;
        let expected = Envelope::new("re@x.example", ["new@x.example", "hidden@x.example"]).unwrap();
        assert_eq!(email.envelope().unwrap(), expected);
        assert!(!sent(&email).contains("hidden") && sent(&email).contains("To: you@x.example\r\n"));
    }
}
