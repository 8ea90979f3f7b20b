//! Mailers without a connection: in memory, to a folder, and by a program.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use postino::{
    Envelope, Error, FolderMailer, Mail, MailOption, MemoryMailer, Message, Outcome, Phase, Raw, RcptOption,
    Ret, Retry,
};

use super::{builder, connect, deliver, envelope, mail, mail_to};
use crate::{
    Client, Failover, Mailer, block_on,
    support::{Server, closed},
};

const ACCEPTED: &str =
    "-- hello\n-- envelope\nC: DATA\nS: 354 go on\nC: Hello\nC: .\nS: 250 ok\nC: QUIT\nS: 221 bye";

/// A folder for one test, which is removed afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("postino-transports-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Returns the names of the files with this end, in order.
    fn files(&self, end: &str) -> Vec<PathBuf> {
        let paths = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths.filter(|path| path.to_string_lossy().ends_with(end)).collect();
        paths.sort();
        paths
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone_already = fs::remove_dir_all(&self.0);
    }
}

fn outcomes(error: &Error) -> Vec<Outcome> {
    error.delivery().unwrap().recipients().map(|recipient| recipient.outcome()).collect()
}

#[test]
fn a_mailer_in_memory_keeps_envelopes_and_content() {
    let mut mailer = MemoryMailer::new();
    let kept = mailer.clone();
    let message = Message::builder()
        .from("alice@example.org")
        .to("bob@example.org")
        .subject("Grüße")
        .text("Hällo\n")
        .build()
        .unwrap();
    let delivery = block_on(mailer.send(&message)).unwrap();
    assert_eq!(delivery.outcome(), Outcome::Accepted);
    assert_eq!(delivery.reply().unwrap().text(), "2.0.0 kept as message 1");
    block_on(mailer.send(&mail())).unwrap();
    let sent = kept.sent();
    assert_eq!(sent[0].envelope(), &message.envelope().unwrap());
    assert!(sent[0].text().ends_with("\r\n\r\nHällo\r\n"), "{:?}", sent[0].text());
    assert_eq!((sent[1].envelope(), sent[1].bytes()), (&envelope(&["bob@example.org"]), &b"Hello\r\n"[..]));
    assert!(format!("{:?}", sent[0]).contains("Message-ID: <"), "{:?}", sent[0]);
    kept.clear();
    assert!(kept.sent().is_empty());
}

#[test]
fn a_mailer_in_memory_refuses_and_fails_as_told() {
    let mut mailer = MemoryMailer::new();
    for (reply, retry) in [("450 4.2.1 busy", Retry::Later), ("550 5.7.1 spam", Retry::Never)] {
        mailer.refuse_with(reply).unwrap();
        let error = block_on(mailer.send(&mail())).unwrap_err();
        assert_eq!((error.retry(), error.reply().unwrap().to_string()), (retry, reply.to_owned()));
    }
    for bad in ["250 ok", "550 a\r\n550 b", "no", ""] {
        assert!(matches!(mailer.refuse_with(bad), Err(Error::Config(_))), "{bad}");
    }
    mailer.fail_with(|| Error::Timeout(Phase::Connect));
    let error = block_on(mailer.send(&mail())).unwrap_err();
    assert!(matches!(error, Error::Timeout(Phase::Connect)), "{error}");
    mailer.fail_with(|| Error::Closed(Phase::End));
    let error = block_on(mailer.send(&mail())).unwrap_err();
    assert_eq!((outcomes(&error), error.in_doubt()), (vec![Outcome::InDoubt], true));
    assert!(mailer.sent().is_empty());
    mailer.accept();
    mailer.refuse_recipient("carol@EXAMPLE.org", "550 5.1.1 no such user").unwrap();
    let delivery = block_on(mailer.send(&mail_to(&["bob@example.org", "carol@example.org"]))).unwrap();
    let refused: Vec<_> = delivery.refused().map(|recipient| recipient.address().to_string()).collect();
    assert_eq!(refused, ["carol@example.org"]);
    assert_eq!(mailer.sent()[0].envelope().recipients(), ["bob@example.org"]);
    let error = block_on(mailer.send(&mail_to(&["carol@example.org"]))).unwrap_err();
    assert_eq!((outcomes(&error), error.retry()), (vec![Outcome::Refused], Retry::Never));
    assert_eq!(mailer.sent().len(), 1);
}

