//! `examples/socks5.rs`, through a proxy in this process.

#[allow(dead_code)] // its main
#[path = "../examples/socks5.rs"]
mod example;
mod support;

use std::{
    io::{self, ErrorKind, Read, Write, copy},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use postino::{Envelope, Outcome, Raw};

use self::support::{PATIENCE, Server};

const LOGIN: (&str, &str) = ("proxy user", "proxy password");

/// Accepts one connection. It knows one host, and fails to resolve all others.
fn proxy(known: &'static str, to: SocketAddr, wants_login: bool) -> (SocketAddr, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let methods = after(&mut client, &[5]);
        let method = if wants_login { 2 } else { 0 };
        if !methods.contains(&method) {
            return client.write_all(&[5, 0xff]).unwrap();
        }
        client.write_all(&[5, method]).unwrap();
        if wants_login {
            let user = after(&mut client, &[1]);
            let password = after(&mut client, &[]);
            let right = (user.as_slice(), password.as_slice()) == (LOGIN.0.as_bytes(), LOGIN.1.as_bytes());
            client.write_all(&[1, u8::from(!right)]).unwrap();
            if !right {
                return;
            }
        }
        let host = after(&mut client, &[5, 1, 0, 3]);
        let mut port = [0; 2];
        client.read_exact(&mut port).unwrap();
        if host != known.as_bytes() || u16::from_be_bytes(port) != to.port() {
            return client.write_all(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        }
        let server = TcpStream::connect(to).unwrap();
        // The reply contains the proxy's name, and the server's first octets may come in the same segment.
        client.write_all(b"\x05\x00\x00\x03\x05proxy\x00\x00").unwrap();
        forward(&client, &server);
    });
    (address, proxy)
}

/// Reads a field whose length is in the octet after this beginning.
fn after(client: &mut TcpStream, beginning: &[u8]) -> Vec<u8> {
    let mut octets = vec![0; beginning.len() + 1];
    client.read_exact(&mut octets).unwrap();
    let length = octets.pop().unwrap();
    assert_eq!(octets, beginning);
    let mut rest = vec![0; length.into()];
    client.read_exact(&mut rest).unwrap();
    rest
}

fn forward(client: &TcpStream, server: &TcpStream) {
    let one_way = |mut from: &TcpStream, mut to: &TcpStream| {
        drop(copy(&mut from, &mut to));
        drop(to.shutdown(Shutdown::Write));
    };
    thread::scope(|scope| {
        scope.spawn(|| one_way(client, server));
        one_way(server, client);
    });
}

fn mail() -> Raw<'static> {
    Raw::bytes(Envelope::new("alice@example.org", ["bob@example.org"]).unwrap(), "Hello\r\n")
}

#[test]
fn a_message_goes_through_a_proxy() {
    for login in [None, Some(LOGIN)] {
        let server = Server::running(|peer| {
            peer.say("220 mail.example.org\r\n");
            peer.line().unwrap(); // EHLO, with the machine's name
            peer.play("S: 250 mail.example.org\n-- envelope\nC: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 250 ok\nC: QUIT\nS: 221 bye");
        });
        let (address, proxy) = proxy("mail.example.org", server.address(), login.is_some());
        let tunnel = example::tunnel(address, login, "mail.example.org", server.port()).unwrap();
        let delivery = example::send(tunnel, "mail.example.org", &mail()).unwrap();
        assert_eq!(delivery.outcome(), Outcome::Accepted);
        proxy.join().unwrap();
    }
}

#[test]
fn a_refusal_of_the_proxy_is_reported() {
    let nowhere = support::closed();
    for (login, host, why) in [
        (Some(("proxy user", "wrong")), "mail.example.org", "the password"),
        (None, "other.example.org", "host unreachable"),
    ] {
        let (address, proxy) = proxy("mail.example.org", nowhere, login.is_some());
        let error = example::tunnel(address, login, host, nowhere.port()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(error.to_string().contains(why), "{error}");
        proxy.join().unwrap();
    }
}

#[test]
fn a_proxy_is_given_the_password_only_if_it_asks_for_one() {
    let nowhere = support::closed();
    let (address, proxy) = proxy("mail.example.org", nowhere, true);
    let error = example::tunnel(address, None, "mail.example.org", nowhere.port()).unwrap_err();
    assert!(error.to_string().contains("none of the offered"), "{error}");
    proxy.join().unwrap();
}

#[test]
fn a_proxy_that_closes_the_connection_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = thread::spawn(move || drop(listener.accept().unwrap()));
    let error: io::Error = example::tunnel(address, None, "h", 25).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error:?}");
    proxy.join().unwrap();
}
