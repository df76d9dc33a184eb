//! When a user's last session was, so that the next one does not come too soon (`pop3d_login_delay`, RFC 2449 section
//! 8.1.1).
//!
//! `pop3d_stat_file` is a folder with a file for each user; the time of the file is that of the last session, and an empty
//! one has had none. It is opened while we may still open it, before this process becomes the user; writing an octet
//! sets the time. That is done at login and at every end, so a session that is killed counts from its login; where the
//! maildrop could not be opened the file becomes empty again. Nothing is synced: a power cut may take the time back, and then
//! a client that comes too soon is let in, once.

use crate::config::Config;
use crate::exit::Error;
use crate::flocked::Flocked;
use nix::fcntl::OFlag;
use nix::unistd::{AccessFlags, access};
use std::cell::Cell;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// A user's file.
#[derive(Debug)]
pub struct LastSession {
    file: File,
    delay: Duration,
    /// What time it got when we noted our own session in it.
    begun: Cell<Option<SystemTime>>,
}

impl LastSession {
    /// Whether there can be files of users, where a delay is wanted.
    pub fn check(config: &Config) -> Result<(), Error> {
        if config.pop3d_login_delay.0.is_zero() {
            return Ok(());
        }
        let folder = &config.pop3d_stat_file;
        // The slash: a file is no folder, whatever its mode is.
        let is_there = make(folder).and_then(|()| Ok(access(&folder.join(""), AccessFlags::W_OK | AccessFlags::X_OK)?));
        is_there.map_err(|error| {
            Error::Config(config.wrong("pop3d_stat_file", &format!("a folder for the times of sessions ({error})")))
        })
    }

    /// Opens the file of a user; none where no delay is wanted.
    pub fn open(config: &Config, user: &str) -> Result<Option<LastSession>, Error> {
        let delay = config.pop3d_login_delay.0;
        if delay.is_zero() {
            return Ok(None);
        }
        let folder = &config.pop3d_stat_file;
        let open = || -> io::Result<File> {
            make(folder)?;
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
            options.open(folder.join(user))
        };
        match open() {
            Ok(file) => Ok(Some(LastSession { file, delay, begun: Cell::new(None) })),
            Err(error) => Err(Error::Temporary(format!("pop3d_stat_file {}: {error}", folder.display()))),
        }
    }

    /// The same where another process has opened the file.
    pub fn of(config: &Config, file: File) -> LastSession {
        LastSession { file, delay: config.pop3d_login_delay.0, begun: Cell::new(None) }
    }

    /// The file, for another process.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether a session may begin now; if so, notes that. Of two that come at once one is let in.
    pub fn may_begin(&self) -> io::Result<bool> {
        let locked = Flocked::wait(self.file.try_clone()?)?;
        let status = locked.metadata()?;
        // A time in the future is no time of ours: the clock was set back.
        let since = SystemTime::now().duration_since(status.modified()?).ok();
        if status.len() > 0 && since.is_some_and(|since| since < self.delay) {
            return Ok(false);
        }
        locked.write_all_at(b"\n", 0)?;
        self.begun.set(Some(locked.metadata()?.modified()?));
        Ok(true)
    }

    /// Notes that there was none after all: the maildrop could not be opened. The one before was long enough ago, so that none
    /// at all is as good; its time only the owner of the file could bring back, which we may not be any more. What another
    /// has noted meanwhile stays.
    pub fn did_not_begin(&self) {
        let forget = || -> io::Result<()> {
            let locked = Flocked::wait(self.file.try_clone()?)?;
            if Some(locked.metadata()?.modified()?) == self.begun.get() { locked.set_len(0) } else { Ok(()) }
        };
        if let Err(error) = forget() {
            log::warn!("event=login-delay-stays reason={:?}", error.to_string());
        }
    }

    /// Notes that the session is over.
    pub fn ended(&self) {
        if let Err(error) = self.file.write_all_at(b"\n", 0) {
            log::warn!("event=end-not-noted reason={:?}", error.to_string());
        }
    }
}

fn make(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_waits_for_the_delay_after_the_last_end_and_only_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("login");
        let config = Config::with(&[("pop3d_login_delay", "60"), ("pop3d_stat_file", path.to_str().unwrap())]);
        let open = |user| LastSession::open(&config, user).unwrap().unwrap();
        assert!(open("bob").may_begin().unwrap());
        assert!(!open("bob").may_begin().unwrap());
        assert!(open("carol").may_begin().unwrap());
        let at = |seconds| open("bob").file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        at(61);
        assert!(open("bob").may_begin().unwrap());
        at(61);
        open("bob").ended();
        assert!(!open("bob").may_begin().unwrap());
        open("bob").file.set_modified(SystemTime::now() + Duration::from_secs(999)).unwrap();
        assert!(open("bob").may_begin().unwrap());
        // What did not begin was no session.
        let dave = open("dave");
        assert!(dave.may_begin().unwrap());
        dave.did_not_begin();
        assert!(dave.may_begin().unwrap());
        assert!(!open("dave").may_begin().unwrap());
        // One that took so long to fail that another could begin.
        dave.file.set_modified(SystemTime::now() - Duration::from_secs(61)).unwrap();
        assert!(open("dave").may_begin().unwrap());
        dave.did_not_begin();
        assert!(!open("dave").may_begin().unwrap());
        assert!(LastSession::open(&Config::with(&[]), "bob").unwrap().is_none());
    }
}
