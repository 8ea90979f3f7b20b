//! One message of the spool, in one file: a header, the content, and the [record](super::record) of what became of it.
//!
//! ```text
//! postino spool 1
//! uid 1000
//! time 1790000000
//! account work
//! from alice@example.org
//! to bob@example.org
//! ret hdrs
//! content 00000000000000001234
//!
//! (1234 octets)
//! tried 1790000001 1790000301 451 4.3.0 try again later
//! ```

use std::{
    fs::{self, File},
    io::{self, Error as IoError, ErrorKind, Read},
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use postino::{Address, Envelope, Error, Mail, MailOption, RcptOption, Ret, message::Body};

use super::{
    Place, Spool, elapsed, now,
    record::{Fate, Lines, Record, State},
    uptime,
};

const MAGIC: &str = "postino spool 1";

/// Maximum length of the header of a file, in octets: that of some hundred thousand recipients.
const MAX_HEADER: usize = 16 * 1024 * 1024;

/// What is asked for: everything but the content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    /// The user who has submitted the message.
    pub uid: u32,
    /// When it was submitted, in seconds since 1970.
    pub time: u64,
    /// The account of the configuration to send it with; empty for the one that fits the sender.
    pub account: String,
    /// Empty for the null sender.
    pub from: String,
    pub to: Vec<String>,
    /// `hdrs` or `full`.
    pub ret: Option<String>,
    pub envid: Option<String>,
    pub requires_tls: bool,
    /// Whether it is for all recipients or for none.
    pub all_or_nothing: bool,
    /// `never`, or some of `success,failure,delay`.
    pub notify: Option<String>,
}

impl Request {
    /// Takes the request from an envelope whose options are those of the command line.
    pub fn new(uid: u32, account: &str, envelope: &Envelope) -> Request {
        Request {
            uid,
            time: now(),
            account: account.to_owned(),
            from: envelope.sender().map(Address::to_string).unwrap_or_default(),
            to: envelope.recipients().iter().map(Address::to_string).collect(),
            ..Request::default()
        }
    }

    fn header(&self) -> io::Result<String> {
        let mut lines = vec![MAGIC.to_owned(), format!("uid {}", self.uid), format!("time {}", self.time)];
        let mut line = |name: &str, value: &str| lines.push(format!("{name} {value}"));
        line("account", &self.account);
        line("from", &self.from);
        self.to.iter().for_each(|to| line("to", to));
        for (name, value) in [("ret", &self.ret), ("envid", &self.envid), ("notify", &self.notify)] {
            value.iter().for_each(|value| line(name, value));
        }
        if self.requires_tls {
            line("requiretls", "yes");
        }
        if self.all_or_nothing {
            line("all-or-nothing", "yes");
        }
        if lines.iter().any(|line| line.chars().any(char::is_control)) {
            return Err(IoError::new(ErrorKind::InvalidInput, "the envelope contains a control character"));
        }
        let header = lines.join("\n") + "\n";
        if header.len() + CONTENT_LINE as usize > MAX_HEADER {
            return Err(IoError::new(ErrorKind::InvalidInput, "the envelope has too many recipients"));
        }
        Ok(header)
    }

    fn read(header: &str) -> Option<(Request, u64)> {
        let mut lines = header.lines();
        if lines.next()? != MAGIC {
            return None;
        }
        let (mut request, mut length) = (Request::default(), None);
        for line in lines {
            let (name, value) = line.split_once(' ').unwrap_or((line, ""));
            let text = || Some(value.to_owned());
            match name {
                "uid" => request.uid = value.parse().ok()?,
                "time" => request.time = value.parse().ok()?,
                "account" => value.clone_into(&mut request.account),
                "from" => value.clone_into(&mut request.from),
                "to" => request.to.push(value.to_owned()),
                "ret" => request.ret = text(),
                "envid" => request.envid = text(),
                "notify" => request.notify = text(),
                "requiretls" => request.requires_tls = true,
                "all-or-nothing" => request.all_or_nothing = true,
                "content" => length = Some(value.parse().ok()?),
                _ => return None, // written by another version
            }
        }
        Some((request, length?))
    }

