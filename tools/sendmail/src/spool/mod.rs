//! The spool: messages that wait for a server that can take them.
//!
//! ```text
//! receive ─▶ tmp/ID ──▶ queue/ID ─▶ (sent: removed)
//!               │           ├─────▶ doubt/ID   may have been delivered; a person decides
//!               ▼           └─────▶ failed/ID  cannot be delivered, and the sender cannot be told
//!           (removed)
//! ```
//!
//! One file holds a message, its envelope, and the record of what became of it ([`entry`]). Whoever works on a file has
//! it locked (`flock`), and the system releases the lock when the process ends, however it ends. So a file that is not
//! locked, and whose record says that its content was being sent, belongs to a process that was killed at that point:
//! the message may have been delivered.
//!
//! A message counts as accepted once its file is in `queue`, after the file and then the folder are synced. What is left
//! in `tmp` was never accepted.

mod bounce;
mod entry;
mod record;
mod run;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    process::{getegid, geteuid, getgid},
};

use crate::id::new_id;

pub use self::{
    bounce::bounce,
    entry::{Entry, Request},
    record::{Fate, State},
    run::{Runner, Waits, outcomes},
};

/// Files in `tmp` that nobody has locked are removed after this time: their process was killed.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A folder of the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Not accepted yet.
    Tmp,
    Queue,
    Doubt,
    Failed,
}

impl Place {
    fn name(self) -> &'static str {
        match self {
            Place::Tmp => "tmp",
            Place::Queue => "queue",
            Place::Doubt => "doubt",
            Place::Failed => "failed",
        }
    }
}

/// The spool in a folder.
#[derive(Debug, Clone)]
pub struct Spool {
    folder: PathBuf,
    /// Maximum number of messages, and of their octets. Messages in doubt count, too.
    max_messages: usize,
    max_octets: u64,
}

impl Spool {
    /// Opens the spool, and creates its folders if they are missing.
    pub fn open(folder: &Path, max_messages: usize, max_octets: u64) -> io::Result<Spool> {
        // Users write to a shared spool through a set-group-ID program.
        let is_shared = geteuid().is_root() || getegid() != getgid();
        let mode = if is_shared { 0o2770 } else { 0o700 };
        for place in [Place::Tmp, Place::Queue, Place::Doubt, Place::Failed] {
            let path = folder.join(place.name());
            match fs::symlink_metadata(&path) {
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    DirBuilder::new().recursive(true).mode(mode).create(&path)?;
                    drop(fs::set_permissions(&path, Permissions::from_mode(mode))); // whatever the umask is
                    for created in [Some(folder), folder.parent()].into_iter().flatten() {
                        drop(File::open(created).and_then(|folder| folder.sync_all()));
                    }
                }
                // Others could add messages, which would be sent with the login of the system.
                Ok(there) if !there.is_dir() || there.mode() & 0o002 != 0 => {
                    let why = format!("{} is not a folder, or can be written by everyone", path.display());
                    return Err(io::Error::new(ErrorKind::PermissionDenied, why));
                }
                Ok(_) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Spool { folder: folder.to_owned(), max_messages, max_octets })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, place: Place, id: &str) -> PathBuf {
        self.folder.join(place.name()).join(id)
    }

    /// Makes renamed and removed files of a folder permanent.
    fn sync(&self, place: Place) -> io::Result<()> {
        File::open(self.folder.join(place.name()))?.sync_all()
    }

    /// Stores a message in `tmp`, where it is not accepted yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StorageFull`] if the spool has reached its limits; any error of the reader or of the file system.
    pub fn receive(&self, request: &Request, content: &mut dyn Read) -> io::Result<Entry> {
        let (messages, octets) = self.contents()?;
        let full = |what: &str| io::Error::new(ErrorKind::StorageFull, format!("the spool is full: {what}"));
        if messages >= self.max_messages {
            return Err(full(&format!("it contains {messages} messages")));
        }
        let room = self.max_octets.saturating_sub(octets);
        let (id, file) = self.create(new_id)?;
        let stored = Entry::write(self, &id, file, request, &mut content.take(room.saturating_add(1)));
        match stored {
            Ok(entry) if entry.content_len() > room => {
                drop(fs::remove_file(self.path(Place::Tmp, &id)));
                Err(full(&format!("it has room for {room} octets")))
            }
            Ok(entry) => Ok(entry),
            Err(e) => {
                drop(fs::remove_file(self.path(Place::Tmp, &id)));
                Err(e)
            }
        }
    }

    /// Stores a message with this identifier in the queue. Does nothing if there is one: a process that was killed may
    /// have got this far.
    fn store_as(&self, id: &str, request: &Request, content: &[u8]) -> io::Result<()> {
        if self.is_stored(id) {
            return Ok(());
        }
        drop(fs::remove_file(self.path(Place::Tmp, id))); // left by a process that was killed
        let file = self.create_as(id)?;
        Entry::write(self, id, file, request, &mut &content[..])?.accept()
    }

