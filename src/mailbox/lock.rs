//! Locks on a mailbox that is one file, as the programs beside us take them: fcntl, flock, and the dot lock.
//!
//! A dot lock is `NAME.lock` beside the mailbox, made by link(2) so that it is whole when it is there. Its first line is
//! our process number, which other programs ask for; its second says which running system and which space of
//! numbers that is, and when the process began: who can see whether it lives needs no clock. Any other lock is
//! stale when it is older than `stale_lock_time`. Nothing here waits while it holds one lock and wants another.

use crate::config::Config;
use crate::config::value::LockKind;
use crate::flocked::Flocked;
use crate::mailbox::way;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, openat, renameat};
use nix::libc;
use nix::sys::signal::kill;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{Pid, UnlinkatFlags, fsync, linkat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

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

    /// Tries until the answer is not that it is locked (`WouldBlock`), for as long as the parameters say.
    ///
    /// Other programs hold their locks for moments, so it is looked at more often than those ask for.
    pub fn patiently<T>(&self, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        const LOOK: Duration = Duration::from_millis(20);
        let end = Instant::now() + self.delay.saturating_mul(self.attempts.saturating_sub(1)).min(LONGEST);
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

/// Where a mailbox is: an open folder and a name in it.
#[derive(Debug)]
pub struct Place {
    /// The folder.
    pub folder: OwnedFd,
    /// The file.
    pub name: OsString,
}

impl Place {
    /// Opens the folder of a mailbox, not over a symbolic link of another user's.
    pub fn of(path: &Path) -> io::Result<Place> {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::EINVAL.into()) };
        let folder = way::open(folder, way::Missing::Refused)?;
        Ok(Place { folder, name: name.to_owned() })
    }

    /// Opens the mailbox: a regular file with one name, and never by a symbolic link.
    pub fn open(&self, flags: OFlag) -> nix::Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = again(|| openat(&self.folder, self.name.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR))?;
        let status = fstat(&file)?;
        let is_regular = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG;
        if is_regular && status.st_nlink <= 1 { Ok(File::from(file)) } else { Err(Errno::EINVAL) }
    }

    /// Whether the name still leads to this file.
    pub fn leads_to(&self, file: &File) -> nix::Result<bool> {
        match fstatat(&self.folder, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(named) => Ok(is_same(&named, &fstat(file)?)),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Puts the folder's entries on disk.
    pub fn sync(&self) -> nix::Result<()> {
        again(|| fsync(&self.folder))
    }

    /// A name beside the mailbox.
    pub fn beside(&self, before: &str, behind: &str) -> OsString {
        let mut name = OsString::from(before);
        name.push(&self.name);
        name.push(behind);
        name
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
    /// another file by now. A file that is open for reading only gets an fcntl lock that keeps writers out. The
    /// flock is for who does not hold one on this file already.
    pub fn take(place: &Place, file: &File, locking: &Locking, exclusive: bool, flock: bool) -> nix::Result<Held> {
        let mut held = Held { fcntl: None, _flock: None, dot: None, external: None };
        let copy = || file.try_clone().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)));
        if locking.fcntl {
            let copy = copy()?;
            set_lock(&copy, if exclusive { libc::F_WRLCK } else { libc::F_RDLCK })?;
            held.fcntl = Some(copy);
        }
        if locking.flock && flock {
            held._flock = Some(Flocked::take(copy()?)?);
        }
        if let (true, Some(program)) = (locking.dot, &locking.locker) {
            held.external = Some(ExternalLock::create(place, program)?);
        } else if locking.dot {
            held.dot = match DotLock::create(place, locking.stale) {
                Ok(lock) => Some(lock),
                // A spool folder that only the system may write: the other locks have to do.
                Err(Errno::EACCES | Errno::EPERM | Errno::EROFS) if locking.fcntl || locking.flock => None,
                Err(errno) => return Err(errno),
            };
        }
        if place.leads_to(file)? { Ok(held) } else { Err(Errno::ESTALE) }
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
    let whole = libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap_or_default(),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match again(|| fcntl(file, FcntlArg::F_OFD_SETLK(&whole))) {
        Err(Errno::EACCES) => Err(Errno::EWOULDBLOCK),
        answer => answer.map(drop),
    }
}

/// Of a dot lock: who may not remove it can see whose it is.
const MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR).union(Mode::S_IRGRP).union(Mode::S_IROTH);

