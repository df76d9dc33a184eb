//! Standard input and output as one stream with deadlines.
//!
//! Every wait is bounded twice: by the time the caller gives for the command at hand and by the deadline of the
//! whole session. Descriptors stay blocking (they may be shared with other processes); poll says when to act, and a
//! write is split so that it cannot block for ever behind a client that does not read.
//!
//! It becomes TLS in place (`tls.rs`), under the same deadlines. Its end is then announced, and an end of the client's
//! that was not announced is a hang-up, whatever went before.

use super::tls::{Failure, Identity, Tls};
use super::trust::Trust;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, setsockopt, shutdown, sockopt};
use nix::sys::time::TimeVal;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Why a stream is at its end.
#[derive(Debug)]
pub enum Fault {
    /// The other side was silent, did not read, or took longer than the command or the session may last.
    TimedOut,
    /// The other side is gone.
    HungUp,
    /// The system would not do it.
    Io(io::Error),
}

/// What the protocol servers need of a connection; tests give them one made of memory.
pub trait Stream {
    /// From now on, until called again, `receive` and `send` together may take this long.
    fn allow(&mut self, time: Duration);
    /// The same for the last words: `send` and `finish` may take this long even where the session is over.
    fn allow_last_words(&mut self, time: Duration) {
        self.allow(time);
    }
    /// Waits for octets. 0: the other side will send no more.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Fault>;
    /// Whether octets are there that nobody has received, or come within this time. Where nobody can tell there are none.
    fn is_waiting(&mut self, time: Duration) -> bool {
        let _ = time;
        false
    }
    /// Sends all of it.
    fn send(&mut self, octets: &[u8]) -> Result<(), Fault>;
    /// Says that nothing more will be sent, and reads what the other side still sends, within a bound of octets and
    /// time: a close with unread octets makes the kernel send RST, which destroys the reply on its way.
    fn finish(&mut self);
    /// The same for a client that has taken its leave: where it has said no more than that, nothing is waited for.
    fn part(&mut self) {
        self.finish();
    }
    /// Becomes TLS, as the server; the handshake must be over within the time last allowed. Gives what was agreed on,
    /// for the log. What was read before must have been forgotten by the caller.
    fn start_tls(&mut self, identity: &Identity) -> Result<String, Failure> {
        let _ = identity;
        Err(Failure::Handshake("this stream cannot become TLS".to_owned()))
    }
}

/// Standard output as it is, for last words where there is no descriptor left to make a [`Connection`] of.
#[derive(Debug)]
pub struct LastWords;

impl Stream for LastWords {
    fn allow(&mut self, _: Duration) {}

    fn receive(&mut self, _: &mut [u8]) -> Result<usize, Fault> {
        Ok(0)
    }

    fn send(&mut self, octets: &[u8]) -> Result<(), Fault> {
        let mut output = io::stdout();
        output.write_all(octets).and_then(|()| output.flush()).map_err(Fault::Io)
    }

    fn finish(&mut self) {}
}

impl<S: Stream> Stream for &mut S {
    fn allow(&mut self, time: Duration) {
        (**self).allow(time);
    }

    fn allow_last_words(&mut self, time: Duration) {
        (**self).allow_last_words(time);
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        (**self).receive(buffer)
    }

    fn is_waiting(&mut self, time: Duration) -> bool {
        (**self).is_waiting(time)
    }

    fn send(&mut self, octets: &[u8]) -> Result<(), Fault> {
        (**self).send(octets)
    }

    fn finish(&mut self) {
        (**self).finish();
    }

    fn part(&mut self) {
        (**self).part();
    }

    fn start_tls(&mut self, identity: &Identity) -> Result<String, Failure> {
        (**self).start_tls(identity)
    }
}

/// The connection on standard input and output.
#[derive(Debug)]
pub struct Connection {
    input: OwnedFd,
    output: OwnedFd,
    is_socket: bool,
    /// How long a read of the socket waits by itself, once that was set.
    patience: Option<Duration>,
    command_deadline: Option<Instant>,
    session_deadline: Instant,
    tls: Option<Box<Tls>>,
    /// Our end has been announced; nothing may follow it.
    finished: bool,
}

/// How long the announcement of our end may take: who does not listen does not need it.
const LAST_RECORD: Duration = Duration::from_secs(1);

/// A shorter time is left to poll, which is exact.
const WORTH_TELLING: Duration = Duration::from_secs(20);
/// Longest time that a socket is told to wait, in seconds: what is longer is asked again.
const MOST_PATIENCE: i64 = 86_400;

/// What `finish` reads at the most, and how long it waits for it.
const DRAIN_OCTETS: usize = 1 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

