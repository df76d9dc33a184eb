//! Who has a mailbox here: the users of this system, or those of a passwd-file (`users`).
//!
//! A name from the network ends up in a path (`%u`), so what could leave the mail folder is no user at all. Names are
//! compared exactly first and then without regard to ASCII case, for nobody expects `Bob@` to be another than `bob@`;
//! what goes into paths and logs is the name as the table spells it.

pub mod passwd_file;
pub mod scheme;

use crate::again::again;
use crate::config::Config;
use crate::config::value::{MailboxFormat, MailboxSpec, UserSource};
use crate::exit::Error;
use crate::kept::{self, Kept, Stamp};
use crate::lookup::Lookup;
use log::Level;
use passwd_file::{Record, Trouble};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Somebody with a mailbox.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// The name that was found, which may be spelled otherwise than what was asked for.
    pub name: String,
    /// Who owns the mailbox; none: whoever runs us (a passwd-file without uids).
    pub owner: Option<(u32, u32)>,
    /// The home folder; empty where a passwd-file gives none.
    pub home: PathBuf,
    /// Where the mail is kept, when not where `mailbox` says.
    pub mailbox: Option<MailboxSpec>,
    /// The password as `{SCHEME}hash`, from a passwd-file; never logged.
    pub password: Option<String>,
    /// A user of this system, and of no file.
    pub is_of_system: bool,
}

impl User {
    /// The mailbox with `~`, `%u`, `%n` and `%d` put in.
    ///
    /// `%u` is the whole name, `%n` what stands before its last `@`, `%d` what stands behind it (nothing without `@`).
    /// Each is put in once: a `%` or `~` in a name is only a character.
    pub fn mailbox_path(&self, config: &Config) -> MailboxSpec {
        let spec = self.mailbox.as_ref().unwrap_or(&config.mailbox);
        let (local, domain) = self.name.rsplit_once('@').unwrap_or((&self.name, ""));
        let mut path = String::with_capacity(spec.path.len() + self.name.len());
        let mut rest = spec.path.as_str();
        if let Some(below) = rest.strip_prefix("~/") {
            path.push_str(&self.home.to_string_lossy());
            path.push('/');
            rest = below;
        }
        while let Some((before, behind)) = rest.split_once('%') {
            path.push_str(before);
            let (value, length) = match behind.bytes().next() {
                Some(b'u') => (self.name.as_str(), 1),
                Some(b'n') => (local, 1),
                Some(b'd') => (domain, 1),
                Some(b'%') => ("%", 1),
                _ => ("%", 0),
            };
            path.push_str(value);
            rest = behind.get(length..).unwrap_or_default();
        }
        path.push_str(rest);
        MailboxSpec { format: spec.format, path }
    }
}

/// Ends the name of a dot lock.
const LOCK: &str = ".lock";

impl User {
    /// Whether the mailbox would be the dot lock of another user's: `bob.lock` has that of `bob` where both are files.
    fn has_a_lock_for_mailbox(&self, config: &Config) -> bool {
        // The usual name costs nothing.
        (self.mailbox.is_some() || self.name.contains(LOCK)) && {
            let mailbox = self.mailbox_path(config);
            mailbox.format != MailboxFormat::Maildir && mailbox.path.ends_with(LOCK)
        }
    }
}

/// A user whose mailbox cannot be is none.
fn possible(config: &Config, found: Lookup<User>) -> Lookup<User> {
    match found {
        Lookup::Yes(user) if user.has_a_lock_for_mailbox(config) => Lookup::No,
        found => found,
    }
}

/// Never shows the password.
impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).field("owner", &self.owner).finish_non_exhaustive()
    }
}

/// Looks a local part (or, for virtual users, a whole address) up. For mail: without passwords.
pub fn find(config: &Config, name: &[u8]) -> Lookup<User> {
    find_first(config, [name])
}

/// The first of these names that somebody has.
pub fn find_first<'a>(config: &Config, names: impl IntoIterator<Item = &'a [u8]>) -> Lookup<User> {
    let tables: Vec<_> = config.users.0.iter().map(|source| Table::of(config, source)).collect();
    for name in names {
        let name = std::str::from_utf8(name).ok().filter(|name| is_possible_name(name.as_bytes()));
        let Some(name) = name else { continue };
        let found = tables.iter().map(|table| possible(config, table.find(name))).find(|found| *found != Lookup::No);
        if let Some(found) = found {
            return found;
        }
    }
    Lookup::No
}

