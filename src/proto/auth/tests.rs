use proptest::prelude::*;

use super::*;
use crate::proto::Inbox;

fn capabilities(mechanisms: &str) -> Capabilities {
    let text = format!("250-me\r\n250 AUTH {mechanisms}\r\n");
    with_reply(&text, Capabilities::parse)
}

fn with_reply<T>(text: &str, look: impl FnOnce(ReplyRef<'_>) -> T) -> T {
    let mut inbox = Inbox::default();
    for chunk in text.as_bytes().chunks(1000) {
        inbox.room()[..chunk.len()].copy_from_slice(chunk);
        inbox.arrived(chunk.len());
    }
    look(inbox.next_reply().unwrap().unwrap())
}

/// A login, and the log of its lines.
struct Talk {
    auth: Auth,
    out: Outbox,
    log: Vec<String>,
}

impl Talk {
    fn new(credentials: Credentials, options: AuthOptions, offered: &str) -> Talk {
        let auth = Auth::new(credentials, options, &capabilities(offered)).unwrap();
        Talk { auth, out: Outbox::default(), log: Vec::new() }
    }

    /// Returns the lines that are sent now, and what is wanted next.
    fn fill(&mut self) -> (String, Want) {
        let want = self.auth.fill(&mut self.out);
        self.out.drain_log(|line| self.log.push(format!("C: {line}")));
        let said = String::from_utf8(self.out.offer().to_vec()).unwrap();
        self.out.written(said.len());
        (said, want)
    }

    fn hear(&mut self, reply: &str) -> Result<(), Error> {
        let reply = format!("{}\r\n", reply.replace('|', "\r\n"));
        with_reply(&reply, |reply| {
            self.log.push(format!("S: {}", self.auth.keep(reply)));
            self.out.reply_arrived();
            self.auth.on_reply(reply, &self.out)
        })
    }

    /// Plays a transcript. `T:` lines pass a token.
    #[track_caller]
    fn play(&mut self, transcript: &str) -> Result<(), Error> {
        for line in transcript.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match line.split_at(2) {
                ("C:", line) => {
                    let (said, want) = self.fill();
                    assert_eq!((said, want), (format!("{}\r\n", line.trim_start()), Want::Reply));
                }
                ("S:", reply) => self.hear(reply.trim_start())?,
                ("T:", token) => {
                    assert_eq!(self.fill(), (String::new(), Want::Secret));
                    self.auth.on_secret(token.trim_start())?;
                }
                _ => panic!("not a line of a transcript: {line}"),
            }
        }
        Ok(())
    }

    /// Plays a transcript up to the end of the login, and returns the result.
    #[track_caller]
    fn end(mut self, transcript: &str) -> Result<(), Error> {
        let broke = self.play(transcript).err();
        if broke.is_none() {
            assert_eq!(self.fill(), (String::new(), Want::Nothing));
        }
        self.auth.into_result(broke)
    }
}

fn password() -> Credentials {
    Credentials::new("user", "s3cret").unwrap()
}

fn tls() -> AuthOptions {
    AuthOptions { encrypted: true, ..AuthOptions::default() }
}

fn pinned(names: &[&str]) -> AuthOptions {
    AuthOptions { mechanisms: Some(names.iter().map(|name| (*name).to_owned()).collect()), ..tls() }
}

