//! submit under its other names, by the real binary: sendmail, mailq, newaliases, qmail-queue; and the drop folder.

mod common;

use common::hops::Hop;
use common::watching::Watching;
use common::{Scratch, feed, until};
use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// submit under a name.
fn named(scratch: &Scratch, name: &str, arguments: &[&str]) -> Command {
    let mut command = scratch.command("submit");
    command.arg0(format!("/usr/sbin/{name}")).args(arguments);
    command
}

fn sendmail(scratch: &Scratch, arguments: &[&str], input: &str) -> Output {
    feed(&mut named(scratch, "sendmail", arguments), input.as_bytes())
}

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

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
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
    let queue = doorpost::queue::Queue::at(&scratch.queue());
    let message = queue.take(&scratch.queued()[0].id.parse().unwrap()).unwrap().unwrap();
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

/// The drop folder, as the administrator makes it.
fn drop_folder(scratch: &Scratch) -> std::path::PathBuf {
    let folder = scratch.path().join("drop");
    fs::create_dir(&folder).unwrap();
    scratch.hand_over(&folder);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1733)).unwrap();
    folder
}

const USER: u32 = 12_345;

fn as_user(mut command: Command) -> Command {
    command.uid(USER).gid(USER);
    command
}

#[test]
fn a_user_without_any_right_on_the_queue_leaves_mail_in_the_drop_folder() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::new();
    let output = feed(&mut as_user(named(&scratch, "sendmail", &["bob"])), b"Subject: x\n\nbody\n");
    assert_eq!(output.status.code(), Some(77), "there is no drop folder: {output:?}");
    let folder = drop_folder(&scratch);
    for (name, arguments) in [("sendmail", &["-f", "alice@mx.example", "bob"][..]), ("submit", &["bob"])] {
        let output = feed(&mut as_user(named(&scratch, name, arguments)), b"Subject: x\n\nbody\n");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 2);
    assert!(files.iter().all(|file| fs::metadata(file).unwrap().uid() == USER));
    // Nobody else can see what is there, nor take it away.
    let mut ls = Command::new("ls");
    assert!(!ls.arg(&folder).uid(4242).gid(4242).stderr(Stdio::null()).status().unwrap().success());
    let mut rm = Command::new("rm");
    assert!(!rm.arg("-f").arg(&files[0]).uid(4242).gid(4242).stderr(Stdio::null()).status().unwrap().success());
    let log = scratch.deliver();
    assert_eq!(scratch.mail("bob").len(), 2, "{log}");
    assert!(log.contains(&format!("uid={USER} event=taken id=")), "{log}");
    let left = || fs::read_dir(&folder).unwrap().filter(|file| file.as_ref().unwrap().file_name() != "trigger").count();
    assert_eq!(left(), 0);
    let large = format!("Subject: x\n\n{}", "a line of text\n".repeat(1_000_000));
    let output = feed(&mut as_user(named(&scratch, "sendmail", &["bob"])), large.as_bytes());
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert_eq!(left(), 0, "what is refused leaves nothing");
}

/// Files in the drop folder besides the FIFO.
fn files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let paths = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    paths.filter(|path| !path.ends_with("trigger")).collect()
}

