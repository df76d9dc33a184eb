//! Mailboxes that are one file, by the real programs: deliver appends, pop3d reads and removes, others come between.

mod common;

use common::{Scratch, feed};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Stdio;

const FROM: &str = "From eve@mx.example Sun Nov 22 04:27:00 2026\n";
const LOGIN: &str = "USER bob\r\nPASS secret\r\n";

/// An installation whose mailboxes have this format. No patience: what is locked is locked.
fn site(format: &str) -> Scratch {
    let scratch = Scratch::new();
    scratch.configure(&format!("mailbox = {format}:{}/mail/%u\ndeliver_lock_attempts = 1", scratch.path().display()));
    scratch
}

fn mailbox(scratch: &Scratch) -> PathBuf {
    scratch.maildir("bob")
}

fn put(scratch: &Scratch, text: &str) {
    fs::write(mailbox(scratch), text).expect("a mailbox");
    scratch.hand_over(&mailbox(scratch));
}

fn text(scratch: &Scratch) -> String {
    fs::read_to_string(mailbox(scratch)).expect("a mailbox")
}

fn send(scratch: &Scratch, content: &str) {
    let output = scratch.run("submit", &["-f", "alice@mx.example", "bob@mx.example"], content.as_bytes());
    assert!(output.status.success(), "{output:?}");
}

