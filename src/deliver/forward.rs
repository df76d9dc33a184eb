//! A user's `~/.forward`, read with the user's own rights: comments, addresses, `\user`, and what main.cf may allow.
//!
//! For `user+detail` `~/.forward+detail` comes before it. A file that the user did not write, or that anybody may write, is as
//! good as none; so is a symbolic link of somebody else's. One that is being written is waited for: half of it would send mail
//! where nobody wants it.

use crate::aliases::{self, Target};
use crate::kept;
use crate::users::User;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

/// Largest file, in octets.
pub const LARGEST: u64 = 64 * 1024;

/// Most targets; whoever has more is sent nothing on, for some of them would be left out.
pub const MOST: usize = 1000;

/// Whether there is one that counts.
pub fn is_there(user: &User, extension: &str) -> io::Result<bool> {
    open(user, extension).map(|file| file.is_some())
}

/// What it holds; nothing where there is none.
pub fn read(user: &User, extension: &str) -> io::Result<Vec<u8>> {
    let read = |file: &File| {
        let mut octets = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut octets).map(|_| octets)
    };
    let octets = kept::once_quiet(|| open(user, extension), read)?.unwrap_or_default();
    if octets.len() as u64 > LARGEST {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it has more than {LARGEST} octets")));
    }
    Ok(octets)
}

/// What the lines of one say.
#[derive(Debug)]
pub struct Said {
    /// The targets of those that can be read.
    pub targets: Vec<Target>,
    /// There are others: nobody knows whom they mean, so the user keeps a copy.
    pub is_in_part: bool,
}

/// The targets in that of a user. A line that is wrong is passed over.
pub fn targets(user: &str, octets: &[u8]) -> Said {
    let (mut found, mut is_in_part) = (Vec::new(), false);
    for (_, targets) in aliases::lines(octets) {
        match targets {
            Ok(targets) => found.extend(targets),
            Err(problem) => {
                is_in_part = true;
                log::warn!("user={user} event=forward-line-ignored reason={problem:?}");
            }
        }
    }
    Said { targets: found, is_in_part }
}

fn open(user: &User, extension: &str) -> io::Result<Option<File>> {
    if !user.home.is_absolute() {
        return Ok(None);
    }
    let is_name = !extension.is_empty() && !extension.contains('/') && !extension.chars().any(char::is_control);
    let special = is_name.then(|| user.home.join(format!(".forward+{extension}")));
    for path in special.into_iter().chain([user.home.join(".forward")]) {
        if let Some(file) = open_one(user, &path)? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

fn open_one(user: &User, path: &PathBuf) -> io::Result<Option<File>> {
    let own = user.owner.map_or_else(|| nix::unistd::geteuid().as_raw(), |(uid, _)| uid);
    let is_theirs = |uid: u32| uid == own || uid == 0;
    let unsafe_one = |why: &str| {
        log::warn!("user={} file={}: {why}; it is ignored", user.name, path.display());
        Ok(None)
    };
    // A name longer than any file's is a sender's doing, by a long extension.
    let is_none = |kind| matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename);
    let named = match path.symlink_metadata() {
        Err(error) if is_none(error.kind()) => return Ok(None),
        named => named?,
    };
    if !is_theirs(named.uid()) {
        return unsafe_one("it is another user's");
    }
    // Non-blocking, for a FIFO put there must not hold us.
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
    let file = match opened {
        // A symbolic link that leads nowhere.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return unsafe_one("it is no regular file");
    }
    if !is_theirs(metadata.uid()) || metadata.mode() & 0o002 != 0 {
        return unsafe_one("it is another user's, or anybody may write it");
    }
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kept::write_long_ago;
    use std::os::unix::fs::PermissionsExt;

    fn user(home: &std::path::Path) -> User {
        let (name, home) = ("bob".to_owned(), home.to_owned());
        User { name, owner: None, home, mailbox: None, password: None, is_of_system: false }
    }

    #[test]
    fn the_file_of_the_extension_comes_first_and_none_is_none() {
        let home = tempfile::tempdir().unwrap();
        let user = user(home.path());
        assert_eq!(read(&user, "x").unwrap(), b"");
        assert!(!is_there(&user, "").unwrap());
        write_long_ago(&home.path().join(".forward"), "a\n");
        write_long_ago(&home.path().join(".forward+x"), "b\n");
        let (longest, longer) = ("z".repeat(246), "z".repeat(247));
        write_long_ago(&home.path().join(format!(".forward+{longest}")), "b\n");
        let others = [("", b"a\n"), ("x", b"b\n"), ("y", b"a\n"), ("../x", b"a\n")];
        for (extension, text) in others.into_iter().chain([(longest.as_str(), b"b\n"), (&longer, b"a\n")]) {
            assert_eq!(read(&user, extension).unwrap(), text, "{extension}");
        }
    }

    #[test]
    fn a_file_anybody_may_write_counts_as_none_and_a_folder_too() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(".forward");
        write_long_ago(&path, "a\n");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(!is_there(&user(home.path()), "").unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(!is_there(&user(home.path()), "").unwrap());
    }

    #[test]
    fn what_is_too_large_is_an_error_and_not_cut_off() {
        let home = tempfile::tempdir().unwrap();
        write_long_ago(&home.path().join(".forward"), "a,".repeat(40_000));
        assert!(read(&user(home.path()), "").is_err());
    }

    #[test]
    fn wrong_lines_are_passed_over() {
        let found = targets("bob", b"# me\nalice, \\bob\n\"\n|/bin/x y\n\n:include:rel\n");
        let texts: Vec<String> = found.targets.iter().map(super::super::task::as_text).collect();
        assert_eq!(texts, ["alice", "\\bob", "|/bin/x y"]);
        assert!(found.is_in_part);
        assert!(!targets("bob", b"# \"\nalice\n\n").is_in_part);
        let marked = targets("bob", b"\xef\xbb\xbfalice@x.example\nj\xf6rg@x.example\n");
        assert_eq!(marked.targets, [Target::Address("alice@x.example".to_owned())]);
        assert!(marked.is_in_part);
    }
}
