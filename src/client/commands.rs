//! The single commands of a client.

use std::time::Duration;

use super::{
    body::{Source, open},
    call::Call,
    known::{ByHand, OpenTransaction, Setup},
    maybe_async,
    run::source_error,
    session::Client,
};
use crate::{
    Address, Capabilities, Error, Phase, Reply,
    config::{Timeouts, credentials_in_clear},
    message::{Body, Content},
    proto::{
        Credentials, Data, Forbidden, Hello, HelloName, Line, Mechanism, Parameters, Simple, Survey,
        refused_here,
    },
    tls::TlsSettings,
};

/// Commands that affect nothing in the session except a transaction. The effect of others (such as XCLIENT) is unknown.
const HARMLESS: [&str; 7] = ["EXPN", "HELP", "MAIL", "NOOP", "RCPT", "RSET", "VRFY"];

/// # What is known about the server
impl Client {
    /// Returns the server's reply to the last EHLO or HELO, unchanged, including capabilities that are
    /// [ignored](super::Builder::ignore_capability). Returns `None` if an attempt to reconnect failed before the login.
    #[must_use]
    pub fn hello_reply(&self) -> Option<&Reply> {
        self.known.hello.as_ref()
    }

    /// Returns whether the session uses EHLO (RFC 5321 §3.2) rather than HELO. With HELO, there are no capabilities.
    #[must_use]
    pub fn is_esmtp(&self) -> bool {
        self.known.esmtp
    }

    /// Returns whether the server offers this capability, such as `PIPELINING`, `STARTTLS` or `8BITMIME`. Case is
    /// ignored.
    #[must_use]
    pub fn supports(&self, keyword: &str) -> bool {
        self.known.capabilities.offers(keyword)
    }
}

/// # Time limits of a connected client
impl Client {
    /// Sets the time limit for the next call as a whole, whatever it waits for. This limit replaces the builder's
    /// [`deadline`](super::Builder::deadline) for that call only. The limits of individual waits still apply. With a
    /// limit of zero, the call fails at once.
    ///
    /// When the time has passed, the call fails with an error for which [`Error::is_timeout`] returns true: usually
    /// [`Error::Timeout`] or, if it was sending a message, an [`Error::Transaction`]. The connection is then closed
    /// without sending QUIT.
    pub fn next_call_deadline(&mut self, limit: Duration) -> &mut Client {
        self.next_limit = Some(limit);
        self
    }

    /// Sets the time limit for every wait except the one for the final reply to a message, from the next call on; see
    /// [`Builder::timeout`](super::Builder::timeout).
    pub fn set_timeout(&mut self, limit: Duration) {
        let timeouts = &mut self.origin.settings.config.timeouts;
        *timeouts = Timeouts::all_but_the_final(limit, timeouts.final_reply);
    }

    /// Sets the time limit for each call as a whole, from the next call on; `None` means no limit. See
    /// [`Builder::deadline`](super::Builder::deadline).
    pub fn set_deadline(&mut self, limit: Option<Duration>) {
        self.origin.settings.config.deadline = limit;
    }
}

impl Client {
    /// Returns the parameters of a command, with SMTPUTF8 if `text`, which is part of the command, needs it.
    fn with_utf8(&self, text: &str, parameters: &[&str]) -> Result<Parameters, Error> {
        let parameters = Parameters::new(parameters)?;
        let wanted = parameters.contains("SMTPUTF8");
        if self.known.capabilities.offers("SMTPUTF8") {
            return Ok(if text.is_ascii() { parameters } else { parameters.with_utf8() });
        }
        if wanted {
            return Err(Error::Unsupported("SMTPUTF8"));
        }
        if !text.is_ascii() {
            return Err(Error::Unsupported("SMTPUTF8, and the command contains non-ASCII characters"));
        }
        Ok(parameters)
    }

    /// Fails if the content cannot be sent with DATA now. The content of a reader is not known yet.
    fn check_content(&self, content: &Content<'_>, eight_bit: bool) -> Result<(), Error> {
        let Content::Bytes(bytes) = content else { return Ok(()) };
        match Survey::of(bytes) {
            Survey { nul: true, .. } => return Err(refused_here(Forbidden::Nul)),
            Survey { eight_bit: true, .. } if !eight_bit => return Err(refused_here(Forbidden::EightBit)),
            Survey { long_line: Some(line), .. } => {
                log::warn!(target: "postino", "the message has a line of more than 998 octets ({line} octets)");
            }
            _ => {}
        }
        Ok(())
    }
}

