//! The few fields of a certificate that are needed here (RFC 5280 §4.1), read from its DER (X.690 §8.1).
#![allow(dead_code)] // not all of it is used with each TLS library

/// Reads the tag and the content of the next DER element, and leaves the rest.
pub(super) fn element<'d>(der: &mut &'d [u8]) -> Option<(u8, &'d [u8])> {
    let (&[tag, length], mut rest) = der.split_first_chunk()?;
    let mut length = usize::from(length);
    if length > 0x84 {
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

/// Returns the two parts of a certificate before its signature: the content, and the algorithm.
pub(super) fn parts(mut certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, mut parts) = element(&mut certificate)?;
    Some((element(&mut parts)?.1, element(&mut parts)?.1))
}

pub(super) struct Fields<'d> {
    pub issuer: &'d [u8],
    pub subject: &'d [u8],
    /// The whole SubjectPublicKeyInfo, with its tag and its length.
    pub public_key: &'d [u8],
}

impl<'d> Fields<'d> {
    pub fn read(certificate: &'d [u8]) -> Option<Fields<'d>> {
        let mut rest = parts(certificate)?.0;
        if rest.first() == Some(&0xa0) {
            element(&mut rest)?; // the version
        }
        let mut field = || element(&mut rest);
        let (_serial, _algorithm, (_, issuer), _validity, (_, subject)) =
            (field()?, field()?, field()?, field()?, field()?);
        let from_key = rest;
        element(&mut rest)?;
        Some(Fields { issuer, subject, public_key: &from_key[..from_key.len() - rest.len()] })
    }
}
