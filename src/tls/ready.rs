//! A connector of the caller's own. Both builders take it, and only with the feature: `client/` knows no `cfg`, so the
//! setter stands here, once.

use std::sync::Arc;

use native_tls::TlsConnector;

use super::{Connector, TlsSettings};

impl TlsSettings {
    fn set_ready(&mut self, connector: TlsConnector) {
        self.ready = Some(Connector::ready(connector));
        self.connector = Arc::default();
    }
}

macro_rules! setter {
    ($builder:path) => {
        #[cfg_attr(docsrs, doc(cfg(feature = "native-tls")))]
        impl $builder {
            /// Uses this connector of native-tls for every handshake: what it trusts, which versions it speaks and
            /// what it shows of ourselves is its own affair then. Together with another setting of TLS, but for
            /// [`tls_name`](Self::tls_name), it is an [`Error::Config`](crate::Error::Config). Defaults to one that is
            /// built from the other settings when it is first needed.
            pub fn tls_connector(mut self, connector: TlsConnector) -> Self {
                self.tls_settings().set_ready(connector);
                self
            }
        }
    };
}

setter!(crate::Builder);
#[cfg(feature = "async")]
setter!(crate::aio::Builder);
