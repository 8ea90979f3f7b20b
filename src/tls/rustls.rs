//! TLS with rustls, using the cryptography of ring.
#![cfg_attr(not(feature = "async"), allow(dead_code))] // the blocking client never resumes a paused handshake

use std::{
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use ::rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct,
    InvalidMessage, OtherError, ProtocolVersion, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, ring as provider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    version::{TLS12, TLS13},
};
use ring::digest::{Algorithm, SHA256, SHA384, SHA512, digest};

use super::{
    Flaw, Options, TlsVersion,
    der::{Fields, element, parts},
    not_tls,
    pin::{self, Pin},
    refusal,
    root::{NONE, is_pem},
};
use crate::{Error, Phase, sys::HAS_FILE_OF_CAS};

pub(super) const AVAILABLE: bool = true;
pub(super) const PINS: bool = true;

pub(super) type Certificate = CertificateDer<'static>;

/// All connections of a connector share its configuration, and with it the sessions to resume: at most 256, which is
/// the rustls default.
#[derive(Clone)]
pub(crate) struct Connector(Arc<ClientConfig>);

/// The state of a handshake.
type Handshake<S> = super::Handshake<TlsStream<S>, Paused<S>>;

impl Connector {
    /// Builds a connector. The options are valid, and the roots and the identity were read from them.
    pub(super) fn new(
        options: &Options,
        roots: &[Certificate],
        identity: Option<&Identity>,
    ) -> Result<Connector, Flaw> {
        let provider = Arc::new(provider::default_provider());
        let verifier = Verifier::new(options, roots, provider.signature_verification_algorithms)?;
        let versions: &[_] = match options.min_version {
            TlsVersion::Tls1_2 => &[&TLS13, &TLS12],
            TlsVersion::Tls1_3 => &[&TLS13],
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { chain, key }) => {
                builder.with_client_auth_cert(chain.clone(), key.clone_key()).map_err(|e| e.to_string())?
            }
        };
        Ok(Connector(Arc::new(config)))
    }

    pub fn connect<S: Read + Write>(&self, name: &str, stream: S) -> Handshake<S> {
        let Ok(server) = ServerName::try_from(name.to_owned()) else {
            let text = format!("{name:?} is not a valid TLS server name");
            return Handshake::Failed(Error::Config(text.into()));
        };
        match ClientConnection::new(self.0.clone(), server) {
            Ok(connection) => {
                Paused(TlsStream { connection: connection.into(), stream, taken: 0 }).resume(name)
            }
            Err(e) => Handshake::Failed(failure(name, e)),
        }
    }
}

impl From<Arc<ClientConfig>> for super::Connector {
    fn from(config: Arc<ClientConfig>) -> super::Connector {
        super::Connector::Rustls(Connector(config))
    }
}

/// A handshake that is not finished.
pub(crate) struct Paused<S>(TlsStream<S>);

impl<S: Read + Write> Paused<S> {
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.0.stream
    }

    pub fn resume(mut self, name: &str) -> Handshake<S> {
        match self.0.shake_hands(name) {
            Ok(true) => Handshake::Done(self.0),
            Ok(false) => Handshake::Paused(self),
            Err(e) => Handshake::Failed(e),
        }
    }
}

pub(crate) struct TlsStream<S> {
    /// Boxed because it is larger than a kilobyte.
    connection: Box<ClientConnection>,
    stream: S,
    /// Number of octets that were encrypted in a call of `write` that then returned `WouldBlock`.
    taken: usize,
}

impl<S: Read + Write> TlsStream<S> {
    /// Continues the handshake. Returns whether it is finished; otherwise the transport has to wait.
    fn shake_hands(&mut self, name: &str) -> Result<bool, Error> {
        loop {
            let read = match self.flush_records() {
                Ok(()) if !self.connection.is_handshaking() => return Ok(true),
                Ok(()) => self.connection.read_tls(&mut self.stream),
                Err(e) => Err(e),
            };
            match read {
                Ok(0) => return Err(Error::Closed(Phase::Tls)),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(Error::io(Phase::Tls, e)),
            }
            self.process().map_err(|e| failure(name, e))?;
        }
    }

