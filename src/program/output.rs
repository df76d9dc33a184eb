//! What a program says: a pipe that is read while it runs, of which the beginning is kept and the rest thrown away.
//!
//! No file, for that would grow while anything of the program is left, and a full disk would be the program's trouble. And the
//! end is never waited for: what a program leaves in the background may hold it for ever.

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::time::Duration;

/// Octets that are kept.
const KEPT: usize = 2000;

/// Octets that are taken at once: whoever says more than we can read must not keep us from looking at the time.
const PIECE: usize = 4096;

/// Our end. When it is dropped, who still has something to say gets SIGPIPE.
#[derive(Debug)]
pub struct Output {
    /// None: nobody has the other end any more.
    reader: Option<PipeReader>,
    kept: Vec<u8>,
}

impl Output {
    /// With the program's end.
    pub fn new() -> io::Result<(Output, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        // Of our end alone: a program may not know what to do about an output that is full for a moment.
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok((Output { reader: Some(reader), kept: Vec::new() }, writer))
    }

    /// Waits until something is said, for so long at the most, and takes some of it. False if nothing was.
    pub fn hear(&mut self, longest: Duration) -> bool {
        let is_heard = match self.is_there(longest) {
            Ok(false) => return false,
            Ok(true) => self.take().is_ok(),
            Err(_) => false,
        };
        // Nobody has anything to say any more; or a call failed that cannot, which is no reason to hear no more.
        if !is_heard {
            std::thread::sleep(longest);
        }
        is_heard
    }

    /// The beginning of what was said up to now.
    pub fn beginning(mut self) -> Vec<u8> {
        while self.kept.len() < KEPT && self.take().is_ok_and(|count| count > 0) {}
        self.kept
    }

    /// Whether something is there to be taken, or the end of it.
    fn is_there(&self, longest: Duration) -> io::Result<bool> {
        let reader = self.reader.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut ready = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut ready, PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX))? > 0)
    }

    fn take(&mut self) -> io::Result<usize> {
        let Some(reader) = &mut self.reader else { return Ok(0) };
        let mut piece = [0; PIECE];
        let count = reader.read(&mut piece)?;
        let wanted = count.min(KEPT.saturating_sub(self.kept.len()));
        self.kept.extend_from_slice(piece.get(..wanted).unwrap_or_default());
        if count == 0 {
            self.reader = None;
        }
        Ok(count)
    }
}
