//! Filters by other programs: before the queue, where the client waits for what they say, and behind it (content_filter), by
//! SMTP, LMTP and qmail-queue each. Each hands mail back, and none gets it twice.

mod common;

use common::connections::{Server, smtp};
use common::filter::{filter_of, runs};
use common::hops::{Act, Hop};
use common::{Scratch, free_port};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

/// One SMTP session with one message; what the server said and logged.
fn send(scratch: &Scratch, arguments: &[&str], text: &str) -> (String, String) {
    let dialogue = format!(
        "EHLO client.example\r\nMAIL FROM:<alice@client.example> BODY=8BITMIME RET=HDRS\r\nRCPT TO:<bob@mx.example>\r\n\
         RCPT TO:<carol@mx.example>\r\nDATA\r\nSubject: x\r\n\r\n{text}\r\n.\r\nQUIT\r\n"
    );
    let output = scratch.run("smtpsrvr", &[&["192.0.2.1"], arguments].concat(), dialogue.as_bytes());
    let text = |octets: Vec<u8>| String::from_utf8_lossy(&octets).into_owned();
    (text(output.stdout), text(output.stderr))
}

fn filtered() -> Scratch {
    let scratch = Scratch::with("qmqpd_authorized_clients = stdin\nqmqpd_error_delay = 0");
    let filter = filter_of(&scratch);
    scratch.configure(&format!("before_queue_filter = qmail-queue:{filter}"));
    scratch
}

#[test]
fn a_client_hears_what_the_filter_before_the_queue_says() {
    let scratch = filtered();
    for (text, answer) in [("a virus", "\r\n554 5.7.1 "), ("come later", "\r\n451 4.3.0 ")] {
        let (said, log) = send(&scratch, &[], text);
        assert!(said.contains(answer) && !said.contains("queued"), "{text}: {said}{log}");
        assert_eq!(scratch.queued(), [], "{text}");
    }
    let (said, log) = send(&scratch, &[], "clean");
    let id = said.split_once("queued as ").expect(&said).1.lines().next().expect("an id").to_owned();
    assert!(log.contains(&format!("id={id} event=handed-over ")), "{log}");
    let queued = scratch.queued();
    assert_eq!((queued.len(), runs(&scratch)), (1, 3), "{log}");
    assert_eq!(queued[0].recipients, [b"bob@mx.example".to_vec(), b"carol@mx.example".to_vec()]);
    assert!(queued[0].parameters.starts_with("BODY=8BITMIME RET=HDRS"), "{}", queued[0].parameters);
    let whole = String::from_utf8_lossy(&queued[0].whole).into_owned();
    assert!(whole.contains("\nX-Scanned: yes\nReceived: ") && whole.contains(&format!(" id {id}")), "{whole}");
    assert_eq!(fs::read_to_string(scratch.path().join("count")).expect("the count"), "192.0.2.1\n".repeat(3));
    scratch.deliver();
    assert_eq!((scratch.mail("bob").len(), scratch.mail("carol").len()), (1, 1));
}

#[test]
fn a_qmqp_client_hears_it_too_and_a_server_without_the_filter_does_not_ask() {
    let scratch = filtered();
    let netstring = |text: &str| format!("{}:{text},", text.len());
    for (text, answer) in [("a virus", ":D"), ("come later", ":Z"), ("clean", ":KOk: queued as ")] {
        let parts = [&*format!("Subject: x\n\n{text}\n"), "alice@client.example", "bob@mx.example"];
        let output = scratch.run("qmqpd", &[], netstring(&parts.map(netstring).concat()).as_bytes());
        assert!(String::from_utf8_lossy(&output.stdout).contains(answer), "{text}: {output:?}");
    }
    assert_eq!((scratch.queued().len(), runs(&scratch)), (1, 3));
    let (said, log) = send(&scratch, &["-o", "before_queue_filter="], "a virus");
    assert!(said.contains("queued as "), "{said}{log}");
    assert_eq!((scratch.queued().len(), runs(&scratch)), (2, 3));
}

