//! Encodes messages for sending, piece by piece: CRLF at every line ending, and dots doubled at the start of lines (RFC
//! 5321 §2.3.8, §4.5.2).

use std::fmt;

use memchr::{memchr_iter, memchr2, memchr2_iter, memrchr2};

use super::MailParameters;
use crate::Error;

/// Maximum length of a line of a message (RFC 5321 §4.5.3.1.6), in octets without its line ending.
const MAX_TEXT_LINE: usize = 998;

/// An octet that must not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forbidden {
    /// A NUL (RFC 5321 §4.5.2).
    Nul,
    /// A non-ASCII octet, and the server does not offer 8BITMIME (RFC 6152).
    EightBit,
}

impl From<Forbidden> for Error {
    fn from(forbidden: Forbidden) -> Error {
        match forbidden {
            Forbidden::Nul => {
                Error::Message("the message contains a NUL byte, which SMTP does not allow".into())
            }
            Forbidden::EightBit => Error::Unsupported("8BITMIME, and the message contains non-ASCII bytes"),
        }
    }
}

/// A message with the properties that matter before it is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Survey<'b> {
    bytes: &'b [u8],
    /// Whether every line ending is CRLF. A CR may still be the last octet.
    crlf_only: bool,
    /// Size of the message in octets, with CRLF at every line ending and at the end of the last line. Doubled dots do
    /// not count (RFC 1870 §3).
    pub octets: u64,
    /// Whether the message has a NUL.
    pub nul: bool,
    /// Whether the message has a non-ASCII octet.
    pub eight_bit: bool,
    /// Length of the longest line, in octets without its end, if it exceeds 998, the limit of RFC 5321 §4.5.3.1.6.
    pub long_line: Option<usize>,
}

impl<'b> Survey<'b> {
    /// Examines a whole message.
    #[must_use]
    pub fn of(bytes: &'b [u8]) -> Survey<'b> {
        let Octets { nul, eight_bit, crlf_only } = Octets::of(bytes);
        let octets = octets(bytes, crlf_only);
        Survey { bytes, crlf_only, octets, nul, eight_bit, long_line: long_line(bytes) }
    }

    /// Returns whether every line ending is CRLF and there is no NUL, so that the octets need no change except doubled
    /// dots.
    pub(crate) fn is_clean(&self) -> bool {
        self.crlf_only && !self.nul
    }
}

impl fmt::Debug for Survey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Survey { octets, nul, eight_bit, long_line, .. } = self;
        f.debug_struct("Survey")
            .field("octets", octets)
            .field("nul", nul)
            .field("eight_bit", eight_bit)
            .field("long_line", long_line)
            .finish_non_exhaustive()
    }
}

/// Returns the number of octets with CRLF at every line ending and after the last line.
fn octets(bytes: &[u8], crlf_only: bool) -> u64 {
    let whole = match bytes {
        [.., b'\r', b'\n'] => bytes.len(),
        _ => bytes.len() + 2,
    };
    if crlf_only && !bytes.ends_with(b"\r") {
        return whole as u64;
    }
    let (mut octets, mut start) = (0, 0);
    for end in memchr2_iter(b'\r', b'\n', bytes) {
        if bytes[end] != b'\n' || end == 0 || bytes[end - 1] != b'\r' {
            octets += end - start + 2;
        } // otherwise the CR has already been counted
        start = end + 1;
    }
    let rest = bytes.len() - start;
    (octets + if rest > 0 { rest + 2 } else { 0 }) as u64
}

/// Returns the length of the longest line, if it exceeds [`MAX_TEXT_LINE`]. Searches backwards from where a line would
/// be too long, so that most line endings are skipped.
fn long_line(bytes: &[u8]) -> Option<usize> {
    let (mut longest, mut start) = (None, 0);
    while bytes.len() - start > MAX_TEXT_LINE {
        if let Some(end) = memrchr2(b'\r', b'\n', &bytes[start..=start + MAX_TEXT_LINE]) {
            start += end + 1;
            continue;
        }
        let rest = &bytes[start..];
        let end = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
        longest = longest.max(Some(end));
        start = bytes.len().min(start + end + 1);
    }
    longest
}

/// What a look at every octet reveals.
struct Octets {
    /// Whether there is a NUL.
    nul: bool,
    /// Whether there is a non-ASCII octet.
    eight_bit: bool,
    /// Whether every CR is followed by an LF, and every LF follows a CR. The LF of a CR at the very end may come later.
    crlf_only: bool,
}

