use super::super::scan::scan;
use super::*;
use crate::config::value::MailboxFormat::{Mbox, Mmdf};
use crate::mailbox::lock::LOCKING;
use proptest::prelude::*;
use std::time::Duration;

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

fn is_delivered(file: &File, format: MailboxFormat, base: &str) -> bool {
    matches!(torn::find(file, format, base).unwrap(), Tail::Delivered(_))
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
        for end in [
            "",
            "\n",
            "\n\n",
            "\nx",
            "\n\x01\x01\x01\x01\n",
            "\n\x01\x01\x01",
            "\n\x01\x01\x01\x01",
            "\x01\x01\x01\x01",
        ] {
            let path = folder.path().join("bob");
            std::fs::write(&path, format!("{begin}A: 1\n\none{end}")).unwrap();
            append(&path, format, "1.Q", false, MESSAGE).unwrap();
            let file = File::open(&path).unwrap();
            assert_eq!(scan(&file, format).unwrap().messages.len(), 2, "{format:?} {end:?}");
            assert!(is_delivered(&file, format, "1.Q"), "{format:?} {end:?}");
        }
    }
}

#[test]
fn an_mbox_of_lines_that_end_in_crlf_gets_no_empty_line_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bob");
    let whole = "From bob@mx.example Sun Nov 22 04:27:00 2026\r\nA: 1\r\n\r\none\r\n\r\n";
    for (before, missing) in [(whole, ""), (whole.strip_suffix("\r\n").unwrap(), "\n")] {
        std::fs::write(&path, before).unwrap();
        append(&path, Mbox, "1.Q", false, MESSAGE).unwrap();
        let after = text(&path);
        let begin = format!("{}{missing}From bob@mx.example DATE\nReturn-Path", of_text(before.as_bytes()));
        assert!(after.starts_with(&begin), "{after:?}");
        assert_eq!(scan(&File::open(&path).unwrap(), Mbox).unwrap().messages[0].octets, 13);
    }
}

