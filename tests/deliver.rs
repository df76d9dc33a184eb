//! deliver, by its program: what arrives, what is tried again, what goes back, and who writes it.

mod common;

use common::watching::Watching;
use common::{NOBODY, Scratch, binary, until};
use doorpost::message::path::{Address, ReversePath};
use doorpost::queue::{Head, Id, Message, Queue, RecipientState};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

const TRACE: &str = "Received: from client.example by mx.example; Thu, 1 Jan 2026 00:00:00 +0000\n";

fn queue_of(scratch: &Scratch) -> Queue {
    Queue::at(&scratch.queue())
}

/// Queues a message as submit does, without waking anybody.
fn enqueue(scratch: &Scratch, from: &str, to: &[&str], content: &[u8]) -> Id {
    fs::create_dir_all(scratch.queue().join("message")).unwrap();
    let mut draft = queue_of(scratch).begin().unwrap();
    draft.content(content).unwrap();
    draft.end_content().unwrap();
    for address in to {
        draft.recipient(&Address::from_internal(address.as_bytes()).unwrap()).unwrap();
    }
    let reverse_path = ReversePath::from_internal(from.as_bytes()).unwrap();
    let id = draft.commit(&Head { reverse_path, trace: TRACE.into(), channel: "local".into() }).unwrap();
    scratch.hand_over(&scratch.queue());
    scratch.settle();
    id
}

/// Takes a message.
fn take(scratch: &Scratch, id: &Id) -> Message {
    scratch.settle();
    queue_of(scratch).take(id).unwrap().expect("a message in the queue")
}

/// The files in the queue.
fn files(scratch: &Scratch) -> Vec<fs::DirEntry> {
    let folders = fs::read_dir(scratch.queue().join("message")).unwrap();
    folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap().map(Result::unwrap)).collect()
}

/// One sweep; gives its log.
fn deliver(scratch: &Scratch) -> String {
    scratch.settle();
    String::from_utf8_lossy(&scratch.deliver().stderr).into_owned()
}

fn reports(scratch: &Scratch, id: &Id) -> Vec<String> {
    take(scratch, id).recipients.into_iter().map(|recipient| recipient.report).collect()
}

fn next_try(scratch: &Scratch, id: &Id) -> SystemTime {
    let path = scratch.queue().join("message").join(&id.as_str()[14..]).join(id.as_str());
    fs::metadata(path).unwrap().modified().unwrap()
}

fn texts(scratch: &Scratch, user: &str) -> Vec<String> {
    scratch.mail(user).into_iter().map(|mail| String::from_utf8_lossy(&mail).into_owned()).collect()
}

fn deliver_these(scratch: &Scratch, ids: &[&Id]) {
    scratch.settle();
    let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
    let output = scratch.run("deliver", &ids, b"");
    assert!(output.status.success(), "{output:?}");
}

/// In the way of a user's mailbox, so that it cannot be written.
fn block(scratch: &Scratch, user: &str) {
    fs::write(scratch.maildir(user), "no folder").unwrap();
}

fn unblock(scratch: &Scratch, user: &str) {
    fs::remove_file(scratch.maildir(user)).unwrap();
}

fn start_watching(scratch: &Scratch) -> Watching {
    scratch.settle();
    Watching::start(scratch)
}

#[test]
fn return_path_is_the_first_line_and_the_rest_is_octet_for_octet() {
    let scratch = Scratch::new();
    let content = b"Return-Path: <forged@mx.example>\nSubject: \xe4\n\n.dot\n\0\x1b\nno line end";
    enqueue(&scratch, "a b@mx.example", &["alice@mx.example", "bob@MX.example"], content);
    deliver(&scratch);
    let expected = [b"Return-Path: <\"a b\"@mx.example>\n", TRACE.as_bytes(), content].concat();
    assert_eq!([scratch.mail("alice"), scratch.mail("bob")].concat(), [expected.clone(), expected]);
    assert_eq!(files(&scratch).len(), 0);
}

