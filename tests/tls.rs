//! TLS as clients of smtpsrvr and pop3d see it: asked for and from the first octet on, and what must not get through.

mod common;

use common::connections::Server;
use common::processes::children;
use common::tls::{Client, configure, file};
use common::{NOBODY, Scratch, until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

fn with_tls() -> Scratch {
    let scratch = Scratch::with("auth_failure_delay = 0");
    configure(&scratch);
    scratch
}

/// smtpsrvr with a client that has had the greeting.
fn smtp(scratch: &Scratch) -> Client {
    let mut client = Client::start(&mut scratch.command("smtpsrvr"));
    assert_eq!(client.line(), "220 mx.example ESMTP doorpost");
    client
}

/// What EHLO lists, without our name.
fn extensions(client: &mut Client) -> Vec<String> {
    client.say("EHLO c.example");
    client.reply().iter().skip(1).map(|line| line[4..].to_owned()).collect()
}

#[test]
fn mail_under_starttls_is_marked_so() {
    let scratch = with_tls();
    let mut client = smtp(&scratch);
    let before = extensions(&mut client);
    assert!(before.contains(&"STARTTLS".to_owned()), "{before:?}");
    assert_eq!(client.ask("STARTTLS"), "220 2.0.0 Begin TLS now");
    client.start_tls();
    let under = extensions(&mut client);
    assert!(!under.contains(&"STARTTLS".to_owned()), "{under:?}");
    assert_eq!(client.ask("STARTTLS"), "503 5.5.1 This is TLS already");
    client.say("MAIL FROM:<a@c.example>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.");
    let replies: Vec<String> = (0..4).map(|_| client.line()).collect();
    assert!(replies[3].starts_with("250 2.0.0 Ok: queued as "), "{replies:?}");
    assert_eq!(client.ask("QUIT"), "221 2.0.0 Goodbye");
    let (rest, log, status) = client.end();
    assert_eq!((rest.as_str(), status), ("", Some(0)), "{log}");
    assert!(log.contains("client=unknown event=tls tls=TLSv1.3/TLS_"), "{log}");
    let queued = scratch.queued();
    assert_eq!(queued[0].content(), b"Subject: x\n\nx\n");
    let trace = String::from_utf8_lossy(&queued[0].whole).into_owned();
    assert!(trace.contains(" with ESMTPS id "), "{trace}");
}

#[test]
fn requiretls_is_for_mail_under_tls_and_is_kept() {
    let scratch = with_tls();
    let mut client = smtp(&scratch);
    assert!(!extensions(&mut client).contains(&"REQUIRETLS".to_owned()));
    assert_eq!(client.ask("MAIL FROM:<a@c.example> REQUIRETLS"), "530 5.7.10 REQUIRETLS needs TLS");
    client.ask("STARTTLS");
    client.start_tls();
    assert!(extensions(&mut client).contains(&"REQUIRETLS".to_owned()));
    assert_eq!(client.ask("MAIL FROM:<a@c.example> REQUIRETLS"), "250 2.1.0 Ok");
    client.say("RCPT TO:<bob@mx.example>\r\nDATA\r\n.\r\nQUIT");
    let (said, ..) = client.end();
    assert!(said.contains("queued as"), "{said}");
    assert_eq!(scratch.queued()[0].parameters, "REQUIRETLS|");
}

#[test]
fn what_was_said_in_clear_is_forgotten() {
    let scratch = with_tls();
    let mut client = smtp(&scratch);
    extensions(&mut client);
    assert!(client.ask("MAIL FROM:<a@c.example>").starts_with("250 "));
    assert!(client.ask("STARTTLS").starts_with("220 "));
    client.start_tls();
    assert_eq!(client.ask("RCPT TO:<bob@mx.example>"), "503 5.5.1 MAIL first");
    client.say("MAIL FROM:<a@c.example>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\nx\r\n.\r\nQUIT");
    let (said, ..) = client.end();
    assert!(said.contains("queued as"), "{said}");
    let trace = String::from_utf8_lossy(&scratch.queued()[0].whole).into_owned();
    assert!(!trace.contains("c.example") && trace.contains(" with SMTP id "), "the EHLO before it: {trace}");
}

#[test]
fn commands_behind_starttls_in_one_write_are_dropped() {
    let scratch = with_tls();
    for behind in ["NOOP\r\n", "MAIL FROM:<evil@c.example>\r\nRCPT TO:<bob@mx.example>\r\n", "HALF A LI", "\r"] {
        let mut client = smtp(&scratch);
        client.send(format!("EHLO c.example\r\nSTARTTLS\r\n{behind}").as_bytes());
        client.reply();
        assert!(client.line().starts_with("220 "), "{behind:?}");
        client.start_tls();
        assert_eq!(client.ask("RCPT TO:<bob@mx.example>"), "503 5.5.1 MAIL first", "{behind:?}");
        assert_eq!(client.ask("QUIT"), "221 2.0.0 Goodbye", "{behind:?}");
        let (said, log, status) = client.end();
        assert_eq!((said.as_str(), status), ("", Some(0)), "{behind:?}: {log}");
        let dropped = format!("event=input-before-tls-dropped octets={}", behind.len());
        assert!(log.contains(&dropped), "{behind:?}: {log}");
    }
}

#[test]
fn without_a_certificate_starttls_is_not_there() {
    let scratch = Scratch::new();
    let mut client = smtp(&scratch);
    assert!(!extensions(&mut client).contains(&"STARTTLS".to_owned()));
    assert_eq!(client.ask("STARTTLS"), "502 5.5.1 That command is not implemented here");
}

#[test]
fn a_certificate_that_cannot_be_used_is_told_the_log_and_mail_goes_on() {
    let scratch = with_tls();
    scratch.write("mx.key.pem", "nothing of use\n");
    let mut client = smtp(&scratch);
    extensions(&mut client);
    for _ in 0..2 {
        assert_eq!(client.ask("STARTTLS"), "454 4.7.0 TLS cannot be used now");
    }
    assert_eq!(client.ask("NOOP"), "250 2.0.0 Ok");
    let (_, log, status) = client.end();
    assert!(log.contains("mx.key.pem: tls_key_file: expected a PEM file with a key"), "{log}");
    assert_eq!(status, Some(0));
}

#[test]
fn a_certificate_that_is_missing_is_78() {
    let scratch = Scratch::with("tls_cert_file = /nonexistent/mx.pem");
    let client = Client::start(&mut scratch.command("smtpsrvr"));
    let (said, log, status) = client.end();
    assert_eq!(
        (said.as_str(), status),
        ("421 4.3.0 Trouble here, closing the connection, try again later\r\n", Some(78))
    );
    assert!(log.contains("/nonexistent/mx.pem: tls_cert_file: expected a PEM file that can be read"), "{log}");
}

#[test]
fn tls_from_the_first_octet_on() {
    let scratch = with_tls();
    let mut client = Client::start(scratch.command("smtpsrvr").arg("--tls"));
    client.start_tls();
    assert_eq!(client.line(), "220 mx.example ESMTP doorpost");
    assert!(!extensions(&mut client).contains(&"STARTTLS".to_owned()));
    assert_eq!(client.ask("QUIT"), "221 2.0.0 Goodbye");
    assert_eq!(client.end().2, Some(0));
    scratch.write("mx.key.pem", "nothing of use\n");
    let (said, log, status) = Client::start(scratch.command("smtpsrvr").arg("--tls")).end();
    assert_eq!((said.as_str(), status), ("", Some(78)), "{log}");
    let (_, log, status) = Client::start(Scratch::new().command("smtpsrvr").arg("--tls")).end();
    assert!(log.contains("--tls: tls_cert_file: expected a file of certificates to be set"), "{log}");
    assert_eq!(status, Some(78));
}

/// Whoever waits for a handshake would take words in clear for a broken one.
#[test]
fn before_the_handshake_nobody_is_told_in_clear_that_a_proxy_header_is_missing() {
    let scratch = with_tls();
    scratch.configure("smtpd_upstream_proxy_hosts = 192.0.2.1");
    for (tls, told) in [(true, ""), (false, "421 4.3.0 Trouble here, closing the connection, try again later\r\n")] {
        let mut command = scratch.command("smtpsrvr");
        command.args(tls.then_some("--tls"));
        let mut client = Client::from_afar(&mut command);
        client.say("EHLO c.example");
        let (said, log, status) = client.end();
        assert_eq!((said.as_str(), status), (told, Some(0)), "{log}");
        assert!(log.contains("event=refused reason=\"what came is no PROXY header\""), "{log}");
    }
}

#[test]
fn a_client_that_does_not_shake_hands_is_no_failure() {
    let scratch = with_tls();
    let mut client = smtp(&scratch);
    assert!(client.ask("STARTTLS").starts_with("220 "));
    client.say("EHLO in clear");
    let (said, log, status) = client.end();
    assert!(!said.contains("mx.example"), "{said}");
    assert!(log.contains("event=tls-failed reason=") && log.contains("event=end"), "{log}");
    assert_eq!(status, Some(0));
    let mut command = scratch.command("smtpsrvr");
    let mut client = Client::start(command.args(["-o", "smtpd_timeout=4"]));
    client.line();
    assert!(client.ask("STARTTLS").starts_with("220 "));
    // Silent; only the deadline ends it.
    client.send(b"\x16");
    client.wait_for_end();
    let (said, log, status) = client.end();
    assert_eq!((said.as_str(), status), ("", Some(0)), "{log}");
    assert!(log.contains("event=tls-failed reason=\"timed out\""), "{log}");
}

#[test]
fn a_connection_that_is_cut_in_a_message_queues_nothing() {
    let scratch = with_tls();
    let mut client = smtp(&scratch);
    assert!(client.ask("STARTTLS").starts_with("220 "));
    client.start_tls();
    client.say("MAIL FROM:<a@c.example>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\nx");
    assert!((0..3).all(|_| client.line().starts_with(['2', '3'])));
    let (log, status) = client.cut();
    assert!(log.contains("lost connection while receiving the message"), "{log}");
    assert_eq!((status, scratch.queued().len()), (Some(0), 0));
}

/// pop3d as it was started, and where that is root, as somebody else, too: in two processes and in one.
fn pop3d_in_both_forms(scratch: &Scratch) -> Vec<Command> {
    let mut commands = vec![scratch.command("pop3d")];
    if nix::unistd::geteuid().is_root() {
        let mut command = scratch.command("pop3d");
        command.uid(NOBODY).gid(NOBODY);
        commands.push(command);
    }
    commands
}

fn capabilities(client: &mut Client) -> Vec<String> {
    client.say("CAPA");
    std::iter::from_fn(|| Some(client.line()).filter(|line| line != ".")).collect()
}

#[test]
fn stls_makes_passwords_safe_and_carries_mail_both_ways() {
    let scratch = with_tls();
    let large: String = (0..5_000).map(|n| format!("line {n} of a message that takes many records\n")).collect();
    for mut command in pop3d_in_both_forms(&scratch) {
        scratch.put_mail("bob", "1700000000.M0.mx", format!("Subject: x\n\n{large}").as_bytes());
        let mut client = Client::from_afar(&mut command);
        assert_eq!(client.line(), "+OK doorpost POP3 ready");
        let before = capabilities(&mut client);
        assert!(before.contains(&"STLS".to_owned()) && !before.contains(&"USER".to_owned()), "{before:?}");
        assert!(client.ask("USER bob").starts_with("-ERR [AUTH] "));
        assert_eq!(client.ask("STLS"), "+OK Begin TLS now");
        client.start_tls();
        let under = capabilities(&mut client);
        assert!(!under.contains(&"STLS".to_owned()) && under.contains(&"USER".to_owned()), "{under:?}");
        assert!(client.ask("STLS").starts_with("-ERR "));
        // Over the login in one write, and more than a record.
        client.say(&format!("USER bob\r\nPASS secret\r\nRETR 1\r\n{}DELE 1\r\nQUIT", "NOOP\r\n".repeat(1000)));
        assert_eq!(client.line(), "+OK Send the password");
        assert!(client.line().starts_with("+OK 1 messages, "));
        assert_eq!(client.line(), "+OK Message follows");
        let message: Vec<String> = std::iter::from_fn(|| Some(client.line()).filter(|line| line != ".")).collect();
        assert_eq!(message[2..].join("\n") + "\n", large);
        assert!((0..1000).all(|_| client.line() == "+OK"));
        assert_eq!(client.line(), "+OK Marked as deleted");
        assert_eq!(client.line(), "+OK Goodbye");
        let (rest, log, status) = client.end();
        assert_eq!((rest.as_str(), status), ("", Some(0)), "{log}");
        assert!(log.contains("client=192.0.2.1 event=tls tls=TLSv1.3/TLS_"), "{log}");
        assert_eq!(scratch.mail("bob").len(), 0);
    }
}

#[test]
fn commands_behind_stls_in_one_write_are_dropped() {
    let scratch = with_tls();
    for mut command in pop3d_in_both_forms(&scratch) {
        let mut client = Client::from_here(&mut command);
        client.line();
        client.send(b"USER bob\r\nSTLS\r\nPASS secret\r\nQU");
        assert_eq!((client.line(), client.line()), ("+OK Send the password".into(), "+OK Begin TLS now".into()));
        client.start_tls();
        assert_eq!(client.ask("PASS secret"), "-ERR USER first");
        assert_eq!(client.ask("QUIT"), "+OK Goodbye");
        let (said, log, status) = client.end();
        assert_eq!((said.as_str(), status), ("", Some(0)), "{log}");
        assert!(log.contains("event=input-before-tls-dropped octets=15"), "{log}");
    }
}

#[test]
fn pop3_with_tls_from_the_first_octet_on() {
    let scratch = with_tls();
    for mut command in pop3d_in_both_forms(&scratch) {
        let mut client = Client::from_afar(command.arg("--tls"));
        client.start_tls();
        assert!(client.line().starts_with("+OK doorpost POP3 ready"));
        assert!(!capabilities(&mut client).contains(&"STLS".to_owned()));
        assert!(client.ask("USER bob").starts_with("+OK"));
        assert!(client.ask("PASS secret").starts_with("+OK 0 messages"));
        assert_eq!(client.ask("QUIT"), "+OK Goodbye");
        assert_eq!(client.end().2, Some(0));
    }
    scratch.write("mx.key.pem", "nothing of use\n");
    for mut command in pop3d_in_both_forms(&scratch) {
        let (said, log, status) = Client::start(command.arg("--tls")).end();
        assert_eq!((said.as_str(), status), ("", Some(78)), "{log}");
        assert!(log.contains("mx.key.pem: tls_key_file: expected a PEM file with a key"), "{log}");
        let mut client = Client::start(&mut scratch.command("pop3d"));
        client.line();
        assert_eq!(client.ask("STLS"), "-ERR [SYS/PERM] TLS cannot be used now");
        assert_eq!(client.ask("QUIT"), "+OK Goodbye");
    }
}

#[test]
fn a_connection_that_is_cut_deletes_nothing() {
    let scratch = with_tls();
    for mut command in pop3d_in_both_forms(&scratch) {
        scratch.put_mail("bob", "1700000000.M0.mx", b"Subject: x\n\nx\n");
        let mut client = Client::start(&mut command);
        client.line();
        assert!(client.ask("STLS").starts_with("+OK"));
        client.start_tls();
        assert!(client.ask("USER bob").starts_with("+OK"));
        assert!(client.ask("PASS secret").starts_with("+OK"));
        assert!(client.ask("DELE 1").starts_with("+OK"));
        let (log, status) = client.cut();
        assert!(log.contains("event=lost-connection phase=transaction"), "{log}");
        assert_eq!((status, scratch.mail("bob").len()), (Some(0), 1));
    }
}

/// What a process has open.
fn open_files(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(fs::read_link(entry.path()).ok()?.display().to_string())).collect()
}

