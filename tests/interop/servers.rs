//! The servers that `tests/interop/servers` starts: where they listen, and what they do to a message they store.

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

pub const USER: &str = "alice@lab.test";
pub const PASSWORD: &str = "s3cret-p@ss";

pub struct Server {
    pub name: &'static str,
    /// STARTTLS offered; no login.
    pub open: u16,
    /// The same after a login under TLS (the open port again where that is one).
    pub submission: u16,
    /// TLS from the first octet, and a login.
    pub implicit: u16,
    /// A login in clear.
    pub clear: Option<u16>,
    /// Few extensions.
    pub old: Option<u16>,
}

pub const POSTFIX: Server = Server {
    name: "postfix",
    open: 12525,
    submission: 12587,
    implicit: 12465,
    clear: Some(12588),
    old: Some(12526),
};
pub const EXIM: Server =
    Server { name: "exim", open: 13525, submission: 13587, implicit: 13465, clear: Some(13588), old: None };
pub const AIOSMTPD: Server = Server {
    name: "aiosmtpd",
    open: 19525,
    submission: 19525,
    implicit: 19465,
    clear: None,
    old: Some(19526),
};

/// Where the servers keep what the tests need.
pub fn state() -> PathBuf {
    let cache = || match env::var_os("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache"),
    };
    env::var_os("POSTINO_INTEROP").map_or_else(|| cache().join("postino-interop"), PathBuf::from)
}

pub fn ca() -> Vec<u8> {
    fs::read(state().join("pki/ca.pem")).expect("a server that is up has certificates")
}

impl Server {
    /// Whether it is up. If it is not, says so where the test runner does not hide it.
    pub fn is_up(&self) -> bool {
        let up = state().join(format!("run/{}.up", self.name)).exists();
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

    /// The logins it has; those that keep the password from the wire come first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        match (self.name, cfg!(feature = "sasl")) {
            ("postfix" | "exim", true) => &["SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN"],
            ("aiosmtpd", true) => &["SCRAM-SHA-256-PLUS", "PLAIN", "LOGIN"],
            _ => &["PLAIN", "LOGIN"],
        }
    }

    /// Waits for the message with this token to be stored, and gives it as it is there.
    pub fn stored(&self, token: &str) -> Vec<u8> {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(found) = find(&state().join("mail").join(self.name), token) {
                return found;
            }
            assert!(Instant::now() < end, "{} did not store {token}", self.name);
            thread::sleep(Duration::from_millis(50)); // servers deliver behind their 250
        }
    }

    /// What a message with these line ends becomes in this server's store: only Postfix changes them.
    pub fn as_stored(&self, wire: &[u8]) -> Vec<u8> {
        match self.name {
            "postfix" => wire.iter().copied().filter(|b| *b != b'\r').collect(),
            _ => wire.to_vec(),
        }
    }
}

fn find(folder: &Path, token: &str) -> Option<Vec<u8>> {
    let entries = fs::read_dir(folder).ok()?;
    entries.flatten().find_map(|entry| {
        let path = entry.path();
        let half_written = path.components().any(|part| part.as_os_str() == "tmp");
        if path.is_dir() && !half_written {
            return find(&path, token);
        }
        let bytes = fs::read(&path).ok()?;
        let is_it = path.extension().is_none_or(|extension| extension != "json")
            && bytes.windows(token.len()).any(|window| window == token.as_bytes());
        is_it.then_some(bytes)
    })
}

/// A word that no other message has.
pub fn token() -> String {
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    format!("token-{}-{now}-{count}", std::process::id())
}
