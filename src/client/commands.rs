//! The client, command by command: everything that is one, for who needs more than sending.

use std::time::Duration;

use super::{
    body::{Source, open},
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
        check_pinned, refused_here,
    },
    tls::TlsSettings,
};

/// Commands after which the session is the same, but for a transaction. What others do (XCLIENT …) is not known here.
const HARMLESS: [&str; 7] = ["EXPN", "HELP", "MAIL", "NOOP", "RCPT", "RSET", "VRFY"];

/// A transaction that single commands have begun: what its MAIL has announced.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByHand {
    /// SMTPUTF8: its addresses and headers need not be ASCII.
    utf8: bool,
    /// Its content need not be ASCII.
    eight_bit: bool,
    /// Number of recipients that the server has accepted.
    recipients: usize,
}

impl ByHand {
    fn announced(parameters: &Parameters) -> ByHand {
        let utf8 = parameters.contains("SMTPUTF8");
        ByHand { utf8, eight_bit: utf8 || parameters.contains("BODY=8BITMIME"), recipients: 0 }
    }

    /// It was begun by who knows what: all that the server offers may have been announced.
    fn unknown(capabilities: &Capabilities) -> ByHand {
        ByHand {
            utf8: capabilities.offers("SMTPUTF8"),
            eight_bit: capabilities.offers("8BITMIME"),
            recipients: 0,
        }
    }
}

/// # What is known of the server
impl Client {
    /// The server's reply to the last EHLO or HELO, as it came: also what is [ignored](super::Builder::ignore_capability).
    #[must_use]
    pub fn hello_reply(&self) -> Option<&Reply> {
        self.hello.as_ref()
    }

    /// Whether the server knows EHLO (RFC 5321 §3.2): with HELO there are no capabilities.
    #[must_use]
    pub fn is_esmtp(&self) -> bool {
        self.esmtp
    }

    /// Whether the server offers this: `PIPELINING`, `STARTTLS`, `8BITMIME` … Without regard to case.
    #[must_use]
    pub fn supports(&self, keyword: &str) -> bool {
        self.capabilities.offers(keyword)
    }

    /// The login mechanisms that the server offers (RFC 4954 §3), in upper case and the server's order.
    pub fn auth_mechanisms(&self) -> impl Iterator<Item = String> {
        self.capabilities.auth_mechanisms()
    }
}

/// # Limits of a client that is connected
impl Client {
    /// Gives the next call, and only that one, this long in all, whatever it waits for; the builder's
    /// [`deadline`](super::Builder::deadline) does not count for it. Single waits keep their limits. With a limit of
    /// zero the call ends at once.
    ///
    /// When the time is up the call fails with [`Error::Timeout`], and the connection is closed without another word
    /// or wait.
    pub fn next_call_deadline(&mut self, limit: Duration) -> &mut Client {
        self.next_limit = Some(limit);
        self
    }

    /// Sets the limit of every wait but the one for the final reply, from the next call on; see
    /// [`Builder::timeout`](super::Builder::timeout).
    pub fn set_timeout(&mut self, limit: Duration) {
        let timeouts = &mut self.settings.config.timeouts;
        *timeouts = Timeouts::all_but_the_final(limit, timeouts.final_reply);
    }

    /// Sets the limit of each call as a whole, from the next call on, or that there is none; see
    /// [`Builder::deadline`](super::Builder::deadline).
    pub fn set_deadline(&mut self, limit: Option<Duration>) {
        self.settings.config.deadline = limit;
    }
}

impl Client {
    /// The parameters of a command, with SMTPUTF8 if that has to be: `text` stands in the command.
    fn with_utf8(&self, text: &str, parameters: &[&str]) -> Result<Parameters, Error> {
        let parameters = Parameters::new(parameters)?;
        let wanted = parameters.contains("SMTPUTF8");
        match self.capabilities.offers("SMTPUTF8") {
            false if wanted => Err(Error::Unsupported("SMTPUTF8")),
            false if !text.is_ascii() => {
                Err(Error::Unsupported("SMTPUTF8, and not all of the command is ASCII"))
            }
            true if !text.is_ascii() => Ok(parameters.with_utf8()),
            _ => Ok(parameters),
        }
    }