#[track_caller]
fn refused(result: Result<(), Error>) -> (String, Option<u16>) {
    match result {
        Err(Error::Auth { what, reply, .. }) => (what.into(), reply.map(|reply| reply.code())),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn plain_is_preferred_to_login_and_sends_an_initial_response() {
    Talk::new(password(), tls(), "LOGIN PLAIN").end("C: AUTH PLAIN AHVzZXIAczNjcmV0\nS: 235 in").unwrap();
}

#[test]
fn a_long_initial_response_waits_for_an_empty_challenge() {
    // 499 octets are left for base64, in groups of four. They hold 372 octets, two of which are NULs of PLAIN.
    for (octets, initial) in [(370, true), (371, false)] {
        let credentials = Credentials::new("u", "p".repeat(octets - 1)).unwrap();
        let mut talk = Talk::new(credentials, tls(), "PLAIN");
        let (said, _) = talk.fill();
        assert!(said.len() <= MAX_LINE && (said != "AUTH PLAIN\r\n") == initial, "{said}");
        if !initial {
            talk.hear("334 go on").unwrap();
            assert!(talk.fill().0.starts_with("AHUAcHBw"));
        }
        talk.hear("235 in").unwrap();
        talk.auth.into_result(None).unwrap();
    }
}

#[test]
fn an_initial_response_is_sent_only_within_a_line_of_512_octets() {
    for (octets, length) in [(372, MAX_LINE), (373, "AUTH EXTERNAL\r\n".len())] {
        let (said, _) =
            Talk::new(Credentials::external(&"x".repeat(octets)).unwrap(), tls(), "EXTERNAL").fill();
        assert_eq!(said.len(), length);
    }
}

// Threat 66.
#[test]
fn login_accepts_any_prompt() {
    for (first, second) in [
        ("VXNlcm5hbWU6", "UGFzc3dvcmQ6"),
        ("UGFzc3dvcmQ6", "VXNlcm5hbWU6"),
        ("VXNlciBOYW1lAA==", "UGFzc3dvcmQA"),
        ("", ""),
        ("VXNlcm5hbWU6 text - host", "Passwort:"),
    ] {
        let transcript =
            format!("C: AUTH LOGIN\nS: 334 {first}\nC: dXNlcg==\nS: 334 {second}\nC: czNjcmV0\nS: 235 in");
        Talk::new(password(), tls(), "LOGIN").end(&transcript).unwrap();
    }
}

// Behaviour 66.
#[test]
fn our_mechanism_order_applies_and_the_last_refusal_is_reported() {
    let end = Talk::new(password(), tls(), "LOGIN PLAIN").end(
        "C: AUTH PLAIN AHVzZXIAczNjcmV0
         S: 454 4.7.0 not now
         C: AUTH LOGIN
         S: 535 5.7.8 no",
    );
    assert!(end.as_ref().is_err_and(Error::is_permanent));
    assert_eq!(refused(end), ("the login with LOGIN was refused".into(), Some(535)));
}

// Behaviour 68.
#[test]
fn plain_is_cancelled_if_answered_with_334() {
    let end = Talk::new(password(), pinned(&["PLAIN"]), "LOGIN PLAIN").end(
        "C: AUTH PLAIN AHVzZXIAczNjcmV0
         S: 334 more?
         C: *
         S: 501 cancelled",
    );
    let (what, code) = refused(end);
    assert!(what.contains("not valid base64") && code == Some(501), "{what}");
}

#[test]
fn the_failure_of_one_mechanism_is_not_attributed_to_the_next() {
    let end = Talk::new(password(), tls(), "LOGIN PLAIN").end(
        "C: AUTH PLAIN AHVzZXIAczNjcmV0
         S: 334-bW9y|334 ZQ==
         C: *
         S: 501 a challenge has one line
         C: AUTH LOGIN
         S: 535 no",
    );
    assert_eq!(refused(end), ("the login with LOGIN was refused".into(), Some(535)));
}

#[test]
fn a_multiline_challenge_is_cancelled() {
    let end = Talk::new(Credentials::custom(Chatter).unwrap(), tls(), "X-CHATTER")
        .end("C: AUTH X-CHATTER\nS: 334-aGk=|334 aGk=\nC: *\nS: 501 cancelled");
    assert!(refused(end).0.contains("not valid base64"));
}

// Threat 64.
#[test]
fn a_finished_login_exchange_is_not_cancelled() {
    let end =
        Talk::new(password(), pinned(&["PLAIN"]), "PLAIN").end("C: AUTH PLAIN AHVzZXIAczNjcmV0\nS: 502 no");
    assert_eq!(refused(end).1, Some(502));
}

#[test]
fn misplaced_replies_to_auth_are_protocol_errors() {
    for transcript in [
        "C: AUTH PLAIN AHVzZXIAczNjcmV0\nS: 354 go on",
        "C: AUTH PLAIN AHVzZXIAczNjcmV0\nS: 335 go on",
        "C: AUTH PLAIN AHVzZXIAczNjcmV0\nS: 334\nC: *\nS: 334",
        "C: AUTH PLAIN AHVzZXIAczNjcmV0\nS: 334\nC: *\nS: 235 in after all",
    ] {
        let end = Talk::new(password(), tls(), "PLAIN").end(transcript);
        assert!(matches!(end, Err(Error::Protocol { .. })), "{end:?}");
    }
}

#[test]
fn the_result_of_an_unfinished_login_is_an_error() {
    let mut talk = Talk::new(password(), tls(), "PLAIN");
    talk.fill();
    assert!(matches!(talk.auth.into_result(None), Err(Error::Internal(_))));
}

#[test]
fn text_that_is_not_secret_is_not_masked() {
    let mut talk = Talk::new(password(), tls(), "PLAIN");
    talk.play("C: AUTH PLAIN AHVzZXIAczNjcmV0\nS: 535 AA 00 AQ 01").unwrap();
    let Err(Error::Auth { reply: Some(reply), .. }) = talk.auth.into_result(None) else { panic!() };
    assert_eq!(reply.text(), "AA 00 AQ 01");
}

#[cfg(feature = "sasl")]
#[test]
fn an_enabled_feature_is_not_reported_as_missing() {
    let error = Auth::new(password(), pinned(&["PLAIN"]), &capabilities("CRAM-MD5")).unwrap_err();
    assert!(!error.to_string().contains("feature"), "{error}");
}

#[test]
fn a_timeout_after_a_refusal_is_reported_as_a_timeout() {
    let mut talk = Talk::new(password(), tls(), "LOGIN PLAIN");
    talk.play("C: AUTH PLAIN AHVzZXIAczNjcmV0\nS: 535 no").unwrap();
    let result = talk.auth.into_result(Some(Error::Timeout(Phase::Auth)));
    assert!(matches!(result, Err(Error::Timeout(Phase::Auth))), "{result:?}");
}

#[test]
fn hanging_up_after_a_refused_login_still_counts_as_a_refusal() {
    let play = "C: AUTH PLAIN AHVzZXIAczNjcmV0\nS: 535 no\nC: AUTH LOGIN\n";
    let end = Talk::new(password(), tls(), "PLAIN LOGIN").end(&format!("{play}S: 421 too many"));
    assert_eq!(refused(end).1, Some(535));
    let mut talk = Talk::new(password(), tls(), "PLAIN LOGIN");
    talk.play(play).unwrap();
    assert_eq!(refused(talk.auth.into_result(Some(Error::Closed(Phase::Auth)))).1, Some(535));
    let first = Talk::new(password(), tls(), "PLAIN").end("C: AUTH PLAIN AHVzZXIAczNjcmV0\nS: 421 closing");
    assert!(matches!(&first, Err(e @ Error::Refused { .. }) if e.is_transient()), "{first:?}");
}

// Threat 90.
#[test]
fn without_a_common_mechanism_the_login_fails() {
    let none = |options: AuthOptions, offered: &str| {
        refused(Auth::new(password(), options, &capabilities(offered)).map(drop)).0
    };
    assert_eq!(none(tls(), ""), "the server offers no login");
    assert!(none(AuthOptions::default(), "").contains("over TLS"));
    assert!(none(tls(), "GSSAPI XOAUTH2").contains("(the server offers GSSAPI XOAUTH2)"));
    assert!(none(pinned(&["LOGIN"]), "PLAIN").contains("PLAIN"));
    #[cfg(not(feature = "sasl"))]
    assert!(none(tls(), "CRAM-MD5").contains("without the `sasl` feature"));
    #[cfg(feature = "sasl")]
    assert!(none(tls(), "SCRAM-SHA-256-PLUS").contains("PLUS"), "no channel binding is available");
}

#[test]
fn pinned_mechanisms_are_tried_in_the_given_order() {
    Talk::new(password(), pinned(&["LOGIN", "PLAIN"]), "PLAIN LOGIN")
        .end(
            "C: AUTH LOGIN
             S: 504 no
             C: AUTH PLAIN AHVzZXIAczNjcmV0
             S: 235 in",
        )
        .unwrap();
}

#[test]
fn external_and_anonymous_send_a_single_response() {
    let talk = |credentials, offered| Talk::new(credentials, tls(), offered);
    talk(Credentials::external("").unwrap(), "PLAIN EXTERNAL").end("C: AUTH EXTERNAL =\nS: 235 in").unwrap();
    talk(Credentials::external("al").unwrap(), "EXTERNAL").end("C: AUTH EXTERNAL YWw=\nS: 235 in").unwrap();
    talk(Credentials::anonymous("a@b").unwrap(), "PLAIN ANONYMOUS")
        .end("C: AUTH ANONYMOUS YUBi\nS: 235 in")
        .unwrap();
}

// Threat 63.
#[test]
fn an_oauth_failure_is_acknowledged_and_its_details_are_reported() {
    let json = "eyJzdGF0dXMiOiI0MDEifQ==";
    for (name, initial, concession) in [
        ("OAUTHBEARER", "bixhPXUsAWhvc3Q9aAFwb3J0PTI1AWF1dGg9QmVhcmVyIFQBAQ==", "AQ=="),
        ("XOAUTH2", "dXNlcj11AWF1dGg9QmVhcmVyIFQBAQ==", ""),
    ] {
        let options = AuthOptions { server: Some(("h".into(), 25)), ..tls() };
        let end = Talk::new(Credentials::token("u", "T").unwrap(), options, &format!("PLAIN {name}"))
            .end(&format!("C: AUTH {name} {initial}\nS: 334 {json}\nC: {concession}\nS: 535 5.7.8 bad"));
        let Err(Error::Auth { details, reply, .. }) = end else { panic!("{end:?}") };
        assert_eq!(details.as_deref(), Some(r#"{"status":"401"}"#));
        assert_eq!(reply.unwrap().code(), 535);
    }
}

#[test]
fn oauthbearer_comes_first_and_an_examined_token_is_not_resent() {
    let talk = || Talk::new(Credentials::token("u", "t").unwrap(), tls(), "XOAUTH2 PLAIN OAUTHBEARER");
    talk()
        .end(
            "C: AUTH OAUTHBEARER bixhPXUsAWF1dGg9QmVhcmVyIHQBAQ==
             S: 504 not really
             C: AUTH XOAUTH2 dXNlcj11AWF1dGg9QmVhcmVyIHQBAQ==
             S: 235 in",
        )
        .unwrap();
    let end = talk().end(
        "C: AUTH OAUTHBEARER bixhPXUsAWF1dGg9QmVhcmVyIHQBAQ==
         S: 334 e30=
         C: AQ==
         S: 535 no",
    );
    assert_eq!(refused(end).1, Some(535));
}

#[test]
fn a_new_token_is_requested_once_after_a_refused_one() {
    let talk = || Talk::new(Credentials::token_later("u").unwrap(), tls(), "XOAUTH2");
    let old = "T: old\nC: AUTH XOAUTH2 dXNlcj11AWF1dGg9QmVhcmVyIG9sZAEB\n";
    let new = "T: new\nC: AUTH XOAUTH2 dXNlcj11AWF1dGg9QmVhcmVyIG5ldwEB\n";
    talk().end(&format!("{old}S: 235 in")).unwrap();
    talk().end(&format!("{old}S: 334 e30=\nC:\nS: 535 no\n{new}S: 235 in")).unwrap();
    let mut twice = talk();
    twice.play(&format!("{old}S: 535 no\n{new}S: 535 neither old nor new")).unwrap();
    assert!(twice.log.contains(&"S: 535 neither *** nor ***".to_owned()), "{:?}", twice.log);
    let end = talk().end(&format!("{old}S: 535 no\n{new}S: 535 and again"));
    assert_eq!(refused(end).1, Some(535));
    let end = talk().end(&format!("{old}S: 454 not now"));
    assert!(end.is_err_and(|e| e.is_transient()), "a new token would not help");
    let end = talk().end(&format!("{old}S: 504 no such thing"));
    assert_eq!(refused(end).1, Some(504), "nor would it here");
    let end = talk().end(&format!("{old}S: 334 e30=\nC:\nS: 454 not now"));
    assert_eq!(refused(end).1, Some(454), "nor would it here");
    let end = talk().end("T: with a space");
    assert!(matches!(end, Err(Error::Config(_))));
}

#[test]
fn a_new_password_is_requested_once_after_a_refused_one() {
    let later = || Credentials::password_later("user").unwrap();
    let plain = |password: &str| format!("C: AUTH PLAIN {}\n", BASE64.encode(format!("\0user\0{password}")));
    let (old, new) = (format!("T: old\n{}", plain("old")), format!("T: new\n{}", plain("new")));
    let talk = || Talk::new(later(), tls(), "PLAIN");
    talk().end(&format!("{old}S: 235 in")).unwrap();
    talk().end(&format!("{old}S: 535 no\n{new}S: 235 in")).unwrap();
    let mut twice = talk();
    let echo = format!("535 neither old nor {} nor new", BASE64.encode("old"));
    twice.play(&format!("{old}S: 550 no\n{new}S: {echo}")).unwrap();
    assert!(twice.log.contains(&"S: 535 neither *** nor *** nor ***".to_owned()), "{:?}", twice.log);
    assert_eq!(twice.auth.refusals(), 2);
    let end = talk().end(&format!("{old}S: 454 not now"));
    assert!(end.is_err_and(|e| e.is_transient()), "a new password would not help");
    let end = talk().end(&format!("{old}S: 504 no such thing"));
    assert_eq!(refused(end).1, Some(504), "nor would it here");
    let same = format!("{old}S: 535 no\nT: old\n");
    assert_eq!(refused(talk().end(&same)).1, Some(535));
    Talk::new(later(), tls(), "PLAIN LOGIN")
        .end(&format!(
            "{same}C: AUTH LOGIN\nS: 334 VXNlcg==\nC: dXNlcg==\nS: 334 UGFzcw==\nC: b2xk\nS: 235 in"
        ))
        .unwrap();
    assert!(matches!(talk().end("T: a\0b"), Err(Error::Config(_))));
    assert!(refused(Auth::new(later(), tls(), &capabilities("XOAUTH2")).map(drop)).0.contains("XOAUTH2"));
}

#[test]
fn a_second_token_is_used_only_if_it_differs() {
    let talk = |offered| Talk::new(Credentials::token_later("u").unwrap(), tls(), offered);
    let bearer = "T: old\nC: AUTH OAUTHBEARER bixhPXUsAWF1dGg9QmVhcmVyIG9sZAEB\n";
    let end =
        talk("XOAUTH2").end("T: old\nC: AUTH XOAUTH2 dXNlcj11AWF1dGg9QmVhcmVyIG9sZAEB\nS: 535 no\nT: old\n");
    assert_eq!(refused(end).1, Some(535));
    let end = talk("OAUTHBEARER XOAUTH2").end(&format!("{bearer}S: 334 e30=\nC: AQ==\nS: 535 no\nT: old\n"));
    assert_eq!(refused(end).1, Some(535), "the server has examined the token");
    talk("OAUTHBEARER XOAUTH2")
        .end(&format!(
            "{bearer}S: 535 no\nT: old\nC: AUTH XOAUTH2 dXNlcj11AWF1dGg9QmVhcmVyIG9sZAEB\nS: 235 in"
        ))
        .unwrap();
    let new = "T: new\nC: AUTH OAUTHBEARER bixhPXUsAWF1dGg9QmVhcmVyIG5ldwEB\n";
    talk("OAUTHBEARER XOAUTH2").end(&format!("{bearer}S: 535 no\n{new}S: 235 in")).unwrap();
    let end = talk("OAUTHBEARER XOAUTH2").end(&format!("{bearer}S: 535 no\n{new}S: 535 nor this"));
    assert_eq!(refused(end).1, Some(535), "two tokens were refused");
}

#[test]
fn no_login_is_tried_after_two_refusals_on_a_connection() {
    let plain = "C: AUTH PLAIN AHVzZXIAczNjcmV0\n";
    let mut talk = Talk::new(password(), tls(), "PLAIN");
    talk.play(&format!("{plain}S: 535 no")).unwrap();
    assert_eq!(talk.auth.refusals(), 1);
    let again = AuthOptions { refusals: 1, ..tls() };
    let end = Talk::new(password(), again, "PLAIN LOGIN").end(&format!("{plain}S: 550 no"));
    assert_eq!(refused(end).1, Some(550), "LOGIN would be the third");
    let spent = Auth::new(password(), AuthOptions { refusals: 2, ..tls() }, &capabilities("PLAIN"));
    assert!(refused(spent.map(drop)).0.contains("refused two logins"));
}

#[test]
fn replies_unrelated_to_the_password_do_not_count_as_refusals() {
    for reply in ["504 no such mechanism", "534 too weak", "454 not now", "432 change it first"] {
        let mut talk = Talk::new(password(), tls(), "PLAIN LOGIN");
        talk.play(&format!("C: AUTH PLAIN AHVzZXIAczNjcmV0\nS: {reply}\nC: AUTH LOGIN\nS: {reply}")).unwrap();
        assert_eq!(talk.auth.refusals(), 0, "{reply}");
        assert!(refused(talk.auth.into_result(None)).1.is_some());
    }
    let mut talk = Talk::new(password(), tls(), "PLAIN");
    talk.play("C: AUTH PLAIN AHVzZXIAczNjcmV0\nS: 334 more?\nC: *\nS: 501 cancelled").unwrap();
    assert_eq!(talk.auth.refusals(), 0, "the client has cancelled it");
}

#[test]
fn no_token_is_requested_if_no_mechanism_takes_one() {
    let later = Credentials::token_later("u").unwrap();
    assert!(refused(Auth::new(later, tls(), &capabilities("PLAIN")).map(drop)).0.contains("PLAIN"));
}

// Threats 70 and 71.
#[test]
fn no_secret_of_a_login_is_logged_or_kept() {
    let b64 = |text: &str| BASE64.encode(text);
    let echo = format!(
        "535-you said s3cret, {}, {}, {}|535 and {} \0user\0s3cret",
        b64("s3cret"),
        b64("\0user\0s3cret"),
        b64("user"),
        b64("xs3cretx"),
    );
    for offered in ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"] {
        if cfg!(not(feature = "sasl")) && table::needs_sasl(offered) {
            continue;
        }
        let mut talk = Talk::new(password(), tls(), offered);
        let mut said = String::new();
        for reply in [&format!("334 {}", b64("<s3cret>")), &echo] {
            said.push_str(&talk.fill().0);
            talk.hear(reply).unwrap();
            if talk.auth.state == State::Cancel {
                talk.fill();
                talk.hear(&echo).unwrap();
                break;
            }
        }
        let state = format!("{:?}", talk.auth);
        let log = talk.log.join("\n");
        let error = talk.auth.into_result(None).unwrap_err();
        let seen = format!("{log} {state} {error} {error:?}");
        for secret in ["s3cret", &b64("s3cret"), &b64("\0user\0s3cret"), &b64("xs3cretx"), &b64("<s3cret>")] {
            assert!(!seen.contains(secret), "{offered}: {secret}: {seen}");
        }
        for line in said.lines().filter(|line| !line.starts_with("AUTH ") && !line.is_empty()) {
            assert!(!seen.contains(line), "{offered}: {line}: {seen}");
        }
    }
}

// Threat 71.
#[test]
fn masking_a_short_password_does_not_break_up_a_longer_masked_secret() {
    let mut talk = Talk::new(Credentials::new("u", "A").unwrap(), pinned(&["PLAIN"]), "PLAIN");
    talk.play("C: AUTH PLAIN AHUAQQ==\nS: 535 you said (AHUAQQ==)").unwrap();
    assert_eq!(talk.log[1], "S: 535 you said (***)");
}

// Threat 71.
#[test]
fn a_secret_is_masked_even_without_its_surrounding_white_space() {
    for secret in ["s3cret\n", "s3cret\r\n", "s3cret ", "\ts3cret", " s3cret "] {
        for echo in ["s3cret", "s3cret, ", &BASE64.encode("s3cret"), &BASE64.encode("s3cret!")] {
            let credentials = Credentials::new("u", secret).unwrap();
            let mut talk = Talk::new(credentials, pinned(&["LOGIN"]), "LOGIN");
            talk.fill();
            talk.hear(&format!("535 you said {echo}")).unwrap();
            assert!(talk.log.last().unwrap().contains("said ***"), "{secret:?} {echo}: {:?}", talk.log);
        }
    }
}

// Threat 71.
#[test]
fn a_secret_inside_longer_base64_is_masked_even_without_padding() {
    for before in ["", "x", "xx", "xxx"] {
        for behind in ["", "x", "xx", "xxx"] {
            let longer = BASE64.encode(format!("{before}s3cret{behind}"));
            for echo in [format!("<{longer}>"), longer.trim_end_matches('=').to_owned()] {
                let mut talk = Talk::new(password(), pinned(&["LOGIN"]), "LOGIN");
                talk.fill();
                talk.hear(&format!("535 you said {echo}")).unwrap();
                assert!(talk.log.last().unwrap().contains("***"), "{echo}: {:?}", talk.log);
            }
        }
    }
}

// Threat 70.
#[test]
fn tokens_echoed_by_the_server_are_masked() {
    let challenge = BASE64.encode(r#"{"token":"t0ken"}"#);
    let mut talk = Talk::new(Credentials::token("u", "t0ken").unwrap(), tls(), "XOAUTH2");
    talk.fill();
    talk.hear(&format!("334 {challenge}")).unwrap();
    talk.fill();
    talk.hear("535 t0ken").unwrap();
    assert!(!talk.log.join("\n").contains(&challenge));
    let error = talk.auth.into_result(None).unwrap_err();
    assert!(!format!("{error:?}").contains("t0ken"), "{error:?}");
}

/// A mechanism that answers every challenge.
#[derive(Clone)]
struct Chatter;

impl Mechanism for Chatter {
    fn name(&self) -> &str {
        "X-CHATTER"
    }

    fn answer(&mut self, challenge: &[u8]) -> Answer {
        match challenge {
            b"who" => Answer::RejectServer("not you".to_owned()),
            _ => Answer::Respond(challenge.to_vec()),
        }
    }
}

#[test]
fn a_custom_mechanism_can_succeed_or_fail() {
    let talk = || Talk::new(Credentials::custom(Chatter).unwrap(), tls(), "PLAIN X-CHATTER");
    talk().end("C: AUTH X-CHATTER\nS: 334 aGk=\nC: aGk=\nS: 235 in").unwrap();
    let end = talk().end("C: AUTH X-CHATTER\nS: 334 what?\nC: *\nS: 501 cancelled");
    assert!(refused(end).0.contains("not valid base64"));
    let end = talk().end("C: AUTH X-CHATTER\nS: 334 d2hv");
    assert_eq!(refused(end), ("the login with X-CHATTER failed: not you".into(), None));
}

// Threat 65.
#[test]
fn an_endless_series_of_challenges_is_cancelled() {
    let endless = "S: 334 aGk=\nC: aGk=\n".repeat(MAX_ANSWERS);
    let end = Talk::new(Credentials::custom(Chatter).unwrap(), tls(), "X-CHATTER")
        .end(&format!("C: AUTH X-CHATTER\n{endless}S: 334 aGk=\nC: *\nS: 501 cancelled"));
    assert!(refused(end).0.contains("too many challenges"));
}

#[cfg(feature = "sasl")]
mod sasl {
    use super::*;

    // Threat 62.
    #[test]
    fn cram_md5_does_not_fall_back_to_plain_where_others_can_listen() {
        let refusals = "C: AUTH CRAM-MD5\nS: 504 no\n";
        let offered = "LOGIN PLAIN CRAM-MD5";
        let end = Talk::new(password(), AuthOptions::default(), offered).end(refusals);
        assert_eq!(refused(end), ("the login with CRAM-MD5 was refused".into(), Some(504)));
        for options in [tls(), AuthOptions { local: true, ..AuthOptions::default() }] {
            Talk::new(password(), options, offered)
                .end(&format!("{refusals}C: AUTH PLAIN AHVzZXIAczNjcmV0\nS: 235 in"))
                .unwrap();
        }
        // Nothing stronger is offered. The caller must have allowed this, or there would be no login.
        Talk::new(password(), AuthOptions::default(), "LOGIN PLAIN")
            .end("C: AUTH PLAIN AHVzZXIAczNjcmV0\nS: 504 no\nC: AUTH LOGIN\nS: 334\nC: dXNlcg==\nS: 334\nC: czNjcmV0\nS: 235")
            .unwrap();
    }

    #[test]
    fn at_most_one_plaintext_login_follows_a_refused_cram_md5_login() {
        let cram = "C: AUTH CRAM-MD5\nS: 535 no\n";
        let plain = "C: AUTH PLAIN AHVzZXIAczNjcmV0\n";
        let all = "LOGIN CRAM-MD5 PLAIN";
        Talk::new(password(), tls(), all).end(&format!("{cram}{plain}S: 235 in")).unwrap();
        let end = Talk::new(password(), tls(), all).end(&format!("{cram}{plain}S: 535 nor this"));
        assert_eq!(refused(end), ("the login with PLAIN was refused".into(), Some(535)));
        Talk::new(password(), tls(), all)
            .end(&format!(
                "{cram}{plain}S: 504 what?\nC: AUTH LOGIN\nS: 334\nC: dXNlcg==\nS: 334\nC: czNjcmV0\nS: 235"
            ))
            .unwrap();
        let end = Talk::new(password(), AuthOptions::default(), all).end(cram);
        assert_eq!(refused(end).1, Some(535), "others can listen");
    }

    #[test]
    fn a_refused_hashed_password_is_not_tried_with_weaker_hashes() {
        let proof = |names: &[&str], offered| {
            let options = if names.is_empty() { tls() } else { pinned(names) };
            let mut talk = Talk::new(password(), options, offered);
            talk.fill();
            talk.hear("535 no").unwrap();
            talk.fill().0.split(' ').nth(1).map(|name| name.trim_end().to_owned())
        };
        let all = "PLAIN LOGIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256";
        assert_eq!(proof(&[], all).as_deref(), Some("PLAIN"));
        assert_eq!(proof(&[], "LOGIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256").as_deref(), Some("LOGIN"));
        assert_eq!(proof(&[], "CRAM-MD5 SCRAM-SHA-256").as_deref(), Some("CRAM-MD5"), "neither is offered");
        let order = ["SCRAM-SHA-1", "CRAM-MD5", "PLAIN"];
        assert_eq!(proof(&order, all).as_deref(), Some("CRAM-MD5"), "the caller's order");
    }

    // Behaviour 69.
    #[test]
    fn an_invalid_base64_challenge_leads_to_the_next_mechanism() {
        Talk::new(password(), tls(), "PLAIN CRAM-MD5")
            .end(
                "C: AUTH CRAM-MD5
                 S: 334 ?!
                 C: *
                 S: 501 cancelled
                 C: AUTH PLAIN AHVzZXIAczNjcmV0
                 S: 235 in",
            )
            .unwrap();
    }

    #[test]
    fn rfc_2195_example_succeeds_in_a_dialogue() {
        Talk::new(Credentials::new("tim", "tanstaaftanstaaf").unwrap(), tls(), "CRAM-MD5")
            .end(
                "C: AUTH CRAM-MD5
                 S: 334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+
                 C: dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw
                 S: 235 in",
            )
            .unwrap();
    }

    /// Returns the mechanism of the first command, and its channel-binding flag.
    fn first(options: AuthOptions, offered: &str) -> (String, String) {
        let (said, _) = Talk::new(password(), options, offered).fill();
        let mut words = said.trim_end().split(' ').skip(1);
        let (name, initial) = (words.next().unwrap(), BASE64.decode(words.next().unwrap()).unwrap());
        let header = String::from_utf8(initial).unwrap();
        (name.to_owned(), header[..header.find(",,").unwrap()].to_owned())
    }

    #[test]
    fn the_channel_is_bound_if_both_sides_support_it() {
        let bound = AuthOptions { channel_binding: Some(vec![7; 32]), ..tls() };
        let exported = AuthOptions { tls_exporter: Some(vec![8; 32]), ..tls() };
        let both = AuthOptions { tls_exporter: Some(vec![8; 32]), ..bound.clone() };
        let all = "PLAIN SCRAM-SHA-1 SCRAM-SHA-256-PLUS SCRAM-SHA-256";
        for (options, offered, name, flag) in [
            (&bound, all, "SCRAM-SHA-256-PLUS", "p=tls-server-end-point"),
            (&exported, all, "SCRAM-SHA-256-PLUS", "p=tls-exporter"),
            (&both, all, "SCRAM-SHA-256-PLUS", "p=tls-exporter"),
            (&exported, "SCRAM-SHA-256", "SCRAM-SHA-256", "y"),
            (&bound, "SCRAM-SHA-256 SCRAM-SHA-1", "SCRAM-SHA-256", "y"),
            (&bound, "SCRAM-SHA-1", "SCRAM-SHA-1", "y"),
            (&bound, "SCRAM-SHA-1 SCRAM-SHA-1-PLUS", "SCRAM-SHA-1", "n"),
            (&tls(), all, "SCRAM-SHA-256", "n"),
            (&tls(), "SCRAM-SHA-1", "SCRAM-SHA-1", "n"),
        ] {
            assert_eq!(first(options.clone(), offered), (name.to_owned(), flag.to_owned()), "{offered}");
        }
        let pin = AuthOptions { mechanisms: Some(vec!["SCRAM-SHA-256".into()]), ..bound };
        assert_eq!(first(pin, all).1, "n", "PLUS is offered but not chosen: not a downgrade");
    }

    /// Two refusals are the limit, and a refusal without a reason may be about the password.
    #[test]
    fn a_refused_binding_to_the_connection_is_followed_by_one_to_the_certificate() {
        let both = AuthOptions {
            channel_binding: Some(vec![7; 32]),
            tls_exporter: Some(vec![8; 32]),
            ..pinned(&["SCRAM-SHA-256-PLUS"])
        };
        let named = |talk: &mut Talk| {
            let (said, _) = talk.fill();
            let initial = said.trim_end().rsplit(' ').next().unwrap().to_owned();
            String::from_utf8(BASE64.decode(initial).unwrap()).unwrap().split(',').next().unwrap().to_owned()
        };
        let mut talk = Talk::new(password(), both, "SCRAM-SHA-256-PLUS PLAIN");
        assert_eq!(named(&mut talk), "p=tls-exporter");
        talk.hear("535 no").unwrap();
        assert_eq!(named(&mut talk), "p=tls-server-end-point");
        talk.hear("535 no").unwrap();
        assert!(talk.auth.into_result(None).is_err());
    }

    /// Plays a login up to the point where the server has to prove itself.
    fn proved() -> Talk {
        let mut talk = Talk::new(password(), tls(), "SCRAM-SHA-256 PLAIN");
        let (said, _) = talk.fill();
        let first = BASE64.decode(said.trim_end().rsplit(' ').next().unwrap()).unwrap();
        let first = String::from_utf8(first).unwrap();
        let nonce = first.rsplit("r=").next().unwrap();
        talk.hear(&format!("334 {}", BASE64.encode(format!("r={nonce}more,s=c2FsdA==,i=4096")))).unwrap();
        talk.fill();
        talk
    }

    // Threat 67.
    #[test]
    fn a_server_that_does_not_prove_itself_is_rejected() {
        for reply in ["235 in", "235 dj1BQUFB", "334 dj1BQUFB", "334"] {
            let mut talk = proved();
            let error = talk.hear(reply).unwrap_err();
            assert!(matches!(&error, Error::Auth { reply: None, .. }), "{reply}: {error:?}");
            assert!(talk.auth.into_result(Some(error)).is_err());
        }
    }

    #[test]
    fn a_refused_scram_proof_leads_to_the_next_mechanism() {
        proved().end("S: 535 no\nC: AUTH PLAIN AHVzZXIAczNjcmV0\nS: 235 in").unwrap();
        let mut told = proved();
        told.play("S: 334 ZT1zM2NyZXQ=\nC: *\nS: 501 e").unwrap(); // e=s3cret
        let refusal = format!("{:?}", told.auth.refusal);
        assert!(refusal.contains("reported ***"), "{refusal}");
        proved().end("S: 334 ZT1ubw==\nC: *\nS: 501 e\nC: AUTH PLAIN AHVzZXIAczNjcmV0\nS: 235 in").unwrap();
    }

    // Threat 68.
    #[test]
    fn an_excessive_iteration_count_cancels_the_mechanism() {
        let mut talk = Talk::new(password(), pinned(&["SCRAM-SHA-1"]), "SCRAM-SHA-1");
        let (said, _) = talk.fill();
        let first = BASE64.decode(said.trim_end().rsplit(' ').next().unwrap()).unwrap();
        let nonce = String::from_utf8(first).unwrap().rsplit("r=").next().unwrap().to_owned();
        let bomb = BASE64.encode(format!("r={nonce}more,s=c2FsdA==,i=2147483647"));
        let end = talk.end(&format!("S: 334 {bomb}\nC: *\nS: 501 cancelled"));
        assert!(refused(end).0.contains("iteration count"));
    }
}

fn reply() -> impl Strategy<Value = String> {
    let code = prop_oneof![Just(334), Just(334), Just(535), Just(235), Just(454), 200u16..600];
    let text = prop_oneof![
        Just(String::new()),
        "[ -~]{0,20}",
        any::<Vec<u8>>().prop_map(|octets| BASE64.encode(octets)),
        "(r|s|i|v|e|m)=[ -~]{0,9}(,[rsi]=[0-9a-z]{0,5}){0,3}".prop_map(|text| BASE64.encode(text)),
    ];
    (code, text).prop_map(|(code, text)| format!("{code} {text}"))
}

proptest! {
    #[test]
    fn any_login_dialogue_ends_and_cancels_only_a_challenge(
        replies in proptest::collection::vec(reply(), 1..9),
        kind in 0..7,
        encrypted in any::<bool>(),
    ) {
        let credentials = match kind {
            0 => password(),
            1 => Credentials::token("u", "t").unwrap(),
            2 => Credentials::token_later("u").unwrap(),
            6 => Credentials::password_later("u").unwrap(),
            3 => Credentials::external("u").unwrap(),
            4 => Credentials::anonymous("").unwrap(),
            _ => Credentials::custom(Chatter).unwrap(),
        };
        let options = AuthOptions { encrypted, ..AuthOptions::default() };
        let all = "LOGIN PLAIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256 XOAUTH2 OAUTHBEARER EXTERNAL ANONYMOUS X-CHATTER";
        let mut talk = Talk::new(credentials, options, all);
        let (mut open, mut over) = (false, None);
        // The replies are repeated.
        for reply in replies.iter().cycle().take(200) {
            let (said, want) = loop {
                match talk.fill() {
                    (_, Want::Secret) => talk.auth.on_secret("token").unwrap(),
                    other => break other,
                }
            };
            prop_assert_eq!(said.matches("\r\n").count(), usize::from(want == Want::Reply), "{:?}", said);
            prop_assert!(said != "*\r\n" || open, "a star without a challenge");
            prop_assert!(open || said.is_empty() || said.starts_with("AUTH "), "an answer without a challenge");
            if want == Want::Nothing {
                over = Some(None);
                break;
            }
            open = reply.starts_with("334");
            if let Err(e) = talk.hear(reply) {
                over = Some(Some(e));
                break;
            }
        }
        prop_assert!(over.is_some(), "the login does not end");
        let end = talk.auth.into_result(over.unwrap());
        prop_assert!(end.is_err() || replies.iter().any(|reply| reply.starts_with('2')));
    }
}
