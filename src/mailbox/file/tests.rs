use super::*;
use crate::config::value::MailboxFormat::Mbox;
use crate::mailbox::lock::LOCKING;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

const FROM: &str = "From bob@mx.example Sun Nov 22 04:27:00 2026\n";

fn message(number: usize) -> String {
    format!("{FROM}Subject: {number}\n\nbody {number}\n>From x\n\n")
}

fn mailbox(numbers: &[usize]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bob");
    std::fs::write(&path, numbers.iter().map(|number| message(*number)).collect::<String>()).unwrap();
    (folder, path)
}

fn open(path: &Path) -> OneFile {
    OneFile::open(path, Mbox, LOCKING).unwrap()
}

fn read(maildrop: &OneFile, number: usize) -> io::Result<String> {
    let mut text = String::new();
    maildrop.open(number)?.read_to_string(&mut text)?;
    Ok(text)
}

fn append(path: &Path, text: &str) {
    std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn messages_are_read_without_their_quotes_and_as_long_as_was_said() {
    let (_folder, path) = mailbox(&[1, 2]);
    let maildrop = open(&path);
    assert_eq!(read(&maildrop, 1).unwrap(), "Subject: 2\n\nbody 2\nFrom x\n");
    let octets: Vec<u64> = maildrop.entries().unwrap().iter().map(|entry| entry.octets).collect();
    assert_eq!(octets, [30, 30]);
    assert!(read(&maildrop, 2).is_err());
}

#[test]
fn a_second_session_is_refused_and_deliveries_are_not() {
    let (_folder, path) = mailbox(&[1]);
    let _first = open(&path);
    assert!(matches!(OneFile::open(&path, Mbox, LOCKING), Err(Error::InUse)));
    let mut content = b"Return-Path: <>\n".as_slice();
    crate::mailbox::append::deliver(&path, Mbox, true, &LOCKING, "1.Q", false, &mut content).unwrap();
}

#[test]
fn a_mailbox_that_is_not_there_is_empty_and_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let mut maildrop = open(&folder.path().join("bob"));
    assert_eq!(maildrop.entries().unwrap().len(), 0);
    assert_eq!(maildrop.remove(&[]).unwrap(), 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(OneFile::open(&folder.path().join("no/bob"), Mbox, LOCKING).is_err());
}

#[test]
fn what_is_marked_goes_and_what_arrived_meanwhile_stays_with_owner_and_mode() {
    let (folder, path) = mailbox(&[1, 2, 3]);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let mut maildrop = open(&path);
    append(&path, &message(4));
    assert_eq!(maildrop.remove(&[0, 2]).unwrap(), 0);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), message(2) + &message(4));
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o640);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn login_removes_what_a_crash_left_of_an_earlier_quit_but_only_under_the_dot_lock() {
    let (folder, path) = mailbox(&[2]);
    let left = folder.path().join(".bob.doorpost");
    std::fs::write(&left, message(1)).unwrap();
    drop(OneFile::open(&path, Mbox, Locking { dot: false, ..LOCKING }).unwrap());
    assert!(left.exists(), "it may be that of a QUIT that goes on");
    let maildrop = open(&path);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the mailbox only");
    assert!(read(&maildrop, 0).unwrap().contains("body 2"));
}

#[test]
fn unique_ids_outlast_removals_and_status_fields() {
    let (_folder, path) = mailbox(&[1, 2, 2, 3]);
    let ids = |maildrop: &OneFile| -> Vec<String> {
        maildrop.entries().unwrap().iter().map(|e| e.unique_id.clone()).collect()
    };
    let mut maildrop = open(&path);
    let before = ids(&maildrop);
    assert_eq!(before[2], format!("{}-2", before[1]));
    assert!(before.iter().all(|id| id.len() <= 70));
    maildrop.remove(&[0]).unwrap();
    drop(maildrop);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("Subject: 3\n", "Subject: 3\nStatus: RO\n")).unwrap();
    assert_eq!(ids(&open(&path)), before[1..]);
    // As they are today; they may never be others.
    assert_eq!(before[0], "46ef9489af145af21be466ddca598c8496382bfb");
}

