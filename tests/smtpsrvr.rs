//! smtpsrvr as a client sees it: the transcripts, and hostile input to the real program.

mod common;

use common::login::{LOGIN, extensions, greeted, plain};
use common::names::{Names, Table};
use common::processes::peak;
use common::tls::{Client, configure};
use common::transcript::{Writes, play, play_all};
use common::{PASSWORD, Scratch, feed, under_inetd};
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
        assert!((1..2 * 1024).contains(&most), "{beginning:?} and 50 MB of {filler:?}: {most} kB");
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
    assert!(most < 2 * 1024, "{most} kB");
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

/// As long as addresses may be, with all that can be said of each.
#[test]
fn as_many_recipients_as_ehlo_tells_have_room() {
    let scratch = Scratch::with("smtpd_recipient_limit = 50000");
    scratch.write("channels", "smtp * * discard: *\n");
    let rcpt = |number: usize| {
        let address = format!("{number:09}{}@{}", "x".repeat(55), format!("{}.", "d".repeat(61)).repeat(3) + "ab");
        assert_eq!(address.len(), 253);
        let orcpt = "y".repeat(493);
        format!("RCPT TO:<{address}> NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;{orcpt}\r\n")
    };
    let all: String = (0..1024).map(rcpt).collect();
    let output = feed(&mut scratch.command("smtpsrvr"), format!("EHLO c\r\nMAIL FROM:<>\r\n{all}").as_bytes());
    let replies = String::from_utf8(output.stdout).expect("ASCII");
    assert!(replies.contains("\r\n250-LIMITS RCPTMAX=1024\r\n"), "{}", &replies[..400]);
    assert_eq!(replies.matches("\r\n250 2.1.5 ").count(), 1024);
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

/// What a client at this address hears, line by line.
fn said(scratch: &Scratch, address: &str, input: &str) -> Vec<String> {
    let mut command = scratch.command("smtpsrvr");
    let output = feed(command.env("TCPREMOTEIP", address), input.as_bytes());
    String::from_utf8(output.stdout).expect("ASCII").lines().map(str::to_owned).collect()
}

/// The same, without the lines of the reply to EHLO.
fn replies(scratch: &Scratch, address: &str, input: &str) -> Vec<String> {
    let all = said(scratch, address, input);
    all.into_iter()
        .filter(|line| !line.starts_with("250-") && !line.starts_with("220 ") && line != "250 HELP")
        .collect()
}

const OFFER: &str = "EHLO c.example\r\nMAIL FROM:<a@b>\r\n";

#[test]
fn keywords_that_are_discarded_are_not_listed_and_the_others_are() {
    let scratch = Scratch::with("smtpd_discard_ehlo_keywords = chunking, BINARYMIME dsn");
    let listed = said(&scratch, "127.0.0.1", "EHLO c.example\r\nQUIT\r\n").join("|");
    for keyword in ["CHUNKING", "BINARYMIME", "DSN"] {
        assert!(!listed.contains(keyword), "{keyword}: {listed}");
    }
    assert!(listed.contains("250-PIPELINING|250-SIZE ") && listed.contains("250 HELP"), "{listed}");
    // What only BDAT could bring is told before anything of it is sent.
    let session = "EHLO c.example\r\nMAIL FROM:<a@b> BODY=BINARYMIME\r\nMAIL FROM:<a@b> BODY=8BITMIME\r\nQUIT\r\n";
    let said = said(&scratch, "127.0.0.1", session).join("|");
    assert!(said.contains("|501 5.5.4 ") && said.contains("|250 2.1.0 "), "{said}");
}

#[test]
fn a_bare_lf_is_taken_from_whom_that_is_allowed_and_from_nobody_else() {
    let message = "EHLO c\nMAIL FROM:<a@b>\nRCPT TO:<bob@mx.example>\nDATA\nSubject: x\n\none\n.\ntwo\r\n.\r\nQUIT\r\n";
    let scratch = Scratch::with("smtpd_forbid_bare_newline_exclusions = 192.0.2.0/24");
    assert!(said(&scratch, "198.51.100.1", message)[1].starts_with("500 5.5.2 "));
    assert!(replies(&scratch, "192.0.2.1", message).last().is_some_and(|line| line.starts_with("221 ")));
    assert_eq!(
        scratch.queued().iter().map(|m| m.content().to_vec()).collect::<Vec<_>>(),
        [b"Subject: x\n\none\n.\ntwo\n"]
    );
    scratch.configure("smtpd_forbid_bare_newline_exclusions =\nsmtpd_forbid_bare_newline = normalize");
    assert!(replies(&scratch, "198.51.100.1", message).last().is_some_and(|line| line.starts_with("221 ")));
    // The dot between two LF did not end it.
    assert_eq!(scratch.queued().len(), 2);
    scratch.configure("smtpd_forbid_bare_newline = reject");
    assert!(said(&scratch, "198.51.100.1", message)[1].starts_with("500 5.5.2 "));
}

/// What a person types at a terminal, whose driver makes of each Enter an LF.
#[test]
fn at_a_terminal_a_line_ends_as_a_person_ends_it() {
    let scratch = Scratch::new();
    for (program, arguments) in [("smtpsrvr", &[][..]), ("sendmail", &["-bs"])] {
        let terminal = nix::pty::openpty(None, None).expect("a terminal");
        let mut command = scratch.command(if arguments.is_empty() { program } else { "submit" });
        let output = terminal.slave.try_clone().expect("a descriptor");
        command.arg0(program).args(arguments).stdin(terminal.slave).stdout(output).stderr(Stdio::null());
        let mut child = command.spawn().expect("a program of ours");
        // The builder has copies of the descriptors.
        drop(command);
        let mut person = fs::File::from(terminal.master);
        let lines = "EHLO me\nMAIL FROM:<a@c.example>\nRCPT TO:<bob@mx.example>\nDATA\nSubject: x\n\n..one\n.\nQUIT\n";
        person.write_all(lines.as_bytes()).expect("typing");
        let mut seen = Vec::new();
        // A terminal that nobody has any more is an error to read from.
        let _ = person.read_to_end(&mut seen);
        let seen = String::from_utf8_lossy(&seen).into_owned();
        assert!(
            child.wait().expect("its end").success() && seen.contains("\n250 2.0.0 Ok: queued as "),
            "{program}: {seen}"
        );
    }
    let contents: Vec<_> = scratch.queued().iter().map(|message| message.content().to_vec()).collect();
    assert_eq!(contents, [b"Subject: x\n\n.one\n"; 2]);
}

#[test]
fn where_a_list_cannot_tell_nobody_is_refused_for_good() {
    let scratch = Scratch::with(
        "smtpd_forbid_bare_newline_exclusions = hash:/nonexistent/table\n\
         smtpd_authorized_xclient_hosts = hash:/nonexistent/table",
    );
    let begin = "EHLO c\r\nXCLIENT ADDR=192.0.2.9\r\nMAIL FROM:<a@b>\r\nRCPT TO:<bob@mx.example>\r\n";
    for (end, last) in [
        ("NOOP\n", "421 4.4.3 "),
        ("DATA\r\nSubject: x\n.\r\n", "421 4.4.3 "),
        ("BDAT 3 LAST\r\na\n\n", "450 4.7.1 "),
        ("BDAT 2 LAST\r\na\r", "450 4.7.1 "),
    ] {
        let mut command = scratch.command("smtpsrvr");
        let output = feed(command.env("TCPREMOTEIP", "198.51.100.1"), format!("{begin}{end}").as_bytes());
        let said = String::from_utf8(output.stdout).expect("ASCII");
        let mut lines = said.lines().filter(|line| !line.starts_with("250-"));
        assert!(lines.nth(2).is_some_and(|line| line.starts_with("450 4.7.1 ")), "{said}");
        assert!(lines.next_back().is_some_and(|line| line.starts_with(last)), "{end}: {said}");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        for parameter in ["smtpd_forbid_bare_newline_exclusions", "smtpd_authorized_xclient_hosts"] {
            let told = format!("client=198.51.100.1 event=trouble with={parameter} reason=\"");
            assert!(log.contains(&told), "{log}");
        }
    }
    assert!(scratch.queued().is_empty());
}

#[test]
fn mail_is_put_off_where_the_disk_has_no_room_for_what_it_says_of_its_size_or_at_all() {
    let scratch = Scratch::with("message_size_limit = 0");
    let room = nix::sys::statvfs::statvfs(&scratch.queue()).expect("a file system");
    let free = room.blocks_available() * room.fragment_size();
    let with = |size: u64| format!("EHLO c\r\nMAIL FROM:<a@b> SIZE={size}\r\nQUIT\r\n");
    let refusal = "452 4.3.1 ";
    assert!(replies(&scratch, "127.0.0.1", &with(1000))[0].starts_with("250 2.1.0 "));
    assert!(replies(&scratch, "127.0.0.1", &with(free * 2))[0].starts_with(refusal), "larger than the disk");
    // What is to stay free counts as taken.
    scratch.configure(&format!("queue_minfree = {}", free / 2));
    assert!(replies(&scratch, "127.0.0.1", &with(1000))[0].starts_with("250 2.1.0 "));
    assert!(replies(&scratch, "127.0.0.1", &with(free / 4 * 3))[0].starts_with(refusal));
    scratch.configure(&format!("queue_minfree = {}", free * 2));
    for line in ["MAIL FROM:<a@b>", "MAIL FROM:<a@b> SIZE=1", "MAIL FROM:<>"] {
        let heard = replies(&scratch, "127.0.0.1", &format!("EHLO c\r\n{line}\r\nQUIT\r\n"));
        assert!(heard[0].starts_with(refusal) && heard[1].starts_with("221 "), "{line}: {heard:?}");
    }
}

#[test]
fn a_message_of_exactly_the_size_that_ehlo_tells_is_taken_and_one_octet_more_is_not() {
    let scratch = Scratch::with("message_size_limit = 100");
    for (octets, code) in [(100, "250 2.0.0 "), (101, "552 5.3.4 ")] {
        let text = format!("{}\r\n", "x".repeat(octets - 2));
        for content in [format!("DATA\r\n{text}.\r\n"), format!("BDAT {octets} LAST\r\n{text}")] {
            let rcpt = "RCPT TO:<alice@mx.example>\r\nRCPT TO:<bob@mx.example>\r\n";
            let session = format!("EHLO c\r\nMAIL FROM:<a@b> SIZE=100\r\n{rcpt}{content}QUIT\r\n");
            let heard = replies(&scratch, "127.0.0.1", &session);
            assert!(heard[heard.len() - 2].starts_with(code), "{octets}: {heard:?}");
        }
    }
    assert_eq!(scratch.queued().len(), 2);
}

/// Who is at which address: one with a name that leads back, one whose name leads elsewhere, one on a list.
const ZONE: Table = &[
    ("7.2.0.192.in-addr.arpa", "PTR", "good.example"),
    ("good.example", "A", "192.0.2.7"),
    ("8.2.0.192.in-addr.arpa", "PTR", "liar.example"),
    ("liar.example", "A", "192.0.2.9"),
    ("7.2.0.192.bl.example", "A", "127.0.0.4"),
    ("6.2.0.192.sold.example", "A", "203.0.113.1"),
    ("7.2.0.192.closed.example", "A", "127.255.255.254"),
];

/// As Spamhaus answers whoever asks by a public name server.
#[test]
fn a_list_that_answers_with_an_error_lists_nobody_and_the_log_tells_it_once() {
    let names = Names::start(ZONE);
    let scratch = Scratch::with(&format!(
        "name_servers = {}\nsmtpd_authorized_xclient_hosts = stdin\n\
         smtpd_client_restrictions = reject_rbl_client closed.example, reject_rbl_client bl.example=127.0.0.[2;5..11]",
        names.address
    ));
    let input = format!("XCLIENT ADDR=192.0.2.7\r\n{OFFER}RSET\r\n").repeat(2);
    let output = feed(&mut scratch.command("smtpsrvr"), input.as_bytes());
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.matches("\r\n250 2.1.0 ").count(), 2, "{said}");
    let told = "client=192.0.2.7 event=trouble with=closed.example reason=\"it answers 127.255.255.254, ";
    assert_eq!(log.matches(told).count(), 1, "{log}");
    scratch.configure("smtpd_client_restrictions = reject_rbl_client bl.example=127.0.0.2-11");
    assert_eq!(feed(&mut scratch.command("smtpsrvr"), b"").status.code(), Some(78));
}

