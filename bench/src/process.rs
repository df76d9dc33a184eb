//! Processes: trees of them, their memory, and their end.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

/// How long a server may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(3);

/// Memory of a process and its descendants, in kB.
#[derive(Debug, Default, Clone, Copy)]
pub struct Memory {
    /// Pages of its own, and of shared ones its share.
    pub pss: u64,
    /// How many processes that is.
    pub processes: u64,
}

/// The process and all that descend from it.
pub fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // The name, in parentheses, may hold anything.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    let mut found = vec![root];
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        found.extend(children.get(pid).into_iter().flatten().copied().collect::<Vec<_>>());
        at += 1;
    }
    found
}

/// The memory of a tree.
pub fn memory(root: u32) -> Memory {
    let mut memory = Memory::default();
    for pid in tree(root) {
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
        let pss =
            text.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<u64>().ok());
        memory.pss += pss.unwrap_or(0);
        memory.processes += u64::from(pss.is_some());
    }
    memory
}

/// Ends a server and its descendants by TERM, and what is left by KILL.
pub fn end(child: &mut Child) {
    let all = tree(child.id());
    let signal = |pid: u32, signal: Signal| {
        let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX)), signal);
    };
    // smtpsrvr's and smtpd's first TERM means "finish", the second "now".
    for _ in 0..2 {
        signal(child.id(), Signal::SIGTERM);
        if ended(child, PATIENCE / 3) {
            break;
        }
    }
    for pid in all.into_iter().filter(|pid| *pid != child.id() && is_there(*pid)) {
        signal(pid, Signal::SIGKILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn ended(child: &mut Child, time: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < time {
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

fn is_there(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}")).is_ok()
}
