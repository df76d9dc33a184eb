//! The servers under every program that may start them, with the options and files that we ship: a message in by SMTP
//! and one by QMQP, both out again by POP3, and 1,000 connections in a row.
//!
//! Needs openbsd-inetd, xinetd, ucspi-tcp, systemd and socat, so it is behind the feature `interop`. Debian's
//! xinetd cannot be installed beside openbsd-inetd; DOORPOST_XINETD names the program if it is not in PATH.

mod common;

use common::{Scratch, bin_folder, binary, free_port, until};
use nix::unistd::{User, geteuid};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

const PROGRAMS: [&str; 3] = ["smtpsrvr", "qmqpd", "pop3d"];
const IN_A_ROW: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(60);

/// What is sent, with a line that begins with a dot and octets above 127.
const BY_SMTP: &[u8] = b"Subject: by SMTP\nX-Octets: \xc3\xa9\n\n.dot\n\nthe end\n";
const BY_QMQP: &[u8] = b"Subject: by QMQP\n\n.dot\n..dots\n";

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// How clients come to smtpsrvr, qmqpd and pop3d.
type Doors = [Box<dyn Fn() -> Box<dyn Stream>>; 3];

/// A scratch installation and the superservers that run for it, killed when the test is over.
struct Site {
    scratch: Scratch,
    ports: [u16; 3],
    running: Vec<Child>,
}

impl Site {
    fn new() -> Site {
        let scratch = Scratch::with("qmqpd_authorized_clients = 127.0.0.0/8, stdin\nmax_idle = 30");
        Site { scratch, ports: [free_port(), free_port(), free_port()], running: Vec::new() }
    }

    /// A file of ours with ports, paths and users of this installation instead of its own.
    fn adapt(&self, example: &str) -> String {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join(example);
        let mut text = fs::read_to_string(shipped).expect("a shipped example");
        let (owner, root) = if geteuid().is_root() { ("nobody".to_owned(), "root".to_owned()) } else { (us(), us()) };
        text = text.replace(" doorpost ", &format!(" {owner} ")).replace("= doorpost\n", &format!("= {owner}\n"));
        text = text.replace(" root ", &format!(" {root} ")).replace("= root\n", &format!("= {root}\n"));
        text.replace("/usr/local/sbin", bin_folder().to_str().expect("a path"))
    }

    /// The lines of inetd.conf.example, on our ports and with our configuration.
    fn inetd_conf(&self, wait: &str) -> PathBuf {
        let mut lines = String::new();
        let text = self.adapt("inetd.conf.example");
        let services = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        for (line, port) in services.zip(self.ports) {
            let (_, rest) = line.split_once(' ').expect("columns");
            let rest = rest.replace(" nowait.", &format!(" {wait}."));
            lines += &format!("127.0.0.1:{port} {rest} --config {}\n", self.scratch.path().display());
        }
        assert_eq!(lines.lines().count(), 3, "the example has a line for each program");
        self.scratch.write("inetd.conf", &lines);
        self.scratch.path().join("inetd.conf")
    }

    fn run(&mut self, program: &str, arguments: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{program} is needed for this test: {error}"));
        self.running.push(child);
    }

