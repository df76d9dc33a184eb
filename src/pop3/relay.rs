//! Carries octets between the client and the process that serves it, both ways at once, in bounded memory.
//!
//! Nothing here looks at what it carries. Each end may close its half; the other hears of it when what was on its way has
//! arrived. Descriptors stay blocking, for others share them: poll says when to act, and what is written at once is
//! so little that it cannot block.

use crate::net::FIRST_ROOM;
use crate::net::connection::{Connection, Fault};
use crate::record::Recorder;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, shutdown};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// Octets held in either direction.
const HELD: usize = 64 * 1024;
/// Relays until the server has closed and all it said has been sent. `waiting` is what was read of the client and what
/// was said to it before, and has not gone on yet.
/// `idle` is how long nothing at all may move, which is longer than either end waits by itself. `server` is a unix stream
/// socket.
pub fn relay(
    client: &mut Recorder<Connection>,
    server: BorrowedFd,
    waiting: (Vec<u8>, Vec<u8>),
    idle: Duration,
    session: Duration,
) -> Result<(), Fault> {
    client.said(&waiting.1);
    let mut relay = Relay {
        client,
        server,
        to_server: waiting.0,
        to_client: waiting.1,
        room: FIRST_ROOM,
        client_ended: false,
        server_ended: false,
        told_server: false,
    };
    let end = Instant::now() + session;
    let before = relay.to_server.len();
    relay.client_ended = !relay.client.stream().drain(&mut relay.to_server)?;
    relay.client.heard(relay.to_server.get(before..).unwrap_or_default());
    while !(relay.server_ended && relay.to_client.is_empty() && !relay.client.stream().holds_output()) {
        relay.step(idle.min(end.saturating_duration_since(Instant::now())))?;
    }
    Ok(())
}

struct Relay<'a> {
    client: &'a mut Recorder<Connection>,
    server: BorrowedFd<'a>,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    /// How much is heard from the server at once; grows up to HELD when there was more.
    room: usize,
    client_ended: bool,
    server_ended: bool,
    told_server: bool,
}

impl Relay<'_> {
    fn step(&mut self, patience: Duration) -> Result<(), Fault> {
        if self.client_ended && self.to_server.is_empty() && !self.told_server {
            let _ = shutdown(self.server.as_raw_fd(), Shutdown::Write);
            self.told_server = true;
        }
        let ready = self.wait(patience)?;
        if ready.client_speaks {
            self.hear_client()?;
            self.client.heard(&self.to_server);
        }
        if ready.server_listens {
            self.tell_server()?;
        }
        if ready.server_speaks {
            self.hear_server()?;
            self.client.said(&self.to_client);
        }
        if ready.client_listens {
            self.tell_client()?;
        }
        Ok(())
    }

    /// Only ends that we want something of are asked: poll reports a hang-up of any, and would never wait again.
    fn wait(&mut self, patience: Duration) -> Result<Ready, Fault> {
        let client = self.client.stream();
        let holds_output = client.holds_output();
        let (input, output) = client.descriptors();
        let wants = [
            (input, PollFlags::POLLIN, !self.client_ended && self.to_server.is_empty()),
            (self.server, PollFlags::POLLOUT, !self.to_server.is_empty()),
            (self.server, PollFlags::POLLIN, !self.server_ended && self.to_client.is_empty()),
            (output, PollFlags::POLLOUT, !self.to_client.is_empty() || holds_output),
        ];
        let mut asked: Vec<PollFd> =
            wants.iter().filter(|(_, _, wanted)| *wanted).map(|(fd, what, _)| PollFd::new(fd.as_fd(), *what)).collect();
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Fault::TimedOut);
            }
            match poll(&mut asked, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => break,
                Err(errno) => return Err(Fault::Io(errno.into())),
            }
        }
        let mut answers = asked.iter().map(|fd| fd.any().unwrap_or(true));
        let mut is_ready = |wanted: bool| wanted && answers.next().unwrap_or(false);
        Ok(Ready {
            client_speaks: is_ready(wants[0].2),
            server_listens: is_ready(wants[1].2),
            server_speaks: is_ready(wants[2].2),
            client_listens: is_ready(wants[3].2),
        })
    }

    fn hear_client(&mut self) -> Result<(), Fault> {
        self.client_ended = !self.client.stream().hear(&mut self.to_server)?;
        Ok(())
    }

    fn tell_server(&mut self) -> Result<(), Fault> {
        match send(self.server.as_raw_fd(), &self.to_server, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(count) => drop(self.to_server.drain(..count)),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // It has said its last word and does not listen any more.
            Err(Errno::EPIPE | Errno::ECONNRESET) => {
                self.to_server.clear();
                (self.client_ended, self.told_server) = (true, true);
            }
            Err(errno) => return Err(Fault::Io(errno.into())),
        }
        Ok(())
    }

    fn hear_server(&mut self) -> Result<(), Fault> {
        self.to_client.resize(self.room, 0);
        let heard = recv(self.server.as_raw_fd(), &mut self.to_client, MsgFlags::MSG_DONTWAIT);
        let count = *heard.as_ref().unwrap_or(&0);
        if count == self.room {
            self.room = HELD.min(4 * self.room);
        }
        self.to_client.truncate(count);
        match heard {
            Ok(0) | Err(Errno::ECONNRESET) => self.server_ended = true,
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return Err(Fault::Io(errno.into())),
        }
        Ok(())
    }

    fn tell_client(&mut self) -> Result<(), Fault> {
        self.client.stream().tell(&mut self.to_client)
    }
}