    /// Whether the content can go out by DATA now. Of a reader that is not known yet.
    fn check_content(&self, content: &Content<'_>, eight_bit: bool) -> Result<(), Error> {
        let Content::Bytes(bytes) = content else { return Ok(()) };
        match Survey::of(bytes) {
            Survey { nul: true, .. } => return Err(refused_here(Forbidden::Nul)),
            Survey { eight_bit: true, .. } if !eight_bit => return Err(refused_here(Forbidden::EightBit)),
            Survey { long_line: Some(line), .. } => {
                log::warn!(target: "postino", "the message has a line of more than 998 octets: {line}");
            }
            _ => {}
        }
        Ok(())
    }
}

/// # Single commands
///
/// For who needs them: [`send`](Client::send) says all it needs by itself. Each waits for its reply. A refusal is
/// [`Error::Refused`] with the whole reply, and the connection goes on; so it does after [`Error::Config`],
/// [`Error::Address`] and [`Error::Unsupported`], which come before anything is sent. After any other error, and
/// after the codes 421 and 221, it is closed. A command line has at most 2,048 octets, with its parameters and its CRLF.
///
/// Codes are read by their first digit (RFC 5321 §4.2.1): 2yz grants a command, 4yz and 5yz refuse it.
#[maybe_async]
impl Client {
    /// EHLO: greets the server again, and learns anew what it offers (RFC 5321 §4.1.1.1). Connecting has done it
    /// already. To an LMTP server it is LHLO. The name is for this once; without one it is that of [`Builder::hello_name`](super::Builder::hello_name).
    /// A transaction that is under way is forgotten by the server (RFC 5321 §4.1.4). Granted
    /// by 2yz except 220, which may be a second greeting.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for what cannot be a name; [`Error::Refused`]: what is known of the server stays then, and HELO
    /// is not tried.
    pub async fn ehlo(&mut self, name: Option<&str>) -> Result<Reply, Error> {
        self.begin();
        let (own, name) = (name.is_none(), self.own_name(name)?);
        let hello = if self.settings.config.lmtp { Simple::lhlo(&name) } else { Simple::ehlo(&name) };
        let reply = self.say(hello).await?;
        self.capabilities =
            Capabilities::parse(reply.borrow()).without(&self.settings.config.ignored_capabilities);
        self.greeted(&reply, true);
        self.raised |= !own;
        Ok(reply)
    }

    /// HELO: greets the server as one that knows no extensions; from then on it offers none. As
    /// [`ehlo`](Client::ehlo) otherwise.
    ///
    /// # Errors
    ///
    /// Those of [`ehlo`](Client::ehlo).
    pub async fn helo(&mut self, name: Option<&str>) -> Result<Reply, Error> {
        self.begin();
        let name = self.own_name(name)?;
        if self.settings.config.lmtp {
            return Err(Error::Config("there is no HELO in LMTP".into()));
        }
        let reply = self.say(Simple::helo(&name)).await?;
        self.capabilities = Capabilities::default();
        self.greeted(&reply, false);
        self.raised = true;
        Ok(reply)
    }

    /// STARTTLS: secures the connection from here on, with the TLS settings of the builder, and says EHLO again
    /// (RFC 3207). All that was known of the server is forgotten, a login too. Connecting does it already unless
    /// [`Builder::security`](super::Builder::security) says otherwise. Granted by 220.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the server does not offer it, [`Error::Config`] if there is TLS already, or none in
    /// this build; nothing is sent then. After [`Error::Refused`] to STARTTLS itself the connection goes on as it
    /// was, in clear. A handshake that fails, octets in clear behind the 220, or an EHLO that is refused behind them
    /// close it.
    pub async fn starttls(&mut self) -> Result<(), Error> {
        self.begin();
        self.usable(Phase::StartTls)?;
        if self.is_encrypted() {
            return Err(Error::Config("the connection is secured by TLS already".into()));
        }
        TlsSettings::available()?;
        self.settings.config.tls_name()?;
        if !self.supports("STARTTLS") {
            return Err(Error::Unsupported("STARTTLS"));
        }
        let hello = Hello::starttls(self.hello_name()).lmtp(self.settings.config.lmtp);
        let mut hello = hello.ignoring(self.settings.config.ignored_capabilities.clone());
        self.run(&mut hello).await?;
        if let Some(reply) = hello.refusal() {
            return Err(Error::Refused { phase: Phase::StartTls, reply: reply.clone() });
        }
        (self.esmtp, self.logged_in, self.by_hand, self.raised) = (hello.is_esmtp(), false, None, true);
        self.open = false;
        (_, self.hello, self.capabilities) = hello.into_parts();
        Ok(())
    }

