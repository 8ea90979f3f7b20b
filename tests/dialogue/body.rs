//! The content of messages on the wire: line endings, dots, and its sources.

use std::{
    fs,
    io::{self, Read},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use email_format::Email;
use postino::{Error, Mail, Outcome, Phase, message::Body};

use super::*;

/// Returns what the server receives between 354 and the dot; `keywords` are its extensions.
#[track_caller]
fn wire(keywords: &str, mail: &dyn Mail) -> Vec<u8> {
    let keywords = keywords.to_owned();
    let server = Server::running(move |peer| {
        peer.play(&format!("-- hello {keywords}"));
        peer.line().unwrap();
        peer.play(
            "S: 250 ok\nC: RCPT TO:<bob@example.org>\nS: 250 ok\nC: DATA\nS: 354 go on\n-- body\nS: 250 ok",
        );
    });
    let mut client = connect(&server);
    accept(&mut client, mail);
    drop(client);
    let received = server.finish();
    let start = received.windows(6).position(|bytes| bytes == b"DATA\r\n").unwrap() + 6;
    received[start..].strip_suffix(b".\r\n").unwrap().to_vec()
}

#[track_caller]
fn assert_wire(sent: &[u8], expected: &[u8]) {
    let mails = [
        text(sent),
        Raw::reader(envelope(&["bob@example.org"]), io::Cursor::new(sent.to_vec())),
        Raw::reader(envelope(&["bob@example.org"]), InPieces(sent.to_vec(), 1)),
    ];
    for mail in mails {
        let wire = wire("", &mail);
        assert_eq!(wire.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{mail:?}");
    }
}

/// A reader that returns this many octets at a time.
struct InPieces(Vec<u8>, usize);

impl Read for InPieces {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let n = self.1.min(self.0.len()).min(room.len());
        room[..n].copy_from_slice(&self.0[..n]);
        self.0.drain(..n);
        Ok(n)
    }
}

// Behaviour 89, threat 32.
#[test]
fn a_final_line_end_is_added_only_where_it_is_missing() {
    assert_wire(b"Hello", b"Hello\r\n");
    assert_wire(b"Hello\r\n", b"Hello\r\n");
    assert_wire(b"Hello\r\n\r\n", b"Hello\r\n\r\n");
}

// Behaviour 89.
#[test]
fn an_empty_message_is_sent_as_an_empty_line() {
    assert_wire(b"", b"\r\n");
}

// Threat 28.
#[test]
fn bare_cr_and_lf_become_crlf() {
    assert_wire(b"a\nb\rc\r\nd\n\re", b"a\r\nb\r\nc\r\nd\r\n\r\ne\r\n");
}

// Threat 29.
#[test]
fn a_lone_cr_at_the_end_becomes_crlf() {
    assert_wire(b"a\r", b"a\r\n");
    assert_wire(b"a\r\r\n", b"a\r\n\r\n");
}

// Threat 30.
#[test]
fn a_dot_at_the_start_of_a_line_is_doubled() {
    assert_wire(b".", b"..\r\n");
    assert_wire(b".\r\n", b"..\r\n");
    assert_wire(b"..\r\n.a\r\nb.c\r\n", b"...\r\n..a\r\nb.c\r\n");
}

// Threat 28.
#[test]
fn a_line_with_a_single_dot_never_ends_the_message() {
    for smuggled in ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n", "\r\n.\r\n", "\n.\r"] {
        let sent = format!("a{smuggled}MAIL FROM:<eve@example.org>\r\n");
        assert_wire(sent.as_bytes(), b"a\r\n..\r\nMAIL FROM:<eve@example.org>\r\n");
    }
}

// Threat 33.
#[test]
fn a_long_line_is_sent_with_a_warning() {
    let line = [b"threat-33-".as_slice(), &[b'x'; 5000], b"\r\n"].concat();
    assert_eq!(wire("", &text(&line)), line);
    let logged = crate::support::journal::lines_with(" the message has a line of more than 998");
    assert!(logged.iter().any(|line| line.starts_with("WARN postino: #")), "{logged:?}");
}

#[test]
fn large_bodies_arrive_complete() {
    let sent = b".0123456789abcdef\n".repeat(200_000);
    let expected = b"..0123456789abcdef\r\n".repeat(200_000);
    assert!(wire("", &text(&sent)) == expected);
    let reader = InPieces(sent, 4093); // its borders fall everywhere
    assert!(wire("", &Raw::reader(envelope(&["bob@example.org"]), reader)) == expected);
}

