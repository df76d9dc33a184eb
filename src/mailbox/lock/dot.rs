//! The dot lock, `NAME.lock` beside the mailbox: made by us or by the program that `external_locker` names, and removed
//! where its holder is gone, of whom `holder.rs` tells.

use super::errno_of;
use super::holder::{Holder, LONGEST, contents};
use crate::again::again;
use crate::clock::since_1970;
use crate::mailbox::place::{Place, is_same};
use crate::program::end;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{Pid, UnlinkatFlags, geteuid, linkat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

/// Of a dot lock: who may not remove it can see whose it is.
const MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR).union(Mode::S_IRGRP).union(Mode::S_IROTH);

/// So long a program may take to make or remove one. It may try several times, as ours does.
const LONGEST_LOCKING: Duration = Duration::from_secs(60);

/// A dot lock; dropped, it is removed.
#[derive(Debug)]
pub struct DotLock {
    folder: OwnedFd,
    name: OsString,
    identity: (u64, u64),
}

impl DotLock {
    /// Makes it; `EWOULDBLOCK` if somebody else has it.
    pub fn create(place: &Place, stale: Duration) -> nix::Result<DotLock> {
        let name = place.beside("", ".lock");
        let identity = match Self::of_nameless(place, &name, stale) {
            // A file system without such files, or no /proc that we may use.
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOENT | Errno::EACCES | Errno::EPERM) => {
                Self::of_draft(place, &name, stale)
            }
            identity => identity,
        }?;
        let folder = place.folder.try_clone().map_err(|_| Errno::EMFILE);
        let remove = || unlinkat(&place.folder, name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        let folder = folder.inspect_err(|_| remove().unwrap_or_default())?;
        Ok(DotLock { folder, name, identity })
    }

    /// Out of a file that has no name before it has that of the lock, so that a crash leaves nothing.
    fn of_nameless(place: &Place, name: &OsStr, stale: Duration) -> nix::Result<(u64, u64)> {
        let flags = OFlag::O_WRONLY | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
        let file = File::from(again(|| openat(&place.folder, ".", flags, MODE))?);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        Self::link(place, file, (OsStr::new(&path), AtFlags::AT_SYMLINK_FOLLOW, 1), name, stale)
    }

    fn of_draft(place: &Place, name: &OsStr, stale: Duration) -> nix::Result<(u64, u64)> {
        let now = since_1970(SystemTime::now());
        let draft = place.beside(".", &format!(".{}.{}", std::process::id(), now.as_nanos()));
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = again(|| openat(&place.folder, draft.as_os_str(), flags, MODE))?;
        let result = Self::link(place, File::from(file), (draft.as_os_str(), AtFlags::empty(), 2), name, stale);
        let _ = again(|| unlinkat(&place.folder, draft.as_os_str(), UnlinkatFlags::NoRemoveDir));
        result
    }

    /// Gives the lock's name to a file: where that is, how to get there, and how many names it has then.
    fn link(
        place: &Place,
        mut file: File,
        (from, how, names): (&OsStr, AtFlags, libc::nlink_t),
        name: &OsStr,
        stale: Duration,
    ) -> nix::Result<(u64, u64)> {
        fill(&mut file, stale).map_err(|error| errno_of(&error))?;
        let link = || again(|| linkat(&place.folder, from, &place.folder, name, how));
        let mut linked = link();
        if linked == Err(Errno::EEXIST) && remove_stale(place, name, stale)? {
            linked = link();
        }
        // Over a network the answer may be lost and not the link.
        let status = fstat(&file)?;
        match linked {
            _ if status.st_nlink == names => Ok((status.st_dev, status.st_ino)),
            Ok(()) | Err(Errno::EEXIST) => Err(Errno::EWOULDBLOCK),
            Err(errno) => Err(errno),
        }
    }
}

/// Says in a lock whose it is.
fn fill(file: &mut File, stale: Duration) -> io::Result<()> {
    // Whatever the umask; a file system without modes is none the worse a place.
    let _ = file.set_permissions(Permissions::from_mode(MODE.bits()));
    let written = file.write_all(contents(std::process::id()).as_bytes());
    // Where age does not count, nothing else tells after a power cut that it is nobody's.
    let written = if stale.is_zero() { written.and_then(|()| file.sync_data()) } else { written };
    match written {
        // On a full disk it is an empty lock, judged by its age: else nobody could lock, read and remove to make room.
        Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
            file.set_len(0)
        }
        written => written,
    }
}

