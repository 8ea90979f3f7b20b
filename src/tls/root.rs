//! CA certificates as they are passed to the builder: PEM text (RFC 7468 §5), or one certificate in DER. Only the TLS
//! library can parse them, and starting it takes a millisecond. Input that does not have the form of a certificate is
//! refused without starting the library.

use std::sync::Arc;

use super::Flaw;
use crate::search::find;

/// Maximum size of a certificate or key, in octets. OpenSSL's own limit is higher, and exceeding it causes a panic.
pub(super) const MAX_FILE: usize = 1 << 24;

/// Input that has the form of at least one certificate.
#[derive(Clone)]
pub(super) struct Root(Arc<[u8]>);

impl Root {
    pub fn new(bytes: &[u8]) -> Result<Root, Flaw> {
        if bytes.len() > MAX_FILE {
            return Err("the CA certificate is too large".into());
        }
        if is_pem(bytes) {
            return match (marks(bytes, BEGIN), marks(bytes, END)) {
                (0, _) => Err(NONE.into()),
                (begun, ended) if ended < begun => Err("the CA certificate is truncated".into()),
                _ => Ok(Root(bytes.into())),
            };
        }
        if is_der(bytes) {
            return Ok(Root(bytes.into()));
        }
        if is_file_name(bytes) {
            return Err("the CA certificate looks like a file name: pass the content of the file".into());
        }
        Err("the CA certificate is invalid: neither PEM nor DER".into())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the number of certificates: the number of PEM blocks, or 1 for DER.
    pub fn count(&self) -> usize {
        marks(&self.0, BEGIN).max(1)
    }
}

/// Returns whether the input looks like the name of a certificate file.
fn is_file_name(bytes: &[u8]) -> bool {
    let is_line = bytes.len() < 4096 && !bytes.contains(&b'\n');
    is_line && [".pem", ".crt", ".cer", ".der"].iter().any(|end| bytes.ends_with(end.as_bytes()))
}

pub(super) const NONE: &str = "the CA file contains no certificate";

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";

pub(super) fn is_pem(bytes: &[u8]) -> bool {
    find(bytes, BEGIN).is_some()
}

/// Counts the PEM lines of certificates that have this mark, including `X509 CERTIFICATE` and `TRUSTED CERTIFICATE`.
fn marks(pem: &[u8], mark: &[u8]) -> usize {
    let behind = (mark.len()..=pem.len()).filter(|at| pem[..*at].ends_with(mark));
    let label = |at: usize| pem[at..].split(|b| *b == b'-').next().unwrap_or_default();
    behind.filter(|at| label(*at).ends_with(b"CERTIFICATE")).count()
}

/// Returns whether the input is a complete SEQUENCE (X.690 §8.1).
fn is_der(bytes: &[u8]) -> bool {
    match bytes {
        [0x30, length @ ..=0x7f, content @ ..] => content.len() >= usize::from(*length),
        [0x30, digits @ 0x81..=0x84, rest @ ..] => {
            rest.split_at_checked(usize::from(*digits - 0x80)).is_some_and(|(length, content)| {
                content.len() as u64 >= length.iter().fold(0, |n: u64, digit| n << 8 | u64::from(*digit))
            })
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &[u8] = include_bytes!("../../tests/support/certs/ca.pem");
    const DER: &[u8] = include_bytes!("../../tests/support/certs/ca.der");

    #[test]
    fn pem_and_der_certificates_are_counted() {
        let count = |bytes: &[u8]| Root::new(bytes).map(|root| root.count()).ok();
        assert_eq!((count(PEM), count(DER), count(&PEM.repeat(3))), (Some(1), Some(1), Some(3)));
        let trusted = String::from_utf8_lossy(PEM).replace(" CERTIFICATE", " TRUSTED CERTIFICATE");
        assert_eq!(count(trusted.as_bytes()), Some(1));
        let key = include_bytes!("../../tests/support/certs/client.key");
        assert_eq!((count(key), count(&[key, PEM].concat())), (None, Some(1)));
        assert_eq!(count(&[0x30, 0]), Some(1)); // only the library can tell
        let request = String::from_utf8_lossy(PEM).replace("CERTIFICATE", "CERTIFICATE REQUEST");
        for no_root in ["", "nonsense", "-----BEGIN ", "-----END CERTIFICATE-----", &request] {
            assert_eq!(count(no_root.as_bytes()), None, "{no_root}");
        }
    }

    #[test]
    fn a_file_name_in_place_of_a_certificate_is_named_in_the_error() {
        let error = |bytes: &[u8]| Root::new(bytes).err().unwrap();
        for name in ["/etc/ssl/ca.pem", "ca.crt"] {
            assert!(error(name.as_bytes()).contains("looks like a file name"));
        }
        for other in ["", "nonsense", "a\nb.pem"] {
            assert!(error(other.as_bytes()).contains("neither PEM nor DER"));
        }
    }

    #[test]
    fn truncated_certificates_are_not_recognized() {
        assert!((0..DER.len()).all(|n| Root::new(&DER[..n]).is_err()));
        let end = "-----\n".len(); // the last line may lack these
        assert!((0..PEM.len() - end).all(|n| Root::new(&PEM[..n]).is_err()));
        for length in [&[0x30][..], &[0x30, 0x82, 1], &[0x30, 0x84, 255, 255, 255, 255], &[0x30, 0xff]] {
            assert!(Root::new(length).is_err(), "{length:?}");
        }
    }
}
