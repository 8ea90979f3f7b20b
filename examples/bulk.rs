//! Sends one message many times, over several connections of a pool. See `--help`.

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::Instant,
};

use indicatif::{ProgressBar, ProgressStyle};
use lexopt::{Arg::*, ValueExt};
use postino::{Delivery, Envelope, Error, Outcome, Raw};

const USAGE: &str = "\
bulk [OPTIONS] FILE
      --server URL       default smtp://localhost
      --from ADDR        envelope sender; \"\" is the null sender
      --to ADDR          recipient; may be given more than once
      --count N          how many times FILE is sent; default 1
      --connections C    number of connections; default 1
      --async            through postino::aio (built with --features async)
      --chunking         by BDAT, if the server offers CHUNKING
      --no-pipelining    wait for each reply before the next command
      --json             print the result as one line of JSON on stdout
      --help             print this help
exit code: 0 if every message was accepted, 1 if not, 64 for a usage error";

/// Files up to this size, in octets, are read once and kept. Larger ones are read anew for each message.
const HELD: u64 = 1024 * 1024;

fn main() -> ExitCode {
    let options = match Options::parse() {
        Ok(Some(options)) => options,
        Ok(None) => {
            drop(writeln!(io::stdout(), "{USAGE}"));
            return ExitCode::SUCCESS;
        }
        Err(e) => return fail(64, &format!("{e} (see --help)")),
    };
    let mail = match options.mail() {
        Ok(mail) => mail,
        Err(e) => return fail(64, &e.to_string()),
    };
    let (tally, begun) = (Tally::new(&options), Instant::now());
    if let Err(e) = send(&options, &mail, &tally) {
        return fail(64, &e.to_string());
    }
    let seconds = begun.elapsed().as_secs_f64();
    tally.bar.finish_and_clear();
    let [accepted, refused, in_doubt] =
        [&tally.accepted, &tally.refused, &tally.in_doubt].map(|n| n.load(Relaxed));
    let sent = accepted + refused + in_doubt;
    let line = if options.json {
        format!(
            "{{\"sent\":{sent},\"accepted\":{accepted},\"refused\":{refused},\"in_doubt\":{in_doubt},\"seconds\":{seconds:.3}}}"
        )
    } else {
        format!(
            "{sent} of {} sent in {seconds:.1} s: {accepted} accepted, {refused} refused, {in_doubt} in doubt",
            options.count
        )
    };
    drop(writeln!(io::stdout(), "{line}"));
    ExitCode::from(u8::from(accepted < options.count))
}

fn fail(code: u8, why: &str) -> ExitCode {
    drop(writeln!(io::stderr(), "bulk: {why}"));
    code.into()
}

/// Counts the outcomes of the messages. Messages that are not counted were not sent.
struct Tally {
    accepted: AtomicU64,
    refused: AtomicU64,
    in_doubt: AtomicU64,
    /// Visible only on a terminal.
    bar: ProgressBar,
}

impl Tally {
    fn new(options: &Options) -> Tally {
        let style = ProgressStyle::with_template("{bar:40} {pos} of {len}, {per_sec}, {eta} left");
        let bar = ProgressBar::new(options.count);
        Tally {
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            in_doubt: AtomicU64::new(0),
            bar: bar.with_style(style.expect("the template is valid")),
        }
    }

    fn count(&self, result: &Result<Delivery, Error>) {
        let outcome = match result {
            Ok(delivery) => delivery.outcome(),
            Err(Error::Transaction { delivery, .. }) => delivery.outcome(),
            Err(_) => Outcome::NotSent,
        };
        match outcome {
            Outcome::Accepted => self.accepted.fetch_add(1, Relaxed),
            Outcome::Refused => self.refused.fetch_add(1, Relaxed),
            Outcome::InDoubt => self.in_doubt.fetch_add(1, Relaxed),
            _ => 0,
        };
        self.bar.inc(1);
    }

    /// Reports a connection that failed; its share of the messages was not sent.
    fn fail(&self, error: &Error) {
        self.bar.suspend(|| fail(1, &error.to_string()));
    }
}

/// Builds the pool of one of the two clients. Only their paths differ.
macro_rules! pool {
    ($client:ty, $pool:ty, $options:expr) => {{
        let options = $options;
        let builder = <$client>::from_url(&options.server)?
            .pipelining(!options.no_pipelining)
            .chunking(options.chunking);
        <$pool>::builder(builder).max_connections(options.connections).build()?
    }};
}