    /// Processes what was read. On failure, sends an alert to the server, if that is possible without waiting.
    fn process(&mut self) -> Result<(), ::rustls::Error> {
        self.connection.process_new_packets().map(drop).inspect_err(|_| drop(self.flush_records()))
    }

    /// Writes the records that are ready.
    fn flush_records(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            if self.connection.write_tls(&mut self.stream)? == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    pub fn shutdown(&mut self) -> io::Result<()> {
        self.connection.send_close_notify();
        self.flush_records()
    }

    fn certificate(&self) -> Option<&[u8]> {
        self.connection.peer_certificates()?.first().map(|certificate| &**certificate)
    }

    /// Returns the hash of the server's certificate (tls-server-end-point, RFC 5929 §4); `None` if its signature
    /// algorithm defines no such hash, as for Ed25519.
    pub fn end_point(&self) -> Option<Vec<u8>> {
        let certificate = self.certificate()?;
        Some(digest(end_point_hash(certificate)?, certificate).as_ref().to_vec())
    }

    /// Returns the data that binds to this connection (tls-exporter, RFC 9266 §2): only in TLS 1.3, because rustls does
    /// not tell whether a connection in TLS 1.2 has what §4.2 requires, the extended master secret.
    pub fn exporter(&self) -> Option<Vec<u8>> {
        self.version().filter(|version| *version == TlsVersion::Tls1_3)?;
        let exported =
            self.connection.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""));
        exported.ok().map(|data| data.to_vec())
    }

    /// Returns the server's certificate, in DER.
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        self.certificate().map(<[u8]>::to_vec)
    }

    pub fn sha256(&self, octets: &[u8]) -> Option<pin::Hash> {
        Some(sha256(octets))
    }

    pub fn version(&self) -> Option<TlsVersion> {
        match self.connection.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Some(TlsVersion::Tls1_2),
            ProtocolVersion::TLSv1_3 => Some(TlsVersion::Tls1_3),
            _ => None,
        }
    }

    pub fn cipher_suite(&self) -> Option<String> {
        let name = self.connection.negotiated_cipher_suite()?.suite().as_str()?;
        Some(name.replacen("TLS13_", "TLS_", 1)) // rustls has its own names for TLS 1.3 suites
    }
}

impl<S: Read + Write> Read for TlsStream<S> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        loop {
            let processed = self.process();
            match self.connection.reader().read(room) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {} // no data is available
                done => return done,
            }
            processed.map_err(|e| io::Error::other(tls(e)))?;
            match self.flush_records() {
                Err(e) if e.kind() != ErrorKind::WouldBlock => return Err(e),
                _ => self.connection.read_tls(&mut self.stream)?,
            };
        }
    }
}

impl<S: Read + Write> Write for TlsStream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.taken == 0 {
            self.flush_records()?;
            self.taken = self.connection.writer().write(bytes)?;
        }
        self.flush_records()?;
        Ok(std::mem::take(&mut self.taken))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Returns the error of a failed handshake.
fn failure(name: &str, e: ::rustls::Error) -> Error {
    use InvalidMessage::{InvalidContentType, UnknownProtocolVersion};
    match &e {
        ::rustls::Error::InvalidCertificate(flaw) => {
            Error::Certificate { name: name.to_owned(), reason: reason(name, flaw), source: e.into() }
        }
        ::rustls::Error::InvalidMessage(InvalidContentType | UnknownProtocolVersion) => {
            not_tls(&e.to_string())
        }
        _ => tls(e),
    }
}

