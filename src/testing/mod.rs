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
//! server.expect_message().assert_subject("Hi").assert_recipients(["b@example.net"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The page [`testing_your_code`](crate::guide::testing_your_code) shows blocking and async tests, faults and TLS.
//!
//! The server speaks ESMTP with PIPELINING, 8BITMIME, SIZE, SMTPUTF8 and ENHANCEDSTATUSCODES. If credentials are set,
//! it offers AUTH PLAIN and LOGIN, and if an OAuth token is set, OAUTHBEARER and XOAUTH2. With the `testing-tls`
//! feature, it can also offer STARTTLS or use implicit TLS. It is strict, so that mistakes are noticed: commands must
//! end in CRLF, and parameters that were not offered are refused. Use [`Server::builder`] to change what it offers or
//! refuses, and [`Server::inject`] to make a step of a session fail.
//!
//! Each connection has its own thread. Messages and dialogues are kept until they are [cleared](Server::clear) or the
//! server is dropped. Each open connection also holds one message, up to the [size limit](ServerBuilder::size_limit).

mod connection;
mod content;
mod decode;
mod fault;
mod message;
#[cfg(test)]
mod tests;
#[cfg_attr(not(feature = "testing-tls"), path = "no_tls.rs")]
mod tls;
mod wait;

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
use fault::{Act, Faults};
use message::Parts;
use tls::Tls;

pub use self::{
    decode::Attachment,
    fault::{Fault, Step},
    message::Message,
};

/// Default limit for waiting for messages, and the limit for waking the acceptor.
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

/// Creates a builder of one of the two clients, whose types differ, for a server.
macro_rules! builder_for {
    ($client:ty, $server:expr) => {{
        let mut builder = <$client>::from_url(&$server.url()).expect("the URL of a server is valid");
        if let Some(certificate) = $server.certificate() {
            builder = builder.ca_certificate(certificate).system_roots(false);
        }
        let ServerBuilder { credentials, token, .. } = &$server.shared.settings;
        match (credentials, token) {
            (Some((user, password)), _) => builder.credentials(user, password),
            (None, Some((user, token))) => builder.oauth_token(user, token),
            (None, None) => builder,
        }
    }};
}

impl Server {
    /// Starts a server with the default settings, which accepts every sender and recipient.
    ///
    /// # Errors
    ///
    /// The system's error if no loopback port or thread is available.
    pub fn start() -> io::Result<Server> {
        Server::builder().start()
    }

    /// Creates a builder to configure what the server offers and accepts.
    pub fn builder() -> ServerBuilder {
        ServerBuilder {
            offered: vec!["PIPELINING", "8BITMIME", "SIZE", "SMTPUTF8", "ENHANCEDSTATUSCODES", "AUTH"],
            size_limit: SIZE_LIMIT,
            credentials: None,
            token: None,
            login_required: false,
            refused_senders: BTreeMap::new(),
            refused_recipients: BTreeMap::new(),
            refused_message: None,
            faults: Faults::default(),
            tls_mode: None,
            tls_required: false,
            wait_limit: PATIENCE,
            on_line: None,
        }
    }

    /// Returns the port that the server listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// Returns the server's URL: `smtp://127.0.0.1:PORT`. If the server offers STARTTLS, `?tls=required` is added. With
    /// implicit TLS, the scheme is `smtps`. With TLS, the client also has to trust the server's certificate.
    #[must_use]
    pub fn url(&self) -> String {
        match self.shared.tls.as_ref().map(Tls::mode) {
            None => format!("smtp://{}", self.addr),
            Some(Mode::StartTls) => format!("smtp://{}?tls=required", self.addr),
            Some(Mode::Implicit) => format!("smtps://{}", self.addr),
        }
    }

