//! Composed messages arrive as composed, as read by an independent parser, and with nothing added.

#[path = "readers/mod.rs"]
mod readers;
#[path = "compose/reported.rs"]
mod reported;

use std::{
    fs,
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use email_format::{
    Email,
    rfc5322::{Fields, Parsable},
};
use mail_parser::{
    Address, Encoding, MessageParser, MessagePart, MimeHeaders, PartType,
    decoders::{base64::base64_decode, quoted_printable::quoted_printable_decode},
};
use postino::{
    Envelope, Error, Mail, Message,
    message::{Attachment, Mailbox, MessageBuilder, Resent, ServerSupport},
};
use proptest::prelude::*;

/// Returns a builder for a complete message.
fn builder() -> MessageBuilder {
    Message::builder().from("alice@example.org").to("bob@example.net")
}

/// Returns a part that the HTML text shows.
fn inline(id: &str, content_type: &str, bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Attachment {
    Attachment::bytes("", bytes).content_type(content_type).content_id(id)
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_bytes().unwrap()
}

fn text(message: &Message) -> String {
    String::from_utf8(bytes(message)).unwrap()
}

fn parse(bytes: &[u8]) -> mail_parser::Message<'_> {
    MessageParser::default().parse(bytes).unwrap()
}

/// Returns the octets of an attachment. [`MessagePart::contents`] has only the decoded characters of a text, without
/// octets that are invalid in its charset.
fn octets(message: &str, attachment: &MessagePart<'_>) -> Vec<u8> {
    let body = &message.as_bytes()[attachment.offset_body as usize..attachment.offset_end as usize];
    match attachment.encoding {
        Encoding::None => body.to_vec(),
        Encoding::QuotedPrintable => quoted_printable_decode(body).unwrap(),
        Encoding::Base64 => base64_decode(body).unwrap(),
    }
}

fn header_block(text: &str) -> &str {
    &text[..text.find("\r\n\r\n").unwrap() + 2]
}

/// Checks what must hold for every message, and returns its text.
fn check(message: &Message) -> String {
    let text = text(message);
    assert!(text.ends_with("\r\n") && text.is_ascii() && !text.contains('\0'));
    assert_eq!(text.matches('\r').count(), text.matches("\r\n").count());
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
    assert!(text.lines().all(|line| line.len() <= 998));
    for line in text.lines().filter(|line| line.len() > 78) {
        // A long line has only one word, possibly after the name of a field that is not folded.
        let word = ["Message-ID: ", "Resent-Message-ID: ", "In-Reply-To: ", "References: ", "Content-ID: "]
            .iter()
            .find_map(|name| line.strip_prefix(name));
        assert!(!word.unwrap_or(line).trim_start_matches(' ').contains(' '), "{line}");
    }
    let header = header_block(&text);
    let (fields, rest) = Fields::parse(header.as_bytes()).unwrap();
    assert!(rest.is_empty(), "{header}");
    let starts = header.lines().filter(|line| !line.starts_with(' ')).count();
    assert_eq!(fields.fields.len(), starts, "{header}");
    text
}

fn refused(builder: MessageBuilder) -> String {
    match builder.build() {
        Err(error @ (Error::Message(_) | Error::Address { .. })) => error.to_string(),
        Err(other) => panic!("{other:?}"),
        Ok(message) => panic!("{}", text(&message)),
    }
}

/// Names and addresses, with groups flattened.
fn mailboxes(address: Option<&Address<'_>>) -> Vec<(String, String)> {
    let show = |a: &mail_parser::Addr<'_>| {
        (a.name().unwrap_or_default().to_owned(), a.address().unwrap_or_default().to_owned())
    };
    address.map_or(Vec::new(), |address| address.iter().map(show).collect())
}

#[test]
fn a_text_only_message_is_written_as_expected() {
    let message = Message::builder()
        .from("Alice <alice@example.org>")
        .to("Bob <bob@example.net>")
        .subject("Hi")
        .date(UNIX_EPOCH + Duration::from_secs(1_735_689_599))
        .message_id("1@example.org")
        .text("Hello, Bob!\n")
        .build()
        .unwrap();
    let expected = "From: Alice <alice@example.org>\r\n\
        To: Bob <bob@example.net>\r\n\
        Subject: Hi\r\n\
        Date: Tue, 31 Dec 2024 23:59:59 +0000\r\n\
        Message-ID: <1@example.org>\r\n\
        MIME-Version: 1.0\r\n\
        Content-Type: text/plain; charset=utf-8\r\n\
        Content-Transfer-Encoding: 7bit\r\n\
        \r\n\
        Hello, Bob!\r\n";
    assert_eq!(check(&message), expected);
}

#[test]
fn a_missing_date_or_message_id_is_generated() {
    let message = builder().build().unwrap();
    let text = check(&message);
    let parsed = parse(text.as_bytes());
    let now = UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    assert!((parsed.date().unwrap().to_timestamp() - now).abs() < 10);
    assert!(parsed.message_id().unwrap().ends_with("@example.org"));
    assert_ne!(builder().build().unwrap().header("Message-ID"), message.header("Message-ID"));
}

#[test]
fn the_envelope_is_taken_from_the_fields_and_bcc_is_not_sent() {
    let message = builder()
        .sender("Sender <sender@example.org>")
        .bcc("Hidden <hidden@example.com>")
        .cc(["cc1@example.com", "cc2@example.com"])
        .to("Team: bert@example.net, ernie@example.net;")
        .build()
        .unwrap();
    let to =
        ["bob@example.net", "bert@example.net", "ernie@example.net", "cc1@example.com", "cc2@example.com"];
    let all = to.into_iter().chain(["hidden@example.com"]);
    assert_eq!(message.envelope().unwrap(), Envelope::new("sender@example.org", all).unwrap());
    assert!(!check(&message).to_lowercase().contains("hidden"));
    assert!(!check(&message).to_lowercase().contains("bcc"));
}

