//! How large a message is in the queue: counted by the draft that is written, and by whoever has to know whether the queue
//! will take a message before there is a draft of it.

use super::layout::{ATTRIBUTES, SLOT};

/// Most octets of recipients that come before the content: they are kept in memory.
pub const EARLY_ROOM: usize = 1 << 20;

/// There is no room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

/// Octets so far of content and envelope, as they lie on disk.
#[derive(Debug, Default)]
pub struct Size {
    octets: u64,
    /// Those of recipients in memory.
    early: usize,
    attributes: usize,
    content_has_ended: bool,
}

impl Size {
    /// Content and envelope together.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Counts content.
    pub fn content(&mut self, length: usize) {
        self.add(length);
    }

    /// No content comes after this, and recipients are not kept in memory any more.
    pub fn end_content(&mut self) {
        self.content_has_ended = true;
    }

    /// Counts a recipient by the lengths of its address and its parameters, unless memory has no room for it.
    pub fn recipient(&mut self, address: usize, parameters: usize) -> Result<(), NoRoom> {
        let texts = 2 + address + 2 + parameters;
        if !self.content_has_ended {
            self.early = Some(self.early + texts).filter(|early| *early <= EARLY_ROOM).ok_or(NoRoom)?;
        }
        self.add(texts + SLOT);
        Ok(())
    }

    /// Counts an attribute by its length, name and value and what is between them, unless there are too many.
    pub fn attribute(&mut self, length: usize) -> Result<(), NoRoom> {
        let length = 2 + length;
        self.attributes = Some(self.attributes + length).filter(|all| *all <= ATTRIBUTES).ok_or(NoRoom)?;
        self.add(length);
        Ok(())
    }

    /// Counts the envelope besides: reverse-path and channel.
    pub fn envelope(&mut self, length: usize) {
        self.add(length);
    }

    fn add(&mut self, length: usize) {
        self.octets = self.octets.saturating_add(length as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipients_have_their_room_before_the_content_and_none_behind_it() {
        let mut size = Size::default();
        let most = EARLY_ROOM / 1004;
        assert!((0..most).all(|_| size.recipient(900, 100).is_ok()));
        assert_eq!(size.recipient(900, 100), Err(NoRoom));
        assert_eq!(size.octets(), (most * (1004 + SLOT)) as u64);
        size.content(10);
        size.end_content();
        assert!((0..most).all(|_| size.recipient(900, 100).is_ok()));
        assert_eq!(size.octets(), 10 + (2 * most * (1004 + SLOT)) as u64);
        assert_eq!(size.attribute(ATTRIBUTES - 1), Err(NoRoom));
        assert_eq!(size.attribute(ATTRIBUTES - 2), Ok(()));
        assert_eq!(size.attribute(0), Err(NoRoom));
    }
}
