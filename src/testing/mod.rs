//! A small SMTP server in the process, for tests: it takes messages on a loopback port and remembers them.
//!
//! ```
//! use postino::testing::Server;
//!
//! let server = Server::start()?;
//! let mut client = postino::Client::from_url(&server.url())?.connect()?;
//! client.send(&postino::Raw::bytes(
//!     postino::Envelope::new("a@example.org", ["b@example.net"])?,
//!     "Subject: Hi\r\n\r\nHello\r\n",
//! ))?;
//! assert_eq!(server.messages().len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It speaks ESMTP with PIPELINING, 8BITMIME, SIZE, SMTPUTF8 and ENHANCEDSTATUSCODES, and, once there are
//! credentials, AUTH PLAIN and LOGIN; not TLS. It is strict, so that a mistake is seen: lines end in CRLF, and a
//! parameter that was not offered is refused. [`Server::builder`] tells it to offer less and to refuse.
//!
//! Every connection has a plain thread of its own. What the server remembers it keeps until it is dropped; what it
//! holds besides, for each connection, is limited by the greatest size of a message.

mod connection;
mod content;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use connection::Connection;

/// The longest wait for something that is about to happen.
const PATIENCE: Duration = Duration::from_secs(10);
/// The size limit of a server that was told no other, in octets.
const SIZE_LIMIT: u64 = 50 * 1024 * 1024;

/// An SMTP server on a port of 127.0.0.1 that the system picks.
///
/// Dropping it shuts its connections down and ends its threads.
pub struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server that takes everything.
    ///
    /// # Errors
    ///
    /// What the system says if it has no loopback port or no thread to give.
    pub fn start() -> io::Result<Server> {
        Server::builder().start()
    }

    /// A server that offers or takes less.
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            offered: vec!["PIPELINING", "8BITMIME", "SIZE", "SMTPUTF8", "ENHANCEDSTATUSCODES", "AUTH"],
            size_limit: SIZE_LIMIT,
            credentials: None,
            login_required: false,
            refused_senders: BTreeMap::new(),
            refused_recipients: BTreeMap::new(),
            refused_message: None,
            on_line: None,
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// `smtp://127.0.0.1:PORT`
    #[must_use]
    pub fn url(&self) -> String {
        format!("smtp://{}", self.addr)
    }

    /// The messages it has accepted so far, in the order in which they ended.
    ///
    /// A message is here before its 250 leaves.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        self.shared.lock().messages.clone()
    }

    /// Waits until it has accepted `n` messages or more, and returns them all.
    ///
    /// It waits 10 seconds at most; then it returns the messages that there are.
    #[must_use]
    pub fn wait_for_messages(&self, n: usize) -> Vec<Message> {
        let too_few = |records: &mut Records| records.messages.len() < n;
        let waited = self.shared.arrived.wait_timeout_while(self.shared.lock(), PATIENCE, too_few);
        waited.unwrap_or_else(PoisonError::into_inner).0.messages.clone()
    }

    /// What was said so far: the lines of the first connection, then those of the second, and so on.
    ///
    /// `C: ` stands before what the client said, `S: ` before what the server said. The content of a message is
    /// one line: `C: (123 octets)`. So is a line that was too long. What a client sends to log in is not hidden.
    #[must_use]
    pub fn dialogue(&self) -> Vec<String> {
        self.shared.lock().dialogues.concat()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop();
        let acceptor = self.acceptor.take();
        // The acceptor sleeps until somebody connects. If nobody can, it is left to sleep rather than waited for.
        if TcpStream::connect_timeout(&self.addr, PATIENCE).is_ok() {
            acceptor.map(JoinHandle::join);
        }
        let threads = std::mem::take(&mut self.shared.lock().threads);
        for thread in threads {
            // `on_line` may drop the server; its thread cannot wait for itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addr", &self.addr).finish_non_exhaustive()
    }
}

type Tell = dyn Fn(&str) + Send + Sync;

/// What a [`Server`] shall offer and refuse, before it starts.
#[must_use]
pub struct ServerBuilder {
    offered: Vec<&'static str>,
    size_limit: u64,
    credentials: Option<(String, String)>,
    login_required: bool,
    refused_senders: BTreeMap<String, String>,
    refused_recipients: BTreeMap<String, String>,
    refused_message: Option<String>,
    on_line: Option<Box<Tell>>,
}