#[test]
fn a_key_of_roots_alone_is_used_and_then_nobodys() {
    if !common::needs::root() {
        return;
    }
    let scratch = with_tls();
    let key = scratch.path().join("mx.key.pem");
    nix::unistd::chown(&key, Some(0.into()), Some(0.into())).expect("chown");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("chmod");
    for (program, ask, quit) in [("pop3d", "STLS", "+OK Goodbye"), ("smtpsrvr", "STARTTLS", "221 2.0.0 Goodbye")] {
        let mut client = Client::start(&mut scratch.command(program));
        client.line();
        client.say(ask);
        client.line();
        client.start_tls();
        assert_eq!(client.ask("QUIT"), quit);
        assert_eq!(client.end().2, Some(0));
    }
    // Without TLS: once somebody is in, no process of the session has the key.
    let mut client = Client::from_here(&mut scratch.command("pop3d"));
    client.line();
    assert!(client.ask("USER bob").starts_with("+OK"));
    assert!(client.ask("PASS secret").starts_with("+OK"));
    let parent = client.pid();
    let open = open_files(parent);
    assert!(!open.is_empty() && !open.iter().any(|name| name.contains(".pem")), "{open:?}");
    // The one that parsed has handed the client over.
    until("the other process to end", || {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).expect("its children");
        children.split_whitespace().all(|pid| open_files(pid.parse().expect("a number")).is_empty())
    });
    assert_eq!(client.ask("QUIT"), "+OK Goodbye");
}

