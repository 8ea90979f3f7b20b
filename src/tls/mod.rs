//! TLS: the settings, and one connector that all their clones share.
//!
//! Each TLS library has a file: `native.rs` (the `native-tls` feature) and `rustls.rs` (the `rustls` feature).
//! `none.rs` takes the place of a library that is not compiled. With both, native-tls is used unless
//! [`Builder::tls_backend`](crate::Builder::tls_backend) says otherwise: enabling a feature must not change what
//! another part of the program gets. Only `either.rs` has to know which library a value belongs to.
//!
//! A new library needs a feature, a [`TlsBackend`], a variant in `either.rs`, and a file with these items:
//!
//! | item | what it is |
//! |---|---|
//! | `AVAILABLE` | `true` |
//! | `PINS` | whether it can compare the server's certificate with pins |
//! | `Certificate` | a CA to trust, read |
//! | `roots(&[u8])` | reads CAs whose form was checked: PEM, or one in DER |
//! | `Identity` | a client certificate with its key: `pem(chain, key)`, `pkcs12(der, password)`; no `Debug` |
//! | `Connector` | built from the options by `new`; cheap to clone; `connect` begins a handshake |
//! | `Paused<S>` | a handshake that would have to wait: `get_mut`, `resume` |
//! | `TlsStream<S>` | `Read` and `Write`; `get_mut`, `shutdown`, `end_point`, `exporter`, `peer_certificate`, `sha256`, `version`, `cipher_suite` |
//!
//! It also needs a third type in `either.rs`, setters in `src/tls_connector.rs` for connectors that the caller builds,
//! and its name in every `cfg(any(feature = …))` and in the lists of features in `.ci/run` and `tests/all`.
//!
//! The stream below is a `Read` and `Write` that may fail with [`WouldBlock`](std::io::ErrorKind::WouldBlock) at any
//! time, in either direction. It enforces the deadlines and limits of the clients. So:
//!
//! - `connect`, `resume`, `read` and `write` return `WouldBlock` to the caller, and can be called again afterwards;
//! - they take only a bounded number of steps without calling the stream below;
//! - `write` returns only when all that it took has been written below. After `WouldBlock` it is called with the same
//!   octets again;
//! - `read` returns octets that have arrived even if writing below would block;
//! - an end without close_notify is an error;
//! - a certificate that is not trusted is an [`Error::Certificate`] with a reason in OpenSSL's words; any other failure
//!   of TLS is an [`Error::Tls`], inside an [`io::Error`](std::io::Error) if it occurs after the handshake.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

mod der;
mod either;
mod facts;
mod key;
#[cfg(feature = "native-tls")]
mod native;
#[cfg(not(all(feature = "native-tls", feature = "rustls")))]
mod none;
mod pin;
mod root;
#[cfg(feature = "rustls")]
mod rustls;

#[cfg(not(feature = "native-tls"))]
use self::none as native;
#[cfg(not(feature = "rustls"))]
use self::none as rustls;

#[cfg(feature = "async")]
pub(crate) use self::either::Paused;
pub(crate) use self::either::{Connector, TlsStream};
pub use self::facts::CertificateFacts;
use self::{
    either::{Identity, Roots},
    pin::Pin,
    root::{MAX_FILE, Root},
};
use crate::Error;

/// Maximum number of reads and writes of the transport in one non-blocking call of the TLS library, or in one poll. The
/// next call continues. A record takes two reads. No well-behaved server sends this many records without content, and
/// this many steps take only microseconds.
pub(crate) const MAX_STEPS: u32 = 64;

/// A TLS version. Versions before 1.2 are not offered (RFC 8996).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    Tls1_2,
    /// TLS 1.3 (RFC 8446).
    Tls1_3,
}