fn pop(scratch: &Scratch, commands: &str) -> String {
    let output = scratch.run("pop3d", &[], format!("{LOGIN}{commands}QUIT\r\n").as_bytes());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What lies in the folder of the mailboxes.
fn names(scratch: &Scratch) -> Vec<String> {
    let entries = fs::read_dir(scratch.path().join("mail")).expect("the folder");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect()
}

/// Mailutils, for one, sees the next message only behind an empty line of the kind that the first has.
#[test]
fn a_mailbox_of_text_that_came_by_bdat_has_one_kind_of_line_end() {
    for format in ["mbox", "mmdf"] {
        let scratch = site(format);
        for number in 1..=2 {
            let text = format!("Subject: {number}\r\n\r\nFrom here\r\n");
            let session = format!(
                "EHLO c\r\nMAIL FROM:<alice@mx.example> BODY=BINARYMIME\r\nRCPT TO:<bob@mx.example>\r\nBDAT {} LAST\r\n{text}\
                 QUIT\r\n",
                text.len()
            );
            feed(&mut scratch.command("smtpsrvr"), session.as_bytes());
            scratch.deliver();
        }
        let found = text(&scratch);
        assert!(!found.contains('\r'), "{found:?}");
        let (first, second) = found.split_at(found.find("Subject: 2").expect("the second message"));
        let is_apart = format == "mmdf" || first.contains("\n\n>From here\n\nFrom alice@mx.example ");
        assert!(is_apart && second.starts_with("Subject: 2\n\n"), "{found:?}");
        let heard = pop(&scratch, "STAT\r\nRETR 2\r\n");
        let message = heard.split(" follows\r\n").nth(1).and_then(|rest| rest.split("\r\n.\r\n").next()).expect("it");
        let size = message.len() + 2;
        assert!(
            heard.contains(&format!("+OK 2 {}\r\n", 2 * size)) && message.ends_with("\r\n\r\nFrom here"),
            "{heard}"
        );
    }
}

#[test]
fn what_was_sent_comes_out_as_it_was_whatever_stands_in_it() {
    let body = "Subject: x\nContent-Length: 3\nX-Status: D\nX-UID: 4294967293\n\nFrom eve Sun Nov 22 04:27:00 2026\n\n\
        >From y\n.\n\x01\x01\x01\x01x\nend\n";
    for format in ["mbox", "mmdf"] {
        let scratch = site(format);
        // One after the other: at once they may come in in any order.
        for content in [body, "Subject: second\n\n2\n"] {
            send(&scratch, content);
            scratch.deliver();
        }
        let said = pop(&scratch, "LIST\r\nRETR 1\r\nRETR 2\r\n");
        let came = said.replace("\r\n.", "\n").replace('\r', "");
        let expected = body.replace("Content-Length: 3\nX-Status: D\nX-UID: 4294967293\n", "");
        assert!(came.contains(&expected), "{format}: {said}");
        assert!(came.contains("Return-Path: <alice@mx.example>\nX-Delivery-ID: "), "{format}: {said}");
        assert!(said.contains("+OK 2 messages") && said.ends_with("\r\n2\r\n.\r\n+OK Goodbye\r\n"), "{format}: {said}");
        // The size that LIST gives is what RETR sends, before the dots are doubled.
        let message = said.split("+OK Message follows\r\n").nth(1).expect("a message");
        let message = message.split("\r\n.\r\n").next().expect("its end").replace("\r\n..", "\r\n.");
        assert!(said.contains(&format!("\r\n1 {}\r\n", message.len() + 2)), "{format}: {said}");
        assert_eq!(names(&scratch), ["bob"], "{format}");
        assert_eq!(fs::metadata(mailbox(&scratch)).expect("a mailbox").mode() & 0o777, 0o600);
    }
}

/// As useradd and others make them: of group mail, or root.
#[test]
fn a_mailbox_of_a_group_that_is_none_of_the_users_can_be_emptied() {
    if !common::needs::root() {
        return;
    }
    for (mode, expected) in [(0o660, 0o600), (0o600, 0o600)] {
        let scratch = site("mbox");
        put(&scratch, &format!("{FROM}A: 1\n\n1\n\n"));
        std::os::unix::fs::chown(mailbox(&scratch), None, Some(0)).expect("chown");
        fs::set_permissions(mailbox(&scratch), fs::Permissions::from_mode(mode)).expect("its mode");
        let said = pop(&scratch, "DELE 1\r\n");
        assert!(said.ends_with("+OK Goodbye\r\n"), "{said}");
        let is = fs::metadata(mailbox(&scratch)).expect("a mailbox");
        assert_eq!((is.len(), is.uid(), is.gid(), is.mode() & 0o7777), (0, common::NOBODY, common::NOBODY, expected));
    }
}

/// A repeat finds in a Maildir what was delivered; of an mbox the queue file must say it, until that is gone.
#[test]
fn that_a_users_own_mbox_has_a_message_is_on_disk_before_the_queue_forgets_it() {
    let synced = |own: &str| {
        let scratch = Scratch::new();
        let home = scratch.path().display();
        scratch.write(
            "passwd",
            &format!("bob:{{PLAIN}}secret::::{home}/home/bob::{}\n", own.replace('~', &home.to_string())),
        );
        scratch.enqueue(&["bob@mx.example"], b"Subject: x\n\nx\n");
        scratch.settle();
        let trace = scratch.path().join("trace");
        let mut command = std::process::Command::new("strace");
        command.args(["-f", "-y", "-qq", "-e", "trace=fdatasync", "-o"]).arg(&trace).arg(common::binary("deliver"));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", scratch.path());
        assert!(command.stderr(Stdio::null()).status().expect("strace").success());
        assert!(scratch.queued().is_empty(), "{own}");
        let calls = fs::read_to_string(&trace).expect("a trace");
        calls.lines().filter(|line| line.contains("/queue/message/")).count()
    };
    let of_maildir = synced("");
    assert_eq!(synced("mailbox=mbox:~/mail/own"), of_maildir + 1);
    assert_eq!(synced("mailbox=maildir:~/mail/own"), of_maildir);
}

#[test]
fn quit_takes_out_what_is_marked_and_nothing_else() {
    let message = |number: usize| format!("Subject: {number}\n\nbody {number}\n");
    for (format, begin, end) in [("mbox", FROM, "\n"), ("mmdf", "\x01\x01\x01\x01\n", "\x01\x01\x01\x01\n")] {
        let scratch = site(format);
        let stored = |numbers: &[usize]| -> String {
            numbers.iter().map(|number| format!("{begin}{}{end}", message(*number))).collect()
        };
        put(&scratch, &stored(&[1, 2, 3, 4]));
        assert!(pop(&scratch, "DELE 1\r\nRSET\r\n").ends_with("+OK Goodbye\r\n"));
        assert_eq!(text(&scratch), stored(&[1, 2, 3, 4]), "{format}");
        let before = pop(&scratch, "UIDL\r\n");
        assert!(pop(&scratch, "DELE 1\r\nDELE 3\r\n").ends_with("+OK Goodbye\r\n"));
        assert_eq!(text(&scratch), stored(&[2, 4]), "{format}");
        let id = |said: &str, number: usize| {
            let prefix = format!("{number} ");
            said.lines()
                .rfind(|line| line.starts_with(&prefix))
                .expect("a line")
                .split_once(' ')
                .expect("an id")
                .1
                .to_owned()
        };
        let after = pop(&scratch, "UIDL\r\n");
        assert_eq!([id(&after, 1), id(&after, 2)], [id(&before, 2), id(&before, 4)], "{format}");
        // The end without QUIT.
        scratch.run("pop3d", &[], format!("{LOGIN}DELE 1\r\nDELE 2\r\n").as_bytes());
        assert_eq!(text(&scratch), stored(&[2, 4]), "{format}");
        assert!(pop(&scratch, "DELE 1\r\nDELE 2\r\n").ends_with("+OK Goodbye\r\n"));
        assert_eq!((text(&scratch), names(&scratch)), (String::new(), vec!["bob".to_owned()]), "{format}");
    }
}

#[test]
fn a_mailbox_that_is_not_there_is_empty_and_one_that_is_none_is_trouble() {
    let scratch = site("mbox");
    assert!(pop(&scratch, "").contains("+OK 0 messages"));
    assert!(names(&scratch).is_empty());
    put(&scratch, "this is no mail\n");
    assert!(pop(&scratch, "").contains("-ERR [SYS/PERM] "));
    assert_eq!(text(&scratch), "this is no mail\n");
}

#[test]
fn a_mailbox_that_another_program_locked_is_in_use_and_mail_for_it_waits() {
    let scratch = site("mbox");
    put(&scratch, &format!("{FROM}A: 1\n\n1\n\n"));
    let lock = scratch.path().join("mail/bob.lock");
    fs::write(&lock, "0").expect("a lock");
    assert!(pop(&scratch, "").contains("-ERR [IN-USE] "));
    send(&scratch, "Subject: x\n\nx\n");
    let log = scratch.deliver();
    assert!(log.contains("status=deferred") && log.contains("another program has the mailbox locked"), "{log}");
    // Whoever held it is gone long ago.
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(501);
    fs::File::open(&lock).expect("the lock").set_modified(old).expect("its time");
    assert!(pop(&scratch, "").contains("+OK 1 messages"));
    assert_eq!(names(&scratch), ["bob"]);
}

/// Deliveries ask for a flock where that is said, and there alone. (Where it is not said a session has one, against the next
/// one.)
#[test]
fn a_lock_by_flock_counts_where_mailbox_delivery_lock_says_so() {
    use nix::fcntl::{Flock, FlockArg};
    for (kind, is_locked) in
        [("", false), ("mailbox_delivery_lock = fcntl", false), ("mailbox_delivery_lock = flock", true)]
    {
        let scratch = site("mbox");
        scratch.configure(kind);
        put(&scratch, &format!("{FROM}A: 1\n\n1\n\n"));
        let file = fs::File::open(mailbox(&scratch)).expect("a mailbox");
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).expect("a lock");
        send(&scratch, "Subject: x\n\nx\n");
        let log = scratch.deliver();
        assert_eq!(log.contains("another program has the mailbox locked"), is_locked, "{kind}: {log}");
        assert_eq!(text(&scratch).contains("Subject: x"), !is_locked, "{kind}: {log}");
        drop(lock);
    }
}

