//! A message being written, from its first octet to the moment when it may be called taken.

use super::{BUFFER, LONGEST_CHANNEL, microseconds};
use crate::again::again;
use crate::message::parameters::{self, MailParameters, RecipientParameters};
use crate::message::path::{Address, LONGEST_ADDRESS};
use crate::queue::layout::{self, CONTENT, HEADER, Header, Lines, Slot};
use crate::queue::size::Size;
use crate::queue::{Error, Head, Id, remove_file};
use crate::write_out::{self, WriteOut};
use crc32fast::Hasher;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Room for the Received field in front of the content, which comes before the field's facts are known.
pub const TRACE_ROOM: usize = 2048;

/// A message being written. Dropped without `commit`, its file is removed.
#[derive(Debug)]
pub struct Draft {
    id: Id,
    path: PathBuf,
    file: File,
    /// Where its name is, which has to be put on disk; none: it is there.
    folder: Option<File>,
    /// Octets that the file was prepared with.
    prepared: u64,
    created: SystemTime,
    buffer: Vec<u8>,
    /// Octets of the file that are written; `buffer` belongs behind them.
    written: u64,
    written_out: WriteOut,
    checksum: Hasher,
    size: Size,
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
    pub(in crate::queue) fn create(id: Id, path: PathBuf, folder: File, created: SystemTime) -> io::Result<Draft> {
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
            folder: Some(folder),
            prepared: 0,
            created,
            buffer: Vec::with_capacity(4096),
            written: CONTENT,
            written_out: WriteOut::default(),
            checksum: Hasher::new(),
            size: Size::default(),
            recipients: 0,
            early: Vec::new(),
            attributes: Vec::new(),
            content_end: None,
            has_cr: false,
            last_octet: b'\n',
            committed: false,
        };
        // A reader that looks at the new file holds its lock for a moment only.
        again(|| draft.file.lock())?;
        Ok(draft)
    }

    /// Writes what a message can be written over, and has the disk begin with it.
    pub(in crate::queue) fn prepare(&mut self, octets: usize) -> io::Result<()> {
        let mut blank = vec![0; octets];
        layout::blank(&self.id, HEADER as u64, blank.get_mut(HEADER..).unwrap_or_default());
        self.file.write_all_at(&blank, 0)?;
        write_out::begin(&self.file, 0, octets as u64);
        self.prepared = octets as u64;
        Ok(())
    }

    /// Its name has been put on disk.
    pub(in crate::queue) fn name_is_on_disk(&mut self) {
        self.folder = None;
    }

    /// The draft of a message that comes now, if the file that was prepared for it is still there, and not older.
    pub(in crate::queue) fn of_now(mut self, now: SystemTime, oldest: Duration) -> Option<Draft> {
        let is_fresh = now.duration_since(self.created).is_ok_and(|age| age < oldest);
        self.created = now;
        Some(self).filter(|draft| is_fresh && draft.file.metadata().is_ok_and(|metadata| metadata.nlink() == 1))
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
        self.size.content(octets.len());
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
        // Nobody would read it.
        if address.len() > LONGEST_ADDRESS || parameters.len() > parameters::LONGEST {
            return Err(Error::Io(format!("{}: a recipient too long", self.id)));
        }
        self.size.recipient(address.len(), parameters.len()).map_err(|_| Error::TooMany)?;
        if self.content_end.is_some() {
            self.write_recipient(address, parameters)?;
        } else {
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
        let many = |_| Error::Io(format!("{}: too many attributes", self.id));
        self.size.attribute(text.len()).map_err(many)?;
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
        self.size.end_content();
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
        self.size.octets()
    }

    /// Puts the message on disk: trace, envelope, complete, fsync of the file, and of the folder if the name is not on disk
    /// yet, link count. Only after this may a client be told that it is taken.
    pub fn commit(mut self, head: &Head) -> Result<Id, Error> {
        self.end_content()?;
        let envelope_at = self.position();
        let sender = head.reverse_path.as_bytes();
        if head.trace.len() > TRACE_ROOM || head.channel.len() > LONGEST_CHANNEL || sender.len() > LONGEST_ADDRESS {
            return Err(Error::Io(format!("{}: trace field, channel name or sender too long", self.id)));
        }
        for text in [sender, head.channel.as_bytes()] {
            self.checked(&counted(text)?)?;
            self.checked(text)?;
        }
        let attributes = std::mem::take(&mut self.attributes);
        self.checked(&attributes)?;
        self.checked(layout::END)?;
        let header = Header {
            version: layout::VERSION,
            lines: if self.has_cr || self.last_octet != b'\n' { Lines::Exact } else { Lines::Lf },
            is_prepared: self.prepared > 0,
            recipients: self.recipients,
            created: microseconds(self.created),
            trace_at: CONTENT - head.trace.len() as u64,
            recipients_at: self.content_end.unwrap_or(CONTENT),
            envelope_at,
            length: self.position() + 4,
        };
        let octets = header.encode();
        let mut checksum = layout::begin_checksum(&octets);
        checksum.update(&head.trace);
        checksum.combine(&self.checksum);
        self.plain(&checksum.finalize().to_be_bytes())?;
        self.finish(&head.trace, &header, &octets).map_err(|e| self.trouble("write", e))?;
        self.make_durable()?;
        self.committed = true;
        Ok(self.id)
    }

    /// What is left of the body, then the header, which makes the message complete.
    fn finish(&mut self, trace: &[u8], header: &Header, octets: &[u8; HEADER]) -> io::Result<()> {
        if self.written == CONTENT {
            self.buffer.splice(0..0, trace.iter().copied());
            self.file.write_all_at(&self.buffer, header.trace_at)?;
        } else {
            self.file.write_all_at(&self.buffer, self.written)?;
            self.file.write_all_at(trace, header.trace_at)?;
        }
        let outgrew = self.prepared > 0 && header.length > self.prepared;
        if outgrew || self.written_out.has_begun() {
            // The header lies in a sector that is there already; it must not get there before the file's new length.
            self.file.sync_data()?;
        }
        self.file.write_all_at(octets, 0)
    }

    fn make_durable(&self) -> Result<(), Error> {
        match &self.folder {
            Some(folder) => {
                self.file.sync_all().map_err(|e| self.trouble("fsync", e))?;
                // The name must survive as well as the file.
                folder.sync_all().map_err(|e| self.trouble("fsync of the folder", e))?;
            }
            // Nothing but what stands in the file is new, and its times, which need not last.
            None => self.file.sync_data().map_err(|e| self.trouble("fdatasync", e))?,
        }
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

    /// Pieces are written that end where those of the file do: the page cache has such a one in one part then, and writes to
    /// no page twice.
    fn plain(&mut self, mut octets: &[u8]) -> Result<(), Error> {
        let room = |position: u64| BUFFER - usize::try_from(position % BUFFER as u64).unwrap_or_default();
        while let Some((now, rest)) = octets.split_at_checked(room(self.position())) {
            self.buffer.extend_from_slice(now);
            let buffer = std::mem::take(&mut self.buffer);
            self.write_through(&buffer)?;
            self.buffer = buffer;
            self.buffer.clear();
            octets = rest;
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
        if self.content_end.is_some() || self.written > CONTENT {
            // A disk that failed may not let go of the name either: without the state octet the file is never taken.
            let _ = self.file.write_all_at(&[0], layout::STATE as u64);
        }
        if let Err(error) = remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("event=not-removed id={} reason={:?}", self.id, error.to_string());
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

/// The length that stands in front of a text.
fn counted(octets: &[u8]) -> Result<[u8; 2], Error> {
    let length = u16::try_from(octets.len()).map_err(|_| Error::Io("a text of the envelope is too long".to_owned()))?;
    Ok(length.to_be_bytes())
}
