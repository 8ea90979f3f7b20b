//! Set-group-ID mode: another user sends with the system's configuration, and cannot read it. It needs root on Linux, to install
//! a copy of the program in a mount namespace.

#![cfg(target_os = "linux")]

mod world;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use world::{Done, PROGRAM, Sink, finish, skipped};

const HI: &[u8] = b"From: a@example.org\nTo: b@example.org\nSubject: Hi\n\nHello!\n";

/// The group of the program (on Debian: mail), and the user and group that call it (nobody).
const GROUP: u32 = 8;
const NOBODY: u32 = 65_534;
const HAS_TLS: bool = cfg!(any(feature = "native-tls", feature = "rustls"));

/// A set-group-ID copy of the program, and a configuration of the system that only its group can read.
struct Installed {
    folder: PathBuf,
}

impl Installed {
    /// Returns `None`, and says why, where it cannot be installed.
    fn new(config: &str) -> Option<Installed> {
        if !rustix::process::geteuid().is_root() {
            skipped("this test needs root");
            return None;
        }
        let works = Command::new("unshare").args(["--mount", "setpriv", "--version"]).output();
        if !works.is_ok_and(|output| output.status.success()) {
            skipped("this test needs unshare and setpriv (util-linux), and the right to mount");
            return None;
        }
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // The target folder can be closed to other users.
        let folder = PathBuf::from(format!("/var/tmp/postino-setgid-{}-{number}", std::process::id()));
        fs::create_dir_all(folder.join("etc")).unwrap();
        fs::create_dir_all(folder.join("home/.config")).unwrap();
        let program = folder.join("sendmail");
        fs::copy(PROGRAM, &program).unwrap();
        chown(&program, Some(0), Some(GROUP)).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o2755)).unwrap();
        for file in ["passwd", "hosts"] {
            fs::copy(Path::new("/etc").join(file), folder.join("etc").join(file)).unwrap();
        }
        fs::write(folder.join("etc/mailname"), "host.example.org\n").unwrap();
        let installed = Installed { folder };
        installed.write("etc/postino.conf", config, 0, GROUP, 0o640);
        Some(installed)
    }

    fn write(&self, path: &str, text: &str, user: u32, group: u32, mode: u32) -> PathBuf {
        let file = self.folder.join(path);
        fs::write(&file, text).unwrap();
        chown(&file, Some(user), Some(group)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    /// Writes the configuration of the calling user.
    fn user(&self, text: &str) {
        self.write("home/.config/postino.conf", text, NOBODY, NOBODY, 0o600);
    }

    /// Runs a program as nobody, with the system's files replaced.
    fn command(&self, program: &str, args: &[&str]) -> Command {
        self.command_as(NOBODY, program, args)
    }

    /// Runs a program as a user, whose group has the same number.
    fn command_as(&self, user: u32, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        let script = format!(
            "mount --bind \"$0/etc\" /etc && exec setpriv --reuid {user} --regid {user} --clear-groups \"$@\""
        );
        command.args(["--mount", "sh", "-c", &script]).arg(&self.folder).arg(program).args(args);
        command.env("HOME", self.folder.join("home")).env_remove("SMTP_URL").env_remove("POSTINO_ROOT");
        command
    }

    fn sendmail(&self, args: &[&str]) -> Command {
        self.command(self.folder.join("sendmail").to_str().unwrap(), args)
    }

    fn run(&self, args: &[&str]) -> Done {
        finish(self.sendmail(args), HI)
    }

    fn run_as(&self, user: u32, args: &[&str]) -> Done {
        finish(self.command_as(user, self.folder.join("sendmail").to_str().unwrap(), args), HI)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn config(sink: &Sink) -> String {
    format!("url = \"{}\"\nuser = \"u\"\npassword = \"hunter2\"\n", sink.url())
}

/// `PLAIN` with NUL, `u`, NUL, `hunter2`
const LOGIN: &str = "PLAIN AHUAaHVudGVyMg==";

#[track_caller]
fn shows_no_secret(done: &Done) {
    for secret in ["hunter", "aHVudGVyMg", "AHUAaHVudGVyMg"] {
        assert!(!done.err.contains(secret) && !done.out.contains(secret), "{done:?}");
    }
}

#[test]
fn another_user_sends_with_the_systems_password_and_never_sees_it() {
    let sink = Sink::start();
    let Some(installed) = Installed::new(&config(&sink)) else { return };
    let cat = finish(installed.command("cat", &["/etc/postino.conf"]), b"");
    assert!(cat.code == Some(1) && cat.out.is_empty(), "the file is protected: {cat:?}");

    let done = installed.run(&["-vv", "b@example.org"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    shows_no_secret(&done);
    assert_eq!(sink.one().auth, LOGIN);
    for args in [&["--print-config"][..], &["--check", "-vv"]] {
        let done = installed.run(args);
        assert!(done.code == Some(0) && done.out.contains("127.0.0.1"), "{done:?}");
        shows_no_secret(&done);
    }
    let bs = "HELO x\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n\r\n.\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n\r\n.\r\n";
    let done = finish(installed.sendmail(&["-bs"]), bs.as_bytes());
    assert_eq!((done.code, sink.take().len()), (Some(0), 2), "{done:?}");
}

#[test]
fn the_server_and_the_login_of_the_system_cannot_be_replaced() {
    let (sink, thief) = (Sink::start(), Sink::start());
    let Some(installed) = Installed::new(&config(&sink)) else { return };
    let url = thief.url();
    let evil = installed.write("evil.conf", &format!("url = \"{url}\"\n"), NOBODY, NOBODY, 0o600);
    for args in [
        &["-C", evil.to_str().unwrap()][..],
        &["-s", &url],
        &["--cafile", evil.to_str().unwrap()],
        &["--cert", evil.to_str().unwrap()],
        &["--user", "u", "--oauth-token", "t"],
        &["--auth", "LOGIN"],
    ] {
        let done = installed.run(&[args, &["b@example.org"]].concat());
        assert!(done.code == Some(64) && done.err.contains("is not allowed"), "{args:?} {done:?}");
    }
    let mut command = installed.sendmail(&["-vv", "b@example.org"]);
    let trap = installed.folder.join("home");
    command.env("SMTP_URL", &url).env("SMTP_OAUTH_TOKEN", "t").env("POSTINO_ROOT", &trap);
    command.env("SSL_CERT_FILE", &evil).env("SSL_CERT_DIR", &trap);
    let done = finish(command, HI);
    assert!(done.code == Some(0) && done.err.contains("$SMTP_URL is ignored"), "{done:?}");
    shows_no_secret(&done);
    assert_eq!((sink.one().auth.as_str(), thief.take().len()), (LOGIN, 0));
}

#[test]
fn a_users_file_is_read_with_the_users_rights() {
    let (sink, thief) = (Sink::start(), Sink::start());
    let Some(installed) = Installed::new(&config(&sink)) else { return };
    // The user's server gets nothing of the system's configuration.
    installed.user(&format!("url = \"{}\"\n", thief.url()));
    assert_eq!(installed.run(&["b@example.org"]).code, Some(0));
    assert_eq!((thief.one().auth.as_str(), sink.take().len()), ("", 0));

    // Files that only the group can read cannot be sent, or shown in an error.
    let secret = installed.write("secret", "hunter2\n", 0, GROUP, 0o640);
    for key in ["password-file", "ca-file", "client-certificate", "aliases"] {
        let user = if key == "password-file" { "user = \"u\"\n" } else { "" };
        installed.user(&format!("url = \"{}\"\n{user}{key} = \"{}\"\n", thief.url(), secret.display()));
        let done = installed.run(&["root"]);
        let is_read = HAS_TLS || !["ca-file", "client-certificate"].contains(&key);
        let (code, why) = if is_read { (78, "Permission denied") } else { (64, "without TLS") };
        assert!(done.code == Some(code) && done.err.contains(why), "{key}: {done:?}");
    }
    // A link to the system's file is not a way to read it: it is used as if the user had none.
    let link = installed.folder.join("home/.config/postino.conf");
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("/etc/postino.conf", &link).unwrap();
    assert_eq!(installed.run(&["b@example.org"]).code, Some(0));
    assert_eq!(sink.one().auth, LOGIN);
    assert!(thief.take().is_empty());
}

#[test]
fn password_commands_never_run_with_the_group() {
    let sink = Sink::start();
    let start = format!("url = \"{}\"\nuser = \"u\"\n", sink.url());
    let Some(installed) = Installed::new("") else { return };
    let report = installed.write("report", "", NOBODY, NOBODY, 0o600);
    // Not a shell, because some shells give up the group.
    let words = format!("\"sed\", \"-n\", \"-e\", \"/^Gid:/w {}\", \"-e\", \"$a hunter2\"", report.display());
    let command = format!("{start}password-command = [{words}, \"/proc/self/status\"]\n");
    installed.write("etc/postino.conf", &command, 0, GROUP, 0o640);
    let done = installed.run(&["b@example.org"]);
    assert_eq!((done.code, &*done.err), (Some(0), ""), "{done:?}");
    assert_eq!(sink.one().auth, LOGIN);
    let gids = "Gid:\t65534\t65534\t65534\t65534\n";
    assert_eq!(fs::read_to_string(&report).unwrap(), gids);

    fs::write(&report, "").unwrap();
    let bs = "HELO x\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n\r\n.\r\n";
    let done = finish(installed.sendmail(&["-bs"]), bs.as_bytes());
    assert_eq!((done.code, sink.one().auth.as_str()), (Some(0), LOGIN), "{done:?}");
    assert_eq!(fs::read_to_string(&report).unwrap(), gids);

    // Commands of users are not run at all.
    fs::write(&report, "").unwrap();
    installed.user(&command);
    let done = installed.run(&["b@example.org"]);
    assert!(done.code == Some(78) && done.err.contains("runs no commands of users"), "{done:?}");
    assert_eq!(fs::read_to_string(&report).unwrap(), "");
}

#[test]
fn errors_in_the_systems_file_reveal_nothing_of_it() {
    for text in ["password = hunter2\n", "url = \"x\"\nhunter2 = 1\n", "hunter2\n", "user = \"hunter2\"\n"] {
        let Some(installed) = Installed::new(text) else { return };
        let done = installed.run(&["b@example.org"]);
        assert!(done.code == Some(78) && done.err.contains("/etc/postino.conf, line "), "{done:?}");
        shows_no_secret(&done);
    }
}

#[test]
fn without_the_group_the_systems_file_is_an_error_and_not_ignored() {
    let sink = Sink::start();
    let Some(installed) = Installed::new(&config(&sink)) else { return };
    fs::set_permissions(installed.folder.join("sendmail"), fs::Permissions::from_mode(0o755)).unwrap();
    let done = installed.run(&["b@example.org"]);
    assert!(done.code == Some(78) && done.err.contains("/etc/postino.conf: Permission denied"), "{done:?}");
    let done = installed.run(&["-s", &sink.url(), "b@example.org"]);
    assert_eq!((done.code, sink.one().auth.as_str()), (Some(0), ""), "another server needs no configuration");
}

#[test]
fn a_set_user_id_program_refuses_to_run() {
    let Some(installed) = Installed::new("") else { return };
    fs::set_permissions(installed.folder.join("sendmail"), fs::Permissions::from_mode(0o4755)).unwrap();
    let done = installed.run(&["b@example.org"]);
    assert!(done.code == Some(78) && done.err.contains("must not be set-user-ID"), "{done:?}");
}

/// Debian's users root and daemon.
const ROOT: u32 = 0;
const DAEMON: u32 = 1;

#[test]
fn users_share_the_spool_and_see_only_their_own_messages() {
    let sink = Sink::start();
    let Some(installed) = Installed::new("") else { return };
    let spool = installed.folder.join("spool");
    let configure = |url: &str| {
        let text =
            format!("url = \"{url}\"\nspool = \"{}\"\nretry = [\"0s\"]\nlog = \"none\"\n", spool.display());
        installed.write("etc/postino.conf", &text, 0, GROUP, 0o640);
    };
    configure("smtp://127.0.0.1:1");

    // The folders must not belong to the user who is the first to send.
    let done = installed.run(&["-f", "a@example.org", "b@example.org"]);
    assert!(done.code == Some(75) && done.err.contains("root creates it by sendmail -q"), "{done:?}");
    assert!(!spool.exists());
    let program = installed.folder.join("sendmail");
    let umask = ["-c", "umask 077 && exec \"$0\" -q", program.to_str().unwrap()];
    let done = finish(installed.command_as(ROOT, "sh", &umask), b"");
    assert_eq!(done.code, Some(0), "{done:?}");
    for folder in ["", "tmp", "queue", "doubt", "failed"] {
        let meta = fs::metadata(spool.join(folder)).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (0, GROUP, 0o2770));
    }

    // As if root had created them before the program was set-group-ID.
    let change_group = |group: u32| {
        let output = Command::new("chgrp").arg("-R").arg(group.to_string()).arg(&spool).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    change_group(0);
    let done = installed.run(&["-f", "a@example.org", "b@example.org"]);
    let why = "Permission denied (os error 13) (if it was created before the program was set-group-ID,";
    assert!(done.code == Some(75) && done.err.contains(why) && done.err.contains("chgrp -R"), "{done:?}");
    change_group(GROUP);

    for user in [NOBODY, DAEMON] {
        let done = installed.run_as(user, &["-f", "a@example.org", "b@example.org"]);
        assert_eq!((done.code, &*done.err), (Some(0), ""), "{done:?}");
    }
    let mut ids = Vec::new();
    for file in fs::read_dir(spool.join("queue")).unwrap() {
        let (name, meta) = file.map(|file| (file.file_name(), file.metadata().unwrap())).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o7777), (GROUP, 0o660));
        ids.push((meta.uid(), name.into_string().unwrap()));
    }
    ids.sort();
    let [(DAEMON, daemons), (NOBODY, nobodys)] = &ids[..] else { panic!("{ids:?}") };

    // Everything is done through the program only.
    for (program, path) in
        [("ls", spool.join("queue")), ("cat", spool.join("queue").join(nobodys)), ("ls", spool.clone())]
    {
        let output = installed.command(program, &[path.to_str().unwrap()]).output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    }
    let list = installed.run(&["-bp"]).out;
    assert!(
        list.contains(nobodys) && !list.contains(daemons) && list.ends_with("Total requests: 1\n"),
        "{list}"
    );
    let list = installed.run_as(ROOT, &["-bp"]).out;
    assert!(list.contains(nobodys) && list.contains(daemons), "{list}");
    for args in [["--remove", daemons], ["--resend", daemons], ["--remove", "../queue/x"]] {
        let done = installed.run(&args);
        assert!(done.code == Some(64) && done.err.contains("no such message"), "{args:?}: {done:?}");
    }
    for args in [["-q"], ["--flush"]] {
        let done = installed.run(&args);
        assert!(done.code == Some(64) && done.err.contains("-q is not for every user"), "{done:?}");
    }
    assert_eq!(installed.run(&["--remove", nobodys]).code, Some(0));
    assert_eq!(installed.run(&["-bp"]).out, "Mail queue is empty\n\t\tTotal requests: 0\n");

    // A folder of the user himself is not used, either.
    chown(spool.join("tmp"), Some(NOBODY), None).unwrap();
    let done = installed.run(&["-f", "a@example.org", "b@example.org"]);
    assert!(done.code == Some(75) && done.err.contains("tmp belongs to user 65534"), "{done:?}");
    chown(spool.join("tmp"), Some(0), None).unwrap();

    configure(&sink.url());
    let done = installed.run_as(ROOT, &["-q"]);
    assert_eq!((done.code, &*done.err), (Some(0), ""), "{done:?}");
    assert_eq!(sink.one().recipients, ["b@example.org"]);
    assert_eq!(installed.run_as(ROOT, &["-bp"]).out, "Mail queue is empty\n\t\tTotal requests: 0\n");
}

#[test]
fn a_user_s_own_spool_is_not_open_to_the_group() {
    let Some(installed) = Installed::new("") else { return };
    let home = installed.folder.join("home");
    chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
    installed.user("url = \"smtp://127.0.0.1:1\"\nspool = \"~/spool\"\nretry = [\"0s\"]\n");
    let done = installed.run(&["-f", "a@example.org", "b@example.org"]);
    assert_eq!((done.code, &*done.err), (Some(0), ""), "{done:?}");
    for folder in ["tmp", "queue", "doubt", "failed"] {
        let meta = fs::metadata(home.join("spool").join(folder)).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (NOBODY, NOBODY, 0o700));
    }
    let file = fs::read_dir(home.join("spool/queue")).unwrap().next().unwrap().unwrap();
    assert_eq!((file.metadata().unwrap().uid(), file.metadata().unwrap().gid()), (NOBODY, NOBODY));
    let done = installed.run(&["-q"]);
    assert_eq!((done.code, &*done.err), (Some(75), ""), "{done:?}");
    let list = installed.run(&["-bp"]).out;
    assert!(list.contains("tried 2 times") && list.ends_with("Total requests: 1\n"), "{list}");

    // The group of the program is of no use in a folder that only the group can use.
    let closed = installed.folder.join("closed");
    for folder in ["", "tmp", "queue", "doubt", "failed"] {
        fs::create_dir(closed.join(folder)).unwrap();
        chown(closed.join(folder), Some(0), Some(GROUP)).unwrap();
        fs::set_permissions(closed.join(folder), fs::Permissions::from_mode(0o2770)).unwrap();
    }
    installed.user(&format!("url = \"smtp://127.0.0.1:1\"\nspool = \"{}\"\n", closed.display()));
    let done = installed.run(&["-f", "a@example.org", "b@example.org"]);
    assert!(done.code == Some(75) && done.err.contains("Permission denied"), "{done:?}");
}

/// Without the key `spool`, the spool of `--queue` is that of the system, which a user without the group cannot read.
#[test]
fn a_spool_that_the_user_cannot_read_is_not_there() {
    let Some(installed) = Installed::new("") else { return };
    let spool = installed.folder.join("var/spool/postino");
    fs::create_dir_all(&spool).unwrap();
    fs::set_permissions(&spool, fs::Permissions::from_mode(0o700)).unwrap();
    let program = installed.folder.join("sendmail");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let conf = installed.write("other.conf", "", 0, 0, 0o644);
    let root = format!("POSTINO_ROOT={}", installed.folder.display());
    let args = [&*root, program.to_str().unwrap(), "-C", conf.to_str().unwrap(), "-bp"];
    let done = finish(installed.command("env", &args), b"");
    assert_eq!((done.code, &*done.err), (Some(0), ""), "{done:?}");
    assert!(done.out.starts_with("Mail queue is empty (there is no spool)\n"), "{done:?}");
    let done = finish(installed.command_as(ROOT, "env", &args), b"");
    assert!(done.code == Some(0) && done.out.starts_with("Mail queue is empty\n"), "{done:?}");
}
