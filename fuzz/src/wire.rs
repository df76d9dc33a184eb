//! A connection made of memory, whose octets come in pieces of chosen sizes.

use doorpost::net::connection::{Fault, Stream};
use std::time::Duration;

/// Numbers from a seed (SplitMix64).
#[derive(Debug, Clone, Copy)]
pub struct Chance(u64);

impl Chance {
    /// One that is the same for the same input and differs by `salt`.
    pub fn of(input: &[u8], salt: u64) -> Chance {
        let hash = |hash: u64, octet: &u8| (hash ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01b3);
        Chance(input.iter().fold(0xcbf2_9ce4_8422_2325 ^ salt, hash))
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound.max(1) as u64) as usize
    }

    /// How much of `left` octets comes next: often one to three, sometimes all.
    pub fn piece(&mut self, left: usize) -> usize {
        let most = [3, 3, 20, left][self.below(4)];
        (1 + self.below(most)).min(left)
    }
}

/// The other end has sent `input` and nothing more.
pub struct Wire<'a> {
    input: &'a [u8],
    /// Nothing: as much at once as is asked for.
    pieces: Option<Chance>,
    /// All that was sent to the other end.
    pub output: Vec<u8>,
    finished: bool,
}

impl<'a> Wire<'a> {
    /// One way of sending `input`: 0 whole, others in pieces.
    pub fn new(input: &'a [u8], way: u64) -> Wire<'a> {
        let pieces = (way > 0).then(|| Chance::of(input, way));
        Wire { input, pieces, output: Vec::new(), finished: false }
    }
}

impl Stream for Wire<'_> {
    fn allow(&mut self, _time: Duration) {}

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        assert!(!self.finished, "read behind the end of the session");
        let left = self.input.len().min(buffer.len());
        let count = match &mut self.pieces {
            Some(pieces) if left > 0 => pieces.piece(left),
            _ => left,
        };
        let (now, later) = self.input.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.input = later;
        Ok(count)
    }

    fn send(&mut self, octets: &[u8]) -> Result<(), Fault> {
        assert!(!self.finished, "sent behind the end of the session");
        assert!(!octets.is_empty(), "sent nothing");
        self.output.extend_from_slice(octets);
        Ok(())
    }

    fn finish(&mut self) {
        self.finished = true;
    }
}

/// Lines that end in CR LF, without it.
pub fn lines(octets: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    for line in octets.split_inclusive(|octet| *octet == b'\n') {
        assert!(line.ends_with(b"\r\n"), "a line without its end: {}", line.escape_ascii());
        lines.push(&line[..line.len() - 2]);
    }
    lines
}
