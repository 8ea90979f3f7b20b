//! Messages that other composers and readers got wrong, as reported by their users. `tests/README.md` lists the
//! reports.

use postino::{
    Envelope, Error, Mail, Message,
    message::{Attachment, Mailbox, Resent},
};

use super::{builder, bytes, check, header_block, inline, mailboxes, parse, refused};

/// The lines of a field, as sent.
#[track_caller]
fn lines(text: &str, name: &str) -> Vec<String> {
    let mut lines = header_block(text).lines().skip_while(|line| !line.starts_with(&format!("{name}:")));
    let first = lines.next().unwrap_or_else(|| panic!("no {name} in {text}"));
    let more = lines.take_while(|line| line.starts_with(' '));
    [first].into_iter().chain(more).map(str::to_owned).collect()
}

/// The addresses that `Envelope::from_headers` reads in `To`, or its error.
fn recipients(to: &str) -> Result<Vec<String>, String> {
    let message = format!("From: a@example.org\nTo: {to}\n\n");
    let envelope = Envelope::from_headers(message.as_bytes()).map_err(|error| error.to_string())?;
    Ok(envelope.recipients().iter().map(ToString::to_string).collect())
}

fn recipient(to: &str) -> String {
    recipients(to).unwrap().remove(0)
}

const LONG_ID: &str = "<AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=3D@AAAAAAAAAAAAAAAAAAAAAAAAAAAA.example>";

// Identifiers.

#[test]
fn a_long_identifier_stays_unencoded_on_the_line_of_its_field_name() {
    let message = builder().message_id(LONG_ID).in_reply_to(LONG_ID).references(LONG_ID).build().unwrap();
    let sent = check(&message);
    for name in ["Message-ID", "In-Reply-To", "References"] {
        assert_eq!(lines(&sent, name), [format!("{name}: {LONG_ID}")]);
    }
}

#[test]
fn a_long_conversation_is_folded_between_its_identifiers() {
    let ids: Vec<String> =
        (0..500).map(|i| format!("<PR0P264MB335651D4B1A9A2A{i}@example.outlook.com>")).collect();
    for separator in [" ", ""] {
        let sent = check(&builder().references(ids.join(separator)).build().unwrap());
        let lines = lines(&sent, "References");
        assert!(lines.iter().all(|line| line.len() <= 78));
        let found: Vec<&str> =
            lines.iter().flat_map(|line| line.split(' ').filter(|id| id.contains('<'))).collect();
        assert_eq!(found, ids);
    }
}

#[test]
fn identifiers_without_brackets_get_brackets() {
    let message = builder().in_reply_to("1@x.org").references("0@x.org 1@x.org").build().unwrap();
    let sent = check(&message);
    let parsed = parse(sent.as_bytes());
    assert_eq!(parsed.in_reply_to().as_text(), Some("1@x.org"));
    assert_eq!(parsed.references().as_text_list().unwrap(), ["0@x.org", "1@x.org"]);
}

#[test]
fn a_generated_identifier_has_a_domain() {
    for (from, domain) in [
        ("a@example.org", "example.org"),
        ("a@[192.0.2.1]", "[192.0.2.1]"),
        (
            "a@an-organization-with-a-name-of-many-letters.example",
            "an-organization-with-a-name-of-many-letters.example",
        ),
    ] {
        let message =
            Message::builder().from(from).to("b@example.net").sender("s@elsewhere.example").build().unwrap();
        let id = message.header("Message-ID").unwrap();
        assert!(id.ends_with(&format!("@{domain}>")), "{id}");
        assert_eq!(lines(&check(&message), "Message-ID"), [format!("Message-ID: {id}")]);
    }
    assert!(refused(builder().message_id("94f4e3edc9e34a098190862079df6959")).contains("Message-ID"));
}

// Lists.

