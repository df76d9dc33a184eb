//! Appending a message to a Maildir, so that neither a crash nor a repeat loses or doubles it.

use super::folders::{Folders, each_message, open_regular, sync};
use super::name::{Count, base as base_of, is_base, with_sizes};
use super::{SEARCHES, TICK, stamps};
use crate::again::again;
use crate::flocked::Flocked;
use crate::mailbox::{index, way};
use crate::write_out::WriteOut;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

/// What was left alone in tmp/ for so many seconds was left by a crash: no delivery takes so long (the Maildir convention).
const FORGOTTEN: i64 = 36 * 3600;

/// It is looked for by the first delivery for so many seconds, and where there is never so long none by one of so many.
const LOOK_AGAIN: i64 = 600;
const LOOKS: u32 = 64;

/// Room for a small message, and for pieces of a large one.
const ROOM: usize = 8 * 1024;
const LARGE_ROOM: usize = 128 * 1024;

/// How many files of tmp/ one delivery looks at for that.
const LOOKED_AT: usize = 100;

/// Appends a message: tmp, fsync, link into new/, fsync new/. `base` is the unique part of the name, the same at every
/// repeat; sizes are added to it. If a file of that base is in new/ already, or (`search`: the last try may have
/// crashed) in cur/, nothing is done. `strict`: a Maildir that is another user's, who could read what arrives there, is
/// left alone.
///
/// `content` gives exactly what is to be stored, with LF line ends; an error of its own abandons the delivery.
pub fn deliver(path: &Path, strict: bool, base: &str, search: bool, content: &mut dyn Read) -> io::Result<()> {
    if !is_base(base) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a name for a message"));
    }
    let folders = Folders::open(path)?;
    if strict && !way::is_trusted(&folders.top)? {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, way::NOT_OURS));
    }
    let before = fstat(&folders.tmp)?.st_mtime;
    if search && is_there(&folders, base)? {
        // The try that put it there may have ended before this.
        sync(&folders.new)?;
        sync(&folders.cur)?;
        let _ = remove_stale(&folders.tmp, base);
        return Ok(());
    }
    let draft = Draft::create(&folders.tmp, base)?;
    draft.fill(content).and_then(|name| publish(&folders, &draft, &name))?;
    // By the clock that stamps these files, which over a network is another machine's.
    let now = fstat(&*draft.file).map_or(0, |status| status.st_mtime);
    drop(draft);
    if is_time_to_look(base, before, now) {
        forget_old(&folders.tmp, now);
    }
    Ok(())
}

/// A file in tmp/, locked while it is written, gone when dropped.
struct Draft<'a> {
    tmp: &'a OwnedFd,
    base: &'a str,
    file: Flocked,
}

impl<'a> Draft<'a> {
    /// The lock tells a file that a crash left from one that is still being written by a delivery whose deliver was
    /// killed: that one must not find its name on our file when it links.
    fn create(tmp: &'a OwnedFd, base: &'a str) -> io::Result<Self> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let create = || again(|| openat(tmp, base, flags, Mode::S_IRUSR | Mode::S_IWUSR));
        let file = match create() {
            Err(Errno::EEXIST) => {
                remove_stale(tmp, base)?;
                create()
            }
            created => created,
        };
        let file = File::from(file?);
        let file = Flocked::take(file).inspect_err(|errno| {
            // Whoever locks it takes it for a stale one, and removes it.
            if *errno != Errno::EWOULDBLOCK {
                remove(tmp, base);
            }
        })?;
        match fstat(&*file) {
            // Between the two calls it was taken for a stale one; the name may be another's by now.
            Ok(status) if status.st_nlink == 0 => Err(Errno::EAGAIN.into()),
            result => {
                let draft = Draft { tmp, base, file };
                result?;
                Ok(draft)
            }
        }
    }

    /// Writes the content and puts it on disk; gives the name it is to have.
    fn fill(&self, content: &mut dyn Read) -> io::Result<String> {
        let (mut buffer, mut written_out) = (vec![0; ROOM], WriteOut::default());
        let mut count = Count::default();
        loop {
            let length = fill(content, &mut buffer)?;
            let piece = buffer.get(..length).unwrap_or_default();
            count.add(piece);
            (&*self.file).write_all(piece)?;
            if length < buffer.len() {
                break;
            }
            written_out.note(&self.file, count.octets);
            // So that a piece ends where one of the file of that size does, which the page cache has in one part then.
            buffer.resize(if buffer.len() == ROOM { LARGE_ROOM - ROOM } else { LARGE_ROOM }, 0);
        }
        self.file.sync_all()?;
        // Programs do not agree how much a last line without its end counts, so they had better count themselves.
        let virtual_octets = count.ends_in_a_line_end().then(|| count.virtual_octets());
        Ok(with_sizes(self.base, count.octets, virtual_octets))
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        remove(self.tmp, self.base);
    }
}

