//! The passwd-file: one user a line in Dovecot's layout, `user:password:uid:gid:gecos:home:shell:extra`.
//!
//! Trailing fields may be missing; blank lines and lines that begin with `#` are skipped. The file is read line by line
//! in constant memory, and each reader sees each line, so that a mistake anywhere in it is found and the time a look-up
//! takes does not tell where a user stands. What passwords may look like is `auth::scheme`'s affair.

use crate::auth::scheme;
use crate::config;
use crate::config::value::{MailboxSpec, Value};
use crate::wire::line::{Line, LineEnd, LineReader};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Longest line, in octets without its end: a hash of 500 and two paths of 1000 leave room.
const LONGEST_LINE: usize = 4096;

/// One line. Every login reads all of them, so nothing is copied that need not be.
#[derive(Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// The user's name, or for virtual users the whole address.
    pub name: &'a str,
    /// `{SCHEME}hash`; none: this user gets mail but cannot log in with a password of this file.
    pub password: Option<&'a str>,
    /// uid and gid; none: whoever runs the program.
    pub owner: Option<(u32, u32)>,
    /// The home folder, absolute.
    pub home: Option<&'a Path>,
    /// `mailbox=` of the extra fields.
    pub mailbox: Option<MailboxSpec>,
}

/// Why a file could not be read to its end.
#[derive(Debug)]
pub enum Trouble {
    /// A line is wrong: file, line and what was expected.
    Line(config::Error),
    /// The system could not read it.
    Io(io::Error),
}

impl Trouble {
    /// What a record says of it; `path` is that of the file.
    pub fn with(&self, path: &Path) -> String {
        match self {
            Trouble::Line(error) => error.to_string(),
            Trouble::Io(error) => format!("{}: {error}", path.display()),
        }
    }
}

/// Gives every user of the file to `each`, which may find fault with a line by saying what was expected.
pub fn read(path: &Path, mut each: impl FnMut(Record<'_>) -> Result<(), String>) -> Result<(), Trouble> {
    let file = File::open(path).map_err(Trouble::Io)?;
    lines(file, |number, line| {
        let wrong = |expected| Trouble::Line(config::Error::at(path, number, format!("expected {expected}")));
        let line = line.ok_or_else(|| wrong(format!("a line of at most {LONGEST_LINE} octets")))?;
        match record(line).map_err(wrong)? {
            Some(record) => each(record).map_err(wrong),
            None => Ok(()),
        }
    })
}

/// Gives every line and its number (from 1) to `each`; a line that is too long is none. Also a last line without end.
pub fn lines<E: From<io::Error>>(
    mut file: impl Read,
    mut each: impl FnMut(usize, Option<&[u8]>) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = LineReader::new(LONGEST_LINE, LineEnd::Lenient);
    let (mut buffer, mut number) = ([0; 8192], 0);
    loop {
        let count = match file.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        let at_end = count == 0;
        let mut rest = match buffer.get(..count) {
            Some(_) if at_end && reader.in_line() => b"\n",
            Some(octets) => octets,
            None => &[],
        };
        while !rest.is_empty() {
            let (taken, line) = reader.push(rest);
            rest = rest.get(taken..).unwrap_or_default();
            if let Some(line) = line {
                number += 1;
                let whole = if let Line::Whole(octets) = line { Some(octets) } else { None };
                each(number, whole)?;
            }
        }
        if at_end {
            return Ok(());
        }
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Io(error)
    }
}

/// Reads a line; nothing if it is blank or a comment. The error is what was expected.
pub fn record(line: &[u8]) -> Result<Option<Record<'_>>, String> {
    if line.first() == Some(&b'#') || line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    // Not into more than eight: the extra fields may contain colons.
    let mut fields = [&[][..]; 8];
    fields.iter_mut().zip(line.splitn(8, |&octet| octet == b':')).for_each(|(field, octets)| *field = octets);
    let name = text(&fields, 0, "the name")?;
    if !super::is_possible_name(name.as_bytes()) {
        return Err("a user name without '/' and control characters that does not begin with '.'".to_owned());
    }
    let password = text(&fields, 1, "the password")?;
    scheme::check_form(password)?;
    let home = text(&fields, 5, "the home folder")?;
    if !home.is_empty() && !home.starts_with('/') {
        return Err("an absolute path as home folder".to_owned());
    }
    Ok(Some(Record {
        name,
        password: (!password.is_empty()).then_some(password),
        owner: owner(text(&fields, 2, "the uid")?, text(&fields, 3, "the gid")?)?,
        home: (!home.is_empty()).then(|| Path::new(home)),
        mailbox: mailbox(text(&fields, 7, "the extra fields")?)?,
    }))
}

/// A field; the empty text where it is missing. (The name of a person in the fifth may be in any character set.)
fn text<'a>(fields: &[&'a [u8]], position: usize, what: &str) -> Result<&'a str, String> {
    let octets = fields.get(position).copied().unwrap_or_default();
    let text = std::str::from_utf8(octets).map_err(|_| format!("UTF-8 in {what}"))?;
    // Most are ASCII, and there may be many.
    let is_control =
        if text.is_ascii() { octets.iter().any(u8::is_ascii_control) } else { text.chars().any(char::is_control) };
    if is_control { Err(format!("no control characters in {what}")) } else { Ok(text) }
}

