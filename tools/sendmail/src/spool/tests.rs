use std::{
    cell::RefCell,
    env, fs,
    os::unix::fs::{chown, symlink},
    path::PathBuf,
    process,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use postino::{Client, Delivery, Error, Mail, Phase, testing::Server};

use super::{record::Lines, *};

/// A spool in a folder of its own, which is removed at the end.
struct Scratch {
    folder: PathBuf,
    spool: Spool,
    /// What was noted.
    notes: RefCell<Vec<String>>,
}

impl Scratch {
    fn new() -> Scratch {
        Scratch::with_limits(100, 1 << 20)
    }

    fn with_limits(messages: usize, octets: u64) -> Scratch {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("postino-spool-{}-{number}", process::id()));
        let spool = Spool::open(&folder, messages, octets).unwrap();
        Scratch { folder, spool, notes: RefCell::default() }
    }

    fn queue(&self, from: &str, to: &[&str]) -> String {
        self.queue_request(&request(from, to))
    }

    fn queue_request(&self, request: &Request) -> String {
        let entry = self.spool.receive(request, &mut &b"Subject: Hi\n\nHello\n"[..]).unwrap();
        let id = entry.id().to_owned();
        entry.accept().unwrap();
        id
    }

    /// All messages that can be read.
    fn entries(&self) -> Vec<(Place, Entry)> {
        let mut entries = Vec::new();
        self.spool
            .list(None, |place, _, entry| entries.extend(entry.ok().map(|entry| (place, entry))))
            .unwrap();
        entries
    }

    /// Runs the queue once, and returns the number of attempts.
    fn run(&self, waits: &Waits, send: &mut dyn FnMut(&Entry) -> Result<Delivery, Error>) -> usize {
        let mut tried = 0;
        let runner = Runner {
            spool: &self.spool,
            waits,
            everything: false,
            domain: "box.example",
            send,
            report: &mut |_, _| tried += 1,
            note: &mut |_, text| self.notes.borrow_mut().push(text.to_owned()),
            complain: &mut |id, e| panic!("{id}: {e}"),
        };
        runner.run().unwrap();
        tried
    }

    /// Lets a message have waited for this time, in seconds.
    fn age(&self, place: Place, id: &str, seconds: u64) {
        self.spool.lock(place, id).unwrap().unwrap().set_waited(seconds).unwrap();
    }

    fn ids(&self, place: Place) -> Vec<String> {
        self.spool.files(place).unwrap().into_iter().map(|(id, _)| id).collect()
    }

    /// The numbers of messages in the queue, in doubt and failed.
    fn counts(&self) -> (usize, usize, usize) {
        assert_eq!(self.ids(Place::Tmp), <Vec<String>>::new());
        (self.ids(Place::Queue).len(), self.ids(Place::Doubt).len(), self.ids(Place::Failed).len())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.folder));
    }
}

fn request(from: &str, to: &[&str]) -> Request {
    let to = to.iter().map(|to| (*to).to_owned()).collect();
    Request { uid: 7, time: now(), from: from.to_owned(), to, ..Request::default() }
}

const AT_ONCE: Waits = Waits { waits: Vec::new(), give_up_after: Duration::from_secs(3600) };

fn via(server: &Server) -> impl FnMut(&Entry) -> Result<Delivery, Error> {
    let url = server.url();
    move |entry| Client::from_url(&url)?.send(entry)
}

fn nowhere(entry: &Entry) -> Result<Delivery, Error> {
    Client::builder("127.0.0.1").port(1).send(entry)
}

#[test]
fn a_delivered_message_leaves_the_spool() {
    let (scratch, server) = (Scratch::new(), Server::start().unwrap());
    scratch.queue("alice@example.org", &["bob@example.org"]);
    assert_eq!(scratch.run(&AT_ONCE, &mut via(&server)), 1);
    assert_eq!(scratch.counts(), (0, 0, 0));
    let messages = server.messages();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].content(), b"Subject: Hi\r\n\r\nHello\r\n");
}

#[test]
fn a_message_is_tried_again_when_it_is_due() {
    let (scratch, server) = (Scratch::new(), Server::start().unwrap());
    scratch.queue("alice@example.org", &["bob@example.org"]);
    assert_eq!(scratch.run(&Waits::default(), &mut nowhere), 1);
    assert_eq!(scratch.run(&Waits::default(), &mut via(&server)), 0);
    let (_, entry) = scratch.entries().pop().unwrap();
    assert_eq!((entry.record().tries, entry.record().fate()), (1, Fate::Due));
    assert!((290..=300).contains(&(entry.record().next - now())));
    assert!(entry.record().reason.contains("127.0.0.1"), "{}", entry.record().reason);
}

