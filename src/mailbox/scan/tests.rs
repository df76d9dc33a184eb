use super::*;
use crate::mailbox::maildir::name::Count;
use crate::mailbox::quote::Unquoter;
use proptest::prelude::*;
use std::cell::Cell;
use std::io::Write as _;

const FROM_BOB: &str = "From bob@mx.example Sun Nov 22 04:27:00 2026\n";
const D: &str = "\x01\x01\x01\x01\n";

thread_local! {
    /// Octets of the lines of bodies whose end was looked for.
    pub static LOOKED_AT: Cell<usize> = const { Cell::new(0) };
}

fn file(text: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text).unwrap();
    file
}

/// Each message as it lies there, with its size in POP3.
fn scanned(format: MailboxFormat, text: &str) -> Vec<(String, u64)> {
    let scan = scan(&file(text.as_bytes()), format).unwrap();
    let mut covered = 0;
    let messages: Vec<_> = scan
        .messages
        .iter()
        .map(|found| {
            assert_eq!(found.start, covered, "nothing lies between messages");
            covered = found.next;
            assert!(found.start <= found.header && found.header <= found.body, "{found:?}");
            assert!(found.body <= found.end && found.end <= found.next, "{found:?}");
            let next = usize::try_from(found.next).unwrap();
            assert!(next == text.len() || text[..next].ends_with('\n'), "it ends in the middle of a line: {found:?}");
            let range = usize::try_from(found.header).unwrap()..usize::try_from(found.end).unwrap();
            let (mut sent, mut count) = (Vec::new(), Count::default());
            let mut unquoter = found.is_quoted.then(Unquoter::default);
            let stored = &text.as_bytes()[range.clone()];
            match &mut unquoter {
                Some(unquoter) => {
                    unquoter.push(stored, &mut sent);
                    unquoter.finish(&mut sent);
                }
                None => sent.extend_from_slice(stored),
            }
            count.add(&sent);
            assert_eq!(count.virtual_octets(), found.octets, "what is sent is what was counted: {text:?}");
            (text[range].to_owned(), found.octets)
        })
        .collect();
    assert!(messages.is_empty() || covered == text.len() as u64, "all belongs to some message");
    messages
}

fn mbox(text: &str) -> Vec<(String, u64)> {
    scanned(MailboxFormat::Mbox, text)
}

fn owned(messages: &[(&str, u64)]) -> Vec<(String, u64)> {
    messages.iter().map(|(text, octets)| ((*text).to_owned(), *octets)).collect()
}

#[test]
fn the_empty_line_before_a_separator_is_the_mailboxes() {
    let text = format!("{FROM_BOB}A: 1\n\none\n\n{FROM_BOB}A: 2\n\ntwo\n\n\n");
    assert_eq!(mbox(&text), owned(&[("A: 1\n\none\n", 13), ("A: 2\n\ntwo\n\n", 15)]));
    assert_eq!(
        mbox(&text.replace('\n', "\r\n")),
        owned(&[("A: 1\r\n\r\none\r\n", 13), ("A: 2\r\n\r\ntwo\r\n\r\n", 15)])
    );
}

#[test]
fn empty_mailboxes_and_messages_are_what_they_are() {
    assert_eq!(mbox(""), []);
    assert_eq!(mbox(&format!("{FROM_BOB}\n{FROM_BOB}\n")), owned(&[("", 0), ("", 0)]));
    assert_eq!(mbox(&format!("{FROM_BOB}A: 1\n\n{FROM_BOB}A: 2")), owned(&[("A: 1\n", 6), ("A: 2", 6)]));
    assert_eq!(scanned(MailboxFormat::Mmdf, ""), []);
    assert_eq!(scanned(MailboxFormat::Mmdf, &format!("{D}{D}{D}A: 1\n\n{D}")), owned(&[("", 0), ("A: 1\n\n", 8)]));
}

