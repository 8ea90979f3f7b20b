//! The server for users' tests (`postino::testing`), as their tests use it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use postino::{
    Error, Message, Outcome, Phase,
    message::Attachment,
    testing::{Fault, Server, ServerBuilder, Step},
};

use super::{cause, mail, mail_to};
use crate::{block_on, client_of};

fn start(builder: ServerBuilder) -> Server {
    builder.start().unwrap()
}

/// The step, the code of the refusal, and where the client notices it.
const STEPS: [(Step, &str, Phase); 7] = [
    (Step::Greeting, "421 4.3.2 not now", Phase::Greeting),
    (Step::Greeting, "554 5.3.2 never", Phase::Greeting),
    (Step::Hello, "450 4.3.2 not now", Phase::Hello),
    (Step::Mail, "451 4.3.0 not now", Phase::Mail),
    (Step::Rcpt, "452 4.2.2 full", Phase::Recipient),
    (Step::Data, "554 5.5.0 never", Phase::Data),
    (Step::EndOfData, "550 5.7.1 spam", Phase::End),
];

#[test]
fn the_server_refuses_at_any_step_until_the_fault_is_removed() {
    let server = start(Server::builder());
    for (step, reply, expected) in STEPS {
        server.inject(step.clone(), Fault::reply(reply));
        for _ in 0..2 {
            let error = block_on(client_of(&server).send(&mail())).unwrap_err();
            assert_eq!(error.reply().unwrap().to_string(), reply);
            let inner = if error.delivery().is_some() { cause(&error) } else { &error };
            assert!(matches!(inner, Error::Refused { phase, .. } if *phase == expected), "{step:?}: {inner}");
        }
        server.remove_fault(step);
    }
    server.expect_messages(0);
    block_on(client_of(&server).send(&mail())).unwrap();
    server.expect_message();
}

#[test]
fn the_server_refuses_a_login_as_often_as_wanted() {
    let server = start(Server::builder().credentials("user", "secret").require_login(true));
    // PLAIN, and then LOGIN.
    server.inject(Step::Auth, Fault::reply("454 4.7.0 not now").times(2));
    let error = block_on(client_of(&server).send(&mail())).unwrap_err();
    assert_eq!(error.reply().unwrap().code(), 454);
    assert!(matches!(error, Error::Auth { .. }), "{error}");
    block_on(client_of(&server).send(&mail())).unwrap();
    assert_eq!(server.expect_message().user(), Some("user"));
    // A failure does not show the password, `c2VjcmV0` in base64.
    let text = failure(|| drop(server.expect_messages(0)));
    assert!(text.contains("C: AUTH PLAIN ***") && !text.contains("c2VjcmV0"), "{text}");
}

#[test]
fn a_connection_is_dropped_at_any_step() {
    let server = start(Server::builder());
    for (step, _, _) in STEPS {
        server.inject(step.clone(), Fault::disconnect());
        let error = block_on(client_of(&server).send(&mail())).unwrap_err();
        assert_eq!(error.in_doubt(), step == Step::EndOfData, "{step:?}: {error}");
        assert!(error.reply().is_none(), "{error}");
        server.clear_faults();
    }
    server.expect_messages(0);
}

#[test]
fn a_lost_reply_to_the_end_of_a_message_leaves_it_in_doubt_although_it_has_arrived() {
    let server = start(Server::builder());
    server.inject(Step::EndOfData, Fault::lose_reply());
    let error = block_on(client_of(&server).send(&mail())).unwrap_err();
    assert!(error.in_doubt(), "{error}");
    server.expect_message();
    for step in [Step::Greeting, Step::Hello, Step::Mail, Step::Rcpt, Step::Data] {
        server.clear_faults();
        server.inject(step.clone(), Fault::lose_reply());
        let error = block_on(client_of(&server).send(&mail())).unwrap_err();
        assert!(!error.in_doubt() && error.reply().is_none(), "{step:?}: {error}");
    }
    server.expect_message();
}

#[test]
fn one_recipient_is_refused_and_the_others_get_the_message() {
    let server = start(Server::builder());
    server.inject(Step::rcpt_to("BOB@example.org"), Fault::reply("550 5.1.1 no such user"));
    let mail = mail_to(&["bob@example.org", "carol@example.org"]);
    let delivery = block_on(client_of(&server).send(&mail)).unwrap();
    let outcomes: Vec<_> = delivery.recipients().map(|recipient| recipient.outcome()).collect();
    assert_eq!(outcomes, [Outcome::Refused, Outcome::Accepted]);
    server.expect_message().assert_recipients(["carol@example.org"]);
}

