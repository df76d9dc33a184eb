//! Who has mail here: lists of users, ways to check a password, and mailboxes.

use super::{List, Value};
use std::path::{Path, PathBuf};

/// `users`: one source, or several in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Users(pub Vec<UserSource>);

impl Users {
    /// The files among them.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter_map(|source| match source {
            UserSource::PasswdFile(path) => Some(path.as_path()),
            UserSource::System => None,
        })
    }
}

impl Value for Users {
    fn parse(text: &str) -> Result<Self, String> {
        match List::parse(text)? {
            List(sources) if sources.is_empty() => Err("system, or passwd-file: and an absolute path".to_owned()),
            List(sources) => Ok(Users(sources)),
        }
    }
}

/// One place where those are listed who have a mailbox here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserSource {
    /// The users of this system, getpwnam(3).
    System,
    /// The users of a password file in Dovecot's layout.
    PasswdFile(PathBuf),
}

impl Value for UserSource {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text.eq_ignore_ascii_case("system") => Ok(UserSource::System),
            Some(("passwd-file", path)) if path.starts_with('/') => Ok(UserSource::PasswdFile(PathBuf::from(path))),
            _ => Err("system, or passwd-file: and an absolute path".to_owned()),
        }
    }
}

/// One way to check a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthMethod {
    /// A PAM helper program.
    Pam,
    /// The shadow file; Mailutils calls this `system` or `generic`.
    Shadow,
    /// A password file; without a path the one of `users`.
    PasswdFile(Option<PathBuf>),
    /// A program with DJB's checkpassword interface.
    Checkpassword(PathBuf),
}

impl Value for AuthMethod {
    fn parse(text: &str) -> Result<Self, String> {
        let (kind, path) = match text.split_once(':') {
            None => (text, None),
            Some((kind, path)) => (kind, Some(PathBuf::from(path))),
        };
        match (kind.to_ascii_lowercase().as_str(), path) {
            ("pam", None) => Ok(AuthMethod::Pam),
            ("shadow" | "system" | "generic", None) => Ok(AuthMethod::Shadow),
            ("passwd-file", None) => Ok(AuthMethod::PasswdFile(None)),
            ("passwd-file", Some(path)) if path.is_absolute() => Ok(AuthMethod::PasswdFile(Some(path))),
            ("checkpassword", Some(path)) if path.is_absolute() => Ok(AuthMethod::Checkpassword(path)),
            _ => Err("pam, shadow, system, generic, passwd-file[:/path] or checkpassword:/path".to_owned()),
        }
    }
}

/// `mailbox`: format and path, the path still with `~`, `%u`, `%n` and `%d`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailboxSpec {
    /// The format.
    pub format: MailboxFormat,
    /// The path before anything is put in.
    pub path: String,
}

/// Of a mailbox in Dovecot's words, what says nothing of where the INBOX is.
const BESIDE: [&str; 9] =
    ["INDEX", "INDEXPVT", "INDEXCACHE", "CONTROL", "VOLATILEDIR", "LISTINDEX", "SUBSCRIPTIONS", "UTF-8", "NO-NOSELECT"];

/// That of everybody's mailbox, which would be one for all if nothing in it were each user's.
impl Value for MailboxSpec {
    fn parse(text: &str) -> Result<Self, String> {
        let spec = MailboxSpec::of_one(text)?;
        match spec.path.starts_with("~/") || placeholders(&spec.path).contains(['u', 'n']) {
            true => Ok(spec),
            false => {
                let path = crate::config::shown(&spec.path);
                Err(format!("%u or %n in {path}, or ~/ before it: all users would have one mailbox"))
            }
        }
    }
}

impl MailboxSpec {
    /// A mailbox that may be one user's alone. The path ends at a colon; behind it is what Dovecot may have there.
    pub fn of_one(text: &str) -> Result<Self, String> {
        let (format, rest) = text.split_once(':').unwrap_or_default();
        let Some(format) = MailboxFormat::of(format) else {
            return Err("maildir:, mbox: or mmdf: and a path".to_owned());
        };
        let mut words = rest.split(':');
        let mut path = words.next().unwrap_or_default();
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match (key.to_ascii_uppercase().as_str(), value.to_ascii_lowercase().as_str()) {
                ("INBOX", _) => path = value,
                // Other layouts have it elsewhere.
                ("LAYOUT", "fs" | "maildir++") => {}
                (key, _) if BESIDE.contains(&key) => {}
                _ => {
                    let word = crate::config::shown(word);
                    return Err(format!(
                        "INBOX=, LAYOUT=fs, INDEX=, CONTROL= or the like, and not {word}, behind the path"
                    ));
                }
            }
        }
        if !path.starts_with("~/") && !path.starts_with('/') {
            return Err("a path that begins with / or ~/ behind the mailbox format".to_owned());
        }
        Ok(MailboxSpec { format, path: path.to_owned() })
    }
}