#[test]
fn a_line_that_begins_with_from_is_no_separator_within_a_paragraph_or_without_a_date() {
    let body = format!("A: 1\n\none\n{FROM_BOB}two\n\nFrom here on\nthree\n");
    assert_eq!(mbox(&format!("{FROM_BOB}{body}\n"))[0].0, body);
    assert_eq!(mbox(&format!("{FROM_BOB}{body}\n")).len(), 1);
}

#[test]
fn quoted_lines_count_without_their_quotes() {
    assert_eq!(mbox(&format!("{FROM_BOB}A: 1\n\n>From x\n>>From y\n>Frog\nx >From\n\n"))[0].1, 6 + 2 + 8 + 9 + 7 + 9);
}

#[test]
fn a_content_length_counts_if_a_separator_stands_there() {
    let body = format!("one\n\n{FROM_BOB}>From x\n");
    let text = format!("{FROM_BOB}Content-Length: {}\n\n{body}\n{FROM_BOB}A: 2\n\n", body.len());
    let messages = mbox(&text);
    assert_eq!(messages.len(), 2);
    assert!(messages[0].0.ends_with(&body), "{messages:?}");
    assert_eq!(messages[0].1, messages[0].0.len() as u64 + 6, "nothing is quoted where the length is given");
    for wrong in [0, 3, body.len() - 1, body.len() + 2, 9_999_999] {
        let text = format!("{FROM_BOB}Content-Length: {wrong}\n\n{body}\n{FROM_BOB}A: 2\n\n");
        assert_eq!(mbox(&text).len(), 3, "{wrong}");
    }
    let last = format!("{FROM_BOB}Content-Length: {}\n\n{body}", body.len());
    assert_eq!(mbox(&last).len(), 1);
}

/// Dovecot and mutt add the field to what they touch; the quotes are ours all the same.
#[test]
fn what_we_quoted_is_quoted_whoever_measured_it_since() {
    let body = "one\n\n>From x\n>>From y\n\nend\n";
    let of = |mark: &str, path: &str| {
        let fields = format!("{path}: <a@mx.example>\n{mark}\n>From z\n{{}}Subject: x\n\n{body}");
        let mut found = Vec::new();
        for field in [String::new(), format!("Content-Length: {}\n", body.len())] {
            let text = format!("{FROM_BOB}{}\n{FROM_BOB}A: 2\n\n", fields.replace("{}", &field));
            let scan = scan(&file(text.as_bytes()), MailboxFormat::Mbox).unwrap();
            assert_eq!(scan.messages.len(), 2);
            found.push((scan.messages[0].is_quoted, scan.messages[0].octets - 2 * u64::from(!field.is_empty())));
            assert!(scan.messages[0].octets > field.len() as u64);
        }
        let length = format!("Content-Length: {}", body.len()).len() as u64;
        (found[0], (found[1].0, found[1].1 - length))
    };
    let ours = of("X-Delivery-ID: 1700000000.Q1R0 whole  ", "Return-Path");
    assert_eq!(ours.0, ours.1);
    assert!(ours.0.0);
    for (mark, path) in [
        ("X-Delivery-ID: 1700000000.Q1R0 partial", "Return-Path"),
        ("X-Delivery-ID: 1700000000.Q1R0 whole  ", "Received"),
        ("Received: x\nX-Delivery-ID: 1700000000.Q1R0 whole  ", "Return-Path"),
    ] {
        let (without, with) = of(mark, path);
        assert_eq!((without.0, with), (true, (false, without.1 + 3)), "{mark} {path}");
    }
}

