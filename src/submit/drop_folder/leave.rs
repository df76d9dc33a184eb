//! Leaving a message in the drop folder, as the user who sends it and with no other rights.

use super::{CHANNEL, disk, unguessable};
use crate::channel::Channels;
use crate::config::Config;
use crate::exit::Error;
use crate::message::parameters::{MailParameters, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::message::trace::HopCounter;
use crate::queue::{self, id, layout, size::Size};
use crate::submit::frames::{self, Request};
use crate::submit::verify::Judge;
use crate::submit::{self, Introduction, Outcome, Policy, Refusal, Submit, Verdict};
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
    /// Octets that wait to be written.
    out: Vec<u8>,
    /// Content that no frame has been made of.
    content: Vec<u8>,
    /// As the queue will count it.
    size: Size,
    limit: u64,
    content_has_begun: bool,
    has_reverse_path: bool,
    hops: HopCounter,
    recipients: u32,
    /// Why it will not be taken; told at the end, so that whoever sends can finish.
    refusal: Option<Refusal>,
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
            self.message = Some(Message::create(self.config)?);
        }
        self.message.as_mut().ok_or_else(|| Error::Temporary("no message in the drop folder".to_owned()))
    }
}

impl Message {
    fn create(config: &Config) -> Result<Message, Error> {
        let folder = &config.drop_directory;
        let trouble = |error: io::Error| match error.kind() {
            ErrorKind::PermissionDenied => Error::Permission(format!("drop_directory {}: {error}", folder.display())),
            _ => Error::Temporary(format!("drop_directory {}: {error}", folder.display())),
        };
        let name = unguessable().map_err(trouble)?;
        let path = folder.join(&name);
        let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(&path);
        let file = file.map_err(trouble)?;
        let mut message = Message {
            path,
            name,
            file,
            out: Vec::new(),
            content: Vec::new(),
            size: Size::default(),
            limit: config.message_size_limit,
            content_has_begun: false,
            has_reverse_path: false,
            hops: HopCounter::default(),
            recipients: 0,
            refusal: None,
            committed: false,
        };
        message.file.lock().map_err(trouble)?;
        // The owner of the queue is another user, and its name is all that is secret.
        message.file.set_permissions(Permissions::from_mode(0o644)).map_err(trouble)?;
        message.count_attributes(config);
        Ok(message)
    }

    /// What the queue file will say of where it comes from.
    fn count_attributes(&mut self, config: &Config) {
        let uid = nix::unistd::geteuid().as_raw();
        let origin = queue::ORIGIN.len() + 1 + id::LENGTH + 1 + super::origin(&self.name, uid).len();
        let others = submit::attributes(config).into_iter().map(|(name, value)| name.len() + 1 + value.len());
        for length in others.chain([origin, "uid=".len() + uid.to_string().len()]) {
            self.count_attribute(length);
        }
    }

    fn count_attribute(&mut self, length: usize) {
        if self.size.attribute(length).is_err() {
            self.refuse(Refusal::Trouble);
        }
    }

    /// From now on nothing is kept of it, here or on disk, however much comes.
    fn refuse(&mut self, refusal: Refusal) {
        self.refusal.get_or_insert(refusal);
        (self.out, self.content) = (Vec::new(), Vec::new());
        let _ = self.file.set_len(0);
    }

    fn bound(&mut self) {
        if self.limit > 0 && self.size.octets() > self.limit {
            self.refuse(Refusal::TooLarge);
        }
    }

    fn put(&mut self, request: &Request<'_>) {
        self.bound();
        self.end_frame();
        if self.refusal.is_none() {
            request.put(&mut self.out);
            self.flush(frames::LONGEST_CONTENT);
        }
    }

