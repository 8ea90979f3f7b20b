//! Connections through a proxy.

use std::{
    io::{Read, Write, copy},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use postino::{Error, Retry, Security};

use super::{accept, connect_error, mail};
use crate::{
    Builder, Client, block_on,
    support::{PATIENCE, Server, closed},
    tcp,
};

const LOGIN: &str = "proxy%20user:proxy%20password@";

/// A limit that is reached on purpose.
const SHORT: Duration = Duration::from_millis(300);

const SESSION: &str = "
    S: 220 mail.example.org
    C: EHLO client.example.org
    S: 250 mail.example.org
    -- envelope
    C: DATA
    S: 354 go on
    C: Hello
    C: .
    S: 250 ok
    C: QUIT
    S: 221 bye";

/// A proxy on a loopback address, for as many connections as are made in a test.
pub struct Proxy {
    address: SocketAddr,
}

impl Proxy {
    /// Runs `serve` for each client.
    fn running(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            thread::scope(|scope| {
                for client in listener.incoming() {
                    let client = client.unwrap();
                    client.set_read_timeout(Some(PATIENCE)).unwrap();
                    scope.spawn(|| serve(client));
                }
            });
        });
        Proxy { address }
    }

    /// Speaks SOCKS5. It knows one host, which is at `to`, and fails to resolve all others.
    pub fn socks5(known: &'static str, to: SocketAddr, wants_login: bool) -> Proxy {
        Proxy::running(move |mut client| {
            let methods = field(&mut client, &[5]);
            let method = if wants_login { 2 } else { 0 };
            if !methods.contains(&method) {
                return client.write_all(&[5, 0xff]).unwrap();
            }
            client.write_all(&[5, method]).unwrap();
            if wants_login {
                let (user, password) = (field(&mut client, &[1]), field(&mut client, &[]));
                let is_right = (&user[..], &password[..]) == (b"proxy user", b"proxy password");
                client.write_all(&[1, u8::from(!is_right)]).unwrap();
                if !is_right {
                    return;
                }
            }
            let host = field(&mut client, &[5, 1, 0, 3]);
            let mut port = [0; 2];
            client.read_exact(&mut port).unwrap();
            if host != known.as_bytes() || u16::from_be_bytes(port) != to.port() {
                return client.write_all(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
            }
            forward(client, to, b"\x05\x00\x00\x03\x05proxy\x00\x00");
        })
    }

    /// Takes a CONNECT request for `authority`, which is at `to`.
    fn http(authority: String, to: SocketAddr, wants_login: bool) -> Proxy {
        Proxy::running(move |mut client| {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut octet = [0];
                client.read_exact(&mut octet).unwrap();
                request.push(octet[0]);
            }
            let request = String::from_utf8(request).unwrap();
            let login = "Proxy-Authorization: Basic cHJveHkgdXNlcjpwcm94eSBwYXNzd29yZA==\r\n";
            if wants_login && !request.contains(login) {
                return client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").unwrap();
            }
            if !request.starts_with(&format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n")) {
                return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").unwrap();
            }
            forward(client, to, b"HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n");
        })
    }

    pub fn url(&self, scheme: &str, login: &str) -> String {
        format!("{scheme}://{login}{}", self.address)
    }
}

/// Reads a field whose length is in the octet after `beginning`.
fn field(client: &mut TcpStream, beginning: &[u8]) -> Vec<u8> {
    let mut octets = vec![0; beginning.len() + 1];
    client.read_exact(&mut octets).unwrap();
    let length = octets.pop().unwrap();
    assert_eq!(octets, beginning);
    let mut rest = vec![0; length.into()];
    client.read_exact(&mut rest).unwrap();
    rest
}

/// Sends the reply together with what the server says first, and then passes everything on.
fn forward(mut client: TcpStream, to: SocketAddr, reply: &[u8]) {
    let mut server = TcpStream::connect(to).unwrap();
    let mut greeting = [0; 4096];
    let mut first = reply.to_vec();
    server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    if let Ok(length) = server.read(&mut greeting) {
        first.extend_from_slice(&greeting[..length]); // not in TLS, where the client speaks first
    }
    server.set_read_timeout(None).unwrap();
    client.write_all(&first).unwrap();
    let one_way = |mut from: &TcpStream, mut to: &TcpStream| {
        drop(copy(&mut from, &mut to)); // the end of a connection, however it came
        drop(to.shutdown(Shutdown::Write));
    };
    thread::scope(|scope| {
        scope.spawn(|| one_way(&client, &server));
        one_way(&server, &client);
    });
}

/// Returns a builder for a host that no resolver knows.
fn through(host: &str, port: u16, proxy: impl AsRef<str>) -> Builder {
    Client::builder(host).port(port).hello_name("client.example.org").timeout(PATIENCE).proxy(proxy)
}

