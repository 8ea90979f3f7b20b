//! A server that accepts everything, stores nothing, and counts. It has one thread per connection, and writes all replies to the
//! commands of one read at once.
//!
//! `sink ADDRESS PORT CERTIFICATE`: plain text on PORT, TLS on PORT+1, STARTTLS on PORT+2. On PORT+3 it is careless: it writes
//! each reply separately, with Nagle's algorithm on, and offers only PIPELINING and 8BITMIME. It makes its own certificate and
//! writes it to the file CERTIFICATE. XCOUNT replies with the counters, as JSON, and resets them.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use memchr::{memchr, memmem::Finder};
use openssl::{
    asn1::Asn1Time,
    bn::BigNum,
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::PKey,
    ssl::{SslAcceptor, SslMethod},
    x509::{X509, X509NameBuilder, extension},
};

const ROOM: usize = 512 * 1024;
const OFFERS: &str = "250-sink\r\n250-PIPELINING\r\n250-SIZE 0\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250-ENHANCEDSTATUSCODES\r\n";

#[derive(Default)]
struct Counts {
    messages: AtomicU64,
    octets: AtomicU64,
    reads: AtomicU64,
    commands: AtomicU64,
}

struct Sink {
    counts: Counts,
    tls: SslAcceptor,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    Plain,
    Tls,
    StartTls,
    Careless,
}

/// What the next octets are.
#[derive(Clone, Copy)]
enum Expects {
    Command,
    /// Content of DATA. A lone dot at its start ends it.
    Data {
        start: bool,
    },
    /// Content of BDAT: how many octets are left, and whether it is the last chunk.
    Chunk {
        left: usize,
        last: bool,
    },
}

/// How a connection continues.
#[derive(PartialEq, Eq)]
enum Next {
    More,
    StartTls,
    End,
}

/// The octets of one connection, and the replies to them.
struct Session<'s> {
    sink: &'s Sink,
    port: Port,
    end: Finder<'static>,
    expects: Expects,
    replies: Vec<u8>,
    /// Where each reply ends.
    ends: Vec<usize>,
    commands: u64,
    octets: u64,
}

impl Session<'_> {
    /// Consumes the octets that can be interpreted so far, and returns their number.
    fn take(&mut self, bytes: &[u8]) -> (usize, Next) {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            match self.expects {
                Expects::Command => {
                    let Some(end) = memchr(b'\n', rest) else { return (at, Next::More) };
                    at += end + 1;
                    let next = self.command(rest[..end].trim_ascii_end());
                    if next != Next::More {
                        return (at, next);
                    }
                }
                Expects::Data { start: true } if rest.starts_with(b".\r\n") => {
                    at += 3;
                    self.queued();
                }
                Expects::Data { start: true } if rest.len() < 5 => return (at, Next::More),
                Expects::Data { .. } => match self.end.find(rest) {
                    Some(end) => {
                        at += end + 5;
                        self.octets += end as u64 + 2;
                        self.queued();
                    }
                    None => {
                        let taken = rest.len().saturating_sub(4); // it may end with a part of the terminator
                        self.octets += taken as u64;
                        self.expects = Expects::Data { start: false };
                        return (at + taken, Next::More);
                    }
                },
                Expects::Chunk { left, last } => {
                    let taken = left.min(rest.len());
                    at += taken;
                    self.octets += taken as u64;
                    match left - taken {
                        0 if last => self.queued(),
                        0 => self.say("250 2.0.0 ok\r\n", Expects::Command),
                        left => {
                            self.expects = Expects::Chunk { left, last };
                            return (at, Next::More);
                        }
                    }
                }
            }
        }
    }

    fn command(&mut self, line: &[u8]) -> Next {
        self.commands += 1;
        let verb = line.get(..4).unwrap_or_default().to_owned().to_ascii_uppercase();
        let mut expects = Expects::Command;
        let reply = match verb.as_slice() {
            b"MAIL" => "250 2.1.0 ok\r\n",
            b"RCPT" => "250 2.1.5 ok\r\n",
            b"RSET" | b"NOOP" => "250 2.0.0 ok\r\n",
            b"DATA" => {
                expects = Expects::Data { start: true };
                "354 go\r\n"
            }
            b"BDAT" => {
                let mut words = line.split(|b| *b == b' ').skip(1);
                let octets = words.next().and_then(|word| std::str::from_utf8(word).ok()?.parse().ok());
                self.expects = Expects::Chunk { left: octets.unwrap_or(0), last: words.next().is_some() };
                return Next::More;
            }
            b"EHLO" if self.port == Port::Careless => "250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
            b"EHLO" => {
                self.replies.extend_from_slice(OFFERS.as_bytes());
                match self.port {
                    Port::StartTls => "250-STARTTLS\r\n250 CHUNKING\r\n",
                    _ => "250 CHUNKING\r\n",
                }
            }
            b"STAR" => {
                self.say("220 go\r\n", Expects::Command);
                return Next::StartTls;
            }
            b"QUIT" => {
                self.say("221 2.0.0 bye\r\n", Expects::Command);
                return Next::End;
            }
            b"XCOU" => {
                let counts = &self.sink.counts;
                let take = |counter: &AtomicU64| counter.swap(0, Relaxed);
                let text = format!(
                    "250 {{\"messages\":{},\"octets\":{},\"reads\":{},\"commands\":{}}}\r\n",
                    take(&counts.messages),
                    take(&counts.octets),
                    take(&counts.reads),
                    take(&counts.commands)
                );
                self.say(&text, Expects::Command);
                return Next::More;
            }
            _ => "500 5.5.1 what\r\n",
        };
        self.say(reply, expects);
        Next::More
    }

    fn queued(&mut self) {
        self.sink.counts.messages.fetch_add(1, Relaxed);
        self.say("250 2.0.0 queued\r\n", Expects::Command);
    }

    fn say(&mut self, reply: &str, expects: Expects) {
        self.replies.extend_from_slice(reply.as_bytes());
        self.ends.push(self.replies.len());
        self.expects = expects;
    }

    fn count(&mut self) {
        let counts = &self.sink.counts;
        counts.reads.fetch_add(1, Relaxed);
        counts.commands.fetch_add(std::mem::take(&mut self.commands), Relaxed);
        counts.octets.fetch_add(std::mem::take(&mut self.octets), Relaxed);
    }
}

