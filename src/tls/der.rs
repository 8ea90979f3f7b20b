//! The few fields of a certificate that are needed here (RFC 5280 §4.1), read from its DER (X.690 §8.1).
#![allow(dead_code)] // not all of it is used with each TLS library

/// Reads the tag and the content of the next DER element, and leaves the rest.
pub(super) fn element<'d>(der: &mut &'d [u8]) -> Option<(u8, &'d [u8])> {
    let (&[tag, length], mut rest) = der.split_first_chunk()?;
    let mut length = usize::from(length);
    // An indefinite length and a tag of several octets are not DER here. OpenSSL reads them all the same, and would
    // find other fields than this parser.
    if length == 0x80 || length > 0x84 || tag & 0x1f == 0x1f {
        return None;
    }
    if length >= 0x80 {
        let (digits, behind) = rest.split_at_checked(length - 0x80)?;
        length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
        rest = behind;
    }
    let (content, behind) = rest.split_at_checked(length)?;
    *der = behind;
    Some((tag, content))
}

const INTEGER: u8 = 0x02;
pub(super) const SEQUENCE: u8 = 0x30;
/// Explicitly tagged: the version.
const VERSION: u8 = 0xa0;

/// Reads the content of the next element, which must have this tag.
pub(super) fn field<'d>(der: &mut &'d [u8], tag: u8) -> Option<&'d [u8]> {
    element(der).filter(|(found, _)| *found == tag).map(|(_, content)| content)
}

/// Returns the two parts of a certificate before its signature: the content, and the algorithm.
pub(super) fn parts(mut certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut parts = field(&mut certificate, SEQUENCE)?;
    Some((field(&mut parts, SEQUENCE)?, field(&mut parts, SEQUENCE)?))
}

pub(super) struct Fields<'d> {
    pub issuer: &'d [u8],
    /// The two dates.
    pub validity: &'d [u8],
    pub subject: &'d [u8],
    /// The whole SubjectPublicKeyInfo, with its tag and its length.
    pub public_key: &'d [u8],
    /// Optional fields after the key: unique identifiers and extensions.
    pub rest: &'d [u8],
}

impl<'d> Fields<'d> {
    pub fn read(certificate: &'d [u8]) -> Option<Fields<'d>> {
        let mut rest = parts(certificate)?.0;
        if rest.first() == Some(&VERSION) {
            field(&mut rest, VERSION)?;
        }
        let _serial = field(&mut rest, INTEGER)?;
        let mut sequence = || field(&mut rest, SEQUENCE);
        let (_algorithm, issuer, validity, subject) = (sequence()?, sequence()?, sequence()?, sequence()?);
        let from_key = rest;
        field(&mut rest, SEQUENCE)?;
        let public_key = &from_key[..from_key.len() - rest.len()];
        Some(Fields { issuer, validity, subject, public_key, rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
        [&[tag, 0x82][..], &u16::try_from(content.len()).unwrap().to_be_bytes(), content].concat()
    }

    /// OpenSSL takes the second key: for it, the first is a parameter of the algorithm, whose length is indefinite.
    /// Pins would be compared with a key that the server does not have.
    #[test]
    fn a_certificate_whose_fields_openssl_would_find_elsewhere_is_not_read() {
        let key = |name: &[u8]| tlv(SEQUENCE, name);
        let algorithm = tlv(SEQUENCE, &[6, 1, 42, 5, 0]);
        let others =
            [tlv(SEQUENCE, b"issuer"), tlv(SEQUENCE, b"validity"), tlv(SEQUENCE, b"subject")].concat();
        let certificate = |algorithm: &[u8]| {
            let start = [&[VERSION, 3, 2, 1, 2, INTEGER, 1, 1][..], algorithm].concat();
            let content = tlv(SEQUENCE, &[&start[..], &others, &key(b"own")].concat());
            tlv(SEQUENCE, &[content, tlv(SEQUENCE, b"algorithm"), tlv(3, b"signature")].concat())
        };
        assert_eq!(Fields::read(&certificate(&algorithm)).unwrap().public_key, key(b"own"));
        let trick =
            [&[SEQUENCE, 0x80, 6, 1, 42, SEQUENCE, 0x80, 5, 0][..], &key(b"pinned"), &[0; 4]].concat();
        assert!(Fields::read(&certificate(&trick)).is_none());
        let long_tag = [&[0x3f, 0x81, 0x01, 0][..], &algorithm].concat();
        assert!(Fields::read(&certificate(&long_tag)).is_none());
        assert!(Fields::read(&certificate(&tlv(0x31, b"a set"))).is_none());
    }
}
