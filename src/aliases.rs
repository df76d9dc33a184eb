//! Aliases: `/etc/aliases` as sendmail and Postfix read it, and the same targets in a `~/.forward`.
//!
//! ```text
//! # comment
//! postmaster: alice
//! list: bob, "carol x"@example.net,
//!     :include:/etc/doorpost/list-members
//! owner-list: alice
//! archive: /var/mail/archive/          programs and files only where main.cf allows them
//! tickets: "|/usr/local/bin/ticket new"
//! ```
//!
//! The file is text and looked at anew at each look-up, so nothing has to be rebuilt. `parse.rs` takes lines and targets apart,
//! `expand.rs` follows one alias to its end. Nothing here runs or opens anything but the alias file and the files of
//! `:include:`; deliver does that, after it has looked here again.

mod expand;
mod parse;

pub use expand::{Expansion, Place, Trouble, expand, included, lists};
pub use parse::{Entry, Fault, defers_failures, lines, split_command};

use crate::config::Config;
use crate::kept::{self, Kept, Stamp};
use crate::lookup::Lookup;
use crate::mailbox::way;
use crate::message::idna;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The file that is read where `alias_maps` names none and this is there.
const USUAL: &str = "/etc/aliases";

/// Largest alias file and largest file of `:include:`, in octets.
const LARGEST: u64 = 8 << 20;

/// Where mail for one name goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address, or the name of a user or another alias where it has no domain.
    Address(String),
    /// `\user`: into that user's mailbox, whatever aliases and `~/.forward` say.
    Mailbox(String),
    /// `|command`: as it is written behind the bar.
    Program(String),
    /// `/path`: appended to a file, or to a Maildir if it ends in `/`. `/dev/null` throws mail away.
    File(String),
    /// `:include:/path`: more targets, one or several a line.
    Include(PathBuf),
}

/// The alias files that are named, in their order, though they be missing; else the usual one if it is there.
pub fn paths(config: &Config) -> Vec<PathBuf> {
    match &config.alias_maps.0[..] {
        [] => Some(PathBuf::from(USUAL)).into_iter().filter(|path| is_there(path)).collect(),
        named => named.iter().map(|map| map.0.clone()).collect(),
    }
}

/// Whether there is such a file, or it cannot be told, or there is one in a moment.
fn is_there(path: &Path) -> bool {
    is_there_after(path, || std::thread::sleep(kept::A_MOMENT))
}

fn is_there_after(path: &Path, pause: impl FnOnce()) -> bool {
    let is_there = || path.try_exists().unwrap_or(true);
    is_there() || (kept::may_come_back(path) && (pause(), is_there()).1)
}

/// What an alias file says, in order. Lines that are wrong come as faults between the entries.
pub fn read(path: &Path) -> io::Result<Vec<Result<Entry, Fault>>> {
    contents(path).map(|octets| parse::entries(&octets))
}

/// What an alias file says.
#[derive(Debug)]
struct Table {
    path: PathBuf,
    entries: Vec<Result<Entry, Fault>>,
}

impl Table {
    fn read(path: &Path) -> io::Result<Table> {
        let stamp = Stamp::of(path);
        kept::unless_just_emptied(path)?;
        let entries = read(path)?;
        let mut faults = entries.iter().filter_map(|entry| entry.as_ref().err());
        if let Some(Fault { line, problem, .. }) = faults.next() {
            let level = if kept::is_news(path, stamp) { log::Level::Warn } else { log::Level::Debug };
            match faults.count() {
                0 => log::log!(level, "{}:{line}: {problem}", path.display()),
                more => log::log!(level, "{}:{line}: {problem}; newaliases tells {more} more", path.display()),
            }
        }
        Ok(Table { path: path.to_owned(), entries })
    }

    fn find(&self, name: &str) -> Lookup<&[Target]> {
        let named = |entry: &&Result<Entry, Fault>| {
            let known = entry.as_ref().map_or_else(|fault| fault.name.as_deref(), |entry| Some(&entry.name));
            known.is_some_and(|known| known.eq_ignore_ascii_case(name))
        };
        match self.entries.iter().find(named) {
            None => Lookup::No,
            Some(Ok(entry)) => Lookup::Yes(&entry.targets),
            Some(Err(Fault { line, problem, .. })) => {
                Lookup::CannotTell(format!("{}:{line}: {problem}", self.path.display()))
            }
        }
    }
}

/// What the alias files say, as they were at one moment. Large ones are read anew for each of these.
#[derive(Debug)]
struct Aliases(Vec<Arc<Table>>);

