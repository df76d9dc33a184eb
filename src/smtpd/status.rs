//! A file that says what smtpd does, for whoever does not want to look for it in the log: the records of SIGUSR1.

use crate::exit::Error;
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
        let file = File::options().write(true).create(true).mode(0o644).custom_flags(flags).open(&path);
        let file = file.map_err(|error| wrong(&error))?;
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            return Err(wrong(&"expected a file"));
        }
        Ok(StatusFile { file, path })
    }

    /// For the loop to write into.
    pub fn descriptor(&self) -> Option<File> {
        self.file.try_clone().ok()
    }

    /// Removes it; where we may not any more, empties it.
    pub fn remove(self) {
        if std::fs::remove_file(&self.path).is_err() {
            let _ = self.file.set_len(0);
        }
    }
}
