//! Unique-ids of the server that had a mailbox before, so that moving here makes no client fetch everything again.
//!
//! They are taken over once, when the administrator says so, into a file beside the mailbox: a line for each message, our
//! own unique-id and the one that clients are shown instead. Fields of messages count only here: anybody may send one.

use super::beside::Beside;
use super::file::OneFile;
use super::lock::Locking;
use super::maildir::Maildir;
use super::{Error, Maildrop, stays};
use crate::config::Config;
use crate::config::value::{MailboxFormat, MailboxSpec, Value};
use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

/// Whose unique-ids they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `dovecot-uidlist` in the Maildir, and what `pop3_uidl_format` was.
    Dovecot(String),
    /// `courierpop3dsizelist` in the Maildir.
    Courier,
    /// The field X-UIDL of the messages.
    XUidl,
}

impl Value for Source {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':').map_or((text, None), |(source, format)| (source, Some(format))) {
            ("dovecot", None) => Ok(Source::Dovecot("%08Xu%08Xv".to_owned())),
            ("dovecot", Some(format)) if put_together(format, &Dovecot::default()).is_some() => {
                Ok(Source::Dovecot(format.to_owned()))
            }
            ("courier", None) => Ok(Source::Courier),
            ("x-uidl", None) => Ok(Source::XUidl),
            _ => Err("dovecot, dovecot:FORMAT with %u, %v and %f, courier or x-uidl".to_owned()),
        }
    }
}

/// How many messages there are, and how many have a unique-id from elsewhere now.
#[derive(Debug, PartialEq, Eq)]
pub struct Imported {
    /// Messages in the mailbox.
    pub messages: usize,
    /// Those among them.
    pub imported: usize,
}

/// What was taken over before: our unique-ids, and those that clients are shown. That the file cannot be read is an
/// error, for clients would fetch everything again.
pub fn known(file: &Beside) -> io::Result<HashMap<String, String>> {
    let mut known = HashMap::new();
    file.each_line_of_ours(|line| {
        if let Some((native, other)) = line.split_once(' ')
            && is_unique_id(other)
        {
            known.insert(native.to_owned(), other.to_owned());
        }
    })?;
    Ok(known)
}

/// Takes unique-ids over, instead of those of an earlier import. No session may have the mailbox.
pub fn import(config: &Config, spec: &MailboxSpec, source: &Source) -> Result<Imported, Error> {
    let failed = |error: io::Error| Error::Io(format!("{}: {error}", spec.path));
    let file = Beside::of(spec, "ids");
    let imported = replace(config, spec, source, &file)?;
    // Done once, and the other server may be gone by the next power cut: neither the ids nor that the index of before is
    // gone, which has other ones, may get lost. They are in one folder.
    file.settle().map_err(failed)?;
    Ok(imported)
}

/// Finds them, writes them, and has the index forgotten.
fn replace(config: &Config, spec: &MailboxSpec, source: &Source, file: &Beside) -> Result<Imported, Error> {
    let path = Path::new(&spec.path);
    let failed = |error: io::Error| Error::Io(format!("{}: {error}", spec.path));
    if spec.format == MailboxFormat::Maildir {
        let maildir = Maildir::open(path)?;
        let messages = maildir.native().map_err(failed)?;
        let natives: Vec<String> = messages.iter().map(|(_, native)| native.clone()).collect();
        let others = match source {
            Source::XUidl => fields(&maildir).map_err(failed)?,
            Source::Dovecot(format) => {
                let listed = listed(&path.join("dovecot-uidlist"), |line, first| dovecot(line, first, format));
                by_name(&messages, &listed.map_err(failed)?)
            }
            Source::Courier => {
                by_name(&messages, &listed(&path.join("courierpop3dsizelist"), courier).map_err(failed)?)
            }
        };
        let imported = write(file, &natives, &others).map_err(failed)?;
        maildir.forget_index().map_err(failed)?;
        Ok(imported)
    } else {
        if *source != Source::XUidl {
            return Err(Error::Io("a mailbox of one file has unique-ids only in its X-UIDL fields".to_owned()));
        }
        let mailbox = OneFile::open(path, spec.format, Locking::of(config))?;
        let natives = mailbox.native().map_err(failed)?;
        let imported = write(file, &natives, &fields(&mailbox).map_err(failed)?).map_err(failed)?;
        mailbox.forget_index().map_err(failed)?;
        Ok(imported)
    }
}

