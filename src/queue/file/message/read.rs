//! Taking a queue file apart. Nothing in it is believed before it has been compared with something else, and no memory
//! is taken for a number that was only announced.

use super::Message;
use crate::again::again;
use crate::message::parameters::{self, MailParameters, RecipientParameters};
use crate::message::path::{Address, LONGEST_ADDRESS, ReversePath};
use crate::queue::file::{BUFFER, LONGEST_CHANNEL};
use crate::queue::layout::{self, HEADER, Header, Kind, SLOT, Slot, take_counted};
use crate::queue::{Id, Recipient};
use crc32fast::Hasher;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

/// The first octets of a file, and what they say of the rest.
pub(super) fn header(file: &File, length: u64) -> io::Result<([u8; HEADER], Kind)> {
    let mut octets = [0; HEADER];
    if length < HEADER as u64 {
        // Nothing but noughts is written before the header, and that last.
        let mut start = Vec::new();
        At { file, offset: 0, end: HEADER as u64 }.read_to_end(&mut start)?;
        let blank = start.iter().all(|octet| *octet == 0);
        let kind = if blank { Kind::Incomplete } else { Kind::Garbage("it is shorter than a header") };
        return Ok((octets, kind));
    }
    file.read_exact_at(&mut octets, 0)?;
    Ok((octets, Header::decode(&octets, length)))
}

/// Why a file is no message after all.
type Refused = &'static str;

const SHORT: Refused = "its records do not fit its offsets";

/// Everything behind the header, believed only if the checksum agrees in the end; else why not. Without a checksum the
/// content is passed over.
pub(super) fn body(
    id: Id,
    path: PathBuf,
    file: File,
    header: &Header,
    checksum: Option<Hasher>,
) -> io::Result<Result<Message, Refused>> {
    let is_checked = checksum.is_some();
    let mut checksum = checksum.unwrap_or_default();
    let begin = if is_checked { header.trace_at } else { header.recipients_at };
    // Where it ends is known, and need not be asked.
    let end = header.length;
    let room = BUFFER.min(usize::try_from(end.saturating_sub(begin)).unwrap_or(BUFFER));
    let mut from = BufReader::with_capacity(room, At { file: &file, offset: begin, end });
    let mut left = header.recipients_at - begin;
    while left > 0 {
        let octets = from.fill_buf()?;
        let count = octets.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if count == 0 {
            return Ok(Err(SHORT));
        }
        checksum.update(&octets[..count]);
        from.consume(count);
        left -= count as u64;
    }
    let (recipients, slots) = match recipients_of(&mut from, header, &mut checksum)? {
        Ok(found) => found,
        Err(why) => return Ok(Err(why)),
    };
    let Some(Envelope { reverse_path, parameters, channel, attributes }) =
        envelope_of(&mut from, header, checksum, is_checked)?
    else {
        return Ok(Err("its checksum does not agree"));
    };
    drop(from);
    let created = UNIX_EPOCH.checked_add(Duration::from_micros(header.created)).unwrap_or(UNIX_EPOCH);
    let (start, size) = (header.trace_at, header.recipients_at - header.trace_at);
    let lines = header.lines;
    Ok(Ok(Message {
        id,
        reverse_path,
        parameters,
        channel,
        created,
        attributes,
        lines,
        is_held: false,
        size,
        recipients,
        path,
        file,
        start,
        slots,
    }))
}

/// Whether the power failed while a message was written over what its file was prepared with. Nobody was told that it is
/// taken, for then all of it is on disk.
pub(super) fn was_broken_off(id: Id, file: &File, header: &Header) -> io::Result<bool> {
    let (mut at, mut piece) = (header.trace_at, vec![0; BUFFER]);
    while at < header.length {
        let left = usize::try_from(header.length - at).unwrap_or(BUFFER);
        // So that the next piece begins with a sector.
        let room = (BUFFER - usize::try_from(at).unwrap_or_default() % 512).min(left);
        let count = again(|| file.read_at(&mut piece[..room], at))?;
        if count == 0 || layout::has_blank_sector(&id, at, &piece[..count]) {
            return Ok(count > 0);
        }
        at += count as u64;
    }
    Ok(false)
}

type Recipients = (Vec<Recipient>, Vec<u64>);

