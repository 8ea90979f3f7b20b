//! Test vectors from the standards; arbitrary messages against a slow and simple verifier; messages that cannot be
//! signed.

use std::io::Read;

use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::{collection::vec, prelude::*, sample::select};
use ring::{
    digest::{SHA256, digest},
    signature::{
        ED25519, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256,
        UnparsedPublicKey, VerificationAlgorithm,
    },
};

use super::{
    reading::{Field, fold_base64, signed_text},
    *,
};
use crate::{
    Message, Raw,
    message::{Attachment, header_reader},
    proto::Encoder,
};

const RSA: &str = include_str!("../../../tests/dkim/keys/rsa.pem");
const RSA_PKCS1: &str = include_str!("../../../tests/dkim/keys/rsa.pkcs1.pem");
const RSA_PUBLIC: &str = include_str!("../../../tests/dkim/keys/rsa.pub");
const ED25519_KEY: &str = include_str!("../../../tests/dkim/keys/ed25519.pem");
const ED25519_PUBLIC: &str = include_str!("../../../tests/dkim/keys/ed25519.pub");

fn rsa() -> Dkim {
    Dkim::new("example.org", "rsa", RSA).unwrap()
}

fn ed25519() -> Dkim {
    Dkim::new("example.org", "ed25519", ED25519_KEY).unwrap()
}

fn raw(text: &[u8]) -> Raw<'_> {
    Raw::bytes(Envelope::new("a@example.org", ["b@example.net"]).unwrap(), text)
}

/// Returns the message as it arrives: encoded by the client, without the dots that the server removes.
fn wire(mail: &dyn Mail) -> Result<Vec<u8>, String> {
    let (mut text, mut out) = (Vec::new(), Vec::new());
    let body = mail.body().map_err(|e| e.to_string())?;
    body.into_reader().map_err(|e| e.to_string())?.read_to_end(&mut text).map_err(|e| e.to_string())?;
    let mut encoder = Encoder::new(true);
    encoder.push(&text, &mut out).map_err(|e| format!("{e:?}"))?;
    encoder.end(&mut out);
    let lines = out.split_inclusive(|byte| *byte == b'\n');
    Ok(lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect())
}

fn text(mail: &dyn Mail) -> String {
    String::from_utf8(wire(mail).unwrap()).unwrap()
}

fn error(mail: &dyn Mail) -> String {
    wire(mail).unwrap_err()
}

/// Decodes Latin-1, so that any sequence of octets becomes a string.
fn letters(text: &[u8]) -> String {
    text.iter().map(|byte| char::from(*byte)).collect()
}

fn octets(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(c).unwrap()).collect()
}

/// Collapses the white space of a line into single spaces.
fn squeezed(line: &str) -> String {
    let mut line = line.replace('\t', " ");
    while line.contains("  ") {
        line = line.replace("  ", " ");
    }
    line
}

fn relaxed_body(body: &str) -> String {
    let lines = body.split("\r\n").map(|line| squeezed(line).trim_end_matches(' ').to_owned() + "\r\n");
    let mut relaxed = lines.collect::<String>();
    while relaxed.ends_with("\r\n\r\n") || relaxed == "\r\n" {
        relaxed.truncate(relaxed.len() - 2);
    }
    relaxed
}

fn relaxed_header(field: &str) -> String {
    let (name, value) = field.split_once(':').unwrap();
    let value = squeezed(&value.replace("\r\n", ""));
    format!("{}:{}\r\n", name.trim_matches([' ', '\t']).to_lowercase(), value.trim_matches(' '))
}

/// Returns the value of a tag, without its white space.
fn tag(field: &str, name: &str) -> Option<String> {
    let value = field.split_once(':').unwrap().1;
    let mut tags = value.split(';').filter_map(|tag| tag.split_once('='));
    tags.find(|tag| tag.0.trim() == name).map(|tag| tag.1.split_whitespace().collect())
}

