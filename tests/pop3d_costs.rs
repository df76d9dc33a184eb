//! What a session of pop3d costs, counted in system calls: a reply is one write, so that no client waits for a delayed
//! acknowledgement, and `TOP n 0` reads a header and no body.

mod common;

use common::{PASSWORD, Scratch};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

/// A session that asks one by one, each command after the whole of the reply before; gives what strace saw of `calls`.
fn traced(scratch: &Scratch, calls: &str, commands: &[&str]) -> String {
    let trace = scratch.path().join("trace");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let client = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-yy", "-s", "16", "-e", &format!("trace={calls}"), "-o"]).arg(&trace);
    command.arg(common::binary("pop3d")).env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", scratch.path());
    let served = OwnedFd::from(listener.accept().expect("the other end").0);
    let stdio = || Stdio::from(served.try_clone().expect("a descriptor"));
    let mut child = command.stdin(stdio()).stdout(stdio()).stderr(Stdio::null()).spawn().expect("strace");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    drop(served);
    let mut output = BufReader::new(client.try_clone().expect("a descriptor"));
    let mut line = move || {
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        line
    };
    assert!(line().starts_with("+OK"));
    let login = ["USER bob".to_owned(), format!("PASS {PASSWORD}")];
    for command in login.iter().map(String::as_str).chain(commands.iter().copied()).chain(["QUIT"]) {
        (&client).write_all(format!("{command}\r\n").as_bytes()).expect("sending");
        let said = line();
        assert!(said.starts_with("+OK"), "{command}: {said}");
        let is_long = ["RETR", "TOP", "LIST", "UIDL", "CAPA"].iter().any(|long| command.starts_with(long));
        while is_long && line() != ".\r\n" {}
    }
    // Else it waits a while for us to leave.
    let _ = client.shutdown(std::net::Shutdown::Both);
    assert!(child.wait().expect("its end").success());
    fs::read_to_string(&trace).expect("a trace")
}

/// What a call gave, of those that were done and not only begun.
fn result(call: &str) -> Option<u64> {
    call.rsplit_once(") = ")?.1.split(' ').next()?.parse().ok()
}

#[test]
fn each_reply_to_a_client_that_waits_for_it_is_one_write() {
    let scratch = Scratch::new();
    for number in 0..3 {
        let text = format!("Subject: {number}\n\n{}", "a line\n.\n".repeat(100));
        scratch.put_mail("bob", &format!("170000000{number}.M.mx"), text.as_bytes());
    }
    let commands =
        ["CAPA", "STAT", "LIST", "UIDL", "RETR 1", "RETR 2", "RETR 3", "TOP 1 0", "TOP 2 9", "NOOP", "DELE 1"];
    let trace = traced(&scratch, "write,writev,sendto,sendmsg", &commands);
    let to_client: Vec<&str> =
        trace.lines().filter(|call| call.contains("<TCP") && result(call).is_some_and(|octets| octets > 0)).collect();
    // The greeting, USER, PASS and QUIT beside them.
    assert_eq!(to_client.len(), commands.len() + 4, "{trace}");
}

