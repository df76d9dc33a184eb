//! deliver, by its program: what arrives and where, what is tried again, and what it says of itself.

mod common;

use common::delivering::*;
use common::enqueue::TRACE;
use common::relaying::TEXT;
use common::{NOBODY, Scratch};
use doorpost::queue::{Id, RecipientState};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

#[test]
fn return_path_is_the_first_line_and_the_rest_is_octet_for_octet() {
    let scratch = Scratch::new();
    let content = b"Return-Path: <forged@mx.example>\nSubject: \xe4\n\n.dot\n\0\x1b\nno line end";
    scratch.enqueue_from("a b@mx.example", &["alice@mx.example", "bob@MX.example"], content);
    scratch.deliver();
    let expected = [b"Return-Path: <\"a b\"@mx.example>\n", TRACE.as_bytes(), content].concat();
    assert_eq!([scratch.mail("alice"), scratch.mail("bob")].concat(), [expected.clone(), expected]);
    assert_eq!(scratch.files().len(), 0);
}

/// RFC 3030 section 3: what announces itself as binary is most often text.
#[test]
fn text_that_came_as_binary_is_stored_like_other_text_and_what_is_binary_as_it_came() {
    for (body, end) in [("hello", "\n"), ("a\0b", "\r\n")] {
        let scratch = Scratch::new();
        let path = |name: &str| scratch.path().join(name).display().to_string();
        let lines =
            format!("local - mx.example mailbox: *\npipe - pipe.example \"pipe:/bin/sh {}\" *\n", path("program"));
        scratch.write("channels", &lines);
        scratch.write("program", &format!("cat >{}\n", path("piped")));
        scratch.write("aliases", &format!("file: {}\n", path("box")));
        scratch.configure("allow_mail_to_files = alias");
        let content = format!("Subject: x\r\n\r\n{body}\r\n");
        let to = [("bob@mx.example", ""), ("x@pipe.example", ""), ("file@mx.example", "")];
        scratch.enqueue_with(("alice@mx.example", "BODY=BINARYMIME"), &to, content.as_bytes());
        let log = scratch.deliver() + &scratch.deliver();
        let kept = format!("{TRACE}Subject: x\n\n{body}\n").replace('\n', end);
        let expected = format!("Return-Path: <alice@mx.example>\n{kept}");
        assert_eq!(scratch.texts("bob"), std::slice::from_ref(&expected), "{log}");
        let entry = fs::read_dir(scratch.maildir("bob").join("new")).unwrap().next().unwrap().unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert!(name.contains(&format!(",S={},", expected.len())), "{name}");
        assert_eq!(fs::read_to_string(path("piped")).unwrap(), expected, "{log}");
        let box_of_alias = fs::read_to_string(path("box")).unwrap();
        assert_eq!(box_of_alias.contains('\r'), end.contains('\r'), "{box_of_alias:?} {log}");
        assert!(box_of_alias.ends_with(&format!("{kept}\n")), "{box_of_alias:?}");
    }
}

#[test]
fn a_name_in_the_maildir_fits_a_unique_id_and_carries_its_sizes() {
    let scratch = Scratch::with("myhostname = a-very-long-name-of-a-host.mx.example");
    let id = scratch.enqueue_from("", &["alice"], b"text\n");
    scratch.deliver();
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
    let id = scratch.enqueue_from("", &["alice@mx.example", "bob@mx.example"], b"text\n");
    let file = scratch.queue().join("message").join(&id.as_str()[14..]).join(id.as_str());
    let saved = fs::read(&file).unwrap();
    scratch.deliver();
    assert_eq!((scratch.mail("alice").len(), scratch.mail("bob").len()), (1, 1));
    // As if it had crashed before it noted anything (alice), and after the mail was moved on (bob).
    fs::write(&file, saved).unwrap();
    let new = fs::read_dir(scratch.maildir("bob").join("new")).unwrap().next().unwrap().unwrap();
    let moved = format!("{}:2,S", new.file_name().into_string().unwrap());
    fs::rename(new.path(), scratch.maildir("bob").join("cur").join(moved)).unwrap();
    take(&scratch, &id).mark(1, RecipientState::Trying, "", true).unwrap();
    scratch.hand_over(&file);
    scratch.deliver();
    assert_eq!((scratch.mail("alice").len(), scratch.mail("bob").len()), (1, 1));
    assert_eq!(scratch.files().len(), 0);
}

