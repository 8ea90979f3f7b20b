use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::{Mutex, mpsc},
};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::*;
use crate::{MailOption, proto::options::one_of_each};

/// A client that sends only what it is told to.
struct Peer(BufReader<TcpStream>);

impl Peer {
    /// Connects and reads the greeting.
    fn connect(server: &Server) -> Peer {
        let stream = TcpStream::connect(server.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut peer = Peer(BufReader::new(stream));
        assert_eq!(peer.reply(), "220 localhost ESMTP postino::testing");
        peer
    }

    /// Connects and sends EHLO.
    fn greeted(server: &Server) -> Peer {
        let mut peer = Peer::connect(server);
        peer.expect("EHLO client.example", "250");
        peer
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Reads one reply and joins its lines with LF.
    fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let start = reply.len();
            assert!(self.0.read_line(&mut reply).unwrap() > 0, "hung up after {reply:?}");
            assert!(reply.ends_with("\r\n"));
            reply.truncate(reply.len() - 2);
            if reply.as_bytes()[start + 3] == b' ' {
                return reply;
            }
            reply.push('\n');
        }
    }

    fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n"));
        self.reply()
    }

    #[track_caller]
    fn expect(&mut self, line: &str, start: &str) {
        let reply = self.ask(line);
        assert!(reply.starts_with(start), "{line}: {reply}, not {start}");
    }

    #[track_caller]
    fn expect_all(&mut self, dialogue: &[(&str, &str)]) {
        for (line, start) in dialogue {
            self.expect(line, start);
        }
    }

    /// Sends a message from a@b to c@d.
    fn post(&mut self, content: &str) -> String {
        self.expect_all(&[("MAIL FROM:<a@b>", "250"), ("RCPT TO:<c@d>", "250"), ("DATA", "354")]);
        self.ask(&format!("{content}."))
    }

    #[track_caller]
    fn is_hung_up_on(&mut self) {
        match self.0.read(&mut [0]) {
            Ok(octets) => assert_eq!(octets, 0, "the server has sent more"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        }
    }
}

fn server() -> Server {
    Server::start().unwrap()
}

fn server_with_login() -> Server {
    Server::builder().credentials("user", "secret").start().unwrap()
}

#[test]
fn a_message_is_recorded_with_its_envelope() {
    let server = server();
    let mut peer = Peer::greeted(&server);
    peer.expect_all(&[
        ("MAIL FROM:<A@b.example> SIZE=10 body=8bitmime", "250 2.1.0"),
        ("rcpt to:<c@d.example>", "250 2.1.5"),
        ("RCPT TO:<\"x> y\"@d.example>", "250 2.1.5"),
        ("DATA", "354 "),
    ]);
    assert_eq!(peer.ask("Subject: Hi\r\n\r\n..\r\n."), "250 2.0.0 Ok: queued as T1");
    let [message] = &server.messages()[..] else { panic!("not one message") };
    assert_eq!(message.sender(), "A@b.example");
    assert_eq!(message.recipients(), ["c@d.example", "\"x> y\"@d.example"]);
    assert_eq!(message.mail_parameters(), ["SIZE=10", "body=8bitmime"]);
    assert_eq!(message.recipient_parameters(), [[""; 0]; 2]);
    assert_eq!(message.content(), b"Subject: Hi\r\n\r\n.\r\n");
    assert_eq!(message.user(), None);
}

#[test]
fn one_connection_carries_many_messages_and_a_null_sender() {
    let server = server();
    let mut peer = Peer::greeted(&server);
    assert_eq!(peer.post("1\r\n"), "250 2.0.0 Ok: queued as T1");
    peer.expect_all(&[("MAIL FROM:<>", "250"), ("RCPT TO:<c@d>", "250"), ("DATA", "354")]);
    assert_eq!(peer.ask("."), "250 2.0.0 Ok: queued as T2");
    let messages = server.messages();
    assert_eq!((messages[0].sender(), messages[0].content()), ("a@b", &b"1\r\n"[..]));
    assert_eq!((messages[1].sender(), messages[1].content()), ("", &b""[..]));
}

#[test]
fn connections_do_not_wait_for_each_other() {
    let server = server();
    let mut peers: Vec<Peer> = (0..5).map(|_| Peer::greeted(&server)).collect();
    for peer in peers.iter_mut().rev() {
        peer.post("Hi\r\n");
    }
    assert_eq!(server.messages().len(), 5);
}