#[test]
fn a_message_kept_in_memory_can_be_sent_by_another_mailer() {
    let mut mailer = MemoryMailer::new();
    block_on(mailer.send(&mail())).unwrap();
    let server = Server::playing(ACCEPTED);
    block_on(builder(&server).send(&mailer.sent()[0])).unwrap();
    server.finish();
}

#[test]
fn a_message_in_a_folder_is_read_back_and_sent_later() {
    let folder = Folder::new();
    let mut mailer = FolderMailer::new(folder.path("outbox/new"));
    assert!(mailer.messages().unwrap().is_empty());
    let delivery = block_on(mailer.send(&mail())).unwrap();
    assert_eq!(delivery.outcome(), Outcome::Accepted);
    let [message] = &mailer.messages().unwrap()[..] else { panic!("there is one message") };
    assert_eq!(fs::read(message.path()).unwrap(), b"Hello\r\n");
    let text = fs::read_to_string(message.path().with_extension("envelope")).unwrap();
    assert_eq!(text, "MAIL FROM:<alice@example.org>\nRCPT TO:<bob@example.org>\n");
    let server = Server::playing(ACCEPTED);
    block_on(builder(&server).send(message)).unwrap();
    message.clone().remove().unwrap();
    assert!(matches!(message.clone().remove(), Err(Error::Folder { .. })));
    assert!(mailer.messages().unwrap().is_empty());
    assert_eq!(fs::read_dir(folder.path("outbox/new")).unwrap().count(), 0);
    server.finish();
}

#[test]
fn a_folder_keeps_the_order_of_messages_and_all_parts_of_envelopes() {
    let folder = Folder::new();
    let (mut first, mut second) = (FolderMailer::new(folder.path("1")), FolderMailer::new(folder.path("2")));
    let strange = ["\"a> \\\"b\"@example.org", "c@[192.0.2.1]", "postmaster", "jörg@münchen.example"];
    let envelopes = [
        Envelope::new("", ["bob@example.org"]).unwrap(),
        Envelope::new("jürgen@example.org", strange).unwrap(),
        envelope(&["bob@example.org", "carol@example.org"])
            .option(MailOption::Ret(Ret::Headers))
            .and_then(|envelope| envelope.option(MailOption::EnvelopeId("a+b c".into())))
            .and_then(|envelope| envelope.recipient_option(1, RcptOption::NotifyNever))
            .unwrap(),
    ];
    for envelope in envelopes.clone() {
        block_on(first.send(&Raw::bytes(envelope, "Subject: Hällo\r\n\r\nHello\r\n"))).unwrap();
    }
    for message in first.messages().unwrap() {
        block_on(second.send(&message)).unwrap();
    }
    let texts = |mailer: &FolderMailer| -> Vec<String> {
        let text = |path: &Path| fs::read_to_string(path.with_extension("envelope")).unwrap();
        mailer.messages().unwrap().iter().map(|message| text(message.path())).collect()
    };
    assert_eq!(texts(&first), texts(&second));
    assert!(texts(&first)[2].starts_with(
        "MAIL FROM:<alice@example.org> RET=HDRS ENVID=a+2Bb+20c BODY=8BITMIME\nRCPT TO:<bob@example.org>\n"
    ));
    for (message, envelope) in first.messages().unwrap().iter().zip(&envelopes) {
        let read = message.envelope().unwrap();
        assert_eq!((read.sender(), read.recipients()), (envelope.sender(), envelope.recipients()));
    }
}

#[test]
fn utf8_headers_in_a_folder_still_need_smtputf8() {
    let folder = Folder::new();
    let mut mailer = FolderMailer::new(folder.path("."));
    let message =
        Message::builder().from("jürgen@example.org").to("bob@example.org").text("Hi\n").build().unwrap();
    block_on(mailer.send(&message)).unwrap();
    let text = fs::read_to_string(&folder.files(".envelope")[0]).unwrap();
    assert!(text.starts_with("MAIL FROM:<jürgen@example.org> BODY=8BITMIME SMTPUTF8\n"), "{text}");
    let server = Server::playing("-- hello");
    let error = deliver(&mut connect(&server), &mailer.messages().unwrap()[0]).unwrap_err();
    assert!(matches!(error, Error::Unsupported(what) if what.contains("SMTPUTF8")), "{error}");
}

