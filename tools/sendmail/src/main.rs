//! A small `sendmail`: reads the message from stdin, and reports the result by its exit code. See `--help`.
//!
//! | module | task |
//! |---|---|
//! | `options` | the command line |
//! | `privilege` | set-group-ID mode |
//! | `config`, `paths`, `duration` | the configuration file and its place |
//! | `accounts`, `secret` | the choice of the account, and its login |
//! | `identity` | the calling user and the domain |
//! | `message`, `aliases` | the message and its envelope |
//! | `domains` | completing the headers |
//! | `submit`, `report`, `syslog`, `id` | sending, and what is said about it |
//! | `queue`, `spool` | messages that cannot be sent now: storing them, `-q`, `mailq` |
//! | `smtp_server` | `-bs` |
//! | `check`, `import` | `--check`, `--print-config` and `--import-msmtprc` |
//!
//! The `config`, `smtp-server` and `spool` features leave out modules. Small ones (`without_*`) take the place of those
//! that the rest needs, so that the rest has no conditions.

// A program with fewer features leaves some of what the modules share unused.
#![cfg_attr(not(all(feature = "config", feature = "smtp-server", feature = "spool")), allow(dead_code))]

mod accounts;
mod aliases;
#[cfg(feature = "config")]
mod check;
mod config;
mod domains;
mod duration;
mod failure;
mod id;
mod identity;
#[cfg(feature = "config")]
mod import;
mod message;
mod options;
mod paths;
#[cfg(feature = "config")]
mod privilege;
#[cfg(not(feature = "config"))]
#[path = "without_privilege.rs"]
mod privilege;
#[cfg(feature = "spool")]
mod queue;
#[cfg(not(feature = "spool"))]
#[path = "without_queue.rs"]
mod queue;
mod report;
#[cfg(feature = "config")]
mod secret;
#[cfg(not(feature = "config"))]
#[path = "without_secret.rs"]
mod secret;
#[cfg(feature = "smtp-server")]
mod smtp_server;
#[cfg(feature = "spool")]
mod spool;
mod submit;
mod syslog;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use crate::{
    accounts::Trouble,
    config::{Config, Log},
    failure::{CONFIG, Failure, USAGE},
    message::{Local, Message},
    options::{Mode, Options},
    paths::Paths,
    privilege::Lent,
    report::Report,
    submit::Submitter,
    syslog::{Entry, Logger, Status},
};

fn main() -> ExitCode {
    let code = run().unwrap_or_else(|failure| {
        tell(&failure.text);
        failure.code
    });
    code.into()
}

fn run() -> Result<u8, Failure> {
    let lent = privilege::enter()?;
    let options =
        Options::parse().map_err(|e| log_failure(Failure::new(USAGE, format!("{e} (see --help)"))))?;
    match options.mode {
        Mode::Help => return Ok(print(options::USAGE)),
        Mode::Version => return Ok(print(concat!("postino-sendmail ", env!("CARGO_PKG_VERSION")))),
        _ => {}
    }
    if let (Some(_), Some(name)) = (lent, options.privileged()) {
        let why = "is not allowed: the program is set-group-ID, and protects the password of the system's configuration";
        return Err(Failure::new(USAGE, format!("{name} {why} (use ~/.config/postino.conf)")));
    }
    if options.verbose > 1 && log::set_logger(&ToStderr).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
    match options.mode {
        #[cfg(feature = "smtp-server")]
        Mode::Serve => serve(&options, lent),
        Mode::CheckAliases => {
            let aliases = load(&options, lent)?.1.aliases?;
            let errors = aliases.errors();
            errors.iter().for_each(|failure| tell(&failure.text));
            say(&aliases.summary());
            Ok(if errors.is_empty() { 0 } else { CONFIG })
        }
        #[cfg(feature = "config")]
        Mode::Check => check(&options, lent),
        Mode::ListSpool => Ok(queue::list(&mut load(&options, lent)?.0)?),
        Mode::RunSpool => {
            let (mut submitter, local) = load(&options, lent)?;
            queue::run(&mut submitter, &options, &local)
        }
        Mode::ResendSpooled | Mode::RemoveSpooled => queue::change(&mut load(&options, lent)?.0, &options),
        #[cfg(feature = "config")]
        Mode::PrintConfig => {
            let (submitter, local) = load(&options, lent)?;
            Ok(print(&check::print_config(&submitter.config, &local)))
        }
        #[cfg(feature = "config")]
        Mode::ImportMsmtprc => Ok(print(&import::read(&options)?)),
        Mode::Send => Ok(send(&options, lent)),
        // Not all features are on.
        #[allow(unreachable_patterns)]
        _ => Err(Failure::new(
            USAGE,
            "this program was built without this option (features config, smtp-server)",
        )),
    }
}

