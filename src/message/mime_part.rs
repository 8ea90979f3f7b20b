//! The MIME tree: parts with their headers, and multiparts (RFC 2045, RFC 2046, RFC 2231).
//!
//! File names are encoded here rather than by email-encoding, whose output would change messages that arrive correctly.
//! It writes long ASCII names as quoted continuations, which fewer programs support, adds no plain `filename` for
//! programs without RFC 2231, and leaves names with `=?` or `%` unencoded, which some programs decode.

use std::{borrow::Cow, collections::HashSet, iter, path::PathBuf, sync::Arc};

use memchr::memmem;

use super::{
    attachment::{Attachment, Content},
    bytes::Bytes,
    encoded_stream::Piece,
    encoding::{
        Encoding, MAX_LINE, bytes_with_crlf, has_short_lines, is_eight_bit_text, needs_utf8_charset,
        quoted_length, with_crlf,
    },
    header_reader,
    header_writer::{Field, plain_words, quoted},
    single_use::SingleUse,
    unique_id::unique_id,
};
use crate::Error;

/// Name of the field that says how a part is encoded.
const ENCODING: &str = "Content-Transfer-Encoding";
/// Maximum length of a word of a parameter, in octets.
const MAX_PARAMETER: usize = 72;

/// A part: the fields that describe it, and its content, without any added line ending.
pub(super) struct Part {
    pub fields: Vec<Field>,
    pub content: Vec<Arc<Piece>>,
    pub eight_bit: EightBit,
    /// The text file with the content, and the Content-Type for the case that the file is UTF-8.
    text_file: Option<(PathBuf, Field)>,
}

/// Whether non-ASCII octets are sent. The maximum of several parts applies to all of them together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EightBit {
    Never,
    /// Only if the server offers 8BITMIME; otherwise, they are encoded.
    IfOffered,
    /// Always, because the content must not be encoded.
    Always,
}

impl EightBit {
    /// Returns whether non-ASCII octets are sent, given whether the server offers 8BITMIME.
    pub fn is_sent(self, offered: bool) -> bool {
        self == EightBit::Always || offered && self == EightBit::IfOffered
    }
}

impl Part {
    /// Creates a text part in UTF-8. Line endings become CRLF.
    pub fn text(content_type: &str, text: &str) -> Result<Part, Error> {
        Part::bytes(vec![media_type(content_type)?], Bytes::new(with_crlf(text)))
    }

    /// Creates a `text/calendar` part, with the method that is also in the text (RFC 6047 §2.4).
    pub fn calendar(method: &str, text: &str) -> Result<Part, Error> {
        if method.is_empty() || !method.bytes().all(is_token) {
            return Err(Error::Message(format!("invalid calendar method {method:?}").into()));
        }
        Part::text(&format!("text/calendar; method={method}; charset=utf-8"), text)
    }

    pub fn attachment(attachment: Attachment) -> Result<Part, Error> {
        // A guessed type has no charset, and without one, text is ASCII (RFC 2046 §4.1.2).
        let is_guessed_text =
            attachment.content_type.is_none() && attachment.media_type().starts_with("text/");
        let utf8_text = format!("{}; charset=utf-8", attachment.media_type());
        let (mut content_type, mut text_file) = (media_type(attachment.media_type())?, None);
        match &attachment.content {
            Content::Bytes(bytes) if is_guessed_text && needs_utf8_charset(bytes, false) => {
                content_type = media_type(&utf8_text)?;
            }
            Content::Path(path) if is_guessed_text => {
                text_file = Some((path.clone(), media_type(&utf8_text)?));
            }
            _ => {}
        }
        let fields = attachment_fields(content_type, &attachment)?;
        let kind = attachment.media_type().to_ascii_lowercase();
        // Only message/global and similar types may be encoded (RFC 6532 §3.7, RFC 2046 §5.2).
        let is_message = kind.starts_with("message/") && !kind.starts_with("message/global");
        let piece = match attachment.content {
            Content::Message(message) => {
                let Some(content) = message.pieces_in_ascii() else {
                    return Err(Error::Message(
                        "cannot attach a message with a non-ASCII address (RFC 6532 §3.7)".into(),
                    ));
                };
                let eight_bit = message.eight_bit();
                let fields = with_encoding(fields, Encoding::SevenBit)?;
                return Ok(Part { fields, content, eight_bit, text_file: None });
            }
            Content::Bytes(bytes) if is_message => return Part::message(&kind, fields, bytes),
            _ if is_message => {
                return Err(Error::Message(
                    "a message/… attachment must be given as bytes: it cannot be encoded, so it is checked before sending".into(),
                ));
            }
            Content::Bytes(bytes) => return Part::bytes(fields, bytes),
            Content::Path(path) => Piece::Path(path),
            Content::Reader(reader) => Piece::Reader(SingleUse::new(reader)),
        };
        let fields = with_encoding(fields, Encoding::Base64)?;
        Ok(Part { fields, content: vec![Arc::new(piece)], eight_bit: EightBit::Never, text_file })
    }

