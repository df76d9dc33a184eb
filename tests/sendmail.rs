//! submit under its other names, by the real binary: sendmail, newaliases, qmail-queue.

mod common;

use common::delivering::take;
use common::hops::Hop;
use common::local::{as_user, drop_folder, files, named, said, sendmail};
use common::{Scratch, feed};
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

#[test]
fn a_filter_that_calls_sendmail_does_not_take_requiretls_away() {
    let scratch = Scratch::new();
    for (said, expected) in [("BODY=8BITMIME REQUIRETLS", "REQUIRETLS|"), ("nonsense", "|")] {
        let mut command = named(&scratch, "sendmail", &["-f", "alice@mx.example", "bob@mx.example"]);
        command.env("DOORPOST_PARAMETERS", said);
        let output = feed(&mut command, b"Subject: x\n\nhello\n");
        let queued = scratch.queued();
        assert_eq!(queued.last().map(|message| message.parameters.as_str()), Some(expected), "{}", self::said(&output));
        fs::remove_dir_all(scratch.queue().join("message")).unwrap();
    }
}

fn content(scratch: &Scratch) -> String {
    let queued = scratch.queued();
    assert_eq!(queued.len(), 1, "{queued:?}");
    String::from_utf8(queued[0].content().to_vec()).unwrap()
}

fn recipients(scratch: &Scratch) -> Vec<String> {
    let queued = scratch.queued();
    queued.iter().flat_map(|message| &message.recipients).map(|to| String::from_utf8_lossy(to).into_owned()).collect()
}

#[test]
fn a_message_from_cron_gets_what_it_lacks_and_nothing_is_said() {
    let scratch = Scratch::new();
    let output = sendmail(
        &scratch,
        &["-i", "-FCronDaemon", "-B8BITMIME", "-oem", "root"],
        "From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@mx> backup\n\n.\nall well\n",
    );
    assert_eq!((output.status.code(), said(&output)), (Some(0), String::new()));
    let text = content(&scratch);
    let start = "From: root@mx.example (Cron Daemon)\nTo: root@mx.example\nSubject: Cron <root@mx> backup\nDate: ";
    assert!(text.starts_with(start), "{text}");
    assert!(text.contains("\nMessage-ID: <") && text.ends_with("\n\n.\nall well\n"), "{text}");
    assert_eq!(recipients(&scratch), ["root@mx.example"]);
}

#[test]
fn with_t_recipients_come_from_the_header_and_bcc_goes() {
    let scratch = Scratch::new();
    let input = "To: Bob <bob@mx.example>, carol\nCc: x@elsewhere.example\nBcc: secret@elsewhere.example\n\
                 Subject: y\n\nbody\n.\nnot this\n";
    let output = sendmail(&scratch, &["-t", "-f", "alice@mx.example", "dave@mx.example", "bob@mx.example"], input);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let expected =
        ["dave@mx.example", "bob@mx.example", "carol@mx.example", "x@elsewhere.example", "secret@elsewhere.example"];
    assert_eq!(recipients(&scratch), expected);
    let text = content(&scratch);
    assert!(!text.contains("secret") && !text.contains("not this"), "{text}");
    assert!(text.contains("\nFrom: alice@mx.example\n"), "{text}");
    assert_eq!(scratch.queued()[0].reverse_path, b"alice@mx.example");
}

#[test]
fn what_is_said_about_notices_lies_in_the_queue() {
    let scratch = Scratch::new();
    let output =
        sendmail(&scratch, &["-N", "success,delay", "-R", "hdrs", "-V", "a b", "-v", "--", "bob"], "Subject: x\n\n");
    assert!(said(&output).starts_with("queued as "), "{output:?}");
    let message = take(&scratch, &scratch.queued()[0].id.parse().unwrap());
    assert_eq!(message.parameters.to_string(), "RET=HDRS ENVID=a+20b");
    assert_eq!(message.recipients[0].parameters.to_string(), "NOTIFY=SUCCESS,DELAY");
}

