//! Everybody on one Maildir at once: sessions, a delivering process and a mail reader that renames. No message is lost,
//! doubled or misnumbered.

mod common;

use common::chance::Chance;
use common::{PASSWORD, Scratch};
use doorpost::mailbox::maildir;
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const MESSAGES: u64 = 150;

fn body(number: u64) -> String {
    format!("Subject: {number}\n\n{}", format!("line of {number}\n").repeat(usize::try_from(number % 50).unwrap_or(0)))
}

/// As mutt does: what is new is moved to cur, and flags change. Until everything is delivered, and once more.
fn rename(maildir: &Path, is_over: &AtomicBool, mut chance: Chance) {
    loop {
        let was_over = is_over.load(Ordering::Relaxed);
        for folder in ["new", "cur"] {
            for entry in fs::read_dir(maildir.join(folder)).expect("a folder").flatten() {
                let name = entry.file_name().into_string().expect("UTF-8");
                let lasting = name.split(':').next().expect("a name");
                let flags = ["", "S", "FS", "RS"][chance.below(4)];
                if chance.below(3) > 0 {
                    // It may have been removed meanwhile.
                    let _ = fs::rename(entry.path(), maildir.join("cur").join(format!("{lasting}:2,{flags}")));
                }
            }
        }
        if was_over {
            return;
        }
    }
}

/// What a session said it removed, and what may be removed or not.
#[derive(Default)]
struct Removed {
    surely: BTreeSet<u64>,
    perhaps: BTreeSet<u64>,
}

fn number_of(id: &str) -> u64 {
    id.split('.').next().expect("a number").parse().expect("a number")
}

struct Session {
    child: std::process::Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Session {
    fn ask(&mut self, line: &str) -> String {
        write!(self.child.stdin.as_mut().expect("a pipe"), "{line}\r\n").expect("sending");
        self.line()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match self.line() {
                line if line == "." => return lines,
                line => lines.push(line),
            }
        }
    }
}

/// One session; it looks at some messages, removes some, and ends well or not.
fn session(scratch: &Scratch, chance: &mut Chance, removed: &mut Removed) {
    let mut child = scratch
        .command("pop3d")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("pop3d");
    let output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut client = Session { child, output };
    assert!(client.line().starts_with("+OK"));
    client.ask("USER bob");
    let welcome = client.ask(&format!("PASS {PASSWORD}"));
    if welcome.starts_with("-ERR [IN-USE]") {
        client.child.wait().expect("its end");
        return;
    }
    let count: usize = welcome.split(' ').nth(1).expect("a count").parse().expect(&welcome);
    client.ask("UIDL");
    let ids: Vec<String> = client.lines();
    assert_eq!(ids.len(), count);
    client.ask("LIST");
    let sizes = client.lines();
    let mut marked = BTreeSet::new();
    for (at, line) in ids.iter().enumerate() {
        let (number, id) = line.split_once(' ').expect("an id");
        assert_eq!(number, (at + 1).to_string());
        match chance.below(6) {
            0 => {
                let answer = client.ask(&format!("RETR {number}"));
                assert!(answer.starts_with("+OK"), "{id}: {answer}");
                let text: String = client.lines().iter().map(|line| format!("{line}\n")).collect();
                assert_eq!(text, body(number_of(id)), "{id}");
                assert_eq!(sizes[at], format!("{number} {}", text.len() + text.lines().count()));
            }
            1 => {
                assert!(client.ask(&format!("DELE {number}")).starts_with("+OK"));
                marked.insert(number_of(id));
            }
            _ => {}
        }
    }
    client.ask("UIDL");
    let left: Vec<u64> = client.lines().iter().map(|line| number_of(line.split_once(' ').expect("an id").1)).collect();
    let expected: Vec<u64> = ids.iter().map(|line| number_of(line.split_once(' ').expect("an id").1)).collect();
    assert!(left.iter().eq(expected.iter().filter(|number| !marked.contains(number))), "numbers changed");
    if chance.below(4) == 0 {
        drop(client.child.stdin.take());
    } else if client.ask("QUIT").starts_with("+OK") {
        removed.surely.extend(marked);
    } else {
        removed.perhaps.extend(marked);
    }
    client.child.wait().expect("its end");
}

