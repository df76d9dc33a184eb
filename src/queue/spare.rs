//! Files for messages to come, prepared while nobody waits.
//!
//! A message is safe when its content and its name are: fsync of the file and of its folder, each of which may have the file
//! system write to its journal, too. The names of prepared files are on disk before there are messages for them, eight by one
//! fsync; and as they have octets already, which a message is only written over, the file system has nothing to note down.
//! So a message that gets one waits for one flush, of its content alone.
//!
//! Who prepares them is a process that takes one message after another, and only while they come fast and the disk takes
//! its time. What is not used is removed when no message comes for a while, and when that process ends; what one leaves that
//! was killed, an hour later, like every file without a message in it.

use super::{Draft, Id, Queue, folder};
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant, SystemTime};

/// How many are prepared at once.
const COUNT: usize = 8;

/// Octets of each: most messages have fewer. One that has more writes on behind them.
const OCTETS: usize = 8 * 1024;

/// Messages come fast if one follows the other so soon.
const SOON: Duration = Duration::from_millis(500);

/// The name of a message tells when it came, and messages are sorted by it; one that was made longer ago is not used.
const OLDEST: Duration = Duration::from_secs(4);

/// A disk that flushes in such a time is none, or one that does not forget: there is nothing to be gained.
const AT_ONCE: Duration = Duration::from_micros(30);

/// What a queue has at hand.
#[derive(Debug, Default)]
pub(super) struct Spares {
    /// The oldest first, so that names ascend.
    drafts: VecDeque<Draft>,
    /// When the last message came that was told of.
    last: Option<Instant>,
    gains_nothing: bool,
}

impl Queue {
    /// Prepares for the next messages, if there is reason to. To be called after each message by who will take more,
    /// when the client has its answer.
    pub fn prepare(&self) {
        let Ok(mut spares) = self.spares.lock() else { return };
        let now = Instant::now();
        let is_soon = spares.last.replace(now).is_some_and(|last| now.duration_since(last) < SOON);
        if !is_soon || spares.gains_nothing || !spares.drafts.is_empty() {
            return;
        }
        match self.make_spares() {
            Ok((drafts, flush)) => (spares.drafts, spares.gains_nothing) = (drafts, flush < AT_ONCE),
            Err(error) => {
                // A message that finds no room says so itself; what else there is may be said this once.
                match error.raw_os_error() {
                    Some(libc::ENOSPC | libc::EDQUOT | libc::EMFILE | libc::ENFILE | libc::EEXIST) => {}
                    _ => log::warn!("event=not-prepared reason={:?}", error.to_string()),
                }
                spares.last = None;
            }
        }
    }

    /// Removes what was prepared: no message has come for a while, and a disk of which no file is open can be made read-only.
    pub fn unprepare(&self) {
        if let Ok(mut spares) = self.spares.lock() {
            spares.drafts.clear();
        }
    }

    /// One that was prepared.
    pub(super) fn spare(&self, now: SystemTime) -> Option<Draft> {
        let mut spares = self.spares.lock().ok()?;
        while let Some(draft) = spares.drafts.pop_front() {
            if let Some(draft) = draft.of_now(now, OLDEST) {
                return Some(draft);
            }
        }
        None
    }

    /// All in one folder, so that one fsync is enough; gives also how long that took.
    fn make_spares(&self) -> io::Result<(VecDeque<Draft>, Duration)> {
        let first = Id::new(SystemTime::now());
        let path = self.path_of(&first);
        let folder = folder(path.parent().unwrap_or(&self.path))?;
        let mut drafts = VecDeque::with_capacity(COUNT);
        for number in 0..COUNT {
            let now = SystemTime::now();
            let id = if number == 0 { first } else { first.beside(now) };
            let mut draft = Draft::create(id, self.path_of(&id), folder.try_clone()?, now)?;
            draft.prepare(OCTETS)?;
            drafts.push_back(draft);
        }
        let begun = Instant::now();
        folder.sync_all()?;
        drafts.iter_mut().for_each(Draft::name_is_on_disk);
        Ok((drafts, begun.elapsed()))
    }
}

#[cfg(test)]
mod tests;
