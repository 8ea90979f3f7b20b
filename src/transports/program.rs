//! A mailer that passes messages to a program such as `sendmail`.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Weak,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use super::{Copied, accepted, failed};
use crate::{Address, Delivery, Envelope, Error, Outcome, sys, time::later};

/// Default time limit for the program.
const LIMIT: Duration = Duration::from_secs(60);

/// Longest time between two checks of whether the program has ended.
const LONGEST_GLANCE: Duration = Duration::from_millis(20);

/// How long to wait for the end of a program that was killed, and for the pipes to be closed after the program has
/// ended. Its children may keep them open.
const GRACE: Duration = Duration::from_secs(2);

/// Maximum number of octets of the program's error messages that are kept.
const MAX_TEXT: usize = 4096;

/// Maximum number of characters of the program's error messages that an error shows.
const MAX_SHOWN: usize = 200;

/// A mailer that passes each message to a `sendmail`-compatible program.
///
/// The program is started as `PROGRAM -i -f SENDER -- RECIPIENT…`, without a shell, and reads the message from its
/// standard input, with lines that end in LF. The null sender is passed as `<>`. The program inherits the environment
/// and the current directory of the caller. The exit status decides the outcome:
///
/// | the program | the recipients |
/// |---|---|
/// | exits with 0, after the whole message was written to its standard input | accepted |
/// | cannot be started, or exits with 75 (`EX_TEMPFAIL`) | not sent |
/// | exits with 64, 65, 66, 77 or 78 (wrong arguments, message, permissions or configuration) | refused |
/// | exits with 67, 68 or 69 (unknown user or host, unavailable service), if there is one recipient | refused |
/// | exits with another code, exits with 0 before the whole message was written, or is killed | in doubt |
///
/// A program that delivers messages itself, instead of putting them into a queue, can exit with 75 after some of the
/// recipients have received the message. Give such a program one recipient at a time.
///
/// The program is killed (on Unix, together with the processes that it has started) if it has not ended within the
/// [time limit](ProgramMailer::time_limit), or if the future of an async call is dropped. The recipients are then in
/// doubt. A setuid program that has changed its user cannot be killed, and keeps running. Standard output is discarded.
/// If the program exits with an error code, the last line of its standard error is part of [`Error::Program`].
///
/// An address that begins with `-` is an [`Error::Address`], and an envelope with options is an [`Error::Message`]. In
/// both cases, the program is not started. The content is read into memory before the program is started.
///
/// ```no_run
/// use postino::{Mailer, Message, ProgramMailer};
///
/// let message = Message::builder().from("shop@example.org").to_one("bob@example.net").text("Hello!\n").build()?;
/// ProgramMailer::new("/usr/sbin/sendmail").send(&message)?;
/// # Ok::<(), postino::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ProgramMailer {
    program: PathBuf,
    limit: Duration,
}

/// Tells whether the caller is still waiting for the program: only the caller keeps the value alive.
pub(crate) type Waiter = Weak<()>;

impl ProgramMailer {
    /// Creates a mailer for the program at this absolute path, such as `/usr/sbin/sendmail`. With a relative path,
    /// sending fails with [`Error::Config`].
    #[must_use]
    pub fn new(program: impl AsRef<Path>) -> ProgramMailer {
        ProgramMailer { program: program.as_ref().to_owned(), limit: LIMIT }
    }

    /// Sets how long the program may take for each message. Defaults to 60 seconds.
    #[must_use]
    pub fn time_limit(self, limit: Duration) -> ProgramMailer {
        ProgramMailer { limit, ..self }
    }

    /// Checks the envelope. Returns it in ASCII, with the arguments for the program.
    pub(crate) fn arguments(&self, envelope: Envelope) -> Result<(Envelope, Vec<OsString>), Error> {
        if !self.program.is_absolute() {
            let why = format!("the path of the program is not absolute: {}", self.program.display());
            return Err(Error::Config(why.into()));
        }
        let has_recipient_options =
            (0..envelope.recipients().len()).any(|number| !envelope.options_of(number).is_empty());
        if has_recipient_options || !envelope.mail_options().is_empty() {
            return Err(Error::Message("envelope options cannot be passed to a program".into()));
        }
        let envelope = envelope.without_utf8()?;
        let mut all = envelope.sender().into_iter().chain(envelope.recipients());
        if let Some(option) = all.find(|address| address.as_str().starts_with('-')) {
            let why = "a program would mistake it for an option";
            return Err(Error::Address { input: option.to_string(), why, header: None });
        }
        let sender = envelope.sender().map_or("<>", Address::as_str);
        let recipients = envelope.recipients().iter().map(Address::as_str);
        let arguments =
            ["-i", "-f", sender, "--"].into_iter().chain(recipients).map(OsString::from).collect();
        Ok((envelope, arguments))
    }

    /// Runs the program. The arguments must be those that [`arguments`](Self::arguments) returned for the envelope.
    pub(crate) fn run(
        &self,
        arguments: Vec<OsString>,
        mail: Copied,
        waiter: &Waiter,
    ) -> Result<Delivery, Error> {
        let Copied { envelope, octets, has_utf8_headers } = mail;
        if has_utf8_headers {
            let why = "a message with non-ASCII addresses in its header cannot be passed to a program";
            return Err(Error::Message(why.into()));
        }
        let is_one = envelope.recipients().len() == 1;
        match self.end(arguments, octets, is_one, waiter) {
            Ok(()) => Ok(accepted(envelope)),
            Err((outcome, what)) => {
                let program = self.program.display().to_string();
                Err(failed(envelope, outcome, None, Error::Program { program, what }))
            }
        }
    }

