//! `--fixed`: the same session out of a file or a pipe has the same replies and leaves the same queue files, as long as the
//! queue is new; where a client could be at the other end there is no such thing.

mod common;

use common::login::{LOGIN, encoded, plain};
use common::{NOBODY, PASSWORD, Scratch, feed, under_inetd};
use doorpost::queue::Id;
use doorpost::wire::netstring;
use md5::{Digest, Md5};
use nix::unistd::geteuid;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

const SECONDS: u64 = 1_800_000_000;
const FIXED: [&str; 2] = ["--fixed", "1800000000"];

const PROGRAMS: [(&str, &str); 5] =
    [("smtpsrvr", "421 "), ("lmtpsrvr", "421 "), ("qmqpd", ":Z"), ("qmtpd", ":Z"), ("pop3d", "-ERR ")];

/// What a program says to a session out of a pipe.
fn said(scratch: &Scratch, program: &str, options: &[&str], input: &[u8]) -> Vec<u8> {
    let output = scratch.run(program, options, input);
    assert!(output.status.success(), "{program}: {output:?}");
    output.stdout
}

/// The same out of a file.
fn said_to_file(scratch: &Scratch, program: &str, options: &[&str], input: &[u8]) -> Vec<u8> {
    let path = scratch.path().join("input");
    fs::write(&path, input).expect("a file");
    let file = File::open(&path).expect("the file");
    let output = scratch.command(program).args(options).stdin(file).output().expect("a program of ours");
    assert!(output.status.success(), "{program}: {output:?}");
    output.stdout
}

/// The files of the queue, octet by octet.
fn files(scratch: &Scratch) -> BTreeMap<String, Vec<u8>> {
    let entries = |folder| fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let files = entries(scratch.queue().join("message")).flat_map(entries);
    files
        .map(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
            (name, fs::read(&path).expect("a message"))
        })
        .collect()
}

fn count(text: &[u8], part: &str) -> usize {
    text.windows(part.len()).filter(|window| *window == part.as_bytes()).count()
}

fn message(recipients: &[&str]) -> String {
    let recipients: String = recipients.iter().map(|name| format!("RCPT TO:<{name}@mx.example>\r\n")).collect();
    format!("MAIL FROM:<alice@mx.example>\r\n{recipients}DATA\r\nSubject: x\r\n\r\nx\r\n.\r\n")
}

fn smtp() -> Vec<u8> {
    let scram = format!("AUTH SCRAM-SHA-256 {}\r\n*\r\n", encoded("n,,n=bob,r=abc"));
    let abandoned = "MAIL FROM:<alice@mx.example>\r\nRCPT TO:<bob@mx.example>\r\nRSET\r\n";
    let (one, two) = (message(&["bob"]), message(&["bob", "carol"]));
    format!("EHLO c.example\r\nAUTH CRAM-MD5\r\n*\r\nAUTH CRAM-MD5\r\n*\r\n{scram}{one}{abandoned}{two}QUIT\r\n").into()
}

fn submission() -> Vec<u8> {
    let (login, one) = (plain("alice", PASSWORD), message(&["bob"]));
    format!("EHLO c.example\r\n{login}\r\n{one}{one}QUIT\r\n").into()
}

fn lmtp() -> Vec<u8> {
    let (one, two) = (message(&["bob"]), message(&["bob", "carol"]));
    format!("LHLO c.example\r\n{one}{two}QUIT\r\n").into()
}

fn qmqp() -> Vec<u8> {
    let (mut inside, mut whole) = (Vec::new(), Vec::new());
    for part in ["Subject: x\n\nx\n", "alice@client.example", "bob@mx.example"] {
        netstring::put(&mut inside, part.as_bytes());
    }
    netstring::put(&mut whole, &inside);
    whole
}

