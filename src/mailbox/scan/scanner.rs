//! Line by line: where a message begins and ends. Nothing is read here but what a Content-Length field leads to.

use super::sums::{BodySum, Counted};
use super::{Found, Scan};
use crate::config::value::MailboxFormat;
use crate::mailbox::mbox::{self, FROM};
use crate::mailbox::mmdf;
use crate::mailbox::torn::MARK;
use memchr::{memchr, memmem};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Fields that come with a message and stay as they are. Mail readers change others, such as Status.
const LASTING: [&[u8]; 8] =
    [b"return-path", b"received", b"date", b"from", b"to", b"subject", b"message-id", b"delivered-to"];
/// What the first message of an mbox has if it is none, but where c-client (UW imapd, Alpine) keeps UIDVALIDITY and keywords.
const SUBJECT_OF_INTERNAL: &[u8] = b"DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA";
/// What mail has that came from somewhere: nobody's mail hides itself by the subject and a field.
const OF_MAIL: [&[u8]; 3] = [b"return-path", b"received", b"delivered-to"];

/// What tells whether a message is internal data.
#[derive(Debug, Clone, Copy, Default)]
struct Internal {
    has_subject: bool,
    has_field: bool,
    is_mail: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Outside,
    Header,
    Body,
}

/// What a scan is in the middle of. It is pushed whole lines, but for those that are longer than a piece.
pub struct Scanner<'a> {
    /// The mailbox.
    pub file: &'a File,
    format: MailboxFormat,
    /// What was found so far.
    pub scan: Scan,
    /// Where the first message begins: with what stands before its separator, at the begin of the file.
    first: u64,
    /// The first message whose Content-Length leads beyond the end.
    open: Option<usize>,
    /// Where it is.
    pub offset: u64,
    part: Part,
    at_line_start: bool,
    /// Octets of the line before, if it was empty.
    blank: u64,
    current: Found,
    count: Counted,
    sum: BodySum,
    lasts: bool,
    lines: u32,
    length: Option<u64>,
    /// What the mark of a delivery of ours says in its place: all lines are quoted, whoever measured them since.
    is_ours: bool,
    /// Only where it may be: in an mbox, at the begin of the file.
    internal: Option<Internal>,
    /// The end that a Content-Length field gave and a separator proved.
    proven_end: Option<u64>,
    finder: memmem::Finder<'static>,
}

const NOTHING: Found = Found {
    start: 0,
    header: 0,
    body: 0,
    end: 0,
    next: 0,
    octets: 0,
    is_quoted: false,
    fields: 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d,
    body_sum: 0,
};

impl<'a> Scanner<'a> {
    /// At the beginning of a mailbox of so many octets.
    pub fn new(file: &'a File, format: MailboxFormat, size: u64) -> Self {
        let needle = if format == MailboxFormat::Mmdf { mmdf::DELIMITER.get(..4).unwrap_or_default() } else { FROM };
        Scanner {
            file,
            format,
            scan: Scan { size, ..Scan::default() },
            first: 0,
            open: None,
            offset: 0,
            part: Part::Outside,
            at_line_start: true,
            blank: 0,
            current: NOTHING,
            count: Counted::default(),
            sum: BodySum::default(),
            lasts: false,
            lines: 0,
            length: None,
            is_ours: false,
            internal: None,
            proven_end: None,
            finder: memmem::Finder::new(needle),
        }
    }

    /// The same from a later place on, and where the first message found begins.
    pub fn at(self, offset: u64, first: u64) -> Self {
        Scanner { offset, first, ..self }
    }

    /// Takes what comes next.
    pub fn push(&mut self, mut octets: &[u8]) -> io::Result<()> {
        while !octets.is_empty() {
            let line = memchr(b'\n', octets).map_or(octets.len(), |at| at + 1);
            let taken = match self.part {
                Part::Outside => self.outside(octets.get(..line).unwrap_or_default())?,
                Part::Header => self.header(octets.get(..line).unwrap_or_default())?,
                Part::Body => self.body(octets),
            };
            let (used, rest) = octets.split_at(taken.min(octets.len()));
            self.offset += used.len() as u64;
            octets = rest;
            if let (Part::Body, Some(end)) = (self.part, self.proven_end)
                && self.offset >= end
            {
                self.end(end, 0);
            }
        }
        Ok(())
    }

    /// That was all.
    pub fn finish(mut self) -> Scan {
        if self.part != Part::Outside {
            let blank = if self.format == MailboxFormat::Mmdf { 0 } else { self.blank };
            self.end(self.offset, blank);
        }
        if let Some(last) = self.scan.messages.last_mut() {
            last.next = self.scan.size.max(last.end);
        } else if self.scan.internal > 0 {
            self.scan.internal = self.scan.size;
        }
        self.scan.is_open = self.open.is_some_and(|open| open + 1 < self.scan.messages.len());
        self.scan
    }

    fn is_mmdf(&self) -> bool {
        self.format == MailboxFormat::Mmdf
    }

