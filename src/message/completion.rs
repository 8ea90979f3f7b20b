//! Completes the headers of finished messages: adds missing header fields, and replaces addresses without a domain.

use std::{fmt, ops::Range, str, time::SystemTime};

use super::{
    Mailbox, date,
    header_reader::{fields, push_field, token_length, value},
    header_writer::{BAD_YEAR, folded, mailbox_words},
    mailbox::has_encoded_word,
    unique_id::unique_id,
};
use crate::{Address, Error};

/// Fields that are added if they are missing or empty.
const ADDED: [&str; 3] = ["From", "Date", "Message-ID"];
/// Fields with addresses. Each can also have the prefix `Resent-`.
const ADDRESS_FIELDS: [&str; 6] = ["From", "Sender", "Reply-To", "To", "Cc", "Bcc"];

type Map<'f> = Box<dyn Fn(&str, &str) -> Option<Address> + Send + Sync + 'f>;

/// Completes the headers of a finished message, as a mail submission agent may do (RFC 6409 §8).
///
/// `From`, `Date` and `Message-ID` are added at the top if missing or empty. The date is the current time in UTC.
/// Everything else, except for addresses that [`map_addresses`](HeaderCompletion::map_addresses) replaces, stays as it
/// is, octet for octet. [`Message`](super::Message) does not need this: its builder requires `From` and adds the rest.
///
/// ```
/// use postino::{Address, Envelope, Raw, message::{HeaderCompletion, Mailbox}};
///
/// let output_of_cron = b"To: admin\nSubject: backup\n\nDone.\n";
/// let completion = HeaderCompletion::new(Mailbox::new("Backup", "backup@router.example.org")?)
///     .map_addresses(|_field, address| {
///         if address.contains('@') { None } else { Address::new(&format!("{address}@example.org")).ok() }
///     });
/// let message = completion.complete(output_of_cron)?;
/// assert!(message.starts_with(b"From: Backup <backup@router.example.org>\r\nDate: "));
/// assert!(message.ends_with(b"To: admin@example.org\nSubject: backup\n\nDone.\n"));
/// let mail = Raw::bytes(Envelope::from_headers(&message)?, message);
/// # let _ = mail;
/// # Ok::<(), postino::Error>(())
/// ```
pub struct HeaderCompletion<'f> {
    author: Mailbox,
    map: Option<Map<'f>>,
}