fn owner(uid: &str, gid: &str) -> Result<Option<(u32, u32)>, String> {
    if uid.is_empty() && gid.is_empty() {
        return Ok(None);
    }
    let expected = || "numbers from 0 to 4294967294 as uid and gid, or both empty".to_owned();
    let number = |text: &str| match u32::parse(text) {
        // The last number means "do not change" to the system.
        Ok(u32::MAX) | Err(_) => Err(expected()),
        Ok(_) if text.is_empty() => Err(expected()),
        Ok(number) => Ok(number),
    };
    Ok(Some((number(uid)?, number(gid)?)))
}

/// `mailbox=` (Dovecot: `userdb_mail=`) of the extra fields, which are separated by blanks.
///
/// Other `userdb_` fields mean something to Dovecot only. Any other field is an error, because it may well be one that
/// should keep somebody out, such as `allow_nets`.
fn mailbox(extra: &str) -> Result<Option<MailboxSpec>, String> {
    let mut found = None;
    for field in extra.split_ascii_whitespace() {
        let value = field.strip_prefix("mailbox=").or_else(|| field.strip_prefix("userdb_mail="));
        match value {
            Some(value) if found.is_none() => found = Some(MailboxSpec::parse(value)?),
            Some(_) => return Err("one mailbox= only".to_owned()),
            None if field.starts_with("userdb_") => {}
            None => return Err("mailbox=FORMAT:PATH behind the shell".to_owned()),
        }
    }
    Ok(found)
}

/// Never shows the password.
impl std::fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record").field("name", &self.name).field("owner", &self.owner).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Origin;
    use crate::config::value::MailboxFormat;
    use std::io::Write as _;

    fn one(line: &str) -> Record<'_> {
        record(line.as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn all_fields_are_taken() {
        let record = one("bob:{PLAIN}secret:1000:100:Bob:/home/bob:/bin/sh:mailbox=maildir:/mail/%u");
        assert_eq!(record.name, "bob");
        assert_eq!(record.password, Some("{PLAIN}secret"));
        assert_eq!(record.owner, Some((1000, 100)));
        assert_eq!(record.home, Some(Path::new("/home/bob")));
        let expected = MailboxSpec { format: MailboxFormat::Maildir, path: "/mail/%u".to_owned() };
        assert_eq!(record.mailbox, Some(expected));
    }

    #[test]
    fn trailing_fields_may_be_missing() {
        for line in ["bob", "bob:", "bob:{PLAIN}x", "bob::::::", "bob@example.net:{PLAIN}x:::::"] {
            let record = one(line);
            assert_eq!((record.owner, record.home, record.mailbox), (None, None, None), "{line}");
        }
    }

    #[test]
    fn dovecots_own_fields_are_taken_or_skipped() {
        let record = one("bob:{PLAIN}x::::::userdb_quota_rule=*:storage=1G userdb_mail=maildir:/mail/bob");
        assert_eq!(record.mailbox.unwrap().path, "/mail/bob");
    }

    #[test]
    fn what_may_be_an_access_rule_is_not_skipped() {
        assert!(record(b"bob:{PLAIN}x::::::allow_nets=10.0.0.0/8").is_err());
    }

    #[test]
    fn comments_and_blank_lines_are_skipped() {
        for line in ["", "   ", "\t", "#bob:{PLAIN}x", "# "] {
            assert_eq!(record(line.as_bytes()), Ok(None), "{line:?}");
        }
    }

    #[test]
    fn wrong_fields_are_errors() {
        for line in [
            ":{PLAIN}x",
            "../bob:{PLAIN}x",
            "a/b:{PLAIN}x",
            "bob:secret",
            "bob:{ROT13}x",
            "bob:{PLAIN}x:1000",
            "bob:{PLAIN}x::100",
            "bob:{PLAIN}x:+1:1",
            "bob:{PLAIN}x:4294967295:1",
            "bob:{PLAIN}x:99999999999:1",
            "bob:{PLAIN}x:::gecos:home",
            "bob:{PLAIN}x::::::mailbox=mbox",
            "bob:{PLAIN}x::::::mailbox=maildir:/a mailbox=maildir:/b",
            "bob:{PLAIN}\x07",
        ] {
            assert!(record(line.as_bytes()).is_err(), "{line:?}");
        }
        assert!(record(b"b\xf6b:{PLAIN}x").is_err());
        assert!(record(b"bob:{PLAIN}x:::B\xf6b:/home/bob").is_ok());
    }

    #[test]
    fn a_wrong_line_is_named_by_file_and_number() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"# users\nbob:{PLAIN}x\ncarol:secret").unwrap();
        let Err(Trouble::Line(error)) = read(file.path(), |_| Ok(())) else { panic!("the line was taken") };
        assert_eq!(error.origin, Origin::File(file.path().into(), 3));
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn an_endless_line_is_an_error_and_is_not_kept() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![b'x'; 1 << 20]).unwrap();
        let Err(Trouble::Line(error)) = read(file.path(), |_| Ok(())) else { panic!("the line was taken") };
        assert_eq!(error.origin, Origin::File(file.path().into(), 1));
    }
}
