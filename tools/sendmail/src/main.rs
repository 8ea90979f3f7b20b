//! A small `sendmail`: reads the message from stdin, and reports the result by its exit code. See `--help`.

use std::{
    env,
    fs::File,
    io::{self, Cursor, Read, Seek, Write},
    os::fd::AsFd,
    process::ExitCode,
    time::Duration,
};

use lexopt::{Arg::*, ValueExt};
use postino::{
    Address, Delivery, Envelope, Error, Mail, MailOption, Outcome, Phase, RcptOption, Reply, Ret,
    message::{Body, header_length, without_bcc},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const USAGE: &str = "\
sendmail [OPTIONS] [RECIPIENT...] < message
  -f, -r, --from ADDR   envelope sender; default: from the headers; \"\" is the null sender
  -t                    recipients from To, Cc, Bcc (Bcc is not sent), then each RECIPIENT
  -s, --server URL      default $SMTP_URL, else smtp://localhost; also smtps://, lmtp://,
                        smtp+unix:/path, lmtp+unix:/path; $SMTP_URL keeps a password out of ps
      --async           through postino::aio (built with --features async)
      --name NAME       name to send in EHLO
      --auth MECH[,...] only these mechanisms, in this order
      --user USER       log in with an OAuth token instead of the password in the URL
      --oauth-token TOKEN   or @FILE; default: $SMTP_OAUTH_TOKEN
      --cafile PEM      trust this CA too
      --cert PEM        client certificate; --auth EXTERNAL logs in with it
      --key PEM         its key (PKCS#8); default: in the same file
      --requiretls      require TLS on every hop (REQUIRETLS)
  -N, --dsn WHEN        delivery reports: never, or any of success,failure,delay
  -R, --ret hdrs|full   how much of the message a report contains
  -V, --envid ID        identifier of the message in reports
      --chunking        send by BDAT, if the server offers CHUNKING
      --no-pipelining   wait for each reply before the next command
      --all-or-nothing  send to nobody if one recipient is refused
      --timeout SECS    limit of each wait; fractions are allowed
      --deadline SECS   limit of the whole send
  -v                    print the final reply, or the refusal, on stdout
  -vv                   also print the dialogue on stderr, with secrets masked
      --json            print the result as one line of JSON on stdout instead of the reply
      --help            print this help
  ignored: -i, -oi (a lone dot never ends the input), -oe* (errors go to stderr), -od* (the
      message is sent immediately), -om, -m, -n, -bm, -A*, -G, -U, -B TYPE, -F NAME, -h N, -L TAG
  removed from the message: \"From \" and \">From \" lines of an mbox before the first header
exit codes, the first that applies:
  64  usage
  65  invalid message or address, or one that the server does not support
  77  TLS or login refused permanently
  68  no such host
  74  in doubt: the message may have been delivered, do not simply resend it
  67  some recipients refused, or all of them, at least one permanently
  69  the server refuses the sender, the message or the service permanently
  75  try again: 4xx, timeout, connection error, all recipients 4xx, not sent to some recipients
  76  protocol error
  70  a bug in postino
   0  accepted by all
";

/// How much of the message is read before connecting, in octets: all of it in most cases.
const HEAD: u64 = 1024 * 1024;

fn main() -> ExitCode {
    let options = match Options::parse() {
        Ok(Some(options)) => options,
        Ok(None) => {
            say(USAGE.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            tell(&format!("{e} (see --help)"));
            return 64.into();
        }
    };
    if options.verbose > 1 && log::set_logger(&ToStderr).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }

    let message = Message::read(&options);
    let known = message.as_ref().map_or_else(|_| options.recipients.clone(), Message::known_recipients);
    let result = message.and_then(|message| send(&options, &message));

    let reply = match &result {
        Ok(delivery) => delivery.reply(),
        Err(e) => e.reply(),
    };
    match reply {
        _ if options.json => say(&json(&result, &known, reply)),
        Some(reply) if options.verbose > 0 => say(&reply.to_string()),
        _ => {}
    }
    let code = match &result {
        Ok(delivery) => tell_recipients(delivery),
        Err(e) => {
            tell(&e.to_string());
            match e {
                Error::NoRecipients if !options.from_headers => 64, // they belong on the command line
                _ => exit_code(e),
            }
        }
    };
    code.into()
}

/// Reports each recipient that the message was not accepted for, and returns the exit code.
fn tell_recipients(delivery: &Delivery) -> u8 {
    let mut codes = [0; 3];
    for recipient in delivery.recipients() {
        let (i, code, what) = match recipient.outcome() {
            Outcome::Accepted => continue,
            Outcome::InDoubt => (0, 74, "may have received the message".to_owned()),
            Outcome::Refused => (
                1,
                67,
                format!("was refused: {}", recipient.reply().map(Reply::to_string).unwrap_or_default()),
            ),
            _ => (2, 75, "was not sent the message".to_owned()),
        };
        tell(&format!("{} {what}", recipient.address()));
        codes[i] = code;
    }
    codes.into_iter().find(|code| *code != 0).unwrap_or(0)
}

/// The exit code for an error (sysexits.h).
fn exit_code(error: &Error) -> u8 {
    let is_permanent = |reply: &Reply| reply.is_permanent();
    match error {
        _ if error.in_doubt() => 74,
        Error::Transaction { delivery, source } => {
            let for_good = delivery.refused().any(|recipient| recipient.reply().is_some_and(is_permanent));
            match **source {
                Error::Refused { phase: Phase::Recipient, .. } if for_good => 67,
                _ => exit_code(source),
            }
        }
        Error::Config(_) => 64,
        Error::Address { .. }
        | Error::NoRecipients
        | Error::Message(_)
        | Error::Unsupported(_)
        | Error::TooLarge { .. } => 65,
        Error::TlsRequired | Error::Certificate { .. } | Error::Tls { .. } => 77,
        Error::Auth { reply, .. } if reply.as_ref().is_none_or(is_permanent) => 77,
        Error::Refused { phase: Phase::StartTls | Phase::Auth, reply } if reply.is_permanent() => 77,
        Error::Refused { reply, .. } if reply.is_permanent() => 69,
        Error::Resolve { .. } => 68,
        Error::Protocol { .. } => 76,
        Error::Internal(_) => 70,
        _ => 75,
    }
}

/// Sets up the builder of one of the two clients. Only their paths differ.
macro_rules! builder {
    ($client:ty, $options:expr) => {{
        let options = $options;
        let mut builder = <$client>::from_url(&options.server()?)?
            .pipelining(!options.no_pipelining)
            .chunking(options.chunking)
            .all_or_nothing(options.all_or_nothing);
        if let Some(limit) = options.timeout {
            builder = builder.timeout(limit).final_reply_timeout(limit);
        }
        if let Some(limit) = options.deadline {
            builder = builder.deadline(limit);
        }
        if let Some(name) = &options.name {
            builder = builder.hello_name(name);
        }
        if let Some(path) = &options.cafile {
            builder = builder.ca_certificate(read(path)?);
        }
        if let Some(path) = &options.cert {
            builder = builder.client_certificate(read(path)?, read(options.key.as_ref().unwrap_or(path))?);
        }
        if options.is_external() {
            builder = builder.external("");
        }
        if let Some(user) = &options.user {
            builder = builder.oauth_token(user, options.token()?);
        }
        if let Some(names) = &options.auth {
            builder = builder.auth_mechanisms(names.split(','));
        }
        builder
    }};
}

fn send(options: &Options, message: &Message) -> Result<Delivery, Error> {
    #[cfg(feature = "async")]
    if options.is_async {
        return smol::block_on(builder!(postino::aio::Client, options).send(message));
    }
    builder!(postino::Client, options).send(message)
}

/// The message on stdin.
struct Message<'o> {
    options: &'o Options,
    /// The whole message, or its first MiB and one octet.
    head: Vec<u8>,
    /// The source of the rest, if there is more.
    rest: Option<File>,
}

impl Message<'_> {
    fn read(options: &Options) -> Result<Message<'_>, Error> {
        let mut head = Vec::new();
        let mut read = || {
            let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
            (&stdin).take(HEAD + 1).read_to_end(&mut head)?;
            Ok(stdin)
        };
        let stdin = read().map_err(Error::Source)?;
        let rest = (head.len() as u64 > HEAD).then_some(stdin);
        head.drain(..mbox_lines(&head));
        Ok(Message { options, head, rest })
    }

    /// The part of the message that contains all headers.
    fn headers(&self) -> Result<&[u8], Error> {
        if self.rest.is_none() || header_length(&self.head).is_some() {
            Ok(&self.head)
        } else {
            Err(Error::Message("the headers do not end within the first MiB".into()))
        }
    }

    fn header_recipients(&self) -> Result<Vec<Address>, Error> {
        if !self.options.from_headers {
            return Ok(Vec::new());
        }
        match Envelope::recipients_from_headers(self.headers()?) {
            Err(Error::NoRecipients) => Ok(Vec::new()), // the command line may name some
            found => found,
        }
    }

    /// All recipients that can be reported, even if there is no valid envelope.
    fn known_recipients(&self) -> Vec<String> {
        let named = self.header_recipients().unwrap_or_default();
        let given = self.options.recipients.iter();
        let given = given.map(|text| Address::new(text).map_or_else(|_| text.clone(), |a| a.to_string()));
        named.iter().map(Address::to_string).chain(given).collect()
    }
}