#[test]
fn a_long_uri_is_neither_encoded_nor_broken() {
    let uri = format!(
        "https://example.org/unsubscribe_oneclick?email=user%40example.net&hash_token={}",
        "0f".repeat(200)
    );
    let message = builder()
        .list_unsubscribe("mailto:leave@example.org?subject=leave,now")
        .one_click_unsubscribe(&uri)
        .header("List-Help", format!("<{uri}>"))
        .build()
        .unwrap();
    let sent = check(&message);
    assert_eq!(
        lines(&sent, "List-Unsubscribe"),
        ["List-Unsubscribe: <mailto:leave@example.org?subject=leave%2Cnow>,", &format!(" <{uri}>")]
    );
    assert_eq!(lines(&sent, "List-Help"), ["List-Help:", &format!(" <{uri}>")]);
}

#[test]
fn an_unencoded_uri_is_refused() {
    for uri in
        ["mailto:a@x.org?subject=Ab melden", "mailto:a@x.org?subject=Kündigen", "https://x.org/\"", "leave"]
    {
        assert!(refused(builder().list_unsubscribe(uri)).contains("List-Unsubscribe"), "{uri}");
    }
}

// Names and addresses.

#[test]
fn a_name_with_special_characters_is_one_name() {
    let long =
        "A Name That Is Extremely Long And Will Force The Folding To Break It, Which Is Here Tested, Twice";
    for name in [
        "Doe, Jane",
        "Foo, PhD",
        "Müller, Jörg",
        "Supports (E-mail)",
        "my_address@server.example",
        "dennis@",
        "Dr\", Watson",
        "111(aaa\u{ff09}",
        "=?utf-8?q?not_encoded?=",
        "Eve <eve@x.org>, Bob",
        "a;b:c",
        "🎉 Party",
        long,
        &long.replace('N', "Ñ"),
    ] {
        let message = builder().to((name, "jane@example.net")).to("last@example.net").build().unwrap();
        let sent = check(&message);
        let parsed = parse(sent.as_bytes());
        let to = mailboxes(parsed.to());
        assert_eq!(to[1], (name.to_owned(), "jane@example.net".to_owned()), "{sent}");
        assert_eq!(to.len(), 3, "{sent}");
        assert_eq!(message.envelope().unwrap().recipients().len(), 3);
    }
}

#[test]
fn addresses_are_not_folded_and_commas_are_not_encoded() {
    let long = format!("{}@example.org", "0".repeat(60));
    let sent = check(
        &builder().to(&long[..]).to(("ä", "foo@example.org")).to(("Long Name", &long[..])).build().unwrap(),
    );
    let lines = lines(&sent, "To");
    assert_eq!(lines.join("").matches(',').count(), 3);
    assert!(lines.iter().any(|line| line.ends_with(&format!("<{long}>"))), "{lines:?}");
    assert!(lines.iter().all(|line| line.matches('<').count() == line.matches('>').count()), "{lines:?}");
}

#[test]
fn a_comment_after_an_address_is_the_name() {
    for (typed, name) in [
        ("md@example.org (Marco d'Itri)", "Marco d'Itri"),
        ("John Doe (Comment) <john@example.org>", "John Doe (Comment)"),
        ("my@server.example <my@server.example>", "my@server.example"),
        ("DHL < dhl@example.org >", "DHL"),
        ("\"Dr\\\", Watson\" <dr@example.org>", "Dr\", Watson"),
    ] {
        let mailbox: Mailbox = typed.parse().unwrap();
        assert_eq!(mailbox.name(), name);
        let sent = check(&builder().cc(mailbox).build().unwrap());
        assert_eq!(mailboxes(parse(sent.as_bytes()).cc())[0].0, name, "{sent}");
    }
}

#[test]
fn an_encoded_word_in_a_callers_address_list_is_refused() {
    for to in
        ["=?utf-8?b?TmfGsOG7nWkgbmjhuq1uIGEgdmVyeSB2ZXJ5IGxvbmcs?= name <to@example.com>", "=?utf-8?q?Ann?="]
    {
        assert!(refused(builder().to(to)).contains("To"));
    }
}

