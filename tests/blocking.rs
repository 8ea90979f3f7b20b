//! The dialogues with the blocking client, and what only threads can do. `aio.rs` runs the same dialogues with the
//! async client.

use std::{
    io::{self, Read},
    net::TcpStream,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use postino::{
    Builder, Client, Delivery, Error, Failover, Mailer, NoTimeouts, Outcome, Phase, Pool, Raw, Retrying,
    StopHandle, Transport, send,
};

mod dialogue;
mod support;

use self::{
    dialogue::{assert_open, builder, cause, connect, envelope, mail},
    support::{BlackHole, PATIENCE, Server},
};

/// With the blocking client, a "future" is already its value.
fn block_on<T>(value: T) -> T {
    value
}

#[cfg(feature = "testing")]
fn client_of(server: &postino::testing::Server) -> Builder {
    server.client_builder()
}

/// The caller's connection, in the form that the blocking client needs.
fn tcp(socket: TcpStream) -> impl Transport + 'static {
    socket
}

#[cfg(unix)]
fn unix(socket: std::os::unix::net::UnixStream) -> impl Transport + 'static {
    socket
}

/// The same connection, wrapped so that its addresses are unknown.
fn opaque(socket: TcpStream) -> impl Transport + 'static {
    NoTimeouts::new(socket)
}

/// An in-memory server that floods its client.
#[cfg(all(unix, any(feature = "native-tls", feature = "rustls")))]
mod flooding {
    use super::*;
    use crate::support::tls::flood::Flood;

    pub fn over(flood: Flood) -> impl Transport + 'static {
        Flooded(flood)
    }

    struct Flooded(Flood);

    impl Transport for Flooded {
        /// Never waits, and ignores the limit: data arrives here only in response to what was written.
        fn receive(&mut self, room: &mut [u8], _: Option<Instant>) -> io::Result<usize> {
            self.0.give(room)
        }

        fn send(&mut self, bytes: &[u8], _: Option<Instant>) -> io::Result<usize> {
            self.0.take(bytes)
        }

        /// Returns at once: there is always something to read.
        fn wait(&mut self, read: bool, _: bool, _: Instant) -> io::Result<()> {
            assert!(read, "waiting to write would never end");
            Ok(())
        }

        fn shutdown(&mut self) {}
    }
}

/// Runs `work`, and stops it from another thread once the server has reached the end of its script.
#[track_caller]
fn stopped_behind<T: Send>(script: &str, work: impl FnOnce(Builder) -> Result<T, Error> + Send) -> Error {
    stopped_between(script, "-- silence", work)
}

/// Like `stopped_behind`, but with a script for what the client may still do after the stop.
#[track_caller]
fn stopped_between<T: Send>(
    script: &str,
    rest: &'static str,
    work: impl FnOnce(Builder) -> Result<T, Error> + Send,
) -> Error {
    let script = script.to_owned();
    let (tell, told) = mpsc::channel();
    let server = Server::running(move |peer| {
        peer.play(&script);
        tell.send(()).unwrap();
        peer.play(rest);
    });
    let stop_handle = StopHandle::new();
    let builder = builder(&server).stop_handle(&stop_handle);
    thread::scope(|scope| {
        let work = scope.spawn(|| work(builder));
        told.recv_timeout(PATIENCE).unwrap();
        let start = Instant::now();
        stop_handle.stop();
        let error = work.join().unwrap().err().unwrap();
        assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
        error
    })
}

#[track_caller]
fn assert_stopped(error: &Error, phase: Phase) {
    assert!(matches!(error, Error::Stopped(at) if *at == phase), "{error:?}");
    assert!(!error.is_transient() && !error.is_permanent() && !error.is_timeout());
}

#[test]
fn a_stop_ends_the_wait_for_a_greeting() {
    let error = stopped_behind("", |builder| builder.connect());
    // The server cannot tell whether the client has already noticed that it is connected.
    assert!(matches!(error, Error::Stopped(Phase::Greeting | Phase::Connect)), "{error:?}");
}

