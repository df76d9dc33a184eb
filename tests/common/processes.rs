//! What the system tells of processes.

use std::fmt::Display;
use std::fs;
use std::process::Child;
use std::str::FromStr;

/// The children of a process, in the order of their start; none where it has ended.
pub fn children<T: Display + FromStr>(pid: T) -> Vec<T> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// All four of uid and gid, and the groups besides; nothing of a process that has ended.
pub fn rights(pid: u32) -> [Vec<u32>; 3] {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    ["Uid:", "Gid:", "Groups:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().map(|number| number.parse().expect("a number")).collect()
    })
}

/// The rights of this user and this group alone.
pub fn only(uid: u32, gid: u32) -> [Vec<u32>; 3] {
    [vec![uid; 4], vec![gid; 4], vec![gid]]
}

/// Most memory of its own that a process had so far, in kB; nothing of one that has ended. Pages of its program and of
/// libraries are left out: how many the kernel maps around one that is needed depends on what it has cached and how.
pub fn peak(child: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let value = |name| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    value("VmHWM:")?.checked_sub(value("RssFile:")?)
}
