//! The configuration, and what the program adds to messages.

mod world;

use std::{fs, os::unix::net::UnixDatagram, path::Path, time::Duration};

use world::{Done, Sink, World, finish};

const HAS_TLS: bool = cfg!(any(feature = "native-tls", feature = "rustls"));

const HI: &[u8] = b"From: a@example.org\nTo: b@example.org\nSubject: Hi\n\nHello!\n";

#[track_caller]
fn is_sent(done: &Done) {
    assert_eq!((done.code, &*done.err), (Some(0), ""), "{done:?}");
}

#[track_caller]
fn fails(done: &Done, code: i32, why: &str) {
    assert_eq!(done.code, Some(code), "{done:?}");
    assert!(done.err.contains(why) && done.err.lines().count() == 1, "{why}: {done:?}");
}

// Which file and which account.

#[test]
fn the_users_file_is_used_instead_of_the_systems() {
    let (world, system, user) = (World::new(), Sink::start(), Sink::start());
    world.system(&format!("url = \"{}\"\nfrom = \"system@example.org\"\n", system.url()));
    is_sent(&world.run(&["b@example.org"], HI));
    assert_eq!(system.one().sender, "system@example.org");
    world.user(&format!("url = \"{}\"\n", user.url()));
    is_sent(&world.run(&["b@example.org"], HI));
    assert_eq!(user.one().sender, "a@example.org", "nothing of the other file applies");
    assert!(system.take().is_empty());

    let third = world.write("third.conf", &format!("url = \"{}\"\n", system.url()));
    is_sent(&world.run(&["-C", third.to_str().unwrap(), "b@example.org"], HI));
    system.one();
    assert!(user.take().is_empty());
}

#[test]
fn the_command_line_overrides_the_environment_which_overrides_the_file() {
    let (world, file, env, line) = (World::new(), Sink::start(), Sink::start(), Sink::start());
    world.user(&format!("url = \"{}\"\nuser = \"u\"\npassword = \"hunter2\"\n", file.url()));
    let mut command = world.command(&["-s", &line.url(), "b@example.org"]);
    command.env("SMTP_URL", env.url());
    is_sent(&finish(command, HI));
    assert_eq!(line.one().auth, "", "the password belongs to another server");
    let mut command = world.command(&["b@example.org"]);
    command.env("SMTP_URL", env.url());
    is_sent(&finish(command, HI));
    assert_eq!(env.one().auth, "", "the password belongs to another server");
    is_sent(&world.run(&["b@example.org"], HI));
    assert_eq!(file.one().auth, "PLAIN AHUAaHVudGVyMg==");

    world.user(&format!("[account.named]\nurl = \"{}\"\n", file.url()));
    let config = world.root.join("home/.config/postino.conf");
    for args in [["-a", "named"], ["-C", config.to_str().unwrap()]] {
        let mut command = world.command(&[&args[..], &["b@example.org"]].concat());
        command.env("SMTP_URL", env.url());
        is_sent(&finish(command, HI));
        file.one();
    }
    assert!(env.take().is_empty());
}

#[test]
fn accounts_are_chosen_by_sender_or_name() {
    let (world, work, home) = (World::new(), Sink::start(), Sink::start());
    world.user(&format!(
        "default-account = \"home\"\n[account.work]\nurl = \"{}\"\nsenders = [\"@work.example\"]\n\
        [account.home]\nurl = \"{}\"\nfrom = \"me@home.example\"\n",
        work.url(),
        home.url()
    ));
    is_sent(&world.run(&["-f", "x@work.example", "b@example.org"], HI));
    assert_eq!(work.one().sender, "x@work.example");
    is_sent(&world.run(&["b@example.org"], HI));
    assert_eq!(home.one().sender, "me@home.example");
    is_sent(&world.run(&["-a", "work", "b@example.org"], HI));
    assert_eq!(work.one().sender, "a@example.org");
    fails(&world.run(&["-a", "other", "b@example.org"], HI), 64, "no account other in ");
}

