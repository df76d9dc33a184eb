//! The drop folder: where users who may not write the queue leave messages, without any program with rights of its own.
//!
//! `drop_directory` belongs to `mail_owner` and has mode 1733: everybody may put files there, nobody but its owner can list
//! it, and nobody can take another's file away. A file has a name that cannot be guessed, is written in place under a
//! lock, and holds the frames that a server would send to submit, the last of which commits; without that one it is
//! incomplete. Who owns the file has sent it: nothing else in it is believed.
//!
//! The FIFO `trigger` in it, which anybody may write, wakes deliver, which collects what is there before each sweep. A file
//! is queued under an id made from its name and owner, and removed when that is on disk; so a crash in between leaves
//! a message that is found again, and no second one.

use super::frames::{FrameReader, Request};
use super::server::Receiver;
use super::{Introduction, Outcome, Policy, Refusal, Submit, Verdict, verify};
use crate::channel::Channels;
use crate::cli::Common;
use crate::config::Config;
use crate::exit::Error;
use crate::message::parameters::{MailParameters, RecipientParameters};
use crate::message::path::{Address, ReversePath};
use crate::message::trace::{Client, HopCounter, Protocol};
use crate::queue::{self, Id, Queue};
use nix::sys::stat::{Mode, SFlag};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The mode of the folder, which the administrator makes.
const MODE: u32 = 0o1733;

/// What nobody completed is removed when so old.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Most files taken between two sweeps.
const AT_ONCE: usize = 1000;

/// Octets of chance in a name.
const CHANCE: usize = 16;

/// Names of files begin so when they cannot be taken, and stay for the administrator.
const REFUSED: &str = "refused.";

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
        let metadata = self.file.metadata().map_err(|error| error.to_string())?;
        let keeps_names = mounted_as(metadata.dev()).is_some_and(|kind| KEEPS_NAMES.contains(&&*kind));
        if keeps_names || !syncfs_tells_errors() {
            self.file.sync_all().map_err(|error| error.to_string())?;
        }
        if !keeps_names {
            // The folder cannot be opened by who may not list it, so all of its file system is put on disk, this file
            // included. An fsync besides would cost a flush of the device more.
            nix::unistd::syncfs(&self.file).map_err(|errno| errno.to_string())?;
        }
        match self.file.metadata() {
            Ok(metadata) if metadata.nlink() == 1 => Ok(()),
            Ok(_) => Err("somebody removed it".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// File systems where fsync of a new file puts its name on disk, too: both are in one journal, and what came first in it is
/// never later on disk; ext4 without one looks after the folder by itself. The power cuts are the proof of it. (ext2 by its
/// own driver is called so, and does not.)
const KEEPS_NAMES: [&str; 2] = ["ext4", "xfs"];

/// As what kind of file system a device is mounted, by the system's list; nothing where that does not tell.
fn mounted_as(device: u64) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let number = format!("{}:{}", libc::major(device), libc::minor(device));
    kind_of(&mounts, &number)
}

/// proc_pid_mountinfo(5): the device is the third field, the kind follows a `-`.
fn kind_of(mounts: &str, device: &str) -> Option<String> {
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(device))?;
    Some(line.split_once(" - ")?.1.split(' ').next()?.to_owned())
}

/// Whether the kernel is of 5.17 or later. From 5.8 on it tells by syncfs of every write that failed since the file was
/// opened, from 5.17 on of a journal that could not be written (syncfs(2)).
fn syncfs_tells_errors() -> bool {
    let system = nix::sys::utsname::uname();
    let release = system.as_ref().ok().and_then(|system| system.release().to_str()).unwrap_or_default();
    is_from_5_17(release)
}