#[test]
fn messages_are_found_where_another_program_put_them() {
    let (_folder, path) = mailbox(&[1, 2, 3]);
    let mut maildrop = open(&path);
    // In place, as mail readers do it.
    std::fs::write(&path, message(3) + &message(2).replace("Subject", "Status: RO\nSubject")).unwrap();
    assert!(read(&maildrop, 2).unwrap().contains("body 3"));
    assert!(read(&maildrop, 1).unwrap().contains("body 2"));
    assert_eq!(read(&maildrop, 0).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(maildrop.remove(&[0, 2]).unwrap(), 0);
    assert!(std::fs::read_to_string(&path).unwrap().ends_with("body 2\n>From x\n\n"));
}

#[test]
fn a_message_changed_while_it_is_read_breaks_off() {
    let (_folder, path) = mailbox(&[1, 2, 3]);
    let maildrop = open(&path);
    let mut content = maildrop.open(1).unwrap();
    std::fs::write(&path, format!("{}{}{}", message(1), message(7), message(3))).unwrap();
    assert!(content.read_to_string(&mut String::new()).is_err());
}

#[test]
fn of_twins_none_is_removed_when_another_program_took_one() {
    let (_folder, path) = mailbox(&[1, 1]);
    let mut maildrop = open(&path);
    std::fs::write(&path, message(1)).unwrap();
    assert_eq!(maildrop.remove(&[0]).unwrap(), 1);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), message(1));
}

#[test]
fn while_somebody_has_it_open_for_writing_nothing_is_removed() {
    let (folder, path) = mailbox(&[1, 2]);
    let mut maildrop = open(&path);
    let writer = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    assert_eq!(maildrop.remove(&[0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), message(1) + &message(2));
    drop(writer);
    let _reader = File::open(&path).unwrap();
    assert_eq!(maildrop.remove(&[0]).unwrap(), 0);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), message(2));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_locked_mailbox_is_in_use() {
    let (folder, path) = mailbox(&[1]);
    std::fs::write(folder.path().join("bob.lock"), "0").unwrap();
    assert!(matches!(OneFile::open(&path, Mbox, LOCKING), Err(Error::InUse)));
}

#[test]
fn a_long_mailbox_is_read_out_of_its_index_as_long_as_it_is_unchanged() {
    let (folder, path) = mailbox(&(0..2000).collect::<Vec<_>>());
    let maildrop = open(&path);
    let Some(file) = &maildrop.file else { panic!("no file") };
    let later = || {
        let known = || Ok(HashMap::new());
        snapshot(&maildrop.place, file, Mbox, index::now() + 60_000_000_000, known).unwrap().0
    };
    assert!(matches!(later(), Snapshot::Held(..)));
    let indexed = later();
    assert!(matches!(indexed, Snapshot::Indexed(_)));
    assert_eq!((indexed.count(), indexed.total()), (maildrop.count(), maildrop.total()));
    for number in (0..2000).rev().step_by(77) {
        let (one, two) = (indexed.get(number).unwrap(), maildrop.snapshot.get(number).unwrap());
        assert_eq!((one.found, one.identity()), (two.found, two.identity()), "{number}");
    }
    append(&path, &message(2000));
    assert_eq!(later().count(), 2001);
    let kinds = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(kinds, 2, "the mailbox and its index");
    let mmdf =
        snapshot(&maildrop.place, file, MailboxFormat::Mmdf, index::now() + 60_000_000_000, || Ok(HashMap::new()));
    assert!(mmdf.is_err(), "an index of another format");
}

