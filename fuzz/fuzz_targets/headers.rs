//! What is read of a message and of addresses, and what becomes of text that is set into a header.
#![no_main]

use std::{io::Read, sync::OnceLock};

use email_format::{Email, rfc5322::Parsable};
use libfuzzer_sys::fuzz_target;
use postino::{
    Address, Envelope, Error, Mail, Message, Raw,
    message::{Attachment, Dkim, Mailbox, header_length, without_bcc},
};

fuzz_target!(|input: &[u8]| {
    let Some((way, input)) = input.split_first() else { return };
    match way % 4 {
        0 => raw(input),
        1 => address(&String::from_utf8_lossy(input)),
        2 => composed(&String::from_utf8_lossy(input)),
        _ => email(input),
    }
});

/// A message as somebody else has written it.
fn raw(message: &[u8]) {
    let head = header_length(message);
    if let Some(length) = head {
        assert!(message[..length].ends_with(b"\n") || message[..length].ends_with(b"\r"));
    }
    let sender = Envelope::sender_from_headers(message);
    let recipients = Envelope::recipients_from_headers(message);
    for address in sender.iter().chain(recipients.iter().flatten()) {
        check_address(address);
    }
    match (sender, recipients, Envelope::from_headers(message)) {
        (Ok(sender), Ok(recipients), Ok(envelope)) => {
            assert_eq!((envelope.sender(), envelope.recipients()), (Some(&sender), &recipients[..]));
        }
        (Ok(_), Ok(_), Err(error)) => panic!("it has both: {error}"),
        (_, _, envelope) => assert!(envelope.is_err()),
    }

    let less = without_bcc(message);
    assert!(less.len() <= message.len());
    assert!(!has_bcc(&less), "a Bcc is left");
    let body = |message: &[u8]| header_length(message).map(|length| message[length..].to_vec());
    assert_eq!(body(&less), body(message), "the content has changed");

    signed(message);
}

/// A line of the headers, but for folded ones, begins with its name.
fn has_bcc(message: &[u8]) -> bool {
    let head = &message[..header_length(message).unwrap_or(message.len())];
    let names = head.split(|b| matches!(b, b'\r' | b'\n')).filter_map(|line| {
        let colon = line.iter().position(|b| *b == b':')?;
        (!line.starts_with(b" ") && !line.starts_with(b"\t")).then(|| line[..colon].trim_ascii())
    });
    names
        .into_iter()
        .any(|name| name.eq_ignore_ascii_case(b"Bcc") || name.eq_ignore_ascii_case(b"Resent-Bcc"))
}

fn check_address(address: &Address) {
    let text = address.as_str();
    assert!(!text.is_empty() && text.len() <= 254 && !text.contains(char::is_control));
    assert_eq!(&Address::new(text).expect("it was one before"), address);
    assert!(!address.local_part().is_empty());
    match address.domain() {
        Some(domain) => assert_eq!(format!("{}@{domain}", address.local_part()), text),
        None => assert_eq!(address.local_part(), text),
    }
    // In a command nothing of it ends the path it stands in.
    if !text.starts_with('"') {
        assert!(!text.contains(['<', '>', ' ']));
    }
}

/// A signature goes before the message, and changes nothing in it.
fn signed(message: &[u8]) {
    static DKIM: OnceLock<Dkim> = OnceLock::new();
    let dkim = DKIM.get_or_init(|| {
        Dkim::new("example.org", "s", include_str!("../../tests/dkim/keys/ed25519.pem")).expect("a good key")
    });
    let envelope = Envelope::new("a@example.org", ["b@example.org"]).expect("they are good");
    let mail = Raw::bytes(envelope, message);
    let mut out = Vec::new();
    let read = dkim.sign(&mail).body().and_then(|body| {
        body.into_reader().and_then(|mut reader| reader.read_to_end(&mut out)).map_err(Error::Source)
    });
    if read.is_err() {
        return;
    }
    assert!(out.ends_with(message), "the message has changed");
    let field = &out[..out.len() - message.len()];
    assert!(field.starts_with(b"DKIM-Signature:") && field.ends_with(b"\r\n"));
    for line in field.split_inclusive(|b| *b == b'\n') {
        assert!(line.ends_with(b"\r\n") && line.len() <= 1000 && line.trim_ascii() != b"");
        assert!(line[..line.len() - 2].iter().all(|b| (b' '..=b'~').contains(b) || *b == b'\t'));
    }
}

