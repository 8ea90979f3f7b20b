//! What must not be seen of a password or a token, and where. Compiled for both clients.

use std::error::Error as _;

use postino::{Envelope, Error, Raw, auth::Credentials};

use super::{Builder, Client, Pool, block_on, maybe_async, password_from, token_from};
use crate::{
    parrot::{FATES, Fate, USER, forms, parrot},
    support::journal,
};

/// How a login is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `Client::login`.
    Login,
    ByName,
    /// `Builder::credentials`, `Builder::oauth_token`, or in the URL, or from a callback.
    Builder,
    Url,
    Callback,
    Pool,
}

/// Everything that could be printed.
#[derive(Default)]
struct Shown(String);

impl Shown {
    fn error(&mut self, error: &Error) {
        self.0.push_str(&format!("{error}\n{error:?}\n{error:#?}\n"));
        let mut cause = error.source();
        while let Some(error) = cause {
            self.0.push_str(&format!("{error}\n{error:?}\n"));
            cause = error.source();
        }
        if let Some(reply) = error.reply() {
            self.0.push_str(&format!("{reply}\n{reply:?}\n{}\n", String::from_utf8_lossy(reply.raw())));
        }
        if let Error::Auth { details: Some(details), .. } = error {
            self.0.push_str(details);
        }
    }

    fn result<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        result.map_err(|e| self.error(&e)).ok()
    }

    fn debug(&mut self, what: &impl std::fmt::Debug) {
        self.0.push_str(&format!("{what:?}\n{what:#?}\n"));
    }
}

fn is_token(mechanism: &str) -> bool {
    mechanism.contains("OAUTH")
}

/// Returns a builder for the server, with short limits. One mechanism needs TLS.
fn plain(mechanism: &str, port: u16) -> Builder {
    reach(Client::builder("127.0.0.1").port(port), mechanism)
}

fn reach(builder: Builder, mechanism: &str) -> Builder {
    let builder = builder.deadline(std::time::Duration::from_secs(30)).auth_mechanisms([mechanism]);
    #[cfg(any(feature = "native-tls", feature = "rustls"))]
    if mechanism.ends_with("-PLUS") {
        return builder.security(postino::Security::Implicit).ca_certificate(crate::support::tls::CA);
    }
    builder
}

fn with_secret(mechanism: &str, port: u16, secret: &str, way: Way) -> Builder {
    let builder = plain(mechanism, port);
    match way {
        Way::Url => {
            let user = format!("{USER}:{secret}@127.0.0.1:{port}");
            let scheme = if mechanism.ends_with("-PLUS") { "smtps" } else { "smtp" };
            reach(Client::from_url(&format!("{scheme}://{user}")).unwrap(), mechanism)
        }
        Way::Callback => {
            let secret = secret.to_owned();
            let ask = move || Ok(secret.clone());
            if is_token(mechanism) { token_from(builder, ask) } else { password_from(builder, ask) }
        }
        _ if is_token(mechanism) => builder.oauth_token(USER, secret),
        _ => builder.credentials(USER, secret),
    }
}

#[maybe_async]
async fn by_name(client: &mut Client, mechanism: &str, secret: &str) -> Result<(), Error> {
    let credentials =
        if is_token(mechanism) { Credentials::token(USER, secret)? } else { Credentials::new(USER, secret)? };
    client.auth(mechanism, &credentials).await
}

/// Makes one login. Returns whether it succeeded.
#[maybe_async]
async fn log_in(mechanism: &str, port: u16, secret: &str, way: Way, shown: &mut Shown) -> bool {
    let builder = match way {
        Way::Login | Way::ByName => plain(mechanism, port),
        _ => with_secret(mechanism, port, secret, way),
    };
    shown.debug(&builder);
    if way == Way::Pool {
        let pool = Pool::builder(builder);
        shown.debug(&pool);
        let pool = pool.build().unwrap();
        let mail = Raw::bytes(Envelope::new("a@b", ["c@d"]).unwrap(), "Hello\r\n");
        let sent = pool.send(&mail).await;
        shown.debug(&pool);
        let in_ = shown.result(sent).is_some();
        pool.close().await;
        return in_;
    }
    let Some(mut client) = shown.result(builder.connect().await) else { return false };
    let result = match way {
        Way::Login => client.login(USER, secret).await,
        Way::ByName => by_name(&mut client, mechanism, secret).await,
        _ => Ok(()),
    };
    shown.debug(&client);
    let in_ = shown.result(result).is_some();
    client.close();
    in_
}

