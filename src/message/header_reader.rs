//! The envelope and other information from a message's headers. Accepts real-world mail, not only valid mail.

use std::{borrow::Cow, iter, mem, str};

use memchr::{memchr, memchr2};

use super::mailbox::has_encoded_word;
use crate::{Address, Envelope, Error};

pub(super) const UNTERMINATED: &str = "unterminated quote, comment or bracket";

const RESENT_TWICE: &str = "the message was resent more than once, so its envelope must be set explicitly";
const NO_FROM: &str = "the message has no address in From or Sender";
const NO_RESENT_FROM: &str = "the message has no address in Resent-From or Resent-Sender";

impl Envelope {
    /// Creates the envelope from the headers of a message.
    ///
    /// The sender is the first address in `Sender`, or else in `From`. The recipients are all addresses in `To`, `Cc`
    /// and `Bcc`, in this order. If there is a `Resent-Date`, the `Resent-` headers are used instead (RFC 5322 §3.6.6).
    ///
    /// Headers are parsed leniently: obsolete syntax (RFC 5322 §4.4), any octets in display names, and any line endings
    /// are allowed. Addresses are taken as written. Ambiguous text is never skipped: it is an error, and so is an
    /// encoded word in place of an address (RFC 2047 §5).
    ///
    /// ```
    /// use postino::Envelope;
    ///
    /// let message = b"From: Alice <alice@example.org>\nTo: Bob <bob@example.org>, root\n\nHello!\n";
    /// let envelope = Envelope::from_headers(message)?;
    /// assert_eq!(envelope, Envelope::new("alice@example.org", ["bob@example.org", "root"])?);
    /// # Ok::<(), postino::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Message`] if there is no sender, or if the message was resent more than once, which makes its envelope
    /// ambiguous; [`Error::Address`] if a header has an invalid address; [`Error::NoRecipients`] if there are no
    /// recipients.
    pub fn from_headers(message: &[u8]) -> Result<Envelope, Error> {
        let sender = Envelope::sender_from_headers(message)?;
        Envelope::from_addresses(Some(sender), Envelope::recipients_from_headers(message)?)
    }

    /// Returns only the sender that [`from_headers`](Envelope::from_headers) would find. Recipients are not required.
    ///
    /// # Errors
    ///
    /// [`Error::Message`] if there is no sender, or if the message was resent more than once; [`Error::Address`] if the
    /// sender's header has an invalid address.
    pub fn sender_from_headers(message: &[u8]) -> Result<Address, Error> {
        let (names, none) = if is_resent(message)? {
            (["Resent-Sender", "Resent-From"], NO_RESENT_FROM)
        } else {
            (["Sender", "From"], NO_FROM)
        };
        for name in names {
            if let Some(sender) = addresses(message, name)?.into_iter().next() {
                return Ok(sender);
            }
        }
        Err(Error::Message(none.into()))
    }

    /// Returns only the recipients that [`from_headers`](Envelope::from_headers) would find. A sender is not required.
    /// Duplicates are kept.
    ///
    /// # Errors
    ///
    /// [`Error::NoRecipients`] if there are no recipients; [`Error::Address`] if a header has an invalid address;
    /// [`Error::Message`] if the message was resent more than once.
    pub fn recipients_from_headers(message: &[u8]) -> Result<Vec<Address>, Error> {
        let names =
            if is_resent(message)? { ["Resent-To", "Resent-Cc", "Resent-Bcc"] } else { ["To", "Cc", "Bcc"] };
        let mut recipients = Vec::new();
        for name in names {
            recipients.append(&mut addresses(message, name)?);
        }
        if recipients.is_empty() {
            return Err(Error::NoRecipients);
        }
        Ok(recipients)
    }
}

/// Returns the message without its `Bcc` and `Resent-Bcc` headers. Everything else is unchanged.
///
/// ```
/// use postino::message::without_bcc;
///
/// let message = b"To: bob@example.org\nBcc: carol@example.org,\n dave@example.org\n\nHello!\n";
/// assert_eq!(*without_bcc(message), *b"To: bob@example.org\n\nHello!\n");
/// ```
#[must_use]
pub fn without_bcc(message: &[u8]) -> Cow<'_, [u8]> {
    if !fields(message).any(is_bcc) {
        return Cow::Borrowed(message);
    }
    let mut kept = Vec::with_capacity(message.len());
    let mut read = 0;
    for field in fields(message) {
        read += field.len();
        if is_bcc(field) {
            continue;
        }
        push_field(&mut kept, field);
    }
    kept.extend_from_slice(&message[read..]);
    Cow::Owned(kept)
}

/// Appends a field, or the rest of a message. If a field between a CR and an LF was removed, they would merge into one
/// line ending, and the empty line would be lost.
pub(super) fn push_field(kept: &mut Vec<u8>, field: &[u8]) {
    if kept.ends_with(b"\r") && field.starts_with(b"\n") {
        kept.push(b'\n');
    }
    kept.extend_from_slice(field);
}