/// Octets that this thread has read so far.
fn octets_read() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn what_was_appended_is_all_that_is_scanned_and_has_the_same_ids() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bob");
    let long = |number: usize| message(number).replace("body", &"body\n".repeat(100));
    // Twins, old and new.
    let text: String = (0..500).map(|number| long(number % 400)).collect();
    std::fs::write(&path, &text).unwrap();
    let maildrop = open(&path);
    let Some(file) = &maildrop.file else { panic!("no file") };
    let at = |seconds: u64, known: &HashMap<String, String>| {
        let began = index::now() + seconds * 1_000_000_000;
        let before = octets_read();
        let found = snapshot(&maildrop.place, file, Mbox, began, || Ok(known.clone())).unwrap().0;
        (found, octets_read() - before)
    };
    let none = HashMap::new();
    let (held, all_read) = at(60, &none);
    assert!(matches!(held, Snapshot::Held(..)) && all_read > text.len() as u64);
    for turn in 0..3 {
        append(&path, &(long(turn) + &long(1000 + turn)));
        let (grown, read) = at(120, &none);
        let unindexed = Snapshot::held(joined(Vec::new(), &scan(file, Mbox).unwrap().messages, &none));
        assert_eq!(grown.count(), 502 + 2 * turn);
        for number in 0..grown.count() {
            let (one, two) = (grown.get(number).unwrap(), unindexed.get(number).unwrap());
            assert_eq!((one.found, one.identity()), (two.found, two.identity()), "{number}");
        }
        assert_eq!(grown.total(), unindexed.total());
        assert!(read < all_read / 5, "{read} of {all_read} octets were read");
        assert!(matches!(at(180, &none).0, Snapshot::Indexed(_)), "the index goes with it");
    }
    // A message that is taken out, and another one that comes.
    std::fs::write(&path, text.replacen(&long(7), "", 1) + &long(2000) + &long(2001) + &long(2002)).unwrap();
    let (found, read) = at(240, &none);
    assert_eq!(found.count(), 502);
    assert!(read > text.len() as u64, "all was read");
}

#[test]
fn an_index_that_was_wrong_about_a_body_is_forgotten() {
    let (_folder, path) = mailbox(&(0..2000).collect::<Vec<_>>());
    let index = path.with_file_name(".bob.doorpost-index");
    let maildrop = open(&path);
    let Some(file) = &maildrop.file else { panic!("no file") };
    snapshot(&maildrop.place, file, Mbox, index::now() + 60_000_000_000, || Ok(HashMap::new())).unwrap();
    drop(maildrop);
    // In its place, where no sample is taken, and something behind it.
    let text = std::fs::read_to_string(&path).unwrap().replacen("body 1003", "body xxxx", 1) + &message(2000);
    std::fs::write(&path, text).unwrap();
    let maildrop = open(&path);
    assert_eq!(maildrop.count(), 2001);
    assert!(read(&maildrop, 1002).is_ok() && index.exists());
    assert!(read(&maildrop, 1003).is_err() && !index.exists());
    drop(maildrop);
    assert!(read(&open(&path), 1003).unwrap().contains("body xxxx"));
}

/// Dovecot keeps room in headers, and puts keywords there: as many octets, and more lines.
#[test]
fn an_index_that_was_wrong_about_a_size_is_forgotten_and_the_message_is_read() {
    let text: String = (0..2000).map(|n| message(n).replace("\n\nbody", "\nX-Pad: aaaaaaaa\n\nbody")).collect();
    for quoted in [true, false] {
        let text = if quoted { text.clone() } else { text.replace(">From", "Frog") };
        let (_folder, path) = mailbox(&[]);
        std::fs::write(&path, &text).unwrap();
        let index = path.with_file_name(".bob.doorpost-index");
        let maildrop = open(&path);
        let Some(file) = &maildrop.file else { panic!("no file") };
        snapshot(&maildrop.place, file, Mbox, index::now() + 60_000_000_000, || Ok(HashMap::new())).unwrap();
        drop(maildrop);
        let (before, after) = text.split_at(text.find("Subject: 1003").unwrap());
        let after = after.replacen("X-Pad: aaaaaaaa\n", "X-Pad: a\nX-K: a\n", 1);
        std::fs::write(&path, format!("{before}{after}{}", message(2000))).unwrap();
        let maildrop = open(&path);
        assert_eq!(maildrop.count(), 2001);
        assert!(read(&maildrop, 1002).is_ok() && index.exists());
        let octets = |content: String| content.replace('\n', "\r\n").len() as u64;
        let sent = octets(read(&maildrop, 1003).unwrap());
        assert_eq!((maildrop.entry(1003).unwrap().octets + 1, index.exists()), (sent, false));
        drop(maildrop);
        assert_eq!(open(&path).entry(1003).unwrap().octets, sent);
    }
}

