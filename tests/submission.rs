//! `smtpsrvr --submission`: for users alone, whose mail it completes, and who send as themselves.

mod common;

use common::login::*;
use common::tls::{Client, configure};
use common::{PASSWORD, Scratch, feed};
use std::fs;
use std::process::Command;

#[test]
fn submission_is_for_users_alone() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    configure(&scratch);
    let mut client = greeted(Client::from_afar(&mut submission(&scratch)));
    assert_eq!(client.ask("MAIL FROM:<bob@mx.example>"), "530 5.7.0 Begin TLS first");
    assert!(client.ask("STARTTLS").starts_with("220 "));
    client.start_tls();
    extensions(&mut client);
    for line in ["MAIL FROM:<bob@mx.example>", "VRFY bob", "EXPN bob"] {
        assert_eq!(client.ask(line), "530 5.7.0 Log in first", "{line}");
    }
    assert_eq!(client.ask("RCPT TO:<bob@mx.example>"), "503 5.5.1 MAIL first");
    client.send(b"BDAT 6 LAST\r\nRSET\r\n");
    assert_eq!(client.line(), "503 5.5.1 MAIL first");
    assert_eq!(client.ask(&plain("bob", PASSWORD)), "235 2.7.0 Logged in");
    assert!(client.ask("MAIL FROM:<bob@mx.example> SIZE=10240001").starts_with("552 5.3.4 "));
    assert_eq!(client.ask("MAIL FROM:<bob@mx.example>"), "250 2.1.0 Ok");
    let (_, log, _) = client.end();
    // However often the client was told to log in, and for no mistake in a command.
    let refused: Vec<&str> = log.lines().filter_map(|line| line.split_once("event=refused ").map(|it| it.1)).collect();
    let told = "while=\"waiting for EHLO\" reply=\"530 5.7.0 Begin TLS first\"";
    assert!(refused.len() == 2 && refused[0] == told && refused[1].starts_with("user=bob while="), "{log}");
}

#[test]
fn submission_completes_the_header_and_changes_nothing_in_it() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    let mut client = greeted(Client::from_here(&mut submission(&scratch)));
    client.ask(&plain("bob", PASSWORD));
    let whole = "Date: today\r\nMessage-ID: <1@c>\r\nFrom: Bob <bob@mx.example>\r\n\r\nx";
    for text in [whole, "Subject: x\r\n\r\nDate: no", "no header at all"] {
        let replies = send(&mut client, "bob@mx.example", "alice@mx.example", text);
        assert!(replies.last().is_some_and(|reply| reply.starts_with("250 ")), "{replies:?}");
    }
    // The same in chunks that end anywhere.
    client.ask("MAIL FROM:<bob@mx.example>");
    client.ask("RCPT TO:<alice@mx.example>");
    client.send(b"BDAT 5\r\nSubjeBDAT 6\r\nct: y\rBDAT 5 LAST\r\n\n\r\nz\r");
    for code in ["250 ", "250 ", "550 5.6.11"] {
        let line = client.line();
        assert!(line.starts_with(code), "{line}");
    }
    client.ask("MAIL FROM:<bob@mx.example>");
    client.ask("RCPT TO:<alice@mx.example>");
    client.send(b"BDAT 5\r\nSubjeBDAT 6\r\nct: y\rBDAT 4 LAST\r\n\n\r\nz");
    for code in ["250 ", "250 ", "250 2.0.0 Ok: queued"] {
        let line = client.line();
        assert!(line.starts_with(code), "{line}");
    }
    let queued: Vec<String> =
        scratch.queued().iter().map(|m| String::from_utf8(m.content().to_vec()).expect("text")).collect();
    assert_eq!(queued[0], whole.replace("\r\n", "\n") + "\n");
    for (text, rest) in
        queued[1..].iter().zip(["\nSubject: x\n\nDate: no\n", "\n\nno header at all\n", "\nSubject: y\n\nz\n"])
    {
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("Date: ") && lines[0].ends_with("00"), "{text}");
        assert!(lines[1].starts_with("Message-ID: <") && lines[1].ends_with("@mx.example>"), "{text}");
        assert_eq!(lines[2], "From: <bob@mx.example>");
        assert!(text.ends_with(rest), "{text}");
    }
}

