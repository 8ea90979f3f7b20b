//! The program as its users see it: its dialogue with a server, its output and its exit codes, with both clients.

#[path = "../../../tests/support/mod.rs"]
mod support;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

/// Limit of every wait in these tests.
const PATIENCE: Duration = Duration::from_secs(20);

const HI: &[u8] = b"From: a@example.org\nTo: b@example.org\nSubject: Hi\n\nHello!\n";

/// The program, which cargo builds with the features of this test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_sendmail");

/// The result of one run. `wire` is the message as the server received it, with doubled dots, without the final dot.
#[derive(Debug, PartialEq)]
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
    wire: Vec<u8>,
}

/// The program without any configuration. These tests compare each octet, so it adds no header fields; `configuration.rs` tests what
/// it adds.
fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(["--as-is"]).env("POSTINO_ROOT", "/dev/null/nowhere").env("HOME", "/dev/null/nowhere");
    command
}

fn start(args: &[&str], stdin: Stdio) -> Child {
    let mut command = program();
    command
        .args(args)
        .env("SMTP_URL", "smtp://127.0.0.1:1")
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn finish(mut child: Child, message: &[u8]) -> Done {
    let (stdin, message) = (child.stdin.take(), message.to_vec());
    let writer = thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&message)));
    let output = child.wait_with_output().unwrap();
    drop(writer.join().unwrap()); // after an early error the program does not read its input to the end
    Done {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
        wire: Vec::new(),
    }
}

/// Runs the program without a server.
fn run(args: &[&str], message: &[u8]) -> Done {
    finish(start(args, Stdio::piped()), message)
}

/// Runs the program with both clients, each with a server that plays the script. Their results must be equal.
fn send(script: &str, args: &[&str], message: &[u8]) -> Done {
    let done = send_from(Stdio::piped, script, args, message);
    if cfg!(feature = "async") {
        let args = [&["--async"], args].concat();
        let mut awaited = send_from(Stdio::piped, script, &args, message);
        if script.ends_with("(closes)") && awaited.code == Some(75) {
            // Whether the connection is reported as closed or as reset depends on timing.
            (awaited.out, awaited.err) = (done.out.clone(), done.err.clone());
        }
        assert_eq!(awaited, done);
    }
    done
}

/// PORT in an argument is replaced by the server's port.
fn send_from(stdin: impl Fn() -> Stdio, script: &str, args: &[&str], message: &[u8]) -> Done {
    let server = Server::plays(script);
    let port = server.port.to_string();
    let args: Vec<_> =
        ["-s", "smtp://127.0.0.1:PORT"].iter().chain(args).map(|arg| arg.replace("PORT", &port)).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let done = finish(start(&args, stdin()), message);
    let wire = server.wire(&done);
    Done { wire, err: done.err.replace(&port, "PORT"), ..done }
}

/// A server for one connection, with a script:
///
/// ```text
/// S: a line that it sends
/// C: a line that it expects, or with a * at the end, the start of the line
/// C: (the message)
/// (closes) or (drips), without end; otherwise it reads on to the end
/// ```
struct Server {
    port: u16,
    wire: mpsc::Receiver<Result<Vec<u8>, String>>,
}

impl Server {
    fn plays(script: &str) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, wire) = mpsc::channel();
        let script = script.to_owned();
        thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            tell.send(play(&socket, &script)).unwrap();
        });
        Server { port, wire }
    }

    fn wire(self, done: &Done) -> Vec<u8> {
        match self.wire.recv_timeout(PATIENCE) {
            Ok(Ok(wire)) => wire,
            Ok(Err(off)) => panic!("{off}; {done:?}"),
            Err(e) => panic!("the server was not spoken with: {e}; {done:?}"),
        }
    }
}

fn play(mut socket: &TcpStream, script: &str) -> Result<Vec<u8>, String> {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut reader = BufReader::new(socket);
    let (mut wire, mut unsaid) = (Vec::new(), String::new());
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(text) = line.strip_prefix("S: ") {
            if !reader.buffer().is_empty() {
                return Err(format!("it did not wait for {text:?}"));
            }
            unsaid += &format!("{text}\r\n");
            continue;
        }
        drop(socket.write_all(unsaid.as_bytes())); // the next line shows whether the client received it
        unsaid.clear();
        match line.strip_prefix("C: ") {
            Some("(the message)") => loop {
                match read_line(&mut reader)?.as_slice() {
                    b".\r\n" => break,
                    line => wire.extend_from_slice(line),
                }
            },
            Some(expected) => {
                let said = String::from_utf8_lossy(&read_line(&mut reader)?).trim_end().to_owned();
                match expected.strip_suffix('*') {
                    Some(start) if said.starts_with(start) => {}
                    None if said == expected => {}
                    _ => return Err(format!("it said {said:?}, and not {expected:?}")),
                }
            }
            None if line == "(drips)" => {
                while socket.write_all(b"2").is_ok() {
                    thread::sleep(Duration::from_millis(20));
                }
            }
            None => {
                assert_eq!(line, "(closes)");
                return Ok(wire);
            }
        }
    }
    drop(socket.write_all(unsaid.as_bytes()));
    drop(reader.read_to_end(&mut Vec::new())); // closing with unread input could discard the last replies
    Ok(wire)
}

fn read_line(reader: &mut impl BufRead) -> Result<Vec<u8>, String> {
    let mut line = Vec::new();
    match reader.read_until(b'\n', &mut line) {
        Ok(_) if line.ends_with(b"\r\n") => Ok(line),
        read => Err(format!("it said {:?}, and no more: {read:?}", line.escape_ascii().to_string())),
    }
}

/// A server with 8BITMIME, up to the start of the message: HELLO, MAIL and one recipient.
const HELLO: &str = "
    S: 220 mail.example.org
    C: EHLO *
    S: 250-mail.example.org
    S: 250 8BITMIME
";
const MAIL: &str = "
    C: MAIL FROM:<a@example.org>
    S: 250 OK
";
const RCPT: &str = "
    C: RCPT TO:<b@example.org>
    S: 250 OK
";
const DATA: &str = "
    C: DATA
    S: 354 Go on
    C: (the message)
    S: 250 OK queued as 4711
";
const QUIT: &str = "
    C: QUIT
    S: 221 Bye
";
const RSET: &str = "
    C: RSET
    S: 250 OK
";

fn accepting() -> String {
    [HELLO, MAIL, RCPT, DATA, QUIT].concat()
}

/// Accepts the message for b after any MAIL, with or without 8BITMIME.
fn accepting_from(mail: &str) -> String {
    [HELLO, "C: ", mail, "\nS: 250 OK\n", RCPT, DATA, QUIT].concat()
}

const ARGS: &[&str] = &["-f", "a@example.org", "b@example.org"];

