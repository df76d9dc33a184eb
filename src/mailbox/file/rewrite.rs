//! QUIT on a mailbox of one file: a new file without the marked messages takes its place, all deletions or none.
//!
//! ```text
//! locks; nobody has it open for writing; scan         other programs wait
//! `.NAME.doorpost` is written, read, and fsynced      a crash leaves the old mailbox, and a file nobody asks for
//! that is locked, too, and the two change names       a crash leaves the new mailbox, and the old one beside it;
//!                                                     the next login removes either
//! still nobody opened the old one for writing         else they change back, and all is tried again
//! the old one is removed, the folder fsynced
//! ```
//!
//! A program that opened the old file before it waited for a lock would write into a file that has no name any more.
//! So a lease is asked for, which the kernel grants only while nobody has the file open for writing, and takes away
//! when somebody wants to.

use super::{Identity, OneFile, identities, imap_base};
use crate::again::again;
use crate::config::value::MailboxFormat;
use crate::mailbox::index::stamp;
use crate::mailbox::lock::{Held, lease};
use crate::mailbox::mmdf;
use crate::mailbox::place::Place;
use crate::mailbox::scan::{Found, Scan, scan, scan_from};
use crate::sys::Lease;
use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

/// Removes messages; gives how many could not be.
pub fn remove(maildrop: &OneFile, numbers: &[usize]) -> io::Result<usize> {
    maildrop.locking.patiently(|| attempt(maildrop, numbers))
}

fn attempt(maildrop: &OneFile, numbers: &[usize]) -> io::Result<usize> {
    let place = &maildrop.place;
    let old = match place.open(OFlag::O_RDONLY) {
        // All that was marked is gone.
        Err(Errno::ENOENT) => return Ok(0),
        old => old?,
    };
    let held = match maildrop.lock(&old) {
        Err(Errno::ESTALE) => return Err(io::ErrorKind::WouldBlock.into()),
        held => held?,
    };
    let lease = lease(&old)?;
    if lease.is_none() && !held.has_dot() {
        let why = "who else writes into the mailbox cannot be known here without a dot lock";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let before = stamp(&old)?;
    let Scan { messages: found, internal, .. } = scan(&old, maildrop.format)?;
    let (doomed, doubtful) = doomed(&maildrop.identities()?, numbers, &found);
    if doomed.is_empty() {
        return Ok(doubtful);
    }
    let draft = draft_of(place);
    let stays: Vec<Found> =
        found.iter().enumerate().filter(|(index, _)| !doomed.contains(index)).map(|(_, found)| *found).collect();
    let head = match (found.first(), stays.first()) {
        (Some(first), Some(heir)) if doomed.contains(&0) && internal == 0 => imap_base::inherited(&old, first, heir)?,
        _ => None,
    };
    let mut locks_of_new = None;
    let written = write((&old, internal), maildrop.format, (&stays, head.as_deref()), place, &draft).and_then(|new| {
        // Before it has the name: what is delivered into it meanwhile would be gone if the two change back.
        locks_of_new = Some(Held::of_new(new, &maildrop.locking)?);
        // Somebody who knows none of our locks.
        if stamp(&old)? != before || !is_ours(lease.as_ref()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        exchange(maildrop, &draft, lease.as_ref())
    });
    // Now the old mailbox, or the one that was not finished.
    let _ = again(|| unlinkat(&place.folder, draft.as_os_str(), UnlinkatFlags::NoRemoveDir));
    drop(locks_of_new);
    written?;
    place.sync()?;
    Ok(doubtful)
}

fn draft_of(place: &Place) -> std::ffi::OsString {
    place.beside(".", ".doorpost")
}

/// Removes what a crash left of an earlier QUIT, which may be the old mailbox with all that was deleted. Without the dot
/// lock it may be that of a QUIT that goes on, whose other locks are on a file that has lost its name.
pub fn tidy(place: &Place, held: &Held) {
    if held.has_dot() {
        let _ = again(|| unlinkat(&place.folder, draft_of(place).as_os_str(), UnlinkatFlags::NoRemoveDir));
    }
}

fn is_ours(lease: Option<&Lease>) -> bool {
    lease.is_none_or(Lease::holds)
}

/// The messages of a scan that are to go, and how many marked ones cannot be told from one that is not marked.
fn doomed(then: &[Identity], numbers: &[usize], found: &[Found]) -> (HashSet<usize>, usize) {
    let now = identities(found);
    let count = |identities: &[Identity]| {
        let mut counts: HashMap<(u128, u32), usize> = HashMap::new();
        for (fields, body, _) in identities {
            *counts.entry((*fields, *body)).or_default() += 1;
        }
        counts
    };
    let (then_counts, now_counts) = (count(then), count(&now));
    let at: HashMap<_, usize> = now.iter().enumerate().map(|(index, identity)| (*identity, index)).collect();
    let (mut doomed, mut doubtful) = (HashSet::new(), 0);
    for identity in numbers.iter().filter_map(|number| then.get(*number)) {
        let key = (identity.0, identity.1);
        let (before, after) = (then_counts.get(&key).copied(), now_counts.get(&key).copied());
        match at.get(identity) {
            // Of twins another program took one: which, nobody can tell.
            _ if after.is_some() && after < before => doubtful += 1,
            Some(index) => drop(doomed.insert(*index)),
            None => {}
        }
    }
    (doomed, doubtful)
}

/// What must stand before the first message that stays. Programs that write one delimiter between two MMDF messages leave
/// the second with that of the first, and without one of its own.
fn missing_delimiter(format: MailboxFormat, old: &File, first: Option<&Found>) -> io::Result<&'static [u8]> {
    let Some(first) = first.filter(|first| format == MailboxFormat::Mmdf && first.start > 0) else { return Ok(b"") };
    let mut line = [0; mmdf::DELIMITER.len() + 1];
    let length = usize::try_from(first.next - first.start).unwrap_or(usize::MAX).min(line.len());
    let line = line.get_mut(..length).unwrap_or_default();
    old.read_exact_at(line, first.start)?;
    let end = memchr::memchr(b'\n', line).map_or(line.len(), |at| at + 1);
    let is_delimiter = mmdf::is_delimiter(line.get(..end).unwrap_or_default());
    Ok(if is_delimiter { b"" } else { mmdf::DELIMITER })
}

/// Writes what stays into a new file, and reads it again, for nothing but that may be in it. `internal` octets at the begin
/// are nobody's message, and stay with the first message or without it. `head` stands in place of what is before the body of
/// the first that stays.
///
/// A Content-Length that was wrong, and so not believed, may lead to a separator or the end now that something is gone, and
/// would make one message of several. Empty lines at the end of its message, one or two, make it wrong again.
fn write(
    (old, internal): (&File, u64),
    format: MailboxFormat,
    (stays, head): (&[Found], Option<&[u8]>),
    place: &Place,
    draft: &OsStr,
) -> io::Result<File> {
    let begins = missing_delimiter(format, old, stays.first())?;
    let internal = if stays.first().is_some_and(|first| first.start == 0) { 0 } else { internal };
    // Empty lines to add, by the number of the message.
    let mut longer: HashMap<usize, usize> = HashMap::new();
    for _ in 0..MOST_WRITES {
        let mut new = create(old, place, draft)?;
        let starts = fill(&mut new, (old, internal), begins, (stays, head), &longer)?;
        let wrong = misread(&new, format, stays, &starts)?;
        if wrong.is_empty() {
            new.sync_all()?;
            return Ok(new);
        }
        wrong.into_iter().for_each(|number| *longer.entry(number).or_default() += 1);
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "what would stay in the mailbox could not be told apart any more"))
}