#[test]
fn the_url_names_the_port() {
    let server = server();
    assert_eq!(server.url(), format!("smtp://127.0.0.1:{}", server.port()));
    assert_eq!(server.addr.port(), server.port());
}

#[test]
fn wait_for_messages_waits_until_they_arrive() {
    let server = server();
    assert!(server.wait_for_messages(0).is_empty());
    let mut peer = Peer::greeted(&server);
    let messages = thread::scope(|scope| {
        let waiting = scope.spawn(|| server.wait_for_messages(2));
        peer.post("1\r\n");
        peer.post("2\r\n");
        waiting.join().unwrap()
    });
    assert_eq!(messages.len(), 2);
}

#[test]
fn the_dialogue_is_recorded_per_connection_and_passed_to_on_line() {
    let (sender, heard) = mpsc::channel();
    let tell = move |line: &str| sender.send(line.to_owned()).unwrap();
    let server = Server::builder().on_line(tell).start().unwrap();
    let mut first = Peer::connect(&server);
    let mut second = Peer::connect(&server);
    second.expect("NOOP", "250");
    first.expect("HELO client.example", "250");
    first.post("Hello\r\n");
    let greeting = "S: 220 localhost ESMTP postino::testing";
    let first_lines = [
        "C: HELO client.example",
        "S: 250 localhost",
        "C: MAIL FROM:<a@b>",
        "S: 250 2.1.0 Ok",
        "C: RCPT TO:<c@d>",
        "S: 250 2.1.5 Ok",
        "C: DATA",
        "S: 354 End data with <CRLF>.<CRLF>",
        "C: (7 octets)",
        "S: 250 2.0.0 Ok: queued as T1",
    ];
    let second_lines = ["C: NOOP", "S: 250 2.0.0 Ok"];
    assert_eq!(server.dialogue(), [&[greeting], &first_lines[..], &[greeting], &second_lines[..]].concat());
    let told: Vec<String> = heard.try_iter().collect();
    assert_eq!(told, [&[greeting, greeting], &second_lines[..], &first_lines[..]].concat());
}

fn without(builder: ServerBuilder, keywords: &[&str]) -> ServerBuilder {
    keywords.iter().fold(builder, |builder, keyword| builder.extension(keyword, false))
}

#[test]
#[should_panic = "not an extension"]
fn setting_an_unknown_extension_panics() {
    let _unknown = Server::builder().extension("PIPELINE", true);
}

#[test]
fn each_mail_option_is_accepted_by_a_server_that_offers_its_extension() {
    let server = server_with_login();
    let offered = mail_extensions()
        .fold(Server::builder().credentials("user", "secret"), |builder, keyword| {
            builder.extension(keyword, true)
        });
    let offered = offered.start().unwrap();
    for option in one_of_each() {
        let mail = format!("MAIL FROM:<a@b> {option}");
        let is_raw = matches!(option, MailOption::Raw(_));
        let is_default = matches!(option, MailOption::Auth(_));
        Peer::greeted(&server).expect(&mail, if is_default { "250" } else { "555 5.5.4" });
        Peer::greeted(&offered).expect(&mail, if is_raw { "555 5.5.4" } else { "250" });
    }
}

#[test]
fn ehlo_lists_the_enabled_extensions() {
    let ehlo = |server: &Server| Peer::connect(server).ask("EHLO x");
    let all = "250-localhost\n250-PIPELINING\n250-8BITMIME\n250-SIZE 52428800\n250-SMTPUTF8\n250 ENHANCEDSTATUSCODES";
    assert_eq!(ehlo(&server()), all);
    assert!(ehlo(&server_with_login()).ends_with("\n250 AUTH PLAIN LOGIN"));
    let little =
        Server::builder().credentials("u", "p").size_limit(7).extension("DSN", true).extension("auth", false);
    let little = without(little, &["PIPELINING", "SMTPUTF8", "EnhancedStatusCodes"]);
    assert_eq!(ehlo(&little.start().unwrap()), "250-localhost\n250-8BITMIME\n250-SIZE 7\n250 DSN");
    let nothing =
        without(Server::builder(), &["PIPELINING", "8BITMIME", "SIZE", "SMTPUTF8", "ENHANCEDSTATUSCODES"]);
    assert_eq!(ehlo(&nothing.start().unwrap()), "250 localhost");
}