#[test]
fn addresses_written_by_real_programs_are_parsed() {
    for (to, expected) in [
        ("Joe (a, b; c) <j@x.org>", "j@x.org"),
        ("DHL Worldwide < dhl@x.org >", "dhl@x.org"),
        ("\"Dr\\\", Watson\" <dr@x.org>", "dr@x.org"),
        ("my@server.example <my@server.example>", "my@server.example"),
        ("(a<b) x@y.com", "x@y.com"),
        ("x@y.com (Foo Bar)", "x@y.com"),
        ("test.test.@x.org", "test.test.@x.org"),
        ("undisclosed-recipients:;, b@x.org", "b@x.org"),
        ("\"quoted;semi\"@x.org", "\"quoted;semi\"@x.org"),
        ("=?UTF-8?Q?Doe=2C_J?= <j@x.org>", "j@x.org"),
        ("'j@x.org' <j@x.org>", "j@x.org"),
        ("<j@x.org>,", "j@x.org"),
    ] {
        assert_eq!(recipient(to), expected, "{to}");
    }
    assert_eq!(recipients("u1@x.org;u2@x.org").unwrap(), ["u1@x.org", "u2@x.org"]);
    assert_eq!(recipients("A <a@x.org>; B <b@x.org>").unwrap(), ["a@x.org", "b@x.org"]);
    assert_eq!(recipients("T: a@x.org, b@x.org;, c@x.org").unwrap(), ["a@x.org", "b@x.org", "c@x.org"]);
}

#[test]
fn an_ambiguous_address_is_an_error() {
    for to in [
        "=?UTF-8?Q?r?= <info@x.org",
        "Jane Doe",
        "111(aaa\u{ff09}<bb@x.org>",
        "\"Blah \"One, comma\" bar\" <l@x.org>",
        "Joe Foo PhD, joe@",
        "<aol.example dennis@aol.example>",
        "bob AT example DOT org",
        "a@x.org b@x.org",
        "<a@x.org, b@x.org>",
    ] {
        assert!(recipients(to).unwrap_err().contains("To: invalid address"), "{to}");
    }
}

#[test]
fn an_empty_group_has_no_recipients_and_is_written_whole() {
    let message = Message::builder()
        .from("a@example.org")
        .to("undisclosed-recipients:;")
        .bcc("b@x.org")
        .build()
        .unwrap();
    assert_eq!(lines(&check(&message), "To"), ["To: undisclosed-recipients:;"]);
    assert_eq!(message.envelope().unwrap(), Envelope::new("a@example.org", ["b@x.org"]).unwrap());
    let read = Envelope::from_headers(b"From: a@example.org\nBcc: b@x.org\nTo: undisclosed-recipients:;\n\n");
    assert_eq!(read.unwrap(), message.envelope().unwrap());
    assert!(matches!(
        Envelope::from_headers(b"From: a@example.org\nTo: undisclosed-recipients:;\n\n"),
        Err(Error::NoRecipients)
    ));
}

#[test]
fn an_empty_field_does_not_absorb_the_next_one() {
    let error = Envelope::from_headers(b"From:\nTo: foo@x.org\nCc: bar@x.org\n\n").unwrap_err();
    assert!(error.to_string().contains("From"));
    let read = Envelope::from_headers(b"Sender:\nFrom: a@x.org\nTo:\nCc: bar@x.org\n\n").unwrap();
    assert_eq!(read, Envelope::new("a@x.org", ["bar@x.org"]).unwrap());
}

// Subjects.