#[test]
fn a_name_in_the_maildir_fits_a_unique_id_and_carries_its_sizes() {
    let scratch = Scratch::with("myhostname = a-very-long-name-of-a-host.mx.example");
    let id = enqueue(&scratch, "", &["alice"], b"text\n");
    deliver(&scratch);
    let entries: Vec<_> = fs::read_dir(scratch.maildir("alice").join("new")).unwrap().collect();
    let file = entries[0].as_ref().unwrap();
    let name = file.file_name().into_string().unwrap();
    let size = file.metadata().unwrap().len();
    let lines = scratch.mail("alice")[0].iter().filter(|octet| **octet == b'\n').count() as u64;
    assert!(name.contains(id.as_str()) && name.ends_with(&format!(",S={size},W={}", size + lines)), "{name}");
    assert!(name.len() <= 70, "{name}");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_repeat_after_a_crash_doubles_nothing() {
    let scratch = Scratch::new();
    let id = enqueue(&scratch, "", &["alice@mx.example", "bob@mx.example"], b"text\n");
    let file = scratch.queue().join("message").join(&id.as_str()[14..]).join(id.as_str());
    let saved = fs::read(&file).unwrap();
    deliver(&scratch);
    assert_eq!((scratch.mail("alice").len(), scratch.mail("bob").len()), (1, 1));
    // As if it had crashed before it noted anything (alice), and after the mail was moved on (bob).
    fs::write(&file, saved).unwrap();
    let new = fs::read_dir(scratch.maildir("bob").join("new")).unwrap().next().unwrap().unwrap();
    let moved = format!("{}:2,S", new.file_name().into_string().unwrap());
    fs::rename(new.path(), scratch.maildir("bob").join("cur").join(moved)).unwrap();
    take(&scratch, &id).mark(1, RecipientState::Trying, "", true).unwrap();
    scratch.hand_over(&file);
    deliver(&scratch);
    assert_eq!((scratch.mail("alice").len(), scratch.mail("bob").len()), (1, 1));
    assert_eq!(files(&scratch).len(), 0);
}

#[test]
fn an_unknown_user_is_returned_in_one_report() {
    let scratch = Scratch::new();
    let to = ["nobody-here@mx.example", "bob@mx.example", "nor-here@mx.example"];
    let id = enqueue(&scratch, "alice@mx.example", &to, b"Subject: lost\n\nbody \xe4\n");
    deliver(&scratch);
    assert_eq!(scratch.mail("bob").len(), 1);
    let reports = texts(&scratch, "alice");
    assert_eq!(reports.len(), 1, "{reports:?}");
    let report = &reports[0];
    assert!(report.starts_with("Return-Path: <>\nFrom: Mail delivery at mx.example <MAILER-DAEMON@mx.example>\n"));
    let (header, body) = report.split_once("\n\n").unwrap();
    assert!(header.contains("\nTo: <alice@mx.example>\n") && header.contains("\nAuto-Submitted: auto-replied\n"));
    assert!(header.contains("\nContent-Type: multipart/report; report-type=delivery-status;"), "{header}");
    let boundary = header.split_once("boundary=\"").unwrap().1.split_once('"').unwrap().0;
    let parts: Vec<&str> = body.split(&format!("--{boundary}")).collect();
    assert_eq!((parts.len(), parts[4]), (5, "--\n"), "{body}");
    assert!(parts[1].contains("<nobody-here@mx.example>") && parts[1].contains("<nor-here@mx.example>"));
    let status: Vec<&str> = parts[2].trim_matches('\n').split("\n\n").collect();
    assert_eq!(status[0], "Content-Type: message/delivery-status");
    assert!(
        status[1].starts_with(&format!("Reporting-MTA: dns; mx.example\nX-Doorpost-Queue-Id: {id}\nArrival-Date: "))
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
    assert_eq!(files(&scratch).len(), 0);
}

#[test]
fn of_a_large_message_only_the_header_is_returned() {
    let scratch = Scratch::new();
    let content = format!("Subject: large\n\n{}", "a line of the body\n".repeat(10_000));
    enqueue(&scratch, "alice@mx.example", &["nobody-here@mx.example"], content.as_bytes());
    deliver(&scratch);
    let report = texts(&scratch, "alice").remove(0);
    assert!(report.contains("\nContent-Type: text/rfc822-headers\n"), "{report}");
    assert!(report.contains("\nSubject: large\n") && !report.contains("a line of the body"));
}

#[test]
fn what_a_writer_that_died_has_left_does_not_keep_a_sweep_going() {
    let scratch = Scratch::new();
    let id = Id::new(SystemTime::now());
    let folder = scratch.queue().join("message").join(id.folder());
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(id.as_str()), "").unwrap();
    enqueue(&scratch, "alice@mx.example", &["bob@mx.example"], b"Subject: x\n\nhello\n");
    let mut deliver = scratch.command("deliver").stderr(Stdio::null()).spawn().unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while deliver.try_wait().unwrap().is_none() {
        if std::time::Instant::now() > end {
            deliver.kill().unwrap();
            panic!("it looks at what is nobody's again and again");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(scratch.mail("bob").len(), 1);
    assert!(folder.join(id.as_str()).exists(), "it may still be written");
}

#[test]
fn what_a_crash_left_failed_is_returned_once() {
    let scratch = Scratch::new();
    let id = enqueue(&scratch, "alice@mx.example", &["nobody-here@mx.example", "bob@mx.example"], b"text\n");
    let file = scratch.queue().join("message").join(&id.as_str()[14..]).join(id.as_str());
    take(&scratch, &id).mark(0, RecipientState::Failed, "5.1.1 no such user here", true).unwrap();
    let saved = fs::read(&file).unwrap();
    // The return is queued but cannot be delivered yet; then the note of it is lost.
    block(&scratch, "alice");
    deliver(&scratch);
    assert_eq!(files(&scratch).len(), 1);
    fs::write(&file, saved).unwrap();
    scratch.hand_over(&file);
    unblock(&scratch, "alice");
    let names: Vec<String> = files(&scratch).iter().map(|file| file.file_name().into_string().unwrap()).collect();
    let child = names.iter().find(|name| *name != id.as_str()).unwrap().parse().unwrap();
    deliver_these(&scratch, &[&id, &child]);
    assert_eq!(scratch.mail("alice").len(), 1);
    assert_eq!(scratch.mail("bob").len(), 1);
    assert_eq!(files(&scratch).len(), 0);
}

/// Whoever fails after the crash has a lower number here, and so would have given the report another id.
#[test]
fn who_fails_after_a_crash_makes_nobody_be_told_of_twice() {
    let scratch = Scratch::new();
    let id = enqueue(&scratch, "alice@mx.example", &["bob@mx.example", "nobody-here@mx.example"], b"text\n");
    let file = scratch.queue().join("message").join(&id.as_str()[14..]).join(id.as_str());
    take(&scratch, &id).mark(1, RecipientState::Failed, "5.1.1 no such user here", true).unwrap();
    let saved = fs::read(&file).unwrap();
    block(&scratch, "alice");
    block(&scratch, "bob");
    deliver(&scratch);
    assert_eq!(files(&scratch).len(), 2);
    fs::write(&file, saved).unwrap();
    scratch.write("passwd", &format!("alice:{{PLAIN}}x::::{}/home/alice::\n", scratch.path().display()));
    unblock(&scratch, "alice");
    for _ in 0..2 {
        let names: Vec<String> = files(&scratch).iter().map(|file| file.file_name().into_string().unwrap()).collect();
        let ids: Vec<Id> = names.iter().map(|name| name.parse().unwrap()).collect();
        scratch.hand_over(&scratch.queue());
        deliver_these(&scratch, &ids.iter().collect::<Vec<_>>());
    }
    let mut reports = texts(&scratch, "alice");
    reports.sort_by_key(|report| report.contains("rfc822; bob@"));
    assert_eq!(reports.len(), 2, "{reports:?}");
    let count = |name: &str| reports.concat().matches(&format!("Final-Recipient: rfc822; {name}@")).count();
    assert_eq!((count("nobody-here"), count("bob"), files(&scratch).len()), (1, 1, 0), "{reports:?}");
}

#[test]
fn a_message_from_nobody_is_never_returned() {
    let scratch = Scratch::with("double_bounce_recipient =");
    enqueue(&scratch, "", &["nobody-here@mx.example"], b"text\n");
    let log = deliver(&scratch);
    assert_eq!(files(&scratch).len(), 0);
    assert!(log.contains("to=<nobody-here@mx.example> status=failed") && log.contains("status=lost"), "{log}");
}

#[test]
fn what_can_neither_be_delivered_nor_returned_is_told_to_postmaster_once() {
    let scratch = Scratch::new();
    scratch.write("aliases", "postmaster: alice\n");
    // A return whose sender is not here either; and a message from nobody.
    enqueue(&scratch, "nobody-here@mx.example", &["nor-here@mx.example"], b"Subject: lost\n\ntext\n");
    enqueue(&scratch, "", &["not-either@mx.example"], b"text\n");
    deliver(&scratch);
    let reports = texts(&scratch, "alice");
    assert_eq!(reports.len(), 2, "{reports:#?}");
    assert!(reports.iter().any(|report| report.contains("Final-Recipient: rfc822; nobody-here@mx.example\n")));
    assert!(
        reports.iter().all(|report| report.contains("Subject: A message could neither be delivered nor returned\n"))
    );
    // And where that fails too it ends.
    scratch.write("aliases", "postmaster: nobody-at-all\n");
    enqueue(&scratch, "", &["not-either@mx.example"], b"text\n");
    let log = deliver(&scratch);
    assert!(scratch.queued().is_empty(), "{log}");
}

#[test]
fn notify_and_ret_say_what_comes_back() {
    let scratch = Scratch::new();
    let with = |to: &[(&str, &str)], mail: &str| {
        fs::create_dir_all(scratch.queue().join("message")).unwrap();
        let mut draft = queue_of(&scratch).begin().unwrap();
        draft.content(b"Subject: x\n\nbody of it\n").unwrap();
        for (address, said) in to {
            let said = doorpost::message::parameters::RecipientParameters::from_text(said.as_bytes()).unwrap();
            draft.recipient_with(&Address::from_internal(address.as_bytes()).unwrap(), &said).unwrap();
        }
        draft.parameters(&doorpost::message::parameters::MailParameters::from_text(mail.as_bytes()).unwrap()).unwrap();
        let reverse_path = ReversePath::from_internal(b"alice@mx.example").unwrap();
        draft.commit(&Head { reverse_path, trace: TRACE.into(), channel: "local".into() }).unwrap();
        scratch.hand_over(&scratch.queue());
        deliver(&scratch);
        let mut found = texts(&scratch, "alice");
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
    let (_, report) = with(&[("jos\u{e9}@mx.example", "")], "SMTPUTF8");
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
    let id = enqueue(&scratch, "alice@mx.example", &["bob@mx.example"], b"Subject: slow\n\nbody\n");
    deliver_these(&scratch, &[&id]);
    assert_eq!(scratch.mail("alice").len(), 0, "delay_warning_time is 0");
    scratch.configure("delay_warning_time = 1s");
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..3 {
        deliver_these(&scratch, &[&id]);
    }
    for message in files(&scratch) {
        let name = message.file_name().into_string().unwrap();
        if name != id.as_str() {
            scratch.run("deliver", &[&name], b"");
        }
    }
    let reports = texts(&scratch, "alice");
    assert_eq!(reports.len(), 1, "{reports:#?}");
    assert!(reports[0].contains("Action: delayed\nStatus: 4.2.0\n") && reports[0].contains("\nWill-Retry-Until: "));
    unblock(&scratch, "bob");
    deliver_these(&scratch, &[&id]);
    assert_eq!((scratch.mail("bob").len(), files(&scratch).len()), (1, 0));
}

#[test]
fn a_temporary_failure_waits_for_its_next_try() {
    let scratch = Scratch::with("minimal_backoff_time = 1000s");
    block(&scratch, "bob");
    let start = SystemTime::now();
    let id = enqueue(&scratch, "alice@mx.example", &["bob@mx.example", "carol@mx.example"], b"text\n");
    deliver(&scratch);
    assert_eq!(scratch.mail("carol").len(), 1);
    assert_eq!(reports(&scratch, &id)[0], "4.2.0 the mailbox cannot be written now");
    let message = take(&scratch, &id);
    assert_eq!((message.recipients[0].state, message.recipients[0].attempts), (RecipientState::Waiting, 1));
    assert_eq!(message.recipients[1].state, RecipientState::Delivered);
    drop(message);
    let wait = next_try(&scratch, &id).duration_since(start).unwrap();
    assert!((1000..1160).contains(&wait.as_secs()), "{wait:?}");
    unblock(&scratch, "bob");
    deliver(&scratch);
    assert_eq!((scratch.mail("bob").len(), take(&scratch, &id).recipients[0].attempts), (0, 1));
    deliver_these(&scratch, &[&id]);
    assert_eq!((scratch.mail("bob").len(), scratch.mail("carol").len(), files(&scratch).len()), (1, 1, 0));
}

#[test]
fn what_waited_too_long_is_returned_with_its_last_reason() {
    let scratch = Scratch::with("maximal_queue_lifetime = 0");
    block(&scratch, "bob");
    enqueue(&scratch, "alice@mx.example", &["bob@mx.example"], b"text\n");
    deliver(&scratch);
    let report = texts(&scratch, "alice").remove(0);
    assert!(report.contains("\nStatus: 5.4.7\n"), "{report}");
    assert!(report.contains("given up after 0 seconds: 4.2.0 the mailbox cannot be written now"), "{report}");
    assert_eq!(files(&scratch).len(), 0);
}

#[test]
fn with_soft_bounce_an_unknown_user_waits() {
    let scratch = Scratch::with("soft_bounce = yes");
    let id = enqueue(&scratch, "alice@mx.example", &["nobody-here@mx.example"], b"text\n");
    deliver(&scratch);
    assert_eq!(reports(&scratch, &id), ["4.1.1 no such user here"]);
    assert_eq!(scratch.mail("alice").len(), 0);
}

#[test]
fn a_domain_that_cannot_be_looked_up_waits_with_a_clear_reason() {
    let scratch = Scratch::with("name_servers = 127.0.0.1:1");
    let id = enqueue(&scratch, "alice@mx.example", &["someone@elsewhere.example"], b"text\n");
    deliver(&scratch);
    assert_eq!(reports(&scratch, &id), ["4.4.3 elsewhere.example cannot be looked up now"]);
}

#[test]
fn a_verp_sender_is_expanded_in_return_path_and_in_returns() {
    let scratch = Scratch::new();
    scratch.write(
        "passwd",
        &format!(
            "{}list-bob=mx.example:{{PLAIN}}x::::/x::mailbox=maildir:{}/mail/list\n",
            fs::read_to_string(scratch.path().join("passwd")).unwrap(),
            scratch.path().display()
        ),
    );
    block(&scratch, "bob");
    scratch.configure("maximal_queue_lifetime = 0");
    enqueue(&scratch, "list-@mx.example-@[]", &["alice@mx.example", "bob@mx.example"], b"text\n");
    deliver(&scratch);
    assert!(texts(&scratch, "alice")[0].starts_with("Return-Path: <list-alice=mx.example@mx.example>\n"));
    assert!(texts(&scratch, "list")[0].contains("\nTo: <list-bob=mx.example@mx.example>\n"));
}

#[test]
fn two_at_once_deliver_each_message_once() {
    let scratch = Scratch::new();
    for number in 0..40 {
        enqueue(&scratch, "", &["alice@mx.example"], format!("message {number}\n").as_bytes());
    }
    scratch.settle();
    let start = || scratch.command("deliver").stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut both = [start(), start()];
    for deliver in &mut both {
        assert!(deliver.wait().unwrap().success());
    }
    let mut mail = scratch.mail("alice");
    mail.sort();
    mail.dedup();
    assert_eq!((mail.len(), scratch.mail("alice").len(), files(&scratch).len()), (40, 40, 0));
}

#[test]
fn a_watching_deliver_is_woken_and_ends_at_a_signal() {
    let scratch = Scratch::with("queue_run_delay = 1h");
    enqueue(&scratch, "", &["alice@mx.example"], b"before\n");
    let watch = start_watching(&scratch);
    until("the first sweep", || scratch.mail("alice").len() == 1);
    enqueue(&scratch, "", &["alice@mx.example"], b"after\n");
    assert!(queue_of(&scratch).wake());
    until("a delivery by the FIFO", || scratch.mail("alice").len() == 2);
    // Without a wake: what came in until the end is seen by the last look.
    until("the end of the message", || files(&scratch).is_empty());
    enqueue(&scratch, "", &["alice@mx.example"], b"last\n");
    watch.terminate();
    assert_eq!((scratch.mail("alice").len(), files(&scratch).len()), (3, 0));
}

#[test]
fn a_watching_deliver_comes_back_to_a_message_that_somebody_had_locked() {
    let scratch = Scratch::with("queue_run_delay = 1h");
    enqueue(&scratch, "", &["alice@mx.example"], b"before\n");
    scratch.settle();
    let path = scratch.path().join("log");
    let log = fs::File::create(&path).unwrap();
    let watch = Watching::by(scratch.command("deliver").arg("-w").stderr(log));
    until("the first sweep", || scratch.mail("alice").len() == 1 && files(&scratch).is_empty());
    let id = enqueue(&scratch, "", &["alice@mx.example"], b"locked\n");
    let locked = take(&scratch, &id);
    assert!(queue_of(&scratch).wake());
    until("a look at it", || fs::read_to_string(&path).unwrap().contains("came-to=not-ours"));
    drop(locked);
    until("the message", || scratch.mail("alice").len() == 2);
    watch.terminate();
}

/// It must be read whole to see that, so not again whenever somebody wakes deliver.
#[test]
fn a_watching_deliver_reads_a_damaged_file_once() {
    let scratch = Scratch::with("queue_run_delay = 1h");
    let id = enqueue(&scratch, "", &["alice@mx.example"], b"damaged\n");
    let file = files(&scratch).pop().unwrap().path();
    let octets = fs::read(&file).unwrap();
    let at = octets.windows(7).position(|window| window == b"damaged").unwrap();
    fs::write(&file, [&octets[..at], b"D", &octets[at + 1..]].concat()).unwrap();
    scratch.settle();
    let path = scratch.path().join("log");
    let log = fs::File::create(&path).unwrap();
    let watch = Watching::by(scratch.command("deliver").arg("-w").stderr(log));
    let log = || fs::read_to_string(&path).unwrap();
    let over = format!("id={id} event=over");
    until("a look at it", || log().contains(&over));
    enqueue(&scratch, "", &["alice@mx.example"], b"whole\n");
    assert!(queue_of(&scratch).wake());
    until("the other message", || scratch.mail("alice").len() == 1);
    watch.terminate();
    assert_eq!(log().matches(&over).count(), 1, "{}", log());
    assert!(log().contains(&format!("{over} came-to=damaged")), "{}", log());
}

#[test]
fn a_watching_deliver_tries_again_by_itself_when_the_time_has_come() {
    let scratch = Scratch::with("queue_run_delay = 1h\nminimal_backoff_time = 1s\nmaximal_backoff_time = 1s");
    block(&scratch, "alice");
    let id = enqueue(&scratch, "", &["alice@mx.example"], b"text\n");
    let watch = start_watching(&scratch);
    until("a failed try", || next_try(&scratch, &id) > SystemTime::now());
    unblock(&scratch, "alice");
    until("the next try", || scratch.mail("alice").len() == 1);
    watch.terminate();
}

#[test]
fn a_watching_deliver_tries_at_once_what_is_flushed_and_what_is_released() {
    let scratch = Scratch::with("queue_run_delay = 1h\nminimal_backoff_time = 1h");
    block(&scratch, "alice");
    let id = enqueue(&scratch, "", &["alice@mx.example"], b"text\n");
    let watch = start_watching(&scratch);
    let tool =
        |action: &str| assert!(scratch.run("doorpost-queue", &[action, "ALL"], b"").status.success(), "{action}");
    let fails = || until("a failed try", || next_try(&scratch, &id) > SystemTime::now());
    fails();
    tool("flush");
    fails();
    tool("hold");
    unblock(&scratch, "alice");
    tool("release");
    until("the message", || scratch.mail("alice").len() == 1);
    watch.terminate();
}

#[test]
fn a_changed_configuration_holds_from_the_next_message_on() {
    let scratch = Scratch::with("queue_run_delay = 1h");
    enqueue(&scratch, "", &["alice@mx.example"], b"before\n");
    let watch = start_watching(&scratch);
    until("the first sweep", || scratch.mail("alice").len() == 1);
    scratch.configure(&format!("mailbox = maildir:{}/mail/other-%u", scratch.path().display()));
    enqueue(&scratch, "", &["alice@mx.example"], b"after\n");
    assert!(queue_of(&scratch).wake());
    until("a delivery by the new configuration", || scratch.mail("other-alice").len() == 1);
    // A mistake in it changes nothing.
    scratch.configure("message_size_limit = much");
    enqueue(&scratch, "", &["alice@mx.example"], b"later\n");
    assert!(queue_of(&scratch).wake());
    until("a delivery by the old configuration", || scratch.mail("other-alice").len() == 2);
    watch.terminate();
}

#[test]
fn wrong_arguments_and_a_queue_of_somebody_else_are_told_by_the_status() {
    let scratch = Scratch::new();
    assert_eq!(scratch.run("deliver", &["no-id"], b"").status.code(), Some(64));
    assert_eq!(scratch.run("deliver", &["--watch", "0123456789abcde"], b"").status.code(), Some(64));
    assert_eq!(scratch.run("deliver", &["0123456789abcde"], b"").status.code(), Some(0));
    scratch.configure("mail_owner = there-is-no-such-user");
    if nix::unistd::geteuid().is_root() {
        assert_eq!(scratch.run("deliver", &[], b"").status.code(), Some(78));
        let mut stranger = scratch.command("deliver");
        assert_eq!(stranger.uid(1).gid(1).output().unwrap().status.code(), Some(77));
    }
}

/// Gives a folder and all below to a user.
fn give(path: &Path, uid: u32) {
    chown(path, Some(uid), Some(uid)).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| give(&entry.unwrap().path(), uid));
    }
}

/// A mailbox of a user that only root can become; nothing where the tests do not run as root.
fn of_another(uid: u32) -> Option<Scratch> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let scratch = Scratch::new();
    let home = scratch.path().join("dave");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(uid), Some(uid)).unwrap();
    scratch
        .write("passwd", &format!("dave:{{PLAIN}}x:{uid}:{uid}::{0}::mailbox=maildir:{0}/Maildir\n", home.display()));
    Some(scratch)
}

