//! Mail addresses as used in envelopes. They are checked here, once, so that no address can end a command.

use std::{borrow::Borrow, fmt, str::FromStr};

use crate::{Error, a_label::a_label};

/// Maximum length of a local part, in octets (RFC 5321 §4.5.3.1.1).
const MAX_LOCAL_PART: usize = 64;
/// Maximum length of a path without its two angle brackets, in octets (RFC 5321 §4.5.3.1.3). No domain in such
/// a path can exceed its own limit of 255.
const MAX_PATH: usize = 254;

/// A mail address as used in an envelope: `alice@example.org`, `"a b"@example.org`, or a local name such as
/// `postmaster`.
///
/// An address is kept exactly as it was written, including quotes. It contains no control characters and, outside a
/// quoted local part or an address literal, no spaces, angle brackets or other special characters, so it cannot end the
/// SMTP command that contains it (RFC 5321 §4.1.2). Non-ASCII characters are allowed (RFC 6531). Mail from or to such
/// an address requires a server that offers SMTPUTF8, unless only the domain is non-ASCII and the `idna` feature is
/// enabled.
///
/// Comparison, including with strings, is octet by octet and therefore case-sensitive.
///
/// ```
/// use postino::Address;
///
/// let address: Address = "Alice <alice@example.org>".parse()?;
/// assert_eq!(address, "alice@example.org");
/// assert!("a@x>\r\nRCPT TO:<b@x".parse::<Address>().is_err());
/// # Ok::<(), postino::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address(Box<str>);

impl Address {
    /// Parses an address: bare, in angle brackets, or in angle brackets after a display name, which is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if the address is empty, too long (more than 64 octets in the local part, or more than 254 in
    /// total), or invalid.
    pub fn new(text: &str) -> Result<Address, Error> {
        let refuse = |why| Error::Address { input: text.to_owned(), why, header: None };
        if text.chars().any(char::is_control) {
            return Err(refuse("control character"));
        }
        let mailbox = bare(text.trim_matches(' ')).map_err(refuse)?;
        check(mailbox).map_err(refuse)?;
        Ok(Address(mailbox.into()))
    }

    /// Returns the address exactly as it was written, without a display name or angle brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the local part, which is everything before the last `@`, including any quotes. A local name such as
    /// `postmaster` is returned in full.
    #[must_use]
    pub fn local_part(&self) -> &str {
        split(&self.0).0
    }

    /// Returns the part after the last `@`, or `None` for a local name such as `postmaster`.
    #[must_use]
    pub fn domain(&self) -> Option<&str> {
        split(&self.0).1
    }

