//! A folder with the files of a system and of a user, and a server that accepts everything.

#![allow(dead_code)] // not every test needs all of it

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_sendmail");

/// Limit of every wait in these tests.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder that takes the place of `/`, with `etc`, `dev` and `home`. It is removed at the end.
pub struct World {
    pub root: PathBuf,
}

/// The result of one run.
#[derive(Debug)]
pub struct Done {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl World {
    pub fn new() -> World {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("world-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        for folder in ["etc", "dev", "home/.config"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        let world = World { root };
        let number = rustix::process::getuid().as_raw();
        world.write("etc/passwd", &format!("tester:x:{number}:0:Tess Ter,,,:/home:/bin/sh\n"));
        world.write("etc/mailname", "host.example.org\n");
        world
    }

    /// Writes a file that only its owner and its group can read.
    pub fn write(&self, path: &str, text: &str) -> PathBuf {
        let file = self.root.join(path);
        fs::write(&file, text).unwrap();
        self.chmod(path, 0o640);
        file
    }

    pub fn chmod(&self, path: &str, mode: u32) {
        fs::set_permissions(self.root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Writes the configuration of the system.
    pub fn system(&self, text: &str) {
        self.write("etc/postino.conf", text);
    }

    /// Writes the configuration of the user.
    pub fn user(&self, text: &str) {
        self.write("home/.config/postino.conf", text);
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(args).env("POSTINO_ROOT", &self.root).env("HOME", self.root.join("home"));
        command.env_remove("SMTP_URL").env_remove("SMTP_OAUTH_TOKEN").env_remove("LOGNAME");
        command
    }

    pub fn run(&self, args: &[&str], stdin: &[u8]) -> Done {
        finish(self.command(args), stdin)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.root));
    }
}

/// Says why a test is skipped, even if the output of tests is captured.
pub fn skipped(why: &str) {
    drop(writeln!(std::io::stderr(), "SKIPPED: {why}"));
}

pub fn finish(mut command: Command, stdin: &[u8]) -> Done {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut pipe, stdin) = (child.stdin.take().unwrap(), stdin.to_vec());
    // After an early error the program does not read its input to the end.
    let writer = thread::spawn(move || drop(pipe.write_all(&stdin)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    Done {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A message that a [`Sink`] accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// The argument of AUTH.
    pub auth: String,
    pub sender: String,
    pub recipients: Vec<String>,
    /// With LF as line endings, without doubled dots.
    pub content: String,
}

/// An SMTP server that accepts every login and every message, except for recipients at `refused.example` and, for now,
/// `later.example`.
pub struct Sink {
    pub port: u16,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Sink {
    pub fn start() -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let received = Arc::new(Mutex::new(Vec::new()));
        let shared = received.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, shared) = (stream.unwrap(), shared.clone());
                thread::spawn(move || serve(&stream, &shared));
            }
        });
        Sink { port, received }
    }

    pub fn url(&self) -> String {
        format!("smtp://127.0.0.1:{}", self.port)
    }

    /// Returns the messages that were received, and forgets them.
    pub fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *self.received.lock().unwrap())
    }

    /// Returns the only message that was received.
    #[track_caller]
    pub fn one(&self) -> Received {
        let mut all = self.take();
        assert_eq!(all.len(), 1, "{all:#?}");
        all.remove(0)
    }
}

fn serve(stream: &TcpStream, received: &Mutex<Vec<Received>>) -> Option<()> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    let mut reply = |text: &str| writer.write_all(format!("{text}\r\n").as_bytes()).ok();
    let mut next = Received::default();
    reply("220 sink.example ESMTP")?;
    loop {
        let line = read_line(&mut reader)?;
        let (verb, argument) = line.split_once(' ').unwrap_or((&line, ""));
        match verb {
            "EHLO" => reply("250-sink.example\r\n250-8BITMIME\r\n250 AUTH PLAIN XOAUTH2")?,
            "AUTH" => {
                argument.clone_into(&mut next.auth);
                reply("235 2.7.0 OK")?;
            }
            "MAIL" => {
                next.sender = path(argument);
                reply("250 2.1.0 OK")?;
            }
            "RCPT" if argument.contains("@refused.example") => reply("550 5.1.1 no such user")?,
            "RCPT" if argument.contains("@later.example") => reply("450 4.2.0 later")?,
            "RCPT" => {
                next.recipients.push(path(argument));
                reply("250 2.1.5 OK")?;
            }
            "DATA" => {
                reply("354 go on")?;
                next.content = content(&mut reader)?;
                let auth = next.auth.clone();
                received
                    .lock()
                    .unwrap()
                    .push(std::mem::replace(&mut next, Received { auth, ..Received::default() }));
                reply("250 2.0.0 queued as 4711")?;
            }
            "RSET" => {
                next = Received { auth: next.auth, ..Received::default() };
                reply("250 2.0.0 OK")?;
            }
            "NOOP" => reply("250 2.0.0 OK")?,
            "QUIT" => {
                reply("221 2.0.0 Bye")?;
                return None;
            }
            _ => reply("502 5.5.1 what?")?,
        }
    }
}

fn path(argument: &str) -> String {
    let (_, rest) = argument.split_once('<').unwrap();
    rest.rsplit_once('>').unwrap().0.to_owned()
}

fn read_line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).ok().filter(|length| *length > 0)?;
    Some(String::from_utf8_lossy(&line).trim_end_matches("\r\n").to_owned())
}

fn content(reader: &mut impl BufRead) -> Option<String> {
    let mut text = String::new();
    loop {
        let line = read_line(reader)?;
        if line == "." {
            return Some(text);
        }
        text += line.strip_prefix('.').unwrap_or(&line);
        text.push('\n');
    }
}