#[test]
fn clients_are_judged_by_lists_and_names_at_mail_and_by_channels_of_names() {
    let names = Names::start(ZONE);
    let scratch = Scratch::with(&format!("name_servers = {}\nmynetworks = 192.0.2.5", names.address));
    for (restrictions, address, begins) in [
        ("reject_rbl_client bl.example", "192.0.2.7", "554 5.7.1 "),
        ("reject_rbl_client bl.example=127.0.0.4", "192.0.2.7", "554 5.7.1 "),
        ("reject_rbl_client bl.example=127.0.0.2", "192.0.2.7", "250 2.1.0 "),
        ("reject_rbl_client bl.example", "192.0.2.6", "250 2.1.0 "),
        ("reject_rbl_client sold.example", "192.0.2.6", "250 2.1.0 "),
        ("reject_unknown_client_hostname", "192.0.2.7", "250 2.1.0 "),
        ("reject_unknown_client_hostname", "192.0.2.8", "450 4.7.25 "),
        ("reject_unknown_client_hostname", "192.0.2.6", "450 4.7.25 "),
        ("permit_mynetworks, reject_unknown_client_hostname", "192.0.2.5", "250 2.1.0 "),
        ("reject_unknown_client_hostname, reject_rbl_client bl.example", "192.0.2.7", "554 5.7.1 "),
        ("reject_unknown_client_hostname, reject_rbl_client bl.example", "127.0.0.1", "250 2.1.0 "),
    ] {
        scratch.configure(&format!("smtpd_client_restrictions = {restrictions}"));
        let heard = replies(&scratch, address, &format!("{OFFER}RSET\r\nVRFY bob\r\nQUIT\r\n"));
        assert!(heard[0].starts_with(begins), "{restrictions} {address}: {heard:?}");
        // Nor is it told who is here.
        let verified = if begins.starts_with("250 ") { "250 2.1.5 <bob@mx.example>" } else { &heard[0] };
        assert_eq!(heard[2], verified, "{restrictions} {address}");
    }
    scratch.configure("smtpd_client_restrictions =");
    scratch.write("channels", "known good.example - - out\nlocal * mx.example mailbox: local\nout - * smtp: -\n");
    for (address, code) in [("192.0.2.7", "250 "), ("192.0.2.8", "550 ")] {
        let heard = replies(&scratch, address, &format!("{OFFER}RCPT TO:<x@far.example>\r\nQUIT\r\n"));
        assert!(heard[1].starts_with(code), "{address}: {heard:?}");
    }
}