#[test]
fn a_server_that_cannot_be_reached_is_tried_once_in_a_run() {
    let scratch = Scratch::new();
    scratch.queue("alice@example.org", &["bob@example.org"]);
    scratch.queue("alice@example.org", &["carol@example.org"]);
    assert_eq!(scratch.run(&AT_ONCE, &mut nowhere), 1);
    assert_eq!(scratch.counts(), (2, 0, 0));
}

#[test]
fn a_message_is_sent_again_only_to_the_remaining_recipients() {
    let server =
        Server::builder().refuse_recipient("bob@example.org", "450 4.2.0 greylisted").start().unwrap();
    let (scratch, other) = (Scratch::new(), Server::start().unwrap());
    scratch.queue("alice@example.org", &["bob@example.org", "carol@example.org"]);
    scratch.run(&AT_ONCE, &mut via(&server));
    assert_eq!(scratch.counts(), (1, 0, 0));
    scratch.run(&AT_ONCE, &mut via(&other));
    assert_eq!(scratch.counts(), (0, 0, 0));
    assert_eq!(server.messages()[0].recipients(), ["carol@example.org"]);
    assert_eq!(other.messages()[0].recipients(), ["bob@example.org"]);
}

#[test]
fn refusals_are_returned_to_the_sender_and_a_bounce_does_not_bounce() {
    let server =
        Server::builder().refuse_recipient("bob@example.org", "550 5.1.1 no such user").start().unwrap();
    let scratch = Scratch::new();
    scratch.queue("alice@example.org", &["bob@example.org", "carol@example.org"]);
    scratch.run(&AT_ONCE, &mut via(&server));
    assert_eq!(scratch.counts(), (1, 0, 0)); // the bounce
    let other = Server::builder().refuse_recipient("alice@example.org", "550 5.1.1 unknown").start().unwrap();
    scratch.run(&AT_ONCE, &mut via(&other));
    assert_eq!(scratch.counts(), (0, 0, 1));
    let (_, bounce) = scratch.entries().pop().unwrap();
    assert_eq!(bounce.envelope().unwrap_err().to_string(), Error::NoRecipients.to_string());
    let text = String::from_utf8(bounce.head().unwrap()).unwrap();
    for part in [
        "To: alice@example.org\r\n",
        "Auto-Submitted: auto-replied\r\n",
        "Final-Recipient: rfc822; bob@example.org\r\nAction: failed\r\nStatus: 5.1.1\r\n",
        "Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n",
        "\r\nSubject: Hi\r\n",
    ] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    assert!(!text.contains("carol"), "{text}");
}

#[test]
fn the_sender_is_told_of_a_refusal_while_others_are_left() {
    let server = Server::builder()
        .refuse_recipient("bob@example.org", "550 5.1.1 no such user")
        .refuse_recipient("carol@example.org", "450 4.2.0 greylisted")
        .start()
        .unwrap();
    let scratch = Scratch::new();
    scratch.queue("alice@example.org", &["bob@example.org", "carol@example.org"]);
    scratch.run(&AT_ONCE, &mut via(&server));
    assert_eq!(scratch.counts(), (2, 0, 0)); // the bounce, and the message for carol
    let other = Server::start().unwrap();
    assert_eq!(scratch.run(&AT_ONCE, &mut via(&other)), 2);
    assert_eq!(scratch.counts(), (0, 0, 0));
    let to: Vec<_> = other.messages().iter().map(|m| m.recipients().to_vec()).collect();
    assert_eq!(to.concat(), ["carol@example.org", "alice@example.org"]);
}

#[test]
fn a_message_that_is_too_old_is_returned() {
    let scratch = Scratch::new();
    scratch.queue("alice@example.org", &["bob@example.org"]);
    scratch.run(&Waits { waits: Vec::new(), give_up_after: Duration::ZERO }, &mut nowhere);
    let id = scratch.ids(Place::Queue).pop().unwrap();
    assert!(id.ends_with("B1"), "{id}");
}

