//! Programs that call `sendmail`, each with this program as its `sendmail`. A program that is not installed is skipped, and its
//! test says so; if `POSTINO_INTEROP_REQUIRED` names the package, the test fails instead. `tests/debian/run` runs more callers, as
//! they are installed by Debian.
//!
//! Debian: `bsd-mailx s-nail php-cli mpack mutt git-email python3 libmime-lite-perl libemail-sender-perl mandoc`. Of these, only
//! `bsd-mailx` depends on a mail transport agent.

mod world;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use world::{PROGRAM, Received, Sink, World, finish, skipped};

/// One call.
struct Call<'c> {
    world: &'c World,
    sink: &'c Sink,
}

impl Call<'_> {
    /// Runs a program, and returns the message that arrived.
    #[track_caller]
    fn run(&self, args: &[&str], stdin: &str) -> Received {
        let mut command = Command::new(args[0]);
        command.args(&args[1..]).current_dir(&self.world.root);
        command
            .env("POSTINO_ROOT", &self.world.root)
            .env("HOME", self.world.root.join("home"))
            .env("LC_ALL", "C.UTF-8");
        command.env("MAILRC", self.world.root.join("mailrc")).env_remove("SMTP_URL").env("SENDMAIL", PROGRAM);
        let done = finish(command, stdin.as_bytes());
        assert_eq!(done.code, Some(0), "{args:?}: {done:?}");
        let received = self.sink.one();
        for field in ["From: ", "Date: ", "Message-I"] {
            let lines = received.content.split("\n\n").next().unwrap().lines();
            assert_eq!(
                lines.filter(|line| line.starts_with(field)).count(),
                1,
                "{args:?} {field}: {received:#?}"
            );
        }
        received
    }
}

