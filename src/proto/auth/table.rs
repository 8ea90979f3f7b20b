//! The table of this crate's AUTH mechanisms, and every lookup of a mechanism by name.

#[cfg(feature = "sasl")]
use self::sasl::{cram_md5, scram_sha_1, scram_sha_256, scram_sha_256_plus};
#[cfg(not(feature = "sasl"))]
use self::{
    absent as cram_md5, absent as scram_sha_1, absent as scram_sha_256, absent as scram_sha_256_plus,
};
use super::{
    AuthOptions, Mechanism,
    credentials::Kind,
    oauth::Bearer,
    plain::{Login, Once},
};
use crate::Error;

/// The kind of credentials that a mechanism uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uses {
    Password,
    Token,
    External,
    Anonymous,
}

/// What a mechanism needs to know besides the credentials.
pub(super) struct Context<'a> {
    pub options: &'a AuthOptions,
    /// Whether the server offers a mechanism with channel binding.
    #[cfg_attr(not(feature = "sasl"), expect(dead_code, reason = "only SCRAM asks"))]
    pub plus_offered: bool,
}

/// Mechanisms that are ready to be used, in order of preference: none if something is missing, such as a channel to
/// bind to.
type Made = Result<Vec<Box<dyn Mechanism>>, Error>;

struct Entry {
    name: &'static str,
    uses: Uses,
    /// Whether the mechanism is available only in builds with the `sasl` feature.
    needs_sasl: bool,
    /// Whether anyone who can read an exchange learns the password.
    shows_password: bool,
    new: fn(&Kind, &Context<'_>) -> Made,
}

/// All mechanisms. Those for the same kind of credentials are in order of preference.
#[rustfmt::skip]
const TABLE: &[Entry] = &[
    entry("SCRAM-SHA-256-PLUS", Uses::Password,  true,  false, scram_sha_256_plus),
    entry("SCRAM-SHA-256",      Uses::Password,  true,  false, scram_sha_256),
    entry("SCRAM-SHA-1",        Uses::Password,  true,  false, scram_sha_1),
    entry("CRAM-MD5",           Uses::Password,  true,  false, cram_md5),
    entry("PLAIN",              Uses::Password,  false, true,  plain),
    entry("LOGIN",              Uses::Password,  false, true,  login),
    entry("OAUTHBEARER",        Uses::Token,     false, false, oauthbearer),
    entry("XOAUTH2",            Uses::Token,     false, false, xoauth2),
    entry("EXTERNAL",           Uses::External,  false, false, external),
    entry("ANONYMOUS",          Uses::Anonymous, false, false, anonymous),
];

const fn entry(
    name: &'static str,
    uses: Uses,
    needs_sasl: bool,
    shows_password: bool,
    new: fn(&Kind, &Context<'_>) -> Made,
) -> Entry {
    Entry { name, uses, needs_sasl, shows_password, new }
}

fn find(name: &str) -> Option<&'static Entry> {
    TABLE.iter().find(|entry| entry.name == name)
}

/// Returns the names of the mechanisms for these credentials, in order of preference.
pub(super) fn names(uses: Uses) -> impl Iterator<Item = &'static str> {
    TABLE.iter().filter(move |entry| entry.uses == uses).map(|entry| entry.name)
}

/// Returns whether the table has this mechanism, even if this build does not.
pub(super) fn is_known(name: &str) -> bool {
    find(name).is_some()
}

/// Returns whether this mechanism is available only in builds with the `sasl` feature.
pub(super) fn needs_sasl(name: &str) -> bool {
    find(name).is_some_and(|entry| entry.needs_sasl)
}

/// Returns whether anyone who can read an exchange of this mechanism learns the password.
pub(super) fn shows_password(name: &str) -> bool {
    find(name).is_some_and(|entry| entry.shows_password)
}

/// Creates the mechanism of this name for one login, once for each way to use it.
pub(super) fn mechanisms(name: &str, kind: &Kind, context: &Context<'_>) -> Made {
    match find(name) {
        Some(entry) => (entry.new)(kind, context),
        None => Ok(Vec::new()),
    }
}

