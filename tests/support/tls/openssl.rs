//! Doubles with OpenSSL, used directly: the servers of native-tls neither request a client certificate, nor speak TLS
//! 1.3, nor renegotiate.

use std::{ffi::c_int, net::TcpStream};

use foreign_types::ForeignTypeRef;
use openssl::{
    pkey::PKey,
    ssl::{SslAcceptor, SslMethod, SslStream, SslVerifyMode, SslVersion},
    x509::X509,
};

use super::{CA, identity};

/// The server's end of a connection in TLS.
pub type TlsStream<S> = SslStream<S>;

/// Returns an acceptor for the name of a certificate and options: `good`, `good 1.2` (TLS 1.2 only), `good mutual` (the
/// client must have a certificate issued by the CA).
pub fn acceptor(what: &str) -> SslAcceptor {
    let mut words = what.split(' ');
    let (certificate, key) = identity(words.next().unwrap());
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).unwrap();
    let chain = X509::stack_from_pem(certificate).unwrap();
    acceptor.set_certificate(&chain[0]).unwrap();
    for issuer in &chain[1..] {
        acceptor.add_extra_chain_cert(issuer.clone()).unwrap();
    }
    acceptor.set_private_key(&PKey::private_key_from_pem(key).unwrap()).unwrap();
    for word in words {
        match word {
            "1.2" => acceptor.set_max_proto_version(Some(SslVersion::TLS1_2)).unwrap(),
            "mutual" => {
                let authority = X509::from_pem(CA).unwrap();
                acceptor.add_client_ca(&authority).unwrap();
                acceptor.cert_store_mut().add_cert(authority).unwrap();
                acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
            }
            _ => panic!("unknown option {word:?}"),
        }
    }
    acceptor.build()
}

/// Returns the hash of a certificate that binds a login to it, if it was signed with SHA-256 (RFC 5929 §4.1).
pub fn end_point(der: &[u8]) -> Vec<u8> {
    openssl::sha::sha256(der).to_vec()
}

pub fn der(pem: &[u8]) -> Vec<u8> {
    X509::from_pem(pem).unwrap().to_der().unwrap()
}

/// Requests another handshake on the same connection (RFC 5246 §7.4.1.1), but does not wait for it.
pub fn renegotiate(stream: &mut SslStream<TcpStream>) {
    unsafe extern "C" {
        /// Declared here because openssl-sys lacks it.
        fn SSL_renegotiate(ssl: *mut openssl_sys::SSL) -> c_int;
    }
    // SAFETY: the pointer is that of a live connection, which is not used elsewhere meanwhile.
    let agreed = unsafe { SSL_renegotiate(stream.ssl().as_ptr()) };
    assert_eq!(agreed, 1);
    stream.do_handshake().unwrap();
}

/// Sends close_notify.
pub fn notify(stream: &mut SslStream<TcpStream>) {
    drop(stream.shutdown()); // the client may have left
}

/// Returns whether the client resumed a session.
pub fn is_resumed(stream: &SslStream<TcpStream>) -> bool {
    stream.ssl().session_reused()
}

/// Returns the SHA-256 of a certificate and of its public key (SubjectPublicKeyInfo), both in DER.
pub fn fingerprints(pem: &[u8]) -> ([u8; 32], [u8; 32]) {
    let certificate = X509::from_pem(pem).unwrap();
    let key = certificate.public_key().unwrap().public_key_to_der().unwrap();
    (openssl::sha::sha256(&certificate.to_der().unwrap()), openssl::sha::sha256(&key))
}

/// Returns the name of the file of this CA in a folder where OpenSSL looks for it.
pub fn file_name(ca: &[u8]) -> String {
    format!("{:08x}.0", X509::from_pem(ca).unwrap().subject_name_hash())
}
