//! Every server, every way to connect, every mechanism: the right secret lets a message through, a wrong one does not.
//! Compiled for both clients.

use postino::{Error, Outcome, Raw, Security};

use super::{
    Builder, CLIENT, Client, block_on,
    cases::{builder, envelope},
    maybe_async,
};
use crate::{
    conversation::{dialogue_of, keep_a_journal},
    results::{Cell, Matrix, Verdict, settle},
    servers::{self, AIOSMTPD, DOVECOT, EXIM, PASSWORD, POSTFIX, SENDMAIL, SMTPSERVER, Server, TOKEN, USER},
};

const MECHANISMS: [&str; 8] = [
    "SCRAM-SHA-256-PLUS",
    "SCRAM-SHA-256",
    "SCRAM-SHA-1",
    "CRAM-MD5",
    "PLAIN",
    "LOGIN",
    "OAUTHBEARER",
    "XOAUTH2",
];
/// The mechanisms of the login library of Postfix and Sendmail, and those configured for Exim.
const CYRUS: &[&str] = &["SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"];
/// Those that do not send the password.
const CYRUS_IN_CLEAR: &[&str] = &["SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5"];
const OF_DOVECOT: &[&str] =
    &["SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN", "OAUTHBEARER", "XOAUTH2"];
const OF_SMTPSERVER: &[&str] = &["CRAM-MD5", "PLAIN", "LOGIN", "XOAUTH2"];
const OF_AIOSMTPD: &[&str] = &["SCRAM-SHA-256-PLUS", "PLAIN", "LOGIN"];

/// The port has no STARTTLS.
const PLAIN: &str = "plain";
/// STARTTLS is offered, but not used.
const UNSECURED: &str = "plain, STARTTLS left alone";
const STARTTLS: &str = "STARTTLS";
const IMPLICIT: &str = "implicit TLS";

/// A way to connect: server, kind, port if there is one, and all mechanisms offered there.
struct Way(Server, &'static str, Option<u16>, &'static [&'static str]);

const WAYS: [Way; 24] = [
    Way(POSTFIX, PLAIN, Some(12588), CYRUS),
    Way(POSTFIX, UNSECURED, Some(12587), &[]),
    Way(POSTFIX, STARTTLS, Some(12587), CYRUS),
    Way(POSTFIX, IMPLICIT, Some(12465), CYRUS),
    Way(DOVECOT, PLAIN, None, &[]),
    Way(DOVECOT, UNSECURED, Some(14587), OF_DOVECOT),
    Way(DOVECOT, STARTTLS, Some(14587), OF_DOVECOT),
    Way(DOVECOT, IMPLICIT, Some(14465), OF_DOVECOT),
    Way(EXIM, PLAIN, Some(13588), CYRUS),
    Way(EXIM, UNSECURED, Some(13587), &[]),
    Way(EXIM, STARTTLS, Some(13587), CYRUS),
    Way(EXIM, IMPLICIT, Some(13465), CYRUS),
    Way(SENDMAIL, PLAIN, None, &[]),
    Way(SENDMAIL, UNSECURED, Some(17525), CYRUS_IN_CLEAR),
    Way(SENDMAIL, STARTTLS, Some(17525), CYRUS),
    Way(SENDMAIL, IMPLICIT, Some(17465), CYRUS),
    Way(SMTPSERVER, PLAIN, Some(18588), OF_SMTPSERVER),
    Way(SMTPSERVER, UNSECURED, Some(18525), OF_SMTPSERVER),
    Way(SMTPSERVER, STARTTLS, Some(18525), OF_SMTPSERVER),
    Way(SMTPSERVER, IMPLICIT, Some(18465), OF_SMTPSERVER),
    Way(AIOSMTPD, PLAIN, None, &[]),
    Way(AIOSMTPD, UNSECURED, Some(19525), &[]),
    Way(AIOSMTPD, STARTTLS, Some(19525), OF_AIOSMTPD),
    Way(AIOSMTPD, IMPLICIT, Some(19465), OF_AIOSMTPD),
];

impl Way {
    fn builder(&self, port: u16) -> Builder {
        let security = match self.1 {
            STARTTLS => Security::StartTls,
            IMPLICIT => Security::Implicit,
            _ => Security::Plaintext,
        };
        builder(port, security, false)
    }

    /// The reason why a mechanism is not offered there.
    fn lacks(&self, mechanism: &str) -> &'static str {
        match (self.0.name, self.1, mechanism) {
            (_, PLAIN, _) if self.2.is_none() => "it has no port for logins without STARTTLS",
            ("postfix" | "exim" | "aiosmtpd", UNSECURED, _) => "AUTH is offered under TLS only",
            ("sendmail", UNSECURED, "PLAIN" | "LOGIN") => {
                "what shows the password is offered under TLS only (`AuthOptions=p`)"
            }
            ("postfix" | "exim" | "sendmail", _, "SCRAM-SHA-256-PLUS") => {
                "it gives its login library, Cyrus SASL, no channel binding"
            }
            ("dovecot", _, "SCRAM-SHA-256-PLUS") => "Dovecot 2.3 has no channel binding",
            ("postfix" | "exim" | "sendmail", _, "OAUTHBEARER" | "XOAUTH2") => {
                "its login library, Cyrus SASL, has nothing for tokens"
            }
            ("smtpserver", ..) => "smtp-server has PLAIN, LOGIN, CRAM-MD5 and XOAUTH2 only",
            ("aiosmtpd", ..) => {
                "aiosmtpd has PLAIN and LOGIN only (SCRAM-SHA-256-PLUS was written for these tests)"
            }
            (server, way, _) => panic!("{server}, {way}, {mechanism}: neither offered nor a reason why not"),
        }
    }

    /// Whether the mechanisms are listed, but the server refuses every login with them.
    fn is_in_vain(&self) -> bool {
        self.0.name == SMTPSERVER.name && self.1 == UNSECURED
    }
}

fn is_for_tokens(mechanism: &str) -> bool {
    matches!(mechanism, "OAUTHBEARER" | "XOAUTH2")
}

fn right_secret(mechanism: &str) -> &'static str {
    if is_for_tokens(mechanism) { TOKEN } else { PASSWORD }
}

