//! Doubles at Unix sockets.

use std::{
    fs,
    io::ErrorKind,
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use rustix::{
    fd::{AsFd, OwnedFd},
    net::{AddressFamily, SendFlags, SocketFlags, SocketType, connect, listen, socket_with},
};

use super::{Peer, Script, Server, journal};

impl Server {
    /// Plays a script at a Unix socket.
    pub fn playing_unix(script: impl Into<String>) -> Server {
        let script = script.into();
        let path = socket_path();
        let listener = UnixListener::bind(&path).unwrap();
        let script = Box::new(move |peer: &mut Peer| peer.play(&script)) as Script;
        let mut server = Server::serving(listener.into(), None, vec![script]);
        server.path = path;
        server
    }

    /// Plays a script at one end of a pair of sockets, and returns the other.
    pub fn playing_pair(script: impl Into<String>) -> (Server, UnixStream) {
        let script = script.into();
        Server::running_pair(move |peer| peer.play(&script))
    }

    /// Like [`playing_pair`](Server::playing_pair), but for behaviour that a script cannot express.
    pub fn running_pair(script: impl FnOnce(&mut Peer) + Send + 'static) -> (Server, UnixStream) {
        journal::begin();
        let (here, there) = UnixStream::pair().unwrap();
        let script = thread::spawn(move || {
            let mut peer = Peer::new(OwnedFd::from(there).into());
            script(&mut peer);
            peer.end()
        });
        (Server { address: None, path: PathBuf::new(), script: Some(script) }, here)
    }
}

/// Returns the path of a socket that does not exist yet. The target folder is avoided, as its path may be too long for
/// a socket.
pub fn socket_path() -> PathBuf {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("postino-{}-{number}.sock", process::id()));
    drop(fs::remove_file(&path)); // a killed run with this process ID may have left it
    path
}

/// A Unix socket whose queue is full.
pub struct UnixBlackHole {
    _listener: UnixListener,
    _queue: Vec<OwnedFd>,
    pub path: PathBuf,
}

impl UnixBlackHole {
    pub fn new() -> UnixBlackHole {
        let path = socket_path();
        let listener = UnixListener::bind(&path).unwrap();
        listen(&listener, 0).unwrap();
        let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
        let mut queue = Vec::new();
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
            match connect(&socket, &address) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    return UnixBlackHole { _listener: listener, _queue: queue, path };
                }
                done => done.unwrap(),
            }
            queue.push(socket);
        }
    }
}

impl Drop for UnixBlackHole {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

impl Peer {
    /// Fills the send buffer of the client's end of a Unix socket: until the other end is read, nothing that the client
    /// sends fits.
    pub fn clog(end: &impl AsFd) {
        let mut octets = 0;
        while let Ok(n) = rustix::net::send(end, Peer::CLOG, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            octets += n;
        }
        assert!(octets > 0, "nothing could be written");
    }

    /// The octet with which [`clog`](Peer::clog) fills the buffer.
    pub const CLOG: &[u8] = b"#";
}