/// Who hears "accepted" here hears nothing more: deliver would only set the file aside.
#[test]
fn what_the_queue_would_refuse_is_not_left_in_the_drop_folder() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::with("smtpd_recipient_limit = 100000");
    let folder = drop_folder(&scratch);
    let list = |count: usize| (0..count).map(|number| format!("u{number:05}")).collect::<Vec<_>>().join(", ");
    for (arguments, count) in [(&["-t"][..], 60_000), (&["-t", "-N", "success,delay"], 30_000)] {
        let input = format!("Bcc: {}\nSubject: x\n\n", list(count));
        let output = feed(&mut as_user(named(&scratch, "sendmail", arguments)), input.as_bytes());
        assert_eq!(output.status.code(), Some(69), "{output:?}");
    }
    assert_eq!(files(&folder).len(), 0);
    // What myhostname and parameters add to it counts, to the octet.
    let scratch = Scratch::with("message_size_limit = 31000\ncontent_filter = local:");
    let folder = drop_folder(&scratch);
    let names: Vec<_> = (0..200).map(|number| format!("u{number:02}")).collect();
    let mut taken = Vec::new();
    for length in (1..=1001).step_by(100).chain(417..421) {
        let mut command = as_user(named(&scratch, "submit", &["-f", "alice"]));
        let output = feed(command.args(&names), format!("{}\n", "x".repeat(length)).as_bytes());
        assert!(matches!(output.status.code(), Some(0 | 69)), "{output:?}");
        taken.push(output.status.success());
    }
    assert!(taken.contains(&true) && taken.contains(&false));
    let log = scratch.deliver();
    assert_eq!(files(&folder).len(), 0, "{log}");
}

#[test]
fn what_is_too_large_for_the_drop_folder_fills_neither_disk_nor_memory() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::with("message_size_limit = 1000000");
    let folder = drop_folder(&scratch);
    let mut command = as_user(named(&scratch, "sendmail", &["root"]));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let piece = "y\n".repeat(500_000);
    for _ in 0..50 {
        input.write_all(piece.as_bytes()).unwrap();
    }
    let sizes: Vec<_> = files(&folder).iter().map(|file| fs::metadata(file).unwrap().len()).collect();
    assert_eq!(sizes, [0]);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 24_000, "{peak} kB");
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(69));
    assert_eq!(files(&folder).len(), 0);
}