/// Removes `Bcc` and `Resent-Bcc` headers like [`without_bcc`], without a copy if there are none.
pub(super) fn remove_bcc(message: Vec<u8>) -> Vec<u8> {
    match without_bcc(&message) {
        Cow::Owned(without) => without,
        Cow::Borrowed(_) => message,
    }
}

/// Returns the length of the headers in octets, including the empty line that ends them, or `None` if there is no
/// empty line.
///
/// Lines end with CRLF, LF or CR. A line that has only white space is not empty: it continues the header above.
#[must_use]
pub fn header_length(message: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at < message.len() {
        let line = line_length(&message[at..]);
        if matches!(message[at], b'\r' | b'\n') {
            return Some(at + line);
        }
        at += line;
    }
    None
}

/// Returns the length of the first line, including its line ending.
fn line_length(text: &[u8]) -> usize {
    match memchr2(b'\r', b'\n', text) {
        Some(at) if text[at..].starts_with(b"\r\n") => at + 2,
        Some(at) => at + 1,
        None => text.len(),
    }
}

/// Splits the header block into header fields with their folded lines, any other lines, and the empty line. Joined
/// together, they are the block again.
pub(super) fn fields(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = &message[..header_length(message).unwrap_or(message.len())];
    iter::from_fn(move || {
        let mut length = line_length(rest);
        while let Some(b' ' | b'\t') = rest.get(length) {
            length += line_length(&rest[length..]);
        }
        let (field, after) = rest.split_at(length);
        rest = after;
        (!field.is_empty()).then_some(field)
    })
}

/// Returns the value of a field, if it has this name.
///
/// White space before the colon is obsolete syntax (RFC 5322 §4.5). The `From ` line of an mbox never matches, because
/// it has other text before its first colon.
pub(super) fn value<'m>(field: &'m [u8], name: &str) -> Option<&'m [u8]> {
    let colon = memchr(b':', field)?;
    field[..colon].trim_ascii().eq_ignore_ascii_case(name.as_bytes()).then(|| &field[colon + 1..])
}

fn is_bcc(field: &[u8]) -> bool {
    value(field, "Bcc").or(value(field, "Resent-Bcc")).is_some()
}

/// Returns whether the `Resent-` headers apply. Several blocks are an error, because their lines cannot be told apart.
fn is_resent(message: &[u8]) -> Result<bool, Error> {
    match fields(message).filter_map(|field| value(field, "Resent-Date")).count() {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Error::Message(RESENT_TWICE.into())),
    }
}

/// Returns the addresses in all fields with this name.
fn addresses(message: &[u8], name: &'static str) -> Result<Vec<Address>, Error> {
    let mut found = Vec::new();
    for value in fields(message).filter_map(|field| value(field, name)) {
        // All line endings left in a value are folds, which are ignored (RFC 5322 §2.2.3).
        let list: Vec<u8> = value.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
        read_list(&list, &mut found).map_err(|unreadable| unreadable.into_error(name))?;
    }
    Ok(found)
}

/// An element of an address list that is not an address.
struct Unreadable<'l> {
    text: &'l [u8],
    why: &'static str,
}

impl Unreadable<'_> {
    fn into_error(self, name: &str) -> Error {
        let input = String::from_utf8_lossy(self.text).into_owned();
        Error::Address { input, why: self.why, header: Some(name.to_owned()) }
    }
}

/// Parses an unfolded address list in one pass: RFC 5322 §3.4 with the obsolete forms of §4.4.
fn read_list<'l>(list: &'l [u8], found: &mut Vec<Address>) -> Result<(), Unreadable<'l>> {
    let mut element = Element::default();
    let (mut start, mut at) = (0, 0);
    while at < list.len() {
        let Some(length) = token_length(&list[at..]) else {
            return Err(Unreadable { text: &list[start..], why: UNTERMINATED });
        };
        let token = &list[at..at + length];
        at += length;
        let taken = element.take(token);
        found.extend(taken.map_err(|why| Unreadable { text: written(&list[start..at]), why })?);
        if element.is_empty() {
            start = at;
        }
    }
    found.extend(element.end().map_err(|why| Unreadable { text: written(&list[start..]), why })?);
    Ok(())
}

/// Returns an element of a list without the separator after it.
fn written(element: &[u8]) -> &[u8] {
    let element = element.trim_ascii();
    element.strip_suffix(b",").or(element.strip_suffix(b";")).unwrap_or(element)
}

/// Returns the length of the first token: a comment, a quoted string, a domain literal, one of `<>,;:`, a space or tab,
/// or all octets up to the next of these. `None` if the token is unterminated.
pub(super) fn token_length(text: &[u8]) -> Option<usize> {
    match text[0] {
        b'(' => comment_length(text),
        b'"' => enclosed_length(text, b'"'),
        b'[' => enclosed_length(text, b']'),
        byte if is_special(byte) => Some(1),
        _ => Some(text.iter().position(|&byte| is_special(byte)).unwrap_or(text.len())),
    }
}

