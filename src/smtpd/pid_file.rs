//! The process id of a server in a file, which also says that it runs: locked from the start to the stop.
//!
//! A server that stops gives the file up at once, when it listens no more, and not when its last session has ended, so
//! that the next one may have it. The name goes while the lock holds, so whoever finds a file there and has its lock has
//! it for himself. What a server left that was killed locks nobody out, whoever may have its number now.

use crate::again::again;
use crate::exit::Error;
use crate::flocked::whole_file;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::unistd::getpid;
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Who could bind the address of a server that stops comes upon its lock still, but not for long.
const PATIENCE: Duration = Duration::from_secs(1);
/// Nobody's number is in the file: whoever has the lock is just about to write his own or to let go.
const PATIENCE_IF_EMPTY: Duration = Duration::from_secs(5);
const MODE: u32 = 0o600;
const PAUSE: Duration = Duration::from_millis(5);

/// The file, given up when this is dropped.
#[derive(Debug)]
pub struct PidFile {
    file: File,
    path: PathBuf,
}

impl PidFile {
    /// Makes the file ours and writes our process id, or says who has it. The lock is that of this process alone: to be
    /// called in the one that stays.
    pub fn claim(path: &Path) -> Result<PidFile, Error> {
        let wrong = |error: &dyn std::fmt::Display| Error::Temporary(format!("pid file {}: {error}", path.display()));
        // In another folder after --detach it would be another file.
        let path = std::path::absolute(path).map_err(|error| wrong(&error))?;
        let begun = Instant::now();
        loop {
            let file = open(&path).map_err(|error| match no_place(&error) {
                Some(expected) => Error::Usage(format!("pid file {}: {expected}", path.display())),
                None => wrong(&error),
            })?;
            if !lock(&file).map_err(|errno| wrong(&errno))? {
                let mut text = String::new();
                let _ = (&file).take(20).read_to_string(&mut text);
                let patience = if text.is_empty() { PATIENCE_IF_EMPTY } else { PATIENCE };
                if begun.elapsed() < patience {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                return Err(wrong(&match reader(&file) {
                    Some(pid) => format!("process {pid} holds a lock for reading, as no server does"),
                    None => format!("a server is running already, pid {}", text.trim()),
                }));
            }
            // Whoever had it may have removed it between our open and our lock.
            if is_at(&path, &file) {
                write(&file, &format!("{}\n", getpid())).map_err(|error| wrong(&error))?;
                return Ok(PidFile { file, path });
            }
        }
    }
}

impl Drop for PidFile {
    /// Removes it; where we may not any more, empties it. What another one has put in its place stays.
    fn drop(&mut self) {
        if is_at(&self.path, &self.file) && std::fs::remove_file(&self.path).is_err() {
            let _ = self.file.set_len(0);
        }
    }
}

/// Whether this is the file of this name still.
pub fn is_at(path: &Path, file: &File) -> bool {
    let both = std::fs::symlink_metadata(path).and_then(|there| Ok((there, file.metadata()?)));
    both.is_ok_and(|(there, ours)| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
}

/// What was expected where a file of ours can never be: that does not mend by itself.
pub fn no_place(error: &io::Error) -> Option<String> {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => {
            Some(format!("expected a file in a folder that is there ({error})"))
        }
        ErrorKind::InvalidInput => Some("expected a file, which is no device and no pipe".to_owned()),
        _ => match error.raw_os_error() {
            Some(libc::ELOOP) => Some("expected a file, which is no symbolic link".to_owned()),
            // A pipe that nobody reads, or a socket.
            Some(libc::ENXIO) => Some("expected a file, which is no device and no pipe".to_owned()),
            Some(libc::ENAMETOOLONG) => Some(format!("expected a name as long as a file may have ({error})")),
            _ => None,
        },
    }
}

/// Never through a symbolic link that somebody put there: we may be root. Whoever may read it could lock it, too, for as long
/// as he likes, and no server could be started: so nobody else may.
fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(MODE).custom_flags(flags);
    let file = options.open(path)?;
    if !file.metadata()?.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    // One that was there. Another user's, which we may write, is his to keep from others.
    let _ = file.set_permissions(Permissions::from_mode(MODE));
    Ok(file)
}

/// Whether we have it now. A lock of the process and not of the open file, which children would hold as well: those of
/// pop3d are forked, and may outlive a parent that is killed. It ends when any descriptor of the file is closed.
fn lock(file: &File) -> nix::Result<bool> {
    match again(|| fcntl(file, FcntlArg::F_SETLK(&whole_file(libc::F_WRLCK)))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Whose lock for reading keeps ours off; -1 where it is an open file's and no process's.
fn reader(file: &File) -> Option<i32> {
    let mut found = whole_file(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_GETLK(&mut found)).ok()?;
    (i32::from(found.l_type) == libc::F_RDLCK).then_some(found.l_pid)
}

fn write(mut file: &File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_may_read_it_and_who_could_before_is_taken_for_no_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let mode = || path.metadata().unwrap().mode() & 0o777;
        drop(PidFile::claim(&path).inspect(|_| assert_eq!(mode(), 0o600)).unwrap());
        std::fs::write(&path, "1\n").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let theirs = File::open(&path).unwrap();
        fcntl(&theirs, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_RDLCK))).unwrap();
        let error = PidFile::claim(&path).unwrap_err().to_string();
        assert!(error.contains("holds a lock for reading"), "{error}");
        drop(theirs);
        let _ours = PidFile::claim(&path).unwrap();
        assert_eq!(mode(), 0o600);
    }
}