    /// Creates a part from the octets of a message, which must not be encoded (RFC 2046 §5.2.1). Line endings become
    /// CRLF.
    fn message(kind: &str, fields: Vec<Field>, bytes: Bytes<'static>) -> Result<Part, Error> {
        let bytes = match bytes_with_crlf(&bytes) {
            Cow::Owned(converted) => Bytes::new(converted),
            Cow::Borrowed(_) => bytes,
        };
        let fail = |why: &str| {
            Err(Error::Message(format!("an attachment of type {kind} must not contain {why}").into()))
        };
        // RFC 2046 §5.2.2 and §5.2.3
        let is_seven_bit =
            ["message/partial", "message/external-body"].iter().any(|other| kind.starts_with(other));
        if !has_short_lines(&bytes, MAX_LINE) {
            return fail("a NUL or a line of more than 998 octets");
        }
        if is_seven_bit && !bytes.is_ascii() {
            return fail("non-ASCII octets");
        }
        let eight_bit = if bytes.is_ascii() { EightBit::Never } else { EightBit::Always };
        let fields = with_encoding(fields, Encoding::SevenBit)?; // `header` replaces it with 8bit if necessary
        let length = bytes.len() as u64;
        let piece = Piece::Bytes { bytes, encoding: Encoding::SevenBit, length, eight_bit: false };
        Ok(Part { fields, content: vec![Arc::new(piece)], eight_bit, text_file: None })
    }

    /// Creates the machine-readable part of a report (RFC 6522 §3).
    pub fn report(kind: &str, fields: &str) -> Result<Part, Error> {
        if kind.is_empty() || !kind.bytes().all(is_token) {
            return Err(Error::Message(format!("invalid report kind {kind:?}").into()));
        }
        if fields.trim().is_empty() || !fields.is_ascii() {
            return Err(Error::Message("the fields of a report are empty or not ASCII".into()));
        }
        let kind = format!("message/{kind}");
        Part::message(&kind, vec![media_type(&kind)?], Bytes::new(fields.to_owned()))
    }

    /// Combines several parts. A single part is returned as it is, except in a `multipart/mixed`.
    pub fn multipart(subtype: &str, mut parts: Vec<Part>) -> Result<Part, Error> {
        if parts.len() == 1 && subtype != "mixed" {
            return Ok(parts.remove(0));
        }
        if subtype != "related" {
            return Part::combined(subtype, &[], parts);
        }
        // RFC 2387 §3.1: `type` is the media type of the first part.
        let root = parts[0].fields[0].value();
        let root = root.split(';').next().unwrap_or_default();
        Part::combined(subtype, &[format!("type=\"{root}\";")], parts)
    }

    /// Combines parts into a multipart with these parameters.
    pub fn combined(subtype: &str, parameters: &[String], parts: Vec<Part>) -> Result<Part, Error> {
        let boundary = boundary(&parts);
        let mut words = vec![format!("multipart/{subtype};")];
        words.extend_from_slice(parameters);
        words.push(format!("boundary=\"{boundary}\""));
        let eight_bit = parts.iter().map(|part| part.eight_bit).max().unwrap_or(EightBit::Never);
        let mut content = Vec::new();
        for (i, part) in parts.into_iter().enumerate() {
            let line_end = if i == 0 { "" } else { "\r\n" };
            content.push(part.header(&format!("{line_end}--{boundary}\r\n")));
            content.extend(part.content);
        }
        content.push(Piece::text(format!("\r\n--{boundary}--")));
        let fields = vec![Field::of_words("Content-Type", &words)?];
        Ok(Part { fields, content, eight_bit, text_file: None })
    }