    fn add(&mut self, mut octets: &[u8]) {
        self.hops.push(octets);
        self.content_has_begun = true;
        self.size.content(octets.len());
        self.bound();
        while self.refusal.is_none() && !octets.is_empty() {
            let room = frames::LONGEST_CONTENT - self.content.len();
            let (now, later) = octets.split_at(octets.len().min(room));
            self.content.extend_from_slice(now);
            octets = later;
            if self.content.len() == frames::LONGEST_CONTENT {
                self.end_frame();
            }
        }
    }

    /// Frames of content are full, so that a file is not much longer than its message.
    fn end_frame(&mut self) {
        if !self.content.is_empty() {
            Request::Content(&self.content).put(&mut self.out);
            self.content.clear();
            self.flush(0);
        }
    }

    /// Writes if more than `room` waits.
    fn flush(&mut self, room: usize) {
        if self.out.len() > room && self.refusal.is_none() {
            let written = self.file.write_all(&self.out);
            self.out.clear();
            if let Err(error) = written {
                self.trouble(&error.to_string());
            }
        }
    }

    fn trouble(&mut self, why: &str) {
        log::error!("drop_directory {}: {why}", self.path.parent().unwrap_or(&self.path).display());
        self.refuse(Refusal::Trouble);
    }

    /// The last frame. The queue would refuse the same; here somebody is still there to be told.
    fn finish(&mut self, hopcount_limit: u32) -> Result<(), Refusal> {
        match () {
            () if self.refusal.is_some() => {}
            () if self.recipients == 0 => self.refuse(Refusal::NoRecipients),
            () if self.hops.hops().saturating_add(1) >= hopcount_limit => self.refuse(Refusal::TooManyHops),
            () => {
                self.put(&Request::Commit);
                self.flush(0);
            }
        }
        if self.refusal.is_none()
            && let Err(why) = self.make_durable()
        {
            self.trouble(&why);
        }
        self.refusal.take().map_or(Ok(()), Err)
    }

    fn make_durable(&self) -> Result<(), String> {
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
        let (from, policy, sender) = (CHANNEL, Policy::Anywhere, &ReversePath::NULL);
        Ok(Judge { config: self.config, channels: &nowhere, from, policy, sender }.of(address))
    }

    fn reverse_path_with(&mut self, path: &ReversePath, parameters: &MailParameters) -> Result<(), Error> {
        if self.message.as_ref().is_some_and(|message| message.has_reverse_path) {
            // It begins another message.
            self.reset()?;
        }
        let message = self.message()?;
        message.has_reverse_path = true;
        if !parameters.is_empty() {
            message.count_attribute(layout::PARAMETERS.len() + 1 + parameters.to_string().len());
        }
        message.size.envelope(path.as_bytes().len() + CHANNEL.len());
        message.put(&Request::ReversePath(path.clone(), parameters.clone()));
        Ok(())
    }

    fn recipient_with(&mut self, address: &Address, parameters: &RecipientParameters) -> Result<Verdict, Error> {
        let verdict = self.verify(address)?;
        let Ok(address) = address.completed(&self.config.myhostname) else { return Ok(Verdict::BadAddress) };
        if verdict != Verdict::Accepted {
            return Ok(verdict);
        }
        let message = self.message()?;
        if message.content_has_begun {
            message.size.end_content();
        }
        if message.size.recipient(address.as_bytes().len(), parameters.to_string().len()).is_err() {
            return Ok(Verdict::TooMany);
        }
        message.put(&Request::Recipient(address, parameters.clone()));
        message.recipients = message.recipients.saturating_add(1);
        Ok(verdict)
    }

    fn content(&mut self, octets: &[u8]) -> Result<(), Error> {
        self.message()?.add(octets);
        Ok(())
    }

    fn commit(&mut self) -> Result<Outcome, Error> {
        let Some(mut message) = self.message.take() else { return Ok(Outcome::Refused(Refusal::NoRecipients)) };
        if let Err(refusal) = message.finish(self.config.hopcount_limit) {
            return Ok(Outcome::Refused(refusal));
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
