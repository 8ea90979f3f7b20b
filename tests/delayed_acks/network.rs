//! Runs a test in a process with a separate network, whose counters no other process changes.

use std::{
    env, fs,
    io::{self, Write},
    process::Command,
};

const OWN: &str = "POSTINO_OWN_NETWORK";

/// Whether the test is to continue here. Otherwise it runs itself in a process with a separate network, if possible.
pub fn is_own(test: &str) -> bool {
    if env::var_os(OWN).is_some() {
        return true;
    }
    let Some(unshare) = unshare() else {
        let required = env::var("POSTINO_INTEROP_REQUIRED").unwrap_or_default();
        assert!(!required.split(',').any(|name| name == "netns"), "there can be no network namespace");
        let _ =
            writeln!(io::stderr(), "SKIPPED: {test}: there can be no network namespace, or there is no `ip`");
        return false;
    };
    let mut own = in_network(unshare, r#"exec "$0" "$@""#);
    own.arg(env::current_exe().unwrap()).args([test, "--exact", "--nocapture"]).env(OWN, "1");
    let output = own.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said.lines().filter(|line| line.contains("delayed ACKs")).for_each(|line| println!("{line}"));
    false
}

/// Options of `unshare` for a separate network: as root, or as any user.
fn unshare() -> Option<&'static [&'static str]> {
    let works =
        |options: &&&[&str]| in_network(options, "true").output().is_ok_and(|done| done.status.success());
    [&["--net"][..], &["--net", "--map-root-user"]].iter().find(works).copied()
}

/// A shell that runs `script` where there is only a loopback interface.
fn in_network(unshare: &[&str], script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(unshare).args(["sh", "-c", &format!("ip link set lo up && {script}")]);
    command
}

/// Number of ACKs that were delayed until their timer fired, by either end of any connection in this network.
pub fn delayed_acks() -> u64 {
    let text = fs::read_to_string("/proc/self/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|name| name == "DelayedACKs").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}
