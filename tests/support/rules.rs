//! A server double that follows rules, over any number of connections: what it accepts, and when it ends a session.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::PATIENCE;

/// How a session ends after its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enough {
    /// The next MAIL, and every one after it, is answered 452.
    Refuses,
    /// The next MAIL is answered 421.
    Announces,
    /// The connection is closed with the reply to the last message.
    Closes,
}

/// The server's behaviour.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The extensions it offers, such as `PIPELINING`.
    pub keywords: Vec<&'static str>,
    pub lmtp: bool,
    /// Number of messages in a session, accepted or not, and what happens then.
    pub session: Option<(usize, Enough)>,
    /// Number of connections on which it accepts messages; later ones are at their end from the start.
    pub connections: Option<usize>,
    /// Commands that arrive after another in one read are answered 503, although it offers PIPELINING.
    pub misreads: bool,
    /// The line of the final dot is removed only if it ends what one read returned; otherwise it is stored with the
    /// message, as is what follows it there. The replies are right all the same.
    pub careless: bool,
    /// Addresses for which RCPT gets this reply.
    pub refuses: Option<(&'static str, &'static str)>,
    /// Maximum number of recipients of a transaction: the others are answered 452.
    pub room: Option<usize>,
}

/// A message that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The connection it came over, from 0.
    pub connection: usize,
    pub recipients: Vec<String>,
    pub content: String,
}

#[derive(Debug, Default)]
struct Record {
    stored: Vec<Stored>,
    /// The commands sent on each connection, without content.
    commands: Vec<Vec<String>>,
    live: Vec<TcpStream>,
    over: bool,
}

/// The server, which runs until it is dropped.
pub struct Ruled {
    address: SocketAddr,
    record: Arc<Mutex<Record>>,
    acceptor: Option<JoinHandle<()>>,
}

impl Ruled {
    pub fn start(rules: Rules) -> Ruled {
        super::journal::begin();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let record = Arc::new(Mutex::new(Record::default()));
        let shared = record.clone();
        let acceptor = thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let stream = stream.unwrap();
                let mut record = lock(&shared);
                if record.over {
                    return;
                }
                record.commands.push(Vec::new());
                record.live.push(stream.try_clone().unwrap());
                let session = Session::new(rules.clone(), shared.clone(), number, stream);
                thread::spawn(move || session.serve());
            }
        });
        Ruled { address, record, acceptor: Some(acceptor) }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns the accepted messages, in order.
    pub fn stored(&self) -> Vec<Stored> {
        lock(&self.record).stored.clone()
    }

    /// Returns the number of connections made.
    pub fn connections(&self) -> usize {
        lock(&self.record).commands.len()
    }

    /// Returns the number of messages accepted on each connection.
    pub fn stored_per_connection(&self) -> Vec<usize> {
        let record = lock(&self.record);
        let of = |number| record.stored.iter().filter(|stored| stored.connection == number).count();
        (0..record.commands.len()).map(of).collect()
    }

    /// Waits until commands with this prefix were sent this often: the client does not wait for the reply to some.
    #[track_caller]
    pub fn wait_for(&self, verb: &str, times: usize) {
        let start = Instant::now();
        while self.count(verb) < times && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(self.count(verb), times, "{verb}");
    }

    /// Returns how often a command with this prefix was sent, over all connections.
    pub fn count(&self, verb: &str) -> usize {
        let record = lock(&self.record);
        record.commands.iter().flatten().filter(|command| command.starts_with(verb)).count()
    }
}

