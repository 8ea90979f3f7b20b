//! Sending one message: the account, the connection, the result.

use postino::{Delivery, Error, Mail};

use crate::{
    accounts::{Account, HAS_TLS, Login, Server, Trouble},
    config::Config,
    id::new_id,
    message::Message,
    options::Options,
    privilege::Lent,
    queue::Queue,
    report::Report,
    syslog::{Entry, Logger},
};
#[cfg(feature = "smtp-server")]
use crate::{message::Local, smtp_server::Submission};

/// What is needed to send messages.
pub struct Submitter {
    pub config: Config,
    /// The group of set-group-ID mode, until it is given up.
    pub lent: Option<Lent>,
    pub logger: Logger,
}

/// Sets up the builder of one of the two clients. Only their paths differ.
macro_rules! builder {
    ($client:ty, $options:expr, $server:expr) => {{
        let (options, server) = ($options, $server);
        let mut builder = <$client>::from_url(&server.url)?
            .pipelining(!options.no_pipelining)
            .chunking(options.chunking)
            .all_or_nothing(options.all_or_nothing);
        if let Some(limit) = server.timeout {
            builder = builder.timeout(limit).final_reply_timeout(limit);
        }
        if let Some(limit) = server.deadline {
            builder = builder.deadline(limit);
        }
        if let Some(name) = &server.hello_name {
            builder = builder.hello_name(name);
        }
        if let Some(proxy) = &server.proxy {
            builder = builder.proxy(proxy);
        }
        if let Some(ca) = server.ca.as_ref().filter(|_| HAS_TLS) {
            builder = builder.ca_certificate(&ca.certificates).system_roots(!server.has_no_system_cas);
        }
        if let Some(pair) = server.client_certificate.as_ref().filter(|_| HAS_TLS) {
            builder = builder.client_certificate(&pair.chain, &pair.key);
        }
        builder = match &server.login {
            Login::None => builder,
            Login::Password(user, password) => builder.credentials(user, password),
            Login::Token(user, token) => builder.oauth_token(user, token),
            Login::External => builder.external(""),
        };
        if let Some(names) = &server.auth {
            builder = builder.auth_mechanisms(names.split(','));
        }
        builder
    }};
}

/// Sets up the blocking client.
pub fn builder(options: &Options, server: &Server) -> Result<postino::Builder, Error> {
    Ok(builder!(postino::Client, options, server))
}

impl Submitter {
    /// Sends a message, and writes a line to the log.
    pub fn submit(&mut self, options: &Options, message: &mut Message<'_>) -> Report {
        let mut id = new_id();
        let mut relay = String::new();
        let report = match self.send(options, message, &mut relay) {
            Ok(report) => report,
            Err(trouble) => Report::new(options, Err(trouble)),
        };
        if let Some(spooled) = &report.spooled {
            id.clone_from(spooled);
        }
        self.logger.log(&Entry {
            id: &id,
            envelope: message.prepared_envelope(),
            relay: &relay,
            status: report.status(),
            code: report.code,
            result: &report.summary(),
        });
        report
    }

    fn send(
        &mut self,
        options: &Options,
        message: &mut Message<'_>,
        relay: &mut String,
    ) -> Result<Report, Trouble> {
        let sender = message.sender();
        let account = self.config.choose(options.account.as_deref(), sender.ok().flatten().as_ref())?;
        let spool = Queue::open(&self.config)?;
        let server = self.server(options, &account)?;
        server.relay().clone_into(relay);
        // An invalid setting is reported before an invalid message.
        let send = Sender::new(options, &server)?;
        message.prepare(&account)?;
        match spool {
            None => Ok(Report::new(options, send.send(message))),
            Some(spool) => spool.submit(options, &account, message, send),
        }
    }

    pub fn server(&mut self, options: &Options, account: &Account) -> Result<Server, Trouble> {
        Server::new(options, &mut self.config, account, self.lent)
    }
}

/// Sends one message to a server.
pub struct Sender<'s> {
    client: Client,
    server: &'s Server,
}

/// One of the two clients.
enum Client {
    Blocking(postino::Builder),
    #[cfg(feature = "async")]
    Async(postino::aio::Builder),
}

impl<'s> Sender<'s> {
    pub fn new(options: &Options, server: &'s Server) -> Result<Sender<'s>, Error> {
        #[cfg(feature = "async")]
        if options.is_async {
            let client = Client::Async(builder!(postino::aio::Client, options, server));
            return Ok(Sender { client, server });
        }
        Ok(Sender { client: Client::Blocking(builder(options, server)?), server })
    }

    pub fn send(self, mail: &impl Mail) -> Result<Delivery, Trouble> {
        let result = match self.client {
            Client::Blocking(builder) => builder.send(mail),
            #[cfg(feature = "async")]
            Client::Async(builder) => smol::block_on(builder.send(mail)),
        };
        result.map_err(|e| self.server.trouble(e))
    }
}

/// Sends a message of an SMTP session, and returns the reply for it.
#[cfg(feature = "smtp-server")]
pub fn reply_to(
    submitter: &mut Submitter,
    options: &Options,
    local: &Local,
    submission: Submission,
) -> String {
    let Submission { sender, recipients, content } = submission;
    // One reply cannot report several results.
    let options = Options {
        from: Some(sender),
        recipients,
        from_headers: false,
        all_or_nothing: true,
        ..options.clone()
    };
    let report = submitter.submit(&options, &mut Message::whole(&options, local, content));
    match report.code {
        0 => format!("250 2.0.0 {}", report.summary()),
        75 => format!("451 4.3.0 {}", report.summary()),
        // In doubt as well: the client must not simply send it again.
        _ => format!("554 5.3.0 {}", report.summary()),
    }
}