/// Writes those down that can be unique-ids and are no other message's.
fn write(file: &Beside, natives: &[String], others: &[Option<String>]) -> io::Result<Imported> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    others.iter().flatten().for_each(|other| *counts.entry(other).or_default() += 1);
    let taken: HashSet<&str> = natives.iter().map(String::as_str).collect();
    let is_fit = |native: &str, other: &str| {
        is_unique_id(other) && counts.get(other) == Some(&1) && (native == other || !taken.contains(other))
    };
    let pairs = natives.iter().zip(others).filter_map(|(native, other)| Some((native, other.as_ref()?)));
    let lines: Vec<String> =
        pairs.filter(|(native, other)| is_fit(native, other)).map(|(n, o)| format!("{n} {o}\n")).collect();
    file.replace(&lines.concat())?;
    Ok(Imported { messages: natives.len(), imported: lines.len() })
}

/// RFC 1939 section 7.
fn is_unique_id(text: &str) -> bool {
    (1..=70).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_graphic())
}

/// The X-UIDL field of each message. One that is gone or never to be read keeps no other from its id; what may be read the
/// next time is an error, for clients would fetch it again.
fn fields(maildrop: &impl Maildrop) -> io::Result<Vec<Option<String>>> {
    let found = |number: usize| match field(maildrop, number) {
        Err(error) if error.kind() == io::ErrorKind::NotFound || stays(&error) => {
            log::warn!("message {}: its fields cannot be read: {error}", number.saturating_add(1));
            Ok(None)
        }
        answer => answer,
    };
    (0..maildrop.count()).map(found).collect()
}

fn field(maildrop: &impl Maildrop, number: usize) -> io::Result<Option<String>> {
    const LONGEST_HEADER: u64 = 256 * 1024;
    let mut header = BufReader::new(maildrop.open(number)?.take(LONGEST_HEADER));
    let mut line = Vec::new();
    loop {
        line.clear();
        header.read_until(b'\n', &mut line)?;
        let text = line.trim_ascii();
        if text.is_empty() {
            return Ok(None);
        }
        let name = line.get(..7).unwrap_or_default();
        if name.eq_ignore_ascii_case(b"x-uidl:") {
            let value = line.get(7..).unwrap_or_default().trim_ascii();
            return Ok(std::str::from_utf8(value).ok().map(str::to_owned));
        }
    }
}

/// The unique-id of each message of a Maildir out of a list by names.
fn by_name(messages: &[(Box<[u8]>, String)], listed: &HashMap<Vec<u8>, String>) -> Vec<Option<String>> {
    messages.iter().map(|(name, _)| listed.get(&**name).cloned()).collect()
}

/// What stands in a list: file names up to the `:`, and unique-ids. `read` gets each line, and the first.
fn listed(
    path: &Path,
    read: impl Fn(&[u8], &[u8]) -> Option<(Vec<u8>, String)>,
) -> io::Result<HashMap<Vec<u8>, String>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut first = None;
    let mut found = HashMap::new();
    crate::users::passwd_file::lines(std::fs::File::open(path).map_err(named)?, |_, line| {
        let line = line.unwrap_or_default();
        match &first {
            None => first = Some(line.to_vec()),
            Some(first) => found.extend(read(line, first)),
        }
        Ok::<(), io::Error>(())
    })?;
    Ok(found)
}

/// What `pop3_uidl_format` may speak of.
#[derive(Debug, Default)]
struct Dovecot<'a> {
    uid: u64,
    validity: u64,
    name: &'a str,
}

