//! A whole POP3 session, on a maildrop of four messages.
//!
//! User `alice` has the password `secret`; with another name nobody can tell, with another password it is wrong. A
//! small model walks through commands and replies side by side and knows what must be marked at QUIT and which octets
//! each message has. Challenges are always the same, so that it also knows what answers them (`login.rs`).

use super::login::{self, Exchange, Expected};
use super::wire::{Wire, lines};
use doorpost::lookup::Lookup;
use doorpost::mailbox::{Entry, Maildrop};
use doorpost::net::peer::{Origin, Peer};
use doorpost::pop3::server::session;
use doorpost::sasl::{Credentials, Proof};
use std::cell::{Cell, RefCell};
use std::io;
use std::time::Duration;

const MESSAGES: [&[u8]; 4] = [
    b"Subject: one\n\n.leading dot\n..two\n.\nend\n",
    b"Subject: two\r\n\r\nCR LF on disk\r\nand no end",
    b"",
    b"no header\rCR alone\r\r\nlast\r",
];

/// The maildrop, which remembers what was removed.
struct Drop<'a> {
    entries: Vec<Entry>,
    removed: &'a RefCell<Option<Vec<usize>>>,
}

impl Maildrop for Drop<'_> {
    fn count(&self) -> usize {
        self.entries.len()
    }

    fn total(&self) -> u64 {
        self.entries.iter().map(|entry| entry.octets).sum()
    }

    fn entry(&self, number: usize) -> io::Result<Entry> {
        Ok(self.entries[number].clone())
    }

    fn open(&self, number: usize) -> io::Result<Box<dyn io::Read>> {
        Ok(Box::new(MESSAGES[number]))
    }

    fn remove(&mut self, numbers: &[usize]) -> io::Result<usize> {
        assert!(!numbers.is_empty(), "asked to remove nothing");
        assert!(self.removed.replace(Some(numbers.to_vec())).is_none(), "asked to remove twice");
        Ok(0)
    }
}