/// Mutt and Postfix let nobody read theirs.
#[test]
fn an_old_lock_that_nobody_may_read_is_removed_and_none_by_its_age_where_that_does_not_count() {
    use std::os::unix::fs::PermissionsExt;
    for (configured, is_removed) in [("", true), ("stale_lock_time = 0", false)] {
        let scratch = site("mbox");
        scratch.configure(configured);
        put(&scratch, &format!("{FROM}A: 1\n\n1\n\n"));
        let lock = scratch.path().join("mail/bob.lock");
        let file = fs::File::create(&lock).expect("a lock");
        file.set_permissions(fs::Permissions::from_mode(0o000)).expect("its mode");
        file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(501)).expect("its time");
        scratch.hand_over(&lock);
        let expected = if is_removed { "+OK 1 messages" } else { "-ERR [IN-USE] " };
        let said = pop(&scratch, "");
        assert!(said.contains(expected) && lock.exists() != is_removed, "{configured}: {said}");
        send(&scratch, "Subject: x\n\nx\n");
        scratch.deliver();
        assert_eq!(text(&scratch).contains("Subject: x"), is_removed, "{configured}");
    }
}

/// After a power cut nothing but what stands in it tells that it is nobody's any more.
#[test]
fn where_age_does_not_count_a_dot_lock_is_on_disk_before_it_has_its_name() {
    for (configured, expected) in [("", &["linkat"][..]), ("stale_lock_time = 0", &["fdatasync", "linkat"])] {
        let scratch = site("mbox");
        scratch.configure(configured);
        put(&scratch, &format!("{FROM}A: 1\n\n1\n\n"));
        let trace = scratch.path().join("trace");
        let mut command = std::process::Command::new("strace");
        command.args(["-f", "-qq", "-e", "trace=fdatasync,linkat", "-e", "signal=none", "-o"]).arg(&trace);
        command.arg(common::binary("pop3d")).env_clear().env("PATH", "/usr/bin:/bin");
        let said = feed(command.env("MAIL_CONFIG", scratch.path()), LOGIN.as_bytes());
        assert!(String::from_utf8_lossy(&said.stdout).contains("+OK 1 messages"), "{said:?}");
        let calls = fs::read_to_string(&trace).expect("a trace");
        let calls: Vec<_> = calls.lines().filter_map(|line| line.split_once(' ')?.1.trim().split('(').next()).collect();
        assert_eq!(calls, expected, "{configured}");
    }
}

