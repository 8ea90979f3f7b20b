//! Reading files, pipes, devices and slow readers: all I/O of messages is here.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Seek},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use super::encoding;
use crate::sys;

/// Maximum wait in one read of a pipe or a device.
const MAX_READ_WAIT: Duration = Duration::from_millis(50);
/// Minimum time that a read takes if there is no data yet.
const MIN_READ_TIME: Duration = Duration::from_millis(10);
/// Maximum time to fill one block from a reader, if part of it can already be sent.
pub(crate) const MAX_FILL_TIME: Duration = Duration::from_millis(10);

/// Opens a file without waiting for the other end of a FIFO. An error includes the path.
pub(super) fn open(path: &Path) -> io::Result<File> {
    sys::open_file(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// Creates a reader for a file. No read of a pipe or device waits longer than [`MAX_READ_WAIT`].
pub(super) fn reader(file: File) -> Box<dyn Read + Send> {
    match file.metadata() {
        Ok(meta) if !meta.is_file() => {
            Box::new(PipeOrDevice { file, may_lack_writer: sys::may_lack_a_writer(&meta) })
        }
        _ => Box::new(file),
    }
}

/// Opens a file that has to be sent in full. Also returns its length in octets, if it is known: files that claim to be
/// empty (`/proc`) may have content.
pub(super) fn open_whole(path: &Path) -> io::Result<(Box<dyn Read + Send>, Option<u64>)> {
    let file = open(path)?;
    match file.metadata() {
        Ok(meta) if meta.is_file() && meta.len() > 0 => {
            Ok((Box::new(Whole { file, left: meta.len() }), Some(meta.len())))
        }
        _ => Ok((reader(file), None)),
    }
}

/// A file with the length it had when it was opened. If it becomes shorter, a read fails instead of ending early.
struct Whole {
    file: File,
    left: u64,
}

impl Read for Whole {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = (&mut self.file).take(self.left).read(buf)?;
        if n == 0 && self.left > 0 && !buf.is_empty() {
            let why = "a file was truncated while it was being sent";
            return Err(io::Error::new(ErrorKind::UnexpectedEof, why));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

/// Returns the size of the rest of a regular file. It is unknown for other files, and for files that claim to be empty
/// (`/proc`).
pub(super) fn size_of_rest(file: &mut File) -> Option<u64> {
    let meta = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let at = file.stream_position().ok()?;
    Some(meta.len().saturating_sub(at)).filter(|size| *size > 0)
}

/// Size of the beginning of a text file that is inspected to determine its charset, in octets.
pub(super) const INSPECTED: u64 = 64 * 1024;

/// Returns whether a file seems to be UTF-8 text, judging by its beginning. Only regular files are read, because
/// reading others could consume their content. A file that cannot be read is reported when its content is opened.
pub(super) fn is_utf8_file(path: &Path) -> bool {
    let size = |meta: fs::Metadata| if meta.is_file() { meta.len() } else { 0 };
    // This is checked before the file is opened, because the writer of a FIFO would notice that.
    if fs::metadata(path).map_or(0, size) == 0 {
        return false;
    }
    let Ok(file) = open(path) else { return false };
    let size = file.metadata().map_or(0, size);
    let mut start = Vec::new();
    size > 0
        && file.take(INSPECTED).read_to_end(&mut start).is_ok()
        && encoding::needs_utf8_charset(&start, size > INSPECTED)
}

/// A pipe or a device. [`ErrorKind::WouldBlock`] means that there is no data yet.
struct PipeOrDevice {
    file: File,
    /// The file is a FIFO from which nothing has been read so far, so that its end may mean that it has no writer yet.
    may_lack_writer: bool,
}

impl Read for PipeOrDevice {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if !sys::wait_for_file(&self.file, MAX_READ_WAIT)? {
            return Err(ErrorKind::WouldBlock.into());
        }
        match self.file.read(buf)? {
            0 if self.may_lack_writer && !buf.is_empty() => Err(ErrorKind::WouldBlock.into()),
            n => {
                self.may_lack_writer = false;
                Ok(n)
            }
        }
    }
}

/// Reads once. Returns `None` if there is no data yet, and takes at least [`MIN_READ_TIME`] then, even if the reader
/// returned at once.
pub(crate) fn read_once(reader: &mut dyn Read, buf: &mut [u8]) -> io::Result<Option<usize>> {
    let began = Instant::now();
    match reader.read(buf) {
        Ok(n) => Ok(Some(n)),
        Err(e) if e.kind() == ErrorKind::Interrupted => Ok(None),
        Err(e) if e.kind() == ErrorKind::WouldBlock => {
            sleep(MIN_READ_TIME.saturating_sub(began.elapsed()));
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Waits for data as long as necessary, for callers that only use [`Read`].
pub(super) struct Patient<R>(pub R);

impl<R: Read> Read for Patient<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(n) = read_once(&mut self.0, buf)? {
                return Ok(n);
            }
        }
    }
}
