//! The spool on the command line: storing a message that cannot be sent now, `-q`, `mailq`.

use std::{
    cell::Cell,
    fs,
    io::{self, ErrorKind},
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use postino::{Address, Delivery, Envelope, Error, Mail, MailOption, RcptOption, Ret, message::date_time};
use rustix::process::{geteuid, getuid};

use crate::{
    accounts::{Account, Trouble},
    config::Config,
    failure::{CONFIG, Failure, TEMPORARY, USAGE},
    message::{Local, Message},
    options::{Mode, Options},
    paths::Paths,
    privilege::{self, Lent},
    report::{self, Report},
    say,
    spool::{Entry, Fate, Place, Request, Runner, Spool, State, Waits, is_about_server, outcomes},
    submit::{Sender, Submitter},
    syslog::{self, Status},
    tell,
};

/// The exit code for a permanent refusal, for the log.
const REFUSED: u8 = 69;
/// Defaults of the limits of the spool.
const MAX_MESSAGES: u64 = 1000;
const MAX_OCTETS: u64 = 256 * 1024 * 1024;

/// The spool, and what the configuration says of it.
pub struct Queue {
    spool: Spool,
    /// The group that may use it, in set-group-ID mode.
    lent: Option<Lent>,
    waits: Waits,
}

impl Queue {
    /// Opens the spool, if there is one. A user's own configuration uses a spool with the user's rights.
    pub fn open(config: &Config) -> Result<Option<Queue>, Failure> {
        let Some(folder) = &config.spool.folder else { return Ok(None) };
        let messages = config.spool.max_messages.unwrap_or(MAX_MESSAGES);
        let octets = config.spool.max_bytes.unwrap_or(MAX_OCTETS);
        let messages = usize::try_from(messages).unwrap_or(usize::MAX);
        let spool = privilege::with(config.lent, || Spool::open(folder, messages, octets))?;
        let spool = spool.map_err(|e| in_spool(folder, config.lent, &e))?;
        let mut waits = Waits::default();
        if !config.spool.retry.is_empty() {
            waits.waits.clone_from(&config.spool.retry);
        }
        if let Some(age) = config.spool.give_up_after {
            waits.give_up_after = age;
        }
        Ok(Some(Queue { spool, lent: config.lent, waits }))
    }

    /// Opens the spool of a mode that is about it. Without the key `spool`, that is the folder of `--queue`, if it exists
    /// and the program can read it.
    fn find(config: &mut Config) -> Result<Option<Queue>, Failure> {
        if config.spool.folder.is_none() {
            let folder = Paths::from_env().spool();
            let is_readable = privilege::with(config.lent, || fs::read_dir(&folder).is_ok())?;
            config.spool.folder = Some(folder).filter(|_| is_readable);
        }
        Queue::open(config)
    }

    /// The same for a mode that does nothing without a spool.
    fn required(config: &mut Config) -> Result<Queue, Failure> {
        Queue::find(config)?.ok_or_else(|| {
            let folder = Paths::from_env().spool();
            let why = format!(
                "there is no spool: neither the key spool nor {}, the folder of --queue",
                folder.display()
            );
            Failure::new(CONFIG, format!("{}: {why}", config.origin()))
        })
    }

    /// Returns the folder, and the number of its messages, for `--check`.
    pub fn summary(&self) -> Result<String, Failure> {
        let mut count = 0;
        self.with(|| self.spool.list(user(), |_, _, _| count += 1))?;
        let messages = if count == 1 { "message" } else { "messages" };
        Ok(format!("{} ({count} {messages})", self.spool.folder().display()))
    }

    fn with<T>(&self, work: impl FnOnce() -> io::Result<T>) -> Result<T, Failure> {
        privilege::with(self.lent, work)?.map_err(|e| in_spool(self.spool.folder(), self.lent, &e))
    }

    /// Stores a message, and tries to send it. If the server does not accept it now, it stays in the spool.
    pub fn submit(
        self,
        options: &Options,
        account: &Account,
        message: &Message<'_>,
        sender: Sender<'_>,
    ) -> Result<Report, Trouble> {
        let request = request(options, account, &message.envelope()?);
        let mut content = message.body()?.into_reader().map_err(Error::Source)?;
        let mut entry = self.with(|| self.spool.receive(&request, &mut content))?;
        drop(content);
        let report = Report::new(options, sender.send(&entry));
        let (states, reason) = outcomes(&entry, &report.result, false);
        let any = |is: fn(&State) -> bool| states.iter().any(is);
        let is_refused = any(|state| matches!(state, State::Refused(_)));
        let is_in_doubt = any(|state| matches!(state, State::Doubt(_)));
        let may_be_sent = is_in_doubt || any(|state| *state == State::Accepted);
        if options.all_or_nothing && is_refused && !may_be_sent {
            // It was not sent to anyone, and must not be sent to some of them later.
            self.discard(entry);
            return Ok(report);
        }
        let next = self.waits.next(0);
        let recorded = self.with(|| {
            entry.settle(&states, next, &reason)?;
            if entry.record().has_refusals() {
                entry.told()?; // by the exit code
            }
            Ok(())
        });
        let id = entry.id().to_owned();
        let fate = match recorded {
            Ok(()) => self.with(|| entry.finish()),
            Err(failure) => {
                // Otherwise it is shown as one that may have been delivered.
                if !may_be_sent {
                    self.discard(entry);
                }
                Err(failure)
            }
        };
        Ok(match fate {
            Ok(Fate::Done) => report,
            Ok(_) => report.spooled(&id, is_refused, is_in_doubt),
            // All is known, and only its record is lost. The caller must not send again what was accepted.
            Err(failure) if !any(|state| *state == State::Due) => {
                tell(&failure.text);
                report
            }
            Err(failure) if may_be_sent => report.not_spooled(&failure),
            Err(failure) => return Err(failure.into()),
        })
    }

    /// Removes a message that was not accepted. If that fails, it is cleaned away later.
    fn discard(&self, entry: Entry) {
        if let Err(failure) = self.with(|| entry.remove()) {
            tell(&failure.text);
        }
    }
}

fn in_spool(folder: &Path, lent: Option<Lent>, e: &io::Error) -> Failure {
    // Of the system, and not one that `Spool::open` has found.
    let is_refused = e.kind() == ErrorKind::PermissionDenied && e.raw_os_error().is_some();
    let hint = match lent {
        Some(_) if is_refused => {
            " (if it was created before the program was set-group-ID, give it the program's group: chgrp -R)"
        }
        _ => "",
    };
    Failure::new(TEMPORARY, format!("spool {}: {e}{hint}", folder.display()))
}

fn request(options: &Options, account: &Account, envelope: &Envelope) -> Request {
    let mut request = Request::new(getuid().as_raw(), &account.name, envelope);
    request.all_or_nothing = options.all_or_nothing;
    for option in &options.mail_options {
        match option {
            MailOption::Ret(Ret::Headers) => request.ret = Some("hdrs".to_owned()),
            MailOption::Ret(_) => request.ret = Some("full".to_owned()),
            MailOption::EnvelopeId(id) => request.envid = Some(id.clone()),
            MailOption::RequireTls => request.requires_tls = true,
            _ => {} // the command line has no others
        }
    }
    request.notify = options.notify.as_ref().map(|notify| match notify {
        RcptOption::Notify { success, failure, delay } => {
            let words = [("success", success), ("failure", failure), ("delay", delay)];
            let words: Vec<_> = words.iter().filter(|(_, is_set)| **is_set).map(|(word, _)| *word).collect();
            words.join(",")
        }
        _ => "never".to_owned(),
    });
    request
}

/// `-q`: sends what is due. The exit code is 75 if a server cannot be reached or refuses the login. Only `--flush`, which
/// people call, prints why: cron would send it by mail, and each run would put one more message into the spool.
pub fn run(submitter: &mut Submitter, options: &Options, local: &Local) -> Result<u8, Failure> {
    let queue = Queue::required(&mut submitter.config)?;
    if queue.lent.is_some() && !getuid().is_root() {
        return Err(Failure::new(USAGE, "-q is not for every user: the spool belongs to the system"));
    }
    let domain = if local.domain.is_empty() { "localhost" } else { &local.domain };
    let submitter = std::cell::RefCell::new(submitter);
    let relay = std::cell::RefCell::new(String::new());
    let exit_code = Cell::new(0);
    let mut send = |entry: &Entry| {
        relay.borrow_mut().clear(); // that of the message before
        let sent = privilege::without(queue.lent, || {
            let mut submitter = submitter.borrow_mut();
            let server = submitter.server_for(entry, options)?;
            server.relay().clone_into(&mut relay.borrow_mut());
            let options = Options { all_or_nothing: entry.request().all_or_nothing, ..(*options).clone() };
            Sender::new(&options, &server)?.send(entry)
        });
        match sent {
            Ok(Ok(delivery)) => Ok(delivery),
            Ok(Err(Trouble::Smtp(e))) => Err(e),
            Ok(Err(Trouble::Config(failure))) | Err(failure) => Err(Error::Config(failure.text.into())),
        }
    };
    let mut report = |entry: &Entry, result: &Result<Delivery, Error>| {
        let envelope = entry.envelope().ok();
        let (code, text) = report::summary(result);
        let (id, envelope, relay) = (entry.id(), envelope.as_ref(), &*relay.borrow());
        // It stays in the spool, unless a recipient was refused.
        let is_left = outcomes(entry, result, false).0.iter().all(|state| *state == State::Due);
        let status = match report::status(result, code) {
            Status::Failed if is_left => Status::Deferred,
            status => status,
        };
        submitter.borrow().logger.log(&syslog::Entry { id, envelope, relay, status, code, result: &text });
        if result.as_ref().is_err_and(is_about_server) {
            exit_code.set(TEMPORARY);
        }
        if options.verbose > 0 {
            say(&format!("{id}: {text}"));
        } else if options.flush && code != 0 {
            tell(&format!("{id}: {text}"));
        }
    };
    let mut note = |entry: &Entry, text: &str| {
        let envelope = entry.request().whole_envelope().ok();
        let (id, envelope) = (entry.id(), envelope.as_ref());
        submitter.borrow().logger.log(&syslog::Entry {
            id,
            envelope,
            relay: "",
            status: Status::Failed,
            code: REFUSED,
            result: text,
        });
        if options.verbose > 0 {
            say(&format!("{id}: {text}"));
        }
    };
    let mut complain = |id: &str, e: &io::Error| {
        let code = TEMPORARY;
        exit_code.set(code);
        let text = format!("spool: {id}: {e}");
        tell(&text);
        let status = Status::Deferred;
        let entry = syslog::Entry { id, envelope: None, relay: "", status, code, result: &text };
        submitter.borrow().logger.log(&entry);
    };
    let runner = Runner {
        spool: &queue.spool,
        waits: &queue.waits,
        everything: options.flush,
        domain,
        send: &mut send,
        report: &mut report,
        note: &mut note,
        complain: &mut complain,
    };
    queue.with(|| runner.run())?;
    Ok(exit_code.get())
}

/// The user whose messages may be seen and changed; `None` for all.
fn user() -> Option<u32> {
    let uid = getuid();
    (!uid.is_root() && geteuid() == uid).then(|| uid.as_raw())
}

/// `mailq`: lists the messages of the calling user, or all of them for root. Monitoring tools read the last line, which
/// is that of Sendmail.
pub fn list(submitter: &mut Submitter) -> Result<u8, Failure> {
    let Some(queue) = Queue::find(&mut submitter.config)? else {
        say("Mail queue is empty (there is no spool)\n\t\tTotal requests: 0");
        return Ok(0);
    };
    let (mut count, mut code) = (0, 0);
    let show = |place, id: &str, entry: io::Result<Entry>| {
        count += 1;
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) => {
                code = TEMPORARY;
                return say(&format!("{id}  UNREADABLE: {e}"));
            }
        };
        let record = entry.record();
        let state = match (place, record.fate()) {
            _ if entry.is_in_use() => "being sent".to_owned(),
            (Place::Doubt, _) | (_, Fate::Doubt) => "IN DOUBT: it may have been delivered".to_owned(),
            (Place::Failed, _) => "UNDELIVERABLE".to_owned(),
            _ if record.attempts() == 0 => "waiting".to_owned(),
            _ if record.tries == 1 => format!("tried once, next at {}", at(record.next)),
            _ => format!("tried {} times, next at {}", record.tries, at(record.next)),
        };
        let request = entry.request();
        say(&format!("{}  {} octets, {}", entry.id(), entry.content_len(), at(request.time)));
        say(&format!("    from <{}>, {state}", request.from));
        if !record.reason.is_empty() {
            say(&format!("    {}", record.reason));
        }
        for (to, recipient) in request.to.iter().zip(&record.recipients) {
            let what = match recipient {
                State::Due => String::new(),
                State::Accepted => ": accepted".to_owned(),
                State::Refused(reason) => format!(": refused: {reason}"),
                State::Returned => ": refused, the sender knows".to_owned(),
                State::Doubt(_) => ": in doubt".to_owned(),
            };
            say(&format!("      <{to}>{what}"));
        }
    };
    queue.with(|| queue.spool.list(user(), show))?;
    if count == 0 {
        say("Mail queue is empty");
    }
    say(&format!("\t\tTotal requests: {count}"));
    Ok(code)
}