    fn doors(&self) -> Doors {
        self.ports.map(|port| {
            until("the superserver to listen", || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
            Box::new(move || {
                let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
                client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                client.set_nodelay(true).expect("no delay");
                Box::new(client) as Box<dyn Stream>
            }) as Box<dyn Fn() -> Box<dyn Stream>>
        })
    }

    /// One server for each program, started with the words that `line` makes of program and port.
    fn run_each(&mut self, line: impl Fn(&str, u16) -> Vec<String>) {
        for (program, port) in PROGRAMS.into_iter().zip(self.ports) {
            let path = binary(program).to_str().expect("a path").to_owned();
            let words = line(&path, port);
            self.run(&words[0], &words[1..]);
        }
    }

    fn config(&self) -> String {
        self.scratch.path().to_str().expect("a path").to_owned()
    }

    /// The whole way of two messages, and then many clients.
    fn works(self) {
        self.works_through(&self.doors());
    }

    fn works_through(&self, doors: &Doors) {
        let [smtp, qmqp, pop3] = doors;
        send_by_smtp(smtp());
        send_by_qmqp(qmqp());
        self.scratch.deliver();
        let mut mail = read_by_pop3(pop3());
        mail.sort_by_key(|message| !contains(message, b"by SMTP"));
        assert_eq!(mail.len(), 2);
        assert!(mail[0].ends_with(BY_SMTP), "{}", String::from_utf8_lossy(&mail[0]));
        assert!(mail[1].ends_with(BY_QMQP), "{}", String::from_utf8_lossy(&mail[1]));
        for number in 0..IN_A_ROW {
            let mut client = Dialogue::new(smtp());
            assert!(client.line().starts_with("220 "), "connection {number}");
            client.say("QUIT\r\n", "221 ");
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for child in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn us() -> String {
    User::from_uid(geteuid()).ok().flatten().expect("a user").name
}

fn contains(text: &[u8], words: &[u8]) -> bool {
    text.windows(words.len()).any(|window| window == words)
}

struct Dialogue(BufReader<Box<dyn Stream>>);

impl Dialogue {
    fn new(stream: Box<dyn Stream>) -> Dialogue {
        // Small, for what is sent goes past the buffer.
        Dialogue(BufReader::with_capacity(1, stream))
    }

    fn octets(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).expect("a line");
        line
    }

    fn line(&mut self) -> String {
        String::from_utf8(self.octets()).expect("text")
    }

    fn say(&mut self, words: &str, expected: &str) -> String {
        self.0.get_mut().write_all(words.as_bytes()).expect("a client may send");
        self.0.get_mut().flush().expect("a client may send");
        let reply = self.line();
        assert!(reply.starts_with(expected), "{words:?} was answered {reply:?}");
        reply
    }
}

fn send_by_smtp(stream: Box<dyn Stream>) {
    let mut client = Dialogue::new(stream);
    assert!(client.line().starts_with("220 "));
    client.say("HELO client.example\r\n", "250 ");
    client.say("MAIL FROM:<sender@client.example>\r\n", "250 ");
    client.say("RCPT TO:<alice@mx.example>\r\n", "250 ");
    client.say("DATA\r\n", "354 ");
    for line in BY_SMTP.split_inclusive(|octet| *octet == b'\n') {
        let stuffing: &[u8] = if line.starts_with(b".") { b"." } else { b"" };
        let line = line.strip_suffix(b"\n").expect("lines");
        client.0.get_mut().write_all(&[stuffing, line, b"\r\n"].concat()).expect("a client may send");
    }
    client.say(".\r\n", "250 ");
    client.say("QUIT\r\n", "221 ");
}

fn send_by_qmqp(mut stream: Box<dyn Stream>) {
    let netstring = |octets: &[u8]| [format!("{}:", octets.len()).as_bytes(), octets, b","].concat();
    let package = [netstring(BY_QMQP), netstring(b"sender@client.example"), netstring(b"alice@mx.example")].concat();
    stream.write_all(&netstring(&package)).expect("a client may send");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("a reply");
    assert!(reply.contains(":K"), "{reply}");
}

fn read_by_pop3(stream: Box<dyn Stream>) -> Vec<Vec<u8>> {
    let mut client = Dialogue::new(stream);
    assert!(client.line().starts_with("+OK"));
    client.say("USER alice\r\n", "+OK");
    client.say(&format!("PASS {}\r\n", common::PASSWORD), "+OK");
    let count: usize = client.say("STAT\r\n", "+OK ").split(' ').nth(1).expect("a count").parse().expect("a count");
    let messages = (1..=count).map(|number| {
        client.say(&format!("RETR {number}\r\n"), "+OK");
        let mut message = Vec::new();
        loop {
            let mut line = client.octets();
            assert!(line.ends_with(b"\r\n"), "{line:?}");
            line.truncate(line.len() - 2);
            if line == b"." {
                return message;
            }
            let line = line.strip_prefix(b".").unwrap_or(&line);
            message.extend([line, b"\n"].concat());
        }
    });
    let messages = messages.collect();
    client.say("QUIT\r\n", "+OK");
    messages
}

/// A command line that doc/superservers.md shows, up to the port.
fn documented(line: &str) -> Vec<String> {
    let doc = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("doc/superservers.md")).expect("the page");
    assert!(doc.contains(line), "doc/superservers.md does not show {line}");
    line.split(' ').map(str::to_owned).collect()
}

#[test]
fn openbsd_inetd_nowait() {
    let mut site = Site::new();
    let file = site.inetd_conf("nowait");
    site.run("inetd", ["-i".as_ref(), file.as_os_str()]);
    site.works();
}

#[test]
fn openbsd_inetd_wait() {
    let mut site = Site::new();
    let file = site.inetd_conf("wait");
    site.run("inetd", ["-i".as_ref(), file.as_os_str()]);
    site.works();
}

#[test]
fn xinetd() {
    let mut site = Site::new();
    let log = site.scratch.path().join("xinetd.log");
    let mut text = site.adapt("xinetd.conf.example");
    for (standard, port) in ["25", "628", "110"].into_iter().zip(site.ports) {
        let (old, new) = (format!("= {standard}\n"), format!("= {port}\n\tbind = 127.0.0.1\n"));
        assert!(text.contains(&old), "a service on port {standard}");
        text = text.replace(&old, &new);
    }
    text = text.replace("disable     = no", &format!("server_args = --config {}", site.config()));
    site.scratch.write("xinetd.conf", &text);
    let program =
        std::env::var("DOORPOST_XINETD").ok().filter(|path| !path.is_empty()).unwrap_or_else(|| "xinetd".to_owned());
    let (file, pid) = (site.scratch.path().join("xinetd.conf"), site.scratch.path().join("xinetd.pid"));
    let options = ["-dontfork".as_ref(), "-f".as_ref(), file.as_os_str(), "-pidfile".as_ref(), pid.as_os_str()];
    site.run(&program, options.into_iter().chain(["-filelog".as_ref(), log.as_os_str()]));
    site.works();
}

#[test]
fn tcpserver() {
    let mut site = Site::new();
    let config = site.config();
    site.run_each(|program, port| {
        let mut words = documented("tcpserver -HRDl0 -c 200 -b 1024");
        words.extend(["127.0.0.1", &port.to_string(), program, "--config", &config].map(str::to_owned));
        words
    });
    site.works();
}

/// The service folder that doc/superservers.md shows.
#[test]
fn s6_supervise() {
    let mut site = Site::new();
    let folder = site.scratch.path().join("service");
    std::fs::create_dir(&folder).expect("a service folder");
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/superservers.md")).expect("it");
    let line = document.lines().find_map(|line| line.trim().strip_prefix("exec smtpd ")).expect("its run");
    let options = line.strip_suffix(" smtpsrvr").expect("a program behind the options");
    let run = format!(
        "#!/bin/sh\nexec {} --config {} --listen-address 127.0.0.1 --port {} {options} smtpsrvr\n",
        common::binary("smtpd").display(),
        site.config(),
        site.ports[0]
    );
    common::write_program(&folder.join("run"), &run);
    std::fs::write(folder.join("notification-fd"), "3\n").expect("notification-fd");
    let service = folder.display().to_string();
    site.run("s6-supervise", [&service]);
    let ready = || Command::new("s6-svwait").args(["-U", "-t", "5000", &service]).status();
    common::until("the service to be ready", || ready().expect("s6-svwait").success());
    // No waiting for a port: it was said to be ready.
    let mut client = std::net::TcpStream::connect(("127.0.0.1", site.ports[0])).expect("bound when ready");
    let mut greeting = [0; 4];
    std::io::Read::read_exact(&mut client, &mut greeting).expect("a greeting");
    assert_eq!(&greeting, b"220 ");
    drop(client);
    let ended = Command::new("s6-svc").args(["-wD", "-xd", &service]).status();
    assert!(ended.expect("s6-svc").success());
}

#[test]
fn socat() {
    let mut site = Site::new();
    let config = site.config();
    site.run_each(|program, port| {
        let options = ",ipv6only=0,reuseaddr,fork,max-children=200,backlog=1024";
        documented(&format!("socat TCP6-LISTEN:25{options} EXEC:"));
        vec![
            "socat".to_owned(),
            format!("TCP6-LISTEN:{port}{options},bind=[::ffff:127.0.0.1]"),
            format!("EXEC:{program} --config {config}"),
        ]
    });
    site.works();
}

fn systemd_socket_activate(options: &[&str]) {
    let mut site = Site::new();
    let config = site.config();
    site.run_each(|program, port| {
        let mut words = vec!["systemd-socket-activate".to_owned(), format!("--listen=127.0.0.1:{port}")];
        words.extend(options.iter().copied().chain([program, "--config", &config]).map(str::to_owned));
        words
    });
    site.works();
}

#[test]
fn systemd_accept_no() {
    systemd_socket_activate(&[]);
}

#[test]
fn systemd_accept_no_on_standard_input() {
    systemd_socket_activate(&["--inetd"]);
}

#[test]
fn systemd_accept_yes() {
    systemd_socket_activate(&["--accept", "--inetd"]);
}

#[test]
fn systemd_accept_yes_under_listen_fds() {
    systemd_socket_activate(&["--accept"]);
}

#[test]
fn smtpd_with_services_nowait() {
    let mut site = Site::new();
    let file = site.inetd_conf("nowait");
    let program = binary("smtpd");
    site.run(program.to_str().expect("a path"), ["--services".as_ref(), file.as_os_str()]);
    site.works();
}

#[test]
fn smtpd_with_services_wait() {
    let mut site = Site::new();
    let file = site.inetd_conf("wait");
    let program = binary("smtpd");
    site.run(program.to_str().expect("a path"), ["--services".as_ref(), file.as_os_str()]);
    site.works();
}

#[test]
fn smtpd_for_one_program() {
    let mut site = Site::new();
    let (smtpd, config) = (binary("smtpd").to_str().expect("a path").to_owned(), site.config());
    site.run_each(|program, port| {
        let address = format!("127.0.0.1:{port}");
        [&smtpd, "--config", &config, "--listen-address", &address, program].map(str::to_owned).to_vec()
    });
    site.works();
}

/// A client whose connection is two pipes.
struct OnPipes {
    process: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
}

impl Read for OnPipes {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.output.read(buffer)
    }
}

impl Write for OnPipes {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.input.as_mut().expect("open").write(octets)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for OnPipes {
    fn drop(&mut self) {
        self.input = None;
        assert!(self.process.wait().expect("an end").success());
    }
}

#[test]
fn a_plain_pipe() {
    let site = Site::new();
    let doors = PROGRAMS.map(|program| {
        let (path, config) = (binary(program), site.config());
        Box::new(move || {
            let mut command = Command::new(&path);
            command
                .env_clear()
                .args(["--config", &config])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null());
            let mut process = command.spawn().expect("a program of ours");
            let (input, output) = (process.stdin.take(), process.stdout.take().expect("a pipe"));
            Box::new(OnPipes { process, input, output }) as Box<dyn Stream>
        }) as Box<dyn Fn() -> Box<dyn Stream>>
    });
    site.works_through(&doors);
}

/// A user asks where his mail is, over the socket that a unit of ours or the line of doorpost-queue(8) has.
fn a_user_asks(mut command: impl FnMut(&str) -> Command) {
    assert!(geteuid().is_root(), "asks as another user");
    let mut site = Site::new();
    let folder = site.scratch.path().join("drop");
    fs::create_dir(&folder).expect("a drop folder");
    site.scratch.hand_over(&folder);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1733)).expect("its mode");
    let socket = folder.join("status");
    let as_user = |program: &str, uid: u32| {
        let mut command = site.scratch.command("submit");
        command.arg0(program).uid(uid).gid(uid);
        command
    };
    let output = common::feed(as_user("sendmail", 12_345).arg("mine@elsewhere.example"), b"Subject: x\n\nx\n");
    assert!(output.status.success(), "{output:?}");
    site.scratch.run("deliver", &["-o", "name_servers=127.0.0.1:1"], b"");
    let mut command = command(socket.to_str().expect("a path"));
    command.env_clear().env("PATH", "/usr/bin:/bin").env("MAIL_CONFIG", site.scratch.path());
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    site.running.push(child.expect("whoever holds the socket"));
    until("the socket", || socket.exists());
    let _ = fs::set_permissions(&socket, fs::Permissions::from_mode(0o666));
    for (uid, expected) in [(12_345, "mine@elsewhere.example"), (12_346, "Mail queue is empty")] {
        let mut said = String::new();
        until("an answer", || {
            said = String::from_utf8_lossy(&common::feed(&mut as_user("mailq", uid), b"").stdout).into_owned();
            !said.is_empty()
        });
        assert!(said.contains(expected), "{uid}: {said}");
    }
}