#[test]
fn a_parameter_that_is_not_offered_is_refused() {
    let bare = without(Server::builder(), &["8BITMIME", "SMTPUTF8", "SIZE"]).start().unwrap();
    let mut peer = Peer::greeted(&bare);
    for parameter in
        ["BODY=8BITMIME", "SMTPUTF8", "SIZE=1", "AUTH=<>", "RET=FULL", "ENVID=x", "FOO", "=", "FOO=1"]
    {
        peer.expect(&format!("MAIL FROM:<a@b> {parameter}"), "555 5.5.4");
    }
    peer.expect_all(&[("MAIL FROM:<a@b>", "250"), ("RCPT TO:<c@d> NOTIFY=NEVER", "555 5.5.4")]);

    let mut peer = Peer::connect(&bare);
    peer.expect_all(&[("HELO x", "250"), ("MAIL FROM:<a@b> SIZE=1", "555 5.5.4")]);
}

#[test]
fn a_malformed_parameter_is_refused() {
    let server = Server::builder().extension("DSN", true).start().unwrap();
    let mut peer = Peer::greeted(&server);
    for parameter in
        ["BODY=9BIT", "BODY", "SMTPUTF8=1", "SMTPUTF8=", "SIZE", "SIZE=", "SIZE=-1", "RET=x", "ENVID="]
    {
        peer.expect(&format!("MAIL FROM:<a@b> {parameter}"), "501 5.5.4");
    }
    peer.expect_all(&[("MAIL FROM:<a@b>", "250"), ("RCPT TO:<c@d> NOTIFY", "501 5.5.4")]);
}

