//! The lines of a message that comes by BDAT: CR LF to LF, across chunks of any size (RFC 3030).
//!
//! A chunk tells its length, so nothing in it ends the message. A CR or LF by itself is refused all the same: the next
//! server may get the message by DATA, where it would be a way to smuggle.

/// A CR without LF, or an LF without CR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BareLineEnd;

/// Takes the octets of chunks one after another.
#[derive(Debug, Default)]
pub struct ChunkLines {
    cr: bool,
    in_line: bool,
    bare_lf: bool,
}

impl ChunkLines {
    /// At the beginning of a text; `bare_lf`: an LF without CR ends a line of it too.
    pub fn new(bare_lf: bool) -> Self {
        ChunkLines { bare_lf, ..ChunkLines::default() }
    }

    /// Appends octets to `out` with LF line ends.
    pub fn push(&mut self, mut octets: &[u8], out: &mut Vec<u8>) -> Result<(), BareLineEnd> {
        while let Some((&first, rest)) = octets.split_first() {
            match (std::mem::take(&mut self.cr), first) {
                (true, b'\n') => {
                    out.push(b'\n');
                    (self.in_line, octets) = (false, rest);
                }
                (false, b'\n') if self.bare_lf => {
                    out.push(b'\n');
                    (self.in_line, octets) = (false, rest);
                }
                (true, _) | (false, b'\n') => return Err(BareLineEnd),
                (false, b'\r') => (self.cr, octets) = (true, rest),
                (false, _) => {
                    let run = memchr::memchr2(b'\r', b'\n', octets).unwrap_or(octets.len());
                    out.extend_from_slice(&octets[..run]);
                    (self.in_line, octets) = (true, &octets[run..]);
                }
            }
        }
        Ok(())
    }

    /// Ends the text; a last line without its end gets one, as it would behind DATA.
    pub fn end(&mut self, out: &mut Vec<u8>) -> Result<(), BareLineEnd> {
        if self.cr {
            return Err(BareLineEnd);
        }
        if self.in_line {
            out.push(b'\n');
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn taken(input: &[u8], step: usize) -> Result<Vec<u8>, BareLineEnd> {
        let (mut lines, mut out) = (ChunkLines::default(), Vec::new());
        for piece in input.chunks(step) {
            lines.push(piece, &mut out)?;
        }
        lines.end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn lines_end_in_lf_and_the_last_one_too() {
        for (input, output) in
            [("", ""), ("a\r\n.\r\nb", "a\n.\nb\n"), ("\r\n", "\n"), ("..\r\n", "..\n"), ("\0\r\n", "\0\n")]
        {
            for step in 1..5 {
                assert_eq!(taken(input.as_bytes(), step).as_deref(), Ok(output.as_bytes()), "{input:?} by {step}");
            }
        }
    }

    #[test]
    fn bare_line_ends_are_refused() {
        for input in ["\n", "a\nb", "\r", "a\rb", "a\r\r\n", "\r\n\n", "a\r"] {
            for step in 1..5 {
                assert_eq!(taken(input.as_bytes(), step), Err(BareLineEnd), "{input:?} by {step}");
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_change_nothing(input in "[a.\r\n]{0,30}", step in 1..9_usize) {
            prop_assert_eq!(taken(input.as_bytes(), step), taken(input.as_bytes(), 1000));
        }
    }
}
