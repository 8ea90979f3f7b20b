//! Connecting: by which way, to which address, with which name; and reconnecting.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use postino::{Error, Phase, Security};

use super::*;
use crate::{
    opaque,
    support::{BlackHole, closed, journal},
    tcp,
};

const SHORT: Duration = Duration::from_millis(300);

/// Sets the name that scripts expect, and limits that no test reaches by accident.
pub fn patient(builder: Builder) -> Builder {
    builder.hello_name("client.example.org").timeout(PATIENCE).final_reply_timeout(PATIENCE)
}

pub fn dial(server: &Server) -> TcpStream {
    TcpStream::connect(server.address()).unwrap()
}

pub const TRANSACTION: &str = "-- envelope\nC: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 250 ok\n";

// Behaviour 1.
#[test]
fn a_greeting_that_refuses_is_reported_and_closes_the_connection() {
    let server = Server::playing_in_turn(["-- hello\nC: QUIT\nS: 221 bye", "S: 554 not you"]);
    let mut client = connect(&server);
    block_on(client.quit()).unwrap();
    let error = block_on(client.reconnect()).unwrap_err();
    assert_eq!(refusal(&error), (Phase::Greeting, 554));
    assert_eq!(error.reply().unwrap().text(), "not you");
    assert!(!client.is_connected());
    assert_closed(&mut client);
}

// Behaviour 4.
#[test]
fn a_connect_timeout_names_host_and_port() {
    let hole = BlackHole::new();
    let port = hole.address().port();
    let start = Instant::now();
    let error = connect_error(&Client::builder("127.0.0.1").port(port).connect_timeout(SHORT));
    let took = start.elapsed();
    assert!(took >= SHORT && took < SHORT * 10, "{took:?}");
    assert!(error.is_timeout() && error.is_transient());
    assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    assert_eq!(error.to_string(), format!("timed out connecting to 127.0.0.1:{port}"));
}

// Behaviour 4.
#[test]
fn a_connect_timeout_of_zero_ends_at_once() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let error = connect_error(&Client::builder("127.0.0.1").port(port).connect_timeout(Duration::ZERO));
    assert!(error.is_timeout() && error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
}

// Behaviour 6.
#[test]
fn after_failures_the_same_builder_and_client_can_connect() {
    let server = Server::playing_in_turn(["-- fin", "S: 421 later", "-- hello", "S: 450 no", "-- hello"]);
    let builder = builder(&server);
    connect_error(&builder);
    connect_error(&builder);
    let mut client = block_on(builder.connect()).unwrap();
    client.close();
    block_on(client.reconnect()).unwrap_err();
    block_on(client.reconnect()).unwrap();
    assert!(client.is_connected());
}

