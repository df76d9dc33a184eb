//! A stream with what was read of it and not yet used, and with what is to be sent: commands in, replies, listings and
//! messages out.
//!
//! Output leaves when nothing more is there to be read, or in large pieces, so that a batch of pipelined commands costs
//! one write. What is said and when it ends is left to `server`.

use super::command::{self, Command, Mistake};
use super::content::Content;
use super::reply::{self, Announced, Capabilities, Reply};
use crate::config::Config;
use crate::logging;
use crate::mailbox::{self, Maildrop};
use crate::net::connection::{Fault, Stream};
use crate::net::tls::{Failure, Identity};
use crate::sasl;
use crate::wire::line::{Line, LineEnd, LineReader};
use crate::wire::secret::Secret;
use log::{Level, log, log_enabled, warn};
use std::io::{self, ErrorKind, Read};
use std::time::Duration;

/// Output is sent when it is this long.
const OUTPUT: usize = 16 * 1024;
/// A large message is read in pieces of this size.
const LARGE_PIECE: usize = 64 * 1024;
/// What TOP reads first; most headers are shorter.
const FIRST_PIECE: usize = 4 * 1024;

/// Why a session ends in the middle.
pub(super) enum Lost {
    /// The stream did.
    Stream(Fault),
    /// A message broke off; only the missing end can tell a client that this was not the whole of it.
    Message(io::Error),
}

impl From<Fault> for Lost {
    fn from(fault: Fault) -> Self {
        Lost::Stream(fault)
    }
}

/// A stream with what was read and not yet used, and what is to be sent.
pub(super) struct Dialogue<S> {
    stream: S,
    timeout: Duration,
    lines: LineReader,
    input: Vec<u8>,
    used: usize,
    output: Vec<u8>,
    /// A reply of several lines has begun and not ended: whatever else is said would be taken for a part of it.
    is_amid: bool,
    /// Messages that were said to their end, of which nobody knows yet whether the client has them.
    said: Vec<usize>,
    /// Those that it has.
    heard: Vec<usize>,
    /// Room for a piece of a message; none before the first.
    piece: Vec<u8>,
    announced: Announced,
    /// As what is said goes into the log as well.
    level: Level,
    /// The client said UTF8 before login.
    pub(super) speaks_utf8: bool,
    /// Messages with octets beyond ASCII in their headers are for such clients only.
    requires_utf8: bool,
}

impl<S: Stream> Dialogue<S> {
    pub(super) fn new(stream: S, timeout: Duration) -> Self {
        let lines = LineReader::new(command::LONGEST_LINE, LineEnd::Lenient);
        Dialogue {
            stream,
            timeout,
            lines,
            input: Vec::new(),
            used: 0,
            output: Vec::new(),
            is_amid: false,
            said: Vec::new(),
            heard: Vec::new(),
            piece: Vec::new(),
            announced: Announced::default(),
            level: Level::Debug,
            speaks_utf8: false,
            requires_utf8: false,
        }
    }

    /// As the configuration says: what is to be told to who asks for capabilities, whether what both say goes into the log,
    /// except for passwords and messages, and whether headers beyond ASCII need a client that said UTF8.
    pub(super) fn set_up(mut self, config: &Config) -> Self {
        self.announced = Announced { login_delay: config.pop3d_login_delay.0.as_secs(), expire: config.pop3d_expire.0 };
        self.level = if config.pop3d_transcript { Level::Info } else { Level::Debug };
        self.requires_utf8 = config.pop3d_require_utf8;
        self
    }

    /// With a client that said UTF8 to another process, or did not.
    pub(super) fn speaking_utf8(mut self, speaks_utf8: bool) -> Self {
        self.speaks_utf8 = speaks_utf8;
        self
    }

    /// Begins with what another has read and not used.
    pub(super) fn resuming(mut self, input: Vec<u8>) -> Self {
        self.input = input;
        self
    }

    /// The stream, for who must know what it is.
    pub(super) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// What was read and not used.
    pub(super) fn unused(&self) -> &[u8] {
        self.input.get(self.used..).unwrap_or_default()
    }

    /// For whoever goes on: what was read and not used, and what is still to be sent.
    pub(super) fn into_rest(mut self) -> (Vec<u8>, Vec<u8>) {
        self.input.drain(..self.used);
        (self.input, self.output)
    }

