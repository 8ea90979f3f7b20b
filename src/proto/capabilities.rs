//! The extensions that a server offers: the lines of its reply to EHLO (RFC 5321 §4.1.1.1).

use std::{collections::HashSet, fmt};

use super::ReplyRef;

/// Keywords that are checked for each message. They are looked up once: the index is that of a bit in `often`.
const OFTEN: [&str; 8] =
    ["PIPELINING", "CHUNKING", "8BITMIME", "SMTPUTF8", "SIZE", "BINARYMIME", "BURL", "LIMITS"];

/// Extensions that a server offers in its reply to EHLO: keywords with parameters. Keywords are case-insensitive.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    keywords: Vec<(String, String)>,
    /// Bits of the keywords of [`OFTEN`] that are offered.
    often: u8,
    size_limit: Option<u64>,
}

impl Capabilities {
    /// Reads the reply to EHLO. Its first line is the name of the server and not a keyword.
    #[doc(hidden)] // takes a type of `proto`
    #[must_use]
    pub fn parse(reply: ReplyRef<'_>) -> Capabilities {
        let lines = reply.text_lines().skip(1).map(String::from_utf8_lossy);
        let split = lines.filter_map(|line| {
            let line = line.trim();
            // `AUTH=PLAIN LOGIN` is the form from before RFC 2554.
            let old_auth = line.get(..5).filter(|start| start.eq_ignore_ascii_case("AUTH="));
            let (keyword, parameters) = match old_auth {
                Some(_) => ("AUTH", &line[5..]),
                None => line.split_once([' ', '\t']).unwrap_or((line, "")),
            };
            (!keyword.is_empty()).then(|| (keyword.to_ascii_uppercase(), parameters.trim().to_owned()))
        });
        Capabilities::of(split.collect())
    }

    fn of(keywords: Vec<(String, String)>) -> Capabilities {
        let mut all = Capabilities { keywords, often: 0, size_limit: None };
        for (number, keyword) in OFTEN.iter().enumerate() {
            all.often |= u8::from(all.parameters(keyword).is_some()) << number;
        }
        let digits = all.parameters("SIZE").filter(|size| !size.is_empty());
        let digits = digits.filter(|size| size.bytes().all(|b| b.is_ascii_digit()));
        all.size_limit = digits.map(|digits| digits.parse().unwrap_or(u64::MAX)).filter(|limit| *limit > 0);
        all
    }

    /// Returns the capabilities without these keywords, for servers whose extensions do not work as announced.
    #[must_use]
    pub(crate) fn without(mut self, keywords: &[impl AsRef<str>]) -> Capabilities {
        let is_ignored =
            |own: &str| keywords.iter().any(|keyword| keyword.as_ref().eq_ignore_ascii_case(own));
        self.keywords.retain(|(own, _)| !is_ignored(own));
        Capabilities::of(self.keywords)
    }

    /// Returns whether the server offers an extension, such as `PIPELINING`, `STARTTLS` or `8BITMIME`.
    #[must_use]
    #[inline]
    pub fn offers(&self, keyword: &str) -> bool {
        match OFTEN.iter().position(|often| *often == keyword) {
            Some(number) => self.often >> number & 1 == 1,
            None => self.parameters(keyword).is_some(),
        }
    }

    /// Returns the text after a keyword: empty if the keyword has no parameters, and `None` if it is not offered.
    #[must_use]
    pub fn parameters(&self, keyword: &str) -> Option<&str> {
        self.iter().find(|(k, _)| k.eq_ignore_ascii_case(keyword)).map(|(_, parameters)| parameters)
    }

