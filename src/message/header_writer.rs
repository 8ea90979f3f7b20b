//! Header fields: built from words into folded lines that email-format can parse (RFC 5322 §2.2, RFC 2047).

use std::{borrow::Cow, iter, time::SystemTime};

use email_encoding::headers::{rfc2047, writer::EmailWriter};
use email_format::rfc5322::{Field as Parsed, Parsable, ResentField};

use super::{
    date,
    mailbox::{self, Item, Mailbox, Mailboxes},
    unique_id::unique_id,
};
use crate::Error;

/// Maximum length of a line that can be folded (RFC 5322 §2.1.1), in octets without its line ending.
const MAX_LINE: usize = 78;
/// Maximum length of any line, in octets without its line ending.
const MAX_LONG_LINE: usize = 998;
/// The field that asks for a read receipt (RFC 8098 §2.1), which email-format does not know.
const RECEIPT_TO: &str = "Disposition-Notification-To";
/// Error text for an invalid `List-Unsubscribe`.
const NO_URIS: &str = "not a list of URIs in angle brackets (RFC 2369)";
/// Maximum length of a field name, in octets.
const MAX_NAME: usize = 76;
/// Maximum nesting of comments: email-format needs a stack frame for each level.
const MAX_NESTED_COMMENTS: usize = 20;
/// Maximum length of a word that stays unencoded although it cannot be folded, in octets: programs may read it.
const MAX_WORD: usize = 900;

/// RFC 5322 §3.3 begins with the year 1900; after 9999, years have five digits, which few programs expect.
pub(super) const BAD_YEAR: &str = "the year is not between 1900 and 9999";

/// Fields whose first word stays on the line of the name even if that line becomes longer than [`MAX_LINE`]: several
/// receivers do not find an identifier that is alone on the next line.
const UNFOLDED: [&str; 5] = ["Message-ID", "Resent-Message-ID", "In-Reply-To", "References", "Content-ID"];

/// A header field as it is sent: folded, with its CRLF.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    text: String,
    name: usize,
    /// The field with A-labels for domains, if it is not ASCII but can be converted to it.
    ascii: Option<Box<str>>,
}

/// The value that a field is built from.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Text(String),
    Mailboxes(Mailboxes),
    Uris(Vec<String>),
    /// A time, and the time zone in minutes east of UTC.
    Date(SystemTime, i32),
}

/// The syntax of a field, by its name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Mailboxes,
    /// The identifier of this message.
    Id,
    /// Identifiers of other messages, valid or not.
    References,
    Date,
    /// Phrases separated by commas.
    Phrases,
    /// URIs in angle brackets, separated by commas.
    Uris,
    /// Fields about the content that only the builder may write.
    Content,
    Text,
}

impl Kind {
    pub fn of(name: &str) -> Kind {
        match &name.to_ascii_lowercase()[..] {
            "from" | "sender" | "reply-to" | "to" | "cc" | "bcc" => Kind::Mailboxes,
            "resent-from" | "resent-sender" | "resent-to" | "resent-cc" | "resent-bcc" => Kind::Mailboxes,
            "disposition-notification-to" => Kind::Mailboxes,
            "message-id" | "resent-message-id" => Kind::Id,
            "in-reply-to" | "references" => Kind::References,
            "date" | "resent-date" => Kind::Date,
            "keywords" => Kind::Phrases,
            "list-unsubscribe" => Kind::Uris,
            "mime-version" | "content-type" | "content-transfer-encoding" => Kind::Content,
            "content-disposition" | "content-id" | "content-length" | "content-md5" => Kind::Content,
            _ => Kind::Text,
        }
    }
}

