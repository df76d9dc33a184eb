//! Follows a program and everything it starts by ptrace(2), and strikes at one call of one process: kills it before the call
//! runs, or has the call not made and an error in its place.
//!
//! strace counts calls in each process by itself, and strikes at the first process whose count is right. Here a process has a
//! name that is the same in every run: which child of whom it is, and the program it runs. So what a forked
//! child calls can be told from what its parent calls.
//!
//! A process that is about to end while others live is held for a moment, so that these come as far as they can: workers
//! that are to die with who started them are else killed somewhere or other.

use super::names;
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For so long nothing may come to an end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who is about to end waits until the others have done nothing for so long, and for so long at the most.
const QUIET: Duration = Duration::from_millis(15);
const HELD: Duration = Duration::from_millis(300);

/// A call of a process, named by its place among its kin and by its program: `0.1 submit`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    pub process: String,
    pub number: i64,
}

/// What is done at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    Kill,
    Error(Errno),
}

/// The `instance`th time that this call is made, counted from 1.
#[derive(Debug, Clone)]
pub struct Target {
    pub call: Call,
    pub instance: usize,
    pub blow: Blow,
}

/// The name that a process goes by: its own, or one that it shares with others of which it cannot be said which does what.
pub type Alias = fn(&str) -> String;

/// What was seen.
#[derive(Debug)]
pub struct Followed {
    pub status: ExitStatus,
    pub is_hit: bool,
    /// How often each call was made; of those who share a name, by who made it most often.
    pub calls: BTreeMap<Call, usize>,
}

/// A program that has not begun yet: a shell that has stopped and will become it. Its standard error is a pipe.
pub struct Stopped(pub Child);

/// Starts one with this program and its arguments, MAIL_CONFIG, and these as standard input and output.
#[allow(clippy::zombie_processes, reason = "who traces it waits for it and all its kin")]
pub fn start(arguments: &[OsString], configuration: &Path, [stdin, stdout]: [Stdio; 2]) -> Stopped {
    let mut command = Command::new("sh");
    command.args(["-c", "kill -STOP $$; exec \"$0\" \"$@\""]).args(arguments);
    command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", configuration).process_group(0);
    command.stdin(stdin).stdout(stdout).stderr(Stdio::piped());
    Stopped(command.spawn().expect("sh"))
}

/// A process that is there.
struct Process {
    /// Its place among its kin.
    place: String,
    /// With its program.
    name: String,
    children: usize,
    calls: HashMap<i64, usize>,
    /// The error that its call is to end with.
    error: Option<Errno>,
}

impl Process {
    fn new(place: String, program: &str) -> Process {
        let name = format!("{place} {program}");
        Process { place, name, children: 0, calls: HashMap::new(), error: None }
    }

    fn program(&self) -> &str {
        self.name.split_once(' ').map_or("", |(_, program)| program)
    }
}

/// Who is about to end.
struct Ending {
    held: Vec<Pid>,
    since: Instant,
    quiet_since: Instant,
}

struct Tracer<'a> {
    target: Option<&'a Target>,
    alias: Alias,
    main: Pid,
    processes: HashMap<Pid, Process>,
    /// Stopped before their first call, until it is known whose children they are.
    unknown: HashSet<Pid>,
    ending: Option<Ending>,
    /// For the watchdog.
    living: Arc<Mutex<HashSet<Pid>>>,
    seen: Followed,
}

/// Lets it begin; from now on it and all it starts stop at their calls. Must be called by the thread that started it.
pub fn seize(program: &Stopped) -> Pid {
    let main = Pid::from_raw(i32::try_from(program.0.id()).expect("a process id"));
    assert!(matches!(waitpid(main, Some(WaitPidFlag::WUNTRACED)), Ok(WaitStatus::Stopped(..))), "sh did not stop");
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(main, options).expect("tracing");
    kill(main, Signal::SIGCONT).expect("SIGCONT");
    main
}

/// Leads a program and all its kin to their end. Must be called by the thread that started it.
pub fn follow(program: &Stopped, target: Option<&Target>, alias: Alias) -> Followed {
    let main = seize(program);
    let living = Arc::new(Mutex::new(HashSet::from([main])));
    let _over = watch(Arc::clone(&living));
    let seen = Followed { status: ExitStatus::from_raw(0), is_hit: false, calls: BTreeMap::new() };
    let processes = HashMap::from([(main, Process::new("0".to_owned(), "sh"))]);
    let mut tracer = Tracer { target, alias, main, processes, unknown: HashSet::new(), ending: None, living, seen };
    while !tracer.processes.is_empty() {
        tracer.step();
    }
    tracer.seen
}

/// Kills whoever is left when the time is over; not any more when what it gives is dropped.
fn watch(living: Arc<Mutex<HashSet<Pid>>>) -> Sender<()> {
    let (over, is_over) = channel();
    std::thread::spawn(move || {
        if is_over.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            for pid in living.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                let _ = kill(*pid, Signal::SIGKILL);
            }
        }
    });
    over
}