/// Describes what is wrong with a certificate, in OpenSSL's words.
fn reason(name: &str, flaw: &CertificateError) -> String {
    let words = match flaw {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "certificate is not yet valid"
        }
        CertificateError::UnknownIssuer => "unable to get local issuer certificate",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            if name.parse::<IpAddr>().is_ok() { "IP address mismatch" } else { "hostname mismatch" }
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "unsuitable certificate purpose"
        }
        CertificateError::Revoked => "certificate revoked",
        CertificateError::Other(OtherError(e)) => return e.to_string(),
        other => return other.to_string(),
    };
    words.to_owned()
}

/// Returns the error for any other failure, during a handshake or after it.
fn tls(e: ::rustls::Error) -> Error {
    use AlertDescription as Alert;
    match e {
        ::rustls::Error::AlertReceived(
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired,
        ) => refusal(&e.to_string()),
        _ => Error::Tls { source: e.into() },
    }
}

/// Reads certificates whose form has been checked: one or more in PEM, or one in DER.
pub(super) fn roots(certificates: &[u8]) -> Result<Vec<Certificate>, Flaw> {
    let invalid = |e: String| format!("the CA certificate is invalid: {e}");
    let read = if is_pem(certificates) {
        pem(certificates).map_err(invalid)?
    } else {
        vec![CertificateDer::from(certificates.to_vec())]
    };
    if read.is_empty() {
        return Err(NONE.into());
    }
    let mut store = RootCertStore::empty();
    read.iter().try_for_each(|root| store.add(root.clone())).map_err(|e| invalid(e.to_string()))?;
    Ok(read)
}

fn pem(text: &[u8]) -> Result<Vec<Certificate>, Flaw> {
    CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|e| e.to_string())
}

/// A certificate with its chain and its private key. It does not implement `Debug`.
pub(super) struct Identity {
    chain: Vec<Certificate>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    pub fn pem(chain: &[u8], key: &[u8]) -> Result<Identity, Flaw> {
        let invalid = |e: String| format!("invalid client certificate or key: {e}");
        let chain = pem(chain).map_err(invalid)?;
        if chain.is_empty() {
            return Err(invalid("there is no certificate".into()));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| invalid(e.to_string()))?;
        provider::sign::any_supported_type(&key).map_err(|e| invalid(e.to_string()))?;
        Ok(Identity { chain, key })
    }

    pub fn pkcs12(_: &[u8], _: &str) -> Result<Identity, Flaw> {
        Err("PKCS#12 archives can only be read by native-tls; to convert one for client_certificate: \
             openssl pkcs12 -nodes -in me.p12 -out me.pem"
            .into())
    }
}

/// Verifies the server's certificate, as far as the options require.
struct Verifier {
    trust: Trust,
    algorithms: WebPkiSupportedAlgorithms,
}

enum Trust {
    /// Any certificate.
    Blind,
    /// A certificate that has one of these pins.
    Pins(Vec<Pin>),
    /// A certificate of one of the CAs.
    Cas { cas: Cas, any_name: bool },
}

impl Verifier {
    fn new(
        options: &Options,
        roots: &[Certificate],
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Verifier, Flaw> {
        let trust = if options.accept_invalid_certs {
            Trust::Blind
        } else if !options.pins.is_empty() {
            Trust::Pins(options.pins.iter().flatten().copied().collect())
        } else {
            let any_name = options.accept_invalid_hostnames;
            Trust::Cas { cas: Cas::new(options, roots)?, any_name }
        };
        Ok(Verifier { trust, algorithms })
    }
}

/// The CAs. The system has most of them twice: together in a file, and one by one in a folder. The folder takes longer
/// to read, so that is done only if a certificate cannot be verified with those of the file.
struct Cas {
    first: Store,
    /// With the folder, if `first` is without it.
    all: Option<OnceLock<Store>>,
    added: Vec<Certificate>,
}

struct Store {
    roots: Arc<RootCertStore>,
    webpki: Arc<WebPkiServerVerifier>,
}

impl Cas {
    fn new(options: &Options, added: &[Certificate]) -> Result<Cas, Flaw> {
        let file = if options.no_system_roots { Vec::new() } else { system_file() };
        let has_more = !file.is_empty();
        let system = if has_more || options.no_system_roots { file } else { whole_system().0 };
        let first = match Store::new(system, added) {
            Err(_) if has_more => Store::new(whole_system().0, added)?, // the file has none that can be used
            first => first?,
        };
        Ok(Cas { first, all: has_more.then(OnceLock::new), added: added.to_vec() })
    }

