//! How fast mail goes through the queue, beside the same mail without a queue, and how long a claim takes with a million rows.
//!
//! `cargo bench -p postino-worker` measures throughput. With `-- claims`, it measures claims, and with `-- peer COMMAND`, it
//! also runs a peer: `COMMAND PORT MAILS CONNECTIONS` has to send that many mails to 127.0.0.1:PORT.

#[path = "../tests/world/mod.rs"]
mod world;

use std::{
    env,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use postino::{Client, Envelope, Raw};
use world::{Cluster, command, connect, count, execute};

/// The content of each mail: 1 KiB.
fn content() -> String {
    format!(
        "From: a@x.example\r\nTo: b@y.example\r\nSubject: x\r\n\r\n{}",
        "text text text text text text text\r\n".repeat(27)
    )
}

/// A server that accepts everything, and counts.
struct Sink {
    port: u16,
    accepted: Arc<AtomicUsize>,
}

impl Sink {
    /// Starts a server. With `acks_at_once`, it acknowledges each segment immediately. Otherwise, the system delays ACKs,
    /// which holds back a client that writes the end of a message separately and has Nagle's algorithm on.
    fn start(acks_at_once: bool) -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = accepted.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let counter = counter.clone();
                thread::spawn(move || serve(&stream.unwrap(), &counter, acks_at_once));
            }
        });
        Sink { port, accepted }
    }

    fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.port)
    }

    fn take(&self) -> usize {
        self.accepted.swap(0, Ordering::SeqCst)
    }
}

/// Serves a connection to its end. Replies are written when no input is left.
fn serve(stream: &TcpStream, accepted: &AtomicUsize, acks_at_once: bool) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let (mut input, mut output) = (BufReader::new(stream), stream);
    let (mut line, mut replies, mut in_message) = (Vec::new(), b"220 sink\r\n".to_vec(), false);
    loop {
        if input.buffer().is_empty() {
            output.write_all(&replies).ok()?;
            replies.clear();
            if acks_at_once {
                // Sends the ACK that is due, and applies only until the system decides otherwise.
                rustix::net::sockopt::set_tcp_quickack(stream, true).ok()?;
            }
        }
        line.clear();
        if input.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        let reply: &[u8] = match (&line[..], in_message) {
            (b".\r\n", true) => {
                accepted.fetch_add(1, Ordering::SeqCst);
                in_message = false;
                b"250 2.0.0 Ok: queued as 4F2A\r\n"
            }
            (_, true) => b"",
            ([b'E' | b'e', ..], _) => b"250-sink\r\n250-PIPELINING\r\n250 CHUNKING\r\n",
            ([b'D' | b'd', ..], _) => {
                in_message = true;
                b"354 go on\r\n"
            }
            ([b'Q' | b'q', ..], _) => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        };
        replies.extend_from_slice(reply);
    }
}

fn show(what: &str, connections: usize, mails: usize, took: Duration) {
    let rate = mails as f64 / took.as_secs_f64();
    println!(
        "{what:<24} {connections} connections: {rate:>7.0} mails/s ({mails} mails in {:.1} s)",
        took.as_secs_f64()
    );
}

fn without_a_queue(sink: &Sink, connections: usize, mails: usize) {
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut client = Client::from_url(&sink.url()).unwrap().connect().unwrap();
                let envelope = Envelope::new("a@x.example", ["b@y.example"]).unwrap();
                let mail = || Raw::bytes(envelope.clone(), content());
                let sent = client
                    .send_all((0..mails / connections).map(|_| mail()))
                    .filter(|(_, result)| result.is_ok());
                assert_eq!(sent.count(), mails / connections);
                client.quit().unwrap();
            });
        }
    });
    let took = begun.elapsed();
    show("without a queue", connections, sink.take(), took);
}

fn fill(url: &str, mails: usize) {
    let query = format!(
        "select count(*) from generate_series(1, {mails}) n,
           lateral postino_enqueue('a' || n || '@x.example', array['b@y.example'], convert_to('{}', 'UTF8'))",
        content()
    );
    let mut sql = connect(url);
    execute(&mut sql, "truncate postino_mail cascade");
    execute(&mut sql, &query);
    execute(&mut sql, "checkpoint");
}