#[test]
fn a_stop_ends_the_wait_for_a_reply_and_nothing_more_is_sent() {
    let error = stopped_behind("-- hello\nC: NOOP", |builder| {
        let mut client = builder.connect()?;
        let error = client.noop().unwrap_err();
        assert_stopped(&client.noop().unwrap_err(), Phase::Noop); // every later call fails, too
        assert_stopped(&client.login("u", "p").unwrap_err(), Phase::Auth);
        assert_stopped(&client.send(&mail()).unwrap_err(), Phase::Mail);
        assert_stopped(&client.reconnect().unwrap_err(), Phase::Connect);
        client.quit()?;
        Err::<(), _>(error)
    });
    assert_stopped(&error, Phase::Noop);
}

#[test]
fn a_stop_after_the_message_leaves_it_in_doubt() {
    let error = stopped_behind("-- hello\n-- envelope\nC: DATA\nS: 354 go on\nC: Hello\nC: .", |builder| {
        builder.connect()?.send(&mail())
    });
    assert_stopped(cause(&error), Phase::End);
    assert!(error.in_doubt() && !error.is_transient());
}

#[test]
fn a_stop_before_the_end_of_the_message_leaves_it_unsent() {
    let error = stopped_behind("-- hello\n-- envelope\nC: DATA", |builder| builder.connect()?.send(&mail()));
    assert_stopped(cause(&error), Phase::Data);
    assert_eq!(error.delivery().map(Delivery::outcome), Some(Outcome::NotSent));
}

#[test]
fn a_stop_ends_a_blocked_write() {
    let (tell, told) = mpsc::channel();
    let server = Server::cramped(move |peer| {
        peer.play("-- hello\n-- envelope\nC: DATA\nS: 354 go on");
        told.recv_timeout(PATIENCE).unwrap(); // stops reading
        peer.ignore();
    });
    let (read, reads) = mpsc::channel();
    /// Endless content that reports each read.
    struct Endless(mpsc::Sender<()>);
    impl Read for Endless {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            self.0.send(()).ok();
            room.fill(b'a');
            Ok(room.len())
        }
    }
    let client = connect(&server);
    let stop_handle = client.stop_handle();
    let sending = thread::spawn(move || {
        let mut client = client;
        client.send(&Raw::reader(envelope(&["bob@example.org"]), Endless(read)))
    });
    // The client is blocked once it no longer reads the content.
    while reads.recv_timeout(Duration::from_millis(500)).is_ok() {}
    stop_handle.stop();
    let error = sending.join().unwrap().unwrap_err();
    assert_stopped(cause(&error), Phase::Body);
    assert_eq!(error.delivery().map(Delivery::outcome), Some(Outcome::NotSent));
    tell.send(()).unwrap();
}

#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn a_stop_ends_a_handshake() {
    // Stops after the first octets of the ClientHello, whose other octets may still arrive.
    let error = stopped_between("-- read 5", "-- ignore", |builder| {
        builder.security(postino::Security::Implicit).connect()
    });
    assert_stopped(&error, Phase::Tls);
    let script = "-- hello STARTTLS\nC: STARTTLS\nS: 220 go ahead\n-- read 5";
    let error = stopped_between(script, "-- ignore", |builder| {
        builder.security(postino::Security::StartTls).connect()
    });
    assert_stopped(&error, Phase::Tls);
}

#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn a_stop_ends_a_wait_in_tls() {
    let error = stopped_behind("-- tls good\n-- hello\nC: NOOP", |builder| {
        let builder = builder.security(postino::Security::Implicit).ca_certificate(support::tls::CA);
        builder.connect()?.noop()
    });
    assert_stopped(&error, Phase::Noop);
}