/// How often a new mailbox is written whose messages do not come out as they are.
const MOST_WRITES: usize = 8;
/// How many messages are looked for in one of them that end in a wrong place.
const MOST_WRONG: usize = 1000;

/// A new file with the owner, the group and the mode of the old one. A group that the user is not in is not his to give: then
/// it has his own, which may do nothing with it.
fn create(old: &File, place: &Place, draft: &OsStr) -> io::Result<File> {
    // What a crash left, under our locks.
    match again(|| unlinkat(&place.folder, draft, UnlinkatFlags::NoRemoveDir)) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let new = File::from(again(|| openat(&place.folder, draft, flags, Mode::S_IRUSR | Mode::S_IWUSR))?);
    let (was, is) = (old.metadata()?, new.metadata()?);
    if was.uid() != is.uid() {
        again(|| fchown(&new, Some(Uid::from_raw(was.uid())), None))?;
    }
    let mut mode = was.mode() & 0o7777;
    if was.gid() != is.gid() {
        match again(|| fchown(&new, None, Some(Gid::from_raw(was.gid())))) {
            Err(Errno::EPERM) => mode &= !0o2070,
            given => given?,
        }
    }
    new.set_permissions(Permissions::from_mode(mode))?;
    Ok(new)
}

/// Copies what stays; gives where each message begins.
fn fill(
    new: &mut File,
    (old, internal): (&File, u64),
    begins: &[u8],
    (stays, mut head): (&[Found], Option<&[u8]>),
    longer: &HashMap<usize, usize>,
) -> io::Result<Vec<u64>> {
    let mut buffer = vec![0; 256 * 1024];
    copy(old, 0..internal, new, &mut buffer)?;
    new.write_all(begins)?;
    let (mut starts, mut at) = (Vec::with_capacity(stays.len()), 0);
    let mut end = internal + begins.len() as u64;
    for (number, found) in stays.iter().enumerate() {
        starts.push(at);
        let head = head.take();
        let from = head.map_or(found.start, |_| found.body);
        let head = head.unwrap_or_default();
        new.write_all(head)?;
        copy(old, from..found.next, new, &mut buffer)?;
        end += head.len() as u64 + found.next - from;
        for _ in 0..longer.get(&number).copied().unwrap_or_default() {
            new.write_all(b"\n")?;
            end += 1;
        }
        at = end;
    }
    Ok(starts)
}

