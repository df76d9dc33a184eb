//! smtpsrvr as a client sees it: the transcripts, and hostile input to the real program.

mod common;

use common::transcript::{Writes, play, play_all};
use common::{Scratch, feed, under_inetd};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

/// Up to the content of a message from alice to bob.
const BEGIN: &str = "EHLO c.example\r\nMAIL FROM:<alice@c.example>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\n";

fn start(scratch: &Scratch) -> Child {
    let mut command = scratch.command("smtpsrvr");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("smtpsrvr")
}

/// Most memory the process ever had, in kB; nothing of one that has ended.
fn peak(child: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

#[test]
fn transcripts() {
    play_all("smtpsrvr", 60);
}

#[test]
fn memory_stays_bounded_whatever_is_sent() {
    let lines = "x".repeat(70) + "\r\n";
    let recipients = "RCPT TO:<bob@mx.example>\r\n";
    for (beginning, filler) in [("", "x"), (BEGIN, "x"), (BEGIN, lines.as_str()), ("MAIL FROM:<>\r\n", recipients)] {
        let scratch = Scratch::new();
        let mut child = start(&scratch);
        let mut input = child.stdin.take().expect("a pipe");
        let mut output = child.stdout.take().expect("a pipe");
        let reader = std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        let block = filler.repeat((1 << 20) / filler.len());
        input.write_all(beginning.as_bytes()).expect("a server that reads");
        let mut most = 0;
        for _ in 0..50 {
            most = most.max(peak(&child).unwrap_or(0));
            // Too many mistakes end a session early.
            if input.write_all(block.as_bytes()).is_err() {
                break;
            }
        }
        most = most.max(peak(&child).unwrap_or(0));
        drop(input);
        assert!((1..8 * 1024).contains(&most), "{beginning:?} and 50 MB of {filler:?}: {most} kB");
        assert_eq!(child.wait().expect("its end").code(), Some(0), "{beginning:?}");
        reader.join().expect("a reader").expect("replies");
        assert_eq!(scratch.queued().len(), 0, "a message that never ended was queued");
    }
}

#[test]
fn a_message_without_limit_goes_through_in_little_memory() {
    let scratch = Scratch::with("message_size_limit = 0");
    let mut child = start(&scratch);
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(BEGIN.as_bytes()).expect("a server that reads");
    let block = vec![b'x'; 1 << 20];
    for _ in 0..50 {
        input.write_all(&block).expect("a server that reads");
    }
    let most = peak(&child).expect("a live process");
    assert!(most < 8 * 1024, "{most} kB");
    input.write_all(b"\r\n.\r\nQUIT\r\n").expect("a server that reads");
    let mut replies = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut replies).expect("replies");
    assert_eq!(child.wait().expect("its end").code(), Some(0));
    assert!(replies.contains("\r\n250 2.0.0 Ok: queued as "), "{replies}");
    assert_eq!(scratch.queued()[0].content().len(), (50 << 20) + 1, "one line, not split");
}

