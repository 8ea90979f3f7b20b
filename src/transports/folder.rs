//! A mailer that writes messages to a folder.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use super::{Copied, accepted, failed};
use crate::{
    Address, Delivery, Envelope, Error, Mail, MailOption, Outcome, RcptOption,
    message::{Body, unique_id},
    sys,
};

/// Extensions of file names.
const MESSAGE: &str = "eml";
const ENVELOPE: &str = "envelope";
const UNFINISHED: &str = "tmp";

/// Maximum size of the file with an envelope, in octets. It is enough for more than 100,000 recipients.
const MAX_ENVELOPE: u64 = 64 << 20;

/// Parameters of MAIL that describe the content.
const EIGHT_BIT: &str = "BODY=8BITMIME";
const UTF8_HEADERS: &str = "SMTPUTF8";

/// A mailer that writes each message to a folder instead of sending it.
///
/// The file `NAME.eml` contains the message. `NAME.envelope` contains the envelope, as the commands that would be sent:
///
/// ```text
/// MAIL FROM:<alice@example.org> RET=HDRS
/// RCPT TO:<bob@example.net>
/// ```
///
/// [`messages`](FolderMailer::messages) reads the messages back, so that they can be sent later:
///
/// ```no_run
/// use postino::{Client, FolderMailer};
///
/// let outbox = FolderMailer::new("/var/lib/shop/outbox");
/// let mut client = Client::builder("mail.example.org").connect()?;
/// for message in outbox.messages()? {
///     let delivery = client.send(&message)?;
///     message.remove()?; // first: if it was accepted for some recipients, they must not get it again
///     delivery.require_all()?;
/// }
/// # Ok::<(), postino::Error>(())
/// ```
///
/// After a crash, a message is either stored as a whole or not at all: its file gets its final name only after its
/// content and envelope have been written to the disk. A crash can leave `.tmp` files, or `.envelope` files without a
/// message. These are ignored and can be deleted. On Unix, only the user who runs the program can read the files.
///
/// The content is read into memory before it is written. A composed message is written in a form that any server
/// accepts, if it has one.
#[derive(Debug, Clone)]
pub struct FolderMailer {
    folder: PathBuf,
}

impl FolderMailer {
    /// Creates a mailer for this folder. The folder is created when the first message is sent.
    #[must_use]
    pub fn new(folder: impl AsRef<Path>) -> FolderMailer {
        FolderMailer { folder: folder.as_ref().to_owned() }
    }

    /// Returns the messages in the folder, ordered by name. Names begin with the time of writing, so this is the order
    /// in which the messages were sent, unless the clock was changed. The envelopes are read now; the
    /// contents are read later. A folder that does not exist has no messages. This call blocks, even in async code.
    ///
    /// # Errors
    ///
    /// [`Error::Folder`] if the folder cannot be read.
    pub fn messages(&self) -> Result<Vec<StoredFile>, Error> {
        let entries = match fs::read_dir(&self.folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| failed_in(&self.folder, e))?,
        };
        let mut messages = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| failed_in(&self.folder, e))?.path();
            if path.extension().is_some_and(|extension| extension == MESSAGE) {
                messages.push(StoredFile::read(path));
            }
        }
        messages.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        Ok(messages)
    }

    pub(crate) fn store(&self, mail: Copied) -> Result<Delivery, Error> {
        fs::create_dir_all(&self.folder).map_err(|e| failed_in(&self.folder, e))?;
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let path = self.folder.join(format!("{time:017}-{}.{MESSAGE}", unique_id()));
        let written = self.write(&path, &mail);
        if let Err(e) = written {
            // Some of these may not exist. A message that remains keeps its envelope: it cannot be read without it.
            for end in [UNFINISHED, MESSAGE] {
                drop(fs::remove_file(path.with_extension(end)));
            }
            let error = failed_in(&self.folder, e);
            if path.try_exists().unwrap_or(true) {
                return Err(failed(mail.envelope, Outcome::InDoubt, None, error));
            }
            drop(fs::remove_file(path.with_extension(ENVELOPE)));
            return Err(error);
        }
        Ok(accepted(mail.envelope))
    }

    /// Writes both files in such an order that the message appears last, and as a whole.
    fn write(&self, path: &Path, mail: &Copied) -> io::Result<()> {
        let unfinished = path.with_extension(UNFINISHED);
        create(&path.with_extension(ENVELOPE), commands(mail).as_bytes())?;
        create(&unfinished, &mail.octets)?;
        sys::sync_folder(&self.folder)?; // the envelope must not be lost if the message is kept
        fs::rename(unfinished, path)?;
        sys::sync_folder(&self.folder)
    }
}

