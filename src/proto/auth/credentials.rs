//! Credentials, and the mechanisms that they can be used with.

use std::{fmt, sync::Arc};

use super::{
    Mechanism,
    table::{self, Context, Uses},
};
use crate::Error;

/// Maximum length of the trace of ANONYMOUS, in characters (RFC 4505 §2).
const MAX_TRACE: usize = 255;

const NUL: &str = "the user name or the password contains a NUL byte";

/// Login credentials for [`Client::auth`](crate::Client::auth). They never appear in `Debug` output, logs or
/// errors.
#[derive(Clone)]
pub struct Credentials(Kind);

#[derive(Clone)]
pub(super) enum Kind {
    Password { user: Box<[u8]>, password: Option<Box<[u8]>> },
    Token { user: Box<str>, token: Option<Box<str>> },
    External(Box<str>),
    Anonymous(Box<str>),
    Custom { name: Box<str>, new: Arc<dyn Fn() -> Box<dyn Mechanism> + Send + Sync> },
}

impl Credentials {
    /// Creates credentials from a user name and a password. Text is sent as UTF-8; octets are sent unchanged.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the user name is empty, or if either value contains a NUL, which RFC 4616 forbids.
    pub fn new(user: impl AsRef<[u8]>, password: impl AsRef<[u8]>) -> Result<Credentials, Error> {
        Credentials::password_later(user)?.with_password(password.as_ref())
    }

    /// Creates credentials for a user whose password is not known yet; see
    /// [`token_later`](Credentials::token_later).
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the user name is empty or contains a NUL.
    #[doc(hidden)]
    pub fn password_later(user: impl AsRef<[u8]>) -> Result<Credentials, Error> {
        let user = user.as_ref();
        if user.is_empty() {
            return Err(Error::Config("the user name is empty".into()));
        }
        if user.contains(&0) {
            return Err(Error::Config(NUL.into()));
        }
        Ok(Credentials(Kind::Password { user: user.into(), password: None }))
    }

    /// Creates credentials from a user name and an OAuth access token, for OAUTHBEARER and XOAUTH2.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the user name is empty or contains a control character, or if the token is empty or
    /// contains anything other than visible ASCII characters (RFC 6750 §2.1), such as a line ending.
    pub fn token(user: &str, token: &str) -> Result<Credentials, Error> {
        Credentials::token_later(user)?.with_secret(token)
    }

    /// Creates credentials for a user whose token is not known yet. This is hidden because only a dialogue can ask
    /// for the token ([`Want::Secret`](crate::proto::Want::Secret)): when it is needed, and once more if the server
    /// refuses it. The second token is used only if it differs.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the user name is empty or contains a control character.
    #[doc(hidden)]
    pub fn token_later(user: &str) -> Result<Credentials, Error> {
        if user.is_empty() || user.contains(char::is_control) {
            return Err(Error::Config(
                "the user name for the token is empty or contains a control character".into(),
            ));
        }
        Ok(Credentials(Kind::Token { user: user.into(), token: None }))
    }

    /// Creates credentials for a client that the server already knows, usually by its TLS certificate (EXTERNAL, RFC
    /// 4422 appendix A). `authorization` is the identity to act as; leave it empty to act as the client itself.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if `authorization` contains a NUL.
    pub fn external(authorization: &str) -> Result<Credentials, Error> {
        if authorization.contains('\0') {
            return Err(Error::Config("the authorization identity for EXTERNAL contains a NUL byte".into()));
        }
        Ok(Credentials(Kind::External(authorization.into())))
    }

    /// Creates credentials for an anonymous login (ANONYMOUS, RFC 4505). `trace` is information for the server's log,
    /// such as an email address. It may be empty.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if `trace` contains a control character or more than 255 characters.
    pub fn anonymous(trace: &str) -> Result<Credentials, Error> {
        if trace.contains(char::is_control) || trace.chars().count() > MAX_TRACE {
            return Err(Error::Config(
                "the trace for ANONYMOUS contains a control character or is longer than 255 characters"
                    .into(),
            ));
        }
        Ok(Credentials(Kind::Anonymous(trace.into())))
    }

    /// Creates credentials from a custom mechanism. Every login uses a new clone of it.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if the name of the mechanism is invalid (RFC 4422 §3.1).
    pub(crate) fn custom(mechanism: impl Mechanism + Clone + 'static) -> Result<Credentials, Error> {
        let name: Box<str> = mechanism.name().into();
        check_name(&name)?;
        Ok(Credentials(Kind::Custom { name, new: Arc::new(move || Box::new(mechanism.clone())) }))
    }

    /// Returns an error unless this build has the mechanism and it fits the credentials.
    pub(crate) fn check_mechanism(&self, name: &str) -> Result<(), Error> {
        check_pinned(std::slice::from_ref(&name))?;
        if self.names().contains(&name) {
            return Ok(());
        }
        let why = if table::is_known(name) { "does not fit the credentials" } else { "is unknown" };
        Err(Error::Config(format!("the AUTH mechanism {name} {why}").into()))
    }

    /// Returns an error unless at least one of these mechanisms fits the credentials.
    pub(crate) fn check(&self, pinned: &[String]) -> Result<(), Error> {
        if pinned.iter().any(|name| self.names().contains(&name.as_str())) {
            return Ok(());
        }
        let allowed = pinned.join(" ");
        Err(Error::Config(format!("none of the allowed mechanisms ({allowed}) fits the credentials").into()))
    }

