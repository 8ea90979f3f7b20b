//! Header fields as octets: finding them, and replacing addresses in them. Whatever cannot be read is left as it is.

use std::ops::Range;

/// Splits the header block into fields with their continuation lines. The empty line at its end, and anything that follows, is
/// not part of it.
pub fn fields(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = message;
    std::iter::from_fn(move || {
        if matches!(rest.first(), None | Some(b'\r' | b'\n')) {
            return None;
        }
        let mut length = line_length(rest);
        while let Some(b' ' | b'\t') = rest.get(length) {
            length += line_length(&rest[length..]);
        }
        let (field, after) = rest.split_at(length);
        rest = after;
        Some(field)
    })
}

/// Returns the length of the first line, including its line end.
pub fn line_length(text: &[u8]) -> usize {
    match text.iter().position(|octet| matches!(octet, b'\r' | b'\n')) {
        Some(at) if text[at..].starts_with(b"\r\n") => at + 2,
        Some(at) => at + 1,
        None => text.len(),
    }
}

/// Splits a field into its name and the rest, which begins with the colon. `None` if it is not a field (RFC 5322 §3.6.8, and white
/// space before the colon, §4.5).
pub fn split(field: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = field.iter().position(|octet| *octet == b':')?;
    let name = field[..colon].trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some((name, &field[colon..]))
}

/// Returns the value of a field, if it has this name.
pub fn value<'m>(field: &'m [u8], name: &str) -> Option<&'m [u8]> {
    let (found, rest) = split(field)?;
    found.eq_ignore_ascii_case(name.as_bytes()).then(|| &rest[1..])
}

/// Replaces addresses in the value of a field. `replace` gets each address, and returns its replacement if there is one. An element
/// of the list that is not clearly one address is left as it is.
pub fn replace_addresses(value: &[u8], replace: &dyn Fn(&str) -> Option<String>) -> Option<Vec<u8>> {
    let mut result = Vec::new();
    let mut copied = 0;
    for place in address_places(value)? {
        let Some(address) = std::str::from_utf8(&value[place.clone()]).ok().and_then(replace) else {
            continue;
        };
        result.extend_from_slice(&value[copied..place.start]);
        result.extend_from_slice(address.as_bytes());
        copied = place.end;
    }
    if copied == 0 {
        return None;
    }
    result.extend_from_slice(&value[copied..]);
    Some(result)
}

/// What an address list consists of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Token {
    /// White space or a comment.
    Gap,
    /// A part of an address or of a display name.
    Word,
    Open,
    Close,
    /// `,` or `;`, which ends an element, or `:`, which ends the name of a group.
    End,
    Colon,
}

/// Finds the addresses of a list. `None` if a quote, comment or bracket is not closed.
fn address_places(list: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut places = Vec::new();
    let mut element = Element::default();
    let mut at = 0;
    while at < list.len() {
        let (token, length) = token(&list[at..])?;
        let place = at..at + length;
        at += length;
        match token {
            Token::End => places.extend(std::mem::take(&mut element).address()?),
            Token::Colon if element.is_open => element.is_odd = true, // a route
            Token::Colon => element = Element::default(),
            _ => element.take(token, place),
        }
    }
    places.extend(element.address()?);
    places.retain(|place| !list[place.clone()].starts_with(b"=?")); // an encoded word is not an address
    Some(places)
}

/// An element of an address list.
#[derive(Default)]
struct Element {
    /// The words outside and inside angle brackets, joined if nothing is between them.
    words: Vec<Range<usize>>,
    inside: Vec<Range<usize>>,
    is_open: bool,
    has_brackets: bool,
    is_odd: bool,
}

impl Element {
    fn take(&mut self, token: Token, place: Range<usize>) {
        match token {
            Token::Open => {
                self.is_odd |= self.has_brackets;
                (self.is_open, self.has_brackets) = (true, true);
            }
            Token::Close => {
                self.is_odd |= !self.is_open;
                self.is_open = false;
            }
            Token::Word => {
                let words = if self.is_open { &mut self.inside } else { &mut self.words };
                match words.last_mut() {
                    Some(last) if last.end == place.start => last.end = place.end,
                    _ => words.push(place),
                }
            }
            _ => {}
        }
    }