#[test]
fn nothing_is_taken_before_the_filter_has_ended_well() {
    let scratch = filtered();
    // It hands the message on, and then dies, or never ends.
    let path = scratch.path().join("filter");
    for end in ["kill -9 $$", "sleep 1000"] {
        fs::write(&path, format!("#!/bin/sh\ncat >/dev/null\n{end}\n")).expect("a filter");
        let (said, log) = send(&scratch, &["-o", "before_queue_filter_timeout=1s"], "clean");
        assert!(said.contains("\r\n451 4.3.0 ") && !said.contains("queued as"), "{said}{log}");
    }
    fs::remove_file(&path).expect("the filter");
    let (said, log) = send(&scratch, &[], "clean");
    assert!(said.contains("\r\n451 4.3.0 "), "{said}{log}");
    assert_eq!(scratch.queued(), []);
}

/// A program that listens; ended when dropped.
struct Listening(Child, u16);

impl Listening {
    /// One of ours with the socket as standard input.
    fn ours(scratch: &Scratch, program: &str, arguments: &[&str]) -> Listening {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let mut command = scratch.command(program);
        let command = command.args(arguments).stdin(OwnedFd::from(listener));
        Listening(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a server"), port)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// One message through `scratch`, whose filter is told; afterwards bob and carol have it once.
fn comes_back(scratch: &Scratch, arguments: &[&str], on_the_way: impl Fn()) -> String {
    let (said, log) = send(scratch, arguments, "clean");
    assert!(said.contains("queued as "), "{said}{log}");
    let mut log = String::new();
    for _ in 0..3 {
        log.push_str(&scratch.deliver());
        on_the_way();
    }
    for user in ["bob", "carol"] {
        assert_eq!(scratch.mail(user).len(), 1, "{user}: {log}");
    }
    assert_eq!(scratch.queued(), [], "{log}");
    String::from_utf8_lossy(&scratch.mail("bob")[0]).into_owned()
}

/// proxsmtpd between two of ours: it runs `command`, and hands on to `out`.
fn proxsmtpd(scratch: &Scratch, command: &str, out: u16) -> Listening {
    let port = free_port();
    let settings = format!(
        "Listen: 127.0.0.1:{port}\nOutAddress: 127.0.0.1:{out}\nFilterCommand: {command}\nHeader: X-Scanned: yes\n\
         TempDirectory: {}\n",
        scratch.path().display()
    );
    scratch.write("proxsmtpd.conf", &settings);
    let mut command = Command::new("/usr/sbin/proxsmtpd");
    command.args(["-d", "1", "-f"]).arg(scratch.path().join("proxsmtpd.conf"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let filter = Listening(command.spawn().expect("proxsmtpd"), port);
    common::until("proxsmtpd", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    filter
}

#[test]
fn proxsmtp_filters_what_leaves_by_smtp_and_comes_back_by_smtp() {
    let scratch = Scratch::new();
    let back = Listening::ours(&scratch, "smtpsrvr", &["-o", "content_filter="]);
    let filter = proxsmtpd(&scratch, "/bin/sed s/clean/scanned/", back.1);
    let port = filter.1;
    let filter = format!("content_filter=smtp:[127.0.0.1]:{port}");
    let text = comes_back(&scratch, &["-o", &filter], || {});
    assert!(text.contains("\nX-Scanned: yes\n") && text.ends_with("\n\nscanned\n"), "{text}");
    assert_eq!(text.matches("Received: ").count(), 2, "in, and back: {text}");
}

#[test]
fn another_server_filters_what_leaves_by_lmtp_and_comes_back_by_smtp() {
    let (scratch, filter) = (Scratch::new(), Scratch::new());
    let back = Listening::ours(&scratch, "smtpsrvr", &["-o", "content_filter="]);
    filter.write("channels", &format!("all * * smtp:[127.0.0.1]:{} *\n", back.1));
    let front = Listening::ours(&filter, "lmtpsrvr", &[]);
    let setting = format!("content_filter=lmtp:[127.0.0.1]:{}", front.1);
    let text = comes_back(&scratch, &["-o", &setting], || {
        filter.deliver();
    });
    assert_eq!(text.matches("Received: ").count(), 3, "in, at the filter, and back: {text}");
}

/// A real filter by SMTP, before the client is answered; what it lets through comes back to a server without a filter.
#[test]
fn proxsmtp_before_the_queue_takes_refuses_and_is_waited_for() {
    let scratch = Scratch::new();
    let back = Listening::ours(&scratch, "smtpsrvr", &["-o", "before_queue_filter="]);
    let script = scratch.path().join("scan");
    common::write_program(
        &script,
        "#!/bin/sh\nsed s/clean/scanned/ | awk '/virus/ { bad = 1 } { print } END { exit bad }'\n",
    );
    let filter = proxsmtpd(&scratch, &script.display().to_string(), back.1);
    scratch.configure(&format!("before_queue_filter = smtp:[127.0.0.1]:{}", filter.1));
    let (said, log) = send(&scratch, &[], "a virus");
    assert!(said.contains("\r\n554 5.7.1 ") && !said.contains("queued as"), "{said}{log}");
    assert_eq!(scratch.queued(), [], "{log}");
    let (said, log) = send(&scratch, &[], "clean");
    let id = said
        .split_once("queued as ")
        .unwrap_or_else(|| panic!("{said}{log}"))
        .1
        .lines()
        .next()
        .expect("an id")
        .to_owned();
    let queued = scratch.queued();
    assert_eq!(queued.len(), 1, "on disk before the answer: {log}");
    let whole = String::from_utf8_lossy(&queued[0].whole).into_owned();
    assert!(whole.contains("\nX-Scanned: yes\n") && whole.ends_with("\n\nscanned\n"), "{whole}");
    assert!(whole.contains(&format!(" id {id}")) && whole.matches("Received: ").count() == 2, "{whole}");
    assert!(log.contains(&format!("id={id} to=<bob@mx.example> event=handed-over filter=smtp:")), "{log}");
    drop(filter);
    let (said, log) = send(&scratch, &[], "clean");
    assert!(said.contains("\r\n451 4.3.0 "), "nobody is there: {said}{log}");
    assert_eq!(scratch.queued().len(), 1);
    scratch.deliver();
    assert_eq!((scratch.mail("bob").len(), scratch.mail("carol").len()), (1, 1));
}

/// What the filter answers, of each class and at each stage, is what the client is told; silence is no consent.
#[test]
fn a_client_hears_the_class_of_what_a_server_before_the_queue_says() {
    for (stage, act, answer) in [
        ("greeting", Act::Say("554 5.7.1 no"), "451 4.3.0 "),
        ("MAIL", Act::Say("550 5.7.1 no"), "554 5.7.1 "),
        ("RCPT", Act::Say("550 5.7.1 no"), "554 5.7.1 "),
        ("RCPT", Act::Say("450 4.7.1 later"), "451 4.3.0 "),
        ("DATA", Act::Drop, "451 4.3.0 "),
        (".", Act::Say("550 5.7.1 spam"), "554 5.7.1 "),
        (".", Act::Say("451 4.7.1 later"), "451 4.3.0 "),
        (".", Act::Drop, "451 4.3.0 "),
        (".", Act::Silence, "451 4.3.0 "),
        ("QUIT", Act::Silence, "250 2.0.0 "),
    ] {
        let told = act.clone();
        let hop = Hop::start(move |word, _, _| (word == stage).then(|| told.clone()));
        let scratch = Scratch::with("before_queue_filter_timeout = 3s");
        let (said, log) = send(&scratch, &["-o", &format!("before_queue_filter=smtp:{}", hop.name())], "clean");
        // Behind the answer to DATA comes that to the message.
        let last = said.split("\r\n354 ").nth(1).and_then(|rest| rest.split("\r\n").nth(1)).unwrap_or_default();
        assert!(last.starts_with(answer), "{stage} {act:?}: {said}{log}");
        assert_eq!(scratch.queued(), [], "{stage} {act:?}: {log}");
    }
}

#[test]
fn a_server_before_the_queue_has_envelope_and_message_as_the_client_sent_them() {
    let offers = "250-hop\r\n250-PIPELINING\r\n250-DSN\r\n250-8BITMIME\r\n250 SIZE";
    let hop = Hop::start(move |word, _, _| (word == "EHLO").then_some(Act::Say(offers)));
    let scratch = Scratch::new();
    let (said, log) = send(&scratch, &["-o", &format!("before_queue_filter=smtp:{}", hop.name())], "..dot");
    assert!(said.contains("queued as "), "{said}{log}");
    let taken = hop.taken().pop().expect("a message");
    assert!(
        taken.mail.starts_with("MAIL FROM:<alice@client.example> SIZE=") && taken.mail.contains(" RET=HDRS"),
        "{taken:?}"
    );
    assert_eq!(taken.rcpts, ["RCPT TO:<bob@mx.example>", "RCPT TO:<carol@mx.example>"]);
    assert!(
        taken.content.starts_with("Received: from client.example") && taken.content.ends_with("\r\n\r\n.dot\r\n"),
        "{taken:?}"
    );
    assert_eq!((hop.taken().len(), scratch.queued()), (1, vec![]), "the filter has it, and nobody else");
}

/// One of ours by LMTP on a socket of this machine, which hands on what it takes.
#[test]
fn a_server_before_the_queue_may_be_behind_a_socket_of_this_machine() {
    let (scratch, filter) = (Scratch::new(), Scratch::new());
    let back = Listening::ours(&scratch, "smtpsrvr", &["-o", "before_queue_filter="]);
    filter.write("channels", &format!("all *,unknown * smtp:[127.0.0.1]:{} *\n", back.1));
    let path = scratch.path().join("lmtp");
    let setting = format!("before_queue_filter=lmtp:unix:{}", path.display());
    let (said, log) = send(&scratch, &["-o", &setting], "clean");
    assert!(said.contains("\r\n451 4.3.0 "), "nobody is there: {said}{log}");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("its mode");
    let mut command = filter.command("lmtpsrvr");
    let command = command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
    let _front = Listening(command.spawn().expect("lmtpsrvr"), 0);
    let (said, log) = send(&scratch, &["-o", &setting], "clean");
    assert!(said.contains("queued as "), "{said}{log}");
    let queued = filter.queued();
    assert_eq!((queued.len(), scratch.queued()), (1, vec![]), "the filter has it: {log}");
    assert_eq!(queued[0].recipients, [b"bob@mx.example".to_vec(), b"carol@mx.example".to_vec()]);
    filter.deliver();
    scratch.deliver();
    for user in ["bob", "carol"] {
        let mail = scratch.mail(user);
        assert_eq!(mail.len(), 1, "{user}");
        let text = String::from_utf8_lossy(&mail[0]).into_owned();
        assert_eq!(text.matches("Received: ").count(), 3, "in, at the filter, and back: {text}");
    }
}

/// LMTP has an answer for each recipient, and the client can be told one.
#[test]
fn whom_a_filter_does_not_take_a_message_for_waits_in_the_queue_for_the_filter() {
    for (text, deferred, returned) in [("450 4.2.1 later", 1, 0), ("550 5.7.1 never", 0, 1)] {
        let hop = Hop::start(move |word, line, _| (word == "." && line.contains("carol")).then_some(Act::Say(text)));
        let scratch = Scratch::new();
        let filter = format!("before_queue_filter=lmtp:{}", hop.name());
        let (said, log) = send(&scratch, &["-o", &filter], "clean");
        assert!(said.contains("queued as "), "{said}{log}");
        let queued = scratch.queued();
        assert_eq!(queued.len(), 1, "{log}");
        assert_eq!(queued[0].recipients, [b"carol@mx.example".to_vec()]);
        let log = scratch.deliver();
        assert_eq!(scratch.mail("carol").len(), 0, "never past the filter: {log}");
        assert!(hop.seen().iter().filter(|line| line.starts_with("RCPT TO:<carol@")).count() == 2, "{log}");
        assert_eq!(log.matches("status=deferred").count().min(1), deferred, "{log}");
        assert_eq!(log.matches("status=failed").count().min(1), returned, "{log}");
    }
}

/// Each turn adds a Received field, so that a filter which leads back to itself ends by their number.
#[test]
fn a_filter_that_leads_back_to_itself_ends_in_a_refusal() {
    let scratch = Scratch::with("hopcount_limit = 5\nbefore_queue_filter_timeout = 20s");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its number").port();
    scratch.configure(&format!("before_queue_filter = smtp:[127.0.0.1]:{port}"));
    let mut command = scratch.command("smtpsrvr");
    let command = command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Listening(command.spawn().expect("smtpsrvr"), port);
    let (said, log) = send(&scratch, &[], "clean");
    assert!(said.contains("\r\n554 5.7.1 "), "{said}{log}");
    assert_eq!(scratch.queued(), []);
}

/// With the submit that smtpd keeps behind a socket, which serves one client after another.
#[test]
fn filters_before_the_queue_work_behind_a_pool_too() {
    let hop = Hop::start(|word, _, session| (word == "." && session == 1).then_some(Act::Say("550 5.7.1 spam")));
    let by_program = filtered();
    let by_server = Scratch::with(&format!("before_queue_filter = smtp:{}", hop.name()));
    for (scratch, clean, dirty) in [(&by_program, "clean", "a virus"), (&by_server, "clean", "anything")] {
        let mut command = scratch.command("smtpd");
        let options = ["-n", "9", "--idle-children", "1"];
        let (_server, address) = Server::pool(&mut command, &options, &scratch.queue());
        for (text, answer) in [(clean, "250 2.0.0 "), (dirty, "554 5.7.1 "), (clean, "250 2.0.0 ")] {
            smtp(address, &format!("Subject: x\r\n\r\n{text}\r\n"), answer);
        }
    }
    assert_eq!((by_program.queued().len(), runs(&by_program)), (2, 3));
    assert_eq!((by_server.queued().len(), hop.taken().len()), (0, 2));
}

/// In Postfix `content_filter =` and `postsuper -r ALL` are the way out where a filter is down.
#[test]
fn what_waits_for_a_filter_that_is_down_is_freed_by_queueing_it_anew_without() {
    let scratch = Scratch::new();
    let filter = format!("content_filter=smtp:[127.0.0.1]:{}", free_port());
    scratch.run("submit", &["-o", &filter, "-f", "alice@mx.example", "bob@mx.example"], b"Subject: x\n\nbody\n");
    let log = scratch.deliver();
    assert!(log.contains("status=deferred") && scratch.mail("bob").is_empty(), "{log}");
    let list = |arguments: &[&str]| String::from_utf8(scratch.run("doorpost-queue", arguments, b"").stdout).unwrap();
    let (name, value) = filter.split_once('=').unwrap();
    assert!(list(&[]).contains(&format!("\n    by {name} {value}\n")), "{}", list(&[]));
    assert!(list(&["--json"]).contains(&format!("], \"{name}\": \"{value}\"}}\n")), "{}", list(&["--json"]));
    assert_eq!(list(&["-o", &filter, "requeue", "ALL"]), "1 message\n");
    assert!(scratch.deliver().contains("status=deferred"));
    assert_eq!(list(&["requeue", "ALL"]), "1 message\n");
    assert!(!list(&[]).contains(name));
    let log = scratch.deliver();
    assert_eq!((scratch.mail("bob").len(), scratch.queued().len()), (1, 0), "{log}");
}
