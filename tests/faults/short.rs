//! Reads and writes that do less than they were asked for, in a program and all its children.
//!
//! strace can make a call fail, or lie about its result, but not make it do less; LD_PRELOAD does not reach calls that
//! the C library makes by itself. So the test traces the processes and lowers the count of octets before the call runs:
//! the kernel then does a short read or write in earnest. Nothing has failed, so everything must go as it always does.

use super::super::*;
use super::tracer;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::process::Stdio;

/// Numbers of calls on x86-64 whose third argument is a count of octets.
const WRITES: [u64; 3] = [1, 18, 44];
const READS: [u64; 3] = [0, 17, 45];
/// Rust's start-up code asks by it whether descriptors 0 to 2 are open: what comes before is ld.so, which cannot read on.
const POLL: u64 = 7;

/// Which calls do less.
#[derive(Debug, Clone, Copy)]
struct Short {
    calls: [u64; 3],
    /// Octets that they do.
    most: u64,
    /// One call only, counted from 0 over all processes.
    only: Option<usize>,
}

struct Seen {
    output: String,
    code: Option<i32>,
    /// How many calls could have done less.
    calls: usize,
}

/// Runs a program to its end with `input` on standard input.
fn run(scratch: &Scratch, case: &Case, short: Short) -> Seen {
    let mut program = tracer::start(&[common::binary(case.program).into()], scratch.path(), Stdio::piped());
    // Pipes hold all of what goes in and comes out.
    program.0.stdin.take().expect("a pipe").write_all(&case.input).expect("input");
    let (code, calls) = trace(tracer::seize(&program), short);
    let mut output = Vec::new();
    program.0.stdout.take().expect("a pipe").read_to_end(&mut output).expect("output");
    Seen { output: String::from_utf8_lossy(&output).into_owned(), code, calls }
}

/// Leads all processes of a group to their end: the exit status of the first, and how many calls could have done less.
fn trace(main: Pid, short: Short) -> (Option<i32>, usize) {
    let (mut code, mut calls) = (None, 0);
    let mut in_rust: HashMap<Pid, bool> = HashMap::from([(main, false)]);
    let group = Pid::from_raw(-main.as_raw());
    while let Ok(status) = waitpid(group, Some(WaitPidFlag::__WALL)) {
        let (pid, signal) = match status {
            WaitStatus::Exited(pid, status) => {
                code = if pid == main { Some(status) } else { code };
                continue;
            }
            WaitStatus::PtraceSyscall(pid) => {
                enter(pid, short, in_rust.entry(pid).or_insert(true), &mut calls);
                (pid, None)
            }
            WaitStatus::PtraceEvent(pid, _, event) => {
                if event == nix::libc::PTRACE_EVENT_EXEC {
                    in_rust.insert(pid, false);
                }
                (pid, None)
            }
            WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
            _ => continue,
        };
        // It may have been killed meanwhile.
        let _ = ptrace::syscall(pid, signal);
    }
    (code, calls)
}

fn enter(pid: Pid, short: Short, in_rust: &mut bool, calls: &mut usize) {
    let is_entry = ptrace::syscall_info(pid).is_ok_and(|info| info.op == nix::libc::PTRACE_SYSCALL_INFO_ENTRY);
    let Ok(mut registers) = ptrace::getregs(pid) else { return };
    if !is_entry {
        return;
    }
    *in_rust |= registers.orig_rax == POLL;
    if !*in_rust || !short.calls.contains(&registers.orig_rax) || registers.rdx < 2 {
        return;
    }
    if short.only.is_none_or(|only| only == *calls) {
        registers.rdx = registers.rdx.min(short.most);
        ptrace::setregs(pid, registers).expect("registers");
    }
    *calls += 1;
}

/// All calls at once do little, then each call by itself does half of nothing.
fn everywhere(prepare: &dyn Fn() -> Scratch, case: &Case, check: &dyn Fn(&Scratch, &Seen, &str)) {
    for calls in [WRITES, READS] {
        let mut most = 0;
        for octets in [1, 2, 7, 100] {
            let scratch = prepare();
            let short = Short { calls, most: octets, only: None };
            let seen = run(&scratch, case, short);
            most = most.max(seen.calls);
            check(&scratch, &seen, &format!("{}: {short:?}", case.program));
        }
        let plain = run(&prepare(), case, Short { calls, most: u64::MAX, only: None });
        assert!(plain.calls > 2 && most > plain.calls, "{}: nothing was short", case.program);
        for only in 0..plain.calls {
            let scratch = prepare();
            let short = Short { calls, most: 1, only: Some(only) };
            let seen = run(&scratch, case, short);
            check(&scratch, &seen, &format!("{}: {short:?}", case.program));
        }
    }
}

#[test]
fn short_reads_and_writes_anywhere_take_a_message_all_the_same() {
    for case in [smtp(Traced::Family), qmqp(Traced::Family)] {
        everywhere(&receiving, &case, &|scratch, seen, what| {
            assert_eq!(seen.code, Some(0), "{what}: {}", seen.output);
            let taken =
                seen.output.contains("\r\n250 2.0.0 Ok: queued as ") || seen.output.contains(":KOk: queued as ");
            assert!(taken, "{what}: {}", seen.output);
            let queued = scratch.queued();
            assert_eq!(queued.len(), 1, "{what}");
            assert_eq!(queued[0].content(), BODY.as_bytes(), "{what}: torn");
            delivered_once(scratch, 1, what);
        });
    }
}

#[test]
fn short_reads_and_writes_anywhere_deliver_a_message_all_the_same() {
    everywhere(&queued, &deliver(Traced::Family), &|scratch, seen, what| {
        assert_eq!(seen.code, Some(0), "{what}: {}", seen.output);
        assert_eq!(scratch.queued().len(), 0, "{what}: not delivered");
        delivered_once(scratch, 1, what);
    });
}

#[test]
fn short_reads_and_writes_anywhere_fetch_and_remove_mail_all_the_same() {
    for prepare in [mailbox, mbox] {
        everywhere(&prepare, &pop3(Traced::Family), &|scratch, seen, what| {
            assert_eq!(seen.code, Some(0), "{what}: {}", seen.output);
            assert!(seen.output.contains("\r\nSubject: one\r\n\r\nto be removed\r\n"), "{what}: {}", seen.output);
            assert!(seen.output.ends_with("+OK Goodbye\r\n"), "{what}: {}", seen.output);
            if scratch.maildir("bob").is_dir() {
                assert_eq!(scratch.mail("bob"), [b"Subject: two\n\nto be kept\n"], "{what}");
            } else {
                assert_eq!(fs::read_to_string(scratch.maildir("bob")).expect("the mailbox"), MBOX_KEPT, "{what}");
            }
        });
    }
}