impl<'f> HeaderCompletion<'f> {
    /// Creates a completion. `author` becomes the `From` of messages without one. New message identifiers use the
    /// author's domain, or `localhost` if the author's address has no domain.
    #[must_use]
    pub fn new(author: Mailbox) -> HeaderCompletion<'f> {
        HeaderCompletion { author, map: None }
    }

    /// Sets a function that replaces addresses. It is called with the name of the field and the address as written, and
    /// returns the replacement, or `None` to keep the address.
    ///
    /// The fields are `From`, `Sender`, `Reply-To`, `To`, `Cc` and `Bcc`, and their `Resent-` forms. Names are passed
    /// without the `Resent-` prefix. Text in these fields that is not clearly an address is left as it is.
    #[must_use]
    pub fn map_addresses(
        mut self,
        map: impl Fn(&str, &str) -> Option<Address> + Send + Sync + 'f,
    ) -> HeaderCompletion<'f> {
        self.map = Some(Box::new(map));
        self
    }

    /// Returns the completed message. The argument may be only the start of a message, if it contains the whole header.
    ///
    /// Text that does not begin with a header field becomes the body of a message, even if later lines look like header
    /// fields. This includes a message that begins with the `From ` line of an mbox: remove that line first.
    ///
    /// # Errors
    ///
    /// [`Error::Message`] if `From` is missing and the author's name contains a control character, or if `Date` is
    /// missing and the current year is not between 1900 and 9999.
    pub fn complete(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let mut result = Vec::with_capacity(message.len() + 256);
        let is_empty_line = |text: &[u8]| text.starts_with(b"\r") || text.starts_with(b"\n");
        // Lines of a body can look like fields.
        let has_header =
            fields(message).next().is_some_and(|first| is_empty_line(first) || name(first).is_some());
        for name in ADDED {
            let mut values = fields(message).filter_map(|field| value(field, name));
            if !has_header || values.all(|text| text.trim_ascii().is_empty()) {
                result.extend_from_slice(folded(name, &self.words(name)?).as_bytes());
            }
        }
        let mut read = 0;
        for field in fields(message).take_while(|field| has_header && !is_empty_line(field)) {
            match name(field) {
                // An empty field was replaced above. Two fields of the same name would be ambiguous.
                Some(name) if is_added(name) && field[name.len()..].trim_ascii() == b":" => {}
                Some(name) => push_field(&mut result, self.mapped(name, field).as_deref().unwrap_or(field)),
                None => push_field(&mut result, field),
            }
            read += field.len();
        }
        let rest = &message[read..];
        if read == 0 && !is_empty_line(rest) {
            result.extend_from_slice(b"\r\n");
        }
        push_field(&mut result, rest);
        Ok(result)
    }

    /// Returns the words of the value of an added field.
    fn words(&self, name: &str) -> Result<Vec<String>, Error> {
        let fail = |why: &str| Error::Message(format!("invalid header {name}: {why}").into());
        match name {
            "From" => mailbox_words(&self.author).map_err(fail),
            "Date" => Ok(vec![date::date_time(SystemTime::now()).ok_or_else(|| fail(BAD_YEAR))?]),
            _ => {
                let author = self.author.address().without_utf8().ok();
                let domain = author.as_ref().and_then(Address::domain).unwrap_or("localhost");
                Ok(vec![format!("<{}@{domain}>", unique_id())])
            }
        }
    }

    /// Returns the field with its addresses replaced, or `None` if none of them is replaced.
    fn mapped(&self, name: &[u8], field: &[u8]) -> Option<Vec<u8>> {
        let map = self.map.as_ref()?;
        let base = match name.split_at_checked(7) {
            Some((prefix, base)) if prefix.eq_ignore_ascii_case(b"Resent-") => base,
            _ => name,
        };
        let known = ADDRESS_FIELDS.iter().find(|known| base.eq_ignore_ascii_case(known.as_bytes()))?;
        let start = field.iter().position(|byte| *byte == b':')? + 1;
        let list = &field[start..];
        let mut result = field[..start].to_vec();
        let mut copied = 0;
        for place in address_places(list)? {
            let address = str::from_utf8(&list[place.clone()]).ok();
            if let Some(address) = address.and_then(|address| map(known, address)) {
                result.extend_from_slice(&list[copied..place.start]);
                result.extend_from_slice(address.as_str().as_bytes());
                copied = place.end;
            }
        }
        result.extend_from_slice(&list[copied..]);
        (copied > 0).then_some(result)
    }
}

impl fmt::Debug for HeaderCompletion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeaderCompletion").field("author", &self.author).finish_non_exhaustive()
    }
}

/// Returns the name of a field, or `None` if the text is not one (RFC 5322 §3.6.8; white space before the colon, §4.5).
fn name(field: &[u8]) -> Option<&[u8]> {
    let colon = field.iter().position(|byte| *byte == b':')?;
    let name = field[..colon].trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(name)
}

fn is_added(name: &[u8]) -> bool {
    ADDED.iter().any(|added| name.eq_ignore_ascii_case(added.as_bytes()))
}

/// Finds the addresses in a list, which may be folded. An element that is not clearly one address is left out. Returns
/// `None` if a quoted string, comment or bracket is unterminated.
fn address_places(list: &[u8]) -> Option<Vec<Range<usize>>> {
    let mut places = Vec::new();
    let mut element = Element::default();
    let mut at = 0;
    while at < list.len() {
        let length = folded_token_length(&list[at..])?;
        let place = at..at + length;
        match list[at] {
            b' ' | b'\t' | b'\r' | b'\n' | b'(' => {}
            b',' | b';' => places.extend(std::mem::take(&mut element).address()?),
            b':' if element.is_open => element.is_odd = true, // a route
            b':' => element = Element::default(),             // the name of a group
            b'<' => {
                element.is_odd |= element.has_brackets;
                element.is_open = true;
                element.has_brackets = true;
            }
            b'>' => {
                element.is_odd |= !element.is_open;
                element.is_open = false;
            }
            _ => element.word(place),
        }
        at += length;
    }
    places.extend(element.address()?);
    let is_address =
        |place: &Range<usize>| str::from_utf8(&list[place.clone()]).is_ok_and(|it| !has_encoded_word(it));
    places.retain(is_address);
    Some(places)
}

/// Returns the length of the first token. A line ending also ends a token.
fn folded_token_length(text: &[u8]) -> Option<usize> {
    let length = token_length(text)?;
    match text[0] {
        b'\r' | b'\n' => Some(1),
        b'(' | b'"' | b'[' => Some(length),
        _ => Some(text[..length].iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(length)),
    }
}

