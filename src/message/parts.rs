//! Which lines of a message are header: its own, and those of its parts (RFC 2046 section 5.1). These are what RFC 6532
//! section 3.7 counts where it says which message is internationalized.
//!
//! What an attached message has in its header is content of a part, as it is for RFC 6152 (RFC 6532 section 3.5): a report of
//! ours goes home by every host that takes 8BITMIME, whatever comes with it.

/// Most multiparts in one another; what is deeper is taken for text.
const DEEPEST: usize = 100;

/// Longest Content-Type that is read, in octets.
const LONGEST_TYPE: usize = 4 * 1024;

/// Longest boundary; RFC 2046 section 5.1.1 has 70.
const LONGEST_BOUNDARY: usize = 200;

/// Reads a message line by line.
#[derive(Debug)]
pub struct HeaderLines {
    in_header: bool,
    /// Of the multiparts we are in, the innermost last.
    boundaries: Vec<Vec<u8>>,
    /// What Content-Type of the header at hand says.
    kind: Vec<u8>,
    in_kind: bool,
}

impl Default for HeaderLines {
    fn default() -> Self {
        HeaderLines { in_header: true, boundaries: Vec::new(), kind: Vec::new(), in_kind: false }
    }
}

impl HeaderLines {
    /// Takes the next line, of a long one its beginning. Gives whether it belongs to a header.
    pub fn take(&mut self, line: &[u8]) -> bool {
        // RFC 2046 section 5.1.1: blanks may stand behind a boundary. In a header a line of blanks goes on with the field
        // before it (RFC 5322 section 4.2).
        if self.is_between_parts(line.trim_ascii_end()) {
            return false;
        }
        if self.in_header {
            self.header_line(super::header::trimmed(line));
        }
        self.in_header
    }

    fn is_between_parts(&mut self, line: &[u8]) -> bool {
        let Some(rest) = line.strip_prefix(b"--") else { return false };
        let is_end = |boundary: &[u8]| rest.strip_prefix(boundary).is_some_and(|behind| behind == b"--");
        let is_one = |boundary: &Vec<u8>| rest == boundary || is_end(boundary);
        let Some(at) = self.boundaries.iter().rposition(is_one) else { return false };
        let is_over = self.boundaries.get(at).is_some_and(|boundary| is_end(boundary));
        self.boundaries.truncate(if is_over { at } else { at + 1 });
        (self.in_header, self.in_kind) = (!is_over, false);
        self.kind.clear();
        true
    }

    fn header_line(&mut self, line: &[u8]) {
        if line.is_empty() {
            self.in_header = false;
            let boundary = boundary(&std::mem::take(&mut self.kind));
            self.boundaries.extend(boundary.filter(|_| self.boundaries.len() < DEEPEST));
            return;
        }
        if !line.starts_with(b" ") && !line.starts_with(b"\t") {
            let name = super::header::name_of(line);
            self.in_kind = name.is_some_and(|name| name.eq_ignore_ascii_case(b"Content-Type"));
            let colon = memchr::memchr(b':', line).map_or(0, |at| at + 1);
            if self.in_kind {
                self.kind = line.get(colon..).unwrap_or_default().to_vec();
            }
        } else if self.in_kind && self.kind.len() < LONGEST_TYPE {
            self.kind.extend_from_slice(line);
        }
    }
}

/// The boundary that a multipart's Content-Type names (RFC 2045 section 5.1).
fn boundary(kind: &[u8]) -> Option<Vec<u8>> {
    let mut parameters = divided(kind).into_iter();
    let is_multipart = |kind: &[u8]| kind.get(..10).is_some_and(|kind| kind.eq_ignore_ascii_case(b"multipart/"));
    if !is_multipart(&parameters.next()?) {
        return None;
    }
    let named = parameters.find_map(|parameter| {
        let (name, value) = parameter.split_at_checked(memchr::memchr(b'=', &parameter)?)?;
        let is_it = name.trim_ascii_end().eq_ignore_ascii_case(b"boundary");
        is_it.then(|| value.get(1..).unwrap_or_default().trim_ascii().to_vec())
    });
    named.filter(|boundary| (1..=LONGEST_BOUNDARY).contains(&boundary.len()))
}