    /// MAIL: begins a transaction (RFC 5321 §4.1.1.2), with parameters as text: `SIZE=1000`, `BODY=8BITMIME`. The
    /// sender is a mailbox, perhaps behind a display name, which is dropped; empty it is the null sender. SMTPUTF8 is
    /// added for one that is not ASCII; when only a recipient or a header is not, say it here.
    /// Granted by 2yz.
    ///
    /// A [`send`](Client::send) that finds a transaction begun this way says RSET first.
    ///
    /// # Errors
    ///
    /// [`Error::Address`], [`Error::Config`] for what cannot be a parameter, [`Error::Unsupported`] if SMTPUTF8 is
    /// needed and not offered; [`Error::Refused`].
    pub async fn mail(&mut self, sender: &str, parameters: &[&str]) -> Result<Reply, Error> {
        self.begin();
        let sender = match sender.trim_matches(' ') {
            "" | "<>" => None,
            _ => Some(Address::new(sender)?),
        };
        let parameters = self.with_utf8(sender.as_ref().map_or("", Address::as_str), parameters)?;
        let command = Simple::mail(sender.as_ref(), &parameters).check()?;
        self.end_refused_message().await?;
        self.note_by_hand();
        let reply = self.say(command).await?;
        self.begun += 1;
        self.by_hand = Some(ByHand::announced(&parameters));
        Ok(reply)
    }

    /// RCPT: adds a recipient to the transaction (RFC 5321 §4.1.1.3), with parameters as text: `NOTIFY=NEVER`. The
    /// recipient is a mailbox, perhaps behind a display name, which is dropped. Granted by 2yz.
    ///
    /// # Errors
    ///
    /// [`Error::Address`], [`Error::Config`] for what cannot be a parameter, and for a recipient that is not ASCII
    /// when [`mail`](Client::mail) has not said SMTPUTF8, [`Error::Unsupported`] if SMTPUTF8 is not offered at all;
    /// [`Error::Refused`].
    pub async fn rcpt(&mut self, recipient: &str, parameters: &[&str]) -> Result<Reply, Error> {
        self.begin();
        let (recipient, parameters) = (Address::new(recipient)?, Parameters::new(parameters)?);
        if !recipient.is_ascii() {
            if !self.supports("SMTPUTF8") {
                return Err(Error::Unsupported("SMTPUTF8, and an address is not ASCII"));
            }
            if self.by_hand.is_some_and(|transaction| !transaction.utf8) {
                return Err(Error::Config("a recipient that is not ASCII needs SMTPUTF8 in MAIL".into()));
            }
        }
        let command = Simple::rcpt(&recipient, &parameters).check()?;
        self.end_refused_message().await?;
        self.note_by_hand();
        let reply = self.say(command).await?;
        self.count_recipients("RCPT");
        Ok(reply)
    }