/// Length of the mbox lines before the first header of a message: `From ` or `>From `, each with its continuation lines.
/// A recipient's mail reader would find no headers after them.
fn mbox_lines(message: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let rest = &message[at..];
        let quotes = rest.iter().take_while(|byte| **byte == b'>').count();
        let is_folded = at > 0 && matches!(rest.first(), Some(b' ' | b'\t'));
        if !is_folded && !rest[quotes..].starts_with(b"From ") {
            return at;
        }
        let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(rest.len());
        at += end + if rest[end..].starts_with(b"\r\n") { 2 } else { rest.len().min(end + 1) - end };
    }
}

impl Mail for Message<'_> {
    fn envelope(&self) -> Result<Envelope, Error> {
        let sender = match &self.options.from {
            Some(sender) => sender.clone(),
            None => Envelope::sender_from_headers(self.headers()?)?.to_string(),
        };
        let named = self.header_recipients()?;
        let given = self.options.recipients.iter().map(String::as_str);
        let mut envelope = Envelope::new(&sender, named.iter().map(Address::as_str).chain(given))?;
        for option in &self.options.mail_options {
            envelope = envelope.option(option.clone())?;
        }
        match &self.options.notify {
            Some(notify) => envelope.recipient_options(notify.clone()),
            None => Ok(envelope),
        }
    }

    /// Can be opened only once if there is a rest, because stdin cannot be rewound.
    fn body(&self) -> Result<Body<'_>, Error> {
        let head =
            if self.options.from_headers { without_bcc(&self.head) } else { self.head.as_slice().into() };
        let Some(rest) = &self.rest else { return Ok(head.into()) };
        let mut rest = rest.try_clone().map_err(Error::Source)?;
        let left = match rest.metadata() {
            Ok(file) if file.is_file() => rest.stream_position().ok().map(|at| file.len().saturating_sub(at)),
            _ => None, // the length of a pipe is unknown
        };
        let size = left.map(|left| left + head.len() as u64);
        let body = Body::reader(Cursor::new(head.into_owned()).chain(Polled(rest)));
        Ok(match size {
            Some(size) => body.with_size(size),
            None => body,
        })
    }
}