impl ServerBuilder {
    /// Does not offer the extension with this EHLO keyword: `"PIPELINING"`, `"8BITMIME"`, `"SIZE"`, `"SMTPUTF8"`,
    /// `"ENHANCEDSTATUSCODES"` or `"AUTH"`.
    ///
    /// The parameters to MAIL that come with it are refused then: 555 5.5.4. Without PIPELINING, commands sent
    /// ahead are answered all the same, and without ENHANCEDSTATUSCODES, replies keep their codes.
    pub fn without(mut self, keyword: &str) -> ServerBuilder {
        self.offered.retain(|offered| !offered.eq_ignore_ascii_case(keyword));
        self
    }

    /// Offers DSN: RET and ENVID with MAIL, NOTIFY and ORCPT with RCPT (RFC 3461). Defaults to false.
    pub fn dsn(mut self, offered: bool) -> ServerBuilder {
        self = self.without("DSN");
        self.offered.extend(offered.then_some("DSN"));
        self
    }

    /// The greatest message to take, in octets; 0 is no limit (RFC 1870 §4). Defaults to 50 MiB.
    ///
    /// A greater one is refused with 552 5.3.4: at MAIL if SIZE= says so, else at its end.
    pub fn size_limit(mut self, octets: u64) -> ServerBuilder {
        self.size_limit = octets;
        self
    }

    /// Offers AUTH PLAIN and LOGIN, and lets this user in. Defaults to no AUTH.
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> ServerBuilder {
        self.credentials = Some((user.into(), password.into()));
        self
    }

    /// Refuses MAIL with 530 5.7.0 before a login. Defaults to false.
    pub fn require_login(mut self, required: bool) -> ServerBuilder {
        self.login_required = required;
        self
    }

    /// Refuses MAIL from this address (`""` is the null sender), letter case aside, with the given reply, such as
    /// `550 5.7.1 Not you`. Defaults to no refusal.
    ///
    /// # Panics
    ///
    /// If the reply is not one line of a code from 400 to 599, a space, and text.
    #[track_caller]
    pub fn refuse_sender(mut self, address: &str, reply: &str) -> ServerBuilder {
        self.refused_senders.insert(address.to_lowercase(), refusal(reply));
        self
    }

    /// Refuses RCPT to this address, letter case aside, with the given reply, such as `550 5.1.1 No such user`.
    /// Defaults to no refusal.
    ///
    /// # Panics
    ///
    /// If the reply is not one line of a code from 400 to 599, a space, and text.
    #[track_caller]
    pub fn refuse_recipient(mut self, address: &str, reply: &str) -> ServerBuilder {
        self.refused_recipients.insert(address.to_lowercase(), refusal(reply));
        self
    }

    /// Refuses every message at its end with the given reply, such as `554 5.6.0 Not that`. Defaults to no refusal.
    ///
    /// # Panics
    ///
    /// If the reply is not one line of a code from 400 to 599, a space, and text.
    #[track_caller]
    pub fn refuse_message(mut self, reply: &str) -> ServerBuilder {
        self.refused_message = Some(refusal(reply));
        self
    }

    /// Is told each line of [`Server::dialogue`] as it is said, from the thread of its connection. Defaults to
    /// nobody.
    ///
    /// The connection goes on when the function returns, and dropping the server waits for it.
    pub fn on_line(mut self, tell: impl Fn(&str) + Send + Sync + 'static) -> ServerBuilder {
        self.on_line = Some(Box::new(tell));
        self
    }

    /// Starts the server.
    ///
    /// # Errors
    ///
    /// What the system says if it has no loopback port or no thread to give.
    pub fn start(self) -> io::Result<Server> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared { settings: self, records: Mutex::default(), arrived: Condvar::new() });
        let acceptor = thread("accept", {
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        })?;
        Ok(Server { addr, shared, acceptor: Some(acceptor) })
    }

    fn offers(&self, keyword: &str) -> bool {
        self.offered.contains(&keyword) && (keyword != "AUTH" || self.credentials.is_some())
    }

    fn is_too_great(&self, octets: u64) -> bool {
        self.size_limit != 0 && octets > self.size_limit
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("offered", &self.offered)
            .field("size_limit", &self.size_limit)
            .field("user", &self.credentials.as_ref().map(|(user, _)| user))
            .field("login_required", &self.login_required)
            .field("refused_senders", &self.refused_senders)
            .field("refused_recipients", &self.refused_recipients)
            .field("refused_message", &self.refused_message)
            .finish_non_exhaustive()
    }
}

