//! Plays transcripts: the format of README's section on testing.
//!
//! ```text
//! # comment; the first cites the RFC. "# argv: a b", "# env: NAME=VALUE", "# config: name = value" set the scene,
//! # "# mail: alice \"...\"" puts a message into a mailbox, "# differs: reason" marks what others answer otherwise
//! C: a line, sent with CRLF; neighbouring lines in one write
//! C| raw octets: \r \n \t \0 \\ \xHH, nothing added
//! H: the client sends no more, and still reads
//! S: an expected line; a final * is any rest
//! S| expected octets, escaped as above, so many as there are, wherever they end; \? is any one octet;
//!    a final * is any rest up to an LF or the end
//! Q: <reverse-path> <recipient>... "content": a queued message, in order; "Q: *" is any number of any messages
//! P: parameters|of each|recipient: what the messages keep of MAIL and RCPT, if there is such a line
//! L: alice 2: messages left in a mailbox at the end
//! X: exit status
//! ```
//!
//! The end of the file hangs up. Octets of the server that no `S:` or `S|` expects are a failure; so is a message in the
//! queue that no `Q:` expects.

use super::Scratch;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// How the client's octets are handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writes {
    /// Neighbouring lines in one write.
    Whole,
    /// Each octet in a write of its own.
    Octets,
}

