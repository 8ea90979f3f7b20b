//! The result: lines on standard error, the exit code, and one line of JSON.

use std::io;

use postino::{Delivery, Error, Outcome, Phase, Reply};

use crate::{
    accounts::{HAS_TLS, Trouble},
    failure::Failure,
    options::Options,
    say,
    syslog::Status,
    tell,
};

/// The result of sending one message.
pub struct Report {
    pub result: Result<Delivery, Error>,
    pub code: u8,
    /// One line for each recipient that the message was not accepted for, or for the error.
    pub lines: Vec<String>,
    /// The identifier in the spool, if the message is there.
    pub spooled: Option<String>,
}

impl Report {
    pub fn new(options: &Options, result: Result<Delivery, Trouble>) -> Report {
        match result {
            Ok(delivery) => {
                let (code, lines) = refused_recipients(&delivery);
                Report { result: Ok(delivery), code, lines, spooled: None }
            }
            Err(Trouble::Config(failure)) => Report {
                code: failure.code,
                lines: vec![failure.text.clone()],
                result: Err(Error::Config(failure.text.into())),
                spooled: None,
            },
            Err(Trouble::Smtp(error)) => {
                let code = match error {
                    Error::NoRecipients if !options.from_headers => 64, // they belong on the command line
                    _ => exit_code(&error),
                };
                Report { code, lines: vec![text(&error)], result: Err(error), spooled: None }
            }
        }
    }

    /// Returns the final reply, or the refusal.
    pub fn reply(&self) -> Option<&Reply> {
        match &self.result {
            Ok(delivery) => delivery.reply(),
            Err(e) => e.reply(),
        }
    }

    /// Returns what became of the message.
    pub fn status(&self) -> Status {
        match (status(&self.result, self.code), &self.spooled) {
            (Status::Sent | Status::Deferred | Status::Failed, Some(_)) => Status::Queued,
            (status, _) => status,
        }
    }

    /// Returns the result for the log and for a reply.
    pub fn summary(&self) -> String {
        let result = match self.reply() {
            Some(reply) if self.code == 0 && self.spooled.is_none() => reply.to_string(),
            _ => self.lines.join("; "),
        };
        match &self.spooled {
            Some(id) => format!("in the spool as {id}: {result}"),
            None => result,
        }
    }

    /// Notes that what was not sent is in the spool. Only refusals and doubt are failures then.
    pub fn spooled(mut self, id: &str, is_refused: bool, is_in_doubt: bool) -> Report {
        self.code = match self.code {
            _ if is_in_doubt => 74,
            75 if is_refused => 67,
            code if is_refused => code,
            _ => 0,
        };
        self.spooled = Some(id.to_owned());
        self
    }

    /// Notes that the message was sent, and that the rest is not in the spool. It must not simply be sent again.
    pub fn not_spooled(mut self, failure: &Failure) -> Report {
        self.code = 74;
        self.lines.push(failure.text.clone());
        self
    }

