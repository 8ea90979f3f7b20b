//! Decodes a message: header fields, parts, encodings and charsets. Decoding is lenient, and never fails: malformed
//! input is kept as it is.

use std::{borrow::Cow, fmt, iter, mem};

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use memchr::memchr;

use crate::message::{Mailbox, header_length};

/// Maximum depth of multiparts within multiparts. A deeper multipart is an attachment.
const MAX_DEPTH: usize = 50;
/// Maximum number of parts. Further parts become content of the last one.
const MAX_PARTS: usize = 10_000;

/// A decoder that accepts missing padding, because some encoders leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A decoded message.
#[derive(Default)]
pub(super) struct Decoded {
    /// All header fields of the message, with their values decoded.
    pub fields: Vec<(String, String)>,
    pub from: Vec<String>,
    pub to: Vec<String>,
    pub cc: Vec<String>,
    pub reply_to: Vec<String>,
    pub text: Option<String>,
    pub html: Option<String>,
    pub attachments: Vec<Attachment>,
}

/// A part of a received message that is neither its plain text nor its HTML text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    name: Option<String>,
    media_type: String,
    content_id: Option<String>,
    is_inline: bool,
    content: Vec<u8>,
}

impl Attachment {
    /// Returns the decoded file name, or `None` if the part has no name.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the media type, such as `image/png`, in lower case and without parameters.
    #[must_use]
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// Returns the content ID without its angle brackets. HTML text refers to it as `cid:…`.
    #[must_use]
    pub fn content_id(&self) -> Option<&str> {
        self.content_id.as_deref()
    }

    /// Returns whether the part is meant to be shown inside the text, that is, whether its disposition is `inline`.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        self.is_inline
    }

    /// Returns the content with any base64 or quoted-printable encoding removed. The charset and line endings are not
    /// converted.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.content
    }
}

/// Shows the name, the media type and the size of the attachment, but not its content.
impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name().map_or("without a name".to_owned(), |name| format!("{name:?}"));
        write!(f, "attachment {name}, {}, {} octets", self.media_type, self.content.len())
    }
}

impl Decoded {
    pub fn read(message: &[u8]) -> Decoded {
        let (fields, _) = split(message);
        let lists = |name| {
            fields.iter().filter(move |field| field.is(name)).flat_map(|field| mailboxes(&field.value))
        };
        let mut decoded = Decoded {
            from: lists("From").collect(),
            to: lists("To").collect(),
            cc: lists("Cc").collect(),
            reply_to: lists("Reply-To").collect(),
            fields: fields.iter().map(|field| (field.name.clone(), decode_words(&field.value))).collect(),
            ..Decoded::default()
        };
        decoded.part(message, 0, "text/plain", &mut 0);
        decoded
    }

    /// Reads a part, with its header fields, and the parts in it.
    fn part(&mut self, part: &[u8], depth: usize, default_type: &str, parts: &mut usize) {
        *parts += 1;
        let (fields, body) = split(part);
        let value = |name| fields.iter().find(|field| field.is(name)).map_or("", |field| &field.value[..]);
        let content_type = Parameterized::read(value("Content-Type"));
        let disposition = Parameterized::read(value("Content-Disposition"));
        let media_type = if content_type.value.contains('/') { &content_type.value } else { default_type };

        let boundary = content_type.parameter("boundary").filter(|_| media_type.starts_with("multipart/"));
        if let Some(boundary) = boundary.filter(|_| depth < MAX_DEPTH && *parts < MAX_PARTS) {
            let inner = if media_type == "multipart/digest" { "message/rfc822" } else { "text/plain" };
            for part in parts_between(body, &boundary, MAX_PARTS - *parts) {
                self.part(part, depth + 1, inner, parts);
            }
            return;
        }

        let content = decode_transfer(body, value("Content-Transfer-Encoding"));
        let name = disposition.parameter("filename").or_else(|| content_type.parameter("name"));
        let is_attachment = disposition.value == "attachment" || name.is_some();
        let text = match media_type {
            "text/plain" => Some(&mut self.text),
            "text/html" => Some(&mut self.html),
            _ => None,
        };
        if let Some(text) = text.filter(|text| text.is_none() && !is_attachment) {
            let charset = content_type.parameter("charset").unwrap_or_default();
            *text = Some(decode_charset(&charset, &content).replace("\r\n", "\n"));
            return;
        }
        let content_id = value("Content-ID").trim().trim_start_matches('<').trim_end_matches('>');
        self.attachments.push(Attachment {
            name,
            media_type: media_type.to_owned(),
            content_id: (!content_id.is_empty()).then(|| content_id.to_owned()),
            is_inline: disposition.value == "inline",
            content: content.into_owned(),
        });
    }
}