#[test]
fn passwords_come_from_files_and_commands() {
    let (world, sink) = (World::new(), Sink::start());
    let file = world.write("password", "hunter2\nsecond line\n");
    let file = file.display();
    for (keys, auth) in [
        ("password = \"hunter2\"".to_owned(), "PLAIN AHUAaHVudGVyMg=="),
        (format!("password-file = \"{file}\""), "PLAIN AHUAaHVudGVyMg=="),
        (format!("password-command = [\"head\", \"-n1\", \"{file}\"]"), "PLAIN AHUAaHVudGVyMg=="),
        ("password-command = [\"sh\", \"-c\", \"echo hunter2\"]".to_owned(), "PLAIN AHUAaHVudGVyMg=="),
        ("token-command = [\"echo\", \"t0ken\"]".to_owned(), "XOAUTH2 dXNlcj11AWF1dGg9QmVhcmVyIHQwa2VuAQE="),
    ] {
        world.user(&format!("url = \"{}\"\nuser = \"u\"\n{keys}\n", sink.url()));
        let done = world.run(&["-vv", "b@example.org"], HI);
        assert_eq!(done.code, Some(0), "{keys}: {}", done.err);
        assert_eq!(sink.one().auth, auth, "{keys}");
        for secret in ["hunter2", "t0ken"] {
            assert!(!done.err.contains(secret) && !done.out.contains(secret), "{done:?}");
        }
    }
    for (command, why) in [
        ("[\"false\"]", "command false: it failed (exit status: 1)"),
        ("[\"/nowhere/at/all\"]", "command /nowhere/at/all: "),
        ("[\"true\"]", "the first line is empty"),
        ("[\"head\", \"-c\", \"200000\", \"/dev/zero\"]", "its output is too long"),
    ] {
        world.user(&format!("url = \"{}\"\nuser = \"u\"\npassword-command = {command}\n", sink.url()));
        fails(&world.run(&["b@example.org"], HI), 78, why);
    }
    assert!(sink.take().is_empty());
}

// Errors of the file.

#[test]
fn errors_name_the_file_and_the_line() {
    let world = World::new();
    for (text, why) in [
        ("\n\nurll = \"x\"\n", "postino.conf, line 3: unknown key \"urll\""),
        ("[account.x]\nurl = \"smtp://h\"\npasword = \"hunter2\"\n", "line 3: unknown key \"pasword\""),
        ("url = \"smtp://h\"\nurl = \"smtp://i\"\n", "line 2: duplicate key"),
        ("# x\nurl = smtp://h\n", "line 2: "),
        ("url = \"http://h\"\n", "line 1: invalid URL: its scheme"),
        ("url = \"smtp://u:hunter2@h:x\"\n", "line 1: invalid URL: its port"),
        ("url = 25\n", "line 1: expected a text in quotes"),
        ("timeout = \"soon\"\n", "line 1: expected seconds"),
        ("system-cas = \"no\"\n", "line 1: expected true or false"),
        ("domain = \"a b\"\n", "line 1: not a domain"),
        ("from = \"a b@c\"\n", "line 1: "),
        ("aliases = \"aliases\"\n", "line 1: not an absolute path"),
        ("log = \"tty\"\n", "line 1: log is not"),
        ("\n[rewrite]\nroot = \"x y\"\n", "line 3: neither an address nor @domain"),
        ("user = \"u\"\n", "user needs a password"),
        ("password = \"hunter2\"\n", "needs a user"),
        ("user = \"u\"\npassword = \"hunter2\"\npassword-file = \"/x\"\n", "already given by another key"),
        ("user = \"u\"\npassword-command = \"pass show hunter2\"\n", "line 2: write a list"),
        ("[account.x]\nuser = \"u\"\npassword = \"hunter2\"\n", "account x: a login belongs to a server"),
        ("default-account = \"x\"\n", "there is no such account"),
        ("spool = \"var/spool\"\n", "line 1: not an absolute path"),
        ("spool-max-messages = -1\n", "line 1: expected a whole number"),
        ("retry = [\"5m\", \"x\"]\n", "line 1: expected seconds"),
        ("domain = \"\\u0000\"\n", "line 1: the text contains a control character"),
    ] {
        world.user(text);
        let done = world.run(&["b@example.org"], HI);
        fails(&done, 78, why);
        assert!(done.err.contains("/home/.config/postino.conf") && !done.err.contains("hunter2"), "{done:?}");
    }
    world.user("spool = \"off\"\nspool-max-messages = 10\nspool-max-bytes = 1000\nretry = [\"5m\", 3600]\ngive-up-after = \"5d\"\n");
    assert_eq!(world.run(&["--print-config"], b"").code, Some(0), "the keys of the spool are known");
}

#[test]
fn the_result_is_json_even_for_configuration_errors() {
    let world = World::new();
    world.user("x = 1\n");
    let done = world.run(&["--json", "b@example.org"], HI);
    assert_eq!(done.code, Some(78));
    let expected = r#"{"outcome":"not_sent","reply":null,"refused":[],"recipients":[{"recipient":"b@example.org","outcome":"not_sent","reply":null}],"error":"#;
    assert!(done.out.starts_with(expected), "{}", done.out);
}