impl Tracer<'_> {
    fn step(&mut self) {
        // Of this thread alone: other tests have processes too.
        let mut flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        flags.set(WaitPidFlag::WNOHANG, self.ending.is_some());
        let status = match waitpid(None, Some(flags)) {
            Ok(WaitStatus::StillAlive) => {
                std::thread::sleep(Duration::from_millis(1));
                return self.let_end();
            }
            Err(Errno::EINTR) => return,
            status => status.expect("a process that is followed"),
        };
        if let Some(ending) = &mut self.ending {
            ending.quiet_since = Instant::now();
        }
        match status {
            WaitStatus::Exited(pid, code) => self.ended(pid, ExitStatus::from_raw(code << 8)),
            WaitStatus::Signaled(pid, signal, _) => self.ended(pid, ExitStatus::from_raw(signal as i32)),
            WaitStatus::PtraceSyscall(pid) => self.call(pid),
            WaitStatus::PtraceEvent(pid, _, event) => self.event(pid, event),
            WaitStatus::Stopped(pid, signal) => go_on(pid, Some(signal)),
            _ => {}
        }
        self.let_end();
    }

    /// Lets those go on who are about to end, if nobody else does anything any more.
    fn let_end(&mut self) {
        let is_over = |ending: &mut Ending| {
            let alone = self.processes.keys().all(|pid| ending.held.contains(pid));
            alone || ending.quiet_since.elapsed() > QUIET || ending.since.elapsed() > HELD
        };
        if let Some(ending) = self.ending.take_if(is_over) {
            ending.held.into_iter().for_each(|pid| go_on(pid, None));
        }
    }

    fn ended(&mut self, pid: Pid, status: ExitStatus) {
        self.living.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
        self.unknown.remove(&pid);
        if pid == self.main {
            self.seen.status = status;
        }
        if let Some(process) = self.processes.remove(&pid) {
            self.count(&process);
        }
    }

    /// Adds the calls of what a process was.
    fn count(&mut self, process: &Process) {
        for (number, count) in &process.calls {
            let call = Call { process: (self.alias)(&process.name), number: *number };
            let most = self.seen.calls.entry(call).or_insert(0);
            *most = (*most).max(*count);
        }
    }

    fn event(&mut self, pid: Pid, event: i32) {
        match event {
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                let child = ptrace::getevent(pid).ok().and_then(|child| i32::try_from(child).ok());
                if let (Some(child), Some(parent)) = (child.map(Pid::from_raw), self.processes.get_mut(&pid)) {
                    parent.children += 1;
                    let place = format!("{}.{}", parent.place, parent.children);
                    let process = Process::new(place, parent.program());
                    self.processes.insert(child, process);
                    self.living.lock().unwrap_or_else(PoisonError::into_inner).insert(child);
                    if self.unknown.remove(&child) {
                        go_on(child, None);
                    }
                }
            }
            libc::PTRACE_EVENT_EXEC => {
                let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
                let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if let Some(process) = self.processes.get_mut(&pid) {
                    let new = Process { children: process.children, ..Process::new(process.place.clone(), &program) };
                    let old = std::mem::replace(process, new);
                    // What the shell did is of no interest.
                    if old.program() != "sh" || old.place != "0" {
                        self.count(&old);
                    }
                }
            }
            _ if !self.processes.contains_key(&pid) => {
                self.unknown.insert(pid);
                return;
            }
            _ => {}
        }
        go_on(pid, None);
    }

    /// At the beginning or the end of a call.
    fn call(&mut self, pid: Pid) {
        let is_entry = ptrace::syscall_info(pid).is_ok_and(|info| info.op == libc::PTRACE_SYSCALL_INFO_ENTRY);
        let (Ok(mut registers), Some(process)) = (ptrace::getregs(pid), self.processes.get_mut(&pid)) else {
            return go_on(pid, None);
        };
        if !is_entry {
            if let Some(error) = process.error.take() {
                registers.rax = (-i64::from(error as i32)).cast_unsigned();
                let _ = ptrace::setregs(pid, registers);
            }
            return go_on(pid, None);
        }
        let number = names::number(&registers);
        let count = process.calls.entry(number).or_insert(0);
        *count += 1;
        let is_it = |target: &&Target| {
            let is_call = target.call.number == number && target.instance == *count && !self.seen.is_hit;
            is_call && target.call.process == (self.alias)(&process.name)
        };
        match self.target.filter(is_it).map(|target| target.blow) {
            Some(Blow::Kill) => self.seen.is_hit |= kill(pid, Signal::SIGKILL).is_ok(),
            Some(Blow::Error(error)) => {
                process.error = Some(error);
                // No call has this number.
                registers.orig_rax = u64::MAX;
                self.seen.is_hit |= ptrace::setregs(pid, registers).is_ok();
            }
            None if number == libc::SYS_exit_group && self.processes.len() > 1 => {
                let now = Instant::now();
                let ending = Ending { held: Vec::new(), since: now, quiet_since: now };
                return self.ending.get_or_insert(ending).held.push(pid);
            }
            None => {}
        }
        go_on(pid, None);
    }
}

/// It may have been killed meanwhile.
fn go_on(pid: Pid, signal: Option<Signal>) {
    let _ = ptrace::syscall(pid, signal);
}
