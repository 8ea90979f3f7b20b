//! Signed messages as they arrive, sent by both clients. The keys in `keys/` are for these tests only.
#![cfg(all(feature = "dkim", feature = "testing"))]

#[path = "."]
mod blocking {
    use postino::{Builder, Client};

    /// In the blocking client, a "future" is already its value.
    fn block_on<T>(value: T) -> T {
        value
    }

    const WORLD: &str = "blocking";

    #[path = "cases.rs"]
    mod cases;
}

#[cfg(feature = "async")]
#[path = "."]
mod aio {
    use postino::aio::{Builder, Client};
    use smol::block_on;

    const WORLD: &str = "aio";

    #[path = "cases.rs"]
    #[allow(clippy::duplicate_mod)] // the same source, compiled for both clients
    mod cases;
}
