//! What a certificate says about itself (RFC 5280 §4.1), for reports. Nothing here decides whether to trust it.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    der::{Fields, SEQUENCE, element, field},
    pin::Hash,
};

/// Maximum number of names that are kept.
const MAX_NAMES: usize = 100;

const BOOLEAN: u8 = 0x01;
const OCTETS: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SET: u8 = 0x31;
/// The extensions, which are explicitly tagged.
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Facts about the server's certificate, part of a [`ServerReport`](crate::ServerReport). The certificate was verified
/// during the handshake, unless verification was disabled by a `danger_` setting or replaced by a pin.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateFacts {
    /// The DNS names and IP addresses for which the certificate is valid (subjectAltName), at most 100 of them. May be
    /// empty.
    pub names: Vec<String>,
    /// The common name of the issuer, or its organization if it has no common name. Empty if it has neither.
    pub issuer: String,
    /// The beginning of the validity period, or `None` if it cannot be read.
    pub not_before: Option<SystemTime>,
    /// The end of the validity period, or `None` if it cannot be read.
    pub not_after: Option<SystemTime>,
    /// The SHA-256 hash of the certificate, in hexadecimal, as accepted by
    /// [`pinned_certificate`](crate::Builder::pinned_certificate). `None` with native-tls on Windows and Apple systems.
    pub sha256: Option<String>,
    /// The SHA-256 hash of the public key, in hexadecimal, as accepted by
    /// [`pinned_public_key`](crate::Builder::pinned_public_key). `None` with native-tls on Windows and Apple systems.
    pub public_key_sha256: Option<String>,
}

impl CertificateFacts {
    /// Reads a certificate in DER. Values that cannot be read are empty or `None`.
    pub(crate) fn read(certificate: &[u8], sha256: impl Fn(&[u8]) -> Option<Hash>) -> CertificateFacts {
        let hex = |hash: Hash| hash.iter().map(|octet| format!("{octet:02x}")).collect();
        let fields = Fields::read(certificate);
        let mut validity = fields.as_ref().map_or(&[][..], |fields| fields.validity);
        CertificateFacts {
            names: fields.as_ref().and_then(|fields| names(fields.rest)).unwrap_or_default(),
            issuer: fields.as_ref().map(|fields| issuer(fields.issuer)).unwrap_or_default(),
            not_before: time(&mut validity),
            not_after: time(&mut validity),
            sha256: sha256(certificate).map(hex),
            public_key_sha256: fields.and_then(|fields| sha256(fields.public_key)).map(hex),
        }
    }
}

/// Returns the names of the subjectAltName (RFC 5280 §4.2.1.6), if there is one.
fn names(mut rest: &[u8]) -> Option<Vec<String>> {
    let mut extensions = loop {
        let (tag, mut content) = element(&mut rest)?;
        if tag == EXTENSIONS {
            break field(&mut content, SEQUENCE)?;
        }
    };
    loop {
        let mut extension = field(&mut extensions, SEQUENCE)?;
        if field(&mut extension, OID)? != SUBJECT_ALT_NAME {
            continue;
        }
        let (tag, content) = element(&mut extension)?;
        let mut value = if tag == BOOLEAN { field(&mut extension, OCTETS)? } else { content };
        let mut list = field(&mut value, SEQUENCE)?;
        let all = std::iter::from_fn(|| element(&mut list));
        return Some(all.filter_map(name).take(MAX_NAMES).collect());
    }
}

fn name((tag, content): (u8, &[u8])) -> Option<String> {
    match tag {
        DNS_NAME => Some(text(content)),
        IP_ADDRESS => match content.len() {
            4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(content).ok()?).to_string()),
            _ => Some(Ipv6Addr::from(<[u8; 16]>::try_from(content).ok()?).to_string()),
        },
        _ => None,
    }
}

