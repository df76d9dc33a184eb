//! The content of a queued message as the next hop must have it: read piece by piece from an open file, in constant
//! memory.

use crate::message::header::{self, Header};
use crate::message::parts::HeaderLines;
use crate::queue::Lines;
use crate::smtp::client::{Content, Lost};
use crate::wire::dot::Stuffer;
use crate::wire::fold::Folder;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Octets read at once.
const PIECE: usize = 64 * 1024;

/// Longest line of a text, without its end (RFC 5322 section 2.1.1).
const LONGEST_LINE: usize = 998;

/// Octets of a line of a header that are looked at for what it says.
const LOOKED_AT: usize = 4 * 1024;

/// A part of a file: trace field and content.
#[derive(Debug)]
pub struct Source {
    /// Open for reading.
    pub file: File,
    /// Where it begins.
    pub start: u64,
    /// Octets.
    pub size: u64,
    /// How its lines end.
    pub lines: Lines,
}

/// What must be known of a message before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// Octets with CR LF line ends.
    pub size: u64,
    /// Octets above 127 are in it.
    pub eight_bit: bool,
    /// They are in its header or in that of a part, and it came with SMTPUTF8: it goes nowhere without.
    pub utf8_header: bool,
    /// It came as BODY=BINARYMIME, and is no text.
    pub binary: bool,
}

