//! TLS by native-tls: the system's library (OpenSSL on Linux).
#![cfg_attr(not(feature = "async"), allow(dead_code))] // the blocking client never resumes a paused handshake

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use native_tls::{HandshakeError, MidHandshakeTlsStream, Protocol};

pub(super) use native_tls::Certificate;
pub(crate) use native_tls::TlsStream;

use super::{
    Flaw, Options, TlsSettings, TlsVersion, names_refusal, refusal,
    root::{MAX_FILE, NONE, is_pem},
};
use crate::{Error, Phase};

#[derive(Clone)]
pub(crate) struct Connector(native_tls::TlsConnector);

/// The state of a handshake.
pub(crate) enum Handshake<S> {
    Done(TlsStream<S>),
    /// The transport would have to wait.
    Paused(Paused<S>),
    Failed(Error),
}

/// A handshake that is not finished.
pub(crate) struct Paused<S>(MidHandshakeTlsStream<S>);

impl<S: Read + Write> Paused<S> {
    pub fn get_mut(&mut self) -> &mut S {
        self.0.get_mut()
    }

    pub fn resume(self, name: &str) -> Handshake<S> {
        Handshake::from(name, self.0.handshake())
    }
}

impl Connector {
    /// Builds a connector. The options are valid, and the roots are theirs.
    pub(super) fn new(options: &Options, roots: &[Certificate]) -> Result<Connector, Flaw> {
        let mut builder = native_tls::TlsConnector::builder();
        for root in roots {
            builder.add_root_certificate(root.clone());
        }
        if let Some(Ok(identity)) = &options.identity {
            builder.identity(identity.0.clone());
        }
        builder
            .disable_built_in_roots(options.no_system_roots)
            .min_protocol_version(Some(match options.min_version {
                TlsVersion::Tls1_2 => Protocol::Tlsv12,
                TlsVersion::Tls1_3 => Protocol::Tlsv13,
            }))
            .danger_accept_invalid_certs(options.accept_invalid_certs)
            .danger_accept_invalid_hostnames(options.accept_invalid_hostnames);
        builder.build().map(Connector).map_err(|e| e.to_string())
    }

    pub fn connect<S: Read + Write>(&self, name: &str, stream: S) -> Handshake<S> {
        Handshake::from(name, self.0.connect(name, stream))
    }
}

impl TlsSettings {
    /// Uses a connector that the caller has built.
    pub fn set_ready(&mut self, connector: native_tls::TlsConnector) {
        self.ready = Some(Connector(connector));
        self.connector = Arc::default();
    }
}

impl<S: Read + Write> Handshake<S> {
    fn from(name: &str, result: Result<TlsStream<S>, HandshakeError<S>>) -> Handshake<S> {
        match result {
            Ok(stream) => Handshake::Done(stream),
            Err(HandshakeError::WouldBlock(paused)) => Handshake::Paused(Paused(paused)),
            Err(HandshakeError::Failure(e)) => Handshake::Failed(failure(name, e)),
        }
    }
}

/// Returns the error of a failed handshake. With native-tls, only the text tells an untrusted certificate from other
/// failures.
fn failure(name: &str, e: native_tls::Error) -> Error {
    let text = e.to_string();
    if !text.contains("certificate verify failed") {
        return tls(e);
    }
    Error::Certificate { name: name.to_owned(), reason: reason(&text).to_owned(), source: e.into() }
}

/// Returns OpenSSL's reason, which is in parentheses at the end of the text.
fn reason(text: &str) -> &str {
    let inside = text.strip_suffix(')').and_then(|text| text.rsplit_once('('));
    inside.map_or(text, |(_, reason)| reason)
}

/// Returns the hash of the server's certificate (tls-server-end-point, RFC 5929 §4); `None` if its signature
/// algorithm defines no such hash, as for Ed25519.
pub(crate) fn end_point<S: Read + Write>(stream: &TlsStream<S>) -> Option<Vec<u8>> {
    stream.tls_server_end_point().ok().flatten()
}

