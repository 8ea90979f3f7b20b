//! Content-Transfer-Encoding (RFC 2045 §6): the choice for a part, its encoded length, and the encoders.

use std::borrow::Cow;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use std::sync::LazyLock;

use base64::Engine;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use base64::engine::general_purpose::STANDARD as ENGINE;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use base64::engine::{Simd, general_purpose::PAD};
use memchr::{memchr2, memmem};

/// Maximum length of a line of ASCII text that is sent unencoded (RFC 5322 §2.1.1), in octets.
const MAX_PLAIN_LINE: usize = 78;
/// Maximum length of any line (RFC 5322 §2.1.1), in octets.
pub(super) const MAX_LINE: usize = 998;
/// Maximum length of a line of quoted-printable, with the `=` at its end, in octets.
const MAX_QUOTED_LINE: usize = 76;
/// Number of octets encoded in one line of base64.
pub(super) const BASE64_LINE: usize = 57;
/// Length of a full line of base64, in octets.
const MAX_BASE64_LINE: usize = 76;
/// Size of a block that is encoded at a time, in octets: whole lines of base64.
pub(super) const BLOCK: usize = 512 * BASE64_LINE;
/// Size of a block of a file, in octets. Larger blocks need fewer reads, and fewer thread switches in the async client.
pub(super) const FILE_BLOCK: usize = 4 * BLOCK;

/// The SIMD engine, which detects the processor's features once. It is available only on these two architectures.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
static ENGINE: LazyLock<Simd> = LazyLock::new(|| Simd::standard(PAD));

/// How the octets of a part are encoded for any server. For a server that offers 8BITMIME, [text](is_eight_bit_text)
/// needs no encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Unencoded.
    SevenBit,
    QuotedPrintable,
    Base64,
}

impl Encoding {
    /// Chooses the shortest encoding that preserves these octets exactly, and returns the encoded length.
    pub fn choose(bytes: &[u8]) -> (Encoding, u64) {
        if is_mbox_safe(bytes) && is_plain(bytes, MAX_PLAIN_LINE) {
            return (Encoding::SevenBit, bytes.len() as u64);
        }
        let base64 = base64_length(bytes.len() as u64);
        let escapes =
            bytes.iter().filter(|byte| !matches!(byte, b'\t' | b'\r' | b'\n' | b' '..=b'~')).count();
        // This is a lower bound for the length of quoted-printable, and is quicker to compute.
        if (bytes.len() + 2 * escapes) as u64 >= base64 {
            return (Encoding::Base64, base64);
        }
        match quoted_length(bytes) {
            quoted if quoted <= base64 => (Encoding::QuotedPrintable, quoted),
            _ => (Encoding::Base64, base64),
        }
    }

    /// Returns the name used in the header.
    pub fn name(self) -> &'static str {
        match self {
            Encoding::SevenBit => "7bit",
            Encoding::QuotedPrintable => "quoted-printable",
            Encoding::Base64 => "base64",
        }
    }
}

/// Whether no line begins with `From `: servers that deliver to an mbox would put a `>` before such a line.
fn is_mbox_safe(bytes: &[u8]) -> bool {
    !bytes.starts_with(b"From ") && memmem::find(bytes, b"\nFrom ").is_none()
}

/// Whether the bytes are not just ASCII, but arrive unchanged even if they are sent unencoded (RFC 2045 §2.8).
pub(super) fn is_eight_bit_text(bytes: &[u8]) -> bool {
    !bytes.is_ascii() && is_mbox_safe(bytes) && has_short_lines(bytes, MAX_LINE)
}

/// Whether bytes can be sent unencoded to any server: ASCII without NUL, no line too long, and CRLF as the only line
/// end.
pub(super) fn is_plain(bytes: &[u8], max_line: usize) -> bool {
    bytes.is_ascii() && has_short_lines(bytes, max_line)
}

