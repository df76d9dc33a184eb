//! What surrounds every program: under a superserver descriptor 2 is the client too, and nothing but the protocol may
//! ever be seen there. (planted.rs has the panic and the failing allocation.)

mod common;

use common::syslog::Syslog;
use common::{Scratch, binary, under_inetd};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

#[test]
fn wrong_configuration_and_usage_are_told_in_the_protocol_and_in_the_status() {
    for (program, reply) in [("smtpsrvr", "421 "), ("pop3d", "-ERR "), ("qmqpd", ":Z")] {
        let scratch = Scratch::new();
        scratch.configure("message_size_limit = lots");
        let (seen, status) = under_inetd(&mut scratch.command(program), b"");
        assert!(seen.contains(reply) && !seen.contains("lots") && !seen.contains("main.cf"), "{program}: {seen}");
        assert_eq!(status.code(), Some(78), "{program}");
        let (seen, status) = under_inetd(Scratch::new().command(program).arg("--no-such-option"), b"");
        assert!(seen.contains(reply) && !seen.contains("no-such-option"), "{program}: {seen}");
        assert_eq!(status.code(), Some(64), "{program}");
    }
}

#[test]
fn a_session_under_inetd_says_nothing_but_the_protocol() {
    // The client sends all it has at once.
    let scratch = Scratch::with("smtpd_forbid_unauth_pipelining = no");
    let input = b"EHLO client.example\r\nMAIL FROM:<a@client.example>\r\nRCPT TO:<nobody-here@mx.example>\r\nQUIT\r\n";
    let (seen, status) = under_inetd(&mut scratch.command("smtpsrvr"), input);
    assert!(seen.starts_with("220 mx.example") && seen.contains("\\r\\n221 2.0.0"), "{seen}");
    for line in seen.trim_end_matches("\\r\\n").split("\\r\\n") {
        assert!(line.as_bytes().iter().take(3).all(u8::is_ascii_digit), "no reply: {line}");
    }
    assert_eq!(status.code(), Some(0));
}

/// A program under a limit of its address space, in kB.
fn limited(scratch: &Scratch, program: &str, limit: usize) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {limit}; exec \"$0\" \"$@\"")]).arg(common::binary(program));
    command.env_clear().env("MAIL_CONFIG", scratch.path());
    command
}

#[test]
fn too_little_memory_shows_the_client_protocol_or_nothing() {
    for (program, input) in [
        ("smtpsrvr", &b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"[..]),
        ("pop3d", b"USER bob\r\nPASS secret\r\nSTAT\r\nQUIT\r\n"),
    ] {
        // Below this the dynamic loader fails, which no program can help.
        let starts = |limit: &usize| {
            let scratch = Scratch::new();
            common::feed(limited(&scratch, program, *limit).arg("--version"), b"").status.success()
        };
        let least = (3000..40_000).step_by(100).find(starts).expect("a limit under which it starts");
        let mut broke = 0;
        for limit in (least.saturating_sub(300)..least + 1500).step_by(100) {
            let scratch = Scratch::new();
            let (seen, status) = under_inetd(&mut limited(&scratch, program, limit), input);
            broke += usize::from(!status.success());
            // The loader's words, at which nobody is asked; these two it has.
            if seen.contains("shared libraries") || seen.contains("for initial thread") {
                continue;
            }
            for line in seen.split("\\r\\n").filter(|line| !line.is_empty()) {
                let is_reply =
                    line.starts_with("+OK") || line.starts_with("-ERR") || line.as_bytes()[0].is_ascii_digit();
                assert!(is_reply, "{program} with {limit} kB: {line}");
            }
        }
        assert!(broke > 0, "{program}: no limit was too small");
    }
}

#[test]
fn a_user_that_does_not_exist_is_told_with_the_place_where_it_was_set() {
    if !common::needs::root() {
        // Others stay who they are, and ask for no user.
        return;
    }
    for program in ["smtpsrvr", "qmqpd", "pop3d", "submit", "deliver"] {
        let scratch = Scratch::new();
        scratch.configure("mail_owner = no-such-user");
        let line = std::fs::read_to_string(scratch.path().join("main.cf")).expect("main.cf").lines().count();
        let output = scratch.run(program, if program == "submit" { &["bob"] } else { &[] }, b"");
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let place = format!("main.cf:{line}: mail_owner = no-such-user: expected a user of this system");
        assert!(output.status.code() == Some(78) && log.contains(&place), "{program}: {log}");
    }
}

/// `<22>`: facility mail (2), severity info (6); local3 is 19.
#[test]
fn a_record_in_syslog_has_the_facility_and_the_name_that_were_set() {
    if !common::needs::root() {
        return;
    }
    for (program, options, begin) in [
        ("smtpsrvr", &[][..], "<22>doorpost/smtpsrvr["),
        ("smtpsrvr", &["-o", "syslog_facility=local3", "-o", "syslog_name=mx"], "<158>mx/smtpsrvr["),
        ("pop3d", &[], "<22>doorpost/pop3d["),
        ("pop3d", &["--log-facility=local3", "--log-tag=mail"], "<158>mail/pop3d["),
    ] {
        let scratch = Scratch::new();
        let syslog = Syslog::new(scratch.path());
        let mut command = syslog.command(&binary(program));
        let (_, status) = under_inetd(command.env("MAIL_CONFIG", scratch.path()).args(options), b"QUIT\r\n");
        assert_eq!(status.code(), Some(0), "{program} {options:?}");
        let records = syslog.all();
        assert!(!records.is_empty() && records.iter().all(|record| record.starts_with(begin)), "{begin}: {records:?}");
    }
}

/// systemd says by device and inode which stream is the journal's; the variable alone says nothing of descriptor 2.
#[test]
fn the_journal_is_told_how_grave_a_record_is_and_no_other_stream_is_taken_for_it() {
    let scratch = Scratch::new();
    let place = scratch.path().join("journal");
    for (off_by, begin) in [(0, "<6>doorpost/smtpsrvr["), (1, "doorpost/smtpsrvr[")] {
        let journal = File::create(&place).expect("a file");
        let facts = journal.metadata().expect("its number");
        let mut command = scratch.command("smtpsrvr");
        command.env("JOURNAL_STREAM", format!("{}:{}", facts.dev(), facts.ino() + off_by));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(journal).spawn().expect("smtpsrvr");
        drop(child.stdin.take());
        assert!(child.wait_with_output().expect("its end").status.success());
        let records = fs::read_to_string(&place).expect("records");
        assert!(!records.is_empty() && records.lines().all(|record| record.starts_with(begin)), "{begin}: {records}");
        let (seen, _) = under_inetd(command.env("JOURNAL_STREAM", "8:12345"), b"QUIT\r\n");
        assert!(!seen.contains("smtpsrvr["), "the client on descriptor 2 is no journal: {seen}");
    }
}

/// What cannot be read, and what cannot be written.
#[test]
fn without_a_usable_connection_the_status_is_74() {
    for program in ["smtpsrvr", "lmtpsrvr", "qmqpd", "qmtpd", "pop3d"] {
        let scratch = Scratch::with("qmqpd_authorized_clients = stdin");
        let folder = || Stdio::from(File::open(scratch.path()).expect("a folder"));
        for stdout in [Stdio::piped(), folder()] {
            let mut command = scratch.command(program);
            let output = command.stdin(folder()).stdout(stdout).stderr(Stdio::piped()).output().expect("a server");
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(74), "{program}: {log}");
        }
    }
}
