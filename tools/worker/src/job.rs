//! A claimed mail: what is sent of it, and to whom.

use std::{
    fs::File,
    io::{self, Cursor, Read, Seek},
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use postino::{
    Address, Envelope, Error, Mail,
    message::{Body, date_time},
};
use serde_json::{Map, Value, json};

use crate::queue::Claim;

/// Maximum size of the headers that are searched for Message-ID and Date, in octets.
const MAX_HEADERS: u64 = 256 << 10;

/// What has to be known about a mail after it has been handed to postino.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub id: i64,
    /// The number of the claim, which is part of the fence.
    pub claim: i32,
    pub attempts: u32,
    pub losses: u32,
    /// How long the mail has been tried.
    pub age: Duration,
    pub had_refused: bool,
    pub had_doubt: bool,
    /// The numbers, from 1, of the recipients in the envelope.
    pub numbers: Vec<i32>,
    /// Recipients whose addresses are invalid, each with the reason.
    pub invalid: Vec<(i32, String)>,
}

/// A mail that postino can send.
pub(crate) struct Job {
    pub ticket: Arc<Ticket>,
    envelope: Result<Envelope, String>,
    content: Content,
    message_id: String,
    date: String,
}

enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
    /// A path that must not be read.
    Forbidden(String),
}

impl Job {
    /// Prepares a claimed mail. `files` is the folder of messages that were queued as files.
    pub fn new(claim: Claim, files: Option<&Path>) -> Job {
        let done = claim.done.as_deref().unwrap_or_default();
        let (mut numbers, mut addresses, mut invalid) = (Vec::new(), Vec::new(), Vec::new());
        for (number, recipient) in (1..).zip(&claim.recipients) {
            if done.contains(&number) {
                continue;
            }
            match Address::new(recipient) {
                Ok(address) => {
                    numbers.push(number);
                    addresses.push(address);
                }
                Err(e) => invalid.push((number, e.to_string())),
            }
        }
        let envelope = envelope(&claim, &addresses, &numbers);
        let mut job = Job {
            ticket: Arc::new(Ticket {
                id: claim.id,
                claim: claim.claim,
                attempts: u32::try_from(claim.attempts).unwrap_or(0),
                losses: u32::try_from(claim.losses).unwrap_or(0),
                age: Duration::try_from_secs_f64(claim.age).unwrap_or_default(),
                had_refused: claim.had_refused,
                had_doubt: claim.had_doubt,
                numbers,
                invalid,
            }),
            envelope: envelope.map_err(|e| e.to_string()),
            content: Content::Forbidden("the mail has no content".to_owned()),
            message_id: claim.message_id,
            date: date_time(UNIX_EPOCH + Duration::from_secs(u64::try_from(claim.queued).unwrap_or(0)))
                .unwrap_or_default(),
        };
        job.content = match (claim.content, claim.path) {
            (Some(bytes), _) => {
                let prefix = job.missing(&bytes);
                Content::Bytes(if prefix.is_empty() { bytes } else { [prefix.into_bytes(), bytes].concat() })
            }
            (None, Some(path)) => match inside(files, &path) {
                Ok(path) => Content::File(path),
                Err(why) => Content::Forbidden(format!("cannot read {path:?}: {why}")),
            },
            (None, None) => job.content,
        };
        job
    }

    /// Returns the header fields that a message lacks.
    fn missing(&self, message: &[u8]) -> String {
        missing(message, &self.message_id, &self.date)
    }
}

