//! A server that never stops sending records in TLS. Its double needs OpenSSL.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use postino::Security;

use super::*;
use crate::support::tls::{
    CA,
    flood::{Flood, Record, Stage},
};

/// A builder for a [`Flood`], whose connector is already built.
pub fn flooded() -> Builder {
    let builder = Client::builder("localhost").hello_name("client.example.org").tls_backend(backend());
    let builder = builder.security(Security::Implicit).ca_certificate(CA).system_roots(false);
    let harmless = Flood::new(Stage::Content, Record::Ticket, Instant::now() + crate::support::PATIENCE);
    block_on(builder.connect_over(crate::flooding::over(harmless))).unwrap();
    builder
}

#[test]
fn tls_records_without_content_do_not_outlast_the_deadline() {
    let builder = flooded();
    for at in [Stage::Handshake, Stage::Idle, Stage::Reply, Stage::Content] {
        for record in [Record::KeyUpdate, Record::Ticket] {
            // The message of the handshake has an end after all. Without optimization, rustls is slower than OpenSSL.
            let slower = if backend() == TlsBackend::Rustls { 3 } else { 1 };
            let limit = slower * Duration::from_millis(if at == Stage::Handshake { 25 } else { 200 });
            // Twice the limit: the client's own clock starts a little later than this one.
            let flood = Flood::new(at, record, Instant::now() + 2 * limit);
            let (steps, late) = (flood.steps(), flood.late());
            let client = block_on(builder.clone().deadline(limit).connect_over(crate::flooding::over(flood)));
            let error = match (client, at) {
                (Err(error), _) => error,
                (Ok(mut client), Stage::Content) => send_error(&mut client, &super::text(&[b'x'; 1 << 20])),
                (Ok(mut client), _) => block_on(client.noop()).unwrap_err(),
            };
            // rustls counts them.
            let counts = record == Record::KeyUpdate && backend() == TlsBackend::Rustls;
            if counts && error.to_string().contains("TooManyKeyUpdateRequests") {
                assert!(steps.load(Ordering::Relaxed) < 1000, "{at:?}");
                continue;
            }
            // It buffers at most 64 KiB of a handshake message, which a fast server exceeds before the limit.
            let is_full = at == Stage::Handshake && error.to_string().contains("message buffer full");
            if is_full && backend() == TlsBackend::Rustls {
                continue;
            }
            assert!(error.is_timeout(), "{at:?} {record:?}: {error:?}");
            let (steps, late) = (steps.load(Ordering::Relaxed), late.load(Ordering::Relaxed));
            // One poll, or one non-blocking call, may be under way when the time is up.
            assert!(steps > 100 && late < 200, "{at:?} {record:?}: {late} of {steps} steps were late");
        }
    }
}
