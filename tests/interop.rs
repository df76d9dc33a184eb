//! Other people's programs against ours: they send by SMTP and QMQP and fetch by POP3, through smtpd on loopback.
//!
//! Needs curl, swaks, msmtp, s-nail, fetchmail and Postfix's smtp-source and qmqp-source, which .ci/run installs; a
//! missing one is a failure.

mod common;

use common::{PASSWORD, Scratch, binary, feed};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What each sender is given: 8-bit text, leading dots, and an empty line at the end.
const MESSAGE: &str = "From: Alice <alice@client.example>\nTo: bob@mx.example\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\n\
    MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n\
    Grüße.\n.one dot\n..two dots\n\n";

/// smtpd with our three servers behind it, and deliver started on demand.
struct Site {
    scratch: Scratch,
    smtpd: Child,
    ports: [u16; 3],
}

impl Site {
    fn new() -> Site {
        let mut scratch = Scratch::with("qmqpd_authorized_clients = 127.0.0.1\nchildren = 100");
        scratch.let_deliver_start();
        let line = |program: &str| {
            let path = binary(program);
            format!(
                "127.0.0.1:0 stream tcp nowait - {} {program} --config {}\n",
                path.display(),
                scratch.path().display()
            )
        };
        scratch.write("services", &["smtpsrvr", "qmqpd", "pop3d"].map(line).concat());
        let log = scratch.path().join("log");
        let mut command = scratch.command("smtpd");
        command.arg("--services").arg(scratch.path().join("services"));
        command.stdin(Stdio::null()).stderr(fs::File::create(&log).expect("a log"));
        let smtpd = command.spawn().expect("smtpd");
        let mut site = Site { scratch, smtpd, ports: [0; 3] };
        common::until("smtpd to listen", || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let ports: Vec<u16> = text
                .lines()
                .filter_map(|line| line.split_once("listening on=127.0.0.1:")?.1.split(' ').next()?.parse().ok())
                .collect();
            ports.try_into().map(|ports| site.ports = ports).is_ok()
        });
        site
    }

    fn smtp(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0])
    }

    fn qmqp(&self) -> String {
        format!("127.0.0.1:{}", self.ports[1])
    }

    fn pop3(&self) -> String {
        format!("127.0.0.1:{}", self.ports[2])
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.scratch.path().join(name);
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path).expect("a file");
        std::io::Write::write_all(&mut file, text.as_bytes()).expect("a file");
        path
    }

    fn message(&self) -> PathBuf {
        self.file("message", MESSAGE)
    }

    /// A program of the system; it must be there and end well.
    fn run(&self, program: &str, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin").env("LC_ALL", "C.UTF-8");
        let output = feed(command.env("HOME", self.scratch.path()), input.as_bytes());
        assert!(output.status.success(), "{program}: {}\n{output:?}\n{}", output.status, self.log());
        output
    }

    /// Waits until a user has that many messages; more are a failure.
    fn wait_for(&self, user: &str, count: usize) -> Vec<String> {
        let end = Instant::now() + Duration::from_secs(300);
        while self.scratch.mail(user).len() < count {
            assert!(Instant::now() < end, "{user} has {} of {count}\n{}", self.scratch.mail(user).len(), self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        // A second copy of something, still on its way, would come with this sweep.
        self.scratch.deliver();
        let mail = self.scratch.mail(user);
        assert_eq!(mail.len(), count, "{}", self.log());
        mail.into_iter().map(|message| String::from_utf8(message).expect("UTF-8")).collect()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.smtpd.id().to_string()).status();
        let _ = self.smtpd.wait();
    }
}

