//! Dot transparency, both directions (RFC 5321 section 4.5.2, RFC 1939 section 3).
//!
//! Inside doorpost text has LF line ends. [`Unstuffer`] makes that of what follows DATA, [`Stuffer`] makes of it what a
//! multi-line answer or a message on its way out is. Only CR LF ends a line and only CR LF `.` CR LF ends the text:
//! servers that take anything else let one message hide another from a server that reads it differently (smuggling).

/// What a push to an [`Unstuffer`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// All octets were taken, and the text goes on.
    More,
    /// The line with the single dot; octets behind it were not taken.
    End,
    /// A CR without LF, or an LF without CR. Nothing behind it is to be trusted, and no more may be pushed.
    BareLineEnd,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    LineStart,
    InLine,
    Cr,
    Dot,
    DotCr,
}

/// Takes dot-stuffed text out of a stream; lines of any length, and no memory between pushes.
#[derive(Debug)]
pub struct Unstuffer {
    place: Place,
    size: u64,
    /// An LF without CR ends a line of the text.
    bare_lf: bool,
}

impl Default for Unstuffer {
    fn default() -> Self {
        Unstuffer::new()
    }
}

impl Unstuffer {
    /// At the beginning of a text: the CR LF of the line before it counts as the first of CR LF `.` CR LF.
    pub fn new() -> Self {
        Unstuffer { place: Place::LineStart, size: 0, bare_lf: false }
    }

    /// One that takes an LF without CR for a line end of the text. The line behind it is as good as in the middle of
    /// one: a dot there is content, so nothing but CR LF `.` CR LF ends the text here either.
    pub fn lenient() -> Self {
        Unstuffer { bare_lf: true, ..Unstuffer::new() }
    }

    /// Takes octets, appends the text in them to `out` with LF line ends, and tells how many were taken.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> (usize, Text) {
        let mut position = 0;
        while let Some(&octet) = input.get(position) {
            position += 1;
            self.place = match (self.place, octet) {
                (Place::Cr, b'\n') => {
                    out.push(b'\n');
                    self.size += 2;
                    Place::LineStart
                }
                (Place::DotCr, b'\n') => return (position, Text::End),
                (Place::LineStart | Place::InLine | Place::Dot, b'\n') if self.bare_lf => {
                    out.push(b'\n');
                    self.size += 1;
                    Place::InLine
                }
                (Place::Cr | Place::DotCr, _) | (_, b'\n') => return (position, Text::BareLineEnd),
                (Place::Dot, b'\r') => Place::DotCr,
                (Place::LineStart, b'.') => Place::Dot,
                (_, b'\r') => Place::Cr,
                (Place::LineStart | Place::InLine | Place::Dot, _) => {
                    let rest = &input[position - 1..];
                    let run = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
                    out.extend_from_slice(&rest[..run]);
                    self.size += run as u64;
                    position += run - 1;
                    if rest[run..].starts_with(b"\r\n") {
                        out.push(b'\n');
                        self.size += 2;
                        position += 2;
                        Place::LineStart
                    } else {
                        Place::InLine
                    }
                }
            };
        }
        (position, Text::More)
    }

    /// How long the text is so far as RFC 1870 section 5 counts: line ends as two octets, added dots not at all.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Makes dot-stuffed text with CR LF line ends. A line end that is CR LF already stays one.
#[derive(Debug)]
pub struct Stuffer {
    last: u8,
}

impl Default for Stuffer {
    fn default() -> Self {
        Stuffer::new()
    }
}

impl Stuffer {
    /// At the beginning of a text.
    pub fn new() -> Self {
        Stuffer { last: b'\n' }
    }

    /// Appends the stuffed form of `input` to `out`.
    pub fn push(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        // Once: lines of 30 octets and more, as nearly all are.
        out.reserve(input.len() + input.len() / 30 + 16);
        while let Some(&first) = input.first() {
            if self.last == b'\n' && first == b'.' {
                out.push(b'.');
            }
            let run = memchr::memchr(b'\n', input).unwrap_or(input.len());
            out.extend_from_slice(&input[..run]);
            self.last = if run > 0 { input[run - 1] } else { self.last };
            if run < input.len() {
                out.extend_from_slice(if self.last == b'\r' { b"\n" } else { b"\r\n" });
                self.last = b'\n';
            }
            input = &input[(run + 1).min(input.len())..];
        }
    }