    /// Returns the mechanisms that fit the credentials, in order of preference.
    pub(super) fn names(&self) -> Vec<&str> {
        let uses = match &self.0 {
            Kind::Password { .. } => Uses::Password,
            Kind::Token { .. } => Uses::Token,
            Kind::External(_) => Uses::External,
            Kind::Anonymous(_) => Uses::Anonymous,
            Kind::Custom { name, .. } => return vec![name],
        };
        table::names(uses).collect()
    }

    /// Returns whether the password or token is still to come from a callback.
    pub(super) fn lack_secret(&self) -> bool {
        matches!(self.0, Kind::Token { token: None, .. } | Kind::Password { password: None, .. })
    }

    pub(super) fn are_password(&self) -> bool {
        matches!(self.0, Kind::Password { .. })
    }

    pub(super) fn have_secret(&self, other: &str) -> bool {
        !self.lack_secret() && self.secret() == other.as_bytes()
    }

    pub(super) fn with_secret(mut self, new: &str) -> Result<Credentials, Error> {
        if self.are_password() {
            return self.with_password(new.as_bytes());
        }
        if let Kind::Token { token, .. } = &mut self.0 {
            if new.is_empty() || !new.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(Error::Config(
                    "the token is empty or contains characters other than visible ASCII".into(),
                ));
            }
            *token = Some(new.into());
        }
        Ok(self)
    }

    fn with_password(mut self, new: &[u8]) -> Result<Credentials, Error> {
        if new.contains(&0) {
            return Err(Error::Config(NUL.into()));
        }
        if let Kind::Password { password, .. } = &mut self.0 {
            *password = Some(new.into());
        }
        Ok(self)
    }

    /// Returns the part of the credentials that must not be shown.
    pub(super) fn secret(&self) -> &[u8] {
        match &self.0 {
            Kind::Password { password: Some(password), .. } => password,
            Kind::Token { token: Some(token), .. } => token.as_bytes(),
            _ => b"",
        }
    }

    /// Creates the mechanism of this name, which must be one of [`names`](Credentials::names), once for each way to use
    /// it here. Returns none if it cannot be used here.
    pub(super) fn mechanisms(
        &self,
        name: &str,
        context: &Context<'_>,
    ) -> Result<Vec<Box<dyn Mechanism>>, Error> {
        match &self.0 {
            Kind::Custom { new, .. } => Ok(vec![new()]),
            kind => table::mechanisms(name, kind, context),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(***)")
    }
}

/// Returns an error if one of these names is invalid, or if this build lacks the mechanism.
pub(crate) fn check_pinned(names: &[impl AsRef<str>]) -> Result<(), Error> {
    for name in names {
        let name = name.as_ref();
        check_name(name)?;
        if cfg!(not(feature = "sasl")) && table::needs_sasl(name) {
            return Err(Error::Config(format!("{name} needs postino's `sasl` feature").into()));
        }
    }
    Ok(())
}

/// Checks the name of a mechanism (RFC 4422 §3.1).
fn check_name(name: &str) -> Result<(), Error> {
    let fits = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if (1..=20).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    Err(Error::Config(format!("invalid AUTH mechanism name: {name:?}").into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Threat 24.
    #[test]
    fn credentials_that_no_mechanism_can_carry_are_refused() {
        for credentials in [
            Credentials::new("", "p"),
            Credentials::new("u\0", "p"),
            Credentials::new("u", "p\0"),
            Credentials::token("", "t"),
            Credentials::token("u\x01", "t"),
            Credentials::token("u", ""),
            Credentials::token("u", "t\n"),
            Credentials::token("u", "t\x01"),
            Credentials::token("u", "t t"),
            Credentials::external("\0"),
            Credentials::anonymous("a\nb"),
            Credentials::anonymous(&"x".repeat(256)),
        ] {
            assert!(matches!(credentials, Err(Error::Config(_))), "{credentials:?}");
        }
        for credentials in [
            Credentials::new(b"\xff", b"\xfe\n"),
            Credentials::token("jörg", "ya29.a-b_c~d+e/f=="),
            Credentials::external(""),
            Credentials::anonymous(&"ü".repeat(255)),
        ] {
            assert_eq!(format!("{:?}", credentials.unwrap()), "Credentials(***)");
        }
    }

    #[test]
    fn pinned_mechanisms_must_suit_the_credentials() {
        let (password, token) = (Credentials::new("u", "p").unwrap(), Credentials::token("u", "t").unwrap());
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(password.check(&list(&["XOAUTH2", "PLAIN"])).is_ok());
        assert!(token.check(&list(&["XOAUTH2", "PLAIN"])).is_ok());
        for (credentials, names) in [(&token, &["PLAIN"][..]), (&password, &["XOAUTH2"]), (&password, &[])] {
            assert!(matches!(credentials.check(&list(names)), Err(Error::Config(_))), "{names:?}");
        }
        assert!(check_pinned(&list(&["PLAIN", "X-OF_MY-OWN1"])).is_ok());
        assert!(check_pinned(&list(&["PLAIN", "NO SUCH"])).is_err());
        let cram = check_pinned(&list(&["CRAM-MD5"]));
        assert_eq!(cram.is_ok(), cfg!(feature = "sasl"));
        assert!(cram.err().is_none_or(|e| e.to_string().contains("`sasl`")));
    }
}
