//! Mailboxes as in header fields: addresses with names, in lists and groups (RFC 5322 §3.4).

use std::{fmt, mem, str::FromStr};

use super::{header_reader, header_writer};
use crate::{Address, Error};

/// An address with an optional display name, as in header fields.
///
/// The name may contain any characters except control characters, which are refused when the message is built. The name
/// is quoted or encoded where necessary.
///
/// ```
/// use postino::message::Mailbox;
///
/// let mailbox: Mailbox = "\"Müller, Jörg\" <joerg@example.org>".parse()?;
/// assert_eq!(mailbox, Mailbox::new("Müller, Jörg", "joerg@example.org")?);
/// # Ok::<(), postino::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mailbox {
    name: String,
    address: Address,
}

impl Mailbox {
    /// Creates a mailbox from a display name, taken literally (`""` for none), and an address.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if the address is invalid.
    pub fn new(name: impl Into<String>, address: impl AsRef<str>) -> Result<Mailbox, Error> {
        Ok(Mailbox { name: name.into(), address: Address::new(address.as_ref())? })
    }

    /// Returns the display name, or an empty string.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the address.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl From<Address> for Mailbox {
    fn from(address: Address) -> Mailbox {
        Mailbox { name: String::new(), address }
    }
}

impl FromStr for Mailbox {
    type Err = Error;

    fn from_str(text: &str) -> Result<Mailbox, Error> {
        only(read_list(text)?, text)
    }
}

impl TryFrom<&str> for Mailbox {
    type Error = Error;

    fn try_from(text: &str) -> Result<Mailbox, Error> {
        text.parse()
    }
}

impl TryFrom<String> for Mailbox {
    type Error = Error;

    fn try_from(text: String) -> Result<Mailbox, Error> {
        text.parse()
    }
}

/// Returns the mailbox of a list that consists of exactly one mailbox and no groups.
fn only(items: Vec<Item>, text: &str) -> Result<Mailbox, Error> {
    let why = match <[Item; 1]>::try_from(items) {
        Ok([Item::Mailbox(mailbox)]) => return Ok(mailbox),
        Ok(_) => "a group, not a single address",
        Err(items) if items.is_empty() => "empty",
        Err(items) if items.contains(&Item::GroupEnd) => "a group, not a single address",
        Err(_) => "more than one address",
    };
    Err(invalid(text, why))
}

fn invalid(input: &str, why: &'static str) -> Error {
    Error::Address { input: input.to_owned(), why, header: None }
}

/// Formats the mailbox as a person would type it: the name is quoted where necessary, but not encoded.
impl fmt::Display for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name[..] {
            "" => write!(f, "{}", self.address),
            // An unquoted `=?` would begin an encoded word.
            name if name.split(' ').all(is_word) && !name.contains("=?") => {
                write!(f, "{name} <{}>", self.address)
            }
            name => write!(f, "{} <{}>", header_writer::quoted(name), self.address),
        }
    }
}

/// Whether a word is an atom, in which non-ASCII letters are allowed.
fn is_word(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| !byte.is_ascii() || header_writer::is_atext(byte))
}

/// The value of an address header: mailboxes as text, or as pairs of name and address.
///
/// Text is parsed when the message is built. It may contain several mailboxes and groups, such as
/// `"Alice <alice@example.org>, bob@example.net"` or `"undisclosed-recipients:;"`. Names may be in any script. Encoded
/// words, as found in raw headers, are refused.
///
/// **Do not put untrusted names or addresses into such text**: commas and brackets in them could add recipients.
/// Instead, use a pair such as `("Alice", "alice@example.org")`, a [`Mailbox`], or
/// [`to_one`](super::MessageBuilder::to_one).
#[derive(Debug, Clone, Default)]
pub struct Mailboxes(Vec<Given>);

#[derive(Debug, Clone)]
enum Given {
    Text(String),
    Pair(String, String),
    Mailbox(Mailbox),
    /// Exactly one mailbox.
    One(Mailboxes),
}

impl Mailboxes {
    /// Makes parsing fail unless there is exactly one mailbox.
    pub(super) fn only_one(self) -> Mailboxes {
        Mailboxes(vec![Given::One(self)])
    }

    pub(super) fn append(&mut self, more: &mut Mailboxes) {
        self.0.append(&mut more.0);
    }

