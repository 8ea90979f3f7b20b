//! The promises of the core for any server, without sockets: a session of `Hello`, `Auth`, `Transactions` and `Simple`
//! against random replies. `transaction.rs` has the promises about messages, including pipelining.

#[path = "support/options.rs"]
mod options;

use std::borrow::Cow;

use memchr::memmem;
use options::Options;
use postino::{
    Capabilities, Envelope, Error, Outcome, Phase,
    proto::{
        Auth, AuthOptions, Credentials, Dialogue, Hello, Inbox, MailParameters, Outbox, Simple, Transaction,
        Transactions, Upgrade, Want,
    },
};
use proptest::prelude::*;

/// An endless supply of decisions.
#[derive(Debug, Clone)]
struct Tape(Vec<u8>, usize);

impl Tape {
    fn next(&mut self) -> usize {
        self.1 += 1;
        usize::from(self.0[self.1 % self.0.len()]) ^ (self.1 / self.0.len()) & 15
    }
}

/// Maximum number of octets waiting to be sent.
const MOST_UNSENT: usize = 256 * 1024;
/// Maximum number of steps of a session.
const MOST_STEPS: usize = 100_000;

/// A session with a server that answers one command at a time.
struct Session {
    inbox: Inbox,
    out: Outbox,
    /// The server's replies.
    replies: Box<dyn FnMut(Phase, bool) -> Vec<u8>>,
    /// Source of the sizes of reads and writes; `None` if they are not split.
    cuts: Option<Tape>,
    wire: Vec<u8>,
    /// Number of octets sent in clear text.
    clear: Option<usize>,
    /// Number of recipients that the server has accepted in this transaction, and how often it has asked for content.
    taken: usize,
    asked: usize,
    contents: Vec<Vec<u8>>,
    steps: usize,
    /// The result of each dialogue.
    ends: Vec<String>,
}

impl Session {
    fn new(
        replies: impl FnMut(Phase, bool) -> Vec<u8> + 'static,
        cuts: Option<Tape>,
        contents: Vec<Vec<u8>>,
    ) -> Session {
        Session {
            inbox: Inbox::default(),
            out: Outbox::default(),
            replies: Box::new(replies),
            cuts,
            wire: Vec::new(),
            clear: None,
            taken: 0,
            asked: 0,
            contents,
            steps: 0,
            ends: Vec::new(),
        }
    }

    /// Returns the size of the next piece of this many octets.
    fn piece(&mut self, all: usize) -> usize {
        self.cuts.as_mut().map_or(all, |cuts| all.min(1 + cuts.next() % 40))
    }

    fn hear(&mut self, talk: &mut dyn Dialogue) -> Result<(), Error> {
        loop {
            let phase = talk.phase();
            let wrong = |what| Error::Protocol { phase, what: Cow::Borrowed(what) };
            let Some(reply) = self.inbox.next_reply().map_err(wrong)? else { return Ok(()) };
            if self.out.due() == 0 {
                return Err(talk.on_early(reply));
            }
            self.out.reply_arrived();
            match (phase, reply.code()) {
                (Phase::Mail, _) => self.taken = 0,
                (Phase::Recipient, 200..300) => self.taken += 1,
                (Phase::Data, 300..400) => self.asked += 1,
                _ => {}
            }
            talk.on_reply(reply, &self.out)?;
            if reply.code() == 421 {
                return Err(Error::NotConnected);
            }
        }
    }

    /// Writes the pending octets, in pieces.
    fn write(&mut self) {
        // Each command is sent separately, so the replies to the earlier ones are known.
        let asks = [b"DATA\r\n".as_slice(), b"BDAT "].iter().any(|verb| self.out.unsent().starts_with(verb));
        assert!(!asks || self.taken > 0, "content is announced although no recipient was accepted");
        while !self.out.unsent().is_empty() {
            let n = self.piece(self.out.unsent().len());
            let offered = self.out.offer();
            self.wire.extend_from_slice(&offered[..n]);
            self.out.written(n);
        }
    }

