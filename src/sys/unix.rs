//! Unix.
//!
//! A socket that the client has opened is a blocking one. A read that waits is then one system call, limited by the
//! socket's timeout; one that must not wait uses `MSG_DONTWAIT`.

#[cfg(feature = "async")]
use std::any::Any;
use std::{
    ffi::OsString,
    fs::{File, Metadata, OpenOptions},
    io::{self, ErrorKind},
    net::{SocketAddr, TcpStream},
    os::{
        fd::AsFd as AsSocket,
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::{FileTypeExt, OpenOptionsExt},
            net::UnixStream,
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
    io::{Errno, ioctl_fionbio},
    net::{
        AddressFamily, RecvFlags, SendFlags, Shutdown, SocketAddrUnix, bind, connect, recv, shutdown, sockopt,
    },
    process::{Pid, Signal, kill_process_group},
};

use crate::Transport;

/// A socket of any kind.
pub(crate) use std::os::fd::OwnedFd as OwnedSocket;

/// Maximum time of one wait, which is then repeated. Systems without `ppoll` count milliseconds in 32 bits, and some
/// refuse a large socket timeout.
const LONGEST: Duration = Duration::from_secs(3600);

/// Starts to connect to `peer`. The socket is non-blocking. It becomes writable once it is connected or has failed
/// (`take_error` tells which).
pub(crate) fn start(peer: SocketAddr, local: Option<SocketAddr>) -> io::Result<TcpStream> {
    let socket = socket(if peer.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET })?;
    if let Some(local) = local {
        // An earlier connection from a fixed port may still be in TIME_WAIT.
        sockopt::set_socket_reuseaddr(&socket, local.port() != 0)?;
        bind(&socket, &local)?;
    }
    match connect(&socket, &peer) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(socket.into()),
        Err(e) => Err(e.into()),
    }
}

/// Connects to a Unix socket, or fails with [`ErrorKind::WouldBlock`] if the server's queue is full. The socket is
/// non-blocking.
pub(crate) fn start_unix(path: &Path) -> io::Result<UnixStream> {
    let socket = socket(AddressFamily::UNIX)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

#[cfg(not(target_vendor = "apple"))]
fn socket(family: AddressFamily) -> io::Result<OwnedSocket> {
    use rustix::net::{SocketFlags, SocketType, socket_with};

    Ok(socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?)
}

#[cfg(target_vendor = "apple")]
fn socket(family: AddressFamily) -> io::Result<OwnedSocket> {
    use rustix::{
        io::{FdFlags, fcntl_setfd},
        net::SocketType,
    };

    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    fcntl_setfd(&socket, FdFlags::CLOEXEC)?;
    ioctl_fionbio(&socket, true)?;
    sockopt::set_socket_nosigpipe(&socket, true)?;
    Ok(socket)
}

/// Whether [`acknowledge`] does anything on this system.
pub(crate) const CAN_ACKNOWLEDGE: bool = cfg!(any(target_os = "linux", target_os = "android"));

#[cfg(feature = "rustls")]
pub(crate) const HAS_FILE_OF_CAS: bool = cfg!(not(target_vendor = "apple"));

/// Acknowledges at once what has arrived on a TCP socket (`TCP_QUICKACK`), where the system can do that.
pub(crate) fn acknowledge(socket: impl AsSocket) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _delayed_then = sockopt::set_tcp_quickack(&socket, true);
    let _ = socket;
}

/// Does not wait, and raises no signal if the peer has closed. On Apple's systems, a socket option prevents the signal.
#[cfg(not(target_vendor = "apple"))]
const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
#[cfg(target_vendor = "apple")]
const SEND: SendFlags = SendFlags::DONTWAIT;

/// Reads some octets. Without a limit, fails with [`ErrorKind::WouldBlock`] instead of waiting. With a limit, waits
/// until then.
pub(crate) fn receive(socket: impl AsSocket, room: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
    loop {
        match recv(&socket, &mut *room, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) => match until {
                Some(until) => poll_until(&socket, PollFlags::IN, until)?,
                None => return Err(ErrorKind::WouldBlock.into()),
            },
            Err(Errno::INTR) => {}
            done => return Ok(done?.0),
        }
    }
}

/// Reads from a socket that the client has opened. It is a blocking one: a read that waits is one system call, limited
/// by the socket's timeout.
pub(crate) struct Receiver {
    /// The socket's current read timeout.
    armed: Option<Duration>,
}

impl Receiver {
    /// Prepares a socket that [`start`] or [`start_unix`] has opened, and that is now connected.
    pub fn new(socket: &OwnedSocket) -> io::Result<Receiver> {
        ioctl_fionbio(socket, false)?;
        Ok(Receiver { armed: None })
    }

    /// Reads some octets, and waits for them if necessary. Fails with [`ErrorKind::TimedOut`] at the limit.
    pub fn receive(&mut self, socket: &OwnedSocket, room: &mut [u8], until: Instant) -> io::Result<usize> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.arm(socket, left)?;
            match recv(socket, &mut *room, RecvFlags::empty()) {
                Err(Errno::AGAIN | Errno::INTR) => {} // the timeout has passed, or a signal came first
                done => return Ok(done?.0),
            }
        }
    }

    /// Sets the socket's timeout to expire no later than the limit. This is a system call only if the current timeout
    /// is unsuitable. The caller looks at the clock again, so a shorter timeout does no harm unless it is very short.
    fn arm(&mut self, socket: &OwnedSocket, left: Duration) -> io::Result<()> {
        let often = |armed: Duration| armed < Duration::from_millis(500) && armed * 4 < left;
        if self.armed.is_some_and(|armed| armed <= left && !often(armed)) {
            return Ok(());
        }
        let wait = if left > Duration::from_secs(1) { left / 2 } else { left };
        let wait = wait.clamp(Duration::from_micros(1), LONGEST); // zero would mean no timeout
        sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, Some(wait))?;
        self.armed = Some(wait);
        Ok(())
    }
}

