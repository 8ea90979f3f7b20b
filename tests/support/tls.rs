//! TLS for the doubles, and what clients trust. `certs/make.sh` made the certificates.
//!
//! The doubles stand on OpenSSL itself: the servers of native-tls neither ask for a client certificate, nor speak
//! TLS 1.3, nor renegotiate.

use std::{
    ffi::c_int,
    io::{self, Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use foreign_types::ForeignTypeRef;
use openssl::{
    pkey::PKey,
    ssl::{SslAcceptor, SslMethod, SslStream, SslVerifyMode, SslVersion},
    x509::X509,
};

/// The authority of the good certificate.
pub const CA: &[u8] = include_bytes!("certs/ca.pem");

macro_rules! identities {
    ($wanted:expr, $($name:literal)*) => {
        match $wanted {
            $($name => (
                include_bytes!(concat!("certs/", $name, ".pem")).as_slice(),
                include_bytes!(concat!("certs/", $name, ".key")).as_slice(),
            ),)*
            other => panic!("there is no certificate {other:?}"),
        }
    };
}

/// Certificate and key by their name in `certs/`. Servers' ones are for localhost, 127.0.0.1 and ::1, unless the name
/// says otherwise.
pub fn identity(name: &str) -> (&'static [u8], &'static [u8]) {
    identities!(name,
        "good" "other-host" "expired" "not-yet-valid" "unknown-issuer" "self-signed" "ed25519" "wildcard" "name-only"
        "address-as-name" "address-only" "wildcard-of-all" "a-label" "common-name-only" "for-clients" "with-issuer" "without-issuer" "client" "unknown-client")
}

/// By the name of a certificate, and what else is wanted: `good`, `good 1.2` (TLS 1.2 only), `good mutual` (the client
/// has to have a certificate of the authority).
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
            _ => panic!("nobody knows what {word:?} means"),
        }
    }
    acceptor.build()
}

/// The hash of a certificate's DER: what binds a login to it, if it was signed with SHA-256 (RFC 5929 §4.1).
pub fn end_point(der: &[u8]) -> Vec<u8> {
    openssl::sha::sha256(der).to_vec()
}

pub fn der(pem: &[u8]) -> Vec<u8> {
    X509::from_pem(pem).unwrap().to_der().unwrap()
}

/// Asks the client for another handshake on the same connection (RFC 5246 §7.4.1.1), and does not wait for it.
pub fn renegotiate(stream: &mut SslStream<TcpStream>) {
    unsafe extern "C" {
        /// openssl-sys does not have it.
        fn SSL_renegotiate(ssl: *mut openssl_sys::SSL) -> c_int;
    }
    // SAFETY: the pointer is that of a live connection, which nobody else uses meanwhile.
    let agreed = unsafe { SSL_renegotiate(stream.ssl().as_ptr()) };
    assert_eq!(agreed, 1);
    stream.do_handshake().unwrap();
}

/// A socket that writes one octet at a time, and takes its time for each.
#[derive(Debug)]
pub struct Dripping(pub TcpStream, pub Duration);

impl Read for Dripping {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.0.read(room)
    }
}

impl Write for Dripping {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        thread::sleep(self.1);
        self.0.write(&bytes[..bytes.len().min(1)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
