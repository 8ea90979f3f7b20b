//! The exchange with a proxy before SMTP begins: SOCKS5 (RFC 1928, with the login of RFC 1929) and HTTP CONNECT (RFC
//! 9110 §9.3.6).
//!
//! This is not a [`Dialogue`](super::Dialogue), because dialogues read SMTP replies. The carrier, in `client/dial.rs`,
//! reads no more octets than [`Step::Read`] asks for: whatever follows the proxy's reply comes from the mail server.

use std::{borrow::Cow, net::IpAddr};

use base64::{Engine, prelude::BASE64_STANDARD};

use super::reply::mask;

/// Maximum total length of the headers of all HTTP replies, in octets.
const MAX_HEADER: usize = 16 * 1024;

/// Maximum length of a host name, a user name or a password in SOCKS5, in octets.
pub(crate) const MAX_SOCKS_FIELD: usize = 255;

const NO_LOGIN: u8 = 0;
const USER_AND_PASSWORD: u8 = 2;

/// The protocol that a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxyProtocol {
    Socks5,
    HttpConnect,
}

/// The server that the proxy is to connect to. A host name is not resolved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub host: &'a str,
    pub port: u16,
}

/// A user name and a password.
pub(crate) type ProxyLogin<'a> = (&'a [u8], &'a [u8]);

/// What the carrier has to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Write all of these octets.
    Write(Vec<u8>),
    /// Read at least one octet and at most this many.
    Read(usize),
    /// Use the connection, which now leads to the server.
    Done,
}

/// The reason why the proxy does not connect to the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProxyFailure {
    pub what: Cow<'static, str>,
    /// Whether a later attempt may succeed.
    pub is_transient: bool,
}

impl ProxyFailure {
    /// Returns the failure of a proxy that sends something before it is asked.
    pub fn spoke_first() -> ProxyFailure {
        permanent("it sent something before it was asked")
    }
}

fn permanent(what: impl Into<Cow<'static, str>>) -> ProxyFailure {
    ProxyFailure { what: what.into(), is_transient: false }
}

pub(crate) struct ProxyExchange {
    state: State,
    /// Octets to be written next, if any.
    output: Option<Vec<u8>>,
    /// The part of the current reply that has arrived.
    input: Vec<u8>,
    /// Secrets that are masked if a reply repeats them: the password, and the encoded login.
    secrets: Vec<Vec<u8>>,
}

enum State {
    Socks5(Socks5),
    /// Waiting for the header of a reply. The number counts the octets of all replies so far, including 1xx replies.
    HttpConnect(usize),
    Done,
}

struct Socks5 {
    stage: Stage,
    login: Option<Vec<u8>>,
    request: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Stage {
    Method,
    Login,
    /// The reply up to the first octet of its address.
    Reply,
    /// The rest of the reply, whose length is known by now: the address and the port.
    Address(usize),
}

impl ProxyExchange {
    /// Begins an exchange. The caller has checked the lengths of the fields; see [`MAX_SOCKS_FIELD`].
    pub fn new(protocol: ProxyProtocol, target: Target<'_>, login: Option<ProxyLogin<'_>>) -> ProxyExchange {
        let (state, output) = match protocol {
            ProxyProtocol::Socks5 => {
                let greeting: &[u8] =
                    if login.is_some() { &[5, 2, NO_LOGIN, USER_AND_PASSWORD] } else { &[5, 1, NO_LOGIN] };
                let socks5 = Socks5 {
                    stage: Stage::Method,
                    login: login.map(login_message),
                    request: connect_message(target),
                };
                (State::Socks5(socks5), greeting.into())
            }
            ProxyProtocol::HttpConnect => (State::HttpConnect(0), connect_request(target, login)),
        };
        let secrets = login.map_or_else(Vec::new, |login| vec![encoded(login).into(), login.1.to_vec()]);
        ProxyExchange { state, output: Some(output), input: Vec::new(), secrets }
    }

