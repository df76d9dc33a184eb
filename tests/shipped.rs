//! What is shipped for other programs, by those programs: the filter of fail2ban, PAM through its helper, and systemd's
//! units for the mail of users; and the installation that smtpsrvr(8) describes, under inetd.
//!
//! Needs fail2ban, libpam0g-dev, openbsd-inetd, swaks, systemd, strace, python3, iproute2 and root (a file in /etc/pam.d,
//! namespaces), which .ci/run has.

mod common;

use common::connections::{self, Server};
use common::hops::Hop;
use common::{Scratch, feed, under_inetd};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The addresses that the filter would ban for these lines.
fn banned(folder: &Path, lines: &str) -> Vec<String> {
    let log = folder.join("log");
    fs::write(&log, lines).expect("a log");
    let filter = repository().join("fail2ban/doorpost.conf");
    let mut command = Command::new("fail2ban-regex");
    let output = feed(command.args(["--out", "ip"]).arg(&log).arg(&filter), b"");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn fail2ban_bans_who_had_a_wrong_password_and_nobody_else() {
    let scratch = Scratch::with("auth_failure_delay = 0\ntls_auth_only = no");
    let log = scratch.path().join("pop3d.log");
    let mut command = Command::new("sh");
    let program = common::binary("pop3d");
    // Records go to a file, for descriptor 2 is none of the client's.
    command.arg("-c").arg(format!("exec {} 2>{}", program.display(), log.display())).env("MAIL_CONFIG", scratch.path());
    command.env("TCPREMOTEIP", "192.0.2.1");
    let forged = "client=192.0.2.9 event=login-failed user=";
    let input = format!("USER bob\r\nPASS wrong\r\nUSER {forged}\"\r\nPASS x\r\nUSER bob\r\nPASS secret\r\nQUIT\r\n");
    // From a pipe, whose other end is who the environment says.
    let output = feed(&mut command, input.as_bytes());
    let end = b"-ERR [AUTH] Wrong name or password\r\n+OK Send the password\r\n+OK 0 messages, 0 octets\r\n\
                +OK Goodbye\r\n";
    assert!(output.stdout.ends_with(end), "{output:?}");
    let text = fs::read_to_string(&log).expect("a log");
    let records = text.lines().filter(|line| line.contains("doorpost/pop3d["));
    let lines: String = records.map(|line| format!("Nov 22 04:27:00 mx {line}\n")).collect();
    assert!(lines.contains("192.0.2.9") && lines.contains("event=login user"), "{lines}");
    assert_eq!(banned(scratch.path(), &lines), ["192.0.2.1", "192.0.2.1"], "{lines}");
    let others = "Nov 22 04:27:00 mx doorpost/smtpsrvr[9]: client=2001:db8::7 event=login-failed user=\"bob\"\n\
        Nov 22 04:27:00 mx other[9]: client=192.0.2.4 event=login-failed user=\"bob\"\n\
        Nov 22 04:27:00 mx doorpost/smtpsrvr[9]: client=192.0.2.3 event=refused from=<a@b> user=bob reply=\"553 5.7.1 x\"\n\
        Nov 22 04:27:00 mx doorpost/pop3d[9]: client=192.0.2.2 event=refused phase=authorization reply=\"-ERR [AUTH] x\"\n\
        Nov 22 04:27:00 mx doorpost/pop3d[9]: client=192.0.2.5 event=connect\n";
    assert_eq!(banned(scratch.path(), others), ["2001:db8::7"]);
    // The same as fail2ban makes lines of the journal, in which the program that systemd started stands before our tag.
    let journal = "Nov 22 04:27:00 mx pop3d[9]: doorpost/pop3d[9]: client=192.0.2.6 event=login-failed user=\"bob\"\n\
        Nov 22 04:27:00 mx smtpd[7]: doorpost/smtpsrvr[9]: client=192.0.2.7 event=login-failed user=\"bob\"\n\
        Nov 22 04:27:00 mx other[9]: doorpost/pop3d[9]: client=192.0.2.8 event=login-failed user=\"bob\"\n\
        Nov 22 04:27:00 mx pop3d[9]: a b[1]: doorpost/pop3d[9]: client=192.0.2.9 event=login-failed user=\"bob\"\n";
    assert_eq!(banned(scratch.path(), journal), ["192.0.2.6", "192.0.2.7"]);
}

/// A unit of systemd that we ship.
fn unit(name: &str) -> String {
    fs::read_to_string(repository().join("systemd").join(name)).expect("a unit")
}

/// The value of the only line that gives a unit this.
fn value<'a>(unit: &'a str, name: &str) -> &'a str {
    let values: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect();
    assert_eq!(values.len(), 1, "{name}: {unit}");
    values[0]
}

