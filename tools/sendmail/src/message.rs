//! The message and its envelope.

use std::{
    borrow::Cow,
    fs::{self, File},
    io::{self, Cursor, Read, Seek},
    mem,
    os::fd::AsFd,
};

use postino::{
    Address, Envelope, Error, Mail, Raw,
    message::{Body, header_length, without_bcc},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    accounts::{Account, Trouble},
    aliases::{Aliases, is_local},
    config::Config,
    domains::{Domains, complete},
    failure::Failure,
    identity::{User, default_domain},
    options::Options,
    paths::Paths,
};

/// Maximum size of a message that is read to its end before connecting, in octets. Its sender can be slow, such as a job
/// of cron. Headers must end within this size.
const HEAD: u64 = 1024 * 1024;
/// Size of the first read of a larger message in a file, in octets.
const HEAD_OF_FILE: u64 = 64 * 1024;

/// What the machine and the configuration say about senders and recipients.
pub struct Local {
    pub user: User,
    pub domain: String,
    /// An error matters only to a local recipient.
    pub aliases: Result<Aliases, Failure>,
    pub rewrite: Vec<(String, String)>,
}

impl Local {
    pub fn load(config: &Config, paths: &Paths) -> Local {
        Local {
            user: User::calling(paths),
            domain: config.domain.clone().unwrap_or_else(|| default_domain(paths)),
            aliases: Aliases::load(config, paths),
            rewrite: config.rewrite.clone(),
        }
    }

    fn domains(&self) -> Domains<'_> {
        Domains { domain: &self.domain, rewrite: &self.rewrite }
    }

    /// Returns the calling user's address.
    fn user_address(&self) -> Result<Address, Error> {
        let name = &self.user.name;
        Address::new(&self.domains().qualified(name).unwrap_or_else(|| name.clone()))
    }

    /// Replaces aliases, and completes addresses without a domain.
    pub fn recipients(&self, recipient: Address) -> Result<Vec<Address>, Trouble> {
        if !is_local(&recipient) {
            return Ok(vec![recipient]);
        }
        let aliases = self.aliases.as_ref().map_err(Failure::clone)?;
        let mut found = aliases.expand(recipient)?;
        for address in &mut found {
            if let Some(qualified) = self.domains().qualified(address.as_str()) {
                *address = Address::new(&qualified)?;
            }
        }
        Ok(found)
    }
}

/// A message to be sent.
pub struct Message<'o> {
    options: &'o Options,
    local: &'o Local,
    /// The envelope sender of the account.
    from: Option<String>,
    envelope: Option<Envelope>,
    /// The whole message, or its beginning, with all headers unless they are too long.
    head: Vec<u8>,
    /// The source of the rest, if there is more.
    rest: Option<File>,
    /// The message with a rest, once it is prepared, and its size if that is known.
    stream: Option<(Raw<'static>, Option<u64>)>,
}

