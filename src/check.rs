//! What `doorpost-check` finds: everything that is wrong with an installation, or would surprise its administrator, each
//! with the place where it stands and how to mend it.
//!
//! Programs find the errors among this by themselves, one at a start; here all are told at once. Nothing is changed.

use crate::aliases::{self, Target};
use crate::auth;
use crate::channel::{Channels, Transport};
use crate::cli::Common;
use crate::config::value::{MailSource, QueueFilter};
use crate::config::{Config, Origin};
use crate::exit::Error;
use crate::lookup::Lookup;
use crate::message::path::Address;
use crate::net::tls::Offer;
use crate::privilege::{self, Owner};
use crate::relay::policy::Policies;
use crate::submit::verify::{self, Local};
use crate::users::{self, passwd_file};
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

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
    let mut findings = Findings(Vec::new());
    let (mistakes, read) = Config::read_past_mistakes(common);
    let told = !mistakes.is_empty();
    for mistake in mistakes {
        match mistake {
            Error::Usage(_) => return Err(mistake),
            Error::Config(error) => findings.error(&error.origin, &error.problem, ""),
            error => findings.error(&Origin::Arguments, &error.to_string(), ""),
        }
    }
    let Some((config, warnings)) = read else { return Ok(findings.0) };
    for warning in warnings {
        let is_misspelt = warning.problem.starts_with("unknown parameter");
        let mend = if is_misspelt { "mend its spelling; --show-config lists all there are" } else { "" };
        findings.warning(&warning.origin, &warning.problem, mend);
    }
    if told {
        // By the defaults in their place much else would look wrong that is not.
        return Ok(findings.0);
    }
    let channels = check_channels(&config, &mut findings);
    check_host(&config, &mut findings);
    check_owners(&config, &mut findings);
    check_parser(&config, &mut findings);
    check_folders(&config, &mut findings);
    check_files(&config, &mut findings);
    if let Err(error) = Policies::read(&config) {
        findings.error(&error.origin, &error.problem, "no mail leaves by SMTP or LMTP meanwhile");
    }
    if let Some(channels) = channels {
        check_filter(&config, &channels, &mut findings);
        check_aliases(&config, &channels, &mut findings);
    }
    findings.0.sort_by_key(|finding| finding.level);
    Ok(findings.0)
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, level: Level, place: &dyn std::fmt::Display, problem: &str, mend: &str) {
        let (place, problem, mend) = (place.to_string(), problem.to_owned(), mend.to_owned());
        self.0.push(Finding { level, place, problem, mend });
    }

    fn error(&mut self, place: &dyn std::fmt::Display, problem: &str, mend: &str) {
        self.add(Level::Error, place, problem, mend);
    }

    fn warning(&mut self, place: &dyn std::fmt::Display, problem: &str, mend: &str) {
        self.add(Level::Warning, place, problem, mend);
    }

    fn of(&mut self, error: &Error) {
        match error {
            Error::Config(error) => self.error(&error.origin, &error.problem, ""),
            error => self.warning(&"system", &error.to_string(), ""),
        }
    }
}

