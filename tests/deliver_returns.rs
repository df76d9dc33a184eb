//! What senders hear of mail that did not arrive, that is late, or whose arrival they asked for; and that they hear it once.

mod common;

use common::Scratch;
use common::delivering::*;
use common::enqueue::TRACE;
use doorpost::queue::RecipientState;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

#[test]
fn an_unknown_user_is_returned_in_one_report() {
    let scratch = Scratch::new();
    let to = ["nobody-here@mx.example", "bob@mx.example", "nor-here@mx.example"];
    let id = scratch.enqueue(&to, b"Subject: lost\n\nbody \xe4\n");
    scratch.deliver();
    assert_eq!(scratch.mail("bob").len(), 1);
    let reports = scratch.texts("alice");
    assert_eq!(reports.len(), 1, "{reports:?}");
    let report = &reports[0];
    let from = "From: \"Mail delivery at mx.example\" <MAILER-DAEMON@mx.example>\n";
    assert!(report.starts_with(&format!("Return-Path: <>\n{from}")), "{report}");
    let (header, body) = report.split_once("\n\n").unwrap();
    assert!(header.contains("\nTo: <alice@mx.example>\n") && header.contains("\nAuto-Submitted: auto-replied\n"));
    assert!(header.contains("\nContent-Type: multipart/report; report-type=delivery-status;"), "{header}");
    assert!(header.contains("\nContent-Transfer-Encoding: 8bit\n"), "a part of it is: {header}");
    let boundary = header.split_once("boundary=\"").unwrap().1.split_once('"').unwrap().0;
    let parts: Vec<&str> = body.split(&format!("--{boundary}")).collect();
    assert_eq!((parts.len(), parts[4]), (5, "--\n"), "{body}");
    assert!(parts[1].contains("<nobody-here@mx.example>") && parts[1].contains("<nor-here@mx.example>"));
    let status: Vec<&str> = parts[2].trim_matches('\n').split("\n\n").collect();
    assert_eq!(status[0], "Content-Type: message/delivery-status");
    assert!(
        status[1].starts_with("Reporting-MTA: dns; mx.example\nArrival-Date: ")
            && status[1].ends_with(&format!("\nX-Doorpost-Queue-Id: {id}")),
        "the order of RFC 3464 section 2.2: {}",
        status[1]
    );
    for (fields, address) in [(status[2], "nobody-here@mx.example"), (status[3], "nor-here@mx.example")] {
        assert_eq!(
            fields,
            format!(
                "Final-Recipient: rfc822; {address}\nAction: failed\nStatus: 5.1.1\n\
                 Diagnostic-Code: x-doorpost; no such user here"
            )
        );
    }
    let original = parts[3].split_once("\n\n").unwrap();
    assert_eq!(original.0, "\nContent-Type: message/rfc822\nContent-Transfer-Encoding: 8bit");
    assert_eq!(original.1, format!("{TRACE}Subject: lost\n\nbody \u{fffd}\n\n"));
    assert_eq!(scratch.files().len(), 0);
}

#[test]
fn of_a_large_message_only_the_header_is_returned() {
    let scratch = Scratch::new();
    let content = format!("Subject: large\n\n{}", "a line of the body\n".repeat(10_000));
    scratch.enqueue(&["nobody-here@mx.example"], content.as_bytes());
    scratch.deliver();
    let report = scratch.texts("alice").remove(0);
    assert!(report.contains("\nContent-Type: text/rfc822-headers\n"), "{report}");
    assert!(report.contains("\nSubject: large\n") && !report.contains("a line of the body"));
}

/// RFC 2046 section 5.1.1: a boundary has at most 70 characters. RFC 6533: an address beyond ASCII has a form of its own there.
#[test]
fn a_report_is_well_formed_whatever_this_host_and_the_first_address_are_called() {
    let host = format!("{}.mx.example", "a".repeat(63));
    let scratch = Scratch::with(&format!("myhostname = {host}"));
    let (sender, nobody) = (format!("alice@{host}"), format!("nobody-here@{host}"));
    let orcpt = "ORCPT=utf-8;jos\u{e9}@old.example";
    scratch.enqueue_with((&sender, "SMTPUTF8"), &[(&nobody, orcpt)], b"Subject: x\n\nx\n");
    scratch.deliver();
    let report = scratch.texts("alice").remove(0);
    let boundary = report.split_once("boundary=\"").unwrap().1.split_once('"').unwrap().0;
    assert!(boundary.len() <= 70, "{boundary}");
    assert!(report.contains("\nOriginal-Recipient: utf-8; jos\\x{E9}@old.example\n"), "{report}");
    assert!(!report.contains("8bit"), "{report}");
}