/// journald calls what comes on standard error after the program of the unit, and what comes by syslog after the tag.
#[test]
fn fail2ban_looks_for_the_records_of_each_unit_that_takes_passwords() {
    let filter = fs::read_to_string(repository().join("fail2ban/doorpost.conf")).expect("the filter");
    let matched: Vec<&str> = value(&filter, "journalmatch ").trim().split(" + ").collect();
    let mut found = Vec::new();
    for file in fs::read_dir(repository().join("systemd")).expect("units") {
        let name = file.expect("a file").file_name().into_string().expect("a name");
        if name.ends_with(".service") {
            let text = unit(&name);
            let program = value(&text, "ExecStart").strip_prefix("/usr/local/sbin/").expect("a program of ours");
            // Otherwise systemd takes daemon, and syslogd has nothing for /var/log/mail.log, where the recipe looks.
            assert_eq!(value(&text, "SyslogFacility"), "mail", "{name}");
            found.push(program.split(' ').next().unwrap_or_default().to_owned());
        }
    }
    for program in ["pop3d", "smtpsrvr", "smtpd"] {
        assert!(found.iter().any(|other| other == program), "{found:?}");
        assert!(matched.contains(&format!("SYSLOG_IDENTIFIER={program}").as_str()), "{program}: {matched:?}");
    }
    for program in ["pop3d", "smtpsrvr"] {
        assert!(matched.contains(&format!("SYSLOG_IDENTIFIER=doorpost/{program}").as_str()), "{program}: {matched:?}");
    }
}

/// What is started for each connection reads its configuration then.
#[test]
fn the_units_of_programs_that_stay_have_them_read_their_configuration_again_at_reload() {
    for file in fs::read_dir(repository().join("systemd")).expect("units") {
        let name = file.expect("a file").file_name().into_string().expect("a name");
        if name.ends_with(".service") && !name.contains('@') {
            assert_eq!(value(&unit(&name), "ExecReload"), "/bin/kill -HUP $MAINPID", "{name}");
        }
    }
}

