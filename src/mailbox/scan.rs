//! One pass over a mailbox that is one file: where its messages are, how long they are in POP3, and what tells them apart.
//!
//! Large pieces are read, and in the body of a message only separators and line ends are looked for. Of the header every
//! line is looked at: for the end of the message, if a Content-Length field says it and a separator really stands
//! there, and for the fields that no other program changes.
//!
//! Here the file is read; `scan/scanner.rs` finds the messages in it, and `scan/sums.rs` counts their octets.

mod scanner;
mod sums;

use crate::config::value::MailboxFormat;
use memchr::memrchr;
use scanner::Scanner;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
pub use sums::BodySum;

/// How much is read at once.
const PIECE: usize = 256 * 1024;
/// A message in a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Where its separator begins.
    pub start: u64,
    /// Where its header begins.
    pub header: u64,
    /// Where its body begins.
    pub body: u64,
    /// Where it ends.
    pub end: u64,
    /// Where what belongs to it ends, separators included.
    pub next: u64,
    /// As POP3 counts them.
    pub octets: u64,
    /// Whether something in it is quoted.
    pub is_quoted: bool,
    /// FNV-1a of 128 bits of the fields that last.
    pub fields: u128,
    /// CRC-32 of the body without line ends at its end, which programs add and take away.
    pub body_sum: u32,
}

/// What a scan found.
#[derive(Debug, Default)]
pub struct Scan {
    /// All messages in their order.
    pub messages: Vec<Found>,
    /// Where internal data of c-client end, which stand before the first message and belong to it as long as it is there.
    pub internal: u64,
    /// How long the file was.
    pub size: u64,
    /// Where a message that is not the last one ends may change when something is appended: its Content-Length leads
    /// beyond the end.
    pub is_open: bool,
}

/// Reads a mailbox. What is no mailbox of this format is an error: nobody's other file is taken for mail.
pub fn scan(file: &File, format: MailboxFormat) -> io::Result<Scan> {
    let size = file.metadata()?.len();
    run(Scanner::new(file, format, size))
}

/// Reads a mailbox from the place on where a message begins, the first or a later one.
pub fn scan_from(file: &File, format: MailboxFormat, start: u64, is_first: bool) -> io::Result<Scan> {
    let size = file.metadata()?.len().max(start);
    let first = if is_first { 0 } else { start };
    run(Scanner::new(file, format, size).at(start, first))
}

/// Whether a message is what it was when it was found, and no other follows it in its place.
pub fn scan_one(file: &File, format: MailboxFormat, was: &Found) -> bool {
    let scanner = Scanner::new(file, format, was.next).at(was.start, was.start);
    run(scanner).is_ok_and(|scan| scan.messages == [*was])
}

/// Reads from the scanner's place on to its size.
fn run(mut scanner: Scanner<'_>) -> io::Result<Scan> {
    let (size, mut read) = (scanner.scan.size, scanner.offset);
    let mut buffer = vec![0; usize::try_from(size - read).unwrap_or(PIECE).clamp(1, PIECE)];
    let mut filled = 0;
    loop {
        let room = buffer.get_mut(filled..).unwrap_or_default();
        let most = usize::try_from(size - read).unwrap_or(usize::MAX).min(room.len());
        let count = match scanner.file.read_at(room.get_mut(..most).unwrap_or_default(), read) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            count => count?,
        };
        read += count as u64;
        filled += count;
        let is_last = count == 0 || read == size;
        let octets = buffer.get(..filled).unwrap_or_default();
        // Whole lines, unless one is longer than all of the buffer.
        let length = match memrchr(b'\n', octets) {
            Some(at) if !is_last => at + 1,
            None if !is_last && filled < buffer.len() => continue,
            _ => filled,
        };
        scanner.push(octets.get(..length).unwrap_or_default())?;
        buffer.copy_within(length..filled, 0);
        filled -= length;
        if is_last {
            return Ok(scanner.finish());
        }
    }
}

#[cfg(test)]
mod tests;
