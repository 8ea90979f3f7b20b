//! The spool of the program: what cannot be sent is kept, and nothing is lost or sent twice, whenever the program is killed.

mod world;

use std::{
    collections::HashMap,
    env, fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use world::{Sink, World};

/// A small generator of random numbers (splitmix64), so that a seed repeats a run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

/// A server that counts the messages with each token. Until it is told to behave, it refuses, closes and delays at random.
#[derive(Clone)]
struct Server {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Number of stored messages for each token; bounces have the token of the message that they return.
    stored: Mutex<HashMap<String, usize>>,
    bounces: Mutex<HashMap<String, usize>>,
    behaves: AtomicBool,
}

impl Server {
    fn start(seed: u64) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        let state = Arc::clone(&server.state);
        thread::spawn(move || {
            for (n, socket) in listener.incoming().enumerate() {
                let state = Arc::clone(&state);
                let mut random = Random(seed ^ n as u64);
                // A client that was killed ends the conversation with an error.
                thread::spawn(move || drop(state.talk(&socket.unwrap(), &mut random)));
            }
        });
        server
    }
}

impl State {
    fn talk(&self, socket: &TcpStream, random: &mut Random) -> std::io::Result<()> {
        let mut out = socket;
        let mut lines = BufReader::new(socket).lines();
        out.write_all(b"220 localhost ESMTP\r\n")?;
        let (mut is_bounce, mut has_recipient) = (false, false);
        while let Some(line) = lines.next() {
            let line = line?;
            let mood = if self.behaves.load(Ordering::Relaxed) { 99 } else { random.below(20) };
            let reply = match (&line.to_ascii_uppercase()[..4.min(line.len())], mood) {
                (_, 0) => return Ok(()), // closes
                ("MAIL" | "RCPT", 1) => "451 4.3.0 later",
                ("RCPT", 2) if !is_bounce => "550 5.1.1 no such user",
                ("DATA", _) if !has_recipient => "503 5.5.1 no recipients",
                ("DATA", _) => {
                    out.write_all(b"354 go on\r\n")?;
                    let token = read_message(&mut lines)?;
                    match mood {
                        3 => "452 4.3.1 full",
                        _ => {
                            let place = if is_bounce { &self.bounces } else { &self.stored };
                            *place.lock().unwrap().entry(token).or_default() += 1;
                            thread::sleep(Duration::from_micros(random.below(2000)));
                            if mood == 4 {
                                return Ok(()); // stored, and nobody is told
                            }
                            "250 2.0.0 stored"
                        }
                    }
                }
                ("EHLO", _) => "250-localhost\r\n250-PIPELINING\r\n250 8BITMIME",
                ("QUIT", _) => "221 bye",
                _ => "250 ok",
            };
            if line.starts_with("MAIL") {
                (is_bounce, has_recipient) = (line.contains("<>"), false);
            }
            has_recipient |= line.starts_with("RCPT") && reply == "250 ok";
            out.write_all(format!("{reply}\r\n").as_bytes())?;
        }
        Ok(())
    }
}