fn qmtp() -> Vec<u8> {
    let (mut whole, mut recipients) = (Vec::new(), Vec::new());
    netstring::put(&mut recipients, b"bob@mx.example");
    for part in [&b"\nSubject: x\n\nx\n"[..], b"alice@client.example", &recipients] {
        netstring::put(&mut whole, part);
    }
    whole.repeat(2)
}

#[test]
fn the_same_session_has_the_same_replies_and_leaves_the_same_queue_files() {
    let authorized = "qmqpd_authorized_clients = stdin";
    for (program, config, option, input, challenges, messages) in [
        ("smtpsrvr", LOGIN, None, smtp(), 3, 2),
        ("smtpsrvr", LOGIN, Some("--submission"), submission(), 0, 2),
        ("lmtpsrvr", "", None, lmtp(), 0, 2),
        ("qmqpd", authorized, None, qmqp(), 0, 1),
        ("qmtpd", "", None, qmtp(), 0, 2),
    ] {
        let options: Vec<&str> = FIXED.into_iter().chain(option).collect();
        let fresh = || Scratch::with(config);
        let (one, two, other) = (fresh(), fresh(), fresh());
        let replies = said(&one, program, &options, &input);
        assert_eq!(replies, said_to_file(&two, program, &options, &input), "{program}: {}", replies.escape_ascii());
        let queued = files(&one);
        assert!(queued == files(&two), "{program} {option:?}: other files");
        assert_eq!((count(&replies, "334 "), queued.len()), (challenges, messages), "{}", replies.escape_ascii());
        for (name, octets) in &queued {
            let time = name.parse::<Id>().expect("an id").time();
            assert_eq!(time, SystemTime::UNIX_EPOCH + Duration::from_secs(SECONDS));
            assert!(count(&replies, name) > 0 && count(octets, " Jan 2027 ") > 0, "{}", octets.escape_ascii());
        }
        // Nothing else makes them alike.
        let options: Vec<&str> = option.into_iter().collect();
        assert_ne!(replies, said(&other, program, &options, &input), "{program}");
    }
}

#[test]
fn what_must_differ_within_a_session_does() {
    let scratch = Scratch::with(LOGIN);
    let replies = String::from_utf8(said(&scratch, "smtpsrvr", &FIXED, &smtp())).expect("ASCII");
    let mut challenges: Vec<&str> = replies.lines().filter(|line| line.starts_with("334 ")).collect();
    challenges.dedup();
    assert_eq!(challenges.len(), 3, "{replies}");
    let scratch = Scratch::with(LOGIN);
    said(&scratch, "smtpsrvr", &["--submission", FIXED[0], FIXED[1]], &submission());
    let names: Vec<String> = scratch
        .queued()
        .iter()
        .map(|queued| String::from_utf8_lossy(queued.content()).into_owned())
        .flat_map(|text| text.lines().find(|line| line.starts_with("Message-ID: ")).map(str::to_owned))
        .collect();
    assert!(names.len() == 2 && names[0] != names[1], "{names:?}");
}

/// A mailbox may have the file that is named after the id, and deliver would take the second message for a repeat.
#[test]
fn a_queue_that_is_not_new_gives_other_ids_also_when_its_messages_are_gone() {
    let scratch = Scratch::with("qmqpd_authorized_clients = stdin");
    // A submit that serves everybody, whose clock is not ours to stop; this one never says a word.
    let _everybodys = UnixListener::bind(scratch.queue().join("submit")).expect("a socket");
    scratch.hand_over(&scratch.queue());
    let mut replies = Vec::new();
    for _ in 0..2 {
        replies.push(said(&scratch, "qmqpd", &FIXED, &qmqp()));
    }
    assert_eq!(files(&scratch).len(), 2);
    for name in files(&scratch).into_keys() {
        assert!(scratch.run("doorpost-queue", &["delete", &name], b"").status.success(), "{name}");
    }
    assert_eq!(files(&scratch).len(), 0);
    replies.push(said(&scratch, "qmqpd", &FIXED, &qmqp()));
    replies.sort();
    replies.dedup();
    assert_eq!(replies.len(), 3);
}