impl Octets {
    fn of(bytes: &[u8]) -> Octets {
        let last = bytes.last().copied().unwrap_or(b' ');
        let (mut least, mut all, mut odd) = (last, last, bytes.first() == Some(&b'\n'));
        // The compiler vectorises a plain loop, which is several times as fast as searching for each line ending.
        for (a, b) in bytes.iter().zip(bytes.get(1..).unwrap_or_default()) {
            least = least.min(*a);
            all |= *a;
            odd |= (*a == b'\r') ^ (*b == b'\n');
        }
        Octets { nul: least == 0, eight_bit: all >= 0x80, crlf_only: !odd }
    }
}

/// Makes line endings CRLF and doubles dots at the start of lines, piece by piece, in one pass.
///
/// The output does not depend on how the input is split. It has no CR without an LF after it and no LF without a CR
/// before it, so no server can mistake a part of it for the end of the message.
#[derive(Debug)]
pub(crate) struct Encoder {
    form: Form,
    place: Place,
    /// Whether a [`Survey`] has already found that the message is [clean](Survey::is_clean) and has no octet that must
    /// not be sent.
    is_checked: bool,
}

/// What may be sent, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Lines with doubled dots, for DATA.
    Dotted { eight_bit: bool },
    /// Lines as they are, for BDAT.
    Lines { eight_bit: bool },
    /// Any octets, as they are (RFC 3030 §3).
    Binary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// No piece has arrived yet.
    Start,
    LineStart,
    MidLine,
    /// After a CR, which is held back because an LF may follow.
    Cr,
}

impl Encoder {
    /// Creates an encoder for DATA, at the start of a message.
    #[must_use]
    pub fn new(eight_bit: bool) -> Encoder {
        Encoder { form: Form::Dotted { eight_bit }, place: Place::Start, is_checked: false }
    }

    /// Creates an encoder for the kind of content that MAIL announces. BDAT needs no doubled dots, and binary content
    /// is not changed at all.
    pub(super) fn of(parameters: MailParameters, chunking: bool) -> Encoder {
        let MailParameters { eight_bit, binary, .. } = parameters;
        let form = match (chunking, binary) {
            (true, true) => Form::Binary,
            (true, false) => Form::Lines { eight_bit },
            (false, _) => Form::Dotted { eight_bit },
        };
        Encoder { form, place: Place::Start, is_checked: false }
    }

    /// Sets whether the whole message was already checked, so that its pieces are not examined again.
    pub(super) fn checked(mut self, is_checked: bool) -> Encoder {
        self.is_checked = is_checked;
        self
    }

    /// Encodes `piece` and appends it to `out`.
    ///
    /// # Errors
    ///
    /// The piece has an octet that must not be sent. `out` is unchanged.
    pub fn push(&mut self, mut piece: &[u8], out: &mut Vec<u8>) -> Result<(), Forbidden> {
        if self.form == Form::Binary {
            out.extend_from_slice(piece);
            return Ok(());
        }
        let after_cr = self.place == Place::Cr && !piece.is_empty();
        if after_cr {
            piece = piece.strip_prefix(b"\n").unwrap_or(piece);
        }
        let crlf_only = if self.is_checked {
            let is_clean = |octets: Octets| octets.crlf_only && !octets.nul;
            debug_assert!(is_clean(Octets::of(piece)), "the message has changed");
            true
        } else {
            let octets = Octets::of(piece);
            self.admit(octets.nul, octets.eight_bit)?;
            octets.crlf_only
        };
        if after_cr {
            out.extend_from_slice(b"\r\n");
            self.place = Place::LineStart;
        }
        self.append(piece, crlf_only, out);
        Ok(())
    }

    /// Appends a whole message and its end.
    pub(super) fn push_all(mut self, message: Survey<'_>, out: &mut Vec<u8>) -> Result<(), Forbidden> {
        if self.form == Form::Binary {
            out.extend_from_slice(message.bytes);
            return Ok(());
        }
        self.admit(message.nul, message.eight_bit)?;
        self.append(message.bytes, message.crlf_only, out);
        self.end(out);
        Ok(())
    }

    fn admit(&self, nul: bool, eight_bit: bool) -> Result<(), Forbidden> {
        let seven_bit =
            matches!(self.form, Form::Dotted { eight_bit: false } | Form::Lines { eight_bit: false });
        match (nul, eight_bit) {
            (true, _) => Err(Forbidden::Nul),
            (_, true) if seven_bit => Err(Forbidden::EightBit),
            _ => Ok(()),
        }
    }

    /// Appends a piece. There must be no CR held back.
    fn append(&mut self, piece: &[u8], crlf_only: bool, out: &mut Vec<u8>) {
        let Some(last) = piece.last() else { return };
        let dots = matches!(self.form, Form::Dotted { .. });
        if dots && self.place != Place::MidLine && piece[0] == b'.' {
            out.push(b'.');
        }
        match (crlf_only, dots) {
            (true, true) => stuff(piece, out),
            (true, false) => out.extend_from_slice(piece),
            (false, dots) => normalise(piece, dots, out),
        }
        self.place = match last {
            b'\r' => {
                out.pop(); // held back until it is known what follows
                Place::Cr
            }
            b'\n' => Place::LineStart,
            _ => Place::MidLine,
        };
    }