/// Verifies the first signature according to RFC 6376 §6.1, and removes it. The message is in Latin-1.
fn verify(message: &str) -> Result<String, String> {
    let (header, body) = message.split_once("\r\n\r\n").unwrap_or((message.trim_end_matches("\r\n"), ""));
    let mut fields: Vec<String> = Vec::new();
    for line in header.split("\r\n") {
        if line.starts_with([' ', '\t']) {
            *fields.last_mut().unwrap() += &format!("\r\n{line}");
        } else {
            fields.push(line.to_owned());
        }
    }
    let signature = fields.remove(0);
    assert!(signature.starts_with("DKIM-Signature: v=1;") && signature.lines().all(|line| line.len() <= 78));
    let tag = |name| tag(&signature, name).unwrap();
    if tag("bh") != STANDARD.encode(digest(&SHA256, &octets(&relaxed_body(body)))) {
        return Err("another body".to_owned());
    }
    let mut left = fields;
    let mut text = String::new();
    for name in tag("h").split(':') {
        let is_named = |field: &String| {
            let found = field.split_once(':').unwrap().0;
            found.trim_matches([' ', '\t']).eq_ignore_ascii_case(name)
        };
        if let Some(at) = left.iter().rposition(is_named) {
            text += &relaxed_header(&left.remove(at));
        }
    }
    let unsigned = &signature[..signature.rfind(" b=").unwrap() + 3];
    text += relaxed_header(unsigned).trim_end_matches("\r\n");
    let decode = |text: &str| STANDARD.decode(text.trim()).unwrap();
    let signature_octets = decode(&tag("b"));
    let verified = match &tag("a")[..] {
        // The key follows the 24 octets that identify a 2048-bit RSA key.
        "rsa-sha256" => {
            check(&RSA_PKCS1_2048_8192_SHA256, &decode(RSA_PUBLIC)[24..], &octets(&text), &signature_octets)
        }
        _ => {
            let hash = digest(&SHA256, &octets(&text));
            check(&ED25519, &decode(ED25519_PUBLIC), hash.as_ref(), &signature_octets)
        }
    };
    if verified { Ok(message[signature.len() + 2..].to_owned()) } else { Err("another header".to_owned()) }
}

fn check(algorithm: &'static dyn VerificationAlgorithm, key: &[u8], text: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(algorithm, key).verify(text, signature).is_ok()
}

