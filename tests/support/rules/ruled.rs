//! Rule-based sessions over TCP, each on its own thread.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Act, Rules, Session, Stored};

/// Maximum time for a client to send something or to leave.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct Record {
    received: Received,
    /// The log of each connection.
    logs: Vec<Vec<String>>,
    violations: Vec<String>,
    live: BTreeMap<usize, TcpStream>,
    over: bool,
}

/// Everything received over all connections.
#[derive(Debug, Default, Clone)]
pub struct Received {
    /// The accepted messages, in order.
    pub stored: Vec<Stored>,
    /// Number of commands in each read.
    pub flights: Vec<usize>,
}

/// The server, which runs until it is dropped.
pub struct Ruled {
    address: SocketAddr,
    record: Arc<Mutex<Record>>,
    acceptor: Option<JoinHandle<Vec<JoinHandle<()>>>>,
}

impl Ruled {
    pub fn start(rules: Rules) -> Ruled {
        Ruled::start_over(rules, Some)
    }

    /// Like `start`, over the streams that `secure` makes of the connections. If it fails, the connection is dropped.
    pub fn start_over<S: Read + Write>(
        rules: Rules,
        secure: impl Fn(TcpStream) -> Option<S> + Send + Sync + 'static,
    ) -> Ruled {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let record = Arc::new(Mutex::new(Record::default()));
        let (shared, secure) = (record.clone(), Arc::new(secure));
        let acceptor = thread::spawn(move || {
            let mut sessions: Vec<JoinHandle<()>> = Vec::new();
            for (number, socket) in listener.incoming().enumerate() {
                let socket = socket.unwrap();
                let mut record = lock(&shared);
                if record.over {
                    break;
                }
                record.logs.push(Vec::new());
                record.live.insert(number, socket.try_clone().unwrap());
                let (rules, shared, secure) = (rules.clone(), shared.clone(), secure.clone());
                sessions.retain(|session| !session.is_finished());
                sessions.push(thread::spawn(move || {
                    socket.set_read_timeout(Some(PATIENCE)).unwrap();
                    socket.set_write_timeout(Some(PATIENCE)).unwrap();
                    socket.set_nodelay(!rules.writes_reply_by_reply).unwrap();
                    if let Some(stream) = secure(socket) {
                        Connection { session: Session::new(rules, number), number, record: shared.clone() }
                            .serve(stream);
                    }
                    leave(&shared, number);
                }));
            }
            sessions
        });
        Ruled { address, record, acceptor: Some(acceptor) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Returns the accepted messages, in order.
    pub fn stored(&self) -> Vec<Stored> {
        lock(&self.record).received.stored.clone()
    }

    /// Returns what was received since the last call.
    pub fn take(&self) -> Received {
        std::mem::take(&mut lock(&self.record).received)
    }

    /// Returns the number of connections made.
    pub fn connections(&self) -> usize {
        lock(&self.record).logs.len()
    }

    /// Returns the number of messages accepted on each connection.
    pub fn stored_per_connection(&self) -> Vec<usize> {
        let record = lock(&self.record);
        let of = |number| record.received.stored.iter().filter(|stored| stored.connection == number).count();
        (0..record.logs.len()).map(of).collect()
    }

    /// Waits until this number of commands with this prefix was sent: for some, the client awaits no reply.
    #[track_caller]
    pub fn wait_for(&self, verb: &str, times: usize) {
        let start = Instant::now();
        while self.count(verb) < times && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(self.count(verb), times, "{verb}");
    }

    /// Returns how often a command with this prefix was sent, over all connections.
    pub fn count(&self, verb: &str) -> usize {
        let prefix = format!("C: {verb}");
        lock(&self.record).logs.iter().flatten().filter(|line| line.starts_with(&prefix)).count()
    }

    /// Returns the lines from each MAIL with this prefix to the next one.
    pub fn history(&self, mail: &str) -> Vec<String> {
        let prefix = format!("C: {mail}");
        let mut lines = Vec::new();
        for (number, log) in lock(&self.record).logs.iter().enumerate() {
            let mut is_in = false;
            for line in log {
                is_in = if line.starts_with("C: MAIL") { line.starts_with(&prefix) } else { is_in };
                lines.extend(is_in.then(|| format!("connection {number}: {line}")));
            }
        }
        lines
    }

    /// Returns the first violation of the protocol by a client.
    pub fn violation(&self) -> Option<String> {
        lock(&self.record).violations.first().cloned()
    }

    /// Waits until all clients have left.
    pub fn wait_for_clients(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        lock(&self.record).over = true;
        drop(TcpStream::connect(self.address)); // wakes the acceptor
        let sessions = acceptor.join().unwrap();
        sessions.into_iter().for_each(|session| session.join().unwrap());
    }
}

impl Drop for Ruled {
    fn drop(&mut self) {
        {
            let mut record = lock(&self.record);
            record.over = true;
            record.live.values().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        }
        if !thread::panicking() {
            self.wait_for_clients();
            assert_eq!(self.violation(), None);
        }
    }
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the record's handle for a connection, and returns it.
fn leave(record: &Mutex<Record>, number: usize) -> Option<TcpStream> {
    lock(record).live.remove(&number)
}

struct Connection {
    session: Session,
    number: usize,
    record: Arc<Mutex<Record>>,
}

impl Connection {
    fn serve(mut self, mut stream: impl Read + Write) {
        let mut room = vec![0; 65_536];
        let mut hung = false;
        loop {
            self.keep_report();
            for act in self.session.acts() {
                match act {
                    Act::Write(octets) => {
                        if stream.write_all(&octets).is_err() {
                            return;
                        }
                    }
                    Act::Wait(time) => thread::sleep(time),
                    Act::Hang => hung = true,
                    Act::Close => {
                        if let Some(socket) = leave(&self.record, self.number) {
                            drop(socket.shutdown(Shutdown::Both));
                        }
                        return;
                    }
                    Act::Reset => {
                        // Closing the last handle, which is the stream's, then sends an RST.
                        if let Some(socket) = leave(&self.record, self.number) {
                            let _ = rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
                        }
                        return;
                    }
                }
            }
            match stream.read(&mut room) {
                Ok(0) => return,
                Ok(_) if hung => {}
                Ok(n) => self.session.hear(&room[..n]),
                Err(e) => {
                    if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
                        let what = "a client neither spoke nor left".to_owned();
                        lock(&self.record).violations.push(what);
                    }
                    return;
                }
            }
        }
    }

    fn keep_report(&mut self) {
        let report = std::mem::take(&mut self.session.report);
        let mut record = lock(&self.record);
        record.received.stored.extend(report.stored);
        record.received.flights.extend(report.flights);
        record.logs[self.number].extend(report.log);
        record.violations.extend(report.violations);
    }
}