    /// Combines content and its signature (RFC 1847 §2.1). The octets are a whole part, including its header.
    pub fn signed(protocol: &str, micalg: &str, octets: Vec<u8>, signature: Part) -> Result<Part, Error> {
        let length = octets.len() as u64;
        let bytes = Bytes::new(octets);
        let piece = Piece::Bytes { bytes, encoding: Encoding::SevenBit, length, eight_bit: false };
        let (fields, content) = (Vec::new(), vec![Arc::new(piece)]);
        let signed = Part { fields, content, eight_bit: EightBit::Never, text_file: None };
        let mut parts = [signed, signature];
        let boundary = boundary(&parts);
        let mut content = vec![Piece::text(format!("--{boundary}\r\n"))];
        content.append(&mut parts[0].content);
        content.push(parts[1].header(&format!("\r\n--{boundary}\r\n")));
        content.append(&mut parts[1].content);
        content.push(Piece::text(format!("\r\n--{boundary}--")));
        let words = [
            "multipart/signed;".to_owned(),
            format!("protocol=\"{protocol}\";"),
            format!("micalg={micalg};"),
            format!("boundary=\"{boundary}\""),
        ];
        let fields = vec![Field::of_words("Content-Type", &words)?];
        Ok(Part { fields, content, eight_bit: EightBit::Never, text_file: None })
    }

    /// Encodes text in which lines end in spaces or tabs, as OpenPGP requires (RFC 3156 §3). Attached messages are left
    /// unchanged, because they must not be encoded.
    pub fn without_outer_spaces(mut self) -> Result<Part, Error> {
        let is_message = self.fields[0].value().to_ascii_lowercase().starts_with("message/");
        let [piece] = &mut self.content[..] else { return Ok(self) };
        match Arc::get_mut(piece) {
            Some(Piece::Bytes { bytes, encoding, length, .. })
                if *encoding == Encoding::SevenBit && !is_message && has_outer_spaces(bytes) =>
            {
                (*encoding, *length) = (Encoding::QuotedPrintable, quoted_length(bytes));
                self.fields.retain(|field| !field.name().eq_ignore_ascii_case(ENCODING));
                self.fields = with_encoding(self.fields, Encoding::QuotedPrintable)?;
            }
            _ => {}
        }
        Ok(self)
    }

    /// Returns `start`, followed by the header.
    fn header(&self, start: &str) -> Arc<Piece> {
        let Some((path, content_type)) = &self.text_file else {
            return header(start, &self.fields, self.eight_bit);
        };
        let text = |first: &Field| {
            let fields: String = iter::once(first).chain(&self.fields[1..]).map(Field::as_str).collect();
            format!("{start}{fields}\r\n")
        };
        let (plain, utf8) = (text(&self.fields[0]), text(content_type));
        Arc::new(Piece::TextFile { path: path.clone(), plain, utf8 })
    }

    fn bytes(fields: Vec<Field>, bytes: Bytes<'static>) -> Result<Part, Error> {
        let (encoding, length) = Encoding::choose(&bytes);
        let is_text = fields[0].value().get(..5).is_some_and(|kind| kind.eq_ignore_ascii_case("text/"));
        let eight_bit = is_text && is_eight_bit_text(&bytes);
        let piece = Piece::Bytes { bytes, encoding, length, eight_bit };
        let eight_bit = if eight_bit { EightBit::IfOffered } else { EightBit::Never };
        let fields = with_encoding(fields, encoding)?;
        Ok(Part { fields, content: vec![Arc::new(piece)], eight_bit, text_file: None })
    }
}

/// Returns `start`, the fields and the empty line. If the part has 8-bit text, the 8-bit form is labelled as such, as
/// is that of every part around it (RFC 2045 §6.4).
pub(super) fn header(start: &str, fields: &[Field], eight_bit: EightBit) -> Arc<Piece> {
    let all = |fields: &mut dyn Iterator<Item = &Field>| fields.map(Field::as_str).collect::<String>();
    let seven = format!("{start}{}\r\n", all(&mut fields.iter()));
    let others = &mut fields.iter().filter(|field| !field.name().eq_ignore_ascii_case(ENCODING));
    let eight = format!("{start}{}{ENCODING}: 8bit\r\n\r\n", all(others));
    Arc::new(match eight_bit {
        EightBit::Never => Piece::Text(seven, None),
        EightBit::IfOffered => Piece::Text(seven, Some(eight)),
        EightBit::Always => Piece::Text(eight, None),
    })
}

/// Returns a boundary that occurs in none of the parts: encoded parts have no `=_`, and the others are searched.
fn boundary(parts: &[Part]) -> String {
    loop {
        let boundary = format!("=_{}", unique_id());
        let mut plain = parts.iter().flat_map(|part| &part.content).filter_map(|piece| piece.plain());
        if !plain.any(|text| memmem::find(text, boundary.as_bytes()).is_some()) {
            return boundary;
        }
    }
}

