use super::*;
use crate::wire::netstring::put;
use proptest::prelude::*;

/// What a whole package came to: content, sender, recipients, whether it ended, and the octets taken.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    content: Vec<u8>,
    reverse_path: Option<Vec<u8>>,
    recipients: Vec<Vec<u8>>,
    ended: bool,
    taken: usize,
}

fn read(input: &[u8], piece: usize, largest: u64) -> Result<Seen, (Fault, &'static str)> {
    let mut request = Request::new(largest, 100);
    let mut seen = Seen::default();
    for mut rest in input.chunks(piece) {
        while !rest.is_empty() && !seen.ended {
            let (taken, event) = request.push(rest).map_err(|fault| (fault, request.phase()))?;
            match event {
                Some(Event::Content(octets)) => seen.content.extend_from_slice(octets),
                Some(Event::ReversePath(path)) => seen.reverse_path = Some(path.as_bytes().to_vec()),
                Some(Event::Recipient(address)) => seen.recipients.push(address.as_bytes().to_vec()),
                Some(Event::End) => seen.ended = true,
                Some(Event::NotAnAddress) => unreachable!("QMQP has a fault instead"),
                None => assert_eq!(taken, rest.len()),
            }
            seen.taken += taken;
            rest = &rest[taken..];
        }
    }
    Ok(seen)
}

fn package(content: &[u8], sender: &[u8], recipients: &[&[u8]]) -> Vec<u8> {
    let mut inside = Vec::new();
    put(&mut inside, content);
    put(&mut inside, sender);
    for recipient in recipients {
        put(&mut inside, recipient);
    }
    let mut whole = Vec::new();
    put(&mut whole, &inside);
    whole
}

/// The fault of an input, and what was going on.
fn fault(input: &[u8]) -> (Fault, &'static str) {
    let whole = read(input, input.len().max(1), 1000);
    for piece in 1..input.len() {
        assert_eq!(read(input, piece, 1000), whole, "in pieces of {piece}");
    }
    whole.unwrap_err()
}

#[test]
fn a_package_yields_content_sender_and_recipients_in_pieces_of_every_size() {
    let input = package(b"Subject: x\n\nhello\n", b"a@example.com", &[b"b@example.com", b"c@example.com"]);
    for piece in 1..=input.len() {
        let seen = read(&input, piece, 0).unwrap();
        assert_eq!(seen.content, b"Subject: x\n\nhello\n");
        assert_eq!(seen.reverse_path.as_deref(), Some(&b"a@example.com"[..]));
        assert_eq!(seen.recipients, [&b"b@example.com"[..], b"c@example.com"]);
        assert!(seen.ended);
        assert_eq!(seen.taken, input.len());
    }
}

#[test]
fn content_keeps_nul_eight_bit_and_line_ends() {
    let content = b"\0\xff\r\n\r\n\n,5:x,";
    assert_eq!(read(&package(content, b"", &[b"b"]), 3, 0).unwrap().content, content);
}

#[test]
fn empty_content_and_null_sender_are_taken() {
    let seen = read(b"12:0:,0:,3:b@c,", 100, 0).unwrap();
    assert!(!seen.ended, "the comma behind the package is still to come");
    let seen = read(&package(b"", b"", &[b"b@c"]), 100, 0).unwrap();
    assert_eq!((seen.content, seen.reverse_path, seen.ended), (Vec::new(), Some(Vec::new()), true));
}

#[test]
fn octets_behind_the_package_are_left() {
    let mut input = package(b"x", b"a", &[b"b"]);
    let length = input.len();
    input.extend_from_slice(b"5:again,");
    let seen = read(&input, input.len(), 0).unwrap();
    assert!(seen.ended);
    assert_eq!(seen.taken, length);
}

#[test]
fn an_outer_length_that_does_not_fit_is_refused() {
    // Right would be 15; less cuts a netstring, more leaves octets that are none.
    for wrong in ["0", "1", "3", "4", "5", "6", "7", "9", "11", "12", "13", "14"] {
        assert_eq!(fault(format!("{wrong}:1:x,3:a@b,3:c@d,,").as_bytes()).0, Fault::Lengths, "{wrong}");
    }
    assert_eq!(fault(b"17:1:x,3:a@b,3:c@d,,").0, Fault::Format);
    assert!(read(b"16:1:x,3:a@b,3:c@d,,", 4, 0).unwrap().ended);
}

#[test]
fn lengths_are_digits_without_a_leading_zero() {
    for wrong in ["016:1:x,3:a@b,3:c@d,,", ":", "+16:", " 16:", "-1:", "\n", "16;", "x", "16:01:x,", "16::", "16:+1:x,"]
    {
        assert_eq!(fault(wrong.as_bytes()).0, Fault::Format, "{wrong:?}");
    }
    assert_eq!(fault(b"16:1:x,3:a@b.3:c@d,,"), (Fault::Format, "receiving sender address"));
    assert_eq!(fault(b"16:1:x;3:a@b,3:c@d,,"), (Fault::Format, "receiving message content"));
}