/// One of `users`, ready to be asked.
enum Table<'a> {
    System,
    /// A large file, or one that names owners: nothing of it is kept.
    File(&'a Config, &'a Path),
    Users(Arc<Option<Vec<Entry>>>),
    Broken(String),
}

/// A user, or the name and what is wrong with the line.
type Entry = Result<User, (String, String)>;

fn name_of(entry: &Entry) -> &str {
    match entry {
        Ok(user) => &user.name,
        Err((name, _)) => name,
    }
}

impl<'a> Table<'a> {
    fn of(config: &'a Config, source: &'a UserSource) -> Table<'a> {
        // Whether lines without a home folder are right depends on `mailbox`.
        static KEPT: [Kept<Option<Vec<Entry>>>; 2] = [Kept::new(), Kept::new()];
        let UserSource::PasswdFile(path) = source else { return Table::System };
        let is_below_home = config.mailbox.path.starts_with("~/");
        match KEPT[usize::from(is_below_home)].get(path, || kept_of(config, path)) {
            Ok(users) if users.is_none() => Table::File(config, path),
            Ok(users) => Table::Users(users),
            Err(trouble) => Table::Broken(trouble.with(path)),
        }
    }

    fn find(&self, name: &str) -> Lookup<User> {
        match self {
            Table::System => in_system(name).for_mail(),
            Table::File(config, path) => in_file(config, path, name, false).0.for_mail(),
            Table::Users(users) => {
                let users = users.as_deref().unwrap_or_default();
                let alike = |entry: &&Entry| name_of(entry).eq_ignore_ascii_case(name);
                match users.iter().find(|entry| name_of(entry) == name).or_else(|| users.iter().find(alike)) {
                    Some(Ok(user)) => Lookup::Yes(user.clone()),
                    Some(Err((_, why))) => Lookup::CannotTell(why.clone()),
                    None => Lookup::No,
                }
            }
            Table::Broken(why) => Lookup::CannotTell(why.clone()),
        }
    }
}

/// What is kept of a file, if anything is.
fn kept_of(config: &Config, path: &Path) -> Result<Option<Vec<Entry>>, Trouble> {
    if path.metadata()?.len() > kept::LARGEST {
        return Ok(None);
    }
    kept::unless_just_emptied(path)?;
    let (mut users, mut asks_system) = (Vec::new(), false);
    passwd_file::read(path, |record| {
        let name = record.name;
        asks_system |= record.asks_system;
        users.push(match user(config, path, record) {
            Ok(user) => Ok(User { password: None, ..user }),
            Err(why) => Err((name.to_owned(), why)),
        });
        Ok(())
    })?;
    // What the system says of names may change while the file stays as it is.
    Ok(Some(users).filter(|_| !asks_system))
}

/// What a source says of a name.
enum Said {
    User(User),
    Nothing,
    /// Somebody has it, and what is said of him cannot be used, or keeps him out.
    Unusable(String),
    /// It cannot be asked, by this name or any.
    Trouble(String),
}

impl Said {
    /// Mail waits for what is not certain.
    fn for_mail(self) -> Lookup<User> {
        match self {
            Said::User(user) => Lookup::Yes(user),
            Said::Nothing => Lookup::No,
            Said::Unusable(why) | Said::Trouble(why) => Lookup::CannotTell(why),
        }
    }
}

/// A user, and what it takes to check a password.
pub(crate) struct Found {
    /// With the password that stands beside the name.
    pub(crate) user: Option<User>,
    /// Why there is none that may log in, though the name is somebody's.
    pub(crate) kept_out: Option<String>,
    /// Why some source could not be asked.
    pub(crate) trouble: Option<String>,
    /// The place in `users` of the source that knows the user.
    pub(crate) source: Option<usize>,
    /// Some password of the first source that has any, for hashing when there is no such user.
    pub(crate) sample: Option<String>,
}

