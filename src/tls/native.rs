//! TLS with native-tls: the system's library (OpenSSL on Linux).
//!
//! With OpenSSL, building a connector parses the file with the CAs of the system twice, even if they are not trusted:
//!
//! 1. `SslConnector::builder` of the crate openssl calls `set_default_verify_paths`.
//! 2. `TlsConnector::new` of native-tls 0.2.18 (`imp/openssl.rs`) then loads the file that openssl-probe finds, which is
//!    usually the same. Only after that, `disable_built_in_roots` replaces the store with an empty one.
//!
//! That is 40 to 60 ms for the 144 CAs of Debian 12 (on a busy machine 80 to 130 ms, without the system's CAs too), and
//! no setting of native-tls avoids it. Here it is done once for all clones of a builder. It is not done if the
//! environment has `SSL_CERT_FILE=/dev/null` and `SSL_CERT_DIR=/etc/ssl/certs`: OpenSSL then reads single CAs by the
//! hash of their name, and on the same busy machine the first connector took 4 ms and each other one less than 1 ms.
//! That is for users to set: a library cannot change the environment safely. What upstream could do: skip step 1 if
//! step 2 follows, and both if the CAs are not wanted.
#![cfg_attr(not(feature = "async"), allow(dead_code))] // the blocking client never resumes a paused handshake

use std::{
    io::{self, Read, Write},
    sync::Arc,
};

use native_tls::{HandshakeError, MidHandshakeTlsStream, Protocol};

pub(super) use native_tls::Certificate;

use super::{
    Flaw, Options, TlsVersion, not_tls,
    pin::{self, Pin},
    refusal,
    root::{NONE, is_pem},
};
use crate::{Error, Phase};

#[derive(Clone)]
pub(crate) struct Connector {
    tls: native_tls::TlsConnector,
    pins: Pins,
}

/// Compared with the certificate after the handshake, before anything is sent: native-tls has no way to do it earlier.
type Pins = Arc<[Pin]>;

/// The state of a handshake.
type Handshake<S> = super::Handshake<TlsStream<S>, Paused<S>>;

/// A handshake that is not finished.
pub(crate) struct Paused<S>(MidHandshakeTlsStream<S>, Pins);

impl<S: Read + Write> Paused<S> {
    pub fn get_mut(&mut self) -> &mut S {
        self.0.get_mut()
    }

    pub fn resume(self, name: &str) -> Handshake<S> {
        handshake(name, self.1, self.0.handshake())
    }
}

impl Connector {
    /// Builds a connector. The options are valid, and the roots were read from them.
    pub(super) fn new(
        options: &Options,
        roots: &[Certificate],
        identity: Option<&Identity>,
    ) -> Result<Connector, Flaw> {
        let pins: Pins = options.pins.iter().flatten().copied().collect();
        let mut builder = native_tls::TlsConnector::builder();
        for root in roots {
            builder.add_root_certificate(root.clone());
        }
        if let Some(identity) = identity {
            builder.identity(identity.0.clone());
        }
        builder
            .disable_built_in_roots(options.no_system_roots || !pins.is_empty())
            .min_protocol_version(Some(match options.min_version {
                TlsVersion::Tls1_2 => Protocol::Tlsv12,
                TlsVersion::Tls1_3 => Protocol::Tlsv13,
            }))
            .danger_accept_invalid_certs(options.accept_invalid_certs || !pins.is_empty())
            .danger_accept_invalid_hostnames(options.accept_invalid_hostnames);
        let tls = builder.build().map_err(|e| e.to_string())?;
        Ok(Connector { tls, pins })
    }

    pub fn connect<S: Read + Write>(&self, name: &str, stream: S) -> Handshake<S> {
        handshake(name, self.pins.clone(), self.tls.connect(name, stream))
    }
}

impl From<native_tls::TlsConnector> for super::Connector {
    fn from(connector: native_tls::TlsConnector) -> super::Connector {
        super::Connector::Native(Connector { tls: connector, pins: Arc::default() })
    }
}

fn handshake<S: Read + Write>(
    name: &str,
    pins: Pins,
    result: Result<native_tls::TlsStream<S>, HandshakeError<S>>,
) -> Handshake<S> {
    match result {
        Ok(stream) => {
            let stream = TlsStream(stream);
            match stream.verify(&pins) {
                Ok(()) => Handshake::Done(stream),
                Err(reason) => {
                    let source = reason.clone().into();
                    Handshake::Failed(Error::Certificate { name: name.to_owned(), reason, source })
                }
            }
        }
        Err(HandshakeError::WouldBlock(paused)) => Handshake::Paused(Paused(paused, pins)),
        Err(HandshakeError::Failure(e)) => Handshake::Failed(failure(name, e)),
    }
}

