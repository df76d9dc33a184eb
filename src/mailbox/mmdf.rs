//! MMDF: one file; a message stands between two lines of four ^A.
//!
//! Such a line inside a message gets a blank for its first octet when it is written, as MMDF does it; that cannot be told
//! from a line that came so, and is not undone.

/// The line before and behind each message.
pub const DELIMITER: &[u8] = b"\x01\x01\x01\x01\n";

/// As programs write it whose lines end in CRLF.
pub const WITH_CR: &[u8] = b"\x01\x01\x01\x01\r\n";

/// Whether a line is one.
pub fn is_delimiter(line: &[u8]) -> bool {
    line == DELIMITER || line == WITH_CR
}
