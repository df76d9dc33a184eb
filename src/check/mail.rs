//! What is read by who has become mail_owner, and by who speaks with clients.

use super::{Findings, Level, aliases};
use crate::channel::{Channel, Channels, Transport};
use crate::cli::Common;
use crate::config::pattern::Matches;
use crate::config::table::Table;
use crate::config::value::{MailboxFormat, QueueFilter, TlsLevel};
use crate::config::{Config, Origin, shown};
use crate::exit::Error;
use crate::lookup::Lookup;
use crate::relay;
use crate::relay::policy::Policies;
use crate::relay::route::NextHop;
use crate::users;
use crate::users::passwd_file::{self, Ids};
use crate::users::scheme;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// submit and deliver, which are mail_owner.
pub(super) fn look(common: &Common, config: &Config, findings: &mut Findings) {
    // It was right for whoever started us.
    if let Err(error) = Config::read(common) {
        findings.of(&error);
    }
    let queue = &config.queue_directory;
    // Whether it is there is told already.
    if !findings.is_strangers
        && let Err(error) = std::fs::read_dir(queue)
        && error.kind() != ErrorKind::NotFound
    {
        findings.error(
            &Origin::File(queue.as_path().into(), 0),
            &format!("expected a folder that can be read: {error}"),
            "",
        );
    }
    for error in relay::check(config) {
        findings.error(&error.origin, &error.problem, "mail by SMTP and LMTP waits meanwhile");
    }
    check_users(config, findings);
    if let Some(channels) = check_channels(config, findings) {
        check_wrapping(config, &channels, findings);
        check_encryption(config, &channels, findings);
        check_networks(config, &channels, findings);
        check_logins(config, findings);
        check_filter(config, &channels, findings);
        aliases::check(config, &channels, findings);
        for path in config.users.files() {
            check_domains(&channels, path, findings);
        }
    }
}

/// Whoever speaks with clients, and what tables say of these and of who has logged in.
pub(super) fn look_as_parser(config: &Config, findings: &mut Findings) {
    let mut tell = |table: &Table, place: &Origin, name: &str, answer: Lookup<()>, mend: &str| {
        if let Lookup::CannotTell(why) = answer {
            let path = table.path().unwrap_or(Path::new(""));
            findings.add_of(path, Level::Error, place, &format!("{name}: {why}"), mend);
        }
    };
    if let Some(table) = &config.smtpd_sender_login_maps.0 {
        let name = "smtpd_sender_login_maps";
        tell(
            table,
            &config.origin(name),
            name,
            table.value(&[]).map(drop),
            "users who log in can send nothing meanwhile",
        );
    }
    for channel in Channels::read(config).iter().flat_map(|channels| &channels.0) {
        for pattern in &channel.clients.0 {
            if let Matches::Table(table, _) = &pattern.matches {
                let answer = table.has_address(std::net::Ipv4Addr::UNSPECIFIED.into());
                tell(table, &channel.origin, &channel.name, answer, "clients are told to come back later meanwhile");
            }
        }
    }
}

fn check_users(config: &Config, findings: &mut Findings) {
    if let Err(error) = users::check_names(config, false) {
        let closed = config.users.files().find(|path| File::open(path).is_err()).unwrap_or(Path::new(""));
        match &error {
            Error::Config(error) => findings.add_of(closed, Level::Error, &error.origin, &error.problem, ""),
            error => findings.of(error),
        }
        return;
    }
    for path in config.users.files() {
        check_lines(config, path, findings);
        if !findings.is_strangers {
            check_mailboxes(config, path, findings);
        }
    }
}

/// Most lines of a file that are told to be wrong, one by one.
const MOST_LINES: usize = 20;

