//! Passwords and tokens of the configuration.

use std::{
    io::Read,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    config::{Config, first_line},
    failure::Failure,
};

/// How long a command may take to print a password or a token.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// Maximum output of such a command, in octets.
const MAX_OUTPUT: usize = 64 * 1024;

/// Where a password or a token is. It has no `Debug`.
#[derive(Clone)]
pub enum Secret {
    Inline(String),
    File(PathBuf),
    /// A program and its arguments.
    Command(Vec<String>),
}

impl Secret {
    /// Whether the configuration itself contains it.
    pub fn is_inline(&self) -> bool {
        matches!(self, Secret::Inline(_))
    }

    pub fn is_command(&self) -> bool {
        matches!(self, Secret::Command(_))
    }

    /// Returns the password or the token. A command runs with the caller's rights only.
    pub fn reveal(&self, config: &Config) -> Result<String, Failure> {
        match self {
            Secret::Inline(text) => Ok(text.clone()),
            Secret::File(path) => config.read_secret(path),
            Secret::Command(words) => {
                output(words).map_err(|why| Failure::config(format!("command {}: {why}", words[0])))
            }
        }
    }
}

/// Runs a command and returns the first line of its output.
fn output(words: &[String]) -> Result<String, String> {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|e| e.to_string())?;
    let read = read_output(&mut child);
    if read.is_err() {
        drop(child.kill());
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    let octets = read?;
    if !status.success() {
        return Err(format!("it failed ({status})"));
    }
    first_line(octets).map_err(str::to_owned)
}

fn read_output(child: &mut Child) -> Result<Vec<u8>, String> {
    let Some(mut pipe) = child.stdout.take() else { return Ok(Vec::new()) };
    let end = Instant::now() + COMMAND_LIMIT;
    let mut octets = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let limit = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
        match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&limit)) {
            Ok(0) => return Err(format!("no output within {} seconds", COMMAND_LIMIT.as_secs())),
            Err(rustix::io::Errno::INTR) => continue,
            _ => {}
        }
        let mut room = [0; 4096];
        match pipe.read(&mut room).map_err(|e| e.to_string())? {
            0 => return Ok(octets),
            _ if octets.len() > MAX_OUTPUT => return Err("its output is too long".into()),
            n => octets.extend_from_slice(&room[..n]),
        }
    }
}
