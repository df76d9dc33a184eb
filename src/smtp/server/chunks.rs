//! BDAT (RFC 3030): a message in chunks whose length is told in front.
//!
//! Whatever becomes of a chunk, exactly as many octets are read as it was said to have: what comes next is a command
//! again, and never something out of a message.

use super::message::Fate;
use super::{PIECE, Server};
use crate::lookup::Listed;
use crate::net::connection::Fault;
use crate::smtp::reply::Reply;
use crate::wire::chunk::ChunkLines;

/// A message of which chunks have come.
pub(super) struct Chunks {
    /// What makes lines of it; nothing where it is any octets.
    lines: Option<ChunkLines>,
    size: u64,
}

impl Server<'_> {
    pub(super) fn take_chunk(&mut self, size: u64, last: bool) -> Result<(), Fault> {
        let mut chunks = match self.chunks.take() {
            Some(chunks) => chunks,
            None => {
                self.begin_content();
                let is_lenient = self.bare_newline == Listed::Yes;
                let lines = if self.session.is_binary() { None } else { Some(ChunkLines::new(is_lenient)) };
                Chunks { lines, size: 0 }
            }
        };
        let bare = self.of_bare(Reply::bare_line_end_in_chunk(), Reply::cannot_tell_client());
        let mut piece = Vec::with_capacity(usize::try_from(size).unwrap_or(PIECE).min(2 * PIECE));
        chunks.size = chunks.size.saturating_add(size);
        // Told in front, so it is known before anything else can be found wrong, in whatever pieces that comes.
        let is_too_large = self.session.is_too_large(chunks.size);
        let mut fate = if is_too_large { Fate::Refused(Reply::too_large()) } else { Fate::Submitted };
        let (mut left, mut budget) = (size, 0);
        while left > 0 {
            let octets = self.available(left, &mut budget)?;
            let count = octets.len();
            if fate == Fate::Submitted {
                let taken = match &mut chunks.lines {
                    Some(lines) => lines.push(octets, &mut piece),
                    None => {
                        piece.extend_from_slice(octets);
                        Ok(())
                    }
                };
                fate = if taken.is_ok() { fate } else { Fate::Refused(bare.clone()) };
            }
            self.input.advance(count);
            left = left.saturating_sub(count as u64);
            if piece.len() >= PIECE {
                fate = self.pass_on(&mut piece, fate, false);
            }
        }
        if last
            && fate == Fate::Submitted
            && let Some(lines) = &mut chunks.lines
            && lines.end(&mut piece).is_err()
        {
            fate = Fate::Refused(bare);
        }
        fate = self.pass_on(&mut piece, fate, last);
        match (fate, last) {
            (Fate::Submitted, false) => {
                self.chunks = Some(chunks);
                self.session.chunk_over();
                self.say(Reply::chunk(size));
            }
            (fate, true) => self.conclude(fate, chunks.size, false),
            // There will be no message: the chunks that follow it are read and refused (RFC 3030 section 2).
            (fate, false) => self.conclude(fate, chunks.size, true),
        }
        Ok(())
    }

    /// Reads so many octets, and forgets them.
    pub(super) fn skip(&mut self, size: u64) -> Result<(), Fault> {
        let (mut left, mut budget) = (size, 0);
        while left > 0 {
            let count = self.available(left, &mut budget)?.len();
            self.input.advance(count);
            left = left.saturating_sub(count as u64);
        }
        Ok(())
    }

    /// Waits for octets of a message where there are none; gives those of the `left` ones that are there.
    fn available(&mut self, left: u64, budget: &mut u64) -> Result<&[u8], Fault> {
        if self.input.is_empty() {
            *budget = self.renew(*budget);
            if self.fill()? == 0 {
                return Err(Fault::HungUp);
            }
            *budget = budget.saturating_sub(self.input.octets().len() as u64);
        }
        let octets = self.input.octets();
        Ok(octets.get(..usize::try_from(left).unwrap_or(usize::MAX)).unwrap_or(octets))
    }
}