/// What a file of users says of single ones that cannot be, or is hardly meant.
fn check_lines(config: &Config, path: &Path, findings: &mut Findings) {
    let (mut seen, mut count, mut ids, mut faults, mut weak) = (HashSet::new(), 0, Ids::default(), 0, None);
    let each = |number: usize, line: Option<&[u8]>| {
        let record = line.and_then(|line| passwd_file::record(line, &mut ids).ok().flatten());
        let Some(record) = record.map(|record| users::judged(config, record)) else { return Ok(()) };
        let (name, at) = (record.name, Origin::File(path.into(), number));
        if let Some(fault) = &record.fault {
            faults += 1;
            if faults <= MOST_LINES {
                let problem = format!("{}: expected {fault}", shown(name));
                findings.error(&at, &problem, "mail for this user waits, and the login fails, meanwhile");
            }
        } else if let Some(field) = record.kept_out {
            let problem =
                format!("{}: {field}= is not understood: this user gets mail, and cannot log in", shown(name));
            findings.error(&at, &problem, "without that field a password lets in from anywhere");
        }
        if let Some(scheme) = record.password.and_then(scheme::unknown) {
            let problem = format!(
                "{}: the scheme {{{}}} cannot be checked: this user gets mail, and cannot log in",
                shown(name),
                shown(scheme)
            );
            findings.error(&at, &problem, "a hash for the second field is made by: openssl passwd -6");
        }
        if record.password.is_some_and(scheme::is_of_des) {
            weak.get_or_insert_with(|| (at.clone(), shown(name), 0)).2 += 1;
        }
        count += 1;
        let has_no_colon = !line.is_some_and(|line| line.contains(&b':'));
        if let (true, Some((word, _))) = (has_no_colon, name.split_once([' ', '\t', '{'])) {
            // The rest may be a password.
            let problem = format!("there is no colon in this line, so that all of it is a name: {}...", shown(word));
            findings.warning(&at, &problem, "put a colon between name and password");
        } else if !seen.insert(name.to_owned()) {
            findings.warning(&at, &format!("{}: it was there before, and the first counts", shown(name)), "");
        }
        Ok::<_, std::io::Error>(())
    };
    // What cannot be read is told already.
    let is_read = File::open(path).is_ok_and(|file| passwd_file::lines(file, each).is_ok());
    let at = Origin::File(path.into(), 0);
    if is_read && count == 0 {
        findings.warning(&at, "there is no user in this file: nobody has mail here", "");
    }
    if let Some(more @ 1..) = faults.checked_sub(MOST_LINES) {
        findings.error(&at, &format!("{more} more lines are wrong"), "");
    }
    if let Some((at, name, users)) = weak {
        let others = if users > 1 { format!(" and {} more", users - 1) } else { String::new() };
        let problem = format!("{name}{others}: hashed by DES: whoever has the hash soon finds a password for it");
        findings.warning(&at, &problem, "a better one for the second field is made by: openssl passwd -6");
    }
}

