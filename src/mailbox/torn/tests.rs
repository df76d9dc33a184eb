use super::*;
use MailboxFormat::{Mbox, Mmdf};
use std::io::Write;

const SEPARATOR: &str = "From bob@mx.example Sun Nov 22 04:27:00 2026\n";

fn looked(format: MailboxFormat, octets: &[u8]) -> Tail {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(octets).unwrap();
    look(&file, format, "2.Q").unwrap()
}

/// How long it is when nothing more is to be cut off.
fn mended(format: MailboxFormat, octets: &[u8]) -> u64 {
    let mut length = octets.len();
    while let Tail::Torn(at) = looked(format, &octets[..length]) {
        length = usize::try_from(at).unwrap();
    }
    length as u64
}

/// A message as it stands in a mailbox, with what is before it.
fn message(format: MailboxFormat, mark: &str, text: &str) -> String {
    let (begin, end) = if format == Mmdf { ("\x01\x01\x01\x01\n", "\x01\x01\x01\x01\n") } else { (SEPARATOR, "\n") };
    format!("{begin}Return-Path: <bob@mx.example>\n{mark}{text}{end}")
}

const OTHER: &str = "Subject: x\n\nFromage.\n>From the beginning\nnot From here, From: there\nend\n";

#[test]
fn the_beginning_of_a_message_is_found_wherever_it_broke_off_and_whosever_it_is() {
    let plain = "Subject: x\n\nFromage.\nend\n";
    for format in [Mbox, Mmdf] {
        let long = format!("{plain}\n{}", "a line of text, one of many\n".repeat(9000));
        for (text, step) in [(plain, 1), (&*long, 30_011)] {
            for before in ["", &message(format, "X-Delivery-ID: 0.Q whole  \n", &long), &message(format, "", OTHER)] {
                let torn = message(format, "X-Delivery-ID: 1.Q partial\n", text);
                let all = format!("{before}{torn}");
                let separator = if format == Mmdf { 0 } else { SEPARATOR.len() };
                let mark = before.len() + torn.find("partial\n").unwrap() + "partial\n".len();
                for length in (before.len() + 1..=all.len()).step_by(step) {
                    let left = &all.as_bytes()[..length];
                    let is_sure = length >= mark || length % 512 == 0 && length >= before.len() + separator;
                    let expected = if is_sure { before.len() } else { length };
                    let what = all[before.len()..length].get(..60);
                    assert_eq!(mended(format, left), expected as u64, "{format:?} {length} {what:?}");
                    // The size is there, and not what was written last.
                    let zeros = [left, &[0; 700]].concat();
                    if length >= before.len() + separator {
                        assert_eq!(mended(format, &zeros), before.len() as u64, "zeros, {format:?} {length}");
                    } else {
                        let expected = if length % 512 == 0 { length } else { zeros.len() };
                        assert_eq!(mended(format, &zeros), expected as u64, "zeros, {format:?} {length}");
                    }
                }
                let zeros = [before.as_bytes(), &[0; 70_000]].concat();
                assert_eq!(looked(format, &zeros), Tail::Torn(before.len() as u64), "{format:?}");
            }
        }
    }
}

