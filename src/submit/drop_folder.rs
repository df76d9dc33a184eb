//! The drop folder: where users who may not write the queue leave messages, without any program with rights of its own.
//!
//! `drop_directory` belongs to `mail_owner` and has mode 1733: everybody may put files there, nobody but its owner can list
//! it, and nobody can take another's file away. A file has a name that cannot be guessed, is written in place under a
//! lock, and holds the frames that a server would send to submit, the last of which commits; without that one it is
//! incomplete. Who owns the file has sent it, by the system's word; the frames are a user's, and may say what a user may say
//! with sendmail: sender, recipients, their parameters, and content.
//!
//! The FIFO `trigger` in it, which anybody may write, wakes deliver, which collects what is there, once a second at the
//! most, and before each sweep. A file is queued under an id made from its name and owner, and removed when that is on disk;
//! so a crash in between leaves a message that is found again, and no second one.
//!
//! `drop_folder/leave.rs` is the user's side, `drop_folder/disk.rs` puts a name on disk whose folder cannot be opened, and
//! `drop_folder/collect.rs` is deliver's side.

mod collect;
mod disk;
mod leave;

use crate::config::Config;
pub use collect::Collector;
pub use leave::Dropper;
use nix::sys::stat::Mode;
use std::fs::{Metadata, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The mode of the folder, which the administrator makes.
const MODE: u32 = 0o1733;

/// Octets of chance in a name.
const CHANCE: usize = 16;

/// The channel that their mail comes in on.
const CHANNEL: &str = "local";

/// What frames add to a message at the most, besides a thousandth of it: those of content are full but the last.
const FRAMES: u64 = 64 * 1024;

/// The longest file whose message the queue can take.
fn longest(config: &Config) -> u64 {
    match config.message_size_limit {
        0 => u64::MAX,
        limit => limit.saturating_add(limit / 1024).saturating_add(FRAMES),
    }
}

/// What a file gives rise to, by its name and owner: once, whatever crashes.
fn origin(name: &str, uid: u32) -> String {
    format!("drop {name} of uid {uid}")
}

/// The FIFO of the folder, made where it is missing; nothing where there is no such folder of ours.
pub fn trigger(config: &Config) -> Option<PathBuf> {
    if !config.drop_directory.exists() {
        return None;
    }
    let path = owned(config)?.join("trigger");
    // Once it is ours nobody else can take it away; before that anybody may put something in its place.
    for _ in 0..3 {
        // Not subject to the umask, which is for us alone.
        if nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600)).is_ok() {
            let _ = std::fs::set_permissions(&path, Permissions::from_mode(0o622));
            break;
        }
        match std::fs::symlink_metadata(&path) {
            Ok(found) if !is_ours(&found) => set_aside(&path, &found),
            _ => break,
        }
    }
    Some(path)
}

fn is_ours(found: &Metadata) -> bool {
    found.file_type().is_fifo() && found.uid() == nix::unistd::geteuid().as_raw()
}

fn set_aside(path: &Path, found: &Metadata) {
    // A folder may have something in it, and by a name that can be told in advance somebody else would be first.
    let done = match found.is_dir() {
        true => unguessable()
            .and_then(|chance| std::fs::rename(path, path.with_file_name(format!("refused.trigger.{chance}")))),
        false => std::fs::remove_file(path),
    };
    let (path, uid) = (path.display(), found.uid());
    match done {
        Ok(()) => log::warn!("event=replaced file={path} uid={uid} reason=\"it was no FIFO of ours\""),
        Err(error) => log::warn!("event=not-replaced file={path} uid={uid} reason={:?}", error.to_string()),
    }
}

/// Digits that nobody can tell in advance.
fn unguessable() -> std::io::Result<String> {
    let mut octets = [0; CHANCE];
    getrandom::fill(&mut octets).map_err(|error| std::io::Error::other(format!("no chance: {error}")))?;
    Ok(octets.iter().map(|octet| format!("{octet:02x}")).collect())
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
