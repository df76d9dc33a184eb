//! May this recipient? The one oracle that RCPT, VRFY, checkaddr and deliver share.
//!
//! An address without a domain is completed with `myhostname`; the domain gives the channel by which mail leaves; the
//! channel it came in on says whether it may, and from a client that no channel lists it stays on this machine in any case;
//! and where mail ends in a mailbox here, its user must exist, or an alias. What deliver could only return, by a channel
//! `error:` or because a program must not be given such an address, is refused: the sender may be forged. A local part that
//! nobody has is looked for without its extension (`recipient_delimiter`). postmaster is always taken, and so is
//! mailer-daemon, as postmaster.

use super::closed::Closed;
use super::{Policy, Verdict};
use crate::aliases::{self, Target};
use crate::channel::{Channel, Channels, Transport};
use crate::config::Config;
use crate::config::value::ReceiveOverride;
use crate::logging::field;
use crate::lookup::Lookup;
use crate::message::idna;
use crate::message::path::{Address, ReversePath};
use crate::program::arguments::Values;
use crate::users::{self, User};
use std::fmt::Arguments;
use std::path::Path;

/// System users below this run services and read no mail (login.defs(5), UID_MIN).
const FIRST_PERSON: u32 = 1000;

/// The uid of nobody, who is no person.
const NOBODY: u32 = 65_534;

/// The home of users who have none, and that nobody can make.
const NO_HOME: &str = "/nonexistent";

/// Where mail comes from, and by what it is judged.
#[derive(Debug, Clone, Copy)]
pub struct Judge<'a> {
    /// The parameters.
    pub config: &'a Config,
    /// The routes.
    pub channels: &'a Channels,
    /// The channel it came in on.
    pub from: &'a str,
    /// What else may be taken, or may not.
    pub policy: Policy,
    /// Who sends it.
    pub sender: &'a ReversePath,
}

impl Judge<'_> {
    /// Judges an address.
    pub fn of(&self, address: &Address) -> Verdict {
        self.traced(address, &mut |_| {})
    }

    /// The same, telling each step: for checkaddr.
    pub fn traced(&self, address: &Address, tell: &mut dyn FnMut(Arguments<'_>)) -> Verdict {
        let Judge { config, channels, from, policy, sender } = *self;
        if !address.is_usable() {
            tell(format_args!("{address}: mail can have no such address"));
            return Verdict::BadAddress;
        }
        let Ok(address) = address.completed(&config.myhostname) else {
            tell(format_args!("{address}: too long with myhostname behind it"));
            return Verdict::BadAddress;
        };
        if policy == Policy::Anywhere {
            return Verdict::Accepted;
        }
        tell(format_args!("address {address}"));
        let channel = match outgoing_traced(channels, &address, tell) {
            Lookup::Yes(channel) => channel,
            Lookup::No => {
                tell(format_args!("mail for it leaves by no channel"));
                return Verdict::UnknownHost;
            }
            Lookup::CannotTell(why) => return cannot_tell(&address, &why),
        };
        if !channels.may_go(from, channel) {
            tell(format_args!("mail from channel {from} may not go to channel {}", channel.name));
            return Verdict::NotAllowed;
        }
        if policy == Policy::Unlisted && !channel.ends_here() {
            let name = &channel.name;
            tell(format_args!(
                "mail of a client that no channel lists may not leave this machine, as it does by {name}"
            ));
            return Verdict::NotAllowed;
        }
        tell(format_args!("mail from channel {from} may go to channel {}", channel.name));
        match &channel.transport {
            Transport::Mailbox => {}
            Transport::Other(name, text) if name == "error" => {
                tell(format_args!("channel {} takes no mail: {text}", channel.name));
                return Verdict::Closed(Closed::new(text));
            }
            Transport::Other(name, _) if name == "discard" => {
                tell(format_args!("channel {} throws it away", channel.name));
                return Verdict::Accepted;
            }
            Transport::Other(name, line) if name == "pipe" => {
                // No id begins with a hyphen, and none is empty.
                let values = Values { sender: sender.as_bytes(), recipient: &address, id: "0" };
                if values.put_into(line.split_ascii_whitespace().skip(1)).is_none() {
                    tell(format_args!("an argument of the program of channel {} would begin with -", channel.name));
                    return Verdict::BadAddress;
                }
                return Verdict::Accepted;
            }
            Transport::Other(..) | Transport::Smtp(_) | Transport::None => return Verdict::Accepted,
        }
        if config.receive_override_options.0.contains(&ReceiveOverride::NoUnknownRecipientChecks) {
            tell(format_args!("receive_override_options: nobody asks whether the user is known"));
            return Verdict::Accepted;
        }
        match local(config, &address) {
            Lookup::Yes(found) => {
                tell(format_args!("{found}"));
                Verdict::Accepted
            }
            Lookup::No => {
                tell(format_args!("no user and no alias has this local part"));
                Verdict::UnknownUser
            }
            Lookup::CannotTell(why) => {
                tell(format_args!("cannot tell who has this local part: {why}"));
                cannot_tell(&address, &why)
            }
        }
    }
}

