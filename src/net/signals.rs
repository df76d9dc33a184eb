//! The signals that a loop which accepts reads as octets: blocked everywhere else in its process, and before it begins.
//!
//! HUP and USR1 end a process that has not said otherwise. So whoever starts a pool, and may send it one of them at once,
//! starts it with both blocked ([`until_it_loops`]): what came meanwhile is read when the loop begins.
//!
//! Whatever such a loop starts leads a process group of its own: what one does to its group (`kill 0`) is not done to the
//! loop and to the others, and INT from the terminal tells the loop alone, which lets them finish.

use crate::sys;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, setpgid};
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

/// Puts this process, which a loop has just forked, into a process group of its own.
pub(super) fn leave_group() {
    let own = Pid::from_raw(0);
    // Only who leads a session may not, and leads its group already.
    let _ = setpgid(own, own);
}

/// Where they are read, for the rest of this process's life.
pub(super) fn open() -> io::Result<SignalFd> {
    hold();
    Ok(SignalFd::with_flags(&caught(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}
