//! The settings of a connection, in a form for the configuration of an application.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::{
    Error, Security,
    config::{Config, Login, Proxy, Timeouts},
};

/// Settings of a connection that can be part of an application's configuration, in any format that serde supports
/// (feature `serde`).
///
/// Either `host` or `unix` is required. All other fields are optional, and correspond to the setters of
/// [`Builder`](crate::Builder) with similar names and the same defaults. Unknown fields are errors, and so are invalid
/// values, such as a host name with a line ending. As in URLs, no field can enable a setting with `danger` in its name.
///
/// | field | value |
/// |---|---|
/// | `host` | the name or the address of the server, as in [`Client::builder`](crate::Client::builder) |
/// | `unix` | the path of a Unix socket, instead of `host`, as in [`Client::unix`](crate::Client::unix) |
/// | `port` | a number |
/// | `lmtp` | `true` or `false` |
/// | `security` | `"auto"`, `"plaintext"`, `"opportunistic"`, `"starttls"` or `"implicit"` ([`Security`](crate::Security)) |
/// | `user`, `password` | the login ([`credentials`](crate::Builder::credentials)) |
/// | `hello_name`, `tls_name` | text |
/// | `bind` | an address with a port, such as `"192.0.2.1:0"` |
/// | `proxy` | a URL, such as `"socks5://127.0.0.1:1080"` |
/// | `ca_certificate` | PEM text (not the name of a file) |
/// | `system_roots`, `pipelining`, `chunking`, `all_or_nothing` | `true` or `false` |
/// | `pinned_certificates`, `pinned_public_keys` | lists of hashes |
/// | `timeout`, `connect_timeout`, `final_reply_timeout`, `deadline` | whole seconds |
///
/// Make the settings a field of your own type, as the page [`serialization`](crate::guide::serialization#configuration)
/// shows. Do not use `#[serde(flatten)]`: with it, serde drops unknown fields, so a misspelt `deadline` would pass
/// unnoticed.
///
/// Without a `deadline`, the duration of a call is limited only by the timeouts of its steps.
///
/// The password can be read from a configuration, but it is **never serialized**, and neither are the user and the
/// password of a proxy. To keep the password elsewhere, leave the field out, and call
/// [`with_password`](Settings::with_password). Neither `Debug` nor the errors of this type show the password. However,
/// the errors of some parsers quote the line that contains the mistake.
///
/// ```
/// use postino::Settings;
///
/// let json = r#"{"host": "mail.example.org", "security": "starttls", "user": "shop", "timeout": 30}"#;
/// let settings: Settings = serde_json::from_str(json)?;
/// let builder = postino::Builder::try_from(&settings.with_password("secret"))?; // or postino::aio::Builder
/// # let _ = builder;
///
/// let error = serde_json::from_str::<Settings>(r#"{"host": "mail.example.org", "prot": 25}"#).unwrap_err();
/// assert!(error.to_string().starts_with("unknown field `prot`"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Settings(Form);

impl Settings {
    /// Sets the password for the `user` of the settings, replacing any earlier one. The password is never serialized.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> Settings {
        self.0.password = Some(Secret(password.into()));
        self
    }

    /// Returns the [deadline](crate::Builder::deadline) for each call, or `None` if the settings have none. An
    /// application can use it to choose its own limits, such as [`give_up_after`](crate::RetryPolicy::give_up_after).
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.0.deadline.map(Duration::from_secs)
    }

    /// Returns the settings for a connection, which have not been checked yet.
    fn config(&self) -> Result<Config, Error> {
        let login = match (&self.0.user, &self.0.password) {
            (None, None) => None,
            (Some(user), Some(Secret(password))) => Some((&user[..], &password[..])),
            (Some(_), None) => return Err(wrong("a user, but no password (Settings::with_password)")),
            (None, Some(_)) => return Err(wrong("a password, but no user")),
        };
        self.0.config(login)
    }
}

fn wrong(what: &str) -> Error {
    Error::Config(format!("the settings have {what}").into())
}

/// The fields as they are read and written.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename = "Settings", default, deny_unknown_fields)]
struct Form {
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unix: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lmtp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    security: Option<Security>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing)]
    password: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hello_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bind: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<ProxyUrl>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_roots: Option<bool>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pinned_certificates: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pinned_public_keys: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connect_timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    final_reply_timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pipelining: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunking: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    all_or_nothing: Option<bool>,
}

