//! Converts non-ASCII domains to A-labels (RFC 5890 §2.3.2.1); needs the `idna` feature.

/// Returns a domain in the form that the resolver, TLS, and servers without SMTPUTF8 understand, in lower case. ASCII
/// domains need no conversion.
#[cfg(feature = "idna")]
pub(crate) fn a_label(domain: &str) -> Result<String, &'static str> {
    idna::domain_to_ascii_strict(domain).map_err(|_| "it is not a valid internationalized domain name")
}

#[cfg(not(feature = "idna"))]
pub(crate) fn a_label(_: &str) -> Result<String, &'static str> {
    Err("it contains non-ASCII characters (use its A-label, xn--…, or build with the `idna` feature)")
}

#[cfg(all(test, feature = "idna"))]
mod tests {
    use super::*;

    #[test]
    fn unicode_domains_are_converted_to_a_labels() {
        for (domain, ascii) in [
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.Example", "xn--bcher-kva.example"),
            ("faß.de", "xn--fa-hia.de"), // UTS 46, non-transitional processing
            ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
        ] {
            assert_eq!(a_label(domain).as_deref(), Ok(ascii));
        }
    }

    #[test]
    fn invalid_domains_cannot_be_converted_to_a_labels() {
        for domain in
            ["bü cher.example", "bü\0cher", "bü..cher", "-bü.example", "xn--ü", "\u{301}a.example", "bü/x"]
        {
            assert!(a_label(domain).is_err(), "{domain:?}");
        }
        assert!(a_label(&"ü".repeat(64)).is_err());
    }
}
