//! What one start costs, phase by phase: the program is traced, and at each system call the kernel's counters are read.
//!
//! Tracing costs time too. That is spread evenly over the calls and taken out, so that the sum is what an untraced start
//! costs; calls and page faults are exact.

use crate::server::{Site, command, connection};
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;

/// Above the rows.
pub const HEAD: &str = "\n| phase | CPU, µs | page faults | system calls |\n|---|--:|--:|--:|\n";

const PHASES: [&str; 4] = [
    "exec and loader, until the program begins",
    "standard library and records, until main.cf is opened",
    "configuration and rights, until the client is looked at or the second process made",
    "that, the client's name, and the greeting",
];

/// CPU in microseconds, page faults, system calls.
#[derive(Debug, Default, Clone, Copy)]
struct Cost {
    cpu: f64,
    faults: f64,
    calls: f64,
}

/// A row for each phase of a program that costs `own` microseconds when nobody traces it.
pub fn rows(site: &Site, program: &str, path: &Path, starts: usize, own: f64) -> io::Result<String> {
    let mut all: [Vec<Cost>; PHASES.len()] = Default::default();
    for _ in 0..starts.max(1) {
        let costs = match traced(site, path) {
            Ok(costs) => costs,
            Err(error) => return Ok(format!("| {program}: no figure ({error}) | | | |\n")),
        };
        for (phase, cost) in all.iter_mut().zip(costs) {
            phase.push(cost);
        }
    }
    let mut costs: Vec<Cost> = all.iter_mut().map(|phase| median(phase)).collect();
    let (cpu, calls) = costs.iter().fold((0.0, 0.0), |(cpu, calls), cost| (cpu + cost.cpu, calls + cost.calls));
    let mut text = String::new();
    for (name, cost) in PHASES.iter().zip(&mut costs) {
        cost.cpu -= (cpu - own).max(0.0) * cost.calls / f64::max(calls, 1.0);
        let _ = writeln!(text, "| {program}: {name} | {:.0} | {:.0} | {:.0} |", cost.cpu, cost.faults, cost.calls);
    }
    Ok(text)
}

fn median(costs: &mut [Cost]) -> Cost {
    costs.sort_by(|a, b| a.cpu.total_cmp(&b.cpu));
    costs.get(costs.len() / 2).copied().unwrap_or_default()
}

fn traced(site: &Site, path: &Path) -> io::Result<[Cost; PHASES.len()]> {
    let (server, client) = connection()?;
    let mut command = command(&site.folder, Path::new("/bin/sh"));
    // It waits for the tracer, then becomes the program.
    command.args(["-c", "kill -STOP $$; exec \"$0\""]).arg(path);
    let mut child = command.stdin(Stdio::from(server.try_clone()?)).stdout(Stdio::from(server)).spawn()?;
    drop(command);
    let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    waitpid(pid, Some(WaitPidFlag::WUNTRACED))?;
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options)?;
    kill(pid, Signal::SIGCONT)?;
    let costs = follow(pid);
    drop(client);
    let _ = child.kill();
    // It may have ended, and been waited for, already.
    let _ = child.wait();
    costs
}

/// From exec to the greeting, or to the wait for a client that speaks first.
fn follow(pid: Pid) -> io::Result<[Cost; PHASES.len()]> {
    let mut costs = [Cost::default(); PHASES.len()];
    let (mut phase, mut calls, mut last) = (None, 0.0, counters(pid)?);
    loop {
        let signal = match waitpid(pid, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Err(io::Error::other("it ended too early")),
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_EXEC) => {
                (phase, last) = (Some(0), counters(pid)?);
                None
            }
            WaitStatus::PtraceSyscall(_) if phase.is_some() => {
                let info = ptrace::syscall_info(pid)?;
                if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                    calls += 1.0;
                    let (number, now) = (call(pid)?, phase.unwrap_or_default());
                    let is_over = match now {
                        0 => number == libc::SYS_poll,
                        1 => number == libc::SYS_openat,
                        2 => [libc::SYS_socketpair, libc::SYS_getpeername].contains(&number),
                        _ => number == libc::SYS_sendto || (number == libc::SYS_read && reads_socket(pid)?),
                    };
                    if is_over {
                        let here = counters(pid)?;
                        costs[now] = Cost { cpu: here.0 - last.0, faults: here.1 - last.1, calls };
                        (phase, last, calls) = (Some(now + 1), here, 0.0);
                        if now + 1 == PHASES.len() {
                            return Ok(costs);
                        }
                    }
                }
                None
            }
            WaitStatus::Stopped(_, signal) => Some(signal),
            _ => None,
        };
        ptrace::syscall(pid, signal)?;
    }
}

#[cfg(target_arch = "x86_64")]
fn call(pid: Pid) -> io::Result<i64> {
    Ok(ptrace::getregs(pid)?.orig_rax.cast_signed())
}

/// Whether the descriptor of a read, its first argument, is a socket: nothing but the client.
#[cfg(target_arch = "x86_64")]
fn reads_socket(pid: Pid) -> io::Result<bool> {
    let descriptor = ptrace::getregs(pid)?.rdi;
    let target = fs::read_link(format!("/proc/{pid}/fd/{descriptor}"));
    Ok(target.is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(b"socket:")))
}

#[cfg(not(target_arch = "x86_64"))]
fn reads_socket(_: Pid) -> io::Result<bool> {
    Ok(false)
}

#[cfg(not(target_arch = "x86_64"))]
fn call(_: Pid) -> io::Result<i64> {
    Err(io::Error::other("phases are known for x86-64 only"))
}

/// CPU in microseconds and page faults so far.
fn counters(pid: Pid) -> io::Result<(f64, f64)> {
    let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let cpu: f64 = schedstat.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    Ok((cpu / 1000.0, fields.get(7).and_then(|word| word.parse().ok()).unwrap_or(0.0)))
}