    /// Creates a file with a new identifier.
    fn create(&self, mut new_id: impl FnMut() -> String) -> io::Result<(String, File)> {
        loop {
            let id = new_id();
            match self.create_as(&id) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
                // Nothing must be replaced when it is accepted. No other process can move one by this name there now.
                Ok(_) if self.is_stored(&id) => fs::remove_file(self.path(Place::Tmp, &id))?,
                Ok(file) => return Ok((id, file)),
            }
        }
    }

    /// Whether there is a message with this identifier that was accepted.
    fn is_stored(&self, id: &str) -> bool {
        let mut places = [Place::Queue, Place::Doubt, Place::Failed].into_iter();
        places.any(|place| fs::symlink_metadata(self.path(place, id)).is_ok())
    }

    /// Creates a file in `tmp`, locked.
    fn create_as(&self, id: &str) -> io::Result<File> {
        let path = self.path(Place::Tmp, id);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o660).open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        drop(file.set_permissions(Permissions::from_mode(0o660))); // whatever the umask is
        Ok(file)
    }

    /// Returns the number of messages that are stored, and of their octets.
    fn contents(&self) -> io::Result<(usize, u64)> {
        let mut sum = (0, 0);
        for place in [Place::Tmp, Place::Queue, Place::Doubt, Place::Failed] {
            for (_, path) in self.files(place)? {
                // Another process may have sent it meanwhile.
                if let Ok(file) = fs::symlink_metadata(path) {
                    sum = (sum.0 + 1, sum.1 + file.len());
                }
            }
        }
        Ok(sum)
    }

    /// Returns the identifiers and paths of the files in a folder, the oldest first.
    fn files(&self, place: Place) -> io::Result<Vec<(String, PathBuf)>> {
        let mut files = Vec::new();
        for file in fs::read_dir(self.folder.join(place.name()))? {
            let file = file?;
            if let Some(id) = file.file_name().to_str().filter(|id| is_id(id)) {
                files.push((id.to_owned(), file.path()));
            }
        }
        files.sort();
        Ok(files)
    }

    /// Opens a message and locks it. Returns `None` if another process is working on it, or has just removed it.
    fn lock(&self, place: Place, id: &str) -> io::Result<Option<Entry>> {
        let path = self.path(place, id);
        let gone = |e: &io::Error| e.kind() == ErrorKind::NotFound;
        let file = match open(&path, true) {
            Err(e) if gone(&e) => return Ok(None),
            file => file?,
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            locked => locked?,
        }
        // Between opening and locking it, another process may have finished with it.
        match fs::symlink_metadata(&path) {
            Ok(there) if there.ino() == file.metadata()?.ino() => {}
            Err(e) if !gone(&e) => return Err(e),
            _ => return Ok(None),
        }
        Entry::read(self, place, id, file).map(Some)
    }

    /// Deals with what killed processes have left in `tmp`. None of it was accepted; what may have been delivered
    /// nevertheless is kept for a person.
    fn clean(&self) -> io::Result<()> {
        for (id, path) in self.files(Place::Tmp)? {
            let is_old = |file: &fs::Metadata| file.modified().is_ok_and(|at| age(at) > ABANDONED);
            match self.lock(Place::Tmp, &id) {
                Ok(Some(entry)) if entry.record().fate() == Fate::Doubt => entry.set_aside(Place::Doubt)?,
                // What cannot be read was not written to its end.
                Ok(Some(_)) | Err(_) if fs::symlink_metadata(&path).is_ok_and(|file| is_old(&file)) => {
                    drop(fs::remove_file(&path));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Passes the messages that are stored to a function, for `mailq`: those of the user, or all. Only one of them is
    /// open at a time.
    pub fn list(
        &self,
        uid: Option<u32>,
        mut show: impl FnMut(Place, &str, io::Result<Entry>),
    ) -> io::Result<()> {
        for place in [Place::Queue, Place::Doubt, Place::Failed] {
            for (id, path) in self.files(place)? {
                match open(&path, false).and_then(|file| Entry::read(self, place, &id, file)) {
                    Ok(entry) if uid.is_some_and(|uid| entry.request().uid != uid) => {}
                    // It has just been sent, or is not theirs.
                    Err(e) if e.kind() == ErrorKind::NotFound || uid.is_some() => {}
                    entry => show(place, &id, entry),
                }
            }
        }
        Ok(())
    }

    /// Puts a message that was set aside back into the queue, due at once. Returns false if the user has no such
    /// message.
    pub fn resend(&self, id: &str, uid: Option<u32>) -> io::Result<bool> {
        self.with_set_aside(id, uid, |entry| {
            entry.try_again()?;
            entry.set_aside(Place::Queue)
        })
    }

    /// Removes a message, wherever it is. Returns false if the user has no such message.
    pub fn remove(&self, id: &str, uid: Option<u32>) -> io::Result<bool> {
        self.with_set_aside(id, uid, Entry::remove)
    }

    fn with_set_aside(
        &self,
        id: &str,
        uid: Option<u32>,
        act: impl FnOnce(Entry) -> io::Result<()>,
    ) -> io::Result<bool> {
        for place in [Place::Doubt, Place::Failed, Place::Queue].into_iter().filter(|_| is_id(id)) {
            if let Some(entry) = self.lock(place, id)? {
                let is_theirs = uid.is_none_or(|uid| entry.request().uid == uid);
                return if is_theirs { act(entry).map(|()| true) } else { Ok(false) };
            }
        }
        Ok(false)
    }
}

/// Opens the file of a message. Anything else by this name, such as a link, is an error.
fn open(path: &Path, write: bool) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK; // a pipe must not block
    let file = OpenOptions::new().read(true).write(write).custom_flags(flags.bits() as i32).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(ErrorKind::InvalidData, "not a regular file"))
    }
}

/// Whether a file name is that of a message: anything else in the folders is left alone.
fn is_id(name: &str) -> bool {
    name.len() >= 14
        && OsStr::new(name).len() <= 32
        && name.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
}

/// The time in seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn age(at: SystemTime) -> Duration {
    SystemTime::now().duration_since(at).unwrap_or_default()
}
