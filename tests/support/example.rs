//! The programs in `examples/`, for tests that run them as separate processes.

use std::{ffi::OsStr, path::PathBuf, process::Command};

/// Returns the program, built with the features of this test: `cargo test --test NAME` alone builds no examples.
pub fn program(name: &str) -> PathBuf {
    // target/debug/deps/NAME-…, beside target/debug/examples/NAME
    let own = std::env::current_exe().unwrap();
    let target = own.ancestors().nth(2).unwrap();
    let profile = match target.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let features = [
        ("native-tls", cfg!(feature = "native-tls")),
        ("rustls", cfg!(feature = "rustls")),
        ("async", cfg!(feature = "async")),
        ("testing", cfg!(feature = "testing")),
        ("sasl", cfg!(feature = "sasl")),
    ];
    let features = features.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect::<Vec<_>>();
    let cargo = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", name, "--no-default-features"])
        .args(["--features", &features.join(","), "--profile", profile, "--target-dir"])
        .arg(target.parent().unwrap())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    let program = target.join("examples").join(name);
    let is_built = cargo.as_ref().map_or(true, std::process::ExitStatus::success) && program.exists();
    assert!(is_built, "{} (cargo build --example {name}) could not be built: {cargo:?}", program.display());
    program
}
