//! `--record FILE`: a session as a transcript that plays again (the format is that of tests/common/transcript.rs).
//!
//! A [`Recorder`] stands around the stream of any protocol and writes what goes through it. What the client sent is `C:`
//! or, where it is no line of printable ASCII, `C|`; what we sent is `S:` or `S|`. Texts that differ each time, such as
//! queue ids, become `*` in `S:`, and as many `\?` in `S|`, behind which more may come. The file is new (an old one is never
//! written over), readable by its owner alone, and holds everything, passwords and messages included. A record that cannot
//! be written is no reason to disturb the session.

use crate::net::connection::{Fault, Stream};
use crate::net::tls::{Failure, Identity};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// A line longer than this is written in pieces, as `C|` or `S|`.
const LONGEST: usize = 8192;

/// A stream that is written down, if there is a file to write to.
#[derive(Debug)]
pub struct Recorder<S, W: Write = File> {
    stream: S,
    file: Option<W>,
    varying: &'static [&'static str],
    /// The beginning of a line, and whose it is.
    pending: Vec<u8>,
    side: Side,
    /// What was sent last, as much as one of `varying` may be, and whether we are in what comes behind one.
    last: Vec<u8>,
    in_varying: bool,
    /// Which octets of `pending` are of that.
    varied: Vec<usize>,
}

/// What a transcript begins with, and what is not to be compared.
#[derive(Debug)]
pub struct Head {
    /// The program.
    pub program: &'static str,
    /// Its operands.
    pub arguments: Vec<String>,
    /// Beginnings of replies that end differently each time; where replies are no lines, what stands in front of letters
    /// and digits that do.
    pub varying: &'static [&'static str],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// Makes the file of a record.
pub fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create_new(true).mode(0o600).open(path)
}

impl<S, W: Write> Recorder<S, W> {
    /// Around `stream`; without a file it is only that.
    pub fn new(stream: S, file: Option<W>, head: &Head) -> Self {
        let (pending, last, varied) = Default::default();
        let (varying, side, in_varying) = (head.varying, Side::Server, false);
        let mut recorder = Recorder { stream, file, varying, pending, side, last, in_varying, varied };
        if !recorder.records() {
            return recorder;
        }
        recorder.write(format!("# 1 session, recorded by {} --record\n", head.program).as_bytes());
        if !head.arguments.is_empty() {
            recorder.write(format!("# argv: {}\n", head.arguments.join(" ")).as_bytes());
        }
        recorder
    }

    /// Ends the record: `status` is the program's exit status. What was queued is not looked at when it is played.
    pub fn end(&mut self, status: u8) {
        if !self.records() {
            return;
        }
        self.write_pending();
        self.write(format!("Q: *\nX: {status}\n").as_bytes());
    }

    /// What it stands around, for whoever tells what goes by with [`Recorder::heard`] and [`Recorder::said`].
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Whether anything is written down.
    pub fn records(&self) -> bool {
        self.file.is_some()
    }

    /// Writes down what was received by other means than this stream.
    pub fn heard(&mut self, octets: &[u8]) {
        self.record(Side::Client, octets);
    }

    /// The same of what was sent.
    pub fn said(&mut self, octets: &[u8]) {
        self.record(Side::Server, octets);
    }

    fn record(&mut self, side: Side, octets: &[u8]) {
        if self.file.is_none() {
            return;
        }
        if self.side != side {
            self.write_pending();
            self.side = side;
        }
        for line in octets.split_inclusive(|octet| *octet == b'\n') {
            for piece in line.chunks(LONGEST) {
                if side == Side::Server {
                    self.note_varied(piece);
                }
                self.pending.extend_from_slice(piece);
                if piece.ends_with(b"\n") || self.pending.len() >= LONGEST {
                    self.write_pending();
                }
            }
        }
    }

