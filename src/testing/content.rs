//! The content after DATA: finds its end and removes dot-stuffing.

use memchr::memchr;

/// The content of one message, as it arrives (RFC 5321 §4.5.2).
///
/// Only CRLF ends a line; a lone CR or LF is ordinary content.
pub(super) struct Content {
    bytes: Vec<u8>,
    octets: u64,
    limit: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    LineStart,
    /// After a dot at the start of a line, which is not content.
    Dot,
    /// After such a dot and a CR, which is content if no LF follows.
    DotCr,
    Text,
    Cr,
    End,
}

impl Content {
    /// Keeps at most `limit` octets; content that exceeds the limit is discarded entirely.
    pub(super) fn new(limit: u64) -> Content {
        Content { bytes: Vec::new(), octets: 0, limit, state: State::LineStart }
    }

    /// Reads `input` and returns how many bytes belong to the message: all of them, unless the message ends in `input`.
    pub(super) fn read(&mut self, input: &[u8]) -> usize {
        let mut used = 0;
        while used < input.len() && !self.has_ended() {
            let rest = &input[used..];
            used += match self.state {
                State::Text => self.text(rest),
                _ => self.byte(rest[0]),
            };
        }
        used
    }

    /// Reads text up to the next CR.
    fn text(&mut self, rest: &[u8]) -> usize {
        match memchr(b'\r', rest) {
            Some(0) => self.byte(b'\r'),
            end => {
                let text = &rest[..end.unwrap_or(rest.len())];
                self.keep(text);
                text.len()
            }
        }
    }

    fn byte(&mut self, byte: u8) -> usize {
        if self.state == State::DotCr && byte != b'\n' {
            self.keep(b"\r");
        }
        self.state = match (self.state, byte) {
            (State::LineStart, b'.') => State::Dot,
            (State::Dot, b'\r') => State::DotCr,
            (State::DotCr, b'\n') => State::End,
            (State::Cr, b'\n') => State::LineStart,
            (_, b'\r') => State::Cr,
            _ => State::Text,
        };
        if !matches!(self.state, State::Dot | State::DotCr | State::End) {
            self.keep(&[byte]);
        }
        1
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.octets += bytes.len() as u64;
        if self.octets <= self.limit {
            self.bytes.extend_from_slice(bytes);
        } else {
            self.bytes = Vec::new();
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state == State::End
    }

    /// Returns the size in octets, including any that were discarded.
    pub(super) fn octets(&self) -> u64 {
        self.octets
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the content, and the number of bytes that belong to it. The input is fed in pieces of `size`.
    fn read(input: &[u8], size: usize) -> Option<(Vec<u8>, usize)> {
        let (mut content, mut used) = (Content::new(1000), 0);
        for piece in input.chunks(size) {
            used += content.read(piece);
        }
        content.has_ended().then(|| (content.into_bytes(), used))
    }

    #[test]
    fn only_dot_stuffing_is_removed_however_the_input_is_split() {
        for (input, content) in [
            (".\r\n", ""),
            ("\r\n.\r\n", "\r\n"),
            ("a\r\n.\r\n", "a\r\n"),
            ("..\r\n.\r\n", ".\r\n"),
            ("...a\r\n.\r\n", "..a\r\n"),
            (".a\r\n.\r\n", "a\r\n"),
            ("a\r\n..b\r\nc.\r\n.\r\n", "a\r\n.b\r\nc.\r\n"),
            ("a\n.\r\nb\r\n.\r\n", "a\n.\r\nb\r\n"),
            ("a\n.\nb\r\n.\r\n", "a\n.\nb\r\n"),
            ("a\r.\r\nb\r\n.\r\n", "a\r.\r\nb\r\n"),
            ("a\r\n.\nb\r\n.\r\n", "a\r\n\nb\r\n"),
            ("a\r\n.\rb\r\n.\r\n", "a\r\n\rb\r\n"),
            ("a\r\n.\r\r\n.\r\n", "a\r\n\r\r\n"),
            ("a\r\r\n.\r\n", "a\r\r\n"),
        ] {
            for size in 1..=input.len() {
                let (bytes, used) = read(input.as_bytes(), size).expect(input);
                assert_eq!((bytes.as_slice(), used), (content.as_bytes(), input.len()), "{input:?}");
            }
        }
    }

    #[test]
    fn only_crlf_dot_crlf_ends_the_content() {
        for input in ["", ".", ".\r", ".\n", "a\n.\n", "a\n.\r\n", "a\r\n.\n", "a\r.\r", "a\r\n.\r", "a.\r\n"]
        {
            assert_eq!(read(input.as_bytes(), 1), None, "{input:?}");
        }
    }

    #[test]
    fn input_after_the_end_of_the_content_is_left_unread() {
        assert_eq!(read(b"a\r\n.\r\nQUIT\r\n", 100), Some((b"a\r\n".to_vec(), 6)));
    }

    #[test]
    fn content_over_the_size_limit_is_not_kept() {
        let mut content = Content::new(4);
        content.read(b"123\r\n");
        assert_eq!((content.octets(), content.bytes.capacity()), (5, 0));
    }
}
