//! Which messages somebody has locked, by the system's word: `/proc/locks`. Nothing is locked to find out.

use std::collections::HashSet;
use std::fs::{File, read_to_string};
use std::os::fd::AsRawFd;
use std::path::Path;

/// Inodes of the file system that this folder is on which somebody has locked; nothing where the system does not tell.
pub fn of(folder: &Path) -> HashSet<u64> {
    locked(&read_to_string("/proc/locks").unwrap_or_default(), device(folder).as_deref())
}

/// Other file systems have files of the same numbers. Where nobody knows which one it is, all of them count.
fn locked(locks: &str, device: Option<&str>) -> HashSet<u64> {
    let inode = |line: &str| {
        let place = line.split_whitespace().find(|word| word.matches(':').count() == 2)?;
        let (on, inode) = place.rsplit_once(':')?;
        inode.parse().ok().filter(|_| device.is_none_or(|device| device == on))
    };
    locks.lines().filter(|line| line.contains("FLOCK")).filter_map(inode).collect()
}

/// The device as it is written there. It is that of the mount: on some file systems stat(2) tells another for each part.
fn device(folder: &Path) -> Option<String> {
    let folder = File::open(folder).ok()?;
    let of_descriptor = read_to_string(format!("/proc/self/fdinfo/{}", folder.as_raw_fd())).ok()?;
    let mount = of_descriptor.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim();
    let mounts = read_to_string("/proc/self/mountinfo").ok()?;
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let (major, minor) = fields.into_iter().find(|fields| fields.first() == Some(&mount))?.get(2)?.split_once(':')?;
    let number = |digits: &str| digits.parse::<u32>().ok();
    Some(format!("{:02x}:{:02x}", number(major)?, number(minor)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_lock_on_another_file_system_is_none_on_this() {
        let locks = "1: FLOCK  ADVISORY  WRITE 834 fe:01:1053 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 83 fe:01:54 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 834 fe:01:7 0 EOF\n3: FLOCK  ADVISORY  WRITE 834 00:2a:2000 0 EOF\n";
        assert_eq!(locked(locks, Some("fe:01")), HashSet::from([1053, 54]));
        assert_eq!(locked(locks, None), HashSet::from([1053, 54, 2000]));
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().lock().unwrap();
        let folder = file.path().parent().unwrap();
        assert!(of(folder).contains(&file.as_file().metadata().unwrap().ino()), "{:?}", device(folder));
    }
}