/// Reads a message to its end, and returns its token.
fn read_message(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> std::io::Result<String> {
    let mut token = String::new();
    for line in lines {
        let line = line?;
        if line == "." {
            return Ok(token);
        }
        if let Some(found) = line.strip_prefix("X-Token: ") {
            found.clone_into(&mut token);
        }
    }
    Err(std::io::ErrorKind::UnexpectedEof.into())
}

/// Writes a configuration with a spool whose messages are always due.
fn configure(world: &World, port: u16) {
    let spool = world.root.join("spool");
    let spool = spool.display();
    world.system(&format!(
        "url = \"smtp://127.0.0.1:{port}\"\nspool = \"{spool}\"\nretry = [\"0s\"]\nlog = \"none\"\n"
    ));
}

fn spawn(world: &World, args: &[&str], message: &str) -> Child {
    let mut command = world.command(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // A child that is killed does not read to the end.
    let mut stdin = child.stdin.take().unwrap();
    let message = message.to_owned();
    thread::spawn(move || drop(stdin.write_all(message.as_bytes())));
    child
}

/// Kills the child after a random time, or lets it end. Returns whether it ended with exit code 0.
fn end(mut child: Child, random: &mut Random) -> bool {
    if random.below(2) == 0 {
        thread::sleep(Duration::from_micros(random.below(12_000)));
        child.kill().unwrap();
    }
    child.wait().unwrap().success()
}

/// The files in a folder of the spool.
fn entries(world: &World, folder: &str) -> Vec<String> {
    let files = fs::read_dir(world.root.join("spool").join(folder)).unwrap();
    files.map(|file| String::from_utf8_lossy(&fs::read(file.unwrap().path()).unwrap()).into_owned()).collect()
}

/// The tokens of the messages in a folder of the spool.
fn tokens(world: &World, folder: &str) -> Vec<String> {
    let text = entries(world, folder).into_iter();
    text.filter_map(|text| Some(text.split_once("X-Token: ")?.1.lines().next()?.to_owned())).collect()
}

/// The number of kills is that of `$KILLS`, else 200.
#[test]
fn nothing_is_lost_or_sent_twice_whenever_the_program_is_killed() {
    let setting = |name: &str, default| env::var(name).map_or(default, |text| text.parse().unwrap());
    let (rounds, seed): (u64, u64) = (setting("KILLS", 200), setting("SEED", 1));
    let (world, mut random, server) = (World::new(), Random(seed), Server::start(seed));
    configure(&world, server.port);
    let mut accepted = Vec::new();
    for n in 0..rounds {
        let token = format!("token-{n}");
        let body = "A line of text.\n".repeat(1 + random.below(2000) as usize);
        let message = format!("From: a@example.org\nTo: b@example.net\nX-Token: {token}\n\n{body}");
        let child = spawn(&world, &["-f", "a@example.org", "b@example.net"], &message);
        if end(child, &mut random) {
            accepted.push(token);
        }
        if random.below(2) == 0 {
            let others = [spawn(&world, &["-q"], ""), spawn(&world, &["-q"], "")];
            for child in others {
                end(child, &mut random);
            }
        }
    }
    server.state.behaves.store(true, Ordering::Relaxed);
    for _ in 0..5 {
        assert!(spawn(&world, &["-q"], "").wait().unwrap().success());
    }

    assert_eq!(tokens(&world, "queue"), <[String; 0]>::default());
    let (doubt, failed) = (tokens(&world, "doubt"), tokens(&world, "failed"));
    let (stored, bounces) = (server.state.stored.lock().unwrap(), server.state.bounces.lock().unwrap());
    let count = |list: &[String], token: &str| list.iter().filter(|found| *found == token).count();
    let mut sums = [0; 3];
    for token in &accepted {
        let sent = stored.get(token).copied().unwrap_or(0);
        let returned = bounces.get(token).copied().unwrap_or(0) + count(&failed, token);
        let fate = (sent, count(&doubt, token), returned);
        match fate {
            (1, 0, 0) => sums[0] += 1,
            (0 | 1, 1, 0) => sums[1] += 1,
            // A bounce can be in doubt itself, and then shows in that folder.
            (0, 0 | 1, 0 | 1) if fate != (0, 0, 0) => sums[2] += 1,
            _ => panic!("{token}: stored {sent} times, in doubt and returned: {fate:?} (seed {seed})"),
        }
    }
    for (token, sent) in stored.iter() {
        assert!(*sent <= 1, "{token} was stored {sent} times (seed {seed})");
    }
    println!(
        "{rounds} messages, accepted: {}, of these stored once {}, in doubt {}, returned {}",
        accepted.len(),
        sums[0],
        sums[1],
        sums[2]
    );
    assert!(sums[0] > 0 && accepted.len() < rounds as usize, "the test killed nothing, or everything");
}

#[test]
fn messages_that_cannot_be_sent_now_are_kept_and_shown_by_mailq() {
    let world = World::new();
    configure(&world, 1);
    let message = b"From: a@example.org\nTo: b@example.net\nX-Token: 1\n\nHello\n";
    let done = world.run(&["-v", "-f", "a@example.org", "b@example.net"], message);
    assert_eq!(done.code, Some(0), "{done:?}");
    let list = world.run(&["-bp"], b"");
    assert!(
        list.out.contains("from <a@example.org>, tried once,") && list.out.contains("<b@example.net>"),
        "{list:?}"
    );

    let server = Server::start(1);
    server.state.behaves.store(true, Ordering::Relaxed);
    configure(&world, server.port);
    assert_eq!(world.run(&["-q"], b"").code, Some(0));
    assert_eq!(world.run(&["-bp"], b"").out, "Mail queue is empty\n\t\tTotal requests: 0\n");
    assert_eq!(server.state.stored.lock().unwrap()["1"], 1);
}

#[test]
fn queue_turns_the_spool_on() {
    let world = World::new();
    world.system("url = \"smtp://127.0.0.1:1\"\n");
    let done = world.run(&["--queue", "-f", "a@example.org", "b@example.net"], b"Subject: x\n\n");
    assert_eq!((done.code, &*done.err), (Some(0), ""), "{done:?}");
    assert_eq!(fs::read_dir(world.root.join("var/spool/postino/queue")).unwrap().count(), 1);

    // The other modes find it without the option.
    let list = world.run(&["-bp"], b"");
    assert!(list.code == Some(0) && list.out.ends_with("\n\t\tTotal requests: 1\n"), "{list:?}");
    let id = list.out.split(' ').next().unwrap();
    assert_eq!(world.run(&["-q"], b"").code, Some(0), "not due");
    assert_eq!(world.run(&["--flush"], b"").code, Some(75));
    assert_eq!(world.run(&["--remove", id], b"").code, Some(0));
    assert_eq!(world.run(&["-bp"], b"").out, "Mail queue is empty\n\t\tTotal requests: 0\n");
}

/// Serves sessions that refuse the login. Returns the port.
fn refusing_the_login() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let socket = socket.unwrap();
            let mut out = &socket;
            out.write_all(b"220 localhost\r\n").unwrap();
            for line in BufReader::new(&socket).lines().map_while(Result::ok) {
                let reply = match &line[..4] {
                    "EHLO" => "250-localhost\r\n250 AUTH PLAIN",
                    "AUTH" => "535 5.7.8 wrong password",
                    _ => "221 bye",
                };
                out.write_all(format!("{reply}\r\n").as_bytes()).unwrap();
            }
        }
    });
    port
}