fn path(path: &std::path::Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// The message as it was sent, behind Return-Path and Received.
fn assert_untouched(delivered: &str) {
    assert!(delivered.starts_with("Return-Path: <alice@client.example>\nReceived: "), "{delivered}");
    let at = delivered.find("\nFrom: ").expect("the first field that was sent");
    assert_eq!(&delivered[at + 1..], MESSAGE);
}

#[test]
fn curl_sends_by_smtp_and_fetches_by_pop3() {
    let site = Site::new();
    let (url, message) = (format!("smtp://{}/client.example", site.smtp()), site.message());
    let upload = ["-sS", "--url", &url, "--mail-from", "alice@client.example", "--mail-rcpt", "bob@mx.example", "-T"];
    // --crlf, for the file has LF.
    site.run("curl", &[&upload[..], &[path(&message), "--crlf"]].concat(), "");
    assert_untouched(&site.wait_for("bob", 1)[0]);

    let user = format!("bob:{PASSWORD}");
    let list = site.run("curl", &["-sS", "-u", &user, &format!("pop3://{}/", site.pop3())], "");
    assert!(list.stdout.starts_with(b"1 "), "{list:?}");
    let fetched = site.run("curl", &["-sS", "-u", &user, &format!("pop3://{}/1", site.pop3())], "");
    assert_untouched(&String::from_utf8(fetched.stdout).expect("UTF-8").replace("\r\n", "\n"));
}

#[test]
fn swaks_sends() {
    let site = Site::new();
    let message = site.message();
    let server = site.smtp();
    let from_to = ["--from", "alice@client.example", "--to", "bob@mx.example", "--helo", "client.example"];
    let data = format!("@{}", path(&message));
    site.run("swaks", &[&["--server", &server, "--data", &data][..], &from_to].concat(), "");
    let delivered = &site.wait_for("bob", 1)[0];
    assert!(delivered.contains("\n.one dot\n..two dots\n"), "{delivered}");
}

#[test]
fn msmtp_sends() {
    let site = Site::new();
    let port = format!("--port={}", site.ports[0]);
    let how = ["--file=/dev/null", "--host=127.0.0.1", &port, "--tls=off", "--auth=off", "--from=alice@client.example"];
    site.run("msmtp", &[&how[..], &["bob@mx.example"]].concat(), MESSAGE);
    assert_untouched(&site.wait_for("bob", 1)[0]);
}

#[test]
fn s_nail_sends() {
    let site = Site::new();
    let mta = format!("mta=smtp://{}", site.smtp());
    let how = ["-n", "-Sv15-compat", "-S", &mta, "-Ssmtp-auth=none", "-Sfrom=alice@client.example", "-Shostname="];
    site.run("s-nail", &[&how[..], &["-s", "By s-nail", "bob@mx.example"]].concat(), "Hello.\n.\n.dot\n");
    let delivered = &site.wait_for("bob", 1)[0];
    assert!(delivered.contains("Subject: By s-nail\n") && delivered.contains("\nHello.\n.\n.dot\n"), "{delivered}");
}

#[test]
fn fetchmail_fetches_and_removes() {
    let site = Site::new();
    for number in 1..=3 {
        let text = MESSAGE.replace("Subject: ", &format!("X-Number: {number}\nSubject: "));
        site.scratch.put_mail("bob", &format!("170000000{number}.M1.mx"), text.as_bytes());
    }
    let rc = site.file(
        "fetchmailrc",
        &format!(
            "poll 127.0.0.1 protocol POP3 port {} user bob password {PASSWORD} is nobody here\n\
             fetchall no rewrite mda \"cat >> {}/fetched\"\n",
            site.ports[2],
            site.scratch.path().display(),
        ),
    );
    let home = site.scratch.path().join("fetchmail");
    fs::create_dir(&home).expect("a folder");
    let mut command = Command::new("fetchmail");
    command.env("FETCHMAILHOME", &home).args(["-f", path(&rc), "--nosyslog", "--invisible", "--sslproto", ""]);
    let output = feed(&mut command, b"");
    assert!(output.status.success(), "{output:?}\n{}", site.log());
    let fetched = fs::read_to_string(site.scratch.path().join("fetched")).expect("fetched mail");
    for number in 1..=3 {
        let text = MESSAGE.replace("Subject: ", &format!("X-Number: {number}\nSubject: "));
        assert!(fetched.contains(&text), "{fetched}");
    }
    assert!(site.scratch.mail("bob").is_empty(), "fetchmail deletes what it has");
}

/// 300 files, each of a message of its own: a message has its queue id in its Received field.
fn assert_each_once(delivered: &[String]) {
    let ids: BTreeSet<&str> =
        delivered.iter().map(|message| message.split_once(" id ").expect("a queue id").1).map(first_word).collect();
    assert_eq!(ids.len(), delivered.len(), "a message was delivered twice");
}

fn first_word(text: &str) -> &str {
    text.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default()
}

#[test]
fn smtp_source_loses_and_doubles_nothing() {
    let site = Site::new();
    let from_to = ["-f", "alice@client.example", "-t", "bob@mx.example", "-M", "client.example"];
    site.run("smtp-source", &[&["-s", "20", "-m", "300", "-l", "3000"][..], &from_to, &[&site.smtp()]].concat(), "");
    assert_each_once(&site.wait_for("bob", 300));
}

#[test]
fn qmqp_source_loses_and_doubles_nothing() {
    let site = Site::new();
    let from_to = ["-f", "alice@client.example", "-t", "bob@mx.example"];
    site.run("qmqp-source", &[&["-s", "20", "-m", "300", "-l", "3000"][..], &from_to, &[&site.qmqp()]].concat(), "");
    assert_each_once(&site.wait_for("bob", 300));
}
