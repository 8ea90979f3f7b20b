//! The setters for TLS settings that the caller has built with a TLS library. They exist only with the feature of that
//! library, and `client/` has no `cfg`, so this file is not in it. `blocking/` and `aio/` mount it, each for its own
//! `Builder`.

#[cfg(feature = "rustls")]
use std::sync::Arc;

use super::client::Builder;

#[cfg(feature = "native-tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "native-tls")))]
impl Builder {
    /// Uses this native-tls connector for every handshake: it determines which certificates are trusted, which TLS
    /// versions are used, and which client certificate is sent. Of the other TLS settings, only
    /// [`tls_name`](Self::tls_name) can be combined with it; any other is an [`Error::Config`](crate::Error::Config).
    /// Defaults to a connector that is built from the other settings when it is first needed.
    pub fn tls_connector(mut self, connector: native_tls::TlsConnector) -> Self {
        self.tls_settings().set_ready(connector.into());
        self
    }
}

#[cfg(feature = "rustls")]
#[cfg_attr(docsrs, doc(cfg(feature = "rustls")))]
impl Builder {
    /// Uses rustls with this configuration for every handshake: it determines which certificates are trusted, which
    /// TLS versions and cryptography are used, which client certificate is sent, and where sessions are stored for
    /// resumption. ALPN and early data should be off. Of the other TLS settings, only [`tls_name`](Self::tls_name) can
    /// be combined with it; any other is an [`Error::Config`](crate::Error::Config). Defaults to a configuration that
    /// is built from the other settings when it is first needed.
    ///
    /// # A custom verifier
    ///
    /// A configuration can verify certificates with your own code, instead of or in addition to the usual checks. The
    /// reason that this code gives for a refusal appears in the [`Error::Certificate`](crate::Error::Certificate).
    /// (To pin a certificate instead of trusting the CAs, [`pinned_certificate`](Self::pinned_certificate) is enough.)
    ///
    /// ```no_run
    /// use std::sync::Arc;
    ///
    /// use postino::Client;
    /// use rustls::{
    ///     CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    ///     client::{
    ///         WebPkiServerVerifier,
    ///         danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    ///     },
    ///     crypto::ring::default_provider,
    ///     pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    /// };
    ///
    /// /// Trusts certificates of the CAs only if a function agrees.
    /// #[derive(Debug)]
    /// struct Both {
    ///     cas: Arc<WebPkiServerVerifier>,
    ///     agrees: fn(&[u8]) -> Result<(), std::io::Error>,
    /// }
    ///
    /// impl ServerCertVerifier for Both {
    ///     fn verify_server_cert(
    ///         &self,
    ///         certificate: &CertificateDer<'_>,
    ///         chain: &[CertificateDer<'_>],
    ///         name: &ServerName<'_>,
    ///         ocsp: &[u8],
    ///         now: UnixTime,
    ///     ) -> Result<ServerCertVerified, Error> {
    ///         self.cas.verify_server_cert(certificate, chain, name, ocsp, now)?;
    ///         (self.agrees)(certificate).map_err(|e| CertificateError::Other(OtherError(Arc::new(e))))?;
    ///         Ok(ServerCertVerified::assertion())
    ///     }
    ///
    ///     // These prove that the server has the key of its certificate.
    ///     fn verify_tls12_signature(
    ///         &self,
    ///         message: &[u8],
    ///         certificate: &CertificateDer<'_>,
    ///         signature: &DigitallySignedStruct,
    ///     ) -> Result<HandshakeSignatureValid, Error> {
    ///         self.cas.verify_tls12_signature(message, certificate, signature)
    ///     }
    ///
    ///     fn verify_tls13_signature(
    ///         &self,
    ///         message: &[u8],
    ///         certificate: &CertificateDer<'_>,
    ///         signature: &DigitallySignedStruct,
    ///     ) -> Result<HandshakeSignatureValid, Error> {
    ///         self.cas.verify_tls13_signature(message, certificate, signature)
    ///     }
    ///
    ///     fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
    ///         self.cas.supported_verify_schemes()
    ///     }
    /// }
    ///
    /// # fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut roots = RootCertStore::empty();
    /// for ca in CertificateDer::pem_file_iter("our-cas.pem")? {
    ///     roots.add(ca?)?;
    /// }
    /// let provider = Arc::new(default_provider());
    /// let cas = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone()).build()?;
    /// let agrees = |certificate: &[u8]| match certificate.len() {
    ///     ..2000 => Ok(()),
    ///     _ => Err(std::io::Error::other("we know no certificate that is so large")),
    /// };
    /// let config = ClientConfig::builder_with_provider(provider)
    ///     .with_safe_default_protocol_versions()?
    ///     .dangerous()
    ///     .with_custom_certificate_verifier(Arc::new(Both { cas, agrees }))
    ///     .with_no_client_auth();
    /// let builder = Client::builder("mail.example.org").rustls_config(Arc::new(config));
    /// # Ok(())
    /// # }
    /// ```
    pub fn rustls_config(mut self, config: Arc<rustls::ClientConfig>) -> Self {
        self.tls_settings().set_ready(config.into());
        self
    }
}
