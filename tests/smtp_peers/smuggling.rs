//! The whole table of line ends around a dot, with a live Postfix behind doorpost and before it: whatever is written, the
//! one behind never sees more messages than the one before took, and none of another sender.

use super::{Server, Talk};
use crate::common::postfix::Postfix;
use crate::common::{Scratch, until};
use std::fs;
use std::io::Write;
use std::net::{Shutdown, SocketAddr};

/// What may stand on either side of a dot.
const ENDS: [&str; 12] =
    ["\n", "\r", "\r\n", "\n\r", "\r\r\n", "\r\n\n", "\r\r", "\n\n", "\0\r\n", "\r\0\n", "\r\n\0", "\u{85}"];

/// What a smuggler would have the second server read as a message of its own.
const SMUGGLED: &str = "MAIL FROM:<evil@mx.example>\r\nRCPT TO:<carol@mx.example>\r\nDATA\r\nsmuggled\r\n.\r\n";

/// All that is not the end of a message as RFC 5321 has it.
fn variants() -> Vec<String> {
    let pairs = ENDS.iter().flat_map(|before| ENDS.iter().map(move |behind| (before, behind)));
    let all = pairs.map(|(before, behind)| format!("{before}.{behind}"));
    let variants: Vec<String> = all.filter(|variant| !variant.contains("\r\n.\r\n")).collect();
    assert!(variants.len() >= 100);
    variants
}

/// The whole table by DATA and with the defaults of both; of the rest a part, unless SMUGGLING=all is in the environment,
/// which takes a minute.
fn step(by: By, is_default: bool) -> usize {
    let is_whole = std::env::var("SMUGGLING").is_ok_and(|value| value == "all");
    if is_whole || (matches!(by, By::Data) && is_default) { 1 } else { 5 }
}

/// One session with one message; how it was brought is `by`. Gives whether the message was taken.
fn send(server: SocketAddr, by: By, variant: &str, number: usize) -> bool {
    let mut talk = Talk::to(server);
    let body = if let By::Chunks(true) = by { " BODY=BINARYMIME" } else { "" };
    talk.ask("EHLO client.example");
    talk.ask(&format!("MAIL FROM:<alice@mx.example>{body}"));
    talk.ask("RCPT TO:<bob@mx.example>");
    let text = format!("Subject: {number}\r\n\r\nbody{variant}{SMUGGLED}");
    let reply = match by {
        By::Data => {
            talk.ask("DATA");
            let _ = talk.writer.write_all(text.as_bytes());
            talk.ask(".")
        }
        By::Chunks(_) => {
            // Cut in front of the variant, which is where the second chunk begins.
            let at = text.len() - variant.len() - SMUGGLED.len();
            let _ = write!(talk.writer, "BDAT {at}\r\n{}", &text[..at]);
            talk.reply();
            let _ = write!(talk.writer, "BDAT {} LAST\r\n{}", text.len() - at, &text[at..]);
            talk.reply()
        }
    };
    // What else it has to say of what it takes for commands.
    let _ = talk.writer.write_all(b"QUIT\r\n");
    let _ = talk.writer.shutdown(Shutdown::Write);
    while !talk.reply().is_empty() {}
    reply.starts_with('2')
}

#[derive(Debug, Clone, Copy)]
enum By {
    Data,
    /// BDAT, and whether as any octets.
    Chunks(bool),
}

/// The messages Postfix has delivered.
fn at(postfix: &Postfix) -> Vec<String> {
    until("Postfix to deliver", || postfix.is_idle());
    let files = |user| fs::read_dir(postfix.maildir(user).join("new")).into_iter().flatten().flatten();
    let paths = ["alice", "bob", "carol"].into_iter().flat_map(files);
    paths.map(|file| String::from_utf8_lossy(&fs::read(file.path()).expect("a message")).into_owned()).collect()
}

#[test]
fn doorpost_before_postfix_hands_on_what_it_took_and_no_message_more() {
    let postfix = Postfix::start(&std::env::temp_dir(), "smtpd", "");
    let hop = format!("[127.0.0.1]:{}", postfix.address.port());
    let (mut sent, mut taken) = (0, 0);
    // With the default, and with the one setting that takes more.
    for more in ["", "smtpd_forbid_bare_newline = normalize"] {
        let scratch = Scratch::with(more);
        scratch.write("channels", &format!("out 127.0.0.1 mx.example smtp:{hop} *\n"));
        let server = Server::start(&scratch, "smtpsrvr", &[]);
        for by in [By::Data, By::Chunks(false), By::Chunks(true)] {
            for variant in variants().into_iter().step_by(step(by, more.is_empty())) {
                let was_taken = send(server.address, by, &variant, sent);
                sent += 1;
                taken += usize::from(was_taken);
            }
        }
        let queued = scratch.queued();
        assert!(queued.iter().all(|message| message.reverse_path == b"alice@mx.example"), "{more}");
        let count = queued.len();
        scratch.deliver();
        // What Postfix cannot be sent without bending it comes back to who sent it, which is Postfix again.
        scratch.deliver();
        assert!(scratch.queued().is_empty(), "{more}: of {count}");
    }
    let messages = at(&postfix);
    let (reports, messages): (Vec<String>, Vec<String>) =
        messages.into_iter().partition(|message| message.contains("Content-Type: multipart/report"));
    assert_eq!(messages.len() + reports.len(), taken, "{sent} were sent");
    assert!(taken > 0 && taken < sent, "{taken} of {sent}");
    for message in &messages {
        assert!(message.starts_with("Return-Path: <alice@mx.example>"), "{message}");
        assert!(message.contains("X-Original-To: bob@mx.example"), "{message}");
    }
}

#[test]
fn doorpost_behind_postfix_sees_what_postfix_took_and_no_message_more() {
    let scratch = Scratch::new();
    let server = Server::start(&scratch, "smtpsrvr", &[]);
    for forbid in ["no", "yes"] {
        let settings = format!(
            "default_transport = smtp:{}\nvirtual_mailbox_domains =\nsmtpd_forbid_bare_newline = {forbid}\n\
             smtpd_forbid_bare_newline_exclusions =\nbounce_queue_lifetime = 0\nmaximal_queue_lifetime = 0\n\
             smtpd_forbid_unauth_pipelining = no\nsmtpd_error_sleep_time = 0\nsmtp_destination_concurrency_limit = 2",
            server.hop()
        );
        let postfix = Postfix::start(&std::env::temp_dir(), "smtpd", &settings);
        let already = scratch.queued().len();
        for by in [By::Data, By::Chunks(false)] {
            for (number, variant) in variants().into_iter().enumerate().step_by(step(by, forbid == "no")) {
                send(postfix.address, by, &variant, number);
            }
        }
        until("Postfix to be done", || postfix.is_idle());
        let log = postfix.log();
        // One line for each message that it queued; reports of what we refused are messages as well.
        let queued = log.lines().filter(|line| line.contains("qmgr[") && line.contains(" (queue active)")).count();
        let by_evil = log.lines().filter(|line| line.contains("qmgr[") && line.contains("from=<evil@")).count();
        let ours = scratch.queued();
        let ours = &ours[already..];
        let evil = ours.iter().filter(|message| message.reverse_path.starts_with(b"evil")).count();
        assert!(!ours.is_empty() && ours.len() <= queued, "{} of {queued}, forbid={forbid}", ours.len());
        // Where Postfix takes a bare LF for a line end the second message is its own doing.
        assert!(evil <= by_evil && (forbid == "no" || by_evil == 0), "{evil} of {by_evil}, forbid={forbid}");
    }
}
