//! Server doubles: each takes one connection on its own thread and plays a script; see [`Peer::play`].
//!
//! Every wait is bounded: a double that receives nothing for [`PATIENCE`] gives up, and its test fails.

#![allow(dead_code)] // without TLS, some of it is unused

pub mod consistent;
pub mod journal;
mod peer;
pub mod rules;
#[cfg(any(feature = "native-tls", feature = "rustls"))]
pub mod tls;
#[cfg(unix)]
mod unix;

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    path::PathBuf,
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, OwnedFd},
    io::ioctl_fionbio,
    net::{AddressFamily, SocketType, accept, connect, listen, sockopt},
};

pub use self::peer::Peer;
#[cfg(unix)]
#[allow(unused_imports)] // each user needs a part
pub use self::unix::{UnixBlackHole, socket_path};

/// How long a double waits for a client that seems to hang: far longer than any test takes.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What a double does on its connection.
pub type Script = Box<dyn FnOnce(&mut Peer) + Send>;

/// A server for one connection, or one per script. Dropping it waits for the script to end, and panics if the client
/// did not follow it. The client must therefore be dropped first, which is automatic if it was created later.
pub struct Server {
    /// `None` over a Unix socket.
    address: Option<SocketAddr>,
    /// Path of the Unix socket; empty for TCP.
    path: PathBuf,
    script: Option<JoinHandle<Vec<u8>>>,
}

impl Server {
    /// Plays a script, and then waits for the client to leave without sending anything more.
    pub fn playing(script: impl Into<String>) -> Server {
        let script = script.into();
        Server::running(move |peer| peer.play(&script))
    }

    /// Starts a server whose behaviour is a function, for what a script cannot express.
    pub fn running(script: impl FnOnce(&mut Peer) + Send + 'static) -> Server {
        Server::listening(bind("127.0.0.1:0"), script)
    }

    /// Plays the script that this function returns for the server's port.
    pub fn playing_with_port(script: impl FnOnce(u16) -> String) -> Server {
        let listener = bind("127.0.0.1:0");
        let script = script(listener.local_addr().unwrap().port());
        Server::listening(listener, move |peer| peer.play(&script))
    }

    /// Plays a script at `::1`.
    pub fn playing_v6(script: impl Into<String>) -> Server {
        let script = script.into();
        Server::listening(bind("[::1]:0"), move |peer| peer.play(&script))
    }

    /// Plays a script at this local address, on any port.
    pub fn playing_at(address: IpAddr, script: impl Into<String>) -> Server {
        let script = script.into();
        Server::listening(bind((address, 0)), move |peer| peer.play(&script))
    }

    /// Runs with the smallest socket buffers that the system allows.
    pub fn cramped(script: impl FnOnce(&mut Peer) + Send + 'static) -> Server {
        let listener = bind("127.0.0.1:0");
        sockopt::set_socket_recv_buffer_size(&listener, 1).unwrap();
        sockopt::set_socket_send_buffer_size(&listener, 1).unwrap();
        Server::listening(listener, script)
    }