#[test]
fn with_xv_each_recipient_has_a_sender_of_his_own() {
    let input = "From: owner@mx.example\nSubject: x\n\n";
    for (option, from, sender) in
        [("-XV", "list", "list+@mx.example-@[]"), ("-XV-=", "<owner-list@mx.example>", "owner-list-@mx.example-@[]")]
    {
        let scratch = Scratch::new();
        let output = sendmail(&scratch, &[option, "-f", from, "bob", "carol"], input);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(scratch.queued()[0].reverse_path, sender.as_bytes());
        scratch.deliver();
        for user in ["bob", "carol"] {
            let expanded = sender.replace("@mx.example-@[]", &format!("{user}=mx.example@mx.example"));
            let text = &scratch.texts(user)[0];
            assert!(text.starts_with(&format!("Return-Path: <{expanded}>\n")), "{text}");
            assert!(text.contains("\nFrom: owner@mx.example\n"), "{text}");
        }
    }
    let scratch = Scratch::with("verp_delimiter_filter = +=");
    for (option, from) in [("-XV-=", "list"), ("-XV+-", "list"), ("-XV", "<>"), ("-XV", "a@b@mx.example")] {
        let output = sendmail(&scratch, &[option, "-f", from, "bob"], input);
        assert_eq!(output.status.code(), Some(64), "{option} {from}: {output:?}");
    }
    assert!(scratch.queued().is_empty());
}

#[test]
fn who_is_named_in_two_ways_gets_one_copy() {
    let names = ["bob", "Bob@mx.example", "bob@MX.example", "<bob@mx.example>", "bob+x", "bob@elsewhere.example"];
    for name in ["sendmail", "submit"] {
        let scratch = Scratch::new();
        let output = feed(&mut named(&scratch, name, &names), b"Subject: x\n\n");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(recipients(&scratch), ["bob@mx.example", "bob+x@mx.example", "bob@elsewhere.example"], "{name}");
    }
}

/// PHP writes To and Subject with LF, what a script gives it with CR LF, and LF again.
#[test]
fn line_ends_of_two_kinds_are_one_kind_in_the_queue() {
    let scratch = Scratch::new();
    let text = "To: bob\nSubject: x\nX-One: 1\r\nFrom: www@mx.example\r\nX-Two: 2\r\n\r\nhello\r\nthere\n";
    assert!(sendmail(&scratch, &["-t", "-i"], text).status.success());
    let text = content(&scratch);
    let start = "To: bob@mx.example\nSubject: x\nX-One: 1\nFrom: www@mx.example\nX-Two: 2\nDate: ";
    assert!(text.starts_with(start) && text.ends_with("\n\nhello\nthere\n") && !text.contains('\r'), "{text}");
}

#[test]
fn an_address_that_is_none_is_shown_as_it_was_written() {
    use std::os::unix::ffi::OsStrExt;
    let scratch = Scratch::new();
    for (input, shown) in [("To: a b c\n\n", "instead of a b c"), ("To: \"Bob, x@y.example\n\n", "\"Bob, x@y.example")]
    {
        let output = sendmail(&scratch, &["-t"], input);
        assert!(output.status.code() == Some(65) && said(&output).contains(shown), "{output:?}");
    }
    let latin = std::ffi::OsStr::from_bytes(b"j\xf6rg@mx.example");
    for before in [&[][..], &["bob", "-f"]] {
        let output = feed(named(&scratch, "sendmail", before).arg(latin), b"x\n");
        assert_eq!(output.status.code(), Some(65), "{output:?}");
    }
    assert!(scratch.queued().is_empty());
    let output = feed(&mut named(&scratch, "newaliases", &["/etc/aliases"]), b"");
    assert_eq!(output.status.code(), Some(64), "{output:?}");
}