impl Connection {
    /// Takes over descriptors 0 and 1; the session may last `session` in all.
    pub fn from_stdio(session: Duration) -> io::Result<Connection> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Connection::new(input, output, session))
    }

    /// A connection on two descriptors, which may be the same socket.
    pub fn new(input: OwnedFd, output: OwnedFd, session: Duration) -> Connection {
        // Replies leave in one write each batch; waiting for the client's ACK (Nagle) would cost 40 ms a batch.
        let _ = setsockopt(&output, sockopt::TcpNoDelay, &true);
        let is_socket = nix::sys::socket::getsockopt(&output, sockopt::SockType).is_ok();
        let session_deadline = deadline(session);
        Connection {
            input,
            output,
            is_socket,
            patience: None,
            command_deadline: None,
            session_deadline,
            tls: None,
            finished: false,
        }
    }

    /// Whether what is sent goes out as it is.
    pub fn is_clear(&self) -> bool {
        self.tls.is_none()
    }

    /// Where it reads and where it writes, for whoever only carries octets.
    pub fn descriptors(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.input.as_fd(), self.output.as_fd())
    }

    /// How long the session may last still.
    pub fn session_left(&self) -> Duration {
        self.session_deadline.saturating_duration_since(Instant::now())
    }

    fn time_left(&self) -> Result<Duration, Fault> {
        let deadline = self.command_deadline.map_or(self.session_deadline, |d| d.min(self.session_deadline));
        Some(deadline.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero()).ok_or(Fault::TimedOut)
    }

    fn wait(&self, fd: &OwnedFd, what: PollFlags) -> Result<(), Fault> {
        loop {
            let timeout = PollTimeout::try_from(self.time_left()?).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(fd.as_fd(), what)], timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(Fault::Io(errno.into())),
            }
        }
    }
}

/// A time too long for the clock is a century.
fn deadline(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86_400))
}

/// What a network does to a connection is how clients leave; only the rest is our trouble.
pub(crate) fn fault(errno: Errno) -> Fault {
    match errno {
        Errno::EPIPE
        | Errno::ECONNRESET
        | Errno::ECONNABORTED
        | Errno::ENOTCONN
        | Errno::ETIMEDOUT
        | Errno::EHOSTUNREACH
        | Errno::ENETUNREACH
        | Errno::ENETDOWN => Fault::HungUp,
        other => Fault::Io(other.into()),
    }
}

impl Stream for Connection {
    fn allow(&mut self, time: Duration) {
        self.command_deadline = Some(deadline(time));
    }

    fn allow_last_words(&mut self, time: Duration) {
        self.session_deadline = deadline(time);
        self.command_deadline = None;
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        match self.tls.take() {
            None => self.receive_raw(buffer),
            Some(mut tls) => {
                let received = self.receive_sealed(&mut tls, buffer);
                self.tls = Some(tls);
                received
            }
        }
    }

    fn is_waiting(&mut self, time: Duration) -> bool {
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        let mut fd = [PollFd::new(self.input.as_fd(), PollFlags::POLLIN)];
        // A client that is gone is no early talker: that is found out when it is read from.
        matches!(poll(&mut fd, timeout), Ok(1..))
            && recv(self.input.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)
                .is_ok_and(|count| count > 0)
    }

    fn send(&mut self, mut octets: &[u8]) -> Result<(), Fault> {
        let Some(mut tls) = self.tls.take() else { return self.send_raw(octets) };
        let mut sent = if self.finished { Err(Fault::HungUp) } else { Ok(()) };
        while sent.is_ok() && !octets.is_empty() {
            sent = tls.seal(octets).and_then(|count| {
                octets = octets.get(count..).unwrap_or_default();
                self.send_sealed(&mut tls)
            });
        }
        self.tls = Some(tls);
        sent
    }

    fn finish(&mut self) {
        self.announce_end();
        if !self.is_socket || shutdown(self.output.as_raw_fd(), Shutdown::Write).is_err() {
            return;
        }
        self.allow(DRAIN_TIME);
        let mut rest = [0; 4096];
        let mut octets = 0;
        while octets < DRAIN_OCTETS {
            match self.receive_raw(&mut rest) {
                Ok(0) | Err(_) => return,
                Ok(count) => octets += count,
            }
        }
    }

    fn part(&mut self) {
        let mut octet = [0];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        let is_quiet = self.is_socket
            && self.tls.is_none()
            && matches!(recv(self.input.as_raw_fd(), &mut octet, flags), Ok(0) | Err(Errno::EAGAIN));
        if is_quiet {
            let _ = shutdown(self.output.as_raw_fd(), Shutdown::Write);
        } else {
            self.finish();
        }
    }

