//! Composed messages: the form that suits the server, and progress reports.

use std::{
    fs,
    io::{self, Read},
    path::PathBuf,
};

use postino::{
    Error, Mail, Message, Raw,
    message::{Attachment, Body, MessageBuilder},
};

use super::*;

fn builder() -> MessageBuilder {
    Message::builder().from("alice@example.org").to("bob@example.org").message_id("1@example.org")
}

/// Sends a message to a server with these keywords. Returns what it received: MAIL, and the content.
#[track_caller]
fn received(keywords: &'static str, mail: &dyn Mail) -> (String, String) {
    let server = Server::running(move |peer| {
        peer.play(&format!("-- hello {keywords}"));
        peer.line().unwrap();
        peer.play("S: 250 ok");
        peer.line().unwrap();
        peer.play("S: 250 ok\nC: DATA\nS: 354 go on\n-- body\nS: 250 ok");
    });
    let mut client = connect(&server);
    accept(&mut client, mail);
    drop(client);
    let received = String::from_utf8(server.finish()).unwrap();
    let mail = received.lines().find(|line| line.starts_with("MAIL")).unwrap().to_owned();
    let start = received.find("DATA\r\n").unwrap() + "DATA\r\n".len();
    (mail, received[start..].strip_suffix(".\r\n").unwrap().to_owned())
}

// Behaviour 85.
#[test]
fn text_is_encoded_without_8bitmime_and_sent_unencoded_with_it() {
    let line = "Grüße an alle in diesem Haus\n";
    let text = line.repeat(20_000); // more than is made at once
    for text in [line, &text] {
        let message = builder().text(text).attach(Attachment::bytes("a.bin", vec![0; 10])).build().unwrap();
        let (mail, seven) = received("SIZE", &message);
        assert_eq!(mail, format!("MAIL FROM:<alice@example.org> SIZE={}", seven.len()));
        assert!(
            seven.is_ascii() && seven.contains("\r\nGr=C3=BC=C3=9Fe an alle in diesem Haus\r\n"),
            "{seven}"
        );

        let (mail, eight) = received("SIZE, 8BITMIME", &message);
        assert_eq!(mail, format!("MAIL FROM:<alice@example.org> SIZE={} BODY=8BITMIME", eight.len()));
        assert!(eight.contains("\r\nGrüße an alle in diesem Haus\r\n"), "{eight}");
    }
}

// Behaviour 85.
#[test]
fn an_ascii_message_is_not_announced_as_8bitmime() {
    let message =
        builder().text("Hello\n").attach(Attachment::bytes("a.bin", vec![200; 1000])).build().unwrap();
    assert_eq!(received("8BITMIME", &message).0, "MAIL FROM:<alice@example.org>");
}

// Behaviour 84.
#[test]
fn a_non_ascii_address_needs_smtputf8_and_a_name_does_not() {
    let utf8 = "8BITMIME, SMTPUTF8";
    let (mail, sent) = received(utf8, &builder().reply_to(("Jörg", "joerg@example.org")).build().unwrap());
    assert_eq!(mail, "MAIL FROM:<alice@example.org>");
    assert!(sent.contains("Reply-To: =?utf-8?b?SsO2cmc=?= <joerg@example.org>\r\n"), "{sent}");

    // An address in the headers alone needs it, too.
    let message = builder().reply_to("jörg@example.org").build().unwrap();
    let (mail, sent) = received(utf8, &message);
    assert_eq!(mail, "MAIL FROM:<alice@example.org> SMTPUTF8 BODY=8BITMIME");
    assert!(sent.contains("Reply-To: jörg@example.org\r\n"), "{sent}");
}

