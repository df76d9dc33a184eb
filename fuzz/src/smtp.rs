//! A whole SMTP session.
//!
//! The first octet of the input sets the scene (`Scene`), the rest is what the client sends.

use super::store::{Queued, Store};
use super::wire::{Wire, lines};
use doorpost::auth::gate::Right;
use doorpost::config::value::CommandWord;
use doorpost::lookup::{Listed, Lookup};
use doorpost::message::path::Address;
use doorpost::net::tls::Offer;
use doorpost::sasl::{Credentials, Proof};
use doorpost::smtp::server::{Settings, serve};
use doorpost::smtp::session;
use doorpost::smtp::site::Site;
use doorpost::submit::Policy;
use std::time::Duration;

/// What the first octet says: its bits turn on small limits and special answers.
struct Scene(u8);

impl Scene {
    fn has(&self, bit: u8) -> bool {
        self.0 & 1 << bit != 0
    }

    fn settings<'a>(&self, forbidden: &'a [CommandWord]) -> Settings<'a> {
        Settings {
            session: session::Settings {
                hostname: "mx.example",
                message_size_limit: if self.has(0) { 100 } else { 0 },
                recipient_limit: if self.has(1) { 2 } else { 100 },
                announced_recipients: 100,
                error_limit: if self.has(2) { 3 } else { 0 },
                junk_limit: if self.has(2) { 3 } else { 100 },
                transaction_limit: 0,
                tls: session::Tls::Never,
                dialect: session::Dialect::Smtp,
                login: if self.has(0) { session::Login::Always } else { session::Login::Never },
                vrfy: true,
                xclient: Listed::No,
                discarded: &[],
            },
            timeout: Duration::from_secs(300),
            min_data_rate: 0,
            line_length_limit: if self.has(3) { 60 } else { 2048 },
            soft_bounce: self.has(4),
            // It asks whether more has come already, which is the one thing that depends on the pieces.
            forbid_early: false,
            greet_wait: Duration::ZERO,
            bare_newline: Listed::No,
            soft_errors: (10, Duration::ZERO),
            dropped: &[],
            forbidden,
            finicky: self.has(5),
        }
    }
}

impl Site for Scene {
    fn channel(&self) -> Lookup<(String, Policy)> {
        match (self.has(6), self.has(7)) {
            (true, true) => Lookup::CannotTell("as ordered".to_owned()),
            (true, false) => Lookup::No,
            (false, _) => Lookup::Yes(("smtp".to_owned(), Policy::Channels)),
        }
    }

    fn client(&self) -> (Option<String>, String) {
        (None, "192.0.2.1".to_owned())
    }

    fn check(&self, credentials: &Credentials) -> Lookup<Right> {
        // Nobody is let in but this one, whatever the mechanism made of what it said.
        if credentials.name == b"bob" && matches!(&credentials.proof, Proof::Password(secret) if secret.0 == b"secret")
        {
            Lookup::Yes(Right { name: credentials.name.clone(), last_words: Vec::new() })
        } else {
            Lookup::No
        }
    }

    fn here(&self, address: &Address) -> Option<Address> {
        self.has(7).then(|| address.clone())
    }
}

/// Replies are well-formed, one for each line at the most; messages are queued as often as an end of data was answered
/// with 250, each was sent just so, and no other way of cutting the input into pieces changes any of it.
pub fn smtp_session(input: &[u8]) {
    let Some((scene, input)) = input.split_first() else { return };
    let (output, queued) = session_with(&Scene(*scene), input, 0);
    let replies = replies(&output);
    // One for each line, the greeting, and one when we close.
    let most = 2 + input.iter().filter(|octet| matches!(octet, b'\n' | b'\r')).count() + 1;
    assert!(replies.len() <= most, "{} replies to {}", replies.len(), input.escape_ascii());
    let in_chunks = input.windows(4).any(|window| window.eq_ignore_ascii_case(b"BDAT"));
    one_for_each_end_of_data(&replies, &queued, in_chunks);
    if in_chunks {
        sent_in_order(input, &queued);
    } else {
        sent_just_so(input, &queued);
    }
    for way in 1..3 {
        let (again, queued_again) = session_with(&Scene(*scene), input, way);
        assert_eq!(
            output.escape_ascii().to_string(),
            again.escape_ascii().to_string(),
            "the pieces change the replies"
        );
        assert_eq!(queued, queued_again, "the pieces change what is queued");
    }
}

fn session_with(scene: &Scene, input: &[u8], way: u64) -> (Vec<u8>, Vec<Queued>) {
    let (mut wire, mut store) = (Wire::new(input, way), Store::default());
    let forbidden = ["GET", "POST"].map(|word| CommandWord(word.to_owned()));
    serve(&mut wire, &mut &mut store, scene, &scene.settings(&forbidden), Offer::None).expect("a session ends well");
    assert!(!store.is_waiting(), "a message was neither committed nor abandoned");
    (wire.output, store.queued)
}