/// Standard input, which may be slow: a read waits for at most 50 ms, so that octets can be sent and replies read meanwhile.
struct Polled(File);

impl Read for Polled {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let limit = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit)) {
            Ok(0) => Err(io::ErrorKind::WouldBlock.into()),
            _ => self.0.read(room),
        }
    }
}

#[derive(Default)]
struct Options {
    from: Option<String>,
    /// -t
    from_headers: bool,
    server: Option<String>,
    is_async: bool,
    auth: Option<String>,
    user: Option<String>,
    oauth_token: Option<String>,
    cafile: Option<String>,
    cert: Option<String>,
    key: Option<String>,
    mail_options: Vec<MailOption>,
    notify: Option<RcptOption>,
    name: Option<String>,
    timeout: Option<Duration>,
    deadline: Option<Duration>,
    chunking: bool,
    no_pipelining: bool,
    all_or_nothing: bool,
    verbose: u8,
    json: bool,
    recipients: Vec<String>,
}

impl Options {
    /// Returns `None` if help is requested.
    fn parse() -> Result<Option<Options>, lexopt::Error> {
        let mut options = Options::default();
        let mut args = lexopt::Parser::from_env();
        while let Some(arg) = args.next()? {
            match arg {
                Short('f' | 'r') | Long("from") => options.from = Some(text(&mut args)?),
                Short('t') => options.from_headers = true,
                Short('i' | 'm' | 'n' | 'G' | 'U') => {}
                Short('A' | 'B' | 'F' | 'h' | 'L') => drop(args.value()?),
                Short('o') => match text(&mut args)?.as_str() {
                    "i" | "m" => {}
                    other if other.starts_with(['d', 'e']) => {}
                    other => return Err(format!("unknown option -o{other}").into()),
                },
                Short('b') => match text(&mut args)?.as_str() {
                    "m" => {}
                    other => return Err(format!("unknown option -b{other}").into()),
                },
                Short('N') | Long("dsn") => options.notify = Some(args.value()?.parse_with(notify)?),
                Short('R') | Long("ret") => {
                    options.mail_options.push(MailOption::Ret(args.value()?.parse_with(ret)?));
                }
                Short('V') | Long("envid") => {
                    options.mail_options.push(MailOption::EnvelopeId(text(&mut args)?));
                }
                Long("requiretls") => options.mail_options.push(MailOption::RequireTls),
                Long("auth") => options.auth = Some(text(&mut args)?.to_ascii_uppercase()),
                Long("user") => options.user = Some(text(&mut args)?),
                Long("oauth-token") => options.oauth_token = Some(text(&mut args)?),
                Long("cert") => options.cert = Some(text(&mut args)?),
                Long("key") => options.key = Some(text(&mut args)?),
                Long("chunking") => options.chunking = true,
                Short('s') | Long("server") => options.server = Some(text(&mut args)?),
                Long("async") if cfg!(feature = "async") => options.is_async = true,
                Long("async") => return Err("--async needs a build with --features async".into()),
                Long("cafile") => options.cafile = Some(text(&mut args)?),
                Long("name") => options.name = Some(text(&mut args)?),
                Long("timeout") => options.timeout = Some(args.value()?.parse_with(seconds)?),
                Long("deadline") => options.deadline = Some(args.value()?.parse_with(seconds)?),
                Long("all-or-nothing") => options.all_or_nothing = true,
                Long("no-pipelining") => options.no_pipelining = true,
                Short('v') => options.verbose = options.verbose.saturating_add(1),
                Long("json") => options.json = true,
                Long("help") => return Ok(None),
                Value(recipient) => options.recipients.push(recipient.string()?),
                _ => return Err(arg.unexpected()),
            }
        }
        match &options {
            Options { user: None, oauth_token: Some(_), .. } => Err("--oauth-token needs --user".into()),
            Options { cert: None, key: Some(_), .. } => Err("--key needs --cert".into()),
            _ => Ok(Some(options)),
        }
    }

