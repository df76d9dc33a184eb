//! Pools in processes of their own.

use super::super::handing::keep_only;
use super::super::starts::MOST_KILLED;
use super::*;
use nix::sys::signal::kill;
use std::io::{PipeWriter, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsRawFd;

/// Children that end as soon as they begin, by a signal or by themselves.
struct Fails(PipeWriter, Option<Signal>);

impl Work for Fails {
    fn serve(&mut self, _: OwnedFd) -> Served {
        Served { status: 75, goes_on: false }
    }

    fn stay(&mut self, _: &mut dyn FnMut(&mut dyn Work) -> u8) -> u8 {
        let _ = self.0.write_all(b".");
        self.1.map_or(75, |signal| kill(Pid::this(), signal).map_or(70, |()| 70))
    }
}

/// In a process of its own, for a pool reaps every child there is.
#[test]
fn children_that_cannot_begin_are_not_started_without_end() {
    const IDLE: usize = 2;
    let killed = MOST_KILLED as usize + IDLE + 9;
    // So many have begun when it has rested once.
    for (signal, count) in [(None, IDLE + 1), (Some(Signal::SIGKILL), killed)] {
        let (mut reader, writer) = io::pipe().unwrap();
        let begun = Instant::now();
        let mut work = Fails(writer, signal);
        let pool = sys::fork(|| {
            // Files of other tests, whose locks it would have as well.
            keep_only(vec![work.0.as_raw_fd()]);
            let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap();
            let size = Size { children: 9, idle: IDLE, max_use: 9, max_idle: None, linger: None };
            let mut pool = Pool::new("test".to_owned(), vec![listener], size, Limits::default(), None).unwrap();
            let _ = pool.run(&mut work);
            0
        });
        drop(work);
        let pool = pool.unwrap();
        reader.read_exact(&mut vec![0; count]).unwrap();
        let rested = begun.elapsed();
        kill(pool, Signal::SIGTERM).unwrap();
        waitpid(pool, None).unwrap();
        assert!(rested >= REST, "{signal:?}: {rested:?}");
    }
}

#[test]
fn who_comes_while_no_child_can_begin_hears_so_where_clients_are_refused() {
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap();
    let address = listener.address().unwrap();
    let (_reader, writer) = io::pipe().unwrap();
    let mut work = Fails(writer, None);
    let pool = sys::fork(|| {
        keep_only(vec![work.0.as_raw_fd(), listener.as_fd().as_raw_fd()]);
        let size = Size { children: 9, idle: 1, max_use: 9, max_idle: None, linger: None };
        let limits = Limits { refuses_when_full: true, ..Limits::default() };
        let refusal = Some(b"421 later\r\n".to_vec());
        let mut pool = Pool::new("test".to_owned(), vec![listener], size, limits, refusal).unwrap();
        let _ = pool.run(&mut work);
        0
    });
    let pool = pool.unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut said = [0; 11];
    client.read_exact(&mut said).unwrap();
    assert_eq!(said, *b"421 later\r\n");
    kill(pool, Signal::SIGTERM).unwrap();
    waitpid(pool, None).unwrap();
}

/// That it rests at all is tried with a whole pool, in tests/pool.rs.
#[test]
fn who_cannot_accept_rests_no_longer_than_until_something_happens() {
    let (reader, writer) = io::pipe().unwrap();
    drop(writer);
    let rests = || {
        let begun = Instant::now();
        rest_after(&Errno::EINVAL.into(), Some(reader.as_fd()));
        begun.elapsed()
    };
    // The machine may stand still once.
    assert!((0..5).any(|_| rests() < REST));
}
