//! The same matrix, kills at every call and errors in every file call, over the ways that the others do not take: `~/.forward`,
//! programs, requeueing, notices of delay, SMTP and LMTP, the filter before the queue.
//!
//! Each takes a minute or so, so a part is made in every run; see plan.rs for the whole.

use crate::common::hops::{Act, Hop};
use crate::common::{Scratch, binary, feed, until};
use crate::faults::large;
use crate::faults::matrix::Struck;
use crate::faults::plan::Share;
use crate::faults::servers::accepted;
use crate::{BODY, Case, Traced, acknowledged, deliver, due_again, far_off, nothing_left_over, receiving, smtp};
use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Output;
use std::sync::OnceLock;

/// An installation with one message for this recipient.
fn with_message(scratch: Scratch, to: &str) -> Scratch {
    let output = scratch.run("submit", &["-f", "alice@mx.example", to], BODY.as_bytes());
    assert!(output.status.success(), "{output:?}");
    scratch
}

/// Ordinary sweeps, until all that can be done is done.
fn sweep(scratch: &Scratch) -> String {
    let mut log = String::new();
    for _ in 0..3 {
        due_again(scratch);
        log.push_str(&scratch.deliver());
    }
    log
}

fn matrix(least: [usize; 2], prepare: &dyn Fn() -> Scratch, check: &dyn Fn(&Scratch, &str)) {
    deliver(Traced::Family).kill_and_fail(Share::Part, least, prepare, &|scratch, _, what| check(scratch, what));
}

fn forwarded() -> Scratch {
    let scratch = receiving();
    fs::create_dir_all(scratch.path().join("home/bob")).expect("a home");
    scratch.write_long_ago("home/bob/.forward", "\\bob, carol\n");
    scratch.hand_over(&scratch.path().join("home"));
    with_message(scratch, "bob@mx.example")
}

#[test]
fn a_forward_file_is_followed_once() {
    matrix([550, 390], &forwarded, &|scratch, what| {
        sweep(scratch);
        for user in ["bob", "carol"] {
            assert_eq!(scratch.mail(user).len(), 1, "{what}: {user}");
            assert!(scratch.mail(user)[0].ends_with(BODY.as_bytes()), "{what}: torn");
        }
        assert_eq!((scratch.queued().len(), scratch.mail("alice").len()), (0, 0), "{what}");
        nothing_left_over(scratch, what);
    });
}

fn piped() -> Scratch {
    let scratch = receiving();
    scratch.configure("allow_mail_to_commands = alias\ndefault_privs = nobody");
    let (program, out) = (scratch.path().join("program"), scratch.path().join("out"));
    crate::common::write_program(&program, &format!("#!/bin/sh\ncat >{0}.$$ && mv {0}.$$ {0}/$$\n", out.display()));
    fs::create_dir(&out).expect("a folder");
    scratch.hand_over(scratch.path());
    scratch.write("aliases", &format!("prog: \"|{}\"\n", program.display()));
    with_message(scratch, "prog@mx.example")
}

/// Nobody can ask a program what it has done: the one message in flight may come to it again, and it gets it whole.
#[test]
fn a_program_gets_a_message_whole_and_at_most_twice() {
    matrix([390, 250], &piped, &|scratch, what| {
        quiet(scratch);
        let log = sweep(scratch);
        let files: Vec<_> = crate::files(&scratch.path().join("out"));
        // A program that could not write says that it failed, and that is told.
        let returned = scratch.mail("alice").len();
        let is_told = files.is_empty() && returned == 1 && !what.contains("killed");
        assert!((1..=2).contains(&files.len()) || is_told, "{what}: {files:?}: {log}");
        for file in &files {
            assert!(fs::read(file).expect("a message").ends_with(BODY.as_bytes()), "{what}: torn");
        }
        assert_eq!((scratch.queued().len(), returned), (0, usize::from(is_told)), "{what}: {log}");
    });
}