    /// DATA: sends the content to the recipients of the transaction (RFC 5321 §4.1.1.4): bytes, or any [`Body`]. Line
    /// ends become CRLF, and dots need no care. Granted by 3yz and then by 2yz; the latter is
    /// returned.
    ///
    /// # Errors
    ///
    /// [`Error::Message`] for a NUL, and for octets beyond ASCII that MAIL has not announced by `BODY=8BITMIME` or
    /// SMTPUTF8; before anything is sent if the content is bytes. [`Error::Source`] if it cannot be opened or read.
    /// [`Error::Refused`] to DATA, or to the content. If the connection breaks behind the content, the message is
    /// [in doubt](Error::in_doubt). Over LMTP the server answers once for each accepted recipient (RFC 2033 §4.2), so
    /// that any other number than one is [`Error::Config`] before anything is sent: use [`send`](Client::send).
    pub async fn data<'m>(&mut self, content: impl Into<Body<'m>>) -> Result<Reply, Error> {
        self.begin();
        self.usable(Phase::Data)?;
        let recipients = self.by_hand.map_or(0, |transaction| transaction.recipients);
        if self.settings.config.lmtp && recipients != 1 {
            let why = "DATA as a single command needs exactly one accepted recipient in LMTP, where each has a reply";
            return Err(Error::Config(format!("{why} (there are {recipients}); use Client::send").into()));
        }
        self.end_refused_message().await?;
        let body = content.into();
        let transaction = self.by_hand.unwrap_or(ByHand::unknown(&self.capabilities));
        self.check_content(&body.content, transaction.eight_bit)?;
        let opened = open(body, self.limit(Phase::Body)?).await;
        let mut source = Source::new(opened.map_err(source_error)?);
        self.note_by_hand();
        let mut data = Data::new(transaction.eight_bit);
        let broke = self.go_on(&mut data, Some((0, &mut source))).await.err();
        let reply = data.into_result(self.out.octets_offered(), broke)?;
        self.by_hand = None;
        Ok(reply)
    }

    /// RSET: forgets the transaction that is under way (RFC 5321 §4.1.1.5). Sending does this by itself where it is
    /// needed. Granted by 2yz.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`].
    pub async fn rset(&mut self) -> Result<Reply, Error> {
        self.begin();
        self.reset().await
    }

    /// NOOP: asks whether the server is still there (RFC 5321 §4.1.1.9). Granted by 2yz.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`].
    pub async fn noop(&mut self) -> Result<Reply, Error> {
        self.begin();
        self.say(Simple::noop()).await
    }

    /// VRFY: whether there is such a user or mailbox (RFC 5321 §4.1.1.6). The text goes out as it is; SMTPUTF8 is added
    /// if it is not ASCII (RFC 6531 §3.7.4.2), and is the only parameter there is. Granted by 2yz; many
    /// servers answer 252 to everything.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a control character, [`Error::Unsupported`] if SMTPUTF8 is needed or asked for and not
    /// offered; [`Error::Refused`].
    pub async fn vrfy(&mut self, user: &str, parameters: &[&str]) -> Result<Reply, Error> {
        self.begin();
        let parameters = self.with_utf8(user, parameters)?;
        self.say(Simple::vrfy(user, &parameters)?).await
    }

    /// EXPN: who is on a mailing list (RFC 5321 §4.1.1.7); the lines of the reply. The text goes out as for
    /// [`vrfy`](Client::vrfy). Granted by 2yz.
    ///
    /// # Errors
    ///
    /// Those of [`vrfy`](Client::vrfy).
    pub async fn expn(&mut self, list: &str, parameters: &[&str]) -> Result<Reply, Error> {
        self.begin();
        let parameters = self.with_utf8(list, parameters)?;
        self.say(Simple::expn(list, &parameters)?).await
    }

    /// HELP: on a topic, or, when that is empty, in general (RFC 5321 §4.1.1.8); [`Reply::text`] is the help. Granted
    /// by 2yz.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a control character; [`Error::Refused`].
    pub async fn help(&mut self, topic: &str) -> Result<Reply, Error> {
        self.begin();
        self.say(Simple::help(topic)?).await
    }

    /// Any other command, as it stands: text, or octets that need not be UTF-8, without the line end. Every reply is
    /// `Ok`, a refusal too, and [`Reply::is_positive`] tells; but for 421 and 221, which close, and for 3yz, with which a server would
    /// wait for more than a command: these are errors, and close the connection.
    ///
    /// The log shows the whole line. A [`send`](Client::send) behind it says RSET first, since it may have begun a
    /// transaction.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] for a control character, for more than 2,046 octets, and for an empty line; for AUTH, BDAT, DATA,
    /// EHLO, HELO, LHLO, QUIT and STARTTLS, which have methods of their own; over LMTP for BURL, which may be answered more
    /// than once. [`Error::Refused`] for 421; [`Error::Protocol`] for 3yz.
    pub async fn command(&mut self, line: impl AsRef<[u8]>) -> Result<Reply, Error> {
        self.begin();
        let line = Line::new(line)?;
        let verb = line.verb();
        let changes_session = !HARMLESS.contains(&verb.as_str());
        if self.settings.config.lmtp && verb == "BURL" {
            return Err(Error::Config("BURL may have one reply for each recipient in LMTP".into()));
        }
        let own = Simple::of_line(line)?;
        self.usable(Phase::Command)?;
        self.end_refused_message().await?;
        self.note_by_hand();
        self.raised |= changes_session;
        let reply = self.say(own).await?;
        if reply.is_positive() {
            self.count_recipients(&verb);
        }
        Ok(reply)
    }

    /// Says one command. The call has begun.
    async fn say(&mut self, mut command: Simple) -> Result<Reply, Error> {
        self.run(&mut command).await?;
        command.into_result()
    }

    pub(super) async fn reset(&mut self) -> Result<Reply, Error> {
        let reply = self.say(Simple::reset()).await?;
        (self.by_hand, self.open) = (None, false);
        Ok(reply)
    }

    /// RSET, if a message was refused in mid-transaction: single commands would add to that one.
    async fn end_refused_message(&mut self) -> Result<(), Error> {
        if self.open && self.by_hand.is_none() {
            self.reset().await?;
        }
        Ok(())
    }
}