fn is_special(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'(' | b'"' | b'[' | b'<' | b'>' | b',' | b';' | b':')
}

/// Returns the length of a comment. Nested comments (RFC 5322 §3.2.2) are counted, so that they cannot overflow the
/// stack.
fn comment_length(text: &[u8]) -> Option<usize> {
    let (mut depth, mut escaped) = (0, false);
    for (at, byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'(' => depth += 1,
            b')' if depth == 1 => return Some(at + 1),
            b')' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn enclosed_length(text: &[u8], close: u8) -> Option<usize> {
    let mut escaped = false;
    for (at, &byte) in text.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            _ if byte == close => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The state of one element of an address list.
#[derive(Default)]
struct Element {
    angle: Angle,
    /// A display name or an address, as written, without comments and the white space around them.
    text: Vec<u8>,
    /// There was white space, or a comment, after the last word.
    gap: bool,
    /// The text has an `@` outside quotes.
    has_at: bool,
    /// Two words are side by side, which is never an address.
    is_phrase: bool,
    /// The text is quoted, or in pieces (`J. Doe`): an address only if it has an `@`.
    is_doubtful: bool,
}

/// The position of the parser relative to the angle brackets.
#[derive(Default, Clone, Copy, PartialEq)]
enum Angle {
    #[default]
    Before,
    Inside,
    After,
}

impl Element {
    fn at(angle: Angle) -> Element {
        Element { angle, ..Element::default() }
    }

    fn is_empty(&self) -> bool {
        self.angle == Angle::Before && self.text.is_empty()
    }

    /// Consumes one token, and returns the address that it completes, if any.
    fn take(&mut self, token: &[u8]) -> Result<Option<Address>, &'static str> {
        match (token[0], self.angle) {
            (b' ' | b'\t' | b'(', _) => self.gap = true,
            (b'>', Angle::Before) => return Err("> without a matching <"),
            // A `;` ends a group. Some senders also write it in place of a comma between addresses.
            (b',' | b';', Angle::Before | Angle::After) => return self.end(),
            (_, Angle::After) => return Err("unexpected text after >"),
            // The text so far was a display name.
            (b'<', Angle::Before) => *self = Element::at(Angle::Inside),
            // The text so far was the name of a group.
            (b':', Angle::Before) if self.has_at => return Err("unexpected colon after an address"),
            (b':', Angle::Before) => *self = Element::default(),
            // The text so far was a route (RFC 5322 §4.4), which is ignored.
            (b':', Angle::Inside) if matches!(self.text.first(), Some(b'@' | b',')) => {
                *self = Element::at(Angle::Inside);
            }
            (b'>', Angle::Inside) => {
                return mem::replace(self, Element::at(Angle::After)).address().map(Some);
            }
            _ => self.word(token),
        }
        Ok(None)
    }

    /// Ends the element at a separator, or at the end of the list.
    fn end(&mut self) -> Result<Option<Address>, &'static str> {
        let element = mem::take(self);
        match element.angle {
            Angle::Before if element.text.is_empty() => Ok(None),
            Angle::Before => element.address().map(Some),
            Angle::Inside => Err("< without a matching >"),
            Angle::After => Ok(None),
        }
    }

    fn word(&mut self, token: &[u8]) {
        let joins = |byte: Option<&u8>| matches!(byte, Some(b'.' | b'@'));
        if self.gap && !self.text.is_empty() {
            self.is_phrase |= !joins(self.text.last()) && !joins(token.first());
            self.is_doubtful = true;
        }
        if token[0] == b'"' {
            self.is_doubtful |= self.angle == Angle::Before;
        } else {
            self.has_at |= token.contains(&b'@');
        }
        self.gap = false;
        self.text.extend_from_slice(token);
    }

    fn address(&self) -> Result<Address, &'static str> {
        if self.is_phrase {
            return Err(if self.has_at { "space outside quotes" } else { "no @" });
        }
        if self.is_doubtful && !self.has_at {
            return Err("no @");
        }
        let text = str::from_utf8(&self.text).map_err(|_| "not UTF-8")?;
        if has_encoded_word(text) {
            return Err("an encoded word is not an address (RFC 2047 §5)");
        }
        if !self.has_at && !is_local_name(text) {
            return Err("no @, and not a local mailbox name");
        }
        Address::new(text).map_err(|error| match error {
            Error::Address { why, .. } => why,
            _ => "invalid",
        })
    }
}

