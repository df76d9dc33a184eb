//! The arguments of a channel's program (`pipe:`), with what came from outside put in where the channels file says.

use crate::message::path::Address;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// What is put in.
pub struct Values<'a> {
    /// For `%s`; empty for mail from nobody.
    pub sender: &'a [u8],
    /// For `%r`, its local part for `%n` and its domain for `%d`.
    pub recipient: &'a Address,
    /// For `%i`.
    pub id: &'a str,
}

impl Values<'_> {
    /// The arguments that are made of these words. Nothing: one would begin with `-` that came from outside, and might be
    /// taken for an option.
    pub fn put_into<'a>(&self, words: impl Iterator<Item = &'a str>) -> Option<Vec<OsString>> {
        words.map(|word| self.argument(word)).collect()
    }

    /// An argument with everything put in, once.
    fn argument(&self, word: &str) -> Option<OsString> {
        let (mut octets, mut rest) = (Vec::new(), word.as_bytes());
        while let Some(at) = rest.iter().position(|octet| *octet == b'%') {
            let (before, behind) = rest.split_at_checked(at)?;
            octets.extend_from_slice(before);
            let (value, used) = match behind.get(1) {
                Some(b's') => (self.sender, 2),
                Some(b'r') => (self.recipient.as_bytes(), 2),
                Some(b'n') => (self.recipient.local_part(), 2),
                Some(b'd') => (self.recipient.domain().unwrap_or_default(), 2),
                Some(b'i') => (self.id.as_bytes(), 2),
                Some(b'%') => (&b"%"[..], 2),
                _ => (&b"%"[..], 1),
            };
            if octets.is_empty() && value.starts_with(b"-") {
                return None;
            }
            octets.extend_from_slice(value);
            rest = behind.get(used..)?;
        }
        octets.extend_from_slice(rest);
        Some(OsString::from_vec(octets))
    }
}