fn dave(scratch: &Scratch) -> Vec<fs::DirEntry> {
    let new = fs::read_dir(scratch.path().join("dave/Maildir/new"));
    new.map(|entries| entries.map(Result::unwrap).collect()).unwrap_or_default()
}

#[test]
fn started_as_root_it_delivers_to_users_as_themselves() {
    let Some(scratch) = of_another(4242) else { return };
    // More than a pipe holds.
    let content = "a line of the content\n".repeat(20_000);
    enqueue(&scratch, "a@mx.example", &["dave@mx.example", "nobody-here@mx.example"], content.as_bytes());
    enqueue(&scratch, "", &["dave@mx.example"], b"second\n");
    deliver(&scratch);
    let files = dave(&scratch);
    assert_eq!(files.len(), 2);
    for file in &files {
        let status = file.metadata().unwrap();
        assert_eq!((status.uid(), status.gid(), status.mode() & 0o777), (4242, 4242, 0o600));
    }
    let large = files.iter().map(|file| fs::read_to_string(file.path()).unwrap()).find(|text| text.len() > 1000);
    assert_eq!(large.unwrap(), format!("Return-Path: <a@mx.example>\n{TRACE}{content}"));
}

#[test]
fn a_user_whose_home_is_closed_to_us_waits() {
    let Some(scratch) = of_another(4242) else { return };
    fs::set_permissions(scratch.path().join("dave"), fs::Permissions::from_mode(0o500)).unwrap();
    let id = enqueue(&scratch, "", &["dave@mx.example"], b"text\n");
    deliver(&scratch);
    assert_eq!(reports(&scratch, &id), ["4.2.0 the mailbox cannot be written now"]);
}

