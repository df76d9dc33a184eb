//! Pools: smtpd, the server program that accepts by itself, its children, and the submit that is kept beside it, each killed
//! and made to fail at its calls while a client is served.
//!
//! Then the next client is served: by the same smtpd where that is still there, else by one that is started anew, as whoever
//! supervises it would. What either client was told is kept.
//!
//! Of POP3 it is the form whose processes stay, for one client after another. And SMTP is also served without a pool, by an
//! smtpd that starts the program for each client.
//!
//! All that begins, waits and ends is in it. Which of some idle children takes a client is the kernel's choice, so these
//! share a name. Of each matrix a part is made in every run; see plan.rs for the whole.

use super::super::*;
use super::client::{Client, Line};
use super::plan::Share;
use super::tracer::{self, Alias, Followed};
use common::connections::Server;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// For so long a client waits for a word, and for so long at most it takes until one is served again.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between what different clients were told.
const BETWEEN: &str = "\u{1}";

/// smtpd, and what it starts for its clients.
struct Pool {
    mode: &'static str,
    program: &'static str,
    /// Of processes.
    alias: Alias,
    /// What client number so and so says.
    says: fn(usize) -> Vec<Line>,
    /// Whether that is all of what one hears who is served.
    is_served: fn(&str) -> bool,
}

/// The children of a pool, and what they start, have the pool's third place in common.
fn alias(process: &str) -> String {
    let (place, program) = process.split_once(' ').unwrap_or((process, ""));
    let places: Vec<&str> =
        place.split('.').enumerate().map(|(depth, one)| if depth == 2 { "*" } else { one }).collect();
    format!("{} {program}", places.join("."))
}

impl Pool {
    fn arguments(&self, port: u16) -> Vec<OsString> {
        let port = port.to_string();
        let place = ["--mode", self.mode, "--listen-address", "127.0.0.1", "--port", &port].map(OsString::from);
        let rest = ["-n", "8", "-o", "idle_children=1", "-o", "max_use=10", self.program].map(OsString::from);
        [common::binary("smtpd").into()].into_iter().chain(place).chain(rest).collect()
    }

    /// One session: what was said, as far as it came.
    fn session(&self, address: SocketAddr, number: usize) -> String {
        let Ok(stream) = TcpStream::connect(address) else { return String::new() };
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        let mut client = Client::new(stream);
        client.say(&(self.says)(number));
        client.said
    }

    /// A client, and after him others until one is served, or smtpd has gone; that then is told to end.
    fn clients(&self, main: Pid, address: SocketAddr) -> Vec<String> {
        let is_there = || kill(main, None).is_ok();
        let end = Instant::now() + PATIENCE;
        let mut said = vec![self.session(address, 0)];
        while is_there() && !said[1..].iter().any(|said| (self.is_served)(said)) {
            assert!(Instant::now() < end, "no other client is served: {said:?}");
            said.push(self.session(address, said.len()));
            if !said.last().is_some_and(|said| (self.is_served)(said)) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = kill(main, Signal::SIGTERM);
        said
    }
}

impl Victim for Pool {
    fn name(&self) -> String {
        format!("smtpd --mode {} {}", self.mode, self.program)
    }

    fn is_meant(&self, _: &str) -> bool {
        true
    }

