//! A system call again, as often as a signal comes in between.

use nix::errno::Errno;
use std::io;

/// The error of a system call.
pub trait OfCall {
    /// Whether a signal came in between, and nothing was done.
    fn is_interruption(&self) -> bool;
}

impl OfCall for Errno {
    fn is_interruption(&self) -> bool {
        *self == Errno::EINTR
    }
}

impl OfCall for io::Error {
    fn is_interruption(&self) -> bool {
        self.kind() == io::ErrorKind::Interrupted
    }
}

/// Calls until there is an answer.
pub fn again<T, E: OfCall>(mut call: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    loop {
        match call() {
            Err(error) if error.is_interruption() => {}
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_signal_interrupted_is_called_again() {
        let mut left = vec![Err(Errno::EBADF), Err(Errno::EINTR), Ok(1), Err(Errno::EINTR)];
        assert_eq!(again(|| left.pop().unwrap()), Ok(1));
        assert_eq!(again(|| left.pop().unwrap()), Err(Errno::EBADF));
        let mut left = vec![Ok(1), Err(io::ErrorKind::Interrupted.into())];
        assert!(matches!(again(|| -> io::Result<u8> { left.pop().unwrap() }), Ok(1)));
    }
}
