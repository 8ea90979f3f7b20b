//! The test server without the `testing-tls` feature: it has no TLS.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
};

use super::{Mode, connection::Socket};

/// The certificate of a server. A server without TLS has no certificate, so this type has no values.
pub(super) enum Tls {}

impl Tls {
    pub fn new(_: Mode) -> io::Result<Tls> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn mode(&self) -> Mode {
        match *self {}
    }

    pub fn accept(&self, _: Socket) -> io::Result<Stream> {
        match *self {}
    }
}

/// A connection.
pub(super) enum Stream {
    Plain(Socket),
}

impl Stream {
    pub fn socket(&self) -> &TcpStream {
        let Stream::Plain(socket) = self;
        &socket.0
    }

    pub fn is_encrypted(&self) -> bool {
        false
    }

    pub fn close(&mut self) {}
}

impl Read for Stream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let Stream::Plain(socket) = self;
        socket.read(room)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Stream::Plain(socket) = self;
        socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
