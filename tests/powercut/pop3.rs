//! Sessions of POP3 that remove messages, and what must be left of their mailboxes after a cut.
//!
//! Each mailbox is on disk before the first cut and has one session, so that only two states of it are right: as it was,
//! and, whatever else was said, without the marked messages once QUIT was answered with +OK.

use super::workload::{Site, content, positions};
use crate::common::{PASSWORD, feed};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SEPARATOR: &[u8] = b"From alice@mx.example Sun Nov 22 04:27:00 2026\n";

/// The mailbox of one session: an mbox where its number is even, else a Maildir.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maildrop(pub usize);

impl Maildrop {
    fn is_mbox(self) -> bool {
        self.0.is_multiple_of(2)
    }

    /// The numbers of its messages, which nobody sends.
    fn messages(self) -> Range<usize> {
        let first = 1_000_000 + self.0 * 10;
        first..first + 3 + self.0 % 4
    }

    /// Some of its messages, in one of five mailboxes all.
    fn is_marked(self, number: usize) -> bool {
        self.0 % 5 == 4 || number % 3 == self.0 % 3
    }

    fn stays(self, number: usize) -> bool {
        !self.is_marked(number)
    }

    fn path(self, folder: &Path) -> PathBuf {
        folder.join(format!("alice-{}", self.0))
    }

    /// Whose fsync a planted fault leaves out: the new file of an mbox before it gets its name.
    pub fn draft(self, folder: &Path) -> PathBuf {
        folder.join(format!(".alice-{}.doorpost", self.0))
    }

    /// Where a Maildir has its messages.
    pub fn folders(self, folder: &Path) -> [PathBuf; 2] {
        ["new", "cur"].map(|part| self.path(folder).join(part))
    }

    /// Makes it in `folder`.
    pub fn make(self, folder: &Path) {
        let path = self.path(folder);
        if self.is_mbox() {
            fs::write(path, in_mbox(self.messages())).expect("an mbox");
            return;
        }
        fs::create_dir_all(path.join("tmp")).expect("a Maildir");
        let folders = self.folders(folder);
        folders.iter().for_each(|folder| fs::create_dir(folder).expect("a part of a Maildir"));
        for number in self.messages() {
            fs::write(folders[number % 2].join(format!("{number}.M0.mx")), content(number)).expect("a message");
        }
    }

    fn pop3d(self, site: &Site) -> Command {
        let format = if self.is_mbox() { "mbox" } else { "maildir" };
        let mut command = site.command("pop3d");
        command.arg("-o").arg(format!("mailbox={format}:{}/%u-{}", site.read_folder().display(), self.0));
        command
    }

    /// One session, which removes what is marked. Gives how long the logs were when the client had read the reply to QUIT.
    pub fn quit(self, site: &Site, logs: &[PathBuf]) -> Vec<u64> {
        let mut server = self.pop3d(site);
        server.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = server.spawn().expect("pop3d");
        let mut to = server.stdin.take().expect("a pipe");
        let mut from = BufReader::new(server.stdout.take().expect("a pipe"));
        let marked = (1..).zip(self.messages()).filter(|(_, number)| self.is_marked(*number));
        let marked = marked.map(|(at, _)| format!("DELE {at}"));
        let login = ["USER alice".to_owned(), format!("PASS {PASSWORD}")];
        let mut line = String::new();
        from.read_line(&mut line).expect("a greeting");
        for command in login.into_iter().chain(marked).chain(["QUIT".to_owned()]) {
            assert!(line.starts_with("+OK"), "{self:?}, before {command}: {line}");
            to.write_all(format!("{command}\r\n").as_bytes()).expect("a server that listens");
            line.clear();
            from.read_line(&mut line).expect("a reply");
        }
        let position = positions(logs);
        assert!(line.starts_with("+OK"), "{self:?}, QUIT: {line}");
        let _ = server.wait();
        position
    }

    /// What is wrong with it after a cut. `told`: QUIT had been answered.
    pub fn violation(self, folder: &Path, told: bool) -> Option<String> {
        let violation = if self.is_mbox() { self.mbox(folder, told) } else { self.maildir(folder, told) };
        violation.err().map(|what| format!("mailbox {}, {}: {what}", self.0, if told { "emptied" } else { "not told" }))
    }

    fn mbox(self, folder: &Path, told: bool) -> Result<(), String> {
        let octets = fs::read(self.path(folder)).map_err(|error| error.to_string())?;
        let (old, new) = (in_mbox(self.messages()), in_mbox(self.messages().filter(|number| self.stays(*number))));
        match octets {
            octets if octets == new => Ok(()),
            octets if octets != old => Err(format!("neither the old one nor the new one ({} octets)", octets.len())),
            _ if told => Err("QUIT was answered, and it is the old one".to_owned()),
            _ => Ok(()),
        }
    }

    fn maildir(self, folder: &Path, told: bool) -> Result<(), String> {
        let mut found = BTreeSet::new();
        for folder in self.folders(folder) {
            for entry in fs::read_dir(folder).map_err(|error| error.to_string())?.flatten() {
                let octets = fs::read(entry.path()).unwrap_or_default();
                let number = self.messages().find(|number| octets == content(*number));
                let number = number.ok_or_else(|| format!("torn: {}", entry.path().display()))?;
                if !found.insert(number) {
                    return Err(format!("message {number} is there twice"));
                }
            }
        }
        match self.messages().find(|number| found.contains(number) != self.stays(*number)) {
            Some(number) if self.stays(number) => Err(format!("message {number} was not marked and is gone")),
            Some(number) if told => Err(format!("QUIT was answered, and message {number} is there")),
            _ => Ok(()),
        }
    }

    /// What the next session says wrong of a mailbox that is itself right: of an index that the cut has torn, say.
    pub fn misjudged(self, site: &Site) -> Option<String> {
        let login = format!("USER alice\r\nPASS {PASSWORD}\r\nSTAT\r\nQUIT\r\n");
        let folder = site.read_folder();
        let output = feed(&mut self.pop3d(site), login.as_bytes());
        let is_there = |number: &usize| match self.is_mbox() {
            true => self.stays(*number) || self.mbox(&folder, true).is_err(),
            false => {
                let files = self.folders(&folder).into_iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten();
                files.flatten().any(|file| fs::read(file.path()).is_ok_and(|octets| octets == content(*number)))
            }
        };
        let on_the_wire = |octets: &[u8]| octets.len() + octets.iter().filter(|octet| **octet == b'\n').count();
        let sizes: Vec<usize> = self.messages().filter(is_there).map(|number| on_the_wire(&content(number))).collect();
        let expected = format!("\r\n+OK {} {}\r\n", sizes.len(), sizes.iter().sum::<usize>());
        let said = String::from_utf8_lossy(&output.stdout);
        (!said.contains(&expected)).then(|| format!("mailbox {}: not {expected:?} but {said:?}", self.0))
    }
}

fn in_mbox(numbers: impl Iterator<Item = usize>) -> Vec<u8> {
    numbers.flat_map(|number| [SEPARATOR, &content(number), b"\n"].concat()).collect()
}