fn check_channels(config: &Config, findings: &mut Findings) -> Option<Channels> {
    let channels = match Channels::read(config) {
        Ok(channels) => channels,
        Err(error) => {
            findings.error(&error.origin, &error.problem, "");
            return None;
        }
    };
    for (from, to) in channels.open_relays() {
        let problem = format!(
            "open relay: clients from anywhere are on channel {}, and their mail for any domain may leave by {}",
            from.name, to.name
        );
        let mend = "list in its last column only channels of mailboxes here and of domains you serve";
        findings.error(&from.origin, &problem, mend);
    }
    for finding in channels.findings() {
        findings.warning(&finding.origin, &finding.problem, &finding.mend);
    }
    let own = channels.outgoing(config.myhostname.as_bytes());
    if !matches!(own, Lookup::Yes(channel) if channel.transport == Transport::Mailbox) {
        let place = channels.0.first().map_or(Origin::Default, |channel| channel.origin.clone());
        let problem =
            format!("no channel with mailbox: lists myhostname ({})", crate::config::shown(&config.myhostname));
        findings.warning(&place, &problem, "mail for users here, postmaster among them, goes elsewhere");
    }
    Some(channels)
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
    match users::check_file(config).and_then(|()| auth::check_methods(config)) {
        Ok(()) => {}
        // Whoever is not root cannot tell what the servers can read that root starts.
        Err(Error::Config(error)) if !privilege::is_root() && error.problem.starts_with("authentication") => {
            findings.warning(&error.origin, &error.problem, "as far as this user can see");
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
            if record.owner.is_none_or(|(uid, _)| uid == mail_owner) {
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

fn check_folders(config: &Config, findings: &mut Findings) {
    let owner = privilege::owner_of(config, Owner::Mail).ok().map(|user| user.uid.as_raw());
    let owner = if privilege::is_root() { owner } else { Some(nix::unistd::geteuid().as_raw()) };
    let queue = &config.queue_directory;
    match std::fs::symlink_metadata(queue) {
        Ok(metadata) if !metadata.is_dir() => {
            findings.error(&queue.display(), "expected a folder for the queue", "");
        }
        Ok(metadata) if owner.is_some_and(|owner| owner != metadata.uid()) => {
            let problem = format!("the queue belongs to uid {}, and not to mail_owner", metadata.uid());
            findings.error(&queue.display(), &problem, &format!("chown -R {} {}", config.mail_owner, queue.display()));
        }
        Ok(metadata) if metadata.mode() & 0o077 != 0 => {
            let problem = format!("the queue has mode {:o}", metadata.mode() & 0o7777);
            let mend = format!("chmod 700 {}", queue.display());
            let level = if metadata.mode() & 0o002 != 0 { Level::Error } else { Level::Warning };
            findings.add(level, &queue.display(), &problem, &mend);
        }
        Ok(_) => {}
        Err(error) => {
            let mend = format!("install -d -o {} -m 700 {}", config.mail_owner, queue.display());
            findings.error(&queue.display(), &format!("there is no queue: {error}"), &mend);
        }
    }
    let drop = &config.drop_directory;
    let mend = format!("install -d -o {} -m 1733 {}", config.mail_owner, drop.display());
    match std::fs::symlink_metadata(drop) {
        Ok(metadata) if !metadata.is_dir() || owner.is_some_and(|owner| owner != metadata.uid()) => {
            findings.error(&drop.display(), "the drop folder is no folder of mail_owner's", &mend);
        }
        Ok(metadata) if metadata.mode() & 0o7777 != 0o1733 => {
            let problem = format!("the drop folder has mode {:o}", metadata.mode() & 0o7777);
            findings.error(&drop.display(), &problem, &format!("chmod 1733 {}", drop.display()));
        }
        Ok(_) => {}
        Err(_) => {
            let problem = "there is no drop folder: only root and mail_owner can hand in mail by sendmail";
            findings.warning(&drop.display(), problem, &mend);
        }
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
    // What is there is opened and read, as the servers do at their start.
    let read =
        Offer::open(config, false).and_then(|mut offer| offer.take().map_or(Ok(()), |files| files.read().map(drop)));
    if let Err(error) = read {
        findings.of(&error);
    }
}

/// content_filter names what carries a message before anything else: a transport, or a channel.
fn check_filter(config: &Config, channels: &Channels, findings: &mut Findings) {
    let filter = &config.content_filter.0;
    let name = filter.split(':').next().unwrap_or_default();
    let is_known = ["smtp", "lmtp", "qmqp", "qmtp"].contains(&name) || channels.by_name(name).is_some();
    if !filter.is_empty() && !is_known {
        let problem = format!(
            "content_filter = {}: there is no transport or channel {}",
            crate::config::shown(filter),
            crate::config::shown(name)
        );
        findings.error(&config.origin("content_filter"), &problem, "every message would wait");
    }
    let line = match &config.before_queue_filter {
        QueueFilter::Program(line) => line.as_str(),
        // Whether it listens is another matter: it may be started later.
        QueueFilter::Host(_) | QueueFilter::None => "",
    };
    if let Some(program) = line.split_ascii_whitespace().next() {
        let runs = std::fs::metadata(program).is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0);
        if !runs {
            let problem = format!("before_queue_filter: there is no program {}", crate::config::shown(program));
            let origin = config.origin("before_queue_filter");
            findings.error(&origin, &problem, "every client would be told to come back later");
        }
    }
}

fn check_aliases(config: &Config, channels: &Channels, findings: &mut Findings) {
    let host = |name: &str| Address::from_internal(format!("{name}@{}", config.myhostname).as_bytes());
    let paths = aliases::paths(config);
    let mut seen = HashSet::new();
    for path in &paths {
        check_alias_file(config, channels, path, &mut seen, findings);
    }
    let is_local =
        matches!(channels.outgoing(config.myhostname.as_bytes()), Lookup::Yes(channel) if channel.is_local());
    if let (true, Ok(address)) = (is_local, host("postmaster")) {
        let ends = verify::local(config, &address);
        let place = paths.first().map_or_else(|| "/etc/aliases".to_owned(), |path| path.display().to_string());
        let loses = match &ends {
            Lookup::Yes(Local::Postmaster) => true,
            Lookup::Yes(Local::Alias(_, targets)) => targets.iter().all(|target| is_unread(config, target)),
            _ => false,
        };
        if loses {
            let problem = format!(
                "nobody reads mail for postmaster; it is kept in {}/postmaster",
                config.queue_directory.display()
            );
            findings.warning(&place, &problem, "add a line postmaster: USER");
        }
    }
}

/// Whether a target is a name here that nobody has.
fn is_unread(config: &Config, target: &Target) -> bool {
    let Target::Address(text) = target else { return false };
    let Ok(address) = Address::from_internal(text.as_bytes()) else { return true };
    let address = address.or_at(&config.myhostname);
    let is_ours = address.domain().is_some_and(|domain| domain.eq_ignore_ascii_case(config.myhostname.as_bytes()));
    is_ours && matches!(verify::local(config, &address), Lookup::No)
}

/// `seen`: the names that there are in the files before.
fn check_alias_file(
    config: &Config,
    channels: &Channels,
    path: &Path,
    seen: &mut HashSet<String>,
    findings: &mut Findings,
) {
    let entries = match aliases::read(path) {
        Ok(entries) => entries,
        Err(error) => {
            let problem = format!("alias_maps: expected a readable file at {}: {error}", path.display());
            return findings.error(&config.origin("alias_maps"), &problem, "mail for every user here waits meanwhile");
        }
    };
    for entry in entries {
        let at = |line: usize| Origin::File(path.to_owned(), line);
        let entry = match entry {
            Ok(entry) => entry,
            Err(fault) => {
                findings.error(&at(fault.line), &fault.problem, "");
                continue;
            }
        };
        if !seen.insert(entry.name.to_ascii_lowercase()) {
            findings.warning(
                &at(entry.line),
                &format!("{}: it was there before, and the first counts", entry.name),
                "",
            );
        }
        for target in &entry.targets {
            if let Some((level, problem)) = check_target(config, channels, &entry.name, target) {
                findings.add(level, &at(entry.line), &format!("{}: {problem}", entry.name), "");
            }
        }
    }
}

fn check_target(config: &Config, channels: &Channels, name: &str, target: &Target) -> Option<(Level, String)> {
    let allows = |list: &crate::config::value::List<MailSource>| list.0.contains(&MailSource::Alias);
    match target {
        Target::Program(command) if !allows(&config.allow_mail_to_commands) => {
            Some((Level::Error, format!("|{command}: allow_mail_to_commands has no word alias, so its mail waits")))
        }
        Target::Program(command) => {
            let words = aliases::split_command(command).ok()?;
            let program = words.first()?;
            let there = Path::new(program).metadata().is_ok_and(|file| file.is_file() && file.mode() & 0o111 != 0);
            (!there).then(|| (Level::Error, format!("{program}: expected a program")))
        }
        Target::File(file) if file != "/dev/null" && !allows(&config.allow_mail_to_files) => {
            Some((Level::Error, format!("{file}: allow_mail_to_files has no word alias, so its mail waits")))
        }
        Target::Include(file) if !file.is_file() => {
            Some((Level::Error, format!(":include:{}: expected a file", file.display())))
        }
        Target::Mailbox(user) | Target::Address(user) => {
            let address = Address::from_internal(user.as_bytes()).ok()?.or_at(&config.myhostname);
            let channel = channels.outgoing(address.domain().unwrap_or_default());
            let is_here = matches!(channel, Lookup::Yes(channel) if channel.transport == Transport::Mailbox);
            let itself = user.eq_ignore_ascii_case(name);
            let found = if itself {
                verify::local_user(config, &address).map(|_| ())
            } else {
                verify::local(config, &address).map(|_| ())
            };
            (is_here && found == Lookup::No).then(|| (Level::Warning, format!("nobody here is {user}")))
        }
        Target::File(_) | Target::Include(_) => None,
    }
}
