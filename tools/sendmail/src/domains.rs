//! The domain of addresses without one, and the replacements of senders.

use postino::{
    Address, Error,
    message::{HeaderCompletion, Mailbox},
};

/// Maximum length of a name in From, in characters.
const MAX_NAME: usize = 200;

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
    fn rewritten(&self, address: &str) -> Option<String> {
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

/// Adds a missing From, Date and Message-ID, and completes and rewrites the addresses. If the headers do not end within
/// `head`, it must be the whole message.
pub fn complete(
    head: &[u8],
    full_name: &str,
    author: &Address,
    domains: &Domains<'_>,
) -> Result<Vec<u8>, Error> {
    let name =
        full_name.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_NAME).collect::<String>();
    let author = Mailbox::new(name.trim(), author.as_str())?;
    let map = |field: &str, address: &str| {
        let changed = match field {
            "From" | "Sender" => domains.sender(address),
            _ => domains.qualified(address),
        };
        Address::new(&changed?).ok()
    };
    HeaderCompletion::new(author).map_addresses(map).complete(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(rules: &[(&str, &str)]) -> Vec<(String, String)> {
        rules.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect()
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
    fn senders_are_rewritten_and_others_get_the_domain() {
        let rewrite = rules(&[("me@router", "me@example.org")]);
        let domains = Domains { domain: "router", rewrite: &rewrite };
        let author = Address::new("root@router").unwrap();
        let head =
            "Date: x\nMessage-ID: <a@b>\nFrom: root (Cron Daemon)\nSender: me\nTo: me, x@y\n\nTo: root\n";
        let expected = "Date: x\nMessage-ID: <a@b>\nFrom: root@router (Cron Daemon)\nSender: me@example.org\n\
            To: me@router, x@y\n\nTo: root\n";
        let completed = complete(head.as_bytes(), "", &author, &domains).unwrap();
        assert_eq!(String::from_utf8(completed).unwrap(), expected);
        let completed =
            complete(b"Date: x\nMessage-ID: <a@b>\n\n", " Ann\r\nBcc: c@d", &author, &domains).unwrap();
        assert!(
            completed.starts_with(b"From: =?utf-8?b?") || completed.starts_with(b"From: \"Ann  Bcc: c@d\" <")
        );
        assert_eq!(completed.iter().filter(|byte| **byte == b'\n').count(), 4);
    }
}
