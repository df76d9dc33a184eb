//! Which messages a client has fetched, and when, so that they may go some days later (`pop3d_expire`, RFC 2449 section
//! 6.7).
//!
//! Nothing is written into messages: a file beside the mailbox has a line for each, the time in seconds since 1970 and the
//! unique-id. It grows by a line whenever a message was fetched, and is written anew at QUIT, for the session has the
//! mailbox to itself, when it has lines that are not needed any more; at login, when these are many.
//!
//! What was fetched is what the client has, and not what was sent: `dialogue` finds out which.
//!
//! What a crash does to it does not matter, so nothing waits for the disk: without a line a message stays longer, never
//! shorter. A line that was torn has no time, or the unique-id of no message, and so has the one that follows it.

use crate::config::Config;
use crate::config::value::MailboxSpec;
use crate::mailbox::{Maildrop, beside};
use log::warn;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::SystemTime;

/// A time, a blank, the longest unique-id, and the end of the line.
const LONGEST_LINE: u64 = 20 + 1 + 70 + 1;

/// What is known of one mailbox, and what becomes of it.
#[derive(Debug)]
pub struct Expiry {
    file: beside::Beside,
    days: u32,
    removes: bool,
    /// Messages of this session.
    fetched: HashSet<usize>,
}

impl Expiry {
    /// Nothing where messages stay for ever.
    pub fn of(config: &Config, spec: &MailboxSpec) -> Option<Expiry> {
        let days = config.pop3d_expire.0?;
        let file = beside::Beside::of(spec, "read");
        // What may go at once would stay for ever if nothing took it.
        Some(Expiry { file, days, removes: config.pop3d_delete_expired || days == 0, fetched: HashSet::new() })
    }

    /// A client has all of a message.
    pub fn fetched<M: Maildrop>(&mut self, maildrop: &M, index: usize) {
        if self.fetched.insert(index)
            && let Err(error) = self.note(maildrop, index)
        {
            warn!("event=fetch-not-noted why={:?}", error.to_string());
        }
    }

    fn note<M: Maildrop>(&self, maildrop: &M, index: usize) -> std::io::Result<()> {
        let unique_id = maildrop.entry(index)?.unique_id;
        self.file.append(&format!("{} {unique_id}\n", now()))
    }

    /// Adds what has expired to what is marked, both in order, and forgets what is not there any more.
    pub fn mark_expired<M: Maildrop>(&mut self, maildrop: &M, marked: &mut Vec<usize>) {
        let known = match self.known(maildrop) {
            Ok(known) => known,
            Err(error) => return warn!("event=nothing-expires why={:?}", error.to_string()),
        };
        let latest = now().saturating_sub(u64::from(self.days).saturating_mul(86_400));
        let expired =
            known.kept.iter().filter(|(_, time, _)| self.removes && *time <= latest).map(|(index, ..)| *index);
        *marked = marked.iter().copied().chain(expired).collect::<BTreeSet<_>>().into_iter().collect();
        // Also what is to go now is kept: that may fail.
        self.forget(&known);
    }

    /// Writes the file anew where it is longer than it can be with two lines for each message: clients that never say QUIT
    /// may fetch the same messages each time.
    pub fn tidy<M: Maildrop>(&self, maildrop: &M) {
        let enough = LONGEST_LINE.saturating_mul(2).saturating_mul(maildrop.count() as u64);
        if std::fs::symlink_metadata(self.file.path()).is_ok_and(|file| file.len() > enough) {
            match self.known(maildrop) {
                Ok(known) => self.forget(&known),
                Err(error) => warn!("event=fetched-not-read why={:?}", error.to_string()),
            }
        }
    }

    fn known<M: Maildrop>(&self, maildrop: &M) -> std::io::Result<Known> {
        let mut times: HashMap<String, u64> = HashMap::new();
        let mut known = Known { lines: 0, kept: Vec::new() };
        self.file.each_line(|line| {
            known.lines += 1;
            if let Some((time, unique_id)) = line.split_once(' ')
                && let Ok(time) = time.parse()
            {
                // The first time counts.
                times.entry(unique_id.to_owned()).or_insert(time);
            }
        })?;
        if times.is_empty() {
            return Ok(known);
        }
        for index in 0..maildrop.count() {
            let unique_id = maildrop.entry(index)?.unique_id;
            known.kept.extend(times.get(&unique_id).map(|time| (index, *time, unique_id)));
        }
        Ok(known)
    }

    /// Leaves out what is not needed any more. Where that is not possible, on a full disk, there is only more to read.
    fn forget(&self, known: &Known) {
        if known.kept.len() < known.lines {
            let text: String = known.kept.iter().map(|(_, time, unique_id)| format!("{time} {unique_id}\n")).collect();
            if let Err(error) = self.file.replace(&text) {
                warn!("event=fetched-not-rewritten why={:?}", error.to_string());
            }
        }
    }
}

/// What the file says.
struct Known {
    lines: usize,
    /// Of messages that are there: number from 0, time and unique-id.
    kept: Vec<(usize, u64, String)>,
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