#[test]
fn a_process_that_serves_many_clients_offers_tls_to_each() {
    let scratch = with_tls();
    let path = scratch.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut command = scratch.command("smtpsrvr");
    command.args(["-o", "children=1", "-o", "idle_children=1", "-o", "max_use=3"]);
    let mut pool =
        command.stdin(std::os::fd::OwnedFd::from(listener)).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut children = Vec::new();
    for _ in 0..3 {
        let waited_for = Command::new("true").stderr(std::process::Stdio::piped()).spawn().unwrap();
        let mut client = Client::connected(&path, waited_for);
        assert_eq!(client.line(), "220 mx.example ESMTP doorpost");
        assert!(extensions(&mut client).contains(&"STARTTLS".to_owned()));
        assert_eq!(client.ask("STARTTLS"), "220 2.0.0 Begin TLS now");
        client.start_tls();
        let parent = pool.id();
        children.push(fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap());
        assert_eq!(client.ask("QUIT"), "221 2.0.0 Goodbye");
    }
    pool.kill().unwrap();
    pool.wait().unwrap();
    assert!(children.iter().all(|child| *child == children[0]), "{children:?}");
}

/// Else the service manager would start the program for the same client again, and again.
#[test]
fn where_nothing_can_be_served_a_client_that_waits_for_tls_is_met_and_sees_the_end() {
    use std::io::{ErrorKind, Read};
    for (program, option) in [("pop3d", "--tls"), ("pop3d", "--tl"), ("smtpsrvr", "--tls")] {
        let scratch = Scratch::with("message_size_limit = many");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let mut command = scratch.command(program);
        command.arg(option).stdin(std::os::fd::OwnedFd::from(listener.try_clone().unwrap()));
        let status = command.stderr(std::process::Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(78), "{program}");
        listener.set_nonblocking(true).unwrap();
        let waiting = listener.accept().map(drop).map_err(|error| error.kind());
        assert_eq!(waiting, Err(ErrorKind::WouldBlock), "{program}: nobody waits any more");
        assert_eq!(client.read(&mut [0; 100]).unwrap(), 0, "{program}: nothing is said in clear");
    }
}