/// The command of each unit, with the rights that the unit leaves it and no others: a login, by a file of passwords that is
/// for root alone to read as the shadow file is, under a key that is root's too.
#[test]
fn the_units_for_the_mail_of_users_take_logins_with_the_rights_they_have() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    let folder = scratch.path().display();
    for (name, file) in [("crt.pem", "mx.crt.pem"), ("key.pem", "mx.key.pem")] {
        fs::copy(common::tls::file(file), scratch.path().join(name)).expect("a PEM file");
    }
    fs::write(scratch.path().join("shadow"), "bob:{PLAIN}by-root\n").expect("passwords");
    for name in ["key.pem", "shadow"] {
        fs::set_permissions(scratch.path().join(name), fs::Permissions::from_mode(0o600)).expect("its mode");
    }
    scratch.configure(&format!(
        "authentication = passwd-file:{folder}/shadow\ntls_cert_file = {folder}/crt.pem\ntls_key_file = {folder}/key.pem\n\
         tls_ticket_key_file = $queue_directory/tickets"
    ));
    for (name, port, tls) in [("submission", "587", "-tls"), ("submissions", "465", "--tls-on-connect")] {
        assert_eq!(value(&unit(&format!("doorpost-{name}.socket")), "ListenStream"), port);
        let service = unit(&format!("doorpost-{name}.service"));
        assert!(!service.contains("\nUser="), "{service}");
        let rights: String = value(&service, "CapabilityBoundingSet")
            .split(' ')
            .map(|right| format!(",+{}", right.strip_prefix("CAP_").expect("a right").to_lowercase()))
            .collect();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        drop(listener);
        let mut command = Command::new("setpriv");
        command.args(["--no-new-privs", &format!("--bounding-set=-all{rights}"), "systemd-socket-activate", "-E"]);
        command.args(["MAIL_CONFIG", &format!("--listen={address}")]).arg(common::binary("smtpsrvr"));
        let words = value(&service, "ExecStart").strip_prefix("/usr/local/sbin/smtpsrvr ").expect("options");
        command.args(words.split(' ')).env("MAIL_CONFIG", scratch.path()).stdout(std::process::Stdio::null());
        let mut server = command.stderr(std::process::Stdio::null()).spawn().expect("setpriv");
        let send = |more: &[&str]| {
            let mut swaks = Command::new("swaks");
            swaks.args(["--silent", "2", "--server", "127.0.0.1", "--port", &address.port().to_string(), tls]);
            swaks.args(["--from", "bob@mx.example", "--to", "alice@mx.example"]).args(more);
            let output = feed(&mut swaks, b"");
            (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
        };
        common::until("the socket", || send(&["--quit-after", "CONNECT"]).0 == Some(0));
        let login = ["--auth", "PLAIN", "--auth-user", "bob", "--auth-password"];
        let answers =
            [send(&[]), send(&[&login[..], &["secret"]].concat()), send(&[&login[..], &["by-root"]].concat())];
        let _ = server.kill();
        let _ = server.wait();
        // swaks says 23 where the sender was refused, and 28 where the login was.
        assert_eq!(answers.each_ref().map(|(status, _)| *status), [Some(23), Some(28), Some(0)], "{name}: {answers:?}");
    }
    assert_eq!(scratch.queued().len(), 2);
    assert!(scratch.queue().join("tickets").is_file(), "made by who owns the queue");
}

/// What a unit lets its programs call: the lists of SystemCallFilter, their sets as systemd on this machine has them.
fn allowed(unit: &str) -> BTreeSet<String> {
    let mut left: Vec<String> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("SystemCallFilter="))
        .flat_map(|list| list.split(' ').map(str::to_owned))
        .collect();
    let mut calls = BTreeSet::new();
    while let Some(name) = left.pop() {
        if !name.starts_with('@') {
            calls.insert(name);
            continue;
        }
        let output = Command::new("systemd-analyze").args(["syscall-filter", &name]).output().expect("systemd-analyze");
        assert!(output.status.success(), "{name}: {output:?}");
        let text = String::from_utf8(output.stdout).expect("names");
        left.extend(text.lines().skip(1).map(str::trim).filter(|line| !line.starts_with('#')).map(str::to_owned));
    }
    calls
}

/// Sees every call of programs of ours and of all that they start.
struct Calls(Scratch);

impl Calls {
    /// A program, seen.
    fn of(&self, program: &str, arguments: &[&str]) -> Command {
        let count = fs::read_dir(self.0.path()).expect("a folder").count();
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-s", "0", "-e", "signal=none", "-o"]);
        command.arg(self.0.path().join(format!("calls-{count}"))).arg(common::binary(program)).args(arguments);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", self.0.path());
        command
    }

    /// A program that accepts, seen, on a socket of its own.
    fn accepting(&self, program: &str) -> (Child, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let mut command = self.of(program, &[]);
        let command = command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
        (command.spawn().expect("strace"), address)
    }

    /// Tells a server to end, and not who traces it.
    fn tell(strace: &Child) {
        let program = common::processes::children(strace.id())[0];
        kill(Pid::from_raw(program.cast_signed()), Signal::SIGTERM).expect("a signal");
    }

    /// Ends a server; its trace is whole then.
    fn end(mut strace: Child) {
        Calls::tell(&strace);
        assert!(strace.wait().expect("its end").success());
    }