/// The letters of what is put into a path for a user: of `%u`, `%n`, `%d` and `%%`.
pub fn placeholders(mut path: &str) -> String {
    let mut letters = String::new();
    while let Some((_, behind)) = path.split_once('%') {
        let letter = behind.chars().next().filter(|letter| "und%".contains(*letter));
        letters.extend(letter);
        path = behind.get(letter.map_or(0, char::len_utf8)..).unwrap_or_default();
    }
    letters
}

/// The format of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailboxFormat {
    /// A folder with tmp, new and cur; a file a message.
    Maildir,
    /// One file; messages begin with a `From ` line.
    Mbox,
    /// One file; messages stand between lines of four ^A.
    Mmdf,
}

impl MailboxFormat {
    /// That of a name.
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "maildir" => Some(MailboxFormat::Maildir),
            "mbox" => Some(MailboxFormat::Mbox),
            "mmdf" => Some(MailboxFormat::Mmdf),
            _ => None,
        }
    }
}

/// `mailbox_delivery_lock`: a way to lock a mailbox that is one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// fcntl(2).
    Fcntl,
    /// flock(2).
    Flock,
    /// The file NAME.lock.
    Dotlock,
}

impl Value for LockKind {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "fcntl" => Ok(LockKind::Fcntl),
            "flock" => Ok(LockKind::Flock),
            "dotlock" => Ok(LockKind::Dotlock),
            _ => Err("fcntl, flock or dotlock".to_owned()),
        }
    }
}

/// Where a target other than an address stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MailSource {
    /// In the alias file.
    Alias,
    /// In a user's `~/.forward`.
    Forward,
}

impl Value for MailSource {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "alias" => Ok(MailSource::Alias),
            "forward" => Ok(MailSource::Forward),
            _ => Err("words out of alias, forward".to_owned()),
        }
    }
}

/// `pop3d_expire`: days, or none, which is never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expire(pub Option<u32>);

impl Value for Expire {
    fn parse(text: &str) -> Result<Self, String> {
        let is_number = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
        match text.parse() {
            _ if text.eq_ignore_ascii_case("never") => Ok(Expire(None)),
            // A century and more is more than any client can make of it.
            Ok(days) if is_number && days <= 65_535 => Ok(Expire(Some(days))),
            _ => Err("never, or a number of days up to 65535".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Result<String, String> {
        MailboxSpec::of_one(text).map(|spec| spec.path)
    }

    #[test]
    fn what_dovecot_has_behind_the_path_is_no_part_of_it() {
        for (text, expected) in [
            ("maildir:~/Maildir", "~/Maildir"),
            ("maildir:~/Maildir:INDEX=/tmp/x", "~/Maildir"),
            ("maildir:~/Maildir:LAYOUT=fs:CONTROL=/c:index=MEMORY", "~/Maildir"),
            ("mbox:~/mail:INBOX=/var/mail/%u", "/var/mail/%u"),
            ("mbox:~/mail:INBOX=/var/mail/%u:INDEX=/i", "/var/mail/%u"),
        ] {
            assert_eq!(path(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, named) in [
            ("maildir:~/Maildir:DIRNAME=x", "DIRNAME=x"),
            ("maildir:~/Maildir:LAYOUT=index", "LAYOUT=index"),
            ("maildir:/a:b", "not b"),
            ("maildir:/a:", "INBOX="),
            ("mbox:~/mail:INBOX=mail", "a path that begins"),
        ] {
            let expected = path(text).expect_err(text);
            assert!(expected.contains(named), "{text}: {expected}");
        }
    }

    #[test]
    fn one_mailbox_is_not_everybodys() {
        for text in ["maildir:/var/vm", "mbox:/var/mail", "maildir:/mail/%d", "maildir:/mail/%%u", "maildir:/mail/%x"] {
            assert!(MailboxSpec::parse(text).is_err_and(|expected| expected.contains("%u or %n")), "{text}");
            assert!(MailboxSpec::of_one(text).is_ok(), "{text}");
        }
        for text in ["maildir:~/Maildir", "mbox:/var/mail/%u", "maildir:/mail/%d/%n", "mmdf:/100%%/%u/in"] {
            assert!(MailboxSpec::parse(text).is_ok(), "{text}");
        }
        assert!(MailboxSpec::parse("mbox:~/mail:INBOX=/var/mail").is_err());
    }
}