impl Drop for DotLock {
    fn drop(&mut self) {
        // Not the lock of who found ours stale.
        let status = fstatat(&self.folder, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        if status.is_ok_and(|status| (status.st_dev, status.st_ino) == self.identity) {
            let _ = again(|| unlinkat(&self.folder, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir));
        }
    }
}

/// A dot lock made by another program, which may have rights that we have not.
#[derive(Debug)]
pub struct ExternalLock {
    program: PathBuf,
    mailbox: PathBuf,
}

impl ExternalLock {
    /// The statuses are those of Mailutils' dotlock: 0 locked, 3 locked by somebody else, 4 no right to, 1 anything else.
    pub fn create(place: &Place, program: &Path) -> nix::Result<ExternalLock> {
        let folder = std::fs::read_link(format!("/proc/self/fd/{}", place.folder.as_raw_fd()));
        let mailbox = folder.map_err(|error| errno_of(&error))?.join(&place.name);
        // Only a lock that is ours may be given up: -u removes anybody's.
        match run(program, &[], &mailbox, LONGEST_LOCKING) {
            Some(0) => Ok(ExternalLock { program: program.to_owned(), mailbox }),
            Some(3) => Err(Errno::EWOULDBLOCK),
            status => {
                log::error!("event=locker-failed program={:?} status={status:?}", program.display().to_string());
                Err(if status == Some(4) { Errno::EACCES } else { Errno::ENOLCK })
            }
        }
    }
}

/// One that is too slow is ended; what it has made by then is for itself to find stale.
fn run(program: &Path, options: &[&str], mailbox: &Path, limit: Duration) -> Option<i32> {
    let mut command = Command::new(program);
    command.args(options).arg(mailbox).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
    end::leave(None);
    let mut child = command.spawn().ok()?;
    let leader = Pid::from_raw(i32::try_from(child.id()).ok()?);
    let (status, _) = end::wait(leader, Instant::now() + limit, end::ENDING, || child.try_wait()).ok()?;
    status.code()
}

impl Drop for ExternalLock {
    fn drop(&mut self) {
        match run(&self.program, &["-u"], &self.mailbox, LONGEST_LOCKING) {
            Some(0) => {}
            status => log::error!("event=lock-not-removed mailbox={:?} status={status:?}", self.mailbox.display()),
        }
    }
}

/// Whether somebody is seen to have the lock, who is not known to be gone.
pub fn is_there(place: &Place, stale: Duration) -> bool {
    matches!(judge(place, &place.beside("", ".lock"), stale), Ok((found, false)) if !is_planted(place, &found))
}

/// Whether something stands under the lock's name that keeps it for ever: neither a lock nor to be passed over.
pub fn is_no_lock(place: &Place) -> bool {
    let found = fstatat(&place.folder, place.beside("", ".lock").as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
    found.is_ok_and(|found| !may_be_lock(&found) && !is_planted(place, &found))
}

/// What stands under the lock's name, and whether its holder is gone.
fn judge(place: &Place, name: &OsStr, stale: Duration) -> nix::Result<(FileStat, bool)> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let (lock, holder) = match again(|| openat(&place.folder, name, flags, Mode::empty())) {
        Ok(lock) => {
            let status = fstat(&lock)?;
            (status, Holder::of(File::from(lock), &status))
        }
        // Some programs let nobody read theirs, and some make a symbolic link; a socket cannot be opened.
        Err(Errno::EACCES | Errno::ELOOP | Errno::ENXIO) => {
            (fstatat(&place.folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)?, Holder::Unknown)
        }
        Err(errno) => return Err(errno),
    };
    let is_gone = match holder {
        Holder::Gone => true,
        // However old it looks: the clock may have jumped.
        Holder::Lives => false,
        Holder::Unknown => is_old(&lock, stale),
    };
    Ok((lock, is_gone && may_be_lock(&lock)))
}

/// Nobody writes more into a lock than who has it: what is longer is something of somebody's, a mailbox perhaps, under a
/// name that ends so.
fn may_be_lock(status: &FileStat) -> bool {
    let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
    let is_short = u64::try_from(status.st_size).is_ok_and(|size| size <= LONGEST);
    is_short && (kind == SFlag::S_IFREG || kind == SFlag::S_IFLNK)
}

/// Whether it is another user's, who has nothing to lock here, in a folder where everybody may put things and take away only
/// his own, as /var/mail is one on some systems: it would keep mail from others for as long as he likes, whatever is in it.
fn is_planted(place: &Place, found: &FileStat) -> bool {
    if found.st_uid == 0 || found.st_uid == geteuid().as_raw() {
        return false;
    }
    let mailbox = fstatat(&place.folder, place.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
    let is_owners = mailbox.is_ok_and(|mailbox| mailbox.st_uid == found.st_uid);
    let is_sticky = |folder: FileStat| Mode::from_bits_truncate(folder.st_mode).contains(Mode::S_ISVTX);
    !is_owners && fstat(&place.folder).is_ok_and(is_sticky)
}

/// Removes a lock whose holder is gone; gives whether there is none any more. `EPERM`: there can be none, and the other
/// locks have to do.
///
/// It is renamed first and looked at again then: between two looks another process may have removed it and taken the
/// lock itself, and that one is put back.
fn remove_stale(place: &Place, name: &OsStr, stale: Duration) -> nix::Result<bool> {
    let judged = match judge(place, name, stale) {
        Ok((judged, true)) => judged,
        Err(Errno::ENOENT) => return Ok(true),
        Ok((found, false)) if is_planted(place, &found) => return Err(Errno::EPERM),
        Ok((_, false)) | Err(_) => return Ok(false),
    };
    let aside = place.beside(".", &format!(".{}.stale", std::process::id()));
    match again(|| renameat(&place.folder, name, &place.folder, aside.as_os_str())) {
        Ok(()) => {}
        Err(Errno::ENOENT) => return Ok(true),
        Err(errno) => return Err(errno),
    }
    let moved = fstatat(&place.folder, aside.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let was_stale = is_same(&moved, &judged);
    if was_stale {
        log::warn!("event=stale-lock-removed lock={:?}", name.to_string_lossy());
    } else {
        let _ = linkat(&place.folder, aside.as_os_str(), &place.folder, name, AtFlags::empty());
    }
    let _ = again(|| unlinkat(&place.folder, aside.as_os_str(), UnlinkatFlags::NoRemoveDir));
    Ok(was_stale)
}

/// No clock that anybody keeps right is that far ahead.
const FAR_AHEAD: Duration = Duration::from_secs(24 * 60 * 60);

/// A time far ahead tells no more of its age than one long ago: else whoever sets it locks for ever. Clocks of file servers,
/// and our own before it was set back, may be ahead by less.
fn is_old(lock: &FileStat, stale: Duration) -> bool {
    let now = since_1970(SystemTime::now());
    let time = Duration::from_secs(u64::try_from(lock.st_mtime).unwrap_or(0));
    let (age, ahead) = (now.saturating_sub(time), time.saturating_sub(now));
    !stale.is_zero() && (age.as_secs() > stale.as_secs() || ahead > FAR_AHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::lock::tests::mailbox;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn everybody_can_see_whose_it_is() {
        let (folder, place, _) = mailbox();
        // Of this thread alone: other tests write files meanwhile.
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
        nix::sys::stat::umask(Mode::S_IRWXG | Mode::S_IRWXO);
        let lock = DotLock::create(&place, Duration::from_secs(500));
        let path = folder.path().join("bob.lock");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o644);
        assert!(std::fs::read_to_string(&path).unwrap().starts_with(&format!("{}\n", std::process::id())));
        drop(lock.unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn a_program_that_never_ends_is_ended() {
        let run = |program: &str, limit| run(Path::new(program), &[], Path::new("1000"), limit);
        assert_eq!(run("/bin/sleep", Duration::from_millis(10)), None);
        assert_eq!(run("/bin/true", LONGEST_LOCKING), Some(0));
    }

    #[test]
    fn what_is_no_lock_keeps_the_mailbox_locked_unless_it_is_anothers_in_a_folder_for_all() {
        let stale = Duration::from_secs(500);
        let (folder, place, file) = mailbox();
        let path = folder.path().join("bob.lock");
        let contents = "x".repeat(300);
        std::fs::write(&path, &contents).unwrap();
        let locked = || DotLock::create(&place, stale).err();
        assert_eq!((is_there(&place, stale), is_no_lock(&place), locked()), (true, true, Some(Errno::EWOULDBLOCK)));
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
        assert_eq!((is_there(&place, stale), is_no_lock(&place), locked()), (true, true, Some(Errno::EWOULDBLOCK)));
        if geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(1), None).unwrap();
            assert_eq!((is_there(&place, stale), is_no_lock(&place), locked()), (false, false, Some(Errno::EPERM)));
            let locking = super::super::LOCKING;
            let held = super::super::Held::take(&place, &file, &locking, true, true).unwrap();
            assert!(!held.has_dot());
            std::os::unix::fs::chown(folder.path().join("bob"), Some(1), None).unwrap();
            assert_eq!((is_there(&place, stale), locked()), (true, Some(Errno::EWOULDBLOCK)), "the owner's");
            std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
            std::os::unix::fs::chown(folder.path().join("bob"), Some(0), None).unwrap();
            assert_eq!((is_there(&place, stale), locked()), (true, Some(Errno::EWOULDBLOCK)), "not sticky");
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), contents);
        std::fs::write(&path, "1\n").unwrap();
        assert_eq!((is_there(&place, stale), is_no_lock(&place)), (true, false));
        if geteuid().is_root() {
            std::fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
            assert_eq!((is_there(&place, stale), locked()), (false, Some(Errno::EPERM)), "it looks like a lock");
        }
    }
}