    fn run(&self, scratch: &Scratch, target: Option<&Target>) -> (Followed, Output) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("its address");
        // The socket is there already, so that nobody needs to wait for anything.
        let mut program = tracer::start(
            &self.arguments(address.port()),
            scratch.path(),
            [OwnedFd::from(listener).into(), Stdio::piped()],
        );
        let main = Pid::from_raw(i32::try_from(program.0.id()).expect("a process id"));
        let mut stderr = program.0.stderr.take().expect("a pipe");
        let mut stdout = program.0.stdout.take().expect("a pipe");
        let mut log = Vec::new();
        let (followed, mut said) = std::thread::scope(|scope| {
            let log = &mut log;
            scope.spawn(move || stderr.read_to_end(log));
            let clients = scope.spawn(move || self.clients(main, address));
            let followed = tracer::follow(&program, target, self.alias);
            (followed, clients.join())
        });
        let log_text = String::from_utf8_lossy(&log);
        let said_by = said.as_mut().unwrap_or_else(|_| panic!("{target:?}: a client was not served: {log_text}"));
        if !said_by.iter().skip(1).any(|said| (self.is_served)(said)) {
            said_by.push(self.next_after_it(scratch, said_by.len()));
        }
        let mut octets = Vec::new();
        stdout.read_to_end(&mut octets).expect("what it said");
        assert!(octets.is_empty(), "{target:?}: on standard output: {}", String::from_utf8_lossy(&octets));
        let (status, stdout) = (followed.status, said_by.join(BETWEEN).into_bytes());
        (followed, Output { status, stdout, stderr: log })
    }
}

impl Pool {
    /// smtpd is not there any more: it is started again.
    fn next_after_it(&self, scratch: &Scratch, number: usize) -> String {
        let arguments = self.arguments(0);
        let mut command = Command::new(&arguments[0]);
        command.args(&arguments[1..]).env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", scratch.path());
        let mut server = Server::start(&mut command);
        let address = server.address("0");
        let said = self.session(address, number);
        assert!((self.is_served)(&said), "{number}: not served after a new start: {said}: {:?}", server.seen);
        server.signal(Signal::SIGTERM);
        assert_eq!(server.end(), ExitStatus::from_raw(0));
        said
    }
}

const SMTP: Pool = Pool {
    mode: "pool",
    program: "smtpsrvr",
    alias,
    says: |number| {
        let body = BODY.replace("\n.", "\n..").replace('\n', "\r\n");
        let mut lines = vec![Line::new("EHLO client.example")];
        for message in 0..messages(number) {
            lines.extend(["MAIL FROM:<alice@mx.example>", "RCPT TO:<bob@mx.example>", "DATA"].map(Line::new));
            let quit = if message + 1 == messages(number) { "\r\nQUIT" } else { "" };
            lines.push(Line::new(format!("X-Number: {number}.{message}\r\n{body}.{quit}")));
        }
        lines
    },
    is_served: |said| said.ends_with("221 2.0.0 Goodbye\r\n"),
};

/// How many messages that client has: the third of the first one gets a file that was prepared for it.
fn messages(client: usize) -> usize {
    if client == 0 { 3 } else { 1 }
}

/// Each message that was acknowledged is there once, each other one once or not.
fn all_kept(scratch: &Scratch, output: &Output, what: &str) {
    // What cannot write the FIFO starts deliver, which may not have ended yet.
    scratch.settle();
    scratch.deliver();
    let mail = scratch.mail("bob");
    let said = String::from_utf8_lossy(&output.stdout);
    for (number, said) in said.split(BETWEEN).enumerate() {
        let acknowledged = said.matches("250 2.0.0 Ok: queued as ").count();
        for message in 0..messages(number) {
            let whole = format!("\nX-Number: {number}.{message}\n{BODY}");
            let count = mail.iter().filter(|mail| mail.ends_with(whole.as_bytes())).count();
            let is_right = count == 1 || (count == 0 && message >= acknowledged);
            assert!(is_right, "{what}: message {number}.{message}, {count} times: {output:?}");
        }
    }
    assert!(mail.iter().all(|mail| mail.ends_with(BODY.as_bytes())), "{what}: torn");
    assert_eq!(scratch.queued().len(), 0, "{what}: left in the queue");
    nothing_left_over(scratch, what);
}

#[test]
fn a_pool_killed_anywhere_loses_nothing_acknowledged_and_serves_the_next_client() {
    let processes: BTreeSet<String> = SMTP.calls(&receiving).into_keys().map(|call| call.process).collect();
    let all = ["0 smtpd", "0.1 smtpsrvr", "0.1.* smtpsrvr", "0.2 submit", "0.2.* submit"];
    assert!(all.iter().all(|process| processes.contains(*process)), "{processes:?}");
    SMTP.kill(Share::Part(900), &receiving, &all_kept);
}