#[test]
fn a_stop_ends_connecting_and_tries_no_further_addresses() {
    let hole = BlackHole::new();
    let unreached = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let slow = [hole.address(); 100].into_iter().chain([unreached.local_addr().unwrap()]);
    assert_stopped_while_connecting(Client::builder("h").addresses(slow));
    unreached.set_nonblocking(true).unwrap();
    assert_eq!(unreached.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[cfg(unix)]
#[test]
fn a_stop_ends_connecting_to_a_unix_socket() {
    let hole = support::UnixBlackHole::new();
    assert_stopped_while_connecting(Client::unix(&hole.path));
}

#[track_caller]
fn assert_stopped_while_connecting(builder: Builder) {
    let stop_handle = StopHandle::new();
    let builder = builder.stop_handle(&stop_handle).timeout(PATIENCE);
    let start = Instant::now();
    let connecting = thread::spawn(move || builder.connect());
    thread::sleep(Duration::from_millis(100)); // usually long enough to be in the middle of it
    stop_handle.stop();
    assert_stopped(&connecting.join().unwrap().unwrap_err(), Phase::Connect);
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
}

#[test]
fn a_stop_before_connecting_prevents_the_connection() {
    let stop_handle = StopHandle::new();
    stop_handle.stop();
    let error = Client::builder("127.0.0.1").port(9).stop_handle(&stop_handle).connect().unwrap_err();
    assert_stopped(&error, Phase::Connect);
    let server = Server::playing("");
    let socket = TcpStream::connect(server.address()).unwrap();
    let error = Client::builder("h").stop_handle(&stop_handle).connect_over(socket).unwrap_err();
    assert_stopped(&error, Phase::Connect);
}

#[test]
fn a_stop_ends_only_the_clients_that_share_its_handle() {
    let (first, second) = (Server::playing("-- hello"), Server::playing("-- hello"));
    let other = Server::playing("-- hello\nC: NOOP\nS: 250 ok");
    let stop_handle = StopHandle::new();
    let mut clients =
        [&first, &second].map(|server| builder(server).stop_handle(&stop_handle).connect().unwrap());
    let mut stranger = connect(&other);
    stop_handle.stop();
    for client in &mut clients {
        assert!(!client.is_connected());
        assert_stopped(&client.noop().unwrap_err(), Phase::Noop);
    }
    assert_open(&mut stranger);
}

#[test]
fn a_stop_ends_a_connection_supplied_by_the_caller() {
    assert_stopped_over(tcp);
}

#[cfg(unix)]
#[test]
fn a_stop_ends_a_connection_of_the_callers_of_another_type() {
    // A `UnixStream` can wrap the same socket.
    assert_stopped_over(|socket| unix(std::os::fd::OwnedFd::from(socket).into()));
}

#[track_caller]
fn assert_stopped_over<T: Transport + 'static>(over: impl FnOnce(TcpStream) -> T) {
    let (tell, told) = mpsc::channel();
    let server = Server::running(move |peer| {
        peer.play("-- hello\nC: NOOP");
        tell.send(()).unwrap();
    });
    let socket = TcpStream::connect(server.address()).unwrap();
    let mut client = builder(&server).connect_over(over(socket)).unwrap();
    let stop_handle = client.stop_handle();
    let waiting = thread::spawn(move || client.noop());
    told.recv_timeout(PATIENCE).unwrap();
    stop_handle.stop();
    assert_stopped(&waiting.join().unwrap().unwrap_err(), Phase::Noop);
}

#[test]
fn replies_that_have_arrived_are_reported_after_a_stop() {
    let server = Server::playing("-- hello\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let stop_handle = client.stop_handle();
    assert_eq!(client.noop().unwrap().code(), 250);
    stop_handle.stop();
    assert_stopped(&client.noop().unwrap_err(), Phase::Noop);
}

#[test]
fn a_timeout_is_noticed_after_a_read_that_ignored_it() {
    /// A stream whose reads are slow and ignore the limit.
    struct Slow(TcpStream);
    impl Read for Slow {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            thread::sleep(Duration::from_millis(200));
            self.0.read(room)
        }
    }
    impl io::Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }
    let server = Server::playing("S: 220-hi\n-- silence");
    let slow = Slow(TcpStream::connect(server.address()).unwrap());
    // The rest of the greeting never arrives. The limit has passed by the time the first part is read.
    let builder = builder(&server).greeting_timeout(Duration::from_millis(100));
    let error = builder.connect_over(NoTimeouts::new(slow)).unwrap_err();
    assert!(matches!(error, Error::Timeout(Phase::Greeting)), "{error:?}");
}

#[test]
fn a_timeout_of_an_untimed_stream_itself_is_reported_as_a_timeout() {
    let server = Server::playing("-- hello\nC: NOOP");
    let socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut client = builder(&server).connect_over(NoTimeouts::new(socket)).unwrap();
    assert!(client.noop().unwrap_err().is_timeout());
}

