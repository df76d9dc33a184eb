//! The transcripts of pop3d, and what they cannot show: two sessions at once, kills, rights, what a client may not see.

mod common;

use common::processes::{children, only, rights};
use common::transcript::{Writes, play, play_all};
use common::{PASSWORD, Scratch, under_inetd};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const LOGIN: &str = "USER bob\r\nPASS secret\r\n";

#[test]
fn transcripts() {
    play_all("pop3d", 30);
}

/// A client with a session of its own.
struct Client {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Client {
    fn start(command: &mut Command) -> Client {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("pop3d");
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        Client { child, input, output: BufReader::new(output) }
    }

    fn logged_in(command: &mut Command) -> Client {
        let mut client = Client::start(command);
        assert!(client.line().starts_with("+OK "));
        assert!(client.ask("USER bob").starts_with("+OK "));
        let welcome = client.ask(&format!("PASS {PASSWORD}"));
        assert!(welcome.starts_with("+OK "), "{welcome}");
        client
    }

    fn say(&mut self, line: &str) {
        write!(self.input.as_mut().expect("a pipe"), "{line}\r\n").expect("sending");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.line()
    }

    /// Hangs up; gives what was said until the end, the log, and the exit status.
    fn end(mut self) -> (String, String, Option<i32>) {
        drop(self.input.take());
        let (mut said, mut log) = (String::new(), String::new());
        self.output.read_to_string(&mut said).expect("the rest");
        self.child.stderr.take().expect("a pipe").read_to_string(&mut log).expect("the log");
        (said, log, self.child.wait().expect("its end").code())
    }
}

fn two_messages() -> Scratch {
    let scratch = Scratch::new();
    scratch.put_mail("bob", "1700000000.M0.mx", b"Subject: one\n\n1\n");
    scratch.put_mail("bob", "1700000001.M1.mx", b"Subject: two\n\n2\n");
    scratch
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn a_maildrop_is_one_sessions_and_free_when_goodbye_is_heard() {
    let scratch = two_messages();
    for _ in 0..5 {
        // No wait: who was told goodbye, the last time round, may come again at once.
        let mut first = Client::logged_in(&mut scratch.command("pop3d"));
        let mut second = Client::start(&mut scratch.command("pop3d"));
        second.say("USER bob\r\nPASS secret");
        let (said, log, status) = second.end();
        assert!(said.ends_with("-ERR [IN-USE] Another session has this maildrop\r\n"), "{said}");
        assert_eq!(status, Some(0), "{log}");
        assert_eq!(first.ask("STAT"), "+OK 2 38");
        assert_eq!(first.ask("QUIT"), "+OK Goodbye");
    }
}

#[test]
fn a_wrong_password_does_not_tell_that_the_maildrop_is_in_use() {
    let scratch = two_messages();
    scratch.configure("auth_failure_delay = 0");
    let _first = Client::logged_in(&mut scratch.command("pop3d"));
    let output = scratch.run("pop3d", &[], b"USER bob\r\nPASS wrong\r\nQUIT\r\n");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("-ERR [AUTH] ") && !said.contains("IN-USE"), "{said}");
}

#[test]
fn messages_go_at_quit_and_not_before() {
    let scratch = two_messages();
    let mut client = Client::logged_in(&mut scratch.command("pop3d"));
    assert!(client.ask("DELE 1").starts_with("+OK"));
    assert!(client.ask("NOOP").starts_with("+OK"));
    assert_eq!(scratch.mail("bob").len(), 2);
    assert_eq!(client.ask("QUIT"), "+OK Goodbye");
    assert_eq!(scratch.mail("bob"), [b"Subject: two\n\n2\n"]);
}

#[test]
fn who_may_remove_nothing_hears_that_somebody_must_mend_it() {
    let scratch = two_messages();
    let mut client = Client::logged_in(&mut scratch.command("pop3d"));
    assert!(client.ask("DELE 1").starts_with("+OK"));
    let folder = scratch.maildir("bob").join("new");
    let set = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("its mode");
    set(0o500);
    let said = client.ask("QUIT");
    set(0o700);
    assert!(said.starts_with("-ERR [SYS/PERM] "), "{said}");
    assert_eq!(scratch.mail("bob").len(), 2);
}

/// The processes a session consists of: the one that was started, and its child if there is one.
fn family(parent: u32) -> Vec<u32> {
    std::iter::once(parent).chain(children(parent)).collect()
}

#[test]
fn a_kill_before_quit_keeps_everything() {
    for victim in 0..2 {
        let scratch = two_messages();
        let mut client = Client::logged_in(&mut scratch.command("pop3d"));
        assert!(client.ask("DELE 1").starts_with("+OK"));
        let family = family(client.child.id());
        let Some(&pid) = family.get(victim) else { return };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a process"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
        // The other process must not wait for ever, nor take the end for a goodbye.
        let (said, _, _) = client.end();
        assert!(!said.contains("+OK"), "{said}");
        common::until("the other process's end", || {
            let mut again = Client::start(&mut scratch.command("pop3d"));
            again.say("USER bob\r\nPASS secret");
            again.end().0.contains("+OK 2 messages")
        });
        assert_eq!(scratch.mail("bob").len(), 2);
    }
}

#[test]
fn as_root_one_process_becomes_the_user_and_the_other_nobody() {
    if !common::needs::root() {
        return;
    }
    const BOB: u32 = 65_533;
    let scratch = Scratch::new();
    scratch.write("passwd", &format!("bob:{{PLAIN}}secret:{BOB}:{BOB}:::\n"));
    fs::set_permissions(scratch.path().join("mail"), fs::Permissions::from_mode(0o1777)).expect("its mode");
    let client = Client::logged_in(&mut scratch.command("pop3d"));
    let family = family(client.child.id());
    assert_eq!(family.len(), 2);
    assert_eq!(rights(family[0]), only(BOB, BOB));
    assert_eq!(rights(family[1]), only(common::NOBODY, common::NOBODY));
    assert_eq!(fs::metadata(scratch.maildir("bob")).expect("the Maildir").uid(), BOB);
    assert_eq!(client.end().2, Some(0));
}

#[test]
fn before_login_the_parser_has_no_rights() {
    if !common::needs::root() {
        return;
    }
    let scratch = two_messages();
    let mut client = Client::start(&mut scratch.command("pop3d"));
    assert!(client.line().starts_with("+OK "));
    let family = family(client.child.id());
    assert_eq!(rights(family[1])[0], [common::NOBODY; 4]);
    // The client is the parser's alone: the other has it neither for reading nor for writing.
    let ends = |pid: u32| [0, 1].map(|fd| fs::read_link(format!("/proc/{pid}/fd/{fd}")).expect("a descriptor"));
    assert_eq!(ends(family[0]), ["/dev/null", "/dev/null"].map(Path::new));
    assert_eq!(client.ask("QUIT"), "+OK Goodbye");
}

#[test]
fn users_of_the_system_log_in_as_themselves_and_root_never() {
    if !common::needs::root() {
        return;
    }
    let user = nix::unistd::User::from_name("mail").expect("users").expect("a user of every system");
    let scratch = Scratch::with("auth_failure_delay = 0");
    scratch.write("secrets", "mail:{PLAIN}secret\nroot:{PLAIN}secret\n");
    scratch.configure(&format!(
        "users = system\nauthentication = passwd-file:{}",
        scratch.path().join("secrets").display()
    ));
    scratch.put_mail("mail", "1700000000.M0.mx", b"Subject: one\n\n1\n");
    for part in ["", "tmp", "new", "cur", "new/1700000000.M0.mx"] {
        let path = scratch.maildir("mail").join(part);
        chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("chown");
    }
    let output =
        scratch.run("pop3d", &[], b"USER root\r\nPASS secret\r\nUSER mail\r\nPASS secret\r\nDELE 1\r\nQUIT\r\n");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(said.matches("-ERR [AUTH] ").count(), 1, "{said}");
    assert!(said.contains("+OK 1 messages") && said.ends_with("+OK Goodbye\r\n"), "{said}");
    assert_eq!(scratch.mail("mail").len(), 0);
}

#[test]
fn as_anybody_else_one_process_does_it_all() {
    let scratch = two_messages();
    let mut command = scratch.command("pop3d");
    if is_root() {
        command.uid(common::NOBODY).gid(common::NOBODY);
    }
    let mut client = Client::logged_in(&mut command);
    assert_eq!(family(client.child.id()).len(), 1);
    assert!(client.ask("DELE 2").starts_with("+OK"));
    assert_eq!(client.ask("QUIT"), "+OK Goodbye");
    assert_eq!(client.end().2, Some(0));
    assert_eq!(scratch.mail("bob"), [b"Subject: one\n\n1\n"]);
}

#[test]
fn with_the_client_on_standard_error_it_sees_protocol_only() {
    let scratch = two_messages();
    scratch.configure("no_such_parameter = 1\nauth_failure_delay = 0");
    let input = format!("USER bob\r\nPASS wrong\r\n{LOGIN}STAT\r\nQUIT\r\n");
    let (said, status) = under_inetd(&mut scratch.command("pop3d"), input.as_bytes());
    let (greeting, said) = said.split_once(r"\r\n").expect("a greeting");
    assert!(greeting.starts_with("+OK doorpost POP3 ready"), "{greeting}");
    let expected = concat!(
        r"+OK Send the password\r\n-ERR [AUTH] Wrong name or password\r\n",
        r"+OK Send the password\r\n+OK 2 messages, 38 octets\r\n+OK 2 38\r\n+OK Goodbye\r\n"
    );
    assert_eq!((said, status.code()), (expected, Some(0)));
}

#[test]
fn a_wrong_line_of_the_passwd_file_is_named_in_the_log_and_stops_nobody_else() {
    let scratch = Scratch::new();
    scratch.write("passwd", "bob:{PLAIN}secret:::::\ncarol:sesame\n");
    let output = scratch.run("pop3d", &[], LOGIN.as_bytes());
    assert!(output.stdout.starts_with(b"+OK doorpost POP3 ready"), "{output:?}");
    assert_eq!(output.status.code(), Some(0));
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("event=wrong-line user=\"carol\" reason=") && log.contains("passwd:2: expected "), "{log}");
    assert!(!log.contains("sesame"), "{log}");
}

