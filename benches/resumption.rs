//! What resuming a TLS session saves, with rustls.
//!
//! ```text
//! cargo bench --features rustls --bench resumption           # 500 connections each
//! cargo bench --features rustls --bench resumption -- 2000
//! ```
//!
//! Connects again and again to a server on this machine, with a new session for each connection and with one that is
//! resumed, in turns, and prints the medians per connection: the time until the client has its greeting and the reply to
//! EHLO, and the client's share of the processor. A round trip costs nothing here. In TLS 1.3, resuming saves no round trip; in
//! TLS 1.2 it saves one of two.

use std::{
    env, fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use openssl::{
    pkey::PKey,
    ssl::{SslAcceptor, SslMethod, SslVersion},
    x509::X509,
};
use postino::{Builder, Client, Security};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, pem::PemObject},
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const CA: &[u8] = include_bytes!("../tests/support/certs/ca.pem");

fn main() -> Result<(), Failure> {
    // cargo bench adds --bench.
    let rounds = env::args().skip(1).find(|argument| argument != "--bench");
    let rounds = rounds.map_or(Ok(500), |rounds| rounds.parse::<usize>())?;
    println!("{:8} {:8} {:>10} {:>10}", "TLS", "session", "time, µs", "CPU, µs");
    for (version, name) in [(SslVersion::TLS1_3, "1.3"), (SslVersion::TLS1_2, "1.2")] {
        let address = serve(version)?;
        let (new, resumed) = (builder(address, false)?, builder(address, true)?);
        drop(resumed.connect()?); // has no session yet
        let (mut with_new, mut with_resumed) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            with_new.push(measure(&new)?);
            with_resumed.push(measure(&resumed)?);
        }
        for (session, figures) in [("new", with_new), ("resumed", with_resumed)] {
            let (time, cpu): (Vec<_>, Vec<_>) = figures.into_iter().unzip();
            println!("{name:8} {session:8} {:>10} {:>10}", median(time), median(cpu));
        }
    }
    Ok(())
}

fn builder(address: SocketAddr, resumes: bool) -> Result<Builder, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CA)?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    if !resumes {
        config.resumption = Resumption::disabled();
    }
    let builder = Client::builder("127.0.0.1").port(address.port()).security(Security::Implicit);
    Ok(builder.rustls_config(Arc::new(config)))
}

/// Connects, and returns the elapsed time and the CPU time of this thread.
fn measure(builder: &Builder) -> Result<(Duration, Duration), Failure> {
    let (start, before) = (Instant::now(), processor_time()?);
    let client = builder.connect()?;
    let figures = (start.elapsed(), processor_time()? - before);
    drop(client);
    Ok(figures)
}

/// The CPU time of this thread. Linux only.
fn processor_time() -> Result<Duration, Failure> {
    let stat = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = stat.split(' ').next().ok_or("schedstat is empty")?;
    Ok(Duration::from_nanos(nanoseconds.parse()?))
}

fn median(mut figures: Vec<Duration>) -> u128 {
    figures.sort_unstable();
    figures[figures.len() / 2].as_micros()
}

/// Starts a server that greets each client, answers its EHLO, and waits until it leaves.
fn serve(version: SslVersion) -> Result<SocketAddr, Failure> {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
    let certificate = X509::from_pem(include_bytes!("../tests/support/certs/good.pem"))?;
    let key = PKey::private_key_from_pem(include_bytes!("../tests/support/certs/good.key"))?;
    acceptor.set_certificate(&certificate)?;
    acceptor.set_private_key(&key)?;
    acceptor.set_max_proto_version(Some(version))?;
    let (acceptor, listener) = (acceptor.build(), TcpListener::bind("127.0.0.1:0")?);
    let address = listener.local_addr()?;
    thread::spawn(move || {
        loop {
            let talk = || -> Result<(), Failure> {
                let socket = listener.accept()?.0;
                socket.set_nodelay(true)?;
                let mut stream = acceptor.accept(socket)?;
                stream.write_all(b"220 bench\r\n")?;
                let mut heard = [0; 512];
                if stream.read(&mut heard)? > 0 {
                    stream.write_all(b"250 bench\r\n")?;
                }
                io::copy(&mut stream, &mut io::sink())?;
                Ok(())
            };
            let _left = talk();
        }
    });
    Ok(address)
}
