//! Sessions under TLS of a client who logs in: smtpsrvr with STARTTLS and AUTH, pop3d with STLS, USER and PASS, each killed and
//! made to fail at its calls, from the first one to those about certificates and passwords to the last.
//!
//! The client is on a socket, as inetd gives it. First it has a wrong password, with which nobody may be let in, whatever
//! fails.

use super::super::*;
use super::client::{Client, Line};
use super::plan::Share;
use super::tracer::{self, Followed};
use crate::common::login::{LOGIN, plain};
use crate::common::{PASSWORD, tls};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

/// For so long a client waits for a word: for longer than processes of ours wait for each other.
const PATIENCE: Duration = Duration::from_secs(40);

struct Session {
    program: &'static str,
    says: fn() -> Vec<Line>,
}

impl Victim for Session {
    fn name(&self) -> String {
        format!("{} under TLS", self.program)
    }

    fn is_meant(&self, _: &str) -> bool {
        true
    }

    fn run(&self, scratch: &Scratch, target: Option<&Target>) -> (Followed, Output) {
        let (ours, theirs) = UnixStream::pair().expect("a socketpair");
        ours.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        let theirs = OwnedFd::from(theirs);
        let ends = [theirs.try_clone().expect("a descriptor").into(), Stdio::from(theirs)];
        let mut program = tracer::start(&[common::binary(self.program).into()], scratch.path(), ends);
        let lines = (self.says)();
        let client = std::thread::spawn(move || {
            let mut client = Client::new(ours);
            client.say(&lines);
            client.said
        });
        let followed = tracer::follow(&program, target, str::to_owned);
        let said = client.join().unwrap_or_else(|_| panic!("{target:?}: the client was left waiting"));
        let mut stderr = Vec::new();
        program.0.stderr.take().expect("a pipe").read_to_end(&mut stderr).expect("its records");
        let status = followed.status;
        (followed, Output { status, stdout: said.into_bytes(), stderr })
    }
}

impl Session {
    /// Without a blow the client is served, and these processes are at work.
    fn is_whole(&self, prepare: &dyn Fn() -> Scratch, is_served: &dyn Fn(&Output) -> bool, processes: &[&str]) {
        let (followed, output) = self.run(&prepare(), None);
        assert!(is_served(&output), "{}: {output:?}", self.name());
        let seen: BTreeSet<&str> = followed.calls.keys().map(|call| call.process.as_str()).collect();
        assert!(processes.iter().all(|process| seen.contains(process)), "{}: {seen:?}", self.name());
    }
}

/// Whoever is let in was refused before, with the wrong password.
fn wrong_password_is_refused(output: &Output, [let_in, refused, later]: [&str; 3], what: &str) {
    let said = String::from_utf8_lossy(&output.stdout);
    let before = said.split_once(let_in).map(|(before, _)| before);
    let is_refused = |before: &str| before.contains(refused) || before.contains(later);
    assert!(before.is_none_or(is_refused), "{what}: let in with a wrong password: {said}");
}

const SMTP: Session = Session {
    program: "smtpsrvr",
    says: || {
        let body = BODY.replace("\n.", "\n..").replace('\n', "\r\n");
        let mut lines = ["EHLO client.example", "STARTTLS", "EHLO client.example"].map(Line::new).to_vec();
        lines.extend([Line::wrong(plain("alice", "wrong")), Line::new(plain("alice", PASSWORD))]);
        lines.extend(["MAIL FROM:<alice@mx.example>", "RCPT TO:<bob@mx.example>", "DATA"].map(Line::new));
        lines.push(Line::new(format!("{body}.\r\nQUIT")));
        lines
    },
};

fn with_login() -> Scratch {
    let scratch = receiving();
    scratch.configure(LOGIN);
    tls::configure(&scratch);
    scratch
}

#[test]
fn smtpsrvr_killed_or_failing_anywhere_under_tls_loses_nothing_acknowledged_and_lets_nobody_else_in() {
    SMTP.is_whole(&with_login, &acknowledged, &["0 smtpsrvr", "0.1 smtpsrvr", "0.2 submit"]);
    SMTP.kill_and_fail(Share::Few, [360, 215], &with_login, &|scratch, output, what| {
        wrong_password_is_refused(output, ["\r\n235 ", "\r\n535 ", "\r\n454 "], what);
        kept(scratch, output, what);
    });
}

const POP3: Session = Session {
    program: "pop3d",
    says: || {
        let [wrong, right] = ["wrong", PASSWORD].map(|password| format!("PASS {password}"));
        let mut lines = ["STLS", "USER bob"].map(Line::new).to_vec();
        lines.extend([Line::wrong(wrong), Line::new("USER bob"), Line::new(right)]);
        lines.push(Line::new("RETR 1\r\nDELE 1\r\nQUIT"));
        lines
    },
};

fn mailbox_with_tls() -> Scratch {
    let scratch = mailbox();
    tls::configure(&scratch);
    scratch
}

#[test]
fn pop3d_killed_or_failing_anywhere_under_tls_removes_nothing_unmarked_and_lets_nobody_else_in() {
    // As another user it is one process.
    if !crate::common::needs::root() {
        return;
    }
    let is_served = |output: &Output| output.stdout.ends_with(b"+OK Marked as deleted\r\n+OK Goodbye\r\n");
    POP3.is_whole(&mailbox_with_tls, &is_served, &["0 pop3d", "0.1 pop3d"]);
    POP3.kill_and_fail(Share::Few, [290, 195], &mailbox_with_tls, &|scratch, output, what| {
        wrong_password_is_refused(output, [" messages, ", "\r\n-ERR ", "\r\n-ERR "], what);
        unmarked_is_kept(scratch, output, what);
    });
}