#[test]
fn mistakes_have_the_statuses_of_sysexits_and_queue_nothing() {
    let scratch = Scratch::with("message_size_limit = 1000\nhopcount_limit = 3");
    let large = format!("Subject: x\n\n{}", "a line of text\n".repeat(1000));
    let hops = "Received: a\nReceived: b\nReceived: c\n\n";
    for (arguments, input, status) in [
        (&["-Z"][..], "", 64),
        (&[], "Subject: x\n\n", 64),
        (&["-t"], "Subject: x\n\n", 64),
        (&["-t"], "To: a b c\n\n", 65),
        (&["a b"], "x\n", 65),
        (&["-bd"], "", 64),
        (&["bob"], &large, 69),
        (&["bob"], hops, 69),
        (&["-C", "/no/such/folder", "bob"], "x\n", 78),
    ] {
        let output = sendmail(&scratch, arguments, input);
        assert_eq!(output.status.code(), Some(status), "{arguments:?} {output:?}");
    }
    assert!(scratch.queued().is_empty());
    fs::remove_dir_all(scratch.queue()).unwrap();
    fs::write(scratch.queue(), "").unwrap();
    let output = sendmail(&scratch, &["bob"], "x\n");
    assert_eq!(output.status.code(), Some(75), "{output:?}");
}

/// Without `-G` what comes back from the filter would go there again, without end.
#[test]
fn with_g_a_message_goes_to_the_content_filter_no_more_if_its_sender_may_write_the_queue() {
    let hop = Hop::friendly();
    let scratch = Scratch::with(&format!("content_filter = smtp:{}", hop.name()));
    let mut seen = Vec::new();
    let mut send = |command: &mut Command| {
        assert!(feed(command, b"To: bob\n\nbody\n").status.success());
        scratch.deliver();
        seen.push((hop.taken().len(), scratch.mail("bob").len()));
    };
    send(&mut named(&scratch, "sendmail", &["bob"]));
    send(&mut named(&scratch, "sendmail", &["-G", "bob"]));
    assert!(scratch.texts("bob")[0].contains("\nTo: bob\n"), "its header is left as it was");
    if common::needs::root() {
        drop_folder(&scratch);
        send(&mut as_user(named(&scratch, "sendmail", &["-G", "bob"])));
        assert_eq!(seen.pop(), Some((2, 1)), "whoever cannot write the queue may not say so");
    }
    assert_eq!(seen, [(1, 0), (1, 1)]);
}

#[test]
fn name_kind_of_body_and_configuration_are_taken_from_the_command_line() {
    let scratch = Scratch::new();
    for (name, from) in [("Alice A", "Alice A"), ("Doe, A.", "\"Doe, A.\"")] {
        let words = ["-F", name, "-f", "alice@mx.example", "-B8BITMIME", "bob"];
        assert!(sendmail(&scratch, &words, "Subject: x\n\n").status.success());
        let text = content(&scratch);
        assert!(text.contains(&format!("\nFrom: {from} <alice@mx.example>\n")), "{text}");
        assert_eq!(scratch.queued()[0].parameters, "BODY=8BITMIME|");
        fs::remove_dir_all(scratch.queue().join("message")).unwrap();
    }
    assert!(sendmail(&scratch, &["-B", "7bit", "bob"], "From: other@mx.example\n\n").status.success());
    assert_eq!(scratch.queued()[0].parameters, "|");
    let other = Scratch::new();
    let file = other.path().join("main.cf");
    for place in [file.to_str().unwrap(), other.path().to_str().unwrap()] {
        assert!(sendmail(&scratch, &["-C", place, "bob"], "x\n").status.success());
        let output = feed(&mut named(&scratch, "newaliases", &["-C", place]), b"");
        assert!(said(&output).starts_with(other.path().to_str().unwrap()), "{output:?}");
    }
    let mut beside = named(&scratch, "sendmail", &["-C", "main.cf", "bob"]);
    assert!(feed(beside.current_dir(other.path()), b"x\n").status.success());
    assert_eq!((scratch.queued().len(), other.queued().len()), (1, 3));
}