    /// Returns all keywords, in upper case, with their parameters, in the server's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.keywords.iter().map(|(keyword, parameters)| (keyword.as_str(), parameters.as_str()))
    }

    /// Returns the maximum size of a message, in octets (SIZE, RFC 1870), or `None` if the server announces none.
    ///
    /// Also returns `None` if the value is 0 (no limit) or not a number. A number that does not fit in 64 bits counts
    /// as the largest that does.
    #[must_use]
    pub fn size_limit(&self) -> Option<u64> {
        self.size_limit
    }

    /// Returns one of the server's limits by name: `RCPTMAX`, `MAILMAX` or `RCPTDOMAINMAX` (LIMITS, RFC 9422).
    ///
    /// Returns `None` if the server does not announce the limit, or if its value is 0 or not a number.
    #[must_use]
    pub fn limit(&self, name: &str) -> Option<usize> {
        if !self.offers("LIMITS") {
            return None;
        }
        let words = self.parameters("LIMITS")?.split_ascii_whitespace();
        let mut limits = words.filter_map(|word| word.split_once('='));
        let (_, value) = limits.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        value.parse().ok().filter(|limit| *limit > 0)
    }

    /// Returns the names of the login mechanisms (AUTH, RFC 4954), in upper case and in the server's order. Each is
    /// returned only once, even if the server lists it twice, as many servers do.
    pub fn auth_mechanisms(&self) -> impl Iterator<Item = String> {
        let lists = self.iter().filter(|(keyword, _)| *keyword == "AUTH");
        let names = lists.flat_map(|(_, list)| list.split_ascii_whitespace()).map(str::to_ascii_uppercase);
        let mut seen = HashSet::new();
        names.filter(move |name| seen.insert(name.clone()))
    }
}

/// Formats the capabilities as a list: `PIPELINING, SIZE 1000`. Control characters from the server are not escaped.
impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (keyword, parameters)) in self.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            let space = if parameters.is_empty() { "" } else { " " };
            write!(f, "{comma}{keyword}{space}{parameters}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Capabilities").field(&self.keywords).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Inbox;

    fn capabilities(text: &str) -> Capabilities {
        let mut inbox = Inbox::default();
        inbox.room()[..text.len()].copy_from_slice(text.as_bytes());
        inbox.arrived(text.len());
        Capabilities::parse(inbox.next_reply().unwrap().unwrap())
    }

    // Threat 59.
    #[test]
    fn unusual_ehlo_lines_are_parsed() {
        let offered = capabilities(
            "250-STARTTLS is my name\r\n250-size\r\n250- Pipelining\r\n250-XSECURITY=NONE,STARTTLS\r\n250-\r\n\
             250-AUTH=PLAIN\r\n250-auth LOGIN plain\r\n250-X-AUTH=JUNK\r\n250 8bitmime \r\n",
        );
        assert!(!offered.offers("STARTTLS"), "neither the first line nor a part of a word is a keyword");
        assert!(offered.offers("pipelining") && offered.offers("8BITMIME"));
        assert_eq!(offered.size_limit(), None);
        assert_eq!(offered.auth_mechanisms().collect::<Vec<_>>(), ["PLAIN", "LOGIN"]);
        assert_eq!(capabilities("250 Ok SESSIONID=1\r\n"), Capabilities::default());
    }

    #[test]
    fn ignored_extensions_do_not_count_as_offered() {
        let offered =
            capabilities("250-me\r\n250-CHUNKING\r\n250-AUTH=PLAIN\r\n250-AUTH LOGIN\r\n250 SIZE 5\r\n");
        let left = offered.without(&["chunking", "AUTH"]);
        assert_eq!(left.iter().collect::<Vec<_>>(), [("SIZE", "5")]);
    }

    // Threat 44.
    #[test]
    fn a_size_that_is_zero_or_invalid_sets_no_limit() {
        for (line, limit) in [
            ("SIZE", None),
            ("SIZE 0", None),
            ("SIZE 1000", Some(1000)),
            ("SIZE 18446744073709551616", Some(u64::MAX)),
            ("SIZE -1", None),
            ("SIZE +5", None),
            ("SIZE x", None),
        ] {
            assert_eq!(capabilities(&format!("250-me\r\n250 {line}\r\n")).size_limit(), limit, "{line}");
        }
    }

    #[test]
    fn a_limit_that_is_zero_or_invalid_is_ignored() {
        for (line, limit) in [
            ("LIMITS RCPTMAX=5", Some(5)),
            ("LIMITS MAILMAX=2 rcptmax=1", Some(1)),
            ("LIMITS RCPTMAX=0", None),
            ("LIMITS RCPTMAX=x", None),
            ("LIMITS RCPTMAX", None),
            ("LIMITS MAILMAX=2", None),
            ("RCPTMAX=5", None),
        ] {
            assert_eq!(capabilities(&format!("250-me\r\n250 {line}\r\n")).limit("RCPTMAX"), limit, "{line}");
        }
    }
}
