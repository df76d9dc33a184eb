//! Which messages a client has fetched, and when, so that they may go some days later (`pop3d_expire`, RFC 2449 section
//! 6.7).
//!
//! Nothing is written into messages: a file beside the mailbox has a line for each, the time in seconds since 1970 and the
//! unique-id. It grows by a line whenever a message was fetched, and is written anew at QUIT, for the session has the
//! mailbox to itself, when it has lines that are not needed any more.
//!
//! What a crash does to it does not matter, so nothing waits for the disk: without a line a message stays longer, never
//! shorter. A line that was torn has no time, or the unique-id of no message, and so has the one that follows it.

use crate::config::Config;
use crate::config::value::MailboxSpec;
use crate::mailbox::{Maildrop, beside};
use log::warn;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::SystemTime;

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
        if let Err(error) = self.try_mark(maildrop, marked) {
            warn!("event=nothing-expires why={:?}", error.to_string());
        }
    }

    fn try_mark<M: Maildrop>(&self, maildrop: &M, marked: &mut Vec<usize>) -> std::io::Result<()> {
        let mut times: HashMap<String, u64> = HashMap::new();
        let mut lines = 0_usize;
        self.file.each_line(|line| {
            lines += 1;
            if let Some((time, unique_id)) = line.split_once(' ')
                && let Ok(time) = time.parse()
            {
                // The first time counts.
                times.entry(unique_id.to_owned()).or_insert(time);
            }
        })?;
        if times.is_empty() {
            return Ok(());
        }
        let latest = now().saturating_sub(u64::from(self.days).saturating_mul(86_400));
        let mut expired = BTreeSet::from_iter(marked.iter().copied());
        let mut kept = Vec::new();
        for index in 0..maildrop.count() {
            let unique_id = maildrop.entry(index)?.unique_id;
            let Some(time) = times.get(&unique_id).copied() else { continue };
            if self.removes && time <= latest {
                expired.insert(index);
            }
            // Kept although it is to go now: that may fail.
            kept.push((time, unique_id));
        }
        if kept.len() < lines {
            let text: String = kept.iter().map(|(time, unique_id)| format!("{time} {unique_id}\n")).collect();
            self.file.replace(&text)?;
        }
        *marked = expired.into_iter().collect();
        Ok(())
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
