//! Reading a file of the configuration whole: main.cf, channels, a table.

use super::Error;
use crate::kept::{self, A_MOMENT};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};

/// Largest main.cf or table read, in octets.
const LARGEST_FILE: u64 = 1 << 20;
const ENOUGH_FOR_MOST: usize = 2048;

/// What a configuration file holds; nothing if it is not there.
pub(crate) fn contents(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let wrong = |problem: String| Error::at(path, 0, problem);
    // Non-blocking, so that a FIFO in its place cannot hold a server up for ever.
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(format!("expected a readable file: {error}"))),
    };
    // Two reads for most files, the second to learn that this is all; growing from nothing would take five.
    let mut octets = Vec::with_capacity(ENOUGH_FOR_MOST);
    file.take(LARGEST_FILE + 1)
        .read_to_end(&mut octets)
        .map_err(|error| wrong(format!("expected a readable file: {error}")))?;
    if octets.len() as u64 > LARGEST_FILE {
        return Err(wrong(format!("expected a file of at most {LARGEST_FILE} octets")));
    }
    // What comes next may lie where nothing was read: memory that was never written to costs nothing.
    octets.shrink_to_fit();
    Ok(Some(octets))
}

/// A table that a parameter names, which says something: by a missing or an empty one that would be nothing of anybody, and a
/// file that is being written is empty for a moment.
pub(crate) fn table(parameter: &str, path: &Path) -> Result<Vec<u8>, Error> {
    let lacks = |what: &str| Error::at(path, 0, format!("{parameter}: expected {what}"));
    match contents(path)? {
        Some(octets) if octets.is_empty() && path.is_file() => {
            Err(lacks("an entry or a comment, and there is nothing in this file"))
        }
        Some(octets) => Ok(octets),
        None => Err(lacks("a file, and there is none")),
    }
}

/// What tells a program of ours which files there were: in the environment, a line each.
const WERE_THERE: &str = "DOORPOST_WERE_THERE";

/// The files that this process has read and expects to find again; from the start those that whoever started it had read.
static READ: LazyLock<Mutex<Vec<PathBuf>>> = LazyLock::new(|| {
    let told = std::env::var_os(WERE_THERE).filter(|_| super::load::is_trusted()).unwrap_or_default();
    let lines = told.as_bytes().split(|octet| *octet == b'\n').filter(|line| !line.is_empty());
    Mutex::new(lines.map(|line| OsStr::from_bytes(line).into()).collect())
});

/// For the environment of a program of ours that is started by this one: it must not make do without what we have read, for a
/// file that is gone now is mostly one that is being written.
pub fn that_were_there() -> Option<(&'static str, OsString)> {
    let read = READ.lock().ok()?;
    let lines: Vec<&OsStr> = read.iter().map(|path| path.as_os_str()).collect();
    (!lines.is_empty()).then(|| (WERE_THERE, lines.join(OsStr::new("\n"))))
}

/// The same of a file that may be missing, but not where this process has read it before: the defaults of a server that goes
/// on are not what is meant then, for by them this may be another host. Where its folder has changed just now it is looked for
/// once more, for an editor that moves the old one away writes the new one next.
pub(crate) fn contents_if_any(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let found = contents_after(path, || std::thread::sleep(A_MOMENT))?;
    let Ok(mut read) = READ.lock() else { return Ok(found) };
    match (&found, read.iter().any(|known| known == path)) {
        (None, true) => Err(Error::at(path, 0, "this file, which was there, is gone (start anew to do without it)")),
        (Some(_), false) => {
            read.push(path.to_owned());
            Ok(found)
        }
        (None, false) | (Some(_), true) => Ok(found),
    }
}

fn contents_after(path: &Path, pause: impl FnOnce()) -> Result<Option<Vec<u8>>, Error> {
    match contents(path)? {
        None if kept::may_come_back(path) => {
            pause();
            contents(path)
        }
        found => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_or_a_folder_in_place_of_main_cf_does_not_hold_us_up() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("main.cf")).unwrap();
        assert!(contents(&folder.path().join("main.cf")).is_err());
        let fifo = folder.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(contents(&fifo), Ok(Some(Vec::new())));
    }

    #[test]
    fn a_file_that_an_editor_has_moved_away_just_now_is_looked_for_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("main.cf");
        let found = contents_after(&path, || std::fs::write(&path, "soft_bounce = yes\n").unwrap());
        assert_eq!(found, Ok(Some(b"soft_bounce = yes\n".to_vec())));
        assert_eq!(contents_after(Path::new("/nonexistent/main.cf"), || panic!("nobody is at it")), Ok(None));
    }

    #[test]
    fn a_file_that_was_read_once_is_not_missing_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("main.cf");
        assert_eq!(contents_if_any(&path), Ok(None));
        std::fs::write(&path, "#").unwrap();
        assert_eq!(contents_if_any(&path), Ok(Some(b"#".to_vec())));
        std::fs::remove_file(&path).unwrap();
        for _ in 0..2 {
            let error = contents_if_any(&path).unwrap_err().to_string();
            assert!(error.ends_with("main.cf: this file, which was there, is gone (start anew to do without it)"));
        }
        std::fs::write(&path, "").unwrap();
        assert_eq!(contents_if_any(&path), Ok(Some(Vec::new())));
    }
}
