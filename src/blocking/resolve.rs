//! The name lookup. `getaddrinfo` knows no limit, so it runs on a thread that is given up at the limit.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::mpsc,
    thread,
    time::Instant,
};

use super::{stop::Stopper, stream::GLANCE};
use crate::{Error, Phase};

/// All addresses of a host, one at least. An address needs no lookup, and no thread.
pub(super) fn resolve(
    host: &str,
    port: u16,
    until: Instant,
    stopper: &Stopper,
) -> Result<Vec<SocketAddr>, Error> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let failed = |source| Error::Resolve { host: host.to_owned(), source };
    let (tell, told) = mpsc::channel();
    let name = host.to_owned();
    let lookup = move || {
        // Nobody may be listening any more.
        drop(tell.send((name.as_str(), port).to_socket_addrs().map(Vec::from_iter)));
    };
    thread::Builder::new().name("postino lookup".to_owned()).spawn(lookup).map_err(failed)?;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match told.recv_timeout(left.min(GLANCE)) {
            Ok(Ok(addresses)) if addresses.is_empty() => return Err(failed(io::ErrorKind::NotFound.into())),
            Ok(addresses) => return addresses.map_err(failed),
            Err(_) if stopper.is_stopped() => return Err(Error::Stopped(Phase::Resolve)),
            Err(_) if left <= GLANCE => return Err(failed(io::ErrorKind::TimedOut.into())),
            Err(_) => {}
        }
    }
}
