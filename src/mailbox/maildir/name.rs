//! Names of Maildir files: `TIME.UNIQUE.HOST,S=octets,W=octets:2,FLAGS`. No I/O.
//!
//! What stands before the `:` never changes, whatever other programs do; what stands before the first `,` or `:`
//! is what a delivery chose and looks for when it repeats.

use std::fmt::Write as _;

/// Longest unique-id of RFC 1939 section 7.
const LONGEST_UNIQUE_ID: usize = 70;

/// What no program changes: all before the `:` of the flags.
pub fn lasting(name: &[u8]) -> &[u8] {
    name.split(|octet| *octet == b':').next().unwrap_or(name)
}

/// What the delivery chose: all before the sizes and the flags.
pub fn base(name: &[u8]) -> &[u8] {
    name.split(|octet| matches!(octet, b',' | b':')).next().unwrap_or(name)
}

/// Whether a base that a delivery chose is safe as the beginning of a file name.
pub fn is_base(base: &str) -> bool {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b'_');
    !base.is_empty() && base.len() <= 100 && !base.starts_with('.') && base.bytes().all(plain)
}

/// Octets on disk and octets in POP3 that a name claims, if it claims both and they can be true: no line end is
/// shorter in POP3 than on disk, and none is more than twice as long.
pub fn sizes(name: &[u8]) -> Option<(u64, u64)> {
    let (mut octets, mut virtual_octets) = (None, None);
    for field in lasting(name).split(|octet| *octet == b',').skip(1) {
        match field {
            [b'S', b'=', digits @ ..] => octets = number(digits),
            [b'W', b'=', digits @ ..] => virtual_octets = number(digits),
            _ => {}
        }
    }
    let (octets, virtual_octets) = (octets?, virtual_octets?);
    (octets <= virtual_octets && virtual_octets / 2 <= octets).then_some((octets, virtual_octets))
}

/// The name under which a message is put into new/. Without `virtual_octets` a reader counts by itself.
pub fn with_sizes(base: &str, octets: u64, virtual_octets: Option<u64>) -> String {
    let mut name = format!("{base},S={octets}");
    if let Some(virtual_octets) = virtual_octets {
        let _ = write!(name, ",W={virtual_octets}");
    }
    name
}

/// By time of delivery, then by the rest: the order of messages in a session.
pub fn order(name: &[u8]) -> (u64, &[u8]) {
    let end = name.iter().position(|octet| !octet.is_ascii_digit()).unwrap_or(name.len());
    let (digits, rest) = name.split_at(end);
    (number(digits).unwrap_or(0), rest)
}

/// The unique-id: what lasts of the name, where that is one (RFC 1939 section 7).
pub fn unique_id(name: &[u8]) -> Option<&str> {
    let lasting = lasting(name);
    let fits = (1..=LONGEST_UNIQUE_ID).contains(&lasting.len()) && lasting.iter().all(|octet| octet.is_ascii_graphic());
    if fits { std::str::from_utf8(lasting).ok() } else { None }
}

/// The unique-id where the name is none, or is not the only one: `:` and the FNV-1a hash of 128 bits of what lasts of
/// the name, in hexadecimal, then `-2` and so on for further files of one name.
///
/// No name is equal to it, for names end at the `:`. It may never change: clients would fetch everything again.
pub fn hashed_unique_id(name: &[u8], ordinal: usize) -> String {
    const OFFSET_BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = lasting(name).iter().fold(OFFSET_BASIS, |hash, &octet| (hash ^ u128::from(octet)).wrapping_mul(PRIME));
    if ordinal == 1 { format!(":{hash:032x}") } else { format!(":{hash:032x}-{ordinal}") }
}

/// Counts the octets of a message as they lie on disk and as POP3 sends them.
///
/// POP3 ends each line with CRLF: a bare LF becomes two octets, a CRLF stays two, and a last line without an end
/// gets one. Dovecot counts `W=` the same way except for that last line.
#[derive(Debug, Default)]
pub struct Count {
    /// Octets on disk.
    pub octets: u64,
    bare: u64,
    last: Option<u8>,
}

impl Count {
    /// Counts the next piece, of any size.
    pub fn add(&mut self, piece: &[u8]) {
        let Some(&last) = piece.last() else { return };
        let is_bare = |at: usize| at.checked_sub(1).map_or(self.last, |at| piece.get(at).copied()) != Some(b'\r');
        let bare = memchr::memchr_iter(b'\n', piece).filter(|at| is_bare(*at)).count();
        self.octets += piece.len() as u64;
        self.bare += bare as u64;
        self.last = Some(last);
    }

