//! Queueing what users have left in the drop folder, which is deliver's to do.
//!
//! A file may be anything that its owner could write, so no more of it is read than its message can need, each request is
//! one that a user may make, and what can never be taken is set aside at the first octet that shows it: who does this
//! serves nobody else meanwhile.

use super::{CHANCE, CHANNEL, longest, origin, owned};
use crate::cli::Common;
use crate::config::Config;
use crate::exit::Error;
use crate::message::trace::{Client, Protocol};
use crate::queue::{self, Id, Queue};
use crate::submit::frames::{FrameReader, Request};
use crate::submit::receiver::Receiver;
use crate::submit::{Introduction, Outcome, Policy, Refusal, Submit, Verdict};
use nix::sys::stat::SFlag;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// What nobody completed is removed when so old.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Most files taken or refused between two sweeps.
const AT_ONCE: usize = 1000;

/// And the longest time, as long as one was taken or refused: others wait for their mail meanwhile.
const SPELL: Duration = Duration::from_secs(1);

/// Names of files begin so when they can never be taken, and stay for the administrator.
const REFUSED: &str = "refused.";

/// Queues what users have left. Gives how many messages that were, and whether there may be more.
pub fn collect(config: &Config, common: &Common, queue: &Queue) -> (usize, bool) {
    const NOTHING: (usize, bool) = (0, false);
    if !config.drop_directory.exists() {
        return NOTHING;
    }
    let Some(folder) = owned(config) else { return NOTHING };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => {
            log::warn!("drop_directory {}: {error}", folder.display());
            return NOTHING;
        }
    };
    let (mut taken, mut refused, begun) = (0_usize, 0_usize, Instant::now());
    for entry in entries.flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let is_name = name.len() == 2 * CHANCE && name.bytes().all(|octet| octet.is_ascii_hexdigit());
        if !is_name {
            continue;
        }
        // What is refused was read as well, whole where only its end is wrong.
        let read = taken.saturating_add(refused);
        if read >= AT_ONCE || (read > 0 && begun.elapsed() > SPELL) {
            return (taken, true);
        }
        let left = Left { config, common, queue, path: entry.path(), name };
        match left.take() {
            Ok(Met::Taken) => taken += 1,
            Ok(Met::Refused) => refused += 1,
            Ok(Met::Left) => {}
            Err(error) => queue.complain_of_drop(entry.file_name().as_os_str(), &error),
        }
    }
    (taken, false)
}

/// A file that somebody left.
struct Left<'a> {
    config: &'a Config,
    common: &'a Common,
    queue: &'a Queue,
    path: PathBuf,
    name: String,
}

/// What became of a file.
enum Met {
    /// Its message is queued.
    Taken,
    /// It was read, and is never met again.
    Refused,
    /// It was not there to be taken, and little or nothing of it was read.
    Left,
}

/// Why a file is not taken.
enum Trouble {
    /// It does not end as a message does: its writer may not have come there yet.
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

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoRoom | Refusal::Trouble => Trouble::Later(refusal.to_string()),
            _ => Trouble::Wrong(refusal.to_string()),
        }
    }
}

