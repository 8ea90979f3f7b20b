//! An in-process SMTP server for tests: it accepts messages on a loopback port and records them.
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
//! The server speaks ESMTP with PIPELINING, 8BITMIME, SIZE, SMTPUTF8 and ENHANCEDSTATUSCODES, and, if credentials are
//! set, AUTH PLAIN and LOGIN. It does not support TLS. It is strict, so that mistakes are noticed: commands must end in
//! CRLF, and parameters that were not offered are refused. Use [`Server::builder`] to change what it offers or refuses.
//!
//! Each connection has its own thread. Records are kept until the server is dropped. All other memory that a connection
//! uses is bounded by the maximum message size.

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

use crate::proto::options::mail_extensions;
use connection::Connection;

/// Maximum time to wait for something that is about to happen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Default size limit for a message, in octets.
const SIZE_LIMIT: u64 = 50 * 1024 * 1024;

/// An SMTP server on 127.0.0.1, on a port that the system picks.
///
/// Dropping the server shuts down its connections and ends its threads.
pub struct Server {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server with the default settings, which accepts every sender and recipient.
    ///
    /// # Errors
    ///
    /// The system's error if no loopback port or no thread is available.
    pub fn start() -> io::Result<Server> {
        Server::builder().start()
    }

    /// Creates a builder to configure what the server offers and accepts.
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