    pub(super) fn read(&self) -> Result<Vec<Item>, Error> {
        let mut items = Vec::new();
        for given in &self.0 {
            match given {
                Given::Text(text) => items.append(&mut read_list(text)?),
                Given::Pair(name, address) => items.push(Item::Mailbox(Mailbox::new(name, address)?)),
                Given::Mailbox(mailbox) => items.push(Item::Mailbox(mailbox.clone())),
                Given::One(one) => {
                    items.push(Item::Mailbox(only(one.read()?, &one.written())?));
                }
            }
        }
        Ok(items)
    }

    /// Returns the text as it was given, for errors.
    pub(super) fn written(&self) -> String {
        let each = self.0.iter().map(|given| match given {
            Given::Text(text) => text.clone(),
            Given::Pair(name, address) => format!("{name} <{address}>"),
            Given::Mailbox(mailbox) => mailbox.to_string(),
            Given::One(one) => one.written(),
        });
        each.collect::<Vec<_>>().join(", ")
    }
}

impl<M: Into<Mailboxes>> Extend<M> for Mailboxes {
    fn extend<I: IntoIterator<Item = M>>(&mut self, more: I) {
        self.0.extend(more.into_iter().flat_map(|one| one.into().0));
    }
}

impl From<&str> for Mailboxes {
    fn from(text: &str) -> Mailboxes {
        Mailboxes(vec![Given::Text(text.to_owned())])
    }
}

impl From<String> for Mailboxes {
    fn from(text: String) -> Mailboxes {
        Mailboxes(vec![Given::Text(text)])
    }
}

impl From<&String> for Mailboxes {
    fn from(text: &String) -> Mailboxes {
        Mailboxes(vec![Given::Text(text.clone())])
    }
}

/// Converts a (display name, address) pair. The display name is taken literally.
impl<N: Into<String>, A: Into<String>> From<(N, A)> for Mailboxes {
    fn from((name, address): (N, A)) -> Mailboxes {
        Mailboxes(vec![Given::Pair(name.into(), address.into())])
    }
}

impl From<Mailbox> for Mailboxes {
    fn from(mailbox: Mailbox) -> Mailboxes {
        Mailboxes(vec![Given::Mailbox(mailbox)])
    }
}

impl From<&Mailbox> for Mailboxes {
    fn from(mailbox: &Mailbox) -> Mailboxes {
        mailbox.clone().into()
    }
}

impl From<Address> for Mailboxes {
    fn from(address: Address) -> Mailboxes {
        Mailbox::from(address).into()
    }
}

impl From<&Address> for Mailboxes {
    fn from(address: &Address) -> Mailboxes {
        address.clone().into()
    }
}

impl<M: Into<Mailboxes>> From<Vec<M>> for Mailboxes {
    fn from(several: Vec<M>) -> Mailboxes {
        several.into_iter().collect()
    }
}

impl<M: Into<Mailboxes>, const N: usize> From<[M; N]> for Mailboxes {
    fn from(several: [M; N]) -> Mailboxes {
        several.into_iter().collect()
    }
}

impl<M: Into<Mailboxes>> FromIterator<M> for Mailboxes {
    fn from_iter<I: IntoIterator<Item = M>>(several: I) -> Mailboxes {
        Mailboxes(several.into_iter().flat_map(|one| one.into().0).collect())
    }
}

/// An element of a parsed address list.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Item {
    Mailbox(Mailbox),
    /// The start of a group, with its name.
    Group(String),
    GroupEnd,
}

impl Item {
    /// Returns the address if it has no domain: addresses in header fields need one (RFC 5322 §3.4.1).
    pub(super) fn without_domain(&self) -> Option<&Address> {
        match self {
            Item::Mailbox(Mailbox { address, .. }) if address.domain().is_none() => Some(address),
            _ => None,
        }
    }

    /// Returns the item with the domain as an A-label, if that makes its address ASCII.
    pub(super) fn in_ascii(&self) -> Option<Item> {
        match self {
            Item::Mailbox(Mailbox { name, address }) => {
                Some(Item::Mailbox(Mailbox { name: name.clone(), address: address.without_utf8().ok()? }))
            }
            other => Some(other.clone()),
        }
    }
}

