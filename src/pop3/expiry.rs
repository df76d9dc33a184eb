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

use crate::clock::since_1970;
use crate::config::Config;
use crate::config::value::MailboxSpec;
use crate::mailbox::{Maildrop, beside};
use log::warn;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::SystemTime;

/// A time, a blank, the longest unique-id, and the end of the line.
const LONGEST_LINE: u64 = 20 + 1 + 70 + 1;

/// A clock that says less has not been set since the machine was started: it begins in 1970, or when its system was made.
const NOT_SET: u64 = 1_600_000_000;

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
            warn!("event=fetch-not-noted reason={:?}", error.to_string());
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
            Err(error) => return warn!("event=nothing-expires reason={:?}", error.to_string()),
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
                Err(error) => warn!("event=fetched-not-read reason={:?}", error.to_string()),
            }
        }
    }

    fn known<M: Maildrop>(&self, maildrop: &M) -> std::io::Result<Known> {
        let mut times: HashMap<String, [u64; 2]> = HashMap::new();
        let mut known = Known { lines: 0, has_wrong: false, kept: Vec::new() };
        self.file.each_line(|line| {
            known.lines += 1;
            if let Some((time, unique_id)) = line.split_once(' ')
                && let Ok(time) = time.parse()
            {
                times.entry(unique_id.to_owned()).and_modify(|[_, last]| *last = time).or_insert([time, time]);
            }
        })?;
        if times.is_empty() {
            return Ok(known);
        }
        for index in 0..maildrop.count() {
            let unique_id = maildrop.entry(index)?.unique_id;
            let Some(times) = times.get(&unique_id) else { continue };
            // The first time counts; but nobody had a message before it came: then the clock was not set. Names that begin
            // with another number, of milliseconds say, or were given by a clock that is ahead, do not say when that was.
            let came = maildrop.came(index)?.filter(|came| *came <= now()).unwrap_or(0).max(NOT_SET);
            let time = times.iter().copied().find(|time| *time >= came);
            known.has_wrong |= time.is_none();
            known.kept.push((index, time.unwrap_or_else(now), unique_id));
        }
        Ok(known)
    }

    /// Leaves out what is not needed any more. Where that is not possible, on a full disk, there is only more to read.
    fn forget(&self, known: &Known) {
        if known.kept.len() < known.lines || known.has_wrong {
            let text: String = known.kept.iter().map(|(_, time, unique_id)| format!("{time} {unique_id}\n")).collect();
            if let Err(error) = self.file.replace(&text) {
                warn!("event=fetched-not-rewritten reason={:?}", error.to_string());
            }
        }
    }
}

/// What the file says.
struct Known {
    lines: usize,
    /// A time was none.
    has_wrong: bool,
    /// Of messages that are there: number from 0, time and unique-id.
    kept: Vec<(usize, u64, String)>,
}

fn now() -> u64 {
    since_1970(SystemTime::now()).as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value::MailboxFormat;
    use crate::mailbox::maildir::Maildir;
    use std::fs;

    #[test]
    fn a_time_before_the_message_came_is_none_and_the_days_begin_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Maildir");
        drop(Maildir::open(&path).unwrap());
        let start = now();
        let ago = |days: u64| start - days * 86_400;
        let names = [
            format!("{}.old", ago(10)),
            format!("{}.young", ago(2)),
            "noname".to_owned(),
            "twice".to_owned(),
            "1700000000123.ahead".to_owned(),
        ];
        for name in &names {
            fs::write(path.join("new").join(name), "a\n").unwrap();
        }
        let spec = MailboxSpec { format: MailboxFormat::Maildir, path: path.display().to_string() };
        let config = Config::with(&[("pop3d_expire", "7"), ("pop3d_delete_expired", "yes")]);
        let [old, young, noname, twice, ahead] = &names;
        let read = path.join("doorpost-read");
        let noted = format!("{} {old}\n{} {young}\n100 {noname}\n100 {twice}\n{} {twice}\n", ago(8), ago(8), ago(9));
        fs::write(&read, format!("{noted}{} {ahead}\n", ago(8))).unwrap();
        let maildrop = Maildir::open(&path).unwrap();
        let mut marked = Vec::new();
        Expiry::of(&config, &spec).unwrap().mark_expired(&maildrop, &mut marked);
        let marked: Vec<String> = marked.iter().map(|number| maildrop.entry(*number).unwrap().unique_id).collect();
        assert_eq!(marked, ["twice".to_owned(), old.clone(), ahead.clone()]);
        let noted = fs::read_to_string(&read).unwrap();
        let time = |id: &str| -> u64 {
            noted.lines().find_map(|line| line.strip_suffix(&format!(" {id}"))).unwrap().parse().unwrap()
        };
        assert_eq!((noted.lines().count(), time(old), time(twice), time(ahead)), (5, ago(8), ago(9), ago(8)));
        assert!(time(young) > ago(1) && time(noname) > ago(1), "{noted}");
    }
}