#[test]
fn encoded_words_are_short_and_never_empty_and_split_no_character() {
    for subject in [
        "Re: some few filler words here RE: Routeraustausch und übriggebliebene Glasfaser",
        "INFO: Uživatel Martin Němec přidal...",
        "Kvie\u{10d}iame drauge pildyti ESO pasiž\u{117}jim\u{173} girliand\u{105}!",
        "Administratör",
        "あいうえお".repeat(30).as_str(),
        "👩‍👩‍👧‍👦".repeat(20).as_str(),
        "日本 and 日本  twice",
    ] {
        let sent = check(&builder().subject(subject).build().unwrap());
        assert_eq!(parse(sent.as_bytes()).subject(), Some(subject));
        for word in
            lines(&sent, "Subject").iter().flat_map(|line| line.split(' ')).filter(|word| word.contains("=?"))
        {
            assert!(word.len() <= 75 && word.starts_with("=?utf-8?b?") && word.ends_with("?="), "{word}");
            let alone = format!("Subject: {word}\r\n\r\n");
            let decoded = parse(alone.as_bytes()).subject().unwrap_or_default().to_owned();
            assert!(!decoded.is_empty() && !decoded.contains('\u{fffd}'), "{word}");
        }
    }
}

// Texts and attachments.

#[test]
fn trailing_white_space_of_a_line_is_kept() {
    for signature in ["Bye\n-- \nA. Lice\n", "Grüße\n-- \nA. Lice\n", "tab\t\n \n"] {
        let message = builder().text(signature).build().unwrap();
        let expected = signature.replace('\n', "\r\n");
        for sent in [bytes(&message), super::eight_bit_bytes(&message)] {
            assert_eq!(parse(&sent).body_text(0).unwrap(), expected);
        }
    }
}

#[test]
fn a_csv_attachment_keeps_its_byte_order_mark() {
    let content = "\u{feff}Straße;Größe\r\n";
    let sent = check(&builder().attach(Attachment::bytes("a.csv", content)).build().unwrap());
    let parsed = parse(sent.as_bytes());
    let attachment = parsed.attachment(0).unwrap();
    assert_eq!(attachment.contents(), content.as_bytes());
    assert!(sent.contains("Content-Type: text/csv; charset=utf-8\r\n"), "{sent}");
}

#[test]
fn a_file_keeps_its_name_and_extension() {
    use mail_parser::MimeHeaders;
    for name in [
        "Größe.pdf",
        "问题.zip",
        "File_with_Ümlaut.xlsx",
        "a\"b;c\\d.txt",
        "0________1_________2_________3_________4_________5_________6_________712.txt",
        &format!("{}.docx", "very long name ".repeat(12).trim_end()),
        "100% sure?.txt",
    ] {
        let sent = check(&builder().attach(Attachment::bytes(name, "x")).build().unwrap());
        assert_eq!(parse(sent.as_bytes()).attachment(0).unwrap().attachment_name(), Some(name), "{sent}");
        assert!(!sent.contains("filename=\"=?") && !sent.contains("filename==?"), "{sent}");
    }
}

#[test]
fn a_content_id_has_one_pair_of_brackets_and_one_line() {
    let long = format!("{}@phpmailer.0", "795d06e8bc68".repeat(6));
    for (given, sent_as) in [
        ("logo", "logo"),
        ("<logo@example.org>", "logo@example.org"),
        ("SignaturePax(2)_21fe8b55.jpg", "SignaturePax(2)_21fe8b55.jpg"),
        ("image001.png@01D5$A", "image001.png@01D5$A"),
        (&long, &long),
    ] {
        let sent = check(&builder().html("x").attach(inline(given, "image/png", "x")).build().unwrap());
        assert!(sent.contains(&format!("\r\nContent-ID: <{sent_as}>\r\n")), "{sent}");
    }
}

#[test]
fn an_invitation_is_an_alternative_part_that_names_its_method() {
    use mail_parser::MimeHeaders;
    let calendar = "BEGIN:VCALENDAR\nMETHOD:REQUEST\nSUMMARY:Zürich\nEND:VCALENDAR\n";
    let message =
        builder().text("Dinner\n").html("<p>Dinner</p>").calendar("REQUEST", calendar).build().unwrap();
    assert!(message.header("Content-Type").unwrap().starts_with("multipart/alternative;"));
    let sent = check(&message);
    let parsed = parse(sent.as_bytes());
    let last = parsed.parts.last().unwrap();
    let kind = last.content_type().unwrap();
    assert_eq!((kind.attribute("method"), kind.attribute("charset")), (Some("REQUEST"), Some("utf-8")));
    assert!(last.content_disposition().is_none(), "it is not a file to save");
    assert_eq!(last.text_contents(), Some(&calendar.replace('\n', "\r\n")[..]));
}