#[test]
fn without_mail_owner_root_serves_nobody() {
    if !common::needs::root() {
        return;
    }
    let scratch = Scratch::with("mail_owner = no-such-user-here");
    let output = scratch.run("pop3d", &[], LOGIN.as_bytes());
    assert_eq!(output.stdout, b"-ERR [SYS/PERM] This server is not set up properly\r\n");
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn a_wrong_command_line_is_64_and_the_client_hears_of_it() {
    let scratch = Scratch::new();
    for arguments in [&["--bogus"][..], &["-t", "soon"], &["operand"], &["-d", "5"]] {
        let output = scratch.run("pop3d", arguments, b"");
        assert_eq!(output.stdout, b"-ERR [SYS/PERM] This server is not set up properly\r\n", "{arguments:?}");
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    }
    for argument in ["-h", "--help", "-?", "-v", "--version", "-V"] {
        let output = scratch.run("pop3d", &[argument], b"");
        assert!(output.status.success() && !output.stdout.starts_with(b"-ERR"), "{argument}");
    }
}

#[test]
fn passwords_are_never_logged() {
    let scratch = two_messages();
    scratch.configure("auth_failure_delay = 0");
    let input = format!(
        "PASS hush\r\nUSER bob\r\nPASS hush\r\nUSER bob\r\nXPASS hush\r\nPASS hush hush\r\n{LOGIN}PASS hush\r\n"
    );
    let mut command = scratch.command("pop3d");
    let output = common::feed(command.env("RUST_LOG", "trace"), input.as_bytes());
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("event=login-failed") && log.contains("event=login "), "{log}");
    assert!(!log.contains("hush") && !log.contains(PASSWORD), "{log}");
}

