//! When: how long a failed try makes a message wait, and what wakes `deliver`.

use crate::config::Config;
use crate::exit::Error;
use crate::queue::{Id, Queue};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::{BTreeSet, HashMap};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// So much in the FIFO is taken for a FIFO that was full: it holds 64 KiB where nobody changed that.
const FULL: usize = 60_000;

/// Most next tries remembered; those beyond are found by the next look at the whole queue.
const REMEMBERED: usize = 10_000;

/// How long a message is in the queue; nothing if the clock was set back.
pub fn age(created: SystemTime, now: SystemTime) -> Duration {
    now.duration_since(created).unwrap_or_default()
}

/// Whether a message may have been here before this machine was started: a power cut may have taken away what was noted of
/// its last try. In its first minute the clock may have been wrong a little, or not have been set at all.
pub fn may_be_older_than_boot(created: SystemTime, now: SystemTime) -> bool {
    let up = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::MAX, Duration::from);
    let boot = now.checked_sub(up).and_then(|boot| boot.checked_add(Duration::from_secs(60)));
    created > now || boot.is_none_or(|boot| created < boot)
}

/// When a message is tried again: after as long as it has waited already and up to a tenth more, within the two backoff
/// times. What is added comes from the id, so that messages which failed together do not come together again.
pub fn next_try(config: &Config, id: &Id, created: SystemTime, now: SystemTime) -> SystemTime {
    let least = config.minimal_backoff_time.0;
    let most = config.maximal_backoff_time.0.max(least);
    let share = crc32fast::hash(id.as_str().as_bytes()) % 1000;
    let wait = age(created, now).clamp(least, most);
    let jittered = wait.saturating_add(wait / 10_000 * share).min(most);
    now.checked_add(jittered).unwrap_or(now)
}

/// Whether what fails now is given up. A clock set forward by years makes every message old: so it must also have been
/// tried as often as a tenth of the tries that its lifetime has room for, ten times at the most.
pub fn is_expired(config: &Config, created: SystemTime, now: SystemTime, attempts: u32) -> bool {
    let (lifetime, longest) = (config.maximal_queue_lifetime.0, config.maximal_backoff_time.0);
    let room = lifetime.as_secs() / longest.max(config.minimal_backoff_time.0).as_secs().max(1);
    age(created, now) >= lifetime && u64::from(attempts) >= (room / 10).min(10)
}

/// The next tries that this process has set, so that it need not look at the queue to know when one comes, and of what. Each
/// message has one: who is tried before its time would else have a second one for ever.
#[derive(Debug, Default)]
pub struct Alarms {
    order: BTreeSet<(SystemTime, Id)>,
    times: HashMap<Id, SystemTime>,
}

impl Alarms {
    /// Remembers one, in place of another of this message.
    pub fn set(&mut self, time: SystemTime, id: Id) {
        if let Some(before) = self.times.insert(id, time) {
            self.order.remove(&(before, id));
        }
        self.order.insert((time, id));
        if self.order.len() > REMEMBERED
            && let Some((_, last)) = self.order.pop_last()
        {
            self.times.remove(&last);
        }
    }

    /// Takes what has come.
    pub fn take(&mut self, now: SystemTime) -> Vec<(SystemTime, Id)> {
        let mut come = Vec::new();
        while self.order.first().is_some_and(|(time, _)| *time <= now) {
            come.extend(self.order.pop_first());
        }
        for (_, id) in &come {
            self.times.remove(id);
        }
        come
    }

    /// How long until the next, at most `limit`.
    pub fn until_next(&self, now: SystemTime, limit: Duration) -> Duration {
        let next = self.order.first().map(|(time, _)| time.duration_since(now).unwrap_or_default());
        next.map_or(limit, |next| next.min(limit))
    }
}

/// What woke us.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Woken {
    /// These came to the queue.
    pub ids: Vec<Id>,
    /// Look at all of it.
    pub all: bool,
    /// Look into the drop folder.
    pub drop: bool,
}