/// Whether text needs `charset=utf-8`: it is UTF-8 and not just ASCII, as far as is known. If the text `goes_on`, its
/// last character may be incomplete, and what follows may not be ASCII.
pub(super) fn needs_utf8_charset(text: &[u8], goes_on: bool) -> bool {
    let is_utf8 = match std::str::from_utf8(text) {
        Ok(_) => true,
        Err(error) => goes_on && error.error_len().is_none(),
    };
    is_utf8 && (goes_on || !text.is_ascii()) && !text.contains(&0)
}

/// Whether every line has at most `max_line` octets, CRLF is the only line ending, and there is no NUL.
pub(super) fn has_short_lines(bytes: &[u8], max_line: usize) -> bool {
    let mut lines = bytes.split(|byte| *byte == b'\n').peekable();
    while let Some(line) = lines.next() {
        let text = match lines.peek() {
            Some(_) => match line.strip_suffix(b"\r") {
                Some(text) => text,
                None => return false,
            },
            None => line,
        };
        if text.len() > max_line || text.iter().any(|byte| matches!(byte, 0 | b'\r')) {
            return false;
        }
    }
    true
}

/// Converts every line ending of a text to CRLF.
pub(super) fn with_crlf(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n")
}

/// Converts every line ending of a message to CRLF.
pub(super) fn bytes_with_crlf(bytes: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Vec::new();
    let (mut from, mut at) = (0, 0);
    while let Some(found) = memchr2(b'\r', b'\n', &bytes[at..]) {
        let end = at + found;
        at = if bytes[end..].starts_with(b"\r\n") { end + 2 } else { end + 1 };
        if at < end + 2 {
            out.extend_from_slice(&bytes[from..end]);
            out.extend_from_slice(b"\r\n");
            from = at;
        }
    }
    if from == 0 {
        return bytes.into();
    }
    out.extend_from_slice(&bytes[from..]);
    out.into()
}

/// Returns the length of the base64 form of this many octets, including the CRLF between lines.
pub(super) fn base64_length(octets: u64) -> u64 {
    let lines = octets.div_ceil(BASE64_LINE as u64);
    octets.div_ceil(3).saturating_mul(4).saturating_add(lines.saturating_sub(1) * 2)
}

pub(super) fn quoted_length(bytes: &[u8]) -> u64 {
    let (mut quoted, mut out, mut length) = (Quoted::default(), Vec::new(), 0);
    while quoted.push(bytes, &mut out) {
        length += out.len() as u64;
        out.clear();
    }
    length
}

/// Writes quoted-printable (RFC 2045 §6.7), a block at a time.
///
/// CRLF is a line ending; a lone CR or LF is an ordinary octet.
#[derive(Debug, Default)]
pub(super) struct Quoted {
    at: usize,
    column: usize,
}

impl Quoted {
    /// Appends the next block of `bytes`, which must be the same in each call. Returns false if no octets were left.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        let end = bytes.len().min(self.at + BLOCK);
        let more = self.at < end;
        while self.at < end {
            self.push_one(&bytes[self.at..], out);
        }
        more
    }

    fn push_one(&mut self, rest: &[u8], out: &mut Vec<u8>) {
        if rest.starts_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
            (self.at, self.column) = (self.at + 2, 0);
            return;
        }
        let is_last = rest.len() == 1 || rest[1..].starts_with(b"\r\n");
        let is_literal = match rest[0] {
            b' ' | b'\t' => !is_last, // trailing white space could be lost in transit
            b'F' if self.column == 0 => !rest.starts_with(b"From "),
            b'=' => false,
            byte => byte.is_ascii_graphic(),
        };
        let width = if is_literal { 1 } else { 3 };
        if self.column + width > MAX_QUOTED_LINE - usize::from(!is_last) {
            out.extend_from_slice(b"=\r\n");
            self.column = 0;
        }
        if is_literal {
            out.push(rest[0]);
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            let (high, low) = (HEX[usize::from(rest[0] >> 4)], HEX[usize::from(rest[0] & 15)]);
            out.extend_from_slice(&[b'=', high, low]);
        }
        (self.at, self.column) = (self.at + 1, self.column + width);
    }
}