/// Cron sends what a job prints by mail, which would go into the spool.
#[test]
fn a_run_that_sends_nothing_exits_with_75_and_only_flush_says_why() {
    let world = World::new();
    for (port, why) in
        [(1, "could not connect to 127.0.0.1:1"), (refusing_the_login(), "535 5.7.8 wrong password")]
    {
        configure(&world, port);
        let config = fs::read_to_string(world.root.join("etc/postino.conf")).unwrap();
        world.system(&format!("{config}user = \"u\"\npassword = \"hunter2\"\n"));
        for _ in 0..2 {
            let done = world.run(&["-f", "a@example.org", "b@example.net"], b"Subject: x\n\n");
            assert_eq!((done.code, &*done.err), (Some(0), ""), "{done:?}");
        }
        let done = world.run(&["-q"], b"");
        assert_eq!((done.code, &*done.out, &*done.err), (Some(75), "", ""));
        let done = world.run(&["--flush"], b"");
        assert_eq!((done.code, &*done.out, done.err.lines().count()), (Some(75), "", 1), "{done:?}");
        assert!(done.err.contains(why), "{done:?}");
    }

    // The server can be reached, and wants one message later.
    fs::remove_dir_all(world.root.join("spool")).unwrap();
    let sink = Sink::start();
    configure(&world, sink.port);
    assert_eq!(world.run(&["-f", "a@example.org", "b@later.example"], b"Subject: x\n\n").code, Some(0));
    let done = world.run(&["-q"], b"");
    assert_eq!((done.code, &*done.out, &*done.err), (Some(0), "", ""));
    let done = world.run(&["--flush"], b"");
    assert!(done.code == Some(0) && done.err.contains("450 4.2.0 later"), "{done:?}");
}