#[derive(Debug)]
struct DotLock {
    folder: OwnedFd,
    name: OsString,
    identity: (u64, u64),
}

impl DotLock {
    fn create(place: &Place, stale: Duration) -> nix::Result<DotLock> {
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
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
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
        file.write_all(contents(std::process::id()).as_bytes()).map_err(|error| errno_of(&error))?;
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
struct ExternalLock {
    program: PathBuf,
    mailbox: PathBuf,
}

impl ExternalLock {
    /// The statuses are those of Mailutils' dotlock: 0 locked, 1 locked by somebody else.
    fn create(place: &Place, program: &Path) -> nix::Result<ExternalLock> {
        let folder = std::fs::read_link(format!("/proc/self/fd/{}", place.folder.as_raw_fd()));
        let mailbox = folder.map_err(|error| errno_of(&error))?.join(&place.name);
        let lock = ExternalLock { program: program.to_owned(), mailbox };
        match lock.run(&[]) {
            Some(0) => Ok(lock),
            Some(1) => Err(Errno::EWOULDBLOCK),
            status => {
                log::error!("event=locker-failed program={:?} status={status:?}", program.display().to_string());
                Err(Errno::ENOLCK)
            }
        }
    }

    fn run(&self, options: &[&str]) -> Option<i32> {
        let mut command = Command::new(&self.program);
        command.args(options).arg(&self.mailbox).stdin(Stdio::null()).stdout(Stdio::null());
        command.status().ok().and_then(|status| status.code())
    }
}

impl Drop for ExternalLock {
    fn drop(&mut self) {
        match self.run(&["-u"]) {
            Some(0) => {}
            status => log::error!("event=lock-not-removed mailbox={:?} status={status:?}", self.mailbox.display()),
        }
    }
}

/// Removes a lock whose holder is gone; gives whether there is none any more.
///
/// It is renamed first and looked at again then: between two looks another process may have removed it and taken the
/// lock itself, and that one is put back.
fn remove_stale(place: &Place, name: &OsStr, stale: Duration) -> nix::Result<bool> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let lock = match again(|| openat(&place.folder, name, flags, Mode::empty())) {
        Ok(lock) => File::from(lock),
        Err(Errno::ENOENT) => return Ok(true),
        Err(_) => return Ok(false),
    };
    let judged = fstat(&lock)?;
    match Holder::of(lock) {
        Holder::Gone => {}
        Holder::Unknown if is_old(&judged, stale) => {}
        // However old it looks: the clock may have jumped.
        Holder::Lives | Holder::Unknown => return Ok(false),
    }
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

fn is_old(lock: &FileStat, stale: Duration) -> bool {
    let limit = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().checked_sub(stale);
    let time = u64::try_from(lock.st_mtime).unwrap_or(0);
    !stale.is_zero() && limit.is_some_and(|limit| time < limit.as_secs())
}

/// Whose a lock is, where it is one of our own and of this system, with these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// Nobody's any more: a process that was ended and is not collected yet holds nothing, nor does a later one of its number.
    Gone,
    /// A process that is seen to be the one that made it.
    Lives,
    /// Nobody here can tell.
    Unknown,
}

impl Holder {
    fn of(lock: File) -> Holder {
        let mut text = String::new();
        if lock.take(256).read_to_string(&mut text).is_err() {
            return Holder::Unknown;
        }
        let number = text.lines().next().and_then(|line| line.parse::<i32>().ok()).filter(|number| *number > 0);
        let Some((number, began)) = number.and_then(|number| Some((number, text.strip_prefix(&holder(number))?)))
        else {
            return Holder::Unknown;
        };
        if kill(Pid::from_raw(number), None) == Err(Errno::ESRCH) {
            return Holder::Gone;
        }
        // Who could not tell when it began wrote nothing there.
        match (began.trim_end(), Life::of(number)) {
            (_, Some(life)) if !life.goes_on => Holder::Gone,
            ("", _) | (_, None) => Holder::Unknown,
            (began, Some(life)) if began == life.began => Holder::Lives,
            _ => Holder::Gone,
        }
    }
}

/// What stands in a lock of a process of ours: its number, which numbers those are, and when it began.
fn contents(process: u32) -> String {
    let number = i32::try_from(process).unwrap_or_default();
    format!("{}{}\n", holder(number), Life::of(number).unwrap_or_default().began)
}

fn holder(number: i32) -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let numbers = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    format!("{number}\ndoorpost {} {} ", boot.trim(), numbers.display())
}

