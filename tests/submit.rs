//! submit through the real binary: the command line, frames over a unix socket, and the way there that servers take.

mod common;

use common::delivering::take;
use common::{Scratch, feed, until};
use doorpost::cli::Common;
use doorpost::config::Config;
use doorpost::message::parameters::{MailParameters, RecipientParameters};
use doorpost::message::path::{Address, ReversePath};
use doorpost::message::trace::{Client, Protocol};
use doorpost::submit::client::Submitter;
use doorpost::submit::frames::{FrameReader, Reply, Request};
use doorpost::submit::{Introduction, Outcome, Policy, Submit, Verdict};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

fn address(text: &str) -> Address {
    Address::from_internal(text.as_bytes()).expect("an address")
}

fn introduction(policy: Policy) -> Introduction {
    let client = Client { helo: None, name: None, address: "192.0.2.1".to_owned(), tls: None };
    Introduction { channel: "smtp".to_owned(), policy, protocol: Protocol::Smtp, client }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// submit with one end of a socketpair on descriptor 0.
fn over_socketpair(scratch: &Scratch) -> (UnixStream, Child) {
    let (ours, theirs) = UnixStream::pair().expect("a socketpair");
    ours.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    let child = scratch
        .command("submit")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("submit");
    (ours, child)
}

/// Sends requests in pieces of `chunk` octets and reads `count` replies.
fn talk(stream: &mut UnixStream, requests: &[Request<'_>], chunk: usize, count: usize) -> Vec<Reply> {
    let mut out = Vec::new();
    requests.iter().for_each(|request| request.put(&mut out));
    for piece in out.chunks(chunk) {
        stream.write_all(piece).expect("sending");
    }
    let (mut reader, mut replies, mut octet) = (FrameReader::default(), Vec::new(), [0]);
    while replies.len() < count {
        stream.read_exact(&mut octet).expect("a reply");
        let (_, payload) = reader.push(&octet).expect("a frame");
        replies.extend(payload.map(|payload| Reply::decode(payload).expect("a reply")));
    }
    replies
}

#[test]
fn the_command_line_queues_a_message_and_prints_its_id() {
    let scratch = Scratch::new();
    let output =
        scratch.run("submit", &["-f", "<alice@mx.example>", "bob", "x@elsewhere.example"], b"Subject: x\n\nbody\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let queued = scratch.queued();
    let [message] = &queued[..] else { panic!("{queued:?}") };
    assert_eq!(stdout(&output), format!("queued as {}\n", message.id));
    assert_eq!(message.reverse_path, b"alice@mx.example");
    assert_eq!(message.recipients, [&b"bob@mx.example"[..], b"x@elsewhere.example"]);
    assert_eq!(message.content(), b"Subject: x\n\nbody\n");
    let trace = format!("Received: by mx.example (doorpost) id {}; ", message.id);
    assert!(message.whole.starts_with(trace.as_bytes()));
}

/// One that nobody could read back would take the message of the others with it.
#[test]
fn an_address_that_its_domain_makes_too_long_is_none() {
    let scratch = Scratch::new();
    let long = "a".repeat(995);
    for arguments in [&[&long, "bob"][..], &["bob", &long], &["-f", &long, "bob"]] {
        let output = scratch.run("submit", arguments, b"x\n");
        assert_eq!(output.status.code(), Some(65), "{output:?}");
    }
    assert!(scratch.queued().is_empty());
    let whole = "a".repeat(989);
    let output = scratch.run("submit", &["-f", &whole, &whole], b"x\n");
    assert_eq!((output.status.code(), scratch.queued().len()), (Some(0), 1), "{output:?}");
}

#[test]
fn the_sender_is_the_caller_or_nobody_where_that_is_asked_for() {
    let scratch = Scratch::new();
    scratch.run("submit", &["bob"], b"x\n");
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).expect("a user").expect("a user");
    assert_eq!(scratch.queued()[0].reverse_path, format!("{}@mx.example", user.name).as_bytes());
    for null in ["", "<>"] {
        let scratch = Scratch::new();
        scratch.run("submit", &["-f", null, "bob"], b"x\n");
        assert_eq!(scratch.queued()[0].reverse_path, b"");
    }
}

#[test]
fn a_message_with_crlf_is_stored_with_lf_and_any_other_as_it_is() {
    for (input, stored) in [
        (&b"a: b\r\n\r\nbody"[..], &b"a: b\n\nbody\n"[..]),
        (b"a: b\n\nbo\r\ndy\0\xff\n", b"a: b\n\nbo\r\ndy\0\xff\n"),
        (b"", b""),
    ] {
        let scratch = Scratch::new();
        scratch.run("submit", &["bob"], input);
        assert_eq!(scratch.queued()[0].content(), stored);
    }
}

#[test]
fn wrong_command_lines_end_with_64_and_wrong_addresses_with_65_and_queue_nothing() {
    let scratch = Scratch::new();
    let wrong: [(&[&str], i32); 8] = [
        (&[], 64),
        (&["-f", "alice"], 64),
        (&["bob", "a b@c d"], 65),
        (&["@x"], 65),
        (&["bob", ""], 65),
        (&["-f", "a\nb", "bob"], 65),
        (&["--no-such"], 64),
        (&["-f"], 64),
    ];
    for (arguments, status) in wrong {
        let output = scratch.run("submit", arguments, b"x\n");
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {output:?}");
        assert!(stdout(&output).is_empty(), "{arguments:?}: {output:?}");
    }
    assert!(scratch.queued().is_empty());
}

#[test]
fn what_the_queue_does_not_take_is_said() {
    let scratch = Scratch::with("message_size_limit = 1000\nhopcount_limit = 2");
    let output = scratch.run("submit", &["bob"], &vec![b'x'; 2000]);
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(stderr(&output).contains("message_size_limit"), "{output:?}");
    let output = scratch.run("submit", &["bob"], b"Received: x\n\n");
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(stderr(&output).contains("hopcount_limit"), "{output:?}");
    fs::remove_dir_all(scratch.queue()).expect("removing the queue");
    fs::write(scratch.queue(), "").expect("a file in its place");
    let output = scratch.run("submit", &["bob"], b"x\n");
    assert_eq!(output.status.code(), Some(75), "{output:?}");
}

#[test]
fn only_the_owner_of_the_queue_may_submit() {
    let scratch = Scratch::new();
    if !nix::unistd::geteuid().is_root() {
        let output = scratch.run("submit", &["-o", "queue_directory=/root", "bob"], b"x\n");
        assert!(matches!(output.status.code(), Some(75 | 77)), "{output:?}");
        return;
    }
    let output = feed(scratch.command("submit").arg("bob").uid(1).gid(1), b"x\n");
    assert_eq!(output.status.code(), Some(77), "{output:?}");
    let output = feed(scratch.command("submit").arg("bob").uid(common::NOBODY).gid(common::NOBODY), b"x\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(scratch.queued().len(), 1);
}

#[test]
fn a_missing_mail_owner_is_a_configuration_error() {
    if nix::unistd::geteuid().is_root() {
        let output = Scratch::new().run("submit", &["-o", "mail_owner=no-such-user", "bob"], b"x\n");
        assert_eq!(output.status.code(), Some(78), "{output:?}");
    }
}

#[test]
fn frames_are_answered_alike_however_they_are_split() {
    let requests = [
        Request::Introduce(introduction(Policy::Channels)),
        Request::Verify(address("bob@mx.example")),
        Request::ReversePath(ReversePath::NULL, MailParameters::default()),
        Request::Recipient(address("nobody-here@mx.example"), RecipientParameters::default()),
        Request::Recipient(address("x@elsewhere.example"), RecipientParameters::default()),
        Request::Recipient(address("bob@mx.example"), RecipientParameters::default()),
        Request::Content(b"Subject: x\n\nbody\n"),
        Request::Commit,
        Request::ReversePath(ReversePath::NULL, MailParameters::default()),
        Request::Recipient(address("bob@mx.example"), RecipientParameters::default()),
        Request::Reset,
        Request::Commit,
    ];
    for chunk in [1, 2, 7, 100_000] {
        let scratch = Scratch::new();
        let (mut stream, mut child) = over_socketpair(&scratch);
        let replies = talk(&mut stream, &requests, chunk, 7);
        let queued = scratch.queued();
        let [message] = &queued[..] else { panic!("{queued:?}") };
        let verdicts = [Verdict::Accepted, Verdict::UnknownUser, Verdict::NotAllowed, Verdict::Accepted];
        assert_eq!(replies[..4], verdicts.map(Reply::Verdict));
        assert_eq!(replies[4], Reply::Outcome(Outcome::Queued(message.id.clone())));
        assert!(matches!(replies[6], Reply::Outcome(Outcome::Refused(_))));
        assert_eq!(message.content(), b"Subject: x\n\nbody\n");
        drop(stream);
        assert_eq!(child.wait().expect("its end").code(), Some(0));
    }
}

/// What deliver writes into its own messages must not come from a server that speaks with the network.
#[test]
fn only_known_attributes_are_written_into_a_queue_file() {
    let scratch = Scratch::new();
    let (mut stream, mut child) = over_socketpair(&scratch);
    let attribute = |name: &str| Request::Attribute(name.to_owned(), "alias\trun\t\trun@mx.example".to_owned());
    let requests = [
        Request::Introduce(introduction(Policy::Channels)),
        attribute("expanded"),
        attribute("origin"),
        attribute("content_filter"),
        Request::ReversePath(ReversePath::NULL, MailParameters::default()),
        Request::Recipient(address("bob@mx.example"), RecipientParameters::default()),
        Request::Content(b"x\n"),
        Request::Commit,
    ];
    talk(&mut stream, &requests, 1000, 2);
    drop(stream);
    assert!(child.wait().expect("its end").success());
    let message = take(&scratch, &scratch.queued()[0].id.parse().expect("an id"));
    let names: Vec<&str> = message.attributes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["content_filter"]);
}

#[test]
fn end_of_input_abandons_and_leaves_no_file() {
    let scratch = Scratch::new();
    let (mut stream, mut child) = over_socketpair(&scratch);
    let requests = [
        Request::Introduce(introduction(Policy::Channels)),
        Request::ReversePath(ReversePath::NULL, MailParameters::default()),
        Request::Recipient(address("bob@mx.example"), RecipientParameters::default()),
        Request::Content(b"Subject: x\n"),
    ];
    talk(&mut stream, &requests, 1000, 1);
    drop(stream);
    assert_eq!(child.wait().expect("its end").code(), Some(0));
    let folders = fs::read_dir(scratch.queue().join("message")).expect("the queue");
    let files: usize = folders.map(|folder| fs::read_dir(folder.expect("a folder").path()).expect("it").count()).sum();
    assert_eq!(files, 0);
}

#[test]
fn nonsense_and_network_sockets_are_turned_away() {
    let scratch = Scratch::new();
    let (mut stream, mut child) = over_socketpair(&scratch);
    stream.write_all(b"EHLO client.example\r\n").expect("sending");
    assert_eq!(child.wait().expect("its end").code(), Some(74));
    let (said, status) = common::under_inetd(&mut scratch.command("submit"), b"");
    assert_eq!((said.as_str(), status.code()), ("", Some(77)));
}

#[test]
fn very_many_recipients_behind_the_content_need_no_memory() {
    let scratch = Scratch::with("message_size_limit = 0");
    let (ours, theirs) = UnixStream::pair().expect("a socketpair");
    let mut command = scratch.command("submit");
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("submit");
    drop(command);
    let mut sender = ours.try_clone().expect("a descriptor");
    let writer = std::thread::spawn(move || {
        let mut out = Vec::new();
        Request::Introduce(introduction(Policy::Anywhere)).put(&mut out);
        Request::Content(b"x\n").put(&mut out);
        Request::ReversePath(ReversePath::NULL, MailParameters::default()).put(&mut out);
        for number in 0..100_000 {
            Request::Recipient(address(&format!("user{number}@elsewhere.example")), RecipientParameters::default())
                .put(&mut out);
        }
        sender.write_all(&out).expect("sending");
    });
    let mut answers = vec![0; 100_000 * 5];
    (&ours).read_exact(&mut answers).expect("the verdicts");
    writer.join().expect("the writer");
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).expect("its status");
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    let kilobytes: u64 = anonymous.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kilobytes < 4096, "{kilobytes} kB");
    drop(ours);
    assert!(child.wait().expect("its end").success());
}