/// pop3d in a pool of one slot on a unix socket, where we connect.
fn pool_of_pop3d(scratch: &Scratch, options: &[&str]) -> (std::path::PathBuf, std::process::Child) {
    let path = scratch.path().join("socket");
    let _ = fs::remove_file(&path);
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut command = scratch.command("pop3d");
    command.args(["-o", "children=1", "-o", "idle_children=1", "-o", "max_use=0"]).args(options);
    let pool = command.stdin(std::os::fd::OwnedFd::from(listener)).stderr(std::process::Stdio::null()).spawn().unwrap();
    (path, pool)
}

/// A client of such a pool that has had the greeting.
fn pooled(path: &std::path::Path, under_tls: bool) -> Client {
    let waited_for = Command::new("true").stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut client = Client::connected(path, waited_for);
    client.line();
    if under_tls {
        assert_eq!(client.ask("STLS"), "+OK Begin TLS now");
        client.start_tls();
    }
    client
}

/// Under TLS the process that parses goes on speaking with the client, and says how to go on behind the password. The
/// user's process has ended while nobody was there.
#[test]
fn behind_an_end_of_the_users_process_in_a_pool_a_login_under_tls_is_answered() {
    let scratch = with_tls();
    scratch.put_mail("bob", "1700000000.M0.mx", b"Subject: x\n\nx\n");
    let (path, mut pool) = pool_of_pop3d(&scratch, &["-o", "max_idle=1"]);
    for _ in 0..3 {
        let mut client = pooled(&path, true);
        client.ask("USER bob");
        assert!(client.ask("PASS secret").starts_with("+OK 1 messages"));
        assert_eq!(client.ask("QUIT"), "+OK Goodbye");
        if let [checker] = children(pool.id())[..] {
            until("the end of the user's process", || children(checker).len() < 2);
        }
    }
    pool.kill().unwrap();
    pool.wait().unwrap();
}