/// A part of a report can only be text, and the header of what came as binary ends its lines with CR LF.
#[test]
fn of_a_binary_message_only_the_header_is_returned() {
    let scratch = Scratch::new();
    let content = b"Subject: binary\r\n\r\na\0b\xff\r\n";
    scratch.enqueue_with(("alice@mx.example", "BODY=BINARYMIME"), &[("nobody-here@mx.example", "")], content);
    scratch.deliver();
    let report = scratch.texts("alice").remove(0);
    let original = "\nContent-Type: text/rfc822-headers\nContent-Transfer-Encoding: 7bit\n\n";
    assert!(report.contains(&format!("{original}Received: by mx.example\nSubject: binary\n")), "{report:?}");
    assert!(!report.contains(['\0', '\r', '\u{fffd}']), "{report:?}");
    assert!(report.contains(" The header of what was sent follows below.\n"), "{report}");
    // Without a header nothing of it can stand in a text.
    let long = [b"X: ", &[b'y'; 999][..], b"\r\n"].concat();
    for content in [&b"a\0: b\r\n\r\nc"[..], b"hello\nX: y\n", b"X: a\rb\n", &long] {
        scratch.enqueue_with(("alice@mx.example", "BODY=BINARYMIME"), &[("nobody-here@mx.example", "")], content);
    }
    scratch.deliver();
    let reports = scratch.texts("alice");
    let has_none = |report: &&String| report.contains(&format!("{original}Received: by mx.example\n\n--"));
    assert_eq!((reports.len(), reports.iter().filter(has_none).count()), (5, 4), "{reports:?}");
}

#[test]
fn what_waited_too_long_is_returned_with_its_last_reason() {
    let scratch = Scratch::with("maximal_queue_lifetime = 0");
    block(&scratch, "bob");
    scratch.enqueue(&["bob@mx.example"], b"text\n");
    scratch.deliver();
    let report = scratch.texts("alice").remove(0);
    assert!(report.contains("\nStatus: 5.4.7\n"), "{report}");
    assert!(report.contains("given up after 0 seconds: 4.2.0 the mailbox cannot be written now"), "{report}");
    assert_eq!(scratch.files().len(), 0);
}

#[test]
fn a_message_from_nobody_is_never_returned() {
    let scratch = Scratch::with("double_bounce_recipient =");
    scratch.enqueue_from("", &["nobody-here@mx.example"], b"text\n");
    let log = scratch.deliver();
    assert_eq!(scratch.files().len(), 0);
    assert!(log.contains("to=<nobody-here@mx.example> status=failed") && log.contains("status=lost"), "{log}");
}

#[test]
fn what_can_neither_be_delivered_nor_returned_is_told_to_postmaster_once() {
    let scratch = Scratch::new();
    scratch.write("aliases", "postmaster: alice\n");
    // A return whose sender is not here either; and a message from nobody.
    scratch.enqueue_from("nobody-here@mx.example", &["nor-here@mx.example"], b"Subject: lost\n\ntext\n");
    scratch.enqueue_from("", &["not-either@mx.example"], b"text\n");
    scratch.deliver();
    let reports = scratch.texts("alice");
    assert_eq!(reports.len(), 2, "{reports:#?}");
    assert!(reports.iter().any(|report| report.contains("Final-Recipient: rfc822; nobody-here@mx.example\n")));
    assert!(
        reports.iter().all(|report| report.contains("Subject: A message could neither be delivered nor returned\n"))
    );
    // And where that fails too it ends.
    scratch.write("aliases", "postmaster: nobody-at-all\n");
    scratch.enqueue_from("", &["not-either@mx.example"], b"text\n");
    let log = scratch.deliver();
    assert!(scratch.queued().is_empty(), "{log}");
}