/// Code and text of each reply; lines of one reply are joined.
fn replies(output: &[u8]) -> Vec<(u16, String)> {
    let mut replies: Vec<(u16, String)> = Vec::new();
    let mut goes_on = false;
    for line in lines(output) {
        assert!(line.len() <= 510, "a line of {} octets", line.len());
        assert!(line.iter().all(|octet| matches!(octet, b' '..=b'~')), "octets in {}", line.escape_ascii());
        let line = std::str::from_utf8(line).expect("ASCII");
        let code: u16 = line.get(..3).and_then(|digits| digits.parse().ok()).expect("three digits");
        assert!((200..600).contains(&code), "{line}");
        let text = &line[4..];
        match (goes_on, replies.last_mut()) {
            (true, Some(last)) => {
                assert_eq!(last.0, code, "two codes in one reply");
                last.1.push_str(text);
            }
            _ => replies.push((code, text.to_owned())),
        }
        goes_on = match line.as_bytes()[3] {
            b'-' => true,
            b' ' => false,
            other => panic!("{other} behind the code"),
        };
    }
    assert!(!goes_on, "the last reply has no last line");
    replies
}

/// In chunks a message has no 354.
fn one_for_each_end_of_data(replies: &[(u16, String)], queued: &[Queued], in_chunks: bool) {
    let mut taken = 0;
    let mut in_data = false;
    for (code, text) in replies {
        let is_queued = *code == 250 && text.starts_with("2.0.0 Ok: queued as ");
        assert!(in_data || in_chunks || !is_queued, "a message was taken that was not sent");
        if (in_data && *code == 250) || is_queued {
            taken += 1;
            assert!(is_queued && text.ends_with(&format!(" {}", Store::id(taken))), "{text}");
        }
        in_data = *code == 354;
    }
    assert_eq!(taken, queued.len(), "taken and queued");
}

/// Each queued message is in the input behind the one before it: its lines, each with or without one dot more in front,
/// and then the line with nothing but a dot.
fn sent_just_so(input: &[u8], queued: &[Queued]) {
    let mut lines: Vec<&[u8]> = input.split_inclusive(|octet| *octet == b'\n').collect();
    for message in queued {
        assert!(!message.recipients.is_empty(), "queued for nobody");
        assert!(!message.content.contains(&b'\r'), "a CR in the content");
        assert!(message.content.is_empty() || message.content.ends_with(b"\n"), "a last line without an end");
        let content: Vec<&[u8]> = message.content.split_inclusive(|octet| *octet == b'\n').collect();
        let is_here = |here: &[&[u8]]| {
            let texts = here.iter().map(|line| line.strip_prefix(b".").unwrap_or(line).strip_suffix(b"\r\n"));
            texts.eq(content.iter().map(|line| line.strip_suffix(b"\n")))
        };
        let end = (content.len()..lines.len())
            .find(|end| lines[*end] == b".\r\n" && is_here(&lines[end - content.len()..*end]))
            .unwrap_or_else(|| panic!("queued and not sent: {}", message.content.escape_ascii()));
        lines.drain(..=end);
    }
}

/// The same where some messages may have come in chunks: each is in the input behind the one before it, as lines or as
/// the octets behind one `BDAT` after the other up to a `LAST`.
fn sent_in_order(input: &[u8], queued: &[Queued]) {
    let mut from = 0;
    for message in queued {
        assert!(!message.recipients.is_empty(), "queued for nobody");
        // What follows a chunk may begin in the middle of a line.
        let ends = (from..input.len()).filter_map(|at| {
            let rest = &input[at..];
            let length = as_lines(rest, &message.content).or_else(|| as_chunks(rest, &message.content));
            length.map(|length| at + length)
        });
        from = ends.min().unwrap_or_else(|| panic!("queued and not sent: {}", message.content.escape_ascii()));
    }
}

/// How long the content is as DATA sends it, if it is at the beginning.
fn as_lines(input: &[u8], content: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut next = || {
        let line = input[at..].split_inclusive(|octet| *octet == b'\n').next()?;
        at += line.len();
        line.strip_suffix(b"\r\n")
    };
    for line in content.split_inclusive(|octet| *octet == b'\n') {
        let sent = next()?;
        if sent.strip_prefix(b".").unwrap_or(sent) != line.strip_suffix(b"\n")? {
            return None;
        }
    }
    (next()? == b".").then_some(at)
}

/// How long the chunks are that make the content, and what stands between them, if the first of them is at the beginning.
fn as_chunks(input: &[u8], content: &[u8]) -> Option<usize> {
    // What a line ends with is written in one way, and a last line gets its end.
    let plain = |octets: &[u8]| -> Vec<u8> {
        let all: Vec<u8> = octets.iter().copied().filter(|octet| *octet != b'\r').collect();
        all.strip_suffix(b"\n").map_or_else(|| all.clone(), <[u8]>::to_vec)
    };
    let (mut at, mut found) = (0, Vec::new());
    chunk(input.split(|octet| *octet == b'\n').next()?)?;
    while at < input.len() {
        let line = input[at..].split_inclusive(|octet| *octet == b'\n').next()?;
        at += line.len();
        let Some((size, is_last)) = chunk(line) else { continue };
        found.extend_from_slice(input.get(at..at.checked_add(size)?)?);
        at += size;
        if is_last {
            return (plain(&found) == plain(content)).then_some(at);
        }
    }
    None
}

/// The size that a line with `BDAT` announces, and whether it is the last.
fn chunk(line: &[u8]) -> Option<(usize, bool)> {
    let words: Vec<_> = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
    let size = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse().ok();
    match &words[..] {
        [verb, digits] if verb.eq_ignore_ascii_case(b"BDAT") => Some((size(digits)?, false)),
        [verb, digits, last] if verb.eq_ignore_ascii_case(b"BDAT") && last.eq_ignore_ascii_case(b"LAST") => {
            Some((size(digits)?, true))
        }
        _ => None,
    }
}
