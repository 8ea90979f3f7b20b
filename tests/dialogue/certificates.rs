//! Which servers are trusted, and how the client authenticates itself with a certificate.

use std::{io::Read, net::TcpListener, path::Path, process::Command, thread};

use postino::{Error, Security, TlsVersion};

use super::*;
use crate::{
    Pool,
    support::{
        journal,
        tls::{CA, der, end_point, identity},
    },
};

/// A client for any server; clones of it share a connector.
fn client() -> Builder {
    default_client().tls_backend(backend())
}

fn default_client() -> Builder {
    let builder = Client::builder("127.0.0.1").hello_name("client.example.org");
    builder.timeout(PATIENCE).final_reply_timeout(PATIENCE)
}

fn trusting() -> Builder {
    client().ca_certificate(CA)
}

/// Connects with TLS from the first octet, and with STARTTLS, using this certificate (and the double's other options).
#[track_caller]
fn accepted(builder: &Builder, certificate: &str) {
    const HELLO: &str = "S: 250-mail.example.org\nS: 250 AUTH EXTERNAL\n";
    for (security, script) in [
        (Security::Implicit, format!("-- tls {certificate}\n-- hello AUTH EXTERNAL")),
        (
            Security::StartTls,
            format!("{CONSENT}-- tls {certificate}\nC: EHLO client.example.org\n{HELLO}C: NOOP\nS: 250 ok"),
        ),
    ] {
        let server = Server::playing(script);
        let connected = block_on(builder.clone().port(server.port()).security(security).connect());
        let mut client = connected.unwrap_or_else(|e| panic!("{certificate}: {e}: {:?}", e.source()));
        assert!(client.is_encrypted());
        if security == Security::StartTls {
            assert_open(&mut client);
        }
    }
}

const CONSENT: &str = "-- hello STARTTLS\nC: STARTTLS\nS: 220 go ahead\n";

/// The errors with TLS from the first octet, and with STARTTLS.
fn refused(builder: &Builder, certificate: &str) -> [Error; 2] {
    [(Security::Implicit, ""), (Security::StartTls, CONSENT)].map(|(security, before)| {
        let server = Server::playing(format!("{before}-- no tls {certificate}"));
        connect_error(&builder.clone().port(server.port()).security(security))
    })
}

/// The reasons why the certificate is not trusted.
#[track_caller]
fn reasons(builder: &Builder, certificate: &str, expected_name: &str) -> [String; 2] {
    refused(builder, certificate).map(|error| {
        let text = error.to_string();
        assert!(error.is_permanent() && !error.is_transient() && error.source().is_some());
        let Error::Certificate { name, reason, .. } = error else { panic!("{certificate}: {error:?}") };
        assert_eq!(name, expected_name);
        assert!(text.contains(&name) && text.contains(&reason), "{text}");
        reason.to_ascii_lowercase().replace('-', " ") // OpenSSL's versions differ in this
    })
}

// Behaviour 60, threat 7.
#[test]
fn a_bad_certificate_is_an_error_with_the_reason() {
    let trusting = trusting();
    for (certificate, expected) in [
        ("expired", "certificate has expired"),
        ("not-yet-valid", "certificate is not yet valid"),
        ("self-signed", "self signed certificate"),
        ("unknown-issuer", "unable to get local issuer certificate"),
        ("without-issuer", "unable to get local issuer certificate"),
        ("for-clients", "certificate purpose"), // unsupported or unsuitable, depending on the version
        ("other-host", "ip address mismatch"),
        ("other-host 1.2", "ip address mismatch"),
        ("expired 1.2", "certificate has expired"),
    ] {
        for reason in reasons(&trusting, certificate, "127.0.0.1") {
            assert!(reason.contains(expected), "{certificate}: {reason}");
        }
    }
}