#[test]
fn an_explicit_envelope_takes_precedence_over_the_fields() {
    let envelope = Envelope::new("", ["carol@example.com"]).unwrap();
    let message = builder().envelope(envelope.clone()).build().unwrap();
    assert_eq!(message.envelope().unwrap(), envelope);
}

#[test]
fn repeated_setters_add_or_replace() {
    let message = builder()
        .to(("Müller, Jörg", "joerg@example.net"))
        .header("to", "carol@example.net")
        .subject("One")
        .header("SUBJECT", "Two")
        .references("1@x.org <2@x.org>")
        .references("<3@x.org>")
        .header("Keywords", "one, two words, \"three, four\"")
        .header("keywords", "drei Wörter")
        .header("X-A", "1")
        .header("X-A", "2")
        .build()
        .unwrap();
    let text = check(&message);
    let parsed = parse(text.as_bytes());
    let to = [("", "bob@example.net"), ("Müller, Jörg", "joerg@example.net"), ("", "carol@example.net")];
    assert_eq!(mailboxes(parsed.to()), to.map(|(name, address)| (name.to_owned(), address.to_owned())));
    assert_eq!(parsed.subject(), Some("Two"));
    assert_eq!(message.header("References").unwrap(), "<1@x.org> <2@x.org> <3@x.org>");
    assert!(message.header("Keywords").unwrap().starts_with("one, two words, \"three, four\", =?utf-8?b?"));
    assert_eq!(text.matches("X-A: ").count(), 2);
}

#[test]
fn an_empty_subject_is_left_out() {
    for subject in ["", " ", "   "] {
        assert_eq!(builder().subject(subject).build().unwrap().header("Subject"), None);
    }
}

#[test]
fn a_missing_author_or_sender_is_refused() {
    assert!(refused(Message::builder().to("bob@example.net")).contains("From"));
    assert!(refused(builder().from("carol@example.org")).contains("Sender"));
    assert!(refused(builder().from("Team: a@x.org;")).contains("From"));
    assert!(refused(builder().sender("a@x.org, b@x.org")).contains("Sender"));
    assert!(builder().from("carol@example.org").sender("dave@example.org").build().is_ok());
}

#[test]
fn an_invalid_value_is_refused_and_its_field_named() {
    for (builder, name) in [
        (builder().to("Müller, Jörg <a@x.org>"), "To"),
        (builder().cc("root"), "Cc: invalid address \"root\": no @"),
        (builder().cc("a..b@x.org"), "Cc"),
        (builder().message_id("no identifier"), "Message-ID"),
        (builder().in_reply_to("<1@x.org>\r\nX: y"), "In-Reply-To"),
        (builder().header("Date", "yesterday"), "Date"),
        (builder().header("Date", "Sun, 31 Dec 1899 23:59:59 +0000"), "Date"),
        (builder().header("Resent-Date", "Mon, 1 Jan 2024 00:00:00 +0000"), "Resent-Date"),
        (builder().header("resent-from", "a@x.org"), "resent-from"),
        (builder().date(UNIX_EPOCH - Duration::from_secs(3_000_000_000)), "Date"),
        (builder().header("Keywords", "one, \"two"), "Keywords"),
        (builder().header("List-Unsubscribe", "https://x.org/"), "List-Unsubscribe"),
        (builder().to("=?utf-8?q?J=C3=B6rg?= <a@x.org>"), "To"),
        (builder().message_id("jörg@x.org"), "Message-ID"),
        (builder().header("X-Empty", ""), "X-Empty"),
        (builder().header("Content-Type", "text/html"), "Content-Type"),
        (builder().header("MIME-Version", "2.0"), "MIME-Version"),
        (builder().header("X Y", "a"), "X Y"),
        (builder().header("X:", "a"), "X:"),
        (builder().header("", "a"), ""),
        (builder().header("Ü", "a"), "Ü"),
        (builder().list_unsubscribe("https://x.org/> <a"), "List-Unsubscribe"),
        (builder().list_unsubscribe("https://x.org/ a"), "List-Unsubscribe"),
        (builder().one_click_unsubscribe("mailto:a@x.org"), "List-Unsubscribe"),
        (builder().one_click_unsubscribe("https://x.org/1").list_unsubscribe("https://x.org/2"), "one https"),
        (builder().one_click_unsubscribe("https://x.org/1").list_unsubscribe("http://x.org/2"), "one https"),
        (builder().header("list-unsubscribe-post", "Yes"), "List-Unsubscribe-Post"),
        (builder().list_unsubscribe(format!("https://x.org/{}", "x".repeat(1000))), "List-Unsubscribe"),
        (builder().calendar("REQUEST; x=y", ""), "calendar"),
        (builder().attach(inline("logo", "image/png", b"x")), "Content-ID"),
        (builder().html("").attach(inline("a b", "image/png", b"x")), "Content-ID"),
        (builder().html("").attach(inline("", "image/png", b"x")), "Content-ID"),
        (builder().attach(Attachment::bytes("a", b"").content_type("text")), "Content-Type"),
        (builder().attach(Attachment::bytes("a", b"").content_type("te xt/plain")), "Content-Type"),
        (builder().attach(Attachment::bytes("a", b"").content_type("text/plain; x=\u{fc}")), "Content-Type"),
        (builder().attach(Attachment::bytes("a", b"").content_type("Multipart/mixed")), "Content-Type"),
        (builder().attach(Attachment::bytes("a", b"\0").content_type("message/rfc822")), "message/"),
        (builder().attach(Attachment::path("a").content_type("Message/RFC822")), "message/"),
    ] {
        let why = refused(builder);
        assert!(why.contains(name), "{name}: {why}");
    }
}

