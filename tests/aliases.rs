//! Aliases and `~/.forward`, by the real deliver: who gets the mail, what runs, what goes in a circle, what a crash leaves.

mod common;

use common::enqueue::TRACE;
use common::watching::Watching;
use common::{Scratch, until};
use doorpost::queue::{Id, Queue};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::time::Instant;

fn enqueue_with(scratch: &Scratch, from: &str, to: &[(&str, &str)], mail: &str) -> Id {
    scratch.enqueue_with((from, mail), to, b"Subject: hello\n\nbody\n")
}

fn enqueue(scratch: &Scratch, from: &str, to: &str) -> Id {
    enqueue_with(scratch, from, &[(to, "")], "")
}

fn counts(scratch: &Scratch) -> [usize; 3] {
    ["alice", "bob", "carol"].map(|user| scratch.mail(user).len())
}

/// Makes a home for a user of the passwd-file, and a `.forward` in it.
fn forward(scratch: &Scratch, user: &str, text: &str) {
    fs::create_dir_all(scratch.path().join("home").join(user)).unwrap();
    scratch.write_long_ago(&format!("home/{user}/.forward"), text);
    scratch.hand_over(&scratch.path().join("home"));
}

/// A program that adds what it gets and its arguments to a file.
fn program(scratch: &Scratch) -> (String, std::path::PathBuf) {
    let (path, out) = (scratch.path().join("program"), scratch.path().join("out"));
    let script = format!(
        "#!/bin/sh\n{{ echo \"args:$*\"; echo \"to:$RECIPIENT from:$SENDER\"; cat; }} >> {}\nexit ${{1:-0}}\n",
        out.display()
    );
    common::write_program(&path, &script);
    scratch.hand_over(&path);
    (path.display().to_string(), out)
}

/// An editor empties the file, and writes it anew next.
#[test]
fn mail_waits_for_a_file_that_is_being_written() {
    let scratch = Scratch::new();
    scratch.write("aliases", &format!("list: :include:{}/members\n", scratch.path().display()));
    scratch.write_long_ago("members", "bob\n");
    forward(&scratch, "bob", "bob-before@mx.example\n");
    for (name, text, to) in [("home/bob/.forward", "alice\n", "bob"), ("members", "carol\n", "list")] {
        let path = scratch.path().join("log");
        enqueue(&scratch, "", &format!("{to}@mx.example"));
        scratch.settle();
        let mut deliver = scratch.command("deliver");
        // Written to again and again, for however long deliver takes to begin.
        let write_half = || scratch.write(name, if to == "bob" { "" } else { "bob-before\n" });
        write_half();
        let mut deliver = deliver.arg("-w").stderr(fs::File::create(&path).unwrap()).spawn().unwrap();
        until("deliver to be at it", || {
            write_half();
            fs::read_to_string(&path).unwrap().contains(" way=")
        });
        scratch.write(name, text);
        assert!(deliver.wait().unwrap().success());
    }
    assert_eq!((counts(&scratch), scratch.queued().len()), ([1, 0, 1], 0));
}

#[test]
fn an_alias_reaches_everybody_it_names_once() {
    let scratch = Scratch::new();
    scratch.write("aliases", "all: bob, list\nlist: bob, Carol, alice@MX.example\n");
    enqueue(&scratch, "x@elsewhere.example", "All@mx.example");
    let log = scratch.deliver();
    assert_eq!(counts(&scratch), [1, 1, 1], "{log}");
    let mail = &scratch.texts("bob")[0];
    assert!(
        mail.starts_with("Return-Path: <x@elsewhere.example>\nDelivered-To: All@mx.example\nReceived: by mx"),
        "{mail}"
    );
    assert!(mail.ends_with(&format!("{TRACE}Subject: hello\n\nbody\n")), "{mail}");
    assert!(scratch.queued().is_empty());
}

#[test]
fn a_lists_failures_go_to_its_owner() {
    let scratch = Scratch::new();
    scratch.write("aliases", "list: bob, nobody-here\nowner-list: alice\n");
    enqueue(&scratch, "carol@mx.example", "list@mx.example");
    let log = scratch.deliver();
    assert_eq!(counts(&scratch), [1, 1, 0], "{log}");
    assert!(scratch.texts("bob")[0].starts_with("Return-Path: <owner-list@mx.example>\n"));
    assert!(scratch.texts("alice")[0].contains("Final-Recipient: rfc822; nobody-here@mx.example\n"));
}

#[test]
fn an_alias_that_names_itself_and_circles_end() {
    let scratch = Scratch::new();
    scratch.write("aliases", "bob: bob, alice\na: b\nb: a\none: two\nowner-one: carol\ntwo: one\nowner-two: carol\n");
    for to in ["bob", "a", "one"] {
        enqueue(&scratch, "alice@mx.example", &format!("{to}@mx.example"));
    }
    let log = scratch.deliver();
    assert_eq!(scratch.mail("bob").len(), 1, "{log}");
    // bob's copy, and the failure of `a`, which names nobody in the end.
    assert_eq!(scratch.mail("alice").len(), 2, "{log}");
    let circle = scratch.texts("carol");
    assert!(circle.len() == 1 && circle[0].contains("in a circle"), "{log}");
    assert!(scratch.queued().is_empty());
}