// Behaviour 62, threat 9.
#[test]
fn names_are_verified_as_names_and_addresses_as_addresses() {
    let trusting = trusting();
    for (certificate, name, good) in [
        ("good", "localhost", true),
        ("good", "LOCALHOST", true),
        ("good", "localhost.", true),
        ("good", "127.0.0.1", true),
        ("good", "::1", true),
        ("good", "[::1]", true),
        ("good", "mail.example.org", false),
        ("good", "127.0.0.2", false),
        ("name-only", "localhost", true),
        ("name-only", "127.0.0.1", false),
        ("address-as-name", "127.0.0.1", false),
        ("wildcard", "mail.example.org", true),
        ("wildcard", "a.mail.example.org", false),
        ("wildcard", "example.org", false),
    ] {
        let named = trusting.clone().tls_name(name);
        if good {
            accepted(&named, certificate);
        } else {
            for reason in reasons(&named, certificate, name) {
                assert!(reason.contains("mismatch"), "{certificate} {name}: {reason}");
            }
        }
    }
}

/// RFC 9525 §2 forbids this, but native-tls has no switch for it. Documented at `Builder::tls_name`.
// Threat 8.
#[test]
fn only_native_tls_accepts_a_common_name_where_there_is_no_other_name() {
    if backend() == TlsBackend::Rustls {
        reasons(&trusting().tls_name("localhost"), "common-name-only", "localhost");
        return;
    }
    accepted(&trusting().tls_name("localhost"), "common-name-only");
    reasons(&trusting().tls_name("mail.example.org"), "common-name-only", "mail.example.org");
}

#[test]
fn a_certificate_sent_with_its_issuer_is_accepted() {
    accepted(&trusting(), "with-issuer");
}

// Behaviour 60.
#[test]
fn danger_accept_invalid_certs_accepts_any_certificate() {
    let careless = client().danger_accept_invalid_certs(true);
    for certificate in
        ["good", "expired", "not-yet-valid", "self-signed", "unknown-issuer", "other-host", "for-clients"]
    {
        accepted(&careless, certificate);
    }
    reasons(&careless.danger_accept_invalid_certs(false), "good", "127.0.0.1");
}

#[test]
fn danger_accept_invalid_hostnames_accepts_any_name_but_no_bad_certificate() {
    let careless = trusting().danger_accept_invalid_hostnames(true);
    accepted(&careless, "other-host");
    for certificate in ["expired", "self-signed", "unknown-issuer"] {
        reasons(&careless, certificate, "127.0.0.1");
    }
    reasons(&careless.danger_accept_invalid_hostnames(false), "other-host", "127.0.0.1");
}

#[test]
fn ca_certificates_are_pem_with_one_or_more_or_der() {
    let both = [identity("self-signed").0, b"some text between\n", CA].concat();
    for trusting in [client().ca_certificate(both), trusting().ca_certificate(identity("self-signed").0)] {
        accepted(&trusting, "good");
        accepted(&trusting, "self-signed");
    }
    accepted(&client().ca_certificate(include_bytes!("../support/certs/ca.der")), "good");
}

#[test]
fn without_the_systems_cas_the_given_ones_are_still_trusted() {
    accepted(&trusting().system_roots(false), "good");
    reasons(&trusting().system_roots(false), "unknown-issuer", "127.0.0.1");
}

/// Runs the test again in a process for which this file and this folder contain the CAs of the system. True in that
/// process.
fn with_cas_of_the_system(test: &str, file: &str, folder: Option<&Path>) -> bool {
    if std::env::var_os("POSTINO_TEST_IN_CHILD").is_some() {
        return true;
    }
    let file = format!("{}/tests/support/certs/{file}", env!("CARGO_MANIFEST_DIR"));
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("{module}::{test}"), "--nocapture"]);
    child.env("SSL_CERT_FILE", file).env("POSTINO_TEST_IN_CHILD", "1").env_remove("SSL_CERT_DIR");
    let output = child.envs(folder.map(|folder| ("SSL_CERT_DIR", folder))).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