#[test]
fn a_file_with_a_password_that_everyone_can_read_is_refused() {
    let (world, sink) = (World::new(), Sink::start());
    let url = sink.url();
    let with_login = url.replace("//", "//u:hunter2@");
    for text in [
        format!("url = \"{url}\"\nuser = \"u\"\npassword = \"hunter2\"\n"),
        format!("url = \"{with_login}\"\n"),
        format!("url = \"{url}\"\n[account.x]\nurl = \"{url}\"\nuser = \"u\"\npassword = \"hunter2\"\n"),
    ] {
        world.user(&text);
        world.chmod("home/.config/postino.conf", 0o644);
        fails(&world.run(&["b@example.org"], HI), 78, "can be read by everyone");
        world.chmod("home/.config/postino.conf", 0o600);
        is_sent(&world.run(&["b@example.org"], HI));
        sink.one();
    }
    world.user(&format!("url = \"{url}\"\n"));
    world.chmod("home/.config/postino.conf", 0o644);
    is_sent(&world.run(&["b@example.org"], HI));
    world.chmod("home/.config/postino.conf", 0o646);
    fails(&world.run(&["b@example.org"], HI), 78, "can be written by everyone");

    let file = world.write("password", "hunter2\n");
    world.user(&format!("url = \"{url}\"\nuser = \"u\"\npassword-file = \"{}\"\n", file.display()));
    world.chmod("password", 0o644);
    fails(
        &world.run(&["b@example.org"], HI),
        78,
        "password: it contains a password and can be read by everyone",
    );
}

#[test]
fn the_configuration_is_printed_without_secrets() {
    let world = World::new();
    world.user(
        "url = \"smtp://u:hunter%402@h:25\"\naliases = \"\"\nlog = \"none\"\n[account.a]\nurl = \"smtp://i\"\nuser = \"u\"\n\
        password = \"hunter2\"\ntimeout = 1.5\nsenders = [\"@x\"]\n[account.b]\nurl = \"smtp://j\"\nuser = \"u\"\n\
        token-command = [\"echo\", \"hunter2\"]\n[rewrite]\n\"@router\" = \"me@example.org\"\n",
    );
    let done = world.run(&["--print-config"], b"");
    is_sent(&done);
    assert!(!done.out.contains("hunter"), "{}", done.out);
    for line in [
        "url = \"smtp://u:********@h:25\"",
        "# domain = \"host.example.org\"",
        "aliases = \"\"",
        "log = \"none\"",
        "[account.\"a\"]",
        "password = \"********\"",
        "timeout = 1.500000000",
        "senders = [\"@x\"]",
        "token-command = \"********\"",
        "\"@router\" = \"me@example.org\"",
    ] {
        assert!(done.out.lines().any(|found| found == line), "{line} is not in {}", done.out);
    }
    world.user(&done.out);
    let again = world.run(&["--print-config"], b"");
    assert_eq!((again.code, again.out), (Some(0), done.out), "it is a configuration");
}

#[test]
fn check_connects_and_logs_in() {
    let (world, sink) = (World::new(), Sink::start());
    world.user(&format!("url = \"{}\"\nuser = \"u\"\npassword = \"hunter2\"\n", sink.url()));
    let done = world.run(&["--check"], b"");
    is_sent(&done);
    for line in [
        format!("server: 127.0.0.1:{}", sink.port),
        "greeting: 220 sink.example ESMTP".to_owned(),
        "TLS: no".to_owned(),
        "capabilities: 8BITMIME, AUTH PLAIN XOAUTH2".to_owned(),
        "login: accepted for u".to_owned(),
    ] {
        assert!(done.out.lines().any(|found| found == line), "{line} is not in {}", done.out);
    }
    assert!(!done.out.contains("hunter2") && sink.take().is_empty());
    world.user("url = \"smtp://127.0.0.1:1\"\n");
    fails(&world.run(&["--check"], b""), 75, "could not connect");
}