/// Reads until the buffer is full or there is no more: a small message is written at once. Gives how much there was.
fn fill(content: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while let Some(room) = buffer.get_mut(length..).filter(|room| !room.is_empty()) {
        match content.read(room) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

/// Tries twice; what cannot be removed then is forgotten in 36 hours.
fn remove(folder: &OwnedFd, name: &str) {
    let unlink = || again(|| unlinkat(folder, name, UnlinkatFlags::NoRemoveDir));
    let _ = unlink().or_else(|_| unlink());
}

/// Links the file into new/ and puts that on disk. That it is there already is what a repeat finds.
fn publish(folders: &Folders, draft: &Draft, name: &str) -> io::Result<()> {
    match again(|| linkat(&folders.tmp, draft.base, &folders.new, name, AtFlags::empty())) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    sync(&folders.new).map_err(|errno| {
        // A second fsync of a failed folder may succeed and lie, so nothing may be left for a repeat to find.
        remove(&folders.new, name);
        errno.into()
    })
}

/// Whether an earlier try put the message into new/, or that and another program moved it on.
///
/// Reading a folder can miss a file that is renamed in it meanwhile. So it is read twice at least, and until nobody was
/// at work there: its time is not only what it was, but was over when reading began, for two changes at once have one time.
fn is_there(folders: &Folders, base: &str) -> nix::Result<bool> {
    for look in 0..SEARCHES {
        let before = stamps(folders)?;
        let now = clock(&folders.tmp, base);
        let is_over = before.iter().all(|stamp| now.saturating_sub(index::modified_at(stamp)) > TICK);
        let mut there = false;
        for folder in [&folders.new, &folders.cur] {
            each_message(folder, |name| there |= base_of(name) == base.as_bytes())?;
        }
        if there {
            return Ok(true);
        }
        if look > 0 && is_over && stamps(folders)? == before {
            break;
        }
        if !is_over {
            std::thread::sleep(Duration::from_nanos(TICK));
        }
    }
    Ok(false)
}

/// Nanoseconds since 1970 by the clock that stamps the folders, which over a network is another machine's; ours where no
/// file can be made.
fn clock(tmp: &OwnedFd, base: &str) -> u64 {
    let stamp = Draft::create(tmp, base).and_then(|draft| Ok(index::stamp(&*draft.file)?));
    stamp.map_or_else(|_| index::now(), |stamp| index::modified_at(&stamp))
}

/// Removes what a crashed try left in tmp/; an error if that try still goes on.
fn remove_stale(tmp: &OwnedFd, base: &str) -> io::Result<()> {
    // NFS locks only what is open for writing.
    match open_regular(tmp, base.as_bytes(), OFlag::O_WRONLY) {
        Ok((stale, _)) => {
            let _lock = Flocked::take(stale)?;
            Ok(again(|| unlinkat(tmp, base, UnlinkatFlags::NoRemoveDir))?)
        }
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether to look for what is forgotten in tmp/, where something changed last at a time. A delivery as root is a process of
/// its own that can remember nothing.
fn is_time_to_look(base: &str, changed: i64, now: i64) -> bool {
    now.saturating_sub(changed) >= LOOK_AGAIN || crc32fast::hash(base.as_bytes()).is_multiple_of(LOOKS)
}

/// Removes what others left in tmp/ long ago. Failing at it is nobody's trouble.
///
/// Some programs give a file there the date of its message, which may be years old: only the youngest of its times tells.
fn forget_old(tmp: &OwnedFd, now: i64) {
    let mut left = LOOKED_AT;
    let mut names = Vec::new();
    let _ = each_message(tmp, |name| {
        if left > 0 {
            left -= 1;
            names.push(name.to_vec());
        }
    });
    for name in names {
        let status = fstatat(tmp, name.as_slice(), AtFlags::AT_SYMLINK_NOFOLLOW);
        let touched = status.map_or(now, |status| status.st_atime.max(status.st_mtime).max(status.st_ctime));
        if now.saturating_sub(touched) > FORGOTTEN {
            let _ = unlinkat(tmp, name.as_slice(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

#[cfg(test)]
mod tests;
