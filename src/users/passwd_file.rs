//! The passwd-file: one user a line in Dovecot's layout, `user:password:uid:gid:gecos:home:shell:extra`.
//!
//! Trailing fields may be missing; blank lines and lines that begin with `#` are skipped. The file is read line by line
//! in constant memory, and each reader sees each line, so that a mistake anywhere in it is found and the time a look-up
//! takes does not tell where a user stands. What passwords may look like is `users::scheme`'s affair.

use crate::again::again;
use crate::config::value::{MailboxSpec, Value};
use crate::config::{self, shown};
use crate::users::scheme;
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
    /// uid or gid is a name, and what it stands for the system's affair.
    pub asks_system: bool,
    /// The home folder, absolute.
    pub home: Option<&'a Path>,
    /// `mailbox=` of the extra fields.
    pub mailbox: Option<MailboxSpec>,
    /// A field that keeps others out than a password does: nobody logs in by this line.
    pub kept_out: Option<&'a str>,
    /// What was expected in this line instead, so that nothing can be told of this user; others have nothing to do with it.
    pub fault: Option<String>,
    /// The number of the line.
    pub number: usize,
}

impl Record<'_> {
    /// What is wrong with the line, if something is.
    pub fn error(&self, path: &Path) -> Option<config::Error> {
        self.fault.as_ref().map(|expected| config::Error::at(path, self.number, format!("expected {expected}")))
    }

    /// Why nobody may log in by this line, where that is not the password's affair.
    pub fn ban(&self, path: &Path) -> Option<String> {
        let of = |field| {
            format!("{}:{}: {field}= is not understood, so {} cannot log in", path.display(), self.number, self.name)
        };
        self.error(path).map(|error| error.to_string()).or_else(|| self.kept_out.map(of))
    }
}

