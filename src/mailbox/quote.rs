//! Quoting: what a message may not look like inside a mailbox, going in and coming out.
//!
//! Both are pushed octets in pieces of any size and keep no more than the beginning of a line.

use super::mbox::FROM;
use super::mmdf::{self, DELIMITER};
use crate::config::value::MailboxFormat;
use memchr::memchr;

/// Fields that are the mailbox's, not the message's: where it ends, and what mail readers note down about it. What a sender
/// says there could hide the next message, mark this one as deleted, or use up the numbers that IMAP gives to all of them.
const OF_MAILBOX: [&[u8]; 7] =
    [b"content-length", b"status", b"x-status", b"x-keywords", b"x-uid", b"x-imap", b"x-imapbase"];
/// More white space than this stands behind no name, nor in any line that may be sent (RFC 5322 section 2.1.1).
const LONGEST_BEFORE_COLON: usize = 1000;

#[derive(Debug, PartialEq, Eq)]
enum At {
    /// At the beginning of a line, perhaps behind some `>`; what may become a word of ours is held back.
    Start { behind_marks: bool },
    /// Behind the name of a field of the mailbox and white space, which some readers overlook before the colon.
    Named,
    /// Somewhere in a line.
    Middle,
    /// In a field that is left out.
    Dropped,
}

/// Writes a message so that it ends where it should.
#[derive(Debug)]
pub struct Quoter {
    format: MailboxFormat,
    at: At,
    held: Vec<u8>,
    in_header: bool,
    was_dropped: bool,
    line_is_ended: bool,
}

impl Quoter {
    /// For a message that begins now.
    pub fn new(format: MailboxFormat) -> Quoter {
        let at = At::Start { behind_marks: false };
        Quoter { format, at, held: Vec::new(), in_header: true, was_dropped: false, line_is_ended: true }
    }

    /// Takes a piece, and appends what is to be written.
    pub fn push(&mut self, mut piece: &[u8], out: &mut Vec<u8>) {
        while let Some(&octet) = piece.first() {
            match self.at {
                At::Start { behind_marks } => {
                    piece = piece.get(1..).unwrap_or_default();
                    self.start(octet, behind_marks, out);
                }
                At::Named => {
                    let used = usize::from(self.named(octet, out));
                    piece = piece.get(used..).unwrap_or_default();
                }
                At::Middle | At::Dropped => {
                    let length = memchr(b'\n', piece).map_or(piece.len(), |at| at + 1);
                    let (line, rest) = piece.split_at(length);
                    piece = rest;
                    if self.at == At::Middle {
                        out.extend_from_slice(line);
                        self.line_is_ended = line.ends_with(b"\n");
                    }
                    if line.ends_with(b"\n") {
                        self.was_dropped = self.at == At::Dropped;
                        self.at = At::Start { behind_marks: false };
                    }
                }
            }
        }
    }

