//! What `doorpost-check` finds: everything that is wrong with an installation, or would surprise its administrator, each
//! with the place where it stands and how to mend it.
//!
//! Programs find the errors among this by themselves, one at a start; here all are told at once. Nothing is changed.

use crate::auth;
use crate::cli::Common;
use crate::config::value::{MailSource, MailboxFormat, OptionalPath, UserSource};
use crate::config::{Config, Origin};
use crate::exit::Error;
use crate::lookup::Lookup;
use crate::net::tls::Offer;
use crate::privilege::{self, Owner};
use crate::submit::verify;
use crate::users::{self, passwd_file};
use nix::libc;
use nix::unistd::{Gid, Group};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

mod aliases;
mod eyes;
mod mail;
mod postfix;
mod queue;

use eyes::{Eyes, look_with};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something does not work, or is open to anybody.
    Error,
    /// Something is probably not what was meant.
    Warning,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// File and line, or what set it.
    pub place: String,
    /// What is wrong.
    pub problem: String,
    /// How to mend it; empty where the problem says it.
    pub mend: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let level = if self.level == Level::Error { "error" } else { "warning" };
        write!(f, "{level}: {}: {}", self.place, self.problem)?;
        if self.mend.is_empty() { Ok(()) } else { write!(f, "; {}", self.mend) }
    }
}

/// The programs that the others start.
const PROGRAMS: [&str; 6] = ["submit", "deliver", "smtpsrvr", "qmqpd", "pop3d", "smtpd"];

/// Looks at everything. An error is one of the command line, which says what to look at.
pub fn check(common: &Common) -> Result<Vec<Finding>, Error> {
    let mut findings = Findings::default();
    let (mistakes, read) = Config::read_past_mistakes(common);
    let told = !mistakes.is_empty();
    for mistake in mistakes {
        match mistake {
            Error::Usage(_) => return Err(mistake),
            Error::Config(error) => findings.error(&error.origin, &error.problem, ""),
            error => findings.error(&Origin::Arguments, &error.to_string(), ""),
        }
    }
    let Some((config, warnings)) = read else { return Ok(findings.all) };
    for warning in warnings {
        let unknown = warning.problem.strip_prefix("unknown parameter ");
        let misspelt = || "mend its spelling; --show-config lists all there are".to_owned();
        let mend = unknown.map_or_else(String::new, |name| postfix::went(name).unwrap_or_else(misspelt));
        findings.warning(&warning.origin, &warning.problem, &mend);
    }
    if told {
        // By the defaults in their place much else would look wrong that is not.
        return Ok(findings.all);
    }
    findings.is_strangers = is_stranger(&config);
    check_host(&config, &mut findings);
    check_owners(&config, &mut findings);
    check_parser(&config, &mut findings);
    check_folders(&config, &mut findings);
    check_deliver(&config, &mut findings);
    queue::check(&config, &owners(&config), &mut findings);
    check_spool(&config, &mut findings);
    check_files(&config, &mut findings);
    let eyes = |owner| Eyes::of(&config, owner);
    look_with(eyes(Owner::Mail), &mut findings, |findings| mail::look(common, &config, findings));
    let parser = if config.net_owner.is_empty() { Owner::Mail } else { Owner::Net };
    look_with(eyes(parser), &mut findings, |findings| mail::look_as_parser(&config, findings));
    findings.all.sort_by_key(|finding| finding.level);
    Ok(findings.all)
}

/// Whether we are neither root nor whoever takes mail on: mail_owner, or where nothing starts as root the queue's owner.
fn is_stranger(config: &Config) -> bool {
    let own = nix::unistd::geteuid();
    let is_owner = privilege::owner_of(config, Owner::Mail).is_ok_and(|account| account.uid == own);
    let has_queue = || std::fs::metadata(&config.queue_directory).is_ok_and(|queue| queue.uid() == own.as_raw());
    !own.is_root() && !is_owner && !has_queue()
}

/// Behind what may look otherwise to who needs it.
const AS_FAR: &str = "as far as this user can see";