/// Returns text without control characters.
fn text(octets: &[u8]) -> String {
    let text = String::from_utf8_lossy(octets);
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn issuer(name: &[u8]) -> String {
    let find = |wanted: &[u8]| {
        let mut sets = name;
        while let Some(mut set) = field(&mut sets, SET) {
            while let Some(mut attribute) = field(&mut set, SEQUENCE) {
                let is_wanted = field(&mut attribute, OID).is_some_and(|oid| oid == wanted);
                if let Some((_, value)) = element(&mut attribute).filter(|_| is_wanted) {
                    return Some(text(value));
                }
            }
        }
        None
    };
    find(COMMON_NAME).or_else(|| find(ORGANIZATION)).unwrap_or_default()
}

/// Reads a time (RFC 5280 §4.1.2.5), which is always in UTC and has seconds.
fn time(der: &mut &[u8]) -> Option<SystemTime> {
    let (tag, text) = element(der)?;
    let digits = text.strip_suffix(b"Z")?;
    let number = |from: usize, to: usize| {
        let digits = digits.get(from..to).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
        std::str::from_utf8(digits).ok()?.parse::<i64>().ok()
    };
    let (year, at) = match (tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year = number(0, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, 2)
        }
        (GENERALIZED_TIME, 14) => (number(0, 4)?, 4),
        _ => return None,
    };
    let two = |nth: usize| number(at + 2 * nth, at + 2 * nth + 2);
    let (month, day, hour, minute, second) = (two(0)?, two(1)?, two(2)?, two(3)?, two(4)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Howard Hinnant, "chrono-compatible low-level date algorithms", `days_from_civil`.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(pem: &str) -> Vec<u8> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let lines = pem.lines().skip_while(|line| !line.starts_with("-----BEGIN")).skip(1);
        let text: String = lines.take_while(|line| !line.starts_with("-----END")).collect();
        STANDARD.decode(text).unwrap()
    }

    fn at(seconds: u64) -> Option<SystemTime> {
        Some(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    #[test]
    fn names_issuer_and_validity_are_read() {
        let good = der(include_str!("../../tests/support/certs/good.pem"));
        let facts = CertificateFacts::read(&good, |octets| Some([octets.len() as u8; 32]));
        assert_eq!(facts.names, ["localhost", "127.0.0.1", "::1"]);
        assert_eq!(facts.issuer, "postino test ca");
        assert_eq!(facts.not_before, at(1_735_689_600)); // 2025-01-01
        assert_eq!(facts.not_after, at(2_366_841_600)); // 2045-01-01
        assert_eq!(facts.sha256.unwrap(), format!("{:02x}", good.len() as u8).repeat(32));
        let expected = Fields::read(&good).unwrap().public_key.len() as u8;
        assert_eq!(facts.public_key_sha256.unwrap(), format!("{expected:02x}").repeat(32));
        let bare = der(include_str!("../../tests/support/certs/common-name-only.pem"));
        let facts = CertificateFacts::read(&bare, |_| None);
        assert!(facts.names.is_empty() && facts.sha256.is_none());
    }

    #[test]
    fn a_truncated_or_damaged_certificate_is_read_as_far_as_possible() {
        let good = der(include_str!("../../tests/support/certs/good.pem"));
        for cut in 0..good.len() {
            let facts = CertificateFacts::read(&good[..cut], |_| None);
            assert!(facts.names.is_empty() && facts.not_after.is_none());
            let mut damaged = good.clone();
            damaged[cut] ^= 0x55;
            let facts = CertificateFacts::read(&damaged, |_| None);
            assert!(facts.names.iter().all(|name| !name.contains(char::is_control)), "{facts:?}");
        }
    }

    #[test]
    fn both_forms_of_a_time_are_read() {
        let read = |tag: u8, text: &str| {
            let der = [&[tag, text.len() as u8], text.as_bytes()].concat();
            time(&mut &der[..])
        };
        assert_eq!(read(UTC_TIME, "000229000000Z"), at(951_782_400));
        assert_eq!(read(GENERALIZED_TIME, "20240229123456Z"), at(1_709_210_096));
        assert_eq!(read(UTC_TIME, "691231235959Z"), UNIX_EPOCH.checked_sub(Duration::from_secs(1)));
        for (tag, text) in [
            (UTC_TIME, "000229000000"),
            (UTC_TIME, "20240229123456Z"),
            (UTC_TIME, "001329000000Z"),
            (UTC_TIME, "00 229000000Z"),
            (GENERALIZED_TIME, "20240229123456+0100"),
            (SEQUENCE, "000229000000Z"),
        ] {
            assert_eq!(read(tag, text), None, "{text}");
        }
    }
}
