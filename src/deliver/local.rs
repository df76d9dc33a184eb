//! Delivery on this machine: whose an address is, what is written, and who may write it.
//!
//! An alias and a `~/.forward` send the message on, as another message of ours (`expand.rs`); what ends here is done as
//! the user whose it is (`task.rs`).

use super::Outcome;
use super::expand::{self, Route};
use super::forward;
use super::helper::Helper;
use super::settings::Settings;
use super::task::{self, Act, Task};
use crate::aliases::{self, Place, Target, Trouble};
use crate::config::Config;
use crate::config::value::{MailSource, MailboxFormat, MailboxSpec};
use crate::logging::clean;
use crate::lookup::Lookup;
use crate::mailbox;
use crate::message::path::{Address, ReversePath};
use crate::message::verp;
use crate::queue::Message;
use crate::submit::verify::{self, Local};
use crate::users::User;
use std::io::{self, Read};
use std::time::SystemTime;

/// What came of a task. It must fit an exit status: the child that becomes the user has no
/// other way to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// It is there, on disk.
    Done,
    /// The device is full.
    NoRoom,
    /// The user has no room left.
    OverQuota,
    /// The mailbox cannot be opened or written.
    Unusable,
    /// The content did not come whole.
    Incomplete,
    /// Another program has it locked.
    Locked,
    /// Nobody may become this user.
    SystemAccount,
    /// Only root could write it, and we are not started as root.
    NotOurs,
    /// The user could not be looked up.
    CannotTell,
    /// The user is gone since.
    NoUser,
    /// The helper or its child broke down.
    Broken,
    /// There is a `~/.forward` to be read first.
    HasForward,
    /// The `~/.forward` cannot be read now.
    ForwardUnreadable,
    /// The alias file or `~/.forward` names this target no more.
    NotListed,
    /// The program cannot be run.
    ProgramTrouble,
    /// The program said that it may be better later, or was killed.
    ProgramTemporary,
    /// The program refused the message.
    ProgramFailed,
}

impl Appended {
    const ALL: [Appended; 17] = [
        Appended::Done,
        Appended::NoRoom,
        Appended::OverQuota,
        Appended::Unusable,
        Appended::Incomplete,
        Appended::Locked,
        Appended::SystemAccount,
        Appended::NotOurs,
        Appended::CannotTell,
        Appended::NoUser,
        Appended::Broken,
        Appended::HasForward,
        Appended::ForwardUnreadable,
        Appended::NotListed,
        Appended::ProgramTrouble,
        Appended::ProgramTemporary,
        Appended::ProgramFailed,
    ];

    /// As an exit status.
    pub fn code(self) -> u8 {
        Self::ALL.iter().position(|known| *known == self).and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
    }

    /// From an exit status; whatever we never give is a breakdown.
    pub fn from_code(code: u8) -> Appended {
        Self::ALL.get(usize::from(code)).copied().unwrap_or(Appended::Broken)
    }

    fn outcome(self) -> Outcome {
        match self {
            Appended::Done => Outcome::Delivered,
            Appended::NoRoom => Outcome::Deferred("4.3.1 no room on the disk of the mailbox".to_owned()),
            Appended::OverQuota => Outcome::Deferred("4.2.2 the mailbox is full".to_owned()),
            Appended::Unusable => Outcome::Deferred("4.2.0 the mailbox cannot be written now".to_owned()),
            Appended::Incomplete => Outcome::Deferred("4.3.0 the message could not be read".to_owned()),
            Appended::Locked => Outcome::Deferred("4.2.0 another program has the mailbox locked".to_owned()),
            Appended::SystemAccount => Outcome::Deferred("4.2.1 a system account has no mailbox".to_owned()),
            Appended::NotOurs => {
                Outcome::Deferred("4.3.5 the mailbox is another user's, and deliver was not started as root".to_owned())
            }
            Appended::CannotTell => Outcome::Deferred("4.3.0 users cannot be looked up now".to_owned()),
            Appended::NoUser => no_such_user(),
            Appended::Broken => Outcome::Deferred("4.3.0 local delivery broke down".to_owned()),
            Appended::HasForward | Appended::ForwardUnreadable => {
                Outcome::Deferred("4.2.0 the user's forward file cannot be read now".to_owned())
            }
            Appended::NotListed => Outcome::Failed("5.1.1 the address stands for something else now".to_owned()),
            Appended::ProgramTrouble => {
                Outcome::Deferred("4.3.5 the program for this address cannot be run".to_owned())
            }
            Appended::ProgramTemporary => {
                Outcome::Deferred("4.3.0 the program for this address did not end well".to_owned())
            }
            Appended::ProgramFailed => {
                Outcome::Failed("5.3.0 the program for this address refused the message".to_owned())
            }
        }
    }
}

