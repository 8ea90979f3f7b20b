//! Cost or gain of pipelining: the same messages over one connection, pipelined and one command at a time.
//!
//! ```text
//! tests/interop/servers up
//! cargo bench --features async --bench pipelining            # 9 rounds: some minutes
//! cargo bench --features async --bench pipelining -- 3       # 3 rounds
//! cargo bench --features async --bench pipelining -- 9 postfix careless
//! ```
//!
//! Prints a Markdown table: 60 messages of 1 KiB to each real server that is running, and to two doubles that are careless in
//! the same ways as some real servers (`tests/support/rules`), with both clients, by `send` and by `send_all`. In each
//! round, each row is measured twice, pipelined and not, in turns. The medians are in milliseconds per message. The ratio is
//! the median of the ratios of the pairs, and should be at most 1.1 everywhere. Connecting and the first message are not
//! measured.

#[path = "../tests/support/rules/mod.rs"]
mod rules;
#[path = "../tests/interop/servers.rs"]
#[allow(dead_code)] // most of it is for tests
mod servers;

use std::{
    env,
    num::ParseIntError,
    time::{Duration, Instant},
};

use postino::{Envelope, Error, Raw, Security, aio};

use rules::{Joined, Ruled, Rules};
use servers::Server;

const MESSAGES: usize = 60;
const ROUNDS: usize = 9;
const LIMIT: Duration = Duration::from_secs(20);

fn main() -> Result<(), ParseIntError> {
    // cargo bench adds --bench.
    let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench").peekable();
    let rounds = arguments.next_if(|argument| argument.parse::<usize>().is_ok());
    let rounds = rounds.map_or(Ok(ROUNDS), |rounds| rounds.parse())?;
    let only: Vec<String> = arguments.collect();

    println!("| server | client | call | one at a time, ms | pipelined, ms | ratio | damaged |");
    println!("|---|---|---|---|---|---|---|");
    for target in targets() {
        if !only.is_empty() && !only.iter().any(|name| target.name.starts_with(name.as_str())) {
            continue;
        }
        for client in [Client::Blocking, Client::Async] {
            for call in [Call::Send, Call::SendAll] {
                let figures = row(&target, client, call, rounds);
                println!("| {} | {} | `{}` | {figures} |", target.name, client.name(), call.name());
            }
        }
    }
    Ok(())
}

struct Target {
    name: String,
    port: u16,
    security: Security,
    login: bool,
    to: &'static str,
    /// A double, which reports what it has stored.
    careless: Option<Ruled>,
}

impl Target {
    /// Number of messages of the last measurement that arrived damaged. Unknown for real servers.
    fn damaged(&self) -> Option<usize> {
        let (sent, stored) = (content(), self.careless.as_ref()?.take().stored);
        Some(MESSAGES + 1 - stored.iter().filter(|message| message.content.as_bytes() == sent).count())
    }
}

fn targets() -> Vec<Target> {
    let real = servers::ALL.into_iter().filter(Server::is_up).flat_map(|server| {
        let login = server.open.is_none();
        let port = server.open.unwrap_or(server.submission);
        let target = move |name, security| Target {
            name: format!("{}{name}", server.name),
            port,
            security,
            login,
            to: "alice@lab.test",
            careless: None,
        };
        [target(", in the clear", Security::Plaintext), target(", STARTTLS", Security::StartTls)]
    });
    let own = [
        (
            "careless: writes reply by reply, Nagle on",
            Rules { writes_reply_by_reply: true, ..Rules::default() },
        ),
        ("careless: ends messages with reads", Rules { joined: Joined::Stored, ..Rules::default() }),
    ];
    let own = own.map(|(name, rules)| {
        let careless = Ruled::start(Rules { keywords: vec!["PIPELINING", "8BITMIME"], ..rules });
        let (port, security) = (careless.port(), Security::Plaintext);
        Target {
            name: name.into(),
            port,
            security,
            login: false,
            to: "b@example.net",
            careless: Some(careless),
        }
    });
    real.chain(own).collect()
}

#[derive(Clone, Copy)]
enum Client {
    Blocking,
    Async,
}

impl Client {
    fn name(self) -> &'static str {
        match self {
            Client::Blocking => "blocking",
            Client::Async => "async",
        }
    }
}

#[derive(Clone, Copy)]
enum Call {
    Send,
    SendAll,
}

