//! Settings of well-known services, by name. `src/guide/providers.md` shows the table.

use crate::{Error, Security};

use super::Config;

/// Maximum number of characters shown of an unknown name.
const MAX_SHOWN: usize = 40;

/// The settings of a well-known mail service. The [list of providers](crate::guide::providers) shows all services.
///
/// [`Provider::find`] looks up a service, and [`Client::provider`](crate::Client::provider) returns a builder for it.
///
/// ```
/// use postino::{Provider, Security};
///
/// let fastmail = Provider::find("Fastmail")?;
/// assert_eq!((fastmail.host, fastmail.port, fastmail.security), ("smtp.fastmail.com", 465, Security::Implicit));
/// println!("{}: {}", fastmail.name, fastmail.login);
/// # Ok::<(), postino::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Provider {
    /// The name of the service, in lower case.
    pub name: &'static str,
    /// Other names by which [`find`](Provider::find) finds the service.
    pub aliases: &'static [&'static str],
    /// The host name of the submission server.
    pub host: &'static str,
    /// The port of the submission server.
    pub port: u16,
    /// How the connection is secured: [`Security::Implicit`] or [`Security::StartTls`].
    pub security: Security,
    /// A human-readable description of the user name and password that the service expects.
    pub login: &'static str,
    /// The web page that documents the settings of the service.
    pub source: &'static str,
}

const fn provider(
    name: &'static str,
    aliases: &'static [&'static str],
    host: &'static str,
    login: &'static str,
    source: &'static str,
) -> Provider {
    Provider { name, aliases, host, port: 465, security: Security::Implicit, login, source }
}

/// Changes the settings for a service that offers only STARTTLS, or recommends it.
const fn starttls(p: Provider) -> Provider {
    Provider { port: 587, security: Security::StartTls, ..p }
}

