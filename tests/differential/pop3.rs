//! POP3 sessions from a seed on mailboxes from a seed, and one session to one server.

use crate::common::chance::Chance;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

/// A command and what is special about it.
#[derive(Debug, Clone)]
pub struct Step {
    pub shape: &'static str,
    pub line: String,
    /// The message it names, from 1, if there is such a message.
    pub message: Option<usize>,
}

/// What is in the mailbox, each message with the name of what is special about it, and what the client says.
pub struct Session {
    pub messages: Vec<(&'static str, Vec<u8>)>,
    pub steps: Vec<Step>,
    /// All that need not wait for an answer goes out at once.
    pub is_pipelined: bool,
}

/// What a server answered: `+`, `-` or `0` for nothing, its first line, and the lines below it with their stuffing undone.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    pub class: char,
    pub line: String,
    pub lines: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines = String::from_utf8_lossy(&self.lines.concat()).chars().take(300).collect::<String>();
        write!(f, "{:?} {lines:?}", self.line)
    }
}

const SPECIALS: &[(&str, &[u8])] = &[
    ("dots", b"Subject: dots\n\n.\n..\n.x\nend\n"),
    ("from-line", b"Subject: from\n\nFrom here on\n>From there\nend\n"),
    ("eight-bit", b"Subject: \xfc\n\n\x80\xff\n"),
    ("tab", b"Subject: tab\n\n\ta\t\n"),
    ("header-only", b"Subject: nothing below\n"),
    ("empty-body", b"Subject: nothing below\n\n"),
    ("crlf-stored", b"Subject: crlf\r\n\r\nbody\r\n"),
    ("bare-cr", b"Subject: cr\n\na\rb\n"),
    ("nul", b"Subject: nul\n\na\0b\n"),
    ("empty-lines-at-the-end", b"Subject: x\n\nbody\n\n\n"),
    ("no-last-line-end", b"Subject: x\n\nbody"),
];

/// A session of a seed.
pub fn session(chance: &mut Chance) -> Session {
    let count = chance.below(6);
    let special = if chance.percent(40) { chance.below(count.max(1)) } else { count };
    let mut messages = Vec::new();
    for number in 0..count {
        messages.push(if number == special {
            let (shape, text) = SPECIALS[chance.below(SPECIALS.len())];
            (shape, text.to_vec())
        } else {
            ("plain", plain(chance, number))
        });
    }
    let mut steps = Vec::new();
    if chance.percent(5) {
        let (shape, line) = EARLY[chance.below(EARLY.len())];
        steps.push(Step { shape, line: line.to_owned(), message: None });
    }
    if chance.percent(2) {
        steps.push(step("user", "USER bob"));
        steps.push(step("pass-wrong", "PASS wrong"));
    }
    login(chance, &mut steps);
    for _ in 0..chance.below(12) {
        steps.push(command(chance, count));
    }
    if chance.percent(85) {
        steps.push(step("quit", "QUIT"));
    }
    Session { messages, steps, is_pipelined: chance.percent(30) }
}

