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
        for (position, &octet) in input.iter().enumerate() {
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

    fn keep(&mut self, octet: u8) {
        if self.line.len() < self.limit && !self.too_long {
            self.line.push(octet);
        } else {
            self.too_long = true;
        }
    }
}
