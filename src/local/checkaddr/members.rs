//! Who has the mail of an alias in the end, as deliver finds it. RCPT asks only whether there is the alias, so nothing here
//! changes the verdict.

use crate::aliases::{self, Place, Target, Trouble};
use crate::channel::{Channels, Transport};
use crate::config::Config;
use crate::config::value::{List, MailSource};
use crate::lookup::Lookup;
use crate::message::path::Address;
use crate::submit::verify::{self, Local};
use std::collections::HashSet;
use std::fmt::Arguments;

/// Tells what becomes of a copy for each member, if an alias of ours has this address.
pub(super) fn follow(config: &Config, channels: &Channels, address: &Address, tell: &mut dyn FnMut(Arguments<'_>)) {
    let mut entered = HashSet::new();
    // Those with an owner of their own come behind: their mail is a message of its own.
    let mut waiting = vec![address.or_at(&config.myhostname)];
    while let Some(address) = waiting.pop() {
        let domain = String::from_utf8_lossy(address.domain().unwrap_or_default()).into_owned();
        let is_here = |domain: &[u8]| leaves_by_mailbox(channels, domain);
        if !is_here(domain.as_bytes()) {
            continue;
        }
        let Lookup::Yes(Local::Alias(name, targets)) = verify::local(config, &address) else { continue };
        if !entered.insert(name.clone()) {
            continue;
        }
        match aliases::expand(config, &name, targets, &domain, &is_here) {
            Ok(expansion) if expansion.targets.is_empty() => {
                tell(format_args!("alias {name} leads to nobody: its mail is returned"));
            }
            Ok(expansion) => {
                for place in &expansion.targets {
                    tell(format_args!("member {}: {}", shown(place), becomes(config, channels, place, &domain)));
                    waiting.extend(if let Place::Address(address) = place { Some(address.clone()) } else { None });
                }
            }
            Err(Trouble::Later(why) | Trouble::Wrong(why)) => {
                tell(format_args!("alias {name} cannot be followed: {why}; its mail waits"));
            }
        }
    }
}

fn leaves_by_mailbox(channels: &Channels, domain: &[u8]) -> bool {
    matches!(channels.outgoing(domain), Lookup::Yes(channel) if channel.transport == Transport::Mailbox)
}

/// As it stands in an alias file.
fn shown(place: &Place) -> String {
    match place {
        Place::Address(address) => address.to_string(),
        Place::User(user) => user.clone(),
        Place::Mailbox(user) => format!("\\{user}"),
        Place::Own(Target::Address(text) | Target::File(text)) => text.clone(),
        Place::Own(Target::Mailbox(user)) => format!("\\{user}"),
        Place::Own(Target::Program(command)) => format!("|{command}"),
        Place::Own(Target::Include(path)) => format!(":include:{}", path.display()),
    }
}

/// What becomes of a copy. Where it leaves by is not asked of the channel it came in on: the alias has sent it on.
fn becomes(config: &Config, channels: &Channels, place: &Place, domain: &str) -> String {
    match place {
        Place::Address(address) if leaves_by_mailbox(channels, address.domain().unwrap_or_default()) => {
            found(verify::local(config, address), |local| match local {
                Local::Alias(name, _) => format!("alias {name}, with mail of its own"),
                other => other.to_string(),
            })
        }
        Place::Address(address) => match verify::outgoing(channels, address) {
            Lookup::Yes(channel) => match &channel.transport {
                Transport::Other(name, text) if name == "error" => format!("{channel} takes no mail: {text}"),
                Transport::Other(name, _) if name == "discard" => format!("{channel} throws it away"),
                _ => format!("leaves by {channel}"),
            },
            Lookup::No => "mail for it leaves by no channel and is returned".to_owned(),
            Lookup::CannotTell(why) => format!("cannot tell now, its mail waits: {why}"),
        },
        Place::User(name) | Place::Mailbox(name) => {
            let whole = if name.contains('@') { name.clone() } else { format!("{name}@{domain}") };
            let user = Address::from_internal(whole.as_bytes());
            match (user.map_or(Lookup::No, |address| verify::local_user(config, &address)), place) {
                (Lookup::No, Place::User(_)) => {
                    "goes in a circle, and no user has this name: its mail is returned".to_owned()
                }
                (user, _) => found(user, |user| format!("user {}", user.name)),
            }
        }
        Place::Own(Target::File(path)) if path == "/dev/null" => "thrown away".to_owned(),
        Place::Own(Target::Program(_)) => allowed(&config.allow_mail_to_commands, "allow_mail_to_commands", "is run"),
        Place::Own(_) => allowed(&config.allow_mail_to_files, "allow_mail_to_files", "is written"),
    }
}

fn found<T>(found: Lookup<T>, told: impl FnOnce(T) -> String) -> String {
    match found {
        Lookup::Yes(found) => told(found),
        Lookup::No => "no user and no alias has this local part: its mail is returned".to_owned(),
        Lookup::CannotTell(why) => format!("cannot tell who has this local part, its mail waits: {why}"),
    }
}

fn allowed(sources: &List<MailSource>, parameter: &str, what: &str) -> String {
    match sources.0.contains(&MailSource::Alias) {
        true => what.to_owned(),
        false => format!("main.cf does not allow this ({parameter}): its mail waits"),
    }
}