    /// Returns the place of the address, if there is exactly one. The outer `None` is an unclosed bracket.
    fn address(self) -> Option<Option<Range<usize>>> {
        if self.is_open {
            return None;
        }
        let words = if self.has_brackets { self.inside } else { self.words };
        match <[_; 1]>::try_from(words) {
            Ok([only]) if !self.is_odd => Some(Some(only)),
            _ => Some(None),
        }
    }
}

fn token(text: &[u8]) -> Option<(Token, usize)> {
    Some(match text[0] {
        b' ' | b'\t' | b'\r' | b'\n' => (Token::Gap, 1),
        b'(' => (Token::Gap, comment_length(text)?),
        b'"' => (Token::Word, enclosed_length(text, b'"')?),
        b'[' => (Token::Word, enclosed_length(text, b']')?),
        b'<' => (Token::Open, 1),
        b'>' => (Token::Close, 1),
        b',' | b';' => (Token::End, 1),
        b':' => (Token::Colon, 1),
        _ => {
            let is_special = |octet: &u8| b" \t\r\n(\"[<>,;:".contains(octet);
            (Token::Word, text.iter().position(is_special).unwrap_or(text.len()))
        }
    })
}

fn comment_length(text: &[u8]) -> Option<usize> {
    let (mut depth, mut escaped) = (0, false);
    for (at, octet) in text.iter().enumerate() {
        match octet {
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
    for (at, &octet) in text.iter().enumerate().skip(1) {
        match octet {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            _ if octet == close => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(list: &str) -> String {
        let marked = replace_addresses(list.as_bytes(), &|address| Some(format!("{{{address}}}")));
        marked.map_or_else(|| list.to_owned(), |marked| String::from_utf8(marked).unwrap())
    }

    #[test]
    fn addresses_are_found_in_lists() {
        for (list, expected) in [
            (" root (Cron Daemon)\r\n", " {root} (Cron Daemon)\r\n"),
            (" Root <root>, b@x ,\r\n c", " Root <{root}>, {b@x} ,\r\n {c}"),
            ("\"A, B\" <a@x>", "\"A, B\" <{a@x}>"),
            ("\"j d\"@x, \"j d\"", "{\"j d\"@x}, {\"j d\"}"),
            ("team: a, b@[1.2.3.4];", "team: {a}, {b@[1.2.3.4]};"),
            ("undisclosed-recipients:;", "undisclosed-recipients:;"),
            ("(nested (comment) a@b) x", "(nested (comment) a@b) {x}"),
            ("<>", "<>"),
            ("=?utf-8?q?root?=", "=?utf-8?q?root?="),
            ("John Doe", "John Doe"),
            ("a b <c d>", "a b <c d>"),
            ("<a> <b>", "<a> <b>"),
            ("<@route:a@b>", "<@route:a@b>"),
            ("a, \"unclosed", "a, \"unclosed"),
            ("a, (unclosed", "a, (unclosed"),
            ("a <unclosed", "a <unclosed"),
            ("a > b", "a > b"),
            ("", ""),
        ] {
            assert_eq!(marked(list), expected);
        }
        assert_eq!(replace_addresses(b" \xff <a>", &|_| Some("b".into())).unwrap(), b" \xff <b>");
    }

    #[test]
    fn fields_are_split_and_end_at_the_empty_line() {
        let message = b"A: 1\r\n 2\nB : 3\rno field\n\nC: 4\n";
        let found: Vec<_> = fields(message).collect();
        assert_eq!(found, [&b"A: 1\r\n 2\n"[..], b"B : 3\r", b"no field\n"]);
        assert_eq!(value(found[1], "b"), Some(&b" 3\r"[..]));
        assert_eq!((split(found[2]), split(b"a b: c"), split(b": c")), (None, None, None));
    }
}
