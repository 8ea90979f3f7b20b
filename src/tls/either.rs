//! A value of one of the TLS libraries, and the calls that are forwarded to it.
#![cfg_attr(not(feature = "async"), allow(dead_code))] // the blocking client never resumes a paused handshake

use std::io::{self, Read, Write};

use super::{Archive, Flaw, Handshake, Options, TlsBackend, TlsVersion, native, pin::Hash, rustls};

#[derive(Clone)]
pub(crate) enum Either<N, R> {
    Native(N),
    Rustls(R),
}

pub(crate) type Connector = Either<native::Connector, rustls::Connector>;
pub(crate) type TlsStream<S> = Either<native::TlsStream<S>, rustls::TlsStream<S>>;
pub(crate) type Paused<S> = Either<native::Paused<S>, rustls::Paused<S>>;
pub(super) type Roots = Either<Vec<native::Certificate>, Vec<rustls::Certificate>>;
pub(super) type Identity = Either<native::Identity, rustls::Identity>;

use Either::{Native, Rustls};

impl Roots {
    /// Reads these CAs, whose form has been checked.
    pub fn read<'b>(
        backend: TlsBackend,
        certificates: impl Iterator<Item = &'b [u8]>,
    ) -> Result<Roots, Flaw> {
        match backend {
            TlsBackend::NativeTls => all(certificates, native::roots).map(Native),
            TlsBackend::Rustls => all(certificates, rustls::roots).map(Rustls),
        }
    }
}

fn all<'b, T>(
    certificates: impl Iterator<Item = &'b [u8]>,
    read: impl Fn(&[u8]) -> Result<Vec<T>, Flaw>,
) -> Result<Vec<T>, Flaw> {
    let mut all = Vec::new();
    for certificate in certificates {
        all.append(&mut read(certificate)?);
    }
    Ok(all)
}

impl Identity {
    pub fn read(backend: TlsBackend, archive: &Archive) -> Result<Identity, Flaw> {
        match (backend, archive) {
            (TlsBackend::NativeTls, Archive::Pem { chain, key }) => {
                native::Identity::pem(chain, key).map(Native)
            }
            (TlsBackend::Rustls, Archive::Pem { chain, key }) => {
                rustls::Identity::pem(chain, key).map(Rustls)
            }
            (TlsBackend::NativeTls, Archive::Pkcs12 { der, password }) => {
                native::Identity::pkcs12(der, password).map(Native)
            }
            (TlsBackend::Rustls, Archive::Pkcs12 { der, password }) => {
                rustls::Identity::pkcs12(der, password).map(Rustls)
            }
        }
    }
}

impl Connector {
    /// Builds a connector. The options are valid, and the roots and the identity were read from them.
    pub(super) fn new(
        options: &Options,
        roots: &Roots,
        identity: Option<&Identity>,
    ) -> Result<Connector, Flaw> {
        match roots {
            Native(roots) => {
                let identity = identity.and_then(Either::native);
                native::Connector::new(options, roots, identity).map(Native)
            }
            Rustls(roots) => {
                let identity = identity.and_then(Either::rustls);
                rustls::Connector::new(options, roots, identity).map(Rustls)
            }
        }
    }

    pub fn connect<S: Read + Write>(&self, name: &str, stream: S) -> Handshake<TlsStream<S>, Paused<S>> {
        match self {
            Native(connector) => connector.connect(name, stream).map(Native, Native),
            Rustls(connector) => connector.connect(name, stream).map(Rustls, Rustls),
        }
    }
}

impl<N, R> Either<N, R> {
    fn native(&self) -> Option<&N> {
        match self {
            Native(value) => Some(value),
            Rustls(_) => None,
        }
    }

    fn rustls(&self) -> Option<&R> {
        match self {
            Native(_) => None,
            Rustls(value) => Some(value),
        }
    }
}

impl<T, P> Handshake<T, P> {
    fn map<U, Q>(self, done: impl Fn(T) -> U, paused: impl Fn(P) -> Q) -> Handshake<U, Q> {
        match self {
            Handshake::Done(stream) => Handshake::Done(done(stream)),
            Handshake::Paused(handshake) => Handshake::Paused(paused(handshake)),
            Handshake::Failed(e) => Handshake::Failed(e),
        }
    }
}

