//! A PostgreSQL cluster in a temporary folder, and worker processes.

#![allow(dead_code)] // each user needs a part

use std::{
    env, fs,
    io::Write,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use diesel::{Connection, PgConnection, QueryableByName, RunQueryDsl, sql_query, sql_types::BigInt};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_postino-worker");

/// How long a test waits for something that must happen: far longer than it takes.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster, which is stopped and deleted when it is dropped.
pub struct Cluster {
    folder: PathBuf,
    programs: PathBuf,
    /// The user and group that PostgreSQL runs as, if this test runs as root.
    user: Option<(u32, u32)>,
    databases: AtomicUsize,
    /// Stops and deletes the cluster once its standard input is closed: also if this process ends without dropping it.
    watchdog: Option<Child>,
}

impl Cluster {
    /// Starts a cluster. Returns `None`, with a note, if PostgreSQL is not installed. If `POSTINO_INTEROP_REQUIRED` names
    /// `postgresql`, that is an error.
    pub fn start(settings: &str) -> Option<Cluster> {
        let programs = programs();
        if programs.is_none() {
            let required = env::var("POSTINO_INTEROP_REQUIRED").unwrap_or_default();
            assert!(
                !required.split(',').any(|name| name == "postgresql"),
                "PostgreSQL is required: no initdb"
            );
            eprintln!("SKIPPED: PostgreSQL is not installed (Debian: postgresql)");
        }
        let programs = programs?;
        // PostgreSQL refuses to run as root.
        let user = rustix::process::geteuid().is_root().then(|| (id("-u"), id("-g")));
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let folder = env::temp_dir().join(format!("postino-worker-{}-{number}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        if let Some((uid, gid)) = user {
            chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        let mut cluster = Cluster { folder, programs, user, databases: AtomicUsize::new(0), watchdog: None };
        let data = cluster.data();
        let data = data.to_str().unwrap();
        cluster
            .run("initdb", &["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"]);
        let mut file =
            fs::OpenOptions::new().append(true).open(cluster.data().join("postgresql.conf")).unwrap();
        // A crash of the server, unlike one of the machine, loses nothing without fsync.
        let folder = cluster.folder.display();
        let fixed = format!(
            "listen_addresses = ''\nunix_socket_directories = '{folder}'\nport = 5432\nfsync = off\n"
        );
        writeln!(file, "{fixed}{settings}").unwrap();
        drop(file);
        // A signal for the whole process group, such as that of Ctrl-C, must not keep it from cleaning up.
        let script = "trap '' HUP INT TERM; cat >/dev/null; \"$0\"/pg_ctl -D data -m immediate -w stop >/dev/null 2>&1; rm -rf \"$1\"";
        let mut watchdog = Command::new("sh");
        watchdog
            .arg("-c")
            .arg(script)
            .args([&cluster.programs, &cluster.folder])
            .current_dir(&cluster.folder);
        cluster.as_user(&mut watchdog);
        let watchdog = watchdog.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        cluster.watchdog = Some(watchdog.spawn().unwrap());
        cluster.up();
        Some(cluster)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Returns the folder of the cluster.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Creates a folder, which is deleted with the cluster.
    pub fn new_folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.join(name);
        fs::create_dir(&folder).unwrap();
        if let Some((uid, gid)) = self.user {
            chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        folder
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null());
        self.as_user(&mut command);
        command
    }

    fn as_user(&self, command: &mut Command) {
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        // Not `output`: the server would keep the pipes open.
        let log = self.folder.join(format!("{program}.out"));
        let file = fs::File::create(&log).unwrap();
        let mut command = self.command(program, arguments);
        let status = command.stdout(file.try_clone().unwrap()).stderr(file).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}: {}", fs::read_to_string(log).unwrap());
    }

    /// Starts the server.
    pub fn up(&self) {
        let log = self.folder.join("log");
        let (data, log) = (self.data(), log.to_str().unwrap().to_owned());
        self.run("pg_ctl", &["-D", data.to_str().unwrap(), "-l", &log, "-w", "-t", "120", "start"]);
    }

    /// Stops the server without a checkpoint, as if it had crashed.
    pub fn crash(&self) {
        let data = self.data();
        self.run("pg_ctl", &["-D", data.to_str().unwrap(), "-w", "-t", "120", "-m", "immediate", "stop"]);
    }

    /// Creates a database. Returns its connection string.
    pub fn database(&self) -> String {
        let name = format!("d{}", self.databases.fetch_add(1, Ordering::SeqCst));
        let url =
            |name: &str| format!("host={} port=5432 user=postgres dbname={name}", self.folder.display());
        execute(&mut connect(&url("postgres")), &format!("create database {name}"));
        url(&name)
    }

    /// Creates a database with a queue.
    pub fn queue(&self) -> String {
        let url = self.database();
        postino_worker::migrate(&mut connect(&url)).unwrap();
        url
    }

    /// Returns the end of the server's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the log of PostgreSQL:\n{}", self.log());
        }
        if let Some(mut watchdog) = self.watchdog.take() {
            drop(watchdog.stdin.take());
            drop(watchdog.wait());
        }
    }
}

/// Returns the folder with PostgreSQL's programs: of the newest version that Debian has installed, or of the PATH.
fn programs() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    if let Ok(versions) = fs::read_dir("/usr/lib/postgresql") {
        folders.extend(versions.flatten().map(|version| version.path().join("bin")));
        folders.sort();
        folders.reverse();
    }
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    folders.into_iter().find(|folder| folder.join("initdb").exists())
}

fn id(what: &str) -> u32 {
    let output = Command::new("id").args([what, "postgres"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().parse().expect("the user postgres should exist: this test runs as root")
}

/// Connects, and waits for a server that is starting.
pub fn connect(url: &str) -> PgConnection {
    let start = Instant::now();
    loop {
        match PgConnection::establish(url) {
            Ok(connection) => return connection,
            Err(e) if start.elapsed() > PATIENCE => panic!("{e}"),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

pub fn execute(connection: &mut PgConnection, query: &str) -> usize {
    sql_query(query).execute(connection).unwrap_or_else(|e| panic!("{query}: {e}"))
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

/// Returns the number that a query selects as `n`.
pub fn count(connection: &mut PgConnection, query: &str) -> i64 {
    let row: Count = sql_query(query).get_result(connection).unwrap_or_else(|e| panic!("{query}: {e}"));
    row.n
}

/// Waits until a query selects this number.
#[track_caller]
pub fn wait_for(connection: &mut PgConnection, query: &str, expected: i64) {
    let start = Instant::now();
    loop {
        let n = count(connection, query);
        if n == expected {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{query}: {n} instead of {expected}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Runs the program to its end.
pub fn worker(database: &str, arguments: &[&str], stdin: &[u8]) -> Output {
    let mut command = command(database);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    child.wait_with_output().unwrap()
}

/// Runs the program, which must succeed. Returns its output.
#[track_caller]
pub fn done(database: &str, arguments: &[&str], stdin: &[u8]) -> String {
    let output = worker(database, arguments, stdin);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Prepares a command without settings from the environment.
pub fn command(database: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("POSTINO_WORKER") || name == "DATABASE_URL" {
            command.env_remove(name);
        }
    }
    command.env("POSTINO_WORKER_DATABASE", database).current_dir("/");
    command
}

/// A worker process that is killed when it is dropped.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Sends a signal to a process.
pub fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}
