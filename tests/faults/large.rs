//! Messages that no buffer and no pipe holds: what is killed or fails in the middle of one leaves nobody a part of it.

use super::super::*;
use super::plan::Share;
use super::servers::{TO, each_has_it_once};
use std::sync::OnceLock;

/// One of 200 kB.
pub fn body() -> &'static str {
    static BODY: OnceLock<String> = OnceLock::new();
    BODY.get_or_init(|| {
        let line = |number| format!("line {number:05} of very many, no two of which are the same\n.{number}\n");
        format!("Subject: large\n\n{}", (0..3200).map(line).collect::<String>())
    })
}

/// Kinds of mailboxes.
pub const FORMATS: [&str; 2] = ["maildir", "mbox"];

/// An installation with it in its queue, for all whose mailboxes are of this kind.
pub fn queued(format: &str) -> Scratch {
    let scratch = receiving();
    scratch.configure(&format!("mailbox = {format}:{}/mail/%u", scratch.path().display()));
    let to = TO.map(|user| format!("{user}@mx.example"));
    let output = feed(scratch.command("submit").args(["-f", "alice@mx.example"]).args(to), body().as_bytes());
    assert!(output.status.success(), "{output:?}");
    scratch
}

/// Each has it, whole and once, and nothing else.
pub fn is_in_each(format: &str, scratch: &Scratch, what: &str) {
    if format == "maildir" {
        each_has_it_once(scratch, body(), what);
        return assert_eq!(TO.map(|user| scratch.mail(user).len()), [1, 1], "{what}: lost");
    }
    for user in TO {
        let text = fs::read_to_string(scratch.maildir(user)).expect("the mailbox");
        let is_whole = text.starts_with("From alice@mx.example ") && text.ends_with(&format!("{}\n", body()));
        assert!(is_whole, "{what}: torn for {user}");
        assert_eq!(text.matches("\nReturn-Path: ").count(), 1, "{what}: for {user}");
    }
    assert_eq!(scratch.queued().len(), 0, "{what}: left in the queue");
    nothing_left_over(scratch, what);
}

fn matrix(format: &str, least: [usize; 2]) {
    deliver(Traced::Family).kill_and_fail(Share::Few, least, &|| queued(format), &|scratch, _, what| {
        for _ in 0..2 {
            due_again(scratch);
            scratch.deliver();
        }
        is_in_each(format, scratch, what);
    });
}

#[test]
fn deliver_killed_or_failing_anywhere_writes_a_large_message_into_each_maildir_once() {
    matrix("maildir", [460, 310]);
}

#[test]
fn deliver_killed_or_failing_anywhere_writes_a_large_message_into_each_mbox_once() {
    matrix("mbox", [450, 310]);
}
