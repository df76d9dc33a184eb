//! Small text files of ours beside a mailbox: in a Maildir `doorpost-WHAT`, beside a file `.NAME.doorpost-WHAT`.
//!
//! They belong to who has the session's lock, and are its user's. They are read a line at a time; a line that is too
//! long or no UTF-8 is none.

use crate::config::value::{MailboxFormat, MailboxSpec};
use crate::users::passwd_file;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// One such file.
#[derive(Debug, Clone)]
pub struct Beside {
    path: PathBuf,
}

impl Beside {
    /// The file of a mailbox for something; it need not be there.
    pub fn of(spec: &MailboxSpec, what: &str) -> Beside {
        let mailbox = Path::new(&spec.path);
        let path = match spec.format {
            MailboxFormat::Maildir => mailbox.join(format!("doorpost-{what}")),
            MailboxFormat::Mbox | MailboxFormat::Mmdf => {
                let mut name = OsString::from(".");
                name.push(mailbox.file_name().unwrap_or_default());
                name.push(format!(".doorpost-{what}"));
                mailbox.with_file_name(name)
            }
        };
        Beside { path }
    }

    /// Where it is, for records.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open(&self, path: &Path, options: &mut OpenOptions) -> io::Result<File> {
        options.mode(0o600).custom_flags(OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).bits()).open(path)
    }

    /// Gives each line, without its end. A file that is not there has none, nor has another user's.
    pub fn each_line(&self, each: impl FnMut(&str)) -> io::Result<()> {
        self.lines(each, |_| Ok(()))
    }

    /// The same, but another user's file is an error where only the user may make files: then it was ours, and somebody has
    /// given it away.
    pub fn each_line_of_ours(&self, each: impl FnMut(&str)) -> io::Result<()> {
        self.lines(each, |file| {
            let folder = file.folder()?.metadata()?;
            if folder.uid() == geteuid().as_raw() && folder.mode() & 0o022 == 0 {
                let why = format!("{} is another user's", file.path.display());
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
            }
            Ok(())
        })
    }

    fn lines(&self, mut each: impl FnMut(&str), not_ours: impl Fn(&Beside) -> io::Result<()>) -> io::Result<()> {
        // In a folder where others may make files, theirs are not believed, nor need they be such as can be opened.
        let is_ours = |found: &Metadata| found.uid() == geteuid().as_raw();
        let open = || -> io::Result<Option<File>> {
            if !is_ours(&std::fs::symlink_metadata(&self.path)?) {
                return Ok(None);
            }
            let file = self.open(&self.path, OpenOptions::new().read(true))?;
            Ok(is_ours(&file.metadata()?).then_some(file))
        };
        let file = match open() {
            Ok(Some(file)) => file,
            Ok(None) => {
                log::warn!("event=not-ours file={:?}", self.path.display().to_string());
                return not_ours(self);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        passwd_file::lines(file, |_, line| {
            if let Some(line) = line.and_then(|line| std::str::from_utf8(line).ok()) {
                each(line);
            }
            Ok::<(), io::Error>(())
        })
    }

    /// Adds lines at the end.
    pub fn append(&self, lines: &str) -> io::Result<()> {
        self.open(&self.path, OpenOptions::new().append(true).create(true))?.write_all(lines.as_bytes())
    }

    /// Puts a new file in its place, on disk before it has the name: a power cut leaves the old one or the new one,
    /// whole. Who needs the new one for certain calls [`Beside::settle`] behind it.
    pub fn replace(&self, text: &str) -> io::Result<()> {
        let mut draft = self.path.clone().into_os_string();
        draft.push(".new");
        let draft = PathBuf::from(draft);
        match std::fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = self.open(&draft, OpenOptions::new().write(true).create_new(true))?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        let placed = written.and_then(|()| std::fs::rename(&draft, &self.path));
        // A disk that is full is not to stay so for a file that nobody reads.
        placed.inspect_err(|_| std::fs::remove_file(&draft).unwrap_or_default())
    }

    /// Puts on disk what names there are in the folder.
    pub fn settle(&self) -> io::Result<()> {
        self.folder()?.sync_all()
    }

    fn folder(&self) -> io::Result<File> {
        File::open(self.path.parent().unwrap_or(Path::new(".")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_somebody_gave_away_is_an_error_and_what_others_left_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let spec = MailboxSpec { format: MailboxFormat::Maildir, path: folder.path().display().to_string() };
        let ids = Beside::of(&spec, "ids");
        ids.replace("one two\n").unwrap();
        let mut seen = Vec::new();
        ids.each_line_of_ours(|line| seen.push(line.to_owned())).unwrap();
        assert_eq!(seen, ["one two"]);
        if !crate::needs::root() {
            return;
        }
        std::os::unix::fs::chown(ids.path(), Some(65_534), None).unwrap();
        let none = |line: &str| panic!("{line}");
        assert_eq!(ids.each_line_of_ours(none).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        ids.each_line(none).unwrap();
        // As /var/mail is.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
        ids.each_line_of_ours(none).unwrap();
    }

    #[test]
    fn what_others_put_in_its_place_is_passed_by_though_it_could_not_be_opened() {
        let folder = tempfile::tempdir().unwrap();
        let spec = MailboxSpec { format: MailboxFormat::Mbox, path: folder.path().join("bob").display().to_string() };
        let file = Beside::of(&spec, "ids");
        let lines = || {
            let mut lines = Vec::new();
            file.each_line(|line| lines.push(line.to_owned())).map(|()| lines)
        };
        assert!(lines().unwrap().is_empty());
        std::fs::write(file.path(), "ours\n").unwrap();
        assert_eq!(lines().unwrap(), ["ours"]);
        if !crate::needs::root() {
            return;
        }
        std::os::unix::fs::lchown(file.path(), Some(1), None).unwrap();
        assert!(lines().unwrap().is_empty(), "another's file");
        std::fs::remove_file(file.path()).unwrap();
        std::os::unix::fs::symlink("bob", file.path()).unwrap();
        assert!(lines().is_err(), "a link of ours");
        std::os::unix::fs::lchown(file.path(), Some(1), None).unwrap();
        assert!(lines().unwrap().is_empty(), "another's link");
    }
}