impl<'o> Message<'o> {
    /// Reads the message on stdin.
    pub fn read(options: &'o Options, local: &'o Local) -> Result<Message<'o>, Error> {
        let (head, rest) = read_head().map_err(Error::Source)?;
        Ok(Message { rest, ..Message::whole(options, local, head) })
    }

    /// Takes a message that is in memory.
    pub fn whole(options: &'o Options, local: &'o Local, mut head: Vec<u8>) -> Message<'o> {
        head.drain(..mbox_lines(&head));
        Message { options, local, from: None, envelope: None, head, rest: None, stream: None }
    }

    /// Whether all headers were read.
    fn has_all_headers(&self) -> bool {
        self.rest.is_none() || header_length(&self.head).is_some()
    }

    /// The part of the message that contains all headers. It is empty if the message does not begin with one.
    fn headers(&self) -> Result<&[u8], Error> {
        if !begins_with_field(&self.head) {
            Ok(&[])
        } else if self.has_all_headers() {
            Ok(&self.head)
        } else {
            Err(Error::Message("the headers do not end within the first MiB".into()))
        }
    }

    fn header_recipients(&self) -> Result<Vec<Address>, Error> {
        if !self.options.from_headers {
            return Ok(Vec::new());
        }
        match Envelope::recipients_from_headers(self.headers()?) {
            Err(Error::NoRecipients) => Ok(Vec::new()), // the command line may name some
            found => found,
        }
    }

    /// Returns the envelope sender: that of the command line, of the account, of the headers, or the calling user.
    pub fn sender(&self) -> Result<Option<Address>, Error> {
        let sender = match (&self.options.from, &self.from) {
            (Some(given), _) if matches!(given.trim_matches(' '), "" | "<>") => return Ok(None),
            (Some(given), _) | (None, Some(given)) => Address::new(given)?,
            (None, None) => self.header_sender()?,
        };
        match self.local.domains().sender(sender.as_str()) {
            Some(changed) => Address::new(&changed).map(Some),
            None => Ok(Some(sender)),
        }
    }

    fn header_sender(&self) -> Result<Address, Error> {
        let headers = self.headers()?;
        match Envelope::sender_from_headers(headers) {
            Err(Error::Message(_)) if !is_ambiguous(headers) => self.local.user_address(),
            found => found,
        }
    }

    /// Sets the account, and determines the envelope and the message as it is sent.
    pub fn prepare(&mut self, account: &Account) -> Result<(), Trouble> {
        self.from.clone_from(&account.from);
        let sender = self.sender()?;
        let mut recipients = Vec::new();
        for recipient in self.header_recipients()? {
            recipients.extend(self.local.recipients(recipient)?);
        }
        for text in &self.options.recipients {
            for recipient in list(text)? {
                recipients.extend(self.local.recipients(recipient)?);
            }
        }
        let mut envelope = Envelope::from_addresses(sender, recipients)?;
        for option in &self.options.mail_options {
            envelope = envelope.option(option.clone())?;
        }
        if let Some(notify) = &self.options.notify {
            envelope = envelope.recipient_options(notify.clone())?;
        }
        // The text after the headers of a large message is not copied.
        let headers =
            header_length(&self.head).filter(|_| self.rest.is_some() && begins_with_field(&self.head));
        let at = headers.unwrap_or(self.head.len());
        let completed = match self.completed(&self.head[..at], &envelope)? {
            Cow::Owned(completed) => Some(completed),
            Cow::Borrowed(_) => None,
        };
        if let Some(rest) = self.rest.take() {
            let mut text = Cursor::new(mem::take(&mut self.head));
            text.set_position(completed.as_ref().map_or(0, |_| at as u64));
            self.stream = Some(stream(envelope.clone(), completed.unwrap_or_default(), text, rest));
        } else if let Some(completed) = completed {
            self.head = completed;
        }
        self.envelope = Some(envelope);
        Ok(())
    }

    /// Removes Bcc if the recipients are in the headers, and adds what is missing. `head` is the whole of
    /// `self.head`, or the headers in it.
    fn completed<'h>(&self, head: &'h [u8], envelope: &Envelope) -> Result<Cow<'h, [u8]>, Error> {
        let may_have_bcc = self.options.from_headers && begins_with_field(head);
        let head = if may_have_bcc { without_bcc(head) } else { Cow::Borrowed(head) };
        if self.options.as_is || begins_with_field(&head) && !self.has_all_headers() {
            return Ok(head);
        }
        let address = match envelope.sender() {
            Some(sender) => sender.clone(),
            None => self.local.user_address()?,
        };
        let full_name = match (&self.options.full_name, &self.options.from) {
            (Some(name), _) => name,
            (None, None) => &self.local.user.full_name,
            (None, Some(_)) => "", // another person
        };
        complete(&head, full_name, &address, &self.local.domains()).map(Cow::Owned)
    }

    /// All recipients that can be reported, even if there is no valid envelope.
    pub fn known_recipients(&self) -> Vec<String> {
        if let Some(envelope) = &self.envelope {
            return envelope.recipients().iter().map(Address::to_string).collect();
        }
        let named = self.header_recipients().unwrap_or_default();
        let given = self.options.recipients.iter();
        let given = given.map(|text| Address::new(text).map_or_else(|_| text.clone(), |a| a.to_string()));
        named.iter().map(Address::to_string).chain(given).collect()
    }

    /// The envelope, if the message is prepared.
    pub fn prepared_envelope(&self) -> Option<&Envelope> {
        self.envelope.as_ref()
    }
}

/// Whether a message begins with a header field. Otherwise it is a text without headers, in which some lines can look
/// like fields.
fn begins_with_field(message: &[u8]) -> bool {
    let name = message.split(|byte| *byte == b':').next().unwrap_or_default().trim_ascii_end();
    !name.is_empty() && name.len() < message.len() && name.iter().all(u8::is_ascii_graphic)
}

/// Whether the message was resent more than once.
fn is_ambiguous(headers: &[u8]) -> bool {
    matches!(Envelope::recipients_from_headers(headers), Err(Error::Message(_)))
}

