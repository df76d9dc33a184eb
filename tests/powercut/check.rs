//! What must hold when the power comes back.

use super::disk::{Device, Kind, Mount};
use super::pop3::Maildrop;
use super::workload::{Acknowledged, Site, content, is_far};
use crate::common::feed;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// One machine that is switched on again and again.
pub struct Restarted {
    kind: Kind,
    site: Site,
    pub images: Vec<PathBuf>,
    /// Whether the file systems are looked at as well, which takes as long as all else.
    pub looks_at_disks: bool,
    /// Cuts so far.
    turn: Cell<usize>,
    /// Images that did not mount before their checker had mended them.
    pub mended: Cell<usize>,
}

impl Restarted {
    /// `images`: where the disks are put before each start.
    pub fn new(kind: Kind, images: Vec<PathBuf>) -> Restarted {
        let site = Site::new(images.len());
        // Of a dot lock the power cut may have left the name alone: then nobody can tell whose it was before it is old.
        site.scratch.configure("stale_lock_time = 1s");
        Restarted { kind, site, images, looks_at_disks: true, turn: Cell::new(0), mended: Cell::new(0) }
    }

    /// Mounts the disks, lets deliver run once, and gives everything that is wrong then. `acknowledged` are the messages
    /// whose client had read the reply before the cut, `taken` those that the next hop had the end of, `maildrops` the
    /// mailboxes of POP3 and whether QUIT had been answered before.
    pub fn violations(
        &self,
        acknowledged: &[&Acknowledged],
        taken: &[usize],
        maildrops: &[(Maildrop, bool)],
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut mounts = Vec::new();
        for (number, image) in self.images.iter().enumerate() {
            match self.mount(image, &self.site.mount_point(number)) {
                Ok(mounted) => mounts.push(mounted),
                Err(problem) => return vec![format!("does not mount: {problem}")],
            }
        }
        self.site.hop.taken.lock().expect("the list").clear();
        self.deliver(&mut wrong);
        let mut found = self.mailboxes(&mut wrong);
        self.one_file(&self.site.mbox(), &mut found, &mut wrong);
        self.one_file(&self.site.mmdf(), &mut found, &mut wrong);
        self.next_hop(taken, &mut found, &mut wrong);
        for message in acknowledged {
            if !found.contains_key(&message.number) {
                wrong.push(format!("message {} is lost", message.number));
            }
        }
        // A repeated delivery finds what the first one wrote (`one_file` looks at those by itself): not even what was in
        // flight may be there twice.
        // But a next hop cannot be asked: what it had the end of may reach it once more.
        let most = |number: usize| if is_far(number) { 2 } else { 1 };
        for (number, times) in found.iter().filter(|(number, times)| **times > most(**number)) {
            wrong.push(format!("message {number} is there {times} times"));
        }
        self.maildrops(maildrops, &mut wrong);
        drop(mounts);
        let looked_at = self.images.iter().filter(|_| self.looks_at_disks);
        wrong.extend(looked_at.filter_map(|image| self.kind.check(image).err()));
        wrong
    }

    /// In this order they are dropped: unmounted, then let go.
    fn mount(&self, image: &Path, at: &Path) -> Result<(Mount, Device), String> {
        let device = Device::new(image);
        let problem = match Mount::new(self.kind, &device, at) {
            Ok(mount) => return Ok((mount, device)),
            Err(problem) => problem,
        };
        drop(device);
        if !self.kind.mend(image) {
            return Err(problem);
        }
        self.mended.set(self.mended.get() + 1);
        let device = Device::new(image);
        Mount::new(self.kind, &device, at).map(|mount| (mount, device))
    }

    /// One ordinary sweep, after which the queue is empty.
    fn deliver(&self, wrong: &mut Vec<String>) {
        if !self.site.queue().is_dir() {
            wrong.push("the queue is gone".to_owned());
            return;
        }
        let output = feed(&mut self.site.scratch.command("deliver"), b"");
        if !output.status.success() {
            wrong.push(format!("deliver: {output:?}"));
        }
        let queue = doorpost::queue::Queue::at(&self.site.queue());
        let later = SystemTime::now() + Duration::from_secs(86_400 * 20);
        for (_, id) in queue.due(later).unwrap_or_default() {
            match queue.take(&id) {
                Ok(None) => {}
                Ok(Some(_)) => {
                    wrong.push(format!("left in the queue: {id}; deliver said {}", output.stderr.escape_ascii()))
                }
                Err(error) => wrong.push(format!("{id} cannot be read: {error:?}")),
            }
        }
    }

    /// What the next hop has: from before the cut, and now.
    fn next_hop(&self, taken: &[usize], found: &mut BTreeMap<usize, usize>, wrong: &mut Vec<String>) {
        for number in taken {
            *found.entry(*number).or_insert(0) += 1;
        }
        for message in self.site.hop.taken() {
            let text = message.content.replace("\r\n", "\n");
            let number = text.split_once("Subject: message ").and_then(|(_, rest)| rest.lines().next()?.parse().ok());
            match number.filter(|number| text.as_bytes().ends_with(&content(*number))) {
                Some(number) => *found.entry(number).or_insert(0) += 1,
                None => wrong.push(format!("torn, at the next hop: {} octets", text.len())),
            }
        }
    }

