//! When: how long a failed try makes a message wait, and what wakes `deliver`.

use crate::config::Config;
use crate::exit::Error;
use crate::queue::Queue;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime};

/// Most next tries remembered; those beyond are found by the next look at the whole queue.
const REMEMBERED: usize = 1000;

/// How long a message is in the queue; nothing if the clock was set back.
pub fn age(created: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(created).unwrap_or_default()
}

/// When a message is tried again: after as long as it has waited already, within the two backoff times.
pub fn next_try(config: &Config, created: SystemTime, now: SystemTime) -> SystemTime {
    let least = config.minimal_backoff_time.0;
    let wait = age(created, now).clamp(least, config.maximal_backoff_time.0.max(least));
    now.checked_add(wait).unwrap_or(now)
}

/// Whether what fails now is given up.
pub fn is_expired(config: &Config, created: SystemTime, now: SystemTime) -> bool {
    age(created, now) >= config.maximal_queue_lifetime.0
}

/// The next tries that this process has set, so that it need not look at the queue to know when one comes.
#[derive(Debug, Default)]
pub struct Alarms(BTreeSet<SystemTime>);

impl Alarms {
    /// Remembers one.
    pub fn set(&mut self, time: SystemTime) {
        self.0.insert(time);
        if self.0.len() > REMEMBERED {
            self.0.pop_last();
        }
    }

    /// Forgets what is past, and gives how long until the next, at most `limit`.
    pub fn until_next(&mut self, now: SystemTime, limit: Duration) -> Duration {
        while self.0.first().is_some_and(|time| *time <= now) {
            self.0.pop_first();
        }
        let next = self.0.first().and_then(|time| time.duration_since(now).ok());
        next.map_or(limit, |next| next.min(limit))
    }
}

/// The FIFO by which `submit` wakes us, and the signals.
#[derive(Debug)]
pub struct Waker {
    fifo: Option<File>,
    stop: UnixStream,
    hup: UnixStream,
}

impl Waker {
    /// Opens the FIFO and catches signals. While the FIFO is open, `submit` relies on us.
    pub fn open(queue: &Queue) -> Result<Waker, Error> {
        let trouble = |error: std::io::Error| Error::Temporary(format!("waiting for signals: {error}"));
        let (stop, stopped) = UnixStream::pair().map_err(trouble)?;
        let (hup, hung_up) = UnixStream::pair().map_err(trouble)?;
        for (signal, end) in [(SIGTERM, &stopped), (SIGINT, &stopped), (SIGHUP, &hung_up)] {
            let end = end.try_clone().map_err(trouble)?;
            signal_hook::low_level::pipe::register(signal, end).map_err(trouble)?;
        }
        for end in [&stop, &hup] {
            end.set_nonblocking(true).map_err(trouble)?;
        }
        Ok(Waker { fifo: open_fifo(queue), stop, hup })
    }

    /// Whether a signal came since the last call that asks us to end.
    pub fn is_told_to_stop(&mut self) -> bool {
        matches!(self.stop.read(&mut [0; 16]), Ok(1..))
    }

    /// Takes the wakes so far. To be called before looking at the queue: what comes later wakes again.
    pub fn forget(&mut self) {
        let mut octets = [0; 4096];
        let _ = self.hup.read(&mut octets);
        if let Some(fifo) = &mut self.fifo {
            // A FIFO holds no more than 1 MiB; whoever writes faster than we read must not hold us here.
            for _ in 0..256 {
                if !matches!(fifo.read(&mut octets), Ok(1..)) {
                    break;
                }
            }
        }
    }

    /// Waits until woken, told to stop, or the time is over.
    pub fn wait(&self, limit: Duration) {
        let ends = [Some(self.stop.as_fd()), Some(self.hup.as_fd()), self.fifo.as_ref().map(AsFd::as_fd)];
        let mut ends: Vec<PollFd> = ends.into_iter().flatten().map(|end| PollFd::new(end, PollFlags::POLLIN)).collect();
        // A next try that comes within this millisecond has come.
        let limit = limit.saturating_add(Duration::from_millis(1));
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::from(u16::MAX));
        // An interrupted wait is a short one.
        let _ = poll(&mut ends, limit);
    }

    /// Closes the FIFO: from now on `submit` relies on somebody else.
    pub fn leave(&mut self) {
        self.fifo = None;
    }
}

/// Opened for writing too, so that the last `submit` to close it is no end of file.
fn open_fifo(queue: &Queue) -> Option<File> {
    let path = queue.path.join("trigger");
    let flags = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOFOLLOW;
    let fifo = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(&path);
    match fifo.and_then(|fifo| Ok((fifo.metadata()?.file_type().is_fifo(), fifo))) {
        Ok((true, fifo)) => return Some(fifo),
        Ok((false, _)) => log::warn!("{}: expected a FIFO; nothing wakes this deliver", path.display()),
        Err(error) => log::warn!("{}: {error}; nothing wakes this deliver", path.display()),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        START + Duration::from_secs(seconds)
    }

    #[test]
    fn a_message_waits_as_long_as_it_has_waited_within_the_two_limits() {
        let config = Config::with(&[("minimal_backoff_time", "10s"), ("maximal_backoff_time", "100s")]);
        for (now, next) in [(0, 10), (10, 20), (50, 100), (100, 200), (1000, 1100)] {
            assert_eq!(next_try(&config, at(0), at(now)), at(next), "{now}");
        }
        // The clock was set back.
        assert_eq!(next_try(&config, at(500), at(0)), at(10));
        let odd = Config::with(&[("minimal_backoff_time", "10s"), ("maximal_backoff_time", "5s")]);
        assert_eq!(next_try(&odd, at(0), at(1000)), at(1010));
    }

    #[test]
    fn a_message_expires_with_its_lifetime_and_never_early_by_a_clock_set_back() {
        let config = Config::with(&[("maximal_queue_lifetime", "100s")]);
        assert!(!is_expired(&config, at(0), at(99)));
        assert!(is_expired(&config, at(0), at(100)));
        assert!(!is_expired(&config, at(1000), at(0)));
        assert!(is_expired(&Config::with(&[("maximal_queue_lifetime", "0")]), at(0), at(0)));
    }

    #[test]
    fn the_next_alarm_is_the_earliest_that_is_not_past() {
        let mut alarms = Alarms::default();
        let limit = Duration::from_secs(60);
        assert_eq!(alarms.until_next(at(0), limit), limit);
        for time in [30, 10, 20, 1000] {
            alarms.set(at(time));
        }
        assert_eq!(alarms.until_next(at(0), limit), Duration::from_secs(10));
        assert_eq!(alarms.until_next(at(10), limit), Duration::from_secs(10));
        assert_eq!(alarms.until_next(at(30), limit), limit);
        (0..2000).for_each(|n| alarms.set(at(2000 + n)));
        assert!(alarms.0.len() <= REMEMBERED);
    }
}