/// The messages that do not come out as they were, because they end in another place.
fn misread(new: &File, format: MailboxFormat, stays: &[Found], starts: &[u64]) -> io::Result<Vec<usize>> {
    let mut wrong = Vec::new();
    let mut next = 0;
    while let (Some(start), Some(rest)) = (starts.get(next), stays.get(next..)) {
        let messages = scan_from(new, format, *start, next == 0)?.messages;
        let is_same = |(is, was): &(&Found, &Found)| (is.fields, is.body_sum) == (was.fields, was.body_sum);
        let same = messages.iter().zip(rest).take_while(is_same).count();
        if same == rest.len() && same == messages.len() {
            break;
        }
        next += same.min(rest.len() - 1);
        wrong.push(next);
        next += 1;
        if wrong.len() == MOST_WRONG {
            break;
        }
    }
    Ok(wrong)
}

fn copy(old: &File, range: std::ops::Range<u64>, new: &mut File, buffer: &mut [u8]) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let length = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(buffer.len());
        let count = match old.read_at(buffer.get_mut(..length).unwrap_or_default(), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        new.write_all(buffer.get(..count).unwrap_or_default())?;
        at += count as u64;
    }
    Ok(())
}

/// Gives the new file the mailbox's name, and takes it back if somebody opened the old one for writing meanwhile.
fn exchange(maildrop: &OneFile, draft: &OsStr, lease: Option<&Lease>) -> io::Result<()> {
    let (folder, name) = (&maildrop.place.folder, maildrop.place.name.as_os_str());
    let exchange = || again(|| renameat2(folder, draft, folder, name, RenameFlags::RENAME_EXCHANGE));
    match exchange() {
        Ok(()) => {}
        // A file system that cannot: no way back, and a moment longer in which somebody could come.
        Err(Errno::EINVAL | Errno::ENOSYS) => return Ok(again(|| renameat(folder, draft, folder, name))?),
        Err(errno) => return Err(errno.into()),
    }
    #[cfg(test)]
    tests::between();
    if is_ours(lease) {
        return Ok(());
    }
    exchange()?;
    Err(io::ErrorKind::WouldBlock.into())
}

#[cfg(test)]
mod tests {
    use crate::config::value::MailboxFormat::Mbox;
    use crate::mailbox::Maildrop;
    use crate::mailbox::append::deliver;
    use crate::mailbox::file::OneFile;
    use crate::mailbox::lock::{LOCKING, Locking};
    use std::cell::{Cell, RefCell};
    use std::fs::OpenOptions;
    use std::io::ErrorKind;
    use std::os::unix::fs::OpenOptionsExt;
    use std::rc::Rc;

    thread_local! {
        static BETWEEN: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
    }

    /// What others do when the files have changed names.
    pub fn between() {
        if let Some(act) = BETWEEN.take() {
            act();
        }
    }

    #[test]
    fn what_comes_before_the_names_change_back_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, draft) = (folder.path().join("bob"), folder.path().join(".bob.doorpost"));
        let old = "From bob@mx.example Sun Nov 22 04:27:00 2026\nSubject: 1\n\nbody\n\n";
        for flock in [false, true] {
            std::fs::write(&path, old).unwrap();
            // Nobody makes a dot lock, as where nobody may.
            let locking = Locking { dot: false, fcntl: !flock, flock, ..LOCKING };
            let mut maildrop = OneFile::open(&path, Mbox, locking.clone()).unwrap();
            let was_delivered = Rc::new(Cell::new(None));
            let (answer, path_then, draft) = (Rc::clone(&was_delivered), path.clone(), draft.clone());
            BETWEEN.set(Some(Box::new(move || {
                let opened = OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(&draft);
                assert_eq!(opened.err().map(|error| error.kind()), Some(ErrorKind::WouldBlock), "there is no lease");
                let mut content = b"Return-Path: <>\n\nmeanwhile\n".as_slice();
                answer.set(Some(deliver(&path_then, Mbox, true, &locking, "1.Q", false, &mut content).is_ok()));
            })));
            assert_eq!(maildrop.remove(&[0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(text.starts_with(old), "{text}");
            assert_eq!(was_delivered.get(), Some(text.contains("meanwhile")), "{text}");
        }
    }
}