/// Whether the program of a package works: this command succeeds.
fn works(package: &str, check: &[&str]) -> bool {
    let mut command = Command::new(check[0]);
    command.args(&check[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let works = command.status().is_ok_and(|status| status.success());
    if !works {
        let required = std::env::var("POSTINO_INTEROP_REQUIRED").unwrap_or_default();
        assert!(!required.split(',').any(|other| other == package), "{package} is required: {check:?} fails");
        skipped(&format!("{package}: {check:?} fails"));
    }
    works
}

/// Calls a function with the system and a server, if the program of a package works.
fn with(package: &str, check: &[&str], test: impl FnOnce(&Call<'_>)) {
    if !works(package, check) {
        return;
    }
    let (world, sink) = (World::new(), Sink::start());
    world.system(&format!("url = \"{}\"\n", sink.url()));
    world.write("etc/aliases", "root: admin@example.org\n");
    world.write("mailrc", &format!("set sendmail={PROGRAM}\n"));
    test(&Call { world: &world, sink: &sink });
}

#[test]
fn bsd_mailx() {
    with("bsd-mailx", &["sh", "-c", "command -v bsd-mailx"], |call| {
        let received = call.run(&["bsd-mailx", "-s", "Hi", "root"], "body\n");
        assert_eq!(
            (&*received.sender, &*received.recipients),
            ("tester@host.example.org", &["admin@example.org".to_owned()][..])
        );
        assert!(received.content.contains("From: Tess Ter <tester@host.example.org>\n"), "{received:?}");
        assert!(received.content.contains("\nTo: root@host.example.org\nSubject: Hi\n"), "{received:?}");
        assert!(received.content.ends_with("\n\nbody\n"), "{received:?}");
        let received = call.run(
            &["bsd-mailx", "-s", "Hi", "-r", "a@example.org", "b@example.org", "c@example.org"],
            "body\n",
        );
        assert_eq!((&*received.sender, received.recipients.len()), ("a@example.org", 2));
    });
}

#[test]
fn s_nail() {
    with("s-nail", &["s-nail", "--version"], |call| {
        let mta = format!("mta={PROGRAM}");
        let received = call.run(&["s-nail", "-n", "-S", &mta, "-s", "Hi", "b@example.org"], "body\n");
        assert_eq!(received.recipients, ["b@example.org"]);
        assert!(
            received.content.contains("\nSubject: Hi\n") && received.content.contains("\n\nbody\n"),
            "{received:?}"
        );
    });
}

#[test]
fn php_mail() {
    with("php-cli", &["php", "--version"], |call| {
        let path = format!("sendmail_path={PROGRAM} -t -i");
        let script = "exit(mail('b@example.org', 'Hi', \"body\\n.\\nFrom here\\n\") ? 0 : 1);";
        let received = call.run(&["php", "-d", &path, "-r", script], "");
        assert_eq!(
            (&*received.sender, &*received.recipients),
            ("tester@host.example.org", &["b@example.org".to_owned()][..])
        );
        assert!(received.content.ends_with("\n\nbody\n.\nFrom here\n\n"), "{received:?}");

        let script = "exit(mail('b@example.org', 'Hi', 'body', ['From' => 'web@example.org', 'Bcc' => 'c@example.org'], '-fbounce@example.org') ? 0 : 1);";
        let received = call.run(&["php", "-d", &path, "-r", script], "");
        assert_eq!((&*received.sender, received.recipients.len()), ("bounce@example.org", 2));
        assert!(
            received.content.contains("From: web@example.org\n") && !received.content.contains("Bcc"),
            "{received:?}"
        );
    });
}

#[test]
fn mutt() {
    with("mutt", &["mutt", "-v"], |call| {
        let set = format!("set sendmail=\"{PROGRAM} -oem -oi\" copy=no");
        let received =
            call.run(&["mutt", "-n", "-F", "/dev/null", "-e", &set, "-s", "Hi", "b@example.org"], "body\n");
        assert_eq!(received.recipients, ["b@example.org"]);
        assert!(received.content.ends_with("\n\nbody\n"), "{received:?}");
    });
}

#[test]
fn git_send_email() {
    with("git-email", &["sh", "-c", "git send-email -h 2>&1 | grep -q sendmail-cmd"], |call| {
        let patch = "From 0a0ae3e955ae Mon Sep 17 00:00:00 2001\nFrom: A U Thor <author@example.org>\n\
            Date: Thu, 1 Jan 2026 00:00:00 +0000\nSubject: [PATCH] x\n\n---\n a | 1 +\n";
        let file = call.world.write("0001.patch", patch);
        let command = format!("--sendmail-cmd={PROGRAM}");
        let args = [
            "git",
            "send-email",
            &command,
            "--from",
            "me@example.org",
            "--to",
            "b@example.org",
            "--confirm=never",
        ];
        let received =
            call.run(&[&args[..], &["--cc", "c@example.org", file.to_str().unwrap()]].concat(), "");
        assert!(received.recipients.contains(&"b@example.org".to_owned()), "{received:?}");
        assert!(received.recipients.contains(&"c@example.org".to_owned()), "{received:?}");
        assert_eq!(received.sender, "me@example.org");
    });
}

#[test]
fn python() {
    with("python3", &["python3", "--version"], |call| {
        let script = format!(
            "import subprocess, email.message\nm = email.message.EmailMessage()\nm['To'] = 'b@example.org'\n\
            m['From'] = 'Ann <a@example.org>'\nm.set_content('body')\n\
            subprocess.run(['{PROGRAM}', '-t', '-oi'], input=m.as_bytes(), check=True)"
        );
        let received = call.run(&["python3", "-c", &script], "");
        assert_eq!(
            (&*received.sender, &*received.recipients),
            ("a@example.org", &["b@example.org".to_owned()][..])
        );
    });
}

/// Speaks SMTP with the program's standard input and output, as Symfony and alpine do.
#[test]
fn the_smtp_client_of_python_with_bs() {
    with("python3", &["python3", "--version"], |call| {
        let script = format!(
            "import smtplib, socket, subprocess\nours, theirs = socket.socketpair()\n\
            p = subprocess.Popen(['{PROGRAM}', '-bs'], stdin=theirs, stdout=theirs)\ntheirs.close()\n\
            s = smtplib.SMTP(); s.sock = ours; s.file = None; s._host = ''\nassert s.getreply()[0] == 220\n\
            refused = s.sendmail('a@example.org', ['b@example.org', 'root'], 'Subject: Hi\\r\\n\\r\\n.dot\\r\\n')\n\
            assert not refused; s.quit(); assert p.wait() == 0"
        );
        let received = call.run(&["python3", "-c", &script], "");
        assert_eq!(received.recipients, ["b@example.org", "admin@example.org"]);
        assert!(received.content.ends_with("\n\n.dot\n"), "{received:?}");
    });
}

#[test]
fn perl_mime_lite() {
    with("libmime-lite-perl", &["perl", "-MMIME::Lite", "-e", "1"], |call| {
        let script = format!(
            "my $m = MIME::Lite->new(From => 'a@example.org', To => 'b@example.org', Subject => 'Hi', Data => 'body');\n\
            $m->send('sendmail', '{PROGRAM} -t -oi -oem') or die"
        );
        let received = call.run(&["perl", "-MMIME::Lite", "-e", &script], "");
        assert_eq!(
            (&*received.sender, &*received.recipients),
            ("a@example.org", &["b@example.org".to_owned()][..])
        );
    });
}

#[test]
fn perl_email_sender() {
    let check = ["perl", "-MEmail::Sender::Transport::Sendmail", "-MEmail::Sender::Simple", "-e", "1"];
    with("libemail-sender-perl", &check, |call| {
        let script = format!(
            "use Email::Sender::Simple 'sendmail'; use Email::Sender::Transport::Sendmail;\n\
            my $t = Email::Sender::Transport::Sendmail->new({{ sendmail => '{PROGRAM}' }});\n\
            sendmail(\"From: a\\@example.org\\nTo: b\\@example.org\\n\\nbody\\n\", {{ transport => $t }});"
        );
        let received = call.run(&["perl", "-e", &script], "");
        assert_eq!(
            (&*received.sender, &*received.recipients),
            ("a@example.org", &["b@example.org".to_owned()][..])
        );
    });
}

/// mpack always calls /usr/sbin/sendmail, so that folder is replaced in a mount namespace.
#[test]
fn mpack() {
    let bind = format!("mount -t tmpfs tmpfs /usr/sbin && ln -s {PROGRAM} /usr/sbin/sendmail");
    let check = format!("{bind} && command -v mpack");
    with("mpack", &["unshare", "--mount", "sh", "-c", &check], |call| {
        let file = call.world.write("attached.txt", "attached\n");
        let script = format!("{bind} && exec mpack -s Hi {} b@example.org", file.display());
        let received = call.run(&["unshare", "--mount", "sh", "-c", &script], "");
        assert_eq!(
            (&*received.sender, &*received.recipients),
            ("tester@host.example.org", &["b@example.org".to_owned()][..])
        );
        assert!(received.content.contains("attached.txt"), "{received:?}");
    });
}

/// mdadm pipes a message with From and To without domains into `sendmail -t`.
#[test]
fn the_message_of_mdadm() {
    let (world, sink) = (World::new(), Sink::start());
    world.system(&format!("url = \"{}\"\n", sink.url()));
    world.write("etc/aliases", "root: admin@example.org\n");
    let message =
        "From: mdadm monitoring <root>\nTo: root\nSubject: DegradedArray event on /dev/md0:host\n\nbody\n";
    let received = Call { world: &world, sink: &sink }.run(&[PROGRAM, "-t"], message);
    assert_eq!(
        (&*received.sender, &*received.recipients),
        ("root@host.example.org", &["admin@example.org".to_owned()][..])
    );
    assert!(received.content.contains("From: mdadm monitoring <root@host.example.org>\n"), "{received:?}");
}

/// The manual page has no errors, and names every key of the configuration.
#[test]
fn the_manual_page_is_complete() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("sendmail.8");
    let text = fs::read_to_string(&page).unwrap();
    let source =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/reader.rs")).unwrap();
    let keys = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" "))
        .filter(|(_, rest)| rest.starts_with("=>") || rest.starts_with("if "));
    let mut count = 0;
    for (key, _) in keys {
        assert!(text.contains(key), "{key} is not in sendmail.8");
        count += 1;
    }
    assert!(count > 20, "{count} keys were found");
    if works("mandoc", &["sh", "-c", "command -v mandoc"]) {
        let output =
            Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&page).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    }
}