/// A TLS library, chosen with [`Builder::tls_backend`](crate::Builder::tls_backend).
///
/// Both libraries verify certificates against the system's CAs, and describe certificate errors in the same words. They
/// differ as follows:
///
/// | | native-tls with OpenSSL | rustls |
/// |---|---|---|
/// | common name of a certificate without other names | used | ignored (RFC 9525 §2) |
/// | X.509 version 1 certificates | accepted | rejected, even with a pin or [`danger_accept_invalid_certs`](crate::Builder::danger_accept_invalid_certs) |
/// | [`client_pkcs12`](crate::Builder::client_pkcs12) | yes | no: an [`Error::Config`](crate::Error::Config) |
/// | [pins](crate::Builder::pinned_certificate) are compared | after the handshake (unsupported on macOS, iOS and Windows) | during the handshake |
/// | [`Client::tls_exporter`](crate::Client::tls_exporter), for SCRAM-SHA-256-PLUS | `None` | with TLS 1.3 |
/// | resuming the session of an earlier connection | no | yes, among clones of a builder, with a server of the same name on any port; resuming proves that the server is the one whose certificate was verified |
/// | [`tls_version`](crate::Client::tls_version), [`tls_cipher_suite`](crate::Client::tls_cipher_suite) | `None` | yes |
/// | renegotiation in TLS 1.2 | yes | no |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TlsBackend {
    /// The system's TLS library (OpenSSL on Linux), through native-tls. Needs the `native-tls` feature.
    NativeTls,
    /// rustls with ring. Needs the `rustls` feature.
    Rustls,
}

impl TlsBackend {
    /// Returns whether this build includes this TLS library.
    #[must_use]
    pub const fn is_available(self) -> bool {
        match self {
            TlsBackend::NativeTls => native::AVAILABLE,
            TlsBackend::Rustls => rustls::AVAILABLE,
        }
    }

    /// Returns whether it can compare a certificate with pins on this system.
    fn has_pins(self) -> bool {
        match self {
            TlsBackend::NativeTls => native::PINS,
            TlsBackend::Rustls => rustls::PINS,
        }
    }

    /// Returns the name of the feature.
    fn feature(self) -> &'static str {
        match self {
            TlsBackend::NativeTls => "native-tls",
            TlsBackend::Rustls => "rustls",
        }
    }
}

/// Returns the TLS library that is used if none is chosen: native-tls if the build includes it, otherwise rustls.
impl Default for TlsBackend {
    fn default() -> TlsBackend {
        if rustls::AVAILABLE && !native::AVAILABLE { TlsBackend::Rustls } else { TlsBackend::NativeTls }
    }
}

/// The state of a handshake: `T` is the stream, and `P` the paused handshake.
#[allow(dead_code)] // without TLS
pub(crate) enum Handshake<T, P> {
    Done(T),
    /// The transport would have to wait.
    Paused(P),
    Failed(Error),
}

/// Why a setting is invalid. It is reported when the setting is used.
type Flaw = String;

/// Which certificates to trust, which one to present, and which name to verify.
#[derive(Clone, Default)]
pub(crate) struct TlsSettings {
    options: Options,
    name: Option<String>,
    /// A connector that was built by the caller.
    ready: Option<Connector>,
    /// The additional CAs. They are read only when they are first needed, so that the library is not started before.
    roots: Arc<OnceLock<Result<Roots, Flaw>>>,
    /// The client certificate. It is read when the settings are checked, because the library may be chosen last.
    identity: Arc<OnceLock<Result<Option<Identity>, Flaw>>>,
    /// Built when it is first needed, and then shared: reading the system's certificates takes about 50 ms.
    connector: Arc<OnceLock<Result<Connector, Flaw>>>,
}

/// The settings that a connector is built from.
#[derive(Clone, Default)]
struct Options {
    backend: Option<TlsBackend>,
    /// CAs to trust in addition to those of the system.
    roots: Vec<Result<Root, Flaw>>,
    no_system_roots: bool,
    /// If there are any, the CAs are not used.
    pins: Vec<Result<Pin, Flaw>>,
    identity: Option<Result<Archive, Flaw>>,
    min_version: TlsVersion,
    accept_invalid_certs: bool,
    accept_invalid_hostnames: bool,
}

/// A client certificate with its key, as passed to the builder. It does not implement `Debug`.
#[derive(Clone)]
enum Archive {
    Pem { chain: Arc<[u8]>, key: Arc<[u8]> },
    Pkcs12 { der: Arc<[u8]>, password: Arc<str> },
}

impl Options {
    fn are_defaults(&self) -> bool {
        self.backend.is_none()
            && self.roots.is_empty()
            && !self.no_system_roots
            && self.pins.is_empty()
            && self.identity.is_none()
            && self.min_version == TlsVersion::default()
            && !self.accept_invalid_certs
            && !self.accept_invalid_hostnames
    }

    fn backend(&self) -> TlsBackend {
        self.backend.unwrap_or_default()
    }
}

impl TlsSettings {
    /// Returns the options for modification, and discards everything that was read or built from them.
    fn options(&mut self) -> &mut Options {
        (self.roots, self.identity, self.connector) = (Arc::default(), Arc::default(), Arc::default());
        &mut self.options
    }