fn failed_in(folder: &Path, source: io::Error) -> Error {
    Error::Folder { folder: folder.display().to_string(), source }
}

/// Writes a new file to the disk.
fn create(path: &Path, octets: &[u8]) -> io::Result<()> {
    let mut file = sys::create_file(path)?;
    file.write_all(octets)?;
    file.sync_all()
}

/// Returns the envelope as commands.
fn commands(mail: &Copied) -> String {
    let Copied { envelope, octets, has_utf8_headers } = mail;
    let parameters = |all: Vec<String>| all.iter().map(|one| format!(" {one}")).collect::<String>();
    let mut about_mail: Vec<String> = envelope.mail_options().iter().map(ToString::to_string).collect();
    if !octets.is_ascii() {
        about_mail.push(EIGHT_BIT.to_owned());
    }
    if *has_utf8_headers {
        about_mail.push(UTF8_HEADERS.to_owned());
    }
    let sender = envelope.sender().map_or("", Address::as_str);
    let mut text = format!("MAIL FROM:<{sender}>{}\n", parameters(about_mail));
    for (number, recipient) in envelope.recipients().iter().enumerate() {
        let options = envelope.options_of(number).iter().map(ToString::to_string).collect();
        text += &format!("RCPT TO:<{recipient}>{}\n", parameters(options));
    }
    text
}

/// An envelope that was read, and what it says about the content.
#[derive(Debug, Clone)]
struct Written {
    envelope: Envelope,
    is_eight_bit: bool,
    has_utf8_headers: bool,
}

/// Reads an envelope.
fn written(text: &str) -> Result<Written, Error> {
    let bad = || Error::Source(io::Error::new(io::ErrorKind::InvalidData, "the envelope is invalid"));
    let mut lines = text.lines();
    let first = lines.next().and_then(|line| path_and_parameters(line, "MAIL FROM:<"));
    let (sender, mut about_mail) = first.ok_or_else(bad)?;
    let (mut recipients, mut options) = (Vec::new(), Vec::new());
    for line in lines {
        let (recipient, own) = path_and_parameters(line, "RCPT TO:<").ok_or_else(bad)?;
        recipients.push(recipient);
        options.push(own);
    }
    let mut take = |parameter: &str| {
        let count = about_mail.len();
        about_mail.retain(|one| *one != parameter);
        about_mail.len() < count
    };
    let (is_eight_bit, has_utf8_headers) = (take(EIGHT_BIT), take(UTF8_HEADERS));
    let mut envelope = Envelope::new(sender, recipients)?;
    for option in about_mail {
        // RFC 5321 does not allow the value of XVERP, so it cannot be a raw option.
        let option =
            match option.strip_prefix("XVERP=").map(|value| value.chars().collect::<Vec<_>>()).as_deref() {
                // Any other value was set as `MailOption::Raw`.
                Some([first, second]) if "+-=".contains(*first) && "+-=".contains(*second) => {
                    MailOption::Xverp(Some([*first, *second]))
                }
                _ => MailOption::Raw(option.to_owned()),
            };
        envelope = envelope.option(option)?;
    }
    for (number, own) in options.into_iter().enumerate() {
        for option in own {
            envelope = envelope.recipient_option(number, RcptOption::Raw(option.to_owned()))?;
        }
    }
    Ok(Written { envelope, is_eight_bit, has_utf8_headers })
}