#[test]
fn an_extension_goes_to_the_user_and_finds_its_own_forward() {
    let scratch = Scratch::new();
    enqueue(&scratch, "", "bob+lists@mx.example");
    scratch.deliver();
    assert_eq!(counts(&scratch), [0, 1, 0]);
    forward(&scratch, "bob", "carol\n");
    scratch.write_long_ago("home/bob/.forward+lists", "alice\n");
    scratch.hand_over(&scratch.path().join("home"));
    enqueue(&scratch, "", "bob+lists@mx.example");
    enqueue(&scratch, "", "bob+else@mx.example");
    scratch.deliver();
    assert_eq!(counts(&scratch), [1, 1, 1]);
}

#[test]
fn a_users_own_address_in_a_forward_file_is_the_mailbox_in_whatever_way_the_mail_came() {
    let scratch = Scratch::with("");
    scratch.write("channels", "local  *  mx.example, other.example  mailbox:  local\n");
    for (text, to) in [
        ("bob@mx.example, carol\n", "bob+detail@mx.example"),
        ("bob@mx.example\ncarol\n", "bob@other.example"),
        ("bob+detail@other.example\ncarol\n", "bob+detail@mx.example"),
        ("Bob, bob@mx.example, \\bob, carol, carol\n", "bob@mx.example"),
    ] {
        let before = counts(&scratch);
        forward(&scratch, "bob", text);
        enqueue(&scratch, "", to);
        let log = scratch.deliver();
        assert_eq!(counts(&scratch), [0, before[1] + 1, before[2] + 1], "{to}: {text:?} {log}");
    }
    // Another file of the user's is another way.
    forward(&scratch, "bob", "bob+lists@mx.example\n");
    scratch.write_long_ago("home/bob/.forward+lists", "alice\n");
    scratch.hand_over(&scratch.path().join("home"));
    enqueue(&scratch, "", "bob@mx.example");
    scratch.deliver();
    assert_eq!(counts(&scratch)[0], 1);
    // And an alias comes first, also for one domain.
    scratch.write("aliases", "bob@other.example: carol\n");
    forward(&scratch, "bob", "\\bob, bob@other.example\n");
    let before = counts(&scratch);
    enqueue(&scratch, "", "bob@mx.example");
    let log = scratch.deliver();
    assert_eq!(counts(&scratch), [before[0], before[1] + 1, before[2] + 1], "{log}");
    scratch.write_long_ago("home/bob/.forward+lists", "bob@mx.example\n");
    forward(&scratch, "bob", "carol\n");
    let before = counts(&scratch);
    enqueue(&scratch, "", "bob+lists@mx.example");
    let log = scratch.deliver();
    assert_eq!(counts(&scratch), [before[0], before[1], before[2] + 1], "{log}");
    // An alias of the user's name leads no mail in a circle that has come as far as the file.
    scratch.write("aliases", "bob: bob, alice\n");
    fs::remove_file(scratch.path().join("home/bob/.forward+lists")).unwrap();
    forward(&scratch, "bob", "bob@mx.example, carol\n");
    let before = counts(&scratch);
    enqueue(&scratch, "", "bob@mx.example");
    let log = scratch.deliver();
    assert_eq!(counts(&scratch), before.map(|count| count + 1), "{log}");
}

#[test]
fn what_an_alias_sends_on_is_told_by_its_name_and_the_whole_queue_is_not_looked_at_for_it() {
    let scratch = Scratch::with("queue_run_delay = 1h");
    scratch.write("aliases", "all: alice, bob\n");
    for _ in 0..100 {
        enqueue(&scratch, "", "all@mx.example");
    }
    scratch.settle();
    let (path, start) = (scratch.path().join("log"), Instant::now());
    let watching = Watching::by(scratch.command("deliver").arg("-w").stderr(fs::File::create(&path).unwrap()));
    until("all of it", || {
        scratch.mail("alice").len() + scratch.mail("bob").len() == 200 && scratch.queued().is_empty()
    });
    let (log, seconds) = (fs::read_to_string(&path).unwrap(), start.elapsed().as_secs());
    watching.terminate();
    // A FIFO that was full is worth a look.
    let looks = log.matches("event=looked").count() as u64;
    assert!(looks <= 2 + seconds, "{looks} looks in {seconds} seconds");
}