#[test]
fn one_click_unsubscribe_sets_both_fields() {
    let message = builder()
        .list_unsubscribe("mailto:leave@lists.example.org")
        .one_click_unsubscribe("https://lists.example.org/leave?id=1")
        .header("List-Id", "Jörgs Liste <joerg.lists.example.org>")
        .build()
        .unwrap();
    let text = check(&message);
    let uris = "<mailto:leave@lists.example.org>, <https://lists.example.org/leave?id=1>";
    assert_eq!(message.header("List-Unsubscribe").unwrap(), uris);
    assert!(text.contains("\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"));
    assert!(message.header("List-Id").unwrap().ends_with(" Liste <joerg.lists.example.org>"));
}

#[test]
fn list_unsubscribe_occurs_once_however_it_is_set() {
    let message = builder()
        .header("list-unsubscribe", "<mailto:leave@x.org>, <HTTPS://x.org/leave>")
        .header("LIST-UNSUBSCRIBE-POST", "List-Unsubscribe=One-Click")
        .header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")
        .header("List-Unsubscribe", "<mailto:also@x.org>")
        .build()
        .unwrap();
    let text = check(&message).to_lowercase();
    assert_eq!(text.matches("\r\nlist-unsubscribe:").count(), 1);
    assert_eq!(text.matches("\r\nlist-unsubscribe-post:").count(), 1);
    let uris = "<mailto:leave@x.org>, <HTTPS://x.org/leave>, <mailto:also@x.org>";
    assert_eq!(message.header("List-Unsubscribe").unwrap(), uris);
}

#[test]
fn every_kind_of_part_is_in_its_place() {
    let inner = builder().subject("Inner").attach(Attachment::bytes("a.bin", vec![0; 100])).build().unwrap();
    let image: Vec<u8> = (0..=255).collect();
    let message = builder()
        .text("Plain: Grüße\n")
        .html("<p>Grüße <img src=\"cid:logo\"></p>\n")
        .calendar("REQUEST", "BEGIN:VCALENDAR\nMETHOD:REQUEST\nEND:VCALENDAR\n")
        .attach(inline("logo", "image/png", image.clone()))
        .attach(Attachment::bytes("Preise € 2024.csv", "a;b\r\n"))
        .attach(Attachment::reader("zeros", io::repeat(0).take(100_000)))
        .attach(Attachment::message(inner))
        .build()
        .unwrap();
    let text = check(&message);
    let parsed = parse(text.as_bytes());
    assert_eq!(parsed.body_text(0).unwrap(), "Plain: Grüße\r\n");
    assert_eq!(parsed.body_html(0).unwrap(), "<p>Grüße <img src=\"cid:logo\"></p>\r\n");

    let kind = |i: usize| {
        let kind = parsed.parts[i].content_type().unwrap();
        format!("{}/{}", kind.ctype(), kind.subtype().unwrap())
    };
    let children = |i: usize| match &parsed.parts[i].body {
        PartType::Multipart(children) => children.iter().map(|i| *i as usize).collect::<Vec<_>>(),
        _ => panic!("part {i} is {}", kind(i)),
    };
    assert_eq!(kind(0), "multipart/mixed");
    let mixed = children(0);
    let kinds = |parts: &[usize]| parts.iter().map(|i| kind(*i)).collect::<Vec<_>>();
    assert_eq!(
        kinds(&mixed),
        ["multipart/alternative", "text/csv", "application/octet-stream", "message/rfc822"]
    );
    let alternative = children(mixed[0]);
    assert_eq!(kinds(&alternative), ["text/plain", "multipart/related", "text/calendar"]);
    let related = children(alternative[1]);
    assert_eq!(kinds(&related), ["text/html", "image/png"]);
    assert_eq!(parsed.parts[related[1]].contents(), image);
    assert_eq!(parsed.parts[related[1]].content_id(), Some("logo"));
    let calendar = parsed.parts[alternative[2]].content_type().unwrap();
    assert_eq!(calendar.attribute("method"), Some("REQUEST"));
    assert_eq!(parsed.parts[mixed[1]].attachment_name(), Some("Preise € 2024.csv"));
    assert_eq!(parsed.parts[mixed[1]].contents(), b"a;b\r\n");
    assert_eq!(parsed.parts[mixed[2]].contents(), vec![0; 100_000]);
    let inner = parsed.parts[mixed[3]].message().unwrap();
    assert_eq!(inner.subject(), Some("Inner"));
    assert_eq!(inner.attachment(0).unwrap().contents(), [0; 100]);
}

#[test]
fn a_message_has_no_more_parts_than_necessary() {
    let kind = |builder: MessageBuilder| builder.build().unwrap().header("Content-Type").unwrap();
    let is =
        |builder: MessageBuilder, expected: &str| assert!(kind(builder).starts_with(expected), "{expected}");
    is(builder(), "text/plain");
    is(builder().html("x"), "text/html");
    is(builder().text("x").html("x"), "multipart/alternative");
    is(
        builder().html("x").attach(inline("a", "image/png", b"x")),
        "multipart/related; type=\"text/html\"; boundary=\"=_",
    );
    is(builder().calendar("REPLY", "x"), "text/calendar; method=REPLY");
    is(builder().attach(Attachment::bytes("a", b"x")), "multipart/mixed");
}

