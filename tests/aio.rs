//! The dialogues with the async client, and what only futures can do. `blocking.rs` runs the same dialogues with the
//! blocking client.
#![cfg(feature = "async")]

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    io::{self, Read},
    net::TcpStream,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use postino::{
    Delivery, Envelope, Error, Mail, Outcome, Raw,
    aio::{Builder, Client, Failover, Mailer, Pool, Retrying, send},
    auth::Credentials,
};
use smol::{
    Async, block_on,
    future::zip,
    io::{AsyncRead, AsyncWrite, BufReader, BufWriter, ReadHalf, WriteHalf, split},
};

mod dialogue;
mod support;

use self::{
    dialogue::{assert_closed, assert_open, builder, connect, envelope, mail, numbered},
    support::{PATIENCE, Peer, Script, Server},
};

fn assert_send<T: Send>(future: T) -> T {
    future
}

#[cfg(feature = "testing")]
fn client_of(server: &postino::testing::Server) -> Builder {
    server.aio_client_builder()
}

/// The caller's connection, in the form that the async client needs.
fn tcp(socket: TcpStream) -> impl AsyncRead + AsyncWrite + Send + 'static {
    Async::new(socket).unwrap()
}

#[cfg(unix)]
fn unix(socket: std::os::unix::net::UnixStream) -> impl AsyncRead + AsyncWrite + Send + 'static {
    Async::new(socket).unwrap()
}

/// The same connection, wrapped so that its addresses are unknown.
fn opaque(socket: TcpStream) -> impl AsyncRead + AsyncWrite + Send + 'static {
    BufReader::new(Async::new(socket).unwrap())
}

/// An in-memory server that floods its client.
#[cfg(all(unix, any(feature = "native-tls", feature = "rustls")))]
mod flooding {
    use super::*;
    use crate::support::tls::flood::{Flood, Record, Stage};

    pub fn over(flood: Flood) -> impl AsyncRead + AsyncWrite + Send + 'static {
        Flooded(flood)
    }

    struct Flooded(Flood);

    /// Turns `WouldBlock` into `Pending`. No waker is kept: data arrives here only in response to what was written.
    fn pending(moved: io::Result<usize>) -> Poll<io::Result<usize>> {
        match moved {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            done => Poll::Ready(done),
        }
    }

    impl AsyncRead for Flooded {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
            pending(self.get_mut().0.give(room))
        }
    }

    impl AsyncWrite for Flooded {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            pending(self.get_mut().0.take(bytes))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn tls_records_without_content_do_not_starve_the_executor() {
        // rustls limits the number of KeyUpdates.
        let record = if cfg!(feature = "native-tls") { Record::KeyUpdate } else { Record::Ticket };
        leave_the_executor_to_others(&dialogue::floods::flooded(), record);
        #[cfg(all(feature = "native-tls", feature = "rustls"))]
        leave_the_executor_to_others(&dialogue::with_rustls::floods::flooded(), Record::Ticket);
    }

    #[track_caller]
    fn leave_the_executor_to_others(builder: &Builder, record: Record) {
        for at in [Stage::Handshake, Stage::Idle, Stage::Reply] {
            let mut trials = (0..dialogue::floods::TRIALS).map(|_| polls_of_a_flood(builder, at, record));
            assert!(trials.any(|polls| polls > 5), "{at:?}: the flood never began");
        }
    }

    /// Returns the number of polls of a call that ends at its deadline. None of them lasts long.
    #[track_caller]
    fn polls_of_a_flood(builder: &Builder, at: Stage, record: Record) -> usize {
        let limit = match (at, record) {
            (Stage::Handshake, _) => Duration::from_millis(25),
            (_, Record::KeyUpdate) => Duration::from_millis(100),
            (_, Record::Ticket) => Duration::from_millis(1000), // more work for both sides
        };
        let server = Flood::new(at, record, 100 * limit);
        let steps = server.steps();
        let builder = builder.clone().deadline(limit);
        let mut call = pin!(async { builder.connect_over(over(server)).await?.noop().await.map(drop) });
        let (mut polls, mut most) = (0, 0);
        let counted = poll_fn(|cx| {
            let before = steps.load(Ordering::Relaxed);
            let result = call.as_mut().poll(cx);
            polls += 1;
            most = most.max(steps.load(Ordering::Relaxed) - before);
            result
        });
        assert!(block_on(counted).unwrap_err().is_timeout());
        // Several operations run in one poll: a non-blocking read, a write, a read.
        assert!(most < 300, "{at:?}: up to {most} steps in one of {polls} polls");
        polls
    }
}

/// A server that can always be written to, and accepts everything.
struct Roomy {
    replies: VecDeque<u8>,
    in_content: bool,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Roomy {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let replies = &mut self.get_mut().replies;
        if replies.is_empty() { Poll::Pending } else { Poll::Ready(replies.read(room)) }
    }
}

