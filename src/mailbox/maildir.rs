//! Maildir: a folder with tmp, new and cur; a file a message.

use super::{Entry, Error, Maildrop};
use std::io::{self, Read};
use std::path::Path;

/// A Maildir opened by a POP3 session; locked by flock on the folder itself, so nothing can be stale.
#[derive(Debug)]
pub struct Maildir {
    #[doc(hidden)]
    pub todo: (),
}

impl Maildir {
    /// Opens it, making it where it is missing, and takes the snapshot without opening any message that carries its
    /// sizes in its name.
    pub fn open(_path: &Path) -> Result<Maildir, Error> {
        todo!()
    }
}

impl Maildrop for Maildir {
    fn entries(&self) -> &[Entry] {
        todo!()
    }
    fn open(&self, _number: usize) -> io::Result<Box<dyn Read>> {
        todo!()
    }
    fn remove(&mut self, _numbers: &[usize]) -> io::Result<usize> {
        todo!()
    }
}

/// Appends a message: tmp, fsync, link into new/, fsync new/. `base` is the unique part of the name, the same at every
/// repeat; sizes are added to it. If a file of that base is in new/ already, or (`search`: the last try may have
/// crashed) in cur/, nothing is done.
///
/// `content` gives exactly what is to be stored, with LF line ends; an error of its own abandons the delivery.
pub fn deliver(_path: &Path, _base: &str, _search: bool, _content: &mut dyn Read) -> io::Result<()> {
    todo!()
}
