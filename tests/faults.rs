//! Nothing lost: SIGKILL at every instance of every system call, and errors injected into every call about files, sockets, new
//! processes and rights.
//!
//! The calls of each process are counted in plain runs, then one run for each (process, call, instance) is killed or made to
//! fail just there, before the call runs. After each run the same must hold: what was acknowledged is
//! there, whole and once; what is there is whole; and one ordinary sweep later nothing is left over. In `faults/` is the
//! same for users with uids of their own, for mailboxes of one file, for pools, for sessions under TLS, for large messages by
//! each protocol, and for the ways that mail takes more seldom; and limits and disks, and calls that do less than they were
//! asked for.
//!
//! On x86-64 only: calls are made to fail by the registers of that processor.
#![cfg(target_arch = "x86_64")]

mod common;
mod faults {
    pub mod beside;
    pub mod client;
    pub mod commands;
    pub mod disks;
    pub mod drop_folder;
    pub mod full;
    pub mod large;
    pub mod limits;
    pub mod matrix;
    pub mod names;
    pub mod one_file;
    pub mod order;
    pub mod paths;
    pub mod plan;
    pub mod pools;
    pub mod servers;
    pub mod sessions;
    pub mod short;
    pub mod tracer;
    pub mod users;
    pub mod watching;
}

use common::{Scratch, feed};
use faults::matrix::{Case, Struck, Traced, Victim};
use faults::one_file::{MBOX_KEPT, mbox, old_or_new};
use faults::plan::Share;
use faults::tracer::{Blow, Call, Target};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BODY: &str = "Subject: precious\n\nline one\n.dot\nlast line\n";

fn smtp(traced: Traced) -> Case {
    let body = BODY.replace("\n.", "\n..").replace('\n', "\r\n");
    let input = format!(
        "EHLO client.example\r\nMAIL FROM:<alice@mx.example>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\n{body}.\r\nQUIT\r\n"
    );
    Case { program: "smtpsrvr", traced, input: input.into() }
}

fn qmqp(traced: Traced) -> Case {
    let netstring = |text: &str| format!("{}:{text},", text.len());
    let inner = [BODY, "alice@mx.example", "bob@mx.example"].map(netstring).concat();
    Case { program: "qmqpd", traced, input: netstring(&inner).into() }
}

/// What is waited for where something fails, to slow down who guesses and to let others finish: there are no others.
const AT_ONCE: &str = "auth_failure_delay = 0\ndeliver_lock_delay = 0";

fn receiving() -> Scratch {
    Scratch::with(&format!("qmqpd_authorized_clients = stdin\nipc_timeout = 20s\n{AT_ONCE}"))
}

fn acknowledged(output: &Output) -> bool {
    let said = String::from_utf8_lossy(&output.stdout);
    said.contains("\r\n250 2.0.0 Ok: queued as ") || said.contains(":KOk: queued as ")
}

/// What must hold after any run in which the one message was or was not taken.
fn kept(scratch: &Scratch, output: &Output, what: &str) {
    let queued = scratch.queued();
    for message in &queued {
        assert_eq!(message.content(), BODY.as_bytes(), "{what}: torn");
    }
    // Where the FIFO cannot be written deliver was started, and has been.
    let there = queued.len() + scratch.mail("bob").len();
    assert!(there <= 1, "{what}: doubled");
    assert!(there == 1 || !acknowledged(output), "{what}: acknowledged and lost: {output:?}");
    delivered_once(scratch, there, what);
}

/// One ordinary sweep delivers what is queued, once, and leaves nothing.
fn delivered_once(scratch: &Scratch, messages: usize, what: &str) {
    scratch.deliver();
    let mail = scratch.mail("bob");
    assert_eq!(mail.len(), messages, "{what}: messages in the mailbox");
    for message in &mail {
        let text = String::from_utf8_lossy(message);
        assert!(text.starts_with("Return-Path: <alice@mx.example>\nReceived: "), "{what}: {text}");
        assert!(text.ends_with(BODY), "{what}: {text}");
    }
    assert_eq!(scratch.queued().len(), 0, "{what}: left in the queue");
    let left = files(&scratch.maildir("bob").join("tmp"));
    assert!(left.is_empty(), "{what}: left in tmp: {left:?}");
    nothing_left_over(scratch, what);
}