/// What sendmail's page calls them does not matter: programs say them, and mean nothing that would change here.
#[test]
fn letters_that_mean_nothing_here_are_passed_over_with_their_values() {
    let scratch = Scratch::new();
    let log = scratch.path().join("traffic");
    let words = "-Ac -d0.1 -em -h 5 -L tag -Mx -m -n -O X=y -odb -p smtp -s -T -U -w -x -q15m -X";
    let words: Vec<&str> = words.split(' ').chain([log.to_str().unwrap(), "--", "bob"]).collect();
    let output = sendmail(&scratch, &words, "Subject: x\n\nbody\n");
    assert_eq!((output.status.code(), said(&output)), (Some(0), String::new()));
    assert_eq!((recipients(&scratch), &*scratch.queued()[0].parameters), (vec!["bob@mx.example".to_owned()], "|"));
    assert!(content(&scratch).ends_with("\nbody\n") && !log.exists());
}

#[test]
fn with_bs_it_speaks_smtp_for_this_machine() {
    let scratch = Scratch::new();
    let dialogue = "EHLO localhost\r\nMAIL FROM:<alice@mx.example>\r\nRCPT TO:<x@elsewhere.example>\r\n\
                    RCPT TO:<bob@mx.example>\r\nDATA\r\nSubject: x\r\n\r\n..dot\r\n.\r\nQUIT\r\n";
    let output = sendmail(&scratch, &["-bs"], dialogue);
    let said = said(&output);
    assert!(said.contains("\r\n250 2.0.0 ") && said.contains("\r\n221 "), "{said}");
    assert_eq!(content(&scratch), "Subject: x\n\n.dot\n");
    assert_eq!(recipients(&scratch).len(), 2);
}

#[test]
fn bv_says_what_would_become_of_an_address_and_bi_checks_the_aliases() {
    let scratch = Scratch::new();
    scratch.write("aliases", "list: bob\n");
    let output = sendmail(&scratch, &["-bv", "list", "bob"], "");
    assert_eq!((output.status.code(), said(&output)), (Some(0), "list: deliverable\nbob: deliverable\n".to_owned()));
    let output = sendmail(&scratch, &["-bv", "nobody-here"], "");
    assert!(output.status.code() == Some(65) && said(&output).starts_with("nobody-here: nobody here has that name\n"));
    for (name, arguments) in [("sendmail", &["-bi"][..]), ("sendmail", &["-I"]), ("newaliases", &[])] {
        let output = feed(&mut named(&scratch, name, arguments), b"");
        assert!(output.status.success() && said(&output).contains(": 1 aliases; "), "{output:?}");
    }
    scratch.write("aliases", "list: bob\nwrong\n");
    let output = feed(&mut named(&scratch, "newaliases", &[]), b"");
    assert!(
        output.status.code() == Some(78) && said(&output).contains("/aliases:2: expected NAME: TARGET"),
        "{output:?}"
    );
    // A file that cannot be read hides nothing of the others.
    let scratch = Scratch::with("alias_maps = $config_directory/a, $config_directory/none, $config_directory/more");
    ["a", "more"].iter().for_each(|name| scratch.write(name, "bob: carol\nwrong\n"));
    let output = feed(&mut named(&scratch, "newaliases", &[]), b"");
    let told = ["/a:2: ", "/none: expected a readable file", "/more: 1 aliases; ", "/more:2: "];
    assert!(told.iter().all(|told| said(&output).contains(told)) && output.status.code() == Some(78), "{output:?}");
}