    /// Which octets of `piece`, which comes behind what is pending, differ each time.
    fn note_varied(&mut self, piece: &[u8]) {
        let longest = self.varying.iter().map(|beginning| beginning.len()).max().unwrap_or(0);
        for (place, octet) in (self.pending.len()..).zip(piece) {
            self.last.push(*octet);
            if self.last.len() > longest {
                self.last.remove(0);
            }
            self.in_varying &= octet.is_ascii_alphanumeric();
            if self.in_varying {
                self.varied.push(place);
            }
            self.in_varying |= self.varying.iter().any(|beginning| self.last.ends_with(beginning.as_bytes()));
        }
    }

    fn write_pending(&mut self) {
        let (octets, varied) = (std::mem::take(&mut self.pending), std::mem::take(&mut self.varied));
        if octets.is_empty() {
            return;
        }
        let letter = if self.side == Side::Client { 'C' } else { 'S' };
        let text = octets.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok());
        let line = match text.filter(|line| line.bytes().all(|octet| matches!(octet, b' '..=b'~'))) {
            Some("") => format!("{letter}:\n"),
            Some(line) if self.side == Side::Server => format!("S: {}\n", self.without_varying(line)),
            Some(line) => format!("C: {line}\n"),
            None => format!("{letter}| {}\n", escape(&octets, &varied)),
        };
        self.write(line.as_bytes());
    }

    fn without_varying(&self, line: &str) -> String {
        let varying = self.varying.iter().find(|beginning| line.starts_with(**beginning));
        varying.map_or_else(|| line.to_owned(), |beginning| format!("{beginning}*"))
    }

    fn write(&mut self, text: &[u8]) {
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(text)
        {
            log::warn!("the record ends here: {error}");
            self.file = None;
        }
    }
}

impl<S: Stream, W: Write> Stream for Recorder<S, W> {
    fn allow(&mut self, time: Duration) {
        self.stream.allow(time);
    }

    fn allow_last_words(&mut self, time: Duration) {
        self.stream.allow_last_words(time);
    }

    fn session_left(&self) -> Duration {
        self.stream.session_left()
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let count = self.stream.receive(buffer)?;
        self.record(Side::Client, &buffer[..count]);
        Ok(count)
    }

    fn is_waiting(&mut self, time: Duration) -> bool {
        self.stream.is_waiting(time)
    }

    fn send(&mut self, octets: &[u8]) -> Result<(), Fault> {
        self.record(Side::Server, octets);
        self.stream.send(octets)
    }

    fn send_from(&mut self, octets: &mut &[u8]) -> Result<(), Fault> {
        let all = *octets;
        let sent = self.stream.send_from(octets);
        self.record(Side::Server, all.get(..all.len() - octets.len()).unwrap_or_default());
        sent
    }

    fn finish(&mut self) {
        self.stream.finish();
    }

    fn part(&mut self) {
        self.stream.part();
    }

    /// Not written down: a transcript has no words for it.
    fn start_tls(&mut self, identity: &Identity) -> Result<String, Failure> {
        self.stream.start_tls(identity)
    }
}

