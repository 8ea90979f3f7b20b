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
//! A message counts as accepted once its file is in `queue`, after the file and then the folder are synced. What is
//! left in `tmp` was never accepted.

mod bounce;
mod entry;
mod record;
mod run;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
    io::{self, ErrorKind, Read},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    process::{getegid, geteuid, getgid},
    time::{ClockId, clock_gettime},
};

use crate::id::new_id;

pub use self::{
    bounce::bounce,
    entry::{Entry, Request},
    record::{Fate, State},
    run::{Runner, Waits, is_about_server, outcomes},
};

/// Files in `tmp` that nobody has locked are removed after this time: their process was killed.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Length of the identifier of a message, in octets. The identifier of a bounce begins with that of the message that it
/// is about.
const ID_LENGTH: usize = 14;

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
    /// Opens the spool, and creates its folders if they are missing. In set-group-ID mode only root creates them: they
    /// would belong to the user who was the first to send.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::PermissionDenied`] if a folder belongs to another user, or gives rights to everyone: its owner, or
    /// everyone, could add messages, which would be sent with the login of the system.
    pub fn open(folder: &Path, max_messages: usize, max_octets: u64) -> io::Result<Spool> {
        // Users write to a shared spool through a set-group-ID program.
        let (is_root, has_group) = (geteuid().is_root(), getegid() != getgid());
        let mode = if is_root || has_group { 0o2770 } else { 0o700 };
        for place in [Place::Tmp, Place::Queue, Place::Doubt, Place::Failed] {
            let path = folder.join(place.name());
            match fs::symlink_metadata(&path) {
                Err(e) if e.kind() == ErrorKind::NotFound && has_group && !is_root => {
                    return denied(&path, "is missing (root creates it by sendmail -q)");
                }
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    for missing in [folder, &*path].into_iter().filter(|path| !path.exists()) {
                        DirBuilder::new().recursive(true).mode(mode).create(missing)?;
                        // Whatever the umask is.
                        drop(fs::set_permissions(missing, Permissions::from_mode(mode)));
                    }
                    for created in [Some(folder), folder.parent()].into_iter().flatten() {
                        drop(File::open(created).and_then(|folder| folder.sync_all()));
                    }
                }
                Err(e) => return Err(e),
                Ok(there) => check_folder(&path, &there, has_group, 0o007)?,
            }
        }
        check_folder(folder, &fs::metadata(folder)?, has_group, 0o002)?;
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
        let checked = stored.and_then(|entry| {
            if entry.content_len() > room {
                return Err(full(&format!("it has room for {room} octets")));
            }
            // Other processes may have stored messages meanwhile.
            let (messages, octets) = self.contents()?;
            if messages > self.max_messages || octets.saturating_sub(entry.header_len()) > self.max_octets {
                return Err(full("other messages came first"));
            }
            Ok(entry)
        });
        if checked.is_err() {
            drop(fs::remove_file(self.path(Place::Tmp, &id)));
        }
        checked
    }

    /// Stores a message with this identifier in the queue, and returns it. Does nothing if there is one: a process that
    /// was killed may have got this far.
    fn store_as(&self, id: &str, request: &Request, content: &[u8]) -> io::Result<Option<Entry>> {
        if self.is_stored(id) {
            return Ok(None);
        }
        drop(fs::remove_file(self.path(Place::Tmp, id))); // left by a process that was killed
        let file = self.create_as(id)?;
        Entry::write(self, id, file, request, &mut &content[..])?.accept().map(Some)
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
        drop(file.set_permissions(Permissions::from_mode(0o660))); // whatever the umask is
        self.lock_new(id, &file)?;
        Ok(file)
    }

    /// Locks a file that was just created in `tmp`. A process that cleans up may have found it first: then it is given
    /// up.
    fn lock_new(&self, id: &str, file: &File) -> io::Result<()> {
        let path = self.path(Place::Tmp, id);
        if lock_at_once(file)? && is_at(file, &path)? {
            return Ok(());
        }
        drop(fs::remove_file(path));
        Err(ErrorKind::AlreadyExists.into())
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
        let file = match open(&path, true) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        // Between opening and locking it, another process may have finished with it.
        if !lock_at_once(&file)? || !is_at(&file, &path)? {
            return Ok(None);
        }
        Entry::read(self, place, id, file).map(Some)
    }

    /// Deals with what killed processes have left in `tmp`. None of it was accepted; what may have been delivered
    /// nevertheless is kept for a person.
    fn clean(&self, complain: &mut dyn FnMut(&str, &io::Error)) -> io::Result<()> {
        for (id, path) in self.files(Place::Tmp)? {
            let is_old = || {
                let file = fs::symlink_metadata(&path);
                file.and_then(|file| file.modified()).is_ok_and(|at| age(at) > ABANDONED)
            };
            let cleaned = match self.lock(Place::Tmp, &id) {
                Ok(Some(entry)) if entry.record().fate() == Fate::Doubt => entry.set_aside(Place::Doubt),
                Ok(Some(_)) if is_old() => fs::remove_file(&path),
                Ok(_) => Ok(()),
                // It was not written to its end.
                Err(e) if e.kind() == ErrorKind::InvalidData && is_old() => fs::remove_file(&path),
                Err(e) if e.kind() == ErrorKind::InvalidData => Ok(()),
                Err(e) => Err(e),
            };
            match cleaned {
                // Another process has removed it first.
                Err(e) if e.kind() != ErrorKind::NotFound => complain(&id, &e),
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
            for (id, _) in self.files(place)? {
                let mut entry = self.look(place, &id);
                // A message that is being sent looks as if its process was killed.
                if entry.as_ref().is_ok_and(|entry| {
                    place == Place::Queue
                        && uid.is_none_or(|uid| entry.request().uid == uid)
                        && entry.record().fate() == Fate::Doubt
                }) {
                    entry = self.look_closer(place, &id);
                }
                match entry {
                    Ok(entry) if uid.is_some_and(|uid| entry.request().uid != uid) => {}
                    // It has just been sent, or is not theirs.
                    Err(e) if e.kind() == ErrorKind::NotFound || uid.is_some() => {}
                    entry => show(place, &id, entry),
                }
            }
        }
        Ok(())
    }

    /// Opens a message to read it, without locking it.
    fn look(&self, place: Place, id: &str) -> io::Result<Entry> {
        open(&self.path(place, id), false).and_then(|file| Entry::read(self, place, id, file))
    }

    /// Opens a message to read it, and finds out whether another process is working on it. For this, it is locked for a
    /// moment.
    fn look_closer(&self, place: Place, id: &str) -> io::Result<Entry> {
        let path = self.path(place, id);
        let file = open(&path, false)?;
        let is_in_use = !lock_at_once(&file)?;
        if !is_at(&file, &path)? {
            return Err(ErrorKind::NotFound.into());
        }
        let lock = file.try_clone()?;
        let mut entry = Entry::read(self, place, id, file)?;
        let _unlocked = flock(lock, FlockOperation::Unlock); // whoever reads the list may be slow
        entry.is_in_use = is_in_use;
        Ok(entry)
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
            let is_theirs = |entry: &Entry| uid.is_none_or(|uid| entry.request().uid == uid);
            // The message of another user is not even locked: a process that is stopped would keep it from being sent.
            match self.look(place, id) {
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Ok(entry) if !is_theirs(&entry) => return Ok(false),
                Err(_) if uid.is_some() => return Ok(false),
                _ => {}
            }
            if let Some(entry) = self.lock(place, id)?.filter(is_theirs) {
                return act(entry).map(|()| true);
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

/// Whether a folder of the spool can be used: it belongs to root or, if it is not shared, the user, and does not have
/// these rights for others.
fn check_folder(path: &Path, folder: &Metadata, is_shared: bool, rights: u32) -> io::Result<()> {
    let mode = folder.mode() & 0o7777;
    if !folder.is_dir() {
        return denied(path, "is not a folder");
    }
    if folder.uid() != 0 && (is_shared || folder.uid() != geteuid().as_raw()) {
        return denied(path, &format!("belongs to user {}", folder.uid()));
    }
    if mode & rights != 0 {
        return denied(path, &format!("is open to everyone (its mode is {mode:o})"));
    }
    Ok(())
}

fn denied<T>(path: &Path, why: &str) -> io::Result<T> {
    Err(io::Error::new(ErrorKind::PermissionDenied, format!("{} {why}", path.display())))
}

/// Locks a file. Returns false if another process has locked it.
fn lock_at_once(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        locked => Ok(locked.map(|()| true)?),
    }
}

/// Whether an open file still has this name.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(there) => file.metadata().map(|file| (file.dev(), file.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Whether a file name is that of a message: anything else in the folders is left alone.
fn is_id(name: &str) -> bool {
    name.len() >= ID_LENGTH
        && OsStr::new(name).len() <= 32
        && name.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
}

/// The time in seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How long the machine has run, in seconds.
fn uptime() -> u64 {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    u64::try_from(clock_gettime(clock).tv_sec).unwrap_or(0)
}

/// The time that has passed at least between two uptimes, in seconds. If the second one is less, the machine has
/// started again meanwhile.
fn elapsed(from: u64, to: u64) -> u64 {
    to.checked_sub(from).unwrap_or(to)
}

fn age(at: SystemTime) -> Duration {
    SystemTime::now().duration_since(at).unwrap_or_default()
}