/// Like [`find`], with the password and never from memory. What is wrong with one user is no trouble: that may be told to
/// everybody, and this would tell who is there.
pub(crate) fn find_with_sample(config: &Config, name: &[u8]) -> Found {
    // A name that cannot be is looked up all the same, as one that nobody has: it must not be answered faster.
    let name = std::str::from_utf8(name).ok().filter(|name| is_possible_name(name.as_bytes())).unwrap_or("");
    let mut found = Found { user: None, kept_out: None, trouble: None, source: None, sample: None };
    for (place, source) in config.users.0.iter().enumerate() {
        // All are asked, whoever has the name: nobody is to be found faster.
        let (said, other) = match source {
            UserSource::System => (in_system(name), None),
            UserSource::PasswdFile(path) => in_file(config, path, name, true),
        };
        found.sample = found.sample.or(other);
        // Behind a source that cannot be asked it may be another's namesake.
        let is_open = found.user.is_none() && found.kept_out.is_none() && found.trouble.is_none();
        match said {
            Said::User(user) if is_open && !user.has_a_lock_for_mailbox(config) => {
                (found.user, found.source) = (Some(user), Some(place));
            }
            Said::Unusable(why) if is_open => (found.kept_out, found.source) = (Some(why), Some(place)),
            Said::Trouble(why) => drop(found.trouble.get_or_insert(why)),
            Said::User(_) | Said::Unusable(_) | Said::Nothing => {}
        }
    }
    found
}

/// A user of this system, whoever has the mailboxes.
pub fn system_user(name: &str) -> Lookup<User> {
    in_system(name).for_mail()
}

/// Reads the whole files that `users` names, so that a name that cannot be read or a missing file is told at the start, and
/// so is what is wrong with one user's line.
pub fn check_file(config: &Config) -> Result<(), Error> {
    check_names(config, true)
}

/// The same; `tells`: also of what is wrong with one user's line.
pub(crate) fn check_names(config: &Config, tells: bool) -> Result<(), Error> {
    config.users.files().try_for_each(|path| {
        let stamp = Stamp::of(path);
        // Strangers make as many sessions as they like.
        let level = || if kept::is_news(path, stamp) { Level::Warn } else { Level::Debug };
        let (mut known, mut wrong) = (None, None);
        let mut more = 0;
        let each = |record: Record<'_>| {
            let (name, record) = (record.name, judged(config, record));
            if let Some(error) = record.error(path) {
                more += usize::from(wrong.is_some());
                wrong.get_or_insert_with(|| format!("user={name:?} reason={:?}", error.to_string()));
            } else if (record.mailbox.is_some() || name.contains(LOCK)) && whole(record).has_a_lock_for_mailbox(config)
            {
                let level = *known.get_or_insert_with(level);
                log::log!(level, "event=no-user user={name:?} reason=\"the mailbox would be a dot lock\"");
            }
            Ok(())
        };
        passwd_file::read(path, each).map_err(|trouble| match trouble {
            Trouble::Line(error) => Error::Config(error),
            Trouble::Io(error) => unreadable(config, "users", path, &error),
        })?;
        if let Some(wrong) = wrong.filter(|_| tells) {
            log::log!(known.unwrap_or_else(level), "event=wrong-line {wrong} more={more}");
        }
        Ok(())
    })
}

/// Whether a process of user `uid` may write every mailbox there is: a passwd-file without other uids. Those of the
/// system's users belong to many.
pub fn all_belong_to(config: &Config, uid: u32) -> bool {
    config.users.0.iter().all(|source| {
        let UserSource::PasswdFile(path) = source else { return false };
        let mut all = true;
        let read = passwd_file::read(path, |record| {
            all = all && record.owner.is_none_or(|(owner, _)| owner == uid);
            Ok(())
        });
        read.is_ok() && all
    })
}

/// What a passwd-file that cannot be read is: a wrong configuration, if it is not there or not for us.
pub(crate) fn unreadable(config: &Config, parameter: &str, path: &Path, error: &std::io::Error) -> Error {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::IsADirectory | ErrorKind::NotADirectory => {
            let origin = config.origin(parameter);
            let problem = format!("{parameter}: expected a readable file at {}: {error}", path.display());
            Error::Config(crate::config::Error { origin, problem })
        }
        _ => Error::Temporary(format!("{}: {error}", path.display())),
    }
}