/// OpenSSL looks into the folder only for what the file does not contain, and rustls is made to do the same.
#[cfg(unix)]
#[test]
fn a_ca_of_the_system_may_be_in_the_folder_only() {
    let folder = std::env::temp_dir().join(format!("postino-{}-{:?}", std::process::id(), backend()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(crate::support::tls::file_name(CA)), CA).unwrap();
    // The file contains another authority, or one with the same name.
    let files: &[&str] = match backend() {
        TlsBackend::Rustls => &["unknown-client.pem", "ca-with-another-key.pem"],
        _ => &["unknown-client.pem"], // OpenSSL tries only one authority of each name
    };
    for file in files {
        if !with_cas_of_the_system("a_ca_of_the_system_may_be_in_the_folder_only", file, Some(&folder)) {
            continue;
        }
        let client = client();
        accepted(&client, "good");
        reasons(&client, "unknown-issuer", "127.0.0.1");
        reasons(&client, "self-signed", "127.0.0.1");
        accepted(&client.clone().ca_certificate(identity("self-signed").0), "good");
        accepted(&client.clone().ca_certificate(identity("self-signed").0), "self-signed");
        reasons(&client.ca_certificate(identity("self-signed").0).system_roots(false), "good", "127.0.0.1");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn the_systems_cas_are_trusted_unless_turned_off() {
    if with_cas_of_the_system("the_systems_cas_are_trusted_unless_turned_off", "ca.pem", None) {
        accepted(&client(), "good");
        accepted(&client().ca_certificate(identity("self-signed").0), "good");
        let own_only = client().ca_certificate(identity("self-signed").0).system_roots(false);
        reasons(&own_only, "good", "127.0.0.1");
        accepted(&own_only.system_roots(true), "good");
    }
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The hash of a certificate, which has the hash of its signature.
fn certificate_pin(certificate: &str) -> String {
    hex(&end_point(&der(identity(certificate).0)))
}

/// The hashes of a certificate and of its public key.
#[cfg(unix)]
fn pins(certificate: &str) -> [String; 2] {
    let (whole, key) = crate::support::tls::fingerprints(identity(certificate).0);
    [whole, key].map(|hash| hex(&hash))
}

// Behaviour 60, threat 7.
#[cfg(unix)]
#[test]
fn a_pinned_server_is_trusted_whatever_else_its_certificate_says() {
    for certificate in
        ["self-signed", "expired", "not-yet-valid", "unknown-issuer", "other-host", "for-clients"]
    {
        let [whole, key] = pins(certificate);
        for builder in [
            client().pinned_certificate(&whole),
            client().pinned_public_key(&key).system_roots(false),
            client().pinned_certificate(&key).pinned_public_key(&whole).pinned_public_key(&key),
        ] {
            accepted(&builder, certificate);
            accepted(&builder, &format!("{certificate} 1.2"));
        }
    }
    let (chain, key) = identity("client");
    let known = client().client_certificate(chain, key).pinned_certificate(&pins("self-signed")[0]);
    accepted(&known, "self-signed mutual");
}

/// With native-tls, the server has completed the handshake by then.
// Behaviour 60, threat 7.
#[cfg(unix)]
#[test]
fn a_server_that_is_not_pinned_gets_nothing_but_the_handshake() {
    let [whole, key] = pins("good");
    let [other_whole, other_key] = pins("self-signed");
    for builder in [
        client().pinned_certificate(&other_whole).pinned_public_key(&other_key),
        // Each is a hash of the other kind.
        client().pinned_certificate(&key).pinned_public_key(&whole),
    ] {
        for version in ["good", "good 1.2"] {
            for (security, before) in [(Security::Implicit, ""), (Security::StartTls, CONSENT)] {
                let server = Server::playing(match backend() {
                    TlsBackend::Rustls => format!("{before}-- no tls {version}"),
                    _ => format!("{before}-- tls {version}\n-- ignore"),
                });
                let builder =
                    builder.clone().port(server.port()).security(security).credentials("user", "secret");
                let error = connect_error(&builder);
                assert!(error.is_permanent() && error.source().is_some());
                let Error::Certificate { reason, .. } = error else { panic!("{error:?}") };
                assert!(
                    reason.contains("not pinned") && reason.contains(&whole) && reason.contains(&key),
                    "{reason}"
                );
                let heard = String::from_utf8(server.finish()).unwrap();
                let expected = if before.is_empty() { "" } else { "EHLO client.example.org\r\nSTARTTLS\r\n" };
                assert_eq!(heard, expected);
            }
        }
    }
}

#[test]
fn the_minimum_tls_version_is_1_2_unless_set() {
    accepted(&trusting(), "good 1.2");
    accepted(&trusting().min_tls_version(TlsVersion::Tls1_2), "good 1.2");
    let newer = trusting().min_tls_version(TlsVersion::Tls1_3);
    accepted(&newer, "good");
    for error in refused(&newer, "good 1.2") {
        assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    }
}

fn known() -> Builder {
    let (chain, key) = identity("client");
    trusting().client_certificate(chain, key)
}

const P12: &[u8] = include_bytes!("../support/certs/client.p12");

// Behaviour 61.
#[test]
fn a_client_certificate_is_presented_to_servers_that_request_one() {
    let (chain, key) = identity("client");
    let one_file = [key, chain].concat();
    let mut builders = vec![
        known(),
        trusting().client_certificate(&one_file, &one_file),
        // The last one counts.
        trusting().client_pkcs12(P12, "secret").client_certificate(chain, key),
    ];
    if backend() == TlsBackend::NativeTls {
        builders.extend([
            trusting().client_pkcs12(P12, "secret"),
            trusting().client_certificate("nonsense", "nonsense").client_pkcs12(P12, "secret"),
        ]);
    }
    for builder in builders {
        accepted(&builder, "good mutual");
        accepted(&builder, "good 1.2 mutual");
    }
    accepted(&known(), "good"); // it does no harm if it is not requested
}

// Behaviour 61.
#[test]
fn a_client_certificate_refused_by_the_server_is_an_error_that_says_so() {
    let (chain, key) = identity("unknown-client");
    let unknown = trusting().client_certificate(chain, key);
    let missing = trusting();
    for (builder, server, says_so) in [
        (&unknown, "good mutual", true),
        (&unknown, "good 1.2 mutual", true),
        (&missing, "good mutual", true),
        (&missing, "good 1.2 mutual", false), // the server's alert has no reason then
    ] {
        for error in refused(builder, server) {
            assert!(matches!(error, Error::Tls { .. }) && !error.is_transient(), "{server}: {error:?}");
            let source = error.source().unwrap().to_string();
            assert!(!says_so || source.contains("the server refused the client certificate"), "{source}");
        }
    }
}

#[test]
fn a_client_certificate_logs_in_with_external() {
    let server = Server::playing(
        "-- tls good mutual
         -- hello AUTH EXTERNAL
         C: AUTH EXTERNAL =
         S: 235 welcome",
    );
    let builder = known().port(server.port()).security(Security::Implicit).external("");
    block_on(builder.connect()).unwrap();
}

// Behaviour 61.
#[test]
fn invalid_tls_settings_fail_before_connecting() {
    let (chain, key) = identity("client");
    let sec1 = include_bytes!("../support/certs/client.sec1.key");
    let encrypted = include_bytes!("../support/certs/client.encrypted.key");
    let convert = "openssl pkcs8 -topk8 -nocrypt";
    let broken = String::from_utf8_lossy(key).replace("\nM", "\n?");
    let archives = backend() == TlsBackend::NativeTls;
    let pin = certificate_pin("good");
    // Nobody listens at this port, and no connection is attempted.
    let client = || client().port(1).security(Security::StartTls);
    for (builder, why) in [
        (client().ca_certificate("nonsense"), "the CA"),
        (client().ca_certificate(""), "the CA"),
        (client().ca_certificate(&CA[..CA.len() / 2]), "the CA"),
        (client().ca_certificate([CA, &CA[..CA.len() / 2]].concat()), "the CA"),
        (client().ca_certificate(key), "the CA"),
        (client().client_certificate(chain, sec1), convert),
        (client().client_certificate(chain, encrypted), convert),
        (client().client_certificate(chain, chain), "pass the certificate first"),
        (client().client_certificate(key, key), "client certificate"),
        (client().client_certificate("", key), "client certificate"),
        (client().client_certificate(chain, broken.as_bytes()), "client certificate"),
        (client().client_certificate(chain, identity("good").1), "its key"),
        (client().client_pkcs12(P12, "wrong secret"), if archives { "password" } else { "native-tls" }),
        (client().client_pkcs12(P12, "sec\0ret"), "NUL"),
        (client().client_pkcs12("nonsense", "secret"), "PKCS#12"),
        (client().client_pkcs12("", ""), "PKCS#12"),
        (client().system_roots(false), "no certificate could be trusted"),
        (client().pinned_certificate(""), "SHA-256"),
        (client().pinned_public_key("nonsense"), "SHA-256"),
        (client().pinned_certificate(&pin).ca_certificate(CA), "take the place of"),
        (client().pinned_certificate(&pin).danger_accept_invalid_certs(true), "take the place of"),
        (client().pinned_public_key(&pin).danger_accept_invalid_hostnames(true), "take the place of"),
    ] {
        match connect_error(&builder) {
            Error::Config(text) => assert!(text.contains(why), "{text}"),
            other => panic!("{why}: {other:?}"),
        }
    }
}

// Behaviour 61.
#[test]
fn a_malformed_ca_certificate_fails_before_anything_is_sent() {
    // The input has the form of a certificate: only the TLS library detects that it is invalid.
    let broken = str::from_utf8(CA).unwrap().replacen("\nM", "\nN", 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let builder =
        client().port(listener.local_addr().unwrap().port()).ca_certificate([CA, broken.as_bytes()].concat());
    for security in [Security::Plaintext, Security::Opportunistic, Security::StartTls, Security::Implicit] {
        let error = connect_error(&builder.clone().security(security));
        assert!(matches!(&error, Error::Config(why) if why.contains("the CA")), "{security:?}: {error:?}");
        let mut heard = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"", "{security:?}");
    }
    let error = Pool::builder(builder).build().unwrap_err();
    assert!(matches!(&error, Error::Config(why) if why.contains("the CA")), "{error:?}");
}

#[test]
fn client_keys_and_passwords_are_never_shown() {
    let (chain, key) = identity("client");
    let secret = str::from_utf8(key).unwrap().lines().nth(1).unwrap();
    let other_key = identity("good").1;
    let their_secret = str::from_utf8(other_key).unwrap().lines().nth(1).unwrap();
    for builder in [
        trusting().client_certificate(chain, key), // nobody listens: the error is that of connecting
        trusting().client_certificate(chain, str::from_utf8(key).unwrap().replace("PRIVATE", "EC PRIVATE")),
        trusting().client_certificate(chain, other_key),
        trusting().client_pkcs12(P12, "hunter2"),
        trusting().client_pkcs12(P12, "hunter2\0"),
    ] {
        let error = connect_error(&builder.clone().port(1));
        let shown = format!("{builder:?} {error} {error:?} {:?}", error.source());
        assert!(![secret, their_secret, "hunter2"].iter().any(|secret| shown.contains(secret)), "{shown}");
    }
    assert_eq!(journal::lines_with(secret), [""; 0]);
    assert_eq!(journal::lines_with("hunter2"), [""; 0]);
}

/// Sets a connector, or a configuration, that was built with the library itself.
fn ready(builder: Builder) -> Builder {
    #[cfg(feature = "native-tls")]
    if backend() == TlsBackend::NativeTls {
        let root = native_tls::Certificate::from_pem(CA).unwrap();
        let connector = native_tls::TlsConnector::builder().add_root_certificate(root).build();
        return builder.tls_connector(connector.unwrap());
    }
    #[cfg(feature = "rustls")]
    if backend() == TlsBackend::Rustls {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(der(CA).into()).unwrap();
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let config =
            rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        return builder
            .rustls_config(config.unwrap().with_root_certificates(roots).with_no_client_auth().into());
    }
    unreachable!("there is no other backend")
}

#[test]
fn a_custom_tls_connector_is_used_unchanged() {
    let used = ready(default_client());
    accepted(&used, "good");
    accepted(&used.clone().tls_name("mail.example.org"), "other-host");
    reasons(&used, "self-signed", "127.0.0.1");

    let (chain, key) = identity("client");
    for both in [
        used.clone().ca_certificate(CA),
        ready(trusting()),
        used.clone().system_roots(false),
        used.clone().client_certificate(chain, key),
        used.clone().client_pkcs12(P12, "secret"),
        used.clone().min_tls_version(TlsVersion::Tls1_3),
        used.clone().pinned_certificate(certificate_pin("good")),
        used.clone().tls_backend(backend()),
        used.clone().danger_accept_invalid_certs(true),
        used.clone().danger_accept_invalid_hostnames(true),
    ] {
        let error = connect_error(&both.port(1));
        assert!(
            matches!(&error, Error::Config(why) if why.contains("with tls_connector") || why.contains("PKCS#12")),
            "{error:?}"
        );
    }
}

/// The verifier in the documentation of `rustls_config`.
#[cfg(feature = "rustls")]
mod verifier {
    use std::sync::Arc;

    use rustls::{
        CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
        SignatureScheme,
        client::{
            WebPkiServerVerifier,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::ring::default_provider,
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    use super::{CA, der};

    #[derive(Debug)]
    struct Both {
        cas: Arc<WebPkiServerVerifier>,
        agrees: fn(&[u8]) -> Result<(), std::io::Error>,
    }

    impl ServerCertVerifier for Both {
        fn verify_server_cert(
            &self,
            certificate: &CertificateDer<'_>,
            chain: &[CertificateDer<'_>],
            name: &ServerName<'_>,
            ocsp: &[u8],
            now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            self.cas.verify_server_cert(certificate, chain, name, ocsp, now)?;
            (self.agrees)(certificate).map_err(|e| CertificateError::Other(OtherError(Arc::new(e))))?;
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.cas.verify_tls12_signature(message, certificate, signature)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.cas.verify_tls13_signature(message, certificate, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.cas.supported_verify_schemes()
        }
    }

    pub fn config(agrees: fn(&[u8]) -> Result<(), std::io::Error>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(der(CA).into()).unwrap();
        let provider = Arc::new(default_provider());
        let cas =
            WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let verifier = Arc::new(Both { cas, agrees });
        let config = config.unwrap().dangerous().with_custom_certificate_verifier(verifier);
        Arc::new(config.with_no_client_auth())
    }
}

#[cfg(feature = "rustls")]
#[test]
fn a_verifier_of_ones_own_decides_and_its_reason_is_reported() {
    if backend() != TlsBackend::Rustls {
        return;
    }
    let good = |certificate: &[u8]| {
        assert_eq!(certificate, der(identity("good").0));
        Ok(())
    };
    accepted(&default_client().rustls_config(verifier::config(good)), "good");
    accepted(&default_client().rustls_config(verifier::config(good)), "good 1.2");
    // Here it is not even called.
    reasons(&default_client().rustls_config(verifier::config(good)), "self-signed", "127.0.0.1");
    let not_today = |_: &[u8]| Err(std::io::Error::other("not today"));
    for reason in reasons(&default_client().rustls_config(verifier::config(not_today)), "good", "127.0.0.1") {
        assert_eq!(reason, "not today");
    }
}

#[test]
fn a_tls_library_that_is_not_compiled_in_is_an_error() {
    for library in [TlsBackend::NativeTls, TlsBackend::Rustls] {
        let server = Server::playing("-- hello");
        let builder = builder(&server).security(Security::Plaintext).tls_backend(library);
        if library.is_available() {
            block_on(builder.connect()).unwrap();
            continue;
        }
        let error = connect_error(&builder);
        assert!(
            matches!(&error, Error::Config(why) if why.contains("built without the feature")),
            "{error:?}"
        );
        connect(&server);
    }
}

/// Number of connectors built that trust this many custom CAs: no two tests use the same number.
fn built(cas: usize) -> usize {
    journal::lines_with(&format!("building a TLS connector: {} CAs", cas + MORE_CAS)).len()
}

#[test]
fn clones_share_one_connector_even_when_connecting_at_once() {
    let builder = client().ca_certificate(CA.repeat(41 + MORE_CAS));
    let clients = [(); 4].map(|()| {
        let builder = builder.clone();
        thread::spawn(move || accepted(&builder, "good"))
    });
    for client in clients {
        client.join().unwrap();
    }
    accepted(&builder, "good");
    accepted(&builder.clone().tls_name("mail.example.org"), "other-host");
    assert_eq!(built(41), 1);
    // The settings that it was built from have changed.
    accepted(&builder.clone().min_tls_version(TlsVersion::Tls1_3), "good");
    assert_eq!(built(41), 2);
    accepted(&builder, "good");
    assert_eq!(built(41), 2);
}

#[test]
fn without_tls_no_connector_is_built() {
    let builder = client().ca_certificate(CA.repeat(42 + MORE_CAS));
    for (security, hello) in [
        (Security::Auto, "-- hello STARTTLS"),
        (Security::Plaintext, "-- hello STARTTLS"),
        (Security::Opportunistic, "-- hello"),
    ] {
        let server = Server::playing(format!(
            "{hello}
             -- envelope
             C: DATA
             S: 354 go on
             C: Hello
             C: .
             S: 250 ok"
        ));
        let builder = builder.clone().port(server.port()).security(security);
        accept(&mut block_on(builder.connect()).unwrap(), &mail());
    }
    let (chain, key) = identity("client");
    let server = Server::playing("-- hello STARTTLS");
    let builder = builder.client_certificate(chain, key).port(server.port()).security(Security::Plaintext);
    block_on(builder.connect()).unwrap();
    assert_eq!(built(42), 0);
}

#[test]
fn the_servers_certificate_can_be_inspected() {
    for (security, before) in [(Security::Implicit, ""), (Security::StartTls, CONSENT)] {
        for (certificate, bound) in [("good", true), ("with-issuer", true), ("ed25519", false)] {
            let hello = "C: EHLO client.example.org\nS: 250 mail.example.org";
            let after = if before.is_empty() { "-- hello" } else { hello };
            let server = Server::playing(format!("{before}-- tls {certificate}\n{after}"));
            let builder = trusting().ca_certificate(identity("ed25519").0);
            let mut client = block_on(builder.port(server.port()).security(security).connect()).unwrap();
            let expected = der(identity(certificate).0);
            assert_eq!(client.peer_certificate().as_ref(), Some(&expected));
            assert_eq!(client.channel_binding(), bound.then(|| end_point(&expected)));
            client.close();
            assert_eq!((client.peer_certificate(), client.channel_binding()), (None, None));
        }
    }
    let server = Server::playing("-- hello");
    let client = connect(&server);
    assert_eq!((client.peer_certificate(), client.channel_binding()), (None, None));
}