#[test]
fn what_nobody_of_ours_wrote_into_the_drop_folder_harms_nothing() {
    let scratch = Scratch::new();
    let folder = drop_folder(&scratch);
    let name = |letter: char| folder.join(letter.to_string().repeat(32));
    let frame = |text: &str| format!("{}:{text},", text.len());
    let message =
        |more: &str| format!("{}{more}{}{}{}", frame("Fa@x"), frame("Rbob@mx.example"), frame("Cx\n"), frame("E"));
    fs::write(name('a'), message("")).unwrap();
    fs::write(name('b'), frame("Fa@x")).unwrap();
    fs::write(name('c'), message(&frame("Aexpanded=alias\tx\t\tx@mx.example"))).unwrap();
    fs::write(name('d'), message("") + &frame("Cmore") + &frame("E")).unwrap();
    fs::write(name('e'), "no frames").unwrap();
    // What is behind the brackets would be a parameter for the next host.
    fs::write(name('3'), message("").replace("4:Fa@x", "27:Fa@x> RET=FULL ENVID=forged")).unwrap();
    fs::write(name('4'), message(&frame("F"))).unwrap();
    fs::write(name('5'), message("").replace("4:Fa@x,", "")).unwrap();
    fs::write(name('6'), frame("Fa@x") + "30:Cx\n1:E,").unwrap();
    fs::write(folder.join("other"), message("")).unwrap();
    std::os::unix::fs::symlink(name('a'), name('f')).unwrap();
    fs::hard_link(folder.join("other"), name('0')).unwrap();
    nix::unistd::mkfifo(&name('1'), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    fs::create_dir(name('2')).unwrap();
    for letter in ['a', 'b', 'c', 'd', 'e', '3', '4', '5', '6'] {
        scratch.hand_over(&name(letter));
    }
    let log = scratch.deliver();
    assert_eq!(scratch.mail("bob").len(), 1, "{log}");
    for refused in ["c", "d", "3", "4", "5", "6"] {
        assert!(folder.join(format!("refused.{}", refused.repeat(32))).exists(), "{refused}: {log}");
    }
    for (letter, left) in [('a', false), ('b', true), ('f', true), ('0', true), ('1', true), ('2', true)] {
        assert_eq!(name(letter).symlink_metadata().is_ok(), left, "{letter}: {log}");
    }
}

/// Sparse, and of frames that are whole: what deliver would read of it would keep everybody's mail waiting.
#[test]
fn a_file_that_is_larger_than_any_message_holds_nobody_up() {
    let scratch = Scratch::new();
    let folder = drop_folder(&scratch);
    let path = folder.join("a".repeat(32));
    let file = fs::File::create(&path).unwrap();
    let (frame, count) = (7 + 65_537 + 1, 32_000);
    file.write_all_at(b"4:Fa@x,15:Rbob@mx.example,", 0).unwrap();
    for number in 0..count {
        file.write_all_at(b"65537:C", 26 + number * frame).unwrap();
        file.write_all_at(b",", 26 + (number + 1) * frame - 1).unwrap();
    }
    file.write_all_at(b"1:E,", 26 + count * frame).unwrap();
    assert!(file.metadata().unwrap().len() > 2_000_000_000);
    scratch.hand_over(&path);
    scratch.enqueue(&["bob@mx.example"], b"Subject: x\n\n");
    let begun = std::time::Instant::now();
    let log = scratch.deliver();
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{log}");
    assert_eq!(scratch.mail("bob").len(), 1, "{log}");
    assert!(!path.exists() && folder.join(format!("refused.{}", "a".repeat(32))).exists(), "{log}");
}

/// Who leaves it may make what is in the way of setting it aside. It is read once all the same.
#[test]
fn what_is_refused_and_cannot_be_set_aside_is_removed() {
    let scratch = Scratch::new();
    let folder = drop_folder(&scratch);
    let path = folder.join("a".repeat(32));
    fs::write(&path, "4:Fa@x,1:E,x1:E,").unwrap();
    scratch.hand_over(&path);
    fs::create_dir(folder.join(format!("refused.{}", "a".repeat(32)))).unwrap();
    let log = scratch.deliver();
    assert!(!path.exists() && log.contains("event=refused") && log.contains(" removed="), "{log}");
}

/// What is left there at once is taken at once, a thousand before each look at the queue.
#[test]
fn more_than_a_thousand_files_do_not_wait_for_the_next_run() {
    let scratch = Scratch::with("queue_run_delay = 1h");
    let folder = drop_folder(&scratch);
    for number in 0..1001 {
        let path = folder.join(format!("{number:032x}"));
        fs::write(&path, "1:F,15:Rbob@mx.example,3:Cx\n,1:E,").unwrap();
        scratch.hand_over(&path);
    }
    let mut command = scratch.command("deliver");
    let mut deliver = command.arg("--watch").stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let all_are_there = || scratch.mail("bob").len() == 1001;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(180);
    while !all_are_there() && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let _ = deliver.kill();
    let _ = deliver.wait();
    assert_eq!(scratch.mail("bob").len(), 1001);
}

/// Else it could be one that another message is to have, or have had: of a report, say, which whoever delivers it would then
/// take for delivered.
#[test]
fn whoever_leaves_a_message_in_the_drop_folder_does_not_choose_its_id() {
    let scratch = Scratch::new();
    let folder = drop_folder(&scratch);
    fs::write(scratch.maildir("bob"), "in the way").unwrap();
    let begun = std::time::SystemTime::now() - Duration::from_secs(1);
    for (letter, seconds) in [("a", 1_000_000_000), ("b", 4_000_000_000)] {
        let path = folder.join(letter.repeat(32));
        fs::write(&path, "1:F,15:Rbob@mx.example,3:Cx\n,1:E,").unwrap();
        let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        scratch.hand_over(&path);
    }
    let log = scratch.deliver();
    let queue = doorpost::queue::Queue::at(&scratch.queue());
    let times: Vec<_> = queue.names().unwrap().iter().map(|name| name.id.time()).collect();
    let now = std::time::SystemTime::now();
    assert!(times.len() == 2 && times.iter().all(|time| (begun..=now).contains(time)), "{times:?} {log}");
}

/// It would be taken at each look, without end.
#[test]
fn nothing_is_taken_from_a_drop_folder_where_nothing_can_be_removed() {
    let scratch = Scratch::new();
    let folder = drop_folder(&scratch);
    let path = folder.join("a".repeat(32));
    fs::write(&path, "1:F,15:Rbob@mx.example,3:Cx\n,1:E,").unwrap();
    scratch.hand_over(&path);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1555)).unwrap();
    let mut deliver = scratch.command("deliver").stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    until("its end", || deliver.try_wait().unwrap().is_some() || scratch.mail("bob").len() > 1);
    let _ = deliver.kill();
    let output = deliver.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(scratch.mail("bob").is_empty() && log.contains("nothing is taken from it"), "{log}");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1733)).unwrap();
    scratch.deliver();
    assert!(scratch.mail("bob").len() == 1 && !path.exists());
}

