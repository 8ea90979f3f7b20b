//! Sockets, files, paths and the machine's name, as the operating system knows them. Nothing outside this directory
//! names `rustix` or `std::os`. Another system is another file beside `unix.rs`, with the same items.

#[cfg(unix)]
mod unix;

#[cfg(unix)]
pub(crate) use unix::*;
