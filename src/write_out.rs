//! Large files: the disk begins with them before all is written.

use crate::sys;
use std::fs::File;
use std::os::fd::AsFd;

/// Has the disk begin with what is written of a large file, so that fsync finds little left to do. Nothing is certain
/// before that.
#[derive(Debug, Default)]
pub struct WriteOut {
    begun: u64,
}

impl WriteOut {
    /// Octets at a time: fewer are better written all at once.
    const STEP: u64 = 1 << 20;

    /// Whether the disk has begun with any of it.
    pub fn has_begun(&self) -> bool {
        self.begun > 0
    }

    /// So much of the file is written.
    pub fn note(&mut self, file: &File, written: u64) {
        let length = written.saturating_sub(self.begun);
        if length < Self::STEP {
            return;
        }
        begin(file, self.begun, length);
        self.begun = written;
    }
}

/// Has the disk begin with so many octets of a file.
pub fn begin(file: &File, from: u64, length: u64) {
    // POSIX_FADV_DONTNEED begins it, too, but it lets go of pages that whoever delivers will read, and where that does not
    // succeed, as with all that is only on its way, it waits until every processor has emptied its list of new pages.
    if let (Ok(from), Ok(length)) = (i64::try_from(from), i64::try_from(length)) {
        sys::begin_writing(file.as_fd(), from, length);
    }
}
