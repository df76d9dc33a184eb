//! Everybody on one mbox at once: sessions, deliveries, ours and another program's, and a mail reader that writes flags into
//! the file in its place. No message is lost, doubled or misnumbered, and a unique-id is always that of one message.

mod common;

use common::chance::Chance;
use common::{PASSWORD, Scratch, until};
use nix::fcntl::{FcntlArg, fcntl};
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const MESSAGES: u64 = 120;
/// These come by submit and deliver.
const BY_US: u64 = 12;
const SEPARATOR: &str = "From a@client.example Sun Nov 22 04:27:00 2026\n";

/// The 13th of 20 are twins of the one before, but for their subject.
fn body(number: u64) -> String {
    let lines = if number % 20 == 13 { number - 1 } else { number } % 50;
    format!("Subject: {number}\n\n{}", "From here on, a line\n".repeat(usize::try_from(lines).unwrap_or(0)))
}

/// The message without what is added on its way and in the mailbox.
fn plain(text: &str) -> String {
    let (header, body) = text.split_once("\n\n").expect("a header");
    let subject = header.lines().find(|line| line.starts_with("Subject: ")).expect("a subject");
    format!("{subject}\n\n{body}")
}

fn number_in(text: &str) -> u64 {
    let subject = text.lines().find_map(|line| line.strip_prefix("Subject: ")).expect("a subject");
    subject.parse().expect("a number")
}

/// The mailbox under the locks that procmail and mutt take: the dot lock first, so that what is opened stays in its place.
fn locked<T>(mailbox: &Path, act: impl FnOnce(&mut File) -> T) -> T {
    let dot = mailbox.with_file_name("bob.lock");
    until("the dot lock", || OpenOptions::new().write(true).create_new(true).open(&dot).is_ok());
    let mut file = OpenOptions::new().read(true).write(true).open(mailbox).expect("the mailbox");
    let lock = nix::libc::flock {
        l_type: nix::libc::F_WRLCK as i16,
        l_whence: nix::libc::SEEK_SET as i16,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_OFD_SETLKW(&lock)).expect("a lock");
    let result = act(&mut file);
    drop(file);
    fs::remove_file(&dot).expect("the dot lock");
    result
}

fn append(mailbox: &Path, number: u64) {
    let quoted = body(number).replace("\nFrom ", "\n>From ");
    let message = format!("{SEPARATOR}{quoted}\n");
    locked(mailbox, |file| {
        file.seek(SeekFrom::End(0)).expect("the end");
        file.write_all(message.as_bytes()).expect("a message");
    });
}

/// As mutt does: flags are set or taken away, and all from the first one on is written anew.
fn set_flags(mailbox: &Path, chance: &mut Chance) {
    locked(mailbox, |file| {
        let mut text = String::new();
        file.read_to_string(&mut text).expect("text");
        let mut new = String::new();
        for line in text.split_inclusive('\n') {
            if line.starts_with("Status: ") && chance.below(3) > 0 {
                continue;
            }
            new.push_str(line);
            if line.starts_with("Subject: ") && chance.below(8) == 0 {
                new.push_str("Status: RO\n");
            }
        }
        let same = text.bytes().zip(new.bytes()).take_while(|(old, new)| old == new).count();
        file.seek(SeekFrom::Start(same as u64)).expect("a place");
        file.write_all(&new.as_bytes()[same..]).expect("the rest");
        file.set_len(new.len() as u64).expect("its length");
    });
}

/// What a session said it removed, and what may be removed or not.
#[derive(Default)]
struct Removed {
    surely: Vec<u64>,
    perhaps: Vec<u64>,
}

/// What all have in common.
struct Site {
    scratch: Scratch,
    /// What message a unique-id was seen to be.
    ids: Mutex<HashMap<String, u64>>,
    /// Commands so far, by which the others keep time.
    steps: AtomicUsize,
    is_over: AtomicBool,
}

impl Site {
    fn wait_for(&self, steps: usize) {
        let before = self.steps.load(Ordering::Relaxed);
        let is_over = || self.is_over.load(Ordering::Relaxed);
        until("sessions to go on", || is_over() || self.steps.load(Ordering::Relaxed) >= before + steps);
    }

    fn is(&self, id: &str, number: u64) {
        let was = *self.ids.lock().expect("the ids").entry(id.to_owned()).or_insert(number);
        assert_eq!(was, number, "{id} is another message");
    }
}

struct Session<'a> {
    site: &'a Site,
    child: std::process::Child,
    output: BufReader<std::process::ChildStdout>,
}