impl AsyncWrite for Roomy {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.writes.fetch_add(1, Ordering::Relaxed);
        let reply: &[u8] = match this.in_content {
            true if !bytes.ends_with(b".\r\n") => b"", // no line of the content ends like this
            false if bytes == b"DATA\r\n" => b"354 go on\r\n",
            _ => b"250 ok\r\n",
        };
        this.in_content = matches!(reply.first(), None | Some(b'3'));
        this.replies.extend(reply);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
fn a_server_that_is_always_writable_does_not_starve_the_executor() {
    let writes = Arc::new(AtomicUsize::new(0));
    let replies = b"220 mail.example.org\r\n".iter().copied().collect();
    let server = Roomy { replies, in_content: false, writes: writes.clone() };
    let builder = Client::builder("h").security(postino::Security::Plaintext);
    let mut client = block_on(builder.connect_over(server)).unwrap();
    let text = [&[b'x'; 1022][..], b"\r\n"].concat().repeat(16 * 1024);
    let mail = Raw::bytes(envelope(&["bob@example.org"]), &text);
    let mut send = pin!(client.send(&mail));
    let (mut polls, mut most) = (0, 0);
    let counted = poll_fn(|cx| {
        let before = writes.load(Ordering::Relaxed);
        let result = send.as_mut().poll(cx);
        polls += 1;
        most = most.max(writes.load(Ordering::Relaxed) - before);
        result
    });
    assert_eq!(block_on(counted).unwrap().outcome(), Outcome::Accepted);
    assert!(polls > 10 && most < 30, "up to {most} writes in one of {polls} polls");
}

#[test]
fn a_refusal_is_noticed_while_a_reader_hangs() {
    struct Hanging(mpsc::Receiver<()>);

    impl Read for Hanging {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            let _end = self.0.recv_timeout(PATIENCE);
            Ok(0)
        }
    }

    let server = Server::playing("-- hello\n-- envelope\nC: DATA\nS: 354 go on\nS: 421 shutting down");
    let (release, released) = mpsc::channel();
    let mail = Raw::reader(envelope(&["bob@example.org"]), Hanging(released));
    let mut client = connect(&server);
    let error = block_on(client.send(&mail)).unwrap_err();
    let _given_up = release.send(());
    assert_eq!(error.reply().unwrap().code(), 421);
}

#[test]
fn the_result_of_a_dropped_send_includes_the_transactions_before() {
    let (heard, second) = smol::channel::bounded(1);
    let server = Server::running(move |peer| {
        peer.play("-- hello LIMITS RCPTMAX=1\n-- envelope\nC: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 250 ok");
        peer.play("C: MAIL FROM:<alice@example.org>");
        heard.send_blocking(()).unwrap();
        peer.ignore();
    });
    let mut client = connect(&server);
    let mail = dialogue::mail_to(&["bob@example.org", "carol@example.org", "dave@example.org"]);
    let send = async { Some(client.send(&mail).await) };
    let result =
        block_on(smol::future::or(send, async { second.recv().await.err().map(|_| unreachable!()) }));
    assert!(result.is_none(), "{result:?}");
    let delivery = client.interrupted().expect("a message was interrupted").unwrap();
    let outcomes: Vec<_> = delivery.recipients().map(|recipient| recipient.outcome()).collect();
    assert_eq!(outcomes, [Outcome::Accepted, Outcome::NotSent, Outcome::NotSent]);
    assert_closed(&mut client);
    drop(client);
    server.finish();
}

#[test]
fn every_future_is_send() {
    let server = Server::playing("-- hello");
    let (mail, builder) = (mail(), builder(&server));
    let mut client = block_on(assert_send(builder.connect())).unwrap();
    drop(assert_send(client.send(&mail)));
    drop(assert_send(client.noop()));
    drop(assert_send(client.rset()));
    drop(assert_send(client.login("user", "secret")));
    drop(assert_send(client.ehlo(None)));
    drop(assert_send(client.helo(Some("me"))));
    drop(assert_send(client.mail("a@b", &["SIZE=1"])));
    drop(assert_send(client.rcpt("a@b", &[])));
    drop(assert_send(client.data("Hello")));
    drop(assert_send(client.vrfy("bob", &[])));
    drop(assert_send(client.expn("list", &[])));
    drop(assert_send(client.help("")));
    drop(assert_send(client.command("XYZZY")));
    drop(assert_send(client.starttls()));
    drop(assert_send(client.auth("PLAIN", &Credentials::new("user", "secret").unwrap())));
    drop(assert_send(client.next_call_deadline(PATIENCE).noop()));
    let mut batch = client.send_all([numbered(1)]);
    drop(assert_send(batch.next()));
    drop(assert_send(batch.finish()));
    drop(assert_send(client.quit()));
    drop(assert_send(client.reconnect()));
    drop(assert_send(builder.connect_over(tcp(support::pair().0))));
    drop(assert_send(builder.send(&mail)));
    drop(assert_send(send("smtp://localhost", &mail)));
}

const TRANSACTION: &str = "C: MAIL FROM:<alice@example.org>
     S: 250 ok
     C: RCPT TO:<bob@example.org>
     S: 250 ok
     C: DATA
     -- pause
     S: 354 go on
     C: Hello
     C: .
     -- pause
     S: 250 ok\n";

const FLIGHT: &str = "C: MAIL FROM:<alice@example.org>
     C: RCPT TO:<bob@example.org>
     C: DATA
     -- pause
     S: 250 ok
     S: 250 ok
     S: 354 go on
     C: Hello
     C: .
     -- pause
     S: 250 ok\n";

#[test]
fn tokio_can_drive_a_client() {
    let server = Server::playing(format!("-- hello\n{TRANSACTION}C: QUIT\nS: 221 bye"));
    let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tokio.block_on(async {
        let mut client = builder(&server).connect().await.unwrap();
        assert_eq!(client.send(&mail()).await.unwrap().outcome(), Outcome::Accepted);
        client.quit().await.unwrap();
    });
}