    /// Runs a dialogue to its end.
    fn carry(&mut self, talk: &mut dyn Dialogue) -> Result<Want, Error> {
        let mut arriving = Vec::new();
        loop {
            self.steps += 1;
            assert!(self.steps < MOST_STEPS, "the session does not end");
            self.hear(talk)?;
            let want = talk.fill(&mut self.out);
            assert!(self.out.unsent().len() < MOST_UNSENT, "too many octets are waiting to be sent");
            match want {
                Want::Write => self.write(),
                Want::Reply | Want::Probe => {
                    self.write();
                    if arriving.is_empty() {
                        let secured = self.clear.is_some();
                        arriving = (self.replies)(talk.phase(), secured);
                        if arriving.is_empty() {
                            return Err(Error::Closed(talk.phase()));
                        }
                    }
                    let room = self.inbox.room().len();
                    let n = self.piece(arriving.len()).min(room);
                    self.inbox.room()[..n].copy_from_slice(&arriving[..n]);
                    self.inbox.arrived(n);
                    arriving.drain(..n);
                }
                Want::StartTls => {
                    if !self.inbox.is_empty() || !arriving.is_empty() {
                        return Err(Error::NotConnected); // an injected reply
                    }
                    self.clear = Some(self.wire.len());
                    talk.on_tls();
                }
                Want::Body(number) => {
                    assert!(self.taken > 0, "content is sent although no recipient was accepted");
                    let rest = self.contents[number].len();
                    let n = self.piece(rest);
                    let piece: Vec<u8> = self.contents[number].drain(..n).collect();
                    talk.body(&piece, &mut self.out)?;
                }
                Want::Nothing => {
                    assert_eq!(self.out.due(), 0, "a reply was left unread");
                    assert!(self.out.unsent().is_empty(), "something was left unsent");
                    return Ok(want);
                }
                want => return Ok(want),
            }
        }
    }

    fn end(&mut self, what: &str, result: Result<(), Error>) -> bool {
        let is_well = result.is_ok();
        self.ends.push(result.map_or_else(|e| format!("{what}: {e}"), |()| format!("{what}: done")));
        is_well
    }

    /// Runs the greeting and STARTTLS, a login, messages, and QUIT.
    fn run(&mut self, options: Options) {
        let mut hello = Hello::new("me.example.org", Upgrade::Required, true).unwrap();
        let greeted = self.carry(&mut hello).map(drop);
        if !self.end("hello", greeted) {
            return;
        }
        assert!(self.clear.is_some(), "the dialogue ended without TLS");
        let (_, _, capabilities) = hello.into_parts();
        if self.log_in(&capabilities) && self.send(options) {
            let mut quit = Simple::quit();
            let left = self.carry(&mut quit).map(drop);
            self.end("quit", left);
        }
    }

    fn log_in(&mut self, capabilities: &Capabilities) -> bool {
        let options = AuthOptions::default().encrypted(true);
        let auth = Auth::new(Credentials::new("user", "secret").unwrap(), options, capabilities);
        let mut auth = match auth {
            Ok(auth) => auth,
            Err(e) => return self.end("login", Err(e)),
        };
        let broke = self.carry(&mut auth).err();
        self.end("login", auth.into_result(broke))
    }

    fn send(&mut self, options: Options) -> bool {
        let mut talk = Transactions::new(options.into(), false);
        for number in 0..self.contents.len() {
            let names = (0..=number).map(|name| format!("r{name}@x"));
            let envelope = Envelope::new("s@x", names).unwrap();
            talk.message(Transaction::new(envelope, MailParameters::default()));
        }
        talk.no_more();
        let broke = loop {
            match self.carry(&mut talk) {
                Ok(Want::Result) => self.take(&mut talk),
                Ok(Want::Message) => talk.no_more(),
                Ok(_) => break None,
                Err(e) => break Some(e),
            }
        };
        let is_well = broke.is_none();
        if let Some(e) = broke {
            talk.lose(self.out.octets_offered(), e);
            self.take(&mut talk);
        }
        is_well
    }

    fn take(&mut self, talk: &mut Transactions) {
        while let Some(result) = talk.next_result() {
            let outcome = match &result {
                Ok(delivery) => delivery.outcome(),
                Err(e) => e.delivery().map_or(Outcome::NotSent, postino::Delivery::outcome),
            };
            self.ends.push(format!("{outcome:?}"));
        }
    }
}

/// A server's reply: usually a fitting one, sometimes any other.
fn reply(phase: Phase, secured: bool, roll: usize) -> Vec<u8> {
    const ODD: [&str; 14] = [
        "421 bye\r\n",
        "550 no\r\n",
        "451 later\r\n",
        "354 go on\r\n",
        "334 YWJj\r\n",
        "250 ok\r\n",
        "251 elsewhere\r\n",
        "220 hi\r\n",
        "503-not\r\n503 now\r\n",
        "235 in\r\n",
        "hello\r\n",
        "2500 ok\r\n",
        "250-a\r\n550 b\r\n",
        "",
    ];
    let fits = match phase {
        _ if roll % 16 == 0 => ODD[roll / 16 % ODD.len()],
        Phase::Greeting | Phase::StartTls => "220 hi\r\n",
        Phase::Hello if secured => "250-hi\r\n250-AUTH PLAIN LOGIN\r\n250 CHUNKING\r\n",
        Phase::Hello => "250-hi\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS\r\n",
        Phase::Auth => "235 in\r\n",
        Phase::Data => "354 go on\r\n",
        Phase::Quit => "221 bye\r\n",
        Phase::Recipient if roll % 5 == 0 => "550 who?\r\n",
        _ => "250 ok\r\n",
    };
    fits.as_bytes().to_vec()
}

