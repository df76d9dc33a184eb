//! Where a mailbox is that is one file, and how it is opened: by an open folder, never by a path that could lead
//! elsewhere by then. Who may use it is for `lock.rs` to say.

use super::way;
use crate::again::again;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::fsync;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

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

/// Whether two are the same file.
pub fn is_same(one: &FileStat, two: &FileStat) -> bool {
    (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_folders_are_no_mailboxes() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::of(&folder.path().join("bob")).unwrap();
        place.open(OFlag::O_RDWR | OFlag::O_CREAT).unwrap();
        std::fs::hard_link(folder.path().join("bob"), folder.path().join("other")).unwrap();
        assert!(place.open(OFlag::O_RDONLY).is_err());
        std::os::unix::fs::symlink("other", folder.path().join("link")).unwrap();
        assert!(Place::of(&folder.path().join("link")).unwrap().open(OFlag::O_RDONLY).is_err());
        std::fs::create_dir(folder.path().join("folder")).unwrap();
        assert!(Place::of(&folder.path().join("folder")).unwrap().open(OFlag::O_RDONLY).is_err());
    }
}