#[test]
fn a_send_can_run_as_a_tokio_task() {
    let server = Server::playing(format!("-- hello PIPELINING, CHUNKING\n{FLIGHT}C: QUIT"));
    let builder = builder(&server);
    let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let task = tokio.spawn(async move { builder.send(&mail()).await });
    let delivery: Delivery = tokio.block_on(task).unwrap().unwrap();
    assert_eq!(delivery.outcome(), Outcome::Accepted);
}

#[test]
fn timeouts_work_under_tokio() {
    let server = Server::playing("-- silence");
    let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let builder = builder(&server).timeout(Duration::from_millis(100));
    assert!(tokio.block_on(builder.connect()).unwrap_err().is_timeout());
}

#[test]
fn a_future_may_move_to_another_task_between_polls() {
    let server = Server::playing(format!("-- pause\n-- hello\n-- pause\n{TRANSACTION}"));
    let builder = builder(&server);
    let mut connect = Box::pin(builder.connect());
    assert!(connect.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let mut client = block_on(connect).unwrap();
    let mail = mail();
    let mut sending = Box::pin(client.send(&mail));
    assert!(sending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    block_on(sending).map(drop).unwrap();
}

// Behaviour 90.
#[test]
fn clients_on_one_thread_do_not_wait_for_each_other() {
    let (tell, told) = mpsc::channel();
    let slow = Server::running(move |peer| {
        peer.play("-- hello\nC: NOOP");
        told.recv_timeout(PATIENCE).unwrap(); // until the other call is done
        peer.play("S: 250 ok");
    });
    let quick = Server::playing(format!("-- hello\n{TRANSACTION}"));
    let (mut one, mut other) = (connect(&slow), connect(&quick));
    let (noop, ()) = block_on(zip(one.noop(), async {
        other.send(&mail()).await.map(drop).unwrap();
        tell.send(()).unwrap();
    }));
    noop.unwrap();
}

/// A reader that waits until it is told to continue, and then ends.
struct Waits(mpsc::Receiver<()>);

impl Read for Waits {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        self.0.recv_timeout(PATIENCE).map(|()| 0).map_err(std::io::Error::other)
    }
}

#[test]
fn a_blocked_reader_does_not_block_the_thread() {
    let server = Server::playing(format!("-- hello\n{}", TRANSACTION.replace("C: Hello", "C:")));
    let (tell, told) = mpsc::channel();
    let mail = Raw::reader(envelope(&["bob@example.org"]), Waits(told));
    let mut client = connect(&server);
    let (sent, ()) = block_on(zip(client.send(&mail), async {
        smol::future::yield_now().await;
        tell.send(()).unwrap();
    }));
    sent.map(drop).unwrap();
}

#[test]
fn a_blocked_reader_is_abandoned_at_the_deadline() {
    let server = Server::playing("-- hello\n-- envelope\nC: DATA\nS: 354 go on\n-- ignore");
    let (tell, told) = mpsc::channel();
    let mail = Raw::reader(envelope(&["bob@example.org"]), Waits(told));
    let mut client = block_on(builder(&server).deadline(Duration::from_secs(1)).connect()).unwrap();
    let error = block_on(client.send(&mail)).unwrap_err();
    assert!(error.is_timeout() && !error.in_doubt(), "{error:?}");
    assert_closed(&mut client);
    drop(tell);
}

/// Polls a future this many times, and then drops it. Returns `None` if it did not complete.
async fn dropped_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Pending if left == 0 => Poll::Ready(None),
            polled => polled.map(Some),
        }
    })
    .await
}

/// Plays the script until the client leaves.
fn leaving(script: String) -> Server {
    Server::running(move |peer: &mut Peer| {
        peer.may_leave = true;
        peer.play(&script);
    })
}

/// Drops a send at each of its polls. The server must never receive anything but a prefix of `wire`, and the
/// client must never send anything again.
fn drop_at_every_poll(
    hello: &str,
    transaction: &str,
    how: impl Fn(Builder) -> Builder,
    mail: &Raw<'_>,
    wire: &[u8],
) {
    for polls in 0.. {
        let script = if polls == 0 { "C: NOOP\nS: 250 ok" } else { transaction };
        let server = leaving(format!("{hello}\n{script}"));
        let mut client = block_on(how(builder(&server)).connect()).unwrap();
        let done = block_on(dropped_after(polls, client.send(mail)));
        match (polls, &done) {
            (0, _) => assert_open(&mut client), // nothing had begun
            (_, None) => assert_closed(&mut client),
            (_, Some(result)) => assert!(result.is_ok(), "{result:?}"),
        }
        drop(client);
        let heard = server.finish();
        let start = heard.windows(4).position(|bytes| bytes == b"MAIL").unwrap_or(heard.len());
        assert!(wire.starts_with(&heard[start..]), "after {polls} polls: {}", heard[start..].escape_ascii());
        if done.is_some() {
            assert!(polls > 1, "it was never dropped on its way");
            assert_eq!(heard.len() - start, wire.len());
            return;
        }
    }
}

