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
//! The file is text and read anew at each look-up, so nothing has to be rebuilt. `parse.rs` takes lines and targets apart,
//! `expand.rs` follows one alias to its end. Nothing here runs or opens anything but the alias file and the files of
//! `:include:`; deliver does that, after it has looked here again.

mod expand;
mod parse;

pub use expand::{Expansion, Place, Trouble, expand, lists};
pub use parse::{Entry, Fault, split_command, targets};

use crate::config::Config;
use crate::lookup::Lookup;
use crate::message::idna;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

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
    let Some(path) = path(config) else { return Lookup::No };
    let octets = match contents(&path) {
        Ok(octets) => octets,
        Err(error) => return Lookup::CannotTell(format!("{}: {error}", path.display())),
    };
    for entry in parse::entries(&octets) {
        match entry {
            Ok(entry) if entry.name.eq_ignore_ascii_case(name) => return Lookup::Yes(entry.targets),
            Ok(_) => {}
            Err(Fault { line, problem }) => log::debug!("{}:{line}: {problem}", path.display()),
        }
    }
    Lookup::No
}

/// The aliases that stand for the recipient `local`@`domain`: that of the whole address before that of the local part.
pub fn find_for(config: &Config, local: &str, domain: &str) -> Lookup<(String, Vec<Target>)> {
    let whole = |domain: &str| format!("{local}@{domain}");
    let others = idna::other_spellings(domain);
    let wholes = std::iter::once(whole(domain)).chain(others.iter().map(|domain| whole(domain)));
    for name in wholes.chain([local.to_owned()]) {
        match find(config, &name) {
            Lookup::No => {}
            Lookup::Yes(targets) => return Lookup::Yes((name.to_ascii_lowercase(), targets)),
            Lookup::CannotTell(why) => return Lookup::CannotTell(why),
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
