//! The name lookup, on a thread that may block.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    time::Instant,
};

use smol::unblock;

use super::{stop::StopHandle, stream::Alarm};
use crate::Error;

/// Returns all addresses of a host, at least one. If the host is an address, no lookup is needed.
pub(super) async fn resolve(
    host: &str,
    port: u16,
    until: Instant,
    _: &StopHandle,
) -> Result<Vec<SocketAddr>, Error> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let name = host.to_owned();
    look_up(host, until, move || (name.as_str(), port).to_socket_addrs().map(Vec::from_iter)).await
}

async fn look_up(
    host: &str,
    until: Instant,
    lookup: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
) -> Result<Vec<SocketAddr>, Error> {
    match Alarm::default().within(until, unblock(lookup)).await {
        Ok(addresses) if !addresses.is_empty() => Ok(addresses),
        Ok(_) => Err(Error::Resolve { host: host.to_owned(), source: io::ErrorKind::NotFound.into() }),
        Err(source) => Err(Error::Resolve { host: host.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use smol::{block_on, future::zip};

    use super::*;

    // Threat 87.
    #[test]
    fn a_hanging_lookup_times_out_without_blocking_the_executor() {
        let (wake, asleep) = mpsc::channel::<()>();
        let start = Instant::now();
        let until = start + Duration::from_millis(200);
        let sleeps = move || {
            let _woken = asleep.recv();
            Ok(Vec::new())
        };
        let (found, others) = block_on(zip(look_up("mail.example", until, sleeps), async {
            smol::Timer::after(Duration::from_millis(10)).await;
            Instant::now()
        }));
        let error = found.unwrap_err();
        assert!(error.is_timeout() && error.to_string().contains("mail.example"), "{error:?}");
        assert!(Instant::now() >= until && start.elapsed() < Duration::from_secs(5));
        assert!(others < Instant::now(), "another task ran during the lookup");
        drop(wake);
    }
}