/// The server accepts one recipient of three. The future is dropped while the second one waits for the reply to its
/// message.
// Threat 81.
#[test]
fn a_split_message_whose_next_is_dropped_has_an_outcome_per_recipient() {
    use Outcome::{Accepted, InDoubt, NotSent};
    for (answer, second) in [("S: 250 taken", Accepted), ("-- close", InDoubt)] {
        let (tell, told) = mpsc::channel();
        let server = Server::running(move |peer: &mut Peer| {
            peer.play(
                "-- hello PIPELINING
                 C: MAIL FROM:<alice@example.org>
                 C: RCPT TO:<a@example.org>
                 C: RCPT TO:<b@example.org>
                 C: RCPT TO:<c@example.org>
                 C: DATA
                 S: 250 ok
                 S: 250 ok
                 S: 452 4.5.3 too many
                 S: 452 4.5.3 too many
                 S: 354 go on
                 C: Hello
                 C: .
                 S: 250 taken
                 C: MAIL FROM:<alice@example.org>
                 C: RCPT TO:<b@example.org>
                 C: DATA
                 S: 250 ok
                 S: 250 ok
                 S: 354 go on
                 C: Hello
                 C: .",
            );
            tell.send(()).unwrap();
            peer.play(&format!("-- pause\n-- pause\n{answer}"));
        });
        let mut client = connect(&server);
        let to = ["a@example.org", "b@example.org", "c@example.org"];
        let mail = Raw::bytes(envelope(&to), b"Hello\r\n");
        let mut batch = client.send_all([mail.on_progress(|_, _| {})]); // this makes the client read its content
        let cut = async {
            while told.try_recv().is_err() {
                smol::Timer::after(Duration::from_millis(5)).await;
            }
            None
        };
        assert!(block_on(smol::future::or(async { Some(batch.next().await) }, cut)).is_none());
        let (_, result) = block_on(batch.next()).unwrap();
        let delivery = result.as_ref().unwrap_or_else(|e| e.delivery().unwrap());
        let each: Vec<_> = delivery.recipients().map(|r| (r.address().as_str(), r.outcome())).collect();
        assert_eq!(each, [(to[0], Accepted), (to[1], second), (to[2], NotSent)]);
        assert!(block_on(batch.next()).is_none());
    }
}

const WIRE: &[u8] = b"MAIL FROM:<alice@example.org>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\nHello\r\n.\r\n";

// Threat 81.
#[test]
fn a_send_dropped_at_any_poll_leaves_the_client_disconnected() {
    drop_at_every_poll("-- hello", TRANSACTION, |builder| builder, &mail(), WIRE);
}

#[test]
fn after_a_dropped_send_only_the_trait_connects_again() {
    let dropped = |peer: &mut Peer| {
        peer.may_leave = true;
        peer.play(&format!("-- hello\n{TRANSACTION}"));
    };
    let accepted = |peer: &mut Peer| peer.play(&format!("-- hello\n{TRANSACTION}"));
    let server = Server::running_in_turn(vec![Box::new(dropped) as Script, Box::new(accepted)]);
    let mut client = connect(&server);
    assert!(block_on(dropped_after(1, client.send(&mail()))).is_none());
    assert!(matches!(block_on(client.send(&mail())), Err(Error::NotConnected)));
    block_on(Mailer::send(&mut client, &mail())).unwrap();
}

// Threat 81.
#[test]
fn a_pipelined_send_dropped_at_any_poll_leaves_the_client_disconnected() {
    drop_at_every_poll("-- hello PIPELINING", FLIGHT, |builder| builder, &mail(), WIRE);
}

// Threat 81.
#[test]
fn a_send_dropped_within_its_body_sends_only_a_prefix() {
    let body = b"0123456789abcdef0123456789abcd\r\n".repeat(1 << 15);
    let wire = [WIRE.strip_suffix(b"Hello\r\n.\r\n").unwrap(), &body, b".\r\n"].concat();
    let transaction = "-- envelope\nC: DATA\n-- pause\nS: 354 go on\n-- body\nS: 250 ok";
    let mail = Raw::bytes(envelope(&["bob@example.org"]), &body);
    drop_at_every_poll("-- hello", transaction, |builder| builder, &mail, &wire);
}

// Threat 81.
#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn a_send_in_tls_dropped_at_any_poll_leaves_the_client_disconnected() {
    let implicit =
        |builder: Builder| builder.security(postino::Security::Implicit).ca_certificate(support::tls::CA);
    drop_at_every_poll("-- tls good\n-- hello", TRANSACTION, implicit, &mail(), WIRE);
}

/// Drops the future of a connect at each of its polls.
fn drop_connecting(script: &str, how: impl Fn(Builder) -> Builder) {
    for polls in 0.. {
        // A future that was never polled does not connect at all.
        let server = (polls > 0).then(|| leaving(script.to_owned()));
        let builder = match &server {
            Some(server) => how(builder(server)),
            None => Client::builder("127.0.0.1").port(9),
        };
        if let Some(done) = block_on(dropped_after(polls, builder.connect())) {
            assert!(polls > 1, "it was never dropped on its way");
            done.map(drop).unwrap();
            return;
        }
    }
}

// Threat 81.
#[test]
fn connecting_can_be_dropped_at_any_poll() {
    drop_connecting(
        "-- hello AUTH LOGIN
         C: AUTH LOGIN
         -- pause
         S: 334 VXNlcm5hbWU6
         C: dXNlcg==
         S: 334 UGFzc3dvcmQ6
         C: c2VjcmV0
         S: 235 welcome",
        |builder| builder.credentials("user", "secret"),
    );
}

// Threat 81.
#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn starttls_can_be_dropped_at_any_poll() {
    drop_connecting(
        "-- hello STARTTLS
         C: STARTTLS
         S: 220 go ahead
         -- tls good
         C: EHLO client.example.org
         -- pause
         S: 250 mail.example.org",
        |builder| builder.security(postino::Security::StartTls).ca_certificate(support::tls::CA),
    );
}