impl Field {
    /// Creates a field of the message itself; `None` if it would be empty and can be left out.
    pub fn new(name: &str, value: &Value) -> Result<Option<Field>, Error> {
        if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_name) {
            return Err(Error::Message(format!("invalid header name {name:?}").into()));
        }
        let fail = |why: Cow<'_, str>| Error::Message(format!("invalid header {name}: {why}").into());
        let words = match value {
            Value::Mailboxes(mailboxes) => return Field::of_mailboxes(name, mailboxes),
            Value::Uris(uris) => uri_words(uris).map_err(fail)?,
            Value::Date(_, zone) if zone.unsigned_abs() >= 24 * 60 => {
                return Err(fail("the time zone is a day or more away from UTC".into()));
            }
            Value::Date(time, zone) => {
                let text = date::local_date_time(*time, *zone).ok_or_else(|| fail(BAD_YEAR.into()))?;
                plain_words(&text)
            }
            Value::Text(text) => text_words(name, text).map_err(fail)?,
        };
        if !words.is_empty() {
            Field::of_words(name, &words).map(Some)
        } else if Kind::of(name) == Kind::Text && !name.eq_ignore_ascii_case("Subject") {
            Err(fail("the value is empty".into()))
        } else {
            Ok(None)
        }
    }

    /// Creates a field of mailboxes; `None` if there are none.
    fn of_mailboxes(name: &str, mailboxes: &Mailboxes) -> Result<Option<Field>, Error> {
        let header = Some(name.to_owned());
        let items = match mailboxes.read() {
            Err(Error::Address { input, why, .. }) => return Err(Error::Address { input, why, header }),
            read => read?,
        };
        if let Some(local) = items.iter().find_map(Item::without_domain) {
            return Err(Error::Address { input: local.to_string(), why: "no @", header });
        }
        // RFC 8098 §2.1: a list of mailboxes.
        if name.eq_ignore_ascii_case(RECEIPT_TO) && items.contains(&Item::GroupEnd) {
            let why = "a group, not a single address";
            return Err(Error::Address { input: mailboxes.written(), why, header });
        }
        let words = address_words(&items)
            .map_err(|why| Error::Message(format!("invalid header {name}: {why}").into()))?;
        if words.is_empty() {
            return Ok(None);
        }
        let mut field = Field::of_words(name, &words)?;
        field.ascii = in_ascii(name, &field, &items);
        Ok(Some(field))
    }

    /// Creates a field from words separated by spaces, and folds it where a line would be too long.
    pub fn of_words(name: &str, words: &[String]) -> Result<Field, Error> {
        let field = Field { text: folded(name, words), name: name.len(), ascii: None };
        field.check()?;
        Ok(field)
    }

    /// Folds a line written by email-format, which itself does not fold and leaves no line endings in the line.
    pub fn refolded(line: &str) -> Field {
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let words = match Kind::of(name) {
            Kind::References => {
                plain_words(value).into_iter().flat_map(|word| split_identifiers(&word)).collect()
            }
            _ => plain_words(value),
        };
        let folded = if is_nested_too_deep(value) { None } else { Field::of_words(name, &words).ok() };
        folded.unwrap_or_else(|| Field { text: format!("{line}\r\n"), name: name.len(), ascii: None })
    }

    /// Creates a field with the current date-time.
    pub fn now(name: &str) -> Result<Field, Error> {
        let now = date::date_time(SystemTime::now());
        let now = now.ok_or_else(|| Error::Message(format!("invalid header {name}: {BAD_YEAR}").into()))?;
        Field::of_words(name, &plain_words(&now))
    }

    /// Creates a field with a new, unique message identifier.
    pub fn unique_id(name: &str, domain: &str) -> Result<Field, Error> {
        Field::of_words(name, &[format!("<{}@{domain}>", unique_id())])
    }

    pub fn name(&self) -> &str {
        &self.text[..self.name]
    }

    /// Returns the value, unfolded.
    pub fn value(&self) -> String {
        self.text[self.name + 1..].replace("\r\n", "").trim_matches(' ').to_owned()
    }

    /// Returns the field as it is sent.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the field in ASCII, if that is possible.
    pub fn to_ascii(&self) -> Option<Field> {
        match &self.ascii {
            Some(ascii) => Some(Field { text: ascii.to_string(), ..self.clone() }),
            None => self.text.is_ascii().then(|| self.clone()),
        }
    }

    /// Returns whether the field is `Bcc` or `Resent-Bcc`, which is not sent.
    pub fn is_bcc(&self) -> bool {
        ["Bcc", "Resent-Bcc"].iter().any(|name| self.name().eq_ignore_ascii_case(name))
    }

    /// Checks that email-format parses the whole field as the kind that its name implies. It would parse an invalid
    /// field as an optional field.
    fn check(&self) -> Result<(), Error> {
        let name = self.name();
        if self.text.split("\r\n").any(|line| line.len() > MAX_LONG_LINE) {
            return Err(Error::Message(
                format!("invalid header {name}: a word does not fit on a line of 998 octets").into(),
            ));
        }
        // Identifiers of other messages are sent as they appear in those messages.
        if Kind::of(name) == Kind::References {
            return Ok(());
        }
        // Non-ASCII letters are allowed in addresses wherever ASCII letters are (RFC 6532 §3.2), but email-format
        // knows only ASCII.
        let stand_in = match Kind::of(name) {
            Kind::Mailboxes => self.text.chars().map(|c| if c.is_ascii() { c } else { 'x' }).collect(),
            _ => Cow::Borrowed(&self.text[..]),
        };
        let text = stand_in.as_bytes();
        let is_read = match Parsed::parse(text) {
            Ok((Parsed::OptionalField(_), b"")) => !is_structured(name) || is_resent(text),
            Ok((_, rest)) => rest.is_empty(),
            Err(_) => false,
        };
        if is_read {
            return Ok(());
        }
        Err(Error::Message(
            format!("the header {name} cannot have the value {:?} (RFC 5322 §3.6)", self.value()).into(),
        ))
    }
}