/// The checker cannot do what comes behind a right password (the file of the last session), or the
/// user's process cannot become who it should (the group that a mailbox of one file needs).
#[test]
fn who_cannot_be_served_behind_a_right_password_hears_so_in_a_pool_under_tls_and_in_clear() {
    let scratch = with_tls();
    let mbox = format!("mailbox=mbox:{}/mail/%u", scratch.path().display());
    for options in [
        ["-o", "pop3d_login_delay=60", "-o", "pop3d_stat_file=/nosuch/x"],
        ["-o", "mail_privileged_group=nosuchgroup", "-o", &mbox],
    ] {
        if options[1].contains("group") && !common::needs::root() {
            continue;
        }
        let (path, mut pool) = pool_of_pop3d(&scratch, &[&["-o", "tls_auth_only=no"], &options[..]].concat());
        for (under_tls, behind) in
            [(true, ""), (false, ""), (true, "\r\nSTAT\r\nQUIT"), (false, "\r\nSTAT"), (true, "")]
        {
            let mut client = pooled(&path, under_tls);
            assert_eq!(client.ask("USER bob"), "+OK Send the password");
            let said = client.ask(&format!("PASS secret{behind}"));
            assert!(said.starts_with("-ERR [SYS/"), "{options:?} {under_tls}: {said}");
            assert_eq!(client.end().0, "", "{options:?} {under_tls}");
        }
        pool.kill().unwrap();
        pool.wait().unwrap();
    }
}