    /// Plays these scripts at 127.0.0.1, one connection after the other, each to its end.
    pub fn playing_in_turn<const N: usize>(scripts: [&'static str; N]) -> Server {
        let scripts = scripts.map(|script| Box::new(|peer: &mut Peer| peer.play(script)) as Script);
        Server::running_in_turn(scripts.into())
    }

    /// Plays these scripts, one for each connection, in order. They may overlap, and each must be used.
    pub fn playing_each<T: Into<String>>(scripts: impl IntoIterator<Item = T>) -> Server {
        let scripts: Vec<String> = scripts.into_iter().map(Into::into).collect();
        let listener = bind("127.0.0.1:0");
        journal::begin();
        let address = listener.local_addr().ok();
        let all = thread::spawn(move || {
            let play = |script: String| {
                let mut peer = next_peer(&listener);
                thread::spawn(move || {
                    peer.play(&script);
                    peer.end()
                })
            };
            let peers: Vec<_> = scripts.into_iter().map(play).collect();
            let ends =
                peers.into_iter().map(|peer| peer.join().expect("the client should follow the script"));
            ends.flatten().collect()
        });
        Server { address, path: PathBuf::new(), script: Some(all) }
    }

    /// Like [`playing_in_turn`](Server::playing_in_turn), but for behaviour that scripts cannot express.
    pub fn running_in_turn(scripts: Vec<Script>) -> Server {
        let listener = bind("127.0.0.1:0");
        let address = listener.local_addr().ok();
        Server::serving(listener.into(), address, scripts)
    }

    fn listening(listener: TcpListener, script: impl FnOnce(&mut Peer) + Send + 'static) -> Server {
        let address = listener.local_addr().ok();
        Server::serving(listener.into(), address, vec![Box::new(script)])
    }

    fn serving(listener: OwnedFd, address: Option<SocketAddr>, scripts: Vec<Script>) -> Server {
        journal::begin();
        let script = thread::spawn(move || {
            let mut heard = Vec::new();
            for script in scripts {
                let mut peer = next_peer(&listener);
                script(&mut peer);
                heard.extend(peer.end());
            }
            heard
        });
        Server { address, path: PathBuf::new(), script: Some(script) }
    }

    pub fn port(&self) -> u16 {
        self.address().port()
    }

    pub fn address(&self) -> SocketAddr {
        self.address.unwrap()
    }

    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    /// Waits for the script to end. Returns what the client sent (with TLS, the plaintext). The client must be gone.
    pub fn finish(mut self) -> Vec<u8> {
        self.join().expect("the client should follow the script (what it did instead is printed above)")
    }

    /// Like [`finish`](Server::finish), but returns an error if the client did not follow the script.
    pub fn outcome(mut self) -> Result<Vec<u8>, String> {
        self.join().map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
        })
    }

    fn join(&mut self) -> thread::Result<Vec<u8>> {
        self.script.take().map_or(Ok(Vec::new()), JoinHandle::join)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let kept = self.join().is_ok();
        drop(fs::remove_file(&self.path));
        assert!(
            kept || thread::panicking(),
            "the client did not follow the script (what it did instead is printed above)"
        );
    }
}

fn next_peer(listener: &impl AsFd) -> Peer {
    let limit = Timespec::try_from(PATIENCE).unwrap();
    let came = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&limit)).unwrap();
    assert!(came > 0, "no client connected");
    Peer::new(accept(listener.as_fd()).unwrap().into())
}

/// Returns an address where nobody listens, and where nobody else can listen: the port stays taken.
pub fn closed() -> SocketAddr {
    let socket = socket();
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let socket = TcpListener::from(socket); // `listen` was never called
    let address = socket.local_addr().unwrap();
    std::mem::forget(socket);
    address
}

/// An address that accepts no connection while this value lives, because its queue is full.
pub struct BlackHole {
    listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl BlackHole {
    pub fn new() -> BlackHole {
        let listener = bind("127.0.0.1:0");
        listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        loop {
            let socket = socket();
            ioctl_fionbio(&socket, true).unwrap();
            let _on_its_way = connect(&socket, &address);
            let limit = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let arrived = poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&limit)).unwrap() > 0;
            queue.push(socket.into());
            if !arrived {
                return BlackHole { listener, _queue: queue };
            }
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }
}

/// Returns both ends of a TCP connection.
pub fn pair() -> (TcpStream, TcpStream) {
    let listener = bind("127.0.0.1:0");
    let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (here, listener.accept().unwrap().0)
}

/// Returns a socket for TCP over IPv4, which child processes do not inherit.
#[cfg(unix)]
fn socket() -> OwnedFd {
    let flags = rustix::net::SocketFlags::CLOEXEC;
    rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap()
}

#[cfg(windows)]
fn socket() -> OwnedFd {
    let _started_for_good = rustix::net::wsa_startup().unwrap();
    rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap()
}

fn bind(address: impl ToSocketAddrs) -> TcpListener {
    TcpListener::bind(address).unwrap()
}
