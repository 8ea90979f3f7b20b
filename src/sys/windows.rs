//! Windows, using Winsock.
//!
//! All sockets are non-blocking. There is no `MSG_DONTWAIT`, and a socket must not be used again after its own timeout
//! (`SO_RCVTIMEO`) has passed. So a wait is a poll, and the socket itself is tried every [`GLANCE`], because it is not
//! documented that a shutdown by another thread ends a poll.
//!
//! `std` has no Unix sockets here, pipes cannot be waited for, and a machine's name does not include its domain. Before
//! Windows 10 version 2004, a poll does not report that a connection was refused: the attempt then fails at its limit,
//! and the next address is tried after the usual delay.

#[cfg(feature = "async")]
use std::any::Any;
use std::{
    fs::{File, Metadata, OpenOptions},
    io::{self, ErrorKind},
    net::{SocketAddr, TcpStream},
    os::windows::io::AsSocket,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::OnceLock,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionbio},
    net::{
        AddressFamily, RecvFlags, SendFlags, Shutdown, SocketType, bind, connect, recv, shutdown, socket,
        sockopt, wsa_startup,
    },
};

/// A socket of any kind.
pub(crate) use std::os::windows::io::OwnedSocket;

/// Maximum time of one poll.
const GLANCE: Duration = Duration::from_millis(50);

/// Starts to connect to `peer`. The socket is non-blocking. It becomes writable once it is connected or has failed
/// (`take_error` tells which).
pub(crate) fn start(peer: SocketAddr, local: Option<SocketAddr>) -> io::Result<TcpStream> {
    static WINSOCK: OnceLock<Result<(), Errno>> = OnceLock::new();
    (*WINSOCK.get_or_init(|| wsa_startup().map(drop)))?;
    let family = if peer.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    // Child processes inherit the first handle, but not its duplicate.
    let socket = socket(family, SocketType::STREAM, None)?.try_clone()?;
    ioctl_fionbio(&socket, true)?;
    if peer.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?; // unlike elsewhere, `::ffff:192.0.2.1` is unreachable by default
    }
    if let Some(local) = local {
        // SO_REUSEADDR is not set: here, it would take another program's port. A connection that lingers does not
        // occupy its port.
        bind(&socket, &local)?;
    }
    match connect(&socket, &peer) {
        Ok(()) | Err(Errno::WOULDBLOCK | Errno::INPROGRESS) => Ok(socket.into()),
        Err(e) => Err(e.into()),
    }
}

/// Fails: this system has no Unix sockets. [`check_socket_path`] has already reported that.
pub(crate) fn start_unix(_: &Path) -> io::Result<TcpStream> {
    Err(ErrorKind::Unsupported.into())
}

/// Returns whether a stream of the async client is a Unix socket: never.
#[cfg(feature = "async")]
pub(crate) fn is_unix_socket(_: &dyn Any) -> bool {
    false
}

/// Whether [`acknowledge`] does anything on this system.
pub(crate) const CAN_ACKNOWLEDGE: bool = false;

#[cfg(feature = "rustls")]
pub(crate) const HAS_FILE_OF_CAS: bool = false;

/// Does nothing: this system cannot request an immediate acknowledgement for a single read.
pub(crate) fn acknowledge(_: impl AsSocket) {}

/// Reads some octets. Without a limit, fails with [`ErrorKind::WouldBlock`] instead of waiting. With a limit, waits
/// until then.
pub(crate) fn receive(socket: impl AsSocket, room: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
    attempt(&socket, PollFlags::IN, until, || Ok(recv(&socket, &mut *room, RecvFlags::empty())?.0))
}

/// Writes some octets. Waits in the same way as [`receive`].
pub(crate) fn send(socket: impl AsSocket, bytes: &[u8], until: Option<Instant>) -> io::Result<usize> {
    attempt(&socket, PollFlags::OUT, until, || rustix::net::send(&socket, bytes, SendFlags::empty()))
}

/// Retries a read or write until it need not wait or the limit has passed. A socket made by the caller may be blocking.
fn attempt(
    socket: &impl AsSocket,
    flags: PollFlags,
    until: Option<Instant>,
    mut work: impl FnMut() -> Result<usize, Errno>,
) -> io::Result<usize> {
    ioctl_fionbio(socket, true)?;
    loop {
        match (work(), until) {
            (Err(Errno::WOULDBLOCK), None) => return Err(ErrorKind::WouldBlock.into()),
            (Err(Errno::WOULDBLOCK), Some(until)) => drop(glance(&mut [PollFd::new(socket, flags)], until)?),
            (Err(Errno::INTR), _) => {}
            (done, _) => return Ok(done?),
        }
    }
}