#[test]
fn check_shows_where_mail_to_root_goes_and_the_spool() {
    let (world, sink) = (World::new(), Sink::start());
    let aliases = world.write("etc/aliases", "root: admin@example.net, tess\n");
    let spool = world.root.join("spool");
    let configure = |spool: &Path| {
        world.system(&format!("url = \"{}\"\nspool = \"{}\"\n", sink.url(), spool.display()));
    };
    configure(&spool);
    let done = world.run(&["--check"], b"");
    is_sent(&done);
    for line in [
        format!("aliases: {}: 1 alias, read for each message", aliases.display()),
        "mail to root: admin@example.net, tess@host.example.org".to_owned(),
        format!("spool: {} (0 messages)", spool.display()),
        "login: none configured".to_owned(),
    ] {
        assert!(done.out.lines().any(|found| found == line), "{line} is not in {}", done.out);
    }

    // What is wrong with them is reported, and the server is checked nevertheless.
    configure(&aliases.join("spool"));
    let done = world.run(&["--check"], b"");
    fails(&done, 75, "etc/aliases/spool: Not a directory");
    assert!(done.out.contains("\nlogin: none configured\n"), "{done:?}");
    world.system(&format!("url = \"{}\"\n", sink.url()));
    world.write("etc/aliases", "root: |/bin/cat\n");
    let done = world.run(&["--check"], b"");
    fails(&done, 78, "etc/aliases, line 1: commands, files");
    assert!(done.out.contains("\nspool: none\n"), "{done:?}");
}

#[test]
fn errors_in_a_ca_file_name_it() {
    let world = World::new();
    let bad = world.write("bad.pem", "nonsense");
    let bad = bad.display();
    world.user(&format!("url = \"smtp://127.0.0.1:1\"\nca-file = \"{bad}\"\n"));
    if HAS_TLS {
        for args in ["b@example.org", "--check"] {
            fails(
                &world.run(&[args], HI),
                78,
                &format!(" {bad}: the CA certificate is invalid: neither PEM nor DER"),
            );
        }
    }
    world.user(&format!("ca-file = \"{bad}\"\nsystem-cas = false\n[account.a]\nurl = \"smtp://h\"\n"));
    assert!(world.run(&["--print-config"], b"").out.contains("\nsystem-cas = false\n"));
    world.user("url = \"smtp://127.0.0.1:1\"\nsystem-cas = false\n");
    let (code, why) =
        if HAS_TLS { (78, "system-cas = false needs a file with certificate") } else { (64, "without TLS") };
    fails(&world.run(&["b@example.org"], HI), code, why);
}

// What is added.

#[test]
fn missing_fields_are_added() {
    let (world, sink) = (World::new(), Sink::start());
    let url = sink.url();
    for (args, from) in [
        (&["root"][..], "From: Tess Ter <tester@host.example.org>"),
        (&["-F", "Cron", "root"], "From: Cron <tester@host.example.org>"),
        (&["-f", "other", "root"], "From: other@host.example.org"),
        (&["-f", "x@example.org", "-FMe", "root"], "From: Me <x@example.org>"),
        (&["-f", "", "root"], "From: tester@host.example.org"),
    ] {
        is_sent(&world.run(&[&["-s", &url], args].concat(), b"Subject: Hi\n\nbody\n"));
        let received = sink.one();
        let lines: Vec<_> = received.content.lines().collect();
        assert_eq!(lines[0], from, "{args:?}");
        assert!(lines[1].starts_with("Date: ") && lines[2].starts_with("Message-ID: <"), "{lines:?}");
        // Identifiers have the domain of the author, as with other mail programs.
        let domain = from.split_once('@').unwrap().1.trim_end_matches('>');
        assert!(lines[2].ends_with(&format!("@{domain}>")), "{lines:?}");
        assert_eq!(lines[3..], ["Subject: Hi", "", "body"]);
        assert_eq!(received.recipients, ["root@host.example.org"]);
    }
    is_sent(&world.run(&["-s", &url, "root"], HI));
    assert_eq!(sink.one().content.matches("From:").count(), 1);
    is_sent(&world.run(&["-s", &url, "--as-is", "root"], b"Subject: Hi\n\nbody\n"));
    let received = sink.one();
    assert_eq!((&*received.sender, &*received.content), ("tester@host.example.org", "Subject: Hi\n\nbody\n"));
}

#[test]
fn lines_of_a_text_without_headers_are_not_taken_for_header_fields() {
    let (world, sink) = (World::new(), Sink::start());
    let url = sink.url();
    let text = "Backup done\nFrom: disk1\nBcc: disk2\n\nend\n";
    // Also if the text is too long to be read at once.
    for text in [text.to_owned(), text.replace("done", &"done\n".repeat(250_000))] {
        is_sent(&world.run(&["-s", &url, "-t", "b@example.org"], text.as_bytes()));
        let received = sink.one();
        assert_eq!((&*received.sender, received.recipients.len()), ("tester@host.example.org", 1));
        let (header, body) = received.content.split_once("\n\n").unwrap();
        assert!(header.starts_with("From: Tess Ter <tester@host.example.org>\nDate: "), "{header}");
        assert!(header.lines().count() == 3 && body == text, "{header}");
    }
}