fn missing(message: &[u8], message_id: &str, date: &str) -> String {
    let mut prefix = String::new();
    for (name, value) in [("Message-ID", message_id), ("Date", date)] {
        if !has_field(message, name) {
            prefix.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    // Text that does not begin with a header field is a body.
    let first = message.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let name = first.split(|byte| *byte == b':').next().unwrap_or_default().trim_ascii_end();
    let is_field = name.len() < first.len() && !name.is_empty() && name.iter().all(|b| matches!(b, 33..=126));
    if !is_field && !first.trim_ascii().is_empty() {
        prefix.push_str("\r\n");
    }
    prefix
}

/// Returns whether the headers contain a field with this name.
fn has_field(message: &[u8], name: &str) -> bool {
    let lines = message.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines.take_while(|line| !line.is_empty()).any(|line| {
        let Some((own, rest)) = line.split_at_checked(name.len()) else { return false };
        own.eq_ignore_ascii_case(name.as_bytes()) && rest.trim_ascii_start().starts_with(b":")
    })
}

/// Returns the envelope for some of a mail's recipients, with their options. `numbers` are their numbers, from 1.
fn envelope(claim: &Claim, addresses: &[Address], numbers: &[i32]) -> Result<Envelope, serde_json::Error> {
    let mut form: Map<String, Value> = serde_json::from_str(&claim.options)?;
    if let Some(Value::Array(all)) = form.get_mut("recipient_options") {
        let places = numbers.iter().map(|number| usize::try_from(number - 1).unwrap_or(usize::MAX));
        *all = places.map(|place| all.get_mut(place).map_or_else(|| json!([]), Value::take)).collect();
    }
    form.insert("sender".to_owned(), json!(Some(&claim.sender).filter(|sender| !sender.is_empty())));
    form.insert("recipients".to_owned(), json!(addresses));
    serde_json::from_value(form.into())
}

/// Returns the path of a file in the folder. Neither `..` nor a link leads out of it.
fn inside(folder: Option<&Path>, path: &str) -> Result<PathBuf, String> {
    let folder = folder.ok_or("this worker has no folder for files")?;
    let path = Path::new(path);
    let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    if !is_plain || path.as_os_str().is_empty() {
        return Err("not a plain path in the folder for files".to_owned());
    }
    let real = folder.canonicalize().map_err(|e| e.to_string())?;
    match folder.join(path).canonicalize() {
        Ok(file) if file.starts_with(&real) => Ok(file),
        Ok(_) => Err("a link leads out of the folder for files".to_owned()),
        // The file may appear later. If it does not, opening it reports the error.
        Err(_) => Ok(real.join(path)),
    }
}

impl Mail for Job {
    fn envelope(&self) -> Result<Envelope, Error> {
        self.envelope.clone().map_err(|why| Error::Message(why.into()))
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        match &self.content {
            Content::Bytes(bytes) => Ok(Body::from(&bytes[..])),
            Content::Forbidden(why) => Err(Error::Message(why.clone().into())),
            Content::File(path) => {
                let (path, message_id, date) = (path.clone(), self.message_id.clone(), self.date.clone());
                Ok(Body::deferred(move || open(&path, &message_id, &date)))
            }
        }
    }
}

fn open(path: &Path, message_id: &str, date: &str) -> io::Result<Body<'static>> {
    // The folder may have changed since the path was checked. Opening a FIFO would wait for its writer.
    if path.canonicalize()? != path || !path.metadata()?.is_file() {
        return Err(io::Error::other(format!(
            "{}: not a regular file in the folder for files",
            path.display()
        )));
    }
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    Read::by_ref(&mut file).take(MAX_HEADERS).read_to_end(&mut head)?;
    let prefix = missing(&head, message_id, date);
    file.rewind()?;
    let size = file.metadata()?.len() + prefix.len() as u64;
    Ok(Body::reader(Cursor::new(prefix).chain(file)).with_size(size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_fields_are_added() {
        let added = |message: &str| missing(message.as_bytes(), "<1@x>", "today");
        assert_eq!(added("Subject: x\n\nDate: in the body\n"), "Message-ID: <1@x>\r\nDate: today\r\n");
        assert_eq!(added("message-id : <2@x>\r\nSubject: x\r\n\r\n"), "Date: today\r\n");
        assert_eq!(added("DATE: y\nMessage-Id:\n <2@x>\n\nx"), "");
        assert_eq!(added("Just text.\n"), "Message-ID: <1@x>\r\nDate: today\r\n\r\n");
        assert_eq!(added("\nText after an empty line.\n"), "Message-ID: <1@x>\r\nDate: today\r\n");
    }

    #[test]
    fn paths_stay_in_the_folder() {
        let folder = std::env::temp_dir().join(format!("postino-worker-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("files/a")).unwrap();
        std::fs::write(folder.join("secret"), "").unwrap();
        std::fs::write(folder.join("files/a/mail"), "").unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("files/link")).unwrap();
        let files = folder.join("files");
        let found = |path: &str| inside(Some(&files), path).is_ok();
        assert!(found("a/mail") && found("a/later"));
        for path in ["../secret", "a/../../secret", "/etc/passwd", "link", ""] {
            assert!(!found(path), "{path}");
        }
        assert!(inside(None, "a/mail").is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