/// Writes a field from words separated by spaces, and folds it where a line would be too long.
pub(super) fn folded(name: &str, words: &[String]) -> String {
    let mut text = format!("{name}:");
    let mut column = text.len();
    let is_unfolded = UNFOLDED.iter().any(|other| other.eq_ignore_ascii_case(name));
    for (at, word) in words.iter().enumerate() {
        let limit = if at == 0 && is_unfolded { MAX_LONG_LINE } else { MAX_LINE };
        if column + 1 + word.len() > limit {
            text.push_str("\r\n");
            column = 0;
        }
        text.push(' ');
        text.push_str(word);
        column += 1 + word.len();
    }
    text.push_str("\r\n");
    text
}

/// Converts text to the words of a field, depending on the syntax of the field.
fn text_words(name: &str, text: &str) -> Result<Vec<String>, Cow<'static, str>> {
    if reads_comments(name) && is_nested_too_deep(text) {
        return Err("comments are nested too deeply".into());
    }
    let kind = Kind::of(name);
    if kind == Kind::References {
        return Ok(reference_words(name, text)?);
    }
    if text.chars().any(char::is_control) {
        return Err("control character".into());
    }
    match kind {
        Kind::Content => Err("it is set automatically and cannot be overridden".into()),
        Kind::Id => Ok(text.split(' ').filter(|id| !id.is_empty()).map(bracketed).collect()),
        Kind::Phrases => {
            let phrases = mailbox::split_phrases(text)?;
            Ok(comma_separated(phrases.iter().map(|name| phrase(name))))
        }
        Kind::Uris => uri_words(&uris(text).ok_or(NO_URIS)?),
        Kind::Date if !date::has_known_year(text) => Err(BAD_YEAR.into()),
        Kind::Mailboxes | Kind::Date => Ok(plain_words(text)),
        Kind::Text | Kind::References => Ok(unstructured(name, text)),
    }
}

fn uri_words(uris: &[String]) -> Result<Vec<String>, Cow<'static, str>> {
    match uris.iter().find(|uri| !is_uri(uri)) {
        Some(uri) => Err(format!("invalid URI {uri:?}").into()),
        // A comma separates URIs (RFC 2369 §2).
        None => Ok(comma_separated(uris.iter().map(|uri| vec![format!("<{}>", uri.replace(',', "%2C"))]))),
    }
}

/// Whether email-format knows the syntax of the field.
fn is_structured(name: &str) -> bool {
    match Kind::of(name) {
        Kind::Mailboxes => !name.eq_ignore_ascii_case(RECEIPT_TO),
        Kind::Id | Kind::Date => true,
        // email-format does not parse commas in `Keywords`.
        Kind::References | Kind::Phrases | Kind::Uris | Kind::Content | Kind::Text => false,
    }
}

/// Whether a parser looks for comments in the value of this field: email-format here, or a recipient's program, which
/// may have an equally small stack.
fn reads_comments(name: &str) -> bool {
    is_structured(name)
        || Kind::of(name) == Kind::References
        || ["Received", "Return-Path"].iter().any(|other| name.eq_ignore_ascii_case(other))
}

/// Whether comments may be nested too deeply for email-format. This is an upper bound: no parser finds more levels,
/// whatever it takes for a comment, a quoted string or a literal.
pub(super) fn is_nested_too_deep(text: &str) -> bool {
    let (mut depth, mut escaped) = (0_usize, false);
    text.bytes().any(|byte| {
        match byte {
            b'(' => depth += 1,
            b')' if !escaped => depth = depth.saturating_sub(1),
            _ => {}
        }
        escaped = byte == b'\\' && !escaped;
        depth > MAX_NESTED_COMMENTS
    })
}

fn is_resent(text: &[u8]) -> bool {
    matches!(ResentField::parse(text), Ok((_, b"")))
}

/// `ftext` (RFC 5322 §3.6.8).
fn is_name(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b':'
}

/// Whether a URI can be put in angle brackets (RFC 2369 §2).
fn is_uri(uri: &str) -> bool {
    uri.contains(':') && uri.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"".contains(&byte))
}