#[test]
fn what_a_writer_that_died_has_left_does_not_keep_a_sweep_going() {
    let scratch = Scratch::new();
    let id = Id::new(SystemTime::now());
    let folder = scratch.queue().join("message").join(id.folder());
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(id.as_str()), "").unwrap();
    scratch.enqueue(&["bob@mx.example"], b"Subject: x\n\nhello\n");
    scratch.settle();
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
fn a_temporary_failure_waits_for_its_next_try() {
    let scratch = Scratch::with("minimal_backoff_time = 1000s");
    block(&scratch, "bob");
    let start = SystemTime::now();
    let id = scratch.enqueue(&["bob@mx.example", "carol@mx.example"], b"text\n");
    scratch.deliver();
    assert_eq!(scratch.mail("carol").len(), 1);
    assert_eq!(reports(&scratch, &id)[0], "4.2.0 the mailbox cannot be written now");
    let message = take(&scratch, &id);
    assert_eq!((message.recipients[0].state, message.recipients[0].attempts), (RecipientState::Waiting, 1));
    assert_eq!(message.recipients[1].state, RecipientState::Delivered);
    drop(message);
    let wait = next_try(&scratch, &id).duration_since(start).unwrap();
    assert!((1000..1160).contains(&wait.as_secs()), "{wait:?}");
    unblock(&scratch, "bob");
    scratch.deliver();
    assert_eq!((scratch.mail("bob").len(), take(&scratch, &id).recipients[0].attempts), (0, 1));
    deliver_these(&scratch, &[&id]);
    assert_eq!((scratch.mail("bob").len(), scratch.mail("carol").len(), scratch.files().len()), (1, 1, 0));
}

#[test]
fn a_message_that_is_named_and_not_tried_is_told_with_the_reason() {
    let scratch = Scratch::new();
    let (held, locked) = (scratch.enqueue(&["bob@mx.example"], b"1\n"), scratch.enqueue(&["bob@mx.example"], b"2\n"));
    let fine = scratch.enqueue(&["carol@mx.example"], b"3\n");
    take(&scratch, &held).hold(true).unwrap();
    let message = take(&scratch, &locked);
    let of_held = (&held, 65, "is held");
    let of_locked = (&locked, 75, "is at work in another process");
    for (id, status, words) in [of_held, of_locked, (&fine, 65, "is not in the queue")] {
        // The last one of these is delivered by the first, for the others are no reason not to try it.
        let ids = if id == &held { vec![id.as_str(), fine.as_str()] } else { vec![id.as_str()] };
        let output = scratch.run("deliver", &ids, b"");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(log.contains(&format!("error: {id} {words}")) && output.status.code() == Some(status), "{output:?}");
    }
    drop(message);
    assert_eq!((scratch.mail("carol").len(), scratch.mail("bob").len()), (1, 0));
}

#[test]
fn with_soft_bounce_an_unknown_user_waits() {
    let scratch = Scratch::with("soft_bounce = yes");
    let id = scratch.enqueue(&["nobody-here@mx.example"], b"text\n");
    scratch.deliver();
    assert_eq!(reports(&scratch, &id), ["4.1.1 no such user here"]);
    assert_eq!(scratch.mail("alice").len(), 0);
}

#[test]
fn a_domain_that_cannot_be_looked_up_waits_with_a_clear_reason() {
    let scratch = Scratch::with("name_servers = 127.0.0.1:1");
    let id = scratch.enqueue(&["someone@elsewhere.example"], b"text\n");
    scratch.deliver();
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
    scratch.enqueue_from("list-@mx.example-@[]", &["alice@mx.example", "bob@mx.example"], b"text\n");
    scratch.deliver();
    assert!(scratch.texts("alice")[0].starts_with("Return-Path: <list-alice=mx.example@mx.example>\n"));
    assert!(scratch.texts("list")[0].contains("\nTo: <list-bob=mx.example@mx.example>\n"));
}

