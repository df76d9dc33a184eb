//! Files that are read often and change seldom: what was made of one is kept for as long as the file is the same one.

use crate::clock;
use std::cell::Cell;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// What tells one state of a file from the next: device, inode, length and the times of content and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp([i64; 7]);

/// Of larger files nothing is kept: not every process is to hold them.
pub const LARGEST: u64 = 256 * 1024;

/// Most files of which something is kept.
const MOST: usize = 8;

/// A file that was changed so many seconds ago or less may change once more within one tick of its clock, unseen.
const UNSETTLED: i64 = 2;

impl Stamp {
    /// That of the file a name leads to, if there is one.
    pub fn of(path: &Path) -> Option<Stamp> {
        std::fs::metadata(path).ok().map(|file| Stamp::from(&file))
    }

    /// Whether whatever changes the file from now on changes this too.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        self.age(now) > UNSETTLED
    }

    /// Whether somebody may be writing the file at this moment. What comes from the future does not: its clock is wrong, and
    /// nobody waits for that.
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        (-UNSETTLED..=UNSETTLED).contains(&self.age(now))
    }

    /// Whether there is nothing in the file.
    pub fn is_empty(&self) -> bool {
        self.0[2] == 0
    }

    /// Seconds since the last change.
    fn age(&self, now: SystemTime) -> i64 {
        let Stamp([_, _, _, content, _, inode, _]) = self;
        clock::seconds(now).saturating_sub(*content.max(inode))
    }

    /// The same, and it is small.
    fn may_be_kept(&self, now: SystemTime) -> bool {
        u64::try_from(self.0[2]).is_ok_and(|length| length <= LARGEST) && self.is_settled(now)
    }
}

impl From<&Metadata> for Stamp {
    fn from(file: &Metadata) -> Stamp {
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let (device, inode, length) = (number(file.dev()), number(file.ino()), number(file.size()));
        Stamp([device, inode, length, file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()])
    }
}

/// So long nobody has written to a file that is whole: an editor that empties it first writes it at once.
const QUIET: Duration = Duration::from_secs(1);

/// So long this process waits, in each minute, for files that somebody goes on writing: for all together, or whoever has many
/// would hold up the mail of others.
const PATIENCE: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);

