//! Queueing what users have left in the drop folder, which is deliver's to do. Nothing in a file is believed but who owns
//! it.

use super::{CHANCE, CHANNEL, origin, owned};
use crate::cli::Common;
use crate::config::Config;
use crate::exit::Error;
use crate::message::trace::{Client, Protocol};
use crate::queue::{self, Id, Queue};
use crate::submit::frames::{FrameReader, Request};
use crate::submit::server::Receiver;
use crate::submit::{Introduction, Outcome, Policy, Refusal, Submit, Verdict};
use nix::sys::stat::SFlag;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// What nobody completed is removed when so old.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Most files taken between two sweeps.
const AT_ONCE: usize = 1000;

/// Names of files begin so when they cannot be taken, and stay for the administrator.
const REFUSED: &str = "refused.";

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
        let origin = origin(&self.name, uid);
        let Some(mut draft) = self.queue.begin_derived(&Id::of_time(*time), &origin).map_err(later)? else {
            log::info!("drop={} uid={uid} event=taken-before", self.name);
            return Ok(());
        };
        draft.attribute("uid", &uid.to_string()).map_err(later)?;
        let mut receiver = Receiver::new(self.config, self.common)?;
        let client = Client { helo: None, name: None, address: format!("uid-{uid}"), tls: None };
        let (channel, policy, protocol) = (CHANNEL.to_owned(), Policy::Anywhere, Protocol::Local);
        receiver.introduce(&Introduction { channel, policy, protocol, client })?;
        receiver.begin_with(draft);
        let mut ended = false;
        each_frame(file, |request| {
            match request {
                _ if ended => return Err(Trouble::Wrong("octets behind its end".to_owned())),
                Request::ReversePath(path, said) => {
                    let long = |_| Trouble::Wrong("a sender that is too long".to_owned());
                    let path = path.completed(&self.config.myhostname).map_err(long)?;
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
    file.read_exact_at(&mut found, at).map_err(|error| Trouble::Later(error.to_string()))?;
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