/// Plays every transcript in `tests/transcripts/PROGRAM` in both ways of writing, and fails with all that went wrong.
pub fn play_all(program: &str, at_least: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(program);
    let mut files: Vec<PathBuf> =
        fs::read_dir(&folder).expect("a folder of transcripts").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(files.len() >= at_least, "{} has only {} transcripts", folder.display(), files.len());
    let mut wrong = Vec::new();
    for file in &files {
        for writes in [Writes::Whole, Writes::Octets] {
            if let Err(problem) = play(program, file, writes) {
                wrong.push(format!("{} ({writes:?}): {problem}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} transcripts differ:\n{}", wrong.len(), files.len(), wrong.join("\n"));
}

/// Plays one file. `DOORPOST_UNDER_TEST` names another server to play it to; then only the replies are compared, and a
/// file with `# differs:` must really differ.
pub fn play(program: &str, file: &Path, writes: Writes) -> Result<(), String> {
    let text = fs::read_to_string(file).map_err(|e| e.to_string())?;
    // RFCs are numbered; QMQP and netstrings stand on pages of their author.
    let cites = |line: &str| line.contains(|c: char| c.is_ascii_digit()) || line.contains("cr.yp.to/proto/");
    if !text.lines().next().is_some_and(|line| line.starts_with("# ") && cites(line)) {
        return Err("the first comment must cite the RFC and section".to_owned());
    }
    let other = std::env::var_os("DOORPOST_UNDER_TEST");
    let played = play_text(program, &text, writes, other.as_deref());
    match (other, text.lines().any(|line| line.starts_with("# differs:"))) {
        (Some(_), true) if played.is_ok() => Err("marked `# differs:`, but does not differ".to_owned()),
        (Some(_), true) => Ok(()),
        _ => played,
    }
}

fn setting<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| line.strip_prefix("# ")?.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn play_text(program: &str, text: &str, writes: Writes, other: Option<&std::ffi::OsStr>) -> Result<(), String> {
    let config: String = setting(text, "config").map(|line| format!("{line}\n")).collect();
    let scratch = Scratch::with(&config);
    for (number, mail) in setting(text, "mail").enumerate() {
        let (user, content) = mail.split_once(' ').ok_or("# mail: USER \"content\"")?;
        scratch.put_mail(user, &format!("{}.M{number}.mx", 1_700_000_000 + number), &quoted(content)?);
    }
    for channels in setting(text, "channels") {
        let path = scratch.path().join("channels");
        let before = fs::read_to_string(&path).unwrap_or_default();
        scratch.write("channels", &format!("{before}{channels}\n"));
    }
    let mut command = match other {
        Some(server) => Command::new(server),
        None => scratch.command(program),
    };
    for variable in setting(text, "env") {
        let (name, value) = variable.split_once('=').ok_or("# env: NAME=VALUE")?;
        command.env(name, value);
    }
    command.args(setting(text, "argv").flat_map(str::split_whitespace));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{program}: {e}"))?;
    let mut stdin = child.stdin.take();
    let mut said = Said::by(child.stdout.take().ok_or("no pipe")?);
    let log = Said::by(child.stderr.take().ok_or("no pipe")?);
    let mut session = dialogue(text, &mut stdin, &mut said, writes);
    drop(stdin);
    if session.is_ok() && (!said.waiting.is_empty() || said.more().is_ok()) {
        session = Err(format!("said more than expected: {}", said.line().escape_ascii()));
    }
    if session.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    let told = || {
        let octets = log.pieces.try_iter().flatten().collect::<Vec<u8>>();
        let lines = octets.split_inclusive(|octet| *octet == b'\n');
        lines.map(|line| format!("\n    log: {}", line.escape_ascii())).collect::<String>()
    };
    session.map_err(|problem| format!("{problem}{}", told()))?;
    if other.is_some() {
        return Ok(());
    }
    for expected in text.lines().filter_map(|line| line.strip_prefix("X: ")) {
        if status.code().map(|code| code.to_string()).as_deref() != Some(expected.trim()) {
            return Err(format!("exit: expected {expected}, got {status}{}", told()));
        }
    }
    compare_queue(text, &scratch)?;
    for left in text.lines().filter_map(|line| line.strip_prefix("L: ")) {
        let (user, count) = left.split_once(' ').ok_or("L: USER COUNT")?;
        let found = scratch.mail(user).len();
        if count.trim() != found.to_string() {
            return Err(format!("{user} has {found} messages left, expected {count}"));
        }
    }
    Ok(())
}

const WAIT: Duration = Duration::from_secs(20);

fn dialogue(
    text: &str,
    stdin: &mut Option<std::process::ChildStdin>,
    said: &mut Said,
    writes: Writes,
) -> Result<(), String> {
    let mut batch = Vec::new();
    let ends_batch = [String::new()];
    for (number, line) in text.lines().map(str::to_owned).chain(ends_batch).enumerate() {
        if let Some(sent) = line.strip_prefix("C: ").or((line == "C:").then_some("")) {
            batch.extend_from_slice(sent.as_bytes());
            batch.extend_from_slice(b"\r\n");
            continue;
        }
        if let Some(raw) = line.strip_prefix("C| ") {
            batch.extend_from_slice(&unescape(raw)?);
            continue;
        }
        if let Some(pipe) = stdin.as_mut().filter(|_| !batch.is_empty()) {
            // A server that has closed already is for the following S: lines and X: to judge.
            let _ = match writes {
                Writes::Whole => pipe.write_all(&batch),
                Writes::Octets => batch.chunks(1).try_for_each(|octet| pipe.write_all(octet)),
            };
            batch.clear();
        }
        if line == "H:" {
            *stdin = None;
        }
        let problem = if let Some(expected) = line.strip_prefix("S| ") {
            said.octets(expected)
        } else if let Some(expected) = line.strip_prefix("S: ").or((line == "S:").then_some("")) {
            said.crlf_line(expected)
        } else {
            continue;
        };
        problem.map_err(|problem| format!("line {}: {problem}", number + 1))?;
    }
    Ok(())
}

/// What a program says.
struct Said {
    pieces: Receiver<Vec<u8>>,
    /// What no line of the transcript has expected yet.
    waiting: Vec<u8>,
}

impl Said {
    fn by(mut stream: impl std::io::Read + Send + 'static) -> Said {
        let (sender, pieces) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Said { pieces, waiting: Vec::new() }
    }

    fn more(&mut self) -> Result<(), RecvTimeoutError> {
        self.pieces.recv_timeout(WAIT).map(|piece| self.waiting.extend_from_slice(&piece))
    }

    fn lacks(&self, why: RecvTimeoutError, expected: &str) -> String {
        let why = if why == RecvTimeoutError::Timeout { "waited in vain for" } else { "end instead of" };
        let got = self.waiting.escape_ascii();
        format!("{why} {expected}{}{got}", if self.waiting.is_empty() { "" } else { ", got " })
    }

    /// Takes what is there up to and with the first LF, or all of it.
    fn line(&mut self) -> Vec<u8> {
        let end = self.waiting.iter().position(|octet| *octet == b'\n').map_or(self.waiting.len(), |place| place + 1);
        self.waiting.drain(..end).collect()
    }

    /// Takes a line, which the end of the stream ends as well.
    fn whole_line(&mut self, expected: &str) -> Result<Vec<u8>, String> {
        while !self.waiting.contains(&b'\n') {
            match self.more() {
                Err(RecvTimeoutError::Disconnected) if !self.waiting.is_empty() => break,
                more => more.map_err(|why| self.lacks(why, expected))?,
            }
        }
        Ok(self.line())
    }

    fn crlf_line(&mut self, expected: &str) -> Result<(), String> {
        let line = self.whole_line(expected)?;
        let line = line.strip_suffix(b"\r\n").ok_or_else(|| format!("no CRLF: {}", line.escape_ascii()))?;
        let fits = match expected.strip_suffix('*') {
            Some(beginning) => line.starts_with(beginning.as_bytes()),
            None => line == expected.as_bytes(),
        };
        if fits { Ok(()) } else { Err(format!("expected {expected}, got {}", line.escape_ascii())) }
    }

    fn octets(&mut self, expected: &str) -> Result<(), String> {
        let wrong = |got: &[u8]| format!("expected {expected}, got {}", got.escape_ascii());
        // Whether what came is so far what was expected.
        let fits = |pattern: &[Option<u8>], got: &[u8]| {
            pattern.iter().zip(got).all(|(octet, got)| octet.is_none_or(|octet| octet == *got))
        };
        if let Some(beginning) = expected.strip_suffix('*') {
            let (line, pattern) = (self.whole_line(expected)?, pattern(beginning)?);
            let all = line.len() >= pattern.len() && fits(&pattern, &line);
            return if all { Ok(()) } else { Err(wrong(&line)) };
        }
        let pattern = pattern(expected)?;
        while fits(&pattern, &self.waiting) {
            if self.waiting.len() >= pattern.len() {
                self.waiting.drain(..pattern.len());
                return Ok(());
            }
            self.more().map_err(|why| self.lacks(why, expected))?;
        }
        Err(wrong(&self.waiting))
    }
}

fn compare_queue(text: &str, scratch: &Scratch) -> Result<(), String> {
    let expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("Q: ")).collect();
    if expected == ["*"] {
        return Ok(());
    }
    let queued = scratch.queued();
    let kept: Vec<&str> = queued.iter().map(|message| message.parameters.as_str()).collect();
    let expected_kept: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("P: ")).collect();
    if !expected_kept.is_empty() && kept != expected_kept {
        return Err(format!("kept {kept:?}, expected {expected_kept:?}"));
    }
    let shown: Vec<String> = queued
        .iter()
        .map(|message| {
            let paths = std::iter::once(&message.reverse_path).chain(&message.recipients);
            let paths: String = paths.map(|path| format!("<{}> ", path.escape_ascii())).collect();
            format!("{paths}\"{}\"", message.content().escape_ascii())
        })
        .collect();
    if expected.len() != shown.len() {
        return Err(format!("{} messages queued, expected {}: {shown:?}", shown.len(), expected.len()));
    }
    for (expected, shown) in expected.iter().zip(&shown) {
        let (paths, content) = expected.split_once(" \"").ok_or("Q: <paths> \"content\"")?;
        let content = quoted(&format!("\"{content}"))?;
        let expected = format!("{paths} \"{}\"", content.escape_ascii());
        if expected != *shown {
            return Err(format!("queued {shown}, expected {expected}"));
        }
    }
    Ok(())
}

fn quoted(text: &str) -> Result<Vec<u8>, String> {
    let inner = text.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    unescape(inner.ok_or_else(|| format!("not in quotes: {text}"))?)
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    pattern(text)?.into_iter().map(|octet| octet.ok_or_else(|| format!("any octet in {text}"))).collect()
}

/// Octets, or in their place `None` for any.
fn pattern(text: &str) -> Result<Vec<Option<u8>>, String> {
    let mut octets = Vec::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'\\' {
            octets.push(Some(octet));
            continue;
        }
        octets.push(match rest.next() {
            Some(b'r') => Some(b'\r'),
            Some(b'n') => Some(b'\n'),
            Some(b't') => Some(b'\t'),
            Some(b'0') => Some(0),
            Some(b'\\') => Some(b'\\'),
            Some(b'"') => Some(b'"'),
            Some(b'?') => None,
            Some(b'x') => {
                let digits = [rest.next().unwrap_or(0), rest.next().unwrap_or(0)];
                let digits = std::str::from_utf8(&digits).map_err(|_| "bad \\x")?;
                Some(u8::from_str_radix(digits, 16).map_err(|_| format!("bad \\x{digits}"))?)
            }
            _ => return Err(format!("unknown escape in {text}")),
        });
    }
    Ok(octets)
}