    fn start_tls(&mut self, identity: &Identity) -> Result<String, Failure> {
        let mut tls = Box::new(Tls::new(identity)?);
        self.shake_hands(&mut tls)?;
        let facts = tls.facts();
        self.tls = Some(tls);
        Ok(facts)
    }
}

impl Connection {
    /// Becomes TLS in place, as a client of the server of that name; otherwise like [`Stream::start_tls`].
    pub fn start_tls_as_client(&mut self, trust: &Trust, name: &str) -> Result<String, Failure> {
        let mut tls = Box::new(Tls::client(trust, name)?);
        self.send_sealed(&mut tls).map_err(Failure::Stream)?;
        self.shake_hands(&mut tls)?;
        let facts = tls.facts();
        self.tls = Some(tls);
        Ok(facts)
    }
}

/// For whoever polls by himself, and must never wait here.
impl Connection {
    /// Appends what is there, when poll has said that something is; false: the client says that it will send no more.
    /// At most some 20 kB a call.
    pub(crate) fn hear(&mut self, into: &mut Vec<u8>) -> Result<bool, Fault> {
        let mut buffer = [0; 4096];
        let Some(tls) = &mut self.tls else {
            return match nix::unistd::read(&self.input, &mut buffer) {
                Ok(count) => {
                    into.extend_from_slice(buffer.get(..count).unwrap_or_default());
                    Ok(count > 0)
                }
                Err(Errno::EINTR | Errno::EAGAIN) => Ok(true),
                Err(errno) => Err(fault(errno)),
            };
        };
        match nix::unistd::read(&self.input, tls.room()) {
            Ok(count) => tls.filled(Some(count))?,
            Err(Errno::EINTR | Errno::EAGAIN) => tls.filled(None)?,
            Err(errno) => return Err(fault(errno)),
        }
        self.drain(into)
    }

    /// Appends what has come from the network already and was not taken; the same answer.
    pub(crate) fn drain(&mut self, into: &mut Vec<u8>) -> Result<bool, Fault> {
        let Some(tls) = &mut self.tls else { return Ok(true) };
        let mut buffer = [0; 4096];
        while let Some(count) = tls.plaintext(&mut buffer)? {
            into.extend_from_slice(buffer.get(..count).unwrap_or_default());
            if count == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends what goes, when poll has said that something does, and takes it away from `octets`. Some of it may be held
    /// here until the next call.
    pub(crate) fn tell(&mut self, octets: &mut Vec<u8>) -> Result<(), Fault> {
        const PIECE: usize = 16 * 1024;
        let Some(mut tls) = self.tls.take() else {
            octets.drain(..self.write_some(octets)?);
            return Ok(());
        };
        let mut sealed = Ok(());
        if tls.sealed.is_empty() {
            sealed = tls.seal(octets.get(..PIECE).unwrap_or(octets)).map(|count| drop(octets.drain(..count)));
        }
        let sent = sealed.and_then(|()| self.write_some(&tls.sealed)).map(|count| drop(tls.sealed.drain(..count)));
        self.tls = Some(tls);
        sent
    }

    /// Whether [`Connection::tell`] holds something back.
    pub(crate) fn holds_output(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.sealed.is_empty())
    }
}

impl Connection {
    fn receive_raw(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        // A socket that waits by itself spares the call to poll before each command.
        let mut waits = self.is_socket && self.has_patience()?;
        loop {
            if !std::mem::take(&mut waits) {
                self.wait(&self.input, PollFlags::POLLIN)?;
            }
            match nix::unistd::read(&self.input, buffer) {
                Ok(count) => return Ok(count),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(fault(errno)),
            }
        }
    }

    /// Whether a read waits about as long as there is time left, and no longer; where there is much, and it is not so yet, the
    /// socket is told. What is not worth that, or where it cannot be, is left to poll.
    fn has_patience(&mut self) -> Result<bool, Fault> {
        let left = self.time_left()?;
        let fits = |patience: Duration| patience <= left + left / 16 && patience >= left / 2;
        if self.patience.is_some_and(fits) {
            return Ok(true);
        }
        if left < WORTH_TELLING {
            return Ok(false);
        }
        let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX).min(MOST_PATIENCE);
        let told = setsockopt(&self.input, sockopt::ReceiveTimeout, &TimeVal::new(seconds, 0)).is_ok();
        self.patience = told.then(|| Duration::from_secs(seconds.unsigned_abs()));
        Ok(self.patience.is_some_and(fits))
    }