#[test]
fn a_message_from_cron_gets_domains_and_aliases() {
    let (world, sink) = (World::new(), Sink::start());
    world.write("etc/aliases", "root: admin@example.org, ops\nops: o1@example.org\n");
    let message = b"From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@host> date\n\nFrom here\n";
    is_sent(&world.run(&["-s", &sink.url(), "-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root"], message));
    let received = sink.one();
    assert_eq!(received.sender, "root@host.example.org");
    assert_eq!(received.recipients, ["admin@example.org", "o1@example.org"]);
    assert!(received.content.contains("\nFrom: root@host.example.org (Cron Daemon)\nTo: root@host.example.org\nSubject: Cron <root@host> date\n\nFrom here\n"), "{received:?}");
    is_sent(&world.run(&["-s", &sink.url(), "-t"], message));
    assert_eq!(sink.one().recipients, ["admin@example.org", "o1@example.org"]);

    world.write("etc/aliases", "root: root\n");
    fails(
        &world.run(&["-s", &sink.url(), "root"], message),
        78,
        "etc/aliases, line 1: alias loop: root -> root",
    );
}

#[test]
fn a_message_with_a_broken_header_is_still_sent() {
    let (world, sink) = (World::new(), Sink::start());
    for (message, end) in [
        ("no header at all\nsecond line\n", "\n\nno header at all\nsecond line\n"),
        ("Subject: x\nbroken line\nX: y\n\nbody\n", "\nSubject: x\nbroken line\nX: y\n\nbody\n"),
        ("Subject: x\n", "\nSubject: x\n"),
        ("", ">\n\n"),
    ] {
        is_sent(&world.run(&["-s", &sink.url(), "b@example.org"], message.as_bytes()));
        let received = sink.one();
        assert!(
            received.content.starts_with("From: Tess Ter <tester@host.example.org>\nDate: "),
            "{received:?}"
        );
        assert!(received.content.ends_with(end), "{received:?}");
    }
}

#[test]
fn the_domain_is_that_of_mailname_or_of_the_host() {
    let (world, sink) = (World::new(), Sink::start());
    let url = sink.url();
    world.user(&format!("url = \"{url}\"\ndomain = \"conf.example\"\n"));
    is_sent(&world.run(&["root"], HI));
    assert_eq!(sink.one().recipients, ["root@conf.example"]);
    world.user(&format!("url = \"{url}\"\ndomain = \"\"\n"));
    is_sent(&world.run(&["root"], HI));
    assert_eq!(sink.one().recipients, ["root"]);
    fs::remove_file(world.root.join("home/.config/postino.conf")).unwrap();
    fs::remove_file(world.root.join("etc/mailname")).unwrap();
    let node = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    if !node.contains('.') {
        world.write("etc/hosts", &format!("127.0.1.1 {node}.hosts.example {node}\n"));
        is_sent(&world.run(&["-s", &url, "root"], HI));
        assert_eq!(sink.one().recipients, [format!("root@{node}.hosts.example")]);
    }
}

#[test]
fn senders_are_rewritten() {
    let (world, sink) = (World::new(), Sink::start());
    world.user(&format!(
        "url = \"{}\"\n[rewrite]\n\"root@host.example.org\" = \"alerts@example.org\"\n\"@local\" = \"@example.org\"\n",
        sink.url()
    ));
    is_sent(&world.run(&["b@example.org"], b"From: Root <root>\nReply-To: root\n\n"));
    let received = sink.one();
    assert_eq!(received.sender, "alerts@example.org");
    assert!(
        received.content.contains("\nFrom: Root <alerts@example.org>\nReply-To: root@host.example.org\n\n"),
        "{received:?}"
    );
    is_sent(&world.run(&["-f", "bob@local", "b@example.org"], b"From: bob@local\n\n"));
    let received = sink.one();
    assert_eq!(received.sender, "bob@example.org");
    assert!(received.content.contains("\nFrom: bob@example.org\n"), "{received:?}");
    is_sent(&world.run(&["-f", "", "b@example.org"], HI));
    assert_eq!(sink.one().sender, "", "the null sender stays");
}

