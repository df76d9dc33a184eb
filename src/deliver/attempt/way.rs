//! By which transport a recipient's mail leaves, what of that is shared with others, and what is done here by itself.

use super::groups::hop_of;
use crate::channel::Transport;
use crate::config::Config;
use crate::config::value::{MailSource, MailboxFormat, MailboxSpec};
use crate::deliver::copy::Copy;
use crate::deliver::expand::Route;
use crate::deliver::helper::Helper;
use crate::deliver::settings::Settings;
use crate::deliver::{Outcome, crew, local, piped, report};
use crate::logging::field;
use crate::lookup::Lookup;
use crate::message::path::Address;
use crate::queue::Message;
use crate::submit::closed::Closed;
use crate::submit::verify::{self, Local};
use crate::users::User;

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
            log::warn!("id={} to=<{}>: {why}", message.id, field(address));
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
    key: Option<String>,
    /// How many may at once: a mailbox that is one file has one lock.
    pub(super) limit: u32,
    is_maildir: bool,
}

impl Shared {
    /// Nothing where nothing is put anywhere.
    pub(super) fn of(config: &Config, message: &Message, address: &Address, transport: &Transport) -> Option<Shared> {
        let (many, in_mailboxes) = (crew::limit(config), crew::mailbox_limit(config));
        match transport {
            Transport::Mailbox => {
                // A user of a passwd-file may have a mailbox of another format than all.
                let has_files = config.users.files().next().is_some();
                let owner = if has_files { owner(config, Route::of(message).as_ref(), address) } else { None };
                let format = owner.as_ref().map_or(config.mailbox.format, |user| user.mailbox_path(config).format);
                let is_maildir = format == MailboxFormat::Maildir;
                let key = has_files.then(|| key_of(owner.as_ref(), address));
                Some(Shared { key, limit: if is_maildir { in_mailboxes } else { 1 }, is_maildir })
            }
            Transport::Other(name, place) => {
                let is_maildir = match stored(name, place) {
                    Some(spec) => spec.format == MailboxFormat::Maildir,
                    None if name == "pipe" => false,
                    None => return None,
                };
                let limit = if is_maildir || name == "pipe" { many } else { 1 };
                Some(Shared { key: Some(format!("{name}\n{place}")), limit, is_maildir })
            }
            Transport::Smtp(_) | Transport::None => None,
        }
    }

    /// What names it among all.
    pub(super) fn key(&self, config: &Config, message: &Message, address: &Address) -> String {
        let owner = || owner(config, Route::of(message).as_ref(), address);
        self.key.clone().unwrap_or_else(|| key_of(owner().as_ref(), address))
    }

    /// Whether a repeat that knows of no earlier try finds what that has delivered: a Maildir has it under the same name, and
    /// after a power cut all of it is searched ([`super::Trial::begin`]). What an alias or a `~/.forward` made of a message
    /// may be meant for a program.
    pub(super) fn is_found_again(&self, message: &Message) -> bool {
        self.is_maildir && Route::of(message).is_none()
    }
}

/// A mailbox is named by its user, so that nobody keeps others waiting by having many addresses; what is nobody's by its
/// address.
fn key_of(owner: Option<&User>, address: &Address) -> String {
    match owner {
        Some(user) => format!("mailbox\n~{}", user.name),
        None => format!("mailbox\n{}", String::from_utf8_lossy(address.as_bytes()).to_ascii_lowercase()),
    }
}

/// With whose rights mail for an address of ours is delivered: into the mailbox, or by the `~/.forward`. Nobody's where an
/// alias has it.
fn owner(config: &Config, route: Option<&Route>, address: &Address) -> Option<User> {
    let local = String::from_utf8_lossy(address.local_part());
    let found = match (route, local.chars().next()) {
        (Some(route), Some('|' | '/')) if route.source() == MailSource::Forward => {
            verify::local_user(config, &route.user_address())
        }
        (Some(_), Some('|' | '/')) => return None,
        (Some(_), Some('\\' | '~')) => {
            verify::local_user(config, &Address::from_internal(address.as_bytes().get(1..)?).ok()?)
        }
        _ => match verify::local(config, address) {
            Lookup::Yes(Local::User(user, _)) => Lookup::Yes(user),
            _ => return None,
        },
    };
    if let Lookup::Yes(user) = found { Some(user) } else { None }
}

