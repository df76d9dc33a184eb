//! qmtpd, which is qmqpd under another name: its transcripts, and a session on a socket.

mod common;

use common::{Scratch, transcript};
use doorpost::wire::netstring::put;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

#[test]
fn transcripts() {
    transcript::play_all("qmtpd", 16);
}

fn package(content: &[u8], recipients: &[&[u8]]) -> Vec<u8> {
    let (mut whole, mut list) = (Vec::new(), Vec::new());
    put(&mut whole, content);
    put(&mut whole, b"alice@client.example");
    recipients.iter().for_each(|recipient| put(&mut list, recipient));
    put(&mut whole, &list);
    whole
}

fn on_a_socket(scratch: &Scratch) -> (TcpStream, Child) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("its number")).expect("a connection");
    let server = OwnedFd::from(listener.accept().expect("a client").0);
    let mut command = scratch.command("qmtpd");
    command.stdin(server.try_clone().expect("a descriptor")).stdout(server).stderr(Stdio::piped());
    (client, command.spawn().expect("qmtpd"))
}

/// The first letters of replies.
fn kinds(mut replies: &[u8]) -> String {
    let mut kinds = String::new();
    while !replies.is_empty() {
        let colon = replies.iter().position(|octet| *octet == b':').expect("a length");
        let length: usize = String::from_utf8_lossy(&replies[..colon]).parse().expect("a number");
        kinds.push(char::from(replies[colon + 1]));
        replies = &replies[colon + length + 2..];
    }
    kinds
}

#[test]
fn a_client_may_wait_for_each_reply_and_its_message_says_how_it_came() {
    let scratch = Scratch::new();
    let (mut client, child) = on_a_socket(&scratch);
    for number in 0..3 {
        client.write_all(&package(format!("\n{number}\n").as_bytes(), &[b"bob@mx.example"])).expect("sent");
        let mut reply = [0; 6];
        client.read_exact(&mut reply).expect("a reply");
        assert_eq!(&reply, b"30:KOk");
        client.read_exact(&mut [0; 28]).expect("the rest of it");
    }
    client.shutdown(Shutdown::Write).expect("half-closed");
    assert_eq!(client.read_to_end(&mut Vec::new()).expect("the end"), 0);

    let output = child.wait_with_output().expect("the end of qmtpd");
    let log = String::from_utf8(output.stderr).expect("printable records");
    assert!(output.status.success() && log.contains("K=1 Z=0 D=0"), "{log}");
    assert_eq!(scratch.queued().len(), 3);
    scratch.deliver();
    let mail = scratch.mail("bob");
    assert_eq!(mail.len(), 3);
    assert!(String::from_utf8_lossy(&mail[0]).contains("with QMTP"), "{mail:?}");
}

/// Several replies in a row, in which each verdict counts when they are compared.
#[test]
fn a_recorded_session_plays_again_and_differs_where_a_verdict_does() {
    let known: [&[u8]; 2] = [b"nobody@mx.example", b"bob@mx.example"];
    let packages = [package(b"\none\xff\n", &known), package(b"\ntwo\n", &[known[1], known[0]])];
    for one_by_one in [false, true] {
        let scratch = Scratch::new();
        let file = tempfile::tempdir().expect("a folder");
        scratch.hand_over(file.path());
        let record = file.path().join("session.qmtp");
        let (mut client, server) = std::os::unix::net::UnixStream::pair().expect("a socket");
        let server = OwnedFd::from(server);
        let mut command = scratch.command("qmtpd");
        command.arg("--record").arg(&record).stdin(server.try_clone().expect("a descriptor")).stdout(server);
        let child = command.stderr(Stdio::piped()).spawn().expect("qmtpd");
        drop(command);
        let mut replies = Vec::new();
        for package in &packages {
            client.write_all(package).expect("sent");
            if one_by_one {
                // 20:DError: no such user, and 30:KOk: queued as and the id
                let already = replies.len();
                replies.resize(already + 24 + 34, 0);
                client.read_exact(&mut replies[already..]).expect("replies");
            }
        }
        client.shutdown(Shutdown::Write).expect("half-closed");
        client.read_to_end(&mut replies).expect("replies");
        let output = child.wait_with_output().expect("the end of qmtpd");
        assert!(output.status.success() && kinds(&replies) == "DKKD", "{output:?}");

        let text = std::fs::read_to_string(&record).expect("the record");
        let (never, queued) = ("20:DError: no such user,", format!("30:KOk: queued as {},", "\\?".repeat(15)));
        let said: String = text.lines().filter(|line| line.starts_with("S| ")).map(|line| &line[3..]).collect();
        assert_eq!(said, format!("{never}{queued}{queued}{never}"), "{text}");
        for writes in [transcript::Writes::Whole, transcript::Writes::Octets] {
            transcript::play("qmtpd", &record, writes).unwrap_or_else(|problem| panic!("{problem}\n{text}"));
        }
        let verdicts = [":DE", ":KO"].map(|verdict| text.match_indices(verdict).collect::<Vec<_>>()).concat();
        assert_eq!(verdicts.len(), 4, "{text}");
        for (place, _) in verdicts {
            let other = format!("{}Z{}", &text[..=place], &text[place + 2..]);
            std::fs::write(&record, &other).expect("the record");
            transcript::play("qmtpd", &record, transcript::Writes::Whole).expect_err(&other);
        }
    }
}