#[test]
fn absurd_lengths_are_refused_at_the_digit_that_is_too_much() {
    let digits = "9".repeat(1000);
    assert_eq!(fault(digits.as_bytes()), (Fault::TooLarge, "receiving QMQP packet header"));
    // Recipients of one octet cost most beside what they say.
    let input = package(b"1234567890", b"", &[b"a".as_slice(); 90]);
    assert!(read(&input, 7, 100).unwrap().ended);
    assert_eq!(read(b"433:", 7, 100), Err((Fault::TooLarge, "receiving QMQP packet header")));
    assert_eq!(fault(format!("999:{digits}").as_bytes()), (Fault::TooLarge, "receiving message content"));
    assert_eq!(fault(format!("999:1:x,{digits}").as_bytes()), (Fault::AddressTooLong, "receiving sender address"));
    let recipient = format!("999:1:x,1:a,{digits}");
    assert_eq!(fault(recipient.as_bytes()), (Fault::AddressTooLong, "receiving recipient address"));
}

#[test]
fn the_limit_counts_content_and_addresses() {
    let input = package(b"1234567890", b"a@b", &[b"c@d", b"e@f"]);
    assert!(read(&input, 7, 19).unwrap().ended);
    assert_eq!(read(&input, 7, 18), Err((Fault::TooLarge, "receiving recipient address")));
    assert_eq!(read(&input, 7, 9), Err((Fault::TooLarge, "receiving message content")));
}

#[test]
fn an_address_of_the_limit_is_taken_and_one_more_is_not() {
    let (fits, over) = (vec![b'a'; 100], vec![b'a'; 101]);
    assert!(read(&package(b"x", &fits, &[&fits]), 50, 0).unwrap().ended);
    assert_eq!(read(&package(b"x", &over, &[b"c"]), 50, 0), Err((Fault::AddressTooLong, "receiving sender address")));
    let input = package(b"x", b"a", &[b"c", &over]);
    assert_eq!(read(&input, 50, 0), Err((Fault::AddressTooLong, "receiving recipient address")));
}

#[test]
fn nul_cr_and_lf_in_addresses_are_refused() {
    for wrong in [&b"a\0b@c"[..], b"a\rb@c", b"a@c\n"] {
        assert_eq!(fault(&package(b"x", wrong, &[b"d"])).0, Fault::BadAddress);
        assert_eq!(fault(&package(b"x", b"a", &[b"c", wrong])).0, Fault::BadAddress);
    }
}

#[test]
fn a_sender_that_would_say_more_than_its_address_is_refused() {
    for wrong in [&b"a@b.example> RET=FULL"[..], b"l-@b.example> RET=FULL-@[]", b"a@b\x1b", b"@b.example"] {
        assert_eq!(fault(&package(b"x", wrong, &[b"d"])), (Fault::BadAddress, "receiving sender address"));
    }
}

#[test]
fn no_recipient_and_an_empty_recipient_are_refused() {
    assert_eq!(fault(&package(b"x", b"a@b", &[])), (Fault::NoRecipients, "receiving end of packet"));
    assert_eq!(fault(&package(b"x", b"a@b", &[b"c", b""])).0, Fault::BadAddress);
}

#[test]
fn a_variable_envelope_return_path_is_taken_as_it_is() {
    let seen = read(&package(b"x", b"list-@example.com-@[]", &[b"c"]), 9, 0).unwrap();
    assert_eq!(seen.reverse_path.as_deref(), Some(&b"list-@example.com-@[]"[..]));
}

#[test]
fn a_cut_package_never_ends() {
    let input = package(b"x\n", b"a@b", &[b"c@d"]);
    for length in 0..input.len() {
        assert!(!read(&input[..length], 4, 0).unwrap().ended);
    }
}

proptest! {
    #[test]
    fn pieces_of_any_size_equal_the_whole(
        content in prop::collection::vec(any::<u8>(), 0..200),
        sender in "([a-z]{1,20}(@[a-z]{1,10})?)?",
        recipients in prop::collection::vec("[!-~\u{80}-\u{ff}]{1,40}", 1..5),
        piece in 1_usize..300,
    ) {
        let bytes: Vec<&[u8]> = recipients.iter().map(String::as_bytes).collect();
        let input = package(&content, sender.as_bytes(), &bytes);
        let seen = read(&input, piece, 0).unwrap();
        prop_assert_eq!(seen.content, content);
        prop_assert_eq!(seen.reverse_path.unwrap(), sender.as_bytes());
        prop_assert_eq!(seen.recipients, bytes);
        prop_assert!(seen.ended);
    }

    #[test]
    fn a_changed_octet_gives_the_same_answer_in_pieces(at in 0_usize..60, to in any::<u8>(), piece in 1_usize..60) {
        let mut input = package(b"Subject: x\n\nhello\n", b"a@example.com", &[b"b@example.com"]);
        let length = input.len();
        input[at % length] = to;
        prop_assert_eq!(read(&input, piece, 500), read(&input, length, 500));
    }

    #[test]
    fn octets_of_the_alphabet_never_panic(input in "[0-9:,a\u{0}]{0,60}", piece in 1_usize..60) {
        prop_assert_eq!(read(input.as_bytes(), piece, 500), read(input.as_bytes(), 60, 500));
    }
}
