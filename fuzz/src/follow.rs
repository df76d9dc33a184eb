//! A plain reader of an SMTP or LMTP session, who has what was sent and what was answered: he goes from line to line, takes
//! the replies to each, and says what must have been queued, by whom, and what was in it.
//!
//! Of a line he believes the reply: whether an address is right is not his affair. But what a taken line means he knows by
//! himself, and how many replies belong to it.

use super::store::{Queued, Store};
use doorpost::channel::AUTHENTICATED;
use doorpost::lookup::Listed;
use doorpost::message::trace::{Client, Protocol};
use doorpost::submit::{Introduction, Policy};
use std::net::IpAddr;

/// Code and text.
pub type Reply = (u16, String);

/// Who is on the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub name: Option<String>,
    pub address: String,
}

impl Facts {
    /// Before anybody says otherwise.
    pub fn first() -> Facts {
        Facts { name: None, address: "192.0.2.1".to_owned() }
    }

    /// Whether an LF without CR is a line end for this client, as its address says.
    pub fn bare_newline(&self) -> Listed {
        match self.address.as_bytes().last() {
            Some(b'7') => Listed::Yes,
            Some(b'8') => Listed::CannotTell,
            _ => Listed::No,
        }
    }
}

/// What a session has to be followed.
pub struct Follower<'a> {
    /// What was sent and not looked at yet.
    pub rest: &'a [u8],
    /// What was answered, likewise.
    pub replies: &'a [Reply],
    pub is_lmtp: bool,
    /// Whether the client may say that it is another.
    pub xclient: Listed,
    pub line_length_limit: usize,
    state: State,
    queued: Vec<Expected>,
}

struct State {
    facts: Facts,
    /// Whether extensions were asked for, and what the client calls itself.
    hello: Option<(bool, Vec<u8>)>,
    has_logged_in: bool,
    transaction: Option<Transaction>,
    /// Replies to the last chunk of a message that is over.
    owed: usize,
}

#[derive(Default)]
struct Transaction {
    accepted: usize,
    broken: bool,
    may_be_binary: bool,
    chunks: Vec<u8>,
}

/// A message that was acknowledged: one of these contents.
struct Expected {
    introduction: Introduction,
    recipients: usize,
    contents: Vec<Vec<u8>>,
}

/// Whether it is the last one of a session.
fn closes(reply: &Reply) -> bool {
    matches!(reply.0, 221 | 421) || reply.0 >= 400 && reply.1.contains("closing the connection")
}

/// Whether it is to a line that is no command.
fn is_fault(reply: &Reply) -> bool {
    let words = [
        "A command was expected",
        "There are control characters",
        "That command is not known",
        "An argument is missing",
        "takes no argument",
        "The argument is not right",
        "The address is too long",
        "Expected <local-part@domain>",
        "neither ASCII nor UTF-8",
        "That parameter is not known",
        "That parameter is not right",
        "The line is too long",
    ];
    reply.0 >= 400 && words.iter().any(|words| reply.1.contains(words))
}

impl<'a> Follower<'a> {
    pub fn new(rest: &'a [u8], replies: &'a [Reply], is_lmtp: bool, xclient: Listed, line_length_limit: usize) -> Self {
        let state = State { facts: Facts::first(), hello: None, has_logged_in: false, transaction: None, owed: 0 };
        Follower { rest, replies, is_lmtp, xclient, line_length_limit, state, queued: Vec::new() }
    }

    /// Every line has as many replies as it must have, no more, and what was queued is what was acknowledged.
    pub fn check(mut self, queued: &[Queued]) {
        let mut last = self.answer();
        while !closes(&last) {
            // A TLS handshake is answered though it has no line end.
            if self.rest.first() == Some(&22) {
                last = self.answer();
                assert!(closes(&last), "TLS, and the session goes on");
                break;
            }
            let Some(line) = self.line() else { break };
            let Some(reply) = self.command(line) else { break };
            last = reply;
            if self.replies.first().is_some_and(|reply| reply.0 == 421 && reply.1.contains("Too many errors")) {
                last = self.answer();
            }
        }
        assert!(self.replies.is_empty(), "replies to nothing: {:?}", self.replies);
        assert_eq!(self.queued.len(), queued.len(), "acknowledged and queued");
        for (expected, queued) in self.queued.iter().zip(queued) {
            assert_eq!(expected.introduction, queued.introduction, "who sent it");
            assert_eq!(expected.recipients, queued.recipients.len(), "recipients that were accepted");
            assert!(
                expected.contents.contains(&queued.content),
                "queued and not sent: {}",
                queued.content.escape_ascii()
            );
        }
    }

