//! Server doubles: each takes one connection on a thread of its own and plays a script; see [`Peer::play`].
//!
//! No wait is without an end: a double that hears nothing for [`PATIENCE`] gives up, and its test fails.

#![allow(dead_code)] // without TLS some of it has no use

pub mod journal;
mod peer;
#[cfg(feature = "native-tls")]
pub mod tls;

use std::{
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt,
};

pub use self::peer::Peer;

/// Far longer than anything here takes, and how long a double waits for a client that hangs.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A server for one connection. When it is dropped it waits for the end of its script, and panics if the client did
/// not keep to it; so the client has to be dropped first (which it is, if it was made later).
pub struct Server {
    address: SocketAddr,
    script: Option<JoinHandle<Vec<u8>>>,
}

impl Server {
    /// Plays a script, and then waits for the client to leave without another word.
    pub fn playing(script: impl Into<String>) -> Server {
        let script = script.into();
        Server::running(move |peer| peer.play(&script))
    }

    /// The same, for what no script can say.
    pub fn running(script: impl FnOnce(&mut Peer) + Send + 'static) -> Server {
        Server::listening(bind("127.0.0.1:0"), script)
    }

    /// The same at `::1`.
    pub fn playing_v6(script: impl Into<String>) -> Server {
        let script = script.into();
        Server::listening(bind("[::1]:0"), move |peer| peer.play(&script))
    }

    /// The same with the smallest socket buffers that the system allows.
    pub fn cramped(script: impl FnOnce(&mut Peer) + Send + 'static) -> Server {
        let listener = bind("127.0.0.1:0");
        sockopt::set_socket_recv_buffer_size(&listener, 1).unwrap();
        sockopt::set_socket_send_buffer_size(&listener, 1).unwrap();
        Server::listening(listener, script)
    }

    /// For one connection after the other, each with its script.
    pub fn playing_each(scripts: impl IntoIterator<Item = impl Into<String>>) -> Server {
        journal::begin();
        let listener = bind("127.0.0.1:0");
        let address = listener.local_addr().unwrap();
        let scripts: Vec<String> = scripts.into_iter().map(Into::into).collect();
        let script = thread::spawn(move || {
            let mut heard = Vec::new();
            for script in &scripts {
                let mut peer = accept(&listener);
                peer.play(script);
                heard.extend(peer.end());
            }
            heard
        });
        Server { address, script: Some(script) }
    }

    fn listening(listener: TcpListener, script: impl FnOnce(&mut Peer) + Send + 'static) -> Server {
        journal::begin();
        let address = listener.local_addr().unwrap();
        let script = thread::spawn(move || {
            let mut peer = accept(&listener);
            script(&mut peer);
            peer.end()
        });
        Server { address, script: Some(script) }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Waits for the end, and gives all that the client said (in TLS: within it). The client has to be gone.
    pub fn finish(mut self) -> Vec<u8> {
        self.join().expect("the client kept to the script (what it did instead stands above)")
    }

    fn join(&mut self) -> thread::Result<Vec<u8>> {
        self.script.take().map_or(Ok(Vec::new()), JoinHandle::join)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let kept = self.join().is_ok();
        assert!(
            kept || thread::panicking(),
            "the client did not keep to the script (what it did instead stands above)"
        );
    }
}

fn accept(listener: &TcpListener) -> Peer {
    let limit = Timespec::try_from(PATIENCE).unwrap();
    let came = poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&limit)).unwrap();
    assert!(came > 0, "nobody connected");
    Peer::new(listener.accept().unwrap().0)
}

fn bind(address: impl ToSocketAddrs) -> TcpListener {
    TcpListener::bind(address).unwrap()
}