fn login(chance: &mut Chance, steps: &mut Vec<Step>) {
    let said: &[(&'static str, &str)] = match chance.below(20) {
        0..2 => &[("auth-plain", "AUTH PLAIN AGJvYgBzZWNyZXQ=")],
        2..4 => &[("auth-challenged", "AUTH PLAIN"), ("auth-response", "AGJvYgBzZWNyZXQ=")],
        4 => AUTHS[chance.below(AUTHS.len())],
        _ => &[],
    };
    steps.extend(said.iter().map(|(shape, line)| step(shape, line)));
    if !said.iter().any(|(shape, _)| ["auth-plain", "auth-response"].contains(shape)) {
        steps.push(step("user", "USER bob"));
        steps.push(step("pass", "PASS secret"));
    }
}

/// Logins that are wrong; who sends them logs in otherwise behind them.
const AUTHS: &[&[(&str, &str)]] = &[
    &[("auth-wrong-password", "AUTH PLAIN AGJvYgB3cm9uZw==")],
    &[("auth-nobody", "AUTH PLAIN AG5vYm9keS1oZXJlAHNlY3JldA==")],
    &[("auth-no-base64", "AUTH PLAIN !!!")],
    &[("auth-mechanism-unknown", "AUTH FROBNICATE")],
    &[("auth-challenged", "AUTH PLAIN"), ("auth-given-up", "*")],
    &[("auth-challenged", "AUTH PLAIN"), ("auth-response-no-base64", "!!!")],
];

fn plain(chance: &mut Chance, number: usize) -> Vec<u8> {
    let mut text = format!("From: alice@client.example\nSubject: number {number}\n\n").into_bytes();
    for line in 0..chance.below(9) {
        text.extend(format!("line {line} {}\n", "x".repeat(chance.below(90))).into_bytes());
    }
    text
}

const EARLY: &[(&str, &str)] = &[
    ("early-stat", "STAT"),
    ("early-retr", "RETR 1"),
    ("early-pass", "PASS secret"),
    ("early-capa", "CAPA"),
    ("early-unknown", "FROBNICATE"),
    ("early-empty-line", ""),
    ("early-user-bare", "USER"),
];

const PLAIN_COMMANDS: &[(&str, &str)] = &[
    ("stat", "STAT"),
    ("list", "LIST"),
    ("uidl", "UIDL"),
    ("noop", "NOOP"),
    ("rset", "RSET"),
    ("capa", "CAPA"),
    ("stat", "stat"),
];

const ODD_COMMANDS: &[(&str, &str)] = &[
    ("retr-bare", "RETR"),
    ("dele-bare", "DELE"),
    ("top-bare", "TOP"),
    ("top-one-number", "TOP 1"),
    ("retr-0", "RETR 0"),
    ("retr-plus", "RETR +1"),
    ("retr-minus", "RETR -1"),
    ("retr-huge", "RETR 4294967297"),
    ("retr-letters", "RETR 1x"),
    ("retr-two", "RETR 1 2"),
    ("list-two", "LIST 1 2"),
    ("top-minus", "TOP 1 -1"),
    ("stat-argument", "STAT 1"),
    ("noop-argument", "NOOP 1"),
    ("rset-argument", "RSET 1"),
    ("quit-argument", "QUIT now"),
    ("unknown", "FROBNICATE"),
    ("empty-line", ""),
    ("blank-in-front", " STAT"),
    ("blank-behind", "STAT "),
    ("user-again", "USER bob"),
    ("stls-not-offered", "STLS"),
    ("last", "LAST"),
];

fn command(chance: &mut Chance, count: usize) -> Step {
    if chance.percent(7) {
        let (shape, line) = ODD_COMMANDS[chance.below(ODD_COMMANDS.len())];
        return Step { message: (line.contains(" 1") && count > 0).then_some(1), ..step(shape, line) };
    }
    if chance.percent(35) {
        let (shape, line) = PLAIN_COMMANDS[chance.below(PLAIN_COMMANDS.len())];
        return step(shape, line);
    }
    // Now and then one too many.
    let number = 1 + chance.below(count + 1);
    let message = (number <= count).then_some(number);
    let (shape, line) = match chance.below(6) {
        0 | 1 => ("retr", format!("RETR {number}")),
        2 => ("top", format!("TOP {number} {}", chance.below(4))),
        3 => ("list-one", format!("LIST {number}")),
        4 => ("uidl-one", format!("UIDL {number}")),
        _ => ("dele", format!("DELE {number}")),
    };
    Step { message, ..step(shape, &line) }
}

fn step(shape: &'static str, line: &str) -> Step {
    Step { shape, line: line.to_owned(), message: None }
}

/// Plays a session to its end.
pub fn play(stream: TcpStream, session: &Session) -> Vec<Answer> {
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    stream.set_nodelay(true).expect("no delay");
    let mut reader = BufReader::new(stream);
    assert_eq!(answer(&mut reader, false).class, '+', "no greeting");
    let mut answers: Vec<Answer> = Vec::new();
    for group in session.steps.chunk_by(|step, _| session.is_pipelined && !step.shape.starts_with("auth")) {
        // Not a response where there was no challenge.
        let is_response = ["auth-response", "auth-response-no-base64", "auth-given-up"].contains(&group[0].shape);
        if is_response && answers.last().is_some_and(|answer| answer.class != '+') {
            answers.push(Answer { class: '.', ..nothing() });
            continue;
        }
        let lines: String = group.iter().map(|step| format!("{}\r\n", step.line)).collect();
        let sent = reader.get_mut().write_all(lines.as_bytes());
        for step in group {
            let word = step.line.trim_start().to_ascii_uppercase();
            let is_long =
                ["RETR", "TOP", "CAPA"].iter().any(|name| word.starts_with(name)) || word == "LIST" || word == "UIDL";
            answers.push(if sent.is_ok() { answer(&mut reader, is_long) } else { nothing() });
        }
    }
    // Goodbye or not, the server is through with the mailbox when it closes.
    let _ = reader.get_ref().shutdown(std::net::Shutdown::Write);
    let _ = std::io::Read::read_to_end(&mut reader, &mut Vec::new());
    answers
}

fn nothing() -> Answer {
    Answer { class: '0', line: String::new(), lines: Vec::new() }
}

fn answer(reader: &mut BufReader<TcpStream>, is_long: bool) -> Answer {
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line).is_err() || line.is_empty() {
        return nothing();
    }
    let mut answer = Answer { class: char::from(line[0]), line: text(&line), lines: Vec::new() };
    while is_long && answer.class == '+' {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line).is_err() || line.is_empty() {
            return nothing();
        }
        if line == b".\r\n" {
            break;
        }
        answer.lines.push(line.strip_prefix(b".").unwrap_or(&line).to_vec());
    }
    answer
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end().to_owned()
}

/// What of an answer must be the same on all servers.
pub fn essence(step: &Step, answer: &Answer) -> Vec<Vec<u8>> {
    let words = |line: &str, count: usize| {
        line.split_whitespace().take(count).map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>()
    };
    match (answer.class, step.shape) {
        ('+', "stat" | "list-one") => words(&answer.line, 3),
        ('+', "uidl-one") => words(&answer.line, 2),
        ('+', "list") => answer.lines.iter().map(|line| text(line).into_bytes()).collect(),
        ('+', "uidl") => answer.lines.iter().map(|line| words(&text(line), 1).concat()).collect(),
        ('+', "retr" | "top") => answer.lines.clone(),
        _ => Vec::new(),
    }
}