/// What a neighbour can do who may write the folder above a mailbox, as everybody may /tmp: each of the ways gets no mail.
#[test]
fn no_mail_goes_where_a_neighbour_has_laid_the_way_or_the_mailbox() {
    const NEIGHBOUR: u32 = 4343;
    let Some(scratch) = of_another(4242) else { return };
    let path = |name: &str| scratch.path().join(name);
    let open_to_all = |path: &Path, is_folder: bool| {
        if is_folder {
            for name in ["", "tmp", "new", "cur"] {
                fs::create_dir(path.join(name)).unwrap();
                fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o777)).unwrap();
            }
        } else {
            fs::write(path, "").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
        }
        give(path, NEIGHBOUR);
    };
    open_to_all(&path("neighbour"), true);
    open_to_all(&path("dave/made"), true);
    open_to_all(&path("dave/box"), false);
    let link = |target: &Path, name: &str, owner: u32| {
        std::os::unix::fs::symlink(target, path(name)).unwrap();
        std::os::unix::fs::lchown(path(name), Some(owner), None).unwrap();
    };
    link(&path("neighbour"), "dave/foreign", NEIGHBOUR);
    link(&path("dave"), "way", NEIGHBOUR);
    link(&path("dave/own-box"), "dave/to-a-box", 4242);
    let dave = |place: &str| {
        let line = format!("dave:{{PLAIN}}x:4242:4242::{}::mailbox={place}\n", path("dave").display());
        scratch.write("passwd", &line);
        enqueue(&scratch, "", &["dave@mx.example"], b"text\n")
    };
    for (format, place) in [
        ("maildir", "dave/foreign"),
        ("maildir", "way/Maildir"),
        ("maildir", "dave/made"),
        ("mbox", "way/mbox"),
        ("mbox", "dave/box"),
        ("mmdf", "dave/box"),
        ("mbox", "dave/to-a-box"),
    ] {
        let id = dave(&format!("{format}:{}", path(place).display()));
        deliver(&scratch);
        assert_eq!(reports(&scratch, &id), ["4.2.0 the mailbox cannot be written now"], "{format} {place}");
        scratch.run("doorpost-queue", &["delete", id.as_str()], b"");
    }
    assert_eq!(fs::read_dir(path("neighbour/new")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(path("dave/made/new")).unwrap().count(), 0);
    assert_eq!(fs::metadata(path("dave/box")).unwrap().len(), 0);
    // His own links and root's are his own affair.
    fs::create_dir(path("dave/elsewhere")).unwrap();
    give(&path("dave/elsewhere"), 4242);
    link(&path("dave/elsewhere"), "dave/own", 4242);
    link(&path("dave"), "home", 0);
    dave(&format!("maildir:{}", path("home/own/Maildir").display()));
    deliver(&scratch);
    assert_eq!(fs::read_dir(path("dave/elsewhere/Maildir/new")).unwrap().count(), 1);
    scratch.configure("strict_mailbox_ownership = no");
    for place in ["maildir:dave/made", "mbox:dave/box"] {
        dave(&place.replace("dave", &path("dave").display().to_string()));
        deliver(&scratch);
    }
    assert_eq!(scratch.queued(), []);
    assert_eq!(fs::read_dir(path("dave/made/new")).unwrap().count(), 1);
    assert!(fs::metadata(path("dave/box")).unwrap().len() > 0);
}