/// Whoever comes before the first deliver may make something of that name.
#[test]
fn what_stands_in_the_place_of_the_fifo_of_the_drop_folder_is_replaced() {
    for kind in ["file", "folder", "fifo"] {
        let scratch = Scratch::with("queue_run_delay = 1h");
        let folder = drop_folder(&scratch);
        let trigger = folder.join("trigger");
        match kind {
            "file" => fs::write(&trigger, "x").unwrap(),
            "folder" => {
                fs::create_dir_all(trigger.join("in it")).unwrap();
                // Nor is it any use to stand where it could be moved to, by all that is known before.
                let number = fs::metadata(&trigger).unwrap().ino();
                for name in ["refused.trigger".to_owned(), format!("refused.trigger.{number}")] {
                    fs::create_dir_all(folder.join(name).join("in the way")).unwrap();
                }
            }
            _ if !common::needs::root() => continue,
            _ => nix::unistd::mkfifo(&trigger, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap(),
        }
        if common::needs::root() {
            std::os::unix::fs::chown(&trigger, Some(USER), Some(USER)).unwrap();
        }
        let watching = Watching::start(&scratch);
        let us = fs::metadata(&folder).unwrap().uid();
        let is_ours = |found: fs::Metadata| found.uid() == us && found.mode() == nix::libc::S_IFIFO | 0o622;
        until("a FIFO of its own", || fs::symlink_metadata(&trigger).is_ok_and(is_ours));
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        let kept = entries.filter(|path| path.join("in it").is_dir()).count();
        assert_eq!(kept, usize::from(kind == "folder"), "what was in it is there still");
        watching.terminate();
    }
}

#[test]
fn mailq_lists_text_and_json_and_the_tool_holds_releases_requeues_and_deletes() {
    let scratch = Scratch::new();
    let empty = feed(&mut named(&scratch, "mailq", &[]), b"");
    assert_eq!(said(&empty), "Mail queue is empty\n");
    fs::write(scratch.maildir("bob"), "in the way").unwrap();
    sendmail(&scratch, &["-f", "alice@mx.example", "bob"], "Subject: x\n\nbody\n");
    sendmail(&scratch, &["-f", "", "carol@mx.example"], "Subject: y\n\nbody\n");
    let tool = |arguments: &[&str]| {
        let output = scratch.run("doorpost-queue", arguments, b"");
        (output.status.code(), said(&output))
    };
    assert_eq!(tool(&["hold", "carol@*"]).0, Some(0));
    scratch.deliver();
    assert_eq!(scratch.mail("carol").len(), 0, "it is held");
    let text = said(&feed(&mut named(&scratch, "mailq", &[]), b""));
    assert!(
        text.contains(
            " <alice@mx.example>\n    (4.2.0 the mailbox cannot be written now; 1 tries)\n    to <bob@mx.example>\n"
        ),
        "{text}"
    );
    assert!(text.contains(" held       <>\n    to <carol@mx.example>\n") && text.contains("-- 2 messages, "), "{text}");
    let json = tool(&["--json"]).1;
    let lines: Vec<&str> = json.lines().collect();
    assert_eq!(lines.len(), 2, "{json}");
    assert!(
        lines[0].starts_with("{\"queue_name\": \"deferred\", \"queue_id\": \"")
            && lines[0].ends_with("\"delay_reason\": \"4.2.0 the mailbox cannot be written now\", \"tries\": 1}]}"),
        "{json}"
    );
    assert!(lines[1].starts_with("{\"queue_name\": \"hold\", ") && lines[1].contains("\"next_try\": null, "), "{json}");
    assert_eq!(tool(&["release", "carol@*"]).0, Some(0));
    fs::remove_file(scratch.maildir("bob")).unwrap();
    scratch.deliver();
    assert_eq!((scratch.mail("carol").len(), scratch.mail("bob").len()), (1, 0), "bob's waits for its next try");
    let before = scratch.queued()[0].clone();
    assert_eq!(tool(&["requeue", &before.id]).0, Some(0));
    let after = scratch.queued()[0].clone();
    assert_ne!(before.id, after.id);
    assert_eq!((&before.whole, &before.recipients), (&after.whole, &after.recipients));
    assert_eq!(tool(&["hold", "ALL"]).0, Some(0));
    assert_eq!(tool(&["flush", "ALL"]).0, Some(65), "what is held stays");
    assert_eq!(tool(&["delete", "nobody@*"]).0, Some(65));
    assert_eq!(tool(&["delete"]).0, Some(64));
    assert_eq!(tool(&["delete", "alice@mx.example"]), (Some(0), "1 message\n".to_owned()));
    assert!(scratch.queued().is_empty());
    if nix::unistd::geteuid().is_root() {
        let output = feed(as_user(scratch.command("doorpost-queue")).args(["delete", "ALL"]), b"");
        assert_eq!(output.status.code(), Some(77));
    }
}

#[test]
fn flushing_makes_what_waits_due_now() {
    let scratch = Scratch::with("minimal_backoff_time = 1h");
    fs::write(scratch.maildir("bob"), "in the way").unwrap();
    for to in ["bob", "x@elsewhere.example"] {
        sendmail(&scratch, &[to], "Subject: x\n\nbody\n");
    }
    scratch.deliver();
    fs::remove_file(scratch.maildir("bob")).unwrap();
    scratch.deliver();
    assert_eq!(scratch.mail("bob").len(), 0);
    let output = sendmail(&scratch, &["-qRmx.example"], "");
    assert_eq!((output.status.code(), said(&output)), (Some(0), String::new()));
    scratch.deliver();
    assert_eq!(scratch.mail("bob").len(), 1);
    assert_eq!(sendmail(&scratch, &["-q"], "").status.code(), Some(0));
}

#[test]
fn a_flush_may_be_of_one_message_or_of_those_from_somebody() {
    let scratch = Scratch::with("minimal_backoff_time = 1h");
    fs::write(scratch.maildir("bob"), "in the way").unwrap();
    for from in ["alice@one.example", "alice@two.example", "alice@three.example"] {
        sendmail(&scratch, &["-f", from, "bob"], "Subject: x\n\nbody\n");
    }
    scratch.deliver();
    fs::remove_file(scratch.maildir("bob")).unwrap();
    let queued = scratch.queued();
    let first = queued.iter().find(|message| message.reverse_path.ends_with(b"@one.example")).unwrap();
    let mut arrived = vec![];
    for word in [format!("-qI{}", first.id), "-qStwo.example".to_owned(), "-qSnowhere.example".to_owned()] {
        assert!(sendmail(&scratch, &[&word], "").status.success());
        scratch.deliver();
        arrived.push(scratch.queued().iter().map(|left| left.reverse_path.len()).collect::<Vec<_>>());
    }
    let [two, three] = ["alice@two.example", "alice@three.example"].map(str::len);
    assert_eq!(arrived, [vec![two, three], vec![three], vec![three]]);
    assert_eq!(scratch.mail("bob").len(), 2);
}

/// Anybody may write into its FIFO.
#[test]
fn whoever_wakes_deliver_by_the_drop_folder_without_end_gets_mail_collected_and_no_look_at_the_queue() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::with("queue_run_delay = 1h");
    let folder = drop_folder(&scratch);
    let path = scratch.path().join("log");
    let watching = Watching::by(scratch.command("deliver").arg("-w").stderr(fs::File::create(&path).unwrap()));
    let mut found = None;
    until("who reads the FIFO", || {
        let mut options = fs::OpenOptions::new();
        found = options.write(true).custom_flags(nix::libc::O_NONBLOCK).open(folder.join("trigger")).ok();
        found.is_some()
    });
    let mut trigger = found.unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        let _ = trigger.write(b"!");
        std::thread::yield_now();
    }
    let looks = fs::read_to_string(&path).unwrap().matches("event=looked").count();
    assert!(looks <= 1, "{looks} looks");
    feed(&mut as_user(named(&scratch, "sendmail", &["bob@mx.example"])), b"Subject: mine\n\n");
    until("a message of the drop folder", || scratch.mail("bob").len() == 1);
    watching.terminate();
}