#[test]
fn an_mmdf_of_lines_that_end_in_crlf_gets_no_delimiter_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bob");
    let before = "\x01\x01\x01\x01\r\nA: 1\r\n\r\none\r\n\x01\x01\x01\x01\r\n";
    for before in [before, "\x01\x01\x01\x01\r\n"] {
        std::fs::write(&path, before).unwrap();
        append(&path, Mmdf, "1.Q", false, MESSAGE).unwrap();
        let behind = text(&path).strip_prefix(before).unwrap().to_owned();
        assert!(behind.starts_with("\x01\x01\x01\x01\nReturn-Path: "), "{behind:?}");
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
        // As a crash leaves it, at any octet behind the mark.
        let partial = String::from_utf8(whole.clone()).unwrap().replace("1.Q whole  ", "1.Q partial");
        let mark = partial.find("1.Q partial\n").unwrap() + "1.Q partial\n".len();
        for length in (mark..=partial.len()).chain([before.len()]) {
            // Another message comes first, or the same one, which may not know that it was tried.
            for (base, search) in [("1.Q", true), ("1.Q", false), ("2.Q", false)] {
                std::fs::write(&path, &partial.as_bytes()[..length]).unwrap();
                append(&path, format, base, search, MESSAGE).unwrap();
                // Another one might stand behind the quoted word.
                if base == "2.Q" && format == Mbox && length > mark && partial[mark..length].contains("From ") {
                    assert!(text(&path).starts_with(&of_text(&partial.as_bytes()[..length])));
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
    assert!(!path.exists());
}

#[test]
fn who_waits_for_a_lock_does_not_open_the_mailbox_for_writing() {
    for kinds in [(true, false, false), (false, true, false), (false, false, true)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bob");
        append(&path, Mbox, "1.Q", false, MESSAGE).unwrap();
        let locking = Locking { dot: kinds.0, fcntl: kinds.1, flock: kinds.2, ..LOCKING };
        let place = Place::of(&path).unwrap();
        let file = place.open(OFlag::O_RDONLY).unwrap();
        let held = Held::take(&place, &file, &locking, false, true).unwrap();
        let lease = lock::lease(&file).unwrap().unwrap();
        let deliver = || deliver(&path, Mbox, true, &locking, "2.Q", false, &mut &MESSAGE[..]);
        assert_eq!(deliver().unwrap_err().kind(), io::ErrorKind::WouldBlock, "{kinds:?}");
        assert!(lease.holds(), "{kinds:?}");
        drop((lease, held));
        deliver().unwrap();
    }
}

/// It heeds fcntl, and what it leaves there is no reason to wait.
#[test]
fn a_dot_lock_where_we_can_make_none_and_one_of_a_lockers_are_not_waited_for() {
    use std::os::unix::fs::{PermissionsExt, chown};
    if !crate::needs::root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bob");
    append(&path, Mbox, "1.Q", false, MESSAGE).unwrap();
    std::fs::write(folder.path().join("bob.lock"), "0").unwrap();
    let place = Place::of(&path).unwrap();
    assert!(lock::are_taken(&place, &LOCKING));
    let locker = Some("/bin/true".into());
    assert!(!lock::are_taken(&place, &Locking { locker, ..LOCKING }));
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    chown(&path, Some(65_534), None).unwrap();
    // The rights of nobody, which one thread alone can have.
    let thread = std::thread::spawn(move || {
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65_534));
        deliver(&path, Mbox, false, &LOCKING, "2.Q", false, &mut &MESSAGE[..]).unwrap();
    });
    thread.join().unwrap();
    assert!(folder.path().join("bob.lock").exists());
}

#[test]
fn what_another_program_cut_off_does_not_become_zeros() {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(b"0123456789", 0).unwrap();
    assert_eq!(cut_off(&file, 20).unwrap(), None);
    assert_eq!(file.metadata().unwrap().len(), 10);
    assert_eq!(cut_off(&file, 4).unwrap(), Some(6));
    assert_eq!(file.metadata().unwrap().len(), 4);
}

/// A program without our locks takes the mailbox away while something is appended to it.
#[test]
fn what_is_written_into_a_file_that_lost_its_name_is_not_delivered() {
    struct Takes<'a>(&'a Path, &'a [u8]);
    impl Read for Takes<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let _ = std::fs::rename(self.0, self.0.with_file_name("taken"));
            self.1.read(buffer)
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bob");
    append(&path, Mbox, "1.Q", false, MESSAGE).unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(deliver(&path, Mbox, true, &LOCKING, "2.Q", false, &mut Takes(&path, MESSAGE)).is_err());
    assert_eq!(std::fs::read(path.with_file_name("taken")).unwrap(), before, "it comes again, so not twice");
    append(&path, Mbox, "2.Q", true, MESSAGE).unwrap();
    assert_eq!(text(&path), of_text(&before).replace("1.Q", "2.Q"));
}

#[test]
fn a_repeat_goes_on_with_its_own_beginning_though_a_quoted_separator_stands_in_it() {
    let message: &[u8] = b"Return-Path: <bob@mx.example>\nSubject: x\n\nsaid:\n\nFrom al@x Sun Nov 22 04:27:00 2026\n\
        >From al@x Sun Nov 22 04:27:00 2026\nend";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bob");
    append(&path, Mbox, "0.Q", false, message).unwrap();
    append(&path, Mbox, "1.Q", false, message).unwrap();
    let whole = std::fs::read(&path).unwrap();
    let partial = String::from_utf8(whole.clone()).unwrap().replace("1.Q whole  ", "1.Q partial");
    // Behind the mark: what is before it might be anybody's.
    for length in partial.find("partial\n").unwrap() + "partial\n".len()..=partial.len() {
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
        // Another program's message, whose separator nobody knows, wherever ours broke off.
        let foreign = "From bob Sun, 22 Nov 2026 04:27:00 +0000\nSubject: y\n\nmail\n\n";
        for (between, base) in ["", "\n", "\n\n"].iter().flat_map(|between| [(between, "1.Q"), (between, "2.Q")]) {
            std::fs::write(&path, format!("{}{between}{foreign}", &partial[..length])).unwrap();
            append(&path, Mbox, base, true, message).unwrap();
            let all = text(&path);
            assert!(all.contains(foreign) && all.matches(&format!("{base} whole  ")).count() == 1, "{length} {base}");
        }
    }
}

#[test]
fn a_beginning_is_gone_on_with_and_zeros_behind_it_are_not_mail() {
    let message = [b"Return-Path: <bob@mx.example>\nSubject: x\n\n".as_slice(), &b"line\n".repeat(30_000)].concat();
    for format in [Mbox, Mmdf] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bob");
        append(&path, format, "0.Q", false, MESSAGE).unwrap();
        let before = std::fs::read(&path).unwrap().len();
        append(&path, format, "1.Q", false, &message).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let mut partial = whole.clone();
        let mark = memchr::memmem::find(&whole, b"1.Q whole  ").unwrap() + 3;
        partial[mark..mark + PARTIAL.len()].copy_from_slice(PARTIAL);
        for length in [mark + 9, 40_000, 100_001, whole.len() - 1, whole.len()] {
            for zeros in [0, 1, 5000, 200_000] {
                for search in [true, false] {
                    std::fs::write(&path, [&partial[..length], &vec![0; zeros]].concat()).unwrap();
                    append(&path, format, "1.Q", search, &message).unwrap();
                    assert!(std::fs::read(&path).unwrap() == whole, "{format:?} {length} {zeros}");
                    // A power cut has lost what was in the middle.
                    let mut holed = partial[..length].to_vec();
                    holed[mark + 9..].iter_mut().take(5000).for_each(|octet| *octet = 0);
                    std::fs::write(&path, &holed).unwrap();
                    append(&path, format, "1.Q", search, &message).unwrap();
                    assert!(std::fs::read(&path).unwrap() == whole, "{format:?} {length} holed");
                    // An error leaves what was there.
                    let left = [&partial[..length], &vec![0; zeros]].concat();
                    std::fs::write(&path, &left).unwrap();
                    let mut broken = message[..120_000].chain(Refuses);
                    assert!(deliver(&path, format, true, &LOCKING, "1.Q", search, &mut broken).is_err());
                    assert!(std::fs::read(&path).unwrap().starts_with(&left[..length]), "{format:?} {length}");
                    assert!(std::fs::read(&path).unwrap().len() <= left.len(), "{format:?} {length}");
                }
            }
        }
        assert!(before < whole.len());
    }
}