struct Ready {
    client_speaks: bool,
    server_listens: bool,
    server_speaks: bool,
    client_listens: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::Shutdown as Half;
    use std::os::unix::net::UnixStream;

    const LONG: Duration = Duration::from_secs(20);

    fn connection(socket: UnixStream) -> Recorder<Connection> {
        let connection = Connection::new(socket.try_clone().unwrap().into(), socket.into(), LONG);
        Recorder::new(connection, None, &crate::pop3::server::HEAD)
    }

    /// Runs a relay between a client and a server that are threads; gives what the relay ended with.
    fn between(
        waiting: (&[u8], &[u8]),
        client: impl FnOnce(UnixStream) + Send + 'static,
        server: impl FnOnce(UnixStream) + Send + 'static,
    ) -> Result<(), Fault> {
        let (client_end, client_socket) = UnixStream::pair().unwrap();
        let (server_end, server_socket) = UnixStream::pair().unwrap();
        let threads = [std::thread::spawn(move || client(client_end)), std::thread::spawn(move || server(server_end))];
        let mut connection = connection(client_socket);
        let result =
            relay(&mut connection, server_socket.as_fd(), (waiting.0.to_vec(), waiting.1.to_vec()), LONG, LONG);
        drop((connection, server_socket));
        for thread in threads {
            thread.join().unwrap();
        }
        result
    }

    #[test]
    fn what_was_read_already_goes_first_and_half_closes_are_respected() {
        let client = |mut stream: UnixStream| {
            stream.write_all(b" two").unwrap();
            stream.shutdown(Half::Write).unwrap();
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).unwrap();
            assert_eq!(heard, b"first: heard: one two");
        };
        let server = |mut stream: UnixStream| {
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).unwrap();
            stream.write_all(b"heard: ").unwrap();
            stream.write_all(&heard).unwrap();
        };
        assert!(between((b"one", b"first: "), client, server).is_ok());
    }

    #[test]
    fn both_may_speak_much_at_once() {
        const MUCH: usize = 3 << 20;
        let listen = |mut reader: UnixStream| {
            std::thread::spawn(move || {
                let mut heard = vec![0; MUCH];
                reader.read_exact(&mut heard).unwrap();
                assert!(heard.iter().all(|octet| *octet == b'x'));
            })
        };
        let both = move |mut stream: UnixStream| {
            let listening = listen(stream.try_clone().unwrap());
            stream.write_all(&vec![b'x'; MUCH]).unwrap();
            listening.join().unwrap();
        };
        assert!(between((b"", b""), both, both).is_ok());
    }

    #[test]
    fn a_server_that_listens_no_more_is_still_heard() {
        let client = |mut stream: UnixStream| {
            let mut heard = Vec::new();
            let _ = stream.write_all(b"more and more");
            // What nobody read may reset the connection, after what was said on it.
            let _ = stream.read_to_end(&mut heard);
            assert_eq!(heard, b"goodbye");
        };
        let server = |mut stream: UnixStream| stream.write_all(b"goodbye").unwrap();
        assert!(between((b"pending", b""), client, server).is_ok());
    }

    #[test]
    fn a_client_that_is_gone_ends_it() {
        let server = |mut stream: UnixStream| {
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard);
            let _ = stream.write_all(b"anybody there?");
        };
        assert!(matches!(between((b"", b""), drop, server), Err(Fault::HungUp)));
    }

    #[test]
    fn silence_has_an_end() {
        let (_client, client_socket) = UnixStream::pair().unwrap();
        let (_server, server_socket) = UnixStream::pair().unwrap();
        let mut connection = connection(client_socket);
        let result = relay(&mut connection, server_socket.as_fd(), Default::default(), Duration::from_millis(1), LONG);
        assert!(matches!(result, Err(Fault::TimedOut)));
    }
}