#[test]
fn two_at_once_deliver_each_message_once() {
    let scratch = Scratch::new();
    for number in 0..40 {
        scratch.enqueue_from("", &["alice@mx.example"], format!("message {number}\n").as_bytes());
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
    assert_eq!((mail.len(), scratch.mail("alice").len(), scratch.files().len()), (40, 40, 0));
}

#[test]
fn wrong_arguments_and_a_queue_of_somebody_else_are_told_by_the_status() {
    let scratch = Scratch::new();
    assert_eq!(scratch.run("deliver", &["no-id"], b"").status.code(), Some(64));
    assert_eq!(scratch.run("deliver", &["--watch", "0123456789abcde"], b"").status.code(), Some(64));
    assert_eq!(scratch.run("deliver", &["0123456789abcde"], b"").status.code(), Some(65));
    scratch.configure("mail_owner = there-is-no-such-user");
    if nix::unistd::geteuid().is_root() {
        assert_eq!(scratch.run("deliver", &[], b"").status.code(), Some(78));
        let mut stranger = scratch.command("deliver");
        assert_eq!(stranger.uid(1).gid(1).output().unwrap().status.code(), Some(77));
    }
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
    let id = scratch.enqueue_from("", &["alice@mx.example"], b"text\n");
    let mut message = take(&scratch, &id);
    message.defer_until(SystemTime::now() + Duration::from_secs(3600)).unwrap();
    drop(message);
    scratch.deliver();
    assert_eq!(scratch.mail("alice").len(), 0);
}

#[test]
fn channels_can_discard_refuse_store_and_pipe() {
    let scratch = Scratch::new();
    let path = scratch.path().display().to_string();
    let program = scratch.path().join("program");
    common::write_program(&program, &format!("#!/bin/sh\ncat >{path}/mail/$1\n"));
    scratch.hand_over(&program);
    scratch.write(
        "channels",
        &format!(
            "local - mx.example mailbox: *\nhole - hole.example discard: -\nno - no.example \"error:5.7.1 not here\" -\n\
             all - all.example maildir:{path}/mail/all -\nprog - prog.example \"pipe:{path}/program %n\" -\n"
        ),
    );
    scratch.enqueue(&["a@hole.example", "b@no.example", "c@all.example", "piped@prog.example"], TEXT);
    let log = scratch.deliver();
    for (to, how) in
        [("a@hole", "discarded"), ("c@all", "delivered to maildir"), ("piped@prog", "delivered to command")]
    {
        let record = |line: &str| line.contains(to) && line.ends_with(&format!(" reason=\"2.0.0 {how}\""));
        assert!(log.lines().any(record), "{to}: {log}");
    }
    assert_eq!(log.matches("status=delivered").count(), 4, "three, and the report: {log}");
    assert!(log.contains("to=<b@no.example> status=failed") && log.contains("5.7.1 not here"), "{log}");
    assert!(String::from_utf8_lossy(&scratch.mail("all").concat()).ends_with("\n\n.dot\nhello\n"));
    let piped = fs::read_to_string(scratch.path().join("mail/piped")).expect("what was piped");
    assert!(piped.starts_with("Return-Path: <alice@mx.example>\nReceived: by mx.example\n"), "{piped}");
    assert_eq!((scratch.queued().len(), scratch.mail("alice").len()), (0, 1));
    scratch.enqueue_with(("carol@mx.example", ""), &[("a@hole.example", "NOTIFY=SUCCESS")], TEXT);
    scratch.deliver();
    let report = scratch.texts("carol").concat();
    assert!(report.contains("\n  <a@hole.example>\n    was discarded, as mail for this address is\n"), "{report}");
}

#[test]
fn a_channel_can_lead_into_one_mbox_or_mmdf_file() {
    let scratch = Scratch::new();
    let mail = scratch.path().join("mail");
    let folder = mail.display();
    scratch.write(
        "channels",
        &format!(
            "local - mx.example mailbox: *\nm - mbox.example mbox:{folder}/box.mbox -\n\
             f - mmdf.example mmdf:{folder}/box.mmdf -\n"
        ),
    );
    let content = b"Subject: x\n\nFrom here\n\x01\x01\x01\x01\nend\n";
    for format in ["mbox", "mmdf"] {
        for number in 0..3 {
            let (one, other) = (format!("a{number}@{format}.example"), format!("b{number}@{format}.example"));
            scratch.enqueue(&[&one, &other], content);
        }
    }
    let log = scratch.deliver();
    assert_eq!((log.matches("status=delivered").count(), scratch.queued().len()), (12, 0), "{log}");
    for (format, begin, body, end) in [
        ("mbox", "From alice@mx.example ", "\n>From here\n\x01\x01\x01\x01\nend\n", "\nend\n\n"),
        (
            "mmdf",
            "\x01\x01\x01\x01\nReturn-Path: <alice@mx.example>\n",
            "\nFrom here\n \x01\x01\x01\nend\n",
            "\nend\n\x01\x01\x01\x01\n",
        ),
    ] {
        let file = mail.join(format!("box.{format}"));
        let text = fs::read_to_string(&file).expect("a mailbox");
        assert!(text.starts_with(begin) && text.ends_with(end), "{format}: {text:?}");
        for each in ["Return-Path: <alice@mx.example>\n", " whole  \n", "Subject: x\n", body] {
            assert_eq!(text.matches(each).count(), 6, "{format} {each:?}: {text:?}");
        }
        let facts = fs::metadata(&file).expect("a mailbox");
        assert_eq!(facts.permissions().mode() & 0o777, 0o600, "{format}");
        if nix::unistd::geteuid().is_root() {
            assert_eq!(facts.uid(), NOBODY, "{format}: it belongs to mail_owner");
        }
    }
}