fn json(args: &[&'static str]) -> Vec<&'static str> {
    ["--json"].iter().chain(args).copied().collect()
}

// The message, octet by octet.

#[test]
fn a_message_is_sent_without_any_output() {
    let done = send(&accepting(), &["b@example.org"], HI);
    let wire = b"From: a@example.org\r\nTo: b@example.org\r\nSubject: Hi\r\n\r\nHello!\r\n".to_vec();
    assert_eq!(done, Done { code: Some(0), out: String::new(), err: String::new(), wire });
}

#[test]
fn non_ascii_octets_arrive_unchanged() {
    let script = accepting_from("MAIL FROM:<a@example.org> BODY=8BITMIME");
    let message = b"Subject: caf\xc3\xa9\r\n\r\n\xff\xfe\x80 \x7f\x01\r\n";
    let done = send(&script, ARGS, message);
    assert_eq!((done.code, done.wire.as_slice()), (Some(0), &message[..]));
}

#[test]
fn bare_line_ends_become_crlf() {
    let done = send(&accepting(), ARGS, b"A: 1\nB: 2\rC: 3\r\n\nx\r\ry");
    assert_eq!(done.code, Some(0));
    assert_eq!(done.wire.escape_ascii().to_string(), r"A: 1\r\nB: 2\r\nC: 3\r\n\r\nx\r\n\r\ny\r\n");
}

#[test]
fn a_lone_dot_does_not_end_the_message() {
    for flags in [&["-i"][..], &["-oi"], &[]] {
        let done = send(&accepting(), &[flags, ARGS].concat(), b"A: 1\n\nx\n.\n..\ny\n");
        assert_eq!(done.wire.escape_ascii().to_string(), r"A: 1\r\n\r\nx\r\n..\r\n...\r\ny\r\n");
    }
}

#[test]
fn long_lines_are_not_broken() {
    let message = [b"A: 1\r\n\r\n", "x".repeat(100_000).as_bytes(), b"\r\n"].concat();
    assert!(send(&accepting(), ARGS, &message).wire == message);
}

#[test]
fn an_empty_message_is_sent_if_the_envelope_is_given() {
    assert_eq!(send(&accepting(), ARGS, b"").wire, b"\r\n");
    for args in [&["-t"][..], &["-f", "a@example.org", "-t"]] {
        assert_eq!(run(args, b"").code, Some(65), "{args:?}");
    }
    assert_eq!(run(&["-f", "a@example.org"], HI).code, Some(64), "nobody was named");
}

/// A message that is larger than what is kept in memory, with lines of all kinds.
fn big() -> (Vec<u8>, Vec<u8>) {
    let (mut message, mut wire) =
        (b"From: a@example.org\n\n".to_vec(), b"From: a@example.org\r\n\r\n".to_vec());
    for i in 0..60_000u32 {
        let line = format!("{}line {i} {}", if i % 7 == 0 { "." } else { "" }, "x".repeat(i as usize % 90));
        message.extend_from_slice(line.as_bytes());
        message.extend_from_slice(if i % 3 == 0 { b"\n" } else { b"\r\n" });
        wire.extend_from_slice(if i % 7 == 0 { b"." } else { b"" });
        wire.extend_from_slice(line.as_bytes());
        wire.extend_from_slice(b"\r\n");
    }
    assert!(message.len() > 3 * 1024 * 1024);
    (message, wire)
}

#[test]
fn megabytes_through_a_pipe_arrive_intact() {
    let (message, wire) = big();
    let done = send(&accepting_from("MAIL FROM:<a@example.org> BODY=8BITMIME"), &["b@example.org"], &message);
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    assert!(done.wire == wire);
}

#[test]
fn megabytes_in_a_file_arrive_intact_and_their_size_is_announced() {
    let (message, wire) = big();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sendmail-big-{}", std::process::id()));
    fs::write(&path, &message).unwrap();
    let mail = format!(
        "
        S: 220 mail.example.org
        C: EHLO *
        S: 250-mail.example.org
        S: 250 SIZE
        C: MAIL FROM:<a@example.org> SIZE={}
        S: 250 OK
        ",
        message.len()
    );
    let script = [&mail, RCPT, DATA, QUIT].concat();
    let worlds = [&[][..], &["--async"]];
    for world in &worlds[..=usize::from(cfg!(feature = "async"))] {
        let stdin = || File::open(&path).unwrap().into();
        let done = send_from(stdin, &script, &[world, ARGS].concat(), b"");
        assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
        assert!(done.wire == wire);
    }
    fs::remove_file(&path).unwrap();
}

/// Stdin stays open, and nothing more comes from it.
#[test]
fn a_server_that_closes_is_noticed_while_waiting_for_stdin() {
    let message = [b"From: a@example.org\r\n\r\n", &b"Some line of text\r\n".repeat(80_000)[..]].concat();
    for world in [None, Some("--async").filter(|_| cfg!(feature = "async"))] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("smtp://{}", listener.local_addr().unwrap());
        let sent = message.len();
        let server = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mail = "C: MAIL FROM:<a@example.org>*\nS: 250 OK\n";
            play(&socket, &[HELLO, mail, RCPT, "C: DATA\nS: 354 Go on\n(closes)"].concat()).unwrap();
            // All that is there leaves, though more of it may come.
            socket.read_exact(&mut vec![0; sent]).unwrap();
            socket.write_all(b"421 4.3.2 Shutting down\r\n").unwrap();
            drop(socket.read_to_end(&mut Vec::new()));
        });
        let args: Vec<&str> = world.into_iter().chain(["-s", &url]).chain(ARGS.iter().copied()).collect();
        let mut child = start(&args, Stdio::piped());
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&message).unwrap();
        let (over, is_over) = mpsc::channel::<()>();
        let holder = thread::spawn(move || {
            let ended = is_over.recv_timeout(PATIENCE);
            drop(stdin);
            ended
        });
        let output = child.wait_with_output().unwrap();
        let _gave_up_already = over.send(());
        assert!(holder.join().unwrap().is_ok(), "it waited for stdin");
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(75) && told.contains("421 4.3.2 Shutting down"), "{told}");
        server.join().unwrap();
    }
}

#[test]
fn messages_just_below_and_above_one_mebibyte_arrive() {
    for more in [-1i32, 0, 1, 2] {
        let mut message = b"From: a@example.org\r\n\r\n".to_vec();
        message.resize(((1 << 20) + more) as usize - 2, b'x');
        message.extend_from_slice(b"\r\n");
        let mail = match more {
            ..=0 => "MAIL FROM:<a@example.org>",
            _ => "MAIL FROM:<a@example.org> BODY=8BITMIME", // the content of a reader is unknown
        };
        let done = send(&accepting_from(mail), ARGS, &message);
        assert!(done.code == Some(0) && done.wire == message, "{more}: {:?} {}", done.code, done.err);
    }
}

/// At first, only 64 KiB of a large file are read.
#[test]
fn long_headers_of_a_large_file_are_read_to_their_end() {
    let (message, wire) = big();
    let long = b"X: some text\r\n".repeat(20_000);
    let to = b"To: b@example.org\r\n";
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sendmail-long-{}", std::process::id()));
    fs::write(&path, [&long, &to[..], &message].concat()).unwrap();
    let script = accepting_from("MAIL FROM:<a@example.org> BODY=8BITMIME");
    let done = send_from(|| File::open(&path).unwrap().into(), &script, &["-t"], b"");
    fs::remove_file(&path).unwrap();
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    assert!(done.wire == [&long, &to[..], &wire].concat());
}

/// RLIMIT_DATA includes all memory that is allocated.
#[cfg(target_os = "linux")]
#[test]
fn a_large_message_is_sent_with_little_memory() {
    let server = Server::plays(&accepting_from("MAIL FROM:<a@example.org> BODY=8BITMIME"));
    let mut message = b"From: a@example.org\r\nBcc: b@example.org\r\n\r\n".to_vec();
    message.extend_from_slice(&b"Some line of text\r\n".repeat(800_000));
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -d 8192 && exec \"$0\" \"$@\"", PROGRAM, "--as-is", "-t"])
        .envs([("POSTINO_ROOT", "/dev/null/nowhere"), ("HOME", "/dev/null/nowhere")])
        .env("SMTP_URL", format!("smtp://127.0.0.1:{}", server.port))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let done = finish(command.spawn().unwrap(), &message);
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    let wire = server.wire(&done);
    assert_eq!(wire.len(), message.len() - "Bcc: b@example.org\r\n".len());
}

#[test]
fn mbox_lines_before_the_headers_are_removed() {
    const FROM: &str = "From 0a0ae3e955ae Mon Sep 17 00:00:00 2001";
    let wire = send(&accepting(), ARGS, HI).wire;
    for before in [
        format!("{FROM}\n"),
        format!("{FROM}\r\n"),
        format!("{FROM}\r"),
        format!(">{FROM}\n"),
        format!("{FROM}\n>{FROM}\n>>{FROM}\n"),
        format!("{FROM}\n remote from x\n\tand y\n"),
    ] {
        let message = [before.as_bytes(), HI].concat();
        for args in [&["-t"][..], &["b@example.org"]] {
            let done = send(&accepting(), args, &message);
            assert!(done.code == Some(0) && done.wire == wire, "{before:?} {args:?} {done:?}");
        }
    }
}

#[test]
fn a_line_that_only_resembles_an_mbox_line_is_sent() {
    for message in [
        &b"From: a@example.org\r\nFrom x\r\n\r\nFrom y\r\n"[..],
        b"From\tx: 1\r\n\r\nFrom y\r\n",
        b"\r\nFrom y\r\n",
        b" From x\r\n\r\n",
    ] {
        let done = send(&accepting(), ARGS, message);
        assert!(done.code == Some(0) && done.wire == message, "{done:?}");
    }
}

#[test]
fn an_mbox_line_is_removed_from_a_message_too_large_for_memory() {
    let (message, wire) = big();
    let message = [b"From x Mon Sep 17 00:00:00 2001\n", &*message].concat();
    let done = send(&accepting_from("MAIL FROM:<a@example.org> BODY=8BITMIME"), &["b@example.org"], &message);
    assert!(done.code == Some(0) && done.wire == wire, "{:?} {}", done.code, done.err);
}

// The envelope.

