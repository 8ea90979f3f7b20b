//! TLS: the settings, and one connector for all clones of them.
//!
//! Each backend is a file with the same items: `native.rs` (the feature `native-tls`) and `none.rs`. They provide
//! `Connector`, `Handshake`, `Paused`, `TlsStream`, `Certificate`, `Identity`, and the functions `available`, `roots`,
//! `end_point` and `peer_certificate`.

use std::{
    fmt, io,
    sync::{Arc, OnceLock},
};

mod key;
#[cfg(feature = "native-tls")]
mod native;
#[cfg(not(feature = "native-tls"))]
mod none;
mod root;

#[cfg(feature = "native-tls")]
use self::native as backend;
#[cfg(not(feature = "native-tls"))]
use self::none as backend;

#[cfg(feature = "async")]
pub(crate) use self::backend::Paused;
pub(crate) use self::backend::{Connector, Handshake, TlsStream, end_point, peer_certificate};
use self::{
    backend::{Certificate, Identity},
    root::Root,
};
use crate::Error;

/// Maximum number of reads and writes of the transport in one call of the TLS library that must not wait, or in one
/// poll. The next call continues. A record takes two reads; no well-behaved server sends this many records without
/// content, and they take microseconds.
pub(crate) const MAX_STEPS: u32 = 64;

/// A version of TLS. Older ones are not offered (RFC 8996).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    Tls1_2,
    /// TLS 1.3 (RFC 8446).
    Tls1_3,
}

/// Why a setting is invalid; reported when it is used.
type Flaw = String;

/// Which certificates to trust, which one to present, and which name to verify.
#[derive(Clone, Default)]
pub(crate) struct TlsSettings {
    options: Options,
    name: Option<String>,
    /// A connector that the caller has built.
    ready: Option<Connector>,
    /// The additional CAs. They are read when they are first needed: until then the library is not started.
    roots: Arc<OnceLock<Result<Vec<Certificate>, Flaw>>>,
    /// Built when it is first needed, and then shared: reading the system's certificates takes some 50 ms.
    connector: Arc<OnceLock<Result<Connector, Flaw>>>,
}

/// The settings that a connector is built from.
#[derive(Clone, Default)]
struct Options {
    /// CAs to trust in addition to those of the system.
    roots: Vec<Result<Root, Flaw>>,
    no_system_roots: bool,
    identity: Option<Result<Identity, Flaw>>,
    min_version: TlsVersion,
    accept_invalid_certs: bool,
    accept_invalid_hostnames: bool,
}

impl Options {
    fn are_defaults(&self) -> bool {
        self.roots.is_empty()
            && !self.no_system_roots
            && self.identity.is_none()
            && self.min_version == TlsVersion::default()
            && !self.accept_invalid_certs
            && !self.accept_invalid_hostnames
    }

    fn flaw(&self) -> Option<&Flaw> {
        let roots = self.roots.iter().find_map(|root| root.as_ref().err());
        roots.or_else(|| self.identity.as_ref()?.as_ref().err())
    }
}

impl TlsSettings {
    /// Returns the options for a change. What was read or built from the old ones is discarded.
    fn options(&mut self) -> &mut Options {
        (self.roots, self.connector) = (Arc::default(), Arc::default());
        &mut self.options
    }

    /// Adds certificates in PEM, or one in DER.
    pub fn add_root(&mut self, certificates: &[u8]) {
        self.options().roots.push(Root::new(certificates));
    }

    pub fn set_system_roots(&mut self, trusted: bool) {
        self.options().no_system_roots = !trusted;
    }

    pub fn set_identity_pem(&mut self, chain: &[u8], key: &[u8]) {
        let identity = key::pkcs8(key).map_err(str::to_owned).and_then(|key| Identity::pem(chain, key));
        self.options().identity = Some(identity);
    }

    pub fn set_identity_pkcs12(&mut self, der: &[u8], password: &str) {
        self.options().identity = Some(Identity::pkcs12(der, password));
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

    /// Returns the name to verify, if it is not the host's.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns whether there is a client certificate. Only building a connector shows whether the key belongs to it.
    pub fn has_identity(&self) -> bool {
        self.options.identity.is_some()
    }

    /// Checks that this build has TLS.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if it has not.
    pub fn available() -> Result<(), Error> {
        backend::available()
    }

    /// Checks the settings before a connection is made.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if a certificate or a key is invalid, or settings contradict each other. Errors in
    /// a CA that only the library can detect are reported by [`read`](TlsSettings::read).
    pub fn check(&self) -> Result<(), Error> {
        if !self.options.roots.is_empty() {
            TlsSettings::available()?;
        }
        if let Some(flaw) = self.options.flaw() {
            return Err(Error::Config(flaw.clone().into()));
        }
        if self.ready.is_some() && !self.options.are_defaults() {
            return Err(Error::Config(
                "with tls_connector, no other TLS setting except tls_name can be used".into(),
            ));
        }
        let Options { no_system_roots, roots, accept_invalid_certs, .. } = &self.options;
        if *no_system_roots && roots.is_empty() && !accept_invalid_certs {
            return Err(Error::Config(
                "no certificate could be trusted: system_roots is off, and there is no ca_certificate".into(),
            ));
        }
        Ok(())
    }

    /// Reads the additional CAs, unless that was done before.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if one of them is not a certificate.
    pub fn read(&self) -> Result<(), Error> {
        self.roots().map(drop)
    }

    fn roots(&self) -> Result<&[Certificate], Error> {
        let read = self.roots.get_or_init(|| {
            let mut all = Vec::new();
            for root in self.options.roots.iter().flatten() {
                all.append(&mut backend::roots(root.bytes())?);
            }
            Ok(all)
        });
        read.as_deref().map_err(|flaw| Error::Config(flaw.clone().into()))
    }

    /// Returns the connector, if it was built before, or set by the caller.
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
            Connector::new(&self.options, roots)
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
            .field("roots", &self.options.roots.len())
            .field("system_roots", &!self.options.no_system_roots)
            .field("client_certificate", &self.has_identity())
            .field("min_version", &self.options.min_version)
            .field("accept_invalid_certs", &self.options.accept_invalid_certs)
            .field("accept_invalid_hostnames", &self.options.accept_invalid_hostnames)
            .field("ready", &self.ready.is_some())
            .field("name", &self.name)
            .finish()
    }
}

/// Translates the error of a read or write over TLS. A server that refuses our certificate, or wants one, says so after
/// the handshake: in TLS 1.3 that is over for the client before the server has seen the certificate (RFC 8446 §4.4.2.4,
/// §6.2). Only the text shows this. Such an error becomes an [`Error::Tls`] inside the [`io::Error`].
#[cold]
pub(crate) fn translate(e: io::Error) -> io::Error {
    if e.kind() != io::ErrorKind::Other {
        return e;
    }
    let text = e.to_string();
    if names_refusal(&text) { io::Error::other(refusal(&text)) } else { e }
}

fn names_refusal(text: &str) -> bool {
    let alert = text.split_once(" alert ").map_or("", |(_, alert)| alert);
    ["certificate", "unknown ca", "access denied"].iter().any(|what| alert.contains(what))
}

/// Returns the error for such a refusal.
fn refusal(text: &str) -> Error {
    let text = format!("the server refused the client certificate, or requires one that was not set: {text}");
    Error::Tls { source: text.into() }
}