    /// Returns the port that the server listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Returns the server's URL, `smtp://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("smtp://{}", self.addr)
    }

    /// Returns the messages accepted so far, in the order in which they were completed.
    ///
    /// A message is included before its 250 reply is sent.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        self.shared.lock().messages.clone()
    }

    /// Waits until the server has accepted at least `n` messages, and returns all of them.
    ///
    /// After 10 seconds, it returns the messages accepted so far, even if there are fewer.
    #[must_use]
    pub fn wait_for_messages(&self, n: usize) -> Vec<Message> {
        let too_few = |records: &mut Records| records.messages.len() < n;
        let waited = self.shared.arrived.wait_timeout_while(self.shared.lock(), PATIENCE, too_few);
        waited.unwrap_or_else(PoisonError::into_inner).0.messages.clone()
    }

    /// Returns the lines exchanged so far: those of the first connection, then those of the second, and so on.
    ///
    /// The client's lines start with `C: `, the server's with `S: `. The content of a message, or a line that was too
    /// long, is shown as one line: `C: (123 octets)`. Login credentials are not hidden.
    #[must_use]
    pub fn dialogue(&self) -> Vec<String> {
        self.shared.lock().dialogues.concat()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop();
        let acceptor = self.acceptor.take();
        // The acceptor blocks until somebody connects. If connecting fails, the acceptor is not waited for.
        if TcpStream::connect_timeout(&self.addr, PATIENCE).is_ok() {
            acceptor.map(JoinHandle::join);
        }
        let threads = std::mem::take(&mut self.shared.lock().threads);
        for thread in threads {
            // `on_line` may drop the server; a thread cannot wait for itself.
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

/// Configures what a [`Server`] offers and refuses, before it starts.
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
    /// Sets whether the extension with this EHLO keyword is offered.
    ///
    /// Offered by default: `"PIPELINING"`, `"8BITMIME"`, `"SIZE"`, `"SMTPUTF8"`, `"ENHANCEDSTATUSCODES"`, and, if
    /// [`credentials`](ServerBuilder::credentials) are set, `"AUTH"`. Not offered by default: `"DSN"` (RFC 3461),
    /// `"REQUIRETLS"`, `"MT-PRIORITY"`, `"DELIVERBY"`, `"FUTURERELEASE"` and `"XVERP"`.
    ///
    /// The parameters of an extension that is not offered are refused with 555 5.5.4. Those of an offered extension are
    /// checked and recorded, but only SIZE and SMTPUTF8 have an effect. Without PIPELINING, pipelined commands are
    /// still answered, and without ENHANCEDSTATUSCODES, replies still have enhanced status codes.
    ///
    /// # Panics
    ///
    /// If the keyword is not one of those above. Case is ignored.
    #[track_caller]
    pub fn extension(mut self, keyword: &str, offered: bool) -> ServerBuilder {
        let mut known = ["PIPELINING", "ENHANCEDSTATUSCODES"].into_iter().chain(mail_extensions());
        let keyword = known.find(|known| known.eq_ignore_ascii_case(keyword));
        let keyword = keyword.expect("not an extension that this server can offer");
        self.offered.retain(|offered| *offered != keyword);
        self.offered.extend(offered.then_some(keyword));
        self
    }

    /// Sets the maximum size of a message, in octets; 0 means no limit (RFC 1870 §4). Defaults to 50 MiB.
    ///
    /// A larger message is refused with 552 5.3.4: at MAIL if SIZE= gives its size, otherwise after its content.
    pub fn size_limit(mut self, octets: u64) -> ServerBuilder {
        self.size_limit = octets;
        self
    }

    /// Offers AUTH PLAIN and LOGIN, and accepts these credentials. By default, AUTH is not offered.
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> ServerBuilder {
        self.credentials = Some((user.into(), password.into()));
        self
    }

    /// Sets whether MAIL is refused with 530 5.7.0 until the client has logged in. Defaults to false.
    pub fn require_login(mut self, required: bool) -> ServerBuilder {
        self.login_required = required;
        self
    }

    /// Refuses MAIL from this address (case-insensitive; `""` is the null sender) with the given reply, such as
    /// `550 5.7.1 Not you`. By default, no sender is refused.
    ///
    /// # Panics
    ///
    /// If the reply is not a single line consisting of a code from 400 to 599, a space, and text.
    #[track_caller]
    pub fn refuse_sender(mut self, address: &str, reply: &str) -> ServerBuilder {
        self.refused_senders.insert(address.to_lowercase(), refusal(reply));
        self
    }

    /// Refuses RCPT to this address (case-insensitive) with the given reply, such as `550 5.1.1 No such user`. By
    /// default, no recipient is refused.
    ///
    /// # Panics
    ///
    /// If the reply is not a single line consisting of a code from 400 to 599, a space, and text.
    #[track_caller]
    pub fn refuse_recipient(mut self, address: &str, reply: &str) -> ServerBuilder {
        self.refused_recipients.insert(address.to_lowercase(), refusal(reply));
        self
    }

    /// Refuses every message at its end with the given reply, such as `554 5.6.0 Not that`. By default, no message is
    /// refused.
    ///
    /// # Panics
    ///
    /// If the reply is not a single line consisting of a code from 400 to 599, a space, and text.
    #[track_caller]
    pub fn refuse_message(mut self, reply: &str) -> ServerBuilder {
        self.refused_message = Some(refusal(reply));
        self
    }

    /// Sets a callback that is called for each line of [`Server::dialogue`] as the line is exchanged, on the thread of
    /// its connection. By default, there is no callback.
    ///
    /// The connection waits until the callback returns. Dropping the server waits for it, too.
    pub fn on_line(mut self, tell: impl Fn(&str) + Send + Sync + 'static) -> ServerBuilder {
        self.on_line = Some(Box::new(tell));
        self
    }

    /// Starts the server.
    ///
    /// # Errors
    ///
    /// The system's error if no loopback port or no thread is available.
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
    /// Returns the address given in MAIL, as it was sent; `""` is the null sender.
    #[must_use]
    pub fn sender(&self) -> &str {
        &self.0.sender
    }

    /// Returns the accepted addresses from the RCPT commands, as they were sent.
    #[must_use]
    pub fn recipients(&self) -> &[String] {
        &self.0.recipients
    }

    /// Returns the parameters of MAIL, as they were sent, such as `SIZE=10` and `BODY=8BITMIME`.
    #[must_use]
    pub fn mail_parameters(&self) -> &[String] {
        &self.0.mail_parameters
    }

    /// Returns the parameters of RCPT, as they were sent, for each of [`recipients`](Message::recipients) in turn. They
    /// are empty unless DSN is offered (see [`ServerBuilder::extension`]).
    #[must_use]
    pub fn recipient_parameters(&self) -> &[Vec<String>] {
        &self.0.recipient_parameters
    }

    /// Returns the content sent after DATA, without dot-stuffing or the final dot. Line ends are kept as they arrived.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.0.content
    }

    /// Returns the name of the user who was logged in, if any.
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

/// State shared by the server and its threads.
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

    /// Registers a connection so that [`Shared::stop`] finds it, and returns its number. Fails after `stop`.
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

    /// Stores a message and returns its number, counting from 1.
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
            // This fails if the client has already disconnected.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Starts a thread for each connection until the server stops.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.lock().stopped {
            return;
        }
        if accepted.and_then(|(stream, _)| open(stream, shared)).is_err() {
            // Without file descriptors, accept() fails at once instead of waiting. The pause avoids a busy loop.
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
