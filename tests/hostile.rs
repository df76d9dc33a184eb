//! Bad input to qmqpd and pop3d through the real programs: bounded memory, a correct reply, exit status 0, and nothing
//! queued or removed that was not asked for to the end. (tests/smtpsrvr.rs has the same for SMTP.)

mod common;

use common::processes::peak;
use common::{PASSWORD, Scratch, feed};
use std::io::Write;
use std::process::{Child, Stdio};

fn start(scratch: &Scratch, program: &str) -> Child {
    let mut command = scratch.command(program);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a program of ours")
}

/// Sends `beginning` and then `megabytes` of `filler`, without ever ending a line or a message, and looks at the memory.
fn memory_after(program: &str, beginning: &[u8], filler: u8, megabytes: usize) -> u64 {
    let scratch = Scratch::with("qmqpd_authorized_clients = stdin\nmessage_size_limit = 0");
    let mut child = start(&scratch, program);
    let mut input = child.stdin.take().expect("a pipe");
    let mut output = child.stdout.take().expect("a pipe");
    let reader = std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    let _ = input.write_all(beginning);
    let block = vec![filler; 1 << 20];
    let mut most = 0;
    for _ in 0..megabytes {
        most = peak(&child).unwrap_or(0).max(most);
        if input.write_all(&block).is_err() {
            break;
        }
    }
    most = peak(&child).unwrap_or(0).max(most);
    drop(input);
    assert_eq!(child.wait().expect("its end").code(), Some(0), "{program}");
    let _ = reader.join();
    assert_eq!(scratch.queued().len(), 0, "{program}: a message that never ended was queued");
    most
}

#[test]
fn memory_stays_bounded_whatever_is_sent() {
    let login = format!("USER bob\r\nPASS {PASSWORD}\r\n");
    for (program, beginning, filler) in [
        ("pop3d", &b""[..], b'x'),
        ("pop3d", login.as_bytes(), b'x'),
        ("pop3d", login.as_bytes(), b'\n'),
        ("qmqpd", b"", b'1'),
        ("qmqpd", b"2000000000:1999999900:", b'x'),
        ("qmqpd", b"2000000000:1:x,1:a,900000000:", b'x'),
    ] {
        let peak = memory_after(program, beginning, filler, 40);
        // Where it was not optimised the program itself is 8 MB of it.
        assert!((1..4 * 1024).contains(&peak), "{program} after {:?}: {peak} kB", String::from_utf8_lossy(beginning));
    }
}

#[test]
fn a_million_recipients_need_no_memory_and_are_bounded_by_the_message_size() {
    let scratch = Scratch::with("qmqpd_authorized_clients = stdin");
    let recipients = "16:user@example.test,".repeat(600_000);
    let inner = format!("2:x\n,0:,{recipients}");
    let output = feed(&mut scratch.command("qmqpd"), format!("{}:{inner},", inner.len()).as_bytes());
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(":D"), "larger than message_size_limit, yet: {said}");
    assert_eq!(scratch.queued().len(), 0);
}

#[test]
fn a_length_no_machine_can_hold_is_refused_at_once() {
    let scratch = Scratch::with("qmqpd_authorized_clients = stdin");
    for length in
        ["1000000000000000000000000000000:", "18446744073709551616:", "+5:", "-1:", "05:", ":", " 5:", "5 :", "5\0:"]
    {
        let output = feed(&mut scratch.command("qmqpd"), length.as_bytes());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.contains(":D") && said.ends_with(','), "{length}: {said:?}");
        assert_eq!(output.status.code(), Some(0), "{length}");
    }
}

/// Every octet at every position of a session.
fn each_octet_each_position(program: &str, session: &[u8], is_reply: &dyn Fn(&[u8]) -> bool) {
    let scratch = Scratch::with("qmqpd_authorized_clients = stdin\nauth_failure_delay = 0");
    for position in (0..session.len()).step_by(3) {
        for octet in [0, 1, b'\t', b'\n', b'\r', b' ', b',', b':', b'<', b'\\', 0x7f, 0x80, 0xff] {
            let mut damaged = session.to_vec();
            damaged[position] = octet;
            let output = feed(&mut scratch.command(program), &damaged);
            assert_eq!(output.status.code(), Some(0), "{program}: octet {octet} at {position}: {output:?}");
            assert!(
                is_reply(&output.stdout),
                "{program}: octet {octet} at {position}: {}",
                output.stdout.escape_ascii()
            );
        }
    }
}

#[test]
fn any_octet_anywhere_in_a_pop3_session_is_answered_in_the_protocol() {
    let session = format!("CAPA\r\nUSER bob\r\nPASS {PASSWORD}\r\nLIST 1\r\nQUIT\r\n");
    each_octet_each_position("pop3d", session.as_bytes(), &|replies| {
        replies.starts_with(b"+OK")
            && replies.ends_with(b"\r\n")
            && replies.iter().all(|o| matches!(o, b'\r' | b'\n' | b' '..=b'~'))
    });
}

#[test]
fn any_octet_anywhere_in_a_qmqp_package_is_answered_in_the_protocol_or_not_at_all() {
    let session = b"46:5:test\n,16:alice@mx.example,14:bob@mx.example,,";
    each_octet_each_position("qmqpd", session, &|reply| {
        let printable = reply.iter().all(|octet| (b' '..=b'~').contains(octet));
        reply.is_empty() || (reply.ends_with(b",") && printable)
    });
}

#[test]
fn a_client_gone_at_any_octet_queues_and_removes_nothing() {
    let session = format!("USER bob\r\nPASS {PASSWORD}\r\nDELE 1\r\nQUIT\r\n").into_bytes();
    for end in 0..session.len() - 1 {
        let scratch = Scratch::new();
        scratch.put_mail("bob", "1700000000.M0.mx", b"Subject: one\n\nhere\n");
        let output = feed(&mut scratch.command("pop3d"), &session[..end]);
        assert_eq!((output.status.code(), scratch.mail("bob").len()), (Some(0), 1), "gone after {end} octets");
    }
    let package = b"46:5:test\n,16:alice@mx.example,14:bob@mx.example,,";
    for end in 0..package.len() {
        let scratch = Scratch::with("qmqpd_authorized_clients = stdin");
        let output = feed(&mut scratch.command("qmqpd"), &package[..end]);
        assert_eq!((output.status.code(), scratch.queued().len()), (Some(0), 0), "gone after {end} octets");
        assert!(!String::from_utf8_lossy(&output.stdout).contains(":K"), "acknowledged after {end} octets");
    }
    let scratch = Scratch::with("qmqpd_authorized_clients = stdin");
    let output = feed(&mut scratch.command("qmqpd"), package);
    assert!(String::from_utf8_lossy(&output.stdout).contains(":K"), "the whole package is good: {output:?}");
    assert_eq!(scratch.queued().len(), 1);
}

#[test]
fn what_comes_after_quit_is_not_obeyed() {
    let scratch = Scratch::new();
    scratch.put_mail("bob", "1700000000.M0.mx", b"Subject: one\n\nhere\n");
    let session = format!("USER bob\r\nPASS {PASSWORD}\r\nQUIT\r\nDELE 1\r\nQUIT\r\n");
    let output = feed(&mut scratch.command("pop3d"), session.as_bytes());
    let replies = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((replies.matches("\r\n").count(), scratch.mail("bob").len()), (4, 1), "{replies}");
}
