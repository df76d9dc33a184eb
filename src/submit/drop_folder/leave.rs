//! Leaving a message in the drop folder, as the user who sends it and with no other rights.

use super::{CHANCE, disk};
use crate::channel::Channels;
use crate::config::Config;
use crate::exit::Error;
use crate::message::parameters::{MailParameters, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::message::trace::HopCounter;
use crate::submit::frames::{self, Request};
use crate::submit::{Introduction, Outcome, Policy, Refusal, Submit, Verdict, verify};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A message being left.
#[derive(Debug)]
pub struct Dropper<'a> {
    config: &'a Config,
    message: Option<Message>,
}

#[derive(Debug)]
struct Message {
    path: PathBuf,
    name: String,
    file: File,
    out: Vec<u8>,
    size: u64,
    hops: HopCounter,
    recipients: u32,
    trouble: Option<String>,
    committed: bool,
}

impl<'a> Dropper<'a> {
    /// A way into the drop folder; an error if there is none.
    pub fn new(config: &'a Config) -> Result<Dropper<'a>, Error> {
        let folder = &config.drop_directory;
        match std::fs::symlink_metadata(folder) {
            Ok(metadata) if metadata.is_dir() => Ok(Dropper { config, message: None }),
            _ => Err(Error::Permission(format!(
                "queue_directory {}: only its owner may write there, and there is no drop_directory {}",
                config.queue_directory.display(),
                folder.display()
            ))),
        }
    }

    fn message(&mut self) -> Result<&mut Message, Error> {
        if self.message.is_none() {
            self.message = Some(Message::create(&self.config.drop_directory)?);
        }
        self.message.as_mut().ok_or_else(|| Error::Temporary("no message in the drop folder".to_owned()))
    }

    fn put(&mut self, request: &Request<'_>, size: usize) -> Result<(), Error> {
        let message = self.message()?;
        request.put(&mut message.out);
        message.size = message.size.saturating_add(size as u64);
        message.flush(64 * 1024);
        Ok(())
    }
}

impl Message {
    fn create(folder: &Path) -> Result<Message, Error> {
        let trouble = |error: io::Error| match error.kind() {
            ErrorKind::PermissionDenied => Error::Permission(format!("drop_directory {}: {error}", folder.display())),
            _ => Error::Temporary(format!("drop_directory {}: {error}", folder.display())),
        };
        let mut octets = [0; CHANCE];
        getrandom::fill(&mut octets).map_err(|error| Error::Temporary(format!("no name for a message: {error}")))?;
        let name: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
        let path = folder.join(&name);
        let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(&path);
        let file = file.map_err(trouble)?;
        let message = Message {
            path,
            name,
            file,
            out: Vec::new(),
            size: 0,
            hops: HopCounter::default(),
            recipients: 0,
            trouble: None,
            committed: false,
        };
        message.file.lock().map_err(trouble)?;
        // The owner of the queue is another user, and its name is all that is secret.
        message.file.set_permissions(Permissions::from_mode(0o644)).map_err(trouble)?;
        Ok(message)
    }

    /// Writes if more than `room` waits; trouble is kept for the end.
    fn flush(&mut self, room: usize) {
        if self.out.len() > room && self.trouble.is_none() {
            self.trouble = self.file.write_all(&self.out).err().map(|error| error.to_string());
            self.out.clear();
        }
    }

    fn make_durable(&mut self) -> Result<(), String> {
        self.flush(0);
        if let Some(trouble) = self.trouble.take() {
            return Err(trouble);
        }
        disk::sync_with_name(&self.file).map_err(|error| error.to_string())?;
        match self.file.metadata() {
            Ok(metadata) if metadata.nlink() == 1 => Ok(()),
            Ok(_) => Err("somebody removed it".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        if !self.committed {
            let _ = self.file.set_len(0);
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Submit for Dropper<'_> {
    fn introduce(&mut self, _: &Introduction) -> Result<(), Error> {
        Ok(())
    }

    fn verify(&mut self, address: &Address) -> Result<Verdict, Error> {
        let nowhere = Channels(Vec::new());
        Ok(verify::judge(self.config, &nowhere, "local", Policy::Anywhere, address))
    }

    fn reverse_path_with(&mut self, path: &ReversePath, parameters: &MailParameters) -> Result<(), Error> {
        self.put(&Request::ReversePath(path.clone(), parameters.clone()), path.as_bytes().len())
    }

    fn recipient_with(&mut self, address: &Address, parameters: &RecipientParameters) -> Result<Verdict, Error> {
        let verdict = self.verify(address)?;
        if verdict == Verdict::Accepted {
            self.put(&Request::Recipient(address.clone(), parameters.clone()), address.as_bytes().len() + 140)?;
            let message = self.message()?;
            message.recipients = message.recipients.saturating_add(1);
        }
        Ok(verdict)
    }

    fn content(&mut self, octets: &[u8]) -> Result<(), Error> {
        self.message()?.hops.push(octets);
        for piece in octets.chunks(frames::LONGEST_CONTENT) {
            self.put(&Request::Content(piece), piece.len())?;
        }
        Ok(())
    }

    /// The queue would refuse the same; here somebody is still there to be told.
    fn commit(&mut self) -> Result<Outcome, Error> {
        let (limit, hops) = (self.config.message_size_limit, self.config.hopcount_limit);
        let Some(mut message) = self.message.take() else { return Ok(Outcome::Refused(Refusal::NoRecipients)) };
        let refusal = match () {
            () if message.recipients == 0 => Some(Refusal::NoRecipients),
            () if limit > 0 && message.size.saturating_add(1000) > limit => Some(Refusal::TooLarge),
            () if message.hops.hops().saturating_add(1) >= hops => Some(Refusal::TooManyHops),
            () => None,
        };
        if let Some(refusal) = refusal {
            return Ok(Outcome::Refused(refusal));
        }
        Request::Commit.put(&mut message.out);
        if let Err(error) = message.make_durable() {
            log::error!("drop_directory {}: {error}", self.config.drop_directory.display());
            return Ok(Outcome::Refused(Refusal::Trouble));
        }
        message.committed = true;
        let name = std::mem::take(&mut message.name);
        // Who is woken must not find it locked still, for nobody would wake it again.
        drop(message);
        log::info!("event=left name={name}");
        wake(&self.config.drop_directory);
        Ok(Outcome::Queued(name))
    }

    fn reset(&mut self) -> Result<(), Error> {
        self.message = None;
        Ok(())
    }
}

/// Wakes a deliver that waits, if there is one.
fn wake(folder: &Path) {
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    if let Ok(mut trigger) = OpenOptions::new().write(true).custom_flags(flags).open(folder.join("trigger")) {
        let _ = trigger.write_all(b"!");
    }
}
