//! The queue: one file a message, written in place. The layout is in `layout.rs` and, octet by octet, in
//! doc/internals.md.
//!
//! `queue_directory/` holds `message/H/ID` (H: the last character of ID), the FIFO `trigger`, and where smtpd or
//! systemd made it, the socket `submit`.

pub mod file;
pub mod id;
pub mod layout;
mod numbered;
pub mod size;
mod spare;

use crate::clock;
use crate::exit;
use crate::logging;
use crate::message::parameters::RecipientParameters;
use crate::message::path::{Address, ReversePath};
use file::Found;
use nix::errno::Errno;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

pub use file::{Content, Draft, Message, RecipientState, Seen};
pub use id::Id;
pub use layout::Lines;
pub use size::EARLY_ROOM;

/// An incomplete file that nobody writes any more is removed when it is so old.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A next try that is further away than this was set by a wrong clock.
const LONGEST_WAIT: Duration = Duration::from_secs(8 * 86_400);

/// The attribute of a message that another gave rise to: which one, and how.
pub const ORIGIN: &str = "origin";

/// How many ids are tried for it.
const PROBES: u32 = 16;

/// Most names that are remembered as complained about.
const COMPLAINTS: usize = 1000;

/// Why the queue could not do it.
#[derive(Debug)]
pub enum Error {
    /// No space, no inodes, over quota, or over the limit of a file's size.
    Full,
    /// More recipients than may come before the content, or than a file can number.
    TooMany,
    /// Anything else; for the log.
    Io(String),
}