    /// Runs the program to its end. The error is the outcome for all recipients, and what happened.
    fn end(
        &self,
        arguments: Vec<OsString>,
        octets: Vec<u8>,
        is_one: bool,
        waiter: &Waiter,
    ) -> Result<(), (Outcome, String)> {
        let until = later(Instant::now(), self.limit);
        let not_sent = |e: io::Error| (Outcome::NotSent, e.to_string());
        // The threads are started before the program, so that it never runs without them.
        let (stdin, is_written) = writing(octets).map_err(not_sent)?;
        let (stderr, text) = listening().map_err(not_sent)?;
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        sys::lead_group(&mut command);
        let mut child = command.spawn().map_err(not_sent)?;
        drop(child.stdin.take().map(|pipe| stdin.send(pipe)));
        drop(child.stderr.take().map(|pipe| stderr.send(pipe)));
        let mut running = Running(Some(child));
        let status = match running.wait(until, waiter) {
            Ok(Some(status)) => status,
            Ok(None) if waiter.strong_count() == 0 => {
                return Err((Outcome::InDoubt, "killed because the caller is no longer waiting".to_owned()));
            }
            Ok(None) => return Err((Outcome::InDoubt, format!("killed after {:?}", self.limit))),
            Err(e) => return Err((Outcome::InDoubt, e.to_string())),
        };
        if !status.success() {
            let text = text.recv_timeout(GRACE).unwrap_or_default();
            return Err((outcome(status.code(), is_one), described(status, &text)));
        }
        match is_written.recv_timeout(GRACE) {
            Ok(Ok(())) => Ok(()),
            _ => Err((Outcome::InDoubt, "it ended before it had read the whole message".to_owned())),
        }
    }
}

/// Returns the outcome for an exit code other than 0 (`sysexits.h`). A program that was given several recipients may
/// have sent the message to some of them before it exits with a code that concerns only one.
fn outcome(code: Option<i32>, is_one: bool) -> Outcome {
    match code {
        Some(75) => Outcome::NotSent,
        Some(64..=66 | 77 | 78) => Outcome::Refused,
        Some(67..=69) if is_one => Outcome::Refused,
        _ => Outcome::InDoubt,
    }
}

/// Starts a thread that writes the message, with lines that end in LF, to a pipe. Returns a channel to pass the pipe to
/// the thread, and one that tells whether the whole message was written.
fn writing(octets: Vec<u8>) -> io::Result<(Sender<ChildStdin>, Receiver<io::Result<()>>)> {
    let ((give, pipe), (tell, told)) = (channel(), channel());
    thread::Builder::new().name("postino-program".to_owned()).spawn(move || {
        if let Ok(mut pipe) = pipe.recv() {
            let written = with_bare_line_ends(&octets, &mut pipe);
            drop(pipe); // the end of the message
            drop(tell.send(written));
        }
    })?;
    Ok((give, told))
}

/// Writes text with LF for each CRLF.
fn with_bare_line_ends(mut text: &[u8], to: &mut dyn Write) -> io::Result<()> {
    let mut to = io::BufWriter::new(to);
    while let Some(at) = memchr::memmem::find(text, b"\r\n") {
        to.write_all(&text[..at])?;
        text = &text[at + 1..];
    }
    to.write_all(text)?;
    to.flush()
}

/// Starts a thread that reads a pipe to its end. Returns a channel to pass it the pipe, and one for the last octets.
fn listening() -> io::Result<(Sender<ChildStderr>, Receiver<Vec<u8>>)> {
    let ((give, pipe), (tell, told)) = (channel(), channel());
    thread::Builder::new().name("postino-program".to_owned()).spawn(move || {
        if let Ok(mut pipe) = pipe.recv() {
            drop(tell.send(last_octets(&mut pipe)));
        }
    })?;
    Ok((give, told))
}

/// Reads to the end, and returns the last [`MAX_TEXT`] octets.
fn last_octets(from: &mut dyn Read) -> Vec<u8> {
    let mut text = Vec::new();
    while let Ok(1..) = from.take(MAX_TEXT as u64).read_to_end(&mut text) {
        text.drain(..text.len().saturating_sub(MAX_TEXT));
    }
    text
}

/// A program that was started; `None` after it was reaped. It is killed and reaped when this value is dropped.
struct Running(Option<Child>);

impl Running {
    /// Waits for the end of the program. At the limit, or if the caller has given up, kills it and returns `None`.
    fn wait(&mut self, until: Instant, waiter: &Waiter) -> io::Result<Option<ExitStatus>> {
        let mut glance = Duration::from_millis(1);
        while let Some(child) = &mut self.0 {
            if let Some(status) = child.try_wait()? {
                self.0 = None;
                return Ok(Some(status));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || waiter.strong_count() == 0 {
                break;
            }
            thread::sleep(glance.min(left));
            glance = (glance * 2).min(LONGEST_GLANCE);
        }
        self.kill();
        Ok(None)
    }

    fn kill(&mut self) {
        let Some(mut child) = self.0.take() else { return };
        sys::kill_group(&child);
        drop(child.kill()); // for systems without process groups
        let until = Instant::now() + GRACE;
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() >= until {
                // A program that has changed its user (such as Exim) cannot be killed by this one.
                let reap = thread::Builder::new().name("postino-program".to_owned());
                drop(reap.spawn(move || child.wait()));
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the exit status and the last line of the program's error messages, without control characters.
fn described(status: ExitStatus, text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    let line: String = line.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect();
    if line.is_empty() { status.to_string() } else { format!("{status}: {line}") }
}
