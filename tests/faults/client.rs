//! A client that says each thing behind the answer to the one before, and goes over to TLS where it has asked for that. When
//! and how the other side ends is left to whoever is killed or fails there; what was told until then counts.

use crate::common::tls;
use rustls::ClientConnection;
use std::io::{Error, ErrorKind, Read, Result, Write};

/// What it says, and with what the answer to it begins where the client goes on behind it.
#[derive(Clone)]
pub struct Line {
    text: String,
    goes_on: &'static [u8],
}

impl Line {
    /// Said to be done.
    pub fn new(text: impl Into<String>) -> Line {
        Line { text: text.into() + "\r\n", goes_on: b"23+" }
    }

    /// Said to be refused, now or for ever.
    pub fn wrong(text: impl Into<String>) -> Line {
        Line { goes_on: b"45-", ..Line::new(text) }
    }

    fn asks_for_tls(&self) -> bool {
        self.text == "STARTTLS\r\n" || self.text == "STLS\r\n"
    }
}

/// The client, on one end of a stream.
pub struct Client<S> {
    stream: S,
    tls: Option<ClientConnection>,
    /// Read and not yet a line.
    heard: Vec<u8>,
    /// All answers so far.
    pub said: String,
}

impl<S: Read + Write> Client<S> {
    pub fn new(stream: S) -> Client<S> {
        Client { stream, tls: None, heard: Vec::new(), said: String::new() }
    }

    /// Says all but the last each behind the answer to the one before, then that, and hears the rest. Where one is not answered
    /// as it should be it only takes its leave. The other side may end anywhere, but it may not be silent for longer than the
    /// stream's time limit.
    pub fn say(&mut self, lines: &[Line]) {
        let end = self.converse(lines);
        self.said.push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.heard)));
        let is_silent = |error: &Error| error.kind() == ErrorKind::WouldBlock;
        assert!(!end.is_err_and(|error| is_silent(&error)), "silence behind {}", self.said);
    }

    fn converse(&mut self, lines: &[Line]) -> Result<()> {
        let (last, first) = lines.split_last().expect("lines");
        let mut goes_on = self.hear(b"23+")?;
        for line in first {
            if !goes_on {
                break;
            }
            self.write(line.text.as_bytes())?;
            goes_on = self.hear(line.goes_on)?;
            if goes_on && line.asks_for_tls() {
                self.start_tls()?;
            }
        }
        self.write(if goes_on { last.text.as_bytes() } else { b"QUIT\r\n" })?;
        while self.read()? > 0 {}
        Ok(())
    }

    /// Hears one answer; whether it begins with one of these.
    fn hear(&mut self, goes_on: &[u8]) -> Result<bool> {
        loop {
            let Some(end) = self.heard.iter().position(|octet| *octet == b'\n') else {
                if self.read()? == 0 {
                    return Ok(false);
                }
                continue;
            };
            let line: Vec<u8> = self.heard.drain(..=end).collect();
            self.said.push_str(&String::from_utf8_lossy(&line));
            // Of SMTP there may be more to it.
            if line.get(3) != Some(&b'-') || !line[0].is_ascii_digit() {
                return Ok(goes_on.contains(&line[0]));
            }
        }
    }

    /// Shakes hands, but for its own last words: they go with the first command, for the server to read both at once.
    fn start_tls(&mut self) -> Result<()> {
        assert!(self.heard.is_empty(), "said in clear: {:?}", String::from_utf8_lossy(&self.heard));
        let tls = self.tls.insert(tls::client());
        while tls.is_handshaking() {
            while tls.wants_write() {
                tls.write_tls(&mut self.stream)?;
            }
            receive(tls, &mut self.stream)?;
        }
        Ok(())
    }

    /// In one write.
    fn write(&mut self, octets: &[u8]) -> Result<()> {
        let Some(tls) = &mut self.tls else { return self.stream.write_all(octets) };
        tls.writer().write_all(octets)?;
        while tls.wants_write() {
            tls.write_tls(&mut self.stream)?;
        }
        Ok(())
    }

    /// Hears more; how many octets that are, or 0 at the end.
    fn read(&mut self) -> Result<usize> {
        let mut piece = [0; 4096];
        let count = loop {
            let Some(tls) = &mut self.tls else { break self.stream.read(&mut piece)? };
            match tls.reader().read(&mut piece) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => receive(tls, &mut self.stream)?,
                read => break read?,
            }
        };
        self.heard.extend_from_slice(&piece[..count]);
        Ok(count)
    }
}

/// Takes what has come.
fn receive(tls: &mut ClientConnection, stream: &mut impl Read) -> Result<()> {
    let count = tls.read_tls(stream)?;
    tls.process_new_packets().map_err(Error::other)?;
    // At the end a handshake would wait for ever.
    if count == 0 && tls.is_handshaking() { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}