#[test]
fn a_mailbox_that_is_locked_by_flock_alone_is_in_use_and_is_left_alone() {
    let scratch = site("mbox");
    scratch.configure("mailbox_delivery_lock = flock");
    let first = format!("{FROM}A: 1\n\n1\n\n");
    put(&scratch, &first);
    let file = fs::File::open(mailbox(&scratch)).expect("the mailbox");
    file.lock().expect("a lock");
    assert!(pop(&scratch, "").contains("-ERR [IN-USE] "));
    send(&scratch, "Subject: x\n\nx\n");
    let log = scratch.deliver();
    assert!(log.contains("status=deferred") && text(&scratch) == first, "{log}");
    drop(file);
    send(&scratch, "Subject: y\n\ny\n");
    scratch.deliver();
    let said = pop(&scratch, "RETR 2\r\nDELE 1\r\n");
    assert!(said.contains("\r\nSubject: y\r\n") && said.ends_with("+OK Goodbye\r\n"), "{said}");
    assert!(text(&scratch).contains("Subject: y") && !text(&scratch).contains("A: 1"));
    assert_eq!(names(&scratch), ["bob"]);
}

#[test]
fn a_second_session_hears_in_use_and_mail_arrives_all_the_same() {
    for locks in ["fcntl, dotlock", "flock, dotlock"] {
        a_session_is_alone_and_keeps_no_mail_out(locks);
    }
}