#[test]
fn a_user_sees_his_own_mail_and_no_other() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::new();
    let folder = drop_folder(&scratch);
    for user in ["bob", "carol"] {
        fs::write(scratch.maildir(user), "in the way").unwrap();
    }
    sendmail(&scratch, &["carol"], "Subject: another's\n\n");
    feed(&mut as_user(named(&scratch, "sendmail", &["bob"])), b"Subject: mine\n\n");
    scratch.deliver();
    let output = feed(&mut as_user(named(&scratch, "mailq", &[])), b"");
    assert_eq!(output.status.code(), Some(77), "nobody answers: {output:?}");
    let listener = UnixListener::bind(folder.join("status")).unwrap();
    fs::set_permissions(folder.join("status"), fs::Permissions::from_mode(0o666)).unwrap();
    let mut serving = scratch.command("submit");
    serving.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
    let mut serving = serving.spawn().unwrap();
    let mine = said(&feed(&mut as_user(named(&scratch, "mailq", &[])), b""));
    let json = said(&feed(&mut as_user(named(&scratch, "mailq", &["--json"])), b""));
    let mut other = named(&scratch, "mailq", &[]);
    let nothing = said(&feed(other.uid(4242).gid(4242), b""));
    let _ = serving.kill();
    let _ = serving.wait();
    assert!(mine.contains("to <bob@mx.example>") && !mine.contains("carol") && mine.contains("-- 1 message"), "{mine}");
    assert!(json.lines().count() == 1 && json.contains("\"address\": \"bob@mx.example\""), "{json}");
    assert_eq!(nothing, "Mail queue is empty\n");
    let all = said(&feed(&mut named(&scratch, "mailq", &[]), b""));
    assert!(all.contains("-- 2 messages"), "{all}");
}

