//! A misbehaving server. It refuses, delays, disconnects, sends nonsense or stays silent at random; it knows exactly
//! what it has stored.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    dice::Dice,
    mail::{self, COPIES},
};

/// The limit of the clients' waits. Late replies are later than this.
pub const LIMIT: Duration = Duration::from_millis(400);
/// Maximum time for a client to send something or to leave.
const CEILING: Duration = Duration::from_secs(30);

/// The kind of server, for its whole life.
#[derive(Debug, Clone)]
pub struct Character {
    pub seed: u64,
    pub lmtp: bool,
    /// The other extensions it offers.
    pub keywords: Vec<&'static str>,
    pub behind_the_end: BehindTheEnd,
    /// How many of 10,000 replies go wrong, and how many of 10,000 requests are refused.
    pub trouble: u64,
    pub refusals: u64,
}

/// What becomes of commands that came in together with the end of a message (threats 2.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BehindTheEnd {
    Heard,
    /// They are discarded.
    Swallowed,
    /// Each is answered 503.
    Refused,
}

/// How a reply is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Said,
    Delayed,
    /// So late that no client waits for it any more.
    Late,
    /// Never sent; the connection stays open.
    Silence,
    Dropped,
    Reset,
    /// The connection ends in the middle of it.
    Cut,
    /// Sent, and the connection ends.
    Last,
    /// Sent, and a moment later the connection ends, with or without a 421.
    Idle,
    IdleClosing,
    /// 421 instead.
    Closing,
    /// Octets that are not a reply, instead.
    Junk,
}

/// A server's action on a message.
pub struct Event {
    pub message: usize,
    connection: usize,
    what: &'static str,
    answer: &'static str,
    fate: Fate,
}

impl Event {
    pub fn show(&self) -> String {
        let Event { connection, what, answer, fate, .. } = self;
        format!("connection {connection}: {what}: {answer} ({fate:?})")
    }
}

/// What the server has stored and done, for the messages from `first` on.
pub struct Record {
    first: usize,
    stored: Vec<AtomicU32>,
    events: Mutex<Vec<Event>>,
    /// Violations by clients.
    complaints: Mutex<Vec<String>>,
}

impl Record {
    pub fn new(first: usize, messages: usize) -> Record {
        Record {
            first,
            stored: (0..messages * COPIES).map(|_| AtomicU32::new(0)).collect(),
            events: Mutex::default(),
            complaints: Mutex::default(),
        }
    }

    fn store(&self, (message, copy): (usize, usize)) {
        self.stored[(message - self.first) * COPIES + copy].fetch_add(1, Ordering::SeqCst);
    }

    /// Number of times that this copy of a message was stored.
    pub fn stored(&self, message: usize, copy: usize) -> u32 {
        self.stored[(message - self.first) * COPIES + copy].load(Ordering::SeqCst)
    }

