//! What one connection costs until its greeting: system calls, page faults, and CPU time by phase.
//!
//! Processor time is what the kernel counted for a process that waits for its client (schedstat), so it does not
//! depend on what else runs, but for caches. The phases are differences: a program of three instructions shows what fork
//! and exec cost, an empty Rust program what the loader and the standard library add, and ours the rest.

use crate::phases;
use crate::process;
use crate::server::{Site, command, connection};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One start of a program.
#[derive(Debug, Default, Clone, Copy)]
struct Start {
    /// Microseconds of CPU of the program itself.
    own: f64,
    /// The same of the processes it has started.
    others: f64,
    /// Page faults of both.
    faults: f64,
}

const NOOP: &str = r#"
#![no_std]
#![no_main]
core::arch::global_asm!(".globl _start", "_start:", "xor eax, eax", "xor edi, edi", "lea rsi, [rsp-64]", "mov edx, 1",
    "syscall", "xor edi, edi", "mov eax, 231", "syscall");
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! { loop {} }
"#;
const EMPTY: &str = "fn main() { let _ = std::io::Read::read(&mut std::io::stdin(), &mut [0]); }";

/// The table of costs.
pub fn table(site: &Site, starts: usize) -> io::Result<String> {
    let mut text = String::from(
        "| until it waits for its client | CPU, µs | more than the line before, µs | other processes, µs | page faults \
         | system calls |\n\
         |---|--:|--:|--:|--:|--:|\n",
    );
    let mut floor = 0.0;
    for (name, path) in floors(&site.folder) {
        let start = median(site, &path, starts)?;
        line(&mut text, name, start, start.own - floor, None);
        floor = start.own;
    }
    let mut taken_apart = String::new();
    for program in ["smtpsrvr", "qmqpd", "pop3d"] {
        let path = site.folder.join("bin").join(program);
        let start = median(site, &path, starts)?;
        line(&mut text, program, start, start.own - floor, system_calls(site, &path));
        taken_apart += &phases::rows(site, program, &path, starts.min(50), start.own)?;
    }
    text += phases::HEAD;
    Ok(text + &taken_apart)
}

fn line(text: &mut String, name: &str, start: Start, more: f64, calls: Option<(usize, usize)>) {
    let calls = calls.map_or(String::new(), |(own, others)| format!("{own} + {others}"));
    let Start { own, others, faults } = start;
    let _ = writeln!(text, "| {name} | {own:.0} | {more:.0} | {others:.0} | {faults:.0} | {calls} |");
}

/// Programs that do nothing, as far as this machine can build them.
fn floors(folder: &Path) -> Vec<(&'static str, PathBuf)> {
    let bare = ["-Clink-arg=-nostartfiles", "-Clink-arg=-nostdlib", "-Clink-arg=-static", "-Crelocation-model=static"];
    let sources: [(&'static str, &str, &[&str]); 2] =
        [("fork and exec (three system calls, static)", NOOP, &bare), ("an empty Rust program", EMPTY, &[])];
    let mut programs = Vec::new();
    for (number, (name, source, arguments)) in sources.into_iter().enumerate() {
        let (file, path) = (folder.join(format!("floor{number}.rs")), folder.join(format!("bin/floor{number}")));
        let mut command = Command::new("rustc");
        command
            .args(["-O", "-Cpanic=abort", "-Cstrip=symbols", "--edition=2021", "-o"])
            .arg(&path)
            .arg(&file)
            .args(arguments);
        let built = fs::write(&file, source).and_then(|()| command.stderr(Stdio::null()).status());
        if built.is_ok_and(|status| status.success()) {
            programs.push((name, path));
        }
    }
    programs
}

fn median(site: &Site, program: &Path, starts: usize) -> io::Result<Start> {
    let mut all = (0..starts).map(|_| one(site, program)).collect::<io::Result<Vec<_>>>()?;
    let middle = starts / 2;
    let mut pick = |key: fn(&Start) -> f64| {
        all.sort_by(|a, b| key(a).total_cmp(&key(b)));
        all.get(middle).map_or(0.0, key)
    };
    Ok(Start { own: pick(|start| start.own), others: pick(|start| start.others), faults: pick(|start| start.faults) })
}

fn one(site: &Site, program: &Path) -> io::Result<Start> {
    let (server, client) = connection()?;
    let mut command = command(&site.folder, program);
    let mut child = command.stdin(Stdio::from(server.try_clone()?)).stdout(Stdio::from(server)).spawn()?;
    drop(command);
    let name = program.file_name().unwrap_or_default();
    if name == "smtpsrvr" || name == "pop3d" {
        (&client).read_exact(&mut [0; 4])?;
    }
    let start = at_rest(&child)?;
    drop(client);
    child.wait()?;
    Ok(start)
}

/// Waits until all processes of a tree sleep, and adds up.
fn at_rest(child: &Child) -> io::Result<Start> {
    let begun = Instant::now();
    let mut before = u64::MAX;
    loop {
        std::thread::sleep(Duration::from_millis(2));
        let mut start = Start::default();
        let mut sum = 0;
        let mut asleep = true;
        for pid in process::tree(child.id()) {
            let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat"))?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let cpu: u64 = schedstat.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0);
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            asleep &= fields.first() == Some(&"S");
            sum += cpu;
            *if pid == child.id() { &mut start.own } else { &mut start.others } += cpu as f64 / 1000.0;
            start.faults += fields.get(7).and_then(|word| word.parse::<f64>().ok()).unwrap_or(0.0);
        }
        if asleep && sum == before {
            return Ok(start);
        }
        if begun.elapsed() > Duration::from_secs(5) {
            return Err(io::Error::other("a program that never waits for its client"));
        }
        before = sum;
    }
}

/// System calls of the program and of those it starts, until the greeting or the first wait for the client.
fn system_calls(site: &Site, program: &Path) -> Option<(usize, usize)> {
    let trace = site.folder.join("trace");
    let (server, client) = connection().ok()?;
    let mut command = command(&site.folder, Path::new("/usr/bin/strace"));
    command.args(["-f", "-o"]).arg(&trace).arg(program);
    let mut child = command.stdin(Stdio::from(server.try_clone().ok()?)).stdout(Stdio::from(server)).spawn().ok()?;
    drop(command);
    // QMQP has no greeting: the client's end is the sign.
    std::thread::sleep(Duration::from_millis(300));
    drop(client);
    child.wait().ok()?;
    let text = fs::read_to_string(trace).ok()?;
    let own = text.split(' ').next()?.to_owned();
    let (mut of_own, mut of_others, mut has_client) = (0, 0, false);
    for line in text.lines().filter(|line| !line.contains(" resumed>")) {
        let is_own = line.split(' ').next() == Some(&own);
        *if is_own { &mut of_own } else { &mut of_others } += 1;
        let is_greeting = line.contains("\"220 ") || line.contains("\"+OK");
        // What is read behind this is the client's.
        has_client |= is_own && line.contains("TCP_NODELAY");
        if is_greeting || (is_own && has_client && line.contains(" read(") && program.ends_with("qmqpd")) {
            break;
        }
    }
    Some((of_own, of_others))
}
