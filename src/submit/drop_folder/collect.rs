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
use nix::unistd::{AccessFlags, eaccess};
use std::collections::HashSet;
use std::fs::{DirEntry, File, Metadata, ReadDir};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

/// What nobody completed is removed when so old.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Most files taken or refused between two sweeps.
const AT_ONCE: usize = 1000;

/// And the longest time, whatever is met: others wait for their mail meanwhile.
const SPELL: Duration = Duration::from_secs(1);

/// Most files remembered that could not be removed.
const STUCK: usize = 1000;

/// Names of files begin so when they can never be taken, and stay for the administrator.
const REFUSED: &str = "refused.";

/// Queues what users have left, a spell at a time.
#[derive(Debug, Default)]
pub struct Collector {
    /// A look at the folder that was broken off, to be gone on with: who fills the folder with what cannot be taken must not
    /// keep the end of it from being seen.
    under_way: Option<(PathBuf, ReadDir)>,
    /// Somebody left something since that look began, maybe where it had been already.
    is_called: bool,
    /// Taken, but not removed. By its id it is found to be taken only as long as its message waits.
    stuck: HashSet<String>,
}

impl Collector {
    /// Somebody says that something is there.
    pub fn call(&mut self) {
        self.is_called = true;
    }

    /// Whether the last look came to no end.
    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// For a child: closes everything.
    pub fn forget(&mut self) {
        self.under_way = None;
    }

    /// Queues what users have left. Gives how many messages that were, and whether there may be more.
    pub fn collect(&mut self, config: &Config, common: &Common, queue: &Queue) -> (usize, bool) {
        self.collect_for(SPELL, config, common, queue)
    }

    fn collect_for(&mut self, spell: Duration, config: &Config, common: &Common, queue: &Queue) -> (usize, bool) {
        let Some((folder, mut entries)) = self.entries(config) else { return (0, false) };
        let (mut taken, mut refused, begun) = (0_usize, 0_usize, Instant::now());
        for met in 0_u64.. {
            // What is refused was read as well, whole where only its end is wrong.
            if taken.saturating_add(refused) >= AT_ONCE || (met > 0 && begun.elapsed() > spell) {
                self.under_way = Some((folder, entries));
                return (taken, true);
            }
            let Some(Ok(entry)) = entries.next() else { break };
            let Some(name) = name_of(&entry) else { continue };
            let left = Left { config, common, queue, path: entry.path(), name };
            match left.take(&mut self.stuck) {
                Ok(Met::Taken) => taken += 1,
                Ok(Met::Refused) => refused += 1,
                Ok(Met::Left) => {}
                Err(error) => queue.complain_of_drop(left.name.as_ref(), &error),
            }
        }
        (taken, self.is_called)
    }

    /// What is left of the look that is under way, or a new one; nothing where nothing can be taken.
    fn entries(&mut self, config: &Config) -> Option<(PathBuf, ReadDir)> {
        let before = self.under_way.take();
        if !config.drop_directory.exists() {
            return None;
        }
        let folder = owned(config)?;
        // What cannot be removed would be taken at each look.
        if let Err(why) = eaccess(folder, AccessFlags::W_OK | AccessFlags::X_OK) {
            log::warn!("drop_directory {}: {why}; nothing is taken from it", folder.display());
            return None;
        }
        if self.stuck.len() >= STUCK {
            log::warn!("drop_directory {}: {STUCK} files could not be removed; no more are taken", folder.display());
            return None;
        }
        if let Some(before) = before.filter(|(path, _)| path == folder) {
            return Some(before);
        }
        self.is_called = false;
        let entries = std::fs::read_dir(folder);
        entries
            .inspect_err(|error| log::warn!("drop_directory {}: {error}", folder.display()))
            .ok()
            .map(|entries| (folder.clone(), entries))
    }
}