/// Whoever looks at the queue is told where to look.
#[test]
fn mail_that_waits_for_a_list_says_which_file_and_line() {
    let scratch = Scratch::new();
    let members = scratch.path().join("members").display().to_string();
    scratch.write("aliases", &format!("list: :include:{members}\n"));
    enqueue(&scratch, "alice@mx.example", "list@mx.example");
    for (text, place) in [(None, members.clone()), (Some("bob\ncarol (Carol\n"), format!("{members}:2"))] {
        text.into_iter().for_each(|text| scratch.write("members", text));
        let id = &scratch.queued()[0].id;
        let log = String::from_utf8(scratch.run("deliver", &[id], b"").stderr).expect("records");
        assert!(log.contains(&format!("reason=\"4.3.0 cannot be read now, or is wrong: {place}\"")), "{log}");
    }
}

#[test]
fn mail_for_a_list_without_members_comes_back() {
    let scratch = Scratch::new();
    let members = scratch.path().join("members");
    scratch.write_long_ago("members", "# nobody yet\n");
    scratch.write(
        "aliases",
        &format!("list: :include:{0}\nowner-list: carol\npostmaster: :include:{0}\n", members.display()),
    );
    enqueue(&scratch, "alice@mx.example", "list@mx.example");
    enqueue(&scratch, "alice@mx.example", "postmaster@mx.example");
    let log = scratch.deliver();
    let returned = scratch.texts("alice");
    assert!(returned.len() == 1 && returned[0].contains("\nStatus: 5.2.4\n"), "{log}");
    assert_eq!(fs::read_dir(scratch.queue().join("postmaster/new")).unwrap().count(), 1, "{log}");
    assert!(scratch.queued().is_empty(), "{log}");
}

/// BSD's vacation ends with an error where the first line is not that of an mbox; procmail takes the sender from it.
#[test]
fn a_program_gets_the_line_of_an_mbox_in_front_and_may_be_written_as_procmails_manual_has_it() {
    let scratch = Scratch::with("allow_mail_to_commands = forward");
    let (program, out) = program(&scratch);
    forward(&scratch, "bob", &format!("\"|IFS=' ' && exec {program} 0 || exit 75 #bob\"\n"));
    let log = ["x@elsewhere.example", ""].map(|from| {
        enqueue(&scratch, from, "bob@mx.example");
        scratch.deliver()
    });
    let log = log.concat();
    let text = fs::read_to_string(&out).unwrap_or_default();
    let starts = |sender: &str| {
        text.contains(&format!(" from:{sender}\nFrom {0} ", if sender.is_empty() { "MAILER-DAEMON" } else { sender }))
    };
    assert!(starts("x@elsewhere.example") && starts("") && text.contains("\nReturn-Path: <>\n"), "{text} {log}");
    // Without exec it is the shell's word that counts.
    forward(&scratch, "bob", &format!("|{program} 77 || exit 75\n"));
    enqueue(&scratch, "alice@mx.example", "bob@mx.example");
    let log = scratch.deliver();
    assert!(log.contains("status=deferred") && scratch.mail("alice").is_empty(), "{log}");
}

/// Mail that waits for a broken program goes where the mended file says, also to the user's mailbox; where somebody has a copy
/// already it waits for that program.
#[test]
fn mail_for_a_program_that_is_named_no_more_goes_where_the_file_says_now() {
    let scratch = Scratch::with("allow_mail_to_commands = forward, alias");
    let (program, out) = program(&scratch);
    let broken = format!("|{program}-broken\n");
    let again = |expected: &str| {
        scratch.run("doorpost-queue", &["flush", "ALL"], b"");
        let log = scratch.deliver() + &scratch.deliver();
        assert!(log.contains(expected), "{expected}: {log}");
        log
    };
    forward(&scratch, "bob", &broken);
    enqueue(&scratch, "x@elsewhere.example", "bob@mx.example");
    let log = scratch.deliver() + &scratch.deliver();
    assert!(log.contains("4.3.5 the program for this address cannot be run"), "{log}");
    // Not changed, it waits on.
    again("4.3.5 the program for this address cannot be run");
    forward(&scratch, "bob", &broken.replace("-broken", "-other"));
    again("event=expanded-anew name=bob");
    forward(&scratch, "bob", &format!("|{program}, carol\n"));
    let log = again("event=expanded-anew name=bob");
    let text = fs::read_to_string(&out).unwrap_or_default();
    assert_eq!((text.matches("to:bob@mx.example ").count(), counts(&scratch)), (1, [0, 0, 1]), "{text} {log}");
    assert!(scratch.queued().is_empty());

    // Without the file it is the mailbox, and by an alias whatever that says.
    scratch.write("aliases", &format!("list: \"|{program}-broken\"\n"));
    forward(&scratch, "bob", &broken);
    enqueue(&scratch, "x@elsewhere.example", "bob@mx.example");
    enqueue(&scratch, "x@elsewhere.example", "list@mx.example");
    _ = scratch.deliver() + &scratch.deliver();
    fs::remove_file(scratch.path().join("home/bob/.forward")).unwrap();
    scratch.write("aliases", "list: alice\n");
    scratch.run("doorpost-queue", &["requeue", "ALL"], b"");
    let log = again("event=expanded-anew name=list");
    assert_eq!((scratch.mail("bob").len(), scratch.mail("alice").len()), (1, 1), "{log}");

    // Who has a copy gets no second one.
    forward(&scratch, "bob", &format!("{} , \\bob\n", broken.trim()));
    enqueue(&scratch, "x@elsewhere.example", "bob@mx.example");
    _ = scratch.deliver() + &scratch.deliver();
    assert_eq!(scratch.mail("bob").len(), 2);
    forward(&scratch, "bob", "\\bob\n");
    scratch.run("doorpost-queue", &["requeue", "ALL"], b"");
    again("4.1.1 the address stands for something else now");
    assert_eq!(scratch.mail("bob").len(), 2);
}