/// Its exit status with this message and envelope.
fn qmail_queue(scratch: &Scratch, mut command: Command, message: &[u8], envelope: &[u8]) -> Option<i32> {
    let path = scratch.path().join("envelope");
    fs::write(&path, envelope).unwrap();
    command.stdin(Stdio::piped()).stdout(fs::File::open(&path).unwrap()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(message);
    child.wait_with_output().unwrap().status.code()
}

#[test]
fn qmail_queue_takes_message_and_envelope_and_says_nothing() {
    let scratch = Scratch::new();
    let run =
        |message: &[u8], envelope: &[u8]| qmail_queue(&scratch, named(&scratch, "qmail-queue", &[]), message, envelope);
    assert_eq!(run(b"Subject: x\r\n\nbody", b"Fa@x.example\0Tbob@mx.example\0Tcarol@mx.example\0\0"), Some(0));
    assert_eq!(content(&scratch), "Subject: x\r\n\nbody");
    assert_eq!(recipients(&scratch), ["bob@mx.example", "carol@mx.example"]);
    for (envelope, status) in [
        (&b"Fa@x.example\0Tbob@mx.example\0"[..], 54),
        (b"X\0\0", 91),
        (b"Fa@x.example\0\0", 91),
        (b"XXXXXXXXX", 91),
        (&[&b"F\0T"[..], &[b'a'; 1001], b"\0\0"].concat(), 11),
        (&[&b"F"[..], &[b'a'; 1001], b"\0Tbob\0\0"].concat(), 11),
        (&[&b"F\0T"[..], &[b'a'; 1100], b"\0\0"].concat(), 11),
        // So are those to which a domain is added.
        (&[&b"F\0T"[..], &[b'a'; 1000], b"\0\0"].concat(), 11),
        (&[&b"F"[..], &[b'a'; 1000], b"\0Tbob\0\0"].concat(), 11),
    ] {
        assert_eq!(run(b"x\n", envelope), Some(status), "{envelope:?}");
    }
    assert_eq!(scratch.queued().len(), 1);
    fs::remove_dir_all(scratch.queue()).unwrap();
    fs::write(scratch.queue(), "").unwrap();
    assert_eq!(run(b"x\n", b"F\0Tbob\0\0"), Some(53));
}

#[test]
fn qmail_queue_tells_what_is_refused_for_good_wrong_and_not_there_by_its_status() {
    let scratch = Scratch::with("hopcount_limit = 3\nmessage_size_limit = 1000");
    let run = |command: Command, message: &[u8]| qmail_queue(&scratch, command, message, b"Fa@x\0Tbob\0\0");
    let ours = || named(&scratch, "qmail-queue", &[]);
    let hops = |count: usize| "Received: x\n".repeat(count) + "\nbody\n";
    assert_eq!(run(ours(), hops(1).as_bytes()), Some(0));
    assert_eq!(run(ours(), hops(2).as_bytes()), Some(31), "ours is the third");
    assert_eq!(run(ours(), "a line\n".repeat(1000).as_bytes()), Some(31));
    if common::needs::root() {
        assert_eq!(run(as_user(ours()), b"x\n"), Some(61), "there is no drop folder");
        drop_folder(&scratch);
        assert_eq!(run(as_user(ours()), b"x\n"), Some(0));
    }
    for (name, text) in [("channels", "local nonsense\n"), ("main.cf", "soft_bounce = perhaps\n")] {
        scratch.write(name, text);
        assert_eq!(run(ours(), b"x\n"), Some(55), "{name}");
    }
    assert_eq!(scratch.queued().len(), 1);
}

/// Cron keeps nothing: what may go anywhere is taken though nobody can say by which way it leaves.
#[test]
fn a_wrong_channels_file_loses_nothing_that_is_handed_in_on_this_machine() {
    let scratch = Scratch::new();
    scratch.write("channels", "local nonsense\n");
    for (name, arguments) in [("sendmail", &["bob"][..]), ("submit", &["bob"])] {
        let output = feed(&mut named(&scratch, name, arguments), b"Subject: x\n\nbody\n");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    assert_eq!(scratch.queued().len(), 2);
    // A client of SMTP is told before it says anything, and keeps its mail.
    assert_eq!(sendmail(&scratch, &["-bs"], "EHLO here\r\nQUIT\r\n").status.code(), Some(78));
    if common::needs::root() {
        let folder = drop_folder(&scratch);
        let output = feed(&mut as_user(named(&scratch, "sendmail", &["bob"])), b"Subject: x\n\nbody\n");
        assert_eq!((output.status.code(), files(&folder).len()), (Some(0), 1), "{output:?}");
    }
    fs::remove_file(scratch.path().join("channels")).unwrap();
    let log = scratch.deliver();
    assert_eq!(scratch.mail("bob").len(), if common::needs::root() { 3 } else { 2 }, "{log}");
}