/// A line of dovecot-uidlist: of version 1 `UID NAME` below `1 VALIDITY NEXT`; of version 3 `UID [Xvalue ...] :NAME`
/// below `3 VVALIDITY ...`, where P has the unique-id itself.
fn dovecot(line: &[u8], first: &[u8], format: &str) -> Option<(Vec<u8>, String)> {
    let first = std::str::from_utf8(first).ok()?;
    let line = std::str::from_utf8(line).ok()?;
    let mut words = first.split(' ');
    let (validity, name, uid, own) = match words.next()? {
        "1" => {
            let (uid, name) = line.split_once(' ')?;
            (words.next()?, name, uid, None)
        }
        "3" => {
            let (head, name) = line.split_once(" :")?;
            let mut head = head.split(' ');
            let uid = head.next()?;
            let validity = words.find_map(|word| word.strip_prefix('V'))?;
            (validity, name, uid, head.find_map(|word| word.strip_prefix('P')))
        }
        _ => return None,
    };
    let name = name.split(':').next().unwrap_or(name);
    let values = Dovecot { uid: uid.parse().ok()?, validity: validity.parse().ok()?, name };
    let unique_id = own.map(str::to_owned).or_else(|| put_together(format, &values))?;
    Some((name.as_bytes().to_vec(), unique_id))
}

/// `pop3_uidl_format` with its values put in: `%u`, `%v`, `%f`, with 0, a width and X between; nothing where there is
/// another variable.
fn put_together(format: &str, values: &Dovecot<'_>) -> Option<String> {
    let mut text = String::new();
    let mut rest = format;
    while let Some((before, behind)) = rest.split_once('%') {
        text.push_str(before);
        let end = behind.find(|c: char| !(c.is_ascii_digit() || c == 'X'))?;
        let (how, what) = behind.split_at(end);
        let width = how.trim_end_matches('X');
        let (fill, width) = (if width.starts_with('0') { '0' } else { ' ' }, width.parse().unwrap_or(0_usize));
        let number = |number: u64| if how.ends_with('X') { format!("{number:x}") } else { number.to_string() };
        let value = match what.chars().next()? {
            'u' => number(values.uid),
            'v' => number(values.validity),
            'f' => values.name.to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        };
        let missing = width.min(70).saturating_sub(value.len());
        text.extend(std::iter::repeat_n(fill, missing));
        text.push_str(&value);
        rest = what.get(1..)?;
    }
    text.push_str(rest);
    Some(text)
}

/// A line of courierpop3dsizelist: `NAME SIZE UID[:VALIDITY[:...]]`. A UID of 0 stands for the name itself.
fn courier(line: &[u8], first: &[u8]) -> Option<(Vec<u8>, String)> {
    if !first.starts_with(b"/") {
        return None;
    }
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.rsplitn(3, ' ');
    let (numbers, _size, name) = (words.next()?, words.next()?, words.next()?);
    let name = name.split(':').next()?;
    let mut numbers = numbers.split(':').map(str::parse::<u64>);
    let (uid, validity) = (numbers.next()?.ok()?, numbers.next().and_then(Result::ok).unwrap_or(0));
    let unique_id = match (uid, validity) {
        (0, _) => name.bytes().map(escaped).collect(),
        (uid, 0) => format!("UID{uid}"),
        (uid, validity) => format!("UID{uid}-{validity}"),
    };
    Some((name.as_bytes().to_vec(), unique_id))
}