#[test]
fn a_forward_file_sends_on_keeps_a_copy_and_never_circles() {
    let scratch = Scratch::new();
    forward(&scratch, "bob", "# both\n\\bob, carol\nalice@mx.example\n");
    enqueue(&scratch, "", "bob@mx.example");
    scratch.deliver();
    assert_eq!(counts(&scratch), [1, 1, 1]);
    // Its own name is the mailbox; so is an empty file.
    for own in ["bob\n", "bob@mx.example", "\\bob", "# nothing\n"] {
        forward(&scratch, "bob", own);
        let before = scratch.mail("bob").len();
        enqueue(&scratch, "", "bob@mx.example");
        scratch.deliver();
        assert_eq!(scratch.mail("bob").len(), before + 1, "{own}");
    }
    forward(&scratch, "bob", "carol");
    forward(&scratch, "carol", "bob");
    enqueue(&scratch, "alice@mx.example", "bob@mx.example");
    let log = scratch.deliver();
    let report = scratch.texts("alice").pop().unwrap();
    assert!(report.contains("in a circle"), "{log}{report}");
    assert!(scratch.queued().is_empty());
}

/// Who wrote it cannot read the log, and may have meant the mailbox by that line.
#[test]
fn a_line_passed_over_in_a_forward_file_leaves_a_copy_in_the_mailbox() {
    let scratch = Scratch::new();
    let long = format!("{}@x.example", "x".repeat(700));
    let wrong = ["\"|/usr/bin/spamc | /usr/bin/procmail\"", ":include:/etc/staff", "bob (Bob", &long];
    for (number, line) in (1..).zip(wrong) {
        forward(&scratch, "bob", &format!("carol@mx.example\n{line}\n"));
        enqueue(&scratch, "", "bob@mx.example");
        let log = scratch.deliver();
        assert_eq!((counts(&scratch), scratch.queued().len()), ([0, number, number], 0), "{line:.60} {log}");
    }
}

#[test]
fn a_forward_file_with_too_many_targets_leaves_nobody_out() {
    let scratch = Scratch::new();
    let many: String = (0..1000).map(|number| format!("user{number}@mx.example\n")).collect();
    forward(&scratch, "bob", &format!("{many}carol\n"));
    enqueue(&scratch, "alice@mx.example", "bob@mx.example");
    let log = scratch.deliver();
    assert!(log.contains("to=<bob@mx.example> status=deferred") && log.contains("more than 1000"), "{log}");
    assert_eq!((counts(&scratch), scratch.queued().len()), ([0, 0, 0], 1));
}

#[test]
fn what_goes_from_one_alias_to_the_other_and_back_is_returned_as_a_circle() {
    let scratch = Scratch::new();
    scratch.write("aliases", "one: two\ntwo: one, carol\n");
    enqueue(&scratch, "alice@mx.example", "one@mx.example");
    let log = scratch.deliver();
    assert_eq!((counts(&scratch), scratch.queued().len()), ([1, 0, 1], 0), "{log}");
    let report = &scratch.texts("alice")[0];
    assert!(report.contains("5.4.6 mail for this address goes in a circle"), "{report}");
}

/// What an alias sends away may come back by another host; then its field Delivered-To is there.
#[test]
fn mail_that_left_by_an_alias_and_comes_back_to_it_goes_round_once() {
    let hop = common::hops::Hop::friendly();
    let scratch = Scratch::new();
    scratch.write("aliases", "list: friend@elsewhere.example\n");
    scratch.write("channels", &format!("local * mx.example mailbox: *\nout - * smtp:{} *\n", hop.name()));
    enqueue(&scratch, "alice@mx.example", "list@mx.example");
    let log = scratch.deliver();
    let there = hop.taken().pop().unwrap_or_else(|| panic!("at the other host: {log}"));
    assert!(there.rcpts[0].starts_with("RCPT TO:<friend@elsewhere.example>"), "{:?}", there.rcpts);
    assert!(there.content.contains("Delivered-To: list@mx.example\r\n"), "{}", there.content);
    // The friend there forwards to the list.
    let session = format!(
        "EHLO elsewhere.example\r\nMAIL FROM:<alice@mx.example>\r\nRCPT TO:<list@mx.example>\r\nDATA\r\n{}.\r\nQUIT\r\n",
        there.content
    );
    let output = scratch.run("smtpsrvr", &["-o", "smtpd_forbid_unauth_pipelining=no"], session.as_bytes());
    assert!(String::from_utf8_lossy(&output.stdout).contains("queued as"), "{output:?}");
    let log = scratch.deliver();
    assert_eq!((hop.taken().len(), scratch.queued().len()), (1, 0), "{log}");
    let reports = scratch.texts("alice");
    assert!(reports.len() == 1 && reports[0].contains("5.4.6 mail for this address goes in a circle"), "{reports:?}");
}

