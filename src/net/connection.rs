//! Standard input and output as one stream with deadlines.
//!
//! Every wait is bounded twice: by the time the caller gives for the command at hand and by the deadline of the
//! whole session. Descriptors stay blocking (they may be shared with other processes); poll says when to act, and a
//! write is split so that it cannot block for ever behind a client that does not read.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, Shutdown, send, setsockopt, shutdown, sockopt};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
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
    /// Waits for octets. 0: the other side will send no more.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Fault>;
    /// Sends all of it.
    fn send(&mut self, octets: &[u8]) -> Result<(), Fault>;
    /// Says that nothing more will be sent, and reads what the other side still sends, within a bound of octets and
    /// time: a close with unread octets makes the kernel send RST, which destroys the reply on its way.
    fn finish(&mut self);
}

/// The connection on standard input and output.
#[derive(Debug)]
pub struct Connection {
    input: OwnedFd,
    output: OwnedFd,
    is_socket: bool,
    command_deadline: Option<Instant>,
    session_deadline: Instant,
}

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
        Connection { input, output, is_socket, command_deadline: None, session_deadline: Instant::now() + session }
    }

    fn wait(&self, fd: &OwnedFd, what: PollFlags) -> Result<(), Fault> {
        let deadline = self.command_deadline.map_or(self.session_deadline, |d| d.min(self.session_deadline));
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Fault::TimedOut);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(fd.as_fd(), what)], timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(Fault::Io(errno.into())),
            }
        }
    }
}

fn fault(errno: Errno) -> Fault {
    match errno {
        Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN | Errno::ETIMEDOUT => Fault::HungUp,
        other => Fault::Io(other.into()),
    }
}

impl Stream for Connection {
    fn allow(&mut self, time: Duration) {
        self.command_deadline = Some(Instant::now() + time);
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        loop {
            self.wait(&self.input, PollFlags::POLLIN)?;
            match nix::unistd::read(&self.input, buffer) {
                Ok(count) => return Ok(count),
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(fault(errno)),
            }
        }
    }

    fn send(&mut self, mut octets: &[u8]) -> Result<(), Fault> {
        while !octets.is_empty() {
            self.wait(&self.output, PollFlags::POLLOUT)?;
            let sent = if self.is_socket {
                send(self.output.as_raw_fd(), octets, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
            } else {
                // A writable pipe takes PIPE_BUF octets (4096) without blocking, and promises no more.
                nix::unistd::write(&self.output, &octets[..octets.len().min(4096)])
            };
            match sent {
                Ok(count) => octets = &octets[count..],
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(fault(errno)),
            }
        }
        Ok(())
    }

    fn finish(&mut self) {
        if !self.is_socket || shutdown(self.output.as_raw_fd(), Shutdown::Write).is_err() {
            return;
        }
        self.allow(DRAIN_TIME);
        let mut rest = [0; 4096];
        let mut octets = 0;
        while octets < DRAIN_OCTETS {
            match self.receive(&mut rest) {
                Ok(0) | Err(_) => return,
                Ok(count) => octets += count,
            }
        }
    }
}
