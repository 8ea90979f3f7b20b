//! Files, and what only has the name of one: pipes and devices, which may keep a reader waiting.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::sys;

/// Longest wait in one read of a pipe or a device.
const WAIT: Duration = Duration::from_millis(50);
/// Shortest time between two reads that find nothing.
const PAUSE: Duration = Duration::from_millis(10);
/// Longest time that one block of a reader takes to fill, where some of it can go on its way.
pub(crate) const HELD: Duration = Duration::from_millis(10);

/// Opens a file without waiting for the other end of a FIFO; an error names it.
pub(super) fn open(path: &Path) -> io::Result<File> {
    sys::open_file(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// What is read from a file: never for longer than [`WAIT`] at a time.
pub(super) fn reader(file: File) -> Box<dyn Read + Send> {
    match file.metadata() {
        Ok(meta) if !meta.is_file() => Box::new(Waiting { file, is_unheard: sys::may_lack_a_writer(&meta) }),
        _ => Box::new(file),
    }
}

/// A pipe or a device. [`ErrorKind::WouldBlock`] says that there is nothing yet.
struct Waiting {
    file: File,
    /// It is a FIFO, and nothing has come so far.
    is_unheard: bool,
}

impl Read for Waiting {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if !sys::wait_for_file(&self.file, WAIT)? {
            return Err(ErrorKind::WouldBlock.into());
        }
        match self.file.read(room)? {
            0 if self.is_unheard && !room.is_empty() => Err(ErrorKind::WouldBlock.into()),
            n => {
                self.is_unheard = false;
                Ok(n)
            }
        }
    }
}

/// Reads once. `None` if there is nothing yet: then some time has passed, however soon the reader said so.
pub(crate) fn read_once(reader: &mut dyn Read, room: &mut [u8]) -> io::Result<Option<usize>> {
    let began = Instant::now();
    match reader.read(room) {
        Ok(n) => Ok(Some(n)),
        Err(e) if e.kind() == ErrorKind::Interrupted => Ok(None),
        Err(e) if e.kind() == ErrorKind::WouldBlock => {
            sleep(PAUSE.saturating_sub(began.elapsed()));
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Waits for what is not there yet, for as long as it takes: for those who read by [`Read`] alone.
pub(super) struct Patient<R>(pub R);

impl<R: Read> Read for Patient<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(n) = read_once(&mut self.0, room)? {
                return Ok(n);
            }
        }
    }
}