#[test]
fn a_final_line_end_is_added_to_text_but_not_to_attachments() {
    let message = builder().text("x").build().unwrap();
    assert!(text(&message).ends_with("\r\n\r\nx\r\n"));
    let message = builder().text("ü").build().unwrap();
    assert!(check(&message).ends_with("\r\n"));
    let message = builder().text("").build().unwrap();
    assert!(text(&message).ends_with("7bit\r\n\r\n"));
    for attached in
        [&b""[..], b"x", b"x\r\n", b"x\n", b"\r\n\r\n", b"\n", b"\r", b"--", b"-- \r\n", b".\r\n.."]
    {
        let message = builder().text("").attach(Attachment::bytes("a", attached)).build().unwrap();
        let text = check(&message);
        assert_eq!(parse(text.as_bytes()).attachment(0).unwrap().contents(), attached, "{text}");
    }
}

#[test]
fn a_non_ascii_file_name_also_has_an_ascii_form() {
    let disposition = |name: &str| {
        let message = builder().attach(Attachment::bytes(name, b"x")).build().unwrap();
        let text = check(&message);
        let start = text.find("Content-Disposition: ").unwrap();
        let end = text[start..].find("\r\nContent-").unwrap_or_else(|| panic!("{text}"));
        text[start + "Content-Disposition: ".len()..start + end].to_owned()
    };
    assert_eq!(disposition("a b.pdf"), "attachment; filename=\"a b.pdf\"");
    let expected = "attachment; filename*=utf-8''Gr%C3%BC%C3%9Fe.pdf;\r\n filename=\"Gr__e.pdf\"";
    assert_eq!(disposition("Grüße.pdf"), expected);
    assert_eq!(disposition("a\"b\\c"), "attachment; filename*=utf-8''a%22b%5Cc; filename=\"a_b_c\"");
    let long = disposition(&format!("{}.tar.gz", "ü".repeat(60)));
    assert!(
        long.contains("filename*0*=utf-8''%C3%BC") && long.contains(";\r\n filename*5*=%C3%BC"),
        "{long}"
    );
    assert!(long.ends_with("_.gz\""), "{long}");
    assert_eq!(disposition(""), "attachment");
}

/// The message as sent to a server that offers 8BITMIME.
fn eight_bit_bytes(message: &Message) -> Vec<u8> {
    let mut offer = ServerSupport::default();
    offer.eight_bit = true;
    let (mut reader, mut sent) = (message.body_for(offer).unwrap().into_reader().unwrap(), Vec::new());
    reader.read_to_end(&mut sent).unwrap();
    sent
}

fn eight_bit(message: &Message) -> String {
    String::from_utf8(eight_bit_bytes(message)).unwrap()
}

#[test]
fn text_keeps_its_ending_in_every_encoding() {
    // Without 8BITMIME, the text is sent as base64.
    for text in ["привет\r\n", "привет"] {
        let message = builder().text(text).build().unwrap();
        assert!(self::text(&message).contains("base64"));
        assert_eq!(parse(&bytes(&message)).body_text(0).unwrap(), text);
        assert!(!self::text(&message).ends_with("\r\n\r\n"));
        assert!(eight_bit(&message).ends_with("\r\n\r\nпривет\r\n"));
    }
}

#[test]
fn text_is_sent_unencoded_with_8bitmime_and_all_parts_around_it_are_labelled_8bit() {
    let image: Vec<u8> = (0..=255).collect();
    let inner = builder().subject("Grüße").text("Größe\n").build().unwrap();
    let message = builder()
        .text("Plain: Grüße\n")
        .html("<p>Hello <img src=\"cid:logo\"></p>\n")
        .attach(inline("logo", "image/png", image.clone()))
        .attach(Attachment::bytes("a.csv", "ü;ö\r\n"))
        .attach(Attachment::bytes("a.bin", "ü;ö\r\n"))
        .attach(Attachment::bytes("b.txt", "ü\n"))
        .attach(Attachment::message(inner))
        .build()
        .unwrap();
    let sent = eight_bit(&message);
    assert!(sent.contains("\r\n\r\nPlain: Grüße\r\n") && sent.contains("\r\n\r\nGröße\r\n"));
    assert!(sent.lines().all(|line| line.len() <= 998));
    assert!(!header_block(&sent).contains("ü") && !sent.contains("Subject: Grüße"));
    let parsed = parse(sent.as_bytes());
    let encoding = |i: usize| parsed.parts[i].content_transfer_encoding().unwrap_or("none").to_owned();
    let encodings: Vec<_> = (0..parsed.parts.len()).map(encoding).collect();
    // mixed, alternative, text, related, html, png, csv, bin, txt, message
    let expected = ["8bit", "8bit", "8bit", "none", "7bit", "base64", "8bit", "base64", "base64", "8bit"];
    assert_eq!(encodings, expected, "{sent}");
    let named = |name: &str| parsed.attachments().find(|a| a.attachment_name() == Some(name)).unwrap();
    assert_eq!(named("a.csv").contents(), "ü;ö\r\n".as_bytes());
    assert_eq!(named("a.bin").contents(), "ü;ö\r\n".as_bytes());
    assert_eq!(named("b.txt").contents(), "ü\n".as_bytes());
    assert_eq!(eight_bit(&builder().text("plain").build().unwrap()).matches("8bit").count(), 0);
    check(&message);
}

#[test]
fn text_with_overlong_lines_is_encoded_even_with_8bitmime() {
    for text in ["ü".repeat(500), "From ü".to_owned(), "ü\0".to_owned()] {
        let message = builder().text(text).build().unwrap();
        assert_eq!(eight_bit(&message), self::text(&message));
    }
}

