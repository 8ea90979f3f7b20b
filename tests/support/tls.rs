//! TLS for the doubles, and what clients trust. `certs/make.sh` made the certificates.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use native_tls::{Identity, TlsAcceptor};

/// The authority of the good certificate.
pub const CA: &[u8] = include_bytes!("certs/ca.pem");

macro_rules! identity {
    ($name:literal) => {
        (
            include_bytes!(concat!("certs/", $name, ".pem")).as_slice(),
            include_bytes!(concat!("certs/", $name, ".key")).as_slice(),
        )
    };
}

/// By the name of a certificate in `certs/`. All but `other-host` are for localhost, 127.0.0.1 and ::1.
pub fn acceptor(name: &str) -> TlsAcceptor {
    let (certificate, key) = match name {
        "good" => identity!("good"),
        "other-host" => identity!("other-host"),
        "expired" => identity!("expired"),
        "unknown-issuer" => identity!("unknown-issuer"),
        "self-signed" => identity!("self-signed"),
        _ => panic!("there is no certificate {name:?}"),
    };
    TlsAcceptor::new(Identity::from_pkcs8(certificate, key).unwrap()).unwrap()
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