/// Parses an address list. Dots in names need no quotes; a comment becomes part of the name.
fn read_list(text: &str) -> Result<Vec<Item>, Error> {
    let mut reader = Reader::default();
    if text.chars().any(char::is_control) {
        return Err(invalid(text, "control character"));
    }
    // The current mailbox begins at `start`.
    let (mut start, mut at) = (0, 0);
    while at < text.len() {
        let length = header_reader::token_length(&text.as_bytes()[at..]);
        let length = length.ok_or_else(|| invalid(text[start..].trim(), header_reader::UNTERMINATED))?;
        let token = &text[at..at + length];
        at += length;
        reader
            .take(token)
            .map_err(|why| invalid(text[start..at].trim_end_matches([',', ';']).trim(), why))?;
        if !reader.is_open && matches!(token, "," | ";" | ":") {
            start = at;
        }
    }
    reader.end_mailbox().map_err(|why| invalid(text[start..].trim(), why))?;
    if reader.in_group {
        return Err(invalid(text, "a group without ; at the end"));
    }
    Ok(reader.items)
}

#[derive(Default)]
struct Reader {
    items: Vec<Item>,
    in_group: bool,
    /// The words of a name, unquoted.
    name: String,
    /// There was white space after the last word.
    gap: bool,
    /// The text as written: the address, if there are no angle brackets.
    bare: String,
    comments: Vec<String>,
    /// The text in angle brackets.
    angle: Option<String>,
    /// The angle bracket is open.
    is_open: bool,
}

impl Reader {
    fn take(&mut self, token: &str) -> Result<(), &'static str> {
        match token.as_bytes()[0] {
            _ if has_encoded_word(token) => return Err(ENCODED),
            b'(' => self.comments.push(unescaped(&token[1..token.len() - 1])),
            b'>' if self.is_open => self.is_open = false,
            _ if self.is_open => self.angle.get_or_insert_default().push_str(token),
            b'>' => return Err("> without a matching <"),
            b',' => self.end_mailbox()?,
            b';' if self.in_group => {
                self.end_mailbox()?;
                self.in_group = false;
                self.items.push(Item::GroupEnd);
            }
            b';' => return Err("; outside a group"),
            b' ' => {
                self.gap = true;
                self.bare.push(' ');
            }
            _ if self.angle.is_some() => return Err("unexpected text after >"),
            b'<' => (self.angle, self.is_open) = (Some(String::new()), true),
            b':' => self.begin_group()?,
            b'"' => self.word(token, &unescaped(&token[1..token.len() - 1])),
            _ => self.word(token, token),
        }
        Ok(())
    }

    fn word(&mut self, written: &str, word: &str) {
        if mem::take(&mut self.gap) && !self.name.is_empty() {
            self.name.push(' ');
        }
        self.name.push_str(word);
        self.bare.push_str(written);
    }

    fn begin_group(&mut self) -> Result<(), &'static str> {
        if self.in_group {
            return Err("a group inside a group");
        }
        let name = self.display_name();
        if name.is_empty() {
            return Err("a group without a name");
        }
        self.bare.clear();
        self.in_group = true;
        self.items.push(Item::Group(name));
        Ok(())
    }

    fn end_mailbox(&mut self) -> Result<(), &'static str> {
        if self.is_open {
            return Err("< without a matching >");
        }
        let bare = mem::take(&mut self.bare);
        let angle = self.angle.take();
        if angle.is_none() {
            self.name.clear();
        }
        let name = self.display_name();
        let address = match angle {
            Some(address) => address,
            // Lists may have empty elements: `a@example.org,`.
            None if bare.trim_matches(' ').is_empty() => return Ok(()),
            None => bare,
        };
        let address = Address::new(&address).map_err(|error| match error {
            Error::Address { why, .. } => why,
            _ => "invalid",
        })?;
        self.items.push(Item::Mailbox(Mailbox { name, address }));
        Ok(())
    }

    /// Takes the name with its comments. Without a name, the comments are the name: `joerg@example.org (Jörg)`, the old
    /// form.
    fn display_name(&mut self) -> String {
        let name = mem::take(&mut self.name);
        let comments = mem::take(&mut self.comments);
        self.gap = false;
        match &name[..] {
            "" => comments.join(" "),
            _ if comments.is_empty() => name,
            name => format!("{name} ({})", comments.join(") (")),
        }
    }
}