/// Whom a blind copy goes to is for nobody else to know (RFC 5322 section 3.6.3).
#[test]
fn fields_that_are_for_nobody_else_are_taken_out_of_what_users_submit_and_of_nothing_else() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    let text = "bcc: carol@mx.example,\r\n eve@far.example\r\nTo: alice@mx.example\r\nReturn-Path: <x@y>\r\n\
        Content-Length: 7\r\nSubject: x\r\nResent-Bcc: z@y\r\n\r\nBcc: of the body";
    let sent = |command: &mut Command| {
        let mut client = greeted(Client::from_here(command));
        client.ask(&plain("bob", PASSWORD));
        let replies = send(&mut client, "bob@mx.example", "alice@mx.example", text);
        assert!(replies.last().is_some_and(|reply| reply.starts_with("250 ")), "{replies:?}");
        String::from_utf8(scratch.queued().pop().expect("a message").content().to_vec()).expect("text")
    };
    let submitted = sent(&mut submission(&scratch));
    let rest = "To: alice@mx.example\nSubject: x\n\nBcc: of the body\n";
    assert!(submitted.starts_with("Date: ") && submitted.ends_with(rest), "{submitted}");
    assert_eq!(submitted.lines().count(), 7, "{submitted}");
    assert_eq!(sent(&mut scratch.command("smtpsrvr")), text.replace("\r\n", "\n") + "\n", "that of others is theirs");
    scratch.configure("message_drop_headers = SUBJECT");
    let submitted = sent(&mut submission(&scratch));
    assert!(submitted.contains("\nbcc: carol@mx.example,\n eve@") && !submitted.contains("Subject"), "{submitted}");
    scratch.configure("message_drop_headers = subject:");
    let output = feed(&mut submission(&scratch), b"QUIT\r\n");
    assert_eq!(output.status.code(), Some(78), "{output:?}");
}

#[test]
fn a_login_sends_as_itself_where_that_is_configured() {
    let scratch = Scratch::with("auth_failure_delay = 0");
    scratch.write("senders", "bob@mx.example bob\n@team.example alice, bob\n");
    scratch.configure(&format!("smtpd_sender_login_maps = hash:{}/senders", scratch.path().display()));
    let mut client = greeted(Client::from_here(&mut submission(&scratch)));
    // Who logs in is the user as the table spells him, whatever was typed.
    client.ask(&plain("BOB", PASSWORD));
    for (from, header, last) in [
        ("bob@mx.example", "From: bob@mx.example", "250 2.0.0"),
        ("BOB@MX.example", "From: x@team.example", "250 2.0.0"),
        ("any@team.example", "From: bob@mx.example, any@team.example", "250 2.0.0"),
        ("bob+shop@mx.example", "From: bob+shop@mx.example\r\nSender: bob+x@mx.example", "250 2.0.0"),
        ("alice+bob@mx.example", "", "553 5.7.1"),
        ("\"192.0.2.9 event=x\"@mx.example", "", "553 5.7.1"),
        ("alice@mx.example", "", "553 5.7.1"),
        ("x@far.example", "", "553 5.7.1"),
        ("bob@mx.example", "From: alice@mx.example", "550 5.7.1"),
        ("bob@mx.example", "From: bob@mx.example, \"bob@mx.example\" <alice@mx.example>", "550 5.7.1"),
        ("bob@mx.example", "From: bob@mx.example\r\nFrom: alice@mx.example", "550 5.6.0"),
        ("bob@mx.example", "From: nonsense", "550 5.6.0"),
        // Nothing that hides behind a header of any length.
        ("bob@mx.example", &format!("{}From: alice@mx.example", "X: y\r\n".repeat(80_000)), "552 5.3.4"),
        ("bob@mx.example", &format!("{}From: alice@mx.example", "X: y\r\n".repeat(20_000)), "550 5.7.1"),
        ("bob@mx.example", "From: bob@mx.example\r\nnonsense\r\nFrom: alice@mx.example", "250 2.0.0"),
        ("", "Subject: from nobody", "550 5.6.0"),
        ("", "From: bob@mx.example", "250 2.0.0"),
        ("bob@mx.example", "Sender: bob@mx.example\r\nResent-From: x@team.example, bob@mx.example", "250 2.0.0"),
        ("bob@mx.example", "sender : Bob <alice@mx.example>", "550 5.7.1"),
        ("bob@mx.example", "Sender: bob@mx.example\r\nSENDER: bob@mx.example", "550 5.6.0"),
        ("bob@mx.example", "Sender: bob@mx.example, x@team.example", "550 5.6.0"),
        ("bob@mx.example", "Sender: Bob", "550 5.6.0"),
        ("bob@mx.example", "Resent-From: bob@mx.example, alice@mx.example", "550 5.7.1"),
        ("bob@mx.example", "Resent-From: bob@mx.example\r\nX: y\r\nresent-from:\r\n alice@mx.example", "550 5.7.1"),
        ("bob@mx.example", "Resent-From: bob@mx.example\r\nResent-Sender: alice@mx.example", "550 5.7.1"),
        ("bob@mx.example", "Resent-Sender: bob@mx.example, x@team.example", "550 5.6.0"),
        ("bob@mx.example", "Resent-From: <>", "550 5.6.0"),
        ("bob@mx.example", &format!("{}Sender: alice@mx.example", "X: y\r\n".repeat(20_000)), "550 5.7.1"),
        ("bob@mx.example", "nonsense\r\nSender: alice@mx.example", "250 2.0.0"),
        // What some readers take for the author, and others for a name.
        ("bob@mx.example", "From: ceo@corp.example: bob@mx.example;", "550 5.6.0"),
        ("bob@mx.example", "From: ceo@corp.example <bob@mx.example>", "550 5.7.1"),
        ("bob@mx.example", "From: Bob, ceo@corp.example <bob@mx.example>", "550 5.6.0"),
        ("bob@mx.example", "From: x ceo@corp.example <bob@mx.example>", "550 5.6.0"),
        ("bob@mx.example", "From: <x bob@mx.example>", "550 5.6.0"),
        ("bob@mx.example", "Sender: ceo@corp.example <bob@mx.example>", "550 5.7.1"),
        ("bob@mx.example", "Resent-From: ceo@corp.example: bob@mx.example;", "550 5.6.0"),
        ("bob@mx.example", "Resent-Sender: ceo@corp.example <bob@mx.example>", "550 5.7.1"),
        ("bob@mx.example", "From: BOB@mx.example <bob@mx.example>, x@team.example <bob@mx.example>", "250 2.0.0"),
        ("bob@mx.example", "Sender: bob@mx.example <bob@mx.example>", "250 2.0.0"),
        ("bob@mx.example", "From: \"ceo@corp.example\" <bob@mx.example>", "250 2.0.0"),
        ("bob@mx.example", "From: =?utf-8?q?ceo=40corp.example?= (ceo@corp.example) <bob@mx.example>", "250 2.0.0"),
        ("bob@mx.example", "From: The \"A. Team\" (x@y): bob@mx.example, Bob <any@team.example>;", "250 2.0.0"),
    ] {
        let replies = send(&mut client, from, "alice@mx.example", &format!("{header}\r\n"));
        assert!(replies.last().is_some_and(|reply| reply.starts_with(last)), "{from} {header}: {replies:?}");
    }
    let queued = scratch.queued();
    for hidden in [
        "From: bob@mx.example\n\nnonsense\nFrom: alice@mx.example\n",
        "From: <bob@mx.example>\n\nnonsense\nSender: alice@mx.example\n",
    ] {
        let is_parted = |message: &&common::Queued| String::from_utf8_lossy(message.content()).contains(hidden);
        assert_eq!(queued.iter().filter(is_parted).count(), 1, "what is no field ends the header for all: {hidden}");
    }
    fs::remove_file(scratch.path().join("senders")).expect("the table");
    assert!(client.ask("MAIL FROM:<bob@mx.example>").starts_with("451 "), "what cannot be told is no refusal for good");
    client.ask("QUIT");
    let (_, log, _) = client.end();
    assert!(log.contains("event=login user=bob mechanism=PLAIN") && !log.contains("=BOB"), "{log}");
    for from in ["<alice+bob@mx.example>", "<\"192.0.2.9\\x20event=x\"@mx.example>"] {
        let refused = format!(" event=refused from={from} user=bob while=\"waiting for EHLO\" reply=\"553 5.7.1 ");
        assert!(log.contains(&refused), "{from}: {log}");
    }
}