    pub fn history(&self, message: usize) -> Vec<String> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().filter(|event| event.message == message).map(Event::show).collect()
    }

    pub fn complaint(&self) -> Option<String> {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }

    fn complain(&self, what: String) {
        self.complaints.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

pub struct Server {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Server {
    pub fn start(character: Character, record: &Arc<Record>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let (ended, record) = (Arc::clone(&over), Arc::clone(record));
        let thread = thread::spawn(move || accept(&listener, &character, &record, &ended));
        Server { address, over, thread }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Waits until all clients have left. Returns the number of connections.
    pub fn finish(self) -> usize {
        self.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address)); // so that it checks
        self.thread.join().unwrap()
    }
}

fn accept(listener: &TcpListener, character: &Character, record: &Arc<Record>, over: &AtomicBool) -> usize {
    let mut sessions: Vec<JoinHandle<()>> = Vec::new();
    let mut number = 0;
    loop {
        let (socket, _) = listener.accept().unwrap();
        if over.load(Ordering::SeqCst) {
            break;
        }
        let mut session = Session::new(socket, character, record, number);
        sessions.retain(|thread| !thread.is_finished());
        sessions.push(thread::spawn(move || {
            let Err(Over) = session.serve();
            session.keep_events();
        }));
        number += 1;
    }
    for session in sessions {
        session.join().unwrap();
    }
    number
}

/// The connection has ended.
struct Over;

enum Never {}

struct Session {
    socket: TcpStream,
    inbox: Vec<u8>,
    /// Number of octets of the inbox that came in with the end of a message, and are ignored.
    unheard: usize,
    dice: Dice,
    character: Character,
    record: Arc<Record>,
    number: usize,
    events: Vec<Event>,
    /// The transaction since MAIL.
    transaction: Option<Transaction>,
}

#[derive(Default)]
struct Transaction {
    message: usize,
    /// The copies whose recipients were accepted.
    taken: Vec<(usize, usize)>,
    content: Vec<u8>,
}

impl Session {
    fn new(socket: TcpStream, character: &Character, record: &Arc<Record>, number: usize) -> Session {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(CEILING)).unwrap();
        socket.set_write_timeout(Some(CEILING)).unwrap();
        Session {
            socket,
            inbox: Vec::new(),
            unheard: 0,
            dice: Dice::new(character.seed, number as u64),
            character: character.clone(),
            record: Arc::clone(record),
            number,
            events: Vec::new(),
            transaction: None,
        }
    }

    fn keep_events(&mut self) {
        let mut events = self.record.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.append(&mut self.events);
    }

    fn serve(&mut self) -> Result<Never, Over> {
        self.reply("greeting", "220 here")?;
        loop {
            let unheard = self.unheard > 0;
            let line = self.line()?;
            let (verb, rest) = line.split_at(line.len().min(4));
            match (verb.to_ascii_uppercase().as_str(), self.transaction.is_some()) {
                ("EHLO" | "LHLO", _) => self.hello()?,
                ("BDAT", _) => self.chunk(rest, unheard)?, // its octets follow, whatever becomes of it
                _ if unheard => self.reply("joined", "503 one thing after the other")?,
                ("MAIL", false) => self.mail(rest)?,
                ("RCPT", true) => self.recipient(rest)?,
                ("DATA", true) => self.data()?,
                ("MAIL" | "RCPT" | "DATA", _) => self.reply("out of order", "503 not now")?,
                ("RSET", _) => {
                    self.transaction = None;
                    self.reply("RSET", "250 ok")?;
                }
                ("QUIT", _) => {
                    self.reply("QUIT", "221 bye")?;
                    return Err(self.hang_up());
                }
                _ => {
                    self.record.complain(format!("connection {}: {line:?} is no command", self.number));
                    return Err(self.hang_up());
                }
            }
        }
    }

    fn hello(&mut self) -> Result<(), Over> {
        self.transaction = None;
        let keywords = self.character.keywords.clone();
        let offer: String = keywords.iter().map(|keyword| format!("250-{keyword}\r\n")).collect();
        self.reply("EHLO", &format!("250-here\r\n{offer}250 8BITMIME"))
    }

    fn mail(&mut self, rest: &str) -> Result<(), Over> {
        let Some((message, _)) = mail::parse(rest) else { return Err(self.nonsense(rest)) };
        self.transaction = Some(Transaction { message, ..Transaction::default() });
        let refusal = self.refusal();
        let result = self.reply("MAIL", refusal.unwrap_or("250 ok"));
        if refusal.is_some() {
            self.transaction = None;
        }
        result
    }

    fn recipient(&mut self, rest: &str) -> Result<(), Over> {
        let Some(copy) = mail::parse(rest) else { return Err(self.nonsense(rest)) };
        let refusal = self.refusal();
        if let (None, Some(transaction)) = (refusal, &mut self.transaction) {
            transaction.taken.push(copy);
        }
        self.reply("RCPT", refusal.unwrap_or("250 ok"))
    }

    fn data(&mut self) -> Result<(), Over> {
        let nobody = self.transaction.as_ref().is_none_or(|transaction| transaction.taken.is_empty());
        // Some servers send 354 nevertheless (RFC 2920 §3.1).
        if nobody && self.dice.one_in(2) {
            return self.reply("DATA", "554 for nobody");
        }
        if let Some(refusal) = self.refusal() {
            return self.reply("DATA", refusal);
        }
        self.reply("DATA", "354 go on")?;
        let mut content = Vec::new();
        loop {
            let line = self.octets_of_a_line()?;
            match line.strip_prefix(b".") {
                Some(b"\r\n") => break,
                Some(stuffed) => content.extend(stuffed),
                None => content.extend(line),
            }
            if self.dice.below(10_000 * 20) < self.character.trouble {
                return Err(self.break_off());
            }
        }
        let Some(mut transaction) = self.transaction.take() else { return Err(Over) };
        if nobody {
            if !content.is_empty() {
                self.record.complain(format!("content for nobody: {}", content.escape_ascii()));
            }
            return self.reply("content for nobody", "554 nobody");
        }
        transaction.content = content;
        self.end(transaction)
    }

    fn chunk(&mut self, rest: &str, unheard: bool) -> Result<(), Over> {
        let mut words = rest.split_whitespace();
        let octets = words.next().and_then(|octets| octets.parse().ok());
        let Some(octets) = octets else { return Err(self.nonsense(rest)) };
        let last = words.next().is_some();
        let chunk = self.octets(octets)?;
        let in_order = self.transaction.take_if(|transaction| !unheard && !transaction.taken.is_empty());
        let Some(mut transaction) = in_order else { return self.reply("BDAT", "503 for nobody") };
        transaction.content.extend(chunk);
        if last {
            return self.end(transaction);
        }
        match self.refusal() {
            Some(refusal) => self.reply("BDAT", refusal),
            None => {
                self.transaction = Some(transaction);
                self.reply("BDAT", "250 ok")
            }
        }
    }

    /// Handles a complete message: what becomes of it is decided, done, and only then reported.
    fn end(&mut self, transaction: Transaction) -> Result<(), Over> {
        let Transaction { message, taken, content } = transaction;
        if content != mail::content(message) {
            let start = content[..content.len().min(200)].escape_ascii();
            self.record.complain(format!("message {message} is not as it was: {start}"));
        }
        if let Some(other) = taken.iter().find(|copy| copy.0 != message) {
            self.record.complain(format!("message {message} goes to the recipients of message {}", other.0));
        }
        let together = !self.character.lmtp;
        let mut answers = Vec::new();
        for copies in taken.chunks(if together { taken.len() } else { 1 }) {
            let (refusal, fate) = (self.refusal(), self.fate());
            if refusal.is_none() && fate != Fate::Closing {
                copies.iter().for_each(|copy| self.record.store(*copy));
            }
            answers.push((refusal.unwrap_or("250 stored"), fate));
        }
        self.look_behind();
        let last = answers.len() - 1;
        for (n, (answer, fate)) in answers.into_iter().enumerate() {
            // With LMTP, a 421 would be the reply for the next recipient.
            let fate = if fate == Fate::IdleClosing && n < last { Fate::Idle } else { fate };
            self.events.push(Event { message, connection: self.number, what: "end", answer, fate });
            self.say(answer, fate)?;
        }
        Ok(())
    }

    /// Handles what came in with the end of the message.
    fn look_behind(&mut self) {
        match self.character.behind_the_end {
            BehindTheEnd::Heard => {}
            BehindTheEnd::Swallowed => self.inbox.clear(),
            BehindTheEnd::Refused => self.unheard = self.inbox.len(),
        }
    }

    /// Ends the connection after half of the content, with a refusal or without a reply.
    fn break_off(&mut self) -> Over {
        if let Some(Transaction { message, .. }) = self.transaction {
            let (connection, what) = (self.number, "in the content");
            self.events.push(Event { message, connection, what, answer: "breaks off", fate: Fate::Dropped });
        }
        match self.dice.below(3) {
            0 => drop(self.write(b"552 enough\r\n")),
            1 => self.reset(),
            _ => {}
        }
        self.hang_up()
    }

    fn nonsense(&mut self, what: &str) -> Over {
        self.record.complain(format!("connection {}: what is {what:?}?", self.number));
        self.hang_up()
    }

    fn refusal(&mut self) -> Option<&'static str> {
        let refused = self.dice.below(10_000) < self.character.refusals;
        refused.then(|| {
            *self.dice.of(&[
                "450 later",
                "452-4.5.3 later\r\n452 4.5.3 too many",
                "550 no",
                "554 5.7.1 never",
            ])
        })
    }

    fn fate(&mut self) -> Fate {
        if self.dice.below(10_000) >= self.character.trouble {
            return Fate::Said;
        }
        match self.dice.below(60) {
            0 => Fate::Silence,
            1 => Fate::Late,
            n => *self.dice.of(if n < 30 {
                &[Fate::Delayed]
            } else {
                &[
                    Fate::Dropped,
                    Fate::Reset,
                    Fate::Cut,
                    Fate::Last,
                    Fate::Idle,
                    Fate::IdleClosing,
                    Fate::Closing,
                    Fate::Junk,
                ]
            }),
        }
    }

    /// Sends a reply that stores nothing.
    fn reply(&mut self, what: &'static str, answer: &str) -> Result<(), Over> {
        let fate = self.fate();
        if let Some(Transaction { message, .. }) = self.transaction {
            let connection = self.number;
            let answer = if answer.starts_with(['2', '3']) { "taken" } else { "refused" };
            self.events.push(Event { message, connection, what, answer, fate });
        }
        self.say(answer, fate)
    }

    fn say(&mut self, answer: &str, fate: Fate) -> Result<(), Over> {
        let whole = format!("{answer}\r\n");
        let whole = whole.as_bytes();
        match fate {
            Fate::Said => self.write(whole),
            Fate::Delayed => {
                self.dawdle();
                self.write(whole)
            }
            Fate::Late => {
                thread::sleep(2 * LIMIT);
                self.write(whole)
            }
            Fate::Silence => loop {
                self.inbox.clear();
                self.fill()?;
            },
            Fate::Dropped => Err(self.hang_up()),
            Fate::Reset => {
                self.reset();
                Err(Over)
            }
            Fate::Cut => {
                let part = self.dice.below(whole.len() as u64 - 1) as usize;
                self.write(&whole[..part])?;
                Err(self.hang_up())
            }
            Fate::Last => {
                self.write(whole)?;
                Err(self.hang_up())
            }
            Fate::Idle | Fate::IdleClosing => {
                self.write(whole)?;
                self.dawdle();
                if fate == Fate::IdleClosing {
                    self.write(b"421 idle for too long\r\n")?;
                }
                Err(self.hang_up())
            }
            Fate::Closing => {
                self.write(b"421 closing\r\n")?;
                Err(self.hang_up())
            }
            Fate::Junk => {
                let junk: [&[u8]; 4] = [b"what?\r\n", b"\0\xff\r\n", b"25O ok\r\n", b"250-a\r\n550 b\r\n"];
                let junk = *self.dice.of(&junk);
                self.write(junk)
            }
        }
    }

    fn dawdle(&mut self) {
        thread::sleep(Duration::from_millis(self.dice.below(4)));
    }

    fn hang_up(&mut self) -> Over {
        let _ = self.socket.shutdown(Shutdown::Both);
        Over
    }

    /// Makes the next close send RST.
    fn reset(&mut self) {
        let _ = rustix::net::sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
    }

    fn write(&mut self, octets: &[u8]) -> Result<(), Over> {
        self.socket.write_all(octets).map_err(|_| Over)
    }

    fn fill(&mut self) -> Result<(), Over> {
        let mut room = [0; 16_384];
        match self.socket.read(&mut room) {
            Ok(0) => Err(Over),
            Ok(n) => {
                self.inbox.extend_from_slice(&room[..n]);
                Ok(())
            }
            Err(e) => {
                if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) {
                    self.record.complain("a client neither spoke nor left".into());
                }
                Err(Over)
            }
        }
    }

    fn octets(&mut self, octets: usize) -> Result<Vec<u8>, Over> {
        while self.inbox.len() < octets {
            self.fill()?;
        }
        self.unheard = self.unheard.saturating_sub(octets);
        Ok(self.inbox.drain(..octets).collect())
    }

    fn octets_of_a_line(&mut self) -> Result<Vec<u8>, Over> {
        loop {
            if let Some(at) = self.inbox.iter().position(|octet| *octet == b'\n') {
                return self.octets(at + 1);
            }
            self.fill()?;
        }
    }

    fn line(&mut self) -> Result<String, Over> {
        let line = self.octets_of_a_line()?;
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }
}