    /// At the end of the message: its last line is ended, and it is closed.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if self.format == MailboxFormat::Mmdf && mmdf::is_delimiter(&[&self.held, b"\n".as_slice()].concat()) {
            self.blank();
        }
        self.release(out);
        if !self.line_is_ended {
            out.push(b'\n');
        }
        out.extend_from_slice(if self.format == MailboxFormat::Mmdf { DELIMITER } else { b"\n" });
    }

    fn start(&mut self, octet: u8, behind_marks: bool, out: &mut Vec<u8>) {
        let is_first = self.held.is_empty() && !behind_marks;
        if is_first && self.was_dropped && matches!(octet, b' ' | b'\t') {
            // It goes on with the field.
            self.at = At::Dropped;
            return;
        }
        self.was_dropped = false;
        self.line_is_ended = false;
        let is_mbox = self.format != MailboxFormat::Mmdf;
        if is_mbox && octet == b'>' && self.held.is_empty() {
            out.push(octet);
            self.at = At::Start { behind_marks: true };
            return;
        }
        self.held.push(octet);
        if is_mbox && self.held == FROM {
            out.push(b'>');
        } else if !is_mbox && mmdf::is_delimiter(&self.held) {
            self.blank();
        } else if self.in_header && !behind_marks && is_of_mailbox(self.held.get(..self.held.len() - 1)) {
            match octet {
                b':' => return self.drop_field(),
                b' ' | b'\t' => {
                    self.at = At::Named;
                    return;
                }
                _ => {}
            }
        }
        if self.may_become_ours(is_mbox, behind_marks) {
            return;
        }
        let line_ended = octet == b'\n';
        if line_ended && !behind_marks && matches!(self.held.as_slice(), b"\n" | b"\r\n") {
            self.in_header = false;
        }
        self.release(out);
        self.line_is_ended = line_ended;
        self.at = if line_ended { At::Start { behind_marks: false } } else { At::Middle };
    }

    /// Behind a name and white space. Gives whether the octet was used.
    fn named(&mut self, octet: u8, out: &mut Vec<u8>) -> bool {
        match octet {
            b' ' | b'\t' if self.held.len() < LONGEST_BEFORE_COLON => self.held.push(octet),
            b':' | b' ' | b'\t' => self.drop_field(),
            // It is no field, and the line goes on.
            _ => {
                self.release(out);
                self.at = At::Middle;
                return false;
            }
        }
        true
    }

    /// Nothing of it is written.
    fn drop_field(&mut self) {
        self.held.clear();
        self.at = At::Dropped;
        self.line_is_ended = true;
    }

    fn may_become_ours(&self, is_mbox: bool, behind_marks: bool) -> bool {
        let word = if is_mbox { FROM } else { DELIMITER };
        let begins = |name: &&[u8]| name.get(..self.held.len()).is_some_and(|b| b.eq_ignore_ascii_case(&self.held));
        word.starts_with(&self.held)
            || self.held == b"\r"
            || (!is_mbox && self.held == b"\x01\x01\x01\x01\r")
            || (self.in_header && !behind_marks && OF_MAILBOX.iter().any(begins))
    }

    /// Makes the first octet one that ends no message.
    fn blank(&mut self) {
        if let Some(first) = self.held.first_mut() {
            *first = b' ';
        }
    }

    fn release(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
    }
}

/// Takes the quoting of mbox off.
#[derive(Debug, Default)]
pub struct Unquoter {
    in_line: bool,
    /// One `>` that is given only if no `From ` follows.
    mark: bool,
    /// How much of `From ` stands behind it.
    matched: usize,
}

impl Unquoter {
    /// Takes a piece, and appends what was meant.
    pub fn push(&mut self, mut piece: &[u8], out: &mut Vec<u8>) {
        while let Some(&octet) = piece.first() {
            if self.in_line {
                let length = memchr(b'\n', piece).map_or(piece.len(), |at| at + 1);
                let (line, rest) = piece.split_at(length);
                out.extend_from_slice(line);
                self.in_line = !line.ends_with(b"\n");
                piece = rest;
                continue;
            }
            if octet == b'>' && self.matched == 0 {
                piece = piece.get(1..).unwrap_or_default();
                // The last one and the first are the same octet, so the rest need not wait.
                if std::mem::replace(&mut self.mark, true) {
                    out.push(octet);
                }
            } else if self.mark && FROM.get(self.matched) == Some(&octet) {
                piece = piece.get(1..).unwrap_or_default();
                self.matched += 1;
                if self.matched == FROM.len() {
                    self.mark = false;
                    self.release(out);
                }
            } else {
                self.release(out);
            }
        }
    }

    /// At the end of the message.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.release(out);
    }

    fn release(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.mark) {
            out.push(b'>');
        }
        out.extend_from_slice(FROM.get(..std::mem::take(&mut self.matched)).unwrap_or_default());
        self.in_line = true;
    }
}