/// Of mail that comes so soon behind other mail is heard when that time is over: in a flood one wake is for several messages,
/// and those who bring them do not share their processors with us at each.
const GATHERED: Duration = Duration::from_millis(5);

/// The FIFO by which `submit` wakes us, and the signals.
#[derive(Debug)]
pub struct Waker {
    fifo: Option<File>,
    /// That of the drop folder.
    drop: Option<File>,
    stop: UnixStream,
    hup: UnixStream,
    /// The same without memory of the kernel's, which an octet in a socket needs: the signal interrupts the wait.
    stop_flag: Arc<AtomicBool>,
    hup_flag: Arc<AtomicBool>,
    /// Whether a signal to end, and whether anything else may have come: one poll says so, and four reads are dearer.
    has_come: (bool, bool),
    /// When the FIFO was read last and had something to say.
    heard: Option<Instant>,
}

impl Waker {
    /// Opens the FIFO and catches signals. While the FIFO is open, `submit` relies on us.
    pub fn open(queue: &Queue, drop: Option<PathBuf>) -> Result<Waker, Error> {
        let trouble = |error: std::io::Error| Error::Temporary(format!("waiting for signals: {error}"));
        let (stop, stopped) = UnixStream::pair().map_err(trouble)?;
        let (hup, hung_up) = UnixStream::pair().map_err(trouble)?;
        let (stop_flag, hup_flag) = <(Arc<AtomicBool>, Arc<AtomicBool>)>::default();
        for (signal, end, flag) in
            [(SIGTERM, &stopped, &stop_flag), (SIGINT, &stopped, &stop_flag), (SIGHUP, &hung_up, &hup_flag)]
        {
            let end = end.try_clone().map_err(trouble)?;
            signal_hook::flag::register(signal, Arc::clone(flag)).map_err(trouble)?;
            signal_hook::low_level::pipe::register(signal, end).map_err(trouble)?;
        }
        for end in [&stop, &hup] {
            end.set_nonblocking(true).map_err(trouble)?;
        }
        let drop = drop.and_then(|path| open_fifo(&path));
        let fifo = open_fifo(&queue.path.join("trigger"));
        Ok(Waker { fifo, drop, stop, hup, stop_flag, hup_flag, has_come: (true, true), heard: None })
    }

    /// Whether a signal came since the last call that asks us to end.
    pub fn is_told_to_stop(&mut self) -> bool {
        let is_flagged = self.stop_flag.swap(false, Ordering::Relaxed);
        let has_come = std::mem::take(&mut self.has_come.0) || is_flagged;
        has_come && (matches!(self.stop.read(&mut [0; 16]), Ok(1..)) || is_flagged)
    }

    /// Takes the wakes so far. To be called before looking at the queue: what comes later wakes again.
    pub fn take(&mut self) -> Woken {
        if !std::mem::take(&mut self.has_come.1) {
            return Woken::default();
        }
        let mut octets = vec![0; 4096];
        let is_hung_up = matches!(self.hup.read(&mut octets), Ok(1..));
        let mut woken = Woken { all: self.hup_flag.swap(false, Ordering::Relaxed) || is_hung_up, ..Woken::default() };
        let mut text = Vec::new();
        if let Some(fifo) = &mut self.fifo {
            // A FIFO holds no more than 1 MiB; whoever writes faster than we read must not hold us here.
            for _ in 0..256 {
                match fifo.read(&mut octets) {
                    Ok(count @ 1..) => text.extend_from_slice(octets.get(..count).unwrap_or_default()),
                    _ => break,
                }
            }
        }
        if let Some(drop) = &mut self.drop {
            // Anybody may write there, so what it says is not read, and not for ever.
            for _ in 0..256 {
                match drop.read(&mut octets) {
                    Ok(1..) => woken.drop = true,
                    _ => break,
                }
            }
        }
        if !text.is_empty() {
            self.heard = Some(Instant::now());
        }
        for line in text.split(|octet| *octet == b'\n').filter(|line| !line.is_empty()) {
            match std::str::from_utf8(line).ok().and_then(|line| line.parse().ok()) {
                Some(id) => woken.ids.push(id),
                None => woken.all = true,
            }
        }
        // It may have been full, and others found no room to tell.
        woken.all |= text.len() >= FULL;
        woken
    }

