//! TLS for the doubles, and what clients trust. `certs/make.sh` made the certificates.
//!
//! The doubles use OpenSSL directly: the servers of native-tls neither request a client certificate, nor speak TLS 1.3,
//! nor renegotiate.

use std::{
    collections::VecDeque,
    ffi::c_int,
    io::{self, ErrorKind, Read, Write},
    mem,
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use foreign_types::ForeignTypeRef;
use openssl::{
    pkey::PKey,
    ssl::{Ssl, SslAcceptor, SslMethod, SslStream, SslVerifyMode, SslVersion},
    x509::X509,
};

/// The authority of the good certificate.
pub const CA: &[u8] = include_bytes!("certs/ca.pem");

macro_rules! identities {
    ($wanted:expr, $($name:literal)*) => {
        match $wanted {
            $($name => (
                include_bytes!(concat!("certs/", $name, ".pem")).as_slice(),
                include_bytes!(concat!("certs/", $name, ".key")).as_slice(),
            ),)*
            other => panic!("there is no certificate {other:?}"),
        }
    };
}

/// Returns certificate and key by their name in `certs/`. Those of servers are for localhost, 127.0.0.1 and ::1, unless
/// the name says otherwise.
pub fn identity(name: &str) -> (&'static [u8], &'static [u8]) {
    identities!(name,
        "good" "other-host" "expired" "not-yet-valid" "unknown-issuer" "self-signed" "ed25519" "wildcard" "name-only"
        "address-as-name" "address-only" "wildcard-of-all" "a-label" "common-name-only" "for-clients" "with-issuer" "without-issuer" "client" "unknown-client")
}

/// Returns an acceptor by the name of a certificate, and options: `good`, `good 1.2` (TLS 1.2 only), `good mutual` (the
/// client must have a certificate of the authority).
pub fn acceptor(what: &str) -> SslAcceptor {
    let mut words = what.split(' ');
    let (certificate, key) = identity(words.next().unwrap());
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    let chain = X509::stack_from_pem(certificate).unwrap();
    acceptor.set_certificate(&chain[0]).unwrap();
    for issuer in &chain[1..] {
        acceptor.add_extra_chain_cert(issuer.clone()).unwrap();
    }
    acceptor.set_private_key(&PKey::private_key_from_pem(key).unwrap()).unwrap();
    for word in words {
        match word {
            "1.2" => acceptor.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap(),
            "mutual" => {
                let authority = X509::from_pem(CA).unwrap();
                acceptor.add_client_ca(&authority).unwrap();
                acceptor.cert_store_mut().add_cert(authority).unwrap();
                acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
            }
            _ => panic!("nobody knows what {word:?} means"),
        }
    }
    acceptor.build()
}

/// Hash of a certificate's DER, which binds a login to it, if it was signed with SHA-256 (RFC 5929 §4.1).
pub fn end_point(der: &[u8]) -> Vec<u8> {
    openssl::sha::sha256(der).to_vec()
}

/// The SHA-256 of a certificate and of its public key (SubjectPublicKeyInfo), both in DER.
pub fn fingerprints(pem: &[u8]) -> ([u8; 32], [u8; 32]) {
    let certificate = X509::from_pem(pem).unwrap();
    let key = certificate.public_key().unwrap().public_key_to_der().unwrap();
    (openssl::sha::sha256(&certificate.to_der().unwrap()), openssl::sha::sha256(&key))
}

/// The name of the file of this CA in a folder where OpenSSL looks for it.
pub fn file_name(ca: &[u8]) -> String {
    format!("{:08x}.0", X509::from_pem(ca).unwrap().subject_name_hash())
}

pub fn der(pem: &[u8]) -> Vec<u8> {
    X509::from_pem(pem).unwrap().to_der().unwrap()
}

/// Requests another handshake on the same connection (RFC 5246 §7.4.1.1), and does not wait for it.
pub fn renegotiate(stream: &mut SslStream<TcpStream>) {
    unsafe extern "C" {
        /// Declared here because openssl-sys lacks it.
        fn SSL_renegotiate(ssl: *mut openssl_sys::SSL) -> c_int;
    }
    // SAFETY: the pointer is that of a live connection, which is not used elsewhere meanwhile.
    let agreed = unsafe { SSL_renegotiate(stream.ssl().as_ptr()) };
    assert_eq!(agreed, 1);
    stream.do_handshake().unwrap();
}

/// A socket that writes one octet at a time, with a delay for each.
#[derive(Debug)]
pub struct Dripping(pub TcpStream, pub Duration);

impl Read for Dripping {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.0.read(room)
    }
}

impl Write for Dripping {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        thread::sleep(self.1);
        self.0.write(&bytes[..bytes.len().min(1)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

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

/// A connection in memory to a TLS 1.3 server, which from some moment on sends as many records as the client reads. It
/// counts the reads and writes of the client.
#[derive(Debug)]
pub struct Flood {
    server: SslStream<Pipe>,
    at: Stage,
    record: Record,
    flooding: bool,
    heard: Vec<u8>,
    steps: Arc<AtomicUsize>,
    late: Arc<AtomicUsize>,
    /// Steps after this are late.
    limit: Instant,
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
    /// Number of steps after which the client fails.
    const TOO_MANY: usize = 10_000;

    /// Creates a flood whose steps after the limit are late.
    pub fn new(at: Stage, record: Record, limit: Instant) -> Flood {
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
        }
    }

    /// Counter of all reads and writes.
    pub fn steps(&self) -> Arc<AtomicUsize> {
        self.steps.clone()
    }

    /// Counter of the late ones.
    pub fn late(&self) -> Arc<AtomicUsize> {
        self.late.clone()
    }

    fn step(&mut self) -> io::Result<()> {
        self.steps.fetch_add(1, Ordering::Relaxed);
        if Instant::now() > self.limit && self.late.fetch_add(1, Ordering::Relaxed) > Flood::TOO_MANY {
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
            Stage::Handshake => &mut room[..1], // a message is not endless: it should last
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
                return; // more is to come
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