#[test]
fn unfinished_and_broken_files_in_a_folder_are_not_sent() {
    let folder = Folder::new();
    let mailer = FolderMailer::new(folder.path("."));
    fs::write(folder.path("1.envelope"), "MAIL FROM:<a@example.org>\nRCPT TO:<b@example.org>\n").unwrap();
    fs::write(folder.path("1.tmp"), "Hel").unwrap();
    assert!(mailer.messages().unwrap().is_empty());
    for text in [
        "",
        "MAIL FROM:<a@example.org>\n",
        "MAIL FROM:<a@example.org\nRCPT TO:<b@example.org>\n",
        "MAIL FROM:<a@example.org>\nRCPT TO:<b@example.org>\nRCPT TO:<c@exam",
        "MAIL FROM:<a@example.org>\nDATA\n",
        "MAIL FROM:<a@example.org>\nRCPT TO:<b@example.org>\u{85}QUIT\n",
        "MAIL FROM:<a@example.org> RET=\u{1}\nRCPT TO:<b@example.org>\n",
    ] {
        fs::write(folder.path("2.envelope"), text).unwrap();
        fs::write(folder.path("2.eml"), "Hello\r\n").unwrap();
        let message = &mailer.messages().unwrap()[0];
        assert!(message.envelope().is_err(), "{text:?}");
    }
    fs::remove_file(folder.path("2.envelope")).unwrap();
    let error = mailer.messages().unwrap()[0].envelope().unwrap_err();
    assert!(matches!(&error, Error::Source(e) if e.to_string().contains("2.envelope")), "{error}");
}

#[test]
fn a_folder_shows_only_whole_messages_while_others_are_written() {
    let folder = Folder::new();
    let text = "Hello\r\n".repeat(20_000);
    let mut writer = FolderMailer::new(folder.path("."));
    let reader = writer.clone();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for _ in 0..20 {
                block_on(writer.send(&Raw::bytes(envelope(&["bob@example.org"]), &text))).unwrap();
            }
        });
        while !writing.is_finished() {
            for message in reader.messages().unwrap() {
                assert_eq!(message.envelope().unwrap(), envelope(&["bob@example.org"]));
                assert_eq!(fs::read(message.path()).unwrap().len(), text.len());
            }
        }
    });
    assert_eq!(folder.files(".eml").len(), 20);
    assert!(folder.files(".tmp").is_empty());
}

#[test]
fn a_message_that_cannot_be_written_or_read_leaves_no_files() {
    let folder = Folder::new();
    fs::write(folder.path("file"), "").unwrap();
    let broken = FolderMailer::new(folder.path("file"));
    let error = block_on(broken.clone().send(&mail())).unwrap_err();
    assert!(matches!(error, Error::Folder { .. }), "{error}");
    assert!(error.to_string().starts_with("could not use the folder "), "{error}");
    let next = MemoryMailer::new();
    let mut mailer = Failover::new([Box::new(broken) as Box<dyn Mailer>, Box::new(next.clone())]);
    block_on(mailer.send(&mail())).unwrap();
    assert_eq!(next.sent().len(), 1);
    let missing = Raw::path(envelope(&["bob@example.org"]), folder.path("missing"));
    let mut mailers: [Box<dyn Mailer>; 2] =
        [Box::new(FolderMailer::new(folder.path("out"))), Box::new(MemoryMailer::new())];
    for mailer in &mut mailers {
        let error = block_on(mailer.send(&missing)).unwrap_err();
        assert!(matches!(&error, Error::Source(e) if e.to_string().contains("missing")), "{error}");
    }
    assert!(!folder.path("out").exists());
}

#[test]
fn content_from_a_file_or_a_reader_is_copied_whole() {
    let folder = Folder::new();
    let text = "Hello\r\n".repeat(100_000);
    fs::write(folder.path("in"), &text).unwrap();
    let mut mailer = MemoryMailer::new();
    block_on(mailer.send(&Raw::path(envelope(&["bob@example.org"]), folder.path("in")))).unwrap();
    let reader = std::io::Cursor::new(text.clone());
    let once = Raw::reader(envelope(&["bob@example.org"]), reader);
    block_on(mailer.send(&once)).unwrap();
    assert!(mailer.sent().iter().all(|mail| mail.text() == text));
    assert!(matches!(block_on(mailer.send(&once)), Err(Error::Message(_))));
}

#[test]
fn a_folder_takes_what_no_server_can_be_reached_for() {
    let folder = Folder::new();
    let unreachable = Client::builder("127.0.0.1").port(closed().port());
    let outbox = FolderMailer::new(folder.path("."));
    let mut mailer = Failover::new([Box::new(unreachable) as Box<dyn Mailer>, Box::new(outbox.clone())]);
    block_on(mailer.send(&mail())).unwrap();
    assert_eq!(outbox.messages().unwrap().len(), 1);
}