/// Else the rest of the line would be a separator, and what its sender wrote a message from anybody.
#[test]
fn a_content_length_that_ends_in_the_middle_of_a_line_does_not_count() {
    let forged = format!("{FROM_BOB}Return-Path: <root@bank.example>\nA: 2\n\npay\n");
    let second = format!("{FROM_BOB}A: 3\n");
    for (begin, is_line) in [("x ", false), ("x", false), ("x\n", true), ("", true), ("x\ny ", false)] {
        let first = format!("{FROM_BOB}Content-Length: {}\nA: 1\n\n{begin}", begin.len());
        let messages = mbox(&format!("{first}{forged}\n{second}"));
        assert_eq!(messages.len(), if is_line { 3 } else { 2 }, "{begin:?}: {messages:?}");
    }
    // The end of the last line may have been left out of the count, and the last line may have none.
    for (body, length) in [("x y\n", 3), ("x y\r\n", 3), ("x y\r\n", 5), ("x y", 3), ("x y\n", 4)] {
        let message = format!("Content-Length: {length}\n\n{body}");
        let separator = if body.ends_with('\n') { FROM_BOB } else { "" };
        let messages = mbox(&format!("{FROM_BOB}{message}{separator}"));
        assert_eq!(messages.len(), 1 + usize::from(!separator.is_empty()), "{body:?}: {messages:?}");
    }
}

/// Found by fuzzing: it was a message of its own, without a separator.
#[test]
fn a_lone_cr_behind_a_content_length_is_no_message() {
    assert_eq!(mbox(&format!("{FROM_BOB}Content-Length: 2\n\nx\n\r")).len(), 1);
}

const INTERNAL: &str = "From MAILER-DAEMON Sun Nov 22 04:27:00 2026\nDate: 22 Nov 2026 04:27:00 +0000\n\
    Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\nX-IMAP: 1795317577 0000000003\nStatus: RO\n\n\
    This text is part of the internal format of your mail folder.\n\n";

#[test]
fn internal_data_of_c_client_are_no_message_where_they_stand_first_and_never_came_by_mail() {
    let message = format!("{FROM_BOB}A: 1\n\none\n\n");
    assert_eq!(mbox(INTERNAL), []);
    assert_eq!(mbox(&format!("{INTERNAL}{message}")), owned(&[("A: 1\n\none\n", 13)]));
    assert_eq!(mbox(&format!("\n{INTERNAL}{message}{message}")).len(), 2);
    let lies = INTERNAL.replace("Status: RO", &format!("Content-Length: {}", 66 + message.len() - 4));
    assert_eq!(mbox(&format!("{lies}{message}")).len(), 1, "a length there hides nothing");
    let internal = |text: &str| scan(&file(text.as_bytes()), MailboxFormat::Mbox).unwrap().internal;
    assert_eq!(internal(INTERNAL), INTERNAL.len() as u64);
    assert_eq!(internal(&format!("{INTERNAL}\n{message}")), INTERNAL.len() as u64 + 1);
    assert_eq!(internal(&message), 0);
    assert_eq!(mbox(&format!("{}{message}", INTERNAL.trim_end_matches('\n').to_owned() + "\n")).len(), 1, "nor a body");
    assert_eq!(mbox(&format!("{message}{INTERNAL}")).len(), 2);
    for (from, to) in [
        ("X-IMAP:", "X-IMAPbase:"),
        ("DON'T", "DO"),
        ("Status: RO", "Received: from mx.example"),
        ("Date:", "Return-Path: <eve@mx.example>\nDate:"),
    ] {
        assert_eq!(mbox(&format!("{}{message}", INTERNAL.replace(from, to))).len(), 2, "{to}");
    }
}

#[test]
fn mmdf_with_two_delimiters_or_one_between_messages_is_read() {
    let expected = owned(&[("A: 1\n\none\n", 13), ("A: 2\n\nFrom x\n", 16)]);
    for text in [
        format!("{D}A: 1\n\none\n{D}{D}A: 2\n\nFrom x\n{D}"),
        format!("{D}A: 1\n\none\n{D}A: 2\n\nFrom x\n{D}"),
        format!("{D}A: 1\n\none\n{D}{D}A: 2\n\nFrom x\n"),
        format!("{D}{FROM_BOB}A: 1\n\none\n{D}\n{D}A: 2\n\nFrom x\n{D}\n"),
    ] {
        assert_eq!(scanned(MailboxFormat::Mmdf, &text), expected, "{}", text.escape_debug());
    }
}

