//! What a mail submission program adds to a message: a missing From, Date or Message-ID, and the domain of addresses without one.
//! All other octets stay as they are.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    process,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::headers::{fields, line_length, replace_addresses, split, value};

/// The fields with addresses that are completed.
const ADDRESS_FIELDS: &[&str] = &["From", "Sender", "Reply-To", "To", "Cc", "Bcc"];
/// The fields with the addresses of the sender, which are also rewritten.
const SENDER_FIELDS: &[&str] = &["From", "Sender"];

const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The domain of addresses without one, and the replacements of senders.
pub struct Domains<'c> {
    /// If empty, addresses stay as they are.
    pub domain: &'c str,
    pub rewrite: &'c [(String, String)],
}

impl Domains<'_> {
    /// Returns an address with the domain, if it has none.
    pub fn qualified(&self, address: &str) -> Option<String> {
        let is_atom = |octet: u8| {
            octet.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&octet) || octet >= 0x80
        };
        let is_name = !address.is_empty() && address.bytes().all(is_atom);
        (is_name && !self.domain.is_empty()).then(|| format!("{address}@{}", self.domain))
    }

    /// Returns the replacement of a sender: that of the address, else that of its domain, else that of `*`.
    pub fn rewritten(&self, address: &str) -> Option<String> {
        let (local, domain) = address.rsplit_once('@')?;
        let find = |name: String| self.rewrite.iter().find(|(from, _)| *from == name);
        let (_, target) = find(address.to_ascii_lowercase())
            .or_else(|| find(format!("@{}", domain.to_ascii_lowercase())))
            .or_else(|| find("*".to_owned()))?;
        Some(if target.starts_with('@') { format!("{local}{target}") } else { target.clone() })
    }

    /// Returns the address of a sender as it is sent, if it differs.
    pub fn sender(&self, address: &str) -> Option<String> {
        let qualified = self.qualified(address);
        self.rewritten(qualified.as_deref().unwrap_or(address)).or(qualified)
    }
}

/// The sender of a message without From.
pub struct Author<'a> {
    pub full_name: &'a str,
    pub address: &'a str,
}

/// Completes the headers at the start of a message. If they do not end within `head`, it must be the whole message.
pub fn complete(head: &[u8], author: &Author<'_>, domains: &Domains<'_>) -> Vec<u8> {
    let has = |name: &str| {
        fields(head).filter_map(|field| value(field, name)).any(|text| !text.trim_ascii().is_empty())
    };
    let mut result = Vec::with_capacity(head.len() + 256);
    let mut add =
        |name: &str, text: String| result.extend_from_slice(format!("{name}: {text}\r\n").as_bytes());
    if !has("From") {
        add("From", mailbox(author));
    }
    if !has("Date") {
        add("Date", date(SystemTime::now()));
    }
    if !has("Message-ID") {
        let domain = if domains.domain.is_empty() { "localhost" } else { domains.domain };
        add("Message-ID", format!("<{}@{domain}>", unique()));
    }
    let mut read = 0;
    for (number, field) in fields(head).enumerate() {
        match split(field) {
            // There are no headers: the text begins here.
            None if number == 0 => break,
            // A second field would be ambiguous.
            Some((name, text)) if is_added(name) && text[1..].trim_ascii().is_empty() => {}
            _ => push_completed(&mut result, field, domains),
        }
        read += field.len();
    }
    if read == 0 && !matches!(head.first(), Some(b'\r' | b'\n')) {
        result.extend_from_slice(b"\r\n");
    }
    result.extend_from_slice(&head[read..]);
    result
}

fn is_added(name: &[u8]) -> bool {
    ["From", "Date", "Message-ID"].iter().any(|added| name.eq_ignore_ascii_case(added.as_bytes()))
}

/// Adds a field with its addresses completed.
fn push_completed(result: &mut Vec<u8>, field: &[u8], domains: &Domains<'_>) {
    let is_one_of = |name: &[u8], names: &[&str]| {
        let name =
            if name.len() > 7 && name[..7].eq_ignore_ascii_case(b"Resent-") { &name[7..] } else { name };
        names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
    };
    let completed = split(field).and_then(|(name, text)| {
        let replaced = if is_one_of(name, SENDER_FIELDS) {
            replace_addresses(&text[1..], &|address| domains.sender(address))
        } else if is_one_of(name, ADDRESS_FIELDS) {
            replace_addresses(&text[1..], &|address| domains.qualified(address))
        } else {
            None
        };
        Some((&field[..field.len() - text.len() + 1], replaced?))
    });
    match completed {
        Some((name, text)) => {
            result.extend_from_slice(name);
            result.extend_from_slice(&text);
        }
        None => result.extend_from_slice(field),
    }
    debug_assert!(line_length(field) > 0);
}