    /// Waits until woken, told to stop, one of the others has something, or the time is over. Gives which of the others.
    pub fn wait<'a>(&mut self, others: impl Iterator<Item = BorrowedFd<'a>>, limit: Duration) -> Vec<usize> {
        let held = self.heard.and_then(|heard| GATHERED.checked_sub(heard.elapsed())).filter(|left| !left.is_zero());
        let fifos = [&self.fifo, &self.drop].map(|fifo| fifo.as_ref().map(AsFd::as_fd).filter(|_| held.is_none()));
        let limit = held.map_or(limit, |held| held.min(limit));
        let own = [Some(self.stop.as_fd()), Some(self.hup.as_fd()), fifos[0], fifos[1]];
        let mut ends: Vec<PollFd> = own.into_iter().flatten().map(|end| PollFd::new(end, PollFlags::POLLIN)).collect();
        let first = ends.len();
        ends.extend(others.map(|end| PollFd::new(end, PollFlags::POLLIN)));
        // A next try that comes within this millisecond has come.
        let limit = limit.saturating_add(Duration::from_millis(1));
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::from(u16::MAX));
        // An interrupted wait is a short one.
        if poll(&mut ends, limit).is_err() {
            self.has_come = (true, true);
            return Vec::new();
        }
        let mut ready = ends.iter().map(|end| end.any().unwrap_or(true));
        let is_told = ready.next().unwrap_or(true);
        let has_come = (is_told, ready.by_ref().take(first - 1).filter(|ready| *ready).count() > 0);
        let others = ready.enumerate().filter(|(_, ready)| *ready).map(|(number, _)| number).collect();
        self.has_come = (self.has_come.0 || has_come.0, self.has_come.1 || has_come.1);
        others
    }

    /// For a child: closes everything.
    pub fn forget(&mut self) {
        (self.fifo, self.drop) = (None, None);
        let nothing = UnixStream::pair().and_then(|(one, _)| Ok((one.try_clone()?, one)));
        if let Ok((stop, hup)) = nothing {
            (self.stop, self.hup) = (stop, hup);
        }
        (self.stop_flag, self.hup_flag) = Default::default();
    }

    /// Closes the FIFO: from now on `submit` relies on somebody else.
    pub fn leave(&mut self) {
        (self.fifo, self.drop) = (None, None);
    }
}

