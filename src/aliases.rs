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

pub use expand::{Expansion, Place, Trouble, expand, lists};
pub use parse::{Entry, Fault, defers_failures, split_command, targets};

use crate::config::Config;
use crate::kept::{self, Kept};
use crate::lookup::Lookup;
use crate::message::idna;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
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

/// The alias file there is, if there is one: `Err` where one is named and missing.
pub fn path(config: &Config) -> Option<PathBuf> {
    match &config.alias_maps.0 {
        Some(path) => Some(path.clone()),
        None => Some(PathBuf::from(USUAL)).filter(|path| path.exists()),
    }
}

/// What an alias file says, in order. Lines that are wrong come as faults between the entries.
pub fn read(path: &Path) -> io::Result<Vec<Result<Entry, Fault>>> {
    contents(path).map(|octets| parse::entries(&octets))
}

/// The targets of a name, which is compared without regard to case; the first entry counts. A line that is wrong is
/// logged and passed over, so that a slip in one line stops no mail for the others.
pub fn find(config: &Config, name: &str) -> Lookup<Vec<Target>> {
    match entries(config) {
        Lookup::Yes(entries) => find_in(&entries, name).cloned().map_or(Lookup::No, Lookup::Yes),
        Lookup::No => Lookup::No,
        Lookup::CannotTell(why) => Lookup::CannotTell(why),
    }
}

fn find_in<'a>(entries: &'a [Entry], name: &str) -> Option<&'a Vec<Target>> {
    entries.iter().find(|entry| entry.name.eq_ignore_ascii_case(name)).map(|entry| &entry.targets)
}

/// What the alias file says, as far as its lines are right; `No`: there is none.
fn entries(config: &Config) -> Lookup<Arc<Vec<Entry>>> {
    static KEPT: Kept<Vec<Entry>> = Kept::new();
    let (path, may_be_missing) = match &config.alias_maps.0 {
        Some(path) => (path.as_path(), false),
        None => (Path::new(USUAL), true),
    };
    let log = |fault: Fault| log::debug!("{}:{}: {}", path.display(), fault.line, fault.problem);
    let right = |entry: Result<Entry, Fault>| entry.map_err(log).ok();
    let read = || {
        kept::unless_just_emptied(path)?;
        Ok(read(path)?.into_iter().filter_map(right).collect())
    };
    match KEPT.get(path, read) {
        Ok(entries) => Lookup::Yes(entries),
        Err(error) if may_be_missing && !path.exists() => {
            let _: io::Error = error;
            Lookup::No
        }
        Err(error) => Lookup::CannotTell(format!("{}: {error}", path.display())),
    }
}

/// The aliases that stand for the recipient `local`@`domain`: that of the whole address before that of the local part.
pub fn find_for(config: &Config, local: &str, domain: &str) -> Lookup<(String, Vec<Target>)> {
    let whole = |domain: &str| format!("{local}@{domain}");
    let others = idna::other_spellings(domain);
    let wholes = std::iter::once(whole(domain)).chain(others.iter().map(|domain| whole(domain)));
    let entries = match entries(config) {
        Lookup::Yes(entries) => entries,
        Lookup::No => return Lookup::No,
        Lookup::CannotTell(why) => return Lookup::CannotTell(why),
    };
    for name in wholes.chain([local.to_owned()]) {
        if let Some(targets) = find_in(&entries, &name) {
            return Lookup::Yes((name.to_ascii_lowercase(), targets.clone()));
        }
    }
    Lookup::No
}

/// A file of ours, whole: regular, and of a bounded size.
fn contents(path: &Path) -> io::Result<Vec<u8>> {
    // Non-blocking, so that a FIFO in its place cannot hold a program up for ever.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path)?;
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
