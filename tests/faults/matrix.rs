//! What is done to a program: killed at every instance of every system call of each of its processes, and every call about
//! files, sockets, new processes and rights made to fail.
//!
//! The calls and how often each process makes each come from plain runs, so that a call which a program begins to make is in
//! the matrix without anybody's thinking of it. Each process is counted by itself, and struck by itself (tracer.rs).
//!
//! A run in which nothing was hit shows nothing: it is made again, and if that is of no avail the test fails. How often a call
//! is made may vary by one where several processes are at work (a read that gets two writes at once or one after the
//! other, a signal that comes into a wait), so the least of some plain runs is what is gone through. What that leaves out is
//! told on standard error, past the test harness.
//!
//! Matrices that take a minute or more are made in part ([`Share::Part`]): every call that changes what is on disk, and an
//! evenly spaced part of the rest, another one every day. `FAULTS=all` makes the whole, or `FAULTS=3/8` the third of eight
//! parts of it that take about as long as each other; `FAULTS_TURN=20779` repeats a day:
//! `FAULTS=all TMPDIR=/dev/shm cargo test --features interop,powercut --test faults -- --test-threads=8`

use super::names::{Kind, name};
use super::tracer::{self, Blow, Call, Followed, Target};
use crate::common::{Scratch, bin_folder, binary};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::{Output, Stdio};
use std::time::SystemTime;

/// Whose calls are gone through. All processes are followed, and every other program is let alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Traced {
    /// Those of every process that runs the program itself.
    Itself,
    /// Those of every process of ours.
    Family,
    /// Those of `submit`, which it starts.
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
    /// Behind its name may stand arguments; or a line for a shell, which begins with exec.
    pub program: &'static str,
    pub traced: Traced,
    pub input: Vec<u8>,
}

/// What can be killed and made to fail at any call.
pub trait Victim {
    /// For messages.
    fn name(&self) -> String;

    /// Whether the calls of processes that run this program of ours are gone through.
    fn is_meant(&self, program: &str) -> bool;

    /// One run, in which this is done.
    fn run(&self, scratch: &Scratch, target: Option<&Target>) -> (Followed, Output);
}

impl Victim for Case {
    fn name(&self) -> String {
        self.program.to_owned()
    }

    fn is_meant(&self, program: &str) -> bool {
        match self.traced {
            Traced::Itself => self.program.split(' ').next() == Some(program),
            Traced::Submit => program == "submit",
            Traced::Family => true,
        }
    }

    fn run(&self, scratch: &Scratch, target: Option<&Target>) -> (Followed, Output) {
        let mut words = self.program.split(' ');
        let program = words.next().unwrap_or_default();
        let arguments: Vec<OsString> = match program {
            "exec" => ["/bin/sh", "-c", self.program].map(OsString::from).into(),
            _ => [binary(program).into()].into_iter().chain(words.map(OsString::from)).collect(),
        };
        let mut program = tracer::start(&arguments, scratch.path(), Stdio::piped());
        // A pipe holds all of it. Who was killed reads nothing.
        let mut stdin = program.0.stdin.take().expect("a pipe");
        stdin.write_all(&self.input).expect("input");
        drop(stdin);
        let followed = tracer::follow(&program, target, str::to_owned);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        program.0.stdout.take().expect("a pipe").read_to_end(&mut stdout).expect("what it said");
        program.0.stderr.take().expect("a pipe").read_to_end(&mut stderr).expect("what it said");
        let status = followed.status;
        (followed, Output { status, stdout, stderr })
    }
}

/// Calls that change what is on disk, or put it there: the moments that matter most.
const CHANGES: [&str; 36] = [
    "chmod",
    "chown",
    "copy_file_range",
    "creat",
    "creating openat",
    "fallocate",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "fdatasync",
    "fsync",
    "ftruncate",
    "lchown",
    "link",
    "linkat",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "symlink",
    "symlinkat",
    "syncfs",
    "truncate",
    "unlink",
    "unlinkat",
    "utimensat",
    "write",
    "writev",
];

/// Calls that ask about descriptors and names and move nothing: one error a day for each, all with `FAULTS=all`.
const ASKS: [&str; 7] = ["access", "dup2", "fcntl", "ioctl", "lseek", "poll", "statfs"];