#[test]
fn only_a_process_killed_while_sending_leaves_a_message_in_doubt() {
    let (scratch, server) = (Scratch::new(), Server::start().unwrap());
    let id = scratch.queue("alice@example.org", &["bob@example.org"]);
    let entry = scratch.spool.lock(Place::Queue, &id).unwrap().unwrap();
    let mut reader = entry.body().unwrap().into_reader().unwrap();
    reader.read_exact(&mut [0; 5]).unwrap();
    drop(reader);
    drop(entry); // the lock goes with the process
    assert_eq!(scratch.entries()[0].1.record().fate(), Fate::Due);

    let entry = scratch.spool.lock(Place::Queue, &id).unwrap().unwrap();
    let mut reader = entry.body().unwrap().into_reader().unwrap();
    reader.read_to_end(&mut Vec::new()).unwrap();
    drop(reader);
    drop(entry);
    assert_eq!(scratch.run(&AT_ONCE, &mut via(&server)), 0);
    assert_eq!(scratch.counts(), (0, 1, 0));

    assert!(!scratch.spool.resend(&id, Some(8)).unwrap()); // another user
    assert!(scratch.spool.resend(&id, Some(7)).unwrap());
    assert_eq!(scratch.run(&AT_ONCE, &mut via(&server)), 1);
    assert_eq!((scratch.counts(), server.messages().len()), ((0, 0, 0), 1));
}

#[test]
fn a_message_in_use_by_another_process_is_left_alone() {
    let scratch = Scratch::new();
    let id = scratch.queue("alice@example.org", &["bob@example.org"]);
    let entry = scratch.spool.lock(Place::Queue, &id).unwrap().unwrap();
    assert!(scratch.spool.lock(Place::Queue, &id).unwrap().is_none());
    assert_eq!(scratch.run(&AT_ONCE, &mut nowhere), 0);
    drop(entry);
    assert_eq!(scratch.run(&AT_ONCE, &mut nowhere), 1);
}

#[test]
fn the_limits_of_the_spool_are_enforced() {
    let scratch = Scratch::with_limits(1, 1 << 20);
    scratch.queue("alice@example.org", &["bob@example.org"]);
    let request = Request { to: vec!["bob@example.org".into()], ..Request::default() };
    let full = scratch.spool.receive(&request, &mut &b"x"[..]).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);

    let scratch = Scratch::with_limits(9, 1000);
    let full = scratch.spool.receive(&request, &mut &[b'x'; 2000][..]).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
    assert_eq!(scratch.counts(), (0, 0, 0));
}

/// A message during whose reading another process stores one.
struct Meanwhile(Option<Spool>);

impl Read for Meanwhile {
    fn read(&mut self, _room: &mut [u8]) -> io::Result<usize> {
        if let Some(spool) = self.0.take() {
            let request = request("alice@example.org", &["bob@example.org"]);
            spool.receive(&request, &mut &b"\nHello\n"[..])?.accept()?;
        }
        Ok(0)
    }
}

#[test]
fn the_limits_apply_to_messages_that_are_stored_at_the_same_time() {
    for (messages, octets) in [(1, 1 << 20), (9, 50)] {
        let scratch = Scratch::with_limits(messages, octets);
        // It has looked before this one was there.
        let other = Spool { max_messages: 9, max_octets: 1 << 20, ..scratch.spool.clone() };
        let request = request("alice@example.org", &["bob@example.org"]);
        let full = scratch.spool.receive(&request, &mut Meanwhile(Some(other))).unwrap_err();
        assert_eq!((full.kind(), scratch.counts()), (ErrorKind::StorageFull, (1, 0, 0)), "{full}");
    }
}

#[test]
fn a_message_that_could_not_be_read_again_is_not_stored() {
    let scratch = Scratch::new();
    let to = vec!["a@b".repeat(100); 60_000];
    let error = scratch.spool.receive(&Request { to, ..Request::default() }, &mut io::empty()).unwrap_err();
    assert_eq!((error.kind(), scratch.counts()), (ErrorKind::InvalidInput, (0, 0, 0)));
}

#[test]
fn files_that_are_not_messages_are_left_alone() {
    let scratch = Scratch::new();
    fs::write(scratch.folder.join("queue/README"), "").unwrap();
    fs::write(scratch.folder.join("queue/00000000000000"), "postino spool 9\ncontent 5\n\n").unwrap();
    let mut complaints = 0;
    let runner = Runner {
        spool: &scratch.spool,
        waits: &AT_ONCE,
        everything: true,
        domain: "box.example",
        send: &mut nowhere,
        report: &mut |_, _| panic!("nothing to send"),
        note: &mut |_, _| panic!("nothing to note"),
        complain: &mut |_, _| complaints += 1,
    };
    runner.run().unwrap();
    assert_eq!((complaints, scratch.counts()), (1, (1, 0, 0)));
}

/// Runs the queue with a server that refuses some recipients permanently.
fn refusing(scratch: &Scratch, recipients: &[&str]) {
    let server = recipients
        .iter()
        .fold(Server::builder(), |server, to| server.refuse_recipient(to, "550 5.1.1 no such user"))
        .start()
        .unwrap();
    scratch.run(&AT_ONCE, &mut via(&server));
}