    /// Octets in POP3, before dot-stuffing.
    pub fn virtual_octets(&self) -> u64 {
        self.octets + self.bare + if self.ends_in_a_line_end() { 0 } else { 2 }
    }

    /// Whether the last line is whole; where it is not, programs differ about the count.
    pub fn ends_in_a_line_end(&self) -> bool {
        matches!(self.last, None | Some(b'\n'))
    }
}

/// Digits only, and no more than any file can have.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_divides_at_comma_and_colon() {
        let name = b"1700000000.Q1R0.mx,S=10,W=12:2,S";
        assert_eq!(lasting(name), b"1700000000.Q1R0.mx,S=10,W=12");
        assert_eq!(base(name), b"1700000000.Q1R0.mx");
        assert_eq!(sizes(name), Some((10, 12)));
        assert_eq!(order(name).0, 1_700_000_000);
    }

    #[test]
    fn sizes_that_cannot_be_true_are_not_believed() {
        for name in ["1.a", "1.a,S=5", "1.a,W=5", "1.a,S=5,W=4", "1.a,S=5,W=12", "1.a,S=+5,W=5", "1.a,S=,W=5"] {
            assert_eq!(sizes(name.as_bytes()), None, "{name}");
        }
        assert_eq!(sizes(b"1.a,S=99999999999999999999,W=99999999999999999999"), None);
        // Flags are no sizes.
        assert_eq!(sizes(b"1.a:2,S=5,W=5"), None);
    }

    #[test]
    fn a_unique_id_is_the_name_where_that_is_one() {
        assert_eq!(unique_id(b"1.a,S=1,W=2:2,FS"), Some("1.a,S=1,W=2"));
        assert_eq!(unique_id(&[b'a'; 70]).map(str::len), Some(70));
        assert_eq!(unique_id(&[b'a'; 71]), None);
        assert_eq!(unique_id(b":2,S"), None);
        assert_eq!(unique_id(b"a b"), None);
        assert_eq!(unique_id(b"a\xe9"), None);
    }

    /// The published value for "foobar" (FNV-1a, 128 bits): a change here would make every client fetch all again.
    #[test]
    fn the_hash_never_changes() {
        assert_eq!(hashed_unique_id(b"foobar:2,S", 1), ":343e1662793c64bf6f0d3597ba446f18");
        assert_eq!(hashed_unique_id(b"foobar", 2), ":343e1662793c64bf6f0d3597ba446f18-2");
    }

    #[test]
    fn bases_that_could_leave_the_folder_are_none() {
        assert!(is_base("1700000000.Qbc1R0.mx-1"));
        for bad in ["", ".", "..", ".a", "a/b", "a,S=1", "a:2", "a b", "a\0", "\u{e9}"] {
            assert!(!is_base(bad), "{bad:?}");
        }
    }

    #[test]
    fn pop3_counts_every_line_end_as_two() {
        for (text, octets) in [("", 0), ("a\n", 3), ("a\r\n", 3), ("a", 3), ("\n\n", 4), ("a\r", 4), ("\r\n\n", 4)] {
            let mut count = Count::default();
            count.add(text.as_bytes());
            assert_eq!(count.virtual_octets(), octets, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn counting_in_pieces_gives_the_same(text in "[a\r\n]{0,40}", size in 1_usize..9) {
            let (mut whole, mut pieces) = (Count::default(), Count::default());
            whole.add(text.as_bytes());
            text.as_bytes().chunks(size).for_each(|piece| pieces.add(piece));
            prop_assert_eq!(whole.virtual_octets(), pieces.virtual_octets());
            prop_assert_eq!(whole.octets, text.len() as u64);
        }

        #[test]
        fn a_written_name_is_read_back(octets in 0_u64..1 << 40, bare in 0_u64..1000) {
            let virtual_octets = octets + bare.min(octets);
            let name = with_sizes("1.a", octets, Some(virtual_octets));
            prop_assert_eq!(sizes(name.as_bytes()), Some((octets, virtual_octets)));
            prop_assert_eq!(base(name.as_bytes()), b"1.a");
        }

        #[test]
        fn any_name_has_an_order_and_an_id(name in proptest::collection::vec(any::<u8>(), 0..90)) {
            let _ = (order(&name), unique_id(&name), sizes(&name), hashed_unique_id(&name, 3));
        }
    }
}
