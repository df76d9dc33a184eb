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

use super::names::name;
use super::plan::{self, Share, Strike};
use super::tracer::{self, Blow, Call, Followed, Stopped, Target};
use crate::common::{Scratch, bin_folder, binary};
use crate::no_panic;
use nix::fcntl::{FcntlArg, fcntl};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::process::{Output, Stdio};

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
        let mut program = self.start(scratch);
        let followed = tracer::follow(&program, target, str::to_owned);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        program.0.stdout.take().expect("a pipe").read_to_end(&mut stdout).expect("what it said");
        program.0.stderr.take().expect("a pipe").read_to_end(&mut stderr).expect("what it said");
        let status = followed.status;
        (followed, Output { status, stdout, stderr })
    }
}

impl Case {
    /// About to begin, with its input in a pipe that holds all of it.
    pub fn start(&self, scratch: &Scratch) -> Stopped {
        let mut words = self.program.split(' ');
        let program = words.next().unwrap_or_default();
        let arguments: Vec<OsString> = match program {
            "exec" => ["/bin/sh", "-c", self.program].map(OsString::from).into(),
            _ => [binary(program).into()].into_iter().chain(words.map(OsString::from)).collect(),
        };
        let mut program = tracer::start(&arguments, scratch.path(), [Stdio::piped(), Stdio::piped()]);
        let mut stdin = program.0.stdin.take().expect("a pipe");
        if self.input.len() > USUAL_PIPE {
            let size = i32::try_from(self.input.len()).expect("a size");
            fcntl(&stdin, FcntlArg::F_SETPIPE_SZ(size)).expect("a larger pipe");
        }
        stdin.write_all(&self.input).expect("input");
        program
    }
}

/// What a pipe holds in octets, unless it is made larger.
const USUAL_PIPE: usize = 65_536;

/// Plain runs, and runs until something was hit.
const PLAIN: usize = 4;
const TRIES: usize = 20;

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

    /// Kills it at each call; `check` looks at what is left.
    fn kill(&self, share: Share, prepare: &dyn Fn() -> Scratch, check: &Check<'_>) {
        self.go_through(share, Strike::Kills, &self.calls(prepare), prepare, check);
    }

    /// Makes each call that can fail do so, in each way.
    fn fail(&self, share: Share, prepare: &dyn Fn() -> Scratch, check: &Check<'_>) {
        self.go_through(share, Strike::Errors, &self.calls(prepare), prepare, check);
    }

    /// Both, with as many calls at least for the one and for the other.
    fn kill_and_fail(
        &self,
        share: fn(usize) -> Share,
        [kills, errors]: [usize; 2],
        prepare: &dyn Fn() -> Scratch,
        check: &Check<'_>,
    ) {
        let calls = self.calls(prepare);
        self.go_through(share(kills), Strike::Kills, &calls, prepare, check);
        self.go_through(share(errors), Strike::Errors, &calls, prepare, check);
    }

    fn go_through(
        &self,
        share: Share,
        strike: Strike,
        calls: &BTreeMap<Call, usize>,
        prepare: &dyn Fn() -> Scratch,
        check: &Check<'_>,
    ) {
        let places = strike.places(calls);
        let (found, least) = (places.len(), share.least());
        assert!(found >= least, "{}: {strike:?} at {found} calls, and there were {least}", self.name());
        let plan = share.plan(&places);
        assert!(!plan.is_empty(), "{}: {strike:?} at none of {found} calls", self.name());
        let (mut missed, mut unmade) = (Vec::new(), Vec::new());
        for target in &plan {
            let Target { call, instance, blow } = target;
            let how = match blow {
                Blow::Kill => "killed".to_owned(),
                Blow::Error(error) => format!("error={error:?}"),
            };
            let (name, _) = name(call.number);
            let what =
                format!("{}: {}, {how} at {name} {instance}, FAULTS_TURN={}", self.name(), call.process, plan::turn());
            match self.hit(prepare, target) {
                Ok((scratch, output)) => {
                    no_panic(&output, &what);
                    if *blow != Blow::Kill {
                        ends_well(&output, &what);
                    }
                    check(&scratch, &output, &what);
                }
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
        if plan::whole().is_some() {
            tell(&format!("{}: {strike:?}: {} at {found} calls", self.name(), plan.len()));
        }
    }
}

impl<V: Victim> Struck for V {}

/// On standard error, where it is also seen of a test that passes.
fn tell(what: &str) {
    let _ = writeln!(std::io::stderr(), "{what}");
}

/// No error alone ends it by a signal, or the process of its own that reads what a client says.
fn ends_well(output: &Output, what: &str) {
    assert!(output.status.code().is_some(), "{what}: ended by a signal: {output:?}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("event=parser-died"), "{what}: crashed: {output:?}");
}