/// Returns the error of a failed handshake. With native-tls, only the text distinguishes an untrusted certificate from
/// other failures.
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

pub(crate) struct TlsStream<S>(native_tls::TlsStream<S>);

impl<S: Read + Write> TlsStream<S> {
    pub fn get_mut(&mut self) -> &mut S {
        self.0.get_mut()
    }

    pub fn shutdown(&mut self) -> io::Result<()> {
        self.0.shutdown()
    }

    /// Compares the server's certificate with the pins, if there are any.
    fn verify(&self, pins: &[Pin]) -> Result<(), Flaw> {
        if pins.is_empty() {
            return Ok(());
        }
        if !PINS {
            return Err("pins cannot be compared on this system".into());
        }
        pin::verify(pins, &self.peer_certificate().unwrap_or_default(), sha256)
    }

    /// Returns the hash of the server's certificate (tls-server-end-point, RFC 5929 §4); `None` if its signature
    /// algorithm defines no such hash, as for Ed25519.
    pub fn end_point(&self) -> Option<Vec<u8>> {
        self.0.tls_server_end_point().ok().flatten()
    }

    /// Returns `None`: native-tls cannot export keying material.
    pub fn exporter(&self) -> Option<Vec<u8>> {
        None
    }

    /// Returns the server's certificate, in DER.
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        self.0.peer_certificate().ok().flatten()?.to_der().ok()
    }

    pub fn sha256(&self, octets: &[u8]) -> Option<pin::Hash> {
        PINS.then(|| sha256(octets))
    }

    /// Returns `None`: native-tls does not tell.
    pub fn version(&self) -> Option<TlsVersion> {
        None
    }

    /// Returns `None`: native-tls does not tell.
    pub fn cipher_suite(&self) -> Option<String> {
        None
    }
}

impl<S: Read + Write> Read for TlsStream<S> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.0.read(room).map_err(translate)
    }
}

impl<S: Read + Write> Write for TlsStream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(translate)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Translates the error of a read or write. Only the text shows that the server refuses or requires a certificate.
#[cold]
fn translate(e: io::Error) -> io::Error {
    if e.kind() != io::ErrorKind::Other {
        return e;
    }
    let text = e.to_string();
    if names_refusal(&text) { io::Error::other(refusal(&text)) } else { e }
}

fn names_refusal(text: &str) -> bool {
    let alert = text.split_once(" alert ").map_or("", |(_, alert)| alert);
    ["certificate", "unknown ca", "access denied"].iter().any(|what| alert.contains(what))
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
        text if text.contains("wrong version number") => not_tls(&text),
        text if names_refusal(&text) => refusal(&text),
        _ => Error::Tls { source: e.into() },
    }
}

pub(super) const AVAILABLE: bool = true;
/// Needs a hash function, and with OpenSSL there is one without another crate.
pub(super) const PINS: bool = cfg!(not(any(windows, target_vendor = "apple")));

#[cfg(not(any(windows, target_vendor = "apple")))]
fn sha256(octets: &[u8]) -> pin::Hash {
    openssl::sha::sha256(octets)
}

/// Never called: see [`PINS`].
#[cfg(any(windows, target_vendor = "apple"))]
fn sha256(_: &[u8]) -> pin::Hash {
    [0; 32]
}

/// Reads certificates whose form has been checked: one or more in PEM, or one in DER.
pub(super) fn roots(certificates: &[u8]) -> Result<Vec<Certificate>, Flaw> {
    let read = if is_pem(certificates) {
        Certificate::stack_from_pem(certificates)
    } else {
        Certificate::from_der(certificates).map(|certificate| vec![certificate])
    };
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(NONE.into()),
        Err(e) => Err(format!("the CA certificate is invalid: {e}")),
    }
}

/// A certificate with its chain and its private key. It does not implement `Debug`.
#[derive(Clone)]
pub(super) struct Identity(native_tls::Identity);

impl Identity {
    pub fn pem(chain: &[u8], key: &[u8]) -> Result<Identity, Flaw> {
        match native_tls::Identity::from_pkcs8(chain, key) {
            Ok(identity) => Ok(Identity(identity)),
            Err(e) => Err(format!("invalid client certificate or key: {e}")),
        }
    }

    pub fn pkcs12(der: &[u8], password: &str) -> Result<Identity, Flaw> {
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
    fn the_reason_is_the_text_in_parentheses_at_the_end() {
        let text =
            "error:0A000086:SSL routines:(x):certificate verify failed:a.c:1889: (certificate has expired)";
        assert_eq!(reason(text), "certificate has expired");
        for text in ["certificate verify failed", "verify failed (?) here", ")", ""] {
            assert_eq!(reason(text), text);
        }
    }
}