/// What they are told.
const STRANGER: &str = "221 2.7.0 This is SMTP, and you are not speaking it. Goodbye";

#[test]
fn forbidden_commands_end_the_session_and_can_be_chosen() {
    let scratch = Scratch::new();
    let heard = |line: &str| replies(&scratch, "127.0.0.1", &format!("{line}\r\nNOOP\r\nQUIT\r\n"));
    for line in ["GET / HTTP/1.1", "post /", "CONNECT a:25 HTTP/1.0", "Subject: x"] {
        assert_eq!(heard(line), [STRANGER], "{line}");
    }
    assert_eq!(heard("VRFY bob").len(), 3);
    scratch.configure("disable_vrfy_command = yes");
    assert!(heard("VRFY bob")[0].starts_with("502 5.5.1 "));
    scratch.configure("smtpd_forbidden_commands = vrfy, EXPN");
    for line in ["VRFY bob", "expn x", "Subject: x"] {
        assert_eq!(heard(line), [STRANGER], "{line}");
    }
    assert_eq!(heard("GET / HTTP/1.1").len(), 3, "only what is listed");
    scratch.configure("smtpd_forbidden_commands = GET regexp:{{/^[^A-Z]/ Thrash}}");
    let output = feed(&mut scratch.command("smtpsrvr"), b"");
    assert_eq!(output.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&output.stderr).contains("smtpd_forbidden_commands"), "{output:?}");
}