    fn send_raw(&self, mut octets: &[u8]) -> Result<(), Fault> {
        // A socket has room for almost every reply, and says so itself where it has not.
        let mut has_room = self.is_socket && self.time_left().is_ok();
        while !octets.is_empty() {
            if !has_room {
                self.wait(&self.output, PollFlags::POLLOUT)?;
            }
            octets = octets.get(self.write_some(octets)?..).unwrap_or_default();
            has_room = false;
        }
        Ok(())
    }

    /// Writes what goes out without waiting, when poll has said that something does.
    fn write_some(&self, octets: &[u8]) -> Result<usize, Fault> {
        // A writable pipe takes PIPE_BUF octets (4096) without blocking, and promises no more.
        const PIPE_BUF: usize = 4096;
        let sent = if self.is_socket {
            send(self.output.as_raw_fd(), octets, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
        } else {
            nix::unistd::write(&self.output, octets.get(..PIPE_BUF).unwrap_or(octets))
        };
        match sent {
            Ok(count) => Ok(count),
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(0),
            Err(errno) => Err(fault(errno)),
        }
    }

    fn receive_sealed(&mut self, tls: &mut Tls, buffer: &mut [u8]) -> Result<usize, Fault> {
        loop {
            let plaintext = tls.plaintext(buffer);
            // Even if it broke: what TLS has to say of that.
            self.send_sealed(tls)?;
            if let Some(count) = plaintext? {
                return Ok(count);
            }
            self.fill(tls)?;
        }
    }

    /// Waits for octets of the network. Gives how many came.
    fn fill(&mut self, tls: &mut Tls) -> Result<usize, Fault> {
        let received = self.receive_raw(tls.room());
        tls.filled(received.as_ref().ok().copied())?;
        received
    }

    fn send_sealed(&self, tls: &mut Tls) -> Result<(), Fault> {
        let sent = self.send_raw(&tls.sealed);
        tls.sealed.clear();
        sent
    }

    fn shake_hands(&mut self, tls: &mut Tls) -> Result<(), Failure> {
        while tls.is_handshaking() {
            match tls.take() {
                Ok(true) => {}
                Ok(false) => match self.fill(tls) {
                    Ok(0) => return Err(Failure::Stream(Fault::HungUp)),
                    Ok(_) => {}
                    Err(fault) => return Err(Failure::Stream(fault)),
                },
                Err(error) => {
                    let _ = self.send_sealed(tls);
                    return Err(Failure::Handshake(error.to_string()));
                }
            }
            self.send_sealed(tls).map_err(Failure::Stream)?;
        }
        Ok(())
    }

    fn announce_end(&mut self) {
        if self.finished {
            return;
        }
        if let Some(mut tls) = self.tls.take() {
            self.finished = true;
            self.allow(LAST_RECORD);
            tls.seal_end();
            let _ = self.send_sealed(&mut tls);
            self.tls = Some(tls);
        }
    }
}

/// Who hears the announcement knows that nobody cut the connection.
impl Drop for Connection {
    fn drop(&mut self) {
        self.announce_end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(30);

    fn on_socket(session: Duration) -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Connection::new(ours.try_clone().unwrap().into(), ours.into(), session), theirs)
    }