/// # Single commands
///
/// These methods are for special purposes: [`send`](Client::send) sends all the commands that it needs. Each method
/// waits for the reply.
///
/// A refusal is returned as [`Error::Refused`] with the whole reply (but see [`command`](Client::command)), and the
/// client can still be used. The client can also be used after errors that occur before anything is sent, such as
/// [`Error::Config`], [`Error::Address`] and [`Error::Unsupported`]. After any other error, and after the reply codes
/// 421 and 221, the connection is closed. A command line of more than 2,048 octets, with CRLF, is an [`Error::Config`].
///
/// The first digit of the code determines the outcome (RFC 5321 §4.2.1): 2yz accepts a command; 4yz and 5yz refuse it.
#[maybe_async]
impl Client {
    /// Sends EHLO (LHLO to an LMTP server), and replaces what is known about the server's capabilities (RFC 5321
    /// §4.1.1.1). [`connect`](super::Builder::connect) already does this.
    ///
    /// The name is used for this call only; `None` means the name set by
    /// [`Builder::hello_name`](super::Builder::hello_name). The server discards a transaction that is under way (RFC
    /// 5321 §4.1.4). Expects a 2yz reply other than 220, because a 220 may be a second greeting.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for an invalid name. [`Error::Refused`] if the server refuses the command; the known
    /// capabilities are then unchanged, and HELO is not tried.
    pub async fn ehlo(&mut self, name: Option<&str>) -> Result<Reply, Error> {
        let mut call = self.begin();
        let (own, name) = (name.is_none(), self.own_name(name)?);
        let hello = if self.origin.settings.config.lmtp { Simple::lhlo(&name) } else { Simple::ehlo(&name) };
        let reply = self.run_command(&mut call, hello).await?;
        self.known.capabilities =
            Capabilities::parse(reply.borrow()).without(&self.origin.settings.config.ignored_capabilities);
        self.greeted(&reply, true);
        if !own {
            self.history.setup = Setup::Changed;
        }
        Ok(reply)
    }

    /// Sends HELO. From then on, the server is treated as having no extensions. Otherwise, this works like
    /// [`ehlo`](Client::ehlo).
    ///
    /// # Errors
    ///
    /// The same as for [`ehlo`](Client::ehlo), and [`Error::Config`] over LMTP.
    pub async fn helo(&mut self, name: Option<&str>) -> Result<Reply, Error> {
        let mut call = self.begin();
        let name = self.own_name(name)?;
        if self.origin.settings.config.lmtp {
            return Err(Error::Config("LMTP has no HELO".into()));
        }
        let reply = self.run_command(&mut call, Simple::helo(&name)).await?;
        self.known.capabilities = Capabilities::default();
        self.greeted(&reply, false);
        self.history.setup = Setup::Changed;
        Ok(reply)
    }

    /// Sends STARTTLS, secures the connection with the builder's TLS settings, and sends EHLO again (RFC 3207).
    /// The capabilities that the server offered before are discarded, and any earlier login is lost.
    /// [`connect`](super::Builder::connect) already does this, depending on
    /// [`Builder::security`](super::Builder::security). Expects a 220 reply.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the server does not offer STARTTLS, and [`Error::Config`] if the connection already
    /// uses TLS, if this build does not support TLS, or if a Unix socket has no [`tls_name`](super::Builder::tls_name);
    /// in these cases nothing is sent. If STARTTLS itself is refused ([`Error::Refused`]), the connection can still be
    /// used, without TLS. The connection is closed if the handshake fails, if plaintext follows the 220, or if EHLO is
    /// refused after the handshake.
    pub async fn starttls(&mut self) -> Result<(), Error> {
        let mut call = self.begin();
        self.usable(Phase::StartTls)?;
        if self.is_encrypted() {
            return Err(Error::Config("the connection already uses TLS".into()));
        }
        TlsSettings::available()?;
        self.origin.settings.config.tls_name()?;
        if !self.supports("STARTTLS") {
            return Err(Error::Unsupported("STARTTLS"));
        }
        let hello =
            Hello::starttls(self.origin.hello_name(&self.link)).lmtp(self.origin.settings.config.lmtp);
        let mut hello = hello.ignoring(self.origin.settings.config.ignored_capabilities.clone());
        self.run(&mut call, &mut hello).await?;
        if let Some(reply) = hello.refusal() {
            return Err(Error::Refused { phase: Phase::StartTls, reply: reply.clone() });
        }
        self.known.esmtp = hello.is_esmtp();
        self.history.login.mechanism = None;
        self.history.setup = Setup::Changed;
        self.history.open = OpenTransaction::None;
        (_, self.known.hello, self.known.capabilities) = hello.into_parts();
        Ok(())
    }

