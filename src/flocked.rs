//! A file under flock(2), held until it is dropped; what fcntl(2) is told of a whole file.
//!
//! Where the lock cannot be taken off, as over a network, the end of the descriptor does so: nothing to panic for.

use nix::errno::Errno;
use nix::libc;
use std::fs::{File, TryLockError};
use std::io;
use std::ops::Deref;

/// The file.
#[derive(Debug)]
pub struct Flocked(File);

impl Flocked {
    /// Locks it, or says at once that another has it (`EWOULDBLOCK`).
    pub fn take(file: impl Into<File>) -> nix::Result<Flocked> {
        Flocked::try_by(File::try_lock, file.into())
    }

    /// The same with others that share it, and nobody who locks it for himself.
    pub fn share(file: File) -> nix::Result<Flocked> {
        Flocked::try_by(File::try_lock_shared, file)
    }

    fn try_by(lock: fn(&File) -> Result<(), TryLockError>, file: File) -> nix::Result<Flocked> {
        loop {
            match lock(&file) {
                Ok(()) => return Ok(Flocked(file)),
                Err(TryLockError::WouldBlock) => return Err(Errno::EWOULDBLOCK),
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(TryLockError::Error(error)) => {
                    return Err(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)));
                }
            }
        }
    }

    /// Locks it as soon as no other has it.
    pub fn wait(file: File) -> io::Result<Flocked> {
        file.lock()?;
        Ok(Flocked(file))
    }
}

/// For fcntl(2), a lock of this kind (`F_WRLCK`, ...) on all octets of a file.
pub fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap_or_default(),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

impl Deref for Flocked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for Flocked {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}