// Threat 81.
#[test]
fn a_noop_dropped_in_flight_leaves_the_client_disconnected() {
    let server = Server::playing("-- hello\nC: NOOP\n-- pause\nS: 250 ok\n-- silence");
    let mut client = connect(&server);
    assert!(block_on(dropped_after(1, client.noop())).is_none());
    for _ in 0..2 {
        assert!(matches!(block_on(client.send(&mail())), Err(Error::NotConnected)));
        assert!(matches!(
            block_on(client.login("user", "secret")),
            Err(Error::Auth { .. } | Error::NotConnected)
        ));
        assert_closed(&mut client);
    }
    block_on(client.quit()).unwrap();
}

/// Drops a call at each of its polls, against a server that pauses before each reply.
fn drop_call_at_every_poll<T>(
    hello: &str,
    script: &str,
    mut call: impl AsyncFnMut(&mut Client) -> Result<T, Error>,
) {
    for polls in 1.. {
        let server = leaving(format!("{hello}\n{script}"));
        let mut client = connect(&server);
        match block_on(dropped_after(polls, call(&mut client))) {
            None => assert_closed(&mut client),
            Some(result) => {
                assert!(polls > 1, "it was never dropped on its way");
                result.map(drop).unwrap();
                return;
            }
        }
    }
}

// Threat 81.
#[test]
fn single_commands_dropped_at_any_poll_leave_the_client_disconnected() {
    drop_call_at_every_poll("-- hello", "C: VRFY bob\n-- pause\nS: 252 perhaps", async |client| {
        client.vrfy("bob", &[]).await
    });
    drop_call_at_every_poll("-- hello", "C: EHLO me\n-- pause\nS: 250 hi", async |client| {
        client.ehlo(Some("me")).await
    });
    let data = "C: DATA\n-- pause\nS: 354 go on\nC: Hello\nC: .\n-- pause\nS: 250 ok";
    drop_call_at_every_poll("-- hello", data, async |client| client.data("Hello").await);
    let by_hand =
        format!("C: MAIL FROM:<a@b>\n-- pause\nS: 250 ok\nC: RSET\n-- pause\nS: 250 ok\n{TRANSACTION}");
    drop_call_at_every_poll("-- hello", &by_hand, async |client| {
        client.mail("a@b", &[]).await?;
        client.send(&mail()).await
    });
}

#[cfg(unix)]
#[test]
fn a_fifo_without_a_writer_does_not_delay_the_deadline() {
    let fifo = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fifo-{}", std::process::id()));
    drop(std::fs::remove_file(&fifo)); // an earlier process with this ID may have left it
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let server = Server::playing("-- hello\n-- envelope\nC: DATA\nS: 354 go on");
    let start = std::time::Instant::now();
    block_on(async {
        let mut client = builder(&server).deadline(Duration::from_secs(1)).connect().await.unwrap();
        let mail = Raw::path(envelope(&["bob@example.org"]), &fifo);
        let error = client.send(&mail).await.unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
    });
    assert!(start.elapsed() < PATIENCE / 2);
    std::fs::remove_file(&fifo).unwrap();
}

// Behaviour 17.
#[test]
fn a_cancelled_connect_leaves_a_builder_that_can_connect() {
    let server = Server::running_in_turn(vec![
        Box::new(|peer| {
            peer.may_leave = true;
            peer.play("-- pause\n-- hello");
        }),
        Box::new(|peer| peer.play("-- hello\nC: NOOP\nS: 250 ok")),
    ]);
    let builder = builder(&server);
    assert!(block_on(dropped_after(2, builder.connect())).is_none());
    assert_open(&mut block_on(builder.connect()).unwrap());
}

/// Drops a reconnect at each of its polls.
fn drop_reconnect_at_every_poll(hello: &'static str, how: impl Fn(Builder) -> Builder) {
    for polls in 1.. {
        let server = Server::running_in_turn(vec![
            Box::new(move |peer| peer.play(&format!("{hello}\nC: QUIT\nS: 221 bye"))),
            Box::new(move |peer| {
                peer.may_leave = true;
                peer.play(&format!("-- pause\n{hello}"));
            }),
            Box::new(move |peer| peer.play(&format!("{hello}\nC: NOOP\nS: 250 ok"))),
        ]);
        let mut client = block_on(how(builder(&server)).connect()).unwrap();
        block_on(client.quit()).unwrap();
        if let Some(done) = block_on(dropped_after(polls, client.reconnect())) {
            assert!(polls > 1, "it was never dropped on its way");
            done.unwrap();
            client.close();
            block_on(client.reconnect()).unwrap();
            assert_open(&mut client);
            return;
        }
        assert!(!client.is_connected());
        assert_closed(&mut client);
        block_on(client.reconnect()).unwrap();
        assert_open(&mut client);
    }
}

// Behaviour 17.
#[test]
fn a_cancelled_reconnect_leaves_a_client_that_can_connect() {
    drop_reconnect_at_every_poll("-- hello", |builder| builder);
}

// Behaviour 17.
#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn a_reconnect_cancelled_in_tls_leaves_a_client_that_can_connect() {
    drop_reconnect_at_every_poll("-- tls good\n-- hello", |builder| {
        builder.security(postino::Security::Implicit).ca_certificate(support::tls::CA)
    });
}

/// Holds back what is written until it is flushed.
struct Buffered(ReadHalf<Async<TcpStream>>, BufWriter<WriteHalf<Async<TcpStream>>>);

impl AsyncRead for Buffered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, room)
    }
}

impl AsyncWrite for Buffered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.1).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.1).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.1).poll_close(cx)
    }
}

