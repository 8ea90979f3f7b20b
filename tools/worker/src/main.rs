//! `postino-worker`: runs workers, queues mail, and shows what became of it. See the README.

#![forbid(unsafe_code)]

mod settings;

use std::{
    io::{self, IsTerminal, Read, Write},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use diesel::{Connection, PgConnection};
use lexopt::{
    Arg::{Long, Short, Value},
    Parser, ValueExt,
};
use postino::message::date_time;
use postino_worker::{Error, NewMail, Stop, admin, check, enqueue, migrate, run};
use settings::{Program, parse_duration};
use signal_hook::consts::{SIGINT, SIGTERM};

const USAGE: &str = "\
Usage: postino-worker [OPTION]... COMMAND

Commands:
  migrate                         creates or updates the queue in the database
  run [--until-empty]             sends mail until SIGTERM, or until none can be sent now
  enqueue -f SENDER RECIPIENT...  queues the message on standard input
  status [--watch]                shows the numbers of each lane
  doubt list                      lists mail that may have been delivered
  doubt resend ID...              sends such mail again, which can duplicate it
  doubt accept ID...              records that such mail has arrived
  retry ID...                     sends refused mail again, or mail that waits for a retry now
  pause LANE, resume LANE         stops and continues a lane, on all machines
  purge [--older-than 30d]        deletes mail that was accepted by all recipients

Options:
  -c, --config FILE     the configuration; otherwise $POSTINO_WORKER_CONFIG or /etc/postino-worker.toml
  -d, --database URL    the database; otherwise $POSTINO_WORKER_DATABASE, $DATABASE_URL or that of the configuration
  -s, --server URL      the server of the lane `default`; otherwise $POSTINO_WORKER_URL or that of the configuration
      --migrate         first creates or updates the queue, as `migrate` does
  -q, -v                with run: -q logs only warnings, -v logs the SMTP dialogue too

Options of enqueue:
  -f, --from SENDER     the sender of the envelope; an empty one is the null reverse-path
      --lane NAME       the lane; otherwise `default`
      --dedup KEY       a second mail with this key is not queued
      --file PATH       a file in the folder `files` of the worker, instead of standard input

Options of purge:
      --older-than TIME  such as 12h or 30d (the default)
      --refused          deletes refused mail too";

/// The command line.
#[derive(Default)]
struct Options {
    config: Option<PathBuf>,
    database: Option<String>,
    server: Option<String>,
    migrate: bool,
    verbosity: i32,
    from: Option<String>,
    lane: Option<String>,
    dedup: Option<String>,
    file: Option<String>,
    older_than: Option<Duration>,
    refused: bool,
    watch: bool,
    until_empty: bool,
    words: Vec<String>,
}

/// Why the program fails.
enum Failure {
    Usage(String),
    Other(String),
}

impl From<lexopt::Error> for Failure {
    fn from(e: lexopt::Error) -> Failure {
        Failure::Usage(e.to_string())
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure::Other(e.to_string())
    }
}

fn main() -> ExitCode {
    match command() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(why)) => {
            tell(&format!("{why} (see --help)"));
            ExitCode::from(64)
        }
        Err(Failure::Other(why)) => {
            tell(&why);
            ExitCode::FAILURE
        }
    }
}

fn command() -> Result<(), Failure> {
    let Some(options) = read_options()? else {
        say(USAGE)?;
        return Ok(());
    };
    let words: Vec<&str> = options.words.iter().map(String::as_str).collect();
    let (command, rest) = words.split_first().ok_or_else(|| Failure::Usage("no command".to_owned()))?;
    let Program { mut settings, grace } = settings::read(options.config.clone(), options.server.clone())?;
    if let Some(database) = &options.database {
        settings.database.clone_from(database);
    }
    if settings.database.is_empty() {
        return Err(Failure::Usage("no database: set --database or POSTINO_WORKER_DATABASE".to_owned()));
    }
    let connect = || -> Result<PgConnection, Failure> {
        let mut connection = PgConnection::establish(&settings.database).map_err(Error::Connection)?;
        if options.migrate || *command == "migrate" {
            migrate(&mut connection)?;
        } else {
            check(&mut connection)?;
        }
        Ok(connection)
    };
    match (*command, rest) {
        ("migrate", []) => connect().map(drop),
        ("run", []) => {
            if options.migrate {
                connect()?;
            }
            if settings.lanes.is_empty() {
                return Err(Failure::Usage("no lane: set --server, or write a configuration".to_owned()));
            }
            settings.until_empty = options.until_empty;
            work(&settings, grace, options.verbosity)
        }
        ("enqueue", recipients) => queue(&mut connect()?, &options, recipients),
        ("status", []) => status(&mut connect()?, options.watch),
        ("doubt", ["list"]) => list_doubts(&mut connect()?),
        ("doubt", ["resend", ids @ ..]) => each(&mut connect()?, ids, "in doubt", admin::resend),
        ("doubt", ["accept", ids @ ..]) => each(&mut connect()?, ids, "in doubt", admin::accept),
        ("retry", ids) => each(&mut connect()?, ids, "refused or waiting", admin::retry),
        ("pause" | "resume", [lane]) => {
            if !admin::pause(&mut connect()?, lane, *command == "pause")? {
                return Err(Failure::Other(format!("there is no lane named {lane}")));
            }
            Ok(())
        }
        ("purge", []) => {
            let states: &[&str] = if options.refused { &["accepted", "refused"] } else { &["accepted"] };
            let age = options.older_than.unwrap_or(Duration::from_secs(30 * 86_400));
            let purged = admin::purge(&mut connect()?, states, age)?;
            say(&format!("{purged} deleted"))
        }
        _ => Err(Failure::Usage(format!("unknown command or arguments: {}", words.join(" ")))),
    }
}

