//! What strace does to a program: killed at every instance of every system call, and every file call made to fail.
//!
//! The calls and how often each is made come from plain runs, the file calls by strace's own classes, so that a call which a
//! program begins to make is in the matrix without anybody's thinking of it.
//!
//! A run in which nothing was hit shows nothing: it is made again, and if that is of no avail the test fails. How often a call
//! is made may vary by one where several processes are at work (a read that gets two writes at once or one after the
//! other, a signal that comes into a wait), so the least of some plain runs is what is gone through.
//!
//! Matrices that take a minute or more are made in part ([`Share::Part`]): every call that changes what is on disk, and an
//! evenly spaced part of the rest, another one every day. `FAULTS=all` makes the whole, or `FAULTS=3/8` the third of eight parts of
//! it that take about as long as each other; `FAULTS_TURN=20779` repeats a day:
//! `FAULTS=all TMPDIR=/dev/shm cargo test --features interop,powercut --test faults -- --test-threads=8`

use crate::common::{Scratch, binary, feed};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::SystemTime;

/// Which process is traced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Traced {
    /// The program itself.
    Itself,
    /// The program and all its children.
    Family,
    /// The `submit` it starts.
    Submit,
}

/// How much of a matrix is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    Whole,
    /// The whole only if `FAULTS=all` asks for it.
    Part,
}

pub struct Case {
    /// Behind its name may stand arguments.
    pub program: &'static str,
    pub traced: Traced,
    pub input: Vec<u8>,
}

/// Calls that change what is on disk, or put it there: the moments that matter most.
const CHANGES: [&str; 21] = [
    "chmod",
    "fchmod",
    "fchown",
    "fdatasync",
    "fsync",
    "ftruncate",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
    "mknodat",
    "pwrite64",
    "rename",
    "renameat",
    "renameat2",
    "symlink",
    "syncfs",
    "unlink",
    "unlinkat",
    "utimensat",
    "write",
];

/// Calls that ask about descriptors and names and move nothing: one error a day for each, all with `FAULTS=all`.
const ASKS: [&str; 7] = ["access", "dup2", "fcntl", "ioctl", "lseek", "poll", "statfs"];

/// File calls that are not made to fail. Of close the kernel frees the descriptor even where it tells an error, and strace, which
/// leaves the call out, would show one that stays open, which there never is. mmap is ld.so's, and memory, without
/// which Rust ends the process. The first execve is strace's own, and no process of ours makes a second.
const NOT_FAILED: [&str; 3] = ["close", "execve", "mmap"];

const ERRORS: [&str; 7] = ["EIO", "ENOSPC", "EDQUOT", "EINTR", "EMFILE", "EROFS", "ENOMEM"];

/// Of poll no others: on one that poll has not Rust's start-up code ends the process.
const POLL_ERRORS: [&str; 2] = ["EINTR", "ENOMEM"];

/// Plain runs, and runs until something was hit.
const PLAIN: usize = 3;
const TRIES: usize = 8;

/// Of what is in a part only now and then one in so many.
const ONE_IN: usize = 25;

impl Case {
    /// Runs it under strace with more options; the trace is in `scratch`/trace.
    fn run(&self, scratch: &Scratch, options: &[String]) -> Output {
        let trace = scratch.path().join("trace");
        let _ = fs::remove_file(&trace);
        let mut strace: Vec<OsString> =
            ["timeout", "-s", "KILL", "60", "strace", "-qq", "-o"].into_iter().map(OsString::from).collect();
        strace.push(trace.into());
        strace.extend(options.iter().map(OsString::from));
        if self.traced == Traced::Family {
            strace.push("-f".into());
        }
        if self.traced == Traced::Submit {
            let folder = wrapped(scratch, "submit", &strace);
            let setting = format!("daemon_directory={}", folder.display());
            return feed(scratch.command(self.program).args(["-o", &setting]), &self.input);
        }
        let mut words = self.program.split(' ');
        strace.push(binary(words.next().unwrap_or_default()).into());
        strace.extend(words.map(OsString::from));
        let mut command = Command::new(&strace[0]);
        command.args(&strace[1..]).env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", scratch.path());
        let output = feed(&mut command, &self.input);
        assert_ne!(output.status.code(), Some(137), "{} {options:?}: hung for a minute", self.program);
        output
    }

