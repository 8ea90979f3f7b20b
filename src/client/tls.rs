//! TLS: what to trust, how to show who we are, and what there is to see of it.

use super::{builder::Builder, session::Client};
use crate::{TlsVersion, tls::TlsSettings};

impl Builder {
    /// For `tls_connector`, which only a build with the library has.
    #[allow(dead_code)]
    pub(crate) fn tls_settings(&mut self) -> &mut TlsSettings {
        &mut self.config.tls
    }

    /// Trusts these CAs besides those the system trusts: PEM text with one certificate or more, or one in DER. A
    /// self-signed certificate of a server may stand here itself. May be called more than once. Defaults to none.
    ///
    /// What has not the form of a certificate, or more than 16 MiB, is [`Error::Config`](crate::Error::Config) before
    /// connecting; what only the TLS library finds to be none, once the connection is there, and before a word is said: it
    /// is read meanwhile.
    pub fn ca_certificate(mut self, certificates: impl AsRef<[u8]>) -> Builder {
        self.config.tls.add_root(certificates.as_ref());
        self
    }

    /// Whether the CAs that the system trusts are trusted. Without them there has to be a
    /// [`ca_certificate`](Builder::ca_certificate). Defaults to true.
    pub fn system_roots(mut self, trusted: bool) -> Builder {
        self.config.tls.set_system_roots(trusted);
        self
    }

    /// Shows this certificate to servers that ask for one: PEM text, the client's own first and then those that lead
    /// to its root, and its private key, PEM text too, as PKCS#8 (`-----BEGIN PRIVATE KEY-----`) without a password.
    /// One text with both may be given twice. It replaces [`client_pkcs12`](Builder::client_pkcs12). To log in by it
    /// there is [`external`](Builder::external). Defaults to none.
    ///
    /// The error for a key of another kind says how to convert it. The TLS connector is built before connecting then,
    /// unless there is no TLS ([`Security::Plaintext`](crate::Security::Plaintext)): only that shows whether the key
    /// is the certificate's.
    pub fn client_certificate(mut self, chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Builder {
        self.config.tls.set_identity_pem(chain.as_ref(), key.as_ref());
        self
    }

    /// The same from a PKCS#12 archive (RFC 7292; `.p12`, `.pfx`) and its password. It replaces
    /// [`client_certificate`](Builder::client_certificate). Defaults to none.
    pub fn client_pkcs12(mut self, der: impl AsRef<[u8]>, password: impl AsRef<str>) -> Builder {
        self.config.tls.set_identity_pkcs12(der.as_ref(), password.as_ref());
        self
    }

    /// The oldest version of TLS to speak. For one that is older than all of [`TlsVersion`] there is only a connector
    /// of your own (`tls_connector`). macOS has no TLS 1.3 here. Defaults to [`TlsVersion::Tls1_2`].
    pub fn min_tls_version(mut self, version: TlsVersion) -> Builder {
        self.config.tls.set_min_version(version);
        self
    }

    /// The name that the server's certificate must have, and that is told to the server (SNI): a host name or an IP
    /// address. Only the certificate's subjectAltName counts (RFC 9525 §2), but OpenSSL takes the common name for it
    /// where there is none. Defaults to the host.
    pub fn tls_name(mut self, name: impl Into<String>) -> Builder {
        self.config.tls.set_name(name.into());
        self
    }

    /// Accepts any certificate, whoever made it, for any name, expired or not: who sits between can read and change
    /// all, and take the password. Better trust the one certificate by [`ca_certificate`](Builder::ca_certificate).
    /// Defaults to false.
    pub fn danger_accept_invalid_certs(mut self, accepted: bool) -> Builder {
        self.config.tls.accept_invalid_certs(accepted);
        self
    }

    /// Accepts a valid certificate for any name: everybody has one, so who sits between can read and change all.
    /// Better set the name by [`tls_name`](Builder::tls_name). Defaults to false.
    pub fn danger_accept_invalid_hostnames(mut self, accepted: bool) -> Builder {
        self.config.tls.accept_invalid_hostnames(accepted);
        self
    }
}

impl Client {
    /// Whether the connection is secured by TLS. A closed one is not.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.link.stream.is_encrypted()
    }

    /// The server's certificate in DER, without its chain; none without TLS, and on a closed connection.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        self.link.stream.peer_certificate()
    }

    /// What binds a login to this TLS connection: the hash of the server's certificate (`tls-server-end-point`,
    /// RFC 5929 §4). None without TLS, on a closed connection, and for certificates that have none, such as those
    /// signed with Ed25519.
    #[must_use]
    pub fn channel_binding(&self) -> Option<Vec<u8>> {
        self.link.stream.channel_binding()
    }
}
