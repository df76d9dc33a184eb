//! What is counted of a message while it is read, piece by piece: the octets that POP3 would send, and a sum of its body.

use memchr::{memchr, memchr_iter, memmem};

/// What POP3's size is made of.
#[derive(Debug, Default)]
pub struct Counted {
    /// All of them.
    pub octets: u64,
    /// LF without CR before it, for which POP3 sends one more.
    pub bare: u64,
    /// Marks of quoting, which are taken away.
    pub quoted: u64,
    /// The last one.
    pub last: Option<u8>,
}

impl Counted {
    /// Takes the next piece.
    pub fn add(&mut self, octets: &[u8]) {
        let (Some(first), Some(last)) = (octets.first(), octets.last()) else { return };
        let crlf =
            memmem::find_iter(octets, b"\r\n").count() + usize::from(self.last == Some(b'\r') && *first == b'\n');
        self.octets += octets.len() as u64;
        self.bare += (memchr_iter(b'\n', octets).count() - crlf) as u64;
        self.last = Some(*last);
    }
}

/// Adds up a body, whose lines end in LF or CRLF alike, leaving out the line ends at its end. Pushed in pieces.
#[derive(Debug, Default, Clone)]
pub struct BodySum {
    sum: crc32fast::Hasher,
    line_ends: u64,
    /// A CR that may belong to a line end.
    after_cr: bool,
}

impl BodySum {
    /// Takes the next piece.
    pub fn add(&mut self, piece: &[u8]) {
        if !self.after_cr && memchr(b'\r', piece).is_none() {
            return self.add_plain(piece);
        }
        let mut plain = Vec::with_capacity(piece.len() + 1);
        for &octet in piece {
            if self.after_cr && octet != b'\n' {
                plain.push(b'\r');
            }
            self.after_cr = octet == b'\r';
            if !self.after_cr {
                plain.push(octet);
            }
        }
        self.add_plain(&plain);
    }

    fn add_plain(&mut self, piece: &[u8]) {
        let length = piece.iter().rposition(|octet| *octet != b'\n').map_or(0, |at| at + 1);
        if length > 0 {
            for _ in 0..std::mem::take(&mut self.line_ends) {
                self.sum.update(b"\n");
            }
            self.sum.update(piece.get(..length).unwrap_or_default());
        }
        self.line_ends = self.line_ends.saturating_add((piece.len() - length) as u64);
    }

    /// What it comes to.
    pub fn value(&self) -> u32 {
        self.sum.clone().finalize()
    }
}