impl Client {
    fn own_name(&self, name: Option<&str>) -> Result<HelloName, Error> {
        name.map_or_else(|| Ok(self.hello_name()), HelloName::new)
    }

    fn greeted(&mut self, reply: &Reply, esmtp: bool) {
        (self.hello, self.esmtp) = (Some(reply.clone()), esmtp);
        (self.by_hand, self.open) = (None, false);
    }

    /// The server has granted this command of a transaction.
    fn count_recipients(&mut self, verb: &str) {
        if let Some(transaction) = &mut self.by_hand {
            match verb {
                "RCPT" => transaction.recipients += 1,
                "MAIL" | "RSET" => transaction.recipients = 0,
                _ => {}
            }
        }
    }

    /// From here on there may be a transaction, whatever comes of the command.
    fn note_by_hand(&mut self) {
        self.by_hand.get_or_insert(ByHand::unknown(&self.capabilities));
    }
}

/// # Logins
///
/// For who did not give the credentials to the builder. [`login`](Client::login) takes the strongest mechanism that both
/// sides have; the others take one, and nothing else is tried. Granted by 2yz (RFC 4954).
///
/// Their errors: [`Error::Config`] for what the mechanism cannot carry, for a connection without TLS that is not
/// [local](crate::Security) (see
/// [`Builder::danger_plaintext_credentials`](super::Builder::danger_plaintext_credentials)), and for SCRAM and CRAM-MD5
/// without the feature `sasl`; [`Error::Auth`] if the server refuses the login or does not offer the mechanism, if there was
/// a login already, or if the server has refused two exchanges on this connection (nothing is sent then; see
/// [`Builder::credentials`](super::Builder::credentials)). The connection can still be used, except after a SCRAM login in which
/// the server could not prove that it knows the password.
#[maybe_async]
impl Client {
    /// By the strongest mechanism that both sides have, or those of
    /// [`Builder::auth_mechanisms`](super::Builder::auth_mechanisms); see
    /// [`Builder::credentials`](super::Builder::credentials).
    ///
    /// # Errors
    ///
    /// [`Error::Config`], [`Error::Auth`]: see above.
    pub async fn login(&mut self, user: impl AsRef<[u8]>, password: impl AsRef<[u8]>) -> Result<(), Error> {
        self.begin();
        let credentials = Credentials::new(user, password)?;
        let mechanisms = self.settings.config.auth_mechanisms.clone();
        self.log_in(credentials, mechanisms).await
    }

    /// By PLAIN (RFC 4616).
    ///
    /// # Errors
    ///
    /// [`Error::Config`], [`Error::Auth`]: see above.
    pub async fn auth_plain(
        &mut self,
        user: impl AsRef<[u8]>,
        password: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        self.log_in_by("PLAIN", Credentials::new(user, password)).await
    }

    /// By LOGIN: the user and the password as the answers to two challenges, whatever these say.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], [`Error::Auth`]: see above.
    pub async fn auth_login(
        &mut self,
        user: impl AsRef<[u8]>,
        password: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        self.log_in_by("LOGIN", Credentials::new(user, password)).await
    }

