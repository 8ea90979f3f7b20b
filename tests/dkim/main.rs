//! Signed messages as they arrive, in both worlds. The keys in `keys/` are for these tests only.
#![cfg(all(feature = "dkim", feature = "testing"))]

#[path = "."]
mod blocking {
    use postino::{Builder, Client};

    /// In the blocking world a "future" is its value already.
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
    #[allow(clippy::duplicate_mod)] // written once, compiled twice: that is the point
    mod cases;
}