fn is_bounce(id: &str) -> bool {
    id.len() > 14
}

/// The only bounce in the queue.
fn bounce_text(scratch: &Scratch) -> String {
    let id = scratch.ids(Place::Queue).into_iter().find(|id| is_bounce(id)).unwrap();
    let text = fs::read_to_string(scratch.spool.path(Place::Queue, &id)).unwrap();
    text.split_once("\n\n").unwrap().1.to_owned()
}

#[test]
fn a_bounce_for_an_address_beyond_ascii_is_ascii() {
    let scratch = Scratch::new();
    let request =
        Request { envid: Some("id=1".into()), ..request("alice@example.org", &["jörg@example.org"]) };
    scratch.queue_request(&request);
    refusing(&scratch, &["jörg@example.org"]);
    let text = bounce_text(&scratch);
    for part in [
        "\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n",
        "  <j=C3=B6rg@example.org>\r\n",
        "\r\nOriginal-Envelope-Id: id=1\r\n",
        "\r\nFinal-Recipient: utf-8; j\\x{F6}rg@example.org\r\nAction: failed\r\n",
    ] {
        assert!(text.contains(part) && text.is_ascii(), "{part:?} is missing in {text}");
    }
    let server = Server::start().unwrap();
    scratch.run(&AT_ONCE, &mut via(&server));
    assert_eq!(server.messages()[0].recipients(), ["alice@example.org"]);
}

#[test]
fn a_bounce_of_many_recipients_is_limited() {
    let scratch = Scratch::new();
    let recipients: Vec<_> = (0..500).map(|n| format!("user{n}@example.org")).collect();
    let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
    let id = scratch.queue("alice@example.org", &recipients);
    let mut entry = scratch.spool.lock(Place::Queue, &id).unwrap().unwrap();
    let reason = format!("550 5.1.1 {}", "no ".repeat(1000));
    entry.settle(&vec![State::Refused(reason); 500], 0, "").unwrap();
    drop(entry);
    scratch.run(&AT_ONCE, &mut nowhere);
    let text = bounce_text(&scratch);
    assert!(text.len() < 300_000, "{}", text.len());
    assert!(text.lines().all(|line| line.len() <= 998));
    assert_eq!(text.matches("Final-Recipient: rfc822; user").count(), 500);
    assert_eq!((text.matches("  <user").count(), text.matches("Diagnostic-Code").count()), (500, 100));
}

#[test]
fn each_message_has_its_own_bounce() {
    let scratch = Scratch::new();
    for sender in ["alice@example.org", "carol@example.org", "dave@example.org"] {
        scratch.queue(sender, &["bob@example.org", "eve@example.org"]);
    }
    refusing(&scratch, &["bob@example.org", "eve@example.org"]);
    assert_eq!(scratch.counts(), (3, 0, 0));
    let server = Server::start().unwrap();
    assert_eq!(scratch.run(&AT_ONCE, &mut via(&server)), 3);
    let mut to: Vec<_> = server.messages().iter().map(|m| m.recipients().concat()).collect();
    to.sort();
    assert_eq!(to, ["alice@example.org", "carol@example.org", "dave@example.org"]);
    assert!(server.messages().iter().all(|message| message.sender().is_empty()));
}

#[test]
fn what_cannot_be_returned_is_noted_and_later_removed() {
    let never =
        Request { notify: Some("never".into()), ..request("alice@example.org", &["bob@example.org"]) };
    let success = Request { notify: Some("success,delay".into()), ..never.clone() };
    for request in [never, success, request("", &["bob@example.org"])] {
        let scratch = Scratch::new();
        scratch.queue_request(&request);
        refusing(&scratch, &["bob@example.org"]);
        assert_eq!(scratch.counts(), (0, 0, 1));
        assert_eq!(
            *scratch.notes.borrow(),
            ["undeliverable, and not returned: kept for --resend or --remove"]
        );

        scratch.run(&AT_ONCE, &mut nowhere);
        assert_eq!(scratch.counts(), (0, 0, 1));
        scratch.age(Place::Failed, &scratch.ids(Place::Failed)[0], 3600);
        scratch.run(&AT_ONCE, &mut nowhere);
        assert_eq!(scratch.counts(), (0, 0, 0));
        assert_eq!(scratch.notes.borrow()[1..], ["undeliverable, and removed"]);
    }
    let scratch = Scratch::new();
    let failure =
        Request { notify: Some("failure".into()), ..request("alice@example.org", &["bob@example.org"]) };
    scratch.queue_request(&failure);
    refusing(&scratch, &["bob@example.org"]);
    assert_eq!((scratch.counts(), scratch.notes.borrow().len()), ((1, 0, 0), 0));
}