#[test]
fn other_files_are_no_mailboxes() {
    for text in ["root:x:0:0\n", "A: 1\n\n", "\n\nFrom: bob\n"] {
        assert!(scan(&file(text.as_bytes()), MailboxFormat::Mbox).is_err(), "{text}");
    }
    assert!(scan(&file(FROM_BOB.as_bytes()), MailboxFormat::Mmdf).is_err());
}

#[test]
fn what_other_programs_write_into_a_message_does_not_change_what_tells_it_apart() {
    let of = |text: String| {
        let found = scan(&file(text.as_bytes()), MailboxFormat::Mbox).unwrap().messages[0];
        (found.fields, found.body_sum)
    };
    let plain = of(format!("{FROM_BOB}Received: a\n\tb\nSubject: x\n\nbody\n\n"));
    assert_eq!(plain, of(format!("{FROM_BOB}Received: a\n\tb\nStatus: RO\nX-UID: 7\n 8\nSubject: x\n\nbody\n\n\n\n")));
    assert_eq!(plain, of(format!("{FROM_BOB}Received: a\n\tb\nSubject: x\nContent-Length: 5\n\nbody\n")));
    for other in [
        "Received: a\n\tc\nSubject: x\n\nbody\n",
        "Received: a\n\tb\nSubject: y\n\nbody\n",
        "Received: a\n\tb\nSubject: x\n\nbodz\n",
    ] {
        assert_ne!(plain, of(format!("{FROM_BOB}{other}\n")), "{other}");
    }
}

#[test]
fn lines_and_messages_longer_than_what_is_read_at_once_are_whole() {
    let long = "x".repeat(PIECE * 2 + 7);
    for fill in [0, 1, 2, 7, PIECE - 60, PIECE - 50, PIECE - 49, PIECE - 5] {
        let first = format!("A: 1\n\n{}\n", "y".repeat(fill));
        let second = format!("A: {long}\n\n{long}\n\n>From x\n");
        let text = format!("{FROM_BOB}{first}\n{FROM_BOB}{second}\n");
        let expected = [(first.clone(), first.len() as u64 + 3), (second.clone(), second.len() as u64 + 4)];
        assert_eq!(mbox(&text), expected, "{fill}");
    }
}

#[test]
fn a_line_of_nothing_but_the_word_that_is_looked_for_is_looked_at_once() {
    let body = |word: &str| format!("{}\n", word.repeat(2 * PIECE / word.len()));
    for (format, begin, words) in [
        (MailboxFormat::Mbox, FROM_BOB, "From "),
        (MailboxFormat::Mbox, FROM_BOB, ">From "),
        (MailboxFormat::Mmdf, D, D.trim_end()),
    ] {
        let text = format!("{begin}A: 1\n\n{}\n{}", body(words), if begin == D { D } else { "" });
        LOOKED_AT.set(0);
        assert_eq!(scanned(format, &text).len(), 1);
        assert!(LOOKED_AT.get() <= text.len() + 2 * PIECE, "{} of {}, {words:?}", LOOKED_AT.get(), text.len());
    }
}

proptest! {
    #[test]
    fn any_file_is_scanned_or_refused_and_every_octet_belongs_to_one_message(
        parts in proptest::collection::vec(
            prop_oneof![
                Just(FROM_BOB.to_owned()), Just(D.to_owned()), Just("\n".to_owned()), Just("\r\n".to_owned()),
                Just(INTERNAL.to_owned()),
                Just(">From x\n".to_owned()), (0..99_u32).prop_map(|length| format!("Content-Length: {length}\n\n")),
                "[a-z: >\r\x01]{0,6}\n?",
            ],
            0..14,
        ),
        is_mmdf in any::<bool>(),
    ) {
        let (format, begin) = if is_mmdf { (MailboxFormat::Mmdf, D) } else { (MailboxFormat::Mbox, FROM_BOB) };
        scanned(format, &format!("{begin}{}", parts.concat()));
        scanned(MailboxFormat::Mbox, &format!("{INTERNAL}{}", parts.concat()));
    }
}