#[test]
fn a_message_has_as_many_recipients_as_smtpd_recipient_limit_says_and_the_others_come_later() {
    let scratch = Scratch::with("smtpd_recipient_limit = 2");
    let all: [&[u8]; 5] =
        [b"nobody@mx.example", b"bob@mx.example", b"carol@mx.example", b"alice@mx.example", b"x@mx.example"];
    let output = scratch.run("qmtpd", &[], &[package(b"\nx\n", &all), package(b"\ny\n", &all[3..])].concat());
    assert_eq!(kinds(&output.stdout), "DKKZZKD", "{output:?}");
    let to: Vec<usize> = scratch.queued().iter().map(|message| message.recipients.len()).collect();
    assert_eq!(to, [2, 1]);
}

#[test]
fn a_client_with_too_many_unknown_recipients_learns_no_more_and_is_sent_away() {
    let scratch = Scratch::with("smtpd_hard_error_limit = 3");
    let names: Vec<String> = (0..1000).map(|number| format!("nobody{number}@mx.example")).collect();
    let mut all: Vec<&[u8]> = vec![b"bob@mx.example"];
    all.extend(names.iter().map(String::as_bytes));
    all.push(b"carol@mx.example");
    let next = package(b"\nx\n", &[b"bob@mx.example"]);
    let output = scratch.run("qmtpd", &[], &[package(b"\nx\n", &all), next].concat());
    assert_eq!(kinds(&output.stdout), format!("KDDD{}", "Z".repeat(998)), "{output:?}");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && log.contains("too many errors"), "{log}");
    assert_eq!(scratch.queued().iter().map(|message| message.recipients.len()).collect::<Vec<_>>(), [1]);
    // Messages count as well, and soft_bounce makes no difference to that.
    let wrong = package(b"\nx\n", &[b"nobody@mx.example"]);
    let output = scratch.run("qmtpd", &["-o", "soft_bounce=yes"], &wrong.repeat(5));
    assert_eq!(kinds(&output.stdout), "ZZZ", "{output:?}");
}

#[test]
fn a_reply_that_is_not_good_comes_late_over_the_network() {
    let scratch = Scratch::with("qmqpd_error_delay = 2s");
    let (mut client, child) = on_a_socket(&scratch);
    let begun = Instant::now();
    client.write_all(&package(b"\nx\n", &[b"bob@mx.example", b"nobody@mx.example"])).expect("sent");
    client.shutdown(Shutdown::Write).expect("half-closed");
    let mut replies = Vec::new();
    client.read_to_end(&mut replies).expect("replies");
    assert_eq!(kinds(&replies), "KD");
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert!(child.wait_with_output().expect("the end of qmtpd").status.success());
}

#[test]
fn the_replies_behind_a_pause_have_their_time_and_the_last_ones_of_a_session_too() {
    let both = package(b"\nx\n", &[b"bob@mx.example", b"nobody@mx.example"]);
    // In the second, the session is over when the pause is.
    for (settings, count) in [("qmqpd_timeout = 3s", 2), ("daemon_timeout = 3s", 1)] {
        let scratch = Scratch::with(&format!("qmqpd_error_delay = 4s\n{settings}"));
        let (mut client, child) = on_a_socket(&scratch);
        client.write_all(&both.repeat(2)).expect("sent");
        client.shutdown(Shutdown::Write).expect("half-closed");
        let mut replies = Vec::new();
        client.read_to_end(&mut replies).expect("replies");
        assert_eq!(kinds(&replies), "KD".repeat(count), "{settings}");
        assert_eq!(scratch.queued().len(), count, "what was not answered is not queued");
        child.wait_with_output().expect("the end of qmtpd");
    }
}
