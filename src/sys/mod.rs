//! Sockets, files, paths, programs and the machine's name, as the operating system provides them. Nothing outside this
//! directory names `rustix` or `std::os`.
//!
//! One file per system provides the whole interface, which is the list below:
//!
//! | item | purpose |
//! |---|---|
//! | [`OwnedSocket`] | a socket of any kind |
//! | [`start`], [`start_unix`] | begin to connect, without waiting |
//! | [`Receiver`] | reads from a socket that the client has opened, as cheaply as the system allows |
//! | [`receive`], [`send`] | read and write, without waiting or until a limit |
//! | [`wait`], [`wait_for_any`] | wait for one socket, or for one of several that are being connected |
//! | [`end`] | ends a connection, even while another thread is waiting on it |
//! | [`CAN_ACKNOWLEDGE`], [`acknowledge`] | acknowledge what has arrived, without delay |
//! | [`is_unix_socket`] | recognizes a socket of the async client that nobody else can eavesdrop on |
//! | [`machine_name`] | the machine's name, for EHLO |
//! | [`HAS_FILE_OF_CAS`] | whether the CAs of the system are in a file, and not only in a store of its own |
//! | [`check_socket_path`], [`path_from_octets`] | the path of a Unix socket, and any path in a URL |
//! | [`create_file`], [`sync_folder`] | files that must survive a crash |
//! | [`lead_group`], [`kill_group`] | a program with the processes that it starts |
//! | [`open_file`], [`may_lack_a_writer`], [`wait_for_file`] | files, pipes and devices, as content |
//!
//! A system with Unix sockets also implements [`Transport`](crate::Transport) for them. A new system needs a file,
//! and a line with `path`. The tests below apply to every system.

#[cfg_attr(unix, path = "unix.rs")]
#[cfg_attr(windows, path = "windows.rs")]
mod system;