fn serve(sink: &Sink, port: Port, greeting: &[u8], stream: &mut (impl Read + Write)) -> io::Result<Next> {
    stream.write_all(greeting)?;
    let mut session = Session {
        sink,
        port,
        end: Finder::new(b"\r\n.\r\n"),
        expects: Expects::Command,
        replies: Vec::new(),
        ends: Vec::new(),
        commands: 0,
        octets: 0,
    };
    let mut room = vec![0; ROOM];
    let mut filled = 0;
    loop {
        let n = stream.read(&mut room[filled..])?;
        if n == 0 {
            return Ok(Next::End);
        }
        filled += n;
        let (taken, next) = session.take(&room[..filled]);
        room.copy_within(taken..filled, 0);
        filled -= taken;
        session.count();
        if port == Port::Careless {
            let mut begin = 0;
            for end in &session.ends {
                stream.write_all(&session.replies[begin..*end])?;
                begin = *end;
            }
        } else if !session.replies.is_empty() {
            stream.write_all(&session.replies)?;
        }
        session.replies.clear();
        session.ends.clear();
        if next != Next::More || filled == room.len() {
            return Ok(next);
        }
    }
}

fn serve_tls(sink: &Sink, greeting: &[u8], stream: TcpStream) -> io::Result<()> {
    let mut stream = sink.tls.accept(stream).map_err(io::Error::other)?;
    serve(sink, Port::Tls, greeting, &mut stream)?;
    drop(stream.shutdown());
    Ok(())
}

fn connection(sink: &Sink, port: Port, mut stream: TcpStream) -> io::Result<()> {
    const GREETING: &[u8] = b"220 sink ESMTP\r\n";
    stream.set_nodelay(port != Port::Careless)?;
    match port {
        Port::Tls => serve_tls(sink, GREETING, stream),
        _ => match serve(sink, port, GREETING, &mut stream)? {
            Next::StartTls => serve_tls(sink, b"", stream),
            _ => Ok(()),
        },
    }
}

/// A self-signed certificate for localhost and the addresses of the benchmarks.
fn certificate() -> Result<(X509, PKey<openssl::pkey::Private>), openssl::error::ErrorStack> {
    let key = PKey::from_ec_key(EcKey::generate(EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?.as_ref())?)?;
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_nid(Nid::COMMONNAME, "localhost")?;
    let name = name.build();
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(BigNum::from_u32(1)?.to_asn1_integer()?.as_ref())?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_pubkey(&key)?;
    builder.set_not_before(Asn1Time::days_from_now(0)?.as_ref())?;
    builder.set_not_after(Asn1Time::days_from_now(30)?.as_ref())?;
    builder.append_extension(extension::BasicConstraints::new().critical().ca().build()?)?;
    let context = builder.x509v3_context(None, None);
    let names = extension::SubjectAlternativeName::new()
        .dns("localhost")
        .ip("127.0.0.1")
        .ip("10.99.0.2")
        .build(&context)?;
    builder.append_extension(names)?;
    builder.sign(&key, MessageDigest::sha256())?;
    Ok((builder.build(), key))
}

fn main() {
    let args: Vec<String> = env::args().collect();
    let [_, address, port, file] = args.as_slice() else { panic!("sink ADDRESS PORT CERTIFICATE") };
    let base: u16 = port.parse().expect("PORT is a number");
    let (certificate, key) = certificate().expect("a certificate can be made");
    let mut tls = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).expect("TLS");
    tls.set_certificate(&certificate).expect("it is one");
    tls.set_private_key(&key).expect("it is its key");
    let sink = Arc::new(Sink { counts: Counts::default(), tls: tls.build() });
    let ports = [Port::Plain, Port::Tls, Port::StartTls, Port::Careless];
    let listeners = ports.into_iter().zip(base..).map(|(port, number)| {
        let listener = TcpListener::bind((address.as_str(), number)).expect("the ports are free");
        let sink = sink.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sink = sink.clone();
                // The client has closed the connection.
                thread::spawn(move || drop(connection(&sink, port, stream)));
            }
        })
    });
    let listeners: Vec<_> = listeners.collect();
    fs::write(file, certificate.to_pem().expect("PEM")).expect("CERTIFICATE can be written"); // now the sink is ready
    listeners.into_iter().for_each(|listener| listener.join().expect("it listens for ever"));
}
