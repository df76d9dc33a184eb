//! Netstrings of bounded length, octets not text (cr.yp.to/proto/netstrings.txt).
//!
//! The crate `netstring` writes our replies and is the oracle of the tests, but it cannot read from a network: it
//! allocates whatever length a peer announces, panics at 64 digits, takes `+5:`, and knows only UTF-8. This reader
//! takes digits only, no leading zero, and compares with its limit before anything is believed.

/// What is wrong with a netstring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Something else than a digit or the colon stands in the length, or the length is empty.
    NotALength,
    /// The length begins with a zero and is not just that.
    LeadingZero,
    /// The length is over the limit.
    TooLong,
    /// The payload is not followed by a comma.
    NoComma,
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
                    return Err(Fault::LeadingZero);
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

/// Appends `payload` as a netstring.
pub fn put(out: &mut Vec<u8>, payload: &[u8]) {
    out.extend_from_slice(payload.len().to_string().as_bytes());
    out.push(b':');
    out.extend_from_slice(payload);
    out.push(b',');
}