/// Parses `<uri>, <uri>`. A comma in brackets is part of its URI. Comments are not supported.
pub(super) fn uris(text: &str) -> Option<Vec<String>> {
    let (mut uris, mut rest) = (Vec::new(), text.trim_matches(' '));
    loop {
        let (uri, after) = rest.strip_prefix('<')?.split_once('>')?;
        uris.push(uri.trim_matches(' ').to_owned());
        rest = after.trim_start_matches(' ');
        if rest.is_empty() {
            return Some(uris);
        }
        rest = rest.strip_prefix(',')?.trim_start_matches(' ');
    }
}

/// Returns the ASCII form of an address field; `None` if the field is already ASCII or cannot be converted.
fn in_ascii(name: &str, field: &Field, items: &[Item]) -> Option<Box<str>> {
    if field.text.is_ascii() {
        return None;
    }
    let items = items.iter().map(Item::in_ascii).collect::<Option<Vec<_>>>()?;
    let field = Field::of_words(name, &address_words(&items).ok()?).ok()?;
    field.text.is_ascii().then(|| field.text.into())
}

/// Splits the identifiers of other messages into words. Those in angle brackets are sent unchanged, even if they break
/// the grammar; bare ones get brackets. Those that are not printable ASCII, or do not fit on a line, are left out: a
/// reply must not fail because of an invalid identifier in the message that it answers.
fn reference_words(name: &str, text: &str) -> Result<Vec<String>, &'static str> {
    let text = unfolded(text.trim_end_matches(['\r', '\n']));
    if text.contains(['\r', '\n']) {
        return Err("line break");
    }
    let written: Vec<&str> = text.split([' ', '\t']).filter(|word| !word.is_empty()).collect();
    let mut words = Vec::new();
    for word in &written {
        let (good, bad): (Vec<_>, Vec<_>) = split_identifiers(word).into_iter().partition(|id| {
            id.len() < MAX_LONG_LINE - name.len() - 1 && id.bytes().all(|b| b.is_ascii_graphic())
        });
        for id in bad {
            let shown: String = id.chars().take(MAX_NAME).collect();
            log::warn!(target: "postino", "omitted an invalid identifier from the header {name}: {shown:?}");
        }
        let whole = good.concat();
        if whole.contains(['<', '>']) {
            words.extend(join_if_short(good));
        } else if whole.contains('@') || written.len() == 1 {
            words.extend(whole.split(',').filter(|id| !id.is_empty()).map(bracketed));
        } else if !whole.is_empty() {
            words.push(whole); // part of a phrase, such as `Your message of Friday`
        }
    }
    Ok(words)
}

/// Removes line endings before white space (RFC 5322 §2.2.3).
fn unfolded(text: &str) -> Cow<'_, str> {
    if !text.contains(['\r', '\n']) {
        return Cow::Borrowed(text);
    }
    let mut out = text.to_owned();
    for fold in ["\r\n ", "\r\n\t", "\n ", "\n\t"] {
        out = out.replace(fold, " ");
    }
    Cow::Owned(out)
}

/// Splits `<a><b>` into `<a>` and `<b>`. Text around the brackets is kept.
fn split_identifiers(word: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut rest = word;
    while let Some(at) = rest.find("><") {
        let (id, after) = rest.split_at(at + 1);
        out.push(id.to_owned());
        rest = after;
    }
    out.push(rest.to_owned());
    out
}

/// Joins identifiers written without spaces between them, unless the result is too long for a line.
fn join_if_short(ids: Vec<String>) -> Vec<String> {
    let whole = ids.concat();
    if whole.len() < MAX_LONG_LINE { vec![whole] } else { ids }
}

/// `atext` (RFC 5322 §3.2.3).
pub(super) fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

/// Quotes text, with backslashes where necessary.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Adds angle brackets to an identifier, unless it already has them.
fn bracketed(id: &str) -> String {
    if id.starts_with('<') { id.to_owned() } else { format!("<{id}>") }
}

/// Splits at spaces. All but the first of repeated spaces stay with the next word. Outer spaces are dropped.
pub(super) fn plain_words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut spaces = String::new();
    for word in text.trim_matches(' ').split(' ') {
        match word {
            "" => spaces.push(' '),
            _ => words.push(std::mem::take(&mut spaces) + word),
        }
    }
    words
}

/// Splits a text into encoded words (RFC 2047 §2) of at most 75 octets, without splitting a character. The first one
/// fits on a line that is already at `column`.
fn encoded_words(text: &str, column: usize) -> Vec<String> {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = rfc2047::encode(text, &mut EmailWriter::new(&mut out, column, 0, false));
    out.split("\r\n ").map(str::to_owned).collect()
}

