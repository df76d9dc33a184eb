//! A report of ours once more, in ASCII, for a host without 8BITMIME; no I/O.
//!
//! Parts of 8bit become quoted-printable (RFC 2045 section 6.7), as those of RFC 6533 may. An attached message may not be
//! encoded (RFC 2046 section 5.2.1): of it the header is left, as text.

use super::text::{HEADER_FOLLOWS, WHOLE_FOLLOWS};

/// Most octets that are to be given at once.
pub(super) const PIECE: u64 = 1000;

/// What is said of a part of 8bit, and what is said in its place.
const EIGHT_BIT: &[u8] = b"Content-Transfer-Encoding: 8bit\n";
const ENCODED: &[u8] = b"Content-Transfer-Encoding: quoted-printable\n";

/// What is said of an attached message, and what of its header.
const MESSAGE: &[u8] = b"Content-Type: message/rfc822\n";
const HEADERS: &[u8] = b"Content-Type: text/rfc822-headers\n";

/// Where in the report we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Its own header, or that of a part.
    Header,
    /// What goes as it is.
    Plain,
    /// A part that is encoded.
    Encoded,
    /// The header of an attached message.
    Kept,
    /// What stands behind that.
    Gone,
}

/// Reads a report line by line, and gives it anew.
#[derive(Debug)]
pub(super) struct Ascii {
    place: Place,
    head: Vec<u8>,
    /// The line between its parts.
    delimiter: Option<Vec<u8>>,
    /// The next piece begins a line.
    at_start: bool,
    /// Of an attached message only the header is left, where the text says that all of it follows.
    pub is_cut: bool,
}

impl Ascii {
    /// That it `is_cut` is known only when it has been read once.
    pub fn new(is_cut: bool) -> Ascii {
        Ascii { place: Place::Header, head: Vec::new(), delimiter: None, at_start: true, is_cut }
    }

    /// Takes a line, or the next piece of a long one, and gives what stands for it.
    pub fn take(&mut self, piece: &[u8]) -> Vec<u8> {
        let at_start = std::mem::replace(&mut self.at_start, piece.ends_with(b"\n"));
        let is_empty = at_start && matches!(piece, b"\n" | b"\r\n");
        if at_start && self.is_delimiter(piece) {
            self.place = Place::Header;
            return piece.to_vec();
        }
        match self.place {
            Place::Header => {
                self.head.extend_from_slice(piece);
                if is_empty { self.header() } else { Vec::new() }
            }
            Place::Plain if self.is_cut => replaced(piece, WHOLE_FOLLOWS.as_bytes(), HEADER_FOLLOWS.as_bytes()),
            Place::Plain => piece.to_vec(),
            Place::Encoded => quoted_printable(piece),
            Place::Kept => {
                self.place = if is_empty { Place::Gone } else { Place::Kept };
                quoted_printable(piece)
            }
            Place::Gone => Vec::new(),
        }
    }

    /// Whether it stands in front of a part. What was sent has no such line: nobody knew the boundary.
    fn is_delimiter(&mut self, line: &[u8]) -> bool {
        if self.delimiter.is_none() && self.place != Place::Header && line.starts_with(b"--") {
            self.delimiter = Some(line.to_vec());
        }
        let is_last =
            |delimiter: &[u8]| line.strip_suffix(b"--\n").is_some_and(|line| delimiter == [line, b"\n"].concat());
        self.delimiter.as_ref().is_some_and(|delimiter| line == delimiter || is_last(delimiter))
    }

    /// What the header that was read becomes, and what is to be done with what stands behind it.
    fn header(&mut self) -> Vec<u8> {
        let head = std::mem::take(&mut self.head);
        let is_part = self.delimiter.is_some();
        let is_encoded = is_part && memchr::memmem::find(&head, EIGHT_BIT).is_some();
        let is_attached = is_encoded && memchr::memmem::find(&head, MESSAGE).is_some();
        self.is_cut |= is_attached;
        self.place = match (is_encoded, is_attached) {
            (true, true) => Place::Kept,
            (true, false) => Place::Encoded,
            (false, _) => Place::Plain,
        };
        let head = replaced(&head, EIGHT_BIT, if is_part { ENCODED } else { b"" });
        if is_attached { replaced(&head, MESSAGE, HEADERS) } else { head }
    }
}