    /// Returns this address with a recipient in its local part, such as `bounces+bob=example.net@example.org` (variable
    /// envelope return path). If the result is the envelope's sender, the address that receives a bounce identifies
    /// the recipient, whatever the bounce contains. Each recipient then needs a separate envelope. The server for this
    /// address must accept any text after the `+`, and preserve it. With the `idna` feature, the recipient's non-ASCII
    /// domain becomes an A-label (`xn--…`) if the recipient's local part is ASCII. If the resulting local part is not
    /// ASCII, the server that the message is sent to must offer SMTPUTF8. Postfix can create such addresses for all
    /// recipients of an envelope: [`MailOption::Xverp`](crate::MailOption::Xverp).
    ///
    /// ```
    /// # use postino::Address;
    /// let sender = Address::new("bounces@example.org")?.verp(&Address::new("bob@example.net")?)?;
    /// assert_eq!(sender, "bounces+bob=example.net@example.org");
    /// # Ok::<(), postino::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Address`] if either address has no domain or has a quoted local part, if the recipient's domain is an
    /// address literal, or if the result is too long (over 64 octets in the local part, or 254 in the whole address).
    pub fn verp(&self, recipient: &Address) -> Result<Address, Error> {
        let refused =
            |address: &Address, why| Error::Address { input: address.as_str().to_owned(), why, header: None };
        let parts = |address: &'_ Address| match address.domain() {
            None => Err(refused(address, "no @")),
            Some(_) if address.local_part().starts_with('"') => Err(refused(address, "quoted local part")),
            Some(domain) => Ok((address.local_part().to_owned(), domain.to_owned())),
        };
        let ((sender, own_domain), (local, mut domain)) = (parts(self)?, parts(recipient)?);
        if domain.starts_with('[') {
            return Err(refused(recipient, "address literal"));
        }
        if local.is_ascii() && !domain.is_ascii() {
            domain = a_label(&domain).unwrap_or(domain);
        }
        Address::new(&format!("{sender}+{local}={domain}@{own_domain}"))
    }

    /// Returns whether the address is ASCII, so that it can be sent without SMTPUTF8.
    #[must_use]
    pub(crate) fn is_ascii(&self) -> bool {
        self.0.is_ascii()
    }

    /// Returns the address with its domain as an A-label, if that makes it ASCII.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the local part is not ASCII, or if the `idna` feature is off.
    pub(crate) fn without_utf8(&self) -> Result<Address, Error> {
        match self.domain() {
            _ if self.is_ascii() => Ok(self.clone()),
            Some(domain) if self.local_part().is_ascii() => {
                let domain = a_label(domain).map_err(|_| Error::Unsupported(NO_A_LABEL))?;
                Address::new(&format!("{}@{domain}", self.local_part()))
            }
            _ => Err(Error::Unsupported("SMTPUTF8, which is needed for a non-ASCII address")),
        }
    }
}

/// Error text for a domain that cannot be sent to a server without SMTPUTF8.
const NO_A_LABEL: &str = if cfg!(feature = "idna") {
    "SMTPUTF8, and the domain of an address is not a valid internationalized domain name"
} else {
    "SMTPUTF8, which is needed for a non-ASCII domain (use its A-label, xn--…, or build with the `idna` feature)"
};

/// Turns `Name <mailbox>` and `<mailbox>` into `mailbox`. Other text is returned as it is.
fn bare(text: &str) -> Result<&str, &'static str> {
    let Some(inside) = text.strip_suffix('>') else { return Ok(text) };
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in inside.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '<' if !quoted => return Ok(&inside[at + 1..]),
            '>' if !quoted => break,
            _ => {}
        }
    }
    Err("> without <")
}

/// Splits at the `@` after the local part, quoted or not.
fn split(mailbox: &str) -> (&str, Option<&str>) {
    match mailbox.rfind('@') {
        // The last @ of `"a@b"` is inside the quotes: there is no domain.
        Some(at) if !mailbox.ends_with('"') => (&mailbox[..at], Some(&mailbox[at + 1..])),
        _ => (mailbox, None),
    }
}

fn check(mailbox: &str) -> Result<(), &'static str> {
    let (local, domain) = split(mailbox);
    if mailbox.is_empty() {
        return Err("empty");
    }
    if mailbox.len() > MAX_PATH {
        return Err("longer than 254 octets");
    }
    match local.strip_prefix('"') {
        Some(rest) => check_quoted(rest)?,
        None if domain.is_none() && local.contains(char::is_whitespace) => return Err("no @"),
        None => check_dot_string(local)?,
    }
    if local.len() > MAX_LOCAL_PART {
        return Err("local part longer than 64 octets");
    }
    domain.map_or(Ok(()), check_domain)
}

/// Checks the rest of a quoted local part, after its first quote: `qtext`, `\x`, and the closing quote.
fn check_quoted(rest: &str) -> Result<(), &'static str> {
    let mut chars = rest.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.next().is_none() => break,
            '"' if chars.next().is_none() => return Ok(()),
            '"' => return Err("text after the quoted local part"),
            _ => {}
        }
    }
    Err("no closing quote in the local part")
}

