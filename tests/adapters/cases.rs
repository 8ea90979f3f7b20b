//! The recipients of a message, and what of it arrives.

use mail_parser::{MessageParser, MimeHeaders};
use postino::{
    Error, Mail,
    testing::{self, Server},
};

use super::{Client, block_on};

fn send(mail: &dyn Mail) -> Result<testing::Message, Error> {
    let server = Server::start().unwrap();
    block_on(Client::from_url(&server.url()).unwrap().send(mail)).map(drop)?;
    Ok(server.wait_for_messages(1)[0].clone())
}

fn arrived(mail: &dyn Mail) -> testing::Message {
    send(mail).unwrap()
}

fn text(message: &testing::Message) -> String {
    String::from_utf8(message.content().to_vec()).unwrap()
}

/// Checks the message with an independent parser: the subject, the text, and the attachments.
#[track_caller]
fn assert_reads(message: &testing::Message) {
    let parsed = MessageParser::default().parse(message.content()).unwrap();
    assert_eq!(parsed.subject(), Some("Grüße"));
    assert_eq!(parsed.body_text(0).unwrap().trim_end(), "Hello, Bob!\n.\nBye".replace('\n', "\r\n"));
    let attachment = parsed.attachment(0).unwrap();
    assert_eq!(
        (attachment.attachment_name(), attachment.contents()),
        (Some("a.bin"), &[0, 255, b'\n', 7][..])
    );
}

#[cfg(feature = "lettre-0_11")]
mod lettre_0_11 {
    use lettre::{
        Address, Message,
        address::Envelope,
        message::{Attachment, MessageBuilder, MultiPart, SinglePart, header::ContentType},
    };

    use super::*;

    fn builder() -> MessageBuilder {
        let builder = Message::builder().from("Jörg <joerg@example.org>".parse().unwrap());
        builder
            .to("Bob <bob@example.net>".parse().unwrap())
            .cc("carol@example.net".parse().unwrap())
            .subject("Grüße")
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn the_message_arrives_unchanged() {
        let message = builder()
            .multipart(
                MultiPart::mixed()
                    .singlepart(SinglePart::plain("Hello, Bob!\r\n.\r\nBye\r\n".to_owned()))
                    .singlepart(
                        Attachment::new("a.bin".to_owned())
                            .body(vec![0, 255, b'\n', 7], ContentType::parse("application/x-a").unwrap()),
                    ),
            )
            .unwrap();
        let arrived = arrived(&message);
        assert_eq!(arrived.sender(), "joerg@example.org");
        assert_eq!(arrived.recipients(), ["bob@example.net", "carol@example.net"]);
        assert_eq!(arrived.content(), message.formatted());
        assert_reads(&arrived);
    }

    #[test]
    fn bcc_recipients_get_the_message_without_bcc_even_with_keep_bcc() {
        let builder = || builder().bcc("Dave <hidden@example.net>".parse().unwrap());
        let kept = builder().keep_bcc().body("Hello!\n".to_owned()).unwrap();
        assert!(String::from_utf8(kept.formatted()).unwrap().contains("hidden"));
        for message in [builder().body("Hello!\n".to_owned()).unwrap(), kept] {
            let arrived = arrived(&message);
            assert_eq!(arrived.recipients(), ["bob@example.net", "carol@example.net", "hidden@example.net"]);
            assert!(!text(&arrived).contains("hidden"));
        }
    }

    #[test]
    fn an_explicit_envelope_takes_precedence_over_the_headers() {
        let envelope = |sender| Envelope::new(sender, vec![address("other@example.com")]).unwrap();
        let message = |sender| builder().envelope(envelope(sender)).body("Hello!\n".to_owned()).unwrap();
        let bounced = arrived(&message(Some(address("bounces@example.org"))));
        assert_eq!(
            (bounced.sender(), bounced.recipients()),
            ("bounces@example.org", &["other@example.com".to_owned()][..])
        );
        assert_eq!(arrived(&message(None)).sender(), "");
    }

    #[test]
    fn non_ascii_addresses_are_sent_with_smtputf8() {
        let message = Message::builder()
            .from("jörg@bücher.example".parse().unwrap())
            .to("用户@例子.example".parse().unwrap())
            .body("Hello!\n".to_owned())
            .unwrap();
        let arrived = arrived(&message);
        assert_eq!(
            (arrived.sender(), arrived.recipients()),
            ("jörg@bücher.example", &["用户@例子.example".to_owned()][..])
        );
        assert!(arrived.mail_parameters().contains(&"SMTPUTF8".to_owned()));
    }

    #[cfg(feature = "dkim")]
    #[test]
    fn the_message_can_be_signed() {
        let key = include_str!("../dkim/keys/ed25519.pem");
        let dkim = postino::message::Dkim::new("example.org", "s", key).unwrap();
        let message = builder().body("Hello!\n".to_owned()).unwrap();
        let arrived = text(&arrived(&dkim.sign(&message)));
        assert!(
            arrived.starts_with("DKIM-Signature: ") && arrived.as_bytes().ends_with(&message.formatted())
        );
    }
}

#[cfg(feature = "mail-builder-2")]
mod mail_builder_2 {
    use mail_builder::{MessageBuilder, headers::raw::Raw};

