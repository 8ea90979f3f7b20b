//! Set-group-ID mode: the program is installed with the group that may read the system's configuration, which contains
//! a password that its users must not see.
//!
//! The group is effective only inside [`Lent::with`]: while the system's configuration is read, and for the spool.
//! Otherwise the effective group is the caller's, so that a command that is started has only the caller's rights
//! (execve(2) sets the saved group to the effective one). [`Lent::give_up`] gives up the group for the rest of the
//! process.

use std::{env, io};

use rustix::process::{Gid, getegid, geteuid, getgid, getuid};

use crate::{failure::Failure, tell};

/// The variables that stay in set-group-ID mode. All others are removed: some choose certificates (`SSL_CERT_FILE`),
/// servers or files of this program.
const KEPT: &[&str] = &["HOME", "LOGNAME", "PATH", "USER"];

/// The variables that users set for this program, and that are ignored in set-group-ID mode.
const IGNORED: &[&str] = &["SMTP_OAUTH_TOKEN", "SMTP_URL"];

/// The group that the program was lent by its file.
#[derive(Clone, Copy)]
pub struct Lent {
    real: Gid,
    group: Gid,
}

/// Prepares set-group-ID mode: removes dangerous variables and suspends the group. Returns `None` in other modes.
///
/// Nothing of the environment may be read before.
pub fn enter() -> Result<Option<Lent>, Failure> {
    if geteuid() != getuid() {
        return Err(Failure::config("the program must not be set-user-ID, only set-group-ID"));
    }
    let (real, group) = (getgid(), getegid());
    if real == group {
        return Ok(None);
    }
    if env::vars_os().any(|(name, _)| !KEPT.iter().any(|kept| name == *kept)) {
        return Err(without_variables());
    }
    let lent = Lent { real, group };
    lent.set(real, group).map_err(|e| Failure::config(format!("could not suspend the group: {e}")))?;
    Ok(Some(lent))
}

/// Starts the program again with a clean environment. Removing variables from a process needs `unsafe`.
fn without_variables() -> Failure {
    use std::{os::unix::process::CommandExt, process::Command};

    for name in IGNORED.iter().filter(|name| env::var_os(name).is_some()) {
        tell(&format!("${name} is ignored, because the program is set-group-ID"));
    }
    let mut args = env::args_os();
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    let kept = KEPT.iter().filter_map(|name| Some((name, env::var_os(name)?)));
    let error = command.args(args).env_clear().envs(kept).exec();
    Failure::config(format!("could not start /proc/self/exe with a clean environment: {error}"))
}

impl Lent {
    /// Calls a function with the group's rights.
    pub fn with<T>(self, work: impl FnOnce() -> T) -> io::Result<T> {
        self.set(self.group, self.group)?;
        let result = work();
        self.set(self.real, self.group)?;
        Ok(result)
    }

    /// Inside [`Lent::with`]: calls a function without the group's rights.
    fn without<T>(self, work: impl FnOnce() -> T) -> io::Result<T> {
        self.set(self.real, self.group)?;
        let result = work();
        self.set(self.group, self.group)?;
        Ok(result)
    }

    /// Gives up the group for the rest of the process.
    pub fn give_up(self) -> Result<(), Failure> {
        let given_up = self.set(self.real, self.real);
        given_up.map_err(|e| Failure::config(format!("could not give up the group: {e}")))
    }

    /// Sets the effective and the saved group of this thread. Threads that are started later inherit them, and none is
    /// running yet.
    #[cfg(target_os = "linux")]
    fn set(self, effective: Gid, saved: Gid) -> io::Result<()> {
        Ok(rustix::thread::set_thread_res_gid(Some(self.real), Some(effective), Some(saved))?)
    }

    #[cfg(not(target_os = "linux"))]
    fn set(self, _: Gid, _: Gid) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "set-group-ID is supported on Linux only"))
    }
}

/// Calls a function with the rights of the lent group, if there is one.
pub fn with<T>(lent: Option<Lent>, work: impl FnOnce() -> T) -> Result<T, Failure> {
    match lent {
        Some(lent) => {
            lent.with(work).map_err(|e| Failure::config(format!("could not change the group: {e}")))
        }
        None => Ok(work()),
    }
}

/// Inside [`with`]: calls a function without the rights of the lent group.
pub fn without<T>(lent: Option<Lent>, work: impl FnOnce() -> T) -> Result<T, Failure> {
    match lent {
        Some(lent) => {
            lent.without(work).map_err(|e| Failure::config(format!("could not change the group: {e}")))
        }
        None => Ok(work()),
    }
}