    fn server(&self) -> Result<String, Error> {
        let url = match (&self.server, env::var_os("SMTP_URL")) {
            (Some(url), _) => Ok(url.clone()),
            (None, Some(url)) if !url.is_empty() => url.into_string(),
            _ => Ok("smtp://localhost".to_owned()),
        };
        let url = url.map_err(|_| Error::Config("SMTP_URL is not UTF-8".into()))?; // its value is secret
        let has_login = url.contains('@') && !url.contains("+unix:");
        if self.auth.is_none() || has_login || self.user.is_some() || self.is_external() {
            Ok(url)
        } else {
            Err(Error::Config("--auth needs a user and a password in the URL, or --user".into()))
        }
    }

    /// Whether the login is by the client certificate, or by another identity that the server already knows.
    fn is_external(&self) -> bool {
        self.auth.as_deref() == Some("EXTERNAL")
    }

    fn token(&self) -> Result<String, Error> {
        let token = match self.oauth_token.as_deref().map(|text| (text, text.strip_prefix('@'))) {
            Some((_, Some(path))) => String::from_utf8(read(path)?).ok(),
            Some((token, None)) => Some(token.to_owned()),
            None => env::var("SMTP_OAUTH_TOKEN").ok(),
        };
        let token = token.ok_or_else(|| Error::Config("the OAuth token is missing or not UTF-8".into()))?;
        Ok(token.trim_end().to_owned())
    }
}