    /// Whether the sender is told of refusals (RFC 3461 §4.1).
    pub(super) fn wants_bounce(&self) -> bool {
        !self.from.is_empty() && self.notify.as_ref().is_none_or(|words| words.contains("failure"))
    }

    /// Returns the envelope for all recipients.
    pub fn whole_envelope(&self) -> Result<Envelope, Error> {
        self.envelope(0..self.to.len())
    }

    /// Returns the envelope for the recipients with these numbers.
    fn envelope(&self, numbers: impl Iterator<Item = usize>) -> Result<Envelope, Error> {
        let recipients = numbers.filter_map(|n| self.to.get(n)).map(String::as_str);
        let mut envelope = Envelope::new(&self.from, recipients)?;
        match self.ret.as_deref() {
            Some("hdrs") => envelope = envelope.option(MailOption::Ret(Ret::Headers))?,
            Some(_) => envelope = envelope.option(MailOption::Ret(Ret::Full))?,
            None => {}
        }
        if let Some(id) = &self.envid {
            envelope = envelope.option(MailOption::EnvelopeId(id.clone()))?;
        }
        if self.requires_tls {
            envelope = envelope.option(MailOption::RequireTls)?;
        }
        match self.notify.as_deref() {
            Some("never") => envelope.recipient_options(RcptOption::NotifyNever),
            Some(words) => envelope.recipient_options(RcptOption::Notify {
                success: words.contains("success"),
                failure: words.contains("failure"),
                delay: words.contains("delay"),
            }),
            None => Ok(envelope),
        }
    }
}

/// A message of the spool. Its file is locked as long as this value lives, unless it comes from [`Spool::list`].
#[derive(Debug)]
pub struct Entry {
    spool: Spool,
    place: Place,
    id: String,
    file: Arc<SpoolFile>,
    request: Request,
    record: Record,
    /// Another process is working on it. Known only if it comes from [`Spool::list`].
    pub(super) is_in_use: bool,
}

/// The open file of a message.
#[derive(Debug)]
struct SpoolFile {
    file: File,
    /// Where the content begins, and its length.
    start: u64,
    length: u64,
    /// Where the next line of the record goes.
    end: AtomicU64,
    /// The content was read to its end since the file was opened.
    was_read: AtomicBool,
}

impl SpoolFile {
    fn new(file: File, start: u64, length: u64, end: u64) -> SpoolFile {
        SpoolFile { file, start, length, end: AtomicU64::new(end), was_read: AtomicBool::new(false) }
    }