    /// Sends MAIL, which begins a transaction (RFC 5321 §4.1.1.2). Each parameter is a string such as `SIZE=1000` or
    /// `BODY=8BITMIME`.
    ///
    /// The sender is a mailbox; any display name is dropped. An empty string means the null sender. SMTPUTF8 is added
    /// for a non-ASCII sender; if only a recipient or a header is not ASCII, pass SMTPUTF8 as a parameter. Expects a
    /// 2yz reply.
    ///
    /// If [`send`](Client::send) is called before the transaction has ended, it sends RSET first.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] for an invalid sender; [`Error::Config`] for an invalid parameter; [`Error::Unsupported`] if
    /// SMTPUTF8 is needed or passed but not offered; [`Error::Refused`] if the server refuses the command.
    pub async fn mail(&mut self, sender: &str, parameters: &[&str]) -> Result<Reply, Error> {
        let mut call = self.begin();
        let sender = match sender.trim_matches(' ') {
            "" | "<>" => None,
            _ => Some(Address::new(sender)?),
        };
        let parameters = self.with_utf8(sender.as_ref().map_or("", Address::as_str), parameters)?;
        let command = Simple::mail(sender.as_ref(), &parameters).check()?;
        self.end_refused_message(&mut call).await?;
        self.note_by_hand();
        let reply = self.run_command(&mut call, command).await?;
        self.link.begun += 1;
        self.history.open = OpenTransaction::ByHand(ByHand::announced(&parameters));
        Ok(reply)
    }

    /// Sends RCPT, which adds a recipient to the transaction (RFC 5321 §4.1.1.3). Each parameter is a string such as
    /// `NOTIFY=NEVER`. The recipient is a mailbox; any display name is dropped. Expects a 2yz reply.
    ///
    /// # Errors
    ///
    /// [`Error::Address`] for an invalid recipient; [`Error::Config`] for an invalid parameter, and for a non-ASCII
    /// recipient after a [`mail`](Client::mail) without SMTPUTF8; [`Error::Unsupported`] if SMTPUTF8 is not offered;
    /// [`Error::Refused`] if the server refuses the command.
    pub async fn rcpt(&mut self, recipient: &str, parameters: &[&str]) -> Result<Reply, Error> {
        let mut call = self.begin();
        let (recipient, parameters) = (Address::new(recipient)?, Parameters::new(parameters)?);
        if !recipient.is_ascii() {
            if !self.supports("SMTPUTF8") {
                return Err(Error::Unsupported("SMTPUTF8, and an address contains non-ASCII characters"));
            }
            if self.history.open.by_hand().is_some_and(|transaction| !transaction.utf8) {
                return Err(Error::Config("a non-ASCII recipient needs SMTPUTF8 in MAIL".into()));
            }
        }
        let command = Simple::rcpt(&recipient, &parameters).check()?;
        self.end_refused_message(&mut call).await?;
        self.note_by_hand();
        let reply = self.run_command(&mut call, command).await?;
        self.count_recipients("RCPT");
        Ok(reply)
    }

