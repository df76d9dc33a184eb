//! The signals that a loop which accepts reads as octets: blocked everywhere else in its process, and before it begins.
//!
//! HUP and USR1 end a process that has not said otherwise. So whoever starts a pool, and may send it one of them at once,
//! starts it with both blocked ([`until_it_loops`]): what came meanwhile is read when the loop begins.
//!
//! Whatever such a loop starts leads a process group of its own: what one does to its group (`kill 0`) is not done to the
//! loop and to the others, and INT from the terminal tells the loop alone, which lets them finish.
//!
//! A loop that forks children alone knows that they are there. Where it is killed they get TERM from the kernel: a session
//! that went on would be counted by nobody, and whoever comes after the loop would let in one too many for it.

use crate::sys;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getppid, setpgid};
use std::io::{self, IsTerminal};

/// Those that are read.
fn caught() -> SigSet {
    [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1].into_iter().collect()
}

/// Those that a loop is sent while it goes on.
pub fn until_it_loops() -> SigSet {
    [Signal::SIGHUP, Signal::SIGUSR1].into_iter().collect()
}

/// From now on they wait for a loop to read them.
pub fn hold() {
    // Whoever started us may have ignored CHLD, and the kernel would reap the children before they are counted.
    sys::default_signals(&caught());
    // Children are in the background of our terminal, where `stty tostop` would stop them at their first record.
    if io::stderr().is_terminal() {
        sys::ignore(Signal::SIGTTOU);
    }
}

/// What a process does first that this loop has just forked: it gets a process group of its own, and ends with the loop.
pub(super) fn begin_child(of: Pid) {
    let own = Pid::from_raw(0);
    // Only who leads a session may not, and leads its group already.
    let _ = setpgid(own, own);
    // Where a sandbox forbids it, clients are served all the same.
    let _ = end_with(of);
}

/// Ends this process by TERM when its parent ends, which is to be this one.
pub fn end_with(parent: Pid) -> nix::Result<()> {
    set_pdeathsig(Signal::SIGTERM)?;
    // It was gone before that.
    if getppid() == parent { Ok(()) } else { raise(Signal::SIGTERM) }
}

/// Where they are read, for the rest of this process's life.
pub(super) fn open() -> io::Result<SignalFd> {
    hold();
    Ok(SignalFd::with_flags(&caught(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::getpid;

    #[test]
    fn who_has_lost_its_parent_before_it_could_ask_for_the_signal_ends_at_once() {
        let us = getpid();
        for (parent, expected) in [(us, None), (Pid::from_raw(i32::MAX), Some(Signal::SIGTERM))] {
            let child = sys::fork(|| u8::from(end_with(parent).is_err())).unwrap();
            let ended = match waitpid(child, None).unwrap() {
                WaitStatus::Exited(_, 0) => None,
                WaitStatus::Signaled(_, signal, _) => Some(signal),
                other => panic!("{other:?}"),
            };
            assert_eq!(ended, expected);
        }
    }
}