#[cfg(feature = "rustls")]
pub(crate) use self::system::HAS_FILE_OF_CAS;
#[cfg(feature = "async")]
pub(crate) use self::system::is_unix_socket;
pub(crate) use self::system::{
    CAN_ACKNOWLEDGE, OwnedSocket, Receiver, acknowledge, check_socket_path, create_file, end, kill_group,
    lead_group, machine_name, may_lack_a_writer, open_file, path_from_octets, receive, send, start,
    start_unix, sync_folder, wait, wait_for_any, wait_for_file,
};

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read, Write},
        net::{SocketAddr, TcpListener, TcpStream},
        thread::{scope, sleep},
        time::{Duration, Instant},
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn soon() -> Instant {
        Instant::now() + PATIENCE
    }

    /// Returns a connected pair: the client's socket as `start` has opened it, and the server's.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = start(listener.local_addr().unwrap(), None).unwrap();
        assert_eq!(wait_for_any([&client].into_iter(), soon()).unwrap(), [true]);
        assert!(client.take_error().unwrap().is_none());
        (client, listener.accept().unwrap().0)
    }

    /// Writes until the buffers of both ends are full.
    fn fill(socket: &TcpStream) {
        while send(socket, &[0; 1 << 16], Some(Instant::now() + Duration::from_millis(200))).is_ok() {}
    }

    #[test]
    fn a_connection_is_bound_to_the_local_address() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = "127.0.0.1:0".parse().unwrap();
        let client = start(listener.local_addr().unwrap(), Some(local)).unwrap();
        assert_eq!(wait_for_any([&client].into_iter(), soon()).unwrap(), [true]);
        assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
        let ipv6: SocketAddr = "[::1]:0".parse().unwrap();
        assert!(start(listener.local_addr().unwrap(), Some(ipv6)).is_err());
    }

    #[test]
    fn a_refused_connection_is_reported_and_a_waiting_one_is_not() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // Some systems report the refusal at once.
        if let Ok(refused) = start(closed, None) {
            let (waits, _server) = pair();
            fill(&waits);
            assert_eq!(wait_for_any([&waits, &refused].into_iter(), soon()).unwrap(), [false, true]);
            assert_eq!(refused.take_error().unwrap().unwrap().kind(), ErrorKind::ConnectionRefused);
        }
        assert!(wait_for_any(std::iter::empty::<&TcpStream>(), Instant::now()).unwrap().is_empty());
    }

    #[test]
    fn without_a_limit_reads_and_writes_do_not_block() {
        let (client, server) = pair();
        // Neither `receive` nor `send` blocks, even on a blocking socket such as one that the caller has made.
        for socket in [&client, &server] {
            assert_eq!(receive(socket, &mut [0; 9], None).unwrap_err().kind(), ErrorKind::WouldBlock);
        }
        for socket in [&client, &server] {
            let full = (0..10_000).find_map(|_| send(socket, &[0; 1 << 16], None).err());
            assert_eq!(full.unwrap().kind(), ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn a_wait_ends_at_its_limit() {
        let (client, server) = pair();
        let limit = || Instant::now() + Duration::from_millis(120);
        fill(&server);
        let late = |until: Instant, waited: std::io::Error| {
            assert_eq!(waited.kind(), ErrorKind::TimedOut);
            assert!(Instant::now() >= until && Instant::now() < until + PATIENCE / 2);
        };
        // The last octets may still move to the buffer of the other end.
        let (until, error) = loop {
            let until = limit();
            if let Err(error) = send(&server, b"x", Some(until)) {
                break (until, error);
            }
        };
        late(until, error);
        let until = limit();
        late(until, receive(&server, &mut [0; 9], Some(until)).unwrap_err());
        let until = limit();
        late(until, wait(&server, true, true, until).unwrap_err());
        wait(&client, true, false, soon()).unwrap();
        let (client, _server) = pair();
        let client = OwnedSocket::from(client);
        let (mut receiver, until) = (Receiver::new(&client).unwrap(), limit());
        late(until, receiver.receive(&client, &mut [0; 9], until).unwrap_err());
        late(until, receiver.receive(&client, &mut [0; 9], until).unwrap_err()); // the limit has passed
    }

    #[test]
    fn a_wait_ends_when_octets_arrive() {
        let (client, mut server) = pair();
        let mut room = [0; 9];
        scope(|scope| {
            scope.spawn(|| {
                for _ in 0..2 {
                    sleep(Duration::from_millis(120));
                    server.write_all(b"octets").unwrap();
                }
            });
            assert_eq!(receive(&client, &mut room, Some(soon())).unwrap(), 6);
            let socket = OwnedSocket::from(client.try_clone().unwrap());
            let mut receiver = Receiver::new(&socket).unwrap();
            assert_eq!(receiver.receive(&socket, &mut room, soon()).unwrap(), 6);
        });
        assert_eq!(send(&client, b"back", Some(soon())).unwrap(), 4);
        server.read_exact(&mut room[..4]).unwrap();
        assert_eq!(&room[..6], b"backts");
        drop(server);
        assert_eq!(receive(&client, &mut room, Some(soon())).unwrap(), 0);
    }

    #[test]
    fn another_thread_can_end_any_wait() {
        let waits: [fn(&TcpStream); 4] = [
            |socket| drop(receive(socket, &mut [0; 9], Some(soon()))),
            |socket| drop(wait(socket, true, false, soon())),
            |socket| {
                fill(socket);
                drop(send(socket, b"x", Some(soon())));
            },
            |socket| {
                let socket = OwnedSocket::from(socket.try_clone().unwrap());
                drop(Receiver::new(&socket).unwrap().receive(&socket, &mut [0; 9], soon()));
            },
        ];
        for (number, waits) in waits.iter().enumerate() {
            let (client, _server) = pair();
            let start = Instant::now();
            scope(|scope| {
                scope.spawn(|| {
                    sleep(Duration::from_millis(120));
                    end(&client);
                    end(&client);
                });
                waits(&client);
            });
            assert!(start.elapsed() < PATIENCE / 2, "{number}");
        }
    }

    #[test]
    fn a_time_limit_of_thirty_years_is_accepted() {
        let (client, mut server) = pair();
        let never = Instant::now() + Duration::from_secs(30 * 365 * 86_400);
        server.write_all(b"octets").unwrap();
        wait(&client, true, false, never).unwrap();
        let socket = OwnedSocket::from(client);
        let mut receiver = Receiver::new(&socket).unwrap();
        assert_eq!(receiver.receive(&socket, &mut [0; 9], never).unwrap(), 6);
    }
}
