//! Speed and memory of sending a message with an attachment, compared with sending the same bytes raw.
//!
//! ```text
//! cargo bench --features async --bench attachment            # speed: a file of 100 MiB
//! cargo bench --features async --bench attachment -- 1024    # a file of 1024 MiB: memory
//! ```
//!
//! Each line is one message, sent by a separate process to a server in another process, which discards it. The columns are the elapsed
//! time, the processor time of the sending process (including the kernel's share), the speed in octets on the wire, and the
//! peak memory (`VmHWM`). The attachment is in a file or in memory; the same message is also sent raw, from a file or from
//! memory. The best of five runs counts. More than 500 MiB are sent once, and from files only. Nothing is asserted. Linux
//! only: it reads `/proc`.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use openssl::{
    pkey::PKey,
    ssl::{SslAcceptor, SslMethod, SslStream},
    x509::X509,
};
use postino::{Client, Envelope, Error, Mail, Message, Raw, Security, message::Attachment};

/// Runs per line when speed is measured; the best one counts.
const ROUNDS: usize = 5;
const MIB: u64 = 1024 * 1024;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    // cargo bench adds --bench.
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match &arguments[..] {
        [] => measure(100),
        [what, port, security, client, path] => {
            let mail: Box<dyn Mail> = match &what[..] {
                "file" => Box::new(message(Attachment::path(path))?),
                "bytes" => Box::new(message(Attachment::bytes("a.bin", fs::read(path)?))?),
                "raw-file" => Box::new(Raw::path(envelope()?, path)),
                _ => Box::new(Raw::bytes(envelope()?, fs::read(path)?)),
            };
            carry(port.parse()?, security, client, &*mail)
        }
        [mib] => measure(mib.parse()?),
        _ => Err("there is a number of MiB, or nothing".into()),
    }
}

/// Measures everything.
fn measure(mib: u64) -> Result<(), Failure> {
    let folder = env::temp_dir().join(format!("postino-bench-{}", std::process::id()));
    drop(fs::remove_dir_all(&folder)); // an earlier process with the same ID may have left it
    fs::create_dir(&folder)?;
    let (attachment, whole) = (folder.join("attachment.bin"), folder.join("whole.eml"));
    let result = write_files(mib, &attachment, &whole).and_then(|()| measure_with(&attachment, &whole));
    fs::remove_dir_all(&folder)?;
    result
}

fn write_files(mib: u64, attachment: &Path, whole: &Path) -> Result<(), Failure> {
    let mut file = fs::File::create(attachment)?;
    let mut state = 1_u64;
    for _ in 0..mib {
        let block: Vec<u8> = (0..MIB / 8).flat_map(|_| next(&mut state).to_le_bytes()).collect();
        file.write_all(&block)?;
    }
    let message = message(Attachment::path(attachment))?;
    let mut body = message.body()?.into_reader()?;
    std::io::copy(&mut body, &mut fs::File::create(whole)?)?;
    Ok(())
}

/// Marsaglia's xorshift: data that no disk or kernel can compress.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn measure_with(attachment: &Path, whole: &Path) -> Result<(), Failure> {
    compose_alone(attachment)?;
    let octets = fs::metadata(whole)?.len();
    let is_large = octets > 500 * MIB;
    let rounds = if is_large { 1 } else { ROUNDS };
    println!("{octets} octets go out; the best of {rounds}");
    println!("{:10} {:9} {:18} {:>8} {:>8} {:>9} {:>10}", "", "", "", "seconds", "cpu", "MiB/s", "peak KiB");
    for security in ["plain", "tls"] {
        if security == "tls" && !cfg!(any(feature = "native-tls", feature = "rustls")) {
            continue;
        }
        for client in ["blocking", "aio"] {
            if client == "aio" && cfg!(not(feature = "async")) {
                continue;
            }
            for (what, path) in
                [("raw-bytes", whole), ("raw-file", whole), ("bytes", attachment), ("file", attachment)]
            {
                if is_large && what.ends_with("bytes") {
                    continue;
                }
                let best = (0..rounds)
                    .map(|_| one(what, security, client, path))
                    .collect::<Result<Vec<_>, _>>()?
                    .into_iter()
                    .min_by(|a, b| a.seconds.total_cmp(&b.seconds))
                    .ok_or("no rounds")?;
                let speed = octets as f64 / MIB as f64 / best.seconds;
                println!(
                    "{security:10} {client:9} {what:18} {:8.3} {:8.2} {speed:9.0} {:10}",
                    best.seconds, best.cpu, best.peak
                );
            }
        }
    }
    Ok(())
}

/// Reading and encoding, without a connection.
fn compose_alone(attachment: &Path) -> Result<(), Failure> {
    let message = message(Attachment::path(attachment))?;
    let (mut best, mut block) = (f64::MAX, vec![0; 64 * 1024]);
    for _ in 0..ROUNDS {
        let (mut body, mut octets, start) = (message.body()?.into_reader()?, 0, Instant::now());
        loop {
            match body.read(&mut block)? {
                0 => break,
                n => octets += n,
            }
        }
        best = best.min(start.elapsed().as_secs_f64() * MIB as f64 / octets as f64);
    }
    println!("composing alone: {:.0} MiB/s", 1.0 / best);
    Ok(())
}

struct Figures {
    seconds: f64,
    cpu: f64,
    peak: u64,
}