fn buffered(server: &Server) -> Buffered {
    let (read, write) = split(Async::new(TcpStream::connect(server.address()).unwrap()).unwrap());
    Buffered(read, BufWriter::with_capacity(1 << 20, write))
}

#[test]
fn a_buffered_stream_is_flushed() {
    let server = Server::playing(format!("-- hello\n{TRANSACTION}C: QUIT\nS: 221 bye"));
    let mut client = block_on(builder(&server).connect_over(buffered(&server))).unwrap();
    block_on(client.send(&mail())).map(drop).unwrap();
    block_on(client.quit()).unwrap();
}

#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn a_buffered_stream_is_flushed_in_tls() {
    let server = Server::playing(format!("-- tls good\n-- hello\n{TRANSACTION}C: QUIT\nS: 221 bye"));
    let builder = builder(&server).security(postino::Security::Implicit).ca_certificate(support::tls::CA);
    let mut client = block_on(builder.connect_over(buffered(&server))).unwrap();
    block_on(client.send(&mail())).map(drop).unwrap();
    block_on(client.quit()).unwrap();
}
/// A batch of three messages, joined.
const BATCH: &str = "C: MAIL FROM:<alice@example.org>
     C: RCPT TO:<bob@example.org>
     C: DATA
     -- pause
     S: 250 ok
     S: 250 ok
     S: 354 go on
     C: Hello
     C: .
     C: MAIL FROM:<alice@example.org>
     C: RCPT TO:<bob@example.org>
     C: DATA
     -- pause
     S: 250 taken
     S: 250 ok
     S: 250 ok
     S: 354 go on
     C: Hello
     C: .
     C: MAIL FROM:<alice@example.org>
     C: RCPT TO:<bob@example.org>
     C: DATA
     -- pause
     S: 250 taken
     S: 250 ok
     S: 250 ok
     S: 354 go on
     C: Hello
     C: .
     -- pause
     S: 250 taken\n";

/// Drops the first `next` of a batch at each of its polls, and continues. Every message has one result, and the server
/// receives nothing twice. Returns how often all three were accepted despite the drop.
fn drop_next_at_every_poll(mails: impl Fn() -> Vec<Raw<'static>>) -> usize {
    let mut whole = 0;
    for polls in 1.. {
        let server = leaving(format!("-- hello PIPELINING, CHUNKING\n{BATCH}"));
        let mut client = connect(&server);
        let mut mails = mails().into_iter();
        let mut batch = client.send_all(mails.by_ref());
        let done = block_on(dropped_after(polls, batch.next()));
        let ended = done.is_some();
        let mut results: Vec<_> = done.flatten().into_iter().collect();
        while let Some(result) = block_on(batch.next()) {
            results.push(result);
        }
        let is_lost = batch.is_lost();
        drop(batch);
        drop(client);
        let heard = server.finish();
        let start = heard.windows(4).position(|bytes| bytes == b"MAIL").unwrap_or(heard.len());
        let wire = WIRE.repeat(3);
        assert!(wire.starts_with(&heard[start..]), "after {polls} polls: {}", heard[start..].escape_ascii());
        let numbers: Vec<usize> = results.iter().map(|(number, _)| *number).collect();
        assert!((0..3 - mails.len()).eq(numbers), "after {polls} polls");
        assert!(is_lost || mails.len() == 0, "after {polls} polls");
        let accepted = results.iter().filter(|(_, result)| result.is_ok()).count();
        let ends = heard.windows(5).filter(|bytes| bytes == b"\r\n.\r\n").count();
        let in_doubt = results.iter().filter(|(_, r)| r.as_ref().is_err_and(Error::in_doubt)).count();
        assert_eq!(accepted + in_doubt, ends, "after {polls} polls");
        whole += usize::from(accepted == 3);
        if ended {
            assert!(polls > 1, "it was never dropped on its way");
            return whole;
        }
    }
    whole
}

// Threat 81.
#[test]
fn next_of_a_batch_can_be_called_again_after_it_was_dropped() {
    let whole = drop_next_at_every_poll(|| vec![mail(), mail(), mail()]);
    assert!(whole > 1, "waiting for a reply was never resumed");
}

// Threat 81.
#[test]
fn a_next_dropped_while_a_file_is_opened_loses_no_message() {
    let path =
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("batch-{}", std::process::id()));
    std::fs::write(&path, "Hello\r\n").unwrap();
    let file = || Raw::path(envelope(&["bob@example.org"]), path.clone());
    let whole = drop_next_at_every_poll(|| vec![file(), file(), file()]);
    assert!(whole > 1, "opening a file was never resumed");
    std::fs::remove_file(&path).unwrap();
}

// Threat 81.
#[test]
fn content_is_not_sent_again_after_next_is_dropped_within_it() {
    let server = leaving("-- hello PIPELINING, CHUNKING, LIMITS RCPTMAX=1\nC: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\nS: 250 ok\nS: 250 ok\nS: 354 go on\nC: Hello".into());
    let (tell, told) = mpsc::channel();
    let slow = Raw::reader(envelope(&["bob@example.org"]), b"Hello\r\n".chain(Waits(told)));
    let mut client = connect(&server);
    let parts = dialogue::mail_to(&["a@example.org", "b@example.org"]); // waits for its turn
    let mut batch = client.send_all(vec![slow, parts]);
    let cut = async {
        smol::Timer::after(Duration::from_millis(300)).await;
        None
    };
    assert!(block_on(smol::future::or(async { Some(batch.next().await) }, cut)).is_none());
    let results = block_on(batch.finish());
    assert_eq!(results.len(), 2);
    let unsent = |result: &Result<Delivery, Error>| result.as_ref().is_err_and(|e| !e.in_doubt());
    assert!(results.iter().all(|(_, result)| unsent(result)), "{results:?}");
    assert_closed(&mut client);
    drop((client, tell));
    assert!(server.finish().ends_with(b"DATA\r\nHello\r\n"));
}

