//! The octets of a queue file, to values and back; no I/O. doc/internals.md draws them.
//!
//! Everything of variable length is counted in front, so no octet of an address can be taken for a record. Numbers
//! are big-endian.

use super::file::{RecipientState, TRACE_ROOM};
use super::id::{self, Id};
use crate::logging;
use crc32fast::Hasher;

/// Octets of the header.
pub const HEADER: usize = 64;

/// Where the content begins: the trace field ends there.
pub const CONTENT: u64 = (HEADER + TRACE_ROOM) as u64;

/// First octets of every queue file that is complete.
pub const MAGIC: &[u8; 8] = b"doorpost";

/// The version of this layout that is written. Read are also 3, of which no file was prepared, 2, in which records of
/// recipients have no parameters, and 1, which has no attributes either.
pub const VERSION: u8 = 4;

/// The octet that says that the message was written over what a file was prepared with ([`blank`]).
const PREPARED: u8 = 1;

/// What a disk writes as a whole, or not at all.
const SECTOR: u64 = 512;

/// So many octets that are as they were prepared are no chance.
const PROOF: usize = 16;

/// The attribute that has the parameters of the reverse-path.
pub const PARAMETERS: &str = "parameters";

/// Most octets of all attributes together, lengths included.
pub const ATTRIBUTES: usize = 4096;

/// Where the state octet of the header is.
pub const STATE: usize = 9;

/// The state octet of a message that may be delivered; anything else is nought.
pub const COMPLETE: u8 = b'c';

/// Longest report in a status slot.
pub const LONGEST_REPORT: usize = 120;

/// Longest report that is kept in memory: what a next hop says is told to the sender whole, as a rule in the same attempt.
pub const LONGEST_TOLD: usize = 600;

/// Octets of the status slot behind each address: state, attempts, time, report length, report.
pub const SLOT: usize = 1 + 4 + 8 + 1 + LONGEST_REPORT;

/// The bit of the attempts that says that the sender has been warned.
const WARNED: u32 = 1 << 31;

/// First octets of the end record; the checksum follows.
pub const END: &[u8; 4] = b"end.";

/// Octets of the end record.
pub const END_RECORD: usize = 8;

/// How the lines of the content end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lines {
    /// Every line ends in LF, the last one too, and no CR is in it: the mapping to CR LF and back is one to one.
    Lf,
    /// Anything else, kept octet by octet; to be converted or returned when SMTP must carry it.
    Exact,
}

/// The fixed part in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The version of the layout, 1 to [`VERSION`].
    pub version: u8,
    /// How lines end.
    pub lines: Lines,
    /// It was written over what the file was prepared with, which may go on behind its end.
    pub is_prepared: bool,
    /// Number of recipients.
    pub recipients: u32,
    /// Microseconds since 1970.
    pub created: u64,
    /// Where the trace field begins.
    pub trace_at: u64,
    /// Where the recipients begin, and the content ends.
    pub recipients_at: u64,
    /// Where the envelope begins, and the recipients end.
    pub envelope_at: u64,
    /// Octets of the message, header and end record included; of the whole file, unless that was prepared.
    pub length: u64,
}

/// What a header says of the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The writer has not come to its end.
    Incomplete,
    /// It is nothing this program writes, and why.
    Garbage(&'static str),
    /// A whole message, if the checksum agrees.
    Complete(Header),
}

impl Header {
    /// Writes it, marked complete.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut octets = [0; HEADER];
        octets[..8].copy_from_slice(MAGIC);
        octets[8] = self.version;
        octets[STATE] = COMPLETE;
        octets[10] = match self.lines {
            Lines::Lf => b'l',
            Lines::Exact => b'x',
        };
        octets[11] = if self.is_prepared { PREPARED } else { 0 };
        octets[12..16].copy_from_slice(&self.recipients.to_be_bytes());
        let numbers = [self.created, self.trace_at, self.recipients_at, self.envelope_at, self.length];
        for (place, number) in octets[16..56].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        octets
    }

    /// Reads it and makes sure that its offsets are in order and within a file of `file_length` octets.
    pub fn decode(octets: &[u8; HEADER], file_length: u64) -> Kind {
        if octets.iter().all(|octet| *octet == 0) {
            return Kind::Incomplete;
        }
        if &octets[..8] != MAGIC {
            return Kind::Garbage("it does not begin like a queue file");
        }
        let version = octets[8];
        if !(1..=VERSION).contains(&version) {
            return Kind::Garbage("it is of another version");
        }
        match octets[STATE] {
            COMPLETE => {}
            0 => return Kind::Incomplete,
            _ => return Kind::Garbage("its state is unknown"),
        }
        let lines = match octets[10] {
            b'l' => Lines::Lf,
            b'x' => Lines::Exact,
            _ => return Kind::Garbage("its kind of line ends is unknown"),
        };
        let is_prepared = version >= 4 && octets[11] == PREPARED;
        let header = Header {
            version,
            lines,
            is_prepared,
            recipients: u32::from_be_bytes([octets[12], octets[13], octets[14], octets[15]]),
            created: number(&octets[16..24]),
            trace_at: number(&octets[24..32]),
            recipients_at: number(&octets[32..40]),
            envelope_at: number(&octets[40..48]),
            length: number(&octets[48..56]),
        };
        let ordered = HEADER as u64 <= header.trace_at
            && header.trace_at <= CONTENT
            && CONTENT <= header.recipients_at
            && header.recipients_at <= header.envelope_at
            && header.envelope_at.checked_add(END_RECORD as u64).is_some_and(|end| end <= header.length);
        let fits = if is_prepared { header.length <= file_length } else { header.length == file_length };
        if !ordered || !fits {
            return Kind::Garbage("its offsets do not fit its length");
        }
        Kind::Complete(header)
    }
}