/// The channel by which mail for an address, completed already, leaves.
pub fn outgoing<'a>(channels: &'a Channels, address: &Address) -> Lookup<&'a Channel> {
    outgoing_traced(channels, address, &mut |_| {})
}

fn outgoing_traced<'a>(
    channels: &'a Channels,
    address: &Address,
    tell: &mut dyn FnMut(Arguments<'_>),
) -> Lookup<&'a Channel> {
    match channels.outgoing_traced(address.domain().unwrap_or_default(), tell) {
        // A channel by which nothing leaves is no way to a host.
        Lookup::Yes(channel) if channel.transport == Transport::None => Lookup::No,
        found => found,
    }
}

impl std::fmt::Display for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Local::Alias(name, targets) => {
                write!(f, "alias {name}:")?;
                targets.iter().try_for_each(|target| match target {
                    Target::Address(address) => write!(f, " {address}"),
                    Target::Mailbox(user) => write!(f, " \\{user}"),
                    Target::Program(command) => write!(f, " |{command}"),
                    Target::File(path) => write!(f, " {path}"),
                    Target::Include(path) => write!(f, " :include:{}", path.display()),
                })
            }
            Local::User(user, None) => write!(f, "user {}", user.name),
            Local::User(user, Some(extension)) => write!(f, "user {}, extension {extension}", user.name),
            Local::Postmaster => f.write_str("postmaster, who is always taken"),
        }
    }
}

/// Who has a local address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Local {
    /// An alias: the name it was found by, and its targets.
    Alias(String, Vec<Target>),
    /// A user, and what stood behind the delimiter.
    User(User, Option<String>),
    /// Nobody has it, but it must be taken (RFC 5321 section 4.5.1).
    Postmaster,
}

/// Who has a local address: an alias before a user, and the whole local part before what stands in front of a
/// `recipient_delimiter`.
pub fn local(config: &Config, address: &Address) -> Lookup<Local> {
    let local = String::from_utf8_lossy(address.local_part()).into_owned();
    let domain = String::from_utf8_lossy(address.domain().unwrap_or_default()).into_owned();
    for (name, extension) in split(config, &local) {
        match aliases::find_for(config, name, &domain) {
            Lookup::Yes((name, targets)) => return Lookup::Yes(Local::Alias(name, targets)),
            Lookup::No => {}
            Lookup::CannotTell(why) => return Lookup::CannotTell(why),
        }
        match local_user(config, &with_local_part(address, name)) {
            Lookup::Yes(user) => return Lookup::Yes(Local::User(user, extension.map(str::to_owned))),
            Lookup::No => {}
            Lookup::CannotTell(why) => return Lookup::CannotTell(why),
        }
    }
    match is_of_postmaster(address) {
        true if local.eq_ignore_ascii_case("postmaster") => Lookup::Yes(Local::Postmaster),
        true => self::local(config, &with_local_part(address, "postmaster")),
        false => Lookup::No,
    }
}