/// Whether a name may be looked up and put into a path: not empty, UTF-8, no control characters, no `/`, and neither
/// of the parts `%u`, `%n` and `%d` begins with a dot.
pub(crate) fn is_possible_name(name: &[u8]) -> bool {
    const LONGEST: usize = 255;
    let Ok(text) = std::str::from_utf8(name) else { return false };
    let (local, domain) = text.rsplit_once('@').map_or((text, None), |(local, domain)| (local, Some(domain)));
    let part = |part: &str| !part.is_empty() && !part.starts_with('.');
    text.len() <= LONGEST
        && !text.chars().any(|c| c.is_control() || c == '/' || c == ':')
        && part(local)
        && domain.is_none_or(part)
}

fn in_system(name: &str) -> Said {
    if name.is_empty() {
        return Said::Nothing;
    }
    let lower = name.to_ascii_lowercase();
    match by_name(name) {
        Said::Nothing if lower != name => by_name(&lower),
        said => said,
    }
}

fn by_name(name: &str) -> Said {
    let entry = match again(|| nix::unistd::User::from_name(name)) {
        // glibc gives an error only where a source of users did not answer; "not found" is no error.
        Err(errno) => return Said::Trouble(format!("getpwnam: {}", io::Error::from(errno))),
        Ok(None) => return Said::Nothing,
        Ok(Some(entry)) => entry,
    };
    if !is_possible_name(entry.name.as_bytes()) || entry.dir.to_str().is_none_or(|home| !home.starts_with('/')) {
        return Said::Unusable("the system gives a user a name or home that cannot be used".to_owned());
    }
    Said::User(User {
        name: entry.name,
        owner: Some((entry.uid.as_raw(), entry.gid.as_raw())),
        home: entry.dir,
        mailbox: None,
        password: None,
        is_of_system: true,
    })
}

/// `to_log_in`: what keeps the user from that counts, too.
fn in_file(config: &Config, path: &Path, name: &str, to_log_in: bool) -> (Said, Option<String>) {
    let (mut exact, mut alike, mut sample) = (None, None, None);
    let result = passwd_file::read(path, |record| {
        if sample.is_none() {
            sample = record.password.filter(|password| scheme::is_of_use(password)).map(str::to_owned);
        }
        let found = |record: Record<'_>| match record.ban(path).filter(|_| to_log_in) {
            Some(ban) => Said::Unusable(ban),
            None => user(config, path, record).map_or_else(Said::Unusable, Said::User),
        };
        if record.name == name {
            exact.get_or_insert_with(|| found(record));
        } else if record.name.eq_ignore_ascii_case(name) {
            alike.get_or_insert_with(|| found(record));
        }
        Ok(())
    });
    match result {
        Ok(()) => (exact.or(alike).unwrap_or(Said::Nothing), sample),
        Err(trouble) => (Said::Trouble(trouble.with(path)), sample),
    }
}

/// The user of a line; the error is file, line and what was expected there.
pub(crate) fn user(config: &Config, path: &Path, record: Record<'_>) -> Result<User, String> {
    let record = judged(config, record);
    record.error(path).map_or_else(|| Ok(whole(record)), |error| Err(error.to_string()))
}

/// A line as the rest of the configuration has it.
pub(crate) fn judged<'a>(config: &Config, mut record: Record<'a>) -> Record<'a> {
    let mailbox = record.mailbox.as_ref().unwrap_or(&config.mailbox);
    if record.fault.is_none() && record.home.is_none() && mailbox.path.starts_with("~/") {
        record.fault = Some("a home folder in the sixth field, for the mailbox is below it".to_owned());
    }
    record
}

fn whole(record: Record<'_>) -> User {
    User {
        name: record.name.to_owned(),
        owner: record.owner,
        home: record.home.map(Path::to_owned).unwrap_or_default(),
        mailbox: record.mailbox,
        password: record.password.map(str::to_owned),
        is_of_system: false,
    }
}

#[cfg(test)]
mod tests;