/// Formats a time in seconds since 1970.
fn at(seconds: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    time.and_then(date_time).unwrap_or_else(|| "an unknown time".to_owned())
}

/// `--resend`, `--remove`: changes the messages with the given identifiers.
pub fn change(submitter: &mut Submitter, options: &Options) -> Result<u8, Failure> {
    let queue = Queue::required(&mut submitter.config)?;
    if options.recipients.is_empty() {
        return Err(Failure::new(USAGE, "expected identifiers of messages in the spool (see mailq)"));
    }
    let mut code = 0;
    for id in &options.recipients {
        let changed = queue.with(|| match options.mode {
            Mode::RemoveSpooled => queue.spool.remove(id, user()),
            _ => queue.spool.resend(id, user()),
        })?;
        if !changed {
            tell(&format!("{id}: no such message, or it is being sent right now"));
            code = USAGE;
        }
    }
    Ok(code)
}

impl Submitter {
    /// Returns the server for a message of the spool: that of its account if there still is one, else that of its
    /// sender.
    fn server_for(&mut self, entry: &Entry, options: &Options) -> Result<crate::accounts::Server, Trouble> {
        let request = entry.request();
        let is_known = self.config.accounts.iter().any(|account| account.name == request.account);
        let name = Some(request.account.as_str()).filter(|_| is_known);
        let sender = Address::new(&request.from).ok();
        let account = self.config.choose(name, sender.as_ref())?;
        self.server(options, &account)
    }
}