    /// Appends lines to the record, permanently.
    fn append(&self, lines: &Lines) -> io::Result<()> {
        let end = self.end.load(Ordering::Relaxed);
        // A line that was not written to its end would become part of the next one.
        self.file.set_len(end)?;
        self.file.write_all_at(lines.as_bytes(), end)?;
        self.file.sync_data()?;
        self.end.store(end + lines.as_bytes().len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl Entry {
    /// Writes a message to a new file.
    pub(super) fn write(
        spool: &Spool,
        id: &str,
        file: File,
        request: &Request,
        content: &mut dyn Read,
    ) -> io::Result<Entry> {
        let header = request.header()?;
        let start = header.len() as u64 + CONTENT_LINE;
        let mut at = start;
        let mut block = vec![0; 64 * 1024];
        loop {
            match content.read(&mut block) {
                Ok(0) => break,
                Ok(n) => {
                    file.write_all_at(&block[..n], at)?;
                    at += n as u64;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let length = at - start;
        // The length comes last: without it, the file is not complete.
        let header = format!("{header}content {length:020}\n\n");
        file.write_all_at(header.as_bytes(), 0)?;
        Ok(Entry {
            spool: spool.clone(),
            place: Place::Tmp,
            id: id.to_owned(),
            file: Arc::new(SpoolFile::new(file, start, length, at)),
            request: request.clone(),
            record: Record::new(request.to.len()),
            is_in_use: false,
        })
    }

    pub(super) fn read(spool: &Spool, place: Place, id: &str, file: File) -> io::Result<Entry> {
        let bad = || IoError::new(ErrorKind::InvalidData, format!("{id} is not a message of this spool"));
        let header = read_header(&file)?.ok_or_else(bad)?;
        let (request, length) = std::str::from_utf8(&header).ok().and_then(Request::read).ok_or_else(bad)?;
        let start = header.len() as u64 + 1;
        let lines_at = start.checked_add(length).ok_or_else(bad)?;
        let size = file.metadata()?.len();
        if size < lines_at {
            return Err(bad());
        }
        let mut lines = vec![0; usize::try_from(size - lines_at).map_err(|_| bad())?];
        file.read_exact_at(&mut lines, lines_at)?;
        let record = Record::read(request.to.len(), &lines);
        let file = Arc::new(SpoolFile::new(file, start, length, lines_at + record.length as u64));
        Ok(Entry { spool: spool.clone(), place, id: id.to_owned(), file, request, record, is_in_use: false })
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn request(&self) -> &Request {
        &self.request
    }

    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Whether another process is working on it. Known only if it comes from [`Spool::list`].
    pub fn is_in_use(&self) -> bool {
        self.is_in_use
    }

    /// How long the message has waited at least, in seconds. Only time that the machine ran counts, so the clock can be
    /// put forward and back meanwhile.
    pub(super) fn waited(&self) -> u64 {
        self.record.waited.map_or(0, |(seconds, at)| seconds.saturating_add(elapsed(at, uptime())))
    }

    /// Whether the content was read to its end since the message was opened, so that it may be delivered.
    pub(super) fn was_read(&self) -> bool {
        self.file.was_read.load(Ordering::Relaxed)
    }

    /// Length of what precedes the content, in octets.
    pub(super) fn header_len(&self) -> u64 {
        self.file.start
    }

    /// Length of the content in octets.
    pub fn content_len(&self) -> u64 {
        self.file.length
    }

    /// Returns the header fields of the content, for a bounce: its first octets, at most 64 KiB.
    pub(super) fn head(&self) -> io::Result<Vec<u8>> {
        let mut head = vec![0; self.file.length.min(64 * 1024) as usize];
        self.file.file.read_exact_at(&mut head, self.file.start)?;
        Ok(head)
    }

    /// The recipients that are left, by their numbers.
    pub(super) fn due(&self) -> impl Iterator<Item = usize> + '_ {
        self.record.recipients.iter().enumerate().filter(|(_, state)| **state == State::Due).map(|(n, _)| n)
    }

    /// Appends lines to the record, and reads them as they will be read later.
    pub(super) fn append(&mut self, lines: &Lines) -> io::Result<()> {
        let begin = self.file.start + self.file.length;
        self.file.append(lines)?;
        let end = self.file.end.load(Ordering::Relaxed);
        let mut text = vec![0; (end - begin) as usize];
        self.file.file.read_exact_at(&mut text, begin)?;
        self.record = Record::read(self.request.to.len(), &text);
        Ok(())
    }

    /// Records how an attempt has ended: what became of each recipient that was left, and when it is tried again.
    pub fn settle(&mut self, states: &[State], next: u64, reason: &str) -> io::Result<()> {
        // Nothing has to be written where all is delivered: the disk may be full.
        let others = self.record.recipients.iter().filter(|state| **state != State::Due);
        if states.iter().chain(others).all(|state| *state == State::Accepted) {
            self.record.recipients.fill(State::Accepted);
            return Ok(());
        }
        let mut lines = Lines::default();
        for (number, state) in self.due().zip(states) {
            lines.push(number, state);
        }
        lines.waited(self.waited(), uptime());
        lines.tried(now(), next, reason);
        self.append(&lines)
    }

    /// Records how long the message has waited, unless that was done less than this time ago, in seconds. Without it, a
    /// restart of the machine would reset the wait. After a restart it is recorded more often: a machine may never run
    /// for long, and at least half of its time has to count.
    pub(super) fn record_wait(&mut self, once_in: u64) -> io::Result<()> {
        let now = uptime();
        if self.record.waited.is_some_and(|(_, at)| elapsed(at, now) < once_in.min(now / 2)) {
            return Ok(());
        }
        self.set_waited(self.waited())
    }

    /// Records a time that the message has waited, in seconds.
    pub(super) fn set_waited(&mut self, seconds: u64) -> io::Result<()> {
        let mut lines = Lines::default();
        lines.waited(seconds, uptime());
        self.append(&lines)
    }

    /// Records that the sender knows of all refusals.
    pub fn told(&mut self) -> io::Result<()> {
        let mut lines = Lines::default();
        lines.told();
        self.append(&lines)
    }

    /// Makes the recipients that are in doubt, or were refused, due again.
    pub(super) fn try_again(&self) -> io::Result<()> {
        let mut lines = Lines::default();
        for (number, state) in self.record.recipients.iter().enumerate() {
            if matches!(state, State::Doubt(_) | State::Refused(_)) {
                lines.push(number, &State::Due);
            }
        }
        lines.again();
        self.file.append(&lines)
    }

    /// Accepts a message: from here on, it is not lost. Returns it, still locked.
    ///
    /// # Errors
    ///
    /// The message is not in the queue.
    pub fn accept(mut self) -> io::Result<Entry> {
        self.file.file.sync_all()?;
        let queued = self.spool.path(Place::Queue, &self.id);
        fs::rename(self.spool.path(self.place, &self.id), &queued)?;
        if let Err(e) = self.spool.sync(Place::Queue) {
            // It is there, but not permanently. If it cannot be taken back, it will be sent.
            if fs::remove_file(queued).is_ok() {
                return Err(e);
            }
        }
        drop(self.spool.sync(self.place)); // a second name in `tmp`, after a loss of power, is cleaned away
        self.place = Place::Queue;
        Ok(self)
    }

    /// Moves the message to another folder, permanently.
    pub fn set_aside(self, place: Place) -> io::Result<()> {
        self.file.file.sync_all()?;
        fs::rename(self.spool.path(self.place, &self.id), self.spool.path(place, &self.id))?;
        self.spool.sync(place)?;
        self.spool.sync(self.place)
    }

    /// Removes a message that is dealt with.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_file(self.spool.path(self.place, &self.id))?;
        self.spool.sync(self.place)
    }

    /// Moves or removes the message if nobody is left, and returns what became of it.
    pub fn finish(mut self) -> io::Result<Fate> {
        let fate = self.record.fate();
        match fate {
            Fate::Due if self.place == Place::Tmp => drop(self.accept()?),
            Fate::Due => {}
            Fate::Failed => {
                self.set_waited(0)?; // until it is removed
                self.set_aside(Place::Failed)?;
            }
            Fate::Doubt => self.set_aside(Place::Doubt)?,
            Fate::Done => self.remove()?,
        }
        Ok(fate)
    }
}

/// Length of the line with the length of the content, and of the empty line after it.
const CONTENT_LINE: u64 = "content 00000000000000001234\n\n".len() as u64;

/// Reads the header up to the empty line, which is left out. Returns `None` if the file has no empty line.
fn read_header(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut header = Vec::new();
    let mut block = [0; 4096];
    while header.len() < MAX_HEADER {
        let n = file.read_at(&mut block, header.len() as u64)?;
        if n == 0 {
            break;
        }
        let from = header.len().saturating_sub(1);
        header.extend_from_slice(&block[..n]);
        if let Some(at) = header[from..].windows(2).position(|two| two == b"\n\n") {
            header.truncate(from + at + 1);
            return Ok(Some(header));
        }
    }
    Ok(None)
}

/// The message for the recipients that are left.
impl Mail for Entry {
    fn envelope(&self) -> Result<Envelope, Error> {
        self.request.envelope(self.due())
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        let reader = Content { file: Arc::clone(&self.file), at: 0, is_marked: false };
        Ok(Body::reader(reader).with_size(self.file.length))
    }
}

/// Reads the content, and records before its last octet is passed on that the message may be delivered from then on.
struct Content {
    file: Arc<SpoolFile>,
    at: u64,
    is_marked: bool,
}

impl Read for Content {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let left = self.file.length - self.at;
        let most = room.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = self.file.file.read_at(&mut room[..most], self.file.start + self.at)?;
        if n == 0 && most > 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.at += n as u64;
        if self.at == self.file.length && !self.is_marked {
            self.file.append(&Lines::sending(now()))?;
            self.file.was_read.store(true, Ordering::Relaxed);
            self.is_marked = true;
        }
        Ok(n)
    }
}