#[derive(Default)]
struct Findings {
    all: Vec<Finding>,
    /// Whose eyes see it, if those are not our own.
    eyes: Option<Eyes>,
    /// The eyes are of somebody whom none of our programs becomes: what is closed to these may be open to those.
    is_strangers: bool,
}

impl Findings {
    fn add(&mut self, level: Level, place: &Origin, problem: &str, mend: &str) {
        let file = if let Origin::File(path, _) = place { &**path } else { Path::new("") };
        self.add_of(file, level, place, problem, mend);
    }

    /// About a file that is named elsewhere. If it is closed to the user who needs it, that is what is to be mended.
    fn add_of(&mut self, file: &Path, level: Level, place: &Origin, problem: &str, mend: &str) {
        let (level, closed) = match &self.eyes {
            Some(eyes) => (level, eyes.mend(file)),
            // Of a folder all is looked at from outside.
            None if self.is_strangers && !file.is_dir() && eyes::closed(file).is_some() => {
                (Level::Warning, Some(AS_FAR.to_owned()))
            }
            None => (level, None),
        };
        let (place, problem) = (place.to_string(), problem.to_owned());
        self.all.push(Finding { level, place, problem, mend: closed.unwrap_or_else(|| mend.to_owned()) });
    }

    fn error(&mut self, place: &Origin, problem: &str, mend: &str) {
        self.add(Level::Error, place, problem, mend);
    }

    fn warning(&mut self, place: &Origin, problem: &str, mend: &str) {
        self.add(Level::Warning, place, problem, mend);
    }

    fn of(&mut self, error: &Error) {
        match error {
            Error::Config(error) => self.error(&error.origin, &error.problem, ""),
            error => {
                let (place, problem, mend) = ("system".to_owned(), error.to_string(), String::new());
                self.all.push(Finding { level: Level::Warning, place, problem, mend });
            }
        }
    }
}

/// Mail for a user here is addressed to that name, and other hosts believe in none without a domain.
fn check_host(config: &Config, findings: &mut Findings) {
    if !config.myhostname.contains('.') {
        let problem = format!("myhostname is {}, a name without a dot", crate::config::shown(&config.myhostname));
        findings.warning(&config.origin("myhostname"), &problem, "set it, or mydomain, to what other hosts know");
    }
}

fn check_owners(config: &Config, findings: &mut Findings) {
    let mut owners = vec![Owner::Mail];
    if !config.net_owner.is_empty() {
        owners.push(Owner::Net);
    }
    for owner in owners {
        match privilege::owner_of(config, owner) {
            Ok(_) => {}
            Err(Error::Config(error)) if privilege::is_root() => {
                let mend = "useradd --system makes one; without it programs started as root end with 78";
                findings.error(&error.origin, &error.problem, mend);
            }
            Err(Error::Config(error)) => {
                findings.warning(&error.origin, &error.problem, "needed where programs start as root")
            }
            Err(error) => findings.of(&error),
        }
    }
    let uses_privileges = [&config.allow_mail_to_commands, &config.allow_mail_to_files];
    if uses_privileges.iter().any(|list| list.0.contains(&MailSource::Alias))
        && !matches!(verify::privileged(config), Lookup::Yes(_))
    {
        let problem = format!(
            "default_privs = {}: expected a user of this system other than root",
            crate::config::shown(&config.default_privs)
        );
        findings.error(&config.origin("default_privs"), &problem, "");
    }
    match auth::check_methods(config) {
        Ok(()) => {}
        // Whoever is not root cannot tell what the servers can read that root starts.
        Err(Error::Config(error)) if !privilege::is_root() && error.problem.starts_with("authentication") => {
            findings.warning(&error.origin, &error.problem, AS_FAR);
        }
        Err(error) => findings.of(&error),
    }
}

