//! Lines that are too long for SMTP (RFC 5321 section 4.5.3.1.6), broken as Postfix breaks them: by a line end and a blank,
//! which in a header is a fold.

/// What is put in where a line is broken; with CR LF this is three octets.
const BREAK: &[u8] = b"\n ";

/// Takes text in pieces, and gives it back with lines of bounded length.
#[derive(Debug)]
pub struct Folder {
    /// Octets of a line without its end; 0: any number.
    longest: usize,
    /// Octets of the line at hand.
    column: usize,
}

impl Folder {
    /// At the beginning of a text. `longest`: octets of a line without its end; 0: any number.
    pub fn new(longest: usize) -> Folder {
        Folder { longest, column: 0 }
    }

    /// Gives the next piece to `each`, in one or in several. Tells how many lines were broken. A CR counts as a part of a line
    /// end.
    pub fn push(&mut self, input: &[u8], mut each: impl FnMut(&[u8])) -> u64 {
        let (mut breaks, mut rest) = (0, input);
        // What is looked through, and not yet given.
        let (mut looked, mut given) = (0, 0);
        while self.longest > 0 && !rest.is_empty() {
            let run = memchr::memchr(b'\n', rest);
            let (line, behind) = rest.split_at(run.unwrap_or(rest.len()));
            // A character of UTF-8 may go on in the next piece.
            let unknown = if run.is_some() { 0 } else { 3 };
            if self.column.saturating_add(line.len() + unknown) <= self.longest {
                self.column += line.len();
            } else {
                for (offset, octet) in line.iter().enumerate().filter(|(_, octet)| **octet != b'\r') {
                    if self.column > 1 && self.column + width(*octet) > self.longest {
                        each(input.get(given..looked + offset).unwrap_or_default());
                        each(BREAK);
                        (given, self.column, breaks) = (looked + offset, 1, breaks + 1);
                    }
                    self.column += 1;
                }
            }
            looked += line.len() + usize::from(run.is_some());
            self.column = if run.is_some() { 0 } else { self.column };
            rest = behind.get(1..).unwrap_or_default();
        }
        each(input.get(given..).unwrap_or_default());
        breaks
    }
}

/// How many octets the character has that begins here, so that none of UTF-8 is broken.
fn width(octet: u8) -> usize {
    match octet {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn folded(longest: usize, input: &[u8], step: usize) -> (Vec<u8>, u64) {
        let (mut folder, mut out, mut breaks) = (Folder::new(longest), Vec::new(), 0);
        for piece in input.chunks(step) {
            breaks += folder.push(piece, |part| out.extend_from_slice(part));
        }
        (out, breaks)
    }

    #[test]
    fn a_line_is_broken_behind_as_many_octets_as_it_may_have_and_not_where_it_ends_there() {
        for step in 1..30 {
            for (text, expected) in [
                ("12345\n12345\r\n12345", "12345\n12345\r\n12345"),
                ("123456\n", "12345\n 6\n"),
                ("1234567890\r\nab", "12345\n 6789\n 0\r\nab"),
                ("a\n123456789\n", "a\n12345\n 6789\n"),
                ("1234\u{e9}\n", "1234\n \u{e9}\n"),
                ("123\u{20ac}1\u{10348}\n", "123\n \u{20ac}1\n \u{10348}\n"),
                ("", ""),
            ] {
                let (out, breaks) = folded(5, text.as_bytes(), step);
                assert_eq!(String::from_utf8(out).unwrap(), expected, "{text:?} in pieces of {step}");
                assert_eq!(breaks as usize * BREAK.len(), expected.len() - text.len());
            }
        }
    }

    proptest! {
        #[test]
        fn only_breaks_are_put_in_and_no_line_stays_too_long(input in "[a\n\u{e9}\u{20ac}\u{10348}]{0,60}", step in 1..9usize) {
            let (out, breaks) = folded(6, input.as_bytes(), step);
            prop_assert!(out.split(|octet| *octet == b'\n').all(|line| line.len() <= 6));
            let out = String::from_utf8(out).unwrap();
            prop_assert_eq!(out.matches("\n ").count() as u64, breaks);
            prop_assert_eq!(out.replace("\n ", ""), input.clone());
            prop_assert_eq!(folded(0, input.as_bytes(), step), (input.into_bytes(), 0));
        }
    }
}
