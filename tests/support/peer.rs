//! A double's end of the connection, and the scripts it plays.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    thread::sleep,
    time::Duration,
};

use super::PATIENCE;

/// Delay between octets that is far too short to pass for silence.
pub const DRIP: Duration = Duration::from_millis(20);

trait Stream: Read + Write + Send {
    /// Requests a renegotiation.
    fn renegotiate(&mut self) {
        panic!("there is no TLS session to renegotiate");
    }

    /// Sends close_notify (RFC 8446 §6.1): nothing more follows in TLS.
    fn notify(&mut self) {
        panic!("there is no TLS session to close");
    }
}

impl Stream for TcpStream {}

#[cfg(any(feature = "native-tls", feature = "rustls"))]
impl Stream for super::tls::TlsStream<TcpStream> {
    fn renegotiate(&mut self) {
        super::tls::renegotiate(self);
    }

    fn notify(&mut self) {
        super::tls::notify(self);
    }
}

#[cfg(any(feature = "native-tls", feature = "rustls"))]
impl Stream for super::tls::TlsStream<super::tls::Dripping> {}

/// The client, as seen by the server.
pub struct Peer {
    /// `None` once this side has ended the connection.
    stream: Option<Box<dyn Stream>>,
    /// The socket beneath the stream.
    socket: Option<TcpStream>,
    /// Octets that were received but not yet examined.
    inbox: Vec<u8>,
    /// Everything received.
    heard: Vec<u8>,
    /// Output to be sent in one segment.
    outbox: Vec<u8>,
    /// Whether the client may leave at any time.
    pub may_leave: bool,
    /// Whether the client may send more than it was asked for.
    pub may_run_ahead: bool,
    gone: bool,
}

impl Peer {
    /// Creates the peer. The `TcpStream` may be any kind of socket.
    pub(super) fn new(socket: TcpStream) -> Peer {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        drop(socket.set_nodelay(true)); // not supported by Unix sockets
        Peer {
            stream: Some(Box::new(socket.try_clone().unwrap())),
            socket: Some(socket),
            inbox: Vec::new(),
            heard: Vec::new(),
            outbox: Vec::new(),
            may_leave: false,
            may_run_ahead: false,
            gone: false,
        }
    }

    /// Plays a script, line by line:
    ///
    /// ```text
    /// S: 250 ok          Sends this line. Consecutive S: lines are sent in one segment. By then, the client must not
    ///                    have sent more than the script expects. \xe9, \n, \r and \0 stand for these octets.
    /// S... 250 o         Sends this text without a line ending.
    /// C: NOOP            Expects exactly this line.
    /// -- hello A, B 1    Sends the greeting, and answers EHLO with these keywords.
    /// -- envelope        Accepts MAIL and RCPT of the usual message, one after the other.
    /// -- body            Reads content up to the line with a single dot.
    /// -- read 1000       Reads 1000 octets, whatever they are.
    /// -- chunk           Reads a BDAT command without LAST, and its chunk.
    /// -- last            Accepts chunks up to and including the one with LAST. (Slow content is sent in more chunks.)
    /// -- tls good        Completes a TLS handshake with this certificate.
    /// -- tls good 1.2 mutual   Like `-- tls good`, with TLS 1.2 and a required client certificate.
    /// -- no tls expired  Offers this certificate in a handshake, which must fail.
    /// -- crumbs good     Completes a TLS handshake, sending each octet in a separate segment.
    /// -- client hello    Reads the first record of a handshake, without answering it.
    /// -- renegotiate     Starts a renegotiation (TLS 1.2).
    /// -- drip 250 ok     Sends this line with a delay of DRIP before each octet. The client may leave meanwhile.
    /// -- split 3 250 ok  Sends this line in two segments, of which the first has 3 octets.
    /// -- pause           Waits for 50 ms.
    /// -- silence         Does nothing. As at the end of every script, the client must leave without sending more.
    /// -- ignore          Reads whatever the client sends, until it leaves.
    /// -- fin             Closes the sending direction (without close_notify). The client must leave.
    /// -- close           Closes the connection (in TLS, without close_notify).
    /// -- notify          Closes the TLS session with close_notify, and then the connection.
    /// -- reset           Resets the connection (RST).
    /// ```
    pub fn play(&mut self, script: &str) {
        for line in script.lines().map(str::trim_start).filter(|line| !line.is_empty()) {
            if self.gone {
                return;
            }
            match line.split_once(' ').unwrap_or((line, "")) {
                ("S:", text) => self.outbox.extend([unescape(text), b"\r\n".to_vec()].concat()),
                ("S...", text) => self.outbox.extend(unescape(text)),
                ("C:", text) => self.expect(text),
                ("--", what) => self.follow(what),
                _ => panic!("not an S:, C: or -- line: {line:?}"),
            }
        }
        self.flush();
    }

