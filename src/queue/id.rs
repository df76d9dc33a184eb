//! Queue ids: time and chance, so that neither two processes, nor two process id namespaces, nor a clock set back
//! give the same one twice.

use super::file::microseconds;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Digits and lower-case letters without `i`, `l`, `o`, `u`, in ASCII order, so that ids sort by time and one read
/// out over a telephone is understood.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Characters of time: 55 bits of microseconds last until the year 3111.
const TIME: usize = 11;

/// Characters of chance: 20 bits.
const CHANCE: usize = 4;

/// Characters of an id.
pub const LENGTH: usize = TIME + CHANCE;

/// The name of a message: 11 characters of microseconds since 1970 and 4 of chance, base 32 with the characters
/// `0-9 a-z` without `i l o u`. It is used as a file name, so nothing else can be in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id([u8; LENGTH]);

impl Id {
    /// A new one. Two made in the same microsecond are the same once in a million times; the exclusive creation of
    /// the file finds that out.
    pub fn new(now: SystemTime) -> Id {
        // Without a source of chance (a jail without getrandom) the time alone must do, and O_EXCL still holds.
        let chance = getrandom::u32().unwrap_or(std::process::id());
        Id::from_parts(microseconds(now), u64::from(chance))
    }

    /// A new one whose file is in the same folder as that of this one.
    pub fn beside(&self, now: SystemTime) -> Id {
        let mut other = Id::new(now);
        other.0[LENGTH - 1] = self.0[LENGTH - 1];
        other
    }

    /// The id of a message that this one gives rise to: a return, the next station of an alias. `origin` says which, and
    /// the same one gives the same id at every call, so that a repeat after a crash finds its own file. It sorts behind
    /// this one. Different origins may share an id; `probe` then gives others.
    pub fn derived(&self, origin: &str, probe: u32) -> Id {
        let sum = crc32fast::hash(format!("{self} {origin} {probe}").as_bytes());
        // A CRC is linear, and of texts that differ by a number alone its lower bits may be the same for many. The upper half
        // of a product (by 2^64 over the golden ratio) is not.
        let chance = u64::from(sum).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        Id::from_parts(self.microseconds() + 1, chance)
    }

    /// The id of a time, without chance: to derive others from, of no message.
    pub fn of_time(time: SystemTime) -> Id {
        Id::from_parts(microseconds(time), 0)
    }

    /// The id of a time with a number in the place of chance, and in that of microseconds what is too large for it.
    pub(super) fn numbered(now: SystemTime, number: u64) -> Id {
        Id::from_parts(microseconds(now).wrapping_add(number >> (5 * CHANCE)), number)
    }

    /// When it was made, by the clock of then; to the microsecond.
    pub fn time(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_micros(self.microseconds())).unwrap_or(UNIX_EPOCH)
    }

    /// The time it begins with, in microseconds since 1970.
    pub fn microseconds(&self) -> u64 {
        self.0[..TIME].iter().fold(0, |value, digit| value << 5 | value_of(*digit).unwrap_or(0))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The name of the hash folder its file is in: its last character, which is chance.
    pub fn folder(&self) -> &str {
        &self.as_str()[LENGTH - 1..]
    }

    fn from_parts(time: u64, chance: u64) -> Id {
        let mut text = [0; LENGTH];
        for (position, digit) in text[..TIME].iter_mut().rev().enumerate() {
            *digit = ALPHABET[(time >> (5 * position) & 31) as usize];
        }
        for (position, digit) in text[TIME..].iter_mut().rev().enumerate() {
            *digit = ALPHABET[(chance >> (5 * position) & 31) as usize];
        }
        Id(text)
    }
}

fn value_of(digit: u8) -> Option<u64> {
    ALPHABET.iter().position(|known| *known == digit).map(|value| value as u64)
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no queue id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAnId;

impl fmt::Display for NotAnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a queue id")
    }
}

impl std::error::Error for NotAnId {}

/// Strict: exactly the length, exactly the alphabet.
impl FromStr for Id {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Id, NotAnId> {
        let octets: [u8; LENGTH] = text.as_bytes().try_into().map_err(|_| NotAnId)?;
        if octets.iter().all(|octet| ALPHABET.contains(octet)) { Ok(Id(octets)) } else { Err(NotAnId) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn an_id_is_its_own_text_and_nothing_else_is_one() {
        let id = Id::new(SystemTime::now());
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.as_str().len(), LENGTH);
        for wrong in [
            "",
            ".",
            "..",
            "0000000000/0000",
            "00000000000000",
            "0000000000000000",
            "00000000000000A",
            "0000000000000ü",
        ] {
            assert_eq!(wrong.parse::<Id>(), Err(NotAnId), "{wrong}");
        }
    }

    #[test]
    fn ids_sort_by_time() {
        let now = UNIX_EPOCH + Duration::from_micros(1_800_000_000_000_031);
        assert!(Id::new(now) < Id::new(now + Duration::from_micros(1)));
    }

    #[test]
    fn a_clock_before_1970_still_gives_an_id() {
        assert!(Id::new(UNIX_EPOCH - Duration::from_secs(1)).as_str().starts_with("00000000000"));
    }

    #[test]
    fn derived_ids_are_the_same_every_time_and_sort_behind_their_origin() {
        let parent = Id::new(SystemTime::now());
        let derived: HashSet<Id> = (0..1000).map(|number| parent.derived(&format!("return/{number}"), 0)).collect();
        assert!(derived.len() > 950, "{}", derived.len());
        assert!(derived.iter().all(|id| *id > parent));
        assert_eq!(parent.derived("a", 7), parent.derived("a", 7));
        assert_ne!(parent.derived("a", 7), parent.derived("a", 8));
        assert_eq!(parent.derived("a", 7).to_string().parse(), Ok(parent.derived("a", 7)));
        assert!(parent.time() <= SystemTime::now());
    }
}