/// As POP3 sends it, without the dots: line ends CR LF, the last one too.
fn sent(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in message.split_inclusive(|octet| *octet == b'\n') {
        match (line.strip_suffix(b"\r\n"), line.strip_suffix(b"\n")) {
            (Some(text), _) | (None, Some(text)) => out.extend_from_slice(text),
            (None, None) => out.extend_from_slice(line),
        }
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Each line has its reply; what is removed is what was marked and confirmed by QUIT; messages and listings are complete
/// and exact; no other way of cutting the input changes anything.
pub fn pop3_session(input: &[u8]) {
    modelled(input, false);
    let (output, removed, entered) = modelled(input, true);
    for way in 1..3 {
        let again = session_with(input, way, true);
        assert_eq!(output.escape_ascii().to_string(), again.0.escape_ascii().to_string(), "the pieces matter");
        assert_eq!((&removed, entered), (&again.1, again.2), "the pieces matter");
    }
}

/// What was said, what was removed, and whether somebody was let in.
type Ended = (Vec<u8>, Option<Vec<usize>>, bool);

fn modelled(input: &[u8], secrets: bool) -> Ended {
    let (output, removed, entered) = session_with(input, 0, secrets);
    let model = Model { rest: lines(&output), marked: [false; 4], secrets, inside: false };
    assert_eq!(removed.clone().unwrap_or_default(), model.walk(input, entered), "removed and marked");
    (output, removed, entered)
}

/// The rounds of SCRAM are only paid where the proof is the one that may fit: a wrong one is wrong.
fn fits(proof: &Proof) -> Option<Vec<u8>> {
    match proof {
        Proof::ScramSha256 { proof, .. } if doorpost::sasl::encode(proof) != login::SCRAM_PROOF => None,
        proof => proof.fits(b"secret"),
    }
}

fn session_with(input: &[u8], way: u64, secrets: bool) -> Ended {
    let (removed, entered) = (RefCell::new(None), Cell::new(false));
    let mut wire = Wire::new(input, way);
    let check = |credentials: &Credentials| match (&credentials.name[..], fits(&credentials.proof)) {
        (b"alice", Some(last_words)) => {
            entered.set(true);
            let unique_id = |number| format!("id-{number}");
            let entry = |(number, message): (usize, &&[u8])| Entry {
                octets: sent(message).len() as u64,
                unique_id: unique_id(number),
            };
            let entries = MESSAGES.iter().enumerate().map(entry).collect();
            Lookup::Yes((Drop { entries, removed: &removed }, last_words))
        }
        (b"alice", None) => Lookup::No,
        _ => Lookup::CannotTell("as ordered".to_owned()),
    };
    let (peer, timeout) = (Peer::new(Origin::Stdin), Duration::from_secs(60));
    session(&mut wire, &peer, timeout, secrets, || Some(login::NONCE.to_owned()), check).expect("a session ends well");
    (wire.output, removed.take(), entered.get())
}

/// What the replies must be, as far as a few lines of code can know.
struct Model<'a> {
    rest: Vec<&'a [u8]>,
    marked: [bool; 4],
    secrets: bool,
    inside: bool,
}

impl Model<'_> {
    /// Gives what must have been removed.
    fn walk(mut self, input: &[u8], entered: bool) -> Vec<usize> {
        let stamp = if self.secrets { format!(" {}", login::STAMP) } else { String::new() };
        assert_eq!(self.line(), format!("+OK doorpost POP3 ready{stamp}").as_bytes());
        let mut exchange: Option<Exchange> = None;
        for line in input.split_inclusive(|octet| *octet == b'\n') {
            let Some(line) = line.strip_suffix(b"\n") else { break };
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if self.rest.is_empty() {
                // Closed by the server.
                break;
            }
            if let Some(begun) = exchange.as_mut() {
                begun.hear(line);
                if self.answered(begun) {
                    exchange = None;
                }
                continue;
            }
            let words: Vec<&[u8]> =
                line.split(|octet| matches!(octet, b' ' | b'\t')).filter(|w| !w.is_empty()).collect();
            let verb = line.split(|octet| *octet == b' ').next().unwrap_or_default().to_ascii_uppercase();
            let shown = line.len() <= login::LONGEST_COMMAND && verb == b"AUTH" && !self.inside;
            if let Some(mut begun) = shown.then(|| Exchange::begin(&words, self.secrets)).flatten() {
                exchange = (!self.answered(&mut begun)).then_some(begun);
                continue;
            }
            let status = self.line();
            let ok = status.starts_with(b"+OK");
            assert!(ok || status.starts_with(b"-ERR "), "{}", status.escape_ascii());
            assert!(status.len() <= 510, "a long reply");
            assert!(line.len() <= login::LONGEST_COMMAND || !ok, "a line of {} octets was taken", line.len());
            match (&verb[..], ok) {
                (b"QUIT", true) => {
                    assert!(self.rest.is_empty(), "replies behind the goodbye");
                    assert_eq!(self.inside, entered, "let in and told so");
                    let marked = (0..4).filter(|index| self.inside && self.marked[*index]);
                    return marked.collect();
                }
                (b"PASS", true) => self.inside = true,
                (b"APOP", _) => {
                    let right = self.secrets && !self.inside && login::is_right_apop(line);
                    assert_eq!(ok, right, "APOP");
                    self.inside |= ok;
                }
                (b"AUTH", ok) => {
                    let listed = words.len() == 1 && !self.inside && line.len() <= login::LONGEST_COMMAND;
                    assert_eq!(ok, listed, "AUTH");
                    if ok {
                        let names = login::mechanisms(self.secrets).join("\r\n");
                        assert_eq!(self.listing(), format!("{names}\r\n").as_bytes(), "the mechanisms");
                    }
                }
                (b"UTF8", ok) => {
                    assert_eq!(ok, words.len() == 1 && !self.inside && line.len() <= login::LONGEST_COMMAND, "UTF8");
                }
                (b"LANG", true) if words.len() == 1 => {
                    assert_eq!(self.listing(), b"en English\r\ni-default English\r\n", "the languages");
                }
                (b"LANG", true) => {
                    let tag = status.split(|octet| *octet == b' ').nth(1).expect("a tag");
                    assert!(matches!(tag, b"en" | b"i-default") && words.len() == 2, "{}", status.escape_ascii());
                }
                (b"CAPA", true) => {
                    let sasl = format!("\r\nSASL {}\r\n", login::mechanisms(self.secrets).join(" ")).into_bytes();
                    let listing = self.listing();
                    assert!(listing.windows(sasl.len()).any(|here| here == sasl), "{}", listing.escape_ascii());
                }
                (b"DELE", true) => self.marked[index(words[1])] = true,
                (b"RSET", true) => self.marked = [false; 4],
                (b"RETR", true) => assert_eq!(self.listing(), sent(MESSAGES[index(words[1])])),
                (b"TOP", true) => {
                    let (top, whole) = (self.listing(), sent(MESSAGES[index(words[1])]));
                    assert!(whole.starts_with(&top), "TOP is no beginning");
                }
                (b"LIST" | b"UIDL", true) if words.len() == 1 => {
                    let left = self.marked.iter().filter(|marked| !**marked).count();
                    assert_eq!(self.listing().split_inclusive(|octet| *octet == b'\n').count(), left);
                }
                (b"STAT", true) => {
                    let left = (0..4).filter(|index| !self.marked[*index]).map(|index| sent(MESSAGES[index]).len());
                    let octets = left.clone().sum::<usize>();
                    assert_eq!(status, format!("+OK {} {octets}", left.count()).as_bytes());
                }
                _ => {}
            }
        }
        assert!(self.rest.is_empty(), "{} lines too many", self.rest.len());
        assert_eq!(self.inside, entered, "let in and told so");
        Vec::new()
    }

    /// Looks at the reply to what an exchange has come to; whether it is over.
    fn answered(&mut self, exchange: &mut Exchange) -> bool {
        let status = self.line();
        assert!(status.len() <= 510, "a long reply");
        let expected = exchange.expected();
        let shown = status.escape_ascii();
        match &expected {
            Expected::Prompt(text) => assert_eq!(status, [b"+ ", text.as_bytes()].concat(), "{shown}"),
            Expected::Any => assert!(status.starts_with(b"+ ") || status.starts_with(b"-ERR "), "{shown}"),
            Expected::In => assert!(status.starts_with(b"+OK "), "{shown}"),
            Expected::Refused => assert!(status.starts_with(b"-ERR "), "{shown}"),
        }
        // What SCRAM says last follows the verdict.
        self.inside |= expected == Expected::In || expected == Expected::Prompt(login::SCRAM_LAST.to_owned());
        !status.starts_with(b"+ ")
    }

    fn line(&mut self) -> Vec<u8> {
        self.rest.remove(0).to_vec()
    }

    /// The lines up to the dot, with their ends, without the dots that were added.
    fn listing(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            let line = self.line();
            if line == b"." {
                return out;
            }
            let text = line.strip_prefix(b".").unwrap_or(&line);
            out.extend_from_slice(text);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// A number the server has taken.
fn index(word: &[u8]) -> usize {
    let number: usize = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok()).expect("a number");
    assert!((1..=4).contains(&number), "message {number} is none");
    number - 1
}