/// Encodes free text. Words that are not ASCII, or look like encoded words, are encoded, as are spaces that folding
/// would lose. Adjacent encoded words are decoded as one text, so the spaces between them are encoded with them.
fn unstructured(name: &str, text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split(' ').collect();
    let is_odd = |i: usize| {
        let around = i.checked_sub(1).into_iter().chain([i, i + 1]);
        let is_spaced = around.filter_map(|i| words.get(i)).any(|word| word.is_empty());
        is_spaced || !words[i].is_ascii() || words[i].contains("=?") || words[i].len() > MAX_WORD
    };
    if text.trim_matches(' ').is_empty() {
        return Vec::new();
    }
    let odd: Vec<bool> = (0..words.len()).map(is_odd).collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let run = odd[at..].iter().take_while(|odd| **odd).count();
        match run {
            0 => out.push(words[at].to_owned()),
            _ => {
                let column = if at == 0 { (name.len() + 2).min(MAX_LINE / 2) } else { 0 };
                out.append(&mut encoded_words(&words[at..at + run].join(" "), column));
            }
        }
        at += run.max(1);
    }
    out
}

/// Writes a display name: unchanged if possible, or else quoted, or else encoded.
fn phrase(name: &str) -> Vec<String> {
    let words = || name.split(' ');
    let is_foldable = words().all(|word| !word.is_empty() && word.len() <= MAX_LINE / 2);
    match name {
        "" => Vec::new(),
        _ if !name.is_ascii() || name.contains("=?") || !is_foldable => encoded_words(name, 0),
        _ if words().all(|word| word.bytes().all(is_atext)) => words().map(str::to_owned).collect(),
        _ => quoted(name).split(' ').map(str::to_owned).collect(),
    }
}

/// Joins elements with commas.
fn comma_separated(elements: impl Iterator<Item = Vec<String>>) -> Vec<String> {
    let mut elements = elements.filter(|words| !words.is_empty()).peekable();
    let mut out = Vec::new();
    while let Some(mut words) = elements.next() {
        if elements.peek().is_some() {
            append_separator(&mut words, ',');
        }
        out.append(&mut words);
    }
    out
}

pub(super) fn mailbox_words(mailbox: &Mailbox) -> Result<Vec<String>, &'static str> {
    let address = mailbox.address();
    if mailbox.name().chars().any(char::is_control) {
        return Err("control character in a name");
    }
    Ok(match mailbox.name() {
        "" => vec![address.to_string()],
        name => phrase(name).into_iter().chain([format!("<{address}>")]).collect(),
    })
}

/// Writes an address list (RFC 5322 §3.4). A group is a single element of the list.
fn address_words(items: &[Item]) -> Result<Vec<String>, &'static str> {
    let mut items = items.iter();
    let mut elements = Vec::new();
    while let Some(item) = items.next() {
        match item {
            Item::Mailbox(mailbox) => elements.push(mailbox_words(mailbox)?),
            Item::Group(name) => {
                let members: Vec<&Item> =
                    iter::from_fn(|| items.next().filter(|item| **item != Item::GroupEnd)).collect();
                elements.push(group_words(name, &members)?);
            }
            Item::GroupEnd => {}
        }
    }
    Ok(comma_separated(elements.into_iter()))
}

fn group_words(name: &str, members: &[&Item]) -> Result<Vec<String>, &'static str> {
    let mut mailboxes = Vec::new();
    for member in members {
        if let Item::Mailbox(mailbox) = member {
            mailboxes.push(mailbox_words(mailbox)?);
        }
    }
    let mut words = phrase(name);
    append_separator(&mut words, ':');
    words.append(&mut comma_separated(mailboxes.into_iter()));
    append_separator(&mut words, ';');
    Ok(words)
}

