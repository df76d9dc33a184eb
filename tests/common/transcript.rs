//! Plays transcripts: the format of README's section on testing.
//!
//! ```text
//! # comment; the first cites the RFC. "# argv: a b", "# env: NAME=VALUE", "# config: name = value" set the scene,
//! # "# mail: alice \"...\"" puts a message into a mailbox, "# differs: reason" marks what others answer otherwise
//! C: a line, sent with CRLF; neighbouring lines in one write
//! C| raw octets: \r \n \t \0 \\ \xHH, nothing added
//! H: the client sends no more, and still reads
//! S: an expected line; a final * is any rest
//! S| expected octets up to an LF or the end, escaped as above; a final * is any rest
//! Q: <reverse-path> <recipient>... "content": a queued message, in order; "Q: *" is any number of any messages
//! P: parameters|of each|recipient: what the messages keep of MAIL and RCPT, if there is such a line
//! L: alice 2: messages left in a mailbox at the end
//! X: exit status
//! ```
//!
//! The end of the file hangs up. Lines of the server that no `S:` expects are a failure; so is a message in the queue
//! that no `Q:` expects.

use super::Scratch;
use std::fs;
use std::io::{BufRead, BufReader, Write};
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
    let lines = read_lines(child.stdout.take().ok_or("no pipe")?);
    let log = read_lines(child.stderr.take().ok_or("no pipe")?);
    let mut session = dialogue(text, &mut stdin, &lines, writes);
    drop(stdin);
    if let (Ok(()), Ok(line)) = (&session, lines.recv_timeout(WAIT)) {
        session = Err(format!("said more than expected: {}", line.escape_ascii()));
    }
    if session.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    let told = || log.try_iter().map(|line| format!("\n    log: {}", line.escape_ascii())).collect::<String>();
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
    lines: &Receiver<Vec<u8>>,
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
        let raw = line.strip_prefix("S| ");
        let Some(expected) = raw.or(line.strip_prefix("S: ")).or((line == "S:").then_some("")) else { continue };
        let got = match lines.recv_timeout(WAIT) {
            Ok(got) => got,
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!("line {}: waited in vain for {expected}", number + 1));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(format!("line {}: end instead of {expected}", number + 1));
            }
        };
        let ended = if raw.is_some() { Some(&got[..]) } else { got.strip_suffix(b"\r\n") };
        let Some(got) = ended else {
            return Err(format!("line {}: no CRLF: {}", number + 1, got.escape_ascii()));
        };
        let octets = |text: &str| if raw.is_some() { unescape(text) } else { Ok(text.as_bytes().to_vec()) };
        let fits = match expected.strip_suffix('*') {
            Some(beginning) => got.starts_with(&octets(beginning)?),
            None => got == octets(expected)?,
        };
        if !fits {
            return Err(format!("line {}: expected {expected}, got {}", number + 1, got.escape_ascii()));
        }
    }
    Ok(())
}

fn read_lines(stream: impl std::io::Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            if sender.send(std::mem::take(&mut line)).is_err() {
                return;
            }
        }
    });
    receiver
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
    let mut octets = Vec::new();
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        if octet != b'\\' {
            octets.push(octet);
            continue;
        }
        octets.push(match rest.next() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'0') => 0,
            Some(b'\\') => b'\\',
            Some(b'"') => b'"',
            Some(b'x') => {
                let digits = [rest.next().unwrap_or(0), rest.next().unwrap_or(0)];
                let digits = std::str::from_utf8(&digits).map_err(|_| "bad \\x")?;
                u8::from_str_radix(digits, 16).map_err(|_| format!("bad \\x{digits}"))?
            }
            _ => return Err(format!("unknown escape in {text}")),
        });
    }
    Ok(octets)
}
