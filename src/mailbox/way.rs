//! The way to a folder or file: it may lead over symbolic links of root and of the user whose rights we have, and over no
//! others.
//!
//! Homes often are links, and users put links of their own in place of folders. But who may write a folder above a
//! mailbox, as everybody may /tmp and some may /var/mail, could otherwise make another's mail go where he likes. Each step
//! is taken from the open folder before it, so that nothing that is exchanged meanwhile leads elsewhere.

use crate::again::again;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};
use nix::unistd::geteuid;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

/// What the log says of a mailbox that is not to be written to.
pub const NOT_OURS: &str = "it is another user's (strict_mailbox_ownership)";

const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
/// A step of the way: a folder that need not be readable.
const STEP: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// What is done where a folder of the way is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// An error.
    Refused,
    /// It is made, 0700; but not where a link leads, for that may be a device which is not mounted.
    Made,
}

/// Opens a folder for reading.
pub fn open(path: &Path, missing: Missing) -> io::Result<OwnedFd> {
    // Mostly there is no link at all, and one call does.
    let how = OpenHow::new().flags(FOLDER).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    match again(|| openat2(AT_FDCWD, path, how)) {
        Ok(folder) => Ok(folder),
        // A kernel or a sandbox without this call knows the long way.
        Err(Errno::ELOOP | Errno::ENOENT | Errno::ENOSYS | Errno::EPERM) => walk(path, missing),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens a file for reading; where it is a FIFO nobody is waited for.
pub fn file(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    match again(|| openat2(AT_FDCWD, path, how)) {
        Err(Errno::ELOOP | Errno::ENOSYS | Errno::EPERM) => {}
        file => return Ok(File::from(file?)),
    }
    let (mut at, mut path) = (start(path)?, path.to_owned());
    for _ in 0..=MOST_LINKS {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::EISDIR.into()) };
        at = find(at, folder, Missing::Refused)?;
        match again(|| openat(&at, name, flags | OFlag::O_NOFOLLOW, Mode::empty())) {
            Err(Errno::ELOOP) => path = link(&at, name)?.into(),
            file => return Ok(File::from(file?)),
        }
        if path.is_absolute() {
            at = start(&path)?;
        }
    }
    Err(Errno::ELOOP.into())
}

/// Looks at a folder, which need not be readable: over a network that may not be for root either.
pub fn status(path: &Path) -> io::Result<FileStat> {
    let how = OpenHow::new().flags(STEP).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    // The dot: see `step`.
    let folder = match again(|| openat2(AT_FDCWD, &path.join("."), how)) {
        Err(Errno::ELOOP | Errno::ENOSYS | Errno::EPERM) => find(start(path)?, path, Missing::Refused)?,
        folder => folder?,
    };
    Ok(fstat(&folder)?)
}

/// Whether this is the user's whose rights we have, or root's.
pub fn is_trusted(file: impl AsFd) -> nix::Result<bool> {
    let owner = fstat(file)?.st_uid;
    Ok(owner == 0 || owner == geteuid().as_raw())
}

fn walk(path: &Path, missing: Missing) -> io::Result<OwnedFd> {
    let found = find(start(path)?, path, missing)?;
    Ok(again(|| openat(&found, ".", FOLDER, Mode::empty()))?)
}

/// Where a path begins.
fn start(path: &Path) -> nix::Result<OwnedFd> {
    let start = if path.is_absolute() { "/" } else { "." };
    again(|| openat(AT_FDCWD, start, STEP, Mode::empty()))
}

/// Goes there step by step, from the folder where the path begins.
fn find(mut at: OwnedFd, path: &Path, missing: Missing) -> io::Result<OwnedFd> {
    let mut left: VecDeque<(OsString, Missing)> = steps(path).map(|step| (step, missing)).collect();
    let mut links = 0_usize;
    while let Some((name, missing)) = left.pop_front() {
        match step(&at, &name, missing)? {
            Found::Folder(folder) => at = folder,
            Found::Link(target) => {
                links = links.saturating_add(1);
                if links > MOST_LINKS {
                    return Err(Errno::ELOOP.into());
                }
                let target = Path::new(&target);
                if target.is_absolute() {
                    at = start(target)?;
                }
                for name in steps(target).collect::<Vec<_>>().into_iter().rev() {
                    left.push_front((name, Missing::Refused));
                }
            }
        }
    }
    Ok(at)
}

