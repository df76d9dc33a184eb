//! One message on disk: a [`Draft`] while it is written, a [`Message`] when it is read. The octets are in `layout.rs`, and
//! `file/read.rs` takes a file apart.
//!
//! A file is created under its final name and written in place. Nought octets stand where its header will be until all
//! else is written, so a crash leaves either an incomplete file, which nobody takes, or a whole one.

use super::layout::{self, CONTENT, HEADER, Header, Kind, LONGEST_REPORT, Lines, SLOT, Slot};
use super::{Error, Head, Id, Recipient};
use crate::logging;
use crate::message::parameters::{MailParameters, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::write_out::WriteOut;
use crc32fast::Hasher;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

mod read;

/// Room for the Received field in front of the content, which comes before the field's facts are known.
pub const TRACE_ROOM: usize = 2048;

/// Most octets of recipients that come before the content: they are kept in memory.
pub const EARLY_ROOM: usize = 1 << 20;

/// The bit of a file's mode that says that the message is held.
pub const HELD: u32 = 0o100;

/// Longest channel name.
const LONGEST_CHANNEL: usize = 255;

/// Octets that are collected before a write; a small message goes to the file in one.
const BUFFER: usize = 64 * 1024;

/// How far a recipient is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipientState {
    /// To be tried.
    Waiting,
    /// A try has begun; found in a message nobody has locked, it ended in a crash, and the mailbox must be searched.
    Trying,
    /// Done.
    Delivered,
    /// Given up; a return message is due.
    Failed,
    /// Given up, and the return message is queued (or was not wanted).
    Returned,
}

/// A message being written. Dropped without `commit`, its file is removed.
#[derive(Debug)]
pub struct Draft {
    id: Id,
    path: PathBuf,
    file: File,
    folder: File,
    created: SystemTime,
    buffer: Vec<u8>,
    /// Octets of the file that are written; `buffer` belongs behind them.
    written: u64,
    written_out: WriteOut,
    checksum: Hasher,
    recipients: u32,
    /// Addresses and parameters, with their lengths, that came before the content.
    early: Vec<u8>,
    /// Attributes with their lengths.
    attributes: Vec<u8>,
    content_end: Option<u64>,
    has_cr: bool,
    last_octet: u8,
    committed: bool,
}