/// # Errors
///
/// Fails if the server's URL is invalid. Later failures are counted, or reported on stderr.
fn send(options: &Options, mail: &Raw<'_>, tally: &Tally) -> Result<(), Error> {
    #[cfg(feature = "async")]
    if options.is_async {
        return smol::block_on(with_tasks(options, mail, tally));
    }
    with_threads(options, mail, tally)
}

/// A thread for each connection.
fn with_threads(options: &Options, mail: &Raw<'_>, tally: &Tally) -> Result<(), Error> {
    let pool = pool!(postino::Client, postino::Pool, options);
    thread::scope(|scope| {
        for share in options.shares() {
            let pool = &pool;
            scope.spawn(move || match pool.send_all((0..share).map(|_| mail)) {
                Ok(batch) => batch.for_each(|(_, result)| tally.count(&result)),
                Err(e) => tally.fail(&e),
            });
        }
    });
    pool.close();
    Ok(())
}

/// A task for each connection, all on this thread.
#[cfg(feature = "async")]
async fn with_tasks(options: &Options, mail: &Raw<'_>, tally: &Tally) -> Result<(), Error> {
    let pool = pool!(postino::aio::Client, postino::aio::Pool, options);
    let executor = smol::LocalExecutor::new();
    let tasks = options.shares().map(|share| {
        let pool = &pool;
        executor.spawn(async move {
            match pool.send_all((0..share).map(|_| mail)).await {
                Ok(mut batch) => {
                    while let Some((_, result)) = batch.next().await {
                        tally.count(&result);
                    }
                }
                Err(e) => tally.fail(&e),
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    executor
        .run(async {
            for task in tasks {
                task.await;
            }
        })
        .await;
    pool.close().await;
    Ok(())
}

struct Options {
    server: String,
    from: String,
    to: Vec<String>,
    count: u64,
    connections: usize,
    is_async: bool,
    chunking: bool,
    no_pipelining: bool,
    json: bool,
    file: String,
}

impl Options {
    /// Returns `None` if help is requested.
    fn parse() -> Result<Option<Options>, lexopt::Error> {
        let mut options = Options {
            server: "smtp://localhost".to_owned(),
            from: String::new(),
            to: Vec::new(),
            count: 1,
            connections: 1,
            is_async: false,
            chunking: false,
            no_pipelining: false,
            json: false,
            file: String::new(),
        };
        let mut args = lexopt::Parser::from_env();
        while let Some(arg) = args.next()? {
            match arg {
                Long("server") => options.server = args.value()?.string()?,
                Long("from") => options.from = args.value()?.string()?,
                Long("to") => options.to.push(args.value()?.string()?),
                Long("count") => options.count = args.value()?.parse()?,
                Long("connections") => options.connections = args.value()?.parse()?,
                Long("async") if cfg!(feature = "async") => options.is_async = true,
                Long("async") => return Err("--async needs a build with --features async".into()),
                Long("chunking") => options.chunking = true,
                Long("no-pipelining") => options.no_pipelining = true,
                Long("json") => options.json = true,
                Long("help") => return Ok(None),
                Value(file) if options.file.is_empty() => options.file = file.string()?,
                _ => return Err(arg.unexpected()),
            }
        }
        match (options.file.is_empty(), options.connections) {
            (true, _) => Err("FILE is missing".into()),
            (_, 0) => Err("--connections must be at least 1".into()),
            _ => Ok(Some(options)),
        }
    }

    fn mail(&self) -> Result<Raw<'static>, Error> {
        let envelope = Envelope::new(&self.from, &self.to)?;
        let size = std::fs::metadata(&self.file).map_err(Error::Source)?.len();
        Ok(if size <= HELD {
            Raw::bytes(envelope, std::fs::read(&self.file).map_err(Error::Source)?)
        } else {
            Raw::path(envelope, &self.file)
        })
    }

    /// The number of messages for each connection.
    fn shares(&self) -> impl Iterator<Item = u64> {
        let (connections, count) = (self.connections as u64, self.count);
        let shares = (0..connections).map(move |n| count / connections + u64::from(n < count % connections));
        shares.filter(|share| *share > 0)
    }
}