/// What stands between semicolons, without comments and quotes.
fn divided(value: &[u8]) -> Vec<Vec<u8>> {
    let (mut found, mut one) = (Vec::new(), Vec::new());
    let (mut in_quotes, mut depth) = (false, 0_u32);
    let mut octets = value.iter().copied();
    while let Some(octet) = octets.next() {
        match octet {
            b'\\' if in_quotes || depth > 0 => one.extend(octets.next().filter(|_| depth == 0)),
            b'"' if depth == 0 => in_quotes = !in_quotes,
            b'(' if !in_quotes => depth = depth.saturating_add(1),
            b')' if depth > 0 => depth -= 1,
            b';' if depth == 0 && !in_quotes => found.push(std::mem::take(&mut one)),
            octet if depth == 0 => one.push(octet),
            _ => {}
        }
    }
    found.push(one);
    found.into_iter().map(|one| one.trim_ascii().to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lines that are header, by their first letter.
    fn header_of(text: &str) -> String {
        let mut lines = HeaderLines::default();
        text.split_inclusive('\n').filter(|line| lines.take(line.as_bytes())).map(|line| &line[..1]).collect()
    }

    #[test]
    fn the_header_and_those_of_parts_and_of_their_parts_are_header() {
        let mixed = "Content-Type: multipart/mixed; boundary=b\n\n--b\n";
        let inner = "Content-Type: multipart/alternative; boundary=in\n\n--in\nB: 1\n\nx\n--in--\n";
        for (text, expected) in [
            ("A: 1\n 2\n\nB: 3\n", "A "),
            ("\nB: 3\n", ""),
            // A line of blanks is none without anything.
            ("A: 1\n \nB: 1\n\nx", "A B"),
            ("A: 1\r\n\t\r\nB: 1\r\n\r\nx", "A\tB"),
            ("A: 1\r\nContent-Type: text/plain; boundary=b\r\n\r\n--b\r\nB: 1\r\n\r\nx\r\n", "AC"),
            ("Content-Type: multipart/x;\n\tboundary=\"b c\"\n\n--b c\nB: 1\n 2\n\nx\nX: 1\n--b c--\nE: 1\n", "C\tB "),
            ("content-type: MULTIPART/x (;); x=\"y;z\"; Boundary = b\r\n\r\n--b \t\r\nB: 1\r\n\r\nx\r\n", "cB"),
            // A part may have no header, and one that has no end.
            (&format!("{mixed}\nx\n--b\nB: 1\n--b\nD: 1\n\nx\n"), "CBD"),
            (&format!("{mixed}{inner}E: 1\n--b\nD: 1\n\nx\n--in\nE: 1\n"), "CCBD"),
            // What is attached is no part's header.
            (&format!("{mixed}Content-Type: message/global\n\nB: 1\n\n--b\nD: 1\n"), "CCD"),
            ("Content-Type: multipart/mixed\n\n--\nB: 1\n", "C"),
            ("Content-Type: multipart/mixed; boundary=\"\"\n\n--\nB: 1\n----\n", "C"),
        ] {
            assert_eq!(header_of(text), expected, "{text}");
        }
    }

    #[test]
    fn only_so_much_is_kept() {
        let mut lines = HeaderLines::default();
        lines.take(b"Content-Type: multipart/mixed;");
        (0..10_000).for_each(|_| _ = lines.take(b" xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx;"));
        assert!(lines.kind.len() < 2 * LONGEST_TYPE);
        let mut lines = HeaderLines::default();
        for number in 0..10_000 {
            lines.take(format!("Content-Type: multipart/mixed; boundary=b{number}\n").as_bytes());
            lines.take(b"\n");
            lines.take(format!("--b{number}\n").as_bytes());
        }
        assert_eq!(lines.boundaries.len(), DEEPEST);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read(
            lines in proptest::collection::vec("(Content-Type: multipart/x;|--| )?[-b=;:\"\\\\() x]{0,12}", 0..20),
        ) {
            let mut reader = HeaderLines::default();
            lines.iter().for_each(|line| _ = reader.take(line.as_bytes()));
        }
    }
}
