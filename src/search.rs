//! Byte search for rare cases: certificates, keys, and secrets in replies.

/// Returns the position of the first occurrence of `part`, which must not be empty. Not by `memchr::memmem`, which would add
/// 10 kB to a small program for something that is searched for once in a login or a certificate.
pub(crate) fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|octets| octets == part)
}