fn escaped(octet: u8) -> String {
    match octet {
        b'\'' | b'"' | b'+' => format!("+{octet:02X}"),
        0x21..=0x7e => char::from(octet).to_string(),
        _ => format!("+{octet:02X}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(found: Option<(Vec<u8>, String)>) -> Option<(String, String)> {
        found.map(|(name, id)| (String::from_utf8(name).unwrap(), id))
    }

    #[test]
    fn dovecots_lists_of_both_versions_are_read() {
        let both = |name: &str, id: &str| Some((name.to_owned(), id.to_owned()));
        let format = "%08Xu%08Xv";
        let v3 = b"3 V1257460623 N12 Gcafe";
        assert_eq!(id(dovecot(b"7 W100 :1.M1.mx,S=5:2,S", v3, format)), both("1.M1.mx,S=5", "000000074af3538f"));
        assert_eq!(id(dovecot(b"10 :1.M2.mx", v3, "%v.%u")), both("1.M2.mx", "1257460623.10"));
        assert_eq!(id(dovecot(b"10 PUID3-4 S9 :1.M2.mx", v3, format)), both("1.M2.mx", "UID3-4"));
        assert_eq!(id(dovecot(b"26 1.M3.mx:2,", b"1 1257460623 30", "%u-%v")), both("1.M3.mx", "26-1257460623"));
        for line in ["", "x :1", "7", "7 1.M1.mx"] {
            assert_eq!(id(dovecot(line.as_bytes(), v3, format)), None, "{line}");
        }
        assert_eq!(id(dovecot(b"7 :1.M1.mx", b"2 V1", format)), None);
    }

    #[test]
    fn couriers_list_is_read() {
        let both = |name: &str, id: &str| Some((name.to_owned(), id.to_owned()));
        for (line, name, expected) in [
            ("1.M1.mx,S=5:2,S 100 7:1257460623:0", "1.M1.mx,S=5", "UID7-1257460623"),
            ("1.M1.mx 100 7:1257460623", "1.M1.mx", "UID7-1257460623"),
            ("1.M1.mx 100 7:0:0", "1.M1.mx", "UID7"),
            ("1.M'1.mx:2, 100 0:0:0", "1.M'1.mx", "1.M+271.mx"),
        ] {
            assert_eq!(id(courier(line.as_bytes(), b"/3 12 1257460623")), both(name, expected), "{line}");
        }
        for line in ["", "1.M1.mx", "1.M1.mx 100", "1.M1.mx 100 x"] {
            assert_eq!(id(courier(line.as_bytes(), b"/3 12 5")), None, "{line}");
        }
    }

    #[test]
    fn a_source_is_named_with_a_format_that_can_be_put_together() {
        assert_eq!(Source::parse("dovecot"), Ok(Source::Dovecot("%08Xu%08Xv".to_owned())));
        assert_eq!(Source::parse("dovecot:%v.%u"), Ok(Source::Dovecot("%v.%u".to_owned())));
        for wrong in ["", "qmail", "dovecot:%m", "dovecot:%", "courier:x", "dovecot:%08X"] {
            assert!(Source::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_id_stays_with_its_message_where_another_program_removes_one_meanwhile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("Maildir");
        drop(Maildir::open(&path).unwrap());
        for number in 1..=3 {
            std::fs::write(path.join(format!("new/{number}.a")), format!("X-UIDL: id{number}\n\ntext\n")).unwrap();
        }
        std::fs::write(path.join("cur/3.a:2,S"), "X-UIDL: twin\n\n").unwrap();
        let maildir = Maildir::open(&path).unwrap();
        std::fs::remove_file(path.join("new/1.a")).unwrap();
        std::fs::write(path.join("new/0.b"), "X-UIDL: id0\n\ntext\n").unwrap();
        let natives: Vec<String> = maildir.native().unwrap().into_iter().map(|(_, native)| native).collect();
        let fields = fields(&maildir).unwrap();
        let shown: Vec<String> = maildir.entries().unwrap().into_iter().map(|entry| entry.unique_id).collect();
        assert_eq!(natives, shown);
        let fields: Vec<&str> = fields.iter().map(|field| field.as_deref().unwrap_or_default()).collect();
        assert_eq!(
            (&natives[..2], &fields[..]),
            (&["1.a".to_owned(), "2.a".to_owned()][..], &["", "id2", "id3", "twin"][..])
        );
    }

    #[test]
    fn what_is_no_unique_id_or_not_unique_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let spec = MailboxSpec { format: MailboxFormat::Maildir, path: folder.path().display().to_string() };
        let file = Beside::of(&spec, "ids");
        let natives: Vec<String> = ["a", "b", "c", "d", "e", "f"].map(String::from).to_vec();
        let others = [Some("one"), Some("twice"), Some("twice"), Some("a"), None, Some("with blank")];
        let others: Vec<Option<String>> = others.map(|other| other.map(str::to_owned)).to_vec();
        assert_eq!(write(&file, &natives, &others).unwrap(), Imported { messages: 6, imported: 1 });
        assert_eq!(known(&file).unwrap(), HashMap::from([("a".to_owned(), "one".to_owned())]));
    }
}