impl Header {
    /// Whether attributes stand behind the channel.
    pub fn has_attributes(&self) -> bool {
        self.version >= 2
    }

    /// Whether parameters stand behind each recipient's address.
    pub fn has_parameters(&self) -> bool {
        self.version >= 3
    }
}

/// The checksum of what it covers of an encoded header: all but the state.
pub fn begin_checksum(header: &[u8; HEADER]) -> Hasher {
    let mut checksum = Hasher::new();
    [&header[..STATE], &header[STATE + 1..]].iter().for_each(|part| checksum.update(part));
    checksum
}

/// Fills a part of a file, which begins at `at`, with what a file is prepared with behind its header: the name of the file,
/// line after line, so that no message is like it.
pub fn blank(id: &Id, at: u64, octets: &mut [u8]) {
    for (position, octet) in (at..).zip(octets) {
        let place = usize::try_from(position % (id::LENGTH as u64 + 1)).unwrap_or_default();
        *octet = id.as_str().as_bytes().get(place).copied().unwrap_or(b'\n');
    }
}

/// Whether a part of a prepared file has a sector that no message was written over: the writer had not come to its end
/// when the power failed. What the part has of its first and last one counts where chance cannot make it so.
pub fn has_blank_sector(id: &Id, mut at: u64, mut octets: &[u8]) -> bool {
    while !octets.is_empty() {
        let length = usize::try_from(SECTOR - at % SECTOR).unwrap_or_default().min(octets.len());
        let (sector, rest) = octets.split_at(length);
        let mut untouched = [0; SECTOR as usize];
        blank(id, at, &mut untouched[..length]);
        if length >= PROOF && sector == &untouched[..length] {
            return true;
        }
        (at, octets) = (at + length as u64, rest);
    }
    false
}

/// A text that is counted in front, and what follows it.
pub fn take_counted(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = octets.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// How far a recipient is, as it lies in its slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// How far it is.
    pub state: RecipientState,
    /// How often it has been tried; 31 bits.
    pub attempts: u32,
    /// The sender has been told that it takes long; the highest bit of the attempts.
    pub is_warned: bool,
    /// When that was written, in microseconds since 1970.
    pub time: u64,
    /// What the last try came to; printable ASCII, at most [`LONGEST_REPORT`] octets.
    pub report: String,
}

impl Slot {
    /// That of a recipient nobody has tried.
    pub const FRESH: [u8; SLOT] = {
        let mut octets = [0; SLOT];
        octets[0] = state_octet(RecipientState::Waiting);
        octets
    };

    /// Writes it. A longer report is cut.
    pub fn encode(&self) -> [u8; SLOT] {
        let mut octets = [0; SLOT];
        octets[0] = state_octet(self.state);
        let attempts = self.attempts & !WARNED | if self.is_warned { WARNED } else { 0 };
        octets[1..5].copy_from_slice(&attempts.to_be_bytes());
        octets[5..13].copy_from_slice(&self.time.to_be_bytes());
        let report = &self.report.as_bytes()[..self.report.len().min(LONGEST_REPORT)];
        octets[13] = report.len() as u8;
        octets[14..14 + report.len()].copy_from_slice(report);
        octets
    }

    /// Reads it. A slot is not covered by the checksum and may be torn by a crash, so only its first octet decides;
    /// nothing: that is no state.
    pub fn decode(octets: &[u8; SLOT]) -> Option<Slot> {
        let mut report = logging::clean(&octets[14..][..usize::from(octets[13]).min(LONGEST_REPORT)], SLOT * 4);
        report.truncate(LONGEST_REPORT);
        let attempts = u32::from_be_bytes([octets[1], octets[2], octets[3], octets[4]]);
        Some(Slot {
            state: state_of(octets[0])?,
            attempts: attempts & !WARNED,
            is_warned: attempts & WARNED != 0,
            time: number(&octets[5..13]),
            report,
        })
    }
}