// Behaviour 84.
#[test]
fn without_smtputf8_a_non_ascii_address_is_an_error_before_mail() {
    for keywords in ["8BITMIME", "SMTPUTF8"] {
        let server = Server::playing(format!("-- hello {keywords}\nC: NOOP\nS: 250 ok"));
        let mut client = connect(&server);
        let in_the_headers = builder().reply_to("jörg@example.org").build().unwrap();
        let large = builder().reply_to("jörg@example.org").text("x\n".repeat(100_000)).build().unwrap();
        for message in [in_the_headers, large] {
            assert!(matches!(send_error(&mut client, &message), Error::Unsupported(_)));
        }
        assert_open(&mut client);
    }
    let server = Server::playing("-- hello 8BITMIME\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let in_the_envelope = builder().to("jörg@example.org").build().unwrap();
    assert!(matches!(send_error(&mut client, &in_the_envelope), Error::Unsupported(_)));
    assert_open(&mut client);
}

#[cfg(feature = "idna")]
#[test]
fn without_smtputf8_a_non_ascii_domain_is_an_a_label_in_the_header_too() {
    let message = Message::builder()
        .from("Jörg <joerg@bücher.example>")
        .to("bob@例え.example")
        .reply_to("Team: a@bücher.example, b@example.org;")
        .build()
        .unwrap();
    for large in [
        message.clone(),
        message.resend(postino::message::Resent::by("a@ü.example").to("bob@例え.example")).unwrap(),
    ] {
        for keywords in ["SIZE", "8BITMIME"] {
            let (mail, sent) = received(keywords, &large);
            assert!(mail.contains("@xn--") && !mail.contains("SMTPUTF8") && sent.is_ascii(), "{mail}");
            assert!(sent.contains("From: =?utf-8?b?SsO2cmc=?= <joerg@xn--bcher-kva.example>\r\n"), "{sent}");
            assert!(sent.contains("\r\nTo: bob@xn--r8jz45g.example\r\n"), "{sent}");
            assert!(sent.contains("Reply-To: Team: a@xn--bcher-kva.example, b@example.org;\r\n"), "{sent}");
        }
    }
    let (mail, sent) = received("8BITMIME, SMTPUTF8", &message);
    assert_eq!(mail, "MAIL FROM:<joerg@bücher.example> SMTPUTF8 BODY=8BITMIME");
    assert!(
        sent.contains("<joerg@bücher.example>\r\n") && sent.contains("To: bob@例え.example\r\n"),
        "{sent}"
    );
    assert!(message.header("Message-ID").unwrap().ends_with("@xn--bcher-kva.example>"));
    assert_eq!(email_format::Email::try_from(message.clone()).unwrap().get_body().unwrap().0, b"\r\n"[..0]);
    // As a part of another message, it is in ASCII.
    let around = builder().attach(Attachment::message(message)).build().unwrap();
    assert!(received("SIZE", &around).1.contains("\r\nTo: bob@xn--r8jz45g.example\r\n"));
}

#[cfg(feature = "idna")]
#[test]
fn a_non_ascii_local_part_needs_smtputf8_whatever_the_domains_are() {
    let server = Server::playing("-- hello 8BITMIME\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let message = builder().reply_to("jörg@bücher.example").cc("a@bücher.example").build().unwrap();
    assert!(matches!(send_error(&mut client, &message), Error::Unsupported(_)));
    assert_open(&mut client);
    assert!(message.to_bytes().unwrap().windows(8).any(|bytes| bytes == "bücher.".as_bytes()));
}

/// A message that contains another one, given as bytes.
fn around(inner: impl Into<Vec<u8>>) -> Message {
    let inner = Attachment::bytes("a.eml", inner.into()).content_type("message/rfc822");
    builder().text("See below.\n").attach(inner).build().unwrap()
}

#[test]
fn a_message_attached_as_bytes_gets_crlf_and_is_never_encoded() {
    let (mail, sent) = received("SIZE", &around("From: a@example.org\n\nHello\n"));
    assert_eq!(mail, format!("MAIL FROM:<alice@example.org> SIZE={}", sent.len()));
    assert!(
        sent.contains("Content-Transfer-Encoding: 7bit\r\n\r\nFrom: a@example.org\r\n\r\nHello\r\n\r\n--=_"),
        "{sent}"
    );

    let long = format!("From: a@example.org\n\n{}", "Grüße\n".repeat(20_000));
    for inner in ["From: a@example.org\n\nGrüße\n", &long] {
        let (mail, sent) = received("8BITMIME", &around(inner));
        assert_eq!(mail, "MAIL FROM:<alice@example.org> BODY=8BITMIME");
        assert!(sent.contains(&inner.replace('\n', "\r\n")) && !sent.contains("base64"), "{sent}");
        assert_eq!(sent.matches("Content-Transfer-Encoding: 8bit\r\n").count(), 2, "{sent}");
    }
}

#[test]
fn a_non_ascii_attached_message_is_an_error_before_mail_without_8bitmime() {
    let server = Server::playing("-- hello SIZE, CHUNKING\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let inner = || around("From: a@example.org\n\nGrüße\n");
    let large = builder().text("x\n".repeat(100_000)).attach(Attachment::message(inner())).build().unwrap();
    for message in [inner(), around("ü\n".repeat(100_000)), large] {
        assert!(
            matches!(send_error(&mut client, &message), Error::Unsupported(why) if why.contains("8BITMIME"))
        );
        assert!(matches!(send_error(&mut client, &(&message).on_progress(|_, _| {})), Error::Unsupported(_)));
        assert!(!message.to_bytes().unwrap().is_ascii(), "a copy of it can be kept");
    }
    assert_open(&mut client);
}

/// A text file that is removed when dropped.
struct TextFile(PathBuf);

impl TextFile {
    fn new(name: &str) -> TextFile {
        let file = format!("{}-{}-{name}", env!("CARGO_CRATE_NAME"), std::process::id());
        TextFile(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(file))
    }

    /// The Content-Type with which it is sent.
    #[track_caller]
    fn content_type(&self, content: &[u8], attachment: impl Fn(Attachment) -> Attachment) -> String {
        fs::write(&self.0, content).unwrap();
        let message = builder().attach(attachment(Attachment::path(&self.0))).build().unwrap();
        let (mail, sent) = received("SIZE", &message);
        assert!(mail.ends_with(&format!(" SIZE={}", sent.len())), "{mail}");
        let part = &sent[sent.find("\r\n--=_").unwrap()..];
        let start = part.find("Content-Type: ").unwrap() + "Content-Type: ".len();
        part[start..].lines().next().unwrap().to_owned()
    }
}

impl Drop for TextFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_utf_8_text_file_is_labelled_as_such() {
    let long = "x".repeat(64 * 1024 - 1) + "üü";
    for (end, kind) in [("csv", "text/csv"), ("txt", "text/plain"), ("log", "text/plain")] {
        let file = TextFile::new(&format!("charset.{end}"));
        let utf8 = format!("{kind}; charset=utf-8");
        assert_eq!(file.content_type("Grüße\n".as_bytes(), |file| file), utf8);
        assert_eq!(file.content_type(long.as_bytes(), |file| file), utf8);
        assert_eq!(file.content_type(b"Hello\n", |file| file), kind);
        assert_eq!(file.content_type(b"Gr\xfc\xdfe\n", |file| file), kind);
        assert_eq!(file.content_type("Grüße\n".as_bytes(), |file| file.content_type("text/x")), "text/x");
    }
    let other = TextFile::new("charset.bin");
    assert_eq!(other.content_type("Grüße\n".as_bytes(), |file| file), "application/octet-stream");
}

#[cfg(unix)]
#[test]
fn a_fifo_is_not_read_to_detect_its_charset() {
    let fifo = TextFile::new("fifo.txt");
    assert!(std::process::Command::new("mkfifo").arg(&fifo.0).status().unwrap().success());
    let writer = {
        let path = fifo.0.clone();
        std::thread::spawn(move || fs::write(path, "Grüße\n"))
    };
    let (_, sent) = received("SIZE", &builder().attach(Attachment::path(&fifo.0)).build().unwrap());
    writer.join().unwrap().unwrap();
    assert!(sent.contains("Content-Type: text/plain\r\n") && sent.contains("\r\nR3LDvMOfZQo=\r\n"), "{sent}");
}

#[test]
fn a_missing_attached_file_is_an_error_before_mail() {
    let server = Server::playing("-- hello\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let message = builder().attach(Attachment::path("/nowhere/at/all")).build().unwrap();
    let error = send_error(&mut client, &message);
    assert!(matches!(&error, Error::Source(e) if e.kind() == io::ErrorKind::NotFound), "{error:?}");
    assert_open(&mut client);
}

#[test]
fn an_attached_file_that_is_too_large_is_an_error_before_mail() {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = path.join(format!("{}-attached-{}", env!("CARGO_CRATE_NAME"), std::process::id()));
    fs::write(&path, [7; 100_000]).unwrap();
    let server = Server::playing("-- hello SIZE 100000\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let error = send_error(&mut client, &builder().attach(Attachment::path(&path)).build().unwrap());
    fs::remove_file(&path).unwrap();
    assert!(matches!(error, Error::TooLarge { size: 136_000.., limit: 100_000 }), "{error:?}");
    assert_open(&mut client);
}

/// A sparse file of this size, which takes no disk space.
#[cfg(target_os = "linux")]
#[test]
fn attached_files_whose_sizes_overflow_are_too_large_before_mail() {
    use std::os::fd::AsRawFd;
    let file = rustix::fs::memfd_create("postino", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, i64::MAX as u64).unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    for files in 1..=4 {
        let message = (0..files).fold(builder(), |message, _| message.attach(Attachment::path(&path)));
        let server = Server::playing("-- hello SIZE 100000\nC: NOOP\nS: 250 ok");
        let mut client = connect(&server);
        let error = send_error(&mut client, &message.build().unwrap());
        let Error::TooLarge { size, limit: 100_000 } = error else { panic!("{error:?}") };
        assert!(size > i64::MAX as u64 && (size == u64::MAX || files == 1), "{size}");
        assert_open(&mut client);
    }
}

#[test]
fn an_attached_reader_can_be_sent_once() {
    let server = Server::running(|peer| {
        peer.play("-- hello\n-- envelope\nC: DATA\nS: 354 go on\n-- body\nS: 250 ok\nC: NOOP\nS: 250 ok");
    });
    let mut client = connect(&server);
    let message = builder().attach(Attachment::reader("a", &b"abc"[..])).build().unwrap();
    accept(&mut client, &message);
    assert!(matches!(send_error(&mut client, &message), Error::Message(_)));
    assert_open(&mut client);
}

/// A body that reports on which thread it was opened.
struct Deferred(std::sync::mpsc::SyncSender<std::thread::ThreadId>);

impl Mail for Deferred {
    fn envelope(&self) -> Result<Envelope, Error> {
        Ok(envelope(&["bob@example.org"]))
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        let tell = self.0.clone();
        Ok(Body::deferred(move || {
            tell.send(std::thread::current().id()).map_err(io::Error::other)?;
            Ok(Body::reader(&b"Hello"[..]).with_size(5))
        }))
    }
}

#[test]
fn a_deferred_body_is_opened_on_a_thread_that_may_block() {
    let (tell, hear) = std::sync::mpsc::sync_channel(1);
    assert_eq!(
        received("SIZE", &Deferred(tell)),
        ("MAIL FROM:<alice@example.org> SIZE=5".to_owned(), "Hello\r\n".to_owned())
    );
    let here = std::thread::current().id() == hear.recv().unwrap();
    assert_eq!(here, env!("CARGO_CRATE_NAME") == "blocking");
}

/// All reports that the callback received.
#[track_caller]
fn reports(mail: &dyn Mail) -> Vec<(u64, Option<u64>)> {
    let mut reports = Vec::new();
    received("8BITMIME", &mail.on_progress(|sent, total| reports.push((sent, total))));
    assert!(reports.windows(2).all(|two| two[0].0 < two[1].0), "{reports:?}");
    reports
}

#[test]
fn progress_is_reported_until_everything_was_sent() {
    let text = b"0123456789abcdef0123456789abcd\r\n".repeat(10_000); // 320,000 octets
    let all = reports(&super::text(&text));
    assert!(all.len() > 2, "{all:?}");
    assert!(all.iter().all(|(_, total)| *total == Some(320_000)));
    assert_eq!(all.last().unwrap().0, 320_000);
}

#[test]
fn progress_counts_the_octets_of_the_mail() {
    // They become CRLF and two dots.
    let all = reports(&super::text(b".\n".repeat(100_000).as_slice()));
    assert_eq!(all.last(), Some(&(200_000, Some(200_000))));
}

#[test]
fn progress_of_a_reader_has_no_total_unless_a_size_is_set() {
    let content = || io::Cursor::new(vec![b'\n'; 100_000]);
    let all = reports(&Raw::reader(envelope(&["bob@example.org"]), content()));
    assert_eq!(all.last(), Some(&(100_000, None)));
    let message = builder().attach(Attachment::reader("a", io::repeat(7).take(100_000))).build().unwrap();
    assert_eq!(reports(&message).last().unwrap().1, None);
}

#[test]
fn progress_of_a_composed_message_ends_at_its_size_and_restarts_when_it_is_sent_again() {
    let message = builder().attach(Attachment::bytes("a", vec![7; 200_000])).build().unwrap();
    let size = message.to_bytes().unwrap().len() as u64;
    let mut reports = Vec::new();
    {
        let mail = message.on_progress(|sent, total| reports.push((sent, total)));
        received("", &mail);
        received("", &mail);
    }
    assert_eq!(reports.iter().filter(|report| **report == (size, Some(size))).count(), 2, "{reports:?}");
}

#[test]
fn nested_progress_calls_both_callbacks() {
    let (mut one, mut other) = (0, 0);
    received("", &mail().on_progress(|sent, _| one = sent).on_progress(|sent, _| other = sent));
    assert_eq!((one, other), (7, 7));
}

#[test]
fn progress_is_not_reported_for_a_refused_message() {
    let server = Server::playing("-- hello\nC: MAIL FROM:<alice@example.org>\nS: 550 no\nC: RSET\nS: 250 ok");
    let mut client = connect(&server);
    let mut reports = 0;
    send_error(&mut client, &mail().on_progress(|_, _| reports += 1));
    assert_eq!(reports, 0);
}

#[test]
fn a_boxed_or_borrowed_mail_is_sent_the_same_way() {
    let message = builder().text("Grüße an alle in diesem Haus\n").build().unwrap();
    let (mail, content) = received("8BITMIME", &message);
    assert!(mail.ends_with(" BODY=8BITMIME"), "{mail}");
    let boxed: Box<dyn Mail> = Box::new(message.clone());
    for pointer in [&boxed as &dyn Mail, &&message] {
        assert_eq!(received("8BITMIME", pointer), (mail.clone(), content.clone()));
    }
}