#[test]
fn every_connection_of_a_client_goes_through_the_proxy() {
    for login in ["", LOGIN] {
        for scheme in ["socks5", "socks5h", "http"] {
            let server = Server::playing_each([SESSION; 3]);
            let (to, port) = (server.address(), server.port());
            let proxy = match scheme {
                "http" => Proxy::http(format!("mail.example.org:{port}"), to, !login.is_empty()),
                _ => Proxy::socks5("mail.example.org", to, !login.is_empty()),
            };
            let builder = through("mail.example.org", port, proxy.url(scheme, login));
            let mut client = block_on(builder.connect()).unwrap();
            assert_eq!(client.peer_addr(), Some(proxy.address));
            accept(&mut client, &mail());
            block_on(client.quit()).unwrap();
            block_on(client.reconnect()).unwrap();
            accept(&mut client, &mail());
            block_on(client.quit()).unwrap();
            assert!(block_on(builder.send(&mail())).is_ok());
            server.finish();
        }
    }
}

#[test]
fn a_refusal_by_the_proxy_is_reported_with_its_reason() {
    let to = closed();
    let socks5 = |wants_login| Proxy::socks5("mail.example.org", to, wants_login);
    let http = |wants_login| Proxy::http("mail.example.org:1".into(), to, wants_login);
    for (url, host, what, retry) in [
        (socks5(true).url("socks5", ""), "mail.example.org", "it requires a login", Retry::Never),
        (socks5(true).url("socks5", "u:secret@"), "mail.example.org", "it refused the login", Retry::Never),
        (socks5(false).url("socks5", ""), "other.example.org", "host unreachable", Retry::Later),
        (http(true).url("http", "u:secret@"), "mail.example.org", "valid login (407)", Retry::Never),
        (http(false).url("http", ""), "mail.example.org", "502 Bad Gateway", Retry::Later),
    ] {
        let error = connect_error(&through(host, to.port(), url));
        assert!(matches!(&error, Error::Proxy { .. }), "{error:#?}");
        assert!(error.to_string().contains(what) && error.to_string().contains("127.0.0.1"), "{error}");
        assert_eq!((error.retry(), error.is_transient()), (retry, retry == Retry::Later));
        assert!(!format!("{error:#?}").contains("secret"), "{error:#?}");
    }
}

#[test]
fn a_proxy_that_cannot_be_reached_hangs_up_or_is_silent_is_named() {
    let hangs_up = Proxy::running(drop);
    let silent = Proxy::running(|mut client| drop(client.read_to_end(&mut Vec::new())));
    // One octet now and then, for ever.
    let slow = Proxy::running(|mut client| {
        while client.write_all(b"H").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let addresses =
        [(closed(), false), (hangs_up.address, false), (silent.address, true), (slow.address, true)];
    for (address, is_timeout) in addresses {
        let limit = if is_timeout { SHORT } else { PATIENCE };
        let builder = through("mail.example.org", 25, format!("http://{address}"));
        for builder in [builder.clone().connect_timeout(limit), builder.deadline(limit)] {
            let error = connect_error(&builder);
            let name = format!("the proxy http://{address}");
            assert!(matches!(&error, Error::Connect { server, .. } if *server == name), "{error:#?}");
            assert_eq!((error.is_timeout(), error.retry()), (is_timeout, Retry::Later), "{error}");
        }
    }
}

#[test]
fn a_proxy_on_this_machine_does_not_make_the_server_local() {
    let server = Server::playing("S: 220 mail.example.org");
    let proxy = Proxy::socks5("localhost", server.address(), false);
    let builder = through("localhost", server.port(), proxy.url("socks5", ""));
    let error = connect_error(&builder.credentials("user", "password").security(Security::Plaintext));
    assert!(matches!(&error, Error::Config(text) if text.contains("without TLS")), "{error:#?}");
}

#[test]
fn a_proxy_setting_makes_no_connection_of_the_callers_local() {
    let server = Server::playing("S: 220 mail.example.org");
    let socket = TcpStream::connect(server.address()).unwrap();
    let builder = through("127.0.0.1", server.port(), "socks5://127.0.0.1:1");
    let builder = builder.credentials("user", "password").security(Security::Plaintext);
    let error = block_on(builder.connect_over(tcp(socket))).unwrap_err();
    assert!(matches!(&error, Error::Config(text) if text.contains("without TLS")), "{error:#?}");
}

#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn tls_verifies_the_name_of_the_server_and_not_of_the_proxy() {
    use crate::support::tls::CA;
    for (host, script) in [("localhost", "-- tls good\n-- hello"), ("mail.example.org", "-- no tls good")] {
        let is_trusted = host == "localhost";
        let server = Server::playing(script);
        let proxy = Proxy::socks5(host, server.address(), false);
        let builder = through(host, server.port(), proxy.url("socks5", ""));
        let connected = block_on(builder.security(Security::Implicit).ca_certificate(CA).connect());
        match connected {
            Ok(client) => assert!(is_trusted && client.is_encrypted()),
            Err(Error::Certificate { name, .. }) => assert!(!is_trusted && name == host),
            Err(error) => panic!("{error:#?}"),
        }
    }
}