/// Each source was read in November 2026.
const TABLE: &[Provider] = &[
    provider(
        "aol",
        &["aol.com"],
        "smtp.aol.com",
        "address; app password, or OAuth",
        "https://github.com/thunderbird/autoconfig/blob/master/ispdb/aol.com.xml",
    ),
    provider(
        "brevo",
        &["sendinblue"],
        "smtp-relay.brevo.com",
        "SMTP login; SMTP key (not an API key)",
        "https://developers.brevo.com/docs/smtp-integration",
    ),
    provider(
        "fastmail",
        &["fastmail.com"],
        "smtp.fastmail.com",
        "address; app password",
        "https://www.fastmail.com/help/technical/servernamesandports.html",
    ),
    provider(
        "gmail",
        &["gmail.com", "google", "googlemail", "google-workspace"],
        "smtp.gmail.com",
        "address; app password, or OAuth",
        "https://github.com/thunderbird/autoconfig/blob/master/ispdb/googlemail.com.xml",
    ),
    provider(
        "gmx",
        &["gmx.net", "gmx.de", "gmx.at", "gmx.ch"],
        "mail.gmx.net",
        "address; password (allow access in the settings first)",
        "https://github.com/thunderbird/autoconfig/blob/master/ispdb/gmx.net.xml",
    ),
    provider(
        "gmx.com",
        &[],
        "mail.gmx.com",
        "address; password (allow access in the settings first)",
        "https://github.com/thunderbird/autoconfig/blob/master/ispdb/gmx.com.xml",
    ),
    starttls(provider(
        "icloud",
        &["icloud.com", "me.com", "mac.com", "apple"],
        "smtp.mail.me.com",
        "address; app-specific password",
        "https://support.apple.com/en-us/102525",
    )),
    provider(
        "mailbox.org",
        &["mailbox"],
        "smtp.mailbox.org",
        "address; password, or app password",
        "https://kb.mailbox.org/en/private/e-mail/e-mail-configuration",
    ),
    provider(
        "mailgun",
        &["mailgun-us"],
        "smtp.mailgun.org",
        "SMTP user of the domain; its password",
        "https://documentation.mailgun.com/docs/mailgun/user-manual/sending-messages/send-smtp",
    ),
    provider(
        "mailgun-eu",
        &[],
        "smtp.eu.mailgun.org",
        "SMTP user of the domain; its password",
        "https://cloud.google.com/compute/docs/tutorials/sending-mail/using-mailgun",
    ),
    starttls(provider(
        "mailjet",
        &[],
        "in-v3.mailjet.com",
        "API key; secret key",
        "https://smtptester.org/guides/mailjet-smtp-test/",
    )),
    starttls(provider(
        "microsoft365",
        &["office365", "outlook365", "exchange-online"],
        "smtp.office365.com",
        "address; OAuth",
        "https://github.com/thunderbird/autoconfig/blob/master/ispdb/office365.com.xml",
    )),
    provider(
        "migadu",
        &[],
        "smtp.migadu.com",
        "address; password",
        "https://github.com/thunderbird/autoconfig/blob/master/ispdb/migadu.com.xml",
    ),
    starttls(provider(
        "outlook",
        &["outlook.com", "hotmail", "hotmail.com", "live", "live.com"],
        "smtp-mail.outlook.com",
        "address; OAuth",
        "https://github.com/thunderbird/autoconfig/blob/master/ispdb/hotmail.com.xml",
    )),
    provider(
        "posteo",
        &["posteo.de"],
        "posteo.de",
        "address; password",
        "https://github.com/thunderbird/autoconfig/blob/master/ispdb/posteo.de.xml",
    ),
    starttls(provider(
        "postmark",
        &["postmarkapp"],
        "smtp.postmarkapp.com",
        "server API token, as user and password",
        "https://postmarkapp.com/support/article/811-what-are-the-smtp-details-credentials-i-should-be-using",
    )),
    starttls(provider(
        "proton",
        &["protonmail", "proton.me"],
        "smtp.protonmail.ch",
        "address of a custom domain; SMTP token",
        "https://proton.me/support/smtp-submission",
    )),
    provider("resend", &[], "smtp.resend.com", "`resend`; API key", "https://resend.com/docs/send-with-smtp"),
    starttls(provider(
        "sendgrid",
        &["twilio-sendgrid"],
        "smtp.sendgrid.net",
        "`apikey`; API key",
        "https://www.twilio.com/docs/sendgrid/for-developers/sending-email/integrating-with-the-smtp-api",
    )),
    provider(
        "ses-eu-central-1",
        &["amazon-ses-eu-central-1"],
        "email-smtp.eu-central-1.amazonaws.com",
        "Amazon SES SMTP credentials (not an AWS access key)",
        "https://docs.aws.amazon.com/ses/latest/DeveloperGuide/smtp-connect.html",
    ),
    provider(
        "ses-eu-west-1",
        &["amazon-ses-eu-west-1"],
        "email-smtp.eu-west-1.amazonaws.com",
        "Amazon SES SMTP credentials (not an AWS access key)",
        "https://docs.aws.amazon.com/ses/latest/DeveloperGuide/smtp-connect.html",
    ),
    provider(
        "ses-us-east-1",
        &["amazon-ses-us-east-1"],
        "email-smtp.us-east-1.amazonaws.com",
        "Amazon SES SMTP credentials (not an AWS access key)",
        "https://docs.aws.amazon.com/ses/latest/DeveloperGuide/smtp-connect.html",
    ),
    provider(
        "ses-us-west-2",
        &["amazon-ses-us-west-2"],
        "email-smtp.us-west-2.amazonaws.com",
        "Amazon SES SMTP credentials (not an AWS access key)",
        "https://docs.aws.amazon.com/ses/latest/DeveloperGuide/smtp-connect.html",
    ),
    provider(
        "web.de",
        &[],
        "smtp.web.de",
        "address; password (allow access in the settings first)",
        "https://github.com/thunderbird/autoconfig/blob/master/ispdb/web.de.xml",
    ),
    provider(
        "yahoo",
        &["yahoo.com", "ymail"],
        "smtp.mail.yahoo.com",
        "address; app password, or OAuth",
        "https://github.com/thunderbird/autoconfig/blob/master/ispdb/yahoo.com.xml",
    ),
    provider(
        "yandex",
        &["yandex.ru", "yandex.com"],
        "smtp.yandex.com",
        "address; app password, or OAuth",
        "https://github.com/thunderbird/autoconfig/blob/master/ispdb/yandex.ru.xml",
    ),
    provider(
        "zoho",
        &["zoho.com", "zohomail"],
        "smtp.zoho.com",
        "address; password, or app password",
        "https://www.zoho.com/mail/help/zoho-smtp.html",
    ),
];

