//! Mailboxes that are one file.

use doorpost::config::value::MailboxFormat;
use doorpost::mailbox::maildir::name::Count;
use doorpost::mailbox::mbox::is_separator;
use doorpost::mailbox::scan::scan;
use doorpost::mailbox::{Maildrop, file::OneFile, lock::Locking};
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::time::Duration;

thread_local! {
    static FOLDER: tempfile::TempDir = super::folder_in_memory();
}

/// Whatever a file holds, its messages lie one behind another and cover all of it; each is as long as was said, can be read
/// without trouble, and has a unique-id of its own; and what stays when one is removed are exactly the others.
pub fn mbox_splitter(input: &[u8]) {
    let Some((first, text)) = input.split_first() else { return };
    let format = if first % 2 == 0 { MailboxFormat::Mbox } else { MailboxFormat::Mmdf };
    let path = FOLDER.with(|folder| folder.path().join("mailbox"));
    fs::write(&path, text).expect("a file");
    let file = File::open(&path).expect("a file");
    let (messages, internal) = match scan(&file, format) {
        Ok(scan) => (scan.messages, scan.internal),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
            return;
        }
    };
    let mut end = 0;
    for found in &messages {
        assert_eq!(found.start, end, "something lies between messages");
        let places = [found.start, found.header, found.body, found.end, found.next];
        assert!(places.is_sorted(), "{places:?}");
        end = found.next;
        let ends_line = end.checked_sub(1).and_then(|last| text.get(usize::try_from(last).ok()?)) == Some(&b'\n');
        assert!(ends_line || end == text.len() as u64, "a message ends in the middle of a line");
    }
    if let Some(last) = messages.last() {
        assert_eq!(last.next, text.len() as u64, "something lies behind the last message");
    } else if internal == 0 {
        assert!(text.iter().all(|octet| b"\r\n".contains(octet)), "a mailbox without messages");
    } else {
        assert_eq!(internal, text.len() as u64, "something lies behind internal data");
    }
    assert!(messages.first().is_none_or(|first| internal <= first.header), "internal data within a message");
    let hidden = &text[..usize::try_from(internal).expect("a place in the input")];
    // Their own separator may be none of other programs, but then the next one ends them.
    let separators =
        hidden.split_inclusive(|octet| *octet == b'\n').skip_while(|line| !line.starts_with(b"From ")).skip(1);
    assert!(!separators.into_iter().any(is_separator), "a message hides in internal data");
    let locking = Locking {
        dot: false,
        fcntl: true,
        flock: false,
        attempts: 1,
        delay: Duration::ZERO,
        stale: Duration::ZERO,
        locker: None,
    };
    let mut maildrop = OneFile::open(&path, format, locking.clone()).expect("a maildrop");
    let before = contents(&maildrop);
    assert_eq!(before.len(), messages.len());
    if before.is_empty() || first % 4 < 2 {
        return;
    }
    let removed = usize::from(*first) % before.len();
    assert_eq!(maildrop.remove(&[removed]).expect("removing"), 0);
    drop(maildrop);
    let mut kept: Vec<Vec<u8>> = before.into_iter().map(|message| message.1).collect();
    let gone = kept.remove(removed);
    let Ok(maildrop) = OneFile::open(&path, format, locking) else { panic!("what stayed is no mailbox") };
    // Of equal messages the last number goes, whichever was removed.
    let mut now: Vec<Vec<u8>> = contents(&maildrop).into_iter().map(|message| message.1).collect();
    if removed == 0 && internal == 0 && !kept.is_empty() && !now.is_empty() {
        let (was, is) = (Split::of(&kept[0]), Split::of(&now[0]));
        assert_eq!(is.base, Split::of(&gone).base, "what counts for all of the mailbox");
        assert!(!is.is_pseudo, "c-client would hide it");
        (kept[0], now[0]) = (was.rest, is.rest);
    }
    // A wrong Content-Length that would be right now is kept wrong by an empty line at the end of its message.
    let shown = |messages: &[Vec<u8>]| -> Vec<String> {
        messages.iter().map(|message| message.trim_ascii_end().escape_ascii().to_string()).collect()
    };
    assert_eq!(shown(&now), shown(&kept), "without {}", gone.escape_ascii());
}

/// A message, the `X-IMAPbase` field that its mailbox has in it, which another message takes over, and whether it has a field
/// `X-IMAP`, with which it would be c-client's own data, were it the first.
struct Split {
    base: Option<Vec<u8>>,
    is_pseudo: bool,
    rest: Vec<u8>,
}

impl Split {
    fn of(message: &[u8]) -> Split {
        let (fields, body) = fields(message);
        let has_name = |field: &Vec<u8>, known: &str| {
            let name = field.split(|octet| *octet == b':').next().filter(|name| name.len() < field.len());
            name.is_some_and(|name| name.trim_ascii_end().eq_ignore_ascii_case(known.as_bytes()))
        };
        let (bases, others): (Vec<_>, Vec<_>) = fields.into_iter().partition(|field| has_name(field, "x-imapbase"));
        let (pseudo, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|field| has_name(field, "x-imap"));
        let base = bases.first().map(|base| base.trim_ascii_end().to_vec());
        Split { base, is_pseudo: !pseudo.is_empty(), rest: [&others.concat()[..], body].concat() }
    }
}

/// The fields of a message, each with the lines that go on with it, and all behind them.
fn fields(message: &[u8]) -> (Vec<Vec<u8>>, &[u8]) {
    let (mut fields, mut rest) = (Vec::<Vec<u8>>::new(), message);
    while let Some(line) = rest.split_inclusive(|octet| *octet == b'\n').next() {
        match fields.last_mut() {
            _ if matches!(line, b"\n" | b"\r\n") => break,
            Some(field) if matches!(line[0], b' ' | b'\t') => field.extend_from_slice(line),
            _ => fields.push(line.to_vec()),
        }
        rest = &rest[line.len()..];
    }
    (fields, rest)
}

/// Unique-id and text of each message.
fn contents(maildrop: &OneFile) -> Vec<(String, Vec<u8>)> {
    let mut ids = HashSet::new();
    let entries = maildrop.entries().expect("entries");
    assert_eq!(entries.iter().map(|entry| entry.octets).sum::<u64>(), maildrop.total());
    let read = |(number, entry): (usize, &doorpost::mailbox::Entry)| {
        let mut text = Vec::new();
        maildrop.open(number).and_then(|mut message| message.read_to_end(&mut text)).expect("a message");
        let mut count = Count::default();
        count.add(&text);
        assert_eq!(count.virtual_octets(), entry.octets, "{}", text.escape_ascii());
        assert!(ids.insert(entry.unique_id.clone()), "two messages of one unique-id");
        assert!((1..=70).contains(&entry.unique_id.len()));
        (entry.unique_id.clone(), text)
    };
    entries.iter().enumerate().map(read).collect()
}
