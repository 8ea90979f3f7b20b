//! A server that never stops sending records in TLS. Its double needs OpenSSL.

use std::{sync::atomic::Ordering, time::Duration};

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
    let harmless = Flood::new(Stage::Content, Record::Ticket, crate::support::PATIENCE);
    block_on(builder.connect_over(crate::flooding::over(harmless))).unwrap();
    builder
}

/// Number of times that a flood is tried. On a busy machine, a short limit can pass before the flood has begun.
pub const TRIALS: usize = 50;

#[test]
fn tls_records_without_content_do_not_outlast_the_deadline() {
    let builder = flooded();
    for at in [Stage::Handshake, Stage::Idle, Stage::Reply, Stage::Content] {
        for record in [Record::KeyUpdate, Record::Ticket] {
            let flooded = (0..TRIALS).any(|_| does_not_outlast_the_deadline(&builder, at, record));
            assert!(flooded, "{at:?} {record:?}: the flood never began");
        }
    }
}

/// Returns whether the flood began before the deadline.
fn does_not_outlast_the_deadline(builder: &Builder, at: Stage, record: Record) -> bool {
    // The message of the handshake has an end after all. Without optimization, rustls is slower than OpenSSL.
    let slower = if backend() == TlsBackend::Rustls { 3 } else { 1 };
    let limit = slower * Duration::from_millis(if at == Stage::Handshake { 25 } else { 200 });
    // Twice the limit: the client's own clock starts at another time.
    let flood = Flood::new(at, record, 2 * limit);
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
        return true;
    }
    // It buffers at most 64 KiB of a handshake message, which a fast server exceeds before the limit.
    let is_full = at == Stage::Handshake && error.to_string().contains("message buffer full");
    if is_full && backend() == TlsBackend::Rustls {
        return true;
    }
    assert!(error.is_timeout(), "{at:?} {record:?}: {error:?}");
    let (steps, late) = (steps.load(Ordering::Relaxed), late.load(Ordering::Relaxed));
    // One poll, or one non-blocking call, may be under way when the time is up.
    assert!(late < 200, "{at:?} {record:?}: {late} of {steps} steps were late");
    steps > 100
}