struct Refuses;

impl Read for Refuses {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

#[test]
fn an_error_does_not_cut_off_what_somebody_without_locks_wrote_meanwhile() {
    struct Foreign<'a>(&'a Path, usize);
    impl Read for Foreign<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1 < 3 {
                return b"Return-Path: <>\n".as_slice().read(buffer);
            }
            use std::io::Write;
            let mut file = std::fs::OpenOptions::new().append(true).open(self.0)?;
            file.write_all(b"From al Sun Nov 22 04:27:00 2026\nA: 1\n\nforeign\n\n")?;
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bob");
    append(&path, Mbox, "1.Q", false, MESSAGE).unwrap();
    assert!(deliver(&path, Mbox, true, &LOCKING, "2.Q", false, &mut Foreign(&path, 0)).is_err());
    assert!(text(&path).contains("\n\nforeign\n"));
}

/// It went on where an earlier try had ended, was on disk, and could then not be marked for certain: the mark may be on disk.
#[test]
fn what_may_be_marked_whole_is_not_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bob");
    append(&path, Mbox, "1.Q", false, MESSAGE).unwrap();
    let whole = text(&path);
    let begun = whole.replace("1.Q whole  ", "1.Q partial");
    std::fs::write(&path, &begun[..begun.len() - 9]).unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut writing = Writing::new(&file, Mbox, begun.len() as u64 - 9).unwrap();
    writing.write("1.Q", Some(0), &mut &MESSAGE[..]).unwrap();
    writing.undo().unwrap();
    assert_eq!(text(&path), whole);
    writing.is_whole = false;
    writing.undo().unwrap();
    assert_eq!(text(&path).len(), whole.len() - 9);
}