/// Users at a domain of which no mail comes to mailboxes.
fn check_domains(channels: &Channels, path: &Path, findings: &mut Findings) {
    let (mut judged, mut count, mut ids) = (HashMap::new(), 0_usize, Ids::default());
    let each = |number: usize, line: Option<&[u8]>| {
        let record = line.and_then(|line| passwd_file::record(line, &mut ids).ok().flatten());
        let Some((name, domain)) =
            record.and_then(|record| record.name.rsplit_once('@').map(|(_, at)| (record.name, at)))
        else {
            return Ok(());
        };
        let why = judged.entry(domain.to_ascii_lowercase()).or_insert_with(|| aliases::elsewhere(channels, domain));
        if let Some(why) = why {
            count += 1;
            if count <= MOST_LINES {
                let problem = format!("{}: this user can log in, and gets no mail: {why}", shown(name));
                let mend = "let a channel with mailbox: list the domain";
                findings.warning(&Origin::File(path.into(), number), &problem, mend);
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // What cannot be read is told already.
    let _ = File::open(path).map(|file| passwd_file::lines(file, each));
    if let Some(more @ 1..) = count.checked_sub(MOST_LINES) {
        findings.warning(&Origin::File(path.into(), 0), &format!("{more} more users get no mail"), "");
    }
}

/// Mailboxes of users without a uid of their own are made by mail_owner.
fn check_mailboxes(config: &Config, path: &Path, findings: &mut Findings) {
    let mut told: Option<(String, PathBuf, Closed)> = None;
    let _ = passwd_file::read(path, |record| {
        if record.owner.is_none()
            && told.is_none()
            && let Ok(user) = users::user(config, path, record)
        {
            let mailbox = user.mailbox_path(config);
            let path = Path::new(&mailbox.path);
            told = closed(path, mailbox.format).map(|closed| (user.name, path.to_owned(), closed));
        }
        Ok(())
    });
    if let Some((user, mailbox, Closed { path: closed, errno })) = told {
        let is_file = closed == mailbox && mailbox.is_file();
        let (mailbox, owner, folder) = (mailbox.display(), &config.mail_owner, closed.display());
        let whose = format!("the mailbox {mailbox} of {} in {}", shown(&user), path.display());
        let (problem, mend) = match errno {
            Errno::EACCES if is_file => {
                (format!("{whose} is closed to {owner}, to whom it belongs"), format!("chown {owner} {folder}"))
            }
            Errno::EACCES => (
                format!("{whose} belongs to {owner}, who may not write to {folder}"),
                format!("install -d -o {owner} -m 700 a folder for mailboxes, or chown one"),
            ),
            errno => (format!("{whose}: expected a folder {folder} to write to: {}", errno.desc()), String::new()),
        };
        findings.error(&config.origin("mailbox"), &problem, &mend);
    }
}

/// What keeps this process from delivering to a mailbox: the folder or file that it may not write to, and why.
struct Closed {
    path: PathBuf,
    errno: Errno,
}

fn closed(mailbox: &Path, format: MailboxFormat) -> Option<Closed> {
    let try_to = |path: &Path, ways| access(path, ways).err().map(|errno| Closed { path: path.to_owned(), errno });
    let is_there = |path: &&Path| path.symlink_metadata().is_ok();
    let folder = match format {
        // Whose missing folders are made.
        MailboxFormat::Maildir => mailbox.ancestors().find(is_there)?,
        MailboxFormat::Mbox | MailboxFormat::Mmdf => {
            if is_there(&mailbox)
                && let Some(closed) = try_to(mailbox, AccessFlags::R_OK | AccessFlags::W_OK)
            {
                return Some(closed);
            }
            mailbox.parent()?
        }
    };
    if folder.is_file() {
        return Some(Closed { path: folder.to_owned(), errno: Errno::ENOTDIR });
    }
    try_to(folder, AccessFlags::W_OK | AccessFlags::X_OK)
}

fn check_channels(config: &Config, findings: &mut Findings) -> Option<Channels> {
    let channels = match Channels::read_or_mistakes(config) {
        Ok(channels) => channels,
        Err(mistakes) => {
            mistakes.iter().for_each(|mistake| findings.error(&mistake.origin, &mistake.problem, ""));
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

/// Servers of port 465 say nothing before TLS has begun, and others begin none.
fn check_wrapping(config: &Config, channels: &Channels, findings: &mut Findings) {
    let name = "smtp_tls_wrappermode";
    if !config.smtp_tls_wrappermode {
        let waits =
            |channel: &&Channel| matches!(&channel.transport, Transport::Smtp(Some(hop)) if hop.ends_with(":465"));
        for channel in channels.0.iter().filter(waits) {
            let problem = format!("channel {}: on port 465 TLS begins with the connection, and not here", channel.name);
            findings.warning(&channel.origin, &problem, "smtp_tls_wrappermode = yes, or port 587");
        }
        return;
    }
    // What is wrong with the table is told already.
    let policies = Policies::read(config).unwrap_or_default();
    let own = |hop: &str| policies.find(hop, "").map(|policy| policy.level);
    let mut are_named = true;
    for (user, place, transport) in ways_out(config, channels) {
        let Transport::Smtp(hop) = transport else { continue };
        let hop = hop.unwrap_or_default();
        are_named &= own(&hop).is_some();
        let port = NextHop::of(&hop).port.unwrap_or(config.smtp_tcp_port.0);
        if port != 465 && own(&hop).is_none_or(|level| level > TlsLevel::May) {
            let problem =
                format!("{user}: with {name} TLS begins with the connection, which port {port} hardly expects");
            findings.warning(
                &place,
                &problem,
                "its mail waits then; smtp_tls_policy_maps may say none or may of a next hop",
            );
        }
    }
    if config.smtp_tls_security_level < TlsLevel::Encrypt && !are_named {
        let problem = format!("{name} = yes: expected encrypt, verify or secure in smtp_tls_security_level beside it");
        let mend = "mail for next hops that smtp_tls_policy_maps does not name waits meanwhile";
        findings.error(&config.origin(name), &problem, mend);
    }
}

/// A server of this machine, as a filter is one, seldom offers TLS, and what all next hops must have it must have, too.
fn check_encryption(config: &Config, channels: &Channels, findings: &mut Findings) {
    // Of those that must begin with it something is told already.
    if config.smtp_tls_security_level < TlsLevel::Encrypt || config.smtp_tls_wrappermode {
        return;
    }
    let policies = Policies::read(config).unwrap_or_default();
    let is_here = |hop: &str| {
        let host = NextHop::of(hop.strip_prefix("inet:").unwrap_or(hop)).host;
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
    };
    for (user, place, transport) in ways_out(config, channels) {
        let hop = match transport {
            Transport::Smtp(Some(hop)) => hop,
            // Mail that is delivered there need not be hidden.
            Transport::Other(name, hop) if name == "lmtp" && user == "content_filter" => hop,
            Transport::Smtp(None) | Transport::Other(..) | Transport::Mailbox | Transport::None => continue,
        };
        if is_here(&hop) && policies.find(&hop, "").is_none() {
            let problem = format!("{user}: smtp_tls_security_level has mail for {hop} on this machine go by TLS, too");
            let mend = "where it offers none mail waits; smtp_tls_policy_maps may say none or may of a next hop";
            findings.warning(&place, &problem, mend);
        }
    }
}

/// By what mail leaves first: channels and the content_filter, with the place of each.
fn ways_out<'a>(config: &Config, channels: &'a Channels) -> impl Iterator<Item = (String, Origin, Transport)> + 'a {
    let filter = Transport::parse(&config.content_filter.0).ok();
    let of_filter = filter.map(|filter| ("content_filter".to_owned(), config.origin("content_filter"), filter));
    let of_channel =
        |channel: &Channel| (format!("channel {}", channel.name), channel.origin.clone(), channel.transport.clone());
    channels.0.iter().map(of_channel).chain(of_filter)
}

/// In Postfix smtp_sasl_auth_enable is needed as well, and a table without it does nothing there either.
fn check_logins(config: &Config, findings: &mut Findings) {
    if config.smtp_sasl_password_maps.0.is_some() && !config.smtp_sasl_auth_enable {
        let problem = "smtp_sasl_password_maps: nobody logs in by it, for smtp_sasl_auth_enable is no";
        findings.warning(&config.origin("smtp_sasl_password_maps"), problem, "smtp_sasl_auth_enable = yes");
    }
}

/// To Postfix mynetworks says whose mail goes to other hosts, too; here channels alone do.
fn check_networks(config: &Config, channels: &Channels, findings: &mut Findings) {
    let senders: Vec<_> = channels.0.iter().filter(|channel| channels.way_out(channel).is_some()).collect();
    // Whom names mean, nobody can tell now.
    if config.origin("mynetworks") == Origin::Default || senders.iter().any(|channel| channel.clients.has_names()) {
        return;
    }
    let nets =
        config.mynetworks.0.iter().filter(|pattern| !pattern.negated).filter_map(|pattern| match &pattern.matches {
            Matches::Net(net) if senders.iter().all(|channel| !channel.clients.takes(net)) => Some(net.to_string()),
            _ => None,
        });
    let nets: Vec<String> = nets.take(10).collect();
    if !nets.is_empty() {
        let problem =
            format!("mynetworks: mail of clients in {} does not go to other hosts from here", nets.join(", "));
        let mend = "it means no more than permit_mynetworks; list them in channels, on a line whose last column is *";
        findings.warning(&config.origin("mynetworks"), &problem, mend);
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
