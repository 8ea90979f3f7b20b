//! The dialogues in TLS again, with rustls: without this, a build with both libraries uses native-tls.

use postino::TlsBackend;

use super::*;

// Each takes the place of the item of the same name in `super`.

const MORE_CAS: usize = 100;

fn backend() -> TlsBackend {
    TlsBackend::Rustls
}

fn builder(server: &Server) -> Builder {
    super::builder(server).tls_backend(backend())
}

fn named(server: &Server, host: &str) -> Builder {
    super::named(server, host).tls_backend(backend())
}

#[path = "certificates.rs"]
#[allow(clippy::duplicate_mod)] // written once, compiled twice on purpose
mod certificates;
#[cfg(unix)]
#[path = "floods.rs"]
#[allow(clippy::duplicate_mod)]
pub mod floods;
#[path = "tls.rs"]
#[allow(clippy::duplicate_mod)]
mod tls;
#[path = "trust.rs"]
#[allow(clippy::duplicate_mod)]
mod trust;