/// monitoring-plugins' `check_mailq` fails if the exit code is not 0, and counts by this line.
#[test]
fn mailq_ends_with_the_number_of_messages() {
    let world = World::new();
    world.system("url = \"smtp://127.0.0.1:1\"\n");
    let done = world.run(&["-bp"], b"");
    let expected = "Mail queue is empty (there is no spool)\n\t\tTotal requests: 0\n";
    assert_eq!((done.code, &*done.out, &*done.err), (Some(0), expected, ""), "{done:?}");
    configure(&world, 1);
    for number in 1..=2 {
        world.run(&["-f", "a@example.org", "b@example.net"], b"Subject: x\n\n");
        let done = world.run(&["-bp"], b"");
        assert!(done.code == Some(0) && done.out.contains("from <a@example.org>"), "{done:?}");
        assert!(done.out.ends_with(&format!("\n\t\tTotal requests: {number}\n")), "{done:?}");
    }
}

#[test]
fn without_a_spool_its_options_are_an_error() {
    let world = World::new();
    world.system("url = \"smtp://127.0.0.1:1\"\n");
    for args in [&["-q"][..], &["--resend", "X"]] {
        let done = world.run(args, b"");
        assert_eq!(
            (done.code, done.err.contains("there is no spool"), done.err.contains("--queue")),
            (Some(78), true, true),
            "{args:?}: {done:?}"
        );
    }
    let done = world.run(&["-f", "a@example.org", "b@example.net"], b"Subject: x\n\n");
    assert_eq!(done.code, Some(75), "{done:?}");
}

#[test]
fn a_permanent_refusal_sets_the_exit_code_and_nothing_is_kept() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    configure(&world, listener.local_addr().unwrap().port());
    thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let mut out = &socket;
        out.write_all(b"220 localhost\r\n").unwrap();
        for line in BufReader::new(&socket).lines().map_while(Result::ok) {
            let reply = if line.starts_with("RCPT") { "550 5.1.1 no such user\r\n" } else { "250 ok\r\n" };
            if out.write_all(reply.as_bytes()).is_err() {
                return;
            }
        }
    });
    let done = world.run(&["-f", "a@example.org", "b@example.net"], b"Subject: x\n\n");
    assert_eq!(done.code, Some(67), "{done:?}");
    assert_eq!(world.run(&["-bp"], b"").out, "Mail queue is empty\n\t\tTotal requests: 0\n");
}

#[test]
fn a_message_for_all_or_none_is_not_kept_for_some() {
    const TO: [&str; 2] = ["x@refused.example", "b@example.net"];
    let (world, sink) = (World::new(), Sink::start());
    configure(&world, sink.port);
    let options = ["--all-or-nothing", "-f", "a@example.org", TO[0], TO[1]];
    let done = world.run(&options, b"Subject: x\n\n");
    assert_eq!(done.code, Some(67), "{done:?}");
    let session = format!(
        "EHLO h\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<{}>\r\nRCPT TO:<{}>\r\nDATA\r\nSubject: x\r\n\r\n.\r\nQUIT\r\n",
        TO[0], TO[1]
    );
    let done = world.run(&["-bs"], session.as_bytes());
    assert!(done.out.contains("\n554 5.3.0"), "{done:?}");
    assert_eq!(world.run(&["-q"], b"").code, Some(0));
    assert_eq!(sink.take(), []);

    // It was kept for all, because the server could not be reached.
    configure(&world, 1);
    assert_eq!(world.run(&options, b"Subject: x\n\n").code, Some(0));
    configure(&world, sink.port);
    for _ in 0..3 {
        world.run(&["-q"], b"");
    }
    let bounce = sink.one();
    assert_eq!((&*bounce.sender, &*bounce.recipients), ("", &["a@example.org".to_owned()][..]));
    assert!(bounce.content.contains("another recipient was refused"), "{bounce:?}");
    assert_eq!(world.run(&["-bp"], b"").out, "Mail queue is empty\n\t\tTotal requests: 0\n");
}

/// Serves one session that accepts everything except for recipients at `later.example`, and calls a function before the
/// reply to the message. Returns the port.
fn before_the_reply(act: impl FnOnce() + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let (mut out, mut act) = (&socket, Some(act));
        out.write_all(b"220 localhost\r\n").unwrap();
        let mut lines = BufReader::new(&socket).lines().map_while(Result::ok);
        while let Some(line) = lines.next() {
            let mut reply = "250 ok";
            if line.starts_with("RCPT") && line.contains("@later.example") {
                reply = "450 4.2.0 later";
            } else if line == "DATA" {
                out.write_all(b"354 go on\r\n").unwrap();
                lines.find(|line| line == ".");
                act.take().unwrap()();
            } else if line == "QUIT" {
                reply = "221 bye";
            }
            if out.write_all(format!("{reply}\r\n").as_bytes()).is_err() {
                return;
            }
        }
    });
    port
}