/// Appends base64 in lines. All pieces except the last must consist of whole lines.
///
/// The piece is encoded in one go, at the end of the reserved space, and its lines are then moved into place: one call
/// per line takes 50 % longer. email-encoding works like that, too, at a third of the speed.
pub(super) fn push_base64(piece: &[u8], is_first: bool, out: &mut Vec<u8>) {
    let start = out.len();
    let ends = 2 * piece.len().div_ceil(BASE64_LINE);
    out.resize(start + ends + piece.len().div_ceil(3) * 4, 0);
    let encoded = ENGINE.encode_slice(piece, &mut out[start + ends..]).unwrap(); // the space was reserved above
    let (mut from, mut to, end) = (start + ends, start, start + ends + encoded);
    while from < end {
        if !is_first || to > start {
            out[to..to + 2].copy_from_slice(b"\r\n");
            to += 2;
        }
        let length = MAX_BASE64_LINE.min(end - from);
        out.copy_within(from..from + length, to);
        (from, to) = (from + length, to + length);
    }
    out.truncate(to);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quoted(bytes: &[u8]) -> String {
        let (mut quoted, mut out) = (Quoted::default(), Vec::new());
        while quoted.push(bytes, &mut out) {}
        String::from_utf8(out).unwrap()
    }

    fn unquoted(text: &str) -> Vec<u8> {
        let text = text.replace("=\r\n", "");
        let (mut bytes, mut out) = (text.bytes(), Vec::new());
        while let Some(byte) = bytes.next() {
            out.push(match byte {
                b'=' => {
                    let hex = [bytes.next().unwrap(), bytes.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
                }
                byte => byte,
            });
        }
        out
    }

    #[test]
    fn bare_cr_and_lf_become_crlf() {
        for (bytes, expected) in [
            (&b""[..], &b""[..]),
            (b"a\r\nb\r\n", b"a\r\nb\r\n"),
            (b"a\nb\rc\r\n", b"a\r\nb\r\nc\r\n"),
            (b"\n\n\r\r\n\n\r", b"\r\n\r\n\r\n\r\n\r\n\r\n"),
            (b"\xff\n", b"\xff\r\n"),
        ] {
            assert_eq!(*bytes_with_crlf(bytes), *expected, "{}", bytes.escape_ascii());
        }
        assert!(matches!(bytes_with_crlf(b"a\r\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn truncated_text_counts_as_utf_8_if_its_beginning_is_valid() {
        let cut = &"xü".as_bytes()[..2];
        for (text, goes_on, needs) in [
            ("Grüße".as_bytes(), false, true),
            ("Grüße".as_bytes(), true, true),
            (b"Hello", false, false),
            (b"Hello", true, true),
            (cut, true, true),
            (cut, false, false),
            (b"Gr\xfc\xdfe", true, false),
            (b"\xff\xfea\0", true, false),
            (b"a\0b\0", true, false),
            (b"", false, false),
        ] {
            assert_eq!(needs_utf8_charset(text, goes_on), needs, "{} {goes_on}", text.escape_ascii());
        }
    }

    #[test]
    fn the_smallest_safe_encoding_is_chosen() {
        for (bytes, encoding) in [
            (&b""[..], Encoding::SevenBit),
            (b"Hello\r\n", Encoding::SevenBit),
            (b"Hello", Encoding::SevenBit),
            (
                b"a line that ends with LF, so that it would not come back the same\n",
                Encoding::QuotedPrintable,
            ),
            (b"a CR alone \r in the middle of a long enough line", Encoding::QuotedPrintable),
            (b"a NUL \0 in the middle of a long enough line", Encoding::QuotedPrintable),
            ("Grüße an alle in diesem Haus".as_bytes(), Encoding::QuotedPrintable),
            ("привет".as_bytes(), Encoding::Base64),
            (&[b'x'; 78], Encoding::SevenBit),
            (&[b'x'; 79], Encoding::QuotedPrintable),
            (b"From me to you\r\n", Encoding::QuotedPrintable),
            (b"Hello,\r\nFrom me to you\r\n", Encoding::QuotedPrintable),
            (b"abcd\xfc", Encoding::QuotedPrintable),
            (b"======\n", Encoding::Base64),
            (b"\x89PNG\r\n\x1a\n\0\0\0", Encoding::Base64),
        ] {
            assert_eq!(Encoding::choose(bytes).0, encoding, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn quoted_printable_follows_rfc_2045() {
        for (bytes, text) in [
            ("Grüße".as_bytes(), "Gr=C3=BC=C3=9Fe"),
            (b"a=b", "a=3Db"),
            (b"a \r\nb\t", "a=20\r\nb=09"),
            (b"a b", "a b"),
            (b"\n\r\r\n", "=0A=0D\r\n"),
            (b"From here, From there\r\nFrom\r\nFrom x", "=46rom here, From there\r\nFrom\r\n=46rom x"),
        ] {
            assert_eq!(quoted(bytes), text);
        }
    }

    #[test]
    fn a_line_of_76_octets_is_kept_whole_and_one_of_77_is_broken() {
        let line = "x".repeat(76);
        assert_eq!(quoted(line.as_bytes()), line);
        assert_eq!(quoted(format!("{line}\r\n").as_bytes()), format!("{line}\r\n"));
        assert_eq!(quoted(format!("{line}x").as_bytes()), format!("{}=\r\nxx", "x".repeat(75)));
    }

    #[test]
    fn text_may_be_sent_as_8bit_unless_it_could_be_altered_in_transit() {
        let long = |length: usize| "ü".repeat(length / 2).into_bytes();
        for (bytes, is_text) in [
            ("Grüße\r\nvon hier".as_bytes(), true),
            (b"plain\r\n", false),
            ("Grüße\n".as_bytes(), false),
            ("Grüße\r".as_bytes(), false),
            ("Grüße\0".as_bytes(), false),
            ("Grüße\r\nFrom here".as_bytes(), false),
            ("From Jörg".as_bytes(), false),
            (&long(998), true),
            (&long(1000), false),
        ] {
            assert_eq!(is_eight_bit_text(bytes), is_text, "{}", bytes.escape_ascii());
        }
    }

    /// Octets, most of which are ones that matter here.
    fn octets() -> impl Strategy<Value = Vec<u8>> {
        let odd = prop::sample::select(b"\r\n =\tF\0a".as_slice());
        prop::collection::vec(prop_oneof![6 => odd, 4 => b'a'..=b'z', 1 => any::<u8>()], 0..400)
    }

    proptest! {
        #[test]
        fn quoted_printable_round_trips_in_short_lines(bytes in octets()) {
            let text = quoted(&bytes);
            prop_assert_eq!(unquoted(&text), &bytes[..]);
            prop_assert!(text.split("\r\n").all(|line| line.len() <= 76 && !line.ends_with([' ', '\t'])));
            prop_assert!(text.split("\r\n").all(|line| !line.contains(['\r', '\n']) && !line.starts_with("From ")));
            prop_assert_eq!(quoted_length(&bytes), text.len() as u64);
        }

        #[test]
        fn the_chosen_encoding_has_the_reported_length(bytes in octets()) {
            let (encoding, length) = Encoding::choose(&bytes);
            let mut out = Vec::new();
            match encoding {
                Encoding::SevenBit => out = bytes,
                Encoding::QuotedPrintable => out = quoted(&bytes).into_bytes(),
                Encoding::Base64 => push_base64(&bytes, true, &mut out),
            }
            prop_assert_eq!(out.len() as u64, length);
        }
    }

    #[test]
    fn base64_in_blocks_equals_base64_in_one_piece() {
        for length in [0, 1, 56, 57, 58, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 40] {
            let bytes: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
            let (mut whole, mut pieces) = (Vec::new(), Vec::new());
            push_base64(&bytes, true, &mut whole);
            bytes.chunks(BLOCK).enumerate().for_each(|(i, piece)| push_base64(piece, i == 0, &mut pieces));
            assert_eq!(pieces, whole);
            assert_eq!(base64_length(length as u64), whole.len() as u64);
            let text = String::from_utf8(whole).unwrap();
            assert!(text.split("\r\n").all(|line| line.len() <= 76));
            assert_eq!(ENGINE.decode(text.replace("\r\n", "")).unwrap(), bytes);
        }
    }
}
