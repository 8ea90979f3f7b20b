//! The setters for TLS settings that the caller has built with a TLS library. They exist only with the feature of that
//! library, and `client/` has no `cfg`, so this file is outside. `blocking/` and `aio/` mount it, each for its own
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
    pub fn rustls_config(mut self, config: Arc<rustls::ClientConfig>) -> Self {
        self.tls_settings().set_ready(config.into());
        self
    }
}
