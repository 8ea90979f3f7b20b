//! TLS settings of the builder, and what a client reports about TLS.

use super::{builder::Builder, session::Client};
use crate::{
    TlsBackend, TlsVersion,
    tls::{TlsSettings, TlsStream},
};

impl Builder {
    /// Returns the TLS settings for the setters that exist only with the feature of a TLS library.
    #[allow(dead_code)]
    pub(crate) fn tls_settings(&mut self) -> &mut TlsSettings {
        &mut self.config.tls
    }

    /// Sets the TLS library to use if the build includes both native-tls and rustls. Choosing a library that the build
    /// does not include is an [`Error::Config`](crate::Error::Config); see
    /// [`TlsBackend::is_available`]. Defaults to native-tls if the build includes it, otherwise to rustls
    /// ([`TlsBackend::default`]).
    pub fn tls_backend(mut self, backend: TlsBackend) -> Builder {
        self.config.tls.set_backend(backend);
        self
    }

    /// Trusts additional certificate authorities, besides those of the system. The input is PEM text with one or more
    /// certificates, or one certificate in DER. A server's self-signed certificate can be passed as well. Repeated
    /// calls add further certificates. Defaults to none.
    ///
    /// Malformed input, or more than 16 MiB, is an [`Error::Config`](crate::Error::Config) before connecting. Errors
    /// that only the TLS library can detect may be reported after the TCP connect, but always before any SMTP command.
    pub fn ca_certificate(mut self, certificates: impl AsRef<[u8]>) -> Builder {
        self.config.tls.add_root(certificates.as_ref());
        self
    }

    /// Sets whether the system's certificate authorities are trusted. If they are not, at least one
    /// [`ca_certificate`](Builder::ca_certificate) or [pin](Builder::pinned_certificate) is needed. Defaults to true.
    pub fn system_roots(mut self, trusted: bool) -> Builder {
        self.config.tls.set_system_roots(trusted);
        self
    }

    /// Trusts the server if its certificate has a given SHA-256 hash (of the whole certificate in DER), whoever issued
    /// it. The hash is base64, or 64 hexadecimal digits with or without colons. A pin is useful for servers with a
    /// self-signed certificate, and for devices without a clock or CAs. Repeated calls add further pins, and so does
    /// [`pinned_public_key`](Builder::pinned_public_key): one matching pin is enough. Defaults to none.
    ///
    /// A pin replaces all other certificate checks: the issuer, the name and the validity period are not verified (as
    /// with DANE-EE, RFC 7671 §5.1), and the system's CAs are not read. The server still has to prove that it has the
    /// private key. A certificate that matches no pin is an [`Error::Certificate`](crate::Error::Certificate) whose
    /// text contains the certificate's hashes; nothing more is sent to that server. A renewed certificate has another
    /// hash, so pin its successor as well, or pin the public key. To require a pin *and* a trusted issuer, use a custom
    /// verifier (`rustls_config`).
    ///
    /// With a pin, TLS is required: [`Security::Auto`](crate::Security::Auto) and `Opportunistic` fail if the server
    /// does not offer STARTTLS, and `Plaintext` is an [`Error::Config`](crate::Error::Config).
    ///
    /// To print a certificate's hash, run `openssl x509 -in server.pem -noout -fingerprint -sha256`.
    ///
    /// A malformed hash is an [`Error::Config`](crate::Error::Config) before connecting, and so is combining pins with
    /// [`ca_certificate`](Builder::ca_certificate),
    /// [`danger_accept_invalid_certs`](Builder::danger_accept_invalid_certs) or
    /// [`danger_accept_invalid_hostnames`](Builder::danger_accept_invalid_hostnames). With [`TlsBackend::NativeTls`],
    /// the pins are compared after the handshake: a server that is not pinned gets nothing but the
    /// [`client_certificate`](Builder::client_certificate), if it asks for one. On macOS, iOS and Windows, pins need
    /// [`TlsBackend::Rustls`].
    pub fn pinned_certificate(mut self, sha256: impl AsRef<str>) -> Builder {
        self.config.tls.pin_certificate(sha256.as_ref());
        self
    }

    /// Trusts the server if the public key of its certificate has a given SHA-256 hash (of the SubjectPublicKeyInfo in
    /// DER, as in RFC 7469 §2.4), in base64 or as 64 hexadecimal digits. Unlike a certificate pin, this pin remains
    /// valid when the certificate is renewed with the same key. In all other respects, this method works like
    /// [`pinned_certificate`](Builder::pinned_certificate).
    /// Defaults to none.
    ///
    /// These commands print the hash:
    ///
    /// ```sh
    /// openssl x509 -in server.pem -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst -sha256
    /// ```
    pub fn pinned_public_key(mut self, sha256: impl AsRef<str>) -> Builder {
        self.config.tls.pin_public_key(sha256.as_ref());
        self
    }

