//! The dialogues, with the blocking client. `aio.rs` has the same ones with the other.

use std::{net::TcpStream, os::unix::net::UnixStream};

use postino::{Builder, Client, Transport, Untimed, send};

mod dialogue;
mod support;

/// In the blocking world a "future" is its value already.
fn block_on<T>(value: T) -> T {
    value
}

/// What the caller brings, in the form that this world wants.
fn tcp(socket: TcpStream) -> impl Transport + 'static {
    socket
}

fn unix(socket: UnixStream) -> impl Transport + 'static {
    socket
}

/// The same, and nobody can tell where it leads.
fn opaque(socket: TcpStream) -> impl Transport + 'static {
    Untimed::new(socket)
}