/// The mailbox that a channel names for all its mail.
fn stored(name: &str, place: &str) -> Option<MailboxSpec> {
    MailboxFormat::of(name).map(|format| MailboxSpec { format, path: place.to_owned() })
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
        Transport::Other(name, _) if name == "discard" => Outcome::Delivered(report::DISCARDED),
        Transport::Other(name, text) if name == "error" => refusal(text),
        _ => Outcome::Failed("5.1.2 no mail leaves by the channel of this domain".to_owned()),
    }
}

/// `error:` with a text of the administrator's, that may begin with a status code.
fn refusal(text: &str) -> Outcome {
    let closed = Closed::new(text);
    let ([class, subject, detail], words) = closed.parts();
    let words = if words.is_empty() { "mail for this domain is not taken" } else { words };
    let why = format!("{class}.{subject}.{detail} {words}");
    if closed.is_for_now() { Outcome::Deferred(why) } else { Outcome::Failed(why) }
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

    /// A user has as many addresses as he likes: with extensions, at each domain of ours, and what an alias or a
    /// `~/.forward` makes of them.
    #[test]
    fn all_that_is_delivered_with_the_rights_of_one_user_counts_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(
            path("passwd"),
            "bob:{PLAIN}x:1000:1000::/home/bob::\ncarol:{PLAIN}x:1001:1001::/home/carol::\n",
        )
        .unwrap();
        std::fs::write(path("aliases"), "team: bob, carol\n").unwrap();
        let config = Config::with(&[
            ("users", &format!("passwd-file:{}", path("passwd"))),
            ("alias_maps", &path("aliases")),
            ("recipient_delimiter", "+"),
        ]);
        let address = |text: &str| Address::from_internal(text.as_bytes()).unwrap();
        let key = |route: Option<&Route>, text: &str| {
            let address = address(text);
            key_of(owner(&config, route, &address).as_ref(), &address)
        };
        let by_alias = Route::alias("team", &address("team@mx.example"));
        let by_forward = Route::forward("bob", "x", &address("bob+x@mx.example"));
        let bob = key(None, "bob@mx.example");
        assert_eq!(bob, "mailbox\n~bob");
        for other in ["bob+1@mx.example", "BOB@mx.example", "bob+2@other.example"] {
            assert_eq!(key(None, other), bob, "{other}");
        }
        for marked in ["\\bob@mx.example", "~bob@other.example"] {
            assert_eq!((key(Some(&by_alias), marked), key(Some(&by_forward), marked)), (bob.clone(), bob.clone()));
        }
        for target in ["|/bin/x@mx.example", "/home/bob/box@mx.example"] {
            assert_eq!(key(Some(&by_forward), target), bob);
            assert_eq!(key(Some(&by_alias), target), format!("mailbox\n{target}"));
        }
        assert_ne!(key(None, "carol@mx.example"), bob);
        assert_eq!(key(None, "Team@mx.example"), "mailbox\nteam@mx.example");
        assert_eq!(key(None, "nobody@mx.example"), "mailbox\nnobody@mx.example");
    }

    #[test]
    fn one_user_never_has_all_places() {
        for (most, places, expected) in [("20", "50", 20), ("20", "10", 8), ("0", "50", 40), ("20", "1", 1)] {
            let limits = [("default_destination_concurrency_limit", most), ("default_process_limit", places)];
            assert_eq!(crew::mailbox_limit(&Config::with(&limits)), expected, "{most} {places}");
        }
    }

    #[test]
    fn an_error_channel_says_what_the_administrator_wrote() {
        assert_eq!(refusal("4.3.2 moving"), Outcome::Deferred("4.3.2 moving".to_owned()));
        assert_eq!(refusal("5.7.1 not here"), Outcome::Failed("5.7.1 not here".to_owned()));
        assert_eq!(refusal("moved away"), Outcome::Failed("5.3.2 moved away".to_owned()));
        assert_eq!(refusal(""), Outcome::Failed("5.3.2 mail for this domain is not taken".to_owned()));
    }
}
