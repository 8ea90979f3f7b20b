//! Content that arrives slowly: available octets are sent, replies are read, and every limit holds.

use std::{
    io::{self, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use postino::{
    Error, Message, Outcome, Phase, Raw,
    message::{Attachment, Body},
};

use super::*;
use crate::support::{Peer, pair};

const SHORT: Duration = Duration::from_millis(300);

/// A slow reader of the octets that the test's server sends it.
struct Slow {
    pieces: Receiver<Vec<u8>>,
}

impl Read for Slow {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        thread::sleep(Duration::from_millis(20));
        match self.pieces.recv_timeout(PATIENCE) {
            Ok(piece) => {
                room[..piece.len()].copy_from_slice(&piece);
                Ok(piece.len())
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Ok(0),
            Err(_) => Err(io::Error::other("nobody has seen what was given before")),
        }
    }
}

fn slow() -> (Sender<Vec<u8>>, Slow) {
    let (more, pieces) = channel();
    (more, Slow { pieces })
}

fn line(number: usize) -> Vec<u8> {
    format!("line {number} {:.<50}", "").into_bytes()
}

/// A message whose content is read from this reader.
fn reading(reader: impl Read + Send + 'static) -> Raw<'static> {
    Raw::reader(envelope(&["bob@example.org"]), reader)
}

#[test]
fn a_line_is_sent_before_the_next_one_is_available() {
    let (more, slow) = slow();
    more.send(b"line 0\r\n".to_vec()).unwrap();
    let server = Server::running(move |peer| {
        peer.play("-- hello\n-- envelope\nC: DATA\nS: 354 go on");
        for number in 0..5 {
            assert_eq!(peer.line().unwrap(), format!("line {number}\r\n").as_bytes());
            more.send(format!("line {}\r\n", number + 1).into_bytes()).unwrap();
        }
        drop(more);
        peer.play("C: line 5\nC: .\nS: 250 ok");
    });
    accept(&mut connect(&server), &reading(slow));
}

#[test]
fn a_chunk_is_sent_before_the_next_piece_is_available() {
    let (more, slow) = slow();
    more.send(b"line 0\r\n".to_vec()).unwrap();
    let server = Server::running(move |peer| {
        peer.may_run_ahead = true;
        peer.play("-- hello PIPELINING, CHUNKING\n-- envelope");
        for number in 0..5 {
            peer.play(&format!("C: BDAT 8\nC: line {number}"));
            more.send(format!("line {}\r\n", number + 1).into_bytes()).unwrap();
            peer.play("S: 250 ok");
        }
        drop(more);
        // The end may come with the last line, or after it.
        match &peer.line().unwrap()[..] {
            b"BDAT 8 LAST\r\n" => peer.play("C: line 5\nS: 250 ok"),
            _ => peer.play("C: line 5\nS: 250 ok\nC: BDAT 0 LAST\nS: 250 ok"),
        }
    });
    let mut client = block_on(builder(&server).chunking(true).connect()).unwrap();
    accept(&mut client, &reading(slow));
}

#[test]
fn lines_of_an_attachment_are_sent_before_the_next_one_is_available() {
    let (more, slow) = slow();
    more.send(line(0)).unwrap();
    let server = Server::running(move |peer| {
        peer.play("-- hello\n-- envelope\nC: DATA\nS: 354 go on");
        for number in 0..5 {
            peer.hear(|heard| encoded_lines(heard) > number);
            more.send(line(number + 1)).unwrap();
        }
        drop(more);
        peer.play("-- body\nS: 250 ok");
    });
    let message = Message::builder().from("alice@example.org").to("bob@example.org");
    let message = message.attach(Attachment::reader("a", slow)).build().unwrap();
    accept(&mut connect(&server), &message);
}

/// Number of lines of base64. The end of one comes with the next one.
fn encoded_lines(heard: &[u8]) -> usize {
    let start = b"\r\n\r\nbGluZS";
    let at = heard.windows(start.len()).position(|part| part == start);
    at.map_or(0, |at| heard[at + 4..].iter().filter(|byte| !byte.is_ascii_whitespace()).count() / 76)
}

#[test]
fn a_refusal_is_heard_while_waiting_for_slow_content() {
    for chunking in [false, true] {
        let (more, slow) = slow();
        more.send(b"line 0\r\n".to_vec()).unwrap();
        let server = Server::running(move |peer| {
            peer.may_run_ahead = true;
            if chunking {
                peer.play("-- hello PIPELINING, CHUNKING\n-- envelope\nC: BDAT 8");
            } else {
                peer.play("-- hello\n-- envelope\nC: DATA\nS: 354 go on");
            }
            assert_eq!(peer.line().unwrap(), b"line 0\r\n");
            peer.play("S: 421 4.3.2 shutting down");
            // The content neither continues after this line nor ends: a client that had not read the refusal would wait
            // here.
            let _gone_already = more.send(b"line 1\r\n".to_vec());
            peer.ignore();
        });
        let mut client = block_on(builder(&server).chunking(chunking).connect()).unwrap();
        let error = send_error(&mut client, &reading(slow));
        assert_eq!((error.reply().unwrap().code(), outcome(&error)), (421, Outcome::NotSent));
        drop(client);
    }
}

/// Reads the envelope, and whatever follows.
fn swallow(peer: &mut Peer) {
    peer.may_run_ahead = true;
    peer.play("-- hello\n-- envelope\nC: DATA\nS: 354 go on\n-- ignore");
}

/// A reader that counts its reads.
struct Counted<R>(R, Arc<AtomicUsize>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.read(room)
    }
}

#[track_caller]
fn assert_late(mail: &dyn Mail) {
    let server = Server::running(swallow);
    let mut client = block_on(builder(&server).deadline(SHORT).connect()).unwrap();
    let error = send_error(&mut client, mail);
    assert!(matches!(cause(&error), Error::Timeout(Phase::Body)), "{error:?}");
    assert_eq!(outcome(&error), Outcome::NotSent);
    drop(client);
}

#[test]
fn a_reader_that_would_block_is_retried_until_the_deadline() {
    let (ours, mut theirs) = pair();
    ours.set_nonblocking(true).unwrap();
    let reads = Arc::new(AtomicUsize::new(0));
    theirs.write_all(b"Subject: never").unwrap();
    let message =
        |reader| Message::builder().from("a@b").to("c@d").attach(Attachment::reader("a", reader)).build();
    assert_late(&reading(Counted(ours.try_clone().unwrap(), reads.clone())));
    // At most every 10 ms, and once in between.
    assert!(reads.load(Ordering::Relaxed) < 100, "{reads:?}");
    assert_late(&Wrapped(message(Counted(ours, reads.clone())).unwrap()));
    assert!(reads.load(Ordering::Relaxed) < 200, "{reads:?}");
}

/// A message with the usual envelope.
struct Wrapped(Message);

impl Mail for Wrapped {
    fn envelope(&self) -> Result<Envelope, Error> {
        Ok(envelope(&["bob@example.org"]))
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        self.0.body()
    }
}

#[test]
fn a_reader_that_would_block_loses_no_content() {
    let (ours, mut theirs) = pair();
    ours.set_nonblocking(true).unwrap();
    let writing = thread::spawn(move || {
        for number in 0..10 {
            thread::sleep(Duration::from_millis(15));
            theirs.write_all(&line(number)).unwrap();
        }
    });
    let message = Message::builder().from("a@b").to("c@d").attach(Attachment::reader("a", ours)).build();
    let (tell, told) = channel();
    let server = Server::running(move |peer| {
        peer.play("-- hello\n-- envelope\nC: DATA\nS: 354 go on");
        tell.send(String::from_utf8(peer.body()).unwrap()).unwrap();
        peer.play("S: 250 ok");
    });
    accept(&mut connect(&server), &Wrapped(message.unwrap()));
    writing.join().unwrap();
    let expected: String = (0..10).map(|number| String::from_utf8(line(number)).unwrap()).collect();
    let sent = told.recv().unwrap();
    let encoded = sent.split("base64\r\n").nth(1).unwrap_or_default().split("--=_").next().unwrap();
    let encoded: String = encoded.split_whitespace().collect();
    assert_eq!(encoded, base64(&expected), "{sent}");
}

fn base64(text: &str) -> String {
    use ::base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(text)
}

#[cfg(unix)]
mod fifo {
    use std::{
        path::PathBuf,
        process::{self, Command},
    };

    use super::*;

    /// Reads a whole message.
    fn take(peer: &mut Peer) {
        peer.play("-- hello\n-- envelope\nC: DATA\nS: 354 go on\n-- body\nS: 250 ok");
    }

    /// A FIFO, removed when dropped.
    struct Fifo(PathBuf);

    impl Fifo {
        fn new() -> Fifo {
            static NUMBER: AtomicUsize = AtomicUsize::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("postino-fifo-{}-{number}", process::id()));
            assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
            Fifo(path)
        }

        fn message(&self) -> Wrapped {
            let attached = Attachment::path(&self.0);
            Wrapped(Message::builder().from("a@b").to("c@d").attach(attached).build().unwrap())
        }
    }

    impl Drop for Fifo {
        fn drop(&mut self) {
            let _gone_already = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_fifo_that_nobody_writes_to_ends_at_the_deadline() {
        let fifo = Fifo::new();
        assert_late(&Raw::path(envelope(&["bob@example.org"]), &fifo.0));
        assert_late(&fifo.message());
        // Nor if another process only holds it open.
        let _held = std::fs::OpenOptions::new().read(true).write(true).open(&fifo.0).unwrap();
        assert_late(&Raw::path(envelope(&["bob@example.org"]), &fifo.0));
    }

    #[test]
    fn a_fifo_is_read_until_its_writer_closes_it() {
        for attached in [false, true] {
            let fifo = Fifo::new();
            let path = fifo.0.clone();
            let server = Server::running(take);
            let writing = thread::spawn(move || {
                thread::sleep(Duration::from_millis(50)); // mostly, it is opened by then
                let mut end = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                for _ in 0..3 {
                    end.write_all(b"Hello\r\n").unwrap();
                    thread::sleep(Duration::from_millis(30));
                }
            });
            if attached {
                accept(&mut connect(&server), &fifo.message());
            } else {
                accept(&mut connect(&server), &Raw::path(envelope(&["bob@example.org"]), &fifo.0));
            }
            writing.join().unwrap();
        }
    }
}