    /// The names of all calls.
    fn seen(&self) -> BTreeSet<String> {
        let files = fs::read_dir(self.0.path()).expect("a folder").map(|file| file.expect("a file").path());
        let is_trace =
            |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("calls-"));
        let text: String = files.filter(is_trace).map(|path| fs::read_to_string(path).expect("a trace")).collect();
        let name = |line: &str| {
            let (_, call) = line.split_once(' ')?;
            let call = call.trim_start();
            let call = call.strip_prefix("<... ").unwrap_or(call);
            call.split(['(', ' ']).next().map(str::to_owned)
        };
        text.lines().filter_map(name).collect()
    }
}

/// Mail in by each server, past a filter, on to another host and out by POP3.
#[test]
fn what_the_programs_call_is_what_the_units_let_them_call() {
    let hop = Hop::friendly();
    let calls = Calls(common::relaying::to(&hop));
    let scratch = &calls.0;
    scratch.configure(&format!(
        "before_queue_filter = smtp:{}\nqmqpd_authorized_clients = stdin\nauth_failure_delay = 0",
        hop.name()
    ));
    let netstring = |text: &str| format!("{}:{text},", text.len());
    let (server, address) = calls.accepting("smtpsrvr");
    connections::smtp(address, "Subject: x\r\n\r\nhi\r\n", "250");
    Calls::end(server);
    let package = netstring(&["Subject: x\n", "alice@client.example", "bob@mx.example"].map(netstring).concat());
    let output = feed(&mut calls.of("qmqpd", &[]), package.as_bytes());
    assert!(String::from_utf8_lossy(&output.stdout).contains(":K"), "{output:?}");
    let mut command = calls.of("smtpd", &connections::ON_LOOPBACK);
    let mut server = Server::start(command.arg("smtpsrvr"));
    let address = server.address("0");
    connections::smtp(address, "Subject: x\r\n\r\nhi\r\n", "250");
    Calls::tell(&server.process);
    server.end();
    assert_eq!(hop.taken().len(), 3, "past the filter");
    scratch.enqueue(&["x@far.example", "bob@mx.example"], b"Subject: x\n\nhi\n");
    let mut deliver = calls.of("deliver", &["--watch"]);
    let deliver = deliver.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("strace");
    common::until("both copies", || hop.taken().len() == 4 && scratch.mail("bob").len() == 1);
    Calls::end(deliver);
    let (server, address) = calls.accepting("pop3d");
    let mut client = std::net::TcpStream::connect(address).expect("a connection");
    std::io::Write::write_all(&mut client, b"USER bob\r\nPASS secret\r\nRETR 1\r\nDELE 1\r\nQUIT\r\n")
        .expect("a session");
    let said = connections::all(&mut client);
    assert!(said.ends_with("+OK Goodbye\r\n") && said.contains("\r\nhi\r\n"), "{said}");
    Calls::end(server);
    let seen = calls.seen();
    assert!(seen.contains("execve") && seen.contains("landlock_create_ruleset"), "an agent too: {seen:?}");
    for file in fs::read_dir(repository().join("systemd")).expect("units") {
        let name = file.expect("a file").file_name().into_string().expect("a name");
        if name.ends_with(".service") {
            let unit = unit(&name);
            let allowed = allowed(&unit);
            let missing: Vec<&String> = seen.difference(&allowed).collect();
            assert!(missing.is_empty(), "{name} does not allow {missing:?}");
            // A later systemd has these in the set, where 252 has not.
            let named = "\nSystemCallFilter=landlock_create_ruleset landlock_add_rule landlock_restrict_self\n";
            assert!(unit.contains(named), "{name}");
        }
    }
}