/// What the processes of a session have for themselves, in kB: one that has logged in.
fn memory(scratch: &Scratch) -> u64 {
    let mut command = scratch.command("pop3d");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("pop3d");
    let mut input = child.stdin.take().expect("a pipe");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    input.write_all(format!("USER bob\r\nPASS {PASSWORD}\r\nSTAT\r\n").as_bytes()).expect("sending");
    let mut line = String::new();
    while !line.starts_with("+OK ") || !line.ends_with("0\r\n") {
        line.clear();
        assert!(output.read_line(&mut line).expect("a line") > 0, "no answer to STAT");
    }
    let pid = child.id();
    let below = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
    let processes = below.split(' ').filter(|pid| !pid.is_empty()).map(str::to_owned).chain([pid.to_string()]);
    let private = |pid: String| -> u64 {
        // The one that parsed ends when somebody is in.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { return 0 };
        let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:")).expect("a number");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    let sum = processes.map(private).sum();
    assert!(sum > 0, "no process has memory");
    drop(input);
    child.wait().expect("its end");
    sum
}

#[test]
fn a_session_holds_little_memory_however_many_messages_there_are() {
    let text = |count: usize| {
        let message = |number: usize| format!("From a Sun Nov 22 04:27:00 2026\nSubject: {number:05}\n\nx\n\n");
        (0..count).map(message).collect::<String>()
    };
    let [few, many] = [10, 100_000].map(|count| {
        let scratch = Scratch::new();
        scratch.configure(&format!("mailbox = mbox:{}/mail/%u", scratch.path().display()));
        fs::write(scratch.maildir("bob"), text(count)).expect("a mailbox");
        scratch.hand_over(&scratch.maildir("bob"));
        scratch
    });
    // The first session makes the index if the file has been left alone for two seconds; the second has it.
    let index = many.path().join("mail/.bob.doorpost-index");
    let mut last = 0;
    // However long each of them takes.
    for _ in 0..20 {
        last = memory(&many);
        if index.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(index.exists(), "no session made an index");
    let few = memory(&few);
    for (which, many) in [("made", last), ("read", memory(&many))] {
        assert!(many < few + 1000, "the index was {which}: {many} kB with 100,000 messages, {few} with 10");
    }
}

#[test]
fn a_session_of_a_mailbox_that_has_just_changed_holds_little_memory_too() {
    const MANY: usize = 30_000;
    let [few, many] = [10, MANY].map(|count| {
        let scratch = Scratch::new();
        scratch.put_mail("bob", "1600000000.M0.mx,S=10,W=10", b"Subject: x");
        let new = scratch.maildir("bob").join("new");
        for number in 0..count {
            fs::write(new.join(format!("{}.M{number}P4711Q815.mx.example,S=0,W=0", 1_700_000_000 + number)), b"")
                .expect("a message");
        }
        scratch
    });
    let change = |scratch: &Scratch| {
        let new = scratch.maildir("bob").join("new");
        fs::File::open(&new).and_then(|new| new.set_modified(SystemTime::now())).expect("the time of new/");
    };
    let [few, many] = [&few, &many].map(|scratch| {
        change(scratch);
        let anew = memory(scratch);
        // That session has left an index that does not count, and another one compares with it.
        assert!(scratch.maildir("bob").join("doorpost-index").exists(), "no index was kept");
        change(scratch);
        anew.max(memory(scratch))
    });
    assert!(many < few + 800, "{many} kB with {MANY} messages, {few} with 10");
}

/// Octets read of the files with mail.
fn octets_of_mail(scratch: &Scratch, commands: &[&str]) -> u64 {
    let trace = traced(scratch, "read,pread64,readv,preadv,sendfile,splice,copy_file_range,mmap", commands);
    let mail = scratch.path().join("mail");
    let is_mail = |call: &&str| call.contains(&format!("<{}", mail.display())) && !call.contains(".doorpost-");
    trace.lines().filter(is_mail).filter_map(result).sum()
}

#[test]
fn top_without_lines_reads_the_header_and_not_the_body() {
    const BODY: usize = 3_000_000;
    let text = |number: usize| format!("Subject: {number}\n\n{}", "a line of it\n".repeat(BODY / 13));
    let maildir = Scratch::new();
    for number in 0..2 {
        let text = text(number);
        let sizes = format!(",S={},W={}", text.len(), text.len() + text.lines().count());
        maildir.put_mail("bob", &format!("170000000{number}.M.mx{sizes}"), text.as_bytes());
    }
    let mbox = Scratch::new();
    mbox.configure(&format!("mailbox = mbox:{}/mail/%u", mbox.path().display()));
    let file: PathBuf = mbox.maildir("bob");
    let separator = "From a@client.example Sun Nov 22 04:27:00 2026\n";
    fs::write(&file, [text(0), text(1)].map(|text| format!("{separator}{text}\n")).concat()).expect("a mailbox");
    mbox.hand_over(&file);
    for (what, scratch, at_login) in [("Maildir", maildir, 0), ("mbox", mbox, 2 * BODY as u64)] {
        let without = octets_of_mail(&scratch, &["STAT"]);
        assert!(without >= at_login && without < at_login + 100_000, "{what}: {without} octets to log in");
        let with = octets_of_mail(&scratch, &["STAT", "TOP 1 0", "TOP 2 0"]);
        // An index may have been made meanwhile, and then nothing is read at login.
        assert!(with.saturating_sub(without) < 200_000, "{what}: {with} octets with TOP, {without} without");
        let all = octets_of_mail(&scratch, &["RETR 2"]);
        assert!(all >= BODY as u64, "{what}: the message itself was seen: {all}");
    }
}