/// Anybody can write the field, and have what he likes sent to whom he likes.
#[test]
fn of_what_seems_to_go_in_a_circle_only_the_header_is_returned() {
    let given_up = "given up after 0 seconds: 4.4.6 mail for this address goes in a circle";
    for (setting, why) in [("", "in a circle"), ("soft_bounce = yes\nmaximal_queue_lifetime = 0", given_up)] {
        let scratch = Scratch::with(setting);
        scratch.write("aliases", "list: bob\n");
        let text = b"Delivered-To: list@mx.example\nSubject: forged\n\nbuy this\n";
        scratch.enqueue_from("alice@mx.example", &["list@mx.example"], text);
        let log = scratch.deliver();
        let reports = scratch.texts("alice");
        assert!(reports.len() == 1 && reports[0].contains(why), "{reports:?} {log}");
        assert!(reports[0].contains("\nSubject: forged\n") && !reports[0].contains("buy this"), "{reports:?}");
    }
}

/// Circles that nobody's Delivered-To shows end by the number of Received fields.
#[test]
fn no_alias_and_no_forward_file_sends_on_what_has_been_through_too_many_hosts() {
    let scratch = Scratch::with("hopcount_limit = 6");
    scratch.write("aliases", "list: carol\n");
    forward(&scratch, "bob", "carol\n");
    for (hops, arrived, returned) in [(3, 2, 0), (4, 2, 2)] {
        let content = [TRACE.repeat(hops).as_bytes(), b"Subject: far\n\nx\n"].concat();
        for to in ["list@mx.example", "bob@mx.example"] {
            scratch.enqueue(&[to], &content);
        }
        let log = scratch.deliver();
        assert_eq!(counts(&scratch), [returned, 0, arrived], "{hops}: {log}");
    }
    assert!(scratch.texts("alice").iter().all(|report| report.contains("5.4.6 the message has been through too many")));
}

#[test]
fn programs_and_files_are_targets_only_where_main_cf_allows_them() {
    let scratch = Scratch::new();
    let (program, out) = program(&scratch);
    let file = scratch.path().join("archive");
    scratch.write(
        "aliases",
        &format!(
            "run: \"|{program} 0 'a b' $x\", bob\ntell: \"|{program} 0 'a b'\"\nkeep: {}\nnull: /dev/null\n",
            file.display()
        ),
    );
    for to in ["tell", "keep", "null", "run"] {
        enqueue(&scratch, "alice@mx.example", &format!("{to}@mx.example"));
    }
    let mut log = scratch.deliver();
    assert!(!out.exists() && !file.exists());
    let waiting = scratch.queued();
    // A command that needs a shell makes its whole line wrong, and nobody unknown.
    assert_eq!((waiting.len(), scratch.mail("alice").len(), scratch.mail("bob").len()), (3, 0, 0), "{waiting:?}");
    scratch.configure("allow_mail_to_commands = alias\nallow_mail_to_files = alias\ndefault_privs = nobody");
    for message in &waiting {
        log += &String::from_utf8_lossy(&scratch.run("deliver", &[&message.id], b"").stderr);
    }
    for (to, how) in [("\"|", "delivered to command"), ("/dev/null@", "discarded"), ("/", "delivered to file")] {
        let record = |line: &str| line.contains(&format!(" to=<{to}")) && line.contains(&format!("=\"2.0.0 {how}\""));
        assert!(log.lines().any(record), "{to}: {log}");
    }
    let ran = fs::read_to_string(&out).unwrap_or_else(|error| panic!("{error}: {log}"));
    assert!(ran.starts_with("args:0 a b\nto:tell@mx.example from:alice@mx.example\nFrom alice@mx.example "), "{ran}");
    assert_eq!(ran.lines().nth(3), Some("Return-Path: <alice@mx.example>"), "{ran}");
    assert!(ran.ends_with("\n\nbody\n"));
    assert!(fs::read_to_string(&file).unwrap().ends_with("\nSubject: hello\n\nbody\n\n"));
    let left: Vec<_> = scratch.queued().into_iter().map(|message| message.recipients).collect();
    assert_eq!(left, [[b"run@mx.example".to_vec()]], "{log}");
}

