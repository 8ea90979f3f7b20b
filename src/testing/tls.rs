//! TLS for the test server, with rustls and a certificate that is made for each server.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};

use super::{Mode, connection::Socket};
use crate::message::date_time;

/// How long a certificate is valid. Apple's TLS accepts no more than 825 days.
const VALIDITY: Duration = Duration::from_secs(365 * 86_400);
/// How long ago a certificate became valid, so that small differences between clocks do not matter.
const ALREADY_VALID: Duration = Duration::from_secs(86_400);

/// The certificate of a server, and how the server uses TLS.
pub(super) struct Tls {
    mode: Mode,
    pub certificate_pem: String,
    config: Arc<ServerConfig>,
}

impl Tls {
    /// Makes a new key and a self-signed certificate for `localhost`, 127.0.0.1 and ::1.
    pub fn new(mode: Mode) -> io::Result<Tls> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
            .map_err(|_| io::Error::other("could not generate the key of the certificate"))?;
        let der = certificate(pkcs8.as_ref(), &random, SystemTime::now())
            .ok_or_else(|| io::Error::other("could not sign the certificate"))?;
        let certificate_pem = pem(&der);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_ref().to_vec()));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|config| {
                config.with_no_client_auth().with_single_cert(vec![CertificateDer::from(der)], key)
            })
            .map_err(io::Error::other)?;
        Ok(Tls { mode, certificate_pem, config: Arc::new(config) })
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Completes a handshake over the socket. On failure, the socket is closed.
    pub fn accept(&self, socket: Socket) -> io::Result<Stream> {
        let connection = ServerConnection::new(Arc::clone(&self.config)).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Stream::Tls(Box::new(stream)))
    }
}

/// A connection, with or without TLS.
pub(super) enum Stream {
    Plain(Socket),
    Tls(Box<StreamOwned<ServerConnection, Socket>>),
}

impl Stream {
    pub fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) => &socket.0,
            Stream::Tls(stream) => &stream.sock.0,
        }
    }

    pub fn is_encrypted(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// Tells the client that nothing follows. Whether this arrives does not matter.
    pub fn close(&mut self) {
        if let Stream::Tls(stream) = self {
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    }
}

impl Read for Stream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(room),
            Stream::Tls(stream) => stream.read(room),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

/// Returns a self-signed certificate in DER (RFC 5280 §4.1), or `None` if it cannot be signed. It is not a CA, so that
/// it can be both the server's certificate and the one that the client trusts.
fn certificate(pkcs8: &[u8], random: &SystemRandom, now: SystemTime) -> Option<Vec<u8>> {
    /// ecdsa-with-SHA256 (RFC 5758 §3.2): 1.2.840.10045.4.3.2
    const SIGNED_WITH: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
    /// id-ecPublicKey and secp256r1 (RFC 5480 §2.1): 1.2.840.10045.2.1, 1.2.840.10045.3.1.7
    const KEY_KIND: &[u8] = &[
        0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
        0x01, 0x07,
    ];
    /// 2.5.4.3, commonName
    const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
    /// 2.5.29.17, subjectAltName
    const ALT_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x11];
    /// 2.5.29.37, extKeyUsage, and id-kp-serverAuth: 1.3.6.1.5.5.7.3.1
    const KEY_USAGE: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x25];
    const SERVER_AUTH: &[u8] = &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01];

    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, random).ok()?;
    let mut serial = [0; 16];
    ring::rand::SecureRandom::fill(random, &mut serial).ok()?;
    serial[0] = serial[0] & 0x3f | 0x40; // positive, and of full length

    let algorithm = der(SEQUENCE, &[SIGNED_WITH]);
    let common_name = der(SEQUENCE, &[COMMON_NAME, &der(UTF8_STRING, &[b"postino::testing"])]);
    let name = der(SEQUENCE, &[&der(SET, &[&common_name])]);
    let validity =
        der(SEQUENCE, &[&time(now.checked_sub(ALREADY_VALID)?)?, &time(now.checked_add(VALIDITY)?)?]);
    let public_key =
        der(SEQUENCE, &[&der(SEQUENCE, &[KEY_KIND]), &der(BIT_STRING, &[&[0], key.public_key().as_ref()])]);
    let alt_names = der(
        SEQUENCE,
        &[
            &der(DNS_NAME, &[b"localhost"]),
            &der(IP_ADDRESS, &[&[127, 0, 0, 1]]),
            &der(IP_ADDRESS, &[&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]]),
        ],
    );
    let extension = |id: &[u8], value: &[u8]| der(SEQUENCE, &[id, &der(OCTET_STRING, &[value])]);
    let extensions = der(
        SEQUENCE,
        &[&extension(ALT_NAME, &alt_names), &extension(KEY_USAGE, &der(SEQUENCE, &[SERVER_AUTH]))],
    );
    let content = der(
        SEQUENCE,
        &[
            &der(EXPLICIT_0, &[&der(INTEGER, &[&[2]])]), // version 3
            &der(INTEGER, &[&serial]),
            &algorithm,
            &name,
            &validity,
            &name,
            &public_key,
            &der(EXPLICIT_3, &[&extensions]),
        ],
    );
    let signature = key.sign(random, &content).ok()?;
    Some(der(SEQUENCE, &[&content, &algorithm, &der(BIT_STRING, &[&[0], signature.as_ref()])]))
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;
const EXPLICIT_0: u8 = 0xa0;
const EXPLICIT_3: u8 = 0xa3;