fn no_such_user() -> Outcome {
    Outcome::Failed("5.1.1 no such user here".to_owned())
}

/// A message for one of its recipients.
pub struct Copy<'a> {
    /// The message.
    pub message: &'a Message,
    /// The recipient's number.
    pub number: usize,
    /// The recipient's address, with its domain.
    pub address: &'a Address,
    /// An earlier try may have come to its end.
    pub search: bool,
}

/// Delivers a copy whose recipient's domain is ours.
pub fn deliver(settings: &Settings, helper: Option<&mut Helper>, copy: &Copy<'_>) -> Outcome {
    Delivery { settings, helper, copy }.run()
}

/// The address of a recipient as others may see it: what an alias or a `~/.forward` made of it is nobody's affair.
pub fn public_address(message: &Message, address: &Address) -> Address {
    let Some(route) = Route::of(message) else { return address.clone() };
    let local = address.local_part();
    match local.split_first() {
        Some((b'\\' | b'~', user)) => {
            let domain = address.domain().unwrap_or_default();
            Address::from_internal(&[user, b"@", domain].concat()).unwrap_or(route.address)
        }
        Some((b'|' | b'/', _)) => route.address,
        _ => address.clone(),
    }
}

struct Delivery<'a, 'b> {
    settings: &'a Settings,
    helper: Option<&'a mut Helper>,
    copy: &'a Copy<'b>,
}

impl Delivery<'_, '_> {
    fn run(&mut self) -> Outcome {
        let (config, address) = (&self.settings.config, self.copy.address);
        let route = Route::of(self.copy.message);
        let local = String::from_utf8_lossy(address.local_part()).into_owned();
        if let Some(route) = &route
            && local.starts_with(['\\', '~', '|', '/'])
        {
            return self.marked(route, &local);
        }
        match verify::local(config, address) {
            Lookup::Yes(Local::Alias(name, targets)) => self.alias(&name, targets),
            Lookup::Yes(Local::User(user, extension)) => self.user(&user, &extension.unwrap_or_default(), true),
            Lookup::Yes(Local::Postmaster) => self.keep(),
            // Nobody may lose what is for postmaster because root has no alias.
            Lookup::No if route.is_some_and(|route| route.is_postmaster()) => self.keep(),
            Lookup::No => no_such_user(),
            Lookup::CannotTell(why) => self.cannot_tell(&why),
        }
    }

    /// What an expansion has marked: `\\user`, `~user`, `|command`, `/file`.
    fn marked(&mut self, route: &Route, local: &str) -> Outcome {
        let config = &self.settings.config;
        if let Some(name) = local.strip_prefix(['\\', '~']) {
            let domain = String::from_utf8_lossy(self.copy.address.domain().unwrap_or_default()).into_owned();
            let Ok(address) = Address::from_internal(format!("{name}@{domain}").as_bytes()) else {
                return no_such_user();
            };
            return match verify::local_user(config, &address) {
                Lookup::Yes(user) => self.user(&user, "", local.starts_with('~')),
                Lookup::No if route.is_postmaster() => self.keep(),
                Lookup::No => no_such_user(),
                Lookup::CannotTell(why) => self.cannot_tell(&why),
            };
        }
        if local == "/dev/null" {
            return Outcome::Delivered;
        }
        let (source, parameter, allowed) = match local.starts_with('|') {
            true => (route.source(), "allow_mail_to_commands", &config.allow_mail_to_commands),
            false => (route.source(), "allow_mail_to_files", &config.allow_mail_to_files),
        };
        if !allowed.0.contains(&source) {
            let (id, name) = (self.copy.message.id, &route.name);
            log::warn!("id={id} name={name}: main.cf does not allow this target ({parameter})");
            return Outcome::Deferred("4.7.0 this kind of target is not allowed here".to_owned());
        }
        match source {
            MailSource::Alias => {
                let act = Act::AliasTarget(route.name.clone(), local.to_owned());
                let user = match verify::privileged(config) {
                    Lookup::Yes(user) => user,
                    Lookup::No => return Appended::SystemAccount.outcome(),
                    Lookup::CannotTell(why) => return self.cannot_tell(&why),
                };
                // Not started as root there is only one user to be.
                let user = if self.helper.is_some() { user } else { User { owner: None, ..user } };
                self.task(&user, act).outcome()
            }
            MailSource::Forward => match verify::local_user(config, &route.user_address()) {
                Lookup::Yes(user) => {
                    self.task(&user, Act::ForwardTarget(route.extension.clone(), local.to_owned())).outcome()
                }
                Lookup::No => no_such_user(),
                Lookup::CannotTell(why) => self.cannot_tell(&why),
            },
        }
    }

