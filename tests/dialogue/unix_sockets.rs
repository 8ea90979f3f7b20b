//! Connections over Unix sockets.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    time::{Duration, Instant},
};

use postino::{Error, Security};

use super::{
    connect::{LOGIN, TRANSACTION, patient},
    *,
};
use crate::{
    support::{UnixBlackHole, socket_path},
    unix,
};

const SHORT: Duration = Duration::from_millis(300);

fn to_unix(server: &Server) -> Builder {
    patient(Client::unix(server.path()))
}

// Behaviour 15.
#[test]
fn a_unix_socket_can_be_given_by_any_kind_of_path() {
    let server = || Server::playing_unix(format!("-- hello\n{TRANSACTION}C: QUIT\nS: 221 bye"));
    let talk = |builder: Builder| {
        let mut client = block_on(patient(builder).connect()).unwrap();
        assert_eq!((client.peer_addr(), client.is_encrypted()), (None, false));
        accept(&mut client, &mail());
        block_on(client.quit()).unwrap();
    };
    let at = server();
    talk(Client::unix(at.path().to_str().unwrap()));
    let at = server();
    talk(Client::unix(at.path().as_path()));
    let at = server();
    talk(Client::unix(OsStr::from_bytes(at.path().as_os_str().as_bytes())));
    let at = server();
    talk(Client::from_url(&format!("smtp+unix:{}", at.path().display())).unwrap());
}

// Behaviour 15.
#[test]
fn a_connected_unix_socket_of_the_callers_will_do() {
    let (server, socket) = Server::playing_pair(format!("-- hello\n{TRANSACTION}C: QUIT\nS: 221 bye"));
    let mut client = block_on(patient(Client::builder("h")).connect_over(unix(socket))).unwrap();
    assert_eq!(client.peer_addr(), None);
    accept(&mut client, &mail());
    block_on(client.quit()).unwrap();
    drop(server);
}

// Threat 18.
#[test]
fn credentials_go_in_clear_over_a_unix_socket() {
    let server = Server::playing_unix(LOGIN);
    let plain =
        |builder: Builder| patient(builder).security(Security::Plaintext).credentials("user", "secret");
    block_on(plain(Client::unix(server.path())).connect()).unwrap();

    let (server, socket) = Server::playing_pair(LOGIN);
    block_on(plain(Client::builder("h")).connect_over(unix(socket))).unwrap();
    drop(server);
}

#[test]
fn a_unix_socket_needs_no_starttls() {
    let server = Server::playing_unix("-- hello STARTTLS");
    assert!(!block_on(to_unix(&server).connect()).unwrap().is_encrypted());
    // With credentials it would be accepted, if there were a name to verify.
    let server =
        Server::playing_unix("-- hello STARTTLS, AUTH PLAIN\nC: AUTH PLAIN AHVzZXIAc2VjcmV0\nS: 235 welcome");
    block_on(to_unix(&server).credentials("user", "secret").connect()).unwrap();
}

#[cfg(any(feature = "native-tls", feature = "rustls"))]
mod tls {
    use super::*;
    use crate::support::tls::CA;

    const SECURED: &str = "-- hello STARTTLS
         C: STARTTLS
         S: 220 go ahead
         -- tls good
         C: EHLO client.example.org
         S: 250 mail.example.org\n";

    fn trusting(builder: Builder, security: Security) -> Builder {
        patient(builder).security(security).ca_certificate(CA)
    }

    // Behaviour 15.
    #[test]
    fn tls_over_a_unix_socket_works_with_a_name_to_verify() {
        let secured =
            |server: &Server, security| trusting(Client::unix(server.path()), security).tls_name("localhost");
        let server = Server::playing_unix(format!("-- tls good\n-- hello\n{TRANSACTION}"));
        let mut client = block_on(secured(&server, Security::Implicit).connect()).unwrap();
        assert!(client.is_encrypted());
        accept(&mut client, &mail());
        drop(client);
        for security in [Security::StartTls, Security::Opportunistic] {
            let server = Server::playing_unix(format!("{SECURED}{TRANSACTION}"));
            let mut client = block_on(secured(&server, security).connect()).unwrap();
            assert!(client.is_encrypted());
            accept(&mut client, &mail());
        }
        let server = Server::playing_unix(SECURED);
        let auto = secured(&server, Security::Auto).credentials("u", "p");
        assert!(matches!(block_on(auto.connect()), Err(Error::Auth { reply: None, .. }))); // it got as far as TLS
    }

    #[test]
    fn tls_over_a_unix_socket_without_a_name_fails_before_connecting() {
        for security in [Security::StartTls, Security::Implicit] {
            let error = connect_error(&Client::unix("/nowhere/at/all").security(security));
            assert!(matches!(&error, Error::Config(text) if text.contains("tls_name")), "{error:?}");
        }
    }

    // Behaviour 15.
    #[test]
    fn tls_over_a_unix_socket_of_the_callers_verifies_the_host() {
        let (server, socket) = Server::playing_pair(format!("{SECURED}{TRANSACTION}"));
        let builder = trusting(Client::builder("localhost"), Security::StartTls);
        accept(&mut block_on(builder.connect_over(unix(socket))).unwrap(), &mail());
        drop(server);
    }
}

#[test]
fn over_a_unix_socket_ehlo_names_the_machine_or_its_loopback_address() {
    let path = socket_path();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        use std::io::{BufRead, BufReader, Write};
        let (mut socket, _) = listener.accept().unwrap();
        socket.write_all(b"220 hi\r\n").unwrap();
        let mut line = String::new();
        BufReader::new(&socket).read_line(&mut line).unwrap();
        socket.write_all(b"250 hi\r\n").unwrap();
        line
    });
    drop(block_on(Client::unix(&path).timeout(PATIENCE).connect()).unwrap());
    std::fs::remove_file(&path).unwrap();
    let line = server.join().unwrap();
    let name = line.strip_prefix("EHLO ").unwrap().strip_suffix("\r\n").unwrap();
    let is_domain = name.contains('.') && !name.contains(['[', '_', ' ']);
    assert!(name == "[127.0.0.1]" || is_domain, "{line}");
}

#[test]
fn the_error_of_a_missing_unix_socket_names_its_path() {
    let path = socket_path();
    let error = connect_error(&Client::unix(&path));
    assert!(matches!(error, Error::Connect { .. }) && !error.is_timeout());
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn a_unix_socket_whose_queue_is_full_is_waited_for_up_to_the_limit() {
    let hole = UnixBlackHole::new();
    let start = Instant::now();
    let error = connect_error(&Client::unix(&hole.path).connect_timeout(SHORT));
    let took = start.elapsed();
    assert!(error.is_timeout() && took >= SHORT && took < SHORT * 10, "{error:?} {took:?}");
}

#[test]
fn lmtp_over_a_unix_socket_sends_lhlo() {
    let script = "S: 220 mail.example.org LMTP\nC: LHLO client.example.org\nS: 250-hi\nS: 250 PIPELINING\nC: QUIT\nS: 221 bye";
    let server = Server::playing_unix(script);
    let builder = Client::from_url(&format!("lmtp+unix:{}", server.path().display())).unwrap();
    let mut client = block_on(patient(builder).connect()).unwrap();
    assert!(client.capabilities().offers("PIPELINING"));
    block_on(client.quit()).unwrap();
}