/// Returns the server's certificate, in DER.
pub(crate) fn peer_certificate<S: Read + Write>(stream: &TlsStream<S>) -> Option<Vec<u8>> {
    stream.peer_certificate().ok().flatten()?.to_der().ok()
}

fn tls(e: native_tls::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&e);
    while let Some(error) = cause {
        if let Some(lost) = error.downcast_ref::<io::Error>() {
            return Error::io(Phase::Tls, io::Error::new(lost.kind(), lost.to_string()));
        }
        cause = error.source();
    }
    match e.to_string() {
        text if text.to_ascii_lowercase().contains("unexpected eof") => Error::Closed(Phase::Tls),
        text if text.contains("wrong version number") => Error::Tls {
            source: format!("the server does not use TLS from the start (is this a port for STARTTLS or plain text?): {text}")
                .into(),
        },
        text if names_refusal(&text) => refusal(&text),
        _ => Error::Tls { source: e.into() },
    }
}

pub(super) fn available() -> Result<(), Error> {
    Ok(())
}

/// Reads certificates whose form was checked: one or more in PEM, or one in DER.
pub(super) fn roots(certificates: &[u8]) -> Result<Vec<Certificate>, Flaw> {
    let read = if is_pem(certificates) {
        Certificate::stack_from_pem(certificates)
    } else {
        Certificate::from_der(certificates).map(|certificate| vec![certificate])
    };
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(NONE.into()),
        Err(e) => Err(format!("the CA certificate is invalid: neither PEM nor DER: {e}")),
    }
}

/// A certificate with its chain and its private key. It has no `Debug`.
#[derive(Clone)]
pub(super) struct Identity(native_tls::Identity);

impl Identity {
    pub fn pem(chain: &[u8], key: &[u8]) -> Result<Identity, Flaw> {
        if chain.len() > MAX_FILE || key.len() > MAX_FILE {
            return Err("the client certificate or its key is too large".into());
        }
        match native_tls::Identity::from_pkcs8(chain, key) {
            Ok(identity) => Ok(Identity(identity)),
            Err(e) => Err(format!("invalid client certificate or key: {e}")),
        }
    }

    pub fn pkcs12(der: &[u8], password: &str) -> Result<Identity, Flaw> {
        if der.len() > MAX_FILE || password.contains('\0') {
            return Err("the PKCS#12 archive is too large, or its password contains a NUL".into());
        }
        match native_tls::Identity::from_pkcs12(der, password) {
            Ok(identity) => Ok(Identity(identity)),
            Err(e) => Err(format!(
                "could not open the PKCS#12 archive (wrong password, outdated cipher, or not an archive?): {e}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_certificates_and_keys_are_refused() {
        let ca: &[u8] = include_bytes!("../../tests/support/certs/ca.der");
        let archive: &[u8] = include_bytes!("../../tests/support/certs/client.p12");
        assert!(roots(ca).is_ok() && Identity::pkcs12(archive, "secret").is_ok());
        assert!((0..ca.len()).all(|n| roots(&ca[..n]).is_err()));
        assert!((0..archive.len()).all(|n| Identity::pkcs12(&archive[..n], "secret").is_err()));
        let pem: &[u8] = include_bytes!("../../tests/support/certs/client.pem");
        let key: &[u8] = include_bytes!("../../tests/support/certs/client.key");
        assert!(roots(pem).is_ok() && Identity::pem(pem, key).is_ok());
        let end = "-\n".len(); // the last line may lack these
        assert!(
            (0..pem.len() - end).all(|n| roots(&pem[..n]).is_err() && Identity::pem(&pem[..n], key).is_err())
        );
        assert!((0..key.len() - end).all(|n| Identity::pem(pem, &key[..n]).is_err()));
    }

    #[test]
    fn the_reason_is_the_text_in_parentheses_at_the_end() {
        let text =
            "error:0A000086:SSL routines:(x):certificate verify failed:a.c:1889: (certificate has expired)";
        assert_eq!(reason(text), "certificate has expired");
        for text in ["certificate verify failed", "verify failed (?) here", ")", ""] {
            assert_eq!(reason(text), text);
        }
    }
}