#[test]
fn what_was_accepted_is_not_reported_as_a_temporary_failure_if_the_spool_fails() {
    for (others, code, rest) in [(None, 0, ""), (Some("b@later.example"), 74, "450 4.2.0")] {
        let world = World::new();
        let tmp = world.root.join("spool/tmp");
        configure(&world, before_the_reply(move || fs::rename(&tmp, tmp.with_extension("gone")).unwrap()));
        let mut args = vec!["--json", "-f", "a@example.org", "b@example.net"];
        args.extend(others);
        let done = world.run(&args, b"Subject: x\n\n");
        assert_eq!(done.code, Some(code), "{done:?}");
        assert!(done.err.contains("/spool: No such file"), "{done:?}");
        assert!(done.out.contains("\"recipient\":\"b@example.net\",\"outcome\":\"accepted\""), "{done:?}");
        assert!(done.out.contains(rest), "{done:?}");
    }
}

/// The size of files is limited, as by a disk that is full: once for the message itself, once for what is written later.
#[test]
fn on_a_full_disk_nothing_is_accepted_or_lost() {
    let (world, sink) = (World::new(), Sink::start());
    for (to, port) in [
        (&["b@example.net"][..], sink.port),
        (&["b@example.net"], 1),
        (&["b@later.example"], sink.port),
        (&["b@example.net", "b@later.example"], sink.port),
        (&["b@example.net", "b@refused.example"], sink.port),
    ] {
        configure(&world, port);
        let mut codes = Vec::new();
        for size in (280..520).step_by(16) {
            // The limit is in blocks of 512 octets. What exceeds it is an error if the signal is ignored.
            let script = "trap '' XFSZ; ulimit -f 2; exec \"$0\" \"$@\"";
            let mut command = std::process::Command::new("sh");
            command.args(["-c", script, world::PROGRAM, "-f", "a@example.org"]).args(to);
            command.env("POSTINO_ROOT", &world.root).env("HOME", world.root.join("home"));
            let message = format!("Date: x\nMessage-ID: <a@b>\nFrom: a@b\n\n{}", "x".repeat(400 + size));
            let done = world::finish(command, message.as_bytes());
            let (sent, queued) = (sink.take(), entries(&world, "queue").len());
            let code = done.code.unwrap();
            codes.push(code);
            let to_some = usize::from(port != 1 && to[0] != "b@later.example");
            match code {
                0 => assert_eq!(sent.len() + queued, to.len(), "{size} {done:?}"),
                // The record is lost, and not the result.
                67 | 74 => assert_eq!((sent.len(), queued), (to_some, 0), "{size} {done:?}"),
                75 => assert_eq!((sent.len(), queued), (0, 0), "{size} {done:?}"),
                _ => panic!("{size} {done:?}"),
            }
            if code == 75 || code == 0 && queued == 0 {
                assert_eq!(entries(&world, "tmp").len(), 0, "{size} {done:?}");
            }
            for place in ["tmp", "queue"] {
                for file in fs::read_dir(world.root.join("spool").join(place)).unwrap() {
                    fs::remove_file(file.unwrap().path()).unwrap();
                }
            }
        }
        codes.dedup();
        let expected: &[i32] = match (to.len(), to.last()) {
            (1, _) => &[0, 75],
            (_, Some(&"b@later.example")) => &[0, 74, 75],
            _ => &[67, 75],
        };
        assert_eq!(codes, expected, "{to:?}");
    }
}