// Behaviour 84.
#[test]
fn only_a_non_ascii_address_is_sent_unencoded_in_its_field() {
    let message = Message::builder()
        .from(("Jörg", "jörg@bücher.example"))
        .to("Bob <bob@example.net>, 用户 <用户@例え.example>")
        .cc("Gruppe Süd: \"ü ö\"@example.net;")
        .subject("Grüße")
        .text("Grüße\n")
        .build()
        .unwrap();
    let sent = text(&message);
    let header = header_block(&sent);
    assert!(header.contains("From: =?utf-8?b?SsO2cmc=?= <jörg@bücher.example>\r\n"), "{header}");
    assert!(header.contains(" =?utf-8?b?55So5oi3?= <用户@例え.example>\r\n"), "{header}");
    assert!(header.contains("\"ü ö\"@example.net;\r\n"), "{header}");
    assert!(header.contains("\r\nSubject: =?utf-8?b?") && header.contains("Message-ID: <"));
    assert!(header.lines().all(|line| line.len() <= 78));
    let parsed = parse(sent.as_bytes());
    assert_eq!(mailboxes(parsed.from()), [("Jörg".to_owned(), "jörg@bücher.example".to_owned())]);
    assert_eq!(message.envelope().unwrap().recipients().len(), 3);
    assert!(matches!(Email::try_from(message.clone()), Err(Error::Message(_))));
    assert!(refused(builder().attach(Attachment::message(message))).contains("non-ASCII address"));
}

#[test]
fn utf_8_text_attached_as_bytes_is_labelled_as_such() {
    let kind = |name: &str, bytes: &'static [u8]| {
        let message = builder().attach(Attachment::bytes(name, bytes)).build().unwrap();
        let sent = check(&message);
        let start = sent.rfind("Content-Type: ").unwrap();
        sent[start..].lines().next().unwrap().to_owned()
    };
    assert_eq!(kind("a.txt", "Grüße".as_bytes()), "Content-Type: text/plain; charset=utf-8");
    assert_eq!(kind("a.txt", b"Hello"), "Content-Type: text/plain");
    assert_eq!(kind("a.txt", b"Gr\xfc\xdfe"), "Content-Type: text/plain");
    assert_eq!(kind("a.bin", "Grüße".as_bytes()), "Content-Type: application/octet-stream");
}

#[test]
fn subjects_are_encoded_where_necessary_and_folded() {
    let subject = |subject: &str| builder().subject(subject).build().unwrap();
    assert_eq!(subject("Hello, all of you!").header("Subject").unwrap(), "Hello, all of you!");
    assert_eq!(
        subject("Re: Grüße an Jörg").header("Subject").unwrap(),
        "Re: =?utf-8?b?R3LDvMOfZQ==?= an =?utf-8?b?SsO2cmc=?="
    );
    for text in [
        "Grüße",
        "=?utf-8?q?fake?=",
        " spaces  between   words ",
        "ü  ü",
        &"a long subject of many words ".repeat(20),
        &"ein Gruß ".repeat(50),
        &"語".repeat(300),
        &"x".repeat(500),
        &"x".repeat(5000),
        "👩‍👩‍👧‍👦 and e\u{301}",
    ] {
        let message = subject(text);
        let sent = check(&message);
        assert!(sent.lines().all(|line| line.len() <= 78 || text.starts_with("xx")), "{sent}");
        assert_eq!(parse(sent.as_bytes()).subject(), Some(text));
    }
}

#[test]
fn every_encoded_word_is_short_and_splits_no_character() {
    let message = builder().subject("語ü👍".repeat(100)).to(("語ü👍".repeat(30), "a@x.org")).build().unwrap();
    let text = check(&message);
    let words: Vec<&str> = text.split([' ', '\r', '\n']).filter(|word| word.starts_with("=?")).collect();
    assert!(words.len() > 10);
    for word in words {
        assert!(word.len() <= 75);
        let alone = format!("Subject: {word}\r\n\r\n");
        assert!(!parse(alone.as_bytes()).subject().unwrap().contains('\u{fffd}'));
    }
}

#[test]
fn resent_sender_is_the_envelope_sender() {
    let resent = Resent::by("Bob <bob@example.net>, carol@example.net")
        .sender("dave@example.net")
        .cc("erin@example.com")
        .date(UNIX_EPOCH);
    let again = builder().text("Hello\n").build().unwrap().resend(resent).unwrap();
    assert_eq!(again.envelope().unwrap(), Envelope::new("dave@example.net", ["erin@example.com"]).unwrap());
    let sent = check(&again);
    for line in [
        "Resent-Sender: dave@example.net",
        "Resent-Cc: erin@example.com",
        "Resent-Date: Thu, 1 Jan 1970 00:00:00 +0000",
    ] {
        assert!(sent.contains(&format!("{line}\r\n")), "{sent}");
    }
}

#[test]
fn each_resending_adds_a_block_of_fields() {
    let message = builder().bcc("hidden@example.com").subject("Hi").text("Hello\n").build().unwrap();
    let resent = Resent::by("Bob <bob@example.net>").to(("Çağrı", "cagri@example.com")).bcc("d@example.com");
    let again = message.resend(resent).unwrap();
    let envelope = Envelope::new("bob@example.net", ["cagri@example.com", "d@example.com"]).unwrap();
    assert_eq!(again.envelope().unwrap(), envelope);
    let sent = check(&again);
    assert!(sent.starts_with("Resent-From: Bob <bob@example.net>\r\nResent-To: =?utf-8?b?"));
    assert!(sent.ends_with(&text(&message)) && !sent.contains("hidden") && !sent.contains("d@example.com"));
    assert!(sent.contains("\r\nResent-Date: ") && sent.contains("\r\nResent-Message-ID: <"));

    let once_more = again.resend(Resent::by("c@example.com").to("e@example.com")).unwrap();
    assert_eq!(once_more.envelope().unwrap(), Envelope::new("c@example.com", ["e@example.com"]).unwrap());
    assert!(check(&once_more).ends_with(&sent));
    assert!(matches!(message.resend(Resent::by("").to("e@example.com")), Err(Error::Message(_))));
    assert!(matches!(message.resend(Resent::by("c@x.org").message_id("a b")), Err(Error::Message(_))));
}