/// File calls that are not made to fail. Of close the kernel frees the descriptor even where it tells an error, and this, which
/// leaves the call out, would show one that stays open, which there never is. mmap is ld.so's, and memory, without
/// which Rust ends the process.
const NOT_FAILED: [&str; 2] = ["close", "mmap"];

const ERRORS: [Errno; 7] =
    [Errno::EIO, Errno::ENOSPC, Errno::EDQUOT, Errno::EINTR, Errno::EMFILE, Errno::EROFS, Errno::ENOMEM];

/// Of poll no others: on one that poll has not Rust's start-up code ends the process.
const POLL_ERRORS: [Errno; 2] = [Errno::EINTR, Errno::ENOMEM];

/// What may be lacking. Of sockets one a day, all with `FAULTS=all`.
const SOCKET_ERRORS: [Errno; 3] = [Errno::EMFILE, Errno::ENOMEM, Errno::EINTR];
const FORK_ERRORS: [Errno; 2] = [Errno::EAGAIN, Errno::ENOMEM];
const RIGHTS_ERRORS: [Errno; 2] = [Errno::EAGAIN, Errno::EPERM];

/// Plain runs, and runs until something was hit.
const PLAIN: usize = 4;
const TRIES: usize = 20;

/// Of what is in a part only now and then one in so many.
const ONE_IN: usize = 40;

/// What is looked at after a run.
type Check<'a> = dyn Fn(&Scratch, &Output, &str) + 'a;

/// Everything that can be done to a victim.
pub trait Struck: Victim {
    /// How often each process makes each call: at least, in some plain runs.
    fn calls(&self, prepare: &dyn Fn() -> Scratch) -> BTreeMap<Call, usize> {
        let plain = || {
            let (followed, output) = self.run(&prepare(), None);
            assert!(followed.calls.len() > 5, "{}: nothing was seen: {output:?}", self.name());
            followed.calls
        };
        let runs: Vec<_> = (0..PLAIN).map(|_| plain()).collect();
        let is_ours = |program: &str| bin_folder().join(program).exists() && self.is_meant(program);
        let mut all: BTreeSet<_> = runs.iter().flat_map(BTreeMap::keys).collect();
        all.retain(|call| call.process.split_once(' ').is_some_and(|(_, program)| is_ours(program)));
        let of = |call: &Call| runs.iter().map(|run| run.get(call).copied().unwrap_or(0)).collect::<Vec<_>>();
        let least = all.iter().map(|call| ((*call).clone(), of(call).into_iter().min().unwrap_or(0)));
        let (made, seldom): (BTreeMap<_, _>, BTreeMap<_, _>) = least.partition(|(_, count)| *count > 0);
        let whole: usize = made.values().sum();
        let most: usize = all.iter().map(|call| of(call).into_iter().max().unwrap_or(0)).sum();
        let seldom: Vec<_> = seldom.keys().map(|call| format!("{} {}", call.process, name(call.number).0)).collect();
        if most > whole {
            tell(&format!(
                "{}: {} of {most} calls are not in each plain run, not once in one: {seldom:?}",
                self.name(),
                most - whole
            ));
        }
        made
    }

    /// What a run leaves that was hit at one call. Where none of some runs was: how often they made it at the most.
    fn hit(&self, prepare: &dyn Fn() -> Scratch, target: &Target) -> Result<(Scratch, Output), usize> {
        let mut most = 0;
        for _ in 0..TRIES {
            let scratch = prepare();
            let (followed, output) = self.run(&scratch, Some(target));
            if followed.is_hit {
                return Ok((scratch, output));
            }
            most = most.max(followed.calls.get(&target.call).copied().unwrap_or(0));
        }
        Err(most)
    }

    /// Kills it at every call of every name; `check` looks at what is left. Gives how many there are.
    fn kill_everywhere(&self, prepare: &dyn Fn() -> Scratch, check: &Check<'_>) -> usize {
        self.kill(Share::Whole, prepare, check)
    }

    /// Makes each call that can fail do so, in each way. Gives how many errors there are.
    fn fail_everywhere(&self, prepare: &dyn Fn() -> Scratch, check: &Check<'_>) -> usize {
        self.fail(Share::Whole, prepare, check)
    }