    /// Every mailbox of POP3, and one of them, at each cut another, as the next session sees it.
    fn maildrops(&self, maildrops: &[(Maildrop, bool)], wrong: &mut Vec<String>) {
        let folder = self.site.read_folder();
        let before = wrong.len();
        wrong.extend(maildrops.iter().filter_map(|(maildrop, told)| maildrop.violation(&folder, *told)));
        let turn = self.turn.replace(self.turn.get() + 1);
        let next = maildrops.get(turn % maildrops.len().max(1)).filter(|_| wrong.len() == before);
        wrong.extend(next.and_then(|(maildrop, _)| maildrop.misjudged(&self.site)));
    }

    /// A mailbox that is one file: message behind message and nothing else. Of the one that was in flight there may be two,
    /// where the queue lost that it was tried and another message came first.
    fn one_file(&self, path: &Path, found: &mut BTreeMap<usize, usize>, wrong: &mut Vec<String>) {
        let octets = fs::read(path).unwrap_or_default();
        let mut here: BTreeMap<usize, usize> = BTreeMap::new();
        let mut rest = octets.as_slice();
        while !rest.is_empty() {
            // Less than a separator might be anybody's last words, and is left alone.
            rest = behind_stub(rest);
            let Some((number, behind)) = first_message(rest, path.ends_with("mmdf")) else {
                if rest.is_empty() {
                    break;
                }
                let at = octets.len() - rest.len();
                let seen = rest.get(..rest.len().min(200)).unwrap_or_default().escape_ascii();
                wrong.push(format!("torn: {} at {at} of {}: {seen}", path.display(), octets.len()));
                break;
            };
            *here.entry(number).or_insert(0) += 1;
            rest = behind;
        }
        let more: usize = here.values().map(|times| times - 1).sum();
        if more > 1 {
            wrong.push(format!("{more} messages are twice in {}", path.display()));
        }
        for number in here.into_keys() {
            *found.entry(number).or_insert(0) += 1;
        }
    }

    /// Each message and how often it is there; a file that is none of ours, whole, is wrong.
    fn mailboxes(&self, wrong: &mut Vec<String>) -> BTreeMap<usize, usize> {
        let mut found = BTreeMap::new();
        for path in self.site.messages() {
            let octets = fs::read(&path).unwrap_or_default();
            let number = behind_trace(&octets).and_then(|rest| {
                let line = rest.strip_prefix(b"Subject: message ")?.split(|octet| *octet == b'\n').next()?;
                let number: usize = std::str::from_utf8(line).ok()?.parse().ok()?;
                (rest == content(number)).then_some(number)
            });
            match number {
                Some(number) => *found.entry(number).or_insert(0) += 1,
                None => wrong.push(format!("torn: {} ({} octets)", path.display(), octets.len())),
            }
        }
        found
    }
}

/// What is behind a separator of an mbox that was cut off, and what closed it.
fn behind_stub(octets: &[u8]) -> &[u8] {
    const BEGIN: &[u8] = b"From alice@mx.example ";
    let end = octets.iter().position(|octet| *octet == b'\n').unwrap_or(octets.len());
    let (line, rest) = octets.split_at(end);
    let is_stub = !line.is_empty() && (BEGIN.starts_with(line) || line.starts_with(BEGIN));
    match rest.strip_prefix(b"\n\n") {
        Some(rest) if is_stub => rest,
        None if is_stub && rest.is_empty() => rest,
        _ => octets,
    }
}

/// The number of the first message of a mailbox that is one file, and what is behind it.
fn first_message(octets: &[u8], is_mmdf: bool) -> Option<(usize, &[u8])> {
    const DELIMITER: &[u8] = b"\x01\x01\x01\x01\n";
    const DATE: usize = "Sun Nov 22 04:27:00 2026\n".len();
    let (rest, end) = match is_mmdf {
        true => (octets.strip_prefix(DELIMITER)?, DELIMITER),
        false => (octets.strip_prefix(b"From alice@mx.example ")?.get(DATE..)?, b"\n".as_slice()),
    };
    let path = b"Return-Path: <alice@mx.example>\n";
    let rest = rest.strip_prefix(path)?.strip_prefix(b"X-Delivery-ID: ")?;
    let line = rest.iter().position(|octet| *octet == b'\n')?;
    let (mark, rest) = rest.split_at(line + 1);
    let rest = behind_trace(&[path, rest].concat()).map(<[u8]>::len).and_then(|left| rest.get(rest.len() - left..))?;
    let number = rest.strip_prefix(b"Subject: message ")?.split(|octet| *octet == b'\n').next()?;
    let number: usize = std::str::from_utf8(number).ok()?.parse().ok()?;
    let behind = rest.strip_prefix(content(number).as_slice())?.strip_prefix(end)?;
    mark.ends_with(b" whole  \n").then_some((number, behind))
}

/// What comes behind the fields that doorpost puts in front: two, and where it went by an alias two more.
fn behind_trace(octets: &[u8]) -> Option<&[u8]> {
    let rest = octets.strip_prefix(b"Return-Path: <alice@mx.example>\n")?;
    match rest.strip_prefix(b"Delivered-To: large@mx.example\n") {
        Some(rest) => behind_received(behind_received(rest)?),
        None => behind_received(rest),
    }
}

fn behind_received(octets: &[u8]) -> Option<&[u8]> {
    let rest = octets.strip_prefix(b"Received: ")?;
    let ends = rest.iter().enumerate().filter(|(_, octet)| **octet == b'\n');
    let end = ends.map(|(at, _)| at + 1).find(|at| !matches!(rest.get(*at), Some(b' ' | b'\t')))?;
    rest.get(end..)
}
