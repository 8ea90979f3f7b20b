//! The private key: read from PEM, and never shown.

use std::{borrow::Cow, fmt};

use base64::{Engine, engine::general_purpose::STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};

use crate::Error;

pub(super) enum Key {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    /// Parses the first private key in the text.
    pub fn from_pem(pem: &str) -> Result<Key, Error> {
        let (label, text) = private_key(pem).ok_or_else(|| unusable("no PEM private key found"))?;
        if label.starts_with("ENCRYPTED") || text.contains("ENCRYPTED") {
            return Err(unusable("it is encrypted"));
        }
        let text: String = text.split_ascii_whitespace().collect();
        let der = STANDARD.decode(text).map_err(|_| unusable("invalid base64"))?;
        let rsa = match label {
            // OpenSSL writes Ed25519 keys without the public key.
            "" => match Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der) {
                Ok(key) => return Ok(Key::Ed25519(key)),
                Err(_) => RsaKeyPair::from_pkcs8(&der),
            },
            "RSA " => RsaKeyPair::from_der(&der),
            _ => return Err(unusable("neither an RSA nor an Ed25519 key")),
        };
        rsa.map(Key::Rsa).map_err(|why| {
            unusable(format!("it must be an RSA key of 2048 to 4096 bits, or an Ed25519 key ({why})"))
        })
    }

    /// Returns the algorithm for `a=`.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Key::Rsa(_) => "rsa-sha256",
            Key::Ed25519(_) => "ed25519-sha256", // RFC 8463 §3
        }
    }

    /// Signs the SHA-256 hash of a text.
    pub fn sign(&self, text: &[u8]) -> Result<Vec<u8>, Error> {
        match self {
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature)
                    .map_err(|_| Error::Config("could not sign with the DKIM key".into()))?;
                Ok(signature)
            }
            // RFC 8463 §3: Ed25519 signs the hash, not the text.
            Key::Ed25519(key) => {
                let hash = ring::digest::digest(&ring::digest::SHA256, text);
                Ok(key.sign(hash.as_ref()).as_ref().to_vec())
            }
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm())
    }
}

/// Returns the text before `PRIVATE KEY` in the first line, and the text between the first and last lines (RFC 7468
/// §2).
fn private_key(pem: &str) -> Option<(&str, &str)> {
    const KIND: &str = "PRIVATE KEY-----";
    let at = pem.find(KIND)?;
    let label = pem[..at].rsplit_once("-----BEGIN ")?.1;
    let text = &pem[at + KIND.len()..];
    Some((label, &text[..text.find("-----END ")?]))
}

fn unusable(why: impl Into<Cow<'static, str>>) -> Error {
    Error::Config(format!("unusable DKIM key: {}", why.into()).into())
}
