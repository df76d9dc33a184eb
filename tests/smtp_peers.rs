//! Other people's mail servers as clients of smtpsrvr: Postfix with every extension it knows, over SMTP and LMTP, and
//! OpenSMTPD; and `openssl s_client` by hand. What they bring is compared octet by octet. `smuggling.rs` has Postfix
//! before and behind doorpost.
//!
//! Needs root, Postfix with its SASL plug-ins, openssl, and OpenSMTPD, which .ci/run unpacks: DOORPOST_OPENSMTPD names the
//! folder it lies in, for it cannot be installed beside Postfix.

mod common;
#[path = "smtp_peers/smuggling.rs"]
mod smuggling;

use common::postfix::Postfix;
use common::tls::{configure, file};
use common::{PASSWORD, Queued, Scratch, free_address, until};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// smtpsrvr on a port of its own; its log is `server.log` in the scratch folder. Ended when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

impl Server {
    fn start(scratch: &Scratch, name: &str, arguments: &[&str]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let log = scratch.path().join(format!("{}.log", address.port()));
        let mut command = scratch.command("smtpsrvr");
        command.arg0(name).args(arguments).stdin(OwnedFd::from(listener)).stdout(Stdio::null());
        command.stderr(fs::File::create(&log).expect("a log"));
        Server { child: command.spawn().expect("smtpsrvr"), address, log }
    }

