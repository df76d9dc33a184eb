//! A file that says what smtpd does, for whoever does not want to look for it in the log: the records of SIGUSR1.

use super::pid_file::{is_at, no_place};
use crate::exit::Error;
use crate::flocked::Flocked;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the lock of the file may be somebody else's.
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(5);

/// The file, made anew while we may still write where it is, and removed at the end.
#[derive(Debug)]
pub struct StatusFile {
    file: File,
    path: PathBuf,
}

impl StatusFile {
    /// Makes it, and never through a symbolic link that somebody put there: we may be root.
    pub fn create(path: &Path) -> Result<StatusFile, Error> {
        let wrong =
            |error: &dyn std::fmt::Display| Error::Temporary(format!("status file {}: {error}", path.display()));
        // In another folder after --detach it would be another file.
        let path = std::path::absolute(path).map_err(|error| wrong(&error))?;
        let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
        let mut options = File::options();
        options.write(true).mode(0o644).custom_flags(flags);
        let begun = Instant::now();
        loop {
            let open = options.clone().create(true).truncate(false).open(&path);
            let file = open.and_then(|file| match file.metadata()?.is_file() {
                true => Ok(file),
                false => Err(ErrorKind::InvalidInput.into()),
            });
            let file = file.map_err(|error| match no_place(&error) {
                Some(expected) => Error::Usage(format!("status file {}: {expected}", path.display())),
                None => wrong(&error),
            })?;
            // Of an smtpd whose place we take, and that lives on for its last sessions, the file is not ours. Under a lock,
            // or that one could find it to be its own just before, and remove ours.
            let held = Flocked::take(file.try_clone().map_err(|error| wrong(&error))?);
            // It is held for a moment only; but whoever may read the file can hold it for ever.
            if held.is_err() && begun.elapsed() < PATIENCE {
                std::thread::sleep(PAUSE);
                continue;
            }
            // Between our open and our lock it may have been removed.
            if !is_at(&path, &file) {
                continue;
            }
            match std::fs::remove_file(&path).and_then(|()| options.create_new(true).open(&path)) {
                Ok(file) => return Ok(StatusFile { file, path }),
                // Another smtpd starts, too.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => options.create_new(false),
                // Where we may write to the file and not to its folder.
                Err(_) => return Ok(StatusFile { file, path }),
            };
        }
    }

    /// For the loop to write into.
    pub fn descriptor(&self) -> Option<File> {
        self.file.try_clone().ok()
    }
}

impl Drop for StatusFile {
    /// Removes it; where we may not any more, empties it. What another smtpd has put in its place, or puts there now,
    /// stays.
    fn drop(&mut self) {
        let Ok(Ok(_held)) = self.file.try_clone().map(Flocked::take) else { return };
        if is_at(&self.path, &self.file) && std::fs::remove_file(&self.path).is_err() {
            let _ = self.file.set_len(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_that_start_and_end_together_the_last_file_is_there_until_its_own_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status");
        let last = std::thread::scope(|scope| {
            let others: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..200 {
                            drop(StatusFile::create(&path).unwrap());
                        }
                    })
                })
                .collect();
            for other in others {
                other.join().unwrap();
            }
            StatusFile::create(&path).unwrap()
        });
        assert!(is_at(&path, &last.file));
        drop(last);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_whose_lock_is_held_by_whoever_may_read_it_is_made_anew_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("status");
        std::fs::write(&path, "of another\n").unwrap();
        let _held = Flocked::take(File::open(&path).unwrap()).unwrap();
        let ours = StatusFile::create(&path).unwrap();
        assert!(is_at(&path, &ours.file) && std::fs::read(&path).unwrap().is_empty());
    }
}
