//! `X-IMAPbase: UIDVALIDITY LAST-UID KEYWORDS`, where Dovecot and c-client keep what counts for all of a mailbox: in the header
//! of its first message. When that one goes the next takes it over, or their clients would see other mail under old numbers.
//!
//! c-client's `X-IMAP` is the same where no message stands first, but internal data (`scan/scanner.rs`). A message that comes
//! to stand first loses it: it would be such data, and shown to nobody. Dovecot takes it out of all but the first, too.

use crate::mailbox::scan::Found;
use crate::mailbox::torn::read;
use memchr::memchr;
use std::fs::File;
use std::io;

/// Nobody's header is longer who has such a field to lose.
const LONGEST: u64 = 1 << 20;

/// All before the body of the message that comes to stand first, with the field of the one that goes, if it has one, and
/// without its own and `X-IMAP`, which did not count; nothing if that is what it is already.
pub fn inherited(old: &File, first: &Found, heir: &Found) -> io::Result<Option<Vec<u8>>> {
    let is_long = |found: &Found| found.body - found.start > LONGEST;
    if is_long(heir) {
        return Ok(None);
    }
    let left = if is_long(first) { Vec::new() } else { read(old, first.header, first.body)? };
    let base = fields(&left).find(|field| is_named(field, &[b"x-imapbase"]));
    let is_void = |field: &&[u8]| is_named(field, &[b"x-imapbase", b"x-imap"]);
    let header = read(old, heir.header, heir.body)?;
    if base.is_none() && !fields(&header).any(|field| is_void(&field)) {
        return Ok(None);
    }
    let mut head = Vec::new();
    // A CR alone at the end of the mailbox would be one with a line end of ours.
    let is_blank = |field: &&[u8]| matches!(*field, b"\n" | b"\r\n" | b"\r");
    let mut ended = |field: &[u8]| {
        head.extend_from_slice(field);
        if !head.is_empty() && !head.ends_with(b"\n") {
            head.push(b'\n');
        }
    };
    // A mailbox may end with a separator whose line does not end, and a field there would be none.
    ended(&read(old, heir.start, heir.header)?);
    fields(&header).filter(|field| !is_void(field) && !is_blank(field)).for_each(&mut ended);
    // Not before the others: our mark must be the second line.
    base.into_iter().for_each(&mut ended);
    fields(&header).filter(is_blank).for_each(|field| head.extend_from_slice(field));
    Ok(Some(head))
}

fn is_named(field: &[u8], names: &[&[u8]]) -> bool {
    let name = memchr(b':', field).and_then(|at| field.get(..at)).unwrap_or_default();
    names.iter().any(|known| known.eq_ignore_ascii_case(name.trim_ascii_end()))
}

/// The fields of a header, each with the lines that go on with it; and the empty line.
fn fields(header: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = header;
    std::iter::from_fn(move || {
        let line = |from: usize| {
            let behind = rest.get(from..).unwrap_or_default();
            from + memchr(b'\n', behind).map_or(behind.len(), |at| at + 1)
        };
        let mut end = line(0);
        while matches!(rest.get(end), Some(b' ' | b'\t')) {
            end = line(end);
        }
        let (field, behind) = rest.split_at(end);
        rest = behind;
        (!field.is_empty()).then_some(field)
    })
}
