//! TLS as clients of smtpsrvr and pop3d see it: asked for and from the first octet on, and what must not get through.

mod common;

use common::Scratch;
use common::tls::{Client, configure};

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

#[test]
fn a_client_that_does_not_shake_hands_is_no_failure() {
    let scratch = with_tls();
    let mut client = smtp(&scratch);
    assert!(client.ask("STARTTLS").starts_with("220 "));
    client.say("EHLO in clear");
    let (said, log, status) = client.end();
    assert!(!said.contains("mx.example"), "{said}");
    assert!(log.contains("event=tls-failed why=") && log.contains("event=end"), "{log}");
    assert_eq!(status, Some(0));
    let mut command = scratch.command("smtpsrvr");
    let mut client = Client::start(command.args(["-o", "smtpd_timeout=1"]));
    client.line();
    assert!(client.ask("STARTTLS").starts_with("220 "));
    // Silent; only the deadline ends it.
    client.send(b"\x16");
    client.wait_for_end();
    let (said, log, status) = client.end();
    assert_eq!((said.as_str(), status), ("", Some(0)), "{log}");
    assert!(log.contains("event=tls-failed why=\"timed out\""), "{log}");
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