/// Whether a field of this name is the mailbox's.
fn is_of_mailbox(name: Option<&[u8]>) -> bool {
    name.is_some_and(|name| OF_MAILBOX.iter().any(|known| known.eq_ignore_ascii_case(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quote(format: MailboxFormat, message: &[u8], size: usize) -> Vec<u8> {
        let (mut quoter, mut out) = (Quoter::new(format), Vec::new());
        message.chunks(size).for_each(|piece| quoter.push(piece, &mut out));
        quoter.finish(&mut out);
        out
    }

    fn unquote(text: &[u8], size: usize) -> Vec<u8> {
        let (mut unquoter, mut out) = (Unquoter::default(), Vec::new());
        text.chunks(size).for_each(|piece| unquoter.push(piece, &mut out));
        unquoter.finish(&mut out);
        out
    }

    #[test]
    fn what_looks_like_a_separator_is_quoted_and_nothing_else() {
        let message = b"A: 1\n\nFrom x\n>From y\n>>From z\nFromage\n> From\n Fro\nF";
        let expected = b"A: 1\n\n>From x\n>>From y\n>>>From z\nFromage\n> From\n Fro\nF\n\n";
        for size in 1..message.len() {
            assert_eq!(quote(MailboxFormat::Mbox, message, size), expected);
        }
    }

    #[test]
    fn a_delimiter_of_mmdf_gets_a_blank() {
        let message = b"A: 1\n\n\x01\x01\x01\x01\n\x01\x01\x01\x01x\nFrom x\n";
        let expected = b"A: 1\n\n \x01\x01\x01\n\x01\x01\x01\x01x\nFrom x\n\x01\x01\x01\x01\n";
        for size in 1..message.len() {
            assert_eq!(quote(MailboxFormat::Mmdf, message, size), expected);
        }
        for (message, expected) in [
            (&b"\x01\x01\x01\x01"[..], &b" \x01\x01\x01\n"[..]),
            (b"\x01\x01\x01\x01\r", b" \x01\x01\x01\r\n"),
            (b"\x01\x01\x01\x01\r\nx\r\n", b" \x01\x01\x01\r\nx\r\n"),
            (b"\x01\x01\x01\x01\rx\n", b"\x01\x01\x01\x01\rx\n"),
            (b"\x01\x01\x01", b"\x01\x01\x01\n"),
        ] {
            assert_eq!(quote(MailboxFormat::Mmdf, message, 1), [expected, DELIMITER].concat());
        }
    }

    #[test]
    fn fields_that_are_the_mailboxes_are_left_out_of_the_header_only() {
        let fields = "Status: RO\nX-STATUS: D\nx-keywords:\n\ta\nX-UID: 4294967293\nX-IMAP: 77 1\nX-IMAPbase: 77 1\n";
        let evasive = "Status \t: RO\nContent-Length\t:5\n";
        let kept = "Status\nStatus \t\nX-UID x: y\nX-UIDs: 7\nX-IMAPbas: 7\nStatuss: 7\n Status: 7\nA:\n Status: 7\n";
        let body = "\nStatus: RO\nX-IMAPbase: 77 1\n";
        let message = format!("{fields}A: 1\n{evasive}{kept}content-Length: 5\n 6\n\t7\nContent-Type: x\n{body}");
        let expected = format!("A: 1\n{kept}Content-Type: x\n{body}");
        for (format, end) in [(MailboxFormat::Mbox, &b"\n"[..]), (MailboxFormat::Mmdf, DELIMITER)] {
            for size in 1..message.len() {
                let text = quote(format, message.as_bytes(), size);
                assert_eq!(
                    text.escape_ascii().to_string(),
                    [expected.as_bytes(), end].concat().escape_ascii().to_string()
                );
            }
        }
    }

    #[test]
    fn a_field_that_is_left_out_at_the_end_leaves_nothing() {
        for field in ["Content-Length: 5", "Content-Length: 5\n", "Status:\n 5\n", "x-imapbase:", "status :\n"] {
            let message = format!("A: 1\n{field}");
            for size in 1..message.len() {
                assert_eq!(quote(MailboxFormat::Mbox, message.as_bytes(), size), b"A: 1\n\n", "{field:?} {size}");
            }
        }
        assert_eq!(quote(MailboxFormat::Mbox, b"Status \t", 1), b"Status \t\n\n");
    }

    /// It is held back, and nobody may make that much.
    #[test]
    fn white_space_without_end_behind_a_name_is_left_out() {
        let message = format!("A: 1\nStatus{}: D\nB: 2\n", " ".repeat(100_000));
        let (mut quoter, mut out) = (Quoter::new(MailboxFormat::Mbox), Vec::new());
        for piece in message.as_bytes().chunks(100) {
            quoter.push(piece, &mut out);
            assert!(quoter.held.len() <= LONGEST_BEFORE_COLON);
        }
        quoter.finish(&mut out);
        assert_eq!(out, b"A: 1\nB: 2\n\n");
    }

    proptest! {
        #[test]
        fn what_was_quoted_comes_out_again(message in "([>]{0,3}(F|Fr|From|From |[a-z]|\r){0,2}\n){0,6}", size in 1_usize..30) {
            let text = quote(MailboxFormat::Mbox, message.as_bytes(), size);
            prop_assert!(text.split(|octet| *octet == b'\n').all(|line| !line.starts_with(FROM)));
            let back = unquote(text.strip_suffix(b"\n").unwrap(), size);
            prop_assert_eq!(back.escape_ascii().to_string(), message.as_bytes().escape_ascii().to_string());
        }
    }
}