#[test]
fn emails_and_messages_can_be_converted() {
    let mut email = Email::new("Me <me@x.example>", "Wed, 5 Jan 2015 15:13:05 +1300").unwrap();
    let many: Vec<String> = (0..50).map(|i| format!("Someone With A Name <number-{i}@x.example>")).collect();
    email.set_to(&many.join(", ")[..]).unwrap();
    email.set_bcc("hidden@x.example").unwrap();
    email.set_subject("many words ".repeat(30).trim_end()).unwrap();
    email.set_body("Hello!\r\n").unwrap();
    let message = Message::from(email.clone());
    let sent = check(&message);
    assert!(sent.ends_with("\r\n\r\nHello!\r\n") && !sent.contains("hidden"));
    assert_eq!(message.envelope().unwrap(), email.envelope().unwrap());
    let back = Email::try_from(message).unwrap();
    assert_eq!(mailboxes(parse(&back.as_bytes()).to()), mailboxes(parse(&email.as_bytes()).to()));
    assert_eq!(back.get_body(), email.get_body());
    assert!(back.get_bcc().is_some());

    email.clear_body();
    assert!(text(&Message::from(email)).ends_with("\r\n\r\n"));
}

#[test]
fn a_composed_message_parses_as_an_email() {
    let message = builder()
        .subject("Grüße")
        .bcc("hidden@x.example")
        .text("Grüße\n")
        .html("<p>Grüße</p>")
        .attach(Attachment::bytes("a.bin", vec![7; 10_000]))
        .build()
        .unwrap();
    let email = Email::try_from(message.clone()).unwrap();
    assert_eq!(email.envelope().unwrap(), message.envelope().unwrap());
    let (theirs, ours) = (email.as_bytes(), bytes(&message));
    assert_eq!(email.get_body().unwrap().0, ours[header_block(&text(&message)).len() + 2..]);
    assert_eq!(parse(&theirs).subject(), Some("Grüße"));
    assert_eq!(parse(&theirs).attachment(0).unwrap().contents(), [7; 10_000]);
}

/// A reader that counts the octets read from it.
struct Counted {
    left: usize,
    taken: Arc<AtomicUsize>,
}

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = buf.len().min(self.left);
        buf[..n].fill(b'x');
        self.left -= n;
        self.taken.fetch_add(n, Ordering::Relaxed);
        Ok(n)
    }
}

#[test]
fn an_attachment_from_a_reader_is_read_while_it_is_sent() {
    const SIZE: usize = 50 * 1024 * 1024;
    let taken = Arc::new(AtomicUsize::new(0));
    let reader = Counted { left: SIZE, taken: taken.clone() };
    let message = builder().text("x").attach(Attachment::reader("big", reader)).build().unwrap();
    let mut body = message.body().unwrap().into_reader().unwrap();
    assert_eq!(taken.load(Ordering::Relaxed), 0);
    let (mut buf, mut sent) = ([0; 4096], 0);
    loop {
        let n = body.read(&mut buf).unwrap();
        if n == 0 {
            break;
        }
        sent += n;
        // 3 octets become 4, and a block is read ahead.
        assert!(taken.load(Ordering::Relaxed) <= sent * 3 / 4 + 64 * 1024);
    }
    assert_eq!(taken.load(Ordering::Relaxed), SIZE);
    assert!(sent > SIZE / 3 * 4);
    assert!(matches!(message.body(), Err(Error::Message(_))));
}

#[test]
fn a_failing_attachment_reader_is_an_error_and_not_a_truncated_message() {
    struct Fails(usize);
    impl Read for Fails {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(1).ok_or_else(|| io::Error::other("the disk is gone"))?;
            Ok(buf.len())
        }
    }
    for blocks in [0, 1, 7] {
        let message = builder()
            .attach(Attachment::reader("a", Fails(blocks)))
            .attach(Attachment::bytes("b", b"never sent"))
            .build()
            .unwrap();
        let mut body = message.body().unwrap().into_reader().unwrap();
        let mut sent = Vec::new();
        assert_eq!(body.read_to_end(&mut sent).unwrap_err().to_string(), "the disk is gone");
        assert!(body.read(&mut [0; 100]).is_err());
        assert!(!String::from_utf8(sent).unwrap().contains("never sent"));
    }
}

#[test]
fn text_in_an_unknown_charset_keeps_its_octets() {
    for octets_of_file in [&b"Gr\xFC\xDFe\r\n"[..], b"\x80", b"a\xC3", b"\xFF\xFEa\0\n\0"] {
        let message = builder().attach(Attachment::bytes("a.md", octets_of_file)).build().unwrap();
        let sent = check(&message);
        assert!(sent.contains("Content-Type: text/markdown\r\n"), "{sent}");
        assert_eq!(octets(&sent, parse(sent.as_bytes()).attachment(0).unwrap()), octets_of_file, "{sent}");
    }
}

