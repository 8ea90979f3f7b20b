//! The command line.

use std::{env, time::Duration};

use lexopt::{Arg::*, ValueExt};
use postino::{Error, MailOption, RcptOption, Ret};

use crate::duration;

pub const USAGE: &str = "\
sendmail [OPTIONS] [RECIPIENT...] < message
  -f, -r, --from ADDR   envelope sender; default: that of the account, else from the headers,
                        else the calling user; \"\" is the null sender
  -F NAME               full name of the sender, if From is missing
  -t                    recipients from To, Cc, Bcc (Bcc is not sent), then each RECIPIENT
  -a, --account NAME    account of the configuration; default: chosen by the sender
  -C, --config FILE     configuration; default: ~/.config/postino.conf, else /etc/postino.conf
      --as-is           add no header fields and no domains to the message
  -s, --server URL      default $SMTP_URL (without -a and -C), else the account's, else
                        smtp://localhost; also smtps://, lmtp://, smtp+unix:/path,
                        lmtp+unix:/path; $SMTP_URL keeps a password out of ps
      --async           through postino::aio (built with --features async)
      --name NAME       name to send in EHLO
      --auth MECH[,...] only these mechanisms, in this order
      --user USER       log in with an OAuth token instead of the password in the URL
      --oauth-token TOKEN   or @FILE; default: $SMTP_OAUTH_TOKEN
      --cafile PEM      trust this CA too
      --no-system-cas   trust no other CA than that of --cafile or ca-file
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
      --queue           keep the message in the spool if it cannot be sent now
  -v                    print the final reply, or the refusal, on stdout
  -vv                   also print the dialogue on stderr, with secrets masked
      --json            print the result as one line of JSON on stdout instead of the reply
other modes:
  -bs                   serve SMTP on stdin and stdout
  -bp                   list the spool; also by the name mailq
  -q[INTERVAL]          send what is due in the spool (75: a server or its login failed);
                        --flush sends everything in it, and prints what failed
      --resend ID...    put messages that are in doubt or undeliverable back into the queue
      --remove ID...    remove messages from the spool
  -bi                   check the aliases; also by the name newaliases
      --check           check aliases and spool, connect, log in, and print what was found
      --print-config    print the settings, with secrets masked
      --import-msmtprc  print the configuration of msmtp, or the file in =FILE, as one of this program;
                        passwords and the commands that print them only if the output is redirected
      --version         print the version
      --help            print this help
  ignored: -i, -oi (a lone dot never ends the input), -oe* (errors go to stderr), -od* (the
      message is sent immediately), -o*, -O*, -m, -n, -bm, -A*, -d*, -e*, -G, -U, -B TYPE, -h N,
      -L TAG, -p NAME, -X FILE
  removed from the message: \"From \" and \">From \" lines of an mbox before the first header
  added (except with --as-is): missing From, Date, Message-ID; the domain of addresses without one
exit codes, the first that applies:
  64  usage
  78  the configuration, or a file that it names
  65  invalid message or address, or one that the server does not support
  77  TLS or login refused permanently
  68  the host does not exist
  74  in doubt: the message may have been delivered, do not simply resend it
  67  some recipients refused, or all of them, at least one permanently
  69  the server refuses the sender, the message or the service permanently
  75  try again: 4xx, timeout, connection or name server error, all recipients 4xx, not sent to some recipients
  76  protocol error
  70  a bug in postino
   0  accepted by all, or kept in the spool
";

/// What the program does.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Send,
    Serve,
    ListSpool,
    RunSpool,
    ResendSpooled,
    RemoveSpooled,
    CheckAliases,
    Check,
    PrintConfig,
    ImportMsmtprc,
    Version,
    Help,
}

#[derive(Clone, Default)]
pub struct Options {
    pub mode: Mode,
    pub from: Option<String>,
    pub full_name: Option<String>,
    /// -t
    pub from_headers: bool,
    pub account: Option<String>,
    pub config: Option<String>,
    pub as_is: bool,
    /// The file of `--import-msmtprc`.
    pub msmtprc: Option<String>,
    pub queue: bool,
    /// Everything in the spool is due.
    pub flush: bool,
    pub server: Option<String>,
    pub is_async: bool,
    pub auth: Option<String>,
    pub user: Option<String>,
    pub oauth_token: Option<String>,
    pub cafile: Option<String>,
    pub no_system_cas: bool,
    pub cert: Option<String>,
    pub key: Option<String>,
    pub mail_options: Vec<MailOption>,
    pub notify: Option<RcptOption>,
    pub name: Option<String>,
    pub timeout: Option<Duration>,
    pub deadline: Option<Duration>,
    pub chunking: bool,
    pub no_pipelining: bool,
    pub all_or_nothing: bool,
    pub verbose: u8,
    pub json: bool,
    pub recipients: Vec<String>,
}