/// The servers' way. As root the child becomes nobody, whose queue it is.
fn submitter(scratch: &Scratch) -> Submitter<'static> {
    let common = Common { config: Some(scratch.path().to_owned()), ..Common::default() };
    let config = Config::load(&common).expect("the configuration");
    // For as long as the test runs.
    let (config, common) = (Box::leak(Box::new(config)), Box::leak(Box::new(common)));
    Submitter::start(config, common).expect("a way to submit")
}

#[test]
fn a_server_reaches_submit_through_a_child_of_its_own() {
    let scratch = Scratch::new();
    let mut submitter = submitter(&scratch);
    submitter.introduce(&introduction(Policy::Channels)).expect("introduce");
    assert_eq!(submitter.verify(&address("nobody-here@mx.example")).expect("verify"), Verdict::UnknownUser);
    for number in 0..2 {
        submitter.reverse_path(&ReversePath::NULL).expect("reverse-path");
        assert_eq!(submitter.recipient(&address("bob@mx.example")).expect("recipient"), Verdict::Accepted);
        let content = format!("{number}\n").repeat(200_000);
        submitter.content(content.as_bytes()).expect("content");
        assert!(matches!(submitter.commit().expect("commit"), Outcome::Queued(_)));
        let queued = scratch.queued();
        assert_eq!(queued.len(), number + 1);
        assert!(queued[number].content() == content.as_bytes());
    }
}