#[test]
fn who_listens_at_the_status_socket_without_being_one_of_ours_is_not_heard() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::new();
    let folder = drop_folder(&scratch);
    let at = folder.join("status");
    let mut forger = Command::new("perl");
    let script = "use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un($ARGV[0])); listen(S, 5); \
                  chmod 0666, $ARGV[0]; while (accept(C, S)) { syswrite(C, \"forged\\e[31m\\n\"); close(C); }";
    let mut forger = forger.args(["-e", script]).arg(&at).uid(4242).gid(4242).spawn().unwrap();
    common::until("a socket that listens", || at.metadata().is_ok_and(|file| file.mode() & 0o777 == 0o666));
    let output = feed(&mut as_user(named(&scratch, "mailq", &[])), b"");
    let _ = forger.kill();
    let _ = forger.wait();
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    assert!(!said(&output).contains("forged"), "{output:?}");
    // What one of ours says cannot steer a terminal either.
    fs::remove_file(&at).unwrap();
    let listener = UnixListener::bind(&at).unwrap();
    fs::set_permissions(&at, fs::Permissions::from_mode(0o666)).unwrap();
    let answering = std::thread::spawn(move || {
        let mut client = listener.accept().unwrap().0;
        client.read_exact(&mut [0; 5]).unwrap();
        client.write_all(b"a\x1b[31mb\xc2\x9bc\n")
    });
    let output = feed(&mut as_user(named(&scratch, "mailq", &[])), b"");
    answering.join().unwrap().unwrap();
    assert_eq!(said(&output), "a?[31mb??c\n");
}