#[test]
fn a_delay_lasts_as_long_as_it_says_and_can_exceed_the_limit_of_the_client() {
    let server = start(Server::builder());
    let delay = Duration::from_millis(50);
    server.inject(Step::Mail, Fault::delay(delay).once().then(Fault::delay(Duration::MAX)));
    let begun = Instant::now();
    block_on(client_of(&server).send(&mail())).unwrap();
    assert!(begun.elapsed() >= delay);
    let impatient = client_of(&server).command_timeout(Duration::from_millis(50));
    let error = block_on(impatient.send(&mail())).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    server.expect_message();
    // Dropping the server ends the delay of the second connection.
    drop(server);
}

#[test]
fn replies_before_a_delay_are_not_delayed() {
    let server = start(Server::builder());
    server.inject(Step::Data, Fault::delay(Duration::MAX));
    // Long enough for the replies before that, also on a busy machine.
    let impatient = client_of(&server).command_timeout(Duration::from_secs(1));
    let error = block_on(impatient.send(&mail())).unwrap_err();
    // MAIL and RCPT are sent together with DATA, and are answered.
    assert!(matches!(cause(&error), Error::Timeout(Phase::Data)), "{error}");
}

#[test]
fn an_open_session_notices_a_new_fault() {
    let server = start(Server::builder());
    let mut client = block_on(client_of(&server).connect()).unwrap();
    block_on(client.send(&mail())).unwrap();
    for step in [Step::Noop, Step::Rset] {
        server.inject(step, Fault::reply("450 4.0.0 no").after(Duration::from_millis(1)).once());
    }
    assert!(block_on(client.noop()).is_err() && block_on(client.rset()).is_err());
    block_on(client.noop()).unwrap();
    // The client connects again, once.
    server.inject(Step::Mail, Fault::reply("421 4.3.2 shutting down").times(2));
    assert_eq!(block_on(client.send(&mail())).unwrap_err().reply().unwrap().code(), 421);
    assert!(!client.is_connected());
}

#[test]
fn clearing_forgets_messages_and_lines_but_not_faults() {
    let server = start(Server::builder().inject(Step::Noop, Fault::reply("450 4.0.0 no")));
    let mut client = block_on(client_of(&server).connect()).unwrap();
    block_on(client.send(&mail())).unwrap();
    server.clear();
    assert!(server.messages().is_empty() && server.dialogue().is_empty());
    assert!(block_on(client.noop()).is_err());
    let delivery = block_on(client.send(&mail())).unwrap();
    assert!(delivery.reply().unwrap().text().ends_with("queued as T2"));
    server.expect_message();
    assert_eq!(server.dialogue()[..2], ["C: NOOP", "S: 450 4.0.0 no"]);
}

fn composed() -> Message {
    Message::builder()
        .from(("Müller, Jörg", "joerg@example.org"))
        .to("Bob <bob@example.net>, carol@example.com")
        .cc(("Δημήτρης", "dimitris@example.com"))
        .bcc("secret@example.com")
        .reply_to("office@example.org")
        .subject("Grüße aus Köln, and a subject that is so long that it has to be folded — more than once, even 📮")
        .text("Hello, Bob!\n\n.\nÜber allen Gipfeln\n")
        .html("<p>Hello, <b>Bob</b>! <img src=\"cid:logo\"></p>\n")
        .attach(Attachment::bytes("logo.png", [0, 1, 255]).content_id("logo"))
        .attach(Attachment::bytes("Menü für die nächste Woche, und für die übernächste Woche.txt", "Pizza\r\n"))
        .attach(Attachment::bytes("a \"b\";c.bin", vec![13; 10_000]))
        .build()
        .unwrap()
}

#[test]
fn a_composed_message_is_decoded_whatever_the_server_offers() {
    for (eight_bit, utf8) in [(true, true), (false, false)] {
        let server = start(Server::builder().extension("8BITMIME", eight_bit).extension("SMTPUTF8", utf8));
        block_on(client_of(&server).send(&composed())).unwrap();
        let message = server.expect_message();
        let subject = "Grüße aus Köln, and a subject that is so long that it has to be folded — more than once, even 📮";
        message
            .assert_subject(subject)
            .assert_from("\"Müller, Jörg\" <joerg@example.org>")
            .assert_to(["Bob <bob@example.net>", "carol@example.com"])
            .assert_cc(["Δημήτρης <dimitris@example.com>"])
            .assert_header("mime-version", "1.0")
            .assert_text_contains("Hello, Bob!")
            .assert_html_contains("<b>Bob</b>")
            .assert_recipients([
                "bob@example.net",
                "carol@example.com",
                "dimitris@example.com",
                "secret@example.com",
            ]);
        assert_eq!(message.reply_to(), ["office@example.org"]);
        assert_eq!(message.text(), Some("Hello, Bob!\n\n.\nÜber allen Gipfeln\n"));
        assert_eq!(message.html(), Some("<p>Hello, <b>Bob</b>! <img src=\"cid:logo\"></p>\n"));
        let [logo, menu, binary] = message.attachments() else { panic!("{message}") };
        assert_eq!(
            (logo.name(), logo.media_type(), logo.content()),
            (Some("logo.png"), "image/png", &[0, 1, 255][..])
        );
        assert_eq!(logo.content_id(), Some("logo"));
        assert!(logo.is_inline() && !menu.is_inline());
        assert_eq!(menu.name(), Some("Menü für die nächste Woche, und für die übernächste Woche.txt"));
        assert_eq!(menu.content(), b"Pizza\r\n");
        assert_eq!(message.assert_attachment("a \"b\";c.bin"), binary);
        assert_eq!(binary.content(), vec![13; 10_000]);
        assert_eq!(message.headers("X-Other").count(), 0);
    }
}