/// What somebody may still be writing is removed by the next sweep after an hour, so an hour passes here.
fn nothing_left_over(scratch: &Scratch, what: &str) {
    let queue_files = || files(&scratch.queue().join("message")).iter().flat_map(|f| files(f)).collect::<Vec<_>>();
    let before = queue_files();
    for path in &before {
        let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3700);
        let file = fs::OpenOptions::new().write(true).open(path).expect("a left-over");
        file.set_modified(hour_ago).expect("its time");
    }
    if !before.is_empty() {
        scratch.deliver();
        assert_eq!(queue_files(), Vec::<PathBuf>::new(), "{what}: left over for ever");
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .map(|entries| entries.map(|entry| entry.expect("an entry").path()).collect())
        .unwrap_or_default()
}

#[test]
fn smtpsrvr_killed_anywhere_loses_nothing_acknowledged() {
    smtp(Traced::Itself).kill(Share::Whole(120), &receiving, &kept);
}

#[test]
fn submit_killed_anywhere_loses_nothing_acknowledged() {
    smtp(Traced::Submit).kill(Share::Whole(135), &receiving, &kept);
    qmqp(Traced::Submit).kill(Share::Whole(120), &receiving, &kept);
}

#[test]
fn qmqpd_killed_anywhere_loses_nothing_acknowledged() {
    qmqp(Traced::Itself).kill(Share::Whole(110), &receiving, &kept);
}

/// No error makes a false acknowledgement, a crash, or silence: the protocol server itself is well, so it must answer.
fn answered(scratch: &Scratch, output: &Output, what: &str) {
    let said = String::from_utf8_lossy(&output.stdout);
    let later = said.contains("\r\n45") || said.contains("421 ") || said.contains(":Z");
    assert!(acknowledged(output) || later, "{what}: neither taken nor told to come later: {output:?}");
    kept(scratch, output, what);
}

#[test]
fn an_error_of_any_file_call_of_submit_is_told_as_temporary() {
    smtp(Traced::Submit).fail(Share::Whole(80), &receiving, &answered);
    // It hears nearly the same from both.
    qmqp(Traced::Submit).fail(Share::Part(65), &receiving, &answered);
}

#[test]
fn an_error_of_any_file_call_of_the_servers_makes_no_false_acknowledgement() {
    smtp(Traced::Itself).fail(Share::Whole(60), &receiving, &kept);
    qmqp(Traced::Itself).fail(Share::Whole(55), &receiving, &kept);
}

/// The matrix is worth nothing if it sees one process of a family only.
#[test]
fn a_forked_child_is_struck_at_its_first_call_and_its_parent_is_not() {
    let processes = |case: &Case, prepare: &dyn Fn() -> Scratch| -> Vec<String> {
        case.calls(prepare).into_keys().map(|call| call.process).collect::<BTreeSet<_>>().into_iter().collect()
    };
    let found = processes(&smtp(Traced::Family), &receiving);
    assert_eq!(found, ["0 smtpsrvr", "0.1 smtpsrvr", "0.1 submit"]);
    let found = processes(&deliver(Traced::Family), &queued);
    assert!(found.len() > 1 && found.contains(&"0.1 deliver".to_owned()), "{found:?}");
    let number = nix::libc::SYS_close;
    for process in ["0 deliver", "0.1 deliver"] {
        let call = Call { process: process.to_owned(), number };
        let target = Target { call: call.clone(), instance: 1, blow: Blow::Kill };
        let (followed, output) = deliver(Traced::Family).run(&queued(), Some(&target));
        assert!(followed.is_hit && followed.calls[&call] == 1, "{process}: {followed:?}");
        assert_eq!(output.status.code().is_none(), process == "0 deliver", "{process}: {output:?}");
    }
}

/// An installation with one message for bob in its queue.
fn queued() -> Scratch {
    let scratch = receiving();
    let output = scratch.run("submit", &["-f", "alice@mx.example", "bob@mx.example"], BODY.as_bytes());
    assert!(output.status.success(), "{output:?}");
    scratch
}

fn deliver(traced: Traced) -> Case {
    Case { program: "deliver", traced, input: Vec::new() }
}

#[test]
fn deliver_killed_anywhere_delivers_once() {
    deliver(Traced::Family).kill(Share::Whole(340), &queued, &|scratch, _, what| delivered_once(scratch, 1, what));
}

#[test]
fn an_error_of_any_file_call_of_deliver_keeps_the_message() {
    deliver(Traced::Family).fail(Share::Whole(210), &queued, &|scratch, _, what| {
        due_again(scratch);
        delivered_once(scratch, 1, what);
    });
}

/// What was deferred would wait for its next try, so that time passes here.
fn due_again(scratch: &Scratch) {
    for message in scratch.queued() {
        let folder = scratch.queue().join("message").join(&message.id[message.id.len() - 1..]);
        let file = fs::File::open(folder.join(&message.id)).expect("the queue file");
        file.set_modified(std::time::SystemTime::now()).expect("its time");
    }
}

