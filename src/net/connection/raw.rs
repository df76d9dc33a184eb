//! Octets as they are, in and out, and never a wait that has no end.
//!
//! The descriptors stay blocking, for other processes may have them too.

use super::{Connection, Fault, fault};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt};
use nix::sys::time::TimeVal;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

/// A shorter time is left to poll, which is exact.
const WORTH_TELLING: Duration = Duration::from_secs(20);
/// Longest time that a socket is told to wait, in seconds: what is longer is asked again.
const MOST_PATIENCE: i64 = 86_400;

impl Connection {
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

    pub(super) fn receive_raw(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
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

    pub(super) fn send_raw(&self, octets: &mut &[u8]) -> Result<(), Fault> {
        // A socket has room for almost every reply, and says so itself where it has not.
        let mut has_room = self.is_socket && self.time_left().is_ok();
        while !octets.is_empty() {
            if !has_room {
                self.wait(&self.output, PollFlags::POLLOUT)?;
            }
            *octets = octets.get(self.write_some(octets)?..).unwrap_or_default();
            has_room = false;
        }
        Ok(())
    }

    /// Writes what goes out without waiting, when poll has said that something does.
    pub(super) fn write_some(&self, octets: &[u8]) -> Result<usize, Fault> {
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
}
