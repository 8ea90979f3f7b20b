//! The expected results of an event in a state. They are not derived from the code of the library: they follow from RFC
//! 5321 and from what the library promises (P2 to P7 of its design, and the decisions on outcomes).

use postino::{Error, Outcome, Phase};

use crate::table::{Event, Scene, is_clients, said};

/// The client under test. Cancelling differs: the blocking client is stopped, while a future of the async client is
/// dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    Blocking,
    #[cfg_attr(not(feature = "async"), allow(dead_code))]
    Aio,
}

/// The error of a call, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The server refused the command or the message, with this code.
    Refused(Phase, u16),
    /// The server refused a login, with this code.
    Auth(u16),
    /// The server's reply is invalid.
    Protocol(Phase),
    Timeout(Phase),
    /// The connection ended, with a FIN or a reset.
    Lost(Phase),
    /// The server's octets are not TLS.
    Tls,
    /// `Tls` or `Lost`: the TLS library may take clear text after the handshake for a broken connection.
    TlsBroken(Phase),
    Stopped(Phase),
    NotConnected,
}

impl Fault {
    pub fn is(self, error: &Error) -> bool {
        match (self, error) {
            // The server cannot tell whether the client has already noticed that it is connected.
            (Fault::Stopped(Phase::Greeting), Error::Stopped(Phase::Connect)) => true,
            (Fault::Refused(phase, code), Error::Refused { phase: at, reply }) => {
                phase == *at && code == reply.code()
            }
            (Fault::Auth(code), Error::Auth { reply: Some(reply), .. }) => code == reply.code(),
            (Fault::Protocol(phase), Error::Protocol { phase: at, .. })
            | (Fault::Timeout(phase), Error::Timeout(at))
            | (Fault::Lost(phase), Error::Closed(at) | Error::Io { phase: at, .. })
            | (Fault::TlsBroken(phase), Error::Io { phase: at, .. })
            | (Fault::Stopped(phase), Error::Stopped(at)) => phase == *at,
            (Fault::Tls | Fault::TlsBroken(_), Error::Tls { .. })
            | (Fault::NotConnected, Error::NotConnected) => true,
            _ => false,
        }
    }
}

/// The expected results of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// `None` if the call never ends, because its future was dropped.
    pub result: Option<Result<(), Fault>>,
    /// The outcome for each recipient of a message.
    pub outcomes: Vec<Outcome>,
    /// Result of the next call, NOOP. A [`Fault::Protocol`] is followed by [`Fault::NotConnected`].
    pub next: Result<(), Fault>,
    /// How the session continues.
    pub more: Vec<String>,
}

/// Whether the code accepts or continues what is done here (RFC 5321 §4.2.1, §4.3.2, RFC 3207 §4, RFC 4954 §4).
fn is_granted(phase: Phase, code: u16) -> bool {
    match phase {
        Phase::Greeting | Phase::StartTls => code == 220,
        Phase::Hello => code < 300 && code != 220,
        Phase::Auth => code < 300 || code == 334,
        Phase::Data => code >= 300,
        _ => code < 300,
    }
}

/// Valid codes that have no meaning here. If no reply is due, no code has a meaning.
pub fn wrong(scene: &Scene) -> Vec<u16> {
    let codes = [211, 220, 235, 250, 252, 334, 354];
    codes.into_iter().filter(|code| scene.is_unasked() || !is_granted(scene.phase, *code)).collect()
}

pub fn code(event: Event) -> u16 {
    match event {
        Event::Later => 451,
        Event::Never => 554,
        Event::Closing => 421,
        _ => panic!("{event:?} has no code"),
    }
}

/// Precedes a line that the client may or may not have sent; it must have sent nothing else.
pub const PERHAPS: &str = "-- perhaps";

const NOOP: [&str; 2] = ["C: NOOP", "S: 250 ok"];

fn lines(script: &[&str]) -> Vec<String> {
    script.iter().map(ToString::to_string).collect()
}

