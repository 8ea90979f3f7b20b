//! Pins: hashes of a server's certificate, or of its public key. They replace trust in a CA.

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD as BASE64};

use super::{Flaw, der::Fields};

/// A SHA-256 hash.
pub(super) type Hash = [u8; 32];

#[derive(Clone, Copy)]
pub(super) enum Pin {
    Certificate(Hash),
    /// The hash of the SubjectPublicKeyInfo.
    PublicKey(Hash),
}

/// Reads a hash: 64 hexadecimal digits, with or without colons between them, or 32 octets in base64.
pub(super) fn hash(text: &str) -> Result<Hash, Flaw> {
    let text = text.trim();
    let hex: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
    let read = if hex.len() == 64 {
        let digit = |b: u8| char::from(b).to_digit(16);
        hex.chunks(2).map(|pair| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8)).collect()
    } else {
        BASE64.decode(text.strip_suffix('=').unwrap_or(text)).ok()
    };
    read.and_then(|octets: Vec<u8>| octets.try_into().ok())
        // The error does not contain the text, which may be a private key if the wrong file was read.
        .ok_or_else(|| {
            format!("a pin ({} octets long) is not a SHA-256 hash in hexadecimal or base64", text.len())
        })
}

/// Checks that the certificate matches at least one of the pins.
///
/// # Errors
///
/// Fails if it matches none of them. The reason contains the hashes of the certificate and of its public key.
#[allow(dead_code)] // without TLS
pub(super) fn verify(pins: &[Pin], certificate: &[u8], sha256: impl Fn(&[u8]) -> Hash) -> Result<(), Flaw> {
    let whole = sha256(certificate);
    let public_key = Fields::read(certificate).map(|fields| sha256(fields.public_key));
    let has = |pin: &Pin| match pin {
        Pin::Certificate(hash) => *hash == whole,
        Pin::PublicKey(hash) => Some(*hash) == public_key,
    };
    if pins.iter().any(has) {
        return Ok(());
    }
    let mut reason = format!("it is not pinned: the SHA-256 of the certificate is {}", Hex(whole));
    if let Some(hash) = public_key {
        reason += &format!(", and that of its public key is {}", Hex(hash));
    }
    Err(reason)
}

#[allow(dead_code)] // without TLS
struct Hex(Hash);

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not a hash, but different for each input here.
    fn sum(octets: &[u8]) -> Hash {
        let mut sum = [0; 32];
        octets.iter().enumerate().for_each(|(n, octet)| sum[n % 32] ^= octet);
        sum
    }

    #[test]
    fn a_hash_is_read_as_openssl_and_curl_print_it() {
        let expected: Hash = std::array::from_fn(|n| (n * 8 + 3) as u8);
        let hex = Hex(expected).to_string();
        let colons: Vec<&str> = (0..32).map(|n| &hex[2 * n..2 * n + 2]).collect();
        let base64 = BASE64.encode(expected);
        for text in [
            hex.clone(),
            hex.to_uppercase(),
            colons.join(":"),
            format!(" {hex}\n"),
            base64.clone(),
            format!("{base64}="),
        ] {
            assert_eq!(hash(&text), Ok(expected), "{text}");
        }
        let other = hex.replace('3', "g");
        for text in
            ["", ":", &hex[1..], &format!("{hex}00"), &other, &base64[1..], &format!("{base64}=="), "é"]
        {
            assert!(hash(text).unwrap_err().contains("SHA-256"), "{text}");
        }
    }

    #[test]
    fn one_of_the_pins_is_enough() {
        let der: &[u8] = include_bytes!("../../tests/support/certs/ca.der");
        let (whole, key) = (sum(der), sum(Fields::read(der).unwrap().public_key));
        let (certificate, public_key) = (Pin::Certificate(whole), Pin::PublicKey(key));
        for pins in [&[certificate][..], &[public_key], &[Pin::Certificate(key), public_key]] {
            assert_eq!(verify(pins, der, sum), Ok(()));
        }
        for pins in [&[][..], &[Pin::Certificate(key), Pin::PublicKey(whole)]] {
            let why = verify(pins, der, sum).unwrap_err();
            assert!(why.contains(&Hex(whole).to_string()) && why.contains(&Hex(key).to_string()), "{why}");
        }
        // Data that is not a certificate has no public key.
        for cut in 0..der.len() {
            let cut = &der[..cut];
            assert!(Fields::read(cut).is_none() && verify(&[public_key], cut, sum).is_err());
        }
    }
}
