//! The command line.

use std::{env, time::Duration};

use lexopt::{Arg::*, ValueExt};
use postino::{Error, MailOption, RcptOption, Ret};

pub const USAGE: &str = "\
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

#[derive(Default)]
pub struct Options {
    pub from: Option<String>,
    /// -t
    pub from_headers: bool,
    pub server: Option<String>,
    pub is_async: bool,
    pub auth: Option<String>,
    pub user: Option<String>,
    pub oauth_token: Option<String>,
    pub cafile: Option<String>,
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
    /// Returns `None` if help is requested.
    pub fn parse() -> Result<Option<Options>, lexopt::Error> {
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

    pub fn server(&self) -> Result<String, Error> {
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
    pub fn is_external(&self) -> bool {
        self.auth.as_deref() == Some("EXTERNAL")
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
