//! A queued message: taken under its lock, read, and marked with what became of each recipient.

use super::{Draft, HELD, RecipientState, microseconds};
use crate::again::again;
use crate::logging;
use crate::message::parameters::MailParameters;
use crate::message::path::ReversePath;
use crate::queue::layout::{self, Header, Kind, LONGEST_REPORT, LONGEST_TOLD, Lines, Slot};
use crate::queue::{Error, Id, Recipient, remove_file};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::ops::Deref;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

mod read;

/// A queued message, locked until dropped; one that is only looked at is [`Seen`].
#[derive(Debug)]
pub struct Message {
    /// Its id.
    pub id: Id,
    /// Where failures go.
    pub reverse_path: ReversePath,
    /// The channel it came in on.
    pub channel: String,
    /// When it was queued.
    pub created: SystemTime,
    /// What the sender said with the reverse-path.
    pub parameters: MailParameters,
    /// Facts about it, by name: `content_filter`.
    pub attributes: Vec<(String, String)>,
    /// How the lines of its content end.
    pub lines: Lines,
    /// It is not to be tried until somebody releases it.
    pub is_held: bool,
    /// Octets of trace field and content.
    pub size: u64,
    /// All recipients, by number.
    pub recipients: Vec<Recipient>,
    path: PathBuf,
    file: File,
    start: u64,
    /// Where each recipient's slot is.
    slots: Vec<u64>,
}

/// A queued message as it was at a look, without its lock: nothing in it may be changed.
#[derive(Debug)]
pub struct Seen(pub(in crate::queue) Message);

impl Deref for Seen {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.0
    }
}

/// What a file in the queue turned out to be.
#[derive(Debug)]
pub(in crate::queue) enum Found {
    /// A message; locked by us, if it is `open` that found it.
    Message(Box<Message>),
    /// Another process has it.
    Locked,
    /// It is not there any more.
    Gone,
    /// Its writer did not come to its end; locked by us in the same case.
    Incomplete(File, Metadata),
    /// No message, and why.
    Garbage(String),
}

/// Why a file with several names is no message: whoever has another may write to it.
const SEVERAL: &str = "it has more than one name";

/// Why whatever else has the name of one is none.
const NO_FILE: &str = "it is no regular file";

impl Message {
    /// Opens and locks a file, and believes nothing of it before its checksum agrees.
    pub(in crate::queue) fn open(id: Id, path: PathBuf) -> io::Result<Found> {
        match locked(&path)? {
            Ok((file, metadata)) => judged(id, path, file, metadata, Opened::Locked),
            Err(found) => Ok(found),
        }
    }

    /// Opens a file for a look, locked by another or not; the content is not read, so no checksum is made.
    pub(in crate::queue) fn look(id: Id, path: PathBuf) -> io::Result<Found> {
        Message::read_only(id, path, Opened::ToLook)
    }

    /// The same with a checksum, for who must be certain.
    pub(in crate::queue) fn prove(id: Id, path: PathBuf) -> io::Result<Found> {
        match Message::read_only(id, path, Opened::ToProve) {
            // As for who takes it.
            Err(error) if is_of_no_message(&error) => Ok(Found::Garbage(error.to_string())),
            found => found,
        }
    }

