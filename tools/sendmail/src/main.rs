//! A small `sendmail`: reads the message from stdin, and reports the result by its exit code. See `--help`.

mod message;
mod options;
mod report;
mod spool;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use postino::{Delivery, Error};

use crate::{
    message::Message,
    options::{Options, USAGE, read},
    report::{exit_code, json, tell_recipients},
};

fn main() -> ExitCode {
    let options = match Options::parse() {
        Ok(Some(options)) => options,
        Ok(None) => {
            say(USAGE.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            tell(&format!("{e} (see --help)"));
            return 64.into();
        }
    };
    if options.verbose > 1 && log::set_logger(&ToStderr).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }

    let message = Message::read(&options);
    let known = message.as_ref().map_or_else(|_| options.recipients.clone(), Message::known_recipients);
    let result = message.and_then(|message| send(&options, &message));

    let reply = match &result {
        Ok(delivery) => delivery.reply(),
        Err(e) => e.reply(),
    };
    match reply {
        _ if options.json => say(&json(&result, &known, reply)),
        Some(reply) if options.verbose > 0 => say(&reply.to_string()),
        _ => {}
    }
    let code = match &result {
        Ok(delivery) => tell_recipients(delivery),
        Err(e) => {
            tell(&e.to_string());
            match e {
                Error::NoRecipients if !options.from_headers => 64, // they belong on the command line
                _ => exit_code(e),
            }
        }
    };
    code.into()
}

/// Sets up the builder of one of the two clients. Only their paths differ.
macro_rules! builder {
    ($client:ty, $options:expr) => {{
        let options = $options;
        let mut builder = <$client>::from_url(&options.server()?)?
            .pipelining(!options.no_pipelining)
            .chunking(options.chunking)
            .all_or_nothing(options.all_or_nothing);
        if let Some(limit) = options.timeout {
            builder = builder.timeout(limit).final_reply_timeout(limit);
        }
        if let Some(limit) = options.deadline {
            builder = builder.deadline(limit);
        }
        if let Some(name) = &options.name {
            builder = builder.hello_name(name);
        }
        if let Some(path) = &options.cafile {
            builder = builder.ca_certificate(read(path)?);
        }
        if let Some(path) = &options.cert {
            builder = builder.client_certificate(read(path)?, read(options.key.as_ref().unwrap_or(path))?);
        }
        if options.is_external() {
            builder = builder.external("");
        }
        if let Some(user) = &options.user {
            builder = builder.oauth_token(user, options.token()?);
        }
        if let Some(names) = &options.auth {
            builder = builder.auth_mechanisms(names.split(','));
        }
        builder
    }};
}

fn send(options: &Options, message: &Message) -> Result<Delivery, Error> {
    #[cfg(feature = "async")]
    if options.is_async {
        return smol::block_on(builder!(postino::aio::Client, options).send(message));
    }
    builder!(postino::Client, options).send(message)
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

/// Prints one line on stderr.
fn tell(text: &str) {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    drop(writeln!(io::stderr(), "sendmail: {line}"));
}