/// What proc(5) says of a process.
#[derive(Debug, Default)]
struct Life {
    /// It has not been ended.
    goes_on: bool,
    /// When it began, in ticks since the system was started.
    began: String,
}

impl Life {
    /// Nothing of a process that is not there, or where there is no /proc.
    fn of(number: i32) -> Option<Life> {
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
        // Behind the name, which may hold anything: state is the third field, the beginning the 22nd.
        let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
        let goes_on = !matches!(fields.next()?, "Z" | "X");
        Some(Life { goes_on, began: fields.nth(18)?.to_owned() })
    }
}

fn is_same(one: &FileStat, two: &FileStat) -> bool {
    (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Calls again what a signal interrupted.
pub fn again<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            answer => return answer,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKING: Locking = Locking {
        dot: true,
        fcntl: true,
        flock: false,
        attempts: 1,
        delay: Duration::ZERO,
        stale: Duration::from_secs(500),
        locker: None,
    };

    fn own() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    fn mailbox() -> (tempfile::TempDir, Place, File) {
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
    fn a_lock_of_a_dead_process_of_ours_is_removed_and_a_living_ones_is_not() {
        let (folder, place, file) = mailbox();
        let lock = folder.path().join("bob.lock");
        let mut dead = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let of_the_dead = contents(dead.id());
        std::fs::write(&lock, &of_the_dead).unwrap();
        assert_eq!(Held::take(&place, &file, &LOCKING, true, true).err(), Some(Errno::EWOULDBLOCK));
        drop(dead.stdin.take());
        nix::sys::wait::waitid(
            nix::sys::wait::Id::Pid(Pid::from_raw(i32::try_from(dead.id()).unwrap())),
            nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT,
        )
        .unwrap();
        assert!(Held::take(&place, &file, &LOCKING, true, true).is_ok(), "ended, and not collected");
        dead.wait().unwrap();
        let of_its_successor = format!("{}1\n", holder(own()));
        for text in [of_the_dead, of_its_successor] {
            std::fs::write(&lock, &text).unwrap();
            assert!(Held::take(&place, &file, &LOCKING, true, true).is_ok(), "{text:?}");
        }
        let unknown = format!("{}\n", holder(own()));
        for text in [contents(std::process::id()), unknown, format!("{}\n", dead.id()), "0".to_owned(), String::new()] {
            std::fs::write(&lock, &text).unwrap();
            assert_eq!(Held::take(&place, &file, &LOCKING, true, true).err(), Some(Errno::EWOULDBLOCK), "{text:?}");
        }
    }

    #[test]
    fn an_old_lock_is_removed_unless_its_holder_is_seen_to_live() {
        let (folder, place, file) = mailbox();
        let path = folder.path().join("bob.lock");
        let old = format!("{}\n", holder(own()));
        for (text, is_removed) in [("", true), ("1\n", true), (&old, true), (&*contents(std::process::id()), false)] {
            std::fs::write(&path, text).unwrap();
            let lock = File::options().write(true).open(&path).unwrap();
            lock.set_modified(SystemTime::now() - Duration::from_secs(600)).unwrap();
            assert_eq!(Held::take(&place, &file, &LOCKING, true, true).is_ok(), is_removed, "{text:?}");
        }
    }

    #[test]
    fn a_mailbox_that_was_replaced_meanwhile_is_not_locked() {
        let (folder, place, file) = mailbox();
        std::fs::remove_file(folder.path().join("bob")).unwrap();
        assert_eq!(Held::take(&place, &file, &LOCKING, true, true).err(), Some(Errno::ESTALE));
    }

    #[test]
    fn links_and_folders_are_no_mailboxes() {
        let (folder, place, _file) = mailbox();
        std::fs::hard_link(folder.path().join("bob"), folder.path().join("other")).unwrap();
        assert!(place.open(OFlag::O_RDONLY).is_err());
        std::os::unix::fs::symlink("other", folder.path().join("link")).unwrap();
        assert!(Place::of(&folder.path().join("link")).unwrap().open(OFlag::O_RDONLY).is_err());
    }
}