#[test]
fn a_refusal_that_cannot_be_returned_does_not_stop_the_other_recipients() {
    let server = Server::builder()
        .refuse_recipient("bob@example.org", "550 5.1.1 no such user")
        .refuse_recipient("carol@example.org", "450 4.2.0 greylisted")
        .start()
        .unwrap();
    let (scratch, other) = (Scratch::new(), Server::start().unwrap());
    scratch.queue("", &["bob@example.org", "carol@example.org"]);
    scratch.run(&AT_ONCE, &mut via(&server));
    assert_eq!(scratch.counts(), (1, 0, 0));
    scratch.run(&AT_ONCE, &mut via(&other));
    assert_eq!(other.messages()[0].recipients(), ["carol@example.org"]);
    assert_eq!(scratch.counts(), (0, 0, 1));
}

#[test]
fn an_error_without_a_delivery_is_not_resent_if_the_message_may_be_delivered() {
    // All errors that are in doubt, before the content was read.
    for error in [
        Error::Timeout(Phase::End),
        Error::Closed(Phase::End),
        Error::Stopped(Phase::End),
        Error::Io { phase: Phase::End, source: ErrorKind::ConnectionReset.into() },
        Error::Protocol { phase: Phase::End, what: "?".into() },
    ] {
        assert!(error.in_doubt() && error.delivery().is_none());
        let scratch = Scratch::new();
        scratch.queue("alice@example.org", &["bob@example.org", "carol@example.org"]);
        let mut error = Some(error);
        scratch.run(&AT_ONCE, &mut |_| Err(error.take().unwrap()));
        assert_eq!(scratch.counts(), (0, 1, 0));
        assert!(
            scratch.entries()[0].1.record().recipients.iter().all(|state| matches!(state, State::Doubt(_)))
        );
    }
    // Any error, after the content was read to its end.
    let scratch = Scratch::new();
    scratch.queue("alice@example.org", &["bob@example.org"]);
    scratch.run(&AT_ONCE, &mut |entry| {
        entry.body()?.into_reader().and_then(|mut reader| reader.read_to_end(&mut Vec::new())).unwrap();
        Err(Error::NotConnected)
    });
    assert_eq!(scratch.counts(), (0, 1, 0));
    assert_eq!(scratch.run(&AT_ONCE, &mut nowhere), 0);
}

#[test]
fn a_clock_that_is_put_back_does_not_delay_a_message() {
    let (scratch, server) = (Scratch::new(), Server::start().unwrap());
    let id = scratch.queue("alice@example.org", &["bob@example.org"]);
    let mut entry = scratch.spool.lock(Place::Queue, &id).unwrap().unwrap();
    let next = |entry: &mut Entry, wait| entry.settle(&[State::Due], now() + wait, "busy").unwrap();
    next(&mut entry, 4 * 3600 - 5);
    drop(entry);
    assert_eq!(scratch.run(&Waits::default(), &mut via(&server)), 0);
    let mut entry = scratch.spool.lock(Place::Queue, &id).unwrap().unwrap();
    next(&mut entry, 5 * 3600);
    drop(entry);
    assert_eq!(scratch.run(&Waits::default(), &mut via(&server)), 1);
    assert_eq!(scratch.counts(), (0, 0, 0));
}

#[test]
fn a_clock_that_is_put_forward_does_not_end_the_attempts() {
    let scratch = Scratch::new();
    let id =
        scratch.queue_request(&Request { time: 0, ..request("alice@example.org", &["bob@example.org"]) });
    let waits = Waits { waits: vec![Duration::ZERO; 3], ..AT_ONCE };
    for _ in 0..5 {
        scratch.run(&waits, &mut nowhere);
        assert!(!is_bounce(&scratch.ids(Place::Queue)[0]));
    }
    scratch.age(Place::Queue, &id, 3600);
    scratch.run(&waits, &mut nowhere);
    assert!(scratch.ids(Place::Queue)[0].ends_with("B6"));
}

#[test]
fn a_clock_that_is_put_forward_does_not_remove_what_cannot_be_returned() {
    let scratch = Scratch::new();
    scratch.queue("", &["bob@example.org"]);
    refusing(&scratch, &["bob@example.org"]);
    let path = scratch.spool.path(Place::Failed, &scratch.ids(Place::Failed)[0]);
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(4000)).unwrap();
    scratch.run(&AT_ONCE, &mut nowhere);
    assert_eq!(scratch.counts(), (0, 0, 1));
}