/// Whether text without an `@` may be a local mailbox name: not a URL, an unfilled placeholder, or a dash.
fn is_local_name(text: &str) -> bool {
    text.contains(char::is_alphanumeric) && !text.contains(['?', '{', '}', '`']) && !text.contains("//")
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    /// Returns the recipients of a `To` with these octets, or the text of the error.
    fn to(list: impl AsRef<[u8]>) -> Result<Vec<String>, String> {
        let message = [b"To: ", list.as_ref(), b"\r\n\r\n"].concat();
        match Envelope::recipients_from_headers(&message) {
            Ok(found) => Ok(found.iter().map(ToString::to_string).collect()),
            Err(Error::NoRecipients) => Ok(Vec::new()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn sender(message: &str) -> String {
        match Envelope::sender_from_headers(message.as_bytes()) {
            Ok(sender) => sender.to_string(),
            Err(error) => error.to_string(),
        }
    }

    fn reads(cases: &[(&str, &[&str])]) {
        for (list, expected) in cases {
            assert_eq!(
                to(list).as_deref(),
                Ok(&expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
                "{list:?}"
            );
        }
    }

    #[test]
    fn sender_takes_precedence_over_from() {
        assert_eq!(sender("From: from@x\nSender: sender@x\n\n"), "sender@x");
        assert_eq!(sender("Sender: sender@x\nFrom: what is this?\n\n"), "sender@x");
    }

    #[test]
    fn from_applies_if_sender_is_empty() {
        assert_eq!(sender("Sender:\nFrom: from@x\n\n"), "from@x");
        assert_eq!(sender("Sender: (nobody)\nFrom: from@x\n\n"), "from@x");
    }

    #[test]
    fn the_first_of_several_from_addresses_is_the_sender() {
        assert_eq!(sender("From: One <one@x>, two@x\n\n"), "one@x");
    }

    #[test]
    fn a_message_without_a_from_address_has_no_sender() {
        for message in ["", "\n", "To: a@b\n\n", "From:\n\n", "From: nobody:;\n\n", "\nFrom: body@x\n"] {
            assert_eq!(sender(message), NO_FROM, "{message:?}");
        }
        assert_eq!(sender("Resent-Date: now\nFrom: a@b\n\n"), NO_RESENT_FROM);
    }

    #[test]
    fn a_value_begins_after_the_colon() {
        assert_eq!(value(b"to : a@b\r\n", "To"), Some(&b" a@b\r\n"[..]));
    }

    #[test]
    fn an_invalid_address_is_an_error_with_the_reason() {
        let error = to("a@").unwrap_err();
        assert_eq!(error, "To: invalid address \"a@\": no domain");
    }

    #[test]
    fn recipients_are_in_the_order_to_cc_bcc_with_duplicates() {
        let message =
            b"Bcc: same@x, same@x\ncc: same@x\nTO: one@x\nTo: two@x\nReply-To: no@x\n\nTo: body@x\n";
        let found = Envelope::recipients_from_headers(message).unwrap();
        let found: Vec<&str> = found.iter().map(Address::as_str).collect();
        assert_eq!(found, ["one@x", "two@x", "same@x", "same@x", "same@x"]);
    }

    #[test]
    fn headers_without_recipients_have_no_envelope() {
        for message in
            ["From: a@b\n\n", "From: a@b\nTo:\nCc: nobody:;\nBcc: , ,\n\n", "From: a@b\n\nTo: c@d\n"]
        {
            let envelope = Envelope::from_headers(message.as_bytes());
            assert!(matches!(envelope, Err(Error::NoRecipients)), "{message:?}");
        }
    }

    #[test]
    fn a_resent_date_makes_the_resent_headers_apply() {
        let message =
            b"Resent-From: f@re\nResent-Sender: s@re\nResent-Bcc: b@re\nResent-To: t@re\nResent-Cc: c@re\n\
            Resent-Date: now\nFrom: a@b\nTo: c@d\n\n";
        let expected = Envelope::new("s@re", ["t@re", "c@re", "b@re"]).unwrap();
        assert_eq!(Envelope::from_headers(message).unwrap(), expected);
    }

    #[test]
    fn without_a_resent_date_the_resent_headers_do_not_apply() {
        let message = b"Resent-From: f@re\nResent-To: t@re\nFrom: a@b\nTo: c@d\n\n";
        assert_eq!(Envelope::from_headers(message).unwrap(), Envelope::new("a@b", ["c@d"]).unwrap());
    }

    #[test]
    fn two_resent_dates_are_an_error() {
        let message = b"Resent-Date: now\nResent-To: a@b\nResent-Date: then\nFrom: a@b\nTo: c@d\n\n";
        assert_eq!(Envelope::from_headers(message).unwrap_err().to_string(), RESENT_TWICE);
        assert_eq!(Envelope::recipients_from_headers(message).unwrap_err().to_string(), RESENT_TWICE);
    }

    #[test]
    fn commands_in_from_do_not_reach_the_envelope() {
        for from in [
            "a@b>\r\nRCPT TO:<evil@x>",
            "a@b>\r\n RCPT TO:<evil@x>",
            "<a@b>\r\n RCPT TO:<evil@x>",
            "<a@b\r\n RCPT TO:evil@x>",
            "a@b\n\tDATA",
            "a@b\rDATA\r",
            "\"a\r\n RCPT TO:<evil@x>\"@b",
            "\"a\0\"@b",
        ] {
            let message = format!("From: {from}\r\nTo: c@d\r\n\r\n");
            if let Ok(envelope) = Envelope::from_headers(message.as_bytes()) {
                let sender = envelope.sender().unwrap().as_str();
                assert!(["a@b", "\"a RCPT TO:<evil@x>\"@b"].contains(&sender), "{from:?} gave {sender:?}");
                assert_eq!(envelope.recipients().len(), 1);
            }
        }
    }

    #[test]
    fn the_examples_of_rfc_5322_are_parsed() {
        let group = "A Group:Ed Jones <c@a.test>,joe@where.test,John <jdoe@one.test>;";
        let comments = "A Group(Some people)\r\n     :Chris Jones <c@(Chris's host.)public.example>,\r\n         \
            joe@example.org,\r\n  John <jdoe@one.test> (my dear friend); (the end of the group)";
        reads(&[
            ("\"Joe Q. Public\" <john.q.public@example.com>", &["john.q.public@example.com"]),
            (
                "Mary Smith <mary@x.test>, jdoe@example.org, Who? <one@y.test>",
                &["mary@x.test", "jdoe@example.org", "one@y.test"],
            ),
            (
                "<boss@nil.test>, \"Giant; \\\"Big\\\" Box\" <sysservices@example.net>",
                &["boss@nil.test", "sysservices@example.net"],
            ),
            (group, &["c@a.test", "joe@where.test", "jdoe@one.test"]),
            ("Undisclosed recipients:;", &[]),
            ("Pete(A nice \\) chap) <pete(his account)@silly.test(his host)>", &["pete@silly.test"]),
            (comments, &["c@public.example", "joe@example.org", "jdoe@one.test"]),
            ("(Empty list)(start)Hidden recipients  :(nobody(that I know))  ;", &[]),
            (
                "Mary Smith <@node.test:mary@example.net>, , jdoe@test  . example",
                &["mary@example.net", "jdoe@test.example"],
            ),
        ]);
    }

    #[test]
    fn display_names_may_be_anything_that_leaves_the_address_unambiguous() {
        for name in [
            "J.R. Doe",
            "=?utf-8?q?J=C3=B6rg?=",
            "Jörg",
            "bob@x.example",
            "[list, a] of",
            "\"Doe, \\\"J\\\" <no@x>\"",
            "O'Brien",
            "Re: Fwd",
            "a) b",
            "back\\slash",
            "",
        ] {
            assert_eq!(to(format!("{name} <a@b>")).unwrap(), ["a@b"], "{name:?}");
        }
    }

    #[test]
    fn display_names_and_comments_may_be_latin_1() {
        assert_eq!(to(b"J\xf6rg <a@b>, \"J\xf6rg\" <c@d>, e@f (J\xf6rg)").unwrap(), ["a@b", "c@d", "e@f"]);
    }

    #[test]
    fn addresses_may_not_be_latin_1() {
        assert!(to(b"j\xf6rg@x").unwrap_err().ends_with("not UTF-8"));
        assert_eq!(to("jörg@bücher.example").unwrap(), ["jörg@bücher.example"]);
    }

    #[test]
    fn lists_may_be_folded_in_any_way() {
        for fold in ["\r\n ", "\r\n\t", "\n \t ", "\r ", "\r\n \r\n ", "\n  \n\t\r "] {
            let list = format!("{fold}A{fold}B <a@b>,{fold}c@d{fold}, {fold}{fold}<e@f>{fold}");
            assert_eq!(to(list).unwrap(), ["a@b", "c@d", "e@f"], "{fold:?}");
        }
    }

    #[test]
    fn comments_may_contain_parentheses_quotes_and_addresses() {
        reads(&[
            ("(a (b \\( c) \" <x@y>, ) a@b (;)", &["a@b"]),
            ("a@b (Alice)", &["a@b"]),
            ("<(x)a(\"@z, )@(y)b(z)>(,)", &["a@b"]),
        ]);
    }

    #[test]
    fn groups_and_empty_elements_are_parsed() {
        reads(&[
            ("name: a@b, C <c@d>;, e@f", &["a@b", "c@d", "e@f"]),
            ("\"quoted, name\": a@b; other:;", &["a@b"]),
            ("open: a@b", &["a@b"]),
            ("a@b,,c@d,", &["a@b", "c@d"]),
            (",", &[]),
            ("a@b; c@d", &["a@b", "c@d"]),
        ]);
    }

    #[test]
    fn source_routes_are_ignored() {
        reads(&[
            ("<@a,@b:c@d>", &["c@d"]),
            ("X <@a , , @[1.2.3.4] : \"c\"@d>", &["\"c\"@d"]),
            ("<,@a:c@d>", &["c@d"]),
        ]);
    }

    #[test]
    fn white_space_is_allowed_around_dots_and_at() {
        reads(&[
            ("a . b @ c", &["a.b@c"]),
            ("<a .\r\n b@ c (x) . d>", &["a.b@c.d"]),
            ("\"a  b\" @ c", &["\"a  b\"@c"]),
        ]);
    }

    #[test]
    fn a_local_part_without_a_domain_is_an_address() {
        reads(&[("root", &["root"]), ("root, <postmaster>, Bob <bob>", &["root", "postmaster", "bob"])]);
    }

    #[test]
    fn a_name_without_an_address_is_an_error() {
        for list in ["foo bar", "J. Doe", "\"Alice\"", "\"a@b\"", "Alice a@b", "a@b Alice"] {
            assert!(to(list).unwrap_err().starts_with("To: invalid address \""), "{list:?}");
        }
    }

    #[test]
    fn an_encoded_word_is_not_an_address() {
        for list in [
            "=?utf-8?q?Ann?=",
            "=?UTF-8?B?dG9ueUBleGFtcGxlLmNvbQ==?=",
            "<=?utf-8?q?bob=40example.net?=>",
            "Bob <=?utf-8?q?bob?=@example.net>",
            "=?utf-8?q?bob?=@example.net",
            "=?utf-8?q?a(b)?=",
            "bob@=?utf-8?q?example?=",
            "=?utf-8?q?Ann",
        ] {
            let error = to(format!("a@b, {list}")).unwrap_err();
            assert!(error.starts_with("To: invalid address \""), "{list}: {error}");
        }
        reads(&[
            ("=?utf-8?q?J=C3=B6rg?= <a@b>", &["a@b"]),
            ("\"=?utf-8?q?bob?=\"@example.net", &["\"=?utf-8?q?bob?=\"@example.net"]),
            ("bounce=?x@example.net", &["bounce=?x@example.net"]),
        ]);
    }

    #[test]
    fn a_word_that_is_obviously_not_a_local_name_is_an_error() {
        for word in ["-", "--", "?", "http://example.org/unsubscribe", "//x", "{{email}}", "${EMAIL}", "`id`"]
        {
            assert!(to(word).is_err(), "{word} passed as {:?}", to(word));
        }
        reads(&[(
            "root, o'brien, host!user, 123, user%host, jörg",
            &["root", "o'brien", "host!user", "123", "user%host", "jörg"],
        )]);
    }

    // Threat 21.
    #[test]
    fn a_quoted_local_part_is_unchanged() {
        for address in ["\"a b\"@x", "\"a@evil\"@x", "\"a\\\"> \\b\"@x", "\"a,b;c:d(e)\"@x", "\"\"@x"] {
            assert_eq!(to(address).unwrap(), [address]);
            assert_eq!(to(format!("Name <{address}>")).unwrap(), [address]);
        }
        assert_eq!(to("\"a\r\n b\"@x").unwrap(), ["\"a b\"@x"]);
        assert_eq!(to("a@[127.0.0.1], <b@[IPv6:::1]>").unwrap(), ["a@[127.0.0.1]", "b@[IPv6:::1]"]);
    }

    #[test]
    fn ambiguous_addresses_are_errors() {
        for list in [
            "<>",
            "Alice <>",
            "<a@b",
            "<a@b, c@d>",
            "<a@b> c@d",
            "<a@b> <c@d>",
            "<a@b>: c@d",
            "<<a@b>>",
            "a@b>",
            "a@b> x <c@d>",
            "a@b: x <c@d>",
            "a@b@c",
            "a@b: c@d",
            "a@b)c@d",
            "a@b (open, c@d",
            "\"open <a@b>",
            "[open <a@b>",
            "x@[\"<y@z]>",
            "\"a\".b@c",
            "a(x)b@c",
            "'a@b'",
            "a\0@b",
            "a@b, foo bar",
        ] {
            assert!(to(list).is_err(), "{list:?} passed as {:?}", to(list));
        }
    }

    #[test]
    fn an_error_names_the_header_and_quotes_the_text() {
        assert_eq!(to("a@b, \tfoo bar\x07, c@d").unwrap_err(), "To: invalid address \"foo bar\\u{7}\": no @");
        let long = to("x y".repeat(1000)).unwrap_err();
        assert!(long.contains("x y\"…: ") && long.len() < 200, "{long}");
        assert!(sender("Resent-Date: now\nResent-From: <>\n\n").contains("Resent-From"));
    }

    #[test]
    fn malformed_headers_of_real_messages_are_read() {
        for headers in [
            "From a@mbox Thu Jan  1 00:00:00 1970\nFrom: a@b\nTo: c@d\n\nbody",
            "From a@mbox Thu Jan  1 00:00:00 1970\n remote from x\nFROM :a@b\nto\t: c@d",
            "Subject:\r\nFrom: a@b\r\nno header\r\n: nor this\r\nTo: c@d\r\n\r\n",
            "From: a@b\rTo: c@d\r\rTo: body@x\r",
            "From: a@b\rTo: c@d\r\n\nTo: body@x\r",
            "Subject: J\u{fffd}rg\n \n\tTo: x@y\nFrom: a@b\nTo: c@d\n",
            "From: a@b\nTo:\n c@d\n\r\nTo: body@x\n",
        ] {
            let envelope = Envelope::from_headers(headers.as_bytes()).unwrap();
            assert_eq!(envelope, Envelope::new("a@b", ["c@d"]).unwrap(), "{headers:?}");
        }
    }

    #[test]
    fn headers_end_after_the_first_empty_line() {
        for (message, length) in [
            ("", None),
            ("A: b", None),
            ("A: b\r\n", None),
            ("A: b\r\n \r\n", None),
            ("A: b\r\n\r\n", Some(8)),
            ("A: b\r\n\r\nbody\n\n", Some(8)),
            ("A: b\n\nbody", Some(6)),
            ("A: b\r\rbody", Some(6)),
            ("A: b\n\r\nbody", Some(7)),
            ("A: b\r\n\nbody", Some(7)),
            ("\nbody", Some(1)),
            ("\r\n\r\n", Some(2)),
        ] {
            assert_eq!(header_length(message.as_bytes()), length, "{message:?}");
        }
    }

    #[test]
    fn bcc_is_removed_with_its_folded_lines() {
        for (message, expected) in [
            ("Bcc: a@b\r\nTo: c@d\r\n\r\nBcc: body\r\n", "To: c@d\r\n\r\nBcc: body\r\n"),
            ("To: c@d\nBCC :\n a@b,\n\t\n\tx@y\nbcc:\nCc: e@f\n\n", "To: c@d\nCc: e@f\n\n"),
            ("To: c@d\rresent-bcc: a@b\r x@y\r\rBcc: body\r", "To: c@d\r\rBcc: body\r"),
            ("From a@mbox Thu Jan  1\nBcc: a@b\nTo: c@d", "From a@mbox Thu Jan  1\nTo: c@d"),
            ("To: c@d\nBcc\n : a@b\n\n", "To: c@d\n\n"),
            ("To: c@d\r\nBcc: a@b", "To: c@d\r\n"),
            ("Bcc: (what, <is \"this?\n\n", "\n"),
        ] {
            assert_eq!(without_bcc(message.as_bytes()), expected.as_bytes(), "{message:?}");
        }
    }

    #[test]
    fn a_message_without_bcc_is_borrowed() {
        for message in
            ["", "To: c@d\n\nBcc: body\n", "X-Bcc: a\nSubject: x\n Bcc: folded\nBccc: b", "\nBcc: body"]
        {
            assert!(
                matches!(without_bcc(message.as_bytes()), Cow::Borrowed(same) if same == message.as_bytes())
            );
        }
    }

    #[test]
    fn removing_a_bcc_between_cr_and_lf_keeps_the_empty_line() {
        assert_eq!(*without_bcc(b"To: c@d\rBcc: a@b\n\nbody"), *b"To: c@d\r\n\nbody");
    }

    #[test]
    fn deep_nesting_and_long_input_take_linear_time() {
        const MANY: usize = 1 << 17;
        for piece in [
            "(", "((", ")", "\"", "[", "<", "<@a:", ",", ":", "a:", ".", "@", "a@b ", "a@b,", "\\", "\r ",
            "(a)", "é",
        ] {
            let _ = to(piece.repeat(MANY));
            let _ = to(format!("x {}", piece.repeat(MANY)));
        }
        assert_eq!(to(["(".repeat(MANY), ")".repeat(MANY), "a@b".to_owned()].concat()).unwrap(), ["a@b"]);
        for piece in ["\n", "\r", "a\n", "Bcc:\n", "Bcc:\r", " \n", ":", "To:a@b\n"] {
            let message = piece.repeat(MANY);
            let _ = (Envelope::from_headers(message.as_bytes()), without_bcc(message.as_bytes()));
        }
    }

    /// White space, folds and comments.
    fn cfws() -> impl Strategy<Value = Vec<u8>> {
        const PIECES: &[&[u8]] = &[
            b" ",
            b"\t",
            b"\r\n ",
            b"\n\t",
            b"\r ",
            b" \r\n \r\n\t",
            b"()",
            b"(a (nested \\) \\( (one)) too)",
            b"(\" <x@y>, :; [)",
            b"(J\xf6rg\r\n\tfolded)",
        ];
        vec(select(PIECES), 0..4).prop_map(|pieces| pieces.concat())
    }

    /// An address in pieces: obsolete syntax allows white space and comments between them.
    fn address() -> impl Strategy<Value = Vec<String>> {
        let atom = "[a-z0-9!#$%&'*+/=?^_`{|}~é-]{1,6}";
        let quoted = "\"([a-z@<>,;:()\\[. é]|\\\\[\"\\\\a-z(]){0,6}\"";
        let dotted = (atom, vec(atom, 0..3)).prop_map(|(first, more)| {
            let more = more.into_iter().flat_map(|label| [".".to_owned(), label]);
            iter::once(first).chain(more).collect::<Vec<_>>()
        });
        let name = ("[a-z0-9é]{1,5}", vec("[a-z0-9-]{1,5}", 0..3)).prop_map(|(first, more)| {
            let more = more.into_iter().flat_map(|label| [".".to_owned(), label]);
            iter::once(first).chain(more).collect::<Vec<_>>()
        });
        let literal = select(vec!["[127.0.0.1]", "[IPv6:::1]"]).prop_map(|literal| vec![literal.to_owned()]);
        let local = prop_oneof![3 => dotted, 1 => quoted.prop_map(|quoted| vec![quoted])];
        let with_domain = (local, prop_oneof![4 => name, 1 => literal]).prop_map(|(mut address, domain)| {
            address.push("@".to_owned());
            address.extend(domain);
            address
        });
        // A local name has a letter or digit, and is not a URL or a placeholder.
        let alone = "[a-z0-9é][a-z0-9!#$%&'*+=^_|~é-]{0,5}".prop_map(|alone| vec![alone]);
        prop_oneof![9 => with_domain, 1 => alone]
    }

    /// The pieces with white space and comments around them.
    fn spaced(pieces: Vec<String>) -> impl Strategy<Value = Vec<u8>> {
        let gaps = vec(cfws(), pieces.len() + 1);
        gaps.prop_map(move |gaps| {
            let mut text = gaps[0].clone();
            for (piece, gap) in pieces.iter().zip(&gaps[1..]) {
                text.extend_from_slice(piece.as_bytes());
                text.extend_from_slice(gap);
            }
            text
        })
    }

    fn display_name() -> impl Strategy<Value = Vec<u8>> {
        const WORDS: &[&[u8]] = &[
            b"Alice",
            b"J.R.",
            b"J\xf6rg",
            "Jörg".as_bytes(),
            b"=?utf-8?q?J=C3=B6rg?=",
            b"\"Doe, \\\"J\\\" (x <no@y>;\"",
            b"a@b",
            b"[list, x]",
            b")",
            b"\\",
        ];
        vec((select(WORDS), cfws()), 0..4).prop_map(|words| {
            words.into_iter().flat_map(|(word, gap)| [word.to_vec(), gap].concat()).collect()
        })
    }

    /// An element of a list, with its address; empty elements have none.
    fn element() -> impl Strategy<Value = (Option<String>, Vec<u8>)> {
        let mailbox = (address(), display_name(), any::<bool>(), select(vec!["", "@r,@s.t:", ", @r :"]))
            .prop_flat_map(|(pieces, name, bare, route)| {
                (Just(pieces.concat()), spaced(pieces), cfws()).prop_map(move |(address, spaced, gap)| {
                    let text = if bare {
                        spaced
                    } else {
                        [&name[..], b"<", route.as_bytes(), &spaced, b">", &gap].concat()
                    };
                    (Some(address), text)
                })
            });
        prop_oneof![9 => mailbox, 1 => cfws().prop_map(|gap| (None, gap))]
    }

    /// A list, part of it in a group, with its addresses.
    fn list() -> impl Strategy<Value = (Vec<String>, Vec<u8>)> {
        vec((vec(element(), 0..4), any::<bool>()), 1..4).prop_map(|parts| {
            let (mut addresses, mut texts) = (Vec::new(), Vec::new());
            for (elements, is_group) in parts {
                let (found, text): (Vec<_>, Vec<_>) = elements.into_iter().unzip();
                addresses.extend(found.into_iter().flatten());
                let text = text.join(&b","[..]);
                texts.push(if is_group { [b"\"A: <g@h>\" Group :", &text[..], b";"].concat() } else { text });
            }
            (addresses, texts.join(&b","[..]))
        })
    }

    proptest! {
        #[test]
        fn a_list_has_exactly_the_addresses_it_was_built_from((addresses, text) in list()) {
            prop_assert_eq!(to(&text), Ok(addresses), "{}", text.escape_ascii());
        }

        #[test]
        fn random_octets_do_not_panic(message in vec(any::<u8>(), 0..200)) {
            let _ = (Envelope::from_headers(&message), without_bcc(&message), to(&message));
        }

        #[test]
        fn no_parsed_address_has_a_control_character(
            list in "([a-z@.<>,;:()\"\\[\\]\\\\ \t\r\n\u{0}é]|a@b|\r\n ){0,24}"
        ) {
            for address in to(&list).unwrap_or_default() {
                prop_assert!(!address.contains(char::is_control), "{:?}", address);
            }
        }

        #[test]
        fn removing_bcc_keeps_everything_else(
            message in "(Bcc|To|Resent-Bcc|a| ?: ?|\r\n|\r|\n|\n ){0,30}"
        ) {
            let message = message.as_bytes();
            let less = without_bcc(message);
            let others = |m: &[u8]| -> Vec<Vec<u8>> {
                fields(m).filter(|f| !is_bcc(f)).map(|f| f.trim_ascii_end().to_vec()).collect()
            };
            prop_assert!(!fields(&less).any(is_bcc));
            prop_assert_eq!(others(&less), others(message));
            let body = |m: &[u8]| header_length(m).map(|at| m[at..].to_vec());
            prop_assert_eq!(body(&less), body(message));
            let head = &message[..header_length(message).unwrap_or(message.len())];
            prop_assert_eq!(fields(message).collect::<Vec<_>>().concat(), head);
        }
    }
}