/// Reads the command line. Returns `None` if help is requested.
fn read_options() -> Result<Option<Options>, Failure> {
    let mut options = Options::default();
    let mut parser = Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(None),
            Short('c') | Long("config") => options.config = Some(parser.value()?.into()),
            Short('d') | Long("database") => options.database = Some(parser.value()?.string()?),
            Short('s') | Long("server") => options.server = Some(parser.value()?.string()?),
            Long("migrate") => options.migrate = true,
            Short('q') => options.verbosity -= 1,
            Short('v') => options.verbosity += 1,
            Short('f') | Long("from") => options.from = Some(parser.value()?.string()?),
            Long("lane") => options.lane = Some(parser.value()?.string()?),
            Long("dedup") => options.dedup = Some(parser.value()?.string()?),
            Long("file") => options.file = Some(parser.value()?.string()?),
            Long("older-than") => {
                let text = parser.value()?.string()?;
                let age = parse_duration(&text);
                options.older_than =
                    Some(age.ok_or_else(|| Failure::Usage(format!("not a duration: {text}")))?);
            }
            Long("refused") => options.refused = true,
            Long("watch") => options.watch = true,
            Long("until-empty") => options.until_empty = true,
            Value(word) => options.words.push(word.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(options))
}

/// Runs the workers until a signal. The first signal stops them gracefully. The second one, or the end of the grace
/// period, stops them at once.
fn work(settings: &postino_worker::Settings, grace: Duration, verbosity: i32) -> Result<(), Failure> {
    let logger: &'static ToStderr = match verbosity {
        ..0 => &ToStderr(log::LevelFilter::Warn, log::LevelFilter::Warn),
        0 => &ToStderr(log::LevelFilter::Info, log::LevelFilter::Warn),
        1.. => &ToStderr(log::LevelFilter::Debug, log::LevelFilter::Debug),
    };
    if log::set_logger(logger).is_ok() {
        log::set_max_level(logger.0.max(logger.1));
    }
    let signals = Arc::new(AtomicUsize::new(0));
    let stop = Stop::new();
    for signal in [SIGTERM, SIGINT] {
        // The watcher resets the value, so that it notices the second signal.
        let counted = signals.clone();
        let registered = signal_hook::flag::register_usize(signal, counted, signal.unsigned_abs() as usize);
        registered.map_err(|e| Failure::Other(format!("cannot handle signals: {e}")))?;
    }
    let is_over = Arc::new(AtomicUsize::new(0));
    let watcher = thread::spawn({
        let (stop, signals, is_over) = (stop.clone(), signals.clone(), is_over.clone());
        move || {
            let mut stopped: Option<Instant> = None;
            while is_over.load(Ordering::SeqCst) == 0 {
                thread::sleep(Duration::from_millis(50));
                let signalled = signals.swap(0, Ordering::SeqCst) != 0;
                match stopped {
                    None if signalled => {
                        log::info!("stopping");
                        stop.stop();
                        stopped = Some(Instant::now());
                    }
                    Some(since) if signalled || since.elapsed() > grace => {
                        log::warn!("closing connections");
                        stop.abort();
                        return;
                    }
                    _ => {}
                }
            }
        }
    });
    let result = run(settings, &stop);
    is_over.store(1, Ordering::SeqCst);
    drop(watcher.join());
    Ok(result?)
}

fn queue(connection: &mut PgConnection, options: &Options, recipients: &[&str]) -> Result<(), Failure> {
    let from =
        options.from.as_deref().ok_or_else(|| Failure::Usage("enqueue: --from is missing".to_owned()))?;
    let mut mail = match &options.file {
        Some(path) => NewMail::file(from, recipients, path.as_str())?,
        None => {
            let mut message = Vec::new();
            let limit = postino_worker::MAX_CONTENT as u64 + 1;
            let read = io::stdin().take(limit).read_to_end(&mut message);
            read.map_err(|e| Failure::Other(format!("could not read standard input: {e}")))?;
            NewMail::new(from, recipients, message)?
        }
    };
    if let Some(lane) = &options.lane {
        mail = mail.lane(lane);
    }
    if let Some(key) = &options.dedup {
        mail = mail.dedup(key);
    }
    let queued = enqueue(connection, &mail)?;
    say(&if queued.is_new { queued.id.to_string() } else { format!("{} (queued before)", queued.id) })
}

