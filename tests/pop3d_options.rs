//! The options of GNU Mailutils' pop3d, each by what it does.

mod common;

use common::{NOBODY, Scratch, free_port, needs};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

const LOGIN: &str = "USER bob\r\nPASS secret\r\n";

fn said(scratch: &Scratch, options: &[&str], input: &str) -> String {
    let output = scratch.run("pop3d", options, input.as_bytes());
    assert_eq!(output.status.code(), Some(0), "{options:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A standalone server; ended when dropped.
struct Server(Child, String);

impl Server {
    fn start(scratch: &Scratch, options: &[&str]) -> Server {
        Server::by(scratch.command("pop3d").args(options).args(["-p", "127.0.0.1:0"]))
    }

    fn by(command: &mut Command) -> Server {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("pop3d");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut line = String::new();
        while !line.contains("listening on=") {
            line.clear();
            assert!(log.read_line(&mut line).expect("a record") > 0, "it does not listen");
        }
        std::thread::spawn(move || log.read_to_string(&mut String::new()));
        let address = line.split("on=").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
        Server(child, address.to_owned())
    }

    fn connect(&self) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(&self.1).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        BufReader::new(stream)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn line(client: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    client.read_line(&mut line).expect("a line");
    line
}

#[test]
fn a_standalone_server_serves_so_many_at_once_until_term() {
    let scratch = Scratch::new();
    for options in [&["-d2"][..], &["--daemon=2"]] {
        let mut server = Server::start(&scratch, options);
        let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
        assert!(line(&mut clients[0]).starts_with("+OK") && line(&mut clients[1]).starts_with("+OK"));
        clients[2].get_ref().set_read_timeout(Some(Duration::from_millis(200))).expect("a limit");
        assert!(clients[2].read(&mut [0]).is_err(), "the third was served beside two others");
        clients[2].get_ref().set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        clients[0].get_mut().write_all(format!("{LOGIN}QUIT\r\n").as_bytes()).expect("sending");
        let mut rest = String::new();
        clients[0].read_to_string(&mut rest).expect("the rest");
        assert!(rest.ends_with("+OK Goodbye\r\n"), "{rest}");
        assert!(line(&mut clients[2]).starts_with("+OK"));
        drop(clients);
        let pid = nix::unistd::Pid::from_raw(i32::try_from(server.0.id()).expect("a number"));
        kill(pid, Signal::SIGTERM).expect("a signal");
        assert_eq!(server.0.wait().expect("its end").code(), Some(0));
    }
}

#[test]
fn a_port_alone_makes_a_standalone_server_as_with_mailutils() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, &[]);
    assert!(line(&mut server.connect()).starts_with("+OK"));
}

/// In a network of its own, where the port is free and root's. The threads of other tests stay where they are.
#[test]
fn without_a_port_it_is_110_and_who_may_not_listen_there_ends_with_77() {
    if !needs::there("a network of its own", unshare(CloneFlags::CLONE_NEWNET).is_ok()) {
        return;
    }
    let scratch = Scratch::new();
    let mut command = scratch.command("pop3d");
    let server = Server::by(command.arg("-d"));
    assert!(server.1.ends_with(":110"), "{}", server.1);
    drop(server);
    for options in [&["-d"][..], &["-d", "-p", "995"]] {
        let mut command = scratch.command("pop3d");
        let output = command.args(options).uid(NOBODY).gid(NOBODY).output().expect("pop3d");
        assert_eq!(output.status.code(), Some(77), "{options:?}: {output:?}");
    }
}

/// And with records that go where ours go, whatever else goes there: into the pipe of a service manager, or to who is logged
/// in from elsewhere.
#[test]
fn who_listens_says_so_on_standard_error_though_it_is_standard_output_too() {
    let scratch = Scratch::new();
    let (mut log, theirs) = std::io::pipe().expect("a pipe");
    let mut command = scratch.command("pop3d");
    command.env("SSH_CONNECTION", "192.0.2.1 1 192.0.2.2 22").args(["-d", "-p", "127.0.0.1:0"]).stdin(Stdio::null());
    command.stdout(theirs.try_clone().expect("a copy")).stderr(theirs);
    let child = command.spawn().expect("pop3d");
    drop(command);
    let mut server = Server(child, String::new());
    let mut line = String::new();
    BufReader::new(&mut log).read_line(&mut line).expect("a record");
    assert!(line.contains("listening on=127.0.0.1:"), "{line}");
    server.1 = line;
}

#[test]
fn what_each_client_would_find_wrong_ends_it_before_it_listens() {
    let scratch = Scratch::new();
    let file = scratch.path().join("file");
    fs::write(&file, "").expect("a file");
    let no_folder = format!("--stat-file={}", file.display());
    for (options, parameter) in [
        (&["--tls"][..], "tls_cert_file"),
        (&["-o", "tls_cert_file=/nosuch/crt", "-o", "tls_key_file=/nosuch/key"], "tls_cert_file"),
        (&["--login-delay=2", "--stat-file=/nosuch/folder"], "pop3d_stat_file"),
        (&["--login-delay=2", &no_folder], "pop3d_stat_file"),
    ] {
        let options = [&["-d", "-p", "127.0.0.1:0"], options].concat();
        let output = scratch.run("pop3d", &options, b"");
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{options:?}: {log}");
        assert!(log.contains(parameter) && !log.contains("listening"), "{options:?}: {log}");
    }
}

#[test]
fn a_taken_port_is_temporary_trouble() {
    let scratch = Scratch::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let port = taken.local_addr().expect("its address").to_string();
    assert_eq!(scratch.run("pop3d", &["-d", "-p", &port], b"").status.code(), Some(75));
}

#[test]
fn the_mail_spool_is_a_folder_of_mboxes_or_what_it_says() {
    let scratch = Scratch::new();
    let spool = scratch.path().join("spool");
    fs::create_dir(&spool).expect("a folder");
    fs::write(spool.join("bob"), "From a Sun Nov 22 04:27:00 2026\nA: 1\n\n1\n\n").expect("a mailbox");
    scratch.hand_over(&spool);
    let spool = spool.display().to_string();
    assert!(said(&scratch, &["-m", &spool], LOGIN).contains("+OK 1 messages"));
    scratch.put_mail("bob", "1.M0.mx", b"A: 1\n\nlonger\n");
    let maildirs = format!("--mail-spool=maildir:{}/mail", scratch.path().display());
    assert!(said(&scratch, &[&maildirs], LOGIN).contains("+OK 1 messages, 16 "));
    // What is said by -o is the last word.
    let other = format!("mailbox=mbox:{spool}/%u");
    assert!(said(&scratch, &[&maildirs, "-o", &other], LOGIN).contains("+OK 1 messages, 11 "));
}

#[test]
fn undelete_takes_the_marks_of_other_programs_off_a_maildir() {
    let scratch = Scratch::new();
    scratch.put_mail("bob", "1.M0.mx", b"A: 1\n\n1\n");
    let maildir = scratch.maildir("bob");
    fs::rename(maildir.join("new/1.M0.mx"), maildir.join("cur/1.M0.mx:2,ST")).expect("renaming");
    assert!(said(&scratch, &[], &format!("{LOGIN}QUIT\r\n")).contains("+OK 1 messages"));
    assert!(maildir.join("cur/1.M0.mx:2,ST").exists());
    let said = said(&scratch, &["--undelete"], &format!("{LOGIN}RETR 1\r\nQUIT\r\n"));
    assert!(said.contains("A: 1\r\n"), "{said}");
    assert!(maildir.join("cur/1.M0.mx:2,S").exists());
}

#[test]
fn login_delay_keeps_a_user_out_and_is_announced() {
    let scratch = Scratch::new();
    let times = scratch.path().join("times");
    let options = ["--login-delay=60".to_owned(), format!("--stat-file={}", times.display())];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let first = said(&scratch, &options, &format!("CAPA\r\n{LOGIN}CAPA\r\nQUIT\r\n"));
    assert_eq!(first.matches("\r\nLOGIN-DELAY 60\r\n").count(), 2, "{first}");
    assert!(first.ends_with("+OK Goodbye\r\n"), "{first}");
    let again = said(&scratch, &options, &format!("{LOGIN}STAT\r\n"));
    assert!(
        again.ends_with("-ERR [LOGIN-DELAY] Your last session was too short a time ago, try again later\r\n"),
        "{again}"
    );
    let carol = said(&scratch, &options, "USER carol\r\nPASS secret\r\nQUIT\r\n");
    assert!(carol.ends_with("+OK Goodbye\r\n"), "{carol}");
    // A wrong password does not learn of it.
    let wrong = said(&scratch, &[&options[..], &["-o", "auth_failure_delay=0"]].concat(), "USER bob\r\nPASS x\r\n");
    assert!(!wrong.contains("LOGIN-DELAY"), "{wrong}");
    let file = fs::File::options().write(true).open(times.join("bob")).expect("bob's time");
    file.set_modified(SystemTime::now() - Duration::from_secs(61)).expect("its time");
    assert!(said(&scratch, &options, &format!("{LOGIN}QUIT\r\n")).ends_with("+OK Goodbye\r\n"));
    assert!(!said(&scratch, &[], "CAPA\r\n").contains("LOGIN-DELAY"));
}

/// Closing may take seconds, under TLS and where the client said more; who comes again that long after the delay is in time.
#[test]
fn a_session_ends_for_the_login_delay_when_quit_is_answered_not_when_the_connection_is_closed() {
    let scratch = Scratch::new();
    let times = scratch.path().join("times");
    let options = ["--login-delay=60".to_owned(), format!("--stat-file={}", times.display())];
    let mut server = Server::start(&scratch, &options.each_ref().map(String::as_str));
    let mut client = server.connect();
    client.get_mut().write_all(LOGIN.as_bytes()).expect("sending");
    while !line(&mut client).contains(" messages,") {}
    let file = fs::File::options().write(true).open(times.join("bob")).expect("bob's time");
    let aged = SystemTime::now() - Duration::from_secs(3600);
    file.set_modified(aged).expect("its time");
    client.get_mut().write_all(b"QUIT\r\nNOOP\r\n").expect("sending");
    assert_eq!(line(&mut client), "+OK Goodbye\r\n");
    let noted = file.metadata().and_then(|status| status.modified()).expect("its time");
    assert!(noted > aged + Duration::from_secs(60), "the end was not noted");
    // Nor is it noted again when the connection is closed.
    file.set_modified(aged).expect("its time");
    let aged = file.metadata().and_then(|status| status.modified()).expect("its time");
    drop(client);
    kill(nix::unistd::Pid::from_raw(server.0.id().cast_signed()), Signal::SIGTERM).expect("a signal");
    server.0.wait().expect("the end of all its sessions");
    assert_eq!(file.metadata().and_then(|status| status.modified()).expect("its time"), aged);
}

#[test]
fn a_session_that_is_killed_counts_too_and_of_two_at_once_one_is_let_in() {
    let scratch = Scratch::new();
    scratch.configure(&format!("pop3d_login_delay = 60\npop3d_stat_file = {}/times", scratch.path().display()));
    let start = || {
        let mut command = scratch.command("pop3d");
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("pop3d");
        child.stdin.as_mut().expect("a pipe").write_all(LOGIN.as_bytes()).expect("sending");
        child
    };
    let mut children = [start(), start(), start()];
    let mut in_ = 0;
    for child in &mut children {
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut text = String::new();
        for _ in 0..3 {
            output.read_line(&mut text).expect("a line");
        }
        in_ += text.matches(" messages,").count();
        assert!(text.contains(" messages,") || text.contains("[LOGIN-DELAY]"), "{text}");
        child.kill().expect("kill");
        child.wait().expect("its end");
    }
    assert_eq!(in_, 1);
    assert!(said(&scratch, &[], LOGIN).contains("[LOGIN-DELAY]"));
}

#[test]
fn nonsense_is_64_and_the_client_hears_that_something_is_wrong() {
    let scratch = Scratch::new();
    for arguments in [
        &["-d", "5"][..],
        &["-d0"],
        &["-dmany"],
        &["--daemon="],
        &["-i", "--detach"],
        &["-t", "0"],
        &["--log-tag="],
        &["--pam-service=../x"],
        &["-m", "mbox:/var/mail;type=index;param=1;user="],
        &["-d", "-p", "no-such-service"],
        &["--detach"],
        &["--expire=soon"],
        &["--external-locker=relative"],
        &["--import-unique-ids=cyrus", "--user=bob"],
        &["-m", "relative"],
        &["--lock-flags=X"],
        &["--login-delay=-1"],
        &["--stat-file=relative"],
        &["--da", "5"],
        &["-m", "maildir:/mail/%d"],
        &["--log-facility=post"],
        &["--authentication=sql"],
        &["--authorization=virtdomain"],
    ] {
        let output = scratch.run("pop3d", arguments, b"");
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {output:?}");
        assert!(output.stdout.starts_with(b"-ERR [SYS/PERM] ") || arguments[0] == "-d", "{arguments:?}");
    }
}

#[test]
fn a_server_in_the_background_has_its_process_id_in_a_file_until_it_ends() {
    let scratch = Scratch::new();
    let (pid_file, folder) = (scratch.path().join("pid"), scratch.path().display().to_string());
    let port = free_port();
    let port = format!("127.0.0.1:{port}");
    let options = ["-d", "--detach", "-p", &port, "--pidfile", pid_file.to_str().expect("UTF-8"), "--config", &folder];
    let start = || {
        let output = scratch.run("pop3d", &options, b"");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let number: i32 = fs::read_to_string(&pid_file).expect("a process id").trim().parse().expect("a number");
        nix::unistd::Pid::from_raw(number)
    };
    let pid = start();
    // It listens when the one that was started ends.
    let mut client = BufReader::new(TcpStream::connect(&port).expect("a connection"));
    assert!(line(&mut client).starts_with("+OK"));
    assert_eq!(scratch.run("pop3d", &options, b"").status.code(), Some(75), "twice");
    // The next one need not wait for the last session of this one.
    kill(pid, Signal::SIGTERM).expect("a signal");
    common::until("the pid file to go", || !pid_file.exists());
    let next = start();
    client.get_mut().write_all(b"NOOP\r\nQUIT\r\n").expect("sending");
    assert!(line(&mut client).starts_with("-ERR"), "still there");
    assert!(line(&mut client).starts_with("+OK"));
    drop(client);
    assert!(fs::read_to_string(&pid_file).is_ok_and(|text| text == format!("{next}\n")));
    // Nor for anybody where it is killed, which takes its sessions along.
    let mut client = BufReader::new(TcpStream::connect(&port).expect("a connection"));
    assert!(line(&mut client).starts_with("+OK"));
    client.get_ref().set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    kill(next, Signal::SIGKILL).expect("a signal");
    assert_eq!(line(&mut client), "");
    common::until("its socket to be closed", || TcpStream::connect(&port).is_err());
    let last = start();
    kill(last, Signal::SIGTERM).expect("a signal");
    common::until("the pid file to go", || !pid_file.exists());
}

fn write(scratch: &Scratch, name: &str, text: &str) -> PathBuf {
    scratch.write(name, text);
    scratch.path().join(name)
}

fn ids(said: &str) -> Vec<String> {
    let listing = said.split("+OK Listing follows\r\n").nth(1).expect("a listing");
    let lines = listing.split("\r\n").take_while(|line| *line != ".");
    lines.map(|line| line.split_once(' ').expect("an id").1.to_owned()).collect()
}

#[test]
fn what_was_fetched_so_long_ago_goes_at_quit_and_nothing_is_written_into_messages() {
    let scratch = Scratch::new();
    for number in 1..4 {
        scratch.put_mail("bob", &format!("{number}.M.mx"), format!("A: {number}\n\n1\n2\n").as_bytes());
    }
    let read = scratch.maildir("bob").join("doorpost-read");
    let options = ["--expire=7", "--delete-expired"];
    // Neither a part of a message, nor without the option.
    said(&scratch, &options, &format!("{LOGIN}TOP 1 1\r\nQUIT\r\n"));
    said(&scratch, &[], &format!("{LOGIN}RETR 3\r\nQUIT\r\n"));
    assert!(!read.exists());
    // Nor where the client is gone before it says that it has them.
    let first = said(&scratch, &options, &format!("CAPA\r\n{LOGIN}RETR 1\r\nTOP 2 99\r\nRETR 1\r\n"));
    assert!(first.contains("\r\nEXPIRE 7\r\n"), "{first}");
    assert!(!read.exists());
    said(&scratch, &options, &format!("{LOGIN}RETR 1\r\nTOP 2 99\r\nRETR 1\r\nQUIT\r\n"));
    let text = fs::read_to_string(&read).expect("what was fetched");
    assert_eq!(
        text.lines().map(|line| line.split_once(' ').expect("an id").1).collect::<Vec<_>>(),
        ["1.M.mx", "2.M.mx"]
    );
    said(&scratch, &options, &format!("{LOGIN}QUIT\r\n"));
    assert_eq!(scratch.mail("bob").len(), 3, "too early");
    let long_ago = SystemTime::now() - Duration::from_secs(8 * 86_400);
    let long_ago = long_ago.duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs();
    let now = text.lines().nth(1).expect("a line");
    fs::write(&read, format!("{long_ago} 1.M.mx\n{now}\n{long_ago} gone.already\nnonsense\n")).expect("a file");
    said(&scratch, &["--expire=7"], &format!("{LOGIN}QUIT\r\n"));
    assert_eq!(scratch.mail("bob").len(), 3, "announced only");
    said(&scratch, &options, LOGIN);
    assert_eq!(scratch.mail("bob").len(), 3, "without QUIT");
    said(&scratch, &options, &format!("{LOGIN}QUIT\r\n"));
    assert_eq!(scratch.mail("bob"), [b"A: 2\n\n1\n2\n", b"A: 3\n\n1\n2\n"]);
    assert!(!fs::read_to_string(&read).expect("a file").contains("gone.already"));
    // What may go at once goes at once.
    said(&scratch, &["--expire=0"], &format!("{LOGIN}RETR 2\r\nQUIT\r\n"));
    assert!(scratch.mail("bob").is_empty());
}

#[test]
fn a_client_that_goes_on_behind_a_message_has_fetched_it() {
    let scratch = Scratch::new();
    scratch.put_mail("bob", "1.M.mx", b"A: 1\n\n1\n");
    let read = scratch.maildir("bob").join("doorpost-read");
    let server = Server::start(&scratch, &["--expire=7"]);
    let mut client = server.connect();
    client.get_mut().write_all(format!("{LOGIN}RETR 1\r\n").as_bytes()).expect("sending");
    while line(&mut client) != ".\r\n" {}
    assert!(!read.exists());
    client.get_mut().write_all(b"NOOP\r\n").expect("sending");
    assert_eq!(line(&mut client), "+OK\r\n");
    assert!(fs::read_to_string(&read).is_ok_and(|text| text.ends_with(" 1.M.mx\n")));
}

#[test]
fn a_login_that_found_no_maildrop_is_no_session() {
    let scratch = Scratch::new();
    let times = format!("--stat-file={}/times", scratch.path().display());
    let options = ["--login-delay=60", &times];
    let maildir = scratch.maildir("bob");
    fs::write(&maildir, "no folder").expect("a file");
    let refused = scratch.run("pop3d", &options, LOGIN.as_bytes());
    let refused = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(refused.contains("-ERR [SYS/PERM] The maildrop"), "{refused}");
    fs::remove_file(&maildir).expect("removing");
    let again = said(&scratch, &options, &format!("{LOGIN}QUIT\r\n"));
    assert!(again.ends_with("+OK Goodbye\r\n"), "{again}");
    assert!(said(&scratch, &options, LOGIN).contains("[LOGIN-DELAY]"));
}

#[test]
fn a_transcript_has_everything_but_passwords_and_messages() {
    let scratch = Scratch::new();
    scratch.put_mail("bob", "1.M.mx", b"A: 1\n\nconfidential\n");
    let input = format!("{LOGIN}RETR 1\r\nUSER x\r\nsecret\r\nQUIT\r\n");
    for (options, logged) in [(&["-x"][..], true), (&["--transcript"], true), (&[], false)] {
        let output = scratch.run("pop3d", options, input.as_bytes());
        let log = String::from_utf8_lossy(&output.stderr);
        for part in ["line=\"USER bob\"", "line=\"PASS\"", "line=\"RETR 1\"", "line=\"+OK Message follows\""] {
            assert_eq!(log.contains(part), logged, "{part}: {log}");
        }
        assert!(!log.contains("secret") && !log.contains("confidential"), "{log}");
    }
}

#[test]
fn dot_locks_are_made_by_another_program_if_that_is_wanted() {
    let scratch = Scratch::new();
    scratch.configure(&format!("mailbox = mbox:{}/mail/%u", scratch.path().display()));
    let mailbox = scratch.maildir("bob");
    let text = "From a Sun Nov 22 04:27:00 2026\nA: 1\n\n1\n\n";
    fs::write(&mailbox, text).expect("a mailbox");
    scratch.hand_over(&mailbox);
    let record = scratch.path().join("record");
    fs::write(&record, "").expect("a file");
    scratch.hand_over(&record);
    let [locker, refusing] = ["locker", "refusing"].map(|name| scratch.path().join(name));
    common::write_program(&locker, &format!("#!/bin/sh\necho \"$*\" >>{}\nexit ${{STATUS:-0}}\n", record.display()));
    let options = ["--lock-flags=ER".to_owned(), format!("--external-locker={}", locker.display())];
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    assert!(said(&scratch, &options, &format!("{LOGIN}DELE 1\r\nQUIT\r\n")).ends_with("+OK Goodbye\r\n"));
    assert_eq!(fs::read_to_string(&mailbox).expect("a mailbox"), "");
    let path = mailbox.display();
    // At login, and at QUIT.
    let expected = format!("{path}\n-u {path}\n{path}\n-u {path}\n");
    assert_eq!(fs::read_to_string(&record).expect("a record"), expected);
    fs::write(&mailbox, text).expect("a mailbox");
    // Those of the real one: another error, locked by another program, and no right to lock.
    for (status, code) in [(1, "SYS/TEMP"), (3, "IN-USE"), (4, "SYS/PERM")] {
        let calls = scratch.path().join(format!("calls-{status}"));
        common::write_program(&refusing, &format!("#!/bin/sh\necho $1 >>{}\nexit {status}\n", calls.display()));
        let option = format!("--external-locker={}", refusing.display());
        let output = scratch.run("pop3d", &["--lock-flags=E", &option], format!("{LOGIN}QUIT\r\n").as_bytes());
        let refused = String::from_utf8_lossy(&output.stdout);
        assert!(refused.contains(&format!("-ERR [{code}] ")), "{status}: {refused}");
        // Who has not got the lock does not give up anybody's.
        assert!(!fs::read_to_string(&calls).unwrap().contains("-u"), "{status}");
    }
}

#[test]
fn users_are_looked_up_in_several_places() {
    let scratch = Scratch::new();
    let more = write(&scratch, "more", "dave:{PLAIN}secret:::::\n");
    let list = format!("passwd-file:{},passwd-file:{}/passwd", more.display(), scratch.path().display());
    let option = format!("--authorization={list}");
    for user in ["bob", "dave"] {
        let said = said(&scratch, &[&option], &format!("USER {user}\r\nPASS secret\r\nQUIT\r\n"));
        assert!(said.ends_with("+OK Goodbye\r\n"), "{said}");
    }
}

fn import(scratch: &Scratch, source: &str) -> String {
    let output = scratch.run("pop3d", &[&format!("--import-unique-ids={source}"), "--user=bob"], b"");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn unique_ids_of_other_servers_are_kept_once_they_are_imported() {
    let scratch = Scratch::new();
    for (number, field) in [(1, ""), (2, "X-UIDL: old-2\n"), (3, "x-uidl:  not one \n")] {
        scratch.put_mail("bob", &format!("{number}.M.mx"), format!("{field}A: 1\n\nX-UIDL: body\n").as_bytes());
    }
    let list = |scratch: &Scratch| ids(&said(scratch, &[], &format!("{LOGIN}UIDL\r\nQUIT\r\n")));
    let native = ["1.M.mx", "2.M.mx", "3.M.mx"];
    assert_eq!(list(&scratch), native);
    let maildir = scratch.maildir("bob");
    let lines = "3 V1257460623 N12 Gcafe\n7 W100 :1.M.mx:2,S\n9 Pown :3.M.mx\n";
    fs::write(maildir.join("dovecot-uidlist"), lines).expect("a list");
    scratch.hand_over(&maildir.join("dovecot-uidlist"));
    assert!(import(&scratch, "dovecot").contains("messages=3 imported=2"));
    assert_eq!(list(&scratch), ["000000074af3538f", "2.M.mx", "own"]);
    // Files may be renamed, and mail may come and go.
    fs::rename(maildir.join("new/1.M.mx"), maildir.join("cur/1.M.mx:2,S")).expect("renaming");
    scratch.put_mail("bob", "0.M.mx", b"A: 1\n\n1\n");
    assert_eq!(list(&scratch), ["0.M.mx", "000000074af3538f", "2.M.mx", "own"]);
    fs::remove_file(maildir.join("new/0.M.mx")).expect("removing");
    fs::write(maildir.join("courierpop3dsizelist"), "/3 12 5\n1.M.mx:2, 9 3:5:0\n2.M.mx 9 4:5:0\n").expect("a list");
    scratch.hand_over(&maildir.join("courierpop3dsizelist"));
    import(&scratch, "courier");
    assert_eq!(list(&scratch), ["UID3-5", "UID4-5", "3.M.mx"]);
    assert!(import(&scratch, "x-uidl").contains("messages=3 imported=1"));
    assert_eq!(list(&scratch), ["1.M.mx", "old-2", "3.M.mx"]);
}

#[test]
fn an_mbox_keeps_the_unique_ids_of_its_fields_if_they_are_imported() {
    let scratch = Scratch::new();
    scratch.configure(&format!("mailbox = mbox:{}/mail/%u", scratch.path().display()));
    let mailbox = scratch.maildir("bob");
    let message = |number: u32| format!("From a Sun Nov 22 04:27:00 2026\nX-UIDL: u{number}\nA: 1\n\n{number}\n\n");
    fs::write(&mailbox, message(1) + &message(2)).expect("a mailbox");
    scratch.hand_over(&mailbox);
    let list = |commands: &str| ids(&said(&scratch, &[], &format!("{LOGIN}UIDL\r\n{commands}QUIT\r\n")));
    assert!(list("").iter().all(|id| id.len() == 40), "anybody may send X-UIDL");
    assert!(import(&scratch, "x-uidl").contains("messages=2 imported=2"));
    assert_eq!(list("DELE 1\r\n"), ["u1", "u2"]);
    assert_eq!(list(""), ["u2"]);
    for (user, status) in [("bob", 75), ("nobody-of-this-name", 64)] {
        let output = scratch.run("pop3d", &["--import-unique-ids=courier", "--user", user], b"");
        assert_eq!(output.status.code(), Some(status), "{output:?}");
    }
}

/// A list of names asks whom the administrator named, and not the name servers of the system.
#[test]
fn the_names_of_clients_that_are_logged_more_of_are_asked_of_name_servers() {
    const TABLE: common::names::Table =
        &[("7.2.0.192.in-addr.arpa", "PTR", "client.example"), ("client.example", "A", "192.0.2.7")];
    let names = common::names::Names::start(TABLE);
    let scratch = Scratch::with(&format!("name_servers = {}\ndebug_peer_list = client.example", names.address));
    for (address, is_listed) in [("192.0.2.7", true), ("192.0.2.8", false)] {
        let mut command = scratch.command("pop3d");
        let output = common::feed(command.env("TCPREMOTEIP", address), b"CAPA\r\nQUIT\r\n");
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(log.contains("event=said line=\"CAPA\""), is_listed, "{address}: {log}");
    }
}