    pub fn step(&mut self) -> Step {
        if let Some(output) = self.output.take() {
            return Step::Write(output);
        }
        match &self.state {
            State::Done => Step::Done,
            State::Socks5(socks5) => Step::Read(socks5.stage.length() - self.input.len()),
            State::HttpConnect(_) => Step::Read(shortest_rest(&self.input)),
        }
    }

    /// Processes octets that have arrived.
    ///
    /// # Errors
    ///
    /// Fails if the proxy refuses, or does not speak the protocol.
    pub fn on_octets(&mut self, octets: &[u8]) -> Result<(), ProxyFailure> {
        self.input.extend_from_slice(octets);
        match &mut self.state {
            State::Socks5(socks5) => {
                socks5.check(&self.input)?;
                if self.input.len() < socks5.stage.length() {
                    return Ok(());
                }
                let is_done = socks5.advance(&self.input, &mut self.output);
                self.input.clear();
                if is_done {
                    self.state = State::Done;
                }
            }
            State::HttpConnect(read) => {
                *read += octets.len();
                if *read > MAX_HEADER {
                    return Err(permanent("its reply is longer than 16 KiB"));
                }
                let Some(line_end) = self.input.iter().position(|octet| *octet == b'\n') else {
                    return Ok(());
                };
                let code = http_status(&self.input[..line_end], &self.secrets)?;
                if is_whole_header(&self.input) {
                    self.input.clear();
                    if code >= 200 {
                        self.state = State::Done;
                    }
                }
            }
            State::Done => {}
        }
        Ok(())
    }
}

impl Stage {
    /// Returns the length of the expected message, in octets.
    fn length(self) -> usize {
        match self {
            Stage::Method | Stage::Login => 2,
            Stage::Reply => 5, // with the first octet of the address, which may be its length
            Stage::Address(length) => length,
        }
    }
}

impl Socks5 {
    /// Checks as much of a message as has arrived. Some proxies do not send a whole message when they refuse.
    fn check(&self, input: &[u8]) -> Result<(), ProxyFailure> {
        match (self.stage, input) {
            (Stage::Method | Stage::Reply, [version, ..]) if *version != 5 => {
                Err(permanent("it does not speak SOCKS5"))
            }
            (Stage::Method, [_, NO_LOGIN]) => Ok(()),
            (Stage::Method, [_, USER_AND_PASSWORD]) if self.login.is_some() => Ok(()),
            (Stage::Method, [_, USER_AND_PASSWORD | 0xff]) if self.login.is_none() => {
                Err(permanent("it requires a login"))
            }
            (Stage::Method, [_, 0xff]) => Err(permanent("it accepts no login with a password")),
            (Stage::Method, [_, _]) => Err(permanent("it chose a login method that was not offered")),
            (Stage::Login, [_, status]) if *status != 0 => Err(permanent("it refused the login")),
            (Stage::Reply, [_, code, ..]) if *code != 0 => Err(refusal(*code)),
            (Stage::Reply, [_, _, _, kind, ..]) if ![1, 3, 4].contains(kind) => {
                Err(permanent("its reply has an unknown type of address"))
            }
            _ => Ok(()),
        }
    }