#[test]
fn an_alias_that_leads_through_one_of_a_whole_address_reaches_its_program() {
    let scratch = Scratch::with("allow_mail_to_commands = alias\ndefault_privs = nobody");
    let (program, out) = program(&scratch);
    scratch.write("aliases", &format!("support: tickets\ntickets@mx.example: \"|{program}\"\n"));
    enqueue(&scratch, "alice@mx.example", "support@mx.example");
    let log = scratch.deliver();
    assert!(fs::read_to_string(&out).is_ok_and(|text| text.contains("to:support@mx.example ")), "{log}");
    assert_eq!((scratch.queued(), scratch.texts("alice")), (vec![], vec![]), "{log}");
}

/// A program in an included file does not run, but that of an alias which it names.
#[test]
fn an_included_file_that_names_an_alias_reaches_its_program() {
    let scratch = Scratch::with("allow_mail_to_commands = alias\ndefault_privs = nobody");
    let (program, out) = program(&scratch);
    let members = scratch.path().join("members");
    scratch.write_long_ago("members", &format!("alice\ntickets\n|{program} 0 included\n"));
    scratch.write("aliases", &format!("staff: :include:{}\ntickets: |{program} 0 own\n", members.display()));
    enqueue(&scratch, "", "staff@mx.example");
    let log = scratch.deliver();
    let ran = fs::read_to_string(&out).unwrap_or_default();
    assert!(ran.matches("args:").count() == 1 && ran.starts_with("args:0 own\nto:tickets@mx.example "), "{ran}{log}");
    assert_eq!((counts(&scratch), scratch.queued().len()), ([1, 0, 0], 0), "{log}");
    let ignored = format!("event=alias-target-ignored alias=staff file={} reason=", members.display());
    assert!(log.lines().any(|line| line.contains("id=") && line.contains(&ignored)), "{log}");
}

/// The file may be in the middle of an edit.
#[test]
fn a_program_that_its_alias_names_no_more_is_waited_for() {
    let scratch = Scratch::new();
    let (program, out) = program(&scratch);
    scratch.write("aliases", &format!("run: \"|{program}\"\n"));
    enqueue(&scratch, "alice@mx.example", "run@mx.example");
    scratch.deliver();
    scratch.write("aliases", "# none\n");
    scratch.configure("allow_mail_to_commands = alias\ndefault_privs = nobody");
    let again = |scratch: &Scratch| {
        let id = scratch.queued().pop().expect("a message").id;
        String::from_utf8(scratch.run("deliver", &[&id], b"").stderr).expect("records")
    };
    let log = again(&scratch);
    assert!(log.contains("status=deferred") && !out.exists(), "{log}");
    scratch.write("aliases", &format!("run: \"|{program}\"\n"));
    let log = again(&scratch);
    assert!(out.exists() && scratch.queued().is_empty(), "{log}");
}

#[test]
fn what_a_program_says_counts_and_its_command_is_nobodys_affair() {
    let scratch = Scratch::with("allow_mail_to_commands = alias, forward");
    let (program, out) = program(&scratch);
    let says = scratch.path().join("program-that-says");
    common::write_program(&says, "#!/bin/sh\nprintf 'no\\033[2J \"room\"\\n'; echo today >&2; exit $1\n");
    let says = says.display();
    scratch.write("aliases", &format!("refuse: |{says} 77\nlater: |{says} 75\n"));
    forward(&scratch, "bob", &format!("\"|{program} 0\"\n"));
    for to in ["refuse", "later", "bob"] {
        enqueue(&scratch, "alice@mx.example", &format!("{to}@mx.example"));
    }
    let log = scratch.deliver();
    let report = &scratch.texts("alice")[0];
    assert!(report.contains("Final-Recipient: rfc822; refuse@mx.example\nAction: failed\nStatus: 5.7.0\n"), "{report}");
    let said = "no\\x1b[2J \"room\" / today";
    assert!(report.contains(&format!("the program for this address: {said}\n")), "{report}");
    assert!(!report.contains("/program"), "{report}");
    let waiting = scratch.queued();
    assert_eq!(waiting.len(), 1, "what may be better later waits");
    // Once: what is `\x1b` in the report is that in a record.
    let recorded = |text: &str| format!("\"{}\"", text.replace('"', "\\\""));
    let record = format!(" event=program-failed status=\"exit status: 75\" said={}\n", recorded(said));
    let whose = format!("id={} to=<later@mx.example> user=", waiting[0].id);
    assert!(log.lines().any(|line| line.contains(&whose) && format!("{line}\n").ends_with(&record)), "{log}");
    let reason = format!("4.3.0 the program for this address did not end well: {said}");
    assert!(log.contains(&format!(" reason={}\n", recorded(&reason))), "{log}");
    let ran = fs::read_to_string(out).unwrap();
    assert!(ran.contains("to:bob@mx.example") && scratch.mail("bob").is_empty(), "{ran}");
}