    /// Sends DATA and the content, for the recipients of the transaction (RFC 5321 §4.1.1.4). The content can be bytes
    /// or any [`Body`]. Line endings become CRLF, and leading dots are escaped. Expects a 3yz reply and then a 2yz
    /// reply; the latter is returned.
    ///
    /// # Errors
    ///
    /// [`Error::Message`] for a NUL, and for non-ASCII octets that were not announced in MAIL by `BODY=8BITMIME` or
    /// SMTPUTF8; if the content is bytes, this is checked before anything is sent. [`Error::Source`] if the content
    /// cannot be opened or read. [`Error::Refused`] if the server refuses DATA or the content. If the connection is
    /// lost after the content was sent, the message is [in doubt](Error::in_doubt).
    ///
    /// Over LMTP, the server replies once per accepted recipient (RFC 2033 §4.2). Unless there is exactly one accepted
    /// recipient, `data` fails with [`Error::Config`] before anything is sent: use [`send`](Client::send).
    pub async fn data<'m>(&mut self, content: impl Into<Body<'m>>) -> Result<Reply, Error> {
        let mut call = self.begin();
        self.usable(Phase::Data)?;
        let recipients = self.history.open.by_hand().map_or(0, |transaction| transaction.recipients);
        if self.origin.settings.config.lmtp && recipients != 1 {
            let why = "LMTP replies once per recipient, so DATA as a single command needs exactly one accepted recipient";
            return Err(Error::Config(format!("{why} (there are {recipients}); use Client::send").into()));
        }
        self.end_refused_message(&mut call).await?;
        let body = content.into();
        let transaction = self.transaction_by_hand();
        self.check_content(&body.content, transaction.eight_bit)?;
        let opened = open(body, self.origin.limit(&call, Phase::Body)?).await;
        let mut source = Source::new(opened.map_err(source_error)?);
        self.note_by_hand();
        let mut data = Data::new(transaction.eight_bit);
        let broke = self.go_on(&mut call, &mut data, Some((0, &mut source))).await.err();
        let reply = data.into_result(self.link.out.octets_offered(), broke)?;
        self.history.open = OpenTransaction::None;
        Ok(reply)
    }

    /// Sends RSET, which discards the transaction that is under way (RFC 5321 §4.1.1.5). [`send`](Client::send) does
    /// this when needed. Expects a 2yz reply.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the server refuses the command.
    pub async fn rset(&mut self) -> Result<Reply, Error> {
        let mut call = self.begin();
        self.reset(&mut call).await
    }

    /// Sends NOOP, to find out whether the server still responds (RFC 5321 §4.1.1.9). Expects a 2yz reply.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] if the server refuses the command.
    pub async fn noop(&mut self) -> Result<Reply, Error> {
        let mut call = self.begin();
        self.ping(&mut call).await
    }

    /// Sends NOOP within a call that is under way.
    pub(super) async fn ping(&mut self, call: &mut Call) -> Result<Reply, Error> {
        self.run_command(call, Simple::noop()).await
    }

    /// Sends VRFY, which asks whether a user or mailbox exists (RFC 5321 §4.1.1.6). `user` is sent unchanged.
    /// SMTPUTF8 is added if `user` is not ASCII (RFC 6531 §3.7.4.2); the standards define no others. Expects a 2yz
    /// reply; many servers reply 252 to everything.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a control character or an invalid parameter; [`Error::Unsupported`] if SMTPUTF8 is needed
    /// or passed but not offered; [`Error::Refused`] if the server refuses the command.
    pub async fn vrfy(&mut self, user: &str, parameters: &[&str]) -> Result<Reply, Error> {
        let mut call = self.begin();
        let parameters = self.with_utf8(user, parameters)?;
        self.run_command(&mut call, Simple::vrfy(user, &parameters)?).await
    }

    /// Sends EXPN, which asks for the members of a mailing list (RFC 5321 §4.1.1.7); the reply has one line for each.
    /// `list` and the parameters are handled like the arguments of [`vrfy`](Client::vrfy). Expects a 2yz reply.
    ///
    /// # Errors
    ///
    /// The same as for [`vrfy`](Client::vrfy).
    pub async fn expn(&mut self, list: &str, parameters: &[&str]) -> Result<Reply, Error> {
        let mut call = self.begin();
        let parameters = self.with_utf8(list, parameters)?;
        self.run_command(&mut call, Simple::expn(list, &parameters)?).await
    }

    /// Sends HELP, followed by `topic` unless it is empty (RFC 5321 §4.1.1.8). [`Reply::text`] returns the help text.
    /// Expects a 2yz reply.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a control character; [`Error::Refused`] if the server refuses the command.
    pub async fn help(&mut self, topic: &str) -> Result<Reply, Error> {
        let mut call = self.begin();
        self.run_command(&mut call, Simple::help(topic)?).await
    }

    /// Sends an arbitrary command, given without its CRLF, as text or as octets that need not be UTF-8. A refusal
    /// is also returned as `Ok`: check [`Reply::is_positive`]. The replies 421 and 221, which close the connection, are
    /// errors, and so is a 3yz reply, after which the server expects something other than a command.
    ///
    /// The log shows the whole line. The next [`send`](Client::send) begins with RSET, since the command may have
    /// started a transaction.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a control character, for more than 2,046 octets, or for an empty line; for AUTH, BDAT,
    /// DATA, EHLO, HELO, LHLO, QUIT and STARTTLS, for which there are other methods; and, over LMTP, for BURL, which
    /// may get several replies. [`Error::Refused`] for 421 and 221; [`Error::Protocol`] for 3yz.
    pub async fn command(&mut self, line: impl AsRef<[u8]>) -> Result<Reply, Error> {
        let mut call = self.begin();
        let line = Line::new(line)?;
        let verb = line.verb();
        let changes_session = !HARMLESS.contains(&verb.as_str());
        if self.origin.settings.config.lmtp && verb == "BURL" {
            return Err(Error::Config(
                "BURL is not supported over LMTP, where it may get one reply per recipient".into(),
            ));
        }
        let own = Simple::custom(line)?;
        self.usable(Phase::Command)?;
        self.end_refused_message(&mut call).await?;
        self.note_by_hand();
        if changes_session {
            self.history.setup = Setup::Changed;
        }
        let reply = self.run_command(&mut call, own).await?;
        if reply.is_positive() {
            self.count_recipients(&verb);
        }
        Ok(reply)
    }

    /// Sends one command, and waits for its reply.
    async fn run_command(&mut self, call: &mut Call, mut command: Simple) -> Result<Reply, Error> {
        self.run(call, &mut command).await?;
        command.into_result()
    }

    pub(super) async fn reset(&mut self, call: &mut Call) -> Result<Reply, Error> {
        let reply = self.run_command(call, Simple::reset()).await?;
        self.history.open = OpenTransaction::None;
        Ok(reply)
    }

    /// Sends RSET if a message was refused in the middle of its transaction. Otherwise, single commands would continue
    /// that transaction.
    async fn end_refused_message(&mut self, call: &mut Call) -> Result<(), Error> {
        if matches!(self.history.open, OpenTransaction::Refused) {
            self.reset(call).await?;
        }
        Ok(())
    }
}

