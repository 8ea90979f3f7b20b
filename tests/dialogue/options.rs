//! Parameters of MAIL and RCPT: on the wire, and refused if the server does not offer them.

use std::time::Duration;

use postino::{Address, Envelope, Error, MailOption, OnLate, Phase, Raw, RcptOption, Ret};

use super::*;

fn hello(envelope: Envelope) -> Raw<'static> {
    Raw::bytes(envelope, b"Hello\r\n")
}

fn bob() -> Envelope {
    envelope(&["bob@example.org"])
}

// Behaviour 73.
#[test]
fn size_comes_first_and_options_come_before_smtputf8_and_body() {
    let server = Server::playing(
        "-- hello SIZE, 8BITMIME, SMTPUTF8, DSN, MT-PRIORITY, AUTH PLAIN
         C: MAIL FROM:<alice@example.org> SIZE=8 RET=HDRS ENVID=a+20b MT-PRIORITY=3 AUTH=<> X-OWN=1 SMTPUTF8 BODY=8BITMIME
         S: 250 ok
         C: RCPT TO:<b\u{f6}b@example.org> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;bob@example.net
         S: 250 ok
         C: RCPT TO:<carol@example.org> NOTIFY=NEVER X-OWN
         S: 250 ok
         C: DATA
         S: 354 go on
         C: Hell\u{f6}
         C: .
         S: 250 ok",
    );
    let report = RcptOption::Notify { success: true, failure: false, delay: true };
    let original = RcptOption::OriginalRecipient(Address::new("bob@example.net").unwrap());
    let envelope = envelope(&["b\u{f6}b@example.org", "carol@example.org"])
        .option(MailOption::Ret(Ret::Headers))
        .and_then(|e| e.option(MailOption::EnvelopeId("a b".into())))
        .and_then(|e| e.option(MailOption::Priority(3)))
        .and_then(|e| e.option(MailOption::Auth(None)))
        .and_then(|e| e.option(MailOption::Raw("X-OWN=1".into())))
        .and_then(|e| e.recipient_option(0, report))
        .and_then(|e| e.recipient_option(0, original))
        .and_then(|e| e.recipient_option(1, RcptOption::NotifyNever))
        .and_then(|e| e.recipient_option(1, RcptOption::Raw("X-OWN".into())))
        .unwrap();
    accept(&mut connect(&server), &Raw::bytes(envelope, "Hell\u{f6}\r\n"));
}