fn with_the_queue(url: &str, sink: &Sink, window: usize, connections: usize, mails: usize) {
    fill(url, mails);
    let mut command = command(url);
    command.args(["run", "--until-empty", "-q", "-s", &sink.url()]);
    command
        .env("POSTINO_WORKER_WINDOW", window.to_string())
        .env("POSTINO_WORKER_CONNECTIONS", connections.to_string());
    let begun = Instant::now();
    assert!(command.stdin(Stdio::null()).status().unwrap().success());
    let took = begun.elapsed();
    assert_eq!(
        count(&mut connect(url), "select count(*) as n from postino_mail where state = 'accepted'"),
        mails as i64
    );
    show(&format!("queue, W = {window}"), connections, sink.take(), took);
}

fn peer(what: &str, program: &str, sink: &Sink, connections: usize, mails: usize) {
    let arguments = [sink.port.to_string(), mails.to_string(), connections.to_string()];
    // It prints the seconds that sending took, without queueing.
    let output = Command::new(program).args(arguments).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let took = Duration::from_secs_f64(text.trim().parse().unwrap());
    show(what, connections, sink.take(), took);
}

fn claims(cluster: &Cluster) {
    let url = cluster.queue();
    let mut sql = connect(&url);
    let million = "insert into postino_mail (lane, message_id, sender, recipients, content, state, finished, due)
        select 'default', '<' || n || '@x>', 'a@x.example', array['b@y.example'], convert_to(repeat('text ', 60), 'UTF8'),";
    for (what, rows) in [
        ("20,000 ready", "'ready', null, now() - n * interval '1 s' from generate_series(1, 20000) n"),
        (
            "1,000,000 accepted, 20,000 ready",
            "case when n % 50 = 0 then 'ready' else 'accepted' end, now() - n * interval '1 s', now() - n * interval '1 s' from generate_series(1, 1020000) n",
        ),
        ("1,000,000 ready", "'ready', null, now() - n * interval '1 s' from generate_series(1, 1000000) n"),
    ] {
        execute(&mut sql, "truncate postino_mail cascade");
        execute(&mut sql, &format!("{million} {rows}"));
        for analyzed in [false, true] {
            if analyzed {
                execute(&mut sql, "vacuum analyze postino_mail");
            }
            let mut worker = connect(&url);
            // As in src/queue.rs.
            execute(&mut worker, "set enable_seqscan = off");
            execute(&mut worker, "set enable_bitmapscan = off");
            execute(&mut worker, "set enable_hashjoin = off");
            execute(&mut worker, "set enable_mergejoin = off");
            let backend = count(&mut worker, "select pg_backend_pid()::bigint as n");
            let before = cpu_ms(backend);
            let mut times: Vec<f64> = (0..200)
                .map(|_| {
                    let begun = Instant::now();
                    let claim = "select count(*) as n from postino_claim(1, 'default', 20, 1000000)";
                    assert_eq!(count(&mut worker, claim), 20);
                    begun.elapsed().as_secs_f64() * 1000.0
                })
                .collect();
            times.sort_by(f64::total_cmp);
            let cpu = (cpu_ms(backend) - before) / 200.0;
            let when = if analyzed { "vacuumed" } else { "just filled" };
            println!(
                "{what}, {when}: a claim of 20 takes {:.2} ms (median), {:.2} ms (95 %), {cpu:.2} ms of CPU",
                times[100], times[190]
            );
        }
        let backend = count(&mut sql, "select pg_backend_pid()::bigint as n");
        let before = cpu_ms(backend);
        let begun = Instant::now();
        execute(&mut sql, "select * from postino_status");
        let (took, cpu) = (begun.elapsed().as_secs_f64() * 1000.0, cpu_ms(backend) - before);
        println!("{what}: postino_status takes {took:.0} ms, {cpu:.0} ms of CPU");
    }
}

/// Returns the CPU time of a process, in milliseconds, in steps of 10 ms.
fn cpu_ms(pid: i64) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 10.0
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some(cluster) = Cluster::start("fsync = on\nshared_buffers = 512MB\nmax_wal_size = 4GB\n") else {
        return;
    };
    if arguments.first().is_some_and(|what| what == "claims") {
        return claims(&cluster);
    }
    let program = arguments.iter().position(|what| what == "peer").and_then(|at| arguments.get(at + 1));
    let (url, sink, delaying) = (cluster.queue(), Sink::start(true), Sink::start(false));
    for connections in [1, 2, 6] {
        without_a_queue(&sink, connections, 60_000);
        with_the_queue(&url, &sink, 20, connections, 20_000);
        with_the_queue(&url, &sink, 1, connections, 5_000);
        if let Some(program) = program {
            peer("peer", program, &sink, connections, 5_000);
            peer("peer, delayed ACKs", program, &delaying, connections, 500);
        }
    }
}