    fn follow(&mut self, what: &str) {
        self.flush();
        match what.split_once(' ').unwrap_or((what, "")) {
            ("hello", keywords) => self.hello(keywords),
            ("envelope", "") => self.play(
                "C: MAIL FROM:<alice@example.org>
                 S: 250 ok
                 C: RCPT TO:<bob@example.org>
                 S: 250 ok",
            ),
            ("body", "") => drop(self.body()),
            ("read", octets) => self.read(octets.parse().unwrap()),
            ("chunk", "") => assert!(!self.chunk(), "the client sent LAST"),
            ("last", "") => {
                while !self.chunk() {
                    self.say("250 ok\r\n");
                }
            }
            #[cfg(any(feature = "native-tls", feature = "rustls"))]
            ("tls", certificate) => self.accept_tls(certificate),
            #[cfg(any(feature = "native-tls", feature = "rustls"))]
            ("no", refused) => self.offer_tls(refused.strip_prefix("tls ").unwrap()),
            #[cfg(any(feature = "native-tls", feature = "rustls"))]
            ("crumbs", certificate) => self.accept_tls_in_crumbs(certificate),
            ("client", "hello") => self.client_hello(),
            ("renegotiate", "") => self.stream.as_mut().unwrap().renegotiate(),
            ("drip", text) => self.drip(&[text.as_bytes(), b"\r\n"].concat()),
            ("split", line) => {
                let (at, text) = line.split_once(' ').unwrap();
                self.split(&[unescape(text), b"\r\n".to_vec()].concat(), at.parse().unwrap());
            }
            ("pause", "") => sleep(Duration::from_millis(50)),
            ("silence", "") => {}
            ("ignore", "") => self.ignore(),
            ("fin", "") => drop(self.socket.as_ref().unwrap().shutdown(Shutdown::Write)),
            ("close", "") => (self.stream, self.socket) = (None, None),
            ("notify", "") => {
                self.stream.as_mut().unwrap().notify();
                (self.stream, self.socket) = (None, None);
            }
            ("reset", "") => {
                let socket = self.socket.take().unwrap();
                rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
                self.stream = None;
            }
            _ => panic!("unknown instruction: {what:?}"),
        }
    }

    /// Returns the address that the client connected from.
    pub fn client(&self) -> std::net::SocketAddr {
        self.socket.as_ref().unwrap().peer_addr().unwrap()
    }

    fn hello(&mut self, keywords: &str) {
        let mut lines = vec!["mail.example.org"];
        lines.extend(keywords.split(", ").filter(|keyword| !keyword.is_empty()));
        self.play("S: 220 mail.example.org ESMTP\nC: EHLO client.example.org");
        for (i, line) in lines.iter().enumerate() {
            let mark = if i + 1 == lines.len() { ' ' } else { '-' };
            self.outbox.extend(format!("250{mark}{line}\r\n").into_bytes());
        }
        self.flush();
    }

    /// Sends these octets now.
    pub fn say(&mut self, bytes: impl AsRef<[u8]>) {
        let done = self.stream.as_mut().unwrap().write_all(bytes.as_ref());
        if let Err(e) = done {
            assert!(self.may_leave, "the client left before it received {}: {e}", shown(bytes.as_ref()));
            self.gone = true;
        }
    }

    fn flush(&mut self) {
        let out = std::mem::take(&mut self.outbox);
        if out.is_empty() || self.gone {
            return;
        }
        assert!(
            self.inbox.is_empty() || self.may_run_ahead,
            "the client sent {} before it received {}",
            shown(&self.inbox),
            shown(&out),
        );
        self.say(out);
    }