/// Text that should be an address, or a list of them.
fn address(text: &str) {
    if let Ok(address) = Address::new(text) {
        check_address(&address);
    }
    if let Ok(envelope) = Envelope::new(text, text.split(',')) {
        envelope.sender().into_iter().chain(envelope.recipients()).for_each(check_address);
    }
    if let Ok(mailbox) = text.parse::<Mailbox>() {
        check_address(mailbox.address());
        let shown = mailbox.to_string();
        let again: Mailbox = shown.parse().unwrap_or_else(|e| panic!("{shown:?} cannot be read again: {e}"));
        assert_eq!(again, mailbox, "shown as {shown:?}");
    }
    let read = Envelope::from_headers(format!("From: {text}\r\nTo: {text}\r\n\r\n").as_bytes());
    if let Ok(envelope) = read {
        envelope.sender().into_iter().chain(envelope.recipients()).for_each(check_address);
    }
}

/// Values that others have chosen, in the fields of a message of our own.
fn composed(text: &str) {
    let mut values = text.split('~');
    let mut value = || values.next().unwrap_or_default();
    let name = value();
    let mut builder = Message::builder()
        .from((name, "alice@example.org"))
        .to("bob@example.org")
        .subject(value())
        .message_id("<1@example.org>")
        .header("X-Own", value())
        .text(value())
        .in_reply_to(value())
        .references(value());
    for (name, value) in [("List-Unsubscribe", value()), ("Content-Language", value())] {
        if !value.is_empty() {
            builder = builder.header(name, value);
        }
    }
    let Ok(message) = builder.build() else { return };
    attached(value());
    let bytes = message.to_bytes().expect("it is in memory");
    let line_ends = bytes.windows(2).filter(|pair| pair == b"\r\n").count();
    for byte in b"\r\n" {
        assert_eq!(bytes.iter().filter(|b| *b == byte).count(), line_ends, "a bare CR or LF");
    }
    assert!(bytes.split(|b| *b == b'\n').all(|line| line.len() <= 999), "a line of more than 998 octets");
    assert!(bytes.is_ascii() && !bytes.contains(&0));

    let length = header_length(&bytes).expect("it has content");
    let mut names: Vec<String> = Vec::new();
    for line in bytes[..length - 2].split_inclusive(|b| *b == b'\n') {
        assert!(line.trim_ascii() != b"", "a line of nothing but white space");
        if !line.starts_with(b" ") && !line.starts_with(b"\t") {
            let name = line.split(|b| *b == b':').next().unwrap_or_default();
            names.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    names.sort_unstable();
    let mut known =
        vec!["From", "To", "Date", "Message-ID", "MIME-Version", "Content-Type", "Subject", "X-Own"];
    known.extend(["In-Reply-To", "References", "List-Unsubscribe", "Content-Language"]);
    if names.iter().any(|name| name == "Content-Transfer-Encoding") {
        known.push("Content-Transfer-Encoding");
    }
    known.sort_unstable();
    known.retain(|name| names.iter().any(|own| own == name)); // what has no value may have no field
    assert_eq!(names, known, "a field that nobody has asked for, or one twice");
    let envelope = Envelope::from_headers(&bytes).expect("it is ours");
    assert_eq!(envelope, Envelope::new("alice@example.org", ["bob@example.org"]).expect("they are good"));
    assert_eq!(message.envelope().expect("it has one"), envelope);
    let _ = Email::try_from(message);
}

/// A message of somebody else's as a part of one of our own: only its line endings change.
fn attached(content: &str) {
    let part = Attachment::bytes("a.eml", content.to_owned()).content_type("message/rfc822");
    let message = Message::builder().from("alice@example.org").attach(part).build();
    let is_plain = |line: &str| line.len() <= 998 && !line.contains('\0');
    let lines: Vec<&str> = content.split("\r\n").flat_map(|line| line.split(['\r', '\n'])).collect();
    assert_eq!(message.is_ok(), lines.iter().all(|line| is_plain(line)));
    let Ok(message) = message else { return };
    let bytes = message.to_bytes().expect("it is in memory");
    let expected = format!("\r\n\r\n{}\r\n--=_", lines.join("\r\n"));
    assert!(bytes.windows(expected.len()).any(|bytes| bytes == expected.as_bytes()));
    assert_eq!(bytes.is_ascii(), content.is_ascii());
}

/// A message of email-format's.
fn email(bytes: &[u8]) {
    // Its parser goes back and forth in what nests, and panics at a message of headers only (0.8.1).
    if bytes.len() > 400 || bytes.iter().filter(|b| **b == b'(').count() > 4 {
        return;
    }
    let Ok((email, _)) = Email::parse(&[bytes, b"\r\n\r\n"].concat()) else { return };
    if let Ok(envelope) = email.envelope() {
        envelope.sender().into_iter().chain(envelope.recipients()).for_each(check_address);
    }
    let mut out = Vec::new();
    let read =
        email.body().map(|body| body.into_reader().and_then(|mut reader| reader.read_to_end(&mut out)));
    read.expect("it is in memory").expect("it is in memory");
    assert!(!has_bcc(&out), "a Bcc goes out");
    assert!(header_length(&out).is_some(), "the headers have no end");
    let _ = Message::from(email).to_bytes();
}