/// Returns a secret for this test alone, so that none of its forms is in the log for another reason.
fn secret(length: usize) -> String {
    let is_async = std::any::type_name::<Client>().contains("aio");
    let start = if is_async { "hunter-of-tasks" } else { "hunter-of-threads" };
    format!("{start}-{}", "0123456789abcdef".repeat(length))
}

// Threats 70 and 71.
#[test]
fn no_secret_is_shown_however_a_login_ends() {
    journal::begin();
    let mut mechanisms = vec!["PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"];
    if cfg!(feature = "sasl") {
        mechanisms.extend(["CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"]);
        if cfg!(any(feature = "native-tls", feature = "rustls")) {
            mechanisms.push("SCRAM-SHA-256-PLUS");
        }
    }
    let mut shown = Shown::default();
    // The long one does not fit into the AUTH line, and waits for a challenge.
    for (secret, long) in [(secret(1), false), (secret(32), true)] {
        let credentials = Credentials::new(USER, &secret).unwrap();
        shown.debug(&credentials);
        let waits = |mechanism: &&&str| **mechanism == "PLAIN" || is_token(mechanism);
        for mechanism in mechanisms.iter().filter(|mechanism| !long || waits(mechanism)) {
            let ways: &[Way] = if is_token(mechanism) {
                &[Way::ByName, Way::Builder, Way::Callback, Way::Pool]
            } else if *mechanism == "PLAIN" {
                &[Way::Login, Way::ByName, Way::Builder, Way::Url, Way::Callback, Way::Pool]
            } else {
                &[Way::Login, Way::ByName, Way::Builder, Way::Url, Way::Pool]
            };
            for (fate, way) in FATES.iter().flat_map(|fate| ways.iter().map(move |way| (*fate, *way))) {
                let server = parrot(mechanism, &secret, fate);
                let in_ = block_on(log_in(mechanism, server.port(), &secret, way, &mut shown));
                let heard = String::from_utf8(server.finish()).unwrap();
                let what = format!("{mechanism} {fate:?} {way:?} {long}");
                assert_eq!(in_, fate == Fate::Accepted, "{what}: {heard}\n{}", shown.0);
                assert!(heard.contains(&format!("AUTH {mechanism}")), "{what}: {heard}");
            }
        }
        let mut lines = journal::lines_with("").join("\n");
        assert!(lines.contains("C: AUTH PLAIN") && lines.contains("S: 535 you said ***"), "{lines}");
        lines.push_str(&shown.0);
        for form in forms(&secret) {
            let line = lines.lines().find(|line| line.contains(&form));
            assert_eq!(line, None, "{form}");
        }
    }
}

/// Invalid values are reported without showing them.
// Threat 70.
#[test]
fn errors_of_invalid_settings_show_no_secret() {
    let secret = secret(1);
    let mut shown = Shown::default();
    for url in [
        "smtp://carol:SECRET@127.0.0.1:port",
        "smtp://carol:SECRET@127.0.0.1?what=ever",
        "smtp://carol:SECRET%zz@127.0.0.1",
        "smtp://carol:SECRET%00@127.0.0.1",
        "smtp://carol:SECRET@",
        "smtp://carol:SECRET@a b",
        "http://carol:SECRET@127.0.0.1",
        "carol:SECRET@127.0.0.1",
        "smtp+unix://carol:SECRET@/path",
    ] {
        let builder = Client::from_url(&url.replace("SECRET", &secret));
        let error = builder.and_then(|builder| block_on(builder.port(1).connect()).map(drop));
        assert!(matches!(error, Err(Error::Config(_))), "{url}: {error:?}");
        shown.result(error);
    }
    let (nul, line_end) = (format!("{secret}\0"), format!("{secret}\n"));
    let builder = || Client::builder("127.0.0.1").port(1);
    for builder in [
        builder().credentials(USER, &nul),
        builder().credentials("", &secret),
        builder().oauth_token(USER, line_end.as_str()),
        builder().credentials(USER, &secret).auth_mechanisms(["XOAUTH2"]),
        token_from(builder(), || Err("no token")).oauth_token(USER, nul.as_str()),
    ] {
        shown.debug(&builder);
        let error = block_on(builder.connect());
        assert!(matches!(error, Err(Error::Config(_))), "{error:?}");
        shown.result(error.map(drop));
    }
    for credentials in [Credentials::new(USER, &nul), Credentials::token(USER, &line_end)] {
        shown.result(credentials.map(drop));
    }
    for form in forms(&secret) {
        assert!(!shown.0.contains(&form), "{form}: {}", shown.0);
    }
}