    /// Returns a builder for a blocking client of this server. It uses TLS if the server does, trusts only the server's
    /// certificate, and logs in if the server has [credentials](ServerBuilder::credentials) or, failing these, an
    /// [OAuth token](ServerBuilder::oauth_token).
    ///
    /// ```
    /// use postino::{Message, testing::Server};
    ///
    /// let server = Server::start()?;
    /// let message = Message::builder().from("a@example.org").to("b@example.net").text("Hello\n").build()?;
    /// server.client_builder().send(&message)?;
    /// assert_eq!(server.expect_message().text(), Some("Hello\n"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn client_builder(&self) -> crate::Builder {
        builder_for!(crate::Client, self)
    }

    /// Returns a builder for an async client of this server, with the same settings that
    /// [`client_builder`](Server::client_builder) uses for a blocking one (feature `async`).
    #[cfg(feature = "async")]
    #[cfg_attr(docsrs, doc(cfg(feature = "async")))]
    pub fn aio_client_builder(&self) -> crate::aio::Builder {
        builder_for!(crate::aio::Client, self)
    }

    /// Returns the server's certificate in PEM, for [`Builder::ca_certificate`](crate::Builder::ca_certificate) and for
    /// other clients (feature `testing-tls`).
    ///
    /// The certificate is generated when the server starts. It is valid for a year, for `localhost`, 127.0.0.1 and ::1.
    ///
    /// # Panics
    ///
    /// If the server has no TLS: see [`ServerBuilder::starttls`] and [`ServerBuilder::implicit_tls`].
    #[cfg(feature = "testing-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "testing-tls")))]
    #[must_use]
    #[track_caller]
    pub fn certificate_pem(&self) -> &str {
        self.certificate()
            .expect("the server has no TLS (ServerBuilder::starttls, ServerBuilder::implicit_tls)")
    }

    #[cfg(feature = "testing-tls")]
    fn certificate(&self) -> Option<&str> {
        self.shared.tls.as_ref().map(|tls| &tls.certificate_pem[..])
    }

    #[cfg(not(feature = "testing-tls"))]
    fn certificate(&self) -> Option<&str> {
        None
    }

    /// Sets what goes wrong at a step from now on, replacing any earlier fault of that step. Sessions that are already
    /// open are affected, too.
    ///
    /// ```
    /// use postino::testing::{Fault, Server, Step};
    ///
    /// let server = Server::start()?;
    /// server.inject(Step::rcpt_to("bob@example.net"), Fault::reply("550 5.1.1 No such user"));
    /// let mail = postino::Raw::bytes(postino::Envelope::new("a@example.org", ["bob@example.net"])?, "\r\n");
    /// let error = server.client_builder().send(&mail).unwrap_err();
    /// assert_eq!(error.reply().unwrap().code(), 550);
    ///
    /// server.clear_faults();
    /// server.client_builder().send(&mail)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn inject(&self, step: Step, fault: Fault) {
        self.shared.lock().faults.set(step, fault);
    }

    /// Removes the fault of a step. A delay that has already begun continues.
    pub fn remove_fault(&self, step: Step) {
        self.shared.lock().faults.remove(step);
    }

    /// Removes the faults of all steps, including those from [`ServerBuilder::inject`]. A delay that has already begun
    /// continues.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// Closes all open connections without a reply, and continues to accept new ones. Use this to test what the
    /// application does if the server has closed an idle connection.
    ///
    /// If a message is being received, its client cannot know whether it has arrived.
    ///
    /// ```
    /// use postino::{Envelope, Error, Mailer, Raw, testing::Server};
    ///
    /// let server = Server::start()?;
    /// let mail = Raw::bytes(Envelope::new("a@example.org", ["b@example.net"])?, "Subject: Hi\r\n\r\nHello\r\n");
    /// let mut client = server.client_builder().connect()?;
    ///
    /// server.disconnect_all();
    /// assert!(matches!(client.noop(), Err(Error::Closed(_))));
    /// Mailer::send(&mut client, &mail)?; // connects again
    /// server.expect_message();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn disconnect_all(&self) {
        self.shared.lock().disconnect();
    }

    /// Forgets the messages and the lines recorded so far. Sessions and faults are not affected.
    ///
    /// The numbering of queue IDs is not reset. To clear messages that are still on their way, wait for them first.
    pub fn clear(&self) {
        let mut records = self.shared.lock();
        records.messages.clear();
        records.dialogues.clear();
    }

    /// Returns the messages accepted so far, in the order in which they were completed.
    ///
    /// A message is added to the list before its 250 reply is sent.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        self.shared.lock().messages.clone()
    }

    /// Returns the lines exchanged so far: those of the first connection, then those of the second, and so on.
    ///
    /// The client's lines start with `C: `, and the server's with `S: `. The content of a message, or a line that was
    /// too long, is shown as one line: `C: (123 octets)`. Login credentials are not hidden.
    #[must_use]
    pub fn dialogue(&self) -> Vec<String> {
        self.shared.lock().dialogues.values().flatten().cloned().collect()
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

/// Configures what a [`Server`] offers and refuses, before it starts. The methods for TLS, `starttls`, `implicit_tls`
/// and `require_tls`, exist only with the feature `testing-tls`.
#[must_use]
pub struct ServerBuilder {
    offered: Vec<&'static str>,
    size_limit: u64,
    credentials: Option<(String, String)>,
    /// A user, and the OAuth token that is accepted for this user.
    token: Option<(String, String)>,
    login_required: bool,
    refused_senders: BTreeMap<String, String>,
    refused_recipients: BTreeMap<String, String>,
    refused_message: Option<String>,
    /// The faults that the server begins with.
    faults: Faults,
    tls_mode: Option<Mode>,
    tls_required: bool,
    wait_limit: Duration,
    on_line: Option<Box<Tell>>,
}

impl ServerBuilder {
    /// Sets whether the extension with this EHLO keyword is offered.
    ///
    /// Offered by default: `"PIPELINING"`, `"8BITMIME"`, `"SIZE"`, `"SMTPUTF8"`, `"ENHANCEDSTATUSCODES"`, and, if
    /// [`credentials`](ServerBuilder::credentials) or an [`oauth_token`](ServerBuilder::oauth_token) is set, `"AUTH"`.
    /// Not offered by default: `"DSN"` (RFC 3461), `"REQUIRETLS"`, `"MT-PRIORITY"`, `"DELIVERBY"`, `"FUTURERELEASE"`
    /// and `"XVERP"`.
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

    /// Offers AUTH OAUTHBEARER (RFC 7628) and XOAUTH2, and accepts this OAuth access token for this user. By default,
    /// they are not offered.
    ///
    /// Refuses any other user or token as real servers do: with a challenge that contains JSON with the status
    /// `invalid_token`, and then with 535 5.7.8. The token is not checked in any other way, and does not expire. If
    /// [`credentials`](ServerBuilder::credentials) are set as well, PLAIN and LOGIN are offered too.
    ///
    /// ```
    /// use postino::{Client, Error, testing::Server};
    ///
    /// let server = Server::builder().oauth_token("shop@example.org", "token").start()?;
    /// let client = Client::from_url(&server.url())?.oauth_token_with("shop@example.org", || Ok("token".to_string()));
    /// assert_eq!(client.connect()?.login_mechanism(), Some("OAUTHBEARER"));
    ///
    /// let client = Client::from_url(&server.url())?.oauth_token("shop@example.org", "expired");
    /// let Err(Error::Auth { details: Some(details), .. }) = client.connect() else { panic!("it was accepted") };
    /// assert!(details.contains("invalid_token"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn oauth_token(mut self, user: impl Into<String>, token: impl Into<String>) -> ServerBuilder {
        self.token = Some((user.into(), token.into()));
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

    /// Refuses each message after its content with the given reply, such as `554 5.6.0 Spam`. By default, no message is
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

    /// Sets what goes wrong at a step once the server starts; see [`Server::inject`]. By default, nothing goes wrong.
    pub fn inject(mut self, step: Step, fault: Fault) -> ServerBuilder {
        self.faults.set(step, fault);
        self
    }

    /// Offers STARTTLS (RFC 3207), with a certificate generated when the server starts (feature `testing-tls`). By
    /// default, the server has no TLS.
    ///
    /// ```
    /// use postino::testing::Server;
    ///
    /// let server = Server::builder().starttls().start()?;
    /// let client = server.client_builder().connect()?;
    /// assert!(client.is_encrypted());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "testing-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "testing-tls")))]
    pub fn starttls(mut self) -> ServerBuilder {
        self.tls_mode = Some(Mode::StartTls);
        self
    }

    /// Uses TLS from the first octet (RFC 8314 §3.3), with a certificate generated when the server starts (feature
    /// `testing-tls`). By default, the server has no TLS.
    #[cfg(feature = "testing-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "testing-tls")))]
    pub fn implicit_tls(mut self) -> ServerBuilder {
        self.tls_mode = Some(Mode::Implicit);
        self
    }

    /// Sets whether AUTH and MAIL are refused with 530 5.7.0 unless the connection uses TLS (feature `testing-tls`).
    /// Defaults to false.
    #[cfg(feature = "testing-tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "testing-tls")))]
    pub fn require_tls(mut self, required: bool) -> ServerBuilder {
        self.tls_required = required;
        self
    }

    /// Sets how long [`Server::wait_for_messages`], [`Server::expect_messages`] and their async forms wait. Defaults to
    /// 10 seconds.
    pub fn wait_limit(mut self, limit: Duration) -> ServerBuilder {
        self.wait_limit = limit;
        self
    }

    /// Sets a callback that is called for each line of [`Server::dialogue`] as the line is exchanged, on the thread of
    /// its connection. By default, there is no callback.
    ///
    /// The connection waits until the callback returns. Dropping the server also waits for it.
    pub fn on_line(mut self, tell: impl Fn(&str) + Send + Sync + 'static) -> ServerBuilder {
        self.on_line = Some(Box::new(tell));
        self
    }

    /// Starts the server.
    ///
    /// # Errors
    ///
    /// An error if a loopback port cannot be opened, a thread cannot be started, or the certificate cannot be created.
    pub fn start(mut self) -> io::Result<Server> {
        let tls = self.tls_mode.map(Tls::new).transpose()?;
        let records = Records { faults: std::mem::take(&mut self.faults), ..Records::default() };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let shared =
            Arc::new(Shared { settings: self, tls, records: Mutex::new(records), changed: Condvar::new() });
        let acceptor = thread("accept", {
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        })?;
        Ok(Server { addr, shared, acceptor: Some(acceptor) })
    }

    fn offers(&self, keyword: &str) -> bool {
        self.offered.contains(&keyword) && (keyword != "AUTH" || self.mechanisms().next().is_some())
    }

    /// Returns the mechanisms of AUTH that are offered.
    fn mechanisms(&self) -> impl Iterator<Item = &'static str> + use<> {
        let passwords = self.credentials.is_some().then_some(["PLAIN", "LOGIN"]);
        let tokens = self.token.is_some().then_some(["OAUTHBEARER", "XOAUTH2"]);
        passwords.into_iter().chain(tokens).flatten()
    }

    /// Returns the user if the token is right.
    fn accepts_token(&self, user: &str, token: &str) -> Option<&str> {
        let (own_user, own_token) = self.token.as_ref()?;
        (user == own_user && token == own_token).then_some(own_user)
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
            .field("token_user", &self.token.as_ref().map(|(user, _)| user))
            .field("login_required", &self.login_required)
            .field("refused_senders", &self.refused_senders)
            .field("refused_recipients", &self.refused_recipients)
            .field("refused_message", &self.refused_message)
            .field("faults", &self.faults)
            .field("tls_mode", &self.tls_mode)
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

/// How a server uses TLS.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(not(feature = "testing-tls"), allow(dead_code))]
enum Mode {
    StartTls,
    Implicit,
}

/// State shared by the server and its threads.
struct Shared {
    settings: ServerBuilder,
    tls: Option<Tls>,
    records: Mutex<Records>,
    /// Notified when a message has arrived, and when the server stops.
    changed: Condvar,
}

#[derive(Default)]
struct Records {
    messages: Vec<Message>,
    /// How many messages have been accepted, including those that were cleared.
    accepted: usize,
    /// How many connections there have been.
    connections: usize,
    /// The recorded lines of each connection, by its number.
    dialogues: BTreeMap<usize, Vec<String>>,
    faults: Faults,
    live: BTreeMap<usize, TcpStream>,
    threads: Vec<JoinHandle<()>>,
    stopped: bool,
}

impl Records {
    /// Shuts down all connections, which ends their threads.
    fn disconnect(&self) {
        for stream in self.live.values() {
            // This fails if the client has already disconnected.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
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
        let number = records.connections;
        records.connections += 1;
        records.live.insert(number, handle);
        Ok(number)
    }

    fn leave(&self, number: usize) {
        self.lock().live.remove(&number);
    }

    fn record(&self, number: usize, line: &str) {
        self.lock().dialogues.entry(number).or_default().push(line.to_owned());
        if let Some(tell) = &self.settings.on_line {
            tell(line);
        }
    }

    /// Stores a message and returns its number, counting from 1.
    fn deliver(&self, parts: Parts) -> usize {
        let mut records = self.lock();
        records.messages.push(Message::new(parts));
        records.accepted += 1;
        self.changed.notify_all();
        records.accepted
    }

    fn next_fault(&self, step: Step) -> Option<Act> {
        self.lock().faults.next(step)
    }

    /// Waits for a delay to pass.
    ///
    /// # Errors
    ///
    /// If the server stops before the delay has passed.
    fn pause(&self, delay: Duration) -> io::Result<()> {
        if delay.is_zero() {
            return Ok(());
        }
        let waited = self.changed.wait_timeout_while(self.lock(), delay, |records| !records.stopped);
        if waited.unwrap_or_else(PoisonError::into_inner).0.stopped {
            return Err(io::ErrorKind::NotConnected.into());
        }
        Ok(())
    }

    fn stop(&self) {
        let mut records = self.lock();
        records.stopped = true;
        records.disconnect();
        self.changed.notify_all();
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