/// As `C|` and `S|` write octets; at each place of `any` may be any octet.
fn escape(octets: &[u8], any: &[usize]) -> String {
    let mut text = String::with_capacity(octets.len() + 8);
    for (place, &octet) in octets.iter().enumerate() {
        match octet {
            _ if any.binary_search(&place).is_ok() => text.push_str("\\?"),
            // It would be any rest.
            b'*' if place + 1 == octets.len() => text.push_str("\\x2a"),
            b'\r' => text.push_str("\\r"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\\' => text.push_str("\\\\"),
            b' '..=b'~' => text.push(char::from(octet)),
            _ => text.push_str(&format!("\\x{octet:02x}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives each of its pieces in one `receive`, and takes everything.
    struct Pieces(Vec<&'static [u8]>);

    impl Stream for Pieces {
        fn allow(&mut self, _time: Duration) {}
        fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
            let piece = self.0.remove(0);
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
        fn send(&mut self, _octets: &[u8]) -> Result<(), Fault> {
            Ok(())
        }
        fn finish(&mut self) {}
    }

    fn head() -> Head {
        Head { program: "qmqpd", arguments: Vec::new(), varying: &[] }
    }

    fn recorded(pieces: Vec<&'static [u8]>) -> String {
        let (mut file, count) = (Vec::new(), pieces.len());
        let arguments = vec!["c.example".to_owned(), "mx.example".to_owned()];
        let head = Head { program: "smtpsrvr", arguments, varying: &["250 queued as "] };
        let mut recorder = Recorder::new(Pieces(pieces), Some(&mut file), &head);
        recorder.send(b"220 mx\r\n").unwrap();
        for _ in 0..count {
            recorder.receive(&mut [0; 100]).unwrap();
        }
        recorder.send(b"250-a*\r\n250 queued as 17\r\n").unwrap();
        recorder.end(0);
        String::from_utf8(file).unwrap()
    }

    #[test]
    fn lines_are_recorded_as_they_were_sent_however_they_came() {
        let expected = "# 1 session, recorded by smtpsrvr --record\n# argv: c.example mx.example\nS: 220 mx\n\
                        C: NOOP\nC:\nC| a\\\\\\tb\\nc\\x00\\r\\n\nC| QU\nS: 250-a*\nS: 250 queued as *\nQ: *\nX: 0\n";
        assert_eq!(recorded(vec![b"NOOP\r\n\r\na\\\tb\nc\0\r\nQU"]), expected.replace("\\nc", "\\n\nC| c"));
        let pieces: Vec<&[u8]> = vec![b"NO", b"OP\r", b"\n", b"\r\na\\\tb", b"\nc\0\r\nQ", b"U"];
        assert_eq!(recorded(pieces), expected.replace("\\nc", "\\n\nC| c"));
    }

    /// What is written of these pieces of what we send.
    fn said(pieces: &[&[u8]]) -> String {
        let mut file = Vec::new();
        let head = Head { varying: &["2:K ", "10:KOk: "], ..head() };
        let mut recorder = Recorder::new(Pieces(Vec::new()), Some(&mut file), &head);
        pieces.iter().for_each(|piece| recorder.send(piece).unwrap());
        recorder.end(0);
        let text = String::from_utf8(file).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("S| ")).collect()
    }

    #[test]
    fn what_differs_each_time_is_any_octet_wherever_it_stands_and_however_it_is_cut() {
        let replies = b"3:Dno,10:KOk: a1z,2:K ,2:K x,4:Z17*";
        let expected = "3:Dno,10:KOk: \\?\\?\\?,2:K ,2:K \\?,4:Z17\\x2a";
        for size in 1..=replies.len() {
            assert_eq!(said(&replies.chunks(size).collect::<Vec<_>>()), expected, "{size}");
        }
        // Cut where a line is too long.
        for before in LONGEST - 12..=LONGEST {
            let long = [&vec![b'x'; before][..], b"10:KOk: a1z,"].concat();
            assert!(said(&[&long]).ends_with("x10:KOk: \\?\\?\\?,"), "{before}");
        }
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let mut recorder = Recorder::new(Pieces(Vec::new()), Some(io::sink()), &head());
        for _ in 0..1000 {
            recorder.record(Side::Client, &[b'x'; 10_000]);
        }
        assert!(recorder.pending.len() < LONGEST && recorder.pending.capacity() <= 4 * LONGEST);
    }

    #[test]
    fn a_record_never_replaces_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("session.smtp");
        create(&path).unwrap();
        assert_eq!(create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn without_a_file_nothing_is_kept() {
        let mut recorder: Recorder<_, File> = Recorder::new(Pieces(vec![b"x"]), None, &head());
        recorder.receive(&mut [0; 10]).unwrap();
        assert!(recorder.pending.is_empty());
    }
}
