//! Reads and writes that do less than they were asked for, in a program and all its children.
//!
//! strace can make a call fail, or lie about its result, but not make it do less; LD_PRELOAD does not reach calls that
//! the C library makes by itself. So the test traces the processes and lowers the count of octets before the call runs:
//! the kernel then does a short read or write in earnest. Nothing has failed, so everything must go as it always does.

use super::super::*;
use super::{large, servers, tracer};
use nix::libc;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::io::Read;

/// Calls whose third argument is a count of octets, but for copy_file_range, of which it is the fifth.
const WRITES: [i64; 4] = [libc::SYS_write, libc::SYS_pwrite64, libc::SYS_sendto, libc::SYS_copy_file_range];
const READS: [i64; 4] = [libc::SYS_read, libc::SYS_pread64, libc::SYS_recvfrom, libc::SYS_copy_file_range];
/// Rust's start-up code asks by it whether descriptors 0 to 2 are open: what comes before is ld.so, which cannot read on.
const POLL: i64 = libc::SYS_poll;

/// Which calls do less.
#[derive(Debug, Clone, Copy)]
struct Short {
    calls: [i64; 4],
    /// Octets that they do.
    most: u64,
    /// Where they were to do as many or more.
    least: u64,
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
    // Pipes hold all of what goes in and comes out.
    let mut program = case.start(scratch);
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
                if event == libc::PTRACE_EVENT_EXEC {
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
    let is_entry = ptrace::syscall_info(pid).is_ok_and(|info| info.op == libc::PTRACE_SYSCALL_INFO_ENTRY);
    let Ok(mut registers) = ptrace::getregs(pid) else { return };
    if !is_entry {
        return;
    }
    let call = registers.orig_rax.cast_signed();
    *in_rust |= call == POLL;
    let octets = if call == libc::SYS_copy_file_range { &mut registers.r8 } else { &mut registers.rdx };
    if !*in_rust || !short.calls.contains(&call) || *octets < short.least {
        return;
    }
    if short.only.is_none_or(|only| only == *calls) {
        *octets = short.most.min(*octets);
        ptrace::setregs(pid, registers).expect("registers");
    }
    *calls += 1;
}

/// What is little.
struct Scale {
    /// Octets that all calls do at once.
    little: &'static [u64],
    /// Calls that are for less are of no interest.
    least: u64,
}

const SMALL: Scale = Scale { little: &[1, 2, 7, 100], least: 2 };

/// For calls that move the content of a large message.
const LARGE: Scale = Scale { little: &[997, 40_000], least: 4096 };

/// All calls at once do little, then each call by itself does half of nothing.
fn everywhere(prepare: &dyn Fn() -> Scratch, case: &Case, scale: &Scale, check: &dyn Fn(&Scratch, &Seen, &str)) {
    for calls in [WRITES, READS] {
        let mut most = 0;
        for octets in scale.little.iter().copied() {
            let scratch = prepare();
            let short = Short { calls, most: octets, least: scale.least, only: None };
            let seen = run(&scratch, case, short);
            most = most.max(seen.calls);
            check(&scratch, &seen, &format!("{}: {short:?}", case.program));
        }
        let plain = run(&prepare(), case, Short { calls, most: u64::MAX, least: scale.least, only: None });
        assert!(plain.calls > 2 && most > plain.calls, "{}: nothing was short", case.program);
        for only in 0..plain.calls {
            let scratch = prepare();
            let short = Short { calls, most: 1, least: scale.least, only: Some(only) };
            let seen = run(&scratch, case, short);
            check(&scratch, &seen, &format!("{}: {short:?}", case.program));
        }
    }
}

#[test]
fn short_reads_and_writes_anywhere_take_a_message_all_the_same() {
    for case in [smtp(Traced::Family), qmqp(Traced::Family)] {
        everywhere(&receiving, &case, &SMALL, &|scratch, seen, what| {
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
    everywhere(&queued, &deliver(Traced::Family), &SMALL, &|scratch, seen, what| {
        assert_eq!(seen.code, Some(0), "{what}: {}", seen.output);
        assert_eq!(scratch.queued().len(), 0, "{what}: not delivered");
        delivered_once(scratch, 1, what);
    });
}

#[test]
fn short_reads_and_writes_anywhere_fetch_and_remove_mail_all_the_same() {
    for prepare in [mailbox, mbox] {
        everywhere(&prepare, &pop3(Traced::Family), &SMALL, &|scratch, seen, what| {
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

#[test]
fn short_reads_and_writes_anywhere_take_a_large_message_all_the_same() {
    for protocol in [servers::SMTP, servers::QMQP] {
        let case = protocol.case(large::body());
        everywhere(&servers::prepared, &case, &LARGE, &|scratch, seen, what| {
            assert_eq!(seen.code, Some(0), "{what}: {}", seen.output);
            assert_eq!((protocol.taken_for)(&seen.output), servers::TO, "{what}: {}", seen.output);
            scratch.deliver();
            servers::each_has_it_once(scratch, large::body(), what);
            assert_eq!(servers::TO.map(|user| scratch.mail(user).len()), [1, 1], "{what}: lost");
        });
    }
}

#[test]
fn short_reads_and_writes_anywhere_deliver_a_large_message_all_the_same() {
    for format in large::FORMATS {
        let prepare = || large::queued(format);
        everywhere(&prepare, &deliver(Traced::Family), &LARGE, &|scratch, seen, what| {
            assert_eq!(seen.code, Some(0), "{what}: {}", seen.output);
            assert_eq!(scratch.queued().len(), 0, "{what}: not delivered");
            large::is_in_each(format, scratch, what);
        });
    }
}
