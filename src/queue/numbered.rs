//! Ids that can be foreseen, for a clock that stands (`--fixed`): of a new queue the first, the second, ...
//!
//! A queue must not give one twice, neither while the message is there nor later: the file of a message in a Maildir is named
//! after it, and one of that name counts as an earlier try that came to its end. So the queue counts them, on disk, where a
//! message that is gone has been counted too.

use super::{Draft, Error, Id, Queue, folder};
use crate::flocked::Flocked;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::time::SystemTime;

/// The file whose length is how many there were.
const COUNTER: &str = "fixed";

impl Queue {
    /// Begins a message under the next id of this time.
    pub(super) fn begin_numbered(&self, now: SystemTime) -> Result<Draft, Error> {
        for _ in 0..100 {
            let number = self.next_number().map_err(|error| Error::from_io("queue_directory/fixed", &error))?;
            // One of chance may have it.
            if let Some(draft) = self.create(Id::numbered(now, number), now)? {
                return Ok(draft);
            }
        }
        Err(Error::Io("no free queue id".to_owned()))
    }

    /// Counted on disk before it is used, so that no crash gives it twice.
    fn next_number(&self) -> io::Result<u64> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = Flocked::wait(options.open(self.path.join(COUNTER))?)?;
        let number = file.metadata()?.len();
        file.set_len(number.saturating_add(1))?;
        file.sync_all()?;
        if number == 0 {
            folder(&self.path)?.sync_all()?;
        }
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    const NOW: SystemTime = UNIX_EPOCH;

    #[test]
    fn numbered_ids_are_those_of_a_new_queue_and_never_come_again() {
        let later = NOW + Duration::from_secs(1_800_000_000);
        let of_new_queue = || {
            let folder = tempfile::tempdir().unwrap();
            let queue = Queue::open(&folder.path().join("queue")).unwrap();
            // Dropped, it is gone; and another process has another `Queue`.
            let begin = |_| *Queue::at(&queue.path).begin_numbered(later).unwrap().id();
            (0..3).map(begin).collect::<Vec<Id>>()
        };
        let ids = of_new_queue();
        assert_eq!(ids, of_new_queue());
        assert_eq!(ids, [0, 1, 2].map(|number| Id::numbered(later, number)));
        assert!(ids.is_sorted() && ids.iter().all(|id| id.time() == later), "{ids:?}");
        assert!(ids[0] != ids[1] && ids[1] != ids[2]);
    }

    #[test]
    fn one_that_another_message_has_is_passed_by() {
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::open(&folder.path().join("queue")).unwrap();
        let _taken = queue.create(Id::numbered(NOW, 0), NOW).unwrap().unwrap();
        assert_eq!(*queue.begin_numbered(NOW).unwrap().id(), Id::numbered(NOW, 1));
    }

    #[test]
    fn a_million_are_still_different() {
        let id = |number| Id::numbered(NOW, number);
        assert!(id((1 << 20) - 1) < id(1 << 20) && id(1 << 20) < id((1 << 20) + 1));
    }
}
