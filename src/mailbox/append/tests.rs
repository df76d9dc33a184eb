use super::*;
use crate::config::value::MailboxFormat::{Mbox, Mmdf};
use std::time::Duration;

const LOCKING: Locking = Locking {
    dot: true,
    fcntl: true,
    flock: false,
    attempts: 1,
    delay: Duration::ZERO,
    stale: Duration::from_secs(500),
    locker: None,
};
const MESSAGE: &[u8] = b"Return-Path: <bob@mx.example>\nSubject: x\n\nFrom here\n\x01\x01\x01\x01\nend";

fn append(path: &Path, format: MailboxFormat, base: &str, search: bool, mut content: &[u8]) -> io::Result<()> {
    deliver(path, format, true, &LOCKING, base, search, &mut content)
}

/// The mailbox without the dates.
fn text(path: &Path) -> String {
    of_text(&std::fs::read(path).unwrap())
}

fn of_text(octets: &[u8]) -> String {
    let text = std::str::from_utf8(octets).unwrap();
    let line = |line: &str| {
        if mbox::is_separator(line.as_bytes()) { format!("{} DATE", &line[..19]) } else { line.to_owned() }
    };
    text.split('\n').map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_message_is_quoted_closed_and_marked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bob");
    append(&path, Mbox, "1.Q", false, MESSAGE).unwrap();
    let message = "Return-Path: <bob@mx.example>\nX-Delivery-ID: 1.Q whole  \nSubject: x\n\n";
    let expected = format!("From bob@mx.example DATE\n{message}>From here\n\x01\x01\x01\x01\nend\n\n");
    assert_eq!(text(&path), expected);
    append(&path, Mbox, "2.Q", false, MESSAGE).unwrap();
    assert_eq!(text(&path), expected.clone() + &expected.replace("1.Q", "2.Q"));
    let path = folder.path().join("mmdf");
    append(&path, Mmdf, "1.Q", false, MESSAGE).unwrap();
    let expected = format!("\x01\x01\x01\x01\n{message}From here\n \x01\x01\x01\nend\n\x01\x01\x01\x01\n");
    assert_eq!(text(&path), expected);
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap()) & 0o777, 0o600);
}

#[test]
fn what_another_program_left_open_is_closed_first() {
    let folder = tempfile::tempdir().unwrap();
    for (format, begin) in [(Mbox, "From bob@mx.example Sun Nov 22 04:27:00 2026\n"), (Mmdf, "\x01\x01\x01\x01\n")] {
        for end in ["", "\n", "\n\n", "\nx", "\n\x01\x01\x01\x01\n", "\n\x01\x01\x01"] {
            let path = folder.path().join("bob");
            std::fs::write(&path, format!("{begin}A: 1\n\none{end}")).unwrap();
            append(&path, format, "1.Q", false, MESSAGE).unwrap();
            let scan = scan(&File::open(&path).unwrap(), format, Some(b"1.Q")).unwrap();
            assert_eq!((scan.messages.len(), scan.marked), (2, Some((1, true))), "{format:?} {end:?}");
        }
    }
}

#[test]
fn a_repeat_finds_what_is_whole_and_writes_what_is_not() {
    for format in [Mbox, Mmdf] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bob");
        append(&path, format, "0.Q", false, MESSAGE).unwrap();
        let before = std::fs::read(&path).unwrap();
        append(&path, format, "1.Q", false, MESSAGE).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for search in [true, false] {
            append(&path, format, "1.Q", search, MESSAGE).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), whole);
        }
        // As a crash leaves it, at any octet.
        let partial = String::from_utf8(whole.clone()).unwrap().replace("1.Q whole  ", "1.Q partial");
        for length in before.len()..=partial.len() {
            // Another message comes first, or the same one, which may not know that it was tried.
            for (base, search) in [("1.Q", true), ("1.Q", false), ("2.Q", false)] {
                std::fs::write(&path, &partial.as_bytes()[..length]).unwrap();
                append(&path, format, base, search, MESSAGE).unwrap();
                // A word behind an empty line might be anybody's last one.
                let name = partial[before.len()..length].strip_prefix("From ").filter(|name| !name.contains('@'));
                if name.is_some_and(|name| !name.is_empty()) {
                    continue;
                }
                assert_eq!(text(&path), of_text(&whole).replace("1.Q", base), "{length} {base}");
            }
        }
    }
}

#[test]
fn content_that_breaks_off_leaves_nothing() {
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 > 3 {
                Err(io::ErrorKind::UnexpectedEof.into())
            } else {
                b"Return-Path: <>\n".as_slice().read(buffer)
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bob");
    append(&path, Mbox, "1.Q", false, MESSAGE).unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(deliver(&path, Mbox, true, &LOCKING, "2.Q", false, &mut Broken(0)).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_locked_mailbox_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bob");
    std::fs::write(folder.path().join("bob.lock"), "0").unwrap();
    let error = append(&path, Mbox, "1.Q", false, MESSAGE).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert_eq!(std::fs::read(&path).unwrap(), b"");
}

#[test]
fn a_repeat_cuts_off_its_own_beginning_though_a_quoted_separator_stands_in_it() {
    let message: &[u8] = b"Return-Path: <bob@mx.example>\nSubject: x\n\nsaid:\n\nFrom al@x Sun Nov 22 04:27:00 2026\n\
        >From al@x Sun Nov 22 04:27:00 2026\nend";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bob");
    append(&path, Mbox, "0.Q", false, message).unwrap();
    let before = std::fs::read(&path).unwrap();
    append(&path, Mbox, "1.Q", false, message).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let partial = String::from_utf8(whole.clone()).unwrap().replace("1.Q whole  ", "1.Q partial");
    // Behind the separator, whose first words might be anybody's.
    for length in before.len() + 30..=partial.len() {
        std::fs::write(&path, &partial.as_bytes()[..length]).unwrap();
        append(&path, Mbox, "1.Q", true, message).unwrap();
        assert_eq!(text(&path), of_text(&whole), "{length}");
        // A repeat of another message, and one of this behind it: nothing is lost.
        std::fs::write(&path, &partial.as_bytes()[..length]).unwrap();
        append(&path, Mbox, "2.Q", true, message).unwrap();
        append(&path, Mbox, "1.Q", true, message).unwrap();
        let all = text(&path);
        for base in ["0.Q", "1.Q", "2.Q"] {
            assert_eq!(all.matches(&format!("{base} whole  ")).count(), 1, "{length}");
        }
        // Another program's message, whose separator nobody knows.
        let foreign = "From bob Sun, 22 Nov 2026 04:27:00 +0000\nSubject: y\n\nmail\n\n";
        std::fs::write(&path, format!("{}\n\n{foreign}", &partial[..length])).unwrap();
        append(&path, Mbox, "1.Q", true, message).unwrap();
        assert!(text(&path).contains(foreign), "{length}");
    }
}