#[test]
fn a_message_is_not_returned_before_the_last_of_its_attempts() {
    let scratch = Scratch::new();
    let id = scratch.queue("alice@example.org", &["bob@example.org"]);
    scratch.age(Place::Queue, &id, 1_000_000);
    let waits = Waits { waits: vec![Duration::ZERO; 3], ..AT_ONCE };
    for _ in 0..3 {
        scratch.run(&waits, &mut nowhere);
        assert!(!is_bounce(&scratch.ids(Place::Queue)[0]));
    }
    scratch.run(&waits, &mut nowhere);
    assert!(scratch.ids(Place::Queue)[0].ends_with("B4"));
}

#[test]
fn only_time_that_the_machine_runs_counts() {
    assert_eq!((elapsed(5, 9), elapsed(9, 5)), (4, 5));
    let scratch = Scratch::new();
    let id = scratch.queue("alice@example.org", &["bob@example.org"]);
    let mut entry = scratch.spool.lock(Place::Queue, &id).unwrap().unwrap();
    let mut before_a_restart = Lines::default();
    before_a_restart.waited(1000, u64::MAX);
    entry.append(&before_a_restart).unwrap();
    let now = uptime();
    assert!((1000 + now..1060 + now).contains(&entry.waited()), "{}", entry.waited());
    entry.settle(&[State::Due], 0, "busy").unwrap();
    assert!((1000 + now..1060 + now).contains(&entry.record().waited.unwrap().0));
}

#[test]
fn the_time_that_a_message_waits_is_recorded_while_the_server_cannot_be_reached() {
    let scratch = Scratch::new();
    let ids = [(); 2].map(|()| scratch.queue("alice@example.org", &["bob@example.org"]));
    assert_eq!(scratch.run(&AT_ONCE, &mut nowhere), 1);
    for id in ids {
        let entry = scratch.spool.lock(Place::Queue, &id).unwrap().unwrap();
        assert!(entry.record().waited.is_some());
    }
    let before: Vec<_> = scratch.ids(Place::Queue);
    let sizes = || before.iter().map(|id| fs::metadata(scratch.spool.path(Place::Queue, id)).unwrap().len());
    let second = sizes().nth(1);
    scratch.run(&AT_ONCE, &mut nowhere);
    assert_eq!(sizes().nth(1), second, "it is not written each time");
}

#[test]
fn links_pipes_and_folders_are_reported_and_skipped() {
    let (scratch, server) = (Scratch::new(), Server::start().unwrap());
    let id = scratch.queue("alice@example.org", &["bob@example.org"]);
    let queue = scratch.folder.join("queue");
    fs::rename(queue.join(&id), scratch.folder.join("moved")).unwrap();
    symlink(scratch.folder.join("moved"), queue.join("AAAAAAAAAAAAAA")).unwrap();
    symlink("/dev/zero", queue.join("BBBBBBBBBBBBBB")).unwrap();
    fs::create_dir(queue.join("CCCCCCCCCCCCCC")).unwrap();
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mkfifoat(rustix::fs::CWD, queue.join("DDDDDDDDDDDDDD"), mode).unwrap();
    fs::write(queue.join("EEEEEEEEEEEEEE"), "").unwrap();
    fs::write(queue.join("FFFFFFFFFFFFFF"), "postino spool 1\ncontent 18446744073709551615\n\n").unwrap();
    scratch.queue("alice@example.org", &["bob@example.org"]);
    let complaints = RefCell::new(Vec::new());
    let runner = Runner {
        spool: &scratch.spool,
        waits: &AT_ONCE,
        everything: true,
        domain: "box.example",
        send: &mut via(&server),
        report: &mut |_, _| {},
        note: &mut |_, _| panic!("nothing to note"),
        complain: &mut |id, _| complaints.borrow_mut().push(id[..1].to_owned()),
    };
    runner.run().unwrap();
    assert_eq!(complaints.borrow().concat(), "ABCDEF");
    assert_eq!(server.messages().len(), 1);
    let mut unreadable = String::new();
    scratch.spool.list(None, |_, id, entry| unreadable.extend(entry.is_err().then(|| &id[..1]))).unwrap();
    assert_eq!(unreadable, "ABCDEF");
    // They count, so that they do not go unnoticed.
    assert_eq!(scratch.spool.contents().unwrap().0, 6);
}

#[test]
fn a_folder_that_everyone_can_write_is_not_used() {
    let scratch = Scratch::new();
    fs::set_permissions(scratch.folder.join("queue"), Permissions::from_mode(0o2777)).unwrap();
    let error = Spool::open(&scratch.folder, 1, 1).unwrap_err();
    assert!(error.to_string().ends_with("queue is open to everyone (its mode is 2777)"), "{error}");
    fs::set_permissions(scratch.folder.join("queue"), Permissions::from_mode(0o2770)).unwrap();
    fs::set_permissions(&scratch.folder, Permissions::from_mode(0o777)).unwrap();
    let error = Spool::open(&scratch.folder, 1, 1).unwrap_err();
    assert!(error.to_string().ends_with("is open to everyone (its mode is 777)"), "{error}");
}