    /// Between messages; each line tells what it is.
    fn outside(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_blank = matches!(line, b"\n" | b"\r\n");
        if is_blank {
            self.at_line_start = true;
            return Ok(line.len());
        }
        let is_first = self.scan.messages.is_empty() && self.scan.internal == 0;
        let behind = self.offset + line.len() as u64;
        let begins = if self.is_mmdf() {
            mmdf::is_delimiter(line)
        } else {
            mbox::is_separator(line) || (is_first && line.starts_with(FROM))
        };
        if begins {
            self.begin(behind);
        } else if is_first {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "this is no mailbox of its format"));
        } else {
            // Programs that write one delimiter, not two, between messages.
            self.begin(self.offset);
            return Ok(0);
        }
        self.at_line_start = true;
        Ok(line.len())
    }

    fn begin(&mut self, header: u64) {
        if let Some(last) = self.scan.messages.last_mut() {
            last.next = self.offset;
        }
        self.current = Found { start: self.offset, header, body: header, ..NOTHING };
        self.internal = None;
        if self.scan.messages.is_empty() {
            if self.scan.internal > 0 {
                self.scan.internal = self.offset;
            } else if self.first == 0 && !self.is_mmdf() {
                self.internal = Some(Internal::default());
            }
            // Whatever stands before the first message belongs to it.
            self.current.start = self.first;
        }
        self.part = Part::Header;
        (self.count, self.sum) = Default::default();
        (self.lasts, self.lines, self.length, self.proven_end, self.blank) = (false, 0, None, None, 0);
        self.is_ours = false;
    }

    /// The message ends; of what was counted the last octets are an empty line that belongs to the mailbox.
    fn end(&mut self, end: u64, blank: u64) {
        if self.is_internal() {
            self.scan.internal = end;
            self.part = Part::Outside;
            self.at_line_start = true;
            return;
        }
        let mut found = self.current;
        let blank = blank.min(self.count.octets);
        found.end = end - blank;
        found.next = end;
        found.body = found.body.min(found.end);
        if self.part == Part::Header {
            found.body = found.end;
        }
        let octets = self.count.octets - blank;
        let bare = self.count.bare - u64::from(blank == 1);
        let unended = if octets == 0 || self.count.last == Some(b'\n') { 0 } else { 2 };
        found.octets = (octets + bare + unended).saturating_sub(self.count.quoted);
        found.is_quoted = self.count.quoted > 0;
        found.body_sum = self.sum.value();
        self.scan.messages.push(found);
        self.part = Part::Outside;
        self.proven_end = None;
        self.at_line_start = true;
    }

    fn is_internal(&self) -> bool {
        self.internal.is_some_and(|found| found.has_subject && found.has_field && !found.is_mail)
    }

    fn header(&mut self, line: &[u8]) -> io::Result<usize> {
        let starts = std::mem::replace(&mut self.at_line_start, line.ends_with(b"\n"));
        if starts && self.is_mmdf() && mmdf::is_delimiter(line) {
            self.end(self.offset, 0);
            if let Some(last) = self.scan.messages.last_mut() {
                last.next = self.offset + line.len() as u64;
            }
            return Ok(line.len());
        }
        if starts && mbox::is_separator(line) {
            if !self.is_mmdf() {
                self.end(self.offset, 0);
                return Ok(0);
            }
            if self.lines == 0 {
                self.current.header = self.offset + line.len() as u64;
                self.current.body = self.current.header;
                return Ok(line.len());
            }
        }
        self.count.add(line);
        if starts {
            self.lines = self.lines.saturating_add(1);
            self.field(line);
        }
        if self.lasts {
            let text = line.strip_suffix(b"\n").unwrap_or(line);
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            self.current.fields = text.iter().fold(self.current.fields, |sum, octet| {
                (sum ^ u128::from(*octet)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
            });
        }
        self.blank = 0;
        if starts && matches!(line, b"\n" | b"\r\n") {
            self.part = Part::Body;
            self.blank = line.len() as u64;
            self.current.body = self.offset + self.blank;
            self.prove()?;
        }
        Ok(line.len())
    }

    /// The first line of a field, or one that goes on with it.
    fn field(&mut self, line: &[u8]) {
        if !self.is_mmdf() && is_quoted(line) {
            self.count.quoted += 1;
        }
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return;
        }
        let name = memchr(b':', line).and_then(|at| line.get(..at)).unwrap_or_default();
        self.lasts = LASTING.iter().any(|known| known.eq_ignore_ascii_case(name));
        self.is_ours = match self.lines {
            1 => name.eq_ignore_ascii_case(b"return-path"),
            2 => self.is_ours && line.starts_with(MARK) && line.trim_ascii_end().ends_with(b" whole"),
            _ => self.is_ours,
        };
        let value = || line.get(name.len() + 1..).unwrap_or_default().trim_ascii();
        if let Some(found) = &mut self.internal {
            found.has_subject |= name.eq_ignore_ascii_case(b"subject") && value() == SUBJECT_OF_INTERNAL;
            found.has_field |= name.eq_ignore_ascii_case(b"x-imap");
            found.is_mail |= OF_MAIL.iter().any(|known| known.eq_ignore_ascii_case(name));
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            let value = value();
            let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            self.length = std::str::from_utf8(value).ok().filter(|_| is_number).and_then(|text| text.parse().ok());
        }
    }

    /// Believes a Content-Length only if it leads to a line's end, and there to a separator or to the end of the file. In the
    /// middle of a line what its sender wrote would be taken for a separator, and be a message of its own.
    fn prove(&mut self) -> io::Result<()> {
        let Some(length) = self.length.filter(|_| !self.is_mmdf() && !self.is_internal()) else { return Ok(()) };
        let Some(end) = self.current.body.checked_add(length) else { return Ok(()) };
        let number = self.scan.messages.len();
        if end > self.scan.size {
            self.open.get_or_insert(number);
            return Ok(());
        }
        let mut buffer = [0; 1100];
        let mut filled = 0;
        // With the octet before, which is there: no body stands at the begin of the file.
        let from = end - 1;
        while let Some(room) = buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            match self.file.read_at(room, from + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let Some((before, behind)) = buffer.get(..filled).and_then(<[u8]>::split_first) else { return Ok(()) };
        let line = behind.strip_prefix(b"\r\n").or_else(|| behind.strip_prefix(b"\n")).unwrap_or(behind);
        let is_line_end = *before == b'\n' || line.len() < behind.len() || behind.is_empty();
        let line = line.get(..memchr(b'\n', line).map_or(line.len(), |at| at + 1)).unwrap_or_default();
        if !line.is_empty() && !mbox::is_separator(line) && filled < buffer.len() {
            self.open.get_or_insert(number);
        }
        if is_line_end && (line.is_empty() || mbox::is_separator(line)) {
            self.proven_end = Some(end);
            // Whoever writes the field need not quote, and often does not; but we did, where it was added to what we wrote.
            if !self.is_ours {
                self.count.quoted = 0;
            }
        }
        Ok(())
    }

    /// As much of the body as there is; gives how many octets were used.
    fn body(&mut self, octets: &[u8]) -> usize {
        let left = self.proven_end.map_or(octets.len(), |end| usize::try_from(end - self.offset).unwrap_or(usize::MAX));
        let octets = octets.get(..left.min(octets.len())).unwrap_or_default();
        if self.proven_end.is_some() && !self.is_ours {
            self.take(octets);
            return octets.len();
        }
        // A copy of a few words; no further than to the end of the message, or many short ones would cost their square.
        let finder = self.finder.clone();
        for at in finder.find_iter(octets) {
            let (before, rest) = octets.split_at(at);
            let starts = if before.is_empty() { self.at_line_start } else { before.ends_with(b"\n") };
            if self.is_mmdf() {
                if starts && mmdf::is_delimiter(line_of(rest)) {
                    let line = line_of(rest);
                    self.take(before);
                    let end = self.offset + at as u64;
                    self.end(end, 0);
                    if let Some(last) = self.scan.messages.last_mut() {
                        last.next = end + line.len() as u64;
                    }
                    return at + line.len();
                }
                continue;
            }
            if starts {
                let blank = if before.is_empty() { self.blank } else { blank_at_end(before, self.at_line_start) };
                // Nobody would see what is taken for a part of internal data, and c-client asks for no empty line.
                let is_behind = blank > 0 || self.is_internal();
                if is_behind && self.proven_end.is_none() && mbox::is_separator(line_of(rest)) {
                    self.take(before);
                    self.end(self.offset + at as u64, blank);
                    return at;
                }
            } else {
                let marks = before.iter().rev().take_while(|octet| **octet == b'>').count();
                let head = before.get(..before.len() - marks).unwrap_or_default();
                let starts = if head.is_empty() { self.at_line_start } else { head.ends_with(b"\n") };
                self.count.quoted += u64::from(starts && marks > 0);
            }
        }
        self.take(octets);
        octets.len()
    }

    fn take(&mut self, octets: &[u8]) {
        self.count.add(octets);
        self.sum.add(octets);
        if !octets.is_empty() {
            self.blank = blank_at_end(octets, self.at_line_start);
            self.at_line_start = octets.ends_with(b"\n");
        }
    }
}

/// The line that these octets begin with. To be asked only where one does begin: a line may be nothing but the word that is
/// looked for, and to see its end from each of them costs the square of its length.
fn line_of(octets: &[u8]) -> &[u8] {
    let line = octets.get(..memchr(b'\n', octets).map_or(octets.len(), |at| at + 1)).unwrap_or_default();
    #[cfg(test)]
    super::tests::LOOKED_AT.with(|sum| sum.set(sum.get() + line.len()));
    line
}

/// How long the last line is, if it is an empty one.
fn blank_at_end(octets: &[u8], at_line_start: bool) -> u64 {
    let is_blank = |end: &[u8]| {
        let before = octets.strip_suffix(end);
        before.is_some_and(|before| if before.is_empty() { at_line_start } else { before.ends_with(b"\n") })
    };
    if is_blank(b"\n") {
        1
    } else if is_blank(b"\r\n") {
        2
    } else {
        0
    }
}

fn is_quoted(line: &[u8]) -> bool {
    let marks = line.iter().take_while(|octet| **octet == b'>').count();
    marks > 0 && line.get(marks..).unwrap_or_default().starts_with(FROM)
}