fn recipients_of(
    from: &mut impl Read,
    header: &Header,
    checksum: &mut Hasher,
) -> io::Result<Result<Recipients, Refused>> {
    let (mut recipients, mut slots) = (Vec::new(), Vec::new());
    let mut at = header.recipients_at;
    let (mut address, mut said) = (Vec::new(), Vec::new());
    while at < header.envelope_at {
        at += SLOT as u64;
        let mut fits = counted(from, &mut address, LONGEST_ADDRESS, checksum)?;
        at += 2 + address.len() as u64;
        if fits && header.has_parameters() {
            fits = counted(from, &mut said, parameters::LONGEST, checksum)?;
            at += 2 + said.len() as u64;
        }
        if !fits || at > header.envelope_at {
            return Ok(Err(SHORT));
        }
        let mut slot = [0; SLOT];
        from.read_exact(&mut slot)?;
        let (Ok(address), Ok(parameters), Some(slot)) =
            (Address::from_internal(&address), RecipientParameters::from_text(&said), Slot::decode(&slot))
        else {
            return Ok(Err("a recipient is no address or in no state"));
        };
        let Slot { state, attempts, is_warned, time, report } = slot;
        let changed = UNIX_EPOCH + Duration::from_micros(time);
        recipients.push(Recipient { address, parameters, state, attempts, is_warned, changed, report });
        slots.push(at - SLOT as u64);
    }
    if recipients.len() != header.recipients as usize {
        return Ok(Err("its number of recipients is another"));
    }
    Ok(Ok((recipients, slots)))
}

/// Reads a text that is counted in front; false: it is longer than it may be, or the file ends in it.
fn counted(from: &mut impl Read, text: &mut Vec<u8>, longest: usize, checksum: &mut Hasher) -> io::Result<bool> {
    let mut length = [0; 2];
    from.read_exact(&mut length)?;
    checksum.update(&length);
    let length = usize::from(u16::from_be_bytes(length));
    text.clear();
    if length > longest || from.by_ref().take(length as u64).read_to_end(text)? != length {
        return Ok(false);
    }
    checksum.update(text);
    Ok(true)
}

/// What stands behind the recipients.
struct Envelope {
    reverse_path: ReversePath,
    parameters: MailParameters,
    channel: String,
    attributes: Vec<(String, String)>,
}

/// The rest of the file; nothing if it is not what the checksum was made of.
fn envelope_of(
    from: &mut impl Read,
    header: &Header,
    mut checksum: Hasher,
    is_checked: bool,
) -> io::Result<Option<Envelope>> {
    const LONGEST: u64 = (2 + LONGEST_ADDRESS + 2 + LONGEST_CHANNEL + layout::ATTRIBUTES + layout::END_RECORD) as u64;
    let mut octets = Vec::new();
    from.take(LONGEST + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 != header.length - header.envelope_at {
        return Ok(None);
    }
    let Some((covered, sum)) = octets.split_last_chunk::<4>() else { return Ok(None) };
    checksum.update(covered);
    if is_checked && checksum.finalize() != u32::from_be_bytes(*sum) {
        return Ok(None);
    }
    Ok((|| {
        let (reverse_path, rest) = take_counted(covered)?;
        let (channel, rest) = take_counted(rest)?;
        let attributes = read_attributes(rest.strip_suffix(layout::END)?, header.has_attributes())?;
        let reverse_path = ReversePath::from_internal(reverse_path).ok()?;
        let channel = std::str::from_utf8(channel).ok()?.to_owned();
        let said = attributes.iter().find(|(name, _)| name == layout::PARAMETERS);
        let parameters = MailParameters::from_text(said.map_or(b"", |(_, value)| value.as_bytes())).ok()?;
        Some(Envelope { reverse_path, parameters, channel, attributes })
    })())
}

fn read_attributes(mut octets: &[u8], may_be: bool) -> Option<Vec<(String, String)>> {
    let mut attributes = Vec::new();
    while !octets.is_empty() && may_be {
        let (text, rest) = take_counted(octets)?;
        let (name, value) = std::str::from_utf8(text).ok()?.split_once('=')?;
        attributes.push((name.to_owned(), value.to_owned()));
        octets = rest;
    }
    octets.is_empty().then_some(attributes)
}

/// Reads a file from an offset up to another, and leaves alone the position that other descriptors share.
struct At<'a> {
    file: &'a File,
    offset: u64,
    end: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.offset)).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        if room == 0 {
            return Ok(0);
        }
        let count = again(|| self.file.read_at(&mut buffer[..room], self.offset))?;
        self.offset += count as u64;
        Ok(count)
    }
}