impl Provider {
    /// Returns all known services, ordered by name.
    #[must_use]
    pub fn all() -> &'static [Provider] {
        TABLE
    }

    /// Finds a service by its name or one of its aliases. Case is ignored, and so are spaces, dots and other
    /// punctuation: `Microsoft 365` finds `microsoft365`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for an unknown name. The error text lists similar names, if there are any.
    pub fn find(name: &str) -> Result<&'static Provider, Error> {
        let wanted = plain(name);
        let is_it = |provider: &&Provider| provider.names().any(|name| plain(name) == wanted);
        TABLE.iter().find(is_it).ok_or_else(|| unknown(name, &wanted))
    }

    fn names(&self) -> impl Iterator<Item = &'static str> {
        [self.name].into_iter().chain(self.aliases.iter().copied())
    }

    pub(crate) fn config(&self) -> Config {
        Config { port: Some(self.port), security: self.security, ..Config::new(self.host) }
    }
}

/// Returns the first letters and digits of a name, in lower case.
fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).take(MAX_SHOWN).collect()
}

fn unknown(name: &str, wanted: &str) -> Error {
    let is_near = |provider: &&Provider| {
        let near = |name: &str| {
            let name = plain(name);
            let part = wanted.len() >= 3 && (name.contains(wanted) || wanted.contains(&name));
            part || distance(&name, wanted) <= 2
        };
        !wanted.is_empty() && provider.names().any(near)
    };
    let near: Vec<&str> = TABLE.iter().filter(is_near).map(|provider| provider.name).collect();
    let shown: String = name.chars().take(MAX_SHOWN).collect();
    let text = match near.as_slice() {
        [] => format!(
            "unknown provider {shown:?}: the page postino::guide::providers lists the known names, and Client::builder takes the host of any other server"
        ),
        near => format!(
            "unknown provider {shown:?}: did you mean {}? The page postino::guide::providers lists all names",
            near.join(" or ")
        ),
    };
    Error::Config(text.into())
}

/// Returns the number of letters to insert, delete or replace to turn one name into the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, c) in a.chars().enumerate() {
        let mut before = i;
        row[0] = i + 1;
        for (j, d) in b.iter().enumerate() {
            let replaced = before + usize::from(c != *d);
            before = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_found_whatever_their_case_and_punctuation() {
        for (name, expected) in [
            ("gmail", "gmail"),
            ("GMail", "gmail"),
            ("Google Mail", "gmail"),
            ("Microsoft 365", "microsoft365"),
            ("Office_365", "microsoft365"),
            ("GMX.com", "gmx.com"),
            ("gmx", "gmx"),
            ("SES US-East-1", "ses-us-east-1"),
        ] {
            assert_eq!(Provider::find(name).unwrap().name, expected, "{name}");
        }
    }

    #[test]
    fn the_error_for_an_unknown_name_lists_similar_ones() {
        for (name, near) in [
            ("gmial", &["gmail"][..]),
            ("sendgird", &["sendgrid"]),
            ("amazon ses", &["ses-eu-west-1", "ses-us-east-1"]),
            ("outlok", &["outlook"]),
        ] {
            let error = Provider::find(name).unwrap_err().to_string();
            assert!(
                near.iter().all(|near| error.contains(near)) && error.contains("did you mean"),
                "{error}"
            );
        }
        for name in ["", "--", "mail.example.org", &"x".repeat(10_000), "\u{1b}[2J"] {
            let error = Provider::find(name).unwrap_err().to_string();
            assert!(error.contains("postino::guide::providers") && error.len() < 300, "{error}");
            assert!(!error.contains("did you mean") && !error.contains(char::is_control), "{error}");
        }
    }

    #[test]
    fn the_table_is_sorted_and_unambiguous_and_every_entry_can_be_used() {
        let names: Vec<&str> = TABLE.iter().map(|provider| provider.name).collect();
        assert!(names.is_sorted());
        let all: Vec<String> = TABLE.iter().flat_map(Provider::names).map(plain).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len(), "{all:?}");
        for provider in TABLE {
            let port = if provider.security == Security::Implicit { 465 } else { 587 };
            assert_eq!(provider.port, port, "{}", provider.name);
            assert!(provider.source.starts_with("https://"));
            let checked = provider.config().check();
            assert_eq!(checked.is_ok(), cfg!(any(feature = "native-tls", feature = "rustls")));
        }
    }

    #[test]
    fn the_page_shows_the_table() {
        let page = include_str!("../guide/providers.md");
        for provider in TABLE {
            let Provider { name, host, port, login, source, .. } = provider;
            let security = if provider.security == Security::Implicit { "TLS" } else { "STARTTLS" };
            let row =
                format!("| `{name}` | `{host}` | {port} | {security} | {login} | [source]({source}) |\n");
            assert!(page.contains(&row), "{row}");
        }
        assert_eq!(page.matches("[source](").count(), TABLE.len());
    }
}