/// Reads all files of the configuration.
fn load(options: &Options, lent: Option<Lent>) -> Result<(Submitter, Local), Failure> {
    let paths = Paths::from_env();
    let has_server = !matches!(options.server(), Ok(None));
    let mut config = Config::load(&paths, lent, options.config.as_deref(), has_server)?;
    if options.queue {
        config.spool.folder.get_or_insert_with(|| paths.spool());
    }
    let local = Local::load(&config, &paths);
    let logger = Logger::new(&config.log, &paths);
    Ok((Submitter { config, lent, logger }, local))
}

/// Sends the message on stdin.
fn send(options: &Options, lent: Option<Lent>) -> u8 {
    let (mut submitter, local) = match load(options, lent) {
        Ok(loaded) => loaded,
        Err(failure) => {
            let failure = log_failure(failure);
            return Report::new(options, Err(Trouble::Config(failure))).print(options, &options.recipients);
        }
    };
    match Message::read(options, &local) {
        Ok(mut message) => {
            let report = submitter.submit(options, &mut message);
            report.print(options, &message.known_recipients())
        }
        Err(e) => Report::new(options, Err(Trouble::Smtp(e))).print(options, &options.recipients),
    }
}

/// Writes a failure to the log of the system. Callers such as cron do not show what they are told on standard error.
fn log_failure(failure: Failure) -> Failure {
    let logger = Logger::new(&Log::Syslog, &Paths::from_env());
    let status = Status::of_failure(failure.code);
    let result = &failure.text;
    logger.log(&Entry { id: "-", envelope: None, relay: "", status, code: failure.code, result });
    failure
}

/// Serves SMTP on stdin and stdout. Each message can have another account, so the group is suspended and not given up.
#[cfg(feature = "smtp-server")]
fn serve(options: &Options, lent: Option<Lent>) -> Result<u8, Failure> {
    let (mut submitter, local) = load(options, lent).map_err(log_failure)?;
    submitter.lent = None;
    let name = if local.domain.is_empty() { "localhost" } else { &local.domain };
    let reply = |submission| submit::reply_to(&mut submitter, options, &local, submission);
    match smtp_server::serve(smtp_server::Stdin, io::stdout(), name, smtp_server::Limits::default(), reply) {
        Ok(smtp_server::End::Done) => Ok(0),
        Ok(smtp_server::End::Aborted) => Ok(75),
        Err(e) => Err(Failure::new(74, format!("the SMTP session failed: {e}"))),
    }
}

/// Checks the aliases and the spool, connects and logs in, and prints what was found.
#[cfg(feature = "config")]
fn check(options: &Options, lent: Option<Lent>) -> Result<u8, Failure> {
    let (mut submitter, local) = load(options, lent)?;
    let sender = options.from.as_deref().and_then(|from| postino::Address::new(from).ok());
    let account = submitter.config.choose(options.account.as_deref(), sender.as_ref())?;
    say(&format!("configuration: {} ({})", submitter.config.origin(), account.title()));
    let (lines, failures) = check::describe_local(&submitter.config, &local);
    say(&lines);
    failures.iter().for_each(|failure| tell(&failure.text));
    let found = submitter.server(options, &account).and_then(|server| {
        let report = submit::builder(options, &server)?.verify().map_err(|e| server.trouble(e))?;
        Ok(check::describe(&server, &report))
    });
    match found {
        Ok(text) => {
            say(text.trim_end());
            Ok(failures.first().map_or(0, |failure| failure.code))
        }
        Err(trouble) => Ok(Report::new(options, Err(trouble)).print(options, &[])),
    }
}

/// Logs the dialogue to stderr.
struct ToStderr;

impl log::Log for ToStderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "postino"
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            drop(writeln!(io::stderr(), "{}", record.args()));
        }
    }

    fn flush(&self) {}
}

/// Prints a line on stdout. If stdout is closed, the message is sent nevertheless.
fn say(text: &str) {
    drop(writeln!(io::stdout(), "{text}"));
}

/// Prints text on stdout, and returns the exit code for success.
fn print(text: &str) -> u8 {
    say(text.trim_end());
    0
}

/// Prints one line on stderr.
fn tell(text: &str) {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    drop(writeln!(io::stderr(), "sendmail: {line}"));
}
