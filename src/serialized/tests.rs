use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{from_str, to_string};

use super::*;

/// Checks the exact JSON of a value, and that it is read back.
#[track_caller]
fn is_stable<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(value: &T, json: &str) {
    assert_eq!(to_string(value).unwrap(), json);
    assert_eq!(from_str::<T>(json).unwrap(), *value);
}

/// Returns the text of the error.
#[track_caller]
fn refused<T: DeserializeOwned + fmt::Debug>(json: &str) -> String {
    from_str::<T>(json).unwrap_err().to_string()
}

fn reply(text: &str) -> Reply {
    Reply::parse(text.as_bytes()).unwrap()
}

#[test]
fn the_form_of_addresses_and_mailboxes_is_stable() {
    for text in ["alice@example.org", "postmaster", "\\\"a b\\\"@x", "jörg@bücher.example"] {
        is_stable(&Address::new(&text.replace('\\', "")).unwrap(), &format!("\"{text}\""));
    }
    is_stable(&Mailbox::new("", "a@x.org").unwrap(), "\"a@x.org\"");
    is_stable(&Mailbox::new("Jörg", "a@x.org").unwrap(), "\"Jörg <a@x.org>\"");
    is_stable(&Mailbox::new("Doe, \"J\"", "a@x.org").unwrap(), r#""\"Doe, \\\"J\\\"\" <a@x.org>""#);
    let error = to_string(&Mailbox::new("a\nb", "a@x.org").unwrap()).unwrap_err();
    assert!(error.to_string().contains("control character"), "{error}");
}

// Threats 20, 21 and 26.
#[test]
fn an_invalid_address_is_refused_wherever_it_is_read() {
    let long = format!("{}@x", "l".repeat(65));
    for bad in ["", "a b@x", "a@x>", "a@x\\r\\nRCPT TO:<b@x>", "a\\u0000@x", "a@x, b@x", &long] {
        for json in [
            format!("{{\"sender\":\"{bad}\",\"recipients\":[\"a@b\"]}}"),
            format!("{{\"sender\":null,\"recipients\":[\"a@b\",\"{bad}\"]}}"),
            format!("{{\"sender\":null,\"recipients\":[\"a@b\"],\"options\":[{{\"auth\":\"{bad}\"}}]}}"),
        ] {
            assert!(refused::<Envelope>(&json).contains("invalid address"), "{json}");
        }
        assert!(refused::<Address>(&format!("\"{bad}\"")).contains("invalid address"), "{bad}");
        assert!(refused::<Mailbox>(&format!("\"Bob <{bad}>\"")).contains("invalid address"), "{bad}");
    }
    assert!(refused::<Address>("5").contains("expected a mail address"));
    assert!(refused::<Mailbox>("\"a\\nb <a@x.org>\"").contains("control character"));
}

#[test]
fn the_form_of_envelopes_is_stable() {
    let envelope = || Envelope::new("alice@example.org", ["bob@example.net", "carol@example.com"]).unwrap();
    is_stable(
        &envelope(),
        r#"{"sender":"alice@example.org","recipients":["bob@example.net","carol@example.com"]}"#,
    );
    is_stable(&Envelope::new("", ["a@b"]).unwrap(), r#"{"sender":null,"recipients":["a@b"]}"#);
    let with = |option: MailOption| Envelope::new("", ["a@b"]).unwrap().option(option).unwrap();
    for (option, json) in [
        (MailOption::Ret(Ret::Full), r#"{"ret":"full"}"#),
        (MailOption::Ret(Ret::Headers), r#"{"ret":"headers"}"#),
        (MailOption::EnvelopeId("Q+1".into()), r#"{"envelope_id":"Q+1"}"#),
        (MailOption::RequireTls, r#""require_tls""#),
        (MailOption::Priority(-3), r#"{"priority":-3}"#),
        (
            MailOption::DeliverBy { seconds: 60, late: OnLate::Return, trace: true },
            r#"{"deliver_by":{"seconds":60,"late":"return","trace":true}}"#,
        ),
        (
            MailOption::DeliverBy { seconds: -1, late: OnLate::Notify, trace: false },
            r#"{"deliver_by":{"seconds":-1,"late":"notify","trace":false}}"#,
        ),
        (MailOption::HoldFor(Duration::from_secs(90)), r#"{"hold_for":90}"#),
        (MailOption::HoldUntil("2027-01-31T08:00:00Z".into()), r#"{"hold_until":"2027-01-31T08:00:00Z"}"#),
        (MailOption::Auth(None), r#"{"auth":null}"#),
        (MailOption::Auth(Some(Address::new("a@b").unwrap())), r#"{"auth":"a@b"}"#),
        (MailOption::Xverp(None), r#"{"xverp":null}"#),
        (MailOption::Xverp(Some(['-', '='])), r#"{"xverp":["-","="]}"#),
        (MailOption::Raw("XNAME".into()), r#"{"raw":"XNAME"}"#),
    ] {
        is_stable(&with(option), &format!(r#"{{"sender":null,"recipients":["a@b"],"options":[{json}]}}"#));
    }
    let notify = |success| RcptOption::Notify { success, failure: true, delay: false };
    for (option, json) in [
        (notify(true), r#"{"notify":{"success":true,"failure":true,"delay":false}}"#),
        (RcptOption::NotifyNever, r#""notify_never""#),
        (RcptOption::OriginalRecipient(Address::new("o@b").unwrap()), r#"{"original_recipient":"o@b"}"#),
        (RcptOption::Raw("X=1".into()), r#"{"raw":"X=1"}"#),
    ] {
        let json = format!(r#""recipient_options":[[{json}]]"#);
        let names = r#""recipients":["bob@example.net","carol@example.com"]"#;
        is_stable(
            &envelope().recipient_option(0, option).unwrap(),
            &format!(r#"{{"sender":"alice@example.org",{names},{json}}}"#),
        );
    }
    let second = envelope().recipient_option(1, RcptOption::NotifyNever).unwrap();
    assert!(to_string(&second).unwrap().ends_with(r#""recipient_options":[[],["notify_never"]]}"#));
    assert_eq!(from_str::<Envelope>(&to_string(&second).unwrap()).unwrap(), second);
    // What Delivery::retry_envelope returns.
    let part = second.part(&[0]);
    assert_eq!(from_str::<Envelope>(&to_string(&part).unwrap()).unwrap(), part);
}

#[test]
fn an_invalid_envelope_is_refused() {
    let options = |json: &str| format!(r#"{{"sender":null,"recipients":["a@b"],"options":[{json}]}}"#);
    let own = |json: &str| format!(r#"{{"sender":null,"recipients":["a@b"],"recipient_options":[{json}]}}"#);
    for (json, why) in [
        (r#"{"recipients":["a@b"]}"#.to_owned(), "missing field `sender`"),
        (r#"{"sender":null,"recipients":[]}"#.to_owned(), "no recipients"),
        (r#"{"sender":null,"recipients":["a@b"],"option":[]}"#.to_owned(), "unknown field `option`"),
        (options(r#"{"priority":10}"#), "priority"),
        (options(r#"{"envelope_id":"a\r\nb"}"#), "printable ASCII"),
        (options(r#"{"raw":"X=1 Y=2"}"#), "parameter"),
        (options(r#"{"raw":"X\r\nRCPT"}"#), "parameter"),
        (options(r#"{"raw":"SIZE=1"}"#), "SIZE"),
        (options(r#"{"hold_until":"tomorrow"}"#), "RFC 3339"),
        (options(r#"{"hold_for":0}"#), "HOLDFOR"),
        (options(r#"{"hold_for":9},{"hold_until":"2027-01-31T08:00:00Z"}"#), "mutually exclusive"),
        (options(r#"{"deliver_by":{"seconds":1,"late":"return","x":1}}"#), "unknown field `x`"),
        (options(r#""unheard_of""#), "unknown variant"),
        (options(&[r#"{"raw":"X"}"#; 101].join(",")), "more than 100 options"),
        (own(r#"["notify_never"],["notify_never"]"#), "more recipients"),
        (own(r#"[{"notify":{}}]"#), "NOTIFY"),
    ] {
        let error = refused::<Envelope>(&json);
        assert!(error.contains(why), "{json}: {error}");
    }
}

#[test]
fn the_names_of_outcomes_and_securities_are_stable() {
    for (outcome, json) in [
        (Outcome::Accepted, "\"accepted\""),
        (Outcome::Refused, "\"refused\""),
        (Outcome::NotSent, "\"not_sent\""),
        (Outcome::InDoubt, "\"in_doubt\""),
    ] {
        is_stable(&outcome, json);
    }
    for (security, json) in [
        (Security::Auto, "\"auto\""),
        (Security::Plaintext, "\"plaintext\""),
        (Security::Opportunistic, "\"opportunistic\""),
        (Security::StartTls, "\"starttls\""),
        (Security::Implicit, "\"implicit\""),
    ] {
        is_stable(&security, json);
    }
    assert!(refused::<Security>("\"none\"").contains("unknown variant"));
}

#[test]
fn the_form_of_replies_is_stable() {
    is_stable(&reply("250 2.0.0 Ok\r\n"), r#"{"code":250,"text":"2.0.0 Ok"}"#);
    is_stable(&reply("550-one\r\n550 two\r\n"), r#"{"code":550,"text":"one\ntwo"}"#);
    is_stable(&reply("450 \r\n"), r#"{"code":450,"text":""}"#);
    assert_eq!(to_string(&reply("450\r\n")).unwrap(), r#"{"code":450,"text":""}"#);
    for code in ["0", "20", "199", "600", "2500", "65535"] {
        assert!(
            refused::<Reply>(&format!("{{\"code\":{code},\"text\":\"x\"}}")).contains("invalid reply"),
            "{code}"
        );
    }
    let long = "x".repeat(9_000);
    assert!(refused::<Reply>(&format!("{{\"code\":250,\"text\":\"{long}\"}}")).contains("too long"));
    let many = "x\\n".repeat(512);
    assert!(refused::<Reply>(&format!("{{\"code\":250,\"text\":\"{many}\"}}")).contains("too long"));
}

#[test]
fn the_form_of_deliveries_is_stable() {
    let envelope = Envelope::new("a@x", ["b@x", "c@x", "d@x"]).unwrap();
    let own = vec![(1, Outcome::Refused, Some(reply("550 5.1.1 no such user\r\n")))];
    let queued = Some(reply("250 2.0.0 Ok: queued as 4F2A11B3C5\r\n"));
    let mut delivery = Delivery::new(envelope, Outcome::Accepted, Outcome::Accepted, queued, own);
    delivery.set_took(Timings {
        envelope: Duration::from_millis(250),
        content: Duration::from_millis(500),
        end: Duration::from_secs(2),
        total: Duration::from_millis(2_750),
    });
    assert_eq!(
        to_string(&delivery).unwrap(),
        concat!(
            r#"{"outcome":"accepted","reply":{"code":250,"text":"2.0.0 Ok: queued as 4F2A11B3C5"},"#,
            r#""queue_id":"4F2A11B3C5","sender":"a@x","recipients":["#,
            r#"{"address":"b@x","outcome":"accepted"},"#,
            r#"{"address":"c@x","outcome":"refused","reply":{"code":550,"text":"5.1.1 no such user"}},"#,
            r#"{"address":"d@x","outcome":"accepted"}],"#,
            r#""timings":{"envelope":0.25,"content":0.5,"end":2.0,"total":2.75}}"#,
        )
    );
    let first = delivery.recipients().next().unwrap();
    let json = r#"{"address":"b@x","outcome":"accepted","reply":{"code":250,"text":"2.0.0 Ok: queued as 4F2A11B3C5"}}"#;
    assert_eq!(to_string(&first).unwrap(), json);
    assert_eq!(
        to_string(&Delivery::not_sent(Envelope::new("", ["b@x"]).unwrap())).unwrap(),
        concat!(
            r#"{"outcome":"not_sent","reply":null,"queue_id":null,"sender":null,"#,
            r#""recipients":[{"address":"b@x","outcome":"not_sent"}],"#,
            r#""timings":{"envelope":0.0,"content":0.0,"end":0.0,"total":0.0}}"#,
        )
    );
}

const PIN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// JSON with all fields except `unix`, `user`, `password` and TLS, which not every build has.
const ALL_PLAIN: &str = concat!(
    r#"{"host":"mail.example.org","port":2525,"lmtp":true,"security":"opportunistic","#,
    r#""hello_name":"client.example.org","bind":"192.0.2.1:0","proxy":"socks5://proxy.example:1080","#,
    r#""tls_name":"tls.example.org","system_roots":true,"timeout":30,"connect_timeout":5,"#,
    r#""final_reply_timeout":900,"deadline":1000,"pipelining":false,"chunking":true,"all_or_nothing":true}"#,
);

#[test]
fn the_form_of_settings_is_stable() {
    for json in [
        ALL_PLAIN,
        r#"{"host":"mail.example.org"}"#,
        r#"{"host":"::1","security":"plaintext"}"#,
        r#"{"host":"mail.example.org","user":"shop"}"#,
    ] {
        let settings: Settings = from_str(json).unwrap();
        assert_eq!(to_string(&settings).unwrap(), json);
    }
    let all: Settings = from_str(ALL_PLAIN).unwrap();
    let shown = format!("{:?}", crate::Builder::try_from(&all).unwrap());
    for expected in [
        "mail.example.org",
        "2525",
        "lmtp: true",
        "Opportunistic",
        "client.example.org",
        "192.0.2.1:0",
        "tls.example.org",
        "connect: 5s",
        "command: 30s",
        "final_reply: 900s",
        "deadline: Some(1000s)",
        "pipelining: false",
        "chunking: true",
        "all_or_nothing: true",
    ] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    let pinned = format!(
        r#"{{"host":"h","system_roots":false,"pinned_certificates":["{PIN}"],"pinned_public_keys":["{PIN}"]}}"#
    );
    if crate::TlsBackend::default().is_available() {
        let settings: Settings = from_str(&pinned).unwrap();
        assert_eq!(to_string(&settings).unwrap(), pinned);
        let pem = r#"{"host":"h","ca_certificate":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}"#;
        assert_eq!(from_str::<Settings>(pem).map(|settings| to_string(&settings).unwrap()).unwrap(), pem);
    }
}

#[test]
fn invalid_settings_are_refused() {
    let host = |rest: &str| format!(r#"{{"host":"h",{rest}}}"#);
    for (json, why) in [
        ("{}".to_owned(), "neither a host nor a Unix socket"),
        (host(r#""unix":"/run/smtp""#), "both a host and a Unix socket"),
        (host(r#""prot":25"#), "unknown field `prot`"),
        (host(r#""danger_accept_invalid_certs":true"#), "unknown field `danger_accept_invalid_certs`"),
        (host(r#""token":"x""#), "unknown field `token`"),
        (r#"{"host":"h\r\nQUIT"}"#.to_owned(), "host"),
        (r#"{"host":""}"#.to_owned(), "host"),
        (host(r#""hello_name":"a\r\nb""#), "EHLO"),
        (host(r#""port":0"#), "port 0"),
        (host(r#""port":25,"lmtp":true"#), "port 25"),
        (host(r#""port":70000"#), "invalid value"),
        (host(r#""security":"tls""#), "unknown variant `tls`"),
        (host(r#""proxy":"ftp://x""#), "scheme"),
        (host(r#""timeout":-1"#), "invalid value"),
        (host(r#""user":"a\u0000b""#), "NUL"),
        (host(r#""password":"hunter2""#), "a password, but no user"),
        (host(r#""user":"u","password":"hunter2\u0000""#), "NUL"),
        (host(r#""user":"u","password":31415926"#), "not text"),
        (host(r#""user":"u","password":-31415926"#), "not text"),
        (host(r#""user":"u","password":3141.5926"#), "not text"),
        (host(r#""proxy":"socks5://u:hunter2%@h""#), "hexadecimal"),
        (r#"{"host":"smtp://u:hunter2@h"}"#.to_owned(), "the host is a URL"),
        (r#"{"host":"h:587"}"#.to_owned(), "with `port`"),
        (host(r#""ca_certificate":"/etc/ssl/ca.pem""#), "looks like a file name"),
    ] {
        let error = refused::<Settings>(&json);
        assert!(error.contains(why), "{json}: {error}");
        assert!(!["hunter2", "3141"].iter().any(|secret| error.contains(secret)), "{error}");
    }
}

#[test]
fn unknown_fields_pass_unnoticed_only_if_settings_are_flattened() {
    #[derive(serde::Deserialize)]
    struct Flat {
        #[serde(flatten)]
        smtp: Settings,
    }
    #[derive(Debug, serde::Deserialize)]
    struct Nested {
        smtp: Settings,
    }
    let flat: Flat = from_str(r#"{"host":"h","deadlin":30}"#).unwrap();
    assert_eq!(flat.smtp.deadline(), None);
    assert!(refused::<Nested>(r#"{"smtp":{"host":"h","deadlin":30}}"#).contains("unknown field `deadlin`"));
    let nested: Nested = from_str(r#"{"smtp":{"host":"h","deadline":30}}"#).unwrap();
    assert_eq!(nested.smtp.deadline(), Some(Duration::from_secs(30)));
}

// Secrets must not be written: neither the password nor that of the proxy.
#[test]
fn no_secret_is_ever_serialized() {
    let json = r#"{"host":"h","user":"u","password":"hunter2","proxy":"http://pu:hunter2@p:8080"}"#;
    let settings: Settings = from_str(json).unwrap();
    for settings in [settings.clone(), settings.clone().with_password("hunter2-new")] {
        let written = to_string(&settings).unwrap();
        assert_eq!(written, r#"{"host":"h","user":"u","proxy":"http://p:8080"}"#);
        let shown = format!("{settings:?} {:?}", crate::Builder::try_from(&settings).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    // What is read back has no password, so it cannot be used without one.
    let read: Settings = from_str(&to_string(&settings).unwrap()).unwrap();
    let error = crate::Builder::try_from(&read).unwrap_err();
    assert!(error.to_string().contains("a user, but no password"), "{error}");
    assert!(crate::Builder::try_from(&read.with_password("x")).is_ok());
}

#[cfg(feature = "testing")]
#[test]
fn settings_connect_both_clients() {
    let server = crate::testing::Server::builder().credentials("user", "secret").start().unwrap();
    let json =
        format!(r#"{{"host":"127.0.0.1","port":{},"user":"user","password":"secret"}}"#, server.port());
    let settings: Settings = from_str(&json).unwrap();
    let mail = crate::Raw::bytes(Envelope::new("a@b", ["c@d"]).unwrap(), "Hi\r\n");
    let delivery = crate::Builder::try_from(&settings).unwrap().send(&mail).unwrap();
    assert!(to_string(&delivery).unwrap().starts_with(r#"{"outcome":"accepted","reply":{"code":250,"#));
    assert_eq!(server.expect_message().user(), Some("user"));
    #[cfg(feature = "async")]
    {
        smol::block_on(crate::aio::Builder::try_from(&settings).unwrap().send(&mail)).unwrap();
        server.expect_messages(2);
    }
}
