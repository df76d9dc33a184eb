//! The options of GNU Mailutils' pop3d, each by what it does.

mod common;

use common::Scratch;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
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
        let mut command = scratch.command("pop3d");
        command.args(options).args(["-p", "127.0.0.1:0"]).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("pop3d");
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
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a signal");
        assert_eq!(server.0.wait().expect("its end").code(), Some(0));
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
        &["-i", "-d"],
        &["-p", "110"],
        &["-d", "-p", "no-such-service"],
        &["-m", "relative"],
        &["--lock-flags=E"],
        &["--login-delay=-1"],
        &["--stat-file=relative"],
        &["--log-facility=post"],
        &["--authentication=sql"],
        &["--authorization=virtdomain"],
    ] {
        let output = scratch.run("pop3d", arguments, b"");
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {output:?}");
        assert!(output.stdout.starts_with(b"-ERR [SYS/PERM] ") || arguments[0] == "-d", "{arguments:?}");
    }
}
