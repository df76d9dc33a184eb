//! A message on its way to the client: line ends become CR LF, lines that begin with a dot get one more, TOP ends
//! early (RFC 1939 sections 3 and 7).
//!
//! A CR before an LF is kept as it is, so that nothing becomes CR CR LF; a CR by itself is content. After every LF begins a
//! line whose dot is stuffed: an unstuffed one would let a sender end the reply and speak in our name.

use crate::wire::dot::Stuffer;

/// Encodes one message, pushed in pieces of any size.
#[derive(Debug)]
pub struct Content {
    stuffer: Stuffer,
    ends_in_cr: bool,
    limit: Option<Limit>,
}

impl Content {
    /// The whole message (RETR).
    pub fn whole() -> Content {
        Content { stuffer: Stuffer::new(), ends_in_cr: false, limit: None }
    }

    /// The header, the empty line and so many lines of the body (TOP).
    pub fn top(lines: u32) -> Content {
        let limit = Limit { in_line: 0, after_cr: false, in_header: true, lines_left: lines };
        Content { limit: Some(limit), ..Content::whole() }
    }

    /// Whether less than the whole message may be wanted.
    pub fn is_limited(&self) -> bool {
        self.limit.is_some()
    }

    /// Whether no more of the message is wanted.
    pub fn is_done(&self) -> bool {
        self.limit.as_ref().is_some_and(Limit::is_reached)
    }

    /// Takes a piece of the message as it lies on disk, and appends what goes to the client.
    pub fn push(&mut self, octets: &[u8], out: &mut Vec<u8>) {
        let wanted = match &mut self.limit {
            Some(limit) => limit.wanted(octets),
            None => octets,
        };
        if let Some(last) = wanted.last() {
            self.ends_in_cr = *last == b'\r';
            self.stuffer.push(wanted, out);
        }
    }

    /// Ends the last line where the message does not, and the reply.
    pub fn finish(self, out: &mut Vec<u8>) {
        if self.ends_in_cr {
            // A CR at the very end is content, and is counted as such: the line end comes behind it.
            out.push(b'\r');
        }
        self.stuffer.end(out);
    }
}

/// Finds where TOP ends.
#[derive(Debug)]
struct Limit {
    /// Octets of the line at hand so far.
    in_line: u64,
    after_cr: bool,
    in_header: bool,
    lines_left: u32,
}

impl Limit {
    fn is_reached(&self) -> bool {
        !self.in_header && self.lines_left == 0
    }

    fn wanted<'a>(&mut self, octets: &'a [u8]) -> &'a [u8] {
        let mut wanted = 0_usize;
        for piece in octets.split_inclusive(|octet| *octet == b'\n') {
            if self.is_reached() {
                break;
            }
            wanted += piece.len();
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            if let Some(last) = text.last() {
                self.after_cr = *last == b'\r';
                self.in_line = self.in_line.saturating_add(text.len() as u64);
            }
            if text.len() < piece.len() {
                self.end_line();
            }
        }
        octets.get(..wanted).unwrap_or(octets)
    }

    fn end_line(&mut self) {
        let is_empty = self.in_line == u64::from(self.after_cr);
        (self.in_line, self.after_cr) = (0, false);
        if self.in_header {
            self.in_header = !is_empty;
        } else {
            self.lines_left = self.lines_left.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(mut content: Content, message: &[u8], size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in message.chunks(size) {
            content.push(piece, &mut out);
        }
        content.finish(&mut out);
        out
    }

    fn check(content: impl Fn() -> Content, message: &str, expected: &str) {
        for size in 1..=message.len().max(1) {
            let out = encode(content(), message.as_bytes(), size);
            assert_eq!(String::from_utf8_lossy(&out), expected, "{message:?} in pieces of {size}");
        }
    }

    #[test]
    fn line_ends_become_crlf_and_dots_are_stuffed() {
        check(Content::whole, "a\n.b\n\n..\n.\n", "a\r\n..b\r\n\r\n...\r\n..\r\n.\r\n");
    }

    #[test]
    fn crlf_on_disk_stays_crlf() {
        check(Content::whole, "a\r\n.\r\n\r\nb\n", "a\r\n..\r\n\r\nb\r\n.\r\n");
    }

    #[test]
    fn a_last_line_without_end_gets_one() {
        check(Content::whole, "a\nb", "a\r\nb\r\n.\r\n");
        check(Content::whole, ".", "..\r\n.\r\n");
        check(Content::whole, "a\r", "a\r\r\n.\r\n");
        check(Content::whole, "", ".\r\n");
    }

    #[test]
    fn a_cr_by_itself_is_content() {
        check(Content::whole, "a\rb\r\r\n\r.\n", "a\rb\r\r\n\r.\r\n.\r\n");
    }

    #[test]
    fn top_gives_the_header_an_empty_line_and_so_many_lines() {
        let message = "A: 1\nB: 2\n\n1\n.2\n3";
        check(|| Content::top(0), message, "A: 1\r\nB: 2\r\n\r\n.\r\n");
        check(|| Content::top(1), message, "A: 1\r\nB: 2\r\n\r\n1\r\n.\r\n");
        check(|| Content::top(2), message, "A: 1\r\nB: 2\r\n\r\n1\r\n..2\r\n.\r\n");
        check(|| Content::top(3), message, "A: 1\r\nB: 2\r\n\r\n1\r\n..2\r\n3\r\n.\r\n");
        check(|| Content::top(u32::MAX), message, "A: 1\r\nB: 2\r\n\r\n1\r\n..2\r\n3\r\n.\r\n");
    }

    #[test]
    fn top_finds_the_end_of_the_header_with_either_line_end() {
        check(|| Content::top(0), "A: 1\r\n\r\nbody\r\n", "A: 1\r\n\r\n.\r\n");
        check(|| Content::top(0), "\nbody\n", "\r\n.\r\n");
        check(|| Content::top(0), "A: 1\n\r\r\n\nbody\n", "A: 1\r\n\r\r\n\r\n.\r\n");
        check(|| Content::top(5), "A: 1\n", "A: 1\r\n.\r\n");
        check(|| Content::top(1), "A: 1\n\n\n\nx\n", "A: 1\r\n\r\n\r\n.\r\n");
    }

    proptest! {
        #[test]
        fn a_client_gets_back_what_lies_there(message in "[a.\r\n]{0,40}", size in 1_usize..41) {
            let out = encode(Content::whole(), message.as_bytes(), size);
            let body = out.strip_suffix(b".\r\n").unwrap();
            prop_assert!(body.is_empty() || body.ends_with(b"\r\n"));
            let mut back = Vec::new();
            for line in body.split_inclusive(|octet| *octet == b'\n') {
                prop_assert!(line.ends_with(b"\r\n"));
                prop_assert!(line != b".\r\n");
                back.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
            }
            // RFC 1939 section 11: every line end counts two.
            let bare = message.as_bytes().windows(2).filter(|pair| pair[1] == b'\n' && pair[0] != b'\r').count()
                + usize::from(message.starts_with('\n'));
            let unended = if message.is_empty() || message.ends_with('\n') { 0 } else { 2 };
            prop_assert_eq!(back.len(), message.len() + bare + unended);
            prop_assert_eq!(out, encode(Content::whole(), message.as_bytes(), 4096));
        }
    }
}
