//! The name lookup. `getaddrinfo` has no time limit, so it runs on a thread that is abandoned at the limit.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    time::Instant,
};

use super::{
    aside::{GivenUp, aside},
    stop::StopHandle,
};
use crate::{Error, Phase};

/// Returns all addresses of a host, at least one. If the host is an address, no lookup is needed.
pub(super) fn resolve(
    host: &str,
    port: u16,
    until: Instant,
    stop_handle: &StopHandle,
) -> Result<Vec<SocketAddr>, Error> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![(address, port).into()]);
    }
    let name = host.to_owned();
    let lookup = move || (name.as_str(), port).to_socket_addrs().map(Vec::from_iter);
    look_up(host, until, stop_handle, lookup)
}

fn look_up(
    host: &str,
    until: Instant,
    stop_handle: &StopHandle,
    lookup: impl FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
) -> Result<Vec<SocketAddr>, Error> {
    let failed = |source| Error::Resolve { host: host.to_owned(), source };
    match aside("postino lookup", until, stop_handle, lookup) {
        Ok(Ok(addresses)) if addresses.is_empty() => Err(failed(io::ErrorKind::NotFound.into())),
        Ok(found) => found.map_err(failed),
        Err(GivenUp::Stopped) => Err(Error::Stopped(Phase::Resolve)),
        Err(GivenUp::Late) => Err(failed(io::ErrorKind::TimedOut.into())),
        Err(GivenUp::NoThread(source)) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    // Threat 87.
    #[test]
    fn a_hanging_lookup_times_out() {
        let (wake, asleep) = mpsc::channel::<()>();
        let start = Instant::now();
        let until = start + Duration::from_millis(200);
        let sleeps = move || {
            let _woken = asleep.recv();
            Ok(Vec::new())
        };
        let error = look_up("mail.example", until, &StopHandle::new(), sleeps).unwrap_err();
        assert!(error.is_timeout() && error.to_string().contains("mail.example"), "{error:?}");
        assert!(Instant::now() >= until && start.elapsed() < Duration::from_secs(5));
        drop(wake);
    }

    // Threat 87.
    #[test]
    fn a_stop_does_not_wait_for_a_hanging_lookup() {
        let (wake, asleep) = mpsc::channel::<()>();
        let (stop_handle, start) = (StopHandle::new(), Instant::now());
        let until = start + Duration::from_secs(60);
        let stop = stop_handle.clone();
        let sleeps = move || {
            stop.stop();
            let _woken = asleep.recv();
            Ok(Vec::new())
        };
        let error = look_up("mail.example", until, &stop_handle, sleeps).unwrap_err();
        assert!(matches!(error, Error::Stopped(Phase::Resolve)), "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(30));
        drop(wake);
    }

    #[test]
    fn a_lookup_that_finds_nothing_is_an_error() {
        let until = Instant::now() + Duration::from_secs(60);
        let error = look_up("mail.example", until, &StopHandle::new(), || Ok(Vec::new())).unwrap_err();
        assert!(matches!(error, Error::Resolve { .. }) && !error.is_timeout(), "{error:?}");
    }
}
