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