    pub fn set_backend(&mut self, backend: TlsBackend) {
        self.options().backend = Some(backend);
    }

    /// Adds certificates in PEM, or one in DER.
    pub fn add_root(&mut self, certificates: &[u8]) {
        self.options().roots.push(Root::new(certificates));
    }

    pub fn set_system_roots(&mut self, trusted: bool) {
        self.options().no_system_roots = !trusted;
    }

    pub fn has_pins(&self) -> bool {
        !self.options.pins.is_empty()
    }

    pub fn pin_certificate(&mut self, sha256: &str) {
        self.options().pins.push(pin::hash(sha256).map(Pin::Certificate));
    }

    pub fn pin_public_key(&mut self, sha256: &str) {
        self.options().pins.push(pin::hash(sha256).map(Pin::PublicKey));
    }

    pub fn set_identity_pem(&mut self, chain: &[u8], key: &[u8]) {
        let identity = key::pkcs8(key).map_err(str::to_owned).and_then(|key| {
            if chain.len() > MAX_FILE || key.len() > MAX_FILE {
                return Err("the client certificate or its key is too large".into());
            }
            Ok(Archive::Pem { chain: chain.into(), key: key.into() })
        });
        self.options().identity = Some(identity);
    }

    pub fn set_identity_pkcs12(&mut self, der: &[u8], password: &str) {
        let identity = if der.len() > MAX_FILE || password.contains('\0') {
            Err("the PKCS#12 archive is too large, or its password contains a NUL".into())
        } else {
            Ok(Archive::Pkcs12 { der: der.into(), password: password.into() })
        };
        self.options().identity = Some(identity);
    }

    pub fn set_min_version(&mut self, version: TlsVersion) {
        self.options().min_version = version;
    }

    pub fn accept_invalid_certs(&mut self, accepted: bool) {
        self.options().accept_invalid_certs = accepted;
    }

    pub fn accept_invalid_hostnames(&mut self, accepted: bool) {
        self.options().accept_invalid_hostnames = accepted;
    }

    pub fn set_name(&mut self, name: String) {
        self.name = Some(name);
    }

    /// Returns the name to verify, if it differs from the host's.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns whether there is a client certificate. Only building a connector shows whether the key belongs to it.
    pub fn has_identity(&self) -> bool {
        self.options.identity.is_some()
    }

    /// Uses a connector that was built by the caller.
    #[allow(dead_code)] // unused in builds without TLS
    pub fn set_ready(&mut self, connector: Connector) {
        self.ready = Some(connector);
        self.connector = Arc::default();
    }

    /// Checks that this build has TLS.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if it does not.
    pub fn available() -> Result<(), Error> {
        if TlsBackend::default().is_available() {
            return Ok(());
        }
        Err(Error::Config(
            "TLS is required, but postino was built without the `native-tls` or `rustls` feature".into(),
        ))
    }

    /// Checks the settings before a connection is made.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if a certificate or a key is invalid, settings contradict each other, or the chosen library is
    /// not part of this build. Errors in a CA that only the library can detect are reported by
    /// [`read`](TlsSettings::read).
    pub fn check(&self) -> Result<(), Error> {
        if let Some(missing) = self.options.backend.filter(|backend| !backend.is_available()) {
            let feature = missing.feature();
            return Err(Error::Config(
                format!("tls_backend: postino was built without the feature `{feature}`").into(),
            ));
        }
        let Options { roots, pins, .. } = &self.options;
        if !roots.is_empty() || !pins.is_empty() || self.has_identity() {
            TlsSettings::available()?;
        }
        let flaw = roots.iter().find_map(|root| root.as_ref().err());
        let flaw = flaw.or_else(|| pins.iter().find_map(|pin| pin.as_ref().err()));
        if let Some(flaw) = flaw.or_else(|| self.identity().err()) {
            return Err(Error::Config(flaw.clone().into()));
        }
        if self.ready.is_some() && !self.options.are_defaults() {
            return Err(Error::Config(
                "with tls_connector or rustls_config, tls_name is the only other TLS setting that can be used"
                    .into(),
            ));
        }
        let Options { no_system_roots, accept_invalid_certs, accept_invalid_hostnames, .. } = &self.options;
        if !pins.is_empty() {
            return self.check_pins(roots.is_empty() && !accept_invalid_certs && !accept_invalid_hostnames);
        }
        if *no_system_roots && roots.is_empty() && !accept_invalid_certs {
            return Err(Error::Config(
                "no certificate could be trusted: system_roots is off, and no ca_certificate was set".into(),
            ));
        }
        Ok(())
    }