impl Left<'_> {
    fn take(&self) -> Result<Met, String> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = match File::options().read(true).custom_flags(flags).open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Met::Left),
            Err(error) => return Err(error.to_string()),
        };
        if file.try_lock().is_err() {
            return Ok(Met::Left);
        }
        let metadata = file.metadata().map_err(|error| error.to_string())?;
        let is_regular = SFlag::from_bits_truncate(metadata.mode()) & SFlag::S_IFMT == SFlag::S_IFREG;
        if !is_regular || metadata.nlink() != 1 {
            // A second name may lead to a file whose owner did not put it here.
            return Err(format!("uid={}: it is no regular file with one name; left alone", metadata.uid()));
        }
        match self.queue(&file, &metadata) {
            Ok(()) => {
                self.remove();
                Ok(Met::Taken)
            }
            Err(Trouble::Incomplete) => {
                let age = metadata.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
                if age.is_some_and(|age| age >= ABANDONED) {
                    log::info!("drop={} uid={} event=removed reason=\"never completed\"", self.name, metadata.uid());
                    self.remove();
                }
                Ok(Met::Left)
            }
            Err(Trouble::Later(why)) => Err(why),
            Err(Trouble::Wrong(why)) => self.refuse(&why, metadata.uid()),
        }
    }

    /// Sets aside what can never be taken. Its owner may have made something that is in the way of that: then it is removed,
    /// for it must not be read again and again. The record comes once only, as it is never met again.
    fn refuse(&self, why: &str, uid: u32) -> Result<Met, String> {
        let name = &self.name;
        match std::fs::rename(&self.path, self.path.with_file_name(format!("{REFUSED}{name}"))) {
            Ok(()) => log::warn!("drop={name} uid={uid} event=refused reason=\"{why}\" kept={REFUSED}{name}"),
            Err(error) => {
                std::fs::remove_file(&self.path).map_err(|error| error.to_string())?;
                log::warn!("drop={name} uid={uid} event=refused reason=\"{why}\" removed=\"{error}\"");
            }
        }
        Ok(Met::Refused)
    }

    fn queue(&self, file: &File, metadata: &Metadata) -> Result<(), Trouble> {
        let (uid, length) = (metadata.uid(), metadata.len());
        if !is_complete(file, length)? {
            return Err(Trouble::Incomplete);
        }
        if length > longest(self.config) {
            return Err(Trouble::Wrong(Refusal::TooLarge.to_string()));
        }
        let later = |error: queue::Error| Trouble::Later(error.to_string());
        let origin = origin(&self.name, uid);
        let parent = Id::of_time(metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH));
        let Some(mut draft) = self.queue.begin_derived(&parent, &origin).map_err(later)? else {
            log::info!("drop={} uid={uid} event=taken-before", self.name);
            return Ok(());
        };
        draft.attribute("uid", &uid.to_string()).map_err(later)?;
        let mut receiver = Receiver::new(self.config, self.common)?;
        let client = Client { helo: None, name: None, address: format!("uid-{uid}"), tls: None };
        let (channel, policy, protocol) = (CHANNEL.to_owned(), Policy::Anywhere, Protocol::Local);
        receiver.introduce(&Introduction { channel, policy, protocol, client })?;
        receiver.begin_with(draft);
        self.feed(&mut receiver, file, length)?;
        match receiver.commit()? {
            Outcome::Queued(id) => {
                log::info!("drop={} uid={uid} event=taken id={id}", self.name);
                Ok(())
            }
            Outcome::Refused(refusal) => Err(refusal.into()),
        }
    }

    /// Hands in what the frames say, up to the one that commits.
    fn feed(&self, receiver: &mut Receiver<'_>, file: &File, length: u64) -> Result<(), Trouble> {
        let wrong = |why: &str| Trouble::Wrong(why.to_owned());
        let (mut has_sender, mut has_ended) = (false, false);
        each_frame(file, length, |request| {
            match request {
                _ if has_ended => return Err(wrong("octets behind its end")),
                // Another would begin another message, and that one would be from nobody of this machine.
                Request::ReversePath(..) if has_sender => return Err(wrong("two senders")),
                Request::ReversePath(path, said) => {
                    let long = |_| wrong("a sender that is too long");
                    receiver.reverse_path_with(&path.completed(&self.config.myhostname).map_err(long)?, &said)?;
                    has_sender = true;
                }
                Request::Recipient(address, said) => {
                    if receiver.recipient_with(&address, &said)? != Verdict::Accepted {
                        return Err(wrong("a recipient that is none, or one too many"));
                    }
                }
                Request::Content(octets) => receiver.content(octets)?,
                Request::Commit => has_ended = true,
                _ => return Err(wrong("a request that is none of a user's")),
            }
            receiver.refusal().map_or(Ok(()), |refusal| Err(refusal.into()))
        })?;
        match (has_sender, has_ended) {
            (true, true) => Ok(()),
            (false, true) => Err(wrong("it has no sender")),
            // Nobody writes it any more, for its lock is ours; and it ended like one that is complete.
            (_, false) => Err(wrong("its end is none")),
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
fn is_complete(file: &File, length: u64) -> Result<bool, Trouble> {
    let mut end = Vec::new();
    Request::Commit.put(&mut end);
    let Some(at) = length.checked_sub(end.len() as u64) else { return Ok(false) };
    let mut found = vec![0; end.len()];
    file.read_exact_at(&mut found, at).map_err(|error| Trouble::Later(error.to_string()))?;
    Ok(found == end)
}

/// The requests in the first `length` octets of a file: it may grow meanwhile.
fn each_frame(
    file: &File,
    length: u64,
    mut act: impl FnMut(Request<'_>) -> Result<(), Trouble>,
) -> Result<(), Trouble> {
    let (mut reader, mut input, mut file) = (FrameReader::default(), vec![0; 64 * 1024], file.take(length));
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