fn check_dot_string(local: &str) -> Result<(), &'static str> {
    match local {
        "" => Err("no local part"),
        _ if local.contains('@') && local.contains([',', ';']) => Err("more than one address"),
        _ if local.contains(char::is_whitespace) => Err("space in the local part"),
        _ if local.contains(['<', '>']) => Err("angle bracket in the local part"),
        _ if local.contains('@') => Err("more than one @"),
        _ if local.contains(['"', '(', ')', ',', ':', ';', '[', ']', '\\']) => {
            Err("unquoted special character in the local part")
        }
        _ => Ok(()),
    }
}

fn check_domain(domain: &str) -> Result<(), &'static str> {
    let literal = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let letters = literal.unwrap_or(domain);
    let special = |c: char| match c {
        ':' => literal.is_none(),
        '.' | '-' | '_' => false,
        _ => c.is_ascii() && !c.is_ascii_alphanumeric(),
    };
    match letters {
        "" => Err("no domain"),
        _ if letters.contains(char::is_whitespace) => Err("space in the domain"),
        _ if letters.contains(special) => Err("invalid character in the domain"),
        _ if literal.is_none() && (domain.starts_with('.') || domain.contains("..")) => {
            Err("empty label in the domain")
        }
        _ => Ok(()),
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Address, Error> {
        Address::new(text)
    }
}

impl TryFrom<&str> for Address {
    type Error = Error;

    fn try_from(text: &str) -> Result<Address, Error> {
        Address::new(text)
    }
}

impl TryFrom<String> for Address {
    type Error = Error;

    fn try_from(text: String) -> Result<Address, Error> {
        Address::new(&text)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.0.into()
    }
}

impl PartialEq<str> for Address {
    fn eq(&self, text: &str) -> bool {
        *self.0 == *text
    }
}

impl PartialEq<&str> for Address {
    fn eq(&self, text: &&str) -> bool {
        *self.0 == **text
    }
}

impl Borrow<str> for Address {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Address {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verp_puts_the_recipient_into_the_local_part() {
        let address = |text: &str| Address::new(text).unwrap();
        let sender = address("bounces@example.org");
        assert_eq!(
            sender.verp(&address("b.ob@example.net")).unwrap(),
            "bounces+b.ob=example.net@example.org"
        );
        for (sender, recipient, why) in [
            ("bounces@a", "postmaster", "no @"),
            ("postmaster", "a@b", "no @"),
            ("bounces@a", "\"x y\"@b", "quoted local part"),
            ("\"x y\"@b", "a@b", "quoted local part"),
            ("bounces@a", "a@[192.0.2.1]", "address literal"),
            ("bounces@a", "a@[IPv6:2001:db8::1]", "address literal"),
        ] {
            let error = address(sender).verp(&address(recipient)).unwrap_err();
            assert!(error.to_string().ends_with(why), "{error}");
        }
        let literal = address("bounces@[192.0.2.1]").verp(&address("bob@Example.net")).unwrap();
        assert_eq!(literal, "bounces+bob=Example.net@[192.0.2.1]");
        let foreign = sender.verp(&address("bob@bücher.example")).unwrap();
        let domain = if cfg!(feature = "idna") { "xn--bcher-kva.example" } else { "bücher.example" };
        assert_eq!(foreign, format!("bounces+bob={domain}@example.org").as_str());
        let foreign = sender.verp(&address("jörg@bücher.example")).unwrap();
        assert_eq!(foreign, "bounces+jörg=bücher.example@example.org");
        let long = address(&format!("{}@example.net", "x".repeat(60)));
        assert!(matches!(sender.verp(&long), Err(Error::Address { .. })));
    }

