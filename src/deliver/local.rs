//! Delivery on this machine: whose an address is, and who may write there.
//!
//! An alias and a `~/.forward` send the message on, as another message of ours (`expand.rs`); what ends here is done as
//! the user whose it is (`task.rs`). What is written is in `copy.rs`, and what may come of it in `appended.rs`.

use super::Outcome;
use super::appended::{Appended, TO_COMMAND, TO_FILE, TO_MAILDIR, no_such_user, to};
use super::copy::{Content, Copy, public_address};
use super::expand::{self, Route};
use super::forward::{self, Said};
use super::helper::Helper;
use super::report;
use super::settings::Settings;
use super::task::{self, Act, Task};
use crate::aliases::{self, Place, Target, Trouble};
use crate::config::value::{MailSource, MailboxFormat, MailboxSpec};
use crate::config::{Config, shown};
use crate::kept;
use crate::logging::{clean, field};
use crate::lookup::Lookup;
use crate::mailbox;
use crate::message::path::Address;
use crate::message::verp;
use crate::queue::Error;
use crate::submit::verify::{self, Local};
use crate::users::User;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

/// Delivers a copy whose recipient's domain is ours.
pub fn deliver(settings: &Settings, helper: Option<&mut Helper>, copy: &Copy<'_>) -> Outcome {
    Delivery { settings, helper, copy, said: String::new(), asks_others: true }.run()
}