/// Appends a separator to the last word, or as its own word after an encoded word, which ends only at white space (RFC
/// 2047 §5).
fn append_separator(words: &mut Vec<String>, separator: char) {
    match words.last_mut() {
        Some(last) if !last.ends_with("?=") => last.push(separator),
        _ => words.push(separator.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, text: &str) -> String {
        Field::new(name, &Value::Text(text.to_owned())).unwrap().unwrap().as_str().to_owned()
    }

    fn to(mailboxes: impl Into<Mailboxes>) -> String {
        Field::new("To", &Value::Mailboxes(mailboxes.into())).unwrap().unwrap().as_str().to_owned()
    }

    #[test]
    fn lines_longer_than_78_octets_are_folded() {
        let (just, over) = ("x".repeat(69), "x".repeat(70));
        assert_eq!(field("Subject", &just), format!("Subject: {just}\r\n"));
        assert_eq!(field("Subject", &over), format!("Subject:\r\n {over}\r\n"));
        assert_eq!(field("Subject", &format!("a {just}")), format!("Subject: a\r\n {just}\r\n"));
        assert_eq!(field("X-Long", &"y".repeat(900)), format!("X-Long:\r\n {}\r\n", "y".repeat(900)));
    }

    #[test]
    fn only_words_that_need_it_are_encoded() {
        for (text, encoded) in [
            ("plain text", "plain text"),
            ("a ü b", "a =?utf-8?b?w7w=?= b"),
            ("a ü ü b", "a =?utf-8?b?w7wgw7w=?= b"),
            ("a  b c", "=?utf-8?b?YSAgYg==?= c"),
            (" a b", "=?utf-8?b?IGE=?= b"),
            ("a =?b c", "a =?utf-8?b?PT9i?= c"),
        ] {
            assert_eq!(field("Comments", text), format!("Comments: {encoded}\r\n"));
        }
    }

    #[test]
    fn a_name_is_plain_quoted_or_encoded() {
        for (name, written) in [
            ("", "a@x.org"),
            ("Bob", "Bob <a@x.org>"),
            ("Bob O'Neill", "Bob O'Neill <a@x.org>"),
            ("Dr. Bob", "\"Dr. Bob\" <a@x.org>"),
            ("Bob \"B\" \\", "\"Bob \\\"B\\\" \\\\\" <a@x.org>"),
            ("Doe, Bob", "\"Doe, Bob\" <a@x.org>"),
            ("Jörg", "=?utf-8?b?SsO2cmc=?= <a@x.org>"),
            ("=?utf-8?q?x?=", "=?utf-8?b?PT91dGYtOD9xP3g/PQ==?= <a@x.org>"),
            ("a  b", "=?utf-8?b?YSAgYg==?= <a@x.org>"),
        ] {
            assert_eq!(to((name, "a@x.org")), format!("To: {written}\r\n"));
        }
    }

    #[test]
    fn a_group_stays_a_group() {
        assert_eq!(to("undisclosed-recipients:;"), "To: undisclosed-recipients:;\r\n");
        assert_eq!(
            to("Team: a@x.org, B <b@x.org>;, c@x.org"),
            "To: Team: a@x.org, B <b@x.org>;, c@x.org\r\n"
        );
        // An encoded word ends only at white space.
        assert_eq!(to("Jörg: a@x.org;"), "To: =?utf-8?b?SsO2cmc=?= : a@x.org;\r\n");
    }

    #[test]
    fn an_address_list_is_folded_between_its_words() {
        let text =
            to((0..20).map(|i| ("Someone, Else", format!("number-{i}@example.org"))).collect::<Mailboxes>());
        assert!(text.lines().count() > 10 && text.lines().all(|line| line.len() <= 78), "{text}");
        assert_eq!(text.matches("\"Someone,").count(), 20);
    }

    #[test]
    fn a_value_that_email_format_cannot_parse_is_refused() {
        for (name, text) in
            [("Message-ID", "a b@c"), ("Message-ID", "<a>"), ("Resent-Message-ID", "x"), ("Date", "now")]
        {
            let error = Field::new(name, &Value::Text(text.to_owned())).unwrap_err();
            assert!(
                error.to_string().starts_with(&format!("the header {name} cannot have the value ")),
                "{error}"
            );
        }
    }

    fn references(text: &str) -> Option<String> {
        let field = Field::new("References", &Value::Text(text.to_owned())).unwrap();
        field.map(|field| field.value())
    }

    #[test]
    fn references_are_kept_and_bare_identifiers_gain_brackets() {
        for text in [
            "<a@b>",
            "<a@b> <c@d>",
            "<a@b><c@d>",
            "<a@b>, <c@d>",
            "<no-at>",
            "<a@b@c>",
            "<a..b@c.>",
            "<[1]@c(d)>",
            "<a b@c>",
            "Your message of \"Fri, 1 Jan\" <a@b>",
            "Your message of Friday",
            "<a@b",
            "a@b>",
            "<>",
            "<a@b> (unclosed",
        ] {
            assert_eq!(references(text).as_deref(), Some(text));
        }
        for (text, sent) in [
            ("a@b", "<a@b>"),
            ("a@b c@d", "<a@b> <c@d>"),
            ("a@b, c@d", "<a@b> <c@d>"),
            ("a@b,c@d,", "<a@b> <c@d>"),
            ("Your message a@b", "Your message <a@b>"),
            ("abc", "<abc>"),
            ("a@b <c@d>", "<a@b> <c@d>"),
            ("<a@b>\r\n <c@d>\n\t<e@f>\t<g@h>\r\n", "<a@b> <c@d> <e@f> <g@h>"),
        ] {
            assert_eq!(references(text).as_deref(), Some(sent), "{text:?}");
        }
    }

    #[test]
    fn an_invalid_identifier_is_left_out() {
        let long = format!("<{}@x>", "y".repeat(990));
        for (text, sent) in [
            ("<jörg@x> <a@b>", Some("<a@b>")),
            ("<a@b><jörg@x><c@d>", Some("<a@b><c@d>")),
            ("<a\0@b> <c\u{7f}@d> <e\u{85}@f> <g@h>", Some("<g@h>")),
            (&format!("<a@b> {long} <c@d>"), Some("<a@b> <c@d>")),
            (&long, None),
            ("é", None),
            ("", None),
        ] {
            assert_eq!(references(text).as_deref(), sent, "{text:?}");
        }
        for text in ["<a@b>\r\nBcc: x@y", "<a@b>\n\n<c@d>", "<a@b>\r<c@d>", "<a\r\n@b>"] {
            assert!(Field::new("References", &Value::Text(text.to_owned())).is_err(), "{text:?}");
        }
    }

    #[test]
    fn identifiers_without_spaces_are_folded_if_a_line_would_be_too_long() {
        let ids: String = (0..60).map(|i| format!("<number-{i}-of-many@example.org>")).collect();
        let field = field("References", &ids);
        assert!(field.lines().all(|line| line.len() <= 78), "{field}");
        assert_eq!(field["References:".len()..].replace([' ', '\r', '\n'], ""), ids);
        let email = Field::refolded(&format!("References: {ids}"));
        assert_eq!(email.as_str(), field);
        // Identifiers that fit on a line are not changed.
        let few: String = (0..20).map(|i| format!("<number-{i}-of-few@example.org>")).collect();
        assert_eq!(self::field("References", &few), format!("References: {few}\r\n"));
    }

    #[test]
    fn an_identifier_stays_on_the_line_of_the_header_name() {
        let id = format!("<{}@example.org>", "x".repeat(100));
        for name in ["Message-ID", "resent-message-id", "In-Reply-To", "References", "Content-ID"] {
            let field = Field::of_words(name, std::slice::from_ref(&id)).unwrap();
            assert_eq!(field.as_str(), format!("{name}: {id}\r\n"));
        }
        let field = field("References", &format!("{id} {id}"));
        assert_eq!(field, format!("References: {id}\r\n {id}\r\n"));
        let longest = format!("<{}@example.org>", "x".repeat(980));
        assert_eq!(self::field("Message-ID", &longest), format!("Message-ID:\r\n {longest}\r\n"));
    }

    #[test]
    fn commas_are_encoded_in_uris_but_not_between_them() {
        for (text, sent) in [
            ("<https://x.org/?a=1,2>", "<https://x.org/?a=1%2C2>"),
            (
                "<mailto:a@x.org?subject=a,b>,<https://x.org/>",
                "<mailto:a@x.org?subject=a%2Cb>, <https://x.org/>",
            ),
            ("<https://x.org/1> , < https://x.org/2 >", "<https://x.org/1>, <https://x.org/2>"),
        ] {
            assert_eq!(field("List-Unsubscribe", text), format!("List-Unsubscribe: {sent}\r\n"));
        }
        for text in [
            "<https://x.org/",
            "https://x.org/",
            "<a:b> <c:d>",
            "<a:b>,",
            "<a:b>, c:d",
            "",
            "<a:b>x",
            "<a b:c>",
        ] {
            assert!(Field::new("List-Unsubscribe", &Value::Text(text.to_owned())).is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_content_fields_that_the_builder_writes_are_refused() {
        for name in ["Content-Language", "Content-Location", "Content-Description", "content-class"] {
            assert_eq!(field(name, "de, en"), format!("{name}: de, en\r\n"));
        }
        for name in [
            "MIME-Version",
            "Content-Type",
            "content-transfer-encoding",
            "Content-Disposition",
            "Content-ID",
            "Content-Length",
            "Content-MD5",
        ] {
            assert!(Field::new(name, &Value::Text("x".to_owned())).is_err(), "{name}");
        }
    }

    #[cfg(feature = "idna")]
    #[test]
    fn an_address_field_has_an_ascii_form_if_only_its_domains_are_not_ascii() {
        let ascii = |text: &str| {
            let field = Field::new("To", &Value::Mailboxes(text.into())).unwrap().unwrap();
            field.to_ascii().map(|field| field.as_str().to_owned())
        };
        assert_eq!(
            ascii("Jörg <j@bücher.example>, Team: a@例え.example, b@x.org;").as_deref(),
            Some(
                "To: =?utf-8?b?SsO2cmc=?= <j@xn--bcher-kva.example>, Team:\r\n a@xn--r8jz45g.example, b@x.org;\r\n"
            )
        );
        assert_eq!(ascii("a@x.org").as_deref(), Some("To: a@x.org\r\n"));
        assert_eq!(ascii("a@bücher.example, jörg@x.org"), None);
        assert_eq!(ascii("a@-ü.example"), None);
    }

    #[test]
    fn deeply_nested_comments_do_not_overflow_the_stack() {
        for (name, start) in [
            ("Date", "Mon, 1 Jan 2024 00:00:00 +0000"),
            ("Message-ID", "<a@b>"),
            ("In-Reply-To", "<a@b>"),
            ("References", "<a@b>"),
            ("Received", "from a.example"),
            ("Return-Path", ""),
            ("Resent-Message-ID", "<a@b>"),
            ("Resent-Date", "Mon, 1 Jan 2024 00:00:00 +0000"),
        ] {
            for open in ["( ", "[\"] ( ", "(\\) "] {
                let text = format!("{start} {}{}", open.repeat(100_000), ") ".repeat(100_000));
                let error = Field::new(name, &Value::Text(text.clone())).unwrap_err();
                assert_eq!(
                    error.to_string(),
                    format!("invalid header {name}: comments are nested too deeply")
                );
                let kept = Field::refolded(&format!("{name}: {text}"));
                assert_eq!(kept.as_str(), format!("{name}: {text}\r\n"));
            }
        }
    }

    #[test]
    fn comments_may_be_nested_a_few_levels_and_repeated_freely() {
        for (nested, beside) in [(1, 1), (MAX_NESTED_COMMENTS, 1), (1, 1000)] {
            let comments = format!("{}{} ", "( ".repeat(nested), ") ".repeat(nested)).repeat(beside);
            let text = format!("Mon, 1 Jan 2024 00:00:00 +0000 {comments}");
            assert!(Field::new("Date", &Value::Text(text)).is_ok(), "{nested} {beside}");
        }
    }

    #[test]
    fn folding_keeps_repeated_spaces() {
        let long = "x".repeat(60);
        let field = Field::refolded(&format!("X-A: {long}  {long} b "));
        assert_eq!(field.as_str(), format!("X-A: {long}\r\n  {long} b\r\n"));
        assert_eq!(field.value(), format!("{long}  {long} b"));
    }

    #[test]
    fn a_field_that_cannot_be_refolded_is_unchanged() {
        assert_eq!(Field::refolded("Bcc:").as_str(), "Bcc:\r\n");
        let long = format!("X-A: {}", "x".repeat(2000));
        assert_eq!(Field::refolded(&long).as_str(), format!("{long}\r\n"));
    }

    #[test]
    fn no_line_is_longer_than_998_octets() {
        let word = |length| Field::of_words("X-A", &["x".repeat(length)]);
        assert!(word(997).is_ok() && word(998).is_err());
    }

    #[test]
    fn lines_of_encoded_words_are_filled_up_to_76_octets() {
        // RFC 2047 §2
        let lines = |name: usize| {
            let text = field(&"X".repeat(name), &"ü".repeat(100));
            text.lines().map(str::len).collect::<Vec<_>>()
        };
        for name in [4, 8, 20, 37] {
            let lines = lines(name);
            assert!(lines[0] > 70 && lines.iter().all(|length| *length <= 76), "{lines:?}");
        }
        assert!(lines(60).iter().all(|length| *length <= 76), "{:?}", lines(60));
    }

    #[test]
    fn a_name_with_long_words_is_encoded() {
        for (length, is_encoded) in [(39, false), (40, true)] {
            let text = to(("x".repeat(length), "a@x.org"));
            assert_eq!(text.contains("=?utf-8?"), is_encoded, "{text}");
        }
    }

    #[test]
    fn an_address_field_without_addresses_is_left_out() {
        let resent = ["Resent-From", "Resent-Sender", "Resent-To", "Resent-Cc", "Resent-Bcc"];
        for name in ["From", "To", "Bcc", "Disposition-Notification-To"].iter().chain(&resent) {
            assert_eq!(Field::new(name, &Value::Mailboxes("".into())).unwrap(), None, "{name}");
        }
    }
}