    fn read_only(id: Id, path: PathBuf, opened: Opened) -> io::Result<Found> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Gone),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(Found::Garbage(error.to_string())),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        judged(id, path, file, metadata, opened)
    }

    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Reads octets of trace field and content at `offset`; 0: at the end.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Error> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        if room == 0 {
            return Ok(0);
        }
        match again(|| self.file.read_at(&mut buffer[..room], self.start + offset)) {
            // The length was checked: it was cut off by somebody since.
            Ok(0) => Err(Error::Io(format!("{}: the file has shrunk", self.id))),
            Ok(count) => Ok(count),
            Err(error) => Err(self.trouble("read", error)),
        }
    }

    /// Trace field and content, from the beginning.
    pub fn content(&self) -> Content<'_> {
        Content { message: self, offset: 0 }
    }

    /// The first octets of them, `most` at the most.
    pub fn beginning(&self, most: usize) -> Result<Vec<u8>, Error> {
        let mut octets = vec![0; usize::try_from(self.size).map_or(most, |size| size.min(most))];
        let mut filled = 0;
        while filled < octets.len() {
            match self.read_at(&mut octets[filled..], filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        octets.truncate(filled);
        Ok(octets)
    }

    /// Adds the whole content to another message, and ends its content.
    pub fn copy_to(&self, draft: &mut Draft) -> Result<(), Error> {
        let (mut buffer, mut at) = (vec![0; 32 * 1024], 0_u64);
        loop {
            match self.read_at(&mut buffer, at)? {
                0 => return draft.end_content(),
                count => {
                    draft.content(&buffer[..count])?;
                    at += count as u64;
                }
            }
        }
    }

    /// Records how far a recipient is; `Trying` counts one attempt more. `durable`: on disk before this returns. The
    /// report is cleaned; in the file it is cut.
    pub fn mark(&mut self, number: usize, state: RecipientState, report: &str, durable: bool) -> Result<(), Error> {
        let (Some(recipient), Some(&at)) = (self.recipients.get_mut(number), self.slots.get(number)) else {
            return Err(Error::Io(format!("{}: there is no recipient {number}", self.id)));
        };
        let attempts = recipient.attempts.saturating_add(u32::from(state == RecipientState::Trying));
        let told = logging::clean(report.as_bytes(), LONGEST_TOLD);
        let report = logging::clean(told.as_bytes(), LONGEST_REPORT);
        let is_warned = recipient.is_warned;
        let changed = SystemTime::now();
        let slot = Slot { state, attempts, is_warned, time: microseconds(changed), report };
        // Twice: what was done must not be done again because a write failed once.
        let write = || self.file.write_all_at(&slot.encode(), at);
        write().or_else(|_| write()).map_err(|e| Error::from_io(&format!("{}: mark", self.id), &e))?;
        if durable {
            self.file.sync_data().map_err(|e| Error::from_io(&format!("{}: fdatasync", self.id), &e))?;
        }
        (recipient.state, recipient.attempts, recipient.report) = (slot.state, slot.attempts, told);
        recipient.changed = changed;
        Ok(())
    }

    /// Records that the sender has been told that a recipient takes long. `durable` as for [`Message::mark`].
    pub fn mark_warned(&mut self, number: usize, durable: bool) -> Result<(), Error> {
        let Some(recipient) = self.recipients.get_mut(number) else {
            return Err(Error::Io(format!("{}: there is no recipient {number}", self.id)));
        };
        recipient.is_warned = true;
        let (state, report) = (recipient.state, recipient.report.clone());
        self.mark(number, state, &report, durable)
    }

    /// Holds it, so that nobody tries it, or releases it; on disk before this returns. After an error it is as it was, as far
    /// as that is possible: nobody would know of one that stayed held.
    pub fn hold(&mut self, held: bool) -> Result<(), Error> {
        self.set_held(held).map_err(|e| self.trouble("set its mode", e))?;
        if let Err(error) = self.file.sync_all() {
            if let Err(error) = self.set_held(self.is_held) {
                log::error!(
                    "id={} event=left-{} reason={:?}",
                    self.id,
                    if held { "held" } else { "released" },
                    error.to_string()
                );
            }
            return Err(self.trouble("fsync", error));
        }
        self.is_held = held;
        Ok(())
    }

    fn set_held(&self, held: bool) -> io::Result<()> {
        self.file.set_permissions(std::fs::Permissions::from_mode(if held { 0o600 | HELD } else { 0o600 }))
    }

    /// Puts all marks made so far on disk.
    pub fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(|e| Error::from_io(&format!("{}: fdatasync", self.id), &e))
    }

    /// The file once more, for reading only and without our lock, for a process that may do no more than that; trace
    /// field and content are the `size` octets behind the number.
    pub fn for_reading(&self) -> Result<(File, u64), Error> {
        let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(&self.path);
        let same = |file: &File| file.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
        let agrees = opened.and_then(|file| Ok((same(&file)? == same(&self.file)?, file)));
        match agrees.map_err(|e| self.trouble("open for reading", e))? {
            (true, file) => Ok((file, self.start)),
            (false, _) => Err(Error::Io(format!("{}: another file has its name", self.id))),
        }
    }

    /// Sets the next try. To be called after the marks of a try, which change the file's time.
    pub fn defer_until(&mut self, time: SystemTime) -> Result<(), Error> {
        self.file.set_modified(time).map_err(|e| self.trouble("set its time", e))
    }

    /// Removes it: every recipient is done.
    pub fn remove(self) -> Result<(), Error> {
        match remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.trouble("remove", error)),
            _ => Ok(()),
        }
    }

    fn trouble(&self, what: &str, error: io::Error) -> Error {
        Error::from_io(&format!("{}: {what}", self.id), &error)
    }
}

