//! By which transport a recipient's mail leaves, what of that is shared with others, and what is done here by itself.

use super::groups::hop_of;
use crate::channel::Transport;
use crate::config::Config;
use crate::config::value::{MailboxFormat, MailboxSpec, Value};
use crate::deliver::copy::Copy;
use crate::deliver::expand::Route;
use crate::deliver::helper::Helper;
use crate::deliver::settings::Settings;
use crate::deliver::{Outcome, crew, local, piped};
use crate::lookup::Lookup;
use crate::message::path::Address;
use crate::queue::Message;
use crate::submit::verify::{self, Local};

/// The transport whose program gets a message once for all its recipients.
pub(super) const QUEUE: &str = "qmail-queue";

/// By its content_filter, else by its domain: what carries it.
pub(super) fn route(settings: &Settings, message: &Message, address: &Address) -> Result<Transport, Outcome> {
    if let Some(filter) = message.attribute("content_filter") {
        let missing = || Outcome::Deferred(format!("4.3.5 content_filter {filter:.60}: no such transport or channel"));
        return filtered(settings, filter).ok_or_else(missing);
    }
    match verify::outgoing(&settings.channels, address) {
        Lookup::Yes(channel) => Ok(channel.transport.clone()),
        Lookup::No => Err(Outcome::Failed("5.1.2 no channel leads to this domain".to_owned())),
        Lookup::CannotTell(why) => {
            log::warn!("id={} to=<{address}>: {why}", message.id);
            Err(Outcome::Deferred("4.4.3 the domain cannot be looked up now".to_owned()))
        }
    }
}

/// What `content_filter` names: a transport as in the channels file, or a channel of that name and what carries its mail.
///
/// The queue file says it, and that may come from a program that speaks with the network; so transports that run other
/// programs must stand in the channels file, which only the administrator writes.
fn filtered(settings: &Settings, filter: &str) -> Option<Transport> {
    let with_colon = if filter.contains(':') { filter.to_owned() } else { format!("{filter}:") };
    let named = Transport::parse(&with_colon).ok().filter(|transport| hop_of(transport).is_some());
    let channel = with_colon.split(':').next().and_then(|name| settings.channels.by_name(name));
    named.or_else(|| channel.map(|channel| channel.transport.clone()))
}

/// What a recipient's mail is put into here, and others' with it.
pub(super) struct Shared {
    /// What names it among all.
    pub(super) key: String,
    /// How many may at once: a mailbox that is one file has one lock.
    pub(super) limit: u32,
    is_maildir: bool,
}

impl Shared {
    /// Nothing where nothing is put anywhere.
    pub(super) fn of(config: &Config, address: &Address, transport: &Transport) -> Option<Shared> {
        let many = crew::limit(config);
        let mailbox = |key: String, format: MailboxFormat| {
            let is_maildir = format == MailboxFormat::Maildir;
            Some(Shared { key, limit: if is_maildir { many } else { 1 }, is_maildir })
        };
        match transport {
            Transport::Mailbox => {
                let name = String::from_utf8_lossy(address.as_bytes()).to_ascii_lowercase();
                mailbox(format!("mailbox\n{name}"), format_of(config, address))
            }
            Transport::Other(name, place) => match stored(name, place) {
                Some(spec) => mailbox(format!("{name}\n{place}"), spec.format),
                None if name == "pipe" => {
                    Some(Shared { key: format!("{name}\n{place}"), limit: many, is_maildir: false })
                }
                None => None,
            },
            Transport::Smtp(_) | Transport::None => None,
        }
    }

    /// Whether a repeat that knows of no earlier try finds what that has delivered: a Maildir has it under the same name, and
    /// after a power cut all of it is searched ([`super::Trial::begin`]). What an alias or a `~/.forward` made of a message
    /// may be meant for a program.
    pub(super) fn is_found_again(&self, message: &Message) -> bool {
        self.is_maildir && Route::of(message).is_none()
    }
}

/// The format of the mailbox in which mail for an address of ours ends: a user of a passwd-file may have another one than all.
fn format_of(config: &Config, address: &Address) -> MailboxFormat {
    let has_files = config.users.files().next().is_some();
    match has_files.then(|| verify::local(config, address)) {
        Some(Lookup::Yes(Local::User(user, _))) => user.mailbox_path(config).format,
        _ => config.mailbox.format,
    }
}

/// The mailbox that a channel names for all its mail.
fn stored(name: &str, place: &str) -> Option<MailboxSpec> {
    MailboxSpec::parse(&format!("{name}:{place}")).ok()
}

pub(super) fn carry_here(
    settings: &Settings,
    helper: Option<&mut Helper>,
    copy: &Copy<'_>,
    transport: &Transport,
) -> Outcome {
    let config = &settings.config;
    match transport {
        Transport::Mailbox => local::deliver(settings, helper, copy),
        Transport::Other(name, place) => match stored(name, place) {
            Some(spec) => local::store(config, &spec, copy),
            None => piped::pipe(config, place, copy),
        },
        Transport::Smtp(_) | Transport::None => carry_nowhere(transport),
    }
}

/// The transports that do nothing.
pub(super) fn carry_nowhere(transport: &Transport) -> Outcome {
    match transport {
        Transport::Other(name, _) if name == "discard" => Outcome::Delivered,
        Transport::Other(name, text) if name == "error" => refusal(text),
        _ => Outcome::Failed("5.1.2 no mail leaves by the channel of this domain".to_owned()),
    }
}

/// `error:` with a text of the administrator's, that may begin with a status code.
fn refusal(text: &str) -> Outcome {
    let status = text.split(' ').next().unwrap_or_default();
    let is_status = |class: char| {
        status.starts_with(class)
            && status.split('.').count() == 3
            && status.split('.').all(|n| n.parse::<u16>().is_ok())
    };
    match text {
        "" => Outcome::Failed("5.0.0 mail for this domain is not taken".to_owned()),
        _ if is_status('4') => Outcome::Deferred(text.to_owned()),
        _ if is_status('5') => Outcome::Failed(text.to_owned()),
        _ => Outcome::Failed(format!("5.0.0 {text}")),
    }
}

/// The way a recipient's mail takes, for who watches.
pub(super) fn told(way: &Result<Transport, Outcome>) -> String {
    match way {
        Ok(Transport::Mailbox) => "mailbox:".to_owned(),
        Ok(Transport::Smtp(None)) => "smtp:".to_owned(),
        Ok(Transport::Smtp(Some(host))) => format!("smtp:{host}"),
        Ok(Transport::Other(name, rest)) => format!("{name}:{rest}"),
        Ok(Transport::None) | Err(_) => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_channel_says_what_the_administrator_wrote() {
        assert_eq!(refusal("4.3.2 moving"), Outcome::Deferred("4.3.2 moving".to_owned()));
        assert_eq!(refusal("5.7.1 not here"), Outcome::Failed("5.7.1 not here".to_owned()));
        assert_eq!(refusal("moved away"), Outcome::Failed("5.0.0 moved away".to_owned()));
        assert_eq!(refusal(""), Outcome::Failed("5.0.0 mail for this domain is not taken".to_owned()));
    }
}