// Behaviour 7.
#[test]
fn an_open_connection_is_not_replaced() {
    let server = Server::playing("-- hello\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let number = client.connection_number();
    assert!(matches!(block_on(client.reconnect()), Err(Error::AlreadyConnected)));
    assert_eq!(client.connection_number(), number);
    assert_open(&mut client);
}

// Behaviour 8.
#[test]
fn a_client_can_reconnect_after_quit_with_its_settings() {
    let once = "-- hello AUTH PLAIN
         C: AUTH PLAIN AHVzZXIAc2VjcmV0
         S: 235 welcome
         C: QUIT
         S: 221 bye";
    let server = Server::playing_in_turn([once, once]);
    let mut client = block_on(builder(&server).credentials("user", "secret").connect()).unwrap();
    block_on(client.quit()).unwrap();
    assert!(!client.is_connected());
    block_on(client.reconnect()).unwrap();
    block_on(client.quit()).unwrap();
}

// Behaviour 9.
#[test]
fn a_client_can_reconnect_after_a_lost_connection() {
    let server = Server::playing_in_turn([
        "-- hello\nC: NOOP\nS: 250 ok\n-- close",
        "S: 220 hi\nC: EHLO client.example.org\n-- fin",
        "-- hello\n-- envelope\nC: DATA\n-- fin",
        "-- hello\nC: NOOP\nS: 250 ok",
    ]);
    let mut client = connect(&server);
    assert_open(&mut client); // then the server closes while it is idle
    let start = Instant::now();
    while client.is_connected() {
        assert!(start.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    assert!(matches!(block_on(client.reconnect()), Err(Error::Closed(Phase::Hello))));
    block_on(client.reconnect()).unwrap();
    send_error(&mut client, &mail());
    block_on(client.reconnect()).unwrap();
    assert_open(&mut client);
}

// Behaviour 9.
#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn a_client_can_reconnect_after_a_loss_in_starttls() {
    let server = Server::playing_in_turn([
        "-- hello\nC: QUIT\nS: 221 bye",
        "-- hello STARTTLS\nC: STARTTLS\n-- fin",
        "-- hello",
    ]);
    let mut client = block_on(builder(&server).security(Security::Opportunistic).connect()).unwrap();
    block_on(client.quit()).unwrap();
    block_on(client.reconnect()).unwrap_err();
    block_on(client.reconnect()).unwrap();
}

// Behaviour 10.
#[test]
fn a_server_that_closes_while_idle_is_noticed() {
    let server = Server::playing("-- hello\n-- close");
    let mut client = connect(&server);
    drop(server); // it has closed
    assert!(!client.is_connected());
}

// Behaviour 11.
#[test]
fn setters_are_kept_for_the_next_connection() {
    let server = Server::playing_in_turn([
        "S: 220 hi\nC: EHLO other\nS: 250 hi",
        "S: 220 hi\nC: EHLO other\nS: 250 hi",
    ]);
    let mut client = block_on(builder(&server).hello_name("other").connect()).unwrap();
    client.close();
    block_on(client.reconnect()).unwrap();
}

// Behaviour 11.
#[test]
fn time_limits_are_kept_for_the_next_connection() {
    let server = Server::playing_in_turn(["-- hello", "-- hello\nC: NOOP\n-- silence"]);
    let mut client = block_on(builder(&server).timeout(SHORT).connect()).unwrap();
    client.close();
    block_on(client.reconnect()).unwrap();
    let start = Instant::now();
    assert!(matches!(block_on(client.noop()), Err(Error::Timeout(Phase::Noop))));
    assert!(start.elapsed() >= SHORT * 9 / 10 && start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

// Behaviour 14, threat 12.
#[test]
fn names_that_could_smuggle_commands_are_refused() {
    for name in ["", " ", "a b", "a\nb", "a\r\nMAIL FROM:<x@y>", "a\tb", "a\0b", "a\x7fb"] {
        let refused = Client::builder("127.0.0.1").port(closed().port()).hello_name(name);
        assert!(matches!(connect_error(&refused), Error::Config(_)), "{name:?}");
        assert!(matches!(connect_error(&Client::builder(name)), Error::Config(_)), "{name:?}");
    }
    let server = Server::playing("S: 220 hi\nC: EHLO me.example\nS: 250 hi");
    block_on(builder(&server).hello_name(" me.example ").connect()).unwrap();
}

// Behaviour 15.
#[test]
fn a_socket_connected_by_the_caller_can_be_used() {
    let server = Server::playing(format!("-- hello\n{TRANSACTION}C: QUIT\nS: 221 bye"));
    let mut client = block_on(builder(&server).connect_over(tcp(dial(&server)))).unwrap();
    assert_eq!(client.peer_addr(), Some(server.address()));
    accept(&mut client, &mail());
    block_on(client.quit()).unwrap();
}

#[test]
fn any_stream_can_be_used_and_has_no_peer_address() {
    let server = Server::playing(format!("-- hello\n{TRANSACTION}C: QUIT\nS: 221 bye"));
    let mut client = block_on(builder(&server).connect_over(opaque(dial(&server)))).unwrap();
    assert_eq!(client.peer_addr(), None);
    assert!(client.is_connected());
    accept(&mut client, &mail());
    block_on(client.quit()).unwrap();
    assert!(!client.is_connected());
}

#[test]
fn a_user_supplied_connection_cannot_be_reconnected() {
    let server = Server::playing("-- hello\nC: QUIT\nS: 221 bye");
    let mut client = block_on(builder(&server).connect_over(tcp(dial(&server)))).unwrap();
    block_on(client.quit()).unwrap();
    let error = block_on(client.reconnect()).unwrap_err();
    assert!(matches!(&error, Error::Config(text) if text.contains("connect_over")), "{error:?}");
}

pub const LOGIN: &str = "-- hello AUTH PLAIN\nC: AUTH PLAIN AHVzZXIAc2VjcmV0\nS: 235 welcome";

// Threat 18.
#[test]
fn credentials_are_sent_in_clear_only_where_nobody_can_eavesdrop() {
    let plain =
        |builder: Builder| patient(builder).security(Security::Plaintext).credentials("user", "secret");
    let server = Server::playing(""); // receives nothing at all
    let error =
        block_on(plain(Client::builder("localhost")).connect_over(opaque(dial(&server)))).unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error:?}");

    // It may be a proxy.
    let server = Server::playing("");
    let error = block_on(plain(Client::builder("localhost")).connect_over(tcp(dial(&server)))).unwrap_err();
    assert!(matches!(error, Error::Config(_)), "{error:?}");

    let server = Server::playing(LOGIN);
    let told = plain(Client::builder("h")).danger_plaintext_credentials(true);
    block_on(told.connect_over(opaque(dial(&server)))).unwrap();
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
    fn tls_over_a_user_supplied_connection_verifies_the_host() {
        let over = |host: &str, security, server: &Server| {
            block_on(trusting(Client::builder(host), security).connect_over(tcp(dial(server))))
        };
        let server = Server::playing(format!("-- tls good\n-- hello\n{TRANSACTION}"));
        accept(&mut over("localhost", Security::Implicit, &server).unwrap(), &mail());
        let server = Server::playing("-- no tls good");
        let error = over("mail.example.org", Security::Implicit, &server).unwrap_err();
        assert!(matches!(&error, Error::Certificate { name, .. } if name == "mail.example.org"), "{error:?}");
    }

    #[test]
    fn tls_works_over_any_stream_even_with_large_messages() {
        let server = Server::running(|peer| {
            peer.play(&format!("{SECURED}-- envelope\nC: DATA\nS: 354 go on"));
            assert_eq!(peer.body().len(), 33 << 14);
            peer.play("S: 250 ok\nC: QUIT\nS: 221 bye");
        });
        let builder = trusting(Client::builder("localhost"), Security::StartTls);
        let mut client = block_on(builder.connect_over(opaque(dial(&server)))).unwrap();
        assert!(client.is_encrypted());
        accept(&mut client, &text(&b"0123456789abcdef0123456789abcde\n".repeat(1 << 14)));
        block_on(client.quit()).unwrap();
    }

    #[test]
    fn the_host_name_is_verified_at_given_addresses() {
        let to = |host: &str, server: &Server| {
            trusting(Client::builder(host), Security::Implicit).addresses([server.address()])
        };
        let server = Server::playing("-- tls good\n-- hello");
        block_on(to("localhost", &server).connect()).unwrap();
        let server = Server::playing("-- no tls good");
        let error = connect_error(&to("mail.example.org", &server));
        assert!(matches!(&error, Error::Certificate { name, .. } if name == "mail.example.org"), "{error:?}");
    }
}

#[test]
fn lmtp_sends_lhlo() {
    let script = "S: 220 mail.example.org LMTP\nC: LHLO client.example.org\nS: 250-hi\nS: 250 PIPELINING\nC: QUIT\nS: 221 bye";
    let talk = |builder: Builder| {
        let mut client = block_on(patient(builder).connect()).unwrap();
        assert!(client.capabilities().offers("PIPELINING"));
        block_on(client.quit()).unwrap();
    };
    let server = Server::playing(script);
    talk(Client::from_url(&format!("lmtp://127.0.0.1:{}", server.port())).unwrap());
    let server = Server::playing(script);
    talk(builder(&server).lmtp(true));
}

#[test]
fn lhlo_refused_is_not_followed_by_helo() {
    let server = Server::playing("S: 220 hi\nC: LHLO client.example.org\nS: 500 this is SMTP");
    assert_eq!(refusal(&connect_error(&builder(&server).lmtp(true))), (Phase::Hello, 500));
}

#[test]
fn lmtp_is_never_spoken_on_port_25() {
    for builder in [
        Client::builder("127.0.0.1").port(25).lmtp(true),
        Client::builder("127.0.0.1").addresses([(Ipv4Addr::LOCALHOST, 25).into()]).lmtp(true),
    ] {
        assert!(matches!(connect_error(&builder), Error::Config(_)));
    }
}

#[test]
fn given_addresses_are_not_looked_up() {
    let server = Server::playing("-- hello");
    // No resolver knows it (RFC 6761 §6.4).
    let builder = patient(Client::builder("mail.invalid")).addresses([closed(), server.address()]);
    let client = block_on(builder.connect()).unwrap();
    assert_eq!(client.peer_addr(), Some(server.address()));
}

// Threat 86.
#[test]
fn the_connect_error_reports_the_failure_of_each_address() {
    let (first, second) = (closed(), closed());
    let error = connect_error(&Client::builder("mail.example.org").addresses([first, second]));
    let Error::Connect { server, source } = &error else { panic!("{error:?}") };
    assert_eq!(*server, format!("mail.example.org:{}", first.port()));
    let text = source.to_string();
    assert!(text.starts_with("tried 2 of 2 addresses"), "{text}");
    assert!(text.contains(&first.to_string()) && text.contains(&second.to_string()), "{text}");
    assert!(!error.is_timeout() && error.is_transient());
}

// Threat 86.
#[test]
fn an_unresponsive_address_does_not_use_up_the_time_of_the_next() {
    let hole = BlackHole::new();
    let server = Server::playing("-- hello");
    let start = Instant::now();
    let builder = patient(Client::builder("h")).addresses([hole.address(), server.address()]);
    let client = block_on(builder.connect()).unwrap();
    let took = start.elapsed();
    assert_eq!(client.peer_addr(), Some(server.address()));
    // The client waits for 250 ms before it tries the next address (RFC 8305 §5).
    assert!(took >= Duration::from_millis(250) && took < PATIENCE / 2, "{took:?}");
}

// Threat 86.
#[test]
fn an_address_that_refuses_is_followed_by_the_next_at_once() {
    let hole = BlackHole::new();
    let server = Server::playing("-- hello");
    let start = Instant::now();
    let dead = [hole.address(), closed(), closed(), closed(), server.address()];
    block_on(patient(Client::builder("h")).addresses(dead).connect()).unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

// Threat 86.
#[test]
fn a_connect_timeout_reports_the_addresses_tried() {
    let (hole, refusing) = (BlackHole::new(), closed());
    let builder = Client::builder("h").addresses([refusing, hole.address()]).connect_timeout(SHORT);
    let error = connect_error(&builder);
    assert!(error.is_timeout(), "{error:?}");
    let text = error.source().unwrap().to_string();
    assert!(text.contains(&refusing.to_string()) && text.contains(&hole.address().to_string()), "{text}");
}

#[test]
fn a_local_address_can_be_set() {
    let server = Server::running(|peer| {
        assert_eq!(peer.client().ip(), Ipv4Addr::new(127, 0, 0, 2));
        peer.play("-- hello");
    });
    block_on(builder(&server).bind((Ipv4Addr::new(127, 0, 0, 2), 0)).connect()).unwrap();
}

#[test]
fn a_local_address_of_the_wrong_family_or_machine_is_an_error() {
    for local in ["[::1]:0", "192.0.2.1:0"] {
        let local: SocketAddr = local.parse().unwrap();
        let error = connect_error(&Client::builder("127.0.0.1").port(closed().port()).bind(local));
        assert!(matches!(error, Error::Connect { .. }), "{error:?}");
    }
}

#[test]
fn each_connection_has_a_number_in_the_log() {
    let server = Server::playing_in_turn([
        "-- hello\nC: NOOP\nS: 250 first to be numbered",
        "-- hello\nC: NOOP\nS: 250 second to be numbered",
    ]);
    let mut client = connect(&server);
    let first = client.connection_number();
    assert_open(&mut client);
    client.close();
    block_on(client.reconnect()).unwrap();
    let second = client.connection_number();
    assert_open(&mut client);
    assert!(second > first && first > 0);
    for (number, text) in [(first, "first to be numbered"), (second, "second to be numbered")] {
        // The other client's test has its own connection numbers.
        assert!(journal::lines_with(text).contains(&format!("DEBUG postino: #{number} S: 250 {text}")));
        let port = server.port();
        assert!(
            journal::lines_with(&format!("#{number} "))
                .iter()
                .any(|line| line.contains(&format!("connecting to 127.0.0.1:{port}")))
        );
        assert!(journal::lines_with(&format!("#{number} C: EHLO client.example.org")).len() == 1);
    }
}

#[cfg(feature = "idna")]
#[test]
fn without_smtputf8_domains_are_sent_as_a_labels() {
    let server = Server::playing(
        "-- hello 8BITMIME
         C: MAIL FROM:<alice@example.org>
         S: 250 ok
         C: RCPT TO:<bob@xn--bcher-kva.example>
         S: 250 ok
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok",
    );
    accept(&mut connect(&server), &mail_to(&["bob@Bücher.example"]));
}

#[test]
fn without_smtputf8_a_non_ascii_local_part_is_refused_before_mail() {
    let server = Server::playing("-- hello 8BITMIME\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let error = send_error(&mut client, &mail_to(&["jörg@example.org"]));
    assert!(matches!(error, Error::Unsupported(text) if text.contains("SMTPUTF8")), "{error:?}");
    assert_open(&mut client);
}

#[test]
fn a_path_that_cannot_name_a_socket_is_refused() {
    for path in ["", "a\0b", &"x".repeat(200)] {
        assert!(matches!(connect_error(&Client::unix(Path::new(path))), Error::Config(_)), "{path:?}");
    }
}

#[cfg(windows)]
#[test]
fn windows_has_no_unix_sockets() {
    for builder in [Client::unix("/run/smtp"), Client::unix(r"C:\smtp.sock")] {
        let error = connect_error(&builder);
        assert!(matches!(&error, Error::Config(why) if why.contains("no Unix sockets")), "{error:?}");
    }
}