#[test]
fn a_channel_lists_a_domain_beyond_ascii_in_either_form_and_mail_names_it_in_either() {
    let scratch = Scratch::new();
    for written in ["bücher.example", "xn--bcher-kva.example", ".example,Bücher.example"] {
        scratch.write("channels", &format!("local * {written} mailbox: local\nout - * smtp: -\n"));
        let rcpts = ["bob@bücher.example", "bob@BÜCHER.example", "bob@xn--bcher-kva.example", "bob@ü.other"];
        let lines: String = rcpts.iter().map(|rcpt| format!("RCPT TO:<{rcpt}>\r\n")).collect();
        let input = format!("EHLO c\r\nMAIL FROM:<a@b> SMTPUTF8\r\n{lines}QUIT\r\n");
        let heard = replies(&scratch, "127.0.0.1", &input);
        let codes: Vec<&str> = heard.iter().map(|line| &line[..3]).collect();
        assert_eq!(codes, ["250", "250", "250", "250", "550", "221"], "{written}: {heard:?}");
    }
    // So do users, aliases and senders that are written with their domain; of either form there is one mailbox.
    let folder = scratch.path().display().to_string();
    scratch.write("passwd", "dora@bücher.example:::\nedgar@xn--bcher-kva.example:::\nbob:{PLAIN}secret:::\n");
    scratch.write("aliases", "sales@bücher.example: bob\n");
    scratch.write("senders", "bob@bücher.example bob\n");
    scratch.write("channels", "local 127.0.0.1 bücher.example,mx.example mailbox: local\n");
    let domains = ["bücher.example", "Bücher.example", "xn--bcher-kva.example"];
    let rcpts =
        ["dora", "edgar", "sales", "nobody"].map(|name| domains.map(|domain| format!("RCPT TO:<{name}@{domain}>\r\n")));
    let input =
        format!("EHLO c\r\nMAIL FROM:<a@b> SMTPUTF8\r\n{}DATA\r\n\r\nx\r\n.\r\nQUIT\r\n", rcpts.concat().concat());
    let heard = replies(&scratch, "127.0.0.1", &input);
    let codes: Vec<&str> = heard.iter().map(|line| &line[..3]).collect();
    assert_eq!(codes, [&["250"; 10][..], &["550"; 3], &["354", "250", "221"]].concat(), "{heard:?}");
    scratch.deliver();
    // The first two differ in the case of a letter, and are one recipient.
    for (user, count) in [("dora@bücher.example", 2), ("edgar@xn--bcher-kva.example", 2)] {
        assert_eq!(scratch.mail(user).len(), count, "{user}");
    }
    scratch.configure(&format!("smtpd_sasl_auth_enable = yes\nsmtpd_sender_login_maps = hash:{folder}/senders"));
    for (domain, code) in [("bücher.example", "250 "), ("xn--bcher-kva.example", "250 "), ("ücher.example", "553 ")] {
        let input = format!("EHLO c\r\nAUTH PLAIN AGJvYgBzZWNyZXQ=\r\nMAIL FROM:<bob@{domain}> SMTPUTF8\r\nQUIT\r\n");
        let heard = replies(&scratch, "127.0.0.1", &input);
        assert!(heard[1].starts_with(code), "{domain}: {heard:?}");
    }
}