fn text(args: &mut lexopt::Parser) -> Result<String, lexopt::Error> {
    args.value()?.string()
}

fn read(path: &str) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|e| Error::Config(format!("{path}: {e}").into()))
}

fn notify(text: &str) -> Result<RcptOption, &'static str> {
    let text = text.to_ascii_lowercase();
    let (mut success, mut failure, mut delay) = (false, false, false);
    for word in text.split(',').filter(|_| text != "never") {
        match word {
            "success" => success = true,
            "failure" => failure = true,
            "delay" => delay = true,
            _ => return Err("expected never, or any of success,failure,delay"),
        }
    }
    Ok(match text.as_str() {
        "never" => RcptOption::NotifyNever,
        _ => RcptOption::Notify { success, failure, delay },
    })
}

fn ret(text: &str) -> Result<Ret, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "hdrs" => Ok(Ret::Headers),
        "full" => Ok(Ret::Full),
        _ => Err("expected hdrs or full"),
    }
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    decimal(text).ok_or("expected a number of seconds")
}

/// Parses a decimal number such as `2`, `0.5` or `1e3`. Parsing an f64 would add 16 kB to the program.
fn decimal(text: &str) -> Option<Duration> {
    let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = [whole, fraction].concat();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digit =
        |at| usize::try_from(at).ok().and_then(|at| digits.as_bytes().get(at)).map_or(0, |b| b - b'0');
    let places =
        |from: i64, to| (from..to).try_fold(0_u64, |n, at| n.checked_mul(10)?.checked_add(digit(at).into()));
    let point = whole.len() as i64 + i64::from(exponent.parse::<i16>().ok()?);
    let nanos = u32::try_from(places(point, point + 9)?).ok()?;
    Some(Duration::new(places(0, point)?, nanos))
}

/// Logs the dialogue to stderr.
struct ToStderr;

impl log::Log for ToStderr {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() == "postino"
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            drop(writeln!(io::stderr(), "{}", record.args()));
        }
    }

    fn flush(&self) {}
}

/// Prints a line on stdout. If stdout is closed, the message is sent nevertheless.
fn say(text: &str) {
    drop(writeln!(io::stdout(), "{text}"));
}

/// Prints one line on stderr.
fn tell(text: &str) {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    drop(writeln!(io::stderr(), "sendmail: {line}"));
}

/// The result on one line. `refused` lists the recipients that the server refused individually.
fn json(result: &Result<Delivery, Error>, known: &[String], reply: Option<&Reply>) -> String {
    let (delivery, error) = match result {
        Ok(delivery) => (Some(delivery), None),
        Err(e) => (e.delivery(), Some(e.to_string())),
    };
    let one = |address: &str, outcome, reply| {
        let (address, outcome, reply) = (quoted(Some(address)), name(outcome), quoted(reply));
        format!(r#"{{"recipient":{address},"outcome":"{outcome}","reply":{reply}}}"#)
    };
    let recipients: Vec<_> = match delivery {
        Some(d) => d.recipients().map(|r| one(r.address().as_str(), r.outcome(), r.reply())).collect(),
        None => known.iter().map(|address| one(address, Outcome::NotSent, None)).collect(),
    };
    let refused = delivery
        .into_iter()
        .flat_map(Delivery::refused)
        .map(|r| format!(r#"{{"recipient":{},"reply":{}}}"#, quoted(Some(r.address())), quoted(r.reply())));
    format!(
        r#"{{"outcome":"{}","reply":{},"refused":[{}],"recipients":[{}],"error":{}}}"#,
        name(delivery.map_or(Outcome::NotSent, Delivery::outcome)),
        quoted(reply),
        refused.collect::<Vec<_>>().join(","),
        recipients.join(","),
        quoted(error),
    )
}

fn name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted => "accepted",
        Outcome::Refused => "refused",
        Outcome::InDoubt => "in_doubt",
        _ => "not_sent",
    }
}

/// A JSON string (RFC 8259 §7), or null.
fn quoted(text: Option<impl ToString>) -> String {
    let Some(text) = text else { return "null".to_owned() };
    let mut json = String::from('"');
    for c in text.to_string().chars() {
        match c {
            '"' | '\\' => json.extend(['\\', c]),
            _ if c.is_control() => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => json.push(c),
        }
    }
    json + "\""
}
