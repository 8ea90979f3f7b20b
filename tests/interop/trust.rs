//! Odd certificates of Postfix and smtp-server: whether each is trusted, if not why, and that the server then receives
//! nothing more. Compiled for both clients. (`tests/dialogue/trust.rs` does this without real servers.)

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use postino::{Error, Outcome, Raw, Security, TlsBackend};

use super::{
    Builder, CLIENT, LIBRARY, block_on,
    cases::{builder, envelope},
    maybe_async,
};
use crate::{
    results::{Cell, Matrix, Verdict, settle},
    servers::{self, POSTFIX, SMTPSERVER, Server},
};

const TRUSTED: Option<&str> = None;
const OTHER_NAME: Option<&str> = Some("hostname mismatch");
const OTHER_ADDRESS: Option<&str> = Some("ip address mismatch");

/// Description; number of the certificate in `servers` (0 is the usual one); name to verify; and why it is not trusted.
const CERTIFICATES: [(&str, u16, &str, Option<&str>); 20] = [
    ("good, by address", 0, "127.0.0.1", TRUSTED),
    ("good, by name", 0, "mx.lab.test", TRUSTED),
    ("good, for another name", 0, "other.example", OTHER_NAME),
    ("expired", 1, "127.0.0.1", Some("certificate has expired")),
    ("not yet valid", 2, "127.0.0.1", Some("certificate is not yet valid")),
    ("wrong host", 3, "localhost", OTHER_NAME),
    ("wrong host, by address", 3, "127.0.0.1", OTHER_ADDRESS),
    ("another CA's", 4, "127.0.0.1", Some("self signed certificate in certificate chain")),
    ("self-signed", 5, "127.0.0.1", Some("self signed certificate")),
    ("common name only, no SAN", 6, "localhost", TRUSTED), // see Builder::tls_name
    ("common name only, another", 6, "mx.lab.test", OTHER_NAME),
    ("name only, by address", 7, "127.0.0.1", OTHER_ADDRESS),
    ("address only", 8, "127.0.0.1", TRUSTED),
    ("address only, by name", 8, "localhost", OTHER_NAME),
    ("address as a DNS name", 9, "127.0.0.1", OTHER_ADDRESS),
    ("wildcard", 10, "mx.lab.test", TRUSTED),
    ("wildcard, two labels", 10, "a.mx.lab.test", OTHER_NAME),
    ("wildcard of everything", 11, "localhost", OTHER_NAME),
    ("A-label", 12, "xn--bcher-kva.test", TRUSTED),
    ("not for servers", 13, "127.0.0.1", Some("certificate purpose")), // unsupported or unsuitable, by the version
];

const WAYS: [(&str, Security); 2] = [("STARTTLS", Security::StartTls), ("implicit TLS", Security::Implicit)];

fn port(server: &Server, certificate: u16, security: Security) -> u16 {
    let base = if server.name == POSTFIX.name { 12_600 } else { 18_600 };
    match (certificate, security) {
        (0, Security::Implicit) => server.implicit,
        (0, _) => server.submission,
        (_, Security::Implicit) => base + 100 + certificate,
        _ => base + certificate,
    }
}

/// All that the server received from this client, once it is gone.
fn heard_by(server: &Server, client: Ipv4Addr) -> String {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let told = match server.name {
            "postfix" => counted_by_postfix(client),
            _ => recorded_by_smtpserver(client),
        };
        if let Some(heard) = told {
            return heard;
        }
        assert!(Instant::now() < end, "{} did not notice that {client} was gone", server.name);
        thread::sleep(Duration::from_millis(50));
    }
}

/// As in `ehlo=1 starttls=0/1 commands=1/2`: the commands accepted, and those sent.
fn counted_by_postfix(client: Ipv4Addr) -> Option<String> {
    let log = fs::read_to_string(servers::state().join("log/postfix/log")).unwrap();
    let line = log
        .lines()
        .find(|line| line.contains(": disconnect from ") && line.contains(&format!("[{client}]")))?;
    Some(line.rsplit_once("] ")?.1.to_owned())
}

/// As in `EHLO client.lab.test, STARTTLS`.
fn recorded_by_smtpserver(client: Ipv4Addr) -> Option<String> {
    let heard = fs::read_to_string(servers::state().join("mail/smtpserver/heard")).unwrap_or_default();
    let lines: Vec<_> = heard.lines().filter_map(|line| line.strip_prefix(&format!("{client} "))).collect();
    let closed = lines.iter().position(|line| *line == "closed")?;
    Some(lines[..closed].join(", "))
}

/// All that an untrusted server receives: only what precedes TLS.
fn nothing_more(server: &Server, security: Security) -> &'static str {
    match (server.name, security) {
        ("postfix", Security::Implicit) => "commands=0/0",
        ("postfix", _) => "ehlo=1 starttls=0/1 commands=1/2",
        (_, Security::Implicit) => "",
        _ => "EHLO client.lab.test, STARTTLS",
    }
}

/// Checks that a message arrives.
#[maybe_async]
async fn sent(server: &Server, builder: &Builder) -> Result<(), Error> {
    let token = servers::token();
    let text = format!("Subject: {token}\n\nx\n");
    let delivery = builder.send(&Raw::bytes(envelope("alice@lab.test"), &text)).await?;
    assert_eq!(delivery.outcome(), Outcome::Accepted);
    server.stored(&token);
    Ok(())
}

fn verdict(
    server: &Server,
    security: Security,
    (_, certificate, name, why): (&str, u16, &str, Option<&str>),
) -> Verdict {
    let client = servers::address();
    let login = certificate == 0;
    let by_rustls = LIBRARY.unwrap_or_default() == TlsBackend::Rustls;
    let builder = builder(port(server, certificate, security), security, login).tls_name(name);
    // All ports of Postfix know each other's sessions, and a server that resumes one presents no certificate. With
    // another setting, the builder shares no sessions with the others.
    let builder = if by_rustls { builder.system_roots(false) } else { builder };
    let result = block_on(sent(server, &builder.bind(SocketAddr::from((client, 0)))));
    let heard = heard_by(server, client);
    // See Builder::tls_name.
    let why = if certificate == 6 && by_rustls { OTHER_NAME } else { why };
    match (why, result) {
        (None, Ok(())) => Verdict::Passed(String::new()),
        (Some(why), Err(Error::Certificate { name: verified, reason, .. })) => {
            let plain = reason.to_ascii_lowercase().replace('-', " "); // OpenSSL's versions differ in this
            if plain.contains(why) && verified == name && heard == nothing_more(server, security) {
                Verdict::Refused(reason)
            } else {
                Verdict::Failed(format!("{reason} for {verified}; the server heard {heard:?}"))
            }
        }
        (_, result) => Verdict::Failed(format!("{result:?}; the server heard {heard:?}")),
    }
}

fn all_certificates(server: &Server) {
    if !server.is_up() {
        return;
    }
    let mut cells = Vec::new();
    for (way, security) in WAYS {
        for row in CERTIFICATES {
            cells.push(Cell { way, what: row.0, verdict: verdict(server, security, row) });
        }
    }
    settle(Matrix::Certificates, server.name, CLIENT, cells);
}

#[test]
fn postfix_is_trusted_only_with_good_certificates() {
    all_certificates(&POSTFIX);
}

#[test]
fn smtpserver_is_trusted_only_with_good_certificates() {
    all_certificates(&SMTPSERVER);
}