    /// Ends the last line, if it has no line ending. An empty message becomes one empty line.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        if self.place != Place::LineStart && self.form != Form::Binary {
            out.extend_from_slice(b"\r\n");
        }
        self.place = Place::LineStart;
    }
}

/// Copies `piece`, doubling every dot after an LF.
fn stuff(piece: &[u8], out: &mut Vec<u8>) {
    out.reserve(piece.len() + 2);
    let mut from = 0;
    for dot in memchr_iter(b'.', piece) {
        if dot > 0 && piece[dot - 1] == b'\n' {
            out.extend_from_slice(&piece[from..dot]);
            out.push(b'.');
            from = dot;
        }
    }
    out.extend_from_slice(&piece[from..]);
}

/// Appends a piece line by line, which is slow. A CR at the very end is copied as it is.
fn normalise(mut piece: &[u8], dots: bool, out: &mut Vec<u8>) {
    while let Some(at) = memchr2(b'\r', b'\n', piece) {
        if &piece[at..] == b"\r" {
            break;
        }
        out.extend_from_slice(&piece[..at]);
        out.extend_from_slice(b"\r\n");
        let end = if piece[at..].starts_with(b"\r\n") { 2 } else { 1 };
        piece = &piece[at + end..];
        if dots && piece.first() == Some(&b'.') {
            out.push(b'.');
        }
    }
    out.extend_from_slice(piece);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let (mut out, mut encoder) = (Vec::new(), Encoder::new(true));
        pieces.into_iter().for_each(|piece| encoder.push(piece, &mut out).unwrap());
        encoder.end(&mut out);
        out
    }

    /// Does the same slowly, in a way that is obviously correct.
    fn slowly(text: &[u8]) -> Vec<u8> {
        let mut text = text.to_vec();
        let mut at = 0;
        while at < text.len() {
            match (text[at], text.get(at + 1)) {
                (b'\r', Some(b'\n')) => at += 1,
                (b'\r', _) => text.insert(at + 1, b'\n'),
                (b'\n', _) if at == 0 || text[at - 1] != b'\r' => text.insert(at, b'\r'),
                _ => at += 1,
            }
        }
        if !text.ends_with(b"\r\n") {
            text.extend_from_slice(b"\r\n");
        }
        let lines = text.split_inclusive(|b| *b == b'\n');
        lines
            .flat_map(|line| [if line.starts_with(b".") { b".".as_slice() } else { b"" }, line])
            .flatten()
            .copied()
            .collect()
    }

    #[test]
    fn line_ends_become_crlf_and_dots_are_doubled() {
        for (text, wire) in [
            (&b""[..], &b"\r\n"[..]),
            (b"a", b"a\r\n"),
            (b"a\n", b"a\r\n"),
            (b"a\r", b"a\r\n"),
            (b"a\r\n", b"a\r\n"),
            (b"a\r\r\nb\n\rc", b"a\r\n\r\nb\r\n\r\nc\r\n"),
            (b".", b"..\r\n"),
            (b".\r\n", b"..\r\n"),
            (b"..", b"...\r\n"),
            (b"a\n.\nb", b"a\r\n..\r\nb\r\n"),
            (b"a\r.\rb", b"a\r\n..\r\nb\r\n"),
            (b"a.b\r\n.c", b"a.b\r\n..c\r\n"),
        ] {
            assert_eq!(encode([text]), wire, "{}", text.escape_ascii());
            assert_eq!(slowly(text), wire);
        }
    }

    #[test]
    fn forbidden_octets_are_not_encoded() {
        let mut out = b"x".to_vec();
        assert_eq!(Encoder::new(true).push(b"a\0", &mut out), Err(Forbidden::Nul));
        assert_eq!(Encoder::new(false).push(b"\xc3\xa9", &mut out), Err(Forbidden::EightBit));
        assert_eq!(Encoder::new(true).push_all(Survey::of(b"a\0"), &mut out), Err(Forbidden::Nul));
        assert_eq!(Encoder::new(false).push_all(Survey::of(b"\xc3\xa9"), &mut out), Err(Forbidden::EightBit));
        assert_eq!(out, b"x");
    }

    /// Generates text that consists mostly of the octets that matter here.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), Just(b'a'), 1u8..], 0..200)
    }

    proptest! {
        // Threats 28 to 32.
        #[test]
        fn any_text_in_any_pieces_is_encoded_correctly(text in text(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let wire = encode(cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]));
            prop_assert_eq!(&wire, &slowly(&text));
            let mut at_once = Vec::new();
            prop_assert_eq!(Encoder::new(true).push_all(Survey::of(&text), &mut at_once), Ok(()));
            prop_assert_eq!(&wire, &at_once);
            prop_assert_eq!(wire.iter().filter(|b| **b == b'\r').count(), memchr::memmem::find_iter(&wire, b"\r\n").count());
            prop_assert_eq!(wire.iter().filter(|b| **b == b'\n').count(), memchr::memmem::find_iter(&wire, b"\r\n").count());
            prop_assert!(!wire.starts_with(b".\r\n") && memchr::memmem::find(&wire, b"\r\n.\r\n").is_none());
        }

        #[test]
        fn encoding_at_once_equals_encoding_in_pieces(text in text(), nul in any::<bool>(), chunking in any::<bool>(), eight_bit in any::<bool>(), binary in any::<bool>()) {
            let text = if nul { [&text[..], b"\0"].concat() } else { text };
            let encoder = || Encoder::of(MailParameters { eight_bit, binary, ..MailParameters::default() }, chunking);
            let (mut pieces, mut whole) = (b"x".to_vec(), b"x".to_vec());
            let mut piecewise = encoder();
            let done = piecewise.push(&text, &mut pieces).map(|()| piecewise.end(&mut pieces));
            prop_assert_eq!(encoder().push_all(Survey::of(&text), &mut whole), done);
            prop_assert_eq!(whole, pieces);
        }

        #[test]
        fn text_that_was_checked_as_a_whole_is_encoded_the_same_in_pieces(
            lines in prop::collection::vec("[a.]{0,3}", 1..9),
            end in prop_oneof![Just(""), Just("\r\n"), Just("\r")],
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            chunking in any::<bool>(),
        ) {
            let text = lines.join("\r\n") + end;
            let text = text.as_bytes();
            prop_assert!(Survey::of(text).is_clean());
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let encode = |is_checked| {
                let mut encoder = Encoder::of(MailParameters::default(), chunking).checked(is_checked);
                let mut out = Vec::new();
                cuts.windows(2).for_each(|cut| encoder.push(&text[cut[0]..cut[1]], &mut out).unwrap());
                encoder.end(&mut out);
                out
            };
            prop_assert_eq!(encode(true), encode(false));
        }

        #[test]
        fn long_lines_are_found_wherever_they_are(lines in prop::collection::vec((0..2_100usize, prop_oneof![Just("\r\n"), Just("\n"), Just("\r")]), 0..9)) {
            let text: String = lines.iter().map(|(len, end)| "x".repeat(*len) + end).collect();
            let longest = lines.iter().map(|(len, _)| *len).max().filter(|len| *len > MAX_TEXT_LINE);
            prop_assert_eq!(Survey::of(text.as_bytes()).long_line, longest);
            let cut = text.trim_end_matches(['\r', '\n']);
            prop_assert_eq!(Survey::of(cut.as_bytes()).long_line, longest);
        }

        // Behaviour 74.
        #[test]
        fn the_survey_counts_the_sent_octets_except_doubled_dots(text in text()) {
            let wire = slowly(&text);
            let dots = wire.split_inclusive(|b| *b == b'\n').filter(|line| line.starts_with(b".")).count();
            let survey = Survey::of(&text);
            prop_assert_eq!(survey.octets, (wire.len() - dots) as u64);
            let longest = wire.split(|b| *b == b'\n').map(|l| l.len().saturating_sub(1) - usize::from(l.starts_with(b"."))).max();
            prop_assert_eq!(survey.long_line, longest.filter(|longest| *longest > MAX_TEXT_LINE));
            prop_assert_eq!(survey.eight_bit, text.iter().any(|b| *b >= 0x80));
        }
    }

    #[test]
    fn text_with_other_line_endings_or_a_nul_is_not_clean() {
        for (text, is_clean) in [
            (&b""[..], true),
            (b"a\r\nb", true),
            (b"a\xff", true),
            (b"a\nb", false),
            (b"a\rb", false),
            (b"\n", false),
            (b"a\0", false),
        ] {
            assert_eq!(Survey::of(text).is_clean(), is_clean, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn repeated_nul_or_8bit_octets_are_still_found() {
        let odd = |bytes: &[u8]| {
            let Octets { nul, eight_bit, .. } = Octets::of(bytes);
            (nul, eight_bit)
        };
        assert_eq!(odd(b"a\0\0"), (true, false));
        assert_eq!(odd(b"a\xff\xff"), (false, true));
    }

    #[test]
    fn a_line_is_too_long_one_octet_beyond_the_limit() {
        let line = |length| long_line(&vec![b'x'; length]);
        assert_eq!(line(MAX_TEXT_LINE), None);
        assert_eq!(line(MAX_TEXT_LINE + 1), Some(MAX_TEXT_LINE + 1));
    }
}