/// A body that waits each time it is read.
struct Slow(std::sync::Arc<std::sync::Mutex<mpsc::Receiver<()>>>);

impl postino::Mail for Slow {
    fn envelope(&self) -> Result<postino::Envelope, Error> {
        Ok(envelope(&["a@example.org", "b@example.org"]))
    }

    fn body(&self) -> Result<postino::message::Body<'_>, Error> {
        Ok(postino::message::Body::reader(SlowReader(self.0.clone())))
    }
}

struct SlowReader(std::sync::Arc<std::sync::Mutex<mpsc::Receiver<()>>>);

impl Read for SlowReader {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        let told = self.0.lock().unwrap();
        told.recv_timeout(PATIENCE).map(|()| 0).map_err(std::io::Error::other)
    }
}

/// Drops `next` within the content of the first part of a split message.
fn dropped_within_a_part(
    then: impl FnOnce(postino::aio::Batch<&mut Client, Slow, std::vec::IntoIter<Slow>>),
) {
    let server = leaving(
        "-- hello LIMITS RCPTMAX=1
         C: MAIL FROM:<alice@example.org>
         S: 250 ok
         C: RCPT TO:<a@example.org>
         S: 250 ok
         C: DATA
         S: 354 go on"
            .into(),
    );
    let (tell, told) = mpsc::channel();
    let told = std::sync::Arc::new(std::sync::Mutex::new(told));
    let mut client = connect(&server);
    let mut batch = client.send_all(vec![Slow(told)]);
    let cut = async {
        smol::Timer::after(Duration::from_millis(300)).await;
        None
    };
    assert!(block_on(smol::future::or(async { Some(batch.next().await) }, cut)).is_none());
    then(batch);
    assert_closed(&mut client);
    drop((client, tell));
    assert!(server.finish().ends_with(b"DATA\r\n"));
}

// Threat 81.
#[test]
fn a_batch_dropped_within_a_part_leaves_the_client_disconnected() {
    dropped_within_a_part(|batch| drop(batch));
}

// Threat 81.
#[test]
fn finish_reports_a_split_message_that_was_dropped_as_in_doubt() {
    dropped_within_a_part(|batch| {
        let results = block_on(batch.finish());
        assert!(matches!(results.as_slice(), [(0, Err(e))] if e.in_doubt()), "{results:?}");
    });
}

#[test]
fn a_next_dropped_during_a_reconnect_reports_its_message_only_once() {
    let envelope = "C: MAIL FROM:<alice@example.org>\nC: RCPT TO:<bob@example.org>\nC: DATA\n";
    let taken = "S: 250 ok\nS: 250 ok\nS: 354 go on\n";
    for polls in 1.. {
        let scripts = [
            format!(
                "-- hello PIPELINING, CHUNKING\n{envelope}{taken}C: 1\nC: .\n{envelope}S: 250 taken\n-- pause\n-- close"
            ),
            format!(
                "-- pause\nS: 220 hi\nC: EHLO client.example.org\n-- pause\nS: 250-hi\nS: 250 PIPELINING\n\
                 {envelope}{taken}C: 2\nC: .\nS: 250 taken"
            ),
        ];
        let leaving = |script: String| {
            Box::new(move |peer: &mut Peer| {
                peer.may_leave = true;
                peer.play(&script);
            }) as Script
        };
        let server = Server::running_in_turn(scripts.map(leaving).into());
        let mut client = connect(&server);
        let mut batch = client.send_all([numbered(1), numbered(2)]);
        assert!(block_on(batch.next()).unwrap().1.is_ok());
        let done = block_on(dropped_after(polls, batch.next()));
        let is_done = done.is_some();
        let (number, result) = done.unwrap_or_else(|| block_on(batch.next())).unwrap();
        assert_eq!(number, 1);
        assert!(block_on(batch.next()).is_none());
        drop(batch);
        if let Err(e) = result {
            assert_eq!(e.delivery().unwrap().outcome(), Outcome::NotSent);
        }
        drop(client);
        server.finish();
        if is_done {
            assert!(polls > 2, "it was never dropped on its way");
            return;
        }
    }
}

#[test]
fn a_next_dropped_while_waiting_for_the_last_reply_loses_no_result() {
    for polls in 1.. {
        let server = Server::playing(format!("-- hello PIPELINING\n{FLIGHT}"));
        let mut client = connect(&server);
        let mut batch = client.send_all([mail()]);
        let done = block_on(dropped_after(polls, batch.next()));
        let is_done = done.is_some();
        let (_, result) = done.unwrap_or_else(|| block_on(batch.next())).unwrap();
        assert_eq!(result.unwrap().outcome(), Outcome::Accepted, "after {polls} polls");
        drop(batch);
        drop(client);
        if is_done {
            assert!(polls > 2, "it was never dropped on its way");
            return;
        }
    }
}

#[test]
fn the_results_of_a_batch_are_a_stream() {
    let server = Server::playing(format!("-- hello PIPELINING, CHUNKING\n{BATCH}"));
    let mut client = connect(&server);
    let results = client.send_all([mail(), mail(), mail()]).into_stream();
    let results: Vec<_> = block_on(smol::stream::StreamExt::collect(results));
    let numbers: Vec<_> = results.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [0, 1, 2]);
    assert!(results.iter().all(|(_, result)| result.is_ok()), "{results:?}");
}