/// Digits of even parity, so that no single bit makes one state of another.
const fn state_octet(state: RecipientState) -> u8 {
    match state {
        RecipientState::Waiting => b'0',
        RecipientState::Trying => b'3',
        RecipientState::Delivered => b'5',
        RecipientState::Failed => b'6',
        RecipientState::Returned => b'9',
    }
}

fn state_of(octet: u8) -> Option<RecipientState> {
    use RecipientState::{Delivered, Failed, Returned, Trying, Waiting};
    [Waiting, Trying, Delivered, Failed, Returned].into_iter().find(|state| state_octet(*state) == octet)
}

fn number(octets: &[u8]) -> u64 {
    octets.iter().fold(0, |value, octet| value << 8 | u64::from(*octet))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            version: VERSION,
            lines: Lines::Lf,
            is_prepared: false,
            recipients: 3,
            created: 1_800_000_000_000_000,
            trace_at: 100,
            recipients_at: 5000,
            envelope_at: 6000,
            length: 7000,
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        for version in 1..=VERSION {
            let header = Header { version, ..header() };
            assert_eq!(Header::decode(&header.encode(), 7000), Kind::Complete(header));
        }
    }

    #[test]
    fn behind_the_end_of_a_message_nothing_stands_but_in_a_prepared_file() {
        assert!(matches!(Header::decode(&header().encode(), 7001), Kind::Garbage(_)));
        let prepared = Header { is_prepared: true, ..header() };
        assert_eq!(Header::decode(&prepared.encode(), 7001), Kind::Complete(prepared));
        assert!(matches!(Header::decode(&prepared.encode(), 6999), Kind::Garbage(_)));
        let older = Header { version: 3, ..prepared };
        assert!(matches!(Header::decode(&older.encode(), 7001), Kind::Garbage(_)));
    }

    #[test]
    fn a_sector_that_was_not_written_is_known_wherever_a_message_begins_and_ends() {
        let id: Id = "000000000000001".parse().unwrap();
        let mut file = [b'x'; 4096];
        for sector in 0..8_usize {
            let at = sector * 512;
            blank(&id, at as u64, &mut file[at..at + 512]);
            for (begin, end) in [(0, 4096), (100, 4000), (511, 3585), (at + 500, 4096), (0, at + 20)] {
                let message = &file[begin..end];
                let shared = end.min(at + 512).saturating_sub(begin.max(at));
                assert_eq!(has_blank_sector(&id, begin as u64, message), shared >= PROOF, "{begin} {at}");
            }
            file[at + 20] = b'x';
            assert!(!has_blank_sector(&id, 0, &file));
            file[at..at + 512].fill(b'x');
        }
    }

    #[test]
    fn a_header_of_noughts_or_without_its_state_is_incomplete() {
        assert_eq!(Header::decode(&[0; HEADER], 7000), Kind::Incomplete);
        let mut blanked = header().encode();
        blanked[STATE] = 0;
        assert_eq!(Header::decode(&blanked, 7000), Kind::Incomplete);
    }

    #[test]
    fn offsets_out_of_order_are_garbage() {
        let wrong = [
            Header { trace_at: 63, ..header() },
            Header { trace_at: CONTENT + 1, ..header() },
            Header { recipients_at: CONTENT - 1, ..header() },
            Header { envelope_at: 4999, ..header() },
            Header { envelope_at: 6993, ..header() },
            Header { envelope_at: u64::MAX, ..header() },
            Header { length: 7001, ..header() },
        ];
        for header in wrong {
            assert!(matches!(Header::decode(&header.encode(), 7000), Kind::Garbage(_)), "{header:?}");
        }
    }

    #[test]
    fn no_single_bit_makes_one_state_of_another() {
        for state in *b"03569" {
            assert!((0..8).all(|bit| state_of(state ^ 1 << bit).is_none()));
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_decoded_without_panic(octets in proptest::collection::vec(any::<u8>(), SLOT), length: u64) {
            let mut header = [0; HEADER];
            header.copy_from_slice(&octets[..HEADER]);
            Header::decode(&header, length);
            header[..8].copy_from_slice(MAGIC);
            header[8..11].copy_from_slice(&[VERSION, COMPLETE, b'l']);
            Header::decode(&header, length);
            let mut slot = [0; SLOT];
            slot.copy_from_slice(&octets);
            Slot::decode(&slot);
            slot[0] = b'3';
            prop_assert!(Slot::decode(&slot).is_some_and(|slot| slot.report.len() <= LONGEST_REPORT));
        }

        #[test]
        fn a_slot_is_read_as_it_was_written(attempts: u32, time: u64, report in "[ -~]{0,120}") {
            let (attempts, is_warned) = (attempts >> 1, attempts & 1 != 0);
            let slot = Slot { state: RecipientState::Failed, attempts, is_warned, time, report };
            prop_assert_eq!(Slot::decode(&slot.encode()), Some(slot));
        }
    }
}