    fn alias(&mut self, name: &str, targets: Vec<Target>) -> Outcome {
        let (settings, copy) = (self.settings, self.copy);
        let domain = String::from_utf8_lossy(copy.address.domain().unwrap_or_default()).into_owned();
        let expansion = match aliases::expand(&settings.config, name, targets, &domain, &|domain| self.is_here(domain))
        {
            Ok(expansion) => expansion,
            Err(Trouble::Later(why)) => return self.cannot_tell(&why),
            Err(Trouble::Wrong(why)) => {
                log::error!("id={} alias={name}: {why}", copy.message.id);
                return Outcome::Deferred("4.3.5 the alias of this address is wrong".to_owned());
            }
        };
        if expansion.targets.is_empty() {
            return self.nobody(name);
        }
        let owner =
            expansion.owner.and_then(|owner| Address::from_internal(format!("{owner}@{domain}").as_bytes()).ok());
        let route = Route::alias(name, copy.address);
        expand::send_on(&settings.config, copy, &route, &expansion.targets, owner)
    }

    /// An alias of empty files: nobody would have the message, so whoever sent it must hear of that.
    fn nobody(&self, name: &str) -> Outcome {
        let is_of_postmaster = Route::of(self.copy.message).is_some_and(|route| route.is_postmaster());
        if is_of_postmaster || self.copy.address.local_part().eq_ignore_ascii_case(b"postmaster") {
            return self.keep();
        }
        log::warn!("id={} alias={name}: it leads to nobody", self.copy.message.id);
        Outcome::Failed("5.2.4 the list of this address has no members".to_owned())
    }

    /// Whether mail for a domain ends in mailboxes here.
    fn is_here(&self, domain: &[u8]) -> bool {
        match self.settings.channels.outgoing(domain) {
            Lookup::Yes(channel) => channel.transport == crate::channel::Transport::Mailbox,
            Lookup::No | Lookup::CannotTell(_) => false,
        }
    }

    /// A user's mailbox, or what the user's `~/.forward` says.
    fn user(&mut self, user: &User, extension: &str, may_forward: bool) -> Outcome {
        if !may_forward {
            return self.task(user, Act::Mailbox).outcome();
        }
        match self.task(user, Act::MailboxOrForward(extension.to_owned())) {
            Appended::HasForward => {}
            appended => return appended.outcome(),
        }
        let text = match self.read_forward(user, extension) {
            Ok(text) => text,
            Err(appended) => return appended.outcome(),
        };
        let targets = forward::targets(&user.name, &text);
        if targets.len() > forward::MOST {
            log::warn!("user={}: ~/.forward has more than {} targets", user.name, forward::MOST);
            return Appended::ForwardUnreadable.outcome();
        }
        let places = match self.places(user, extension, &text, targets) {
            Ok(places) => places,
            Err(why) => return self.cannot_tell(&why),
        };
        if places.iter().all(|place| matches!(place, Place::Mailbox(name) if *name == user.name)) {
            return self.task(user, Act::Mailbox).outcome();
        }
        let route = Route::forward(&user.name, extension, self.copy.address);
        expand::send_on(&self.settings.config, self.copy, &route, &places, None)
    }