/// An address that looks like a mark is only an address where it came from outside.
#[test]
fn no_address_from_outside_reaches_a_program_a_file_or_a_mailbox_past_its_alias() {
    let scratch = Scratch::with("allow_mail_to_commands = alias, forward\nallow_mail_to_files = alias, forward");
    let (program, out) = program(&scratch);
    let file = scratch.path().join("archive");
    scratch.write("aliases", &format!("bob: alice\nrun: |{program}\n"));
    for to in [
        format!("|{program}"),
        file.display().to_string(),
        "\\bob".into(),
        "~bob".into(),
        ":include:/etc/passwd".into(),
    ] {
        enqueue(&scratch, "", &format!("{to}@mx.example"));
    }
    scratch.deliver();
    assert_eq!(counts(&scratch), [0, 0, 0]);
    assert!(!out.exists() && !file.exists());
}

#[test]
fn postmaster_is_kept_where_nobody_is_and_root_is_not() {
    let scratch = Scratch::new();
    let kept = || fs::read_dir(scratch.queue().join("postmaster/new")).map_or(0, Iterator::count);
    enqueue(&scratch, "alice@mx.example", "postmaster@mx.example");
    scratch.deliver();
    assert_eq!(kept(), 1);
    scratch.write("aliases", "postmaster: root\n");
    enqueue(&scratch, "alice@mx.example", "postmaster@mx.example");
    enqueue(&scratch, "alice@mx.example", "root@mx.example");
    scratch.deliver();
    assert_eq!((kept(), scratch.mail("alice").len()), (2, 1));
    // Reports come from there, and it is postmaster's.
    let before = kept();
    enqueue(&scratch, "alice@mx.example", "MAILER-DAEMON@mx.example");
    scratch.deliver();
    let log = scratch.deliver();
    assert_eq!(kept(), before + 1, "{log}");
    scratch.write("aliases", "postmaster: root\nroot: bob\n");
    enqueue(&scratch, "alice@mx.example", "postmaster@mx.example");
    scratch.deliver();
    assert_eq!((kept(), scratch.mail("bob").len()), (before + 1, 1));
}

#[test]
fn a_repeat_after_a_crash_expands_nothing_twice() {
    let scratch = Scratch::new();
    scratch.write("aliases", "all: alice, bob\n");
    let id = enqueue(&scratch, "", "all@mx.example");
    let file = scratch.queue().join("message").join(&id.as_str()[14..]).join(id.as_str());
    let saved = fs::read(&file).unwrap();
    // What the alias stands for is queued, but cannot be delivered; then the note of it is lost.
    fs::write(scratch.maildir("alice"), "no folder").unwrap();
    fs::write(scratch.maildir("bob"), "no folder").unwrap();
    scratch.deliver();
    assert_eq!(scratch.queued().len(), 1);
    fs::write(&file, saved).unwrap();
    scratch.hand_over(&file);
    for user in ["alice", "bob"] {
        fs::remove_file(scratch.maildir(user)).unwrap();
    }
    scratch.deliver();
    for message in scratch.queued() {
        scratch.run("deliver", &[&message.id], b"");
    }
    assert_eq!(counts(&scratch), [1, 1, 0]);
}

#[test]
fn what_the_sender_wants_to_hear_goes_with_the_mail() {
    let scratch = Scratch::new();
    scratch.write("aliases", "one: bob\nboth: bob, carol\nlist: bob\nowner-list: carol\n");
    let wanted = |to| [(to, "NOTIFY=SUCCESS ORCPT=rfc822;first+40x.example")];
    for to in ["one@mx.example", "both@mx.example", "list@mx.example"] {
        enqueue_with(&scratch, "alice@mx.example", &wanted(to), "ENVID=abc+2Bd");
    }
    scratch.deliver();
    let mut reports = scratch.texts("alice");
    reports.sort_by_key(|report| report.contains("Action: delivered"));
    assert_eq!(reports.len(), 3, "{reports:#?}");
    let has = |text: &str| reports.iter().filter(|report| report.contains(text)).count();
    assert_eq!(has("\nOriginal-Envelope-Id: abc+d\n"), 3);
    assert_eq!(has("\nOriginal-Recipient: rfc822; first@x.example\n"), 3);
    assert_eq!(has("Final-Recipient: rfc822; bob@mx.example\nAction: delivered\nStatus: 2.0.0\n"), 1);
    assert_eq!(has("Final-Recipient: rfc822; both@mx.example\nAction: expanded\nStatus: 2.0.0\n"), 1);
    assert_eq!(has("Final-Recipient: rfc822; list@mx.example\nAction: delivered\nStatus: 2.0.0\n"), 1);
}