/// Writes an address with a display name. A name beyond ASCII becomes an encoded word (RFC 2047).
fn mailbox(author: &Author<'_>) -> String {
    let name: String =
        author.full_name.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect();
    let name = name.trim();
    let is_atom = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~ ".contains(c);
    if name.is_empty() {
        author.address.to_owned()
    } else if !name.is_ascii() {
        format!("{} <{}>", encoded(name), author.address)
    } else if name.chars().all(is_atom) && !name.contains("=?") {
        format!("{name} <{}>", author.address)
    } else {
        format!("\"{}\" <{}>", name.replace('\\', "\\\\").replace('"', "\\\""), author.address)
    }
}

/// Encodes text in encoded words of at most 75 characters, in the encoding Q (RFC 2047 §4.2, §5).
fn encoded(text: &str) -> String {
    let mut words = vec![String::new()];
    for c in text.chars() {
        let piece = match c {
            ' ' => "_".to_owned(),
            'a'..='z' | 'A'..='Z' | '0'..='9' => c.to_string(),
            _ => c.encode_utf8(&mut [0; 4]).bytes().map(|octet| format!("={octet:02X}")).collect(),
        };
        match words.last_mut() {
            Some(word) if word.len() + piece.len() <= 63 => word.push_str(&piece),
            _ => words.push(piece),
        }
    }
    let words: Vec<_> = words.iter().map(|word| format!("=?utf-8?Q?{word}?=")).collect();
    words.join("\r\n ")
}

/// Formats a time as a date-time (RFC 5322 §3.3) in UTC.
pub fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let weekday = WEEKDAYS[(days % 7) as usize];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let month = MONTHS[month - 1];
    format!("{weekday}, {day} {month} {year} {hour:02}:{minute:02}:{second:02} +0000")
}

/// Computes year, month and day from the days since 1970-01-01 (Howard Hinnant, "chrono-compatible low-level date algorithms",
/// `civil_from_days`). Its years begin in March, so that a leap day is the last day of its year.
fn civil(days: u64) -> (u64, usize, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + u64::from(month <= 2), month as usize, day)
}

