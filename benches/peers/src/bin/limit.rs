//! The attainable limit: the minimum that sends mail, without checks, limits or results. Ways:
//!
//! | | round trips per message |
//! |---|---|
//! | `seq`: each command waits for its reply | 4 |
//! | `a`: MAIL, RCPT and DATA in one write, then the content | 2 |
//! | `b`: the content with the next MAIL, RCPT and DATA | 1 |
//! | `c`: many MAIL, RCPT and BDAT in flight | nearly 0 |
//! | `file`: `a`, with the content streamed from a file | |

use std::{
    fs::File,
    io::{self, Read, Write},
    net::TcpStream,
};

use memchr::{memchr, memchr_iter};
use openssl::ssl::{SslConnector, SslMethod};
use peers::{Job, Security};

const ENVELOPE: &[u8] = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n";
const BLOCK: usize = 64 * 1024;
/// Messages in flight for `c`: their replies fit into the buffers, so that no write can block forever.
const WINDOW: usize = 128;

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

struct Connection {
    stream: Box<dyn Stream>,
    room: Vec<u8>,
    from: usize,
    to: usize,
}

impl Connection {
    fn open(job: &Job) -> io::Result<Connection> {
        let stream = TcpStream::connect((job.host.as_str(), job.port))?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match job.security {
            Security::Plain => Box::new(stream),
            _ => {
                // This loads the system's CAs, like the libraries.
                let mut tls = SslConnector::builder(SslMethod::tls())?;
                let ca = openssl::x509::X509::from_pem(&job.ca())?;
                tls.cert_store_mut().add_cert(ca)?;
                Box::new(tls.build().connect("localhost", stream).map_err(io::Error::other)?)
            }
        };
        let mut connection = Connection { stream, room: vec![0; 8192], from: 0, to: 0 };
        connection.expect(220)?;
        connection.stream.write_all(b"EHLO limit\r\n")?;
        connection.expect(250)?;
        Ok(connection)
    }

    fn say(&mut self, command: &[u8], code: u16) -> io::Result<()> {
        self.stream.write_all(command)?;
        self.expect(code)
    }

    fn expect(&mut self, code: u16) -> io::Result<()> {
        match self.reply()? {
            got if got == code => Ok(()),
            got => Err(io::Error::other(format!("{got} instead of {code}"))),
        }
    }

    fn reply(&mut self) -> io::Result<u16> {
        loop {
            while let Some(end) = memchr(b'\n', &self.room[self.from..self.to]) {
                let line = &self.room[self.from..self.from + end];
                self.from += end + 1;
                if line.get(3) != Some(&b'-') {
                    return Ok(line.iter().take(3).fold(0, |n, digit| n * 10 + u16::from(digit - b'0')));
                }
            }
            self.room.copy_within(self.from..self.to, 0);
            (self.from, self.to) = (0, self.to - self.from);
            match self.stream.read(&mut self.room[self.to..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.to += n,
            }
        }
    }

    /// Writes the content, and what is sent together with its end.
    fn content(&mut self, message: &[u8], out: &mut Vec<u8>, behind: &[u8]) -> io::Result<()> {
        let mut line_start = true;
        for block in message.chunks(BLOCK) {
            stuff(block, &mut line_start, out);
            if block.as_ptr_range().end == message.as_ptr_range().end {
                finish(line_start, out);
                out.extend_from_slice(behind);
            }
            self.stream.write_all(out)?;
            out.clear();
        }
        Ok(())
    }

    fn lock_step(&mut self, message: &[u8], count: usize) -> io::Result<()> {
        let mut out = Vec::new();
        for _ in 0..count {
            self.say(b"MAIL FROM:<a@example.org>\r\n", 250)?;
            self.say(b"RCPT TO:<b@example.net>\r\n", 250)?;
            self.say(b"DATA\r\n", 354)?;
            self.content(message, &mut out, b"")?;
            self.expect(250)?;
        }
        Ok(())
    }

    fn pipelined(&mut self, message: &[u8], count: usize, joined: bool) -> io::Result<()> {
        let mut out = Vec::new();
        for n in 0..count {
            if n == 0 || !joined {
                self.stream.write_all(ENVELOPE)?;
            }
            [250, 250, 354].into_iter().try_for_each(|code| self.expect(code))?;
            self.content(message, &mut out, if joined && n + 1 < count { ENVELOPE } else { b"" })?;
            self.expect(250)?;
        }
        Ok(())
    }

    fn chunks(&mut self, message: &[u8], count: usize) -> io::Result<()> {
        let octets = message.len();
        let head = format!("MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.net>\r\nBDAT {octets} LAST\r\n");
        let (mut sent, mut done, mut out) = (0, 0, Vec::new());
        while done < count {
            while sent < count && sent - done < WINDOW {
                out.extend_from_slice(head.as_bytes());
                out.extend_from_slice(message);
                sent += 1;
                if out.len() >= BLOCK {
                    self.stream.write_all(&out)?;
                    out.clear();
                }
            }
            self.stream.write_all(&out)?;
            out.clear();
            let until = if sent == count { count } else { done + WINDOW / 2 };
            while done < until {
                [250, 250, 250].into_iter().try_for_each(|code| self.expect(code))?;
                done += 1;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &str) -> io::Result<()> {
        let (mut file, mut block, mut out, mut line_start) =
            (File::open(path)?, vec![0; BLOCK], Vec::new(), true);
        self.stream.write_all(ENVELOPE)?;
        [250, 250, 354].into_iter().try_for_each(|code| self.expect(code))?;
        loop {
            let n = file.read(&mut block)?;
            if n == 0 {
                break;
            }
            stuff(&block[..n], &mut line_start, &mut out);
            self.stream.write_all(&out)?;
            out.clear();
        }
        finish(line_start, &mut out);
        self.stream.write_all(&out)?;
        self.expect(250)
    }
}

/// Doubles each dot at the start of a line.
fn stuff(block: &[u8], line_start: &mut bool, out: &mut Vec<u8>) {
    let mut from = 0;
    for dot in memchr_iter(b'.', block) {
        if dot.checked_sub(1).map_or(*line_start, |before| block[before] == b'\n') {
            out.extend_from_slice(&block[from..dot]);
            out.push(b'.');
            from = dot;
        }
    }
    out.extend_from_slice(&block[from..]);
    *line_start = block.last() == Some(&b'\n');
}

fn finish(line_start: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if line_start { b".\r\n" } else { b"\r\n.\r\n" });
}

fn main() {
    Job::from_args().run(|job| {
        job.threads(|n| {
            let (count, mut connection) = (job.share(n), Connection::open(job).unwrap());
            let done = match job.way.as_str() {
                "seq" => connection.lock_step(job.message, count),
                "a" => connection.pipelined(job.message, count, false),
                "b" => connection.pipelined(job.message, count, true),
                "c" => connection.chunks(job.message, count),
                "file" => (0..count).try_for_each(|_| connection.file(&job.path)),
                _ => panic!("no such way"),
            };
            done.and_then(|()| connection.say(b"QUIT\r\n", 221)).unwrap();
        });
    });
}
