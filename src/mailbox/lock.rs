//! Locks on a mailbox that is one file, as the programs beside us take them: fcntl, flock, and the dot lock.
//!
//! A dot lock (`lock/dot.rs`) is `NAME.lock` beside the mailbox, made by link(2) so that it is whole when it is there. Its
//! first line is our process number, which other programs ask for; its second says which machine, running system and space of
//! numbers that is, and when the process began: who can see whether it lives (`lock/holder.rs`) needs no clock. Any other
//! lock is stale when it is older than `stale_lock_time`. Nothing here waits while it holds one lock and wants another.

mod dot;
mod holder;
mod of_session;

use super::place::Place;
use crate::again::again;
use crate::config::Config;
use crate::config::value::LockKind;
use crate::flocked::{Flocked, whole_file};
use dot::{DotLock, ExternalLock};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::unistd::{AccessFlags, faccessat};
pub use of_session::Session;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Nobody waits longer for a lock, whatever the parameters say.
const LONGEST: Duration = Duration::from_secs(3600);

/// Which locks are taken, and how patiently.
#[derive(Debug, Clone)]
pub struct Locking {
    /// The file `NAME.lock`.
    pub dot: bool,
    /// fcntl(2), on the whole file.
    pub fcntl: bool,
    /// flock(2).
    pub flock: bool,
    /// With `delay`, how long it is tried; at least once.
    pub attempts: u32,
    /// What each try but the first is worth in time.
    pub delay: Duration,
    /// Age of a dot lock that nobody can still need.
    pub stale: Duration,
    /// The program that makes and removes dot locks, where that is not us.
    pub locker: Option<PathBuf>,
}

impl Locking {
    /// As the parameters say.
    pub fn of(config: &Config) -> Locking {
        let has = |kind| config.mailbox_delivery_lock.0.contains(&kind);
        Locking {
            dot: has(LockKind::Dotlock),
            fcntl: has(LockKind::Fcntl),
            flock: has(LockKind::Flock),
            attempts: config.deliver_lock_attempts.max(1),
            delay: config.deliver_lock_delay.0,
            stale: config.stale_lock_time.0,
            locker: config.external_locker.0.clone(),
        }
    }

    /// How long it is tried.
    pub fn longest(&self) -> Duration {
        self.delay.saturating_mul(self.attempts.saturating_sub(1)).min(LONGEST)
    }

    /// Tries until the answer is not that it is locked (`WouldBlock`), for as long as the parameters say.
    ///
    /// Other programs hold their locks for moments, so it is looked at more often than those ask for.
    pub fn patiently<T>(&self, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        const LOOK: Duration = Duration::from_millis(20);
        let end = Instant::now() + self.longest();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !left.is_zero() => {
                    std::thread::sleep(left.min(LOOK));
                }
                answer => return answer,
            }
        }
    }
}

/// The locks held; dropped, they are released.
#[derive(Debug)]
pub struct Held {
    fcntl: Option<File>,
    _flock: Option<Flocked>,
    dot: Option<DotLock>,
    external: Option<ExternalLock>,
}

impl Held {
    /// Takes all locks, or none: one try. `EWOULDBLOCK` if another program has one of them, `ESTALE` if the name leads to
    /// another file by now. Who is not exclusive, as with a file that is open for reading only, keeps writers out. The
    /// flock is for who does not hold one on this file already.
    pub fn take(place: &Place, file: &File, locking: &Locking, exclusive: bool, flock: bool) -> nix::Result<Held> {
        let mut held = Held { fcntl: None, _flock: None, dot: None, external: None };
        let copy = || file.try_clone().map_err(|error| errno_of(&error));
        if locking.fcntl {
            let copy = copy()?;
            set_lock(&copy, if exclusive { libc::F_WRLCK } else { libc::F_RDLCK })?;
            held.fcntl = Some(copy);
        }
        if locking.flock && flock {
            held._flock = Some(if exclusive { Flocked::take(copy()?)? } else { Flocked::share(copy()?)? });
        }
        if let (true, Some(program)) = (locking.dot, &locking.locker) {
            held.external = Some(ExternalLock::create(place, program)?);
        } else if locking.dot {
            held.dot = match DotLock::create(place, locking.stale) {
                Ok(lock) => Some(lock),
                // A spool folder that only the system may write: the other locks have to do.
                Err(Errno::EACCES | Errno::EPERM | Errno::EROFS) if locking.fcntl || locking.flock => None,
                // A disk that is full stays so where nobody can read and remove.
                Err(Errno::ENOSPC | Errno::EDQUOT) if !exclusive && (locking.fcntl || locking.flock) => None,
                Err(errno) => return Err(errno),
            };
        }
        if place.leads_to(file)? { Ok(held) } else { Err(Errno::ESTALE) }
    }

