//! The signed content, what arrives, and what is not sent.

use std::{
    env, fs,
    io::{self, Read, Write},
    path::Path,
    process::Command,
    time::Duration,
};

use postino::{
    Envelope, Error, Mail, Message, Phase, Raw,
    message::{Attachment, Body, Dkim},
    testing::Server,
};

use super::{Builder, Client, WORLD, block_on};

const PATIENCE: Duration = Duration::from_secs(60);

fn rsa() -> Dkim {
    Dkim::new("example.org", "rsa", include_str!("keys/rsa.pem")).unwrap()
}

fn ed25519() -> Dkim {
    Dkim::new("example.org", "ed25519", include_str!("keys/ed25519.pem")).unwrap()
}

fn envelope() -> Envelope {
    Envelope::new("alice@example.org", ["bob@example.net"]).unwrap()
}

fn raw(text: &'static [u8]) -> Raw<'static> {
    Raw::bytes(envelope(), text)
}

fn builder(server: &Server) -> Builder {
    Client::from_url(&server.url()).unwrap().timeout(PATIENCE)
}

fn connect(server: &Server) -> Client {
    block_on(builder(server).connect()).unwrap()
}

fn composed() -> Message {
    Message::builder()
        .from("Jörg Müller <joerg@example.org>")
        .to("Bob <bob@example.net>, \"Doe, Carol\" <carol@example.net>")
        .bcc("hidden@example.net")
        .subject("Grüße aus Köln, an einem Tag, der so lang ist, dass seine Zeile gefaltet werden muss")
        .header("List-Unsubscribe", "<https://example.org/u?x=1>")
        .header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")
        .text("Hello, Bob!\n\n.\n..\n  indented \t and trailing  \n\n\n")
        .html("<p>Hello, <b>Bob</b>!</p>")
        .attach(Attachment::bytes("ä.bin", (0..=255).cycle().take(200_000).collect::<Vec<u8>>()))
        .build()
        .unwrap()
}

/// Unusual but valid messages.
const RAW: [&[u8]; 9] = [
    b"From: a@example.org\r\n\r\nHello!\r\n",
    b"From: a@example.org\nSubject: folded\n\tby a tab \n  \n and  more\nTo:b@example.net\n\nbody\n \n\t\n\n\n",
    b"from:a@example.org\r\nSUBJECT:\r\nTo:\r\n b@example.net\r\nto: c@example.net\r\n\r\n.\r\n..\r\n.x\r\nx.\r\n",
    b"From: a@example.org\rSubject: old line ends\r\rone\rtwo\r\r\r",
    b"From: =?utf-8?q?J=C3=B6rg?= <j@example.org>\nSubject: \xc3\xbcmlaut\n\n8-bit: \xc3\xa4\xff \n  x\t\ty  ",
    b"From: a@example.org\n\n",
    b"From: a@example.org\n",
    b"From: a@example.org\n\n\n\n \n",
    b"Received: by x\nX-Odd: b=; bh=; a=b\nDate: Wed, 5 Jan 2022 15:13:05 +0100\nFrom: a@example.org\n\n\n\n\n first\n",
];

/// The content that arrives.
fn arrived(mail: &dyn Mail) -> Vec<u8> {
    let server = Server::start().unwrap();
    block_on(connect(&server).send(mail)).map(drop).unwrap();
    let message = &server.wait_for_messages(1)[0];
    // SIZE is the exact number of octets that arrive.
    assert!(message.mail_parameters().contains(&format!("SIZE={}", message.content().len())), "{message:?}");
    message.content().to_vec()
}

fn replace(text: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text: String = text.iter().map(|byte| char::from(*byte)).collect();
    assert!(text.contains(from), "{text}");
    text.replacen(from, to, 1).chars().map(|c| u8::try_from(c).unwrap()).collect()
}

#[test]
fn the_signature_is_put_before_the_unchanged_message() {
    let message = composed();
    let signed = arrived(&ed25519().sign(&message));
    assert!(
        signed
            .starts_with(b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n d=example.org;\r\n")
    );
    assert!(signed.ends_with(&arrived(&message)));
    assert!(!String::from_utf8(signed).unwrap().contains("hidden"));
}

#[test]
fn a_signed_composed_message_is_ascii_and_announced_as_such() {
    let server = Server::start().unwrap();
    block_on(connect(&server).send(&rsa().sign(&ed25519().sign(&composed())))).map(drop).unwrap();
    let message = &server.wait_for_messages(1)[0];
    assert!(message.content().is_ascii());
    assert!(!message.mail_parameters().contains(&"BODY=8BITMIME".to_owned()), "{message:?}");
}

#[test]
fn bytes_files_and_readers_that_can_be_opened_again_are_signed() {
    struct Opened(&'static [u8]);
    impl Mail for Opened {
        fn envelope(&self) -> Result<Envelope, Error> {
            Ok(envelope())
        }
        fn body(&self) -> Result<Body<'_>, Error> {
            Ok(Body::reader(self.0))
        }
    }
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("dkim-{}-{WORLD}", std::process::id()));
    let dkim = ed25519().timestamp(false);
    for text in RAW {
        fs::write(&path, text).unwrap();
        let signed = arrived(&dkim.sign(&raw(text)));
        assert_eq!(signed, arrived(&dkim.sign(&Raw::path(envelope(), &path))));
        assert_eq!(signed, arrived(&dkim.sign(&Opened(text))));
    }
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_message_that_cannot_be_signed_is_not_offered_and_the_connection_stays_usable() {
    let server = Server::start().unwrap();
    let mut client = connect(&server);
    let mut refused = |mail: &dyn Mail| block_on(client.send(&ed25519().sign(mail))).unwrap_err();
    assert!(matches!(refused(&raw(b"To: b@example.net\n\nHello!\n")), Error::Message(_)));
    assert!(matches!(refused(&Raw::reader(envelope(), &b"From: a@example.org\n\n"[..])), Error::Message(_)));
    assert!(matches!(refused(&Raw::path(envelope(), "/no/such/file")), Error::Source(_)));
    assert!(!server.dialogue().iter().any(|line| line.starts_with("C: MAIL")));
    block_on(client.send(&ed25519().sign(&raw(RAW[0])))).map(drop).unwrap();
}

#[test]
fn an_endless_body_to_be_signed_is_read_until_the_deadline_and_not_offered() {
    struct Endless;
    impl Mail for Endless {
        fn envelope(&self) -> Result<Envelope, Error> {
            Ok(envelope())
        }
        fn body(&self) -> Result<Body<'_>, Error> {
            Ok(Body::reader((&b"From: a@example.org\n\n"[..]).chain(io::repeat(b'x'))))
        }
    }
    let server = Server::start().unwrap();
    let builder = builder(&server).deadline(Duration::from_millis(500));
    let error = block_on(builder.send(&ed25519().sign(&Endless))).unwrap_err();
    assert!(matches!(error, Error::Timeout(Phase::Body)), "{error:?}");
    assert!(!server.dialogue().iter().any(|line| line.starts_with("C: MAIL")));
}

/// `tests/dkim/verify` sets `POSTINO_DKIMPY` to a Python that has dkimpy. Without it, the test is skipped with a note
/// on stderr; if `POSTINO_INTEROP_REQUIRED` names `dkimpy`, it fails instead.
#[test]
fn dkimpy_verifies_messages_as_they_arrive_and_rejects_altered_ones() {
    let Some(python) = env::var_os("POSTINO_DKIMPY") else {
        let required = env::var("POSTINO_INTEROP_REQUIRED").unwrap_or_default();
        assert!(!required.split(',').any(|name| name == "dkimpy"), "no POSTINO_DKIMPY");
        let _ = writeln!(io::stderr(), "SKIPPED: dkimpy verifies nothing; see tests/dkim/verify");
        return;
    };
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("dkimpy-{}-{WORLD}", std::process::id()));
    drop(fs::remove_dir_all(&dir)); // an earlier process with this number may have left it
    fs::create_dir_all(&dir).unwrap();
    let write = |name: &str, text: &[u8]| fs::write(dir.join(name), text).unwrap();

    let (rsa, ed25519) = (rsa().expires_after(Duration::from_secs(3600)), ed25519());
    let composed = composed();
    let raw = RAW.map(raw);
    let mails = raw.iter().map(|mail| mail as &dyn Mail).chain([&composed as &dyn Mail]);
    for (i, mail) in mails.enumerate() {
        write(&format!("good-1-{i}-rsa"), &arrived(&rsa.sign(mail)));
        write(&format!("good-1-{i}-ed25519"), &arrived(&ed25519.sign(mail)));
        write(&format!("good-2-{i}-both"), &arrived(&rsa.sign(&ed25519.sign(mail))));
    }
    let more = ed25519.clone().headers(["Subject", "X-Odd"]).unwrap().oversign(["X-New"]).unwrap();
    write("good-1-other-headers", &arrived(&more.sign(raw.last().unwrap())));

    let good = arrived(&rsa.sign(&ed25519.sign(&composed)));
    for (i, (from, to)) in [
        ("joerg@example.org", "boss@example.org"),
        ("\r\nFrom: ", "\r\nFrom: boss@example.org\r\nFrom: "),
        ("\r\nTo: ", "\r\nX: "),
        ("AAECAwQFBgcICQoL", "AAECAwQFBgcICQoM"),
        ("List-Unsubscribe=One-Click", "List-Unsubscribe=No-Click"),
        ("multipart/mixed", "multipart/other"),
        ("v=1;", "v=2;"),
    ]
    .iter()
    .enumerate()
    {
        let bad = replace(&good, from, to);
        write(&format!("bad-2-{i}"), &if *from == "v=1;" { replace(&bad, from, to) } else { bad });
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dkim/verify.py");
    let output = Command::new(python).arg(script).arg(&dir).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
    println!("{}", String::from_utf8_lossy(&output.stdout));
    fs::remove_dir_all(&dir).unwrap();
}