/// A header field, with its value unfolded and trimmed, but not decoded.
struct Field {
    name: String,
    value: String,
}

impl Field {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

/// Splits a message or a part into its header fields and its body. Lines that are not header fields are skipped.
fn split(part: &[u8]) -> (Vec<Field>, &[u8]) {
    let (header, body) = part.split_at(header_length(part).unwrap_or(part.len()));
    let mut fields: Vec<Field> = Vec::new();
    for line in lines(header) {
        let text = String::from_utf8_lossy(line.trim_ascii_end());
        match (text.starts_with([' ', '\t']), fields.last_mut(), text.split_once(':')) {
            (true, Some(field), _) => {
                field.value.push_str(&text);
            }
            (false, _, Some((name, value))) => {
                fields.push(Field { name: name.trim().to_owned(), value: value.to_owned() });
            }
            _ => {}
        }
    }
    for field in &mut fields {
        field.value = field.value.trim().to_owned();
    }
    (fields, body)
}

/// Splits octets into lines, each with its line ending.
fn lines(mut octets: &[u8]) -> impl Iterator<Item = &[u8]> {
    iter::from_fn(move || {
        let length = memchr(b'\n', octets).map_or(octets.len(), |at| at + 1);
        let (line, rest) = octets.split_at(length);
        octets = rest;
        (!line.is_empty()).then_some(line)
    })
}

/// Returns the parts between the delimiter lines of a multipart body (RFC 2046 §5.1.1), but at most `most` parts.
fn parts_between<'b>(body: &'b [u8], boundary: &str, most: usize) -> Vec<&'b [u8]> {
    let delimiter = format!("--{boundary}");
    let (mut parts, mut start, mut at) = (Vec::new(), None, 0);
    for line in lines(body) {
        let rest = line.strip_prefix(delimiter.as_bytes()).map(<[u8]>::trim_ascii_end);
        let (is_delimiter, is_last) = match rest {
            Some(b"") => (parts.len() + 1 < most, false),
            Some(b"--") => (true, true),
            _ => (false, false),
        };
        if is_delimiter {
            // The line ending before a delimiter belongs to the delimiter.
            parts.extend(start.map(|start: usize| without_line_end(&body[start..at.max(start)])));
            start = (!is_last).then_some(at + line.len());
        }
        at += line.len();
        if is_last {
            return parts;
        }
    }
    parts.extend(start.map(|start| &body[start..]));
    parts
}

fn without_line_end(octets: &[u8]) -> &[u8] {
    let octets = octets.strip_suffix(b"\n").unwrap_or(octets);
    octets.strip_suffix(b"\r").unwrap_or(octets)
}

/// Decodes a body (RFC 2045 §6).
fn decode_transfer<'b>(body: &'b [u8], encoding: &str) -> Cow<'b, [u8]> {
    match encoding.trim().to_ascii_lowercase().as_str() {
        "base64" => decode_base64(body).map_or(Cow::Borrowed(body), Cow::Owned),
        "quoted-printable" => Cow::Owned(decode_quoted_printable(body)),
        _ => Cow::Borrowed(body),
    }
}

/// Decodes base64. Octets that are not part of the alphabet are ignored (RFC 2045 §6.8).
fn decode_base64(text: &[u8]) -> Option<Vec<u8>> {
    let is_base64 = |octet: &u8| octet.is_ascii_alphanumeric() || matches!(octet, b'+' | b'/' | b'=');
    let digits: Vec<u8> = text.iter().copied().filter(is_base64).collect();
    BASE64.decode(digits).ok()
}