/// Begins a program under a filter of the kernel, which does this at landlock_create_ruleset (444 everywhere), as
/// SystemCallFilter of a unit does at what is not listed.
const FILTER: &str = "
import ctypes, os, struct, sys
does = {'kill': 0x80000000, 'EPERM': 0x00050001}[sys.argv[1]]
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, does), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *line) for line in code))
program = ctypes.create_string_buffer(struct.pack('HP', 4, ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(sys.argv[2], sys.argv[2:])";

#[test]
fn what_a_filter_of_calls_does_to_an_agent_is_in_the_log() {
    for (does, is_taken, words) in [
        ("kill", false, "process=agent event=killed pid="),
        ("EPERM", true, "the agent is not confined: landlock_create_ruleset is forbidden"),
    ] {
        let hop = Hop::friendly();
        let scratch = common::relaying::to(&hop);
        let filtered = |program: &str, arguments: &[&str], input: &[u8]| {
            let mut command = Command::new("python3");
            command.args(["-c", FILTER, does]).arg(common::binary(program)).args(arguments);
            let output = feed(command.env("MAIL_CONFIG", scratch.path()), input);
            (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let id = scratch.enqueue(&["x@far.example"], b"Subject: x\n\nhi\n");
        let (_, log) = filtered("deliver", &[], b"");
        assert!(log.contains(words) && (is_taken || log.contains(" signal=SIGSYS\n")), "{log}");
        assert_eq!((hop.taken().len(), scratch.ids().contains(&id)), (usize::from(is_taken), !is_taken), "{log}");
        let session = b"MAIL FROM:<a@client.example>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\n\r\nhi\r\n.\r\nQUIT\r\n";
        let filter = format!("before_queue_filter=smtp:{}", hop.name());
        let (said, log) = filtered("smtpsrvr", &["-o", &filter], session);
        assert_eq!(said.contains("\r\n250 2.0.0 Ok: queued as "), is_taken, "{said}{log}");
        // Of one that goes on nothing is said here: its log is silent.
        assert!(is_taken || log.contains(words) && log.contains(" signal=SIGSYS\n"), "{log}");
    }
}

/// Our programs and the helper for PAM in one folder.
fn programs(scratch: &Scratch) -> PathBuf {
    let folder = scratch.path().join("programs");
    fs::create_dir(&folder).expect("a folder");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pam");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(repository().join("pam/Cargo.toml"));
    let output = cargo.arg("--target-dir").arg(&target).output().expect("cargo");
    assert!(output.status.success(), "libpam0g-dev is needed: {output:?}");
    fs::copy(target.join("debug/doorpost-pam"), folder.join("doorpost-pam")).expect("the helper");
    fs::copy(common::binary("pop3d"), folder.join("pop3d")).expect("pop3d");
    folder
}

/// A service of PAM that is there as long as the test runs.
struct Service(String, PathBuf);

impl Service {
    fn new(name: &str, lines: &str) -> Service {
        let name = format!("doorpost-test-{name}-{}", std::process::id());
        let path = Path::new("/etc/pam.d").join(&name);
        fs::write(&path, lines).expect("a service of PAM, as root");
        Service(name, path)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.1);
    }
}

#[test]
fn pam_checks_the_passwords_of_users() {
    let scratch = Scratch::with("auth_failure_delay = 0\nauthentication = pam");
    let script = scratch.path().join("check");
    // pam_exec gives the password on standard input, with a NUL behind it.
    let text = "#!/bin/sh\ntest \"$PAM_USER $(tr -d '\\000')\" = 'bob by PAM'\n";
    common::write_program(&script, text);
    // What pam_exec says of a script that ends with 1 is that the system is broken; pam_deny says no.
    let lines = format!(
        "auth [success=1 default=ignore] pam_exec.so quiet expose_authtok {}\nauth requisite pam_deny.so\n\
         auth required pam_permit.so\naccount required pam_permit.so\n",
        script.display()
    );
    let service = Service::new("exec", &lines);
    let folder = programs(&scratch);
    scratch.configure(&format!("pam_service = {}\ndaemon_directory = {}", service.0, folder.display()));
    let login = |name: &str, password: &str| {
        let input = format!("USER {name}\r\nPASS {password}\r\nQUIT\r\n");
        under_inetd(&mut scratch.command("pop3d"), input.as_bytes()).0
    };
    let said = login("bob", "by PAM");
    assert!(said.contains("+OK 0 messages, 0 octets"), "{said}");
    // carol is a user, and PAM knows no password of hers; nobody else is a user.
    for (name, password) in [("bob", "secret"), ("carol", "by PAM"), ("dave", "by PAM")] {
        let said = login(name, password);
        assert!(said.contains("-ERR [AUTH] Wrong name or password"), "{name}: {said}");
    }
    fs::write(&service.1, "auth required pam_no_such_module.so\n").expect("a service of PAM");
    let said = login("bob", "by PAM");
    assert!(said.contains("-ERR [SYS/TEMP] Passwords cannot be checked now"), "{said}");
}

#[test]
fn the_service_file_that_is_shipped_works_with_the_accounts_of_this_system() {
    let scratch = Scratch::with("auth_failure_delay = 0\nauthentication = pam");
    let text = fs::read_to_string(repository().join("pam/doorpost")).expect("the service file");
    let service = Service::new("shipped", &text);
    let folder = programs(&scratch);
    scratch.configure(&format!("pam_service = {}\ndaemon_directory = {}", service.0, folder.display()));
    // bob is no account of the system: a no, and no trouble.
    let (said, _) = under_inetd(&mut scratch.command("pop3d"), b"USER bob\r\nPASS x\r\nQUIT\r\n");
    assert!(said.contains("-ERR [AUTH] Wrong name or password"), "{said}");
}

/// The literal block of smtpsrvr(8) that begins with this line.
fn block(begin: &str) -> String {
    let page = fs::read_to_string(repository().join("man/smtpsrvr.8")).expect("the page");
    let from = page.find(&format!("\n{begin}")).unwrap_or_else(|| panic!("no block begins with {begin}")) + 1;
    page[from..].split("\n.Ed").next().expect("an end").to_owned() + "\n"
}

/// What install.sh does for this machine: the user and the folders.
fn installing() -> String {
    let script = fs::read_to_string(repository().join("install.sh")).expect("install.sh");
    let part = script.split("] || exit 0\n").nth(1).and_then(|rest| rest.split(";;").next()).expect("its end");
    assert!(part.contains("useradd ") && part.contains("/var/spool/doorpost-drop"), "{part}");
    part.to_owned()
}

/// What a packager gets, and that nothing of it stays.
#[test]
fn install_puts_every_program_name_and_page_where_it_is_told_and_takes_them_away_again() {
    let folder = tempfile::tempdir().expect("a folder");
    std::os::unix::fs::symlink(common::bin_folder(), folder.path().join("release")).expect("a link");
    let root = folder.path().join("root");
    let run = |arguments: &[&str]| {
        let mut command = Command::new("sh");
        command.arg("install.sh").args(arguments).current_dir(repository());
        command.env("CARGO_TARGET_DIR", folder.path()).env("DESTDIR", &root).env("PREFIX", "/usr");
        let output = feed(&mut command, b"");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let files = || {
        let found =
            Command::new("find").arg(&root).args(["!", "-type", "d", "-printf", "%P\n"]).output().expect("find");
        let mut names: Vec<String> =
            String::from_utf8(found.stdout).expect("names").lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(run(&[]), (Some(0), String::new()), "and nothing on standard error");
    let installed = files();
    for page in fs::read_dir(repository().join("man")).expect("the pages") {
        let name = page.expect("a page").file_name().into_string().expect("its name");
        let (command, section) = name.rsplit_once('.').expect("a section");
        assert!(installed.contains(&format!("usr/share/man/man{section}/{name}")), "{name}: {installed:?}");
        let folder = match section {
            "1" => "bin",
            "8" => "sbin",
            _ => continue,
        };
        let program = root.join("usr").join(folder).join(command);
        assert!(program.metadata().is_ok_and(|file| file.is_file()), "{command} is no program: {installed:?}");
    }
    let programs = fs::read_dir(repository().join("src/bin")).expect("the programs");
    for source in programs.map(|source| source.expect("a program").path()) {
        let name = source.file_stem().and_then(|stem| stem.to_str()).expect("its name").to_owned();
        assert!(installed.contains(&format!("usr/sbin/{name}")), "{name}: {installed:?}");
    }
    assert_eq!((run(&["--uninstall"]), files()), ((Some(0), String::new()), Vec::new()));
    assert_eq!(run(&["--everything"]).0, Some(64));
}

/// Everything as the page and the README say it, with their own paths, users and ports: in namespaces of mounts and of the
/// network, so that nothing of this machine is touched and no name server is asked.
#[test]
fn the_small_site_of_smtpsrvrs_page_works_when_it_is_followed_word_for_word() {
    let folder = tempfile::Builder::new().prefix("doorpost-site-").tempdir().expect("a folder");
    let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
    put("main.cf", &block("myhostname = mx.example.org"));
    put("channels", &block("local 127.0.0.0/8"));
    put("senders", &block("alice@example.org alice"));
    put("passwd", &block("alice:HASH"));
    put("inetd.conf", &block("smtp stream tcp"));
    for (name, file) in [("mx.example.org.pem", "mx.crt.pem"), ("mx.example.org.key", "mx.key.pem")] {
        put(name, &fs::read_to_string(common::tls::file(file)).expect("a PEM file"));
    }
    put("install", &format!("{}\n{}", installing(), block("install -d -m 700 -o doorpost /var/mail")));
    let script = r#"
        exec 2>&1; set -e; cd "$1"
        cp -a /etc etc; mount --bind etc /etc; mount --bind "$2" /usr/local/sbin
        for folder in /var/spool /var/mail /run; do mount -t tmpfs tmpfs $folder; done
        echo nameserver 127.0.0.1 >/etc/resolv.conf; rm -f /etc/aliases
        ip link set lo up; ip address add 192.0.2.25/32 dev lo
        sh -e install
        hash=$(openssl passwd -6 secret)
        awk -v hash="$hash" '{ sub("HASH", hash); print }' passwd >passwd.new; mv passwd.new passwd
        mkdir -p /etc/doorpost; cp main.cf channels senders passwd mx.example.org.* /etc/doorpost
        chmod 600 /etc/doorpost/mx.example.org.key; chown doorpost /etc/doorpost/passwd; chmod 600 /etc/doorpost/passwd
        doorpost-check || echo "check: $?"
        inetd -i inetd.conf & inetd=$!
        for port in 25 587 465; do
            for try in $(seq 1000); do nc -z 127.0.0.1 $port && break; sleep 0.02; done
        done
        send() {
            status=0; swaks --silent 2 --server 192.0.2.25 --header "Subject: $1" "$@" || status=$?
            echo "sent $* = $status"
        }
        user="--auth PLAIN --auth-user alice --auth-password secret"
        other="--auth PLAIN --auth-user bob --auth-password secret"
        send --from x@far.example --to alice@example.org
        send --from x@far.example --to nobody@example.org
        send --from x@far.example --to x@elsewhere.example
        send -tls --port 587 --from alice@example.org --to bob@example.org
        send -tls --port 587 $user --from office@example.org --to bob@mx.example.org
        send --tls-on-connect --port 465 $user --from alice@example.org --to bob@example.org
        send --tls-on-connect --port 465 $user --from bob@example.org --to alice@example.org
        send --tls-on-connect --port 465 $other --from bob@example.org --to alice@example.org
        for try in $(seq 1000); do
            mail=$(ls /var/mail/doorpost/alice/new /var/mail/doorpost/bob/new 2>/dev/null | grep -c Q) || true
            test "$mail" = 4 && break; sleep 0.05
        done
        echo "delivered $(ls /var/mail/doorpost/alice/new | wc -l) $(ls /var/mail/doorpost/bob/new | wc -l)"
        test -f /var/spool/doorpost/tickets && echo "tickets made"
        kill $inetd"#;
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--mount-proc",
        "--propagation",
        "private",
        "sh",
        "-c",
        script,
        "sh",
    ]);
    let path = format!("/usr/local/sbin:/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap_or_default());
    let output = feed(command.arg(folder.path()).arg(common::bin_folder()).env_clear().env("PATH", path), b"");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    let results: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("sent ")).collect();
    // swaks says 23 and 24 where the sender or every recipient was refused.
    let statuses: Vec<&str> =
        results.iter().filter_map(|line| line.rsplit_once(" = ").map(|(_, status)| status)).collect();
    assert_eq!(statuses, ["0", "24", "24", "23", "0", "0", "23", "0"], "{said}");
    assert!(said.contains("delivered 2 2") && said.contains("tickets made"), "{said}");
    assert!(said.contains("\n0 errors, ") || said.starts_with("0 errors, "), "{said}");
}