/// A mailbox with two messages, of which a session removes the first.
fn mailbox() -> Scratch {
    let scratch = Scratch::with(AT_ONCE);
    scratch.put_mail("bob", "1700000000.M0.mx", b"Subject: one\n\nto be removed\n");
    scratch.put_mail("bob", "1700000001.M1.mx", b"Subject: two\n\nto be kept\n");
    scratch
}

fn pop3(traced: Traced) -> Case {
    let input = format!("USER bob\r\nPASS {}\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n", common::PASSWORD);
    Case { program: "pop3d", traced, input: input.into() }
}

/// Neither it nor any of its processes.
fn no_panic(output: &Output, what: &str) {
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() != Some(101) && !log.contains("panicked"), "{what}: panicked: {output:?}");
}

/// Said goodbye: the first is gone. Else both or only the second are there; the second always.
fn unmarked_is_kept(scratch: &Scratch, output: &Output, what: &str) {
    let mail = scratch.mail("bob");
    assert!(mail.iter().any(|message| message.ends_with(b"to be kept\n")), "{what}: the unmarked message is gone");
    let replies = String::from_utf8_lossy(&output.stdout);
    let removed = replies.contains("\r\n+OK Marked as deleted\r\n") && replies.ends_with("\r\n+OK Goodbye\r\n");
    assert!(mail.len() == 1 || !removed, "{what}: said +OK to QUIT and did not remove: {replies}");
    no_panic(output, what);
    // Only where there is something to remove, for most leave nothing.
    if !left_in_maildir(scratch).is_empty() {
        let next = format!("USER bob\r\nPASS {}\r\nQUIT\r\n", common::PASSWORD);
        let next = feed(&mut scratch.command("pop3d"), next.as_bytes());
        assert!(next.stdout.ends_with(b"+OK Goodbye\r\n"), "{what}: the next session: {next:?}");
        assert_eq!(left_in_maildir(scratch), Vec::<PathBuf>::new(), "{what}: left behind");
    }
}

/// All but messages and the index.
fn left_in_maildir(scratch: &Scratch) -> Vec<PathBuf> {
    let maildir = scratch.maildir("bob");
    let mut left = files(&maildir);
    left.retain(|path| {
        !["cur", "new", "tmp", "doorpost-index", "doorpost-index.delta"].iter().any(|known| path.ends_with(known))
    });
    left.extend(files(&maildir.join("tmp")));
    left
}

#[test]
fn pop3d_killed_anywhere_removes_nothing_unmarked() {
    pop3(Traced::Family).kill(Share::Whole(230), &mailbox, &unmarked_is_kept);
}

#[test]
fn an_error_of_any_file_call_of_pop3d_removes_nothing_unmarked() {
    pop3(Traced::Family).fail(Share::Whole(150), &mailbox, &unmarked_is_kept);
}

/// An installation with one message for somebody at another host, named like its folder.
fn queued_for(hop: &common::hops::Hop) -> Scratch {
    let scratch = receiving();
    scratch.write("channels", &format!("local * mx.example mailbox: *\nout - * smtp:{} -\n", hop.name()));
    let output = scratch.run("submit", &["-f", "alice@mx.example", &far_off(&scratch)], BODY.as_bytes());
    assert!(output.status.success(), "{output:?}");
    scratch
}

fn far_off(scratch: &Scratch) -> String {
    let name = scratch.path().file_name().expect("a name").to_string_lossy().to_ascii_lowercase();
    format!("{}@far.example", name.trim_start_matches('.'))
}

/// Killed at any call of any of its processes, deliver loses nothing on the way to another host, and makes one copy too
/// many at the most: that of the message in flight.
#[test]
fn deliver_killed_anywhere_hands_a_message_on_and_at_most_twice() {
    let hop = common::hops::Hop::friendly();
    let mut twice = 0;
    let twice_in = std::cell::RefCell::new(&mut twice);
    deliver(Traced::Family).kill(Share::Whole(400), &|| queued_for(&hop), &|scratch, _, what| {
        // Where only the agent was killed the message waits for its next try.
        for message in scratch.queued() {
            let folder = scratch.queue().join("message").join(&message.id[message.id.len() - 1..]);
            let file = fs::File::open(folder.join(&message.id)).expect("the queue file");
            file.set_modified(std::time::SystemTime::now()).expect("its time");
            // Workers die with who started them, but not in the same moment, and one holds the message until then.
            file.lock().expect("its lock");
        }
        scratch.deliver();
        let to = format!("RCPT TO:<{}>", far_off(scratch));
        let taken = hop.taken();
        let copies: Vec<_> = taken.iter().filter(|taken| taken.rcpts.contains(&to)).collect();
        assert!((1..=2).contains(&copies.len()), "{what}: {} copies", copies.len());
        **twice_in.borrow_mut() += usize::from(copies.len() == 2);
        for copy in copies {
            assert!(copy.content.ends_with(&BODY.replace('\n', "\r\n")), "{what}: {}", copy.content);
        }
        assert_eq!(scratch.queued().len(), 0, "{what}: left in the queue");
        assert_eq!(scratch.mail("alice").len(), 0, "{what}: returned");
    });
    let is_seen = twice > 0 || faults::plan::is_in_parts();
    assert!(is_seen, "no kill hit the time between the end of the message and the mark: the test is blind");
}

