//! A client of smtpsrvr that logs in.

use super::Scratch;
use super::tls::Client;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::process::Command;

pub const LOGIN: &str = "smtpd_sasl_auth_enable = yes\nauth_failure_delay = 0";

pub fn encoded(octets: impl AsRef<[u8]>) -> String {
    BASE64_STANDARD.encode(octets)
}

pub fn plain(user: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", encoded(format!("\0{user}\0{password}")))
}

/// What EHLO lists, joined.
pub fn extensions(client: &mut Client) -> String {
    client.say("EHLO c.example");
    client.reply().iter().skip(1).map(|line| format!("{}|", &line[4..])).collect()
}

/// A client that has had the greeting.
pub fn greeted(mut client: Client) -> Client {
    assert_eq!(client.line(), "220 mx.example ESMTP doorpost");
    client
}

/// The same from another machine and under TLS.
pub fn under_tls(command: &mut Command) -> Client {
    let mut client = greeted(Client::from_afar(command));
    assert!(client.ask("STARTTLS").starts_with("220 "));
    client.start_tls();
    client
}

pub fn submission(scratch: &Scratch) -> Command {
    let mut command = scratch.command("smtpsrvr");
    command.arg("--submission");
    command
}

/// Sends a message, and gives the replies to MAIL, RCPT, DATA and the end.
pub fn send(client: &mut Client, from: &str, to: &str, text: &str) -> Vec<String> {
    let mut replies = Vec::new();
    for line in [format!("MAIL FROM:<{from}>"), format!("RCPT TO:<{to}>"), "DATA".to_owned(), format!("{text}\r\n.")] {
        replies.push(client.ask(&line));
        if !replies.last().is_some_and(|reply| reply.starts_with(['2', '3'])) {
            break;
        }
    }
    replies
}
