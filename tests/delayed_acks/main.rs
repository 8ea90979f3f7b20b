//! Pipelining costs no delayed ACKs at a server that writes each reply by itself, with Nagle's algorithm on. In both clients.
//!
//! Linux counts the delayed ACKs of a network namespace, so what counts them runs in a process with a namespace of its own.
//! Where `unshare` may not make one, or there is no `ip` (Debian's iproute2), it is skipped, which is said on stderr, unless
//! `POSTINO_INTEROP_REQUIRED` names `netns`: then it is a failure.
#![cfg(target_os = "linux")]

mod network;

#[path = "../support/careless.rs"]
mod careless;
#[cfg(feature = "native-tls")]
#[path = "../support/tls.rs"]
#[allow(dead_code)] // most of it is for the dialogues
mod tls;

#[path = "."]
mod blocking {
    use std::net::{SocketAddr, TcpStream};

    use ::maybe_async::must_be_sync as maybe_async;
    use postino::{Client, Error};

    const CLIENT: &str = "blocking";

    /// A value is its own future here.
    fn block_on<T>(value: T) -> T {
        value
    }

    fn connect_over(address: SocketAddr) -> Result<Client, Error> {
        let socket = TcpStream::connect(address).unwrap();
        Client::builder("127.0.0.1").hello_name("client.example.org").connect_over(socket)
    }

    #[path = "cases.rs"]
    mod cases;
}

#[cfg(feature = "async")]
#[path = "."]
mod aio {
    use std::net::{SocketAddr, TcpStream};

    use ::maybe_async::must_be_async as maybe_async;
    use postino::{Error, aio::Client};
    use smol::{Async, block_on};

    const CLIENT: &str = "aio";

    async fn connect_over(address: SocketAddr) -> Result<Client, Error> {
        let socket = Async::<TcpStream>::connect(address).await.unwrap();
        Client::builder("127.0.0.1").hello_name("client.example.org").connect_over(socket).await
    }

    #[path = "cases.rs"]
    #[allow(clippy::duplicate_mod)] // written once, compiled twice: that is the point
    mod cases;
}
