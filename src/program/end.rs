//! The end of children: of a program that may run only so long, and of those whose end nobody waits for.

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long one may take to end that was killed. A file system that does not answer can keep it; and who has become another
/// user (set-uid, sudo) cannot be killed by us.
pub const ENDING: Duration = Duration::from_secs(10);

/// Children that had not ended when they were left; a process that lives longer collects them later.
static LEFT: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Leaves a child, and collects those that have ended.
pub fn leave(child: Option<Pid>) {
    if let Ok(mut left) = LEFT.lock() {
        left.extend(child);
        left.retain(|child| waitpid(*child, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_none()));
    }
}

/// Waits for a child that leads a group, by what `look` says of it; from `end` on it and all it started are killed. Gives how
/// it ended, and whether it did so before. One that does not end for so long even so is left: an error. One that cannot be
/// looked at is another, and is killed at once, for nobody would end it later.
pub fn wait<S>(
    leader: Pid,
    end: Instant,
    ending: Duration,
    look: impl FnMut() -> io::Result<Option<S>>,
) -> io::Result<(S, bool)> {
    let sleep = |pause| {
        std::thread::sleep(pause);
        false
    };
    wait_and(leader, end, ending, look, sleep)
}

/// The same, with something to do meanwhile: `pause` takes so long at the most, and says whether something has happened, so
/// that the end may be near.
pub fn wait_and<S>(
    leader: Pid,
    mut end: Instant,
    ending: Duration,
    mut look: impl FnMut() -> io::Result<Option<S>>,
    mut pause: impl FnMut(Duration) -> bool,
) -> io::Result<(S, bool)> {
    let (shortest, longest) = (Duration::from_millis(1), Duration::from_millis(50));
    let (mut time, mut in_time) = (shortest, true);
    // No error where one of the group could be killed, and perhaps not its leader.
    let kill = || _ = killpg(leader, Signal::SIGKILL);
    loop {
        match look() {
            Ok(Some(status)) => return Ok((status, in_time)),
            Ok(None) => {}
            Err(error) => {
                kill();
                leave(Some(leader));
                return Err(error);
            }
        }
        if Instant::now() >= end {
            if !in_time {
                log::error!(
                    "pid={leader} event=program-not-ended reason=\"it took too long, was killed in vain, and runs on\""
                );
                leave(Some(leader));
                return Err(io::ErrorKind::TimedOut.into());
            }
            kill();
            (in_time, end, time) = (false, Instant::now() + ending, shortest);
        }
        time = if pause(time) { shortest } else { (time * 2).min(longest) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;
    use nix::sys::signal::kill;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[test]
    #[expect(clippy::zombie_processes, reason = "who collects it is what is tested")]
    fn a_child_that_does_not_end_is_left_and_collected_when_it_has() {
        let mut command = Command::new("sleep");
        let child = command.arg("1000").process_group(0).spawn().unwrap();
        let child = Pid::from_raw(child.id().try_into().unwrap());
        let nothing_seen = || Ok(None::<()>);
        let error = wait(child, Instant::now(), Duration::from_millis(10), nothing_seen).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        is_collected(child);
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "who collects it is what is tested")]
    fn a_child_that_cannot_be_looked_at_does_not_run_on() {
        let child = Command::new("sleep").arg("100").process_group(0).spawn().unwrap();
        let child = Pid::from_raw(child.id().try_into().unwrap());
        let blind = || Err::<Option<()>, _>(io::ErrorKind::OutOfMemory.into());
        let far = Instant::now() + Duration::from_secs(1000);
        let error = wait(child, far, Duration::from_secs(1000), blind).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        is_collected(child);
    }

    /// Before it would end by itself.
    fn is_collected(child: Pid) {
        let begun = Instant::now();
        while kill(child, None) != Err(Errno::ESRCH) {
            assert!(begun.elapsed() < Duration::from_secs(20));
            leave(None);
        }
    }
}