/// The names of users and groups in the last line: the next has mostly the same.
#[derive(Default)]
pub struct Ids {
    uid: Option<(String, u32)>,
    gid: Option<(String, u32)>,
    asked: bool,
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
    let mut ids = Ids::default();
    lines(file, |number, line| {
        let wrong = |expected| Trouble::Line(config::Error::at(path, number, format!("expected {expected}")));
        let line = line.ok_or_else(|| wrong(format!("a line of at most {LONGEST_LINE} octets")))?;
        match record(line, &mut ids).map_err(wrong)? {
            Some(record) => each(Record { number, ..record }).map_err(wrong),
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

/// Reads a line; nothing if it is blank or a comment. The error is what was expected where not even the name can be read.
pub fn record<'a>(line: &'a [u8], ids: &mut Ids) -> Result<Option<Record<'a>>, String> {
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
    let none = Record {
        name,
        password: None,
        owner: None,
        asks_system: false,
        home: None,
        mailbox: None,
        kept_out: None,
        fault: None,
        number: 0,
    };
    ids.asked = false;
    let found = behind_name(&fields, ids, none.clone()).unwrap_or_else(|fault| Record { fault: Some(fault), ..none });
    Ok(Some(Record { asks_system: ids.asked, ..found }))
}

fn behind_name<'a>(fields: &[&'a [u8]], ids: &mut Ids, none: Record<'a>) -> Result<Record<'a>, String> {
    let password = text(fields, 1, "the password")?;
    scheme::check_form(password)?;
    let extra = Extra::of(text(fields, 7, "the extra fields")?)?;
    let home = extra.home.unwrap_or(text(fields, 5, "the home folder")?);
    if !home.is_empty() && !home.starts_with('/') {
        return Err("an absolute path as home folder".to_owned());
    }
    let uid = extra.uid.unwrap_or(text(fields, 2, "the uid")?);
    let gid = extra.gid.unwrap_or(text(fields, 3, "the gid")?);
    Ok(Record {
        password: (!password.is_empty()).then_some(password),
        owner: owner(uid, gid, ids)?,
        home: (!home.is_empty()).then(|| Path::new(home)),
        mailbox: extra.mailbox,
        kept_out: extra.kept_out,
        ..none
    })
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

fn owner(uid: &str, gid: &str, ids: &mut Ids) -> Result<Option<(u32, u32)>, String> {
    use nix::unistd::{Group, User};
    if uid.is_empty() && gid.is_empty() {
        return Ok(None);
    }
    ids.asked = is_name(uid) || is_name(gid);
    let user = |name: &str| again(|| User::from_name(name)).map(|user| user.map(|user| user.uid.as_raw()));
    let group = |name: &str| again(|| Group::from_name(name)).map(|group| group.map(|group| group.gid.as_raw()));
    Ok(Some((id(uid, &mut ids.uid, user)?, id(gid, &mut ids.gid, group)?)))
}

fn is_name(id: &str) -> bool {
    id.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
}

fn id(
    text: &str,
    known: &mut Option<(String, u32)>,
    of_name: impl Fn(&str) -> nix::Result<Option<u32>>,
) -> Result<u32, String> {
    let expected = "numbers from 0 to 4294967294, or names of this system, as uid and gid, or both empty";
    if is_name(text) {
        return match known {
            Some((name, id)) if name == text => Ok(*id),
            known => match of_name(text) {
                Ok(Some(id)) => Ok(known.insert((text.to_owned(), id)).1),
                Ok(None) => Err(format!("{expected}, and not {}", shown(text))),
                Err(errno) => {
                    let why = io::Error::from(errno);
                    Err(format!("{expected}, and {} cannot be looked up: {why}", shown(text)))
                }
            },
        };
    }
    match u32::parse(text) {
        // The last number means "do not change" to the system.
        Ok(u32::MAX) | Err(_) => Err(expected.to_owned()),
        Ok(_) if text.is_empty() => Err(expected.to_owned()),
        Ok(number) => Ok(number),
    }
}

/// What of the extra fields counts here; they are separated by blanks.
#[derive(Default)]
struct Extra<'a> {
    mailbox: Option<MailboxSpec>,
    uid: Option<&'a str>,
    gid: Option<&'a str>,
    home: Option<&'a str>,
    kept_out: Option<&'a str>,
}

/// Fields of Dovecot's passdb by which a password alone does not let in.
const KEEPS_OUT: [&str; 7] =
    ["allow_nets", "allow_real_nets", "nologin", "noauthenticate", "k5principals", "proxy", "proxy_maybe"];

impl<'a> Extra<'a> {
    /// Fields that mean something to Dovecot only are skipped where they begin with `userdb_`, but not what would have the
    /// mail elsewhere; and `nopassword`, without which nobody gets in either. Any other is an error.
    fn of(text: &'a str) -> Result<Extra<'a>, String> {
        let mut extra = Extra::default();
        for field in text.split_ascii_whitespace() {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            match name {
                "mailbox" | "userdb_mail" | "userdb_mail_location" if extra.mailbox.is_none() => {
                    extra.mailbox = Some(MailboxSpec::of_one(value)?);
                }
                "mailbox" | "userdb_mail" | "userdb_mail_location" => return Err("one mailbox= only".to_owned()),
                "userdb_uid" => extra.uid = Some(value),
                "userdb_gid" => extra.gid = Some(value),
                "userdb_home" => extra.home = Some(value),
                _ if KEEPS_OUT.contains(&name) => extra.kept_out = Some(name),
                "nopassword" => {}
                "userdb_user" | "userdb_chroot" => {
                    return Err(format!("no field {name}=, which cannot be followed here"));
                }
                // Since Dovecot 2.4 there are several of these.
                _ if name.starts_with("userdb_mail_") => {
                    return Err(format!("mailbox=FORMAT:PATH in place of {}=", shown(name)));
                }
                _ if name.starts_with("userdb_") => {}
                _ if field.contains('=') => {
                    return Err(format!("mailbox=FORMAT:PATH behind the shell, and not {}=", shown(name)));
                }
                // It may be part of a password.
                _ => return Err("mailbox=FORMAT:PATH behind the shell".to_owned()),
            }
        }
        Ok(extra)
    }
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
        record(line.as_bytes(), &mut Ids::default()).unwrap().unwrap()
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
        for field in ["allow_nets=10.0.0.0/8", "nologin", "proxy=y"] {
            let line = format!("bob:{{PLAIN}}x::::::userdb_mail=maildir:/mail/bob {field}");
            let record = one(&line);
            assert_eq!(record.kept_out, field.split('=').next());
            let ban = record.ban(Path::new("/p")).unwrap();
            assert!(ban.contains(record.kept_out.unwrap()) && record.fault.is_none(), "{ban}");
        }
        let fault = one("bob:{PLAIN}x::::::restricted=1").fault.unwrap();
        assert!(fault.contains("restricted="), "{fault}");
    }