#[test]
fn a_server_whose_submit_cannot_work_hears_of_temporary_trouble() {
    let scratch = Scratch::with("daemon_directory = /nonexistent");
    let mut submitter = submitter(&scratch);
    submitter.introduce(&introduction(Policy::Channels)).expect("introduce");
    let result = submitter.verify(&address("bob@mx.example"));
    assert!(matches!(result, Err(doorpost::exit::Error::Temporary(_))), "{result:?}");
}

#[test]
fn a_listening_submit_is_used_and_a_dead_socket_is_not() {
    let scratch = Scratch::new();
    let path = scratch.queue().join("submit");
    let listener = UnixListener::bind(&path).expect("a unix socket");
    scratch.hand_over(&path);
    let mut serving = scratch
        .command("submit")
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("submit");
    // Without the program itself, no child of ours could answer.
    let two_at_once = |setting: &str| {
        scratch.configure(setting);
        let mut submitters = [submitter(&scratch), submitter(&scratch)];
        submitters.each_mut().map(|submitter| {
            submitter.introduce(&introduction(Policy::Channels)).expect("introduce");
            submitter.verify(&address("bob@mx.example")).ok()
        })
    };
    let both = [Some(Verdict::Accepted), Some(Verdict::Accepted)];
    let through_the_socket = two_at_once("daemon_directory = /nonexistent");
    let refused = {
        serving.kill().expect("killing it");
        serving.wait().expect("its end");
        two_at_once("")
    };
    let by_a_child = two_at_once(&format!("daemon_directory = {}", common::bin_folder().display()));
    assert_eq!(through_the_socket, both);
    assert_eq!(refused, [None, None]);
    assert_eq!(by_a_child, both);
}