#[test]
fn a_session_that_finds_the_index_broken_is_the_only_one() {
    let (_folder, path) = mailbox(&(0..2000).collect::<Vec<_>>());
    let index = path.with_file_name(".bob.doorpost-index");
    let maildrop = open(&path);
    let Some(file) = &maildrop.file else { panic!("no file") };
    let at = index::now() + 60_000_000_000;
    let later = || snapshot(&maildrop.place, file, Mbox, at, || Ok(HashMap::new())).unwrap().0;
    later();
    let mut octets = std::fs::read(&index).unwrap();
    octets[300] ^= 1;
    std::fs::write(&index, octets).unwrap();
    let indexed = later();
    assert!(matches!(indexed, Snapshot::Indexed(_)), "the head is whole");
    let maildrop = OneFile { snapshot: indexed, ..maildrop };
    assert!(maildrop.entry(0).is_err() && !index.exists());
    drop(maildrop);
    assert!(open(&path).entry(0).is_ok());
}

#[test]
fn messages_whose_lines_end_in_crlf_are_read_to_their_end() {
    let (_folder, path) = mailbox(&[]);
    let crlf = |number: usize| message(number).replace(">From x", "x\rx").replace('\n', "\r\n");
    std::fs::write(&path, crlf(1) + &crlf(2)).unwrap();
    let maildrop = open(&path);
    for number in 0..2 {
        assert_eq!(read(&maildrop, number).unwrap(), format!("Subject: {0}\r\n\r\nbody {0}\r\nx\rx\r\n", number + 1));
    }
}

#[test]
fn a_message_that_shared_the_delimiter_of_a_removed_one_gets_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bob");
    for (begins, removed) in [(4, 0), (3, 0), (4, 1)] {
        let delimiter = "\x01".repeat(begins);
        // What is no delimiter belongs to the message that begins so.
        let text =
            format!("\x01\x01\x01\x01\nA: 1\n\none\n\x01\x01\x01\x01\n{delimiter}\nA: 2\n\ntwo\n\x01\x01\x01\x01\n");
        let text = if begins == 4 {
            text.replacen(&format!("{delimiter}\n{delimiter}\n"), &format!("{delimiter}\n"), 1)
        } else {
            text
        };
        std::fs::write(&path, text).unwrap();
        let mut maildrop = OneFile::open(&path, MailboxFormat::Mmdf, LOCKING).unwrap();
        let other = read(&maildrop, 1 - removed).unwrap();
        assert_eq!(maildrop.remove(&[removed]).unwrap(), 0);
        drop(maildrop);
        let maildrop = OneFile::open(&path, MailboxFormat::Mmdf, LOCKING).unwrap();
        assert_eq!((maildrop.count(), read(&maildrop, 0).unwrap()), (1, other), "{begins} {removed}");
    }
}