#[test]
fn a_file_is_attached_under_its_name_and_read_again_for_each_send() {
    let path =
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-Grüße.pdf", std::process::id()));
    drop(fs::remove_file(&path)); // an earlier process with this ID may have left it
    let message = builder().attach(Attachment::path(&path)).build().unwrap();
    assert!(matches!(message.to_bytes(), Err(Error::Source(e)) if e.kind() == io::ErrorKind::NotFound));
    for content in [&b"one"[..], b"another, longer", b""] {
        fs::write(&path, content).unwrap();
        let sent = check(&message);
        let parsed = parse(sent.as_bytes());
        let attachment = parsed.attachment(0).unwrap();
        assert_eq!(attachment.contents(), content);
        assert!(attachment.attachment_name().unwrap().ends_with("-Grüße.pdf"));
        assert_eq!(attachment.content_type().unwrap().subtype(), Some("pdf"));
    }
    fs::remove_file(&path).unwrap();
}

/// Any text without control characters, mostly made of characters that matter here.
fn value() -> impl Strategy<Value = String> {
    let odd = prop::sample::select("  ,;:<>@\"\\()[]=?_.üß語👍\u{301}%'".chars().collect::<Vec<_>>());
    let any = any::<char>().prop_filter("a control character", |c| !c.is_control());
    prop::collection::vec(prop_oneof![4 => odd, 4 => prop::char::range('a', 'e'), 1 => any], 0..120)
        .prop_map(|chars| chars.into_iter().collect())
}

/// Bytes as in attachments: text, nearly text, anything.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop::sample::select(b"\r\n\r\n -=.F\0".as_slice());
    prop::collection::vec(prop_oneof![3 => odd, 6 => b'a'..=b'z', 1 => any::<u8>()], 0..600)
}

/// Converts line endings to CRLF.
fn with_crlf(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n")
}

proptest! {
    #[test]
    fn any_display_name_round_trips(name in value()) {
        let message = builder().cc((&name[..], "carol@example.net")).cc("d@example.net").build().unwrap();
        let sent = check(&message);
        let cc = mailboxes(parse(sent.as_bytes()).cc());
        prop_assert_eq!(cc.len(), 2, "{}", &sent);
        prop_assert_eq!(&cc[0].1, "carol@example.net");
        prop_assert_eq!(&cc[0].0, &name, "{}", &sent);
        let typed = Mailbox::new(&name[..], "carol@example.net").unwrap().to_string();
        let same = builder().cc(typed).cc("d@example.net").build().unwrap();
        prop_assert_eq!(same.header("Cc"), message.header("Cc"));
        prop_assert_eq!(message.envelope().unwrap().recipients().len(), 3);
    }

    #[test]
    fn any_subject_round_trips(subject in value()) {
        let message = builder().subject(&subject[..]).build().unwrap();
        let sent = check(&message);
        let expected = Some(&subject[..]).filter(|subject| !subject.trim_matches(' ').is_empty());
        let parsed = parse(sent.as_bytes());
        prop_assert_eq!(parsed.subject(), expected, "{}", &sent);
    }

    #[test]
    fn attachments_keep_their_content_and_names(files in prop::collection::vec((value(), content()), 1..4)) {
        let attach = |builder: MessageBuilder, (name, bytes): &(String, Vec<u8>)| {
            builder.attach(Attachment::bytes(&name[..], bytes.clone()))
        };
        let message = files.iter().fold(builder().text("x"), attach).build().unwrap();
        let sent = check(&message);
        let parsed = parse(sent.as_bytes());
        prop_assert_eq!(parsed.attachment_count(), files.len());
        for (attachment, (name, bytes)) in parsed.attachments().zip(&files) {
            prop_assert_eq!(octets(&sent, attachment), &bytes[..], "{}", &sent);
            prop_assert_eq!(attachment.attachment_name().unwrap_or_default(), name, "{}", &sent);
        }
    }

    #[test]
    fn any_text_html_and_attachment_round_trip(plain in content(), html in ".{0,300}", file in content()) {
        let plain = String::from_utf8_lossy(&plain).into_owned();
        let message = builder().text(&plain[..]).html(&html[..]).attach(Attachment::bytes("f", file.clone())).build().unwrap();
        let sent = check(&message);
        let parsed = parse(sent.as_bytes());
        prop_assert_eq!(parsed.body_text(0).unwrap(), with_crlf(&plain), "{}", &sent);
        prop_assert_eq!(parsed.body_html(0).unwrap(), with_crlf(&html), "{}", &sent);
        prop_assert_eq!(parsed.attachment(0).unwrap().contents(), &file[..]);
    }

    #[test]
    fn identifiers_of_other_messages_never_break_the_header(
        ids in "(<[a-z@.é]{0,8}>|[a-z@.,(\"]{1,8}| |\t|\r\n |\n\t|\r\n|\n|\r|\u{0}|\u{85}|<|>|é|<[a-z]{300}@x>){0,24}"
    ) {
        match builder().in_reply_to(&ids[..]).references(&ids[..]).build() {
            Ok(message) => {
                let sent = check(&message);
                // Text between two identifiers may have been left out.
                let references = message.header("References").unwrap_or_default().replace("><", "> <");
                for id in references.split(' ') {
                    prop_assert!(ids.contains(id.trim_start_matches('<').trim_end_matches('>')), "{sent}");
                }
                let _ = Email::try_from(message);
            }
            Err(_) => prop_assert!(ids.contains(['\r', '\n'])),
        }
    }

    // Threat 25.
    #[test]
    fn no_value_can_hold_a_control_character(value in value(), at in any::<prop::sample::Index>(), control in prop::sample::select(vec!["\r", "\n", "\r\n", "\0", "\t", "\u{7f}", "\u{85}", "\u{1b}", "\r\n "])) {
        let at = (0..=value.len()).filter(|at| value.is_char_boundary(*at)).collect::<Vec<_>>()[at.index(value.chars().count() + 1)];
        let value = format!("{}{control}{}", &value[..at], &value[at..]);
        let value = &value[..];
        let address = format!("{value} <a@x.org>");
        let builders = [
            builder().subject(value),
            builder().header("X-Any", value),
            builder().header(value, "x"),
            builder().message_id(value),
            builder().header("Date", value),
            builder().header("Keywords", value),
            builder().to(address),
            builder().to((value, "a@x.org")),
            builder().to(("a", value)),
            builder().from(value),
            builder().list_unsubscribe(format!("https:{value}")),
            builder().calendar(value, "x"),
            builder().html("x").attach(inline(value, "image/png", b"x")),
            builder().html("x").attach(inline("x", value, b"x")),
            builder().attach(Attachment::bytes(value, b"x")),
            builder().attach(Attachment::bytes("x", b"x").content_type(format!("text/plain;{value}"))),
        ];
        for builder in builders {
            let is_refused = matches!(builder.build(), Err(Error::Message(_) | Error::Address { .. }));
            prop_assert!(is_refused);
        }
    }
}