/// The places of the words in one element of an address list.
#[derive(Default)]
struct Element {
    /// The words outside and inside angle brackets. Words with nothing between them are joined.
    outside: Vec<Range<usize>>,
    inside: Vec<Range<usize>>,
    is_open: bool,
    has_brackets: bool,
    /// Whether the element is invalid, or too unusual to be changed.
    is_odd: bool,
}

impl Element {
    fn word(&mut self, place: Range<usize>) {
        let words = if self.is_open { &mut self.inside } else { &mut self.outside };
        match words.last_mut() {
            Some(last) if last.end == place.start => last.end = place.end,
            _ => words.push(place),
        }
    }

    /// Returns the place of the address, if there is exactly one. The outer `None` means an unterminated bracket.
    fn address(self) -> Option<Option<Range<usize>>> {
        if self.is_open {
            return None;
        }
        let words = if self.has_brackets { self.inside } else { self.outside };
        match <[_; 1]>::try_from(words) {
            Ok([only]) if !self.is_odd => Some(Some(only)),
            _ => Some(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::{super::header_length, *};

    const STAMPS: &str = "Date: Thu, 1 Jan\nMessage-Id: <0@x>\n";

    fn completion(name: &str) -> HeaderCompletion<'static> {
        HeaderCompletion::new(Mailbox::new(name, "root@router.example").unwrap())
    }

    fn completed(completion: &HeaderCompletion<'_>, message: impl AsRef<[u8]>) -> String {
        String::from_utf8(completion.complete(message.as_ref()).unwrap()).unwrap()
    }

    /// Replaces each address with the name of its field and the address itself.
    fn marked(list: &str) -> String {
        let mark =
            |field: &str, address: &str| Address::new(&format!("{field}.{}", address.replace('@', "%"))).ok();
        let message = format!("{STAMPS}From: a@b\nResent-CC :{list}");
        let text = completed(&completion("").map_addresses(mark), message);
        text.split_once("CC :").unwrap().1.to_owned()
    }

    #[test]
    fn what_looks_like_fields_in_a_text_without_a_header_stays_in_the_body() {
        for text in ["Backup done\nDate: Monday\nFrom: disk1\n", " From: a@b\nDate: x\n", "\tx\n\ny\n"] {
            let whole = completed(&completion(""), text);
            let (header, body) = whole.split_once("\r\n\r\n").unwrap();
            assert_eq!(body, text);
            let names: Vec<_> = header.lines().map(|line| line.split(':').next().unwrap()).collect();
            assert_eq!(names, ADDED);
        }
    }

    #[test]
    fn addresses_are_found_in_lists() {
        for (list, expected) in [
            (" root (Cron Daemon)\r\n", " Cc.root (Cron Daemon)\r\n"),
            (" Root <root>, b@x ,\r\n c\n", " Root <Cc.root>, Cc.b%x ,\r\n Cc.c\n"),
            ("\"A, B\" <a@x>", "\"A, B\" <Cc.a%x>"),
            ("team: a, b@[1.2.3.4];", "team: Cc.a, b@[1.2.3.4];"),
            ("undisclosed-recipients:;", "undisclosed-recipients:;"),
            ("(nested (comment) a@b) x", "(nested (comment) a@b) Cc.x"),
            ("(folded\r\n comment) x", "(folded\r\n comment) Cc.x"),
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
    }

    #[test]
    fn names_that_are_not_utf8_are_kept() {
        let message = [STAMPS.as_bytes(), b"From: \xff <a>\n\n"].concat();
        let completion =
            completion("").map_addresses(|_, address| Address::new(&format!("{address}@b")).ok());
        assert!(completion.complete(&message).unwrap().ends_with(b"From: \xff <a@b>\n\n"));
    }

    #[test]
    fn only_address_fields_are_changed() {
        let message = format!(
            "{STAMPS}From: root (Cron Daemon)\nSender: me\nTo: root, me@router,\n\tX <x@y>\nCc: Me <me>\nX-To: root\n\nTo: root\n"
        );
        let map = |field: &str, address: &str| match (field, address) {
            ("Sender", "me") => Address::new("me@example.org").ok(),
            _ if address.contains('@') => None,
            _ => Address::new(&format!("{address}@router")).ok(),
        };
        assert_eq!(
            completed(&completion("").map_addresses(map), message),
            format!(
                "{STAMPS}From: root@router (Cron Daemon)\nSender: me@example.org\nTo: root@router, me@router,\n\tX <x@y>\n\
                 Cc: Me <me@router>\nX-To: root\n\nTo: root\n"
            )
        );
    }

    #[test]
    fn missing_fields_are_added_in_front() {
        let text = completed(&completion(""), "Subject: x\n\nbody\n");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            (lines[0], lines[3], lines[4], lines[5]),
            ("From: root@router.example", "Subject: x", "", "body")
        );
        assert!(lines[1].starts_with("Date: ") && lines[1].ends_with(" +0000"), "{text}");
        assert!(lines[2].starts_with("Message-ID: <") && lines[2].ends_with("@router.example>"), "{text}");
        let local = HeaderCompletion::new(Address::new("root").unwrap().into());
        assert!(completed(&local, "").contains("@localhost>\r\n"));
    }

    #[test]
    fn empty_fields_are_replaced() {
        let message = format!("{STAMPS}From: \nSubject: x\nfrom:\n\n");
        let expected = format!("From: \"R. Oot\" <root@router.example>\r\n{STAMPS}Subject: x\n\n");
        assert_eq!(completed(&completion("R. Oot"), message), expected);
        // Where an empty field was between a CR and an LF, they must not become one line ending.
        let message = format!("{STAMPS}From: a@b\nX: y\rDate:\n\nbody");
        assert!(completed(&completion(""), message).ends_with("X: y\r\n\nbody"));
    }

    #[test]
    fn complete_messages_stay_as_they_are() {
        for message in [
            "From: a@b\nTo: c@d\n\nFrom: root\nTo: root\n",
            "from : a@b\r\n\r\n",
            "From: a@b\rX: root\r\rTo: root\r",
            "From: a@b\nnot a field\nTo: x@y\n\n",
        ] {
            let message = format!("{STAMPS}{message}");
            assert_eq!(completed(&completion("x"), &message), message);
        }
    }

    #[test]
    fn text_without_headers_becomes_the_body() {
        for (message, rest) in [
            ("hello world\nTo: x\n", "\r\nhello world\nTo: x\n"),
            (" indented: x\n", "\r\n indented: x\n"),
            ("", "\r\n"),
            ("\nhello\n", "\nhello\n"),
        ] {
            let text = completed(&completion(""), message);
            assert_eq!(text.split_once("example>\r\n").unwrap().1, rest);
        }
    }

    #[test]
    fn the_author_is_quoted_or_encoded_and_folded() {
        let long = "Ångström ".repeat(20);
        for (name, expected) in [
            ("Ann Other", "Ann Other <root@router.example>"),
            ("A, B", "\"A, B\" <root@router.example>"),
            ("Jörg", "=?utf-8?b?SsO2cmc=?= <root@router.example>"),
            (&long, "=?utf-8?b?"),
        ] {
            let text = completed(&completion(name), "");
            let from = text.split_once("\r\nDate").unwrap().0;
            assert!(from.starts_with(&format!("From: {expected}")), "{text}");
            assert!(from.split("\r\n").all(|line| line.len() <= 78), "{text}");
        }
        let error = completion("x\r\nBcc: c@d").complete(b"").unwrap_err();
        assert_eq!(error.to_string(), "invalid header From: control character in a name");
        assert!(completion("x\r\n").complete(b"From: a@b\n\n").is_ok());
    }

    #[test]
    fn long_lists_take_linear_time() {
        for piece in ["a,", "a:", "<", "(", "\"", "a <b>,\n ", "\r", "a", ";", "("] {
            marked(&piece.repeat(1 << 17));
        }
    }

    proptest! {
        #[test]
        fn the_body_and_all_other_text_stay(
            pieces in vec(select(vec![
                "To: ", "From: ", "a", "@", "b", ":", " ", "\t", "\r\n", "\n", "\r", "\n\n", "<", ">", ",", ";", "\"",
                "(", ")", "\\", "é",
            ]), 0..40)
        ) {
            let message = format!("{STAMPS}From: a@b\nSubject: x\n{}", pieces.concat());
            let kept = completed(&completion(""), &message);
            let is_empty = |field: &[u8]| value(field, "From").is_some_and(|text| text.trim_ascii().is_empty());
            if !fields(message.as_bytes()).any(is_empty) {
                prop_assert_eq!(&kept, &message);
            }
            let map = |_: &str, address: &str| Address::new(&format!("{address}@example.org")).ok();
            let mapped = completed(&completion("").map_addresses(map), &message);
            let body = header_length(message.as_bytes()).map_or("", |length| &message[length..]);
            prop_assert!(mapped.ends_with(body));
            prop_assert_eq!(mapped.replace("@example.org", ""), kept);
        }
    }
}