fn decode_quoted_printable(body: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(body.len());
    for line in lines(body) {
        // White space at the end of a line must have been added in transit (RFC 2045 §6.7).
        let text = line.trim_ascii_end();
        let end = &line[without_line_end(line).len()..];
        match text.strip_suffix(b"=") {
            Some(text) => decode_hex(text, b'=', &mut decoded),
            None => {
                decode_hex(text, b'=', &mut decoded);
                decoded.extend_from_slice(end);
            }
        }
    }
    decoded
}

/// Decodes octets that are written as a sign and two hexadecimal digits.
fn decode_hex(mut text: &[u8], sign: u8, decoded: &mut Vec<u8>) {
    let digit = |octet: u8| char::from(octet).to_digit(16);
    while let [first, rest @ ..] = text {
        let octet = match rest {
            [high, low, ..] if *first == sign => digit(*high).zip(digit(*low)),
            _ => None,
        };
        match octet {
            Some((high, low)) => {
                decoded.push((high * 16 + low) as u8);
                text = &rest[2..];
            }
            None => {
                decoded.push(*first);
                text = rest;
            }
        }
    }
}

/// Decodes text. A charset other than US-ASCII, UTF-8 and ISO-8859-1 is treated as UTF-8.
fn decode_charset(charset: &str, octets: &[u8]) -> String {
    match charset.to_ascii_lowercase().as_str() {
        "iso-8859-1" | "iso_8859-1" | "latin1" | "l1" => {
            octets.iter().map(|octet| char::from(*octet)).collect()
        }
        _ => String::from_utf8_lossy(octets).into_owned(),
    }
}

/// Decodes the encoded words in text (RFC 2047). White space between two of them is dropped. If they have the same
/// charset, a character may begin in one and end in the next.
fn decode_words(text: &str) -> String {
    let mut decoded = String::with_capacity(text.len());
    // The charset and the octets of the current run of consecutive encoded words.
    let mut run: Option<(String, Vec<u8>)> = None;
    let mut rest = text;
    while !rest.is_empty() {
        let gap = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        let (gap, after) = rest.split_at(gap);
        let word = &after[..after.find([' ', '\t']).unwrap_or(after.len())];
        rest = &after[word.len()..];
        match (encoded_word(word), &mut run) {
            (Some((charset, octets)), Some((own, so_far))) if *own == charset => {
                so_far.extend_from_slice(&octets);
            }
            (Some(next), run) => {
                match run.take() {
                    Some((charset, octets)) => decoded += &decode_charset(&charset, &octets),
                    None => decoded += gap,
                }
                *run = Some(next);
            }
            (None, run) => {
                if let Some((charset, octets)) = run.take() {
                    decoded += &decode_charset(&charset, &octets);
                }
                decoded += gap;
                decoded += word;
            }
        }
    }
    if let Some((charset, octets)) = run {
        decoded += &decode_charset(&charset, &octets);
    }
    decoded
}

/// Returns the charset in lower case and the octets of one encoded word (RFC 2047 §2, RFC 2231 §5 for the language).
fn encoded_word(word: &str) -> Option<(String, Vec<u8>)> {
    let inside = word.strip_prefix("=?")?.strip_suffix("?=")?;
    let mut parts = inside.split('?');
    let (charset, encoding, text) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || charset.is_empty() {
        return None;
    }
    let octets = match encoding {
        "B" | "b" => decode_base64(text.as_bytes())?,
        "Q" | "q" => {
            let mut octets = Vec::with_capacity(text.len());
            decode_hex(text.replace('_', " ").as_bytes(), b'=', &mut octets);
            octets
        }
        _ => return None,
    };
    Some((charset.split('*').next().unwrap_or_default().to_ascii_lowercase(), octets))
}

/// The value of `Content-Type` or `Content-Disposition`: a word in lower case, and parameters.
struct Parameterized {
    value: String,
    /// Names in lower case, and values without their quotes.
    parameters: Vec<(String, String)>,
}

