//! The messages with which CPython tests its `email` package, good and bad, sent unchanged. Compiled for both clients.
//!
//! They come from Debian's `libpython3.11-testsuite`, or from the folder that `POSTINO_CORPUS` names. If they are
//! missing, the tests are skipped with a note on stderr; if `POSTINO_INTEROP_REQUIRED` names `corpus`, they fail
//! instead.

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use postino::{Envelope, Error, Raw, Security};

use super::{Client, block_on, maybe_async};
use crate::servers::{self, AIOSMTPD, EXIM, Server};

const FOLDER: &str = "/usr/lib/python3.11/test/test_email/data";
/// Minimum number of messages.
const MESSAGES: usize = 47;

fn corpus() -> Option<Vec<PathBuf>> {
    let folder = env::var_os("POSTINO_CORPUS").map_or_else(|| FOLDER.into(), PathBuf::from);
    let Ok(entries) = fs::read_dir(&folder) else {
        let required = env::var("POSTINO_INTEROP_REQUIRED").unwrap_or_default();
        assert!(!required.split(',').any(|name| name == "corpus"), "the corpus is not in {folder:?}");
        let _ = writeln!(io::stderr(), "SKIPPED: the corpus is not in {folder:?} (libpython3.11-testsuite)");
        return None;
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "txt")).collect();
    paths.sort();
    assert!(paths.len() >= MESSAGES, "there are only {} messages in {folder:?}", paths.len());
    Some(paths)
}

/// The text with every line ending made CRLF, and one at the end.
fn wire(text: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        wire.extend_from_slice(&rest[..at]);
        wire.extend_from_slice(b"\r\n");
        rest = &rest[at + if rest[at..].starts_with(b"\r\n") { 2 } else { 1 }..];
    }
    if !rest.is_empty() || text.is_empty() {
        wire.extend_from_slice(rest);
        wire.extend_from_slice(b"\r\n");
    }
    wire
}

/// The message with Exim's own changes: it puts an empty line before the first line that is not a header, and removes
/// `Delivery-Date`, as a delivering server does.
fn as_stored(server: &Server, path: &Path, wire: Vec<u8>) -> Vec<u8> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let text = |from: &str, to: &str| {
        let wire = String::from_utf8(wire.clone()).unwrap();
        assert!(wire.contains(from), "{name} is another one");
        wire.replacen(from, to, 1).into_bytes()
    };
    match name {
        _ if server.name != EXIM.name => wire,
        "msg_35.txt" => text("\r\ncounter to", "\r\n\r\ncounter to"),
        "msg_46.txt" => text("\r\nDelivery-Date: Mon, 08 Feb 2010 14:05:16 +0100", ""),
        _ => wire,
    }
}

#[maybe_async]
async fn all_arrive(server: &Server, paths: &[PathBuf]) -> Result<(), Error> {
    let builder = Client::builder("127.0.0.1").port(server.open.unwrap()).security(Security::StartTls);
    let builder = builder.ca_certificate(servers::ca()).deadline(Duration::from_secs(60));
    let mut client = builder.hello_name("client.lab.test").connect().await?;
    for path in paths {
        let token = servers::token(); // not in the message: Exim names the recipient in its Received
        let envelope = Envelope::new("bob@lab.test", [format!("alice+{token}@lab.test")]).unwrap();
        let text = fs::read(path).unwrap();
        let delivery = client.send(&Raw::path(envelope, path)).await?;
        assert_eq!(delivery.refused().count(), 0, "{path:?}");
        let (stored, sent) = (server.stored(&token), as_stored(server, path, wire(&text)));
        assert!(stored.ends_with(&sent), "{path:?}: {} stored {}", server.name, stored.escape_ascii());
        if server.name == AIOSMTPD.name {
            assert_eq!(stored.len(), sent.len(), "{path:?}: something was put before it");
        }
    }
    client.quit().await
}

fn corpus_arrives(server: &Server) {
    if let Some(paths) = corpus().filter(|_| server.is_up()) {
        block_on(all_arrive(server, &paths)).unwrap();
    }
}

#[test]
fn aiosmtpd_receives_the_corpus_unchanged() {
    corpus_arrives(&AIOSMTPD);
}

#[test]
fn exim_receives_the_corpus_unchanged() {
    corpus_arrives(&EXIM);
}