pub fn expected(scene: &Scene, event: Event, client: ClientKind) -> Expected {
    let outcomes = scene.recipients().len();
    Rules { scene, phase: scene.phase, outcomes, client }.expected(event)
}

struct Rules<'s> {
    scene: &'s Scene,
    phase: Phase,
    outcomes: usize,
    client: ClientKind,
}

impl Rules<'_> {
    fn expected(&self, event: Event) -> Expected {
        use Event::*;
        let phase = self.phase;
        // QUIT succeeds whatever happens.
        let quit = phase == Phase::Quit && event != Cancel;
        match event {
            _ if quit => Expected { next: Err(Fault::NotConnected), ..self.fine() },
            Good => self.fine(),
            Split if !self.scene.is_unasked() => self.fine(),
            Later | Never => self.refused(code(event)),
            Split => self.refused(code(Never)), // a split refusal, where no reply is due
            Closing if phase == Phase::Tls => self.broken(Fault::Tls),
            Closing => {
                let refused = phase == Phase::End; // it is the reply to the whole message, RFC 5321 §4.2.5
                let outcome = if refused { Outcome::Refused } else { Outcome::NotSent };
                self.failed(Fault::Refused(phase, 421), outcome)
            }
            WrongClass | Garbage | Oversize if phase == Phase::Tls => self.broken(Fault::Tls),
            WrongClass | Garbage | Oversize => self.broken(Fault::Protocol(phase)),
            ExtraLine => self.one_too_many(),
            // An idle client waits for nothing, and no deadline is running.
            Silence | Deadline if self.is_idle() => self.fine(),
            Slow | Silence | Deadline => self.broken(Fault::Timeout(phase)),
            Fin | Reset | HalfClose => self.broken(Fault::Lost(phase)),
            WriteBlocked => {
                // The end of the message has not been sent in full, but may still arrive: the outcome is in doubt.
                let phase = if phase == Phase::End { Phase::Body } else { phase };
                self.broken(Fault::Timeout(phase))
            }
            Cancel => self.cancelled(),
        }
    }

    fn is_idle(&self) -> bool {
        self.scene.is_unasked() && self.phase == Phase::Noop
    }

    /// The session continues to its end, and the client can be used again.
    fn fine(&self) -> Expected {
        let mut more = self.scene.rest.clone();
        if self.phase != Phase::Quit {
            more.extend(lines(&NOOP));
        }
        Expected {
            result: Some(Ok(())),
            outcomes: vec![Outcome::Accepted; self.outcomes],
            next: Ok(()),
            more,
        }
    }

    /// The session ends here, and so does the connection.
    fn failed(&self, fault: Fault, outcome: Outcome) -> Expected {
        // Only the rest of the content may still be on its way.
        let content = self.scene.is_unasked() && !self.is_idle();
        let handshake = self.phase == Phase::Tls;
        let more = if content || handshake { lines(&["-- ignore"]) } else { Vec::new() };
        Expected {
            result: Some(Err(fault)),
            outcomes: vec![outcome; self.outcomes],
            next: Err(Fault::NotConnected),
            more,
        }
    }

    /// The session fails without a reply. Once its end was sent, a message may have been delivered (RFC 1047); before
    /// that, it cannot have been.
    fn broken(&self, fault: Fault) -> Expected {
        let outcome = if self.phase == Phase::End { Outcome::InDoubt } else { Outcome::NotSent };
        self.failed(fault, outcome)
    }

    /// A reply of 4xx or 5xx, except 421.
    fn refused(&self, code: u16) -> Expected {
        let phase = self.phase;
        let refusal = Fault::Refused(phase, code);
        let goes_on = |more: &[&str]| Expected {
            result: Some(Err(refusal)),
            outcomes: vec![Outcome::Refused; self.outcomes],
            next: Ok(()),
            more: lines(&[more, &NOOP[..]].concat()),
        };
        match phase {
            Phase::Tls => self.broken(Fault::Tls),
            Phase::Greeting | Phase::StartTls => self.broken(refusal),
            Phase::Auth => self.broken(Fault::Auth(code)),
            // HELO follows (RFC 5321 §4.1.1.1), but never after STARTTLS, where it would be a downgrade.
            Phase::Hello if code >= 500 && !self.scene.says("STARTTLS") => {
                let more = lines(&["C: HELO client.example.org", "S: 250 hi", "C: NOOP", "S: 250 ok"]);
                Expected { more, ..self.fine() }
            }
            Phase::Hello => self.broken(refusal),
            _ if self.is_idle() => self.broken(Fault::Protocol(phase)), // no reply was due
            // The content cannot be taken back, so the connection ends.
            Phase::Body if self.scene.is_unasked() => self.failed(refusal, Outcome::Refused),
            // The other recipients still get the message.
            Phase::Recipient if self.outcomes > 1 => {
                let mut expected = self.fine();
                let own = self.scene.to.as_ref().unwrap();
                let is_own = |address: &&str| own.contains(&format!("<{address}>"));
                let number = self.scene.recipients().iter().position(is_own).unwrap();
                expected.outcomes[number] = Outcome::Refused;
                expected
            }
            // The commands sent together with it also fail. An open transaction is reset (RFC 5321 §4.1.1.5).
            Phase::Mail | Phase::Recipient | Phase::Data | Phase::Body | Phase::End => {
                goes_on(&[&vec!["S: 503 no"; self.scene.due()][..], &["C: RSET", "S: 250 ok"]].concat())
            }
            _ => goes_on(&[]),
        }
    }

    /// The expected reply and another one: the client sends nothing to which the second could seem to be the reply.
    fn one_too_many(&self) -> Expected {
        let next = self.scene.rest.iter().find(|line| is_clients(line));
        match (self.phase, next) {
            // The extra line is in clear text after a handshake: TLS cannot continue.
            (Phase::Tls, Some(_)) => {
                let greeting = self.scene.rest.first().is_some_and(|line| line.starts_with("S:"));
                let phase = if greeting { Phase::Greeting } else { Phase::Hello };
                // The client may have sent the next line before it could notice that.
                let next = if phase == Phase::Hello {
                    self.scene.rest[0].replace("C:", PERHAPS)
                } else {
                    PERHAPS.into()
                };
                Expected { more: vec![next], ..self.broken(Fault::TlsBroken(phase)) }
            }
            (phase, _) if self.scene.is_unasked() => self.broken(Fault::Protocol(phase)),
            // The reply is in clear text where TLS should begin (RFC 3207 §6).
            (Phase::StartTls, _) => self.broken(Fault::Protocol(Phase::Tls)),
            // In a flight, the extra line is taken for the next reply. All replies shift, so DATA gets 250, which it
            // does not accept.
            (_, Some(_)) if self.scene.due() > 0 => {
                let more = self.scene.rest[..self.scene.due()].to_vec();
                Expected { more, ..self.broken(Fault::Protocol(Phase::Data)) }
            }
            (_, Some(line)) => self.failed(Fault::Protocol(said(line)), Outcome::NotSent),
            // An accepted message stays accepted.
            (Phase::End, None) => {
                Expected { next: Err(Fault::NotConnected), more: Vec::new(), ..self.fine() }
            }
            (phase, None) => self.broken(Fault::Protocol(phase)),
        }
    }

    fn cancelled(&self) -> Expected {
        let phase = self.phase;
        let connects =
            matches!(phase, Phase::Tls | Phase::Greeting | Phase::Hello | Phase::StartTls | Phase::Auth);
        match self.client {
            // A future that was never polled has done nothing.
            ClientKind::Aio if self.is_idle() => self.fine(),
            ClientKind::Aio => Expected { result: None, ..self.broken(Fault::NotConnected) },
            ClientKind::Blocking => {
                let result = if phase == Phase::Quit { Ok(()) } else { Err(Fault::Stopped(phase)) };
                let next = if connects { Fault::NotConnected } else { Fault::Stopped(Phase::Noop) };
                Expected { result: Some(result), next: Err(next), ..self.broken(Fault::Stopped(phase)) }
            }
        }
    }
}