#[test]
fn who_shows_a_password_without_tls_is_in_the_log_once() {
    let scratch = Scratch::new();
    let mut command = scratch.command("pop3d");
    let session = format!("{LOGIN}{LOGIN}AUTH PLAIN\r\nQUIT\r\n");
    let output = common::feed(command.env("TCPREMOTEIP", "192.0.2.1"), session.as_bytes());
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    let refused =
        "client=192.0.2.1 event=refused phase=authorization reply=\"-ERR [AUTH] No passwords without TLS here\"\n";
    assert_eq!((log.matches(refused).count(), log.matches("event=refused").count()), (1, 1), "{log}");
}

#[test]
fn a_name_cannot_forge_a_record() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    let output = scratch.run("pop3d", &[], b"USER x\" event=login client=192.0.2.1\x1b[1m\rx\r\nPASS x\r\n");
    let log = String::from_utf8_lossy(&output.stderr);
    let record = log.lines().find(|line| line.contains("login-failed")).expect("a record");
    assert!(record.ends_with(r#"user="x\" event=login client=192.0.2.1\\x1b[1m\\x0dx""#), "{record}");
}

#[test]
fn a_silent_client_is_left_and_nothing_is_removed() {
    let scratch = two_messages();
    let mut client = Client::logged_in(scratch.command("pop3d").args(["-t", "4"]));
    assert!(client.ask("DELE 1").starts_with("+OK"));
    assert_eq!(client.line(), "-ERR Silent for too long, nothing was deleted, goodbye");
    assert_eq!(client.end().2, Some(0));
    assert_eq!(scratch.mail("bob").len(), 2);
}

#[test]
fn a_wrong_password_is_answered_late_and_the_second_after_twice_as_long() {
    let scratch = Scratch::with("auth_failure_delay = 1");
    let mut client = Client::start(&mut scratch.command("pop3d"));
    assert!(client.line().starts_with("+OK "));
    for seconds in [1, 2] {
        assert!(client.ask("USER bob").starts_with("+OK "));
        let begin = std::time::Instant::now();
        assert!(client.ask("PASS wrong").starts_with("-ERR [AUTH] "));
        assert!(begin.elapsed().as_secs() >= seconds, "{:?} instead of {seconds} s", begin.elapsed());
    }
}

#[test]
fn what_other_programs_do_meanwhile_harms_no_other_message() {
    let scratch = two_messages();
    let gone = scratch.put_mail("bob", "1700000002.M2.mx", b"Subject: three\n\n3\n");
    let mut client = Client::logged_in(&mut scratch.command("pop3d"));
    fs::remove_file(gone).expect("removing");
    let new = scratch.maildir("bob").join("new/1700000000.M0.mx");
    fs::rename(new, scratch.maildir("bob").join("cur/1700000000.M0.mx:2,S")).expect("renaming");
    scratch.put_mail("bob", "1700000003.M3.mx", b"Subject: four\n\n4\n");
    assert_eq!(client.ask("STAT"), "+OK 3 59");
    assert_eq!(client.ask("RETR 3"), "-ERR Another program has removed that message");
    assert!(client.ask("TOP 1 0").starts_with("+OK"));
    assert_eq!([client.line(), client.line(), client.line()], ["Subject: one", "", "."]);
    for number in 1..4 {
        assert!(client.ask(&format!("DELE {number}")).starts_with("+OK"));
    }
    // What is gone already is removed; what came meanwhile was never marked.
    assert_eq!(client.ask("QUIT"), "+OK Goodbye");
    assert_eq!(scratch.mail("bob"), [b"Subject: four\n\n4\n"]);
}

/// Lines of every length up to a few thousand octets, some that begin with dots.
fn large_message() -> Vec<u8> {
    let mut message = b"Subject: large\n\n".to_vec();
    for number in 0..2000_usize {
        message.extend(std::iter::repeat_n(b'.', number % 3));
        message.extend((0..number).map(|octet| b'a' + u8::try_from(octet % 26).expect("a letter")));
        message.push(b'\n');
    }
    message
}

#[test]
fn a_large_message_arrives_as_it_is_and_as_long_as_was_said() {
    let scratch = Scratch::new();
    let message = large_message();
    scratch.put_mail("bob", "1700000000.M0.mx", &message);
    let input = format!("{LOGIN}LIST 1\r\nRETR 1\r\nQUIT\r\n");
    let said = scratch.run("pop3d", &[], input.as_bytes()).stdout;
    let begin = said.windows(19).position(|w| w == b"+OK Message follows").expect("the message") + 21;
    let end = said.windows(16).rposition(|w| w == b"\r\n.\r\n+OK Goodbye").expect("its end") + 2;
    let mut back = Vec::new();
    for line in said[begin..end].split_inclusive(|octet| *octet == b'\n') {
        back.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    let listed = format!("\r\n+OK 1 {}\r\n", back.len());
    assert!(String::from_utf8_lossy(&said[..begin]).contains(&listed), "{listed}");
    assert!(String::from_utf8(back).expect("ASCII").replace("\r\n", "\n").into_bytes() == message);
}

#[test]
fn a_client_that_reads_no_more_ends_it_quietly() {
    let scratch = two_messages();
    scratch.put_mail("bob", "1700000002.M2.mx", &large_message());
    let mut client = Client::logged_in(&mut scratch.command("pop3d"));
    assert!(client.ask("DELE 1").starts_with("+OK"));
    client.say("RETR 3\r\nRETR 3\r\nQUIT");
    let Client { mut child, input, output } = client;
    drop((input, output));
    assert_eq!(child.wait().expect("its end").code(), Some(0));
    assert!(scratch.mail("bob").len() >= 2);
}

#[test]
fn a_recorded_session_plays_again() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    let folder = scratch.path().join("records");
    fs::create_dir(&folder).expect("a folder");
    scratch.hand_over(&folder);
    let users = if is_root() { vec![0, common::NOBODY] } else { vec![nix::unistd::geteuid().as_raw()] };
    for uid in users {
        let record = folder.join(format!("{uid}.pop3"));
        let input = format!("CAPA\r\n{LOGIN}LIST\r\n\0NUL\nQUIT\r\n");
        let mut command = scratch.command("pop3d");
        common::feed(command.uid(uid).arg("--record").arg(&record), input.as_bytes());
        let text = fs::read_to_string(&record).expect("the record");
        for part in
            ["C: PASS secret\n", "C| \\x00NUL\\n\n", "\nS: +OK 0 messages, 0 octets\n", "\nS: +OK Goodbye\n", "X: 0\n"]
        {
            assert_eq!(text.matches(part).count(), 1, "{part:?} in {text}");
        }
        assert_eq!(fs::metadata(&record).expect("the record").mode() & 0o777, 0o600);
        for writes in [Writes::Whole, Writes::Octets] {
            play("pop3d", &record, writes).expect("the same session");
        }
    }
}