/// The name of what may be a message.
fn name_of(entry: &DirEntry) -> Option<String> {
    let name = entry.file_name().into_string().ok()?;
    (name.len() == 2 * CHANCE && name.bytes().all(|octet| octet.is_ascii_hexdigit())).then_some(name)
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
    fn take(&self, stuck: &mut HashSet<String>) -> Result<Met, String> {
        if stuck.contains(&self.name) {
            return Ok(Met::Left);
        }
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
                if !self.remove(&metadata) {
                    stuck.insert(self.name.clone());
                }
                Ok(Met::Taken)
            }
            Err(Trouble::Incomplete) => {
                if is_abandoned(&metadata, SystemTime::now()) {
                    log::info!("drop={} uid={} event=removed reason=\"never completed\"", self.name, metadata.uid());
                    self.remove(&metadata);
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
            Ok(()) => log::warn!("drop={name} uid={uid} event=refused reason={why:?} kept={REFUSED}{name}"),
            Err(error) => {
                std::fs::remove_file(&self.path).map_err(|error| error.to_string())?;
                log::warn!("drop={name} uid={uid} event=refused reason={why:?} removed={:?}", error.to_string());
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
        let parent = Id::of_time(changed(metadata));
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

    /// Not fsynced: a name that a power cut brings back is found to be taken, as long as its message waits. False: the file
    /// is still there. (Its owner may have put something else there meanwhile, which is no file that was taken.)
    fn remove(&self, metadata: &Metadata) -> bool {
        let Err(error) = std::fs::remove_file(&self.path) else { return true };
        log::warn!("drop={} event=not-removed reason={:?}", self.name, error.to_string());
        let same = |found: Metadata| (found.dev(), found.ino()) == (metadata.dev(), metadata.ino());
        !std::fs::symlink_metadata(&self.path).is_ok_and(same)
    }
}

/// When anything of the file changed for the last time. Its owner sets the time of modification as he likes, and with that he
/// would choose the id of a message, and keep what he never completes for ever; this one is the system's alone.
fn changed(metadata: &Metadata) -> SystemTime {
    let (seconds, nanoseconds) = (metadata.ctime(), metadata.ctime_nsec());
    let since = Duration::new(seconds.try_into().unwrap_or_default(), nanoseconds.try_into().unwrap_or_default());
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn is_abandoned(metadata: &Metadata, now: SystemTime) -> bool {
    now.duration_since(changed(metadata)).is_ok_and(|age| age >= ABANDONED)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_look_has_its_time_whatever_it_meets_and_the_next_one_goes_on_behind() {
        let folder = tempfile::tempdir().unwrap();
        let drop = folder.path().join("drop");
        (0..20).for_each(|number| std::fs::create_dir_all(drop.join(format!("{number:032x}"))).unwrap());
        std::fs::write(drop.join("e".repeat(32)), "1:F,15:Rbob@mx.example,3:Cx\n,1:E,").unwrap();
        std::fs::set_permissions(&drop, std::fs::Permissions::from_mode(0o1733)).unwrap();
        let at_queue = folder.path().join("queue");
        let queue = Queue::open(&at_queue).unwrap();
        let places = [("drop_directory", &drop), ("queue_directory", &at_queue)];
        let config = Config::with(&places.map(|(name, path)| (name, path.to_str().unwrap())));
        let mut collector = Collector::default();
        let look = |collector: &mut Collector| {
            let (taken, has_more) = collector.collect_for(Duration::ZERO, &config, &Common::default(), &queue);
            assert_eq!(has_more, collector.is_under_way());
            taken
        };
        let mut taken = Vec::new();
        loop {
            taken.push(look(&mut collector));
            if !collector.is_under_way() {
                break;
            }
        }
        assert_eq!((taken.len(), taken.iter().sum::<usize>()), (22, 1));
        // Somebody comes while a look is under way: there is another behind it.
        look(&mut collector);
        collector.call();
        let end = (0..20).map(|_| collector.collect_for(SPELL, &config, &Common::default(), &queue).1);
        assert_eq!(end.take_while(|has_more| *has_more).count(), 1);
    }

    #[test]
    fn what_nobody_completes_is_removed_in_the_end_whatever_time_its_owner_gives_it() {
        let file = tempfile::tempfile().unwrap();
        let now = SystemTime::now();
        for time in [now + 10_000 * ABANDONED, SystemTime::UNIX_EPOCH] {
            file.set_modified(time).unwrap();
            let metadata = file.metadata().unwrap();
            assert!(
                !is_abandoned(&metadata, now) && is_abandoned(&metadata, now + ABANDONED + Duration::from_secs(60))
            );
        }
    }
}