fn each(
    connection: &mut PgConnection,
    ids: &[&str],
    state: &str,
    change: fn(&mut PgConnection, i64) -> Result<bool, Error>,
) -> Result<(), Failure> {
    if ids.is_empty() {
        return Err(Failure::Usage("an id is missing".to_owned()));
    }
    let mut missed = Vec::new();
    for text in ids {
        let id = text.parse().map_err(|_| Failure::Usage(format!("not an id: {text}")))?;
        if !change(connection, id)? {
            missed.push(*text);
        }
    }
    if missed.is_empty() { Ok(()) } else { Err(Failure::Other(format!("not {state}: {}", missed.join(" ")))) }
}

fn list_doubts(connection: &mut PgConnection) -> Result<(), Failure> {
    let mut after = 0;
    loop {
        let doubts = admin::doubts(connection, after, 1000)?;
        let Some(last) = doubts.last() else { return Ok(()) };
        after = last.id;
        for doubt in doubts {
            let recipients = match doubt.recipients.len() {
                0..=3 => doubt.recipients.join(", "),
                many => format!("{} and {} more", doubt.recipients[..3].join(", "), many - 3),
            };
            let key = doubt.dedup.map(|key| format!(" [{key}]")).unwrap_or_default();
            // A producer chooses the key, and can write control characters into it.
            say(&printable(&format!(
                "{}{key} {} lane {} {} <{}> to {recipients}: {}",
                doubt.id, doubt.since, doubt.lane, doubt.message_id, doubt.sender, doubt.reason
            )))?;
        }
    }
}

fn status(connection: &mut PgConnection, watch: bool) -> Result<(), Failure> {
    let mut before: Option<(Instant, Vec<admin::LaneStatus>)> = None;
    loop {
        let lanes = admin::status(connection)?;
        let now = Instant::now();
        let rate = |lane: &admin::LaneStatus| match &before {
            Some((then, old)) => {
                let old =
                    old.iter().find(|old| old.lane == lane.lane).map_or(lane.accepted, |old| old.accepted);
                (lane.accepted - old) as f64 / now.duration_since(*then).as_secs_f64()
            }
            None => lane.accepted_last_minute as f64 / 60.0,
        };
        let mut text = format!(
            "{:<16}{:>9}{:>9}{:>9}{:>9}{:>11}{:>9}{:>8}{:>9}{:>9}  note\n",
            "lane",
            "ready",
            "due",
            "retrying",
            "sending",
            "accepted",
            "refused",
            "doubt",
            "mails/s",
            "oldest"
        );
        for lane in &lanes {
            let oldest = lane.oldest.map_or("-".to_owned(), |seconds| format!("{seconds:.0} s"));
            let note = match (&lane.failure, lane.paused) {
                (_, true) => "paused".to_owned(),
                (Some(why), _) => printable(why),
                (None, _) => format!("{} connections", lane.workers),
            };
            text.push_str(&format!(
                "{:<16}{:>9}{:>9}{:>9}{:>9}{:>11}{:>9}{:>8}{:>9.1}{:>9}  {note}\n",
                printable(&lane.lane),
                lane.ready,
                lane.due,
                lane.retrying,
                lane.sending,
                lane.accepted,
                lane.refused,
                lane.doubt,
                rate(lane),
                oldest,
            ));
        }
        if watch && io::stdout().is_terminal() {
            text = format!("\x1b[H\x1b[2J{text}");
        }
        say(text.trim_end())?;
        if !watch {
            return Ok(());
        }
        before = Some((now, lanes));
        thread::sleep(Duration::from_secs(2));
    }
}

/// Replaces control characters, which a server's reply can contain.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn say(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout(), "{text}")
        .map_err(|e| Failure::Other(format!("could not write to standard output: {e}")))
}

fn tell(text: &str) {
    drop(writeln!(io::stderr(), "postino-worker: {}", printable(text)));
}

/// Logs to stderr, with a maximum level for this program and one for the library.
struct ToStderr(log::LevelFilter, log::LevelFilter);

impl log::Log for ToStderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        let limit = if metadata.target().starts_with("postino_worker") { self.0 } else { self.1 };
        metadata.level() <= limit
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let time = date_time(SystemTime::now()).unwrap_or_default();
            let text = printable(&record.args().to_string());
            drop(writeln!(io::stderr(), "{time} {} {text}", record.level()));
        }
    }

    fn flush(&self) {}
}
