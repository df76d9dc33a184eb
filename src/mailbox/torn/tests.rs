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
    for format in [Mbox, Mmdf] {
        let long = format!("{OTHER}\n{}", "a line of text, one of many\n".repeat(9000));
        for (text, step) in [(OTHER, 1), (&*long, 30_011)] {
            for before in ["", &message(format, "X-Delivery-ID: 0.Q whole  \n", &long), &message(format, "", OTHER)] {
                let torn = message(format, "X-Delivery-ID: 1.Q partial\n", text);
                let all = format!("{before}{torn}");
                for length in (before.len() + 1..=all.len()).step_by(step) {
                    let left = &all.as_bytes()[..length];
                    let name = all[before.len()..length].strip_prefix("From ").filter(|name| !name.contains('@'));
                    let unsure = name.is_some_and(|name| !name.is_empty()) && length % 512 != 0;
                    let expected = if unsure { length } else { before.len() };
                    let what = all[before.len()..length].get(..60);
                    assert_eq!(mended(format, left), expected as u64, "{format:?} {length} {what:?}");
                    // The size is there, and not what was written last.
                    let zeros = [left, &[0; 700]].concat();
                    assert_eq!(mended(format, &zeros), before.len() as u64, "zeros, {format:?} {length}");
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
        assert_eq!(looked(format, whole("2.Q").as_bytes()), Tail::Delivered);
        let early = (whole("2.Q") + &foreign).into_bytes();
        assert_eq!(looked(format, &early), Tail::Sound, "{format:?}");
        // Whatever another program appended, and wherever the beginning broke off.
        let lines = partial.match_indices('\n').map(|(at, _)| at + 1);
        for end in (30..partial.len()).chain(lines.filter(|end| *end > 30)) {
            for behind in [&foreign, &whole("3.Q"), &format!("\n{foreign}")] {
                let text = format!("{}{behind}", &partial[..end]);
                assert_eq!(looked(format, text.as_bytes()), Tail::Sound, "{text:?}");
            }
            // A separator of nobody we know.
            for separator in ["From bob Sun, 22 Nov 2026 04:27:00 +0000\n", "From bob\n", "From bob", "From \n"] {
                let ends_line = partial[..end].ends_with('\n');
                for before in ["\n", "\n\n", ""].into_iter().filter(|before| !before.is_empty() || ends_line) {
                    let text = format!("{}{before}{separator}", &partial[..end]);
                    let whole = text.clone() + "Subject: y\n\nmail\n\n";
                    for text in [text, whole].iter().filter(|text| format == Mbox && text.len() % 512 != 0) {
                        assert_eq!(looked(format, text.as_bytes()), Tail::Sound, "{text:?}");
                        let mut file = tempfile::tempfile().unwrap();
                        file.write_all(text.as_bytes()).unwrap();
                        assert!(!is_ours_alone(&file, format, 0).unwrap(), "{text:?}");
                    }
                }
            }
        }
    }
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
        assert!(started.elapsed() < std::time::Duration::from_secs(5), "{hostile:?}");
    }
}

#[test]
fn only_a_quoted_separator_is_taken_for_ours_when_the_message_comes_again() {
    let is_ours = |format, text: &str| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        is_ours_alone(&file, format, 0).unwrap()
    };
    let quoted =
        message(Mbox, "X-Delivery-ID: 2.Q partial\n", &format!("A: 1\n\nx\n>{SEPARATOR}>>{SEPARATOR}>From x\n"));
    assert!(is_ours(Mbox, &quoted));
    assert!(is_ours(Mbox, &quoted.replace('\n', &"\n".repeat(30_000))));
    for foreign in [SEPARATOR, &format!("\ntex{SEPARATOR}"), &format!("\nx>{SEPARATOR}"), "From bob\n", "\nFrom bob"] {
        assert!(!is_ours(Mbox, &format!("{quoted}{foreign}")), "{foreign}");
    }
    let partial = message(Mmdf, "X-Delivery-ID: 2.Q partial\n", OTHER);
    assert!(is_ours(Mmdf, &partial));
    assert!(is_ours(Mmdf, &partial[..partial.len() - 9]));
    assert!(!is_ours(Mmdf, &(partial.clone() + &partial)));
    assert!(!is_ours(Mmdf, &(partial[..partial.len() - 9].to_owned() + &message(Mmdf, "", OTHER))));
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
