//! The folders of a Maildir: opening, making and reading them, all relative to descriptors, so that nothing that is
//! renamed or replaced by a symbolic link meanwhile leads elsewhere.

use crate::again::again;
use crate::mailbox::way;
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{fsync, geteuid};
use std::fs::File;
use std::io::{self, Read, Take};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// A Maildir, all its folders open.
#[derive(Debug)]
pub struct Folders {
    /// The folder itself.
    pub top: OwnedFd,
    /// Where messages are written.
    pub tmp: OwnedFd,
    /// Where they arrive.
    pub new: OwnedFd,
    /// Where they are kept once seen.
    pub cur: OwnedFd,
}

impl Folders {
    /// Opens them, making what is missing. The way to the Maildir may lead over symbolic links that are root's or the
    /// user's, for homes often do; its own folders may not.
    pub fn open(path: &Path) -> io::Result<Folders> {
        match Self::open_existing(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(path)?;
                Self::open_existing(path)
            }
            answer => answer,
        }
    }

    fn open_existing(path: &Path) -> io::Result<Folders> {
        let top = way::open(path, way::Missing::Refused)?;
        let below = |name: &str| again(|| openat(&top, name, FOLDER | OFlag::O_NOFOLLOW, Mode::empty()));
        let (tmp, new, cur) = (below("tmp")?, below("new")?, below("cur")?);
        Ok(Folders { top, tmp, new, cur })
    }
}

/// Makes a Maildir and the folders above it, 0700, and puts them on disk.
///
/// tmp/ comes last: where it is, the rest is known to be on disk, even if a crash came in the middle of this.
fn make(path: &Path) -> io::Result<()> {
    let top = way::open(path, way::Missing::Made)?;
    make_one(&top, Path::new("new"))?;
    make_one(&top, Path::new("cur"))?;
    sync(&top)?;
    sync_above(path)?;
    Ok(make_one(&top, Path::new("tmp"))?)
}

fn make_one(at: impl AsFd, path: &Path) -> nix::Result<()> {
    match again(|| mkdirat(&at, path, Mode::S_IRWXU)) {
        Err(Errno::EEXIST) => Ok(()),
        answer => answer,
    }
}

/// Puts on disk what an earlier try may have made above the Maildir: up to and with the first folder that is not ours.
fn sync_above(path: &Path) -> nix::Result<()> {
    for folder in path.ancestors().skip(1) {
        let folder = match again(|| openat(AT_FDCWD, folder, FOLDER, Mode::empty())) {
            Ok(folder) => folder,
            Err(Errno::EACCES) => break,
            Err(errno) => return Err(errno),
        };
        sync(&folder)?;
        if fstat(&folder)?.st_uid != geteuid().as_raw() {
            break;
        }
    }
    Ok(())
}

/// Puts the entries of a folder on disk.
pub fn sync(folder: &OwnedFd) -> nix::Result<()> {
    again(|| fsync(folder))
}

/// Opens a message for reading, as long as it is now. Whoever reads it to its end needs no call to learn that it is there.
pub fn open_message(folder: &OwnedFd, name: &[u8]) -> nix::Result<Take<File>> {
    open_regular(folder, name, OFlag::O_RDONLY).map(|(file, length)| file.take(length))
}

/// Opens a regular file and nothing else, without waiting for what is no file. Gives its length, too.
pub fn open_regular(folder: &OwnedFd, name: &[u8], access: OFlag) -> nix::Result<(File, u64)> {
    let flags = access | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = again(|| openat(folder, name, flags, Mode::empty()))?;
    let status = fstat(&file)?;
    let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
    let length = u64::try_from(status.st_size).unwrap_or(0);
    if kind == SFlag::S_IFREG { Ok((File::from(file), length)) } else { Err(Errno::EINVAL) }
}

/// Gives the name of each regular file in a folder that is not hidden, in no order.
pub fn each_message(folder: &OwnedFd, mut found: impl FnMut(&[u8])) -> nix::Result<()> {
    let mut entries = again(|| Dir::openat(folder, ".", FOLDER, Mode::empty()))?;
    for entry in entries.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name.starts_with(b".") {
            continue;
        }
        let is_regular = match entry.file_type() {
            Some(kind) => kind == Type::File,
            // Some file systems do not say.
            None => fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)
                .is_ok_and(|status| SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG),
        };
        if is_regular {
            found(name);
        }
    }
    Ok(())
}