impl Parameterized {
    fn read(text: &str) -> Parameterized {
        let mut pieces = pieces(text).into_iter();
        let value = pieces.next().unwrap_or_default().trim().to_ascii_lowercase();
        let parameters = pieces.filter_map(|piece| {
            let (name, value) = piece.split_once('=')?;
            let value = value.trim();
            let value = match value.strip_prefix('"') {
                Some(quoted) => unescaped(quoted.strip_suffix('"').unwrap_or(quoted)),
                None => value.to_owned(),
            };
            Some((name.trim().to_ascii_lowercase(), value))
        });
        Parameterized { value, parameters: parameters.collect() }
    }

    /// Returns a decoded parameter: `name*` with a charset, numbered sections (RFC 2231), or else `name`. Encoded
    /// words are not allowed in a parameter, but some programs write them.
    fn parameter(&self, name: &str) -> Option<String> {
        let find =
            |name: &str| self.parameters.iter().find(|(own, _)| own == name).map(|(_, value)| &value[..]);
        if let Some(value) = find(&format!("{name}*")) {
            let (charset, text) = extended(value);
            let mut octets = Vec::new();
            decode_hex(text.as_bytes(), b'%', &mut octets);
            return Some(decode_charset(charset, &octets));
        }
        let (mut charset, mut octets) = ("", Vec::new());
        for number in 0.. {
            if let Some(value) = find(&format!("{name}*{number}*")) {
                let mut text = value;
                if number == 0 {
                    (charset, text) = extended(value);
                }
                decode_hex(text.as_bytes(), b'%', &mut octets);
            } else if let Some(value) = find(&format!("{name}*{number}")) {
                octets.extend_from_slice(value.as_bytes());
            } else if number == 0 {
                break;
            } else {
                return Some(decode_charset(charset, &octets));
            }
        }
        find(name).map(decode_words)
    }
}

/// Splits `charset'language'text`.
fn extended(value: &str) -> (&str, &str) {
    let mut parts = value.splitn(3, '\'');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(charset), Some(_), Some(text)) => (charset, text),
        _ => ("", value),
    }
}

/// Splits text at semicolons outside quotes, and removes comments.
fn pieces(text: &str) -> Vec<String> {
    let (mut pieces, mut piece) = (Vec::new(), String::new());
    let (mut quoted, mut escaped, mut comments) = (false, false, 0);
    for c in text.chars() {
        let was_escaped = mem::replace(&mut escaped, false);
        match c {
            '\\' if (quoted || comments > 0) && !was_escaped => escaped = true,
            '"' if comments == 0 && !was_escaped => quoted = !quoted,
            '(' if !quoted && !was_escaped => comments += 1,
            ';' if !quoted && comments == 0 => {
                pieces.push(mem::take(&mut piece));
                continue;
            }
            _ => {}
        }
        if comments == 0 {
            piece.push(c);
        }
        if c == ')' && comments > 0 && !was_escaped {
            comments -= 1;
        }
    }
    pieces.push(piece);
    pieces
}

/// Removes the backslashes of quoted pairs.
fn unescaped(text: &str) -> String {
    let mut unescaped = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        unescaped.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    unescaped
}

/// Returns the mailboxes of an address list as a person would type them. The names of groups are dropped.
fn mailboxes(list: &str) -> Vec<String> {
    let mut reader = Reader::default();
    let mut rest = list;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => enclosed(rest, '"'),
            '[' => enclosed(rest, ']'),
            '(' => comment(rest),
            '<' | '>' | ',' | ';' | ':' | ' ' | '\t' => 1,
            _ => rest.find(['"', '[', '(', '<', '>', ',', ';', ':', ' ', '\t']).unwrap_or(rest.len()),
        };
        let (token, after) = rest.split_at(length);
        reader.take(first, token);
        rest = after;
    }
    reader.end();
    reader.found
}

/// Returns a quoted string or a comment without its delimiters. The closing one may be missing.
fn inside(token: &str, close: char) -> &str {
    token[1..].strip_suffix(close).unwrap_or(&token[1..])
}

