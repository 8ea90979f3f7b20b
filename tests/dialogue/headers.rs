//! Messages whose headers alone name their sender and recipients: what of them is sent.

use postino::{
    Error, Mail,
    message::{Body, without_bcc},
};

use super::*;

/// A message as it is passed to `sendmail -t`.
struct Typed(String);

impl Typed {
    fn new(headers: &str) -> Typed {
        Typed(format!("{headers}\n\nHello\n"))
    }
}

impl Mail for Typed {
    fn envelope(&self) -> Result<Envelope, Error> {
        Envelope::from_headers(self.0.as_bytes())
    }

    fn body(&self) -> Result<Body<'_>, Error> {
        Ok(without_bcc(self.0.as_bytes()).into())
    }
}

/// Returns what the server receives for a message with these headers: the paths of MAIL and RCPT, and the content.
#[track_caller]
fn received(headers: &str) -> (Vec<String>, String) {
    received_from(&Typed::new(headers))
}

#[track_caller]
fn received_from(mail: &dyn Mail) -> (Vec<String>, String) {
    let server = Server::running(|peer| {
        peer.play("-- hello");
        while peer.line().unwrap() != b"DATA\r\n" {
            peer.say("250 ok\r\n");
        }
        peer.play("S: 354 go on\n-- body\nS: 250 ok");
    });
    let mut client = connect(&server);
    accept(&mut client, mail);
    drop(client);
    let received = String::from_utf8(server.finish()).unwrap();
    let (envelope, content) = received.split_once("DATA\r\n").unwrap();
    let envelope = envelope.lines().skip(1).map(str::to_owned).collect(); // after EHLO
    (envelope, content.to_owned())
}

/// Asserts that nothing of the message is sent, and that the connection can still be used.
#[track_caller]
fn refused(mail: &dyn Mail) -> Error {
    let server = Server::playing("-- hello\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let error = send_error(&mut client, mail);
    assert_open(&mut client);
    error
}

// Behaviour 79.
#[test]
fn recipients_are_sent_in_the_order_to_cc_bcc_with_duplicates() {
    let (envelope, _) = received("From: a@x\nBcc: carol@x\nCc: bob@x, carol@x\nTo: Ted <ted@x>");
    assert_eq!(
        envelope,
        ["MAIL FROM:<a@x>", "RCPT TO:<ted@x>", "RCPT TO:<bob@x>", "RCPT TO:<carol@x>", "RCPT TO:<carol@x>"]
    );
}

// Behaviour 80, threat 45.
#[test]
fn bcc_is_not_sent_and_stays_in_the_callers_message() {
    let mail = Typed::new("From: a@x\nBcc: carol@x,\n dave@x\nTo: bob@x\nResent-Bcc: erin@x\nSubject: Hi");
    let (envelope, content) = received_from(&mail);
    assert_eq!(envelope, ["MAIL FROM:<a@x>", "RCPT TO:<bob@x>", "RCPT TO:<carol@x>", "RCPT TO:<dave@x>"]);
    assert_eq!(content, "From: a@x\r\nTo: bob@x\r\nSubject: Hi\r\n\r\nHello\r\n.\r\n");
    assert!(mail.0.contains("Bcc: carol@x,\n dave@x\n") && mail.0.contains("Resent-Bcc: erin@x\n"));
}

// Behaviour 81.
#[test]
fn a_resent_date_makes_the_resent_headers_apply() {
    let resent = "Resent-Date: now\nResent-From: f@x\nResent-Sender: s@x\nResent-To: t@x\nResent-Cc: c@x\n\
        Resent-Bcc: b@x\nFrom: a@x\nTo: bob@x";
    let (envelope, content) = received(resent);
    assert_eq!(envelope, ["MAIL FROM:<s@x>", "RCPT TO:<t@x>", "RCPT TO:<c@x>", "RCPT TO:<b@x>"]);
    assert!(!content.contains("Bcc"), "{content}");
}

// Behaviour 81.
#[test]
fn two_resent_dates_are_an_error_before_mail() {
    let twice = "Resent-Date: now\nResent-From: f@x\nResent-To: t@x\nResent-Date: then\nFrom: a@x\nTo: b@x";
    assert!(refused(&Typed::new(twice)).to_string().contains("resent more than once"));
}

// Behaviour 82.
#[test]
fn sender_takes_precedence_over_the_first_of_several_in_from() {
    let sender = |headers: &str| received(&format!("{headers}\nTo: bob@x")).0.remove(0);
    assert_eq!(sender("From: a@x\nSender: s@x"), "MAIL FROM:<s@x>");
    assert_eq!(sender("From: Al <a@x>, b@x"), "MAIL FROM:<a@x>");
}

// Behaviour 82.
#[test]
fn a_missing_sender_or_recipient_is_an_error_before_mail() {
    for from in ["From: nobody:;", "From:", "Subject: Hi"] {
        assert!(refused(&Typed::new(&format!("{from}\nTo: bob@x"))).to_string().contains("From"), "{from}");
    }
    for to in ["To: nobody:;", "To:\nCc: ,", "Subject: Hi"] {
        let error = refused(&Typed::new(&format!("From: a@x\n{to}")));
        assert!(matches!(error, Error::NoRecipients), "{to}: {error:?}");
    }
}

// Behaviour 83, threat 45.
#[test]
fn an_explicit_envelope_takes_precedence_over_the_headers() {
    let text = "Sender: s@x\nFrom: a@x\nTo: t@x\nCc: c@x\nBcc: b@x\n\nHello\n";
    let (envelope, content) = received_from(&Raw::bytes(envelope(&["bob@example.org"]), text));
    assert_eq!(envelope, ["MAIL FROM:<alice@example.org>", "RCPT TO:<bob@example.org>"]);
    assert!(content.contains("Bcc: b@x\r\n"), "what comes with an envelope is not altered: {content}");
}

// Behaviour 86, threat 25.
#[test]
fn commands_in_a_from_do_not_reach_the_wire() {
    for from in [
        "a@x>\r\nRCPT TO:<evil@x>",
        "a@x>\r\n RCPT TO:<evil@x>",
        "<a@x\r\n RCPT TO:evil@x>",
        "a@x\n\tDATA",
        "a@x\rDATA\r",
    ] {
        let mail = Typed::new(&format!("From: {from}\r\nTo: bob@x"));
        match mail.envelope() {
            Ok(_) => assert_eq!(received_from(&mail).0, ["MAIL FROM:<a@x>", "RCPT TO:<bob@x>"], "{from:?}"),
            Err(_) => drop(refused(&mail)),
        }
    }
}

// Behaviour 87.
#[test]
fn an_unsafe_address_anywhere_is_an_error_before_mail() {
    for address in ["<a b@x>", "a\0@x", "<a<b@x>", "<a>b@x>", "a\"b@x"] {
        for headers in [
            format!("From: {address}\nTo: bob@x"),
            format!("From: a@x\nTo: bob@x, {address}"),
            format!("From: a@x\nTo: bob@x\nCc: {address}"),
            format!("From: a@x\nTo: bob@x\nBcc: carol@x, {address}"),
        ] {
            assert!(refused(&Typed::new(&headers)).is_permanent(), "{headers:?}");
        }
    }
    for address in ["a b@x", "a\r\nb@x", "a<b@x", "a>b@x", "a\"b@x"] {
        assert!(matches!(Envelope::new(address, ["bob@x"]), Err(Error::Address { .. })), "{address:?}");
        assert!(
            matches!(Envelope::new("a@x", ["bob@x", address]), Err(Error::Address { .. })),
            "{address:?}"
        );
    }
}