#[test]
fn dsn_parameters_are_recorded() {
    let server = Server::builder().extension("DSN", true).start().unwrap();
    let mut peer = Peer::greeted(&server);
    peer.expect_all(&[
        ("MAIL FROM:<a@b> RET=HDRS ENVID=QQ", "250"),
        ("RCPT TO:<c@d> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;c@d", "250"),
        ("RCPT TO:<e@f>", "250"),
        ("DATA", "354"),
        (".", "250"),
    ]);
    let messages = server.messages();
    assert_eq!(messages[0].mail_parameters(), ["RET=HDRS", "ENVID=QQ"]);
    let [first, second] = messages[0].recipient_parameters() else { panic!("not two recipients") };
    assert_eq!(first[..], ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;c@d"]);
    assert!(second.is_empty());
}

#[test]
fn messages_over_the_size_limit_are_refused() {
    let server = Server::builder().size_limit(10).start().unwrap();
    let mut peer = Peer::greeted(&server);
    peer.expect_all(&[
        ("MAIL FROM:<a@b> SIZE=11", "552 5.3.4"),
        ("MAIL FROM:<a@b> SIZE=99999999999999999999", "552 5.3.4"),
        ("MAIL FROM:<a@b> SIZE=10", "250"),
        ("RSET", "250"),
    ]);
    assert_eq!(&peer.post("123456789\r\n")[..9], "552 5.3.4");
    assert_eq!(&peer.post(&"12345678\r\n".repeat(100_000))[..9], "552 5.3.4");
    // The dot that was added by dot-stuffing does not count.
    assert_eq!(peer.post("..2345678\r\n"), "250 2.0.0 Ok: queued as T1");
    assert_eq!(server.messages().len(), 1);
}

#[test]
fn a_size_limit_of_0_means_no_limit() {
    let server = Server::builder().size_limit(0).start().unwrap();
    let mut peer = Peer::greeted(&server);
    peer.expect_all(&[("MAIL FROM:<a@b> SIZE=99999999999999999999", "250"), ("RSET", "250")]);
    peer.post("Hi\r\n");
    assert_eq!(server.messages()[0].content(), b"Hi\r\n");
}

#[test]
fn a_large_message_arrives_intact() {
    let server = server();
    let content = ".. line\r\n".repeat(300_000);
    Peer::greeted(&server).post(&content);
    assert!(server.messages()[0].content() == content.replace("..", ".").as_bytes());
}

#[test]
fn a_login_is_recorded_with_the_message() {
    // \0user\0secret; user\0user\0secret
    for dialogue in [
        &[("AUTH PLAIN AHVzZXIAc2VjcmV0", "235 2.7.0")][..],
        &[("auth plain dXNlcgB1c2VyAHNlY3JldA==", "235")],
        &[("AUTH PLAIN", "334 "), ("AHVzZXIAc2VjcmV0", "235")],
        &[("AUTH LOGIN", "334 VXNlcm5hbWU6"), ("dXNlcg==", "334 UGFzc3dvcmQ6"), ("c2VjcmV0", "235")],
        &[("AUTH LOGIN dXNlcg==", "334 UGFzc3dvcmQ6"), ("c2VjcmV0", "235")],
    ] {
        let server = server_with_login();
        let mut peer = Peer::greeted(&server);
        peer.expect_all(dialogue);
        peer.expect_all(&[
            ("AUTH PLAIN AHVzZXIAc2VjcmV0", "503"),
            ("MAIL FROM:<a@b> AUTH=<>", "250"),
            ("RSET", "250"),
        ]);
        peer.post("Hi\r\n");
        assert_eq!(server.messages()[0].user(), Some("user"));
    }
}

#[test]
fn a_failed_login_may_be_followed_by_another() {
    let server = server_with_login();
    let mut peer = Peer::greeted(&server);
    peer.expect_all(&[
        ("AUTH PLAIN AHVzZXIAd3Jvbmc=", "535 5.7.8"),     // \0user\0wrong
        ("AUTH PLAIN eAB1c2VyAHNlY3JldA==", "535 5.7.8"), // x\0user\0secret
        ("AUTH LOGIN", "334"),
        ("AAAA", "334"),
        ("=", "501 5.5.2"),
        ("AUTH LOGIN =", "334"),
        ("", "535 5.7.8"),
        ("AUTH PLAIN =", "501 5.5.2"),
        ("AUTH PLAIN ?", "501 5.5.2"),
        ("AUTH PLAIN AHVzZXI=", "501 5.5.2"),
        ("AUTH PLAIN *", "501 5.7.0"),
        ("AUTH PLAIN", "334 "),
        ("*", "501 5.7.0"),
        ("AUTH LOGIN", "334"),
        ("dXNlcg==", "334"),
        ("*", "501 5.7.0"),
        ("AUTH XOAUTH2 AAAA", "504 5.5.4"),
        ("AUTH", "501 5.5.4"),
        ("AUTH PLAIN AHVzZXIAc2VjcmV0", "235"),
    ]);
}

#[test]
fn an_oauth_token_is_checked() {
    let server = Server::builder().oauth_token("a,b=c", "t").start().unwrap();
    assert!(Peer::connect(&server).ask("EHLO x").ends_with("\n250 AUTH OAUTHBEARER XOAUTH2"));
    let encoded = |text: &str| STANDARD.encode(text);
    let bearer = |text: &str| format!("AUTH OAUTHBEARER {}", encoded(text));
    let xoauth2 = |text: &str| format!("AUTH XOAUTH2 {}", encoded(text));
    // {"status":"invalid_token","schemes":"bearer"}
    let challenge = "334 eyJzdGF0dXMiOiJpbnZhbGlkX3Rva2VuIiwic2NoZW1lcyI6ImJlYXJlciJ9";
    let mut peer = Peer::greeted(&server);
    for (line, start) in [
        (bearer("n,a=a=2Cb=3Dc,\x01host=h\x01port=25\x01auth=Bearer wrong\x01\x01"), challenge),
        ("AQ==".into(), "535 5.7.8"),
        (bearer("n,a=x,\x01auth=Bearer t\x01\x01"), challenge),
        ("*".into(), "501 5.7.0"),
        (xoauth2("user=a,b=c\x01auth=Bearer wrong\x01\x01"), challenge),
        (String::new(), "535 5.7.8"),
        (bearer("n,a=a,b=3Dc,\x01auth=Bearer t\x01\x01"), "501 5.5.2"),
        (bearer("n,a=a=2Cb=3Dc,\x01auth=Basic t\x01\x01"), "501 5.5.2"),
        (bearer("n,a=a=2Cb=3Dc,\x01\x01"), "501 5.5.2"),
        (bearer("user=a,b=c\x01auth=Bearer t\x01\x01"), "501 5.5.2"),
        (xoauth2("n,a=a=2Cb=3Dc,\x01auth=Bearer t\x01\x01"), "501 5.5.2"),
        (xoauth2("user=a,b=c\x01auth=Bearer t\x01"), "501 5.5.2"),
        ("AUTH PLAIN AHVzZXIAc2VjcmV0".into(), "504 5.5.4"),
        ("AUTH OAUTHBEARER".into(), "334 "),
        (encoded("n,a=a=2Cb=3Dc,\x01host=h\x01port=25\x01auth=bearer t\x01\x01"), "235 2.7.0"),
    ] {
        peer.expect(&line, start);
    }
    Peer::greeted(&server).expect(&xoauth2("user=a,b=c\x01auth=Bearer t\x01\x01"), "235 2.7.0");

    let both = Server::builder().oauth_token("u", "t").credentials("u", "p").start().unwrap();
    assert!(Peer::connect(&both).ask("EHLO x").ends_with("\n250 AUTH PLAIN LOGIN OAUTHBEARER XOAUTH2"));
}

#[test]
fn a_token_from_a_callback_logs_in_and_is_asked_for_again_if_it_is_refused() {
    let server = Server::builder().oauth_token("user", "new").require_login(true).start().unwrap();
    let mut tokens = vec!["new", "old"];
    let client = crate::Client::from_url(&server.url()).unwrap();
    let client = client.oauth_token_with("user", move || Ok(tokens.pop().unwrap().into()));
    let mail = crate::Raw::bytes(crate::Envelope::new("a@b", ["c@d"]).unwrap(), "Hi\r\n");
    client.send(&mail).unwrap();
    server.client_builder().send(&mail).unwrap();
    let messages = server.messages();
    assert_eq!([messages[0].user(), messages[1].user()], [Some("user"); 2]);
}

#[test]
fn with_all_or_nothing_a_permanent_refusal_leaves_the_others_unsent_and_ends_the_attempts() {
    use crate::{Envelope, Mailer, Outcome, Raw, Retry, RetryPolicy, Retrying};
    let server = Server::builder().refuse_recipient("x@d", "550 5.1.1 No such user").start().unwrap();
    let mail = Raw::bytes(Envelope::new("a@b", ["c@d", "x@d"]).unwrap(), "Hi\r\n");
    let client = server.client_builder().all_or_nothing(true);

    let error = client.send(&mail).unwrap_err();
    let delivery = error.delivery().unwrap();
    let outcomes: Vec<_> = delivery.recipients().map(|recipient| recipient.outcome()).collect();
    assert_eq!(outcomes, [Outcome::NotSent, Outcome::Refused]);
    assert_eq!((error.retry(), error.is_permanent()), (Retry::Later, false));
    assert_eq!(delivery.retry_envelope().unwrap().recipients(), ["c@d"]);
    assert!(server.messages().is_empty());

    let policy = RetryPolicy::default().attempts(2).first_wait(Duration::ZERO);
    let mut retrying = Retrying::new(client, policy).before_wait(|wait| panic!("{}", wait.reason));
    assert_eq!(retrying.send(&mail).unwrap_err().retry(), Retry::Later);
    assert!(server.messages().is_empty());
}

#[test]
fn auth_is_refused_out_of_sequence() {
    let server = server_with_login();
    let mut peer = Peer::connect(&server);
    peer.expect_all(&[
        ("AUTH PLAIN AHVzZXIAc2VjcmV0", "502"),
        ("HELO x", "250"),
        ("AUTH PLAIN AHVzZXIAc2VjcmV0", "502"),
        ("EHLO x", "250"),
        ("MAIL FROM:<a@b>", "250"),
        ("AUTH PLAIN AHVzZXIAc2VjcmV0", "503 5.5.1"),
    ]);
    Peer::greeted(&self::server()).expect("AUTH PLAIN AHVzZXIAc2VjcmV0", "502 5.5.1");
}

#[test]
fn a_required_login_must_precede_mail() {
    let server = Server::builder().credentials("user", "secret").require_login(true).start().unwrap();
    let mut peer = Peer::greeted(&server);
    peer.expect_all(&[
        ("MAIL FROM:<a@b>", "530 5.7.0"),
        ("AUTH PLAIN AHVzZXIAc2VjcmV0", "235"),
        ("EHLO again.example", "250"),
        ("MAIL FROM:<a@b>", "250"),
    ]);
}

#[test]
fn configured_refusals_are_sent_as_given() {
    let server = Server::builder()
        .refuse_sender("Spam@Example.org", "550 5.7.1 not you")
        .refuse_sender("", "450 4.7.1 no bounces")
        .refuse_recipient("x@y", "550 5.1.1 no such user")
        .start()
        .unwrap();
    let mut peer = Peer::greeted(&server);
    assert_eq!(peer.ask("MAIL FROM:<SPAM@example.ORG>"), "550 5.7.1 not you");
    assert_eq!(peer.ask("MAIL FROM:<>"), "450 4.7.1 no bounces");
    peer.expect("MAIL FROM:<a@b>", "250");
    assert_eq!(peer.ask("RCPT TO:<X@Y>"), "550 5.1.1 no such user");
    peer.expect_all(&[("DATA", "554 5.5.1"), ("RCPT TO:<c@d>", "250"), ("DATA", "354"), (".", "250")]);
    assert_eq!(server.messages()[0].recipients(), ["c@d"]);
}

#[test]
fn a_refused_message_is_not_recorded() {
    let server = Server::builder().refuse_message("554 5.6.0 not that").start().unwrap();
    let mut peer = Peer::greeted(&server);
    assert_eq!(peer.post("Hi\r\n"), "554 5.6.0 not that");
    assert_eq!(peer.post("Hi\r\n"), "554 5.6.0 not that");
    assert!(server.messages().is_empty());
}

#[test]
fn a_configured_refusal_must_be_a_4yz_or_5yz_reply() {
    assert_eq!(refusal("450 4.2.0 Later"), "450 4.2.0 Later");
    for reply in ["", "550", "550 ", "550-No", "250 Ok", "5x0 No", "No", "550 No\r\n250 Ok", "600 No"] {
        assert!(std::panic::catch_unwind(|| refusal(reply)).is_err(), "{reply:?}");
    }
}

#[test]
fn commands_out_of_sequence_are_refused() {
    let server = server();
    let mut peer = Peer::connect(&server);
    peer.expect_all(&[
        ("MAIL FROM:<a@b>", "503 5.5.1"),
        ("EHLO x", "250"),
        ("RCPT TO:<c@d>", "503 5.5.1"),
        ("DATA", "503 5.5.1"),
        ("MAIL FROM:<a@b>", "250"),
        ("MAIL FROM:<a@b>", "503 5.5.1"),
        ("DATA", "554 5.5.1"),
        ("RSET", "250"),
        ("RCPT TO:<c@d>", "503"),
        ("MAIL FROM:<a@b>", "250"),
        ("EHLO x", "250"),
        ("RCPT TO:<c@d>", "503"),
        ("MAIL FROM:<a@b>", "250"),
        ("HELO x", "250"),
        ("RCPT TO:<c@d>", "503"),
    ]);
    peer.post("Hi\r\n");
    peer.expect("DATA", "503");
}

#[test]
fn simple_commands_are_answered() {
    let server = server();
    let mut peer = Peer::connect(&server);
    peer.expect_all(&[
        ("NOOP", "250 2.0.0"),
        ("noop please", "250"),
        ("VRFY postmaster", "252 2"),
        ("RSET  ", "250"),
        ("QUIT", "221 2.0.0"),
    ]);
    peer.is_hung_up_on();
}

#[test]
fn unknown_and_malformed_commands_are_refused() {
    let server = server();
    let mut peer = Peer::greeted(&server);
    for line in ["", " ", "FOO", "MAILFROM:<a@b>", "STARTTLS", "Ä"] {
        peer.expect(line, "500 5.5.1");
    }
    for line in ["EHLO", "HELO ", "VRFY", "DATA x", "QUIT now", "RSET x"] {
        peer.expect(line, "501 5.5.4");
    }
    for path in
        ["", "<a@b>", "FROM:", "FROM:a@b", "FROM: <a@b>", "FROM:<a@b", "FROM:<a@b>SIZE=1", "FROM:<a b@c>"]
    {
        peer.expect(&format!("MAIL {path}"), "501 5.5.4");
    }
    for path in ["FRÖM:<a@b>", "FROM:<<a@b>>", "FROM:<\"a@b>", "FROM:<\"a\\\">@b>", "TO:<a@b>"] {
        peer.expect(&format!("MAIL {path}"), "501 5.5.4");
    }
    peer.expect_all(&[("MAIL FROM:<a@b>", "250"), ("RCPT TO:<>", "501"), ("RCPT FROM:<c@d>", "501")]);
}

#[test]
fn non_ascii_addresses_require_smtputf8() {
    let server = server();
    let mut peer = Peer::greeted(&server);
    peer.expect_all(&[
        ("MAIL FROM:<jörg@b>", "553 5.6.7"),
        ("MAIL FROM:<a@b>", "250"),
        ("RCPT TO:<jörg@b>", "553 5.6.7"),
        ("RSET", "250"),
        ("MAIL FROM:<jörg@b> smtputf8", "250"),
        ("RCPT TO:<jörg@b>", "250"),
        ("DATA", "354"),
        (".", "250"),
    ]);
    assert_eq!(server.messages()[0].sender(), "jörg@b");
}

#[test]
fn lines_must_end_in_crlf_and_contain_no_control_characters() {
    let server = server();
    let mut peer = Peer::greeted(&server);
    for line in [&b"NOOP\n"[..], b"NO\0OP\r\n", b"NO\rOP\r\n", b"NOOP\r\r\n", b"NOOP \xff\r\n", b"\n"] {
        peer.send(line);
        assert_eq!(&peer.reply()[..9], "500 5.5.2", "{line:?}");
    }
    peer.expect("NOOP", "250");
}

#[test]
fn an_overlong_line_is_discarded_as_a_whole() {
    let server = server_with_login();
    let mut peer = Peer::greeted(&server);
    let long = |start: &str, octets: usize| format!("{start}{}", "x".repeat(octets - 2 - start.len()));
    for (line, start) in [
        (long("NOOP ", 4096), "250"),
        (long("NOOP ", 4097), "500 5.5.2"),
        (long("NOOP ", 100_000), "500 5.5.2"),
        (long("AUTH PLAIN ", 12288), "501"),
        (long("AUTH PLAIN ", 12289), "500 5.5.2"),
        (long("", 12290), "500 5.5.2"),
    ] {
        peer.expect(&line, start);
    }
    peer.expect_all(&[("AUTH PLAIN", "334"), (&long("", 12288), "501")]);
    peer.expect_all(&[("AUTH PLAIN", "334"), (&long("", 12289), "500 5.5.2"), ("NOOP", "250")]);
    assert!(server.dialogue().contains(&"C: (100000 octets)".to_owned()));
}

#[test]
fn a_line_may_arrive_one_octet_at_a_time() {
    let server = server();
    let mut peer = Peer::greeted(&server);
    for octet in b"NOOP\r\n" {
        peer.send([*octet]);
    }
    assert_eq!(peer.reply(), "250 2.0.0 Ok");
}

#[test]
fn pipelined_commands_are_answered_in_order() {
    let server = server();
    let mut peer = Peer::greeted(&server);
    peer.send("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nFOO\r\nDATA\r\nHi\r\n.\r\nRSET\r\nNOOP\r\nQUIT\r\n");
    for start in ["250 2.1.0", "250 2.1.5", "500", "354", "250 2.0.0 Ok: queued as T1", "250", "250", "221"] {
        let reply = peer.reply();
        assert!(reply.starts_with(start), "{reply}, not {start}");
    }
    assert_eq!(server.messages()[0].content(), b"Hi\r\n");
}

#[test]
fn bare_cr_and_lf_stay_in_the_content() {
    let server = server();
    Peer::greeted(&server).post("a\n.\nb\r.\rc\n.\r\nd\r\n");
    assert_eq!(server.messages()[0].content(), b"a\n.\nb\r.\rc\n.\r\nd\r\n");
}

#[test]
fn a_message_that_is_cut_off_is_not_recorded() {
    let server = server();
    let mut peer = Peer::greeted(&server);
    peer.expect_all(&[("MAIL FROM:<a@b>", "250"), ("RCPT TO:<c@d>", "250"), ("DATA", "354")]);
    peer.send("Hi\r\n.\r");
    peer.0.get_mut().shutdown(Shutdown::Write).unwrap();
    peer.is_hung_up_on();
    assert!(server.messages().is_empty());
}

#[test]
fn dropping_the_server_closes_all_connections() {
    let server = server();
    let addr = server.addr;
    let mut idle = Peer::connect(&server);
    let mut in_data = Peer::greeted(&server);
    in_data.expect_all(&[("MAIL FROM:<a@b>", "250"), ("RCPT TO:<c@d>", "250"), ("DATA", "354")]);
    drop(server);
    idle.is_hung_up_on();
    in_data.is_hung_up_on();
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn disconnecting_ends_all_open_connections_and_no_later_ones() {
    let server = server();
    let (mut idle, mut in_data) = (Peer::greeted(&server), Peer::greeted(&server));
    in_data.expect_all(&[("MAIL FROM:<a@b>", "250"), ("RCPT TO:<c@d>", "250"), ("DATA", "354")]);
    server.disconnect_all();
    idle.is_hung_up_on();
    in_data.is_hung_up_on();
    Peer::greeted(&server).post("Hi\r\n");
    assert_eq!(server.messages().len(), 1);
}

#[test]
fn dropping_the_server_does_not_wait_for_a_client_that_does_not_read() {
    let server = server();
    let stream = Peer::greeted(&server).0.into_inner();
    stream.set_nonblocking(true).unwrap();
    let noops = "NOOP\r\n".repeat(10_000);
    // The replies fill one direction, the server stops reading, and then the other direction fills up.
    while (&stream).write(noops.as_bytes()).is_ok() {}
    drop(server);
}

#[test]
fn on_line_may_drop_the_server() {
    let slot = Arc::new(Mutex::new(None::<Server>));
    let (dropped, is_dropped) = mpsc::channel();
    let server = Server::builder().on_line({
        let slot = Arc::clone(&slot);
        move |line| {
            if line == "C: DATA" {
                drop(slot.lock().unwrap().take());
                dropped.send(()).unwrap();
            }
        }
    });
    let server = server.start().unwrap();
    let mut peer = Peer::greeted(&server);
    *slot.lock().unwrap() = Some(server);
    peer.send("DATA\r\n");
    is_dropped.recv_timeout(PATIENCE).unwrap();
    peer.is_hung_up_on();
}

#[test]
fn a_panic_in_on_line_ends_only_its_connection() {
    let server = Server::builder().on_line(|line| assert_ne!(line, "C: NOOP")).start().unwrap();
    let mut peer = Peer::greeted(&server);
    peer.send("NOOP\r\n");
    peer.is_hung_up_on();
    Peer::greeted(&server).post("Hi\r\n");
    assert_eq!(server.messages().len(), 1);
}

#[test]
fn debug_hides_the_password_and_shows_readable_content() {
    let builder = Server::builder().credentials("user", "secret");
    let shown = format!("{builder:?}");
    assert!(shown.contains("user") && !shown.contains("secret"), "{shown}");
    let server = server();
    Peer::greeted(&server).post("Hi\r\n");
    assert!(format!("{:?}", server.messages()).contains(r#"content: "Hi\r\n""#));
}

#[test]
fn no_input_makes_the_test_server_panic() {
    const WORDS: [&[u8]; 24] = [
        b"EHLO x",
        b"HELO",
        b"MAIL FROM:<",
        b"RCPT TO:<",
        b"a@b",
        b">",
        b" SIZE=",
        b"99999999999999999999",
        b"DATA\r\n",
        b"\r\n",
        b"\r\n",
        b"\r",
        b"\n",
        b".",
        b"\"",
        b"\\",
        b"\xff",
        b"\xc3\xa4",
        b"\0",
        b"AUTH PLAIN ",
        b"AUTH LOGIN\r\n",
        b"=",
        b"AAAA",
        b" BODY=",
    ];
    let server = Server::builder().credentials("user", "secret").size_limit(20).start().unwrap();
    let mut random = 1_u64;
    for _ in 0..300 {
        let mut peer = Peer::greeted(&server);
        let mut input = Vec::new();
        for _ in 0..60 {
            // xorshift64
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            input.extend_from_slice(WORDS[(random % 24) as usize]);
        }
        // This ends the session in any state. A thread that had panicked would not send the 221.
        input.extend_from_slice(b"\r\n.\r\n*\r\nQUIT\r\n");
        peer.send(input);
        let mut replies = String::new();
        peer.0.read_to_string(&mut replies).unwrap();
        assert!(replies.ends_with("221 2.0.0 Bye\r\n"), "{replies}");
    }
}