/// What an alias makes of a report is one too.
#[test]
fn a_report_to_an_alias_that_fails_ends_there() {
    let scratch = Scratch::new();
    let no = "local - mx.example mailbox: *\nno - no.example error:no -\n";
    scratch.write("channels", no);
    scratch.write("aliases", "postmaster: admin@no.example\nlist: admin@no.example\n");
    // One from nobody, and a return whose sender's alias fails.
    scratch.enqueue_from("", &["not-here@mx.example"], b"text\n");
    scratch.enqueue_from("list@mx.example", &["nor-here@mx.example"], b"text\n");
    let is_over = |_: &u32| {
        let ids = scratch.ids();
        deliver_these(&scratch, &ids.iter().collect::<Vec<_>>());
        ids.is_empty()
    };
    assert!((0..12).any(|round| is_over(&round)), "{} messages", scratch.queued().len());
}

#[test]
fn notify_and_ret_say_what_comes_back() {
    let scratch = Scratch::new();
    let with = |to: &[(&str, &str)], mail: &str| {
        scratch.enqueue_with(("alice@mx.example", mail), to, b"Subject: x\n\nbody of it\n");
        scratch.deliver();
        let mut found = scratch.texts("alice");
        let _ = fs::remove_dir_all(scratch.maildir("alice"));
        (found.len(), found.pop().unwrap_or_default())
    };
    assert_eq!(with(&[("nobody-here@mx.example", "NOTIFY=NEVER")], "").0, 0);
    assert_eq!(with(&[("nobody-here@mx.example", "NOTIFY=SUCCESS,DELAY")], "").0, 0);
    let (_, report) =
        with(&[("nobody-here@mx.example", "NOTIFY=FAILURE"), ("nor-here@mx.example", "NOTIFY=NEVER")], "RET=HDRS");
    assert!(report.contains("\nContent-Type: text/rfc822-headers\n") && !report.contains("body of it"), "{report}");
    assert!(report.contains("nobody-here@") && !report.contains("nor-here@"), "{report}");
    let (_, report) = with(&[("nobody-here@mx.example", "")], "RET=FULL ENVID=x");
    assert!(report.contains("body of it") && report.contains("\nOriginal-Envelope-Id: x\nReporting-MTA: "), "{report}");
    // Success is told of whoever asked for it, and once.
    let (count, report) = with(&[("bob@mx.example", "NOTIFY=SUCCESS"), ("carol@mx.example", "")], "");
    assert_eq!((count, report.matches("Final-Recipient").count()), (1, 1), "{report}");
    assert!(
        report.contains("Subject: Your message was delivered\n") && report.contains("Action: delivered\n"),
        "{report}"
    );
    let (_, report) = with(&[("jos\u{e9}@mx.example", "ORCPT=utf-8;jos\\x{E9}@old.example")], "SMTPUTF8");
    assert!(report.contains("\nOriginal-Recipient: utf-8; jos\u{e9}@old.example\n"), "{report}");
    assert!(
        report.contains("report-type=global-delivery-status;") && report.contains("Final-Recipient: utf-8; "),
        "{report}"
    );
    assert!(report.contains("\nContent-Type: message/global-delivery-status\n"), "{report}");
}

#[test]
fn a_sender_is_warned_of_delay_once_and_only_after_the_time_for_it() {
    let scratch = Scratch::with("minimal_backoff_time = 1s");
    block(&scratch, "bob");
    let id = scratch.enqueue(&["bob@mx.example"], b"Subject: slow\n\nbody\n");
    deliver_these(&scratch, &[&id]);
    assert_eq!(scratch.mail("alice").len(), 0, "delay_warning_time is 0");
    scratch.configure("delay_warning_time = 1s");
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..3 {
        deliver_these(&scratch, &[&id]);
    }
    for report in scratch.ids().into_iter().filter(|one| *one != id) {
        scratch.run("deliver", &[report.as_str()], b"");
    }
    let reports = scratch.texts("alice");
    assert_eq!(reports.len(), 1, "{reports:#?}");
    assert!(reports[0].contains("Action: delayed\nStatus: 4.2.0\n") && reports[0].contains("\nWill-Retry-Until: "));
    unblock(&scratch, "bob");
    deliver_these(&scratch, &[&id]);
    assert_eq!((scratch.mail("bob").len(), scratch.files().len()), (1, 0));
}

