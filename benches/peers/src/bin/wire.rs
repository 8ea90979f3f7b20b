//! A delayed wire: two TUN devices in two network namespaces. Every packet between them is delayed.
//!
//! `wire A B MILLISECONDS` makes `wire0` in each of the namespaces. Both ends use the system's TCP, so handshake, Nagle,
//! delayed acknowledgements and slow start are all real. Needs root; Linux only.

use std::{
    env,
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsRawFd, FromRawFd},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Moves this thread into the namespace.
fn device(namespace: &str) -> io::Result<File> {
    let namespace = File::open(format!("/var/run/netns/{namespace}"))?;
    // SAFETY: plain system calls; all arguments live until they return.
    unsafe {
        check(libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET))?;
        let device = check(libc::open(c"/dev/net/tun".as_ptr(), libc::O_RDWR))?;
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(b"wire0") {
            *to = *from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        check(libc::ioctl(device, TUNSETIFF, &request))?;
        Ok(File::from_raw_fd(device))
    }
}

fn carry(mut from: File, mut to: File, delay: Duration) {
    let (sender, packets) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut room = [0; 65536];
        while let Ok(n) = from.read(&mut room) {
            if sender.send((Instant::now() + delay, room[..n].to_vec())).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        // SAFETY: a plain system call. Without it, sleeps are up to 50 microseconds too long.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
        for (due, packet) in packets {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            drop(to.write(&packet)); // TCP sends lost packets again
        }
    });
}

fn main() -> io::Result<()> {
    let args: Vec<String> = env::args().collect();
    let [_, a, b, delay] = args.as_slice() else { panic!("wire A B MILLISECONDS") };
    let delay = Duration::from_secs_f64(delay.parse::<f64>().expect("a number") / 1000.0);
    let (a, b) = (device(a)?, device(b)?);
    carry(a.try_clone()?, b.try_clone()?, delay);
    carry(b, a, delay);
    loop {
        thread::park();
    }
}
