//! Doubles with rustls, for systems without OpenSSL. They cannot renegotiate.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
};

use rustls::{
    HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};

use super::{CA, identity};

/// The server's end of a connection in TLS.
pub type TlsStream<S> = StreamOwned<ServerConnection, S>;

/// Performs the server's handshakes.
pub struct Acceptor(Arc<ServerConfig>);

impl Acceptor {
    pub fn accept<S: Read + Write>(&self, socket: S) -> io::Result<TlsStream<S>> {
        let mut stream = StreamOwned::new(ServerConnection::new(self.0.clone()).unwrap(), socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }
}

/// Returns an acceptor for the name of a certificate and options: `good`, `good 1.2` (TLS 1.2 only), `good mutual` (the
/// client must have a certificate issued by the CA).
pub fn acceptor(what: &str) -> Acceptor {
    let mut words = what.split(' ');
    let (certificate, key) = identity(words.next().unwrap());
    let provider = Arc::new(default_provider());
    let (mut versions, mut is_mutual) = (vec![&TLS12, &TLS13], false);
    for word in words {
        match word {
            "1.2" => versions = vec![&TLS12],
            "mutual" => is_mutual = true,
            _ => panic!("unknown option {word:?}"),
        }
    }
    let config =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&versions).unwrap();
    let config = if is_mutual {
        let mut roots = RootCertStore::empty();
        roots.add(der(CA).into()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build();
        config.with_client_cert_verifier(verifier.unwrap())
    } else {
        config.with_no_client_auth()
    };
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>().unwrap();
    let key = provider.key_provider.load_private_key(PrivateKeyDer::from_pem_slice(key).unwrap()).unwrap();
    // Unlike `with_single_cert`, a resolver accepts invalid certificates.
    let resolver = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    Acceptor(config.with_cert_resolver(Arc::new(resolver)).into())
}

/// Returns the hash of a certificate that binds a login to it, if it was signed with SHA-256 (RFC 5929 §4.1).
pub fn end_point(der: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, der).as_ref().to_vec()
}

pub fn der(pem: &[u8]) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem).unwrap().to_vec()
}

/// Panics: rustls does not renegotiate.
pub fn renegotiate(_: &mut TlsStream<TcpStream>) {
    panic!("this double cannot renegotiate");
}

/// Sends close_notify.
pub fn notify(stream: &mut TlsStream<TcpStream>) {
    stream.conn.send_close_notify();
    drop(stream.flush()); // the client may have left
}

/// Returns whether the client resumed a session.
pub fn is_resumed(stream: &TlsStream<TcpStream>) -> bool {
    stream.conn.handshake_kind() == Some(HandshakeKind::Resumed)
}
