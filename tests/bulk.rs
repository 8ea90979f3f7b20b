//! `examples/bulk.rs` run as a program, with both clients.

use std::{fs, path::PathBuf, process::Command, sync::OnceLock};

use postino::testing::Server;

#[path = "support/example.rs"]
mod example;

const ADDRESSES: &[&str] = &["--from", "a@example.org", "--to", "b@example.net"];

struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

fn program() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example::program("bulk"))
}

fn run(args: &[&str]) -> Done {
    let output = Command::new(program()).args(args).output().unwrap();
    Done {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A separate file for each test.
fn file(name: &str, content: &[u8]) -> String {
    let path =
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bulk-{name}-{}", std::process::id()));
    fs::write(&path, content).unwrap();
    path.into_os_string().into_string().unwrap()
}

/// Runs the program with each client, each time against a new server.
fn with_both_clients(server: impl Fn() -> Server, args: &[&str], check: impl Fn(&Server, &Done)) {
    for client in [&[][..], &["--async"]] {
        if client.is_empty() || cfg!(feature = "async") {
            let server = server();
            let url = server.url();
            let done = run(&[&["--server", &url], client, args].concat());
            check(&server, &done);
        }
    }
}

fn accepting() -> Server {
    Server::start().unwrap()
}

#[test]
fn every_message_arrives_and_the_json_counts_them() {
    let file = file("json", b"Subject: Hi\n\n.dot\n");
    let args = [ADDRESSES, &["--count", "25", "--connections", "4", "--json", &file]].concat();
    with_both_clients(accepting, &args, |server, done| {
        assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
        let start = "{\"sent\":25,\"accepted\":25,\"refused\":0,\"in_doubt\":0,\"seconds\":";
        let seconds = done.out.strip_prefix(start).and_then(|rest| rest.strip_suffix("}\n"));
        assert!(seconds.is_some_and(|seconds| seconds.parse::<f64>().is_ok()), "{}", done.out);
        let messages = server.messages();
        assert_eq!(messages.len(), 25);
        assert!(messages.iter().all(|message| message.content() == b"Subject: Hi\r\n\r\n.dot\r\n"));
    });
    fs::remove_file(file).unwrap();
}

#[test]
fn messages_arrive_without_pipelining_and_when_chunking_is_not_offered() {
    let file = file("plain", b"Subject: Hi\n\nHello!\n");
    let args = [ADDRESSES, &["--count", "3", "--no-pipelining", "--chunking", &file]].concat();
    with_both_clients(accepting, &args, |server, done| {
        assert_eq!(done.code, Some(0), "{}", done.err);
        assert!(done.out.starts_with("3 of 3 sent in ") && done.out.contains("3 accepted"), "{}", done.out);
        assert_eq!(server.messages().len(), 3);
    });
    fs::remove_file(file).unwrap();
}

#[test]
fn a_large_file_arrives_intact_every_time() {
    let line = b"0123456789012345678901234567890123456789012345678901234567890123456789\r\n";
    let content = line.repeat(20_000);
    let file = file("large", &content);
    let args = [ADDRESSES, &["--count", "2", &file]].concat();
    with_both_clients(accepting, &args, |server, done| {
        assert_eq!(done.code, Some(0), "{}", done.err);
        assert!(server.messages().iter().all(|message| message.content() == content));
        assert_eq!(server.messages().len(), 2);
    });
    fs::remove_file(file).unwrap();
}

#[test]
fn refusals_are_counted_and_change_the_exit_code() {
    let file = file("refused", b"Subject: Hi\n\nHello!\n");
    let server = || Server::builder().refuse_recipient("b@example.net", "550 no such user").start().unwrap();
    let args = [ADDRESSES, &["--count", "5", "--connections", "2", "--json", &file]].concat();
    with_both_clients(server, &args, |server, done| {
        assert_eq!(done.code, Some(1));
        assert!(
            done.out.starts_with("{\"sent\":5,\"accepted\":0,\"refused\":5,\"in_doubt\":0,"),
            "{}",
            done.out
        );
        assert_eq!(server.messages().len(), 0);
    });
    fs::remove_file(file).unwrap();
}

#[test]
fn without_a_server_nothing_is_sent_and_the_reason_is_printed() {
    let file = file("nobody", b"Subject: Hi\n\nHello!\n");
    for client in [&[][..], &["--async"]] {
        if client.is_empty() || cfg!(feature = "async") {
            let server = ["--server", "smtp://127.0.0.1:1", "--count", "5", "--json", &file];
            let done = run(&[client, ADDRESSES, &server].concat());
            assert_eq!(done.code, Some(1));
            assert!(done.out.starts_with("{\"sent\":0,\"accepted\":0,"), "{}", done.out);
            assert!(done.err.contains("127.0.0.1:1"), "{}", done.err);
        }
    }
    fs::remove_file(file).unwrap();
}

#[test]
fn usage_errors_and_failures_have_different_exit_codes() {
    let file = file("usage", b"");
    for args in [
        &["--to", "b@example.net"][..],
        &["--to", "b@example.net", "/nonexistent/file"],
        &["--connections", "0", "--to", "b@example.net", &file],
        &["--count", "many", "--to", "b@example.net", &file],
        &["--server", "ftp://x", "--to", "b@example.net", &file],
        &["--to", "no address", &file],
        &[&file],
        &["--nonsense"],
    ] {
        let done = run(args);
        assert_eq!((done.code, done.out.as_str()), (Some(64), ""), "{args:?}");
        assert!(done.err.starts_with("bulk: "), "{}", done.err);
    }
    assert!(run(&["--help"]).out.starts_with("bulk [OPTIONS] FILE"));
    fs::remove_file(file).unwrap();
}