#[cfg(unix)]
mod programs {
    use std::{
        os::unix::fs::PermissionsExt,
        process::Command,
        sync::{Arc, Mutex},
        thread::{self, sleep},
        time::{Duration, Instant},
    };

    use postino::ProgramMailer;

    use super::*;
    use crate::support::PATIENCE;

    fn program() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/mailing-program")
    }

    fn mailer() -> ProgramMailer {
        ProgramMailer::new(program()).time_limit(PATIENCE)
    }

    /// Returns a message for the program, which does what the local part of the sender says.
    fn mail_from<'m>(sender: &str, recipients: &[&str], text: &'m str) -> Raw<'m> {
        let envelope = Envelope::new(&format!("{sender}@example.org"), recipients).unwrap();
        Raw::bytes(envelope, text)
    }

    // Threat 92.
    #[test]
    fn a_program_gets_the_addresses_as_arguments_and_the_message_as_input() {
        let folder = Folder::new();
        let out = folder.path("out");
        let text = format!("Out: {}\r\nSubject: Hi\r\n\r\n.\r\nHello\r\n\rx\n", out.display());
        let recipients = ["bob@example.org", "\"a b;$(id)\"@example.org", "+x@example.org"];
        let delivery = block_on(mailer().send(&mail_from("copy", &recipients, &text))).unwrap();
        assert_eq!(delivery.recipients().filter(|one| one.outcome() == Outcome::Accepted).count(), 3);
        let arguments =
            "-i\n-f\ncopy@example.org\n--\nbob@example.org\n\"a b;$(id)\"@example.org\n+x@example.org";
        let got = fs::read_to_string(out).unwrap();
        assert_eq!(got, format!("{arguments}\nSubject: Hi\n\n.\nHello\n\rx\n"));
    }

    // Threat 92.
    #[test]
    fn the_exit_status_of_a_program_decides_the_outcome() {
        use Outcome::{InDoubt, NotSent, Refused};
        for (code, one, two) in [
            (75, NotSent, NotSent),
            (64, Refused, Refused),
            (65, Refused, Refused),
            (66, Refused, Refused),
            (67, Refused, InDoubt),
            (68, Refused, InDoubt),
            (69, Refused, InDoubt),
            (70, InDoubt, InDoubt),
            (74, InDoubt, InDoubt),
            (77, Refused, Refused),
            (78, Refused, Refused),
            (1, InDoubt, InDoubt),
            (200, InDoubt, InDoubt),
        ] {
            let sender = format!("exit-{code}");
            for (recipients, outcome) in
                [(&["b@example.org"][..], one), (&["b@example.org", "c@example.org"], two)]
            {
                let error =
                    block_on(mailer().send(&mail_from(&sender, recipients, "Hello\r\n"))).unwrap_err();
                assert_eq!(outcomes(&error), vec![outcome; recipients.len()], "{error}");
                let text = error.to_string();
                assert!(text.contains(&format!("exit status: {code}: last[2J line")), "{text}");
                assert!(text.contains("mailing-program") && !text.contains('\u{1b}'), "{text}");
            }
        }
        let error =
            block_on(mailer().send(&mail_from("killed", &["b@example.org"], "Hello\r\n"))).unwrap_err();
        assert_eq!((outcomes(&error), error.retry()), (vec![InDoubt], Retry::MayDuplicate), "{error}");
    }

    // Threat 92.
    #[test]
    fn an_address_that_a_program_could_take_for_an_option_is_refused() {
        let folder = Folder::new();
        let out = folder.path("out");
        let text = format!("Out: {}\r\n", out.display());
        for (sender, recipient) in
            [("-copy@example.org", "b@example.org"), ("copy@example.org", "-t@example.org")]
        {
            let envelope = Envelope::new(sender, ["a@example.org", recipient]).unwrap();
            let error = block_on(mailer().send(&Raw::bytes(envelope, &text))).unwrap_err();
            assert!(matches!(&error, Error::Address { input, .. } if input.starts_with('-')), "{error}");
        }
        let with_option = Envelope::new("copy@example.org", ["b@example.org"]).unwrap();
        let with_option = with_option.recipient_options(RcptOption::NotifyNever).unwrap();
        let error = block_on(mailer().send(&Raw::bytes(with_option, &text))).unwrap_err();
        assert!(matches!(error, Error::Message(_)), "{error}");
        assert!(!out.exists());
    }

    // Threat 92.
    #[test]
    fn only_an_absolute_path_to_a_program_is_accepted() {
        for path in ["sendmail", "./sendmail", "bin/sendmail", ""] {
            let error = block_on(ProgramMailer::new(path).send(&mail())).unwrap_err();
            assert!(matches!(error, Error::Config(_)), "{error}");
        }
        let folder = Folder::new();
        fs::write(folder.path("not executable"), "").unwrap();
        fs::set_permissions(folder.path("not executable"), fs::Permissions::from_mode(0o600)).unwrap();
        for path in [folder.path("missing"), folder.path("not executable"), folder.path(".")] {
            let error = block_on(ProgramMailer::new(&path).send(&mail())).unwrap_err();
            assert_eq!((outcomes(&error), error.retry()), (vec![Outcome::NotSent], Retry::Later), "{error}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
    }

    // Threat 92.
    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let folder = Folder::new();
        let fifo = folder.path("fifo");
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let text = format!("Out: {}\r\n\r\n{}", fifo.display(), "Hello\r\n".repeat(100_000));
        // Reads until nobody has the FIFO open any more. If the child was killed before it wrote anything, reads again.
        let read = Arc::new(Mutex::new(None));
        let (result, path) = (Arc::clone(&read), fifo.clone());
        thread::spawn(move || {
            let texts = std::iter::repeat_with(|| fs::read_to_string(&path).unwrap_or_default());
            let text = texts.take(3).find(|text| !text.is_empty());
            *result.lock().unwrap() = Some(text.unwrap_or_default());
        });
        let ended = |limit| {
            let until = Instant::now() + limit;
            while read.lock().is_ok_and(|read| read.is_none()) && Instant::now() < until {
                sleep(Duration::from_millis(5));
            }
            read.lock().unwrap().clone()
        };
        // On a slow machine, the program may be killed before it has started its child.
        for limit in [300, 3_000, 9_000].map(Duration::from_millis) {
            let began = Instant::now();
            let mail = mail_from("hang", &["b@example.org"], &text);
            let error = block_on(mailer().time_limit(limit).send(&mail)).unwrap_err();
            assert_eq!(outcomes(&error), [Outcome::InDoubt], "{error}");
            assert!(error.to_string().contains("killed after"), "{error}");
            assert!(began.elapsed() >= limit && began.elapsed() < limit + PATIENCE);
            if ended(Duration::from_secs(1)).is_some() {
                break;
            }
        }
        assert_eq!(ended(PATIENCE).as_deref(), Some("started\n"));
    }

    // Threat 92.
    #[test]
    fn a_program_that_floods_or_does_not_read_causes_no_deadlock() {
        let text = "Hello\r\n".repeat(100_000);
        let error = block_on(mailer().send(&mail_from("flood", &["b@example.org"], &text))).unwrap_err();
        assert!(error.to_string().contains("exit status: 70: the end"), "{error}");
        // It exits with 0, but cannot have read the whole message.
        let error = block_on(mailer().send(&mail_from("deaf", &["b@example.org"], &text))).unwrap_err();
        assert_eq!(outcomes(&error), [Outcome::InDoubt], "{error}");
        assert!(error.to_string().contains("before it had read"), "{error}");
    }

    // Threat 92.
    #[cfg(target_os = "linux")]
    #[test]
    fn no_program_is_left_as_a_zombie() {
        for sender in ["exit-0", "exit-75", "killed", "deaf", "hang"] {
            let mail = mail_from(sender, &["b@example.org"], "Hello\r\n\r\n");
            drop(block_on(mailer().time_limit(Duration::from_millis(200)).send(&mail)));
        }
        let parent = std::process::id().to_string();
        let zombies = || {
            let entries = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path().join("stat"));
            let stats = entries.filter_map(|path| fs::read_to_string(path).ok());
            let ours = stats.filter(|stat| {
                let rest = stat.rsplit(')').next().unwrap();
                stat.contains("(mailing-program") && rest.trim().starts_with(&format!("Z {parent} "))
            });
            ours.count()
        };
        // Other tests run programs at the same time, which are zombies for a moment.
        let until = Instant::now() + PATIENCE;
        while zombies() > 0 {
            assert!(Instant::now() < until);
            sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn utf8_headers_are_not_passed_to_a_program() {
        let message =
            |from: &str| Message::builder().from(from).to("bob@example.org").text("Hi\n").build().unwrap();
        let error = block_on(mailer().send(&message("jürgen@example.org"))).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_) | Error::Message(_)), "{error}");
    }
}