    /// How often one process makes each call of these classes: at least, in some plain runs.
    fn calls(&self, prepare: &dyn Fn() -> Scratch, classes: &str) -> BTreeMap<String, usize> {
        let plain = || {
            let scratch = prepare();
            let output = self.run(&scratch, &["-e".into(), format!("trace={classes}")]);
            let calls = most_of_one_process(&scratch);
            assert!(calls.len() > 5, "{}: strace saw nothing: {output:?}", self.program);
            calls
        };
        let mut least = plain();
        for _ in 1..PLAIN {
            let again = plain();
            for (name, count) in &mut least {
                *count = again.get(name).copied().unwrap_or(0).min(*count);
            }
        }
        least
    }

    /// What a run leaves that was hit at one call. None if a process was killed before by another of ours, as deliver does with
    /// workers that have nothing to do, in each of some runs; any other reason not to be hit fails.
    fn hit(&self, prepare: &dyn Fn() -> Scratch, hit: &Hit) -> Option<(Scratch, Output)> {
        let Hit { name, instance, how } = hit;
        let inject = format!("inject={name}:{how}:when={instance}");
        let options = ["-e".into(), format!("trace={name}"), "-e".into(), inject];
        let mut killed_before = true;
        for _ in 0..TRIES {
            let scratch = prepare();
            let output = self.run(&scratch, &options);
            let trace = fs::read_to_string(scratch.path().join("trace")).unwrap_or_default();
            let is_hit = match how.starts_with("error=") {
                true => trace.contains("(INJECTED)"),
                false => killed_at(&trace, *instance),
            };
            if is_hit {
                return Some((scratch, output));
            }
            killed_before &= trace.contains("killed by SIGKILL");
        }
        assert!(killed_before, "{}: {options:?} hit nothing in {TRIES} runs", self.program);
        None
    }

    /// Kills it at every call of every name; `check` looks at what is left.
    pub fn kill_everywhere(&self, prepare: &dyn Fn() -> Scratch, check: &dyn Fn(&Scratch, &Output, &str)) {
        self.kill(Share::Whole, prepare, check);
    }

    /// Makes each file call fail in each way.
    pub fn fail_everywhere(&self, prepare: &dyn Fn() -> Scratch, check: &dyn Fn(&Scratch, &Output, &str)) {
        self.fail(Share::Whole, prepare, check);
    }

    /// Kills it at every call, or a part of them.
    pub fn kill(&self, share: Share, prepare: &dyn Fn() -> Scratch, check: &dyn Fn(&Scratch, &Output, &str)) {
        let mut plan = Vec::new();
        for (name, count) in self.calls(prepare, "all") {
            // The first execve is strace's own, and a process cannot be killed at its own end.
            let first = if name == "execve" { 2 } else { 1 };
            if name != "exit_group" && name != "exit" {
                plan.extend((first..=count).map(|instance| Hit::new(&name, instance, "signal=SIGKILL")));
            }
        }
        self.go_through(&share.of(plan), prepare, check);
    }

    /// Makes each file call fail in each way, or a part of them.
    pub fn fail(&self, share: Share, prepare: &dyn Fn() -> Scratch, check: &dyn Fn(&Scratch, &Output, &str)) {
        let mut plan = Vec::new();
        let mut turn = turn();
        for (name, count) in self.calls(prepare, "%file,%desc") {
            if NOT_FAILED.contains(&name.as_str()) {
                continue;
            }
            for instance in 1..=count {
                turn += 1;
                let one = share == Share::Part || ASKS.contains(&name.as_str());
                let all = if name == "poll" { &POLL_ERRORS[..] } else { &ERRORS[..] };
                let errors = if one && whole().is_none() { &all[turn % all.len()..][..1] } else { all };
                plan.extend(errors.iter().map(|error| Hit::new(&name, instance, &format!("error={error}"))));
            }
        }
        self.go_through(&share.of(plan), prepare, check);
    }