/// Returns whether any line ends in a space or a tab.
fn has_outer_spaces(bytes: &[u8]) -> bool {
    bytes.split(|byte| *byte == b'\n').any(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        line.ends_with(b" ") || line.ends_with(b"\t")
    })
}

/// Checks the parameters of a `multipart/signed`.
pub(super) fn check_protocol(protocol: &str, micalg: &str) -> Result<(), Error> {
    media_type(protocol)?;
    if protocol.contains([';', ' ']) {
        return Err(Error::Message(format!("invalid signature protocol {protocol:?}").into()));
    }
    if micalg.is_empty() || !micalg.bytes().all(is_token) {
        return Err(Error::Message(format!("invalid hash name {micalg:?}").into()));
    }
    Ok(())
}

fn with_encoding(mut fields: Vec<Field>, encoding: Encoding) -> Result<Vec<Field>, Error> {
    fields.push(Field::of_words(ENCODING, &[encoding.name().to_owned()])?);
    Ok(fields)
}

/// Checks the Content-Type of a part that is not a multipart: `type/subtype; name=value; name="any value"` (RFC 2045
/// §5.1).
fn media_type(text: &str) -> Result<Field, Error> {
    let fail = |why: &str| Error::Message(format!("invalid Content-Type {text:?}: {why}").into());
    if text.bytes().any(|byte| byte != b' ' && !byte.is_ascii_graphic()) {
        return Err(fail("not printable ASCII"));
    }
    let (name, mut parameters) = text.split_at(text.find(';').unwrap_or(text.len()));
    let (kind, subtype) = name.trim_end_matches(' ').split_once('/').ok_or_else(|| fail("no subtype"))?;
    if kind.is_empty() || subtype.is_empty() || !kind.bytes().chain(subtype.bytes()).all(is_token) {
        return Err(fail("the type or subtype is not a token"));
    }
    if kind.eq_ignore_ascii_case("multipart") {
        return Err(fail("an attachment cannot be a multipart"));
    }
    let mut seen = HashSet::new();
    while let Some(parameter) = parameters.strip_prefix(';') {
        let (name, value) = parameter.split_once('=').ok_or_else(|| fail("a parameter has no value"))?;
        let name = name.trim_start_matches(' ').to_ascii_lowercase();
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(fail("a parameter name is not a token"));
        }
        if !seen.insert(name) {
            return Err(fail("duplicate parameter"));
        }
        let length = value_length(value)
            .ok_or_else(|| fail("a parameter value is neither a token nor a quoted string"))?;
        parameters = value[length..].trim_start_matches(' ');
    }
    match parameters {
        "" => Field::of_words("Content-Type", &plain_words(text)),
        _ => Err(fail("unexpected text after a parameter value")),
    }
}

/// Returns the length of a parameter's value: a token, or a quoted string.
fn value_length(text: &str) -> Option<usize> {
    if !text.starts_with('"') {
        let length = text.bytes().take_while(|byte| is_token(*byte)).count();
        return Some(length).filter(|length| *length > 0);
    }
    header_reader::token_length(text.as_bytes())
}

/// `token` (RFC 2045 §5.1).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&byte)
}

fn attachment_fields(content_type: Field, attachment: &Attachment) -> Result<Vec<Field>, Error> {
    let disposition = if attachment.is_inline { "inline" } else { "attachment" };
    let mut words = vec![disposition.to_owned()];
    if let Some(name) = attachment.file_name.as_deref().filter(|name| !name.is_empty()) {
        words[0].push(';');
        words.append(&mut file_name(name)?);
    }
    let mut fields = vec![content_type, Field::of_words("Content-Disposition", &words)?];
    if let Some(id) = &attachment.content_id {
        let id = id.strip_prefix('<').and_then(|id| id.strip_suffix('>')).unwrap_or(id);
        // Forwarded messages have ids that contain file names: `image(2).png@01D5`.
        let is_bad = |byte: u8| !byte.is_ascii_graphic() || b"<>\"\\".contains(&byte);
        if id.is_empty() || id.bytes().any(is_bad) {
            return Err(Error::Message(format!("invalid Content-ID {id:?}").into()));
        }
        fields.push(Field::of_words("Content-ID", &[format!("<{id}>")])?);
    }
    Ok(fields)
}