#[test]
fn signatures_match_the_example_of_rfc_8463_appendix_a() {
    let message = "From: Joe SixPack <joe@football.example.com>\r\nTo: Suzie Q <suzie@shopping.example.net>\r\n\
        Subject: Is dinner ready?\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
        Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\r\n\
        Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
    let signed = text(&ed25519().sign(&raw(message.as_bytes())));
    assert_eq!(tag(&signed, "bh").unwrap(), "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=");

    let header = &message[..message.find("\r\n\r\n").unwrap() + 2];
    let fields: Vec<Field<'_>> =
        header_reader::fields(header.as_bytes()).map(|field| Field::read(field).unwrap()).collect();
    // The second `from`, `subject` and `date` are signed as empty.
    let text = |tags: &str| {
        let text = format!(
            "DKIM-Signature: v=1; {tags} c=relaxed/relaxed;\r\n d=football.example.com; \
             i=@football.example.com;\r\n q=dns/txt; {}\r\n bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n b=",
            if tags.contains("rsa") {
                "s=test; t=1528637909; h=from : to : subject :\r\n date : message-id : from : subject : date;"
            } else {
                "s=brisbane; t=1528637909; h=from : to :\r\n subject : date : message-id : from : subject : date;"
            }
        );
        signed_text(&fields, ["from", "to", "subject", "date", "message-id"], text.as_bytes())
    };

    // Wraps the secret key in PKCS#8.
    let secret = STANDARD.decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=").unwrap();
    let start = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    let pem = base64(&[start, secret].concat());
    let key =
        Key::from_pem(&format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----\n")).unwrap();
    assert_eq!(
        base64(&key.sign(&text("a=ed25519-sha256;")).unwrap()),
        "/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11BusFa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw=="
    );

    // The example's RSA key is too short for signing, but long enough for verification.
    let public = STANDARD
        .decode(
            "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byY\
             zCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w\
             3QIDAQAB",
        )
        .unwrap();
    let signature = STANDARD
        .decode(
            "F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGs\
             geefOsk2JzdA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=",
        )
        .unwrap();
    let algorithm = &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY;
    assert!(check(algorithm, &public[22..], &text("a=rsa-sha256;"), &signature));
}

#[test]
fn a_composed_message_can_be_signed_with_both_algorithms() {
    let message = Message::builder()
        .from("Jörg <joerg@example.org>")
        .to("bob@example.net")
        .bcc("hidden@example.net")
        .subject("Grüße aus Köln, an einem Tag, der so lang ist, dass seine Zeile gefaltet wird")
        .text("Hello!\n.\n  \n\n")
        .attach(Attachment::bytes("a.bin", vec![7; 100_000]))
        .build()
        .unwrap();
    let unsigned = text(&message);
    let signed = text(&rsa().sign(&ed25519().sign(&message)));
    assert_eq!(tag(&signed, "a").unwrap(), "rsa-sha256");
    let once = verify(&signed).unwrap();
    assert_eq!(tag(&once, "a").unwrap(), "ed25519-sha256");
    assert_eq!(verify(&once).unwrap(), unsigned);
    assert!(!signed.contains("hidden") && signed.is_ascii());
}

#[test]
fn signature_lines_are_filled_up_to_78_octets() {
    for length in 6..14 {
        let names: Vec<_> = (10..40).map(|n| format!("X-{n}{}", "f".repeat(length - 4))).collect();
        let names = || names.iter().map(String::as_str).chain(["From"]);
        let dkim = rsa().headers(names()).unwrap().oversign(names()).unwrap();
        let message = b"From: a@example.org\r\nSubject: Hi\r\n\r\nHello\r\n";
        let signed = text(&dkim.sign(&raw(message)));
        let signature = &signed[..signed.find("\r\nFrom: ").unwrap()];
        assert!(signature.lines().all(|line| line.len() <= 78), "{signature}");
        let part = |from: &str, to: &str| signature.split(from).nth(1).unwrap().split(to).next().unwrap();
        for lines in [part(" h=", ";"), part(" b=", "no end")] {
            let lines: Vec<_> = lines.lines().collect();
            let (last, full) = lines.split_last().unwrap();
            assert!(
                full[1..].iter().all(|line| line.len() + length + 2 >= 78) && !last.is_empty(),
                "{signature}"
            );
        }
    }
}

#[test]
fn the_base64_of_a_signature_is_folded_at_78_octets() {
    for (length, lines) in [(75, &[75][..]), (76, &[75, 1]), (75 + 77, &[75, 77]), (75 + 78, &[75, 77, 1])] {
        let mut text = String::new();
        fold_base64(&mut text, &"x".repeat(length));
        let folded: Vec<String> = lines.iter().map(|length| "x".repeat(*length)).collect();
        assert_eq!(text, folded.join("\r\n "));
    }
}

#[test]
fn at_most_1_mib_of_headers_can_be_signed() {
    let other = "From: a@example.org\r\nX: \r\n".len();
    for (more, is_signed) in [(0, true), (1, false)] {
        let long = "x".repeat(1024 * 1024 - other + more);
        let message = format!("From: a@example.org\r\nX: {long}\r\n\r\n");
        assert_eq!(wire(&ed25519().sign(&raw(message.as_bytes()))).is_ok(), is_signed, "{more}");
    }
}

#[test]
fn keys_of_all_supported_formats_can_sign() {
    let mail = raw(b"From: a@example.org\n\nHello!\n");
    let old = Dkim::new("example.org", "rsa", RSA_PKCS1).unwrap();
    let after_other_text =
        Dkim::new("example.org", "rsa", &format!("Bag Attributes\r\n{}", RSA.replace('\n', "\r\n")));
    for dkim in [rsa(), old, after_other_text.unwrap(), ed25519()] {
        verify(&text(&dkim.sign(&mail))).unwrap();
    }
}

#[test]
fn the_error_for_an_unusable_key_gives_the_reason_but_not_the_key() {
    for (pem, why) in [
        (
            include_str!("../../../tests/dkim/keys/short.pem"),
            "2048 to 4096 bits, or an Ed25519 key (TooSmall)",
        ),
        (include_str!("../../../tests/dkim/keys/ec.pem"), "or an Ed25519 key (WrongAlgorithm)"),
        (include_str!("../../../tests/dkim/keys/encrypted.pem"), "it is encrypted"),
        (
            "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----",
            "neither an RSA nor an Ed25519 key",
        ),
        ("-----BEGIN PRIVATE KEY-----\nsecret?\n-----END PRIVATE KEY-----", "invalid base64"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA", "no PEM private key found"),
        ("PRIVATE KEY-----", "no PEM private key found"),
        ("", "no PEM private key found"),
        ("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=", "no PEM private key found"),
    ] {
        let error = Dkim::new("example.org", "s", pem).unwrap_err();
        assert!(matches!(error, Error::Config(_)) && error.to_string().contains(why), "{error}");
        assert!(!error.to_string().contains("secret") && !error.to_string().contains("nWG"));
    }
    assert_eq!(
        format!("{:?}", rsa()),
        r#"Dkim { domain: "example.org", selector: "rsa", key: rsa-sha256, .. }"#
    );
}

#[test]
fn domain_selector_and_header_names_cannot_inject_tags_or_lines() {
    for name in ["", "a;b", "a b", "a\r\nb", ".", "a..b", "bücher.example", "=", &"a".repeat(254)] {
        assert!(Dkim::new(name, "s", ED25519_KEY).is_err(), "{name:?}");
        assert!(Dkim::new("example.org", name, ED25519_KEY).is_err(), "{name:?}");
    }
    for name in ["", "a;b", "a:b", "a b", "a\r\nb", "ü", "dkim-signature"] {
        assert!(ed25519().headers([name]).is_err(), "{name:?}");
        assert!(ed25519().oversign([name]).is_err(), "{name:?}");
    }
}

#[test]
fn every_occurrence_of_a_header_is_signed_and_from_is_oversigned() {
    let mail = raw(b"To: b@x\nX-Other: 1\nFROM: a@x\nTo: c@x\nReceived: x\nList-Unsubscribe-Post: x\n\n");
    let h = |dkim: Dkim| {
        let text = text(&dkim.sign(&mail));
        verify(&text).unwrap();
        tag(&text, "h").unwrap()
    };
    assert_eq!(h(ed25519()), "From:From:To:To:List-Unsubscribe-Post");
    assert_eq!(
        h(ed25519().oversign(["to", "Subject"]).unwrap()),
        "From:From:Subject:To:To:To:List-Unsubscribe-Post"
    );
    let few = ed25519().headers(["x-other", "Cc", "from"]).unwrap();
    assert_eq!(h(few.oversign(["X-New"]).unwrap()), "From:From:x-other:X-New");
    let oversigned_first = ed25519().oversign(["X-New"]).unwrap().headers(["x-other"]).unwrap();
    assert_eq!(h(oversigned_first), "From:From:X-New:x-other");
}

#[test]
fn changing_from_or_the_body_breaks_the_signature() {
    let mail = raw(b"From: a@example.org\nX: 1\n\nHello!\n");
    let signed = text(&ed25519().sign(&mail));
    assert!(verify(&signed).is_ok());
    assert!(verify(&signed.replace("X: 1", "X: 2")).is_ok());
    assert_eq!(verify(&signed.replace("X: 1", "From: b@example.org")).unwrap_err(), "another header");
    assert_eq!(verify(&signed.replace("a@example.org", "b@example.org")).unwrap_err(), "another header");
    assert_eq!(verify(&signed.replace("Hello", "Hallo")).unwrap_err(), "another body");
    assert_eq!(verify(&signed.replace("t=1", "t=2")).unwrap_err(), "another header");
}

#[test]
fn signature_times_are_optional() {
    let mail = raw(b"From: a@example.org\n\n");
    let time =
        |dkim: Dkim, name| tag(&text(&dkim.sign(&mail)), name).map(|time| time.parse::<u64>().unwrap());
    let expires = || ed25519().expires_after(Duration::from_secs(100));
    assert!(time(ed25519(), "t") > Some(1_700_000_000) && time(ed25519(), "x").is_none());
    assert!(time(ed25519().timestamp(false), "t").is_none());
    let both = text(&expires().sign(&mail));
    let seconds = |name| tag(&both, name).unwrap().parse::<u64>().unwrap();
    assert_eq!(seconds("x"), seconds("t") + 100);
    assert!(time(expires().timestamp(false), "x") > Some(1_700_000_100));
    // RFC 6376 §3.5: `x=` is later than `t=`, and has at most 12 digits.
    assert!(time(ed25519().expires_after(Duration::ZERO), "x") > time(ed25519(), "t"));
    assert!(time(ed25519().expires_after(Duration::MAX), "x") <= Some(999_999_999_999));
    assert!(tag(&both, "l").is_none());
}

#[test]
fn an_invalid_message_cannot_be_signed() {
    for (message, why) in [
        (&b""[..], "cannot sign the message: no From"),
        (b"\r\nFrom: a@example.org\r\n", "no From"),
        (b"To: a@example.org\n\nFrom: a@example.org\n", "no From"),
        (b" x\nFrom: a@example.org\n\n", "invalid header line \" x"),
        (b"From a@example.org Thu\nFrom: a@example.org\n\n", "invalid header line \"From a@example"),
        (b"From: a@example.org\nHello!\n\n", "invalid header line \"Hello!"),
        (b"From: a@example.org\n: x\n\n", "invalid header line \": x"),
        (b"From\n : a@example.org\n\n", "invalid header line \"From"),
        (b"From: a@example.org\n\xfc: x\n\n", "invalid header line "),
    ] {
        assert!(
            error(&ed25519().sign(&raw(message))).contains(why),
            "{}",
            error(&ed25519().sign(&raw(message)))
        );
    }
    let endless = [&b"From: a@example.org\nX: "[..], &vec![b'x'; 1024 * 1024]].concat();
    assert!(error(&ed25519().sign(&raw(&endless))).contains("1 MiB of headers"));
}

#[test]
fn single_use_content_is_neither_signed_nor_consumed() {
    let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
    let raw = Raw::reader(envelope, &b"From: a@example.org\n\n"[..]);
    let reader = || Attachment::reader("a", &b"abc"[..]);
    let builder = || Message::builder().from("a@example.org").text("x");
    let attached = || builder().attach(reader()).build().unwrap();
    let nested = builder().attach(Attachment::message(attached())).build().unwrap();
    let watched = attached();
    for mail in [&raw as &dyn Mail, &nested, &watched.on_progress(|_, _| {}), &Arc::new(attached())] {
        for signed in [rsa().sign(mail), rsa().sign(&ed25519().sign(mail))] {
            let error = signed.body().unwrap_err().to_string();
            assert!(error.contains("must be read twice"), "{error}");
        }
        assert!(text(mail).contains("From: "));
        assert!(mail.body().is_err(), "the content can be read again");
    }
}

/// A message whose content is different each time it is requested.
struct Fickle(std::sync::atomic::AtomicU32);

impl Mail for Fickle {
    fn envelope(&self) -> Result<Envelope, Error> {
        Envelope::new("a@example.org", ["b@example.net"])
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        let id = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(format!("From: a@example.org\nMessage-ID: <{id}@x>\n\n{id}\n").into())
    }
}

#[test]
fn a_mail_that_generates_new_bytes_each_time_is_sent_as_signed() {
    verify(&text(&rsa().sign(&ed25519().sign(&Fickle(0.into()))))).and_then(|once| verify(&once)).unwrap();
}

#[test]
fn the_size_is_known_after_signing() {
    let envelope = Envelope::new("a@example.org", ["b@example.net"]).unwrap();
    let path = std::env::temp_dir().join(format!("postino-{}", super::super::unique_id::unique_id()));
    std::fs::write(&path, b"From: a@example.org\n\nHello!\rBob").unwrap();
    let mail = Raw::path(envelope, &path);
    let signed = ed25519().sign(&mail);
    let body = sign(signed.body().unwrap(), || Ok(())).unwrap();
    assert_eq!(body.size, Some(wire(&signed).unwrap().len() as u64));
    std::fs::remove_file(&path).unwrap();
}

/// Header lines, mostly made of elements that matter here.
fn header() -> impl Strategy<Value = Vec<u8>> {
    let name =
        select(vec!["From", "fROM ", "To", "to", "Subject\t", "X-Odd", "List-Id", "Bcc", "DKIM-Signature"]);
    let value = vec(
        select(vec![&b" "[..], b"\t", b"a", b":", b";", b"\n ", b"\r\n\t", b"\r ", b"\xfc", b"=", b"b="]),
        0..12,
    );
    (name, value, select(vec!["\n", "\r\n", "\r"]))
        .prop_map(|(name, value, end)| [name.as_bytes(), b":", &value.concat(), end.as_bytes()].concat())
}

proptest! {
    #[test]
    fn any_signed_message_verifies(
        headers in vec(header(), 0..8),
        end in select(vec!["\n", "\r\n", "\r"]),
        body in vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b' '), Just(b'\t'), Just(b'.'), Just(b'a'), 1u8..], 0..100),
    ) {
        let message = [&headers.concat()[..], b"From: a@x", end.as_bytes(), end.as_bytes(), &body].concat();
        let mail = raw(&message);
        let arrived = letters(&wire(&ed25519().sign(&mail)).unwrap());
        prop_assert_eq!(verify(&arrived).unwrap(), letters(&wire(&mail).unwrap()));
    }

    #[test]
    fn signing_never_panics(message in vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b' '), Just(b':'), any::<u8>()], 0..60)) {
        let _ = wire(&ed25519().sign(&raw(&message)));
        let _ = wire(&ed25519().sign(&raw(&[b"From: a@x\n", &message[..]].concat())));
    }
}
