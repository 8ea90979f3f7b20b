//! Prints both sides of a session, with a custom `Transport` around a socket.
//!
//! ```text
//! cargo run --features testing --example transcript
//! ```
//!
//! It sends two messages over one connection. Each blank line in the output is a round trip. The log at level `debug` shows
//! the same, but masks secrets and counts content; a transport sees every octet (with TLS, only encrypted ones).

use std::{
    io,
    net::{SocketAddr, TcpStream},
    time::Instant,
};

use postino::{Client, Envelope, Error, Raw, Transport, testing::Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder().refuse_recipient("eve@x.example", "550 5.1.1 No such user").start()?;
    let stream = TcpStream::connect(("127.0.0.1", server.port()))?;
    stream.set_nodelay(true)?; // as `Transport::send` requires: without delay
    let transport = Transcript { stream, said: Lines::new("C: "), heard: Lines::new("\nS: ") };

    let mut client = Client::builder("localhost").connect_over(transport)?;
    for mail in [
        mail(&["bob@x.example", "eve@x.example"], "Subject: One\n\nThe first.\n")?,
        mail(&["carol@x.example"], "Subject: Two\n\nThe second.\n")?,
    ] {
        let delivery = client.send(&mail)?;
        println!("   -> {delivery}");
    }
    client.quit()?;
    Ok(())
}

fn mail(recipients: &[&str], content: &'static str) -> Result<Raw<'static>, Error> {
    Ok(Raw::bytes(Envelope::new("alice@example.org", recipients)?, content))
}

/// A socket that prints what goes through it.
struct Transcript {
    stream: TcpStream,
    said: Lines,
    heard: Lines,
}

/// The first four methods are required. The others have defaults; two of them are forwarded to the socket.
impl Transport for Transcript {
    fn receive(&mut self, room: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
        let n = self.stream.receive(room, until)?;
        self.heard.print(&room[..n]);
        Ok(n)
    }

    fn send(&mut self, bytes: &[u8], until: Option<Instant>) -> io::Result<usize> {
        let n = Transport::send(&mut self.stream, bytes, until)?;
        self.said.print(&bytes[..n]);
        Ok(n)
    }

    fn wait(&mut self, read: bool, write: bool, until: Instant) -> io::Result<()> {
        self.stream.wait(read, write, until)
    }

    fn shutdown(&mut self) {
        Transport::shutdown(&mut self.stream);
    }

    fn peer_address(&self) -> Option<SocketAddr> {
        self.stream.peer_address()
    }

    fn local_address(&self) -> Option<SocketAddr> {
        self.stream.local_address()
    }
}

/// Prints octets as lines. The last line may be incomplete until more arrives.
struct Lines {
    prefix: &'static str,
    rest: Vec<u8>,
}

impl Lines {
    fn new(prefix: &'static str) -> Lines {
        Lines { prefix, rest: Vec::new() }
    }

    fn print(&mut self, octets: &[u8]) {
        self.rest.extend_from_slice(octets);
        let end = self.rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = self.rest.drain(..end).collect();
        let mut prefix = self.prefix;
        for line in String::from_utf8_lossy(&whole).lines() {
            println!("{prefix}{line}");
            prefix = prefix.trim_start();
        }
    }
}