#[test]
fn the_decoder_agrees_with_mail_parser() {
    let server = start(Server::builder().extension("8BITMIME", false));
    block_on(client_of(&server).send(&composed())).unwrap();
    let message = server.expect_message();
    let parsed = mail_parser::MessageParser::default().parse(message.content()).unwrap();
    assert_eq!(message.subject(), parsed.subject());
    assert_eq!(message.text().unwrap(), parsed.body_text(0).unwrap().replace("\r\n", "\n"));
    assert_eq!(message.html().unwrap(), parsed.body_html(0).unwrap().replace("\r\n", "\n"));
    let from = parsed.from().unwrap().first().unwrap();
    assert_eq!((from.name(), from.address()), (Some("Müller, Jörg"), Some("joerg@example.org")));
    let theirs: Vec<_> = parsed.attachments().map(|part| part.contents().to_vec()).collect();
    let ours: Vec<_> = message.attachments().iter().map(|part| part.content().to_vec()).collect();
    assert_eq!(ours, theirs);
}

/// Returns the text of the panic.
fn failure(run: impl FnOnce()) -> String {
    *catch_unwind(AssertUnwindSafe(run)).unwrap_err().downcast::<String>().unwrap()
}

#[test]
fn failed_assertions_show_the_message() {
    let server = start(Server::builder());
    block_on(client_of(&server).send(&composed())).unwrap();
    let message = server.expect_message();
    let text = failure(|| drop(message.assert_to(["dave@example.com"]).clone()));
    for expected in [
        "unexpected To\n",
        "  expected: [\"dave@example.com\"]\n",
        "     found: [\"Bob <bob@example.net>\", \"carol@example.com\"]\n",
        "  | (envelope: from <joerg@example.org> to bob@example.net, ",
        "  | From: \"Müller, Jörg\" <joerg@example.org>\n",
        "  | Cc: Δημήτρης <dimitris@example.com>\n",
        "  | (attachment \"logo.png\", image/png, 3 octets)\n",
        "  | Hello, Bob!\n",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    for (expected, run) in [
        ("unexpected subject", &(|| drop(message.assert_subject("x").clone())) as &dyn Fn()),
        ("unexpected From", &|| drop(message.assert_from("joerg@example.org").clone())),
        ("unexpected Cc", &|| drop(message.assert_cc(["a", "b"]).clone())),
        ("unexpected recipients", &|| drop(message.assert_recipients(["a"]).clone())),
        ("header field X-Other", &|| drop(message.assert_header("X-Other", "x").clone())),
        ("plain text", &|| drop(message.assert_text_contains("x-y-z").clone())),
        ("HTML text", &|| drop(message.assert_html_contains("x-y-z").clone())),
        ("no attachment \"x\"", &|| drop(message.assert_attachment("x").clone())),
    ] {
        let text = failure(run);
        assert!(text.contains(expected) && text.contains("  | Subject: Gr"), "{text}");
    }
}

#[test]
fn a_missing_message_fails_with_the_messages_and_the_dialogue() {
    let server = start(Server::builder().wait_limit(Duration::from_millis(10)));
    let text = failure(|| drop(server.expect_message()));
    assert!(
        text.contains("within 10ms, but the server has accepted none\nNo client has connected."),
        "{text}"
    );
    block_on(client_of(&server).send(&composed())).unwrap();
    assert_eq!(server.wait_for_messages(2).len(), 1);
    let text = failure(|| drop(server.expect_messages(2)));
    for expected in [
        "expected 2 messages within 10ms, but the server has accepted 1:\n  1: \"Grüße",
        "from <joerg@example.org> to bob@example.net, ",
        "\nThe last lines of the dialogue:\n",
        "\n  S: 250 2.0.0 Ok: queued as T1",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    // One message too many is a failure, too.
    assert!(failure(|| drop(server.expect_messages(0))).contains("expected 0 messages, but"));
}

#[cfg(all(feature = "testing-tls", any(feature = "native-tls", feature = "rustls")))]
mod with_tls {
    use postino::{Security, TlsBackend};

    use super::*;

    fn backends() -> impl Iterator<Item = TlsBackend> {
        [TlsBackend::NativeTls, TlsBackend::Rustls].into_iter().filter(|backend| backend.is_available())
    }

    #[test]
    fn messages_arrive_over_tls_with_any_library() {
        for backend in backends() {
            for builder in [Server::builder().starttls(), Server::builder().implicit_tls()] {
                let server = start(builder.credentials("user", "secret").require_tls(true));
                let mut client = block_on(client_of(&server).tls_backend(backend).connect()).unwrap();
                assert!(client.is_encrypted());
                for _ in 0..2 {
                    block_on(client.send(&mail())).unwrap();
                }
                block_on(client.quit()).unwrap();
                let messages = server.expect_messages(2);
                assert!(messages[1].is_encrypted() && messages[1].user() == Some("user"));
            }
        }
    }

    #[test]
    fn only_a_client_that_trusts_the_certificate_can_connect() {
        let server = start(Server::builder().starttls());
        let other = start(Server::builder().starttls());
        for backend in backends() {
            let builder = crate::Client::from_url(&server.url()).unwrap().tls_backend(backend);
            let trusting = |pem: &str| builder.clone().system_roots(false).ca_certificate(pem);
            let error = block_on(trusting(other.certificate_pem()).connect()).unwrap_err();
            assert!(matches!(error, Error::Certificate { .. }), "{error}");
            let error = block_on(trusting(server.certificate_pem()).tls_name("mail.example").connect());
            assert!(matches!(error.unwrap_err(), Error::Certificate { .. }));
            for name in ["localhost", "127.0.0.1", "::1"] {
                block_on(trusting(server.certificate_pem()).tls_name(name).connect()).unwrap();
            }
        }
    }

    #[test]
    fn starttls_is_refused_dropped_and_required_as_wanted() {
        let server = start(Server::builder().starttls().require_tls(true));
        server.inject(
            Step::StartTls,
            Fault::reply("454 4.7.0 TLS not available").once().then(Fault::disconnect().once()),
        );
        let error = block_on(client_of(&server).connect()).unwrap_err();
        assert_eq!(error.reply().unwrap().code(), 454);
        assert!(block_on(client_of(&server).connect()).unwrap_err().reply().is_none());
        let plain = client_of(&server).security(Security::Plaintext);
        let error = block_on(plain.send(&mail())).unwrap_err();
        assert_eq!(error.reply().unwrap().code(), 530);
        block_on(client_of(&server).send(&mail())).unwrap();
        assert!(server.expect_message().is_encrypted());
    }

    #[test]
    fn faults_apply_inside_tls_too() {
        for builder in [Server::builder().starttls(), Server::builder().implicit_tls()] {
            let server = start(builder);
            server.inject(
                Step::EndOfData,
                Fault::lose_reply().once().then(Fault::reply("451 4.3.0 no").once()),
            );
            assert!(block_on(client_of(&server).send(&mail())).unwrap_err().in_doubt());
            assert_eq!(block_on(client_of(&server).send(&mail())).unwrap_err().reply().unwrap().code(), 451);
            server.expect_message();
        }
    }

    #[test]
    fn the_dialogue_shows_whether_tls_was_established() {
        let server = start(Server::builder().starttls());
        assert!(server.url().ends_with("?tls=required"));
        block_on(client_of(&server).send(&mail())).unwrap();
        let dialogue = server.dialogue();
        let at = dialogue.iter().position(|line| line == "S: (TLS established)").unwrap();
        assert_eq!(dialogue[at - 2..at], ["C: STARTTLS", "S: 220 2.0.0 Ready to start TLS"]);
        assert!(dialogue[at + 1].starts_with("C: EHLO "));
        server.clear();
        let untrusting = client_of(&server).tls_name("mail.example");
        assert!(block_on(untrusting.connect()).is_err());
        // The server notices the failure a little later.
        let until = Instant::now() + crate::support::PATIENCE;
        while !server.dialogue().iter().any(|line| line.starts_with("S: (TLS ")) {
            assert!(Instant::now() < until, "{:?}", server.dialogue());
            std::thread::sleep(Duration::from_millis(5));
        }
        let without_tls = start(Server::builder());
        assert!(failure(|| drop(without_tls.certificate_pem().to_owned())).contains("no TLS"));
    }
}
