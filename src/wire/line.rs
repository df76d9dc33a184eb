//! Lines of bounded length out of pushed octets (RFC 5321 section 2.3.8, RFC 1939 section 3).
//!
//! A line longer than the limit is swallowed to its end in constant memory and reported once.

/// Which line ends count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineEnd {
    /// Only CR LF; a CR or LF by itself is reported, for SMTP must not guess (smuggling).
    Strict,
    /// LF, with or without a CR before it: every POP3 server takes both, and some clients need it.
    Lenient,
}

/// What one push yielded.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A whole line without its line end.
    Whole(&'a [u8]),
    /// A line ended that was longer than the limit; its octets are gone.
    TooLong,
    /// A CR without LF, or an LF without CR (`LineEnd::Strict` only). The rest of the input is not to be trusted.
    BareLineEnd,
}

/// Collects one line at a time.
#[derive(Debug)]
pub struct LineReader {
    line: Vec<u8>,
    limit: usize,
    line_end: LineEnd,
    given_out: bool,
    too_long: bool,
    cr: bool,
}

impl LineReader {
    /// A reader of lines of at most `limit` octets, the line end not counted.
    pub fn new(limit: usize, line_end: LineEnd) -> Self {
        LineReader { line: Vec::new(), limit, line_end, given_out: false, too_long: false, cr: false }
    }

    /// Takes octets up to the end of a line. Gives how many were taken, and the line if one ended with them;
    /// without a line all were taken.
    pub fn push(&mut self, input: &[u8]) -> (usize, Option<Line<'_>>) {
        if self.given_out {
            self.line.clear();
            (self.given_out, self.too_long, self.cr) = (false, false, false);
        }
        // Most octets stand in the middle of a line.
        let run = if self.cr { 0 } else { memchr::memchr2(b'\r', b'\n', input).unwrap_or(input.len()) };
        self.keep_all(input.get(..run).unwrap_or_default());
        for (position, &octet) in input.iter().enumerate().skip(run) {
            match (octet, self.cr, self.line_end) {
                (b'\n', true, _) | (b'\n', false, LineEnd::Lenient) => {
                    self.given_out = true;
                    let line = if self.too_long { Line::TooLong } else { Line::Whole(&self.line) };
                    return (position + 1, Some(line));
                }
                (_, true, LineEnd::Strict) | (b'\n', false, LineEnd::Strict) => {
                    self.given_out = true;
                    return (position + 1, Some(Line::BareLineEnd));
                }
                (b'\r', true, LineEnd::Lenient) => self.keep(b'\r'),
                (b'\r', false, _) => self.cr = true,
                (_, true, LineEnd::Lenient) => {
                    self.keep(b'\r');
                    self.keep(octet);
                    self.cr = false;
                }
                (_, false, _) => self.keep(octet),
            }
        }
        (input.len(), None)
    }

    /// Whether a line has begun and not ended.
    pub fn in_line(&self) -> bool {
        !self.given_out && (!self.line.is_empty() || self.too_long || self.cr)
    }

    /// What is kept of the line at hand, or of the one that was given last: of one that is too long its beginning.
    pub fn kept(&self) -> &[u8] {
        &self.line
    }

    fn keep_all(&mut self, octets: &[u8]) {
        let room = if self.too_long { 0 } else { self.limit.saturating_sub(self.line.len()) };
        self.line.extend_from_slice(octets.get(..room).unwrap_or(octets));
        self.too_long |= octets.len() > room;
    }

    fn keep(&mut self, octet: u8) {
        if self.line.len() < self.limit && !self.too_long {
            self.line.push(octet);
        } else {
            self.too_long = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every line of `input`, fed in pieces of `step` octets, and whether one was begun at the end.
    fn lines(input: &[u8], limit: usize, line_end: LineEnd, step: usize) -> (Vec<String>, bool) {
        let (mut reader, mut found) = (LineReader::new(limit, line_end), Vec::new());
        for mut piece in input.chunks(step) {
            while !piece.is_empty() {
                let (taken, line) = reader.push(piece);
                assert!(taken > 0 && (line.is_some() || taken == piece.len()));
                match line {
                    Some(Line::Whole(line)) => found.push(String::from_utf8_lossy(line).into_owned()),
                    Some(Line::TooLong) => found.push("(too long)".to_owned()),
                    Some(Line::BareLineEnd) => found.push("(bare)".to_owned()),
                    None => {}
                }
                piece = &piece[taken..];
            }
        }
        (found, reader.in_line())
    }

    #[test]
    fn crlf_split_across_reads_ends_one_line() {
        for step in 1..12 {
            let (found, open) = lines(b"HELO a\r\n\r\nQUIT\r\nNO", 100, LineEnd::Strict, step);
            assert_eq!((found, open), (vec!["HELO a".into(), String::new(), "QUIT".into()], true), "pieces of {step}");
        }
    }

    #[test]
    fn a_line_at_the_limit_is_whole_and_one_octet_more_is_too_long() {
        for step in 1..12 {
            let (found, open) = lines(b"12345\r\n123456\r\n12\r\n", 5, LineEnd::Strict, step);
            assert_eq!((found, open), (vec!["12345".into(), "(too long)".into(), "12".into()], false));
        }
    }

    #[test]
    fn a_line_without_end_takes_no_memory() {
        let mut reader = LineReader::new(64, LineEnd::Strict);
        for _ in 0..1000 {
            assert_eq!(reader.push(&[b'x'; 4096]), (4096, None));
        }
        assert!(reader.in_line() && reader.line.capacity() <= 128);
        assert_eq!(reader.push(b"\r\n"), (2, Some(Line::TooLong)));
        assert_eq!(reader.push(b"a\r\n"), (3, Some(Line::Whole(b"a"))));
    }

    #[test]
    fn bare_line_ends_are_reported_where_only_crlf_counts() {
        for text in ["a\n", "\n", "a\rb", "a\r\r\n", "\r\r"] {
            assert_eq!(lines(text.as_bytes(), 100, LineEnd::Strict, 1).0[0], "(bare)", "{text:?}");
        }
        assert_eq!(lines(b"123456789\n", 5, LineEnd::Strict, 1).0, ["(bare)"], "in a line that is too long as well");
    }

    #[test]
    fn lenient_readers_take_lf_and_keep_a_cr_inside() {
        for step in 1..12 {
            let (found, _) = lines(b"a\nb\r\nc\rd\n\r\r\n", 100, LineEnd::Lenient, step);
            assert_eq!(found, ["a", "b", "c\rd", "\r"], "pieces of {step}");
        }
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(input in "[\r\nab]{0,40}", limit in 1..9_usize, step in 1..9_usize, strict: bool) {
            let line_end = if strict { LineEnd::Strict } else { LineEnd::Lenient };
            prop_assert_eq!(
                lines(input.as_bytes(), limit, line_end, step),
                lines(input.as_bytes(), limit, line_end, 100)
            );
        }
    }
}