/// Checks that the client sent exactly the octets that this session requires.
pub fn check_wire(script: &[String], heard: &[u8], content: &[u8]) -> Result<(), String> {
    let (mut rest, mut left) = (heard, content);
    let shown = |bytes: &[u8]| bytes[..bytes.len().min(80)].escape_ascii().to_string();
    let take = |rest: &mut &[u8], wanted: &[u8]| match rest.strip_prefix(wanted) {
        Some(behind) => {
            *rest = behind;
            Ok(())
        }
        None => Err(format!("the server received \"{}\", not \"{}\"", shown(rest), shown(wanted))),
    };
    for line in script {
        match line.as_str() {
            "-- body" => {
                take(&mut rest, left)?;
                take(&mut rest, b".\r\n")?;
                left = &[];
            }
            "-- chunk" => {
                let is_last = take_chunk(&mut rest, &mut left)?;
                if is_last {
                    return Err("the first chunk was the last one".to_owned());
                }
            }
            // Slow content is sent in more chunks.
            "-- last" => {
                while !take_chunk(&mut rest, &mut left)? {}
                if !left.is_empty() {
                    return Err(format!("LAST with {} octets left", left.len()));
                }
            }
            "-- ignore" if rest.first() == Some(&22) || rest.first() == Some(&21) => {
                rest = check_tls(rest)?;
            }
            // Part of the content may have been sent, but not its end.
            "-- ignore" => {
                if left.starts_with(rest) {
                    rest = &[];
                } else {
                    return Err(format!("not the content: {}", shown(rest)));
                }
            }
            line => {
                if let Some(said) = line.strip_prefix(PERHAPS) {
                    rest = rest.strip_prefix(format!("{}\r\n", said.trim()).as_bytes()).unwrap_or(rest);
                } else if let Some(said) = line.strip_prefix("C: ") {
                    take(&mut rest, format!("{said}\r\n").as_bytes())?;
                }
            }
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(format!("the client also sent \"{}\"", shown(rest))) }
}

/// Takes a chunk of the remaining content. Returns whether it is marked as the last one.
fn take_chunk(rest: &mut &[u8], left: &mut &[u8]) -> Result<bool, String> {
    let end = rest.iter().position(|b| *b == b'\n').ok_or("no whole command")?;
    let (command, behind) = rest.split_at(end + 1);
    let command = String::from_utf8_lossy(command).into_owned();
    let words = command.strip_prefix("BDAT ").and_then(|words| words.strip_suffix("\r\n"));
    let words = words.ok_or_else(|| format!("{command:?} where BDAT should be"))?;
    let (octets, is_last) = words.strip_suffix(" LAST").map_or((words, false), |octets| (octets, true));
    let octets = octets.parse().ok().filter(|octets| (*octets > 0 || is_last) && *octets <= left.len());
    let octets: usize = octets.ok_or_else(|| format!("{command:?} before {} octets", left.len()))?;
    let (now, later) = left.split_at(octets);
    *rest =
        behind.strip_prefix(now).ok_or_else(|| format!("{command:?} and other octets than the content"))?;
    *left = later;
    Ok(is_last)
}

/// Checks that the octets consist of TLS records, the last of which may be cut off (RFC 8446 §5.1).
pub fn check_tls(mut rest: &[u8]) -> Result<&[u8], String> {
    while let [kind, 3, _, high, low, behind @ ..] = rest {
        if !(20..=23).contains(kind) {
            break;
        }
        let octets = usize::from(u16::from_be_bytes([*high, *low]));
        rest = &behind[octets.min(behind.len())..];
    }
    if rest.is_empty() { Ok(rest) } else { Err(format!("no TLS: {}", rest.escape_ascii())) }
}