    /// Kills it at every call, or a part of them. Gives how many there are to be killed at in the whole.
    fn kill(&self, share: Share, prepare: &dyn Fn() -> Scratch, check: &Check<'_>) -> usize {
        let mut plan = Vec::new();
        for (call, count) in self.calls(prepare) {
            // How often it sleeps until another process is done is that one's affair.
            let count = if name(call.number).0 == "clock_nanosleep" { count.min(1) } else { count };
            plan.extend((1..=count).map(|instance| Target { call: call.clone(), instance, blow: Blow::Kill }));
        }
        let length = plan.len();
        self.go_through(&share.of(plan), prepare, check);
        length
    }

    /// Makes each call that can fail do so, or a part of them. Gives how many errors that part is from.
    fn fail(&self, share: Share, prepare: &dyn Fn() -> Scratch, check: &Check<'_>) -> usize {
        let mut plan = Vec::new();
        let mut turn = turn();
        for (call, count) in self.calls(prepare) {
            let (name, kind) = name(call.number);
            if kind == Kind::Other || NOT_FAILED.contains(&name.as_str()) {
                continue;
            }
            let all = match kind {
                Kind::Socket => &SOCKET_ERRORS[..],
                Kind::Fork => &FORK_ERRORS,
                Kind::Rights => &RIGHTS_ERRORS,
                _ if name == "poll" => &POLL_ERRORS,
                _ => &ERRORS,
            };
            let is_one = share == Share::Part || kind == Kind::Socket || ASKS.contains(&name.as_str());
            for instance in 1..=count {
                turn += 1;
                let errors = if is_one && whole().is_none() { &all[turn % all.len()..][..1] } else { all };
                let blow = |error: &Errno| Target { call: call.clone(), instance, blow: Blow::Error(*error) };
                plan.extend(errors.iter().map(blow));
            }
        }
        let length = plan.len();
        self.go_through(&share.of(plan), prepare, check);
        length
    }

    fn go_through(&self, plan: &[Target], prepare: &dyn Fn() -> Scratch, check: &Check<'_>) {
        assert!(plan.len() >= 4, "{}: only {plan:?}", self.name());
        let (mut missed, mut unmade) = (Vec::new(), Vec::new());
        for target in plan {
            let Target { call, instance, blow } = target;
            let how = match blow {
                Blow::Kill => "killed".to_owned(),
                Blow::Error(error) => format!("error={error:?}"),
            };
            let (name, _) = name(call.number);
            let what = format!("{}: {}, {how} at {name} {instance}, FAULTS_TURN={}", self.name(), call.process, turn());
            match self.hit(prepare, target) {
                Ok((scratch, output)) => check(&scratch, &output, &what),
                // Of those who share a name one served all clients in the plain runs, and never again.
                Err(most) if most < *instance && call.process.contains('*') => unmade.push(what),
                Err(_) => missed.push(what),
            }
        }
        if !unmade.is_empty() {
            tell(&format!("{} of {} calls were never made again: {unmade:#?}", unmade.len(), plan.len()));
        }
        assert!(unmade.len() * 20 <= plan.len(), "{} of {} calls were never made", unmade.len(), plan.len());
        assert!(missed.is_empty(), "{} of {} calls were never hit: {missed:#?}", missed.len(), plan.len());
    }
}

impl<V: Victim> Struck for V {}

/// On standard error, where it is also seen of a test that passes.
fn tell(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

impl Share {
    fn of(self, mut plan: Vec<Target>) -> Vec<Target> {
        let mut number = turn();
        if let Some((which, of)) = whole() {
            number = of - which;
            plan.retain(|_| {
                number += 1;
                number.is_multiple_of(of)
            });
        } else if self == Share::Part {
            plan.retain(|target| {
                number += 1;
                CHANGES.contains(&name(target.call.number).0.as_str()) || number.is_multiple_of(ONE_IN)
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

/// Whether this run makes only one of several parts, in which no call need be hit that a test waits for.
pub fn is_in_parts() -> bool {
    whole().is_some_and(|(_, of)| of > 1)
}

/// Another one every day.
fn turn() -> usize {
    let days = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs() / 86_400);
    let given = std::env::var("FAULTS_TURN").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| usize::try_from(days).unwrap_or(0))
}