    fn go_through(&self, plan: &[Hit], prepare: &dyn Fn() -> Scratch, check: &dyn Fn(&Scratch, &Output, &str)) {
        assert!(plan.len() >= 4, "{}: only {plan:?}", self.program);
        let mut missed = 0;
        for hit in plan {
            let Hit { name, instance, how } = hit;
            let what =
                format!("{} {:?}, {how} at {name} {instance}, FAULTS_TURN={}", self.program, self.traced, turn());
            if let Some((scratch, output)) = self.hit(prepare, hit) {
                check(&scratch, &output, &what);
            } else {
                missed += 1;
            }
        }
        // What excuses one must not excuse them all.
        assert!(missed * 4 <= plan.len(), "{}: {missed} of {} calls were never hit", self.program, plan.len());
    }
}

/// Name and number of a call, and what is done to it.
#[derive(Debug)]
struct Hit {
    name: String,
    instance: usize,
    how: String,
}

impl Hit {
    fn new(name: &str, instance: usize, how: &str) -> Hit {
        Hit { name: name.to_owned(), instance, how: how.to_owned() }
    }
}

impl Share {
    fn of(self, mut plan: Vec<Hit>) -> Vec<Hit> {
        let mut number = turn();
        if let Some((which, of)) = whole() {
            number = of - which;
            plan.retain(|_| {
                number += 1;
                number.is_multiple_of(of)
            });
        } else if self == Share::Part {
            plan.retain(|hit| {
                number += 1;
                CHANGES.contains(&hit.name.as_str()) || number.is_multiple_of(ONE_IN)
            });
        }
        plan
    }
}

/// Of the whole, if that is asked for: which part, and of how many.
fn whole() -> Option<(usize, usize)> {
    let share = std::env::var("FAULTS").ok()?;
    if share == "all" {
        return Some((1, 1));
    }
    let parts = share.split_once('/').and_then(|(which, of)| Some((which.parse().ok()?, of.parse().ok()?)));
    let parts = parts.filter(|(which, of)| (1..=*of).contains(which));
    Some(parts.unwrap_or_else(|| panic!("FAULTS={share}: expected all, or 3/8 or the like")))
}

/// Another one every day.
fn turn() -> usize {
    let days = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs() / 86_400);
    let given = std::env::var("FAULTS_TURN").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| usize::try_from(days).unwrap_or(0))
}

/// A folder in which `program` runs under strace, and the others are themselves.
fn wrapped(scratch: &Scratch, program: &str, strace: &[OsString]) -> PathBuf {
    let folder = scratch.path().join("bin");
    let _ = fs::create_dir(&folder);
    let words: Vec<String> = strace.iter().map(|word| format!("'{}'", word.to_string_lossy())).collect();
    let real = binary(program);
    let script = format!("#!/bin/sh\nexec {} '{}' \"$@\"\n", words.join(" "), real.display());
    let path = folder.join(program);
    fs::write(&path, script).expect("a wrapper");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("its mode");
    scratch.hand_over(&folder);
    folder
}

/// Whether a process was killed in this instance of the one call that is traced, and not by another one later.
fn killed_at(trace: &str, instance: usize) -> bool {
    let process = |line: &str| match line.split_once(char::is_whitespace) {
        Some((pid, _)) if pid.bytes().all(|b| b.is_ascii_digit()) => pid.to_owned(),
        _ => String::new(),
    };
    let killed = trace.lines().filter(|line| line.contains("+++ killed by SIGKILL"));
    let is_call = |line: &&str| line.contains('(') && !line.contains("--- ") && !line.contains("<... ");
    killed
        .map(process)
        .any(|killed| trace.lines().filter(is_call).filter(|line| process(line) == killed).count() == instance)
}

/// How often each call is in the trace, by the process that makes it most often: that is how strace counts instances.
fn most_of_one_process(scratch: &Scratch) -> BTreeMap<String, usize> {
    let trace = fs::read_to_string(scratch.path().join("trace")).unwrap_or_default();
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in trace.lines() {
        let (process, rest) = match line.split_once(char::is_whitespace) {
            Some((pid, rest)) if pid.bytes().all(|b| b.is_ascii_digit()) => (pid, rest.trim_start()),
            _ => ("", line),
        };
        let name = rest.split_once('(').map_or("", |(name, _)| name);
        if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            *counts.entry((process, name)).or_insert(0) += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((_, name), count) in counts {
        let highest = most.entry(name.to_owned()).or_insert(0);
        *highest = count.max(*highest);
    }
    most
}
