//! Tests against real servers: what is sent arrives, byte for byte. See `README.md` in this folder.
//!
//! `tests/interop/servers up` starts the servers. Servers that are not running are skipped with a note on stderr; if
//! `POSTINO_INTEROP_REQUIRED` names them, the test fails instead. `POSTINO_INTEROP_RESULTS` names a file for the
//! results.
#![cfg(all(any(feature = "native-tls", feature = "rustls"), feature = "async"))]

#[path = "../support/journal.rs"]
mod journal;

mod awkward;
mod conversation;
mod deviations;
mod results;
mod servers;

#[path = "."]
mod blocking {
    use ::maybe_async::must_be_sync as maybe_async;
    use postino::{Builder, Client};

    const CLIENT: &str = "blocking";
    const LIBRARY: Option<postino::TlsBackend> = None;

    fn block_on<T>(value: T) -> T {
        value
    }

    #[path = "batches.rs"]
    mod batches;

    #[path = "cases.rs"]
    mod cases;

    #[path = "corpus.rs"]
    mod corpus;

    #[path = "logins.rs"]
    mod logins;

    #[path = "messages.rs"]
    mod messages;

    #[path = "parameters.rs"]
    mod parameters;

    #[path = "trust.rs"]
    mod trust;

    /// What depends on the TLS library, with the one that is not the default.
    #[cfg(all(feature = "native-tls", feature = "rustls"))]
    #[path = "."]
    #[allow(clippy::duplicate_mod)]
    mod with_rustls {
        use super::{Builder, Client, block_on, maybe_async};

        const CLIENT: &str = "blocking, rustls";
        const LIBRARY: Option<postino::TlsBackend> = Some(postino::TlsBackend::Rustls);

        #[path = "cases.rs"]
        mod cases;

        #[path = "logins.rs"]
        mod logins;

        #[path = "trust.rs"]
        mod trust;
    }
}

#[path = "."]
mod aio {
    use ::maybe_async::must_be_async as maybe_async;
    use postino::aio::{Builder, Client};
    use smol::block_on;

    const CLIENT: &str = "async";
    const LIBRARY: Option<postino::TlsBackend> = None;

    #[path = "batches.rs"]
    #[allow(clippy::duplicate_mod)] // the same source, compiled for both clients
    mod batches;

    #[path = "cases.rs"]
    #[allow(clippy::duplicate_mod)]
    mod cases;

    #[path = "corpus.rs"]
    #[allow(clippy::duplicate_mod)]
    mod corpus;

    #[path = "logins.rs"]
    #[allow(clippy::duplicate_mod)]
    mod logins;

    #[path = "messages.rs"]
    #[allow(clippy::duplicate_mod)]
    mod messages;

    #[path = "parameters.rs"]
    #[allow(clippy::duplicate_mod)]
    mod parameters;

    #[path = "trust.rs"]
    #[allow(clippy::duplicate_mod)]
    mod trust;

    /// What depends on the TLS library, with the one that is not the default.
    #[cfg(all(feature = "native-tls", feature = "rustls"))]
    #[path = "."]
    #[allow(clippy::duplicate_mod)]
    mod with_rustls {
        use super::{Builder, Client, block_on, maybe_async};

        const CLIENT: &str = "async, rustls";
        const LIBRARY: Option<postino::TlsBackend> = Some(postino::TlsBackend::Rustls);

        #[path = "cases.rs"]
        mod cases;

        #[path = "logins.rs"]
        mod logins;

        #[path = "trust.rs"]
        mod trust;
    }
}