    fn json(&self, known: &[String], reply: Option<&Reply>) -> String {
        let json = json(&self.result, known, reply);
        match (&self.spooled, json.strip_suffix('}')) {
            (Some(id), Some(json)) => format!(r#"{json},"spooled":{}}}"#, quoted(Some(id))),
            _ => json,
        }
    }

    /// Prints the result, and returns the exit code.
    pub fn print(&self, options: &Options, known: &[String]) -> u8 {
        match self.reply() {
            reply if options.json => say(&self.json(known, reply)),
            Some(reply) if options.verbose > 0 => say(&reply.to_string()),
            _ => {}
        }
        if let Some(id) = self.spooled.as_ref().filter(|_| options.verbose > 0 && !options.json) {
            say(&format!("in the spool as {id}"));
        }
        // Callers such as cron send what is printed to somebody, who can do nothing about a message that waits.
        for line in self.lines.iter().filter(|_| self.code != 0 || options.verbose > 0) {
            tell(line);
        }
        self.code
    }
}

/// Returns what became of a message that is not in the spool.
pub fn status(result: &Result<Delivery, Error>, code: u8) -> Status {
    let delivery = result.as_ref().map_or_else(Error::delivery, Some);
    let any = |is: fn(Outcome) -> bool| {
        delivery.is_some_and(|delivery| delivery.recipients().any(|recipient| is(recipient.outcome())))
    };
    if any(|outcome| outcome == Outcome::InDoubt) {
        Status::InDoubt
    } else if any(|outcome| outcome == Outcome::Accepted) {
        if any(|outcome| outcome != Outcome::Accepted) { Status::PartlySent } else { Status::Sent }
    } else if code == 74 {
        Status::InDoubt
    } else {
        Status::of_failure(code)
    }
}

/// Returns the exit code for a result, and its text for the log.
pub fn summary(result: &Result<Delivery, Error>) -> (u8, String) {
    match result {
        Ok(delivery) => match refused_recipients(delivery) {
            (0, _) => (0, delivery.reply().map(Reply::to_string).unwrap_or_default()),
            (code, lines) => (code, lines.join("; ")),
        },
        Err(e) => (exit_code(e), text(e)),
    }
}

/// Returns the exit code, and a line for each recipient that the message was not accepted for.
fn refused_recipients(delivery: &Delivery) -> (u8, Vec<String>) {
    let (mut codes, mut lines) = ([0; 3], Vec::new());
    for recipient in delivery.recipients() {
        let (i, code, what) = match recipient.outcome() {
            Outcome::Accepted => continue,
            Outcome::InDoubt => (0, 74, "may have received the message".to_owned()),
            Outcome::Refused => (
                1,
                67,
                format!("was refused: {}", recipient.reply().map(Reply::to_string).unwrap_or_default()),
            ),
            _ => (2, 75, "was not sent the message".to_owned()),
        };
        lines.push(format!("{} {what}", recipient.address()));
        codes[i] = code;
    }
    (codes.into_iter().find(|code| *code != 0).unwrap_or(0), lines)
}

/// Returns the text of an error, with the names of this program's settings instead of the library's functions.
pub fn text(error: &Error) -> String {
    let text = error.to_string();
    if !HAS_TLS {
        return text;
    }
    let text = text.replace("no ca_certificate was set", "neither ca-file nor --cafile was set");
    let Some((before, rest)) = text.split_once(" (Builder::") else { return text };
    let (hint, after) = rest.split_once(')').unwrap_or((rest, ""));
    let hint =
        if hint.contains("ca_certificate") { " (to trust its issuer, use ca-file or --cafile)" } else { "" };
    [before, hint, after].concat()
}

/// How the resolvers' texts for a name that does not exist, or has no address, end: those of glibc, musl, and macOS and
/// the BSDs. The standard library returns the result of `getaddrinfo` only as a text.
const UNKNOWN_HOST: [&str; 4] = [
    " not known",        // Name or service not known; nodename nor servname provided, or not known
    " with hostname",    // No address associated with hostname
    " does not resolve", // Name does not resolve
    " has no usable address", // Name has no usable address
];

/// Whether a host does not exist. All other errors of the resolver are temporary, such as name servers that do not
/// answer.
fn is_unknown_host(error: &io::Error) -> bool {
    let text = error.to_string();
    UNKNOWN_HOST.iter().any(|words| text.ends_with(words))
}

/// The exit code for an error (sysexits.h).
fn exit_code(error: &Error) -> u8 {
    let is_permanent = |reply: &Reply| reply.is_permanent();
    match error {
        _ if error.in_doubt() => 74,
        Error::Transaction { delivery, source } => {
            let for_good = delivery.refused().any(|recipient| recipient.reply().is_some_and(is_permanent));
            match **source {
                Error::Refused { phase: Phase::Recipient, .. } if for_good => 67,
                _ => exit_code(source),
            }
        }
        Error::Config(_) => 64,
        Error::Address { .. }
        | Error::NoRecipients
        | Error::Message(_)
        | Error::Unsupported(_)
        | Error::TooLarge { .. } => 65,
        Error::TlsRequired | Error::Certificate { .. } | Error::Tls { .. } => 77,
        Error::Auth { reply, .. } if reply.as_ref().is_none_or(is_permanent) => 77,
        Error::Refused { phase: Phase::StartTls | Phase::Auth, reply } if reply.is_permanent() => 77,
        Error::Refused { reply, .. } if reply.is_permanent() => 69,
        Error::Resolve { source, .. } if is_unknown_host(source) => 68,
        Error::Protocol { .. } => 76,
        Error::Internal(_) => 70,
        _ => 75,
    }
}

/// The result on one line. `refused` lists the recipients that the server refused individually.
pub fn json(result: &Result<Delivery, Error>, known: &[String], reply: Option<&Reply>) -> String {
    let (delivery, error) = match result {
        Ok(delivery) => (Some(delivery), None),
        Err(e) => (e.delivery(), Some(text(e))),
    };
    let one = |address: &str, outcome, reply| {
        let (address, outcome, reply) = (quoted(Some(address)), name(outcome), quoted(reply));
        format!(r#"{{"recipient":{address},"outcome":"{outcome}","reply":{reply}}}"#)
    };
    let recipients: Vec<_> = match delivery {
        Some(d) => d.recipients().map(|r| one(r.address().as_str(), r.outcome(), r.reply())).collect(),
        None => known.iter().map(|address| one(address, Outcome::NotSent, None)).collect(),
    };
    let refused = delivery
        .into_iter()
        .flat_map(Delivery::refused)
        .map(|r| format!(r#"{{"recipient":{},"reply":{}}}"#, quoted(Some(r.address())), quoted(r.reply())));
    format!(
        r#"{{"outcome":"{}","reply":{},"refused":[{}],"recipients":[{}],"error":{}}}"#,
        name(delivery.map_or(Outcome::NotSent, Delivery::outcome)),
        quoted(reply),
        refused.collect::<Vec<_>>().join(","),
        recipients.join(","),
        quoted(error),
    )
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted => "accepted",
        Outcome::Refused => "refused",
        Outcome::InDoubt => "in_doubt",
        _ => "not_sent",
    }
}

/// A JSON string (RFC 8259 §7), or null.
fn quoted(text: Option<impl ToString>) -> String {
    let Some(text) = text else { return "null".to_owned() };
    let mut json = String::from('"');
    for c in text.to_string().chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            _ if c.is_control() => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => json.push(c),
        }
    }
    json + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_host_that_does_not_exist_is_a_permanent_error() {
        let code = |text: &str| {
            let text = format!("failed to lookup address information: {text}");
            exit_code(&Error::Resolve { host: "h".to_owned(), source: io::Error::other(text) })
        };
        for text in
            ["Name or service not known", "No address associated with hostname", "Name does not resolve"]
        {
            assert_eq!(code(text), 68, "{text}");
        }
        for text in
            ["Temporary failure in name resolution", "Try again", "System error", "Name or service expected"]
        {
            assert_eq!(code(text), 75, "{text}");
        }
        let timeout = Error::Resolve { host: "h".to_owned(), source: io::ErrorKind::TimedOut.into() };
        assert_eq!(exit_code(&timeout), 75);
    }

    #[cfg(any(feature = "native-tls", feature = "rustls"))]
    #[test]
    fn errors_of_the_library_name_the_program_s_settings() {
        let source = "no CA certificate was found on this system, and no ca_certificate was set";
        let text = text(&Error::Tls { source: source.into() });
        assert!(text.ends_with("on this system, and neither ca-file nor --cafile was set"), "{text}");
        assert!(text.contains("no CA certificate was found on this system"), "{text}");
    }
}
