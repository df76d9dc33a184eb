//! What a server of many connections offers: certificates and keys that the process which listens follows, for the children
//! that it forks.
//!
//! It has the rights to read them, if it was started with these and keeps them; its children mostly have not. It looks at
//! the names, and where other files are there, or others' octets in them, it has the new pairs tried once: a key must be that
//! of its certificate. Pairs that are of no use, as while they are being replaced, are told of once, and the ones before are
//! kept. These lie in memory, so that writing over their files takes nothing from them, and read-only, as they are open in
//! all children, which speak with clients.

use super::{Files, Offer, Pem, identity};
use crate::again::again;
use crate::config::Config;
use crate::exit::Error;
use crate::kept::Stamp;
use crate::sys;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::wait::{WaitStatus, waitpid};
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What could not be taken is tried again after so long: that it was of no use may have been want of descriptors.
const AGAIN: Duration = Duration::from_secs(60);

/// Of what is wrong with a pair so much is told, in octets.
const MOST_WORDS: u64 = 4096;

/// An offer, and what its files looked like when they were last tried.
#[derive(Debug, Default)]
pub struct Followed {
    offer: Offer,
    /// Of certificates and keys by turns; none of what cannot be looked at. Empty until somebody follows them.
    seen: Vec<Option<Stamp>>,
    /// When they are tried though they look as they did: the last try failed.
    again: Option<Instant>,
}

impl Followed {
    /// As [`Offer::open`]. Nothing is followed yet.
    pub fn open(config: &Config, at_once: bool) -> Result<Followed, Error> {
        Ok(Followed { offer: Offer::open(config, at_once)?, ..Followed::default() })
    }

    /// Whether there are files to follow.
    pub fn is_any(&self) -> bool {
        !matches!(self.offer, Offer::None)
    }

    /// What the next client of this process gets. One that serves no other keeps nothing of the key.
    pub fn offer(&mut self, is_last: bool) -> Offer {
        match &self.offer {
            // Nothing is written where nothing is there: the page is the parent's too.
            Offer::None => Offer::None,
            _ if is_last => std::mem::take(&mut self.offer),
            offer => offer.clone(),
        }
    }

    /// Looks at the files, the first time to follow them from then on. Whether there are others, which are offered now.
    pub fn follow(&mut self, config: &Config, at_once: bool) -> bool {
        let (Offer::OnRequest(files) | Offer::AtOnce(files)) = &mut self.offer else { return false };
        if self.seen.is_empty() {
            if let Some(files) = Arc::get_mut(files) {
                self.seen = files.opened();
                files.hold();
            }
            return false;
        }
        if files.look().eq(self.seen.iter().copied()) && self.again.is_none_or(|at| Instant::now() < at) {
            return false;
        }
        let is_new = self.open_again(config, at_once).unwrap_or(false);
        if is_new {
            log::info!("event=new-certificate");
        }
        is_new
    }

    /// The same for a configuration that was read again. Where the files of the same names may not be opened any more, or are
    /// of no use, those of before are kept, and the log is told if others are in their place.
    pub fn open_again(&mut self, config: &Config, at_once: bool) -> Result<bool, Error> {
        let before = match &self.offer {
            Offer::None => None,
            Offer::OnRequest(files) | Offer::AtOnce(files) => Some(files),
        };
        let seen: Vec<_> = before.iter().flat_map(|before| before.look()).collect();
        let now = Offer::check(config, at_once).and_then(|()| Files::open(config));
        let now = now.and_then(|files| files.map(|files| files.tried(before.map(Arc::as_ref))).transpose());
        match now {
            Ok(now) => {
                let (files, opened) = now.unzip();
                *self = Followed { offer: Offer::of(files, at_once), seen: opened.unwrap_or_default(), again: None };
                Ok(true)
            }
            Err(error) if before.is_some_and(|before| before.are_those_of(config)) => {
                if seen != self.seen {
                    log::error!("event=old-certificate reason={:?}", error.to_string());
                }
                (self.seen, self.again) = (seen, Some(Instant::now() + AGAIN));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

impl Files {
    /// What their names lead to now.
    fn look(&self) -> impl Iterator<Item = Option<Stamp>> {
        self.pairs.iter().flatten().map(|pem| Stamp::of(&pem.path))
    }

    /// The same of the open ones, as far as it can be seen by their names: there may be no rights to that.
    fn opened(&self) -> Vec<Option<Stamp>> {
        let opened = |pem: &Pem| Stamp::of(&pem.path).and(pem.file.metadata().ok()).map(|file| Stamp::from(&file));
        self.pairs.iter().flatten().map(opened).collect()
    }

    /// Takes them into memory.
    fn hold(&mut self) {
        for pem in self.pairs.iter_mut().flatten() {
            // Where that cannot be they are as good as long as nobody writes over them.
            if let Ok(copy) = pem.copy() {
                pem.file = copy;
            }
        }
    }

    /// In memory, if they are of use, and what they looked like.
    fn tried(mut self, before: Option<&Files>) -> Result<(Files, Vec<Option<Stamp>>), Error> {
        let opened = self.opened();
        self.hold();
        self.are_of_use()?;
        if let Some(before) = before {
            self.keep_tickets_of(before);
        }
        Ok((self, opened))
    }

    /// Found out by a process that ends with it: whoever reads a key leaves parts of it in the memory that was given back, and
    /// what this process forks, with a copy of all of that, becomes users.
    fn are_of_use(&self) -> Result<(), Error> {
        let failed = |error: io::Error| Error::Temporary(format!("trying certificates and keys: {error}"));
        let (answer, mut to_us) = io::pipe().map_err(failed)?;
        let child = sys::fork(|| match identity(&self.pairs, None) {
            Ok(_) => 0,
            Err(error) => to_us.write_all(error.to_string().as_bytes()).map_or(2, |()| 1),
        });
        let child = child.map_err(|errno| failed(errno.into()))?;
        drop(to_us);
        let mut why = String::new();
        let heard = answer.take(MOST_WORDS).read_to_string(&mut why);
        match (again(|| waitpid(child, None)), heard) {
            (Ok(WaitStatus::Exited(_, 0)), _) => Ok(()),
            (Ok(WaitStatus::Exited(_, 1)), Ok(_)) => Err(Error::Temporary(why)),
            (ended, _) => Err(Error::Temporary(format!("trying certificates and keys: {ended:?}"))),
        }
    }

    fn are_those_of(&self, config: &Config) -> bool {
        let own = self.pairs.iter().map(|[certificate, key]| (&certificate.path, &key.path));
        own.eq(config.tls_cert_file.0.iter().zip(&config.tls_key_file.0))
            && config.tls_cert_file.0.len() == config.tls_key_file.0.len()
            && config.tls_ticket_key_file.0 == self.tickets.as_ref().map(|keys| keys.path.clone())
    }

    /// Keys that may not be read any more are those of before, for as long as those are good.
    fn keep_tickets_of(&mut self, before: &Files) {
        if let (Some(now), Some(before)) = (&mut self.tickets, &before.tickets)
            && now.read.is_none()
            && now.path == before.path
        {
            now.read.clone_from(&before.read);
        }
    }
}

impl Pem {
    fn copy(&self) -> io::Result<File> {
        let octets = self.octets().map_err(|error| io::Error::other(error.to_string()))?;
        let mut copy = File::from(memfd_create(self.parameter, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
        copy.write_all(&octets.0)?;
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
        Ok(copy)
    }
}