impl Form {
    fn config(&self, login: Option<(&str, &str)>) -> Result<Config, Error> {
        let mut config = match (&self.host, &self.unix) {
            (Some(host), None) => Config::new(host),
            (None, Some(path)) => Config::unix(path),
            (None, None) => return Err(wrong("neither a host nor a Unix socket")),
            (Some(_), Some(_)) => return Err(wrong("both a host and a Unix socket")),
        };
        config.port = self.port;
        config.lmtp = self.lmtp.unwrap_or(config.lmtp);
        config.security = self.security.unwrap_or(config.security);
        config.login =
            login.map(|(user, password)| Login::Password(user.as_bytes().into(), password.as_bytes().into()));
        config.hello_name.clone_from(&self.hello_name);
        config.bind = self.bind;
        config.proxy = self.proxy.as_ref().map(|ProxyUrl(url)| Proxy::from_url(url)).transpose()?.map(Ok);
        if let Some(name) = &self.tls_name {
            config.tls.set_name(name.clone());
        }
        if let Some(certificates) = &self.ca_certificate {
            config.tls.add_root(certificates.as_bytes());
        }
        if let Some(trusted) = self.system_roots {
            config.tls.set_system_roots(trusted);
        }
        self.pinned_certificates.iter().for_each(|pin| config.tls.pin_certificate(pin));
        self.pinned_public_keys.iter().for_each(|pin| config.tls.pin_public_key(pin));
        let seconds = |limit: Option<u64>| limit.map(Duration::from_secs);
        if let Some(limit) = seconds(self.timeout) {
            config.timeouts = Timeouts::all_but_the_final(limit, config.timeouts.final_reply);
        }
        config.timeouts.connect = seconds(self.connect_timeout).unwrap_or(config.timeouts.connect);
        config.timeouts.final_reply =
            seconds(self.final_reply_timeout).unwrap_or(config.timeouts.final_reply);
        config.deadline = seconds(self.deadline);
        config.pipelining = self.pipelining.unwrap_or(config.pipelining);
        config.chunking = self.chunking.unwrap_or(config.chunking);
        config.all_or_nothing = self.all_or_nothing.unwrap_or(config.all_or_nothing);
        Ok(config)
    }

    /// Checks everything, even if the password is not set yet.
    fn check(&self) -> Result<(), Error> {
        let password = self.password.as_ref().map_or("not known yet", |Secret(password)| password);
        if self.user.is_none() && self.password.is_some() {
            return Err(wrong("a password, but no user"));
        }
        let config = self.config(self.user.as_deref().map(|user| (user, password)))?;
        config.check().map(drop)
    }
}

/// The URL of a proxy, which is written without its user and its password.
#[derive(Clone, PartialEq, Deserialize)]
struct ProxyUrl(String);

impl Serialize for ProxyUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let proxy = Proxy::from_url(&self.0).map_err(ser::Error::custom)?;
        serializer.collect_str(&proxy)
    }
}

/// Writes the settings, without the password, and without the user and the password of a proxy.
impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

/// Reads the settings, and checks them.
impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Settings, D::Error> {
        let form = Form::deserialize(deserializer)?;
        form.check().map_err(de::Error::custom)?;
        Ok(Settings(form))
    }
}

/// Checks the settings, and requires a password if there is a user.
impl TryFrom<&Settings> for crate::Builder {
    type Error = Error;

    fn try_from(settings: &Settings) -> Result<crate::Builder, Error> {
        let config = settings.config()?;
        config.check()?;
        Ok(crate::Builder::new(config))
    }
}

/// Checks the settings, and requires a password if there is a user.
#[cfg(feature = "async")]
impl TryFrom<&Settings> for crate::aio::Builder {
    type Error = Error;

    fn try_from(settings: &Settings) -> Result<crate::aio::Builder, Error> {
        let config = settings.config()?;
        config.check()?;
        Ok(crate::aio::Builder::new(config))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place: &dyn fmt::Debug = match &self.0.unix {
            Some(path) => path,
            None => &self.0.host,
        };
        let settings = &mut f.debug_struct("Settings");
        settings.field("server", place).field("port", &self.0.port).field("security", &self.0.security);
        settings.field("user", &self.0.user).finish_non_exhaustive()
    }
}

/// A password that was read. It cannot be serialized. A value of another type is an error that does not show the value.
#[derive(Clone, PartialEq)]
struct Secret(String);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        // With `deserialize_str`, some formats show a value of another type in their own errors.
        deserializer.deserialize_any(SecretVisitor)
    }
}

struct SecretVisitor;

impl SecretVisitor {
    fn refuse<E: de::Error>() -> Result<Secret, E> {
        Err(E::custom("the password is not text"))
    }
}

impl de::Visitor<'_> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a password")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Secret, E> {
        Ok(Secret(text))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Secret, E> {
        SecretVisitor::refuse()
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
        SecretVisitor::refuse()
    }

    fn visit_i128<E: de::Error>(self, _: i128) -> Result<Secret, E> {
        SecretVisitor::refuse()
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
        SecretVisitor::refuse()
    }

    fn visit_u128<E: de::Error>(self, _: u128) -> Result<Secret, E> {
        SecretVisitor::refuse()
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
        SecretVisitor::refuse()
    }

    fn visit_bytes<E: de::Error>(self, _: &[u8]) -> Result<Secret, E> {
        SecretVisitor::refuse()
    }
}