/// c-client (UW imapd, Alpine) keeps UIDVALIDITY and keywords there.
#[test]
fn internal_data_before_the_first_message_outlive_it() {
    let internal = "From MAILER-DAEMON Sun Nov 22 04:27:00 2026\nX-IMAP: 1795317577 0000000003 $Forwarded\n\
        Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\n\nThis text is part of the internal format.\n\n";
    for removed in [&[0][..], &[1], &[0, 1], &[0, 1, 2], &[2]] {
        let (_folder, path) = mailbox(&[1, 2, 3]);
        let text = |numbers: &mut dyn Iterator<Item = usize>| numbers.map(message).collect::<String>();
        std::fs::write(&path, format!("{internal}{}", text(&mut (1..4)))).unwrap();
        let mut maildrop = open(&path);
        assert_eq!(maildrop.count(), 3);
        assert!(read(&maildrop, 0).unwrap().starts_with("Subject: 1\n"));
        assert_eq!(maildrop.remove(removed).unwrap(), 0);
        drop(maildrop);
        let stays = text(&mut (1..4).filter(|number| !removed.contains(&(number - 1))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{internal}{stays}"), "{removed:?}");
        assert_eq!(open(&path).count(), 3 - removed.len());
    }
}

/// Dovecot and c-client keep there what counts for all of the mailbox.
#[test]
fn the_first_message_leaves_its_imap_base_to_the_next() {
    let base = "X-IMAPbase: 1795317577 0000000003 $Forwarded\n\tJunk\n";
    let with = |number: usize, field: &str| message(number).replace("\n\nbody", &format!("\n{field}\nbody"));
    let theirs = "x-imapbase : 1 1\nStatus: RO\n";
    let (first, without) = (with(1, &format!("{base}Status: O\n")), message(1));
    for (first, removed, stays) in [
        (&first, &[0][..], with(2, &format!("Status: RO\n{base}")) + &message(3)),
        (&first, &[0, 1], with(3, base)),
        (&first, &[0, 2], with(2, &format!("Status: RO\n{base}"))),
        (&first, &[1], first.clone() + &message(3)),
        (&first, &[0, 1, 2], String::new()),
        // What did not count in the second does not come to count in the first.
        (&without, &[0], with(2, "Status: RO\n") + &message(3)),
        (&without, &[0, 1], message(3)),
    ] {
        let (_folder, path) = mailbox(&[]);
        std::fs::write(&path, [first.clone(), with(2, theirs), message(3)].concat()).unwrap();
        let mut maildrop = open(&path);
        let ids = |maildrop: &OneFile| maildrop.native().unwrap();
        let mut before = ids(&maildrop);
        assert_eq!(maildrop.remove(removed).unwrap(), 0);
        drop(maildrop);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), stays, "{removed:?}");
        let maildrop = open(&path);
        removed.iter().rev().for_each(|number| drop(before.remove(*number)));
        assert_eq!(ids(&maildrop), before, "the same messages");
        for number in 0..maildrop.count() {
            let text = read(&maildrop, number).unwrap().replace('\n', "\r\n");
            assert_eq!(maildrop.entry(number).unwrap().octets, text.len() as u64);
        }
    }
}

#[test]
fn a_header_without_an_end_gets_an_imap_base_all_the_same() {
    for (heir, expected) in
        [("A: 2", "A: 2\nX-IMAPbase: 1 1\n"), ("A: 2\n\n", "A: 2\nX-IMAPbase: 1 1\n\n"), ("", "X-IMAPbase: 1 1\n")]
    {
        let (_folder, path) = mailbox(&[]);
        std::fs::write(&path, format!("{FROM}X-IMAPbase: 1 1\n\nx\n\n{FROM}{heir}")).unwrap();
        assert_eq!(open(&path).remove(&[0]).unwrap(), 0);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{FROM}{expected}"), "{heir:?}");
    }
}

/// Found by fuzzing: the field stood on the line of the separator, and was lost.
#[test]
fn a_separator_without_a_line_end_gets_one_before_an_imap_base() {
    let (_folder, path) = mailbox(&[]);
    std::fs::write(&path, format!("{FROM}X-IMAPbase: 1 1\n\nx\n\n{}", FROM.trim_end())).unwrap();
    assert_eq!(open(&path).remove(&[0]).unwrap(), 0);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{FROM}X-IMAPbase: 1 1\n"));
}

/// Found by fuzzing: with an LF behind it the CR was the end of the header, the field stood in the body, and QUIT failed.
#[test]
fn a_lone_cr_at_the_end_of_a_header_stays_behind_an_imap_base() {
    let (_folder, path) = mailbox(&[]);
    std::fs::write(&path, format!("{FROM}X-IMAPbase: 1 1\n\nx\n\n{FROM}A: 2\n\r")).unwrap();
    assert_eq!(open(&path).remove(&[0]).unwrap(), 0);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{FROM}A: 2\nX-IMAPbase: 1 1\n\r"));
}