struct Delivery<'a, 'b> {
    settings: &'a Settings,
    helper: Option<&'a mut Helper>,
    copy: &'a Copy<'b>,
    /// What a program said that failed.
    said: String,
    /// Whether other files of the user's can be read: one that cannot may have been waited for, and a thousand may be named.
    asks_others: bool,
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
                // Marked so where an alias leads back to itself, and no user has its name.
                Lookup::No if local.starts_with('~') => Outcome::Failed(format!("5.4.6 {}", expand::IN_A_CIRCLE)),
                Lookup::No => no_such_user(),
                Lookup::CannotTell(why) => self.cannot_tell(&why),
            };
        }
        if local == "/dev/null" {
            return Outcome::Delivered(report::DISCARDED);
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
                let domain = String::from_utf8_lossy(self.copy.address.domain().unwrap_or_default()).into_owned();
                let alias =
                    if route.name.contains('@') { route.name.clone() } else { format!("{}@{domain}", route.name) };
                let act = Act::AliasTarget(alias, local.to_owned());
                let user = match verify::privileged(config) {
                    Lookup::Yes(user) => user,
                    Lookup::No => return Appended::SystemAccount.outcome(),
                    Lookup::CannotTell(why) => return self.cannot_tell(&why),
                };
                // Not started as root there is only one user to be.
                let user = if self.helper.is_some() { user } else { User { owner: None, ..user } };
                self.named(route, &user, act)
            }
            MailSource::Forward => match verify::local_user(config, &route.user_address()) {
                Lookup::Yes(user) => {
                    self.named(route, &user, Act::ForwardTarget(route.extension.clone(), local.to_owned()))
                }
                Lookup::No => no_such_user(),
                Lookup::CannotTell(why) => self.cannot_tell(&why),
            },
        }
    }

    /// A target that a file must still name. Where it names others instead, and this was the only one, the recipient that it
    /// stood for is looked up anew, as if the message had just come; but somebody may be at work on the file, so that none is
    /// returned for what it does not say.
    fn named(&mut self, route: &Route, user: &User, act: Act) -> Outcome {
        let copy = self.copy;
        let place = match &act {
            Act::ForwardTarget(_, target) | Act::AliasTarget(_, target) if target.starts_with('|') => TO_COMMAND,
            Act::ForwardTarget(_, target) | Act::AliasTarget(_, target) if target.ends_with('/') => TO_MAILDIR,
            _ => TO_FILE,
        };
        match self.task(user, act) {
            // What was looked up anew once stands as it is: a name may begin with a mark.
            Appended::NotListed if Route::is_all_of(copy.message) && route.address != *copy.address => {
                log::info!("id={} event=expanded-anew name={}", copy.message.id, route.name);
                // An editor that moves the old file away writes the new one next.
                std::thread::sleep(kept::A_MOMENT);
                let copy = Copy { address: &route.address, ..*copy };
                let anew = deliver(self.settings, self.helper.as_deref_mut(), &copy);
                if matches!(anew, Outcome::Failed(_)) { Appended::NotListed.outcome() } else { anew }
            }
            appended => appended.outcome_with(place, &self.said),
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
        for file in &expansion.ignored {
            let (id, file) = (copy.message.id, clean(file.as_os_str().as_bytes(), 320));
            let reason = "a program or file in a file of :include:";
            log::warn!("id={id} event=alias-target-ignored alias={name} file={file} reason={reason:?}");
        }
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
        if is_of_postmaster || verify::is_of_postmaster(self.copy.address) {
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
            let appended = self.task(user, Act::Mailbox);
            return self.of_mailbox(user, appended);
        }
        match self.task(user, Act::MailboxOrForward(extension.to_owned())) {
            Appended::HasForward => {}
            appended => return self.of_mailbox(user, appended),
        }
        let text = match self.read_forward(user, extension) {
            Ok(text) => text,
            Err(appended) => return appended.outcome(),
        };
        let said = forward::targets(&user.name, &text);
        if said.targets.len() > forward::MOST {
            log::warn!("user={}: ~/.forward has more than {} targets", user.name, forward::MOST);
            return Appended::ForwardUnreadable.outcome();
        }
        let places = match self.places(user, extension, &text, said) {
            Ok(places) => places,
            Err(why) => return self.cannot_tell(&why),
        };
        if places.iter().all(|place| matches!(place, Place::Mailbox(name) if *name == user.name)) {
            let appended = self.task(user, Act::Mailbox);
            return self.of_mailbox(user, appended);
        }
        let route = Route::forward(&user.name, extension, self.copy.address);
        expand::send_on(&self.settings.config, self.copy, &route, &places, None)
    }

    fn of_mailbox(&self, user: &User, appended: Appended) -> Outcome {
        appended.outcome_with(to(user.mailbox_path(&self.settings.config).format), "")
    }

    /// Where the targets of a `~/.forward` lead, each once; an address of the user's own means the mailbox. So does whatever
    /// is passed over: its warning is nothing that the user can read, and the copy is better in one place too many.
    fn places(&mut self, user: &User, extension: &str, text: &[u8], said: Said) -> Result<Vec<Place>, String> {
        let own = self.copy.address;
        let domain = String::from_utf8_lossy(own.domain().unwrap_or_default()).into_owned();
        let mut places = Vec::new();
        let mailbox = || Place::Mailbox(user.name.clone());
        for target in said.targets {
            let place = match target {
                Target::Address(word) => {
                    let completed = |address: Address| address.completed(&domain);
                    // An alias that leads to the user has marked the name, and is behind us.
                    let own = own.as_bytes();
                    let own = own.strip_prefix(b"~").unwrap_or(own);
                    match Address::from_internal(word.as_bytes()).and_then(completed) {
                        Ok(address) if address.as_bytes().eq_ignore_ascii_case(own) => mailbox(),
                        Ok(_) if word.eq_ignore_ascii_case(&user.name) && !word.contains('@') => mailbox(),
                        Ok(address) if self.is_of(user, extension, text, &address)? => mailbox(),
                        Ok(address) => Place::Address(address),
                        Err(_) => {
                            log::warn!("user={}: {} in ~/.forward is no address", user.name, shown(&word));
                            mailbox()
                        }
                    }
                }
                Target::Mailbox(name) => Place::Mailbox(name),
                Target::Program(_) | Target::File(_) => Place::Own(target),
                Target::Include(_) => {
                    log::warn!("user={}: :include: is not followed in ~/.forward", user.name);
                    mailbox()
                }
            };
            if !places.contains(&place) {
                places.push(place);
            }
        }
        if said.is_in_part && !places.contains(&mailbox()) {
            places.push(mailbox());
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
                if is_same || !self.asks_others {
                    return Ok(is_same);
                }
                let other = self.read_forward(user, &behind);
                self.asks_others = other.is_ok();
                Ok(other.is_ok_and(|other| other == text))
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
            (false, Some(helper)) => helper.read(&self.settings.config, &task, forward::LARGEST),
            (false, None) => Err(Appended::NotOurs),
        }
    }

    fn task(&mut self, user: &User, act: Act) -> Appended {
        let (config, copy) = (&self.settings.config, self.copy);
        let task = self.new_task(user, act);
        let mut content = match copy.content() {
            Ok(content) => content,
            Err(error) => return unreadable(copy, &error),
        };
        match (self.is_ours(user), self.helper.as_deref_mut()) {
            (true, _) => task::perform(config, &task, user, &mut content, &mut self.said),
            (false, Some(helper)) => helper.perform(config, &task, content.size(), &mut content, &mut self.said),
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
            base: copy.base(&self.settings.config.myhostname),
            search: copy.search,
            accepted: copy.message.id.time(),
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
        let mut content = match Content::new(copy.message, &copy.message.reverse_path) {
            Ok(content) => content,
            Err(error) => return unreadable(copy, &error).outcome(),
        };
        let base = copy.base(&config.myhostname);
        log::warn!("id={} mailbox={}: nobody is postmaster here; an alias would help", copy.message.id, spec.path);
        match mailbox::deliver(config, &spec, &base, copy.search, &mut content) {
            Ok(()) => Outcome::Delivered(to(spec.format)),
            Err(error) => Appended::of("postmaster", &spec.path, &error).outcome(),
        }
    }

    /// The reason names the file, and the line; what is wrong there is for the log, for senders hear the reason in the end.
    fn cannot_tell(&self, why: &str) -> Outcome {
        log::warn!("id={} to=<{}>: {why}", self.copy.message.id, field(self.copy.address));
        match why.split(": ").next().filter(|place| place.starts_with('/')) {
            Some(place) => Outcome::Deferred(format!("4.3.0 cannot be read now, or is wrong: {place:.400}")),
            None => Appended::CannotTell.outcome(),
        }
    }
}

fn unreadable(copy: &Copy<'_>, error: &Error) -> Appended {
    log::error!("id={}: {error}", copy.message.id);
    Appended::Incomplete
}

/// Appends to a user's mailbox with the rights this process has.
pub fn append(config: &Config, user: &User, base: &str, search: bool, content: &mut dyn Read) -> Appended {
    let mailbox = user.mailbox_path(config);
    match mailbox::deliver(config, &mailbox, base, search, content) {
        Ok(()) => Appended::Done,
        Err(error) => Appended::of(&user.name, &mailbox.path, &error),
    }
}

/// Appends to a mailbox that is nobody's in particular: a channel names it (`maildir:`, `mbox:`, `mmdf:`).
pub fn store(config: &Config, mailbox: &MailboxSpec, copy: &Copy<'_>) -> Outcome {
    let base = copy.base(&config.myhostname);
    let mut content = match copy.content() {
        Ok(content) => content,
        Err(error) => return unreadable(copy, &error).outcome(),
    };
    match mailbox::deliver(config, mailbox, &base, copy.search, &mut content) {
        Ok(()) => Outcome::Delivered(to(mailbox.format)),
        Err(error) => Appended::of("-", &mailbox.path, &error).outcome(),
    }
}