impl Call {
    fn name(self) -> &'static str {
        match self {
            Call::Send => "send",
            Call::SendAll => "send_all",
        }
    }
}

/// The figures of one row, or why they are missing.
fn row(target: &Target, client: Client, call: Call, rounds: usize) -> String {
    let (mut single, mut pipelined, mut ratios, mut damaged) = (Vec::new(), Vec::new(), Vec::new(), None);
    for round in 0..rounds {
        let mut took = [0.0; 2];
        for pipelining in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            match measure(target, client, call, pipelining == 1) {
                Ok(milliseconds) => took[pipelining] = milliseconds,
                Err(e) => return format!("failed: {e} | | | {}", shown(target.damaged())),
            }
            damaged = target.damaged().map(|now| now + damaged.unwrap_or(0));
        }
        single.push(took[0]);
        pipelined.push(took[1]);
        ratios.push(took[1] / took[0]);
    }
    let [single, pipelined, ratio] = [single, pipelined, ratios].map(median);
    format!("{single:.2} | {pipelined:.2} | {ratio:.2} | {}", shown(damaged))
}

fn shown(damaged: Option<usize>) -> String {
    damaged.map_or_else(String::new, |damaged| damaged.to_string())
}

/// Milliseconds per message.
fn measure(target: &Target, client: Client, call: Call, pipelining: bool) -> Result<f64, Error> {
    let took = match client {
        Client::Blocking => blocking(target, call, pipelining)?,
        Client::Async => smol::block_on(awaited(target, call, pipelining))?,
    };
    Ok(took.as_secs_f64() * 1e3 / MESSAGES as f64)
}

/// The same settings for both clients, whose builders are two types.
macro_rules! builder {
    ($client:ty, $target:expr, $pipelining:expr) => {{
        let builder = <$client>::builder("127.0.0.1").port($target.port).security($target.security);
        let mut builder = builder.hello_name("client.lab.test").pipelining($pipelining).deadline(LIMIT);
        if $target.careless.is_none() {
            builder = builder.ca_certificate(servers::ca());
        }
        if $target.login { builder.credentials(servers::USER, servers::PASSWORD) } else { builder }
    }};
}

fn blocking(target: &Target, call: Call, pipelining: bool) -> Result<Duration, Error> {
    let mut client = builder!(postino::Client, target, pipelining).connect()?;
    let _warm = client.send(&mail(target))?;
    let mails: Vec<_> = (0..MESSAGES).map(|_| mail(target)).collect();
    let start = Instant::now();
    match call {
        Call::Send => mails.iter().try_for_each(|mail| client.send(mail).map(drop))?,
        Call::SendAll => client.send_all(mails).try_for_each(|(_, result)| result.map(drop))?,
    }
    let took = start.elapsed();
    client.quit()?;
    Ok(took)
}

async fn awaited(target: &Target, call: Call, pipelining: bool) -> Result<Duration, Error> {
    let mut client = builder!(aio::Client, target, pipelining).connect().await?;
    let _warm = client.send(&mail(target)).await?;
    let mails: Vec<_> = (0..MESSAGES).map(|_| mail(target)).collect();
    let start = Instant::now();
    match call {
        Call::Send => {
            for mail in &mails {
                let _accepted = client.send(mail).await?;
            }
        }
        Call::SendAll => {
            let mut batch = client.send_all(mails);
            while let Some((_, result)) = batch.next().await {
                let _accepted = result?;
            }
        }
    }
    let took = start.elapsed();
    client.quit().await?;
    Ok(took)
}

fn mail(target: &Target) -> Raw<'static> {
    let envelope = Envelope::new("bob@lab.test", [target.to]).expect("the addresses are valid");
    Raw::bytes(envelope, content())
}

/// A message of 1 KiB.
fn content() -> Vec<u8> {
    let head = b"From: bob@lab.test\r\nTo: alice@lab.test\r\nSubject: 1 KiB\r\n\
        Date: Thu, 1 Jan 2026 00:00:00 +0000\r\nMessage-ID: <1@lab.test>\r\n\r\n";
    let mut content = head.to_vec();
    while content.len() < 1024 {
        let line = (1024 - content.len() - 2).min(70);
        content.extend(vec![b'x'; line]);
        content.extend(b"\r\n");
    }
    content
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