/// pop3d hears strangers as net_owner, and where there is none as mail_owner, who can open every mailbox that is his.
fn check_parser(config: &Config, findings: &mut Findings) {
    let uid = |owner| privilege::owner_of(config, owner).ok().map(|account| account.uid.as_raw());
    let Some(mail_owner) = uid(Owner::Mail) else { return };
    if !config.net_owner.is_empty() && uid(Owner::Net) != Some(mail_owner) {
        return;
    }
    let (mut first, mut others) = (None, "");
    for path in config.users.files() {
        // What is wrong with the file is told already.
        let _ = passwd_file::read(path, |record| {
            if record.fault.is_none() && record.owner.is_none_or(|(uid, _)| uid == mail_owner) {
                match first {
                    None => first = Some((path.display().to_string(), record.name.to_owned())),
                    Some(_) => others = ", ...",
                }
            }
            Ok(())
        });
    }
    if let Some((path, name)) = first {
        let problem = format!(
            "pop3d, started as root, reads what clients say as user {}, who also owns mailboxes in {path} ({}{others}): \
             whoever took that process over could read them",
            config.mail_owner,
            crate::config::shown(&name),
        );
        let mend = "net_owner = USER, one that owns nothing; useradd --system makes one";
        findings.warning(&config.origin("net_owner"), &problem, mend);
    }
}

/// Mail that nobody is told of waits for the next deliver. Where all mailboxes are the user's who queues it submit starts one.
fn check_deliver(config: &Config, findings: &mut Findings) {
    let mail_owner = || privilege::owner_of(config, Owner::Mail).map_or(u32::MAX, |account| account.uid.as_raw());
    let submit = if privilege::is_root() { mail_owner() } else { nix::unistd::geteuid().as_raw() };
    // Whether there is a queue is told where folders are looked at.
    if !config.queue_directory.is_dir() || users::all_belong_to(config, submit) {
        return;
    }
    let trigger = config.queue_directory.join("trigger");
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let opened = File::options().write(true).custom_flags(flags).open(&trigger);
    // There is no FIFO as long as nobody has used the queue.
    if let Some(libc::ENXIO | libc::ENOENT) = opened.err().and_then(|error| error.raw_os_error()) {
        let place = Origin::File(trigger.as_path().into(), 0);
        findings.warning(&place, "no deliver is running that mail would wake", "start deliver --watch as root");
    }
}

/// Who may have the queue; nobody where that cannot be told.
fn owners(config: &Config) -> Vec<u32> {
    let mut owners: Vec<u32> = privilege::owner_of(config, Owner::Mail).iter().map(|user| user.uid.as_raw()).collect();
    if !privilege::is_root() {
        // Nothing may ever start as root here.
        owners.push(nix::unistd::geteuid().as_raw());
    }
    owners
}

fn check_folders(config: &Config, findings: &mut Findings) {
    let owners = owners(config);
    let is_others = |uid: u32| !owners.is_empty() && !owners.contains(&uid);
    let (queue, drop) = (&config.queue_directory, &config.drop_directory);
    let (at_queue, at_drop) = (Origin::File(queue.as_path().into(), 0), Origin::File(drop.as_path().into(), 0));
    match std::fs::symlink_metadata(queue) {
        Ok(metadata) if !metadata.is_dir() => {
            findings.error(&at_queue, "expected a folder for the queue", "");
        }
        Ok(metadata) if is_others(metadata.uid()) => {
            let problem = format!("the queue belongs to uid {}, and not to mail_owner", metadata.uid());
            findings.error(&at_queue, &problem, &format!("chown -R {} {}", config.mail_owner, queue.display()));
        }
        Ok(metadata) if metadata.mode() & 0o077 != 0 => {
            let problem = format!("the queue has mode {:o}", metadata.mode() & 0o7777);
            let mend = format!("chmod 700 {}", queue.display());
            let level = if metadata.mode() & 0o002 != 0 { Level::Error } else { Level::Warning };
            findings.add(level, &at_queue, &problem, &mend);
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mend = format!("install -d -o {} -m 700 {}", config.mail_owner, queue.display());
            findings.error(&at_queue, &format!("there is no queue: {error}"), &mend);
        }
        Err(error) => findings.error(&at_queue, &format!("the queue cannot be seen: {error}"), ""),
    }
    let mend = format!("install -d -o {} -m 1733 {}", config.mail_owner, drop.display());
    match std::fs::symlink_metadata(drop) {
        Ok(metadata) if !metadata.is_dir() || is_others(metadata.uid()) => {
            findings.error(&at_drop, "the drop folder is no folder of mail_owner's", &mend);
        }
        Ok(metadata) if metadata.mode() & 0o7777 != 0o1733 => {
            let problem = format!("the drop folder has mode {:o}", metadata.mode() & 0o7777);
            findings.error(&at_drop, &problem, &format!("chmod 1733 {}", drop.display()));
        }
        Ok(_) => {}
        Err(_) => {
            let problem = "there is no drop folder: only root and mail_owner can hand in mail by sendmail";
            findings.warning(&at_drop, problem, &mend);
        }
    }
}