/// Logs in by one mechanism, or tries to. A secret is a password or a token.
#[maybe_async]
async fn login(way: &Builder, mechanism: &str, user: &str, secret: &str) -> Result<Client, Error> {
    let way = way.clone().auth_mechanisms([mechanism]);
    if is_for_tokens(mechanism) {
        way.oauth_token(user, secret).connect().await
    } else {
        way.credentials(user, secret).connect().await
    }
}

/// Checks that every mechanism the server offers is in the table.
#[maybe_async]
async fn offered(way: &Builder) -> Result<Vec<String>, Error> {
    let mut client = way.connect().await?;
    let mut offered: Vec<String> = client.capabilities().auth_mechanisms().collect();
    client.quit().await?;
    offered.sort();
    offered.dedup(); // Postfix offers them as `AUTH=` too
    Ok(offered)
}

/// Checks that the right secret is answered with 235, and that a message then arrives.
#[maybe_async]
async fn lets_in(server: &Server, way: &Builder, mechanism: &str) -> Result<(), String> {
    keep_a_journal();
    let mut client = match login(way, mechanism, USER, right_secret(mechanism)).await {
        Ok(client) => client,
        Err(e) => return Err(format!("the right secret: {e:?}")),
    };
    let dialogue = dialogue_of(client.connection_number());
    if !dialogue.iter().any(|line| line.starts_with("S: 235")) {
        return Err(format!("no 235: {dialogue:#?}"));
    }
    let token = servers::token();
    let text = format!("Subject: {token}\n\n{mechanism}\n");
    let sent = client.send(&Raw::bytes(envelope("alice@lab.test"), &text)).await;
    if !sent.as_ref().is_ok_and(|delivery| delivery.outcome() == Outcome::Accepted) {
        return Err(format!("the message: {sent:?}"));
    }
    let stored = server.stored(&token);
    if !stored.ends_with(&server.as_stored(format!("\r\n\r\n{mechanism}\r\n").as_bytes())) {
        return Err(format!("stored {}", stored.escape_ascii()));
    }
    if matches!(server.name, "smtpserver" | "aiosmtpd") {
        let said = server.envelope(&token);
        if !said.contains(&format!("login {USER}")) {
            return Err(format!("nobody was logged in: {said:?}"));
        }
    }
    client.quit().await.map_err(|e| format!("{e:?}"))
}

/// Checks that a wrong secret and an unknown user are refused permanently, and that no error shows the secret.
#[maybe_async]
async fn keeps_out(way: &Builder, mechanism: &str) -> Result<(), String> {
    for (user, secret) in [(USER, "wr0ng"), ("nobody@lab.test", right_secret(mechanism))] {
        let Err(error) = login(way, mechanism, user, secret).await else {
            return Err(format!("{user} with {secret} was let in"));
        };
        let seen = format!("{error:?} {error}");
        let Error::Auth { details, .. } = &error else { return Err(seen) };
        let refused = error.is_permanent() && error.reply().is_some_and(|reply| reply.code() == 535);
        let shown = [secret, PASSWORD, TOKEN].iter().any(|secret| seen.contains(secret));
        // A refusal of a token comes with details.
        if !refused || shown || details.is_some() != is_for_tokens(mechanism) {
            return Err(seen);
        }
    }
    Ok(())
}