/// Opened for writing too, so that the last `submit` to close it is no end of file.
fn open_fifo(path: &Path) -> Option<File> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOFOLLOW;
    let fifo = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path);
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
    fn what_was_here_before_the_start_of_the_machine_is_told_from_what_came_since() {
        let now = SystemTime::now();
        let up = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap());
        assert!(may_be_older_than_boot(now - up - Duration::from_secs(1), now));
        // Unless it was started just now, and that is still to come.
        let since = now - up + Duration::from_secs(120);
        assert!(since > now || !may_be_older_than_boot(since, now));
        // No clock was set yet when the machine started.
        assert!(may_be_older_than_boot(at(5), at(3)));
    }

    #[test]
    fn a_message_waits_as_long_as_it_has_waited_and_little_more_within_the_two_limits() {
        let config = Config::with(&[("minimal_backoff_time", "10s"), ("maximal_backoff_time", "100s")]);
        for (now, least, most) in [(0, 10, 11), (10, 20, 21), (50, 100, 105), (100, 200, 200), (1000, 1100, 1100)] {
            let tries = (0..100).map(|n| next_try(&config, &Id::new(at(n)), at(0), at(now)));
            let (first, last) = (tries.clone().min().unwrap(), tries.max().unwrap());
            assert!(at(least) <= first && last <= at(most), "{now}: {first:?} {last:?}");
            assert!(first < last || least == most, "{now}: all at once");
        }
        let id = Id::new(at(0));
        assert_eq!(next_try(&config, &id, at(0), at(7)), next_try(&config, &id, at(0), at(7)));
        // The clock was set back.
        assert!(next_try(&config, &id, at(500), at(0)) <= at(11));
        let odd = Config::with(&[("minimal_backoff_time", "10s"), ("maximal_backoff_time", "5s")]);
        assert_eq!(next_try(&odd, &id, at(0), at(1000)), at(1010));
    }

    #[test]
    fn a_message_expires_with_its_lifetime_and_never_early_by_a_clock_set_back() {
        let config = Config::with(&[("maximal_queue_lifetime", "100s")]);
        assert!(!is_expired(&config, at(0), at(99), 1));
        assert!(is_expired(&config, at(0), at(100), 1));
        assert!(!is_expired(&config, at(1000), at(0), 1));
        assert!(is_expired(&Config::with(&[("maximal_queue_lifetime", "0")]), at(0), at(0), 1));
    }

    #[test]
    fn a_clock_set_forward_by_years_returns_nothing_that_was_not_tried_often() {
        let config = Config::with(&[]);
        let later = at(10 * 365 * 86_400);
        assert!(!is_expired(&config, at(0), later, 1) && !is_expired(&config, at(0), later, 9));
        assert!(is_expired(&config, at(0), later, 10));
    }

    #[test]
    fn alarms_come_in_the_order_of_their_times() {
        let mut alarms = Alarms::default();
        let limit = Duration::from_secs(60);
        assert_eq!(alarms.until_next(at(0), limit), limit);
        let ids: Vec<Id> = (0..4).map(|n| Id::new(at(n))).collect();
        for (time, id) in [30, 10, 20, 1000].into_iter().zip(&ids) {
            alarms.set(at(time), *id);
        }
        assert_eq!(alarms.until_next(at(0), limit), Duration::from_secs(10));
        assert_eq!(alarms.take(at(20)), [(at(10), ids[1]), (at(20), ids[2])]);
        assert_eq!(alarms.until_next(at(20), limit), Duration::from_secs(10));
        // A clock that was set back by years: the next look at the queue comes all the same.
        assert_eq!(alarms.until_next(at(0), limit), Duration::from_secs(30));
        (0..REMEMBERED as u64 + 5).for_each(|n| alarms.set(at(2000 + n), Id::new(at(n))));
        assert!(alarms.order.len() <= REMEMBERED && alarms.times.len() <= REMEMBERED);
        alarms.set(at(5), ids[0]);
        alarms.set(at(7), ids[0]);
        assert_eq!(alarms.take(at(8)), [(at(7), ids[0])], "one for each message");
    }

    #[test]
    fn what_comes_closely_behind_a_message_is_heard_with_what_comes_behind_that() {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::open(folder.path()).unwrap();
        let mut waker = Waker::open(&queue, None).unwrap();
        let mut fifo = OpenOptions::new().write(true).open(folder.path().join("trigger")).unwrap();
        let mut heard = Vec::new();
        let ids = [0, 1, 2].map(|seconds| Id::new(at(seconds)));
        for (number, id) in ids.iter().enumerate() {
            std::io::Write::write_all(&mut fifo, format!("{id}\n").as_bytes()).unwrap();
            if number == 1 {
                // However long that takes, it is not heard by a wait that began too soon.
                waker.heard = Some(Instant::now() + Duration::from_secs(60));
                waker.wait(std::iter::empty(), Duration::ZERO);
                assert!(waker.take().ids.is_empty());
                waker.heard = Some(Instant::now());
                continue;
            }
            while heard.last() != Some(id) {
                waker.wait(std::iter::empty(), Duration::from_secs(1));
                heard.extend(waker.take().ids);
            }
        }
        assert_eq!(heard, ids);
    }
}