#[test]
fn a_message_that_is_being_sent_is_not_shown_as_in_doubt() {
    let world = World::new();
    configure(&world, 1);
    assert_eq!(world.run(&["-f", "a@example.org", "b@example.net"], b"Subject: x\n\n").code, Some(0));
    let (reached, has_reached) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    configure(
        &world,
        before_the_reply(move || {
            reached.send(()).unwrap();
            let _ = may_go_on.recv(); // until it is dropped
        }),
    );
    let runner = spawn(&world, &["-q"], "");
    has_reached.recv().unwrap();
    let list = world.run(&["-bp"], b"").out;
    assert!(list.contains(" being sent\n") && !list.contains("DOUBT"), "{list}");
    drop(go_on);
    assert!(runner.wait_with_output().unwrap().status.success());
    assert_eq!(world.run(&["-bp"], b"").out, "Mail queue is empty\n\t\tTotal requests: 0\n");

    // The same message, if the process is killed.
    configure(&world, 1);
    assert_eq!(world.run(&["-f", "a@example.org", "b@example.net"], b"Subject: x\n\n").code, Some(0));
    let (reached, has_reached) = mpsc::channel();
    configure(
        &world,
        before_the_reply(move || {
            reached.send(()).unwrap();
            thread::park();
        }),
    );
    let mut runner = spawn(&world, &["-q"], "");
    has_reached.recv().unwrap();
    runner.kill().unwrap();
    runner.wait().unwrap();
    let list = world.run(&["-bp"], b"").out;
    assert!(list.contains(" IN DOUBT: "), "{list}");
}

#[test]
fn the_log_says_which_messages_were_sent_and_which_are_queued() {
    let (world, sink) = (World::new(), Sink::start());
    let log = world.root.join("log");
    let sent_to = |to: &[&str], port: u16, with_spool: bool, args: &[&str]| {
        let spool = format!("spool = \"{}\"\nretry = [\"0s\"]\n", world.root.join("spool").display());
        let spool = if with_spool { &*spool } else { "" };
        let log = log.display();
        world.system(&format!("url = \"smtp://127.0.0.1:{port}\"\nlog = \"{log}\"\n{spool}"));
        world.run(&[args, to].concat(), b"Subject: x\n\n");
        let text = fs::read_to_string(world.root.join("log")).unwrap();
        fs::remove_file(world.root.join("log")).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    };
    let from = &["-f", "a@example.org"];
    for (to, port, with_spool, status) in [
        (&["b@example.net"][..], sink.port, false, "sent code=0"),
        (&["b@example.net"], sink.port, true, "sent code=0"),
        (&["b@example.net"], 1, true, "queued code=0"),
        (&["b@example.net"], 1, false, "deferred code=75"),
        (&["b@refused.example"], sink.port, true, "failed code=67"),
        (&["b@refused.example", "b@later.example"], sink.port, true, "queued code=67"),
        (&["b@example.net", "b@later.example"], sink.port, true, "partly-sent code=0"),
        (&["b@example.net", "b@later.example"], sink.port, false, "partly-sent code=67"),
        (&["b@example.net", "b@refused.example"], sink.port, true, "partly-sent code=67"),
    ] {
        let line = sent_to(to, port, with_spool, from);
        assert!(line.contains(&format!(" status={status} (")), "{to:?}: {line}");
        let is_queued = with_spool && (port == 1 || to.contains(&"b@later.example"));
        assert_eq!(line.contains("in the spool as"), is_queued, "{line}");
        if is_queued {
            // Sent by the next run, or not.
            let is_later = to.contains(&"b@later.example");
            let line = sent_to(&[], sink.port, true, &["-q"]);
            let status = if is_later { "deferred code=75" } else { "sent code=0" };
            assert!(line.contains(&format!(" status={status} (")), "{to:?}: {line}");
            fs::remove_dir_all(world.root.join("spool")).unwrap();
        }
    }
    // Some recipients of a message in the spool.
    sent_to(&["b@example.net", "c@later.example"], 1, true, from);
    let line = sent_to(&[], sink.port, true, &["-q"]);
    assert!(line.contains(" status=partly-sent code=67 (c@later.example "), "{line}");
}

#[test]
fn a_spool_that_is_full_accepts_nothing() {
    let world = World::new();
    configure(&world, 1);
    let config = fs::read_to_string(world.root.join("etc/postino.conf")).unwrap();
    world.system(&format!("{config}spool-max-messages = 1\n"));
    let send = || world.run(&["-f", "a@example.org", "b@example.net"], b"Subject: x\n\n");
    assert_eq!(send().code, Some(0));
    let done = send();
    assert_eq!((done.code, done.err.contains("the spool is full")), (Some(75), true), "{done:?}");
}