fn made(mechanism: impl Mechanism + 'static) -> Made {
    Ok(vec![Box::new(mechanism)])
}

fn plain(kind: &Kind, _: &Context<'_>) -> Made {
    let Kind::Password { user, password: Some(password) } = kind else { return Ok(Vec::new()) };
    made(Once::plain(user, password))
}

fn login(kind: &Kind, _: &Context<'_>) -> Made {
    let Kind::Password { user, password: Some(password) } = kind else { return Ok(Vec::new()) };
    made(Login::new(user, password))
}

fn oauthbearer(kind: &Kind, context: &Context<'_>) -> Made {
    let Kind::Token { user, token: Some(token) } = kind else { return Ok(Vec::new()) };
    let server = context.options.server.as_ref().map(|(host, port)| (host.as_str(), *port));
    made(Bearer::oauthbearer(user, token, server))
}

fn xoauth2(kind: &Kind, _: &Context<'_>) -> Made {
    let Kind::Token { user, token: Some(token) } = kind else { return Ok(Vec::new()) };
    made(Bearer::xoauth2(user, token))
}

fn external(kind: &Kind, _: &Context<'_>) -> Made {
    let Kind::External(authorization) = kind else { return Ok(Vec::new()) };
    made(Once::external(authorization))
}

fn anonymous(kind: &Kind, _: &Context<'_>) -> Made {
    let Kind::Anonymous(trace) = kind else { return Ok(Vec::new()) };
    made(Once::anonymous(trace))
}

/// Takes the place of a mechanism that this build does not include.
#[cfg(not(feature = "sasl"))]
fn absent(_: &Kind, _: &Context<'_>) -> Made {
    Ok(Vec::new())
}

#[cfg(feature = "sasl")]
mod sasl {
    use super::{
        super::{
            cram::Cram,
            scram::{Binding, Hash, Scram},
        },
        AuthOptions, Context, Kind, Made, made,
    };

    pub fn cram_md5(kind: &Kind, _: &Context<'_>) -> Made {
        let Kind::Password { user, password: Some(password) } = kind else { return Ok(Vec::new()) };
        made(Cram::new(user, password))
    }

    /// Bound to the connection where that is possible, which is the default in TLS 1.3 (RFC 9266 §3). No server says
    /// which bindings it takes, so the one to its certificate follows, if a refusal leaves no other mechanism.
    pub fn scram_sha_256_plus(kind: &Kind, context: &Context<'_>) -> Made {
        let AuthOptions { channel_binding, tls_exporter, .. } = context.options;
        let exporter = tls_exporter.clone().map(Binding::Exporter);
        let end_point = channel_binding.clone().map(Binding::EndPoint);
        let mut bound = Vec::new();
        for binding in exporter.into_iter().chain(end_point) {
            bound.append(&mut scram("SCRAM-SHA-256-PLUS", Hash::Sha256, binding, kind, context)?);
        }
        Ok(bound)
    }

    pub fn scram_sha_256(kind: &Kind, context: &Context<'_>) -> Made {
        scram("SCRAM-SHA-256", Hash::Sha256, unbound(context), kind, context)
    }

    pub fn scram_sha_1(kind: &Kind, context: &Context<'_>) -> Made {
        scram("SCRAM-SHA-1", Hash::Sha1, unbound(context), kind, context)
    }

    /// Returns what a mechanism without channel binding declares about it.
    fn unbound(context: &Context<'_>) -> Binding {
        let AuthOptions { channel_binding, tls_exporter, .. } = context.options;
        if (channel_binding.is_some() || tls_exporter.is_some()) && !context.plus_offered {
            Binding::NotOffered
        } else {
            Binding::None
        }
    }

    fn scram(name: &'static str, hash: Hash, binding: Binding, kind: &Kind, context: &Context<'_>) -> Made {
        let Kind::Password { user, password: Some(password) } = kind else { return Ok(Vec::new()) };
        made(Scram::new(name, hash, user, password, binding, context.options.max_scram_iterations)?)
    }
}
