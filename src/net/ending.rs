//! The end at once, which a second TERM asks for: everybody who is left is told, and who does not listen is killed.

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid};
use std::collections::HashSet;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// How long children may take to end that serve a client.
pub const OF_SESSIONS: Duration = Duration::from_secs(1);
/// How long children may take that have children of their own to end: longer than these.
pub const OF_SERVERS: Duration = Duration::from_secs(2);

/// Sends each of these children its signal, and KILL to those that are there still after `patience`, or when one more
/// TERM or INT comes. What a stopped process does not hear, and what another one ignores, so ends as well. What a child has
/// started is told with it, and killed with it; it may ignore TERM and outlive it. `signals` is where TERM, INT and CHLD are
/// read.
pub fn end(children: impl Iterator<Item = (Pid, Signal)>, signals: Option<&SignalFd>, patience: Duration) {
    let mut left: HashSet<Pid> = children.map(|(pid, signal)| tell(pid, signal)).collect();
    let until = Instant::now().checked_add(patience);
    loop {
        reap(&mut left);
        let time = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        let Some(signals) = signals.filter(|_| !left.is_empty() && !time.is_zero()) else { break };
        let timeout = PollTimeout::try_from(time + Duration::from_millis(1)).unwrap_or(PollTimeout::ZERO);
        let _ = poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout);
        if is_told_again(signals) {
            break;
        }
    }
    if !left.is_empty() {
        log::warn!("killed children={}", left.len());
        for pid in left {
            tell(pid, Signal::SIGKILL);
        }
    }
}

/// Its whole group, once it leads one: the shell that is a program does not tell its own children.
fn tell(pid: Pid, signal: Signal) -> Pid {
    let leads = getpgid(Some(pid)) == Ok(pid);
    let _ = if leads { killpg(pid, signal) } else { kill(pid, signal) };
    pid
}

fn reap(left: &mut HashSet<Pid>) {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => drop(left.remove(&pid)),
            Ok(WaitStatus::StillAlive) => return,
            Ok(_) | Err(Errno::EINTR) => {}
            // Nobody is left, whatever we thought.
            Err(_) => return left.clear(),
        }
    }
}

fn is_told_again(signals: &SignalFd) -> bool {
    let mut again = false;
    while let Ok(Some(signal)) = signals.read_signal() {
        let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
        again |= [Signal::SIGTERM, Signal::SIGINT].map(|known| known as i32).contains(&number);
    }
    again
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::handing::keep_only;
    use crate::sys;
    use nix::sys::signal::SigSet;
    use nix::sys::signalfd::SfdFlags;
    use std::io::{Read, Write};

    /// In a process of its own, for it reaps every child there is.
    #[test]
    fn who_ignores_term_is_killed_and_who_does_not_is_not_waited_for() {
        let alone = || {
            // Files of other tests, whose locks they would have as well.
            keep_only(Vec::new());
            let mut caught = SigSet::empty();
            [Signal::SIGCHLD, Signal::SIGTERM].into_iter().for_each(|signal| caught.add(signal));
            caught.thread_block().unwrap();
            let signals = SignalFd::with_flags(&caught, SfdFlags::SFD_NONBLOCK).unwrap();
            let stays = |deaf: bool| {
                let (mut ready, tells) = std::io::pipe().unwrap();
                let child = sys::fork(|| {
                    if deaf {
                        SigSet::all().thread_block().unwrap();
                    }
                    let _ = (&tells).write_all(b".");
                    loop {
                        std::thread::sleep(Duration::from_secs(100));
                    }
                });
                ready.read_exact(&mut [0]).unwrap();
                (child.unwrap(), Signal::SIGTERM)
            };
            end([stays(false), stays(false)].into_iter(), Some(&signals), Duration::from_secs(1000));
            let none_is_left = waitpid(None, None) == Err(Errno::ECHILD);
            let deaf = stays(true);
            end([deaf].into_iter(), Some(&signals), Duration::from_millis(20));
            u8::from(none_is_left && waitpid(None, None) == Ok(WaitStatus::Signaled(deaf.0, Signal::SIGKILL, false)))
        };
        let child = sys::fork(alone).unwrap();
        let status = waitpid(child, None).unwrap();
        assert!(matches!(status, WaitStatus::Exited(_, 1)), "{status:?}");
    }
}