#[test]
fn nothing_is_lost_doubled_or_misnumbered() {
    let scratch = Scratch::new();
    let maildir = scratch.maildir("bob");
    maildir::deliver(&maildir, true, "0.Q.mx", false, &mut body(0).as_bytes()).expect("delivery");
    scratch.hand_over(&scratch.path().join("mail"));
    let (is_over, sessions_so_far) = (AtomicBool::new(false), AtomicUsize::new(0));
    let results: Vec<Removed> = std::thread::scope(|scope| {
        let deliver = scope.spawn(|| {
            for number in 1..MESSAGES {
                let text = body(number);
                // Half of them by a program that writes no sizes.
                let sizes = format!(",S={},W={}", text.len(), text.len() + text.lines().count());
                let name = format!("{number}.Q.mx{}", if number % 2 == 0 { &sizes } else { "" });
                let draft = maildir.join("tmp").join(&name);
                fs::write(&draft, text).expect("a message");
                scratch.hand_over(&draft);
                fs::rename(&draft, maildir.join("new").join(&name)).expect("delivery");
                // Not faster than the others can follow.
                let before = sessions_so_far.load(Ordering::Relaxed);
                if number % 5 == 0 {
                    common::until("a session", || sessions_so_far.load(Ordering::Relaxed) > before);
                }
            }
        });
        let renamer = scope.spawn(|| rename(&maildir, &is_over, Chance(0x2545_f491_4f6c_dd1d)));
        let sessions = [1_u64, 2].map(|seed| {
            let (scratch, is_over, sessions_so_far) = (&scratch, &is_over, &sessions_so_far);
            scope.spawn(move || {
                let (mut chance, mut removed) =
                    (Chance(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed)), Removed::default());
                while !is_over.load(Ordering::Relaxed) {
                    session(scratch, &mut chance, &mut removed);
                    sessions_so_far.fetch_add(1, Ordering::Relaxed);
                }
                removed
            })
        });
        let delivered = deliver.join();
        // Some more sessions, on what does not change any more but for its names.
        std::thread::scope(|_| {
            let mut removed = Removed::default();
            let mut chance = Chance(77);
            for _ in 0..3 {
                session(&scratch, &mut chance, &mut removed);
            }
            is_over.store(true, Ordering::Relaxed);
            let mut results: Vec<Removed> =
                sessions.into_iter().map(|thread| thread.join().expect("a session")).collect();
            renamer.join().expect("the renamer");
            delivered.expect("the deliveries");
            results.push(removed);
            results
        })
    });
    let mut times: HashMap<u64, usize> = HashMap::new();
    for result in &results {
        result.surely.iter().for_each(|number| *times.entry(*number).or_default() += 1);
    }
    assert!(!times.is_empty(), "no session removed anything");
    assert!(times.values().all(|count| *count == 1), "removed twice: {times:?}");
    for text in scratch.mail("bob") {
        let text = String::from_utf8(text).expect("UTF-8");
        let number = text.split_once("Subject: ").and_then(|(_, rest)| rest.split('\n').next()).expect("a number");
        let number: u64 = number.parse().expect("a number");
        assert_eq!(text, body(number));
        *times.entry(number).or_default() += 1;
    }
    let perhaps: BTreeSet<u64> = results.iter().flat_map(|result| result.perhaps.iter().copied()).collect();
    for number in 0..MESSAGES {
        let count = times.get(&number).copied().unwrap_or_default();
        assert!(count == 1 || (count == 0 && perhaps.contains(&number)), "message {number} is there {count} times");
    }
}