    /// Verifies with the CAs that were read, and if these do not suffice, with all. Reading those blocks for some
    /// milliseconds, in the async client too; OpenSSL reads the folder in the handshake as well.
    fn verify(
        &self,
        verify: impl Fn(&Store) -> Result<ServerCertVerified, ::rustls::Error>,
    ) -> Result<ServerCertVerified, ::rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        let verified = verify(&self.first);
        let Some(all) = &self.all else { return verified };
        match &verified {
            // The name is verified last.
            Err(::rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
                return verified;
            }
            Err(::rustls::Error::InvalidCertificate(_)) => {}
            _ => return verified,
        }
        if let Some(all) = all.get() {
            return verify(all);
        }
        let (system, complete) = whole_system();
        match Store::new(system, &self.added) {
            Ok(store) if complete => verify(all.get_or_init(|| store)),
            // What could not be read now may be readable in the next handshake.
            Ok(store) => verify(&store),
            Err(_) => verified,
        }
    }
}

impl Store {
    fn new(system: Vec<Certificate>, added: &[Certificate]) -> Result<Store, Flaw> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(system);
        roots.add_parsable_certificates(added.iter().cloned());
        if roots.is_empty() {
            return Err("no CA certificate was found on this system, and no ca_certificate was set".into());
        }
        let (roots, provider) = (Arc::new(roots), Arc::new(provider::default_provider()));
        let webpki = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider).build();
        Ok(Store { roots, webpki: webpki.map_err(|e| e.to_string())? })
    }

    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, ::rustls::Error> {
        match self.webpki.verify_server_cert(certificate, chain, name, ocsp, now) {
            // The certificate says that it is a CA's, as those made by OpenSSL's command `req -x509` do. It was valid
            // at this time; the name was not verified yet.
            Err(::rustls::Error::InvalidCertificate(CertificateError::Other(e)))
                if format!("{e:?}").contains("CaUsedAsEndEntity") =>
            {
                match self.holds(certificate) {
                    Some(true) => verify_server_name(&ParsedCertificate::try_from(certificate)?, name)
                        .map(|()| ServerCertVerified::assertion()),
                    _ if is_self_issued(certificate) == Some(true) => {
                        Err(CertificateError::UnknownIssuer.into())
                    }
                    _ => Err(CertificateError::Other(e).into()),
                }
            }
            verified => verified,
        }
    }

    /// Returns whether it is the certificate of one of the CAs, or at least has its name and its key. Whoever has that
    /// key could issue any certificate, and the handshake proves that the server has it. A CA that is restricted to
    /// some names could not.
    fn holds(&self, certificate: &[u8]) -> Option<bool> {
        let mut fields = Fields::read(certificate)?;
        let (_, key) = element(&mut fields.public_key)?;
        Some(
            self.roots
                .roots
                .iter()
                .filter(|ca| ca.name_constraints.is_none())
                .any(|ca| *ca.subject == *fields.subject && *ca.subject_public_key_info == *key),
        )
    }
}

/// Reads the CAs of the system from the file that contains them all, if there is one.
fn system_file() -> Vec<Certificate> {
    let set = |variable| std::env::var_os(variable).map(PathBuf::from);
    let file = match (set("SSL_CERT_FILE"), set("SSL_CERT_DIR")) {
        (None, None) if HAS_FILE_OF_CAS => ::openssl_probe::probe().cert_file,
        (file, _) => file,
    };
    let read = file.and_then(|file| CertificateDer::pem_file_iter(file).ok());
    read.map(|all| all.flatten().collect()).unwrap_or_default()
}