#[test]
fn a_folder_of_another_user_is_not_used() {
    if !geteuid().is_root() {
        return eprintln!("SKIPPED: this test needs root");
    }
    for folder in ["", "tmp", "queue", "doubt", "failed"] {
        let scratch = Scratch::new();
        chown(scratch.folder.join(folder), Some(65_534), None).unwrap();
        let error = Spool::open(&scratch.folder, 1, 1).unwrap_err();
        assert!(error.to_string().ends_with("belongs to user 65534"), "{error}");
    }
    let scratch = Scratch::new();
    fs::remove_dir(scratch.folder.join("failed")).unwrap();
    symlink(scratch.folder.join("queue"), scratch.folder.join("failed")).unwrap();
    let error = Spool::open(&scratch.folder, 1, 1).unwrap_err();
    assert!(error.to_string().ends_with("failed is not a folder"), "{error}");
}

#[test]
fn a_message_that_cannot_be_cleaned_away_does_not_stop_the_others() {
    let scratch = Scratch::new();
    let ids = [(); 3].map(|()| {
        let request = request("alice@example.org", &["bob@example.org"]);
        let entry = scratch.spool.receive(&request, &mut &b"\nHello\n"[..]).unwrap();
        entry.body().unwrap().into_reader().unwrap().read_to_end(&mut Vec::new()).unwrap();
        entry.id().to_owned()
    });
    let first = ids.iter().min().unwrap();
    fs::create_dir_all(scratch.spool.path(Place::Doubt, first).join("x")).unwrap();
    let mut complaints = Vec::new();
    let mut complain = |id: &str, _: &io::Error| complaints.push(id.to_owned());
    scratch.spool.clean(&mut complain).unwrap();
    assert_eq!(complaints.concat(), *first);
    assert_eq!((scratch.ids(Place::Tmp), scratch.ids(Place::Doubt).len()), (vec![first.clone()], 3));
}

#[test]
fn a_new_file_that_a_cleaning_process_has_found_is_given_up() {
    let scratch = Scratch::new();
    let path = scratch.spool.path(Place::Tmp, "0123456789ABCD");
    let create = || OpenOptions::new().write(true).create_new(true).open(&path).unwrap();
    // It is still locked.
    let file = create();
    let other = open(&path, false).unwrap();
    assert!(lock_at_once(&other).unwrap());
    let error = scratch.spool.lock_new("0123456789ABCD", &file).unwrap_err();
    assert_eq!((error.kind(), path.exists()), (ErrorKind::AlreadyExists, false));
    // It was removed.
    let file = create();
    fs::remove_file(&path).unwrap();
    let error = scratch.spool.lock_new("0123456789ABCD", &file).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    scratch.spool.lock_new("0123456789ABCD", &create()).unwrap();
    assert!(path.exists());
}

/// A file that is opened for writing, as for a lock, is reported when it is closed.
#[cfg(target_os = "linux")]
#[test]
fn the_message_of_another_user_is_not_even_locked() {
    use rustix::fs::inotify;

    let scratch = Scratch::new();
    let id = scratch.queue("alice@example.org", &["bob@example.org"]);
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    let queue = scratch.folder.join("queue");
    inotify::add_watch(&watch, &queue, inotify::WatchFlags::CLOSE_WRITE).unwrap();
    let mut room = [const { std::mem::MaybeUninit::uninit() }; 1024];
    let mut was_locked = || inotify::Reader::new(&watch, &mut room).next().is_ok();
    assert!(!scratch.spool.remove(&id, Some(8)).unwrap() && !scratch.spool.resend(&id, Some(8)).unwrap());
    assert!(!was_locked());
    assert!(scratch.spool.resend(&id, Some(7)).unwrap());
    assert!(was_locked());
}

#[test]
fn a_message_is_in_doubt_only_if_nobody_is_sending_it() {
    let scratch = Scratch::new();
    let id = scratch.queue("alice@example.org", &["bob@example.org"]);
    let entry = scratch.spool.lock(Place::Queue, &id).unwrap().unwrap();
    entry.body().unwrap().into_reader().unwrap().read_to_end(&mut Vec::new()).unwrap();
    assert!(scratch.entries()[0].1.is_in_use());
    drop(entry);
    let (_, entry) = scratch.entries().pop().unwrap();
    assert_eq!((entry.is_in_use(), entry.record().fate()), (false, Fate::Doubt));
}