/// Writes some octets. Waits in the same way as [`receive`].
pub(crate) fn send(socket: impl AsSocket, bytes: &[u8], until: Option<Instant>) -> io::Result<usize> {
    loop {
        match rustix::net::send(&socket, bytes, SEND) {
            Err(Errno::AGAIN) => match until {
                Some(until) => poll_until(&socket, PollFlags::OUT, until)?,
                None => return Err(ErrorKind::WouldBlock.into()),
            },
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

/// Waits until the socket can be read from (`read`), or written to (`write`), or either if both are asked for. Fails
/// with [`ErrorKind::TimedOut`] at the limit.
pub(crate) fn wait(socket: impl AsSocket, read: bool, write: bool, until: Instant) -> io::Result<()> {
    let flag = |set, flag| if set { flag } else { PollFlags::empty() };
    poll_until(&socket, flag(read, PollFlags::IN) | flag(write, PollFlags::OUT), until)
}

fn poll_until(socket: impl AsSocket, flags: PollFlags, until: Instant) -> io::Result<()> {
    if poll_all(&mut [PollFd::new(&socket, flags)], until)? {
        Ok(())
    } else {
        Err(ErrorKind::TimedOut.into())
    }
}

/// Waits until any of the sockets can be written to or has failed. Returns for each socket whether this is so; at the
/// limit, all are false.
pub(crate) fn wait_for_any<'s, S: AsSocket + 's>(
    sockets: impl Iterator<Item = &'s S>,
    until: Instant,
) -> io::Result<Vec<bool>> {
    let mut fds: Vec<_> = sockets.map(|socket| PollFd::new(socket, PollFlags::OUT)).collect();
    poll_all(&mut fds, until)?;
    Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
}

/// Polls until something is ready. Returns false at the limit; if it has already passed, nothing is polled.
fn poll_all(fds: &mut [PollFd<'_>], until: Instant) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        match poll(fds, Some(&timespec(left.min(LONGEST)))) {
            Ok(0) | Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos() as _ }
}

/// Ends both directions of a connection, which may already be closed.
pub(crate) fn end(socket: impl AsSocket) {
    let _closed_already = shutdown(socket, Shutdown::Both);
}

/// Returns the machine's name, if it is UTF-8.
pub(crate) fn machine_name() -> Option<String> {
    rustix::system::uname().nodename().to_str().ok().map(str::to_owned)
}

/// Returns why a path cannot be that of a Unix socket: the system limits its length, and allows no NUL.
pub(crate) fn check_socket_path(path: &Path) -> Result<(), &'static str> {
    match SocketAddrUnix::new(path) {
        _ if path.as_os_str().is_empty() => Err("it is empty"),
        _ if path.as_os_str().as_bytes().contains(&0) => Err("it contains a NUL"),
        Ok(_) => Ok(()),
        Err(_) => Err("it is too long"),
    }
}

/// Returns the path that these octets from a percent-encoded URL represent.
pub(crate) fn path_from_octets(octets: Box<[u8]>) -> PathBuf {
    OsString::from_vec(octets.into()).into()
}

/// Opens a file for reading, without waiting for the other end of a FIFO.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)
}

/// Creates a file that only its owner can read.
pub(crate) fn create_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Writes the names in a folder to the disk.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes the program the leader of a process group, which the processes that it starts belong to.
pub(crate) fn lead_group(command: &mut Command) {
    command.process_group(0);
}

/// Kills the process group of a program that was not waited for yet.
pub(crate) fn kill_group(leader: &Child) {
    if let Some(group) = i32::try_from(leader.id()).ok().and_then(Pid::from_raw) {
        let _ended_already = kill_process_group(group, Signal::KILL);
    }
}

/// Returns whether an end of file before the first octet may mean that there is no writer yet. This applies to a FIFO,
/// except on Linux, which distinguishes the two cases.
pub(crate) fn may_lack_a_writer(meta: &Metadata) -> bool {
    meta.file_type().is_fifo() && !cfg!(any(target_os = "linux", target_os = "android"))
}

/// Waits until a pipe or a device can be read. Returns false at the limit, and fails with [`ErrorKind::Interrupted`]
/// after a signal.
pub(crate) fn wait_for_file(file: &File, limit: Duration) -> io::Result<bool> {
    Ok(poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&timespec(limit)))? > 0)
}

/// Returns whether a stream of the async client is a Unix socket.
#[cfg(feature = "async")]
pub(crate) fn is_unix_socket(stream: &dyn Any) -> bool {
    stream.is::<smol::Async<UnixStream>>() || stream.is::<smol::net::unix::UnixStream>()
}

impl Transport for UnixStream {
    fn receive(&mut self, room: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
        receive(self, room, until)
    }

    fn send(&mut self, bytes: &[u8], until: Option<Instant>) -> io::Result<usize> {
        send(self, bytes, until)
    }

    fn wait(&mut self, read: bool, write: bool, until: Instant) -> io::Result<()> {
        wait(self, read, write, until)
    }

    fn shutdown(&mut self) {
        end(self);
    }

    /// Duplicates the socket, which costs a file descriptor.
    fn stop_handle(&self) -> Option<Box<dyn Fn() + Send + Sync>> {
        let socket = self.try_clone().ok()?;
        Some(Box::new(move || end(&socket)))
    }

    fn is_local(&self) -> bool {
        true
    }
}