    /// Sends what is to be sent, forgets what was read, and becomes TLS.
    pub(super) fn start_tls(&mut self, identity: &Identity) -> Result<String, Failure> {
        let unused = self.input.len().saturating_sub(self.used);
        if unused > 0 {
            // Not sent under TLS, so not to be taken for what was (command injection, CVE-2011-0411).
            warn!("event=input-before-tls-dropped octets={unused}");
        }
        (self.input, self.used) = (Vec::new(), 0);
        self.lines = LineReader::new(command::LONGEST_LINE, LineEnd::Lenient);
        self.stream.allow(self.timeout);
        self.flush().map_err(Failure::Stream)?;
        self.stream.start_tls(identity)
    }

    /// The next command; none at the end of the input. A command that was begun and not ended does not count.
    pub(super) fn next_command(&mut self) -> Result<Option<Result<Command, Mistake>>, Fault> {
        // Once a command: a client that sends an octet now and then is silent, too.
        self.stream.allow(self.timeout);
        loop {
            let (taken, line) = self.lines.push(self.input.get(self.used..).unwrap_or_default());
            self.used += taken;
            match line {
                Some(Line::Whole(line)) => {
                    if log_enabled!(self.level) {
                        log!(self.level, "event=said line={:?}", logging::clean(&command::without_secrets(line), 200));
                    }
                    return Ok(Some(command::parse(line)));
                }
                Some(Line::TooLong | Line::BareLineEnd) => return Ok(Some(Err(Mistake::TooLong))),
                None => {}
            }
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
    }

    /// A line of an exchange of SASL, which may be longer than a command (RFC 5034 section 4); none at the end of the
    /// input, and nothing of one that is too long.
    pub(super) fn next_response(&mut self) -> Result<Option<Secret>, Fault> {
        let mut lines = LineReader::new(sasl::LONGEST_LINE - 2, LineEnd::Lenient);
        self.stream.allow(self.timeout);
        loop {
            let (taken, line) = lines.push(self.input.get(self.used..).unwrap_or_default());
            self.used += taken;
            match line {
                Some(Line::Whole(line)) => return Ok(Some(Secret(line.to_vec()))),
                // No base64, and so no response.
                Some(Line::TooLong | Line::BareLineEnd) => return Ok(Some(Secret(b"-".to_vec()))),
                None => {}
            }
            if self.fill()? == 0 {
                return Ok(None);
            }
        }
    }

    fn fill(&mut self) -> Result<usize, Fault> {
        // What the client had sent before it was answered tells nothing of what it has heard, nor does the rest of a command
        // that had begun before.
        let tells = !self.said.is_empty() && !self.lines.in_line() && !self.stream.is_waiting(Duration::ZERO);
        self.flush()?;
        self.input.resize(4096, 0);
        self.used = 0;
        let count = self.stream.receive(&mut self.input);
        self.input.truncate(*count.as_ref().unwrap_or(&0));
        if tells && !self.input.is_empty() {
            // Who asks for several at once may go on behind the first, while the others are on their way.
            self.heard.extend(self.said.drain(..1));
        }
        count
    }

    /// Whether the client has a message of which all was said is to be found out.
    pub(super) fn wonder(&mut self, index: usize) {
        self.said.push(index);
    }

    /// The messages of which that was found out: the client went on when it could have them. Once each.
    pub(super) fn heard(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.heard)
    }

    /// The same at QUIT, by which the client says that it has all it wants: sends what there is still.
    pub(super) fn heard_at_end(&mut self) -> Result<Vec<usize>, Fault> {
        self.flush()?;
        self.heard.append(&mut self.said);
        Ok(self.heard())
    }

    pub(super) fn say(&mut self, reply: &Reply) {
        let before = self.output.len();
        reply.put(&mut self.output);
        if log_enabled!(self.level) {
            let line = self.output.get(before..).unwrap_or_default().trim_ascii_end();
            log!(self.level, "event=answered line={:?}", logging::clean(line, 200));
        }
    }