#[test]
fn what_is_whole_or_anothers_is_left_alone() {
    for format in [Mbox, Mmdf] {
        let whole = |base: &str| message(format, &format!("X-Delivery-ID: {base} whole  \n"), OTHER);
        let foreign = message(format, "", &OTHER.replace('>', ""));
        let partial = message(format, "X-Delivery-ID: 1.Q partial\n", OTHER);
        for text in
            ["", &whole("1.Q"), &foreign, &foreign[..foreign.len() - 7], "no mailbox at all", "\nFrom me\n\nFrom her"]
        {
            assert_eq!(looked(format, text.as_bytes()), Tail::Sound, "{text}");
        }
        assert_eq!(looked(format, whole("2.Q").as_bytes()), Tail::Delivered(0));
        let early = (whole("2.Q") + &foreign).into_bytes();
        assert_eq!(looked(format, &early), Tail::Sound, "{format:?}");
        // Whatever another program appended, and wherever the beginning broke off.
        for end in 30..partial.len() {
            for behind in [&foreign, &whole("3.Q"), &format!("\n{foreign}")] {
                let text = format!("{}{behind}", &partial[..end]);
                assert_eq!(looked(format, text.as_bytes()), Tail::Sound, "{text:?}");
            }
            // A separator of nobody we know.
            for separator in
                ["From bob Sun, 22 Nov 2026 04:27:00 +0000\n", "From bob\n", "From bob", "From \n", "From "]
            {
                for before in ["\n", "\n\n", ""].into_iter().filter(|_| format == Mbox) {
                    let text = format!("{}{before}{separator}", &partial[..end]);
                    for text in [text.clone() + "Subject: y\n\nmail\n\n", text] {
                        assert_eq!(looked(format, text.as_bytes()), Tail::Sound, "{text:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_last_words_of_a_message_are_no_beginning_wherever_it_ends() {
    for words in ["F", "From ", "From now", "From bob@mx.example", "From bob@mx.example Sun Nov 22 04:27:00 2026"] {
        for zeros in [0, 512] {
            let begin = format!("{SEPARATOR}A: 1\n\n");
            let text = format!("{begin}{}\n\n{words}", "x".repeat(1024 - begin.len() - words.len() - 2));
            let expected = if zeros == 0 { Tail::Sound } else { Tail::Torn(1024) };
            assert_eq!(looked(Mbox, &[text.as_bytes(), &vec![0; zeros]].concat()), expected, "{words}");
        }
    }
    let text = format!("{SEPARATOR}A: 1\n\nlast line");
    assert_eq!(looked(Mbox, &[text.as_bytes(), &[0; 99]].concat()), Tail::Sound, "zeros in a line");
}

#[test]
fn looking_takes_bounded_time() {
    let before = message(Mbox, "X-Delivery-ID: 1.Q partial\n", "");
    for hostile in [
        "From ",
        "From \n",
        ">From \n",
        ">From x Sun Nov 22 04:27:00\n",
        "x From ",
        "\n\nFrom x Sun Nov 22 04:27:00\n",
        "\n",
    ] {
        let text = before.clone() + &hostile.repeat(4_000_000 / hostile.len());
        let started = std::time::Instant::now();
        let found = looked(Mbox, text.as_bytes());
        assert!(matches!(found, Tail::Sound | Tail::Torn(0)), "{hostile:?}");
        // For each of them anew it would be hours.
        assert!(started.elapsed() < std::time::Duration::from_secs(60), "{hostile:?}");
    }
}

fn found(format: MailboxFormat, text: &str) -> Tail {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    find(&file, format, "1.Q").unwrap()
}

#[test]
fn a_mark_counts_in_the_second_line_of_a_message_only_and_is_found_anywhere() {
    let far = "a line of text\n".repeat(200_000);
    for format in [Mbox, Mmdf] {
        let whole = message(format, "X-Delivery-ID: 1.Q whole  \n", "\nx\n");
        let partial = message(format, "X-Delivery-ID: 1.Q partial\n", "\nx\n");
        let other = message(format, "", &format!("\n{far}"));
        for before in ["", &other] {
            assert_eq!(found(format, &format!("{before}{whole}{other}")), Tail::Delivered(before.len() as u64));
            assert_eq!(
                found(format, &format!("{before}{whole}{other}{partial}")),
                Tail::Delivered(before.len() as u64)
            );
            assert_eq!(found(format, &format!("{before}{partial}{other}")), Tail::Begun(before.len() as u64));
        }
        for text in
            ["X-Delivery-ID: 1.QQ whole  \n", "A: 1\nX-Delivery-ID: 1.Q whole  \n", "\n\nX-Delivery-ID: 1.Q whole  \n"]
        {
            assert_eq!(found(format, &message(format, text, "")), Tail::Sound, "{text}");
        }
    }
    let quoted = format!("\n\n>{SEPARATOR}Return-Path: <>\nX-Delivery-ID: 1.Q whole  \n");
    assert_eq!(found(Mbox, &message(Mbox, "", &quoted)), Tail::Sound);
}

/// Where reading begins in the middle of a line, what stands there may have been quoted by what is before it.
#[test]
fn a_sender_forges_no_mark_wherever_reading_begins() {
    const MARK: &str = "X-Delivery-ID: 1.Q whole  \n";
    for (format, separator) in [(Mmdf, "\x01\x01\x01\x01\n"), (Mbox, SEPARATOR)] {
        for length in HEAD as usize - 60..HEAD as usize + 5 {
            let line = format!("Return-Path: <{}>\n", "a".repeat(length - separator.len() - 16));
            let forged = format!("x\n\nx{separator}{line}{MARK}");
            assert_eq!(found(format, &message(format, "", &forged)), Tail::Sound, "{format:?} {length}");
        }
    }
}

#[test]
fn a_mark_that_was_half_written_says_that_the_message_is_whole() {
    for half in 1..WHOLE.len() - 1 {
        let state = String::from_utf8([&WHOLE[..half], &PARTIAL[half..]].concat()).unwrap();
        let text = message(Mbox, &format!("X-Delivery-ID: 1.Q{state}"), "\nx\n");
        // The first octets of both are the same.
        let expected = if state.as_bytes() == PARTIAL { Tail::Begun(0) } else { Tail::Delivered(0) };
        assert_eq!((found(Mbox, &text), looked_for(&text)), (expected, true), "{state}");
    }
    assert_eq!(found(Mbox, &message(Mbox, "X-Delivery-ID: 1.Q whxtial\n", "\nx\n")), Tail::Sound);
}

/// Whether a look at the end finds it too.
fn looked_for(text: &str) -> bool {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    look(&file, Mbox, "1.Q").unwrap() == find(&file, Mbox, "1.Q").unwrap()
}

#[test]
fn a_mark_is_found_wherever_pieces_end() {
    let whole = message(Mbox, "X-Delivery-ID: 1.Q whole  \n", "\nx\n");
    for behind in 0..whole.len() + 5 {
        let length = usize::try_from(LARGE_PIECE).unwrap() - behind;
        assert_eq!(found(Mbox, &(whole.clone() + &"x".repeat(length))), Tail::Delivered(0), "{behind}");
    }
}

#[test]
fn a_mailbox_larger_than_all_disks_is_searched_in_bounded_time() {
    for size in [1 << 40, 1 << 62] {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(message(Mbox, "X-Delivery-ID: 1.Q whole  \n", OTHER).as_bytes()).unwrap();
        // Not every file system has room for the largest.
        if file.set_len(size).is_err() {
            continue;
        }
        let started = std::time::Instant::now();
        find(&file, Mbox, "1.Q").unwrap();
        assert!(started.elapsed() < std::time::Duration::from_secs(60), "{size} {:?}", started.elapsed());
    }
}

#[test]
fn a_size_without_octets_holds_nobody() {
    for (size, is_torn) in [(FARTHEST / 2, true), (1 << 40, false)] {
        for format in [Mbox, Mmdf] {
            for before in [String::new(), message(format, "X-Delivery-ID: 1.Q whole  \n", OTHER)] {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(before.as_bytes()).unwrap();
                file.set_len(size).unwrap();
                let started = std::time::Instant::now();
                let expected = if is_torn { Tail::Torn(before.len() as u64) } else { Tail::Sound };
                assert_eq!(look(&file, format, "2.Q").unwrap(), expected, "{format:?} {size}");
                assert!(started.elapsed() < std::time::Duration::from_secs(20), "{format:?} {size}");
            }
        }
    }
}