/// Returns 16 hexadecimal digits that are unique: for a Message-ID and for the log.
pub fn unique() -> String {
    // The keys of the hasher are random.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u128(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos());
    hasher.write_u32(process::id());
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use postino::message::header_length;

    use super::*;

    fn rules(rules: &[(&str, &str)]) -> Vec<(String, String)> {
        rules.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
    }

    /// Completes a message and removes the lines that are added to every one.
    fn completed(message: &str) -> String {
        let rewrite = rules(&[("me@router", "me@example.org")]);
        let domains = Domains { domain: "router", rewrite: &rewrite };
        let author = Author { full_name: "R. Oot", address: "root@router" };
        let text = String::from_utf8(complete(message.as_bytes(), &author, &domains)).unwrap();
        let lines = text.split_inclusive('\n');
        lines
            .filter(|line| !line.starts_with("Date: Thu, 1") && !line.starts_with("Message-ID: <0"))
            .collect()
    }

    #[test]
    fn missing_fields_are_added_in_front() {
        let author = Author { full_name: "", address: "a@b" };
        let domains = Domains { domain: "d.example", rewrite: &[] };
        let text = String::from_utf8(complete(b"Subject: x\n\nbody\n", &author, &domains)).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines[0], lines[3], lines[4], lines[5]), ("From: a@b", "Subject: x", "", "body"));
        assert!(lines[1].starts_with("Date: ") && lines[1].ends_with(" +0000"), "{text}");
        assert!(lines[2].starts_with("Message-ID: <") && lines[2].ends_with("@d.example>"), "{text}");
    }

    const STAMPS: &str = "Date: Thu, 1 Jan\nMessage-Id: <0@x>\n";

    #[test]
    fn complete_messages_stay_as_they_are() {
        for message in [
            "From: a@b\nTo: c@d\n\nFrom: root\nTo: root\n",
            "from : a@b\r\n\r\n",
            "From: a@b\rX: root\r\rTo: root\r",
            "From: a@b\nnot a field\nTo: x@y\n\n",
        ] {
            let message = format!("{STAMPS}{message}");
            let author = Author { full_name: "", address: "z@z" };
            let domains = Domains { domain: "router", rewrite: &[] };
            assert_eq!(complete(message.as_bytes(), &author, &domains), message.as_bytes(), "{message:?}");
        }
    }

    #[test]
    fn the_body_never_changes() {
        let mut state = 1_u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let pieces = [
            "To: ", "From: ", "a", "@", "b", ":", " ", "\t", "\r\n", "\n", "\r", "\n\n", "<", ">", ",", ";",
            "\"", "(", ")", "\\", "\u{e9}",
        ];
        let author = Author { full_name: "", address: "z@z" };
        let (as_is, domains) =
            (Domains { domain: "", rewrite: &[] }, Domains { domain: "router", rewrite: &[] });
        for _ in 0..20_000 {
            let text: String = (0..random(40)).map(|_| pieces[random(pieces.len())]).collect();
            let message = format!("{STAMPS}From: a@b\nSubject: x\n{text}");
            let unchanged = complete(message.as_bytes(), &author, &as_is);
            let body = header_length(message.as_bytes()).map_or("", |length| &message[length..]);
            // An empty From is left out.
            if !fields(text.as_bytes())
                .any(|field| value(field, "From").is_some_and(|text| text.trim_ascii().is_empty()))
            {
                assert_eq!(
                    unchanged.escape_ascii().to_string(),
                    message.as_bytes().escape_ascii().to_string()
                );
            }
            let completed = complete(message.as_bytes(), &author, &domains);
            assert!(completed.ends_with(body.as_bytes()), "{message:?} {}", completed.escape_ascii());
            let added = completed.iter().filter(|octet| **octet == b'\n').count();
            assert!(added <= message.matches('\n').count(), "{message:?}: nothing is broken into more lines");
        }
    }

    #[test]
    fn addresses_get_the_domain_and_senders_are_rewritten() {
        let message = format!(
            "{STAMPS}From: root (Cron Daemon)\nSender: me\nTo: root, me@router,\n\tX <x@y>\nCc: Me <me>\nX-To: root\n\nTo: root\n"
        );
        let expected = "From: root@router (Cron Daemon)\nSender: me@example.org\nTo: root@router, me@router,\n\tX <x@y>\n\
            Cc: Me <me@router>\nX-To: root\n\nTo: root\n";
        assert_eq!(completed(&message), expected.replacen("From", "Message-Id: <0@x>\nFrom", 1));
    }

    #[test]
    fn text_without_headers_becomes_the_body() {
        for (message, rest) in [
            ("hello world\nTo: x\n", "\r\nhello world\nTo: x\n"),
            (" indented: x\n", "\r\n indented: x\n"),
            ("", "\r\n"),
            ("\nhello\n", "\nhello\n"),
        ] {
            let author = Author { full_name: "", address: "a@b" };
            let domains = Domains { domain: "d", rewrite: &[] };
            let text = String::from_utf8(complete(message.as_bytes(), &author, &domains)).unwrap();
            let (_, after) = text.split_once("@d>\r\n").unwrap();
            assert_eq!(after, rest);
        }
    }

    #[test]
    fn an_empty_from_is_replaced() {
        assert_eq!(
            completed(&format!("{STAMPS}From: \nSubject: x\n\n")),
            "From: \"R. Oot\" <root@router>\r\nMessage-Id: <0@x>\nSubject: x\n\n"
        );
    }

    #[test]
    fn names_are_quoted_or_encoded() {
        for (full_name, expected) in [
            ("Ann Other", "Ann Other <a@b>"),
            ("O'Neill \"X\" \\", "\"O'Neill \\\"X\\\" \\\\\" <a@b>"),
            ("A, B", "\"A, B\" <a@b>"),
            ("Jörg K", "=?utf-8?Q?J=C3=B6rg_K?= <a@b>"),
            ("x\r\nBcc: c@d", "\"x  Bcc: c@d\" <a@b>"),
            (" ", "a@b"),
            ("=?x?=", "\"=?x?=\" <a@b>"),
        ] {
            assert_eq!(mailbox(&Author { full_name, address: "a@b" }), expected);
        }
        let long = mailbox(&Author { full_name: &"é".repeat(200), address: "a@b" });
        assert!(long.lines().all(|line| line.len() <= 78 + 6), "{long}");
    }

    #[test]
    fn rules_for_senders_are_applied_from_the_most_specific() {
        let rewrite = rules(&[
            ("*", "all@example.org"),
            ("@router", "@example.org"),
            ("root@router", "admin@example.org"),
        ]);
        let domains = Domains { domain: "router", rewrite: &rewrite };
        for (sender, expected) in [
            ("root@ROUTER", "admin@example.org"),
            ("Bob@router", "Bob@example.org"),
            ("root", "admin@example.org"),
            ("x@y", "all@example.org"),
        ] {
            assert_eq!(domains.sender(sender).as_deref(), Some(expected));
        }
        let none = Domains { domain: "", rewrite: &[] };
        assert_eq!((none.sender("root"), none.sender("a@b")), (None, None));
    }

    #[test]
    fn dates_have_the_form_of_rfc_5322() {
        for (seconds, expected) in [
            (0, "Thu, 1 Jan 1970 00:00:00 +0000"),
            (951_827_696, "Tue, 29 Feb 2000 12:34:56 +0000"),
            (4_102_444_799, "Thu, 31 Dec 2099 23:59:59 +0000"),
        ] {
            assert_eq!(date(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }
}
