//! The servers that `tests/interop/servers` starts: their ports, and their changes to a message they store.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Read, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

pub const USER: &str = "alice@lab.test";
pub const PASSWORD: &str = "s3cret-p@ss";
/// Token that Dovecot and smtp-server accept as the user's OAuth token: a JSON Web Token that is valid until the year
/// 2100.
pub const TOKEN: &str = concat!(
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.",
    "eyJzdWIiOiJhbGljZSIsImVtYWlsIjoiYWxpY2VAbGFiLnRlc3QiLCJpYXQiOjE1Nzc4MzY4MDAsImV4cCI6NDEwMjQ0NDgwMH0.",
    "b7n0TnfNgYnlwixg872Bqeo0i5bZjKRzLB-lcCnCvnE"
);

pub struct Server {
    pub name: &'static str,
    /// Port with STARTTLS and no login. Dovecot accepts nothing without a login.
    pub open: Option<u16>,
    /// Port with STARTTLS and a login in TLS (the open port again if it has one).
    pub submission: u16,
    /// Port with TLS from the first octet, and a login.
    pub implicit: u16,
    /// Port with a login in clear text, by the same mechanisms.
    pub clear: Option<u16>,
    /// Port with few extensions, and a small limit on message size.
    pub old: Option<u16>,
    /// Port with LMTP and STARTTLS, and no login.
    pub lmtp: Option<u16>,
    /// Of five messages, the number of envelopes it accepts with the end before them. Over LMTP, none is sent so.
    pub joins: usize,
}

pub const POSTFIX: Server = Server {
    name: "postfix",
    open: Some(12525),
    submission: 12587,
    implicit: 12465,
    clear: Some(12588),
    old: Some(12526),
    lmtp: None,
    joins: 4,
};
pub const DOVECOT: Server = Server {
    name: "dovecot",
    open: None,
    submission: 14587,
    implicit: 14465,
    clear: Some(14587), // to a client on the same machine
    old: None,
    lmtp: Some(14424),
    joins: 0, // BURL: see Client::options
};
pub const EXIM: Server = Server {
    name: "exim",
    open: Some(13525),
    submission: 13587,
    implicit: 13465,
    clear: Some(13588),
    old: None,
    lmtp: None,
    joins: 4,
};
pub const SENDMAIL: Server = Server {
    name: "sendmail",
    open: Some(17525),
    submission: 17587,
    implicit: 17465,
    clear: None,
    old: None,
    lmtp: None,
    joins: 0, // no CHUNKING
};
pub const SMTPSERVER: Server = Server {
    name: "smtpserver",
    open: Some(18525),
    submission: 18525,
    implicit: 18465,
    clear: Some(18588),
    old: Some(18526),
    lmtp: Some(18424),
    joins: 0, // no CHUNKING
};
pub const AIOSMTPD: Server = Server {
    name: "aiosmtpd",
    open: Some(19525),
    submission: 19525,
    implicit: 19465,
    clear: None,
    old: Some(19526),
    lmtp: Some(19424),
    joins: 0,
};
pub const ALL: [Server; 6] = [POSTFIX, DOVECOT, EXIM, SENDMAIL, SMTPSERVER, AIOSMTPD];

/// The folder where the servers keep what the tests need.
pub fn state() -> PathBuf {
    let folder = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from); // as the script reads it
    let cache =
        || folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache"))).unwrap_or_default();
    folder("POSTINO_INTEROP").unwrap_or_else(|| cache().join("postino-interop"))
}

pub fn ca() -> Vec<u8> {
    fs::read(state().join("pki/ca.pem")).expect("a server that is up has certificates")
}

impl Server {
    /// Whether the server is up. If it is not, reports it where the test runner does not hide it.
    pub fn is_up(&self) -> bool {
        let up = self.is_running();
        if !up {
            let required = env::var("POSTINO_INTEROP_REQUIRED").unwrap_or_default();
            assert!(
                !required.split(',').any(|name| name == self.name),
                "{} is required, and it is not up",
                self.name
            );
            static SAID: Mutex<Vec<&str>> = Mutex::new(Vec::new());
            let mut said = SAID.lock().unwrap();
            if !said.contains(&self.name) {
                said.push(self.name);
                let _ = writeln!(io::stderr(), "SKIPPED: {} is not up (tests/interop/servers up)", self.name);
            }
        }
        up
    }