    /// Over TCP, where a close with unread octets resets the connection.
    fn on_tcp(session: Duration) -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let ours = listener.accept().unwrap().0;
        (Connection::new(ours.try_clone().unwrap().into(), ours.into(), session), theirs)
    }

    fn on_pipes(session: Duration) -> (Connection, io::PipeWriter, io::PipeReader) {
        let (input, to_us) = io::pipe().unwrap();
        let (from_us, output) = io::pipe().unwrap();
        (Connection::new(input.into(), output.into(), session), to_us, from_us)
    }

    #[test]
    fn octets_go_both_ways_and_an_end_is_no_fault() {
        let (mut connection, mut client) = on_socket(LONG);
        let mut buffer = [0; 10];
        client.write_all(b"hello").unwrap();
        assert_eq!(connection.receive(&mut buffer).unwrap(), 5);
        connection.send(b"world").unwrap();
        client.read_exact(&mut buffer[..5]).unwrap();
        assert_eq!(&buffer[..5], b"world");
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(connection.receive(&mut buffer).unwrap(), 0);
    }

    #[test]
    fn a_silent_client_times_out() {
        let (mut connection, _client) = on_socket(LONG);
        connection.allow(SHORT);
        assert!(matches!(connection.receive(&mut [0]), Err(Fault::TimedOut)));
        let (mut connection, _to_us, _from_us) = on_pipes(LONG);
        connection.allow(SHORT);
        assert!(matches!(connection.receive(&mut [0]), Err(Fault::TimedOut)));
    }

    #[test]
    fn a_client_that_does_not_read_times_out() {
        let (mut connection, _client) = on_socket(LONG);
        connection.allow(SHORT);
        assert!(matches!(connection.send(&vec![0; 10_000_000]), Err(Fault::TimedOut)));
        let (mut connection, _to_us, _from_us) = on_pipes(LONG);
        connection.allow(SHORT);
        assert!(matches!(connection.send(&vec![0; 10_000_000]), Err(Fault::TimedOut)));
    }

    #[test]
    fn no_command_may_outlast_the_session() {
        let (mut connection, _client) = on_socket(SHORT);
        connection.allow(LONG);
        assert!(matches!(connection.receive(&mut [0]), Err(Fault::TimedOut)));
        assert!(matches!(connection.send(b"late"), Err(Fault::TimedOut)));
    }

    #[test]
    fn last_words_may_follow_the_end_of_the_session() {
        let (mut connection, mut client) = on_tcp(Duration::ZERO);
        client.write_all(&[b'x'; 10_000]).unwrap();
        assert!(matches!(connection.send(b"late"), Err(Fault::TimedOut)));
        connection.allow_last_words(LONG);
        connection.send(b"bye").unwrap();
        let closer = std::thread::spawn(move || connection.finish());
        let mut got = Vec::new();
        client.read_to_end(&mut got).expect("no reset");
        assert_eq!(got, b"bye");
        drop(client);
        closer.join().unwrap();
    }

    #[test]
    fn each_command_has_its_own_time() {
        let (mut connection, mut client) = on_socket(LONG);
        connection.allow(SHORT);
        assert!(matches!(connection.receive(&mut [0]), Err(Fault::TimedOut)));
        connection.allow(LONG);
        client.write_all(b"x").unwrap();
        assert_eq!(connection.receive(&mut [0]).unwrap(), 1);
    }

    #[test]
    fn a_time_beyond_the_clock_is_a_long_time() {
        let (mut connection, mut client) = on_socket(Duration::MAX);
        connection.allow(Duration::MAX);
        client.write_all(b"x").unwrap();
        assert_eq!(connection.receive(&mut [0]).unwrap(), 1);
    }

    #[test]
    fn a_client_that_is_gone_hung_up() {
        let (mut connection, client) = on_socket(LONG);
        drop(client);
        assert!(matches!(connection.send(b"reply"), Err(Fault::HungUp)));
        let (mut connection, _to_us, from_us) = on_pipes(LONG);
        drop(from_us);
        assert!(matches!(connection.send(b"reply"), Err(Fault::HungUp)));
        let (mut connection, client) = on_tcp(LONG);
        connection.send(b"greeting").unwrap();
        // Unread octets make this close a reset.
        drop(client);
        assert!(matches!(connection.receive(&mut [0]), Ok(0) | Err(Fault::HungUp)));
    }

    #[test]
    fn a_slow_reader_of_a_pipe_gets_every_octet() {
        let (mut connection, _to_us, mut from_us) = on_pipes(LONG);
        let sent: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let reader = std::thread::spawn(move || {
            let mut got = Vec::new();
            from_us.read_to_end(&mut got).map(|_| got)
        });
        connection.send(&sent).unwrap();
        drop(connection);
        assert!(reader.join().unwrap().unwrap() == sent);
    }

    #[test]
    fn a_reply_outlives_what_the_client_still_sends() {
        let (mut connection, mut client) = on_tcp(LONG);
        client.write_all(&vec![b'x'; 200_000]).unwrap();
        connection.send(b"too much\r\n").unwrap();
        let closer = std::thread::spawn(move || connection.finish());
        let mut got = Vec::new();
        // Half-closed, so the client sees an end while it may still send.
        client.read_to_end(&mut got).expect("no reset");
        assert_eq!(got, b"too much\r\n");
        drop(client);
        closer.join().unwrap();
    }

    #[test]
    fn finish_waits_neither_for_endless_octets_nor_for_the_silent() {
        let (mut connection, mut client) = on_tcp(LONG);
        let sender = std::thread::spawn(move || while client.write_all(&[b'x'; 65_536]).is_ok() {});
        connection.finish();
        drop(connection);
        sender.join().unwrap();
        let (mut connection, _client) = on_socket(SHORT);
        connection.finish();
    }

    #[test]
    fn a_file_is_read_to_its_end() {
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
        let mut connection = Connection::new(null.try_clone().unwrap().into(), null.into(), LONG);
        assert_eq!(connection.receive(&mut [0]).unwrap(), 0);
        connection.send(&[0; 10_000]).unwrap();
        connection.finish();
    }
}
