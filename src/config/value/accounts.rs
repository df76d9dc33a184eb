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
            None if text == "system" => Ok(UserSource::System),
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
        match (kind, path) {
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

impl Value for MailboxSpec {
    fn parse(text: &str) -> Result<Self, String> {
        let format = match text.split_once(':').map(|(format, _)| format) {
            Some("maildir") => MailboxFormat::Maildir,
            Some("mbox") => MailboxFormat::Mbox,
            Some("mmdf") => MailboxFormat::Mmdf,
            _ => return Err("maildir:, mbox: or mmdf: and a path".to_owned()),
        };
        let path = text.split_once(':').map_or("", |(_, path)| path);
        if !path.starts_with("~/") && !path.starts_with('/') {
            return Err("a path that begins with / or ~/ behind the mailbox format".to_owned());
        }
        Ok(MailboxSpec { format, path: path.to_owned() })
    }
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
        match text {
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
            _ if text == "never" => Ok(Expire(None)),
            // A century and more is more than any client can make of it.
            Ok(days) if is_number && days <= 65_535 => Ok(Expire(Some(days))),
            _ => Err("never, or a number of days up to 65535".to_owned()),
        }
    }
}
