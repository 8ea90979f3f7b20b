//! The log of the system: one line for each message. A failure to log is ignored, because it must not lose mail.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process,
    time::SystemTime,
};

use postino::{Envelope, message::date_time};

use crate::{config::Log, paths::Paths};

/// Facility `mail`, severities `info` and `err` (RFC 3164 §4.1.1).
const INFO: u8 = 2 * 8 + 6;
const ERROR: u8 = 2 * 8 + 3;
/// Maximum length of a line, in octets. Some servers cut off longer ones.
const MAX_LINE: usize = 1000;

/// Where the lines go.
pub struct Logger {
    target: Target,
}

enum Target {
    None,
    /// The socket of the system's log.
    Socket(PathBuf),
    File(PathBuf),
}

/// The facts about one message. Nothing here is secret.
pub struct Entry<'e> {
    pub id: &'e str,
    pub envelope: Option<&'e Envelope>,
    pub relay: &'e str,
    pub status: Status,
    pub code: u8,
    /// The final reply, or the error.
    pub result: &'e str,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Sent,
    /// Accepted for some recipients.
    PartlySent,
    /// In the spool, and not sent yet.
    Queued,
    InDoubt,
    /// Not sent, but it can be sent later.
    Deferred,
    Failed,
}

impl Status {
    /// The status of a message that nobody has got, and that is not in the spool.
    pub fn of_failure(code: u8) -> Status {
        if code == 75 { Status::Deferred } else { Status::Failed }
    }

    fn name(self) -> &'static str {
        match self {
            Status::Sent => "sent",
            Status::PartlySent => "partly-sent",
            Status::Queued => "queued",
            Status::InDoubt => "in-doubt",
            Status::Deferred => "deferred",
            Status::Failed => "failed",
        }
    }
}

impl Logger {
    pub fn new(log: &Log, paths: &Paths) -> Logger {
        let target = match log {
            Log::None => Target::None,
            Log::Syslog => Target::Socket(paths.system("dev/log")),
            Log::File(path) => Target::File(path.clone()),
        };
        Logger { target }
    }

    pub fn log(&self, entry: &Entry<'_>) {
        let line = entry.line();
        let _ignored = match &self.target {
            Target::None => Ok(()),
            Target::Socket(path) => send(path, if entry.code == 0 { INFO } else { ERROR }, &line),
            Target::File(path) => append(path, &line),
        };
    }
}

/// The system's log adds the time.
fn send(socket: &Path, priority: u8, line: &str) -> std::io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?; // a log that is stuck must not delay the mail
    sender.send_to(format!("<{priority}>postino-sendmail[{}]: {line}", process::id()).as_bytes(), socket)?;
    Ok(())
}

fn append(file: &Path, line: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(file)?;
    let now = date_time(SystemTime::now()).unwrap_or_default();
    file.write_all(format!("{now} [{}] {line}\n", process::id()).as_bytes())
}

impl Entry<'_> {
    fn line(&self) -> String {
        let sender = self.envelope.and_then(Envelope::sender).map_or("", |sender| sender.as_str());
        let mut line = format!("{}: from=<{sender}>", self.id);
        let status = self.status.name();
        let end = format!(" relay={} status={status} code={} ({})", self.relay, self.code, self.result);
        let recipients = self.envelope.map_or(&[][..], Envelope::recipients);
        for (number, recipient) in recipients.iter().enumerate() {
            if line.len() + recipient.as_str().len() + 20 > MAX_LINE / 2 {
                line.push_str(&format!(" and {} more", recipients.len() - number));
                break;
            }
            line.push_str(if number == 0 { " to=<" } else { ",<" });
            line.push_str(recipient.as_str());
            line.push('>');
        }
        line.push_str(&end);
        let mut line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let end = (0..=line.len().min(MAX_LINE)).rev().find(|end| line.is_char_boundary(*end));
        line.truncate(end.unwrap_or(0));
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_has_all_facts_and_no_control_character() {
        let envelope = Envelope::new("a@x", ["b@y", "c@z"]).unwrap();
        let entry = Entry {
            id: "1f",
            envelope: Some(&envelope),
            relay: "h:25",
            status: Status::Sent,
            code: 0,
            result: "250 OK\r\n\x1b[0m \u{9b}x",
        };
        assert_eq!(
            entry.line(),
            "1f: from=<a@x> to=<b@y>,<c@z> relay=h:25 status=sent code=0 (250 OK   [0m  x)"
        );
        let unknown = Entry { envelope: None, status: Status::of_failure(65), code: 65, ..entry };
        assert!(unknown.line().starts_with("1f: from=<> relay=h:25 status=failed code=65"));
    }

    #[test]
    fn a_log_line_has_a_maximum_length() {
        let recipients: Vec<_> = (0..1000).map(|i| format!("user{i}@example.org")).collect();
        let envelope = Envelope::new("", &recipients).unwrap();
        let result = "é".repeat(1000);
        let (envelope, status) = (Some(&envelope), Status::of_failure(75));
        let line = Entry { id: "1", envelope, relay: "h", status, code: 75, result: &result }.line();
        assert!(line.len() <= MAX_LINE && line.contains(" more relay=h status=deferred code=75 ("), "{line}");
    }

    #[test]
    fn a_log_that_cannot_be_written_is_ignored() {
        for target in
            [Target::None, Target::Socket("/dev/null/log".into()), Target::File("/dev/null/log".into())]
        {
            let status = Status::Sent;
            let entry = Entry { id: "1", envelope: None, relay: "", status, code: 0, result: "" };
            Logger { target }.log(&entry);
        }
    }
}