fn a_session_is_alone_and_keeps_no_mail_out(locks: &str) {
    let scratch = site("mbox");
    scratch.configure(&format!("mailbox_delivery_lock = {locks}"));
    put(&scratch, &format!("{FROM}A: 1\n\n1\n\n"));
    let mut command = scratch.command("pop3d");
    let mut first = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("pop3d");
    let mut input = first.stdin.take().expect("a pipe");
    write!(input, "{LOGIN}DELE 1\r\n").expect("sending");
    let mut output = BufReader::new(first.stdout.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("Marked") {
        line.clear();
        assert!(output.read_line(&mut line).expect("a line") > 0, "no session");
    }
    assert!(pop(&scratch, "").contains("-ERR [IN-USE] "));
    send(&scratch, "Subject: arrived\n\nx\n");
    let log = scratch.deliver();
    assert!(log.contains("status=delivered"), "{log}");
    write!(input, "QUIT\r\n").expect("sending");
    drop(input);
    line.clear();
    output.read_to_string(&mut line).expect("the rest");
    assert_eq!((line.as_str(), first.wait().expect("its end").code()), ("+OK Goodbye\r\n", Some(0)));
    let said = pop(&scratch, "RETR 1\r\n");
    assert!(said.contains("+OK 1 messages") && said.contains("Subject: arrived"), "{said}");
    assert_eq!(names(&scratch), ["bob"]);
}

/// Sessions that fetch and remove, deliveries, and a program that appends by itself under the common locks: at the end
/// each message was fetched or is there, once.
#[test]
fn with_many_at_work_no_message_is_lost_or_doubled() {
    const EACH: usize = 12;
    for format in ["mbox", "mmdf"] {
        let scratch = site(format);
        scratch.configure("deliver_lock_attempts = 20");
        let folder = scratch.path().to_owned();
        let command = |program: &str, arguments: &[&str], input: &str| {
            let mut command = std::process::Command::new(common::binary(program));
            command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", &folder).args(arguments);
            feed(&mut command, input.as_bytes())
        };
        let fetched = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..2)
                .map(|sender| {
                    scope.spawn(move || {
                        for number in 0..EACH {
                            let content = format!("Subject: x\n\nnumber {sender}-{number} here\n");
                            assert!(
                                command("submit", &["-f", "a@mx.example", "bob@mx.example"], &content).status.success()
                            );
                            command("deliver", &[], "");
                        }
                    })
                })
                .collect();
            let reader = scope.spawn(|| {
                let mut fetched = String::new();
                for _ in 0..400 {
                    // Not DELE before the answer to RETR.
                    let said = command("pop3d", &[], &format!("{LOGIN}RETR 1\r\nUIDL 1\r\nQUIT\r\n")).stdout;
                    let said = String::from_utf8_lossy(&said).into_owned();
                    let id =
                        said.lines().rev().find_map(|line| line.strip_prefix("+OK 1 ")).unwrap_or("none").to_owned();
                    if !said.contains(" here") || id == "none" {
                        continue;
                    }
                    let gone = command("pop3d", &[], &format!("{LOGIN}UIDL 1\r\nDELE 1\r\nQUIT\r\n")).stdout;
                    let gone = String::from_utf8_lossy(&gone).into_owned();
                    assert!(
                        gone.contains(&format!("+OK 1 {id}\r\n")) && gone.ends_with("+OK Goodbye\r\n"),
                        "{said}\n{gone}"
                    );
                    fetched.push_str(&said);
                    if fetched.matches(" here").count() == EACH {
                        break;
                    }
                }
                fetched
            });
            senders.into_iter().for_each(|sender| sender.join().expect("a sender"));
            reader.join().expect("the reader")
        });
        // What a deliver found locked by another waits for the next.
        for message in scratch.queued() {
            let output = scratch.run("deliver", &[&message.id], b"");
            assert!(output.status.success(), "{output:?}");
        }
        assert_eq!(scratch.queued(), []);
        let all = fetched.clone() + &text(&scratch);
        for (sender, number) in (0..2).flat_map(|sender| (0..EACH).map(move |number| (sender, number))) {
            let found = all.matches(&format!("number {sender}-{number} here")).count();
            assert_eq!(found, 1, "{format}: number {sender}-{number}; {} fetched", fetched.matches(" here").count());
        }
        assert!(fetched.contains(" here"), "{format}: nothing was fetched meanwhile");
        assert_eq!(names(&scratch), ["bob"], "{format}");
    }
}
