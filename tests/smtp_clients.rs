//! Other people's programs against smtpsrvr for users: TLS both ways, each way to log in, LMTP.
//!
//! Needs swaks, curl and msmtp, which .ci/run installs; a missing one is a failure.

mod common;

use common::tls::configure;
use common::{PASSWORD, Scratch, feed};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// A server on a port of its own.
struct Server(Child, String);

impl Server {
    fn start(scratch: &Scratch, name: &str, arguments: &[&str]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let mut command = scratch.command("smtpsrvr");
        command.arg0(name).args(arguments).stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
        Server(command.spawn().expect("smtpsrvr"), address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(scratch: &Scratch, program: &str, arguments: &[&str]) {
    let mut command = Command::new(program);
    command.args(arguments).env("HOME", scratch.path());
    let output = feed(&mut command, b"From: bob@mx.example\r\nSubject: x\r\n\r\nx\r\n");
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

#[test]
fn clients_log_in_by_each_mechanism_they_know() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    configure(&scratch);
    let submission = Server::start(&scratch, "smtpsrvr", &["--submission"]);
    let wrapped = Server::start(&scratch, "smtpsrvr", &["--submission", "--tls"]);
    let lmtp = Server::start(&scratch, "lmtpsrvr", &[]);
    let port = submission.1.rsplit(':').next().expect("a port");
    let swaks = ["--silent", "2", "--from", "bob@mx.example", "--to", "alice@mx.example", "--auth-user", "bob"];
    let mut sent = 0;
    for how in [
        &["--server", &submission.1, "-tls", "--auth", "PLAIN"][..],
        &["--server", &submission.1, "-tls", "--auth", "LOGIN"],
        &["--server", &submission.1, "-tls", "--auth", "CRAM-MD5"],
        &["--server", &submission.1, "--pipeline", "--auth", "PLAIN"],
        &["--server", &wrapped.1, "--tls-on-connect", "--auth", "PLAIN"],
    ] {
        run(&scratch, "swaks", &[&swaks[..], &["--auth-password", PASSWORD], how].concat());
        sent += 1;
    }
    let (to, from) = ("alice@mx.example", "bob@mx.example");
    run(&scratch, "swaks", &["--silent", "2", "--server", &lmtp.1, "--protocol", "LMTP", "--from", from, "--to", to]);
    for auth in ["plain", "login", "cram-md5", "scram-sha-256"] {
        let (auth, port) = (format!("--auth={auth}"), format!("--port={port}"));
        let tls = ["--host=127.0.0.1", "--tls=on", "--tls-starttls=on", "--tls-certcheck=off", "--user=bob"];
        let password = format!("--passwordeval=echo {PASSWORD}");
        run(&scratch, "msmtp", &[&tls[..], &[&auth, &port, &password, "--from=bob@mx.example", to]].concat());
        sent += 1;
    }
    for (scheme, address, auth) in
        [("smtp", &submission.1, "PLAIN"), ("smtps", &wrapped.1, "CRAM-MD5"), ("smtps", &wrapped.1, "LOGIN")]
    {
        let (url, user, auth) = (format!("{scheme}://{address}/c"), format!("bob:{PASSWORD}"), format!("AUTH={auth}"));
        let mail = ["-sSk", "--ssl-reqd", "--url", &url, "-u", &user, "--login-options", &auth, "--mail-from", from];
        run(&scratch, "curl", &[&mail[..], &["--mail-rcpt", to, "-T", "-"]].concat());
        sent += 1;
    }
    assert_eq!(scratch.queued().len(), sent + 1);
}

/// smtpsrvr on a connection that says by PROXY or XCLIENT whose it is, and over every way swaks has.
#[test]
fn swaks_speaks_every_protocol_it_knows() {
    let scratch = Scratch::with("auth_failure_delay = 0\nsmtpd_sasl_auth_enable = yes");
    configure(&scratch);
    let (plain, wrapped) = (Server::start(&scratch, "smtpsrvr", &[]), Server::start(&scratch, "smtpsrvr", &["--tls"]));
    let lmtp = Server::start(&scratch, "lmtpsrvr", &[]);
    let all = ["--silent", "2", "--from", "bob@mx.example", "--to", "alice@mx.example"];
    let protocols = [
        ("SMTP", &plain, "SMTP"),
        ("SSMTP", &wrapped, "ESMTPS"),
        ("SSMTPA", &wrapped, "ESMTPSA"),
        ("SMTPS", &wrapped, "SMTP"),
        ("ESMTP", &plain, "ESMTP"),
        ("ESMTPA", &plain, "ESMTPA"),
        ("ESMTPS", &plain, "ESMTPS"),
        ("ESMTPSA", &plain, "ESMTPSA"),
        ("LMTP", &lmtp, "LMTP"),
        ("LMTPA", &lmtp, "LMTPA"),
        ("LMTPS", &lmtp, "LMTPS"),
        ("LMTPSA", &lmtp, "LMTPSA"),
    ];
    for (protocol, server, _) in protocols {
        let how = ["--server", &server.1, "--protocol", protocol];
        let login: &[&str] =
            if protocol.ends_with('A') { &["--auth-user", "bob", "--auth-password", PASSWORD] } else { &[] };
        run(&scratch, "swaks", &[&all[..], &how, login].concat());
    }
    // Over a pipe, where nobody waits for anybody.
    let program = format!("MAIL_CONFIG={} {}", scratch.path().display(), common::binary("smtpsrvr").display());
    run(&scratch, "swaks", &[&all[..], &["--pipe", &program, "--pipeline"]].concat());
    let queued = scratch.queued();
    let with: Vec<&str> = protocols.iter().map(|(.., with)| *with).chain(["ESMTP"]).collect();
    assert_eq!(queued.len(), with.len());
    for (message, with) in queued.iter().zip(with) {
        let text = String::from_utf8_lossy(&message.whole).into_owned();
        assert!(text.contains(&format!(" with {with} id ")), "{with}: {text}");
    }
}

#[test]
fn swaks_says_by_proxy_headers_of_both_versions_and_by_xclient_who_the_client_is() {
    let listed = "smtpd_upstream_proxy_hosts = 127.0.0.1";
    let all = ["--silent", "2", "--from", "bob@mx.example", "--to", "alice@mx.example"];
    let address = ["--proxy-source", "198.51.100.7", "--proxy-source-port", "1234", "--proxy-dest", "192.0.2.1"];
    for version in ["1", "2"] {
        let scratch = Scratch::with(listed);
        scratch.write("channels", "local * mx.example mailbox: local\n");
        let how = ["--proxy-version", version, "--proxy-family", if version == "1" { "TCP4" } else { "AF_INET" }];
        let how = [&all[..], &how, &address, &["--proxy-dest-port", "25", "--server"]].concat();
        let server = Server::start(&scratch, "smtpsrvr", &[]);
        run(&scratch, "swaks", &[&how[..], &[&server.1]].concat());
        let text = String::from_utf8_lossy(&scratch.queued()[0].whole).into_owned();
        assert!(text.contains("[198.51.100.7]"), "{version}: {text}");
        // Of who is not listed the header is no command, or no line.
        scratch.configure("smtpd_upstream_proxy_hosts = 192.0.2.99");
        let server = Server::start(&scratch, "smtpsrvr", &[]);
        let output = Command::new("swaks").args(&how).arg(&server.1).output().expect("swaks");
        assert!(!output.status.success(), "{version}: {output:?}");
        assert_eq!(scratch.queued().len(), 1);
    }
    let scratch = Scratch::with("smtpd_authorized_xclient_hosts = 127.0.0.1");
    scratch.write("channels", "local * mx.example mailbox: local\n");
    let server = Server::start(&scratch, "smtpsrvr", &[]);
    let how = ["--xclient-addr", "198.51.100.9", "--xclient-name", "far.example", "--xclient-port", "7", "--server"];
    run(&scratch, "swaks", &[&all[..], &how, &[&server.1]].concat());
    let text = String::from_utf8_lossy(&scratch.queued()[0].whole).into_owned();
    assert!(text.contains("(far.example [198.51.100.9])"), "{text}");
}

/// curl knows SCRAM where it was built with GNU SASL, which Debian's is not: then it says 67 by itself.
#[test]
fn curl_logs_in_by_scram_if_it_knows_that_and_else_says_so_before_it_asks() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    configure(&scratch);
    let record = scratch.path().join("record");
    let server = Server::start(&scratch, "smtpsrvr", &["--submission", "--record", record.to_str().expect("a path")]);
    let version = Command::new("curl").arg("--version").output().expect("curl");
    let knows = String::from_utf8_lossy(&version.stdout).split_whitespace().any(|word| word == "gsasl");
    let (url, user) = (format!("smtp://{}/c", server.1), format!("bob:{PASSWORD}"));
    let mut curl = Command::new("curl");
    curl.args(["-sSk", "--ssl-reqd", "--url", &url, "-u", &user, "--login-options", "AUTH=SCRAM-SHA-256"]);
    curl.args(["--mail-from", "bob@mx.example", "--mail-rcpt", "alice@mx.example", "-T", "-"]);
    let status = feed(&mut curl, b"From: bob@mx.example\r\n\r\nx\r\n").status.code();
    assert_eq!((status, scratch.queued().len()), if knows { (Some(0), 1) } else { (Some(67), 0) });
    let record = std::fs::read_to_string(record).expect("a record");
    assert!(record.contains("AUTH SCRAM-SHA-256 CRAM-MD5 PLAIN LOGIN"), "{record}");
    assert_eq!(record.contains("C: AUTH "), knows, "{record}");
}