/// A server on a unix socket whose certificate and key lie in a folder that is for root alone, where it was started so.
struct Renewing {
    program: &'static str,
    scratch: Scratch,
    server: Server,
}

impl Renewing {
    fn start(program: &'static str, main_cf: &str, options: &[&str]) -> Renewing {
        let scratch = Scratch::with(&format!("smtpd_forbid_unauth_pipelining = no\nmax_idle = 0\n{main_cf}"));
        let folder = scratch.path().join("certificates");
        fs::create_dir(&folder).expect("a folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("its mode");
        let path = folder.display();
        scratch.configure(&format!("tls_cert_file = {path}/crt\ntls_key_file = {path}/key"));
        let listener = std::os::unix::net::UnixListener::bind(scratch.path().join("socket")).expect("a socket");
        let mut command = scratch.command(program);
        command.args(options).stdin(std::os::fd::OwnedFd::from(listener));
        for kind in ["crt", "key"] {
            place(&folder.join(kind), "mx", kind);
        }
        let server = Server::start_as_it_is(&mut command);
        Renewing { program, scratch, server }
    }

    fn file(&self, kind: &str) -> std::path::PathBuf {
        self.scratch.path().join("certificates").join(kind)
    }

    /// As a hook of certbot's does it.
    fn put(&self, name: &str, kind: &str) {
        place(&self.file(kind), name, kind);
    }

    fn session(&self) -> Client {
        pooled(&self.scratch.path().join("socket"), false)
    }

    /// Whose certificate the next client is shown.
    fn shown(&self) -> &'static str {
        let mut client = self.session();
        let (ask, answer) = if self.program == "pop3d" { ("STLS", "+OK ") } else { ("STARTTLS", "220 ") };
        if self.program == "smtpsrvr" {
            extensions(&mut client);
        }
        let said = client.ask(ask);
        assert!(said.starts_with(answer), "{said}");
        match client.try_tls_with("mx") {
            Ok(()) => {
                client.ask("QUIT");
                "mx"
            }
            Err(error) => {
                assert!(error.to_string().contains("not valid for name"), "{error}");
                "other"
            }
        }
    }