impl Source {
    /// Reads octets at `offset`; 0: at the end. A file shorter than it was is an error.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let room = buffer.len().min(left);
        let Some(buffer) = buffer.get_mut(..room).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        loop {
            match self.file.read_at(buffer, self.start.saturating_add(offset)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Whether its header says that it is to arrive rather than to be hidden (RFC 8689 section 3).
    pub fn is_for_any_eyes(&self) -> io::Result<bool> {
        let text = header::beginning(|room, offset| self.read_at(room, offset))?;
        Ok(Header::read(&text).is_for_any_eyes())
    }

    /// Reads it through. `binary`: it came as BODY=BINARYMIME; `smtputf8`: it came with that; `longest`: most octets of a line,
    /// 0 for any number.
    pub fn facts(&self, binary: bool, smtputf8: bool, longest: usize) -> io::Result<Facts> {
        let (mut facts, mut last, mut folder) = (Facts::default(), b'\n', Folder::new(longest));
        facts.binary = binary && self.text_lines()?.is_none();
        self.pieces(|piece| {
            let Some(end) = piece.last() else { return true };
            let ends = memchr::memchr_iter(b'\n', piece);
            let bare = ends.filter(|at| at.checked_sub(1).map_or(last, |before| piece[before]) != b'\r').count();
            // A CR that is no line end counts as none here: such a line may have a break more than this, of three octets.
            facts.size += (piece.len() + bare) as u64 + 3 * folder.push(piece, |_| {});
            facts.eight_bit |= !piece.is_ascii();
            last = *end;
            true
        })?;
        facts.size += if last == b'\n' { 0 } else { 2 };
        facts.utf8_header = smtputf8 && facts.eight_bit && self.has_utf8_header()?;
        Ok(facts)
    }

    /// Whether octets above 127 are in its header, or in that of a part.
    fn has_utf8_header(&self) -> io::Result<bool> {
        let (mut lines, mut line, mut is_ascii) = (HeaderLines::default(), Vec::new(), true);
        let mut found = false;
        self.pieces(|piece| {
            for part in piece.split_inclusive(|octet| *octet == b'\n') {
                let room = LOOKED_AT.saturating_sub(line.len());
                line.extend_from_slice(part.get(..room).unwrap_or(part));
                is_ascii = is_ascii && part.is_ascii();
                if part.ends_with(b"\n") {
                    found = found || (lines.take(&line) && !is_ascii);
                    line.clear();
                    is_ascii = true;
                }
            }
            !found
        })?;
        Ok(found || (!is_ascii && lines.take(&line)))
    }

    /// How many lines it has, if what came as BODY=BINARYMIME could as well have come as text: lines of CR LF, none too long,
    /// no NUL, and no part that says it is binary (RFC 2045 sections 2.7 and 2.8). Many clients announce all they send so.
    /// Only those that end in CR LF are counted: what we put in front may end in LF, where it has nothing behind it, or is old.
    pub fn text_lines(&self) -> io::Result<Option<u64>> {
        let (mut line, mut count, mut is_text) = (Vec::new(), 0, true);
        let (mut in_encoding, mut in_trace) = (false, true);
        self.pieces(|piece| {
            for part in piece.split_inclusive(|octet| *octet == b'\n') {
                line.extend_from_slice(part);
                if line.ends_with(b"\n") {
                    in_trace = in_trace && is_trace_in_lf(&line);
                    is_text = is_text && (in_trace || is_line_of_text(&line, &mut in_encoding));
                    count += u64::from(!in_trace);
                    line.clear();
                }
            }
            is_text = is_text && line.len() <= LONGEST_LINE + 1;
            is_text
        })?;
        Ok((is_text && line.is_empty()).then_some(count))
    }

    /// Gives it in pieces, as long as `each` wants more.
    fn pieces(&self, mut each: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
        let (mut buffer, mut offset) = (vec![0; PIECE], 0_u64);
        loop {
            let count = self.read_at(&mut buffer, offset)?;
            offset += count as u64;
            if count == 0 || !each(buffer.get(..count).unwrap_or_default()) {
                return Ok(());
            }
        }
    }
}

/// Whether a line may be one of our own fields, written with LF.
fn is_trace_in_lf(line: &[u8]) -> bool {
    let begins = [&b"Delivered-To: "[..], b"Received: ", b"\t", b" "].iter().any(|begin| line.starts_with(begin));
    begins && !line.ends_with(b"\r\n") && line.len() <= LONGEST_LINE + 1 && memchr::memchr2(0, b'\r', line).is_none()
}

/// `in_encoding`: the line before belongs to a field that says how a part is encoded. A line of a body that looks like one is
/// taken for one: then the message is kept as it is.
fn is_line_of_text(line: &[u8], in_encoding: &mut bool) -> bool {
    const FIELD: &[u8] = b"content-transfer-encoding";
    const WORD: &[u8] = b"binary";
    let Some(text) = line.strip_suffix(b"\r\n") else { return false };
    let begins_field = || text.get(..FIELD.len()).is_some_and(|name| name.eq_ignore_ascii_case(FIELD));
    *in_encoding = if text.starts_with(b" ") || text.starts_with(b"\t") { *in_encoding } else { begins_field() };
    let says_binary = *in_encoding && text.windows(WORD.len()).any(|word| word.eq_ignore_ascii_case(WORD));
    text.len() <= LONGEST_LINE && memchr::memchr2(0, b'\r', text).is_none() && !says_binary
}

/// A message on its way to one next hop.
#[derive(Debug)]
pub struct Reader<'a> {
    source: &'a Source,
    offset: u64,
    buffer: Vec<u8>,
    stuffer: Option<Stuffer>,
    folder: Folder,
    /// A CR that may belong to the LF behind it.
    held: bool,
}

impl<'a> Reader<'a> {
    /// At its beginning. `longest`: octets that a line of text may have without its end, 0 for any number.
    pub fn new(source: &'a Source, longest: usize) -> Reader<'a> {
        let (stuffer, folder) = (Some(Stuffer::new()), Folder::new(longest));
        Reader { source, offset: 0, buffer: Vec::new(), stuffer, folder, held: false }
    }

    /// The next piece, empty at the end.
    fn piece(&mut self) -> Result<&[u8], Lost> {
        self.buffer.resize(PIECE, 0);
        match self.source.read_at(&mut self.buffer, self.offset) {
            Ok(count) => {
                self.offset += count as u64;
                Ok(self.buffer.get(..count).unwrap_or_default())
            }
            Err(error) => {
                log::error!("a queued message could not be read: {error}");
                Err(Lost::Unreadable)
            }
        }
    }
}

impl Content for Reader<'_> {
    /// A CR without LF becomes a blank, as with Postfix: sent as it is it might end a line, and a message, for somebody
    /// further on (smuggling).
    fn text(&mut self, out: &mut Vec<u8>) -> Result<bool, Lost> {
        let (mut held, exact) = (self.held, self.source.lines == Lines::Exact);
        let piece = self.piece()?.to_vec();
        let Some(stuffer) = &mut self.stuffer else { return Ok(false) };
        if !exact {
            self.folder.push(&piece, |part| stuffer.push(part, out));
        } else {
            let mut clean = Vec::with_capacity(piece.len() + 1);
            for &octet in &piece {
                if std::mem::take(&mut held) {
                    clean.push(if octet == b'\n' { b'\r' } else { b' ' });
                }
                if octet == b'\r' {
                    held = true;
                } else {
                    clean.push(octet);
                }
            }
            if piece.is_empty() && std::mem::take(&mut held) {
                clean.push(b' ');
            }
            self.folder.push(&clean, |part| stuffer.push(part, out));
        }
        self.held = held;
        if piece.is_empty() {
            self.stuffer.take().into_iter().for_each(|stuffer| stuffer.end(out));
            return Ok(false);
        }
        Ok(true)
    }

