//! The lock that a POP3 session has for all of its time, so that a second one hears `[IN-USE]`. Deliveries do not ask for
//! it: mail goes on arriving.
//!
//! It is a flock on the mailbox, except where others would take that for a lock of theirs: where `mailbox_delivery_lock`
//! has flock, and over NFS, which makes an fcntl lock of it and wants the file open for writing, so that QUIT could not know
//! whether another program has it so. There `.NAME.doorpost-session` is locked, by fcntl, which holds over NFS as well. Who
//! has the lock removes the file at the end; one that a crash leaves is the next session's. Where no such file can be made
//! it is the flock again, or over NFS nothing: sessions at the same time lose no mail, for QUIT looks at it anew.

use super::{Locking, errno_of, set_lock};
use crate::again::again;
use crate::flocked::Flocked;
use crate::mailbox::place::{Place, is_same};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::{Mode, SFlag, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;

/// It is held until it is dropped. As default there is none.
#[derive(Debug, Default)]
pub struct Session {
    flock: Option<Flocked>,
    _beside: Option<Beside>,
    /// Why there is no file beside the mailbox where one was wanted.
    no_file: Option<Errno>,
}

impl Session {
    /// Locks the mailbox, which is open for reading. `EBUSY` if another session has it, `EWOULDBLOCK` if that or another
    /// program.
    pub fn begin(place: &Place, mailbox: &File, locking: &Locking) -> nix::Result<Session> {
        let flock = || -> nix::Result<Session> {
            let flock = Flocked::take(mailbox.try_clone().map_err(|error| errno_of(&error))?)?;
            Ok(Session { flock: Some(flock), ..Session::default() })
        };
        if !locking.flock {
            match flock() {
                Err(Errno::EBADF) => {}
                Err(Errno::EWOULDBLOCK) => return Err(Errno::EBUSY),
                answer => return answer,
            }
        }
        let no_file = match Beside::take(place) {
            Ok(beside) => return Ok(Session { _beside: Some(beside), ..Session::default() }),
            Err(Errno::EWOULDBLOCK) => return Err(Errno::EBUSY),
            // It is at its end.
            Err(Errno::ESTALE) => return Err(Errno::EWOULDBLOCK),
            // No rights, no room, or something of another's in its place.
            Err(errno) => Some(errno),
        };
        match flock() {
            Err(Errno::EBADF) => Ok(Session { no_file, ..Session::default() }),
            answer => Ok(Session { no_file, ..answer? }),
        }
    }

    /// Says in the log what was in the way of the file beside the mailbox: once, however often it was tried to begin.
    pub fn tell(&self, place: &Place) {
        if let Some(errno) = self.no_file {
            log::warn!(
                "event=no-session-file mailbox={:?} reason={:?}",
                place.name.to_string_lossy(),
                errno.to_string()
            );
        }
    }

    /// Whether it is the flock that deliveries may take.
    pub fn has_flock(&self) -> bool {
        self.flock.is_some()
    }
}

/// The lock on `.NAME.doorpost-session`.
#[derive(Debug)]
struct Beside {
    folder: OwnedFd,
    name: OsString,
    _file: File,
}

impl Beside {
    /// `EWOULDBLOCK` if another session has it, `ESTALE` if one had it that was at its end.
    fn take(place: &Place) -> nix::Result<Beside> {
        let name = place.beside(".", ".doorpost-session");
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = again(|| openat(&place.folder, name.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR))?;
        Self::of(place, name, File::from(file))
    }

    fn of(place: &Place, name: OsString, file: File) -> nix::Result<Beside> {
        let status = fstat(&file)?;
        let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
        if kind != SFlag::S_IFREG || status.st_uid != geteuid().as_raw() {
            return Err(Errno::EPERM);
        }
        set_lock(&file, libc::F_WRLCK)?;
        match fstatat(&place.folder, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(named) if is_same(&named, &status) => {}
            Ok(_) | Err(Errno::ENOENT) => return Err(Errno::ESTALE),
            Err(errno) => return Err(errno),
        }
        let folder = place.folder.try_clone().map_err(|error| errno_of(&error))?;
        Ok(Beside { folder, name, _file: file })
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Still locked: who waits for it sees that it has no name any more.
        let _ = again(|| unlinkat(&self.folder, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::lock::tests::mailbox;
    use crate::mailbox::lock::{Held, LOCKING};

    #[test]
    fn a_second_session_is_refused_and_nothing_is_left_behind() {
        for flock in [false, true] {
            let (folder, place, _) = mailbox();
            let locking = Locking { flock, ..LOCKING };
            let open = || place.open(OFlag::O_RDONLY).unwrap();
            let first = Session::begin(&place, &open(), &locking).unwrap();
            assert_eq!(first.has_flock(), !flock);
            assert_eq!(Session::begin(&place, &open(), &locking).err(), Some(Errno::EBUSY), "{flock}");
            drop(first);
            drop(Session::begin(&place, &open(), &locking).unwrap());
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "{flock}");
        }
    }

    #[test]
    fn one_that_is_at_its_end_is_not_in_use() {
        let (folder, place, _) = mailbox();
        let name = place.beside(".", ".doorpost-session");
        let path = folder.path().join(&name);
        let file = std::fs::File::create(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Beside::of(&place, name.clone(), file.try_clone().unwrap()).err(), Some(Errno::ESTALE));
        std::fs::File::create(&path).unwrap();
        assert_eq!(Beside::of(&place, name, file).err(), Some(Errno::ESTALE));
    }

    #[test]
    fn a_session_keeps_no_delivery_out_that_takes_a_flock() {
        let (_folder, place, file) = mailbox();
        let locking = Locking { flock: true, ..LOCKING };
        let mailbox = place.open(OFlag::O_RDONLY).unwrap();
        let _session = Session::begin(&place, &mailbox, &locking).unwrap();
        assert!(Held::take(&place, &file, &locking, true, true).is_ok());
    }

    #[test]
    fn where_no_file_can_be_made_it_is_a_flock() {
        let (folder, place, _) = mailbox();
        let locking = Locking { flock: true, ..LOCKING };
        std::os::unix::fs::symlink("bob", folder.path().join(".bob.doorpost-session")).unwrap();
        let open = || place.open(OFlag::O_RDONLY).unwrap();
        let first = Session::begin(&place, &open(), &locking).unwrap();
        assert!(first.has_flock());
        assert_eq!(Session::begin(&place, &open(), &locking).err(), Some(Errno::EWOULDBLOCK));
        drop(first);
        assert!(folder.path().join(".bob.doorpost-session").is_symlink());
    }
}
