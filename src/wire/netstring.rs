//! Netstrings of bounded length, octets not text (cr.yp.to/proto/netstrings.txt).
//!
//! The crate `netstring` writes our replies and is the oracle of the tests, but it cannot read from a network: it
//! allocates whatever length a peer announces, panics at 64 digits, takes `+5:`, and knows only UTF-8. This reader
//! takes digits only, no leading zero, and compares with its limit before anything is believed.

use std::io::Write;

/// What is wrong with the length of a netstring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Something else than a digit or the colon stands in the length, it begins with a needless zero, or it is empty.
    NotALength,
    /// The length is over the limit.
    TooLong,
}

/// Reads a length and its colon, octet by octet.
#[derive(Debug, Clone)]
pub struct LengthReader {
    value: u64,
    digits: u32,
    limit: u64,
}

impl LengthReader {
    /// A reader of one length of at most `limit`.
    pub fn new(limit: u64) -> Self {
        LengthReader { value: 0, digits: 0, limit }
    }

    /// Takes one octet; gives the length when it was the colon.
    pub fn push(&mut self, octet: u8) -> Result<Option<u64>, Fault> {
        match octet {
            b'0'..=b'9' => {
                if self.digits > 0 && self.value == 0 {
                    return Err(Fault::NotALength);
                }
                self.digits += 1;
                let digit = u64::from(octet - b'0');
                let value = self.value.checked_mul(10).and_then(|v| v.checked_add(digit)).ok_or(Fault::TooLong)?;
                if value > self.limit {
                    return Err(Fault::TooLong);
                }
                self.value = value;
                Ok(None)
            }
            b':' if self.digits > 0 => Ok(Some(self.value)),
            _ => Err(Fault::NotALength),
        }
    }

    /// Whether a digit has been taken.
    pub fn has_begun(&self) -> bool {
        self.digits > 0
    }
}

/// Appends what stands before the octets of a netstring of this length.
pub fn put_length(out: &mut Vec<u8>, length: usize) {
    // Writing into a `Vec` cannot fail.
    let _ = write!(out, "{length}:");
}

/// Appends `payload` as a netstring.
pub fn put(out: &mut Vec<u8>, payload: &[u8]) {
    put_length(out, payload.len());
    out.extend_from_slice(payload);
    out.push(b',');
}

#[cfg(test)]
mod tests {
    use super::*;
    use netstring::{ReadNetstring, WriteNetstring};
    use proptest::prelude::*;

    /// The length, and how many octets it took with its colon.
    fn read(input: &[u8], limit: u64) -> Result<Option<(u64, usize)>, Fault> {
        let mut reader = LengthReader::new(limit);
        for (position, octet) in input.iter().enumerate() {
            if let Some(length) = reader.push(*octet)? {
                return Ok(Some((length, position + 1)));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_length_ends_at_the_colon() {
        assert_eq!(read(b"12:3:", 100), Ok(Some((12, 3))));
        assert_eq!(read(b"0:", 0), Ok(Some((0, 2))));
        assert_eq!(read(b"12", 100), Ok(None));
        assert_eq!(read(b"", 100), Ok(None));
    }

    #[test]
    fn only_digits_make_a_length() {
        for wrong in [&b":"[..], b"+5:", b"-5:", b" 5:", b"5 :", b"5;", b"\r\n", b"\0", b"\xb2:"] {
            assert_eq!(read(wrong, 100), Err(Fault::NotALength), "{}", wrong.escape_ascii());
        }
    }

    #[test]
    fn a_leading_zero_is_refused() {
        for wrong in [&b"00:"[..], b"05:", b"0000000000"] {
            assert_eq!(read(wrong, 100), Err(Fault::NotALength));
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_colon() {
        assert_eq!(read(b"100:", 100), Ok(Some((100, 4))));
        assert_eq!(read(b"101", 100), Err(Fault::TooLong));
        assert_eq!(read(b"18446744073709551615:", u64::MAX), Ok(Some((u64::MAX, 21))));
        assert_eq!(read(b"18446744073709551616", u64::MAX), Err(Fault::TooLong));
        assert_eq!(read(&[b'9'; 1000], u64::MAX), Err(Fault::TooLong));
    }

    proptest! {
        #[test]
        fn what_the_crate_writes_we_read(text in "\\PC{0,300}") {
            let mut written = Vec::new();
            written.write_netstring(&text).expect("a write into memory");
            let (length, at) = read(&written, 10_000).expect("a length").expect("all of it");
            prop_assert_eq!(length, text.len() as u64);
            prop_assert_eq!(&written[at..], [text.as_bytes(), b","].concat());
        }

        #[test]
        fn what_we_write_the_crate_reads(text in "\\PC{0,300}") {
            let mut written = Vec::new();
            put(&mut written, text.as_bytes());
            prop_assert_eq!((&written[..]).read_netstring().expect("a netstring"), text);
        }

        #[test]
        fn any_octets_are_answered_as_the_crate_answers_or_refused(input in "[0-9:+ a]{0,12}:") {
            // The crate announces what it reads by allocating it, so it is asked about short lengths only.
            if let Ok(Some((length, at))) = read(input.as_bytes(), 9_999) {
                let whole = [&input.as_bytes()[..at], &vec![b'x'; usize::try_from(length).unwrap()], b","].concat();
                prop_assert_eq!((&whole[..]).read_netstring().expect("a netstring").len() as u64, length);
            }
        }
    }
}