#[test]
fn errors_over_the_soft_limit_are_answered_late() {
    let run = |time: &str, lines: &str| {
        let scratch = Scratch::with(&format!("smtpd_soft_error_limit = 2\nsmtpd_error_sleep_time = {time}"));
        let begun = std::time::Instant::now();
        feed(&mut scratch.command("smtpsrvr"), lines.as_bytes());
        begun.elapsed().as_secs()
    };
    assert!(run("1s", &"FOO\r\n".repeat(3)) >= 1);
    // Far from it, on a busy machine too.
    assert!(run("100s", &"NOOP\r\n".repeat(3)) < 50);
}

/// RFC 5321 section 7.3.
#[test]
fn nothing_tells_a_list_from_a_mailbox_nor_who_is_on_it() {
    let scratch = Scratch::new();
    scratch.write("aliases", "staff: alice, bob\n");
    for address in ["staff", "carol"] {
        let heard = replies(&scratch, "127.0.0.1", &format!("VRFY {address}\r\nEXPN {address}\r\nQUIT\r\n"));
        assert_eq!(heard[..2], [(); 2].map(|()| format!("250 2.1.5 <{address}@mx.example>")));
    }
}

/// What there is, is in the reply to HELP, and nothing else.
#[test]
fn help_names_the_commands_that_are_there() {
    let scratch = Scratch::new();
    let named = |program: &str| {
        let output = feed(&mut scratch.command(program), b"HELP\r\nQUIT\r\n");
        let said = String::from_utf8(output.stdout).unwrap();
        let (_, rest) = said.split_once("Commands: ").unwrap();
        rest.lines().next().unwrap().split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    let lines = [
        ["EHLO x", "HELO x", "LHLO x", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "VRFY"],
        ["EXPN", "HELP", "NOOP", "QUIT", "STARTTLS", "AUTH PLAIN", "XCLIENT NAME=x", "TURN", "SEND"],
    ];
    for program in ["smtpsrvr", "lmtpsrvr"] {
        let named = named(program);
        for line in lines.as_flattened() {
            let output = feed(&mut scratch.command(program), format!("{line}\r\n").as_bytes());
            let said = String::from_utf8(output.stdout).unwrap();
            let reply = said.lines().nth(1).unwrap();
            let is_there = !["500 ", "502 ", "550 5.7.0 "].iter().any(|code| reply.starts_with(code));
            assert_eq!(
                named.iter().any(|verb| line.split(' ').next() == Some(verb)),
                is_there,
                "{program} {line}: {reply}"
            );
        }
    }
}

/// Says something that only a server does as it should that has the extension.
type Drive = fn(&mut Client);

fn says(client: &mut Client, dialogue: &[(&str, &str)]) {
    for (line, reply) in dialogue {
        let said = client.ask(line);
        assert!(said.starts_with(reply), "{line}: {said}");
    }
}

const TO_BOB: (&str, &str) = ("RCPT TO:<bob@mx.example>", "250 2.1.5 ");
const QUEUED: &str = "250 2.0.0 Ok: queued as ";

const DRIVEN: [(&str, Drive); 16] = [
    ("8BITMIME", |client| {
        says(client, &[("MAIL FROM:<a@b> BODY=9BITMIME", "501 "), ("MAIL FROM:<a@b> BODY=8BITMIME", "250 "), TO_BOB]);
        says(client, &[("DATA", "354 "), ("gr\u{fc}n\r\n.", QUEUED)]);
    }),
    ("AUTH", |client| says(client, &[(&plain("bob", "wrong"), "535 5.7.8 "), (&plain("bob", PASSWORD), "235 2.7.0 ")])),
    ("BINARYMIME", |client| {
        says(client, &[("MAIL FROM:<a@b> BODY=BINARYMIME", "250 "), TO_BOB, ("DATA", "503 ")]);
        client.send(b"BDAT 3 LAST\r\n\0\n\r");
        assert!(client.line().starts_with(QUEUED));
    }),
    ("CHUNKING", |client| {
        says(client, &[("MAIL FROM:<a@b>", "250 "), TO_BOB]);
        client.send(b"BDAT 1\r\nxBDAT 3 LAST\r\ny\r\n");
        assert!(client.line().starts_with("250 2.0.0 "));
        assert!(client.line().starts_with(QUEUED));
    }),
    ("DSN", |client| {
        says(client, &[("MAIL FROM:<a@b> RET=SOME", "501 "), ("MAIL FROM:<a@b> RET=HDRS ENVID=1", "250 ")]);
        let rcpt = "RCPT TO:<bob@mx.example> NOTIFY=";
        says(client, &[(&format!("{rcpt}SOMETIMES"), "501 "), (&format!("{rcpt}DELAY ORCPT=rfc822;x@y"), "250 ")]);
    }),
    ("ENHANCEDSTATUSCODES", |client| says(client, &[("RSET", "250 2.0.0 "), ("RCPT TO:<a@b>", "503 5.5.1 ")])),
    ("EXPN", |client| says(client, &[("EXPN bob", "250 2.1.5 <bob@mx.example>"), ("EXPN nobody", "550 5.1.1 ")])),
    ("HELP", |client| {
        client.say("HELP");
        assert!(client.reply()[0].starts_with("214-2.0.0 Commands: EHLO "));
    }),
    // RCPTMAX=2 and MAILMAX=2.
    ("LIMITS", |client| {
        for _ in 0..2 {
            says(client, &[("MAIL FROM:<a@b>", "250 "), TO_BOB, ("RCPT TO:<alice@mx.example>", "250 ")]);
            says(client, &[("RCPT TO:<carol@mx.example>", "452 4.5.3 "), ("DATA", "354 "), ("x\r\n.", QUEUED)]);
        }
        says(client, &[("MAIL FROM:<a@b>", "421 ")]);
    }),
    ("PIPELINING", |client| {
        client.send(b"MAIL FROM:<a@b>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\n");
        for reply in ["250 2.1.0 ", "250 2.1.5 ", "354 "] {
            assert!(client.line().starts_with(reply));
        }
    }),
    ("REQUIRETLS", |client| says(client, &[("MAIL FROM:<a@b> REQUIRETLS", "250 ")])),
    ("SIZE", |client| {
        says(client, &[("MAIL FROM:<a@b> SIZE=1001", "552 5.3.4 "), ("MAIL FROM:<a@b> SIZE=1000", "250 ")])
    }),
    ("SMTPUTF8", |client| {
        says(client, &[("MAIL FROM:<\u{fc}@b>", "553 5.6.7 "), ("MAIL FROM:<\u{fc}@b> SMTPUTF8", "250 ")]);
    }),
    ("STARTTLS", |client| {
        says(client, &[("STARTTLS", "220 ")]);
        client.start_tls();
        assert!(!extensions(client).contains("STARTTLS"));
    }),
    ("VRFY", |client| says(client, &[("VRFY bob", "250 2.1.5 <bob@mx.example>"), ("VRFY nobody", "550 5.1.1 ")])),
    ("XCLIENT", |client| says(client, &[("XCLIENT ADDR=198.51.100.7", "220 "), ("XCLIENT ADDR=1", "501 ")])),
];

/// A new keyword without a dialogue fails here, and so does one that only is listed.
#[test]
fn each_keyword_that_ehlo_lists_does_what_it_says() {
    let scratch = Scratch::with(&format!(
        "{LOGIN}\nsmtpd_authorized_xclient_hosts = 127.0.0.1, stdin\nsmtpd_transaction_limit = 2\n\
         smtpd_recipient_limit = 2\nmessage_size_limit = 1000"
    ));
    configure(&scratch);
    let listed = |client: &mut Client| -> Vec<String> {
        extensions(client).split('|').filter_map(|line| line.split(' ').next().map(str::to_owned)).collect()
    };
    let in_clear = || greeted(Client::from_here(&mut scratch.command("smtpsrvr")));
    let under_tls = || {
        let mut client = in_clear();
        client.ask("STARTTLS");
        client.start_tls();
        client
    };
    let mut all = [listed(&mut in_clear()), listed(&mut under_tls())].concat();
    all.retain(|keyword| !keyword.is_empty());
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, DRIVEN.map(|(keyword, _)| keyword));
    for (keyword, drive) in DRIVEN {
        let mut client = if keyword == "STARTTLS" { in_clear() } else { under_tls() };
        assert!(listed(&mut client).iter().any(|listed| listed == keyword), "{keyword}");
        drive(&mut client);
    }
}