/// Sends messages to a server, with both clients.
#[cfg(feature = "testing")]
mod sent {
    use postino::{Delivery, testing::Server};

    use super::*;

    fn blocking(server: &Server, message: &Message) -> Result<Delivery, Error> {
        postino::send(&server.url(), message)
    }

    #[cfg(feature = "async")]
    fn with_async(server: &Server, message: &Message) -> Result<Delivery, Error> {
        smol::block_on(postino::aio::send(&server.url(), message))
    }

    type Send = fn(&Server, &Message) -> Result<Delivery, Error>;

    const WORLDS: &[Send] = &[
        blocking,
        #[cfg(feature = "async")]
        with_async,
    ];

    #[test]
    fn a_message_arrives_as_it_was_composed() {
        let dots = ".\n..\n.a\n".repeat(30_000);
        let message = builder()
            .subject("Grüße")
            .bcc("hidden@example.com")
            .text(dots)
            .attach(Attachment::bytes("ü.bin", (0..200_000).map(|i| i as u8).collect::<Vec<_>>()))
            .build()
            .unwrap();
        for send in WORLDS {
            let server = Server::start().unwrap();
            assert_eq!(send(&server, &message).unwrap().refused().count(), 0);
            let arrived = server.wait_for_messages(1);
            assert_eq!(arrived[0].content(), bytes(&message));
            assert_eq!(arrived[0].recipients(), ["bob@example.net", "hidden@example.com"]);
            // None of it is 8-bit, and the size is known.
            assert_eq!(arrived[0].mail_parameters(), [format!("SIZE={}", bytes(&message).len())]);
        }
    }

    #[test]
    fn a_message_whose_reader_fails_is_not_delivered() {
        struct Fails(usize);
        impl Read for Fails {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.0 = self.0.checked_sub(1).ok_or_else(|| io::Error::other("the disk is gone"))?;
                Ok(buf.len())
            }
        }
        for send in WORLDS {
            let server = Server::start().unwrap();
            let message = builder().attach(Attachment::reader("a", Fails(50))).build().unwrap();
            let error = send(&server, &message).unwrap_err();
            assert!(!error.in_doubt(), "{error:?}");
            assert!(send(&server, &builder().build().unwrap()).is_ok());
            assert_eq!(server.wait_for_messages(1).len(), 1);
        }
    }
}

/// OpenSSL is the signer, and an independent reader of the message.
#[cfg(unix)]
#[test]
fn a_message_signed_with_smime_is_verified_by_openssl() {
    use openssl::{
        asn1::Asn1Time,
        hash::MessageDigest,
        pkcs7::{Pkcs7, Pkcs7Flags},
        pkey::PKey,
        rsa::Rsa,
        stack::Stack,
        x509::{X509, X509NameBuilder, store::X509StoreBuilder},
    };

    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "alice@example.org").unwrap();
    let name = name.build();
    let mut certificate = X509::builder().unwrap();
    certificate.set_subject_name(&name).unwrap();
    certificate.set_issuer_name(&name).unwrap();
    certificate.set_pubkey(&key).unwrap();
    certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    certificate.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    certificate.sign(&key, MessageDigest::sha256()).unwrap();
    let certificate = certificate.build();
    let none = Stack::new().unwrap();

    let content = builder()
        .text("Gr\u{fc}\u{df}e, Bob! \n-- \nAlice\n")
        .attach(Attachment::bytes("a.bin", [0_u8; 999]));
    let content = content.build_to_sign().unwrap();
    let flags = Pkcs7Flags::DETACHED | Pkcs7Flags::BINARY;
    let signature = Pkcs7::sign(&certificate, &key, &none, content.octets(), flags).unwrap();
    let signature = signature.to_der().unwrap();
    let message = content.signed("application/pkcs7-signature", "sha-256", signature).unwrap();

    let verified = |message: &[u8]| {
        let (signature, content) = Pkcs7::from_smime(message).unwrap();
        let store = X509StoreBuilder::new().unwrap().build();
        let flags = Pkcs7Flags::NOVERIFY | Pkcs7Flags::BINARY;
        signature.verify(&none, &store, content.as_deref(), None, flags)
    };
    let sent = text(&message);
    verified(sent.as_bytes()).unwrap();
    assert!(verified(sent.replace("Alice", "Malice").as_bytes()).is_err());
}