#[test]
fn a_login_by_apop_plays_again() {
    let users = if geteuid().is_root() { vec![0, NOBODY] } else { vec![geteuid().as_raw()] };
    for uid in users {
        let play = |input: &str| {
            let scratch = Scratch::with("auth_failure_delay = 0");
            scratch.put_mail("bob", "1700000000.M1.mx", b"Subject: x\n\nx\n");
            let output = feed(scratch.command("pop3d").uid(uid).args(FIXED), input.as_bytes());
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).expect("ASCII")
        };
        let greeting = play("QUIT\r\n");
        let stamp = &greeting[greeting.find('<').expect("a stamp")..=greeting.find('>').expect("its end")];
        let digest = Md5::new().chain_update(stamp).chain_update(PASSWORD).finalize();
        let digest: String = digest.iter().map(|octet| format!("{octet:02x}")).collect();
        let challenges = "AUTH CRAM-MD5\r\n*\r\nAUTH CRAM-MD5\r\n*\r\n";
        let session = format!("{challenges}APOP bob {digest}\r\nUIDL\r\nRETR 1\r\nQUIT\r\n");
        let (one, two) = (play(&session), play(&session));
        assert_eq!(one, two, "uid {uid}");
        assert!(one.contains("+OK 1 messages, ") && one.ends_with("+OK Goodbye\r\n"), "uid {uid}: {one}");
        let mut challenges: Vec<&str> = one.lines().filter(|line| line.starts_with("+ ")).collect();
        challenges.dedup();
        assert_eq!(challenges.len(), 2, "{one}");
    }
}

#[test]
fn where_a_client_could_be_it_is_refused() {
    for (program, later) in PROGRAMS {
        let scratch = Scratch::new();
        let server = || {
            let mut command = scratch.command(program);
            command.args(FIXED);
            command
        };
        let (seen, status) = under_inetd(&mut server(), b"");
        assert!(status.code() == Some(64) && seen.contains(later), "{program}: {status} {seen}");
        let status = |command: &mut Command, stdin: Stdio| {
            let output = command.stdin(stdin).output().expect("a program of ours");
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(log.contains("--fixed: expected a file or a pipe"), "{program}: {log}");
            output.status.code()
        };
        let pair = UnixStream::pair().expect("a pair of sockets");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let terminal = nix::pty::openpty(None, None).expect("a terminal");
        let listening = OwnedFd::from(listener).into();
        for stdin in [OwnedFd::from(pair.0).into(), listening, terminal.slave.into(), Stdio::null()] {
            assert_eq!(status(&mut server(), stdin), Some(64), "{program}");
        }
        // Sockets that a service manager passes stand beside it.
        assert_eq!(status(server().env("LISTEN_FDS", "1"), Stdio::piped()), Some(64), "{program}");
    }
    let standalone = Scratch::new().run("pop3d", &["-d", FIXED[0], FIXED[1]], b"");
    assert_eq!(standalone.status.code(), Some(64), "{standalone:?}");
}

#[test]
fn only_a_server_that_starts_submit_can_stop_its_clock() {
    let scratch = Scratch::new();
    let submit = |more: &[&str], stdin: Stdio| {
        let output = scratch.command("submit").args(FIXED).args(more).stdin(stdin).output().expect("submit");
        output.status.code()
    };
    let path = scratch.path().join("socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    let _client = UnixStream::connect(&path).expect("a connection");
    let accepted = listener.accept().expect("the other end").0;
    for stdin in [OwnedFd::from(accepted), listener.into()] {
        assert_eq!(submit(&[], stdin.into()), Some(64));
    }
    assert_eq!((submit(&[], Stdio::piped()), submit(&["bob"], Stdio::piped())), (Some(64), Some(64)));
    let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
    drop(ours);
    assert_eq!(submit(&[], OwnedFd::from(theirs).into()), Some(0));
}