/// Encodes one element with these parts as its content (X.690 §8.1).
fn der(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let length: usize = content.iter().map(|part| part.len()).sum();
    let mut element = vec![tag];
    match length {
        0..0x80 => element.push(length as u8),
        0x80..0x100 => element.extend([0x81, length as u8]),
        _ => element.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    content.iter().for_each(|part| element.extend_from_slice(part));
    element
}

/// Encodes a time: as UTCTime if its year is before 2050, and as GeneralizedTime after that (RFC 5280 §4.1.2.5).
fn time(time: SystemTime) -> Option<Vec<u8>> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    // "Tue, 29 Feb 2000 00:00:00 +0000"
    let text = date_time(time)?;
    let words: Vec<&str> = text.split(' ').collect();
    let [_, day, month, year, time, _] = words[..] else { return None };
    let month = MONTHS.find(month)? / 3 + 1;
    let rest = format!("{month:02}{day:0>2}{}Z", time.replace(':', ""));
    Some(if year < "2050" {
        der(UTC_TIME, &[&year.as_bytes()[2..], rest.as_bytes()])
    } else {
        der(GENERALIZED_TIME, &[year.as_bytes(), rest.as_bytes()])
    })
}

/// Encodes a certificate as PEM (RFC 7468).
fn pem(der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let lines = base64.as_bytes().chunks(64).map(String::from_utf8_lossy);
    let lines: String = lines.map(|line| format!("{line}\n")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n")
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn years_from_2050_on_are_written_with_four_digits() {
        for (seconds, text) in [
            (951_782_400, "000229000000Z"),
            (1_735_689_599, "241231235959Z"),
            (2_524_607_999, "491231235959Z"),
            (2_524_608_000, "20500101000000Z"),
        ] {
            let element = time(UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
            let tag = if text.len() == 13 { UTC_TIME } else { GENERALIZED_TIME };
            assert_eq!(element, [&[tag, text.len() as u8], text.as_bytes()].concat());
        }
    }

    #[test]
    fn the_length_of_an_element_is_encoded_as_in_der() {
        for (length, start) in [
            (0, &[SEQUENCE, 0][..]),
            (127, &[SEQUENCE, 127]),
            (128, &[SEQUENCE, 0x81, 128]),
            (255, &[SEQUENCE, 0x81, 255]),
            (256, &[SEQUENCE, 0x82, 1, 0]),
        ] {
            let element = der(SEQUENCE, &[&vec![0; length]]);
            assert_eq!((&element[..start.len()], element.len()), (start, start.len() + length));
        }
    }

    #[test]
    fn each_server_has_another_certificate() {
        let pem = || Tls::new(Mode::Implicit).unwrap().certificate_pem;
        assert_ne!(pem(), pem());
    }
}
