//! qmqpd from the outside: its transcripts, and what only a real socket shows.

mod common;

use common::{Scratch, feed, transcript};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};

#[test]
fn transcripts() {
    transcript::play_all("qmqpd", 30);
}

/// qmqpd on an inet socket, and the client's end of it.
fn on_socket(scratch: &Scratch) -> (Child, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("its number")).expect("a connection");
    let server = OwnedFd::from(listener.accept().expect("a client").0);
    let mut command = scratch.command("qmqpd");
    command.stdin(Stdio::from(server.try_clone().expect("a descriptor"))).stdout(Stdio::from(server));
    let child = command.stderr(Stdio::piped()).spawn().expect("qmqpd");
    (child, client)
}

fn package(content: &[u8]) -> Vec<u8> {
    let mut inside = Vec::new();
    for part in [content, b"alice@client.example", b"bob@mx.example"] {
        doorpost::wire::netstring::put(&mut inside, part);
    }
    let mut whole = Vec::new();
    doorpost::wire::netstring::put(&mut whole, &inside);
    whole
}

fn log_of(child: Child) -> String {
    let output = child.wait_with_output().expect("the end of qmqpd");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).expect("printable records")
}

#[test]
fn the_peer_of_the_socket_is_the_client_whatever_the_environment_says() {
    let scratch = Scratch::with("qmqpd_authorized_clients = 192.0.2.1, stdin");
    let (child, mut client) = on_socket(&scratch);
    client.write_all(&package(b"x\n")).expect("sent");
    let mut reply = String::new();
    client.read_to_string(&mut reply).expect("a reply");
    assert_eq!(reply, "50:DError: you are not authorized to use this service,");
    assert!(log_of(child).contains("client=127.0.0.1 "));
    assert!(scratch.queued().is_empty());
}

#[test]
fn a_refusal_before_the_client_has_sent_all_is_not_lost() {
    let scratch = Scratch::with("qmqpd_authorized_clients = 127.0.0.0/8\nmessage_size_limit = 1000");
    let (child, mut client) = on_socket(&scratch);
    let mut reply = String::new();
    // Far more than the buffers of both ends hold would block; this much is in them, unread, when the reply comes.
    client.write_all(&package(&[b'x'; 100_000])).expect("sent");
    client.shutdown(Shutdown::Write).expect("half-closed");
    client.read_to_string(&mut reply).expect("no reset");
    assert_eq!(reply, "25:DError: message too large,");
    log_of(child);
}

#[test]
fn a_message_of_the_largest_size_is_queued_octet_for_octet() {
    let scratch = Scratch::with("qmqpd_authorized_clients = 127.0.0.0/8");
    let content: Vec<u8> = (0..9_000_000_u32).map(|number| number.to_le_bytes()[(number % 3) as usize]).collect();
    let (child, mut client) = on_socket(&scratch);
    client.write_all(&package(&content)).expect("sent");
    let mut reply = String::new();
    client.read_to_string(&mut reply).expect("a reply");
    assert!(reply.contains(":KOk: queued as "), "{reply}");
    log_of(child);
    let queued = scratch.queued();
    assert_eq!(queued.len(), 1);
    assert!(queued[0].content() == content, "the content differs");
}

#[test]
fn a_client_gone_at_any_octet_leaves_nothing_and_a_clean_log() {
    let scratch = Scratch::with("qmqpd_authorized_clients = stdin");
    let whole = package(b"Subject: x\n\nhello\n");
    for length in 0..whole.len() {
        let output = feed(&mut scratch.command("qmqpd"), &whole[..length]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(output.stdout, b"");
        let log = String::from_utf8(output.stderr).expect("printable records");
        assert!(log.contains("lost connection while receiving "), "{log}");
        assert!(!log.contains("error") && !log.contains("warning"), "{log}");
    }
    assert!(scratch.queued().is_empty());
}

/// Most memory a live process ever had, in kB.
fn peak(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("a live process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn memory_stays_bounded_whatever_is_sent() {
    let recipients = "12:b@mx.example,".repeat(2000);
    for (beginning, block) in [("100000000:99999900:", "x".repeat(1 << 20)), ("100000000:1:x,1:a,", recipients)] {
        let scratch = Scratch::with("qmqpd_authorized_clients = stdin\nmessage_size_limit = 0");
        let mut command = scratch.command("qmqpd");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("qmqpd");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(beginning.as_bytes()).expect("a server that reads");
        for _ in 0..50 {
            input.write_all(block.as_bytes()).expect("a server that reads");
        }
        let most = peak(&child);
        drop(input);
        assert!(most < 8 * 1024, "{beginning:?} and 50 blocks: {most} kB");
        assert_eq!(child.wait().expect("its end").code(), Some(0), "{beginning:?}");
        assert!(scratch.queued().is_empty(), "a message that never ended was queued");
    }
}

#[test]
fn wrong_arguments_are_a_usage_error_and_a_temporary_failure_for_the_client() {
    let scratch = Scratch::new();
    let output = scratch.run("qmqpd", &["--no-such-option"], b"");
    assert_eq!(output.status.code(), Some(64));
    assert!(output.stdout.starts_with(b"34:Z") || output.stdout.windows(2).any(|pair| pair == b":Z"), "{output:?}");
}

#[test]
fn a_recorded_session_plays_again() {
    let scratch = Scratch::with("qmqpd_authorized_clients = stdin");
    let file = tempfile::tempdir().expect("a folder");
    scratch.hand_over(file.path());
    let record = file.path().join("session.qmqp");
    let output = scratch.run("qmqpd", &["--record", record.to_str().expect("a path")], &package(b"x\n\xff\n"));
    assert!(output.stdout.starts_with(b"30:KOk: queued as "), "{output:?}");
    let text = std::fs::read_to_string(&record).expect("the record");
    let authorized = "# config: qmqpd_authorized_clients = stdin\n";
    std::fs::write(&record, text.replacen('\n', &format!("\n{authorized}"), 1)).expect("the record");
    transcript::play("qmqpd", &record, transcript::Writes::Octets).expect("the same again");
}