    fn binary(&mut self, out: &mut Vec<u8>) -> Result<bool, Lost> {
        out.extend_from_slice(self.piece()?);
        Ok(self.offset < self.source.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn source(octets: &[u8]) -> Source {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"head").unwrap();
        file.write_all(octets).unwrap();
        file.write_all(b"envelope").unwrap();
        let is_text = octets.last().is_none_or(|octet| *octet == b'\n') && !octets.contains(&b'\r');
        Source { file, start: 4, size: octets.len() as u64, lines: if is_text { Lines::Lf } else { Lines::Exact } }
    }

    fn sent(octets: &[u8]) -> Vec<u8> {
        broken(octets, 0)
    }

    fn broken(octets: &[u8], longest: usize) -> Vec<u8> {
        let source = source(octets);
        let (mut reader, mut out) = (Reader::new(&source, longest), Vec::new());
        while reader.text(&mut out).unwrap() {}
        out
    }

    #[test]
    fn lines_end_in_cr_lf_and_dots_are_doubled() {
        assert_eq!(sent(b"a\n.\n..b\n"), b"a\r\n..\r\n...b\r\n.\r\n");
        assert_eq!(sent(b""), b".\r\n");
        assert_eq!(sent(b"a\r\nb\nc"), b"a\r\nb\r\nc\r\n.\r\n");
    }

    #[test]
    fn a_bare_cr_becomes_a_blank() {
        assert_eq!(sent(b"a\rb\r\r\n.\r.\r"), b"a b \r\n.. . \r\n.\r\n");
    }

    #[test]
    fn facts_are_those_of_what_is_sent() {
        for (text, size, eight_bit) in [("", 0, false), ("a\n.\n", 6, false), ("\u{e4}\n", 4, true), ("a", 3, false)] {
            let facts = source(text.as_bytes()).facts(false, false, 0).unwrap();
            assert_eq!(facts, Facts { size, eight_bit, utf8_header: false, binary: false }, "{text:?}");
        }
    }

    /// RFC 5321 section 4.5.3.1.6.
    #[test]
    fn long_lines_are_broken_and_what_that_adds_is_counted() {
        assert_eq!(broken(b"abcdef\n.....g\nabcde\n", 5), b"abcde\r\n f\r\n......\r\n g\r\nabcde\r\n.\r\n");
        assert_eq!(broken(b"abcde\r\nabcd\ref", 5), b"abcde\r\nabcd \r\n ef\r\n.\r\n");
        // Over the end of a piece.
        let long = format!("{}\n{}", "x".repeat(2 * PIECE + 7), "y".repeat(2000));
        for (text, longest) in [(long.as_str(), LONGEST_LINE), (&long.replace('\n', "\r\n"), 998), (&long, 0)] {
            let (out, source) = (broken(text.as_bytes(), longest), source(text.as_bytes()));
            let facts = source.facts(false, false, longest).unwrap();
            assert_eq!(facts.size, (out.len() - ".\r\n".len()) as u64);
            let is_short = |line: &[u8]| line.len() <= LONGEST_LINE + "\r\n".len();
            assert_eq!(out.split_inclusive(|octet| *octet == b'\n').all(is_short), longest > 0);
        }
    }

    /// RFC 6532 section 3.7.
    #[test]
    fn smtputf8_is_needed_by_a_header_and_by_those_of_parts() {
        let parts = "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain";
        let long = "x".repeat(PIECE);
        for (text, expected) in [
            ("Subject: x\n\ngr\u{fc}n\n", false),
            ("Subject: gr\u{fc}n\n\nx\n", true),
            ("Subject: x\r\n gr\u{fc}n\r\n", true),
            ("Subject: gr\u{fc}n", true),
            (&format!("Subject: {long}\u{fc}\n\nx\n"), true),
            (&format!("Subject: x\n\n{long}\n\u{fc}"), false),
            (&format!("{parts}\n\ngr\u{fc}n\n--b--\n"), false),
            (&format!("{parts}; name=\"gr\u{fc}n\"\n\nx\n--b--\n"), true),
            (&format!("X: {long}\n{parts}\n\n{long}\n--b\nX: \u{fc}\n\nx\n--b--\n"), true),
            (&format!("{parts}\n\n--b\nContent-Type: message/global\n\nSubject: gr\u{fc}n\n\nx\n--b--\n"), false),
        ] {
            let source = source(text.as_bytes());
            assert_eq!(source.facts(false, true, 0).unwrap().utf8_header, expected, "{text:.200}");
            assert!(!source.facts(false, false, 0).unwrap().utf8_header);
        }
    }

    #[test]
    fn what_came_as_binary_is_text_where_it_is_lines_and_nothing_says_otherwise() {
        let long = "x".repeat(LONGEST_LINE);
        for (text, lines) in [
            ("Subject: \u{e4}\r\n\r\nbinary\r\n", Some(3)),
            ("", Some(0)),
            (&format!("{long}\r\n"), Some(1)),
            // Over the end of a piece.
            (&format!("{long}\r\n").repeat(200), Some(200)),
            (&format!("{long}x\r\n"), None),
            (&long.repeat(100), None),
            ("a\r\nb", None),
            ("a\r\nb\n", None),
            ("a\nb\r\n", None),
            ("Delivered-To: x\nReceived: y\n\tz\nReceived: y\r\n\r\nb\r\n", Some(3)),
            ("Received: y\n\tz\n", Some(0)),
            ("Received: y\n\r\nb\n", None),
            ("Received: y\r\nReceived: y\n", None),
            ("Received: y\0\n", None),
            ("a\rb\r\n", None),
            ("a\r\r\n", None),
            ("a\0\r\n", None),
            ("content-Transfer-Encoding: 8bit\r\nX: binary\r\n", Some(2)),
            ("content-Transfer-Encoding: 8bit\r\nX: y\r\n binary\r\n", Some(3)),
            ("content-Transfer-Encoding: Binary\r\n", None),
            ("A: b\r\n\r\n--x\r\nContent-Transfer-Encoding :\r\n\t (y)\r\n BINARY\r\n", None),
        ] {
            let source = source(text.as_bytes());
            let binary = source.facts(true, false, 0).unwrap().binary;
            assert_eq!((source.text_lines().unwrap(), binary), (lines, lines.is_none()), "{text:.90}");
        }
    }

    #[test]
    fn a_file_that_was_cut_is_no_shorter_message() {
        let mut source = source(b"a\nb\n");
        source.size = 100;
        let (mut reader, mut out) = (Reader::new(&source, 0), Vec::new());
        assert_eq!(reader.text(&mut out), Ok(true));
        assert_eq!(reader.text(&mut out), Err(Lost::Unreadable));
    }

    #[test]
    fn a_header_is_looked_at_to_its_end_however_long_it_is_and_no_further() {
        let field = "TLS-Required: No\n";
        for (text, expected) in [
            (format!("{field}\nx\n"), true),
            (format!("{}{field}\nx\n", "X: y\n".repeat(20_000)), true),
            (format!("X: {}\n{field}", "y".repeat(8 * 1024 - 4)), true),
            (format!("X: y\n\n{field}"), false),
            (format!("{}{field}\n", "X: y\n".repeat(header::LARGEST / 5 + 1)), false),
            (String::new(), false),
        ] {
            let found = source(text.as_bytes()).is_for_any_eyes().unwrap();
            assert_eq!(found, expected, "{:.40} ({} octets)", text, text.len());
        }
    }

    proptest! {
        #[test]
        fn whatever_is_queued_one_end_of_data_is_sent(octets in "[.\r\na\u{e9}]{0,40}") {
            let out = sent(octets.as_bytes());
            let mut reader = crate::wire::dot::Unstuffer::new();
            let mut text = Vec::new();
            prop_assert_eq!(reader.push(&out, &mut text), (out.len(), crate::wire::dot::Text::End));
        }
    }
}
