//! The hashed text: the relaxed form of header fields and of the body (RFC 6376 §3.4.2, §3.4.4), piece by piece.

use memchr::{memchr, memchr2};
use ring::digest::{Context, Digest, SHA256};

/// Size of the blocks that are hashed, in octets.
const BLOCK: usize = 32 * 1024;

/// Splits a message into lines as the encoder does: CRLF, LF and CR each end a line.
#[derive(Default)]
pub(super) struct Lines {
    /// The last octet was a CR. If an LF follows, it belongs to the same line ending.
    cr: bool,
    /// The last line has text but no line ending yet.
    open: bool,
}

/// A token of a message.
#[derive(Debug, PartialEq)]
pub(super) enum Token<'t> {
    /// A non-empty piece of a line.
    Text(&'t [u8]),
    End,
}

impl Lines {
    pub fn push(&mut self, mut piece: &[u8], mut take: impl FnMut(Token<'_>)) {
        if self.cr && !piece.is_empty() {
            self.cr = false;
            piece = piece.strip_prefix(b"\n").unwrap_or(piece);
        }
        while let Some(at) = memchr2(b'\r', b'\n', piece) {
            if at > 0 {
                take(Token::Text(&piece[..at]));
            }
            take(Token::End);
            self.open = false;
            let is_cr = piece[at] == b'\r';
            piece = &piece[at + 1..];
            self.cr = is_cr && piece.is_empty();
            if is_cr {
                piece = piece.strip_prefix(b"\n").unwrap_or(piece);
            }
        }
        if !piece.is_empty() {
            take(Token::Text(piece));
            self.open = true;
        }
    }

    /// Ends the last line if it has no line ending, as the encoder does.
    pub fn end(&self, mut take: impl FnMut(Token<'_>)) {
        if self.open {
            take(Token::End);
        }
    }
}

/// Hashes the relaxed form of a body. At most one block is in memory, whatever the length.
pub(super) struct BodyHash {
    context: Context,
    /// Relaxed text that is not hashed yet.
    out: Vec<u8>,
    /// Number of empty lines, which count only if text follows.
    empty_lines: u64,
    /// There was white space, which counts only if text follows on the same line.
    gap: bool,
    /// The line has text.
    in_line: bool,
}

impl BodyHash {
    pub fn new() -> BodyHash {
        let out = Vec::with_capacity(BLOCK);
        BodyHash { context: Context::new(&SHA256), out, empty_lines: 0, gap: false, in_line: false }
    }

    pub fn take(&mut self, token: Token<'_>) {
        match token {
            Token::Text(text) => self.text(text),
            Token::End => self.line_end(),
        }
    }

    fn text(&mut self, mut text: &[u8]) {
        while !text.is_empty() {
            let word = memchr2(b' ', b'\t', text).unwrap_or(text.len());
            if word > 0 {
                self.word(&text[..word]);
            }
            let space = text[word..].iter().take_while(|byte| is_space(**byte)).count();
            self.gap |= space > 0;
            text = &text[word + space..];
        }
    }

    fn word(&mut self, word: &[u8]) {
        for _ in 0..std::mem::take(&mut self.empty_lines) {
            self.write(b"\r\n");
        }
        if self.gap {
            self.write(b" ");
        }
        self.write(word);
        (self.gap, self.in_line) = (false, true);
    }

    fn line_end(&mut self) {
        if self.in_line {
            self.write(b"\r\n");
        } else {
            self.empty_lines += 1;
        }
        (self.gap, self.in_line) = (false, false);
    }

    fn write(&mut self, bytes: &[u8]) {
        if self.out.len() + bytes.len() > BLOCK {
            self.context.update(&self.out);
            self.out.clear();
        }
        if bytes.len() > BLOCK { self.context.update(bytes) } else { self.out.extend_from_slice(bytes) }
    }

    pub fn end(mut self) -> Digest {
        self.context.update(&self.out);
        self.context.finish()
    }
}

/// Appends the relaxed form of a field, with its line ending. The name is the text before the first colon.
pub(super) fn relax_field(field: &[u8], out: &mut Vec<u8>) {
    let colon = memchr(b':', field).unwrap_or(field.len());
    out.extend(field[..colon].trim_ascii_end().iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let is_word = |word: &&[u8]| !word.is_empty();
    let value = field.get(colon + 1..).unwrap_or_default();
    // Every line ending except the last is followed by white space, so collapsing white space also removes folds.
    let words = value.split(|byte| is_space(*byte) || matches!(byte, b'\r' | b'\n')).filter(is_word);
    for (i, word) in words.enumerate() {
        if i > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(word);
    }
    out.extend_from_slice(b"\r\n");
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index};
    use ring::digest::digest;

    use super::*;

    fn field(field: &str) -> String {
        let mut out = Vec::new();
        relax_field(field.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn hash<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> Vec<u8> {
        let (mut lines, mut body) = (Lines::default(), BodyHash::new());
        pieces.into_iter().for_each(|piece| lines.push(piece, |token| body.take(token)));
        lines.end(|token| body.take(token));
        body.end().as_ref().to_vec()
    }

    fn sha256(text: &[u8]) -> Vec<u8> {
        digest(&SHA256, text).as_ref().to_vec()
    }

    /// A literal, slow implementation of RFC 6376 §3.4.4.
    fn slowly(text: &[u8]) -> Vec<u8> {
        let text: String = text.iter().map(|byte| char::from(*byte)).collect();
        let text = text.replace("\r\n", "\n").replace('\r', "\n").replace('\t', " ");
        let words = |line: &str| {
            let line = line.split(' ').collect::<Vec<_>>();
            let indent = if line.len() > 1 && line[0].is_empty() { " " } else { "" };
            let words: Vec<_> = line.into_iter().filter(|word| !word.is_empty()).collect();
            if words.is_empty() { String::new() } else { indent.to_owned() + &words.join(" ") }
        };
        let mut lines: Vec<String> = text.split('\n').map(words).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        let relaxed: String = lines.iter().map(|line| line.clone() + "\r\n").collect();
        relaxed.chars().map(|c| u8::try_from(c).unwrap()).collect()
    }

    #[test]
    fn canonicalization_matches_the_examples_of_rfc_6376_3_4_5() {
        assert_eq!(field("A: X\r\n"), "a:X\r\n");
        assert_eq!(field("B : Y\t\r\n\tZ  \r\n"), "b:Y Z\r\n");
        assert_eq!(hash([&b" C \r\nD \t E\r\n\r\n\r\n"[..]]), sha256(b" C\r\nD E\r\n"));
    }

    #[test]
    fn an_empty_body_hashes_like_empty_input() {
        // RFC 6376 §3.4.4
        let expected = sha256(b"");
        assert_eq!(super::super::base64(&expected), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        for body in ["", "\r\n", "\n\n\r\r", " \t\r\n \r\n"] {
            assert_eq!(hash([body.as_bytes()]), expected, "{body:?}");
        }
    }

    #[test]
    fn relaxing_a_field_unfolds_it_and_collapses_white_space() {
        for (from, to) in [
            ("SubJect:  a  b\tc \r\n", "subject:a b c\r\n"),
            ("Subject:\r\n  a\r\n \r\n\tb\r\n", "subject:a b\r\n"),
            ("Subject: a:b\r\n", "subject:a:b\r\n"),
            ("Subject:\r\n", "subject:\r\n"),
            ("Subject:ü\r\n", "subject:ü\r\n"),
            ("", ":\r\n"),
        ] {
            assert_eq!(field(from), to);
        }
    }

    #[test]
    fn long_lines_and_runs_of_empty_lines_are_hashed_correctly() {
        let text = ["x".repeat(3 * BLOCK), "\r\n".repeat(3 * BLOCK), "y\r\n".to_owned()].concat();
        assert_eq!(hash([text.as_bytes()]), sha256(text.as_bytes()));
    }

    proptest! {
        #[test]
        fn the_body_hash_does_not_depend_on_how_the_body_is_split(
            text in vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b' '), Just(b'\t'), Just(b'a'), any::<u8>()], 0..120),
            cuts in vec(any::<Index>(), 0..6),
        ) {
            let mut cuts: Vec<usize> =
                cuts.iter().map(|cut| cut.index(text.len() + 1)).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let hashed = hash(cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]));
            prop_assert_eq!(hashed, sha256(&slowly(&text)));
        }
    }

    #[test]
    fn an_empty_line_has_a_line_end_and_no_text() {
        let (mut lines, mut ends) = (Lines::default(), 0);
        lines.push(b"\r\n\n\r", |token| {
            assert_eq!(token, Token::End);
            ends += 1;
        });
        assert_eq!(ends, 3);
    }
}