#[track_caller]
fn refusal(reply: &str) -> String {
    let well_formed = match reply.as_bytes() {
        [b'4' | b'5', b'0'..=b'9', b'0'..=b'9', b' ', _, ..] => !reply.contains(char::is_control),
        _ => false,
    };
    assert!(well_formed, "not a refusal such as \"550 5.1.1 No such user\": {reply:?}");
    reply.to_owned()
}

/// A message that a [`Server`] has accepted. Clones share their content.
#[derive(Clone, PartialEq, Eq)]
pub struct Message(Arc<Parts>);

#[derive(Default, PartialEq, Eq)]
struct Parts {
    sender: String,
    mail_parameters: Vec<String>,
    recipients: Vec<String>,
    recipient_parameters: Vec<Vec<String>>,
    content: Vec<u8>,
    user: Option<String>,
}

impl Message {
    /// The address in MAIL, as it was sent; `""` is the null sender.
    #[must_use]
    pub fn sender(&self) -> &str {
        &self.0.sender
    }

    /// The addresses in RCPT, as they were sent; only those that were accepted.
    #[must_use]
    pub fn recipients(&self) -> &[String] {
        &self.0.recipients
    }

    /// The parameters of MAIL, as they were sent: `SIZE=10`, `BODY=8BITMIME`.
    #[must_use]
    pub fn mail_parameters(&self) -> &[String] {
        &self.0.mail_parameters
    }

    /// The parameters of RCPT, as they were sent, for each of [`recipients`](Message::recipients) in turn. There
    /// are none but with [`ServerBuilder::dsn`].
    #[must_use]
    pub fn recipient_parameters(&self) -> &[Vec<String>] {
        &self.0.recipient_parameters
    }

    /// What came after DATA, without the dots that were stuffed and the one that ended it. Line ends are as they
    /// arrived.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.0.content
    }

    /// Who had logged in.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.0.user.as_deref()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("sender", &self.0.sender)
            .field("mail_parameters", &self.0.mail_parameters)
            .field("recipients", &self.0.recipients)
            .field("recipient_parameters", &self.0.recipient_parameters)
            .field("content", &String::from_utf8_lossy(&self.0.content))
            .field("user", &self.0.user)
            .finish()
    }
}

/// What the server and its threads have in common.
struct Shared {
    settings: ServerBuilder,
    records: Mutex<Records>,
    arrived: Condvar,
}

#[derive(Default)]
struct Records {
    messages: Vec<Message>,
    dialogues: Vec<Vec<String>>,
    live: BTreeMap<usize, TcpStream>,
    threads: Vec<JoinHandle<()>>,
    stopped: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a connection where [`Shared::stop`] finds it, under the number that it returns. After that, it fails.
    fn enter(&self, stream: &TcpStream) -> io::Result<usize> {
        let handle = stream.try_clone()?;
        let mut records = self.lock();
        if records.stopped {
            return Err(io::ErrorKind::NotConnected.into());
        }
        let number = records.dialogues.len();
        records.dialogues.push(Vec::new());
        records.live.insert(number, handle);
        Ok(number)
    }

    fn leave(&self, number: usize) {
        self.lock().live.remove(&number);
    }

    fn record(&self, number: usize, line: &str) {
        self.lock().dialogues[number].push(line.to_owned());
        if let Some(tell) = &self.settings.on_line {
            tell(line);
        }
    }

    /// Takes a message in, and says which one it is, from 1.
    fn deliver(&self, parts: Parts) -> usize {
        let mut records = self.lock();
        records.messages.push(Message(Arc::new(parts)));
        self.arrived.notify_all();
        records.messages.len()
    }

    fn stop(&self) {
        let mut records = self.lock();
        records.stopped = true;
        for stream in records.live.values() {
            // It fails if the client was faster.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Gives each connection a thread until the server stops.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.lock().stopped {
            return;
        }
        if accepted.and_then(|(stream, _)| open(stream, shared)).is_err() {
            // Too many open files do not go away at once, and accept() does not wait for that.
            thread::sleep(Duration::from_millis(10));
        }
    }
}

fn open(stream: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let number = shared.enter(&stream)?;
    let connection = Connection::new(stream, number, Arc::clone(shared));
    let thread = thread("connection", move || connection.serve())?;
    let mut records = shared.lock();
    records.threads.retain(|thread| !thread.is_finished());
    records.threads.push(thread);
    Ok(())
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(format!("postino {name}")).spawn(run)
}