#[test]
fn fields_that_describe_the_content_occur_once() {
    let sent = check(&builder().text("x").attach(Attachment::bytes("a", "x")).build().unwrap());
    assert_eq!(header_block(&sent).matches("MIME-Version: 1.0\r\n").count(), 1);
    assert_eq!(header_block(&sent).matches("Content-Type: ").count(), 1);
    for name in ["Content-Transfer-Encoding", "content-type", "MIME-Version"] {
        assert!(refused(builder().header(name, "8bit")).contains(name));
    }
    let message =
        builder().header("Content-Language", "de, en").header("Content-Location", "https://x.org/").build();
    assert_eq!(message.unwrap().header("content-language").as_deref(), Some("de, en"));
}

#[test]
fn a_forwarded_message_is_not_encoded_and_gains_no_line() {
    use mail_parser::MimeHeaders;
    for inner in [
        "Subject: report\n\nreport_with_no_body\n\n",
        "Subject: report\r\n\r\nx",
        "Subject: nothing\n\n",
        "Received: from a by b;\n\tMon, 1 Jan 2024 00:00:00 +0000\nSubject: folded\n here\n\n.\n..\nFrom x\n",
    ] {
        let attached = Attachment::bytes("a.eml", inner).content_type("message/rfc822");
        let message = builder().text("x").attach(attached).build().unwrap();
        let sent = check(&message);
        assert!(!sent.contains("base64") && !sent.contains("quoted-printable"));
        let expected = super::with_crlf(inner);
        let start = sent.find(&expected).unwrap_or_else(|| panic!("{sent}"));
        assert!(sent[start + expected.len()..].starts_with("\r\n--=_"), "{sent}");
        let parsed = parse(sent.as_bytes());
        let part = parsed.parts.iter().find(|part| part.attachment_name() == Some("a.eml")).unwrap();
        assert!(part.message().unwrap().subject().is_some());
    }
}

// Non-ASCII domains.

#[cfg(feature = "idna")]
#[test]
fn only_domains_are_converted_to_a_labels() {
    for (address, ascii) in [
        ("a@fußball.test", "a@xn--fuball-cta.test"),
        ("a@BÜCHER.Example", "a@xn--bcher-kva.example"),
        ("a@xn--bcher-kva.example", "a@xn--bcher-kva.example"),
        ("a@mail.bücher.example", "a@mail.xn--bcher-kva.example"),
        ("a@bu\u{308}cher.example", "a@xn--bcher-kva.example"),
        ("a@письмо.рф", "a@xn--h1aigbl0e.xn--p1ai"),
        ("xn--gr-zia@example.org", "xn--gr-zia@example.org"),
    ] {
        let message = builder().reply_to(address).build().unwrap();
        assert_eq!(lines(&check(&message), "Reply-To"), [format!("Reply-To: {ascii}")]);
    }
    for address in ["grå@grå.org", "османов@письмо.рф"] {
        let sent = super::text(&builder().reply_to(address).build().unwrap());
        assert_eq!(lines(&sent, "Reply-To"), [format!("Reply-To: {address}")]);
    }
}

// Resent messages.

#[test]
fn a_resent_message_keeps_its_author_and_has_only_new_recipients() {
    let message = builder().subject("Hi").text("Hello\n").build().unwrap();
    let again = message.resend(Resent::by("bob@example.net").to("carol@example.com")).unwrap();
    let sent = check(&again);
    assert_eq!(lines(&sent, "From"), ["From: alice@example.org"]);
    assert!(sent.find("Resent-To: ").unwrap() < sent.find("From: alice").unwrap());
    let expected = Envelope::new("bob@example.net", ["carol@example.com"]).unwrap();
    assert_eq!(Envelope::from_headers(sent.as_bytes()).unwrap(), expected);
    assert_eq!(again.envelope().unwrap(), expected);
}
