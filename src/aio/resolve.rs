//! The name lookup, on a thread that may block.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    time::Instant,
};

use smol::unblock;

use super::{stop::Stopper, stream::Alarm};
use crate::Error;

/// All addresses of a host, one at least. An address needs no lookup, and no thread.
pub(super) async fn resolve(
    host: &str,
    port: u16,
    until: Instant,
    _: &Stopper,
) -> Result<Vec<SocketAddr>, Error> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let name = host.to_owned();
    let lookup = unblock(move || (name.as_str(), port).to_socket_addrs().map(Vec::from_iter));
    match Alarm::default().within(until, lookup).await {
        Ok(addresses) if !addresses.is_empty() => Ok(addresses),
        Ok(_) => Err(Error::Resolve { host: host.to_owned(), source: io::ErrorKind::NotFound.into() }),
        Err(source) => Err(Error::Resolve { host: host.to_owned(), source }),
    }
}
