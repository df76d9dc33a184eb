//! smtpsrvr under the name lmtpsrvr.

mod common;

use common::{Scratch, feed};
use std::os::unix::process::CommandExt;

#[test]
fn lmtp_answers_for_each_recipient() {
    let scratch = Scratch::new();
    let mut command = scratch.command("smtpsrvr");
    command.arg0("/usr/local/sbin/lmtpsrvr");
    let output = feed(
        &mut command,
        b"EHLO c.example\r\nHELO c.example\r\nLHLO c.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<alice@mx.example>\r\n\
          RCPT TO:<nobody@mx.example>\r\nRCPT TO:<bob@mx.example>\r\nDATA\r\nx\r\n.\r\n\
          MAIL FROM:<a@b>\r\nRCPT TO:<alice@mx.example>\r\nRCPT TO:<bob@mx.example>\r\nBDAT 1\r\nxBDAT 3 LAST\r\ny\r\n\
          MAIL FROM:<a@b>\r\nRCPT TO:<alice@mx.example>\r\nRCPT TO:<bob@mx.example>\r\nBDAT 2\r\n\n\nBDAT 1 LAST\r\n\n\
          MAIL FROM:<a@b>\r\nRCPT TO:<nobody@mx.example>\r\nDATA\r\nQUIT\r\n",
    );
    let said = String::from_utf8(output.stdout).expect("ASCII");
    let codes: Vec<&str> = said.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect();
    let expected =
        "220 500 500 250 250 250 550 250 354 250 250 250 250 250 250 250 250 250 250 250 550 503 503 250 550 503 221";
    assert_eq!(codes.join(" "), expected, "{said}");
    assert!(said.starts_with("220 mx.example LMTP doorpost\r\n"), "{said}");
    let queued = scratch.queued();
    assert_eq!(queued.len(), 2);
    assert!(String::from_utf8_lossy(&queued[0].whole).contains(" with LMTP id "));
}

#[test]
fn a_bare_line_end_is_answered_for_each_recipient_before_the_connection_is_closed() {
    let scratch = Scratch::new();
    let mut command = scratch.command("smtpsrvr");
    command.arg0("lmtpsrvr");
    let output = feed(
        &mut command,
        b"LHLO c.example\r\nMAIL FROM:<a@b>\r\nRCPT TO:<alice@mx.example>\r\nRCPT TO:<nobody@mx.example>\r\n\
          RCPT TO:<bob@mx.example>\r\nDATA\r\nx\n.\r\n.\r\nNOOP\r\n",
    );
    let said = String::from_utf8(output.stdout).expect("ASCII");
    assert_eq!(said.matches("\r\n550 5.6.11 ").count(), 2, "{said}");
    assert!(said.lines().last().is_some_and(|line| line.starts_with("550 5.6.11 ")), "{said}");
    assert_eq!(scratch.queued(), []);
}

#[test]
fn a_message_refused_for_each_of_many_recipients_is_one_mistake() {
    let scratch = Scratch::with("message_size_limit = 100\nsmtpd_hard_error_limit = 3");
    let rcpt = "RCPT TO:<bob@mx.example>\r\n".repeat(30);
    let text = "x".repeat(200);
    let session = format!("LHLO c\r\nMAIL FROM:<a@b>\r\n{rcpt}DATA\r\n{text}\r\n.\r\nNOOP\r\nQUIT\r\n");
    let mut command = scratch.command("smtpsrvr");
    command.arg0("lmtpsrvr");
    let said = String::from_utf8(feed(&mut command, session.as_bytes()).stdout).expect("ASCII");
    assert_eq!(said.matches("552 5.3.4 ").count(), 30, "{said}");
    assert!(said.ends_with("250 2.0.0 Ok\r\n221 2.0.0 Goodbye\r\n"), "{said}");
    // What is only for users has no business there, and must not be forgotten in silence.
    let output = feed(command.arg("--submission"), b"QUIT\r\n");
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert!(output.stdout.starts_with(b"421 "), "{output:?}");
}