/// Error for text that was copied from a raw header: recipients would see its encoded words undecoded.
const ENCODED: &str = "an encoded word (write the name itself, in any script)";

/// Whether a token contains an encoded word (RFC 2047 §2). Quoted text never does.
pub(super) fn has_encoded_word(token: &str) -> bool {
    let is_whole = |text: &str| {
        let mut parts = text.splitn(4, '?');
        let (charset, encoding) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        !charset.is_empty() && encoding.len() == 1 && parts.nth(1).is_some_and(|rest| rest.starts_with('='))
    };
    !token.starts_with('"') && token.match_indices("=?").any(|(at, _)| is_whole(&token[at + 2..]))
}

/// Splits phrases separated by commas and removes their quotes. A quoted comma is part of its phrase.
pub(super) fn split_phrases(text: &str) -> Result<Vec<String>, &'static str> {
    let (mut phrases, mut phrase, mut rest) = (Vec::new(), String::new(), text);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => header_reader::token_length(rest.as_bytes()).ok_or("unterminated quote")?,
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        match first {
            ',' => phrases.push(mem::take(&mut phrase)),
            '"' => phrase.push_str(&unescaped(&token[1..length - 1])),
            ' ' if phrase.is_empty() => {}
            _ => phrase.push_str(token),
        }
        rest = after;
    }
    phrases.push(phrase);
    phrases.iter_mut().for_each(|phrase| phrase.truncate(phrase.trim_end_matches(' ').len()));
    Ok(phrases)
}