fn is_from_5_17(release: &str) -> bool {
    let mut numbers = release.split(|octet: char| !octet.is_ascii_digit()).map_while(|text| text.parse::<u32>().ok());
    (numbers.next(), numbers.next().or(Some(0))) >= (Some(5), Some(17))
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
        for piece in octets.chunks(super::frames::LONGEST_CONTENT) {
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

/// The FIFO of the folder, made where it is missing; nothing where there is no such folder of ours.
pub fn trigger(config: &Config) -> Option<PathBuf> {
    if !config.drop_directory.exists() {
        return None;
    }
    let path = owned(config)?.join("trigger");
    // Not subject to the umask, which is for us alone.
    if nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).is_ok() {
        let _ = std::fs::set_permissions(&path, Permissions::from_mode(0o622));
    }
    Some(path)
}

/// The folder, if it is there and ours alone to list.
fn owned(config: &Config) -> Option<&PathBuf> {
    let folder = &config.drop_directory;
    let metadata = std::fs::symlink_metadata(folder).ok()?;
    let us = nix::unistd::geteuid().as_raw();
    let is_sticky = metadata.mode() & 0o1000 != 0 || metadata.mode() & 0o022 == 0;
    if metadata.is_dir() && metadata.uid() == us && is_sticky {
        return Some(folder);
    }
    log::warn!(
        "drop_directory {}: expected a folder of uid {us} with mode {MODE:o}; nothing is taken from it",
        folder.display()
    );
    None
}

/// Queues what users have left. Gives how many messages that were.
pub fn collect(config: &Config, common: &Common, queue: &Queue) -> usize {
    if !config.drop_directory.exists() {
        return 0;
    }
    let Some(folder) = owned(config) else { return 0 };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            log::warn!("drop_directory {}: {error}", folder.display());
            return 0;
        }
    };
    let mut taken = 0;
    for entry in entries.flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let is_name = name.len() == 2 * CHANCE && name.bytes().all(|octet| octet.is_ascii_hexdigit());
        if !is_name {
            continue;
        }
        let left = Left { config, common, queue, path: entry.path(), name };
        match left.take() {
            Ok(true) => taken += 1,
            Ok(false) => {}
            Err(error) => queue.complain(entry.file_name().as_os_str(), &error),
        }
        if taken >= AT_ONCE {
            break;
        }
    }
    taken
}

/// A file that somebody left.
struct Left<'a> {
    config: &'a Config,
    common: &'a Common,
    queue: &'a Queue,
    path: PathBuf,
    name: String,
}

/// Why a file stays where it is.
enum Trouble {
    /// Its writer has not come to its end.
    Incomplete,
    /// It is no message, or will never be taken.
    Wrong(String),
    /// It may be better later.
    Later(String),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            // Requests in an order that no program of ours sends them in.
            Error::Connection(why) => Trouble::Wrong(why),
            error => Trouble::Later(error.to_string()),
        }
    }
}

impl Left<'_> {
    /// False: it was not there to be taken.
    fn take(&self) -> Result<bool, String> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = match File::options().read(true).custom_flags(flags).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error.to_string()),
        };
        if file.try_lock().is_err() {
            return Ok(false);
        }
        let metadata = file.metadata().map_err(|error| error.to_string())?;
        let is_regular = SFlag::from_bits_truncate(metadata.mode()) & SFlag::S_IFMT == SFlag::S_IFREG;
        if !is_regular || metadata.nlink() != 1 {
            // A second name may lead to a file whose owner did not put it here.
            return Err(format!("uid={}: it is no regular file with one name; left alone", metadata.uid()));
        }
        match self.queue(&file, metadata.uid(), &metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)) {
            Ok(()) => {
                self.remove();
                Ok(true)
            }
            Err(Trouble::Incomplete) => {
                let age = metadata.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
                if age.is_some_and(|age| age >= ABANDONED) {
                    log::info!("drop={} uid={} event=removed reason=\"never completed\"", self.name, metadata.uid());
                    self.remove();
                }
                Ok(false)
            }
            Err(Trouble::Later(why)) => Err(why),
            Err(Trouble::Wrong(why)) => {
                let aside = self.path.with_file_name(format!("{REFUSED}{}", self.name));
                let _ = std::fs::rename(&self.path, aside);
                Err(format!("uid={}: {why}; kept as {REFUSED}{}", metadata.uid(), self.name))
            }
        }
    }

    fn queue(&self, file: &File, uid: u32, time: &SystemTime) -> Result<(), Trouble> {
        if !is_complete(file)? {
            return Err(Trouble::Incomplete);
        }
        let later = |error: queue::Error| Trouble::Later(error.to_string());
        let origin = format!("drop {} of uid {uid}", self.name);
        let Some(mut draft) = self.queue.begin_derived(&Id::of_time(*time), &origin).map_err(later)? else {
            log::info!("drop={} uid={uid} event=taken-before", self.name);
            return Ok(());
        };
        draft.attribute("uid", &uid.to_string()).map_err(later)?;
        let mut receiver = Receiver::new(self.config, self.common)?;
        let client = Client { helo: None, name: None, address: format!("uid-{uid}"), tls: None };
        let (channel, policy, protocol) = ("local".to_owned(), Policy::Anywhere, Protocol::Local);
        receiver.introduce(&Introduction { channel, policy, protocol, client })?;
        receiver.begin_with(draft);
        let mut ended = false;
        each_frame(file, |request| {
            match request {
                _ if ended => return Err(Trouble::Wrong("octets behind its end".to_owned())),
                Request::ReversePath(path, said) => {
                    let path = ReversePath(path.0.map(|address| address.or_at(&self.config.myhostname)));
                    receiver.reverse_path_with(&path, &said)?;
                }
                Request::Recipient(address, said) => {
                    if receiver.recipient_with(&address, &said)? != Verdict::Accepted {
                        return Err(Trouble::Wrong("a recipient that is none".to_owned()));
                    }
                }
                Request::Content(octets) => receiver.content(octets)?,
                Request::Commit => ended = true,
                _ => return Err(Trouble::Wrong("a request that is none of a user's".to_owned())),
            }
            Ok(())
        })?;
        if !ended {
            return Err(Trouble::Incomplete);
        }
        match receiver.commit()? {
            Outcome::Queued(id) => {
                log::info!("drop={} uid={uid} event=taken id={id}", self.name);
                Ok(())
            }
            Outcome::Refused(refusal @ (Refusal::NoRoom | Refusal::Trouble)) => {
                Err(Trouble::Later(refusal.to_string()))
            }
            Outcome::Refused(refusal) => Err(Trouble::Wrong(refusal.to_string())),
        }
    }

    /// Not fsynced: a name that a power cut brings back is found to be taken, as long as its message waits.
    fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("drop={} event=not-removed reason=\"{error}\"", self.name);
        }
    }
}

