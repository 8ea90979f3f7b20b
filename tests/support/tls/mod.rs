//! TLS for the doubles, and the CA that clients trust. The certificates were made by `certs/make.sh`.

#[cfg_attr(unix, path = "openssl.rs")]
#[cfg_attr(windows, path = "rustls.rs")]
mod double;
#[cfg(unix)]
pub mod flood;

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

#[allow(unused_imports)]
pub use self::double::{TlsStream, acceptor, der, end_point, is_resumed, notify, renegotiate};
#[cfg(unix)]
#[allow(unused_imports)] // each user needs a part
pub use self::double::{file_name, fingerprints};

/// Certificate of the CA that issued the good certificate.
pub const CA: &[u8] = include_bytes!("../certs/ca.pem");

macro_rules! identities {
    ($wanted:expr, $($name:literal)*) => {
        match $wanted {
            $($name => (
                include_bytes!(concat!("../certs/", $name, ".pem")).as_slice(),
                include_bytes!(concat!("../certs/", $name, ".key")).as_slice(),
            ),)*
            other => panic!("there is no certificate {other:?}"),
        }
    };
}

/// Returns a certificate and its key by name, as in `certs/`. Those for servers are for localhost, 127.0.0.1 and ::1,
/// unless the name indicates something else.
pub fn identity(name: &str) -> (&'static [u8], &'static [u8]) {
    identities!(name,
        "good" "other-host" "expired" "not-yet-valid" "unknown-issuer" "self-signed" "ed25519" "wildcard" "name-only"
        "address-as-name" "address-only" "wildcard-of-all" "a-label" "common-name-only" "for-clients" "with-issuer" "without-issuer" "client" "unknown-client")
}

/// A socket that writes one octet at a time, with a delay for each.
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
