use std::{
    env, fs,
    path::PathBuf,
    process,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use postino::{Client, Delivery, Error, Mail, testing::Server};

use super::*;

/// A spool in a folder of its own, which is removed at the end.
struct Scratch {
    folder: PathBuf,
    spool: Spool,
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
        Scratch { folder, spool }
    }

    fn queue(&self, from: &str, to: &[&str]) -> String {
        let to = to.iter().map(|to| (*to).to_owned()).collect();
        let request = Request { uid: 7, time: now(), from: from.to_owned(), to, ..Request::default() };
        let entry = self.spool.receive(&request, &mut &b"Subject: Hi\n\nHello\n"[..]).unwrap();
        let id = entry.id().to_owned();
        entry.accept().unwrap();
        id
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
            complain: &mut |id, e| panic!("{id}: {e}"),
        };
        runner.run().unwrap();
        tried
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
    let (_, entry) = scratch.spool.list(None).unwrap().pop().unwrap();
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
    let (_, bounce) = scratch.spool.list(None).unwrap().pop().unwrap();
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
    assert_eq!(scratch.spool.list(None).unwrap()[0].1.record().fate(), Fate::Due);

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
        complain: &mut |_, _| complaints += 1,
    };
    runner.run().unwrap();
    assert_eq!((complaints, scratch.counts()), (1, (1, 0, 0)));
}