    /// Processes a whole message. Returns whether it was the last one.
    fn advance(&mut self, input: &[u8], output: &mut Option<Vec<u8>>) -> bool {
        self.stage = match (self.stage, input) {
            (Stage::Method, [_, USER_AND_PASSWORD]) => {
                *output = self.login.take();
                Stage::Login
            }
            (Stage::Method | Stage::Login, _) => {
                *output = Some(std::mem::take(&mut self.request));
                Stage::Reply
            }
            // The rest of the address, and the port.
            (Stage::Reply, [.., 1, _]) => Stage::Address(3 + 2),
            (Stage::Reply, [.., 4, _]) => Stage::Address(15 + 2),
            (Stage::Reply, [.., length]) => Stage::Address(usize::from(*length) + 2),
            _ => return true,
        };
        false
    }
}

/// Returns the error for a reply code (RFC 1928 §6).
fn refusal(code: u8) -> ProxyFailure {
    let (what, is_transient) = match code {
        1 => ("general failure", true),
        2 => ("not allowed by its rules", false),
        3 => ("network unreachable", true),
        4 => ("host unreachable", true),
        5 => ("connection refused", true),
        6 => ("TTL expired", true),
        7 => ("command not supported", false),
        8 => ("address type not supported", false),
        _ => return permanent(format!("unknown reply code {code}")),
    };
    ProxyFailure { what: what.into(), is_transient }
}

/// Appends a field, preceded by its length.
fn push_field(message: &mut Vec<u8>, field: &[u8]) {
    let field = &field[..field.len().min(MAX_SOCKS_FIELD)];
    message.push(field.len() as u8);
    message.extend_from_slice(field);
}

/// Returns the message with the user name and the password (RFC 1929 §2).
fn login_message((user, password): ProxyLogin<'_>) -> Vec<u8> {
    let mut message = vec![1];
    push_field(&mut message, user);
    push_field(&mut message, password);
    message
}

/// Returns the CONNECT request (RFC 1928 §4).
fn connect_message(target: Target<'_>) -> Vec<u8> {
    let mut message = vec![5, 1, 0];
    match target.host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => {
            message.push(1);
            message.extend(address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            message.push(4);
            message.extend(address.octets());
        }
        Err(_) => {
            message.push(3);
            push_field(&mut message, target.host.as_bytes());
        }
    }
    message.extend(target.port.to_be_bytes());
    message
}

fn connect_request(Target { host, port }: Target<'_>, login: Option<ProxyLogin<'_>>) -> Vec<u8> {
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    if let Some(login) = login {
        request += &format!("Proxy-Authorization: Basic {}\r\n", encoded(login));
    }
    (request + "\r\n").into()
}

/// Returns the login, encoded for basic authentication (RFC 7617 §2).
fn encoded((user, password): ProxyLogin<'_>) -> String {
    BASE64_STANDARD.encode([user, b":", password].concat())
}

/// Returns the smallest number of octets that can complete the header. Further octets could come from the mail server.
fn shortest_rest(header: &[u8]) -> usize {
    if header.ends_with(b"\n") || header.ends_with(b"\n\r") { 1 } else { 2 }
}

/// Returns whether the header ends in an empty line. Lines may end in a bare LF (RFC 9112 §2.2).
fn is_whole_header(header: &[u8]) -> bool {
    header.ends_with(b"\n\r\n") || header.ends_with(b"\n\n")
}

/// Returns the status code of a reply, or an error if the reply is a refusal.
fn http_status(line: &[u8], secrets: &[Vec<u8>]) -> Result<u16, ProxyFailure> {
    let text = match line.strip_prefix(b"HTTP/1.") {
        Some([_, b' ', text @ ..]) => text.trim_ascii(),
        _ => return Err(permanent("it does not speak HTTP/1")),
    };
    let code = text.get(..3).and_then(|code| std::str::from_utf8(code).ok()?.parse::<u16>().ok());
    match code {
        Some(code @ 100..300) => Ok(code),
        Some(407) => Err(permanent("it requires a valid login (407)")),
        Some(code) => Err(ProxyFailure {
            what: mask(text.to_vec(), secrets).escape_ascii().to_string().into(),
            is_transient: matches!(code, 408 | 429 | 500..600) && !matches!(code, 501 | 505),
        }),
        None => Err(permanent("its reply has no status code")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGIN: ProxyLogin<'static> = (b"user", b"secret");

    fn exchange(protocol: ProxyProtocol, host: &str, login: Option<ProxyLogin<'_>>) -> ProxyExchange {
        ProxyExchange::new(protocol, Target { host, port: 587 }, login)
    }

    /// Plays a proxy that sends `replies` in turn, in pieces of at most `piece` octets. Returns the messages that the
    /// proxy received, and the octets that were not read.
    fn play(
        mut exchange: ProxyExchange,
        replies: &[&[u8]],
        piece: usize,
    ) -> Result<(Vec<Vec<u8>>, Vec<u8>), ProxyFailure> {
        let (mut heard, mut arrived, mut replies) = (Vec::new(), Vec::new(), replies.iter());
        loop {
            match exchange.step() {
                Step::Done => return Ok((heard, arrived)),
                Step::Write(octets) => heard.push(octets),
                Step::Read(most) => {
                    assert_ne!(most, 0);
                    if arrived.is_empty() {
                        arrived.extend_from_slice(replies.next().expect("no reply is left"));
                    }
                    let rest = arrived.split_off(most.min(piece).min(arrived.len()));
                    exchange.on_octets(&std::mem::replace(&mut arrived, rest))?;
                }
            }
        }
    }

    #[test]
    fn socks5_passes_the_name_on_and_reads_no_octet_of_the_server() {
        let reply = b"\x05\0\0\x03\x05proxy\x12\x34220 mail";
        for piece in [1, 2, 100] {
            let replies: [&[u8]; 2] = [&[5, 0], reply];
            let (heard, rest) =
                play(exchange(ProxyProtocol::Socks5, "mx.example", None), &replies, piece).unwrap();
            assert_eq!(heard, [&b"\x05\x01\0"[..], b"\x05\x01\0\x03\x0amx.example\x02\x4b"]);
            assert_eq!(rest, b"220 mail");
        }
    }

    #[test]
    fn socks5_sends_addresses_as_such_and_takes_each_type_of_address() {
        for (host, sent) in [
            ("192.0.2.1", &b"\x05\x01\0\x01\xc0\0\x02\x01\x02\x4b"[..]),
            ("2001:db8::1", b"\x05\x01\0\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x02\x4b"),
        ] {
            for reply in [
                &b"\x05\0\0\x01\x7f\0\0\x01\0\0!"[..],
                b"\x05\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0!",
            ] {
                let (heard, rest) =
                    play(exchange(ProxyProtocol::Socks5, host, None), &[&[5, 0], reply], 3).unwrap();
                assert_eq!((&heard[1][..], &rest[..]), (sent, &b"!"[..]));
            }
        }
    }

    #[test]
    fn socks5_logs_in_only_if_asked() {
        let reply: &[u8] = b"\x05\0\0\x01\0\0\0\0\0\0";
        let login = || exchange(ProxyProtocol::Socks5, "h", Some(LOGIN));
        let (heard, _) = play(login(), &[&[5, 0], reply], 9).unwrap();
        assert!(heard.len() == 2 && heard[0] == [5, 2, 0, 2]);
        let (heard, _) = play(login(), &[&[5, 2], &[1, 0], reply], 9).unwrap();
        assert_eq!(heard[1], b"\x01\x04user\x06secret");
    }

    #[test]
    fn socks5_refusals_say_why_and_whether_to_try_again() {
        for (login, replies, what, is_transient) in [
            (false, &[&[5, 0xff][..]][..], "it requires a login", false),
            (false, &[&[5, 2]], "it requires a login", false),
            (true, &[&[5, 0xff]], "it accepts no login with a password", false),
            (true, &[&[5, 1]], "it chose a login method that was not offered", false),
            (true, &[&[5, 2], &[1, 1]], "it refused the login", false),
            (false, &[&[5, 0], &[5, 2, 0, 1]], "not allowed by its rules", false),
            (false, &[&[5, 0], &[5, 1]], "general failure", true),
            (false, &[&[5, 0], &[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]], "host unreachable", true),
            (false, &[&[5, 0], &[5, 99]], "unknown reply code 99", false),
            (false, &[&[5, 0], &[5, 0, 0, 2, 0]], "its reply has an unknown type of address", false),
            (false, &[&[4, 0]], "it does not speak SOCKS5", false),
            (false, &[b"HTTP/1.1 400 Bad Request"], "it does not speak SOCKS5", false),
        ] {
            let login = login.then_some(LOGIN);
            let refused = play(exchange(ProxyProtocol::Socks5, "h", login), replies, 9).unwrap_err();
            assert_eq!(refused, ProxyFailure { what: what.into(), is_transient });
        }
    }

    #[test]
    fn http_connect_names_the_server_and_reads_no_octet_of_it() {
        for (host, authority) in [("mx.example", "mx.example:587"), ("2001:db8::1", "[2001:db8::1]:587")] {
            for reply in [
                "HTTP/1.1 200 Connection established\r\n\r\n",
                "HTTP/1.0 200\r\n\r\n",
                "HTTP/1.1 299 OK\nVia: 1.1 proxy\n\n",
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: b\r\n\r\n",
            ] {
                let reply = format!("{reply}220 mail");
                for piece in [1, 2, 3] {
                    let (heard, rest) =
                        play(exchange(ProxyProtocol::HttpConnect, host, None), &[reply.as_bytes()], piece)
                            .unwrap();
                    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
                    assert_eq!(String::from_utf8(heard.concat()).unwrap(), request);
                    assert_eq!(rest, b"220 mail", "{reply:?}");
                }
            }
        }
        let reply: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
        let (heard, _) = play(exchange(ProxyProtocol::HttpConnect, "h", Some(LOGIN)), &[reply], 9).unwrap();
        let login = "\r\nProxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n\r\n";
        assert!(String::from_utf8(heard.concat()).unwrap().ends_with(login));
    }

    #[test]
    fn http_refusals_say_why_and_whether_to_try_again() {
        for (reply, what, is_transient) in [
            ("HTTP/1.1 407 Proxy Authentication Required\r\n", "it requires a valid login (407)", false),
            ("HTTP/1.1 403 Forbidden\r\n", "403 Forbidden", false),
            ("HTTP/1.1 502 Bad\x1bGateway\r\n", "502 Bad\\x1bGateway", true),
            ("HTTP/1.1 501 Not Implemented\r\n", "501 Not Implemented", false),
            ("HTTP/1.1 429 Too Many Requests\r\n", "429 Too Many Requests", true),
            ("HTTP/1.1 301 Moved\r\n", "301 Moved", false),
            ("HTTP/1.1 yes\r\n", "its reply has no status code", false),
            ("HTTP/1.1\r\n", "it does not speak HTTP/1", false),
            ("220 mail.example.org ESMTP\r\n", "it does not speak HTTP/1", false),
        ] {
            let refused =
                play(exchange(ProxyProtocol::HttpConnect, "h", None), &[reply.as_bytes()], 9).unwrap_err();
            assert_eq!(refused, ProxyFailure { what: what.into(), is_transient });
        }
    }

    // Threat 71.
    #[test]
    fn a_login_that_an_http_proxy_repeats_is_masked() {
        let reply = b"HTTP/1.1 403 secret user Basic dXNlcjpzZWNyZXQ= refused\r\n";
        let refused = play(exchange(ProxyProtocol::HttpConnect, "h", Some(LOGIN)), &[reply], 9).unwrap_err();
        assert_eq!(refused.what, "403 *** user Basic *** refused");
    }

    #[test]
    fn an_http_proxy_cannot_send_headers_for_ever() {
        for endless in [&b"HTTP/1.1 200 OK\r\nA: "[..], b"HTTP/1.1 100 Continue\r\n\r\n", b"x"] {
            let replies = vec![endless; 20_000];
            let refused = play(exchange(ProxyProtocol::HttpConnect, "h", None), &replies, 9).unwrap_err();
            assert!(refused.what.contains("longer than 16 KiB"), "{refused:?}");
        }
    }
}