/// A mailbox of one file is made, and locked, in a folder that belongs to none of the users, but maybe to a group.
fn check_spool(config: &Config, findings: &mut Findings) {
    let group = match privilege::privileged_group(config) {
        Ok(group) => group.map(Gid::as_raw),
        Err(error) => return findings.of(&error),
    };
    let folder = Path::new(&config.mailbox.path).parent().filter(|folder| folder.is_absolute());
    let Some(folder) = folder.filter(|folder| !folder.to_string_lossy().contains('%')) else { return };
    if config.mailbox.format == MailboxFormat::Maildir || !config.users.0.contains(&UserSource::System) {
        return;
    }
    let place = config.origin("mailbox");
    let status = match std::fs::metadata(folder) {
        Ok(status) => status,
        Err(error) => {
            let problem = format!("mailbox: expected a folder {}: {error}", folder.display());
            return findings.error(&place, &problem, "mail for users waits meanwhile");
        }
    };
    let (own, mode, folder) = (status.gid(), status.mode(), folder.display());
    if mode & 0o002 == 0 && (mode & 0o020 == 0 || group != Some(own)) {
        let name = Group::from_gid(own.into()).ok().flatten().map_or_else(|| own.to_string(), |group| group.name);
        let problem = format!(
            "users can make neither mailboxes nor locks in {folder}, of group {name}, mode {:o}",
            mode & 0o7777
        );
        let mend = if own == 0 || mode & 0o020 == 0 {
            // That folder may be for much else.
            "name a folder for mailboxes alone, of group mail and mode 2775, and set mail_privileged_group = mail"
                .to_owned()
        } else {
            format!("mail_privileged_group = {name}")
        };
        findings.error(&place, &problem, &mend);
    }
}

fn check_files(config: &Config, findings: &mut Findings) {
    for program in PROGRAMS {
        let path = config.program(program);
        let executable = |path: &Path| path.metadata().is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0);
        if !executable(&path) {
            let problem = format!("{}: expected a program", path.display());
            findings.error(
                &config.origin("daemon_directory"),
                &problem,
                "set daemon_directory to the folder of the programs",
            );
        }
    }
    match read_certificates(config) {
        Err(error) => findings.of(&error),
        Ok(()) => {
            // Port 25 is served so in inetd.conf.example and by the units of systemd.
            let started = Eyes::of(config, Owner::Mail).map(Eyes::with_all_groups);
            look_with(started, findings, |findings| {
                if let Err(Error::Config(error)) = read_certificates(config) {
                    let mend = "a server that is started as that user, and not as root, sends every client away";
                    findings.warning(&error.origin, &error.problem, mend);
                }
            });
        }
    }
}

/// Opens and reads what is there as the servers do at their start, but for the keys of tickets, which that would make.
fn read_certificates(config: &Config) -> Result<(), Error> {
    let config = Config { tls_ticket_key_file: OptionalPath(None), ..config.clone() };
    Offer::open(&config, false).and_then(|mut offer| offer.take().map_or(Ok(()), |files| files.read().map(drop)))
}
