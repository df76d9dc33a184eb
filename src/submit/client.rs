//! The servers' end: the way to `submit`, by its unix socket where there is one, else by a child of our own.

use super::{Introduction, Outcome, Submit, Verdict};
use crate::cli::Common;
use crate::config::Config;
use crate::exit::Error;
use crate::message::path::{Address, ReversePath};

/// The connection to `submit`.
#[derive(Debug)]
pub struct Submitter {
    #[doc(hidden)]
    pub todo: (),
}

impl Submitter {
    /// Connects to `queue_directory/submit` if that is there and answers; else makes a socketpair and forks a child that
    /// holds nothing of the client's, waits for the first octet, then execs submit, or exits at end of input. To be
    /// called as mail_owner, before a byte of the client is read.
    pub fn start(_config: &Config, _common: &Common) -> Result<Submitter, Error> {
        todo!()
    }
}

impl Submit for Submitter {
    fn introduce(&mut self, _introduction: &Introduction) -> Result<(), Error> {
        todo!()
    }
    fn verify(&mut self, _address: &Address) -> Result<Verdict, Error> {
        todo!()
    }
    fn reverse_path(&mut self, _path: &ReversePath) -> Result<(), Error> {
        todo!()
    }
    fn recipient(&mut self, _address: &Address) -> Result<Verdict, Error> {
        todo!()
    }
    fn content(&mut self, _octets: &[u8]) -> Result<(), Error> {
        todo!()
    }
    fn commit(&mut self) -> Result<Outcome, Error> {
        todo!()
    }
    fn reset(&mut self) -> Result<(), Error> {
        todo!()
    }
}