/// Reads from a socket that the client has opened.
pub(crate) struct Receiver;

impl Receiver {
    /// Prepares a socket that [`start`] has opened, and that is now connected.
    pub fn new(_: &OwnedSocket) -> io::Result<Receiver> {
        Ok(Receiver)
    }

    /// Reads some octets, and waits for them if necessary. Fails with [`ErrorKind::TimedOut`] at the limit.
    pub fn receive(&mut self, socket: &OwnedSocket, room: &mut [u8], until: Instant) -> io::Result<usize> {
        receive(socket, room, Some(until))
    }
}

/// Waits until the socket can be read from (`read`), or written to (`write`), or either if both are asked for. Fails
/// with [`ErrorKind::TimedOut`] at the limit.
pub(crate) fn wait(socket: impl AsSocket, read: bool, write: bool, until: Instant) -> io::Result<()> {
    ioctl_fionbio(&socket, true)?;
    let flag = |set, flag| if set { flag } else { PollFlags::empty() };
    let flags = flag(read, PollFlags::IN) | flag(write, PollFlags::OUT);
    while !glance(&mut [PollFd::new(&socket, flags)], until)? {
        match recv(&socket, &mut [0; 1], RecvFlags::PEEK) {
            Ok(_) | Err(Errno::WOULDBLOCK) => {}
            Err(_) => break, // the next read or write reports it
        }
    }
    Ok(())
}

/// Waits until any of the sockets can be written to or has failed. Returns for each socket whether this is so; at the
/// limit, all are false.
pub(crate) fn wait_for_any<'s, S: AsSocket + 's>(
    sockets: impl Iterator<Item = &'s S>,
    until: Instant,
) -> io::Result<Vec<bool>> {
    let mut fds: Vec<_> = sockets.map(|socket| PollFd::new(socket, PollFlags::OUT)).collect();
    loop {
        match glance(&mut fds, until) {
            Ok(false) => {}
            Err(e) if e.kind() != ErrorKind::TimedOut => return Err(e),
            _ => break,
        }
    }
    Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
}

/// Polls once, for at most [`GLANCE`]. Returns whether a socket is ready; fails with [`ErrorKind::TimedOut`] if the
/// limit has already passed.
fn glance(fds: &mut [PollFd<'_>], until: Instant) -> io::Result<bool> {
    let left = until.saturating_duration_since(Instant::now()).min(GLANCE);
    if left.is_zero() {
        return Err(ErrorKind::TimedOut.into());
    }
    if fds.is_empty() {
        sleep(left); // polling no sockets is an error
        return Ok(false);
    }
    let limit = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos() as _ };
    match poll(fds, Some(&limit)) {
        Err(Errno::INTR) => Ok(false),
        ready => Ok(ready? > 0),
    }
}

/// Ends both directions of a connection, which may already be closed.
pub(crate) fn end(socket: impl AsSocket) {
    let _closed_already = shutdown(socket, Shutdown::Both);
}

/// Returns `None`: the machine's name here does not include its domain, and EHLO needs both.
pub(crate) fn machine_name() -> Option<String> {
    None
}

/// Returns why a path cannot be that of a Unix socket.
pub(crate) fn check_socket_path(_: &Path) -> Result<(), &'static str> {
    Err("this system has no Unix sockets")
}

/// Returns the path that these octets from a percent-encoded URL represent.
pub(crate) fn path_from_octets(octets: Box<[u8]>) -> PathBuf {
    String::from_utf8_lossy(&octets).into_owned().into()
}

/// Opens a file for reading.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Creates a file. Its folder determines who can read it.
pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Does nothing: this system writes the names in a folder to the disk without being told.
pub(crate) fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Does nothing: this system has no process groups.
pub(crate) fn lead_group(_: &mut Command) {}

/// Does nothing: this system has no process groups.
pub(crate) fn kill_group(_: &Child) {}

/// Returns false: a pipe without a writer cannot be opened.
pub(crate) fn may_lack_a_writer(_: &Metadata) -> bool {
    false
}

/// Returns true: it is not known whether a pipe or a device can be read, so a read may wait.
pub(crate) fn wait_for_file(_: &File, _: Duration) -> io::Result<bool> {
    Ok(true)
}

#[cfg(test)]
mod tests {
    use crate::{Client, Error};

    #[test]
    fn unix_sockets_are_refused_with_a_clear_error_on_windows() {
        let built = Client::unix("/run/smtp").connect().map(drop);
        for refused in [built, Client::from_url("lmtp+unix:/run/lmtp").map(drop)] {
            let error = refused.unwrap_err();
            assert!(matches!(error, Error::Config(_)), "{error:?}");
            assert!(error.to_string().contains("no Unix sockets"), "{error}");
        }
    }
}