    /// Where the targets of a `~/.forward` lead, each once; an address of the user's own means the mailbox.
    fn places(
        &mut self,
        user: &User,
        extension: &str,
        text: &[u8],
        targets: Vec<Target>,
    ) -> Result<Vec<Place>, String> {
        let own = self.copy.address;
        let domain = String::from_utf8_lossy(own.domain().unwrap_or_default()).into_owned();
        let mut places = Vec::new();
        for target in targets {
            let place = match target {
                Target::Address(word) => {
                    let Ok(address) = Address::from_internal(word.as_bytes()) else { continue };
                    let address = address.or_at(&domain);
                    // An alias that leads to the user has marked the name, and is behind us.
                    let own = own.as_bytes();
                    let is_own = address.as_bytes().eq_ignore_ascii_case(own.strip_prefix(b"~").unwrap_or(own))
                        || (word.eq_ignore_ascii_case(&user.name) && !word.contains('@'))
                        || self.is_of(user, extension, text, &address)?;
                    if is_own { Place::Mailbox(user.name.clone()) } else { Place::Address(address) }
                }
                Target::Mailbox(name) => Place::Mailbox(name),
                Target::Program(_) | Target::File(_) => Place::Own(target),
                Target::Include(_) => {
                    log::warn!("user={}: :include: is not followed in ~/.forward", user.name);
                    continue;
                }
            };
            if !places.contains(&place) {
                places.push(place);
            }
        }
        Ok(places)
    }

    /// Whether an address leads to this user's same `~/.forward` again, at another domain of ours or with another extension:
    /// the other targets would get the message a second time by that.
    fn is_of(&mut self, user: &User, extension: &str, text: &[u8], address: &Address) -> Result<bool, String> {
        if !self.is_here(address.domain().unwrap_or_default()) {
            return Ok(false);
        }
        match verify::local(&self.settings.config, address) {
            Lookup::Yes(Local::User(found, behind)) if found.name == user.name => {
                let behind = behind.unwrap_or_default();
                let is_same = behind.eq_ignore_ascii_case(extension);
                Ok(is_same || self.read_forward(user, &behind).is_ok_and(|other| other == text))
            }
            Lookup::Yes(_) | Lookup::No => Ok(false),
            Lookup::CannotTell(why) => Err(why),
        }
    }

    fn read_forward(&mut self, user: &User, extension: &str) -> Result<Vec<u8>, Appended> {
        let task = self.new_task(user, Act::ReadForward(extension.to_owned()));
        match (self.is_ours(user), self.helper.as_deref_mut()) {
            (true, _) => forward::read(user, extension).map_err(|error| {
                log::warn!("user={}: reading ~/.forward: {error}", user.name);
                Appended::ForwardUnreadable
            }),
            (false, Some(helper)) => helper.read(&task, forward::LARGEST),
            (false, None) => Err(Appended::NotOurs),
        }
    }

    fn task(&mut self, user: &User, act: Act) -> Appended {
        let (config, copy) = (&self.settings.config, self.copy);
        let task = self.new_task(user, act);
        let mut content = Content::new(copy.message, &verp::expand(&copy.message.reverse_path, copy.address));
        match (self.is_ours(user), self.helper.as_deref_mut()) {
            (true, _) => task::perform(config, &task, user, &mut content),
            (false, Some(helper)) => helper.perform(&task, content.size(), &mut content),
            (false, None) => Appended::NotOurs,
        }
    }

    /// Whether this process may do it by itself.
    fn is_ours(&self, user: &User) -> bool {
        user.owner.is_none_or(|(uid, _)| uid == nix::unistd::geteuid().as_raw())
    }

    fn new_task(&self, user: &User, act: Act) -> Task {
        let copy = self.copy;
        let sender = verp::expand(&copy.message.reverse_path, copy.address).to_string();
        let recipient = public_address(copy.message, copy.address).to_string();
        Task {
            act,
            user: user.name.clone(),
            base: base(copy.message, copy.number, &self.settings.config.myhostname),
            search: copy.search,
            sender: clean(sender.as_bytes(), 1000),
            recipient: clean(recipient.as_bytes(), 1000),
        }
    }

    /// Mail for postmaster where nobody is postmaster: it must not be lost (RFC 5321 section 4.5.1), so a Maildir in the
    /// queue keeps it.
    fn keep(&self) -> Outcome {
        let config = &self.settings.config;
        let path = config.queue_directory.join("postmaster").to_string_lossy().into_owned();
        let spec = MailboxSpec { format: MailboxFormat::Maildir, path };
        let copy = self.copy;
        let mut content = Content::new(copy.message, &copy.message.reverse_path);
        let base = base(copy.message, copy.number, &config.myhostname);
        log::warn!("id={} mailbox={}: nobody is postmaster here; an alias would help", copy.message.id, spec.path);
        match mailbox::deliver(config, &spec, &base, copy.search, &mut content) {
            Ok(()) => Outcome::Delivered,
            Err(error) => appended("postmaster", &spec.path, &error).outcome(),
        }
    }

