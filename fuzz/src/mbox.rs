//! Mailboxes that are one file.

use doorpost::config::value::MailboxFormat;
use doorpost::mailbox::maildir::name::Count;
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
    let mut kept = before;
    let gone = kept.remove(removed);
    match OneFile::open(&path, format, locking) {
        // Of equal messages the last number goes, whichever was removed. A wrong Content-Length that would be right now
        // is kept wrong by an empty line at the end of its message.
        Ok(maildrop) => assert_eq!(
            contents(&maildrop).iter().map(|message| message.1.trim_ascii_end()).collect::<Vec<_>>(),
            kept.iter().map(|message| message.1.trim_ascii_end()).collect::<Vec<_>>(),
            "without {:?}",
            gone.1.escape_ascii().to_string()
        ),
        Err(_) => panic!("what stayed is no mailbox"),
    }
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
