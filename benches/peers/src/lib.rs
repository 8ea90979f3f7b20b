//! The common parts of all drivers: the command line, the environment, and the line of JSON that they print.
//!
//! | variable | meaning |
//! |---|---|
//! | `PEERS_CA` | file with the CA to trust |
//! | `PEERS_FROM`, `PEERS_TO` | sender and recipient: `a@example.org` and `b@example.net` by default |
//! | `PEERS_USER`, `PEERS_PASSWORD` | logs in with these |
//! | `PEERS_WARM` | measures only sending: see [`Job::visits`] |

use std::{
    env, fs,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

pub mod ours;

/// How long a server is left alone before anything is measured.
const PAUSE: Duration = Duration::from_millis(50);
/// The time that stopwatches have measured.
static SPENT: Mutex<Option<Duration>> = Mutex::new(None);

/// `DRIVER WAY SECURITY HOST PORT COUNT FILE CONNECTIONS`: FILE is sent COUNT times over CONNECTIONS connections.
#[derive(Clone)]
pub struct Job {
    /// How to send with this library.
    pub way: String,
    pub security: Security,
    pub host: String,
    pub port: u16,
    pub count: usize,
    pub path: String,
    /// The content of the file, for the life of the process; empty if the file is streamed.
    pub message: &'static [u8],
    pub connections: usize,
    pub sender: String,
    pub recipient: String,
    pub login: Option<(String, String)>,
    pub is_warm: bool,
}

/// One connection, and the number of messages over it. The first `unmeasured` ones are not measured, and neither is what precedes
/// them.
#[derive(Clone)]
pub struct Visit {
    pub messages: usize,
    pub unmeasured: usize,
}

/// Measures until it is stopped, if only sending is measured.
#[must_use]
pub struct Stopwatch(Option<Instant>);

impl Stopwatch {
    pub fn stop(self) {
        if let Some(begun) = self.0 {
            *SPENT.lock().unwrap().get_or_insert_default() += begun.elapsed();
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Security {
    Plain,
    Tls,
    StartTls,
}

impl Job {
    pub fn from_args() -> Job {
        let args: Vec<String> = env::args().collect();
        let [_, way, security, host, port, count, path, connections] = args.as_slice() else {
            panic!("WAY plain|tls|starttls HOST PORT COUNT FILE CONNECTIONS")
        };
        let message = match way.contains("file") {
            true => Vec::new(),
            false => fs::read(path).expect("FILE can be read"),
        };
        Job {
            way: way.clone(),
            security: match security.as_str() {
                "plain" => Security::Plain,
                "tls" => Security::Tls,
                "starttls" => Security::StartTls,
                _ => panic!("no such security"),
            },
            host: host.clone(),
            port: port.parse().expect("a port"),
            count: count.parse().expect("a number"),
            path: path.clone(),
            message: message.leak(),
            connections: connections.parse().expect("a number"),
            sender: env::var("PEERS_FROM").unwrap_or("a@example.org".into()),
            recipient: env::var("PEERS_TO").unwrap_or("b@example.net".into()),
            login: env::var("PEERS_USER").ok().zip(env::var("PEERS_PASSWORD").ok()),
            is_warm: env::var_os("PEERS_WARM").is_some(),
        }
    }

    /// The connections that one thread makes one after the other: one for all its messages, or with the way `new` one for each.
    ///
    /// If only sending is measured (`PEERS_WARM`), there is one more message, which is not measured: the first one, with `new`
    /// over a separate connection. A message over a kept connection is then measured alone, and one over a new connection together
    /// with connecting. Leaving the server is not measured.
    pub fn visits(&self, connection: usize) -> Vec<Visit> {
        let (count, unmeasured) = (self.share(connection), usize::from(self.is_warm));
        if self.way.contains("new") {
            let first = vec![Visit { messages: 1, unmeasured: 1 }; unmeasured];
            [first, vec![Visit { messages: 1, unmeasured: 0 }; count]].concat()
        } else {
            vec![Visit { messages: unmeasured + count, unmeasured }]
        }
    }

    /// Starts measuring, if only sending is measured. The time is counted when [`Stopwatch::stop`] is called.
    ///
    /// Pauses first: some servers are busy for a while after a message, and only some drivers wait for the reply to QUIT.
    pub fn start(&self) -> Stopwatch {
        if self.is_warm {
            thread::sleep(PAUSE);
        }
        Stopwatch(self.is_warm.then(Instant::now))
    }

    /// The number of messages over the connection with this number.
    pub fn share(&self, connection: usize) -> usize {
        self.count / self.connections + usize::from(connection < self.count % self.connections)
    }

    /// The CA of the server's certificate. The sink's is self-signed.
    pub fn ca(&self) -> Vec<u8> {
        fs::read(env::var("PEERS_CA").expect("PEERS_CA names the CA")).expect("it can be read")
    }

    /// Does the work, and prints the time it took and the peak memory.
    pub fn run(self, work: impl FnOnce(&Job)) {
        let begun = Instant::now();
        work(&self);
        let seconds = SPENT.lock().unwrap().unwrap_or(begun.elapsed()).as_secs_f64();
        let peak = peak();
        println!("{{\"seconds\":{seconds:.6},\"messages\":{},\"peak\":{peak:.3}}}", self.count);
    }

    /// One thread for each connection.
    pub fn threads(&self, work: impl Fn(usize) + Sync) {
        thread::scope(|scope| {
            let work = &work;
            for connection in 0..self.connections {
                scope.spawn(move || work(connection));
            }
        });
    }

    /// One task for each connection, on one thread for one connection and on two for more.
    pub fn tasks<F: Future<Output = ()> + Send + 'static>(&self, work: impl Fn(Job, usize) -> F) {
        let runtime = match self.connections {
            1 => tokio::runtime::Builder::new_current_thread().enable_all().build(),
            _ => tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build(),
        };
        runtime.expect("a runtime").block_on(async {
            let tasks: Vec<_> = (0..self.connections).map(|n| tokio::spawn(work(self.clone(), n))).collect();
            for task in tasks {
                task.await.expect("no task panics");
            }
        });
    }
}

/// Peak memory of this process, in MiB. (The figure of `wait4` includes the parent's.)
fn peak() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
    kib.map_or(f64::NAN, |kib: f64| kib / 1024.0)
}