#[test]
fn a_user_asks_where_his_mail_is_over_the_socket_of_systemd() {
    let shipped = |name: &str, key: &str| {
        let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(name);
        let text = fs::read_to_string(unit).expect("a unit");
        text.lines().find_map(|line| line.strip_prefix(key)).expect(key).to_owned()
    };
    assert!(shipped("doorpost-status.socket", "ListenStream=").ends_with("-drop/status"));
    let line = shipped("doorpost-status.service", "ExecStart=/usr/local/sbin/submit ");
    a_user_asks(|socket| {
        let mut command = Command::new("systemd-socket-activate");
        command
            .arg(format!("--listen={socket}"))
            .arg("-E")
            .arg("MAIL_CONFIG")
            .arg(binary("submit"))
            .args(line.split(' '));
        command
    });
}

#[test]
fn a_user_asks_where_his_mail_is_over_the_socket_of_s6() {
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/doorpost-queue.8")).expect("the page");
    let words = "s6-ipcserver-socketbinder -a 0666 ";
    assert!(
        page.contains(&format!("exec s6-setuidgid doorpost {words}/var/spool/doorpost-drop/status submit")),
        "{page}"
    );
    a_user_asks(|socket| {
        let mut command = Command::new("s6-setuidgid");
        command.arg("nobody").args(words.trim_end().split(' ')).arg(socket).arg(binary("submit"));
        command
    });
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units_and_they_have_no_start_limits() {
    let folder = tempfile::tempdir().expect("a folder");
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]).current_dir(folder.path());
    for unit in fs::read_dir(units).expect("units") {
        let unit = unit.expect("a unit").path();
        let text = fs::read_to_string(&unit).expect("a unit");
        let name = unit.file_name().and_then(|name| name.to_str()).expect("a name");
        if name.ends_with("-inetd.socket") {
            for line in ["Accept=yes", "TriggerLimitIntervalSec=0", "TriggerLimitBurst=0", "MaxConnections=200"] {
                assert!(text.lines().any(|other| other == line), "{name} lacks {line}");
            }
        }
        let text = text.replace("/usr/local/sbin", bin_folder().to_str().expect("a path"));
        // A template is looked at through an instance, and found by its socket under its own name.
        let instance = name.replace("@.", "@1.");
        fs::write(folder.path().join(name), &text).expect("a copy");
        fs::write(folder.path().join(&instance), &text).expect("a copy");
        command.arg(format!("./{instance}"));
    }
    let output = command.output().expect("systemd-analyze is needed for this test");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