impl Draft {
    /// Creates the file, exclusively, and locks it. `AlreadyExists` means just that.
    pub(super) fn create(id: Id, path: PathBuf, folder: File, created: SystemTime) -> io::Result<Draft> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(&path)?;
        let draft = Draft {
            id,
            path,
            file,
            folder,
            created,
            buffer: Vec::with_capacity(4096),
            written: CONTENT,
            written_out: WriteOut::default(),
            checksum: Hasher::new(),
            recipients: 0,
            early: Vec::new(),
            attributes: Vec::new(),
            content_end: None,
            has_cr: false,
            last_octet: b'\n',
            committed: false,
        };
        // A reader that looks at the new file holds its lock for a moment only.
        uninterrupted(|| draft.file.lock())?;
        Ok(draft)
    }

    /// Its id.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// Adds octets of content; not after `end_content`.
    pub fn content(&mut self, octets: &[u8]) -> Result<(), Error> {
        if self.content_end.is_some() {
            return Err(Error::Io(format!("{}: content behind its end", self.id)));
        }
        self.has_cr = self.has_cr || memchr::memchr(b'\r', octets).is_some();
        self.last_octet = octets.last().copied().unwrap_or(self.last_octet);
        self.checked(octets)
    }

    /// Adds a recipient with which nothing was said.
    pub fn recipient(&mut self, address: &Address) -> Result<(), Error> {
        self.recipient_with(address, &RecipientParameters::default())
    }

    /// Adds a recipient; kept in memory until `end_content`, written through after it.
    pub fn recipient_with(&mut self, address: &Address, parameters: &RecipientParameters) -> Result<(), Error> {
        let more = self.recipients.checked_add(1).ok_or(Error::TooMany)?;
        let (address, parameters) = (address.as_bytes(), parameters.to_string());
        let parameters = parameters.as_bytes();
        if self.content_end.is_some() {
            self.write_recipient(address, parameters)?;
        } else {
            if self.early.len() + 4 + address.len() + parameters.len() > EARLY_ROOM {
                return Err(Error::TooMany);
            }
            for text in [address, parameters] {
                self.early.extend_from_slice(&counted(text)?);
                self.early.extend_from_slice(text);
            }
        }
        self.recipients = more;
        Ok(())
    }

    /// Says what was said with the reverse-path; at most once.
    pub fn parameters(&mut self, parameters: &MailParameters) -> Result<(), Error> {
        if parameters.is_empty() { Ok(()) } else { self.attribute(layout::PARAMETERS, &parameters.to_string()) }
    }

    /// Adds a fact about the message: its name, which has no `=`, and its value. Written with the envelope.
    pub fn attribute(&mut self, name: &str, value: &str) -> Result<(), Error> {
        let text = format!("{name}={value}");
        let length = counted(text.as_bytes())?;
        if self.attributes.len() + 2 + text.len() > layout::ATTRIBUTES {
            return Err(Error::Io(format!("{}: too many attributes", self.id)));
        }
        self.attributes.extend_from_slice(&length);
        self.attributes.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// No content comes after this.
    pub fn end_content(&mut self) -> Result<(), Error> {
        if self.content_end.is_some() {
            return Ok(());
        }
        self.content_end = Some(self.position());
        let early = std::mem::take(&mut self.early);
        let mut rest = &early[..];
        while let Some((address, behind)) = layout::take_counted(rest) {
            let Some((parameters, behind)) = layout::take_counted(behind) else { break };
            self.write_recipient(address, parameters)?;
            rest = behind;
        }
        Ok(())
    }

    /// The content, whose end has been said, for somebody who must see it before it is queued.
    pub fn written(&mut self) -> Result<Written<'_>, Error> {
        let buffer = std::mem::take(&mut self.buffer);
        self.write_through(&buffer)?;
        Ok(Written { file: &self.file, at: CONTENT, end: self.content_end.unwrap_or(CONTENT) })
    }

    /// Whether a CR is in the content.
    pub fn has_cr(&self) -> bool {
        self.has_cr
    }

    /// Octets so far, content and envelope, as they lie on disk.
    pub fn size(&self) -> u64 {
        let early = if self.content_end.is_some() { 0 } else { u64::from(self.recipients) * SLOT as u64 };
        self.position() - CONTENT + early + self.early.len() as u64 + self.attributes.len() as u64
    }

    /// Puts the message on disk: trace, envelope, complete, fsync of file and folder, link count. Only after this may
    /// a client be told that it is taken.
    pub fn commit(mut self, head: &Head) -> Result<Id, Error> {
        self.end_content()?;
        let envelope_at = self.position();
        if head.trace.len() > TRACE_ROOM || head.channel.len() > LONGEST_CHANNEL {
            return Err(Error::Io(format!("{}: trace field or channel name too long", self.id)));
        }
        for text in [head.reverse_path.as_bytes(), head.channel.as_bytes()] {
            self.checked(&counted(text)?)?;
            self.checked(text)?;
        }
        let attributes = std::mem::take(&mut self.attributes);
        self.checked(&attributes)?;
        self.checked(layout::END)?;
        let header = Header {
            version: layout::VERSION,
            lines: if self.has_cr || self.last_octet != b'\n' { Lines::Exact } else { Lines::Lf },
            recipients: self.recipients,
            created: microseconds(self.created),
            trace_at: CONTENT - head.trace.len() as u64,
            recipients_at: self.content_end.unwrap_or(CONTENT),
            envelope_at,
            length: self.position() + 4,
        };
        let octets = header.encode();
        let mut checksum = Hasher::new();
        layout::checked_parts(&octets).iter().for_each(|part| checksum.update(part));
        checksum.update(&head.trace);
        checksum.combine(&self.checksum);
        self.plain(&checksum.finalize().to_be_bytes())?;
        self.finish(&head.trace, header.trace_at, &octets).map_err(|e| self.trouble("write", e))?;
        self.make_durable()?;
        self.committed = true;
        Ok(self.id)
    }

    /// What is left of the body, then the header, which makes the message complete.
    fn finish(&mut self, trace: &[u8], trace_at: u64, header: &[u8; HEADER]) -> io::Result<()> {
        if self.written == CONTENT {
            self.buffer.splice(0..0, trace.iter().copied());
            self.file.write_all_at(&self.buffer, trace_at)?;
        } else {
            self.file.write_all_at(&self.buffer, self.written)?;
            self.file.write_all_at(trace, trace_at)?;
        }
        self.file.write_all_at(header, 0)
    }

    fn make_durable(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(|e| self.trouble("fsync", e))?;
        // The name must survive as well as the file.
        self.folder.sync_all().map_err(|e| self.trouble("fsync of the folder", e))?;
        // A reader with a wrong clock may have taken us for an old failure and removed the name.
        match self.file.metadata().map_err(|e| self.trouble("fstat", e))?.nlink() {
            1 => Ok(()),
            links => Err(Error::Io(format!("{}: {links} names instead of one", self.id))),
        }
    }

    fn write_recipient(&mut self, address: &[u8], parameters: &[u8]) -> Result<(), Error> {
        for text in [address, parameters] {
            self.checked(&counted(text)?)?;
            self.checked(text)?;
        }
        self.plain(&Slot::FRESH)
    }

    /// Adds octets that the checksum covers.
    fn checked(&mut self, octets: &[u8]) -> Result<(), Error> {
        self.checksum.update(octets);
        self.plain(octets)
    }

    fn plain(&mut self, octets: &[u8]) -> Result<(), Error> {
        let is_large = octets.len() > BUFFER / 2;
        if self.buffer.len() + octets.len() > BUFFER || (is_large && !self.buffer.is_empty()) {
            let buffer = std::mem::take(&mut self.buffer);
            self.write_through(&buffer)?;
            self.buffer = buffer;
            self.buffer.clear();
        }
        if is_large {
            return self.write_through(octets);
        }
        self.buffer.extend_from_slice(octets);
        Ok(())
    }

    fn write_through(&mut self, octets: &[u8]) -> Result<(), Error> {
        self.file.write_all_at(octets, self.written).map_err(|e| self.trouble("write", e))?;
        self.written += octets.len() as u64;
        self.written_out.note(&self.file, self.written);
        Ok(())
    }

    fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn trouble(&self, what: &str, error: io::Error) -> Error {
        Error::from_io(&format!("{}: {what}", self.id), &error)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        // A disk that failed may not let go of the name either: without the state octet the file is never taken.
        let _ = self.file.write_all_at(&[0], layout::STATE as u64);
        if let Err(error) = super::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("event=not-removed id={} reason=\"{error}\"", self.id);
        }
    }
}