    /// Ends the text: the last line gets its line end if it has none, then comes the line with the dot.
    pub fn end(self, out: &mut Vec<u8>) {
        if self.last != b'\n' {
            out.extend_from_slice(if self.last == b'\r' { b"\n" } else { b"\r\n" });
        }
        out.extend_from_slice(b".\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unstuffed(input: &[u8], step: usize) -> (Vec<u8>, usize, Text, u64) {
        let (mut reader, mut out, mut taken) = (Unstuffer::new(), Vec::new(), 0);
        for piece in input.chunks(step) {
            let (count, found) = reader.push(piece, &mut out);
            taken += count;
            if found != Text::More {
                return (out, taken, found, reader.size());
            }
        }
        (out, taken, Text::More, reader.size())
    }

    fn stuffed(input: &[u8], step: usize) -> Vec<u8> {
        let (mut writer, mut out) = (Stuffer::new(), Vec::new());
        for piece in input.chunks(step) {
            writer.push(piece, &mut out);
        }
        writer.end(&mut out);
        out
    }

    #[test]
    fn where_a_bare_lf_is_taken_only_crlf_dot_crlf_ends_the_text() {
        let taken = |input: &[u8]| {
            let (mut unstuffer, mut out) = (Unstuffer::lenient(), Vec::new());
            let (_, found) = unstuffer.push(input, &mut out);
            (String::from_utf8(out).unwrap(), found)
        };
        let text = |text: &str| text.to_owned();
        assert_eq!(taken(b"a\nb\r\n.\r\nx"), (text("a\nb\n"), Text::End));
        assert_eq!(taken(b"a\n.\r\nMAIL"), (text("a\n.\nMAIL"), Text::More));
        assert_eq!(taken(b"a\r\n.\nMAIL"), (text("a\n\nMAIL"), Text::More));
        assert_eq!(taken(b"a\n.\nMAIL"), (text("a\n.\nMAIL"), Text::More));
        assert_eq!(taken(b"a\r.\r\n").1, Text::BareLineEnd);
        assert_eq!(taken(b"a\r\n.\r\r\n").1, Text::BareLineEnd);
    }

    #[test]
    fn one_leading_dot_belongs_to_the_transport() {
        for step in 1..20 {
            let (text, _, found, _) = unstuffed(b"..\r\n...x\r\n.y\r\na.b\r\n.\r\n", step);
            assert_eq!((&text[..], found), (&b".\n..x\ny\na.b\n"[..], Text::End), "pieces of {step}");
        }
    }

    #[test]
    fn octets_behind_the_end_are_left() {
        let (text, taken, found, _) = unstuffed(b"a\r\n.\r\nMAIL", 100);
        assert_eq!((&text[..], taken, found), (&b"a\n"[..], 6, Text::End));
        assert_eq!(unstuffed(b".\r\n", 100), (Vec::new(), 3, Text::End, 0), "an empty text");
    }

    #[test]
    fn size_is_that_of_rfc_1870() {
        assert_eq!(unstuffed(b"..ab\r\n\r\n.\r\n", 1).3, 7);
    }

    #[test]
    fn bare_line_ends_are_told_at_once() {
        for text in ["a\nb", "\n", ".\n", "a\rb", "\r\r\n", ".\r.", ".\r\r\n", "a\r\n.\n", "a\r\n.\rx"] {
            for step in 1..5 {
                assert_eq!(unstuffed(text.as_bytes(), step).2, Text::BareLineEnd, "{text:?} in pieces of {step}");
            }
        }
    }

    #[test]
    fn line_ends_that_are_crlf_stay_and_a_missing_one_is_added() {
        for step in 1..12 {
            assert_eq!(stuffed(b"a\r\nb\n.c\r", step), b"a\r\nb\r\n..c\r\n.\r\n", "pieces of {step}");
            assert_eq!(stuffed(b"", step), b".\r\n");
        }
    }

    proptest! {
        #[test]
        fn unstuffing_undoes_stuffing(lines in prop::collection::vec("[.a\u{0}\u{7f}-\u{ff}]{0,6}", 0..8), step in 1..9_usize) {
            let text: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect();
            let wire = stuffed(&text, step);
            let (back, taken, found, size) = unstuffed(&wire, step);
            prop_assert_eq!(&back, &text);
            prop_assert_eq!((taken, found), (wire.len(), Text::End));
            prop_assert_eq!(size, (text.len() + lines.len()) as u64);
        }

        #[test]
        fn pieces_make_no_difference(input in "[.\r\nab]{0,24}", step in 1..9_usize) {
            prop_assert_eq!(unstuffed(input.as_bytes(), step), unstuffed(input.as_bytes(), 100));
        }
    }
}
