//! What the system tells of processes.

use std::fmt::Display;
use std::fs;
use std::process::Child;
use std::str::FromStr;

/// The children of a process; none where it has ended.
pub fn children<T: Display + FromStr>(pid: T) -> Vec<T> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Most memory a process had so far, in kB; nothing of one that has ended.
pub fn peak(child: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