/// Writes the `filename` parameter. If the name is not short, plain ASCII, it is percent-encoded (RFC 2231 §4),
/// followed by a readable name for programs without RFC 2231. Programs that support it use the encoded name.
fn file_name(name: &str) -> Result<Vec<String>, Error> {
    if name.chars().any(char::is_control) {
        return Err(Error::Message(format!("control character in the file name {name:?}").into()));
    }
    let is_plain = |c: char| c == ' ' || c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%');
    let is_short = name.len() + "filename=\"\"".len() <= MAX_PARAMETER;
    // Some programs collapse spaces, or decode text that looks like an encoded word.
    let is_odd = name.starts_with(' ') || name.ends_with(' ') || name.contains("  ") || name.contains("=?");
    if name.chars().all(is_plain) && is_short && !is_odd {
        return Ok(vec![format!("filename={}", quoted(name))]);
    }
    let mut sections = sections(name);
    let mut words: Vec<String> = match &sections[..] {
        [one] => vec![format!("filename*={one};")],
        _ => sections.drain(..).enumerate().map(|(i, one)| format!("filename*{i}*={one};")).collect(),
    };
    words.push(format!("filename={}", quoted(&readable(name))));
    Ok(words)
}

/// Percent-encodes a name in sections, without splitting a character.
fn sections(name: &str) -> Vec<String> {
    let mut sections = vec!["utf-8''".to_owned()];
    for c in name.chars() {
        let mut encoded = String::new();
        for byte in c.encode_utf8(&mut [0; 4]).bytes() {
            match byte {
                b'.' | b'-' | b'_' => encoded.push(char::from(byte)),
                _ if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
                _ => encoded.push_str(&format!("%{byte:02X}")),
            }
        }
        match sections.last_mut() {
            Some(last) if last.len() + encoded.len() + "filename*999*=;".len() <= MAX_PARAMETER => {
                last.push_str(&encoded);
            }
            _ => sections.push(encoded),
        }
    }
    sections
}

/// Returns an ASCII approximation of the name, shortened if necessary, with its extension.
fn readable(name: &str) -> String {
    const MAX_READABLE: usize = 50;
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_+()".contains(c) { c } else { '_' };
    let text: String = name.chars().map(plain).collect();
    match text.rsplit_once('.') {
        _ if text.len() <= MAX_READABLE => text,
        Some((stem, end)) if end.len() <= 10 && !stem.is_empty() => {
            format!("{}.{end}", &stem[..stem.len().min(MAX_READABLE - 1 - end.len())])
        }
        _ => text[..MAX_READABLE].to_owned(),
    }
}

