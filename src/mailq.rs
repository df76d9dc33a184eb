//! The queue for people and programs: `mailq`, and `doorpost-queue`, which also holds, releases, deletes, requeues and
//! flushes. Looking takes no lock and disturbs nobody; `act.rs` changes messages under their locks; `status.rs` answers
//! users who ask where their own mail is; `locks.rs` tells what is being tried; `tool.rs` is both programs.

pub mod act;
mod locks;
pub mod status;
pub mod tool;

use crate::clock::since_1970;
use crate::logging::clean;
use crate::message::path::Address;
use crate::queue::{Id, Message, Name, Queue, Recipient};
use crate::submit::FILTER;
use std::collections::HashSet;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// An object of JSON a line, with the names `postqueue -j` uses and more.
    Json,
}

/// Which messages are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Every one.
    All,
    /// Those that one of these is of: an id, or a pattern with `*` for the sender or a recipient that is not done.
    Matching(Vec<String>),
    /// Those that this user handed in.
    OfUser(u32),
}

impl Selection {
    /// Operands of a command line; `ALL` is every message.
    pub fn of(patterns: &[String]) -> Selection {
        let is_all = patterns.is_empty() || patterns.iter().any(|pattern| pattern == "ALL");
        if is_all { Selection::All } else { Selection::Matching(patterns.to_vec()) }
    }

    /// Whether a message is one of them.
    pub fn has(&self, message: &Message) -> bool {
        match self {
            Selection::All => true,
            Selection::OfUser(uid) => message.attribute("uid") == Some(&uid.to_string()),
            Selection::Matching(patterns) => patterns.iter().any(|pattern| {
                let sender = String::from_utf8_lossy(message.reverse_path.as_bytes()).into_owned();
                message.id.as_str() == pattern
                    || is_like(pattern, if sender.is_empty() { "<>" } else { &sender })
                    || waiting(message).any(|one| is_like(pattern, &String::from_utf8_lossy(one.address.as_bytes())))
            }),
        }
    }

    /// Whether it has a message of this id whatever is in it.
    fn has_any(&self, id: &Id) -> bool {
        match self {
            Selection::All => true,
            Selection::OfUser(_) => false,
            Selection::Matching(patterns) => patterns.iter().any(|pattern| id.as_str() == pattern),
        }
    }

    /// The ids it names, if it names nothing else: then only these are looked at.
    fn ids(&self) -> Option<Vec<Id>> {
        match self {
            Selection::Matching(patterns) => patterns.iter().map(|pattern| pattern.parse().ok()).collect(),
            Selection::All | Selection::OfUser(_) => None,
        }
    }
}

/// Whether a text is like a pattern, in which `*` is any part; without regard to case.
fn is_like(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_ascii_lowercase(), text.to_ascii_lowercase());
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The recipients that are not done.
fn waiting(message: &Message) -> impl Iterator<Item = &Recipient> {
    message.recipients.iter().filter(|recipient| !recipient.state.is_done())
}