/// Of the kernel's waiters one client wakes one, and it tells nobody else when that is killed.
#[test]
fn a_client_that_has_woken_a_child_which_is_killed_is_served_by_another() {
    for (process, instance) in [("0.1.* smtpsrvr", 1), ("0.1.* smtpsrvr", 2), ("0.2.* submit", 1), ("0.2.* submit", 2)]
    {
        let call = Call { process: process.to_owned(), number: nix::libc::SYS_accept4 };
        let target = Target { call, instance, blow: Blow::Kill };
        if let Ok((scratch, output)) = SMTP.hit(&receiving, &target) {
            all_kept(&scratch, &output, &format!("{process}, accept4 {instance}"));
        } else {
            assert!(instance > 1, "{process} was never killed at its first accept4");
        }
    }
}

#[test]
fn an_error_of_any_file_call_of_a_pool_loses_nothing_acknowledged_and_the_next_client_is_served() {
    SMTP.fail(Share::Part(530), &receiving, &all_kept);
}

/// smtpd without a pool: it starts the program for each client, by whose number its processes are told apart.
const EXEC: Pool = Pool { mode: "exec", alias: str::to_owned, ..SMTP };

#[test]
fn smtpd_that_starts_a_program_for_each_client_is_killed_anywhere_and_loses_nothing_acknowledged() {
    let processes: BTreeSet<String> = EXEC.calls(&receiving).into_keys().map(|call| call.process).collect();
    let all = ["0 smtpd", "0.1 smtpsrvr", "0.1.1 submit", "0.2 smtpsrvr", "0.2.1 submit"];
    assert!(all.iter().all(|process| processes.contains(*process)), "{processes:?}");
    EXEC.kill(Share::Few(790), &receiving, &all_kept);
}

#[test]
fn an_error_of_any_file_call_of_smtpd_and_a_program_it_starts_loses_nothing_acknowledged() {
    EXEC.fail(Share::Few(460), &receiving, &all_kept);
}

/// Where root has started it its processes stay: one that checks passwords, one that parses, one that is the user.
const POP3: Pool = Pool {
    mode: "pool",
    program: "pop3d",
    alias,
    says: |number| {
        let last = if number == 0 { "RETR 1\r\nDELE 1\r\nQUIT" } else { "QUIT" };
        let password = format!("PASS {}", common::PASSWORD);
        ["USER bob", &password, last].map(Line::new).into()
    },
    is_served: |said| said.contains(" messages, ") && said.ends_with("+OK Goodbye\r\n"),
};

/// What the first client did counts; the next one was served before.
fn nothing_unmarked_is_gone(scratch: &Scratch, output: &Output, what: &str) {
    let said = String::from_utf8_lossy(&output.stdout);
    let first = said.split(BETWEEN).next().unwrap_or_default().as_bytes().to_vec();
    unmarked_is_kept(scratch, &Output { stdout: first, ..output.clone() }, what);
}

#[test]
fn a_pool_of_pop3d_killed_anywhere_removes_nothing_unmarked_and_serves_the_next_client() {
    let processes: BTreeSet<String> = POP3.calls(&mailbox).into_keys().map(|call| call.process).collect();
    let mut all = vec!["0 smtpd", "0.1 pop3d", "0.1.* pop3d"];
    if nix::unistd::geteuid().is_root() {
        all.extend(["0.1.*.1 pop3d", "0.1.*.2 pop3d"]);
    }
    assert!(all.iter().all(|process| processes.contains(*process)), "{processes:?}");
    POP3.kill(Share::Part(500), &mailbox, &nothing_unmarked_is_gone);
}

#[test]
fn an_error_of_any_file_call_of_a_pool_of_pop3d_removes_nothing_unmarked_and_the_next_client_is_served() {
    POP3.fail(Share::Part(290), &mailbox, &nothing_unmarked_is_gone);
}