impl Aliases {
    /// The error says why that cannot be told now.
    fn read(config: &Config) -> Result<Aliases, String> {
        static KEPT: Kept<Table> = Kept::new();
        let mut tables = Vec::new();
        for path in paths(config) {
            match KEPT.get(&path, || Table::read(&path)) {
                Ok(table) => tables.push(table),
                // The usual one may go at any moment.
                Err(_) if config.alias_maps.0.is_empty() && !is_there(&path) => {}
                Err(error) => return Err(format!("{}: {error}", path.display())),
            }
        }
        Ok(Aliases(tables))
    }

    /// The targets of a name, which is compared without regard to case; the first entry of the first file that has one
    /// counts. A slip in one line stops no mail for the others: of a line with a name it cannot be told where that one's mail
    /// goes, and one without a name is passed over.
    fn find(&self, name: &str) -> Lookup<&[Target]> {
        let found = self.0.iter().map(|table| table.find(name)).find(|found| *found != Lookup::No);
        found.unwrap_or(Lookup::No)
    }

    /// The alias that stands for the recipient `local`@`domain`: that of the whole address before that of the local part.
    fn find_for(&self, local: &str, domain: &str) -> Lookup<(String, &[Target])> {
        let whole = |domain: &str| format!("{local}@{domain}");
        let others = idna::other_spellings(domain);
        let wholes = std::iter::once(whole(domain)).chain(others.iter().map(|domain| whole(domain)));
        for name in wholes.chain([local.to_owned()]) {
            match self.find(&name) {
                Lookup::Yes(targets) => return Lookup::Yes((name.to_ascii_lowercase(), targets)),
                Lookup::No => {}
                Lookup::CannotTell(why) => return Lookup::CannotTell(why),
            }
        }
        Lookup::No
    }
}

/// The alias that stands for the recipient `local`@`domain`, and its targets.
pub fn find_for(config: &Config, local: &str, domain: &str) -> Lookup<(String, Vec<Target>)> {
    match Aliases::read(config) {
        Ok(aliases) => aliases.find_for(local, domain).map(|(name, targets)| (name, targets.to_vec())),
        Err(why) => Lookup::CannotTell(why),
    }
}

/// The alias file, whole. Who may write it or a link to it is the administrator's to choose.
fn contents(path: &Path) -> io::Result<Vec<u8>> {
    // Non-blocking, so that a FIFO in its place cannot hold a program up for ever.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
    whole(&file)
}

/// Who else than root and we may have written a file of `:include:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// The user whose it is.
    Owner(u32),
    /// Others than its owner may write to it.
    Others,
}

/// A file of `:include:`, whole, and its writer if that is neither root nor we. It often is a user's own, who may name whatever
/// we may read, as a file of passwords, and what is in it would come back to him in a report. So no symbolic link of another's
/// leads to it, and what another's file names, `writer`'s, is that user's own, or may be read by everybody where nobody knows
/// who that is. One that is being written is waited for.
fn included_file(path: &Path, writer: Option<Writer>) -> io::Result<(Vec<u8>, Option<Writer>)> {
    let read = kept::once_quiet(|| way::file(path).map(Some), |file| read_included(file, writer))?;
    read.ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn read_included(file: &File, writer: Option<Writer>) -> io::Result<(Vec<u8>, Option<Writer>)> {
    let not_to_be_read = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    let metadata = file.metadata()?;
    let is_for_all = metadata.mode() & 0o004 != 0;
    match writer {
        Some(Writer::Owner(uid)) if uid != metadata.uid() => {
            return not_to_be_read("it belongs to another than the file that names it");
        }
        Some(Writer::Others) if !is_for_all => {
            return not_to_be_read(
                "not everybody may read it, and others than its owner may write to the file that names it",
            );
        }
        _ => {}
    }
    // Some kernels let anybody give another name to a file that he cannot read.
    if metadata.nlink() > 1 && !is_for_all {
        return not_to_be_read("it has other names, and not everybody may read it");
    }
    let is_foreign = !way::is_trusted(file)?;
    let writer = match metadata.mode() & 0o022 {
        0 => is_foreign.then_some(Writer::Owner(metadata.uid())),
        _ => Some(Writer::Others),
    };
    Ok((whole(file)?, writer))
}

/// What is in a file: regular, and of a bounded size.
fn whole(file: &File) -> io::Result<Vec<u8>> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    let mut octets = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut octets)?;
    match octets.len() as u64 {
        0..=LARGEST => Ok(octets),
        _ => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {LARGEST} octets"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_file_that_is_moved_away_for_a_moment_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("aliases");
        assert!(is_there_after(&path, || std::fs::write(&path, "list: bob\n").unwrap()));
        assert!(is_there_after(&path, || panic!("it is there")));
        std::fs::remove_file(&path).unwrap();
        assert!(!is_there_after(&path, || {}));
        assert!(!is_there_after(Path::new("/nonexistent/aliases"), || panic!("nobody is at it")));
    }
}