    fn drip(&mut self, bytes: &[u8]) {
        self.may_leave = true;
        for byte in bytes {
            sleep(DRIP);
            self.say([*byte]);
            if self.gone {
                return;
            }
        }
    }

    /// Sends these octets in two segments.
    pub fn split(&mut self, bytes: &[u8], at: usize) {
        self.say(&bytes[..at]);
        sleep(Duration::from_millis(2)); // usually long enough for the client to read the first one
        if !self.gone {
            self.say(&bytes[at..]);
        }
    }

    /// Sends these octets outside TLS.
    pub fn say_in_clear(&mut self, bytes: &[u8]) {
        self.socket.as_ref().unwrap().write_all(bytes).unwrap();
    }

    /// Reads what arrives next. Returns false if the client has left.
    fn fill(&mut self) -> bool {
        let mut room = [0; 65_536];
        match self.stream.as_mut().unwrap().read(&mut room) {
            Ok(n) => {
                self.inbox.extend_from_slice(&room[..n]);
                self.heard.extend_from_slice(&room[..n]);
                n > 0
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the client neither sent anything nor left; it had sent {}", self.recently())
            }
            Err(_) => false,
        }
    }

    fn recently(&self) -> String {
        let from = self.heard.len().saturating_sub(200);
        shown(&self.heard[from..])
    }

    /// Returns the next line with its end; `None` if the client has left.
    pub fn line(&mut self) -> Option<Vec<u8>> {
        let mut seen = 0;
        loop {
            if let Some(at) = self.inbox[seen..].iter().position(|b| *b == b'\n') {
                return Some(self.inbox.drain(..=seen + at).collect());
            }
            seen = self.inbox.len();
            if !self.fill() {
                return None;
            }
        }
    }

    fn expect(&mut self, text: &str) {
        self.flush();
        let expected = format!("{text}\r\n");
        match self.line() {
            Some(line) => {
                assert!(line == expected.as_bytes(), "the client sent {}, not {expected:?}", shown(&line));
            }
            None if self.may_leave => {
                assert!(
                    expected.as_bytes().starts_with(&self.inbox),
                    "the client sent {}, not {expected:?}",
                    shown(&self.inbox)
                );
                self.gone = true;
            }
            None => panic!("the client left instead of sending {text:?}; it had sent {}", self.recently()),
        }
    }

    /// Reads whatever the client sends, up to the line with a dot, and returns it without that line.
    pub fn body(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(line) = self.line() {
            if line == b".\r\n" {
                return body;
            }
            body.extend(line);
        }
        assert!(self.may_leave, "the client left in the middle of its message");
        self.gone = true;
        body
    }

    /// Waits until `is_enough` accepts all octets that the client has sent. They remain to be read.
    pub fn hear(&mut self, is_enough: impl Fn(&[u8]) -> bool) {
        while !is_enough(&self.heard) {
            assert!(self.fill(), "the client left too early: {}", self.recently());
        }
    }

    /// Reads this many octets of whatever the client sends.
    pub fn read(&mut self, octets: usize) {
        while self.inbox.len() < octets {
            assert!(self.fill(), "the client left after {} octets", self.inbox.len());
        }
        self.inbox.drain(..octets);
    }

    /// Reads a chunk: the command, and as many octets as the command announces. Returns whether it is the last one.
    fn chunk(&mut self) -> bool {
        let line = self.line().map(|line| String::from_utf8_lossy(&line).into_owned());
        let line = line.unwrap_or_else(|| panic!("the client left instead of sending BDAT"));
        let command = line.strip_prefix("BDAT ").and_then(|line| line.strip_suffix("\r\n"));
        let command = command.unwrap_or_else(|| panic!("the client sent {line:?}, not BDAT"));
        let octets = command.strip_suffix(" LAST").unwrap_or(command);
        self.read(octets.parse().unwrap());
        octets != command
    }

    /// Reads the first record of a handshake, with which the client begins (RFC 8446 §5.1).
    fn client_hello(&mut self) {
        while self.inbox.len() < 5 {
            assert!(self.fill(), "the client left before its handshake");
        }
        assert_eq!(self.inbox[0], 22, "not a handshake: {}", shown(&self.inbox));
        let octets = usize::from(u16::from_be_bytes([self.inbox[3], self.inbox[4]]));
        self.read(5 + octets);
    }