/// An installation with one message in its queue for an alias of bob's and of nobody else's.
fn queued_for_an_alias() -> Scratch {
    let scratch = receiving();
    scratch.write("aliases", "all: bob\n");
    let output = scratch.run("submit", &["-f", "alice@mx.example", "all@mx.example"], BODY.as_bytes());
    assert!(output.status.success(), "{output:?}");
    scratch
}

/// After ordinary sweeps whoever an alias stands for has the message once, and the queue is empty.
fn expanded_once(scratch: &Scratch, _: &Output, what: &str) {
    for _ in 0..2 {
        due_again(scratch);
        scratch.deliver();
    }
    let mail = scratch.mail("bob");
    assert_eq!(mail.len(), 1, "{what}: messages in the mailbox");
    let text = String::from_utf8_lossy(&mail[0]);
    assert!(text.contains("\nDelivered-To: all@mx.example\nReceived: ") && text.ends_with(BODY), "{what}: {text}");
    assert_eq!(scratch.queued().len(), 0, "{what}: left in the queue");
    nothing_left_over(scratch, what);
}

#[test]
fn deliver_killed_anywhere_expands_an_alias_once() {
    deliver(Traced::Family).kill(Share::Whole(420), &queued_for_an_alias, &expanded_once);
}

#[test]
fn an_error_of_any_file_call_of_deliver_expands_an_alias_once() {
    deliver(Traced::Family).fail(Share::Part(290), &queued_for_an_alias, &expanded_once);
}

/// The same where who it stands for is in a file.
fn queued_for_a_list() -> Scratch {
    let scratch = queued_for_an_alias();
    scratch.write_long_ago("list", "bob\n");
    scratch.write("aliases", &format!("all: :include:{}/list\n", scratch.path().display()));
    scratch
}

#[test]
fn deliver_killed_or_failing_anywhere_expands_a_list_once() {
    deliver(Traced::Family).kill_and_fail(Share::Part, [430, 290], &queued_for_a_list, &expanded_once);
}

/// A message that fails, and one whose sender wants to hear that it arrived.
fn to_be_told_of() -> Scratch {
    let scratch = receiving();
    for (to, notify) in [("nobody-here@mx.example", "failure"), ("bob@mx.example", "success")] {
        let mut sendmail = scratch.command("submit");
        std::os::unix::process::CommandExt::arg0(&mut sendmail, "sendmail");
        let output = feed(sendmail.args(["-i", "-f", "alice@mx.example", "-N", notify, to]), BODY.as_bytes());
        assert!(output.status.success(), "{output:?}");
    }
    scratch
}

/// After ordinary sweeps the sender has exactly one report of each.
fn told_once(scratch: &Scratch, _: &Output, what: &str) {
    for _ in 0..2 {
        due_again(scratch);
        scratch.deliver();
    }
    let reports: Vec<String> =
        scratch.mail("alice").iter().map(|mail| String::from_utf8_lossy(mail).into_owned()).collect();
    let count = |action: &str| reports.iter().filter(|report| report.contains(action)).count();
    let counts = (count("\nAction: failed\n"), count("\nAction: delivered\n"), reports.len());
    assert_eq!(counts, (1, 1, 2), "{what}: {reports:#?}");
    assert_eq!((scratch.mail("bob").len(), scratch.queued().len()), (1, 0), "{what}");
}

#[test]
fn deliver_killed_anywhere_tells_a_sender_once() {
    deliver(Traced::Family).kill(Share::Whole(720), &to_be_told_of, &told_once);
}

#[test]
fn an_error_of_any_file_call_of_deliver_tells_a_sender_once() {
    deliver(Traced::Family).fail(Share::Part(490), &to_be_told_of, &told_once);
}
