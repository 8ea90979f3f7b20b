//! Sends a message through a SOCKS5 proxy (RFC 1928), with a user name and a password if the proxy asks for them (RFC 1929).
//! `postino` uses the connection that the proxy has made, and verifies the server's certificate through it.
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

/// Limit of each read and write until the tunnel is established. The proxy may take a while to connect.
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

/// Sends one message over an established connection. The host is only the name to verify.
///
/// # Errors
///
/// Those of [`Client::send`], TLS included.
pub fn send(tunnel: TcpStream, host: &str, mail: &Raw<'_>) -> Result<Delivery, postino::Error> {
    // The proxy may be on this machine while the server is not. With credentials, use `StartTls` or `Implicit`, so that the
    // proxy cannot see them.
    let mut client = Client::builder(host).security(Security::Opportunistic).connect_over(tunnel)?;
    let delivery = client.send(mail)?;
    client.quit()?;
    Ok(delivery)
}

/// Opens a connection to `host`. The proxy resolves the name.
///
/// # Errors
///
/// The proxy is not reachable, refuses the request, or does not speak SOCKS5.
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
    // Version 5, then the authentication methods: 0 for no authentication, 2 for user name and password.
    stream.write_all(if login.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] })?;
    match (read(&mut stream)?, login) {
        ([5, 0], _) => {}
        ([5, 2], Some((user, password))) => log_in(&mut stream, user, password)?,
        _ => return Err(refused("the proxy accepts none of the offered authentication methods")),
    }
    // Connect (1) to a domain name (3), which may also be an IP address as text.
    let request = [&[5, 1, 0, 3], counted(host)?.as_slice(), &port.to_be_bytes()].concat();
    stream.write_all(&request)?;
    let [version, answer, _, kind]: [u8; 4] = read(&mut stream)?;
    if (version, answer) != (5, 0) {
        return Err(refused(reason(answer)));
    }
    // The proxy's local address and port: unused, but they must be read.
    match kind {
        1 => drop(read::<6>(&mut stream)?),
        4 => drop(read::<18>(&mut stream)?),
        3 => {
            let [length] = read(&mut stream)?;
            stream.read_exact(&mut vec![0; usize::from(length) + 2])?;
        }
        _ => return Err(refused("its reply is not SOCKS5")),
    }
    stream.set_read_timeout(None)?;
    stream.set_write_timeout(None)?;
    Ok(stream)
}

fn log_in(stream: &mut TcpStream, user: &str, password: &str) -> io::Result<()> {
    stream.write_all(&[vec![1], counted(user)?, counted(password)?].concat())?;
    match read(stream)? {
        [_, 0] => Ok(()),
        [_, _] => Err(refused("the proxy refused the user name or the password")),
    }
}

/// Text preceded by its length.
fn counted(text: &str) -> io::Result<Vec<u8>> {
    match u8::try_from(text.len()) {
        Ok(length @ 1..) => Ok([&[length], text.as_bytes()].concat()),
        _ => Err(io::Error::new(
            ErrorKind::InvalidInput,
            "host, user name and password must have 1 to 255 octets",
        )),
    }
}

fn read<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut octets = [0; N];
    stream.read_exact(&mut octets)?;
    Ok(octets)
}

fn refused(why: &str) -> io::Error {
    io::Error::new(ErrorKind::ConnectionRefused, format!("could not connect through the proxy: {why}"))
}

/// RFC 1928 §6.
fn reason(answer: u8) -> &'static str {
    match answer {
        2 => "not allowed by the proxy's rules",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused by the server",
        6 => "timed out connecting to the server",
        7 => "the proxy does not support connecting",
        8 => "the proxy does not support domain names",
        _ => "general failure of the proxy",
    }
}