/// Found by fuzzing, with a Content-Length: nobody was shown them any more, nor the message behind them.
#[test]
fn no_message_becomes_internal_data_by_the_removal_of_those_before_it() {
    let field = "X-IMAP: 1795317577 0000000003 $Forwarded\n\tJunk\n";
    let internal = |more: &str, body: &str| {
        let subject = "DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA";
        format!("From MAILER-DAEMON Sun Nov 22 04:27:00 2026\n{field}Subject: {subject}\n{more}\n{body}")
    };
    let base = "X-IMAPbase: 1 1\n";
    let has_base = message(1).replace("\n\nbody", &format!("\n{base}\nbody"));
    // Its fields are not looked at, and it has none that would go over.
    let long = message(1).replace("\n\nbody", &format!("\nA: {}\n\nbody", "x".repeat(1 << 20)));
    for (first, inherited) in [(message(1), ""), (has_base, base), (long, "")] {
        for (more, body) in [
            ("", "This text is part of the internal format.\n\n"),
            ("Content-Length: 3\n", "x y\n"),
            // UW imapd and Dovecot go by nothing but the field.
            ("Received: from mx.example\n", "x\n\n"),
        ] {
            for (removed, behind) in [(&[0][..], message(2)), (&[0, 2], String::new())] {
                let (_folder, path) = mailbox(&[]);
                std::fs::write(&path, [first.clone(), internal(more, body), message(2)].concat()).unwrap();
                let mut maildrop = open(&path);
                let mut ids = maildrop.native().unwrap();
                assert_eq!(ids.len(), 3);
                assert_eq!(maildrop.remove(removed).unwrap(), 0);
                drop(maildrop);
                let stays = internal(&format!("{more}{inherited}"), body).replace(field, "") + &behind;
                assert_eq!(std::fs::read_to_string(&path).unwrap(), stays, "{more:?} {removed:?}");
                removed.iter().rev().for_each(|number| drop(ids.remove(*number)));
                assert_eq!(open(&path).native().unwrap(), ids, "the same messages");
            }
        }
    }
    let (_folder, path) = mailbox(&[]);
    let endless = internal(&format!("A: {}\n", "x".repeat(1 << 20)), "x\n\n");
    let text = [message(1), endless, message(2)].concat();
    std::fs::write(&path, &text).unwrap();
    assert_eq!(open(&path).remove(&[0]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(std::fs::read_to_string(&path).unwrap() == text, "nothing is removed");
    assert_eq!(open(&path).remove(&[0, 1]).unwrap(), 0);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), message(2));
}

/// Found by fuzzing: the length reached the end of the mailbox only when the message between was gone.
#[test]
fn a_length_that_comes_true_by_a_removal_swallows_no_message() {
    let internal = "From MAILER-DAEMON Sun Nov 22 04:27:00 2026\nX-IMAP: 1795317577 0000000003\n\
        Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\n\nThis text is part of the internal format.\n\n";
    let lengths = [(message(3).len(), 1), (message(3).len(), 2), (message(3).len() + message(4).len(), 2)];
    for (begin, (wrong, behind)) in ["", internal].into_iter().flat_map(|begin| lengths.map(|length| (begin, length))) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bob");
        let liar = format!("{FROM}Content-Length: {}\n\nx\n\n", wrong + 3);
        let rest: String = (3..3 + behind).map(message).collect();
        std::fs::write(&path, format!("{begin}{liar}{FROM}Subject: 2\n\nlonger than nothing\n\n{rest}")).unwrap();
        let mut maildrop = open(&path);
        assert_eq!(maildrop.count(), 2 + behind);
        assert_eq!(maildrop.remove(&[1]).unwrap(), 0);
        drop(maildrop);
        let maildrop = open(&path);
        assert_eq!(maildrop.count(), 1 + behind, "{}", std::fs::read_to_string(&path).unwrap());
        let first = read(&maildrop, 0).unwrap();
        assert_eq!(first.trim_end(), liar.lines().skip(1).collect::<Vec<_>>().join("\n").trim_end());
        assert_eq!(read(&maildrop, 1).unwrap(), "Subject: 3\n\nbody 3\nFrom x\n");
    }
}
