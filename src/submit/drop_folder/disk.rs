//! Putting a new file of a folder on disk together with its name, where the folder itself cannot be opened to be fsynced.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

/// Puts content and name of a new file on disk.
pub fn sync_with_name(file: &File) -> io::Result<()> {
    let keeps_names = mounted_as(file.metadata()?.dev()).is_some_and(|kind| KEEPS_NAMES.contains(&&*kind));
    if keeps_names || !syncfs_tells_errors() {
        file.sync_all()?;
    }
    if !keeps_names {
        // The folder cannot be opened by who may not list it, so all of its file system is put on disk, this file
        // included. An fsync besides would cost a flush of the device more.
        nix::unistd::syncfs(file)?;
    }
    Ok(())
}

/// File systems where fsync of a new file puts its name on disk, too: both are in one journal, and what came first in it is
/// never later on disk; ext4 without one looks after the folder by itself. The power cuts are the proof of it. (ext2 by its
/// own driver is called so, and does not.)
const KEEPS_NAMES: [&str; 2] = ["ext4", "xfs"];

/// As what kind of file system a device is mounted, by the system's list; nothing where that does not tell.
fn mounted_as(device: u64) -> Option<String> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let number = format!("{}:{}", libc::major(device), libc::minor(device));
    kind_of(&mounts, &number)
}

/// proc_pid_mountinfo(5): the device is the third field, the kind follows a `-`.
fn kind_of(mounts: &str, device: &str) -> Option<String> {
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(device))?;
    Some(line.split_once(" - ")?.1.split(' ').next()?.to_owned())
}

/// Whether the kernel is of 5.17 or later. From 5.8 on it tells by syncfs of every write that failed since the file was
/// opened, from 5.17 on of a journal that could not be written (syncfs(2)).
fn syncfs_tells_errors() -> bool {
    let system = nix::sys::utsname::uname();
    let release = system.as_ref().ok().and_then(|system| system.release().to_str()).unwrap_or_default();
    is_from_5_17(release)
}

fn is_from_5_17(release: &str) -> bool {
    let mut numbers = release.split(|octet: char| !octet.is_ascii_digit()).map_while(|text| text.parse::<u32>().ok());
    (numbers.next(), numbers.next().or(Some(0))) >= (Some(5), Some(17))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_file_system_is_that_of_its_device() {
        let mounts = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            30 22 7:3 / /var/spool/a\\040b rw shared:5 master:1 - xfs /dev/loop3 rw\nnonsense\n";
        assert_eq!(kind_of(mounts, "254:0").as_deref(), Some("ext4"));
        assert_eq!(kind_of(mounts, "7:3").as_deref(), Some("xfs"));
        assert_eq!((kind_of(mounts, "7:4"), kind_of(mounts, "")), (None, None));
        let temporary = std::fs::metadata("/dev/shm").map(|metadata| mounted_as(metadata.dev()));
        assert!(temporary.is_ok_and(|kind| kind.as_deref() == Some("tmpfs")));
    }

    #[test]
    fn kernels_before_5_17_and_unknown_ones_are_not_believed() {
        for (release, expected) in [
            ("5.17.0", true),
            ("5.16.20-1", false),
            ("4.19.0-26-amd64", false),
            ("6.1.0-44-amd64", true),
            ("10", true),
            ("5", false),
            ("", false),
            ("x6.1", false),
        ] {
            assert_eq!(is_from_5_17(release), expected, "{release:?}");
        }
    }
}