/// The waiting child must not keep the client's connection open, nor anything else.
#[test]
fn the_waiting_child_holds_nothing_of_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let mut client = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
    let (server, _) = listener.accept().expect("the other end");
    let scratch = Scratch::new();
    let submitter = submitter(&scratch);
    drop(server);
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    assert_eq!(client.read(&mut [0; 10]).expect("the end of the connection"), 0);
    drop(submitter);
}

#[test]
fn submit_starts_deliver_where_nobody_waits_and_all_mailboxes_are_its_own() {
    let mut scratch = Scratch::new();
    scratch.let_deliver_start();
    let output = scratch.run("submit", &["bob"], b"Subject: x\n\nbody\n");
    assert!(output.status.success(), "{output:?}");
    until("the delivery", || scratch.mail("bob").len() == 1);
    assert!(scratch.mail("bob")[0].ends_with(b"\nSubject: x\n\nbody\n"));
    until("an empty queue", || scratch.queued().is_empty());
}

#[test]
fn submit_starts_no_deliver_where_a_mailbox_is_another_users() {
    let mut scratch = Scratch::new();
    scratch.write("passwd", "bob:{PLAIN}x::::/home/bob::\ncarol:{PLAIN}x:12345:12345::/home/carol::\n");
    scratch.let_deliver_start();
    let bin = scratch.path().join("bin");
    fs::create_dir(&bin).expect("a folder");
    let started = scratch.path().join("started");
    common::write_program(&bin.join("deliver"), &format!("#!/bin/sh\necho >> {}\n", started.display()));
    scratch.hand_over(scratch.path());
    let setting = format!("daemon_directory={}", bin.display());
    for _ in 0..5 {
        scratch.run("submit", &["-o", &setting, "bob"], b"x\n");
    }
    scratch.write("passwd", "bob:{PLAIN}x::::/home/bob::\n");
    scratch.run("submit", &["-o", &setting, "bob"], b"x\n");
    until("deliver to be started", || fs::read(&started).is_ok_and(|lines| !lines.is_empty()));
    assert_eq!(fs::read(&started).expect("its record"), b"\n", "started for others' mailboxes too");
    assert_eq!(scratch.queued().len(), 6);
}
