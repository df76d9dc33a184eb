//! A file that says what smtpd does, for whoever does not want to look for it in the log: the records of SIGUSR1.

use super::pid_file::is_at;
use crate::exit::Error;
use crate::flocked::Flocked;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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
        let file = options.clone().create(true).truncate(false).open(&path).map_err(|error| wrong(&error))?;
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err(wrong(&"expected a file"));
        }
        // Of an smtpd whose place we take, and that lives on for its last sessions, the file is not ours. Under a lock, or
        // that one could find it to be its own just before, and remove ours.
        let _held = file.try_clone().map(Flocked::take);
        let anew = std::fs::remove_file(&path).and_then(|()| options.create_new(true).open(&path));
        Ok(StatusFile { file: anew.unwrap_or(file), path })
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