    fn answer(&mut self) -> Reply {
        let (first, rest) = self.replies.split_first().expect("a reply is missing");
        self.replies = rest;
        first.clone()
    }

    /// The same words so many times.
    fn answers(&mut self, count: usize) -> Reply {
        let first = self.answer();
        for _ in 1..count {
            assert_eq!(self.answer(), first, "another reply for another recipient");
        }
        first
    }

    /// The next line; `Some(None)` where a CR or LF stands alone, and nothing where none has come to its end.
    fn line(&mut self) -> Option<Option<&'a [u8]>> {
        let rest = self.rest;
        if self.state.facts.bare_newline() == Listed::Yes {
            let at = rest.iter().position(|octet| *octet == b'\n')?;
            self.rest = &rest[at + 1..];
            return Some(Some(rest[..at].strip_suffix(b"\r").unwrap_or(&rest[..at])));
        }
        let at = rest.iter().position(|octet| matches!(octet, b'\r' | b'\n'))?;
        match (rest[at], rest.get(at + 1)) {
            (b'\r', Some(b'\n')) => {
                self.rest = &rest[at + 2..];
                Some(Some(&rest[..at]))
            }
            (b'\r', None) => None,
            _ => Some(None),
        }
    }

    /// Takes what belongs to a line; gives the last reply to it, or nothing where the client hung up before.
    fn command(&mut self, line: Option<&'a [u8]>) -> Option<Reply> {
        let Some(line) = line else { return Some(self.refused()) };
        let is_too_long = line.len() > self.line_length_limit;
        let end = line.iter().rposition(|octet| !matches!(octet, b' ' | b'\t')).map_or(0, |last| last + 1);
        let line = &line[..end];
        if let Some((size, last)) = chunk(line).filter(|_| !is_too_long) {
            return self.chunk(size, last);
        }
        let verb_end = line.iter().position(|octet| *octet == b' ').unwrap_or(end);
        let verb = line[..verb_end].to_ascii_uppercase();
        let argument = &line[verb_end..];
        let argument = &argument[argument.iter().take_while(|octet| **octet == b' ').count()..];
        let mut reply = self.answer();
        assert!(!reply.1.starts_with("2.0.0 Ok: queued as "), "a message was taken that was not sent");
        if !is_fault(&reply) {
            self.state.owed = 0;
        }
        let transaction = &mut self.state.transaction;
        match (&verb[..], reply.0) {
            (b"EHLO" | b"HELO" | b"LHLO", 250) => {
                assert_eq!(verb == b"LHLO", self.is_lmtp, "the greeting of another protocol");
                self.state.hello = Some((verb != b"HELO", argument.to_vec()));
                *transaction = None;
            }
            (b"MAIL", 250) => {
                assert!(transaction.is_none(), "a message in a message");
                let may_be_binary = argument.to_ascii_uppercase().windows(15).any(|word| word == b"BODY=BINARYMIME");
                *transaction = Some(Transaction { may_be_binary, ..Transaction::default() });
            }
            (b"RCPT", 250) => transaction.as_mut().expect("a recipient of no message").accepted += 1,
            (b"RCPT" | b"VRFY" | b"EXPN", 451) if reply.1.contains("Trouble here") => {
                if let Some(transaction) = transaction {
                    transaction.broken = true;
                }
            }
            (b"RSET", 250) => *transaction = None,
            (b"DATA", 354) => return self.data(),
            (b"XCLIENT", 220) => self.becomes(argument),
            (b"AUTH", _) => {
                while reply.0 == 334 {
                    let Some(_) = self.line()? else { return Some(self.refused()) };
                    reply = self.answer();
                }
                self.state.has_logged_in |= reply.0 == 235;
            }
            (_, 220 | 235 | 334 | 354) => panic!("{reply:?} to {}", line.escape_ascii()),
            _ => {}
        }
        Some(reply)
    }

    /// The reply to a CR or LF that stands alone in a command.
    fn refused(&mut self) -> Reply {
        let reply = self.answer();
        assert!(closes(&reply), "{reply:?} to a line end that is none");
        reply
    }

    /// One reply, or in LMTP one for each recipient.
    fn for_each(&self, accepted: usize) -> usize {
        if self.is_lmtp { accepted } else { 1 }
    }

    fn data(&mut self) -> Option<Reply> {
        let transaction = self.state.transaction.take().expect("a message without MAIL");
        assert!(transaction.accepted > 0 && transaction.chunks.is_empty(), "DATA where it cannot be");
        let is_lenient = self.state.facts.bare_newline() == Listed::Yes;
        let (mut content, mut at_line_start) = (Vec::new(), true);
        loop {
            let length = self.rest.iter().position(|octet| *octet == b'\n').map(|at| at + 1);
            let (line, rest) = self.rest.split_at(length.unwrap_or(self.rest.len()));
            let has_crlf = line.ends_with(b"\r\n");
            let text = line.strip_suffix(if has_crlf { &b"\r\n"[..] } else { b"\n" });
            let is_bare = match text {
                Some(text) => text.contains(&b'\r') || !(has_crlf || is_lenient),
                // A last CR may get its LF yet.
                None => line.strip_suffix(b"\r").unwrap_or(line).contains(&b'\r'),
            };
            if is_bare {
                let is_later = self.replies.first().is_some_and(|reply| reply.0 == 421);
                let reply = self.answers(if is_later { 1 } else { self.for_each(transaction.accepted) });
                assert!(closes(&reply), "{reply:?} to a line end that is none");
                return Some(reply);
            }
            let text = text?;
            self.rest = rest;
            if at_line_start && has_crlf && text == b"." {
                return Some(self.conclude(&transaction, vec![content]));
            }
            content.extend_from_slice(if at_line_start { text.strip_prefix(b".").unwrap_or(text) } else { text });
            content.push(b'\n');
            at_line_start = has_crlf;
        }
    }

    /// The end of a message for which there is somebody.
    fn conclude(&mut self, transaction: &Transaction, contents: Vec<Vec<u8>>) -> Reply {
        let reply = self.answers(self.for_each(transaction.accepted));
        if reply.0 == 250 {
            let id = Store::id(self.queued.len() + 1);
            assert_eq!(reply.1, format!("2.0.0 Ok: queued as {id}"));
            let introduction = self.state.introduction(self.is_lmtp);
            self.queued.push(Expected { introduction, recipients: transaction.accepted, contents });
        }
        reply
    }

    fn chunk(&mut self, size: u64, last: bool) -> Option<Reply> {
        let size = usize::try_from(size).ok().filter(|size| *size <= self.rest.len())?;
        let (octets, rest) = self.rest.split_at(size);
        self.rest = rest;
        let Some(mut transaction) = self.state.transaction.take() else {
            let count = if last { std::mem::take(&mut self.state.owed).max(1) } else { 1 };
            let reply = self.answers(count);
            assert_ne!(reply.0, 250, "a chunk of no message");
            return Some(reply);
        };
        if transaction.broken || transaction.accepted == 0 {
            let count = if last { self.for_each(transaction.accepted).max(1) } else { 1 };
            let reply = self.answers(count);
            assert_ne!(reply.0, 250, "a chunk for nobody");
            self.state.transaction = Some(transaction).filter(|_| !last);
            return Some(reply);
        }
        transaction.chunks.extend_from_slice(octets);
        if last {
            let mut contents = vec![as_lines(&transaction.chunks)];
            if transaction.may_be_binary {
                contents.push(transaction.chunks.clone());
            }
            return Some(self.conclude(&transaction, contents));
        }
        let reply = self.answer();
        if reply.0 == 250 {
            assert_eq!(reply.1, format!("2.0.0 {size} octets taken"));
            self.state.transaction = Some(transaction);
        } else {
            self.state.owed = if self.is_lmtp { transaction.accepted } else { 0 };
        }
        Some(reply)
    }

    /// After an XCLIENT that was taken: whatever it does not say of the session is not known any more.
    fn becomes(&mut self, argument: &[u8]) {
        assert_eq!(self.xclient, Listed::Yes, "somebody speaks for others who is not listed");
        assert!(self.state.transaction.is_none(), "XCLIENT in a message");
        let mut facts = self.state.facts.clone();
        let (mut name, mut helo, mut is_esmtp, mut has_logged_in) = (None, None, true, false);
        for word in argument.split(|octet| *octet == b' ').filter(|word| !word.is_empty()) {
            let at = word.iter().position(|octet| *octet == b'=').expect("an attribute");
            let value = &word[at + 1..];
            let is_there =
                !value.eq_ignore_ascii_case(b"[UNAVAILABLE]") && !value.eq_ignore_ascii_case(b"[TEMPUNAVAIL]");
            let value = || is_there.then(|| from_xtext(value));
            match &word[..at].to_ascii_uppercase()[..] {
                b"ADDR" => {
                    let address = value().map(|value| address(&value));
                    facts = Facts { name: None, address: address.unwrap_or_else(|| "unknown".to_owned()) };
                }
                b"NAME" => name = Some(value().map(|value| value.to_ascii_lowercase())),
                b"HELO" => helo = value().map(String::into_bytes),
                b"PROTO" => is_esmtp = value().is_none_or(|value| !value.eq_ignore_ascii_case("SMTP")),
                b"LOGIN" => has_logged_in = is_there,
                _ => {}
            }
        }
        // Whichever stood first on the line: the name is that of the new address.
        facts.name = name.unwrap_or(facts.name);
        self.state =
            State { facts, hello: helo.map(|name| (is_esmtp, name)), has_logged_in, transaction: None, owed: 0 };
    }
}