    /// The locks that are on the file itself, on one whose name another program does not know yet.
    pub fn of_new(file: File, locking: &Locking) -> nix::Result<Held> {
        let copy = file.try_clone().map_err(|error| errno_of(&error))?;
        let mut held = Held { fcntl: None, _flock: None, dot: None, external: None };
        if locking.fcntl {
            set_lock(&copy, libc::F_WRLCK)?;
            held.fcntl = Some(copy);
        }
        held._flock = if locking.flock { Some(Flocked::take(file)?) } else { None };
        Ok(held)
    }

    /// Whether the dot lock is among them.
    pub fn has_dot(&self) -> bool {
        self.dot.is_some() || self.external.is_some()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(file) = &self.fcntl {
            let _ = set_lock(file, libc::F_UNLCK);
        }
    }
}

/// An fcntl lock that belongs to the open file, not to the process, so that closing another descriptor of the same file
/// does not lose it. Programs with the other kind respect it and are respected.
fn set_lock(file: &File, kind: i32) -> nix::Result<()> {
    match again(|| fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(kind)))) {
        Err(Errno::EACCES) => Err(Errno::EWOULDBLOCK),
        answer => answer.map(drop),
    }
}

/// Whether somebody is seen to have one of the locks that keep writers out. Nothing is opened for writing.
pub fn are_taken(place: &Place, locking: &Locking) -> bool {
    let has_lock = |file: &File| {
        let mut found = whole_file(libc::F_WRLCK);
        let asked = again(|| fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)));
        asked.is_ok() && i32::from(found.l_type) != libc::F_UNLCK
    };
    let open = || place.open(OFlag::O_RDONLY);
    // Where the dot lock is made by another program, that one judges what is there; and where we could make none, the other
    // locks have to do.
    let is_ours = locking.dot && locking.locker.is_none();
    let may_make = || faccessat(&place.folder, ".", AccessFlags::W_OK, AtFlags::AT_EACCESS).is_ok();
    (is_ours && may_make() && dot::is_there(place, locking.stale))
        || (locking.fcntl && open().is_ok_and(|file| has_lock(&file)))
        || (locking.flock && open().and_then(Flocked::take).err() == Some(Errno::EWOULDBLOCK))
}

/// For who was refused because the mailbox is locked: says in the log if that will never end by itself.
pub fn tell_if_for_ever(place: &Place, locking: &Locking) {
    if locking.dot && locking.locker.is_none() && dot::is_no_lock(place) {
        let lock = place.beside("", ".lock");
        log::warn!("event=no-lock-in-its-place lock={:?} reason=\"move it away\"", lock.to_string_lossy());
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Whether nobody has this file open for writing, and tells when somebody wants to (a read lease, fcntl(2)). Nothing
/// where the file system or our rights do not allow to know.
pub fn lease(file: &impl AsFd) -> nix::Result<Option<crate::sys::Lease>> {
    match crate::sys::Lease::take(file) {
        Ok(lease) => Ok(Some(lease)),
        Err(Errno::EINVAL | Errno::EACCES | Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOLCK) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Dot and fcntl locks, tried once.
#[cfg(test)]
pub const LOCKING: Locking = Locking {
    dot: true,
    fcntl: true,
    flock: false,
    attempts: 1,
    delay: Duration::ZERO,
    stale: Duration::from_secs(500),
    locker: None,
};

#[cfg(test)]
mod tests {
    use super::*;

    pub fn mailbox() -> (tempfile::TempDir, Place, File) {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::of(&folder.path().join("bob")).unwrap();
        let file = place.open(OFlag::O_RDWR | OFlag::O_CREAT).unwrap();
        (folder, place, file)
    }

    #[test]
    fn each_kind_of_lock_keeps_others_out_until_it_is_dropped() {
        for kinds in [(true, false, false), (false, true, false), (false, false, true)] {
            let locking = Locking { dot: kinds.0, fcntl: kinds.1, flock: kinds.2, ..LOCKING };
            let (_folder, place, file) = mailbox();
            let other = place.open(OFlag::O_RDWR).unwrap();
            let held = Held::take(&place, &file, &locking, true, true).unwrap();
            assert_eq!(Held::take(&place, &other, &locking, true, true).err(), Some(Errno::EWOULDBLOCK), "{kinds:?}");
            drop(held);
            assert!(Held::take(&place, &other, &locking, true, true).is_ok(), "{kinds:?}");
        }
    }

    #[test]
    fn nothing_is_left_beside_the_mailbox() {
        let (folder, place, file) = mailbox();
        drop(Held::take(&place, &file, &LOCKING, true, true).unwrap());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_mailbox_that_was_replaced_meanwhile_is_not_locked() {
        let (folder, place, file) = mailbox();
        std::fs::remove_file(folder.path().join("bob")).unwrap();
        assert_eq!(Held::take(&place, &file, &LOCKING, true, true).err(), Some(Errno::ESTALE));
    }
}
