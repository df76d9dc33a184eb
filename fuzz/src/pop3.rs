//! A whole POP3 session, on a maildrop of four messages.
//!
//! User `alice` has the password `secret`; with another name nobody can tell, with another password it is wrong. A
//! small model walks through commands and replies side by side and knows what must be marked at QUIT and which octets
//! each message has.

use super::wire::{Wire, lines};
use doorpost::lookup::Lookup;
use doorpost::mailbox::{Entry, Maildrop};
use doorpost::net::peer::{Origin, Peer};
use doorpost::pop3::server::session;
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
    let (output, removed, entered) = session_with(input, 0);
    let marked = Model { rest: lines(&output), marked: [false; 4] }.walk(input, entered);
    assert_eq!(removed.clone().unwrap_or_default(), marked, "removed and marked");
    for way in 1..3 {
        let again = session_with(input, way);
        assert_eq!(output.escape_ascii().to_string(), again.0.escape_ascii().to_string(), "the pieces matter");
        assert_eq!((&removed, entered), (&again.1, again.2), "the pieces matter");
    }
}

fn session_with(input: &[u8], way: u64) -> (Vec<u8>, Option<Vec<usize>>, bool) {
    let (removed, entered) = (RefCell::new(None), Cell::new(false));
    let mut wire = Wire::new(input, way);
    let check = |name: &[u8], secret: &doorpost::wire::secret::Secret| match (name, &secret.0[..]) {
        (b"alice", b"secret") => {
            entered.set(true);
            let unique_id = |number| format!("id-{number}");
            let entry = |(number, message): (usize, &&[u8])| Entry {
                octets: sent(message).len() as u64,
                unique_id: unique_id(number),
            };
            Lookup::Yes(Drop { entries: MESSAGES.iter().enumerate().map(entry).collect(), removed: &removed })
        }
        (b"alice", _) => Lookup::No,
        _ => Lookup::CannotTell("as ordered".to_owned()),
    };
    session(&mut wire, &Peer::new(Origin::Stdin), Duration::from_secs(60), check).expect("a session ends well");
    (wire.output, removed.take(), entered.get())
}

/// What the replies must be, as far as a few lines of code can know.
struct Model<'a> {
    rest: Vec<&'a [u8]>,
    marked: [bool; 4],
}

impl Model<'_> {
    /// Gives what must have been removed.
    fn walk(mut self, input: &[u8], entered: bool) -> Vec<usize> {
        assert_eq!(self.line(), b"+OK doorpost POP3 ready");
        let mut inside = false;
        for line in input.split_inclusive(|octet| *octet == b'\n') {
            let Some(line) = line.strip_suffix(b"\n") else { break };
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if self.rest.is_empty() {
                // Closed by the server.
                return Vec::new();
            }
            let words: Vec<&[u8]> =
                line.split(|octet| matches!(octet, b' ' | b'\t')).filter(|w| !w.is_empty()).collect();
            let verb = line.split(|octet| *octet == b' ').next().unwrap_or_default().to_ascii_uppercase();
            let status = self.line();
            let ok = status.starts_with(b"+OK");
            assert!(ok || status.starts_with(b"-ERR "), "{}", status.escape_ascii());
            assert!(status.len() <= 510, "a long reply");
            assert!(line.len() <= 253 || !ok, "a line of {} octets was taken", line.len());
            match (&verb[..], ok) {
                (b"QUIT", true) => {
                    assert!(self.rest.is_empty(), "replies behind the goodbye");
                    let marked = (0..4).filter(|index| inside && self.marked[*index]);
                    return marked.collect();
                }
                (b"PASS", true) => inside = true,
                (b"CAPA", true) => drop(self.listing()),
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
        assert_eq!(inside, entered, "let in and told so");
        Vec::new()
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
