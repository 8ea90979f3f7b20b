//! A server that plays a transcript, and what the library logs.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    thread::JoinHandle,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

/// Returns the greeting and EHLO, offering these mechanisms.
pub fn hello(mechanisms: &str) -> String {
    format!("S: 220 me\nC: EHLO\nS: 250-me\nS: 250 AUTH {mechanisms}\n")
}

pub fn b64(text: impl AsRef<[u8]>) -> String {
    BASE64.encode(text)
}

pub struct Double {
    port: u16,
    thread: JoinHandle<Result<(), String>>,
}

impl Double {
    /// Plays one connection: `S:` lines are sent, `C:` lines are expected. The client disconnects after the last line.
    pub fn start(transcript: &str) -> Double {
        Double::with_port(|_| transcript.to_owned())
    }

    /// Like [`start`](Double::start), for a transcript that contains the port.
    pub fn with_port(transcript: impl FnOnce(u16) -> String) -> Double {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let transcript = transcript(port);
        let thread = std::thread::spawn(move || play(&listener, &transcript).map_err(|e| e.to_string()));
        Double { port, thread }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Asserts that it received what it expected.
    #[track_caller]
    pub fn finish(self) {
        self.thread.join().unwrap().unwrap();
    }
}

fn play(listener: &TcpListener, transcript: &str) -> Result<(), Box<dyn std::error::Error>> {
    let (stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut stream = BufReader::new(stream);
    for line in transcript.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (who, line) = line.split_at(2);
        let line = line.trim_start();
        if who == "S:" {
            stream.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
            continue;
        }
        let mut heard = String::new();
        stream.read_line(&mut heard)?;
        let heard = heard.strip_suffix("\r\n").ok_or(format!("cut off: {heard:?}, not {line:?}"))?;
        if heard != line && !(line == "EHLO" && heard.starts_with("EHLO ")) {
            return Err(format!("heard {heard:?}, not {line:?}").into());
        }
    }
    let mut rest = String::new();
    stream.read_line(&mut rest)?;
    if rest.is_empty() { Ok(()) } else { Err(format!("one line too many: {rest:?}").into()) }
}
