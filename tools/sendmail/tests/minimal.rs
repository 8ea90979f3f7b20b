//! The program without the `config`, `smtp-server` and `spool` features: what it lacks is an error, and never silently ignored.
//! What it can do is tested by `sendmail.rs`.
#![cfg(not(any(feature = "config", feature = "smtp-server", feature = "spool")))]

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

/// Runs the program with the files of the system in a folder. Nothing listens on the port, so 75 is the exit code if all is well.
fn run(root: &PathBuf, args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sendmail"));
    command.args(["-s", "smtp://127.0.0.1:1", "-f", "a@example.org"]).args(args).env_clear();
    let output = command.env("POSTINO_ROOT", root).stdin(Stdio::null()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn root(name: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    drop(fs::remove_dir_all(&root));
    fs::create_dir_all(root.join("etc")).unwrap();
    root
}

#[test]
fn a_configuration_is_an_error() {
    let root = root("a_configuration_is_an_error");
    assert_eq!(run(&root, &["b@example.org"]).0, Some(75));
    let file = root.join("etc/postino.conf");
    fs::write(&file, "").unwrap();
    for args in [&["b@example.org"][..], &["-C", file.to_str().unwrap(), "b@example.org"]] {
        let (code, error) = run(&root, args);
        assert!(
            code == Some(78) && error.contains("postino.conf: this program was built without configuration"),
            "{error}"
        );
    }
}

#[test]
fn what_was_left_out_is_an_error() {
    let root = root("what_was_left_out_is_an_error");
    for (args, code, error) in [
        (&["-bs"][..], 64, "without this option"),
        (&["--check"], 64, "without this option"),
        (&["--print-config"], 64, "without this option"),
        (&["-q"], 78, "without a spool"),
        (&["-bp"], 78, "without a spool"),
        (&["--remove", "0123456789ABCD"], 78, "without a spool"),
        (&["--queue", "b@example.org"], 78, "without a spool"),
    ] {
        let done = run(&root, args);
        assert!(done.0 == Some(code) && done.1.contains(error), "{args:?}: {done:?}");
    }
}
