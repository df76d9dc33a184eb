//! Standard input and output as one stream with deadlines.
//!
//! Every wait is bounded twice: by the time the caller gives for the command at hand and by the deadline of the
//! whole session. Descriptors stay blocking (they may be shared with other processes); poll says when to act, and a
//! write is split so that it cannot block for ever behind a client that does not read.
//!
//! It becomes TLS in place (`tls.rs`), under the same deadlines. Its end is then announced, and an end of the client's
//! that was not announced is a hang-up, whatever went before.
//!
//! What servers need of it is `stream.rs`, how octets go in and out `raw.rs`, the same under TLS `sealed.rs`, what a person
//! types `typed.rs`, and what is there for whoever polls by himself `polled.rs`.

mod polled;
mod raw;
mod sealed;
mod stream;
mod typed;

pub(crate) use stream::fault;
pub use stream::{Fault, LastWords, Stream};

use super::tls::{Failure, Identity, Tls};
use crate::sys;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, Shutdown, recv, setsockopt, shutdown, sockopt};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use typed::Typed;

/// The connection on standard input and output.
#[derive(Debug)]
pub struct Connection {
    input: OwnedFd,
    output: OwnedFd,
    is_socket: bool,
    /// How long a read of the socket waits by itself, once that was set.
    patience: Option<Duration>,
    /// Its lines end as a person ends them.
    typed: Option<Typed>,
    command_deadline: Option<Instant>,
    session_deadline: Instant,
    tls: Option<Box<Tls>>,
    /// No handshake was begun.
    is_clear: bool,
    /// Our end has been announced; nothing may follow it.
    finished: bool,
}

/// What `finish` reads at the most, and how long it waits for it.
const DRAIN_OCTETS: usize = 1 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

impl Connection {
    /// Takes over descriptors 0 and 1; the session may last `session` in all.
    pub fn from_stdio(session: Duration) -> io::Result<Connection> {
        let [input, output] = sys::stdio();
        Ok(Connection::new(input.try_clone_to_owned()?, output.try_clone_to_owned()?, session))
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
            typed: None,
            command_deadline: None,
            session_deadline,
            tls: None,
            is_clear: true,
            finished: false,
        }
    }

    /// Whether what is sent goes out as it is, and the other side expects that: no handshake was begun.
    pub fn is_clear(&self) -> bool {
        self.is_clear
    }

    /// Where it reads and where it writes, for whoever only carries octets.
    pub fn descriptors(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.input.as_fd(), self.output.as_fd())
    }

    fn time_left(&self) -> Result<Duration, Fault> {
        let deadline = self.command_deadline.map_or(self.session_deadline, |d| d.min(self.session_deadline));
        Some(deadline.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero()).ok_or(Fault::TimedOut)
    }
}

/// A time too long for the clock is a century.
fn deadline(time: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(time).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86_400))
}

impl Stream for Connection {
    fn allow(&mut self, time: Duration) {
        self.command_deadline = Some(deadline(time));
    }

    fn allow_last_words(&mut self, time: Duration) {
        self.session_deadline = deadline(time);
        self.command_deadline = None;
    }

    fn session_left(&self) -> Duration {
        self.session_deadline.saturating_duration_since(Instant::now())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        if let Some(mut tls) = self.tls.take() {
            let received = self.receive_sealed(&mut tls, buffer);
            self.tls = Some(tls);
            received
        } else if let Some(mut typed) = self.typed.take() {
            let received = self.receive_typed(&mut typed, buffer);
            self.typed = Some(typed);
            received
        } else {
            self.receive_raw(buffer)
        }
    }

    fn is_waiting(&mut self, time: Duration) -> bool {
        if self.tls.as_mut().is_some_and(|tls| tls.has_input()) {
            return true;
        }
        let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
        let mut fd = [PollFd::new(self.input.as_fd(), PollFlags::POLLIN)];
        // A client that is gone is no early talker: that is found out when it is read from.
        matches!(poll(&mut fd, timeout), Ok(1..))
            && recv(self.input.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)
                .is_ok_and(|count| count > 0)
    }

    fn send(&mut self, mut octets: &[u8]) -> Result<(), Fault> {
        let sent = self.send_from(&mut octets);
        // Who sends so does not go on behind a failure: what counts as lost must not arrive after all.
        if sent.is_err()
            && let Some(tls) = &mut self.tls
        {
            tls.sealed.clear();
            self.finished = true;
        }
        sent
    }

    /// What is sealed counts as sent: it goes out before all else.
    fn send_from(&mut self, octets: &mut &[u8]) -> Result<(), Fault> {
        let Some(mut tls) = self.tls.take() else { return self.send_raw(octets) };
        let mut sent = if self.finished { Err(Fault::HungUp) } else { Ok(()) };
        while sent.is_ok() && !octets.is_empty() {
            sent = tls.seal(octets).and_then(|count| {
                *octets = octets.get(count..).unwrap_or_default();
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
        self.is_clear = false;
        self.shake_hands(&mut tls)?;
        let facts = tls.facts();
        self.tls = Some(tls);
        Ok(facts)
    }
}

/// Who hears the announcement knows that nobody cut the connection.
impl Drop for Connection {
    fn drop(&mut self) {
        self.announce_end();
    }
}

#[cfg(test)]
mod tests;
