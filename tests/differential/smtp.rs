//! One SMTP session to two servers: what each said, and what each kept.

use super::generate::Session;
use crate::common::postfix::Postfix;
use crate::common::{Queued, Scratch, until};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What one server did with a session.
#[derive(Debug, Default)]
pub struct Trace {
    /// First digit of the reply to each step; `-` was not sent, `0` no answer.
    pub classes: Vec<char>,
    /// The last line of each reply.
    pub texts: Vec<String>,
    /// Queue ids, by the step that was answered with them.
    pub taken: BTreeMap<usize, String>,
}

/// A message as it was kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Kept {
    pub reverse_path: String,
    /// Local parts, sorted.
    pub recipients: Vec<String>,
    pub content: Vec<u8>,
}

/// Plays a session, step by step or, pipelined, group by group.
pub fn play(server: SocketAddr, session: &Session) -> Trace {
    let stream = TcpStream::connect(server).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    stream.set_nodelay(true).expect("no delay");
    let mut reader = BufReader::new(stream);
    let mut trace = Trace::default();
    let mut last = reply(&mut reader).0;
    assert_eq!(last, '2', "no greeting");
    for group in session.steps.chunk_by(|step, _| session.is_pipelined && !step.is_last_of_group()) {
        let is_sent = !group[0].is_content || last == '3';
        let octets: Vec<u8> = group.iter().flat_map(|step| &step.octets).copied().collect();
        let sent = is_sent.then(|| reader.get_mut().write_all(&octets));
        for _ in group {
            let (class, text) = match sent {
                None => ('-', String::new()),
                Some(Err(_)) => ('0', String::new()),
                Some(Ok(())) => reply(&mut reader),
            };
            if let ('2', Some((_, id))) = (class, text.split_once("queued as ")) {
                trace.taken.insert(trace.classes.len(), id.trim().to_owned());
            }
            // A DATA that was refused and its content are one.
            last = if class == '-' { last } else { class };
            trace.classes.push(class);
            trace.texts.push(text);
        }
    }
    trace
}

/// Gives a server one QMQP package; its answer without the framing.
pub fn hand_over(server: SocketAddr, package: &[u8]) -> String {
    let mut stream = TcpStream::connect(server).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    let _ = stream.write_all(package);
    let mut answer = String::new();
    let _ = std::io::Read::read_to_string(&mut stream, &mut answer);
    answer.split_once(':').map(|(_, text)| text.trim_end_matches(',').to_owned()).unwrap_or_default()
}

fn reply(reader: &mut BufReader<TcpStream>) -> (char, String) {
    loop {
        let mut line = Vec::new();
        let read = reader.read_until(b'\n', &mut line);
        let is_late = read.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!is_late, "no answer in time");
        if read.is_err() || line.is_empty() {
            return ('0', String::new());
        }
        if line.get(3) != Some(&b'-') {
            return (char::from(line[0]), String::from_utf8_lossy(&line).trim_end().to_owned());
        }
    }
}

/// Messages in our queue by their ids; the queue is empty afterwards.
pub fn ours(scratch: &Scratch) -> BTreeMap<String, Kept> {
    let message = |queued: Queued| {
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        let recipients = queued.recipients.iter().map(|address| local_part(&text(address))).collect();
        let kept = Kept {
            reverse_path: text(&queued.reverse_path),
            recipients: sorted(recipients),
            content: queued.content().to_vec(),
        };
        (queued.id, kept)
    };
    let messages = scratch.queued().into_iter().map(message).collect();
    for folder in fs::read_dir(scratch.queue().join("message")).into_iter().flatten().flatten() {
        for file in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
            fs::remove_file(file.path()).expect("removing a message");
        }
    }
    messages
}

/// Messages that Postfix has delivered, by their ids, when it is through with all; then they are removed.
pub fn theirs(postfix: &Postfix) -> BTreeMap<String, Kept> {
    let files = || {
        let folder = |user: &&str| fs::read_dir(postfix.maildir(user).join("new")).into_iter().flatten().flatten();
        ["alice", "bob", "carol"]
            .iter()
            .flat_map(|user| folder(user).map(|file| (*user, file.path())))
            .collect::<Vec<_>>()
    };
    until("Postfix to deliver", || postfix.is_idle());
    let mut messages = BTreeMap::new();
    for (user, path) in files() {
        let octets = fs::read(&path).expect("a delivered message");
        let (id, reverse_path, content) = taken_apart(&octets);
        let kept = messages.entry(id).or_insert_with(|| Kept { reverse_path, recipients: Vec::new(), content });
        kept.recipients.push(user.to_owned());
        kept.recipients.sort();
        fs::remove_file(path).expect("removing a message");
    }
    messages
}

/// Queue id, reverse-path, and what stands behind the first Received field.
fn taken_apart(octets: &[u8]) -> (String, String, Vec<u8>) {
    let text = String::from_utf8_lossy(octets);
    let reverse_path =
        text.split_once("Return-Path: <").and_then(|(_, rest)| rest.split_once(">\n")).expect("a path").0;
    let received = octets.windows(10).position(|window| window == b"Received: ").expect("a Received field");
    let mut at = received;
    loop {
        at += octets[at..].iter().position(|octet| *octet == b'\n').expect("an end of the field") + 1;
        if !matches!(octets.get(at), Some(b' ' | b'\t')) {
            break;
        }
    }
    let field = String::from_utf8_lossy(&octets[received..at]);
    let mut words = field.split([';', '\n', ' ', '\t']).skip_while(|word| *word != "id");
    let id = words.nth(1).expect("an id").to_owned();
    (id, reverse_path.to_owned(), octets[at..].to_vec())
}

fn local_part(address: &str) -> String {
    address.rsplit_once('@').map_or(address, |(local, _)| local).trim_matches('"').to_lowercase()
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names
}
