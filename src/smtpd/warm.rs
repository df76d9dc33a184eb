//! The unix socket of submit (`queue_directory/submit`), kept beside pools, so that their sessions need not start one each.
//!
//! Behind it runs submit as a pool of its own, which checks who connects by the kernel's word. Who finds no socket, or
//! one that does not listen any more, starts submit as ever. So it must not listen longer than somebody accepts: before its
//! pool is told to end, or when smtpd is gone, it is shut down, as busy submits still have it open.

use super::program::Program;
use crate::net::listener::Listener;
use nix::sys::socket::{Backlog, listen};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, getegid, geteuid, setegid, seteuid};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// More sessions than any pool has wait here only if submit is away.
const BACKLOG: i32 = 1024;

/// What is to be kept.
#[derive(Debug, Clone)]
pub struct Warm {
    /// Where the socket is.
    pub path: PathBuf,
    /// Whose it is, where we are root: mail_owner's, as the folder.
    pub owner: Option<(Uid, Gid)>,
    /// Who may connect besides, where that is somebody else: net_owner.
    pub net_owner: Option<(Uid, Gid)>,
    /// submit, with the parameters of a pool.
    pub program: Program,
    /// Whether it is there before somebody connects.
    pub stands: bool,
}

/// The socket.
#[derive(Debug)]
pub struct Door {
    listener: UnixListener,
    /// Where it is to be.
    path: PathBuf,
    /// Where it is now.
    place: PathBuf,
    /// Device and number of the socket's file.
    file: (u64, u64),
    owner: Option<(Uid, Gid)>,
}

impl Door {
    /// Listens there; nothing, and a record, where that cannot be. Where the socket of `old` is, the new one lies beside it
    /// until it takes its place.
    pub fn open(warm: &Warm, old: Option<&Door>) -> Option<Door> {
        let is_taken = old.is_some_and(|old| old.place == warm.path);
        let place = if is_taken { warm.path.with_extension("new") } else { warm.path.clone() };
        match as_owner(warm.owner, || Ok((bind(&place)?, file_at(&place)?))) {
            Ok((listener, file)) => Some(Door { listener, path: warm.path.clone(), place, file, owner: warm.owner }),
            Err(error) => {
                log::warn!("no socket {} of our own: {error}; sessions use what is there", warm.path.display());
                None
            }
        }
    }

    /// Whether it is where submit is to be found, and whose it is to be.
    pub fn is_that_of(&self, warm: &Warm) -> bool {
        self.path == warm.path && self.owner == warm.owner
    }

    /// The same socket once more.
    pub fn listener(&self) -> io::Result<Listener> {
        let copy = Listener::from_descriptor(self.listener.as_fd().try_clone_to_owned()?);
        copy.map_err(|_| io::Error::other("the socket of submit does not listen"))
    }

    /// Puts it where it is to be, in the place of the socket there: whoever connects finds the one or the other.
    pub fn take_its_place(&mut self) {
        if self.place == self.path {
            return;
        }
        match as_owner(self.owner, || std::fs::rename(&self.place, &self.path)) {
            Ok(()) => self.place.clone_from(&self.path),
            Err(error) => log::warn!("no socket {}: {error}", self.path.display()),
        }
    }

    /// Whether this is where that one was, so that nothing of that is left.
    pub fn is_in_place_of(&self, old: &Door) -> bool {
        self.place == old.place
    }

    /// Removes it, but not what another smtpd has put in its place. Where we may not any more it stays, and nobody listens.
    pub fn close(self) {
        let remove = || if file_at(&self.place)? == self.file { std::fs::remove_file(&self.place) } else { Ok(()) };
        let _ = as_owner(self.owner, remove);
    }
}

fn file_at(place: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(place).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    let bound = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_behind(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    listen(&bound, Backlog::new(BACKLOG)?)?;
    Ok(bound)
}

/// A socket that nobody listens on any more.
fn is_left_behind(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Does something in the folder of another user with his rights and not with root's: what is there is his.
fn as_owner<T>(owner: Option<(Uid, Gid)>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let (own_uid, own_gid) = (geteuid(), getegid());
    let old = umask(Mode::from_bits_truncate(0o177));
    let result = match owner.filter(|_| own_uid.is_root()) {
        None => act(),
        Some((uid, gid)) => {
            let become_owner = setegid(gid).and_then(|()| seteuid(uid)).map_err(io::Error::from);
            let result = become_owner.and_then(|()| act());
            // Back to root's uid first, which may have its gid again.
            seteuid(own_uid).and_then(|()| setegid(own_gid))?;
            result
        }
    };
    umask(old);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("submit");
        let first = bind(&path).unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        let _second = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "kept").unwrap();
        assert!(bind(&file).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"kept");
    }
}