/// Runs a session with these replies.
fn session(replies: &Tape, cuts: Option<Tape>, contents: &[Vec<u8>], options: Options) -> Session {
    let mut replies = replies.clone();
    let mut session =
        Session::new(move |phase, secured| reply(phase, secured, replies.next()), cuts, contents.to_vec());
    session.run(options);
    session
}

fn tape() -> impl Strategy<Value = Tape> {
    prop::collection::vec(any::<u8>(), 8..60).prop_map(|bytes| Tape(bytes, 0))
}

fn contents() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let content = ("[a.\r\n]{0,40}", prop_oneof![20 => Just(0), 1 => Just(90_000usize)]);
    let content =
        content.prop_map(|(text, filler)| [text.as_bytes(), &vec![b'x'; filler], text.as_bytes()].concat());
    prop::collection::vec(content, 0..4)
}

/// Options without pipelining: what is sent cannot depend on which replies happened to arrive together.
fn options() -> impl Strategy<Value = Options> {
    (any::<bool>(), any::<bool>()).prop_map(|(chunking, all_or_nothing)| Options {
        chunking,
        all_or_nothing,
        ..Options::default()
    })
}

proptest! {
    // Threat 31.
    #[test]
    fn how_reads_and_writes_are_split_does_not_change_a_session(
        replies in tape(), cuts in tape(), contents in contents(), options in options(),
    ) {
        if options.chunking && contents.iter().any(|content| content.len() > 60_000) {
            return Ok(()); // the ends of chunks depend on how the content is split
        }
        let whole = session(&replies, None, &contents, options);
        let pieces = session(&replies, Some(cuts), &contents, options);
        prop_assert_eq!(&whole.ends, &pieces.ends);
        prop_assert!(whole.wire == pieces.wire, "{}", pieces.wire.escape_ascii());
    }

    #[test]
    fn no_login_and_no_message_is_sent_before_required_tls(
        replies in tape(), cuts in tape(), contents in contents(), options in options(),
    ) {
        let session = session(&replies, Some(cuts), &contents, options);
        let clear = &session.wire[..session.clear.unwrap_or(session.wire.len())];
        for line in clear.split_inclusive(|octet| *octet == b'\n') {
            let is_harmless = line == b"EHLO me.example.org\r\n" || line == b"STARTTLS\r\n";
            prop_assert!(is_harmless, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn no_bare_cr_or_lf_is_sent_and_no_message_ends_early(
        replies in tape(), cuts in tape(), contents in contents(),
    ) {
        // CHUNKING is off: a chunk has a length, and may contain what looks like the end of a message.
        let session = session(&replies, Some(cuts), &contents, Options::default());
        let count = |octets: &[u8]| memmem::find_iter(&session.wire, octets).count();
        prop_assert_eq!(count(b"\r"), count(b"\r\n"));
        prop_assert_eq!(count(b"\n"), count(b"\r\n"));
        prop_assert!(count(b"\r\n.\r\n") <= session.asked, "{}", session.wire.escape_ascii());
    }

    #[test]
    fn every_dialogue_ends_whatever_octets_the_server_sends(
        said in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20),
        begin in 0usize..12, cuts in tape(), contents in contents(), options in options(),
    ) {
        // At first, everything goes well.
        let mut said = said.into_iter().enumerate();
        let mut count = 0;
        let replies = move |phase, secured| {
            count += 1;
            if count <= begin { reply(phase, secured, 1) } else { said.next().map(|(_, octets)| octets).unwrap_or_default() }
        };
        let mut session = Session::new(replies, Some(cuts), contents);
        session.run(options);
        prop_assert!(!session.ends.is_empty());
    }
}

#[test]
fn a_session_with_a_cooperative_server_is_completed() {
    let contents = [b"Hello\r\n".to_vec(), b".\r\n".to_vec()];
    let mut session = Session::new(|phase, secured| reply(phase, secured, 1), None, contents.to_vec());
    session.run(Options::default());
    assert_eq!(session.ends, ["hello: done", "login: done", "Accepted", "Accepted", "quit: done"]);
}