    /// Checks that there may be pins; `alone` says whether nothing else determines which certificates are trusted.
    fn check_pins(&self, alone: bool) -> Result<(), Error> {
        if !self.options.backend().has_pins() {
            return Err(Error::Config(
                "on this system, pinned_certificate and pinned_public_key need TlsBackend::Rustls".into(),
            ));
        }
        if !alone {
            return Err(Error::Config(
                "pinned_certificate and pinned_public_key take the place of ca_certificate, \
                 danger_accept_invalid_certs and danger_accept_invalid_hostnames, and cannot be combined with them"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Reads the additional CAs, unless they have already been read.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if one of them is not a certificate.
    pub fn read(&self) -> Result<(), Error> {
        self.roots().map(drop)
    }

    fn roots(&self) -> Result<&Roots, Error> {
        let read = self.roots.get_or_init(|| {
            Roots::read(self.options.backend(), self.options.roots.iter().flatten().map(Root::bytes))
        });
        read.as_ref().map_err(|flaw| Error::Config(flaw.clone().into()))
    }

    fn identity(&self) -> Result<Option<&Identity>, &Flaw> {
        let read = self.identity.get_or_init(|| {
            let archive = self.options.identity.clone().transpose()?;
            archive.map(|archive| Identity::read(self.options.backend(), &archive)).transpose()
        });
        read.as_ref().map(Option::as_ref)
    }

    /// Returns the connector, if it has already been built, or was set by the caller.
    #[cfg(feature = "async")] // the blocking client has to wait for it anyway
    pub fn built(&self) -> Option<Connector> {
        self.ready.clone().or_else(|| self.connector.get()?.clone().ok())
    }

    /// Returns the connector. Builds it if needed, or waits while another clone builds it.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if there is no TLS library, or it refuses a CA or the client certificate; [`Error::Tls`] if it
    /// refuses other settings.
    pub fn connector(&self) -> Result<Connector, Error> {
        if let Some(ready) = &self.ready {
            return Ok(ready.clone());
        }
        TlsSettings::available()?;
        let roots = self.roots()?;
        let built = self.connector.get_or_init(|| {
            log::debug!(target: "postino", "building a TLS connector: {}", self.options);
            Connector::new(&self.options, roots, self.identity().map_err(Flaw::clone)?)
        });
        match built {
            Ok(connector) => Ok(connector.clone()),
            Err(flaw) if self.has_identity() => Err(Error::Config(
                format!("could not use the client certificate with its key: {flaw}").into(),
            )),
            Err(flaw) => Err(Error::Tls { source: flaw.clone().into() }),
        }
    }
}

/// Formats the options for the log.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own: usize = self.roots.iter().flatten().map(Root::count).sum();
        write!(f, "{own} CAs added")?;
        for (set, what) in [
            (self.no_system_roots, "system CAs not trusted"),
            (!self.pins.is_empty(), "pins instead of CAs"),
            (self.identity.is_some(), "a client certificate"),
            (self.accept_invalid_certs, "INVALID CERTIFICATES ACCEPTED"),
            (self.accept_invalid_hostnames, "INVALID HOST NAMES ACCEPTED"),
        ] {
            if set {
                write!(f, ", {what}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings")
            .field("backend", &self.options.backend())
            .field("roots", &self.options.roots.len())
            .field("system_roots", &!self.options.no_system_roots)
            .field("pins", &self.options.pins.len())
            .field("client_certificate", &self.has_identity())
            .field("min_version", &self.options.min_version)
            .field("accept_invalid_certs", &self.options.accept_invalid_certs)
            .field("accept_invalid_hostnames", &self.options.accept_invalid_hostnames)
            .field("ready", &self.ready.is_some())
            .field("name", &self.name)
            .finish()
    }
}

/// Returns the error for a server that refuses our certificate, or requires one. The server does so after the
/// handshake: in TLS 1.3, the client finishes before the server has seen the certificate (RFC 8446 §4.4.2.4, §6.2).
#[allow(dead_code)] // without TLS
fn refusal(text: &str) -> Error {
    let text = format!("the server refused the client certificate, or requires one that was not set: {text}");
    Error::Tls { source: text.into() }
}

/// Returns the error for a server that answers with something other than TLS.
#[allow(dead_code)] // without TLS
fn not_tls(text: &str) -> Error {
    let text = format!(
        "the server does not use TLS from the start (is this a port for STARTTLS or plain text?): {text}"
    );
    Error::Tls { source: text.into() }
}