impl Drop for Ruled {
    fn drop(&mut self) {
        {
            let mut record = lock(&self.record);
            record.over = true;
            record.live.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        }
        drop(TcpStream::connect(self.address)); // wakes the acceptor
        self.acceptor.take().map(JoinHandle::join);
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection.
struct Session {
    rules: Rules,
    record: Arc<Mutex<Record>>,
    number: usize,
    stream: TcpStream,
    input: Vec<u8>,
    replies: Vec<u8>,
    mail: bool,
    recipients: Vec<String>,
    chunks: Vec<u8>,
    /// Messages whose end was answered.
    answered: usize,
    gone: bool,
}

impl Session {
    fn new(rules: Rules, record: Arc<Mutex<Record>>, number: usize, stream: TcpStream) -> Session {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Session {
            rules,
            record,
            number,
            stream,
            input: Vec::new(),
            replies: Vec::new(),
            mail: false,
            recipients: Vec::new(),
            chunks: Vec::new(),
            answered: 0,
            gone: false,
        }
    }

    fn serve(mut self) {
        self.talk();
        drop(self.stream.shutdown(Shutdown::Both)); // the record has a handle to it, too
    }

    fn talk(&mut self) {
        self.say("220 mail.example.org");
        let mut room = [0; 65_536];
        while !self.gone && self.flush() {
            match self.stream.read(&mut room) {
                Ok(0) | Err(_) => return,
                Ok(n) => self.input.extend_from_slice(&room[..n]),
            }
            let mut first = true;
            while !self.gone && self.command(first) {
                first = false;
            }
        }
        self.flush();
    }

    fn say(&mut self, reply: &str) {
        self.replies.extend_from_slice(reply.as_bytes());
        self.replies.extend_from_slice(b"\r\n");
    }

    /// Writes all replies to what one read returned at once. False if the client is gone.
    fn flush(&mut self) -> bool {
        self.stream.write_all(&std::mem::take(&mut self.replies)).is_ok()
    }

    /// Waits for more input. False if there is none.
    fn more(&mut self) -> bool {
        let mut room = [0; 65_536];
        match self.flush().then(|| self.stream.read(&mut room)) {
            Some(Ok(n)) if n > 0 => {
                self.input.extend_from_slice(&room[..n]);
                true
            }
            _ => {
                self.gone = true;
                false
            }
        }
    }

    /// Answers one command, if there is one. `first`: nothing before it came in the same read.
    fn command(&mut self, first: bool) -> bool {
        let Some(end) = self.input.windows(2).position(|w| w == b"\r\n") else { return false };
        let line: Vec<u8> = self.input.drain(..end + 2).take(end).collect();
        let line = String::from_utf8(line).unwrap();
        lock(&self.record).commands[self.number].push(line.clone());
        let verb = line.split(' ').next().unwrap_or_default();
        match verb {
            "QUIT" => {
                self.say("221 bye");
                self.gone = true;
            }
            "BDAT" if self.rules.misreads && !first => {
                if self.chunk(&line).is_some() {
                    self.say("503 5.5.1 one at a time");
                }
            }
            _ if self.rules.misreads && !first => self.say("503 5.5.1 one at a time"),
            "EHLO" | "LHLO" => {
                let keywords = self.rules.keywords.clone();
                self.say("250-mail.example.org");
                keywords.iter().for_each(|keyword| self.say(&format!("250-{keyword}")));
                self.say("250 HELP");
            }
            "HELO" | "NOOP" | "XCLIENT" => self.say("250 ok"),
            "RSET" => {
                (self.mail, self.recipients) = (false, Vec::new());
                self.chunks.clear();
                self.say("250 ok");
            }
            "MAIL" => self.mail_from(),
            "RCPT" if !self.mail => self.say("503 5.5.1 MAIL first"),
            "RCPT" => self.rcpt(&line),
            "DATA" if self.recipients.is_empty() => self.say("503 5.5.1 RCPT first"),
            "DATA" => self.data(),
            "BDAT" => self.bdat(&line),
            _ => self.say("500 5.5.2 what?"),
        }
        true
    }

    fn mail_from(&mut self) {
        let closed_to_all = self.rules.connections.is_some_and(|most| self.number >= most);
        let enough = self.rules.session.filter(|(most, _)| self.answered >= *most || closed_to_all);
        match enough {
            Some((_, Enough::Refuses)) => self.say("452 4.5.3 too many messages in this session"),
            Some((_, Enough::Announces)) => {
                self.say("421 4.7.0 too many messages in this session");
                self.gone = true;
            }
            Some((_, Enough::Closes)) => self.gone = true,
            None => {
                self.mail = true;
                self.say("250 ok");
            }
        }
    }

    fn rcpt(&mut self, line: &str) {
        let address = line["RCPT TO:<".len()..].split('>').next().unwrap_or_default().to_owned();
        match self.rules.refuses {
            Some((refused, reply)) if refused == address => self.say(reply),
            _ if self.rules.room.is_some_and(|most| self.recipients.len() >= most) => {
                self.say("452 4.5.3 too many recipients");
            }
            _ => {
                self.recipients.push(address);
                self.say("250 ok");
            }
        }
    }

    fn data(&mut self) {
        self.say("354 go on");
        loop {
            let end = self.input.windows(5).position(|w| w == b"\r\n.\r\n").map(|at| at + 2);
            let Some(end) = end else {
                if self.more() {
                    continue;
                }
                return;
            };
            let content = if self.rules.careless && self.input.len() > end + 3 {
                self.input.clone()
            } else {
                self.input[..end].to_vec()
            };
            self.input.drain(..end + 3);
            return self.store(content);
        }
    }

    /// Reads the octets that follow BDAT.
    fn chunk(&mut self, line: &str) -> Option<Vec<u8>> {
        let octets: usize = line.split(' ').nth(1).unwrap().parse().unwrap();
        while self.input.len() < octets {
            if !self.more() {
                return None;
            }
        }
        Some(self.input.drain(..octets).collect())
    }

    fn bdat(&mut self, line: &str) {
        let Some(chunk) = self.chunk(line) else { return };
        if self.recipients.is_empty() {
            return self.say("503 5.5.1 RCPT first");
        }
        self.chunks.extend(chunk);
        if line.ends_with(" LAST") {
            let content = std::mem::take(&mut self.chunks);
            self.store(content);
        } else {
            self.say("250 ok");
        }
    }

    fn store(&mut self, content: Vec<u8>) {
        let recipients = std::mem::take(&mut self.recipients);
        let finals = if self.rules.lmtp { recipients.len() } else { 1 };
        (0..finals).for_each(|_| self.say("250 stored"));
        let content = String::from_utf8(content).unwrap();
        lock(&self.record).stored.push(Stored { connection: self.number, recipients, content });
        self.mail = false;
        self.answered += 1;
        if matches!(self.rules.session, Some((most, Enough::Closes)) if self.answered >= most) {
            self.flush();
            self.gone = true;
        }
    }
}
