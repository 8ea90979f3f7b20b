//! Messages of other libraries, as they arrive, sent by both clients.
#![cfg(all(feature = "testing", any(feature = "lettre-0_11", feature = "mail-builder-2")))]

#[path = "."]
mod blocking {
    use postino::Client;

    /// In the blocking client, a "future" is already its value.
    fn block_on<T>(value: T) -> T {
        value
    }

    #[path = "cases.rs"]
    mod cases;
}

#[cfg(feature = "async")]
#[path = "."]
mod aio {
    use postino::aio::Client;
    use smol::block_on;

    #[path = "cases.rs"]
    #[allow(clippy::duplicate_mod)] // the same source, compiled for both clients
    mod cases;
}
