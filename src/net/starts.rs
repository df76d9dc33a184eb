//! Children that end as soon as they begin: when nobody is started any more for a while.

use nix::sys::wait::WaitStatus;
use std::time::Duration;

/// How long nobody is started when a child could not be, or a connection not accepted: the machine is out of something,
/// and turning clients away in a tight loop would not give it back.
pub(super) const REST: Duration = Duration::from_secs(1);

/// A child that has the sockets and fails sooner than this was never ready for anybody.
const AT_START: Duration = Duration::from_secs(1);

/// So many children in turn may be killed as soon as they begin: then it is none of theirs.
pub(super) const MOST_KILLED: u32 = 10;

/// How the last children of one kind began.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Starts {
    failed: u32,
}

impl Starts {
    /// A child that serves whoever comes has ended at this age. Gives whether nobody is to be started for a while: one
    /// that ends by itself could not even begin, and nor can the next one now. That one was killed may be about that one
    /// alone.
    pub(super) fn ended(&mut self, status: WaitStatus, age: Duration) -> bool {
        let failed = !matches!(status, WaitStatus::Exited(_, 0)) && age < AT_START;
        self.failed = if failed { self.failed + 1 } else { 0 };
        let rests = failed && (matches!(status, WaitStatus::Exited(..)) || self.failed >= MOST_KILLED);
        if rests {
            self.failed = 0;
        }
        rests
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::Signal;
    use nix::unistd::Pid;

    #[test]
    fn one_that_fails_rests_at_once_and_one_that_is_killed_only_with_many_others() {
        let pid = Pid::from_raw(1);
        let (failed, killed) = (WaitStatus::Exited(pid, 75), WaitStatus::Signaled(pid, Signal::SIGKILL, false));
        let (soon, late) = (Duration::ZERO, AT_START);
        let mut starts = Starts::default();
        assert!(starts.ended(failed, soon));
        assert!(!starts.ended(failed, late));
        assert!(!starts.ended(WaitStatus::Exited(pid, 0), soon));
        for round in 0..2 {
            assert!((1..MOST_KILLED).all(|_| !starts.ended(killed, soon)), "{round}");
            assert!(starts.ended(killed, soon), "{round}");
        }
        assert!((1..MOST_KILLED).all(|_| !starts.ended(killed, soon)));
        assert!(!starts.ended(killed, late), "that one had begun");
        assert!(!starts.ended(killed, soon));
    }
}