impl Client {
    fn own_name(&self, name: Option<&str>) -> Result<HelloName, Error> {
        name.map_or_else(|| Ok(self.origin.hello_name(&self.link)), HelloName::new)
    }

    fn greeted(&mut self, reply: &Reply, esmtp: bool) {
        (self.known.hello, self.known.esmtp) = (Some(reply.clone()), esmtp);
        self.history.open = OpenTransaction::None;
    }

    /// Returns the transaction that was begun by single commands, as far as it is known.
    fn transaction_by_hand(&self) -> ByHand {
        self.history.open.by_hand().unwrap_or_else(|| ByHand::unknown(&self.known.capabilities))
    }

    /// Updates the number of recipients after the server has accepted this command of a transaction.
    fn count_recipients(&mut self, verb: &str) {
        if let OpenTransaction::ByHand(transaction) = &mut self.history.open {
            match verb {
                "RCPT" => transaction.recipients += 1,
                "MAIL" | "RSET" => transaction.recipients = 0,
                _ => {}
            }
        }
    }

    /// Records that a transaction may be open from here on, whatever the reply to the command.
    fn note_by_hand(&mut self) {
        self.history.open = OpenTransaction::ByHand(self.transaction_by_hand());
    }
}

/// # Logins
///
/// Use these methods if the builder had no credentials. [`login`](Client::login) uses the strongest mechanism that
/// both sides support. The others use only one mechanism. A 2yz reply accepts the login (RFC 4954).
///
/// The errors of these methods are:
///
/// - [`Error::Config`], before anything is sent: if the credentials are invalid; if the mechanism is unknown, does not
///   fit the credentials, or needs the `sasl` feature, which is not enabled; or if the connection has no TLS and is not
///   [local](crate::Security)
///   (see [`Builder::danger_plaintext_credentials`](super::Builder::danger_plaintext_credentials)).
/// - [`Error::Auth`] if the server refuses the login or does not offer the mechanism; if the client is already logged
///   in; or if the server has refused two exchanges on this connection (nothing is sent then; see
///   [`Builder::credentials`](super::Builder::credentials)).
///
/// The client can still be used after these errors, unless the server closes the connection, or the mechanism rejects
/// the server: SCRAM does so if the server cannot prove that it knows the password.
#[maybe_async]
impl Client {
    /// Logs in with the strongest mechanism that both sides support, or tries the mechanisms set by
    /// [`Builder::auth_mechanisms`](super::Builder::auth_mechanisms) in the given order; see
    /// [`Builder::credentials`](super::Builder::credentials).
    ///
    /// # Errors
    ///
    /// [`Error::Config`] and [`Error::Auth`], as described under [Logins](#logins).
    pub async fn login(&mut self, user: impl AsRef<[u8]>, password: impl AsRef<[u8]>) -> Result<(), Error> {
        let mut call = self.begin();
        let credentials = Credentials::new(user, password)?;
        let mechanisms = self.origin.settings.config.auth_mechanisms.clone();
        self.log_in(&mut call, credentials, mechanisms).await
    }