/// Whether the task was woken since the last check.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn splitting_very_many_recipients_lets_other_tasks_run() {
    let server = Server::running(|peer| {
        peer.play("-- hello LIMITS RCPTDOMAINMAX=1000");
        peer.may_leave = true;
        peer.ignore();
    });
    let mut client = connect(&server);
    let to: Vec<String> = (0..50_000).map(|number| format!("u@{number}.example")).collect();
    let mail = Raw::bytes(Envelope::new("alice@example.org", to).unwrap(), b"Hello\r\n");
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut sending = Box::pin(client.send(&mail));
    let mut turns = 0;
    // If the future has merely yielded, it has already woken its task.
    while sending.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
        && woken.0.swap(false, Ordering::Relaxed)
    {
        turns += 1;
    }
    assert!(turns >= 10, "{turns}");
}

// Behaviours 18 to 20.
#[test]
fn a_session_ends_with_quit_whatever_its_code_returns() {
    let script = "-- hello\nC: NOOP\nS: 250 ok\nC: QUIT\nS: 221 bye\n-- close";
    for fails in [false, true] {
        let server = Server::playing(script);
        let result = block_on(builder(&server).session(async |client| {
            client.noop().await?;
            if fails { Err(Error::NoRecipients) } else { Ok(client.connection_number()) }
        }));
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
            block_on(builder(&server).session(async |client| {
                if quits { client.quit().await } else { client.noop().await.map(drop) }
            }));
        assert!(if quits { result.is_ok() } else { matches!(result, Err(Error::Closed(_))) }, "{result:?}");
        server.finish();
    }
    let server = Server::playing("S: 554 no");
    let result = block_on(
        builder(&server).session(async |_| -> Result<(), Error> { panic!("there is no connection") }),
    );
    assert!(matches!(result, Err(Error::Refused { .. })));
}

// Threat 92.
#[cfg(unix)]
#[test]
fn a_program_is_killed_when_the_future_is_dropped() {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mailing-program");
    let fifo = std::env::temp_dir().join(format!("postino-dropped-{}", std::process::id()));
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let envelope = Envelope::new("hang@example.org", ["bob@example.org"]).unwrap();
    let mail = Raw::bytes(envelope, format!("Out: {}\r\n\r\nHello\r\n", fifo.display()));
    let path = fifo.clone();
    let (started, read) = block_on(async {
        let mut mailer = postino::ProgramMailer::new(program);
        let sending = async {
            let result = mailer.send(&mail).await;
            panic!("it ended: {result:?}");
        };
        // The executor runs this meanwhile.
        let started = async {
            smol::unblock(move || {
                let mut file = std::fs::File::open(path).unwrap();
                let mut line = [0; 8];
                file.read_exact(&mut line).unwrap();
                (line, file)
            })
            .await
        };
        smol::future::or(sending, started).await
    });
    assert_eq!(&started, b"started\n");
    // The child of the program has the FIFO open until it is killed.
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send({ read }.read_to_end(&mut Vec::new())));
    assert_eq!(told.recv_timeout(PATIENCE).unwrap().unwrap(), 0);
    std::fs::remove_file(fifo).unwrap();
}

#[cfg(feature = "testing")]
mod testing_server {
    use postino::testing::{Fault, Server, Step};

    use super::*;

    /// Sends two messages in the background, the first of which arrives only after a second attempt.
    async fn send_two(builder: Builder) {
        assert!(builder.send(&mail()).await.is_err());
        for _ in 0..2 {
            builder.send(&mail()).await.unwrap();
        }
    }

    fn server() -> Server {
        let first_fails = Fault::reply("451 4.3.0 later").once();
        Server::builder().inject(Step::Mail, first_fails).wait_limit(PATIENCE).start().unwrap()
    }

    #[test]
    fn waiting_does_not_block_the_other_tasks_of_a_smol_executor() {
        let server = server();
        let executor = smol::LocalExecutor::new();
        let task = executor.spawn(send_two(server.aio_client_builder()));
        let messages = block_on(executor.run(server.expect_messages_async(2)));
        assert_eq!(messages, server.messages());
        block_on(executor.run(task));
    }

    #[test]
    fn waiting_does_not_block_the_other_tasks_of_a_tokio_runtime() {
        let server = server();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let task = tokio::spawn(send_two(server.aio_client_builder()));
            assert_eq!(server.wait_for_messages_async(2).await.len(), 2);
            task.await.unwrap();
        });
    }

    #[test]
    fn a_failed_expectation_names_the_line_of_the_call() {
        let server = Server::builder().wait_limit(Duration::ZERO).start().unwrap();
        let future = assert_send(server.expect_message_async());
        let line = line!() - 1;
        let panic = std::panic::catch_unwind(|| block_on(future)).unwrap_err();
        let text = panic.downcast::<String>().unwrap();
        assert!(text.contains(&format!("aio.rs:{line}:")), "{text}");
        assert!(text.contains("expected 1 message within 0ns, but the server has accepted none"), "{text}");
        drop(server.wait_for_messages_async(1));
    }

    #[test]
    fn dropping_the_server_ends_the_wait() {
        let server = Server::builder().wait_limit(Duration::MAX).start().unwrap();
        let waiting = server.wait_for_messages_async(1);
        drop(server);
        assert!(block_on(waiting).is_empty());
    }
}
