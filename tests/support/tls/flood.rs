//! A server in memory that never stops sending records.

use std::{
    collections::VecDeque,
    ffi::c_int,
    io::{self, ErrorKind, Read, Write},
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use foreign_types::ForeignTypeRef;
use openssl::ssl::{Ssl, SslStream};

use super::acceptor;

/// When a [`Flood`] begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// In the handshake: its first message never ends.
    Handshake,
    /// Once the client is connected and idle.
    Idle,
    /// In reply to a command.
    Reply,
    /// In the content of a message, none of which is read.
    Content,
}

/// What a [`Flood`] sends without end. None of it yields an octet to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    KeyUpdate,
    Ticket,
}

/// An in-memory connection to a TLS 1.3 server that, from a given stage on, sends as many records as the client reads.
/// Counts the reads and writes of the client.
#[derive(Debug)]
pub struct Flood {
    server: SslStream<Pipe>,
    at: Stage,
    record: Record,
    flooding: bool,
    heard: Vec<u8>,
    steps: Arc<AtomicUsize>,
    late: Arc<AtomicUsize>,
    /// Time from the first read or write until those that are late.
    limit: Duration,
    /// The time of the first read or write.
    begun: Option<Instant>,
}

/// Both directions, as the server sees them.
#[derive(Debug, Default)]
struct Pipe {
    from_client: VecDeque<u8>,
    to_client: VecDeque<u8>,
}

impl Read for Pipe {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.from_client.is_empty() {
            Err(ErrorKind::WouldBlock.into())
        } else {
            self.from_client.read(room)
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to_client.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Flood {
    /// Number of late reads and writes after which any further one fails.
    const TOO_MANY: usize = 10_000;

    /// Creates a flood for which reads and writes are late after this time from the first of them.
    pub fn new(at: Stage, record: Record, limit: Duration) -> Flood {
        let server = Ssl::new(acceptor("good").context()).unwrap();
        let mut server = SslStream::new(server, Pipe::default()).unwrap();
        if at == Stage::Handshake {
            // A ServerHello of 65,535 octets, in as many records.
            server.get_mut().to_client.extend(b"\x16\x03\x03\x00\x04\x02\x00\xff\xff");
        }
        Flood {
            server,
            at,
            record,
            flooding: at == Stage::Handshake,
            heard: Vec::new(),
            steps: Arc::default(),
            late: Arc::default(),
            limit,
            begun: None,
        }
    }

    /// Returns the counter of all reads and writes.
    pub fn steps(&self) -> Arc<AtomicUsize> {
        self.steps.clone()
    }

    /// Returns the counter of the late reads and writes.
    pub fn late(&self) -> Arc<AtomicUsize> {
        self.late.clone()
    }

    fn step(&mut self) -> io::Result<()> {
        self.steps.fetch_add(1, Ordering::Relaxed);
        let begun = *self.begun.get_or_insert_with(Instant::now);
        if begun.elapsed() > self.limit && self.late.fetch_add(1, Ordering::Relaxed) > Flood::TOO_MANY {
            return Err(io::Error::other("the client never stops"));
        }
        Ok(())
    }

    /// Gives the client something to read; [`ErrorKind::WouldBlock`] if there is nothing.
    pub fn give(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.step()?;
        if self.flooding && self.server.get_ref().to_client.is_empty() {
            self.say_nothing();
        }
        let room = match self.at {
            Stage::Handshake => &mut room[..1], // the message is not endless, so this makes it last
            _ => room,
        };
        let there = &mut self.server.get_mut().to_client;
        if there.is_empty() { Err(ErrorKind::WouldBlock.into()) } else { there.read(room) }
    }

    /// Takes what the client writes; [`ErrorKind::WouldBlock`] if none of it is taken.
    pub fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.step()?;
        if self.flooding && self.at == Stage::Content {
            return Err(ErrorKind::WouldBlock.into());
        }
        if !self.flooding {
            self.server.get_mut().from_client.extend(bytes);
            self.listen();
        }
        Ok(bytes.len())
    }

    /// Sends a record without content.
    fn say_nothing(&mut self) {
        unsafe extern "C" {
            fn SSL_key_update(ssl: *mut openssl_sys::SSL, kind: c_int) -> c_int;
            fn SSL_new_session_ticket(ssl: *mut openssl_sys::SSL) -> c_int;
        }
        if self.at == Stage::Handshake {
            self.server.get_mut().to_client.extend(b"\x16\x03\x03\x00\x01\x00");
            return;
        }
        let ssl = self.server.ssl().as_ptr();
        // SAFETY: the pointer is that of a live connection, which is not used elsewhere meanwhile.
        let agreed = unsafe {
            match self.record {
                Record::KeyUpdate => SSL_key_update(ssl, 0),
                Record::Ticket => SSL_new_session_ticket(ssl),
            }
        };
        assert_eq!(agreed, 1);
        self.server.do_handshake().unwrap();
    }

    fn listen(&mut self) {
        if !self.server.ssl().is_init_finished() {
            if self.server.accept().is_err() {
                return; // the handshake needs more octets
            }
            self.server.write_all(b"220 mail.example.org\r\n").unwrap();
        }
        let mut room = [0; 4096];
        while let Ok(n @ 1..) = self.server.read(&mut room) {
            self.heard.extend_from_slice(&room[..n]);
        }
        if !self.heard.ends_with(b"\n") {
            return;
        }
        let heard = mem::take(&mut self.heard);
        for line in heard.split_inclusive(|byte| *byte == b'\n') {
            let (reply, stage) = match &line[..4] {
                b"EHLO" => ("250 mail.example.org\r\n", Stage::Idle),
                b"DATA" => ("354 go on\r\n", Stage::Content),
                b"NOOP" => ("", Stage::Reply),
                _ => ("250 ok\r\n", Stage::Handshake),
            };
            if !reply.is_empty() {
                self.server.write_all(reply.as_bytes()).unwrap();
            }
            self.flooding |= stage == self.at;
        }
    }
}