#[test]
fn not_started_as_root_another_users_mailbox_waits_with_a_clear_reason() {
    let Some(scratch) = of_another(4242) else { return };
    let id = enqueue(&scratch, "", &["dave@mx.example"], b"text\n");
    scratch.settle();
    let status = scratch.command("deliver").uid(NOBODY).gid(NOBODY).status().unwrap();
    assert!(status.success());
    assert_eq!(reports(&scratch, &id), ["4.3.5 the mailbox is another user's, and deliver was not started as root"]);
    assert_eq!(dave(&scratch).len(), 0);
}

#[test]
fn nobody_becomes_root_to_deliver() {
    let Some(scratch) = of_another(0) else { return };
    enqueue(&scratch, "", &["dave@mx.example"], b"text\n");
    let log = deliver(&scratch);
    assert!(log.contains("to=<dave@mx.example> status=failed"), "{log}");
    assert!(!scratch.path().join("dave/Maildir").exists());
}

/// Where the accounts are as usual: uid 1 is no person, and nobody is not below 1000.
#[test]
fn users_of_the_system_get_mail_and_its_accounts_do_not() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let name = |uid| nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).unwrap().map(|user| user.name);
    let (Some(owner), Some(account), Some(person)) = (name(1), name(2), name(NOBODY)) else { return };
    let scratch = Scratch::with(&format!("users = system\nmail_owner = {owner}"));
    give(&scratch.queue(), 1);
    let to = [person.as_str(), account.as_str(), "root"];
    enqueue(&scratch, "", &to, b"text\n");
    give(&scratch.queue(), 1);
    let log = deliver(&scratch);
    assert_eq!(scratch.mail(&person).len(), 1);
    let file = fs::read_dir(scratch.maildir(&person).join("new")).unwrap().next().unwrap().unwrap();
    assert_eq!(file.metadata().unwrap().uid(), NOBODY);
    for account in [account.as_str(), "root"] {
        assert!(log.contains(&format!("to=<{account}@mx.example> status=failed")), "{log}");
        assert!(!scratch.maildir(account).exists());
    }
}