/// Returns the length of text up to and including the character that closes it, or the full length if that character is
/// missing.
fn enclosed(text: &str, close: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if mem::replace(&mut escaped, false) => {}
            '\\' => escaped = true,
            _ if c == close => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn comment(text: &str) -> usize {
    let (mut depth, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if mem::replace(&mut escaped, false) => {}
            '\\' => escaped = true,
            '(' => depth += 1,
            ')' if depth == 1 => return at + 1,
            ')' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// Reads one mailbox after another.
#[derive(Default)]
struct Reader {
    found: Vec<String>,
    /// The part of the name that is already decoded.
    name: String,
    /// The words of the name that are not decoded yet.
    words: String,
    /// Whether there was white space after the last word.
    gap: bool,
    /// The text as written: the address, if there are no angle brackets.
    bare: String,
    comment: String,
    angle: Option<String>,
    is_open: bool,
}

impl Reader {
    fn take(&mut self, first: char, token: &str) {
        match first {
            '(' => {
                self.comment = decode_words(unescaped(inside(token, ')')).trim());
            }
            '>' => self.is_open = false,
            '<' => (self.angle, self.is_open) = (Some(String::new()), true),
            _ if self.is_open => self.angle.get_or_insert_default().push_str(token),
            ' ' | '\t' => {
                self.gap = true;
                self.bare.push(' ');
            }
            ',' | ';' => self.end(),
            // The text so far was the name of a group.
            ':' => *self = Reader { found: mem::take(&mut self.found), ..Reader::default() },
            '"' => {
                self.decode();
                self.space();
                self.name += &unescaped(inside(token, '"'));
                self.bare += token;
            }
            _ => {
                if self.words.is_empty() {
                    self.space();
                } else if mem::take(&mut self.gap) {
                    self.words.push(' ');
                }
                self.words += token;
                self.bare += token;
            }
        }
    }

    fn space(&mut self) {
        if mem::take(&mut self.gap) && !self.name.is_empty() {
            self.name.push(' ');
        }
    }

    fn decode(&mut self) {
        self.name += &decode_words(&mem::take(&mut self.words));
    }

    fn end(&mut self) {
        self.decode();
        let Reader { found, name, bare, comment, angle, .. } = mem::take(self);
        self.found = found;
        let (name, address) = match angle {
            Some(address) => (if name.is_empty() { comment } else { name }, address),
            None => (comment, bare),
        };
        let address = address.trim();
        if address.is_empty() && name.is_empty() {
            return;
        }
        // Obsolete syntax allows spaces in an address (RFC 5322 §4.4).
        let mailbox = Mailbox::new(&name, address);
        self.found.push(match mailbox.or_else(|_| Mailbox::new(&name, address.replace(' ', ""))) {
            Ok(mailbox) if mailbox.address().domain().is_some() => mailbox.to_string(),
            _ if name.is_empty() => address.to_owned(),
            _ => format!("{name} <{address}>"),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_words_are_decoded() {
        for (text, decoded) in [
            ("plain", "plain"),
            ("=?utf-8?q?Gr=C3=BC=C3=9Fe_aus?= Hamburg", "Grüße aus Hamburg"),
            ("=?ISO-8859-1?Q?Andr=E9?=  and =?us-ascii?b?Qm9i?=", "André  and Bob"),
            ("=?utf-8?b?SsO2?= =?utf-8?b?cmc=?=", "Jörg"),
            ("=?utf-8?q?J=C3?=\t =?UTF-8?q?=B6rg?=", "Jörg"),
            ("=?utf-8?q?a?= =?iso-8859-1?q?=E4?= b", "aä b"),
            ("=?utf-8*de?q?J=C3=B6rg?=", "Jörg"),
            ("=?utf-8?b?SsO2cmc?=", "Jörg"),
            ("=?utf-8?x?abc?= =?utf-8?q?a?b?= =?", "=?utf-8?x?abc?= =?utf-8?q?a?b?= =?"),
            ("=?utf-8?q?a=FFb=?=", "a\u{fffd}b="),
        ] {
            assert_eq!(decode_words(text), decoded, "{text}");
        }
    }

    #[test]
    fn mailboxes_are_shown_as_people_write_them() {
        for (list, expected) in [
            ("a@x.org", &["a@x.org"][..]),
            ("<a@x.org>, ,", &["a@x.org"]),
            ("=?utf-8?q?J=C3=B6rg?= =?utf-8?q?_M?= <a@x.org>, b@x.org", &["Jörg M <a@x.org>", "b@x.org"]),
            ("\"Doe, J. \\\"X\\\"\" <a@x.org>", &["\"Doe, J. \\\"X\\\"\" <a@x.org>"]),
            ("J. Doe <a@x.org>", &["\"J. Doe\" <a@x.org>"]),
            ("J \"Q\" Doe <a@x.org>", &["J Q Doe <a@x.org>"]),
            ("=?utf-8?q?a=2C_b?= <a@x.org>", &["\"a, b\" <a@x.org>"]),
            ("a@x.org (=?utf-8?q?J=C3=B6rg?=)", &["Jörg <a@x.org>"]),
            ("Team: a@x.org, B <b@x.org>;, c@x.org", &["a@x.org", "B <b@x.org>", "c@x.org"]),
            ("undisclosed-recipients:;", &[]),
            ("\"a b\"@x.org, c@[IPv6:::1]", &["\"a b\"@x.org", "c@[IPv6:::1]"]),
            ("no address", &["no address"]),
            ("a @ x.org", &["a@x.org"]),
            ("Bob <not an address>", &["Bob <not an address>"]),
            ("\"open <a@x.org>", &["\"open <a@x.org>"]),
        ] {
            assert_eq!(mailboxes(list), expected, "{list}");
        }
    }

    #[test]
    fn parameters_are_decoded() {
        let name = |text: &str| Parameterized::read(&format!("attachment; {text}")).parameter("filename");
        for (text, expected) in [
            ("filename=a.txt", "a.txt"),
            ("FileName = \"a;\\\"b.txt\" ; x=y", "a;\"b.txt"),
            ("filename*=utf-8''men%C3%BC.txt; filename=menu.txt", "menü.txt"),
            ("filename*=iso-8859-1'de'men%FC.txt", "menü.txt"),
            ("filename*1=\"b.txt\"; filename*0*=utf-8''a%C3%BC", "aüb.txt"),
            ("filename*0=\"a%\"; filename*1=\"b\"", "a%b"),
            ("filename=\"=?utf-8?q?men=C3=BC.txt?=\"", "menü.txt"),
            ("(a comment; with (a) filename=x) filename=a.txt (comment)", "a.txt"),
            ("filename*=a%20b", "a b"),
            ("filename=\"open", "open"),
        ] {
            assert_eq!(name(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(name("size=1"), None);
        assert_eq!(Parameterized::read("Text/HTML (x); charset=utf-8").value, "text/html");
    }

    #[test]
    fn bodies_are_decoded() {
        for (encoding, body, expected) in [
            ("", "a=3D\r\n", "a=3D\r\n"),
            ("8bit", "ü\r\n", "ü\r\n"),
            ("Base64", "SGVs\r\nbG8=\r\n", "Hello"),
            ("base64", "SGVsbG8", "Hello"),
            ("base64", "S", "S"),
            ("QUOTED-PRINTABLE", "a=3Db=\r\nc=C3=bc \t\r\n=\r\nd=xy=\n", "a=bcü\r\nd=xy"),
        ] {
            assert_eq!(decode_transfer(body.as_bytes(), encoding), expected.as_bytes(), "{body:?}");
        }
    }

    #[test]
    fn the_parts_of_a_message_are_found() {
        let message = "From: a@x.org\nSubject: =?utf-8?q?=C3=BC?=\n  folded\nno field\n\
            Content-Type: multipart/mixed;\n boundary=\"b 1\"\n\npreamble\n--b 1x\n\
            --b 1 \nContent-Type: multipart/alternative; boundary=b\n\n\
            --b\n\nplain =\n--b\nContent-Type: text/html; charset=latin1\n\
            Content-Transfer-Encoding: quoted-printable\n\n<p>=E9\n--b--\nepilogue\n\
            --b 1\nContent-Type: image/PNG; name=i.png\nContent-ID: <i@x>\nContent-Disposition: inline\n\
            Content-Transfer-Encoding: base64\n\nAAE=\n\
            --b 1\nContent-Type: text/plain\nContent-Disposition: attachment\n\nfile\r\n\n\
            --b 1\nContent-Type: message/rfc822\n\nSubject: inner\n\nHi\n--b 1\n\nsecond text\n--b 1--\n";
        let decoded = Decoded::read(message.as_bytes());
        assert_eq!(decoded.fields[1], ("Subject".to_owned(), "ü  folded".to_owned()));
        assert_eq!(decoded.fields.len(), 3);
        assert_eq!(decoded.text.as_deref(), Some("plain ="));
        assert_eq!(decoded.html.as_deref(), Some("<p>é"));
        let shown: Vec<_> = decoded.attachments.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "attachment \"i.png\", image/png, 2 octets",
                "attachment without a name, text/plain, 6 octets",
                "attachment without a name, message/rfc822, 18 octets",
                "attachment without a name, text/plain, 11 octets",
            ]
        );
        assert_eq!(decoded.attachments[0].content(), [0, 1]);
        assert_eq!(decoded.attachments[0].content_id(), Some("i@x"));
        assert!(decoded.attachments[0].is_inline() && !decoded.attachments[1].is_inline());
        assert_eq!(decoded.attachments[2].content(), b"Subject: inner\n\nHi");
    }

    #[test]
    fn malformed_messages_are_decoded_as_far_as_possible() {
        let text = |message: &str| Decoded::read(message.as_bytes()).text;
        assert_eq!(text(""), Some(String::new()));
        assert_eq!(text("\r\nHi\r\n").as_deref(), Some("Hi\n"));
        assert_eq!(text("Content-Type: nonsense\n\nHi").as_deref(), Some("Hi"));
        assert_eq!(text("Content-Type: multipart/mixed; boundary=b\n\n--b\n\nHi").as_deref(), Some("Hi"));
        assert_eq!(text("Content-Type: multipart/mixed; boundary=b\n\nnone"), None);
        // A multipart without a boundary is an attachment.
        let decoded = Decoded::read(b"Content-Type: multipart/mixed\n\nHi");
        assert_eq!((decoded.text, decoded.attachments.len()), (None, 1));
    }

    #[test]
    fn depth_and_number_of_parts_are_limited() {
        let mut deep = String::new();
        for number in 0..1000 {
            deep += &format!("Content-Type: multipart/mixed; boundary=b{number}\n\n--b{number}\n");
        }
        assert_eq!(Decoded::read(deep.as_bytes()).attachments.len(), 1);
        let many = format!("Content-Type: multipart/mixed; boundary=b\n\n{}", "--b\n\nx\n".repeat(20_000));
        let decoded = Decoded::read(many.as_bytes());
        assert!((MAX_PARTS - 3..=MAX_PARTS).contains(&decoded.attachments.len()));
        assert!(decoded.attachments.last().unwrap().content().len() > 10_000);
    }

    #[test]
    fn no_input_makes_the_decoder_panic() {
        const WORDS: [&str; 28] = [
            "From: ",
            "To: ",
            "Subject: ",
            "Content-Type: ",
            "multipart/mixed",
            "; boundary=b",
            "text/plain",
            "Content-Disposition: attachment",
            "; filename*0*=",
            "utf-8''",
            "%C3",
            "=?utf-8?q?",
            "?=",
            "=C3=",
            "\r\n",
            "\n\n",
            "--b\n",
            "--b--",
            " ",
            "\"",
            "\\",
            "(",
            ")",
            "<",
            ">",
            ":",
            "ü",
            "Content-ID: <",
        ];
        let mut random = 1_u64;
        for _ in 0..3_000 {
            let mut message = String::new();
            for _ in 0..40 {
                // xorshift64
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                message += WORDS[(random % 28) as usize];
            }
            Decoded::read(message.as_bytes());
        }
    }
}