/// Writes the list, oldest first; gives how many files and folders there were that could not be read, of which the log has
/// one. One message at a time is in memory. A user is not told of those: nobody knows whose they are.
pub fn list(queue: &Queue, out: &mut dyn Write, format: Format, selection: &Selection) -> io::Result<usize> {
    let (now, locked) = (SystemTime::now(), locks::of(&queue.path.join("message")));
    let (mut count, mut octets, mut unread) = (0_usize, 0_u64, 0_usize);
    let (names, closed) = names(queue, selection)?;
    for name in names {
        let message = match queue.look(&name.id) {
            Ok(Some(message)) => message,
            Ok(None) => continue,
            Err(_) if matches!(selection, Selection::OfUser(_)) => continue,
            Err(error) => {
                if unread == 0 {
                    log::error!("{error}");
                }
                unread = unread.saturating_add(1);
                continue;
            }
        };
        if !selection.has(&message) {
            continue;
        }
        if count == 0 && format == Format::Text {
            writeln!(out, "{:<16} {:>9} {:>5}  {:<10} Sender", "Queue id", "Size", "Age", "Next try")?;
        }
        (count, octets) = (count.saturating_add(1), octets.saturating_add(message.size));
        let shown = Shown { message: &message, name, state: state(&message, name, &locked, now), now };
        match format {
            Format::Text => shown.text(out)?,
            Format::Json => shown.json(out)?,
        }
    }
    if format == Format::Text {
        match count {
            0 if unread > 0 || closed > 0 => {}
            0 if matches!(selection, Selection::Matching(_)) => writeln!(out, "No message is like that")?,
            0 => writeln!(out, "Mail queue is empty")?,
            1 => writeln!(out, "-- 1 message, {octets} octets")?,
            _ => writeln!(out, "-- {count} messages, {octets} octets")?,
        }
        match unread {
            0 => {}
            1 => writeln!(out, "-- 1 file that cannot be read")?,
            _ => writeln!(out, "-- {unread} files that cannot be read")?,
        }
        match closed {
            0 => {}
            1 => writeln!(out, "-- 1 folder of messages that cannot be read")?,
            _ => writeln!(out, "-- {closed} folders of messages that cannot be read")?,
        }
    }
    Ok(unread.saturating_add(closed))
}

/// The messages that may be meant, and in how many folders there may be more that this process cannot look into.
fn names(queue: &Queue, selection: &Selection) -> io::Result<(Vec<Name>, usize)> {
    let (mut names, mut closed) = queue.names_and_closed()?;
    if let Some(ids) = selection.ids() {
        names.retain(|name| ids.contains(&name.id));
        closed.retain(|folder| ids.iter().any(|id| id.folder() == folder));
    }
    let closed = if matches!(selection, Selection::OfUser(_)) { 0 } else { closed.len() };
    Ok((names, closed))
}

fn state(message: &Message, name: Name, locked: &HashSet<u64>, now: SystemTime) -> &'static str {
    match () {
        () if name.is_held => "hold",
        () if locked.contains(&name.inode) => "active",
        () if name.next_try > now || message.recipients.iter().any(|recipient| recipient.attempts > 0) => "deferred",
        () => "incoming",
    }
}

struct Shown<'a> {
    message: &'a Message,
    name: Name,
    state: &'static str,
    now: SystemTime,
}

impl Shown<'_> {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let message = self.message;
        let next = match self.state {
            "hold" => "held".to_owned(),
            "active" => "now trying".to_owned(),
            _ => match self.name.next_try.duration_since(self.now) {
                Ok(wait) => format!("in {}", short(wait)),
                Err(_) => "due".to_owned(),
            },
        };
        let age = short(self.now.duration_since(message.created).unwrap_or_default());
        let sender = clean(message.reverse_path.to_string().as_bytes(), 320);
        writeln!(out, "{:<16} {:>9} {age:>5}  {next:<10} {sender}", message.id.as_str(), message.size)?;
        if let Some(filter) = message.attribute(FILTER) {
            writeln!(out, "    by content_filter {}", clean(filter.as_bytes(), 320))?;
        }
        let mut last = None;
        for recipient in waiting(message) {
            let reason = Some((recipient.report.as_str(), recipient.attempts)).filter(|(report, _)| !report.is_empty());
            if reason.is_some() && reason != last {
                writeln!(out, "    ({}; {} tries)", recipient.report, recipient.attempts)?;
            }
            last = reason;
            writeln!(out, "    to <{}>", address(&recipient.address))?;
        }
        Ok(())
    }

    fn json(&self, out: &mut dyn Write) -> io::Result<()> {
        let message = self.message;
        let seconds = |time: SystemTime| since_1970(time).as_secs();
        write!(
            out,
            "{{\"queue_name\": \"{}\", \"queue_id\": \"{}\", \"arrival_time\": {}, \"message_size\": {}, \"age\": {}, \
             \"next_try\": {}, \"channel\": {}, \"sender\": {}, \"recipients\": [",
            self.state,
            message.id,
            seconds(message.created),
            message.size,
            self.now.duration_since(message.created).map_or(0, |age| age.as_secs()),
            if self.state == "hold" { "null".to_owned() } else { seconds(self.name.next_try).to_string() },
            quoted(message.channel.as_bytes()),
            quoted(message.reverse_path.as_bytes()),
        )?;
        for (number, recipient) in waiting(message).enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            let (address, reason) = (quoted(recipient.address.as_bytes()), quoted(recipient.report.as_bytes()));
            let attempts = recipient.attempts;
            write!(out, "{comma}{{\"address\": {address}, \"delay_reason\": {reason}, \"tries\": {attempts}}}")?;
        }
        write!(out, "]")?;
        if let Some(filter) = message.attribute(FILTER) {
            write!(out, ", \"content_filter\": {}", quoted(filter.as_bytes()))?;
        }
        writeln!(out, "}}")
    }
}