/// Its message would come twice, and a third time.
#[test]
fn as_root_a_program_may_run_longer_than_ipc_timeout() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::with("allow_mail_to_commands = alias\ndefault_privs = nobody\nipc_timeout = 3s");
    let (path, out) = (scratch.path().join("slow"), scratch.path().join("out"));
    common::write_program(&path, &format!("#!/bin/sh\nsleep 5\necho line >> {}\n", out.display()));
    fs::write(&out, "").unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o666)).unwrap();
    scratch.write("aliases", &format!("slow: \"|{}\"\n", path.display()));
    enqueue(&scratch, "alice@mx.example", "slow@mx.example");
    let log = scratch.deliver();
    assert_eq!((fs::read_to_string(&out).unwrap().as_str(), scratch.queued().len()), ("line\n", 0), "{log}");
}

#[test]
fn as_root_a_forward_file_is_read_and_its_program_runs_as_the_user() {
    if !common::needs::root() {
        return;
    }
    let scratch =
        Scratch::with("allow_mail_to_commands = forward, alias\nallow_mail_to_files = forward\ndefault_privs = games");
    let home = scratch.path().join("dave");
    fs::create_dir(&home).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&home, Some(4242), Some(4242)).unwrap();
    scratch.write(
        "passwd",
        &format!(
            "alice:{{PLAIN}}x::::/nowhere::\ndave:{{PLAIN}}x:4242:4242::{0}::mailbox=maildir:{0}/Maildir\n",
            home.display()
        ),
    );
    let own = |name: &str, text: &str| {
        fs::write(home.join(name), text).unwrap();
        chown(home.join(name), Some(4242), Some(4242)).unwrap();
    };
    own(".forward", &format!("|/usr/bin/tee {0}/out, alice, {0}/box, \\dave\n", home.display()));
    enqueue(&scratch, "", "dave@mx.example");
    let log = scratch.deliver();
    for file in ["out", "box"] {
        let status = fs::metadata(home.join(file)).unwrap_or_else(|error| panic!("{file}: {error}: {log}"));
        assert_eq!((status.uid(), status.gid()), (4242, 4242), "{file}");
    }
    assert_eq!(fs::read_dir(home.join("Maildir/new")).unwrap().count(), 1);
    assert_eq!(scratch.mail("alice").len(), 1);
    // A link of somebody else's, and a file that anybody may write, are as good as none.
    fs::write(scratch.path().join("foreign"), "alice\n").unwrap();
    fs::remove_file(home.join(".forward")).unwrap();
    std::os::unix::fs::symlink(scratch.path().join("foreign"), home.join(".forward")).unwrap();
    std::os::unix::fs::lchown(home.join(".forward"), Some(4343), Some(4343)).unwrap();
    enqueue(&scratch, "", "dave@mx.example");
    scratch.deliver();
    assert_eq!((scratch.mail("alice").len(), fs::read_dir(home.join("Maildir/new")).unwrap().count()), (1, 2));
    // What the alias file runs has the rights of default_privs, and no way to the queue.
    let out = scratch.path().join("alias-out");
    fs::write(&out, "").unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o666)).unwrap();
    let script = scratch.path().join("who");
    common::write_program(
        &script,
        &format!(
            "#!/bin/sh\nid -un >> {}\nls {} >/dev/null && exit 75\nexit 0\n",
            out.display(),
            scratch.queue().display()
        ),
    );
    scratch.write("aliases", &format!("who: |{}\n", script.display()));
    enqueue(&scratch, "", "who@mx.example");
    let log = scratch.deliver();
    assert_eq!(fs::read_to_string(out).unwrap(), "games\n", "{log}");
    assert!(scratch.queued().is_empty(), "{log}");
}

/// As many programs as a user has addresses, and none of them ends before the other user has his mail.
#[test]
fn a_user_whose_deliveries_take_long_keeps_no_other_user_waiting() {
    let settings = "recipient_delimiter = +\nallow_mail_to_commands = forward\ndefault_process_limit = 5";
    let scratch = Scratch::with(settings);
    let (folder, end) = (scratch.path().join("started"), scratch.path().join("end"));
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let script = scratch.path().join("slow");
    let text = format!("#!/bin/sh\n: >{}/$1\nuntil [ -e {} ]; do sleep 0.05; done\n", folder.display(), end.display());
    common::write_program(&script, &text);
    for number in 0..8 {
        forward(&scratch, "bob", "");
        fs::write(
            scratch.path().join(format!("home/bob/.forward+{number}")),
            format!("|{} {number}\n", script.display()),
        )
        .unwrap();
        scratch.hand_over(&scratch.path().join("home"));
        enqueue(&scratch, "", &format!("bob+{number}@mx.example"));
    }
    let _watching = Watching::start(&scratch);
    let started = || fs::read_dir(&folder).unwrap().count();
    until("as many as may", || started() >= 4);
    // Time enough for one more.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let id = enqueue(&scratch, "", "alice@mx.example");
    Queue::at(&scratch.queue()).wake_for(&id);
    until("the other user's mail", || scratch.mail("alice").len() == 1);
    assert_eq!(started(), 4);
    fs::write(&end, "").unwrap();
    until("the others", || started() == 8 && scratch.queued().is_empty());
}