/// Reads the addresses of one argument, which are separated by commas or white space.
fn list(text: &str) -> Result<Vec<Address>, Error> {
    let has_separator = text.contains([',', ' ', '\t']);
    if !has_separator || text.contains(|c: char| c.is_control() && c != '\t') {
        return Ok(vec![Address::new(text)?]);
    }
    if text.contains('<') {
        return Envelope::recipients_from_headers(format!("To: {text}\n\n").as_bytes());
    }
    words(text).into_iter().map(Address::new).collect()
}

/// Splits at commas and white space outside quotes.
fn words(text: &str) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let is_separator = |c: char| {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            _ => return !quoted && matches!(c, ',' | ' ' | '\t'),
        }
        false
    };
    text.split(is_separator).filter(|word| !word.is_empty()).collect()
}

/// Length of the mbox lines before the first header of a message: `From ` or `>From `, each with its continuation
/// lines. A recipient's mail reader would find no headers after them.
fn mbox_lines(message: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let rest = &message[at..];
        let quotes = rest.iter().take_while(|byte| **byte == b'>').count();
        let is_folded = at > 0 && matches!(rest.first(), Some(b' ' | b'\t'));
        if !is_folded && !rest[quotes..].starts_with(b"From ") {
            return at;
        }
        let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(rest.len());
        at += end + if rest[end..].starts_with(b"\r\n") { 2 } else { rest.len().min(end + 1) - end };
    }
}

impl Mail for Message<'_> {
    fn envelope(&self) -> Result<Envelope, Error> {
        self.envelope.clone().ok_or_else(|| Error::Message("it was not prepared".into()))
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        match &self.stream {
            Some((raw, Some(size))) => Ok(raw.body()?.with_size(*size)),
            Some((raw, None)) => raw.body(),
            None => Ok(self.head.as_slice().into()),
        }
    }
}

/// Reads the beginning of the message on stdin, with all headers unless they are too long. Also returns the source of
/// the rest, if there is more.
fn read_head() -> io::Result<(Vec<u8>, Option<File>)> {
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let is_large_file = left(&mut stdin).is_some_and(|left| left > HEAD);
    let mut head = Vec::new();
    for limit in is_large_file.then_some(HEAD_OF_FILE).into_iter().chain([HEAD]) {
        (&stdin).take(limit + 1 - head.len() as u64).read_to_end(&mut head)?;
        if head.len() as u64 <= limit {
            return Ok((head, None));
        }
        if header_length(&head).is_some() {
            break;
        }
    }
    Ok((head, Some(stdin)))
}

/// Returns the number of octets that are left in a file. It is unknown for a pipe.
fn left(file: &mut File) -> Option<u64> {
    let meta = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let at = file.stream_position().ok()?;
    Some(meta.len().saturating_sub(at))
}

/// Joins the parts of a large message, and returns its size if that is known. The message can be read only once,
/// because stdin cannot be rewound.
fn stream(
    envelope: Envelope,
    headers: Vec<u8>,
    text: Cursor<Vec<u8>>,
    mut rest: File,
) -> (Raw<'static>, Option<u64>) {
    let in_memory = headers.len() as u64 + (text.get_ref().len() as u64 - text.position());
    let size = left(&mut rest).map(|left| left + in_memory);
    (Raw::reader(envelope, Cursor::new(headers).chain(text).chain(Polled(rest))), size)
}

/// Standard input, which may be slow: a read waits for at most 50 ms, so that octets can be sent and replies read
/// meanwhile.
struct Polled(File);

impl Read for Polled {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let limit = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit)) {
            Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
            _ => self.0.read(room),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_argument_can_hold_several_recipients() {
        for (text, expected) in [
            ("a@x", &["a@x"][..]),
            ("a@x,b@y", &["a@x", "b@y"]),
            (" a@x ,  b ", &["a@x", "b"]),
            ("a b\tc", &["a", "b", "c"]),
            ("Bob <b@x>, \"C, D\" <c@y>", &["b@x", "c@y"]),
            ("\"j d\"@x e@x", &["\"j d\"@x", "e@x"]),
            ("<a@x>", &["a@x"]),
        ] {
            let found = list(text).unwrap();
            assert_eq!(found.iter().map(Address::as_str).collect::<Vec<_>>(), expected, "{text}");
        }
        for text in ["a@x\r\nb@y", "a@x, b@@", "Bob <b@x>, <", ""] {
            assert!(list(text).is_err(), "{text:?}");
        }
    }
}
