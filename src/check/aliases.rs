//! The alias files: wrong lines, names that occur twice, targets that do not exist or are not allowed, and the postmaster.

use super::{Findings, Level};
use crate::aliases::{self, Entry, Place, Target, Trouble};
use crate::channel::{Channels, Transport};
use crate::config::value::MailSource;
use crate::config::{Config, Origin, shown};
use crate::lookup::Lookup;
use crate::message::path::Address;
use crate::submit::verify::{self, Local};
use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

pub(super) fn check(config: &Config, channels: &Channels, findings: &mut Findings) {
    let host = |name: &str| Address::from_internal(format!("{name}@{}", config.myhostname).as_bytes());
    let paths = aliases::paths(config);
    let mut seen = Seen::default();
    for path in &paths {
        check_file(config, channels, path, &mut seen, findings);
    }
    let is_local =
        matches!(channels.outgoing(config.myhostname.as_bytes()), Lookup::Yes(channel) if channel.is_local());
    if let (true, Ok(address)) = (is_local, host("postmaster")) {
        let ends = verify::local(config, &address);
        let place = Origin::File(paths.first().map_or(Path::new("/etc/aliases"), PathBuf::as_path).into(), 0);
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
        if let Ok(root) = host("root")
            && verify::local(config, &root) == Lookup::No
        {
            let problem = "nobody gets mail for root, as cron writes it: it is refused, and what reports that is lost";
            findings.warning(&place, problem, "add a line root: USER");
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

/// What there was in lines before.
#[derive(Default)]
struct Seen {
    names: HashSet<String>,
    /// Files of `:include:` with a target that is passed over.
    files: HashSet<Rc<Path>>,
}

fn check_file(config: &Config, channels: &Channels, path: &Path, seen: &mut Seen, findings: &mut Findings) {
    let entries = match aliases::read(path) {
        Ok(entries) => entries,
        Err(error) => {
            let problem = format!("alias_maps: expected a readable file at {}: {error}", path.display());
            let (place, mend) = (config.origin("alias_maps"), "mail for every user here waits meanwhile");
            return findings.add_of(path, Level::Error, &place, &problem, mend);
        }
    };
    for entry in entries {
        let at = |line: usize| Origin::File(path.into(), line);
        let entry = match entry {
            Ok(entry) => entry,
            Err(fault) => {
                findings.error(&at(fault.line), &fault.problem, "");
                continue;
            }
        };
        if !seen.names.insert(entry.name.to_ascii_lowercase()) {
            findings.warning(
                &at(entry.line),
                &format!("{}: it was there before, and the first counts", entry.name),
                "",
            );
        } else {
            check_way(config, channels, &entry, &at(entry.line), (seen, findings));
        }
        for target in &entry.targets {
            if let Target::Include(file) = target
                && let Err(Trouble::Later(why) | Trouble::Wrong(why)) = aliases::included(file, None)
            {
                let problem = format!("{}: :include:{why}", entry.name);
                findings.add_of(file, Level::Error, &at(entry.line), &problem, "its mail waits meanwhile");
            }
            if let Some((level, problem)) = check_target(config, channels, &entry.name, target) {
                findings.add(level, &at(entry.line), &format!("{}: {problem}", entry.name), "");
            }
        }
    }
}

/// Where a line leads as a whole, and whether mail comes by it at all.
fn check_way(
    config: &Config,
    channels: &Channels,
    entry: &Entry,
    at: &Origin,
    (seen, findings): (&mut Seen, &mut Findings),
) {
    let (local, domain) = entry.name.rsplit_once('@').unwrap_or((&entry.name, &config.myhostname));
    if entry.name.contains('@')
        && let Some(why) = elsewhere(channels, domain)
    {
        let problem = format!("{}: this line has no effect: {why}", entry.name);
        return findings.warning(at, &problem, "let a channel with mailbox: list the domain, or take the line out");
    }
    let is_here = |domain: &[u8]| elsewhere(channels, &String::from_utf8_lossy(domain)).is_none();
    // What cannot be followed is told with its target.
    let Ok(way) = aliases::expand(config, &entry.name, entry.targets.clone(), domain, &is_here) else { return };
    for file in way.ignored {
        if seen.files.insert(file.clone()) {
            let problem = format!("{}: a program or file in {} is passed over", entry.name, file.display());
            findings.warning(at, &problem, "only the alias file itself may name one");
        }
    }
    // Of a line that names itself that is told as of any target.
    let is_itself = |target: &Target| matches!(target, Target::Address(name) if name.eq_ignore_ascii_case(local));
    let is_back = |place: &Place| matches!(place, Place::User(user) if user.eq_ignore_ascii_case(local));
    let user = Address::from_internal(format!("{local}@{domain}").as_bytes());
    if way.targets.iter().any(is_back)
        && !entry.targets.iter().any(is_itself)
        && user.is_ok_and(|user| verify::local_user(config, &user).map(drop) == Lookup::No)
    {
        let problem = format!("{}: it leads back to itself, and nobody here is {local}", entry.name);
        findings.warning(at, &problem, "what goes in this circle is returned");
    }
}

/// Why mail for this domain looks for no aliases and users here, where that is so.
pub(super) fn elsewhere(channels: &Channels, domain: &str) -> Option<String> {
    match channels.outgoing(domain.as_bytes()) {
        Lookup::Yes(channel) if channel.transport == Transport::Mailbox => None,
        Lookup::Yes(channel) if channel.transport != Transport::None => {
            Some(format!("mail for {} leaves by channel {}", shown(domain), channel.name))
        }
        Lookup::Yes(_) | Lookup::No => Some(format!("no channel takes mail for {}", shown(domain))),
        // It is told of the channels.
        Lookup::CannotTell(_) => None,
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