impl Error {
    fn from_io(what: &str, error: &io::Error) -> Error {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => {
                log::error!("{what}: {error}");
                Error::Full
            }
            _ => Error::Io(format!("{what}: {error}")),
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Full => f.write_str("the disk is full"),
            Error::TooMany => f.write_str("too many recipients"),
            Error::Io(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}

/// The queue of this machine.
#[derive(Debug)]
pub struct Queue {
    /// Its top folder.
    pub path: PathBuf,
    complained: Mutex<HashSet<OsString>>,
    complained_of_drop: Mutex<HashSet<OsString>>,
    /// The FIFO, once it has been written to.
    trigger: Mutex<Option<File>>,
    /// Files for messages to come.
    spares: Mutex<spare::Spares>,
}

impl Queue {
    /// Opens the queue; makes its folders (0700) and the FIFO where they are missing. It must belong to this process's
    /// user (exit 77 otherwise: `crate::exit::Error::Permission`).
    pub fn open(path: &Path) -> Result<Queue, exit::Error> {
        Queue::below(path, folder(path))
    }

    /// The same of one that is there: who only looks makes none, at a place that may be a slip of the pen.
    pub fn open_existing(path: &Path) -> Result<Option<Queue>, exit::Error> {
        match existing(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            top => Queue::below(path, top).map(Some),
        }
    }

    fn below(path: &Path, top: io::Result<File>) -> Result<Queue, exit::Error> {
        let trouble = |e: io::Error| match e.kind() {
            ErrorKind::PermissionDenied => exit::Error::Permission(format!("queue_directory {}: {e}", path.display())),
            _ => exit::Error::Temporary(format!("queue_directory {}: {e}", path.display())),
        };
        let top = top.and_then(|folder| folder.metadata()).map_err(trouble)?;
        let us = nix::unistd::geteuid();
        if top.uid() != us.as_raw() || top.mode() & 0o002 != 0 {
            let owner = top.uid();
            let text = format!("queue_directory {}: of uid {owner}, must be of uid {us} alone", path.display());
            return Err(exit::Error::Permission(text));
        }
        folder(&path.join("message")).map_err(trouble)?;
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
        match nix::unistd::mkfifo(&path.join("trigger"), mode) {
            Ok(()) | Err(Errno::EEXIST) => {}
            // A file system without FIFOs: messages wait for the next sweep.
            Err(errno) => log::warn!("queue_directory {}: no trigger: {errno}", path.display()),
        }
        Ok(Queue::at(path))
    }

    /// The queue at a place where `open` has been before; nothing is looked at or made.
    pub fn at(path: &Path) -> Queue {
        Queue {
            path: path.to_owned(),
            complained: Mutex::default(),
            complained_of_drop: Mutex::default(),
            trigger: Mutex::default(),
            spares: Mutex::default(),
        }
    }

    /// Begins a message: content, reverse-path and recipients are added, then it is committed; dropped, it is gone.
    pub fn begin(&self) -> Result<Draft, Error> {
        let now = clock::now();
        if clock::stands() {
            return self.begin_numbered(now);
        }
        if let Some(draft) = self.spare(now) {
            return Ok(draft);
        }
        for _ in 0..100 {
            if let Some(draft) = self.create(Id::new(now), now)? {
                return Ok(draft);
            }
        }
        Err(Error::Io("no free queue id".to_owned()))
    }

    /// The same for a message that another gives rise to, under an id made from that one's and `origin`, which is
    /// written into it; so a repeat after a crash finds its own file. `None` if it is there already.
    pub fn begin_derived(&self, parent: &Id, origin: &str) -> Result<Option<Draft>, Error> {
        let origin = format!("{parent} {origin}");
        for probe in 0..PROBES {
            let id = parent.derived(&origin, probe);
            match self.begin_as(&id)? {
                Begun::Draft(mut draft) => {
                    draft.attribute(ORIGIN, &origin)?;
                    return Ok(Some(*draft));
                }
                Begun::There(found) if found.attribute(ORIGIN) == Some(&origin) => return Ok(None),
                Begun::There(_) => {}
                // Nobody will ever read it, and so it is not this message, whatever it says.
                Begun::Garbage(why) => self.complain(id.as_str().as_ref(), &why),
            }
        }
        Err(Error::Io(format!("{parent}: no free id for {origin}")))
    }

    /// Whether that message is there.
    pub fn has_derived(&self, parent: &Id, origin: &str) -> Result<bool, Error> {
        let origin = format!("{parent} {origin}");
        for probe in 0..PROBES {
            match self.prove(&parent.derived(&origin, probe))? {
                Found::Message(found) if found.attribute(ORIGIN) == Some(&origin) => return Ok(true),
                Found::Message(_) | Found::Garbage(_) => {}
                Found::Locked | Found::Gone | Found::Incomplete(..) => break,
            }
        }
        Ok(false)
    }

    /// Begins a message under a given id, if none is there.
    fn begin_as(&self, id: &Id) -> Result<Begun, Error> {
        for _ in 0..3 {
            if let Some(draft) = self.create(*id, SystemTime::now())? {
                return Ok(Begun::Draft(Box::new(draft)));
            }
            match self.find(id)? {
                Found::Message(message) => return Ok(Begun::There(message)),
                // What a crash left of the last try, of whatever age: only who has the parent's lock writes this one.
                Found::Incomplete(..) => self.discard(id),
                Found::Gone => {}
                // Whoever has it need not let go: what it is made of never changes.
                Found::Locked => match self.prove(id)? {
                    Found::Message(message) => return Ok(Begun::There(message)),
                    Found::Garbage(why) => return Ok(Begun::Garbage(why)),
                    Found::Gone => {}
                    Found::Locked | Found::Incomplete(..) => {
                        return Err(Error::Io(format!("{id}: locked by another")));
                    }
                },
                Found::Garbage(why) => return Ok(Begun::Garbage(why)),
            }
        }
        Err(Error::Io(format!("{id}: comes and goes")))
    }

    /// What a file is, by its checksum, without its lock.
    fn prove(&self, id: &Id) -> Result<Found, Error> {
        Message::prove(*id, self.path_of(id)).map_err(|error| Error::from_io(&format!("{id}: open"), &error))
    }

    /// A message as it is now, without its lock: for lists. `None`: gone, or not complete.
    pub fn look(&self, id: &Id) -> Result<Option<Seen>, Error> {
        match Message::look(*id, self.path_of(id)) {
            Ok(Found::Message(message)) => Ok(Some(Seen(*message))),
            Ok(_) => Ok(None),
            Err(error) => Err(Error::from_io(&format!("{id}: open"), &error)),
        }
    }

    /// Every message by its name alone, oldest first, held ones too, but for those in folders that are closed to this process.
    pub fn names(&self) -> io::Result<Vec<Name>> {
        self.names_and_closed().map(|(names, _)| names)
    }

    /// The same, and those folders.
    pub fn names_and_closed(&self) -> io::Result<(Vec<Name>, Vec<OsString>)> {
        let mut names = Vec::new();
        let closed = self.each_name(|name| names.push(name))?;
        names.sort_unstable_by_key(|name| name.id);
        Ok((names, closed))
    }

    /// Wakes a waiting `deliver --watch`, so that it looks at the whole queue. False: nobody reads the FIFO.
    pub fn wake(&self) -> bool {
        self.write_trigger(b"!")
    }

    /// The same, so that it looks at one new message and at nothing else.
    pub fn wake_for(&self, id: &Id) -> bool {
        // In one write, which no other can get into (PIPE_BUF).
        self.write_trigger(format!("{id}\n").as_bytes())
    }

    fn write_trigger(&self, octets: &[u8]) -> bool {
        // Full is as good as written: whoever reads it has not yet looked.
        let is_told = |mut trigger: &File| match trigger.write_all(octets) {
            Ok(()) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        };
        let Ok(mut kept) = self.trigger.lock() else { return false };
        // Who read it may have gone, and another come.
        if kept.as_ref().is_some_and(is_told) {
            return true;
        }
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let opened = OpenOptions::new().write(true).custom_flags(flags).open(self.path.join("trigger"));
        let is_fifo = |trigger: &File| trigger.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
        *kept = opened.ok().filter(is_fifo);
        kept.as_ref().is_some_and(is_told)
    }

    /// Every message whose next try is not after `now` and that is not held, oldest due first, each with the time of that
    /// try; none is opened.
    pub fn due(&self, now: SystemTime) -> io::Result<Vec<(SystemTime, Id)>> {
        let mut due = Vec::new();
        let far = now.checked_add(LONGEST_WAIT).unwrap_or(now);
        self.each_name(|name| {
            if !name.is_held && (name.next_try <= now || name.next_try > far) {
                due.push((name.next_try, name.id));
            }
        })?;
        due.sort_unstable();
        Ok(due)
    }

    /// Gives the names of folders that are closed to this process.
    fn each_name(&self, mut found: impl FnMut(Name)) -> io::Result<Vec<OsString>> {
        let mut closed = Vec::new();
        for folder in std::fs::read_dir(self.path.join("message"))? {
            let folder = folder?;
            let entries = match std::fs::read_dir(folder.path()) {
                Ok(entries) => entries,
                Err(error) if error.kind() == ErrorKind::NotADirectory => {
                    self.complain(&folder.file_name(), "it is no folder of ours");
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    self.complain(&folder.file_name(), "this folder must belong to mail_owner, as all in it");
                    closed.push(folder.file_name());
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                let id = name.to_str().and_then(|name| name.parse::<Id>().ok());
                let Some(id) = id.filter(|id| id.folder() == folder.file_name()) else {
                    self.complain(&name, "its name is no queue id");
                    continue;
                };
                // Gone since: delivered by another.
                let Ok(metadata) = entry.metadata() else { continue };
                let Ok(next_try) = metadata.modified() else { continue };
                found(Name { id, next_try, is_held: metadata.mode() & file::HELD != 0, inode: metadata.ino() });
            }
        }
        Ok(closed)
    }

    /// Locks and opens a message. `None`: gone, locked by another, or incomplete (removed if an hour old).
    /// A file that is no message of ours is left alone and logged.
    pub fn take(&self, id: &Id) -> Result<Option<Message>, Error> {
        self.try_take(id).map(Result::ok)
    }

    /// The same, and why there is none.
    pub fn try_take(&self, id: &Id) -> Result<Result<Message, NotTaken>, Error> {
        match self.find(id)? {
            Found::Message(message) => return Ok(Ok(*message)),
            Found::Locked => return Ok(Err(NotTaken::Locked)),
            Found::Gone => {}
            Found::Incomplete(_locked, metadata) => {
                let written = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                if SystemTime::now().duration_since(written).is_ok_and(|age| age >= ABANDONED) {
                    log::info!("event=removed id={id} reason=\"its writer never completed it\"");
                    self.discard(id);
                }
            }
            Found::Garbage(why) => {
                self.complain(id.as_str().as_ref(), &why);
                return Ok(Err(NotTaken::Damaged));
            }
        }
        Ok(Err(NotTaken::Gone))
    }

    /// Whether there is a message of this id that is not held. One that is being written, or only prepared, is none yet, and
    /// whoever writes it wakes deliver when it is. The content is not read, so damage there is for who takes it to find.
    pub fn has(&self, id: &Id) -> bool {
        matches!(Message::look(*id, self.path_of(id)), Ok(Found::Message(message)) if !message.is_held)
    }

    fn create(&self, id: Id, now: SystemTime) -> Result<Option<Draft>, Error> {
        let trouble = |e: io::Error| Error::from_io(&format!("{id}: create"), &e);
        let path = self.path_of(&id);
        let folder = folder(path.parent().unwrap_or(&self.path)).map_err(trouble)?;
        match Draft::create(id, path, folder, now) {
            Ok(draft) => Ok(Some(draft)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(trouble(error)),
        }
    }

    fn find(&self, id: &Id) -> Result<Found, Error> {
        Message::open(*id, self.path_of(id)).map_err(|e| Error::from_io(&format!("{id}: open"), &e))
    }

    fn path_of(&self, id: &Id) -> PathBuf {
        self.path.join("message").join(id.folder()).join(id.as_str())
    }

    fn discard(&self, id: &Id) {
        if let Err(error) = remove_file(&self.path_of(id)) {
            log::warn!("event=not-removed id={id} reason={:?}", error.to_string());
        }
    }

    /// Logs once a name that what is there is no message.
    fn complain(&self, name: &std::ffi::OsStr, why: &str) {
        complain(&self.complained, "the queue", name, why);
    }

    /// The same of a file in the drop folder, where anybody may put any number.
    pub(crate) fn complain_of_drop(&self, name: &std::ffi::OsStr, why: &str) {
        complain(&self.complained_of_drop, "the drop folder", name, why);
    }
}

fn complain(complained: &Mutex<HashSet<OsString>>, place: &str, name: &std::ffi::OsStr, why: &str) {
    let Ok(mut complained) = complained.lock() else { return };
    if complained.len() >= COMPLAINTS || !complained.insert(name.to_owned()) {
        return;
    }
    log::warn!("event=left-alone file={} reason={why:?}", logging::clean(name.as_bytes(), 100));
    if complained.len() == COMPLAINTS {
        log::warn!("event=left-alone reason=\"of more than {COMPLAINTS} files in {place} this process says nothing\"");
    }
}

#[cfg(test)]
impl Queue {
    /// A message that nobody means to hold.
    pub fn take_at_last(&self, id: &Id) -> Message {
        self.try_take_at_last(id).unwrap_or_else(|why| panic!("{id}: {why:?}"))
    }

    /// Whether it can be had: the child of another test may have a copy of its lock until it has begun its program.
    pub fn try_take_at_last(&self, id: &Id) -> Result<Message, NotTaken> {
        let begun = std::time::Instant::now();
        loop {
            match self.try_take(id).unwrap() {
                Err(NotTaken::Locked) if begun.elapsed().as_secs() < 20 => std::thread::yield_now(),
                taken => return taken,
            }
        }
    }
}

/// Why a message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// It is not there, or not complete.
    Gone,
    /// Another process has it.
    Locked,
    /// It is no message, and left alone.
    Damaged,
}

/// What came of beginning a message under a given id.
#[derive(Debug)]
enum Begun {
    /// It may be written.
    Draft(Box<Draft>),
    /// A message has that id, whose ever it is.
    There(Box<Message>),
    /// A file has it that is no message, and why.
    Garbage(String),
}

/// Opens a folder of the queue, and makes it where it is missing.
///
/// A new folder is without write permission until its name is on disk. So nobody can put a message into a folder that
/// a power cut may take away, and a crash in between leaves a folder that whoever comes next sees to.
fn folder(path: &Path) -> io::Result<File> {
    match existing(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            match DirBuilder::new().mode(0o500).create(path) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            existing(path)
        }
        other => other,
    }
}

/// Opens a folder that is there, and sees to it.
fn existing(path: &Path) -> io::Result<File> {
    let folder = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC).open(path)?;
    if folder.metadata()?.mode() & 0o200 == 0 {
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()?;
        folder.set_permissions(Permissions::from_mode(0o700))?;
    }
    Ok(folder)
}

/// Removes a file of the queue. A power cut may leave its folder as it was made, without write permission, though the
/// message in it is on disk (btrfs does).
fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            folder(path.parent().unwrap_or(Path::new("/")))?;
            std::fs::remove_file(path)
        }
        other => other,
    }
}

/// What the name of a message and its inode say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// Its id.
    pub id: Id,
    /// When it is tried next.
    pub next_try: SystemTime,
    /// It is not tried until somebody releases it.
    pub is_held: bool,
    /// The number of its inode, by which the system tells of its lock.
    pub inode: u64,
}

/// A recipient in the queue.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// Who.
    pub address: Address,
    /// What the sender said with it.
    pub parameters: RecipientParameters,
    /// How far it is.
    pub state: RecipientState,
    /// How often it has been tried.
    pub attempts: u32,
    /// The sender has been told that it takes long.
    pub is_warned: bool,
    /// When this was recorded, by the clock of that time.
    pub changed: SystemTime,
    /// What the last try came to, for people and return messages: `5.1.1 no such user`. At most 120 octets.
    pub report: String,
}

/// What a draft needs besides content and recipients.
#[derive(Debug, Clone)]
pub struct Head {
    /// Where failures go.
    pub reverse_path: ReversePath,
    /// The Received field, with its line end; at most `file::TRACE_ROOM` octets.
    pub trace: Vec<u8>,
    /// The channel it came in on.
    pub channel: String,
}

#[cfg(test)]
mod tests;
