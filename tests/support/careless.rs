//! A server that offers PIPELINING and answers every command correctly, but reads or writes as carelessly as some real
//! servers do.

#![allow(dead_code)] // not every user needs all of it

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// How the server is careless.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Habit {
    /// Writes each reply separately, with Nagle's algorithm on.
    WritesReplyByReply,
    /// Looks for the end of a message only at the end of what one read returned.
    EndsMessagesWithReads,
}

/// Everything received, over all connections.
#[derive(Debug, Default)]
pub struct Received {
    /// The content of each message as stored: with its last line end, dots not unstuffed.
    pub messages: Vec<Vec<u8>>,
    /// Number of command lines in each read; reads without any are left out.
    pub flights: Vec<usize>,
}

/// A server for any number of connections, which runs until the process ends.
pub struct Careless {
    pub address: SocketAddr,
    received: Arc<Mutex<Received>>,
}

impl Careless {
    pub fn start(habit: Habit) -> Careless {
        Careless::start_over(habit, Some)
    }

    /// Like `start`, over the streams that `secure` makes of the connections. Those for which it fails are dropped.
    pub fn start_over<S: Read + Write>(
        habit: Habit,
        secure: impl Fn(TcpStream) -> Option<S> + Send + Sync + 'static,
    ) -> Careless {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::<Mutex<Received>>::default();
        let shared = received.clone();
        let secure = Arc::new(secure);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (received, secure) = (shared.clone(), secure.clone());
                thread::spawn(move || {
                    socket.set_nodelay(habit != Habit::WritesReplyByReply)?;
                    secure(socket).map_or(Ok(()), |stream| Connection { stream, habit, received }.serve())
                });
            }
        });
        Careless { address, received }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns what was received since the last call.
    pub fn take(&self) -> Received {
        std::mem::take(&mut self.received.lock().unwrap())
    }
}

struct Connection<S> {
    stream: S,
    habit: Habit,
    received: Arc<Mutex<Received>>,
}

impl<S: Read + Write> Connection<S> {
    fn serve(mut self) -> io::Result<()> {
        self.stream.write_all(b"220 mail.example.org\r\n")?;
        let mut inbox = Vec::new();
        let mut in_message = false;
        let mut room = vec![0; 64 * 1024];
        loop {
            let n = self.stream.read(&mut room)?;
            if n == 0 {
                return Ok(());
            }
            inbox.extend_from_slice(&room[..n]);
            let (mut commands, mut replies) = (0, Vec::new());
            loop {
                let reply = if in_message {
                    let Some((content, end)) = self.end_of_message(&inbox) else { break };
                    self.received.lock().unwrap().messages.push(inbox[..content].to_vec());
                    inbox.drain(..end);
                    in_message = false;
                    "250 2.0.0 taken\r\n"
                } else {
                    let Some(at) = inbox.iter().position(|b| *b == b'\n') else { break };
                    let line: Vec<u8> = inbox.drain(..=at).collect();
                    commands += 1;
                    in_message = line.starts_with(b"DATA");
                    answer(&line)
                };
                if self.habit == Habit::WritesReplyByReply {
                    self.stream.write_all(reply.as_bytes())?;
                } else {
                    replies.extend_from_slice(reply.as_bytes());
                }
                if reply.starts_with("221") {
                    return self.stream.write_all(&replies);
                }
            }
            if commands > 0 {
                self.received.lock().unwrap().flights.push(commands);
            }
            if !replies.is_empty() {
                self.stream.write_all(&replies)?;
            }
        }
    }

    /// Where the content ends, and where the message ends with its dot.
    fn end_of_message(&self, inbox: &[u8]) -> Option<(usize, usize)> {
        if inbox.starts_with(b".\r\n") {
            return Some((0, 3));
        }
        let content = match self.habit {
            Habit::WritesReplyByReply => memchr::memmem::find(inbox, b"\r\n.\r\n")? + 2,
            Habit::EndsMessagesWithReads => inbox.ends_with(b"\r\n.\r\n").then(|| inbox.len() - 3)?,
        };
        Some((content, content + 3))
    }
}

fn answer(line: &[u8]) -> &'static str {
    match line.get(..4).unwrap_or_default().to_ascii_uppercase().as_slice() {
        b"EHLO" => "250-mail.example.org\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
        b"DATA" => "354 go on\r\n",
        b"QUIT" => "221 bye\r\n",
        b"MAIL" | b"RCPT" | b"RSET" | b"NOOP" => "250 ok\r\n",
        _ => "502 what?\r\n",
    }
}