    use super::*;

    fn builder() -> MessageBuilder<'static> {
        MessageBuilder::new()
            .from(("Jörg", "joerg@example.org"))
            .to(vec![("Bob", "bob@example.net"), ("Doe, Carol", "carol@example.net")])
            .subject("Grüße")
            .text_body("Hello, Bob!\n.\nBye\n")
    }

    #[test]
    fn the_message_arrives_as_serialized() {
        let message = builder().message_id("1@x").date(1_641_391_985_i64);
        let message = message.attachment("application/x-a", "a.bin", vec![0, 255, b'\n', 7]);
        let arrived = arrived(&message);
        assert_eq!(arrived.sender(), "joerg@example.org");
        assert_eq!(arrived.recipients(), ["bob@example.net", "carol@example.net"]);
        assert_reads(&arrived);
        assert!(text(&arrived).contains("Message-ID: <1@x>\r\n"));
    }

    #[test]
    fn bcc_recipients_get_the_message_without_bcc_in_any_spelling() {
        for name in ["Bcc", "bcc", "BCC"] {
            let arrived = arrived(&builder().header(name, Raw::new("Dave <hidden@example.net>")));
            assert_eq!(arrived.recipients(), ["bob@example.net", "carol@example.net", "hidden@example.net"]);
            assert!(!text(&arrived).contains("hidden") && text(&arrived).contains("Subject: "));
        }
        assert!(!text(&arrived(&builder().bcc("hidden@example.net"))).contains("hidden"));
    }

    #[test]
    fn sender_takes_precedence_over_from() {
        assert_eq!(arrived(&builder().sender("sender@example.org")).sender(), "sender@example.org");
    }

    #[test]
    fn a_sender_and_recipients_are_required() {
        let from = MessageBuilder::new().from("a@example.org");
        assert!(matches!(send(&from.clone().text_body("x")), Err(Error::NoRecipients)));
        assert!(matches!(send(&MessageBuilder::new().to("b@example.net")), Err(Error::Message(_))));
        assert!(matches!(send(&from.to("no address")), Err(Error::Address { .. })));
    }

    #[test]
    fn non_ascii_addresses_are_sent_with_smtputf8() {
        let message = MessageBuilder::new().from("jörg@bücher.example").to(("Üser", "用户@例子.example"));
        let arrived = arrived(&message.text_body("x"));
        assert_eq!(
            (arrived.sender(), arrived.recipients()),
            ("jörg@bücher.example", &["用户@例子.example".to_owned()][..])
        );
        assert!(arrived.mail_parameters().contains(&"SMTPUTF8".to_owned()));
    }

    #[cfg(feature = "dkim")]
    #[test]
    fn the_message_can_be_signed() {
        let key = include_str!("../dkim/keys/ed25519.pem");
        let dkim = postino::message::Dkim::new("example.org", "s", key).unwrap();
        let arrived = text(&arrived(&dkim.sign(&builder())));
        assert!(arrived.starts_with("DKIM-Signature: ") && arrived.contains("Hello, Bob!"));
    }
}