#[test]
fn with_t_an_encoded_word_is_not_a_recipient() {
    for to in [
        "=?utf-8?q?J=C3=B6rg?= <b@example.org>, =?utf-8?q?Ann?=",
        "=?UTF-8?B?dG9ueUBleGFtcGxlLmNvbQ==?=",
        "<=?utf-8?q?b=40example.org?=>",
        "=?utf-8?q?b?=@example.org",
    ] {
        let done = run(&["-t"], format!("From: a@example.org\nTo: {to}\n\nHello\n").as_bytes());
        assert!(done.code == Some(65) && done.err.contains("To: invalid address"), "{to}: {done:?}");
    }
}

#[test]
fn bcc_gets_the_message_and_is_not_in_it() {
    let message = b"From: a@example.org\nTo: T <t@example.org>\nBCC: b1@example.org,\n b2@example.org\n\
        Cc: c@example.org\nSubject: Hi\n\nBcc: stays\n";
    let script = [
        HELLO,
        MAIL,
        "
        C: RCPT TO:<t@example.org>
        S: 250 OK
        C: RCPT TO:<c@example.org>
        S: 250 OK
        C: RCPT TO:<b1@example.org>
        S: 250 OK
        C: RCPT TO:<b2@example.org>
        S: 250 OK
        C: RCPT TO:<x@example.org>
        S: 250 OK
        ",
        DATA,
        QUIT,
    ];
    let done = send(&script.concat(), &["-ti", "x@example.org"], message);
    let expected = "From: a@example.org\r\nTo: T <t@example.org>\r\nCc: c@example.org\r\nSubject: Hi\r\n\r\nBcc: stays\r\n";
    assert_eq!((done.code, String::from_utf8(done.wire).unwrap()), (Some(0), expected.to_owned()));
}

#[test]
fn bcc_stays_when_the_recipients_are_given() {
    let message = b"From: a@example.org\r\nBcc: c@example.org\r\n\r\n";
    assert_eq!(send(&accepting(), &["b@example.org"], message).wire, message);
}

#[test]
fn with_t_and_no_recipients_in_the_headers_the_arguments_are_used() {
    assert_eq!(send(&accepting(), &["-t", "b@example.org"], b"From: a@example.org\n\n").code, Some(0));
}

#[test]
fn bcc_is_removed_from_a_message_too_large_for_memory() {
    let (message, wire) = big();
    let message = [b"Bcc: b@example.org\r\n", &*message].concat();
    let done = send(&accepting_from("MAIL FROM:<a@example.org> BODY=8BITMIME"), &["-t"], &message);
    assert!(done.code == Some(0) && done.wire == wire, "{:?} {}", done.code, done.err);
}

#[test]
fn the_sender_is_taken_from_the_headers_unless_given() {
    let message = b"From: x@example.org, y@example.org\nSender: a@example.org\n\n";
    assert_eq!(send(&accepting(), &["b@example.org"], message).code, Some(0));
    for args in [["-fa@example.org", "--", "b@example.org"], ["--from=a@example.org", "-i", "b@example.org"]]
    {
        assert_eq!(send(&accepting(), &args, b"From: x@example.org\n\n").code, Some(0));
    }
}

#[test]
fn an_empty_sender_is_the_null_sender() {
    for sender in ["", "<>"] {
        let done = send(&accepting_from("MAIL FROM:<>"), &["-f", sender, "b@example.org"], HI);
        assert_eq!(done.code, Some(0), "{}", done.err);
    }
}

#[test]
fn after_two_dashes_everything_is_a_recipient() {
    let script = [HELLO, MAIL, "C: RCPT TO:<-t@example.org>\nS: 250 OK\n", DATA, QUIT].concat();
    assert_eq!(send(&script, &["-f", "a@example.org", "--", "-t@example.org"], HI).code, Some(0));
}

#[test]
fn endless_headers_are_an_error_only_if_they_are_needed() {
    let message = [b"From: a@example.org\r\nX: ", "x\r\n ".repeat(600_000).as_bytes()].concat();
    let done = run(&["-s", "smtp://127.0.0.1:1", "b@example.org"], &message);
    assert_eq!((done.code, done.err.contains("headers")), (Some(65), true), "{}", done.err);
    let script = accepting_from("MAIL FROM:<a@example.org> BODY=8BITMIME");
    assert_eq!(send(&script, ARGS, &message).code, Some(0));
}

// Output.

#[test]
fn v_prints_the_final_reply() {
    let done = send(&accepting(), &[&["-v"], ARGS].concat(), HI);
    assert_eq!((done.code, &*done.out, &*done.err), (Some(0), "250 OK queued as 4711\n", ""));
    let done = send("S: 554-No\nS: 554 service", &[&["-v"], ARGS].concat(), HI);
    assert_eq!((done.code, &*done.out), (Some(69), "554 No service\n"));
}

#[test]
fn vv_prints_the_dialogue() {
    let done = send(&accepting(), &[&["-vv"], ARGS].concat(), HI);
    assert_eq!((done.code, &*done.out), (Some(0), "250 OK queued as 4711\n"));
    let lines: Vec<_> = done.err.lines().collect();
    // The program does not wait for the reply to QUIT.
    for line in [
        "#1 S: 220 mail.example.org",
        "#1 C: MAIL FROM:<a@example.org>",
        "#1 S: 250 OK queued as 4711",
        "#1 C: QUIT",
    ] {
        assert!(lines.contains(&line), "{line} is not in {lines:#?}");
    }
}

const LOGIN: &[&str] =
    &["-vv", "-s", "smtp://user:hunter%3a2@127.0.0.1:PORT", "-f", "a@example.org", "b@example.org"];

fn has_no_secret(done: &Done) {
    // `hunter:2`, and in base64, alone and after NUL, user, NUL
    for secret in ["hunter", "aHVudGVyOjI", "AHVzZXIAaHVudGVyOjI"] {
        assert!(!done.err.contains(secret) && !done.out.contains(secret), "{done:?}");
    }
}

#[test]
fn no_secret_is_ever_printed() {
    let hello = "
        S: 220 mail.example.org
        C: EHLO *
        S: 250-mail.example.org
        S: 250 AUTH PLAIN LOGIN
    ";
    let plain = "
        C: AUTH PLAIN AHVzZXIAaHVudGVyOjI=
        S: 535 5.7.8 No
        C: AUTH LOGIN
        S: 334 VXNlcm5hbWU6
        C: dXNlcg==
        S: 334 UGFzc3dvcmQ6
        C: aHVudGVyOjI=
    ";
    let done = send(&[hello, plain, "S: 235 Yes\n", MAIL, RCPT, DATA, QUIT].concat(), LOGIN, HI);
    assert_eq!(done.code, Some(0), "{}", done.err);
    has_no_secret(&done);

    let done = send(&[hello, plain, "S: 535 No\n"].concat(), LOGIN, HI);
    assert_eq!((done.code, &*done.out), (Some(77), "535 No\n"), "{}", done.err);
    has_no_secret(&done);
}

#[test]
fn a_secret_that_the_server_repeats_is_not_printed() {
    for code in ["535", "454", "421", "250"] {
        let script = format!(
            "
            S: 220 mail.example.org
            C: EHLO *
            S: 250-mail.example.org
            S: 250 AUTH PLAIN
            C: AUTH PLAIN AHVzZXIAaHVudGVyOjI=
            S: {code} hunter:2 (AHVzZXIAaHVudGVyOjI=)? Oh.
            "
        );
        has_no_secret(&send(&script, LOGIN, HI));
    }
}

#[test]
fn a_closed_stdout_changes_nothing() {
    for flag in ["-v", "--json"] {
        let server = Server::plays(&accepting());
        let url = format!("smtp://127.0.0.1:{}", server.port);
        let mut child = start(&[&["-s", &url, flag], ARGS].concat(), Stdio::piped());
        drop(child.stdout.take());
        let done = finish(child, HI);
        assert_eq!((done.code, &*done.err), (Some(0), ""));
        server.wire(&done);
    }
}

#[test]
fn help_goes_to_stdout() {
    let done = run(&["--help"], b"");
    assert!(done.code == Some(0) && done.out.starts_with("sendmail [OPTIONS]") && done.err.is_empty());
}

// JSON.

#[test]
fn an_accepted_message_is_reported_as_json() {
    let done = send(&accepting(), &json(ARGS), HI);
    let expected = r#"{"outcome":"accepted","reply":"250 OK queued as 4711","refused":[],"recipients":[{"recipient":"b@example.org","outcome":"accepted","reply":"250 OK queued as 4711"}],"error":null}"#;
    assert_eq!((done.code, done.out), (Some(0), format!("{expected}\n")));
}