#[test]
fn a_killed_deliver_leaves_no_process_behind() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let scratch = Scratch::with("queue_run_delay = 1h");
    enqueue(&scratch, "", &["alice@mx.example"], b"text\n");
    let mut watch = start_watching(&scratch);
    until("the first sweep", || scratch.mail("alice").len() == 1);
    let children = || {
        let path = format!("/proc/{0}/task/{0}/children", watch.0.id());
        fs::read_to_string(path).unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let helper = children();
    watch.0.kill().unwrap();
    until("the end of the helper", || helper.iter().all(|pid| !runs_deliver(pid)));
}

fn runs_deliver(pid: &str) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program == binary("deliver"))
}

#[test]
fn its_manual_page_is_in_order() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man/deliver.8");
    let text = fs::read_to_string(&page).unwrap();
    for part in ["Fl -watch", "Ar ID", "Sh EXIT STATUS"] {
        assert!(text.contains(part), "{part}");
    }
    if let Ok(output) = Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&page).output() {
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn a_message_whose_next_try_is_to_come_is_left_alone() {
    let scratch = Scratch::new();
    let id = enqueue(&scratch, "", &["alice@mx.example"], b"text\n");
    let message = take(&scratch, &id);
    message.defer_until(SystemTime::now() + Duration::from_secs(3600)).unwrap();
    drop(message);
    deliver(&scratch);
    assert_eq!(scratch.mail("alice").len(), 0);
}

/// What queue(5) says an administrator may do by hand, and what becomes of it.
#[test]
fn files_of_the_queue_may_be_moved_copied_and_removed_and_not_changed() {
    let (scratch, other) = (Scratch::new(), Scratch::new());
    for number in 0..5 {
        let content = format!("Subject: {number}\n\nhello\n");
        assert!(
            scratch.run("submit", &["-f", "alice@mx.example", "bob@mx.example"], content.as_bytes()).status.success()
        );
    }
    let place = |scratch: &Scratch, id: &str| scratch.queue().join("message").join(&id[14..]).join(id);
    let ids: Vec<String> = scratch.queued().into_iter().map(|message| message.id).collect();
    // Moved to another machine, and left here in a backup; removed; changed; with two names.
    let (there, here) = (place(&other, &ids[0]), place(&scratch, &ids[0]));
    fs::create_dir_all(there.parent().expect("a folder")).expect("a folder");
    for folder in there.ancestors().skip(1).take(2) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).expect("its mode");
    }
    fs::copy(&here, &there).expect("a copy");
    fs::rename(&here, scratch.path().join("backup")).expect("a backup");
    other.hand_over(&other.queue());
    fs::remove_file(place(&scratch, &ids[1])).expect("removed");
    let changed = place(&scratch, &ids[2]);
    let octets = fs::read(&changed).expect("a message");
    let at = octets.windows(5).position(|five| five == b"hello").expect("its content");
    fs::write(&changed, [&octets[..at], b"HELLO", &octets[at + 5..]].concat()).expect("changed");
    fs::hard_link(place(&scratch, &ids[3]), scratch.path().join("second-name")).expect("a second name");
    let log = String::from_utf8(scratch.deliver().stderr).expect("printable");
    assert!(log.contains("its checksum does not agree") && log.contains("it has more than one name"), "{log}");
    other.deliver();
    let subjects = |scratch: &Scratch| -> Vec<String> {
        let mail = scratch.mail("bob").into_iter().map(|mail| String::from_utf8_lossy(&mail).into_owned());
        mail.map(|mail| mail.lines().find(|line| line.starts_with("Subject: ")).expect("one").to_owned()).collect()
    };
    assert_eq!((subjects(&scratch), subjects(&other)), (vec!["Subject: 4".to_owned()], vec!["Subject: 0".to_owned()]));
    assert!(changed.exists() && place(&scratch, &ids[3]).exists());
    // Put back from the backup: what is in the mailbox already is found there.
    fs::copy(scratch.path().join("backup"), &there).expect("a copy");
    other.hand_over(&other.queue());
    other.deliver();
    assert_eq!((subjects(&other).len(), other.queued().len()), (1, 0));
}