/// Whether the last frame is there: cheap, and nothing is begun for what is still being written.
fn is_complete(file: &File) -> Result<bool, Trouble> {
    let mut end = Vec::new();
    Request::Commit.put(&mut end);
    let length = file.metadata().map_err(|error| Trouble::Later(error.to_string()))?.len();
    let Some(at) = length.checked_sub(end.len() as u64) else { return Ok(false) };
    let mut found = vec![0; end.len()];
    std::os::unix::fs::FileExt::read_exact_at(file, &mut found, at)
        .map_err(|error| Trouble::Later(error.to_string()))?;
    Ok(found == end)
}

fn each_frame(mut file: &File, mut act: impl FnMut(Request<'_>) -> Result<(), Trouble>) -> Result<(), Trouble> {
    let (mut reader, mut input) = (FrameReader::default(), vec![0; 64 * 1024]);
    let wrong = || Trouble::Wrong("it is not made of frames".to_owned());
    loop {
        let count = match file.read(&mut input) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(Trouble::Later(error.to_string())),
        };
        let mut rest = input.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            let (taken, payload) = reader.push(rest).map_err(|_| wrong())?;
            rest = rest.get(taken..).unwrap_or_default();
            if let Some(payload) = payload {
                act(Request::decode(payload).map_err(|_| wrong())?)?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_file_system_is_that_of_its_device() {
        let mounts = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            30 22 7:3 / /var/spool/a\\040b rw shared:5 master:1 - xfs /dev/loop3 rw\nnonsense\n";
        assert_eq!(kind_of(mounts, "254:0").as_deref(), Some("ext4"));
        assert_eq!(kind_of(mounts, "7:3").as_deref(), Some("xfs"));
        assert_eq!((kind_of(mounts, "7:4"), kind_of(mounts, "")), (None, None));
        let temporary = std::fs::metadata("/dev/shm").map(|metadata| mounted_as(metadata.dev()));
        assert!(temporary.is_ok_and(|kind| kind.as_deref() == Some("tmpfs")));
    }

    #[test]
    fn kernels_before_5_17_and_unknown_ones_are_not_believed() {
        for (release, expected) in [
            ("5.17.0", true),
            ("5.16.20-1", false),
            ("4.19.0-26-amd64", false),
            ("6.1.0-44-amd64", true),
            ("10", true),
            ("5", false),
            ("", false),
            ("x6.1", false),
        ] {
            assert_eq!(is_from_5_17(release), expected, "{release:?}");
        }
    }
}