/// A requeueing that found no room must not keep the message from everybody for ever.
#[test]
fn what_could_not_be_queued_anew_waits_as_before() {
    let scratch = Scratch::new();
    fs::write(scratch.maildir("bob"), "in the way").unwrap();
    sendmail(&scratch, &["bob"], &format!("Subject: x\n\n{}", "a line\n".repeat(50_000)));
    let requeue = |limit: &str| {
        let tool = scratch.command("doorpost-queue");
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -f {limit}; exec \"$0\" requeue ALL")]).arg(tool.get_program());
        command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", scratch.path());
        feed(&mut command, b"")
    };
    let held = || said(&feed(&mut named(&scratch, "mailq", &[]), b"")).contains(" held ");
    let output = requeue("100");
    assert_eq!(output.status.code(), Some(75), "{output:?}");
    assert!(!held() && scratch.queued().len() == 1, "{output:?}");
    scratch.run("doorpost-queue", &["hold", "ALL"], b"");
    assert_eq!(requeue("100").status.code(), Some(75));
    assert!(held(), "it was held before");
    let output = requeue("unlimited");
    assert!(output.status.success() && scratch.queued().len() == 1, "{output:?}");
}

#[test]
fn one_file_that_cannot_be_read_keeps_the_tool_from_no_other() {
    let scratch = Scratch::new();
    let [first, _, third] = [(); 3].map(|()| scratch.enqueue(&["bob@mx.example"], b"Subject: x\n\n"));
    let at = |id: &doorpost::queue::Id| scratch.queue().join("message").join(id.folder()).join(id.as_str());
    let octets = fs::read(at(&first)).unwrap();
    fs::write(at(&first), [&octets[..octets.len() - 1], b"?"].concat()).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(at(&third), Some(0), Some(0)).unwrap();
    } else {
        fs::set_permissions(at(&third), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let output = scratch.run("doorpost-queue", &["hold", "ALL"], b"");
    assert_eq!((output.status.code(), &*output.stdout), (Some(75), &b"1 message\n"[..]), "{output:?}");
    assert!(said(&output).contains("other messages: 1 in trouble, 1 damaged"), "{output:?}");
    // Of one that is cut off nobody knows more than its name, and need not.
    fs::write(at(&first), &octets[..octets.len() - 1]).unwrap();
    for what in ["ALL", first.as_str()] {
        let output = scratch.run("doorpost-queue", &["flush", what], b"");
        assert!(output.status.code() == Some(75) && said(&output).contains("1 damaged"), "{what}: {output:?}");
    }
    // One that is being written is not there yet.
    let writing = doorpost::queue::Queue::at(&scratch.queue()).begin().unwrap();
    scratch.hand_over(&scratch.queue());
    let _ = fs::remove_file(at(&first)).and_then(|()| fs::remove_file(at(&third)));
    let output = scratch.run("doorpost-queue", &["hold", "ALL"], b"");
    assert!(output.status.success(), "{output:?}");
    drop(writing);
}
