//! The message on standard input.

use std::{
    fs::File,
    io::{self, Cursor, Read, Seek},
    os::fd::AsFd,
};

use postino::{
    Address, Envelope, Error, Mail,
    message::{Body, header_length, without_bcc},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::options::Options;

/// How much of the message is read before connecting, in octets: all of it in most cases.
const HEAD: u64 = 1024 * 1024;

/// The message on stdin.
pub struct Message<'o> {
    options: &'o Options,
    /// The whole message, or its first MiB and one octet.
    head: Vec<u8>,
    /// The source of the rest, if there is more.
    rest: Option<File>,
}

impl Message<'_> {
    pub fn read(options: &Options) -> Result<Message<'_>, Error> {
        let mut head = Vec::new();
        let mut read = || {
            let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
            (&stdin).take(HEAD + 1).read_to_end(&mut head)?;
            Ok(stdin)
        };
        let stdin = read().map_err(Error::Source)?;
        let rest = (head.len() as u64 > HEAD).then_some(stdin);
        head.drain(..mbox_lines(&head));
        Ok(Message { options, head, rest })
    }

    /// The part of the message that contains all headers.
    fn headers(&self) -> Result<&[u8], Error> {
        if self.rest.is_none() || header_length(&self.head).is_some() {
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

    /// All recipients that can be reported, even if there is no valid envelope.
    pub fn known_recipients(&self) -> Vec<String> {
        let named = self.header_recipients().unwrap_or_default();
        let given = self.options.recipients.iter();
        let given = given.map(|text| Address::new(text).map_or_else(|_| text.clone(), |a| a.to_string()));
        named.iter().map(Address::to_string).chain(given).collect()
    }
}

/// Length of the mbox lines before the first header of a message: `From ` or `>From `, each with its continuation lines.
/// A recipient's mail reader would find no headers after them.
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
        let sender = match &self.options.from {
            Some(sender) => sender.clone(),
            None => Envelope::sender_from_headers(self.headers()?)?.to_string(),
        };
        let named = self.header_recipients()?;
        let given = self.options.recipients.iter().map(String::as_str);
        let mut envelope = Envelope::new(&sender, named.iter().map(Address::as_str).chain(given))?;
        for option in &self.options.mail_options {
            envelope = envelope.option(option.clone())?;
        }
        match &self.options.notify {
            Some(notify) => envelope.recipient_options(notify.clone()),
            None => Ok(envelope),
        }
    }

    /// Can be opened only once if there is a rest, because stdin cannot be rewound.
    fn body(&self) -> Result<Body<'_>, Error> {
        let head =
            if self.options.from_headers { without_bcc(&self.head) } else { self.head.as_slice().into() };
        let Some(rest) = &self.rest else { return Ok(head.into()) };
        let mut rest = rest.try_clone().map_err(Error::Source)?;
        let left = match rest.metadata() {
            Ok(file) if file.is_file() => rest.stream_position().ok().map(|at| file.len().saturating_sub(at)),
            _ => None, // the length of a pipe is unknown
        };
        let size = left.map(|left| left + head.len() as u64);
        let body = Body::reader(Cursor::new(head.into_owned()).chain(Polled(rest)));
        Ok(match size {
            Some(size) => body.with_size(size),
            None => body,
        })
    }
}

/// Standard input, which may be slow: a read waits for at most 50 ms, so that octets can be sent and replies read meanwhile.
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