    /// What was recorded of certificates so far, up to one of this kind.
    fn records(&mut self, last: &str) -> Vec<String> {
        self.server.record(last);
        self.server.seen.drain(..).filter_map(|record| kind_of(&record)).collect()
    }

    /// The same in one line, while one client after another is shown this certificate.
    fn shown_until(&mut self, last: &str, name: &str) -> String {
        let mut seen = Vec::new();
        until(last, || {
            assert_eq!(self.shown(), name, "after {seen:?}");
            seen.extend(self.server.records.try_iter().filter_map(|record| kind_of(&record)));
            seen.iter().any(|kind| kind == last)
        });
        seen.join(" ")
    }
}

/// What a record says of certificates.
fn kind_of(record: &str) -> Option<String> {
    Some(record.split_once("-certificate")?.0.rsplit_once('=')?.1.to_owned())
}

fn place(path: &std::path::Path, name: &str, kind: &str) {
    let draft = path.with_extension("new");
    fs::copy(file(&format!("{name}.{kind}.pem")), &draft).expect("a copy");
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600)).expect("its mode");
    fs::rename(&draft, path).expect("its place");
}

/// Of a server that starts a process for each client, which has not the rights to read what is there.
#[test]
fn who_comes_next_is_shown_a_renewed_certificate_whose_key_is_roots_and_never_half_of_it() {
    let main_cf = if common::needs::root() { "net_owner = news" } else { "" };
    for (program, main_cf) in
        [("smtpsrvr", main_cf), ("smtpsrvr", "smtpd_sasl_auth_enable = yes"), ("pop3d", main_cf), ("pop3d", "")]
    {
        let mut server = Renewing::start(program, main_cf, &[]);
        let what = format!("{program} {main_cf}");
        assert_eq!(server.shown(), "mx", "{what}");
        server.put("other", "crt");
        assert_eq!([server.shown(), server.shown()], ["mx"; 2], "{what}: its key is not there yet");
        server.put("other", "key");
        assert_eq!(server.shown(), "other", "{what}");
        assert_eq!(server.records("event=new-certificate"), ["old", "new"], "{what}");
        // Written over, and not to its end.
        let key = fs::read(file("mx.key.pem")).expect("a key");
        fs::write(server.file("key"), &key[..key.len() / 2]).expect("half of it");
        assert_eq!([server.shown(), server.shown()], ["other"; 2], "{what}: half a key");
        fs::write(server.file("key"), &key).expect("the rest");
        assert_eq!([server.shown(), server.shown()], ["other"; 2], "{what}: the key of another certificate");
        server.put("mx", "crt");
        assert_eq!(server.shown(), "mx", "{what}");
        assert_eq!(server.records("event=new-certificate"), ["old", "old", "new"], "{what}");
        fs::remove_file(server.file("key")).expect("its end");
        assert_eq!([server.shown(), server.shown()], ["mx"; 2], "{what}: no key");
        assert_eq!(server.records("event=old-certificate"), ["old"], "{what}");
    }
}