    /// Logs in with one mechanism, given by name (case-insensitive).
    ///
    /// | credentials | mechanisms |
    /// |---|---|
    /// | [`Credentials::new`] | `PLAIN` (RFC 4616), `LOGIN`; with the `sasl` feature also `CRAM-MD5` (RFC 2195), `SCRAM-SHA-1` (RFC 5802), `SCRAM-SHA-256` and `SCRAM-SHA-256-PLUS` (RFC 7677) |
    /// | [`Credentials::token`] | `OAUTHBEARER` (RFC 7628), `XOAUTH2` |
    /// | [`Credentials::external`] | `EXTERNAL` (RFC 4422 appendix A) |
    /// | [`Credentials::anonymous`] | `ANONYMOUS` (RFC 4505) |
    ///
    /// SCRAM-SHA-256-PLUS is bound to the TLS connection (tls-exporter, RFC 9266) with TLS 1.3 and
    /// [`TlsBackend::Rustls`](crate::TlsBackend::Rustls), and otherwise to the server's certificate
    /// (tls-server-end-point, RFC 5929 §4). SMTP servers do not announce which binding they accept. Dovecot 2.4 accepts
    /// only tls-exporter. If a server refuses it, tls-server-end-point is tried. This mechanism needs TLS: without it,
    /// or if neither binding can be used, the login fails with [`Error::Auth`].
    ///
    /// If the server refuses a token, the server's explanation is in the `details` of the [`Error::Auth`].
    ///
    /// # Errors
    ///
    /// [`Error::Config`] and [`Error::Auth`], as described under [Logins](#logins).
    #[doc = example!(auth)]
    pub async fn auth(&mut self, mechanism: &str, credentials: &Credentials) -> Result<(), Error> {
        let mut call = self.begin();
        let name = mechanism.to_ascii_uppercase();
        credentials.check_mechanism(&name)?;
        self.log_in(&mut call, credentials.clone(), Some(vec![name])).await
    }

    /// Logs in with a custom mechanism; see [`auth`](crate::auth#custom-mechanisms).
    ///
    /// # Errors
    ///
    /// [`Error::Config`] and [`Error::Auth`], as described under [Logins](#logins).
    pub async fn auth_mechanism(&mut self, mechanism: impl Mechanism + Clone + 'static) -> Result<(), Error> {
        let mut call = self.begin();
        self.log_in(&mut call, Credentials::custom(mechanism)?, None).await
    }

    async fn log_in(
        &mut self,
        call: &mut Call,
        credentials: Credentials,
        mechanisms: Option<Vec<String>>,
    ) -> Result<(), Error> {
        self.usable(Phase::Auth)?;
        if !self.is_encrypted()
            && !self.is_local()
            && !self.origin.settings.config.danger_plaintext_credentials
        {
            return Err(credentials_in_clear());
        }
        if self.history.login.mechanism.is_some() {
            return Err(Error::Auth { what: "already logged in".into(), details: None, reply: None });
        }
        self.history.setup = Setup::Changed; // even if it is refused: the server may count refusals per connection
        self.exchange_credentials(call, credentials, mechanisms).await
    }
}