impl Options {
    pub fn parse() -> Result<Options, lexopt::Error> {
        let mut options = Options::default();
        let mut args = lexopt::Parser::from_env();
        options.mode = args.bin_name().map_or(Mode::Send, mode_of_name);
        while let Some(arg) = args.next()? {
            match arg {
                Short('f' | 'r') | Long("from") => options.from = Some(text(&mut args)?),
                Short('t') => options.from_headers = true,
                Short('F') => options.full_name = Some(text(&mut args)?),
                Short('a') | Long("account") => options.account = Some(text(&mut args)?),
                Short('C') | Long("config") => options.config = Some(text(&mut args)?),
                Long("as-is") => options.as_is = true,
                Long("queue") => options.queue = true,
                Long("check") => options.mode = Mode::Check,
                Long("print-config") => options.mode = Mode::PrintConfig,
                Long("import-msmtprc") => {
                    options.msmtprc = args.optional_value().map(ValueExt::string).transpose()?;
                    options.mode = Mode::ImportMsmtprc;
                }
                Long("version") => options.mode = Mode::Version,
                Long("help") => options.mode = Mode::Help,
                // The value is optional, and must be in the same argument.
                Short('d' | 'e') => drop(args.optional_value()),
                Short('q') => {
                    drop(args.optional_value());
                    options.mode = Mode::RunSpool;
                }
                Long("flush") => (options.mode, options.flush) = (Mode::RunSpool, true),
                Long("resend") => options.mode = Mode::ResendSpooled,
                Long("remove") => options.mode = Mode::RemoveSpooled,
                Short('i' | 'm' | 'n' | 'G' | 'U') => {}
                Short('A' | 'B' | 'h' | 'L' | 'O' | 'X' | 'o' | 'p') => drop(args.value()?),
                Short('b') => options.mode = mode(&text(&mut args)?)?,
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
                Long("no-system-cas") => options.no_system_cas = true,
                Long("name") => options.name = Some(text(&mut args)?),
                Long("timeout") => options.timeout = Some(args.value()?.parse_with(seconds)?),
                Long("deadline") => options.deadline = Some(args.value()?.parse_with(seconds)?),
                Long("all-or-nothing") => options.all_or_nothing = true,
                Long("no-pipelining") => options.no_pipelining = true,
                Short('v') => options.verbose = options.verbose.saturating_add(1),
                Long("json") => options.json = true,
                Value(recipient) => options.recipients.push(recipient.string()?),
                _ => return Err(arg.unexpected()),
            }
        }
        match &options {
            Options { user: None, oauth_token: Some(_), .. } => Err("--oauth-token needs --user".into()),
            Options { cert: None, key: Some(_), .. } => Err("--key needs --cert".into()),
            _ => Ok(options),
        }
    }

    /// Returns the URL of the command line or the environment. An account or a configuration on the command line comes
    /// before the environment.
    pub fn server(&self) -> Result<Option<String>, Error> {
        if self.server.is_some() || self.account.is_some() || self.config.is_some() {
            return Ok(self.server.clone());
        }
        match env::var_os("SMTP_URL") {
            Some(url) if !url.is_empty() => {
                // Its value is secret.
                url.into_string().map(Some).map_err(|_| Error::Config("SMTP_URL is not UTF-8".into()))
            }
            _ => Ok(None),
        }
    }

    /// Returns an option that must not be used in set-group-ID mode: one that chooses where the password of the
    /// system's configuration is sent, or how it is protected.
    pub fn privileged(&self) -> Option<&'static str> {
        let given = [
            ("-C", self.config.is_some()),
            ("--server", self.server.is_some()),
            ("--auth", self.auth.is_some()),
            ("--user", self.user.is_some()),
            ("--cafile", self.cafile.is_some()),
            ("--cert", self.cert.is_some()),
        ];
        given.into_iter().find_map(|(name, is_given)| is_given.then_some(name))
    }

    pub fn token(&self) -> Result<String, Error> {
        let token = match self.oauth_token.as_deref().map(|text| (text, text.strip_prefix('@'))) {
            Some((_, Some(path))) => String::from_utf8(read(path)?).ok(),
            Some((token, None)) => Some(token.to_owned()),
            None => env::var("SMTP_OAUTH_TOKEN").ok(),
        };
        let token = token.ok_or_else(|| Error::Config("the OAuth token is missing or not UTF-8".into()))?;
        Ok(token.trim_end().to_owned())
    }
}

/// Returns the mode for the name of the program.
fn mode_of_name(name: &str) -> Mode {
    match name.rsplit('/').next() {
        Some("mailq") => Mode::ListSpool,
        Some("newaliases") => Mode::CheckAliases,
        _ => Mode::Send,
    }
}

/// Returns the mode of the option `-b`.
fn mode(letter: &str) -> Result<Mode, lexopt::Error> {
    match letter {
        "m" => Ok(Mode::Send),
        "s" => Ok(Mode::Serve),
        "p" => Ok(Mode::ListSpool),
        "i" => Ok(Mode::CheckAliases),
        _ => Err(format!("unknown option -b{letter}").into()),
    }
}

fn text(args: &mut lexopt::Parser) -> Result<String, lexopt::Error> {
    args.value()?.string()
}

pub fn read(path: &str) -> Result<Vec<u8>, Error> {
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
    duration::seconds(text).ok_or("expected a number of seconds")
}