    fn cannot_tell(&self, why: &str) -> Outcome {
        log::warn!("id={} to=<{}>: {why}", self.copy.message.id, self.copy.address);
        Appended::CannotTell.outcome()
    }
}

/// Appends to a user's mailbox with the rights this process has.
pub fn append(config: &Config, user: &User, base: &str, search: bool, content: &mut dyn Read) -> Appended {
    let mailbox = user.mailbox_path(config);
    match mailbox::deliver(config, &mailbox, base, search, content) {
        Ok(()) => Appended::Done,
        Err(error) => appended(&user.name, &mailbox.path, &error),
    }
}

/// Appends to a mailbox that is nobody's in particular: a channel names it (`maildir:`, `mbox:`, `mmdf:`).
pub fn store(config: &Config, mailbox: &MailboxSpec, copy: &Copy<'_>) -> Outcome {
    let base = base(copy.message, copy.number, &config.myhostname);
    let mut content = Content::new(copy.message, &verp::expand(&copy.message.reverse_path, copy.address));
    match mailbox::deliver(config, mailbox, &base, copy.search, &mut content) {
        Ok(()) => Outcome::Delivered,
        Err(error) => appended("-", &mailbox.path, &error).outcome(),
    }
}

/// What an error of a mailbox is.
pub fn appended(user: &str, path: &str, error: &io::Error) -> Appended {
    log::warn!("user={user} mailbox={path}: {error}");
    match error.kind() {
        io::ErrorKind::StorageFull => Appended::NoRoom,
        io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Appended::OverQuota,
        io::ErrorKind::UnexpectedEof => Appended::Incomplete,
        io::ErrorKind::WouldBlock => Appended::Locked,
        _ => Appended::Unusable,
    }
}

/// The unique part of the message's file name: from the queue id and the recipient's number alone, so that a repeat
/// has the same, also where a power cut brought back what the message was made of. Short, because it is a unique-id of POP3 with the sizes behind it: 70 octets in all.
fn base(message: &Message, number: usize, host: &str) -> String {
    let seconds = message.id.time().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let host = host.split('.').next().unwrap_or_default();
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(12).collect();
    let host = if host.is_empty() { "localhost" } else { &host };
    format!("{seconds}.Q{}R{number}.{host}", message.id)
}

/// What is written: the Return-Path field, then trace field and content as they are queued.
///
/// Return-Path fields that came with the message are left alone: ours is the first line, and what was sent arrives
/// octet by octet (RFC 5321 section 4.4 lets us remove them, and asks for it of nobody but gateways).
struct Content<'a> {
    message: &'a Message,
    field: Vec<u8>,
    offset: u64,
}

impl<'a> Content<'a> {
    fn new(message: &'a Message, reverse_path: &ReversePath) -> Self {
        Content { message, field: format!("Return-Path: {reverse_path}\n").into_bytes(), offset: 0 }
    }

    fn size(&self) -> u64 {
        (self.field.len() as u64).saturating_add(self.message.size)
    }
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let in_field = self.field.len() as u64;
        let count = match self.offset.checked_sub(in_field) {
            None => {
                let start = usize::try_from(self.offset).unwrap_or(usize::MAX);
                self.field.get(start..).unwrap_or_default().read(buffer)?
            }
            Some(offset) => self.message.read_at(buffer, offset).map_err(|_| io::ErrorKind::UnexpectedEof)?,
        };
        if count == 0 && !buffer.is_empty() && self.offset < self.size() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.offset = self.offset.saturating_add(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_result_survives_the_exit_status() {
        for result in Appended::ALL {
            assert_eq!(Appended::from_code(result.code()), result);
        }
        assert_eq!(Appended::Done.code(), 0);
        assert_eq!(Appended::from_code(200), Appended::Broken);
    }

    #[test]
    fn every_reason_fits_the_queue_file_and_begins_with_its_status() {
        for result in Appended::ALL {
            match result.outcome() {
                Outcome::Delivered => assert_eq!(result, Appended::Done),
                Outcome::Deferred(why) => assert!(why.starts_with("4.") && why.len() <= 120, "{why}"),
                Outcome::Failed(why) => assert!(why.starts_with("5.") && why.len() <= 120, "{why}"),
                other => panic!("{result:?}: {other:?}"),
            }
        }
    }
}