    /// As Postfix names it as a next hop.
    fn hop(&self) -> String {
        format!("[127.0.0.1]:{}", self.address.port())
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Somebody who speaks SMTP line by line.
struct Talk<R, W> {
    reader: R,
    writer: W,
}

impl Talk<BufReader<TcpStream>, TcpStream> {
    fn to(address: SocketAddr) -> Self {
        let writer = TcpStream::connect(address).expect("a connection");
        writer.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
        writer.set_nodelay(true).expect("no delay");
        let mut talk = Talk { reader: BufReader::new(writer.try_clone().expect("a socket")), writer };
        assert!(talk.reply().starts_with("220 "), "a greeting");
        talk
    }
}

impl<R: BufRead, W: Write> Talk<R, W> {
    /// The last line of a reply; nothing where the connection is over.
    fn reply(&mut self) -> String {
        loop {
            let mut line = Vec::new();
            if self.reader.read_until(b'\n', &mut line).is_err() || line.len() < 4 {
                return String::new();
            }
            if line[3] != b'-' {
                return String::from_utf8_lossy(&line).trim_end().to_owned();
            }
        }
    }

    fn ask(&mut self, line: &str) -> String {
        // Whoever has closed is found out by the lack of a reply.
        let _ = self.writer.write_all(format!("{line}\r\n").as_bytes()).and_then(|()| self.writer.flush());
        self.reply()
    }

    /// A message whose recipients are all taken.
    fn send(&mut self, mail: &str, rcpts: &[&str], content: &[u8]) {
        for line in [mail].iter().chain(rcpts) {
            let reply = self.ask(line);
            assert!(reply.starts_with("250 "), "{line}: {reply}");
        }
        assert!(self.ask("DATA").starts_with("354 "));
        for line in content.split_inclusive(|octet| *octet == b'\n') {
            let (dot, text) = (line.starts_with(b"."), line.strip_suffix(b"\n").unwrap_or(line));
            let dot: &[u8] = if dot { b"." } else { b"" };
            self.writer.write_all(&[dot, text, b"\r\n"].concat()).expect("sending");
        }
        let reply = self.ask(".");
        assert!(reply.starts_with("250 "), "{reply}");
    }
}

/// Waits until so many messages are in our queue.
fn wait_for(scratch: &Scratch, count: usize, postfix: Option<&Postfix>) -> Vec<Queued> {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let queued = scratch.queued();
        if queued.len() >= count {
            return queued;
        }
        assert!(
            std::time::Instant::now() < end,
            "{} of {count}: {}",
            queued.len(),
            postfix.map_or_else(String::new, Postfix::log)
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Settings of a Postfix that gives all to this server, under TLS, whose certificate it checks, and logged in as bob.
fn smart_host(server: &Server, protocol: &str, scratch: &Scratch) -> String {
    let hop = server.hop();
    let authority = scratch.path().join("authority.pem");
    fs::copy(file("mx.crt.pem"), &authority).expect("a certificate");
    format!(
        "default_transport = {protocol}:{hop}\nvirtual_mailbox_domains =\n\
         {protocol}_tls_policy_maps = inline:{{ {{ {hop} = secure match=mx.example }} }}\n\
         {protocol}_tls_CAfile = {}\n{protocol}_sasl_auth_enable = yes\n\
         {protocol}_sasl_password_maps = inline:{{ {{ {hop} = bob:{PASSWORD} }} }}\n\
         {protocol}_sasl_mechanism_filter = plain\n{protocol}_sasl_tls_security_options = noanonymous",
        authority.display()
    )
}

/// A whole header, so that nobody on the way has to complete it.
const HEADER: &str =
    "Date: Sun, 22 Nov 2026 10:00:00 +0000\nMessage-ID: <1@client.example>\nFrom: <alice@client.example>\n";

#[test]
fn postfix_hands_over_all_that_it_was_told_by_every_extension_it_knows() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    configure(&scratch);
    let record = scratch.path().join("record");
    let server = Server::start(&scratch, "smtpsrvr", &["--submission", "--record", record.to_str().expect("a path")]);
    let postfix = Postfix::start(&std::env::temp_dir(), "smtpd", &smart_host(&server, "smtp", &scratch));
    let mut talk = Talk::to(postfix.address);
    assert!(talk.ask("EHLO client.example").starts_with("250 "));
    let content = format!("{HEADER}Subject: grüße\n\n.dot\n..dots\n\u{fc}\n\nend\n");
    talk.send(
        "MAIL FROM:<alïce@client.example> SMTPUTF8 BODY=8BITMIME RET=HDRS ENVID=env+2Bid",
        &[
            "RCPT TO:<bøb@far.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;first@far.example",
            "RCPT TO:<carol@far.example> NOTIFY=NEVER",
            "RCPT TO:<dör+x@far.example>",
        ],
        content.as_bytes(),
    );
    let queued = wait_for(&scratch, 1, Some(&postfix)).remove(0);
    assert_eq!(queued.reverse_path, "alïce@client.example".as_bytes());
    assert_eq!(queued.recipients, ["bøb@far.example".as_bytes(), b"carol@far.example", "dör+x@far.example".as_bytes()]);
    assert_eq!(
        queued.parameters,
        "BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=env+2Bid|NOTIFY=SUCCESS,DELAY ORCPT=rfc822;first@far.example\
         |NOTIFY=NEVER ORCPT=rfc822;carol@far.example|ORCPT=utf-8;d\\x{F6}r\\x{2B}x@far.example"
    );
    // Postfix has put its own Received field in front.
    assert!(queued.content().ends_with(content.as_bytes()), "{}", String::from_utf8_lossy(queued.content()));
    assert!(String::from_utf8_lossy(&queued.whole).contains(" with UTF8SMTPSA id "));
    let record = fs::read_to_string(record).expect("a record");
    for word in
        ["C: STARTTLS", "C: AUTH PLAIN ", " SIZE=", " BODY=8BITMIME", " SMTPUTF8", " RET=HDRS", " ENVID=", " NOTIFY="]
    {
        assert!(record.contains(word), "{word}: {record}");
    }
    assert!(server.log().contains(" tls=TLSv1.3/"), "{}", server.log());
    // Other shapes, one after the other, as they come to mind.
    let line = "x".repeat(900);
    let shapes = [
        format!("{HEADER}\n"),
        format!("{HEADER}\n.\n..\n...\n. \n"),
        format!("{HEADER}\n{line}\n.{line}\n"),
        format!("{HEADER}\n\n\n\n"),
        format!("{HEADER}\n{}", "0123456789 abcdefghijklmnopqrstuvwxyz\n".repeat(20_000)),
        format!("{HEADER}\nFrom someone\n>From someone\n\u{85}\u{2028}\n"),
    ];
    for content in &shapes {
        talk.send("MAIL FROM:<alice@client.example> BODY=8BITMIME", &["RCPT TO:<bob@far.example>"], content.as_bytes());
    }
    let queued = wait_for(&scratch, 1 + shapes.len(), Some(&postfix));
    for content in &shapes {
        let found = queued.iter().filter(|message| message.content().ends_with(content.as_bytes())).count();
        // The first of them is the end of none but itself.
        assert_eq!(found, 1, "{}", &content[..content.len().min(300)]);
    }
    until("Postfix to be done", || postfix.is_idle());
    assert_eq!(scratch.queued().len(), 1 + shapes.len(), "each came once");
}

#[test]
fn postfix_hands_over_by_lmtp_and_returns_what_was_refused_for_one_recipient_alone() {
    let scratch = Scratch::with("auth_failure_delay = 0\nsmtpd_sasl_auth_enable = yes");
    configure(&scratch);
    scratch.write("channels", "local 127.0.0.1 mx.example,client.example mailbox: *\nauthenticated - - - local\n");
    let record = scratch.path().join("record");
    let server = Server::start(&scratch, "lmtpsrvr", &["--record", record.to_str().expect("a path")]);
    let postfix = Postfix::start(&std::env::temp_dir(), "smtpd", &smart_host(&server, "lmtp", &scratch));
    let mut talk = Talk::to(postfix.address);
    assert!(talk.ask("EHLO client.example").starts_with("250 "));
    let content = format!("{HEADER}Subject: x\n\n.dot\n");
    talk.send(
        "MAIL FROM:<carol@client.example> ENVID=e RET=HDRS",
        &[
            "RCPT TO:<alice@mx.example> NOTIFY=SUCCESS,FAILURE",
            "RCPT TO:<nobody@mx.example> NOTIFY=FAILURE ORCPT=rfc822;old@mx.example",
            "RCPT TO:<bob@mx.example> NOTIFY=NEVER",
        ],
        content.as_bytes(),
    );
    // The message, and Postfix's report about the one who is not there, for carol.
    let queued = wait_for(&scratch, 2, Some(&postfix));
    let (message, report): (Vec<_>, Vec<_>) = queued.iter().partition(|message| !message.reverse_path.is_empty());
    assert_eq!(message[0].recipients, [&b"alice@mx.example"[..], b"bob@mx.example"]);
    assert!(
        message[0]
            .parameters
            .contains("RET=HDRS ENVID=e|NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;alice@mx.example|NOTIFY=NEVER")
    );
    assert!(message[0].content().ends_with(content.as_bytes()));
    assert!(String::from_utf8_lossy(&message[0].whole).contains(" with LMTPSA id "));
    let report = String::from_utf8_lossy(&report[0].whole).into_owned();
    assert!(report.contains("Original-Recipient: rfc822;old@mx.example"), "{report}");
    assert!(report.contains("Diagnostic-Code: smtp; 550 5.1.1"), "{report}");
    let record = fs::read_to_string(record).expect("a record");
    for word in ["C: LHLO mx.example", "C: STARTTLS", "C: AUTH PLAIN ", " ENVID=e"] {
        assert!(record.contains(word), "{word}: {record}");
    }
    // Who reported success says so to the sender himself: delivered by the reply for each recipient, not by Postfix.
    scratch.deliver();
    assert_eq!((scratch.mail("alice").len(), scratch.mail("bob").len()), (1, 1));
}

/// OpenSMTPD, in a mount namespace of its own; ended when dropped.
struct OpenSmtpd {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl OpenSmtpd {
    /// One that gives everything to this server as bob, under TLS.
    fn start(server: &Server) -> OpenSmtpd {
        let root = std::env::var("DOORPOST_OPENSMTPD").unwrap_or_else(|_| "/opt/mailpeers/opensmtpd".to_owned());
        assert!(Path::new(&root).join("usr/sbin/smtpd").exists(), "OpenSMTPD is needed: DOORPOST_OPENSMTPD={root}");
        let folder = tempfile::Builder::new().prefix("doorpost-opensmtpd-").tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let address = free_address();
        let conf = format!(
            "table secrets {{ hop = \"bob:{PASSWORD}\" }}\nlisten on 127.0.0.1 port {} hostname client.example\n\
             action out relay host \"smtp+tls://hop@127.0.0.1:{}\" auth <secrets> tls no-verify helo client.example\n\
             match from any for any action out\n",
            address.port(),
            server.address.port()
        );
        fs::write(path("smtpd.conf"), conf).expect("its configuration");
        for (name, more) in [
            (
                "passwd",
                "opensmtpd:x:65101:65101::/var/lib/opensmtpd/empty:/bin/false\nopensmtpq:x:65102:65102::/:/bin/false\n",
            ),
            ("group", "opensmtpd:x:65101:\nopensmtpq:x:65102:\n"),
        ] {
            let system = fs::read_to_string(Path::new("/etc").join(name)).expect("accounts");
            let others = system.lines().filter(|line| !line.starts_with("opensmtp"));
            fs::write(path(name), others.map(|line| format!("{line}\n")).collect::<String>() + more).expect("accounts");
        }
        fs::write(path("resolv.conf"), "nameserver 127.0.0.1\n").expect("no name server");
        // Its paths are fixed. Everything that is mounted is seen by this process and its children alone.
        let script = "set -e; cd \"$2\"; chmod 600 smtpd.conf
            for file in passwd group resolv.conf; do mount --bind $file /etc/$file; done
            for folder in /usr/libexec /var/spool /var/lib; do mount -t tmpfs tmpfs $folder; done
            mkdir -m 755 /usr/libexec/opensmtpd; mkdir -p -m 755 /var/lib/opensmtpd/empty; mkdir -m 711 /var/spool/smtpd
            mount --bind \"$1/usr/libexec/opensmtpd\" /usr/libexec/opensmtpd
            cd /var/spool/smtpd; mkdir -m 700 queue incoming purge temporary corrupt; mkdir -m 770 offline
            chown 65102 queue incoming purge temporary corrupt; chown 0:65102 offline
            exec \"$1/usr/sbin/smtpd\" -d -f \"$2/smtpd.conf\"";
        let log = path("log");
        let output = fs::File::create(&log).expect("a log");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh", &root]).arg(folder.path());
        command.stdin(Stdio::null()).stdout(output.try_clone().expect("a file")).stderr(output).process_group(0);
        let mut child = command.spawn().expect("unshare");
        let says = || fs::read_to_string(&log).unwrap_or_default();
        until("OpenSMTPD to listen", || {
            assert!(child.try_wait().expect("its state").is_none(), "{}", says());
            TcpStream::connect(address).is_ok()
        });
        OpenSmtpd { child, address, log, _folder: folder }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("a log")
    }
}

impl Drop for OpenSmtpd {
    fn drop(&mut self) {
        // It, and its processes, are a group of their own.
        let group = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

#[test]
fn opensmtpd_logs_in_under_tls_and_its_messages_are_here_octet_by_octet() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    configure(&scratch);
    let server = Server::start(&scratch, "smtpsrvr", &["--submission"]);
    let other = OpenSmtpd::start(&server);
    let mut talk = Talk::to(other.address);
    assert!(talk.ask("EHLO client.example").starts_with("250 "));
    let bodies = ["\n.dot\n..dots\ngr\u{fc}\u{df}e\n", "\n", "\n\n\n.\n. \n", "\n\tx \n"];
    for body in bodies {
        let content = format!("{HEADER}{body}");
        let rcpts = ["RCPT TO:<bob@far.example>", "RCPT TO:<carol@other.example>"];
        talk.send("MAIL FROM:<alice@client.example>", &rcpts, content.as_bytes());
    }
    // One for each domain or one for both, as it likes.
    let copies = || -> usize { scratch.queued().iter().map(|message| message.recipients.len()).sum() };
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while copies() < 2 * bodies.len() {
        assert!(std::time::Instant::now() < end, "{} copies: {}\n{}", copies(), other.log(), server.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    let queued = scratch.queued();
    for body in bodies {
        let content = format!("{HEADER}{body}");
        let fits = |message: &&Queued| message.content().ends_with(content.as_bytes());
        let copies: usize = queued.iter().filter(fits).map(|message| message.recipients.len()).sum();
        assert_eq!(copies, 2, "{content}: {queued:?}");
    }
    for message in &queued {
        assert_eq!(message.reverse_path, b"alice@client.example");
        assert!(String::from_utf8_lossy(&message.whole).contains(" with ESMTPSA id "));
    }
}

/// `openssl s_client`, under TLS to this server.
fn s_client(
    server: &Server,
    how: &[&str],
) -> (Child, Talk<BufReader<std::process::ChildStdout>, std::process::ChildStdin>) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-verify_return_error", "-verify_hostname", "mx.example", "-CAfile"]);
    command.arg(file("mx.crt.pem")).args(["-connect", &server.address.to_string()]).args(how);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("openssl");
    let reader = BufReader::new(child.stdout.take().expect("a pipe"));
    let writer = child.stdin.take().expect("a pipe");
    (child, Talk { reader, writer })
}

#[test]
fn openssl_s_client_begins_tls_both_ways_and_by_lmtp_has_a_reply_for_each_recipient() {
    let scratch = Scratch::with("auth_failure_delay = 0\nsmtpd_sasl_auth_enable = yes\nsmtpd_timeout = 20s");
    configure(&scratch);
    let (plain, at_once) = (Server::start(&scratch, "smtpsrvr", &[]), Server::start(&scratch, "smtpsrvr", &["--tls"]));
    let lmtp = Server::start(&scratch, "lmtpsrvr", &[]);
    let login = "AUTH PLAIN AGJvYgBzZWNyZXQ=";
    for (server, how, hello) in [
        (&plain, &["-starttls", "smtp"][..], "EHLO"),
        (&plain, &["-starttls", "smtp", "-tls1_2"], "EHLO"),
        (&at_once, &[], "EHLO"),
        (&at_once, &["-tls1_3"], "EHLO"),
        (&lmtp, &["-starttls", "lmtp"], "LHLO"),
    ] {
        let (mut child, mut talk) = s_client(server, how);
        // What it heard in the clear it keeps for itself.
        if !how.contains(&"-starttls") {
            assert!(talk.reply().starts_with("220 mx.example "), "{how:?}");
        }
        let reply = talk.ask(&format!("{hello} client.example"));
        assert!(reply.starts_with("250 "), "{how:?}: {reply}: {}", server.log());
        assert_eq!(talk.ask(login), "235 2.7.0 Logged in", "{how:?}");
        assert!(talk.ask("MAIL FROM:<bob@mx.example> RET=FULL ENVID=x").starts_with("250 "));
        assert!(talk.ask("RCPT TO:<alice@mx.example> NOTIFY=SUCCESS").starts_with("250 "));
        assert!(talk.ask("RCPT TO:<nobody@mx.example>").starts_with("550 "));
        assert!(talk.ask("RCPT TO:<bob@mx.example> NOTIFY=NEVER ORCPT=rfc822;b@x").starts_with("250 "));
        assert!(talk.ask("DATA").starts_with("354 "));
        let first = talk.ask("Subject: x\r\n\r\n..dot\r\n.");
        assert!(first.starts_with("250 2.0.0 "), "{how:?}: {first}");
        if hello == "LHLO" {
            assert_eq!(talk.reply(), first, "one for each recipient that was taken");
        }
        assert!(talk.ask("QUIT").starts_with("221 "));
        let mut rest = String::new();
        assert_eq!(talk.reader.read_to_string(&mut rest).expect("an end"), 0, "{rest}");
        drop(talk.writer);
        let status = child.wait().expect("its end");
        assert!(status.success(), "{how:?}: {status}");
    }
    let queued = scratch.queued();
    assert_eq!(queued.len(), 5);
    for (number, message) in queued.iter().enumerate() {
        assert_eq!(message.content(), b"Subject: x\n\n.dot\n");
        assert_eq!(message.parameters, "RET=FULL ENVID=x|NOTIFY=SUCCESS|NOTIFY=NEVER ORCPT=rfc822;b@x");
        let protocol = if number == 4 { " with LMTPSA " } else { " with ESMTPSA " };
        assert!(String::from_utf8_lossy(&message.whole).contains(protocol), "{number}");
    }
    // A name that the certificate has not.
    let mut command = Command::new("openssl");
    command.args(["s_client", "-verify_return_error", "-verify_hostname", "other.example", "-CAfile"]);
    command.arg(file("mx.crt.pem")).args(["-starttls", "smtp", "-connect", &plain.address.to_string()]);
    assert!(!command.stdin(Stdio::null()).output().expect("openssl").status.success());
}

/// The subject of the certificate that a client hears who asks for this name, and whether the session was resumed.
fn handshake(server: &Server, name: &str, more: &[&str]) -> (String, bool) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-ign_eof", "-starttls", "smtp", "-servername", name]);
    command.args(["-connect", &server.address.to_string()]);
    let mut child =
        command.args(more).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("openssl");
    // Until the server closes: with TLS 1.3 a ticket comes behind the handshake.
    child.stdin.take().expect("a pipe").write_all(b"noop\r\nquit\r\n").expect("sending");
    let output = child.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let subject = said.lines().find_map(|line| line.strip_prefix("subject=")).unwrap_or_default().to_owned();
    (subject.replace(' ', ""), said.contains("Reused, TLS"))
}

#[test]
fn certificates_are_those_of_the_name_and_of_the_files_as_they_are_now() {
    let scratch = Scratch::with("smtpd_forbid_unauth_pipelining = no");
    configure(&scratch);
    for name in ["other.crt.pem", "other.key.pem"] {
        scratch.write(name, &fs::read_to_string(file(name)).expect("a PEM file"));
    }
    let folder = scratch.path().display();
    scratch.configure(&format!(
        "tls_cert_file = {folder}/mx.crt.pem {folder}/other.crt.pem\ntls_key_file = {folder}/mx.key.pem {folder}/other.key.pem"
    ));
    let subject = |server: &Server, name: &str| handshake(server, name, &[]).0;
    let server = Server::start(&scratch, "smtpsrvr", &[]);
    let (mx, other) = (subject(&server, "mx.example"), subject(&server, "other.example"));
    assert!(mx.ends_with("mx.example") && other.ends_with("other.example"), "{mx} {other}");
    assert_eq!(subject(&server, "nobody.example"), mx, "the first is for whom there is none");
    // Replaced while the server runs, as every tool that renews certificates does it: by rename.
    scratch.configure(&format!("tls_cert_file = {folder}/mx.crt.pem\ntls_key_file = {folder}/mx.key.pem"));
    let pools =
        [&[][..], &["-o", "idle_children=1", "-o", "max_use=100"]].map(|how| Server::start(&scratch, "smtpsrvr", how));
    for pool in &pools {
        assert_eq!(subject(pool, "mx.example"), mx);
    }
    for (new, old) in [("other.crt.pem", "mx.crt.pem"), ("other.key.pem", "mx.key.pem")] {
        fs::rename(scratch.path().join(new), scratch.path().join(old)).expect("another certificate");
    }
    // Children that wait are replaced when the process that listens has looked, at the latest after ten seconds.
    for pool in &pools {
        until("the new certificate", || subject(pool, "mx.example") == other);
    }
}

#[test]
fn a_session_is_resumed_by_another_process_with_the_key_of_the_file() {
    let scratch = Scratch::with("smtpd_forbid_unauth_pipelining = no");
    configure(&scratch);
    scratch.configure(&format!("tls_ticket_key_file = {}/queue/tickets", scratch.path().display()));
    let (one, another) = (Server::start(&scratch, "smtpsrvr", &[]), Server::start(&scratch, "smtpsrvr", &[]));
    let ticket = scratch.path().join("ticket");
    let ticket = ticket.to_str().expect("a path");
    for version in ["-tls1_2", "-tls1_3"] {
        assert!(!handshake(&one, "mx.example", &[version, "-sess_out", ticket]).1);
        assert!(handshake(&another, "mx.example", &[version, "-sess_in", ticket]).1, "{version}");
        fs::remove_file(scratch.queue().join("tickets")).expect("the keys");
        assert!(!handshake(&another, "mx.example", &[version, "-sess_in", ticket]).1, "{version}: the key is gone");
    }
}
