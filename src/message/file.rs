//! Files, pipes and devices. Pipes and devices may keep a reader waiting.

use std::{
    fs::File,
    io::{self, ErrorKind, Read},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use crate::sys;

/// Maximum wait in one read of a pipe or a device.
const WAIT: Duration = Duration::from_millis(50);
/// Minimum time between two reads that find nothing.
const PAUSE: Duration = Duration::from_millis(10);
/// Maximum time to fill one block from a reader, if part of it can already be sent.
pub(crate) const HELD: Duration = Duration::from_millis(10);

/// Opens a file without waiting for the other end of a FIFO. An error includes the path.
pub(super) fn open(path: &Path) -> io::Result<File> {
    sys::open_file(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// Creates a reader for a file. No read of a pipe or device waits longer than [`WAIT`].
pub(super) fn reader(file: File) -> Box<dyn Read + Send> {
    match file.metadata() {
        Ok(meta) if !meta.is_file() => Box::new(Waiting { file, is_unheard: sys::may_lack_a_writer(&meta) }),
        _ => Box::new(file),
    }
}

/// A pipe or a device. [`ErrorKind::WouldBlock`] means that there is no data yet.
struct Waiting {
    file: File,
    /// The file is a FIFO from which nothing has been read so far.
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

/// Reads once. Returns `None` if there is no data yet, after waiting for at least [`PAUSE`] even if the reader did not.
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

/// Waits for data as long as necessary, for callers that only use [`Read`].
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