    /// Returns whatever the client has sent outside TLS, until it leaves.
    pub fn rest_in_clear(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.inbox.clear(); // already recorded
        // A reset also counts as the end.
        drop(self.socket.as_ref().unwrap().read_to_end(&mut rest));
        self.gone = true;
        rest
    }

    /// Reads everything until the client leaves.
    pub fn ignore(&mut self) {
        while self.fill() {
            self.inbox.clear();
        }
        self.inbox.clear();
        self.gone = true;
    }

    /// Sends these octets repeatedly until the client leaves; returns how many octets were sent.
    pub fn flood(&mut self, bytes: &[u8], most: usize) -> usize {
        self.may_leave = true;
        let mut said = 0;
        while said < most && !self.gone {
            self.say(bytes);
            said += bytes.len();
        }
        said
    }

    #[cfg(any(feature = "native-tls", feature = "rustls"))]
    fn accept_tls(&mut self, certificate: &str) {
        assert!(self.inbox.is_empty(), "{} before the handshake", shown(&self.inbox));
        let socket = self.socket.as_ref().unwrap().try_clone().unwrap();
        match super::tls::acceptor(certificate).accept(socket) {
            Ok(stream) => self.stream = Some(Box::new(stream)),
            Err(_) if self.may_leave => self.gone = true,
            Err(e) => panic!("the handshake failed: {e}"),
        }
    }

    #[cfg(any(feature = "native-tls", feature = "rustls"))]
    fn offer_tls(&mut self, certificate: &str) {
        assert!(self.inbox.is_empty(), "{} before the handshake", shown(&self.inbox));
        let socket = self.socket.as_ref().unwrap().try_clone().unwrap();
        let accepted = super::tls::acceptor(certificate).accept(socket);
        assert!(accepted.is_err(), "the handshake succeeded");
        if certificate.contains("mutual") {
            self.ignore(); // in TLS 1.3 the client continues until it learns that its certificate was refused
        }
    }

    #[cfg(any(feature = "native-tls", feature = "rustls"))]
    fn accept_tls_in_crumbs(&mut self, certificate: &str) {
        let socket = self.socket.as_ref().unwrap().try_clone().unwrap();
        let crumbs = super::tls::Dripping(socket, Duration::ZERO);
        let accepted = super::tls::acceptor(certificate).accept(crumbs);
        self.stream = Some(Box::new(accepted.expect("the handshake failed")));
    }

    /// Performs a handshake with one octet per DRIP; the client has to abort it.
    #[cfg(any(feature = "native-tls", feature = "rustls"))]
    pub fn drip_tls(&mut self) {
        let socket = self.socket.as_ref().unwrap().try_clone().unwrap();
        let accepted = super::tls::acceptor("good").accept(super::tls::Dripping(socket, DRIP));
        assert!(accepted.is_err(), "the client waited for the handshake to end");
        self.gone = true;
    }

    /// Checks that nothing more arrives, and returns everything that was received.
    pub(super) fn end(mut self) -> Vec<u8> {
        if self.stream.is_some() && !self.gone {
            while self.inbox.is_empty() && self.fill() {}
            assert!(self.inbox.is_empty(), "the client continued, and sent {}", shown(&self.inbox));
        }
        self.heard
    }
}

/// Formats octets for the message of a failed test.
fn shown(bytes: &[u8]) -> String {
    let more = if bytes.len() > 300 { " …" } else { "" };
    format!("\"{}\"{more}", bytes[..bytes.len().min(300)].escape_ascii())
}

/// Replaces `\n`, `\r`, `\0` and `\xe9` in a script with the octets that they stand for.
fn unescape(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'\\' => match rest.next() {
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b'0') => 0,
                Some(b'x') => {
                    let mut digit = || char::from(rest.next().unwrap()).to_digit(16).unwrap() as u8;
                    digit() * 16 + digit()
                }
                other => panic!("unknown escape {other:?} in {text:?}"),
            },
            octet => octet,
        });
    }
    octets
}