/// Evaluates the same expression for the value of either library.
macro_rules! each {
    ($either:expr, $value:ident => $do:expr) => {
        match $either {
            Native($value) => $do,
            Rustls($value) => $do,
        }
    };
}

impl<S: Read + Write> Paused<S> {
    pub fn get_mut(&mut self) -> &mut S {
        each!(self, paused => paused.get_mut())
    }

    pub fn resume(self, name: &str) -> Handshake<TlsStream<S>, Paused<S>> {
        match self {
            Native(paused) => paused.resume(name).map(Native, Native),
            Rustls(paused) => paused.resume(name).map(Rustls, Rustls),
        }
    }
}

impl<S: Read + Write> TlsStream<S> {
    pub fn get_mut(&mut self) -> &mut S {
        each!(self, stream => stream.get_mut())
    }

    /// Sends close_notify.
    pub fn shutdown(&mut self) -> io::Result<()> {
        each!(self, stream => stream.shutdown())
    }

    /// Returns the hash of the server's certificate (tls-server-end-point, RFC 5929 §4); `None` if its signature
    /// algorithm defines no such hash, as for Ed25519.
    pub fn end_point(&self) -> Option<Vec<u8>> {
        each!(self, stream => stream.end_point())
    }

    /// Returns the data that binds to this connection (tls-exporter, RFC 9266), in TLS 1.3 and if the library has it.
    pub fn exporter(&self) -> Option<Vec<u8>> {
        each!(self, stream => stream.exporter())
    }

    /// Returns the server's certificate, in DER.
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        each!(self, stream => stream.peer_certificate())
    }

    /// Returns the SHA-256 of these octets, if the library has it.
    pub fn sha256(&self, octets: &[u8]) -> Option<Hash> {
        each!(self, stream => stream.sha256(octets))
    }

    /// Returns the version of TLS, if the library reports it.
    pub fn version(&self) -> Option<TlsVersion> {
        each!(self, stream => stream.version())
    }

    /// Returns the cipher suite by its IANA name, if the library reports it.
    pub fn cipher_suite(&self) -> Option<String> {
        each!(self, stream => stream.cipher_suite())
    }
}

impl<S: Read + Write> Read for TlsStream<S> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        each!(self, stream => stream.read(room))
    }
}

impl<S: Read + Write> Write for TlsStream<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        each!(self, stream => stream.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        each!(self, stream => stream.flush())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncated_certificates_and_keys_are_refused() {
        let ca: &[u8] = include_bytes!("../../tests/support/certs/ca.der");
        let pem: &[u8] = include_bytes!("../../tests/support/certs/client.pem");
        let key: &[u8] = include_bytes!("../../tests/support/certs/client.key");
        let archive: &[u8] = include_bytes!("../../tests/support/certs/client.p12");
        // The last line may lack these.
        for (backend, end) in [(TlsBackend::NativeTls, "-\n".len()), (TlsBackend::Rustls, "-----\n".len())] {
            if !backend.is_available() {
                continue;
            }
            let is_root = |root: &[u8]| Roots::read(backend, [root].into_iter()).is_ok();
            let is_identity = |archive| Identity::read(backend, &archive).is_ok();
            let is_pair =
                |chain: &[u8], key: &[u8]| is_identity(Archive::Pem { chain: chain.into(), key: key.into() });
            let is_pkcs12 =
                |der: &[u8]| is_identity(Archive::Pkcs12 { der: der.into(), password: "secret".into() });
            assert!(is_root(ca) && is_root(pem) && is_pair(pem, key));
            assert_eq!(is_pkcs12(archive), backend == TlsBackend::NativeTls);
            assert!((0..ca.len()).all(|n| !is_root(&ca[..n])));
            assert!((0..pem.len() - end).all(|n| !is_root(&pem[..n]) && !is_pair(&pem[..n], key)));
            assert!((0..key.len() - end).all(|n| !is_pair(pem, &key[..n])));
            assert!((0..archive.len()).all(|n| !is_pkcs12(&archive[..n])));
        }
    }
}