/// Nothing where the session broke off, as it must when the mailbox changes under what it sends.
impl Session<'_> {
    fn ask(&mut self, line: &str) -> Option<String> {
        self.site.steps.fetch_add(1, Ordering::Relaxed);
        write!(self.child.stdin.as_mut().expect("a pipe"), "{line}\r\n").ok()?;
        self.line()
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("text");
        line.strip_suffix("\r\n").map(str::to_owned)
    }

    fn lines(&mut self) -> Option<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            match self.line()? {
                line if line == "." => return Some(lines),
                line => lines.push(line),
            }
        }
    }

    /// Asks for a message or its header, which must be there.
    fn text(&mut self, command: &str) -> Option<String> {
        let said = self.ask(command)?;
        assert!(said.starts_with("+OK"), "{command}: {said}");
        Some(self.lines()?.iter().map(|line| format!("{line}\n")).collect())
    }

    fn run(&mut self, chance: &mut Chance, removed: &mut Removed) -> Option<()> {
        assert!(self.line()?.starts_with("+OK"));
        self.ask("USER bob")?;
        let welcome = self.ask(&format!("PASS {PASSWORD}"))?;
        if welcome.starts_with("-ERR [IN-USE]") {
            return None;
        }
        let count: usize = welcome.split(' ').nth(1).expect("a count").parse().expect(&welcome);
        self.ask("UIDL")?;
        let ids = self.lines()?;
        assert_eq!(ids.len(), count);
        let mut marked = Vec::new();
        for (at, line) in ids.iter().enumerate() {
            let (number, id) = line.split_once(' ').expect("an id");
            assert_eq!(number, (at + 1).to_string());
            match chance.below(12) {
                0 | 1 => {
                    let text = self.text(&format!("RETR {number}"))?;
                    assert_eq!(plain(&text), body(number_in(&text)), "{id}");
                    self.site.is(id, number_in(&text));
                }
                2 => {
                    let message = number_in(&self.text(&format!("TOP {number} 0"))?);
                    self.site.is(id, message);
                    assert!(self.ask(&format!("DELE {number}"))?.starts_with("+OK"));
                    marked.push((line.clone(), message));
                }
                _ => {}
            }
        }
        self.ask("UIDL")?;
        let left = self.lines()?;
        assert!(left.iter().eq(ids.iter().filter(|id| marked.iter().all(|(line, _)| line != *id))), "other numbers");
        let marked = marked.into_iter().map(|(_, message)| message);
        if chance.below(4) > 0 {
            match self.ask("QUIT") {
                Some(said) if said.starts_with("+OK") => removed.surely.extend(marked),
                _ => removed.perhaps.extend(marked),
            }
        }
        Some(())
    }
}

fn session(site: &Site, chance: &mut Chance, removed: &mut Removed) {
    let mut command = site.scratch.command("pop3d");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("pop3d");
    let output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut session = Session { site, child, output };
    session.run(chance, removed);
    drop(session.child.stdin.take());
    session.child.wait().expect("its end");
}

#[test]
fn nothing_is_lost_doubled_or_misnumbered_in_an_mbox() {
    let scratch = Scratch::new();
    let mailbox = scratch.maildir("bob");
    scratch.configure(&format!("mailbox = mbox:{}/mail/%u", scratch.path().display()));
    // Long enough for an index.
    let first = format!("{SEPARATOR}X-Long: {}\n{}\n", "x".repeat(100_000), body(0));
    fs::write(&mailbox, first).expect("a mailbox");
    scratch.hand_over(&mailbox);
    let (ids, steps, is_over) = (Mutex::default(), AtomicUsize::new(0), AtomicBool::new(false));
    let site = Site { scratch, ids, steps, is_over };
    let results: Vec<Removed> = std::thread::scope(|scope| {
        let others = scope.spawn(|| {
            for number in 1..MESSAGES {
                if number % (MESSAGES / BY_US) == 0 {
                    let words = ["-f", "alice@mx.example", "bob@mx.example"];
                    let output = site.scratch.run("submit", &words, body(number).as_bytes());
                    assert!(output.status.success(), "{output:?}");
                    site.scratch.deliver();
                } else {
                    append(&mailbox, number);
                }
                site.wait_for(3);
            }
        });
        let reader = scope.spawn(|| {
            let mut chance = Chance(0x2545_f491_4f6c_dd1d);
            while !site.is_over.load(Ordering::Relaxed) {
                set_flags(&mailbox, &mut chance);
                site.wait_for(20);
            }
        });
        let sessions = [1_u64, 2].map(|seed| {
            let site = &site;
            scope.spawn(move || {
                let (mut chance, mut removed) =
                    (Chance(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed)), Removed::default());
                while !site.is_over.load(Ordering::Relaxed) {
                    session(site, &mut chance, &mut removed);
                }
                removed
            })
        });
        let delivered = others.join();
        site.is_over.store(true, Ordering::Relaxed);
        let read = reader.join();
        let mut results: Vec<Removed> = sessions.into_iter().map(|thread| thread.join().expect("a session")).collect();
        delivered.expect("the deliveries");
        read.expect("the reader");
        // Once more, when nobody else is there.
        let mut removed = Removed::default();
        session(&site, &mut Chance(77), &mut removed);
        results.push(removed);
        results
    });
    let mut times: HashMap<u64, usize> = HashMap::new();
    for number in results.iter().flat_map(|result| &result.surely) {
        *times.entry(*number).or_default() += 1;
    }
    assert!(times.len() > 10, "hardly any session removed anything: {times:?}");
    let text = fs::read_to_string(&mailbox).expect("the mailbox");
    // What is quoted begins with another octet, so each of these lines begins a message.
    for message in format!("\n{text}").split("\nFrom ").skip(1) {
        *times.entry(number_in(message)).or_default() += 1;
    }
    let perhaps: BTreeSet<u64> = results.iter().flat_map(|result| result.perhaps.iter().copied()).collect();
    for number in 0..MESSAGES {
        let count = times.get(&number).copied().unwrap_or_default();
        assert!(count == 1 || (count == 0 && perhaps.contains(&number)), "message {number} is there {count} times");
    }
    let ids = site.ids.lock().expect("the ids");
    let numbers: BTreeSet<u64> = ids.values().copied().collect();
    assert_eq!(numbers.len(), ids.len(), "a message had two unique-ids");
}