/// Reads the CAs of the system from everywhere. Returns them, and whether all could be read.
fn whole_system() -> (Vec<Certificate>, bool) {
    let system = ::rustls_native_certs::load_native_certs();
    for e in &system.errors {
        log::debug!(target: "postino", "reading the system's CAs: {e}");
    }
    (system.certs, system.errors.is_empty())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, ::rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext, Other, UnknownIssuer};
        let distrust = |reason| Err(Other(OtherError(Arc::new(Distrust(reason)))).into());
        let (cas, any_name) = match &self.trust {
            Trust::Blind => return Ok(ServerCertVerified::assertion()),
            Trust::Pins(pins) => {
                return pin::verify(pins, certificate, sha256)
                    .map_or_else(distrust, |()| Ok(ServerCertVerified::assertion()));
            }
            Trust::Cas { cas, any_name } => (cas, *any_name),
        };
        let verified = match cas.verify(|store| store.verify(certificate, chain, name, ocsp, now)) {
            Err(::rustls::Error::InvalidCertificate(UnknownIssuer)) => {
                if is_self_issued(certificate) == Some(true) {
                    distrust("self-signed certificate".to_owned())
                } else if chain.iter().any(|issuer| is_self_issued(issuer) == Some(true)) {
                    distrust("self-signed certificate in certificate chain".to_owned())
                } else {
                    Err(UnknownIssuer.into())
                }
            }
            verified => verified,
        };
        match verified {
            // The name is verified last.
            Err(::rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
                if any_name =>
            {
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, ::rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, ::rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

/// Why a certificate is not trusted, if webpki has no error for it.
#[derive(Debug)]
struct Distrust(String);

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Distrust {}

fn sha256(octets: &[u8]) -> pin::Hash {
    digest(&SHA256, octets).as_ref().try_into().unwrap_or_default()
}

/// Returns whether issuer and subject are the same.
fn is_self_issued(certificate: &[u8]) -> Option<bool> {
    Fields::read(certificate).map(|fields| fields.issuer == fields.subject)
}

/// Returns the hash function of tls-server-end-point: that of the signature, except that SHA-256 replaces MD5 and
/// SHA-1.
fn end_point_hash(certificate: &[u8]) -> Option<&'static Algorithm> {
    let mut algorithm = parts(certificate)?.1;
    let (_, identifier) = element(&mut algorithm)?;
    if let Some(rsa) = identifier.strip_prefix(b"\x2a\x86\x48\x86\xf7\x0d\x01\x01") {
        return match rsa {
            [4 | 5 | 11] => Some(&SHA256),
            [12] => Some(&SHA384),
            [13] => Some(&SHA512),
            _ => None,
        };
    }
    match identifier.strip_prefix(b"\x2a\x86\x48\xce\x3d\x04")? {
        [1] | [3, 2] => Some(&SHA256),
        [3, 3] => Some(&SHA384),
        [3, 4] => Some(&SHA512),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ::rustls::RootCertStore;

    use super::*;
    use crate::tls::TlsSettings;

    const CA: &[u8] = include_bytes!("../../tests/support/certs/ca.pem");

    fn certificate(pem: &[u8]) -> Certificate {
        CertificateDer::from_pem_slice(pem).unwrap()
    }

    #[test]
    fn the_hash_and_the_issuer_of_a_certificate_are_read() {
        for (pem, is_self_signed, hash) in [
            (CA, true, Some(&SHA256)),
            (include_bytes!("../../tests/support/certs/good.pem"), false, Some(&SHA256)),
            (include_bytes!("../../tests/support/certs/self-signed.pem"), true, Some(&SHA256)),
            (include_bytes!("../../tests/support/certs/ed25519.pem"), true, None),
            (include_bytes!("../../tests/support/certs/common-name-only.pem"), false, Some(&SHA256)),
        ] {
            let certificate = certificate(pem);
            assert_eq!(is_self_issued(&certificate), Some(is_self_signed));
            assert!(end_point_hash(&certificate) == hash);
            for n in 0..certificate.len() {
                assert_eq!(
                    (is_self_issued(&certificate[..n]), end_point_hash(&certificate[..n]).is_none()),
                    (None, true)
                );
            }
        }
    }

    #[test]
    fn each_signature_algorithm_has_its_hash() {
        let hash = |identifier: &[u8]| {
            let algorithm =
                [&[0x30, identifier.len() as u8 + 2, 6, identifier.len() as u8], identifier].concat();
            let content = [&[0x30, 0][..], &algorithm].concat();
            end_point_hash(&[&[0x30, content.len() as u8], &content[..]].concat())
        };
        let rsa = |last: u8| hash(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, last]);
        let ecdsa = |last: &[u8]| hash(&[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4], last].concat());
        assert!([4, 5, 11].into_iter().all(|last| rsa(last) == Some(&SHA256)));
        assert!(rsa(12) == Some(&SHA384) && rsa(13) == Some(&SHA512));
        assert!(rsa(10).is_none(), "RSASSA-PSS stores its hash elsewhere");
        assert!(ecdsa(&[1]) == Some(&SHA256) && ecdsa(&[3, 2]) == Some(&SHA256));
        assert!(ecdsa(&[3, 3]) == Some(&SHA384) && ecdsa(&[3, 4]) == Some(&SHA512));
    }

    /// OpenSSL's command `req -x509` creates such certificates for servers.
    #[test]
    fn a_server_may_present_an_added_ca_as_its_own_certificate() {
        let settings = |change: fn(&mut TlsSettings)| {
            let mut settings = TlsSettings::default();
            settings.set_system_roots(false);
            change(&mut settings);
            settings.options
        };
        let verified = |options: &Options, roots: &[u8], presented: &[u8]| {
            let algorithms = provider::default_provider().signature_verification_algorithms;
            let verifier = Verifier::new(options, &pem(roots).unwrap(), algorithms).unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            verifier.verify_server_cert(&certificate(presented), &[], &name, &[], UnixTime::now())
        };
        let any_name = settings(|settings| settings.accept_invalid_hostnames(true));
        verified(&any_name, CA, CA).unwrap();
        // Its name is verified too, and another CA is not enough.
        let e = verified(&settings(|_| {}), CA, CA).unwrap_err();
        assert!(
            matches!(
                &e,
                ::rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })
            ),
            "{e:?}"
        );
        let other = include_bytes!("../../tests/support/certs/self-signed.pem");
        let e = verified(&any_name, other, CA).unwrap_err();
        assert!(format!("{e:?}").contains("self-signed certificate"), "{e:?}");
    }

    /// A transport that always has to wait.
    #[derive(Debug)]
    struct Waiting;

    impl Read for Waiting {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(ErrorKind::WouldBlock.into())
        }
    }

    impl Write for Waiting {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(ErrorKind::WouldBlock.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn invalid_server_names_are_config_errors() {
        let config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let connector = Connector(Arc::new(config));
        for name in ["localhost", "a_b.example", "127.0.0.1", "::1", "xn--bcher-kva.test"] {
            assert!(matches!(connector.connect(name, Waiting), Handshake::Paused(_)), "{name}");
        }
        let long = "a".repeat(300);
        for name in ["", "a\0b", "a b", "\u{fc}.test", "[::1]", "*.example", "1.2.3", "-a", &long] {
            let failed = connector.connect(name, Waiting);
            assert!(matches!(failed, Handshake::Failed(Error::Config(_))), "{name}");
        }
    }
}