/// Of children that wait: they are replaced when the process that listens has seen it.
#[test]
fn a_pool_comes_to_show_a_renewed_certificate_whose_key_is_roots_and_never_half_of_it() {
    let main_cf = if common::needs::root() { "net_owner = news" } else { "" };
    let options = ["-o", "children=1", "-o", "idle_children=1", "-o", "max_use=0"];
    for (program, main_cf) in
        [("smtpsrvr", main_cf), ("smtpsrvr", "smtpd_sasl_auth_enable = yes"), ("pop3d", main_cf), ("pop3d", "")]
    {
        let mut server = Renewing::start(program, main_cf, &options);
        let what = format!("{program} {main_cf}");
        assert_eq!(server.shown(), "mx", "{what}");
        server.put("other", "crt");
        assert_eq!(server.shown_until("old", "mx"), "old", "{what}: its key is not there yet");
        server.put("other", "key");
        until("the new one", || server.shown() == "other");
        fs::write(server.file("key"), "-----BEGIN PRIVATE KEY-----\n").expect("half a key");
        assert_eq!(server.shown_until("old", "other"), "new old", "{what}: half a key");
        server.put("mx", "crt");
        assert_eq!(server.shown_until("old", "other"), "old", "{what}: the certificate of another key");
        server.put("mx", "key");
        until("the next one", || server.shown() == "mx");
    }
}

#[test]
fn a_pool_that_nobody_calls_looks_for_renewed_certificates_all_the_same() {
    let mut server = Renewing::start("pop3d", "", &["-o", "idle_children=1", "-o", "max_use=0"]);
    server.server.record("ready ");
    server.put("other", "crt");
    server.put("other", "key");
    server.server.record("event=new-certificate");
    until("the new one", || server.shown() == "other");
}

/// As mail_owner, who may look into the folder.
#[test]
fn a_renewed_key_that_the_process_that_listens_may_not_read_is_told_of_once_and_used_as_soon_as_it_may() {
    if !common::needs::root() {
        return;
    }
    let mut server = Renewing::start("smtpsrvr", "", &[]);
    let chmod = |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    assert_eq!(server.shown(), "mx");
    chmod(&server.scratch.path().join("certificates"), 0o755).expect("its mode");
    server.put("other", "crt");
    server.put("other", "key");
    chmod(&server.file("crt"), 0o644).expect("its mode");
    assert_eq!([server.shown(), server.shown()], ["mx"; 2]);
    chmod(&server.file("key"), 0o644).expect("its mode");
    assert_eq!(server.shown(), "other");
    assert_eq!(server.records("event=new-certificate"), ["old", "new"]);
}

/// The checker and the user's process are forked by the one that listens, and have its descriptors.
#[test]
fn in_a_pool_of_pop3d_nobody_has_the_key_but_who_listens_and_who_parses() {
    if !common::needs::root() {
        return;
    }
    let server = Renewing::start("pop3d", "tls_auth_only = no", &["-o", "children=1", "-o", "max_use=0"]);
    let has_key = |pid: u32| open_files(pid).iter().any(|name| name.contains("tls_key_file") || name.contains("/key"));
    let mut client = server.session();
    client.ask("USER bob");
    assert!(client.ask("PASS secret").starts_with("+OK"));
    let pool = server.server.process.id();
    let [checker] = children(pool)[..] else { panic!("one child") };
    let mut behind: Vec<bool> = children(checker).into_iter().map(has_key).collect();
    behind.sort_unstable();
    assert_eq!((has_key(pool), has_key(checker), &behind[..]), (true, false, &[false, true][..]));
}