/// A message that has waited long enough; made once, and put into each installation as it is.
fn delayed() -> Scratch {
    static WAITED: OnceLock<(String, Vec<u8>)> = OnceLock::new();
    let prepared = || {
        let scratch = receiving();
        scratch.configure("delay_warning_time = 1s\nminimal_backoff_time = 1h");
        fs::write(scratch.maildir("bob"), "in the way").expect("a file");
        scratch
    };
    let place = |scratch: &Scratch, id: &str| scratch.queue().join("message").join(&id[14..]).join(id);
    let (id, octets) = WAITED.get_or_init(|| {
        let scratch = with_message(prepared(), "bob@mx.example");
        scratch.deliver();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        let id = scratch.queued().pop().expect("the message").id;
        let octets = fs::read(place(&scratch, &id)).expect("the message");
        (id, octets)
    });
    let scratch = prepared();
    let path = place(&scratch, id);
    for folder in [scratch.queue().join("message"), path.parent().expect("a folder").to_owned()] {
        fs::create_dir(&folder).expect("a folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("its mode");
    }
    fs::write(&path, octets).expect("the message");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    scratch.hand_over(&scratch.queue());
    scratch
}

#[test]
fn a_sender_is_told_of_delay_once() {
    matrix([440, 300], &delayed, &|scratch, what| {
        sweep(scratch);
        let reports = scratch.mail("alice");
        assert_eq!(reports.len(), 1, "{what}");
        assert!(String::from_utf8_lossy(&reports[0]).contains("\nAction: delayed\n"), "{what}");
        fs::remove_file(scratch.maildir("bob")).expect("a file");
        sweep(scratch);
        assert_eq!((scratch.mail("bob").len(), scratch.mail("alice").len()), (1, 1), "{what}");
        assert_eq!(scratch.queued().len(), 0, "{what}");
    });
}

#[test]
fn requeueing_loses_and_doubles_nothing() {
    let case = Case { program: "doorpost-queue requeue ALL", traced: Traced::Itself, input: Vec::new() };
    let prepare = || with_message(receiving(), "bob@mx.example");
    // What is held is there to be seen, and goes on when it is released; by whoever is faster.
    let check = |deliver_first: bool| {
        move |scratch: &Scratch, _: &Output, what: &str| {
            if deliver_first {
                scratch.deliver();
            }
            scratch.settle();
            let _ = scratch.run("doorpost-queue", &["release", "ALL"], b"");
            sweep(scratch);
            assert_eq!((scratch.mail("bob").len(), scratch.queued().len()), (1, 0), "{what}");
            assert!(scratch.mail("bob")[0].ends_with(BODY.as_bytes()), "{what}: torn");
            nothing_left_over(scratch, what);
        }
    };
    case.kill(Share::Part(125), &prepare, &check(true));
    case.kill_and_fail(Share::Part, [125, 70], &prepare, &check(false));
}

fn through(hop: &Hop, protocol: &str, body: &str) -> Scratch {
    let scratch = receiving();
    scratch.configure("minimal_backoff_time = 1s");
    scratch.write("channels", &format!("local * mx.example mailbox: *\nout - * {protocol}:{} -\n", hop.name()));
    let output = scratch.run("submit", &["-f", "alice@mx.example", &far_off(&scratch)], body.as_bytes());
    assert!(output.status.success(), "{output:?}");
    scratch
}

/// It was handed on whole, and at most twice.
fn is_handed_on(hop: &Hop, body: &str, scratch: &Scratch, what: &str) {
    sweep(scratch);
    // A next hop that seemed dead is asked again later.
    until("an empty queue", || {
        sweep(scratch);
        scratch.queued().is_empty()
    });
    let to = format!("RCPT TO:<{}>", far_off(scratch));
    let taken = hop.taken();
    let copies: Vec<_> = taken.iter().filter(|taken| taken.rcpts.contains(&to)).collect();
    assert!((1..=2).contains(&copies.len()), "{what}: {} copies", copies.len());
    assert!(copies.iter().all(|copy| copy.content.ends_with(&body.replace('\n', "\r\n"))), "{what}: torn");
    assert_eq!(scratch.mail("alice").len(), 0, "{what}: returned");
}

/// Killed or failing anywhere, LMTP; and failing anywhere, SMTP, whose kills are in every run.
#[test]
fn a_next_hop_gets_a_message_and_at_most_twice() {
    let hop = Hop::friendly();
    matrix([400, 205], &|| through(&hop, "lmtp", BODY), &|scratch, what| is_handed_on(&hop, BODY, scratch, what));
    deliver(Traced::Family).fail(Share::Part(205), &|| through(&hop, "smtp", BODY), &|scratch, _, what| {
        is_handed_on(&hop, BODY, scratch, what);
    });
}

#[test]
fn a_next_hop_gets_a_large_message_whole_and_at_most_twice() {
    // One each: it keeps all that it takes.
    let hop = RefCell::new(Hop::friendly());
    let prepare = || {
        *hop.borrow_mut() = Hop::friendly();
        through(&hop.borrow(), "smtp", large::body())
    };
    deliver(Traced::Family).kill_and_fail(Share::Few, [400, 205], &prepare, &|scratch, _, what| {
        is_handed_on(&hop.borrow(), large::body(), scratch, what);
    });
}

fn filtered() -> Scratch {
    let scratch = receiving();
    let link = scratch.path().join("qmail-queue");
    symlink(binary("submit"), &link).expect("a link");
    scratch.configure(&format!("before_queue_filter = qmail-queue:{}", link.display()));
    scratch
}

/// Waits until nobody works for this installation any more: what a killed program had started goes on.
fn quiet(scratch: &Scratch) {
    let path = scratch.path().as_os_str().as_encoded_bytes().to_vec();
    let is_ours = |environment: Vec<u8>| environment.windows(path.len()).any(|part| part == path);
    until("the end of what was started", || {
        let processes = fs::read_dir("/proc").expect("/proc").flatten();
        !processes.filter_map(|entry| fs::read(entry.path().join("environ")).ok()).any(is_ours)
    });
}

/// Through a server before the queue: what is acknowledged it has had once, and whom it does not take the message for waits
/// in the queue for it; nobody else gets anything.
#[test]
fn what_a_server_before_the_queue_has_taken_is_taken_once() {
    for (protocol, to) in [("smtp", &["bob"][..]), ("lmtp", &["bob", "carol"])] {
        // One each, for it may still take what somebody said who was killed.
        let hop = RefCell::new(Hop::friendly());
        let prepare = || {
            *hop.borrow_mut() = Hop::start(|word, line, _| {
                (word == "." && line.contains("carol")).then_some(Act::Say("450 4.2.1 not now"))
            });
            let scratch = receiving();
            scratch.configure(&format!("before_queue_filter = {protocol}:{}", hop.borrow().name()));
            scratch
        };
        let mut case = smtp(Traced::Submit);
        if to.len() > 1 {
            let text = String::from_utf8(case.input).expect("text");
            case.input = text.replace("DATA\r\n", "RCPT TO:<carol@mx.example>\r\nDATA\r\n").into_bytes();
        }
        let is_acknowledged =
            |output: &Output| String::from_utf8_lossy(&output.stdout).contains("\r\n250 2.0.0 Ok: queued as ");
        let check = |scratch: &Scratch, output: &Output, what: &str| {
            quiet(scratch);
            // Where the FIFO cannot be written deliver was started, and has asked again for whom it was not taken.
            let is_first = |taken: &crate::common::hops::Taken| taken.rcpts.iter().any(|rcpt| rcpt.contains("bob"));
            let taken: Vec<_> = hop.borrow().taken().into_iter().filter(is_first).collect();
            let (copies, queued) = (taken.len(), scratch.queued());
            let is_whole = taken.iter().all(|copy| copy.content.ends_with(&BODY.replace('\n', "\r\n")));
            assert!(is_whole, "{what}: torn");
            assert!(copies <= 1, "{what}: {copies} copies");
            if is_acknowledged(output) {
                let left: Vec<_> = queued.iter().flat_map(|message| message.recipients.clone()).collect();
                // Whoever could not be looked up was refused, and is nobody's any more.
                let (first, others): (Vec<_>, Vec<_>) =
                    accepted(&String::from_utf8_lossy(&output.stdout), to).into_iter().partition(|user| *user == "bob");
                let others: Vec<_> = others.iter().map(|user| format!("{user}@mx.example").into_bytes()).collect();
                assert_eq!((copies, left), (first.len(), others), "{what}: {output:?}");
            }
            assert!(queued.len() < to.len(), "{what}: {queued:?}");
            for message in &queued {
                assert_eq!(message.content(), BODY.as_bytes(), "{what}: torn");
            }
            if queued.is_empty() {
                nothing_left_over(scratch, what);
            } else {
                scratch.deliver();
                assert_eq!(scratch.queued().len(), queued.len(), "{what}: it waits for the filter");
            }
            assert_eq!(scratch.mail("bob").len() + scratch.mail("carol").len(), 0, "{what}: past the filter");
        };
        // What differs between the two is who is left, and that is written when the message is taken.
        if protocol == "smtp" {
            case.kill(Share::Part(215), &prepare, &check);
        } else {
            case.fail(Share::Part(180), &prepare, &check);
        }
        let output = feed(&mut prepare().command("smtpsrvr"), &case.input);
        assert!(is_acknowledged(&output), "{protocol}: {output:?}");
    }
}

/// Behind the filter before the queue: what is acknowledged is there once; what is not may be there, once, too.
#[test]
fn what_a_filter_before_the_queue_has_taken_is_kept() {
    let check = |scratch: &Scratch, output: &Output, what: &str| {
        quiet(scratch);
        // Where the FIFO cannot be written deliver was started, and has been.
        let queued = scratch.queued().len() + scratch.mail("bob").len();
        assert!(queued == 1 || (queued == 0 && !acknowledged(output)), "{what}: {queued}: {output:?}");
        sweep(scratch);
        assert_eq!((scratch.mail("bob").len(), scratch.queued().len()), (queued, 0), "{what}");
        assert!(scratch.mail("bob").iter().all(|mail| mail.ends_with(BODY.as_bytes())), "{what}: torn");
        nothing_left_over(scratch, what);
    };
    smtp(Traced::Submit).kill_and_fail(Share::Part, [270, 155], &filtered, &check);
    assert!(acknowledged(&feed(&mut filtered().command("smtpsrvr"), &smtp(Traced::Itself).input)));
}