/// Pages that could not be written count as written from then on: what is compared is written all the same.
#[test]
fn a_repeat_does_not_rely_on_what_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bob");
    append(&path, Mbox, "1.Q", false, MESSAGE).unwrap();
    let before = std::fs::metadata(&path).unwrap().modified().unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(before - Duration::from_secs(60)).unwrap();
    append(&path, Mbox, "1.Q", true, MESSAGE).unwrap();
    assert!(std::fs::metadata(&path).unwrap().modified().unwrap() >= before, "the mark was not written again");
}

/// What another program may append: whole messages, with separators of many kinds, and torn ones.
fn foreign() -> impl Strategy<Value = String> {
    let separator = prop::sample::select(vec![
        "From al@x Sun Nov 22 04:27:00 2026\n",
        "From al Sun, 22 Nov 2026 04:27:00 +0000\n",
        "From al\n",
        "From \n",
    ]);
    ("\n{0,2}", separator, "(A: 1\n)?\n", "([a-zF> ]{0,9}\n){0,3}", "(\n|\n\n|)")
        .prop_map(|(a, b, c, d, e)| a + b + &c + &d + &e)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn nothing_of_another_program_is_cut_off_or_changed(
        text in "([a-z>]{0,3}(From )?[a-zF> ]{0,5}\n){0,6}[a-z]{0,2}",
        before in prop::sample::select(vec![
            "",
            "From z Sun Nov 22 04:27:00 2026\n\nz\n\n",
            "From z Sun Nov 22 04:27:00 2026\n\nz\n\nFrom z@x",
        ]),
        cut in any::<prop::sample::Index>(),
        foreign in foreign(),
        is_own: bool,
        search: bool,
        pad: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bob");
        let message = format!("Return-Path: <bob@mx.example>\nSubject: x\n\n{text}");
        append(&path, Mbox, "1.Q", false, message.as_bytes()).unwrap();
        let whole = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
        let partial = whole.replace("1.Q whole  ", "1.Q partial");
        let mut left = format!("{before}{}{foreign}", &partial[..cut.index(partial.len() + 1)]);
        if pad && search {
            left.insert_str(0, &format!("From p Sun Nov 22 04:27:00 2026\n\n{}\n\n", "p".repeat(474 - left.len() % 470)));
        }
        std::fs::write(&path, &left).unwrap();
        append(&path, Mbox, if is_own { "1.Q" } else { "2.Q" }, search, message.as_bytes()).unwrap();
        let now = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
        // Its mark became whole where the torn one was all there.
        prop_assert!(now.replace("1.Q whole  ", "1.Q partial").starts_with(&left), "{left:?} {now:?}");
        let file = File::open(&path).unwrap();
        let base = if is_own { "1.Q" } else { "2.Q" };
        prop_assert!(is_delivered(&file, Mbox, base));
    }

    #[test]
    fn nothing_of_another_program_is_cut_off_of_an_mmdf(
        text in "([a-z\x01]{0,5}\n){0,6}[a-z]{0,2}",
        cut in any::<prop::sample::Index>(),
        between in "\n{0,2}",
        foreign in "(A: 1\n)?\n([a-z\x01]{0,9}\n){0,3}[a-z]{0,2}\n",
        is_closed: bool,
        is_own: bool,
        search: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bob");
        let message = format!("Return-Path: <bob@mx.example>\nSubject: x\n\n{text}");
        append(&path, Mmdf, "1.Q", false, message.as_bytes()).unwrap();
        let partial = String::from_utf8(std::fs::read(&path).unwrap()).unwrap().replace("1.Q whole  ", "1.Q partial");
        let end = if is_closed { "\x01\x01\x01\x01\n" } else { "" };
        let left = format!("{}{between}\x01\x01\x01\x01\n{foreign}{end}", &partial[..cut.index(partial.len() + 1)]);
        std::fs::write(&path, &left).unwrap();
        let base = if is_own { "1.Q" } else { "2.Q" };
        append(&path, Mmdf, base, search, message.as_bytes()).unwrap();
        let now = String::from_utf8(std::fs::read(&path).unwrap()).unwrap();
        prop_assert!(now.replace("1.Q whole  ", "1.Q partial").starts_with(&left), "{left:?} {now:?}");
        prop_assert!(is_delivered(&File::open(&path).unwrap(), Mmdf, base));
    }
}