    /// Presents a client certificate to servers that ask for one. `chain` is PEM text: the client's certificate,
    /// followed by the certificates that lead to its root. `key` is the private key in PEM, as PKCS#8
    /// (`-----BEGIN PRIVATE KEY-----`) without a password. If one text contains both, pass it as both arguments. This
    /// setting replaces [`client_pkcs12`](Builder::client_pkcs12). To log in with the certificate, use
    /// [`external`](Builder::external). Defaults to none.
    ///
    /// If the key is in another format, the error text says how to convert it. A key that does not belong to the
    /// certificate is also reported before connecting, except with [`Security::Plaintext`](crate::Security::Plaintext):
    /// to detect such a key, the TLS connector is built first.
    pub fn client_certificate(mut self, chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Builder {
        self.config.tls.set_identity_pem(chain.as_ref(), key.as_ref());
        self
    }

    /// Presents the certificate in a PKCS#12 archive (RFC 7292; `.p12`, `.pfx`) to servers that ask for one. This
    /// setting replaces [`client_certificate`](Builder::client_certificate). Only [`TlsBackend::NativeTls`] can read
    /// archives: with rustls, this setting is an [`Error::Config`](crate::Error::Config). Defaults to none.
    pub fn client_pkcs12(mut self, der: impl AsRef<[u8]>, password: impl AsRef<str>) -> Builder {
        self.config.tls.set_identity_pkcs12(der.as_ref(), password.as_ref());
        self
    }

    /// Sets the minimum TLS version. Versions older than those in [`TlsVersion`] need a custom connector
    /// (`tls_connector`). On macOS, TLS 1.3 is available only with rustls. Defaults to [`TlsVersion::Tls1_2`].
    pub fn min_tls_version(mut self, version: TlsVersion) -> Builder {
        self.config.tls.set_min_version(version);
        self
    }

    /// Sets the name for which the server's certificate must be valid: a host name, which is also sent to the server
    /// (SNI), or an IP address. The name is compared with the certificate's subjectAltName (RFC 9525 §2). If a
    /// certificate has none, OpenSSL uses its common name, and rustls refuses the certificate. Defaults to the host.
    pub fn tls_name(mut self, name: impl Into<String>) -> Builder {
        self.config.tls.set_name(name.into());
        self
    }

    /// Sets whether to accept any certificate: from any issuer, for any name, expired or not. Anybody on the network
    /// path can then read and change the mail, and obtain the password. It is better to trust the server's certificate
    /// with [`ca_certificate`](Builder::ca_certificate). Defaults to false.
    pub fn danger_accept_invalid_certs(mut self, accepted: bool) -> Builder {
        self.config.tls.accept_invalid_certs(accepted);
        self
    }

    /// Sets whether to accept a valid certificate that was issued for a different name. Anyone can obtain such a
    /// certificate, so anyone on the network path can then read and change the mail, and obtain the password. It is
    /// better to set the right name with [`tls_name`](Builder::tls_name). Defaults to false.
    pub fn danger_accept_invalid_hostnames(mut self, accepted: bool) -> Builder {
        self.config.tls.accept_invalid_hostnames(accepted);
        self
    }
}

impl Client {
    /// Returns whether the connection is secured by TLS. Returns `false` if the connection is closed.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.link.stream.is_encrypted()
    }

    /// Returns the version of TLS that was negotiated; `None` without TLS, on a closed connection, and with
    /// [`TlsBackend::NativeTls`], which does not report it.
    #[must_use]
    pub fn tls_version(&self) -> Option<TlsVersion> {
        self.link.stream.tls().and_then(TlsStream::version)
    }

    /// Returns the name of the cipher suite that was negotiated, as registered with IANA, such as
    /// `TLS_AES_256_GCM_SHA384`; `None` without TLS, on a closed connection, and with [`TlsBackend::NativeTls`], which
    /// does not report it.
    #[must_use]
    pub fn tls_cipher_suite(&self) -> Option<String> {
        self.link.stream.tls().and_then(TlsStream::cipher_suite)
    }

    /// Returns the server's certificate in DER, without its chain; `None` without TLS or on a closed connection.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<Vec<u8>> {
        self.link.stream.tls().and_then(TlsStream::peer_certificate)
    }

    /// Returns the data that binds a login to this TLS connection: the hash of the server's certificate
    /// (`tls-server-end-point`, RFC 5929 §4). It is `None` without TLS, on a closed connection, and for certificates
    /// without such a hash, such as those signed with Ed25519.
    #[must_use]
    pub fn channel_binding(&self) -> Option<Vec<u8>> {
        self.link.stream.tls().and_then(TlsStream::end_point)
    }

    /// Returns 32 octets that bind a login to this TLS connection alone (`tls-exporter`, RFC 9266 §2). Returns `None`
    /// without TLS 1.3, on a closed connection, and with [`TlsBackend::NativeTls`], which cannot export them.
    #[must_use]
    pub fn tls_exporter(&self) -> Option<Vec<u8>> {
        self.link.stream.tls().and_then(TlsStream::exporter)
    }
}
