//! Private keys in the form that the TLS libraries accept: unencrypted PKCS#8 in PEM (RFC 5958, RFC 7468 §10).

use crate::search::find;

const PKCS8: &[u8] = b"-----BEGIN PRIVATE KEY-----";

/// Returns the key in a PEM text, from its first line on, without any attributes or certificates before it.
///
/// # Errors
///
/// The text says which kind of key was found, and how to convert it. It contains no part of the key.
pub(super) fn pkcs8(pem: &[u8]) -> Result<&[u8], &'static str> {
    if let Some(start) = find(pem, PKCS8) {
        return Ok(&pem[start..]);
    }
    let known = KNOWN.iter().find(|(mark, _)| find(pem, mark.as_bytes()).is_some());
    Err(known.map_or(NO_PEM, |(_, why)| why))
}

const NO_PEM: &str = "the client key is not PEM text with a private key (from DER: \
     openssl pkcs8 -topk8 -nocrypt -inform DER -in key.der -out key.pkcs8.pem)";

/// First lines of other kinds of keys, and how to convert such keys.
const KNOWN: [(&str, &str); 7] = [
    (
        "-----BEGIN ENCRYPTED PRIVATE KEY-----",
        "the client key is encrypted; to decrypt it: \
         openssl pkcs8 -topk8 -nocrypt -in key.pem -out key.pkcs8.pem (or use PKCS#12)",
    ),
    (
        "-----BEGIN RSA PRIVATE KEY-----",
        "the client key is PKCS#1, not PKCS#8; to convert it: \
         openssl pkcs8 -topk8 -nocrypt -in key.pem -out key.pkcs8.pem",
    ),
    (
        "-----BEGIN EC PRIVATE KEY-----",
        "the client key is SEC 1, not PKCS#8; to convert it: \
         openssl pkcs8 -topk8 -nocrypt -in key.pem -out key.pkcs8.pem",
    ),
    (
        "-----BEGIN DSA PRIVATE KEY-----",
        "the client key is not PKCS#8; to convert it: \
         openssl pkcs8 -topk8 -nocrypt -in key.pem -out key.pkcs8.pem",
    ),
    (
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "the client key is in OpenSSH format, not PKCS#8; to convert a copy: \
         ssh-keygen -p -N '' -m PKCS8 -f key.copy",
    ),
    ("-----BEGIN PUBLIC KEY-----", "the client key is a public key; the private key is needed"),
    (
        "-----BEGIN CERTIFICATE-----",
        "the client key is a certificate: pass the certificate first, then its key",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pkcs8_key_is_found_after_other_text() {
        let key = "-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n";
        for before in [
            "",
            "\u{feff}\n",
            "Bag Attributes\n    friendlyName: me\n",
            "-----BEGIN CERTIFICATE-----\nMC4=\n-----END CERTIFICATE-----\n",
        ] {
            assert_eq!(pkcs8(format!("{before}{key}").as_bytes()), Ok(key.as_bytes()));
        }
    }

    #[test]
    fn other_keys_are_refused_with_advice_on_what_to_do() {
        let convert = "openssl pkcs8 -topk8 -nocrypt";
        for (kind, way_out) in [
            ("RSA PRIVATE KEY", convert),
            ("EC PRIVATE KEY", convert),
            ("DSA PRIVATE KEY", convert),
            ("ENCRYPTED PRIVATE KEY", convert),
            ("OPENSSH PRIVATE KEY", "ssh-keygen"),
            ("PUBLIC KEY", "private key is needed"),
            ("CERTIFICATE", "pass the certificate first"),
            ("SOMETHING ELSE", convert),
        ] {
            let text = format!("-----BEGIN {kind}-----\nc2VjcmV0\n-----END {kind}-----\n");
            let why = pkcs8(text.as_bytes()).unwrap_err();
            assert!(why.contains(way_out), "{kind}: {why}");
        }
        for text in [&b""[..], b"\x30\x82", b"-----BEGIN PRIVATE KEY"] {
            assert!(pkcs8(text).unwrap_err().contains("not PEM"));
        }
    }
}