/// What is said to bob, who submits this as BODY=BINARYMIME, in one chunk.
fn submitted_as_binary(scratch: &Scratch, text: &str) -> String {
    let session = format!(
        "EHLO c.example\r\n{}\r\nMAIL FROM:<bob@mx.example> BODY=BINARYMIME\r\nRCPT TO:<x@far.example>\r\n\
         BDAT {} LAST\r\n{text}QUIT\r\n",
        plain("bob", PASSWORD),
        text.len()
    );
    let said = feed(&mut submission(scratch), session.as_bytes()).stdout;
    let said = String::from_utf8(said).expect("ASCII");
    assert!(said.ends_with("221 2.0.0 Goodbye\r\n"), "{text:?}: {said}");
    said
}

#[test]
fn what_is_added_to_a_binary_message_ends_its_lines_as_the_message_does() {
    let scratch = Scratch::with(LOGIN);
    submitted_as_binary(&scratch, "Subject: x\r\n\r\n\0\n\r");
    let whole = String::from_utf8_lossy(&scratch.queued()[0].whole).into_owned();
    let (_, message) = whole.split_once("Received: ").expect("a trace field");
    let (header, body) = message.split_once("\r\n\r\n").expect("a header");
    assert!(header.contains("\r\nDate: ") && header.contains("\r\nFrom: <bob@mx.example>\r\n"), "{header}");
    assert!(header.split("\r\n").all(|line| !line.contains('\n')), "{header:?}");
    assert!(body.starts_with("\0\n\r"), "{body:?}");
}

/// Some readers take CR or LF alone for a line end, and would see another From, or another end of the header.
#[test]
fn a_binary_message_hides_no_from_behind_a_bare_line_end() {
    for text in [
        "X: y\rFrom: alice@mx.example\r\nFrom: bob@mx.example\r\n\r\nx",
        "From: bob@mx.example\r\nX: y\n\n\r\nFrom: alice@mx.example\r\n",
        "From: bob@mx.example\r\n\nFrom: alice@mx.example\r\n\r\nx",
        "From: bob@mx.example\nX: y\r\n\r\nx",
        "From: bob@mx.example\r\nX: y\rSender: alice@mx.example\r\n\r\nx",
    ] {
        let scratch = Scratch::with(LOGIN);
        let said = submitted_as_binary(&scratch, text);
        assert!(said.contains("\r\n550 5.6.0 "), "{text:?}: {said}");
        assert!(scratch.queued().is_empty(), "{text:?}");
    }
}