    /// Whether the process of `run/NAME.up` (its ID and start time) is still there. The file alone proves nothing: it
    /// outlives a server that was killed, or a machine that was switched off.
    fn is_running(&self) -> bool {
        let Ok(up) = fs::read_to_string(state().join(format!("run/{}.up", self.name))) else { return false };
        let Some((pid, start)) = up.trim().split_once(' ') else { return false };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name of the program, in parentheses, may contain anything. The state follows it: field 3. The start is
        // field 22.
        stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(22 - 3)) == Some(start)
    }

    /// Waits for the message with this token to be stored, and returns it as stored.
    pub fn stored(&self, token: &str) -> Vec<u8> {
        self.wait_for(token).1
    }

    /// Like `stored`, for the copy whose path contains `part`: for servers that store one for each recipient.
    pub fn stored_at(&self, token: &str, part: &str) -> Vec<u8> {
        self.wait_until(token, || self.find_at(token, part)).1
    }

    /// Waits for the message with this token to be stored, and returns what was recorded of it: `port N`, `tls yes|no`,
    /// `hello NAME`, `login USER` after a login, and MAIL and RCPT as sent, including refused ones. For aiosmtpd,
    /// smtp-server and Dovecot's submission (as it forwards them).
    pub fn envelope(&self, token: &str) -> Vec<String> {
        let path = self.wait_for(token).0.with_extension("envelope");
        fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    fn wait_for(&self, token: &str) -> (PathBuf, Vec<u8>) {
        self.wait_until(token, || self.find(token))
    }

    fn wait_until<T>(&self, token: &str, find: impl Fn() -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(found) = find() {
                return found;
            }
            assert!(Instant::now() < end, "{} did not store {token}", self.name);
            thread::sleep(Duration::from_millis(50)); // servers deliver after their 250
        }
    }

    /// The message with this token, if it is already stored.
    pub fn find(&self, token: &str) -> Option<(PathBuf, Vec<u8>)> {
        self.find_at(token, "")
    }

    fn find_at(&self, token: &str, part: &str) -> Option<(PathBuf, Vec<u8>)> {
        let path = self.paths(token).into_iter().find(|path| path.to_string_lossy().contains(part))?;
        let bytes = fs::read(&path).ok()?;
        Some((path, bytes))
    }

    /// Number of times that the message with this token is stored.
    pub fn count(&self, token: &str) -> usize {
        self.paths(token).len()
    }

    /// Paths of the message with this token: the token is in its headers or in what was recorded of it.
    fn paths(&self, token: &str) -> Vec<PathBuf> {
        let mut all = Vec::new();
        collect(&state().join("mail").join(self.name), &mut all);
        let mut seen = SEEN.lock().unwrap();
        all.retain(|path| {
            let tokens = seen.entry(path.clone()).or_insert_with(|| tokens_of(path));
            tokens.iter().any(|other| other == token)
        });
        all
    }

    /// The name of the server, and its version.
    pub fn version(&self) -> String {
        fs::read_to_string(state().join(format!("run/{}.version", self.name)))
            .unwrap_or_default()
            .trim()
            .into()
    }

    /// Returns a stored message without the headers that the server put before it.
    pub fn without_its_own<'s>(&self, stored: &'s [u8]) -> &'s [u8] {
        let missing: &[&[u8]] = match self.name {
            "sendmail" => &[b"Date:", b"From:", b"Message-Id:"],
            _ => &[],
        };
        let mut rest = stored;
        while TRACE.iter().chain(missing).any(|name| rest.starts_with(name)) {
            rest = &rest[field(rest)..];
        }
        rest
    }

    /// Returns what the server stores for a message with these line endings: some use LF.
    pub fn as_stored(&self, wire: &[u8]) -> Vec<u8> {
        match self.name {
            "postfix" | "sendmail" => wire.iter().copied().filter(|b| *b != b'\r').collect(),
            _ => wire.to_vec(),
        }
    }
}

/// The headers that servers put first, with the path and the recipients.
const TRACE: [&[u8]; 4] = [b"Return-Path:", b"X-Original-To:", b"Delivered-To:", b"Received:"];

/// Length of the header field at the beginning, with all its lines and their ends.
fn field(text: &[u8]) -> usize {
    let is_end = |at: &usize| text[*at] == b'\n' && !matches!(text.get(at + 1), Some(b' ' | b'\t'));
    (0..text.len()).find(is_end).map_or(text.len(), |at| at + 1)
}

/// The tokens of each message that was looked at: each is read only once.
static SEEN: Mutex<BTreeMap<PathBuf, Vec<String>>> = Mutex::new(BTreeMap::new());

/// Number of octets searched: the tokens are in headers, near the beginning.
const HEAD: u64 = 16 * 1024;

/// Finds all messages below this folder.
fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let in_maildir = folder.file_name().is_some_and(|name| name == "new");
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        // Besides the messages, there are half-written ones, envelopes, and Dovecot's indices.
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&path, found);
        } else if in_maildir || path.extension().is_some_and(|extension| extension == "eml") {
            found.push(path);
        }
    }
}

/// The tokens in a message and in the envelope beside it. Messages appear at once, envelopes before them.
fn tokens_of(path: &Path) -> Vec<String> {
    let text = [head(path), head(&path.with_extension("envelope"))].concat();
    let text = String::from_utf8_lossy(&text);
    let is_of_it = |c: char| c.is_ascii_digit() || c == '-';
    text.split("token-")
        .skip(1)
        .map(|rest| format!("token-{}", rest.split(|c| !is_of_it(c)).next().unwrap()))
        .collect()
}

/// The beginning of a file; empty if it does not exist.
fn head(path: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    drop(fs::File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head)));
    head
}

/// Whether this build has the mechanism. A server that offers one with another name needs attention.
pub fn has(mechanism: &str) -> bool {
    cfg!(feature = "sasl") || !(mechanism.starts_with("SCRAM-") || mechanism == "CRAM-MD5")
}

/// Returns a word that no other message has.
pub fn token() -> String {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("token-{}-{now}-{count}", std::process::id())
}

/// An address of this machine that no client has used before: by it, the server's log tells clients apart.
pub fn address() -> Ipv4Addr {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let [_, b, c, d] =
        ((now << 8) as u32 + COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)).to_be_bytes();
    Ipv4Addr::new(127, b.clamp(1, 254), c, d)
}
