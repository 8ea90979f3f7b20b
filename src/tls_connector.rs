//! The setter for a connector that the caller has built. It exists only with the feature `native-tls`, and `client/`
//! has no `cfg`, so this file is outside. `blocking/` and `aio/` mount it, each for its own `Builder`.

use native_tls::TlsConnector;

use super::client::Builder;

#[cfg_attr(docsrs, doc(cfg(feature = "native-tls")))]
impl Builder {
    /// Uses this native-tls connector for every handshake: it determines which certificates are trusted, which TLS
    /// versions are used, and which client certificate is sent. No other TLS setting except
    /// [`tls_name`](Self::tls_name) can be combined with it: that is an [`Error::Config`](crate::Error::Config).
    /// Defaults to a connector that is built from the other settings when it is first needed.
    pub fn tls_connector(mut self, connector: TlsConnector) -> Self {
        self.tls_settings().set_ready(connector);
        self
    }
}