#[test]
fn a_message_whose_file_cannot_be_read_does_not_stop_the_others() {
    let (scratch, server) = (Scratch::new(), Server::start().unwrap());
    for _ in 0..2 {
        scratch.queue("alice@example.org", &["bob@example.org"]);
    }
    let mut is_first = true;
    let mut send = via(&server);
    let tried = scratch.run(&AT_ONCE, &mut |entry| {
        if std::mem::take(&mut is_first) { Err(Error::Source(ErrorKind::Other.into())) } else { send(entry) }
    });
    assert_eq!((tried, server.messages().len(), scratch.counts()), (2, 1, (1, 0, 0)));
}

#[test]
fn an_order_to_send_again_begins_the_waits_anew() {
    let scratch = Scratch::new();
    let id = scratch.queue("alice@example.org", &["bob@example.org"]);
    let waits = Waits { waits: vec![Duration::ZERO, Duration::from_secs(7000)], ..AT_ONCE };
    for _ in 0..2 {
        assert_eq!(scratch.run(&waits, &mut nowhere), 1);
    }
    scratch.age(Place::Queue, &id, 3600);
    assert_eq!(scratch.run(&waits, &mut nowhere), 0);
    assert!(scratch.spool.resend(&id, None).unwrap());
    for _ in 0..2 {
        assert_eq!(scratch.run(&waits, &mut nowhere), 1);
    }
    assert_eq!(scratch.run(&waits, &mut nowhere), 0);
    assert_eq!((scratch.entries()[0].1.record().tries, scratch.ids(Place::Queue)), (4, vec![id]));
}

#[test]
fn a_process_killed_after_storing_a_bounce_does_not_return_the_message_twice() {
    let (scratch, server) = (Scratch::new(), Server::start().unwrap());
    let id = scratch.queue("alice@example.org", &["bob@example.org", "carol@example.org"]);
    let mut entry = scratch.spool.lock(Place::Queue, &id).unwrap().unwrap();
    entry.settle(&[State::Refused("550 no".into()), State::Due], now() + 1000, "").unwrap();
    let bounce = bounce(&scratch.spool, &entry, "box.example").unwrap();
    let waits = Waits { waits: vec![Duration::from_secs(3600)], ..AT_ONCE };
    assert_eq!(scratch.run(&waits, &mut via(&server)), 0, "the bounce is locked until it is recorded");
    drop(bounce);
    assert_eq!(scratch.run(&waits, &mut via(&server)), 0, "and not sent before that");

    // The process is killed while another one has passed by the message and not yet reached its bounce.
    let between = scratch.spool.store_as(&format!("{id}A"), entry.request(), b"\n\n").unwrap();
    drop(between);
    let mut entry = Some(entry);
    let mut send = via(&server);
    assert_eq!(
        scratch.run(&waits, &mut |message| {
            drop(entry.take());
            send(message)
        }),
        2
    );
    let bounces = || server.messages().iter().filter(|message| message.sender().is_empty()).count();
    assert_eq!(bounces(), 1);
    scratch.run(&waits, &mut send);
    assert_eq!((bounces(), scratch.counts()), (1, (1, 0, 0)));
}

#[test]
fn a_new_message_never_replaces_one_that_is_stored() {
    let scratch = Scratch::new();
    let stored = scratch.queue("alice@example.org", &["bob@example.org"]);
    let mut ids = vec!["0123456789ABCD".to_owned(), stored.clone(), stored];
    let (id, _) = scratch.spool.create(|| ids.pop().unwrap()).unwrap();
    assert_eq!(id, "0123456789ABCD");
    assert_eq!(scratch.ids(Place::Tmp), [id]);
    assert_eq!(scratch.ids(Place::Queue).len(), 1);
}

#[test]
fn all_messages_for_a_server_that_cannot_be_reached_are_returned_in_time() {
    let scratch = Scratch::new();
    for _ in 0..5 {
        let id = scratch.queue("alice@example.org", &["bob@example.org"]);
        scratch.age(Place::Queue, &id, 3600);
    }
    let waits = Waits { waits: vec![Duration::ZERO; 2], ..AT_ONCE };
    for _ in 0..2 {
        assert_eq!(scratch.run(&waits, &mut nowhere), 1);
    }
    assert!(scratch.ids(Place::Queue).iter().all(|id| !is_bounce(id)));
    scratch.run(&waits, &mut nowhere);
    let ids = scratch.ids(Place::Queue);
    assert!(ids.len() == 5 && ids.iter().all(|id| is_bounce(id)), "{ids:?}");
}