/// Checks that logins are refused whatever the secret is.
#[maybe_async]
async fn lets_nobody_in(way: &Builder, mechanism: &str, code: u16) -> Result<(), String> {
    match login(way, mechanism, USER, right_secret(mechanism)).await {
        Err(e @ Error::Auth { .. }) if e.is_permanent() && e.reply().unwrap().code() == code => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[maybe_async]
async fn cell(way: &Way, builder: &Builder, mechanism: &'static str) -> Verdict {
    let result = if way.is_in_vain() {
        lets_nobody_in(builder, mechanism, 538).await.map(|()| true)
    } else {
        match lets_in(&way.0, builder, mechanism).await {
            Ok(()) => keeps_out(builder, mechanism).await.map(|()| false),
            Err(e) => Err(e),
        }
    };
    match result {
        Ok(false) => Verdict::Passed(String::new()),
        Ok(true) => Verdict::Refused("it is listed, and answered 538 until there is TLS".into()),
        Err(e) => Verdict::Failed(e),
    }
}

fn cells(way: &Way) -> Vec<Cell> {
    let cell_of = |what, verdict| Cell { way: way.1, what, verdict };
    let absent = |mechanism| cell_of(mechanism, Verdict::Absent(way.lacks(mechanism).into()));
    let Some(port) = way.2 else { return MECHANISMS.map(absent).into() };
    let builder = way.builder(port);
    let mut expected = way.3.to_vec();
    expected.sort_unstable();
    let offered = block_on(offered(&builder)).unwrap();
    assert_eq!(offered, expected, "{}, {}: what is offered, and what is in the table", way.0.name, way.1);
    MECHANISMS
        .iter()
        .map(|mechanism| {
            if !expected.contains(mechanism) {
                absent(mechanism)
            } else if !servers::has(mechanism) {
                cell_of(mechanism, Verdict::Absent("this build is without the `sasl` feature".into()))
            } else {
                cell_of(mechanism, block_on(cell(way, &builder, mechanism)))
            }
        })
        .collect()
}

fn all_logins(server: &Server) {
    if !server.is_up() {
        return;
    }
    let cells = std::thread::scope(|scope| {
        let ways = WAYS.iter().filter(|way| way.0.name == server.name);
        let ways: Vec<_> = ways.map(|way| scope.spawn(|| cells(way))).collect();
        ways.into_iter().flat_map(|way| way.join().unwrap()).collect()
    });
    settle(Matrix::Logins, server.name, CLIENT, cells);
}

#[test]
fn postfix_accepts_the_right_secret_by_each_mechanism() {
    all_logins(&POSTFIX);
}

#[test]
fn dovecot_accepts_the_right_secret_by_each_mechanism() {
    all_logins(&DOVECOT);
}

#[test]
fn exim_accepts_the_right_secret_by_each_mechanism() {
    all_logins(&EXIM);
}

#[test]
fn sendmail_accepts_the_right_secret_by_each_mechanism() {
    all_logins(&SENDMAIL);
}

#[test]
fn smtpserver_accepts_the_right_secret_by_each_mechanism() {
    all_logins(&SMTPSERVER);
}

#[test]
fn aiosmtpd_accepts_the_right_secret_by_each_mechanism() {
    all_logins(&AIOSMTPD);
}

/// Checks that a response too long for the AUTH line is sent after it.
#[maybe_async]
async fn too_long(way: &Way) -> Result<(), Error> {
    let builder = way.builder(way.2.unwrap());
    for name in way.3.iter().copied().filter(|name| *name == "PLAIN" || is_for_tokens(name)) {
        let error = login(&builder, name, USER, &"x".repeat(600)).await.unwrap_err();
        assert_eq!(error.reply().unwrap().code(), 535, "{} {name}: {error:?}", way.0.name);
        let Error::Auth { details, .. } = error else { panic!("{} {name}: {error:?}", way.0.name) };
        assert_eq!(details.is_some(), is_for_tokens(name), "{} {name}", way.0.name);
    }
    Ok(())
}

#[test]
fn a_secret_too_long_for_the_auth_line_is_still_accepted() {
    for way in WAYS.iter().filter(|way| way.1 == IMPLICIT && way.0.is_up()) {
        block_on(too_long(way)).unwrap();
    }
}