/// Returns the line ending to append to the body of a message, in each of its forms, so that it ends as SMTP requires.
pub(super) fn line_end(content: &[Arc<Piece>]) -> Option<Arc<Piece>> {
    let last = content.last()?;
    let [seven, eight] = [false, true].map(|eight| if last.ends_line(eight) { "" } else { "\r\n" });
    let piece = Piece::Text(seven.to_owned(), Some(eight.to_owned()));
    (seven != eight || !seven.is_empty()).then(|| Arc::new(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_that_mail_clients_could_alter_is_percent_encoded() {
        for name in ["a.txt", "a b.txt", "a=b.txt", "a?.txt"] {
            assert_eq!(file_name(name).unwrap(), [format!("filename={}", quoted(name))]);
        }
        for name in [" a", "a ", "a  b", "=?utf-8?q?a?=", "a\"b", "a\\b", "a%b", "\u{fc}"] {
            let words = file_name(name).unwrap();
            assert!(words.len() == 2 && words[0].starts_with("filename*=utf-8''"), "{words:?}");
        }
        assert!(matches!(file_name("a\nb"), Err(Error::Message(_))));
    }

    #[test]
    fn no_character_is_split_between_file_name_sections() {
        let name = "x語👍".repeat(20);
        let sections = sections(&name);
        assert!(sections.len() > 5 && sections[0].starts_with("utf-8''x%E8%AA%9E%F0%9F%91%8D"));
        for section in &sections {
            let encoded = section.trim_start_matches("utf-8''").replace('x', "");
            let bytes: Vec<u8> =
                encoded.split('%').skip(1).map(|hex| u8::from_str_radix(hex, 16).unwrap()).collect();
            assert!(String::from_utf8(bytes).is_ok(), "{section}");
            assert!(section.len() + " filename*99*=;".len() <= 78);
        }
    }

    #[test]
    fn an_ascii_fallback_file_name_keeps_its_extension() {
        for (name, expected) in [
            ("Größe.pdf", "Gr__e.pdf"),
            ("a/b c.txt", "a_b_c.txt"),
            ("...", "..."),
            (&format!("{}.pdf", "ä".repeat(100)), &format!("{}.pdf", "_".repeat(46))),
            (&"x".repeat(100), &"x".repeat(50)),
            (&format!(".{}", "x".repeat(100)), &format!(".{}", "x".repeat(49))),
        ] {
            assert_eq!(readable(name), expected);
        }
    }

    #[test]
    fn boundaries_are_unique_and_at_most_70_octets_long() {
        let part = || Part::text("text/plain", "--=_0123\n--\n").unwrap();
        let (one, other) = (boundary(&[part()]), boundary(&[part()]));
        assert!(one.starts_with("=_") && one.len() <= 70 && one != other);
    }

    #[test]
    fn a_valid_content_type_is_sent_unchanged() {
        for text in [
            "text/plain",
            "application/vnd.a+b; x=\"y  z\"",
            "text/x-a ; charset=utf-8",
            "a/b;x=y; z*0*=utf-8''%20",
        ] {
            assert_eq!(media_type(text).unwrap().value(), text);
        }
        for text in [
            "",
            "text",
            "/",
            "text/",
            "/plain",
            "text/pl ain",
            "a/b/c",
            "multipart/mixed",
            "text/plain; ü",
            "a/b; x=\"y",
            "a/b; x=\"y\\\"",
            "text/plain;",
            "text/plain; charset",
            "text/plain; charset=",
            "text/plain; =utf-8",
            "text/plain; charset=utf-8 x",
            "text/plain; charset=utf-8, x=y",
            "text/plain; charset=a; Charset=b",
            "text/plain; charset=\"utf-8\"x",
            "text/plain; name=a b",
        ] {
            assert!(matches!(media_type(text), Err(Error::Message(_))), "{text}");
        }
    }

    #[test]
    fn a_line_ending_is_added_only_to_a_body_without_one() {
        assert!(line_end(&[Piece::text("a\r\n")]).is_none() && line_end(&[]).is_none());
        assert_eq!(line_end(&[Piece::text("a")]).and_then(|piece| piece.length(false)), Some(2));
    }

    #[test]
    fn a_message_attached_as_bytes_is_not_encoded() {
        let part = |bytes: &'static [u8]| {
            Part::attachment(Attachment::bytes("", bytes.to_vec()).content_type("message/rfc822"))
        };
        let written = |part: &Part| match &*part.header("") {
            Piece::Text(text, None) => text.clone(),
            _ => panic!("the header has only one form"),
        };
        let seven = part(b"From: a@example.org\n\nHello\r\n.\r\rx").unwrap();
        assert!(written(&seven).contains("Content-Transfer-Encoding: 7bit\r\n"));
        assert_eq!(seven.content[0].plain().unwrap(), b"From: a@example.org\r\n\r\nHello\r\n.\r\n\r\nx");
        let eight = part("From: a@example.org\n\nGrüße\n".as_bytes()).unwrap();
        assert!(written(&eight).contains("Content-Transfer-Encoding: 8bit\r\n"));
        assert_eq!(eight.eight_bit, EightBit::Always);
        assert!(part(b"a\0").is_err() && part(&[b'x'; 999]).is_err() && part(&[b'x'; 998]).is_ok());
        let partial = Attachment::bytes("", "ü").content_type("message/partial; id=\"a\"; number=1");
        assert!(Part::attachment(partial).is_err());
        let global = Attachment::bytes("", "Subject: ü\n\nü\n").content_type("message/global");
        assert!(written(&Part::attachment(global).unwrap()).contains("base64"));
    }

    #[test]
    fn a_content_id_may_be_bracketed_and_contain_parentheses() {
        let id = |id: &str| {
            let part = Part::attachment(Attachment::bytes("", "x").content_id(id)).ok()?;
            Some(part.fields.iter().find(|field| field.name() == "Content-ID")?.value())
        };
        for (given, sent) in
            [("a", "<a>"), ("<a@b>", "<a@b>"), ("image(2).png@01D5$", "<image(2).png@01D5$>")]
        {
            assert_eq!(id(given).as_deref(), Some(sent));
        }
        for bad in ["", "<>", "<a", "a>", "a b", "ü", "a\"", "a\r\nb"] {
            assert_eq!(id(bad), None, "{bad:?}");
        }
    }
}
