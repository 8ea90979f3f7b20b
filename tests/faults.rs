//! Every read and every write of a whole session fails once, in every possible way; with both clients, over a wire in
//! memory.
//!
//! `sweep/session.rs` is the session, and `sweep/faults.rs` makes it fail.

mod sweep;

/// Over a transport that supports limits.
#[path = "."]
mod blocking {
    use ::maybe_async::must_be_sync as maybe_async;
    use postino::{Builder, Client};

    use crate::sweep::{self, Wire};

    fn block_on<T>(value: T) -> T {
        value
    }

    fn dress(wire: Wire) -> Wire {
        wire
    }

    #[path = "sweep/faults.rs"]
    mod faults;
    #[path = "sweep/session.rs"]
    mod session;
}

/// Over any `Read` and `Write`.
#[path = "."]
mod untimed {
    use ::maybe_async::must_be_sync as maybe_async;
    use postino::{Builder, Client, NoTimeouts};

    use crate::sweep::{self, Wire};

    fn block_on<T>(value: T) -> T {
        value
    }

    fn dress(wire: Wire) -> NoTimeouts<Wire> {
        NoTimeouts::new(wire)
    }

    #[path = "sweep/faults.rs"]
    #[allow(clippy::duplicate_mod)] // the same source, compiled for each
    mod faults;
    #[path = "sweep/session.rs"]
    #[allow(clippy::duplicate_mod)] // the same source, compiled for each
    mod session;
}

/// Over any `AsyncRead` and `AsyncWrite`.
#[cfg(feature = "async")]
#[path = "."]
mod aio {
    use ::maybe_async::must_be_async as maybe_async;
    use postino::aio::{Builder, Client};
    use smol::block_on;

    use crate::sweep::{self, Wire};

    fn dress(wire: Wire) -> Wire {
        wire
    }

    #[path = "sweep/faults.rs"]
    #[allow(clippy::duplicate_mod)] // the same source, compiled for each
    mod faults;
    #[path = "sweep/session.rs"]
    #[allow(clippy::duplicate_mod)] // the same source, compiled for each
    mod session;
}
