use super::*;
use crate::config::value::MailboxFormat::{Mbox, Mmdf};
use crate::mailbox::scan::scan;
use proptest::prelude::*;
use std::io::Write as _;

const FROM: &str = "From bob@mx.example Sun Nov 22 04:27:00 2026\n";
const INTERNAL: &str = "From MAILER-DAEMON Sun Nov 22 04:27:00 2026\n\
    Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\nX-IMAP: 1 0\n\nx\n\n";
const D: &str = "\x01\x01\x01\x01\n";

fn file(text: &str) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// What the old part and the new one come to, if the old one counts.
fn together(format: MailboxFormat, file: &File, old: &Scan) -> Option<Vec<Found>> {
    let rest = rest(file, format, &old.messages).filter(|_| !old.is_open)?;
    let before = &old.messages[..old.messages.len() - 1];
    Some([before, &rest.messages].concat())
}

fn parts() -> impl Strategy<Value = Vec<String>> {
    let part = prop_oneof![
        4 => Just(format!("{FROM}A: 1\n\nbody\n\n")),
        2 => Just(FROM.to_owned()),
        2 => Just(D.to_owned()),
        2 => Just("\n".to_owned()),
        1 => Just("\r\n".to_owned()),
        1 => Just(">From x\n".to_owned()),
        2 => (0..300_u32).prop_map(|length| format!("Content-Length: {length}\n")),
        2 => (0..300_u32).prop_map(|length| format!("{FROM}Content-Length: {length}\n\nbody\n\n")),
        3 => "[a-z: >\r\x01]{0,6}\n?",
        1 => Just(format!("{D}A: 2\n\nFrom x\n{D}")),
    ];
    proptest::collection::vec(part, 0..14)
}

proptest! {
    /// Wherever it was cut off when the index was made, also within a line.
    #[test]
    fn a_file_that_has_grown_is_found_as_a_scan_of_all_finds_it(
        parts in parts(),
        cut in any::<prop::sample::Index>(),
        is_mmdf in any::<bool>(),
        is_internal in any::<bool>(),
    ) {
        let (format, begin) = if is_mmdf { (Mmdf, D) } else { (Mbox, FROM) };
        let begin = if is_internal && !is_mmdf { INTERNAL } else { begin };
        let text = format!("{begin}{}", parts.concat());
        let cut = cut.index(text.len() + 1);
        let Ok(old) = scan(&file(&text[..cut]), format) else { return Ok(()) };
        let file = file(&text);
        if let Some(together) = together(format, &file, &old) {
            prop_assert_eq!(together, scan(&file, format).unwrap().messages);
        }
    }

    /// As deliveries do it, nothing is scanned that is old.
    #[test]
    fn whole_messages_that_are_appended_never_make_it_scan_all(
        old in proptest::collection::vec("[a-z \n]{0,40}", 1..20),
        new in proptest::collection::vec("[a-z \n]{0,40}", 0..20),
        is_mmdf in any::<bool>(),
    ) {
        let text = |bodies: &[String]| -> String {
            let message = |body: &String| if is_mmdf {
                format!("{D}A: 1\n\n{body}\n{D}")
            } else {
                format!("{FROM}A: 1\nContent-Length: {}\n\n{body}\n\n", body.len() + 1)
            };
            bodies.iter().map(message).collect()
        };
        let format = if is_mmdf { Mmdf } else { Mbox };
        let before = scan(&file(&text(&old)), format).unwrap();
        let file = file(&text(&[old, new].concat()));
        let together = together(format, &file, &before);
        prop_assert_eq!(together, Some(scan(&file, format).unwrap().messages));
    }
}

fn numbered(numbers: impl Iterator<Item = usize>) -> String {
    numbers.map(|number| format!("{FROM}Subject: {number:03}\n\nbody {number:03}\n\n")).collect()
}

#[test]
fn messages_that_are_gone_or_changed_make_it_scan_all() {
    let old = scan(&file(&numbered(0..200)), Mbox).unwrap();
    let found = |text: &str| together(Mbox, &file(text), &old);
    assert_eq!(found(&numbered(0..210)).unwrap().len(), 210);
    for gone in [0, 1, 77, 198, 199] {
        assert_eq!(found(&numbered((0..210).filter(|number| *number != gone))), None, "{gone}");
    }
    // Flags of a mail reader move all that stands behind them.
    for changed in [0, 1, 77, 198, 199] {
        let subject = format!("Subject: {changed:03}");
        let text = numbered(0..210).replace(&subject, &format!("{subject}\nStatus: RO"));
        assert_eq!(found(&text), None, "{changed}");
    }
    assert_eq!(found(&numbered(1..300)), None, "all of the same length, and the first is gone");
    assert_eq!(found(&format!("{FROM}{}", "x".repeat(20_000))), None);
    let other = format!("{}body 199", numbered(0..200).replace("body 199", "body xxx"));
    assert_eq!(found(&other), None, "the last one is another");
}

#[test]
fn a_length_that_leads_beyond_the_end_makes_it_scan_all() {
    let first = format!("{FROM}Content-Length: 200\n\nx\n\n");
    let second = format!("{FROM}A: 2\n\nx\n\n");
    let third = |fill: usize| format!("{FROM}A: 3\n\n{}\n\n{FROM}A: 4\n\nx\n\n", "x".repeat(fill));
    let old = scan(&file(&(first.clone() + &second)), Mbox).unwrap();
    assert!(old.is_open && old.messages.len() == 2);
    let lengths: Vec<usize> = (0..120)
        .map(|fill| scan(&file(&(first.clone() + &second + &third(fill))), Mbox).unwrap().messages.len())
        .collect();
    assert!(lengths.contains(&2) && lengths.contains(&4), "what is appended decides: {lengths:?}");
}
