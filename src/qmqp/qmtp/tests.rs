use super::*;
use crate::wire::netstring::put;
use proptest::prelude::*;

fn decoded(encoded: &[u8], piece: usize) -> Vec<u8> {
    let (mut lines, mut out) = (Lines::Unknown, Vec::new());
    encoded.chunks(piece).for_each(|octets| lines.decode(octets, &mut out));
    out.extend_from_slice(lines.rest());
    out
}

#[test]
fn cr_lf_becomes_lf_and_no_other_cr_is_touched() {
    for piece in 1..20 {
        assert_eq!(decoded(b"\ra\r\nb\r\r\n\nc\rd\r", piece), b"a\nb\r\n\nc\rd\r", "in pieces of {piece}");
        assert_eq!(decoded(b"\na\r\nb\r", piece), b"a\r\nb\r", "in pieces of {piece}");
    }
}

#[test]
fn without_a_kind_of_line_end_nothing_is_content() {
    let (mut lines, mut out) = (Lines::Unknown, Vec::new());
    lines.decode(b"Subject: x\n", &mut out);
    assert_eq!((lines, out), (Lines::Unknown, Vec::new()));
}

fn package(content: &[u8], sender: &[u8], recipients: &[&[u8]]) -> Vec<u8> {
    let (mut whole, mut list) = (Vec::new(), Vec::new());
    put(&mut whole, content);
    put(&mut whole, sender);
    recipients.iter().for_each(|recipient| put(&mut list, recipient));
    put(&mut whole, &list);
    whole
}

/// What a reader makes of octets in pieces: its events in short, or where it found that they are no package.
fn read(input: &[u8], piece: usize) -> Result<String, &'static str> {
    let (mut request, mut seen) = (Request::qmtp(100), String::new());
    for mut rest in input.chunks(piece) {
        while !rest.is_empty() {
            let (taken, event) = request.push(rest).map_err(|_| request.phase())?;
            match event {
                Some(Event::Content(octets)) => seen.push_str(&octets.escape_ascii().to_string()),
                Some(Event::ReversePath(path)) => seen.push_str(&format!(" {path}")),
                Some(Event::Recipient(address)) => seen.push_str(&format!(" {address}")),
                Some(Event::NotAnAddress) => seen.push_str(" ?"),
                Some(Event::End) => {
                    seen.push_str(" end;");
                    request = Request::qmtp(100);
                }
                None => {}
            }
            rest = &rest[taken..];
        }
    }
    Ok(seen)
}

#[test]
fn packages_come_one_after_another_in_pieces_of_every_size() {
    let one = package(b"\nhello\n", b"a@b.example", &[b"c@d.example", b"bad\n", b"e"]);
    let two = package(b"\rx", b"", &[b"c@d.example"]);
    let both = [one, two].concat();
    for piece in 1..both.len() {
        let seen = read(&both, piece).expect("two packages");
        assert_eq!(seen, "\\nhello\\n <a@b.example> c@d.example ? e end;\\rx <> c@d.example end;", "{piece}");
    }
}

#[test]
fn what_is_no_package_is_noticed_where_it_stops_being_one() {
    for (input, phase) in [
        (&b"0:,"[..], "receiving message content"),
        (b"01:x,", "receiving message content"),
        (b"1:\nx", "receiving message content"),
        (b"1:\n,101:", "receiving sender address"),
        (b"1:\n,0:,0:,", "receiving end of packet"),
        (b"1:\n,0:,1048577:", "receiving recipients"),
        (b"1:\n,0:,4:3:b@c,,", "receiving recipient address"),
        (b"1:\n,0:,7:3:b@c,1,", "receiving recipient address"),
    ] {
        for piece in 1..=input.len() {
            assert_eq!(read(input, piece), Err(phase), "{} in pieces of {piece}", input.escape_ascii());
        }
    }
}

proptest! {
    #[test]
    fn nothing_a_client_sends_makes_the_reader_fail(input: Vec<u8>, piece in 1..50_usize) {
        prop_assert_eq!(read(&input, piece).map(|_| ()), read(&input, 1).map(|_| ()));
    }
}
