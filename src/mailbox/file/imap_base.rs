//! `X-IMAPbase: UIDVALIDITY LAST-UID KEYWORDS`, where Dovecot and c-client keep what counts for all of a mailbox: in the header
//! of its first message. When that one goes the next takes it over, or their clients would see other mail under old numbers.
//!
//! (c-client's `X-IMAP` is the same where no message stands first, but internal data: `scan/scanner.rs`.)

use crate::mailbox::scan::Found;
use crate::mailbox::torn::read;
use memchr::memchr;
use std::fs::File;
use std::io;

/// Nobody's header is longer who has such a field to lose.
const LONGEST: u64 = 1 << 20;

/// All before the body of the message that comes to stand first, with the field of the one that goes, if it has one, and
/// without its own, which did not count; nothing if neither has such a field.
pub fn inherited(old: &File, first: &Found, heir: &Found) -> io::Result<Option<Vec<u8>>> {
    if [first, heir].into_iter().any(|found| found.body - found.start > LONGEST) {
        return Ok(None);
    }
    let left = read(old, first.header, first.body)?;
    let base = fields(&left).find(|field| is_base(field));
    let header = read(old, heir.header, heir.body)?;
    if base.is_none() && !fields(&header).any(is_base) {
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
    fields(&header).filter(|field| !is_base(field) && !is_blank(field)).for_each(&mut ended);
    // Not before the others: our mark must be the second line.
    base.into_iter().for_each(&mut ended);
    fields(&header).filter(is_blank).for_each(|field| head.extend_from_slice(field));
    Ok(Some(head))
}

fn is_base(field: &[u8]) -> bool {
    let name = memchr(b':', field).and_then(|at| field.get(..at)).unwrap_or_default();
    name.trim_ascii_end().eq_ignore_ascii_case(b"x-imapbase")
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
