//! A whole session against any server: connect, log in, send, send many, quit.
//!
//! The first line of the input are switches, a letter each (see [`builder`]). The rest is what the server says, cut by
//! `~`: a piece comes when the client waits for it, whole. One that begins with `^` comes unasked, as soon as the one before
//! it is read; one that is `!` is a reset, one that is `?` is silence. Behind the last one it hangs up.
#![no_main]

use std::{
    cell::Cell,
    collections::VecDeque,
    error::Error as _,
    io::{self, Cursor, ErrorKind},
    sync::{Arc, Mutex, OnceLock},
    time::Instant,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use libfuzzer_sys::fuzz_target;
use postino::{Builder, Client, Delivery, Envelope, Error, JoinPolicy, Outcome, Raw, Security, Transport};
use postino_fuzz::{
    has,
    walk::{Attempt, Walk},
};

const SECRET: &str = "pa55-w0rd";
/// What would be commands, if a part of it could end the message; and what has to be encoded.
const CONTENT: &[u8] = b"Subject: =?utf-8?q?=C3=BC?=\nX: y\r\n\r\n.\r\n.\nMAIL FROM:<evil@example.org>\r.\r\nRSET\r\n\r\n..\nend";

fuzz_target!(|input: &[u8]| {
    let (switches, script) =
        input.split_at(input.iter().position(|b| *b == b'\n').map_or(input.len(), |at| at + 1));
    let on = |letter: u8| switches.contains(&letter);
    let wire = Wire::new(switches, script);
    // The server's own words, put together.
    let words: Vec<u8> = script.iter().copied().filter(|b| !matches!(b, b'~' | b'^')).collect();
    let log = Log::begin(has(&words, SECRET.as_bytes()) || has(&words, BASE64.encode(SECRET).as_bytes()));

    let mut results = Vec::new();
    let connected = builder(switches).connect_over(wire.clone());
    let failed = match connected {
        Ok(mut client) => {
            talk(&mut client, on(b'h'), on(b'r'), &mut results);
            assert!(client.quit().is_ok() && !client.is_connected());
            assert!(log.tainted || !format!("{client:?}").contains(SECRET));
            None
        }
        Err(error) => Some(error),
    };
    log.end();

    let errors = failed.iter().chain(results.iter().filter_map(|(_, result)| result.as_ref().err()));
    errors.for_each(|error| check_error(error, log.tainted));
    let wire = wire.0.lock().expect("nobody panicked");
    let walk = Walk::new(&wire.said, &wire.heard, on(b'l'));
    if !on(b'd') && !on(b'L') {
        assert!(!walk.auth, "credentials went out where others can listen");
        assert!(!has(&wire.said, SECRET.as_bytes()) && !has(&wire.said, BASE64.encode(SECRET).as_bytes()));
    }
    if on(b'u') || on(b'o') {
        assert!(walk.auth || walk.attempts.is_empty(), "mail went out without a login");
    }
    if on(b's') {
        assert!(walk.attempts.is_empty(), "mail went out without TLS");
    }
    results.iter().for_each(|(number, result)| check_result(*number, result, &walk));
});

/// `s` TLS is required, `t` it is not wanted, `u` a user and a password, `o` a token, `d` they may go in clear, `l` LMTP,
/// `b` BDAT, `p` no pipelining, `j` no joining, `a` all or nothing.
fn builder(switches: &[u8]) -> Builder {
    // Its TLS connector is shared: to build it takes most of the time.
    static BASE: OnceLock<Builder> = OnceLock::new();
    let base = BASE.get_or_init(|| {
        let ca = include_str!("../../tests/support/certs/ca.pem");
        Client::builder("mail.example.org")
            .ca_certificate(ca)
            .system_roots(false)
            .hello_name("client.example.org")
    });
    let on = |letter: u8| switches.contains(&letter);
    let security = match (on(b's'), on(b't')) {
        (true, _) => Security::StartTls,
        (_, true) => Security::Plaintext,
        _ => Security::Auto,
    };
    let mut builder = base.clone().security(security);
    if on(b'u') {
        builder = builder.credentials("user", SECRET);
    } else if on(b'o') {
        builder = builder.oauth_token("user", SECRET);
    }
    builder
        .danger_plaintext_credentials(on(b'd'))
        .lmtp(on(b'l'))
        .chunking(on(b'b'))
        .pipelining(!on(b'p'))
        .join_envelopes(if on(b'j') { JoinPolicy::Never } else { JoinPolicy::Always })
        .all_or_nothing(on(b'a'))
        .max_scram_iterations(4_100)
}

type Results = Vec<(usize, Result<Delivery, Error>)>;

fn talk(client: &mut Client, by_hand: bool, reader: bool, results: &mut Results) {
    if by_hand {
        let _ = client.noop();
        let _ = client.vrfy("al<ice>", &[]);
        let _ = client.help("");
        let _ = client.mail("m9@example.org", &[]).and_then(|_| client.rcpt("r0@example.org", &[]));
        let _ = client.data(CONTENT);
    }
    let content = |number| match reader {
        true => Raw::reader(envelope(number), Cursor::new(CONTENT)),
        false => Raw::bytes(envelope(number), CONTENT),
    };
    results.push((0, client.send(&content(0))));
    let many = client.send_all((1..4).map(content)).map(|(number, result)| (number + 1, result));
    results.extend(many);
    assert!(
        (0..results.len()).eq(results.iter().map(|(number, _)| *number)),
        "each has one result, in order"
    );
    let is_lost = |result: &Result<Delivery, Error>| {
        let delivery = result.as_ref().err().and_then(Error::delivery);
        delivery.is_some_and(|delivery| delivery.outcome() != Outcome::Refused)
    };
    let told = results.iter().skip(1).any(|(_, result)| is_lost(result));
    assert!(told || results.len() == 4, "a batch that ends early tells why");
}

/// The sender tells which message it is.
fn envelope(number: usize) -> Envelope {
    Envelope::new(&format!("m{number}@example.org"), ["r0@example.org", "r1@example.org"])
        .expect("they are good")
}

/// What the client believes is what was said on the wire.
fn check_result(number: usize, result: &Result<Delivery, Error>, walk: &Walk) {
    let attempts: Vec<&Attempt> =
        walk.attempts.iter().filter(|attempt| attempt.sender == format!("m{number}@example.org")).collect();
    let delivery = match result {
        Ok(delivery) => delivery,
        Err(Error::Transaction { delivery, .. }) => delivery,
        Err(_) => {
            assert!(
                attempts.iter().all(|attempt| !attempt.ended),
                "{number}: it may have arrived: {result:?}"
            );
            return;
        }
    };
    let outcomes: Vec<Outcome> = delivery.recipients().map(|recipient| recipient.outcome()).collect();
    assert_eq!(outcomes.len(), 2);
    assert_eq!(result.is_ok(), outcomes.contains(&Outcome::Accepted), "{result:?}");
    for recipient in delivery.recipients() {
        let name = recipient.address().as_str();
        let accepted = attempts.iter().any(|attempt| attempt.was_accepted(name));
        let times = attempts.iter().filter(|attempt| attempt.may_have(name)).count();
        assert!(times <= 1, "{number}: it was sent {times} times: {recipient:?}");
        match recipient.outcome() {
            Outcome::Accepted => {
                assert!(accepted, "{number}: no positive reply was sent for {recipient:?}");
                assert!(recipient.reply().is_some_and(|reply| reply.is_positive()));
            }
            Outcome::Refused => {
                assert!(!accepted, "{number}: it was accepted: {recipient:?}");
                assert!(recipient.reply().is_some_and(|reply| reply.code() >= 400));
            }
            Outcome::NotSent => assert_eq!(times, 0, "{number}: it was sent: {recipient:?}"),
            _ => assert!(!attempts.is_empty(), "{number}: in doubt, and never said"),
        }
    }
}

fn check_error(error: &Error, tainted: bool) {
    let mut text = format!("{error:?} {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        text += &cause.to_string();
        source = cause.source();
    }
    assert!(
        tainted && !matches!(error, Error::Auth { .. }) || !text.contains(SECRET),
        "a secret in an error: {text}"
    );
}

/// Looks at every line of the log.
#[derive(Clone, Copy)]
struct Log {
    /// The server's own words hold the secret, and may stand in the log where nothing was to be masked.
    tainted: bool,
}

thread_local!(static TAINTED: Cell<bool> = const { Cell::new(true) });

impl Log {
    fn begin(tainted: bool) -> Log {
        static ONCE: OnceLock<()> = OnceLock::new();
        ONCE.get_or_init(|| {
            log::set_logger(&Log { tainted: false }).expect("there is no other");
            log::set_max_level(log::LevelFilter::Trace);
        });
        TAINTED.set(tainted);
        Log { tainted }
    }

    fn end(self) {
        TAINTED.set(true);
    }
}

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if !TAINTED.get() {
            let line = record.args().to_string();
            assert!(
                !line.contains(SECRET) && !line.contains(&BASE64.encode(SECRET)),
                "a secret in the log: {line}"
            );
            assert!(!line.contains('\n') && !line.contains('\x1b'), "a line of the log is not one: {line:?}");
        }
    }

    fn flush(&self) {}
}