thread_local! {
    /// When the minute began, and how long was waited in it.
    static WAITED: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

/// Waits, if it may; gives whether.
fn wait_for(pause: Duration) -> bool {
    let before = WAITED.get().filter(|(begun, _)| begun.elapsed() < MINUTE);
    let (begun, so_far) = before.unwrap_or((Instant::now(), Duration::ZERO));
    let may = so_far < PATIENCE;
    if may {
        WAITED.set(Some((begun, so_far.saturating_add(pause))));
        std::thread::sleep(pause);
    }
    may
}

/// What `read` makes of the file that `open` finds, if there is one, once nobody is writing it. One that was made elsewhere and
/// moved here with an older time is whole at once. An error where somebody goes on writing.
pub fn once_quiet<T>(
    mut open: impl FnMut() -> io::Result<Option<File>>,
    mut read: impl FnMut(&File) -> io::Result<T>,
) -> io::Result<Option<T>> {
    loop {
        let Some(file) = open()? else { return Ok(None) };
        let before = file.metadata()?;
        let pause = until_quiet(before.modified()?, SystemTime::now());
        if pause.is_zero() {
            let made = read(&file)?;
            if Stamp::from(&file.metadata()?) == Stamp::from(&before) {
                return Ok(Some(made));
            }
        }
        if !wait_for(pause.max(A_MOMENT)) {
            return Err(io::Error::other("somebody goes on writing it"));
        }
    }
}

/// How long what was written then is to be left alone yet. What comes from the future is not: its clock is wrong.
fn until_quiet(written: SystemTime, now: SystemTime) -> Duration {
    match now.duration_since(written) {
        Ok(age) => QUIET.saturating_sub(age),
        Err(error) if error.duration() < QUIET => QUIET,
        Err(_) => Duration::ZERO,
    }
}

/// An error where a file was emptied just now: whoever did that may be about to write it anew, and that it says nothing of
/// somebody is no answer.
pub fn unless_just_emptied(path: &Path) -> io::Result<()> {
    unless_emptied_before(path, SystemTime::now())
}

fn unless_emptied_before(path: &Path, now: SystemTime) -> io::Result<()> {
    match Stamp::of(path) {
        Some(stamp) if stamp.is_empty() && stamp.is_fresh(now) => {
            Err(io::Error::other("somebody has emptied it just now"))
        }
        _ => Ok(()),
    }
}

/// Whether this process has not told yet what is wrong with a file as it is now. Each connection may be a process, and
/// strangers make as many as they like: one record each is enough.
pub fn is_news(path: &Path, stamp: Option<Stamp>) -> bool {
    static TOLD: Mutex<Vec<(PathBuf, Option<Stamp>)>> = Mutex::new(Vec::new());
    let Ok(mut told) = TOLD.lock() else { return true };
    if told.iter().any(|(of, then)| of == path && *then == stamp) {
        return false;
    }
    told.retain(|(of, _)| of != path);
    told.push((path.to_owned(), stamp));
    true
}

/// Longer than it takes to rename a file and make another.
pub const A_MOMENT: Duration = Duration::from_millis(20);

/// Whether a file that is not there may be again in [`A_MOMENT`]: its folder has changed just now, and an editor that moves
/// the old one away writes the new one next. What a symbolic link leads to is meant to be there.
pub fn may_come_back(path: &Path) -> bool {
    let is_link = path.symlink_metadata().is_ok();
    is_link || path.parent().and_then(Stamp::of).is_some_and(|folder| folder.is_fresh(SystemTime::now()))
}

/// What was made of some files.
#[derive(Debug)]
pub struct Kept<T>(Mutex<Vec<(PathBuf, Stamp, Arc<T>)>>);

impl<T> Kept<T> {
    /// Nothing yet.
    pub const fn new() -> Kept<T> {
        Kept(Mutex::new(Vec::new()))
    }

    /// What was made of this file, unless it may be another file since; then what `make` makes of it. An error is never
    /// kept.
    pub fn get<E>(&self, path: &Path, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        // Before it is read, so that a change in between is seen the next time.
        let stamp = Stamp::of(path);
        if let Some(stamp) = stamp
            && let Ok(kept) = self.0.lock()
            && let Some((.., made)) = kept.iter().find(|(of, then, _)| of == path && *then == stamp)
        {
            return Ok(made.clone());
        }
        let made = Arc::new(make()?);
        if let Some(stamp) = stamp.filter(|stamp| stamp.may_be_kept(SystemTime::now()))
            && let Ok(mut kept) = self.0.lock()
        {
            kept.retain(|(of, ..)| of != path);
            kept.truncate(MOST - 1);
            kept.insert(0, (path.to_owned(), stamp, made.clone()));
        }
        Ok(made)
    }

    /// Lets go of what was made of a file.
    pub fn forget(&self, path: &Path) {
        if let Ok(mut kept) = self.0.lock() {
            kept.retain(|(of, ..)| of != path);
        }
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Kept::new()
    }
}

/// For tests: writes a file that nobody has touched for a minute.
#[cfg(test)]
pub fn write_long_ago(path: &Path, text: impl AsRef<[u8]>) {
    std::fs::write(path, text).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    fn read(kept: &Kept<String>, path: &Path) -> (String, bool) {
        let mut was_read = false;
        let text = kept.get(path, || {
            was_read = true;
            fs::read_to_string(path)
        });
        (text.unwrap().to_string(), was_read)
    }

    #[test]
    fn a_file_is_read_again_when_it_is_another_or_was_changed_and_else_not() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        let kept = Kept::new();
        fs::write(&path, "one").unwrap();
        assert_eq!((read(&kept, &path), read(&kept, &path)), (("one".to_owned(), true), ("one".to_owned(), true)));
        // The time of the inode cannot be set: this one begins to count in three seconds.
        std::thread::sleep(Duration::from_millis(3100));
        assert_eq!((read(&kept, &path).1, read(&kept, &path)), (true, ("one".to_owned(), false)));
        fs::write(&path, "two").unwrap();
        assert_eq!(read(&kept, &path), ("two".to_owned(), true));
        fs::write(&other, "two").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(read(&kept, &path).1);
        fs::remove_file(&path).unwrap();
        assert!(kept.get(&path, || fs::read_to_string(&path)).is_err());
    }

    #[test]
    fn a_file_that_was_emptied_just_now_is_no_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        assert!(unless_just_emptied(&path).is_ok(), "whoever opens it learns that there is none");
        fs::write(&path, "").unwrap();
        let stamp = Stamp::of(&path).unwrap();
        // By the clock of the file system: the machine may stand still behind it.
        let emptied = path.metadata().unwrap().modified().unwrap();
        let (soon, later) = (emptied + Duration::from_secs(1), emptied + Duration::from_secs(10));
        assert!(unless_emptied_before(&path, soon).is_err() && unless_emptied_before(&path, later).is_ok());
        assert!(stamp.is_fresh(soon) && !stamp.is_fresh(later));
        assert!(!stamp.is_fresh(emptied - Duration::from_secs(10)));
        fs::write(&path, "#").unwrap();
        assert!(unless_just_emptied(&path).is_ok());
    }

    #[test]
    fn what_is_being_written_is_read_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let open = || Ok(File::open(&path).ok());
        let all = |file: &File| io::read_to_string(file);
        assert_eq!(once_quiet(open, all).unwrap(), None);
        write_long_ago(&path, "one");
        assert_eq!(once_quiet(open, all).unwrap().as_deref(), Some("one"));
        // Somebody begins while it is read, and has emptied it only.
        let mut times = 0;
        let read = |file: &File| {
            times += 1;
            if times == 1 {
                fs::write(&path, "")?;
            }
            all(file)
        };
        let mut looks = 0;
        let open = || {
            looks += 1;
            if looks == 3 {
                write_long_ago(&path, "two");
            }
            File::open(&path).map(Some)
        };
        assert_eq!(once_quiet(open, read).unwrap().as_deref(), Some("two"));
        let at = |milliseconds| SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
        let waits = |written, now| until_quiet(at(written), at(now)).as_millis();
        assert_eq!((waits(5000, 5000), waits(5000, 5600), waits(5000, 6000)), (1000, 400, 0));
        assert_eq!((waits(5500, 5000), waits(9000, 5000)), (1000, 0));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_once_until_it_is_another() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&path, "x").unwrap();
        let news = |path: &Path| is_news(path, Stamp::of(path));
        assert_eq!([news(&path), news(&other), news(&path), news(&other)], [true, true, false, false]);
        std::fs::write(&path, "xx").unwrap();
        assert_eq!([news(&path), news(&path)], [true, false]);
    }

    #[test]
    fn what_a_link_leads_to_may_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("other"));
        fs::create_dir(&other).unwrap();
        let link = other.join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(may_come_back(&link) && may_come_back(&other.join("b")));
        // The time of the folder cannot be set.
        std::thread::sleep(Duration::from_millis(3100));
        assert!(may_come_back(&link) && !may_come_back(&other.join("b")));
    }

    #[test]
    fn what_is_too_large_or_could_not_be_read_is_not_kept() {
        let long_ago = SystemTime::now() + Duration::from_secs(1000);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        assert!(Stamp::of(&path).is_none());
        File::create(&path).unwrap().set_len(LARGEST).unwrap();
        assert!(Stamp::of(&path).unwrap().may_be_kept(long_ago));
        assert!(!Stamp::of(&path).unwrap().may_be_kept(SystemTime::now()));
        File::create(&path).unwrap().set_len(LARGEST + 1).unwrap();
        assert!(!Stamp::of(&path).unwrap().may_be_kept(long_ago));
    }
}
