//! Which calls of a matrix are struck in a run, and how: with a kill, or with each error that makes sense there.
//!
//! Matrices that take a minute or more are made in part ([`Share::Part`]): every call that changes what is on disk, and an
//! evenly spaced part of the rest, another one every day; or that part alone ([`Share::Few`]). `FAULTS=all` makes the whole,
//! or `FAULTS=3/8` the third of eight parts of it that take about as long as each other; `FAULTS_TURN=20779` repeats a day:
//! `FAULTS=all TMPDIR=/dev/shm cargo test --features interop,powercut --test faults -- --test-threads=8`

use super::names::{Kind, name};
use super::tracer::{Blow, Call, Target};
use nix::errno::Errno;
use nix::unistd::geteuid;
use std::collections::BTreeMap;
use std::time::SystemTime;

/// How much of a matrix is made, and how many calls there are in it at least, where root runs the tests: anybody else's
/// programs need fewer processes. A matrix that shrinks unseen would show less than it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    Whole(usize),
    /// Every call that changes what is on disk and some of the rest; the whole only if `FAULTS=all` asks for it.
    Part(usize),
    /// Some of all; the whole only if `FAULTS=all` asks for it.
    Few(usize),
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

/// Of what is in a part only now and then one in so many.
const ONE_IN: usize = 40;

/// What is done to a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strike {
    Kills,
    Errors,
}

/// One time that a call is made, and what can be done there.
pub struct Place {
    pub call: Call,
    instance: usize,
    blows: Vec<Blow>,
}

impl Strike {
    /// Where it can be done, and how.
    pub fn places(self, calls: &BTreeMap<Call, usize>) -> Vec<Place> {
        let mut places = Vec::new();
        for (call, count) in calls {
            let blows = self.blows(call.number);
            // How often it sleeps until another process is done is that one's affair.
            let most = if name(call.number).0 == "clock_nanosleep" { 1 } else { usize::MAX };
            let count = if blows.is_empty() { 0 } else { most.min(*count) };
            places.extend((1..=count).map(|instance| Place { call: call.clone(), instance, blows: blows.clone() }));
        }
        places
    }

    /// The ways in which this call can be struck.
    fn blows(self, number: i64) -> Vec<Blow> {
        let (name, kind) = name(number);
        let errors: &[Errno] = match (self, kind) {
            (Strike::Kills, _) => return vec![Blow::Kill],
            (_, Kind::Other) => &[],
            (_, Kind::Socket) => &SOCKET_ERRORS,
            (_, Kind::Fork) => &FORK_ERRORS,
            (_, Kind::Rights) => &RIGHTS_ERRORS,
            (_, Kind::File) if NOT_FAILED.contains(&name.as_str()) => &[],
            (_, Kind::File) if name == "poll" => &POLL_ERRORS,
            (_, Kind::File) => &ERRORS,
        };
        errors.iter().map(|error| Blow::Error(*error)).collect()
    }
}

impl Share {
    pub fn least(self) -> usize {
        let (Share::Whole(least) | Share::Part(least) | Share::Few(least)) = self;
        // Another C library makes other calls before the program begins.
        if geteuid().is_root() { least * 4 / 5 } else { 4 }
    }

    /// What is done in this run: at each place in all ways, or in one, another one every day; and of that all or a part.
    pub fn plan(self, places: &[Place]) -> Vec<Target> {
        let mut plan = Vec::new();
        for (place, turn) in places.iter().zip(turn() + 1..) {
            let (name, kind) = name(place.call.number);
            let is_whole = matches!(self, Share::Whole(_)) && kind != Kind::Socket && !ASKS.contains(&name.as_str());
            let one = &place.blows[turn % place.blows.len()..][..1];
            let blows = if is_whole || whole().is_some() { &place.blows } else { one };
            let target = |blow: &Blow| Target { call: place.call.clone(), instance: place.instance, blow: *blow };
            plan.extend(blows.iter().map(target));
        }
        let (mut number, of) = whole().map_or((turn(), ONE_IN), |(which, of)| (of - which, of));
        let is_always = |target: &Target| match self {
            _ if whole().is_some() => false,
            Share::Whole(_) => true,
            Share::Part(_) => CHANGES.contains(&name(target.call.number).0.as_str()),
            Share::Few(_) => false,
        };
        plan.retain(|target| {
            number += 1;
            is_always(target) || number.is_multiple_of(of)
        });
        plan
    }
}

/// Of the whole, if that is asked for: which part, and of how many.
pub fn whole() -> Option<(usize, usize)> {
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
pub fn turn() -> usize {
    let days = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs() / 86_400);
    let given = std::env::var("FAULTS_TURN").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| usize::try_from(days).unwrap_or(0))
}