/// Whether mail for it must be taken: postmaster's own, and what reports come from (`deliver/report/text.rs`), for people
/// answer them.
pub fn is_of_postmaster(address: &Address) -> bool {
    ["postmaster", "mailer-daemon"].iter().any(|name| address.local_part().eq_ignore_ascii_case(name.as_bytes()))
}

/// The local part, and the user and extension it may be made of. The owner of a list and its requests are never taken
/// apart.
pub fn split<'a>(config: &Config, local: &'a str) -> Vec<(&'a str, Option<&'a str>)> {
    let mut found = vec![(local, None)];
    let lower = local.to_ascii_lowercase();
    let is_whole = lower.starts_with("owner-") || lower.ends_with("-request") || lower == "mailer-daemon";
    let at = local.char_indices().skip(1).find(|(_, letter)| config.recipient_delimiter.contains(*letter));
    if let Some((at, letter)) = at
        && !is_whole
        && let (Some(user), Some(extension)) = (local.get(..at), local.get(at + letter.len_utf8()..))
    {
        found.push((user, Some(extension).filter(|extension| !extension.is_empty())));
    }
    found
}

fn with_local_part(address: &Address, local: &str) -> Address {
    let mut octets = local.as_bytes().to_vec();
    if let Some(domain) = address.domain() {
        octets.push(b'@');
        octets.extend_from_slice(domain);
    }
    // Not longer than what it came from; were it none, nobody has the old one either.
    Address::from_internal(&octets).unwrap_or_else(|_| address.clone())
}

/// The user in whose mailbox mail for a local address ends: of a passwd-file whoever is listed under the whole address,
/// else under its local part.
pub fn local_user(config: &Config, address: &Address) -> Lookup<User> {
    // Users of this system are known by their local part only.
    let has_files = config.users.files().next().is_some();
    let domain = String::from_utf8_lossy(address.domain().unwrap_or_default());
    let other = |domain: String| [address.local_part(), b"@", domain.as_bytes()].concat();
    let others = if has_files { idna::other_spellings(&domain) } else { Vec::new() };
    let whole = has_files.then(|| address.as_bytes().to_vec());
    let names = whole.into_iter().chain(others.into_iter().map(other)).chain([address.local_part().to_vec()]);
    let names: Vec<Vec<u8>> = names.collect();
    match users::find_first(config, names.iter().map(Vec::as_slice)) {
        Lookup::Yes(user) if !may_receive(config, &user) => Lookup::No,
        found => found,
    }
}

/// The user `default_privs` names, with whose rights the targets of the alias file are served; never root.
pub fn privileged(config: &Config) -> Lookup<User> {
    match users::system_user(&config.default_privs) {
        Lookup::Yes(user) if user.owner.is_none_or(|(uid, _)| uid == 0) => Lookup::No,
        found => found,
    }
}

/// root never receives mail, for no process of ours writes as root; nor do the system's service users, nobody, and those
/// whose mailbox would be below the home that users have who have none: it would wait there until it is returned. deliver's
/// helper asks this too, before a process becomes the user.
pub fn may_receive(config: &Config, user: &User) -> bool {
    match (user.is_of_system, user.owner) {
        (_, Some((0, _))) => false,
        (true, Some((uid, _))) => {
            uid >= FIRST_PERSON && uid != NOBODY && !Path::new(&user.mailbox_path(config).path).starts_with(NO_HOME)
        }
        (true, None) => false,
        (false, _) => true,
    }
}

fn cannot_tell(address: &Address, why: &str) -> Verdict {
    log::warn!("event=cannot-tell address=<{}> reason={why:?}", field(address));
    Verdict::CannotTell
}

#[cfg(test)]
mod tests;