/// A transport that accepts no long writes, and records the limit of each wait.
struct Stalling(TcpStream, mpsc::Sender<Instant>);

impl Transport for Stalling {
    fn receive(&mut self, room: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
        self.0.receive(room, until)
    }

    fn send(&mut self, bytes: &[u8], until: Option<Instant>) -> io::Result<usize> {
        match bytes.len() {
            1000.. => Err(io::ErrorKind::WouldBlock.into()),
            _ => self.0.send(bytes, until),
        }
    }

    fn wait(&mut self, _: bool, _: bool, until: Instant) -> io::Result<()> {
        self.1.send(until).unwrap();
        Err(io::ErrorKind::TimedOut.into())
    }

    fn shutdown(&mut self) {
        Transport::shutdown(&mut self.0);
    }
}

#[test]
fn a_stalled_batch_message_is_subject_to_the_content_timeout() {
    for octets in [60_000, 66_000] {
        let envelope_only = "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\n";
        let server = Server::playing(format!(
            "-- hello PIPELINING\n{envelope_only}S: 250 ok\nS: 250 ok\nS: 354 go on\n-- silence"
        ));
        let (tell, told) = mpsc::channel();
        let stalling = Stalling(TcpStream::connect(server.address()).unwrap(), tell);
        let limits = builder(&server).timeout(Duration::from_secs(60));
        let limits = limits.final_reply_timeout(Duration::from_secs(600));
        let mut client = limits.connect_over(stalling).unwrap();
        // Dot-stuffing makes it longer by a third, so the end of the shorter message also fills the outbox.
        let mail = Raw::bytes(envelope(&["bob@example.org"]), b".\r\n".repeat(octets / 3));
        let (_, result) = client.send_all([mail]).next().unwrap();
        let error = result.unwrap_err();
        assert!(matches!(cause(&error), Error::Timeout(Phase::Body)), "{octets}: {error:?}");
        let left = told.recv().unwrap() - Instant::now();
        assert!(left <= Duration::from_secs(60), "{octets}: {left:?}");
    }
}

#[test]
fn a_stop_ends_the_wait_for_a_pooled_connection() {
    let server = Server::playing("-- hello");
    let stop_handle = StopHandle::new();
    let pool = Pool::builder(builder(&server).stop_handle(&stop_handle)).max_connections(1).build().unwrap();
    let held = pool.client().unwrap();
    let start = Instant::now();
    let waiting = thread::spawn({
        let pool = pool.clone();
        move || pool.client().map(drop)
    });
    thread::sleep(Duration::from_millis(50)); // by now, it is usually waiting
    stop_handle.stop();
    assert_stopped(&waiting.join().unwrap().unwrap_err(), Phase::Pool);
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    drop(held);
}

// Behaviours 18 to 20.
#[test]
fn a_session_ends_with_quit_whatever_its_code_returns() {
    let script = "-- hello\nC: NOOP\nS: 250 ok\nC: QUIT\nS: 221 bye\n-- close";
    for fails in [false, true] {
        let server = Server::playing(script);
        let result = builder(&server).session(|client| {
            client.noop()?;
            if fails { Err(Error::NoRecipients) } else { Ok(client.connection_number()) }
        });
        assert!(if fails { matches!(result, Err(Error::NoRecipients)) } else { result.is_ok() });
        server.finish();
    }
}

#[test]
fn a_session_whose_connection_is_lost_or_closed_sends_no_quit() {
    for (script, quits) in
        [("-- hello\nC: NOOP\n-- close", false), ("-- hello\nC: QUIT\nS: 221 bye\n-- close", true)]
    {
        let server = Server::playing(script);
        let result =
            builder(&server).session(|client| if quits { client.quit() } else { client.noop().map(drop) });
        assert!(if quits { result.is_ok() } else { matches!(result, Err(Error::Closed(_))) }, "{result:?}");
        server.finish();
    }
    let server = Server::playing("S: 554 no");
    let result = builder(&server).session(|_| -> Result<(), Error> { panic!("there is no connection") });
    assert!(matches!(result, Err(Error::Refused { .. })));
}