#[test]
fn options_that_the_server_does_not_offer_are_refused_before_anything_is_sent() {
    let server = Server::playing("-- hello SIZE, 8BITMIME, SMTPUTF8\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let late = OnLate::Return;
    for (option, keyword) in [
        (MailOption::Ret(Ret::Full), "DSN"),
        (MailOption::EnvelopeId("x".into()), "DSN"),
        (MailOption::RequireTls, "REQUIRETLS"),
        (MailOption::Priority(0), "MT-PRIORITY"),
        (MailOption::DeliverBy { seconds: 60, late, trace: false }, "DELIVERBY"),
        (MailOption::HoldFor(Duration::from_secs(60)), "FUTURERELEASE"),
        (MailOption::HoldUntil("2027-01-31T08:00:00Z".into()), "FUTURERELEASE"),
        (MailOption::Auth(None), "AUTH"),
        (MailOption::Xverp(None), "XVERP"),
    ] {
        let mail = hello(bob().option(option).unwrap());
        assert!(matches!(send_error(&mut client, &mail), Error::Unsupported(what) if what == keyword));
        assert_eq!(outcomes(&send_all(&mut client, vec![mail])), "E");
    }
    let mail = hello(bob().recipient_options(RcptOption::NotifyNever).unwrap());
    assert!(matches!(send_error(&mut client, &mail), Error::Unsupported("DSN")));
    assert_open(&mut client);
}

#[test]
fn options_that_contradict_each_other_are_refused_before_anything_is_sent() {
    let server = Server::playing(
        "-- hello FUTURERELEASE 3600 2027-01-31T08:00:00Z, DSN
         C: NOOP
         S: 250 ok
         C: MAIL FROM:<alice@example.org> HOLDFOR=60
         S: 250 ok
         C: RCPT TO:<bob@example.org> NOTIFY=NEVER
         S: 250 ok
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok",
    );
    let mut client = connect(&server);
    let (hold_for, hold_until) =
        (MailOption::HoldFor(Duration::from_secs(60)), MailOption::HoldUntil("2027-01-31T08:00:00Z".into()));
    let both = |first: &MailOption, second: &MailOption| {
        bob().option(first.clone()).and_then(|envelope| envelope.option(second.clone()))
    };
    let exclude = "HOLDFOR and HOLDUNTIL are mutually exclusive";
    for (envelope, why) in [
        (both(&hold_for, &hold_until), exclude),
        (both(&hold_until, &hold_for), exclude),
        (both(&MailOption::Raw("HOLDFOR=60".into()), &hold_until), exclude),
        (both(&hold_for, &MailOption::Raw("holdfor=61".into())), "holdfor is set twice"),
        (
            bob()
                .recipient_options(RcptOption::NotifyNever)
                .and_then(|e| e.recipient_options(RcptOption::Raw("NOTIFY=SUCCESS".into()))),
            "NOTIFY is set twice",
        ),
    ] {
        let result = envelope.and_then(|envelope| block_on(client.send(&hello(envelope))));
        assert!(matches!(&result, Err(Error::Config(text)) if text.ends_with(why)), "{result:?}");
    }
    assert_open(&mut client);
    // A later option of the same kind replaces the earlier one.
    let report = RcptOption::Notify { success: true, failure: false, delay: false };
    let envelope = both(&MailOption::HoldFor(Duration::from_secs(3)), &hold_for)
        .and_then(|e| e.recipient_options(report))
        .and_then(|e| e.recipient_options(RcptOption::NotifyNever));
    accept(&mut client, &hello(envelope.unwrap()));
}

// Threat 19.
#[test]
fn requiretls_is_refused_on_a_connection_without_tls() {
    let server = Server::playing("-- hello REQUIRETLS\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let mail = hello(bob().option(MailOption::RequireTls).unwrap());
    assert!(
        matches!(send_error(&mut client, &mail), Error::Unsupported(what) if what.contains("has no TLS"))
    );
    assert_open(&mut client);
}

// Threat 19.
#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn requiretls_is_sent_over_tls() {
    let server = Server::playing(
        "-- tls good
         -- hello REQUIRETLS
         C: MAIL FROM:<alice@example.org> REQUIRETLS
         S: 250 ok
         C: RCPT TO:<bob@example.org>
         S: 250 ok
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok",
    );
    let builder =
        builder(&server).security(postino::Security::Implicit).ca_certificate(crate::support::tls::CA);
    let mut client = block_on(builder.connect()).unwrap();
    accept(&mut client, &hello(bob().option(MailOption::RequireTls).unwrap()));
}

#[test]
fn times_outside_the_servers_limits_are_refused_before_anything_is_sent() {
    let server = Server::playing(
        "-- hello DELIVERBY 240, FUTURERELEASE 3600 2027-01-31T08:00:00Z\nC: NOOP\nS: 250 ok",
    );
    let mut client = connect(&server);
    let late = OnLate::Return;
    for option in [
        MailOption::DeliverBy { seconds: 239, late, trace: false },
        MailOption::HoldFor(Duration::from_secs(3601)),
        MailOption::HoldUntil("2027-01-31T08:00:01Z".into()),
        MailOption::HoldUntil("2027-01-31T08:00:00-01:00".into()),
    ] {
        let mail = hello(bob().option(option).unwrap());
        assert!(matches!(send_error(&mut client, &mail), Error::Config(_)));
    }
    assert_open(&mut client);
}

#[test]
fn options_go_with_each_part_of_a_message() {
    let part = |name: &str, notify: &str| {
        format!(
            "C: MAIL FROM:<alice@example.org> RET=FULL
             S: 250 ok
             C: RCPT TO:<{name}@example.org> NOTIFY={notify}
             S: 250 ok
             C: DATA
             S: 354 go on
             C: Hello
             C: .
             S: 250 ok\n"
        )
    };
    let server = Server::playing(format!(
        "-- hello DSN, LIMITS RCPTMAX=1\n{}{}",
        part("a", "FAILURE"),
        part("b", "NEVER")
    ));
    let report = RcptOption::Notify { success: false, failure: true, delay: false };
    let envelope = envelope(&["a@example.org", "b@example.org"])
        .option(MailOption::Ret(Ret::Full))
        .and_then(|e| e.recipient_options(report))
        .and_then(|e| e.recipient_option(1, RcptOption::NotifyNever))
        .unwrap();
    accept(&mut connect(&server), &hello(envelope));
}

// Behaviour 72.
#[test]
fn a_message_keeps_its_options_when_it_is_sent_again() {
    let one = "C: MAIL FROM:<alice@example.org> RET=HDRS X-OWN=1
         S: 250 ok
         C: RCPT TO:<bob@example.org> NOTIFY=NEVER
         S: 250 ok
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok\n";
    let server = Server::playing(format!("-- hello SMTPUTF8, 8BITMIME, DSN\n{one}{one}"));
    let mut client = connect(&server);
    let envelope = bob()
        .option(MailOption::Ret(Ret::Headers))
        .and_then(|e| e.option(MailOption::Raw("X-OWN=1".into())))
        .and_then(|e| e.recipient_options(RcptOption::NotifyNever))
        .unwrap();
    let mail = hello(envelope.clone());
    accept(&mut client, &mail);
    accept(&mut client, &mail);
    assert_eq!(mail.envelope().unwrap(), envelope);
}

// Behaviour 78.
#[test]
fn an_unknown_mail_option_is_a_refusal_of_the_sender() {
    let server = Server::playing(
        "-- hello
         C: MAIL FROM:<alice@example.org> X-OWN=1
         S: 555 5.5.4 what?
         C: RSET
         S: 250 ok
         C: NOOP
         S: 250 ok",
    );
    let mut client = connect(&server);
    let mail = hello(bob().option(MailOption::Raw("X-OWN=1".into())).unwrap());
    let error = send_error(&mut client, &mail);
    assert_eq!(refusal(cause(&error)), (Phase::Mail, 555));
    assert_open(&mut client);
}

// Behaviour 78.
#[test]
fn an_unknown_recipient_option_is_a_refusal_of_the_recipient() {
    let server = Server::playing(
        "-- hello
         C: MAIL FROM:<alice@example.org>
         S: 250 ok
         C: RCPT TO:<bob@example.org> X-OWN
         S: 555 5.5.4 what?
         C: RSET
         S: 250 ok
         C: NOOP
         S: 250 ok",
    );
    let mut client = connect(&server);
    let mail = hello(bob().recipient_options(RcptOption::Raw("X-OWN".into())).unwrap());
    let error = send_error(&mut client, &mail);
    assert_eq!(refusal(cause(&error)), (Phase::Recipient, 555));
    assert_eq!(error.delivery().unwrap().refused().count(), 1);
    assert_open(&mut client);
}

// Behaviour 84.
#[test]
fn smtputf8_is_added_automatically_and_cannot_be_added_twice() {
    for option in ["SMTPUTF8", "smtputf8", "SIZE=1", "BODY=8BITMIME"] {
        let error = bob().option(MailOption::Raw(option.into())).unwrap_err();
        assert!(matches!(error, Error::Config(_)), "{option}: {error:?}");
    }
    let server = Server::playing(
        "-- hello SMTPUTF8
         C: MAIL FROM:<j\u{f6}rg@example.org> SMTPUTF8
         S: 250 ok
         C: RCPT TO:<j\u{fc}rgen@example.org>
         S: 250 ok
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok",
    );
    let envelope = Envelope::new("j\u{f6}rg@example.org", ["j\u{fc}rgen@example.org"]).unwrap();
    accept(&mut connect(&server), &hello(envelope));
}

// Threat 22.
#[test]
fn the_value_of_an_option_is_sent_as_xtext_or_refused() {
    let server = Server::playing(
        "-- hello DSN
         C: MAIL FROM:<alice@example.org> ENVID=a+20b+2Bc+3Dd
         S: 250 ok
         C: RCPT TO:<bob@example.org>
         S: 250 ok
         C: DATA
         S: 354 go on
         C: Hello
         C: .
         S: 250 ok",
    );
    let id = |id: &str| bob().option(MailOption::EnvelopeId(id.into()));
    for bad in ["", "a\r\nRCPT TO:<x@example.org>", "a\0", "\u{e9}", "a\x7f"] {
        assert!(matches!(id(bad), Err(Error::Config(_))), "{bad:?}");
        assert!(bob().option(MailOption::Raw(format!("X={bad} Y"))).is_err(), "{bad:?}");
    }
    accept(&mut connect(&server), &hello(id("a b+c=d").unwrap()));
}

/// A parameter of this many octets, including the space before it.
fn parameter(octets: usize) -> String {
    format!("X={}", "y".repeat(octets - " X=".len()))
}

#[test]
fn a_command_line_with_options_has_at_most_2048_octets() {
    let room = |line: &str| 2048 - line.len() - "\r\n".len();
    let (mail, rcpt) = ("MAIL FROM:<alice@example.org>", "RCPT TO:<bob@example.org>");
    let script = format!(
        "C: {mail} {}\nS: 250 ok\nC: {rcpt} {}\nS: 250 ok\n",
        parameter(room(mail)),
        parameter(room(rcpt))
    );
    let server = Server::playing(format!(
        "-- hello\n{script}C: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 250 ok\n{script}C: NOOP\nS: 250 ok"
    ));
    let mut client = connect(&server);
    let both = |mail_octets: usize, rcpt_octets: usize| {
        // In two parameters, neither of which is too long.
        let half = mail_octets / 2;
        let envelope = bob().option(MailOption::Raw(parameter(half))).and_then(|envelope| {
            envelope.option(MailOption::Raw(parameter(mail_octets - half).replace('X', "Y")))
        });
        let raw = RcptOption::Raw(parameter(rcpt_octets));
        hello(envelope.unwrap().recipient_options(raw).unwrap())
    };
    for (more_mail, more_rcpt) in [(1, 0), (0, 1)] {
        let mail = both(room(mail) + more_mail, room(rcpt) + more_rcpt);
        assert!(matches!(send_error(&mut client, &mail), Error::Config(_)));
        assert_eq!(outcomes(&send_all(&mut client, vec![mail])), "E");
    }
    let envelope = bob().option(MailOption::Raw(parameter(room(mail)))).unwrap();
    let raw = RcptOption::Raw(parameter(room(rcpt)));
    accept(&mut client, &hello(envelope.recipient_options(raw).unwrap()));

    let (long, longer) = (parameter(room(mail)), parameter(room(mail) + 1));
    assert!(matches!(block_on(client.mail("alice@example.org", &[&longer])), Err(Error::Config(_))));
    block_on(client.mail("alice@example.org", &[&long])).unwrap();
    let (long, longer) = (parameter(room(rcpt)), parameter(room(rcpt) + 1));
    assert!(matches!(block_on(client.rcpt("bob@example.org", &[&longer])), Err(Error::Config(_))));
    block_on(client.rcpt("bob@example.org", &[&long])).unwrap();
    assert_open(&mut client);
}

#[test]
fn a_line_too_long_in_any_part_is_refused_before_the_first_part_is_sent() {
    let server = Server::playing("-- hello LIMITS RCPTMAX=1\nC: NOOP\nS: 250 ok");
    let mut client = connect(&server);
    let long = RcptOption::Raw(parameter(2040));
    let envelope = envelope(&["a@example.org", "b@example.org"]).recipient_option(1, long).unwrap();
    assert!(matches!(send_error(&mut client, &hello(envelope)), Error::Config(_)));
    assert_open(&mut client);
}