    /// The lines of a reply of several, and its end.
    pub(super) fn say_lines<'a>(&mut self, lines: impl Iterator<Item = &'a str>) {
        for line in lines.chain(["."]) {
            self.output.extend_from_slice(line.as_bytes());
            self.output.extend_from_slice(b"\r\n");
        }
    }

    pub(super) fn say_languages(&mut self) {
        self.say(&Reply::LANGUAGES);
        self.say_lines(["en English", "i-default English"].into_iter());
    }

    pub(super) fn say_capabilities(&mut self, capabilities: Capabilities) {
        reply::put_capabilities(capabilities, self.announced, &mut self.output);
    }

    /// Says it, and sends what there is if that is much.
    pub(super) fn respond(&mut self, reply: &Reply) -> Result<(), Fault> {
        self.say(reply);
        self.send_much()
    }

    fn send_much(&mut self) -> Result<(), Fault> {
        if self.output.len() < OUTPUT {
            return Ok(());
        }
        self.stream.allow(self.timeout);
        self.flush()
    }

    pub(super) fn flush(&mut self) -> Result<(), Fault> {
        if self.output.is_empty() { Ok(()) } else { self.stream.send_out(&mut self.output) }
    }

    pub(super) fn list(&mut self, lines: impl Iterator<Item = io::Result<String>>) -> Result<(), Lost> {
        self.say(&Reply::LISTING);
        self.is_amid = true;
        for line in lines {
            self.output.extend_from_slice(line.map_err(Lost::Message)?.as_bytes());
            self.output.extend_from_slice(b"\r\n");
            self.send_much()?;
        }
        self.output.extend_from_slice(b".\r\n");
        self.is_amid = false;
        Ok(())
    }

    /// Sends a message, and says whether that was all of it.
    pub(super) fn message<M: Maildrop>(
        &mut self,
        maildrop: &M,
        index: usize,
        mut content: Content,
    ) -> Result<bool, Lost> {
        let mut file = match maildrop.open(index) {
            Ok(file) => file,
            Err(error) => {
                warn!("event=message-not-opened message={} reason={:?}", index + 1, error.to_string());
                self.respond(match error.kind() {
                    ErrorKind::NotFound => &Reply::IS_GONE,
                    _ if mailbox::stays(&error) => &Reply::UNUSABLE_MESSAGE,
                    _ => &Reply::UNREADABLE,
                })?;
                return Ok(false);
            }
        };
        if self.requires_utf8 && !self.speaks_utf8 {
            match is_header_ascii(&mut *file) {
                Ok(true) => file = maildrop.open(index).map_err(Lost::Message)?,
                Ok(false) => {
                    self.respond(&Reply::NEEDS_UTF8)?;
                    return Ok(false);
                }
                Err(error) => return Err(Lost::Message(error)),
            }
        }
        self.say(&Reply::MESSAGE);
        self.is_amid = true;
        // Who wants the header only gets it by reading little more than that, and small messages need no room for large ones.
        let mut room = if content.is_limited() { FIRST_PIECE } else { 2 * FIRST_PIECE };
        let mut is_whole = false;
        while !content.is_done() {
            if self.piece.len() < room {
                self.piece.resize(room, 0);
            }
            let count = match file.read(self.piece.get_mut(..room).unwrap_or_default()) {
                Ok(0) => {
                    is_whole = true;
                    break;
                }
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Lost::Message(error)),
            };
            content.push(self.piece.get(..count).unwrap_or_default(), &mut self.output);
            self.send_much()?;
            room = LARGE_PIECE.min(room.saturating_mul(2));
        }
        content.finish(&mut self.output);
        self.is_amid = false;
        Ok(is_whole)
    }

    /// Says a last word, and closes when the client has heard it. Nothing where it would be the end of a message.
    pub(super) fn close(&mut self, reply: &Reply) {
        self.close_within(self.timeout, reply);
    }

    /// Says goodbye to a client that said QUIT, and closes.
    pub(super) fn part(&mut self, reply: &Reply) {
        if !self.unused().is_empty() {
            return self.close(reply);
        }
        self.say(reply);
        self.stream.allow_last_words(self.timeout);
        if self.flush().is_ok() {
            self.stream.part();
        }
    }

    /// The same, for a client that was too slow already.
    pub(super) fn close_within(&mut self, time: Duration, reply: &Reply) {
        if self.is_amid {
            return;
        }
        self.say(reply);
        self.stream.allow_last_words(time);
        if self.flush().is_ok() {
            self.stream.finish();
        }
    }
}

/// Whether there are no octets beyond ASCII before the first empty line. Reads to there, in pieces.
fn is_header_ascii(message: &mut dyn Read) -> io::Result<bool> {
    let (mut piece, mut header) = ([0; FIRST_PIECE], Content::top(0));
    let mut octets = Vec::new();
    while !header.is_done() {
        let count = match message.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        octets.clear();
        header.push(piece.get(..count).unwrap_or_default(), &mut octets);
        if !octets.is_ascii() {
            return Ok(false);
        }
    }
    Ok(true)
}