#[test]
fn a_hundred_thousand_recipients() {
    let scratch = Scratch::with("smtpd_recipient_limit = 200");
    let input = format!("MAIL FROM:<>\r\n{}", "RCPT TO:<bob@mx.example>\r\n".repeat(100_000));
    let output = feed(&mut scratch.command("smtpsrvr"), input.as_bytes());
    let replies = String::from_utf8(output.stdout).expect("ASCII");
    assert_eq!(replies.lines().filter(|line| line.starts_with("250 2.1.5")).count(), 200);
    assert_eq!(replies.lines().filter(|line| line.starts_with("452 4.5.3")).count(), 1020);
    assert!(replies.ends_with("\r\n421 4.7.0 Too many errors, closing the connection\r\n"));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_client_gone_at_any_octet_is_no_failure() {
    let scratch = Scratch::new();
    let whole = format!("{BEGIN}x\r\n.\r\nQUIT\r\n");
    for length in 0..=whole.len() {
        let output = feed(&mut scratch.command("smtpsrvr"), &whole.as_bytes()[..length]);
        assert_eq!(output.status.code(), Some(0), "gone after {length} octets: {output:?}");
        let acknowledged = output.stdout.windows(10).filter(|window| window == b"queued as ").count();
        assert_eq!(acknowledged, usize::from(length >= whole.len() - "QUIT\r\n".len()), "gone after {length} octets");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(log.matches("event=end").count(), 1, "gone after {length} octets: {log}");
        let lost = log.contains("lost connection while ");
        assert_eq!(lost, length < whole.len(), "gone after {length} octets: {log}");
    }
    assert_eq!(scratch.queued().len(), "QUIT\r\n".len() + 1, "all that were acknowledged, and no others");
}

#[test]
fn a_client_that_does_not_read_is_no_failure() {
    let scratch = Scratch::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = scratch.command("smtpsrvr");
    let mut child = command.stdin(Stdio::piped()).stdout(writer).stderr(Stdio::null()).spawn().expect("smtpsrvr");
    let _ = child.stdin.take().expect("a pipe").write_all(format!("{BEGIN}x\r\n.\r\nQUIT\r\n").as_bytes());
    assert_eq!(child.wait().expect("its end").code(), Some(0));
}

#[test]
fn smuggling_never_makes_two_messages_of_one() {
    const ENDS: [&str; 11] =
        ["\n", "\r", "\r\n", "\n\r", "\r\r\n", "\r\n\n", "\r\r", "\n\n", "\0\r\n", "\r\0\n", "\r\n\0"];
    let scratch = Scratch::new();
    let smuggled = "MAIL FROM:<evil@c.example>\r\nRCPT TO:<carol@mx.example>\r\nDATA\r\nsmuggled\r\n.\r\n";
    let mut sent = 0;
    for before in ENDS {
        for behind in ENDS {
            let middle = format!("{before}.{behind}");
            // The real end of a message, and a message behind it.
            if middle.contains("\r\n.\r\n") {
                continue;
            }
            let session = format!("{BEGIN}body{middle}{smuggled}QUIT\r\n");
            let output = feed(&mut scratch.command("smtpsrvr"), session.as_bytes());
            assert_eq!(output.status.code(), Some(0), "{}", middle.escape_debug());
            sent += 1;
            let queued = scratch.queued();
            assert!(queued.len() <= sent, "{} made two of one", middle.escape_debug());
            let evil = queued.iter().any(|message| message.reverse_path.starts_with(b"evil"));
            assert!(!evil, "{} let a message through", middle.escape_debug());
        }
    }
    assert!(sent >= 100);
}

#[test]
fn an_early_refusal_reaches_a_client_that_is_still_sending() {
    let scratch = Scratch::with("smtpd_forbid_unauth_pipelining = no");
    let input = format!("{BEGIN}a\nb{}", "x".repeat(300_000));
    let (seen, status) = under_inetd(&mut scratch.command("smtpsrvr"), input.as_bytes());
    assert!(seen.contains("\\r\\n550 5.6.11 "), "{}", &seen[..seen.len().min(500)]);
    assert_eq!(status.code(), Some(0));
}

#[test]
fn without_submit_mail_is_put_off_and_the_session_goes_on() {
    let scratch = Scratch::with("daemon_directory = /nonexistent");
    let output = feed(&mut scratch.command("smtpsrvr"), format!("{BEGIN}NOOP\r\nQUIT\r\n").as_bytes());
    let replies = String::from_utf8(output.stdout).expect("ASCII");
    assert!(replies.contains("\r\n451 4.3.0 ") && replies.ends_with("\r\n221 2.0.0 Goodbye\r\n"), "{replies}");
    assert!(!replies.contains("\r\n5") && !replies.contains("354"), "{replies}");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn rsmtpsrvr_is_finicky_and_other_names_are_not() {
    let scratch = Scratch::new();
    for (name, reply) in [
        ("rsmtpsrvr", "421 4.7.1 "),
        ("/usr/libexec/rsmtpsrvr", "421 4.7.1 "),
        ("smtpsrvr", "220 "),
        ("/r/smtpsrvr", "220 "),
        ("rsmtpsrvr2", "220 "),
    ] {
        let mut command = scratch.command("smtpsrvr");
        command.arg0(name).args(["192.0.2.1", "mx.example", "local"]);
        let output = feed(&mut command, b"QUIT\r\n");
        assert!(output.stdout.starts_with(reply.as_bytes()), "{name}: {}", output.stdout.escape_ascii());
    }
}

#[test]
fn a_recorded_session_plays_again() {
    let scratch = Scratch::new();
    let folder = scratch.path().join("records");
    fs::create_dir(&folder).expect("a folder");
    scratch.hand_over(&folder);
    let record = folder.join("session.smtp");
    let arguments = ["--record", record.to_str().expect("UTF-8"), "client.example", "mx.example", "smtp"];
    let input = format!("{BEGIN}..x \\ \u{fc}\0\r\n\r\n.\r\nVRFY nobody\r\nNOOP \x07\r\nQUIT\r\n");
    let output = scratch.run("smtpsrvr", &arguments, input.as_bytes());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = fs::read_to_string(&record).expect("a record");
    assert!(text.contains("\n# argv: client.example mx.example smtp\n"), "{text}");
    assert!(text.contains("\nS: 250 2.0.0 Ok: queued as *\n"), "{text}");
    for writes in [Writes::Whole, Writes::Octets] {
        play("smtpsrvr", &record, writes).unwrap_or_else(|problem| panic!("{problem}\n{text}"));
    }
    let again = scratch.run("smtpsrvr", &arguments, b"QUIT\r\n");
    assert_eq!(again.status.code(), Some(0), "a record that is there already is kept");
    assert_eq!(fs::read_to_string(&record).expect("a record"), text);
}