    /// By CRAM-MD5 (RFC 2195); needs the feature `sasl`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], [`Error::Auth`]: see above.
    pub async fn auth_cram_md5(
        &mut self,
        user: impl AsRef<[u8]>,
        password: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        self.log_in_by("CRAM-MD5", Credentials::new(user, password)).await
    }

    /// By SCRAM-SHA-1 (RFC 5802); needs the feature `sasl`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], [`Error::Auth`]: see above.
    pub async fn auth_scram_sha_1(
        &mut self,
        user: impl AsRef<[u8]>,
        password: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        self.log_in_by("SCRAM-SHA-1", Credentials::new(user, password)).await
    }

    /// By SCRAM-SHA-256 (RFC 7677); needs the feature `sasl`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], [`Error::Auth`]: see above.
    pub async fn auth_scram_sha_256(
        &mut self,
        user: impl AsRef<[u8]>,
        password: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        self.log_in_by("SCRAM-SHA-256", Credentials::new(user, password)).await
    }

    /// By SCRAM-SHA-256-PLUS (RFC 7677): bound to the TLS connection by its certificate (tls-server-end-point,
    /// RFC 5929 §4); needs the feature `sasl`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], [`Error::Auth`]: see above. The latter also where there is nothing to bind to.
    pub async fn auth_scram_sha_256_plus(
        &mut self,
        user: impl AsRef<[u8]>,
        password: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        self.log_in_by("SCRAM-SHA-256-PLUS", Credentials::new(user, password)).await
    }

    /// By XOAUTH2, with an access token.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], [`Error::Auth`]: see above. The latter has the server's explanation as `details`.
    pub async fn auth_xoauth2(&mut self, user: &str, token: &str) -> Result<(), Error> {
        self.log_in_by("XOAUTH2", Credentials::token(user, token)).await
    }

    /// By OAUTHBEARER (RFC 7628), with an access token.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], [`Error::Auth`]: see above. The latter has the server's explanation as `details`.
    pub async fn auth_oauthbearer(&mut self, user: &str, token: &str) -> Result<(), Error> {
        self.log_in_by("OAUTHBEARER", Credentials::token(user, token)).await
    }

    /// By EXTERNAL (RFC 4422 appendix A): the server knows us from elsewhere, mostly from a TLS client certificate. The
    /// authorization is whom to act for; empty for oneself.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], [`Error::Auth`]: see above.
    pub async fn auth_external(&mut self, authorization: &str) -> Result<(), Error> {
        self.log_in_by("EXTERNAL", Credentials::external(authorization)).await
    }

    /// By ANONYMOUS (RFC 4505), with a trace of who it is, such as a mail address; it may be empty.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], [`Error::Auth`]: see above.
    pub async fn auth_anonymous(&mut self, trace: &str) -> Result<(), Error> {
        self.log_in_by("ANONYMOUS", Credentials::anonymous(trace)).await
    }

    /// By a mechanism of your own.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], [`Error::Auth`]: see above.
    pub async fn auth_mechanism(&mut self, mechanism: impl Mechanism + Clone + 'static) -> Result<(), Error> {
        self.begin();
        self.log_in(Credentials::custom(mechanism)?, None).await
    }

    async fn log_in_by(
        &mut self,
        mechanism: &str,
        credentials: Result<Credentials, Error>,
    ) -> Result<(), Error> {
        self.begin();
        let credentials = credentials?;
        let pinned = vec![mechanism.to_owned()];
        check_pinned(&pinned)?;
        self.log_in(credentials, Some(pinned)).await
    }

    async fn log_in(
        &mut self,
        credentials: Credentials,
        mechanisms: Option<Vec<String>>,
    ) -> Result<(), Error> {
        self.usable(Phase::Auth)?;
        if !self.is_encrypted() && !self.is_local() && !self.settings.config.danger_plaintext_credentials {
            return Err(credentials_in_clear());
        }
        if self.logged_in {
            return Err(Error::Auth { what: "there was a login already".into(), details: None, reply: None });
        }
        self.raised = true; // also if it is refused: that counts against the connection
        self.auth_by(credentials, mechanisms).await
    }
}