/// Removes the backslashes of quoted pairs.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        // A token never ends in the middle of a quoted pair.
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        let show = |item: Item| match item {
            Item::Mailbox(mailbox) => format!("{}|{}", mailbox.name, mailbox.address),
            Item::Group(name) => format!("{name}:"),
            Item::GroupEnd => ";".to_owned(),
        };
        read_list(text).map(|items| items.into_iter().map(show).collect()).map_err(|error| error.to_string())
    }

    #[test]
    fn mailboxes_are_parsed_as_people_write_them() {
        for (text, expected) in [
            ("a@x.org", &["|a@x.org"][..]),
            (" <a@x.org> ", &["|a@x.org"]),
            ("Jörg Müller <a@x.org>, b@x.org", &["Jörg Müller|a@x.org", "|b@x.org"]),
            ("\"Müller,  Jörg\" <a@x.org>", &["Müller,  Jörg|a@x.org"]),
            ("\"a \\\"b\\\" c\" <a@x.org>", &["a \"b\" c|a@x.org"]),
            ("Dr. J.   Doe <a@x.org>,", &["Dr. J. Doe|a@x.org"]),
            ("a@x.org (Jörg)", &["Jörg|a@x.org"]),
            ("Jörg (Sales) <a@x.org>", &["Jörg (Sales)|a@x.org"]),
            ("Jörg <a@x.org> (Sales (EU))", &["Jörg (Sales (EU))|a@x.org"]),
            ("\"a b\"@x.org, \"a@b\" <c@x.org>", &["|\"a b\"@x.org", "a@b|c@x.org"]),
            ("me @ home <a@x.org>", &["me @ home|a@x.org"]),
            ("Team: a@x.org, B <b@x.org>;", &["Team:", "|a@x.org", "B|b@x.org", ";"]),
            ("undisclosed-recipients:;", &["undisclosed-recipients:", ";"]),
            ("a@[192.0.2.1]", &["|a@[192.0.2.1]"]),
            ("", &[]),
            (" , ,", &[]),
        ] {
            assert_eq!(
                read(text).as_deref(),
                Ok(&expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
                "{text}"
            );
        }
    }

    #[test]
    fn an_invalid_address_list_is_refused() {
        for text in [
            "Müller, Jörg <a@x.org>x",
            "<a@x.org> <b@x.org>",
            "a@x.org b@x.org",
            "Jörg <a@x.org",
            "Jörg a@x.org>",
            "a@x.org>",
            "Jörg> <a@x.org>",
            "Jörg; <a@x.org>",
            "Jörg <>",
            "Jörg <a@x.org,b@x.org>",
            "\"Jörg <a@x.org>",
            "(Jörg <a@x.org>",
            "a@x.org; b@x.org",
            "Team: a@x.org",
            "Team: Other: a@x.org;;",
            ": a@x.org;",
            "a@x.org\r\nBcc: b@x.org",
            "a@x.org\t",
            "a@x\0.org",
            "=?utf-8?q?J=C3=B6rg?= <a@x.org>",
            "Dr. =?utf-8?b?SsO2cmc=?= <a@x.org>",
            "a@x.org (=?utf-8?q?J=C3=B6rg?=)",
            "=?utf-8?q?Team?=: a@x.org;",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_displayed_mailbox_parses_as_the_same_mailbox() {
        for name in
            ["", "Jörg", "Jörg Müller", "Müller, Jörg", "J. \"Joe\" \\ Doe", " a", "a  b", "x <y@z>, <v@w>"]
        {
            let mailbox = Mailbox::new(name, "a@x.org").unwrap();
            assert_eq!(mailbox.to_string().parse::<Mailbox>().unwrap().name(), name);
        }
        assert_eq!(Mailbox::new("Jörg Müller", "a@x.org").unwrap().to_string(), "Jörg Müller <a@x.org>");
    }

    #[test]
    fn text_that_only_resembles_an_encoded_word_is_a_name() {
        for name in ["\"=?utf-8?q?x?=\"", "=?", "=?what?=", "=?utf-8?q?x", "=??q?x?=", "=?utf-8?quoted?x?="] {
            let mailbox: Mailbox = format!("{name} <a@x.org>").parse().unwrap();
            assert_eq!(mailbox.name(), name.trim_matches('"'));
            assert_eq!(mailbox.to_string().parse::<Mailbox>().unwrap(), mailbox);
        }
    }

    #[test]
    fn a_comma_in_quotes_does_not_end_a_phrase() {
        let split = |text| split_phrases(text).map(|phrases| phrases.join("|"));
        assert_eq!(
            split("one, two words ,\"three, \\\"four\\\"\" five,,").unwrap(),
            "one|two words|three, \"four\" five||"
        );
        assert!(split("one, \"two").is_err());
    }

    #[test]
    fn parsing_a_mailbox_accepts_exactly_one() {
        assert!("a@x.org, b@x.org".parse::<Mailbox>().is_err());
        assert!("Team: a@x.org;".parse::<Mailbox>().is_err());
        assert!("".parse::<Mailbox>().is_err());
    }

    #[test]
    fn the_error_for_a_list_quotes_the_invalid_mailbox() {
        for (text, error) in [
            ("a@x.org, Bob <b@>, c@x.org", "invalid address \"Bob <b@>\": no domain"),
            ("bob smith", "invalid address \"bob smith\": no @"),
            ("Team: a b@x.org;", "invalid address \"a b@x.org\": space in the local part"),
            ("a@x.org, \"b", "invalid address \"\\\"b\": unterminated quote, comment or bracket"),
        ] {
            assert_eq!(read(text).unwrap_err(), error);
        }
    }

    #[test]
    fn only_one_accepts_exactly_one_mailbox() {
        let read = |given: Mailboxes| given.only_one().read().map_err(|error| error.to_string());
        assert_eq!(read("Bob <b@x.org>".into()).unwrap().len(), 1);
        assert_eq!(read(("Bob, a", "b@x.org").into()).unwrap().len(), 1);
        for (given, error) in [
            ("a@x, b@y".into(), "invalid address \"a@x, b@y\": more than one address"),
            (["a@x", "b@y"].into(), "invalid address \"a@x, b@y\": more than one address"),
            ("Team: a@x;".into(), "invalid address \"Team: a@x;\": a group, not a single address"),
            ("".into(), "invalid address \"\": empty"),
            (("", "a@x, b@y").into(), "invalid address \"a@x, b@y\": more than one address"),
        ] {
            assert_eq!(read(given).unwrap_err(), error);
        }
    }

    #[test]
    fn addresses_inside_a_separately_given_name_are_not_recipients() {
        let given = Mailboxes::from([("Eve <eve@x.org>, Bob", "a@x.org")]);
        let expected = Mailbox::new("Eve <eve@x.org>, Bob", "a@x.org").unwrap();
        assert_eq!(given.read().unwrap(), [Item::Mailbox(expected)]);
    }
}