/// The content of a draft, read back.
#[derive(Debug)]
pub struct Written<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl io::Read for Written<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        let count = self.file.read_at(buffer.get_mut(..room).unwrap_or_default(), self.at)?;
        self.at += count as u64;
        if count == 0 && room > 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(count) }
    }
}

/// A queued message, locked until dropped.
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

/// What a file in the queue turned out to be.
#[derive(Debug)]
pub(super) enum Found {
    /// A message, locked.
    Message(Box<Message>),
    /// Another process has it.
    Locked,
    /// It is not there any more.
    Gone,
    /// Its writer did not come to its end; locked by us.
    Incomplete(File, Metadata),
    /// No message, and why.
    Garbage(String),
}

impl Message {
    /// Opens and locks a file, and believes nothing of it before its checksum agrees.
    pub(super) fn open(id: Id, path: PathBuf) -> io::Result<Found> {
        // Non-blocking, for a FIFO put there must not hold us.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Gone),
            Err(error) => match error.raw_os_error() {
                Some(libc::ELOOP | libc::EISDIR | libc::ENXIO | libc::EACCES) => {
                    return Ok(Found::Garbage(error.to_string()));
                }
                _ => return Err(error),
            },
        };
        match uninterrupted(|| file.try_lock().map_err(io::Error::from)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Found::Locked),
            Err(error) => return Err(error),
        }
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(Found::Garbage("it is no regular file".to_owned()));
        }
        match metadata.nlink() {
            0 => return Ok(Found::Gone),
            1 => {}
            _ => return Ok(Found::Garbage("it has more than one name".to_owned())),
        }
        let (octets, kind) = read::header(&file, metadata.len())?;
        let header = match kind {
            Kind::Incomplete => return Ok(Found::Incomplete(file, metadata)),
            Kind::Garbage(why) => return Ok(Found::Garbage(why.to_owned())),
            Kind::Complete(header) => header,
        };
        let mut checksum = Hasher::new();
        layout::checked_parts(&octets).iter().for_each(|part| checksum.update(part));
        Ok(match read::body(id, path, file, &header, Some(checksum))? {
            Ok(message) => Found::Message(Box::new(Message { is_held: metadata.mode() & HELD != 0, ..message })),
            Err(why) => Found::Garbage(why.to_owned()),
        })
    }

    /// Opens a file for a look, locked by another or not; the content is not read, so no checksum is made.
    pub(super) fn look(id: Id, path: PathBuf) -> io::Result<Found> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Gone),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(Found::Garbage(error.to_string())),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.nlink() == 0 {
            return Ok(Found::Gone);
        }
        let header = match read::header(&file, metadata.len())? {
            (_, Kind::Complete(header)) => header,
            (_, Kind::Incomplete) => return Ok(Found::Incomplete(file, metadata)),
            (_, Kind::Garbage(why)) => return Ok(Found::Garbage(why.to_owned())),
        };
        Ok(match read::body(id, path, file, &header, None)? {
            Ok(message) => Found::Message(Box::new(Message { is_held: metadata.mode() & HELD != 0, ..message })),
            Err(why) => Found::Garbage(why.to_owned()),
        })
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
        match uninterrupted(|| self.file.read_at(&mut buffer[..room], self.start + offset)) {
            // The length was checked: it was cut off by somebody since.
            Ok(0) => Err(Error::Io(format!("{}: the file has shrunk", self.id))),
            Ok(count) => Ok(count),
            Err(error) => Err(self.trouble("read", error)),
        }
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
    /// report is cleaned and cut.
    pub fn mark(&mut self, number: usize, state: RecipientState, report: &str, durable: bool) -> Result<(), Error> {
        let (Some(recipient), Some(&at)) = (self.recipients.get_mut(number), self.slots.get(number)) else {
            return Err(Error::Io(format!("{}: there is no recipient {number}", self.id)));
        };
        let attempts = recipient.attempts.saturating_add(u32::from(state == RecipientState::Trying));
        let report = logging::clean(report.as_bytes(), LONGEST_REPORT);
        let is_warned = recipient.is_warned;
        let changed = SystemTime::now();
        let slot = Slot { state, attempts, is_warned, time: microseconds(changed), report };
        // Twice: what was done must not be done again because a write failed once.
        let write = || self.file.write_all_at(&slot.encode(), at);
        write().or_else(|_| write()).map_err(|e| Error::from_io(&format!("{}: mark", self.id), &e))?;
        if durable {
            self.file.sync_data().map_err(|e| Error::from_io(&format!("{}: fdatasync", self.id), &e))?;
        }
        (recipient.state, recipient.attempts, recipient.report) = (slot.state, slot.attempts, slot.report);
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

    /// Holds it, so that nobody tries it, or releases it; on disk before this returns.
    pub fn hold(&mut self, held: bool) -> Result<(), Error> {
        let permissions = std::fs::Permissions::from_mode(if held { 0o600 | HELD } else { 0o600 });
        self.file.set_permissions(permissions).map_err(|e| self.trouble("set its mode", e))?;
        self.file.sync_all().map_err(|e| self.trouble("fsync", e))?;
        self.is_held = held;
        Ok(())
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
    pub fn defer_until(&self, time: SystemTime) -> Result<(), Error> {
        self.file.set_modified(time).map_err(|e| self.trouble("set its time", e))
    }

    /// Removes it: every recipient is done.
    pub fn remove(self) -> Result<(), Error> {
        match super::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.trouble("remove", error)),
            _ => Ok(()),
        }
    }

    fn trouble(&self, what: &str, error: io::Error) -> Error {
        Error::from_io(&format!("{}: {what}", self.id), &error)
    }
}

/// Again, as often as a signal comes in between.
fn uninterrupted<T>(mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn counted(octets: &[u8]) -> Result<[u8; 2], Error> {
    let length = u16::try_from(octets.len()).map_err(|_| Error::Io("a text of the envelope is too long".to_owned()))?;
    Ok(length.to_be_bytes())
}

fn microseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |age| u64::try_from(age.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