fn address(address: &Address) -> String {
    clean(address.to_string().as_bytes(), 320)
}

/// A string of JSON; what is not UTF-8 is replaced.
fn quoted(octets: &[u8]) -> String {
    let mut text = String::from("\"");
    for letter in String::from_utf8_lossy(octets).chars() {
        match letter {
            '"' | '\\' => text.extend(['\\', letter]),
            ' '..='~' => text.push(letter),
            _ => {
                let mut units = [0; 2];
                letter.encode_utf16(&mut units).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
            }
        }
    }
    text.push('"');
    text
}

/// A length of time in few characters.
fn short(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_have_stars_for_any_part_and_no_regard_to_case() {
        for (pattern, text, like) in [
            ("*@example.net", "bob@EXAMPLE.net", true),
            ("*@example.net", "bob@example.net.org", false),
            ("bob@*", "bob@x", true),
            ("bob@x", "bob@x", true),
            ("bob", "bob@x", false),
            ("*b*@*x*", "bob@axb", true),
            ("a*a", "a", false),
            ("*", "", true),
            ("<>", "<>", true),
        ] {
            assert_eq!(is_like(pattern, text), like, "{pattern} {text}");
        }
    }

    #[test]
    fn a_user_is_not_told_how_many_files_of_the_queue_cannot_be_read() {
        use crate::queue::Head;
        let folder = tempfile::tempdir().unwrap();
        let queue = Queue::open(&folder.path().join("queue")).unwrap();
        let mut draft = queue.begin().unwrap();
        draft.recipient(&Address::from_internal(b"bob@mx.example").unwrap()).unwrap();
        let (reverse_path, channel) = (crate::message::path::ReversePath::NULL, "local".to_owned());
        let id = draft.commit(&Head { reverse_path, trace: Vec::new(), channel }).unwrap();
        let file = folder.path().join("queue/message").join(id.folder()).join(id.as_str());
        std::fs::remove_file(&file).unwrap();
        // Whoever opens a socket has an error.
        let _socket = std::os::unix::net::UnixListener::bind(&file).unwrap();
        for (selection, unread) in [(Selection::All, 1), (Selection::OfUser(4242), 0)] {
            let mut out = Vec::new();
            assert_eq!(list(&queue, &mut out, Format::Text, &selection).unwrap(), unread);
            assert_eq!(String::from_utf8(out).unwrap().contains("cannot be read"), unread > 0);
        }
    }

    #[test]
    fn strings_of_json_hide_nothing_and_break_nothing() {
        assert_eq!(quoted(b"a\"b\\c\n\x1b\xff"), "\"a\\\"b\\\\c\\u000a\\u001b\\ufffd\"");
        assert_eq!(quoted("\u{1f600}".as_bytes()), "\"\\ud83d\\ude00\"");
    }

    #[test]
    fn times_are_short() {
        let text = |seconds| short(Duration::from_secs(seconds));
        assert_eq!([text(0), text(119), text(120), text(7200), text(172_800)], ["0s", "119s", "2m", "2h", "2d"]);
    }
}
