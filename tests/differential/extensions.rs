//! What extensions add to a session: logins (RFC 4954), messages in chunks (RFC 3030); and packages of QMQP.

use super::generate::{LINES, Step, command, content};
use crate::common::chance::Chance;

/// Logins, each as what the client says one after another; all but the first answer a 334. bob's password is `secret`.
const LOGINS: &[(&str, &[&str])] = &[
    ("auth-plain", &["AUTH PLAIN AGJvYgBzZWNyZXQ="]),
    ("auth-plain", &["auth plain AGJvYgBzZWNyZXQ="]),
    ("auth-plain-challenged", &["AUTH PLAIN", "AGJvYgBzZWNyZXQ="]),
    ("auth-login", &["AUTH LOGIN", "Ym9i", "c2VjcmV0"]),
    ("auth-login-initial", &["AUTH LOGIN Ym9i", "c2VjcmV0"]),
    ("auth-plain-wrong-password", &["AUTH PLAIN AGJvYgB3cm9uZw=="]),
    ("auth-plain-nobody", &["AUTH PLAIN AG5vYm9keS1oZXJlAHNlY3JldA=="]),
    ("auth-login-wrong-password", &["AUTH LOGIN", "Ym9i", "d3Jvbmc="]),
    ("auth-plain-for-another", &["AUTH PLAIN YWxpY2UAYm9iAHNlY3JldA=="]),
    ("auth-plain-empty", &["AUTH PLAIN ="]),
    ("auth-plain-no-base64", &["AUTH PLAIN !!!"]),
    ("auth-plain-one-nul", &["AUTH PLAIN Ym9iAHNlY3JldA=="]),
    ("auth-plain-blank-behind", &["AUTH PLAIN AGJvYgBzZWNyZXQ= x"]),
    ("auth-given-up", &["AUTH PLAIN", "*"]),
    ("auth-given-up", &["AUTH LOGIN", "Ym9i", "*"]),
    ("auth-response-no-base64", &["AUTH PLAIN", "!!!"]),
    ("auth-response-empty", &["AUTH PLAIN", ""]),
    ("auth-mechanism-unknown", &["AUTH FROBNICATE"]),
    ("auth-bare", &["AUTH"]),
];

/// One of them.
pub fn login(chance: &mut Chance, steps: &mut Vec<Step>) {
    let among = if chance.percent(60) { 5 } else { LOGINS.len() };
    let (shape, said) = LOGINS[chance.below(among)];
    for (number, line) in said.iter().enumerate() {
        steps.push(Step { is_content: number > 0, ..command(shape, line) });
    }
}

/// BDAT commands, each with its chunk behind it (RFC 3030), and what they must not be.
const CHUNKS: &[(&str, &str)] = &[
    ("bdat-letters", "BDAT x LAST"),
    ("bdat-minus", "BDAT -1 LAST"),
    ("bdat-plus", "BDAT +0 LAST"),
    ("bdat-bare", "BDAT"),
    ("bdat-not-last", "BDAT 0 FIRST"),
    ("bdat-three-words", "BDAT 0 LAST now"),
    ("bdat-huge", "BDAT 99999999999999999999 LAST"),
];

/// A message in chunks.
pub fn chunks(chance: &mut Chance, steps: &mut Vec<Step>, mark: &str) {
    if chance.percent(4) {
        let (shape, line) = CHUNKS[chance.below(CHUNKS.len())];
        steps.push(command(shape, line));
        return;
    }
    let mut text = format!("X-Mark: {mark}\r\nSubject: in chunks\r\n\r\n").into_bytes();
    for _ in 0..chance.below(6) {
        text.extend(LINES[chance.below(7)].1);
        text.extend(b"\r\n");
    }
    let mut shape = "bdat";
    if chance.percent(10) {
        let (name, more): (&str, &[u8]) = [
            ("bdat-bare-lf", &b"one\ntwo\r\n"[..]),
            ("bdat-bare-cr", b"one\rtwo\r\n"),
            ("bdat-no-last-line-end", b"no end"),
            ("bdat-dot", b".\r\nbehind a dot\r\n"),
            ("bdat-too-large", &[b'L'; 201_000]),
        ][chance.below(5)];
        shape = name;
        text.extend(more);
        text.extend(if name == "bdat-too-large" { &b"\r\n"[..] } else { b"" });
    }
    let mut kept: Vec<u8> = text.clone();
    kept.extend(if kept.ends_with(b"\n") { &b""[..] } else { b"\r\n" });
    kept.retain(|octet| *octet != b'\r');
    let mut rest = &text[..];
    for _ in 0..chance.below(3) {
        let (chunk, behind) = rest.split_at(chance.below(rest.len() + 1));
        let command = format!("BDAT {}\r\n", chunk.len()).into_bytes();
        let shape = if chunk.is_empty() { "bdat-null" } else { shape };
        steps.push(Step { shape, octets: [&command, chunk].concat(), is_content: false, kept: Vec::new() });
        rest = behind;
        aside_in_chunks(chance, steps);
    }
    let command = format!("{} {} LAST\r\n", if chance.percent(5) { "bdat" } else { "BDAT" }, rest.len()).into_bytes();
    steps.push(Step { shape, octets: [&command, rest].concat(), is_content: false, kept });
}

/// What a client may or must not say between two chunks.
fn aside_in_chunks(chance: &mut Chance, steps: &mut Vec<Step>) {
    if chance.percent(4) {
        let (shape, line) = [
            ("bdat-noop", "NOOP"),
            ("bdat-rset", "RSET"),
            ("bdat-data", "DATA"),
            ("bdat-mail", "MAIL FROM:<alice@client.example>"),
            ("bdat-rcpt", "RCPT TO:<carol@mx.example>"),
        ][chance.below(5)];
        steps.push(command(shape, line));
    }
}

/// A message for QMQP: what is special about it, content with LF, sender, recipients.
pub fn package(chance: &mut Chance, mark: &str) -> (&'static str, Vec<u8>, &'static str, Vec<&'static str>) {
    let Step { shape, octets, kept, .. } = content(chance, mark);
    // Not the attacks on SMTP's framing, which QMQP has not; they are octets like others here.
    let raw = octets.strip_suffix(b".\r\n").unwrap_or(&octets).to_vec();
    let (shape, content) = match shape {
        // Not for the limit of QMQP here: a header with a line that is no field.
        "too-large" => ("field-without-colon", kept),
        "bare-lf" | "bare-cr" | "lf-dot-lf" | "lf-dot-crlf" | "crlf-dot-lf" | "crcrlf" => ("crlf-content", raw),
        shape => (shape, kept),
    };
    let sender = ["alice@client.example", "alice@client.example", "bob@mx.example", ""][chance.below(4)];
    let all = ["bob@mx.example", "carol@mx.example", "alice@mx.example"];
    let first = chance.below(all.len());
    let recipients = (first..=first + chance.below(all.len())).map(|number| all[number % all.len()]).collect();
    (shape, content, sender, recipients)
}