#[test]
fn one_argument_can_hold_several_recipients() {
    let (world, sink) = (World::new(), Sink::start());
    is_sent(&world.run(&["-s", &sink.url(), "a@x.example, b@y.example", "c d", "Eve <e@z.example>,f"], HI));
    let expected = [
        "a@x.example",
        "b@y.example",
        "c@host.example.org",
        "d@host.example.org",
        "e@z.example",
        "f@host.example.org",
    ];
    assert_eq!(sink.one().recipients, expected);
}

// Other modes.

#[test]
fn names_and_options_choose_the_mode() {
    let world = World::new();
    world.write("etc/aliases", "root: admin@example.org\n");
    for (name, code, text) in [("mailq", 0, "there is no spool"), ("newaliases", 0, "aliases: 1 alias,")] {
        let link = world.root.join(name);
        std::os::unix::fs::symlink(world::PROGRAM, &link).unwrap();
        let mut command = std::process::Command::new(&link);
        command.env("POSTINO_ROOT", &world.root).env("HOME", "/nowhere");
        let done = finish(command, b"");
        assert!(done.code == Some(code) && (done.out.clone() + &done.err).contains(text), "{name}: {done:?}");
    }
    world.write("etc/aliases", "root\n");
    fails(&world.run(&["-bi"], b""), 78, "etc/aliases, line 1: expected NAME: ADDRESS");
    let text = "ok: a@example.org\nprog: |/bin/cat\nbad: a@b@c, x@example.org\nloop: Loop\nuser: prog\n";
    world.write("etc/aliases", text);
    let done = world.run(&["-bi"], b"");
    assert!(done.code == Some(78) && done.out.contains("etc/aliases: 5 aliases,"), "{done:?}");
    let lines: Vec<_> = done.err.lines().filter_map(|line| line.split_once("etc/aliases, ")).collect();
    let lines: Vec<_> = lines.iter().map(|(_, what)| &what[..what.len().min(16)]).collect();
    assert_eq!(
        lines,
        ["line 2: commands", "line 3: invalid ", "line 4: alias lo", "line 2: commands"],
        "{done:?}"
    );
    let version = world.run(&["--version"], b"");
    assert_eq!(version.out, concat!("postino-sendmail ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn bs_serves_smtp() {
    let (world, sink) = (World::new(), Sink::start());
    let session = b"EHLO [127.0.0.1]\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<root>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n\
        Subject: Hi\r\n\r\n..dot\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<x@refused.example>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n\
        \r\n.\r\nQUIT\r\n";
    let done = world.run(&["-s", &sink.url(), "-bs"], session);
    is_sent(&done);
    let replies: Vec<_> =
        done.out.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect();
    assert_eq!(
        replies,
        ["220", "250", "250", "250", "250", "354", "250", "250", "250", "250", "354", "554", "221"],
        "{done:?}"
    );
    assert!(
        done.out.contains("250 2.0.0 250 2.0.0 queued as 4711")
            && done.out.contains("550 5.1.1 no such user"),
        "{done:?}"
    );
    let received = sink.one();
    assert_eq!(received.recipients, ["root@host.example.org", "b@example.org"]);
    assert!(
        received.content.starts_with("From: a@example.org\nDate: ")
            && received.content.ends_with("\n\n.dot\n")
    );

    let down = world.run(&["-s", "smtp://127.0.0.1:1", "-bs"], &session[..]);
    assert!(down.code == Some(0) && down.out.contains("\r\n451 4.3.0 could not connect"), "{down:?}");
    let cut = world.run(&["-s", &sink.url(), "-bs"], &session[..100]);
    assert!(cut.code == Some(75) && sink.take().is_empty(), "{cut:?}");
}

// The log.

#[test]
fn each_message_is_one_line_in_the_log() {
    let (world, sink) = (World::new(), Sink::start());
    let socket = UnixDatagram::bind(world.root.join("dev/log")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut room = [0; 4096];
    let mut line = || {
        let length = socket.recv(&mut room).unwrap();
        String::from_utf8(room[..length].to_vec()).unwrap()
    };
    world.user(&format!("url = \"{}\"\n", sink.url().replace("//", "//u:hunter2@")));
    is_sent(&world.run(&["b@example.org", "c@example.org"], HI));
    let sent = line();
    assert!(sent.starts_with("<22>postino-sendmail["), "{sent}");
    let facts = format!(
        "from=<a@example.org> to=<b@example.org>,<c@example.org> relay=127.0.0.1:{} status=sent code=0 (250 2.0.0 queued as 4711)",
        sink.port
    );
    assert!(sent.contains(&facts) && !sent.contains("hunter2"), "{sent}");

    assert_eq!(world.run(&["x@refused.example"], HI).code, Some(67));
    let failed = line();
    assert!(failed.starts_with("<19>") && failed.contains("status=failed code=67"), "{failed}");
    assert!(failed.contains("550 5.1.1 no such user"), "{failed}");

    world.user("x = 1\n");
    assert_eq!(world.run(&["b@example.org"], HI).code, Some(78));
    let unknown = line();
    assert!(
        unknown.contains("status=failed code=78") && unknown.contains("line 1: unknown key"),
        "{unknown}"
    );
    assert_eq!(world.run(&["--nonsense"], HI).code, Some(64));
    assert!(line().contains("code=64 (invalid option '--nonsense'"));

    let file = world.root.join("mail.log");
    world.user(&format!("url = \"{}\"\nlog = \"{}\"\n", sink.url(), file.display()));
    is_sent(&world.run(&["b@example.org"], HI));
    is_sent(&world.run(&["b@example.org"], HI));
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(
        text.lines().filter(|line| line.contains("+0000 [") && line.contains("status=sent")).count(),
        2,
        "{text}"
    );
}

// The configuration of msmtp.

#[test]
fn the_configuration_of_msmtp_becomes_one_of_this_program() {
    let (world, sink) = (World::new(), Sink::start());
    let port = sink.port;
    let rc = format!(
        "# comment\ndefaults\ntls on\ntls_trust_file /etc/ssl/certs/ca-certificates.crt\nlogfile ~/.msmtp.log\ntimeout 30\n\
        account base\nhost mail.example.org\nport 587\nauth on\nuser joe\npassword \"hunter 2\\\"\nfrom joe@example.org\n\
        account other : base\nhost ::1\ntls_starttls off\nfrom *@example.net\nport 465\nauth scram-sha-256\n\
        passwordeval pass show \"mail\"\ntls_trust_file ~/ca.pem\ntls_fingerprint 01:23\nset_from_header on\n\
        allow_from_override on\nlogfile /other.log\ndomain box.example\n\
        account plain\nhost 127.0.0.1\nport {port}\ntls off\nauth off\nuser x\npassword y\n\
        account token : base\nauth xoauth2\npassword t\nproxy_host 10.0.0.1\n\
        account default : plain\naliases /etc/aliases.msmtp\nauto_from on\nmaildomain example.com\nsyslog LOG_MAIL\n"
    );
    let file = world.write("home/.msmtprc", &rc);
    let done = world.run(&["--import-msmtprc"], b"");
    let expected = format!(
        "# Converted from the configuration of msmtp.\ndefault-account = \"default\"\n\
        aliases = \"/etc/aliases.msmtp\"\ndomain = \"example.com\"\nlog = \"~/.msmtp.log\"\n\
        # account other: log = \"/other.log\" (not supported: one for all accounts)\n\n\
        [account.\"default\"]\nurl = \"smtp://127.0.0.1:{port}?tls=none\"\ntimeout = 30\n\n\
        [account.\"base\"]\nurl = \"smtp://mail.example.org:587?tls=required\"\nuser = \"joe\"\n\
        password = \"hunter 2\\\\\"\nfrom = \"joe@example.org\"\ntimeout = 30\n\n\
        [account.\"other\"]\nurl = \"smtps://[::1]:465\"\nauth = \"SCRAM-SHA-256\"\nuser = \"joe\"\n\
        password-command = [\"sh\", \"-c\", \"pass show \\\"mail\\\"\"]\nca-file = \"~/ca.pem\"\nsystem-cas = false\n\
        senders = [\"@example.net\"]\nhello-name = \"box.example\"\ntimeout = 30\n\
        # not supported: tls_fingerprint 01:23\n# not supported: set_from_header on\n\n\
        [account.\"plain\"]\nurl = \"smtp://127.0.0.1:{port}?tls=none\"\ntimeout = 30\n\n\
        [account.\"token\"]\nurl = \"smtp://mail.example.org:587?tls=required\"\nauth = \"XOAUTH2\"\n\
        # user = \"joe\" # add token-command or token-file\nproxy = \"socks5://10.0.0.1:1080\"\nfrom = \"joe@example.org\"\ntimeout = 30\n"
    );
    assert_eq!((done.code, done.out, &*done.err), (Some(0), expected.clone(), ""));

    // It is a valid configuration, and the one that it says. Without TLS, `?tls=required` is an error.
    if HAS_TLS {
        world.user(&expected.replace("log = \"~/.msmtp.log\"", "log = \"none\""));
        is_sent(&world.run(&["-f", "a@example.org", "-a", "plain", "b@example.org"], HI));
        assert_eq!((sink.one().auth.as_str(), world.run(&["--print-config"], b"").code), ("", Some(0)));
    }

    let named = format!("--import-msmtprc={}", file.display());
    world.write("home/.msmtprc", "host mail.example.org\naccount x : y\n");
    fails(
        &world.run(&[&named], b""),
        78,
        "/home/.msmtprc, line 2: an account inherits from one that is not known",
    );
    world.write("home/.msmtprc", "host mail.example.org\nsocket /run/x\neval echo\n");
    let done = world.run(&[&named], b"");
    assert!(
        done.out.contains("[account.\"default\"]\nurl = \"smtp+unix:/run/x\"\n# not supported: eval echo\n"),
        "{done:?}"
    );
    fs::remove_file(&file).unwrap();
    fails(&world.run(&[&named], b""), 78, "/home/.msmtprc: No such file");
}

#[test]
fn a_proxy_is_used_and_its_password_is_secret() {
    let world = World::new();
    for configuration in [
        "url = \"smtp://mail.example.org\"\nproxy = \"http://joe:hunter2@127.0.0.1:1\"\n",
        "url = \"smtp://mail.example.org?proxy=http%3A%2F%2Fjoe%3Ahunter2%40127.0.0.1%3A1\"\n",
    ] {
        world.user(configuration);
        let done = world.run(&["b@example.org"], HI);
        fails(&done, 75, "could not connect to the proxy http://127.0.0.1:1:");
        let printed = world.run(&["--print-config"], b"");
        assert_eq!(printed.code, Some(0));
        assert!(printed.out.contains("********") && printed.out.contains("mail.example.org"), "{printed:?}");
        for text in [&done.err, &printed.out, &printed.err] {
            assert!(!text.contains("hunter2"), "{text}");
        }
        world.chmod("home/.config/postino.conf", 0o644);
        fails(&world.run(&["b@example.org"], HI), 78, "can be read by everyone");
    }
}

#[test]
fn an_invalid_proxy_is_reported_when_the_configuration_is_read() {
    let world = World::new();
    for (proxy, why) in [
        ("joe:hunter2@proxy.example:1080", "scheme"),
        ("socks5://joe:hunter2%@proxy.example", "two hexadecimal digits"),
        ("http://joe:hunter2@proxy.example", "needs a port"),
        ("socks5://joe:hunter2@proxy.example&tls=none", "invalid"),
    ] {
        world.user(&format!("url = \"smtp://mail.example.org\"\nproxy = \"{proxy}\"\n"));
        for args in [&["b@example.org"][..], &["--print-config"]] {
            let done = world.run(args, HI);
            fails(&done, 78, "postino.conf, line 2: ");
            assert!(done.err.contains(why) && !done.err.contains("hunter2"), "{done:?}");
            assert_eq!(done.out, "");
        }
    }
    world.user("url = \"smtp://mail.example.org\"\nproxy = \"socks5://j%26oe:hunter2%25@proxy.example\"\n");
    let done = world.run(&["--print-config"], b"");
    assert!(done.out.contains("\nproxy = \"socks5://********@proxy.example\"\n"), "{done:?}");
}

/// `script` runs the program with a terminal as its standard output.
#[test]
fn a_password_of_msmtp_is_not_printed_on_a_terminal() {
    let world = World::new();
    let rc = "account a\nhost h\nauth on\nuser joe\npassword hunter2\n\
        account b\nhost h\nauth on\nuser joe\npasswordeval echo hunter2\neval echo password hunter2\n";
    world.write("home/.msmtprc", rc);
    let mut command = std::process::Command::new("script");
    let line = format!("{} --import-msmtprc", world::PROGRAM);
    command.args(["-qec", &line, "/dev/null"]).env("HOME", world.root.join("home"));
    let Ok(output) = command.output() else { return world::skipped("script is not installed") };
    let text = String::from_utf8_lossy(&output.stdout);
    for key in ["password", "password-command"] {
        let line = format!("\n{key} = \"********\" # written only if the output is redirected");
        assert!(text.contains(&line), "{text}");
    }
    assert!(text.contains("# not supported: eval ********"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}
