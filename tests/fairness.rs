//! Users of a pool who ask repeatedly are served equally, however they are scheduled.
#![cfg(feature = "testing")]

use std::sync::{
    Arc, Barrier,
    atomic::{AtomicUsize, Ordering},
};

use postino::{Envelope, Raw, testing::Server};

const USERS: usize = 20;
const CONNECTIONS: usize = 4;
const TOTAL: usize = USERS * 200;

fn mail() -> Raw<'static> {
    Raw::bytes(Envelope::new("alice@example.org", ["bob@example.org"]).unwrap(), b"Hello\r\n")
}

/// Asserts that the most served user was served at most 1.5 times as often as the least. Some are delayed by the
/// machine, not by the pool.
#[track_caller]
fn assert_fair(served: &[usize]) {
    let (least, most) = (served.iter().min().unwrap(), served.iter().max().unwrap());
    println!("{served:?}");
    assert!(most * 2 <= least * 3, "{served:?}");
}

/// Counts one more service, and returns whether the test continues.
fn goes_on(total: &AtomicUsize) -> bool {
    total.fetch_add(1, Ordering::Relaxed) < TOTAL
}

/// If `mixed`, every second user takes a client, and the others send.
fn threads(mixed: bool) {
    let server = Server::start().unwrap();
    let builder = postino::Client::from_url(&server.url()).unwrap();
    let pool = postino::Pool::builder(builder).max_connections(CONNECTIONS).build().unwrap();
    let (total, start) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(USERS)));
    let user = |number: usize| {
        let (pool, total, start) = (pool.clone(), total.clone(), start.clone());
        std::thread::spawn(move || {
            let mut served = 0;
            start.wait();
            while goes_on(&total) {
                if mixed && number % 2 == 0 {
                    pool.client().unwrap().noop().unwrap();
                } else {
                    let _ = pool.send(&mail()).unwrap();
                }
                served += 1;
            }
            served
        })
    };
    let users: Vec<_> = (0..USERS).map(user).collect();
    let served: Vec<usize> = users.into_iter().map(|user| user.join().unwrap()).collect();
    assert_fair(&served);
}

#[test]
fn threads_that_send_are_served_alike() {
    threads(false);
}

#[test]
fn threads_that_send_and_threads_that_take_clients_are_served_alike() {
    threads(true);
}

#[cfg(feature = "async")]
fn tasks(threads: usize, mixed: bool) {
    let server = Server::start().unwrap();
    let builder = postino::aio::Client::from_url(&server.url()).unwrap();
    let pool = postino::aio::Pool::builder(builder).max_connections(CONNECTIONS).build().unwrap();
    let (total, executor) = (Arc::new(AtomicUsize::new(0)), Arc::new(smol::Executor::new()));
    let user = |number: usize| {
        let (pool, total) = (pool.clone(), total.clone());
        executor.spawn(async move {
            let mut served = 0;
            while goes_on(&total) {
                if mixed && number % 2 == 0 {
                    pool.client().await.unwrap().noop().await.unwrap();
                } else {
                    let _ = pool.send(&mail()).await.unwrap();
                }
                served += 1;
            }
            served
        })
    };
    let users: Vec<_> = (0..USERS).map(user).collect();
    let (stop, stopped) = smol::channel::bounded::<()>(1);
    let others: Vec<_> = (1..threads)
        .map(|_| {
            let (executor, stopped) = (executor.clone(), stopped.clone());
            std::thread::spawn(move || smol::block_on(executor.run(stopped.recv())))
        })
        .collect();
    let served = smol::block_on(executor.run(async {
        let mut served = Vec::new();
        for user in users {
            served.push(user.await);
        }
        served
    }));
    drop(stop);
    for other in others {
        let _ = other.join().unwrap(); // an error says only that the channel is closed
    }
    assert_fair(&served);
}

#[cfg(feature = "async")]
#[test]
fn tasks_on_one_thread_are_served_alike() {
    tasks(1, false);
    tasks(1, true);
}

#[cfg(feature = "async")]
#[test]
fn tasks_on_two_threads_are_served_alike() {
    tasks(2, false);
    tasks(2, true);
}