/// The server's end, in memory: nothing waits.
#[derive(Clone)]
struct Wire(Arc<Mutex<Server>>);

struct Server {
    pieces: VecDeque<Vec<u8>>,
    /// What has come, and was not read yet.
    arrived: VecDeque<u8>,
    /// All that the client has said, and has read.
    said: Vec<u8>,
    heard: Vec<u8>,
    /// `w`: a write takes one octet; `k`: every other one would have to wait.
    slow: bool,
    blocks: bool,
    blocked: bool,
    is_local: bool,
    gone: bool,
    /// Calls that are left until it counts as a hang.
    patience: usize,
}

impl Wire {
    fn new(switches: &[u8], script: &[u8]) -> Wire {
        let on = |letter: u8| switches.contains(&letter);
        Wire(Arc::new(Mutex::new(Server {
            pieces: script.split(|b| *b == b'~').map(<[u8]>::to_vec).collect(),
            arrived: VecDeque::new(),
            said: Vec::new(),
            heard: Vec::new(),
            slow: on(b'w'),
            blocks: on(b'k'),
            blocked: false,
            is_local: on(b'L'),
            gone: false,
            patience: 100_000 + 10 * script.len(),
        })))
    }
}

impl Server {
    fn called(&mut self) {
        self.patience = self.patience.checked_sub(1).expect("it goes round and round");
    }

