//! Byte search for rare cases: certificates, keys, and secrets in replies.

/// Returns the position of the first occurrence of `part`, which must not be empty. `memchr::memmem` would add 10 kB
/// to a small program, for something that is needed only once per login or certificate.
pub(crate) fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|octets| octets == part)
}
