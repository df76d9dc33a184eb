//! Whoever hands a message over by starting a program: submit and sendmail straight into the queue, sendmail -bs, qmail-queue.
//! Killed or failing at any call, an exit status of 0 (or a reply that takes the message) means that it is there, whole and
//! once; anything else that it is there so or not at all.

use super::super::*;
use super::plan::Share;
use std::os::unix::fs::symlink;

/// An installation with links to submit by other names, and an envelope for qmail-queue.
fn named() -> Scratch {
    let scratch = receiving();
    for name in ["sendmail", "qmail-queue"] {
        symlink(common::binary("submit"), scratch.path().join(name)).expect("a link");
    }
    fs::write(scratch.path().join("envelope"), b"Falice@mx.example\0Tbob@mx.example\0\0").expect("an envelope");
    scratch
}

fn matrix(
    program: &'static str,
    input: &[u8],
    share: fn(usize) -> Share,
    least: [usize; 2],
    is_taken: &dyn Fn(&Output) -> bool,
) {
    let case = Case { program, traced: Traced::Family, input: input.to_vec() };
    let plain = case.run(&named(), None).1;
    assert!(is_taken(&plain), "{program}: {plain:?}");
    case.kill_and_fail(share, least, &named, &|scratch, output, what| {
        // Where the FIFO cannot be written deliver was started, and has been.
        let there = scratch.queued().len() + scratch.mail("bob").len();
        assert!(there == 1 || (there == 0 && !is_taken(output)), "{what}: {there}: {output:?}");
        delivered_once(scratch, there, what);
    });
}

fn ended_well(output: &Output) -> bool {
    output.status.success()
}

#[test]
fn submit_killed_or_failing_anywhere_has_queued_a_message_once_if_it_ends_with_0() {
    matrix("submit -f alice@mx.example bob@mx.example", BODY.as_bytes(), Share::Whole, [115, 60], &ended_well);
}

#[test]
fn sendmail_killed_or_failing_anywhere_has_queued_a_message_once_if_it_ends_with_0() {
    let program = "exec $MAIL_CONFIG/sendmail -i -f alice@mx.example bob@mx.example";
    // With all that it would add.
    let fields = "From: alice@mx.example\nDate: Sun, 22 Nov 2026 17:29:01 +0000\nMessage-ID: <1@mx.example>\n";
    matrix(program, format!("{fields}{BODY}").as_bytes(), Share::Part, [135, 75], &ended_well);
}

#[test]
fn qmail_queue_killed_or_failing_anywhere_has_queued_a_message_once_if_it_ends_with_0() {
    matrix(
        "exec $MAIL_CONFIG/qmail-queue 1<$MAIL_CONFIG/envelope",
        BODY.as_bytes(),
        Share::Part,
        [125, 65],
        &ended_well,
    );
}

#[test]
fn sendmail_that_speaks_smtp_killed_or_failing_anywhere_loses_nothing_acknowledged() {
    matrix("exec $MAIL_CONFIG/sendmail -bs", &smtp(Traced::Itself).input, Share::Part, [155, 90], &acknowledged);
}