/// Sends one message in a separate process.
fn one(what: &str, security: &str, client: &str, path: &Path) -> Result<Figures, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port().to_string();
    let secure = security == "tls";
    let server = thread::spawn(move || serve(&listener, secure));
    let child = Command::new(env::current_exe()?)
        .args([what, &port, security, client])
        .arg(path)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let said = String::from_utf8(child.stdout)?;
    let mut figures = said.split_whitespace();
    let mut figure = || figures.next().ok_or("the sending failed");
    let figures = Figures { seconds: figure()?.parse()?, cpu: figure()?.parse()?, peak: figure()?.parse()? };
    server.join().map_err(|_| "the server panicked")??;
    Ok(figures)
}

/// Accepts one connection and discards its messages.
fn serve(listener: &TcpListener, secure: bool) -> Result<(), Failure> {
    let socket = listener.accept()?.0;
    if secure { talk(handshake(socket)?) } else { talk(socket) }
}

/// With OpenSSL, whichever library the client has.
fn handshake(socket: TcpStream) -> Result<SslStream<TcpStream>, Failure> {
    let mut acceptor = SslAcceptor::mozilla_intermediate(SslMethod::tls())?;
    let certificate = X509::from_pem(include_bytes!("../tests/support/certs/good.pem"))?;
    let key = PKey::private_key_from_pem(include_bytes!("../tests/support/certs/good.key"))?;
    acceptor.set_certificate(&certificate)?;
    acceptor.set_private_key(&key)?;
    Ok(acceptor.build().accept(socket)?)
}

/// Receives one message and QUIT.
fn talk(stream: impl Read + Write) -> Result<(), Failure> {
    let mut stream = BufReader::with_capacity(256 * 1024, stream);
    stream.get_mut().write_all(b"220 bench\r\n")?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let answer = match line.get(..4).unwrap_or_default() {
            "EHLO" => "250-bench\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE\r\n",
            "DATA" => {
                stream.get_mut().write_all(b"354 go on\r\n")?;
                discard(&mut stream)?;
                "250 ok\r\n"
            }
            "QUIT" => "221 bye\r\n",
            _ => "250 ok\r\n",
        };
        stream.get_mut().write_all(answer.as_bytes())?;
    }
}

/// Reads content to its end. The client waits then, so the end of the content is the end of a read.
fn discard(stream: &mut impl BufRead) -> Result<(), Failure> {
    let mut tail = Vec::new();
    loop {
        let heard = stream.fill_buf()?;
        if heard.is_empty() {
            return Err("the client left".into());
        }
        let length = heard.len();
        tail.extend_from_slice(&heard[length.saturating_sub(5)..]);
        stream.consume(length);
        tail.drain(..tail.len().saturating_sub(5));
        if tail == b"\r\n.\r\n" {
            return Ok(());
        }
    }
}

fn message(attachment: Attachment) -> Result<Message, Error> {
    Message::builder()
        .from("alice@example.org")
        .to("bob@example.net")
        .subject("A large one")
        .text("Here it is.\n")
        .attach(attachment)
        .build()
}

fn envelope() -> Result<Envelope, Error> {
    Envelope::new("alice@example.org", ["bob@example.net"])
}

/// Sends the message and prints the figures.
fn carry(port: u16, security: &str, client: &str, mail: &dyn Mail) -> Result<(), Failure> {
    let seconds = match client {
        "blocking" => blocking(port, security, mail)?,
        _ => awaited(port, security, mail)?,
    };
    println!("{} {} {}", seconds.as_secs_f64(), processor_time()?, peak()?);
    Ok(())
}

macro_rules! builder {
    ($client:ty, $port:expr, $security:expr) => {{
        let security = if $security == "tls" { Security::Implicit } else { Security::Plaintext };
        let builder = <$client>::builder("127.0.0.1").port($port).security(security);
        builder.ca_certificate(include_bytes!("../tests/support/certs/ca.pem"))
    }};
}

fn blocking(port: u16, security: &str, mail: &dyn Mail) -> Result<Duration, Failure> {
    let mut client = builder!(Client, port, security).connect()?;
    let start = Instant::now();
    let delivery = client.send(mail)?;
    let took = start.elapsed();
    assert_eq!(delivery.refused().count(), 0);
    client.quit()?;
    Ok(took)
}

#[cfg(feature = "async")]
fn awaited(port: u16, security: &str, mail: &dyn Mail) -> Result<Duration, Failure> {
    smol::block_on(async {
        let mut client = builder!(postino::aio::Client, port, security).connect().await?;
        let start = Instant::now();
        let delivery = client.send(mail).await?;
        let took = start.elapsed();
        assert_eq!(delivery.refused().count(), 0);
        client.quit().await?;
        Ok(took)
    })
}

#[cfg(not(feature = "async"))]
fn awaited(_: u16, _: &str, _: &dyn Mail) -> Result<Duration, Failure> {
    Err("this needs the `async` feature".into())
}

/// Processor time of this process, in seconds, with Linux's resolution of 10 ms.
fn processor_time() -> Result<f64, Failure> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("/proc/self/stat has no name")?;
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|t| t.parse().unwrap_or(0_u64)).sum();
    Ok(ticks as f64 / 100.0)
}

/// Peak memory of this process, in KiB.
fn peak() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("there is no VmHWM")?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}
