//! The path to the server and back, without sockets: each read and write does what it is told.

use std::{
    fmt,
    io::{self, ErrorKind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::server::{Kind, Server};

/// The operation to be done. A read either finds something, or nothing yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Read { empty: bool },
    Write,
}

/// The effect of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// At most this many octets move.
    Go(usize),
    /// Not yet, but perhaps the next time.
    Wait,
    /// Nothing, and the waiter is never woken.
    Hang,
    /// The end of a stream, or a write of nothing.
    Nothing,
    Fail(ErrorKind),
}

pub type Mood = Box<dyn FnMut(Op) -> What + Send>;

/// Maximum number of operations, to stop a client that loops. No session needs as many.
const MOST: usize = 5_000_000;

/// The wire, held by both ends.
#[derive(Clone)]
pub struct Wire(Arc<Mutex<State>>);

struct State {
    server: Server,
    mood: Mood,
    ops: usize,
    /// Number of reads, and of writes.
    moves: (usize, usize),
    /// Whether the last read, and the last write, would never have ended.
    hung: (bool, bool),
}

/// The result of a read or a write.
pub enum Moved {
    Done(io::Result<usize>),
    Wait,
    Hang,
}

impl Moved {
    fn is_late(&self) -> bool {
        match self {
            Moved::Hang => true,
            Moved::Done(Err(e)) => matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock),
            _ => false,
        }
    }
}

impl Wire {
    pub fn new(kind: Kind, mood: impl FnMut(Op) -> What + Send + 'static) -> Wire {
        let (server, mood) = (Server::new(kind), Box::new(mood));
        Wire(Arc::new(Mutex::new(State { server, mood, ops: 0, moves: (0, 0), hung: (false, false) })))
    }

    pub fn be(&self, mood: impl FnMut(Op) -> What + Send + 'static) {
        self.state().mood = Box::new(mood);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn with<T>(&self, look: impl FnOnce(&Server) -> T) -> T {
        look(&self.state().server)
    }

    /// Number of octets that the server has received.
    pub fn heard(&self) -> usize {
        self.with(|server| server.heard.len())
    }

    /// Number of reads, and of writes.
    pub fn moves(&self) -> (usize, usize) {
        self.state().moves
    }

    pub fn read(&self, room: &mut [u8]) -> Moved {
        let mut state = self.state();
        let empty = state.server.output.is_empty() && !state.server.is_gone();
        let moved = match state.ask(Op::Read { empty }) {
            What::Go(_) if empty => Moved::Hang,
            What::Go(most) => {
                let n = room.len().min(most).min(state.server.output.len());
                let read: Vec<u8> = state.server.output.drain(..n).collect();
                room[..n].copy_from_slice(&read);
                state.moves.0 += 1;
                Moved::Done(Ok(n))
            }
            what => what.into(),
        };
        state.hung.0 = moved.is_late();
        moved
    }

    pub fn write(&self, bytes: &[u8]) -> Moved {
        let mut state = self.state();
        let moved = match state.ask(Op::Write) {
            What::Go(most) => {
                let n = bytes.len().min(most);
                state.server.hear(&bytes[..n]);
                state.moves.1 += 1;
                Moved::Done(Ok(n))
            }
            what => what.into(),
        };
        state.hung.1 = moved.is_late();
        moved
    }
}

impl State {
    fn ask(&mut self, op: Op) -> What {
        self.ops += 1;
        assert!(self.ops < MOST, "it goes round and round");
        (self.mood)(op)
    }
}

impl From<What> for Moved {
    fn from(what: What) -> Moved {
        match what {
            What::Wait => Moved::Wait,
            What::Hang | What::Go(_) => Moved::Hang,
            What::Nothing => Moved::Done(Ok(0)),
            What::Fail(kind) => Moved::Done(Err(kind.into())),
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

/// Time does not pass here: a wait that would never end reaches its limit at once.
impl postino::Transport for Wire {
    fn receive(&mut self, room: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
        loop {
            match (self.read(room), until) {
                (Moved::Done(done), _) => return done,
                (Moved::Wait, Some(_)) => {}
                (Moved::Hang, Some(_)) => return Err(ErrorKind::TimedOut.into()),
                (_, None) => return Err(ErrorKind::WouldBlock.into()),
            }
        }
    }

    fn send(&mut self, bytes: &[u8], until: Option<Instant>) -> io::Result<usize> {
        loop {
            match (self.write(bytes), until) {
                (Moved::Done(done), _) => return done,
                (Moved::Wait, Some(_)) => {}
                (Moved::Hang, Some(_)) => return Err(ErrorKind::TimedOut.into()),
                (_, None) => return Err(ErrorKind::WouldBlock.into()),
            }
        }
    }

    fn wait(&mut self, read: bool, write: bool, _: Instant) -> io::Result<()> {
        let state = self.state();
        let can_read = read && !state.hung.0;
        let can_write = write && !state.hung.1;
        if can_read || can_write { Ok(()) } else { Err(ErrorKind::TimedOut.into()) }
    }

    fn shutdown(&mut self) {}
}

/// For [`postino::NoTimeouts`].
impl io::Read for Wire {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        postino::Transport::receive(self, room, Some(Instant::now()))
    }
}

impl io::Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        postino::Transport::send(self, bytes, Some(Instant::now()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(feature = "async")]
mod polled {
    use std::{
        io,
        pin::Pin,
        task::{Context, Poll},
    };

    use smol::io::{AsyncRead, AsyncWrite};

    use super::{Moved, Wire};

    fn polled(moved: Moved, cx: &Context<'_>) -> Poll<io::Result<usize>> {
        match moved {
            Moved::Done(done) => Poll::Ready(done),
            Moved::Wait => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Moved::Hang => Poll::Pending,
        }
    }

    impl AsyncRead for Wire {
        fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
            polled(Wire::read(&self, room), cx)
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            polled(Wire::write(&self, bytes), cx)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
}