struct File(PathBuf);

impl File {
    fn of(name: &str, content: &[u8]) -> File {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let path = folder.join(format!("{}-{name}-{}.eml", env!("CARGO_CRATE_NAME"), std::process::id()));
        fs::write(&path, content).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

#[test]
fn a_file_can_be_sent_repeatedly_and_its_size_is_announced() {
    let file = File::of("often", b"Hello\r\n");
    let mail = Raw::path(envelope(&["bob@example.org"]), &file.0);
    let server = Server::playing(format!(
        "-- hello SIZE\n{}",
        "C: MAIL FROM:<alice@example.org> SIZE=7
         S: 250 ok
         C: RCPT TO:<bob@example.org>
         S: 250 ok
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok\n"
            .repeat(2)
    ));
    let mut client = connect(&server);
    accept(&mut client, &mail);
    accept(&mut client, &mail);
}

#[test]
fn a_missing_file_is_an_error_before_mail() {
    let server = Server::playing("-- hello\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let error = send_error(&mut client, &Raw::path(envelope(&["bob@example.org"]), "/nowhere/at/all"));
    assert!(matches!(&error, Error::Source(e) if e.kind() == io::ErrorKind::NotFound), "{error:?}");
    assert_open(&mut client);
}

/// A folder can be opened, but not read. (On Windows it cannot be opened, which is noticed before MAIL.)
#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_read_leaves_the_server_without_a_message() {
    let error = no_message_arrives(&Raw::path(envelope(&["bob@example.org"]), env!("CARGO_TARGET_TMPDIR")));
    assert!(matches!(cause(&error), Error::Source(_)), "{error:?}");
}

#[test]
fn a_file_over_the_size_limit_is_refused_before_mail() {
    let file = File::of("large", &[b'x'; 100]);
    let server = Server::playing("-- hello SIZE 50\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let error = send_error(&mut client, &Raw::path(envelope(&["bob@example.org"]), &file.0));
    assert!(matches!(error, Error::TooLarge { size: 100, limit: 50 }), "{error:?}");
    assert_open(&mut client);
}

#[test]
fn a_reader_can_be_sent_once() {
    let server = Server::playing(
        "-- hello
         -- envelope
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok
         C: NOOP
         S: 250 ok",
    );
    let mut client = connect(&server);
    let mail = Raw::reader(envelope(&["bob@example.org"]), io::Cursor::new("Hello"));
    accept(&mut client, &mail);
    assert!(matches!(send_error(&mut client, &mail), Error::Message(_)));
    assert_open(&mut client);
}

#[test]
fn a_reader_is_not_consumed_before_the_server_is_ready_for_it() {
    let server = Server::playing(
        "-- hello SIZE 10
         C: MAIL FROM:<alice@example.org>
         S: 550 no
         C: RSET
         S: 250 ok
         C: MAIL FROM:<alice@example.org>
         S: 250 ok
         C: RCPT TO:<bob@example.org>
         S: 450 later
         C: RSET
         S: 250 ok
         -- envelope
         C: DATA
         S: 451 not now
         C: RSET
         S: 250 ok
         -- envelope
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok",
    );
    let mut client = connect(&server);
    let mail = Raw::reader(envelope(&["bob@example.org"]), io::Cursor::new("Hello"));
    let utf8 = Raw::reader(envelope(&["b\u{f6}b@example.org"]), io::Cursor::new("Hello"));
    assert!(matches!(send_error(&mut client, &utf8), Error::Unsupported(_)));
    for _ in 0..3 {
        assert_eq!(outcome(&send_error(&mut client, &mail)), Outcome::Refused);
    }
    accept(&mut client, &mail);
}

/// Sends a message whose content fails: the server gets no dot, and the connection ends.
#[track_caller]
fn no_message_arrives(mail: &dyn Mail) -> Error {
    no_message_arrives_at("-- hello", mail)
}

#[track_caller]
fn no_message_arrives_at(hello: &'static str, mail: &dyn Mail) -> Error {
    let server = Server::running(move |peer| {
        peer.play(hello);
        peer.line().unwrap();
        peer.play("S: 250 ok\nC: RCPT TO:<bob@example.org>\nS: 250 ok\nC: DATA\nS: 354 go on\n-- ignore");
    });
    let mut client = connect(&server);
    let error = send_error(&mut client, mail);
    assert_eq!(outcome(&error), Outcome::NotSent);
    assert!(!error.in_doubt());
    assert_closed(&mut client);
    drop(client);
    let received = server.finish();
    assert!(!received.windows(5).any(|bytes| bytes == b"\r\n.\r\n"), "a message arrived");
    error
}

/// A reader that returns some octets, and then fails.
struct Fails(usize);

impl Read for Fails {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self.0.min(room.len()) {
            0 => Err(io::Error::other("the disk is gone")),
            n => {
                room[..n].fill(b'\n');
                self.0 -= n;
                Ok(n)
            }
        }
    }
}

// Threat 37.
#[test]
fn a_reader_that_fails_leaves_the_server_without_a_message() {
    for octets in [0, 1, 1000, 1 << 20] {
        let error = no_message_arrives(&Raw::reader(envelope(&["bob@example.org"]), Fails(octets)));
        match cause(&error) {
            Error::Source(e) => assert_eq!(e.to_string(), "the disk is gone"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_interrupted_reader_is_read_again() {
    struct Interrupted(bool, io::Cursor<&'static [u8]>);
    impl Read for Interrupted {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            self.0 = !self.0;
            if self.0 { Err(io::ErrorKind::Interrupted.into()) } else { self.1.read(room) }
        }
    }
    let reader = Interrupted(false, io::Cursor::new(b"Hello\r\n"));
    assert_eq!(wire("", &Raw::reader(envelope(&["bob@example.org"]), reader)), b"Hello\r\n");
}

// Threat 34.
#[test]
fn a_nul_in_a_reader_leaves_the_server_without_a_message() {
    for before in [0, 100, 1 << 20] {
        let octets = [vec![b'\n'; before], b"a\0b".to_vec()].concat();
        let reader = Raw::reader(envelope(&["bob@example.org"]), io::Cursor::new(octets));
        let error = no_message_arrives_at("-- hello 8BITMIME", &reader);
        assert!(matches!(cause(&error), Error::Message(_)), "{error:?}");
    }
}

// Threat 35.
#[test]
fn eight_bit_content_from_a_reader_is_not_delivered_without_8bitmime() {
    let reader = Raw::reader(envelope(&["bob@example.org"]), io::Cursor::new("Grüße"));
    let error = no_message_arrives(&reader);
    assert!(matches!(cause(&error), Error::Unsupported(_)), "{error:?}");
}

#[test]
fn a_reader_is_announced_as_8bitmime_wherever_that_is_offered() {
    let server = Server::playing(
        "-- hello 8BITMIME, SIZE
         C: MAIL FROM:<alice@example.org> BODY=8BITMIME
         S: 250 ok
         C: RCPT TO:<bob@example.org>
         S: 250 ok
         C: DATA
         S: 354 go on
         C: Grüße
         C: .
         S: 250 ok",
    );
    accept(&mut connect(&server), &Raw::reader(envelope(&["bob@example.org"]), io::Cursor::new("Grüße")));
}

/// A message of a custom type.
struct Custom(Result<&'static str, &'static str>);

impl Mail for Custom {
    fn envelope(&self) -> Result<Envelope, Error> {
        Ok(envelope(&["bob@example.org"]))
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        match self.0 {
            Ok(text) => Ok(Body::reader(io::Cursor::new(text)).with_size(4711)),
            Err(why) => Err(Error::Source(io::Error::other(why))),
        }
    }
}

#[test]
fn a_custom_message_can_announce_its_size() {
    let server = Server::playing(
        "-- hello SIZE
         C: MAIL FROM:<alice@example.org> SIZE=4711
         S: 250 ok
         C: RCPT TO:<bob@example.org>
         S: 250 ok
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok
         C: NOOP
         S: 250 ok",
    );
    let mut client = connect(&server);
    accept(&mut client, &Custom(Ok("Hello")));
    assert!(matches!(send_error(&mut client, &Custom(Err("no"))), Error::Source(_)));
    assert_open(&mut client);
}

fn email() -> Email {
    let mut email = Email::new("Alice <alice@example.org>", "Wed, 5 Jan 2015 15:13:05 +1300").unwrap();
    email.set_to("Bob <bob@example.org>").unwrap();
    email.set_bcc("carol@example.org").unwrap();
    email.set_subject("Hello").unwrap();
    email.set_body("Hello Bob!\r\n.\r\n").unwrap();
    email
}

// Behaviour 80.
#[test]
fn an_email_is_sent_to_its_bcc_recipients_without_bcc() {
    let server = Server::running(|peer| {
        peer.play(
            "-- hello
             -- envelope
             C: RCPT TO:<carol@example.org>
             S: 250 ok
             C: DATA
             S: 354 go on",
        );
        let body = String::from_utf8(peer.body()).unwrap();
        assert!(body.contains("Subject:Hello\r\n") && !body.contains("carol"), "{body}");
        assert!(body.ends_with("\r\n\r\nHello Bob!\r\n..\r\n"), "{body}");
        peer.say("250 ok\r\n");
    });
    accept(&mut connect(&server), &email());
}

#[test]
fn a_message_without_recipients_is_refused_before_mail() {
    let server = Server::playing("-- hello\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let mut email = email();
    email.clear_to();
    email.clear_bcc();
    assert!(matches!(send_error(&mut client, &email), Error::NoRecipients));
    assert_open(&mut client);
}

#[test]
fn a_refusal_in_the_middle_of_a_reader_closes_the_connection() {
    let server = Server::running(|peer| {
        peer.may_run_ahead = true;
        peer.play("-- hello\n-- envelope\nC: DATA\nS: 354 go on\n-- read 1000\nS: 552 enough\n-- ignore");
    });
    let mut client = connect(&server);
    let error = send_error(&mut client, &Raw::reader(envelope(&["bob@example.org"]), io::repeat(b'a')));
    assert_eq!(refusal(cause(&error)), (Phase::Body, 552));
    assert_closed(&mut client);
}

// Behaviour 88.
#[test]
fn only_line_ends_and_leading_dots_of_content_are_changed() {
    let all: Vec<u8> = (1..=255).filter(|octet| !b"\r\n".contains(octet)).collect();
    let sent = [&all[..], b"\n.", &all, b"\n"].concat();
    let expected = [&all[..], b"\r\n..", &all, b"\r\n"].concat();
    assert_eq!(wire("8BITMIME", &text(&sent)), expected);
    let reader = Raw::reader(envelope(&["bob@example.org"]), InPieces(sent, 7));
    assert_eq!(wire("8BITMIME", &reader), expected);
}

/// A reader that counts the octets read.
struct Counted(Arc<AtomicUsize>);

impl Read for Counted {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.0.fetch_add(room.len(), Ordering::SeqCst);
        room.fill(b'a');
        Ok(room.len())
    }
}

#[test]
fn a_reader_is_read_only_as_far_as_the_server_and_the_buffers_accept_it() {
    let server = Server::cramped(|peer| {
        peer.may_run_ahead = true;
        peer.play("-- hello\n-- envelope\nC: DATA\nS: 354 go on\n-- read 10000000\nS: 552 enough\n-- ignore");
    });
    let read = Arc::new(AtomicUsize::new(0));
    let mail = Raw::reader(envelope(&["bob@example.org"]), Counted(read.clone()).take(10_000_000_000));
    assert_eq!(refusal(cause(&send_error(&mut connect(&server), &mail))), (Phase::Body, 552));
    let read = read.load(Ordering::SeqCst);
    assert!((10_000_000..100_000_000).contains(&read), "{read} octets are in memory, or were");
}

/// A reader that returns this many octets at a time.
struct Slices(io::Cursor<Vec<u8>>, usize);

impl Read for Slices {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let most = room.len().min(self.1);
        self.0.read(&mut room[..most])
    }
}

// Threat 31.
#[test]
fn how_content_is_split_into_reads_does_not_change_what_is_sent() {
    let text = b".\r\n..\r\n\r\n.\r\n.a\n.\nb\r.\r\n\r.\n.";
    let wire = b"..\r\n...\r\n\r\n..\r\n..a\r\n..\r\nb\r\n..\r\n\r\n..\r\n..\r\n.\r\n";
    for slice in 1..=text.len() {
        let server = Server::running(move |peer| {
            peer.play("-- hello\n-- envelope\nC: DATA\nS: 354 go on");
            let mut received = Vec::new();
            while !received.ends_with(b"\r\n.\r\n") {
                received.extend(peer.line().unwrap());
            }
            assert_eq!(received.escape_ascii().to_string(), wire.escape_ascii().to_string());
            peer.play("S: 250 ok");
        });
        let reader = Slices(io::Cursor::new(text.to_vec()), slice);
        accept(&mut connect(&server), &Raw::reader(envelope(&["bob@example.org"]), reader));
    }
}