#[test]
fn what_a_crash_left_failed_is_returned_once() {
    let scratch = Scratch::new();
    let id = scratch.enqueue(&["nobody-here@mx.example", "bob@mx.example"], b"text\n");
    let file = scratch.queue().join("message").join(&id.as_str()[14..]).join(id.as_str());
    take(&scratch, &id).mark(0, RecipientState::Failed, "5.1.1 no such user here", true).unwrap();
    let saved = fs::read(&file).unwrap();
    // The return is queued but cannot be delivered yet; then the note of it is lost.
    block(&scratch, "alice");
    scratch.deliver();
    assert_eq!(scratch.files().len(), 1);
    fs::write(&file, saved).unwrap();
    scratch.hand_over(&file);
    unblock(&scratch, "alice");
    let child = scratch.ids().into_iter().find(|one| *one != id).unwrap();
    deliver_these(&scratch, &[&id, &child]);
    assert_eq!(scratch.mail("alice").len(), 1);
    assert_eq!(scratch.mail("bob").len(), 1);
    assert_eq!(scratch.files().len(), 0);
}

/// Whoever fails after the crash has a lower number here, and so would have given the report another id.
#[test]
fn who_fails_after_a_crash_makes_nobody_be_told_of_twice() {
    let scratch = Scratch::new();
    let id = scratch.enqueue(&["bob@mx.example", "nobody-here@mx.example"], b"text\n");
    let file = scratch.queue().join("message").join(&id.as_str()[14..]).join(id.as_str());
    take(&scratch, &id).mark(1, RecipientState::Failed, "5.1.1 no such user here", true).unwrap();
    let saved = fs::read(&file).unwrap();
    block(&scratch, "alice");
    block(&scratch, "bob");
    scratch.deliver();
    assert_eq!(scratch.files().len(), 2);
    fs::write(&file, saved).unwrap();
    scratch.write("passwd", &format!("alice:{{PLAIN}}x::::{}/home/alice::\n", scratch.path().display()));
    unblock(&scratch, "alice");
    for _ in 0..2 {
        let ids = scratch.ids();
        scratch.hand_over(&scratch.queue());
        deliver_these(&scratch, &ids.iter().collect::<Vec<_>>());
    }
    let mut reports = scratch.texts("alice");
    reports.sort_by_key(|report| report.contains("rfc822; bob@"));
    assert_eq!(reports.len(), 2, "{reports:?}");
    let count = |name: &str| reports.concat().matches(&format!("Final-Recipient: rfc822; {name}@")).count();
    assert_eq!((count("nobody-here"), count("bob"), scratch.files().len()), (1, 1, 0), "{reports:?}");
}

/// Another deliver may come upon a return before the first has noted that it is queued. If it went out then, and the first
/// were killed, the repeat would queue it again.
#[test]
fn a_return_does_not_go_out_before_it_is_noted_whoever_delivers() {
    let scratch = Scratch::new();
    // In its way, so that it stays in the queue.
    fs::write(scratch.maildir("alice"), "in the way").expect("a file");
    let id = scratch.enqueue(&["nobody-here@mx.example"], b"Subject: x\n\nx\n");
    let file = scratch.queue().join("message").join(&id.as_str()[14..]).join(id.as_str());
    let octets = fs::read(&file).expect("the message");
    scratch.deliver();
    let report = scratch.queued().pop().expect("the return").id;
    assert!(!file.exists());
    // As it was before that was noted, and as the one who does that has it.
    fs::write(&file, octets).expect("the message");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its mode");
    scratch.hand_over(&scratch.queue());
    let mut message = take(&scratch, &id);
    message.mark(0, RecipientState::Failed, "5.1.1 no such user here", true).expect("a mark");
    fs::remove_file(scratch.maildir("alice")).expect("a file");
    for _ in 0..2 {
        scratch.run("deliver", &[&report], b"");
        assert_eq!(scratch.mail("alice").len(), 0, "it went out too soon");
    }
    drop(message);
    for _ in 0..2 {
        scratch.hurry();
        scratch.deliver();
    }
    assert_eq!((scratch.mail("alice").len(), scratch.queued().len()), (1, 0));
}