/// With another text in one place.
fn replaced(octets: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    match memchr::memmem::find(octets, from) {
        Some(at) => [&octets[..at], to, &octets[at + from.len()..]].concat(),
        None => octets.to_vec(),
    }
}

/// A line, or a piece of one, which then ends in a soft line break.
fn quoted_printable(line: &[u8]) -> Vec<u8> {
    const WIDEST: usize = 75;
    let text = line.strip_suffix(b"\n").map(|text| text.strip_suffix(b"\r").unwrap_or(text));
    let (text, end): (_, &[u8]) = text.map_or((line, b"=\n"), |text| (text, b"\n"));
    let (mut encoded, mut column) = (Vec::with_capacity(line.len() + 2), 0);
    for (at, octet) in text.iter().enumerate() {
        let is_blank_inside = matches!(octet, b' ' | b'\t') && at + 1 < text.len();
        let one = match octet {
            b'!'..=b'<' | b'>'..=b'~' => vec![*octet],
            _ if is_blank_inside => vec![*octet],
            _ => format!("={octet:02X}").into_bytes(),
        };
        if column + one.len() > WIDEST {
            encoded.extend_from_slice(b"=\n");
            column = 0;
        }
        column += one.len();
        encoded.extend_from_slice(&one);
    }
    encoded.extend_from_slice(end);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As report.rs does it.
    fn in_ascii(report: &str) -> String {
        let read = |is_cut| {
            let mut ascii = Ascii::new(is_cut);
            let pieces = report.as_bytes().split_inclusive(|octet| *octet == b'\n').flat_map(|line| line.chunks(100));
            let read: Vec<u8> = pieces.flat_map(|piece| ascii.take(piece)).collect();
            (ascii.is_cut, read)
        };
        String::from_utf8(read(read(false).0).1).unwrap()
    }

    #[test]
    fn what_is_8bit_is_encoded_and_of_a_message_the_header_is_left() {
        let report = |encoding: &str, what: &str, part: &str| {
            format!("To: <a@b>\n{encoding}X: y\n\nA report.\n\n--b\n\nx. {what}\n\n--b\n{part}\n--b--\n")
        };
        for (part, expected) in [
            (
                "Content-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\nS: \u{fc}=\n\n--x\n\u{fc}\n",
                "S: =C3=BC=3D\n",
            ),
            ("Content-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\nS: \u{fc} \r\n", "S: =C3=BC=20\n"),
        ] {
            let head = "Content-Type: text/rfc822-headers\nContent-Transfer-Encoding: quoted-printable\n\n";
            let expected = report("", HEADER_FOLLOWS, &format!("{head}{expected}"));
            assert_eq!(in_ascii(&report("Content-Transfer-Encoding: 8bit\n", WHOLE_FOLLOWS, part)), expected);
        }
        let global = |encoding: &str, text: &str| {
            format!("Content-Type: message/global\nContent-Transfer-Encoding: {encoding}\n\n{text}")
        };
        let (text, encoded) = ("S: x\n\n\u{fc}\n", "S: x\n\n=C3=BC\n");
        assert_eq!(
            in_ascii(&report("Content-Transfer-Encoding: 8bit\n", WHOLE_FOLLOWS, &global("8bit", text))),
            report("", WHOLE_FOLLOWS, &global("quoted-printable", encoded))
        );
        let plain =
            report("", WHOLE_FOLLOWS, "Content-Type: message/rfc822\nContent-Transfer-Encoding: 7bit\n\nS: x\n\ny\n");
        assert_eq!(in_ascii(&plain), plain);
    }

    /// RFC 2045 section 6.7: at most 76 characters, no blank at the end.
    #[test]
    fn a_line_is_broken_where_it_is_too_long() {
        let encoded = |line: &[u8]| String::from_utf8(quoted_printable(line)).unwrap();
        assert_eq!(encoded(&[&[b'x'; 75][..], b"\n"].concat()), format!("{}\n", "x".repeat(75)));
        assert_eq!(encoded(&[&[b'x'; 74][..], b"\xff\n"].concat()), format!("{}=\n=FF\n", "x".repeat(74)));
        assert_eq!(encoded(b"a b \n"), "a b=20\n");
        assert_eq!(encoded(b"\n"), "\n");
        assert_eq!(encoded(b"a\0\rb"), "a=00=0Db=\n");
        assert!(encoded(&[0; 999]).lines().all(|line| line.len() <= 76));
    }
}