impl State {
    fn introduction(&self, is_lmtp: bool) -> Introduction {
        let protocol = match &self.hello {
            _ if is_lmtp => Protocol::lmtp(false, self.has_logged_in),
            Some((true, _)) => Protocol::esmtp(false, self.has_logged_in),
            Some((false, _)) | None => Protocol::Smtp,
        };
        Introduction {
            channel: if self.has_logged_in { AUTHENTICATED } else { "smtp" }.to_owned(),
            policy: Policy::Channels,
            protocol,
            client: Client {
                helo: self.hello.as_ref().map(|(_, name)| name.clone()),
                name: self.facts.name.clone(),
                address: self.facts.address.clone(),
                tls: None,
            },
        }
    }
}

/// The size that a line with `BDAT` announces, and whether it is the last.
fn chunk(line: &[u8]) -> Option<(u64, bool)> {
    let words: Vec<_> = line.split(|octet| *octet == b' ').collect();
    let (verb, words) = words.split_first()?;
    let words: Vec<_> = words.iter().filter(|word| !word.is_empty()).collect();
    let (digits, is_last) = match words[..] {
        [digits] => (digits, false),
        [digits, last] if last.eq_ignore_ascii_case(b"LAST") => (digits, true),
        _ => return None,
    };
    let is_size = verb.eq_ignore_ascii_case(b"BDAT") && digits.len() < 20 && digits.iter().all(u8::is_ascii_digit);
    let size = std::str::from_utf8(digits).ok().filter(|_| is_size)?.parse().ok()?;
    Some((size, is_last))
}

/// Line ends as they are stored, and one behind a last line without.
fn as_lines(octets: &[u8]) -> Vec<u8> {
    let mut lines = Vec::new();
    for line in octets.split_inclusive(|octet| *octet == b'\n') {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        lines.extend_from_slice(text.strip_suffix(b"\r").unwrap_or(text));
        lines.push(b'\n');
    }
    lines
}

/// RFC 3461 section 4: `+` and two digits are an octet.
fn from_xtext(value: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = value;
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        let mut octet = *first;
        if octet == b'+' {
            let (digits, behind) = rest.split_at(2);
            octet = u8::from_str_radix(std::str::from_utf8(digits).expect("digits"), 16).expect("digits");
            rest = behind;
        }
        text.push(char::from(octet));
    }
    text
}

/// As logs and Received fields show it.
fn address(text: &str) -> String {
    let begin = text.get(..5).filter(|begin| begin.eq_ignore_ascii_case("IPv6:")).map_or(0, str::len);
    text[begin..].parse::<IpAddr>().expect("an address").to_canonical().to_string()
}