/// Makes every message due.
fn hurry(scratch: &Scratch) {
    for message in scratch.queued() {
        let path = scratch.queue().join("message").join(&message.id[14..]).join(&message.id);
        fs::File::open(path).and_then(|file| file.set_modified(SystemTime::now())).expect("its time");
    }
}

/// Another deliver may come upon a return before the first has noted that it is queued. If it went out then, and the first
/// were killed, the repeat would queue it again.
#[test]
fn a_return_does_not_go_out_before_it_is_noted_whoever_delivers() {
    let scratch = Scratch::new();
    // In its way, so that it stays in the queue.
    fs::write(scratch.maildir("alice"), "in the way").expect("a file");
    let id = enqueue(&scratch, "alice@mx.example", &["nobody-here@mx.example"], b"Subject: x\n\nx\n");
    let file = scratch.queue().join("message").join(&id.as_str()[14..]).join(id.as_str());
    let octets = fs::read(&file).expect("the message");
    scratch.deliver();
    let report = scratch.queued().pop().expect("the return").id;
    assert!(!file.exists());
    // As it was before that was noted, and as the one who does that has it.
    fs::write(&file, octets).expect("the message");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its mode");
    scratch.hand_over(&scratch.queue());
    let mut message = queue_of(&scratch).take(&id).expect("the queue").expect("the message");
    message.mark(0, RecipientState::Failed, "5.1.1 no such user here", true).expect("a mark");
    fs::remove_file(scratch.maildir("alice")).expect("a file");
    for _ in 0..2 {
        scratch.run("deliver", &[&report], b"");
        assert_eq!(scratch.mail("alice").len(), 0, "it went out too soon");
    }
    drop(message);
    for _ in 0..2 {
        hurry(&scratch);
        scratch.deliver();
    }
    assert_eq!((scratch.mail("alice").len(), scratch.queued().len()), (1, 0));
}
