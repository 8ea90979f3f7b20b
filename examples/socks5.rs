//! Sends a message through a SOCKS5 proxy (RFC 1928), with a name and a password for it if it wants them (RFC 1929):
//! `postino` speaks over the connection that the proxy has made, and verifies the server's certificate through it.
//!
//! ```sh
//! cargo run --example socks5 -- 127.0.0.1:1080 mail.example.org 25 alice@example.org bob@example.net <message
//! ```

use std::{
    error::Error,
    io::{self, ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use postino::{Client, Delivery, Envelope, Raw, Security};

/// The proxy connects, and that may take it a while; each of the few reads and writes before that has this limit.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [proxy, host, port, sender, recipients @ ..] = arguments.as_slice() else {
        return Err("socks5 PROXY:PORT HOST PORT SENDER RECIPIENT... <MESSAGE".into());
    };
    let mail = Raw::reader(Envelope::new(sender, recipients)?, io::stdin());
    let login = std::env::var("SOCKS5_USER").ok().zip(std::env::var("SOCKS5_PASSWORD").ok());
    let login = login.as_ref().map(|(user, password)| (user.as_str(), password.as_str()));
    let tunnel = tunnel(proxy, login, host, port.parse()?)?;
    let delivery = send(tunnel, host, &mail)?;
    for recipient in delivery.recipients() {
        println!("{}: {:?}", recipient.address(), recipient.outcome());
    }
    Ok(())
}

/// One message over a connection that is there. The host is only the name to verify.
pub fn send(tunnel: TcpStream, host: &str, mail: &Raw<'_>) -> Result<Delivery, postino::Error> {
    // A proxy on this machine makes the connection look as if it ended here, and `Security::Auto` would do without TLS
    // then. With credentials it has to be `StartTls` or `Implicit`: they would go on from the proxy in clear.
    let mut client = Client::builder(host).security(Security::Opportunistic).connect_over(tunnel)?;
    let delivery = client.send(mail)?;
    client.quit()?;
    Ok(delivery)
}

/// A connection to `host`, which the proxy looks up.
pub fn tunnel(
    proxy: impl ToSocketAddrs,
    login: Option<(&str, &str)>,
    host: &str,
    port: u16,
) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // Version 5, and the methods of logging in: 0 is none, 2 is a name and a password.
    stream.write_all(if login.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] })?;
    match (read(&mut stream)?, login) {
        ([5, 0], _) => {}
        ([5, 2], Some((user, password))) => log_in(&mut stream, user, password)?,
        _ => return Err(refused("the proxy takes none of our ways to log in")),
    }
    // Connect (1) to a domain name (3), or an address written as one.
    let request = [&[5, 1, 0, 3], counted(host)?.as_slice(), &port.to_be_bytes()].concat();
    stream.write_all(&request)?;
    let [version, answer, _, kind]: [u8; 4] = read(&mut stream)?;
    if (version, answer) != (5, 0) {
        return Err(refused(reason(answer)));
    }
    // The address that it connects from, and its port: of no use, but not a part of what follows.
    match kind {
        1 => drop(read::<6>(&mut stream)?),
        4 => drop(read::<18>(&mut stream)?),
        3 => {
            let [length] = read(&mut stream)?;
            stream.read_exact(&mut vec![0; usize::from(length) + 2])?;
        }
        _ => return Err(refused("its answer is no SOCKS5")),
    }
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    Ok(stream)
}

fn log_in(stream: &mut TcpStream, user: &str, password: &str) -> io::Result<()> {
    stream.write_all(&[vec![1], counted(user)?, counted(password)?].concat())?;
    match read(stream)? {
        [_, 0] => Ok(()),
        [_, _] => Err(refused("the proxy does not accept the password")),
    }
}

/// Text with its length first.
fn counted(text: &str) -> io::Result<Vec<u8>> {
    match u8::try_from(text.len()) {
        Ok(length @ 1..) => Ok([&[length], text.as_bytes()].concat()),
        _ => Err(io::Error::new(ErrorKind::InvalidInput, "it has to have 1 to 255 octets")),
    }
}

fn read<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut octets = [0; N];
    stream.read_exact(&mut octets)?;
    Ok(octets)
}

fn refused(why: &str) -> io::Error {
    io::Error::new(ErrorKind::ConnectionRefused, format!("no way through the proxy: {why}"))
}

/// RFC 1928 §6.
fn reason(answer: u8) -> &'static str {
    match answer {
        2 => "its rules do not allow it",
        3 => "the network cannot be reached",
        4 => "the host cannot be reached",
        5 => "the server refuses the connection",
        6 => "the server does not answer in time",
        7 => "it cannot connect to others",
        8 => "it knows no names",
        _ => "it has failed",
    }
}