    /// The next piece comes.
    fn wait(&mut self) -> io::Result<()> {
        self.unasked();
        if !self.arrived.is_empty() || self.gone {
            return Ok(());
        }
        match self.pieces.pop_front().as_deref() {
            None => self.gone = true,
            Some(b"!") => {
                self.gone = true;
                self.pieces.clear();
                return Err(ErrorKind::ConnectionReset.into());
            }
            Some(b"?") => return Err(ErrorKind::TimedOut.into()),
            Some(piece) => self.arrived.extend(piece),
        }
        Ok(())
    }

    fn unasked(&mut self) {
        while self.arrived.is_empty() && self.pieces.front().is_some_and(|piece| piece.starts_with(b"^")) {
            self.arrived.extend(self.pieces.pop_front().into_iter().flatten().skip(1));
        }
    }
}

impl Transport for Wire {
    fn receive(&mut self, room: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
        let mut server = self.0.lock().expect("nobody panicked");
        server.called();
        server.unasked();
        while server.arrived.is_empty() && !server.gone {
            let Some(_) = until else { return Err(ErrorKind::WouldBlock.into()) };
            server.wait()?;
        }
        let n = room.len().min(server.arrived.len());
        room[..n].iter_mut().for_each(|b| *b = server.arrived.pop_front().expect("there are as many"));
        server.heard.extend_from_slice(&room[..n]);
        Ok(n)
    }

    fn send(&mut self, bytes: &[u8], until: Option<Instant>) -> io::Result<usize> {
        let mut server = self.0.lock().expect("nobody panicked");
        server.called();
        if server.gone {
            return Err(ErrorKind::BrokenPipe.into());
        }
        server.blocked = server.blocks && !server.blocked;
        if server.blocked && until.is_none() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let n = if server.slow { bytes.len().min(1) } else { bytes.len() };
        server.said.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn wait(&mut self, read: bool, write: bool, _: Instant) -> io::Result<()> {
        let mut server = self.0.lock().expect("nobody panicked");
        server.called();
        match read && !write {
            true => server.wait(),
            false => Ok(()),
        }
    }

    fn shutdown(&mut self) {
        self.0.lock().expect("nobody panicked").gone = true;
    }

    fn is_local(&self) -> bool {
        self.0.lock().expect("nobody panicked").is_local
    }
}
