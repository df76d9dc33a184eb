//! Clients that were turned away: told so in a few octets, and let go without keeping anybody waiting.
//!
//! A close with unread octets makes the kernel send RST, which destroys the words on their way. So each is half-closed,
//! what it still sends is thrown away, and it is closed when it has ended too, or at a bound of time, octets and number.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Most of them at a time; the oldest goes for a new one. Where descriptors are few it is a part of those, or who is turned
/// away would keep others out.
const MOST: usize = 256;
const PART: u64 = 4;
/// How long one is listened to.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many octets of one are thrown away.
const OCTETS: usize = 1 << 20;

#[derive(Debug)]
struct Client {
    number: u64,
    connection: OwnedFd,
    until: Instant,
    octets: usize,
}

/// Clients that hear that they are not served, and have not left yet.
#[derive(Debug)]
pub struct Refused {
    ready: Epoll,
    clients: VecDeque<Client>,
    most: usize,
    last: u64,
}

impl Refused {
    /// Nobody yet.
    pub fn new() -> io::Result<Refused> {
        let ready = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
        let most = usize::try_from(descriptors / PART).unwrap_or(MOST).clamp(1, MOST);
        Ok(Refused { ready, clients: VecDeque::new(), most, last: 0 })
    }

    /// Says a few words to a client and half-closes; without words closes. Never waits.
    pub fn refuse(&mut self, connection: OwnedFd, words: Option<&[u8]>) {
        let Some(words) = words else { return };
        // A fresh connection has room for them.
        let _ = send(connection.as_raw_fd(), words, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        let _ = shutdown(connection.as_raw_fd(), Shutdown::Write);
        self.last = self.last.wrapping_add(1);
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, self.last);
        let Some(until) = Instant::now().checked_add(PATIENCE) else { return };
        if self.ready.add(&connection, event).is_ok() {
            if self.clients.len() >= self.most {
                self.clients.pop_front();
            }
            self.clients.push_back(Client { number: self.last, connection, until, octets: 0 });
        }
    }

    /// Throws away what has come in, and lets go of who has ended or taken too long.
    pub fn tend(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let now = Instant::now();
        while self.clients.front().is_some_and(|client| client.until <= now) {
            self.clients.pop_front();
        }
        let mut events = [EpollEvent::empty(); 64];
        let count = self.ready.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in events.iter().take(count) {
            let Some(at) = self.clients.iter().position(|client| client.number == event.data()) else { continue };
            if self.clients.get_mut(at).is_none_or(|client| !client.goes_on()) {
                self.clients.remove(at);
            }
        }
    }

    /// Whether nobody is there who may not have heard yet.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// When somebody must be let go of.
    pub fn next_end(&self) -> Option<Instant> {
        self.clients.front().map(|client| client.until)
    }

    /// Closes them all.
    pub fn close(&mut self) {
        self.clients.clear();
    }
}

/// Readable when there is something for [`Refused::tend`].
impl AsFd for Refused {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.0.as_fd()
    }
}

impl Client {
    /// By itself, for where nobody is refused the loop would touch the pages of `rest` all the same, and copy them after
    /// each fork.
    #[inline(never)]
    fn goes_on(&mut self) -> bool {
        let mut rest = [0; 16_384];
        match recv(self.connection.as_raw_fd(), &mut rest, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => false,
            Ok(count) => {
                self.octets += count;
                self.octets < OCTETS
            }
            Err(errno) => matches!(errno, nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, OwnedFd) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0.into())
    }

    #[test]
    fn the_words_reach_a_client_that_is_still_sending() {
        let mut refused = Refused::new().unwrap();
        let (mut client, connection) = pair();
        client.write_all(&[b'x'; 100_000]).unwrap();
        refused.refuse(connection, Some(b"later\r\n"));
        refused.tend();
        client.write_all(b"more").unwrap();
        refused.tend();
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        assert_eq!(said, "later\r\n");
        drop(client);
        while !refused.clients.is_empty() {
            refused.tend();
        }
    }

    #[test]
    fn a_stranger_is_closed_without_a_word_and_at_once() {
        let mut refused = Refused::new().unwrap();
        let (mut client, connection) = pair();
        refused.refuse(connection, None);
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        assert!(refused.clients.is_empty());
    }

    #[test]
    fn they_are_never_more_than_so_many_and_never_stay_longer_than_so_long() {
        let mut refused = Refused::new().unwrap();
        let clients: Vec<_> = (0..MOST + 3)
            .map(|_| {
                let (client, connection) = pair();
                refused.refuse(connection, Some(b"later\r\n"));
                client
            })
            .collect();
        assert_eq!(refused.clients.len(), MOST);
        refused.clients.iter_mut().for_each(|client| client.until = Instant::now());
        refused.tend();
        assert!(refused.clients.is_empty());
        drop(clients);
    }
}