/// What is passed on of a message. An error is an early end: whoever has the rest must not take it for all.
pub struct Content<'a> {
    message: &'a Message,
    offset: u64,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.message.read_at(buffer, self.offset);
        let count = read.map_err(|error| io::Error::new(io::ErrorKind::UnexpectedEof, error.to_string()))?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// How a file was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opened {
    /// To be shown: its content is not read.
    ToLook,
    /// To be believed.
    ToProve,
    /// The same, and it is ours now.
    Locked,
}

/// What an open file is.
fn judged(id: Id, path: PathBuf, file: File, metadata: Metadata, opened: Opened) -> io::Result<Found> {
    if metadata.nlink() == 0 {
        return Ok(Found::Gone);
    }
    if !metadata.is_file() {
        return Ok(Found::Garbage(NO_FILE.to_owned()));
    }
    let is_checked = opened != Opened::ToLook;
    if is_checked && metadata.nlink() > 1 {
        return Ok(Found::Garbage(SEVERAL.to_owned()));
    }
    let (octets, kind) = read::header(&file, metadata.len())?;
    let header = match kind {
        Kind::Complete(header) => header,
        Kind::Incomplete => return Ok(Found::Incomplete(file, metadata)),
        Kind::Garbage(why) => return Ok(Found::Garbage(why.to_owned())),
    };
    let again = (opened == Opened::Locked && header.is_prepared).then(|| path.clone());
    Ok(match read::body(id, path, file, &header, is_checked.then(|| layout::begin_checksum(&octets)))? {
        Ok(message) => Found::Message(Box::new(Message { is_held: metadata.mode() & HELD != 0, ..message })),
        Err(why) => match again.map(|path| broken_off(id, &path, &header)).transpose()? {
            Some(Some(found)) => found,
            _ => Found::Garbage(why.to_owned()),
        },
    })
}

/// A prepared file whose header is there and whose rest is not, if the power failed while a message was written into it.
/// It is locked anew.
fn broken_off(id: Id, path: &Path, header: &Header) -> io::Result<Option<Found>> {
    let (file, metadata) = match locked(path)? {
        Ok(locked) => locked,
        Err(found) => return Ok(Some(found)),
    };
    Ok(read::was_broken_off(id, &file, header)?.then_some(Found::Incomplete(file, metadata)))
}

/// Whether opening failed as it does for what is no file, or none that we wrote.
fn is_of_no_message(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ELOOP | libc::EISDIR | libc::ENXIO | libc::EACCES))
}

/// The file of that name, ours now; or what else is there.
fn locked(path: &Path) -> io::Result<Result<(File, Metadata), Found>> {
    // Non-blocking, for a FIFO put there must not hold us.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Err(Found::Gone)),
        Err(error) if is_of_no_message(&error) => return Ok(Err(Found::Garbage(error.to_string()))),
        Err(error) => return Err(error),
    };
    match again(|| file.try_lock().map_err(io::Error::from)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Err(Found::Locked)),
        Err(error) => return Err(error),
    }
    let metadata = file.metadata()?;
    Ok(Ok((file, metadata)))
}