    #[test]
    fn the_userdbs_owner_and_home_come_before_the_fields() {
        let record = one("bob:{PLAIN}x:1:1::/a::userdb_uid=2 userdb_gid=3 userdb_home=/b nopassword");
        assert_eq!((record.owner, record.home), (Some((2, 3)), Some(Path::new("/b"))));
        for (field, named) in [("userdb_mail_path=~/x", "userdb_mail_path"), ("userdb_chroot=/c", "userdb_chroot")] {
            let line = format!("bob:{{PLAIN}}x::::::{field}");
            assert!(one(&line).fault.is_some_and(|fault| fault.contains(named)), "{field}");
        }
    }

    #[test]
    fn owners_may_be_names_of_this_system() {
        assert_eq!(one("bob:{PLAIN}x:root:root").owner, Some((0, 0)));
        assert!(one("bob:{PLAIN}x:no-such-user:root").fault.is_some_and(|fault| fault.contains("not no-such-user")));
    }

    #[test]
    fn a_name_whose_look_up_failed_is_looked_up_again_for_the_next_line() {
        let mut known = None;
        let fault = id("bob", &mut known, |_| Err(nix::errno::Errno::EIO)).unwrap_err();
        assert!(fault.contains("bob cannot be looked up"), "{fault}");
        assert!(id("bob", &mut known, |_| Ok(None)).is_err());
        assert_eq!(id("bob", &mut known, |_| Ok(Some(7))), Ok(7));
        assert_eq!(id("bob", &mut known, |_| panic!("it is known")), Ok(7));
        assert_eq!(id("carol", &mut known, |_| Ok(Some(8))), Ok(8));
    }

    #[test]
    fn comments_and_blank_lines_are_skipped() {
        for line in ["", "   ", "\t", "#bob:{PLAIN}x", "# "] {
            assert_eq!(record(line.as_bytes(), &mut Ids::default()), Ok(None), "{line:?}");
        }
    }

    #[test]
    fn wrong_fields_are_faults_of_the_line_and_wrong_names_of_the_file() {
        for line in [":{PLAIN}x", "../bob:{PLAIN}x", "a/b:{PLAIN}x"] {
            assert!(record(line.as_bytes(), &mut Ids::default()).is_err(), "{line:?}");
        }
        for line in [
            "bob:secret",
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
            let record = one(line);
            assert!(record.fault.is_some() && record.password.is_none() && record.name == "bob", "{line:?}");
        }
        assert!(record(b"b\xf6b:{PLAIN}x", &mut Ids::default()).is_err());
        assert!(record(b"bob:{PLAIN}x:::B\xf6b:/home/bob", &mut Ids::default()).unwrap().unwrap().fault.is_none());
    }

    #[test]
    fn a_wrong_line_is_named_by_file_and_number() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"# users\nbob:{PLAIN}x\ncarol:secret").unwrap();
        let mut error = None;
        read(file.path(), |record| {
            error = record.error(file.path());
            Ok(())
        })
        .unwrap();
        let error = error.expect("a fault");
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