    #[test]
    fn valid_addresses_are_kept_verbatim() {
        for text in [
            "a@b",
            "postmaster",
            "\"a b\"@x",
            "\"a>b\"@x",
            "\"a\\\"b\"@x",
            "\"a@b\"@x",
            "\"a> ORCPT=x\"@e",
            "\"only local\"",
            "jörg@bücher.example",
            "a@[127.0.0.1]",
            "a@[IPv6:::1]",
            "a+b=c/d!e#f@sub.example.org",
            "a@x_y.example",
        ] {
            assert_eq!(Address::new(text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn a_display_name_is_dropped() {
        for text in ["Alice <a@b>", "\"Al <x>\" <a@b>", "<a@b>", " a@b ", "\"A \\\" <x@y>\" <a@b>"] {
            assert_eq!(Address::new(text).unwrap().as_str(), "a@b", "{text}");
        }
        let address = Address::new("\\<a@b>").unwrap();
        assert_eq!(AsRef::<str>::as_ref(&address), "a@b", "nothing is escaped outside quotes");
    }

    #[test]
    fn a_quoted_at_sign_does_not_start_the_domain() {
        let address = Address::new("\"a@b\"").unwrap();
        assert_eq!((address.local_part(), address.domain()), ("\"a@b\"", None));
        let address = Address::new("\"a@b\"@x").unwrap();
        assert_eq!((address.local_part(), address.domain()), ("\"a@b\"", Some("x")));
    }

    #[test]
    fn address_errors_state_the_reason() {
        for (text, why) in [
            ("bob smith", "\"bob smith\": no @"),
            ("a b@x", "\"a b@x\": space in the local part"),
            ("a@x, b@y", "more than one address"),
            ("@x", "no local part"),
            ("a@x y", "space in the domain"),
            ("a@x\u{a0}y", "space in the domain"),
            ("a@x(y", "character"),
            ("a@[x", "character"),
            ("a@b..c", "empty label"),
            ("a@", "\"a@\": no domain"),
        ] {
            let error = Address::new(text).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    // Threats 20 and 21.
    #[test]
    fn malformed_addresses_and_injection_attempts_are_refused() {
        for text in [
            "",
            " ",
            "<>",
            "a b@x",
            "a@x y",
            "a@x>",
            "a@x> <b@x>",
            "a@b@c",
            "a@",
            "@b",
            "a@x\r\nRCPT TO:<b@x>",
            "\"a\r\nb\"@x",
            "a\0@x",
            "a\t@x",
            "a\x7f@x",
            "a@\u{85}x",
            "\"a@x",
            "\"a\"b@x",
            "\"a\\\"@x",
            "a\u{a0}b@x",
            "a@x,b@y",
            "a@b..c",
            "a@x SIZE=1",
            "a@[1.2.3.4",
            "Alice <a@b> x>",
            "\"a\"b\"@x",
            "a<b@x",
            "a>b@x",
            "a(b@x",
            "a)b@x",
            "a,b@x",
            "a:b@x",
            "a;b@x",
            "a[b@x",
            "a]b@x",
            "a\\b@x",
            "a\"b@x",
        ] {
            assert!(Address::new(text).is_err(), "{text:?} passed as {:?}", Address::new(text));
        }
    }

    // Threat 26.
    #[test]
    fn overlong_addresses_are_refused() {
        assert!(Address::new(&format!("{}@x", "l".repeat(64))).is_ok());
        assert!(Address::new(&format!("{}@x", "l".repeat(65))).is_err());
        assert!(Address::new(&format!("{}@x", "l".repeat(300))).is_err());
        assert!(Address::new(&format!("a@{}", "d".repeat(253))).is_err());
    }

    #[cfg(feature = "idna")]
    #[test]
    fn without_smtputf8_a_domain_is_converted_to_a_labels() {
        let ascii = |text: &str| Address::new(text).unwrap().without_utf8();
        assert_eq!(ascii("\"b c\"@bücher.example").unwrap().as_str(), "\"b c\"@xn--bcher-kva.example");
        assert_eq!(ascii("postmaster").unwrap().as_str(), "postmaster");
        for bad in ["jörg@example.org", "jörg", "a@-ü.example"] {
            assert!(matches!(ascii(bad), Err(Error::Unsupported(_))), "{bad}");
        }
    }

    #[cfg(not(feature = "idna"))]
    #[test]
    fn without_smtputf8_the_error_names_the_idna_feature() {
        let error = Address::new("b@bücher.example").unwrap().without_utf8().unwrap_err();
        assert!(matches!(error, Error::Unsupported(text) if text.contains("`idna`")));
    }
}