/// The names of a path, one after another.
fn steps(path: &Path) -> impl Iterator<Item = OsString> {
    let is_step = |part: &Component<'_>| matches!(part, Component::Normal(_) | Component::ParentDir);
    path.components().filter(is_step).map(|part| part.as_os_str().to_owned())
}

enum Found {
    Folder(OwnedFd),
    Link(OsString),
}

fn step(at: &OwnedFd, name: &OsStr, missing: Missing) -> io::Result<Found> {
    // The dot makes the kernel mount what it mounts when somebody comes.
    let within = Path::new(name).join(".");
    let how = OpenHow::new().flags(STEP).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let open = || match again(|| openat2(at, &within, how)) {
        Err(Errno::ENOSYS | Errno::EPERM) => again(|| openat(at, name, STEP | OFlag::O_NOFOLLOW, Mode::empty())),
        answer => answer,
    };
    match open() {
        Ok(folder) => Ok(Found::Folder(folder)),
        Err(Errno::ENOENT) if missing == Missing::Made => {
            match again(|| mkdirat(at, name, Mode::S_IRWXU)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            Ok(Found::Folder(open()?))
        }
        // The old call says that it is no folder.
        Err(Errno::ELOOP | Errno::ENOTDIR) => link(at, name).map(Found::Link),
        Err(errno) => Err(errno.into()),
    }
}

/// Where a link leads, if we may follow it.
fn link(at: &OwnedFd, name: &OsStr) -> io::Result<OsString> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let link = again(|| openat(at, name, flags, Mode::empty()))?;
    let kind = SFlag::from_bits_truncate(fstat(&link)?.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFLNK {
        return Err(Errno::ENOTDIR.into());
    }
    if !is_trusted(&link)? {
        let why = format!("the symbolic link {:?} is another user's", name.display().to_string());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(again(|| readlinkat(&link, ""))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, lchown, symlink};

    fn same(folder: &OwnedFd, path: &Path) -> bool {
        let (one, two) = (fstat(folder).unwrap(), fs::metadata(path).unwrap());
        (one.st_dev, one.st_ino) == (two.dev(), two.ino())
    }

    #[test]
    fn own_links_are_followed_wherever_they_stand() {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        fs::create_dir_all(path("real/deep")).unwrap();
        symlink("real", path("one")).unwrap();
        symlink(path("one"), path("two")).unwrap();
        symlink("../one/./deep", path("real/three")).unwrap();
        for way in ["real/deep", "one/deep", "two/deep", "two/three", "two/deep/../three/", "real/../one//deep"] {
            assert!(same(&open(&path(way), Missing::Refused).unwrap(), &path("real/deep")), "{way}");
            assert!(same(&walk(&path(way), Missing::Refused).unwrap(), &path("real/deep")), "{way}");
        }
        symlink("round", path("round")).unwrap();
        fs::write(path("file"), "").unwrap();
        for way in ["round", "file", "file/x", "one/nothing"] {
            assert!(open(&path(way), Missing::Refused).is_err(), "{way}");
        }
    }

    #[test]
    fn folders_are_made_on_the_way_and_not_where_a_link_leads() {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        fs::create_dir(path("home")).unwrap();
        symlink("home", path("link")).unwrap();
        assert!(same(&open(&path("link/a/b"), Missing::Made).unwrap(), &path("home/a/b")));
        assert_eq!(fs::metadata(path("home/a")).unwrap().mode() & 0o777, 0o700);
        symlink("unmounted/mail", path("away")).unwrap();
        assert!(open(&path("away"), Missing::Made).is_err());
        assert!(open(&path("away/box"), Missing::Made).is_err());
        assert!(!path("unmounted").exists());
    }

    #[test]
    fn links_of_others_are_not_followed() {
        if !crate::needs::root() {
            return;
        }
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        fs::create_dir_all(path("real/deep")).unwrap();
        symlink("real", path("link")).unwrap();
        symlink("link/deep", path("own")).unwrap();
        for way in ["link", "link/deep", "own"] {
            assert!(open(&path(way), Missing::Made).is_ok());
        }
        lchown(path("link"), Some(1), None).unwrap();
        for way in ["link", "link/deep", "own"] {
            let error = open(&path(way), Missing::Made).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{way}");
            assert!(error.to_string().contains("\"link\""), "{error}");
        }
    }
}