/// Splits a command. A quoted local part can contain angle brackets and spaces.
fn path_and_parameters<'t>(line: &'t str, command: &str) -> Option<(&'t str, Vec<&'t str>)> {
    let rest = line.strip_prefix(command)?;
    let (mut is_quoted, mut is_escaped) = (false, false);
    let end = rest.find(|c| {
        let is_end = c == '>' && !is_quoted;
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            _ => {}
        }
        is_end
    })?;
    Some((&rest[..end], rest[end + 1..].split(' ').filter(|one| !one.is_empty()).collect()))
}

/// A message in the folder of a [`FolderMailer`], with its envelope. The content is read when the message is sent.
///
/// The options of its envelope are [`MailOption::Raw`] and [`RcptOption::Raw`] (except XVERP with delimiters), so they
/// are sent even if the server does not offer them. If the envelope cannot be read, sending fails with
/// [`Error::Source`].
#[derive(Debug, Clone)]
pub struct StoredFile {
    path: PathBuf,
    /// The envelope, or why it cannot be read.
    written: Result<Written, (io::ErrorKind, String)>,
}

impl StoredFile {
    /// Returns the path of the file with the message.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the message and its envelope from the folder. If the program crashes between sending a message and
    /// removing it, the message is still in the folder, and sending it again creates a duplicate. This call blocks,
    /// even in async code.
    ///
    /// # Errors
    ///
    /// [`Error::Folder`] if the message cannot be removed, or if the removal cannot be written to the disk.
    pub fn remove(self) -> Result<(), Error> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::remove_file(&self.path).map_err(|e| failed_in(folder, e))?;
        drop(fs::remove_file(self.path.with_extension(ENVELOPE))); // ignored without the message, so it may stay
        sys::sync_folder(folder).map_err(|e| failed_in(folder, e))
    }

    fn read(path: PathBuf) -> StoredFile {
        let envelope = path.with_extension(ENVELOPE);
        let read = File::open(&envelope).and_then(|file| {
            let text = read_whole(file, MAX_ENVELOPE)?;
            written(&text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))
        });
        let written = read.map_err(|e| (e.kind(), format!("{}: {e}", envelope.display())));
        StoredFile { path, written }
    }

    fn written(&self) -> Result<&Written, Error> {
        let failed =
            |(kind, why): &(io::ErrorKind, String)| Error::Source(io::Error::new(*kind, why.clone()));
        self.written.as_ref().map_err(failed)
    }
}

impl Mail for StoredFile {
    fn envelope(&self) -> Result<Envelope, Error> {
        Ok(self.written()?.envelope.clone())
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        let written = self.written()?;
        let mut body = Body::path(&self.path);
        if written.is_eight_bit {
            body = body.eight_bit();
        }
        Ok(if written.has_utf8_headers { body.utf8_headers() } else { body })
    }
}

/// Reads a text, unless it is larger than this number of octets.
fn read_whole(from: impl io::Read, max: u64) -> io::Result<String> {
    let text = io::read_to_string(from.take(max + 1))?;
    if text.len() as u64 > max {
        let why = format!("the file is larger than {max} octets");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::options::one_of_each;

    #[test]
    fn each_option_is_written_and_read() {
        let xverp = [MailOption::Xverp(Some(['+', '='])), MailOption::Raw("XVERP=ab".into())];
        let each = one_of_each().into_iter().chain(xverp);
        for option in each {
            let envelope =
                Envelope::new("a@x", ["b@x"]).and_then(|envelope| envelope.option(option)).unwrap();
            let mail = |envelope| Copied { envelope, octets: Vec::new(), has_utf8_headers: false };
            let text = commands(&mail(envelope));
            let read = written(&text).unwrap();
            assert_eq!(commands(&mail(read.envelope)), text);
        }
    }

    #[test]
    fn a_file_that_is_too_large_is_an_error() {
        assert_eq!(read_whole(&b"abc"[..], 3).unwrap(), "abc");
        assert_eq!(read_whole(&b"abcd"[..], 3).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
