//! Whether all messages belong to whom the queue belongs: a copy that root has put back does not, and one such folder has no
//! place for its part of all new mail either.

use super::{Findings, Origin};
use crate::config::Config;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// `owners`: the users who may have it.
pub(super) fn check(config: &Config, owners: &[u32], findings: &mut Findings) {
    let queue = &config.queue_directory;
    let is_told = || fs::symlink_metadata(queue).is_ok_and(|status| !owners.contains(&status.uid()));
    if owners.is_empty() || is_told() {
        return;
    }
    let (mut first, mut count) = (None, 0_usize);
    let mut look = |path: &Path| {
        let Ok(status) = fs::symlink_metadata(path) else { return false };
        if !owners.contains(&status.uid()) {
            count += 1;
            first.get_or_insert((path.to_owned(), status.uid()));
        }
        status.is_dir()
    };
    let top = queue.join("message");
    if look(&top) {
        for folder in entries(&top) {
            if look(&folder) {
                entries(&folder).for_each(|file| _ = look(&file));
            }
        }
    }
    if let Some((path, uid)) = first {
        let more = if count > 1 { format!(", and so do {} more of the queue", count - 1) } else { String::new() };
        let problem =
            format!("it belongs to uid {uid}, and not to mail_owner{more}: mail waits, or is told to come back");
        let mend = format!("chown -R {} {}", config.mail_owner, top.display());
        findings.error(&Origin::File(path.into(), 0), &problem, &mend);
    }
}

/// Nothing of a folder that is closed to us.
fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}