#[test]
fn json_is_escaped() {
    let done = send(
        "S: 554 \"a\\b\" \u{e9}\x01",
        &["--json", "-f", "a@example.org", r#""q\"\\ \x"@example.org"#],
        HI,
    );
    let expected = r#"{"outcome":"not_sent","reply":"554 \"a\\b\" é\\u{1}","refused":[],"recipients":[{"recipient":"\"q\\\"\\\\ \\x\"@example.org","outcome":"not_sent","reply":null}],"error":"the server refused the connection: 554 \"a\\b\" é\\u{1}"}"#;
    assert_eq!((done.code, done.out), (Some(69), format!("{expected}\n")));
}

#[test]
fn json_lists_all_known_recipients() {
    let not_sent = |address| format!(r#"{{"recipient":"{address}","outcome":"not_sent","reply":null}}"#);
    let message = b"From: a@example.org\nTo: T <t@example.org>\n\n";
    let address = "a\\u0007@b";
    for (args, code, known) in [
        (vec!["-t", "-s", "smtp:/x", "b@example.org"], 64, vec!["t@example.org", "b@example.org"]),
        (vec!["-t", "--name", "a b"], 64, vec!["t@example.org"]),
        (vec!["--cafile", "/nowhere", "<b@example.org>"], 64, vec!["b@example.org"]),
        (vec!["-t", "a\x07@b", "b@example.org"], 65, vec!["t@example.org", address, "b@example.org"]),
        (vec!["-s", "smtp://[fe80::1%nowhere]", "b@example.org"], 68, vec!["b@example.org"]),
        (vec![], 64, vec![]),
        (vec!["--timeout", "0", "b@example.org"], 75, vec!["b@example.org"]),
    ] {
        let done = run(&[&["--json"], &*args].concat(), message);
        assert_eq!(done.code, Some(code), "{args:?} {}", done.err);
        let known: Vec<_> = known.into_iter().map(not_sent).collect();
        let start = format!(
            r#"{{"outcome":"not_sent","reply":null,"refused":[],"recipients":[{}],"error":""#,
            known.join(",")
        );
        assert!(done.out.starts_with(&start) && done.out.ends_with("\"}\n"), "{args:?} {}", done.out);
        assert_eq!(done.out.lines().count(), 1);
        assert!(done.err.starts_with("sendmail: ") && done.err.lines().count() == 1, "{}", done.err);
    }
}

// Exit codes.

#[test]
fn a_usage_error_exits_with_64() {
    for args in [
        &["--nonsense"][..],
        &["-x"],
        &["-bX"],
        &["-f"],
        &["--json=1"],
        &["--timeout", "-1"],
        &["--timeout", "NaN"],
        &["--timeout", "inf"],
        &["--timeout", "1e300"],
        &["--timeout", "1e99999"],
        &["--timeout", "."],
        &["--timeout", "e1"],
        &["--timeout", "1e"],
        &["--timeout", "1.2.3"],
        &["--timeout", "1,5"],
        &["--timeout", "18446744073709551616"],
        &["--deadline", "soon"],
        &["--deadline", ""],
    ] {
        let done = run(&[ARGS, args].concat(), HI);
        assert_eq!((done.code, &*done.out, done.err.lines().count()), (Some(64), "", 1), "{args:?} {done:?}");
    }
}

#[test]
fn usage_errors_take_precedence_over_errors_in_the_message() {
    for args in [["-s", "http://x", "a b"], ["--name", "a b", "a b"]] {
        assert_eq!(run(&args, b"").code, Some(64), "{args:?}");
    }
}

#[cfg(not(feature = "async"))]
#[test]
fn async_in_a_build_without_it_is_a_usage_error() {
    let done = run(&["--async", "b@example.org"], HI);
    assert_eq!((done.code, done.err.contains("--features async")), (Some(64), true));
}

#[test]
fn an_empty_smtp_url_counts_as_unset() {
    for (url, why) in [("", "EHLO"), ("smtp:/x", "URL")] {
        let mut command = program();
        command.args(["--name", "a b", "-f", "a@example.org", "b@example.org"]).env("SMTP_URL", url);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(64) && err.contains(why), "{err}");
    }
}

#[test]
fn smtp_url_names_the_server() {
    let server = Server::plays(&accepting());
    let mut command = program();
    command.args(ARGS).env("SMTP_URL", format!("smtp://127.0.0.1:{}", server.port));
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let done = finish(child, HI);
    server.wire(&done);
    assert_eq!(done.code, Some(0));
}

#[test]
fn a_bad_message_or_address_exits_with_65() {
    for (args, message) in [
        (&["-f", "a@example.org", "b@c@example.org"][..], HI),
        (&["-f", "a@example.org> SIZE=1", "b@example.org"], HI),
        (&["-t"], b"From: a@example.org\nTo: nobody at all\n\n"),
        (&["-t"], b"From: a@example.org\n\n"),
    ] {
        let done = run(args, message);
        assert_eq!((done.code, done.err.lines().count()), (Some(65), 1), "{args:?} {}", done.err);
    }
}

#[test]
fn a_message_the_server_cannot_take_exits_with_65() {
    let plain = "S: 220 mail.example.org\nC: EHLO *\nS: 250-mail.example.org\nS: 250 SIZE 100\n";
    let long = "x".repeat(200);
    for message in [&b"\n\xe9\n"[..], b"\n\0\n", long.as_bytes()] {
        let done = send(&[plain, QUIT].concat(), &json(ARGS), message);
        assert_eq!(done.code, Some(65), "{done:?}");
        assert!(done.out.contains(r#"{"recipient":"b@example.org","outcome":"not_sent","reply":null}"#));
    }
    let script = [&*accepting_from("SMTPUTF8")].concat();
    let script = &script[..script.find("C: SMTPUTF8").unwrap()];
    assert_eq!(send(script, &["-f", "\u{e9}@example.org", "b@example.org"], HI).code, Some(65));
}

#[test]
fn a_nul_found_late_exits_with_65_and_the_message_is_not_sent() {
    let (mut message, _) = big();
    message.push(0);
    let script =
        [HELLO, "C: MAIL FROM:<a@example.org> BODY=8BITMIME\nS: 250 OK\n", RCPT, "C: DATA\nS: 354 Go on\n"];
    let done = send(&script.concat(), &json(ARGS), &message);
    assert_eq!(done.code, Some(65), "{}", done.err);
    assert!(done.out.starts_with(r#"{"outcome":"not_sent","reply":null"#), "{}", done.out);
}

#[test]
fn a_login_refused_permanently_exits_with_77_and_temporarily_with_75() {
    let hello =
        "S: 220 mail.example.org\nC: EHLO *\nS: 250-mail.example.org\nS: 250 AUTH PLAIN\nC: AUTH PLAIN *\n";
    for (reply, code) in [("535 No", 77), ("454 Later", 75), ("421 Bye", 75)] {
        let done = send(&format!("{hello}S: {reply}\n"), &LOGIN[1..], HI);
        assert_eq!(done.code, Some(code), "{}", done.err);
        assert!(done.err.contains(reply), "{}", done.err);
    }
    let done = send(HELLO, &LOGIN[1..], HI);
    assert_eq!(done.code, Some(77), "{}", done.err);
}

#[cfg(any(feature = "native-tls", feature = "rustls"))]
#[test]
fn unavailable_tls_exits_with_77() {
    let url = ["-s", "smtp://127.0.0.1:PORT?tls=required"];
    let starttls = "
        S: 220 mail.example.org
        C: EHLO *
        S: 250-mail.example.org
        S: 250 STARTTLS
        C: STARTTLS
    ";
    for (script, code) in [
        (HELLO.to_owned(), 77),
        (format!("{starttls}S: 554 No"), 77),
        (format!("{starttls}S: 454 Not now"), 75),
        (format!("{starttls}S: 220 Go on\nS: this is no TLS at all\n(closes)"), 76),
    ] {
        let done = send(&script, &[&url, ARGS].concat(), HI);
        assert_eq!(done.code, Some(code), "{script} {}", done.err);
    }
    let done = send("S: 220 mail.example.org", &[&["-s", "smtps://127.0.0.1:PORT"], ARGS].concat(), HI);
    assert_eq!(done.code, Some(77), "{}", done.err);
}

#[cfg(not(any(feature = "native-tls", feature = "rustls")))]
#[test]
fn tls_in_a_build_without_it_is_a_usage_error() {
    for url in ["smtps://127.0.0.1:1", "smtp://127.0.0.1:1?tls=required"] {
        assert_eq!(run(&[&["-s", url], ARGS].concat(), HI).code, Some(64));
    }
}

#[test]
fn an_invalid_ca_file_is_a_usage_error() {
    for path in ["/nowhere/at/all", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")] {
        let done = run(&[&["--cafile", path], ARGS].concat(), HI);
        assert_eq!((done.code, done.err.lines().count()), (Some(64), 1), "{}", done.err);
        let has_tls = cfg!(any(feature = "native-tls", feature = "rustls"));
        let why = if has_tls { format!("{path}: ") } else { "without TLS".to_owned() };
        assert!(done.err.contains(&why), "{}", done.err);
    }
}

#[test]
fn an_unknown_host_exits_with_68() {
    // An interface that does not exist, so that no name server is asked.
    let done = run(&[&["-s", "smtp://[fe80::1%nowhere]"], ARGS].concat(), HI);
    assert_eq!((done.code, done.err.lines().count()), (Some(68), 1), "{}", done.err);
}

/// In a new network namespace no name server can be reached. Services that look up names over a Unix socket are not asked.
#[cfg(target_os = "linux")]
#[test]
fn a_name_server_that_cannot_be_reached_exits_with_75() {
    let only_dns = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nsswitch-{}", std::process::id()));
    fs::write(&only_dns, "hosts: dns\n").unwrap();
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net", "--mount", "sh", "-c"]);
        command.arg("[ ! -e /etc/nsswitch.conf ] || mount --bind \"$0\" /etc/nsswitch.conf && exec \"$@\"");
        command.arg(&only_dns);
        command
    };
    if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
        drop(writeln!(std::io::stderr(), "SKIPPED: this test needs unshare, and user namespaces"));
        return;
    }
    let mut command = unshare();
    command.args([PROGRAM, "-s", "smtp://mail.example.org", "b@example.org"]);
    command.env("POSTINO_ROOT", "/dev/null/nowhere").env("HOME", "/dev/null/nowhere");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let done = finish(command.spawn().unwrap(), HI);
    fs::remove_file(only_dns).unwrap();
    assert_eq!(done.code, Some(75), "{done:?}");
    assert!(done.err.contains("could not resolve mail.example.org"), "{done:?}");
}

#[test]
fn a_connection_lost_after_the_dot_exits_with_74() {
    let script = [HELLO, MAIL, RCPT, "C: DATA\nS: 354 Go on\nC: (the message)\n(closes)"].concat();
    let done = send(&script, &json(ARGS), HI);
    assert_eq!(done.code, Some(74));
    let start = r#"{"outcome":"in_doubt","reply":null,"refused":[],"recipients":[{"recipient":"b@example.org","outcome":"in_doubt","reply":null}],"error":""#;
    assert!(done.out.starts_with(start), "{}", done.out);
    assert!(done.err.contains("may have been delivered") && done.err.contains("closed"), "{}", done.err);
}

#[test]
fn a_missing_final_reply_exits_with_74() {
    let script = [HELLO, MAIL, RCPT, "C: DATA\nS: 354 Go on\nC: (the message)\n"].concat();
    assert_eq!(send(&script, &[&["--timeout", "0.2"], ARGS].concat(), HI).code, Some(74));
}

#[test]
fn a_connection_lost_before_the_dot_exits_with_75() {
    for script in [
        "(closes)".to_owned(),
        [HELLO, "(closes)"].concat(),
        [HELLO, MAIL, RCPT, "(closes)"].concat(),
        [HELLO, MAIL, RCPT, "C: DATA\n(closes)"].concat(),
    ] {
        let done = send(&script, &json(ARGS), HI);
        assert_eq!(done.code, Some(75), "{script} {}", done.err);
        assert!(done.out.starts_with(r#"{"outcome":"not_sent""#));
    }
}

const TWO: &[&str] = &["-f", "a@example.org", "b@example.org", "c@example.org"];

#[test]
fn some_recipients_refused_exits_with_67_even_if_only_temporarily() {
    for reply in ["550 5.1.1 No such user", "450 Try again"] {
        let refused = format!("C: RCPT TO:<c@example.org>\nS: {reply}\n");
        let done = send(&[HELLO, MAIL, RCPT, &refused, DATA, QUIT].concat(), &json(TWO), HI);
        assert_eq!(done.code, Some(67));
        let expected = format!(
            r#"{{"outcome":"accepted","reply":"250 OK queued as 4711","refused":[{{"recipient":"c@example.org","reply":"{reply}"}}],"recipients":[{{"recipient":"b@example.org","outcome":"accepted","reply":"250 OK queued as 4711"}},{{"recipient":"c@example.org","outcome":"refused","reply":"{reply}"}}],"error":null}}"#
        );
        assert_eq!(done.out, format!("{expected}\n"));
        assert_eq!(done.err, format!("sendmail: c@example.org was refused: {reply}\n"));
    }
}

#[test]
fn all_recipients_refused_exits_with_67_or_temporarily_with_75() {
    for (first, second, code) in [(550, 550, 67), (450, 550, 67), (450, 451, 75)] {
        let rcpt = format!(
            "
            C: RCPT TO:<b@example.org>
            S: {first} No
            C: RCPT TO:<c@example.org>
            S: {second} No
            "
        );
        let done = send(&[HELLO, MAIL, &rcpt, RSET, QUIT].concat(), &json(TWO), HI);
        assert_eq!(done.code, Some(code));
        let start = format!(
            r#"{{"outcome":"refused","reply":"{first} No","refused":[{{"recipient":"b@example.org","reply":"{first} No"}},{{"recipient":"c@example.org","reply":"{second} No"}}]"#
        );
        assert!(done.out.starts_with(&start), "{}", done.out);
        assert_eq!(done.err.lines().count(), 1, "{}", done.err);
    }
}

#[test]
fn all_or_nothing_sends_to_nobody_if_one_recipient_is_refused() {
    for (reply, code) in [("550 No", 67), ("450 No", 75)] {
        let refused = format!("C: RCPT TO:<c@example.org>\nS: {reply}\n");
        let script = [HELLO, MAIL, RCPT, &refused, RSET, QUIT].concat();
        let done = send(&script, &[&["--json", "--all-or-nothing"], TWO].concat(), HI);
        assert_eq!(done.code, Some(code));
        assert!(done.out.contains(r#"{"recipient":"b@example.org","outcome":"not_sent","reply":null}"#));
    }
}

#[test]
fn a_permanent_refusal_exits_with_69_and_a_temporary_one_with_75() {
    for (digit, code) in [('5', 69), ('4', 75)] {
        let reply = format!("S: {digit}52 No\n");
        for script in [
            vec![&*reply],
            vec![HELLO, "C: MAIL FROM:<a@example.org>\n", &reply, RSET, QUIT],
            vec![HELLO, MAIL, RCPT, "C: DATA\n", &reply, RSET, QUIT],
            vec![HELLO, MAIL, RCPT, "C: DATA\nS: 354 Go on\nC: (the message)\n", &reply, RSET, QUIT],
        ] {
            let done = send(&script.concat(), &json(ARGS), HI);
            assert_eq!(done.code, Some(code), "{script:?}");
            assert!(done.out.contains(&format!(r#""reply":"{digit}52 No","refused":[]"#)), "{}", done.out);
        }
    }
    let script = [HELLO, MAIL, RCPT, "C: DATA\nS: 354 Go on\nC: (the message)\nS: 421 Bye"].concat();
    assert_eq!(send(&script, ARGS, HI).code, Some(75));
}

#[test]
fn a_refused_ehlo_exits_with_69_or_75_whatever_follows() {
    let greeting = "S: 220 hi\nC: EHLO *\n";
    for (script, code, reply) in [
        ("S: 550 5.7.1 Not you\nC: HELO *\nS: 503 What?\n", 69, "550 5.7.1 Not you"),
        ("S: 502 No\nC: HELO *\n(closes)", 69, "502 No"),
        ("S: 450 4.7.1 Later\n", 75, "450 4.7.1 Later"),
        ("S: 450 4.7.1 Later\n(closes)", 75, "450 4.7.1 Later"),
        ("S: 421 Bye\n(closes)", 75, "421 Bye"),
    ] {
        let done = send(&format!("{greeting}{script}"), ARGS, HI);
        assert_eq!(done.code, Some(code), "{script} {}", done.err);
        assert!(done.err.contains(reply), "{script} {}", done.err);
    }
}

#[test]
fn an_unreachable_server_exits_with_75() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("smtp://127.0.0.1:{port}");
    let done = run(&[&["-s", &url], ARGS].concat(), HI);
    assert_eq!(done.code, Some(75));
    assert!(done.err.contains(&format!("could not connect to 127.0.0.1:{port}: ")), "{}", done.err);
}

#[test]
fn a_silent_server_exits_with_75_at_the_timeout() {
    let done = send("", &[&["--timeout", "0.2"], ARGS].concat(), HI);
    assert_eq!((done.code, done.err.contains("timed out")), (Some(75), true), "{}", done.err);
}

#[test]
fn a_dripping_server_exits_with_75_at_the_deadline() {
    let begin = Instant::now();
    let script = ["S: 220 mail.example.org\nC: EHLO *\n", "(drips)"].concat();
    let done = send(&script, &[&["--deadline", "0.5"], ARGS].concat(), HI);
    assert_eq!(done.code, Some(75), "{}", done.err);
    assert!(begin.elapsed() >= Duration::from_millis(500) && begin.elapsed() < PATIENCE);
}

#[test]
fn times_may_be_fractions_however_they_are_written() {
    for limit in [".3", "0.30000000000000000000004", "3e-1", "0.00003E+4", "30000e-5"] {
        let begin = Instant::now();
        let done = send_from(Stdio::piped, "", &[&["--timeout", limit], ARGS].concat(), HI);
        assert_eq!(done.code, Some(75), "{limit}: {}", done.err);
        assert!(begin.elapsed() >= Duration::from_millis(300) && begin.elapsed() < PATIENCE, "{limit}");
    }
}

#[test]
fn very_long_times_are_accepted() {
    let args = ["--timeout", "1e18", "--deadline", "99999999999.5"];
    assert_eq!(send(&accepting(), &[&args, ARGS].concat(), HI).code, Some(0));
}

#[test]
fn a_server_that_does_not_speak_smtp_exits_with_76() {
    for script in ["S: HTTP/1.1 400 Bad Request", "S: 220-mail\nS: 250 mail", "S: 250 mail"] {
        assert_eq!(send(script, ARGS, HI).code, Some(76), "{script}");
    }
}

// Pipelining.

const PIPELINING: &str = "S: 220 mail.example.org\nC: EHLO *\nS: 250-mail.example.org\nS: 250 PIPELINING\n";

#[test]
fn commands_are_pipelined_where_pipelining_is_offered() {
    let script = "
        C: MAIL FROM:<a@example.org>
        C: RCPT TO:<b@example.org>
        C: DATA
        S: 250 OK
        S: 250 OK
        S: 354 Go on
        C: (the message)
        S: 250 OK
        C: QUIT
    ";
    assert_eq!(send(&[PIPELINING, script].concat(), ARGS, HI).code, Some(0));
}

#[test]
fn without_pipelining_each_command_waits_for_the_previous_reply() {
    let script = [PIPELINING, MAIL, RCPT, DATA, QUIT].concat();
    assert_eq!(send(&script, &[&["--no-pipelining"], ARGS].concat(), HI).code, Some(0));
}

// Other connections and options. Here PORT and PATH in an argument are replaced by those of a double.

const NAME: &[&str] = &["--name", "client.example.org", "-f", "a@example.org"];
const TO_B: &str = "
    C: RCPT TO:<b@example.org>
    S: 250 OK
    C: DATA
    S: 354 Go on
    -- body
    S: 250 OK queued as 4711
    C: QUIT
    S: 221 Bye
";

/// Runs the program with both clients, each with a separate double. Their results must be equal. `wire` is the whole dialogue.
fn with(double: impl Fn() -> support::Server, env: Option<&str>, args: &[&str]) -> Done {
    let run = |world: &[&str]| {
        let server = double();
        let path = server.path().to_str().unwrap().to_owned();
        let port = if path.is_empty() { server.port().to_string() } else { String::new() };
        let mut command = program();
        command.args(world.iter().chain(NAME));
        command.args(args.iter().map(|arg| arg.replace("PORT", &port).replace("PATH", &path)));
        env.map(|token| command.env("SMTP_OAUTH_TOKEN", token));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let done = finish(command.spawn().unwrap(), HI);
        let wire = server.finish();
        let err = if port.is_empty() { done.err } else { done.err.replace(&port, "PORT") };
        Done { wire, err, ..done }
    };
    let done = run(&[]);
    if cfg!(feature = "async") {
        assert_eq!(run(&["--async"]), done);
    }
    done
}

fn playing(script: &str) -> impl Fn() -> support::Server {
    let script = script.to_owned();
    move || support::Server::playing(&*script)
}

/// Offers these keywords, and accepts the message for b, with these parameters of MAIL.
fn taking(keywords: &str, parameters: &str) -> String {
    format!("-- hello {keywords}\nC: MAIL FROM:<a@example.org>{parameters}\nS: 250 OK\n{TO_B}")
}

#[test]
fn lmtp_reports_the_result_for_each_recipient() {
    let begin = "
        S: 220 mail.example.org
        C: LHLO client.example.org
        S: 250 mail.example.org
        C: MAIL FROM:<a@example.org>
        S: 250 OK
        C: RCPT TO:<b@example.org>
        S: 250 OK
        C: RCPT TO:<c@example.org>
        S: 250 OK
        C: DATA
        S: 354 Go on
        -- body
        S: 250 OK for b
    ";
    let to = ["-s", "lmtp://127.0.0.1:PORT", "b@example.org", "c@example.org"];
    let done = with(playing(&format!("{begin}S: 452 4.2.2 Full\nC: QUIT\nS: 221 Bye")), None, &to);
    assert_eq!((done.code, &*done.err), (Some(67), "sendmail: c@example.org was refused: 452 4.2.2 Full\n"));

    let to = [&["--json"], &to[..]].concat();
    let done = with(playing(&format!("{begin}-- fin")), None, &to);
    assert_eq!(done.code, Some(74), "{done:?}");
    for recipient in [
        r#"{"recipient":"b@example.org","outcome":"accepted","reply":"250 OK for b"}"#,
        r#"{"recipient":"c@example.org","outcome":"in_doubt","reply":null}"#,
    ] {
        assert!(done.out.contains(recipient), "{done:?}");
    }
}

#[test]
fn unix_sockets_are_reached_by_url() {
    for (url, hello) in [("smtp+unix:PATH", "EHLO"), ("lmtp+unix:PATH", "LHLO")] {
        let script = taking("8BITMIME", "").replacen(
            "-- hello 8BITMIME",
            &format!("S: 220 mail.example.org\nC: {hello} client.example.org\nS: 250 mail.example.org"),
            1,
        );
        // The reply to QUIT is not read, and over a Unix socket writing it fails.
        let script = script.trim_end().strip_suffix("S: 221 Bye").unwrap();
        let double = || support::Server::playing_unix(script);
        let done = with(double, None, &["-s", url, "-v", "b@example.org"]);
        assert_eq!((done.code, &*done.out, &*done.err), (Some(0), "250 OK queued as 4711\n", ""));
    }
}

#[test]
fn a_message_is_sent_by_bdat_where_it_is_requested_and_offered() {
    let args = ["-s", "smtp://127.0.0.1:PORT", "--chunking", "b@example.org"];
    let content = "From: a@example.org\r\nTo: b@example.org\r\nSubject: Hi\r\n\r\nHello!\r\n";
    let bdat = format!("C: BDAT {0} LAST\n-- read {0}\n", content.len());
    let script = taking("CHUNKING", "").replacen("C: DATA\n    S: 354 Go on\n    -- body\n", &bdat, 1);
    let done = with(playing(&script), None, &args);
    assert_eq!((done.code, &*done.err), (Some(0), ""));
    assert!(String::from_utf8(done.wire).unwrap().contains(&format!(" LAST\r\n{content}")));

    assert_eq!(with(playing(&taking("SIZE", " SIZE=63")), None, &args).code, Some(0));
    assert_eq!(
        with(playing(&taking("CHUNKING", "")), None, &[&args[..2], &args[3..]].concat()).code,
        Some(0)
    );
}

#[test]
fn delivery_reports_are_requested_with_sendmails_options_or_by_name() {
    let server = ["-s", "smtp://127.0.0.1:PORT"];
    for (args, mail, rcpt) in [
        (&["-N", "success,delay", "-R", "hdrs", "-V", "QQ+1"][..], " RET=HDRS ENVID=QQ+2B1", "SUCCESS,DELAY"),
        (&["--envid=a b", "--ret=full", "--dsn=FAILURE"], " ENVID=a+20b RET=FULL", "FAILURE"),
        (&["-Nnever"], "", "NEVER"),
        (&["--dsn", "success,failure,delay"], "", "SUCCESS,FAILURE,DELAY"),
    ] {
        let mail =
            taking("DSN", mail).replacen("b@example.org>", &format!("b@example.org> NOTIFY={rcpt}"), 1);
        let done = with(playing(&mail), None, &[&server, args, &["b@example.org"]].concat());
        assert_eq!((done.code, &*done.err), (Some(0), ""));
    }
    for args in [["--dsn", "never"], ["--ret", "full"], ["--envid", "x"]] {
        let done = with(
            playing("-- hello\nC: QUIT\nS: 221 Bye"),
            None,
            &[&server, &args[..], &["b@example.org"]].concat(),
        );
        assert_eq!((done.code, done.err.contains("DSN")), (Some(65), true), "{}", done.err);
    }
    for args in [
        ["-N", ""],
        ["-N", "never,success"],
        ["-N", "success,never"],
        ["-N", "always"],
        ["-R", "h"],
        ["-V", ""],
        ["-V", "\u{fc}"],
    ] {
        let done = run(&[ARGS, &args].concat(), HI);
        assert_eq!((done.code, done.err.lines().count()), (Some(64), 1), "{args:?} {done:?}");
    }
}

#[test]
fn only_the_mechanisms_that_were_named_are_tried() {
    let login = "
        -- hello AUTH PLAIN LOGIN
        C: AUTH LOGIN
        S: 334 VXNlcm5hbWU6
        C: dXNlcg==
        S: 334 UGFzc3dvcmQ6
        C: aHVudGVyOjI=
        S: 535 No
    ";
    let url = ["-s", "smtp://user:hunter%3a2@127.0.0.1:PORT", "-vv", "b@example.org"];
    let done = with(playing(login), None, &[&["--auth", "login"], &url[..]].concat());
    assert_eq!(done.code, Some(77), "{}", done.err);
    has_no_secret(&done);
    let both = login.replace("C: AUTH LOGIN", "C: AUTH PLAIN AHVzZXIAaHVudGVyOjI=\nS: 535 No\nC: AUTH LOGIN");
    assert_eq!(with(playing(&both), None, &[&["--auth", "PLAIN,LOGIN"], &url[..]].concat()).code, Some(77));

    let none = run(&[&["--auth", "PLAIN"], ARGS].concat(), HI);
    assert_eq!((none.code, none.err.contains("--auth")), (Some(64), true), "nobody to log in: {none:?}");
    let unix = ["-s", "smtp+unix:/a@b", "--auth", "PLAIN"];
    assert_eq!(run(&[&unix, ARGS].concat(), HI).code, Some(64), "an @ in a path is no login");
    let user = ["-s", "smtp://u:p@127.0.0.1:1"];
    for names in ["", "PLAIN,", "PL AIN", "XOAUTH2", "EXTERNAL,PLAIN"] {
        let done = run(&[&user[..], &["--auth", names], ARGS].concat(), HI);
        // An invalid name is a usage error; so are mechanisms that cannot use a password. Both are found before connecting.
        let code = if names == "EXTERNAL,PLAIN" { 75 } else { 64 };
        assert_eq!(done.code, Some(code), "{names:?} {done:?}");
    }
}

#[test]
fn a_token_is_given_as_text_in_a_file_or_in_the_environment() {
    let script = taking("AUTH XOAUTH2", "").replacen(
        "C: MAIL",
        "C: AUTH XOAUTH2 dXNlcj11AWF1dGg9QmVhcmVyIHQwa2VuAQE=\nS: 235 Yes\nC: MAIL",
        1,
    );
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sendmail-token-{}", std::process::id()));
    fs::write(&path, "t0ken\n").unwrap();
    let file = format!("@{}", path.display());
    let args = ["-s", "smtp://127.0.0.1:PORT", "-vv", "--user", "u", "b@example.org"];
    for (env, token) in [
        (None, &["--oauth-token", "t0ken"][..]),
        (Some("other"), &["--oauth-token", &file]),
        (Some("t0ken"), &[]),
    ] {
        let done = with(playing(&script), env, &[token, &args[..]].concat());
        assert_eq!(done.code, Some(0), "{}", done.err);
        for secret in ["t0ken", "dXNlcj11AWF1dGg9QmVhcmVyIHQwa2VuAQE="] {
            assert!(!done.err.contains(secret), "{}", done.err);
        }
    }
    fs::write(&path, b"\xff").unwrap();
    for token in
        [&["--oauth-token", &*file][..], &["--oauth-token", "@/nowhere/at/all"], &["--oauth-token="], &[]]
    {
        let done = run(&[&["--user", "u"], token, ARGS].concat(), HI);
        assert_eq!((done.code, done.err.lines().count()), (Some(64), 1), "{token:?} {done:?}");
    }
    assert_eq!(run(&[&["--oauth-token", "t"], ARGS].concat(), HI).code, Some(64), "whose is it?");
    fs::remove_file(&path).unwrap();
}

#[cfg(any(feature = "native-tls", feature = "rustls"))]
mod tls {
    use super::*;

    macro_rules! certs {
        ($name:literal) => {
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/support/certs/", $name)
        };
    }

    const URL: &[&str] = &["-s", "smtps://127.0.0.1:PORT", "--cafile", certs!("ca.pem"), "b@example.org"];

    #[test]
    fn a_client_certificate_is_presented_and_can_log_in() {
        let script =
            taking("AUTH EXTERNAL", "").replacen("C: MAIL", "C: AUTH EXTERNAL =\nS: 235 Yes\nC: MAIL", 1);
        let script = format!("-- tls good mutual\n{script}");
        let pair = ["--cert", certs!("client.pem"), "--key", certs!("client.key")];
        let done = with(playing(&script), None, &[&["--auth", "external"][..], &pair, URL].concat());
        assert_eq!((done.code, &*done.err), (Some(0), ""));

        let script = format!("-- tls good mutual\n{}", taking("SIZE", " SIZE=63"));
        let path =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sendmail-cert-{}", std::process::id()));
        let both =
            [fs::read(certs!("client.pem")).unwrap(), fs::read(certs!("client.key")).unwrap()].concat();
        fs::write(&path, both).unwrap();
        let one = ["--cert", path.to_str().unwrap()];
        assert_eq!(with(playing(&script), None, &[&one[..], URL].concat()).code, Some(0));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn an_invalid_client_certificate_is_a_usage_error() {
        let url = ["-s", "smtps://127.0.0.1:1"];
        for args in [
            &["--key", certs!("client.key")][..],
            &["--cert", certs!("client.pem")],
            &["--cert", "/nowhere/at/all", "--key", certs!("client.key")],
            &["--cert", certs!("client.pem"), "--key", "/nowhere/at/all"],
            &["--cert", certs!("client.pem"), "--key", certs!("good.key")],
            &["--cert", certs!("client.pem"), "--key", certs!("client.sec1.key")],
        ] {
            let done = run(&[&url, args, ARGS].concat(), HI);
            assert_eq!((done.code, done.err.lines().count()), (Some(64), 1), "{args:?} {done:?}");
        }
    }

    #[test]
    fn without_the_system_s_authorities_only_those_of_the_file_are_trusted() {
        let accepts = format!("-- tls good\n{}", taking("SIZE", " SIZE=63"));
        let other = certs!("self-signed.pem");
        for (script, args, code) in [
            (&*accepts, &[][..], 0),
            (&*accepts, &["--cafile", other], 0),
            (&*accepts, &["--no-system-cas", "--cafile", certs!("ca.pem")], 0),
            ("-- no tls good", &["--no-system-cas", "--cafile", other], 77),
        ] {
            let server = support::Server::playing(script);
            let url = format!("smtps://127.0.0.1:{}", server.port());
            let mut command = program();
            command.args(["-s", &url, "b@example.org"]).args(NAME).args(args);
            command.env("SSL_CERT_FILE", certs!("ca.pem")); // the only authority of the system
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let done = finish(command.spawn().unwrap(), HI);
            assert_eq!(done.code, Some(code), "{args:?}: {done:?}");
            drop(server.outcome());
        }
        let done = run(&["-s", "smtps://127.0.0.1:1", "--no-system-cas", "b@example.org"], HI);
        assert!(done.code == Some(64) && done.err.contains("--no-system-cas needs a file"), "{done:?}");
    }

    #[test]
    fn errors_name_the_program_s_settings_and_not_the_library_s() {
        let server = support::Server::playing("-- no tls good");
        let url = format!("smtps://127.0.0.1:{}", server.port());
        let done = run(&["-s", &url, "--json", "b@example.org"], HI);
        assert_eq!(done.code, Some(77), "{done:?}");
        for text in [&done.out, &done.err] {
            assert!(text.contains("is not trusted: ") && text.contains("use ca-file or --cafile"), "{text}");
            assert!(!text.contains("Builder"), "{text}");
        }
        let done = run(&["-s", "smtp+unix:/run/smtp?tls=required", "b@example.org"], HI);
        assert!(done.code == Some(64) && !done.err.contains("Builder"), "{done:?}");
    }

    #[test]
    fn check_reports_whether_tls_is_used() {
        let check = |script: &str| {
            let server = support::Server::playing(script);
            let url = format!("smtps://127.0.0.1:{}", server.port());
            let args = ["-s", &url, "--cafile", certs!("ca.pem"), "--name", "client.example.org", "--check"];
            let done = run(&args, b"");
            drop(server.outcome());
            done
        };
        let done = check("-- tls good\n-- hello SIZE 100\nC: NOOP\nS: 250 ok\nC: QUIT\nS: 221 Bye");
        assert_eq!((done.code, &*done.err), (Some(0), ""));
        assert!(
            done.out.contains("\nTLS: yes, and the certificate is valid\ncapabilities: SIZE 100\n"),
            "{done:?}"
        );
        let done = check("-- tls expired\n-- hello SIZE");
        assert!(done.code == Some(77) && done.err.contains("expired"), "{done:?}");
    }

    #[test]
    fn requiretls_can_be_requested() {
        let args = [&["--requiretls"], URL].concat();
        let script = format!("-- tls good\n{}", taking("REQUIRETLS", " REQUIRETLS"));
        assert_eq!(with(playing(&script), None, &args).code, Some(0));
        let none = "-- tls good\n-- hello SIZE\nC: QUIT\nS: 221 Bye";
        let done = with(playing(none), None, &args);
        assert_eq!((done.code, done.err.contains("REQUIRETLS")), (Some(65), true), "{}", done.err);
        let clear = ["-s", "smtp://127.0.0.1:PORT", "--requiretls", "b@example.org"];
        let done = with(playing("-- hello REQUIRETLS\nC: QUIT\nS: 221 Bye"), None, &clear);
        assert_eq!(
            (done.code, done.err.contains("the connection has no TLS")),
            (Some(65), true),
            "{}",
            done.err
        );
    }
}

#[test]
fn the_options_that_cron_and_mail_readers_pass_are_accepted() {
    for args in [
        &["-FCronDaemon", "-i", "-B8BITMIME", "-oem", "-fa@example.org", "b@example.org"][..],
        &["-FCronDaemon", "-i", "-odi", "-oem", "-oi", "-t", "-f", "a@example.org"],
        &["-oem", "-oi", "-f", "a@example.org", "--", "b@example.org"],
        &["-B8BITMIME", "-i", "-r", "a@example.org", "b@example.org"],
        &[
            "-bm",
            "-Am",
            "-G",
            "-U",
            "-n",
            "-m",
            "-om",
            "-oeq",
            "-odb",
            "-h",
            "3",
            "-L",
            "tag",
            "-B",
            "7BIT",
            "-em",
            "-d0.1",
            "-oQ/tmp",
            "-O",
            "QueueDirectory=/tmp",
            "-X",
            "/tmp/log",
            "-p",
            "ESMTP",
            "-t",
        ],
    ] {
        let done = send(&accepting(), args, HI);
        assert_eq!((done.code, &*done.out, &*done.err), (Some(0), "", ""), "{args:?}");
    }
    for (args, code) in [(["-bd"], 64), (["-bt"], 64), (["-bp"], 0), (["-q"], 78), (["-q30m"], 78)] {
        assert_eq!(run(&[ARGS, &args].concat(), HI).code, Some(code), "{args:?}");
    }
}

#[test]
fn every_option_named_in_the_help_is_known() {
    let help = run(&["--help"], b"").out;
    let words =
        help.split(|c: char| c.is_whitespace() || ",*()".contains(c)).filter(|word| word.starts_with('-'));
    for option in words.clone() {
        if option == "--features" {
            continue; // set by cargo
        }
        let done = run(&[option], b"");
        assert!(!done.err.contains("invalid option"), "{option}: {}", done.err);
    }
    assert!(words.count() > 40);
}

#[test]
fn recipients_that_the_message_was_not_sent_to_are_reported() {
    let first = "
        -- hello LIMITS RCPTMAX=1
        C: MAIL FROM:<a@example.org>
        S: 250 OK
        C: RCPT TO:<b@example.org>
        S: 250 OK
        C: DATA
        S: 354 Go on
        -- body
        S: 250 OK
        C: MAIL FROM:<a@example.org>
    ";
    let doubt = "S: 250 OK\nC: RCPT TO:<c@example.org>\nS: 250 OK\nC: DATA\nS: 354 Go on\n-- body\n-- fin";
    let to = ["-s", "smtp://127.0.0.1:PORT", "b@example.org", "c@example.org"];
    for (end, code, told) in
        [("-- fin", 75, "was not sent the message"), (doubt, 74, "may have received the message")]
    {
        let done = with(playing(&format!("{first}{end}")), None, &to);
        assert_eq!((done.code, done.err), (Some(code), format!("sendmail: c@example.org {told}\n")));
    }
}

/// Each transaction of a message that is sent from memory contains all of it. A larger message can be read only once.
#[test]
fn a_message_too_large_for_memory_is_not_sent_in_several_transactions() {
    let (message, wire) = big();
    let to = ["b@example.org", "c@example.org"];
    let limited = "
        S: 220 mail.example.org
        C: EHLO *
        S: 250-mail.example.org
        S: 250-8BITMIME
        S: 250 LIMITS RCPTMAX=1
    ";
    let done = send(&[limited, QUIT].concat(), &to, &message);
    assert!(done.code == Some(65) && done.err.contains("LIMITS"), "{:?} {}", done.code, done.err);

    let mail = "C: MAIL FROM:<a@example.org> BODY=8BITMIME\nS: 250 OK\n";
    let full = "C: RCPT TO:<c@example.org>\nS: 452 4.5.3 Too many recipients\n";
    let done = send(&[HELLO, mail, RCPT, full, DATA, QUIT].concat(), &to, &message);
    assert!(done.code == Some(67) && done.wire == wire, "{:?} {}", done.code, done.err);
    assert!(done.err.contains("c@example.org was refused: 452"), "{}", done.err);
}

/// Stops and continues the program repeatedly until it ends. This interrupts system calls that wait with a timeout
/// (signal(7), "interruption of system calls … by stop signals"), even without a signal handler in the program.
fn storm(child: &Child) -> Child {
    let again = format!("while kill -STOP {0} && kill -CONT {0}; do sleep 0.005; done 2>&-", child.id());
    Command::new("sh").args(["-c", &again]).spawn().unwrap()
}

// Threat 84.
#[cfg(target_os = "linux")]
#[test]
fn a_storm_of_signals_changes_nothing() {
    for world in &[&[][..], &["--async"]][..=usize::from(cfg!(feature = "async"))] {
        let server = support::Server::running(|peer| {
            peer.play(
                "-- drip 220 mail.example.org\nC: EHLO client.example.org\n-- drip 250 mail.example.org",
            );
            peer.may_leave = false;
            peer.play(
                "C: MAIL FROM:<a@example.org>\n-- drip 250 OK\nC: RCPT TO:<b@example.org>\n-- drip 250 OK\nC: DATA\n-- drip 354 Go on",
            );
            let body = peer.body();
            assert_eq!(body.len(), (1 << 20) + 2 + HI.len() + HI.iter().filter(|b| **b == b'\n').count());
            peer.play("-- drip 250 OK\nC: QUIT\nS: 221 Bye");
        });
        let url = format!("smtp://127.0.0.1:{}", server.port());
        let args = [&["-s", &url, "b@example.org"], NAME, *world].concat();
        let child = start(&args, Stdio::piped());
        let mut storm = storm(&child);
        let done = finish(child, &[HI, &vec![b'x'; 1 << 20], b"\n"].concat());
        storm.kill().unwrap();
        storm.wait().unwrap();
        assert_eq!((done.code, &*done.err), (Some(0), ""), "{done:?}");
        drop(server);
    }
}
