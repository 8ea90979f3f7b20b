//! Pipelining causes no delayed ACKs with a server that writes each reply separately, with Nagle's algorithm on. For
//! both clients.
//!
//! Linux counts delayed ACKs per network namespace, so the counting test runs in a process with its own namespace. If
//! `unshare` is not permitted, or `ip` (Debian's iproute2) is missing, the test is skipped with a note on stderr; if
//! `POSTINO_INTEROP_REQUIRED` names `netns`, it fails instead.
#![cfg(target_os = "linux")]

mod network;

#[path = "../support/rules/mod.rs"]
mod rules;
#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[path = "../support/tls/mod.rs"]
#[allow(dead_code)] // the dialogues use the rest
mod tls;

#[path = "."]
mod blocking {
    use std::net::{SocketAddr, TcpStream};

    use ::maybe_async::must_be_sync as maybe_async;
    use postino::{Client, Error};

    const CLIENT: &str = "blocking";

    /// In the blocking client, a "future" is already its value.
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
    #[allow(clippy::duplicate_mod)] // the same source, compiled for both clients
    mod cases;
}
